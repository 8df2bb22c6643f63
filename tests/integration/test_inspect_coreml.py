"""`inspect` shows what the tests' own reader finds in a Core ML package, and withstands broken ones."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from command import BAD_FILE, COMMAND, assert_fails, export, run, run_bounded, run_json
from conftest import MakeCheckpoint
from coreml_package import DATA_TYPES, Package, read_type
from mil_programs import build, random_array

COREML: Final = ("--backend", "coreml")
WEIGHTS: Final = "Data/com.apple.CoreML/weights/weight.bin"
MODEL: Final = "Data/com.apple.CoreML/model.mlmodel"
FORMATS: Final[dict[str, tuple[object, ...]]] = {
    "fp16": ("--dtype", "fp16"),
    "fp32": ("--dtype", "fp32"),
    "int8": ("--dtype", "int8", "--minimum-deployment-target", "iOS16"),
    "int4": ("--dtype", "int4", "--group-size", 32, "--embedding-dtype", "int8", "--head-dtype", "int4"),
    "palette": ("--dtype", "int4", "--palette", "--palette-group", 8),
    "old palette": ("--dtype", "int4", "--palette", "--minimum-deployment-target", "iOS16"),
}
NAMES: Final = {"fp16": "f16", "fp32": "f32", "int8": "i8", "int4": "i4", "uint4": "palette4", "uint8": "palette4"}


@pytest.fixture(scope="module")
def small(checkpoint: MakeCheckpoint) -> Path:
    return checkpoint("llada", vocab_size=64, n_layers=2)


def weights_by_offset(report: dict[str, Any], file: str = WEIGHTS) -> dict[int, dict[str, Any]]:
    return {weight["offset"]: weight for weight in report["tensors"] if weight["file"] == file}


def assert_weights_are_those_of(package: Package, path: Path, report: dict[str, Any], prefix: str = "") -> None:
    """Every entry of every weight file is shown: its place, its bytes, its type."""
    shown = 0
    for file in package.weight_files:
        weights = weights_by_offset(report, prefix + str(file.path.relative_to(path)))
        whole = file.path.read_bytes()
        for blob in file.blobs.values():
            weight = weights[blob.data]
            shown += 1
            assert (weight["bytes"], weight["dtype"]) == (blob.size, NAMES[blob.dtype])
            assert weight["sha256"] == hashlib.sha256(whole[blob.data : blob.data + blob.size]).hexdigest()
            elements = int(np.prod(weight["shape"]))
            bits = 4 if weight["dtype"] == "palette4" else DATA_TYPES[blob.dtype].bits
            assert 8 * blob.size == elements * bits
    assert shown > 10


@pytest.mark.parametrize("name", FORMATS)
def test_package_is_shown_as_it_is(name: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    made = export(small, path, *COREML, "--seq-len", 32, *FORMATS[name])
    package = Package(path)
    report = run_json("inspect", path)
    assert report["kind"] == "coreml_package"
    assert report["file_bytes"] == made["file_bytes"] == sum(file["bytes"] for file in report["files"])
    (model,) = report["models"]
    assert model["specification_version"] == package.spec.specificationVersion
    assert model["metadata"] == package.metadata
    (function,) = model["functions"]
    assert function["opset"] == package.programs[0].opset
    operations = Counter(operation.type for operation in package.programs[0].functions["main"].operations)
    assert function["operations"] == operations
    assert model["inputs"] == [{"name": "input_ids", "dtype": "i32", "shape": [1, 32]}]
    assert model["outputs"] == [{"name": "logits", "dtype": "f32", "shape": [1, 32, 64]}]
    assert_weights_are_those_of(package, path, report)
    groups = {weight.get("group_size", 0) for weight in report["tensors"] if weight["dtype"] in ("i4", "palette4")}
    assert groups == {"int4": {32}, "palette": {8}, "old palette": {0}}.get(name, set())


def test_lengths_are_shown_as_the_description_has_them(small: Path, tmp_path: Path) -> None:
    export(small, tmp_path / "e.mlpackage", *COREML, "--seq-len", "16,32,64")
    (feature,) = run_json("inspect", tmp_path / "e.mlpackage")["models"][0]["inputs"]
    assert feature["enumerated_shapes"] == [[1, 16], [1, 32], [1, 64]]
    export(small, tmp_path / "r.mlpackage", *COREML, "--seq-len", "8..64")
    (feature,) = run_json("inspect", tmp_path / "r.mlpackage")["models"][0]["inputs"]
    assert feature["shape_range"] == [[1, 1], [8, 64]]
    text = run("inspect", tmp_path / "r.mlpackage").stdout
    assert "range [1 x 8..64]" in text
    assert "metadata  com.diffulex-edge.version" in text
    assert "1 x gather" in text


def test_parts_are_shown_as_one_model(small: Path, tmp_path: Path) -> None:
    limit = ("--chunk-size", 200_000)
    made = export(small, tmp_path / "p.mlpackage", *COREML, "--dtype", "fp16", *limit)
    report = run_json("inspect", tmp_path / "p.mlpackage")
    assert report["kind"] == "coreml_pipeline"
    assert report["file_bytes"] == made["file_bytes"]
    parts = report["models"][0]["models"]
    assert [part["name"] for part in parts] == [f"part_{i}" for i in range(len(parts))]
    assert len(parts) > 1
    assert_weights_are_those_of(Package(tmp_path / "p.mlpackage"), tmp_path / "p.mlpackage", report)

    made = export(small, tmp_path / "chunks", *COREML, "--dtype", "fp16", *limit, "--chunks", "packages")
    chunks = run_json("inspect", tmp_path / "chunks")
    assert chunks["kind"] == "coreml_chunks"
    assert chunks["file_bytes"] == made["file_bytes"]
    assert [model["name"] for model in chunks["models"]] == [f"part_{i}.mlpackage" for i in range(len(parts))]
    assert sorted(weight["sha256"] for weight in chunks["tensors"]) == sorted(
        weight["sha256"] for weight in report["tensors"]
    )
    assert "part_1.mlpackage" in run("inspect", tmp_path / "chunks").stdout


def test_delegate_of_a_program_is_shown_with_its_package(small: Path, tmp_path: Path) -> None:
    options = (*COREML, "--dtype", "int4", "--seq-len", 32)
    export(small, tmp_path / "x.mlpackage", *options)
    export(small, tmp_path / "x.pte", *options, "--container", "pte", "--compute-unit", "cpu_and_ne")
    package, program = (run_json("inspect", tmp_path / name) for name in ("x.mlpackage", "x.pte"))
    (delegate,) = program["methods"][0]["delegates"]
    assert delegate["id"] == "CoreMLBackend"
    assert delegate["compile_specs"]["compute_units"] == "cpu_and_ne"
    assert [file["path"] for file in delegate["files"]] == [
        "metadata.json",
        f"model.mlpackage/{MODEL}",
        f"model.mlpackage/{WEIGHTS}",
        "model.mlpackage/Manifest.json",
    ]
    assert delegate["models"][0]["functions"] == package["models"][0]["functions"]
    whole = (tmp_path / "x.pte").read_bytes()
    for found, wanted in zip(program["tensors"], package["tensors"], strict=True):
        assert (found["name"], found["dtype"], found["shape"]) == (wanted["name"], wanted["dtype"], wanted["shape"])
        assert found["sha256"] == wanted["sha256"]
        data = whole[found["offset"] : found["offset"] + found["bytes"]]
        assert hashlib.sha256(data).hexdigest() == found["sha256"]
    assert "constexpr_blockwise_shift_scale" in run("inspect", tmp_path / "x.pte").stdout


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
def test_packages_of_coremltools_are_shown(target: str, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder, mil

    weight = random_array(24, 16)

    def function(x: Any) -> Any:
        return Builder.linear(x=x, weight=weight, name="out")

    path = build(tmp_path / "x.mlpackage", function, [((1, 16), mil.types.fp32)], target)
    report = run_json("inspect", path)
    (program,) = Package(path).programs
    shown = report["models"][0]["functions"][0]["operations"]
    assert shown == Counter(operation.type for operation in program.functions["main"].operations)
    (found,) = (entry for entry in report["tensors"] if entry["shape"] == [24, 16])
    assert (found["dtype"], found["sha256"]) == ("f32", hashlib.sha256(weight.tobytes()).hexdigest())
    declared = [read_type(output.type) for output in program.functions["main"].operations[-1].outputs]
    assert declared[0].shape == (1, 24)


# --- Broken packages.


@pytest.fixture
def package(small: Path, tmp_path: Path) -> Path:
    path = tmp_path / "x.mlpackage"
    options = ("--dtype", "int4", "--palette", "--embedding-dtype", "int8", "--seq-len", "1..32")
    export(small, path, *COREML, *options)
    return path


def assert_survives(command: Path, path: Path) -> bool:
    """`inspect` shows it or refuses it in one sentence."""
    result = run_bounded(command, "inspect", path, "--json", "--no-hash")
    assert result.returncode in (0, BAD_FILE), result.stderr
    assert isinstance(json.loads(result.stdout), dict)
    if result.returncode != 0:
        assert_fails(result, BAD_FILE)
    return result.returncode == 0


def test_cut_files_are_bad_files(command: Path, package: Path) -> None:
    for name in ("Manifest.json", MODEL, WEIGHTS):
        path = package / name
        whole = path.read_bytes()
        steps = 12 if command == COMMAND else 4
        for cut in sorted({0, 1, 63, 64, 65, 127, len(whole) - 1, *range(0, len(whole), len(whole) // steps)}):
            if cut < len(whole) - 1 or name != "Manifest.json":  # which ends in a line break
                path.write_bytes(whole[:cut])
                assert_fails(run_bounded(command, "inspect", package), BAD_FILE, Path(name).name)
        path.unlink()
        assert_fails(run_bounded(command, "inspect", package), BAD_FILE, Path(name).name)
        path.mkdir()
        assert_fails(run_bounded(command, "inspect", package), BAD_FILE, Path(name).name)
        path.rmdir()
        path.write_bytes(whole)
    assert run_bounded(command, "inspect", package).returncode == 0


def test_flipped_bits_never_crash(command: Path, package: Path) -> None:
    generator = random.Random(4)
    for name, places in (("Manifest.json", 20), (MODEL, 40), (WEIGHTS, 20)):
        path = package / name
        whole = path.read_bytes()
        for _ in range(places if command == COMMAND else places // 4):
            flipped = bytearray(whole)
            flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            assert_survives(command, package)
        path.write_bytes(whole)


@pytest.mark.parametrize("value", [0, 1, 63, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_lying_entries_of_weight_files_are_bad_files(command: Path, value: int, package: Path) -> None:
    path = package / WEIGHTS
    whole = path.read_bytes()
    for place, width in ((4, 4), (64, 4), (68, 4), (72, 8), (80, 8)):  # version, mark, type, bytes, offset
        lying = bytearray(whole)
        lying[place : place + width] = struct.pack("<Q", value)[:width]
        path.write_bytes(lying)
        if not assert_survives(command, package):
            assert_fails(run_bounded(command, "inspect", package), BAD_FILE, "weight.bin")
        else:
            assert whole == bytes(lying)


def test_links_that_lead_nowhere_are_bad_files(command: Path, package: Path) -> None:
    for name in (MODEL, WEIGHTS):
        path = package / name
        whole = path.read_bytes()
        for target in (path.name, "nowhere", "/dev/zero", "/proc/self/mem"):
            path.unlink()
            path.symlink_to(target)
            assert_fails(run_bounded(command, "inspect", package), BAD_FILE, path.name)
        path.unlink()
        path.write_bytes(whole)


def test_broken_folder_of_packages_is_a_bad_file(command: Path, small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chunks"
    export(small, folder, *COREML, "--dtype", "fp16", "--chunk-size", 200_000, "--chunks", "packages")
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for text in (b"", b"{", b"[]", b"{}", whole.replace(b"part_0", b"../x"), whole.replace(b"part_1", b"part_0")):
        path.write_bytes(text)
        assert_fails(run_bounded(command, "inspect", folder), BAD_FILE, "manifest.json")
    path.write_bytes(whole)
    shutil.rmtree(folder / "part_1.mlpackage")
    assert_fails(run_bounded(command, "inspect", folder), BAD_FILE, "part_1.mlpackage")


def test_broken_payloads_of_programs_are_bad_files(command: Path, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pte"
    export(small, path, *COREML, "--dtype", "fp16", "--seq-len", 32, "--container", "pte")
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 100, len(whole) // 2):
        path.write_bytes(whole[:cut])
        assert_fails(run_bounded(command, "inspect", path), BAD_FILE, "x.pte")
    generator = random.Random(5)
    begin = struct.unpack_from("<Q", whole, 24)[0]
    places = [generator.randrange(begin, len(whole)) for _ in range(8)]  # mostly weights
    places += [generator.randrange(begin, begin + 20_000) for _ in range(20)]  # the model's message
    places += [generator.randrange(len(whole) - 600, len(whole)) for _ in range(20)]  # the directory
    for place in places[:: 1 if command == COMMAND else 4]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        assert_survives(command, path)
