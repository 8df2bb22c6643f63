"""Writes in place, arguments, state of modules: artefacts compute what PyTorch does, or exports say why not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")

from module_runs import BACKENDS, eager, export, run

from diffulex_edge import UnsupportedError
from diffulex_edge.frontend import aten as translated
from diffulex_edge.frontend._module import read_module
from diffulex_edge.frontend.aten.registry import HANDLERS, WITHOUT_EFFECT, Handler


class Case(nn.Module):
    """A function of a module with a linear layer and a buffer."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("state", torch.ones(4))
        self.calls = 0
        self.seen: list[int] = []
        self.last: Any = None
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def write(apply: Callable[[Tensor, Tensor], Any]) -> Callable[[Case, Tensor], Tensor]:
    """A function that changes what the linear layer gives, and returns it."""

    def function(model: Case, x: Tensor) -> Tensor:
        y = model.linear(x)
        apply(y, x)
        return y * 2.0

    return function


def _zero_column(y: Tensor, x: Tensor) -> None:
    y[:, 0] = 0


def _copy_column(y: Tensor, x: Tensor) -> None:
    y[:, 0] = x[:, 1]


def _last_columns(y: Tensor, x: Tensor) -> None:
    y[:, -2:] = x[:, :2] * 3.0


def _one_number(y: Tensor, x: Tensor) -> None:
    y[1, 2] = 7.0


def _pieces(y: Tensor, x: Tensor) -> None:
    first, second = y.chunk(2, dim=1)
    first += second
    second.mul_(2.0)


def _turned(y: Tensor, x: Tensor) -> None:
    y.t()[0].sub_(x[:, 0])


def _overlapping(y: Tensor, x: Tensor) -> None:
    y[:, 1:] += y[:, :-1].clone()


def _through_type_as(model: Case, x: Tensor) -> Tensor:
    y = model.linear(x)
    y.type_as(x)[:, 0].neg_()
    return y * 2.0


def _through_dropout(model: Case, x: Tensor) -> Tensor:
    y = model.linear(x)
    z = functional.dropout(y, 0.5, training=False)
    z += x
    return y * 2.0 + z


def _constant(model: Case, x: Tensor) -> Tensor:
    table = torch.zeros(4)
    table[0] = 5
    return model.linear(x) + table


def _assembled(model: Case, x: Tensor) -> Tensor:
    y = torch.empty(2, 6)
    y[:, :4] = model.linear(x)
    y[:, 4:] = x[:, :2]
    return y


