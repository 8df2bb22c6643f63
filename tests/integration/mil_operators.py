"""The operators of Core ML's MIL that exported programs use, in PyTorch.

Arguments are named as in MIL and have its defaults, so that an unknown or a missing one is a TypeError. Floating-point
operators compute in FP32 and round their result once, to the type of their input: this is all that FP16 means here.
Compressed weights are decompressed by coremltools' own functions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from coremltools_alone import iOS16, iOS18
from torch import Tensor

Operator = Callable[..., Tensor | Sequence[Tensor]]

TORCH_TYPES: Final = {
    "bool": torch.bool,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
}
"""By MIL's names. Integers of less than 8 bits have no type of their own: they occur as constants only."""

OPERATORS: Final[dict[str, Operator]] = {}


def operator(name: str) -> Callable[[Operator], Operator]:
    """Put a function into the table as it is."""

    def register(function: Operator) -> Operator:
        OPERATORS[name] = function
        return function

    return register


def in_fp32(name: str) -> Callable[[Operator], Operator]:
    """Put a function into the table that is given FP32 for FP16, and whose result becomes FP16 where `x` was."""

    def register(function: Operator) -> Operator:
        @functools.wraps(function)
        def rounded(**inputs: Any) -> Tensor:
            kind = inputs["query" if "query" in inputs else "x"].dtype
            result = function(**{key: _widen(value) for key, value in inputs.items()})
            assert isinstance(result, Tensor)
            return result.half() if kind == torch.float16 and result.is_floating_point() else result

        return operator(name)(rounded)

    return register


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _integers(values: Tensor) -> list[int]:
    return [int(value) for value in values.flatten()]


# --- Elementwise. Two operands have one type and are broadcast.


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def checked(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype != y.dtype:
            raise ValueError(f"operands of types {x.dtype} and {y.dtype}")
        return function(x, y)

    return checked


_UNARY: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "abs": torch.abs,
    "cos": torch.cos,
    "exp": torch.exp,
    "floor": torch.floor,
    "identity": torch.clone,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}

_BINARY: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.div,
    "sub": torch.sub,
}

for _name, _function in _UNARY.items():
    in_fp32(_name)(_unary(_function))
for _name, _pair in _BINARY.items():
    in_fp32(_name)(_binary(_pair))


@in_fp32("rsqrt")
def _rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@in_fp32("clip")
def _clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x.clamp(float(alpha), float(beta))


