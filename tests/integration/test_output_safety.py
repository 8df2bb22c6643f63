"""Whatever goes wrong while a file is written: the old one stays as it was, and nothing else is left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from command import BAD_FILE, COMMAND, OUTPUT_ERROR, PATIENCE, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint

OLD: Final = b"the old file"

ROOT_ONLY: Final = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small file system of its own, or a skipped test where mounting is not permitted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones as well."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Output that cannot be written.


@ROOT_ONLY
@pytest.mark.parametrize("subcommand", ["export", "quantize"])
def test_full_disk_leaves_the_old_file(subcommand: str, tiny: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        (disk / "old.pte").write_bytes(OLD)
        target = disk / ("old.pte" if subcommand == "export" else "q")
        result = run(subcommand, tiny, "-o", target, "--dtype", "int8")
        assert_fails(result, OUTPUT_ERROR, "No space left", "bytes are needed")
        assert contents(disk) == {"old.pte": OLD}


@ROOT_ONLY
def test_full_disk_is_noticed_for_the_report(tiny: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "4k") as disk:
        result = run("export", tiny, "-o", tmp_path / "model.pte", "--report", disk / "report.html")
        assert_fails(result, OUTPUT_ERROR, "No space left")
        assert not contents(disk)


@ROOT_ONLY
def test_read_only_file_system_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk:
        (disk / "old.pte").write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_fails(run("export", tiny, "-o", disk / "old.pte"), OUTPUT_ERROR, "Read-only file system")
        assert_fails(run("quantize", tiny, "-o", disk / "q"), OUTPUT_ERROR, "Read-only file system")
        assert contents(disk) == {"old.pte": OLD}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    assert_fails(run("export", tiny, "-o", folder / "model.pte"), OUTPUT_ERROR, "Permission denied")
    assert_fails(run("quantize", tiny, "-o", folder / "q"), OUTPUT_ERROR, "Permission denied")
    assert not contents(folder)


def test_output_that_is_no_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "loop").symlink_to("loop")
    for target in ("folder", "pipe", "file/model.pte", "missing/model.pte", "loop", "loop/model.pte"):
        assert_fails(run("export", tiny, "-o", tmp_path / target), OUTPUT_ERROR, target.split("/")[0])
    assert_fails(run("export", tiny, "-o", "/dev/null"), OUTPUT_ERROR, "/dev/null")
    for target in ("file", "file/q", "missing/q", "pipe"):
        assert_fails(run("quantize", tiny, "-o", tmp_path / target), OUTPUT_ERROR, target.split("/")[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop", "pipe"]
    assert (tmp_path / "file").read_bytes() == OLD


def test_empty_output_name_is_an_error(tiny: Path, tmp_path: Path) -> None:
    for subcommand in ("export", "quantize"):
        result = run(subcommand, tiny, "-o", "", cwd=tmp_path)
        assert result.returncode in (USAGE_ERROR, OUTPUT_ERROR)
        assert len(result.stderr.splitlines()) == 1
    assert not contents(tmp_path)


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "other name"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_model_itself_is_never_overwritten(name: str, how: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), model)
    before = contents(model)
    target = model / name
    if how == "hard link":
        target = tmp_path / "link"
        target.hardlink_to(model / name)
    elif how == "symbolic link":
        target = tmp_path / "link"
        target.symlink_to(model / name)
    elif how == "other name":
        target = model / ".." / "model" / name
    assert_fails(run("export", model, "-o", target), USAGE_ERROR, "the model itself")
    assert contents(model) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_report_never_overwrites_the_model(name: str, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    before = contents(model)
    result = run("export", model, "-o", tmp_path / "x.pte", "--report", model / name)
    assert contents(model) == before
    assert_fails(result, USAGE_ERROR, "the model itself")


def test_report_and_output_are_two_files(tiny: Path, tmp_path: Path) -> None:
    for other in ("x.pte", "./x.pte"):
        result = run("export", tiny, "-o", "x.pte", "--report", other, cwd=tmp_path)
        assert_fails(result, USAGE_ERROR, "x.pte")
        assert not contents(tmp_path)


def test_link_as_output_replaces_the_file_behind_it(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/real.pte").write_bytes(OLD)
    (tmp_path / "link.pte").symlink_to("files/real.pte")
    report = export(tiny, tmp_path / "link.pte")
    assert (tmp_path / "link.pte").is_symlink()
    assert (tmp_path / "files/real.pte").stat().st_size == report["file_bytes"]
    assert len(list((tmp_path / "files").iterdir())) == 1


@pytest.mark.parametrize("length", [200, 240, 255])
def test_long_file_names_work(length: int, tiny: Path, tmp_path: Path) -> None:
    name = "m" * (length - 4) + ".pte"
    export(tiny, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_new_file_has_the_ordinary_mode(tiny: Path, tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        result = run("export", tiny, "-o", tmp_path / "model.pte", umask=umask)
        assert result.returncode == 0
        assert stat.S_IMODE((tmp_path / "model.pte").stat().st_mode) == mode


def test_file_size_limit_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    (tmp_path / "old.pte").write_bytes(OLD)
    assert_fails(run("export", tiny, "-o", tmp_path / "old.pte", preexec_fn=limit), OUTPUT_ERROR, "File too large")
    assert contents(tmp_path) == {"old.pte": OLD}


def test_full_standard_output_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    # Less than stdio's buffer (found when it is flushed) and more.
    commands = (
        ("export", tiny, "-o", tmp_path / "model.pte"),
        ("inspect", tiny),
        ("inspect", tiny, "--json"),
        ("matrix",),
    )
    for arguments in commands:
        with open("/dev/full", "w") as full:
            words = [str(COMMAND), *map(str, arguments)]
            result = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.returncode == OUTPUT_ERROR, arguments
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("diffulex-edge: error: ")


# --- Interruptions. The export of the large model writes 0.8 GB: it is disturbed when a part of them is written.


def start(*arguments: object, **popen: object) -> subprocess.Popen[str]:
    words = [str(COMMAND), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)  # type: ignore[call-overload, no-any-return]


def bytes_written(process: subprocess.Popen[str]) -> int:
    """By the kernel's count, which is there until the process was waited for."""
    found = re.search(r"wchar: (\d+)", Path(f"/proc/{process.pid}/io").read_text())
    assert found is not None
    return int(found[1])


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Send the signal and wait for the end, before which the process may write 200 MB; what it printed.

    It looks for signals every 20 ms, in which it writes 60 MB where memory is fast, and more until its watcher runs.
    """
    process.send_signal(signal.SIGSTOP)  # it writes nothing before the signal is there
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    before = bytes_written(process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert bytes_written(process) - before < 200_000_000
    return process.communicate(timeout=PATIENCE)


def wait_until_writing(process: subprocess.Popen[str], written_bytes: int = 20_000_000) -> None:
    """Until the process has written that much, by the kernel's count."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if bytes_written(process) > written_bytes:
            return
        assert process.poll() is None, "it ended before it could be disturbed"
        time.sleep(0.001)
    pytest.fail("nothing was written")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_killed_export_leaves_the_old_file(dtype: str, number: signal.Signals, large: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(OLD)
    process = start("export", large, "-o", tmp_path / "model.pte", "--dtype", dtype, "--embedding-dtype", dtype)
    wait_until_writing(process)
    stdout, stderr = interrupt(process, number)
    assert process.returncode == -number
    assert stdout == ""
    assert len(stderr.splitlines()) == (0 if number == signal.SIGKILL else 1)
    assert contents(tmp_path) == {"model.pte": OLD}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_quantize_leaves_nothing(number: signal.Signals, large: Path, tmp_path: Path) -> None:
    process = start("quantize", large, "-o", tmp_path / "q", "--dtype", "int8")
    wait_until_writing(process)
    interrupt(process, number)
    assert process.returncode == -number
    assert not list(tmp_path.iterdir())


def test_killed_quantize_leaves_no_half_checkpoint_and_can_be_repeated(large: Path, tmp_path: Path) -> None:
    process = start("quantize", large, "-o", tmp_path / "q", "--dtype", "int8")
    wait_until_writing(process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert not (tmp_path / "q").exists()
    run_json("quantize", large, "-o", tmp_path / "q", "--dtype", "int8")


def test_interrupted_inspect_stops(large: Path) -> None:
    process = start("inspect", large)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (-signal.SIGINT, 0)


def test_input_that_shrinks_while_it_is_read_is_a_bad_file(large: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(large, model, copy_function=copy_sparse)
    (tmp_path / "out").mkdir()
    process = start("export", model, "-o", tmp_path / "out/model.pte")
    wait_until_writing(process)
    os.truncate(model / "model.safetensors", 1_000_000)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == BAD_FILE
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("diffulex-edge: error: ")
    assert not contents(tmp_path / "out")


def copy_sparse(source: str, target: str) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def test_two_exports_to_one_name_leave_one_whole_file(tiny: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.pte"
    export(tiny, wanted, "--dtype", "int8")
    processes = [start("export", tiny, "-o", tmp_path / "model.pte", "--dtype", "int8") for _ in range(4)]
    for process in processes:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pte", "wanted.pte"]
    assert (tmp_path / "model.pte").read_bytes() == wanted.read_bytes()


# --- The same bytes every time.


@pytest.mark.parametrize(
    "options",
    [(), ("--dtype", "fp16"), ("--dtype", "int8"), ("--dtype", "int4", "--embedding-dtype", "int4")],
    ids=lambda options: "-".join(options) or "fp32",
)
def test_bytes_depend_neither_on_threads_nor_on_the_run(options: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    def both(name: str, *more: object) -> tuple[bytes, bytes]:
        export(tiny, tmp_path / f"{name}.pte", *options, *more)
        run_json("quantize", tiny, "-o", tmp_path / name, *options, *more)
        return (tmp_path / f"{name}.pte").read_bytes(), (tmp_path / name / "model.safetensors").read_bytes()

    first = both("first")
    assert both("second") == first
    for threads in (1, 2, 3, 64):
        assert both(f"threads{threads}", "--threads", threads) == first


# --- What goes to stdout and stderr.


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "MODEL", "-o", "OUT/model.pte"),
        ("export", "MODEL", "-o", "OUT/model.pte", "--dtype", "int4", "--dry-run"),
        ("quantize", "MODEL", "-o", "OUT/q", "--dtype", "int8"),
        ("inspect", "MODEL"),
        ("inspect", "MODEL/model.safetensors"),
        ("matrix",),
    ],
    ids=lambda arguments: "-".join(arguments).replace("/", "_"),
)
def test_json_is_one_object_and_nothing_else(arguments: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    words = [word.replace("MODEL", str(tiny)).replace("OUT", str(tmp_path)) for word in arguments]
    result = run(*words, "--json")
    assert result.returncode == 0
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("export", "/nonexistent", "-o", "OUT/x.pte"), BAD_FILE, "BadFile"),
        (("export", "MODEL", "-o", "OUT/missing/x.pte"), OUTPUT_ERROR, "Io"),
        (("export", "MODEL", "-o", "OUT/x.pte", "--activation-dtype", "int16"), 4, "Unsupported"),
        (("export", "MODEL", "-o", "OUT/x.pte", "--dtype", "int5"), USAGE_ERROR, "InvalidArgument"),
        (("quantize", "/nonexistent", "-o", "OUT/q"), BAD_FILE, "BadFile"),
        (("inspect", "/nonexistent"), BAD_FILE, "BadFile"),
    ],
)
def test_json_of_a_failure_says_what_stderr_says(
    arguments: tuple[str, ...], code: int, name: str, tiny: Path, tmp_path: Path
) -> None:
    words = [word.replace("MODEL", str(tiny)).replace("OUT", str(tmp_path)) for word in arguments]
    result = run(*words, "--json")
    assert_fails(result, code)
    report = json.loads(result.stdout)
    assert report["success"] is False
    assert report["code"] == name
    assert f"diffulex-edge: error: {report['error']}" == result.stderr.strip()
    assert not contents(tmp_path)


