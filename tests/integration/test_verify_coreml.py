"""`verify` of Core ML packages: checked by coremltools anywhere, and executed on a Mac, for which a stand-in is here.

The stand-in executes packages by the tests' interpreter, so that everything but Apple's framework itself is tested.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import coremltools
import pytest
import torch
from command import BAD_FILE, export, run_json, tiny_sdar
from evaluation_data import cut
from mil_interpreter import Interpreter, State
from numpy.typing import NDArray
from safetensors.numpy import load_file

from diffulex_edge import DiffusionEngine, VerificationError, _coreml, verify

COREML: Final = ("--backend", "coreml")
LENGTH: Final = 128
"""Of the sequences in the data."""


class StandIn:
    """Of coremltools.models.MLModel: what `verify` uses of it."""

    real: Final = coremltools.models.MLModel
    loaded: Final[list[tuple[str, str]]] = []

    def __init__(
        self,
        path: str,
        compute_units: coremltools.ComputeUnit = coremltools.ComputeUnit.ALL,
        skip_model_load: bool = False,
    ) -> None:
        self._model = self.real(path, skip_model_load=True)
        if not skip_model_load:
            self._interpreter = Interpreter(Path(path))
            self.loaded.append((Path(path).name, compute_units.name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def make_state(self) -> State:
        return self._interpreter.make_state()

    def predict(self, data: dict[str, NDArray[Any]], state: State | None = None) -> dict[str, NDArray[Any]]:
        tensors = {name: torch.from_numpy(value) for name, value in data.items()}
        outputs = self._interpreter.run(tensors, state=state)
        return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A machine that has Core ML; what was loaded into it: packages and their compute units."""
    monkeypatch.setattr(_coreml, "can_execute", lambda: True)
    monkeypatch.setattr(coremltools.models, "MLModel", StandIn)
    StandIn.loaded.clear()
    return StandIn.loaded


