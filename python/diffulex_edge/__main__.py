"""`python -m diffulex_edge verify`: the package's functions in a shell."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from diffulex_edge import PackageCheck, Verification, VerificationError, verify
from diffulex_edge._coreml import MAC_ALONE

BAD_FILE: Final = 3


def _table(verification: Verification) -> str:
    header = ["set", "tokens", "loss", "accuracy"]
    if verification.reference is not None:
        header += ["increase", "KL", "agreement", "flips"]
    rows = [header]
    for label, figures in verification.sets.items():
        row = [label, f"{figures.tokens:,}", f"{figures.loss.mean:.4f}", f"{figures.accuracy:.1%}"]
        if figures.loss_increase and figures.kl_divergence:
            row += [f"{figures.loss_increase.mean:.4f}", f"{figures.kl_divergence.mean:.5f}"]
            row += [f"{figures.agreement:.1%}", f"{figures.commit_flip_rate:.1%}"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(lines)


def _check_text(check: PackageCheck) -> str:
    count = sum(check.operations.values())
    programs = "one program" if check.programs == 1 else f"{check.programs} programs"
    return (
        f"coremltools {check.coremltools} has built {programs} (specification version {check.specification_version}) "
        f"and found the types of {count:,} operations right"
    )


def _print(verification: Verification) -> None:
    if verification.check is not None:
        print(_check_text(verification.check))
    if verification.sets:
        print(_table(verification))
    elif verification.data is not None:
        print(f"not executed: {MAC_ALONE}")


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m diffulex_edge")
    command = parser.add_subparsers(required=True).add_parser("verify", help="measure an artefact in its runtime")
    command.add_argument("artefact", type=Path, help="a .pte file, a .mlpackage or a folder of them")
    command.add_argument(
        "--data", type=Path, help="safetensors with input_ids_R and target_ids_R; a package can be checked without"
    )
    command.add_argument("--against", type=Path, help="what to compare with, such as the model in FP32")
    command.add_argument("--json", action="store_true", help="print one JSON object with the keys of `evaluate --json`")
    arguments = parser.parse_args()
    try:
        verification = verify(arguments.artefact, arguments.data, against=arguments.against)
    except VerificationError as error:
        print(f"diffulex-edge: error: {error}", file=sys.stderr)
        return BAD_FILE
    if arguments.json:
        print(json.dumps(verification.to_dict(), indent=2))
    else:
        _print(verification)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
