"""Tests that interrupt a program work where the tests themselves ignore signals: below nohup, in a background shell."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
# With signals ignored, starts a program that waits, and prints how it ended after the signal.
SESSION = """
import runpy, signal, subprocess, sys
number = signal.Signals(int(sys.argv[2]))
signal.signal(number, signal.SIG_IGN)
runpy.run_path(sys.argv[1])
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(b"x")
child.stdin.flush()
child.stdout.read(1)  # it runs
child.send_signal(number)
child.stdin.close()  # a child that ignores the signal ends here
print(child.wait())
signal.raise_signal(number)
print("still ignored here")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_child_hears_a_signal_that_the_session_ignores(number: signal.Signals) -> None:
    words = [sys.executable, "-c", SESSION, str(CONFTEST), str(int(number))]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == [str(-number), "still ignored here"]
