"""ATen operators that take tensors apart and put them together."""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend._folding import GETITEM
from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten import sequence
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten

#: What backends can change the shape of.
_MOST_DIMENSIONS = 6


def slice_of(translation: Translation, node: fx.Node, x: int, axis: int, begin: int, end: int) -> int:
    if translation.graph.shape(x)[axis] == SEQUENCE:
        raise translation.fail(node, "a part of the sequence (export with a fixed length)")
    return translation.graph.slice(x, axis, begin, end)


@handles(aten.slice.Tensor, reads="self dim start end step", integers=True)
def _slice(translation: Translation, node: fx.Node) -> int | list[int]:
    x = translation.value(argument(node, "self"))
    shape, target = translation.graph.shape(x), translation.shape(node)
    if shape == target:
        return x
    axis = argument(node, "dim") % len(shape)
    begin, step = argument(node, "start") or 0, argument(node, "step")
    if not isinstance(begin, int) or not isinstance(step, int):
        raise translation.fail(node, "a slice whose start or step depends on the sequence's length")
    if shape[axis] == SEQUENCE and target[axis] == 1:
        return sequence.one_position(translation, node, translation.floating(argument(node, "self")), axis, begin)
    begin = max(0, begin + shape[axis]) if begin < 0 else begin
    if target[axis] == 0:
        return []
    if step == 1:
        return slice_of(translation, node, x, axis, begin, begin + target[axis])
    return every(translation, node, x, axis, begin, step, target[axis])


def every(translation: Translation, node: fx.Node, x: int, axis: int, begin: int, step: int, count: int) -> int:
    """`count` elements, each `step` behind the one before: the first ones of as many groups."""
    graph = translation.graph
    size = graph.shape(x)[axis]
    if size == SEQUENCE:
        raise translation.fail(node, "a part of the sequence (export with a fixed length)")
    if len(graph.shape(x)) >= _MOST_DIMENSIONS:
        raise translation.fail(node, f"a slice with a step of a value of {len(graph.shape(x))} dimensions")
    end = begin + count * step
    groups = graph.slice(x, axis, begin, min(end, size))
    if end > size:
        shape = list(graph.shape(x))
        shape[axis] = end - size
        if SEQUENCE in shape:  # the last group is short
            rest = begin + (count - 1) * step
            last = graph.slice(x, axis, rest, rest + 1)
            if count == 1:
                return last
            return graph.concat([every(translation, node, x, axis, begin, step, count - 1), last], axis)
        groups = graph.concat([groups, graph.constant(torch.zeros(shape))], axis)
    before, after = graph.shape(x)[:axis], graph.shape(x)[axis + 1 :]
    apart = graph.reshape(groups, (*before, count, step, *after))
    return graph.reshape(graph.slice(apart, axis + 1, 0, 1), (*before, count, *after))