def on_terminal(*arguments: object) -> str:
    """What the command prints on stderr when that is a terminal.

    What takes less than half a second draws nothing: the command is held up, so that it takes longer on any machine.
    """
    master, slave = pty.openpty()
    words = [str(COMMAND), *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        brake = threading.Thread(target=hold_up, args=(process,))
        brake.start()
        text = b"".join(iter(lambda: read_terminal(master), b""))
        assert process.wait(PATIENCE) == 0
        brake.join()
    os.close(master)
    return text.decode()


def hold_up(process: subprocess.Popen[bytes]) -> None:
    for _ in range(8):
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports EIO when the other side is closed
        return b""


def test_progress_is_drawn_on_a_terminal_only_and_not_when_quiet(large: Path, tmp_path: Path) -> None:
    arguments = ("export", large, "-o", tmp_path / "model.pte", "--threads", 1)
    drawn = on_terminal(*arguments)
    assert re.search(r"\d+%.*GB/s.*s left", drawn)
    assert drawn.endswith("\r\x1b[K")  # the line is wiped in the end
    assert on_terminal(*arguments, "--quiet") == ""
    assert run(*arguments, "--quiet").stderr == ""
    plain = run(*arguments).stderr
    assert "\r" not in plain
    assert "\x1b" not in plain


def test_memory_does_not_grow_with_the_model(large: Path, tmp_path: Path) -> None:
    # RssAnon, as the kernel counts it, while the last third of the 0.8 GB is written.
    process = start("export", large, "-o", tmp_path / "model.pte")
    wait_until_writing(process, 500_000_000)
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.communicate(timeout=PATIENCE)
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert anonymous is not None
    assert int(anonymous[1]) < 100_000


def test_peak_memory_is_that_of_the_command_alone(tiny: Path, tmp_path: Path) -> None:
    # The kernel's ru_maxrss begins with the memory of the process that started the command, here Python with PyTorch.
    report = export(tiny, tmp_path / "model.pte")
    assert report["peak_rss_bytes"] < 100_000_000
