"""Quantized modules compute what the artefacts compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffulex_edge
from diffulex_edge import _core
from diffulex_edge.quant import QuantizedEmbedding, QuantizedLinear
from diffulex_edge.quant._ops import quantize_tokens

FORMATS = [("fp16", 32), ("int8", 32), ("int4", 32), ("int4", 64), ("int4", 0)]


def qd8(x: np.ndarray) -> tuple[np.ndarray, np.float32, np.float32]:
    """XNNPACK's parameters of qd8 and the rounding after them, for one row: integers, zero point, scale."""
    low, high = np.minimum(np.float32(0), x.min()), np.maximum(np.float32(0), x.max())
    steps = np.float32(1) if low == high else np.float32(255) / (high - low)
    low, high = low * steps, high * steps
    wanted = np.float32(-128) - low if (-128 + low) + (127 + high) > 0 else np.float32(127) - high
    zero = np.rint(np.clip(wanted, np.float32(-128), np.float32(127)))
    q = np.clip(np.rint(x * steps), -128 - zero, 127 - zero) + zero
    return q, zero, np.float32(1) / steps


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weight_only_multiplies_by_what_the_weight_stands_for(
    dtype: str, group_size: int, x_dtype: torch.dtype, linear: nn.Linear
) -> None:
    ours = QuantizedLinear.from_float(linear, dtype=dtype, group_size=group_size)
    x = torch.randn(2, 5, 64, dtype=x_dtype)
    wide = torch.float64 if x_dtype == torch.float64 else torch.float32
    expected = nn.functional.linear(x.to(wide), ours.dequantize().to(wide), linear.bias.to(wide)).to(x_dtype)
    result = ours(x)
    assert result.dtype == x_dtype
    assert result.shape == (2, 5, 48)
    torch.testing.assert_close(result, expected)


def test_tokens_are_quantized_as_xnnpack_does() -> None:
    torch.manual_seed(0)
    x = torch.cat(
        (
            torch.randn(200, 37) * torch.logspace(-6, 6, 200)[:, None],
            torch.rand(50, 37),
            -torch.rand(50, 37),
            torch.zeros(1, 37),
            torch.randn(50, 37) + 3,
        )
    )
    steps, scales = quantize_tokens(x)
    for row, got, scale in zip(x.numpy(), steps.numpy(), scales.numpy(), strict=True):
        q, zero, expected = qd8(row)
        assert np.array_equal(got, q - zero)
        assert scale[0] == expected
        assert q.min() >= -128
        assert q.max() <= 127


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS[1:])
def test_dynamic_sums_integers(dtype: str, group_size: int, linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype=dtype, mode="dynamic", group_size=group_size)
    x = torch.randn(7, 64) * 5
    for token, result in zip(x, ours(x), strict=True):
        q, zero, scale = qd8(token.numpy())
        exact = (q - zero).astype(np.float64) @ ours.dequantize().double().numpy().T * scale
        np.testing.assert_allclose(result.detach().numpy(), exact + linear.bias.detach().numpy(), rtol=2e-6, atol=2e-6)
    weight_only = QuantizedLinear.from_float(linear, dtype=dtype, group_size=group_size)
    assert not torch.equal(ours(x), weight_only(x))


@pytest.mark.parametrize(("dtype", "group_size"), [("int8", 32), ("int4", 0)])
def test_static_rounds_input_and_output_to_their_ranges(dtype: str, group_size: int, linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(
        linear, dtype=dtype, mode="static", group_size=group_size, input_range=(-3.0, 2.5), output_range=(-4.0, 5.0)
    )
    x = torch.randn(9, 64) * 2.5  # some of it beyond the range
    in_scale, in_zero = _core.affine_scale(-3.0, 2.5, 8)
    out_scale, out_zero = _core.affine_scale(-4.0, 5.0, 8)
    q = (x * (torch.ones(()) / in_scale)).round() + in_zero
    q = q.clamp(-128, 127) - in_zero
    y = (q.double() @ ours.dequantize().double().T).float() * in_scale + linear.bias
    expected = ((y * (torch.ones(()) / out_scale)).round() + out_zero).clamp(-128, 127) - out_zero
    result = ours(x) / out_scale
    assert (x.abs() > 3).any()
    assert (y > 5).any()
    # A sum that lies between two integers may fall to either.
    assert ((result - expected).abs() < 1e-3).float().mean() > 0.99
    assert (result - expected).abs().max() < 1.001


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_large_weights_are_decoded_in_blocks(dtype: str, monkeypatch: pytest.MonkeyPatch, linear: nn.Linear) -> None:
    from diffulex_edge.quant import _ops

    for mode in ("weight_only",) if dtype == "fp16" else ("weight_only", "dynamic"):
        ours = QuantizedLinear.from_float(linear, dtype=dtype, mode=mode)
        x = torch.randn(3, 64)
        expected = ours(x)
        monkeypatch.setattr(_ops, "_BLOCK", 64 * 5)  # 48 rows: nine blocks of 5 and one of 3
        torch.testing.assert_close(ours(x), expected)
        monkeypatch.undo()


def test_inputs_of_another_width_or_type_are_errors(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype="int4")
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"\[\.\.\., 64\]"):
        ours(torch.randn(2, 32))
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="floating-point"):
        ours(torch.ones(2, 64, dtype=torch.int64))
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="integers"):
        QuantizedEmbedding.from_float(nn.Embedding(4, 32))(torch.rand(3))


def test_no_tokens_give_no_tokens(linear: nn.Linear) -> None:
    for mode in ("weight_only", "dynamic"):
        assert QuantizedLinear.from_float(linear, mode=mode)(torch.zeros(0, 64)).shape == (0, 48)


def test_gradients_flow_to_input_and_bias(linear: nn.Linear) -> None:
    ours = QuantizedLinear.from_float(linear, dtype="int4")
    x: Tensor = torch.randn(5, 64, requires_grad=True)
    y = torch.randn(5, 48)
    (ours(x) * y).sum().backward()
    torch.testing.assert_close(x.grad, y @ ours.dequantize())
    torch.testing.assert_close(ours.bias.grad, y.sum(0))
    assert linear.bias.grad is None
