"""`diffulex-edge quantize`: the stored format to the letter, and what export makes of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import OUTPUT_ERROR, UNSUPPORTED, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES, Reference
from program import Program, random_ids
from quantization import Options, quantize_int4, quantize_int8, round_to_bf16
from safetensors.torch import load_file, save_file
from torch import Tensor

OPTIONS: Final = {
    "fp16": Options("fp16"),
    "fp16 everywhere": Options("fp16", embedding="fp16", head="fp16"),
    "int8": Options("int8"),
    "int8 dynamic": Options("int8", "dynamic"),
    "int8 everywhere": Options("int8", embedding="int8", head="int8"),
    "int4": Options("int4"),
    "int4 everywhere": Options("int4", embedding="int4", head="int4"),
    "int4 per channel": Options("int4", group_size=0),
    "int4 with smaller groups where 256 does not divide": Options("int4", group_size=256),
    "int4 with int8 embedding and head": Options("int4", embedding="int8", head="int8"),
}


def quantize(model: Path, target: Path, options: Options) -> dict[str, Any]:
    return run_json("quantize", model, "-o", target, *options.arguments())


def check_tensor(stored: dict[str, Tensor], name: str, original: Tensor, dtype: str, group_size: int) -> set[str]:
    """One tensor is stored as `dtype` says; the names that it takes in the file."""
    tensor, scale = stored[name], stored.get(f"{name}_scale")
    weight = original.float().numpy()
    if dtype == "int8":
        integers, scales = quantize_int8(weight)
        assert tensor.dtype == torch.int8
        assert np.array_equal(tensor.numpy(), integers)
        assert scale is not None
        assert scale.dtype == torch.float32
        assert np.array_equal(scale.numpy(), scales)
        return {name, f"{name}_scale"}
    if dtype == "int4":
        integers, scales = quantize_int4(weight, group_size)
        nibbles = (integers + 8).astype(np.uint8)
        assert tensor.dtype == torch.uint8
        assert np.array_equal(tensor.numpy(), nibbles[:, 0::2] | nibbles[:, 1::2] << 4)
        assert scale is not None
        assert scale.dtype == (torch.bfloat16 if group_size else torch.float32)
        assert np.array_equal(scale.float().numpy(), round_to_bf16(scales) if group_size else scales)
        return {name, f"{name}_scale"}
    expected = original.half() if dtype == "fp16" else original
    assert tensor.dtype == expected.dtype
    assert torch.equal(tensor, expected)
    return {name}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_stored_tensors_follow_the_definition(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    model = checkpoint(family, dtype="bfloat16", shards=2)
    report = quantize(model, tmp_path / "q", options)
    assert (tmp_path / "q/model.safetensors").stat().st_size == report["file_bytes"]

    stored = load_file(tmp_path / "q/model.safetensors")
    originals = load_file(model / "model-00001-of-00002.safetensors")
    originals |= load_file(model / "model-00002-of-00002.safetensors")
    architecture = Reference(model).architecture
    names = {f"{architecture.module_name(module)}.weight": module for module in architecture.modules()}
    seen: set[str] = set()
    for tensor, original in originals.items():
        dtype, group_size = "fp32", 0
        if tensor in names and original.dim() == 2:
            form = options.format_of(names[tensor], original.shape[1])
            dtype, group_size = form.dtype, form.group_size
        seen |= check_tensor(stored, tensor, original, dtype, group_size)
    assert set(stored) == seen


def test_int8_clamps_nothing_and_keeps_rows_of_zeros_exact(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llama", vocab_size=64)
    weights = load_file(model / "model.safetensors")
    weight = weights["model.layers.0.mlp.down_proj.weight"]
    weight[0] = 0.0
    weight[1] = -0.0
    weight[2, 3], weight[3, 4] = 1e-30, -3e38
    weight[4] = 1e-42  # subnormal
    copy = tmp_path / "model"
    copy.mkdir()
    (copy / "config.json").write_bytes((model / "config.json").read_bytes())
    save_file(weights, copy / "model.safetensors")
    quantize(copy, tmp_path / "q", Options("int8"))
    stored = load_file(tmp_path / "q/model.safetensors")
    integers = stored["model.layers.0.mlp.down_proj.weight"]
    scale = stored["model.layers.0.mlp.down_proj.weight_scale"]
    assert scale[0] == scale[1] == 1.0
    assert not integers[:2].any()
    assert integers[3, 4] == -127
    assert torch.isfinite(scale).all()
    assert (scale >= torch.finfo(torch.float32).tiny).all()  # the runtime refuses subnormal scales


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", ["llada", "qwen2", "fast_dllm_v2"])
def test_export_of_a_quantized_checkpoint_equals_the_direct_export(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    model = checkpoint(family)
    quantize(model, tmp_path / "q", options)
    direct = export(model, tmp_path / "direct.pte", *options.arguments())
    report = export(tmp_path / "q", tmp_path / "again.pte")  # dtype and mode are those of the checkpoint
    for key in ("dtype", "mode", "file_bytes", "quantized_memory_mb", "operators_outside_delegate"):
        assert report[key] == direct[key]
    assert (tmp_path / "again.pte").read_bytes() == (tmp_path / "direct.pte").read_bytes()


def test_trained_model_gives_the_same_logits_either_way(tiny: Path, tmp_path: Path) -> None:
    options = Options("int4", embedding="int8", head="int8")
    quantize(tiny, tmp_path / "q", options)
    export(tiny, tmp_path / "direct.pte", *options.arguments())
    export(tmp_path / "q", tmp_path / "again.pte")
    ids = random_ids(128, 1024)
    assert torch.equal(Program(tmp_path / "again.pte").logits(ids), Program(tmp_path / "direct.pte").logits(ids))


def test_folder_is_complete(tiny: Path, tmp_path: Path) -> None:
    quantize(tiny, tmp_path / "q", Options("int8", "dynamic"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"]
    assert sorted(path.name for path in (tmp_path / "q").iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "q/tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    config = json.loads((tmp_path / "q/config.json").read_text())
    note = config.pop("quantization_config")
    assert config == json.loads((tiny / "config.json").read_text())
    assert note["quant_method"] == "diffulex_edge"
    assert (note["dtype"], note["mode"]) == ("int8", "dynamic")
    assert note["exclude_layers"] == ["lm_head", "norm", "embedding", "router"]


@pytest.mark.parametrize("name", ["fp16", "int8 everywhere", "int4 everywhere", "int4 per channel"])
def test_inspect_shows_what_is_stored(name: str, tiny: Path, tmp_path: Path) -> None:
    quantize(tiny, tmp_path / "q", OPTIONS[name])
    report = run_json("inspect", tmp_path / "q")
    assert report["kind"] == "checkpoint"
    assert report["config"]["family"] == "llada"
    assert report["parameters"] == 2_885_888
    stored = load_file(tmp_path / "q/model.safetensors")
    shown = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert set(shown) == set(stored)
    assert report["file_bytes"] == (tmp_path / "q/model.safetensors").stat().st_size
    types = {torch.uint8: "I4", torch.int8: "I8", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
    for name, tensor in stored.items():
        rows = list(tensor.shape)
        if tensor.dtype == torch.uint8:
            rows[1] *= 2
        assert shown[name]["shape"] == rows
        assert shown[name]["dtype"] == types[tensor.dtype]
        assert shown[name]["bytes"] == tensor.nbytes
        raw = tensor.view(torch.uint8).numpy().tobytes()
        assert shown[name]["sha256"] == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("int8", ("--dtype", "int4")),
        ("int8", ("--dtype", "fp16")),
        ("int8", ("--dtype", "fp32")),
        ("int4", ("--dtype", "int8")),
        ("int4", ("--dtype", "int4", "--group-size", 0)),
        ("int4", ("--group-size", 64)),
        ("int4 per channel", ("--dtype", "int4", "--group-size", 32)),
    ],
)
@pytest.mark.parametrize("subcommand", ["export", "quantize"])
def test_quantized_weights_are_not_quantized_again(
    subcommand: str, stored: str, wanted: tuple[object, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    wide = {"d_model": 128, "mlp_hidden_size": 256, "n_heads": 4}
    quantize(checkpoint("llada", **wide), tmp_path / "q", OPTIONS[stored])
    result = run(subcommand, tmp_path / "q", "-o", tmp_path / "out", *wanted)
    assert_fails(result, USAGE_ERROR, "unquantized")
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_mode_of_a_quantized_checkpoint_may_change(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(checkpoint("llada"), tmp_path / "q", Options("int8"))
    report = export(tmp_path / "q", tmp_path / "model.pte", "--mode", "dynamic")
    assert {layer["kernel"] for layer in report["layers"] if layer["dtype"] == "int8"} == {"qd8 x qc8w"}


def test_tied_weight_cannot_be_stored_twice(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    arguments = ("--dtype", "int8", "--head-dtype", "int8")
    result = run("quantize", checkpoint("fast_dllm_v2"), "-o", tmp_path / "q", *arguments)
    assert_fails(result, USAGE_ERROR, "embed_tokens", "--embedding-dtype")
    assert not list(tmp_path.iterdir())


def test_int4_rows_of_odd_length_are_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llama", intermediate_size=161)
    result = run("quantize", model, "-o", tmp_path / "q", "--dtype", "int4", "--group-size", 0)
    assert_fails(result, UNSUPPORTED, "down_proj")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_only_taken_when_empty(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    quantize(tiny, tmp_path / "q", Options("fp16"))
    before = (tmp_path / "q/model.safetensors").read_bytes()
    result = run("quantize", tiny, "-o", tmp_path / "q", "--dtype", "int8")
    assert_fails(result, OUTPUT_ERROR, "not an empty folder")
    assert (tmp_path / "q/model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


@pytest.mark.parametrize("family", ["sdar", "llada"])
def test_the_mask_token_that_was_named_is_kept(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    run_json("quantize", checkpoint(family), "-o", tmp_path / "q", "--dtype", "int8", "--mask-token-id", 7)
    assert json.loads((tmp_path / "q/config.json").read_text())["mask_token_id"] == 7
    export(tmp_path / "q", tmp_path / "m.pte")
    assert run_json("inspect", tmp_path / "m.pte")["metadata"]["get_mask_id"] == 7
