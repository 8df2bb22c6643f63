"""Ranges of static activations, from running the model on some data.

Memory: each side of a layer keeps at most `MAX_VALUES` values, 1 MiB, beside its exact least and largest. Where there
are more, every value is kept with the same probability, halved whenever they are too many; the choice is seeded, and
the same for layers that see the same input, so that q, k and v get one range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffulex_edge import _core
from diffulex_edge._calibration_items import arguments_of
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.quant._config import LayerActivations, Range
from diffulex_edge.quant._layers import evaluating

MAX_VALUES = 1 << 18


class Sample:
    """Values of one side of a layer."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._count = 0
        self._keep_one_in = 1
        self._generator = torch.Generator().manual_seed(0)
        self._ends: list[Tensor] = []

    @property
    def has_values(self) -> bool:
        return bool(self._ends)

    def add(self, values: Tensor) -> None:
        flat = values.detach().reshape(-1)
        if flat.numel() == 0:
            return
        ends = torch.stack([end.float().cpu() for end in (*self._ends, *flat.aminmax())])
        self._ends = list(ends.aminmax())
        if self._keep_one_in > 1:
            flat = self._thin(flat, self._keep_one_in)
        self._append(flat)
        while self._count > MAX_VALUES:
            kept = torch.cat(self._kept)
            self._kept, self._count = [], 0
            self._keep_one_in *= 2
            self._append(self._thin(kept, 2))

    def _append(self, values: Tensor) -> None:
        self._kept.append(values.float().cpu())
        self._count += values.numel()

    def _thin(self, values: Tensor, one_in: int) -> Tensor:
        chosen = torch.rand(values.numel(), generator=self._generator) < 1.0 / one_in
        return values[chosen.to(values.device)]

    def range(self, observer: str, percentile: float) -> Range:
        ends = [torch.stack(self._ends)] if self._keep_one_in > 1 else []
        values = torch.cat((*self._kept, *ends)).contiguous()
        return _core.observe(values.data_ptr(), values.numel(), observer, percentile)


def calibrate(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    data: Iterable[Any],
    observer: str,
    percentile: float,
) -> tuple[dict[str, LayerActivations], int]:
    """Run the model on every item of `data` and choose the ranges of the layers' inputs and outputs (with bias).

    An item is a tensor, a tuple or list of positional arguments, or a dict of keyword arguments. The model runs in
    evaluation mode and without gradients, and is left as it was. Returns the ranges and the number of items.

    Errors: `InvalidArgumentError` for no data and for a layer that no item reached; `BadFileError` for values that are
    not finite.
    """
    samples = {name: (Sample(), Sample()) for name in layers}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, arguments: Sequence[Tensor], named: Mapping[str, Tensor], output: Tensor) -> None:
            samples[name][0].add(arguments[0] if arguments else next(iter(named.values())))
            samples[name][1].add(output)

        return hook

    handles = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in layers.items()]
    count = 0
    try:
        with evaluating(model), torch.no_grad():
            for item in data:
                arguments, named = arguments_of(item)
                model(*arguments, **named)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        raise InvalidArgumentError("calibration_data: is empty", where="calibration_data")
    ranges = {}
    for name, (inputs, outputs) in samples.items():
        if not inputs.has_values:
            raise InvalidArgumentError(
                f"{name}: no item of calibration_data reached it (exclude the layer, or give data that does)",
                where=name,
            )
        ranges[name] = LayerActivations(inputs.range(observer, percentile), outputs.range(observer, percentile))
    return ranges, count
