"""The formats of the Core ML backend, as the tests of it export and load them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from command import export as export_file
from coreml_check import check_with_coremltools
from coreml_package import Package
from coremltools_alone import MIL_pb2
from families import write_checkpoint
from mil_interpreter import Interpreter
from quantization import Options
from safetensors.torch import load_file
from torch import Tensor

FAMILIES: Final = ("llada", "dream", "sdar", "fast_dllm_v2")
LENGTHS: Final = (1, 5, 37, 100)
RANGE: Final = ("--seq-len", "1..100")


@dataclass(frozen=True)
class Case:
    """A format: its options, the oldest target that has it, and the cosine that FP16 arithmetic keeps of FP32's logits.

    `stored` says what the weights are, in embedding and head as well.
    """

    stored: Options
    target: str
    cosine: float

    def arguments(self, *, fp32: bool = False, target: str | None = None) -> list[str]:
        """As words of the command line, every one given; `fp32` asks for FP32 arithmetic."""
        options = {
            "--backend": "coreml",
            "--dtype": self.stored.dtype,
            "--mode": self.stored.mode,
            "--group-size": str(self.stored.group_size),
            "--embedding-dtype": self.stored.embedding,
            "--head-dtype": self.stored.head,
            "--minimum-deployment-target": target or self.target,
        }
        if self.stored.dtype != "int4":
            del options["--group-size"]
        if fp32 and self.stored.dtype != "fp32":
            options["--activation-dtype"] = "fp32"
        return [word for option in options.items() for word in option]


FP32: Final = Case(Options("fp32", embedding="fp32", head="fp32"), "iOS16", 1.0)
FP16: Final = Case(Options("fp16", embedding="fp16", head="fp16"), "iOS16", 0.9999)
INT8: Final = Case(Options("int8", embedding="int8", head="int8"), "iOS16", 0.999)
INT8_DYNAMIC: Final = Case(replace(INT8.stored, mode="dynamic"), "iOS16", 0.999)
INT8_STATIC: Final = Case(replace(INT8.stored, mode="static"), "iOS17", 0.97)
INT4: Final = Case(Options("int4", group_size=32, embedding="int4", head="int4"), "iOS18", 0.97)

FORMATS: Final = {
    "fp32": FP32,
    "fp16": FP16,
    "int8": INT8,
    "int8 dynamic": INT8_DYNAMIC,
    "int8 static": INT8_STATIC,
    "int4 g32": INT4,
}


def export(model: Path, target: Path, *options: object) -> dict[str, Any]:
    """Export `model` to the package `target`; the JSON report."""
    return export_file(model, target, "--backend", "coreml", *options)


def export_case(case: Case, model: Path, target: Path, *options: object, fp32: bool = False) -> dict[str, Any]:
    """Export a format with every option of it given, for lengths from 1 to 100."""
    return export_file(model, target, *case.arguments(fp32=fp32), *RANGE, *options)


def load(path: Path, observe: Callable[[MIL_pb2.Operation, Tensor], None] | None = None) -> Interpreter:
    """A package that keeps the rules of the format and those of coremltools."""
    return Interpreter(check_with_coremltools(path), observe)


def operations(package: Package) -> list[MIL_pb2.Operation]:
    """All operations of the program."""
    (program,) = package.programs
    return list(program.functions["main"].operations)


def operators(package: Package) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(operation.type for operation in operations(package))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(model: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """The same model with other weights."""
    weights = load_file(model / "model.safetensors")
    change(weights)
    return write_checkpoint(folder, json.loads((model / "config.json").read_text()), weights)
