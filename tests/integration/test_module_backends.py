"""PyTorch modules through Core ML and QNN: the whole way from `torch.export` to an artefact that is executed here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mil_interpreter import Interpreter
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")
transformers = pytest.importorskip("transformers")

from diffulex_edge import UnsupportedError, validate_numerical_accuracy  # noqa: E402
from diffulex_edge.backends import BackendConfig, CoreMLBackend, EdgeBackend, ExportResult, QNNBackend  # noqa: E402
from diffulex_edge.quant import QuantizationConfig, quantize_model  # noqa: E402

LENGTH = 16
VOCABULARY = 96
SEQUENCE = torch.export.Dim("sequence", min=2, max=64)


class Decoder(nn.Module):
    """Qwen3 of transformers, bidirectional through a mask that is an input, or causal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        )  # fmt: skip
        self.model = transformers.Qwen3ForCausalLM(config)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits


class Encoder(nn.Module):
    """Two sequences, spelled-out attention, norms behind, a pooler over the first token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tokens, self.places = nn.Embedding(VOCABULARY, 32), nn.Embedding(LENGTH, 32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.pooler = nn.LayerNorm(32), nn.Linear(32, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
        x = self.norm(x + self.out((shares @ v).transpose(1, 2).flatten(2)))
        return torch.tanh(self.pooler(functional.gelu(x[:, 0])))


def mlp() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 16))


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


CASES: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "causal": (Decoder, (ids(1, LENGTH),)),
    "bidirectional": (Decoder, (ids(1, LENGTH), torch.zeros(1, 1, LENGTH, LENGTH))),
    "encoder": (Encoder, (ids(2, LENGTH),)),
    "mlp": (mlp, (normal(4, 64),)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Tensor, ...], torch.export.ExportedProgram]:
    make, inputs = CASES[request.param]
    model = make().eval()
    with torch.no_grad():
        return model, inputs, torch.export.export(model, inputs)


def exported(
    backend: type[EdgeBackend], program: Any, inputs: tuple[Tensor, ...], target: Path, **named: Any
) -> ExportResult:
    config = named.pop("config", None)
    fields = named.pop("fields", {})
    quantization = None if config is None else QuantizationConfig(**config)
    result = backend(BackendConfig(quant_config=quantization, **fields)).export(program, inputs, path=target, **named)
    assert result.success, result.error_message
    return result


def run_package(package: Path, names: list[str], inputs: tuple[Tensor, ...]) -> Tensor:
    given = {name: value.to(torch.int32 if value.dtype == torch.int64 else torch.float32)
             for name, value in zip(names, inputs, strict=True)}  # fmt: skip
    (output,) = Interpreter(package).run(given).values()
    return output


def cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.parametrize("config", [{"dtype": "fp32"}, {"dtype": "fp16"}, {"dtype": "int8"}, {"dtype": "int4"}],
                         ids=lambda config: config["dtype"])  # fmt: skip
def test_core_ml_computes_as_the_module(case: Any, tmp_path: Path, config: dict[str, Any]) -> None:
    model, inputs, program = case
    result = exported(CoreMLBackend, program, inputs, tmp_path / "model.mlpackage", config=config)
    eager = model if config["dtype"] in ("fp32", "fp16") else quantize_model(model, QuantizationConfig(**config)).model
    made = run_package(tmp_path / "model.mlpackage", result.metadata["inputs"], inputs)
    wanted = eager(*inputs).detach()
    if config["dtype"] == "fp32":
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    else:
        assert cosine(made, wanted) > 0.9999
        assert (made - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("with_mask", [False, True])
def test_core_ml_takes_a_range_of_lengths(tmp_path: Path, with_mask: bool) -> None:
    model = Decoder().eval()
    inputs = (ids(1, LENGTH), torch.zeros(1, 1, LENGTH, LENGTH)) if with_mask else (ids(1, LENGTH),)
    shapes = ({1: SEQUENCE}, {2: SEQUENCE, 3: SEQUENCE}) if with_mask else ({1: SEQUENCE}, None)
    target = tmp_path / "model.mlpackage"
    result = exported(
        CoreMLBackend, model, inputs, target, dynamic_shapes=shapes[: len(inputs)] if with_mask else ({1: SEQUENCE},),
        config={"dtype": "fp32"},
    )  # fmt: skip
    for length in (2, 40):
        given = (ids(1, length), torch.zeros(1, 1, length, length))[: len(inputs)]
        made = run_package(target, result.metadata["inputs"], given)
        torch.testing.assert_close(made, model(*given).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [{"dtype": "fp32"}, {"dtype": "fp16"}, {"dtype": "int8"}, {"dtype": "int4"}],
                         ids=lambda config: config["dtype"])  # fmt: skip
def test_qnn_computes_as_the_module(case: Any, tmp_path: Path, config: dict[str, Any]) -> None:
    model, inputs, program = case
    result = exported(QNNBackend, program, inputs, tmp_path / "qnn", config=config)
    eager = model if config["dtype"] in ("fp32", "fp16") else quantize_model(model, QuantizationConfig(**config)).model
    accuracy = validate_numerical_accuracy(eager, result, inputs)
    assert accuracy.cosine > 0.9999
    # In floating point, ONNX Runtime's kernels quantize the inputs of INT8 and INT4 layers to 8 bits.
    assert accuracy.relative_error < (1e-5 if config["dtype"] == "fp32" else 0.02), accuracy


def test_qnn_static_computes_in_integers(case: Any, tmp_path: Path) -> None:
    model, inputs, program = case
    others = [tuple(ids(*x.shape, seed=seed) if x.dtype == torch.int64 else x for x in inputs) for seed in range(4)]
    result = exported(
        QNNBackend, program, inputs, tmp_path / "qnn", config={"dtype": "int8", "mode": "static"},
        calibration_data=[inputs, *others],
    )  # fmt: skip
    assert result.metadata["activation_dtype"] == "int16"
    eager = quantize_model(model, QuantizationConfig(dtype="int8")).model
    accuracy = validate_numerical_accuracy(eager, result, inputs)
    assert 0.0 < accuracy.relative_error < 0.02, accuracy


def test_what_these_backends_can_not_do_is_said(tmp_path: Path) -> None:
    x = normal(4, 64)
    failed = QNNBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8", mode="static"))).export(mlp(), (x,))
    assert "calibration_data" in (failed.error_message or "")
    wrong = CoreMLBackend().export(mlp().eval(), (x,), path=tmp_path / "model.pte")
    assert ".mlpackage" in (wrong.error_message or "")
    assert not (tmp_path / "model.pte").exists()
    with pytest.raises(UnsupportedError, match="on a Mac"):
        validate_numerical_accuracy(mlp(), exported(CoreMLBackend, mlp().eval(), (x,), tmp_path / "m.mlpackage"), (x,))
