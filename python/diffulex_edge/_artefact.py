"""What every runtime of an artefact has in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Forward = Callable[[NDArray[np.int64]], Logits]
"""Token ids [seq] to logits [seq, vocab]."""


class VerificationError(ValueError):
    """A file can't be read, does not hold what it should, or the runtime refuses it. The message names the file."""
