"""What the authors' own programs decode on small models: prompts, options, and the tokens that have to come out.

The files in `decoding/` were written by scripts/decode_by_authors.py, which says what each entry means. Every decision
of every case is 1e-4 or more away from another choice, so that another order of summation gives the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from command import tiny_llada
from families import FAMILIES

_FOLDER: Final = Path(__file__).parent / "decoding"

CHANGING: Final = ("editing", "p2", "dreamon", "wedlm")
"""Ways of decoding beside the families' own, by file name: placed tokens change, vanish, or come before the masks."""


@dataclass(frozen=True)
class DecodingCase:
    """One run of a published program at temperature 0."""

    name: str
    family: str
    program: str  # the authors' file
    model: dict[str, Any]  # arguments of make_checkpoint, or {"bundled": name}
    prompt: list[int]
    options: dict[str, Any]  # our command's, with underscores
    tokens: list[int]  # what the program wrote behind the prompt; more than max_new_tokens where it fills up blocks
    forward_passes: int
    smallest_margin: float

    def folder(self, checkpoint: Callable[..., Path]) -> Path:
        """The model's folder; `checkpoint` is the fixture of that name, which writes each model once for a session."""
        if "bundled" in self.model:
            return tiny_llada()
        arguments = dict(self.model)
        overrides = arguments.pop("overrides", {})
        return checkpoint(arguments.pop("family"), **arguments, **overrides)

    def __str__(self) -> str:
        return self.name


def _name(family: str, number: int, options: dict[str, Any]) -> str:
    words = [family, str(number)]
    words += [str(options[key]) for key in ("remasking", "cache") if options.get(key, "none") != "none"]
    named: tuple[str, ...] = ("threshold", "factor", "eb_threshold", "cfg_scale", "editing_threshold", "max_post_steps")
    named += ("expand_budget", "window_size", "entropy_threshold")
    words += [f"{key}-{options[key]}" for key in named if key in options]
    return "-".join(words)


def decoding_cases(*families: str) -> list[DecodingCase]:
    """The cases of some files: of families, or of `CHANGING`; without names, of all families."""
    found = []
    for family in families or FAMILIES:
        entries = json.loads((_FOLDER / f"{family}.json").read_text())
        found += [
            DecodingCase(_name(family, number, entry["options"]), family, **entry)
            for number, entry in enumerate(entries)
        ]
    return found
