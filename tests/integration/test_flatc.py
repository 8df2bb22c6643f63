"""What is in a .pte file, as the official flatc reads it with the official schemas."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from command import export, run_json
from conftest import MakeCheckpoint
from families import FAMILIES, Reference
from flatc import NO_ID, Pte, read_pte
from numpy.typing import NDArray
from quantization import Floats, Format, Options, QuantizedReference, quantize_int4, quantize_int8, round_to_bf16

EMBEDDING_OPERATORS: Final = {
    "fp32": ["aten::embedding.out"],
    "fp16": ["aten::embedding.out"],
    # The first checks the ids, in an empty table.
    "int8": ["aten::embedding.out", "quantized_decomposed::embedding_byte.out"],
    "int4": ["aten::embedding.out", "quantized_decomposed::embedding_4bit.out"],
}

BINARY_KINDS: Final = ("XNNAdd", "XNNSubtract", "XNNMultiply")

OPTIONS: Final = {
    "fp32": Options(),
    "fp16": Options("fp16", embedding="fp16", head="fp16"),
    "fp16 throughout": Options("fp16", embedding="fp16", head="fp16", activations="fp16"),
    "int8": Options("int8"),
    "int8 everywhere": Options("int8", embedding="int8", head="int8"),
    "int8 dynamic": Options("int8", "dynamic", embedding="int8", head="int8"),
    "int4": Options("int4"),
    "int4 everywhere": Options("int4", embedding="int4", head="int4"),
    "int4 per channel": Options("int4", group_size=0, embedding="int4", head="int4"),
    "int4 per channel, dynamic": Options("int4", "dynamic", group_size=0),
}


def export_pte(model: Path, options: Options, folder: Path) -> Pte:
    export(model, folder / "model.pte", *options.arguments(), "--seq-len", 100)
    return read_pte(folder / "model.pte", folder)


def is_row_mean(tensor_dims: list[int]) -> bool:
    """A layer with one output is no layer of the model: it computes the mean of a norm."""
    return tensor_dims[0] == 1


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformer_is_one_delegate_call(family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = OPTIONS[name]
    pte = export_pte(checkpoint(family), options, tmp_path)
    expected = [*EMBEDDING_OPERATORS[options.embedding], "aten::sym_size.int", "aten::arange.out"]
    kinds = [step["instr_args_type"] for step in pte.instructions]
    assert kinds == ["KernelCall"] * len(expected) + ["DelegateCall"]
    assert pte.operators() == expected
    found = run_json("inspect", tmp_path / "model.pte")["methods"][0]
    assert found["operators"] == expected
    (delegate,) = found["delegates"]
    kinds_of_nodes = [node["xnode_union_type"].removeprefix("XNN") for node in pte.graph["xnodes"]]
    assert delegate["nodes"] == {kind: kinds_of_nodes.count(kind) for kind in kinds_of_nodes}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_computes_in_its_format(family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = OPTIONS[name]
    model = checkpoint(family)
    pte = export_pte(model, options, tmp_path)
    values = pte.values()
    found = sorted(
        (tuple(values[layer["filter_id"]]["dims"]), datatype(values, layer["input1_id"], layer["filter_id"]))
        for layer in pte.nodes("XNNFullyConnected")
        if not is_row_mean(values[layer["filter_id"]]["dims"])
    )
    architecture = Reference(model).architecture
    shapes = {module: shape for module, (shape, _) in architecture.modules().items() if len(shape) == 2}
    shapes["lm_head"] = shapes["embedding"]
    del shapes["embedding"]
    expected = sorted((shape, expected_datatype(module, shape[1], options)) for module, shape in shapes.items())
    assert found == expected


def datatype(values: dict[int, dict], input_id: int, filter_id: int) -> str:
    names = (values[value]["datatype"].removeprefix("xnn_datatype_") for value in (input_id, filter_id))
    return " x ".join(names)


def expected_datatype(module: str, columns: int, options: Options) -> str:
    stored = options.format_of(module, columns)
    int4 = "qbint4" if stored.group_size else "qcint4"
    weight = {"fp32": "fp32", "fp16": "fp16", "int8": "qcint8", "int4": int4}[stored.dtype]
    if options.quantizes_input(stored):
        return f"qdint8 x {weight}"
    return f"{'fp16' if weight == 'fp16' and options.activations == 'fp16' else 'fp32'} x {weight}"


def test_weight_only_layers_have_no_bias_inside(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    # Their kernels multiply a bias by the weight's scale.
    for options in (Options("int8"), Options("int4", group_size=0)):
        pte = export_pte(checkpoint("qwen2"), options, tmp_path)
        values = pte.values()
        for layer in pte.nodes("XNNFullyConnected"):
            if values[layer["filter_id"]]["datatype"] in ("xnn_datatype_qcint8", "xnn_datatype_qcint4"):
                assert layer["bias_id"] == NO_ID


def pack_low_first(values: NDArray[np.int8]) -> bytes:
    """Nibbles q + 8, two to a byte, even columns low, as XNNPACK has them."""
    nibbles = (values + 8).astype(np.uint8)
    return bytes(nibbles[:, 0::2] | nibbles[:, 1::2] << 4)


def pack_high_first(values: NDArray[np.int8]) -> bytes:
    """The other order, as embedding_4bit has it."""
    nibbles = (values + 8).astype(np.uint8)
    return bytes(nibbles[:, 0::2] << 4 | nibbles[:, 1::2])


def bf16_bytes(scale: Floats) -> bytes:
    return (round_to_bf16(scale).view(np.uint32) >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", ["llada", "fast_dllm_v2"])
def test_filters_hold_the_defined_integers_and_scales(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    model = checkpoint(family)
    pte = export_pte(model, options, tmp_path)
    reference = Reference(model)
    tensors = {name.removesuffix(".weight"): weight.numpy() for name, weight in reference.weights.items()}
    modules = {reference.architecture.module_name(module): module for module in reference.architecture.modules()}
    values = pte.values()
    checked = set()
    for layer in pte.nodes("XNNFullyConnected"):
        weight = values[layer["filter_id"]]
        if is_row_mean(weight["dims"]):
            continue
        key = pte.graph["constant_data"][weight["constant_buffer_idx"]]["named_key"]
        tensor = key.split(".weight:")[0]
        module = modules[tensor].replace("embedding", "lm_head")
        check_filter(pte, weight, tensors[tensor], options.format_of(module, weight["dims"][1]))
        checked.add(module)
    assert len(checked) == 7 * reference.architecture.layers + 1


def check_filter(pte: Pte, tensor: dict, weight: Floats, stored: Format) -> None:
    data = pte.constant(tensor["constant_buffer_idx"])
    if stored.dtype in ("fp32", "fp16"):
        assert data == weight.astype("<f4" if stored.dtype == "fp32" else "<f2").tobytes()
    elif stored.dtype == "int8":
        integers, scale = quantize_int8(weight)
        assert data == integers.tobytes()
        check_channel_scales(pte, tensor["quant_params"], scale)
    else:
        integers, scale = quantize_int4(weight, stored.group_size)
        assert data == pack_low_first(integers)
        quantization = tensor["quant_params"]
        assert quantization["channel_dim"] == 0
        if stored.group_size == 0:
            check_channel_scales(pte, quantization, scale)
        else:
            assert quantization["group_size"] == stored.group_size
            assert quantization["num_scales"] == scale.size
            assert pte.constant(quantization["scale_buffer_idx"]) == bf16_bytes(scale)


def check_channel_scales(pte: Pte, quantization: dict, scale: Floats) -> None:
    # flatc prints six decimals: the exact bytes are looked up in the flatbuffer, with the vector's length before them.
    assert quantization["scale"] == pytest.approx(scale, abs=1e-6)
    assert struct.pack("<I", len(scale)) + scale.astype("<f4").tobytes() in pte.graph_bytes


@pytest.mark.parametrize("name", OPTIONS)
def test_embedding_table_holds_the_defined_values(name: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = OPTIONS[name]
    model = checkpoint("dream")
    pte = export_pte(model, options, tmp_path)
    weight = Reference(model).weights["model.embed_tokens.weight"].numpy()
    segment = pte.segments[pte.program["constant_segment"]["segment_index"]]
    offsets = pte.program["constant_segment"]["offsets"][1:]
    if options.embedding in ("fp32", "fp16"):
        expected = [weight.astype("<f4" if options.embedding == "fp32" else "<f2").tobytes()]
    elif options.embedding == "int8":
        integers, scale = quantize_int8(weight)
        expected = [integers.tobytes(), scale.astype("<f4").tobytes()]
    else:
        integers, scale = quantize_int4(weight, options.group_size)
        expected = [pack_high_first(integers), scale.astype("<f4").tobytes()]
    for offset, data in zip(offsets, expected, strict=False):  # norms and other arguments follow
        assert offset % 16 == 0
        assert segment[offset : offset + len(data)] == data


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_and_segments_are_laid_out_soundly(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    pte = export_pte(checkpoint(family), Options("int8", embedding="int8", head="int8"), tmp_path)
    end = 0
    spanning = pte.program["constant_segment"]["segment_index"]
    segments = [segment for index, segment in enumerate(pte.program["segments"]) if index != spanning]
    for segment in sorted(segments, key=lambda segment: segment["offset"]):
        assert segment["offset"] % 16 == 0
        assert segment["offset"] >= end
        end = segment["offset"] + segment["size"]
    _, arena = pte.plan["non_const_buffer_sizes"]
    for value in pte.plan["values"]:
        if value["val_type"] == "Tensor" and "allocation_info" in value["val"]:
            place, tensor = value["val"]["allocation_info"], value["val"]
            item = {"LONG": 8, "FLOAT": 4, "HALF": 2}[tensor["scalar_type"]]
            assert place["memory_id"] == 1
            assert place["memory_offset_low"] % 16 == 0
            assert place["memory_offset_low"] + item * int(np.prod(tensor["sizes"])) <= arena


def test_constants_that_are_not_packed_may_be_read_past_their_end(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    pte = export_pte(checkpoint("qwen3"), Options("int8"), tmp_path)
    values = pte.values()
    operands = [node[side] for kind in BINARY_KINDS for node in pte.nodes(kind) for side in ("input1_id", "input2_id")]
    assert not any(values[operand]["constant_buffer_idx"] for operand in operands), "freed by the weight cache"
    (call,) = (step["instr_args"] for step in pte.instructions if step["instr_args_type"] == "DelegateCall")
    arguments = [values[operand]["external_id"] for operand in operands if values[operand]["flags"] == 1]
    tensors = [pte.plan["values"][call["args"][argument]]["val"] for argument in arguments]
    constants = [tensor for tensor in tensors if tensor["data_buffer_idx"] != 0]
    assert constants
    table = pte.program["constant_segment"]
    ends = sorted(segment["offset"] + segment["size"] for segment in pte.program["segments"])
    for tensor in constants:
        begin = pte.program["segments"][table["segment_index"]]["offset"] + table["offsets"][tensor["data_buffer_idx"]]
        end = begin + 4 * int(np.prod(tensor["sizes"]))
        assert min(e for e in ends if e > begin) >= end + 128


def test_tied_int8_embedding_and_head_share_their_bytes(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("fast_dllm_v2")
    pte = export_pte(model, Options("int8", embedding="int8", head="int8"), tmp_path)
    constants = pte.program["constant_segment"]
    (head,) = (named for named in pte.program["named_data"] if "embed_tokens" in named["key"])
    segments = pte.program["segments"]
    place = segments[head["segment_index"]]["offset"]
    assert place == segments[constants["segment_index"]]["offset"] + constants["offsets"][1]
    large = [i for i, segment in enumerate(pte.segments) if len(segment) >= 1001 * 96]
    assert large == [head["segment_index"], constants["segment_index"]]


def test_quantized_reference_knows_every_matrix(checkpoint: MakeCheckpoint) -> None:
    reference = QuantizedReference(checkpoint("llada"), Options("int8"))
    assert sorted(set(reference.formats.values()), key=str) == [Format("fp32"), Format("int8")]
