"""Runs diffulex-edge and ExecuTorch's official route on the same checkpoint and prints both side by side.

Export: wall time, peak RSS, peak private memory, file size, and a plain copy of the same bytes. Artefact: latency, load
time and memory in ExecuTorch, difference from a FP32 forward in PyTorch. README.md says what is compared and why it is
fair. Exit code 0: everything ran; 1: something failed (the table says what).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from latency import compare_logits, measure
from make_checkpoint import SHAPES, make_checkpoint

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = ("torch", "executorch", "torchao")
COPY_BLOCK_BYTES = 8 << 20
BIG_SHAPES = ("llada-8b",)  # no official route, no latency and no FP32 reference unless asked for

# For each format: our options and the official route's; None where it has no counterpart.
FORMATS: dict[str, tuple[list[str], list[str] | None]] = {
    "fp32": (["--dtype", "fp32"], ["--format", "fp32"]),
    "fp16": (["--dtype", "fp16"], None),
    "int8": (["--dtype", "int8", "--mode", "dynamic"], ["--format", "int8_dynamic"]),
    "int4": (["--dtype", "int4"], ["--format", "8da4w"]),
}


class MeasurementError(Exception):
    """A measured command failed; the message is for the table."""


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


# ---- benchmarks of a shape


def parse_shape_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of `parser`, --shape among them, and those that benchmarks of a shape share."""
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, help="where all files go; default: build/bench/SHAPE")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    options = parser.parse_args()
    options.work = options.work or ROOT / "build/bench" / options.shape
    return options


def run_benchmark(
    name: str,
    options: argparse.Namespace,
    measure_all: Callable[[argparse.Namespace], T],
    print_table: Callable[[T], None],
) -> int:
    """Measures and prints; the exit code."""
    try:
        result = measure_all(options)
    except (MeasurementError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)
    return 0


# ---- measuring a process