@pytest.fixture(scope="module")
def data(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of the bundled model's evaluation file."""
    path = cut(tiny / "eval.safetensors", tmp_path_factory.mktemp("data") / "eval.safetensors", 2, sets=["50"])
    assert load_file(path)["input_ids_50"].shape[1] == LENGTH
    return path


@pytest.fixture(scope="module")
def fp32(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model for the ExecuTorch runtime."""
    path = tmp_path_factory.mktemp("verify") / "fp32.pte"
    export(tiny, path, "--seq-len", LENGTH)
    return path


@pytest.fixture(scope="module")
def fixed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fixed") / "fixed.mlpackage"
    export(tiny, path, *COREML, "--dtype", "fp32", "--seq-len", LENGTH, "--compute-unit", "cpu_and_ne")
    return path


@pytest.mark.parametrize("lengths", [str(LENGTH), f"64,{LENGTH}", f"1..{LENGTH}"])
def test_package_measures_like_the_other_runtime(
    lengths: str, mac: list[tuple[str, str]], tiny: Path, fp32: Path, data: Path, tmp_path: Path
) -> None:
    export(tiny, tmp_path / "x.mlpackage", *COREML, "--dtype", "fp32", "--seq-len", lengths)
    verification = verify(tmp_path / "x.mlpackage", data, against=fp32)
    assert list(verification.sets) == ["50"]
    assert mac == [("x.mlpackage", "ALL")]
    for figures in verification.sets.values():
        assert figures.kl_divergence is not None
        assert figures.kl_divergence.mean < 1e-6
        assert (figures.agreement, figures.commit_flip_rate) == (1.0, 0.0)
    document = verification.to_dict()
    assert document["executed"] is True
    assert document["loss"].keys() == document["reference_loss"].keys() == {"50"}


def test_compute_unit_is_the_one_that_was_exported_for(mac: list[tuple[str, str]], fixed: Path, data: Path) -> None:
    verify(fixed, data)
    assert mac == [("fixed.mlpackage", "CPU_AND_NE")]


def test_parts_measure_like_the_whole(
    mac: list[tuple[str, str]], tiny: Path, fixed: Path, data: Path, tmp_path: Path
) -> None:
    options = (*COREML, "--dtype", "fp32", "--seq-len", LENGTH, "--chunk-size", 2_500_000)
    export(tiny, tmp_path / "pipeline.mlpackage", *options)
    export(tiny, tmp_path / "chunks", *options, "--chunks", "packages")
    parts = sorted(path.name for path in (tmp_path / "chunks").glob("*.mlpackage"))
    assert len(parts) > 2
    for artefact, loaded in (("pipeline.mlpackage", ["pipeline.mlpackage"]), ("chunks", parts)):
        mac.clear()
        verification = verify(tmp_path / artefact, data, against=fixed)
        assert [name for name, _ in mac] == [*loaded, "fixed.mlpackage"]
        assert verification.check is not None
        assert (verification.check.packages, verification.check.programs) == (len(loaded), len(parts))
        for figures in verification.sets.values():
            assert figures.kl_divergence is not None
            assert figures.kl_divergence.mean < 1e-9
            assert figures.agreement == 1.0


def test_lengths_that_a_package_does_not_take_are_refused(
    mac: list[tuple[str, str]], tiny: Path, data: Path, tmp_path: Path
) -> None:
    for name, lengths, words in (
        ("fixed", "64", "64 tokens, not of 128"),
        ("enumerated", "32,64", "32, 64 tokens, not of 128"),
        ("range", "2..64", "2 to 64 tokens, not of 128"),
    ):
        export(tiny, tmp_path / f"{name}.mlpackage", *COREML, "--seq-len", lengths)
        with pytest.raises(VerificationError, match=rf"{name}\.mlpackage: takes inputs of {words}"):
            verify(tmp_path / f"{name}.mlpackage", data)


def test_without_a_mac_a_package_is_checked_alone(fixed: Path, fp32: Path, data: Path) -> None:
    verification = verify(fixed, data)
    assert verification.sets == {}
    assert verification.check is not None
    assert verification.check.coremltools == coremltools.__version__
    assert verification.check.specification_version == 9
    assert verification.check.operations["gather"] == 1
    document = verification.to_dict()
    assert (document["success"], document["executed"]) == (True, False)
    assert document["check"]["operations"] == verification.check.operations
    assert verify(fixed).to_dict()["check"] == document["check"]
    with pytest.raises(VerificationError, match=r"fixed\.mlpackage: can't be executed here: .* Mac"):
        verify(fp32, data, against=fixed)


def test_types_that_contradict_each_other_are_refused(fixed: Path, tmp_path: Path) -> None:
    """coremltools' own inference runs on every operation."""
    (tmp_path / "x.mlpackage").symlink_to(fixed)
    verify(tmp_path / "x.mlpackage")
    (tmp_path / "x.mlpackage").unlink()
    model = coremltools.models.MLModel(str(fixed), skip_model_load=True)
    specification = model.get_spec()
    (block,) = specification.mlProgram.functions["main"].block_specializations.values()
    (gather,) = (operation for operation in block.operations if operation.type == "gather")
    gather.outputs[0].type.tensorType.dimensions[1].constant.size = 77
    coremltools.models.utils.save_spec(specification, str(tmp_path / "x.mlpackage"), weights_dir=model.weights_dir)
    with pytest.raises(VerificationError, match=r"x\.mlpackage: coremltools: refuses it"):
        verify(tmp_path / "x.mlpackage")


def test_bad_artefacts_are_named(fixed: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "list").mkdir()
    (tmp_path / "list/manifest.json").write_text("[]")
    (tmp_path / "file.mlpackage").write_text("x")
    for name, words in {
        "missing.mlpackage": "does not exist",
        "file.mlpackage": "no folder",
        "empty.mlpackage": "coremltools",
        "folder": r"manifest\.json",
        "list": "not the manifest",
    }.items():
        with pytest.raises(VerificationError, match=f"{name}.*{words}"):
            verify(tmp_path / name, data)
    (tmp_path / "x.pte").touch()
    with pytest.raises(VerificationError, match=r"x\.pte: running it needs data"):
        verify(tmp_path / "x.pte")
    with pytest.raises(VerificationError, match="none"):
        verify(fixed, tmp_path / "none.safetensors")


def test_absent_coremltools_is_said_in_one_sentence(fixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(VerificationError, match=r"fixed\.mlpackage: .*needs the Python package coremltools") as caught:
        verify(fixed)
    assert "\n" not in str(caught.value)


def test_command_says_what_was_checked_and_what_was_not(fixed: Path, data: Path, tmp_path: Path) -> None:
    package = Path(sys.modules["diffulex_edge"].__file__ or "").parents[1]

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "diffulex_edge", "verify", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=package)

    result = call(fixed, "--data", data)
    assert (result.returncode, result.stderr) == (0, "")
    checked, executed = result.stdout.splitlines()
    assert "found the types of" in checked and coremltools.__version__ in checked
    assert executed == "not executed: Core ML itself runs only on a Mac"
    failed = call(tmp_path / "missing.mlpackage")
    assert failed.returncode == BAD_FILE
    assert failed.stderr.count("\n") == 1, failed.stderr


@pytest.mark.parametrize("storage", ["state", "inputs"])
def test_a_package_with_a_cache_writes_text(storage: str, mac: list[tuple[str, str]], tmp_path: Path) -> None:
    """A bundle of one, which the check before it leaves as it is."""
    cache = ("--cache", 64, "--cache-storage", storage, "--activation-dtype", "fp32", "--compute-unit", "cpu_and_ne")
    run_json("export", tiny_sdar(), "--bundle", tmp_path / "b", *COREML, *cache)
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    verify(tmp_path / "b")
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    engine = DiffusionEngine.from_artefact(tmp_path / "b")
    assert mac == [("model.mlpackage", "CPU_AND_NE")]
    dtype = "fp16" if storage == "state" else "fp32"
    options = {"max_new_tokens": 16, "ignore_eos": True}
    expected = DiffusionEngine.from_model(tiny_sdar()).generate("In the beginning", cache_dtype=dtype, **options)
    for _ in range(2):  # the second text begins anew in the same state
        assert engine.generate("In the beginning", **options).tokens == expected.tokens


def test_coremltools_leaves_packages_as_they_are(tmp_path: Path) -> None:
    """It writes Manifest.json anew when it opens a package: the same bytes, whichever of two UUIDs is the first."""
    for length in (8, 16, 24, 32):
        package = tmp_path / f"{length}.mlpackage"
        export(tiny_sdar(), package, *COREML, "--seq-len", length)
        before = (package / "Manifest.json").read_bytes()
        verify(package)
        assert (package / "Manifest.json").read_bytes() == before
