"""`validate_numerical_accuracy` against errors that are known."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from artefacts import random_ids
from checkpoints import TINY
from torch import Tensor, nn

from diffulex_edge import InvalidArgumentError, UnsupportedError, load_hf_model, validate_numerical_accuracy
from diffulex_edge.backends import XNNPACKBackend


class Shifted(nn.Module):
    """What a layer gives, one element of it off by a number."""

    def __init__(self, layer: nn.Linear, shift: float) -> None:
        super().__init__()
        self.layer, self.shift = layer, shift

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).clone()
        y[0, 1] += self.shift
        return y


@pytest.fixture(scope="module")
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 4)


X = torch.linspace(-1, 1, 24).reshape(3, 8)


def test_figures_are_those_of_the_difference(layer: nn.Linear) -> None:
    result = XNNPACKBackend().export(layer, (X,))
    same = validate_numerical_accuracy(layer, result, (X,), atol=1e-6)
    assert same.passed
    assert same.max_abs_error < 1e-6
    assert same.agreement == 1.0
    other = Shifted(layer, 0.5)
    found = validate_numerical_accuracy(other, result, [(X,), (X,)], atol=0.4)
    wanted = other(X).detach().double()
    assert found.passed is False
    assert validate_numerical_accuracy(other, result, (X,), atol=0.51).passed
    assert found.inputs == 2
    assert found.elements == 24
    assert found.max_abs_error == pytest.approx(0.5, abs=1e-5)
    assert found.mean_abs_error == pytest.approx(0.5 / 12, abs=1e-5)
    assert found.rms_error == pytest.approx(0.5 / math.sqrt(12), abs=1e-5)
    relative = 0.5 / float(wanted.norm())
    assert found.relative_error == pytest.approx(relative, rel=1e-4)
    assert found.snr_db == pytest.approx(-20 * math.log10(relative), abs=1e-2)
    made = layer(X).detach().double()
    assert found.cosine == pytest.approx(float((made * wanted).sum() / made.norm() / wanted.norm()), abs=1e-6)
    assert sum(count for _, count in found.histogram) == 24
    assert [count for end, count in found.histogram if end > 0.4] == [2]


def test_notebooks_get_a_table_and_a_picture(layer: nn.Linear) -> None:
    shown = validate_numerical_accuracy(Shifted(layer, 0.5), XNNPACKBackend().export(layer, (X,)), (X,))._repr_html_()
    picture = ElementTree.fromstring(shown[shown.index("<svg") :])
    assert len(picture.findall("rect")) >= 2
    assert "Largest error" in shown


def test_what_can_not_be_measured_is_said(layer: nn.Linear, tmp_path: Path) -> None:
    result = XNNPACKBackend().export(layer, (X,))
    with pytest.raises(InvalidArgumentError, match="not 0 or more"):
        validate_numerical_accuracy(layer, result, (X,), atol=-1.0)
    with pytest.raises(InvalidArgumentError, match="empty"):
        validate_numerical_accuracy(layer, result, [])
    with pytest.raises(InvalidArgumentError, match=r"\[3, 4\], the model \[3, 5\]"):
        validate_numerical_accuracy(nn.Linear(8, 5), result, (X,))
    with pytest.raises(InvalidArgumentError, match="dry run"):
        validate_numerical_accuracy(layer, XNNPACKBackend().dry_run(layer, (X,)), (X,))
    with pytest.raises(UnsupportedError):
        validate_numerical_accuracy(layer, XNNPACKBackend().export(nn.Conv1d(1, 1, 1), (torch.ones(1, 1, 1),)), (X,))


def test_models_of_transformers_are_loaded(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=32,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "llama")
    loaded = load_hf_model(tmp_path / "llama")
    ids = random_ids(64, 1, 9)
    assert not loaded.training
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    result = XNNPACKBackend().export(loaded, (ids,))
    assert result.success, result.error_message
    assert result.metadata["output"] == "logits"
    assert result.metadata["warnings"] == []
    assert validate_numerical_accuracy(loaded, result, (ids,), atol=1e-5).passed
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=r"has no config\.json"):
        load_hf_model(folder)
    with pytest.raises(NotImplementedError, match="transformers can't load it"):
        load_hf_model(TINY)


def test_quantized_checkpoints_are_loaded_with_their_layers(tmp_path: Path) -> None:
    import subprocess

    from checkpoints import COMMAND

    from diffulex_edge.quant import QuantizedLinear

    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.Qwen3Config(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(settings).save_pretrained(tmp_path / "float")
    command = [str(COMMAND), "quantize", str(tmp_path / "float"), "-o", str(tmp_path / "int4"), "--dtype", "int4"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    loaded = load_hf_model(tmp_path / "int4")
    assert sum(isinstance(module, QuantizedLinear) for module in loaded.modules()) == 7
    ids = random_ids(64, 1, 9)
    result = XNNPACKBackend().export(loaded, (ids,))
    assert result.success, result.error_message
    formats = {layer["format"] for layer in result.metadata["layers"] if layer["role"] == "linear"}
    assert formats == {"i4 groups of 32, bf16 scales", "f32"}
    assert validate_numerical_accuracy(loaded, result, (ids,)).relative_error < 0.03
