"""The bundled model: what it takes on disk, to the byte, and what quantization costs in loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import export, run_json
from program import Program
from quantization import Format, Options, QuantizedReference
from safetensors.torch import load_file
from torch import Tensor

MEBIBYTE: Final = 2**20

# What the file may have beside weights and scales: program, delegate graph, computed constants, alignment.
OVERHEAD: Final = 80_000

LIMITS_MIB: Final = {
    "fp16": (Options("fp16"), 6.7),
    "int8": (Options("int8"), 4.5),
    "int8 dynamic": (Options("int8", "dynamic"), 4.5),
    "int4 g32": (Options("int4"), 3.4),
    "int4 g32, fp16 embedding and head": (Options("int4", embedding="fp16", head="fp16"), 2.4),
    "int4 g32, int8 embedding and head": (Options("int4", embedding="int8", head="int8"), 1.9),
    "int4 everywhere": (Options("int4", embedding="int4", head="int4"), 1.7),
}

FORMATS: Final = [
    Options(),
    Options("fp16"),
    Options("fp16", embedding="fp16", head="fp16", activations="fp16"),
    Options("int8"),
    Options("int8", "dynamic"),
    Options("int8", embedding="int8", head="int8"),
    *(Options("int4", group_size=size) for size in (0, 32, 64, 128, 256)),
    Options("int4", embedding="fp16", head="fp16"),
    Options("int4", embedding="int8", head="int8"),
    Options("int4", embedding="int4", head="int4"),
    Options("int4", "dynamic", group_size=0, embedding="int4", head="int4"),
]


def label(options: Options) -> str:
    return "-".join(word.removeprefix("--") for word in options.arguments()) or "fp32"


@pytest.mark.parametrize("name", LIMITS_MIB)
def test_file_stays_within_its_limit(name: str, tiny: Path, tmp_path: Path) -> None:
    options, limit = LIMITS_MIB[name]
    export(tiny, tmp_path / "model.pte", *options.arguments())
    assert (tmp_path / "model.pte").stat().st_size / MEBIBYTE <= limit


@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_dry_run_predicts_the_file_to_the_byte(options: Options, tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.pte"
    predicted = export(tiny, target, *options.arguments(), "--dry-run")
    assert not target.exists()
    written = export(tiny, target, *options.arguments())
    assert target.stat().st_size == written["file_bytes"]
    assert predicted["dry_run"] is True
    assert written["dry_run"] is False
    changing = ("dry_run", "seconds", "peak_rss_bytes")
    assert {key: predicted[key] for key in predicted if key not in changing} == {
        key: written[key] for key in written if key not in changing
    }


@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_stored_bytes_follow_the_formula(options: Options, tiny: Path, tmp_path: Path) -> None:
    report = export(tiny, tmp_path / "model.pte", *options.arguments())
    formats = QuantizedReference(tiny, options).formats
    total = 0
    for layer in report["layers"]:
        rows, columns = layer["rows"], layer["columns"]
        scale_bytes = 4 if layer["role"] == "embedding" else 2
        expected = formats.get(layer["layer"], Format("fp32")).stored_bytes(rows, columns, scale_bytes)
        assert layer["stored_bytes"] == expected, layer["layer"]
        total += expected
    parameters = sum(layer["rows"] * layer["columns"] for layer in report["layers"])
    assert report["parameters"] == parameters
    assert report["original_memory_mb"] == pytest.approx(4 * parameters / 1e6)
    assert report["quantized_memory_mb"] == pytest.approx(total / 1e6)
    assert report["compression_ratio"] == pytest.approx(4 * parameters / total)
    assert report["memory_reduction_pct"] == pytest.approx(100 * (1 - total / (4 * parameters)))
    assert total <= report["file_bytes"] <= total + OVERHEAD


@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_inspect_finds_the_same_bytes_in_the_file(options: Options, tiny: Path, tmp_path: Path) -> None:
    report = export(tiny, tmp_path / "model.pte", *options.arguments())
    found = run_json("inspect", tmp_path / "model.pte")
    assert found["file_bytes"] == report["file_bytes"]
    in_file = {weight["name"].split(":")[0]: weight for weight in found["tensors"] if ":scale" not in weight["name"]}
    # What the delegate does not pack is a constant tensor of the program.
    program_types = {"FLOAT": "fp32", "HALF": "fp16"}
    group_scales = {weight["name"].split(":")[0]: weight for weight in found["tensors"] if ":scale" in weight["name"]}
    formats = QuantizedReference(tiny, options).formats
    for layer in report["layers"]:
        if layer["role"] == "embedding":
            continue  # a constant tensor of the program, not a named weight of the delegate
        stored = formats.get(layer["layer"], Format("fp32"))
        weight, rows, columns = in_file[layer["tensor"]], layer["rows"], layer["columns"]
        channel_scales = 4 * rows if stored.dtype in ("int8", "int4") and stored.group_size == 0 else 0  # in the graph
        scales = group_scales[layer["tensor"]]["bytes"] if stored.group_size else channel_scales
        assert weight["bytes"] + scales == stored.stored_bytes(rows, columns)
        assert program_types.get(weight["dtype"], weight["dtype"]) == datatype(stored)
        assert weight["group_size"] == stored.group_size


def datatype(stored: Format) -> str:
    """XNNPACK's name of a format."""
    int4 = "qbint4" if stored.group_size else "qcint4"
    return {"fp32": "fp32", "fp16": "fp16", "int8": "qcint8", "int4": int4}[stored.dtype]


# --- Loss.


def mean_loss(program: Program, inputs: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy in nats over the counted positions; inputs and targets int64 [sequences, length]."""
    logits = torch.cat([program.logits(ids) for ids in inputs])
    return float(torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-100))


# The most that the mean loss may be above FP32's, in nats.
LOSS_LIMITS: Final = {
    "fp32": (Options(), 0.0),
    "fp16": (Options("fp16"), 0.001),
    "fp16 throughout": (Options("fp16", embedding="fp16", head="fp16", activations="fp16"), 0.002),
    "int8": (Options("int8"), 0.01),
    "int8 dynamic": (Options("int8", "dynamic"), 0.01),
    "int8 everywhere": (Options("int8", "dynamic", embedding="int8", head="int8"), 0.01),
    "int4 g32": (Options("int4"), 0.1),
    "int4 everywhere": (Options("int4", embedding="int4", head="int4"), 0.15),
}


@pytest.mark.parametrize("name", LOSS_LIMITS)
def test_loss_is_what_the_model_has(name: str, tiny: Path, tmp_path: Path) -> None:
    options, allowance = LOSS_LIMITS[name]
    export(tiny, tmp_path / "model.pte", *options.arguments())
    program = Program(tmp_path / "model.pte")
    data = load_file(tiny / "eval.safetensors")
    expected: dict[str, Any] = json.loads((tiny / "eval.json").read_text())["fp32"]
    ratios = ("15", "50", "90") if name == "fp32" else ("50",)
    for ratio in ratios:
        loss = mean_loss(program, data[f"input_ids_{ratio}"], data[f"target_ids_{ratio}"])
        assert loss == pytest.approx(expected[ratio]["mean_nll"], abs=allowance + 1e-3), f"mask ratio {ratio}%"