@in_fp32("gelu")
def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x times the normal distribution's share below x, or an approximation of that."""
    match mode:
        case "EXACT":
            share = (1 + torch.erf(x / math.sqrt(2))) / 2
        case "TANH_APPROXIMATION":
            share = (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "SIGMOID_APPROXIMATION":
            share = torch.sigmoid(1.702 * x)
        case _:
            raise ValueError(f"gelu of mode {mode}")
    return x * share


@operator("cast")
def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(TORCH_TYPES[dtype])


@operator("select")
def _select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype != b.dtype:
        raise ValueError(f"operands of types {a.dtype} and {b.dtype}")
    return torch.where(cond, a, b)


# --- Sums and products.


@in_fp32("linear")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [.., in], weight [out, in], bias [out]."""
    if not 1 <= x.dim() <= 3:
        raise ValueError(f"linear of rank {x.dim()}")
    return torch.nn.functional.linear(x, weight, bias)


@in_fp32("matmul")
def _matmul(x: Tensor, y: Tensor, transpose_x: bool | Tensor = False, transpose_y: bool | Tensor = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


@in_fp32("scaled_dot_product_attention")
def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """query [.., L, E], key [.., S, E], value [.., S, EV]; attn_mask [.., S] is bool or added to the scores."""
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(f"attention of {list(query.shape)}, {list(key.shape)} and {list(value.shape)}")
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


@in_fp32("softmax")
def _softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return x.softmax(int(axis))


def _reduction(function: Callable[..., Tensor]) -> Operator:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        along = tuple(range(x.dim()) if axes is None else _integers(axes))
        return function(x, dim=along, keepdim=bool(keep_dims))

    return reduce


for _name, _reduce in {
    "reduce_max": torch.amax,
    "reduce_mean": torch.mean,
    "reduce_min": torch.amin,
    "reduce_sum": torch.sum,
}.items():
    in_fp32(_name)(_reduction(_reduce))


@in_fp32("layer_norm")
def _layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Over the last dimensions only; gamma and beta have their sizes."""
    along = list(range(x.dim())) if axes is None else sorted(axis % x.dim() for axis in _integers(axes))
    if along != list(range(x.dim() - len(along), x.dim())):
        raise ValueError(f"layer_norm over the dimensions {along} of {x.dim()}")
    return torch.nn.functional.layer_norm(x, x.shape[along[0] :], gamma, beta, float(epsilon))


# --- What moves values and leaves them as they are.


@operator("gather")
def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # they are, always
) -> Tensor:
    """x [.., rows, ..] along `axis` -> [.., *indices.shape, ..]."""
    if int(batch_dims) != 0:
        raise ValueError("gather with batch dimensions")
    along, rows = int(axis) % x.dim(), indices.long()
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < x.shape[along]:
        raise ValueError(f"gather of row {int(rows.min())} or {int(rows.max())} of {x.shape[along]}")
    return x.index_select(along, rows.flatten()).unflatten(along, rows.shape) if rows.dim() else x.select(along, rows)


@operator("reshape")
def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    """A size 0 is that of x, counted from the right; a size -1 takes what is left."""
    sizes = _integers(shape)
    surplus = x.dim() - len(sizes)
    return x.reshape([x.shape[place + surplus] if size == 0 else size for place, size in enumerate(sizes)])


@operator("transpose")
def _transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(_integers(perm))


@operator("expand_dims")
def _expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in _integers(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_integers(axes)))


@operator("slice_by_index")
def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """x[begin:end:stride] in each dimension; a mask leaves out the bound, or makes a dimension the index `begin`."""

    def masked(mask: Tensor | None, axis: int) -> bool:
        return mask is not None and bool(mask[axis])

    squeezed = [axis for axis in range(x.dim()) if masked(squeeze_mask, axis)]
    for axis, size in enumerate(x.shape):
        if axis in squeezed:
            chosen = [range(size)[int(begin[axis])]]
        else:
            first = None if masked(begin_mask, axis) else int(begin[axis])
            last = None if masked(end_mask, axis) else int(end[axis])
            chosen = list(range(size))[first : last : None if stride is None else int(stride[axis])]
        if chosen != list(range(size)):
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.long))
    return x.squeeze(squeezed) if squeezed else x


@operator("slice_by_size")
def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """A size -1 takes what is left."""
    for axis, (first, length) in enumerate(zip(_integers(begin), _integers(size), strict=True)):
        first %= x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


@operator("split")
def _split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> Sequence[Tensor]:
    if split_sizes is not None:
        return x.split(_integers(split_sizes), int(axis))
    if num_splits is None or x.shape[int(axis)] % int(num_splits) != 0:
        raise ValueError("split into parts of different sizes")
    return x.chunk(int(num_splits), int(axis))


@operator("slice_update")
def _slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
) -> Tensor:
    """x with x[begin:end] replaced; a mask leaves out the bound. Nothing may lie outside of x."""
    ranges = []
    for axis, (first, last) in enumerate(zip(_integers(begin), _integers(end), strict=True)):
        first = 0 if begin_mask is not None and begin_mask[axis] else first
        last = x.shape[axis] if end_mask is not None and end_mask[axis] else last
        if not 0 <= first < last <= x.shape[axis]:
            raise ValueError(f"slice_update of {first} to {last} of {x.shape[axis]}")
        ranges.append(slice(first, last))
    result = x.clone()
    if result[tuple(ranges)].shape != update.shape or update.dtype != x.dtype:
        raise ValueError(f"slice_update of {list(result[tuple(ranges)].shape)} by {list(update.shape)}")
    result[tuple(ranges)] = update
    return result


