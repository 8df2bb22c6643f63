"""The QNN backend: ONNX models on the CPU, and context binaries from Qualcomm's compiler in the emulator of its NPU."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
import torch
from command import UNSUPPORTED, USAGE_ERROR, assert_fails, run
from conftest import MakeCheckpoint
from families import Reference, compare
from flatc import PROGRAM_SCHEMA, QNN_OPTIONS_SCHEMA, decode
from program import random_ids
from qnn import QnnArtefact, export
from quantization import Options, QuantizedReference
from simulation import simulated_logits

LENGTH: Final = 48
MASK: Final = 1000
FAMILIES: Final = ("llada", "dream", "sdar", "fast_dllm_v2")
COMPILER: Final = ("--qnn-python", sys.executable)


@dataclass(frozen=True)
class Case:
    """A format: its options, and the cosine that the NPU keeps of the logits that the same weights give in FP32."""

    options: Options
    cosine: float
    more: tuple[str, ...] = ()
    operator: str = "Gemm"

    def arguments(self) -> list[str]:
        return [*self.options.arguments(), *self.more]

    def options_of_a_run(self, calibration: Path, mask: int = MASK) -> list[object]:
        """With what calibration needs."""
        data = ["--calibration", calibration, "--mask-token-id", mask] if self.is_static else []
        return [*self.arguments(), *data]

    @property
    def is_static(self) -> bool:
        return self.options.mode == "static"


CASES: Final = {
    "fp32": Case(Options("fp32"), 0.9999),
    "fp16": Case(Options("fp16", embedding="fp16", head="fp16"), 0.9999),
    "int8": Case(Options("int8", embedding="int8", head="int8"), 0.9999, operator="MatMulNBits"),
    "int8 dynamic": Case(Options("int8", "dynamic"), 0.9999, operator="MatMulNBits"),
    "int4 g32": Case(Options("int4"), 0.9999, operator="MatMulNBits"),
    "int4 per channel": Case(Options("int4", group_size=0), 0.9999, operator="MatMulNBits"),
    "a16w8": Case(Options("int8", "static", head="int8"), 0.999),
    "a16w8 everywhere": Case(Options("int8", "static", embedding="int8", head="int8"), 0.999),
    "a16w4 g32": Case(Options("int4", "static"), 0.999),
    "a16w4 per channel": Case(Options("int4", "static", group_size=0), 0.999),
    "a8w8": Case(Options("int8", "static", head="int8"), 0.98, ("--activation-dtype", "int8")),
}


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids for the random models: their vocabulary without the mask token."""
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, 1000, (16, LENGTH)))
    return path


def export_case(
    case: Case, model: Path, target: Path, calibration: Path, *more: object, mask: int = MASK
) -> QnnArtefact:
    export(model, target, "--seq-len", LENGTH, *case.options_of_a_run(calibration, mask), *more)
    return QnnArtefact(target)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CASES)
