"""The Core ML backend: packages load in coremltools without a warning, and compute what the model computes.

The interpreter executes them, with FP16 rounded after every operation; see mil_interpreter.py.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import torch
from command import export as export_file
from command import run
from conftest import MakeCheckpoint
from coreml_cases import (
    FAMILIES,
    FORMATS,
    FP16,
    FP32,
    INT4,
    INT8,
    INT8_DYNAMIC,
    LENGTHS,
    RANGE,
    Case,
    edited,
    export,
    export_case,
    files,
    load,
    operations,
    operators,
)
from coreml_check import check_with_coremltools
from coreml_package import Package, read_type
from coremltools_alone import MIL_pb2
from families import Reference, compare
from program import random_ids
from quantization import Options, QuantizedReference
from safetensors.torch import load_file
from static_reference import RoundedReference, affine, measure, static_checkpoint
from test_formats import relative_error, wide_sizes
from torch import Tensor

SPECIFICATIONS: Final = {
    "iOS16": (7, "CoreML6"),
    "macOS13": (7, "CoreML6"),
    "iOS17": (8, "CoreML7"),
    "macOS14": (8, "CoreML7"),
    "iOS18": (9, "CoreML8"),
    "macOS15": (9, "CoreML8"),
}


# --- Numbers.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_model(
    name: str, family: str, checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    case, model = FORMATS[name], checkpoint(family)
    report = export_case(case, model, tmp_path / "m.mlpackage", *(calibration if case.stored.mode == "static" else ()))
    assert report["backend"] == "coreml"
    assert report["family"] == family
    interpreter, reference = load(tmp_path / "m.mlpackage"), Reference(model)
    stored = QuantizedReference(model, case.stored)
    for length in LENGTHS:
        ids = random_ids(length, reference.architecture.vocab)
        logits, expected = interpreter.logits(ids), reference.logits(ids)[0]
        assert torch.isfinite(logits).all()
        if name == "fp32":
            assert relative_error(logits, expected) < 1e-4, f"length {length}"
        else:
            assert compare(logits, expected)["cosine"] >= case.cosine, f"length {length}"
        if case.stored.mode != "static":
            assert compare(logits, stored.logits(ids)[0])["cosine"] >= 0.9999, f"length {length}"


EXACT: Final = {
    # Scales of groups are bfloat16 numbers: FP16 holds them, and its products with integers of 4 bits, exactly.
    "int4 g32": (INT4, 1e-4),
    "int4 g64": (Case(replace(INT4.stored, group_size=64), "iOS18", 0.97), 1e-4),
    "int4 g128": (Case(replace(INT4.stored, group_size=128), "iOS18", 0.97), 1e-4),
    "int4 g256": (Case(replace(INT4.stored, group_size=256), "iOS18", 0.97), 1e-4),
    "int4 g32, fp32 elsewhere": (Case(Options("int4", group_size=32), "iOS18", 0.97), 1e-4),
    "fp16": (FP16, 1e-4),
    # FP16 may round the scales of channels.
    "int4 per channel": (Case(replace(INT4.stored, group_size=0), "iOS18", 0.97), 2e-3),
    "int8": (INT8, 2e-3),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EXACT)
def test_fp32_arithmetic_gives_the_logits_of_the_stored_weights(
    name: str, family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    case, tolerance = EXACT[name]
    model = checkpoint(family, **(wide_sizes(family) if case.stored.group_size > 32 else {}))
    target = case.target if case.stored.dtype == "int4" else "iOS18"
    words = case.arguments(fp32=True, target=target)
    export_file(model, tmp_path / "m.mlpackage", *words, *RANGE)
    interpreter, stored = load(tmp_path / "m.mlpackage"), QuantizedReference(model, case.stored)
    for length in LENGTHS:
        ids = random_ids(length, stored.architecture.vocab)
        assert relative_error(interpreter.logits(ids), stored.logits(ids)[0]) < tolerance, f"length {length}"


@pytest.mark.parametrize("name", FORMATS)
def test_trained_model_stays_close_to_fp32(name: str, tiny: Path, tmp_path: Path) -> None:
    case = FORMATS[name]
    own = ("--calibration", tiny / "calibration.txt", "--calibration-length", 128)
    words = (*case.arguments(), *(own if case.stored.mode == "static" else ()))
    export_file(tiny, tmp_path / "m.mlpackage", *words, "--seq-len", 128)
    interpreter = load(tmp_path / "m.mlpackage")
    data = load_file(tiny / "eval.safetensors")
    logits = torch.stack([interpreter.logits(ids) for ids in data["reference_input_ids"]])
    agreement = compare(logits, data["reference_logits"])
    if name == "fp32":
        assert agreement["max_abs"] < 1e-4
    else:
        # 0.995 for static activations is what test_static.py has for them.
        assert agreement["cosine"] >= (0.995 if case.stored.mode == "static" else case.cosine)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_neither_overflows_nor_meets_infinity(
    target: str, family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Activations of some thousands are no news in large models: their squares are beyond FP16."""
    source = checkpoint(family)
    table = Reference(source).architecture.module_name("embedding") + ".weight"

    def enlarge(weights: dict[str, Tensor]) -> None:
        if Reference(source).architecture.tied:
            weights["model.norm.weight"] /= 1000
        weights[table] = weights[table] * 1000

    model = edited(source, tmp_path / "model", enlarge)
    largest = 0.0

    def observe(operation: MIL_pb2.Operation, result: Tensor) -> None:
        nonlocal largest
        if result.dtype == torch.float16:
            assert torch.isfinite(result).all(), f"{operation.type} {operation.outputs[0].name}"
            largest = max(largest, result.abs().max().item())

    export_file(model, tmp_path / "m.mlpackage", *FP16.arguments(target=target), *RANGE)
    interpreter = load(tmp_path / "m.mlpackage", observe)
    ids = random_ids(37, 1001)
    assert compare(interpreter.logits(ids), Reference(model).logits(ids)[0])["cosine"] >= 0.999
    assert largest > 1000


