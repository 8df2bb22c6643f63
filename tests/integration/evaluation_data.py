"""Parts of the bundled model's evaluation file, for what shows the same with less."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def cut(
    data: Path, target: Path, sequences: int, *, length: int | None = None, sets: Iterable[str] | None = None
) -> Path:
    """Write the first `sequences` of each set, or of those named, to `target`: whole, or `length` tokens of each."""
    tensors = load_file(data)
    names = tensors if sets is None else [f"{kind}_ids_{label}" for kind in ("input", "target") for label in sets]
    save_file({name: np.ascontiguousarray(tensors[name][:sequences, :length]) for name in names}, target)
    return target
