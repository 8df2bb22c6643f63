"""What came of quantizing a module."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from diffulex_edge.quant._config import QuantizationConfig, QuantizationDtype, QuantizationMode, RoundingMethod

if TYPE_CHECKING:
    from torch import nn

MEGABYTE: Final = 1e6


@dataclass(frozen=True)
class LayerResult:
    """One linear layer or embedding."""

    name: str  # of its module
    role: str  # "linear" or "embedding"
    rows: int  # out_features, or the table's length
    columns: int
    dtype: QuantizationDtype  # FP32: its weight stays as it is
    format: str  # such as "i4 groups of 32, bf16 scales"
    group_size: int  # INT4 in groups; 0 otherwise
    mode: QuantizationMode  # of its activations
    method: RoundingMethod
    excluded: bool  # by exclude_layers
    stored_bytes: int  # values and scales; FP32 counts 4 bytes a weight
    #: |stored - given| / |given|, Frobenius norms of the weight; 0 where nothing is lost, None where the weight came
    #: quantized.
    weight_error: float | None


@dataclass
class QuantizationResult:
    """The quantized model and the figures about it. The model that was given is as it was.

    What can't be done raises `diffulex_edge.Error`; there is no result then, and `success` is always True: it is here
    for code that asks every result of the package.

    Memory is that of the C++ library and the command: all parameters in FP32 against all of them as stored, those that
    nobody quantizes in FP32 too, tied ones once. `metrics` has beside it what the two modules really hold.
    """

    model: nn.Module
    config: QuantizationConfig  # as given, with `activations` as calibrated
    layers: list[LayerResult]
    parameters: int
    original_memory_mb: float  # MB, 10^6 bytes
    quantized_memory_mb: float  # MB
    warnings: list[str] = field(default_factory=list)
    success: bool = True
    module_bytes_before: int = 0  # parameters and buffers, shared ones once
    module_bytes_after: int = 0
    calibration_samples: int = 0
    seconds: float = 0.0

    @property
    def memory_reduction_pct(self) -> float:
        """Percent of original_memory_mb that is saved."""
        if self.original_memory_mb == 0.0:
            return 0.0
        return 100.0 * (1.0 - self.quantized_memory_mb / self.original_memory_mb)

    @property
    def compression_ratio(self) -> float:
        """original_memory_mb / quantized_memory_mb."""
        return self.original_memory_mb / self.quantized_memory_mb if self.quantized_memory_mb else 1.0

    @property
    def metrics(self) -> dict[str, Any]:
        """All figures by name; `layers` has those of each layer."""
        counts = dict.fromkeys(QuantizationDtype, 0)
        for layer in self.layers:
            counts[layer.dtype] += 1
        errors = {layer.name: layer.weight_error for layer in self.layers if layer.weight_error}
        return {
            "parameters": self.parameters,
            "original_memory_mb": self.original_memory_mb,
            "quantized_memory_mb": self.quantized_memory_mb,
            "memory_reduction_pct": self.memory_reduction_pct,
            "compression_ratio": self.compression_ratio,
            "module_bytes_before": self.module_bytes_before,
            "module_bytes_after": self.module_bytes_after,
            "layers": {dtype.value: count for dtype, count in counts.items() if count},
            "excluded_layers": [layer.name for layer in self.layers if layer.excluded],
            "weight_error": errors,
            "largest_weight_error": max(errors.values(), default=0.0),
            "calibration_samples": self.calibration_samples,
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in self.metrics["layers"].items())
        return (
            f"QuantizationResult({kinds}; {self.original_memory_mb:.2f} -> {self.quantized_memory_mb:.2f} MB, "
            f"{self.compression_ratio:.2f}x, {len(self.warnings)} warnings)"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the figures, a row for each layer, the warnings."""
        rows = "".join(
            f"<tr><td>{html.escape(layer.name)}</td><td>{html.escape(layer.format)}</td>"
            f"<td>{layer.rows} × {layer.columns}</td><td>{layer.stored_bytes / MEGABYTE:.3f}</td>"
            f"<td>{'' if layer.weight_error is None else f'{layer.weight_error:.2%}'}</td></tr>"
            for layer in self.layers
        )
        warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return (
            f"<p><b>{html.escape(type(self.model).__name__)}</b>: {self.original_memory_mb:.2f} MB in FP32 → "
            f"{self.quantized_memory_mb:.2f} MB, {self.compression_ratio:.2f}x, "
            f"{self.memory_reduction_pct:.1f}% less</p>"
            "<table><thead><tr><th>layer</th><th>stored as</th><th>shape</th><th>MB</th><th>weight error</th></tr>"
            f"</thead><tbody>{rows}</tbody></table>" + (f"<ul>{warnings}</ul>" if warnings else "")
        )
