"""The reader of Core ML packages: each rule of the format is broken once, and has to be noticed."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import coreml_check
import numpy as np
import pytest
import torch
from coreml_check import check_with_coremltools
from coreml_package import Package, TensorType, WeightFile, unpack_bits
from coremltools_alone import BlobStorageWriter, Builder, FeatureTypes_pb2, MIL_pb2, Model_pb2, types
from mil_interpreter import Interpreter
from mil_programs import build, random_array
from torch import Tensor

# --- Weight files.


def test_small_integers_are_unpacked_from_the_lowest_bits() -> None:
    assert unpack_bits(bytes([0x21, 0x0F]), 4, 3, signed=False).tolist() == [1, 2, 15]
    assert unpack_bits(bytes([0x21, 0x0F]), 4, 3, signed=True).tolist() == [1, 2, -1]
    assert unpack_bits(bytes([0b11_010_001, 0b0000_0101]), 3, 4, signed=False).tolist() == [1, 2, 7, 2]
    for packed, count in ((bytes([0x21]), 3), (bytes([0x21, 0x1F]), 3), (bytes(3), 3)):
        with pytest.raises(ValueError, match="bits"):
            unpack_bits(packed, 4, count, signed=False)


def test_entries_are_read_as_coremltools_writes_them(tmp_path: Path) -> None:
    signed = np.array([-8, 7, -1, 3, 5], np.int8)
    unsigned = np.array([63, 0, 17], np.uint8)
    floats = random_array(7)
    writer = BlobStorageWriter(str(tmp_path / "weight.bin"))
    offsets = (
        writer.write_int4_data(signed.astype(types.np_int4_dtype)),
        writer.write_uint6_data(unsigned.astype(types.np_uint6_dtype)),
        writer.write_float_data(floats),
    )
    del writer
    weights = WeightFile(tmp_path / "weight.bin")
    wanted = (TensorType("int4", (5,)), TensorType("uint6", (3, 1)), TensorType("fp32", (7,)))
    found = [weights.array(offset, kind) for offset, kind in zip(offsets, wanted, strict=True)]
    assert found[0].tolist() == signed.tolist()
    assert found[1].tolist() == unsigned[:, None].tolist()
    assert found[2].tolist() == floats.tolist()
    weights.check_coverage()
    for wrong in (TensorType("int4", (6,)), TensorType("int4", (4,)), TensorType("uint4", (5,))):
        with pytest.raises(ValueError, match="where the program has"):
            weights.array(offsets[0], wrong)
    for nowhere in (0, 32, 128, 1 << 20):
        with pytest.raises(ValueError, match=r"weight\.bin at"):
            weights.blob(nowhere)


# --- Broken packages. Each change makes one rule of the format false.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear layer x [1, 4, 16] -> hidden [1, 4, 32], with a weight of 2,048 bytes and a bias of 128."""
    weight = random_array(32, 16)
    path = tmp_path_factory.mktemp("whole") / "layer.mlpackage"
    return build(path, lambda x: Builder.linear(x=x, weight=weight, name="hidden"), [((1, 4, 16), types.fp32)])


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copytree(whole, tmp_path / "broken.mlpackage"))