def _filled(model: Case, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.add_(model.linear(x)).relu_()
    return y + torch.full_like(x, 3.0) * torch.ones_like(y)


def _state_written_first(model: Case, x: Tensor) -> Tensor:
    model.state.copy_(x[0])
    return model.linear(x) + model.state


def _state_not_read(model: Case, x: Tensor) -> Tensor:
    model.state.add_(1)
    return model.linear(x) * 2.0


def _state_always_the_same(model: Case, x: Tensor) -> Tensor:
    model.state[0] = 5
    return model.linear(x) + model.state


WRITES: dict[str, Callable[[Case, Tensor], Tensor]] = {
    "y[:, 0] = 0": write(_zero_column),
    "y[:, 0] = x[:, 1]": write(_copy_column),
    "y[:, -2:] = x[:, :2] * 3": write(_last_columns),
    "y[1, 2] = 7": write(_one_number),
    "y.view(8).add_(5)": write(lambda y, x: y.view(8).add_(5)),
    "y[..., :2].zero_()": write(lambda y, x: y[..., :2].zero_()),
    "y[:1].fill_(2)": write(lambda y, x: y[:1].fill_(2)),
    "y.unsqueeze(0)[0, 0].copy_(x[1])": write(lambda y, x: y.unsqueeze(0)[0, 0].copy_(x[1])),
    "y.copy_(y)": write(lambda y, x: y.copy_(y)),
    "y[0, 0].fill_(y[0, 0])": write(lambda y, x: y[0, 0].fill_(y[0, 0])),
    "chunk": write(_pieces),
    "y.t()[0].sub_(x[:, 0])": write(_turned),
    "y[:, 1:] += y[:, :-1]": write(_overlapping),
    "masked_fill_": write(lambda y, x: y[:, :2].masked_fill_(torch.tensor([True, False]), 4.0)),
    "type_as": _through_type_as,
    "dropout that is off": _through_dropout,
    "a constant": _constant,
    "empty": _assembled,
    "zeros_like": _filled,
    "a buffer that is written first": _state_written_first,
    "a buffer that is not read": _state_not_read,
    "a buffer that gets the same each time": _state_always_the_same,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRITES)
def test_writes_in_place_are_kept(tmp_path: Path, name: str, backend: str) -> None:
    model = Case(WRITES[name]).eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    result = export(model, (x,), backend, tmp_path)
    assert result.success, result.error_message
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the user's module was changed"
    wanted = eager(model, (x,))
    assert not torch.equal(wanted, model.linear(x))
    torch.testing.assert_close(run(result, (x,), backend, tmp_path), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("write", [lambda y: y.zero_(), lambda y: y[:, 1].fill_(2.0)])
def test_writes_to_elements_that_share_memory_are_refused(write: Callable[[Tensor], Any], tmp_path: Path) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2.0
        write(y.expand(3, 2, 4))
        return y

    result = export(Function(function), (torch.randn(2, 4),), "xnnpack", tmp_path)
    assert "share memory" in (result.error_message or "")


def test_writes_to_one_of_the_copies_of_an_expanded_tensor_are_kept(tmp_path: Path) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2.0
        copies = y.expand(3, 2, 4)
        copies[1].add_(x)
        return torch.cat([y, copies[2]])

    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    result = export(Function(function), (x,), "xnnpack", tmp_path)
    assert result.success, result.error_message
    torch.testing.assert_close(run(result, (x,), "xnnpack", tmp_path), torch.cat([3 * x, 3 * x]))


def _operands() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


HALF = torch.tensor([True, False, True, False])
ROW = torch.tensor([[True] * 4, [False, True, False, False]])

ARGUMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rsub alpha": lambda a, b: torch.rsub(a, b, alpha=2),
    "rsub of a number": lambda a, b: torch.rsub(a, 3, alpha=2) + b,
    "add alpha": lambda a, b: torch.add(a, b, alpha=-0.5),
    "sub alpha": lambda a, b: torch.sub(a, b, alpha=3),
    "hardtanh": lambda a, b: functional.hardtanh(3 * a) + functional.hardtanh(3 * b, -2.0, 0.5),
    "relu6": lambda a, b: functional.relu6(20 * a) - b,
    "narrow from behind": lambda a, b: torch.narrow(a, -1, -2, 2) - b[:, :2],
    "addmm with a matrix": lambda a, b: torch.addmm(torch.full((2, 4), 0.5), a, torch.eye(4)) * b,
    "swapaxes by name": lambda a, b: torch.swapaxes(a, axis0=0, axis1=1) * b.t(),
    "single numbers": lambda a, b: a * b.mean().sigmoid() + torch.stack([a[0, 0], b.sum()])[:, None],
    "a softmax of a single number": lambda a, b: a * b[0, 0].softmax(0) + b.sum() * 2.0,
    "masked_fill that is no mask": lambda a, b: a.masked_fill(HALF, -20000.0) + b,
    "masked_fill that hides a row": lambda a, b: a.masked_fill(ROW, -20000.0).softmax(-1) + b,
    "masked_fill by a tensor": lambda a, b: a.masked_fill(HALF, torch.tensor(3.0)) + b,
    "masked_fill before a softmax": lambda a, b: a.masked_fill(HALF, -math.inf).unsqueeze(0).softmax(-1)[0] * b,
    "where before a softmax": lambda a, b: torch.where(HALF, a, -math.inf).softmax(-1) * b,
    "cat with nothing": lambda a, b: torch.cat([a, torch.empty(0), b], dim=1),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_used(tmp_path: Path, name: str, backend: str) -> None:
    model, inputs = Function(ARGUMENTS[name]).eval(), _operands()
    result = export(model, inputs, backend, tmp_path)
    assert result.success, result.error_message
    torch.testing.assert_close(run(result, inputs, backend, tmp_path), eager(model, inputs), rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "addmm alpha": (lambda a, b: torch.addmm(b, a, torch.eye(4), alpha=2), "not with alpha=2"),
    "addmm beta": (lambda a, b: torch.addmm(b, a, torch.eye(4), beta=2), "not with beta=2"),
    "div rounding": (lambda a, b: torch.div(a, b, rounding_mode="floor"), "not with rounding_mode=floor"),
    "the same bits": (lambda a, b: a.view(torch.int32).view(torch.float32) + b, "not supported"),
    "integers": (lambda a, b: a + torch.tensor([1, 2, 3, 4]) * b.int(), "conversion"),
    "random numbers": (lambda a, b: a + torch.rand(4) * b, "random numbers"),
    "division by zero": (lambda a, b: (a / 0.0).clamp(-1.0, 1.0) + b, "division by 0"),
    "a weight that is an input": (lambda a, b: functional.linear(a, b), "a weight"),
    "a norm's weight that is an input": (lambda a, b: functional.layer_norm(a, (4,), b[0]), "a weight"),
    "-inf": (lambda a, b: a.masked_fill(HALF, -math.inf).clamp(min=-1.0) + b, "infinite"),
    "inf": (lambda a, b: torch.where(HALF, a, math.inf).clamp(max=1.0) + b, "infinite"),
    "an integer output": (lambda a, b: a.argmax(-1) + 0 * b[:, 0].long(), "at "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_arguments_are_refused_with_the_line(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        read_module(Function(function).eval(), _operands())
    assert reason in str(caught.value)
    assert "test_module_writes.py" in str(caught.value)


def test_every_operator_declares_its_arguments() -> None:
    """What a handler reads is an argument of some overload, and some overload needs nothing else."""
    translated.register_quantized()
    known: dict[Handler, set[str]] = {}
    for target, handler in HANDLERS.items():
        overloads = _overloads(target)
        names = [{a.name for a in overload._schema.arguments} for overload in overloads]
        needed = [{a.name for a in o._schema.arguments if not a.has_default_value()} for o in overloads]
        known.setdefault(handler, set()).update(*names)
        assert not overloads or any(some - WITHOUT_EFFECT <= handler.reads for some in needed), target
    for handler, names in known.items():
        assert handler.reads <= names, handler


def _overloads(target: Any) -> list[Any]:
    """Those on tensors that write to none."""
    if isinstance(target, torch._ops.OpOverload):
        return [target]
    found = [getattr(target, name) for name in getattr(target, "overloads", list)()]
    return [overload for overload in found if _takes_tensors(overload)]


def _takes_tensors(overload: Any) -> bool:
    schema = overload._schema
    return "Tensor" in str(schema) and not schema.is_mutable and "Dimname" not in str(schema)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_an_embedding_with_max_norm(tmp_path: Path, backend: str, norm: float) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Embedding(12, 8, max_norm=0.7, norm_type=norm), nn.Linear(8, 4)).eval()
    ids = torch.tensor([[3, 0, 11, 3]])
    before = model[0].weight.detach().clone()
    result = export(model, (ids,), backend, tmp_path)
    assert result.success, result.error_message
    assert torch.equal(model[0].weight, before)
    for given in (ids, torch.tensor([[7, 1, 2, 10]])):  # rows that the example did not read
        wanted = eager(copy.deepcopy(model), (given,))
        torch.testing.assert_close(run(result, (given,), backend, tmp_path), wanted, rtol=1e-5, atol=1e-6)
    assert float(before.norm(norm, dim=-1).min()) > 0.7


def test_a_table_with_max_norm_is_no_head_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(12, 8, max_norm=0.7)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids) @ self.table.weight.t()

    with pytest.raises(UnsupportedError, match=r"max_norm|table\.weight"):
        read_module(Tied().eval(), (torch.tensor([[1, 2]]),))


MASKS = {
    "bool": torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    "float": torch.tensor([[0.0, -math.inf, -1.0], [-math.inf] * 3, [0.5, 0.0, 0.0]]),
    "bool per head": torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(4)) > 0.8,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 2, 3, 4)], ids=["one sequence", "two sequences"])
