"""Forward passes of a Qwen3-0.6B shape in INT4, over tokens and cached context, perhaps beside llama.cpp's Q4_0.

`diffulex-edge bench` runs a random checkpoint, llama-bench a GGUF file of the same shape, written here: both have
weights of 4 bits in groups of 32, activations in 8 bits and a cache in FP16. They take turns, so that what else the
machine does hits both. llama-bench computes the logits of a pass's last token only, we those of all (--rows last: of
the last one as well). A ratio above 1 is how many times longer llama.cpp's pass takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import machine, parse_shape_options, run_benchmark, run_measured
from make_checkpoint import SHAPES, make_checkpoint
from random_gguf import F32, STRING, U32, GgufTensor, write_gguf


def gguf_tensors(config: dict[str, Any]) -> list[GgufTensor]:
    """Of a Qwen3 model whose head is its embedding."""
    hidden, mlp, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = (config[key] * dim for key in ("num_attention_heads", "num_key_value_heads"))
    tensors = [
        GgufTensor("token_embd.weight", (config["vocab_size"], hidden)),
        GgufTensor("output_norm.weight", (hidden,)),
    ]
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden),
        "attn_output": (hidden, q), "attn_q_norm": (dim,), "attn_k_norm": (dim,), "ffn_norm": (hidden,),
        "ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden), "ffn_down": (hidden, mlp),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        tensors += [GgufTensor(f"blk.{layer}.{name}.weight", shape) for name, shape in shapes.items()]
    return tensors


def gguf_values(config: dict[str, Any], context: int) -> dict[str, tuple[int, Any]]:
    return {
        "general.architecture": (STRING, "qwen3"),
        "qwen3.context_length": (U32, context),
        "qwen3.embedding_length": (U32, config["hidden_size"]),
        "qwen3.block_count": (U32, config["num_hidden_layers"]),
        "qwen3.feed_forward_length": (U32, config["intermediate_size"]),
        "qwen3.attention.head_count": (U32, config["num_attention_heads"]),
        "qwen3.attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "qwen3.attention.key_length": (U32, config["head_dim"]),
        "qwen3.attention.value_length": (U32, config["head_dim"]),
        "qwen3.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "qwen3.rope.freq_base": (F32, float(config["rope_theta"])),
        "qwen3.vocab_size": (U32, config["vocab_size"]),
        "tokenizer.ggml.model": (STRING, "no_vocab"),
    }


Key = tuple[int, int]  # context, tokens


def run_ours(options: argparse.Namespace, model: Path) -> tuple[dict[str, Any], dict[Key, float]]:
    """The report, and milliseconds of each pass."""
    command = [
        str(options.exporter), "bench", str(model), "--dtype", "int4", "--group-size", "32", "--mode", "dynamic",
        "--embedding-dtype", "int4", "--head-dtype", "int4", "--tokens", options.tokens, "--contexts", options.contexts,
        "--rows", options.rows, "--cache-dtype", options.cache_dtype, "--threads", str(options.threads),
        "--repetitions", str(options.repetitions), "--json", "--quiet",
    ]  # fmt: skip
    report = json.loads(run_measured(command)["out"])
    return report, {(row["context"], row["tokens"]): row["milliseconds"] for row in report["passes"]}


def run_llama(options: argparse.Namespace, model: Path) -> dict[Key, float]:
    """Milliseconds of each pass."""
    most = max(int(tokens) for tokens in options.tokens.split(","))
    command = [
        str(options.llama_bench), "-m", str(model), "-p", options.tokens, "-n", "0", "-d", options.contexts,
        "-b", str(max(most, 512)), "-ub", str(max(most, 512)), "-t", str(options.threads),
        "-r", str(options.repetitions), "-o", "json",
    ]  # fmt: skip
    found = json.loads(run_measured(command)["out"])
    return {(row["n_depth"], row["n_prompt"]): statistics.median(row["samples_ns"]) / 1e6 for row in found}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model = work / "checkpoint"
    if not model.exists():
        make_checkpoint(options.shape, model)
    gguf = work / "q4_0.gguf"
    if options.llama_bench and not gguf.exists():
        config = json.loads((model / "config.json").read_text())
        write_gguf(gguf, gguf_values(config, config["max_position_embeddings"]), gguf_tensors(config))
    ours: dict[Key, list[float]] = {}
    theirs: dict[Key, list[float]] = {}
    report: dict[str, Any] = {}
    for number in range(options.rounds):
        print(f"[generation] round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        report, times = run_ours(options, model)
        for key, value in times.items():
            ours.setdefault(key, []).append(value)
        for key, value in (run_llama(options, gguf) if options.llama_bench else {}).items():
            theirs.setdefault(key, []).append(value)
    rows = []
    for key, values in sorted(ours.items()):
        row: dict[str, Any] = {"context": key[0], "tokens": key[1], "milliseconds": statistics.median(values)}
        if key in theirs:
            row["llama_milliseconds"] = statistics.median(theirs[key])
            row["ratios"] = [their / our for our, their in zip(values, theirs[key], strict=True)]
            row["ratio"] = statistics.median(row["ratios"])
        rows.append(row)
    return {
        "shape": options.shape,
        "machine": machine(),
        "instruction_set": report["instruction_set"],
        "threads": options.threads,
        "rows": options.rows,
        "cache_dtype": options.cache_dtype,
        "load": os.getloadavg()[0],
        "weight_bytes": report["weight_bytes"],
        "prefill": report["prefill"],
        "passes": rows,
    }


def print_table(result: dict[str, Any]) -> None:
    m = result["machine"]
    print(f"{result['shape']}, INT4 in groups of 32, {result['weight_bytes'] / 1e6:.0f} MB, "
          f"{result['threads']} threads, "
          f"logits of {result['rows']} rows, cache in {result['cache_dtype']}; {m['cpu']}, {m['cores']} cores, "
          f"{result['instruction_set']}, load {result['load']:.1f}\n")  # fmt: skip
    print("| context | tokens | ms | llama.cpp Q4_0, ms | ratio | least to greatest of the rounds |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    for row in result["passes"]:
        theirs = "| | |"
        if "ratio" in row:
            spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
            theirs = f"{row['llama_milliseconds']:.1f} | {row['ratio']:.2f} | {spread} |"
        print(f"| {row['context']} | {row['tokens']} | {row['milliseconds']:.1f} | {theirs}")
    for row in result["prefill"]:
        print(f"\nprefill of {row['tokens']} tokens: {row['tokens_per_second']:.0f} tokens/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shapes = [name for name, shape in SHAPES.items() if shape.config.get("tie_word_embeddings")]
    parser.add_argument("--shape", choices=sorted(shapes), default="qwen3-0.6b")
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's llama-bench, to be measured beside ours")
    parser.add_argument("--tokens", default="1,4,8,16,32,64")
    parser.add_argument("--contexts", default="0,512,2048")
    parser.add_argument("--rows", choices=["all", "last"], default="all")
    parser.add_argument("--cache-dtype", choices=["fp32", "fp16", "int8"], default="fp16")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both")
    parser.add_argument("--repetitions", type=int, default=5, help="of each pass in a round")
    options = parse_shape_options(parser)
    return run_benchmark("generation", options, measure, print_table)


if __name__ == "__main__":
    sys.exit(main())
