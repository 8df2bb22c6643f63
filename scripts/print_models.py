#!/usr/bin/env python3
"""Prints the table of published models: small checkpoints of each run through every command and compared.

    scripts/print_models.py [--update]
    scripts/print_models.py --sizes

Fails where a model is not what tests/integration/published_models.py says. `--update` puts the table into the user
guide as well. `--sizes` prints instead what planning an export of the published sizes takes, on sparse files: seconds,
and the most memory in MB. Needs requirements/test.txt and the built command with its test tools (`make models` sees to
both).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

# Runs a command. From a small process: a child's peak is at least what its parent held when it began.
MEASURE: Final = """
import resource, subprocess, sys, time
begin = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000, code)
"""

from command import COMMAND  # noqa: E402
from published_models import (  # noqa: E402
    ARTEFACTS,
    EXPORTS,
    LIMIT,
    MODELS,
    check_commands,
    largest_difference,
    make_table,
    table_row,
    update_guide,
    write_published_size,
)


def measured_row(name: str) -> str:
    """Run a model; its line of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        expected = MODELS[name].write(folder)
        difference = largest_difference(folder, expected)
        if not difference < LIMIT:
            raise SystemExit(
                f"{name}: logits differ by {difference:.1e} of the largest, which is more than {LIMIT:.0e}"
            )
        check_commands(MODELS[name], folder, Path(temporary))
    return table_row(name, f"{difference:.0e}")


def measured(*arguments: object) -> str:
    """Seconds and megabytes of a run of the command, or its refusal."""
    words = [sys.executable, "-S", "-c", MEASURE, str(COMMAND), *map(str, arguments)]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, megabytes, code = result.stdout.split()
    return f"{float(seconds):.2f} s, {float(megabytes):.0f} MB" if code == "0" else f"refused ({code})"


def print_sizes() -> None:
    print("| size | tensors | inspect | " + " | ".join(f"export to {name}" for name in EXPORTS) + " |")
    print("|" + " --- |" * (3 + len(EXPORTS)))
    for name, model in MODELS.items():
        for size in model.sizes:
            with tempfile.TemporaryDirectory() as temporary:
                folder = write_published_size(name, size, Path(temporary) / "model")
                cells = [size, str(len(model.published_shapes(size))), measured("inspect", folder, "--no-hash")]
                for backend in EXPORTS.values():
                    options = ("--backend", backend, "--dtype", "int4", "--dry-run")
                    cells.append(measured("export", folder, "-o", Path(temporary) / ARTEFACTS[backend], *options))
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="put the table into the user guide too")
    parser.add_argument("--sizes", action="store_true", help="measure the published sizes instead")
    options = parser.parse_args()
    if options.sizes:
        return print_sizes()
    table = make_table([measured_row(name) for name in MODELS])
    print(table, end="")
    if options.update:
        update_guide(table)


if __name__ == "__main__":
    main()
