"""Layers that torchao quantized become ours where the numbers are the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from modules import Small, unchanged
from torch import Tensor, nn

import diffulex_edge
from diffulex_edge.quant import QuantizationConfig, QuantizedEmbedding, QuantizedLinear, from_torchao, quantize_model

torchao = pytest.importorskip("torchao")
from torchao.quantization import (  # noqa: E402
    Int8DynamicActivationInt8WeightConfig,
    Int8DynamicActivationIntxWeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerAxis,
    PerGroup,
    PerTensor,
    quantize_,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
IDS = torch.arange(24).reshape(2, 12)
LINEAR_NAMES = ("up", "down")


def torchao_model(config: Any, dtype: torch.dtype = torch.float32, embedding: bool = False) -> nn.Module:
    model = Small().to(dtype).eval()

    def chosen(module: nn.Module, name: str) -> bool:
        return name in LINEAR_NAMES or (embedding and isinstance(module, nn.Embedding))

    quantize_(model, config, filter_fn=chosen)
    assert type(model.up.weight).__module__.startswith("torchao")
    return model


def dequantized(module: nn.Module) -> Tensor:
    return module.weight.dequantize().float()


ACCEPTED = [
    pytest.param(Int8WeightOnlyConfig(version=2), torch.float32, "int8", "weight_only", 0, id="int8"),
    pytest.param(Int8WeightOnlyConfig(version=2), torch.bfloat16, "int8", "weight_only", 0, id="int8-bf16"),
    pytest.param(
        Int8DynamicActivationInt8WeightConfig(version=2, act_mapping_type=MappingType.ASYMMETRIC),
        torch.float32, "int8", "dynamic", 0, id="int8-dynamic",
    ),
    pytest.param(
        IntxWeightOnlyConfig(torch.int8, PerAxis(0)), torch.float32, "int8", "weight_only", 0, id="intx-int8"
    ),
    pytest.param(
        IntxWeightOnlyConfig(torch.int4, PerGroup(32)), torch.bfloat16, "int4", "weight_only", 32, id="intx-int4-bf16"
    ),
    pytest.param(
        IntxWeightOnlyConfig(torch.int4, PerAxis(0)), torch.float32, "int4", "weight_only", 0, id="intx-int4-channel"
    ),
    pytest.param(
        Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32), weight_scale_dtype=torch.bfloat16),
        torch.float32, "int4", "dynamic", 32, id="8da4w",
    ),
    pytest.param(
        Int8DynamicActivationIntxWeightConfig(torch.int8, PerAxis(0)), torch.float32, "int8", "dynamic", 0, id="8da8w"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "source", "dtype", "mode", "group_size"), ACCEPTED)
def test_weights_are_the_same_numbers_and_outputs_equal(
    config: Any, source: torch.dtype, dtype: str, mode: str, group_size: int
) -> None:
    model = torchao_model(config, source)
    ours = from_torchao(model)
    for name in LINEAR_NAMES:
        module, theirs = ours.get_submodule(name), model.get_submodule(name)
        assert isinstance(module, QuantizedLinear)
        assert (module.dtype, module.mode, module.group_size) == (dtype, mode, group_size)
        tolerance = 0.0 if source == torch.float32 else 2**-8  # torchao dequantizes to the model's dtype
        torch.testing.assert_close(module.dequantize(), dequantized(theirs), rtol=tolerance, atol=0.0)
        assert torch.equal(module.bias, theirs.bias)
    # torchao rounds activations a little otherwise: up to a step of a token's 255.
    tolerance = {torch.bfloat16: 0.03, torch.float32: 1e-5 if mode == "weight_only" else 0.02}[source]
    torch.testing.assert_close(ours(IDS), model(IDS), rtol=tolerance, atol=tolerance)


def test_embeddings_are_taken_too() -> None:
    model = torchao_model(IntxWeightOnlyConfig(torch.int8, PerAxis(0)), embedding=True)
    ours = from_torchao(model)
    assert isinstance(ours.embed_tokens, QuantizedEmbedding)
    assert torch.equal(ours.embed_tokens(IDS), dequantized(model.embed_tokens)[IDS])


def test_the_model_is_left_as_it_was() -> None:
    model = torchao_model(Int8WeightOnlyConfig(version=2))
    qdata = model.up.weight.qdata
    before = qdata.clone()
    ours = from_torchao(model)
    ours.up.weight.zero_()
    assert torch.equal(model.up.weight.qdata, before)
    assert model.up.weight.qdata is qdata


def test_int4_tensors_are_taken_by_their_documented_layout() -> None:
    """Their kernels need a GPU; nibbles in two's complement, the even column's low, scales [in / group, out]."""
    from torchao.quantization.quantize_.workflows.int4.int4_tensor import Int4Tensor

    q = torch.randint(-8, 8, (48, 64), generator=torch.Generator().manual_seed(0))
    scale = torch.rand(2, 48).to(torch.bfloat16) + 0.5
    packed = ((q[:, 0::2] & 0xF) | ((q[:, 1::2] & 0xF) << 4)).to(torch.uint8).view(torch.int8)
    linear = nn.Linear(64, 48)
    linear.weight = nn.Parameter(
        Int4Tensor(packed, scale, torch.zeros_like(scale), [1, 32], torch.Size((48, 64))), requires_grad=False
    )
    ours = from_torchao(linear)
    assert (ours.dtype, ours.group_size) == ("int4", 32)
    expected = q.reshape(48, 2, 32) * scale.T.float()[..., None]
    assert torch.equal(ours.dequantize(), expected.reshape(48, 64))
    linear.weight.zero_point[1, 2] = 0.5
    with pytest.raises(diffulex_edge.UnsupportedError, match="zero points"):
        from_torchao(linear)


REFUSED = [
    pytest.param(Int8DynamicActivationInt8WeightConfig(version=2), "symmetrically", id="symmetric-activations"),
    pytest.param(Int8WeightOnlyConfig(version=2, granularity=PerTensor()), "rows share a scale", id="per-tensor"),
    pytest.param(IntxWeightOnlyConfig(torch.int4, PerGroup(32)), "bfloat16", id="float32-scales"),
    pytest.param(IntxWeightOnlyConfig(torch.int8, PerGroup(32)), "int8 in groups of 32", id="int8-groups"),
    pytest.param(IntxWeightOnlyConfig(torch.int4, PerGroup(16)), "groups of 16", id="small-groups"),
    pytest.param(IntxWeightOnlyConfig(torch.int3, PerGroup(32)), "int3", id="int3"),
    pytest.param(
        IntxWeightOnlyConfig(torch.int8, PerAxis(0), mapping_type=MappingType.ASYMMETRIC),
        "zero points",
        id="asymmetric",
    ),
]


@pytest.mark.parametrize(("config", "word"), REFUSED)
def test_other_formats_are_errors_that_name_the_layer(config: Any, word: str) -> None:
    model = torchao_model(config)
    for convert in (from_torchao, lambda m: quantize_model(m, QuantizationConfig(dtype="int8"))):
        with pytest.raises(diffulex_edge.UnsupportedError, match=f"up: .*{word}"):
            convert(model)


def test_packed_formats_are_errors() -> None:
    class Packed(Tensor):
        pass

    Packed.__module__ = "torchao.quantization.somewhere"
    linear = nn.Linear(32, 32)
    linear.weight = nn.Parameter(torch.zeros(32, 32).as_subclass(Packed), requires_grad=False)
    with pytest.raises(diffulex_edge.UnsupportedError, match="Packed is packed for other kernels"):
        from_torchao(nn.Sequential(linear))


def test_a_model_without_torchao_is_an_error() -> None:
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="no layer"):
        from_torchao(Small())


def test_quantizing_keeps_what_torchao_quantized() -> None:
    model = torchao_model(Int8WeightOnlyConfig(version=2))
    check = unchanged(Small())
    result = quantize_model(model, QuantizationConfig(dtype="int8", head_dtype="int8", mode="dynamic"))
    check()
    assert torch.equal(result.model.up.weight, model.up.weight.qdata)
    assert torch.equal(result.model.up.weight_scale, model.up.weight.scale.flatten())
    assert result.model.up.mode == "dynamic"
    assert isinstance(result.model.lm_head, QuantizedLinear)  # torchao left it in float32
    by_name = {layer.name: layer for layer in result.layers}
    assert by_name["up"].weight_error is None
    assert by_name["lm_head"].weight_error > 0
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"up\.weight"):
        quantize_model(model, QuantizationConfig(dtype="int4"))


def test_converted_models_are_modules_like_others() -> None:
    ours = from_torchao(torchao_model(Int8WeightOnlyConfig(version=2)))
    assert torch.equal(copy.deepcopy(ours)(IDS), ours(IDS))
    program = torch.export.export(ours, (IDS,))
    nodes = [str(node.target) for node in program.graph.nodes]
    assert nodes.count("diffulex_edge.quantized_linear.default") == 2
    assert "extra_repr" not in vars(ours.up)
