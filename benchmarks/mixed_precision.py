"""What `plan` gains on a trained model: plans beside the uniform formats whose files have the same size, as Markdown.

The layers are measured on one text, for half an hour; losses are those of another text, with 8-bit activations as the
.pte has them. The measurements are kept in --work and used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import ROOT, MeasurementError, run_measured
from real_weights import RealWeights, prepare
from texts import MissingTextError

UNIFORM = {
    "INT4 g64": ["--dtype", "int4", "--group-size", "64", "--embedding-dtype", "int4", "--head-dtype", "int4"],
    "INT4 g32": ["--dtype", "int4", "--group-size", "32", "--embedding-dtype", "int4", "--head-dtype", "int4"],
    "INT8": ["--dtype", "int8", "--embedding-dtype", "int8", "--head-dtype", "int8"],
}


def run(options: argparse.Namespace, *words: object) -> dict[str, Any]:
    """The JSON report of a subcommand."""
    command = [str(options.exporter), *map(str, words), "--json", "--quiet"]
    return json.loads(run_measured(command)["out"])


def measure(options: argparse.Namespace, files: RealWeights) -> list[list[str]]:
    sensitivity = options.work / "sensitivity.json"
    measured = ["--sensitivity", sensitivity]
    if not sensitivity.exists():
        print("[bench] measuring every layer in every format", file=sys.stderr, flush=True)
        calibration = ["--calibration", files.calibration, "--calibration-sequences", 8, "--calibration-length", 256]
        run(options, "plan", files.checkpoint, "-o", sensitivity, "--target-size", "1GB", *calibration)
    rows = []
    for name, words in UNIFORM.items():
        size = run(options, "export", files.checkpoint, "-o", options.work / "none.pte", "--dry-run", *words)[
            "file_bytes"
        ]
        chosen = options.work / "plan.json"
        planned = run(options, "plan", files.checkpoint, "-o", chosen, "--target-size", size, *measured)
        uniform, mixed = (
            run(options, "evaluate", files.checkpoint, "--data", files.data, *each)["loss_increase"]["next"]
            for each in (words, ["--plan", chosen])
        )
        rows.append([f"{size:,}", name, f"{uniform:.4f}", f"{planned['file_bytes']:,}", f"{mixed:.4f}"])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Llama checkpoint instead of SmolLM2")
    parser.add_argument("--exporter", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/rounding", help="where all files go")
    options = parser.parse_args()
    try:
        rows = measure(options, prepare(options.work, options.model, "genesis", "fortunes", 12, 512))
    except (MeasurementError, MissingTextError, OSError, subprocess.CalledProcessError) as error:
        print(f"mixed_precision: {error}", file=sys.stderr)
        return 1
    print("| .pte, bytes | uniform | loss increase | plan | loss increase |\n| ---: | --- | ---: | ---: | ---: |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
