"""What a module's graph sees of some data: ranges for mode static."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from diffulex_edge._errors import BadFileError
from diffulex_edge.frontend._evaluate import Evaluation
from diffulex_edge.frontend._graph import Node
from diffulex_edge.frontend._module import ModuleProgram
from diffulex_edge.quant._calibrate import Sample
from diffulex_edge.quant._config import LayerActivations, Range


def _flat(item: Any) -> list[Any]:
    """An item's inputs, flattened as torch.export flattens a module's arguments."""
    if isinstance(item, Tensor):
        return [item]
    if isinstance(item, dict):
        return _pytree.tree_leaves(((), item))
    return _pytree.tree_leaves((tuple(item), {}))


def layer_ranges(
    program: ModuleProgram, items: Sequence[Any], observer: str, percentile: float
) -> dict[str, LayerActivations]:
    """Of the inputs and outputs (with bias) of the linear layers, by name."""
    samples: dict[str, tuple[Sample, Sample]] = {}

    def observe(_index: int, node: Node, inputs: Sequence[Tensor], value: Tensor) -> None:
        if node.op == "linear":
            given, made = samples.setdefault(node.name, (Sample(), Sample()))
            given.add(inputs[0])
            made.add(value)

    for item in items:
        program.run(_flat(item), observe)
    return {
        name: LayerActivations(given.range(observer, percentile), made.range(observer, percentile))
        for name, (given, made) in samples.items()
    }


def value_ranges(program: ModuleProgram, items: Sequence[Any]) -> Any:
    """Of every value, by its index (`values`), and of attention scores of the pairs that see each other (`scores`).

    They cover all that was seen: for integers of 16 bits throughout, as on an NPU.
    """
    values: list[Range] = [(0.0, 0.0)] * len(program.graph.nodes)
    scores: dict[int, Range] = {}

    def widened(range_: Range, tensor: Tensor, node: Node) -> Range:
        most = torch.finfo(torch.float32).max
        low, high = (float(bound) for bound in tensor.clamp(-most, most).aminmax())  # masks may be infinite
        if not low <= high:
            raise BadFileError(f"{node.name or node.op}: its values are not numbers on the calibration data")
        return min(range_[0], low), max(range_[1], high)

    def observe(index: int, node: Node, inputs: Sequence[Tensor], value: Tensor) -> None:
        if node.op not in ("input", "weight", "constant") or (node.op == "input" and value.is_floating_point()):
            values[index] = widened(values[index], value, node)
        if node.op == "attention":
            raw = Evaluation.scores(node, inputs[0], inputs[1])
            seen = raw if len(inputs) < 4 else raw[:, inputs[3] > -1e4]
            scores[index] = widened(scores.get(index, (0.0, 0.0)), seen, node)

    for item in items:
        program.run(_flat(item), observe)
    return SimpleNamespace(values=values, scores=scores)