def spec_path(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/model.mlmodel"


def weights_path(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"


def edit_spec(package: Path, change: Callable[[Model_pb2.Model], None]) -> None:
    spec = Model_pb2.Model.FromString(spec_path(package).read_bytes())
    change(spec)
    spec_path(package).write_bytes(spec.SerializeToString())


def operations(spec: Model_pb2.Model) -> Iterator[MIL_pb2.Operation]:
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    yield from block.operations


def operation(spec: Model_pb2.Model, kind: str) -> MIL_pb2.Operation:
    return next(one for one in operations(spec) if one.type == kind)


def edit_weights(package: Path, offset: int, layout: str, *values: int) -> None:
    data = bytearray(weights_path(package).read_bytes())
    struct.pack_into(layout, data, offset, *values)
    weights_path(package).write_bytes(data)


def test_whole_package_is_read(whole: Path) -> None:
    package = check_with_coremltools(whole)
    (weights,) = package.weight_files
    assert weights.count == 2
    assert [(blob.metadata, blob.data, blob.size) for blob in weights.blobs.values()] == [
        (64, 128, 2048),
        (2176, 2240, 128),
    ]
    assert package.inputs["x"].shape == (1, 4, 16)
    assert Counter(one.type for one in operations(package.spec)) == {"const": 2, "linear": 1}


WEIGHT_FILE_CHANGES: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "version": ((4, "<I", 1), "version 1"),
    "header": ((60, "<I", 1), "header"),
    "count": ((0, "<I", 3), "3 entries, of which programs use 2"),
    "sentinel": ((64, "<I", 0xDEADBEEE), "not the metadata"),
    "unknown type": ((68, "<I", 99), "data type 99"),
    "other type": ((68, "<I", 14), "where the program has fp32"),
    "size": ((72, "<Q", 2044), "where the program has fp32"),
    "size beyond the file": ((72, "<Q", 1 << 40), "in a file of"),
    "unaligned data": ((80, "<Q", 132), "at 132"),
    "data of another entry": ((2192, "<Q", 128), "used twice"),
    "padding bits": ((88, "<Q", 4), "padding bits"),
    "metadata": ((96, "<Q", 1), "not the metadata"),
}


@pytest.mark.parametrize("name", WEIGHT_FILE_CHANGES)
def test_broken_weight_file_is_refused(name: str, broken: Path) -> None:
    change, message = WEIGHT_FILE_CHANGES[name]
    edit_weights(broken, *change)
    with pytest.raises(ValueError, match=message):
        Package(broken)


def test_bytes_that_belong_to_no_entry_are_refused(broken: Path) -> None:
    whole = weights_path(broken).read_bytes()
    weights_path(broken).write_bytes(whole + bytes(63 - (len(whole) + 63) % 64))
    Package(broken)
    weights_path(broken).write_bytes(whole + bytes(64))
    with pytest.raises(ValueError, match="belong to no entry"):
        Package(broken)
    weights_path(broken).write_bytes(whole + b"\1")
    with pytest.raises(ValueError, match="belong to no entry"):
        Package(broken)
    weights_path(broken).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="in a file of"):
        Package(broken)
    weights_path(broken).write_bytes(b"")
    with pytest.raises(ValueError, match="less than its header"):
        Package(broken)


def set_output_shape(spec: Model_pb2.Model) -> None:
    operation(spec, "linear").outputs[0].type.tensorType.dimensions[2].constant.size = 31
    spec.description.output[0].type.multiArrayType.shape[2] = 31


def set_output_type(spec: Model_pb2.Model) -> None:
    operation(spec, "linear").outputs[0].type.tensorType.dataType = MIL_pb2.DataType.Value("FLOAT16")
    spec.description.output[0].type.multiArrayType.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT16


def rename(spec: Model_pb2.Model, name: str) -> None:
    operation(spec, "const").outputs[0].name = name
    for argument in operation(spec, "linear").inputs.values():
        for binding in argument.arguments:
            if binding.name == "linear_0_weight_0":
                binding.name = name


SPEC_CHANGES: Final[dict[str, tuple[Callable[[Model_pb2.Model], Any], str]]] = {
    "specification version": (lambda spec: setattr(spec, "specificationVersion", 8), "is written for CoreML8"),
    "program version": (lambda spec: setattr(spec.mlProgram, "version", 2), "version 2"),
    "unknown input": (
        lambda spec: setattr(operation(spec, "linear").inputs["x"].arguments[0], "name", "nothing"),
        "nothing is not defined",
    ),
    "defined twice": (lambda spec: rename(spec, "x"), "x is defined twice"),
    "reserved name": (lambda spec: rename(spec, "tensor"), "'tensor' is no name"),
    "name with a dot": (lambda spec: rename(spec, "layers.0"), r"'layers\.0' is no name"),
    "rank": (
        lambda spec: setattr(operation(spec, "linear").outputs[0].type.tensorType, "rank", 2),
        "rank 2 with 3 dimensions",
    ),
    "missing file": (
        lambda spec: setattr(operation(spec, "const").attributes["val"].blobFileValue, "fileName", "weight.bin"),
        "no weight file",
    ),
    "file outside": (
        lambda spec: setattr(
            operation(spec, "const").attributes["val"].blobFileValue,
            "fileName",
            "@model_path/../com.apple.CoreML/weights/weight.bin",
        ),
        "no weight file",
    ),
    "described input": (
        lambda spec: spec.description.input[0].type.multiArrayType.shape.append(1),
        "input x is described as",
    ),
    "described output": (
        lambda spec: setattr(
            spec.description.output[0].type.multiArrayType, "dataType", FeatureTypes_pb2.ArrayFeatureType.FLOAT16
        ),
        "output hidden is described as",
    ),
    "default shape": (
        lambda spec: spec.description.input[0].type.multiArrayType.enumeratedShapes.shapes.add(shape=[1, 5, 16]),
        "is not one of those it takes",
    ),
    "unknown field": (lambda spec: spec.description.MergeFromString(b"\x98\x75\x01"), "does not have"),
}


