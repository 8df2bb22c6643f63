"""Norms that are one operator in ATen."""

from __future__ import annotations

import torch
from torch import fx

from diffulex_edge.frontend.aten.registry import argument, handles
from diffulex_edge.frontend.aten.translation import Translation

aten = torch.ops.aten


@handles(aten.layer_norm, aten.native_layer_norm, reads="input normalized_shape weight bias eps")
def _layer_norm(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x, shape = translation.value(argument(node, "input")), list(argument(node, "normalized_shape"))
    weight, bias = argument(node, "weight"), argument(node, "bias")
    epsilon = argument(node, "eps")
    if len(shape) != 1:
        raise translation.fail(node, "a norm over several dimensions")
    layer = translation.layer(node, weight) or node.name
    inputs = [x]
    if weight is not None or bias is not None:
        inputs.append(
            translation.weight(node, weight, layer, "weight")
            if weight is not None
            else translation.stored(f"{layer}.weight", torch.ones(shape))
        )
    if bias is not None:
        inputs.append(translation.weight(node, bias, layer, "bias"))
    return graph.add("layer_norm", inputs, graph.shape(x), layer, epsilon=float(epsilon))


@handles(aten.rms_norm, reads="input normalized_shape weight eps")
def _rms_norm(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x, shape = translation.value(argument(node, "input")), list(argument(node, "normalized_shape"))
    weight, epsilon = argument(node, "weight"), argument(node, "eps")
    if len(shape) != 1:
        raise translation.fail(node, "a norm over several dimensions")
    layer = translation.layer(node, weight) or node.name
    stored = (
        translation.weight(node, weight, layer, "weight")
        if weight is not None
        else translation.stored(f"{layer}.weight", torch.ones(shape))
    )
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else float(epsilon)
    return graph.add("rms_norm", (x, stored), graph.shape(x), layer, epsilon=epsilon)
