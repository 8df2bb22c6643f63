"""Data that a model's folder is calibrated with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Calibration:
    """For `export_model`: what `diffulex-edge export` takes with --calibration. The library checks the values.

    `data`: text (.txt, .jsonl) or token ids (.npy, .safetensors), or "self" for tokens that the model makes itself.
    """

    data: str | Path
    #: Tokens of a sequence, at most.
    length: int = 256
    #: The first so many sequences.
    sequences: int = 64
    #: Of the mask ratios and places.
    seed: int = 0
    #: Ranges of static activations: "mse", "min_max", or "percentile" with `percentile`.
    observer: str = "mse"
    percentile: float = 99.99
    #: How much more the error where a masked token is predicted counts in rounding.
    mask_weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", str(self.data))
        for name, kinds in (("length", int), ("sequences", int), ("seed", int), ("observer", str),
                            ("percentile", int | float), ("mask_weight", int | float)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name}: {value!r} is a {type(value).__name__}")
