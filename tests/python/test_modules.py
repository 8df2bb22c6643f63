"""Quantized modules are PyTorch modules: they are saved, loaded, copied, moved and converted without losing a bit."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from modules import Small
from torch import nn

import diffulex_edge
from diffulex_edge.quant import (
    QuantizationConfig,
    QuantizedEmbedding,
    QuantizedLinear,
    quantize_model,
)

CONFIGS = [
    {"dtype": "fp16"},
    {"dtype": "int8"},
    {"dtype": "int8", "mode": "dynamic"},
    {"dtype": "int8", "mode": "static"},
    {"dtype": "int4"},
    {"dtype": "int4", "mode": "dynamic", "group_size": 0},
]
IDS = torch.arange(24).reshape(2, 12)


def quantized(config: dict[str, object], tied: bool = False) -> nn.Module:
    data = [IDS] if config.get("mode") == "static" else None
    model = Small(tied)
    return quantize_model(model, QuantizationConfig(exclude_layers=[], **config), calibration_data=data).model


@pytest.mark.parametrize("config", CONFIGS)
def test_a_state_dict_brings_everything_back(config: dict[str, object]) -> None:
    model, other = quantized(config), quantized(config)
    expected = model(IDS)
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert not torch.equal(other(IDS), expected)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    assert str(other.load_state_dict(torch.load(saved, weights_only=True))) == "<All keys matched successfully>"
    assert torch.equal(other(IDS), expected)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_deep_copy_is_equal_and_its_own(config: dict[str, object]) -> None:
    model = quantized(config)
    expected = model(IDS)
    other = copy.deepcopy(model)
    assert torch.equal(other(IDS), expected)
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert torch.equal(model(IDS), expected)


@pytest.mark.parametrize("config", CONFIGS)
def test_torch_save_keeps_a_whole_module(config: dict[str, object]) -> None:
    model = quantized(config)
    for load in (
        lambda file: torch.load(file, weights_only=False),
        lambda file: pickle.load(io.BytesIO(pickle.dumps(torch.load(file, weights_only=False)))),
    ):
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        other = load(saved)
        assert torch.equal(other(IDS), model(IDS))
        assert repr(other) == repr(model)


def test_conversions_leave_what_is_stored() -> None:
    model = quantized({"dtype": "int4", "embedding_dtype": "int8", "head_dtype": "fp16"})
    stored = {
        f"{name}.{key}": tensor.clone()
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear | QuantizedEmbedding)
        for key, tensor in module.named_buffers()
    }
    assert {tensor.dtype for tensor in stored.values()} == {
        torch.uint8,
        torch.int8,
        torch.float16,
        torch.float32,
        torch.bfloat16,
    }
    for convert in (nn.Module.half, nn.Module.bfloat16, nn.Module.double, lambda m: m.to(torch.bfloat16)):
        converted = convert(copy.deepcopy(model))
        dtype = converted.norm.weight.dtype
        assert dtype != torch.float32
        assert converted.up.bias.dtype == dtype
        assert converted.embed_tokens(IDS).dtype == dtype
        assert converted(IDS).dtype == dtype
        for name, tensor in stored.items():
            same = converted.get_buffer(name)
            assert same.dtype == tensor.dtype, name
            assert torch.equal(same, tensor), name


def test_floats_are_not_loaded_as_integers() -> None:
    model = quantized({"dtype": "int8"})
    with pytest.raises(
        RuntimeError, match=r"up\.weight is stored as torch\.int8 and the state dict has torch\.float32"
    ):
        model.load_state_dict(Small().state_dict(), strict=False)


def test_another_group_size_is_not_loaded() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for up\.weight_scale"):
        quantized({"dtype": "int4"}).load_state_dict(quantized({"dtype": "int4", "group_size": 64}).state_dict())


def test_empty_modules_take_a_state_dict(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype="int4", mode="dynamic", group_size=64)
    empty = QuantizedLinear(64, 48, dtype="int4", mode="dynamic", group_size=64)
    empty.load_state_dict(ours.state_dict())
    x = torch.randn(3, 64)
    assert torch.equal(empty(x), ours(x))


def test_representations_say_the_format(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype="int4", mode="dynamic", group_size=64)
    assert repr(ours) == (
        "QuantizedLinear(in_features=64, out_features=48, bias=True, dtype=int4, group_size=64, mode=dynamic)"
    )
    table = QuantizedEmbedding.from_float(nn.Embedding(5, 32, padding_idx=1), dtype="int8")
    assert repr(table) == "QuantizedEmbedding(5, 32, padding_idx=1, dtype=int8)"
    assert (ours.dtype, ours.mode, ours.group_size) == ("int4", "dynamic", 64)


def test_from_float_keeps_flags_and_the_original(linear: nn.Linear) -> None:
    linear.bias.requires_grad_(False)
    linear.eval()
    weight = linear.weight.clone()
    ours = QuantizedLinear.from_float(linear)
    assert not ours.training
    assert not ours.bias.requires_grad
    assert ours.bias.data_ptr() != linear.bias.data_ptr()
    assert torch.equal(linear.weight, weight)
    assert type(linear) is nn.Linear


BACKWARDS = {"mode": "static", "input_range": (1, 0), "output_range": (0, 1)}


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda m: QuantizedLinear.from_float(m, dtype="fp32"), ValueError, "fp16, int8, int4"),
        (lambda m: QuantizedLinear.from_float(m, dtype=torch.bfloat16), ValueError, "bfloat16"),
        (lambda m: QuantizedLinear.from_float(m, dtype="int4", group_size=128), ValueError, "128"),
        (lambda m: QuantizedLinear.from_float(m, dtype="int4", group_size=33), ValueError, "33"),
        (lambda m: QuantizedLinear.from_float(m, dtype="fp16", mode="dynamic"), ValueError, "FP16"),
        (lambda m: QuantizedLinear.from_float(m, mode="static"), ValueError, "input_range"),
        (lambda m: QuantizedLinear.from_float(m, input_range=(0, 1)), ValueError, "static"),
        (lambda m: QuantizedLinear.from_float(m, **BACKWARDS), ValueError, "not a range"),
        (lambda m: QuantizedLinear.from_float(m, "int4", "static"), diffulex_edge.UnsupportedError, "INT4"),
        (lambda m: QuantizedLinear.from_float(m, method="gptq"), diffulex_edge.UnsupportedError, "gptq"),
        (lambda m: QuantizedLinear.from_float(nn.Embedding(3, 3)), TypeError, "Embedding"),
        (lambda m: QuantizedEmbedding.from_float(m), TypeError, "Linear"),
        (lambda m: QuantizedEmbedding.from_float(nn.Embedding(3, 4, max_norm=1.0)), NotImplementedError, "max_norm"),
        (lambda m: QuantizedLinear.from_float(nn.Linear(33, 3), dtype="int4", group_size=0), ValueError, "33"),
        (lambda m: QuantizedLinear.from_float(nn.Linear(3, 3, device="meta")), ValueError, "meta"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_raises(make: object, error: type[Exception], word: str, linear: nn.Linear) -> None:
    with pytest.raises(error, match=word):
        make(linear)  # type: ignore[operator]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_errors(value: float, linear: nn.Linear) -> None:
    with torch.no_grad():
        linear.weight[5, 7] = value
    with pytest.raises(diffulex_edge.BadFileError, match=r"weight.*(nan|inf)"):
        QuantizedLinear.from_float(linear)


def test_quantized_embeddings_and_heads_that_are_tied_stay_tied() -> None:
    model = quantized({"dtype": "int8"}, tied=True)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.embed_tokens.weight is other.lm_head.weight
        assert other.embed_tokens.weight_scale is other.lm_head.weight_scale
