"""Measures an artefact where it will run: a .pte in the ExecuTorch runtime, a Core ML package in Apple's framework, a
QNN folder on Qualcomm's emulator of its NPU.

The figures are those of `diffulex-edge evaluate` on the same data file, from the same formulas (docs/USER_GUIDE.md):
`evaluate` computes them in the CPU runtime, which simulates the target; `verify` in the target's own runtime.

    from diffulex_edge import verify
    verify("int4.pte", "eval.safetensors", against="fp32.pte").loss["50"]

or, in a shell, `python -m diffulex_edge verify int4.pte --data eval.safetensors --against fp32.pte`. Needs numpy,
safetensors, for .pte files the `executorch` package, for .mlpackage folders `coremltools`, and for QNN folders
`onnxruntime-qnn` and `onnx`.

A Core ML package, or a folder of them that is a model in parts, is first checked by coremltools, which works without
data and on any system. Apple's framework executes it only on a Mac: elsewhere, `Verification.sets` is empty.

A QNN folder is first checked against its manifest and by ONNX, which works without data; its context binary then runs
on the emulator, and where there is none, model.onnx on the CPU: `Verification.execution` says which.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import (
    Artefact,
    Check,
    Execution,
    Logits,
    Pairs,
    Placement,
    Runnable,
    VerificationError,
)
from diffulex_edge._bundle import artefact_of
from diffulex_edge._evaluation_data import IGNORED_TARGET, read_pairs
from diffulex_edge._pictures import grid, interval_chart
from diffulex_edge._runtimes import kind_of
from diffulex_edge._saved_logits import SavedLogits, is_saved_logits

Z_95: Final = 1.96


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval; None where there is a single sequence."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SetFigures:
    """What was measured on the sequences of one label, such as a mask ratio. Losses and divergences in nats."""

    tokens: int
    loss: Interval
    accuracy: float
    reference_loss: Interval | None = None
    loss_increase: Interval | None = None
    kl_divergence: Interval | None = None
    agreement: float | None = None
    commit_flip_rate: float | None = None
    max_abs_error: float | None = None
    """Of the logits of all counted positions, against the reference's."""
    cosine: float | None = None
    """Between the same logits, of the whole set as one vector."""
    cpu_max_abs_error: float | None = None
    """Of all logits of the set on the emulator, not only of the counted positions, against ONNX Runtime's CPU kernels
    with the same model.onnx and ids."""
    cpu_cosine: float | None = None
    """Between the same logits, of the whole set as one vector. Both only where an emulator executed a QNN folder."""


