"""The Python package's `verify`: a .pte in the ExecuTorch runtime has the figures that `evaluate` predicts for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from command import BAD_FILE, export, run_json
from evaluation_data import cut
from safetensors.numpy import load_file, save_file

from diffulex_edge import VerificationError, verify

RATIOS = ("15", "50", "90")


@pytest.fixture(scope="module")
def fp32(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "fp32.pte"
    export(tiny, path, "--seq-len", 128)
    return path


@pytest.mark.parametrize(
    "options", [("--dtype", "int8"), ("--dtype", "int4"), ("--dtype", "int4", "--group-size", 0)], ids=lambda o: o[-1]
)
def test_figures_are_those_of_evaluate(
    options: tuple[object, ...], tiny: Path, fp32: Path, few: Path, tmp_path: Path
) -> None:
    export(tiny, tmp_path / "x.pte", "--seq-len", 128, *options)
    measured = verify(tmp_path / "x.pte", few, against=fp32).to_dict()
    predicted = run_json("evaluate", tiny, "--data", few, *options)
    assert list(measured["loss"]) == list(RATIOS)
    for ratio in RATIOS:
        assert measured["tokens"][ratio] == predicted["tokens"][ratio]
        for key in ("loss", "reference_loss", "loss_increase"):
            assert abs(measured[key][ratio] - predicted[key][ratio]) < 1e-3, key
        assert measured["kl_divergence"][ratio] == pytest.approx(predicted["kl_divergence"][ratio], rel=0.1)
        for key in ("accuracy", "agreement", "commit_flip_rate"):
            assert abs(measured[key][ratio] - predicted[key][ratio]) < 0.01, key
        for key in ("loss_interval", "loss_increase_interval"):
            assert measured[key][ratio] == pytest.approx(predicted[key][ratio], abs=1e-3)


def test_artefact_against_itself_differs_nowhere(fp32: Path, few: Path) -> None:
    result = verify(fp32, few, against=fp32)
    figures = result.sets["50"]
    assert figures.kl_divergence is not None
    assert (figures.kl_divergence.mean, figures.agreement, figures.commit_flip_rate) == (0.0, 1.0, 0.0)
    shown = result._repr_html_()
    picture = ElementTree.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])
    assert len(picture.findall("circle")) == len(result.sets)
    assert f"{figures.loss.mean:.4f}" in shown


@pytest.mark.parametrize("options", [("--dtype", "fp32"), ("--dtype", "int4")], ids=lambda o: o[-1])
def test_logits_of_evaluate_are_a_reference(
    options: tuple[object, ...], tiny: Path, fp32: Path, few: Path, tmp_path: Path
) -> None:
    export(tiny, tmp_path / "x.pte", "--seq-len", 128, *options)
    predicted = run_json("evaluate", tiny, "--data", few, "--logits", tmp_path / "x.safetensors", *options)
    against_simulation = verify(tmp_path / "x.pte", few, against=tmp_path / "x.safetensors")
    against_artefact = verify(tmp_path / "x.pte", few, against=tmp_path / "x.pte")
    for label, figures in against_simulation.sets.items():
        assert figures.reference_loss is not None
        assert figures.reference_loss.mean == pytest.approx(predicted["loss"][label], abs=1e-5)
        assert figures.loss == against_artefact.sets[label].loss
        assert figures.max_abs_error is not None
        assert figures.cosine is not None
        # An integer on the border of two, rounded either way, is a step of 8-bit activations.
        assert 0 < figures.max_abs_error < (1e-3 if options[-1] == "fp32" else 0.5)
        assert figures.cosine > (0.999999 if options[-1] == "fp32" else 0.9999)
        exact = against_artefact.sets[label]
        assert exact.max_abs_error == 0.0
        assert exact.cosine == pytest.approx(1.0, abs=1e-12)


def test_logits_of_other_data_are_refused(tiny: Path, fp32: Path, few: Path, tmp_path: Path) -> None:
    logits, other = tmp_path / "logits.safetensors", tmp_path / "other.safetensors"
    run_json("evaluate", tiny, "--data", cut(few, other, 2), "--logits", logits)
    assert verify(fp32, other, against=logits).sets
    with pytest.raises(VerificationError, match=r"logits\.safetensors: its logits are of other data than input_ids_15"):
        verify(fp32, few, against=logits)
    with pytest.raises(VerificationError, match=r"eval\.safetensors: has no logits_15"):
        verify(fp32, few, against=few)
    tensors = load_file(logits)
    save_file(tensors | {"logits_50": tensors["logits_50"][1:].copy()}, tmp_path / "short.safetensors")
    with pytest.raises(VerificationError, match=r"short\.safetensors: logits_50 is not float32 \["):
        verify(fp32, other, against=tmp_path / "short.safetensors")
    save_file(tensors | {"logits_15": tensors["logits_15"][:, 1:].copy()}, tmp_path / "narrow.safetensors")
    with pytest.raises(VerificationError, match="vocabulary"):
        verify(fp32, other, against=tmp_path / "narrow.safetensors")


def test_one_sequence_has_no_interval(fp32: Path, few: Path, tmp_path: Path) -> None:
    save_file(
        {name: np.ascontiguousarray(ids[:1]) for name, ids in load_file(few).items()}, tmp_path / "one.safetensors"
    )
    verification = verify(fp32, tmp_path / "one.safetensors")
    assert verification.sets["50"].loss.low is None
    assert verification.to_dict()["loss_interval"]["50"] is None
    assert "reference" not in verification.to_dict()


def test_bad_files_are_named(fp32: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(b"nothing like a program" * 20)
    cases = {
        "missing.pte": (tmp_path / "missing.pte", few),
        "broken.pte": (tmp_path / "broken.pte", few),
        "model.onnx": (tmp_path / "model.onnx", few),
        "none.safetensors": (fp32, tmp_path / "none.safetensors"),
    }
    for name, (artefact, file) in cases.items():
        with pytest.raises(VerificationError, match=name):
            verify(artefact, file)
    ids = load_file(few)["input_ids_50"]
    bad = {
        "no target_ids_50": {"input_ids_50": ids},
        "no tensors": {"x": ids},
        "one shape": {"input_ids_50": ids, "target_ids_50": ids[:, :4].copy()},
        "no target counts": {"input_ids_50": ids, "target_ids_50": np.full_like(ids, -100)},
        "takes at most 128 tokens, and the data has sequences of 256: export it with --seq-len 256": {
            name: np.tile(ids, 2) for name in ("input_ids_50", "target_ids_50")
        },
    }
    for words, tensors in bad.items():
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(VerificationError, match=words):
            verify(fp32, tmp_path / "bad.safetensors")


def test_each_way_to_be_wrong_has_its_sentence(fp32: Path, few: Path, tmp_path: Path) -> None:
    def says(words: str, artefact: Path, data: Path | None = None, against: Path | None = None) -> None:
        with pytest.raises(VerificationError, match=words) as caught:
            verify(artefact, data, against=against)
        assert "\n" not in str(caught.value)

    text = tmp_path / "text.txt"
    text.write_text("some words")
    (tmp_path / "text.safetensors").write_text("some words")
    whole = fp32.read_bytes()
    (tmp_path / "cut.pte").write_bytes(whole[:1000])
    (tmp_path / "three.pte").write_bytes(whole[:3])
    says(r"none\.pte: does not exist$", tmp_path / "none.pte", few)
    says(r"none\.pte: does not exist$", tmp_path / "none.pte")
    says(r"none\.safetensors: does not exist$", fp32, tmp_path / "none.safetensors")
    says(r"none\.pte: does not exist$", fp32, few, tmp_path / "none.pte")
    says(r"text\.txt: is text or bare token ids", fp32, text)
    says(r"text\.safetensors: is no safetensors file", fp32, tmp_path / "text.safetensors")
    says(r": is a folder$", fp32, tmp_path)
    says(r"three\.pte: is no ExecuTorch program", tmp_path / "three.pte", few)
    says(r"cut\.pte: the ExecuTorch runtime refuses it, so that it is truncated", tmp_path / "cut.pte", few)


def test_a_program_of_another_kind_is_refused(few: Path, tmp_path: Path) -> None:
    import torch

    from diffulex_edge.backends import XNNPACKBackend

    torch.manual_seed(0)
    result = XNNPACKBackend().export(torch.nn.Linear(16, 4), (torch.randn(1, 8, 16),))
    result.save(tmp_path / "linear.pte")
    with pytest.raises(VerificationError, match=r"linear\.pte: takes inputs of the shape \[1, 8, 16\], not token ids"):
        verify(tmp_path / "linear.pte", few)


def test_module_is_a_command(fp32: Path, few: Path, tmp_path: Path) -> None:
    package = Path(sys.modules["diffulex_edge"].__file__ or "").parents[1]
    words = [sys.executable, "-m", "diffulex_edge", "verify", str(fp32), "--data"]
    table = subprocess.run([*words, str(few)], capture_output=True, text=True, check=True, cwd=package)
    assert table.stdout.splitlines()[0].split() == ["set", "tokens", "loss", "accuracy"]
    failed = subprocess.run([*words, str(tmp_path / "x")], capture_output=True, text=True, check=False, cwd=package)
    assert failed.returncode == BAD_FILE
    assert failed.stderr.count("\n") == 1, failed.stderr
