"""Checkpoints that GPTQ, AWQ, compressed-tensors, FP8 and bitsandbytes have quantized mean what their layouts say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, assert_fails, run, run_json
from families import make_config, make_weights, write_checkpoint
from prequantized import LAYOUTS, Awq, Gptq, Layout, LlmInt8, Nf4, PackedIntegers, quantized
from safetensors.torch import load_file, save_file
from simulation import simulated_logits
from torch import Tensor

SIZES: Final = {"hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 1, "vocab_size": 128}


def is_layer(name: str) -> bool:
    return name.endswith("_proj.weight")


def write_models(folder: Path, layout: Layout) -> tuple[Path, Path, dict[str, Tensor]]:
    """The quantized checkpoint, the plain one that holds the same values, and these."""
    config = make_config("llama", **SIZES)
    packed, plain = quantized(make_weights(config), layout, is_layer)
    if isinstance(layout, Gptq) and layout.own_file:
        write_checkpoint(folder / "packed", config, packed)
        settings = {key: value for key, value in layout.config().items() if key != "quant_method"}
        (folder / "packed/quantize_config.json").write_text(json.dumps(settings))
    else:
        write_checkpoint(folder / "packed", config | {"quantization_config": layout.config()}, packed)
    return folder / "packed", write_checkpoint(folder / "plain", config, plain), plain


def logits(model: Path, folder: Path) -> Tensor:
    ids = torch.randint(0, SIZES["vocab_size"], (24,), generator=torch.Generator().manual_seed(3))
    return simulated_logits(model, ids, folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_logits_are_those_of_the_plain_checkpoint(name: str, tmp_path: Path) -> None:
    packed, plain, values = write_models(tmp_path, LAYOUTS[name])
    run_json("quantize", packed, "-o", tmp_path / "written", "--dtype", "fp32")
    written = load_file(tmp_path / "written/model.safetensors")
    assert set(written) == set(values)
    for tensor, value in values.items():
        assert written[tensor].dtype == torch.float32, tensor
        assert torch.equal(written[tensor], value), tensor
    assert torch.equal(logits(packed, tmp_path), logits(plain, tmp_path))


@pytest.mark.parametrize("name", ["gptq-reordered", "awq", "packed-int4", "fp8-blocks", "nf4-nested"])
def test_an_export_is_that_of_the_plain_checkpoint(name: str, tmp_path: Path) -> None:
    packed, plain, _ = write_models(tmp_path, LAYOUTS[name])
    for options in (("--dtype", "int4", "--group-size", "32"), ("--dtype", "fp16")):
        report = run_json("export", packed, "-o", tmp_path / "packed.pte", *options)
        run_json("export", plain, "-o", tmp_path / "plain.pte", *options)
        assert (tmp_path / "packed.pte").read_bytes() == (tmp_path / "plain.pte").read_bytes()
        assert any("quantizing them again adds to their loss" in warning for warning in report["warnings"])


def test_inspect_shows_the_weights_not_their_parts(tmp_path: Path) -> None:
    packed, _, values = write_models(tmp_path, Gptq(symmetric=False))
    report = run_json("inspect", packed)
    tensors = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert set(values) <= set(tensors)
    weight = tensors["model.layers.0.mlp.up_proj.weight"]
    assert weight["dtype"] == "GPTQ INT4 in groups of 32"
    assert weight["shape"] == [320, 192]
    assert weight["bytes"] == 320 * 192 // 2 + 6 * (320 // 2 + 320 * 2) + 192 * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quant_method": "quip"}, ["\"quip\"", "compressed-tensors", "unquantized checkpoint"]),
        ({"bits": 5}, ["5 bits"]),
        ({"checkpoint_format": "marlin"}, ["\"marlin\""]),
        ({"quant_method": "awq", "version": "gemv_fast"}, ["\"gemv_fast\""]),
        ({"quant_method": "bitsandbytes"}, ["neither load_in_4bit nor load_in_8bit"]),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, ["marlin-24"]),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized",
             "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}}},
            ["4 bits", "float"],
        ),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "transform_config": {"R1": {}}},
            ["transform_config"],
        ),
    ],
)  # fmt: skip
def test_another_method_is_refused_in_one_sentence(change: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    packed, _, _ = write_models(tmp_path, Gptq())
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] |= change
    (packed / "config.json").write_text(json.dumps(config))
    for command in (("inspect", packed), ("export", packed, "-o", tmp_path / "x.pte", "--dtype", "int8")):
        assert_fails(run(*command), UNSUPPORTED, "config.json", *words)


def rewrite(model: Path, **changes: Tensor | None) -> None:
    """Replaces tensors of the first layer's o_proj; None removes one."""
    tensors = load_file(model / "model.safetensors")
    for key, value in changes.items():
        name = f"model.layers.0.self_attn.o_proj.{key}"
        assert name in tensors, name
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, model / "model.safetensors")


