"""Runs the diffulex-edge command.

`DIFFULEX_EDGE` names the command to test; without it, the release build of this checkout. `DIFFULEX_EDGE_ASAN`, if set,
names a build with AddressSanitizer and UBSan, which has to withstand broken input as well.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

_REPOSITORY: Final = Path(__file__).resolve().parents[2]

COMMAND: Final = Path(os.environ.get("DIFFULEX_EDGE") or _REPOSITORY / "build/release/bin/diffulex-edge").resolve()
_ASAN: Final = os.environ.get("DIFFULEX_EDGE_ASAN")
SANITIZED_COMMAND: Final = Path(_ASAN).resolve() if _ASAN else None

SANITIZER_OPTIONS: Final = {
    "ASAN_OPTIONS": "exitcode=99:hard_rss_limit_mb=2048:allocator_may_return_null=0:detect_leaks=1:allow_addr2line=1",
    "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99:print_stacktrace=1",
}
"""The environment of SANITIZED_COMMAND: whatever it finds ends it with exit code 99."""

PATIENCE: Final = 900
"""Seconds after which a test that waits has hung. Beside other work everything takes longer: no test asserts less."""

_CPU_SECONDS: Final = 5
_ADDRESS_SPACE: Final = 2 << 30

USAGE_ERROR, BAD_FILE, UNSUPPORTED, OUTPUT_ERROR = 2, 3, 4, 5
"""The documented exit codes; 0 is done, 1 anything else."""


def tiny_llada() -> Path:
    """The folder of the bundled model: a trained checkpoint with evaluation data."""
    return _REPOSITORY / "examples/tiny-llada"


def tiny_llada_text() -> Path:
    """The bundled masked-diffusion model that writes."""
    return _REPOSITORY / "examples/tiny-llada-text"


def tiny_sdar() -> Path:
    """The folder of the other one, which is block-causal."""
    return _REPOSITORY / "examples/tiny-sdar"


def run(*arguments: object, command: Path = COMMAND, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, whatever its exit code; `popen` goes to subprocess.run."""
    words = [str(command), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, **({"timeout": PATIENCE} | popen))


def run_bounded(command: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run with at most 2 GB of memory and 5 s of processor time; a sanitizer's report is exit code 99."""
    if command != COMMAND:
        # AddressSanitizer reserves terabytes of addresses; it limits itself, and is slow.
        environment = os.environ | SANITIZER_OPTIONS
        return _run_limited(f"ulimit -t {6 * _CPU_SECONDS}", command, *arguments, env=environment)
    return _run_limited(f"ulimit -t {_CPU_SECONDS} && ulimit -v {_ADDRESS_SPACE // 1024}", command, *arguments)


def _run_limited(limit: str, *words: object, **popen: Any) -> subprocess.CompletedProcess[str]:
    return run("-c", f'{limit} && exec "$@"', "sh", *words, command=Path("/bin/sh"), errors="replace", **popen)


def run_json(*arguments: object) -> dict[str, Any]:
    """Run the command with --json, expect success, and return the object that it printed."""
    result = run(*arguments, "--json")
    assert result.returncode == 0, f"diffulex-edge {' '.join(map(str, arguments))}: {result.stderr}"
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def export(model: Path, target: Path, *options: object) -> dict[str, Any]:
    """Export `model` to the file `target`; the JSON report."""
    return run_json("export", model, "-o", target, *options)


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The command ended with exit code `code` and one line on stderr, which contains every one of `words`."""
    assert result.returncode == code, f"exit code {result.returncode}, not {code}: {result.stderr}"
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("diffulex-edge: error: "), result.stderr
    assert len(lines[0]) > len("diffulex-edge: error: "), result.stderr
    for word in words:
        assert word in lines[0], f"'{word}' is not in: {lines[0]}"
