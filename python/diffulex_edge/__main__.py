"""`python -m diffulex_edge verify`: the package's functions in a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from diffulex_edge import Execution, Placement, Verification, VerificationError, verify

BAD_FILE: Final = 3


def _aligned(rows: list[list[str]], *, left: int = 0) -> str:
    """A table of text; its first `left` columns begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        words = [cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in enumerate(cells)]
        return "  ".join(words)

    return "\n".join(map(line, rows))


def _table(verification: Verification) -> str:
    header = ["set", "tokens", "loss", "accuracy"]
    if verification.reference is not None:
        header += ["increase", "KL", "agreement", "flips", "max error", "cosine"]
    if any(figures.cpu_cosine is not None for figures in verification.sets.values()):
        header += ["off CPU", "CPU cosine"]
    rows = [header]
    for label, figures in verification.sets.items():
        row = [label, f"{figures.tokens:,}", f"{figures.loss.mean:.4f}", f"{figures.accuracy:.1%}"]
        if figures.loss_increase and figures.kl_divergence:
            row += [f"{figures.loss_increase.mean:.4f}", f"{figures.kl_divergence.mean:.5f}"]
            row += [f"{figures.agreement:.1%}", f"{figures.commit_flip_rate:.1%}"]
            row += [f"{figures.max_abs_error:.5f}", f"{figures.cosine:.6f}"]
        if figures.cpu_cosine is not None:
            row += [f"{figures.cpu_max_abs_error:.5f}", f"{figures.cpu_cosine:.6f}"]
        rows.append(row)
    return _aligned(rows)


def _placement_text(placement: Placement) -> str:
    rows = [["operator", "NPU", "host"]]
    for name in sorted(placement.npu.keys() | placement.host.keys()):
        rows.append([name, f"{placement.npu.get(name, 0):,}", f"{placement.host.get(name, 0):,}"])
    rows.append(["all", f"{sum(placement.npu.values()):,}", f"{sum(placement.host.values()):,}"])
    table = _aligned(rows, left=1)
    if placement.binary_bytes is None:
        return table
    return f"{table}\n{placement.soc}: context binary of {placement.binary_bytes:,} bytes"


def _execution_text(execution: Execution) -> str:
    if execution.soc is None:
        return f"executed on the CPU, by ONNX Runtime {execution.onnxruntime}: there is no context binary"
    return (
        f"executed on Qualcomm's emulator of {execution.soc} (HTP v{execution.htp_arch}), without fallback to the CPU: "
        f"onnxruntime-qnn {execution.onnxruntime_qnn}, ONNX Runtime {execution.onnxruntime}"
    )


def _text(verification: Verification) -> str:
    lines = []
    if verification.check is not None:
        lines.append(verification.check.describe())
    if verification.placement is not None:
        lines.append(_placement_text(verification.placement))
    if verification.execution is not None:
        lines.append(_execution_text(verification.execution))
    if verification.reference_execution is not None:
        lines.append(f"{verification.reference}: {_execution_text(verification.reference_execution)}")
    if verification.sets:
        lines.append(_table(verification))
    elif verification.not_executed is not None:
        lines.append(verification.not_executed)
    return "\n".join(lines)


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """The standard output only for us: what the vendors' libraries write there goes to stderr, up to the end."""
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding) as own:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield own


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m diffulex_edge")
    command = parser.add_subparsers(required=True).add_parser("verify", help="measure an artefact in its runtime")
    command.add_argument("artefact", type=Path, help="a .pte file, a .mlpackage or a folder of them, or a QNN folder")
    command.add_argument(
        "--data",
        type=Path,
        help="safetensors with input_ids_R and target_ids_R; a package or QNN folder can be checked without",
    )
    command.add_argument(
        "--against",
        type=Path,
        help="what to compare with, such as the model in FP32, or a file of `diffulex-edge evaluate --logits`",
    )
    command.add_argument("--soc", help="whose context binary of a QNN folder is executed; without it, the first")
    command.add_argument("--json", action="store_true", help="print one JSON object with the keys of `evaluate --json`")
    arguments = parser.parse_args()
    with _own_stdout() as stdout:
        try:
            verification = verify(arguments.artefact, arguments.data, against=arguments.against, soc=arguments.soc)
        except VerificationError as error:
            print(f"diffulex-edge: error: {error}", file=sys.stderr)
            return BAD_FILE
        print(json.dumps(verification.to_dict(), indent=2) if arguments.json else _text(verification), file=stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
