"""The stored formats from their definitions, in numpy, and which weight of a model gets which.

Weights are [out_features, in_features]. Everything is computed in float32, one rounding after each operation, as the
definitions in docs/QUANTIZATION.md have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from families import Reference
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

GROUP_SIZES: Final = (256, 128, 64, 32)


def round_to_bf16(values: Floats) -> Floats:
    """Round to the nearest bfloat16, ties to even; the result as float32."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def quantize_int8(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """One scale for each row: scale = max_abs / 127, q = clamp(round(w / scale), -128, 127); a row of zeros has 1."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.rint(weight / scale[:, None]), -128, 127).astype(np.int8), scale


def quantize_int4(weight: Floats, group_size: int) -> tuple[NDArray[np.int8], Floats]:
    """Values in [-8, 7] with one scale for each group along the input, [out, in / group_size], or each row (0), [out].

    scale = max(max / 7, -min / 8), rounded to bfloat16 for groups before the weights are; a group of zeros has 1.
    """
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, group_size or columns)
    scale = np.maximum(groups.max(axis=2) / np.float32(7), -groups.min(axis=2) / np.float32(8))
    scale = np.where(scale == 0, np.float32(1), scale)
    if group_size:
        scale = round_to_bf16(scale)
    values = np.clip(np.rint(groups / scale[..., None]), -8, 7).astype(np.int8).reshape(rows, columns)
    return values, scale if group_size else scale[:, 0]


@dataclass(frozen=True)
class Format:
    """How one weight matrix is stored. `group_size` is for int4: 0 is one scale for each row."""

    dtype: str
    group_size: int = 0

    def dequantize(self, weight: Floats) -> Floats:
        """What the stored weight stands for."""
        if self.dtype == "fp16":
            return weight.astype(np.float16).astype(np.float32)
        if self.dtype == "int8":
            values, scale = quantize_int8(weight)
            return np.float32(values) * scale[:, None]
        if self.dtype == "int4":
            values, scale = quantize_int4(weight, self.group_size)
            size = self.group_size or weight.shape[1]
            return np.float32(values) * np.repeat(scale.reshape(len(weight), -1), size, axis=1)
        return weight

    def stored_bytes(self, rows: int, columns: int, group_scale_bytes: int = 2) -> int:
        """Values and scales in a file. Scales of groups are bfloat16, or float32 in a .pte file's embedding."""
        if self.dtype == "int8":
            return rows * columns + 4 * rows
        if self.dtype == "int4" and self.group_size == 0:
            return rows * ((columns + 1) // 2) + 4 * rows
        if self.dtype == "int4":
            return rows * columns // 2 + group_scale_bytes * rows * (columns // self.group_size)
        return rows * columns * (2 if self.dtype == "fp16" else 4)


@dataclass(frozen=True)
class Options:
    """The quantization options of one export."""

    dtype: str = "fp32"
    mode: str = "weight_only"
    group_size: int = 32
    embedding: str = "fp32"
    head: str = "fp32"
    activations: str = "fp32"

    def arguments(self) -> list[str]:
        """As words of the command line; what has its default value is left out."""
        words = {
            "--dtype": (self.dtype, "fp32"),
            "--mode": (self.mode, "weight_only"),
            "--group-size": (str(self.group_size), "32"),
            "--embedding-dtype": (self.embedding, "fp32"),
            "--head-dtype": (self.head, "fp32"),
            "--activation-dtype": (self.activations, "fp32"),
        }
        return [word for name, (value, default) in words.items() if value != default for word in (name, value)]

    def format_of(self, module: str, columns: int) -> Format:
        """The format of a module's weight, by its canonical name. Norms stay FP32; biases are no weights."""
        dtype = {"embedding": self.embedding, "lm_head": self.head}.get(module, self.dtype)
        if module.endswith("norm"):
            dtype = "fp32"
        if dtype != "int4":
            return Format(dtype)
        fitting = (size for size in GROUP_SIZES if size <= self.group_size and columns % size == 0)
        return Format(dtype, next(fitting, 0))

    def quantizes_input(self, weight: Format) -> bool:
        """Whether a linear layer with such a weight runs on activations in 8 bits, with one scale for each token."""
        return (weight.dtype in ("int8", "int4") and self.mode == "dynamic") or weight.group_size > 0

    def quantizes_activations(self) -> bool:
        """Whether any layer does that."""
        formats = (self.format_of(module, 256) for module in ("layers.0.q_proj", "lm_head"))
        return any(map(self.quantizes_input, formats))


class QuantizedReference(Reference):
    """The FP32 reference with every weight replaced by what its stored form stands for.

    `quantize_activations` also rounds the input of the layers that have it so, as XNNPACK's qd8 kernels do.
    """

    def __init__(self, path: Path, options: Options, quantize_activations: bool = False) -> None:
        super().__init__(path)
        self._options = options
        self._quantize_activations = quantize_activations
        self.formats: dict[str, Format] = {}
        for module, (shape, _) in self.architecture.modules().items():
            if len(shape) == 2:
                self.formats[module] = options.format_of(module, shape[1])
                self._replace(f"{self.architecture.module_name(module)}.weight", self.formats[module])

    def _replace(self, name: str, stored: Format) -> None:
        self.weights[name] = torch.from_numpy(stored.dequantize(self.weights[name].numpy()))

    def _linear(self, module: str, x: Tensor) -> Tensor:
        if self._quantize_activations and self._options.quantizes_input(self.formats[module]):
            x = fake_quantize_tokens(x)
        return super()._linear(module, x)


def fake_quantize_tokens(x: Tensor) -> Tensor:
    """Round to 8 bits and back, asymmetric, with a scale and a zero point for each row, as XNNPACK's qdint8 does."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    steps = torch.where(low == high, 1.0, 255 / (high - low))
    from_low, from_high = -128 - low * steps, 127 - high * steps
    zero_point = torch.where(-128 + low * steps + 127 + high * steps > 0, from_low, from_high).clamp(-128, 127).round()
    return ((x * steps).round() + zero_point).clamp(-128, 127).sub(zero_point) / steps
