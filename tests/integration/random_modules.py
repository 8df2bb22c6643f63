"""Random modules as source text, from the operators that exports support, with random arguments.

Each line is run by PyTorch as it is drawn, which gives the shapes for the next one; a line that PyTorch refuses, or
whose numbers are large or not finite, is dropped. As a program, it compares as many modules as one likes:

    python tests/integration/random_modules.py --count 10000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import functools
import linecache
import math
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from module_runs import BACKENDS, export, run
from torch import Tensor, nn
from torch.export import exported_program

from diffulex_edge import InvalidArgumentError, UnsupportedError
from diffulex_edge.frontend._functional import functional

#: Values beyond it are not looked at: differences of rounding grow with them.
_LARGEST = 200.0

Draw = Any


@dataclass
class Program:
    """Lines of a `forward`, the tensors that they call `self.c0`, ..., and example inputs."""

    inputs: dict[str, Tensor]
    lines: list[str] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    output: str = ""

    @property
    def source(self) -> str:
        body = [*self.lines, f"return {self.output}"]
        return f"def forward(self, {', '.join(self.inputs)}):\n" + "".join(f"    {line}\n" for line in body)

    def __repr__(self) -> str:
        shapes = {**self.inputs, **{f"self.{name}": value for name, value in self.constants.items()}}
        listed = ", ".join(f"{name}: {tuple(value.shape)} {value.dtype}" for name, value in shapes.items())
        return f"# {listed}\n{self.source}"

    def module(self) -> nn.Module:
        return RandomModule(self).eval()


class RandomModule(nn.Module):
    """A program's lines as a module; constants that are floating-point are parameters, others buffers."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        for name, value in program.constants.items():
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())
        name = "<random module>"
        linecache.cache[name] = (len(program.source), None, program.source.splitlines(keepends=True), name)
        scope: dict[str, Any] = {"torch": torch, "F": nn.functional, "math": math}
        exec(compile(program.source, name, "exec"), scope)
        self._function = scope["forward"]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(self, *inputs)


