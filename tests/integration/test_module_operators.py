"""Single operators of ATen that the graph has no operator for: computed by others, as PyTorch computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")

from module_runs import BACKENDS, eager, export, run

ROWS, COLUMNS = 6, 7
VECTOR = torch.linspace(-1.0, 1.0, COLUMNS)
MATRIX = torch.linspace(-1.0, 1.0, 5 * COLUMNS).view(COLUMNS, 5)

OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda x, _: x.abs(),
    "amax": lambda x, _: x.amax(-1),
    "amax of masked": lambda x, y: x.masked_fill(y > 0, -1e9).amax(-1, keepdim=True),
    "amin": lambda x, _: x.amin(dim=(1, 2)),
    "maximum": lambda x, y: torch.maximum(x, y) + torch.minimum(x, 2 * y),
    "where": lambda x, y: torch.where(x > y, x * 2, y),
    "where of a root": lambda x, y: torch.where(x > 0, 2 * x.sqrt() - 1, y),
    "where of a root over a constant": lambda x, y: torch.where(x > 0, (x.sqrt() / (2 + VECTOR)).relu(), y),
    "where of an exponential": lambda x, y: torch.where(x < 0, (200 * x).exp(), y),
    "masked_fill of a quotient": lambda x, y: (x / y.relu()).square().masked_fill(y < 0.25, 3.0),
    "comparisons": lambda x, y: ((x >= y) & (x < 1) | ~(y <= 0.5)).float() + (x != y).float() - (x == x).float(),
    "var": lambda x, _: x.var(-1),
    "var of two": lambda x, _: x.var(dim=(1, 2), correction=0, keepdim=True),
    "std": lambda x, _: x.std(dim=1),
    "norm": lambda x, _: x.norm(dim=-1),
    "norm of order 1": lambda x, _: torch.linalg.vector_norm(x, ord=1, dim=1),
    "normalize": lambda x, _: functional.normalize(x, dim=-1),
    "log_softmax": lambda x, _: functional.log_softmax(30 * x, dim=-1),
    "log_softmax along another": lambda x, _: x.log_softmax(1),
    "logsumexp": lambda x, _: torch.logsumexp(100 * x, dim=1),
    "glu": lambda x, _: functional.glu(x, dim=1),
    "leaky_relu": lambda x, _: functional.leaky_relu(x, 0.2),
    "elu": lambda x, _: functional.elu(x, 1.5) + functional.selu(x) + functional.celu(x, 0.5),
    "cumsum": lambda x, _: x.cumsum(1),
    "cumsum of the last": lambda x, _: x.cumsum(-1),
    "pad": lambda x, _: functional.pad(x, (1, 2, 0, 3), value=0.5),
    "pad and crop": lambda x, _: functional.pad(x, (-1, 2)),
    "index_select": lambda x, _: x.index_select(1, torch.tensor([4, 1, 2, 0])),
    "index": lambda x, _: x[:, :, [6, 0, 1, 2]],
    "matmul with a vector": lambda x, _: (x * 2) @ VECTOR,
    "matmul with a vector that varies": lambda x, y: torch.matmul(x, y[0, 0]),
    "every second": lambda x, _: torch.cat([x[..., ::2], x[..., 1::2]], dim=-1),
    "every third row": lambda x, _: x[:, 1::3],
    "einsum of attention": lambda x, y: torch.einsum("bqd,bkd->bqk", x, y),
    "einsum with a matrix": lambda x, _: torch.einsum("bsd,de->bes", x, MATRIX),
    "einsum of groups": lambda x, y: torch.einsum("bsd,btd->dst", x, y),
    "attention with fewer heads of values": lambda x, y: functional.scaled_dot_product_attention(
        torch.stack([x, 2 * x, -x, y], 1), torch.stack([x, y, y, x], 1), torch.stack([x, y], 1), enable_gqa=True
    ),
    "an empty slice": lambda x, _: torch.cat([x * 2, x[..., 7:]], dim=-1),
}


class Operator(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_compute_as_pytorch_does(name: str, backend: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(2, ROWS, COLUMNS, generator=generator) for _ in range(2))
    model = Operator(OPERATORS[name]).eval()
    result = export(model, inputs, backend, tmp_path)
    assert result.success, result.error_message
    given = inputs[: len(result.metadata["inputs"])]
    torch.testing.assert_close(run(result, given, backend, tmp_path), eager(model, inputs), rtol=2e-5, atol=2e-5)


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1-D": (lambda: nn.Conv1d(6, 4, 3, padding=1), (2, 6, 12)),
    "1-D with steps": (lambda: nn.Conv1d(6, 4, 3, stride=2, dilation=2, padding=2), (2, 6, 13)),
    "1-D same": (lambda: nn.Conv1d(6, 4, 4, padding="same"), (2, 6, 12)),
    "1-D without a batch": (lambda: nn.Conv1d(6, 4, 3, bias=False), (6, 12)),
    "groups": (lambda: nn.Conv1d(6, 4, 3, groups=2), (2, 6, 12)),
    "depthwise": (lambda: nn.Conv1d(6, 6, 5, padding=2, groups=6), (2, 6, 12)),
    "2-D": (lambda: nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 9)),
    "2-D with steps": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 3, 9, 10)),
    "2-D depthwise": (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (2, 4, 8, 8)),
    "patches": (lambda: nn.Conv2d(3, 16, 4, stride=4), (1, 3, 8, 12)),
    "pointwise": (lambda: nn.Conv2d(3, 5, 1), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_linear_layers(name: str, backend: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = CONVOLUTIONS[name]
    model, x = make().eval(), torch.randn(shape)
    result = export(model, (x,), backend, tmp_path)
    assert result.success, result.error_message
    torch.testing.assert_close(run(result, (x,), backend, tmp_path), eager(model, (x,)), rtol=2e-5, atol=2e-5)


class Rotary(nn.Module):
    """Rotary embedding over neighbours, by slices with a step or by complex numbers, at a varying length."""

    def __init__(self, is_complex: bool) -> None:
        super().__init__()
        self.is_complex = is_complex
        angles = torch.outer(torch.arange(64.0), 100.0 ** -(torch.arange(4) / 4))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Tensor:
        turns = self.turns[: x.shape[1], None]
        if self.is_complex:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turns).flatten(3)
        cos, sin = turns.real, turns.imag
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_complex", [False, True])
def test_rotary_embedding_over_neighbours(is_complex: bool, backend: str, tmp_path: Path) -> None:
    model, x = Rotary(is_complex).eval(), torch.randn(1, 12, 3, 8)
    named = {} if backend == "qnn" else {"dynamic_shapes": ({1: torch.export.Dim("sequence", min=2, max=40)},)}
    result = export(model, (x,), backend, tmp_path, **named)
    assert result.success, result.error_message
    for given in [x] if backend == "qnn" else [x, torch.randn(1, 33, 3, 8)]:
        made = run(result, (given,), backend, tmp_path)
        torch.testing.assert_close(made, eager(model, (given,)), rtol=2e-5, atol=2e-5)


def test_messages_say_what_to_do(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * 2.0

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    x = torch.randn(2, 4)
    assert "is the input x itself (return only" in (export(Two(), (x,), "xnnpack", tmp_path).error_message or "")
    message = export(Branches(), (x,), "xnnpack", tmp_path).error_message or ""
    assert "torch.where" in message
    assert "test_module_operators.py" in message  # torch.export's own text comes whole, with the line
    shapes = ({0: torch.export.Dim("batch", min=3, max=4)},)
    fixed = export(nn.Linear(4, 4).eval(), (x,), "xnnpack", tmp_path, dynamic_shapes=shapes).error_message or ""
    assert "change dynamic_shapes as it says" in fixed
