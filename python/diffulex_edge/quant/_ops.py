"""The operators of quantized modules, `diffulex_edge::quantized_linear` and `diffulex_edge::quantized_embedding`.

They are single nodes in exported programs, which the package's backends read as layers with integer weights; other
compilers see opaque operators. Importing this module registers them: a program saved by `torch.export.save` needs that
before `torch.export.load`.

Weights are stored as in quantized checkpoints:

    dtype   group_size          weight               weight_scale
    "fp16"  0                   float16 [out, in]    None
    "int8"  0                   int8 [out, in]       float32 [out]
    "int4"  0                   uint8 [out, in / 2]  float32 [out]
    "int4"  32, 64, 128, 256    uint8 [out, in / 2]  bfloat16 [out, in / group_size]

INT8 stands for q * scale; a byte of INT4 is (q + 8) of the even column in its low nibble and of the odd one in its high
nibble. The arithmetic is that of the artefacts, as the CPU runtime simulates them (src/runtime/packed_multiply.cc,
docs/QUANTIZATION.md): float32, with exact sums of integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffulex_edge._core import affine_scale
from diffulex_edge._errors import InvalidArgumentError

_BLOCK = 1 << 24
"""Elements of a weight that are decoded at once: 64 or 128 MB of floats, whatever the layer's size."""


def decode(weight: Tensor, weight_scale: Tensor | None, dtype: str, group_size: int) -> Tensor:
    """What a stored weight stands for, float32 [out, in]."""
    if dtype == "fp16" or weight_scale is None:
        return weight.float()
    values = integers(weight, dtype)
    scale = weight_scale.float()
    if group_size == 0:
        return values * scale[..., None]
    groups = values.unflatten(-1, (-1, group_size))
    return (groups * scale[..., None]).flatten(-2)


def integers(weight: Tensor, dtype: str) -> Tensor:
    """The integers of an INT8 or INT4 weight as float32 [out, in]."""
    if dtype == "int8":
        return weight.float()
    return torch.stack((weight & 0xF, weight >> 4), dim=-1).flatten(-2).float() - 8


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Dynamic quantization to asymmetric 8 bits as XNNPACK does it (qd8): one scale and zero point for each token.

    The range of a token's values [..., in], widened to hold 0, gets the integers -128..127. Returns q - zero_point,
    integers in [-255, 255] as float32 [..., in], and the scale of one step, float32 [..., 1]. Formula:
    `xnn_qs8_quantization_params` of XNNPACK; src/runtime/kernels/activation_kernels.cc.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
    # Tensors over tensors: PyTorch computes 255.0 / x as 255 times the reciprocal, which rounds twice.
    width = torch.where(low == high, 255.0, high - low)
    steps = torch.full_like(width, 255.0) / width
    low, high = low * steps, high * steps
    # Of the two zero points that would make an end of the range exact, the one with the smaller error.
    wanted = torch.where((-128.0 + low) + (127.0 + high) > 0.0, -128.0 - low, 127.0 - high)
    zero_point = wanted.clamp(-128.0, 127.0).round()
    q = torch.minimum(torch.maximum((x * steps).round(), -128.0 - zero_point), 127.0 - zero_point)
    return q, 1.0 / steps


def quantize_static(x: Tensor, bounds: Tensor) -> tuple[Tensor, float]:
    """Static quantization to 8 bits that cover `bounds`, float32 [2] = (min, max).

    Returns clamp(round(x / scale) + zero_point, -128, 127) - zero_point as float32 and the scale, (max - min) / 255.
    """
    low, high = bounds.tolist()
    scale, zero_point = affine_scale(low, high, 8)
    # One division in float32, then products, as the kernels do it.
    factor = torch.ones((), dtype=torch.float32, device=x.device) / scale
    return (x * factor).round().clamp(-128.0 - zero_point, 127.0 - zero_point), scale


