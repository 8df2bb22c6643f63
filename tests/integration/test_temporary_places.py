"""Temporary places: nothing that is not ours is removed, and what a killed process left goes with the next run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from command import COMMAND, export

#: Rounding that writes a copy of the model on the way.
ROUNDED: Final = ("--dtype", "int4", "--method", "gptq", "--calibration-sequences", "2", "--quiet")


def rounded(subcommand: str, tiny: Path, few: Path, target: Path) -> tuple[object, ...]:
    output = ("--data", few) if subcommand == "evaluate" else ("-o", target)
    return (subcommand, tiny, *output, *ROUNDED, "--calibration", tiny / "calibration.txt")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(
    *arguments: object, prepare: Callable[[], None] | None = None, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
        env=os.environ | (variables or {}),
    )


@pytest.mark.parametrize("subcommand", ["evaluate", "export", "quantize"])
def test_folders_that_are_not_ours_are_left_alone(subcommand: str, tiny: Path, few: Path, tmp_path: Path) -> None:
    """Folders of the names that the workspace had in earlier versions: they were removed with all that was in them."""

    def prepare() -> None:  # in the child: its process id is the command's
        for stem in ("..rounded-", ".x.rounded-"):
            folder = tmp_path / f"{stem}{os.getpid()}"
            folder.mkdir()
            (folder / "notes.txt").write_text("mine")

    process = start(
        *rounded(subcommand, tiny, few, tmp_path / "x"), prepare=prepare, variables={"TMPDIR": str(tmp_path)}
    )
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    made = [tmp_path / f"{stem}{process.pid}" for stem in ("..rounded-", ".x.rounded-")]
    assert all((folder / "notes.txt").read_text() == "mine" for folder in made)
    written = [] if subcommand == "evaluate" else ["x"]
    assert names(tmp_path) == sorted([folder.name for folder in made] + written)


def wait_for_workspace(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list(folder.glob(".diffulex-edge-*.part")):
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    pytest.fail("there was no workspace")


@pytest.mark.parametrize("subcommand", ["evaluate", "export", "quantize"])
def test_the_next_run_removes_what_a_killed_one_left(subcommand: str, tiny: Path, few: Path, tmp_path: Path) -> None:
    process = start(*rounded(subcommand, tiny, few, tmp_path / "x"), variables={"TMPDIR": str(tmp_path)})
    wait_for_workspace(process, tmp_path)
    export(tiny, tmp_path / "meanwhile.pte")
    if process.poll() is None:
        assert list(tmp_path.glob(".diffulex-edge-*.part")), "a living owner's folder is gone"
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    if process.returncode != -signal.SIGKILL:
        pytest.skip("it ended before it could be killed")
    left = [name for name in names(tmp_path) if name != "meanwhile.pte"]
    assert left
    assert all(name.startswith(".diffulex-edge-") for name in left)
    export(tiny, tmp_path / "next.pte")
    assert names(tmp_path) == ["meanwhile.pte", "next.pte"]


def test_a_temporary_folder_in_memory_is_no_place_for_a_model(tiny: Path, few: Path, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    found = subprocess.run(["stat", "-f", "-c", "%T", memory], capture_output=True, text=True, check=False)
    if found.stdout.strip() != "tmpfs":
        pytest.skip("there is no file system in memory")
    process = start(*rounded("evaluate", tiny, few, tmp_path / "x"), variables={"TMPDIR": str(memory)})
    while process.poll() is None:
        for place in memory.glob(".diffulex-edge-*.part"):
            pytest.fail(f"{place} is in memory")
        time.sleep(0.01)
    assert process.returncode == 0, process.communicate()[1]


def test_hidden_names_of_earlier_versions_are_no_obstacle(tiny: Path, tmp_path: Path) -> None:
    """An export that replaces a file failed with "File exists" after all the work, where its hidden name was taken."""

    def prepare() -> None:
        for number in range(100):
            (tmp_path / f".diffulex-edge-{os.getpid()}-{number}").touch()

    (tmp_path / "x.pte").write_bytes(b"older")
    process = start("export", tiny, "-o", tmp_path / "x.pte", prepare=prepare)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert (tmp_path / "x.pte").stat().st_size > 5
    assert len(names(tmp_path)) == 101


def test_a_copied_model_folder_keeps_its_files(tiny: Path, tmp_path: Path) -> None:
    """What has our prefix but is no place of ours stays."""
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / f".diffulex-edge-{'a' * 32}").write_text("a note")
    (model / f".diffulex-edge-{'a' * 32}.part").mkdir()
    export(model, model / "model.pte")
    assert (model / f".diffulex-edge-{'a' * 32}").read_text() == "a note"
    assert (model / f".diffulex-edge-{'a' * 32}.part").is_dir()
