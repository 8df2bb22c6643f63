"""`verify` of QNN folders: checked by their hashes and by ONNX, executed on Qualcomm's emulator or on the CPU."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import onnx
import pytest
import torch
from command import BAD_FILE, run_json
from command import export as export_file
from evaluation_data import cut
from qnn import QnnArtefact, export
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from diffulex_edge import VerificationError, verify

LENGTH: Final = 16
"""Of the sequences in the data: the emulator takes a quarter of a second for as many tokens of the bundled model."""
SETS: Final = ("50", "90")
SOCS: Final = ("SM8550", "SM8650")


@pytest.fixture(scope="module")
def data(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of two sequences of the bundled model's evaluation file."""
    return cut(
        tiny / "eval.safetensors", tmp_path_factory.mktemp("data") / "eval.safetensors", 2, length=LENGTH, sets=SETS
    )


def a16w8(tiny: Path) -> tuple[object, ...]:
    """Options of INT8 with 16-bit activations."""
    options = ("--dtype", "int8", "--mode", "static", "--head-dtype", "int8")
    calibration = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 8)
    return (*options, *calibration)


@pytest.fixture(scope="module")
def compiled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> QnnArtefact:
    """INT8 with 16-bit activations, for two SoCs."""
    folder = tmp_path_factory.mktemp("qnn") / "a16w8"
    socs = [word for soc in SOCS for word in ("--soc", soc)]
    export(tiny, folder, "--seq-len", LENGTH, *a16w8(tiny), *socs, "--qnn-python", sys.executable)
    return QnnArtefact(folder)


