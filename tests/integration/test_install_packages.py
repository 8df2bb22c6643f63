"""`pip install .` installs system packages only for a user who asked for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cmake/SystemPackages.cmake"

pytestmark = pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="a system without apt")


class Machine:
    """Programs before all others in PATH: nothing is installed, and who would install something is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self.program("dpkg-query", "exit 1")
        self.program("apt-get", f'echo "apt-get $*" >>{self.log}')
        self.program("sudo", f'echo "sudo $*" >>{self.log}; [ "$1" != -n ] || shift; exec "$@"')
        self.program("id", "echo 1000")

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        cmake = shutil.which("cmake")
        assert cmake is not None
        words = [cmake, f"-DPython_EXECUTABLE={shutil.which('python3')}", "-P", str(SCRIPT)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DIFFULEX_EDGE_")}
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        return subprocess.run(words, env=kept | path | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("environment", [{}, {"DIFFULEX_EDGE_INSTALL_PACKAGES": "0"}], ids=["not asked", "declined"])
def test_what_is_missing_is_named_and_not_installed(machine: Machine, environment: dict[str, str]) -> None:
    result = machine.build(**environment)
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "Debian packages are missing: " in message
    assert "libfmt-dev" in message
    assert "scripts/install-packages wheel" in message
    assert "DIFFULEX_EDGE_INSTALL_PACKAGES=1" in message
    assert machine.log.read_text() == ""


def test_what_is_missing_is_installed_for_who_asks(machine: Machine) -> None:
    result = machine.build(DIFFULEX_EDGE_INSTALL_PACKAGES="1")
    assert result.returncode == 0, result.stderr
    installed = [line for line in machine.log.read_text().splitlines() if line.startswith("apt-get install")]
    assert len(installed) == 1
    assert "libfmt-dev" in installed[0]


def test_a_password_is_not_asked_for_below_pip(machine: Machine) -> None:
    machine.program("sudo", f'echo "sudo $*" >>{machine.log}; exit 1')
    result = machine.build(DIFFULEX_EDGE_INSTALL_PACKAGES="1")
    assert result.returncode != 0
    assert "could not be installed" in " ".join(result.stderr.split())
    assert machine.log.read_text() == "sudo -n true\n"


def test_nothing_is_missing(machine: Machine) -> None:
    machine.program("dpkg-query", 'echo "install ok installed"')
    result = machine.build()
    assert result.returncode == 0, result.stderr
    assert machine.log.read_text() == ""
