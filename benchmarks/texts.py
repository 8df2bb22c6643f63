"""Texts of Debian packages for calibration and evaluation, and token sets made of them.

`bible-kjv` and `fortunes` (scripts/install-packages bench); the licences are on every Debian system.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

FORTUNES = Path("/usr/share/games/fortunes")
FORTUNE_FILES = ("literature", "wisdom", "people", "science")
LICENCES = Path("/usr/share/common-licenses")
LICENCE_FILES = ("GPL-3", "MPL-2.0", "Apache-2.0", "GFDL-1.3", "LGPL-2.1")
IGNORED_TARGET = -100


class MissingTextError(Exception):
    """A text's package is not installed; the message says how to install it."""


def read_verses(passage: str) -> str:
    """Verses of the King James Bible without their numbers, one a line."""
    try:
        output = subprocess.run(["bible", "-f", passage], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise MissingTextError("the command `bible` is missing; run `scripts/install-packages bench`") from None
    return re.sub(r"^\S*\d+:\d+ ", "", output, flags=re.MULTILINE)


def read_fortunes() -> str:
    """Fortune cookies, one after another."""
    if not FORTUNES.is_dir():
        raise MissingTextError(f"{FORTUNES} is missing; run `scripts/install-packages bench`")
    text = "".join((FORTUNES / name).read_text(encoding="utf-8") for name in FORTUNE_FILES)
    return text.replace("\t\t-- ", " -- ").replace("\n%\n", "\n")


def read_licences() -> str:
    """Licences that Debian has on every system."""
    return "\n".join((LICENCES / name).read_text(encoding="utf-8") for name in LICENCE_FILES)


TEXTS: dict[str, Callable[[], str]] = {
    "genesis": lambda: read_verses("gen1:1-20:18"),
    "psalms": lambda: read_verses("psa1:1-60:12"),
    "fortunes": read_fortunes,
    "licences": read_licences,
}


def write_text(name: str, path: Path) -> None:
    path.write_text(TEXTS[name](), encoding="utf-8")


def write_next_token_set(text: Path, tokenizer: Path, path: Path, sequences: int, length: int) -> None:
    """The text's first tokens as the set "next" of `diffulex-edge evaluate`: at each position the target is the next
    token; the last position of a sequence does not count."""
    ids = Tokenizer.from_file(str(tokenizer)).encode(text.read_text(encoding="utf-8")).ids[: sequences * length]
    if len(ids) < sequences * length:
        raise ValueError(f"{text} has {len(ids)} tokens, fewer than {sequences} x {length}")
    inputs = torch.tensor(ids).reshape(sequences, length)
    targets = torch.full_like(inputs, IGNORED_TARGET)
    targets[:, :-1] = inputs[:, 1:]
    save_file({"input_ids_next": inputs, "target_ids_next": targets}, path)
