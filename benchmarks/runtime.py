"""How fast the CPU runtime computes: evaluation and calibration of a Qwen3-0.6B shape beside OpenBLAS itself.

Each command runs 32 x 256 random tokens through the model. Its floating-point operations are those of the linear layers
and the attention; what else it does counts as lost time. OpenBLAS multiplies the same shapes with its own threads
before and after each command, and the share is the command's FLOP/s over the better of the two. Shares of CPU time hold
on a busy machine, where wall times do not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import ROOT, machine, parse_shape_options, run_benchmark, run_measured
from make_checkpoint import SHAPES, make_checkpoint
from official_route import DecoderConfig, read_config
from safetensors.torch import save_file

SEED = 20261124
LARGEST_PRODUCT = 1 << 26  # elements that OpenBLAS makes at once: all logits would take gigabytes


@dataclass(frozen=True)
class Gemm:
    """c [m, n] = a [m, k] b [n, k]^T, so many times."""

    m: int
    n: int
    k: int
    count: int

    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k * self.count


def layer_shapes(c: DecoderConfig, tokens: int) -> list[Gemm]:
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return [
        Gemm(tokens, q, c.hidden, c.layers),
        Gemm(tokens, kv, c.hidden, 2 * c.layers),
        Gemm(tokens, c.hidden, q, c.layers),
        Gemm(tokens, c.intermediate, c.hidden, 2 * c.layers),
        Gemm(tokens, c.hidden, c.intermediate, c.layers),
    ]


def head_shape(c: DecoderConfig, tokens: int) -> Gemm:
    return Gemm(tokens, c.vocab, c.hidden, 1)


def attention_flops(c: DecoderConfig, sequences: int, length: int) -> float:
    """Of q k^T and the product with v, for the keys that a query sees."""
    seen = sum(min(length, (i // c.block_length + 1) * c.block_length) if c.block_length else length
               for i in range(length))  # fmt: skip
    return 4.0 * sequences * seen * c.heads * c.head_dim * c.layers


def hessian_shapes(c: DecoderConfig, tokens: int) -> list[Gemm]:
    """X^T X of each layer's inputs: those of q, k, v; o; gate, up; down."""
    inputs = [c.hidden, c.heads * c.head_dim, c.hidden, c.intermediate]
    return [Gemm(width, width, tokens, c.layers) for width in inputs]


def write_tokens(path: Path, vocab: int, sequences: int, length: int) -> None:
    """Random tokens as one evaluation set that counts every position; calibration takes its inputs."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randint(0, vocab, (sequences, length), generator=generator)
    targets = torch.randint(0, vocab, (sequences, length), generator=generator)
    save_file({"input_ids_all": inputs, "target_ids_all": targets}, path)


@dataclass
class Rates:
    """FLOP/s that OpenBLAS reaches in a command's shapes, weighted by the work in each."""

    wall: float
    cpu: float


def measure_peak(options: argparse.Namespace, shapes: list[Gemm]) -> Rates:
    words = [f"{min(shape.m, LARGEST_PRODUCT // shape.n)},{shape.n},{shape.k}" for shape in shapes]
    command = [str(options.blas), str(options.threads), str(options.seconds), *words]
    found = json.loads(run_measured(command)["out"])
    total = sum(shape.flops() for shape in shapes)

    def rate(key: str) -> float:
        return total / sum(shape.flops() / row[key] for shape, row in zip(shapes, found, strict=True))

    return Rates(rate("flops"), rate("flops_of_cpu"))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(options: argparse.Namespace, command: list[str], shapes: list[Gemm], other_flops: float) -> dict[str, Any]:
    before = measure_peak(options, shapes)
    start = cpu_seconds()
    run = run_measured([*command, "--threads", str(options.threads), "--quiet"])
    cpu = cpu_seconds() - start
    after = measure_peak(options, shapes)
    flops = sum(shape.flops() for shape in shapes) + other_flops
    peak = Rates(max(before.wall, after.wall), max(before.cpu, after.cpu))
    return {
        "seconds": run["seconds"],
        "cpu_seconds": cpu,
        "peak_rss_bytes": run["peak_rss_bytes"],
        "tflop": flops / 1e12,
        "gflops": flops / run["seconds"] / 1e9,
        "peak_gflops": peak.wall / 1e9,
        "share": flops / run["seconds"] / peak.wall,
        "share_of_cpu": flops / cpu / peak.cpu,
        "load": os.getloadavg()[0],
    }


def run_all(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model = work / "checkpoint"
    if not model.exists():
        make_checkpoint(options.shape, model)
    config = read_config(model)
    data = work / "tokens.safetensors"
    write_tokens(data, config.vocab, options.sequences, options.length)
    tokens = options.sequences * options.length
    layers, head = layer_shapes(config, tokens), head_shape(config, tokens)
    attention = attention_flops(config, options.sequences, options.length)
    twice = [Gemm(s.m, s.n, s.k, 2 * s.count) for s in [*layers, head]]
    scratch = work / "output"
    calibrated = ["-o", str(scratch), "--calibration", str(data)]
    program = str(options.exporter)
    jobs: dict[str, tuple[list[str], list[Gemm], float]] = {
        "evaluate, float32": (["evaluate", str(model), "--data", str(data)], [*layers, head], attention),
        "evaluate, int4 beside float32": (
            ["evaluate", str(model), "--data", str(data), "--dtype", "int4"],
            twice,
            2 * attention,
        ),
        "export, int8 static": (
            ["export", str(model), "--dtype", "int8", "--mode", "static", *calibrated],
            layers,
            attention,
        ),
        "quantize, int4 gptq": (
            ["quantize", str(model), "--dtype", "int4", "--method", "gptq", *calibrated],
            [*layers, *hessian_shapes(config, tokens)],
            attention,
        ),
    }
    results = {}
    for name in options.jobs or jobs:
        arguments, shapes, other = jobs[name]
        print(f"[runtime] {name}", file=sys.stderr, flush=True)
        results[name] = measure(options, [program, *arguments], shapes, other)
        print(f"[runtime] {json.dumps(results[name])}", file=sys.stderr, flush=True)
        if scratch.is_dir():
            shutil.rmtree(scratch)
        scratch.unlink(missing_ok=True)
    return results


def print_table(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    m = machine()
    print(f"{options.shape}, {options.sequences} x {options.length} tokens, {options.threads} threads; {m['cpu']}, "
          f"{m['cores']} cores, {m['memory_bytes'] / 1e9:.0f} GB\n")  # fmt: skip
    print("| command | s | CPU, s | TFLOP | GFLOP/s | OpenBLAS | share | share of CPU time | peak RSS, MB | load |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in results.items():
        print(f"| {name} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['tflop']:.2f} | {row['gflops']:.1f} "
              f"| {row['peak_gflops']:.1f} | {row['share']:.0%} | {row['share_of_cpu']:.0%} "
              f"| {row['peak_rss_bytes'] / 1e6:.0f} | {row['load']:.1f} |")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--jobs", action="append", help="a line of the table, may be repeated; default: all")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--seconds", type=float, default=2, help="how long OpenBLAS multiplies each shape")
    parser.add_argument("--blas", type=Path, default=ROOT / "build/release/bin/blas_benchmark")
    options = parse_shape_options(parser)
    return run_benchmark("runtime", options, run_all, lambda results: print_table(options, results))


if __name__ == "__main__":
    sys.exit(main())
