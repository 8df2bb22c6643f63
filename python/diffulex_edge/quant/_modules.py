"""`QuantizedLinear` and `QuantizedEmbedding`: modules that keep their weights in the stored format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffulex_edge._errors import InvalidArgumentError, UnsupportedError
from diffulex_edge.quant import _ops
from diffulex_edge.quant._config import GROUP_SIZES, QuantizationDtype, QuantizationMode, RoundingMethod

_BUFFERS = ("weight", "weight_scale", "input_range", "output_range")

_DTYPE_OF_TORCH = {
    torch.float16: QuantizationDtype.FP16,
    torch.int8: QuantizationDtype.INT8,
}


def stored_dtype(dtype: QuantizationDtype | torch.dtype | str) -> QuantizationDtype:
    """FP16, INT8 or INT4; `torch.float16` and `torch.int8` name the first two."""
    found = _DTYPE_OF_TORCH.get(dtype) if isinstance(dtype, torch.dtype) else QuantizationDtype(dtype)
    if found is None or found == QuantizationDtype.FP32 or not found.traits["in_modules"]:
        known = ", ".join(name for name in QuantizationDtype if name.traits["in_modules"] and name != "fp32")
        raise InvalidArgumentError(f"dtype: {dtype} is not one of {known}", where="dtype")
    return found


class _StoredWeight(nn.Module):
    """A matrix [rows, columns] in the stored format, which no conversion of the module changes."""

    weight: Tensor
    weight_scale: Tensor | None

    def _store(
        self, rows: int, columns: int, dtype: QuantizationDtype, group_size: int, device: torch.device | str | None
    ) -> None:
        if not dtype.traits["takes_groups"]:
            group_size = 0
        elif group_size not in (0, *GROUP_SIZES):
            known = ", ".join(map(str, (*GROUP_SIZES, 0)))
            raise InvalidArgumentError(f"group_size: {group_size} is not one of {known}", where="group_size")
        elif columns % (group_size or 2) != 0:
            why = f"groups of {group_size} do not divide" if group_size else "rows of odd length can't be stored:"
            raise InvalidArgumentError(f"{dtype.upper()}: {why} {columns} columns", where="group_size")
        self.dtype = dtype
        self.group_size = group_size
        types = {
            QuantizationDtype.FP16: torch.float16,
            QuantizationDtype.INT8: torch.int8,
            QuantizationDtype.INT4: torch.uint8,
        }
        width = columns // 2 if dtype.traits["bits"] == 4 else columns
        self.register_buffer("weight", torch.zeros(rows, width, dtype=types[dtype], device=device))
        scale = None
        if group_size:
            scale = torch.ones(rows, columns // group_size, dtype=torch.bfloat16, device=device)
        elif dtype != QuantizationDtype.FP16:
            scale = torch.ones(rows, dtype=torch.float32, device=device)
        self.register_buffer("weight_scale", scale)

    def set_stored(self, weight: Tensor, weight_scale: Tensor | None) -> None:
        """Take these tensors, which have the types and shapes of the buffers, as the stored weight; no copy is made."""
        for name, value in (("weight", weight), ("weight_scale", weight_scale)):
            buffer = getattr(self, name)
            if _kind(value) != _kind(buffer):
                raise InvalidArgumentError(f"{name}: {_kind(value)} given, {_kind(buffer)} stored", where=name)
            setattr(self, name, value)

    def dequantize(self) -> Tensor:
        """What the stored weight stands for, float32 [rows, columns]."""
        return _ops.decode(self.weight, self.weight_scale, self.dtype.value, self.group_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _StoredWeight:
        # `.half()`, `.to(torch.bfloat16)` and the like are for what is computed: the stored numbers would not survive.
        before = {name: self._buffers[name] for name in _BUFFERS if self._buffers.get(name) is not None}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # copy_ would turn floats into integers in silence.
        for name in _BUFFERS:
            value, buffer = state_dict.get(prefix + name), self._buffers.get(name)
            if isinstance(value, Tensor) and buffer is not None and value.dtype != buffer.dtype:
                error_msgs.append(
                    f"{prefix}{name} is stored as {buffer.dtype} and the state dict has {value.dtype}: "
                    "quantize the model after loading, or load what a quantized one saved"
                )
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _repr_format(self) -> str:
        groups = f", group_size={self.group_size or 'channel'}" if self.dtype.traits["takes_groups"] else ""
        return f"dtype={self.dtype}{groups}"


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


class QuantizedLinear(_StoredWeight):
    """`torch.nn.Linear` whose weight is FP16, INT8 or INT4: x [..., in_features] -> [..., out_features] in x's dtype.

    Buffers: `weight` and `weight_scale` as docs/QUANTIZATION.md stores them (only float16 [out, in]; int8 [out, in]
    and float32 [out]; uint8 [out, in / 2] and bfloat16 [out, in / group_size], or float32 [out] with group_size 0);
    in mode static `input_range` and `output_range`, float32 [2] = (min, max). Parameter: `bias` [out], as it was.

    Mode says what happens to x: nothing (weight_only), 8 bits with a scale for each token (dynamic), 8 bits with the
    scales of input_range and output_range (static). FP16 has only weight_only. Conversions (`.half()`,
    `.to(dtype)`) change the bias and not what is stored. Gradients flow to x and bias; rounding counts as the identity.
    """

    input_range: Tensor | None
    output_range: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: QuantizationDtype | torch.dtype | str,
        mode: QuantizationMode | str = QuantizationMode.WEIGHT_ONLY,
        group_size: int = 32,
        device: torch.device | str | None = None,
        bias_dtype: torch.dtype | None = None,
    ) -> None:
        """An empty layer, to load a state dict into; `group_size` is for INT4."""
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._store(out_features, in_features, stored_dtype(dtype), group_size, device)
        self.mode = QuantizationMode(mode)
        if self.mode != QuantizationMode.WEIGHT_ONLY and self.dtype == QuantizationDtype.FP16:
            raise InvalidArgumentError(f"mode: {self.mode} is for integer weights, not FP16", where="mode")
        is_static = self.mode == QuantizationMode.STATIC
        if is_static and self.group_size:
            raise UnsupportedError(
                "mode static has no kernel for INT4 weights in groups (use int8, group_size 0, or mode dynamic)"
            )
        for name in ("input_range", "output_range"):
            self.register_buffer(name, torch.zeros(2, dtype=torch.float32, device=device) if is_static else None)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, dtype=bias_dtype, device=device))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_float(
        cls,
        module: nn.Linear,
        dtype: QuantizationDtype | torch.dtype | str = QuantizationDtype.INT8,
        mode: QuantizationMode | str = QuantizationMode.WEIGHT_ONLY,
        group_size: int = 32,
        method: RoundingMethod | str = RoundingMethod.RTN,
        *,
        input_range: Sequence[float] | None = None,
        output_range: Sequence[float] | None = None,
    ) -> QuantizedLinear:
        """Quantize one layer. The bias is copied; `module` stays as it is. Mode static needs both ranges, (min, max).

        Errors: `InvalidArgumentError` for a group size that does not divide in_features, a module that is no
        `nn.Linear`, ranges that are missing or make no sense; `BadFileError` for weights that are not finite.
        """
        from diffulex_edge.quant._encode import encode_weight

        if not isinstance(module, nn.Linear):
            raise TypeError(f"QuantizedLinear.from_float: {type(module).__name__} is not an nn.Linear")
        stored = stored_dtype(dtype)
        quantized = cls(
            module.in_features,
            module.out_features,
            False,
            dtype=stored,
            mode=mode,
            group_size=group_size,
            device="meta",
        )
        weight, scale = encode_weight(module.weight, "linear", stored, quantized.group_size, RoundingMethod(method))
        quantized.set_stored(weight, scale)
        if module.bias is not None:
            quantized.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=module.bias.requires_grad)
        quantized.set_ranges(input_range, output_range)
        return quantized.train(module.training)

    def set_ranges(self, input_range: Sequence[float] | None, output_range: Sequence[float] | None) -> None:
        """Mode static: the values (min, max) that the layer takes and gives. Other modes have none."""
        from diffulex_edge.quant._config import LayerActivations

        if self.mode != QuantizationMode.STATIC:
            if input_range is not None or output_range is not None:
                raise InvalidArgumentError(f"mode {self.mode} has no ranges; they are for static", where="input_range")
            return
        if input_range is None or output_range is None:
            raise InvalidArgumentError(
                "mode static needs the range of its activations (give input_range and output_range)",
                where="input_range",
            )
        checked = LayerActivations(tuple(input_range), tuple(output_range))  # type: ignore[arg-type]
        self.input_range = torch.tensor(checked.input, dtype=torch.float32, device=self.weight.device)
        self.output_range = torch.tensor(checked.output, dtype=torch.float32, device=self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.diffulex_edge.quantized_linear(
            x,
            self.weight,
            self.weight_scale,
            self.bias,
            self.input_range,
            self.output_range,
            self.dtype.value,
            self.mode.value,
            self.group_size,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{self._repr_format()}, mode={self.mode}"
        )


class QuantizedEmbedding(_StoredWeight):
    """`torch.nn.Embedding` whose table is FP16, INT8 or INT4: ids -> [*ids, embedding_dim] in `output_dtype`.

    Buffers as in `QuantizedLinear`, with rows of the table for output channels. `output_dtype` is the dtype that the
    table had; `.half()` and `.to(dtype)` change it, and not what is stored. There are no gradients.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: QuantizationDtype | torch.dtype | str,
        group_size: int = 32,
        output_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """An empty table, to load a state dict into; `group_size` is for INT4."""
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.output_dtype = output_dtype
        self._store(num_embeddings, embedding_dim, stored_dtype(dtype), group_size, device)

    @classmethod
    def from_float(
        cls,
        module: nn.Embedding,
        dtype: QuantizationDtype | torch.dtype | str = QuantizationDtype.INT8,
        group_size: int = 32,
        method: RoundingMethod | str = RoundingMethod.RTN,
    ) -> QuantizedEmbedding:
        """Quantize one table; `module` stays as it is. Errors as `QuantizedLinear.from_float`, and
        `UnsupportedError` for a table that renormalizes itself (max_norm)."""
        from diffulex_edge.quant._encode import encode_weight

        if not isinstance(module, nn.Embedding):
            raise TypeError(f"QuantizedEmbedding.from_float: {type(module).__name__} is not an nn.Embedding")
        if module.max_norm is not None:
            raise UnsupportedError("an embedding with max_norm changes its table while it runs")
        stored = stored_dtype(dtype)
        quantized = cls(
            module.num_embeddings,
            module.embedding_dim,
            module.padding_idx,
            dtype=stored,
            group_size=group_size,
            output_dtype=module.weight.dtype,
            device="meta",
        )
        weight, scale = encode_weight(module.weight, "embedding", stored, quantized.group_size, RoundingMethod(method))
        quantized.set_stored(weight, scale)
        return quantized.train(module.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedEmbedding:
        super()._apply(fn, recurse)
        # What a conversion would have made of a table of floats.
        self.output_dtype = fn(torch.zeros(1, dtype=self.output_dtype, device=self.weight.device)).dtype
        return self

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.diffulex_edge.quantized_embedding(
            input, self.weight, self.weight_scale, self.dtype.value, self.group_size, self.output_dtype
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, {self._repr_format()}"
