"""Attention as one operator, and its masks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from diffulex_edge.frontend import _patterns
from diffulex_edge.frontend._graph import SEQUENCE, Graph
from diffulex_edge.frontend.aten import masks, sequence
from diffulex_edge.frontend.aten.layers import matmul
from diffulex_edge.frontend.aten.pairs import values_of_pairs
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.shapes import expanded_to
from diffulex_edge.frontend.aten.translation import LEAST_SCORE, MASKED_SCORE, Translation

aten = torch.ops.aten


@handles(
    aten.scaled_dot_product_attention,
    reads="query key value attn_mask dropout_p is_causal scale enable_gqa",
)
def _attention(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    q, k, v = (translation.value(argument(node, name)) for name in ("query", "key", "value"))
    mask = argument(node, "attn_mask")
    if argument(node, "dropout_p"):
        raise translation.fail(node, "dropout is active (call model.eval() before the export)")
    is_causal = argument(node, "is_causal")
    scale = argument(node, "scale")
    scale = 1.0 / math.sqrt(graph.shape(q)[-1]) if scale is None else float(scale)
    if graph.shape(k)[-2] != graph.shape(v)[-2]:
        raise translation.fail(
            node, f"{graph.shape(k)[-2]} keys have {graph.shape(v)[-2]} values (give each key one value)"
        )
    single_k, single_v = _patterns.repeated_heads(graph, k), _patterns.repeated_heads(graph, v)
    if graph.shape(single_k) == graph.shape(single_v):
        k, v = single_k, single_v
    is_composite = (
        len(graph.shape(q)) == 4
        and graph.shape(q)[0] == graph.shape(k)[0] == 1
        and graph.shape(q)[2:] == graph.shape(k)[2:]
        and graph.shape(k) == graph.shape(v)
    )
    bias = _mask(translation, node, mask, is_causal, q, k, as_matrix=is_composite)
    if is_composite and (bias is None or math.prod(graph.shape(bias)[:-2]) == 1):
        mixed = _composite_attention(graph, q, k, v, bias, scale)
    else:
        mixed = _spelled_attention(translation, node, q, k, v, bias, scale)
    return _without_blind_rows(translation, node, mixed, mask)


def _without_blind_rows(translation: Translation, node: fx.Node, mixed: int, mask: Any) -> int:
    """PyTorch gives zeros where a constant mask hides all keys from a query; softmax would give the values' mean."""
    if mask is not None and translation.is_data(mask) and mask.meta["val"].dtype == torch.bool:
        return _without_hidden_rows(translation, node, mixed, mask)
    if mask is None or translation.is_data(mask) or SEQUENCE in translation.shape(mask):
        return mixed
    values = translation.folding.value(mask)
    seeing = (values if values.dtype == torch.bool else values != -math.inf).any(dim=-1, keepdim=True)
    if seeing.all():
        return mixed
    return translation.graph.binary("multiply", mixed, translation.graph.shared_constant(seeing))


def _without_hidden_rows(translation: Translation, node: fx.Node, mixed: int, mask: fx.Node) -> int:
    """The same for a mask that is known only when the artefact runs."""
    graph, shown = translation.graph, translation.floating(mask)
    last = len(graph.shape(shown)) - 1
    if graph.shape(shown)[last] == SEQUENCE:
        seen = sequence.sum_over(translation, node, shown, last)
    else:
        seen = graph.binary("multiply", graph.mean(shown), graph.scalar(2.0 * graph.shape(shown)[last]))
    return graph.binary("multiply", mixed, graph.unary("clamp", seen, min=0.0, max=1.0))


def _composite_attention(graph: Graph, q: int, k: int, v: int, bias: int | None, scale: float) -> int:
    def by_position(value: int) -> int:
        _, heads, seq, size = graph.shape(value)
        return graph.reshape(graph.transpose(value, [0, 2, 1, 3]), (seq, heads, size))

    _, heads, seq, size = graph.shape(q)
    inputs = [by_position(q), by_position(k), by_position(v)] + ([] if bias is None else [bias])
    mixed = graph.add("attention", inputs, (1, seq, heads * size), scale=scale)
    return graph.transpose(graph.reshape(mixed, (1, seq, heads, size)), [0, 2, 1, 3])