def _multiply(x: Tensor, weight: Tensor, scale: Tensor | None, dtype: str, group_size: int, exact: bool) -> Tensor:
    """x [tokens, in] times the transposed weight, [tokens, out] in x's dtype.

    exact: x is integers; sums are exact (products of 9 and 8 bits in float64) before scales multiply them.
    """
    rows = max(1, _BLOCK // max(1, x.shape[-1]))
    parts = []
    for begin in range(0, weight.shape[0], rows):
        part = weight[begin : begin + rows]
        part_scale = None if scale is None else scale[begin : begin + rows]
        if exact and group_size == 0 and part_scale is not None:
            sums = x.double() @ integers(part, dtype).double().T
            parts.append(sums.float() * part_scale.float())
        elif exact:
            parts.append((x.double() @ decode(part, part_scale, dtype, group_size).double().T).float())
        else:
            parts.append(x @ decode(part, part_scale, dtype, group_size).to(x.dtype).T)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _in_features(weight: Tensor, dtype: str) -> int:
    return weight.shape[1] * 2 if dtype == "int4" else weight.shape[1]


@torch.library.custom_op(
    "diffulex_edge::quantized_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? weight_scale, Tensor? bias, Tensor? input_range, Tensor? output_range, "
    "str dtype, str mode, int group_size) -> Tensor",
)
def quantized_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    input_range: Tensor | None,
    output_range: Tensor | None,
    dtype: str,
    mode: str,
    group_size: int,
) -> Tensor:
    """x [..., in] times the stored weight [out, in], plus bias [out]: [..., out] in x's dtype.

    mode "weight_only": x times what the weight stands for, in float32 (float64 for such an x). "dynamic": x is
    quantized per token. "static": x and the result are quantized over input_range and output_range, float32 [2].
    Errors: `InvalidArgumentError` for an x of another width or of integers.
    """
    if not x.is_floating_point() or x.shape[-1:] != (_in_features(weight, dtype),):
        raise InvalidArgumentError(
            f"quantized_linear: its input is {x.dtype} {list(x.shape)}, and must be floating-point "
            f"[..., {_in_features(weight, dtype)}]"
        )
    wide = torch.float64 if x.dtype == torch.float64 and mode == "weight_only" else torch.float32
    tokens = x.reshape(-1, x.shape[-1]).to(wide)
    if mode == "weight_only":
        out = _multiply(tokens, weight, weight_scale, dtype, group_size, exact=False)
    else:
        q, scale = quantize_tokens(tokens) if input_range is None else quantize_static(tokens, input_range)
        out = _multiply(q, weight, weight_scale, dtype, group_size, exact=True) * scale
    if bias is not None:
        out = out + bias.to(wide)
    if output_range is not None:
        out, scale = quantize_static(out, output_range)
        out = out * scale
    return out.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


@quantized_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    input_range: Tensor | None,
    output_range: Tensor | None,
    dtype: str,
    mode: str,
    group_size: int,
) -> Tensor:
    torch._check(x.shape[-1] == _in_features(weight, dtype))
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _keep_for_backward(ctx, inputs, output) -> None:
    x, weight, weight_scale, bias, _, _, dtype, _, group_size = inputs
    ctx.save_for_backward(weight, weight_scale)
    ctx.dtype, ctx.group_size, ctx.x_dtype, ctx.bias_dtype = dtype, group_size, x.dtype, bias is not None and bias.dtype


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of x and bias; the rounding of activations counts as the identity (straight-through)."""
    weight, weight_scale = ctx.saved_tensors
    wide = torch.promote_types(grad.dtype, torch.float32)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        decoded = decode(weight, weight_scale, ctx.dtype, ctx.group_size).to(wide)
        grad_x = (grad.to(wide) @ decoded).to(ctx.x_dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = grad.to(wide).reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, None, None, None, None, None


quantized_linear.register_autograd(_backward, setup_context=_keep_for_backward)


@torch.library.custom_op(
    "diffulex_edge::quantized_embedding",
    mutates_args=(),
    schema="(Tensor ids, Tensor weight, Tensor? weight_scale, str dtype, int group_size, ScalarType output_dtype) "
    "-> Tensor",
)
def quantized_embedding(
    ids: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    dtype: str,
    group_size: int,
    output_dtype: torch.dtype,
) -> Tensor:
    """Rows of the stored table [V, C]: [*ids, C] in output_dtype. Only those rows are decoded."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InvalidArgumentError(f"quantized_embedding: ids are {ids.dtype}, and must be integers")
    flat = ids.reshape(-1).long()
    scale = None if weight_scale is None else weight_scale.index_select(0, flat)
    rows = decode(weight.index_select(0, flat), scale, dtype, group_size)
    return rows.to(output_dtype).reshape(*ids.shape, rows.shape[-1])


@quantized_embedding.register_fake
def _(
    ids: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    dtype: str,
    group_size: int,
    output_dtype: torch.dtype,
) -> Tensor:
    return weight.new_empty((*ids.shape, _in_features(weight, dtype)), dtype=output_dtype)
