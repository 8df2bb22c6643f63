"""`tests/fuzz/run.py`, which `make fuzz` runs, with scripts in the fuzzers' place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "fuzz/run.py"

FUZZER = """#!/bin/sh
for option in "$@"; do case $option in -artifact_prefix=*) prefix=${option#*=};; esac; done
echo "#300	NEW    cov: 17 ft: 20 corp: 2/9b"
echo "stat::number_of_executed_units: 1234567" >&2
"""
CRASH = FUZZER + 'printf bad >"${prefix}crash-1"; exit 77\n'


def run(build: Path, fuzzers: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    (build / "bin").mkdir(parents=True)
    for reader, text in fuzzers.items():
        path = build / "bin" / f"fuzz_{reader}"
        path.write_text(text)
        path.chmod(0o755)
    words = [sys.executable, RUN, "--build", build, "--seconds", "1", *options]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_what_each_fuzzer_saw_is_in_a_table(tmp_path: Path) -> None:
    result = run(tmp_path, {"gguf": FUZZER, "npy": FUZZER})
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows == [
        ["reader", "inputs", "edges", "findings"],
        ["gguf", "1,234,567", "17", "0"],
        ["npy", "1,234,567", "17", "0"],
    ]


def test_a_finding_fails_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    result = run(tmp_path, {"gguf": CRASH, "npy": FUZZER})
    assert result.returncode == 1
    kept = tmp_path / "findings/gguf-crash-1"
    assert kept.read_text() == "bad"
    assert f"{tmp_path / 'bin/fuzz_gguf'} {kept}" in result.stdout
    assert "npy: see" not in result.stdout


def test_a_fuzzer_that_ends_by_itself_without_an_input_fails_too(tmp_path: Path) -> None:
    result = run(tmp_path, {"gguf": "#!/bin/sh\nexit 1\n"})
    assert result.returncode == 1
    assert "gguf.log" in result.stdout


@pytest.mark.parametrize("reader", ["onnx", "no-such"])
def test_a_reader_without_a_fuzzer_is_refused(tmp_path: Path, reader: str) -> None:
    result = run(tmp_path, {"gguf": FUZZER}, reader)
    assert result.returncode == 2
    assert reader in result.stderr
    assert "gguf" in result.stderr
