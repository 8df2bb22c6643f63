"""Core ML packages beside coremltools' own route: the same checkpoint, format and target, one after the other.

Prints seconds, peak RSS and package sizes as a Markdown table. coremltools' seconds include importing it, ours
starting the program. Its single stages are in the JSON that --json FILE keeps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench import ROOT, MeasurementError, machine, run_measured, settle
from make_checkpoint import SHAPES, make_checkpoint

FORMATS = {
    "fp16": ["--dtype", "fp16"],
    "int8": ["--dtype", "int8"],
    "int4": ["--dtype", "int4", "--group-size", "32"],
    "palette": ["--dtype", "int4", "--palette"],
}


def package_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(options: argparse.Namespace, model: Path, name: str) -> dict[str, Any]:
    """One format by both routes."""
    ours, theirs = options.work / "ours.mlpackage", options.work / "coremltools.mlpackage"
    for folder in (ours, theirs):
        shutil.rmtree(folder, ignore_errors=True)
    shape = ["--seq-len", str(options.seq_len)]
    command = [str(options.exporter), "export", str(model), "-o", str(ours), "--backend", "coreml", "--quiet"]
    settle(model, cold=False)
    mine = run_measured([*command, *FORMATS[name], *shape, "--minimum-deployment-target", options.target])
    route = [sys.executable, str(ROOT / "benchmarks/coremltools_route.py"), str(model), "-o", str(theirs)]
    settle(model, cold=False)
    other = run_measured([*route, "--format", name, *shape, "--target", options.target])
    stages = json.loads(other.pop("out").splitlines()[-1])
    mine.pop("out")
    row = {
        "format": name,
        "ours": mine | {"package_bytes": package_bytes(ours)},
        "coremltools": other | {"route": stages, "package_bytes": package_bytes(theirs)},
    }
    for folder in (ours, theirs):
        shutil.rmtree(folder)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| format | ours, s | coremltools, s | ratio | ours, RSS | coremltools, RSS | ours, MB | coremltools, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        a, b = row["ours"], row["coremltools"]
        lines.append(
            f"| {row['format']} | {a['seconds']:.2f} | {b['seconds']:.0f} | {b['seconds'] / a['seconds']:.0f}x "
            f"| {a['peak_rss_bytes'] / 1e6:.0f} MB | {b['peak_rss_bytes'] / 1e6:.0f} MB "
            f"| {a['package_bytes'] / 1e6:.1f} | {b['package_bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--model", type=Path, help="a checkpoint in place of a shape")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["int4"])
    parser.add_argument("--target", choices=("iOS16", "iOS17", "iOS18"), default="iOS18")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/coreml")
    parser.add_argument("--json", type=Path, help="also keep everything that was measured in this file")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model
    if model is None:
        model = options.work / options.shape
        if not model.exists():
            make_checkpoint(options.shape, model)
    try:
        rows = [measure(options, model, name) for name in options.formats]
    except MeasurementError as error:
        print(f"coreml.py: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