def test_late_positions_keep_their_angles_in_fp16(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """FP16 has steps of 1 from 1024 on: an angle computed in it would be wrong by up to half a radian."""

    def sharpen(weights: dict[str, Tensor]) -> None:
        for name in weights:
            if ".q_proj." in name:
                weights[name] = 8 * weights[name]  # attention to single tokens: the angles decide which

    source = checkpoint("dream", max_position_embeddings=2048, num_hidden_layers=1)
    model = edited(source, tmp_path / "model", sharpen)
    export_file(model, tmp_path / "m.mlpackage", *FP16.arguments(), "--seq-len", "1500")
    ids = random_ids(1500, 1001)
    agreement = compare(load(tmp_path / "m.mlpackage").logits(ids)[1024:], Reference(model).logits(ids)[0, 1024:])
    assert agreement["cosine"] >= 0.9999


# --- Static activations.


@pytest.mark.parametrize("family", FAMILIES)
def test_static_layers_round_what_they_take_and_give_by_the_scales_of_calibration(
    family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model, options = checkpoint(family), Options("int8", "static")
    ranges = measure(model, options)
    quantized = static_checkpoint(model, tmp_path / "q", options, ranges)
    words = ("--embedding-dtype", "fp32", "--head-dtype", "fp32", "--activation-dtype", "fp32", *RANGE)
    export(quantized, tmp_path / "m.mlpackage", "--minimum-deployment-target", "iOS17", *words)
    interpreter = load(tmp_path / "m.mlpackage")
    found = quantizations(interpreter.package)
    for module in ranges:
        for side in ("input", "output"):
            scale, zero_point = affine(ranges[module][side])
            wanted = (pytest.approx(float(scale), rel=1e-6), zero_point)
            assert module == "lm_head" or wanted in found, f"{side} of {module}"

    reference, errors = RoundedReference(model, options, ranges), []
    for length in LENGTHS:
        ids = random_ids(length, 1001)
        logits, expected = interpreter.logits(ids), reference.logits(ids)[0]
        assert compare(logits, expected)["cosine"] >= 0.9995, f"length {length}"
        errors.append(relative_error(logits, expected))
    # A value half-way between two steps may go either way, and then moves every token that sees it.
    assert min(errors) < 1e-4, errors


def quantizations(package: Package) -> list[tuple[float, int]]:
    """Scale and zero point of every quantize operation, as for integers from -128 to 127."""
    (program,) = package.programs
    constants = {
        operation.outputs[0].name: program.constant(operation.attributes["val"])
        for operation in operations(package)
        if operation.type == "const"
    }
    found = []
    for operation in operations(package):
        if operation.type != "quantize":
            continue
        given = {
            name: constants[binding.name]
            if binding.WhichOneof("binding") == "name"
            else program.constant(binding.value)
            for name, argument in operation.inputs.items()
            if name != "input"
            for binding in argument.arguments
        }
        unsigned = given["output_dtype"] == "uint8"
        found.append((float(given["scale"]), int(given.get("zero_point", 0)) - (128 if unsigned else 0)))
    return found


def test_dynamic_activations_are_not_quantized_and_a_warning_says_so(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("llada")
    reports = {}
    for case in (INT8, INT8_DYNAMIC):
        path = tmp_path / f"{case.stored.mode}.mlpackage"
        reports[case.stored.mode] = export_case(case, model, path)
        assert "quantize" not in operators(Package(path))
    assert not [warning for warning in reports["weight_only"]["warnings"] if "dynamic" in warning]
    assert [warning for warning in reports["dynamic"]["warnings"] if "dynamic" in warning]
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert files(tmp_path / "dynamic.mlpackage")[weights] == files(tmp_path / "weight_only.mlpackage")[weights]


# --- How weights are stored.


@pytest.mark.parametrize(
    ("name", "target", "operator"),
    [
        ("int8", "iOS16", "constexpr_affine_dequantize"),
        ("int8", "iOS17", "constexpr_affine_dequantize"),
        ("int8", "iOS18", "constexpr_blockwise_shift_scale"),
        ("int8 static", "iOS17", "constexpr_affine_dequantize"),
        ("int8 static", "iOS18", "constexpr_blockwise_shift_scale"),
        ("int4 g32", "iOS18", "constexpr_blockwise_shift_scale"),
    ],
)
def test_quantized_weights_stay_integers(
    name: str,
    target: str,
    operator: str,
    checkpoint: MakeCheckpoint,
    calibration: tuple[object, ...],
    tmp_path: Path,
) -> None:
    case, model = FORMATS[name], checkpoint("sdar")
    words = (*case.arguments(target=target), *(calibration if case.stored.mode == "static" else ()))
    export_file(model, tmp_path / "m.mlpackage", *words, *RANGE)
    interpreter = load(tmp_path / "m.mlpackage")
    modules = Reference(model).architecture.modules()
    matrices = [shape for shape, _ in modules.values() if len(shape) == 2]
    assert operators(interpreter.package)[operator] == len(matrices)
    (weights,) = interpreter.package.weight_files
    stored = Counter(blob.dtype for blob in weights.blobs.values())
    assert stored["int4" if case.stored.dtype == "int4" else "int8"] == len(matrices)
    reference = Reference(model)
    for length in (1, 37):
        ids = random_ids(length, 1001)
        assert compare(interpreter.logits(ids), reference.logits(ids)[0])["cosine"] >= case.cosine


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_equal_weights_are_stored_once(dtype: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """A tied head is the embedding's table; two layers with the same weights share them."""
    source = checkpoint("fast_dllm_v2")

    def repeat_layer(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            if ".layers.0." in name:
                weights[name.replace(".layers.0.", ".layers.1.")] = weights[name].clone()

    model = edited(source, tmp_path / "model", repeat_layer)
    case = Case(Options(dtype, group_size=32, embedding=dtype, head=dtype), "iOS18", 0.97)
    export_case(case, model, tmp_path / "m.mlpackage")
    interpreter = load(tmp_path / "m.mlpackage")
    (weights,) = interpreter.package.weight_files
    whole = weights.path.read_bytes()
    contents = Counter(
        (blob.dtype, hashlib.sha256(whole[blob.data : blob.data + blob.size]).digest())
        for blob in weights.blobs.values()
    )
    assert set(contents.values()) == {1}
    bits = {"fp16": 16, "int8": 8, "int4": 4}[dtype]
    table = [blob for blob in weights.blobs.values() if blob.size == 1001 * 96 * bits // 8]
    assert len(table) == 1
    ids = random_ids(37, 1001)
    expected = QuantizedReference(model, case.stored).logits(ids)[0]
    assert compare(interpreter.logits(ids), expected)["cosine"] >= 0.9999


def test_excluded_layers_are_not_quantized(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llada")
    words = ("--exclude", "DOWN_proj", "--exclude", "s.0.attn_out")
    report = export_case(INT8, model, tmp_path / "m.mlpackage", *words)
    kept = {
        layer["layer"] for layer in report["layers"] if layer["role"] == "linear" and layer["dtype"] in ("fp32", "fp16")
    }
    assert kept == {"layers.0.down_proj", "layers.1.down_proj", "layers.0.o_proj"}
    package = load(tmp_path / "m.mlpackage").package
    assert operators(package)["constexpr_affine_dequantize"] == 2 * 7 + 2 - len(kept)


# --- Palettes.


def quantization_error(found: Tensor, original: Tensor) -> float:
    return float((found.double() - original.double()).square().mean())


@pytest.mark.parametrize(
    ("words", "target", "rows_of_a_table"),
    [
        (("--palette",), "iOS16", None),
        (("--palette",), "iOS17", None),
        (("--palette",), "iOS18", None),
        (("--palette-group", 16), "iOS18", 16),
        (("--palette-group", 32), "iOS18", 32),
    ],
)
def test_palettes_hold_the_weights(
    words: tuple[object, ...], target: str, rows_of_a_table: int | None, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("llada")
    case = Case(Options("int4", embedding="fp16", head="fp16"), target, 0.97)
    palette = words if "--palette" in words else ("--palette", *words)
    export_case(case, model, tmp_path / "m.mlpackage", *palette)
    decompressed: list[Tensor] = []

    def observe(operation: MIL_pb2.Operation, result: Tensor) -> None:
        if operation.type == "constexpr_lut_to_dense":
            decompressed.append(result)

    interpreter = load(tmp_path / "m.mlpackage", observe)
    for operation in operations(interpreter.package):
        if operation.type != "constexpr_lut_to_dense":
            continue
        rows = read_type(operation.outputs[0].type).shape[0]
        given = {name: argument.arguments[0].value for name, argument in operation.inputs.items()}
        table = read_type((given or operation.attributes)["lut"].type)
        if target != "iOS18":
            assert table.shape == (16,)
        else:
            assert rows is not None
            assert table.shape == (1 if rows_of_a_table is None else rows // rows_of_a_table, 1, 16, 1)
            assert read_type(given["indices"].type).dtype == "uint4"

    ids = random_ids(37, 1001)
    logits = interpreter.logits(ids)
    assert len(decompressed) == 2 * 7
    reference = Reference(model)
    for module, (shape, _) in reference.architecture.modules().items():
        if len(shape) != 2 or module in ("embedding", "lm_head"):
            continue
        name = f"{reference.architecture.module_name(module)}.weight"
        original = reference.weights[name]
        alike = [found for found in decompressed if found.shape == original.shape]
        found = min(alike, key=lambda one, original=original: quantization_error(one, original))
        assert len(found.unique()) <= 16 * (1 if rows_of_a_table is None else shape[0] // rows_of_a_table)
        assert quantization_error(found, original) < quantization_error(evenly_rounded(original), original)
        reference.weights[name] = found.float()
    for name in ("embedding", "lm_head"):
        name = f"{reference.architecture.module_name(name)}.weight"
        reference.weights[name] = reference.weights[name].half().float()
    assert compare(logits, reference.logits(ids)[0])["cosine"] >= 0.9999
    assert compare(logits, Reference(model).logits(ids)[0])["cosine"] >= case.cosine


def evenly_rounded(weight: Tensor) -> Tensor:
    """The weight with its values moved to the nearest of 16 evenly spaced ones: what k-means has to beat."""
    low, high = weight.min(), weight.max()
    step = (high - low) / 15
    return low + ((weight - low) / step).round() * step


def test_calibration_weighs_the_errors_of_a_palette(
    checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    model = checkpoint("dream")
    case = Case(Options("int4", embedding="fp16", head="fp16"), "iOS16", 0.97)
    for name, words in (("plain", ()), ("weighted", calibration)):
        export_case(case, model, tmp_path / f"{name}.mlpackage", "--palette", *words)
        ids = random_ids(37, 1001)
        logits = load(tmp_path / f"{name}.mlpackage").logits(ids)
        assert compare(logits, Reference(model).logits(ids)[0])["cosine"] >= case.cosine
    assert files(tmp_path / "plain.mlpackage") != files(tmp_path / "weighted.mlpackage")


# --- Targets, shapes, metadata.


@pytest.mark.parametrize("target", SPECIFICATIONS)
def test_target_decides_the_operation_set(target: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export_file(checkpoint("sdar"), tmp_path / "m.mlpackage", *FP16.arguments(target=target), *RANGE)
    package = check_with_coremltools(tmp_path / "m.mlpackage")
    (program,) = package.programs
    assert (package.spec.specificationVersion, program.opset) == SPECIFICATIONS[target]
    attends = operators(package)["scaled_dot_product_attention"]
    assert attends == (2 if target in ("iOS18", "macOS15") else 0)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_every_target_computes_the_same(
    family: str, target: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    case, model = FORMATS[name], checkpoint(family)
    export_file(model, tmp_path / "m.mlpackage", *case.arguments(target=target), *RANGE)
    interpreter, stored = load(tmp_path / "m.mlpackage"), QuantizedReference(model, case.stored)
    for length in LENGTHS:
        ids = random_ids(length, 1001)
        expected = stored.logits(ids)[0]
        assert compare(interpreter.logits(ids), expected)["cosine"] >= (0.99999999 if name == "fp32" else 0.9999)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize(
    ("spelled", "taken", "refused"),
    [
        ("37", (37,), (1, 36, 38)),
        ("8,37,64", (8, 37, 64), (1, 9, 63, 65)),
        ("5..64", (5, 6, 37, 64), (1, 4, 65)),
        ("1..256", (1, 2, 33, 256), (257,)),
    ],
)
def test_input_takes_the_lengths_that_were_asked_for(
    spelled: str,
    taken: tuple[int, ...],
    refused: tuple[int, ...],
    target: str,
    family: str,
    checkpoint: MakeCheckpoint,
    tmp_path: Path,
) -> None:
    model = checkpoint(family)
    export_file(model, tmp_path / "m.mlpackage", *FP32.arguments(target=target), "--seq-len", spelled)
    interpreter, reference = load(tmp_path / "m.mlpackage"), Reference(model)
    (feature,) = interpreter.package.inputs.values()
    assert (feature.name, feature.dtype) == ("input_ids", "int32")
    assert feature.enumerated == (tuple((1, length) for length in taken) if "," in spelled else ())
    assert feature.ranges == (((1, 1), tuple(map(int, spelled.split("..")))) if ".." in spelled else ())
    for length in taken:
        ids = random_ids(length, 1001)
        assert relative_error(interpreter.logits(ids), reference.logits(ids)[0]) < 1e-4, f"length {length}"
    for length in refused:
        with pytest.raises(ValueError, match="is no input"):
            interpreter.logits(random_ids(length, 1001))


def test_block_length_of_the_command_line_is_that_of_the_mask(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar")
    reference = Reference(model)
    ids = random_ids(37, 1001)
    for block_length in (0, 1, 8):
        words = (*FP32.arguments(), *RANGE, "--block-length", block_length)
        export_file(model, tmp_path / f"{block_length}.mlpackage", *words)
        expected = reference.logits(ids, block_length=block_length)[0]
        assert relative_error(load(tmp_path / f"{block_length}.mlpackage").logits(ids), expected) < 1e-4


@pytest.mark.parametrize("unit", ["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"])
def test_metadata_say_where_the_package_comes_from(unit: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llada")
    export_case(INT4, model, tmp_path / "m.mlpackage", "--compute-unit", unit)
    package = check_with_coremltools(tmp_path / "m.mlpackage")
    version = run("--version").stdout.split()[1]
    values = list(package.metadata.values())
    assert any(version in value for value in values)
    assert any(re.search(r"\b[0-9a-f]{64}\b", value) for value in values)
    assert any(unit in value for value in values)
    assert any("int4" in value for value in values)
    assert package.spec.description.metadata.shortDescription
    assert package.metadata == Package(tmp_path / "m.mlpackage").metadata
