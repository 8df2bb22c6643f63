"""A Core ML package (.mlpackage) read from its files, with the rules of the format checked on the way.

Manifest.json names the specification, a protobuf message; its ML Programs take constants from weight files. Whatever
breaks a rule raises ValueError with its place. Only ML Programs are read, by themselves or as the models of a pipeline.

Messages are those of coremltools' mlmodel/format/*.proto; the weight file's layout is that of its MIL blob storage.
"""

from __future__ import annotations

import json
import math
import re
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from coremltools_alone import FeatureTypes_pb2, MIL_pb2, Model_pb2
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

OPSETS: Final = {7: "CoreML6", 8: "CoreML7", 9: "CoreML8"}
"""Operation set by specification version: iOS16, iOS17, iOS18."""

ALIGNMENT: Final = 64
"""Of everything in a weight file, in bytes. Its header and the metadata of an entry are as large."""

_SENTINEL: Final = 0xDEADBEEF
_VERSION: Final = 2
_MODEL_PATH: Final = "@model_path/"

Constant = NDArray[Any] | str | list[str]


@dataclass(frozen=True)
class DataType:
    """An element type: bits of one element in a file, the numpy type that holds it here, the field of immediate values.

    `blob` is its number in weight files, or None where it cannot be there.
    """

    bits: int
    holder: type[Any]
    field: str
    blob: int | None = None


DATA_TYPES: Final = {
    "bool": DataType(8, np.bool_, "bools"),
    "string": DataType(0, np.str_, "strings"),
    "fp16": DataType(16, np.float16, "bytes", 1),
    "fp32": DataType(32, np.float32, "floats", 2),
    "int8": DataType(8, np.int8, "bytes", 4),
    "int16": DataType(16, np.int16, "ints", 6),
    "int32": DataType(32, np.int32, "ints", 14),
    "int64": DataType(64, np.int64, "longInts"),
    "int4": DataType(4, np.int8, "bytes", 8),
    "uint8": DataType(8, np.uint8, "bytes", 3),
    "uint16": DataType(16, np.uint16, "ints", 7),
    "uint32": DataType(32, np.uint32, "bytes", 15),
    "uint1": DataType(1, np.uint8, "bytes", 9),
    "uint2": DataType(2, np.uint8, "bytes", 10),
    "uint3": DataType(3, np.uint8, "bytes", 12),
    "uint4": DataType(4, np.uint8, "bytes", 11),
    "uint6": DataType(6, np.uint8, "bytes", 13),
}
"""By the names of MIL's text form."""

_BLOB_NAMES: Final = {kind.blob: name for name, kind in DATA_TYPES.items() if kind.blob is not None}