def read_status(pid: int) -> dict[str, int]:
    """VmHWM and RssAnon of a process in bytes; empty when it is gone or a zombie."""
    found = {}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in ("VmHWM", "RssAnon"):
                    found[key] = int(value.split()[0]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def run_measured(command: list[str]) -> dict:
    """Runs a command; returns wall seconds, CPU seconds, peak RSS and peak private memory in bytes, and its stdout.

    Memory is sampled from /proc every millisecond for a quarter of a second, then every ten: VmHWM is the kernel's own
    peak, RssAnon (heap, stacks; not the mapped checkpoint) can hide a peak shorter than that.
    """
    peak = {"VmHWM": 0, "RssAnon": 0}
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        while process.poll() is None:
            for key, value in read_status(process.pid).items():
                peak[key] = max(peak[key], value)
            time.sleep(0.001 if time.perf_counter() - start < 0.25 else 0.01)
        seconds = time.perf_counter() - start
        stdout.seek(0)
        stderr.seek(0)
        out, errors = stdout.read(), stderr.read()
    if process.returncode != 0:
        reason = (errors.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"{Path(command[0]).name}: exit code {process.returncode}: {reason[:200]}")
    return {"seconds": seconds, "peak_rss_bytes": peak["VmHWM"], "peak_private_bytes": peak["RssAnon"], "out": out}


# ---- the checkpoint and the page cache


def checkpoint_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first MiB (its header) and last MiB: tells checkpoints apart without reading them."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        digest = hashlib.sha256(b"%d" % size + file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()


def used_bytes(folder: Path) -> int:
    """Bytes of the tensors a model is made of: a head that is stored though it is tied to the embedding is not read."""
    config = json.loads((folder / "config.json").read_text())
    tied = bool(config.get("tie_word_embeddings", config.get("weight_tying", False)))
    total = 0
    for path in checkpoint_files(folder):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__" and not (tied and name == "lm_head.weight"):
                total += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return total


def read_through(path: Path) -> None:
    """Brings a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(COPY_BLOCK_BYTES):
            pass


def evict(path: Path) -> None:
    """Asks the kernel to drop a file's clean pages from the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def settle(folder: Path, cold: bool) -> None:
    """Writes dirty pages back, then puts the checkpoint's pages in the state that the measurement states."""
    os.sync()
    for path in checkpoint_files(folder):
        (evict if cold else read_through)(path)


def available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


# ---- export, copy, official route


def timed_with_sync(action: Callable[[], T]) -> tuple[T, float, float]:
    """Runs an action; returns its result, the seconds until it returned and the seconds until its data is on disk."""
    start = time.perf_counter()
    result = action()
    returned = time.perf_counter() - start
    os.sync()
    return result, returned, time.perf_counter() - start


def copy_and_write(sources: list[Path], folder: Path, output_bytes: int) -> float:
    """Copies the checkpoint with cp, then writes as many bytes as the artefact has; returns the seconds of cp."""
    start = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", *map(str, sources), str(folder)], check=True)
    copied = time.perf_counter() - start
    block = np.random.default_rng(0).bytes(COPY_BLOCK_BYTES)
    with open(folder / "output", "wb", buffering=0) as file:
        while output_bytes > 0:
            output_bytes -= file.write(block[: min(output_bytes, COPY_BLOCK_BYTES)])
    return copied


def measure_ours(options: argparse.Namespace, model: Path, work: Path, name: str) -> dict:
    """Exports `rounds` times, each beside a plain copy; who goes first changes with every round."""
    output = work / f"ours-{name}.pte"
    command = [str(options.exporter), "export", str(model), "-o", str(output), *FORMATS[name][0], "--quiet"]
    command += ["--seq-len", str(options.seq_len)]
    if name == "int4":
        command += ["--group-size", str(options.group_size)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    copies = work / "copy"
    needed = 3 * sum(path.stat().st_size for path in checkpoint_files(model))  # a copy, and at most twice the artefact
    if shutil.disk_usage(work).free < needed:
        raise MeasurementError(
            f"{work} has less than {needed / 1e9:.0f} GB of free space, for a copy of the checkpoint"
        )
    rounds: list[dict] = []
    say("our export: " + " ".join(command[1:]))
    settle(model, options.cold)
    output_bytes = 0
    if not options.cold:  # tells how much the copy has to write; in the cold state the first round exports first
        run_measured(command)
        output_bytes = output.stat().st_size
    for number in range(options.rounds):
        record: dict = {}
        export_first = number % 2 == 0
        for step in ("export", "copy") if export_first else ("copy", "export"):
            settle(model, options.cold)
            if step == "export":
                run, _, on_disk = timed_with_sync(partial(run_measured, command))
                record |= run | {"on_disk_seconds": on_disk}
                output_bytes = output.stat().st_size
            else:
                shutil.rmtree(copies, ignore_errors=True)
                copies.mkdir()
                copy = partial(copy_and_write, checkpoint_files(model), copies, output_bytes)
                cp, total, on_disk = timed_with_sync(copy)
                record |= {"cp_seconds": cp, "copy_seconds": total, "copy_on_disk_seconds": on_disk}
                shutil.rmtree(copies)
        record.pop("out")
        rounds.append(record | {"first": "export" if export_first else "copy"})
        say(f"  round {number + 1}: export {record['seconds']:.3f} s, copy {record['copy_seconds']:.3f} s")

    def median(key: str) -> float:
        return statistics.median(r[key] for r in rounds)

    return {
        "command": command,
        "seconds": median("seconds"),
        "on_disk_seconds": median("on_disk_seconds"),
        "peak_rss_bytes": max(r["peak_rss_bytes"] for r in rounds),
        "peak_private_bytes": max(r["peak_private_bytes"] for r in rounds),
        "file_bytes": output_bytes,
        "copy": {
            "cp_seconds": median("cp_seconds"),
            "seconds": median("copy_seconds"),
            "on_disk_seconds": median("copy_on_disk_seconds"),
            "export_over_copy": [round(r["seconds"] / r["copy_seconds"], 3) for r in rounds],
            "export_over_copy_on_disk": [round(r["on_disk_seconds"] / r["copy_on_disk_seconds"], 3) for r in rounds],
        },
        "rounds": rounds,
    }


def official_key(options: argparse.Namespace, model: Path, arguments: list[str]) -> dict:
    """What an official result depends on; a cached one counts only if all of it is the same."""
    return {
        "arguments": arguments,
        "config": json.loads((model / "config.json").read_text()),
        "weights": {path.name: fingerprint(path) for path in checkpoint_files(model)},
        "route": hashlib.sha256((HERE / "official_route.py").read_bytes()).hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": machine(),
    }


def measure_official(options: argparse.Namespace, model: Path, work: Path, name: str) -> dict | None:
    """Runs the official route once, or takes its cached result; None where the format has no official counterpart."""
    route = FORMATS[name][1]
    if route is None:
        return None
    arguments = [*route, "--seq-len", str(options.seq_len), "--attention", options.attention]
    arguments += ["--qparams", options.qparams]
    if name == "int4":
        arguments += ["--group-size", str(options.group_size)]
    key = official_key(options, model, arguments)
    output, cache = work / f"official-{name}.pte", work / f"official-{name}.json"
    if not options.fresh and cache.exists() and output.exists():
        cached = json.loads(cache.read_text())
        if cached["key"] == key:
            say(f"official route, {name}: measured on {cached['date']} (--fresh measures again)")
            return cached | {"cached": True}
    say(f"official route, {name}: running (minutes; a 0.6B model takes a quarter of an hour)")
    settle(model, options.cold)
    command = [sys.executable, str(HERE / "official_route.py"), str(model), "-o", str(output), *arguments]
    run, _, on_disk = timed_with_sync(partial(run_measured, command))
    own = json.loads(run.pop("out").splitlines()[-1])
    result = run | {
        "on_disk_seconds": on_disk,
        "peak_rss_bytes": max(run["peak_rss_bytes"], own["peak_rss_bytes"]),
        "file_bytes": own["file_bytes"],
        "stages": own["seconds"],
        "delegate_calls": own["delegate_calls"],
        "operators_outside": own["operators_outside"],
        "date": datetime.date.today().isoformat(),
        "key": key,
    }
    cache.write_text(json.dumps(result, indent=1) + "\n")
    return result | {"cached": False}


def reference_logits(options: argparse.Namespace, model: Path, work: Path) -> np.ndarray:
    """Logits of the FP32 forward in PyTorch, float32 [1, seq_len, vocab]."""
    say("FP32 reference in PyTorch")
    output = work / "reference.npy"
    command = [sys.executable, str(HERE / "reference.py"), str(model), "-o", str(output)]
    run_measured([*command, "--seq-len", str(options.seq_len)])
    return np.load(output)


def add_latency(options: argparse.Namespace, work: Path, name: str, row: dict, reference: np.ndarray | None) -> None:
    """Runs the files of one format side by side in ExecuTorch and adds what it finds to the row."""
    sides = [side for side in ("ours", "official") if row.get(side)]
    if not sides:
        return
    say(f"latency, {name}")
    paths = [work / f"{side}-{name}.pte" for side in sides]
    result, logits = measure(paths, options.seq_len, options.seconds)
    for side, file, values in zip(sides, result["files"], logits, strict=True):
        row[side]["runtime"] = file
        if reference is not None:
            row[side]["against_reference"] = compare_logits(values, reference)
    if len(sides) == 2:
        row["latency_ratio"] = result["ratio"]


# ---- the table


def machine() -> dict:
    """CPU, number of cores and memory of this machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0].partition(":")[2].strip() if names else "unknown",
        "cores": os.cpu_count(),
        "memory_bytes": memory,
    }


def lookup(row: dict, *keys: str) -> float | None:
    """The number under nested keys, None where any is missing."""
    value: Any = row
    for key in keys:
        if not isinstance(value, dict) or value.get(key) is None:
            return None
        value = value[key]
    return float(value)


# (label, keys of the value, scale, digits, whether theirs / ours is a meaningful ratio)
METRICS: list[tuple[str, tuple[str, ...], float, int, bool]] = [
    ("export, s", ("seconds",), 1, 3, True),
    ("export, on disk, s", ("on_disk_seconds",), 1, 3, True),
    ("peak RSS, MB", ("peak_rss_bytes",), 1e-6, 1, True),
    ("peak private memory, MB", ("peak_private_bytes",), 1e-6, 1, True),
    ("file, MB", ("file_bytes",), 1e-6, 3, True),
    ("latency, median, ms", ("runtime", "median_ms"), 1, 2, True),
    ("latency, least, ms", ("runtime", "min_ms"), 1, 2, True),
    ("load, ms", ("runtime", "load_ms"), 1, 1, True),
    ("runtime private memory, MB", ("runtime", "memory_bytes", "RssAnon"), 1e-6, 1, True),
    ("cosine to FP32 PyTorch", ("against_reference", "cosine"), 1, 6, False),
    ("max abs to FP32 PyTorch", ("against_reference", "max_abs"), 1, 6, False),
    ("same best token", ("against_reference", "same_argmax"), 1, 4, False),
]


def print_table(result: dict) -> None:
    """Prints one table for a shape; a ratio is official / ours: over 1, ours is the smaller."""
    m = result["machine"]
    print(f"\n{result['model']}: {result['used_bytes'] / 1e9:.3f} GB of weights, sequence length {result['seq_len']}, "
          f"INT4 groups of {result['group_size']}")  # fmt: skip
    print(f"page cache {result['page_cache']} before every export and copy, dirty pages written back")
    print(f"{m['cpu']}, {m['cores']} cores, {m['memory_bytes'] / 1e9:.1f} GB; {result['date']}; {result['exporter']}")
    if result["versions"]:
        print("official: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    print("ratio = official / ours: over 1, ours is faster or smaller\n")
    print(f"{'format':7} {'':28} {'ours':>12} {'official':>12} {'ratio':>9}")
    for name, row in result["formats"].items():
        label = name
        for text, keys, scale, digits, has_ratio in METRICS:
            ours, theirs = lookup(row, "ours", *keys), lookup(row, "official", *keys)
            if ours is None and theirs is None:
                continue
            cells = ["" if v is None else f"{v * scale:.{digits}f}" for v in (ours, theirs)]
            ratio = f"{theirs / ours:.2f}x" if has_ratio and ours and theirs else ""
            print(f"{label:7} {text:28} {cells[0]:>12} {cells[1]:>12} {ratio:>9}")
            label = ""
        if latency := row.get("latency_ratio"):
            low, high = (1 / ratio for ratio in reversed(latency["by_turn_quartiles"]))
            print(f"{'':7} latency by turn: {1 / latency['by_turn']:.2f}x (quartiles {low:.2f} to {high:.2f})")
        if copy := (row.get("ours") or {}).get("copy"):
            speed = result["used_bytes"] / 1e9 / row["ours"]["seconds"]
            cp_speed = result["disk_bytes"] / 1e9 / copy["cp_seconds"]
            print(f"{'':7} quantize throughput {speed:.2f} GB/s of weights, cp of the checkpoint {cp_speed:.2f} GB/s")
            orders = [f"{record['first']} first" for record in row["ours"]["rounds"]]
            for key, state in (("export_over_copy", "returned"), ("export_over_copy_on_disk", "on disk")):
                ratios = [f"{ratio:.2f} ({order})" for ratio, order in zip(copy[key], orders, strict=True)]
                print(f"{'':7} export / (cp input + write output), {state}: {', '.join(ratios)}")
        if official := row.get("official"):
            when = f"measured on {official['date']}" + (", cached" if official["cached"] else "")
            print(f"{'':7} official: {official['delegate_calls']} delegate calls, "
                  f"{official['operators_outside']} operators outside; {when}")  # fmt: skip
        for failure in row.get("failed", []):
            print(f"{label:7} FAILED {failure}")
        print()


# ---- main


def bench(options: argparse.Namespace, shape: str) -> dict:
    """Measures every format of one shape, or of the checkpoint given by --model."""
    work = options.work / shape
    work.mkdir(parents=True, exist_ok=True)
    model = options.model or work / "checkpoint"
    if not model.exists():
        say(f"making the {shape} checkpoint in {model}")
        make_checkpoint(shape, model)
    size = sum(path.stat().st_size for path in checkpoint_files(model))
    big = shape in BIG_SHAPES
    options.cold = {"cold": True, "warm": False, "auto": 2 * size > available_memory_bytes()}[options.page_cache]
    with_official = options.official if options.official is not None else not big
    with_latency = options.latency if options.latency is not None else not big
    result: dict = {
        "model": str(options.model or shape),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES} if with_official else {},
        "exporter": "our exporter left out",
        "disk_bytes": size,
        "used_bytes": used_bytes(model),
        "seq_len": options.seq_len,
        "group_size": options.group_size,
        "page_cache": "cold (evicted)" if options.cold else "warm (read through)",
        "formats": {},
    }
    if options.ours:
        result["exporter"] = run_measured([str(options.exporter), "--version"])["out"].strip()
    reference = reference_logits(options, model, work) if with_latency and not big else None
    for name in options.formats:
        row: dict = {"failed": []}
        result["formats"][name] = row
        steps: list[tuple[bool, str, Callable[[argparse.Namespace, Path, Path, str], dict | None]]] = [
            (options.ours, "ours", measure_ours),
            (with_official, "official", measure_official),
        ]
        for wanted, side, step in steps:
            try:
                row[side] = step(options, model, work, name) if wanted else None
            except MeasurementError as error:
                row["failed"].append(str(error))
        try:
            if with_latency:
                add_latency(options, work, name, row, reference)
        except RuntimeError as error:
            row["failed"].append(str(error))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="default: tiny and qwen3-0.6b")
    parser.add_argument("--model", type=Path, help="a checkpoint folder instead of a random one")
    parser.add_argument("--formats", default="fp32,int8,int4", help=f"of {','.join(FORMATS)}")
    parser.add_argument("--group-size", type=int, default=32, help="of INT4")
    parser.add_argument("--seq-len", type=int, default=128, help="upper bound at export and length of the latency runs")
    parser.add_argument("--official", action=argparse.BooleanOptionalAction, help="default: yes, but for llada-8b")
    parser.add_argument("--ours", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--latency", action=argparse.BooleanOptionalAction, help="default: yes, but for llada-8b")
    parser.add_argument("--attention", choices=("matmul", "sdpa"), default="matmul", help="of the official route")
    parser.add_argument("--qparams", choices=("affine", "hqq_scale_only"), default="affine", help="of torchao")
    parser.add_argument(
        "--page-cache",
        choices=("auto", "warm", "cold"),
        default="auto",
        help="state of the checkpoint's pages; auto: cold where it is larger than half of the free memory",
    )
    parser.add_argument("--rounds", type=int, default=2, help="exports beside copies; the order alternates")
    parser.add_argument("--seconds", type=float, default=10, help="how long the latency of a format is measured")
    parser.add_argument("--threads", type=int, help="of our exporter; default: its own")
    parser.add_argument("--fresh", action="store_true", help="measure the official route again")
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench", help="where all files go")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    options = parser.parse_args()
    options.formats = options.formats.split(",")
    if unknown := set(options.formats) - set(FORMATS):
        parser.error(f"unknown format {', '.join(sorted(unknown))}")
    if options.model and not (options.model / "config.json").exists():
        parser.error(f"{options.model} is not a checkpoint folder: it has no config.json")
    if options.ours and not options.exporter.exists():
        parser.error(f"{options.exporter} does not exist; run `make build` first")
    shapes = [options.model.resolve().name] if options.model else options.shape or ["tiny", "qwen3-0.6b"]
    results = []
    for shape in shapes:
        try:
            results.append(bench(options, shape))
        except (MeasurementError, OSError) as error:
            print(f"bench: {shape}: {error}", file=sys.stderr)
            return 1
        if not options.json:
            print_table(results[-1])
    if options.json:
        print(json.dumps({"results": results}))
    return int(any(row["failed"] for result in results for row in result["formats"].values()))


if __name__ == "__main__":
    sys.exit(main())
