"""Decodes .pte files with the official flatc and the official schemas, as the executorch package has them."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = Path(next(iter(find_spec("executorch").submodule_search_locations)))  # type: ignore[union-attr, arg-type]
PROGRAM_SCHEMA: Final = PACKAGE / "schema/program.fbs"
QNN_OPTIONS_SCHEMA: Final = PACKAGE / "backends/qualcomm/serialization/qc_compiler_spec.fbs"
GRAPH_SCHEMA: Final = PACKAGE / "backends/xnnpack/serialization/schema.fbs"

NO_ID: Final = 2**32 - 1
NAMED: Final = 2**64 - 1


def decode(schema: Path, binary: Path, folder: Path, *, raw: bool = False) -> dict[str, Any]:
    """A flatbuffer as JSON; the file identifier must be that of the schema, unless it has none (`raw`)."""
    flatc = PACKAGE / "data/bin/flatc"
    words = [
        flatc,
        "--json",
        "--strict-json",
        "--defaults-json",
        *(["--raw-binary"] if raw else []),
        "-o",
        folder,
        schema,
        "--",
        binary,
    ]
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    decoded: dict[str, Any] = json.loads((folder / f"{binary.stem}.json").read_text())
    return decoded


@dataclass(frozen=True)
class Pte:
    """What is in a .pte file."""

    program: dict[str, Any]  # the Program table
    graph: dict[str, Any]  # the XNNGraph table of the only delegate
    graph_bytes: bytes  # the same as it is in the file
    segments: list[bytes]

    @property
    def plan(self) -> dict[str, Any]:
        """The method that computes; those behind it return constants."""
        return dict(self.program["execution_plan"][0])

    @property
    def instructions(self) -> list[dict[str, Any]]:
        (chain,) = self.plan["chains"]
        return list(chain["instructions"])

    def operators(self) -> list[str]:
        """Operators outside the delegate, in order of execution: "aten::embedding.out"."""
        names = [f"{operator['name']}.{operator['overload']}" for operator in self.plan["operators"]]
        calls = (step for step in self.instructions if step["instr_args_type"] == "KernelCall")
        return [names[call["instr_args"]["op_index"]] for call in calls]

    def nodes(self, kind: str) -> Iterator[dict[str, Any]]:
        """The delegate's nodes of one kind, such as XNNFullyConnected."""
        for node in self.graph["xnodes"]:
            if node["xnode_union_type"] == kind:
                yield node["xnode_union"]

    def values(self) -> dict[int, dict[str, Any]]:
        """The delegate's values by id; of quantized ones the tensor, with `quant_params` added."""
        found = {}
        for value in self.graph["xvalues"]:
            tensor = value["xvalue_union"]
            if value["xvalue_union_type"] == "XNNQuantizedTensorValue":
                tensor = tensor["tensor_value"] | {"quant_params": tensor["quant_params"]}
            found[tensor["id_out"]] = tensor
        return found

    def constant(self, index: int) -> bytes:
        """The bytes of the delegate's constant `index`, from the program's named data."""
        constant = self.graph["constant_data"][index]
        assert constant["offset"] == NAMED, "constants must lie outside the payload, which is unmapped after loading"
        (segment,) = {
            named["segment_index"] for named in self.program["named_data"] if named["key"] == constant["named_key"]
        }
        data = self.segments[segment]
        assert constant["size"] <= len(data)
        return data[: constant["size"]]


def read_pte(path: Path, folder: Path) -> Pte:
    """Decode a .pte file whose first method has one XNNPACK delegate; `folder` is for intermediate files."""
    file = path.read_bytes()
    magic, length, program_size, segment_base, data_size = struct.unpack_from("<4sIQQQ", file, 8)
    assert (file[4:8], magic, length) == (b"ET12", b"eh00", 32)
    assert segment_base >= program_size
    assert segment_base + data_size == len(file)

    (folder / "program.bin").write_bytes(file[:program_size])
    program = decode(PROGRAM_SCHEMA, folder / "program.bin", folder)
    segments = []
    for segment in program["segments"]:
        begin = segment_base + segment["offset"]
        assert begin + segment["size"] <= len(file)
        segments.append(file[begin : begin + segment["size"]])

    (delegate,) = program["execution_plan"][0]["delegates"]
    assert delegate["id"] == "XnnpackBackend"
    assert delegate["processed"]["location"] == "SEGMENT"
    payload = segments[delegate["processed"]["index"]]
    zeros, magic, header, offset, size, constants, constants_size = struct.unpack_from("<I4sHIIIQ", payload)
    assert (zeros, magic, header, offset) == (0, b"XH00", 30, 32)
    assert constants % 16 == 0
    assert offset + size <= constants
    assert constants + constants_size == len(payload)
    graph = payload[offset : offset + size]
    (folder / "graph.bin").write_bytes(graph)
    return Pte(program, decode(GRAPH_SCHEMA, folder / "graph.bin", folder), graph, segments)
