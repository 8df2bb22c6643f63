"""`scripts/check_rooms.py` finds an include against the order of the rooms, in src/ and in the Python bindings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/check_rooms.py"


def check(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the script on a repository of these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "scripts").mkdir()
    copy = shutil.copy(SCRIPT, folder / "scripts")
    return subprocess.run([sys.executable, str(copy)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("src/core/dtype.cc", "models/rope.h"),
        ("src/backends/backend.cc", "runtime/executor.h"),
        ("src/cli/main.cc", "bindings/run.h"),
        ("python/bindings/export.cc", "cli/options.h"),
    ],
)
def test_an_include_against_the_order_is_found(tmp_path: Path, file: str, include: str) -> None:
    result = check(tmp_path, {file: f'#include "{include}"\n'})
    assert result.returncode == 1
    assert file in result.stdout and include in result.stdout


def test_the_order_holds(tmp_path: Path) -> None:
    files = {"src/models/rope.cc": '#include "core/dtype.h"\n', "python/bindings/run.cc": '#include "models/rope.h"\n'}
    result = check(tmp_path, files)
    assert result.returncode == 0, result.stdout


def test_a_type_that_the_bindings_define_again_is_found(tmp_path: Path) -> None:
    text = "namespace diffulex_edge {\nstruct Entry {\n};\n}\n"
    result = check(tmp_path, {"src/core/entry.h": text, "python/bindings/entry.h": text})
    assert result.returncode == 1
    assert "diffulex_edge::Entry is defined in" in result.stdout
