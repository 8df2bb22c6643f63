#!/usr/bin/env python3
"""Checks that every room of src/, and the Python bindings after them, include only rooms to their left
(docs/ARCHITECTURE.md), and that no type is defined in two files under one name: the linker would take either one's
functions for both."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [
    "core",
    "model_files",
    "tokenizer",
    "chat",
    "checkpoint",
    "graph",
    "models",
    "bundle",
    "quant",
    "runtime",
    "diffusion",
    "backends",
    "session",
    "report",
    "server",
    "cli",
    "bindings",
]
# Where a room lies, if not in src/.
ELSEWHERE = {"bindings": "python/bindings"}
# The room that each public header belongs to.
PUBLIC = {
    "activations": "core",
    "error": "core",
    "dtype": "core",
    "progress": "core",
    "weight_format": "core",
    "version": "core",
    "tokenizer": "tokenizer",
    "chat_template": "chat",
    "checkpoint": "checkpoint",
    "graph": "graph",
    "model": "models",
    "model_hash": "models",
    "quantization": "quant",
    "mixed_precision": "quant",
    "gguf_output": "quant",
    "runtime": "runtime",
    "calibration": "runtime",
    "quantization_session": "runtime",
    "evaluation": "runtime",
    "sensitivity": "runtime",
    "generation": "diffusion",
    "generation_evaluation": "diffusion",
    "backend": "backends",
    "backend_description": "backends",
    "coreml_backend": "backends",
    "qnn_backend": "backends",
    "xnnpack_backend": "backends",
    "inspection": "backends",
    "export_session": "session",
    "report": "report",
}
NEVER = {("backends", "runtime"), ("backends", "diffusion"), ("bindings", "server"), ("bindings", "cli")}
ANONYMOUS = re.compile(r"^namespace \{.*?^\}  // namespace$", re.MULTILINE | re.DOTALL)
NAMESPACE = re.compile(r"^namespace ([\w:]+) \{$", re.MULTILINE)
TYPE = re.compile(r"^(?:struct|class|enum class) (\w+)(?: final)?(?: :[^;{]*)? \{", re.MULTILINE)
INCLUDE = re.compile(r'#include "([^"]+)"')


def room_of(include: str) -> str | None:
    """The room of an included path, or None for generated and foreign headers."""
    first, _, rest = include.partition("/")
    if first == "diffulex_edge":
        name = rest.removesuffix(".h")
        if name == "diffulex_edge":
            return None
        if name not in PUBLIC:
            sys.exit(f"{include}: add this public header to PUBLIC in {__file__}")
        return PUBLIC[name]
    return first if first in ROOMS else None


def sources() -> list[tuple[Path, str]]:
    """Every file of a room, and the room."""
    files = [(path, path.relative_to(ROOT / "src").parts[0]) for path in (ROOT / "src").rglob("*.[ch]*")]
    for room, folder in ELSEWHERE.items():
        files += [(path, room) for path in (ROOT / folder).rglob("*.[ch]*")]
    return files


def violations() -> list[str]:
    found = []
    files = sources()
    files += [
        (path, PUBLIC[path.stem])
        for path in (ROOT / "include/diffulex_edge").glob("*.h")
        if path.stem != "diffulex_edge"
    ]
    for path, room in files:
        if room not in ROOMS or path.suffix not in {".h", ".cc"}:
            continue
        for include in INCLUDE.findall(path.read_text()):
            target = room_of(include)
            if target and (ROOMS.index(target) > ROOMS.index(room) or (room, target) in NEVER):
                found.append(f"{path.relative_to(ROOT)}: room '{room}' must not include '{include}' of '{target}'")
    return found


def types_defined_twice() -> list[str]:
    places: dict[str, list[str]] = {}
    for path in [*(path for path, _ in sources()), *(ROOT / "include").rglob("*.h")]:
        if path.suffix not in {".h", ".cc"}:
            continue
        text = ANONYMOUS.sub("", path.read_text())
        namespace = "::".join(NAMESPACE.findall(text))
        for name in TYPE.findall(text):
            places.setdefault(f"{namespace}::{name}", []).append(str(path.relative_to(ROOT)))
    return [f"{name} is defined in {' and in '.join(where)}" for name, where in places.items() if len(where) > 1]


if __name__ == "__main__":
    problems = violations() + types_defined_twice()
    print("\n".join(problems) or "every room includes only rooms to its left; every type has one definition")
    sys.exit(1 if problems else 0)
