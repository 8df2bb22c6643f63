"""A .pte file in the real ExecuTorch runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def _import_quietly() -> None:
    """The runtime's CPU detection prints notes on stderr, which would stand in front of every test report."""
    saved = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        import executorch.kernels.quantized  # registers the quantized embeddings
        import executorch.runtime  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_import_quietly()
from executorch.runtime import Runtime, Verification  # noqa: E402


class Program:
    """The method `forward` of a .pte file: input_ids int64 [1, seq] -> logits float32 [1, seq, vocab]."""

    def __init__(self, path: Path) -> None:
        self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        assert self._program.method_names == {"forward"}
        self._method = self._program.load_method("forward")
        assert self._method is not None

    def logits(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Logits of one sequence, float32 [seq, vocab]. Raises RuntimeError where the runtime refuses the input."""
        assert self._method is not None
        (logits,) = self._method.execute([torch.as_tensor(ids, dtype=torch.long)[None]])
        assert logits.dtype == torch.float32
        return logits[0].clone()  # the runtime reuses its memory


def run_pte(path: Path, ids: Tensor | Sequence[int]) -> Tensor:
    """Load a .pte file and run one sequence; float32 [seq, vocab]."""
    return Program(path).logits(ids)


def random_ids(length: int, vocab: int) -> Tensor:
    """`length` token ids, int64 [length]; the same ones for the same length."""
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(length))
