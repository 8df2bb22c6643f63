"""Graphs of torch modules, built by hand, and what they compute in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from diffulex_edge import _core

Array = NDArray[Any]
MASKED: Final = -1e9


@dataclass
class Node:
    """An operator, or a source with its array."""

    op: str
    name: str
    inputs: list[int]
    attributes: dict[str, Any]
    array: Array | None = None


class GraphBuilder:
    """Nodes in topological order; every method that adds one returns its index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def input(self, name: str, *shape: int, dtype: str = "F32") -> int:
        return self._append(Node("input", name, [], {"shape": list(shape), "dtype": dtype}))

    def weight(self, name: str, array: Array) -> int:
        array = np.ascontiguousarray(array, np.float32)
        return self._append(Node("weight", name, [], {"shape": list(array.shape)}, array))

    def constant(self, array: Any) -> int:
        array = np.ascontiguousarray(array, np.float32)
        attributes = {"shape": list(array.shape), "values": (array.ctypes.data, array.size)}
        return self._append(Node("constant", "", [], attributes, array))

    def add(self, op: str, *inputs: int, name: str = "", **attributes: Any) -> int:
        return self._append(Node(op, name, list(inputs), attributes))

    def linear(self, name: str, x: int, weight: Array, bias: Array | None = None) -> int:
        inputs = [x, self.weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.add("linear", *inputs, name=name)

    def norm(self, name: str, x: int, weight: Array, bias: Array, epsilon: float = 1e-5) -> int:
        inputs = (x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias))
        return self.add("layer_norm", *inputs, name=name, epsilon=epsilon)

    def values(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Of every node, in float64 but for ids."""
        values: list[Array] = []
        for node in self.nodes:
            if node.op == "input":
                value = np.asarray(feeds[node.name])
                values.append(value if node.attributes["dtype"] != "F32" else value.astype(np.float64))
            elif node.array is not None:
                values.append(node.array.astype(np.float64))
            else:
                values.append(_OPERATORS[node.op](node.attributes, *(values[index] for index in node.inputs)))
        return values

    def activations(self, feeds: Sequence[Mapping[str, Array]]) -> SimpleNamespace:
        """What calibration on `feeds` would find, as the extension takes it."""
        runs = [self.values(each) for each in feeds]
        ranges, scores = [], {}
        for index, node in enumerate(self.nodes):
            everything = [run[index] for run in runs]
            is_source = node.op in ("weight", "constant") or (node.op == "input" and node.attributes["dtype"] != "F32")
            ranges.append((0.0, 0.0) if is_source else _range(everything))
            if node.op == "attention":
                q, k = node.inputs[:2]
                scores[index] = _range([_scores(node.attributes, run[q], run[k]) for run in runs])
        return SimpleNamespace(values=ranges, scores=scores)

    def module(self, output: int, name: str = "output", seq_len: int = 1) -> _core.ModuleGraph:
        nodes = [(node.op, node.name, node.inputs, node.attributes) for node in self.nodes]
        tensors = [
            (node.name, "F32", list(node.array.shape), node.array.ctypes.data, node.array.nbytes)
            for node in self.nodes
            if node.op == "weight" and node.array is not None
        ]
        return _core.ModuleGraph(nodes, output, name, tensors, seq_len, "Test")


def quantization(**changes: object) -> SimpleNamespace:
    """A config as the extension reads it."""
    settings: dict[str, object] = {
        "dtype": "fp32",
        "mode": "weight_only",
        "group_size": 32,
        "exclude_layers": [],
        "embedding_dtype": None,
        "head_dtype": None,
        "method": "rtn",
        "layer_formats": {},
        "activations": {},
        "activation_bits": 16,
        "static_everywhere": False,
        "palettes": False,
        "saturate_fp16": False,
        "strict_group_size": False,
    }
    return SimpleNamespace(**settings | changes)


def export_graph(
    module: _core.ModuleGraph, target: Path, config: SimpleNamespace, activations: str | None = None, **options: str
) -> dict[str, Any]:
    """Through the QNN backend to the folder `target`; the metadata."""
    return dict(module.export("qnn", config, activations, None, options, str(target), 2, None))


def _range(arrays: list[Array]) -> tuple[float, float]:
    limits = np.finfo(np.float32)
    least, greatest = min(float(each.min()) for each in arrays), max(float(each.max()) for each in arrays)
    return min(0.0, max(least, float(limits.min))), max(0.0, min(greatest, float(limits.max)))


def _softmax(x: Array) -> Array:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(attributes: dict[str, Any], x: Array) -> Array:
    approximate = "tanh" if attributes["tanh"] else "none"
    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy())


def _layer_norm(attributes: dict[str, Any], x: Array, *affine: Array) -> Array:
    result = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + attributes["epsilon"])
    for apply, vector in zip((np.multiply, np.add), affine, strict=False):
        result = apply(result, vector)
    return np.asarray(result)


def _rope(x: Array, cos: Array, sin: Array) -> Array:
    first, second = np.split(x, 2, -1)
    return np.asarray(x * cos + np.concatenate([second, first], -1) * sin)


def _scores(attributes: dict[str, Any], q: Array, k: Array) -> Array:
    """[heads, seq, seq]."""
    keys = np.repeat(k, q.shape[1] // k.shape[1], 1)
    return np.einsum("qhd,khd->hqk", q * attributes["scale"], keys)


def _attention(attributes: dict[str, Any], q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    scores = _scores(attributes, q, k) + (0.0 if mask is None else mask)
    values = np.repeat(v, q.shape[1] // v.shape[1], 1)
    return np.einsum("hqk,khd->qhd", _softmax(scores), values).reshape(1, q.shape[0], -1)


def _block_mask(attributes: dict[str, Any], positions: Array) -> Array:
    block = np.floor(positions / attributes["block_length"])
    return np.where(block[None] > block[:, None], MASKED, 0.0)


def _slice(attributes: dict[str, Any], x: Array) -> Array:
    return x.take(range(attributes["begin"], attributes["end"]), attributes["axis"])


def _matmul(attributes: dict[str, Any], a: Array, b: Array) -> Array:
    return np.asarray(a @ (b.swapaxes(-1, -2) if attributes["transpose_b"] else b))


def _linear(_: dict[str, Any], x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    return np.asarray(x @ weight.T + bias)


def _plain(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda _, *values: np.asarray(function(*values))


_OPERATORS: Final[dict[str, Callable[..., Array]]] = {
    "positions": _plain(lambda x: np.arange(max(x.shape), dtype=np.float64)),
    "position_table": _plain(lambda _, table: table),
    "embedding": _plain(lambda table, ids: table[ids]),
    "gather": _plain(lambda table, ids: table[ids.astype(np.int64)]),
    "linear": _linear,
    "rms_norm": lambda a, x, w: np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + a["epsilon"]) * w),
    "layer_norm": _layer_norm,
    "rope": _plain(_rope),
    "attention": _attention,
    "swiglu": _plain(lambda gate, up: gate * _sigmoid(gate) * up),
    "block_causal_mask": _block_mask,
    "add": _plain(np.add),
    "subtract": _plain(np.subtract),
    "multiply": _plain(np.multiply),
    "divide": _plain(np.divide),
    "negate": _plain(np.negative),
    "square": _plain(np.square),
    "rsqrt": _plain(lambda x: 1 / np.sqrt(x)),
    "sqrt": _plain(np.sqrt),
    "sigmoid": _plain(_sigmoid),
    "tanh": _plain(np.tanh),
    "exp": _plain(np.exp),
    "gelu": _gelu,
    "sin": _plain(np.sin),
    "cos": _plain(np.cos),
    "floor": _plain(np.floor),
    "clamp": lambda a, x: np.clip(x, a["min"], a["max"]),
    "reduce_mean": _plain(lambda x: x.mean(-1, keepdims=True)),
    "softmax": _plain(_softmax),
    "matmul": _matmul,
    "reshape": lambda a, x: x.reshape(a["shape"]),
    "transpose": lambda a, x: x.transpose(a["axes"]),
    "slice": _slice,
    "concat": lambda a, *values: np.concatenate(values, a["axes"][0]),
}
