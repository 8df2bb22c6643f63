"""Random modules compute in every backend what they do in PyTorch, or are refused (many: `make fuzz-modules`)."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")
pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from module_runs import BACKENDS, eager, export, run
from random_modules import DifferenceError, Program, check, programs


@pytest.mark.filterwarnings("ignore")
def test_a_sample_of_random_modules() -> None:
    counts: collections.Counter[str] = collections.Counter()

    @settings(max_examples=40, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(programs())
    def compare(program: Program) -> None:
        check(program, list(BACKENDS), counts)

    compare()
    assert min(counts[f"{backend} compared"] for backend in BACKENDS) >= 10, counts


@pytest.mark.filterwarnings("ignore")
def test_a_difference_is_found() -> None:
    """The comparison sees an operator that is translated wrongly."""
    from diffulex_edge.frontend.aten.registry import HANDLERS, Handler

    aten = torch.ops.aten
    program = Program({"x": torch.tensor([0.5, -1.0])}, ["v0 = x.sin()"], output="v0")
    check(program, ["xnnpack"])
    right = HANDLERS[aten.sin]
    HANDLERS[aten.sin] = Handler(HANDLERS[aten.cos].translate, right.reads, right.integers)
    try:
        with pytest.raises(DifferenceError, match="xnnpack: differs by"):
            check(program, ["xnnpack"])
    finally:
        HANDLERS[aten.sin] = right


# --- What random modules found.


class Joined(nn.Module):
    """More values than XNNPACK joins at once."""

    def __init__(self, count: int, axis: int) -> None:
        super().__init__()
        self.count, self.axis = count, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * (i + 1) for i in range(self.count)], dim=self.axis)


@pytest.mark.parametrize("count", [5, 6, 11, 27])
@pytest.mark.parametrize("axis", [0, -1])
def test_many_values_are_joined(tmp_path: Path, count: int, axis: int) -> None:
    model, inputs = Joined(count, axis).eval(), (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
    result = export(model, inputs, "xnnpack", tmp_path)
    assert result.success, result.error_message
    torch.testing.assert_close(run(result, inputs, "xnnpack", tmp_path), eager(model, inputs))