def test_a_query_that_sees_nothing_gets_zeros(tmp_path: Path, backend: str, mask: str, shape: tuple[int, ...]) -> None:
    given = MASKS[mask]
    model = Function(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=given)).eval()
    inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(5)),)
    result = export(model, inputs, backend, tmp_path)
    assert result.success, result.error_message
    wanted = eager(model, inputs)
    assert (wanted == 0).all(dim=-1).any()
    torch.testing.assert_close(run(result, inputs, backend, tmp_path), wanted, rtol=1e-5, atol=1e-6)


def _counted(model: Case, x: Tensor) -> Tensor:
    model.state.add_(1)
    return model.linear(x) + model.state


def _doubled(model: Case, x: Tensor) -> Tensor:
    y = model.linear(x) + model.state
    model.state.mul_(2)
    return y


def _kept_from_the_last_run(model: Case, x: Tensor) -> Tensor:
    y = model.linear(x) + model.state
    model.state.copy_(x[0])
    return y


@pytest.mark.parametrize("function", [_counted, _doubled, _kept_from_the_last_run])
def test_state_between_runs_is_refused(function: Callable[[Case, Tensor], Tensor]) -> None:
    model = Case(function).eval()
    with pytest.raises(UnsupportedError, match="forward changes the buffer state") as caught:
        read_module(model, (torch.randn(2, 4),))
    assert "test_module_writes.py" in str(caught.value)
    assert torch.equal(model.state, torch.ones(4))


