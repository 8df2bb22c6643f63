"""The wheel of `make package`, by itself in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from command import COMMAND, tiny_llada

ROOT = Path(__file__).parents[2]
# What every Linux that runs Python has; `ldd` gives the rest of a program's libraries as well.
SYSTEM_LIBRARIES = {
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "linux-vdso.so.1",
}


@pytest.fixture(scope="session")
def wheel() -> Path:
    wheels = list((ROOT / "build/wheels").glob("diffulex_edge-*.whl"))
    assert len(wheels) == 1, "run `make package`"
    return wheels[0]


def _run(*command: str | Path) -> str:
    # Not what this process was told to import or where its own environment is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _pip(programs: Path, *arguments: str | Path) -> None:
    _run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python", *arguments)


def _environment(wheel: Path, folder: Path) -> Path:
    """The programs' folder of an environment that has the wheel and nothing else."""
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    _pip(programs, "install", "-q", "--no-index", wheel)
    return programs


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _environment(wheel, tmp_path_factory.mktemp("fresh"))


def _module(programs: Path) -> Path:
    return Path(_run(programs / "python", "-I", "-c", "import diffulex_edge._core as c; print(c.__file__)").strip())


def test_package_says_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"diffulex_edge/py.typed", "diffulex_edge/_core.pyi"} <= set(names)


def test_licences_of_what_is_linked_are_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {Path(name).name: archive.read(name) for name in archive.namelist() if "licenses/third_party/" in name}
    for name in ("libedit-dev.txt", "libpcre2-dev.txt", "libssl-dev.txt", "libutf8proc-dev.txt", "nanobind.txt"):
        assert b"Copyright" in found[name]


def test_import_takes_no_other_package(fresh: Path) -> None:
    script = "import sys, diffulex_edge; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    # numpy, PyTorch and the vendors' packages are not even in this environment: the import would have failed.
    assert set(_run(fresh / "python", "-I", "-c", script).split()) == {"__main__", "diffulex_edge"}


def test_no_library_but_the_systems(fresh: Path) -> None:
    for binary in (_module(fresh), fresh / "diffulex-edge"):
        libraries = {line.split()[0] for line in _run("ldd", binary).splitlines()}
        assert {name for name in libraries if "ld-linux" not in name} <= SYSTEM_LIBRARIES


def test_module_shows_its_entry_alone(fresh: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is missing")
    symbols = _run("nm", "-D", "--defined-only", _module(fresh)).split("\n")
    assert [line.split()[-1] for line in symbols if line] == ["PyInit__core"]


def test_wheel_is_manylinux(wheel: Path) -> None:
    shown = json.loads(_run(sys.executable, "-m", "auditwheel", "show", "--json", wheel))
    assert shown["overall_tag"].startswith("manylinux_2_")


def test_command_has_the_kernels_of_the_build(fresh: Path) -> None:
    # The wheel finds the processor's instruction sets without Highway's library.
    assert _run(fresh / "diffulex-edge", "--version") == _run(COMMAND, "--version")
    assert _run(fresh / "diffulex-edge", "matrix", "--json") == _run(COMMAND, "matrix", "--json")


def test_command_exports_the_same_bytes(fresh: Path, tmp_path: Path) -> None:
    for program in (fresh / "diffulex-edge", COMMAND):
        target = tmp_path / f"{program.parent.parent.name}.pte"
        _run(program, "export", tiny_llada(), "-o", target, "--dtype", "int4", "--method", "mse", "--quiet")
    first, second = (path.read_bytes() for path in tmp_path.glob("*.pte"))
    assert first == second


def test_readmes_example_runs_without_pytorch(fresh: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert float(_run(fresh / "python", "-I", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{block}")) > 3.3
    assert (tmp_path / "tiny.pte").stat().st_size > 3_000_000


def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    programs = _environment(wheel, tmp_path)
    _pip(programs, "uninstall", "-q", "-y", "diffulex-edge")
    assert not list(tmp_path.rglob("*diffulex*"))
