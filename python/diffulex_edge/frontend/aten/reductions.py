"""ATen operators along a dimension: softmax, sums and what is made of them, and the greatest number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten import pairs, sequence
from diffulex_edge.frontend.aten.arithmetic import absolute, greater
from diffulex_edge.frontend.aten.layers import matmul
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


def along_last(translation: Translation, x: int, axis: int, operate: Callable[[int], int]) -> int:
    """Applies what works along the last dimension along another one."""
    rank = len(translation.graph.shape(x))
    axes = list(range(rank))
    axes[axis], axes[-1] = axes[-1], axes[axis]
    return translation.graph.transpose(operate(translation.graph.transpose(x, axes)), axes)


@handles(aten.softmax.int, aten._softmax, reads="self dim")
def _softmax(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    axis = argument(node, "dim") % len(translation.graph.shape(x))
    return along_last(translation, x, axis, lambda value: translation.graph.unary("softmax", value))


def _reduced(translation: Translation, node: fx.Node, is_mean: bool) -> int:
    x = reduced(translation, node, translation.value(argument(node, "self")), is_mean)
    return translation.graph.reshape(x, translation.shape(node))


def axes_of(translation: Translation, node: fx.Node, x: int) -> list[int]:
    """The dimensions that `dim` names, or all."""
    rank = len(translation.graph.shape(x))
    given = argument(node, "dim")
    given = [given] if isinstance(given, int) else given
    return sorted(axis % rank for axis in (given if isinstance(given, Sequence) and given else range(rank)))


def reduced(translation: Translation, node: fx.Node, x: int, is_mean: bool) -> int:
    """The sums or means over the dimensions that `dim` names, which stay with size 1."""
    graph = translation.graph
    count = 1

    for axis in axes_of(translation, node, x):
        size = graph.shape(x)[axis]
        if size == SEQUENCE:
            x = sequence.sum_over(translation, node, x, axis)
            if is_mean:
                x = graph.binary("divide", x, sequence.length(translation, node))
        else:
            count *= size
            x = along_last(translation, x, axis, graph.mean)
    return x if is_mean or count == 1 else graph.binary("multiply", x, graph.scalar(float(count)))


@handles(aten.mean, reads="self dim keepdim")
def _mean(translation: Translation, node: fx.Node) -> int:
    return _reduced(translation, node, is_mean=True)


@handles(aten.sum, reads="self dim keepdim")
def _sum(translation: Translation, node: fx.Node) -> int:
    return _reduced(translation, node, is_mean=False)


@handles(aten.var.correction, aten.std.correction, reads="self dim correction keepdim")
@handles(aten.var.dim, aten.std.dim, aten.var.default, aten.std.default, reads="self dim unbiased keepdim")
def _variance(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    sizes = [graph.shape(x)[axis] for axis in axes_of(translation, node, x)]
    correction = argument(node, "correction", 1 if argument(node, "unbiased", True) else 0)
    correction = 1 if correction is None else correction
    if correction and SEQUENCE in sizes:
        raise translation.fail(node, "a variance over the sequence with a correction (give correction=0)")
    deviation = graph.binary("subtract", x, reduced(translation, node, x, is_mean=True))
    result = reduced(translation, node, graph.unary("square", deviation), is_mean=True)
    if correction:
        count = math.prod(sizes)
        if count <= correction:
            raise translation.fail(node, f"a variance of {count} numbers with the correction {correction}")
        result = graph.binary("multiply", result, graph.scalar(count / (count - correction)))
    if node.target.overloadpacket is aten.std:  # type: ignore[union-attr]
        result = graph.unary("sqrt", result)
    return graph.reshape(result, translation.shape(node))


@handles(aten.linalg_vector_norm, reads="self ord dim keepdim")
@handles(aten.norm, reads="self p dim keepdim")
def _norm(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    order = argument(node, "ord", argument(node, "p"))
    order = 2 if order is None else order
    if order not in (1, 2):
        raise translation.fail(node, f"a norm of the order {order} (1 and 2 are supported)")
    if order == 2:
        result = graph.unary("sqrt", reduced(translation, node, graph.unary("square", x), is_mean=False))
    else:
        result = reduced(translation, node, absolute(graph, x), is_mean=False)
    return graph.reshape(result, translation.shape(node))


@handles(aten.log_softmax.int, aten._log_softmax, reads="self dim")
def _log_softmax(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    axis = argument(node, "dim") % len(translation.graph.shape(x))

    def along(value: int) -> int:
        return translation.graph.binary("subtract", value, _log_sum_exp(translation, node, value))

    return along_last(translation, x, axis, along)


@handles(aten.logsumexp, reads="self dim keepdim")
def _logsumexp(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    axes = axes_of(translation, node, x)
    if len(axes) != 1:
        raise translation.fail(node, "a sum over several dimensions")
    result = along_last(translation, x, axes[0], lambda value: _log_sum_exp(translation, node, value))
    return translation.graph.reshape(result, translation.shape(node))


def _log_sum_exp(translation: Translation, node: fx.Node, x: int) -> int:
    """log(sum(exp(x))) over the last dimension, which stays with size 1; the graph has no logarithm.

    Shifted by the mean that softmax gives x, the sum of n exponentials lies between 1 and n. Its logarithm is found by
    Halley's iteration, whose error falls to its third power in each step.
    """
    graph = translation.graph
    count = graph.shape(x)[-1]
    if count == SEQUENCE:
        raise translation.fail(node, "a logarithm of a sum over the sequence (export with a fixed length)")

    def total(value: int) -> int:
        return graph.binary("multiply", graph.mean(value), graph.scalar(float(count)))

    shift = total(graph.binary("multiply", graph.unary("softmax", x), x))
    summed = total(graph.unary("exp", graph.binary("subtract", x, shift)))
    error = math.log(count) / 2.0
    logarithm = graph.binary("multiply", summed, graph.scalar(0.0))
    logarithm = graph.binary("add", logarithm, graph.scalar(error))
    steps = 1
    while error > 1e-8:
        error -= 2.0 * math.tanh(error / 2.0)
        steps += 1
    for _ in range(steps):
        power = graph.unary("exp", logarithm)
        ratio = graph.binary("divide", graph.binary("subtract", summed, power), graph.binary("add", summed, power))
        logarithm = graph.binary("add", logarithm, graph.binary("multiply", ratio, graph.scalar(2.0)))
    return graph.binary("add", logarithm, shift)


@handles(aten.cumsum, reads="self dim")
def _cumsum(translation: Translation, node: fx.Node) -> int:
    """A product with the triangle of ones."""
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    rank = len(graph.shape(x))
    axis = argument(node, "dim") % rank
    size = graph.shape(x)[axis]
    if size == SEQUENCE:
        upper = pairs.triangle(translation, node)
    else:
        upper = graph.shared_constant(torch.ones(size, size).triu())
    lifted = x if rank > 1 else graph.reshape(x, (1, *graph.shape(x)))
    axis += len(graph.shape(lifted)) - rank
    leading = (1,) * (len(graph.shape(lifted)) - 2)

    def along(value: int) -> int:
        matrix = upper
        if leading:
            matrix = graph.binary("multiply", upper, graph.constant(torch.ones((*leading, 1, 1))))
        return matmul(graph, value, matrix)

    return graph.reshape(along_last(translation, lifted, axis, along), graph.shape(x))


@handles(aten.amax, aten.amin, reads="self dim keepdim")
@handles(aten.max.default, aten.min.default, reads="self")
def _extreme(translation: Translation, node: fx.Node) -> int:
    """Pairs of halves are compared until one number is left."""
    graph = translation.graph
    is_least = node.target.overloadpacket in (aten.amin, aten.min)  # type: ignore[union-attr]
    x = translation.value(argument(node, "self"))
    for axis in axes_of(translation, node, x):
        if graph.shape(x)[axis] == SEQUENCE:
            raise translation.fail(node, "the greatest number of the sequence (export with a fixed length)")
        while (size := graph.shape(x)[axis]) > 1:
            half = size // 2
            a, b = graph.slice(x, axis, 0, half), graph.slice(x, axis, half, 2 * half)
            rest = [graph.slice(x, axis, 2 * half, size)] if size % 2 else []
            x = graph.concat([greater(graph, a, b, is_least), *rest], axis)
    return graph.reshape(x, translation.shape(node))
