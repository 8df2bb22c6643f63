#!/usr/bin/env python3
"""The main job on the bundled model: exports it in every format, runs each file in ExecuTorch and prints one table.

Columns: file size and its ratio to FP32's; largest absolute error and cosine of the logits against the FP32 logits that
were computed in PyTorch when the model was trained (examples/tiny-llada/eval.safetensors); mean loss at mask ratios of
15, 50 and 90 % in nats per masked token; export time as the command reports it, latency of 128 tokens. It ends with
what a small SDAR and a small LLaDA (examples/tiny-sdar, tiny-llada-text) write from the same prompt in FP32 and INT4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The runtime's CPU detection prints notes on stderr that say nothing to a user.
with open(os.devnull, "w") as devnull:
    saved = os.dup(2)
    os.dup2(devnull.fileno(), 2)
    import executorch.kernels.quantized  # noqa: F401  (registers the embedding operators)
    import torch
    from executorch.runtime import Runtime, Verification
    from safetensors.torch import load_file

    os.dup2(saved, 2)

MODEL = Path(__file__).resolve().parent / "tiny-llada"
WRITERS = {"SDAR": MODEL.parent / "tiny-sdar", "LLaDA": MODEL.parent / "tiny-llada-text"}
PROMPT = "And the LORD said unto Moses,"
DECODING = {
    "SDAR": ["--max-new-tokens", "80", "--repetition-penalty", "1.2"],
    "LLaDA": ["--max-new-tokens", "48", "--repetition-penalty", "1.2", "--block-length", "8"],
}
FORMATS = {
    "FP32": [],
    "FP16": ["--dtype", "fp16"],
    "FP16 throughout": ["--dtype", "fp16", "--activation-dtype", "fp16"],
    "INT8 weight-only": ["--dtype", "int8"],
    "INT8 dynamic": ["--dtype", "int8", "--mode", "dynamic"],
    "INT4 g32": ["--dtype", "int4"],
    "INT4 g64": ["--dtype", "int4", "--group-size", "64"],
    "INT4 g128": ["--dtype", "int4", "--group-size", "128"],
    "INT4 g256": ["--dtype", "int4", "--group-size", "256"],
    "INT4 per channel": ["--dtype", "int4", "--group-size", "0"],
    "INT4 g32, rest FP16": ["--dtype", "int4", "--embedding-dtype", "fp16", "--head-dtype", "fp16"],
    "INT4 g32, rest INT8": ["--dtype", "int4", "--embedding-dtype", "int8", "--head-dtype", "int8"],
    "INT4 g32, rest INT4": ["--dtype", "int4", "--embedding-dtype", "int4", "--head-dtype", "int4"],
}


def export(command: str, options: list[str], target: Path) -> dict:
    """Runs the command; its JSON report."""
    words = [command, "export", str(MODEL), "-o", str(target), "--json", *options]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


class Program:
    """A .pte file in the ExecuTorch runtime."""

    def __init__(self, path: Path) -> None:
        self.program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        self.method = self.program.load_method("forward")

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids int64 [1, seq] -> float32 [1, seq, vocab]."""
        return self.method.execute([input_ids])[0].clone()


def mean_loss(program: Program, data: dict[str, torch.Tensor], ratio: int) -> float:
    """Mean cross-entropy in nats over the masked positions of all sequences."""
    losses = []
    for ids, targets in zip(data[f"input_ids_{ratio}"], data[f"target_ids_{ratio}"], strict=True):
        logits = program.logits(ids[None])[0]
        losses.append(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="none"))
    total = torch.cat(losses)
    return float(total.sum() / (data[f"target_ids_{ratio}"] != -100).sum())


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the angle between all logits as one vector, in double precision."""
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def measure(program: Program, data: dict[str, torch.Tensor]) -> dict[str, float]:
    """Agreement with the reference logits, losses, and the least latency of ten runs in milliseconds."""
    reference = data["reference_logits"]
    logits = torch.cat([program.logits(ids[None]) for ids in data["reference_input_ids"]])
    times = []
    for _ in range(10):
        start = time.perf_counter()
        program.logits(data["reference_input_ids"][:1])
        times.append(time.perf_counter() - start)
    return {
        "max_error": float((logits - reference).abs().max()),
        "cosine": cosine(logits, reference),
        "loss15": mean_loss(program, data, 15),
        "loss50": mean_loss(program, data, 50),
        "loss90": mean_loss(program, data, 90),
        "latency_ms": min(times) * 1e3,
    }


def write(command: str, writer: str, options: list[str]) -> dict:
    """What a model writes behind the prompt, by the command's JSON."""
    model = str(WRITERS[writer])
    words = [command, "generate", model, "--prompt", PROMPT, *DECODING[writer], *options, "--json", "--quiet"]
    return json.loads(subprocess.check_output(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", default="build/release/bin/diffulex-edge")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    data = load_file(MODEL / "eval.safetensors")
    rows: dict[str, dict] = {}
    header = f"{'format':<20} {'MiB':>6} {'ratio':>6} {'max error':>10} {'cosine':>9}"
    header += f" {'loss 15%':>8} {'50%':>7} {'90%':>7} {'export ms':>9} {'run ms':>7}"
    if not arguments.json:
        print(f"{header}\n{'-' * len(header)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in FORMATS.items():
            target = Path(folder) / "model.pte"
            report = export(arguments.command, options, target)
            row = {"file_bytes": report["file_bytes"], "export_ms": report["seconds"] * 1e3}
            row |= measure(Program(target), data)
            rows[name] = row
            row["ratio"] = rows["FP32"]["file_bytes"] / row["file_bytes"]
            if not arguments.json:
                print(
                    f"{name:<20} {row['file_bytes'] / 2**20:6.2f} {row['ratio']:5.2f}x {row['max_error']:10.2e} "
                    f"{row['cosine']:9.6f} {row['loss15']:8.4f} {row['loss50']:7.4f} {row['loss90']:7.4f} "
                    f"{row['export_ms']:9.1f} {row['latency_ms']:7.2f}",
                    flush=True,
                )
    texts = {
        f"{writer}, {name}": write(arguments.command, writer, FORMATS[name])
        for writer in WRITERS
        for name in ("FP32", "INT4 g32")
    }
    if arguments.json:
        print(json.dumps({"formats": rows, "texts": texts}))
        return
    for name, text in texts.items():
        print(f"\n{name}, {text['tokens_per_second']:.0f} tokens per second, {text['tokens_per_forward']:.1f} a pass:")
        print(PROMPT + text["text"])


if __name__ == "__main__":
    main()
