"""Static 8-bit activations: measuring their ranges, and layers in integer arithmetic as XNNPACK's qs8 kernels do it.

Calibration proper is the command's business; here, ranges come from a reference forward pass over random tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from command import run_json
from families import Reference
from program import random_ids
from quantization import Floats, Options, QuantizedReference, quantize_int4, quantize_int8
from torch import Tensor

CALIBRATION_LENGTHS: Final = (1, 5, 31, 64, 100)

Range = tuple[float, float]


def canonical_name(module: str) -> str:
    """Of a linear layer: with a tied head, the embedding's matrix is used by lm_head."""
    return "lm_head" if module == "embedding" else module


class MeasuringReference(QuantizedReference):
    """Notes the least and the largest value that goes into and comes out of every linear layer."""

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        self.ranges: dict[str, dict[str, Range]] = {}

    def _linear(self, module: str, x: Tensor) -> Tensor:
        y = super()._linear(module, x)
        layer = self.ranges.setdefault(canonical_name(module), {"input": (0.0, 0.0), "output": (0.0, 0.0)})
        for side, values in (("input", x), ("output", y)):
            low, high = layer[side]
            layer[side] = (min(low, values.min().item()), max(high, values.max().item()))
        return y


def measure(model: Path, options: Options, sequences: Iterable[Tensor] | None = None) -> dict[str, dict[str, Range]]:
    """The ranges of every linear layer's input and output over `sequences`, or over random ones."""
    reference = MeasuringReference(model, options)
    vocab = reference.architecture.vocab
    for ids in sequences or [random_ids(length, vocab) for length in CALIBRATION_LENGTHS]:
        reference.logits(ids)
    return reference.ranges


def static_checkpoint(
    model: Path, folder: Path, options: Options, ranges: dict[str, dict[str, Range]] | None = None
) -> Path:
    """A quantized checkpoint in `folder` that notes mode static and the ranges (by default, those measured)."""
    weight_only = Options(options.dtype, "weight_only", options.group_size, options.embedding, options.head)
    run_json("quantize", model, "-o", folder, *weight_only.arguments())
    note_ranges(folder, measure(model, options) if ranges is None else ranges)
    return folder


def note_ranges(folder: Path, activations: object) -> None:
    """Rewrite a quantized checkpoint's config.json to mode static with `activations` as its ranges."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {"mode": "static", "activations": activations}
    (folder / "config.json").write_text(json.dumps(config))


def copy_with_ranges(checkpoint: Path, folder: Path, activations: object) -> Path:
    """A copy of a quantized checkpoint with other ranges."""
    shutil.copytree(checkpoint, folder)
    note_ranges(folder, activations)
    return folder


def affine(bounds: Range) -> tuple[np.float32, int]:
    """Scale and zero point with which -128..127 cover the range and 0 is exact."""
    low, high = min(0.0, bounds[0]), max(0.0, bounds[1])
    if low == high:
        return np.float32(1), 0
    scale = max(np.float32((high - low) / 255), np.finfo(np.float32).tiny)
    return scale, int(np.clip(np.rint(-128 - low / float(scale)), -128, 127))


class StaticReference(QuantizedReference):
    """Computes every layer that `options` quantize in integers, with the given ranges; all else in FP32."""

    def __init__(self, path: Path, options: Options, ranges: dict[str, dict[str, Range]]) -> None:
        self._integers: dict[str, tuple[Floats, Floats]] = {}
        self._ranges = ranges
        self._originals = Reference(path).weights
        super().__init__(path, options)

    def _stored(self, module: str) -> tuple[Floats, Floats] | None:
        """Integers (as floats) and scales of a layer's weight; None where it is not quantized."""
        # A tied head may differ from the embedding, but these tests give both the same format.
        dtype = self._options.format_of(canonical_name(module), 256).dtype
        if dtype not in ("int8", "int4"):
            return None
        if module not in self._integers:
            weight = self._originals[f"{self.architecture.module_name(module)}.weight"].numpy()
            integers, scale = quantize_int8(weight) if dtype == "int8" else quantize_int4(weight, 0)
            self._integers[module] = integers.astype(np.float64), scale.astype(np.float32)
        return self._integers[module]

    def _linear(self, module: str, x: Tensor) -> Tensor:
        stored = self._stored(module)
        if stored is None:
            return super()._linear(module, x)
        integers, weight_scale = stored
        (scale_in, zero_in), (scale_out, zero_out) = (
            affine(self._ranges[canonical_name(module)][side]) for side in ("input", "output")
        )
        rounded = np.rint(x.numpy() * (np.float32(1) / scale_in)) + zero_in
        steps = np.clip(rounded, -128, 127).astype(np.float64) - zero_in
        sums = steps @ integers.T  # integers below 2^53: exact
        bias = self._bias(module)
        if isinstance(bias, Tensor):
            sums += np.rint(bias.numpy().astype(np.float64) / (np.float64(scale_in) * np.float64(weight_scale)))
        requantized = np.rint(sums.astype(np.float32) * (scale_in * weight_scale / scale_out))
        out = np.clip(requantized, -128 - zero_out, 127 - zero_out)
        return torch.from_numpy(out.astype(np.float32) * scale_out)


class RoundedReference(QuantizedReference):
    """Rounds what goes into and comes out of every layer with a range to 8 bits and back; computes in FP32 between.

    That is what a program with quantize and dequantize around its layers does. Biases are not rounded.
    """

    def __init__(self, path: Path, options: Options, ranges: dict[str, dict[str, Range]]) -> None:
        super().__init__(path, options)
        self._ranges = ranges

    def _linear(self, module: str, x: Tensor) -> Tensor:
        if self.formats[module].dtype != "int8":
            return super()._linear(module, x)
        ranges = self._ranges[canonical_name(module)]
        return round_values(super()._linear(module, round_values(x, ranges["input"])), ranges["output"])


def round_values(x: Tensor, bounds: Range) -> Tensor:
    """What is left of x in integers from -128 to 127 that cover the range."""
    scale, zero_point = affine(bounds)
    steps = torch.clamp(torch.round(x / float(scale)) + zero_point, -128, 127)
    return (steps - zero_point) * float(scale)
