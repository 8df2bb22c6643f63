"""Values over the sequence's dimension, whose size varies: sums, its length, and single positions.

Artefacts sum over the sequence by a product with ones, since no other operator of the graph takes a varying number of
operands.
"""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten.layers import matmul
from diffulex_edge.frontend.aten.translation import Translation


def _table(translation: Translation, node: fx.Node, values: torch.Tensor) -> int:
    """[sequence]: the first of these numbers."""
    table = translation.graph.shared_constant(values)
    return translation.graph.add("position_table", (translation.reference(node), table), (SEQUENCE,))


def ones(translation: Translation, node: fx.Node) -> int:
    """[sequence] of ones."""
    return _table(translation, node, torch.ones(translation.folding.longest))


def weighted_sum(translation: Translation, x: int, axis: int, weights: int) -> int:
    """The sum along `axis`, which is the sequence and stays with size 1, of x times weights [sequence]."""
    graph = translation.graph
    rank = len(graph.shape(x))
    lifted = max(rank, 2)
    x = graph.reshape(x, (1,) * (lifted - rank) + graph.shape(x))
    axis += lifted - rank
    before = (1,) * (lifted - 2)
    if axis == lifted - 1:
        result = matmul(graph, x, graph.reshape(weights, (*before, SEQUENCE, 1)))
    else:
        axes = list(range(lifted))
        axes[axis], axes[-2] = axes[-2], axes[axis]
        row = graph.reshape(weights, (*before, 1, SEQUENCE))
        result = graph.transpose(matmul(graph, row, graph.transpose(x, axes)), axes)
    return graph.reshape(result, graph.shape(result)[lifted - rank :])


def sum_over(translation: Translation, node: fx.Node, x: int, axis: int) -> int:
    return weighted_sum(translation, x, axis, ones(translation, node))


def length(translation: Translation, node: fx.Node) -> int:
    """[1]: how long the sequence is."""
    return sum_over(translation, node, ones(translation, node), 0)


def one_position(translation: Translation, node: fx.Node, x: int, axis: int, index: int) -> int:
    """The numbers at one position, counted from the end where `index` is negative; `axis` stays with size 1."""
    graph, folding = translation.graph, translation.folding
    if not -folding.shortest <= index < folding.shortest:
        raise translation.fail(node, f"position {index}, and the sequence may be as short as {folding.shortest}")
    if index >= 0:
        chosen = torch.zeros(folding.longest)
        chosen[index] = 1.0
        return weighted_sum(translation, x, axis, _table(translation, node, chosen))
    positions = graph.add("positions", (translation.reference(node),), (SEQUENCE,))
    place = graph.binary("add", length(translation, node), graph.scalar(float(index)))
    distance = graph.unary("square", graph.binary("subtract", positions, place))
    chosen_here = graph.binary("subtract", graph.scalar(1.0), graph.unary("clamp", distance, min=0.0, max=1.0))
    return weighted_sum(translation, x, axis, chosen_here)
