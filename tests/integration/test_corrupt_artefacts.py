"""Damaged artefacts, plans and data: what a reader accepts lies inside of its files, the rest is one sentence."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from command import BAD_FILE, COMMAND, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_bounded, run_json
from conftest import MakeCheckpoint
from evaluation_data import cut

MUTATIONS: Final = 50
"""For each file, of the release build; the sanitized one is slower and takes a fifth. What the command makes of them is
looked at here; the unit tests read thousands of mutations with sanitizers, without a process for each."""

SPECIAL: Final = (0, 1, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module")
def model(checkpoint: MakeCheckpoint) -> Path:
    return checkpoint("llama", vocab_size=64, num_hidden_layers=1)


def mutations(content: bytes, count: int, places: list[range]) -> Iterator[bytes]:
    """Bits flipped, bytes and words replaced by values at the ends of their types, and cuts: the same in every run."""
    generator = random.Random(len(content))
    for index in range(count):
        changed = bytearray(content)
        part = places[index % len(places)]
        at = generator.choice(part)
        match generator.randrange(4):
            case 0:
                changed[at] ^= 1 << generator.randrange(8)
            case 1:
                changed[at] = generator.choice(SPECIAL)
            case 2:
                width = generator.choice((4, 8))
                value = generator.choice((0, 1 << (8 * width - 1), (1 << 8 * width) - 1, (1 << (8 * width - 1)) - 1))
                changed[at : at + width] = value.to_bytes(width, "little")
                del changed[len(content) :]
            case _:
                del changed[at:]
        yield bytes(changed)


def assert_holds(command: Path, artefact: Path) -> None:
    """`inspect` refuses it in one sentence, or all that it shows lies inside of the files."""
    result = run_bounded(command, "inspect", artefact, "--json")
    assert result.returncode in (0, BAD_FILE), result.stderr
    if result.returncode == BAD_FILE:
        assert_fails(result, BAD_FILE)
        return
    found = json.loads(result.stdout)
    for weight in found["tensors"]:
        file = artefact / weight["file"] if artefact.is_dir() else artefact
        assert 0 <= weight["offset"] <= weight["offset"] + weight["bytes"] <= file.stat().st_size, weight
        assert all(size >= 0 for size in weight["shape"]), weight
    for method in found.get("methods", []):
        assert method["arena_bytes"] >= 0
        for value in (*method["inputs"], *method["outputs"]):
            assert all(size >= 0 for size in value["shape"]), value


def survive(command: Path, artefact: Path, file: Path, places: list[range] | None = None) -> None:
    """Every mutation of `file`, which belongs to `artefact`."""
    content = file.read_bytes()
    count = MUTATIONS if command == COMMAND else MUTATIONS // 5
    for changed in mutations(content, count, places or [range(len(content))]):
        file.write_bytes(changed)
        assert_holds(command, artefact)
    file.write_bytes(content)


# --- ExecuTorch programs.


def export_pte(model: Path, target: Path, *options: object) -> bytes:
    run_json("export", model, "-o", target, *options)
    return target.read_bytes()


@pytest.mark.parametrize("options", [("--dtype", "fp32"), ("--dtype", "int4")], ids=lambda options: options[1])
def test_mutated_program(command: Path, options: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    whole = export_pte(model, path, *options)
    (program_bytes,) = struct.unpack_from("<Q", whole, 16)
    payload = whole.index(b"XH00") - 4
    survive(command, path, path, [range(program_bytes), range(payload, len(whole))])


def patch_constant(whole: bytes, place: int, size: int) -> bytes:
    """The first named constant of the XNNPACK payload: no longer named, but `size` bytes at `place` of its data."""
    payload = whole.index(b"XH00") - 4
    named = b"\xff" * 8
    at = whole.index(named, payload)
    for where in (at - 8, at + 8):
        (found,) = struct.unpack_from("<Q", whole, where)
        if 0 < found < len(whole):
            changed = bytearray(whole)
            changed[at : at + 8] = struct.pack("<Q", place)
            changed[where : where + 8] = struct.pack("<Q", size)
            return bytes(changed)
    raise AssertionError("no size beside the offset")


@pytest.mark.parametrize("place", [1 << 20, 1 << 40, 1 << 63, (1 << 64) - 2])
@pytest.mark.parametrize("size", [0, 1, 1 << 63])
def test_constant_beyond_the_payload(command: Path, place: int, size: int, model: Path, tmp_path: Path) -> None:
    """One of size 0 was shown with a negative offset, and the exit code was 0."""
    path = tmp_path / "m.pte"
    path.write_bytes(patch_constant(export_pte(model, path), place, size))
    assert_fails(run_bounded(command, "inspect", path), BAD_FILE, "m.pte", "of the XNNPACK payload")


def test_constant_smaller_than_its_shape(command: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(patch_constant(export_pte(model, path), 0, 0))
    assert_fails(run_bounded(command, "inspect", path), BAD_FILE, "has 0 bytes, and its type")


# --- Core ML packages.


@pytest.mark.parametrize("name", ["Manifest.json", "model.mlmodel", "weight.bin"])
@pytest.mark.parametrize("options", [("int8", "weight_only"), ("int4", "weight_only")], ids=lambda options: options[0])
def test_mutated_package(command: Path, name: str, options: tuple[str, str], model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    words = ("--backend", "coreml", "--dtype", options[0], "--mode", options[1], "--seq-len", 16)
    run_json("export", model, "-o", path, *words)
    file = next(path.rglob(name))
    places = None
    if name == "weight.bin":  # its head, and the metadata before each blob
        weights = run_json("inspect", path)["tensors"]
        places = [range(64), *(range(entry["offset"] - 64, entry["offset"]) for entry in weights[:8])]
    survive(command, path, file, places)


def test_mutated_package_in_a_program(command: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    words = ("--backend", "coreml", "--container", "pte", "--dtype", "int8", "--seq-len", 16)
    whole = export_pte(model, path, *words)
    directory = whole.rindex(b"}") - 1500  # in JSON, reversed, at the payload's end
    survive(command, path, path, [range(4096), range(directory, len(whole))])


# --- QNN folders.


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8, with something in the place of a context binary: nothing here looks into it."""
    path = tmp_path_factory.mktemp("qnn") / "m"
    run_json("export", model, "-o", path, "--backend", "qnn", "--dtype", "int8", "--seq-len", 16)
    (path / "SM8650").mkdir()
    (path / "SM8650/model_ctx_qnn.bin").write_bytes(bytes(100))
    shutil.copy(path / "model.onnx", path / "SM8650/model_ctx.onnx")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["contexts"] = [
        {"soc": "SM8650", "model": "SM8650/model_ctx.onnx", "binary": "SM8650/model_ctx_qnn.bin", "bytes": 100}
    ]
    (path / "manifest.json").write_text(json.dumps(manifest))
    data = path / "SM8650/model.onnx.data"
    model_bytes = onnx.load(path / "model.onnx", load_external_data=False)
    del model_bytes.graph.initializer[:]
    (path / "SM8650/model_ctx.onnx").write_bytes(model_bytes.SerializeToString())
    assert not data.exists()
    return path


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_mutated_folder(command: Path, name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    shutil.copytree(folder, path)
    survive(command, path, path / name)


def edited(folder: Path, target: Path, edit: Callable[[Any], None]) -> Path:
    """A copy whose first tensor in the file of external data is changed."""
    shutil.copytree(folder, target)
    model = onnx.load(target / "model.onnx", load_external_data=False)
    edit(next(each for each in model.graph.initializer if each.external_data))
    (target / "model.onnx").write_bytes(model.SerializeToString())
    return target


def set_entry(key: str, value: str) -> Callable[[Any], None]:
    def edit(tensor: Any) -> None:
        next(entry for entry in tensor.external_data if entry.key == key).value = value

    return edit


def without_entry(key: str) -> Callable[[Any], None]:
    def edit(tensor: Any) -> None:
        tensor.external_data.remove(next(entry for entry in tensor.external_data if entry.key == key))

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_entry("offset", str(1 << 59)), "behind the end"),
        (set_entry("offset", str(1 << 64)), "not a number of bytes"),
        (set_entry("offset", "-64"), "not a number of bytes"),
        (set_entry("length", "-1"), "not a number of bytes"),
        (set_entry("length", "0"), "0 bytes"),
        (set_entry("location", ""), "without that file's name"),
        (without_entry("location"), "without that file's name"),
        (without_entry("length"), "without a length"),
        (lambda tensor: tensor.dims.append(-1), "impossible size"),
        (lambda tensor: tensor.dims.extend([1 << 62, 8]), "impossible size"),
    ],
)
def test_impossible_place_of_a_tensor(
    command: Path, edit: Callable[[Any], None], words: str, folder: Path, tmp_path: Path
) -> None:
    path = edited(folder, tmp_path / "m", edit)
    assert_fails(run_bounded(command, "inspect", path), BAD_FILE, "model.onnx", words)


