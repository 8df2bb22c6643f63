"""`inspect` on QNN folders: what the models hold, against ONNX's own reader, and what is no such folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from command import BAD_FILE, assert_fails, run, run_json
from conftest import MakeCheckpoint
from qnn import QnnArtefact, export

TYPES = {1: "f32", 2: "u8", 3: "i8", 4: "u16", 6: "i32", 7: "i64", 10: "f16", 22: "i4"}


@pytest.fixture(scope="module")
def folder(checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("inspect") / "m"
    options = ("--seq-len", 16, "--dtype", "int4", "--soc", "SM8650", "--qnn-python", sys.executable)
    export(checkpoint("sdar"), target, *options, "--embedding-on", "host", "--shards", 2)
    return target


def test_models_and_tensors_are_those_that_onnx_reads(folder: Path) -> None:
    found = run_json("inspect", folder)
    artefact = QnnArtefact(folder)
    assert found["kind"] == "qnn_package"
    assert found["file_bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {entry["path"] for entry in found["files"]} == files
    contexts = [entry["model"] for entry in artefact.manifest["contexts"]]
    assert [model["name"] for model in found["models"]] == ["embedding.onnx", "model_0.onnx", "model_1.onnx", *contexts]
    assert found["models"][-1]["functions"][0]["operations"] == {"com.microsoft.EPContext": 1}
    tensors = {(entry["file"], entry["offset"], entry["name"]): entry for entry in found["tensors"]}
    data = (folder / "model.onnx.data").read_bytes()
    for model, described in zip(artefact.models, found["models"], strict=False):
        graph = model.graph
        names = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node)
        assert described["functions"][0]["operations"] == dict(names)
        assert [entry["name"] for entry in described["inputs"]] == [value.name for value in graph.input]
        for tensor in graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            entry = tensors["model.onnx.data", int(place["offset"]), tensor.name]
            assert entry["dtype"] == TYPES[tensor.data_type]
            assert entry["shape"] == list(tensor.dims)
            content = data[entry["offset"] : entry["offset"] + entry["bytes"]]
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_text_names_operators_and_files(folder: Path) -> None:
    result = run("inspect", folder)
    assert result.returncode == 0, result.stderr
    for word in ("model_1.onnx", "MatMulNBits", "SM8650/model_0_ctx_qnn.bin", "logits"):
        assert word in result.stdout


def _edit(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without_models(folder: Path) -> None:
    _edit(folder, lambda manifest: manifest.pop("models"))


def _outside(folder: Path) -> None:
    _edit(folder, lambda manifest: manifest["models"][0].update(file="../m/embedding.onnx"))


def _tensor_outside(folder: Path) -> None:
    _change_tensor(folder, "location", "../secret")


def _tensor_behind_the_end(folder: Path) -> None:
    _change_tensor(folder, "offset", str(1 << 62))


def _tensor_of_another_size(folder: Path) -> None:
    _change_tensor(folder, "length", "3")


def _change_tensor(folder: Path, key: str, value: str) -> None:
    path = folder / "model_0.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: _truncate(folder / "model_1.onnx"), ("model_1.onnx",)),
        (lambda folder: _truncate(folder / "model.onnx.data"), ("model.onnx.data",)),
        (lambda folder: (folder / "model_0.onnx").write_bytes(b"\x08\x0a"), ("model_0.onnx", "graph")),
        (lambda folder: (folder / "embedding.onnx").unlink(), ("embedding.onnx",)),
        (_without_models, ("manifest.json", "models")),
        (_outside, ("manifest.json", "../m/embedding.onnx")),
        (_tensor_outside, ("model_0.onnx", "../secret")),
        (_tensor_behind_the_end, ("model_0.onnx", "behind the end")),
        (_tensor_of_another_size, ("model_0.onnx", "3 bytes")),
    ],
)
def test_a_damaged_folder_is_one_sentence(
    damage: Callable[[Path], object], words: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "m"
    shutil.copytree(folder, broken)
    damage(broken)
    assert_fails(run("inspect", broken), BAD_FILE, *words)
