"""Graphs as the Python frontend makes them of torch modules: built node by node, exported, and evaluated in numpy.

The evaluation is written from the operators' definitions in include/diffulex_edge/graph.h, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SEQUENCE: Final = -1
"""Stands for the sequence in a shape."""


@dataclass
class Node:
    """An operator, the nodes that it takes, and its attributes, as `_core.ModuleGraph` has them."""

    op: str
    name: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any]
    values: Array | None = None  # of a weight or constant


@dataclass
class ModuleGraph:
    """A graph under construction. Every method but `compute` and `export` adds a node and returns its number."""

    seq_len: int = 1
    nodes: list[Node] = field(default_factory=list)

    def input(self, name: str, shape: Sequence[int], dtype: str = "F32") -> int:
        return self._append(Node("input", name, (), {"shape": list(shape), "dtype": dtype}))

    def weight(self, name: str, values: Array) -> int:
        return self._append(Node("weight", name, (), {"shape": list(values.shape)}, np.float32(values)))

    def constant(self, values: Any, shape: Sequence[int] | None = None) -> int:
        """`shape` where a dimension is the sequence: `values` are those of the longest one."""
        array = np.ascontiguousarray(values, np.float32).reshape(np.shape(values))
        wanted = list(array.shape if shape is None else shape)
        attributes = {"shape": wanted, "values": (array.ctypes.data, array.size)}
        return self._append(Node("constant", "", (), attributes, array))

    def add(self, op: str, *inputs: int, name: str = "", **attributes: Any) -> int:
        return self._append(Node(op, name, inputs, attributes))

    def linear(self, x: int, name: str, weight: Array, bias: Array | None = None) -> int:
        """A layer with weights of its own."""
        inputs = [x, self.weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.add("linear", *inputs, name=name)

    def layer_norm(self, x: int, name: str, weight: Array, bias: Array, epsilon: float = 1e-5) -> int:
        inputs = (x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias))
        return self.add("layer_norm", *inputs, name=name, epsilon=epsilon)

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def weights(self) -> dict[str, Array]:
        """By name."""
        return {node.name: node.values for node in self.nodes if node.op == "weight" and node.values is not None}

    def compute(
        self, output: int, inputs: Mapping[str, Array], length: int = 1, weights: Mapping[str, Array] | None = None
    ) -> Array:
        """The value of a node for inputs by name and a sequence of `length`; `weights` are others than its own."""
        return self.values(inputs, length, weights)[output]

    def values(
        self, inputs: Mapping[str, Array], length: int = 1, weights: Mapping[str, Array] | None = None
    ) -> list[Array]:
        """Of every node, in float64 but for ids."""
        values: list[Array] = []
        for node in self.nodes:
            if node.op == "input":
                given = np.asarray(inputs[node.name])
                values.append(np.float64(given) if node.attributes["dtype"] == "F32" else given)
            elif node.op == "weight":
                values.append(np.float64((weights or self.weights())[node.name]))
            elif node.op == "constant":
                assert node.values is not None
                sizes = [slice(length if size == SEQUENCE else None) for size in node.attributes["shape"]]
                values.append(np.float64(node.values)[tuple(sizes)])
            else:
                operands = [values[place] for place in node.inputs]
                values.append(np.asarray(_evaluate(node, operands, length)))
        return values

    def export(
        self, output: int, target: Path, quant_config: Any, *, output_name: str = "result", **options: Any
    ) -> Any:
        """Write the artefact; `options` are those of `_core.ModuleGraph.export`. Returns its metadata."""
        defaults = {
            "activation_dtype": None,
            "input_lengths": None,
            "options": {},
            "threads": 2,
            "progress": None,
        }
        graph = self.native(output, output_name)
        return graph.export(backend="coreml", quant_config=quant_config, target=str(target), **(defaults | options))

    def native(self, output: int, output_name: str) -> Any:
        """The extension's graph, whose weights are this one's: keep both."""
        from diffulex_edge import _core

        tensors = [
            (name, "F32", list(values.shape), values.ctypes.data, values.nbytes)
            for name, values in self.weights().items()
        ]
        nodes = [(node.op, node.name, list(node.inputs), node.attributes) for node in self.nodes]
        return _core.ModuleGraph(nodes, output, output_name, tensors, self.seq_len, "Module")


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


def _gelu(x: Array, tanh: bool) -> Array:
    if tanh:
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _softmax(x: Array) -> Array:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def attention_scores(q: Array, k: Array, scale: float) -> Array:
    """[heads, seq, seq]: what the mask is added to."""
    return np.einsum("ihd,jhd->hij", q * scale, np.repeat(k, q.shape[1] // k.shape[1], axis=1))


def _attention(q: Array, k: Array, v: Array, scale: float, mask: Array | None) -> Array:
    """[seq, heads, D] -> [1, seq, heads * D]."""
    scores = attention_scores(q, k, scale)
    v = np.repeat(v, q.shape[1] // k.shape[1], axis=1)
    mixed = np.einsum("hij,jhd->ihd", _softmax(scores if mask is None else scores + mask), v)
    return mixed.reshape(1, len(q), -1)


def _layer_norm(x: Array, epsilon: float, scale: Array | float = 1.0, shift: Array | float = 0.0) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    return np.asarray(centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * scale + shift)


_ELEMENTWISE: Final = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "negate": np.negative,
    "square": np.square,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "softmax": _softmax,
    "reduce_mean": lambda x: x.mean(-1, keepdims=True),
}


def _evaluate(node: Node, x: list[Array], length: int) -> Array:
    attributes = node.attributes
    if node.op in _ELEMENTWISE:
        return np.asarray(_ELEMENTWISE[node.op](*x))
    match node.op:
        case "positions":
            return np.arange(length, dtype=np.float64)
        case "position_table":
            return x[1][:length]
        case "embedding" | "gather":
            return np.asarray(x[0][np.asarray(x[1]).astype(np.int64)])
        case "linear":
            return np.asarray(x[0] @ x[1].T + (x[2] if len(x) > 2 else 0.0))
        case "rms_norm":
            return np.asarray(x[0] / np.sqrt((x[0] ** 2).mean(-1, keepdims=True) + attributes["epsilon"]) * x[1])
        case "layer_norm":
            return _layer_norm(x[0], attributes["epsilon"], *x[1:])
        case "rope":
            half = x[0].shape[-1] // 2
            return x[0] * x[1] + np.roll(x[0], half, axis=-1) * x[2]
        case "attention":
            return _attention(x[0], x[1], x[2], attributes["scale"], x[3] if len(x) > 3 else None)
        case "swiglu":
            return np.asarray(x[0] / (1 + np.exp(-x[0])) * x[1])
        case "block_causal_mask":
            block = x[0] // attributes["block_length"]
            return np.where(block[None, :] <= block[:, None], 0.0, -1e9)
        case "gelu":
            return _gelu(x[0], attributes["tanh"])
        case "clamp":
            return np.clip(x[0], attributes["min"], attributes["max"])
        case "matmul":
            return np.asarray(x[0] @ (np.swapaxes(x[1], -1, -2) if attributes["transpose_b"] else x[1]))
        case "reshape":
            return x[0].reshape(attributes["shape"])
        case "transpose":
            return x[0].transpose(attributes["axes"])
        case "slice":
            return np.take(x[0], range(attributes["begin"], attributes["end"]), axis=attributes["axis"])
        case "concat":
            return np.concatenate(x, axis=attributes["axes"][0])
    raise AssertionError(node.op)
