"""Writes into parts of tensors, as `torch.export` spells them without aliases: a new tensor with the part replaced."""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.shapes import expanded
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


@handles(aten.copy, reads="self src", integers=True)
def _copy(translation: Translation, node: fx.Node) -> int:
    """`self` gives only its shape and type."""
    source, target = argument(node, "src").meta["val"].dtype, node.meta["val"].dtype
    if translation.is_data(argument(node, "src")) and source != target and not (
        source.is_floating_point and target.is_floating_point
    ):  # fmt: skip
        raise translation.fail(node, f"a conversion of an input's numbers from {source} to {target}")
    return expanded(translation, node, translation.value(argument(node, "src")))


@handles(aten.select_scatter, reads="self src dim index", integers=True)
def _select_scatter(translation: Translation, node: fx.Node) -> int:
    graph, index = translation.graph, argument(node, "index")
    x, part = translation.value(argument(node, "self")), translation.value(argument(node, "src"))
    shape = graph.shape(x)
    axis = argument(node, "dim") % len(shape)
    if not isinstance(index, int) or shape[axis] == SEQUENCE:
        raise translation.fail(node, "a write to one position of the sequence (export with a fixed length)")
    index %= shape[axis]
    return _with_part(translation, node, x, graph.reshape(part, (*shape[:axis], 1, *shape[axis + 1 :])), axis, index)


@handles(aten.slice_scatter, reads="self src dim start end step", integers=True)
def _slice_scatter(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x, part = translation.value(argument(node, "self")), translation.value(argument(node, "src"))
    if graph.shape(x) == graph.shape(part):
        return part
    axis = argument(node, "dim") % len(graph.shape(x))
    begin, size = argument(node, "start") or 0, graph.shape(x)[axis]
    if size == SEQUENCE or not isinstance(begin, int):
        raise translation.fail(node, "a write to a part of the sequence (export with a fixed length)")
    if argument(node, "step") != 1:
        raise translation.fail(node, "a write to a slice with a step")
    begin = min(max(0, begin + size) if begin < 0 else begin, size)
    return _with_part(translation, node, x, part, axis, begin)


def _with_part(translation: Translation, node: fx.Node, x: int, part: int, axis: int, begin: int) -> int:
    """x with `part` in the place of x[begin : begin + size] along `axis`."""
    graph = translation.graph
    size, end = graph.shape(x)[axis], begin + graph.shape(part)[axis]
    if end == begin:
        return x
    pieces = [graph.slice(x, axis, 0, begin)] if begin > 0 else []
    pieces.append(part)
    if end < size:
        pieces.append(graph.slice(x, axis, end, size))
    return graph.concat(pieces, axis)


@handles(aten.fill.Tensor, reads="self value")
def _fill(translation: Translation, node: fx.Node) -> int:
    return expanded(translation, node, translation.value(argument(node, "value")))