# As coremltools' name sanitizer has it: what the framework's compiler reads as a name.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = {
    *("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"),
    *("bf16", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
}


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value; a dimension that depends on the input is None, a scalar has no dimension."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    @property
    def elements(self) -> int:
        """How many there are. Raises ValueError where a dimension is not known."""
        sizes = [size for size in self.shape if size is not None]
        if len(sizes) < len(self.shape):
            raise ValueError(f"{self} has no fixed number of elements")
        return math.prod(sizes)

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of that shape is of this type."""
        return len(shape) == len(self.shape) and all(
            known in (None, size) for known, size in zip(self.shape, shape, strict=True)
        )


def read_type(spelled: MIL_pb2.ValueType) -> TensorType:
    """The type that a ValueType message spells, which has to be a tensor's (or a scalar's)."""
    if spelled.WhichOneof("type") != "tensorType":
        raise ValueError(f"a type is {spelled.WhichOneof('type')}, not tensorType")
    tensor = spelled.tensorType
    name = MIL_pb2.DataType.Name(tensor.dataType).lower().replace("float", "fp")
    if name not in DATA_TYPES:
        raise ValueError(f"data type {name} is not read")
    if tensor.rank != len(tensor.dimensions):
        raise ValueError(f"rank {tensor.rank} with {len(tensor.dimensions)} dimensions")
    shape: list[int | None] = []
    for dimension in tensor.dimensions:
        kind = dimension.WhichOneof("dimension")
        if kind is None or (kind == "unknown" and dimension.unknown.variadic):
            raise ValueError("a dimension is neither constant nor simply unknown")
        shape.append(dimension.constant.size if kind == "constant" else None)
    return TensorType(name, tuple(shape))


def read_state_type(spelled: MIL_pb2.ValueType) -> TensorType:
    """The type of what a state holds: float16, of fixed sizes, as the framework has it."""
    held = read_type(spelled.stateType.wrappedType)
    if held.dtype != "fp16" or None in held.shape:
        raise ValueError(f"a state holds {held}")
    return held


def unpack_bits(packed: bytes, bits: int, count: int, signed: bool) -> NDArray[Any]:
    """`count` integers of `bits` bits each, the first in the lowest bits; bits left over in the last byte are zero."""
    if len(packed) != -(-count * bits // 8):
        raise ValueError(f"{len(packed)} bytes for {count} integers of {bits} bits")
    stream = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    if stream[count * bits :].any():
        raise ValueError("the bits after the last integer are not zero")
    weights = 1 << np.arange(bits)
    if signed:
        weights[-1] = -weights[-1]
    values = stream[: count * bits].reshape(count, bits).astype(np.int16) @ weights
    return values.astype(np.int8 if signed else np.uint8)


# --- Weight files.


@dataclass(frozen=True)
class Blob:
    """An entry of a weight file: where its metadata and its data begin and how many bytes of data there are."""

    metadata: int
    dtype: str
    data: int
    size: int
    padding_bits: int


class WeightFile:
    """A weight file: a header, and entries that are found by the offset of their metadata."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        if self.size < ALIGNMENT:
            raise ValueError(f"{path.name}: {self.size} bytes are less than its header")
        self._bytes = np.memmap(path, np.uint8, "r")
        self.count, version = struct.unpack("<II", self._bytes[:8].tobytes())
        if version != _VERSION or self._bytes[8:ALIGNMENT].any():
            raise ValueError(f"{path.name}: version {version}, or a header that is not zero after it")
        self.blobs: dict[int, Blob] = {}

    def blob(self, offset: int) -> Blob:
        """The entry whose metadata begins at `offset`."""
        if offset not in self.blobs:
            self.blobs[offset] = self._read_blob(offset)
        return self.blobs[offset]

    def _read_blob(self, offset: int) -> Blob:
        place = f"{self.path.name} at {offset}"
        if offset % ALIGNMENT != 0 or not ALIGNMENT <= offset <= self.size - ALIGNMENT:
            raise ValueError(f"{place}: no entry can begin here")
        metadata = self._bytes[offset : offset + ALIGNMENT].tobytes()
        sentinel, kind, size, data, padding_bits = struct.unpack("<IIQQQ", metadata[:32])
        if sentinel != _SENTINEL or any(metadata[32:]):
            raise ValueError(f"{place}: not the metadata of an entry")
        if kind not in _BLOB_NAMES:
            raise ValueError(f"{place}: data type {kind}")
        if data % ALIGNMENT != 0 or data + size > self.size:
            raise ValueError(f"{place}: {size} bytes of data at {data} in a file of {self.size}")
        bits = DATA_TYPES[_BLOB_NAMES[kind]].bits
        if padding_bits >= 8 or (padding_bits and bits >= 8) or (8 * size - padding_bits) % bits != 0:
            raise ValueError(f"{place}: {size} bytes with {padding_bits} padding bits of elements of {bits} bits")
        return Blob(offset, _BLOB_NAMES[kind], data, size, padding_bits)

    def check(self, offset: int, wanted: TensorType) -> None:
        """The entry at `offset` holds a value of type `wanted`."""
        found = self.blob(offset)
        kind = DATA_TYPES[wanted.dtype]
        if found.dtype != wanted.dtype or 8 * found.size - found.padding_bits != wanted.elements * kind.bits:
            stored = f"{found.size} bytes of {found.dtype} with {found.padding_bits} padding bits"
            raise ValueError(f"{self.path.name} at {offset}: {stored}, where the program has {wanted}")

    def array(self, offset: int, wanted: TensorType) -> NDArray[Any]:
        """The value of the entry at `offset`."""
        self.check(offset, wanted)
        found = self.blob(offset)
        return _from_bytes(self._bytes[found.data : found.data + found.size].tobytes(), wanted)

    def check_coverage(self) -> None:
        """The entries that were asked for are all there are, lie apart, and leave no gap but for alignment."""
        if self.count != len(self.blobs):
            raise ValueError(f"{self.path.name}: {self.count} entries, of which programs use {len(self.blobs)}")
        ranges = [(0, ALIGNMENT)]
        for found in self.blobs.values():
            ranges += [(found.metadata, found.metadata + ALIGNMENT), (found.data, found.data + found.size)]
        end = 0
        for begin, next_end in [*sorted(ranges), (self.size, self.size)]:
            if begin < end:
                raise ValueError(f"{self.path.name}: byte {begin} is used twice")
            if begin - end >= ALIGNMENT or self._bytes[end:begin].any():
                raise ValueError(f"{self.path.name}: bytes {end} to {begin} belong to no entry")
            end = next_end


