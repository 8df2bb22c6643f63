"""Values of pairs of positions, such as attention masks, for sequences of varying length.

They are computed from the distance of two positions where that's all that they depend on, and cut from a table else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from diffulex_edge.frontend._graph import SEQUENCE

if TYPE_CHECKING:
    from diffulex_edge.frontend.aten.translation import Translation

#: Sequences whose tables of pairs are longer are refused: the table would have more than 64 MiB.
_LONGEST_TABLE = 4096


def values_of_pairs(
    translation: Translation, node: fx.Node, transform: Callable[[Tensor], Tensor], as_matrix: bool = False
) -> int:
    """`transform` of a node's value, which has the sequence as two of its dimensions.

    `as_matrix`: the result is [sequence, sequence], where all other dimensions have the size 1.
    """
    shape = translation.shape(node)
    axes = [axis for axis, size in enumerate(shape) if size == SEQUENCE]
    if len(axes) != 2:
        raise translation.fail(node, f"a value with {len(axes)} dimensions that vary")
    rank = len(shape)
    folding = translation.folding
    by_length = {
        length: transform(folding.value(node, length)).to(torch.float32).movedim(axes, (rank - 2, rank - 1))
        for length in folding.lengths()
    }
    whole = by_length[folding.longest]
    for length, value in by_length.items():
        if not torch.equal(value, whole[..., :length, :length]):
            raise translation.fail(
                node, "its numbers depend on the sequence's length, not only on two positions (export with a fixed "
                "length, or give them as an input)"
            )  # fmt: skip
    single = whole.numel() == whole.shape[-1] ** 2
    front = () if as_matrix else (1,) * (rank - 2)
    result = _of_distance(translation, node, whole.reshape(whole.shape[-2:]), front) if single else None
    if result is None:
        result = _cut(translation, node, whole.reshape(whole.shape[-2:]) if single and as_matrix else whole)
    order = [axis for axis in range(rank) if axis not in axes] + axes
    if as_matrix or order == sorted(order):
        return result
    return translation.graph.transpose(result, [order.index(axis) for axis in range(rank)])


def _of_distance(translation: Translation, node: fx.Node, whole: Tensor, front: tuple[int, ...]) -> int | None:
    """A matrix of at most two numbers, of which one stands in a band along the diagonal; None where it's another."""
    longest = len(whole)
    by_distance = torch.cat((whole[:, 0].flip(0), whole[0, 1:]))  # from -(longest - 1) on
    position = torch.arange(longest)
    if not torch.equal(whole, by_distance[position[None] - position[:, None] + longest - 1]):
        return None
    numbers = by_distance.unique()
    if len(numbers) > 2:
        return None
    for inside, outside in ((numbers[0], numbers[-1]), (numbers[-1], numbers[0])):
        found = (by_distance == inside).nonzero().flatten()
        first, last = int(found[0]), int(found[-1])
        if last - first + 1 == len(found):
            least = None if first == 0 else first - (longest - 1)
            most = None if last == len(by_distance) - 1 else last - (longest - 1)
            return _band(translation, node, front, (least, most), (float(inside), float(outside)))
    return None


def _band(
    translation: Translation, node: fx.Node, front: tuple[int, ...], between: tuple[int | None, int | None],
    numbers: tuple[float, float],
) -> int:  # fmt: skip
    """[*front, sequence, sequence]: the first number where a column lies so far behind its row, else the second."""
    graph = translation.graph
    positions = graph.add("positions", (translation.reference(node),), (SEQUENCE,))
    columns = graph.reshape(positions, (*front, 1, SEQUENCE))
    rows = graph.reshape(positions, (*front, SEQUENCE, 1))
    distance = graph.binary("subtract", columns, rows)
    least, most = between
    inside: int | None = None
    if least is not None:
        shifted = graph.binary("add", distance, graph.scalar(1.0 - least))
        inside = graph.unary("clamp", shifted, min=0.0, max=1.0)
    if most is not None:
        shifted = graph.binary("subtract", graph.scalar(1.0 + most), distance)
        below = graph.unary("clamp", shifted, min=0.0, max=1.0)
        inside = below if inside is None else graph.binary("multiply", inside, below)
    if inside is None:
        return graph.binary("add", graph.binary("multiply", distance, graph.scalar(0.0)), graph.scalar(numbers[0]))
    if numbers == (1.0, 0.0):
        return inside
    if numbers[0] == 0.0:
        outside = graph.complement(inside)
        return graph.binary("multiply", outside, graph.scalar(numbers[1]))
    scaled = graph.binary("multiply", inside, graph.scalar(numbers[0] - numbers[1]))
    return graph.binary("add", scaled, graph.scalar(numbers[1])) if numbers[1] else scaled


def triangle(translation: Translation, node: fx.Node) -> int:
    """[sequence, sequence]: 1 where the column is the row or one behind it, else 0."""
    return _band(translation, node, (), (0, None), (1.0, 0.0))


def _cut(translation: Translation, node: fx.Node, whole: Tensor) -> int:
    """The first rows of a table, and of these the first columns: a product with as many rows of the unit matrix."""
    graph = translation.graph
    longest, rank = whole.shape[-1], whole.dim()
    if longest > _LONGEST_TABLE:
        raise translation.fail(
            node, f"a table of pairs of {longest} positions (at most {_LONGEST_TABLE} are supported)"
        )
    reference = translation.reference(node)
    table = graph.shared_constant(whole.movedim(-2, 0))
    rows = graph.add("position_table", (reference, table), (SEQUENCE, *graph.shape(table)[1:]))
    rows = graph.transpose(rows, [*range(1, rank - 1), 0, rank - 1])
    unit = graph.add("position_table", (reference, graph.shared_constant(torch.eye(longest))), (SEQUENCE, longest))
    unit = graph.reshape(unit, (1,) * (rank - 2) + (SEQUENCE, longest))
    shape = (*graph.shape(rows)[:-1], SEQUENCE)
    return graph.add("matmul", (rows, unit), shape, transpose_b=True)
