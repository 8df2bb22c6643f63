"""Layers that torchao quantized, as ours, where its formats are the same numbers.

    torchao                                                          here
    Int8Tensor, one symmetric scale for each row                     INT8
    IntxUnpackedToInt8Tensor of int8, the same                       INT8
    IntxUnpackedToInt8Tensor of int4, symmetric, groups of 32..256   INT4 in groups, if the scales are bfloat16 numbers
    IntxUnpackedToInt8Tensor of int4, symmetric, a scale a row       INT4 per channel
    Int4Tensor with zero points of 0, groups of 32..256              INT4 in groups, if the scales are bfloat16 numbers

Activations that torchao quantizes to asymmetric 8 bits for each token become mode dynamic. Everything else is an error
that names the layer and what has no counterpart. torchao itself is not imported: the classes are known by their names,
those of torchao 0.18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from diffulex_edge._errors import UnsupportedError
from diffulex_edge.quant._config import GROUP_SIZES, QuantizationDtype, QuantizationMode
from diffulex_edge.quant._modules import QuantizedEmbedding, QuantizedLinear


def is_torchao(weight: object) -> bool:
    """Whether a tensor is one of torchao's subclasses."""
    return type(weight).__module__.partition(".")[0] == "torchao"


def parts(weight: Tensor) -> list[Tensor]:
    """The plain tensors that one of torchao's is made of."""
    names, _ = weight.__tensor_flatten__()  # type: ignore[attr-defined]
    return [getattr(weight, name) for name in names]


def from_torchao(model: nn.Module) -> nn.Module:
    """A copy of the model with our modules in place of layers that torchao quantized; the model stays as it is.

    Errors: `UnsupportedError` that names the layer and what of its format has no counterpart here;
    `InvalidArgumentError` where torchao quantized no layer.
    """
    from diffulex_edge._errors import InvalidArgumentError
    from diffulex_edge.quant._layers import copy_with, find_layers

    layers, _ = find_layers(model)
    replacements = [(layer.module, layer.stored) for layer in layers if layer.stored not in (None, layer.module)]
    if not replacements:
        raise InvalidArgumentError("from_torchao: torchao quantized no layer of this model")
    return copy_with(model, replacements)  # type: ignore[arg-type]


@dataclass
class _Stored:
    """A weight's integers [rows, columns] and scales, in torchao's words."""

    integers: Tensor  # int8
    scale: Tensor  # [rows, columns / group_size]
    dtype: QuantizationDtype
    group_size: int  # columns, where a row has one scale
    mode: QuantizationMode


def convert(layer: str, module: nn.Module) -> QuantizedLinear | QuantizedEmbedding:
    """One layer as ours, without its bias, on its device."""
    weight = module.weight
    kind = type(weight).__name__
    if kind not in _READERS:
        _fail(layer, f"a {kind} is packed for other kernels", "quantize the float model here")
    if weight.dim() != 2:
        _fail(layer, f"its weight has {weight.dim()} dimensions", "quantize the float model here")
    stored = _READERS[kind](layer, weight)
    rows, columns = stored.integers.shape
    per_channel = stored.group_size == columns
    if not per_channel and (stored.dtype != QuantizationDtype.INT4 or stored.group_size not in GROUP_SIZES):
        _fail(layer, f"{stored.dtype} in groups of {stored.group_size}", "take INT4 groups of 32, 64, 128 or 256")
    if columns % 2 != 0 and stored.dtype == QuantizationDtype.INT4:
        _fail(layer, f"INT4 rows of odd length, {columns}", "take INT8")
    if not bool((stored.scale.float().isfinite() & (stored.scale > 0)).all()):
        _fail(layer, "a scale is not positive", "quantize the float model here")
    group_size = 0 if per_channel else stored.group_size
    scale = stored.scale.reshape(rows).float() if per_channel else _bfloat16(layer, stored.scale)
    packed = _pack(stored.integers) if stored.dtype == QuantizationDtype.INT4 else stored.integers
    ours = _empty(module, stored, group_size)
    ours.set_stored(packed.contiguous().clone(), scale.contiguous().clone())
    return ours