def _from_bytes(raw: bytes, wanted: TensorType) -> NDArray[Any]:
    kind = DATA_TYPES[wanted.dtype]
    if kind.bits < 8:
        values = unpack_bits(raw, kind.bits, wanted.elements, signed=wanted.dtype.startswith("int"))
    else:
        values = np.frombuffer(raw, np.dtype(kind.holder).newbyteorder("<")).copy()
    if values.size != wanted.elements:
        raise ValueError(f"{len(raw)} bytes for {wanted}")
    return values.reshape(wanted.shape)


# --- Inputs and outputs.

_FEATURE_TYPES: Final = {"FLOAT32": "fp32", "FLOAT16": "fp16", "INT32": "int32", "INT8": "int8"}


@dataclass(frozen=True)
class Feature:
    """An input or output as the model describes it to callers.

    `shape` is an input's default one; an output of variable shape has none. An input takes only the default shape, the
    enumerated shapes, or, for each dimension, a range (its least and largest size; -1 is no limit).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether the framework would take an input of that shape."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high == -1 or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape in (self.enumerated or (self.shape,))

    def program_shape(self) -> tuple[int | None, ...]:
        """The shape of the program's own input: sizes that vary are unknown."""
        shapes = self.ranges or tuple(zip(*(self.enumerated or (self.shape,)), strict=True))
        return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in shapes)


def read_feature(description: Model_pb2.FeatureDescription) -> Feature:
    """A feature from its description, which has to be an array."""
    if description.type.WhichOneof("Type") != "multiArrayType":
        raise ValueError(f"{description.name} is {description.type.WhichOneof('Type')}, not multiArrayType")
    return _read_array(description.name, description.type.multiArrayType)


def read_state(description: Model_pb2.FeatureDescription) -> TensorType:
    """What a state holds, from its description."""
    if description.type.WhichOneof("Type") != "stateType":
        raise ValueError(f"{description.name} is {description.type.WhichOneof('Type')}, not stateType")
    held = _read_array(description.name, description.type.stateType.arrayType)
    return TensorType(held.dtype, held.shape)


def _read_array(name: str, array: FeatureTypes_pb2.ArrayFeatureType) -> Feature:
    kind = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
    if kind not in _FEATURE_TYPES:
        raise ValueError(f"{name} has elements of type {kind}")
    feature = Feature(
        name,
        _FEATURE_TYPES[kind],
        tuple(array.shape),
        tuple(tuple(option.shape) for option in array.enumeratedShapes.shapes),
        tuple((sizes.lowerBound, sizes.upperBound) for sizes in array.shapeRange.sizeRanges),
    )
    if array.WhichOneof("ShapeFlexibility") is not None:
        if not feature.accepts(feature.shape):
            raise ValueError(f"{feature.name}: the default shape {feature.shape} is not one of those it takes")
        if len(set(feature.enumerated)) < len(feature.enumerated):
            raise ValueError(f"{feature.name}: a shape is enumerated twice")
    return feature


