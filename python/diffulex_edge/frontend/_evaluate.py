"""Runs the library's graph in PyTorch, in float32: for calibration, and to check the translation itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffulex_edge._errors import InternalError
from diffulex_edge.frontend._graph import BINARY, SEQUENCE, Graph, Node, sizes_at

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "negate": torch.neg,
    "square": torch.square,
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
}

#: Called with a node's index, the node, its inputs and its value.
Observer = Callable[[int, Node, Sequence[Tensor], Tensor], None]


def evaluate(graph: Graph, output: int, inputs: Sequence[Tensor], observe: Observer | None = None) -> Tensor:
    """The output for these inputs, in the order of the graph's. Weights are read as they are stored."""
    return Evaluation(graph, inputs).run(output, observe)


class Evaluation:
    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.graph = graph
        self._inputs = iter(inputs)
        self._values: dict[int, Tensor] = {}
        self._length = 1
        for node, tensor in zip((n for n in graph.nodes if n.op == "input"), inputs, strict=True):
            if len(node.shape) != tensor.dim():
                raise InternalError(f"input {node.name}: has {tensor.dim()} dimensions, not {len(node.shape)}")
            for size, actual in zip(node.shape, tensor.shape, strict=True):
                if size == SEQUENCE:
                    self._length = actual

    def run(self, output: int, observe: Observer | None) -> Tensor:
        last_use = {operand: i for i, node in enumerate(self.graph.nodes) for operand in node.inputs}
        with torch.no_grad():
            for index, node in enumerate(self.graph.nodes):
                if node.op == "weight":
                    continue
                operands = [self._operand(operand) for operand in node.inputs]
                self._values[index] = value = self._apply(node, operands)
                if observe is not None:
                    observe(index, node, operands, value)
                for operand in node.inputs:
                    if last_use[operand] == index and operand != output:
                        self._values.pop(operand, None)
        return self._values[output]

    def _operand(self, value: int) -> Tensor:
        node = self.graph[value]
        return self._values[value] if node.op != "weight" else self._weight(node)

    def _weight(self, node: Node) -> Tensor:
        assert node.values is not None
        if node.values.dtype in (torch.int8, torch.uint8):
            return self._dequantized(node)
        return node.values.to(torch.float32)

    def _dequantized(self, node: Node) -> Tensor:
        assert node.values is not None
        assert node.scales is not None
        numbers = node.values.to(torch.float32)
        if node.values.dtype == torch.uint8:
            pairs = torch.stack([node.values & 15, node.values >> 4], dim=-1).to(torch.float32) - 8.0
            numbers = pairs.reshape(node.shape)
        rows, columns = numbers.shape
        scales = node.scales.to(torch.float32).reshape(rows, -1)
        return numbers * scales.repeat_interleave(columns // scales.shape[1], dim=1)

    def _apply(self, node: Node, x: list[Tensor]) -> Tensor:
        if node.op in BINARY:
            return BINARY[node.op](*x)
        if node.op in _UNARY:
            return _UNARY[node.op](*x)
        method = getattr(self, f"_{node.op}", None)
        if method is None:
            raise InternalError(f"operator {node.op}: can't be evaluated")
        return method(node, *x)

    def _input(self, node: Node) -> Tensor:
        return next(self._inputs)

    def _constant(self, node: Node) -> Tensor:
        assert node.values is not None
        return node.values

    def _positions(self, node: Node, _: Tensor) -> Tensor:
        return torch.arange(self._length, dtype=torch.float32)

    def _position_table(self, node: Node, _: Tensor, table: Tensor) -> Tensor:
        return table[: self._length]

    def _embedding(self, node: Node, table: Tensor, ids: Tensor) -> Tensor:
        return functional.embedding(ids, table)

    def _linear(self, node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, bias)

    def _rms_norm(self, node: Node, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, node.attributes["epsilon"])

    def _layer_norm(self, node: Node, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, node.attributes["epsilon"])

    def _rope(self, node: Node, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * signed_sin

    @staticmethod
    def scores(node: Node, q: Tensor, k: Tensor) -> Tensor:
        """[heads, seq, seq]: what an attention operator's mask is added to."""
        keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return torch.einsum("qhd,khd->hqk", q * node.attributes["scale"], keys)

    def _attention(self, node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.scores(node, q, k)
        shares = (scores if mask is None else scores + mask).softmax(dim=-1)
        values = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        return torch.einsum("hqk,khd->qhd", shares, values).reshape(1, q.shape[0], -1)

    def _swiglu(self, node: Node, gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    def _block_causal_mask(self, node: Node, positions: Tensor) -> Tensor:
        block = torch.div(positions, node.attributes["block_length"], rounding_mode="floor")
        return torch.where(block > block.unsqueeze(1), -1e9, 0.0)

    def _gelu(self, node: Node, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh" if node.attributes["tanh"] else "none")

    def _clamp(self, node: Node, x: Tensor) -> Tensor:
        return x.clamp(node.attributes["min"], node.attributes["max"])

    def _reduce_mean(self, node: Node, x: Tensor) -> Tensor:
        return x.mean(dim=-1, keepdim=True)

    def _softmax(self, node: Node, x: Tensor) -> Tensor:
        return x.softmax(dim=-1)

    def _matmul(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        return a @ (b.mT if node.attributes["transpose_b"] else b)

    def _reshape(self, node: Node, x: Tensor) -> Tensor:
        return x.reshape(sizes_at(node.shape, self._length))

    def _transpose(self, node: Node, x: Tensor) -> Tensor:
        return x.permute(node.attributes["axes"])

    def _slice(self, node: Node, x: Tensor) -> Tensor:
        return x.narrow(
            node.attributes["axis"], node.attributes["begin"], node.attributes["end"] - node.attributes["begin"]
        )

    def _concat(self, node: Node, *x: Tensor) -> Tensor:
        return torch.cat(x, dim=node.attributes["axes"][0])