@pytest.mark.parametrize("name", SPEC_CHANGES)
def test_broken_specification_is_refused(name: str, broken: Path) -> None:
    change, message = SPEC_CHANGES[name]
    edit_spec(broken, change)
    with pytest.raises(ValueError, match=message):
        Package(broken)


@pytest.mark.parametrize("change", [set_output_shape, set_output_type])
def test_wrong_declarations_are_noticed_by_both(change: Callable[[Model_pb2.Model], None], broken: Path) -> None:
    edit_spec(broken, change)
    with pytest.raises(ValueError, match=r"linear hidden: .* is declared, .* was computed"):
        Interpreter(broken).run({"x": torch.zeros(1, 4, 16)})
    # coremltools itself notices the shape; a type it only calls incompatible.
    with pytest.raises((ValueError, AssertionError), match=r"is declared, coremltools infers|Mismatch"):
        check_with_coremltools(broken)


def test_unknown_size_is_not_a_known_one(broken: Path) -> None:
    def forget_length(spec: Model_pb2.Model) -> None:
        operation(spec, "linear").outputs[0].type.tensorType.dimensions[1].unknown.variadic = False
        spec.description.output[0].type.multiArrayType.ClearField("shape")

    edit_spec(broken, forget_length)
    Interpreter(broken).run({"x": torch.zeros(1, 4, 16)})
    with pytest.raises(ValueError, match=r"fp32\[1, \?, 32\] is declared, coremltools infers fp32\[1, 4, 32\]"):
        check_with_coremltools(broken)


def test_declared_type_of_a_constant_is_checked(broken: Path) -> None:
    def widen(spec: Model_pb2.Model) -> None:
        operation(spec, "const").outputs[0].type.tensorType.dimensions[0].constant.size = 33

    edit_spec(broken, widen)
    with pytest.raises(ValueError, match="is declared for a value"):
        Interpreter(broken).run({"x": torch.zeros(1, 4, 16)})
    with pytest.raises(ValueError, match="is declared, coremltools infers"):
        check_with_coremltools(broken)


def test_operator_and_arguments_have_to_be_known(broken: Path) -> None:
    edit_spec(broken, lambda spec: setattr(operation(spec, "linear"), "type", "linaer"))
    with pytest.raises(ValueError, match="not written here"):
        Interpreter(broken).run({"x": torch.zeros(1, 4, 16)})
    edit_spec(broken, lambda spec: setattr(operation(spec, "linaer"), "type", "matmul"))
    with pytest.raises(ValueError, match=r"matmul hidden: .*unexpected keyword"):
        Interpreter(broken).run({"x": torch.zeros(1, 4, 16)})


def test_stray_files_and_broken_manifests_are_refused(broken: Path) -> None:
    stray = weights_path(broken).with_name("other.bin")
    stray.write_bytes(b"")
    with pytest.raises(ValueError, match=r"other\.bin is used by nothing"):
        Package(broken)
    stray.unlink()
    manifest = json.loads((broken / "Manifest.json").read_text())
    items = manifest["itemInfoEntries"]
    (weights,) = (key for key, item in items.items() if item["name"] == "weights")
    for changed, message in (
        (manifest | {"fileFormatVersion": "2.0.0"}, "version 2"),
        (manifest | {"rootModelIdentifier": "0"}, "rootModelIdentifier"),
        (manifest | {"itemInfoEntries": {key: item for key, item in items.items() if key != weights}}, "not in Manif"),
        (manifest | {"itemInfoEntries": items | {weights: items[weights] | {"name": "wights"}}}, "wights"),
    ):
        (broken / "Manifest.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            Package(broken)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": torch.zeros(1, 4, 16), "y": torch.zeros(1)},
        {"x": torch.zeros(1, 5, 16)},
        {"x": torch.zeros(4, 16)},
        {"x": torch.zeros(1, 4, 16, dtype=torch.float16)},
    ],
    ids=["none", "too many", "length", "rank", "type"],
)
def test_inputs_that_the_framework_would_refuse_are_refused(inputs: dict[str, Tensor], broken: Path) -> None:
    with pytest.raises(ValueError, match="input"):
        Interpreter(broken).run(inputs)


@pytest.mark.parametrize(
    "warn",
    [
        lambda: warnings.warn("it is deprecated", stacklevel=1),
        lambda: logging.getLogger("coremltools").warning("it is deprecated"),
    ],
    ids=["warning", "log"],
)
def test_warning_of_coremltools_is_an_error(
    warn: Callable[[], None], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = coreml_check.load_program

    def load(*arguments: Any) -> Any:
        warn()
        return original(*arguments)

    monkeypatch.setattr(coreml_check, "load_program", load)
    with pytest.raises((ValueError, UserWarning), match="deprecated"):
        check_with_coremltools(whole)