@handles(aten.narrow.default, reads="self dim start length", integers=True)
def _narrow(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    shape = translation.graph.shape(x)
    axis, begin, size = (argument(node, name) for name in ("dim", "start", "length"))
    if not isinstance(begin, int) or not isinstance(size, int) or shape[axis] == SEQUENCE:
        raise translation.fail(node, "a part of the sequence (export with a fixed length)")
    begin = begin + shape[axis] if begin < 0 else begin
    return slice_of(translation, node, x, axis % len(shape), begin, begin + size)


@handles(aten.select.int, reads="self dim index", integers=True)
def _select(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    shape = translation.graph.shape(x)
    axis = argument(node, "dim") % len(shape)
    index = argument(node, "index")
    if not isinstance(index, int):
        raise translation.fail(node, "one element whose place depends on the sequence's length")
    if shape[axis] == SEQUENCE:
        one = sequence.one_position(translation, node, translation.floating(argument(node, "self")), axis, index)
        return translation.graph.reshape(one, translation.shape(node))
    index %= shape[axis]
    return translation.graph.reshape(translation.graph.slice(x, axis, index, index + 1), translation.shape(node))


def _pieces(translation: Translation, node: fx.Node, squeeze: bool = False) -> list[int]:
    x = translation.value(argument(node, "self"))
    axis = argument(node, "dim") % len(translation.graph.shape(x))
    begin = 0
    result = []
    for piece in node.meta["val"]:
        size = 1 if squeeze else piece.shape[axis]
        part = slice_of(translation, node, x, axis, begin, begin + size)
        shape = translation.graph.shape(part)
        result.append(translation.graph.reshape(part, shape[:axis] + shape[axis + 1 :] or (1,)) if squeeze else part)
        begin += size
    return result


@handles(
    aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split.sections, aten.tensor_split.indices,
    reads="self split_size split_sizes chunks sections indices dim", integers=True,
)  # fmt: skip
def _split(translation: Translation, node: fx.Node) -> list[int]:
    return _pieces(translation, node)


@handles(aten.unbind, reads="self dim", integers=True)
def _unbind(translation: Translation, node: fx.Node) -> list[int]:
    return _pieces(translation, node, squeeze=True)


@handles(GETITEM, reads="", integers=True)
def _getitem(translation: Translation, node: fx.Node) -> int:
    source, index = node.args
    pieces = translation.mapped[source]  # type: ignore[index]
    if not isinstance(pieces, list):
        if index == 0:
            return pieces
        raise translation.fail(node, "a second result of an operator that has one here")
    return pieces[index]  # type: ignore[index]


@handles(aten.cat, aten.concat, reads="tensors dim", integers=True)
def _cat(translation: Translation, node: fx.Node) -> int:
    operands = [operand for operand in argument(node, "tensors") if 0 not in operand.meta["val"].shape]
    values = [translation.value(operand) for operand in operands]
    axis = argument(node, "dim") % len(translation.shape(node))
    if any(translation.graph.shape(value)[axis] == SEQUENCE for value in values):
        raise translation.fail(node, "the sequence is made longer (export with a fixed length)")
    return translation.graph.concat(values, axis)


@handles(aten.stack, reads="tensors dim", integers=True)
def _stack(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    axis = argument(node, "dim") % len(translation.shape(node))
    values = []
    for operand in argument(node, "tensors"):
        shape = translation.folding.shape(operand, SEQUENCE)
        values.append(graph.reshape(translation.value(operand), (*shape[:axis], 1, *shape[axis:])))
    return graph.concat(values, axis)


@handles(aten.constant_pad_nd, reads="self pad value")
@handles(aten.pad, reads="self pad mode value")
def _pad(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    sizes, mode, value = argument(node, "pad"), argument(node, "mode", "constant"), argument(node, "value")
    if mode != "constant":
        raise translation.fail(node, f"padding by mode {mode} (constant is supported)")
    rank = len(graph.shape(x))
    for pair in range(len(sizes) // 2):
        axis, (before, after) = rank - 1 - pair, sizes[2 * pair : 2 * pair + 2]
        if not (before or after):
            continue
        shape = graph.shape(x)
        if shape[axis] == SEQUENCE:
            raise translation.fail(node, "padding of the sequence (export with a fixed length)")
        x = graph.slice(x, axis, max(0, -before), shape[axis] - max(0, -after))
        filled = [_filled(translation, node, x, axis, size, float(value or 0.0)) for size in (before, after)]
        x = graph.concat([part for part in (filled[0], x, filled[1]) if part is not None], axis)
    return x


def _filled(translation: Translation, node: fx.Node, x: int, axis: int, size: int, number: float) -> int | None:
    """As many numbers as x has, but `size` along `axis`; None for none."""
    if size <= 0:
        return None
    graph = translation.graph
    shape = [size if other == axis else length for other, length in enumerate(graph.shape(x))]
    if SEQUENCE not in shape:
        return graph.constant(torch.full(shape, number))
    zero = graph.binary("multiply", graph.slice(x, axis, 0, 1), graph.scalar(0.0))
    copies = [1] * len(shape)
    copies[axis] = size
    return graph.binary("add", zero, graph.constant(torch.full(copies, number)))
