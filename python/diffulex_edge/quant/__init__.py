"""Quantizes the layers of a `torch.nn.Module` to FP16, INT8 and INT4, byte for byte as `diffulex-edge quantize` does.

    from diffulex_edge.quant import INT8Quantizer, QuantizationConfig, QuantizationDtype

    config = QuantizationConfig(dtype=QuantizationDtype.INT8, mode="weight_only", exclude_layers=["lm_head"])
    result = INT8Quantizer().quantize(model, config)
    print(f"{result.compression_ratio:.2f}x, {result.memory_reduction_pct:.1f}% less")
    result.model(input_ids)  # runs in PyTorch; `model` is as it was

Importing this needs no PyTorch; what works on modules imports it when first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from diffulex_edge.quant._config import (
    LayerActivations,
    QuantizationConfig,
    QuantizationDtype,
    QuantizationMode,
    RoundingMethod,
)
from diffulex_edge.quant._quantizers import (
    BaseQuantizer,
    FP16Quantizer,
    INT4Quantizer,
    INT8Quantizer,
    Quantizer,
    is_int4_available,
    quantize_model,
)
from diffulex_edge.quant._result import LayerResult, QuantizationResult

if TYPE_CHECKING:
    from diffulex_edge.quant._checkpoint import load_quantized
    from diffulex_edge.quant._modules import QuantizedEmbedding, QuantizedLinear
    from diffulex_edge.quant._torchao import from_torchao

__all__ = [
    "BaseQuantizer",
    "FP16Quantizer",
    "INT4Quantizer",
    "INT8Quantizer",
    "LayerActivations",
    "LayerResult",
    "QuantizationConfig",
    "QuantizationDtype",
    "QuantizationMode",
    "QuantizationResult",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Quantizer",
    "RoundingMethod",
    "from_torchao",
    "is_int4_available",
    "load_quantized",
    "quantize_model",
]

_NEED_TORCH = {
    "QuantizedEmbedding": "_modules",
    "QuantizedLinear": "_modules",
    "from_torchao": "_torchao",
    "load_quantized": "_checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if sys.modules.get("torch") is not None:
    # So that torch.export.load and torch.load find the operators of saved programs and modules.
    importlib.import_module(f"{__name__}._ops")