class _Builder:
    """A program while it's drawn: the values so far, and what the next line may take from them."""

    def __init__(self, draw: Draw, inputs: dict[str, Tensor]) -> None:
        self.draw = draw
        self.program = Program(inputs)
        self.holder = nn.Module()
        self.scope: dict[str, Any] = {name: value.clone() for name, value in inputs.items()}
        self.scope.update(self=self.holder, torch=torch, F=nn.functional, math=math)
        self.names = [name for name, value in inputs.items() if value.is_floating_point()]
        self._seed = 100

    def one(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def number(self) -> float:
        return self.one([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 3.0, 1, 2, -2])

    def value(self) -> str:
        """A value, the last one more often than not."""
        return self.names[-1] if self.one([True, True, False]) else self.one(self.names)

    def of(self, name: str) -> Tensor:
        return self.scope[name]

    def dim(self, name: str, extra: int = 0) -> int:
        rank = self.of(name).dim() + extra
        return self.one(range(-rank, rank)) if rank else -1

    def constant(self, *shape: int, kind: str = "float") -> str:
        name = f"c{len(self.program.constants)}"
        generator = torch.Generator().manual_seed(self._seed + len(self.program.constants))
        value = torch.randn(shape, generator=generator)
        if kind == "bool":
            value = value > self.one([-0.5, 0.0, 1.0])
        self.program.constants[name] = value
        setattr(self.holder, name, value)
        return f"self.{name}"

    def broadcastable(self, name: str) -> tuple[int, ...]:
        shape = tuple(self.one([size, size, 1]) for size in self.of(name).shape)
        return shape[self.one(range(len(shape) + 1)) :]

    def other(self, name: str) -> str:
        """An operand that may go with a value: another one, a constant, or a number."""
        kind = self.one(["value", "constant", "number", "itself"])
        if kind == "value":
            return self.one(self.names)
        if kind == "constant":
            return self.constant(*self.broadcastable(name))
        return name if kind == "itself" else repr(self.number())

    def line(self, expression: str, *, write: bool = False) -> None:
        """Adds a line, if PyTorch runs it and its numbers are of use."""
        name = f"v{len(self.program.lines)}"
        text = expression if write else f"{name} = {expression}"
        if any(text == known.partition(" = ")[2] for known in self.program.lines):
            return
        before = {key: value for key, value in self.scope.items() if isinstance(value, Tensor)}
        copies = {key: value.clone() for key, value in before.items()} if write else {}
        try:
            with torch.no_grad():
                exec(text, self.scope)
        except Exception:
            if write:
                self._reset(copies)
            return
        touched = [self.scope[n] for n in self.names] if write else [self.scope[name]]
        if not all(_is_usable(value) for value in touched):
            if write:
                self._reset(copies)
            return
        self.program.lines.append(text)
        if not write:
            self.names.append(name)

    def _reset(self, copies: dict[str, Tensor]) -> None:
        for key, value in copies.items():
            if key in self.names:
                self.scope[key].copy_(value) if not torch.equal(self.scope[key], value) else None

    def finished(self) -> Program:
        """The program, without constants of lines that were dropped."""
        text = self.program.source
        constants = self.program.constants.items()
        self.program.constants = {name: value for name, value in constants if re.search(rf"self\.{name}\b", text)}
        return self.program


def _is_usable(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == torch.float32
        and 0 < value.numel() <= 512
        and value.dim() <= 5
        and bool(torch.isfinite(value).all())
        and float(value.abs().max()) < _LARGEST
    )


# --- Lines. Each function draws one.


def _unary(b: _Builder) -> None:
    x = b.value()
    name = b.one(["neg", "square", "sigmoid", "tanh", "exp", "sin", "cos", "relu", "clone", "contiguous", "detach"])
    b.line(f"{x}.{name}()")


def _positive(b: _Builder) -> None:
    """Operators whose operand must not be near 0."""
    x = f"({b.value()}.square() + 0.5)"
    b.line(b.one([f"{x}.sqrt()", f"{x}.rsqrt()", f"{x}.reciprocal()", f"1.0 / {x}", f"{b.value()} / {x}",
                  f"torch.div({b.value()}, {x}, rounding_mode=None)", f"{x}.pow(-0.5)", f"{x} ** 0.5",
                  f"torch.true_divide({b.value()}, {b.number()})"]))  # fmt: skip


def _floor(b: _Builder) -> None:
    x = b.value()
    distance = (b.of(x) - b.of(x).round()).abs().min()
    if distance > 1e-2:
        b.line(f"{x}.floor()")


def _activation(b: _Builder) -> None:
    x = b.value()
    b.line(b.one([
        f"F.gelu({x})", f"F.gelu({x}, approximate={b.one(['none', 'tanh'])!r})", f"F.silu({x})", f"F.relu6(4 * {x})",
        f"F.hardtanh({x})", f"F.hardtanh({x}, {b.one([-2.0, -0.5])}, {b.one([0.25, 3.0])})",
        f"F.hardtanh({x}, max_val={b.one([0.25, 3.0])})", f"{x}.softmax({b.dim(x)})",
        f"torch.softmax({x}, dim={b.dim(x)}, dtype=torch.float32)", f"F.dropout({x}, 0.3, False)",
    ]))  # fmt: skip


def _clamp(b: _Builder) -> None:
    x, low, high = b.value(), b.one([None, -1.0, -0.2, 0, 2]), b.one([None, 0.7, 0.3, -0.5, 1])
    b.line(b.one([f"{x}.clamp({low}, {high})", f"{x}.clamp(max={high})", f"torch.clamp({x}, min={low})",
                  f"{x}.clamp_min({low or 0.1})", f"{x}.clamp_max({high or 0.1})"]))  # fmt: skip


def _pow(b: _Builder) -> None:
    b.line(f"{b.value()} ** {b.one([2, 3, 2.0, 1, True])}")


def _binary(b: _Builder) -> None:
    x = b.value()
    y, alpha = b.other(x), b.one([1, 2, -1, 0.5, 3.0, 0])
    b.line(b.one([
        f"{x} + {y}", f"{x} - {y}", f"{y} - {x}", f"{x} * {y}", f"torch.add({x}, {y}, alpha={alpha})",
        f"torch.sub({x}, {y}, alpha={alpha})", f"torch.rsub({x}, {y}, alpha={alpha})", f"{x}.add({y}, alpha={alpha})",
        f"{x} / ({b.number()} + 4.5)", f"torch.mul({x}, {y})",
    ]))  # fmt: skip


def _shape(b: _Builder) -> None:
    x = b.value()
    shape, rank = list(b.of(x).shape), b.of(x).dim()
    order = b.draw(st.permutations(range(rank)))
    sizes = _factors(b, b.of(x).numel())
    a, c = b.dim(x), b.dim(x)
    ones = [b.one([1, 2]) if size == 1 else b.one([size, -1]) for size in shape]
    b.line(b.one([
        f"{x}.view({sizes})", f"{x}.reshape({sizes})", f"{x}.reshape(-1)", f"{x}.flatten({a}, {c})",
        f"{x}.unsqueeze({b.dim(x, 1)})",
        f"{x}.squeeze()", f"{x}.squeeze({a})", f"{x}.transpose({a}, {c})", f"torch.swapaxes({x}, {a}, {c})",
        f"torch.transpose({x}, dim0={a}, dim1={c})", f"{x}.permute({list(order)})", f"{x}.mT", f"{x}.T", f"{x}.t()",
        f"{x}.expand({[b.one([1, 2]), *ones]})", f"{x}.expand({ones})", f"torch.broadcast_to({x}, {[2, *shape]})",
        f"{x}.repeat({[b.one([1, 2]) for _ in range(rank + b.one([0, 1]))]})", f"{x}.movedim({a}, {c})",
        f"{x}.repeat_interleave({b.one([1, 2])}, dim={a})", f"{x}.repeat_interleave(2)",
        f"{x}.unflatten({a}, (-1, {b.one([1, 2, 3])}))",
        f"{x}.view_as({b.value()})", f"{x}.expand_as({b.value()})", f"{x}.to(torch.float64).to(torch.float32)",
        f"{x}.type_as({b.value()})",
    ]))  # fmt: skip


def _factors(b: _Builder, count: int) -> list[int]:
    sizes = []
    while len(sizes) < 4 and count > 1:
        size = b.one([n for n in range(1, count + 1) if count % n == 0])
        sizes.append(size)
        count //= size
    return sizes + ([count] if count > 1 or not sizes else [])


def _part(b: _Builder) -> str:
    """An expression that takes a part of a value."""
    x = b.value()
    shape = b.of(x).shape
    if not shape:
        return f"{x}.view(1)"
    axis = b.one(range(len(shape)))
    size = shape[axis]
    begin, end = b.one(range(-size, size)), b.one([*range(-size, size + 1), None, size + 3])
    text = b.one([f"{begin}:{'' if end is None else end}", f"{begin}:", f":{'' if end is None else end}", str(begin),
                  f"{begin}:{'' if end is None else end}:{b.one([1, 2])}"])  # fmt: skip
    index = ", ".join([":"] * axis + [text])
    count = b.one([1, 2, 3])
    return b.one([
        f"{x}[{index}]", f"{x}[{index}]", f"{x}[..., {begin}:]", f"{x}[:, None]",
        f"{x}.narrow({axis}, {begin}, {b.one([1, 2])})", f"{x}.select({axis - len(shape)}, {begin})",
        f"{x}.chunk({count}, {axis})[-1]", f"{x}.split({count}, dim={axis - len(shape)})[-1]",
        f"torch.tensor_split({x}, {count}, dim={axis})[0]", f"torch.tensor_split({x}, [1, {size}], {axis})[1]",
        f"{x}.unbind({axis})[{b.one([0, -1])}]", f"{x}.split([1, {size - 1}], {axis})[1]",
    ])  # fmt: skip


def _slice(b: _Builder) -> None:
    b.line(_part(b))


def _joined(b: _Builder) -> None:
    x, y = b.value(), b.one([b.value(), b.value()])
    z = f"torch.full_like({x}, {b.number()})"
    parts = b.one([[x, y], [x, x], [x, z], [z, x, x], [x, y, x]])
    b.line(f"torch.{b.one(['cat', 'stack', 'concat'])}([{', '.join(parts)}], dim={b.dim(x)})")


def _reduced(b: _Builder) -> None:
    x = b.value()
    rank = b.of(x).dim()
    several = sorted({b.one(range(-rank, rank)) for _ in range(2)}) if rank else []
    keep = b.one([True, False])
    name = b.one(["mean", "sum"])
    b.line(b.one([f"{x}.{name}()", f"{x}.{name}({b.dim(x)}, keepdim={keep})",
                  f"{x}.{name}(dim={several}, keepdim={keep})",
                  f"{x}.{name}({b.dim(x)})", f"torch.{name}({x}, dim={b.dim(x)}, dtype=torch.float32)"]))  # fmt: skip


def _chosen(b: _Builder) -> None:
    x = b.value()
    mask, number = b.constant(*b.broadcastable(x), kind="bool"), b.one([0.0, -1.0, 100.0, -20000.0, 3])
    b.line(b.one([
        f"{x}.masked_fill({mask}, {number})", f"torch.where({mask}, {x}, {number})",
        f"torch.where({mask}, {number}, {x})",
        f"torch.where({mask}, {x}, {b.value()})", f"{x}.masked_fill({mask}, -math.inf).softmax(-1)",
        f"{x}.masked_fill({mask}, torch.finfo(torch.float32).min).softmax({b.dim(x)})",
        f"torch.where({mask}, {x}, -math.inf).softmax(-1)",
        f"({x} + torch.zeros({list(b.of(x).shape[-1:])}).masked_fill({mask}, -1e9)).softmax(-1)",
        f"{x} * {mask}",
    ]))  # fmt: skip


def _layer(b: _Builder) -> None:
    x = b.value()
    shape = b.of(x).shape
    size, out = (shape[-1] if shape else 1), b.one([1, 3, 4])
    bias = b.constant(out) if b.one([True, False]) else "None"
    weight, gain, shift = b.constant(out, size), b.constant(size), b.one([b.constant(size), "None"])
    epsilon = b.one([1e-5, 0.1, 1e-6])
    b.line(b.one([
        f"F.linear({x}, {weight}, {bias})", f"F.linear({x}, {weight}, {bias})", f"{x} @ {weight}.t()",
        f"torch.matmul({x}, {b.constant(size, out)})", f"torch.addmm({b.constant(out)}, {x}, {b.constant(size, out)})",
        f"torch.addmm({bias}, {x}, {weight}.t(), beta={b.one([1, 2])}, alpha={b.one([1, 0.5])})",
        f"torch.addmm({b.value()}, {x}, {weight}.t())", f"F.layer_norm({x}, ({size},), {gain}, {shift}, {epsilon})",
        f"F.layer_norm({x}, ({size},), None, {shift})", f"F.rms_norm({x}, ({size},), {gain}, eps={epsilon})",
        f"F.rms_norm({x}, ({size},))", f"{x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + {epsilon}) * {gain}",
        f"{gain} * ({x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + {epsilon}))", f"F.silu({x}) * {b.value()}",
    ]))  # fmt: skip


def _product(b: _Builder) -> None:
    x, y = b.value(), b.value()
    b.line(b.one([
        f"{x} @ {y}", f"{x} @ {y}.mT", f"torch.bmm({x}, {y}.mT)", f"torch.mm({x}, {y}.t())", f"{x}.mT @ {y}",
        f"torch.matmul({b.constant(3, b.of(x).shape[-2] if b.of(x).dim() > 1 else 1)}, {x})",
    ]))  # fmt: skip


def _embedding(b: _Builder) -> None:
    table = b.constant(10, b.one([3, 4, 8]))
    extra = b.one(
        ["", "", ", padding_idx=0", ", max_norm=1.0", ", max_norm=0.5, norm_type=1.0", ", scale_grad_by_freq=True"]
    )
    if "ids" in b.scope:
        b.line(f"F.embedding(ids, {table}{extra})")


def _attention(b: _Builder) -> None:
    heads, size, queries = b.one([1, 2, 4]), b.one([2, 4]), b.one([2, 3])
    keys, kv_heads = b.one([queries, queries, 4]), b.one([heads, 1])
    batch = b.one([1, 1, 2])
    x = b.value()
    count = batch * heads * queries * size
    q = f"F.linear({x}.reshape(1, -1), {b.constant(count, b.of(x).numel())}).view({batch}, {heads}, {queries}, {size})"
    b.line(q)
    q = b.names[-1]
    if b.of(q).shape != (batch, heads, queries, size):
        return
    k, v = b.constant(batch, kv_heads, keys, size), b.constant(batch, kv_heads, keys, b.one([size, size, 3]))
    if b.one([True, False]):
        b.line(f"{q}.mean(1, keepdim=True) * {k}[:, :, :1] + {k}")
        k = b.names[-1]
    mask = b.one(["None", b.constant(queries, keys, kind="bool"), b.constant(queries, keys),
                  b.constant(batch, 1, queries, keys, kind="bool"), b.constant(batch, heads, queries, keys),
                  b.constant(1, keys, kind="bool"), b.constant(keys),
                  f"torch.zeros({queries}, {keys}).masked_fill({b.constant(queries, keys, kind='bool')}, -math.inf)",
                  ])  # fmt: skip
    causal = "True" if mask == "None" and b.one([True, False]) else "False"
    scale, grouped = b.one(["None", "0.3", "2.0"]), kv_heads != heads
    b.line(f"F.scaled_dot_product_attention({q}, {k}, {v}, attn_mask={mask}, is_causal={causal}, scale={scale}, "
           f"enable_gqa={grouped})")  # fmt: skip


def _write(b: _Builder) -> None:
    target = b.one([b.value(), _part(b), _part(b)])
    mask = b.constant(*b.broadcastable(b.names[-1]), kind="bool")
    x, number = b.value(), b.number()
    calls = [f".add_({number})", f".mul_({x})", f".sub_({x}, alpha={b.one([1, 2])})", ".zero_()", f".fill_({number})",
             f".copy_({x})", ".relu_()", ".sigmoid_()", f".clamp_({b.one([None, -1.0])}, 0.5)", ".neg_()",
             f".masked_fill_({mask}, {number})",
             f".div_({number or 3.0})", ".view(-1).add_(1)", f".add_({x}, alpha=2)", f".fill_({x}.mean())"]  # fmt: skip
    assigned = [f"{target} = {number}", f"{target} = {x}", f"{target} += {x}", f"{target} *= {number}"]
    is_index = "[" in target and target.endswith("]")
    b.line(b.one(assigned) if is_index and b.one([True, False]) else target + b.one(calls), write=True)


def _rare(b: _Builder) -> None:
    """Operators and arguments that are refused, or were when this was written."""
    x, y = b.value(), b.value()
    a, size = b.dim(x), b.of(x).shape[-1] if b.of(x).dim() else 1
    b.line(b.one([
        f"{x}.abs()", f"({x}.square() + 0.5).log()", f"F.leaky_relu({x}, {b.one([0.01, 0.3])})", f"F.elu({x})",
        f"F.softplus({x})", f"F.log_softmax({x}, {a})", f"F.glu({x}, {a})", f"F.hardswish({x})", f"F.mish({x})",
        f"{x} ** {b.one([0, 4, 1.5])}", f"torch.maximum({x}, {y})", f"torch.minimum({x}, {y})", f"{x}.flip({a})",
        f"torch.addcmul({x}, {x}, {y}, value=2)", f"torch.lerp({x}, {y}, 0.3)", f"{x}.roll({b.one([1, -1])}, {a})",
        f"{x}.diagonal()", f"{x}[..., [0, -1]]", f"{x}.index_select({a}, torch.tensor([0]))", f"{x}.amax({a})",
        f"{x}.var({a}, keepdim=True)", f"{x}.std()", f"{x}.prod({a})", f"{x}.cumsum({a})", f"{x}.norm(dim={a})",
        f"torch.where({x} > 0.1, {x}, {y})", f"F.layer_norm({x}, {tuple(b.of(x).shape[-2:])})",
        f"F.linear({x}, {b.constant(size)})", f"torch.einsum('...i,...i->...', {x}, {y})",
        f"F.normalize({x}, dim={a})", f"F.pad({x}, (1, {b.one([0, 1])}))", f"{x}[..., ::2]",
        f"{x} @ {b.constant(size)}",
        f"torch.baddbmm({x}, {x}, {y}, beta=2, alpha=0.5)", f"{x} + torch.arange({size})", f"{x}.tril(-1)",
        f"torch.div({x}, 0.3, rounding_mode='floor')", f"{x}.triu()", f"F.softmax({x}, 0, dtype=torch.float64).float()",
        f"({x} * 3).to(torch.int32).float()", f"{x}.sum({a}, dtype=torch.float64).float()",
    ]))  # fmt: skip


def _constant_tensor(b: _Builder) -> None:
    x = b.value()
    shape = list(b.of(x).shape)
    b.line(b.one([f"torch.zeros_like({x})", f"torch.ones_like({x})", f"torch.full_like({x}, {b.number()})",
                  f"{x}.new_zeros({shape})",
                  f"torch.ones({shape})", f"torch.arange({shape[-1] if shape else 1}, dtype=torch.float32)",
                  f"{x}.new_full({shape}, {b.number()})"]))  # fmt: skip


_LINES = [
    _unary, _positive, _floor, _activation, _clamp, _pow, _binary, _binary, _shape, _shape, _shape, _slice, _slice,
    _joined,
    _reduced, _chosen, _layer, _layer, _product, _embedding, _attention, _write, _write, _constant_tensor,
]  # fmt: skip
#: Programs of which every value is looked at have no rare lines: one would be the end of all.
_ALL_LINES = [*_LINES, _rare, _rare]


@st.composite
def programs(draw: Draw) -> Program:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    sizes = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)
    shape = draw(sizes)
    inputs = {"x": torch.randn(shape, generator=generator)}
    if draw(st.booleans()):
        other = draw(st.sampled_from([shape, shape[-1:], [1] * len(shape), [2, *shape[1:]]]))
        inputs["y"] = torch.randn(other, generator=generator)
    if draw(st.sampled_from([True, False, False])):
        ids = torch.randint(0, 10, draw(st.sampled_from([(3,), (1, 4), (2, 3)])), generator=generator)
        inputs["ids"] = ids
    builder = _Builder(draw, inputs)
    if draw(st.booleans()):
        for _ in range(draw(st.integers(2, 9))):
            draw(st.sampled_from(_ALL_LINES))(builder)
        builder.program.output = builder.names[-1]
    else:
        for _ in range(draw(st.integers(4, 14))):
            draw(st.sampled_from(_LINES))(builder)
        builder.program.output = f"torch.cat([{', '.join(f'{name}.reshape(-1)' for name in builder.names)}])"
    return builder.finished()


