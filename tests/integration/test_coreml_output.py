"""What the Core ML backend writes and when: bytes, sizes, the folder that it replaces, and what it refuses."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Final

import pytest
from command import OUTPUT_ERROR, PATIENCE, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json
from command import export as export_file
from conftest import MakeCheckpoint
from coreml_cases import FORMATS, FP16, INT4, INT8, RANGE, Case, edited, export_case, files
from coreml_check import check_with_coremltools
from coreml_package import ALIGNMENT
from families import Reference
from quantization import Format, Options
from test_output_safety import ROOT_ONLY, interrupt, start, tmpfs, wait_until_writing
from torch import Tensor

# --- Bytes.


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_depend_neither_on_threads_nor_on_the_run(
    name: str, checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    case, model = FORMATS[name], checkpoint("dream")
    words = calibration if case.stored.mode == "static" else ()
    export_case(case, model, tmp_path / "first.mlpackage", *words)
    first = files(tmp_path / "first.mlpackage")
    assert sorted(first) == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    for again, more in (("again", ()), *((f"{n}", ("--threads", n)) for n in (1, 2, 3))):
        export_case(case, model, tmp_path / f"{again}.mlpackage", *words, *more)
        assert files(tmp_path / f"{again}.mlpackage") == first, again


def test_palettes_depend_neither_on_threads_nor_on_the_run(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    case = Case(Options("int4", embedding="fp16", head="fp16"), "iOS16", 0.97)
    found = []
    for threads in (1, 2, 3, 3):
        export_case(case, checkpoint("dream"), tmp_path / "m.mlpackage", "--palette", "--threads", threads)
        found.append(files(tmp_path / "m.mlpackage"))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("name", FORMATS)
def test_dry_run_predicts_the_package_to_the_byte(name: str, tiny: Path, tmp_path: Path) -> None:
    case, target = FORMATS[name], tmp_path / "m.mlpackage"
    own = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 4)
    words = (*case.arguments(), *(own if case.stored.mode == "static" else ()), "--seq-len", "1..256")
    predicted = export_file(tiny, target, *words, "--dry-run")
    assert not list(tmp_path.iterdir())
    written = export_file(tiny, target, *words)
    assert predicted["file_bytes"] == written["file_bytes"] == sum(map(len, files(target).values()))
    assert predicted["dry_run"] is True
    assert written["dry_run"] is False
    assert predicted["layers"] == written["layers"]


def test_int4_takes_nibbles_and_fp16_scales(tiny: Path, tmp_path: Path) -> None:
    export_file(tiny, tmp_path / "m.mlpackage", *INT4.arguments(), "--seq-len", "1..256")
    package = check_with_coremltools(tmp_path / "m.mlpackage")
    architecture = Reference(tiny).architecture
    matrices = [shape for shape, _ in architecture.modules().values() if len(shape) == 2]
    stored = sum(Format("int4", 32).stored_bytes(rows, columns) for rows, columns in matrices)
    assert stored == sum(rows * columns // 2 + 2 * rows * columns // 32 for rows, columns in matrices)
    (weights,) = package.weight_files
    assert sum(blob.size for blob in weights.blobs.values() if blob.dtype == "int4") == sum(
        rows * columns // 2 for rows, columns in matrices
    )
    # Beside them: norms in FP16, and tables of sines and cosines in FP32 for each position.
    norms = sum(2 * shape[0] for shape, _ in architecture.modules().values() if len(shape) == 1)
    tables = 2 * 4 * architecture.max_positions * architecture.head_dim
    alignment = ALIGNMENT * (1 + 2 * len(weights.blobs))
    assert weights.size <= stored + norms + tables + alignment
    assert sum(map(len, files(tmp_path / "m.mlpackage").values())) - weights.size < 200_000


@pytest.mark.parametrize("name", FORMATS)
def test_report_counts_the_bytes_of_every_layer(
    name: str, checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    case, model = FORMATS[name], checkpoint("qwen2")
    words = calibration if case.stored.mode == "static" else ()
    report = export_case(case, model, tmp_path / "m.mlpackage", *words)
    found = {layer["layer"]: layer for layer in report["layers"] if layer["role"] in ("linear", "embedding")}
    modules = Reference(model).architecture.modules()
    for module, (shape, _) in modules.items():
        if len(shape) != 2:
            continue
        assert found[module]["dtype"] == case.stored.dtype
        rows, columns = shape
        scales = {"int8": 2 * rows, "int4": 2 * rows * columns // 32}.get(case.stored.dtype, 0)
        bits = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[case.stored.dtype]
        assert rows * columns * bits // 8 <= found[module]["stored_bytes"] <= rows * columns * bits // 8 + 2 * scales


# --- Output that is replaced as a whole or not at all.


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def old(checkpoint: MakeCheckpoint, out: Path) -> tuple[Path, dict[str, bytes]]:
    """A package of another model, and its files."""
    export_case(FP16, checkpoint("dream"), out / "m.mlpackage")
    return out / "m.mlpackage", files(out / "m.mlpackage")


def test_package_replaces_an_old_one(
    old: tuple[Path, dict[str, bytes]], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path, before = old
    (path / "Data/com.apple.CoreML/weights/more.bin").write_bytes(b"of an older version")
    export_case(INT8, checkpoint("llada"), path)
    export_case(INT8, checkpoint("llada"), tmp_path / "new.mlpackage")
    assert files(path) == files(tmp_path / "new.mlpackage") != before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_failure_leaves_the_old_package(
    old: tuple[Path, dict[str, bytes]], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path, before = old

    def spoil(weights: dict[str, Tensor]) -> None:
        weights["model.transformer.blocks.1.ff_out.weight"][7, 5] = float("nan")

    model = edited(checkpoint("llada"), tmp_path / "model", spoil)
    for case in (FP16, INT8):
        result = run("export", model, "-o", path, *case.arguments(), *RANGE)
        assert result.returncode != 0
        assert files(path) == before
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_export_leaves_the_old_package(
    number: signal.Signals, old: tuple[Path, dict[str, bytes]], large: Path
) -> None:
    path, before = old
    process = start("export", large, "-o", path, *FP16.arguments(), "--seq-len", "64")
    wait_until_writing(process)
    interrupt(process, number)
    assert process.returncode == -number
    assert files(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_killed_export_leaves_the_old_package_whole(old: tuple[Path, dict[str, bytes]], large: Path) -> None:
    path, before = old
    process = start("export", large, "-o", path, *FP16.arguments(), "--seq-len", "64")
    wait_until_writing(process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert files(path) == before


@ROOT_ONLY
def test_full_disk_leaves_the_old_package(checkpoint: MakeCheckpoint, tiny: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        export_case(INT8, checkpoint("llada"), disk / "m.mlpackage")
        before = files(disk)
        result = run("export", tiny, "-o", disk / "m.mlpackage", *FP16.arguments(), "--seq-len", "64")
        assert_fails(result, OUTPUT_ERROR, "No space left")
        assert files(disk) == before
        assert [entry.name for entry in disk.iterdir()] == ["m.mlpackage"]


def test_folder_that_is_no_package_is_not_replaced(tiny: Path, out: Path) -> None:
    folder = out / "m.mlpackage"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos/cat.jpg").write_bytes(b"irreplaceable")
    assert_fails(run("export", tiny, "-o", folder, *FP16.arguments()), OUTPUT_ERROR, "m.mlpackage")
    assert files(folder) == {"photos/cat.jpg": b"irreplaceable"}
    (out / "file.mlpackage").write_bytes(b"a file")
    assert_fails(run("export", tiny, "-o", out / "file.mlpackage", *FP16.arguments()), OUTPUT_ERROR)
    assert (out / "file.mlpackage").read_bytes() == b"a file"
    missing = out / "missing/m.mlpackage"
    assert_fails(run("export", tiny, "-o", missing, *FP16.arguments()), OUTPUT_ERROR, "missing")


def test_the_model_itself_is_never_overwritten(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), model)
    before = files(model)
    result = run("export", model, "-o", model, *FP16.arguments())
    assert result.returncode in (USAGE_ERROR, OUTPUT_ERROR)
    assert files(model) == before


# --- Refused.

INT4_ON = ("--dtype", "int4", "--minimum-deployment-target")
STATIC_ON = ("--dtype", "int8", "--mode", "static", "--calibration", "self", "--minimum-deployment-target")
PALETTE_ON = ("--dtype", "int4", "--palette", "--palette-group", "16", "--minimum-deployment-target")

REFUSED: Final[list[tuple[tuple[str, ...], tuple[int, ...], str]]] = [
    # A format that a target lacks: the first one that has it is named.
    ((*INT4_ON, "iOS16"), (UNSUPPORTED,), "iOS18"),
    ((*INT4_ON, "iOS17"), (UNSUPPORTED,), "iOS18"),
    ((*INT4_ON, "macOS14"), (UNSUPPORTED,), "macOS15|iOS18"),
    (("--dtype", "int4", "--group-size", "0", "--minimum-deployment-target", "iOS17"), (UNSUPPORTED,), "iOS18"),
    (("--embedding-dtype", "int4", "--minimum-deployment-target", "iOS17"), (UNSUPPORTED,), "iOS18"),
    ((*STATIC_ON, "iOS16"), (UNSUPPORTED,), "iOS17"),
    ((*STATIC_ON, "macOS13"), (UNSUPPORTED,), "macOS14|iOS17"),
    ((*PALETTE_ON, "iOS16"), (UNSUPPORTED,), "iOS18"),
    ((*PALETTE_ON, "iOS17"), (UNSUPPORTED,), "iOS18"),
    # What no target has.
    (("--dtype", "int4", "--mode", "static"), (UNSUPPORTED,), "static"),
    (("--soc", "SM8650"), (USAGE_ERROR,), "--soc"),
    # Palettes are for INT4, and their groups cannot have more rows than a weight.
    (("--dtype", "int8", "--palette"), (USAGE_ERROR, UNSUPPORTED), "palette"),
    (("--dtype", "int4", "--palette", "--palette-group", "4096"), (USAGE_ERROR, UNSUPPORTED), "4096"),
    # Words that mean nothing.
    (("--minimum-deployment-target", "windows"), (USAGE_ERROR,), "windows"),
    (("--minimum-deployment-target", "iOS"), (USAGE_ERROR,), "iOS"),
    (("--minimum-deployment-target", ""), (USAGE_ERROR,), "minimum deployment target"),
    (("--compute-unit", "tpu"), (USAGE_ERROR,), "tpu"),
    (("--seq-len", "8..4"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "0..8"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "..8"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "8.."), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "8..x"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "8,,16"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "8,"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "8,0"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "-8"), (USAGE_ERROR,), "sequence length"),
    (("--seq-len", "99999999999999999999"), (USAGE_ERROR,), "sequence length"),
    # Static activations without calibration.
    (("--dtype", "int8", "--mode", "static"), (USAGE_ERROR,), "--calibration"),
]


@pytest.mark.parametrize(
    ("words", "codes", "message"), REFUSED, ids=[" ".join(words).replace("--", "") for words, _, _ in REFUSED]
)
def test_what_cannot_be_is_refused_in_one_sentence(
    words: tuple[str, ...], codes: tuple[int, ...], message: str, tiny: Path, out: Path
) -> None:
    result = run("export", tiny, "-o", out / "m.mlpackage", "--backend", "coreml", *words)
    assert result.returncode in codes, result.stderr
    assert_fails(result, result.returncode)
    assert re.search(message, result.stderr), result.stderr
    assert not list(out.iterdir())


def test_lists_and_ranges_of_lengths_are_for_core_ml(tiny: Path, out: Path) -> None:
    for spelled in ("8,16", "8..16"):
        result = run("export", tiny, "-o", out / "m.pte", "--seq-len", spelled)
        assert result.returncode in (USAGE_ERROR, UNSUPPORTED)
        assert_fails(result, result.returncode, "length")


def test_matrix_counts_core_ml(tiny: Path) -> None:
    matrix = run_json("matrix")
    levels = {row["quantization"]: row["coreml"]["level"] for row in matrix["rows"]}
    assert levels["INT8 Dynamic"] == "partial"
    assert {level for name, level in levels.items() if name != "INT8 Dynamic"} <= {"full", "partial"}
