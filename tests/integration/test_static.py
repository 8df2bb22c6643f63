"""Mode static: 8-bit activations with fixed scales, in the ExecuTorch runtime, against the same integer arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES, Reference, compare, write_checkpoint
from flatc import NO_ID, Pte, read_pte
from program import Program, random_ids
from quantization import Options, QuantizedReference, quantize_int8
from safetensors.torch import load_file
from static_reference import Range, StaticReference, affine, copy_with_ranges, measure, note_ranges, static_checkpoint

SEQ_LEN: Final = 100
LENGTHS: Final = (1, 5, 37, SEQ_LEN)

BODY: Final = Options("int8", "static")
EVERYWHERE: Final = Options("int8", "static", embedding="int8", head="int8")
FORMATS: Final = {
    "int8": BODY,
    "int8 everywhere": EVERYWHERE,
    "int8, fp16 elsewhere": Options("int8", "static", embedding="fp16", head="fp16"),
    "int4 per channel": Options("int4", "static", group_size=0),
    "int4 per channel, int8 elsewhere": Options("int4", "static", group_size=0, embedding="int8", head="int8"),
}

Ranges = dict[str, dict[str, Range]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_integer_arithmetic(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = FORMATS[name]
    model = checkpoint(family)
    ranges = measure(model, options)
    quantized = static_checkpoint(model, tmp_path / "q", options, ranges)
    report = export(quantized, tmp_path / "model.pte", "--seq-len", SEQ_LEN)
    assert report["mode"] == "static"
    assert_computes_in_integers(Program(tmp_path / "model.pte"), model, options, ranges)


def assert_computes_in_integers(
    program: Program, model: Path, options: Options, ranges: Ranges, lengths: tuple[int, ...] = LENGTHS
) -> None:
    """The program computes what the integers give, to the bit but for the floating-point operations between layers.

    A value half-way between two steps may go either way there, and change every token that sees it: the two have to
    agree exactly at some length, and closely at all of them.
    """
    exact, dequantized = StaticReference(model, options, ranges), QuantizedReference(model, options)
    agreeing = []
    for length in lengths:
        ids = random_ids(length, exact.architecture.vocab)
        logits, expected = program.logits(ids), exact.logits(ids)[0]
        assert torch.isfinite(logits).all()
        agreement = compare(logits, expected)
        assert agreement["cosine"] >= 0.9995, f"length {length}"
        assert compare(logits, dequantized.logits(ids)[0])["cosine"] >= 0.99, f"length {length}"
        agreeing.append(agreement["max_abs"] < 1e-4 * expected.abs().max().item())
    assert any(agreeing), f"no exact agreement at {lengths}"


@pytest.mark.parametrize("options", [BODY, EVERYWHERE], ids=["body", "everywhere"])
def test_fp16_flows_between_static_layers(options: Options, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar")
    quantized = static_checkpoint(model, tmp_path / "q", options)
    report = export(quantized, tmp_path / "model.pte", "--seq-len", SEQ_LEN, "--activation-dtype", "fp16")
    assert report["activation_dtype"] == "fp16"
    program, exact = Program(tmp_path / "model.pte"), StaticReference(model, options, measure(model, options))
    for length in LENGTHS:
        ids = random_ids(length, exact.architecture.vocab)
        assert compare(program.logits(ids), exact.logits(ids)[0])["cosine"] >= 0.998, f"length {length}"


def test_trained_model_stays_close_to_fp32(tiny: Path, tmp_path: Path) -> None:
    data = load_file(tiny / "eval.safetensors")
    ids = data["reference_input_ids"]
    ranges = measure(tiny, EVERYWHERE, sequences=list(ids))
    quantized = static_checkpoint(tiny, tmp_path / "q", EVERYWHERE, ranges)
    export(quantized, tmp_path / "model.pte")
    program = Program(tmp_path / "model.pte")
    logits = torch.stack([program.logits(row) for row in ids])
    assert compare(logits, data["reference_logits"])["cosine"] >= 0.995
    assert_computes_in_integers(program, tiny, EVERYWHERE, ranges, (7, 33, 256))


# --- What is in the file.


def layers_by_tensor(pte: Pte) -> dict[str, dict[str, Any]]:
    """The fully-connected nodes of the model's layers by the weight's name; not the row means of norms."""
    values = pte.values()
    found = {}
    for layer in pte.nodes("XNNFullyConnected"):
        weight = values[layer["filter_id"]]
        if weight["dims"][0] != 1:
            key = pte.graph["constant_data"][weight["constant_buffer_idx"]]["named_key"]
            found[key.rsplit(":", 2)[0]] = layer
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_quantized_layer_is_in_the_delegate_in_integers(
    family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family)
    ranges = measure(model, EVERYWHERE)
    export(static_checkpoint(model, tmp_path / "q", EVERYWHERE, ranges), tmp_path / "model.pte")
    pte = read_pte(tmp_path / "model.pte", tmp_path)
    values = pte.values()
    reference = Reference(model)
    architecture = reference.architecture
    layers = layers_by_tensor(pte)
    matrices = {
        module: f"{architecture.module_name(module)}.weight"
        for module, (shape, _) in architecture.modules().items()
        if len(shape) == 2 and (module != "embedding" or architecture.tied)
    }
    assert set(layers) == set(matrices.values())
    for module, tensor in matrices.items():
        layer, bounds = layers[tensor], ranges["lm_head" if module == "embedding" else module]
        source, weight, result = (values[layer[key]] for key in ("input1_id", "filter_id", "output_id"))
        assert weight["datatype"] == "xnn_datatype_qcint8"
        scales = quantize_int8(reference.weights[tensor].numpy())[1]
        for side, value in (("input", source), ("output", result)):
            scale, zero_point = affine(bounds[side])
            assert value["datatype"] == "xnn_datatype_qint8"
            assert value["quant_params"]["zero_point"] == zero_point
            assert value["quant_params"]["scale"] == pytest.approx(float(scale), abs=1e-6)  # flatc prints six decimals
        bias = reference.weights.get(tensor.removesuffix("weight") + "bias")
        if bias is None:
            assert layer["bias_id"] == NO_ID
            continue
        stored = values[layer["bias_id"]]
        assert stored["datatype"] == "xnn_datatype_qcint32"
        step = np.float64(affine(bounds["input"])[0]) * np.float64(scales)
        expected = np.rint(bias.numpy().astype(np.float64) / step).astype("<i4")
        assert pte.constant(stored["constant_buffer_idx"]) == expected.tobytes()
        bias_scales = affine(bounds["input"])[0] * np.float32(scales)
        assert bias_scales.astype("<f4").tobytes() in pte.graph_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_share_an_input_share_its_conversion(
    family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family)
    quantized = static_checkpoint(model, tmp_path / "q", BODY)
    export(quantized, tmp_path / "model.pte")
    pte = read_pte(tmp_path / "model.pte", tmp_path)
    to_integers = [
        node for node in pte.nodes("XNNConvert") if pte.values()[node["output_id"]]["datatype"] == "xnn_datatype_qint8"
    ]
    layers = Reference(model).architecture.layers
    assert len(to_integers) == 4 * layers  # q/k/v, o, gate/up, down
    inputs = [layer["input1_id"] for layer in layers_by_tensor(pte).values()]
    assert len(set(inputs)) == 4 * layers + 1  # and the head, in FP32

    ranges = json.loads((quantized / "config.json").read_text())["quantization_config"]["activations"]
    ranges["layers.0.k_proj"]["input"] = [-9.0, 9.0]
    export(copy_with_ranges(quantized, tmp_path / "other", ranges), tmp_path / "other.pte")
    other = read_pte(tmp_path / "other.pte", tmp_path)
    inputs = [layer["input1_id"] for layer in layers_by_tensor(other).values()]
    assert len(set(inputs)) == 4 * layers + 2


def test_report_and_inspect_name_kernels_and_scales(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("qwen2")
    ranges = measure(model, BODY)
    report = export(static_checkpoint(model, tmp_path / "q", BODY, ranges), tmp_path / "model.pte")
    for layer in report["layers"]:
        if layer["role"] == "linear" and layer["dtype"] == "int8":
            assert layer["kernel"] == "qs8 x qc8w"
            for side in ("input", "output"):
                scale, zero_point = affine(ranges[layer["layer"]][side])
                assert np.float32(layer["activations"][side]["scale"]) == scale
                assert layer["activations"][side]["zero_point"] == zero_point
        else:
            assert "activations" not in layer
        if layer["role"] == "bias":
            assert layer["format"] == "i32 per channel, f32 scales"
    found = run_json("inspect", tmp_path / "model.pte")
    types = {tensor["name"].split(":")[1]: tensor["dtype"] for tensor in found["tensors"] if ":" in tensor["name"]}
    assert (types["i8"], types["i32"]) == ("qcint8", "qcint32")
    (delegate,) = found["methods"][0]["delegates"]
    assert delegate["values"]["qint8"] == 2 * (4 + 7)  # 4 inputs and 7 outputs in each of 2 layers


# --- The same bytes.


@pytest.mark.parametrize("family", ["dream", "fast_dllm_v2"])
def test_bytes_do_not_depend_on_threads_or_the_way(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantized = static_checkpoint(checkpoint(family), tmp_path / "q", EVERYWHERE)
    reports = [
        export(quantized, tmp_path / f"{threads}.pte", "--threads", threads, *words)
        for threads, words in ((1, ()), (2, ()), (3, ("--dtype", "int8", "--mode", "static")))
    ]
    export(quantized, tmp_path / "int8.pte", "--mode", "weight_only", "--activation-dtype", "int8")
    whole = (tmp_path / "1.pte").read_bytes()
    for name in ("2", "3", "int8"):
        assert (tmp_path / f"{name}.pte").read_bytes() == whole
    assert {report["file_bytes"] for report in reports} == {len(whole)}
    dry = export(quantized, tmp_path / "dry.pte", "--dry-run")
    assert dry["file_bytes"] == len(whole)


def test_a_copy_that_quantize_makes_of_a_static_checkpoint_exports_the_same(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    quantized = static_checkpoint(checkpoint("qwen2"), tmp_path / "q", EVERYWHERE)
    run_json("quantize", quantized, "-o", tmp_path / "again")
    notes = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("q", "again")
    ]
    assert notes[0]["activations"] == notes[1]["activations"]
    for name in ("q", "again"):
        export(tmp_path / name, tmp_path / f"{name}.pte")
    assert (tmp_path / "q.pte").read_bytes() == (tmp_path / "again.pte").read_bytes()


def test_other_modes_of_a_static_checkpoint_do_not_look_at_the_ranges(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("llada")
    quantized = static_checkpoint(model, tmp_path / "q", BODY)
    for mode in ("weight_only", "dynamic"):
        export(quantized, tmp_path / "a.pte", "--mode", mode)
        export(model, tmp_path / "b.pte", "--dtype", "int8", "--mode", mode)
        assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()


# --- Weights and ranges at the limits.


def edited(model: Path, folder: Path, **tensors: torch.Tensor) -> Path:
    """The same model with some tensors replaced; double underscores stand for dots."""
    weights = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        assert weights[name.replace("__", ".")].shape == tensor.shape
        weights[name.replace("__", ".")] = tensor
    return write_checkpoint(folder, json.loads((model / "config.json").read_text()), weights)


def test_rows_of_zeros_give_their_bias(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = checkpoint("qwen2")
    name = "model.layers.0.self_attn.v_proj"
    weights = load_file(source / "model.safetensors")
    weight = weights[f"{name}.weight"].clone()
    weight[::2] = 0.0
    changed = {f"{name}.weight".replace(".", "__"): weight}
    model = edited(source, tmp_path / "model", **changed)
    ranges = measure(model, BODY)
    ranges["layers.0.v_proj"]["input"] = (-1000.0, 1000.0)  # a step of the sums is 7.8 where the weight's scale is 1
    export(static_checkpoint(model, tmp_path / "q", BODY, ranges), tmp_path / "model.pte")
    pte = read_pte(tmp_path / "model.pte", tmp_path)
    stored = pte.values()[layers_by_tensor(pte)[f"{name}.weight"]["bias_id"]]
    steps = np.frombuffer(pte.constant(stored["constant_buffer_idx"]), "<i4")
    step = float(affine(ranges["layers.0.v_proj"]["output"])[0]) / 256
    assert steps[::2] * step == pytest.approx(weights[f"{name}.bias"].numpy()[::2], abs=0.51 * step)
    logits = Program(tmp_path / "model.pte").logits(random_ids(37, 1001))
    assert torch.isfinite(logits).all()


def test_ranges_of_nothing_but_zero_load_and_run(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llada")
    ranges = measure(model, BODY)
    ranges["layers.0.o_proj"] = {"input": (0.0, 0.0), "output": (0.0, 0.0)}
    ranges["layers.1.up_proj"]["output"] = (2.0, 3.0)  # 0 is added
    export(static_checkpoint(model, tmp_path / "q", BODY, ranges), tmp_path / "model.pte", "--seq-len", SEQ_LEN)
    logits = Program(tmp_path / "model.pte").logits(random_ids(37, 1001))
    assert compare(logits, StaticReference(model, BODY, ranges).logits(random_ids(37, 1001))[0])["cosine"] >= 0.9995


@pytest.mark.parametrize(
    ("layer", "bounds"),
    [
        # One step of the sums is more than 255 of the output: the runtime refuses it.
        ("layers.1.o_proj", {"input": (-1e6, 1e6), "output": (-1e-3, 1e-3)}),
        # The bias has more steps than 32 bits.
        ("layers.0.q_proj", {"input": (-1e-9, 1e-9), "output": (-1.0, 1.0)}),
    ],
)
def test_ranges_that_the_runtime_could_not_load_are_refused(
    layer: str, bounds: dict[str, Range], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("qwen2")
    quantized = static_checkpoint(model, tmp_path / "q", BODY, measure(model, BODY) | {layer: bounds})
    result = run("export", quantized, "-o", tmp_path / "model.pte")
    assert_fails(result, UNSUPPORTED, layer)
    assert not (tmp_path / "model.pte").exists()


# --- Refused.


@pytest.mark.parametrize("subcommand", ["export", "quantize"])
@pytest.mark.parametrize("options", [(), ("--group-size", 0)], ids=["int8", "int4"])
def test_mode_static_without_calibration_asks_for_it(
    subcommand: str, options: tuple[object, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    dtype = "int4" if options else "int8"
    words = ("--dtype", dtype, "--mode", "static", *options)
    result = run(subcommand, checkpoint("llama"), "-o", tmp_path / "out", *words)
    assert_fails(result, USAGE_ERROR, "mode static", "--calibration")
    assert not list(tmp_path.iterdir())


def test_a_head_that_was_not_calibrated_is_named(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llama")
    ranges = measure(model, BODY)
    del ranges["lm_head"]
    quantized = static_checkpoint(model, tmp_path / "q", BODY, ranges)
    result = run("export", quantized, "-o", tmp_path / "model.pte", "--head-dtype", "int8")
    assert_fails(result, USAGE_ERROR, "lm_head", "--calibration")


@pytest.mark.parametrize(
    ("activations", "word"),
    [
        ([], "activations"),
        ({"layers.9.q_proj": {"input": [0, 1], "output": [0, 1]}}, "layers.9.q_proj"),
        ({"layers.0.q_proj": {"input": [0, 1]}}, "layers.0.q_proj"),
        ({"layers.0.q_proj": {"input": [0, 1], "output": [1, 0]}}, "layers.0.q_proj"),
        ({"layers.0.q_proj": {"input": [0, 1e39], "output": [0, 1]}}, "layers.0.q_proj"),
        ({"layers.0.q_proj": {"input": [0, float("nan")], "output": [0, 1]}}, "config.json"),
        ({"layers.0.q_proj": {"input": [0, 1, 2], "output": [0, 1]}}, "layers.0.q_proj"),
        ({"layers.0.q_proj": {"input": "0..1", "output": [0, 1]}}, "layers.0.q_proj"),
    ],
)
def test_broken_ranges_are_a_bad_file(
    activations: object, word: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    quantized = static_checkpoint(checkpoint("llama"), tmp_path / "q", BODY)
    note_ranges(quantized, activations)
    assert_fails(run("export", quantized, "-o", tmp_path / "model.pte"), BAD_FILE, word)
    assert not (tmp_path / "model.pte").exists()