# --- Comparing.


class DifferenceError(AssertionError):
    """An artefact that doesn't compute what PyTorch does, or an export that ends otherwise than it may."""


def check(program: Program, backends: list[str], counts: collections.Counter[str] | None = None) -> None:
    """Exports a program by each backend, runs it there and compares; an export that is refused in words is fine."""
    counts = collections.Counter() if counts is None else counts
    model, inputs = program.module(), tuple(program.inputs.values())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            traced = functional(torch.export.export(model, tuple(value.clone() for value in inputs)))
    except Exception:
        counts["torch.export refuses"] += 1
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend in backends:
            results[backend] = _made(program, traced, inputs, backend, Path(folder), counts)
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            raise DifferenceError(f"the export changed {name} of the module\n{program!r}")
    wanted, allowed = _wanted(program)
    for backend, made in results.items():
        if made is None:
            continue
        if made.shape != wanted.shape:
            raise DifferenceError(f"{backend}: the shape {tuple(made.shape)}, not {tuple(wanted.shape)}\n{program!r}")
        difference = float((made - wanted).abs().max())
        if not difference <= allowed:
            raise DifferenceError(f"{backend}: differs by {difference:g} of {float(wanted.abs().max()):g}\n{program!r}")


def _made(
    program: Program,
    traced: Any,
    inputs: tuple[Tensor, ...],
    backend: str,
    folder: Path,
    counts: collections.Counter[str],
) -> Tensor | None:
    try:
        result = export(traced, inputs, backend, folder)
    except Exception as error:
        raise DifferenceError(f"{backend}: {type(error).__name__} instead of a result: {error}\n{program!r}") from error
    if not result.success:
        if not isinstance(result.error, UnsupportedError | InvalidArgumentError) or not result.error_message:
            raise DifferenceError(f"{backend}: {type(result.error).__name__}: {result.error_message}\n{program!r}")
        counts[f"{backend} refuses"] += 1
        return None
    try:
        made = run(result, inputs, backend, folder)
    except Exception as error:
        raise DifferenceError(f"{backend}: the artefact doesn't run: {error}\n{program!r}") from error
    counts[f"{backend} compared"] += 1
    return made


