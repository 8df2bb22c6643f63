"""ATen operators, as `torch.export` leaves them, in the library's graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from diffulex_edge._errors import UnsupportedError
from diffulex_edge.frontend import _patterns
from diffulex_edge.frontend._folding import GETITEM, Folding, is_check, layer_of, source_of
from diffulex_edge.frontend._graph import SEQUENCE, Graph, broadcast

aten = torch.ops.aten

#: What a masked attention score gets added (kMaskedScore in graph.h).
MASKED_SCORE = -1e9
#: Additions below it are taken for masks.
_LEAST_SCORE = -1e4

_STORED_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_INPUT_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32"}

#: Modules that are one layer, whatever they hold.
_LAYERS = ("Linear", "Embedding", "LayerNorm", "RMSNorm", "QuantizedLinear", "QuantizedEmbedding")

Handler = Callable[["Translation", fx.Node], int | list[int]]
_HANDLERS: dict[Any, Handler] = {}


def _handles(*targets: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for target in targets:
            _HANDLERS[target] = handler
        return handler

    return register


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


class Translation:
    """One exported program on its way into a graph."""

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self.graph = Graph(folding.longest if folding.symbol is not None else None)
        self.warnings: list[str] = []
        self.quantized: dict[str, tuple[str, str, int]] = {}  # dtype, mode and group size of a layer, by its name
        self.activations: dict[str, tuple[Tensor, Tensor]] = {}  # ranges of input and output, mode static
        self._mapped: dict[fx.Node, int | list[int]] = {}
        self._stored: dict[str, Tensor] = {}

    def run(self, output: fx.Node) -> int:
        """The value of `output`, with all that it needs."""
        for node in self.folding.inputs:
            self._input(node)
        needed = _needed(output)
        for node in self.folding.program.graph.nodes:
            if node in needed and self.folding.kinds[node] == "data" and node.op == "call_function":
                self._mapped[node] = self._translate(node)
        return self.value(output)

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
        self._mapped[node] = self.graph.input(node.name, dtype, self.folding.shape(node, SEQUENCE))

    def _translate(self, node: fx.Node) -> int | list[int]:
        handler = _HANDLERS.get(node.target)
        if handler is None:
            base = getattr(node.target, "overloadpacket", None)
            handler = _HANDLERS.get(base)
        if handler is None:
            what = " (convolutions are not covered)" if "conv" in str(node.target) else ""
            raise UnsupportedError(f"{source_of(node)}: this operator is not supported{what}", where=str(node.target))
        return handler(self, node)

    # --- Operands.

    def is_data(self, argument: Any) -> bool:
        return isinstance(argument, fx.Node) and self.folding.kinds[argument] == "data"

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return self.folding.shape(node, SEQUENCE)

    def fail(self, node: fx.Node, what: str) -> UnsupportedError:
        return UnsupportedError(f"{source_of(node)}: {what}", where=str(node.target))

    def value(self, argument: Any) -> int:
        """An operand's value in the graph: data, a constant, a table of positions, or a number."""
        if isinstance(argument, int | float):
            return self.graph.scalar(float(argument))
        known = self._mapped.get(argument)
        if known is None:
            known = self._mapped[argument] = self._folded(argument)
        if isinstance(known, list):
            raise self.fail(argument, "several results where one is needed")
        return known

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

    def _table(self, node: fx.Node, value: Tensor) -> int:
        """Rows for each position, from a table of the longest sequence."""
        shape = self.shape(node)
        if shape.count(SEQUENCE) > 1:
            raise self.fail(node, "a value of pairs of positions is only supported as an attention mask")
        axis = shape.index(SEQUENCE)
        for length in self.folding.lengths():
            if not _close(self.folding.value(node, length), value.narrow(axis, 0, length)):
                raise self.fail(node, "its numbers depend on the sequence's length, not on the position alone")
        graph = self.graph
        table = graph.shared_constant(value.movedim(axis, 0))
        rows = graph.shape(table)[1:]
        reference = self._reference(node)
        result = graph.add("position_table", (reference, table), (SEQUENCE, *rows))
        if all(size == 1 for size in shape[:axis]):
            return graph.reshape(result, shape)
        order = [0] * len(shape)
        for target, source in enumerate([axis] + [i for i in range(len(shape)) if i != axis]):
            order[source] = target
        return graph.transpose(result, order)

    def _reference(self, node: fx.Node) -> int:
        """An input that has the sequence as one of its dimensions."""
        for value, known in enumerate(self.graph.nodes):
            if known.op == "input" and known.shape.count(SEQUENCE) == 1:
                return value
        raise self.fail(node, "no input has the sequence as one dimension")

    # --- Weights.

    def weight(self, argument: fx.Node, layer: str, what: str) -> int:
        """A weight that is stored under its name in the module, or under its layer's where it was computed."""
        value = self.folding.value(argument)
        name = self.folding.names.get(argument, f"{layer}.{what}")
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


