"""Composite operators, recognized in the primitive ones that a model spells them with.

Each function looks at a value that was just added and gives the composite's value in its place, or None.
"""

from __future__ import annotations

import torch

from diffulex_edge.frontend._graph import Graph, Shape


def _constant_number(graph: Graph, value: int) -> float | None:
    node = graph[value]
    if node.op == "constant" and node.values is not None and node.values.numel() == 1:
        return float(node.values)
    return None


def _operands(graph: Graph, value: int, op: str) -> list[tuple[int, int]]:
    """Both orders of a commutative operator's operands; none where `value` is another operator."""
    node = graph[value]
    if node.op != op or len(node.inputs) != 2:
        return []
    a, b = node.inputs
    return [(a, b), (b, a)]


def _unary(graph: Graph, value: int, op: str) -> int | None:
    return graph[value].inputs[0] if graph.op(value) == op else None


def _root_mean_square(graph: Graph, value: int, x: int) -> float | None:
    """The epsilon, where `value` is 1 / sqrt(mean(x^2) + epsilon) over the last dimension."""
    shifted = _unary(graph, value, "rsqrt")
    if shifted is None:
        return None
    for mean, epsilon in _operands(graph, shifted, "add"):
        square = _unary(graph, mean, "reduce_mean")
        if square is not None and _unary(graph, square, "square") == x:
            return _constant_number(graph, epsilon)
    return None


def rms_norm(graph: Graph, value: int, name: str) -> int | None:
    """x / sqrt(mean(x^2) + epsilon) * weight."""
    for normalized, weight in _operands(graph, value, "multiply"):
        constant = graph[weight]
        if constant.op != "constant" or constant.values is None or constant.shape != graph.shape(value)[-1:]:
            continue
        for x, reciprocal in _operands(graph, normalized, "multiply"):
            epsilon = _root_mean_square(graph, reciprocal, x)
            if epsilon is not None:
                tensor = constant.tensor or f"{name or f'norm_{value}'}.weight"
                stored = graph.weight(tensor, constant.values, constant.shape)
                return graph.add("rms_norm", (x, stored), graph.shape(x), name or f"norm_{value}", epsilon=epsilon)
    return None


def swiglu(graph: Graph, value: int) -> int | None:
    """gate * sigmoid(gate) * up."""
    for activated, up in _operands(graph, value, "multiply"):
        for gate, share in _operands(graph, activated, "multiply"):
            if _unary(graph, share, "sigmoid") == gate and graph.shape(gate) == graph.shape(up):
                return graph.add("swiglu", (gate, up), graph.shape(gate))
    return None


def _rotated(graph: Graph, value: int) -> int | None:
    """x, where `value` is concat(-x[..., D/2:], x[..., :D/2])."""
    node = graph[value]
    last = len(node.shape) - 1
    if node.op != "concat" or node.attributes["axes"] != [last] or len(node.inputs) != 2:
        return None
    back = _unary(graph, node.inputs[0], "negate")
    front = node.inputs[1]
    if back is None or graph.op(back) != "slice" or graph.op(front) != "slice":
        return None
    size = node.shape[last]
    wanted = (
        (back, {"axis": last, "begin": size // 2, "end": size}),
        (front, {"axis": last, "begin": 0, "end": size // 2}),
    )
    sources = {graph[part].inputs[0] for part, attributes in wanted if graph[part].attributes == attributes}
    return sources.pop() if len(sources) == 1 else None


def _is_position_value(graph: Graph, value: int) -> bool:
    node = graph[value]
    if node.op in ("constant", "position_table", "positions"):
        return True
    return node.op in ("reshape", "transpose", "multiply") and all(_is_position_value(graph, i) for i in node.inputs)


def rope(graph: Graph, value: int) -> int | None:
    """x * cos + rotate_half(x) * sin, for x [1, heads, seq, D] or [1, seq, heads, D]."""
    for straight, crossed in _operands(graph, value, "add"):
        for rotated, sin in _operands(graph, crossed, "multiply"):
            x = _rotated(graph, rotated)
            if x is None or len(graph.shape(x)) != 4 or graph.shape(x)[0] != 1 or graph.shape(x)[3] % 2 != 0:
                continue
            for same, cos in _operands(graph, straight, "multiply"):
                tables = _is_position_value(graph, cos) and _is_position_value(graph, sin)
                if same == x and tables and graph.shape(cos) == graph.shape(sin):
                    return _rope_of(graph, x, cos, sin)
    return None


def _rope_of(graph: Graph, x: int, cos: int, sin: int) -> int | None:
    shape = graph.shape(x)
    padded = (1,) * (4 - len(graph.shape(cos))) + graph.shape(cos)
    if padded == (1, 1, shape[2], shape[3]):
        axes, seq, heads = [0, 2, 1, 3], shape[2], shape[1]
    elif padded == (1, shape[1], 1, shape[3]):
        axes, seq, heads = [0, 1, 2, 3], shape[1], shape[2]
    else:
        return None
    size = shape[3]
    table: Shape = (seq, 1, size)
    sign = graph.constant_once(("sign", size), lambda: torch.tensor([-1.0, 1.0]).repeat_interleave(size // 2))
    signed_sin = graph.binary("multiply", graph.reshape(sin, table), sign)
    by_position = graph.reshape(graph.transpose(x, axes), (seq, heads, size))
    turned = graph.add("rope", (by_position, graph.reshape(cos, table), signed_sin), (seq, heads, size))
    return graph.transpose(graph.reshape(turned, (1, seq, heads, size)), axes)


def repeated_heads(graph: Graph, value: int) -> int:
    """Keys or values [1, K, seq, D], where `value` has each of their heads several times; `value` where not."""
    node = graph[value]
    if node.op != "reshape" or graph.op(node.inputs[0]) != "expand":
        return value
    copies = graph[node.inputs[0]]
    single = graph.shape(copies.inputs[0])
    shape = node.shape
    if len(single) != 5 or len(shape) != 4 or single[2] != 1:
        return value
    _, kv_heads, _, seq, size = single
    if copies.shape != (1, kv_heads, shape[1] // kv_heads, seq, size) or shape != (1, shape[1], seq, size):
        return value
    return graph.reshape(copies.inputs[0], (1, kv_heads, seq, size))
