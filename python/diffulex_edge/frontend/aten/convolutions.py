"""Convolutions as linear layers over the shifted copies of their input, so that they are quantized as these are."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, fx

from diffulex_edge.frontend._graph import SEQUENCE
from diffulex_edge.frontend.aten.parts import every
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten

#: More pieces of a graph than this for one convolution are refused.
_MOST_PIECES = 256


@handles(
    aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding,
    reads="input weight bias stride padding dilation groups",
)  # fmt: skip
def _convolution(translation: Translation, node: fx.Node) -> int:
    graph, target = translation.graph, translation.shape(node)
    weight, bias, groups = (argument(node, name) for name in ("weight", "bias", "groups"))
    if not translation.is_constant(weight) or not (bias is None or translation.is_constant(bias)):
        raise translation.fail(node, "a convolution whose weight depends on an input")
    kernel = translation.folding.value(weight).to(torch.float32)  # [out, in / groups, *size]
    size = list(kernel.shape[2:])
    x = translation.value(argument(node, "input"))
    rank = 2 + len(size)
    x = graph.reshape(x, (1,) * (rank - len(graph.shape(x))) + graph.shape(x))
    stride, dilation = (_each(argument(node, name), len(size)) for name in ("stride", "dilation"))
    padding = _padding(argument(node, "padding"), size, dilation)
    shape = graph.shape(x)
    if SEQUENCE in shape[2:] and (size, stride) != ([1] * len(size), [1] * len(size)):
        raise translation.fail(node, "a convolution along the sequence (export with a fixed length)")
    is_plain = padding == [(0, 0)] * len(size) and dilation == [1] * len(size) and groups == 1
    is_whole = SEQUENCE not in shape or len(size) == 1
    is_whole &= all(length % step == 0 for length, step in zip(shape[2:], size, strict=True) if step > 1)
    if is_plain and is_whole and size == stride:
        made = _patches(translation, node, x, kernel)
    else:
        x = graph.transpose(x, [0, *range(2, rank), 1])
        x = _padded(translation, x, padding)
        out = _outputs(translation, node, x, size, stride, dilation)
        made = _grouped(translation, node, _taps(translation, node, x, size, stride, dilation, out), kernel)
    made = graph.transpose(made, [0, rank - 1, *range(1, rank - 1)])
    return graph.reshape(made, target)


def _each(value: int | list[int], count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _padding(given: str | int | list[int], size: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    """Before and after, along each dimension."""
    if given == "valid":
        return [(0, 0)] * len(size)
    if given == "same":
        total = [step * (length - 1) for length, step in zip(size, dilation, strict=True)]
        return [(number // 2, number - number // 2) for number in total]
    return [(number, number) for number in _each(given, len(size))]  # type: ignore[arg-type]


def _padded(translation: Translation, x: int, padding: list[tuple[int, int]]) -> int:
    graph = translation.graph
    for axis, sizes in enumerate(padding, start=1):
        zeros = []
        for size in sizes:
            shape = list(graph.shape(x))
            shape[axis] = size
            zeros.append(graph.constant(torch.zeros(shape)) if size else None)
        x = graph.concat([part for part in (zeros[0], x, zeros[1]) if part is not None], axis)
    return x


def _outputs(
    translation: Translation, node: fx.Node, x: int, size: list[int], stride: list[int], dilation: list[int]
) -> list[int]:
    if math.prod(size) * argument(node, "groups") > _MOST_PIECES and not _is_depthwise(node):
        raise translation.fail(node, f"a convolution of more than {_MOST_PIECES} pieces (kernel times groups)")
    shape = translation.graph.shape(x)[1:-1]
    steps = zip(shape, size, stride, dilation, strict=True)
    return [
        length if length == SEQUENCE else (length - spread * (taps - 1) - 1) // step + 1
        for length, taps, step, spread in steps
    ]


def _taps(
    translation: Translation, node: fx.Node, x: int, size: list[int], stride: list[int], dilation: list[int],
    out: list[int],
) -> list[int]:  # fmt: skip
    """For each element of the kernel, what it's multiplied with: [batch, *out, in]."""
    graph = translation.graph
    result = []
    for place in itertools.product(*(range(count) for count in size)):
        part = x
        for axis, (tap, count) in enumerate(zip(place, out, strict=True), start=1):
            if graph.shape(part)[axis] == SEQUENCE:
                continue
            begin, step = tap * dilation[axis - 1], stride[axis - 1]
            if step == 1 or count == 1:
                part = graph.slice(part, axis, begin, begin + count)
            else:
                part = every(translation, node, part, axis, begin, step, count)
        result.append(part)
    return result