def _wanted(program: Program) -> tuple[Tensor, float]:
    """PyTorch's output, and what another order of operations may change in it, by a run in double precision."""
    with torch.no_grad():
        wanted = program.module()(*(value.clone() for value in program.inputs.values()))
        try:
            precise = program.module().double()(
                *(v.double() if v.is_floating_point() else v.clone() for v in program.inputs.values())
            )
            noise = float((precise - wanted).abs().max())
        except RuntimeError:  # a line that names float32
            noise = 0.0
    return wanted, 1e-5 + 3e-4 * float(wanted.abs().max()) + 50 * noise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many modules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # A third of the time goes here, for the same set each time.
    exported_program._collect_all_valid_cia_ops = functools.cache(exported_program._collect_all_valid_cia_ops)
    counts: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()  # by their first lines, without numbers

    @seed(arguments.seed)
    @settings(max_examples=arguments.count, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(programs())
    def compare(program: Program) -> None:
        counts["modules"] += 1
        try:
            check(program, arguments.backends, counts)
        except DifferenceError as difference:
            kind = re.sub(r"[\d.e-]+", "#", str(difference).partition("\n")[0])
            failures[kind] += 1
            if failures[kind] < 3:
                print(f"--- {difference}", flush=True)
        if counts["modules"] % 100 == 0:
            print(f"{counts['modules']} modules, {failures.total()} failures", flush=True)

    compare()
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    print(f"{failures.total()} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
