"""Activation functions."""

from __future__ import annotations

import math

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE, Graph
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


@handles(aten.silu, reads="self")
def _silu(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    return translation.graph.binary("multiply", x, translation.graph.unary("sigmoid", x))


@handles(aten.gelu, reads="self approximate")
def _gelu(translation: Translation, node: fx.Node) -> int:
    tanh = argument(node, "approximate") == "tanh"
    return translation.graph.unary("gelu", translation.value(argument(node, "self")), tanh=tanh)


@handles(aten.relu, reads="self")
def _relu(translation: Translation, node: fx.Node) -> int:
    return translation.graph.unary("clamp", translation.value(argument(node, "self")), min=0.0, max=math.inf)


@handles(aten.clamp, aten.clamp_min, aten.clamp_max, reads="self min max")
@handles(aten.hardtanh, reads="self min_val max_val")
@handles(aten.relu6, reads="self")
def _clamp(translation: Translation, node: fx.Node) -> int:
    low, high = argument(node, "min", argument(node, "min_val")), argument(node, "max", argument(node, "max_val"))
    if node.target is aten.relu6.default:
        low, high = 0.0, 6.0
    for bound in (low, high):
        if bound is not None and not isinstance(bound, int | float):
            raise translation.fail(node, "a bound that is no number")
    return translation.graph.unary(
        "clamp", translation.value(argument(node, "self")), min=-math.inf if low is None else float(low),
        max=math.inf if high is None else float(high),
    )  # fmt: skip


def _parts(graph: Graph, x: int) -> tuple[int, int]:
    """The positive part and the negative one, of which x is the sum."""
    return graph.unary("clamp", x, min=0.0, max=math.inf), graph.unary("clamp", x, min=-math.inf, max=0.0)


@handles(aten.leaky_relu, reads="self negative_slope")
def _leaky_relu(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    positive, negative = _parts(graph, translation.value(argument(node, "self")))
    slope = graph.scalar(float(argument(node, "negative_slope")))
    return graph.binary("add", positive, graph.binary("multiply", negative, slope))


@handles(aten.elu, reads="self alpha scale input_scale")
@handles(aten.selu, aten.celu.default, reads="self alpha")
def _elu(translation: Translation, node: fx.Node) -> int:
    """scale * (x, or alpha * (exp(input_scale * x) - 1) where x is negative)."""
    graph = translation.graph
    positive, negative = _parts(graph, translation.value(argument(node, "self")))
    alpha, scale, steepness = (float(argument(node, name, 1.0)) for name in ("alpha", "scale", "input_scale"))
    if node.target is aten.selu.default:
        alpha, scale = 1.6732632423543772, 1.0507009873554805
    if node.target is aten.celu.default:
        steepness = 1.0 / alpha
    if steepness != 1.0:
        negative = graph.binary("multiply", negative, graph.scalar(steepness))
    curve = graph.binary("subtract", graph.unary("exp", negative), graph.scalar(1.0))
    result = graph.binary("add", positive, graph.binary("multiply", curve, graph.scalar(alpha)))
    return graph.binary("multiply", result, graph.scalar(scale)) if scale != 1.0 else result


@handles(aten.glu, reads="self dim")
def _glu(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    axis = argument(node, "dim") % len(graph.shape(x))
    size = graph.shape(x)[axis]
    if size == SEQUENCE:
        raise translation.fail(node, "halves of the sequence (export with a fixed length)")
    a, b = graph.slice(x, axis, 0, size // 2), graph.slice(x, axis, size // 2, size)
    return graph.binary("multiply", a, graph.unary("sigmoid", b))
