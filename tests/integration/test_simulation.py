"""`evaluate --backend` and `--logits`: other targets' arithmetic, and the file for other runtimes to compare with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import BAD_FILE, OUTPUT_ERROR, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json
from evaluation_data import cut
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch.nn import functional


@pytest.fixture(scope="module")
def data(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sequences of each set."""
    return cut(few, tmp_path_factory.mktemp("data") / "eval.safetensors", 4)


def test_logits_are_what_the_figures_are_made_of(tiny: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "logits.safetensors"
    report = run_json("evaluate", tiny, "--data", data, "--logits", target, "--dtype", "int4")
    assert report == report | {"backend": "xnnpack"}
    labels = list(report["loss"])
    saved, tensors = load_file(target), load_file(data)
    wanted = {name: tensors[name] for label in labels for name in (f"input_ids_{label}", f"target_ids_{label}")}
    assert saved.keys() == wanted.keys() | {f"logits_{label}" for label in labels}
    for name, ids in wanted.items():
        assert np.array_equal(saved[name], ids), name
    for label in labels:
        logits = torch.from_numpy(saved[f"logits_{label}"]).double()
        targets = torch.from_numpy(wanted[f"target_ids_{label}"])
        counted = targets[targets != -100]
        assert logits.shape == (report["tokens"][label], 1024)
        assert functional.cross_entropy(logits, counted).item() == pytest.approx(report["loss"][label], abs=1e-6)


@pytest.mark.parametrize("backend", ["coreml", "qnn"])
def test_other_targets_keep_activations_in_floats(backend: str, tiny: Path, data: Path) -> None:
    """Where XNNPACK computes with 8 bits for each token."""
    arguments = ("evaluate", tiny, "--data", data, "--dtype", "int4")
    floats = run_json(*arguments, "--float-activations")
    other = run_json(*arguments, "--backend", backend)
    assert other["backend"] == backend
    assert other["loss"] == floats["loss"]
    assert other["loss"] != run_json(*arguments)["loss"]


def test_static_layers_are_alike_for_xnnpack_and_coreml(tiny: Path, data: Path) -> None:
    calibration = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 8)
    arguments = ("evaluate", tiny, "--data", data, "--dtype", "int8", "--mode", "static", *calibration)
    assert run_json(*arguments)["loss"] == run_json(*arguments, "--backend", "coreml")["loss"]


def test_fewer_bits_cost_more(tiny: Path, data: Path) -> None:
    """In QNN every value is an integer: of 16 bits, which costs next to nothing, or of 8."""
    calibration = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 8)
    arguments = ("evaluate", tiny, "--data", data, "--backend", "qnn", "--dtype", "int8", *calibration)
    by_bits = {bits: run_json(*arguments, "--activation-dtype", f"int{bits}")["kl_divergence"] for bits in (8, 16)}
    floats = run_json(*arguments, "--mode", "static", "--float-activations")["kl_divergence"]
    for label, divergence in floats.items():
        assert by_bits[16][label] == pytest.approx(divergence, rel=0.3)
        assert by_bits[8][label] > 3 * by_bits[16][label]


def test_the_report_compares_formats_with_static_values(tiny: Path, data: Path, tmp_path: Path) -> None:
    calibration = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 8)
    words = ("--backend", "qnn", "--dtype", "int8", "--mode", "static", "--report", tmp_path / "report.html")
    formats = {
        entry["name"]: entry for entry in run_json("evaluate", tiny, "--data", data, *words, *calibration)["formats"]
    }
    assert formats["int4, groups of 32"]["mode"] == "static"
    assert formats["fp16"]["kl_divergence"]["50"] < formats["int8"]["kl_divergence"]["50"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backend", "tpu"), UNSUPPORTED, ("tpu", "qnn")),
        (("--activation-dtype", "fp16"), UNSUPPORTED, ("fp16", "not simulated")),
        (("--backend", "qnn", "--dtype", "int8", "--mode", "static"), USAGE_ERROR, ("--calibration",)),
        (("--backend", "coreml", "--dtype", "int8", "--activation-dtype", "int16"), UNSUPPORTED, ("int16",)),
        (("--logits", "{tmp}/no/folder/x.safetensors"), OUTPUT_ERROR, ("x.safetensors",)),
        (("--logits", "{data}"), USAGE_ERROR, ("eval.safetensors", "logits")),
        (("--logits", "{tmp}/x.safetensors", "--report", "{tmp}/x.safetensors"), USAGE_ERROR, ("/x", "logits")),
        (("--logits", "{tmp}/x.bin"), USAGE_ERROR, ("x.bin", ".safetensors")),
        (("--logits", "{tiny}/model.safetensors"), USAGE_ERROR, ("model.safetensors",)),
    ],
)
def test_what_can_not_be_is_one_sentence(
    options: tuple[str, ...], code: int, words: tuple[str, ...], tiny: Path, data: Path, tmp_path: Path
) -> None:
    own = shutil.copy(data, tmp_path / "eval.safetensors")
    given = [word.format(tmp=tmp_path, data=own, tiny=tiny) for word in options]
    assert_fails(run("evaluate", tiny, "--data", own, *given), code, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["eval.safetensors"]


def test_logits_of_text_whose_last_sequence_is_shorter_are_refused(tiny: Path, tmp_path: Path) -> None:
    data = ("--data", tiny / "calibration.txt", "--sequences", 0)
    result = run("evaluate", tiny, *data, "--logits", tmp_path / "x.safetensors")
    assert_fails(result, USAGE_ERROR, "--logits", "one length")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_an_evaluation_that_fails(tiny: Path, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    weights = load_tensors(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("ff_out.weight"))
    weights[name][0, 0] = torch.nan
    save_tensors(weights, model / "model.safetensors")
    (tmp_path / "out").mkdir()
    words = ("--dtype", "int8", "--logits", tmp_path / "out/x.safetensors")
    assert_fails(run("evaluate", model, "--data", data, *words), BAD_FILE, name)
    assert not list((tmp_path / "out").iterdir())
