"""What of an exported program depends on no input's numbers: constants, and values of only the positions."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from diffulex_edge._errors import UnsupportedError

aten = torch.ops.aten

_HALVES = (torch.float16, torch.bfloat16)

#: Operators that take nothing but the shape and the type from their first operand.
_OF_A_SHAPE = frozenset({
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.new_empty, aten.zero, aten.fill, aten.copy,
})  # fmt: skip
#: Operators whose result is whatever was in memory: here it's zeros, so that artefacts have the same bytes.
_UNSET = frozenset({aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided})
#: Operators that are random in training only.
_DROPOUTS = frozenset({aten.dropout, aten.feature_dropout, aten.native_dropout})

#: Nodes without a value that counts.
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "_assert_async")


def is_check(node: fx.Node) -> bool:
    """Whether a node only asserts something."""
    return node.op == "call_function" and any(check in str(node.target) for check in _CHECKS)


class Folding:
    """Runs parts of an exported program in PyTorch.

    Every node is of one of three kinds: "constant" (parameters, and what is computed from them), "position" (depends on
    the length of the sequence as well), and "data" (depends on an input's numbers).
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.symbol: Any = None  # sympy's; None where nothing varies
        self.shortest, self.longest = 1, 1
        self.tensors: dict[fx.Node, Tensor] = {}  # of the placeholders that are not inputs
        self.names: dict[fx.Node, str] = {}  # their names in the module
        self.inputs: list[fx.Node] = []
        self.kinds: dict[fx.Node, str] = {}
        self._values: dict[tuple[fx.Node, int], Any] = {}
        self._read_placeholders()
        self._find_symbol()
        for node in program.graph.nodes:
            self.kinds[node] = self._kind(node)

    def _read_placeholders(self) -> None:
        state, constants = self.program.state_dict, self.program.constants
        specs = self.program.graph_signature.input_specs
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self.inputs.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                name = spec.target
                self.tensors[node] = state[name] if name in state else constants[name]
                self.names[node] = name
            else:
                raise UnsupportedError(f"input {node.name}: {spec.kind.name.lower()} inputs are not supported")

    def _find_symbol(self) -> None:
        symbols = set()
        for node in self.inputs:
            value = node.meta["val"]
            if isinstance(value, Tensor):
                for size in value.shape:
                    if isinstance(size, SymInt):
                        symbols |= size.node.expr.free_symbols
        if len(symbols) > 1:
            names = ", ".join(sorted(str(symbol) for symbol in symbols))
            raise UnsupportedError(
                f"dynamic_shapes: {len(symbols)} dimensions vary independently ({names}), and an artefact has one that "
                "varies (give the same torch.export.Dim to those that are equal, and fix the others)",
                where="dynamic_shapes",
            )
        if symbols:
            self.symbol = symbols.pop()
            bounds = self.program.range_constraints[self.symbol]
            if not bounds.upper.is_Integer:
                raise UnsupportedError(
                    f"dynamic_shapes: {self.symbol} has no upper bound (give it one: torch.export.Dim(name, max=...))",
                    where="dynamic_shapes",
                )
            self.shortest, self.longest = max(1, int(bounds.lower)), int(bounds.upper)

    def _kind(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return "constant" if node in self.tensors else "data"
        if node.op != "call_function":
            return "data"
        if node.target is torch.ops.aten.sym_size.int:
            return "position"
        kinds = {self.kinds[argument] for argument in self.operands(node)}
        first = shape_operand(node)
        if first is not None and any(isinstance(size, SymInt) for size in first.meta["val"].shape):
            kinds.add("position")
        return "data" if "data" in kinds else "position" if "position" in kinds else "constant"

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose values a node's value depends on."""
        first = shape_operand(node)
        return [operand for operand in node.all_input_nodes if operand is not first]

    def upstream(self, output: fx.Node) -> set[fx.Node]:
        """All nodes that a node's value depends on, and itself."""
        found: set[fx.Node] = set()
        pending = [output]
        while pending:
            node = pending.pop()
            if node not in found and not is_check(node):
                found.add(node)
                pending.extend(self.operands(node))
        return found

    def with_tensor(self, placeholder: fx.Node, value: Tensor) -> Folding:
        """The same program, where a parameter or buffer has another value."""
        other = copy.copy(self)
        other.tensors = {**self.tensors, placeholder: value}
        other._values = {}
        return other

    def lengths(self) -> list[int]:
        """The longest sequence, and others that show whether a value's rows depend on the length."""
        return sorted({self.longest, (self.shortest + self.longest) // 2, self.shortest}, reverse=True)

    def value(self, node: fx.Node, length: int | None = None) -> Any:
        """What a constant node, or a position node for sequences of `length`, evaluates to."""
        at = 0 if self.kinds[node] == "constant" else self.longest if length is None else length
        key = (node, at)
        if key not in self._values:
            self._values[key] = self._run(node, at)
        return self._values[key]

    def _run(self, node: fx.Node, length: int) -> Any:
        if node in self.tensors:
            return self.tensors[node].detach()
        if node.target is torch.ops.aten.sym_size.int:
            return self.size(node.meta["val"], length)
        if _is_rounding(node):
            return self.value(node.args[0], length)  # type: ignore[arg-type]
        if _is_random(node):
            raise UnsupportedError(
                f"{source_of(node)}: random numbers, which would be the same in every run of the artefact",
                where=str(node.target),
            )
        first = shape_operand(node)

        def operand(argument: fx.Node) -> Any:
            return self._blank(argument, length) if argument is first else self.value(argument, length)

        try:
            result = _call(node, operand)
        except RuntimeError:  # an operator that wants its operands in one type
            result = _call(node, lambda argument: _as_traced(argument, operand(argument)))
        return torch.zeros_like(result) if getattr(node.target, "overloadpacket", None) in _UNSET else result

    def _blank(self, node: fx.Node, length: int) -> Tensor:
        """A tensor of a node's shape and type, whatever its numbers."""
        value = node.meta["val"]
        return torch.zeros((), dtype=value.dtype).expand([self.size(size, length) for size in value.shape])

    def size(self, size: int | SymInt, length: int) -> int:
        """A dimension's size for sequences of `length`."""
        if isinstance(size, int):
            return size
        return int(size.node.expr.subs({self.symbol: length}))

    def shape(self, node: fx.Node, sequence: int) -> tuple[int, ...]:
        """The shape of a node's tensor, with `sequence` in the place of the dimension that varies."""
        return self.shape_of(node, node.meta["val"], sequence)

    def shape_of(self, node: fx.Node, value: Tensor, sequence: int) -> tuple[int, ...]:
        """The same for one of a node's results."""
        shape = []
        for size in value.shape:
            if isinstance(size, int):
                shape.append(size)
            elif size.node.expr == self.symbol:
                shape.append(sequence)
            elif size.node.expr.is_Integer:
                shape.append(int(size.node.expr))
            else:
                raise UnsupportedError(
                    f"{source_of(node)}: a dimension is {size.node.expr}, and only the length itself can be one",
                    where=node.name,
                )
        return tuple(shape)


def shape_operand(node: fx.Node) -> fx.Node | None:
    """The operand of which a node takes nothing but the shape and the type: not `x` of `x.copy_(x)`."""
    if node.op != "call_function" or getattr(node.target, "overloadpacket", None) not in _OF_A_SHAPE or not node.args:
        return None
    first, *others = (*node.args, *node.kwargs.values())
    return first if isinstance(first, fx.Node) and first not in others else None


def _is_random(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    if packet is aten.scaled_dot_product_attention or packet in _DROPOUTS:
        return bool(node.args[2]) if packet in _DROPOUTS else False
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_rounding(node: fx.Node) -> bool:
    """Whether a node casts to 16 bits: artefacts compute in FP32, as models do whose checkpoint has 16 bits."""
    casts = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.type_as)
    if getattr(node.target, "overloadpacket", None) not in casts:
        return False
    return node.meta["val"].dtype in _HALVES and node.args[0].meta["val"].dtype.is_floating_point  # type: ignore[union-attr]


def _call(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    with torch.no_grad():
        return node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))  # type: ignore[operator]


def _as_traced(node: fx.Node, value: Any) -> Any:
    """A value in the type that it has in the exported program."""
    return value.to(node.meta["val"].dtype) if isinstance(value, Tensor) else value


def source_of(node: fx.Node) -> str:
    """An operator and the line of the user's model that it comes from: the innermost one outside of PyTorch."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    places = [i for i, line in enumerate(lines) if line.startswith("File ")]
    outside = [i for i in places if "/torch/" not in lines[i]]
    if not places:
        return str(node.target)
    place = (outside or places)[-1]
    code = lines[place + 1] if place + 1 < len(lines) and place + 1 not in places else ""
    return f"{node.target} at {lines[place].removeprefix('File ')}" + (f" ({code})" if code else "")


def layer_of(node: fx.Node) -> tuple[str, str]:
    """The module that a node belongs to: its name in the model, and its class."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1]
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return path, name.rpartition(".")[2]


GETITEM = operator.getitem
