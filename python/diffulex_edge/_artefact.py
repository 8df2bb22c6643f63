"""What every runtime of an artefact has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Forward = Callable[[NDArray[np.int64]], Logits]
"""Token ids [seq] to logits [seq, vocab]."""
Pairs = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Token ids and targets, each [sequences, length], by the label of their set."""


class VerificationError(ValueError):
    """A file can't be read, does not hold what it should, or the runtime refuses it. The message names the file."""


@dataclass(frozen=True)
class Execution:
    """What executed a QNN folder."""

    provider: str
    """Of ONNX Runtime: QNNExecutionProvider is Qualcomm's emulator, without fallback to the CPU."""
    onnxruntime: str
    """Its version."""
    onnxruntime_qnn: str | None = None
    """Its version; None on the CPU, as the two below."""
    soc: str | None = None
    htp_arch: int | None = None
    """The version of the emulated NPU, such as 73."""


@dataclass(frozen=True)
class Runnable:
    """An artefact that its runtime has loaded."""

    forward: Forward
    cpu: Forward | None = None
    """The same model on the CPU, where what executes it is an emulated device."""
    execution: Execution | None = None
    """Of a QNN folder."""
