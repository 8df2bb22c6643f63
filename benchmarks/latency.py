"""Runs two .pte files of the same model side by side in ExecuTorch: latency, load time, memory, difference of logits.

Each file lives in a process of its own; both stay loaded, and turns alternate A B A B so that drift of the machine
meets both alike. Only one of them computes at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SEED = 20261124
TURN_SECONDS = 0.1
LEAST_TURNS = 6
PAUSE_SECONDS = 0.01  # lets the other process's worker threads go to sleep


def input_ids(vocab: int, seq_len: int) -> np.ndarray:
    """The benchmark's input: random tokens, int64 [1, seq_len]."""
    return np.random.default_rng(SEED).integers(0, vocab, (1, seq_len), dtype=np.int64)


def memory_bytes() -> dict[str, int]:
    """VmRSS and RssAnon of this process, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(status[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon")}


def serve(path: Path) -> None:
    """Child: loads `path`, then obeys lines on stdin: `input FILE.npy`, `run COUNT`, `save FILE.npy`."""
    import executorch.kernels.quantized  # noqa: F401 (registers the INT8 and INT4 embedding operators)
    import torch
    from executorch.runtime import Runtime, Verification

    before = memory_bytes()
    start = time.perf_counter()
    method = Runtime.get().load_program(path, verification=Verification.InternalConsistency).load_method("forward")
    load_ms = (time.perf_counter() - start) * 1e3
    ids = torch.zeros(1, 2, dtype=torch.int64)
    vocab = method.execute([ids])[0].shape[-1]
    print(json.dumps({"vocab": vocab, "load_ms": load_ms}), flush=True)
    output = torch.empty(0)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        match command:
            case "input":
                ids = torch.from_numpy(np.load(argument))
                print("{}", flush=True)
            case "run":
                times = []
                for _ in range(int(argument)):
                    start = time.perf_counter()
                    output = method.execute([ids])[0]
                    times.append((time.perf_counter() - start) * 1e3)
                after = memory_bytes()
                grown = {key: after[key] - before[key] for key in after}
                print(json.dumps({"ms": times, "memory_bytes": grown}), flush=True)
            case "save":
                np.save(argument, output.float().numpy())
                print("{}", flush=True)


class Child:
    """A process that holds one .pte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.ready = self._answer()

    def _answer(self) -> dict:
        for line in self.answers:
            if line.startswith("{"):  # anything else is the runtime's own log
                return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        reason = (self.errors.read().strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{self.path} does not run in ExecuTorch: {reason}")

    def ask(self, command: str) -> dict:
        with contextlib.suppress(BrokenPipeError):  # a dead child is reported by _answer
            self.requests.write(command + "\n")
            self.requests.flush()
        return self._answer()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.process.wait()
        self.answers.close()
        self.errors.close()


def compare_logits(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Largest absolute difference, cosine over all positions, share of positions with the same best token."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return {
        "max_abs": float(np.abs(x - y).max()),
        "cosine": float(x @ y / np.sqrt((x @ x) * (y @ y))),
        "same_argmax": float((a.argmax(-1) == b.argmax(-1)).mean()),
    }


def measure(paths: list[Path], seq_len: int, seconds: float) -> tuple[dict, list[np.ndarray]]:
    """Measures one or two files for about `seconds`; returns the numbers and each file's logits [1, seq_len, vocab].

    A turn is as many runs as fill TURN_SECONDS, after one that is not counted; who begins changes with every pair of
    turns. Times are in milliseconds, memory in bytes above what the process held before it loaded the file.
    """
    with contextlib.ExitStack() as stack:
        children = []
        for path in paths:
            children.append(Child(path))
            stack.callback(children[-1].close)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        np.save(f"{folder}/ids.npy", input_ids(min(child.ready["vocab"] for child in children), seq_len))
        for child in children:
            child.ask(f"input {folder}/ids.npy")
        slowest_ms = max(min(child.ask("run 3")["ms"]) for child in children)
        per_turn = max(1, min(20, round(TURN_SECONDS * 1e3 / slowest_ms)))
        turns: list[list[list[float]]] = [[] for _ in children]  # [file][turn][run], ms
        memory: list[dict[str, int]] = [{} for _ in children]
        order = list(range(len(children)))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(turns[0]) < LEAST_TURNS:
            for i in order:
                time.sleep(PAUSE_SECONDS)
                answer = children[i].ask(f"run {per_turn + 1}")
                turns[i].append(answer["ms"][1:])
                memory[i] = answer["memory_bytes"]
            order.reverse()
        for i, child in enumerate(children):
            child.ask(f"save {folder}/{i}.npy")
        logits = [np.load(f"{folder}/{i}.npy") for i in range(len(children))]
    result: dict = {"seq_len": seq_len, "turns": len(turns[0]), "runs_per_turn": per_turn, "files": []}
    for child, times, used in zip(children, turns, memory, strict=True):
        result["files"].append(
            {
                "path": str(child.path),
                "load_ms": child.ready["load_ms"],
                "median_ms": float(np.median(times)),
                "min_ms": float(np.min(times)),
                "memory_bytes": used,
            }
        )
    if len(children) == 2:
        by_turn = np.median(turns[0], axis=1) / np.median(turns[1], axis=1)
        quartiles = [float(q) for q in np.quantile(by_turn, (0.25, 0.5, 0.75))]
        a, b = result["files"]
        result["ratio"] = {
            "by_turn": quartiles[1],
            "by_turn_quartiles": [quartiles[0], quartiles[2]],
            "of_medians": a["median_ms"] / b["median_ms"],
            "of_minima": a["min_ms"] / b["min_ms"],
        }
        result["logits"] = compare_logits(logits[0], logits[1])
    return result, logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path, help="our file: the ratio is a / b")
    parser.add_argument("b", type=Path, nargs="?")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10, help="how long to measure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.a)
        return 0
    try:
        paths = [path for path in (options.a, options.b) if path]
        result, _ = measure(paths, options.seq_len, options.seconds)
    except (OSError, RuntimeError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{'file':40} {'median ms':>10} {'min ms':>9} {'load ms':>9} {'RSS MB':>8} {'private MB':>10}")
    for file in result["files"]:
        memory = file["memory_bytes"]
        print(
            f"{file['path'][-40:]:40} {file['median_ms']:10.2f} {file['min_ms']:9.2f} {file['load_ms']:9.1f} "
            f"{memory['VmRSS'] / 1e6:8.1f} {memory['RssAnon'] / 1e6:10.1f}"
        )
    if options.b:
        logits = result["logits"]
        ratio = result["ratio"]
        low, high = ratio["by_turn_quartiles"]
        print(f"a / b, {result['turns']} turns of {result['runs_per_turn']} runs: {ratio['by_turn']:.3f} by turn "
              f"(quartiles {low:.3f} to {high:.3f}), {ratio['of_minima']:.3f} of minima")  # fmt: skip
        print(f"logits: max abs {logits['max_abs']:.4g}, cosine {logits['cosine']:.6f}, "
              f"same best token {logits['same_argmax']:.1%}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