# --- Programs.


@dataclass(frozen=True)
class Function:
    """A function of an ML Program, with its operations in order."""

    name: str
    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    input_types: dict[str, TensorType]
    states: dict[str, TensorType]
    """By the names that `read_state` and `write_state` take."""
    operations: tuple[MIL_pb2.Operation, ...]


class Program:
    """One ML Program: a specification of its own, with weight files beside it that other programs may share."""

    def __init__(self, spec: Model_pb2.Model, package: Package) -> None:
        self.spec = spec
        self._package = package
        if spec.WhichOneof("Type") != "mlProgram":
            raise ValueError(f"a model is {spec.WhichOneof('Type')}, not an ML Program")
        if spec.specificationVersion not in OPSETS:
            raise ValueError(f"specification version {spec.specificationVersion}")
        self.opset = OPSETS[spec.specificationVersion]
        if spec.mlProgram.version != 1:
            raise ValueError(f"ML Program version {spec.mlProgram.version}")
        self.functions = {name: self._function(name) for name in spec.mlProgram.functions}

    def _function(self, name: str) -> Function:
        function = self.spec.mlProgram.functions[name]
        if function.opset != self.opset or set(function.block_specializations) != {self.opset}:
            raise ValueError(f"function {name} is written for {function.opset}, not only for {self.opset}")
        description: Any = self.spec.description
        if description.functions:
            (description,) = (entry for entry in description.functions if entry.name == name)
        elif name != "main":
            raise ValueError(f"function {name} has no description")
        block = function.block_specializations[self.opset]
        read = Function(
            name,
            {entry.name: read_feature(entry) for entry in description.input},
            {entry.name: read_feature(entry) for entry in description.output},
            {entry.name: read_type(entry.type) for entry in function.inputs if not _is_state(entry.type)},
            {entry.name: read_state_type(entry.type) for entry in function.inputs if _is_state(entry.type)},
            tuple(block.operations),
        )
        if read.states != {entry.name: read_state(entry) for entry in description.state}:
            raise ValueError(f"function {name}: other states than those described")
        self._check_interface(read, list(block.outputs), self._check_operations(read))
        return read

    def _check_operations(self, function: Function) -> dict[str, TensorType]:
        """Every name is one, and defined once, before it is used; the type of each."""
        types = dict(function.input_types)
        for name in (*types, *function.states):
            _check_name(name)
        for operation in function.operations:
            place = f"{operation.type} {', '.join(output.name for output in operation.outputs)}"
            if operation.blocks:
                raise ValueError(f"{place}: blocks inside of operations are not read")
            bindings = [binding for argument in operation.inputs.values() for binding in argument.arguments]
            for binding in bindings:
                if binding.WhichOneof("binding") == "name" and binding.name not in types | function.states:
                    raise ValueError(f"{place}: {binding.name} is not defined before it")
            self._check_states(function, operation)
            values = [binding.value for binding in bindings if binding.WhichOneof("binding") == "value"]
            for value in (*values, *operation.attributes.values()):
                self._check_constant(value)
            for output in operation.outputs:
                _check_name(output.name)
                if output.name in types:
                    raise ValueError(f"{place}: {output.name} is defined twice")
                types[output.name] = read_type(output.type)
        return types

    @staticmethod
    def _check_states(function: Function, operation: MIL_pb2.Operation) -> None:
        """States go nowhere but to the two operators that are for them, from specification 9 on."""
        for parameter, argument in operation.inputs.items():
            takes_state = (operation.type, parameter) in (("read_state", "input"), ("write_state", "input"))
            for binding in argument.arguments:
                if (binding.name in function.states) != takes_state:
                    raise ValueError(f"{operation.type}: {binding.name} is no {parameter} of it")
        if len(operation.outputs) != (0 if operation.type == "write_state" else 1) and operation.type != "split":
            raise ValueError(f"{operation.type}: {len(operation.outputs)} outputs")

    @staticmethod
    def _check_interface(function: Function, outputs: list[str], types: dict[str, TensorType]) -> None:
        """The description promises what the function takes and gives."""
        if list(function.inputs) != list(function.input_types) or list(function.outputs) != outputs:
            raise ValueError(f"function {function.name}: other inputs or outputs than those described")
        for name, feature in function.inputs.items():
            described = TensorType(feature.dtype, feature.program_shape())
            if described != types[name]:
                raise ValueError(f"input {name} is described as {described} and is {types[name]}")
        for name, feature in function.outputs.items():
            shape = () if None in types[name].shape else types[name].shape
            if (feature.dtype, feature.shape) != (types[name].dtype, shape):
                raise ValueError(f"output {name} is described as {feature.dtype}{feature.shape} and is {types[name]}")

    def _check_constant(self, value: MIL_pb2.Value) -> None:
        if value.WhichOneof("value") == "blobFileValue":
            self._package.weights(value.blobFileValue.fileName).check(value.blobFileValue.offset, read_type(value.type))
        else:
            self.constant(value)

    def constant(self, value: MIL_pb2.Value) -> Constant:
        """A constant in numpy, integers of less than 8 bits in bytes; strings as they are."""
        wanted = read_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            weights = self._package.weights(value.blobFileValue.fileName)
            return weights.array(value.blobFileValue.offset, wanted)
        if value.immediateValue.WhichOneof("value") != "tensor":
            raise ValueError(f"a constant is {value.immediateValue.WhichOneof('value')}, not tensor")
        tensor = value.immediateValue.tensor
        kind = DATA_TYPES[wanted.dtype]
        field = tensor.WhichOneof("value")
        if field != kind.field:
            raise ValueError(f"a constant {wanted} is stored as {field}, not as {kind.field}")
        values = getattr(tensor, field).values
        if field == "bytes":
            return _from_bytes(values, wanted)
        if len(values) != wanted.elements:
            raise ValueError(f"{len(values)} values for a constant {wanted}")
        if field == "strings":
            return list(values) if wanted.shape else str(values[0])
        limits = np.iinfo(kind.holder) if field == "ints" else None
        if limits and not all(limits.min <= number <= limits.max for number in values):
            raise ValueError(f"a number is beyond {wanted}")
        return np.array(list(values), kind.holder).reshape(wanted.shape)


