"""The QNN backend: what each format costs in accuracy, and what writing it costs beside the XNNPACK export.

Without --shape, the bundled model in every format: size of the context binary, loss in ONNX Runtime's CPU kernels on
the whole evaluation file, KL from FP32 and the cosine to those kernels on Qualcomm's emulator for the first --sequences
of each set. With --shape, a model of that shape with random weights: seconds and peak private memory of the ONNX
package and of the XNNPACK file in turns, then seconds and peak RSS of Qualcomm's compiler. Both print Markdown tables.
Needs what requirements/test.txt has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench import ROOT, MeasurementError, machine, run_measured, say, settle
from make_checkpoint import SHAPES, make_checkpoint
from safetensors.numpy import load_file, save_file

MODEL: Final = ROOT / "examples/tiny-llada"
STATIC: Final = ["--mode", "static"]
G32, G64, CHANNEL = (["--dtype", "int4", "--group-size", size] for size in ("32", "64", "0"))
FORMATS: Final = {
    "fp32": ["--dtype", "fp32"],
    "fp16": ["--dtype", "fp16"],
    "int8, embedding and head too": ["--dtype", "int8", "--embedding-dtype", "int8", "--head-dtype", "int8"],
    "a16w8, head too": ["--dtype", "int8", *STATIC, "--head-dtype", "int8"],
    "a8w8": ["--dtype", "int8", *STATIC, "--activation-dtype", "int8"],
    "int4 g32": G32,
    "a16w4 g32": [*G32, *STATIC],
    "a16w4 g64": [*G64, *STATIC],
    "a16w4 per channel": [*CHANNEL, *STATIC],
}
"""Name: options of `export`. "aXwY" computes in integers of X bits."""
BACKENDS: Final = {"fp16": FORMATS["fp16"], "int8": ["--dtype", "int8"], "int4 g32": G32}
"""What both backends store alike."""


def export(command: list[str]) -> dict[str, Any]:
    """What `export --json` reports."""
    return json.loads(run_measured([*command, "--json"])["out"])


def verify(artefact: Path, data: Path, against: Path) -> dict[str, Any]:
    """What the Python package finds in the vendor's runtime."""
    command = [
        sys.executable,
        "-m",
        "diffulex_edge",
        "verify",
        artefact,
        "--data",
        data,
        "--against",
        against,
        "--json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MeasurementError((result.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(result.stdout)


def cut(data: Path, target: Path, sequences: int) -> Path:
    """The first sequences of each set."""
    sets = {
        name: ids[:sequences] for name, ids in load_file(data).items() if name.startswith(("input_ids", "target_ids"))
    }
    save_file(sets, target)
    return target


def measure_accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    data = MODEL / "eval.safetensors"
    few = cut(data, options.work / "few.safetensors", options.sequences)
    rows = []
    for name in FORMATS:
        say(name)
        cpu, npu = options.work / f"cpu {name}", options.work / f"npu {name}"
        command = [str(options.exporter), "export", str(MODEL), "--backend", "qnn", "--seq-len", "128", "--quiet"]
        command += FORMATS[name]
        if "--mode" in FORMATS[name]:
            command += ["--calibration", str(MODEL / "calibration.txt")]
        export([*command, "-o", str(cpu)])
        export([*command, "-o", str(npu), "--soc", options.soc, "--qnn-python", sys.executable])
        reference = options.work / "cpu fp32"
        rows.append({"format": name, "cpu": verify(cpu, data, reference), "npu": verify(npu, few, reference)})
        shutil.rmtree(npu)
    return rows


def accuracy_table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    labels = list(rows[0]["cpu"]["loss"])
    lines = [
        f"| format | context binary, bytes | loss at {' / '.join(labels)} % masked | KL from FP32 "
        f"| loss on the NPU, first {options.sequences} | KL from FP32 | cosine NPU to CPU |",
        "| --- | ---: | --- | --- | --- | --- | ---: |",
    ]

    def listed(figures: dict[str, float], digits: int) -> str:
        return " / ".join(f"{figures[label]:.{digits}f}" for label in labels)

    for row in rows:
        cells = [row["format"], f"{row['npu']['placement']['binary_bytes']:,}"]
        for where in ("cpu", "npu"):
            cells += [listed(row[where]["loss"], 4), listed(row[where]["kl_divergence"], 5)]
        cells.append(f"{min(row['npu']['cpu_cosine'].values()):.7f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_shape(options: argparse.Namespace) -> list[dict[str, Any]]:
    model = options.work / options.shape
    if not model.exists():
        make_checkpoint(options.shape, model)
    rows = []
    for name, words in BACKENDS.items():
        say(name)
        command = [str(options.exporter), "export", str(model), "--seq-len", str(options.seq_len), "--quiet", *words]
        targets = {"xnnpack": options.work / "xnnpack.pte", "qnn": options.work / "qnn"}
        rounds: dict[str, list[dict[str, Any]]] = {backend: [] for backend in targets}
        for index in range(options.rounds):
            for backend in list(targets)[:: 1 if index % 2 else -1]:  # who goes first changes with every round
                settle(model, cold=False)
                rounds[backend].append(run_measured([*command, "--backend", backend, "-o", str(targets[backend])]))
        row: dict[str, Any] = {"format": name} | {
            backend: {key: statistics.median(one[key] for one in runs) for key in ("seconds", "peak_private_bytes")}
            for backend, runs in rounds.items()
        }
        if name in options.compile:
            compiling = [*command, "--backend", "qnn", "-o", str(targets["qnn"]), "--embedding-on", "host"]
            compiling += ["--soc", options.soc, "--shards", str(options.shards), "--qnn-python", sys.executable]
            row["binaries"] = export(compiling)["placement"]["binaries"]
        rows.append(row)
        targets["xnnpack"].unlink()
        shutil.rmtree(targets["qnn"])
    return rows


def shape_table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    lines = [
        "| format | ONNX, s | .pte, s | ratio | ONNX, private memory | .pte, private memory "
        f"| compiler for {options.soc}, s | compiler, RSS | binary |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        both = [row["qnn"], row["xnnpack"]]
        cells = [row["format"], *(f"{one['seconds']:.2f}" for one in both)]
        cells.append(f"{both[0]['seconds'] / both[1]['seconds']:.2f}")
        cells += [f"{one['peak_private_bytes'] / 1e6:.0f} MB" for one in both]
        if binaries := row.get("binaries"):
            cells.append(f"{sum(one['seconds'] for one in binaries):.0f}")
            cells.append(f"{max(one['peak_rss_bytes'] for one in binaries) / 1e9:.1f} GB")
            cells.append(f"{sum(one['bytes'] for one in binaries) / 1e6:.0f} MB")
        else:
            cells += ["not run", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="measure export and compiler on a model of this shape")
    parser.add_argument(
        "--sequences", type=int, default=8, help="of each set on the emulator, which takes seconds for one"
    )
    parser.add_argument("--seq-len", type=int, default=128, help="of the shape's exports")
    parser.add_argument("--rounds", type=int, default=5, help="of the shape's exports, in turns; medians are printed")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument(
        "--compile", nargs="*", choices=BACKENDS, default=list(BACKENDS), help="formats of the shape to compile"
    )
    parser.add_argument("--soc", default="SM8550")
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/qnn")
    parser.add_argument("--json", type=Path, help="also keep everything that was measured in this file")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        if options.shape is None:
            rows = measure_accuracy(options)
            print(accuracy_table(options, rows))
        else:
            rows = measure_shape(options)
            print(shape_table(options, rows))
    except MeasurementError as error:
        print(f"qnn.py: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
