"""ATen operators that choose between values by a mask."""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend._graph import Graph
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import LEAST_SCORE, MASKED_SCORE, Translation

aten = torch.ops.aten

#: What a fill with -inf may go through on its way to a softmax.
_ON_THE_WAY = frozenset({
    aten.add, aten.alias, aten.clone, aten.contiguous, aten.detach, aten.dropout, aten.expand, aten.slice, aten.to,
    aten._to_copy, aten.type_as, aten.unsqueeze, aten.view,
})  # fmt: skip

#: Operators on elements that are infinite or NaN for some finite operands, the last ones.
_PARTIAL = frozenset({"divide", "exp", "rsqrt", "sqrt"})
#: Operators on elements that make finite numbers of finite ones.
_ELEMENTWISE = frozenset({
    "add", "clamp", "cos", "floor", "gelu", "multiply", "negate", "sigmoid", "sin", "square", "subtract", "tanh",
})  # fmt: skip


@handles(aten.masked_fill, reads="self mask value")
def _masked_fill(translation: Translation, node: fx.Node) -> int:
    x, mask, number = (argument(node, name) for name in ("self", "mask", "value"))
    number = translation.number(number)
    if number is None:
        raise translation.fail(node, "a number to fill in that depends on an input")
    graph = translation.graph
    if number <= LEAST_SCORE and not _hides_a_row(translation, mask) and _is_for_softmax(translation, node):
        fill = graph.scalar(max(number, MASKED_SCORE))
        return graph.binary("add", translation.value(x), graph.binary("multiply", translation.floating(mask), fill))
    return _chosen(translation, node, mask, graph.scalar(number), translation.value(x))


@handles(
    aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar, reads="condition self other"
)
def _where(translation: Translation, node: fx.Node) -> int:
    condition, a, b = (argument(node, name) for name in ("condition", "self", "other"))
    return _chosen(translation, node, condition, translation.value(a), translation.value(b))


def _hides_a_row(translation: Translation, mask: fx.Node) -> bool:
    """Whether a softmax gets nothing but filled scores in some row; never, where an input says what is hidden."""
    if translation.is_data(mask):
        return False
    values = translation.folding.value(mask)
    return bool(values.all(dim=-1).any()) if values.dim() > 0 else bool(values)


def _chosen(translation: Translation, node: fx.Node, condition: fx.Node, a: int, b: int) -> int:
    """a where the condition is true, and b elsewhere."""
    graph = translation.graph
    first = translation.floating(condition)
    second = graph.complement(first)
    a = _defined_where(graph, first, _finite(translation, node, a))
    b = _defined_where(graph, second, _finite(translation, node, b))
    return graph.binary("add", graph.binary("multiply", a, first), graph.binary("multiply", b, second))


def _defined_where(graph: Graph, chosen: int, value: int) -> int:
    """`value` where `chosen` is 1, and something finite where it is 0: infinities and NaN times 0 are NaN.

    Roots, exponentials and quotients of elements get 1 for an operand that is not chosen.
    """
    node = graph[value]

    def one_elsewhere(x: int) -> int:
        rest = graph.complement(chosen)
        return graph.binary("add", graph.binary("multiply", x, chosen), rest)

    is_partial = node.op in _PARTIAL and graph.op(node.inputs[-1]) != "constant"
    if node.op not in _ELEMENTWISE | _PARTIAL:
        return value
    inputs = [_defined_where(graph, chosen, x) for x in node.inputs]
    if is_partial:
        inputs[-1] = one_elsewhere(inputs[-1])
    if inputs == list(node.inputs):
        return value
    return graph.binary(node.op, *inputs) if len(inputs) == 2 else graph.unary(node.op, *inputs, **node.attributes)


def _finite(translation: Translation, node: fx.Node, value: int) -> int:
    """Constants that are infinite, as scores that a softmax takes for them."""
    constant = translation.graph[value]
    if constant.op != "constant" or constant.values is None or torch.isfinite(constant.values).all():
        return value
    if (
        torch.isnan(constant.values).any()
        or (constant.values == torch.inf).any()
        or not _is_for_softmax(translation, node)
    ):
        raise translation.fail(
            node,
            "an infinite number or NaN that is chosen (only -inf is supported, where nothing but a softmax reads it)",
        )
    return translation.graph.constant(constant.values.clamp(min=MASKED_SCORE))


def _is_for_softmax(translation: Translation, node: fx.Node) -> bool:
    """Whether all that reads a node is a softmax along the last dimension, where very negative scores are as -inf."""
    pending, seen = [node], {node}
    while pending:
        value = pending.pop()
        for user in value.users:
            packet = getattr(user.target, "overloadpacket", None)
            if user in seen or user not in translation.needed:
                continue
            if packet in (aten.softmax, aten._softmax):
                if argument(user, "dim") not in (-1, user.meta["val"].dim() - 1):
                    return False
                continue
            if packet is aten.scaled_dot_product_attention and argument(user, "attn_mask") is value:
                continue
            if packet not in _ON_THE_WAY or user.meta["val"].shape[-1:] != value.meta["val"].shape[-1:]:
                return False
            seen.add(user)
            pending.append(user)
    return translation.output not in seen