def test_every_format_of_every_family_runs_on_the_npu(
    family: str, name: str, checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    case, model = CASES[name], checkpoint(family)
    artefact = export_case(case, model, tmp_path / "m", calibration, "--soc", "SM8550", *COMPILER)
    artefact.check()
    assert artefact.operators().count(case.operator) >= 14
    same_weights = QuantizedReference(model, case.options)
    ids = random_ids(LENGTH, same_weights.architecture.vocab)
    expected = same_weights.logits(ids)[0]
    on_cpu = artefact.cpu_logits(ids)
    assert compare(on_cpu, expected)["cosine"] >= case.cosine
    if not case.is_static and name != "fp16":
        assert compare(on_cpu, expected)["max_abs"] < 1e-3 * expected.abs().max().item()
    on_npu = artefact.npu_logits("SM8550", ids)
    assert compare(on_npu, expected)["cosine"] >= case.cosine
    simulated = simulated_logits(model, ids, tmp_path, "--backend", "qnn", *case.options_of_a_run(calibration))
    assert compare(on_npu, simulated)["cosine"] >= case.cosine


@pytest.mark.parametrize("name", ["int8", "a16w8 everywhere"])
def test_a_tied_embedding_and_head_in_int8_are_stored_once(
    name: str, checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    """In mode weight_only the embedding was signed and the head unsigned, so that the file had both."""
    artefact = export_case(CASES[name], checkpoint("fast_dllm_v2"), tmp_path / "m", calibration)
    rows = QuantizedReference(checkpoint("fast_dllm_v2"), CASES[name].options).architecture.vocab
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in artefact.model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and tensor.dims[:1] == [rows]
    ]
    large = [place for place in places if int(place["length"]) > rows]
    assert len(large) == 2
    assert large[0] == large[1]


@pytest.mark.parametrize("name", ["fp16", "int8", "a16w8", "a16w4 g32"])
def test_one_export_compiles_for_several_socs(
    name: str, checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    case, model = CASES[name], checkpoint("sdar")
    socs = ("SM8550", "SM8650", "SM8750")
    words = [word for soc in socs for word in ("--soc", soc)]
    artefact = export_case(case, model, tmp_path / "m", calibration, *words, *COMPILER)
    same_weights = QuantizedReference(model, case.options)
    ids = random_ids(LENGTH, same_weights.architecture.vocab)
    expected = same_weights.logits(ids)[0]
    assert [context["soc"] for context in artefact.manifest["contexts"]] == list(socs)
    for soc in socs:
        assert compare(artefact.npu_logits(soc, ids), expected)["cosine"] >= case.cosine, soc


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_static])
def test_no_encoding_is_left_to_the_compiler(
    family: str, name: str, checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    """In mode static, whatever an operator computes goes through integers, but for the logits of a float head."""
    artefact = export_case(CASES[name], checkpoint(family), tmp_path / "m", calibration)
    graph = artefact.model.graph
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    encodings = json.loads((tmp_path / "m/encodings.json").read_text())["activation_encodings"]
    float_rows = {"Gemm", "Reshape"} if CASES[name].options.head == "fp32" else set()
    exempt = {"QuantizeLinear", "DequantizeLinear"}
    values = {node.output[0]: node for node in graph.node if node.op_type not in exempt}
    of_integers = {"ids"}  # what a gather of integers makes before it has a scale
    consumers = {name: node.op_type for node in graph.node for name in node.input}
    for value, node in values.items():
        is_row_scale = node.op_type == "Gather" and consumers[value] == "Mul"
        if value in quantized or value in of_integers or is_row_scale:
            continue
        assert node.op_type in float_rows, f"{value}, of {node.op_type}, is not quantized"
        float_rows.remove(node.op_type)
    for entry in encodings.values():
        assert entry[0]["scale"] > 0
        assert entry[0]["bitwidth"] == (8 if name == "a8w8" else 16)
    assert len(encodings) >= 40
    assert set(encodings) <= quantized | {"logits"}


@pytest.mark.parametrize("name", ["fp16", "int8", "a16w8 everywhere"])
@pytest.mark.parametrize(
    "options", [("--shards", 3), ("--embedding-on", "host"), ("--shards", 2, "--embedding-on", "host")]
)
def test_a_model_in_pieces_computes_what_it_does_as_a_whole(
    name: str, options: tuple[object, ...], checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    case, model = CASES[name], checkpoint("sdar")
    whole = export_case(case, model, tmp_path / "whole", calibration)
    pieces = export_case(case, model, tmp_path / "m", calibration, *options, "--soc", "SM8550", *COMPILER)
    pieces.check()
    shards = [entry["file"] for entry in pieces.manifest["models"] if entry["runs_on"] == "npu"]
    hosts = [entry["file"] for entry in pieces.manifest["models"] if entry["runs_on"] == "host"]
    assert len(shards) == (options[1] if options[0] == "--shards" else 1)
    assert hosts == (["embedding.onnx"] if "host" in options else [])
    assert [context["source"] for context in pieces.manifest["contexts"]] == shards
    ids = random_ids(LENGTH, Reference(model).architecture.vocab)
    expected = whole.cpu_logits(ids)
    assert compare(pieces.cpu_logits(ids), expected)["cosine"] >= 0.99999
    assert compare(pieces.npu_logits("SM8550", ids), expected)["cosine"] >= (0.9995 if case.is_static else 0.9999)


def test_a_pte_holds_the_context_binary_as_executorch_reads_it(
    checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    """Program and options by ExecuTorch's own schemas. Without the strings and lists of the options it crashes."""
    options = ("--soc", "SM8650", "--container", "pte", *COMPILER)
    artefact = export_case(CASES["a16w8"], checkpoint("sdar"), tmp_path / "m", calibration, *options)
    (context,) = artefact.manifest["contexts"]
    file = (artefact.folder / context["program"]).read_bytes()
    binary = (artefact.folder / context["binary"]).read_bytes()
    program_size, segment_base, data_size = struct.unpack_from("<QQQ", file, 16)
    assert segment_base + data_size == len(file)
    (tmp_path / "program.bin").write_bytes(file[:program_size])
    program = decode(PROGRAM_SCHEMA, tmp_path / "program.bin", tmp_path)
    plan, *constants = program["execution_plan"]
    (delegate,) = plan["delegates"]
    (spec,) = delegate["compile_specs"]
    assert (plan["name"], delegate["id"], spec["key"]) == (context["graph"], "QnnBackend", "qnn_compile_spec")
    tensors = [plan["values"][index]["val"] for index in (*plan["inputs"], *plan["outputs"])]
    assert [(tensor["scalar_type"], tensor["sizes"]) for tensor in tensors] == [
        ("INT", [1, LENGTH]),
        ("FLOAT", [1, LENGTH, 1001]),
    ]
    assert segment_base % 256 == 0
    magic, signature, size = struct.unpack_from("<IqQ", file, segment_base)
    assert (magic, size) == (0x5678ABCD, len(binary))
    assert signature > 0
    assert file[segment_base + 20 : segment_base + 256] == bytes(236)
    assert file[segment_base + 256 :] == binary
    (tmp_path / "spec.bin").write_bytes(bytes(spec["value"]))
    described = decode(QNN_OPTIONS_SCHEMA, tmp_path / "spec.bin", tmp_path, raw=True)
    assert described["soc_info"]["soc_model"] == "SM8650"
    assert described["soc_info"]["htp_info"] == {"htp_arch": "V75", "vtcm_size_in_mb": 8}
    assert described["backend_options"]["backend_type"] == "kHtpBackend"
    assert described["is_from_context_binary"] is True
    assert described["library_path"] == described["saver_output_dir"] == ""
    assert described["op_package_options"] == {"op_package_infos": []}
    assert "QnnBackend" in run("inspect", artefact.folder / context["program"]).stdout
    metadata = {plan["name"]: [value["val"] for value in plan["values"]] for plan in constants}
    assert metadata["get_max_seq_len"] == [{"int_val": LENGTH}]
    assert metadata["enable_dynamic_shape"] == [{"bool_val": False}]
    assert metadata["get_model_family"] == [{"string_val": "sdar"}]


def test_a_pte_needs_a_soc(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = ("--backend", "qnn", "--container", "pte")
    assert_fails(run("export", checkpoint("llada"), "-o", tmp_path / "m", *options), USAGE_ERROR, "--soc")


@pytest.mark.parametrize("name", ["model.pte", "model.onnx/"])
def test_the_name_of_a_file_is_refused(name: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    result = run("export", checkpoint("llada"), "-o", f"{tmp_path}/{name}", "--backend", "qnn")
    assert_fails(result, USAGE_ERROR, "folder")
    assert not list(tmp_path.iterdir())


def test_more_shards_than_pieces_are_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    result = run("export", checkpoint("llada"), "-o", tmp_path / "m", "--backend", "qnn", "--shards", "5")
    assert_fails(result, UNSUPPORTED, "5", "4")


def test_static_formats_need_calibration(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    result = run(
        "export", checkpoint("llada"), "-o", tmp_path / "m", "--backend", "qnn", "--dtype", "int8", "--mode", "static"
    )
    assert_fails(result, USAGE_ERROR, "--calibration")
    assert not (tmp_path / "m").exists()


def test_without_the_compiler_the_onnx_model_is_written_and_a_warning_says_what_is_missing(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    report = run(
        "export", checkpoint("llada"), "-o", tmp_path / "m", "--backend", "qnn", "--dtype", "fp16", "--soc", "SM8550",
        env={"PATH": str(tmp_path / "bin")},
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    assert "onnxruntime-qnn" in report.stdout + report.stderr
    assert "on the NPU" not in report.stdout
    assert QnnArtefact(tmp_path / "m").manifest["contexts"] == []


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--soc", "SM1"), USAGE_ERROR, "SM8550"),
        (("--soc", "SM8550", "--soc", "sm8550"), USAGE_ERROR, "twice"),
        (("--seq-len", "32,64"), UNSUPPORTED, "one length"),
        (("--activation-dtype", "int8"), UNSUPPORTED, "INT8"),
        (("--dtype", "int8", "--mode", "dynamic", "--activation-dtype", "int16"), USAGE_ERROR, "int16"),
        (("--dtype", "int4", "--embedding-dtype", "int4"), UNSUPPORTED, "embedding"),
    ],
)
def test_what_qnn_has_not_is_one_sentence(
    options: tuple[str, ...], code: int, word: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    result = run("export", checkpoint("llada"), "-o", tmp_path / "m", "--backend", "qnn", *options)
    assert_fails(result, code, word)
    assert not (tmp_path / "m").exists()


def test_masked_tokens_are_not_seen(checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path) -> None:
    """In integers as well, a later block changes nothing before it."""
    model = checkpoint("sdar")
    artefact = export_case(
        CASES["a16w8"], model, tmp_path / "m", calibration, "--block-length", 16, "--soc", "SM8650", *COMPILER
    )
    ids = random_ids(LENGTH, Reference(model).architecture.vocab)
    other = ids.clone()
    other[..., 32:] = torch.flip(other[..., 32:], (-1,))
    before, after = artefact.npu_logits("SM8650", ids), artefact.npu_logits("SM8650", other)
    assert torch.equal(before[:32], after[:32])
    assert not torch.equal(before[32:], after[32:])


def test_the_int4_binary_is_at_most_six_tenths_of_the_int8_one(
    checkpoint: MakeCheckpoint, calibration: Path, tmp_path: Path
) -> None:
    model = checkpoint("llada", d_model=512, n_heads=4, n_kv_heads=4, mlp_hidden_size=1536, vocab_size=64,
                       embedding_size=64, mask_token_id=63)  # fmt: skip
    ids = tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(0).integers(0, 63, (8, LENGTH)))
    sizes = {}
    for name in ("a16w8", "a16w4 g32"):
        artefact = export_case(CASES[name], model, tmp_path / name, ids, "--soc", "SM8650", *COMPILER, mask=63)
        (context,) = artefact.manifest["contexts"]
        assert context["bytes"] == (artefact.folder / context["binary"]).stat().st_size
        sizes[name] = context["bytes"]
    assert sizes["a16w4 g32"] <= 0.6 * sizes["a16w8"]
