"""Evaluation data: safetensors files of token ids and what is to be predicted at their places."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from diffulex_edge._artefact import Pairs, VerificationError

IGNORED_TARGET: Final = -100


def read_pairs(data: Path) -> Pairs:
    """The pairs input_ids_R and target_ids_R, by label R, numbers by value first.

    Raises:
        VerificationError: the file can't be read, or has no such pairs.
    """
    from safetensors import SafetensorError, safe_open

    if not data.is_file():
        raise VerificationError(f"{data}: {'is a folder' if data.is_dir() else 'does not exist'}")
    if data.suffix in (".txt", ".jsonl", ".npy"):
        raise VerificationError(
            f"{data}: is text or bare token ids, which only `diffulex-edge evaluate` masks by itself: verify takes a "
            "safetensors file with pairs input_ids_R and target_ids_R"
        )
    try:
        with safe_open(data, framework="numpy") as file:
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names if name.startswith(("input_ids_", "target_ids_"))}
    except (OSError, SafetensorError) as error:
        raise VerificationError(f"{data}: is no safetensors file, or a damaged one: {error}") from error
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