@operator("concat")
def _concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """Scalars become a vector."""
    if interleave:
        raise ValueError("concat with interleave")
    if len({value.dtype for value in values}) != 1:
        raise ValueError("concat of several types")
    return torch.cat([value if value.dim() else value[None] for value in values], int(axis))


@operator("tile")
def _tile(x: Tensor, reps: Tensor) -> Tensor:
    if reps.numel() != x.dim():
        raise ValueError(f"tile of rank {x.dim()} with {reps.numel()} counts")
    return x.repeat(_integers(reps))


@operator("shape")
def _shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("fill")
def _fill(shape: Tensor, value: Tensor) -> Tensor:
    return torch.full(_integers(shape), value.item(), dtype=value.dtype)


@operator("range_1d")
def _range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


# --- 8-bit activations. Scale and zero point are scalars, or one for each index along `axis`.


def _along(values: Tensor, rank: int, axis: Tensor | None) -> Tensor:
    if (values.dim() == 1) != (axis is not None):
        raise ValueError("an axis goes with a vector of scales, and only with that")
    return values if axis is None else values.reshape([-1 if i == int(axis) % rank else 1 for i in range(rank)])


@operator("quantize")
def _quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point), ties to even."""
    if scale.dtype != input.dtype:
        raise ValueError(f"quantize of {input.dtype} with a scale in {scale.dtype}")
    kind = TORCH_TYPES[output_dtype]
    steps = (input.float() / _along(scale.float(), input.dim(), axis)).round()
    if zero_point is not None:
        steps = steps + _along(zero_point.float(), input.dim(), axis)
    return steps.clamp(torch.iinfo(kind).min, torch.iinfo(kind).max).to(kind)


@operator("dequantize")
def _dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """scale * (input - zero_point), of the scale's type."""
    steps = input.float()
    if zero_point is not None:
        steps = steps - _along(zero_point.float(), input.dim(), axis)
    return (steps * _along(scale.float(), input.dim(), axis)).to(scale.dtype)


# --- Compressed weights, by coremltools' own functions.


@operator("constexpr_affine_dequantize")
def _constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """Integers [out, in]; scale and zero point scalars or one for each index along `axis`."""
    kind = iOS16.constexpr_ops.constexpr_affine_dequantize
    values = kind.decompress(quantized_data.numpy(), zero_point.numpy(), scale.numpy(), int(axis))
    return torch.from_numpy(values)


@operator("constexpr_cast")
def _constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """FP16 as FP32; there is no other."""
    if source_val.dtype != torch.float16 or output_dtype != "fp32":
        raise ValueError(f"constexpr_cast of {source_val.dtype} to {output_dtype}")
    return source_val.float()


@operator("constexpr_blockwise_shift_scale")
def _constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Integers [out, in]; scale and offset [out / block, in / block]."""
    kind = iOS18.compression.constexpr_blockwise_shift_scale
    values = kind.decompress(data.numpy(), scale.numpy(), None if offset is None else offset.numpy())
    return torch.from_numpy(values)


@operator("constexpr_lut_to_dense")
def _constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Before iOS18 packed indices [bytes], lut [entries], shape; since then indices [out, in], lut [.., entries, 1]."""
    if shape is not None:
        old = iOS16.constexpr_ops.constexpr_lut_to_dense
        return torch.from_numpy(old.decompress(lut.numpy(), indices.numpy(), shape.numpy()))
    kind = iOS18.compression.constexpr_lut_to_dense
    axis = None if vector_axis is None else int(vector_axis)
    return torch.from_numpy(kind.decompress(indices.numpy(), lut.numpy(), axis))
