"""Linear layers, products of matrices, embeddings, and layers that were quantized before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from diffulex_edge.frontend._graph import Graph, broadcast
from diffulex_edge.frontend.aten.arithmetic import binary_of
from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten

#: Arguments of the operators of diffulex_edge.quant.
_QUANTIZED_LINEAR = (
    "x",
    "weight",
    "weight_scale",
    "bias",
    "input_range",
    "output_range",
    "dtype",
    "mode",
    "group_size",
)
_QUANTIZED_EMBEDDING = ("ids", "weight", "weight_scale", "dtype", "group_size")


def linear_of(translation: Translation, node: fx.Node, x: int, weight: Any, bias: Any, turned: bool = False) -> int:
    """x W^T + bias with a constant W; `turned`: it is given as W^T."""
    graph = translation.graph
    if not translation.is_constant(weight) or weight.meta["val"].dim() != 2:
        raise translation.fail(node, "a weight that depends on an input, or that is no matrix")
    layer = translation.layer(node, weight)
    if turned:
        values = translation.folding.value(weight).t()
        stored = translation.stored(translation.folding.names.get(weight, f"{layer}.weight"), values)
    else:
        stored = translation.weight(node, weight, layer, "weight")
    inputs = [x, stored]
    if bias is not None:
        inputs.append(translation.weight(node, bias, layer, "bias"))
    return graph.add("linear", inputs, (*graph.shape(x)[:-1], graph.shape(stored)[0]), layer)


@handles(aten.linear, reads="input weight bias")
def _linear(translation: Translation, node: fx.Node) -> int:
    x, weight, bias = (argument(node, name) for name in ("input", "weight", "bias"))
    return linear_of(translation, node, translation.value(x), weight, bias)


@handles(aten.addmm.default, reads="self mat1 mat2")
def _addmm(translation: Translation, node: fx.Node) -> int:
    added, x, weight = (argument(node, name) for name in ("self", "mat1", "mat2"))
    if translation.is_constant(added) and added.meta["val"].shape == weight.meta["val"].shape[1:]:
        return linear_of(translation, node, translation.value(x), weight, added, turned=True)
    product = linear_of(translation, node, translation.value(x), weight, None, turned=True)
    return binary_of(translation, node, "add", product, translation.value(added))


@handles(aten.matmul, reads="self other")
@handles(aten.dot.default, reads="self tensor")
@handles(aten.mv.default, reads="self vec")
@handles(aten.mm.default, aten.bmm.default, reads="self mat2")
def _matmul(translation: Translation, node: fx.Node) -> int:
    a, b = argument(node, "self"), argument(node, "other", argument(node, "mat2"))
    b = argument(node, "tensor", argument(node, "vec")) if b is None else b
    graph = translation.graph
    if translation.is_constant(b) and b.meta["val"].dim() == 2:
        return linear_of(translation, node, translation.value(a), b, None, turned=True)
    left, right = translation.value(a), translation.value(b)
    if len(graph.shape(left)) == 1:
        left = graph.reshape(left, (1, *graph.shape(left)))
    if len(graph.shape(right)) == 1:
        right = graph.reshape(right, (*graph.shape(right), 1))
    return graph.reshape(matmul(graph, left, right), translation.shape(node))


def matmul(graph: Graph, left: int, right: int) -> int:
    """left @ right; a transposed right operand is taken as it was."""
    transpose_b = False
    node = graph[right]
    swap = [*range(len(node.shape) - 2), len(node.shape) - 1, len(node.shape) - 2]
    if node.op == "transpose" and node.attributes["axes"] == swap:
        right, transpose_b = node.inputs[0], True
    a, b = graph.shape(left), graph.shape(right)
    shape = (*broadcast(a[:-2], b[:-2]), a[-2], b[-2] if transpose_b else b[-1])
    return graph.add("matmul", (left, right), shape, transpose_b=transpose_b)


@handles(aten.embedding, reads="weight indices", integers=True)
def _embedding(translation: Translation, node: fx.Node) -> int:
    weight, ids = argument(node, "weight"), argument(node, "indices")
    renormalized = _renormalized(translation, node, weight, ids)
    if renormalized is not None:
        weight, table = renormalized
        layer = translation.layer(node, weight)
        stored = translation.stored(translation.folding.names.get(weight, f"{layer}.weight"), table)
        return _gathered(translation, node, layer, stored, ids)
    layer = translation.layer(node, weight)
    stored = translation.weight(node, weight, layer, "weight")
    return _gathered(translation, node, layer, stored, ids)


def _renormalized(translation: Translation, node: fx.Node, table: fx.Node, ids: Any) -> tuple[fx.Node, Tensor] | None:
    """The table of an embedding with `max_norm`, and its rows as PyTorch scales them before it reads them.

    PyTorch scales the rows that it is about to read, once and for good. As every row that is read was scaled, the
    artefact has the table with all its rows scaled.
    """
    scaled, norms = [], []
    while getattr(table.target, "overloadpacket", None) is aten.embedding_renorm:
        table, indices, *norm = table.args
        scaled.append(indices)
        norms.append(norm)
    while table.target in (aten.detach.default, aten.alias.default):
        table = table.args[0]  # type: ignore[assignment]
    if not scaled:
        return None
    if not translation.is_constant(table) or ids not in scaled or norms != norms[:1] * len(norms):
        raise translation.fail(node, "rows of a table with max_norm that were scaled for other ids, or differently")
    values = translation.folding.value(table).to(torch.float32).clone()
    rows = torch.arange(len(values), device=values.device)
    return table, aten.embedding_renorm.default(values, rows, *norms[0])


@handles(aten.embedding_renorm, reads="self indices max_norm norm_type", integers=True)
def _embedding_renorm(translation: Translation, node: fx.Node) -> list[int]:
    """No value: embeddings look at the node itself."""
    for user in node.users:
        packet = getattr(user.target, "overloadpacket", None)
        if user.op != "output" and packet not in (aten.embedding, aten.embedding_renorm):
            raise translation.fail(node, "rows that max_norm scales are used elsewhere too (export without max_norm)")
    return []


def _gathered(translation: Translation, node: fx.Node, layer: str, stored: int, ids: Any) -> int:
    graph = translation.graph
    value = translation.value(ids)
    if graph.op(value) != "input" or graph[value].attributes["dtype"] == "F32":
        raise translation.fail(node, "ids that are computed from an input (give them as an input)")
    return graph.add("embedding", (stored, value), (*graph.shape(value), graph.shape(stored)[1]), layer)


def _quantized(translation: Translation, weight: fx.Node, scale: Any, dtype: str) -> int:
    """The weight of a quantized module, as it is stored."""
    name = translation.folding.names[weight]
    values = translation.folding.value(weight).contiguous()
    scales = None if scale is None else translation.folding.value(scale).contiguous()
    rows, columns = values.shape
    return translation.graph.weight(name, values, (rows, 2 * columns if dtype == "int4" else columns), scales)


def _quantized_linear(translation: Translation, node: fx.Node) -> int:
    x, weight, scale, bias, input_range, output_range, dtype, mode, group_size = (
        argument(node, name) for name in _QUANTIZED_LINEAR
    )
    graph = translation.graph
    layer = translation.layer(node, weight)
    stored = _quantized(translation, weight, scale, dtype)  # type: ignore[arg-type]
    translation.quantized[layer] = (dtype, mode, group_size)  # type: ignore[assignment]
    if input_range is not None:
        ranges = (translation.folding.value(input_range), translation.folding.value(output_range))  # type: ignore[arg-type]
        translation.activations[layer] = ranges
    inputs = [translation.value(x), stored]
    if bias is not None:
        inputs.append(translation.weight(node, bias, layer, "bias"))  # type: ignore[arg-type]
    return graph.add("linear", inputs, (*graph.shape(inputs[0])[:-1], graph.shape(stored)[0]), layer)


def _quantized_embedding(translation: Translation, node: fx.Node) -> int:
    ids, weight, scale, dtype, group_size = (argument(node, name) for name in _QUANTIZED_EMBEDDING)
    layer = translation.layer(node, weight)
    stored = _quantized(translation, weight, scale, dtype)  # type: ignore[arg-type]
    translation.quantized[layer] = (dtype, "weight_only", group_size)  # type: ignore[assignment]
    return _gathered(translation, node, layer, stored, ids)


def register_quantized() -> None:
    """Once the operators of diffulex_edge.quant exist."""
    import diffulex_edge.quant._ops  # noqa: F401

    package = torch.ops.diffulex_edge
    handles(package.quantized_linear, reads=" ".join(_QUANTIZED_LINEAR))(_quantized_linear)
    read = " ".join((*_QUANTIZED_EMBEDDING, "output_dtype"))
    handles(package.quantized_embedding, reads=read, integers=True)(_quantized_embedding)
