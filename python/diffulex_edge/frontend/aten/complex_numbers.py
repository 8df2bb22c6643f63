"""Complex numbers, as rotary embeddings use them: a last dimension of two, the real and the imaginary part."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


@handles(aten.view_as_complex, aten.view_as_real, reads="self", integers=True)
def _as_it_is(translation: Translation, node: fx.Node) -> int:
    return translation.value(argument(node, "self"))


def complex_product(translation: Translation, node: fx.Node) -> int:
    """(a + bi) (c + di), of which one depends on no input."""
    graph = translation.graph
    a, b = (_parts(translation, node, argument(node, name)) for name in ("self", "other"))

    def times(left: int, right: int) -> int:
        return graph.binary("multiply", left, right)

    real = graph.binary("subtract", times(a[0], b[0]), times(a[1], b[1]))
    imaginary = graph.binary("add", times(a[0], b[1]), times(a[1], b[0]))
    return graph.concat([real, imaginary], len(graph.shape(real)) - 1)


def _parts(translation: Translation, node: fx.Node, operand: Any) -> tuple[int, int]:
    """The real and the imaginary parts, each with a last dimension of size 1."""
    graph = translation.graph
    if not isinstance(operand, fx.Node) or not operand.meta["val"].dtype.is_complex:
        raise translation.fail(node, "a product of a complex number and a real one (multiply before view_as_complex)")
    x = (
        translation.value(operand)
        if translation.is_data(operand)
        else translation.computed(operand, torch.view_as_real)
    )
    axis = len(graph.shape(x)) - 1
    return graph.slice(x, axis, 0, 1), graph.slice(x, axis, 1, 2)
