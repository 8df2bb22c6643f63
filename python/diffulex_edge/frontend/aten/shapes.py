"""ATen operators that change nothing, or only the shape."""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten import sequence
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten

#: Integers that hold every number of a boolean and of ids.
_WIDE_INTEGERS = (torch.int64, torch.int32)


@handles(
    aten.alias, aten.detach, aten.contiguous, aten.clone, aten.lift_fresh, aten.lift_fresh_copy, reads="self",
    integers=True,
)  # fmt: skip
def _same(translation: Translation, node: fx.Node) -> int:
    return translation.value(argument(node, "self"))


@handles(aten.dropout, aten.feature_dropout, aten.native_dropout, reads="input p train", integers=True)
def _dropout(translation: Translation, node: fx.Node) -> int:
    if argument(node, "train") is not False and argument(node, "p") != 0:
        raise translation.fail(node, "dropout is active (call model.eval() before the export)")
    return translation.value(argument(node, "input"))


@handles(aten.to, aten._to_copy, aten.type_as, reads="self other", integers=True)
def _cast(translation: Translation, node: fx.Node) -> int:
    source, target = argument(node, "self").meta["val"].dtype, node.meta["val"].dtype
    is_kept = source == target or (source.is_floating_point and target.is_floating_point)
    if target == torch.bool and not is_kept:
        return _as_boolean(translation, node, source)
    if target.is_floating_point and not is_kept and not source.is_complex:
        return translation.floating(argument(node, "self"))
    if not is_kept and not (source in (*_WIDE_INTEGERS, torch.bool) and target in _WIDE_INTEGERS):
        raise translation.fail(node, f"a conversion of an input's numbers from {source} to {target}")
    return translation.value(argument(node, "self"))


def _as_boolean(translation: Translation, node: fx.Node, source: torch.dtype) -> int:
    """0 where the number is 0, else 1."""
    graph, x = translation.graph, argument(node, "self")
    if source.is_floating_point:
        raise translation.fail(node, "a boolean of floating-point numbers (write x != 0)")
    if translation.is_mask(x):
        return translation.floating(x)
    return graph.unary("clamp", graph.unary("square", translation.floating(x)), min=0.0, max=1.0)


