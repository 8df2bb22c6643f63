"""Which kinds of artefacts are checked and executed here: a line for each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from diffulex_edge._artefact import Artefact, VerificationError
from diffulex_edge._coreml import CoreMLPackage
from diffulex_edge._executorch import PteProgram
from diffulex_edge._qnn import QnnFolder

#: The first that recognises a path opens it: those that look at its content come before those that look at its name.
KINDS: Final[tuple[type[Artefact], ...]] = (QnnFolder, PteProgram, CoreMLPackage)


def kind_of(path: Path) -> type[Artefact]:
    """Of an artefact that exists. Raises VerificationError where it is none."""
    for kind in KINDS:
        if kind.recognises(path):
            return kind
    known = ", nor ".join(kind.what for kind in KINDS)
    raise VerificationError(f"{path}: is neither {known}")