def _is_state(spelled: MIL_pb2.ValueType) -> bool:
    return bool(spelled.WhichOneof("type") == "stateType")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(f"'{name}' is no name of a value")


# --- The package.


class Package:
    """A package whose files keep the rules; the programs in it, in the order in which a pipeline runs them."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._weight_files: dict[str, WeightFile] = {}
        root, items = self._read_manifest()
        self._folder = root.parent
        self.spec = Model_pb2.Model.FromString(root.read_bytes())
        for message in _messages(self.spec):
            if len(UnknownFieldSet(message)) > 0:
                raise ValueError(f"{root.name}: a field that {message.DESCRIPTOR.name} does not have")
        self.is_pipeline = self.spec.WhichOneof("Type") == "pipeline"
        models = list(self.spec.pipeline.models) if self.is_pipeline else [self.spec]
        self.programs = [Program(model, self) for model in models]
        if self.is_pipeline:
            self._check_pipeline()
        self._check_files(root, items)

    @property
    def inputs(self) -> dict[str, Feature]:
        """Of the whole package."""
        return {entry.name: read_feature(entry) for entry in self.spec.description.input}

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter noted about the model."""
        return dict(self.spec.description.metadata.userDefined)

    @property
    def weight_files(self) -> list[WeightFile]:
        """Every weight file that programs refer to."""
        return list(self._weight_files.values())

    def weights(self, name: str) -> WeightFile:
        """The weight file of a blobFileValue's name."""
        if name not in self._weight_files:
            file = self._folder / name.removeprefix(_MODEL_PATH)
            if not name.startswith(_MODEL_PATH) or ".." in file.parts or not file.is_file():
                raise ValueError(f"no weight file {name}")
            self._weight_files[name] = WeightFile(file)
        return self._weight_files[name]

    def _read_manifest(self) -> tuple[Path, list[Path]]:
        """The specification's path and those of all items."""
        manifest = json.loads((self.path / "Manifest.json").read_text())
        if set(manifest) != {"fileFormatVersion", "itemInfoEntries", "rootModelIdentifier"}:
            raise ValueError(f"Manifest.json has the keys {sorted(manifest)}")
        if manifest["fileFormatVersion"] != "1.0.0":
            raise ValueError(f"Manifest.json: version {manifest['fileFormatVersion']}")
        entries = manifest["itemInfoEntries"]
        for identifier, entry in entries.items():
            uuid.UUID(identifier)
            if set(entry) != {"author", "description", "name", "path"}:
                raise ValueError(f"Manifest.json: an item has the keys {sorted(entry)}")
            if entry["path"] != f"{entry['author']}/{entry['name']}":
                raise ValueError(f"Manifest.json: {entry['path']} is not {entry['author']}'s {entry['name']}")
            if not (self.path / "Data" / entry["path"]).exists():
                raise ValueError(f"Manifest.json: no item at {entry['path']}")
        if manifest["rootModelIdentifier"] not in entries:
            raise ValueError("Manifest.json: rootModelIdentifier is no item")
        root = entries[manifest["rootModelIdentifier"]]
        return self.path / "Data" / root["path"], [self.path / "Data" / entry["path"] for entry in entries.values()]

    def _check_files(self, root: Path, items: list[Path]) -> None:
        """Every file is named by the manifest, and every weight file and each of its entries by a program."""
        used = {self.path / "Manifest.json", root, *(weights.path for weights in self.weight_files)}
        for file in sorted(self.path.rglob("*")):
            if file.is_symlink() or (file.is_file() and file not in used and not _is_empty_weight_file(file)):
                raise ValueError(f"{file.relative_to(self.path)} is used by nothing")
        for file in used - {self.path / "Manifest.json"}:
            if not any(file == item or item in file.parents for item in items):
                raise ValueError(f"{file.relative_to(self.path)} is not in Manifest.json")
        for weights in self.weight_files:
            weights.check_coverage()

    def _check_pipeline(self) -> None:
        """Each model finds its inputs among the pipeline's and the outputs of the models before it."""
        known = self.inputs
        for program in self.programs:
            main = program.functions["main"]
            for name, feature in main.inputs.items():
                given = known.get(name)
                if given is None or given.dtype != feature.dtype:
                    raise ValueError(f"pipeline: no {feature.dtype} input {name} for the model that takes it")
            known |= main.outputs
        for entry in self.spec.description.output:
            if known.get(entry.name) != read_feature(entry):
                raise ValueError(f"pipeline: no model has an output {entry.name} as described")
        if self.spec.specificationVersion < max(program.spec.specificationVersion for program in self.programs):
            raise ValueError("pipeline: a model has a newer specification version")


def _is_empty_weight_file(file: Path) -> bool:
    """A header that says that nothing follows: the weights of a program without any."""
    return file.parent.name == "weights" and file.read_bytes() == struct.pack("<2I", 0, _VERSION).ljust(
        ALIGNMENT, b"\0"
    )


def _messages(message: Message) -> Iterator[Message]:
    """A message and all inside of it."""
    yield message
    for _, value in message.ListFields():
        if isinstance(value, Message):
            yield from _messages(value)
        elif not isinstance(value, (str, bytes, int, float)):
            for inner in value.values() if hasattr(value, "values") else value:
                if isinstance(inner, Message):
                    yield from _messages(inner)
