"""How far an artefact is from the module that it was made of, in the vendor's own runtime."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffulex_edge._artefact import TensorForward, VerificationError
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge._pictures import bar_chart, table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffulex_edge.backends import ExportResult


@dataclass(frozen=True)
class NumericalAccuracy:
    """Errors of an artefact's output y against the module's r, over all elements of all inputs."""

    runtime: str
    """What executed the artefact."""
    inputs: int
    elements: int
    max_abs_error: float
    """max |y - r|"""
    mean_abs_error: float
    rms_error: float
    """sqrt(mean((y - r)^2))"""
    relative_error: float
    """|y - r| / |r|, Euclidean norms"""
    snr_db: float
    """-20 log10 of relative_error; infinite where nothing is lost."""
    cosine: float
    """y . r / (|y| |r|)"""
    agreement: float
    """The share of rows, along the last dimension, whose largest element is at the same place."""
    passed: bool | None
    """Whether every |y - r| <= atol + rtol |r|; None without tolerances."""
    histogram: list[tuple[float, int]] = field(default_factory=list)
    """Upper ends of ranges of |y - r|, by powers of sqrt(10), and how many elements are in each."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        verdict = {None: "", True: " (within the tolerances)", False: " (<b>beyond the tolerances</b>)"}[self.passed]
        rows = {
            "Largest error": f"{self.max_abs_error:.3g}{verdict}",
            "Mean error": f"{self.mean_abs_error:.3g}",
            "Relative error": f"{self.relative_error:.3g} ({self.snr_db:.1f} dB)",
            "Cosine": f"{self.cosine:.6f}",
            "Same largest element": f"{100 * self.agreement:.2f}% of rows",
            "Measured": f"{self.elements:,} elements of {self.inputs} inputs, in {html.escape(self.runtime)}",
        }
        bars = [
            (f"{end:.0e}", count, f"{count:,} elements with an error up to {end:.2g}") for end, count in self.histogram
        ]
        return table(rows) + bar_chart("How many elements have which absolute error", bars)


def validate_numerical_accuracy(
    model: nn.Module | Callable[..., Any],
    artefact: str | Path | ExportResult,
    example_inputs: Sequence[Any],
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> NumericalAccuracy:
    """Runs an artefact and the module that it was made of on the same inputs.

    `model`: the module, in FP32 for what quantization cost, or quantized for what the backend changed. `artefact`: an
    `ExportResult`, a .pte file (executed by ExecuTorch), or a QNN folder (its first context binary on Qualcomm's
    emulator; without one, its models by ONNX Runtime on the CPU). Core ML packages are executed by Apple's framework,
    on a Mac only.
    `example_inputs`: a tuple of inputs, or a list of such tuples; quantized artefacts need several for figures that
    mean something. `atol`, `rtol`: absolute and relative tolerance; where only one is given, the other is 0.

    Errors: `InvalidArgumentError` for no inputs, negative tolerances and another shape of output; `UnsupportedError`
    for an artefact that nothing here executes; `VerificationError` for one that does not exist or that the runtime
    refuses, and for values that are not finite; what the runtime raises for inputs.
    """
    import torch

    if any(bound is not None and not bound >= 0 for bound in (atol, rtol)):
        raise InvalidArgumentError(f"tolerances: {atol} and {rtol} are not 0 or more", where="atol")
    items = list(example_inputs) if isinstance(example_inputs, list) else [tuple(example_inputs)]
    if not items:
        raise InvalidArgumentError("example_inputs: are empty", where="example_inputs")
    runtime, run = _runner(artefact)
    sums = _Sums(atol, rtol)
    with torch.no_grad():
        for item in items:
            arguments = item if isinstance(item, tuple) else (item,)
            sums.add(run(arguments), _output(model(*arguments)))
    return sums.figures(runtime, len(items), judged=atol is not None or rtol is not None)


def _output(value: Any) -> Tensor:
    """What the export takes of a module's results: `logits`, or the first tensor."""
    import torch
    from torch.utils import _pytree

    if isinstance(getattr(value, "logits", None), torch.Tensor):
        return value.logits
    tensors = [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    if not tensors:
        raise InvalidArgumentError("model: it returns no tensor", where="model")
    return tensors[0]


class _Sums:
    """Errors, summed in double precision."""

    def __init__(self, atol: float | None, rtol: float | None) -> None:
        self.atol, self.rtol = atol or 0.0, rtol or 0.0
        self.elements = self.rows = self.same = 0
        self.largest = self.absolute = self.squares = self.reference = self.own = self.product = 0.0
        self.within = True
        self.counts: dict[int, int] = {}

    def add(self, made: Tensor, wanted: Tensor) -> None:
        import torch

        if made.shape != wanted.shape:
            raise InvalidArgumentError(
                f"the artefact gives {list(made.shape)}, the model {list(wanted.shape)}", where="artefact"
            )
        if not torch.isfinite(made).all():
            raise VerificationError("the artefact gives values that are not finite")
        if not torch.isfinite(wanted).all():
            raise InvalidArgumentError("model: gives values that are not finite for these inputs", where="model")
        y, r = made.double(), wanted.double()
        error = (y - r).abs()
        self.elements += error.numel()
        self.largest = max(self.largest, float(error.max()))
        self.absolute += float(error.sum())
        self.squares += float((error * error).sum())
        self.reference += float((r * r).sum())
        self.own += float((y * y).sum())
        self.product += float((y * r).sum())
        self.within &= bool((error <= self.atol + self.rtol * r.abs()).all())
        same = y.argmax(dim=-1) == r.argmax(dim=-1)
        self.rows, self.same = self.rows + same.numel(), self.same + int(same.sum())
        powers = (2.0 * error.clamp(min=1e-12).log10()).ceil().int()
        for power, count in zip(*(part.tolist() for part in torch.unique(powers, return_counts=True)), strict=True):
            self.counts[power] = self.counts.get(power, 0) + count

    def figures(self, runtime: str, inputs: int, judged: bool) -> NumericalAccuracy:
        relative = math.sqrt(self.squares / self.reference) if self.reference else math.inf if self.squares else 0.0
        norms = math.sqrt(self.own * self.reference)
        powers = range(min(self.counts), max(self.counts) + 1)
        return NumericalAccuracy(
            runtime=runtime,
            inputs=inputs,
            elements=self.elements,
            max_abs_error=self.largest,
            mean_abs_error=self.absolute / self.elements,
            rms_error=math.sqrt(self.squares / self.elements),
            relative_error=relative,
            snr_db=-20.0 * math.log10(relative) if relative > 0 else math.inf,
            cosine=min(1.0, self.product / norms) if norms else math.nan,
            agreement=self.same / self.rows,
            passed=self.within if judged else None,
            histogram=[(10.0 ** (power / 2.0), self.counts.get(power, 0)) for power in powers],
        )


def _runner(artefact: str | Path | ExportResult) -> tuple[str, TensorForward]:
    path = getattr(artefact, "_artefact", artefact)
    error = getattr(artefact, "error", None)
    if error is not None:
        raise error
    if path is None:
        raise InvalidArgumentError("artefact: a dry run has none", where="artefact")
    from diffulex_edge._runtimes import kind_of

    path = Path(path)
    if not path.exists():
        raise VerificationError(f"{path}: does not exist")
    return kind_of(path).open(path).load_module()
