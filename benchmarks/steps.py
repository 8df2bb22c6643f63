"""Steps of a program with a cache in ExecuTorch: milliseconds over contexts and tokens, load time and memory.

A random checkpoint is exported with `--cache` and, for the same step without one, as a program of whole sequences. They
take turns, so that what else the machine does hits both. With --official, ExecuTorch's own route for language models
(llama_route.py) exports the same weights, which takes minutes, and its program takes turns with them; with --against,
any other program of the same inputs: forward(input_ids int64 [1, B], start_pos int64 [1]).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import machine, parse_shape_options, run_benchmark, run_measured, say
from latency import memory_bytes
from make_checkpoint import SHAPES, make_checkpoint

FORMAT = ("--dtype", "int4", "--group-size", "32", "--embedding-dtype", "int4", "--head-dtype", "int4")


def serve(options: argparse.Namespace) -> None:
    """Child: steps of one program, {"load_ms": ..., "anonymous_bytes": ..., "steps": {"context,tokens": ms}}."""
    import executorch.kernels.quantized  # noqa: F401 (registers the INT8 and INT4 embedding operators)
    import torch
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 (registers those of the official route)
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime, Verification

    portable_lib._unsafe_reset_threadpool(options.threads)
    clock = time.process_time if options.processor_time else time.perf_counter
    before = memory_bytes()["RssAnon"]
    begin = time.perf_counter()
    program = Runtime.get().load_program(options.serve, verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    load = time.perf_counter() - begin
    has_cache = method.metadata.num_inputs() > 1
    steps = {}
    vocab = SHAPES[options.shape].config["vocab_size"]
    for context in map(int, options.contexts.split(",")):
        for count in map(int, options.tokens.split(",")):
            ids = torch.randint(0, vocab, (1, count if has_cache else context + count))
            inputs = [ids, torch.tensor([context])] if has_cache else [ids]
            taken = []
            for _ in range(options.repetitions):
                begin = clock()
                method.execute(inputs)
                taken.append((clock() - begin) * 1e3)
            steps[f"{context},{count}"] = min(taken)
    print(json.dumps({"load_ms": load * 1e3, "anonymous_bytes": memory_bytes()["RssAnon"] - before, "steps": steps}))


def measure(options: argparse.Namespace, path: Path, repetitions: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--serve", str(path), "--shape", options.shape, "--contexts", options.contexts]
    words += ["--tokens", options.tokens, "--threads", str(options.threads), "--repetitions", str(repetitions)]
    words += ["--processor-time"] if options.processor_time else []
    result: dict[str, Any] = json.loads(subprocess.check_output(words, stderr=subprocess.DEVNULL))
    return result


def compare(options: argparse.Namespace) -> dict[str, Any]:
    model = options.work / "checkpoint"
    if not model.exists():
        make_checkpoint(options.shape, model)
    programs = {f"{dtype} cache": options.work / f"{dtype}.pte" for dtype in options.cache_dtypes.split(",")}
    longest = max(map(int, options.contexts.split(","))) + max(map(int, options.tokens.split(",")))
    common = [str(options.exporter), "export", str(model), *FORMAT, "--json", "--quiet"]
    reports = {}
    for name, path in programs.items():
        cache = ["--cache", str(options.capacity), "--cache-dtype", name.split()[0], "-o", str(path)]
        reports[name] = json.loads(run_measured([*common, *cache])["out"])
    if not options.steps_only:
        programs["no cache"] = options.work / "whole.pte"
        run_measured([*common, "-o", str(programs["no cache"]), "--seq-len", str(longest)])
    if options.against:
        programs["against"] = options.against
    if options.official:
        programs["export_llm"] = options.work / "export_llm.pte"
        if not programs["export_llm"].exists():
            route = Path(__file__).parent / "llama_route.py"
            words = [str(model), str(programs["export_llm"]), "--capacity", str(options.capacity)]
            subprocess.run([sys.executable, str(route), *words], check=True, stdout=sys.stderr)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for number in range(options.rounds):
        say(f"[steps] round {number + 1} of {options.rounds}")
        for name, path in programs.items():
            rounds[name].append(measure(options, path, 1 if name == "no cache" else options.repetitions))
    return {
        "shape": options.shape,
        "machine": machine(),
        "threads": options.threads,
        "caches": [report["cache"] for report in reports.values()],
        "file_bytes": max(report["file_bytes"] for report in reports.values()),
        "rounds": rounds,
    }


def print_table(result: dict[str, Any]) -> None:
    m, rounds = result["machine"], result["rounds"]
    caches = ", ".join(f"{cache['dtype']} {cache['bytes'] / 1e6:.0f} MB" for cache in result["caches"])
    print(f"{result['shape']}, INT4 in groups of 32, {result['file_bytes'] / 1e6:.0f} MB; cache of "
          f"{result['caches'][0]['tokens']} tokens ({caches}); {result['threads']} threads; {m['cpu']}, "
          f"{m['cores']} cores\n")  # fmt: skip
    print("| context | tokens | " + " | ".join(f"{name}, ms" for name in rounds) + " |")
    print("| ---: | ---: |" + " ---: |" * len(rounds))
    for key in next(iter(rounds.values()))[0]["steps"]:
        times = [statistics.median(turn["steps"][key] for turn in turns) for turns in rounds.values()]
        print(f"| {' | '.join(key.split(','))} | " + " | ".join(f"{value:.1f}" for value in times) + " |")
    for name, turns in rounds.items():
        load = statistics.median(turn["load_ms"] for turn in turns)
        memory = statistics.median(turn["anonymous_bytes"] for turn in turns) / 1e6
        print(f"\n{name}: loads in {load:.0f} ms, {memory:.0f} MB of private memory after all steps")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--tokens", default="1,4,8,16,32", help="of a step")
    parser.add_argument("--contexts", default="128,512,1024", help="tokens in the cache before it")
    parser.add_argument("--capacity", type=int, default=2048)
    parser.add_argument("--cache-dtypes", default="fp16", help="one or several of fp16,fp32,int8")
    parser.add_argument("--steps-only", action="store_true", help="no program without a cache")
    parser.add_argument("--processor-time", action="store_true", help="of all threads: on a machine with other work")
    parser.add_argument("--official", action="store_true", help="beside ExecuTorch's route for language models")
    parser.add_argument("--against", type=Path, help="another .pte of the same inputs")
    parser.add_argument("--rounds", type=int, default=2, help="turns of all")
    parser.add_argument("--repetitions", type=int, default=5, help="of each step in a round; the least counts")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parse_shape_options(parser)
    if options.serve:
        serve(options)
        return 0
    return run_benchmark("steps", options, compare, print_table)


if __name__ == "__main__":
    sys.exit(main())
