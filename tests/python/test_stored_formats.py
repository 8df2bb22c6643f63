"""Weights of modules are stored byte for byte as `diffulex-edge quantize` stores those of checkpoints."""

from __future__ import annotations

import pytest
import torch
from checkpoints import Quantize
from modules import Llada
from safetensors.torch import load_file
from torch import Tensor, nn

from diffulex_edge.quant import QuantizationConfig, QuantizedEmbedding, QuantizedLinear, quantize_model

CASES = [
    (["--dtype", "fp16"], {"dtype": "fp16"}),
    (["--dtype", "int8"], {"dtype": "int8"}),
    (["--dtype", "int8", "--method", "mse"], {"dtype": "int8", "method": "mse"}),
    (["--dtype", "int4"], {"dtype": "int4"}),
    (["--dtype", "int4", "--group-size", "64"], {"dtype": "int4", "group_size": 64}),
    (["--dtype", "int4", "--group-size", "128"], {"dtype": "int4", "group_size": 128}),
    (["--dtype", "int4", "--group-size", "256"], {"dtype": "int4", "group_size": 256}),
    (["--dtype", "int4", "--group-size", "0"], {"dtype": "int4", "group_size": 0}),
    (["--dtype", "int4", "--method", "hqq"], {"dtype": "int4", "method": "hqq"}),
    (
        ["--dtype", "int4", "--embedding-dtype", "int8", "--head-dtype", "fp16"],
        {"dtype": "int4", "embedding_dtype": "int8", "head_dtype": "fp16"},
    ),
    (["--dtype", "int8", "--exclude", "ff_proj"], {"dtype": "int8", "exclude": ["ff_proj"]}),
]


@pytest.mark.parametrize(("options", "config"), CASES, ids=[" ".join(options) for options, _ in CASES])
def test_bytes_are_those_of_the_command(
    options: list[str], config: dict[str, object], llada: Llada, quantize_checkpoint: Quantize
) -> None:
    config = dict(config)
    exclude = ["lm_head", "norm", "embedding", "router", *config.pop("exclude", [])]
    written = load_file(quantize_checkpoint(*options) / "model.safetensors")
    stored = quantize_model(llada, QuantizationConfig(exclude_layers=exclude, **config)).model.state_dict()
    assert set(stored) == set(written)
    for name, tensor in written.items():
        assert stored[name].dtype == tensor.dtype, name
        assert torch.equal(stored[name], tensor), name
    quantized = [name for name in written if name.endswith("_scale") or written[name].dtype == torch.float16]
    assert len(quantized) >= 24


def test_int8_follows_its_formula(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype=torch.int8)
    scale = linear.weight.abs().amax(1) / 127
    assert torch.equal(ours.weight_scale, scale)
    assert torch.equal(ours.weight, (linear.weight / scale[:, None]).round().clamp(-128, 127).to(torch.int8))


def test_int4_follows_its_formula(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype="int4", group_size=32)
    groups = linear.weight.detach().reshape(48, 2, 32)
    scale = torch.maximum(groups.amax(2) / 7, -groups.amin(2) / 8).to(torch.bfloat16)
    q = (groups / scale.float()[..., None]).round().clamp(-8, 7).reshape(48, 64).to(torch.int16) + 8
    assert torch.equal(ours.weight_scale, scale)
    assert torch.equal(ours.weight, (q[:, 0::2] | q[:, 1::2] << 4).to(torch.uint8))


def test_a_row_of_zeros_has_the_scale_1(linear: nn.Linear) -> None:
    with torch.no_grad():
        linear.weight[3] = 0
    ours = QuantizedLinear.from_float(linear, dtype="int8")
    assert ours.weight_scale[3] == 1
    assert not ours.weight[3].any()


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
def test_sources_of_any_float_type(dtype: str, source: torch.dtype, linear: nn.Linear) -> None:
    linear = linear.to(source)
    ours = QuantizedLinear.from_float(linear, dtype=dtype)
    step = {"fp16": 2.0**-11, "int8": 0.5 / 127, "int4": 0.5 / 6.9}[dtype]
    bound = linear.weight.float().abs().amax(1, keepdim=True) * step + 1e-9
    assert ((ours.dequantize() - linear.weight.float()).abs() <= bound * 1.01).all()
    assert QuantizedLinear.from_float(linear.float(), dtype=dtype).weight.equal(ours.weight)


def test_strided_weights_are_read_as_they_look(linear: nn.Linear) -> None:
    expected = QuantizedLinear.from_float(linear, dtype="int8")
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    assert not linear.weight.is_contiguous()
    ours = QuantizedLinear.from_float(linear, dtype="int8")
    assert torch.equal(ours.weight, expected.weight)
    assert torch.equal(ours.weight_scale, expected.weight_scale)


def test_embeddings_have_the_format_of_matrices() -> None:
    table = nn.Embedding(30, 64, padding_idx=2)
    weight: Tensor = table.weight.detach()
    same = nn.Linear(64, 30, bias=False)
    same.weight = nn.Parameter(weight)
    for dtype in ("fp16", "int8", "int4"):
        ours = QuantizedEmbedding.from_float(table, dtype=dtype)
        linear = QuantizedLinear.from_float(same, dtype=dtype)
        assert torch.equal(ours.weight, linear.weight)
        ids = torch.tensor([[0, 2, 29], [7, 7, 1]])
        assert torch.equal(ours(ids), linear.dequantize()[ids])
        assert ours.padding_idx == 2