def _is_depthwise(node: fx.Node) -> bool:
    shape = argument(node, "weight").meta["val"].shape
    return shape[1] == 1 and shape[0] == argument(node, "groups") > 1


def _grouped(translation: Translation, node: fx.Node, taps: list[int], kernel: Tensor) -> int:
    graph, groups = translation.graph, argument(node, "groups")
    bias = argument(node, "bias")
    last = len(graph.shape(taps[0])) - 1
    if _is_depthwise(node):
        return _depthwise(translation, node, taps, kernel.flatten(1))
    parts = []
    inputs, outputs = kernel.shape[1], kernel.shape[0] // groups
    for group in range(groups):
        x = graph.concat([graph.slice(tap, last, group * inputs, (group + 1) * inputs) for tap in taps], last)
        rows = kernel[group * outputs : (group + 1) * outputs]
        added = None if bias is None else translation.folding.value(bias)[group * outputs : (group + 1) * outputs]
        parts.append(_linear(translation, node, x, rows.flatten(2).transpose(1, 2).flatten(1), added, group))
    return graph.concat(parts, last)


def _depthwise(translation: Translation, node: fx.Node, taps: list[int], kernel: Tensor) -> int:
    """A channel of the output has one of the input: products with vectors."""
    graph, bias = translation.graph, argument(node, "bias")
    total: int | None = None
    for tap, factors in zip(taps, kernel.t(), strict=True):
        product = graph.binary("multiply", tap, graph.constant(factors.contiguous()))
        total = product if total is None else graph.binary("add", total, product)
    assert total is not None
    return total if bias is None else graph.binary("add", total, graph.constant(translation.folding.value(bias)))


def _patches(translation: Translation, node: fx.Node, x: int, kernel: Tensor) -> int:
    """A kernel beside the other: the elements of each patch in a row."""
    graph, bias = translation.graph, argument(node, "bias")
    batch, channels, *lengths = graph.shape(x)
    sizes = list(kernel.shape[2:])
    counts = [length if size == 1 else length // size for length, size in zip(lengths, sizes, strict=True)]
    places = counts[0]
    if len(sizes) == 2:  # by two steps, since Core ML takes five dimensions
        x = graph.reshape(x, (batch * channels, counts[0], sizes[0], lengths[1]))
        x = graph.transpose(x, [0, 1, 3, 2])
        kernel = kernel.transpose(2, 3)
        places = counts[0] * counts[1]
    x = graph.reshape(x, (batch, channels, places, math.prod(sizes)))
    x = graph.reshape(graph.transpose(x, [0, 2, 1, 3]), (batch, *counts, channels * math.prod(sizes)))
    added = None if bias is None else translation.folding.value(bias)
    return _linear(translation, node, x, kernel.flatten(1), added, 0)


def _linear(translation: Translation, node: fx.Node, x: int, rows: Tensor, bias: Tensor | None, group: int) -> int:
    graph = translation.graph
    layer = translation.layer(node, argument(node, "weight"))
    layer = layer if argument(node, "groups") == 1 else f"{layer}.{group}"
    inputs = [x, translation.stored(f"{layer}.weight", rows.contiguous())]
    if bias is not None:
        inputs.append(translation.stored(f"{layer}.bias", bias))
    return graph.add("linear", inputs, (*graph.shape(x)[:-1], len(rows)), layer)