@dataclass(frozen=True)
class Verification:
    """The figures of an artefact, by label; none where it was only checked."""

    artefact: Path
    data: Path | None
    reference: Path | None
    sets: dict[str, SetFigures]
    check: Check | None = None
    """Of a Core ML package (PackageCheck) or a QNN folder (QnnCheck)."""
    execution: Execution | None = None
    """What executed a QNN folder; None where it was only checked."""
    reference_execution: Execution | None = None
    """The same of `reference`."""
    placement: Placement | None = None
    """Of a QNN folder; None where the package `onnx` is not installed."""
    not_executed: str | None = None
    """Why it was only checked, in words."""

    @property
    def loss(self) -> dict[str, float]:
        """Mean cross-entropy in nats by label."""
        return {label: figures.loss.mean for label, figures in self.sets.items()}

    def to_dict(self) -> dict[str, Any]:
        """The keys of `diffulex-edge evaluate --json`, and of a package or QNN folder `check` and `executed`.

        QNN folders have `execution`, `reference_execution` and `placement` besides, where there are any.
        """
        document: dict[str, Any] = {"success": True, "artefact": str(self.artefact)}
        if self.data is not None:
            document["data"] = str(self.data)
        if self.check is not None:
            document |= {"check": asdict(self.check), "executed": bool(self.sets)}
        for name in ("execution", "reference_execution", "placement"):
            if getattr(self, name) is not None:
                document[name] = asdict(getattr(self, name))
        if self.reference is not None:
            document["reference"] = str(self.reference)
        for label, figures in self.sets.items():
            for key, value in asdict(figures).items():
                if isinstance(value, dict):  # an Interval
                    document.setdefault(key, {})[label] = value["mean"]
                    bounds = None if value["low"] is None else [value["low"], value["high"]]
                    document.setdefault(f"{key}_interval", {})[label] = bounds
                elif value is not None:
                    document.setdefault(key, {})[label] = value
            document.setdefault("perplexity", {})[label] = math.exp(figures.loss.mean)
        return document

    def _repr_html_(self) -> str:
        """For notebooks: the figures, and a picture of the losses with their intervals beside the reference's."""
        name = html.escape(self.artefact.name)
        if not self.sets:
            return f"<p>{name} was checked, not executed.</p>"
        head = ["set", "loss", "reference", "increase", "KL divergence", "agreement", "tokens"]
        rows = [
            [
                label,
                _shown(figures.loss),
                _shown(figures.reference_loss),
                _shown(figures.loss_increase),
                _shown(figures.kl_divergence),
                "" if figures.agreement is None else f"{100 * figures.agreement:.2f}%",
                f"{figures.tokens:,}",
            ]
            for label, figures in self.sets.items()
        ]
        losses = [
            (label, f.loss.mean, f.loss.low, f.loss.high, None if f.reference_loss is None else f.reference_loss.mean)
            for label, f in self.sets.items()
        ]
        return f"<p>{name}</p>{grid(head, rows)}{interval_chart('Loss of each set, in nats', losses)}"


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return ""
    bounds = "" if interval.low is None else f" ({interval.low:.4f} to {interval.high:.4f})"
    return f"{interval.mean:.4f}{bounds}"


@dataclass(frozen=True)
class _Difference:
    """Between the logits of two runs, and the sums that a cosine is made of."""

    max_abs: float
    product: float
    squares: float
    other_squares: float


@dataclass(frozen=True)
class _Sequence:
    """The counted positions of one sequence: what the artefact predicts there, and the reference."""

    loss: NDArray[np.float64]
    best: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    reference_loss: NDArray[np.float64] | None = None
    reference_best: NDArray[np.int64] | None = None
    reference_confidence: NDArray[np.float64] | None = None
    kl_divergence: NDArray[np.float64] | None = None
    from_reference: _Difference | None = None
    from_cpu: _Difference | None = None


