"""Palettes of every number of bits: exported, read back, run, evaluated and planned."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json
from conftest import MakeCheckpoint
from coreml_cases import export, load, operations
from coreml_package import read_type
from coremltools_alone import MIL_pb2
from families import Reference, compare
from program import random_ids
from safetensors.torch import load_file, save_file
from torch import Tensor

BITS: Final = (1, 2, 3, 4, 6, 8)
CASES: Final = [
    *((bits, target, 0) for target in ("iOS16", "iOS17") for bits in BITS if bits != 3),
    *((bits, "iOS18", group) for group in (0, 16) for bits in BITS),
]


def words_of(bits: int, group: int = 0) -> tuple[object, ...]:
    """The embedding in the format as well, the head in FP16."""
    name = f"palette{bits}"
    grouped = ("--palette-group", group) if group else ()
    return ("--dtype", name, "--embedding-dtype", name, "--head-dtype", "fp16", *grouped)


def simulated(model: Path, ids: Tensor, folder: Path, *words: object) -> Tensor:
    """The logits [length, vocabulary] of `evaluate` for these ids."""
    data = {"input_ids_50": ids[None].long(), "target_ids_50": ids[None].long().clone()}
    save_file(data, folder / "ids.safetensors")
    target = folder / "logits.safetensors"
    run_json("evaluate", model, "--data", folder / "ids.safetensors", "--logits", target, "--backend", "coreml", *words)
    logits = load_file(target)["logits_50"]
    target.unlink()
    return logits


@pytest.fixture(scope="module")
def model(checkpoint: MakeCheckpoint) -> Path:
    """16 divides the rows of its layers, and of its embedding."""
    return checkpoint("llada", vocab_size=1008, embedding_size=1008)


@pytest.mark.parametrize(("bits", "target", "group"), CASES)
def test_palettes_are_what_evaluate_computes_with(
    bits: int, target: str, group: int, model: Path, tmp_path: Path
) -> None:
    words = words_of(bits, group)
    path = tmp_path / "m.mlpackage"
    report = export(model, path, *words, "--minimum-deployment-target", target, "--seq-len", "1..64")
    assert report["dtype"] == f"palette{bits}"
    shown = {weight["name"]: weight for weight in run_json("inspect", path)["tensors"]}
    decompressed: dict[str, Tensor] = {}

    def observe(operation: MIL_pb2.Operation, result: Tensor) -> None:
        if operation.type == "constexpr_lut_to_dense":
            decompressed[operation.outputs[0].name] = result

    interpreter = load(path, observe)  # coremltools has read it without a warning
    ids = random_ids(37, 1001)
    logits = interpreter.logits(ids)
    assert len(decompressed) == 2 * 7 + 1
    for operation in operations(interpreter.package):
        if operation.type != "constexpr_lut_to_dense":
            continue
        name = operation.outputs[0].name
        rows = decompressed[name].shape[0]
        given = {key: argument.arguments[0].value for key, argument in operation.inputs.items()}
        table = read_type((given or operation.attributes)["lut"].type)
        tables = rows // group if group else 1
        if target == "iOS18":
            assert table.shape == (tables, 1, 1 << bits, 1)
            assert read_type(given["indices"].type).dtype == f"uint{bits}"
        else:
            assert table.shape == (1 << bits,)
        assert (shown[name]["dtype"], shown[name].get("group_size", 0)) == (f"palette{bits}", group)
        for part in decompressed[name].chunk(tables):
            assert len(part.unique()) <= 1 << bits
    # What differs is the program's FP16 arithmetic.
    assert compare(logits, simulated(model, ids, tmp_path, *words))["cosine"] >= 0.9999


def test_more_bits_and_smaller_groups_lose_less(model: Path, tmp_path: Path) -> None:
    ids = random_ids(37, 1001)
    expected = Reference(model).logits(ids)[0]
    for group in (0, 16):
        errors = []
        for bits in BITS:
            logits = simulated(model, ids, tmp_path, *words_of(bits, group))
            errors.append(1.0 - float(compare(logits, expected)["cosine"]))
        assert all(more > less for more, less in pairwise(errors)), errors
        assert errors[-1] < 1e-4


def test_fast_arithmetic_computes_the_same(model: Path, tmp_path: Path) -> None:
    ids = random_ids(37, 1001)
    for bits in (3, 8):
        words = words_of(bits, 16)
        found = simulated(model, ids, tmp_path, *words, "--arithmetic", "fast")
        assert torch.allclose(found, simulated(model, ids, tmp_path, *words), rtol=1e-4, atol=1e-5)


def test_static_activations_go_with_palettes(model: Path, calibration: tuple[object, ...], tmp_path: Path) -> None:
    words = (*words_of(6), "--mode", "static", *calibration)
    path = tmp_path / "m.mlpackage"
    export(model, path, *words, "--minimum-deployment-target", "iOS17", "--seq-len", "1..64")
    ids = random_ids(37, 1001)
    logits = load(path).logits(ids)
    assert compare(logits, simulated(model, ids, tmp_path, *words))["cosine"] >= 0.999
    fast = ("evaluate", model, "--data", tmp_path / "ids.safetensors", "--backend", "coreml", *words)
    assert_fails(run(*fast, "--arithmetic", "fast"), UNSUPPORTED, "no kernel for palettes", "simulated")


def test_option_palette_is_the_format_of_four_bits(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "a.mlpackage", "--dtype", "palette4", "--palette-group", 8)
    export(model, tmp_path / "b.mlpackage", "--dtype", "int4", "--palette", "--palette-group", 8)
    for file in ("Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"):
        assert (tmp_path / "a.mlpackage" / file).read_bytes() == (tmp_path / "b.mlpackage" / file).read_bytes()


@pytest.fixture(scope="module")
def ids_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ids") / "ids.npy"
    np.save(path, random_ids(4 * 30, 1000).reshape(4, 30).numpy())
    return path


def test_plans_choose_among_palettes(model: Path, ids_file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    formats = "fp16,palette8,palette6,palette4,palette3,palette2"
    calibration = ("--calibration", ids_file, "--mask-token-id", 1000, "--palette-group", 16)
    settled = ("--embedding-dtype", "palette4", "--head-dtype", "fp16")
    backend = ("--backend", "coreml")
    size = export(model, tmp_path / "4.mlpackage", *words_of(4, 16), "--seq-len", 64)["file_bytes"]
    report: dict[str, Any] = run_json(
        "plan", model, "-o", plan, *calibration, *backend, *settled, "--formats", formats, "--seq-len", 64,
        "--target-size", size,
    )  # fmt: skip
    assert report["file_bytes"] <= size
    chosen = set(json.loads(plan.read_text())["layers"].values())
    assert len(chosen - {"fp16"}) > 1
    assert chosen <= set(formats.split(","))
    path = tmp_path / "m.mlpackage"
    made = export(model, path, "--plan", plan, "--palette-group", 16, "--seq-len", 64)
    assert made["file_bytes"] == report["file_bytes"]
    ids = random_ids(64, 1001)
    found = simulated(model, ids, tmp_path, "--plan", plan, "--palette-group", 16)
    assert compare(load(path).logits(ids), found)["cosine"] >= 0.9999


def test_plans_have_palettes_where_the_backend_has_them(model: Path, ids_file: Path, tmp_path: Path) -> None:
    words = ("plan", model, "-o", tmp_path / "p.json", "--calibration", ids_file, "--mask-token-id", 1000)
    run_json(*words, "--max-loss", "0.5")
    measured = json.loads((tmp_path / "p.json").read_text())["sensitivity"]
    assert not any("palette" in effect["format"] for unit in measured for effect in unit["formats"])
    wanted = ("--max-loss", "0.5", "--formats", "palette4")
    assert_fails(run(*words, *wanted), UNSUPPORTED, "palette4", "XNNPACK", "--backend coreml")


def test_palettes_that_can_not_be_are_refused(model: Path, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    coreml = ("export", model, "-o", path, "--backend", "coreml")
    for target in ("iOS16", "macOS14"):
        old = ("--minimum-deployment-target", target)
        said = ("palette3", "iOS18 or macOS15", "1, 2, 4, 6 or 8 bits")
        assert_fails(run(*coreml, "--dtype", "palette3", *old), UNSUPPORTED, *said)
        assert_fails(run(*coreml, "--dtype", "palette8", "--palette-group", 8, *old), UNSUPPORTED, "iOS18 or macOS15")
    assert_fails(run(*coreml, "--dtype", "palette2", "--palette-group", 7), UNSUPPORTED, "groups of 7 rows")
    assert_fails(run(*coreml, "--dtype", "palette2", "--method", "hqq"), USAGE_ERROR, "k-means", "hqq")
    assert_fails(run(*coreml, "--dtype", "palette5"), USAGE_ERROR, "palette5", "palette4")
    for backend in ("xnnpack", "qnn"):
        target = tmp_path / ("m.pte" if backend == "xnnpack" else "m")
        words = ("export", model, "-o", target, "--dtype", "palette6", "--backend", backend)
        assert_fails(run(*words), UNSUPPORTED, "palette6", "--backend coreml")
    assert_fails(run("quantize", model, "-o", tmp_path / "q", "--dtype", "palette6"), UNSUPPORTED, "checkpoint")
    odd = checkpoint("llama", vocab_size=64, num_hidden_layers=1, intermediate_size=90)
    for bits, code in ((1, UNSUPPORTED), (3, UNSUPPORTED), (6, UNSUPPORTED), (4, 0), (8, 0)):
        result = run("export", odd, "-o", path, "--backend", "coreml", "--dtype", f"palette{bits}")
        assert result.returncode == code, result.stderr
        assert bits in (4, 8) or f"rows of 90 elements of {bits} bits" in result.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.mlpackage"]