@pytest.fixture(scope="module")
def fp32(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> QnnArtefact:
    """In FP32, without a context binary."""
    folder = tmp_path_factory.mktemp("qnn") / "fp32"
    export(tiny, folder, "--dtype", "fp32", "--seq-len", LENGTH)
    return QnnArtefact(folder)


@pytest.fixture
def damaged(compiled: QnnArtefact, tmp_path: Path) -> Callable[..., Path]:
    """`damaged(file, change of its bytes, mended=False)` -> a copy; mended: with the new hashes in its manifest."""

    def make(name: str, change: Callable[[bytes], bytes], *, mended: bool = False) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(compiled.folder, folder)
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(change(old))
        if mended:
            manifest = (folder / "manifest.json").read_text()
            before, after = (hashlib.sha256(content).hexdigest() for content in (old, change(old)))
            (folder / "manifest.json").write_text(manifest.replace(before, after))
        return folder

    return make


def call(*words: object) -> subprocess.CompletedProcess[str]:
    package = Path(sys.modules["diffulex_edge"].__file__ or "").parents[1]
    command = [sys.executable, "-m", "diffulex_edge", "verify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=package)


def flip(content: bytes) -> bytes:
    """One bit, in the middle."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def batches(data: Path, label: str) -> tuple[Tensor, Tensor]:
    tensors = load_file(data)
    return tuple(torch.from_numpy(tensors[f"{kind}_ids_{label}"]) for kind in ("input", "target"))  # type: ignore[return-value]


def test_compiled_models_ask_for_old_versions_only(compiled: QnnArtefact) -> None:
    """onnxruntime wrote IR version 14 beside a model.onnx of 10, and older ones on phones refused it."""
    for soc in SOCS:
        model = onnx.load(compiled.folder / soc / "model_ctx.onnx", load_external_data=False)
        assert model.ir_version == 8
        assert {opset.version for opset in model.opset_import if opset.domain == ""} <= {17}
        (node,) = model.graph.node
        assert node.op_type == "EPContext"
        assert [value.name for value in model.graph.input] == ["input_ids"]


def test_figures_are_those_of_the_logits(compiled: QnnArtefact, fp32: QnnArtefact, data: Path) -> None:
    verification = verify(compiled.folder, data, against=fp32.folder)
    assert list(verification.sets) == list(SETS)
    for label, figures in verification.sets.items():
        inputs, targets = batches(data, label)
        on_npu, on_cpu = (
            torch.stack([run(ids) for ids in inputs]).double()
            for run in (lambda ids: compiled.npu_logits("SM8550", ids), compiled.cpu_logits)
        )
        counted = targets != -100
        wanted, own = targets[counted], on_npu[counted]
        reference = torch.stack([fp32.cpu_logits(ids) for ids in inputs]).double()[counted]
        assert figures.tokens == len(wanted) > 0
        loss, reference_loss = (functional.cross_entropy(logits, wanted).item() for logits in (own, reference))
        assert figures.loss.mean == pytest.approx(loss, abs=1e-9)
        assert figures.reference_loss is not None
        assert figures.reference_loss.mean == pytest.approx(reference_loss, abs=1e-9)
        assert figures.loss_increase is not None
        assert figures.loss_increase.mean == pytest.approx(loss - reference_loss, abs=1e-9)
        assert figures.accuracy == pytest.approx((own.argmax(-1) == wanted).double().mean().item())
        assert figures.agreement == pytest.approx((own.argmax(-1) == reference.argmax(-1)).double().mean().item())
        log_own, log_reference = (logits.log_softmax(-1) for logits in (own, reference))
        divergence = functional.kl_div(log_own, log_reference, log_target=True, reduction="batchmean").item()
        assert figures.kl_divergence is not None
        assert figures.kl_divergence.mean == pytest.approx(divergence, abs=1e-9)
        assert figures.commit_flip_rate is not None
        assert figures.cpu_max_abs_error == (on_npu - on_cpu).abs().max().item() > 0
        cosine = functional.cosine_similarity(on_npu.flatten(), on_cpu.flatten(), dim=0).item()
        assert figures.cpu_cosine == pytest.approx(cosine, abs=1e-9)
        assert cosine > 0.999
    assert verification.execution is not None
    assert (verification.execution.soc, verification.execution.htp_arch) == ("SM8550", 73)
    assert verification.reference_execution is not None
    assert verification.reference_execution.provider == "CPUExecutionProvider"


def test_cpu_runtime_simulates_the_artefact(tiny: Path, compiled: QnnArtefact, data: Path, tmp_path: Path) -> None:
    """ONNX Runtime's own kernels compute the same integers; the emulator has functions of its own."""
    export(tiny, tmp_path / "cpu", "--seq-len", LENGTH, *a16w8(tiny))
    on_cpu, on_npu = {}, {}
    for name, words in {"integers": (), "floats": ("--float-activations",)}.items():
        logits = tmp_path / f"{name}.safetensors"
        run_json("evaluate", tiny, "--data", data, "--logits", logits, "--backend", "qnn", *a16w8(tiny), *words)
        on_cpu[name] = verify(tmp_path / "cpu", data, against=logits).sets
        on_npu[name] = verify(compiled.folder, data, against=logits).sets
    for label in SETS:
        errors = {name: sets[label].max_abs_error for name, sets in on_cpu.items()}
        assert errors["integers"] is not None and errors["floats"] is not None
        assert 0 < errors["integers"] < min(0.005, errors["floats"] / 1.5)
        figures = on_npu["integers"][label]
        inputs, targets = batches(data, label)
        counted = targets != -100
        own = torch.stack([compiled.npu_logits("SM8550", ids) for ids in inputs]).double()[counted]
        simulated = torch.from_numpy(load_file(tmp_path / "integers.safetensors")[f"logits_{label}"]).double()
        assert figures.max_abs_error == (own - simulated).abs().max().item()
        cosine = functional.cosine_similarity(own.flatten(), simulated.flatten(), dim=0).item()
        assert figures.cosine == pytest.approx(cosine, abs=1e-9)
        assert cosine > 0.9999
        assert figures.loss_increase is not None
        assert abs(figures.loss_increase.mean) < 0.01


def test_without_a_context_binary_the_cpu_executes(tiny: Path, fp32: QnnArtefact, data: Path, tmp_path: Path) -> None:
    """Like the other backend's artefact of the same model, in its own runtime."""
    export_file(tiny, tmp_path / "fp32.pte", "--seq-len", LENGTH)
    verification = verify(fp32.folder, data, against=tmp_path / "fp32.pte")
    assert verification.execution is not None
    assert (verification.execution.provider, verification.execution.soc) == ("CPUExecutionProvider", None)
    assert verification.reference_execution is None
    for figures in verification.sets.values():
        assert figures.kl_divergence is not None
        assert figures.kl_divergence.mean < 1e-6
        assert (figures.agreement, figures.cpu_cosine, figures.cpu_max_abs_error) == (1.0, None, None)
    assert verification.placement is not None
    assert (verification.placement.npu, verification.placement.binary_bytes) == ({}, None)
    assert sum(verification.placement.host.values()) == len(fp32.model.graph.node)
    assert "cpu_cosine" not in verification.to_dict()


def test_command_prints_one_object(compiled: QnnArtefact, data: Path) -> None:
    """Though the vendor's library writes to the standard output as well."""
    result = call(compiled.folder, "--data", data, "--json", "--soc", "sm8650")
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    figures = {"tokens", "loss", "loss_interval", "accuracy", "perplexity", "cpu_max_abs_error", "cpu_cosine"}
    facts = {"success", "artefact", "data", "check", "executed", "execution", "placement"}
    assert document.keys() == figures | facts
    assert all(document[key].keys() == set(SETS) for key in figures)
    assert document["executed"] is True
    assert document["check"] == {"models": 1, "binaries": 2, "onnx": onnx.__version__}
    provider = ("QNNExecutionProvider", "SM8650", 75)
    assert tuple(document["execution"][key] for key in ("provider", "soc", "htp_arch")) == provider
    assert document["placement"].keys() == {"soc", "npu", "host", "contexts", "binary_bytes"}


def test_command_shows_tables(compiled: QnnArtefact, fp32: QnnArtefact, data: Path) -> None:
    result = call(compiled.folder, "--soc", "SM8650")
    assert (result.returncode, result.stderr) == (0, "")
    checked, *table, size, executed = result.stdout.splitlines()
    assert checked.startswith("SHA-256 as in manifest.json: one ONNX model, 2 context binaries; ONNX ")
    assert [line.split() for line in table[:1]] == [["operator", "NPU", "host"]]
    rows = {name: (int(npu), int(host)) for name, npu, host in map(str.split, table[1:])}
    operators = compiled.operators()
    assert rows.pop("all") == (len(operators), 0)
    assert rows == {name: (operators.count(name), 0) for name in set(operators)}
    assert size == f"SM8650: context binary of {compiled.manifest['contexts'][1]['bytes']:,} bytes"
    assert executed == "not executed: that needs --data"
    lines = call(fp32.folder, "--data", data).stdout.splitlines()
    assert "no context binary; ONNX" in lines[0]
    assert "executed on the CPU" in lines[-4]
    assert lines[-3].split() == ["set", "tokens", "loss", "accuracy"]


def test_models_and_binaries_are_counted_apart(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path / "m", "--dtype", "fp16", "--shards", 2, "--embedding-on", "host", "--seq-len", LENGTH)
    result = call(tmp_path / "m")
    assert result.stdout.startswith("SHA-256 as in manifest.json: 3 ONNX models, no context binary; ONNX ")


def test_operators_outside_the_context_are_on_the_host(
    compiled: QnnArtefact, damaged: Callable[..., Path], data: Path
) -> None:
    """And without fallback to the CPU, the emulator refuses them."""

    def add_softmax(content: bytes) -> bytes:
        model = onnx.ModelProto.FromString(content)
        model.graph.node[0].output[0] = "before"
        model.graph.value_info.append(onnx.ValueInfoProto(name="before", type=model.graph.output[0].type))
        model.graph.node.append(onnx.helper.make_node("Softmax", ["before"], ["logits"]))
        if not any(opset.domain == "" for opset in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid("", 23))
        return model.SerializeToString()

    folder = damaged("SM8550/model_ctx.onnx", add_softmax)
    placement = verify(folder).placement
    whole = verify(compiled.folder).placement
    assert placement is not None and whole is not None
    assert (placement.host, whole.host) == ({"Softmax": 1}, {})
    assert placement.contexts == whole.contexts == 1
    assert placement.npu == whole.npu | {"Softmax": whole.npu["Softmax"] - 1}
    with pytest.raises(VerificationError, match=r"model_ctx\.onnx: Qualcomm's emulator of SM8550 refuses it: .*CPU"):
        verify(folder, data)


@pytest.mark.parametrize("name", ["model.onnx", *(f"{soc}/model_ctx_qnn.bin" for soc in SOCS)])
def test_damaged_files_are_named(name: str, damaged: Callable[..., Path], data: Path) -> None:
    result = call(damaged(name, flip), "--data", data)
    assert (result.returncode, result.stdout) == (BAD_FILE, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("diffulex-edge: error: ")
    assert f"damaged/{name}: is damaged or was changed" in line


def test_short_weights_are_named(damaged: Callable[..., Path], data: Path) -> None:
    folder = damaged("model.onnx.data", lambda content: content[:-1])
    with pytest.raises(VerificationError, match=r"model\.onnx\.data: has [\d,]+ bytes, in manifest\.json it has"):
        verify(folder, data)
    (folder / "model.onnx.data").unlink()
    with pytest.raises(VerificationError, match=r"model\.onnx\.data: is missing"):
        verify(folder)


def test_a_binary_that_the_emulator_refuses_is_named(damaged: Callable[..., Path], data: Path) -> None:
    folder = damaged("SM8550/model_ctx_qnn.bin", lambda content: bytes(4096) + content[4096:], mended=True)
    with pytest.raises(
        VerificationError, match=r"model_ctx\.onnx: Qualcomm's emulator of SM8550 refuses it: .*context"
    ):
        verify(folder, data)


def test_a_model_that_onnx_refuses_is_named(damaged: Callable[..., Path]) -> None:
    def misname(content: bytes) -> bytes:
        model = onnx.ModelProto.FromString(content)
        model.graph.node[-1].op_type = "Nothing"
        return model.SerializeToString()

    folder = damaged("model.onnx", misname, mended=True)
    with pytest.raises(VerificationError, match=r"model\.onnx: ONNX's checker refuses it: .*Nothing"):
        verify(folder)


@pytest.mark.parametrize("length", [LENGTH // 2, 2 * LENGTH])
def test_sequences_of_another_length_are_refused(
    length: int, tiny: Path, compiled: QnnArtefact, fp32: QnnArtefact, tmp_path: Path
) -> None:
    data = cut(tiny / "eval.safetensors", tmp_path / "other.safetensors", 2, length=length, sets=SETS)
    words = rf"other\.safetensors: input_ids_50 .* {length} tokens, .*{{}} takes exactly {LENGTH}: .*--seq-len {length}"
    with pytest.raises(VerificationError, match=words.format("a16w8")):
        verify(compiled.folder, data)
    (tmp_path / "x.pte").touch()
    with pytest.raises(VerificationError, match=words.format("fp32")):
        verify(tmp_path / "x.pte", data, against=fp32.folder)


@pytest.mark.parametrize("token", [-1, 5000, 2**32])
def test_ids_outside_the_vocabulary_are_refused(token: int, fp32: QnnArtefact, data: Path, tmp_path: Path) -> None:
    tensors = load_file(data)
    tensors["input_ids_50"][0, 0] = token
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(VerificationError, match=rf"model\.onnx: .*{token}"):
        verify(fp32.folder, tmp_path / "bad.safetensors")


def test_an_unknown_soc_is_refused_with_those_there_are(
    compiled: QnnArtefact, fp32: QnnArtefact, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match=r"no context binary for SM8750; it has SM8550, SM8650$"):
        verify(compiled.folder, data, soc="SM8750")
    with pytest.raises(VerificationError, match=r"no context binary for SM8550; it has none: export with --soc$"):
        verify(fp32.folder, data, soc="SM8550")
    (tmp_path / "x.pte").touch()
    with pytest.raises(VerificationError, match=r"x\.pte: is not a QNN folder"):
        verify(tmp_path / "x.pte", data, soc="SM8550")


@pytest.mark.parametrize("hidden", ["onnxruntime", "onnxruntime_qnn"])
def test_an_absent_runtime_is_said_in_one_sentence(
    hidden: str, compiled: QnnArtefact, fp32: QnnArtefact, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(VerificationError, match=r"needs a Python package: pip install onnxruntime-qnn \(") as caught:
        verify(compiled.folder, data)
    assert "\n" not in str(caught.value)
    assert verify(compiled.folder).check is not None
    if hidden == "onnxruntime":
        with pytest.raises(VerificationError, match=r"needs a Python package: pip install onnxruntime \("):
            verify(fp32.folder, data)
    else:
        assert verify(fp32.folder, data).sets


def test_absent_onnx_is_said(fp32: QnnArtefact, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    verification = verify(fp32.folder, data)
    assert verification.placement is None
    assert verification.to_dict()["check"] == {"models": 1, "binaries": 0, "onnx": None}
    assert verification.sets


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"models": None}, "not the manifest"),
        ({"models": []}, "not the manifest"),
        ({"contexts": [{"soc": "SM8550"}]}, "not the manifest"),
    ],
)
def test_broken_manifests_are_named(
    change: dict[str, Any], words: str, fp32: QnnArtefact, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(fp32.manifest | change))
    with pytest.raises(VerificationError, match=rf"manifest\.json: is .*{words}"):
        verify(tmp_path, data)
