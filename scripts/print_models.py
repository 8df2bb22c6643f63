#!/usr/bin/env python3
"""Prints the table of published models: small checkpoints of each run through every command and compared.

    scripts/print_models.py [--update]

Fails where a model is not what tests/integration/published_models.py says. `--update` puts the table into the user
guide as well. Needs requirements/test.txt and the built command with its test tools (`make models` sees to both).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from published_models import (  # noqa: E402
    LIMIT,
    MODELS,
    check_commands,
    largest_difference,
    make_table,
    table_row,
    update_guide,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="put the table into the user guide too")
    options = parser.parse_args()
    table = make_table([measured_row(name) for name in MODELS])
    print(table, end="")
    if options.update:
        update_guide(table)


if __name__ == "__main__":
    main()