def verify(
    artefact: Path | str,
    data: Path | str | None = None,
    *,
    against: Path | str | None = None,
    soc: str | None = None,
) -> Verification:
    """Run an artefact on evaluation data, and on the same data another one that it is compared with.

    Args:
        artefact: a .pte file whose method `forward` takes input_ids int64 [1, seq] and gives logits [1, seq, vocab], or
            a Core ML package, or a folder with the manifest.json of `diffulex-edge export`: of packages, or of QNN; or
            a bundle of one of them.
        data: safetensors with pairs input_ids_R and target_ids_R, int64 [sequences, length]; -100 is not counted. A
            package or a QNN folder can be checked without. A QNN model takes sequences of its one length.
        against: the reference, such as the same model in float32; it may be of another backend, or a file that
            `diffulex-edge evaluate --logits` has written of the same data: the CPU runtime, which simulates the target.
        soc: the SoC, such as SM8550, whose context binary of a QNN folder is executed (without it, the manifest's
            first), in the reference too, if that is a QNN folder with context binaries.

    Raises:
        VerificationError: a file is missing or broken, or the runtime refuses the artefact or an input.
    """
    artefact = Path(artefact)
    data = None if data is None else Path(data)
    reference = None if against is None else Path(against)
    for path in (artefact, data, reference):
        if path is not None and not path.exists():
            raise VerificationError(f"{path}: does not exist")
    artefact = artefact_of(artefact)
    opened = kind_of(artefact).open(artefact, soc)
    check = opened.check()
    if data is None and check is None:
        raise VerificationError(f"{artefact}: running it needs data: give a file of pairs with --data")
    placement = opened.placement()
    pairs = {} if data is None else read_pairs(data)
    not_executed = opened.not_executed(data is not None)
    if data is None or not_executed is not None:
        return Verification(artefact, data, None, {}, check, placement=placement, not_executed=not_executed)
    has_logits = reference is not None and is_saved_logits(reference)
    compared = kind_of(reference).open_reference(reference, soc) if reference is not None and not has_logits else None
    for each in (opened, compared):
        if each is not None:
            _check_lengths(data, pairs, each)
    other, reference_rows = None, None
    if reference is not None and has_logits:
        reference_rows = SavedLogits(reference, data, pairs).rows
    own = opened.load()
    if compared is not None:
        other = compared.load()
        reference_rows = partial(_rows, other, pairs)
    sets = {}
    for label, (inputs, targets) in pairs.items():
        sequences = []
        for index, (ids, wanted) in enumerate(zip(inputs, targets, strict=True)):
            positions = np.flatnonzero(wanted != IGNORED_TARGET)
            if positions.size > 0:
                reference_logits = None if reference_rows is None else partial(reference_rows, label, index)
                sequences.append(_measure(ids, positions, wanted[positions], own, reference_logits))
        if not sequences:
            raise VerificationError(f"{data}: target_ids_{label}: no target counts")
        sets[label] = _summarize(sequences, mean_of_sequences=label == "bound")
    return Verification(
        artefact, data, reference, sets, check, own.execution, other.execution if other else None, placement
    )


def _check_lengths(data: Path, pairs: Pairs, model: Artefact) -> None:
    """Refuse sequences that are not of the only length that is taken: padding would change every logit."""
    taken = model.length_of_tokens()
    for label, (inputs, _) in pairs.items():
        length = inputs.shape[1]
        if taken is not None and length != taken:
            raise VerificationError(
                f"{data}: input_ids_{label} has sequences of {length} tokens, and {model.path} takes exactly "
                f"{taken}: export it with --seq-len {length}"
            )


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def _rows(model: Runnable, pairs: Pairs, label: str, sequence: int) -> Logits:
    """Its logits at the counted positions of a sequence: [counted, vocab]."""
    inputs, targets = pairs[label]
    return model.forward(inputs[sequence])[targets[sequence] != IGNORED_TARGET]


def _measure(
    ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    wanted: NDArray[np.int64],
    artefact: Runnable,
    reference: Callable[[], Logits] | None,
) -> _Sequence:
    """What the artefact makes of the counted positions, and `reference` of the same: [counted, vocab]."""
    # The CPU first: it refuses ids outside the vocabulary.
    cpu_logits = None if artefact.cpu is None else artefact.cpu(ids)
    logits = artefact.forward(ids)
    if not np.isfinite(logits).all():
        raise VerificationError(
            "the artefact gives logits that are not finite: its weights or its arithmetic are broken"
        )
    counted = logits[positions]
    log_p = _log_softmax(counted)
    row = np.arange(positions.size)
    best = log_p.argmax(axis=-1)
    own: dict[str, Any] = {
        "loss": -log_p[row, wanted],
        "best": best,
        "confidence": np.exp(log_p[row, best]),
        "correct": best == wanted,
        "from_cpu": None if cpu_logits is None else _compare(logits, cpu_logits),
    }
    if reference is None:
        return _Sequence(**own)
    reference_logits = reference()
    if not np.isfinite(reference_logits).all():
        raise VerificationError("the reference gives logits that are not finite: it is broken")
    if counted.shape != reference_logits.shape:
        raise VerificationError(
            f"the reference has a vocabulary of {reference_logits.shape[1]:,} tokens, the artefact one of "
            f"{counted.shape[1]:,}"
        )
    log_r = _log_softmax(reference_logits)
    reference_best = log_r.argmax(axis=-1)
    return _Sequence(
        **own,
        reference_loss=-log_r[row, wanted],
        reference_best=reference_best,
        reference_confidence=np.exp(log_r[row, reference_best]),
        kl_divergence=np.maximum(0.0, (np.exp(log_r) * (log_r - log_p)).sum(axis=-1)),
        from_reference=_compare(counted, reference_logits),
    )


