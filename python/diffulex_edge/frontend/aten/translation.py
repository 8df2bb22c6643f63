"""One exported program on its way into a graph: the operators that count in order, their operands, their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from diffulex_edge._errors import InternalError, UnsupportedError
from diffulex_edge.frontend._folding import Folding, layer_of, source_of
from diffulex_edge.frontend._graph import SEQUENCE, Graph
from diffulex_edge.frontend.aten.pairs import values_of_pairs
from diffulex_edge.frontend.aten.registry import argument, handler_of, unread

#: What a masked attention score gets added (kMaskedScore in graph.h).
MASKED_SCORE = -1e9
#: Additions below it are taken for masks.
LEAST_SCORE = -1e4

_STORED_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_INPUT_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32"}

#: Modules that are one layer, whatever they hold.
_LAYERS = ("Linear", "Embedding", "LayerNorm", "RMSNorm", "QuantizedLinear", "QuantizedEmbedding")


_MASK_WIDTH = 32
#: ATen operators whose results may be complex.
_COMPLEX = (torch.ops.aten.view_as_complex, torch.ops.aten.mul)
#: Operators of the graph that compute nothing.
_MOVES = ("reshape", "transpose", "slice", "expand")
#: ATen operators whose results are integers where their operands are, and the same in FP32, if they are small.
_EXACT = frozenset({
    torch.ops.aten.add, torch.ops.aten.sub, torch.ops.aten.rsub, torch.ops.aten.mul, torch.ops.aten.neg,
    torch.ops.aten.sum, torch.ops.aten.square, torch.ops.aten.clamp, torch.ops.aten.clamp_min, torch.ops.aten.clamp_max,
})  # fmt: skip


class Translation:
    """One exported program on its way into a graph."""

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self.graph = Graph(folding.longest if folding.symbol is not None else None)
        self.warnings: list[str] = []
        self.quantized: dict[str, tuple[str, str, int]] = {}  # dtype, mode and group size of a layer, by its name
        self.activations: dict[str, tuple[Tensor, Tensor]] = {}  # ranges of input and output, mode static
        self.mapped: dict[fx.Node, int | list[int]] = {}
        self.needed: set[fx.Node] = set()  # what the output depends on
        self.output: fx.Node | None = None
        self.floats: dict[int, int] = {}  # of inputs of integers that are computed with
        self._as_floats = False  # whether `value` gives numbers of FP32 only

    def run(self, output: fx.Node) -> int:
        """The value of `output`, with all that it needs."""
        for node in self.folding.inputs:
            self._input(node)
        self.output = output
        self.needed = needed = self.folding.upstream(output)
        for node in self.folding.program.graph.nodes:
            if node in needed and self.folding.kinds[node] == "data" and node.op == "call_function":
                self.mapped[node] = self._translate(node)
        result = self.value(output)
        return result if output.meta["val"].dim() > 0 else self.graph.reshape(result, ())

    def _input(self, node: fx.Node) -> None:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            if value is not None:
                self.warnings.append(f"input {node.name}: {value!r} is part of the artefact, no input of it")
            return
        dtype = _INPUT_DTYPES.get(value.dtype)
        if dtype is None:
            raise UnsupportedError(
                f"input {node.name}: {value.dtype} is not float32, int64 or int32 (for masks: give float32 that is "
                "added to the scores, 0 or very negative)",
                where=node.name,
            )
        given = self.graph.input(node.name, dtype, self.folding.shape(node, SEQUENCE))
        self.mapped[node] = given if value.dim() > 0 else self.graph.reshape(given, (1,))

    def _translate(self, node: fx.Node) -> int | list[int]:
        handler = handler_of(node)
        if handler is None:
            what = " (only convolutions in one and two dimensions are covered)" if "conv" in str(node.target) else ""
            raise UnsupportedError(f"{source_of(node)}: this operator is not supported{what}", where=str(node.target))
        if names := unread(node, handler):
            given = ", ".join(f"{name}={argument(node, name)}" for name in names)
            raise self.fail(node, f"the operator is supported, but not with {given}")
        if not handler.integers:
            self._check_floating(node)
        self._as_floats = not handler.integers
        try:
            result = handler.translate(self, node)
            if self._is_complex(node):
                return result
            return self._in_shape(node, result) if isinstance(result, int) else result
        except InternalError as error:
            raise self.fail(node, str(error)) from None
        finally:
            self._as_floats = False

    def _is_complex(self, node: fx.Node) -> bool:
        """Whether a node's value has a dimension more than in PyTorch, of the real and the imaginary part."""
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not value.dtype.is_complex:
            return False
        if getattr(node.target, "overloadpacket", None) not in _COMPLEX:
            raise self.fail(node, "complex numbers (view_as_complex, a product and view_as_real are supported)")
        return True

    def _in_shape(self, node: fx.Node, result: int) -> int:
        """The result in PyTorch's shape: what a single number makes of it may have other ones."""
        value = node.meta["val"]
        shape = self.folding.shape_of(node, value[0] if isinstance(value, tuple | list) else value, SEQUENCE) or (1,)
        has = self.graph.shape(result)
        if has != shape and [size for size in has if size != 1] != [size for size in shape if size != 1]:
            raise InternalError(f"{source_of(node)}: its value has the shape {list(has)}, not {list(shape)}")
        return self.graph.reshape(result, shape)

    def _check_floating(self, node: fx.Node) -> None:
        """Graphs compute in FP32: integers there would be rounded, and overflow, in other places than in PyTorch."""
        is_product = getattr(node.target, "overloadpacket", None) is torch.ops.aten.mul
        if is_product and self._is_complex(node):
            return
        results = node.meta["val"] if isinstance(node.meta["val"], tuple | list) else [node.meta["val"]]
        operands = [
            operand.meta["val"] for operand in self.folding.operands(node)
            if self.is_data(operand) and not self._counts(operand)
        ]  # fmt: skip
        if getattr(node.target, "overloadpacket", None) in _EXACT and results[0].dtype != torch.bool:
            results = []
        for what, values in (("computes with", operands), ("gives", results)):
            for value in values:
                if isinstance(value, Tensor) and not value.dtype.is_floating_point:
                    raise self.fail(
                        node, f"it {what} {value.dtype} that depend on an input (only float32 is supported)"
                    )

    # --- Operands.

    def is_data(self, argument: Any) -> bool:
        return isinstance(argument, fx.Node) and self.folding.kinds[argument] == "data"

    def number(self, argument: Any) -> float | None:
        """An argument that is a number, or a constant with one element; else None."""
        if isinstance(argument, int | float):
            return float(argument)
        return float(self.folding.value(argument)) if self.is_constant(argument) else None

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape that a node's value has in the graph, which knows no value without dimensions: [1] in its place."""
        return self.folding.shape(node, SEQUENCE) or (1,)

    def fail(self, node: fx.Node, what: str) -> UnsupportedError:
        return UnsupportedError(f"{source_of(node)}: {what}", where=str(node.target))

    def value(self, argument: Any) -> int:
        """An operand's value in the graph: data, a constant, a table of positions, or a number."""
        if isinstance(argument, int | float):
            return self.graph.scalar(float(argument))
        if self._as_floats and self.is_data(argument):
            return self.floating(argument)
        known = self.mapped.get(argument)
        if known is None:
            known = self.mapped[argument] = self._folded(argument)
        if isinstance(known, list):
            raise self.fail(argument, "several results where one is needed" if known else "it has no numbers")
        return known

    def _counts(self, node: fx.Node) -> bool:
        """Whether a node's integers or booleans are numbers of FP32 in the graph, as `floating` makes them."""
        value = node.meta["val"]
        return isinstance(value, Tensor) and not value.dtype.is_floating_point and not value.dtype.is_complex

    def is_mask(self, node: fx.Node) -> bool:
        """Whether a node is an input of integers, its shape aside."""
        return self.is_data(node) and self._integer_input(self._mapped_value(node)) is not None

    def _mapped_value(self, node: fx.Node) -> int:
        known = self.mapped[node]
        if isinstance(known, list):
            raise self.fail(node, "several results where one is needed")
        return known

    def _integer_input(self, value: int) -> int | None:
        while self.graph.op(value) in _MOVES:
            value = self.graph[value].inputs[0]
        node = self.graph[value]
        return value if node.op == "input" and node.attributes["dtype"] != "F32" else None

    def _holds_a_mask(self, value: int) -> bool:
        """Whether the example that an input of integers was traced with has only the numbers 0 and 1."""
        examples = self.folding.program.example_inputs
        if examples is None:
            return True
        flat = torch.utils._pytree.tree_leaves(examples)
        by_name = {node.name: example for node, example in zip(self.folding.inputs, flat, strict=False)}
        example = by_name.get(self.graph[value].name)
        return not isinstance(example, Tensor) or bool(((example == 0) | (example == 1)).all())

    def floating(self, argument: Any) -> int:
        """As `value`, in FP32: integers of an input are read from a table of 0 and 1."""
        before, self._as_floats = self._as_floats, False
        try:
            value = self.value(argument)
        finally:
            self._as_floats = before
        return self.as_floating(argument, value) if isinstance(argument, fx.Node) else value

    def as_floating(self, argument: fx.Node, value: int) -> int:
        base = self._integer_input(value)
        if base is None:
            return value
        if base not in self.floats:
            name = self.graph[base].name
            if not self._holds_a_mask(base):
                raise self.fail(
                    argument, f"the integers of input {name} are computed with, which only masks of 0 and 1 can be "
                    "(give them as float32)"
                )  # fmt: skip
            self.floats[base] = self._looked_up(name, base)
            self.warnings.append(f"input {name}: it is a mask of 0 and 1, and other numbers must not be given")
        return self._moved(value, base)

    def _looked_up(self, name: str, ids: int) -> int:
        """The numbers 0 and 1 of a mask, in FP32: backends read integers as rows of embeddings only.

        The table's rows are as wide as a group of INT4 layers. Twice its numbers, cut at 1, are exact in every format.
        """
        graph = self.graph
        table = torch.tensor([[0.0], [1.0]]).repeat(1, _MASK_WIDTH)
        stored = graph.weight(f"{name}.mask", table, tuple(table.shape))
        rows = graph.add("embedding", (stored, ids), (*graph.shape(ids), _MASK_WIDTH), f"{name}.mask")
        column = graph.reshape(graph.slice(rows, len(graph.shape(ids)), 0, 1), graph.shape(ids))
        return graph.unary("clamp", graph.binary("multiply", column, graph.scalar(2.0)), min=0.0, max=1.0)

    def _moved(self, value: int, base: int) -> int:
        """What `value` makes of an input, of the input's numbers instead."""
        if value == base:
            return self.floats[base]
        node = self.graph[value]
        x = self._moved(node.inputs[0], base)
        if node.op == "reshape":
            return self.graph.reshape(x, node.shape)
        if node.op == "transpose":
            return self.graph.transpose(x, node.attributes["axes"])
        if node.op == "slice":
            return self.graph.slice(x, *(node.attributes[name] for name in ("axis", "begin", "end")))
        return self.graph.add("expand", (x,), node.shape)

    def _folded(self, node: fx.Node) -> int:
        folding = self.folding
        if folding.kinds[node] == "data":
            raise self.fail(node, "its value is not known")
        value = folding.value(node)
        if not isinstance(value, Tensor):
            if folding.kinds[node] == "position":
                raise self.fail(node, "the sequence's length is used as a number")
            return self.graph.scalar(float(value))
        if folding.kinds[node] == "constant" or SEQUENCE not in self.shape(node):
            self._check_same(node, value)
            name = folding.names.get(node, "")
            return self.graph.constant(value, name) if name else self.graph.shared_constant(value)
        return self._table(node, value)

    def _check_same(self, node: fx.Node, value: Tensor) -> None:
        """A value of a fixed shape may still depend on the length: not if it can be a constant."""
        if self.folding.kinds[node] == "position":
            for length in self.folding.lengths():
                if not _close(self.folding.value(node, length), value):
                    raise self.fail(node, "its numbers depend on the sequence's length")

    def computed(self, node: fx.Node, transform: Callable[[Tensor], Tensor]) -> int:
        """What `transform` makes of a value that depends on no input's numbers: it may add dimensions behind."""
        value = transform(self.folding.value(node))
        if self.folding.kinds[node] == "constant":
            return self.graph.shared_constant(value)
        if SEQUENCE not in self.shape(node):
            raise self.fail(node, "its numbers may depend on the sequence's length")
        return self._table(node, value, transform)

    def _table(self, node: fx.Node, value: Tensor, transform: Callable[[Tensor], Tensor] = lambda same: same) -> int:
        """Rows for each position, from a table of the longest sequence."""
        shape = self.shape(node)
        shape += tuple(value.shape[len(shape) :])
        if shape.count(SEQUENCE) > 1:
            return values_of_pairs(self, node, lambda pairs: pairs.to(torch.float32).clamp(min=MASKED_SCORE))
        axis = shape.index(SEQUENCE)
        for length in self.folding.lengths():
            if not _close(transform(self.folding.value(node, length)), value.narrow(axis, 0, length)):
                raise self.fail(node, "its numbers depend on the sequence's length, not only on the position")
        graph = self.graph
        table = graph.shared_constant(value.movedim(axis, 0))
        rows = graph.shape(table)[1:]
        reference = self.reference(node)
        result = graph.add("position_table", (reference, table), (SEQUENCE, *rows))
        if all(size == 1 for size in shape[:axis]):
            return graph.reshape(result, shape)
        order = [0] * len(shape)
        for target, source in enumerate([axis] + [i for i in range(len(shape)) if i != axis]):
            order[source] = target
        return graph.transpose(result, order)

    def reference(self, node: fx.Node) -> int:
        """An input that has the sequence as one of its dimensions."""
        for value, known in enumerate(self.graph.nodes):
            if known.op == "input" and known.shape.count(SEQUENCE) == 1:
                return value
        raise self.fail(node, "no input has the sequence as one dimension")

    # --- Weights.

    def is_constant(self, argument: Any) -> bool:
        return isinstance(argument, fx.Node) and self.folding.kinds[argument] == "constant"

    def weight(self, node: fx.Node, weight: fx.Node, layer: str, what: str) -> int:
        """A weight of `node`'s, stored under its name in the module, or under its layer's where it was computed."""
        if not self.is_constant(weight):
            raise self.fail(node, f"a {what} that depends on an input")
        value = self.folding.value(weight)
        name = self.folding.names.get(weight, f"{layer}.{what}")
        return self.stored(name, value)

    def stored(self, name: str, value: Tensor) -> int:
        tensor = value if value.dtype in _STORED_DTYPES else value.to(torch.float32)
        return self.graph.weight(name, tensor.contiguous(), tuple(tensor.shape))

    def layer(self, node: fx.Node, weight: Any) -> str:
        """The name of the layer that a node is: its module's, else that of its weight, else one of its own."""
        path, kind = layer_of(node)
        name = self.folding.names.get(weight, "") if isinstance(weight, fx.Node) else ""
        own = name.removesuffix(".weight")
        if path and (path == own or kind in _LAYERS):
            return path
        if name == "weight":
            return "model"  # is one layer
        return f"{own or path}.{node.name}" if own or path else node.name


def _close(a: Any, b: Tensor) -> bool:
    if a.dtype.is_floating_point:
        return torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    return torch.equal(a, b)
