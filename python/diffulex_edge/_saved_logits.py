"""Files of `diffulex-edge evaluate --logits`: what the CPU runtime, which simulates the target, makes of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Logits, Pairs, VerificationError
from diffulex_edge._evaluation_data import IGNORED_TARGET, read_pairs


def is_saved_logits(path: Path) -> bool:
    """By its name."""
    return path.suffix == ".safetensors"


class SavedLogits:
    """logits_R, float32 [counted, vocab]: a row for each counted target of target_ids_R, in their order."""

    def __init__(self, path: Path, data: Path, pairs: Pairs) -> None:
        """Of the data whose `pairs` these are.

        Raises:
            VerificationError: the file can't be read, or is of other data.
        """
        from safetensors import safe_open

        self.path = path
        own = read_pairs(path)
        self._file = safe_open(path, framework="numpy")
        self._first_rows: dict[str, NDArray[np.int64]] = {}
        for label, (inputs, targets) in pairs.items():
            is_same = label in own and all(
                np.array_equal(saved, given) for saved, given in zip(own[label], (inputs, targets), strict=True)
            )
            if not is_same:
                raise VerificationError(
                    f"{path}: its logits are of other data than input_ids_{label} of {data}: "
                    f"make them with diffulex-edge evaluate --data {data} --logits {path}"
                )
            counts = (targets != IGNORED_TARGET).sum(axis=1)
            self._first_rows[label] = np.concatenate([[0], np.cumsum(counts)])
            self._check_shape(label, int(counts.sum()))

    def rows(self, label: str, sequence: int) -> Logits:
        """Of the counted positions of a sequence: [counted, vocab]."""
        first, end = self._first_rows[label][sequence : sequence + 2]
        logits: Logits = self._file.get_slice(f"logits_{label}")[int(first) : int(end)]
        return logits

    def _check_shape(self, label: str, counted: int) -> None:
        name = f"logits_{label}"
        if name not in self._file.keys():  # noqa: SIM118  not a dict
            raise VerificationError(f"{self.path}: has no {name}: it is data, not a file of evaluate --logits")
        part = self._file.get_slice(name)
        shape = part.get_shape()
        if part.get_dtype() != "F32" or len(shape) != 2 or shape[0] != counted:
            raise VerificationError(f"{self.path}: {name} is not float32 [{counted}, vocab]")