def _compare(logits: Logits, others: Logits) -> _Difference:
    own, other = (values.astype(np.float64).ravel() for values in (logits, others))
    return _Difference(float(np.abs(own - other).max()), float(own @ other), float(own @ own), float(other @ other))


def _agreement(differences: list[_Difference | None]) -> tuple[float, float] | tuple[None, None]:
    """The largest error and the cosine of all sequences together; None where nothing was compared."""
    found = [each for each in differences if each is not None]
    if not found:
        return (None, None)
    scale = math.sqrt(sum(each.squares for each in found) * sum(each.other_squares for each in found))
    error = max(each.max_abs for each in found)
    return (error, sum(each.product for each in found) / scale if scale > 0 else float(error == 0))


def _commits(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions that a decoder would commit first: the surest quarter."""
    return np.argsort(-confidence, kind="stable")[: (confidence.size + 3) // 4]


def _flips(sequence: _Sequence) -> tuple[int, int]:
    """The reference's commits that the artefact makes otherwise, and all of the reference's commits."""
    assert sequence.reference_confidence is not None
    first = _commits(sequence.reference_confidence)
    kept = np.isin(first, _commits(sequence.confidence)) & (sequence.best == sequence.reference_best)[first]
    return int((~kept).sum()), first.size


def _estimate(values: Iterator[NDArray[np.float64]], *, mean_of_sequences: bool) -> Interval:
    """The mean over tokens, or over the sequences' means; its interval from the sequences as units of chance.

    Ratio estimator with linearized variance (Cochran, Sampling Techniques, 3rd ed., 6.3).
    """
    pairs = [(part.mean(), 1.0) if mean_of_sequences else (part.sum(), float(part.size)) for part in values]
    sums, counts = (np.array(column) for column in zip(*pairs, strict=True))
    mean = float(sums.sum() / counts.sum())
    n = len(pairs)
    if n < 2:
        return Interval(mean, None, None)
    error = math.sqrt(n / (n - 1) * float(((sums - mean * counts) ** 2).sum())) / float(counts.sum())
    return Interval(mean, mean - Z_95 * error, mean + Z_95 * error)


def _summarize(sequences: list[_Sequence], *, mean_of_sequences: bool) -> SetFigures:
    def estimate(of: Callable[[_Sequence], NDArray[np.float64]]) -> Interval:
        return _estimate((of(sequence) for sequence in sequences), mean_of_sequences=mean_of_sequences)

    tokens = sum(sequence.loss.size for sequence in sequences)
    loss = estimate(lambda s: s.loss)
    accuracy = sum(int(sequence.correct.sum()) for sequence in sequences) / tokens
    cpu_error, cpu_cosine = _agreement([sequence.from_cpu for sequence in sequences])
    if sequences[0].reference_loss is None:
        return SetFigures(tokens, loss, accuracy, cpu_max_abs_error=cpu_error, cpu_cosine=cpu_cosine)
    error, cosine = _agreement([sequence.from_reference for sequence in sequences])
    flips = [_flips(sequence) for sequence in sequences]
    return SetFigures(
        tokens,
        loss,
        accuracy,
        reference_loss=estimate(lambda s: s.reference_loss),
        loss_increase=estimate(lambda s: s.loss - s.reference_loss),
        kl_divergence=estimate(lambda s: s.kl_divergence),
        agreement=sum(int((s.best == s.reference_best).sum()) for s in sequences) / tokens,
        commit_flip_rate=sum(flipped for flipped, _ in flips) / sum(committed for _, committed in flips),
        max_abs_error=error,
        cosine=cosine,
        cpu_max_abs_error=cpu_error,
        cpu_cosine=cpu_cosine,
    )
