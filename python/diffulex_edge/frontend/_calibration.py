"""Inputs of a module as the C++ library calibrates its graph with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from diffulex_edge._calibration_items import arguments_of
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.frontend._module import ModuleProgram

#: Integers up to here are exact in float32.
_MOST = 1 << 24


@dataclass
class Runs:
    """Of each run the graph's inputs, as shapes and addresses; the tensors live as long as this."""

    inputs: list[list[tuple[list[int], int, int]]] = field(default_factory=list)
    _alive: list[Tensor] = field(default_factory=list)

    def add(self, values: list[Tensor]) -> None:
        floats = [value.detach().to("cpu", torch.float32).contiguous() for value in values]
        self.inputs.append([(list(value.shape), value.data_ptr(), value.numel()) for value in floats])
        self._alive += floats


def items_of(data: Iterable[Any]) -> list[Any]:
    """All items. Errors: `TypeError` for a tensor in their place, `InvalidArgumentError` for none."""
    if isinstance(data, Tensor):
        raise TypeError("calibration_data: is a tensor, and not an iterable of inputs; did you mean [tensor]?")
    items = list(data)
    if not items:
        raise InvalidArgumentError("calibration_data: is empty", where="calibration_data")
    return items


def runs_of(program: ModuleProgram, items: Iterable[Any]) -> Runs:
    """The graph's inputs in items that are a tensor, a tuple of positional arguments, or a dict of named ones.

    Errors: `TypeError` for other items; `InvalidArgumentError` for one without an input, or with integers that FP32
    does not hold.
    """
    runs = Runs()
    for number, item in enumerate(items):
        runs.add(_inputs_of(program, item, f"calibration_data: item {number}"))
    return runs


def _inputs_of(program: ModuleProgram, item: Any, where: str) -> list[Tensor]:
    if isinstance(item, Mapping) and all(name in item for name in program.inputs):
        found = [item[name] for name in program.inputs]
    else:
        flat = _flat(item, where)
        if max(program.input_indices, default=-1) >= len(flat):
            raise InvalidArgumentError(
                f"{where}: has {len(flat)} inputs, and the module takes {', '.join(program.inputs)}",
                where="calibration_data",
            )
        found = [flat[index] for index in program.input_indices]
    for name, value in zip(program.inputs, found, strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(f"{where}: {name} is a {type(value).__name__}, not a tensor")
        if value.dtype != torch.bool and not value.is_floating_point() and _largest(value) > _MOST:
            raise InvalidArgumentError(f"{where}: {name} has integers beyond {_MOST}", where="calibration_data")
    return found


def _largest(value: Tensor) -> int:
    return int(value.abs().max()) if value.numel() else 0


def _flat(item: Any, where: str) -> list[Any]:
    """An item's inputs, flattened as torch.export flattens a module's arguments."""
    return _pytree.tree_leaves(arguments_of(item, where))
