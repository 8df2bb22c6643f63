"""Runs what was exported in the vendors' own runtimes."""

from __future__ import annotations

import torch
from torch import Tensor

from diffulex_edge.backends import ExportResult


def run_pte(artefact: ExportResult | bytes, *inputs: Tensor) -> Tensor:
    """The output of a .pte in ExecuTorch."""
    import executorch.kernels.quantized  # noqa: F401  operators of quantized embeddings
    from executorch.runtime import Runtime

    if isinstance(artefact, ExportResult):
        assert artefact.success, artefact.error_message
        assert artefact.buffer is not None
        artefact = bytes(artefact.buffer)
    program = Runtime.get().load_program(artefact)  # the method does not keep it alive
    method = program.load_method("forward")
    assert method is not None
    return method.execute([value.contiguous() for value in inputs])[0].clone()


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest magnitude of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def random_ids(vocabulary: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))
