"""What the module route costs beside the checkpoint route: torch.export's own time, and what comes on top.

    make bench-module [BENCH_ARGS="--layers 28 --hidden 1024"]

A Qwen3 of transformers with random weights goes to a .pte by both routes, several times in turn. The module route's
total is compared with torch.export by itself plus the checkpoint route; medians, and the ratio of each round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import diffulex_edge
from diffulex_edge.backends import BackendConfig, XNNPACKBackend
from diffulex_edge.quant import QuantizationConfig


class Logits(torch.nn.Module):
    """ids and a float mask to logits: bidirectional, as a diffusion model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def import_seconds() -> float:
    """Of `import diffulex_edge` in an interpreter of its own, beside that interpreter's start."""
    code = "import time; t = time.perf_counter(); import diffulex_edge; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=arguments.vocabulary, hidden_size=arguments.hidden, intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers, num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=max(1, arguments.hidden // 128), head_dim=64, max_position_embeddings=arguments.length,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    module = Logits(model).eval()
    inputs = (
        torch.zeros(1, arguments.length, dtype=torch.int64),
        torch.zeros(1, 1, arguments.length, arguments.length),
    )
    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype=arguments.dtype)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        model.save_pretrained(checkpoint)
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            with torch.no_grad():
                torch.export.export(module, inputs)
            traced = time.perf_counter()
            result = backend.export(module, inputs, path=Path(folder) / "module.pte")
            by_module = time.perf_counter()
            assert result.success, result.error_message
            other = backend.export_model(
                checkpoint, Path(folder) / "checkpoint.pte", seq_len=arguments.length, block_length=0
            )
            by_checkpoint = time.perf_counter()
            assert other.success, other.error_message
            rows.append((traced - began, by_module - traced, by_checkpoint - by_module))
    alone, total, direct = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [module_time / (export + checkpoint_time) for export, module_time, checkpoint_time in rows]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"diffulex-edge {diffulex_edge.__version__}, Qwen3 of {parameters / 1e6:.0f}M parameters, {arguments.dtype}")
    print(f"torch.export by itself  {alone:8.2f} s")
    print(f"checkpoint route        {direct:8.2f} s")
    print(f"module route            {total:8.2f} s")
    print(
        f"module / (torch.export + checkpoint): {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
    )
    print(f"import diffulex_edge    {import_seconds():8.3f} s")


if __name__ == "__main__":
    main()
