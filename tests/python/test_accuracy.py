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

from diffulex_edge import (
    InvalidArgumentError,
    UnsupportedError,
    VerificationError,
    load_hf_model,
    validate_numerical_accuracy,
    verify,
)
from diffulex_edge.backends import BackendConfig, QNNBackend, XNNPACKBackend


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
    refused = XNNPACKBackend().export(nn.Conv3d(1, 1, 1), (torch.ones(1, 1, 1, 1, 1),))
    with pytest.raises(UnsupportedError):
        validate_numerical_accuracy(layer, refused, (X,))


def test_values_that_are_not_finite_are_an_error(layer: nn.Linear) -> None:
    """NaN in one element hid from the largest error."""
    result = XNNPACKBackend().export(layer, (X,))
    broken = X.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(VerificationError, match="the artefact gives values that are not finite"):
        validate_numerical_accuracy(layer, result, (broken,))

    class Infinite(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return layer(x) / 0.0

    with pytest.raises(InvalidArgumentError, match="not finite for these inputs"):
        validate_numerical_accuracy(Infinite(), result, (X,))


def test_qnn_folders_of_modules_run_where_they_were_compiled_for(layer: nn.Linear, tmp_path: Path) -> None:
    """A context binary on the emulator, several inputs and any rank; without one ONNX Runtime's CPU kernels."""
    import sys

    pytest.importorskip("onnxruntime_qnn")
    torch.manual_seed(0)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 8), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(y)

    model = Sum().eval()
    inputs = (torch.randn(1, 5, 16), torch.randn(1, 5, 16))
    for soc, runtime in ((None, "ONNX Runtime"), ("SM8650", "Qualcomm's emulator of SM8650")):
        options = {} if soc is None else {"soc": soc, "qnn_python": sys.executable}
        result = QNNBackend(BackendConfig(backend_options=options)).export(model, inputs, path=tmp_path / str(soc))
        assert result.success, result.error_message
        accuracy = validate_numerical_accuracy(model, result, inputs)
        assert accuracy.runtime.startswith(runtime)
        assert accuracy.relative_error < 5e-3
        with pytest.raises(VerificationError, match="takes 2 inputs, not 1"):
            validate_numerical_accuracy(model.a, result, inputs[:1])
        check = verify(tmp_path / str(soc))
        assert check.check.models == 1
        with pytest.raises(
            VerificationError, match=r"takes inputs of the shape \[1, 5, 16\], \[1, 5, 16\], not token ids"
        ):
            verify(tmp_path / str(soc), TINY / "eval.safetensors")


def test_an_artefact_that_does_not_exist_is_said(layer: nn.Linear, tmp_path: Path) -> None:
    for name in ("none.pte", "none"):
        with pytest.raises(VerificationError, match=f"{name}: does not exist"):
            validate_numerical_accuracy(layer, tmp_path / name, (X,))


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
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    loaded = load_hf_model(tmp_path / "int4")
    assert sum(isinstance(module, QuantizedLinear) for module in loaded.modules()) == 7
    ids = random_ids(64, 1, 9)
    result = XNNPACKBackend().export(loaded, (ids,))
    assert result.success, result.error_message
    formats = {layer["format"] for layer in result.metadata["layers"] if layer["role"] == "linear"}
    assert formats == {"i4 groups of 32, bf16 scales", "f32"}
    assert validate_numerical_accuracy(loaded, result, (ids,)).relative_error < 0.03
