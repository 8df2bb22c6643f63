"""Torch tensors as the C++ library's: their bytes go in and out without a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffulex_edge._core import LayerQuantization
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.quant._config import QuantizationConfig, QuantizationDtype, RoundingMethod

Progress = Callable[[int, int, str], object]
"""progress(done_bytes, total_bytes, stage): source bytes; called from another thread, one call at a time."""

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}


@dataclass
class Sources:
    """Weights for the planner, kept alive while it reads them, and what had to be said about them."""

    tensors: list[tuple[str, str, list[int], int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _alive: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor) -> None:
        """`tensor` as NAME; on other devices, or strided, as a copy on the CPU.

        Errors: `InvalidArgumentError` for the meta device and for what holds no plain floats or stored integers.
        """
        if name in self._alive:
            return
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise InvalidArgumentError(f"{name}: is a {type(tensor).__name__}, not a plain tensor", where=name)
        if tensor.device.type == "meta":
            raise InvalidArgumentError(
                f"{name}: is on the meta device, where it has no values (load the weights first)", where=name
            )
        if tensor.layout != torch.strided:
            raise InvalidArgumentError(f"{name}: is {tensor.layout}, not dense", where=name)
        if tensor.numel() == 0:
            raise InvalidArgumentError(f"{name}: its shape {list(tensor.shape)} is empty", where=name)
        plain = tensor.detach()
        if plain.dtype == torch.float64:
            self.warnings.append(f"{name}: is float64, and was rounded to float32 first")
            plain = plain.float()
        if plain.dtype not in _NAMES:
            raise InvalidArgumentError(
                f"{name}: is {plain.dtype}; weights are float32, float16, bfloat16 or float64", where=name
            )
        plain = plain.cpu().contiguous()
        self._alive[name] = plain
        size = plain.numel() * plain.element_size()
        self.tensors.append((name, _NAMES[plain.dtype], list(plain.shape), plain.data_ptr(), size))


def empty_storage(layer: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Tensors on the CPU with the types and shapes of a planned layer's `weight` and `weight_scale`."""
    rows, columns, group_size = layer["rows"], layer["columns"], layer["group_size"]
    if layer["dtype"] == "fp16":
        return torch.empty(rows, columns, dtype=torch.float16), None
    scale = (
        torch.empty(rows, columns // group_size, dtype=torch.bfloat16)
        if group_size
        else torch.empty(rows, dtype=torch.float32)
    )
    if layer["dtype"] == "int8":
        return torch.empty(rows, columns, dtype=torch.int8), scale
    return torch.empty(rows, columns // 2, dtype=torch.uint8), scale


def encode(
    plan: LayerQuantization,
    targets: Sequence[tuple[int, tuple[Tensor, Tensor | None]]],
    threads: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """Encode the weights of layers, by index in plan.layers, into tensors from `empty_storage`.

    Returns |stored - given| / |given| (Frobenius norms) of each.
    """
    addresses = []
    for index, (weight, scale) in targets:
        scales = (0, 0) if scale is None else (scale.data_ptr(), scale.numel() * scale.element_size())
        addresses.append((index, (weight.data_ptr(), weight.numel() * weight.element_size(), *scales)))
    return plan.encode(addresses, threads, progress)


def encode_weight(
    weight: Tensor, role: str, dtype: QuantizationDtype, group_size: int, method: RoundingMethod
) -> tuple[Tensor, Tensor | None]:
    """One weight [rows, columns] as (`weight`, `weight_scale`) on its own device."""
    is_int4 = dtype == QuantizationDtype.INT4
    config = QuantizationConfig(
        dtype=dtype,
        exclude_layers=[],
        method=check_method(method),
        strict_group_size=is_int4,
        **({"group_size": group_size} if is_int4 else {}),
    )
    sources = Sources()
    sources.add("weight", weight)
    plan = LayerQuantization([("layer", role, "weight")], sources.tensors, config)
    stored = empty_storage(plan.layers[0])
    encode(plan, [(0, stored)])
    return stored[0].to(weight.device), None if stored[1] is None else stored[1].to(weight.device)


def check_method(method: RoundingMethod) -> RoundingMethod:
    """The method, if it looks only at a weight."""
    if method in (RoundingMethod.GPTQ, RoundingMethod.AWQ, RoundingMethod.AUTO):
        from diffulex_edge._errors import UnsupportedError

        raise UnsupportedError(
            f"method {method} rounds a layer by what the layers before it make, which needs the whole model as a "
            "checkpoint (use rtn, mse or hqq; or `diffulex-edge quantize --calibration` and load_quantized)",
            where="method",
        )
    return method
