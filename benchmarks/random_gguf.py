"""Writes a random GGUF file with matrices in Q4_0, for llama.cpp to be measured beside us.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20261129
U32, I32, F32, STRING, ARRAY = 4, 5, 6, 8, 9  # types of a value
FLOATS, Q4_0 = 0, 2  # and of a tensor
GROUP, GROUP_BYTES = 32, 18  # a scale in binary16, and 4 bits an element
GROUP_SCALE = 0.005
ALIGNMENT = 32
PIECE_GROUPS = 1 << 16

Value = tuple[int, Any]  # its type; an array's is a pair of ARRAY and (type of the elements, elements)


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]  # rows first

    def is_matrix(self) -> bool:
        return len(self.shape) == 2

    def bytes(self) -> int:
        elements = int(np.prod(self.shape))
        return elements // GROUP * GROUP_BYTES if self.is_matrix() else 4 * elements


def encode(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return struct.pack("<Q", len(value.encode())) + value.encode()
    if kind == ARRAY:
        of, elements = value
        return struct.pack("<IQ", of, len(elements)) + b"".join(encode(of, element) for element in elements)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f"}[kind], value)


def header(values: Mapping[str, Value], tensors: Sequence[GgufTensor]) -> bytes:
    parts = [b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))]
    parts += [
        encode(STRING, key) + struct.pack("<I", kind) + encode(kind, value) for key, (kind, value) in values.items()
    ]
    offset = 0
    for tensor in tensors:
        parts.append(encode(STRING, tensor.name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", Q4_0 if tensor.is_matrix() else FLOATS, offset))
        offset += tensor.bytes() + -tensor.bytes() % ALIGNMENT
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % ALIGNMENT)


def tensor_pieces(tensor: GgufTensor, piece: bytes) -> Iterator[bytes]:
    """Random groups of 4 bits for a matrix; a norm's weight is 1."""
    if not tensor.is_matrix():
        yield np.ones(tensor.shape, np.float32).tobytes()
    else:
        for begin in range(0, tensor.bytes(), len(piece)):
            yield piece[: tensor.bytes() - begin]
    yield bytes(-tensor.bytes() % ALIGNMENT)


def write_gguf(path: Path, values: Mapping[str, Value], tensors: Sequence[GgufTensor]) -> None:
    """The file appears under its name only when it is whole."""
    groups = np.zeros(PIECE_GROUPS, dtype=[("scale", "<f2"), ("values", "u1", GROUP // 2)])
    groups["scale"] = GROUP_SCALE
    groups["values"] = np.random.default_rng(SEED).integers(0, 256, groups["values"].shape, dtype=np.uint8)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(header(values, tensors))
        for tensor in tensors:
            for piece in tensor_pieces(tensor, groups.tobytes()):
                file.write(piece)
    partial.rename(path)
