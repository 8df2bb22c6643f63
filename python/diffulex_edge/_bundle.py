"""Bundles: folders of `diffulex-edge export --bundle`, an artefact with its tokenizer and generation.json."""

from __future__ import annotations

from pathlib import Path

from diffulex_edge import _core


def artefact_of(path: Path) -> Path:
    """The artefact in a bundle, beside its tokenizer; any other path as it is.

    Errors: those of the library, for a bundle whose files are not those that generation.json describes.
    """
    return Path(_core.open_bundle(str(path))) if _core.is_bundle(str(path)) else path
