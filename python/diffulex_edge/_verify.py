"""Measures an artefact where it will run: a .pte in the ExecuTorch runtime, a Core ML package in Apple's framework.

The figures are those of `diffulex-edge evaluate` on the same data file, from the same formulas (docs/USER_GUIDE.md):
`evaluate` computes them in the CPU runtime, which simulates the target; `verify` in the target's own runtime.

    from diffulex_edge import verify
    verify("int4.pte", "eval.safetensors", against="fp32.pte").loss["50"]

or, in a shell, `python -m diffulex_edge verify int4.pte --data eval.safetensors --against fp32.pte`. Needs numpy,
safetensors, for .pte files the `executorch` package, and for .mlpackage folders `coremltools`.

A Core ML package, or a folder of them that is a model in parts, is first checked by coremltools, which works without
data and on any system. Apple's framework executes it on a Mac alone: elsewhere, `Verification.sets` is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffulex_edge import _coreml
from diffulex_edge._artefact import Forward, Logits, VerificationError
from diffulex_edge._coreml import PackageCheck

IGNORED_TARGET: Final = -100
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


@dataclass(frozen=True)
class Verification:
    """The figures of an artefact, by label; none where it was only checked."""

    artefact: Path
    data: Path | None
    reference: Path | None
    sets: dict[str, SetFigures]
    check: PackageCheck | None = None
    """Of a Core ML package."""

    @property
    def loss(self) -> dict[str, float]:
        """Mean cross-entropy in nats by label."""
        return {label: figures.loss.mean for label, figures in self.sets.items()}

    def to_dict(self) -> dict[str, Any]:
        """The keys of `diffulex-edge evaluate --json`, and of a package `check` and `executed`."""
        document: dict[str, Any] = {"success": True, "artefact": str(self.artefact)}
        if self.data is not None:
            document["data"] = str(self.data)
        if self.check is not None:
            document |= {"check": asdict(self.check), "executed": bool(self.sets)}
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


def verify(artefact: Path | str, data: Path | str | None = None, *, against: Path | str | None = None) -> Verification:
    """Run an artefact on evaluation data, and on the same data another one that it is compared with.

    Args:
        artefact: a .pte file whose method `forward` takes input_ids int64 [1, seq] and gives logits [1, seq, vocab], or
            a Core ML package, or a folder of packages with the manifest.json of `diffulex-edge export`.
        data: safetensors with pairs input_ids_R and target_ids_R, int64 [sequences, length]; -100 is not counted. A
            package can be checked without.
        against: the reference, such as the same model in float32; a .pte file may be one of a package, and the reverse.

    Raises:
        VerificationError: a file is missing or broken, or the runtime refuses the artefact or an input.
    """
    artefact = Path(artefact)
    data = None if data is None else Path(data)
    reference = None if against is None else Path(against)
    check = _coreml.check(artefact) if _coreml.is_package(artefact) else None
    if data is None and check is None:
        raise VerificationError(f"{artefact}: running it needs data")
    pairs = {} if data is None else _read_pairs(data)
    if data is None or (check is not None and not _coreml.can_execute()):
        return Verification(artefact, data, None, {}, check)
    forward = _load(artefact)
    reference_forward = None if reference is None else _load(reference)
    sets = {}
    for label, (inputs, targets) in pairs.items():
        sequences = [
            measured
            for ids, wanted in zip(inputs, targets, strict=True)
            if (measured := _measure(ids, wanted, forward, reference_forward)) is not None
        ]
        if not sequences:
            raise VerificationError(f"{data}: target_ids_{label}: no target counts")
        sets[label] = _summarize(sequences, mean_of_sequences=label == "bound")
    return Verification(artefact, data, reference, sets, check)


def _read_pairs(data: Path) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(data)
    except (OSError, SafetensorError) as error:
        raise VerificationError(f"{data}: can't be read: {error}") from error
    pairs = {}
    for label in sorted(
        (name.removeprefix("input_ids_") for name in tensors if name.startswith("input_ids_")), key=_order
    ):
        inputs, targets = tensors[f"input_ids_{label}"], tensors.get(f"target_ids_{label}")
        if targets is None:
            raise VerificationError(f"{data}: has input_ids_{label} but no target_ids_{label}")
        if inputs.dtype != np.int64 or inputs.ndim != 2 or targets.dtype != np.int64 or targets.shape != inputs.shape:
            raise VerificationError(
                f"{data}: input_ids_{label} and its targets are not int64 of one shape [sequences, length]"
            )
        pairs[label] = (inputs, targets)
    if not pairs:
        raise VerificationError(f"{data}: has no tensors input_ids_R and target_ids_R")
    return pairs


def _order(label: str) -> tuple[bool, float, str]:
    """Numbers by value, then everything else by name, as `evaluate` has it."""
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)


def _load(artefact: Path) -> Forward:
    if _coreml.is_package(artefact):
        return _coreml.load(artefact)
    if artefact.suffix != ".pte":
        raise VerificationError(f"{artefact}: is neither a .pte file nor a Core ML package")
    if not artefact.is_file():
        raise VerificationError(f"{artefact}: does not exist")
    try:
        import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
        import torch
        from executorch.runtime import Runtime, Verification
    except ImportError as error:
        raise VerificationError(f"{artefact}: running it needs the Python package executorch: {error}") from error
    try:
        program = Runtime.get().load_program(artefact, verification=Verification.InternalConsistency)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise VerificationError(f"{artefact}: the ExecuTorch runtime refuses it: {error}") from error

    def forward(ids: NDArray[np.int64]) -> Logits:
        try:
            (logits,) = method.execute([torch.from_numpy(ids)[None]])
        except RuntimeError as error:
            raise VerificationError(
                f"{artefact}: the ExecuTorch runtime refuses an input of {len(ids)} tokens: {error}"
            ) from error
        return logits[0].numpy().copy()  # the runtime reuses its memory

    forward.program = program  # type: ignore[attr-defined]  # the method does not keep it alive
    return forward


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def _measure(
    ids: NDArray[np.int64], targets: NDArray[np.int64], forward: Forward, reference: Forward | None
) -> _Sequence | None:
    positions = np.flatnonzero(targets != IGNORED_TARGET)
    if positions.size == 0:
        return None
    wanted = targets[positions]
    log_p = _log_softmax(forward(ids)[positions])
    row = np.arange(positions.size)
    best = log_p.argmax(axis=-1)
    own = {
        "loss": -log_p[row, wanted],
        "best": best,
        "confidence": np.exp(log_p[row, best]),
        "correct": best == wanted,
    }
    if reference is None:
        return _Sequence(**own)
    log_r = _log_softmax(reference(ids)[positions])
    reference_best = log_r.argmax(axis=-1)
    return _Sequence(
        **own,
        reference_loss=-log_r[row, wanted],
        reference_best=reference_best,
        reference_confidence=np.exp(log_r[row, reference_best]),
        kl_divergence=np.maximum(0.0, (np.exp(log_r) * (log_r - log_p)).sum(axis=-1)),
    )


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
    if sequences[0].reference_loss is None:
        return SetFigures(tokens, loss, accuracy)
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
    )
