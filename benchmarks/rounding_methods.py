"""What each rounding method costs and gains on a trained model, INT4, as a Markdown table.

SmolLM2-135M-Instruct (smollm2_checkpoint.py) is quantized by each method and group size and evaluated with float32
activations, so that only the weights count, on a text that calibration does not see. torchao runs in PyTorch on the
same tokens. NAME-self calibrates with tokens that the model makes itself. What was measured is kept in
build/bench/rounding and not measured again (--fresh does).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import ROOT, MeasurementError, fingerprint, machine, run_measured
from real_weights import prepare
from texts import TEXTS, MissingTextError

HERE = Path(__file__).resolve().parent
OWN_TOKENS = ["--calibration", "self", "--calibration-sequences", "16", "--calibration-length", "128"]
OUR_METHODS = {name: ["--method", name] for name in ("rtn", "mse", "hqq", "gptq", "awq", "auto")}
OUR_METHODS |= {f"{name}-self": ["--method", name, *OWN_TOKENS] for name in ("mse", "gptq", "auto")}
THEIR_METHODS = {"torchao": "affine", "torchao-hqq": "hqq_scale_only"}
CALIBRATED = ("gptq", "awq", "auto")
Row = dict[str, Any]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[rounding] {text}", file=sys.stderr, flush=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        files = prepare(self.work, options.model, options.text, options.calibration, options.sequences, options.length)
        self.checkpoint, self.calibration, self.data = files.checkpoint, files.calibration, files.data

    def row(self, method: str, group_size: int) -> Row:
        """Measures one line of the table, or takes it from an earlier run of the same programs on the same data."""
        own = method in OUR_METHODS
        programs = [self.options.exporter] if own else [HERE / "torchao_rounding.py", HERE / "official_route.py"]
        key = {
            "method": method,
            "options": OUR_METHODS.get(method),
            "group_size": group_size,
            "data": digest(self.data),
            "calibration": digest(self.calibration) if method in CALIBRATED else None,
            "checkpoint": [fingerprint(path) for path in sorted(self.checkpoint.glob("*.safetensors"))],
            "programs": [digest(path) for path in programs],
            "machine": machine(),
        }
        names = (method, group_size, self.options.text, self.options.calibration if method in CALIBRATED else "none")
        cache = self.work / ("-".join(map(str, names)) + ".json")
        if cache.exists() and not self.options.fresh:
            kept = json.loads(cache.read_text())
            if kept["key"] == key:
                return kept
        say(f"{method}, {group_size or 'per channel'}")
        busy = os.getloadavg()[0]
        measured = self.measure_ours(method, group_size) if own else self.measure_theirs(method, group_size)
        row = measured | {"busy": round(busy, 1), "date": datetime.date.today().isoformat(), "key": key}
        cache.write_text(json.dumps(row, indent=1) + "\n")
        return row

    def measure_ours(self, method: str, group_size: int) -> Row:
        target = self.work / "quantized"
        shutil.rmtree(target, ignore_errors=True)
        exporter = str(self.options.exporter)
        command = [exporter, "quantize", str(self.checkpoint), "-o", str(target), "--dtype", "int4", "--quiet"]
        command += ["--group-size", str(group_size), *OUR_METHODS[method]]
        if method in CALIBRATED:
            command += ["--calibration", str(self.calibration)]
        quantized = run_measured(command)
        evaluate = [exporter, "evaluate", str(target), "--against", str(self.checkpoint), "--data", str(self.data)]
        report = json.loads(run_measured([*evaluate, "--float-activations", "--json", "--quiet"])["out"])
        shutil.rmtree(target)
        keys = ("loss", "reference_loss", "loss_increase", "loss_increase_interval", "kl_divergence")
        return {key: report[key]["next"] for key in keys} | {
            "quantize_seconds": quantized["seconds"],
            "quantize_peak_rss_bytes": quantized["peak_rss_bytes"],
        }

    def measure_theirs(self, method: str, group_size: int) -> Row:
        command = [sys.executable, str(HERE / "torchao_rounding.py"), str(self.checkpoint), "--data", str(self.data)]
        command += ["--group-size", str(group_size), "--qparams", THEIR_METHODS[method]]
        return json.loads(run_measured(command)["out"].splitlines()[-1])


def describe(options: argparse.Namespace, rows: list[Row]) -> str:
    m = machine()
    reference = rows[0]["reference_loss"]
    busiest = max(row["busy"] for row in rows)
    dates = sorted({row["date"] for row in rows})
    return (
        f"INT4 linear layers, activations in float32; {options.sequences} x {options.length - 1} tokens of "
        f"{options.text}, perplexity {math.exp(reference):.2f} in float32; calibration: {options.calibration}.\n"
        f"{m['cpu']}, {m['cores']} cores, {m['memory_bytes'] / 1e9:.0f} GB; {' to '.join(dates[:1] + dates[1:][-1:])}; "
        f"load of the machine by other work: up to {busiest:.0f}."
    )


def table(results: dict[int, dict[str, Row]]) -> str:
    lines = [
        "| groups | method | perplexity | loss increase | won back | KL | seconds | peak RSS, MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for group_size, rows in results.items():
        for method, row in rows.items():
            low, high = row["loss_increase_interval"]
            won = ""
            if "rtn" in rows and method != "rtn":
                won = f"{100 * (1 - row['loss_increase'] / rows['rtn']['loss_increase']):.0f}%"
            cells = [
                group_size or "channel",
                method,
                f"{math.exp(row['loss']):.2f}",
                f"{row['loss_increase']:.3f} ± {(high - low) / 2:.3f}",
                won,
                f"{row['kl_divergence']:.3f}",
                f"{row['quantize_seconds']:.1f}",
                f"{row['quantize_peak_rss_bytes'] / 1e6:.0f}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = [*OUR_METHODS, *THEIR_METHODS]
    parser.add_argument("--methods", default=",".join(methods), help=f"of {','.join(methods)}")
    parser.add_argument("--group-sizes", default="32,64,128,0", help="of 32, 64, 128, 256; 0: per channel")
    parser.add_argument("--text", choices=sorted(TEXTS), default="genesis", help="evaluated on")
    parser.add_argument("--calibration", choices=sorted(TEXTS), default="fortunes", help="of gptq, awq and auto")
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--model", type=Path, help="a Llama checkpoint instead of SmolLM2")
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/rounding", help="where all files go")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    options = parser.parse_args()
    if unknown := set(options.methods.split(",")) - set(methods):
        parser.error(f"unknown method {', '.join(sorted(unknown))}")
    if options.text == options.calibration:
        parser.error("calibration must not see the text of the evaluation")
    try:
        bench = Bench(options)
        results = {
            int(size): {method: bench.row(method, int(size)) for method in options.methods.split(",")}
            for size in options.group_sizes.split(",")
        }
    except (MeasurementError, MissingTextError, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"rounding_methods: {error}", file=sys.stderr)
        return 1
    print(describe(options, [row for rows in results.values() for row in rows.values()]) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
