"""A .pte file in the real ExecuTorch runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from weight_cache import weight_cache


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
    """The method `forward` of a .pte file: input_ids int64 [1, seq] -> logits float32 [1, seq, vocab].

    It is loaded twice, without and with XNNPACK's weight cache, as phones have it; both give the same numbers.
    """

    def __init__(self, path: Path) -> None:
        self._programs = []  # a method does not keep its program alive
        self._methods = []
        for cached in (False, True):
            with weight_cache(cached):
                program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
                assert "forward" in program.method_names
                method = program.load_method("forward")
            assert method is not None
            self._programs.append(program)
            self._methods.append(method)

    def logits(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Logits of one sequence, float32 [seq, vocab]. Raises RuntimeError where the runtime refuses the input."""
        return self.call(torch.as_tensor(ids, dtype=torch.long)[None])

    def step(self, ids: Tensor | Sequence[int], start: int, *arguments: Tensor) -> Tensor:
        """The same of a program with a cache: logits of tokens from the position `start` on."""
        return self.call(torch.as_tensor(ids, dtype=torch.long)[None], torch.tensor([start]), *arguments)

    def call(self, *inputs: Tensor) -> Tensor:
        first, cached = (self._logits(method, inputs) for method in self._methods)
        assert torch.equal(first, cached) or torch.allclose(first, cached, rtol=1e-6, equal_nan=True), (
            f"with XNNPACK's weight cache, logits differ by up to {(first - cached).abs().max()}"
        )
        return first

    @staticmethod
    def _logits(method: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        (logits,) = method.execute(inputs)
        assert logits.dtype == torch.float32
        return logits[0].clone()  # the runtime reuses its memory


def run_pte(path: Path, ids: Tensor | Sequence[int]) -> Tensor:
    """Load a .pte file and run one sequence; float32 [seq, vocab]."""
    return Program(path).logits(ids)


def cut_into_steps(step: Callable[[Tensor, int], Tensor], ids: Tensor, pieces: Sequence[int]) -> Tensor:
    """Logits [seq, vocab] of a sequence, of which `step` computes one piece after the other, from its ids and start."""
    logits, start = [], 0
    for piece in pieces:
        logits.append(step(ids[start : start + piece], start))
        start += piece
    return torch.cat(logits)


def random_ids(length: int, vocab: int) -> Tensor:
    """`length` token ids, int64 [length]; the same ones for the same length."""
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(length))