def _needed(output: fx.Node) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    pending = [output]
    while pending:
        node = pending.pop()
        if node not in needed and not is_check(node):
            needed.add(node)
            pending.extend(node.all_input_nodes)
    return needed


# --- What changes nothing, or the shape alone.


@_handles(aten.alias, aten.detach, aten.contiguous, aten.clone, aten.lift_fresh, aten.lift_fresh_copy)
def _same(translation: Translation, node: fx.Node) -> int:
    return translation.value(node.args[0])


@_handles(aten.dropout, aten.feature_dropout, aten.native_dropout)
def _dropout(translation: Translation, node: fx.Node) -> int:
    if _argument(node, 2, "train"):
        raise translation.fail(node, "dropout is active (call model.eval() before the export)")
    return translation.value(node.args[0])


@_handles(aten.to, aten._to_copy, aten.type_as)
def _cast(translation: Translation, node: fx.Node) -> int:
    source, target = node.args[0].meta["val"].dtype, node.meta["val"].dtype  # type: ignore[union-attr]
    if source.is_floating_point != target.is_floating_point:
        raise translation.fail(node, f"a conversion of an input's numbers from {source} to {target}")
    return translation.value(node.args[0])


@_handles(
    aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.unsqueeze, aten.squeeze,
    aten.view_as, aten._reshape_alias,
)  # fmt: skip
def _reshape(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    source, target = translation.graph.shape(x), translation.shape(node)
    if target.count(SEQUENCE) > 1 or source.count(SEQUENCE) != target.count(SEQUENCE):
        if [size for size in source if size != 1] != [size for size in target if size != 1]:
            raise translation.fail(node, f"a change of shape from {list(source)} to {list(target)} (-1: the sequence)")
        if source.count(SEQUENCE) > 1:
            raise translation.fail(node, "a change of the shape of a value of pairs of positions")
    return translation.graph.reshape(x, target)


@_handles(aten.transpose, aten.swapaxes, aten.swapdims)
def _transpose(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    rank = len(translation.graph.shape(x))
    axes = list(range(rank))
    a, b = node.args[1] % rank, node.args[2] % rank  # type: ignore[operator]
    axes[a], axes[b] = axes[b], axes[a]
    return translation.graph.transpose(x, axes)


@_handles(aten.t, aten.numpy_T, aten.mT)
def _turn(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    axes = list(range(len(translation.graph.shape(x))))
    if node.target is aten.mT.default:
        axes[-2:] = axes[:-3:-1]
    else:
        axes.reverse()
    return translation.graph.transpose(x, axes)


@_handles(aten.permute)
def _permute(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    rank = len(translation.graph.shape(x))
    return translation.graph.transpose(x, [axis % rank for axis in node.args[1]])  # type: ignore[union-attr]


@_handles(aten.expand, aten.expand_as, aten.broadcast_to)
def _expand(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    graph, shape = translation.graph, translation.shape(node)
    x = graph.reshape(x, (1,) * (len(shape) - len(graph.shape(x))) + graph.shape(x))
    if graph.shape(x) == shape:
        return x
    if any(wanted == SEQUENCE and has != SEQUENCE for wanted, has in zip(shape, graph.shape(x), strict=True)):
        raise translation.fail(node, "a copy for each position")
    return graph.add("expand", (x,), shape)


@_handles(aten.repeat)
def _repeat(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    graph, copies = translation.graph, list(node.args[1])  # type: ignore[arg-type]
    x = graph.reshape(x, (1,) * (len(copies) - len(graph.shape(x))) + graph.shape(x))
    for axis, count in enumerate(copies):
        if count != 1:
            if not isinstance(count, int) or graph.shape(x)[axis] == SEQUENCE:
                raise translation.fail(node, "copies along the sequence")
            x = graph.concat([x] * count, axis)
    return x


@_handles(aten.repeat_interleave)
def _repeat_interleave(translation: Translation, node: fx.Node) -> int:
    count, axis = _argument(node, 1, "repeats"), _argument(node, 2, "dim")
    graph = translation.graph
    x = translation.value(node.args[0])
    if not isinstance(count, int) or axis is None or graph.shape(x)[axis] == SEQUENCE:
        raise translation.fail(node, "copies along the sequence, or a number of its own for each")
    axis %= len(graph.shape(x))
    before, size, after = graph.shape(x)[:axis], graph.shape(x)[axis], graph.shape(x)[axis + 1 :]
    apart = graph.reshape(x, (*before, size, 1, *after))
    return graph.reshape(graph.add("expand", (apart,), (*before, size, count, *after)), (*before, size * count, *after))


def _slice_of(translation: Translation, node: fx.Node, x: int, axis: int, begin: int, end: int) -> int:
    if translation.graph.shape(x)[axis] == SEQUENCE:
        raise translation.fail(node, "a part of the sequence (export with a fixed length)")
    return translation.graph.slice(x, axis, begin, end)


@_handles(aten.slice)
def _slice(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    shape, target = translation.graph.shape(x), translation.shape(node)
    if shape == target:
        return x
    axis = _argument(node, 1, "dim", 0) % len(shape)
    begin = _argument(node, 2, "start") or 0
    if _argument(node, 4, "step", 1) != 1 or not isinstance(begin, int):
        raise translation.fail(node, "a slice with a step")
    begin = max(0, begin + shape[axis]) if begin < 0 else begin
    return _slice_of(translation, node, x, axis, begin, begin + target[axis])


@_handles(aten.narrow)
def _narrow(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    _, axis, begin, size = node.args
    return _slice_of(translation, node, x, axis % len(translation.graph.shape(x)), begin, begin + size)  # type: ignore[operator]


@_handles(aten.select)
def _select(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    shape = translation.graph.shape(x)
    axis = node.args[1] % len(shape)  # type: ignore[operator]
    index = node.args[2]
    if not isinstance(index, int) or shape[axis] == SEQUENCE:
        raise translation.fail(node, "one position of the sequence (export with a fixed length)")
    index %= shape[axis]
    return translation.graph.reshape(translation.graph.slice(x, axis, index, index + 1), translation.shape(node))


def _pieces(translation: Translation, node: fx.Node, axis: int, squeeze: bool = False) -> list[int]:
    x = translation.value(node.args[0])
    begin = 0
    result = []
    for piece in node.meta["val"]:
        size = 1 if squeeze else piece.shape[axis]
        part = _slice_of(translation, node, x, axis, begin, begin + size)
        shape = translation.graph.shape(part)
        result.append(translation.graph.reshape(part, shape[:axis] + shape[axis + 1 :]) if squeeze else part)
        begin += size
    return result


@_handles(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(translation: Translation, node: fx.Node) -> list[int]:
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    return _pieces(translation, node, _argument(node, 2, "dim", 0) % rank)


@_handles(aten.unbind)
def _unbind(translation: Translation, node: fx.Node) -> list[int]:
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    return _pieces(translation, node, _argument(node, 1, "dim", 0) % rank, squeeze=True)


@_handles(GETITEM)
def _getitem(translation: Translation, node: fx.Node) -> int:
    source, index = node.args
    pieces = translation._mapped[source]  # type: ignore[index]
    if not isinstance(pieces, list):
        if index == 0:
            return pieces
        raise translation.fail(node, "a second result of an operator that has one here")
    return pieces[index]  # type: ignore[index]


@_handles(aten.cat, aten.concat)
def _cat(translation: Translation, node: fx.Node) -> int:
    values = [translation.value(operand) for operand in node.args[0]]  # type: ignore[union-attr]
    axis = _argument(node, 1, "dim", 0) % len(translation.shape(node))
    if any(translation.graph.shape(value)[axis] == SEQUENCE for value in values):
        raise translation.fail(node, "the sequence is made longer (export with a fixed length)")
    return translation.graph.concat(values, axis)


@_handles(aten.stack)
def _stack(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    axis = _argument(node, 1, "dim", 0) % len(translation.shape(node))
    values = []
    for operand in node.args[0]:  # type: ignore[union-attr]
        value = translation.value(operand)
        shape = graph.shape(value)
        values.append(graph.reshape(value, (*shape[:axis], 1, *shape[axis:])))
    return graph.concat(values, axis)


# --- Arithmetic.


def _binary(translation: Translation, node: fx.Node, op: str, a: Any, b: Any) -> int:
    try:
        return translation.graph.binary(op, translation.value(a), translation.value(b))
    except RuntimeError as error:
        raise translation.fail(node, str(error)) from None


@_handles(aten.add, aten.add_)
def _add(translation: Translation, node: fx.Node) -> int:
    alpha = node.kwargs.get("alpha", 1)
    if alpha != 1:
        raise translation.fail(node, f"alpha={alpha}")
    result = _binary(translation, node, "add", node.args[0], node.args[1])
    return _or(_patterns.rope(translation.graph, result), result)


@_handles(aten.sub, aten.sub_)
def _sub(translation: Translation, node: fx.Node) -> int:
    if node.kwargs.get("alpha", 1) != 1:
        raise translation.fail(node, "alpha")
    return _binary(translation, node, "subtract", node.args[0], node.args[1])


@_handles(aten.rsub)
def _rsub(translation: Translation, node: fx.Node) -> int:
    return _binary(translation, node, "subtract", node.args[1], node.args[0])


@_handles(aten.mul, aten.mul_)
def _mul(translation: Translation, node: fx.Node) -> int:
    for number, other in ((node.args[1], node.args[0]), (node.args[0], node.args[1])):
        if number == 1 and isinstance(other, fx.Node):
            return translation.value(other)
    result = _binary(translation, node, "multiply", node.args[0], node.args[1])
    composite = _patterns.rms_norm(translation.graph, result, layer_of(node)[0])
    return _or(composite, _or(_patterns.swiglu(translation.graph, result), result))


@_handles(aten.div, aten.true_divide)
def _div(translation: Translation, node: fx.Node) -> int:
    if node.kwargs.get("rounding_mode") is not None:
        raise translation.fail(node, "a division with rounding")
    if isinstance(node.args[1], int | float):
        return _binary(translation, node, "multiply", node.args[0], 1.0 / node.args[1])
    return _binary(translation, node, "divide", node.args[0], node.args[1])


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _register_unary(op: str, *targets: Any) -> None:
    @_handles(*targets)
    def unary(translation: Translation, node: fx.Node) -> int:
        return translation.graph.unary(op, translation.value(node.args[0]))


_register_unary("negate", aten.neg)
_register_unary("square", aten.square)
_register_unary("rsqrt", aten.rsqrt)
_register_unary("sqrt", aten.sqrt)
_register_unary("sigmoid", aten.sigmoid)
_register_unary("tanh", aten.tanh)
_register_unary("exp", aten.exp)
_register_unary("sin", aten.sin)
_register_unary("cos", aten.cos)
_register_unary("floor", aten.floor)


@_handles(aten.pow)
def _pow(translation: Translation, node: fx.Node) -> int:
    x, exponent = translation.value(node.args[0]), node.args[1]
    graph = translation.graph
    if not isinstance(exponent, int | float) or exponent not in (-1, -0.5, 0.5, 1, 2, 3):
        raise translation.fail(node, f"the exponent {exponent}, which is not -1, -0.5, 0.5, 1, 2 or 3")
    if exponent == 1:
        return x
    if exponent == 3:
        return graph.binary("multiply", graph.unary("square", x), x)
    if exponent == -1:
        return graph.binary("divide", graph.scalar(1.0), x)
    return graph.unary({2: "square", 0.5: "sqrt", -0.5: "rsqrt"}[exponent], x)


@_handles(aten.reciprocal)
def _reciprocal(translation: Translation, node: fx.Node) -> int:
    return translation.graph.binary("divide", translation.graph.scalar(1.0), translation.value(node.args[0]))


@_handles(aten.silu, aten.silu_)
def _silu(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    return translation.graph.binary("multiply", x, translation.graph.unary("sigmoid", x))


@_handles(aten.gelu)
def _gelu(translation: Translation, node: fx.Node) -> int:
    tanh = node.kwargs.get("approximate", _argument(node, 1, "approximate", "none")) == "tanh"
    return translation.graph.unary("gelu", translation.value(node.args[0]), tanh=tanh)


@_handles(aten.relu, aten.relu_)
def _relu(translation: Translation, node: fx.Node) -> int:
    return translation.graph.unary("clamp", translation.value(node.args[0]), min=0.0, max=math.inf)


@_handles(aten.clamp, aten.hardtanh, aten.relu6, aten.clamp_min, aten.clamp_max)
def _clamp(translation: Translation, node: fx.Node) -> int:
    low, high = _argument(node, 1, "min"), _argument(node, 2, "max")
    if node.target is aten.clamp_max.default:
        low, high = None, node.args[1]
    if node.target is aten.relu6.default:
        low, high = 0.0, 6.0
    for bound in (low, high):
        if bound is not None and not isinstance(bound, int | float):
            raise translation.fail(node, "a bound that is no number")
    return translation.graph.unary(
        "clamp", translation.value(node.args[0]), min=-math.inf if low is None else float(low),
        max=math.inf if high is None else float(high),
    )  # fmt: skip


def _along_last(translation: Translation, x: int, axis: int, operate: Callable[[int], int]) -> int:
    """Applies what works along the last dimension along another one."""
    rank = len(translation.graph.shape(x))
    axes = list(range(rank))
    axes[axis], axes[-1] = axes[-1], axes[axis]
    return translation.graph.transpose(operate(translation.graph.transpose(x, axes)), axes)


@_handles(aten.softmax, aten._softmax)
def _softmax(translation: Translation, node: fx.Node) -> int:
    x = translation.value(node.args[0])
    axis = node.args[1] % len(translation.graph.shape(x))  # type: ignore[operator]
    return _along_last(translation, x, axis, lambda value: translation.graph.unary("softmax", value))


def _reduced(translation: Translation, node: fx.Node, factor: Callable[[int], float]) -> int:
    graph = translation.graph
    x = translation.value(node.args[0])
    rank = len(graph.shape(x))
    given = _argument(node, 1, "dim")
    axes = sorted(axis % rank for axis in (given if isinstance(given, Sequence) and given else range(rank)))
    count = 1
    for axis in axes:
        size = graph.shape(x)[axis]
        if size == SEQUENCE:
            raise translation.fail(node, "a sum over the sequence (export with a fixed length)")
        count *= size

        def mean(value: int) -> int:
            return graph.add("reduce_mean", (value,), (*graph.shape(value)[:-1], 1))

        x = _along_last(translation, x, axis, mean)
    if factor(count) != 1.0:
        x = graph.binary("multiply", x, graph.scalar(factor(count)))
    return graph.reshape(x, translation.shape(node))


@_handles(aten.mean)
def _mean(translation: Translation, node: fx.Node) -> int:
    return _reduced(translation, node, lambda _: 1.0)


@_handles(aten.sum)
def _sum(translation: Translation, node: fx.Node) -> int:
    return _reduced(translation, node, float)


@_handles(aten.masked_fill)
def _masked_fill(translation: Translation, node: fx.Node) -> int:
    x, mask, number = node.args
    if translation.is_data(mask) or not isinstance(number, int | float):
        raise translation.fail(node, "a mask that depends on an input's numbers")
    graph = translation.graph
    fill = max(float(number), MASKED_SCORE)
    hidden = translation.value(mask)
    if number <= _LEAST_SCORE:
        return graph.binary("add", translation.value(x), graph.binary("multiply", hidden, graph.scalar(fill)))
    shown = graph.binary("subtract", graph.scalar(1.0), hidden)
    kept = graph.binary("multiply", translation.value(x), shown)
    return graph.binary("add", kept, graph.binary("multiply", hidden, graph.scalar(fill)))


@_handles(aten.where)
def _where(translation: Translation, node: fx.Node) -> int:
    condition, a, b = node.args
    if translation.is_data(condition):
        raise translation.fail(node, "a condition that depends on an input's numbers")
    graph = translation.graph
    first = translation.value(condition)
    second = graph.binary("subtract", graph.scalar(1.0), first)
    a_value, b_value = _finite(graph, translation.value(a)), _finite(graph, translation.value(b))
    return graph.binary("add", graph.binary("multiply", a_value, first), graph.binary("multiply", b_value, second))


def _finite(graph: Graph, value: int) -> int:
    node = graph[value]
    if node.op == "constant" and node.values is not None and not torch.isfinite(node.values).all():
        return graph.constant(node.values.clamp(MASKED_SCORE, -MASKED_SCORE))
    return value


# --- Layers.


def _linear_of(translation: Translation, node: fx.Node, x: int, weight: Any, bias: Any, turned: bool = False) -> int:
    """x W^T + bias with a constant W; `turned`: it is given as W^T."""
    graph = translation.graph
    layer = translation.layer(node, weight)
    if turned:
        values = translation.folding.value(weight).t()
        stored = translation.stored(translation.folding.names.get(weight, f"{layer}.weight"), values)
    else:
        stored = translation.weight(weight, layer, "weight")
    inputs = [x, stored]
    if bias is not None:
        inputs.append(translation.weight(bias, layer, "bias"))
    return graph.add("linear", inputs, (*graph.shape(x)[:-1], graph.shape(stored)[0]), layer)


@_handles(aten.linear)
def _linear(translation: Translation, node: fx.Node) -> int:
    x, weight, bias = node.args[0], node.args[1], _argument(node, 2, "bias")
    if translation.is_data(weight) or translation.is_data(bias):
        raise translation.fail(node, "a weight that depends on an input's numbers")
    return _linear_of(translation, node, translation.value(x), weight, bias)


@_handles(aten.addmm)
def _addmm(translation: Translation, node: fx.Node) -> int:
    bias, x, weight = node.args[:3]
    if translation.is_data(weight) or translation.is_data(bias) or node.kwargs:
        raise translation.fail(node, "a weight that depends on an input's numbers, or alpha and beta")
    return _linear_of(translation, node, translation.value(x), weight, bias, turned=True)


@_handles(aten.matmul, aten.mm, aten.bmm)
def _matmul(translation: Translation, node: fx.Node) -> int:
    a, b = node.args[:2]
    graph = translation.graph
    if not translation.is_data(b) and b.meta["val"].dim() == 2 and translation.folding.kinds[b] == "constant":  # type: ignore[union-attr]
        return _linear_of(translation, node, translation.value(a), b, None, turned=True)
    left, right = translation.value(a), translation.value(b)
    if min(len(graph.shape(left)), len(graph.shape(right))) < 2:
        raise translation.fail(node, "a product with a vector")
    return matmul(graph, left, right)


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


@_handles(aten.embedding)
def _embedding(translation: Translation, node: fx.Node) -> int:
    weight, ids = node.args[:2]
    if translation.is_data(weight):
        raise translation.fail(node, "a table that depends on an input's numbers")
    layer = translation.layer(node, weight)
    stored = translation.weight(weight, layer, "weight")  # type: ignore[arg-type]
    return _gathered(translation, node, layer, stored, ids)


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
    x, weight, scale, bias, input_range, output_range, dtype, mode, group_size = node.args
    graph = translation.graph
    layer = translation.layer(node, weight)
    stored = _quantized(translation, weight, scale, dtype)  # type: ignore[arg-type]
    translation.quantized[layer] = (dtype, mode, group_size)  # type: ignore[assignment]
    if input_range is not None:
        ranges = (translation.folding.value(input_range), translation.folding.value(output_range))  # type: ignore[arg-type]
        translation.activations[layer] = ranges
    inputs = [translation.value(x), stored]
    if bias is not None:
        inputs.append(translation.weight(bias, layer, "bias"))  # type: ignore[arg-type]
    return graph.add("linear", inputs, (*graph.shape(inputs[0])[:-1], graph.shape(stored)[0]), layer)


def _quantized_embedding(translation: Translation, node: fx.Node) -> int:
    ids, weight, scale, dtype, group_size = node.args[:5]
    layer = translation.layer(node, weight)
    stored = _quantized(translation, weight, scale, dtype)  # type: ignore[arg-type]
    translation.quantized[layer] = (dtype, "weight_only", group_size)  # type: ignore[assignment]
    return _gathered(translation, node, layer, stored, ids)


def register_quantized() -> None:
    """Once the operators of diffulex_edge.quant exist."""
    import diffulex_edge.quant._ops  # noqa: F401

    _HANDLERS[torch.ops.diffulex_edge.quantized_linear] = _quantized_linear
    _HANDLERS[torch.ops.diffulex_edge.quantized_embedding] = _quantized_embedding


@_handles(aten.layer_norm, aten.native_layer_norm)
def _layer_norm(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x, shape = translation.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    weight, bias = _argument(node, 2, "weight"), _argument(node, 3, "bias")
    epsilon = _argument(node, 4, "eps", 1e-5)
    if len(shape) != 1:
        raise translation.fail(node, "a norm over several dimensions")
    layer = translation.layer(node, weight) or node.name
    inputs = [x]
    if weight is not None or bias is not None:
        inputs.append(
            translation.weight(weight, layer, "weight")
            if weight is not None
            else translation.stored(f"{layer}.weight", torch.ones(shape))
        )
    if bias is not None:
        inputs.append(translation.weight(bias, layer, "bias"))
    return graph.add("layer_norm", inputs, graph.shape(x), layer, epsilon=float(epsilon))


@_handles(aten.rms_norm)
def _rms_norm(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    x, shape = translation.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    weight, epsilon = _argument(node, 2, "weight"), _argument(node, 3, "eps")
    if len(shape) != 1:
        raise translation.fail(node, "a norm over several dimensions")
    layer = translation.layer(node, weight) or node.name
    stored = (
        translation.weight(weight, layer, "weight")
        if weight is not None
        else translation.stored(f"{layer}.weight", torch.ones(shape))
    )
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else float(epsilon)
    return graph.add("rms_norm", (x, stored), graph.shape(x), layer, epsilon=epsilon)


# --- Attention.


@_handles(aten.scaled_dot_product_attention)
def _attention(translation: Translation, node: fx.Node) -> int:
    graph = translation.graph
    q, k, v = (translation.value(operand) for operand in node.args[:3])
    mask = _argument(node, 3, "attn_mask")
    if _argument(node, 4, "dropout_p", 0.0):
        raise translation.fail(node, "dropout is active (call model.eval() before the export)")
    is_causal = _argument(node, 5, "is_causal", False)
    scale = node.kwargs.get("scale")
    scale = 1.0 / math.sqrt(graph.shape(q)[-1]) if scale is None else float(scale)
    single_k, single_v = _patterns.repeated_heads(graph, k), _patterns.repeated_heads(graph, v)
    if graph.shape(single_k) == graph.shape(single_v):
        k, v = single_k, single_v
    is_composite = (
        len(graph.shape(q)) == 4
        and graph.shape(q)[0] == graph.shape(k)[0] == 1
        and graph.shape(q)[2:] == graph.shape(k)[2:]
        and graph.shape(k) == graph.shape(v)
    )
    bias = _mask(translation, node, mask, is_causal, q, k, as_matrix=is_composite)
    if is_composite and (bias is None or math.prod(graph.shape(bias)[:-2]) == 1):
        return _composite_attention(graph, q, k, v, bias, scale)
    return _spelled_attention(translation, node, q, k, v, bias, scale)


def _composite_attention(graph: Graph, q: int, k: int, v: int, bias: int | None, scale: float) -> int:
    def by_position(value: int) -> int:
        _, heads, seq, size = graph.shape(value)
        return graph.reshape(graph.transpose(value, [0, 2, 1, 3]), (seq, heads, size))

    _, heads, seq, size = graph.shape(q)
    inputs = [by_position(q), by_position(k), by_position(v)] + ([] if bias is None else [bias])
    mixed = graph.add("attention", inputs, (1, seq, heads * size), scale=scale)
    return graph.transpose(graph.reshape(mixed, (1, seq, heads, size)), [0, 2, 1, 3])


def _spelled_attention(
    translation: Translation, node: fx.Node, q: int, k: int, v: int, bias: int | None, scale: float
) -> int:
    graph = translation.graph
    groups = graph.shape(q)[-3] // graph.shape(k)[-3] if len(graph.shape(q)) > 2 else 1
    if groups > 1:
        k, v = (_repeated(graph, value, groups) for value in (k, v))
    scaled = graph.binary("multiply", q, graph.scalar(scale))
    axes = list(range(len(graph.shape(k))))
    axes[-1], axes[-2] = axes[-2], axes[-1]
    scores = matmul(graph, scaled, graph.transpose(k, axes))
    if bias is not None:
        scores = graph.binary("add", scores, bias)
    return matmul(graph, graph.unary("softmax", scores), v)


def _repeated(graph: Graph, value: int, copies: int) -> int:
    shape = graph.shape(value)
    apart = graph.reshape(value, (*shape[:-2], 1, *shape[-2:]))
    ones = graph.constant(torch.ones(copies, 1, 1))
    return graph.reshape(graph.binary("multiply", apart, ones), (*shape[:-3], shape[-3] * copies, *shape[-2:]))


def _mask(
    translation: Translation, node: fx.Node, mask: Any, is_causal: bool, q: int, k: int, as_matrix: bool
) -> int | None:
    """What is added to the scores: None, or a value that broadcasts to them, [seq, seq] where `as_matrix` allows it."""
    graph, folding = translation.graph, translation.folding
    rows, columns = graph.shape(q)[-2], graph.shape(k)[-2]
    if mask is None and not is_causal:
        return None
    if mask is not None and translation.is_data(mask):
        value = translation.value(mask)
        is_matrix = as_matrix and math.prod(graph.shape(value)[:-2]) == 1
        # Backends can't change the shape of what has two dimensions that vary; attention takes it with ones in front.
        varies = graph.shape(value)[-2:].count(SEQUENCE) == 2
        return graph.reshape(value, graph.shape(value)[-2:]) if is_matrix and not varies else value
    masks = {}
    for length in folding.lengths() if folding.symbol is not None else [1]:
        size = (length if rows == SEQUENCE else rows, length if columns == SEQUENCE else columns)
        masks[length] = torch.ones(size).tril().bool() if mask is None else folding.value(mask, length)
    if rows == SEQUENCE or columns == SEQUENCE:
        return _block_mask(translation, node, masks)
    (additive,) = (_additive(value) for value in masks.values())
    if not additive.any():
        return None
    is_matrix = as_matrix and math.prod(additive.shape[:-2]) == 1
    if not is_matrix:
        return graph.constant(additive)
    matrix = additive.reshape(additive.shape[-2:]).expand(rows, columns)
    return graph.shared_constant(matrix)


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, MASKED_SCORE)
    return mask.to(torch.float32).clamp(min=MASKED_SCORE)


def _block_mask(translation: Translation, node: fx.Node, masks: dict[int, Tensor]) -> int | None:
    """The block-causal mask that all of these are, for sequences of these lengths; None where they hide nothing."""
    blocks = set()
    for length, mask in masks.items():
        additive = _additive(mask)
        hidden = additive <= _LEAST_SCORE
        plain = torch.equal(additive == 0.0, ~hidden) and math.prod(additive.shape[:-2]) == 1
        matrix = hidden.reshape(hidden.shape[-2:]).expand(length, length) if plain else None
        block = int((~matrix[0]).sum()) if matrix is not None else 0
        position = torch.arange(length)
        wanted = position // max(block, 1) > (position // max(block, 1)).unsqueeze(1)
        if matrix is None or not torch.equal(matrix, wanted):
            raise translation.fail(
                node, "an attention mask that is not block-causal, for sequences of varying length (export with a "
                "fixed length, or give the mask as an input)"
            )  # fmt: skip
        if block < length:
            blocks.add(block)
    if not blocks:
        return None
    if len(blocks) > 1:
        raise translation.fail(node, "an attention mask that changes with the length of the sequence")
    graph = translation.graph
    positions = graph.add("positions", (translation._reference(node),), (SEQUENCE,))
    return graph.add("block_causal_mask", (positions,), (SEQUENCE, SEQUENCE), block_length=blocks.pop())
