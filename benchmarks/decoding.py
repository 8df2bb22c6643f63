"""Text by LLaDA's own schedule on a random LLaDA shape in INT4, perhaps beside llama.cpp's llama-diffusion-cli.

Both write as many tokens in as many steps, in blocks of 32, from a prompt of as many tokens, and take turns. llama.cpp
computes the whole sequence and all its logits in every step. So do we with `--cache none`, but for the logits of tokens
that are there already; `prefix` and `dual` are Fast-dLLM's approximations, which llama.cpp has not. The weights are
random: what is written says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench import MeasurementError, machine, parse_shape_options, run_benchmark, run_measured
from make_checkpoint import make_checkpoint
from random_gguf import ARRAY, F32, I32, STRING, U32, GgufTensor, Value, write_gguf

CACHES = ("none", "prefix", "dual")
BLOCK = 32
NORMAL, CONTROL = 1, 3  # types of a token


def gguf_tensors(config: dict[str, Any]) -> list[GgufTensor]:
    hidden, mlp, vocab = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    kv = hidden // config["n_heads"] * config["n_kv_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden),
        "attn_output": (hidden, hidden), "ffn_norm": (hidden,), "ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden),
        "ffn_down": (hidden, mlp),
    }  # fmt: skip
    tensors = [GgufTensor("token_embd.weight", (vocab, hidden)), GgufTensor("output_norm.weight", (hidden,))]
    tensors.append(GgufTensor("output.weight", (vocab, hidden)))
    for layer in range(config["n_layers"]):
        tensors += [GgufTensor(f"blk.{layer}.{name}.weight", shape) for name, shape in shapes.items()]
    return tensors


def byte_tokens() -> list[str]:
    """GPT-2's characters for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def gguf_values(config: dict[str, Any]) -> dict[str, Value]:
    vocab, mask = config["embedding_size"], config["mask_token_id"]
    tokens = byte_tokens() + [f"<{i}>" for i in range(256, vocab)]
    return {
        "general.architecture": (STRING, "llada"),
        "llada.context_length": (U32, config["max_sequence_length"]),
        "llada.embedding_length": (U32, config["d_model"]),
        "llada.block_count": (U32, config["n_layers"]),
        "llada.feed_forward_length": (U32, config["mlp_hidden_size"]),
        "llada.attention.head_count": (U32, config["n_heads"]),
        "llada.attention.head_count_kv": (U32, config["n_kv_heads"]),
        "llada.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "llada.rope.freq_base": (F32, config["rope_theta"]),
        "llada.vocab_size": (U32, vocab),
        "diffusion.shift_logits": (STRING, "false"),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [CONTROL if i == mask else NORMAL for i in range(vocab)])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, [])),
        "tokenizer.ggml.mask_token_id": (U32, mask),
    }


def run_ours(options: argparse.Namespace, model: Path, cache: str) -> float:
    """Seconds for all tokens."""
    command = [
        str(options.exporter), "generate", str(model), "--prompt-ids", str(options.work / "prompt.npy"),
        "--dtype", "int4", "--mode", "dynamic", "--embedding-dtype", "int4", "--head-dtype", "int4",
        "--max-new-tokens", str(options.new_tokens), "--steps", str(options.steps), "--block-length", str(BLOCK),
        "--cache", cache, "--cache-dtype", "fp16", "--ignore-eos", "--pack-cache", str(options.work / "packs"),
        "--threads", str(options.threads), "--json", "--quiet",
    ]  # fmt: skip
    seconds: float = json.loads(run_measured(command)["out"])["seconds"]
    return seconds


def run_llama(options: argparse.Namespace, model: Path) -> float:
    """Seconds for the steps that write: llama-diffusion-cli also spends steps on blocks behind the end, as many as the
    prompt has, which are not counted here."""
    length = options.prompt_tokens + options.new_tokens
    steps = options.steps * length // options.new_tokens
    command = [
        str(options.llama_diffusion), "-m", str(model), "-p", "a" * options.prompt_tokens, "-ub", str(length),
        "-b", str(length), "-c", str(length), "--diffusion-block-length", str(BLOCK), "--diffusion-eps", "0",
        "--diffusion-steps", str(steps), "--diffusion-algorithm", "4", "--temp", "0", "-t", str(options.threads),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"total time: ([0-9.]+)ms", result.stdout + result.stderr)
    if result.returncode != 0 or found is None:
        reason = ((result.stderr or result.stdout).strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"llama-diffusion-cli: exit code {result.returncode}: {reason[:200]}")
    return float(found[1]) / 1000 * options.steps / steps


def measure(options: argparse.Namespace) -> dict[str, Any]:
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model, gguf = work / "checkpoint", work / "q4_0.gguf"
    if not model.exists():
        make_checkpoint(options.shape, model)
    config = json.loads((model / "config.json").read_text())
    np.save(work / "prompt.npy", np.full((1, options.prompt_tokens), 64, np.int64))
    if options.llama_diffusion and not gguf.exists():
        write_gguf(gguf, gguf_values(config), gguf_tensors(config))
    seconds: dict[str, list[float]] = {}
    for number in range(options.rounds):
        print(f"[decoding] round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for cache in CACHES:
            seconds.setdefault(cache, []).append(run_ours(options, model, cache))
        if options.llama_diffusion:
            seconds.setdefault("llama.cpp", []).append(run_llama(options, gguf))
    rows = []
    for name, values in seconds.items():
        row: dict[str, Any] = {"name": name, "seconds": statistics.median(values)}
        row["tokens_per_second"] = options.new_tokens / row["seconds"]
        if "llama.cpp" in seconds:
            row["ratios"] = [their / our for our, their in zip(values, seconds["llama.cpp"], strict=True)]
        rows.append(row)
    return {
        "shape": options.shape,
        "machine": machine(),
        "threads": options.threads,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "steps": options.steps,
        "load": os.getloadavg()[0],
        "rows": rows,
    }


def print_table(result: dict[str, Any]) -> None:
    m = result["machine"]
    print(f"{result['shape']}, INT4 in groups of 32: {result['new_tokens']} tokens behind {result['prompt_tokens']} in "
          f"{result['steps']} steps, blocks of {BLOCK}; {result['threads']} threads; {m['cpu']}, {m['cores']} cores, "
          f"load {result['load']:.1f}\n")  # fmt: skip
    print("| | s | tokens/s | times llama.cpp's speed | of the rounds |")
    print("| --- | ---: | ---: | ---: | --- |")
    for row in result["rows"]:
        ratios = row.get("ratios")
        ratio = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f}" if ratios else "|"
        name = row["name"] if row["name"] == "llama.cpp" else f"`--cache {row['name']}`"
        print(f"| {name} | {row['seconds']:.1f} | {row['tokens_per_second']:.1f} | {ratio} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["llada-0.5b", "llada-8b"], default="llada-0.5b")
    parser.add_argument("--llama-diffusion", type=Path, help="llama.cpp's llama-diffusion-cli, measured beside ours")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="turns of all")
    options = parse_shape_options(parser)
    for name in ("prompt_tokens", "new_tokens"):
        if getattr(options, name) % BLOCK != 0:
            parser.error(f"{name} is no multiple of {BLOCK}")
    if options.steps % (options.new_tokens // BLOCK) != 0:
        parser.error("steps can't be shared evenly by the blocks")
    return run_benchmark("decoding", options, measure, print_table)


if __name__ == "__main__":
    sys.exit(main())