def _spelled_attention(
    translation: Translation, node: fx.Node, q: int, k: int, v: int, bias: int | None, scale: float
) -> int:
    graph = translation.graph
    if len(graph.shape(q)) > 2:
        heads = graph.shape(q)[-3]
        k, v = (_repeated(graph, value, heads // graph.shape(value)[-3]) for value in (k, v))
    scaled = graph.binary("multiply", q, graph.scalar(scale))
    axes = list(range(len(graph.shape(k))))
    axes[-1], axes[-2] = axes[-2], axes[-1]
    scores = matmul(graph, scaled, graph.transpose(k, axes))
    if bias is not None:
        scores = graph.binary("add", scores, bias)
    return matmul(graph, graph.unary("softmax", scores), v)


def _repeated(graph: Graph, value: int, copies: int) -> int:
    if copies <= 1:
        return value
    shape = graph.shape(value)
    apart = graph.reshape(value, (*shape[:-2], 1, *shape[-2:]))
    ones = graph.constant(torch.ones(copies, 1, 1))
    return graph.reshape(graph.binary("multiply", apart, ones), (*shape[:-3], shape[-3] * copies, *shape[-2:]))


def _mask(
    translation: Translation, node: fx.Node, mask: Any, is_causal: bool, q: int, k: int, as_matrix: bool
) -> int | None:
    """What is added to the scores: None, or a value that broadcasts to them, [seq, seq] where `as_matrix` allows it."""
    graph, folding = translation.graph, translation.folding
    rows, columns = graph.shape(q)[-2], graph.shape(k)[-2]
    if mask is None and not is_causal:
        return None
    if mask is not None and translation.is_data(mask):
        value = translation.floating(mask)
        if mask.meta["val"].dtype == torch.bool:
            value = masks.additive(translation, value, MASKED_SCORE)
        if as_matrix and graph.shape(value)[-2:] == (1, columns) and rows != 1:
            value = expanded_to(translation, node, value, (*graph.shape(value)[:-2], rows, columns))
        is_matrix = as_matrix and math.prod(graph.shape(value)[:-2]) == 1
        # Backends can't change the shape of what has two dimensions that vary; attention takes it with ones in front.
        varies = graph.shape(value)[-2:].count(SEQUENCE) == 2
        return graph.reshape(value, graph.shape(value)[-2:]) if is_matrix and not varies else value
    by_length = {}
    for length in folding.lengths() if folding.symbol is not None else [1]:
        size = (length if rows == SEQUENCE else rows, length if columns == SEQUENCE else columns)
        by_length[length] = torch.ones(size).tril().bool() if mask is None else folding.value(mask, length)
    if rows == SEQUENCE or columns == SEQUENCE:
        return _varying_mask(translation, node, mask, by_length, as_matrix)
    (additive,) = (_additive(value) for value in by_length.values())
    if not additive.any():
        return None
    is_matrix = as_matrix and math.prod(additive.shape[:-2]) == 1
    if not is_matrix:
        return graph.constant(additive)
    matrix = additive.reshape(additive.shape[-2:]).expand(rows, columns)
    return graph.shared_constant(matrix)


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, MASKED_SCORE)
    return mask.to(torch.float32).clamp(min=MASKED_SCORE)


def _varying_mask(
    translation: Translation, node: fx.Node, mask: Any, by_length: dict[int, Tensor], as_matrix: bool
) -> int | None:
    """A mask of pairs of positions: None where nothing is hidden, the graph's own operator where it's block-causal."""
    if all(not _additive(value).any() for value in by_length.values()):
        return None
    if mask is not None and translation.shape(mask).count(SEQUENCE) != 2:
        value = translation.floating(mask)
        return masks.additive(translation, value, MASKED_SCORE) if mask.meta["val"].dtype == torch.bool else value
    block = _block_length(by_length)
    if block is None:
        for value in by_length.values():
            if mask.meta["val"].dtype == torch.bool and not value.any(dim=-1).all():
                raise translation.fail(node, "an attention mask that hides all positions from one (fill it before)")
        return values_of_pairs(translation, mask, _additive, as_matrix)
    graph = translation.graph
    positions = graph.add("positions", (translation.reference(node),), (SEQUENCE,))
    return graph.add("block_causal_mask", (positions,), (SEQUENCE, SEQUENCE), block_length=block)


def _block_length(by_length: dict[int, Tensor]) -> int | None:
    """That of the block-causal mask that all of these are, for sequences of these lengths; None where they are not."""
    blocks = set()
    for length, mask in by_length.items():
        additive = _additive(mask)
        hidden = additive <= LEAST_SCORE
        if not torch.equal(additive == 0.0, ~hidden) or math.prod(additive.shape[:-2]) != 1:
            return None
        matrix = hidden.reshape(hidden.shape[-2:]).expand(length, length)
        block = int((~matrix[0]).sum())
        position = torch.arange(length)
        if not torch.equal(matrix, position // max(block, 1) > (position // max(block, 1)).unsqueeze(1)):
            return None
        if block < length:
            blocks.add(block)
    return blocks.pop() if len(blocks) == 1 else None
