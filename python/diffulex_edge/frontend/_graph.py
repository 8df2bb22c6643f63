"""The library's graph while it is being made in Python: nodes that know their shapes, simplified as they are added.

Operators are those of include/diffulex_edge/graph.h, by the names that `to_string(Op)` gives them, and one more:
"expand", which is gone when the graph is finished. In shapes, `SEQUENCE` stands for the one dimension that varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffulex_edge._errors import InternalError

SEQUENCE = -1
#: XNNPACK joins no more values at once.
_MOST_JOINED = 5

Shape = tuple[int, ...]

#: Operators whose operands broadcast as NumPy's do.
BINARY = {"add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div}


@dataclass
class Node:
    """One operator and the value that it makes."""

    op: str
    inputs: tuple[int, ...]
    shape: Shape
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""  # of a layer, an input, or a weight's tensor
    values: Tensor | None = None  # "constant": float32, contiguous; "weight": the tensor as the module stores it
    scales: Tensor | None = None  # "weight": of a quantized one
    tensor: str = ""  # "constant": the name of the module's tensor that it is, if it is one


class Graph:
    """Nodes in topological order. `longest` is the upper bound of the sequence; None where nothing varies."""

    def __init__(self, longest: int | None) -> None:
        self.longest = longest
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._shared: dict[Shape, list[int]] = {}

    def __getitem__(self, value: int) -> Node:
        return self.nodes[value]

    def shape(self, value: int) -> Shape:
        return self.nodes[value].shape

    def op(self, value: int) -> str:
        return self.nodes[value].op

    # --- Adding.

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def input(self, name: str, dtype: str, shape: Shape) -> int:
        return self._append(Node("input", (), shape, {"dtype": dtype}, name))

    def weight(self, tensor: str, values: Tensor, shape: Shape, scales: Tensor | None = None) -> int:
        """A tensor that is stored: `shape` is that of its numbers, whatever they are packed into.

        Another tensor of the same name, such as a parameter used as it is and transposed, gets a number behind it.
        """
        name, count = tensor, 1
        while ("weight", name) in self._known:
            known = self._known[("weight", name)]
            if _same_tensor(self[known].values, values):
                return known
            count += 1
            name = f"{tensor}_{count}"
        self._known[("weight", name)] = self._append(Node("weight", (), shape, name=name, values=values, scales=scales))
        return self._known[("weight", name)]

    def constant(self, values: Tensor, tensor: str = "") -> int:
        numbers = values.detach().to("cpu", torch.float32).contiguous()
        return self._append(Node("constant", (), tuple(numbers.shape), values=numbers, tensor=tensor))

    def scalar(self, number: float) -> int:
        return self.constant_once(("scalar", number), lambda: torch.tensor([number]))

    def constant_once(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> int:
        """The constant that this key stands for, made when it is first asked for."""
        if key not in self._known:
            self._known[key] = self.constant(make())
        return self._known[key]

    def shared_constant(self, values: Tensor) -> int:
        """A constant that may be there already: tables and masks, which layers compute each for itself."""
        numbers = values.detach().to("cpu", torch.float32)
        alike = self._shared.setdefault(tuple(numbers.shape), [])
        for value in alike:
            known = self[value].values
            if known is not None and torch.equal(known, numbers):
                return value
        alike.append(self.constant(numbers))
        return alike[-1]

    def add(self, op: str, inputs: Sequence[int], shape: Shape, name: str = "", **attributes: Any) -> int:
        """The value of an operator; an equal one that is there already, if its layer has no name of its own."""
        frozen = tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(attributes.items()))
        key = (op, tuple(inputs), shape, frozen, name)
        if key not in self._known:
            self._known[key] = self._append(Node(op, tuple(inputs), shape, attributes, name))
        return self._known[key]

    # --- Operators that simplify themselves.

    def reshape(self, x: int, shape: Shape) -> int:
        while self.op(x) == "reshape":
            x = self[x].inputs[0]
        node = self[x]
        if node.shape == shape:
            return x
        if node.values is not None and node.op == "constant":
            return self.constant(node.values.reshape(shape), node.tensor if len(shape) == 1 else "")
        if shape.count(SEQUENCE) > 1 or node.shape.count(SEQUENCE) != shape.count(SEQUENCE):
            raise InternalError(
                f"a value of pairs of positions has the shape {list(node.shape)}, which can't be changed to "
                f"{list(shape)} (-1: the sequence)"
            )
        return self.add("reshape", (x,), shape)

    def transpose(self, x: int, axes: Sequence[int]) -> int:
        axes = list(axes)
        if self.op(x) == "transpose":
            inner = self[x].attributes["axes"]
            axes = [inner[axis] for axis in axes]
            x = self[x].inputs[0]
        if axes == sorted(axes):
            return x
        node = self[x]
        if node.values is not None and node.op == "constant":
            return self.constant(node.values.permute(axes))
        return self.add("transpose", (x,), tuple(node.shape[axis] for axis in axes), axes=axes)

    def binary(self, op: str, a: int, b: int) -> int:
        a, b = self._unexpanded(a, b), self._unexpanded(b, a)
        left, right = self[a], self[b]
        if left.op == right.op == "constant":
            assert left.values is not None
            assert right.values is not None
            return self.constant(BINARY[op](left.values, right.values))
        return self.add(op, (a, b), broadcast(left.shape, right.shape))

    def _unexpanded(self, x: int, other: int) -> int:
        """What was expanded to `x`, where the other operand broadcasts it to the same shape."""
        node = self[x]
        if node.op != "expand":
            return x
        source = node.inputs[0]
        wanted = broadcast(node.shape, self.shape(other))
        return source if broadcast(self.shape(source), self.shape(other)) == wanted else x

    def unary(self, op: str, x: int, **attributes: Any) -> int:
        return self.add(op, (x,), self.shape(x), **attributes)

    def complement(self, x: int) -> int:
        """1 - x: of a boolean, which is the number 0 or 1, its negation."""
        return self.binary("subtract", self.scalar(1.0), x)

    def mean(self, x: int) -> int:
        """Over the last dimension, which stays with size 1."""
        return self.add("reduce_mean", (x,), (*self.shape(x)[:-1], 1))

    def slice(self, x: int, axis: int, begin: int, end: int) -> int:
        shape = list(self.shape(x))
        if (begin, end) == (0, shape[axis]):
            return x
        shape[axis] = end - begin
        return self.add("slice", (x,), tuple(shape), axis=axis, begin=begin, end=end)

    def concat(self, values: Sequence[int], axis: int) -> int:
        if len(values) == 1:
            return values[0]
        if len(values) > _MOST_JOINED:
            groups = [values[i : i + _MOST_JOINED] for i in range(0, len(values), _MOST_JOINED)]
            return self.concat([self.concat(group, axis) for group in groups], axis)
        shape = list(self.shape(values[0]))
        shape[axis] = sum(self.shape(value)[axis] for value in values)
        return self.add("concat", tuple(values), tuple(shape), axes=[axis])

    # --- Finishing.

    def finished(self, output: int) -> tuple[Graph, int]:
        """A graph without "expand" and without values that nothing uses, and its output. All inputs stay."""
        result = Graph(self.longest)
        used = self._used(output)
        mapped: dict[int, int] = {}
        for value, node in enumerate(self.nodes):
            if value not in used and node.op != "input":
                continue
            inputs = tuple(mapped[operand] for operand in node.inputs)
            if node.op == "expand":
                mapped[value] = result._expanded(inputs[0], node.shape)
            else:
                mapped[value] = result._append(replace(node, inputs=inputs))
        return result, mapped[output]

    def _expanded(self, x: int, shape: Shape) -> int:
        """Times a one for each copy, along the dimensions that have grown."""
        source = self.shape(x)
        if SEQUENCE in shape and SEQUENCE not in source:
            raise InternalError("expand: a value is copied along the sequence")
        ones = [size if source[axis] != size else 1 for axis, size in enumerate(shape)]
        return self.binary("multiply", x, self.constant(torch.ones(ones)))

    def _used(self, output: int) -> set[int]:
        used: set[int] = set()
        pending = [output]
        while pending:
            value = pending.pop()
            if value not in used:
                used.add(value)
                pending.extend(self[value].inputs)
        return used


def _same_tensor(a: Tensor | None, b: Tensor) -> bool:
    if a is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape that an operator's operands broadcast to; `InternalError` where they do not."""
    rank = max(len(a), len(b))
    result = []
    for left, right in zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True):
        if left not in (1, right) and right != 1:
            raise InternalError(f"the shapes {list(a)} and {list(b)} do not broadcast")
        result.append(right if left == 1 else left)
    return tuple(result)