def _assigns(model: Case, x: Tensor) -> Tensor:
    model.calls += 1
    model.seen.append(x.shape[0])
    model.last = model.linear(x)
    return model.last + 1.0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_attributes_of_the_module_stay(tmp_path: Path) -> None:
    model = Case(_assigns).eval()
    model.linear.weight.requires_grad_(False)
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    export(model, (torch.randn(2, 4),), "xnnpack", tmp_path)
    assert (model.calls, model.seen, model.last) == (0, [], None)
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert list(model._forward_hooks) == [handle.id]
    assert not model.training


def test_an_input_that_is_changed_in_place_is_told() -> None:
    program = read_module(Function(lambda x: x.mul_(2.0) + 1.0).eval(), (torch.randn(2, 4),))
    assert any("changes it in place" in warning for warning in program.warnings)


def test_writes_with_a_sequence_that_varies(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            y[..., 0] = 0
            y[:, :, 1:3] += torch.ones_like(y)[..., 1:3] * torch.arange(y.shape[1])[:, None]
            return y

    model = Model().eval()
    dim = torch.export.Dim("sequence", min=2, max=16)
    result = export(model, (torch.randn(1, 6, 4),), "xnnpack", tmp_path, dynamic_shapes={"x": {1: dim}})
    assert result.success, result.error_message
    for length in (2, 5, 16):
        x = torch.randn(1, length, 4, generator=torch.Generator().manual_seed(length))
        made = run(result, (x,), "xnnpack", tmp_path)
        torch.testing.assert_close(made, eager(model, (x,)), rtol=1e-5, atol=1e-6)