def _empty(module: nn.Module, stored: _Stored, group_size: int) -> QuantizedLinear | QuantizedEmbedding:
    rows, columns = stored.integers.shape
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(
            rows,
            columns,
            module.padding_idx,
            dtype=stored.dtype,
            group_size=group_size,
            output_dtype=module.weight.dtype,
            device="meta",
        )
    return QuantizedLinear(
        columns, rows, False, dtype=stored.dtype, mode=stored.mode, group_size=group_size, device="meta"
    )


def _fail(layer: str, what: str, advice: str) -> NoReturn:
    raise UnsupportedError(f"{layer}: torchao's format has no counterpart: {what} ({advice})", where=layer)


def _check_symmetric(layer: str, zero_point: Tensor | None) -> None:
    if zero_point is not None and bool((zero_point != 0).any()):
        _fail(layer, "its zero points are not 0", "take MappingType.SYMMETRIC")


def _bfloat16(layer: str, scale: Tensor) -> Tensor:
    rounded = scale.to(torch.bfloat16)
    if not torch.equal(rounded.float(), scale.float()):
        _fail(
            layer,
            f"scales of INT4 groups are bfloat16, and its {scale.dtype} scales do not fit",
            "quantize a bfloat16 model, or take weight_scale_dtype=torch.bfloat16",
        )
    return rounded


def _pack(integers: Tensor) -> Tensor:
    nibbles = (integers + 8).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def _read_int8(layer: str, weight: Tensor) -> _Stored:
    _check_symmetric(layer, weight.zero_point)
    if weight.act_pre_scale is not None:
        _fail(layer, "its input is scaled (act_pre_scale)", "fold the scales into the layer before")
    mode = QuantizationMode.WEIGHT_ONLY
    activations = weight.act_quant_kwargs
    if activations is not None:
        if weight.act_quant_scale is not None:
            _fail(layer, "static activations of its kind", "calibrate the float model here")
        if type(activations.granularity).__name__ != "PerRow" or activations.reduce_range:
            _fail(layer, "activations are not quantized to all of 8 bits per token", "take PerRow()")
        if activations.mapping_type.name != "ASYMMETRIC":
            _fail(layer, "activations are quantized symmetrically", "take act_mapping_type=MappingType.ASYMMETRIC")
        mode = QuantizationMode.DYNAMIC
    if weight.block_size[0] != 1:
        _fail(layer, "rows share a scale", "take PerRow()")
    return _Stored(weight.qdata, weight.scale, QuantizationDtype.INT8, weight.block_size[1], mode)


def _read_intx(layer: str, weight: Tensor) -> _Stored:
    _check_symmetric(layer, weight.zero_point)
    dtypes = {torch.int8: QuantizationDtype.INT8, torch.int4: QuantizationDtype.INT4}
    if weight.target_dtype not in dtypes:
        _fail(layer, f"{weight.target_dtype}", "take torch.int4 or torch.int8")
    if weight.block_size[0] != 1:
        _fail(layer, "rows share a scale", "take PerGroup(32) or PerAxis(0)")
    activations = weight.activation_quantization
    if activations is not None and getattr(activations, "value", activations) != "int8_asym_per_token":
        _fail(layer, f"activations {activations}", "quantize the float model here")
    mode = QuantizationMode.WEIGHT_ONLY if activations is None else QuantizationMode.DYNAMIC
    return _Stored(weight.qdata, weight.scale, dtypes[weight.target_dtype], weight.block_size[1], mode)


def _read_int4(layer: str, weight: Tensor) -> _Stored:
    _check_symmetric(layer, weight.zero_point)
    if weight.act_pre_scale is not None:
        _fail(layer, "its input is scaled (act_pre_scale)", "fold the scales into the layer before")
    if weight.activation_dtype != torch.bfloat16:
        _fail(layer, f"activations in {weight.activation_dtype}", "quantize the float model here")
    # Two's complement nibbles, the even column's low; scales lie [columns / group_size, rows].
    packed = weight.qdata.view(torch.uint8)
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)
    integers = ((nibbles ^ 8).to(torch.int8)) - 8
    scale = weight.scale.T
    return _Stored(integers, scale, QuantizationDtype.INT4, weight.block_size[1], QuantizationMode.WEIGHT_ONLY)


_READERS = {
    "Int8Tensor": _read_int8,
    "IntxUnpackedToInt8Tensor": _read_intx,
    "Int4Tensor": _read_int4,
}
