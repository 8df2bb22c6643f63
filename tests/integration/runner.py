"""The C++ runner of bundles, compiled against the executorch package's headers and libraries (`make runner`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from command import PATIENCE, run_json

_REPOSITORY: Final = Path(__file__).resolve().parents[2]

RUNNER: Final = Path(os.environ.get("DIFFULEX_EDGE_RUNNER") or _REPOSITORY / "build/runner/diffulex-edge-run").resolve()


def bundle(model: Path, target: Path, *options: object) -> dict[str, Any]:
    """Export `model` to a bundle; the JSON report."""
    return run_json("export", model, "--bundle", target, *options)


def run_bundle(*words: object, **popen: Any) -> subprocess.CompletedProcess[str]:
    """diffulex-edge-run, whatever its exit code."""
    line = [str(RUNNER), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **({"timeout": PATIENCE} | popen))


def written(*words: object) -> dict[str, Any]:
    """What it writes, as an object."""
    result = run_bundle(*words, "--json")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def assert_refuses(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One sentence, and nothing on stdout."""
    assert result.returncode == code, f"exit code {result.returncode}, not {code}: {result.stderr}"
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("diffulex-edge-run: error: "), line
    for word in words:
        assert word in line, f"'{word}' is not in: {line}"
