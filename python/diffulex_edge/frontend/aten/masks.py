"""Booleans that depend on an input, and masks of integers: in the graph, they are the numbers 0 and 1 of FP32."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten.arithmetic import above, absolute
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


def additive(translation: Translation, value: int, hidden: float) -> int:
    """What a mask, 1 where attention may look, adds to the scores."""
    graph = translation.graph
    return graph.binary("multiply", translation.graph.complement(value), graph.scalar(hidden))


def _both(translation: Translation, node: fx.Node) -> tuple[int, int]:
    for name in ("self", "other"):
        operand = argument(node, name)
        if isinstance(operand, fx.Node) and operand.meta["val"].dtype != torch.bool:
            raise translation.fail(node, "an operator on bits")
    return translation.floating(argument(node, "self")), translation.floating(argument(node, "other"))


@handles(
    aten.__and__, aten.bitwise_and, aten.logical_and, aten.__iand__, reads="self other", integers=True
)  # fmt: skip
def _and(translation: Translation, node: fx.Node) -> int:
    return translation.graph.binary("multiply", *_both(translation, node))


@handles(aten.__or__, aten.bitwise_or, aten.logical_or, reads="self other", integers=True)
def _or(translation: Translation, node: fx.Node) -> int:
    a, b = _both(translation, node)
    return translation.graph.unary("clamp", translation.graph.binary("add", a, b), min=0.0, max=1.0)


@handles(aten.logical_not, aten.bitwise_not, reads="self", integers=True)
def _not(translation: Translation, node: fx.Node) -> int:
    if argument(node, "self").meta["val"].dtype != torch.bool:
        raise translation.fail(node, "an operator on bits, or on other numbers than booleans")
    return translation.graph.complement(translation.floating(argument(node, "self")))


def _is_integer(operand: Any) -> bool:
    if isinstance(operand, fx.Node):
        value = operand.meta["val"]
        return isinstance(value, int | torch.SymInt) or not value.dtype.is_floating_point
    return isinstance(operand, int)


def _difference(translation: Translation, node: fx.Node) -> tuple[int, bool]:
    """self - other, and whether both are integers."""
    graph = translation.graph
    a, b = argument(node, "self"), argument(node, "other")
    if isinstance(b, int | float) and not abs(b) < 1e30:
        raise translation.fail(node, f"a comparison with {b}")
    difference = graph.binary("subtract", translation.floating(a), translation.floating(b))
    return difference, _is_integer(a) and _is_integer(b)


def _above(translation: Translation, difference: int, are_integers: bool) -> int:
    graph = translation.graph
    return graph.unary("clamp", difference, min=0.0, max=1.0) if are_integers else above(graph, difference)


@handles(aten.gt, reads="self other", integers=True)
def _gt(translation: Translation, node: fx.Node) -> int:
    return _above(translation, *_difference(translation, node))


@handles(aten.lt, reads="self other", integers=True)
def _lt(translation: Translation, node: fx.Node) -> int:
    difference, are_integers = _difference(translation, node)
    return _above(translation, translation.graph.unary("negate", difference), are_integers)


@handles(aten.le, reads="self other", integers=True)
def _le(translation: Translation, node: fx.Node) -> int:
    return translation.graph.complement(_gt(translation, node))


@handles(aten.ge, reads="self other", integers=True)
def _ge(translation: Translation, node: fx.Node) -> int:
    return translation.graph.complement(_lt(translation, node))


@handles(aten.ne, reads="self other", integers=True)
def _ne(translation: Translation, node: fx.Node) -> int:
    a, b = argument(node, "self"), argument(node, "other")
    if isinstance(b, int) and b in (0, 1) and isinstance(a, fx.Node) and translation.is_mask(a):
        mask = translation.floating(a)
        return mask if b == 0 else translation.graph.complement(mask)
    graph = translation.graph
    difference, are_integers = _difference(translation, node)
    return _above(translation, absolute(graph, difference), are_integers)


@handles(aten.eq, reads="self other", integers=True)
def _eq(translation: Translation, node: fx.Node) -> int:
    return translation.graph.complement(_ne(translation, node))


@handles(aten.index, reads="self indices", integers=True)
def _index(translation: Translation, node: fx.Node) -> int:
    """Indices that take every element once and in order only change the shape, as transformers' masks do."""
    x = argument(node, "self")
    indices = argument(node, "indices")
    if not translation.is_data(x) or any(translation.is_data(index) for index in indices):
        raise translation.fail(node, "indices that depend on an input")
    folding = translation.folding
    for length in folding.lengths() if folding.symbol is not None else [0]:
        sizes = [folding.size(size, length) for size in x.meta["val"].shape]
        places = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
        chosen = [None if index is None else folding.value(index, length) for index in indices]
        taken = aten.index.Tensor(places, chosen).flatten()
        if not torch.equal(taken, places.flatten()):
            return _gathered_columns(translation, node)
    return translation.graph.reshape(translation.value(x), translation.shape(node))


def _gathered_columns(translation: Translation, node: fx.Node) -> int:
    """One constant vector of indices along one dimension of a fixed size."""
    x, indices = translation.value(argument(node, "self")), argument(node, "indices")
    (axis, *others) = (i for i, index in enumerate(indices) if index is not None)
    if others or not translation.is_constant(indices[axis]):
        raise translation.fail(node, "indices along several dimensions, or that depend on the sequence's length")
    index = translation.folding.value(indices[axis])
    if index.dtype == torch.bool or index.dim() != 1:
        raise translation.fail(node, "indices that are booleans, or no vector")
    return picked(translation, node, x, axis, index.tolist())


@handles(aten.index_select, reads="self dim index", integers=True)
def _index_select(translation: Translation, node: fx.Node) -> int:
    x, index = translation.value(argument(node, "self")), argument(node, "index")
    if not translation.is_constant(index):
        raise translation.fail(node, "indices that depend on an input or on the sequence's length")
    axis = argument(node, "dim") % len(translation.graph.shape(x))
    return picked(translation, node, x, axis, translation.folding.value(index).reshape(-1).tolist())


def picked(translation: Translation, node: fx.Node, x: int, axis: int, index: list[int]) -> int:
    """Parts of x along a dimension, in the order of the indices: what is beside each other is taken at once."""
    graph = translation.graph
    size = graph.shape(x)[axis]
    if size == SEQUENCE or not index:
        raise translation.fail(node, "indices of the sequence, or none (export with a fixed length)")
    runs: list[list[int]] = []
    for place in (i + size if i < 0 else i for i in index):
        if runs and runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    return graph.concat([graph.slice(x, axis, begin, end) for begin, end in runs], axis)
