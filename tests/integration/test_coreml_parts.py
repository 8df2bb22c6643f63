"""Core ML models in parts, and in ExecuTorch's container: what comes out is what the whole package computes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from command import UNSUPPORTED, USAGE_ERROR, assert_fails, run
from conftest import MakeCheckpoint
from coreml_cases import FAMILIES, export, files
from coreml_check import check_with_coremltools
from mil_interpreter import Interpreter
from program import random_ids
from torch import Tensor

LIMIT = 200_000
WEIGHTS = "Data/com.apple.CoreML/weights"
OPTIONS = ("--dtype", "int8", "--embedding-dtype", "int8", "--head-dtype", "int8")


def run_chain(folder: Path, ids: Tensor) -> Tensor:
    """The packages of a folder one after the other, each fed with what the manifest names."""
    manifest = json.loads((folder / "manifest.json").read_text())
    value = ids.to(torch.int32)[None]
    for part in manifest["parts"]:
        (value,) = Interpreter(check_with_coremltools(folder / part["package"])).run({part["input"]: value}).values()
    return value[0]


@pytest.mark.parametrize("shape", [("--seq-len", "40"), ("--seq-len", "1..60")], ids=["fixed", "range"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_compute_what_the_whole_computes(
    family: str, shape: tuple[str, str], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family)
    whole, parts, chain = (tmp_path / name for name in ("whole.mlpackage", "parts.mlpackage", "chain"))
    export(model, whole, *OPTIONS, *shape)
    export(model, parts, *OPTIONS, *shape, "--chunk-size", LIMIT)
    export(model, chain, *OPTIONS, *shape, "--chunk-size", LIMIT, "--chunks", "packages")
    weight_files = list((parts / WEIGHTS).iterdir())
    assert len(weight_files) > 1
    assert max(file.stat().st_size for file in weight_files) <= LIMIT
    assert max(file.stat().st_size for file in chain.rglob("weight.bin")) <= LIMIT
    ids = random_ids(40, 1001)
    expected = Interpreter(check_with_coremltools(whole)).logits(ids)
    assert torch.equal(Interpreter(check_with_coremltools(parts)).logits(ids), expected)
    assert torch.equal(run_chain(chain, ids), expected)


def test_a_layer_that_is_larger_than_a_part_is_refused(tiny: Path, tmp_path: Path) -> None:
    result = run("export", tiny, "-o", tmp_path / "m.mlpackage", "--backend", "coreml", "--chunk-size", "100KB")
    assert_fails(result, UNSUPPORTED, "chunk size", "embedding")
    for words in (("--chunk-size", "0"), ("--chunk-size", "some"), ("--chunks", "packages")):
        assert_fails(run("export", tiny, "-o", tmp_path / "m.mlpackage", "--backend", "coreml", *words), USAGE_ERROR)
    assert not list(tmp_path.iterdir())


# --- In a .pte. On Linux, ExecuTorch has no Core ML runtime, but its reader of programs and the packer of payloads.


@pytest.fixture(scope="session")
def vendor() -> ModuleType:
    """The extension of the executorch wheel that flattens packages and restores them."""
    (root,) = importlib.util.find_spec("executorch").submodule_search_locations  # type: ignore[union-attr]
    (path,) = (Path(root) / "backends/apple/coreml").glob("executorchcoreml*.so")
    spec = importlib.util.spec_from_file_location("executorchcoreml", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [("--seq-len", "40"), ("--seq-len", "1..60")], ids=["fixed", "range"])
def test_container_holds_the_package(
    shape: tuple[str, str], vendor: ModuleType, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    from executorch.runtime import Runtime

    model = checkpoint("sdar")
    words = ("--dtype", "int4", *shape, "--compute-unit", "cpu_and_ne")
    export(model, tmp_path / "m.mlpackage", *words)
    export(model, tmp_path / "m.pte", *words, "--container", "pte")
    whole = (tmp_path / "m.pte").read_bytes()
    payload = whole[int.from_bytes(whole[24:32], "little") :]
    (tmp_path / "unpacked").mkdir()
    assert vendor.unflatten_directory_contents(payload, str(tmp_path / "unpacked"))
    (root,) = (tmp_path / "unpacked").iterdir()
    restored = files(root)
    metadata = json.loads(restored.pop("metadata.json"))
    assert restored == {f"model.mlpackage/{name}": data for name, data in files(tmp_path / "m.mlpackage").items()}
    assert metadata["inputNames"] == ["input_ids"]
    assert metadata["outputNames"] == ["logits"]

    program = Runtime.get().load_program(tmp_path / "m.pte")
    takes_shorter = program.load_method("enable_dynamic_shape")
    assert takes_shorter is not None
    assert takes_shorter.execute([]) == [not shape[1].isdigit()]
    described = program.metadata("forward")
    assert described.num_inputs() == described.num_outputs() == 1
    longest = int(shape[1].rpartition(".")[2])
    assert tuple(described.input_tensor_meta(0).sizes()) == (1, longest)
    assert tuple(described.output_tensor_meta(0).sizes()) == (1, longest, 1001)


def test_containers_of_different_models_have_different_identifiers(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """The device caches compiled models under the identifier and never looks whether it is the same model."""
    identifiers = set()
    cases = [("llada", "int4", "40"), ("llada", "int8", "40"), ("llada", "int4", "41"), ("dream", "int4", "40")]
    for number, (family, dtype, length) in enumerate(cases):
        path = tmp_path / f"{number}.pte"
        export(checkpoint(family), path, "--dtype", dtype, "--seq-len", length, "--container", "pte")
        found = path.read_bytes()
        begin = found.index(b'"identifier":"') + len('"identifier":"')
        identifiers.add(found[begin : found.index(b'"', begin)])
    assert len(identifiers) == len(cases)