@handles(
    aten.view.default, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.unsqueeze, aten.squeeze,
    aten.view_as, reads="self size shape start_dim end_dim dim sizes other", integers=True,
)  # fmt: skip
def _reshape(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    source, target = translation.graph.shape(x), translation.shape(node)
    if target.count(SEQUENCE) > 1 or source.count(SEQUENCE) != target.count(SEQUENCE):
        if [size for size in source if size != 1] != [size for size in target if size != 1]:
            raise translation.fail(node, f"a change of shape from {list(source)} to {list(target)} (-1: the sequence)")
        if source.count(SEQUENCE) > 1:
            return with_ones(translation, node, x, target)
    return translation.graph.reshape(x, target)


def with_ones(translation: Translation, node: fx.Node, x: int, target: tuple[int, ...]) -> int:
    """x with more dimensions of size 1."""
    graph, source = translation.graph, translation.graph.shape(x)
    if source.count(SEQUENCE) < 2 or source == target:
        return graph.reshape(x, target)
    # Backends change the shape of one dimension that varies; a product with a one of more dimensions has them in front.
    more = len(target) - len(source)
    places = _places(source, target)
    if more < 0 or places is None:
        raise translation.fail(node, "a change of the shape of a value of pairs of positions")
    lifted = graph.binary("multiply", x, graph.constant(torch.ones((1,) * len(target))))
    added = [axis for axis in range(len(target)) if axis not in places]
    order = added + places
    return graph.transpose(lifted, [order.index(axis) for axis in range(len(target))])


def _places(source: tuple[int, ...], target: tuple[int, ...]) -> list[int] | None:
    """Where the source's dimensions are in the target, which has others of size 1 between them; None if it has not."""
    places: list[int] = []
    for axis, size in enumerate(target):
        rest = len(source) - len(places)
        if rest and size == source[len(places)] and (size != 1 or len(target) - axis <= rest):
            places.append(axis)
        elif size != 1:
            return None
    return places if len(places) == len(source) else None


@handles(aten.transpose, reads="self dim0 dim1", integers=True)
@handles(aten.swapaxes, reads="self axis0 axis1", integers=True)
@handles(aten.swapdims, reads="self dim0 dim1", integers=True)
def _transpose(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    axes = list(range(len(translation.graph.shape(x))))
    a, b = argument(node, "dim0", argument(node, "axis0")), argument(node, "dim1", argument(node, "axis1"))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return translation.graph.transpose(x, axes)


@handles(aten.t, aten.numpy_T, aten.mT, reads="self", integers=True)
def _turn(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    axes = list(range(len(translation.graph.shape(x))))
    if node.target is aten.mT.default:
        axes[-2:] = axes[:-3:-1]
    else:
        axes.reverse()
    return translation.graph.transpose(x, axes)


@handles(aten.permute, reads="self dims", integers=True)
def _permute(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    rank = len(translation.graph.shape(x))
    return translation.graph.transpose(x, [axis % rank for axis in argument(node, "dims")])


@handles(aten.expand, aten.expand_as, aten.broadcast_to, reads="self size other", integers=True)
def _expand(translation: Translation, node: fx.Node) -> int:
    return expanded(translation, node, translation.value(argument(node, "self")))


def expanded(translation: Translation, node: fx.Node, x: int) -> int:
    """x, copied to the shape of the node's result."""
    return expanded_to(translation, node, x, translation.shape(node))


def expanded_to(translation: Translation, node: fx.Node, x: int, shape: tuple[int, ...]) -> int:
    graph = translation.graph
    x = with_ones(translation, node, x, (1,) * (len(shape) - len(graph.shape(x))) + graph.shape(x))
    for axis, wanted in enumerate(shape):
        if wanted == SEQUENCE and graph.shape(x)[axis] != SEQUENCE:
            each = [SEQUENCE if other == axis else 1 for other in range(len(shape))]
            copies = graph.reshape(sequence.ones(translation, node), tuple(each))
            x = graph.binary("multiply", translation.as_floating(node, x), copies)
    return x if graph.shape(x) == shape else graph.add("expand", (x,), shape)


@handles(aten.repeat, reads="self repeats", integers=True)
def _repeat(translation: Translation, node: fx.Node) -> int:
    x = translation.value(argument(node, "self"))
    graph, copies = translation.graph, list(argument(node, "repeats"))
    x = graph.reshape(x, (1,) * (len(copies) - len(graph.shape(x))) + graph.shape(x))
    for axis, count in enumerate(copies):
        if count != 1:
            if not isinstance(count, int) or count == 0 or graph.shape(x)[axis] == SEQUENCE:
                raise translation.fail(node, "copies along the sequence, or none")
            x = graph.concat([x] * count, axis)
    return x


@handles(aten.repeat_interleave.self_int, reads="self repeats dim", integers=True)
def _repeat_interleave(translation: Translation, node: fx.Node) -> int:
    count, axis = argument(node, "repeats"), argument(node, "dim")
    graph = translation.graph
    x = translation.value(argument(node, "self"))
    if not isinstance(count, int) or count == 0 or axis is None or graph.shape(x)[axis] == SEQUENCE:
        raise translation.fail(node, "copies along the sequence, none, or without a dimension")
    axis %= len(graph.shape(x))
    before, size, after = graph.shape(x)[:axis], graph.shape(x)[axis], graph.shape(x)[axis + 1 :]
    apart = graph.reshape(x, (*before, size, 1, *after))
    return graph.reshape(graph.add("expand", (apart,), (*before, size, count, *after)), (*before, size * count, *after))
