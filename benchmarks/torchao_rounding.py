"""torchao's weight-only INT4 (IntxWeightOnlyConfig) on a checkpoint, measured in PyTorch on a token set.

Prints one JSON line with what `diffulex-edge evaluate --json` and rounding_methods.py measure: loss, its increase over
FP32 with a 95% interval (the unit of chance is the sequence), KL divergence, seconds and peak RSS of the quantization.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from official_route import Decoder, load_decoder, peak_rss_bytes
from safetensors.torch import load_file
from texts import IGNORED_TARGET
from torch import Tensor, nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup


def quantize(model: Decoder, group_size: int, qparams: str) -> None:
    """All linear layers but the head to symmetric INT4, in groups of `group_size` along the input (0: per channel)."""
    config = IntxWeightOnlyConfig(
        weight_dtype=torch.int4,
        granularity=PerGroup(group_size) if group_size else PerAxis(0),
        intx_choose_qparams_algorithm=qparams,
    )
    quantize_(model, config, lambda module, name: isinstance(module, nn.Linear) and name != "lm_head")


def sequence_sums(model: Decoder, reference: Decoder, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Sums over the counted positions of one sequence."""
    counted = targets != IGNORED_TARGET
    log_p = F.log_softmax(model(inputs[None])[0, counted], dim=-1)
    log_r = F.log_softmax(reference(inputs[None])[0, counted], dim=-1)
    at_target = targets[counted, None]
    return {
        "count": float(counted.sum()),
        "loss": -float(log_p.gather(1, at_target).sum(dtype=torch.float64)),
        "reference_loss": -float(log_r.gather(1, at_target).sum(dtype=torch.float64)),
        "kl": float((log_r.exp() * (log_r - log_p)).sum(dtype=torch.float64)),
    }


def half_interval(sums: list[float], counts: list[float]) -> float:
    """Of the ratio sum / count, 95% (Cochran, "Sampling Techniques", 6.3)."""
    mean = sum(sums) / sum(counts)
    squares = sum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True))
    n = len(sums)
    return 1.96 * (n / (n - 1) * squares) ** 0.5 / sum(counts)


def measure(options: argparse.Namespace) -> dict[str, object]:
    data = load_file(options.data)
    inputs, targets = data["input_ids_next"], data["target_ids_next"]
    model = load_decoder(options.model, inputs.shape[1])
    start = time.perf_counter()
    quantize(model, options.group_size, options.qparams)
    seconds, peak = time.perf_counter() - start, peak_rss_bytes()
    reference = load_decoder(options.model, inputs.shape[1])
    rows = [sequence_sums(model, reference, *pair) for pair in zip(inputs, targets, strict=True)]
    counts = [row["count"] for row in rows]

    def mean(key: str) -> float:
        return sum(row[key] for row in rows) / sum(counts)

    increases = [row["loss"] - row["reference_loss"] for row in rows]
    increase = sum(increases) / sum(counts)
    half = half_interval(increases, counts)
    return {
        "loss": mean("loss"),
        "reference_loss": mean("reference_loss"),
        "loss_increase": increase,
        "loss_increase_interval": [increase - half, increase + half],
        "kl_divergence": mean("kl"),
        "quantize_seconds": seconds,
        "quantize_peak_rss_bytes": peak,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors files")
    parser.add_argument("--data", type=Path, required=True, help="safetensors with input_ids_next and target_ids_next")
    parser.add_argument("--group-size", type=int, default=32, help="0: per channel")
    parser.add_argument("--qparams", choices=("affine", "hqq_scale_only"), default="affine", help="torchao's algorithm")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with torch.no_grad():
        try:
            result = measure(options)
        except (OSError, ValueError) as error:
            print(f"torchao_rounding: {error}", file=sys.stderr)
            return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
