"""Programs for ExecuTorch (.pte), in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffulex_edge._artefact import VerificationError


class PteMethod:
    """The method "forward" of a .pte, with the program that it does not keep alive itself.

    Errors: `VerificationError` for a file that does not exist, that the runtime refuses, and without `executorch`.
    """

    def __init__(self, artefact: Path) -> None:
        if not artefact.is_file():
            raise VerificationError(f"{artefact}: does not exist")
        try:
            import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
            from executorch.runtime import Runtime, Verification
        except ImportError as error:
            raise VerificationError(f"{artefact}: running it needs the Python package executorch: {error}") from error
        try:
            self.program = Runtime.get().load_program(artefact, verification=Verification.InternalConsistency)
            self._method = self.program.load_method("forward")
        except RuntimeError as error:
            raise VerificationError(f"{artefact}: the ExecuTorch runtime refuses it: {error}") from error

    def run(self, inputs: Sequence[Any]) -> Any:
        """The output for tensors, which the next run overwrites. RuntimeError for inputs that the program refuses."""
        (output,) = self._method.execute(list(inputs))
        return output
