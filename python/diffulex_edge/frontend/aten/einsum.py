"""Sums of products by the letters of their dimensions (`einsum`), as products of matrices."""

from __future__ import annotations

import math

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten.layers import matmul
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


@handles(aten.einsum, reads="equation tensors path")
def _einsum(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    equation = str(argument(node, "equation")).replace(" ", "")
    operands = [translation.value(operand) for operand in argument(node, "tensors")]
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    letters = [*terms, result]
    if not arrow or "." in equation or len(operands) != 2 or any(len(set(term)) != len(term) for term in letters):
        raise translation.fail(
            node, f"the equation {equation} (two tensors, '->', no '...' and no letter twice in one)"
        )
    a, b = terms
    sizes = dict(zip(a + b, graph.shape(operands[0]) + graph.shape(operands[1]), strict=True))
    if any(letter not in result and not (letter in a and letter in b) for letter in a + b):
        raise translation.fail(node, f"the equation {equation}, which sums over a dimension of one tensor (sum before)")
    batch = [letter for letter in result if letter in a and letter in b]
    summed = [letter for letter in a if letter in b and letter not in result]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]
    # Rows but for the last are dimensions of the batch where the right matrix has ones.
    lead, row = rows[:-1], rows[-1:]
    if SEQUENCE in [sizes[letter] for letter in columns] and len(columns) > 1:
        raise translation.fail(node, f"the equation {equation}, which merges the sequence with another dimension")
    if SEQUENCE in [sizes[letter] for letter in summed] and len(summed) > 1:
        raise translation.fail(node, f"the equation {equation}, which sums over the sequence and another dimension")

    def merged(group: list[str]) -> int:
        shape = [sizes[letter] for letter in group]
        return SEQUENCE if SEQUENCE in shape else math.prod(shape)

    outer = [sizes[letter] for letter in batch]
    left_order, right_order = [*batch, *lead, *row, *summed], [*batch, *summed, *columns]
    x = graph.transpose(operands[0], [a.index(letter) for letter in left_order])
    x = graph.reshape(x, (*outer, *(sizes[letter] for letter in lead), merged(row), merged(summed)))
    y = graph.transpose(operands[1], [b.index(letter) for letter in right_order])
    y = graph.reshape(y, (*outer, *(1 for _ in lead), merged(summed), merged(columns)))
    made = matmul(graph, x, y)
    order = [*batch, *lead, *row, *columns]
    made = graph.reshape(made, tuple(sizes[letter] for letter in order))
    return graph.transpose(made, [order.index(letter) for letter in result])