@pytest.mark.parametrize("name", ["SM8650/model_ctx_qnn.bin", "model.onnx.data"])
@pytest.mark.parametrize("size", [99, 101])
def test_file_of_another_size_than_the_manifest_says(
    command: Path, name: str, size: int, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m"
    shutil.copytree(folder, path)
    (path / name).write_bytes(bytes(size))
    assert_fails(run_bounded(command, "inspect", path), BAD_FILE, name, f"has {size} bytes, and manifest.json says")


# --- Plans and data.


def test_mutated_plan_and_impossible_numbers(command: Path, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    words = ("--target-size", "2MB", "--calibration", tiny / "calibration.txt", "--calibration-sequences", 1)
    assert run("plan", tiny, "-o", path, *words, "--calibration-length", 16).returncode == 0
    plan = json.loads(path.read_text())

    def use(sensitivity: bool) -> tuple[object, ...]:
        if sensitivity:
            return ("plan", tiny, "-o", tmp_path / "again.json", "--target-size", "2MB", "--sensitivity", path)
        return ("export", tiny, "-o", tmp_path / "m.pte", "--plan", path, "--dry-run")

    for number in (-1, 1.5, 1 << 63, 1e300, "4", None, [], True):
        changed = json.loads(json.dumps(plan))
        changed["sensitivity"][0]["parameters"] = number
        path.write_text(json.dumps(changed))
        assert_fails(run_bounded(command, *use(True)), BAD_FILE, "plan.json", "sensitivity")
    for effect in (-1.0, "1e400", None):
        for key in ("kl_divergence", "output_error"):
            changed = json.loads(json.dumps(plan))
            changed["sensitivity"][0]["formats"][0][key] = effect
            path.write_text(json.dumps(changed))
            assert_fails(run_bounded(command, *use(True)), BAD_FILE, "plan.json", "sensitivity")
    content = json.dumps(plan).encode()
    for index, changed_bytes in enumerate(mutations(content, 60, [range(len(content))])):
        path.write_bytes(changed_bytes)
        result = run_bounded(command, *use(index % 2 == 0))
        assert result.returncode in (0, USAGE_ERROR, BAD_FILE, UNSUPPORTED), result.stderr
        assert result.returncode == 0 or result.stderr.count("\n") == 1


def test_mutated_data(command: Path, tiny: Path, tmp_path: Path) -> None:
    """Token ids in NumPy's format and in safetensors."""
    ids = np.arange(32, dtype=np.int64).reshape(2, 16)
    np.save(tmp_path / "ids.npy", ids)
    cut(tiny / "eval.safetensors", tmp_path / "ids.safetensors", 1, length=16, sets=["50"])
    for name, head in (("ids.npy", 128), ("ids.safetensors", 320)):
        path = tmp_path / name
        content = path.read_bytes()
        for changed in mutations(content, 40, [range(min(head, len(content)))]):
            path.write_bytes(changed)
            result = run_bounded(command, "evaluate", tiny, "--data", path, "--quiet", "--length", 16)
            assert result.returncode in (0, USAGE_ERROR, BAD_FILE), result.stderr
            assert result.returncode == 0 or result.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", ["<u8", "<i8", "<u4", "<i4"])
def test_token_ids_at_the_ends_of_their_types(command: Path, dtype: str, tiny: Path, tmp_path: Path) -> None:
    ends = np.iinfo(np.dtype(dtype))
    for value in {int(ends.min), int(ends.max)} - {0}:
        np.save(tmp_path / "ids.npy", np.full((1, 16), value, dtype=dtype))
        result = run_bounded(command, "evaluate", tiny, "--data", tmp_path / "ids.npy", "--quiet", "--length", 16)
        assert_fails(result, BAD_FILE, "ids.npy", str(value))
