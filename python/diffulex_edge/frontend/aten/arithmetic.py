"""ATen operators that compute element by element, except for activations and choices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from diffulex_edge.frontend import _patterns
from diffulex_edge.frontend._folding import layer_of
from diffulex_edge.frontend._graph import Graph
from diffulex_edge.frontend.aten.complex_numbers import complex_product
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten

#: Divisors between it and its reciprocal have a reciprocal in FP32.
_LEAST_DIVISOR = 1e-37


def binary(translation: Translation, node: fx.Node, op: str, a: Any, b: Any) -> int:
    return binary_of(translation, node, op, translation.value(a), translation.value(b))


def binary_of(translation: Translation, node: fx.Node, op: str, a: int, b: int) -> int:
    try:
        return translation.graph.binary(op, a, b)
    except RuntimeError as error:
        raise translation.fail(node, str(error)) from None


def _times_alpha(translation: Translation, node: fx.Node, operand: Any) -> Any:
    """The operand that an addition or subtraction multiplies by `alpha`."""
    alpha = argument(node, "alpha")
    if not isinstance(alpha, int | float):
        raise translation.fail(node, "alpha is no number")
    if alpha == 1:
        return translation.value(operand)
    return binary_of(translation, node, "multiply", translation.value(operand), translation.graph.scalar(float(alpha)))


@handles(aten.add, reads="self other alpha")
def _add(translation: Translation, node: fx.Node) -> int:
    a, b = translation.value(argument(node, "self")), _times_alpha(translation, node, argument(node, "other"))
    result = binary_of(translation, node, "add", a, b)
    return _or(_patterns.rope(translation.graph, result), result)


@handles(aten.sub, reads="self other alpha")
def _sub(translation: Translation, node: fx.Node) -> int:
    a, b = translation.value(argument(node, "self")), _times_alpha(translation, node, argument(node, "other"))
    return binary_of(translation, node, "subtract", a, b)


@handles(aten.rsub, reads="self other alpha")
def _rsub(translation: Translation, node: fx.Node) -> int:
    a, b = translation.value(argument(node, "other")), _times_alpha(translation, node, argument(node, "self"))
    return binary_of(translation, node, "subtract", a, b)


@handles(aten.mul, reads="self other")
def _mul(translation: Translation, node: fx.Node) -> int:
    if node.meta["val"].dtype.is_complex:
        return complex_product(translation, node)
    a, b = argument(node, "self"), argument(node, "other")
    for number, other in ((a, b), (b, a)):
        if not isinstance(number, fx.Node) and number == 1:
            return translation.value(other)
    result = binary(translation, node, "multiply", a, b)
    composite = _patterns.rms_norm(translation.graph, result, layer_of(node)[0])
    return _or(composite, _or(_patterns.swiglu(translation.graph, result), result))


@handles(aten.div, aten.true_divide, reads="self other")
def _div(translation: Translation, node: fx.Node) -> int:
    a, b = argument(node, "self"), argument(node, "other")
    if isinstance(b, int | float):
        if not _LEAST_DIVISOR < abs(b) < 1.0 / _LEAST_DIVISOR:
            raise translation.fail(node, f"a division by {b}, whose reciprocal is no number in FP32")
        return binary(translation, node, "multiply", a, 1.0 / b)
    return binary(translation, node, "divide", a, b)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _register_unary(op: str, *targets: Any) -> None:
    @handles(*targets, reads="self")
    def unary(translation: Translation, node: fx.Node) -> int:
        return translation.graph.unary(op, translation.value(argument(node, "self")))


_register_unary("negate", aten.neg)
_register_unary("square", aten.square)
_register_unary("rsqrt", aten.rsqrt)
_register_unary("sqrt", aten.sqrt)
_register_unary("sigmoid", aten.sigmoid)
_register_unary("tanh", aten.tanh)
_register_unary("exp", aten.exp)
_register_unary("sin", aten.sin)
_register_unary("cos", aten.cos)
_register_unary("floor", aten.floor)


@handles(aten.pow, reads="self exponent")
def _pow(translation: Translation, node: fx.Node) -> int:
    x, exponent = translation.value(argument(node, "self")), argument(node, "exponent")
    graph = translation.graph
    if not isinstance(exponent, int | float) or exponent not in (-1, -0.5, 0.5, 1, 2, 3):
        raise translation.fail(node, f"the exponent {exponent}, which is not -1, -0.5, 0.5, 1, 2 or 3")
    if exponent == 1:
        return x
    if exponent == 3:
        return graph.binary("multiply", graph.unary("square", x), x)
    if exponent == -1:
        return graph.binary("divide", graph.scalar(1.0), x)
    return graph.unary({2: "square", 0.5: "sqrt", -0.5: "rsqrt"}[exponent], x)


@handles(aten.reciprocal, reads="self")
def _reciprocal(translation: Translation, node: fx.Node) -> int:
    return translation.graph.binary("divide", translation.graph.scalar(1.0), translation.value(argument(node, "self")))


def absolute(graph: Graph, x: int) -> int:
    """The positive part, less the negative one."""
    positive = graph.unary("clamp", x, min=0.0, max=math.inf)
    return graph.binary("subtract", positive, graph.unary("clamp", x, min=-math.inf, max=0.0))


@handles(aten.abs, reads="self")
def _abs(translation: Translation, node: fx.Node) -> int:
    return absolute(translation.graph, translation.value(argument(node, "self")))


def above(graph: Graph, difference: int) -> int:
    """1 where the difference of two numbers is positive, else 0: exact where it's not below 1e-18."""
    for _ in range(4):  # each factor is a number of FP16 too
        difference = graph.binary("multiply", difference, graph.scalar(32768.0))
    return graph.unary("clamp", difference, min=0.0, max=1.0)


def greater(graph: Graph, a: int, b: int, is_least: bool = False) -> int:
    """The greater of two numbers, or the lesser, unrounded: one of them times 1, and the other times 0."""
    difference = graph.binary("subtract", a, b)
    first = above(graph, graph.unary("negate", difference) if is_least else difference)
    second = graph.complement(first)
    return graph.binary("add", graph.binary("multiply", a, first), graph.binary("multiply", b, second))


@handles(aten.maximum, aten.minimum, aten.max.other, aten.min.other, reads="self other")
def _greater(translation: Translation, node: fx.Node) -> int:
    a, b = (translation.value(argument(node, name)) for name in ("self", "other"))
    is_least = node.target.overloadpacket in (aten.minimum, aten.min)  # type: ignore[union-attr]
    return greater(translation.graph, a, b, is_least)