BROKEN: Final[list[tuple[Layout, dict[str, Tensor | None], list[str]]]] = [
    (Gptq(), {"scales": None}, ["no tensor", "o_proj.scales"]),
    (Gptq(), {"qzeros": torch.zeros(2, 2, dtype=torch.int32)}, ["o_proj.qzeros", "[2, 2]"]),
    (Gptq(), {"qweight": torch.zeros(8, dtype=torch.int32)}, ["o_proj.qweight", "[8]"]),
    (Gptq(), {"qweight": torch.zeros(24, 192)}, ["o_proj.qweight", "F32, not I32"]),
    (Gptq(), {"g_idx": torch.full((192,), 99, dtype=torch.int32)}, ["o_proj.g_idx", "group 99 of 6"]),
    (Gptq(), {"g_idx": torch.full((192,), -1, dtype=torch.int32)}, ["o_proj.g_idx", "group -1 of 6"]),
    (Gptq(), {"bias": torch.ones(192)}, ["o_proj.bias", "has no place"]),
    (Gptq(bits=3), {"qweight": torch.zeros(19, 192, dtype=torch.int32)}, ["o_proj.qweight", "19 words of 3 bits"]),
    (Awq(), {"qzeros": torch.zeros(6, 3, dtype=torch.int32)}, ["o_proj.qzeros", "[6, 3]"]),
    (Awq(version="gemv"), {"qzeros": torch.zeros(192, 0, dtype=torch.int32)}, ["o_proj.qzeros", "no room for 6"]),
    (Awq(version="gemv"), {"scales": torch.zeros(192, 6)}, ["o_proj.scales", "[192, 6]"]),
    (LlmInt8(), {"SCB": torch.zeros(100)}, ["o_proj.SCB", "100 elements"]),
    (LlmInt8(), {"weight_format": torch.ones((), dtype=torch.uint8)}, ["o_proj.weight_format", "one kind of GPU"]),
    (PackedIntegers(), {"weight_shape": torch.tensor([1 << 40, 192])}, ["o_proj.weight_shape", "1099511627776"]),
    (PackedIntegers(), {"weight_shape": torch.tensor([192, 100])}, ["o_proj.weight_packed", "24 words"]),
    (PackedIntegers(), {"weight_scale": torch.ones(192, 5)}, ["o_proj.weight_scale", "[192, 5]"]),
    (Nf4(), {"weight.absmax": torch.zeros(9, dtype=torch.uint8)}, ["absmax", "9 elements"]),
    (Nf4(), {"weight.quant_state.bitsandbytes__nf4": torch.tensor(list(b"{}"), dtype=torch.uint8)}, ["'shape'"]),
    (Nf4(), {"weight.quant_state.bitsandbytes__nf4": torch.tensor([255, 0], dtype=torch.uint8)}, ["JSON"]),
]


@pytest.mark.parametrize(("layout", "changes", "words"), BROKEN)
def test_damaged_tensors_are_named(
    layout: Layout, changes: dict[str, Tensor | None], words: list[str], tmp_path: Path
) -> None:
    packed, _, _ = write_models(tmp_path, layout)
    rewrite(packed, **changes)
    code = UNSUPPORTED if {"has no place", "24 words", "one kind of GPU"} & set(words) else BAD_FILE
    target = tmp_path / "x.pte"
    assert_fails(run("export", packed, "-o", target, "--dtype", "int8"), code, *words)
    assert not target.exists()


def test_values_that_are_not_finite_name_their_element(tmp_path: Path) -> None:
    packed, _, _ = write_models(tmp_path, Gptq())
    scales = load_file(packed / "model.safetensors")["model.layers.0.self_attn.o_proj.scales"]
    scales[1, 5] = torch.inf
    rewrite(packed, scales=scales)
    result = run("export", packed, "-o", tmp_path / "x.pte", "--dtype", "int8")
    assert_fails(result, BAD_FILE, "o_proj.weight", "element [5, 32]", "is not finite")


def test_announced_weights_have_to_be_there(tmp_path: Path) -> None:
    _, plain, _ = write_models(tmp_path, Gptq())
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": Gptq().config()}
    (plain / "config.json").write_text(json.dumps(config))
    assert_fails(run("inspect", plain), BAD_FILE, "quantization_config", "remove the key")
