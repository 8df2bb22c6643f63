"""Where the command and the bundled model are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = Path(os.environ.get("DIFFULEX_EDGE") or _REPOSITORY / "build/release/bin/diffulex-edge").resolve()
TINY = _REPOSITORY / "examples/tiny-llada"

Quantize = Callable[..., Path]
"""The fixture quantize_checkpoint."""
