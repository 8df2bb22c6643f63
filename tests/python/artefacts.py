"""Runs what was exported in the vendors' own runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from diffulex_edge.backends import ExportResult

sys.path.append(str(Path(__file__).resolve().parents[1] / "integration"))


def run_pte(artefact: ExportResult | bytes, *inputs: Tensor) -> Tensor:
    """The output of a .pte in ExecuTorch, the same without and with XNNPACK's weight cache, which phones have."""
    import executorch.kernels.quantized  # noqa: F401  operators of quantized embeddings
    from executorch.runtime import Runtime
    from weight_cache import weight_cache

    if isinstance(artefact, ExportResult):
        assert artefact.success, artefact.error_message
        assert artefact.buffer is not None
        artefact = bytes(artefact.buffer)
    outputs = []
    for cached in (False, True):
        with weight_cache(cached):
            program = Runtime.get().load_program(artefact)  # the method does not keep it alive
            method = program.load_method("forward")
        assert method is not None
        outputs.append(method.execute([value.contiguous() for value in inputs])[0].clone())
    assert torch.equal(*outputs) or torch.allclose(*outputs, rtol=1e-6, equal_nan=True)
    return outputs[0]


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest magnitude of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def random_ids(vocabulary: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))
