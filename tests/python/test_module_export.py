"""Modules through `XNNPACKBackend.export`, executed by ExecuTorch and compared with the module itself."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import difference, random_ids, run_pte
from checkpoints import COMMAND, TINY
from modules import Llada
from torch import Tensor, nn
from torch.nn import functional

from diffulex_edge import Error, InvalidArgumentError, UnsupportedError
from diffulex_edge.backends import (
    BackendConfig,
    BackendRegistry,
    CoreMLBackend,
    EdgeBackend,
    ExportResult,
    QNNBackend,
    XNNPACKBackend,
)
from diffulex_edge.frontend._module import read_module
from diffulex_edge.quant import QuantizationConfig, quantize_model

transformers = pytest.importorskip("transformers")

EXACT = 2e-6
VOCABULARY = 128
LENGTH = 12
IDS = random_ids(VOCABULARY, 1, LENGTH)
MASK = torch.zeros(1, 1, LENGTH, LENGTH)
SEQUENCE = torch.export.Dim("sequence", min=2, max=64)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


class Bidirectional(nn.Module):
    """A causal language model of transformers whose mask is an input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits


def decoder(family: str) -> nn.Module:
    torch.manual_seed(0)
    if family == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES)).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def bidirectional(request: pytest.FixtureRequest) -> Bidirectional:
    return Bidirectional(decoder(request.param)).eval()


@pytest.fixture(scope="module")
def traced(bidirectional: Bidirectional) -> torch.export.ExportedProgram:
    """What torch.export makes of it, which takes longer than all that comes behind it."""
    with torch.no_grad():
        return torch.export.export(bidirectional, (IDS, MASK))


def export(
    model: nn.Module | torch.export.ExportedProgram,
    inputs: tuple[Any, ...],
    config: dict[str, Any] | None = None,
    **named: Any,
) -> ExportResult:
    quantization = None if config is None else QuantizationConfig(**config)
    result = XNNPACKBackend(BackendConfig(quant_config=quantization)).export(model, inputs, **named)
    assert result.success, result.error_message
    return result


# --- Decoders of transformers.

FORMATS: list[dict[str, Any]] = [
    {"dtype": "fp32"},
    {"dtype": "fp16"},
    {"dtype": "int8"},
    {"dtype": "int8", "mode": "dynamic"},
    {"dtype": "int8", "mode": "static"},
    {"dtype": "int4", "mode": "dynamic"},
    {"dtype": "int4", "group_size": 0},
]


@pytest.mark.parametrize("config", FORMATS, ids=lambda config: "-".join(map(str, config.values())))
def test_a_decoder_computes_as_the_eager_quantized_module(
    bidirectional: Bidirectional, traced: torch.export.ExportedProgram, config: dict[str, Any]
) -> None:
    data = [(random_ids(VOCABULARY, 1, LENGTH, seed=seed), MASK) for seed in range(4)]
    named = {"calibration_data": data} if config.get("mode") == "static" else {}
    eager = bidirectional
    if config["dtype"] != "fp32":
        eager = quantize_model(bidirectional, QuantizationConfig(**config), **named).model
    from_floats = export(traced, (IDS, MASK), config, **named)
    from_integers = export(eager, (IDS, MASK))
    made = run_pte(from_floats, IDS, MASK)
    # A step of the last layer's output where a value lies between two.
    allowed = 0.01 if config.get("mode") == "static" else EXACT
    assert difference(made, eager(IDS, MASK)) <= allowed
    assert difference(run_pte(from_integers, IDS, MASK), made) <= allowed
    if config["dtype"] != "fp32":
        assert difference(made, bidirectional(IDS, MASK)) > 1e-5
        assert from_floats.metadata["file_bytes"] < export(traced, (IDS, MASK)).metadata["file_bytes"]


def test_int4_groups_get_dynamic_activations_and_a_warning(
    bidirectional: Bidirectional, traced: torch.export.ExportedProgram
) -> None:
    result = export(traced, (IDS, MASK), {"dtype": "int4", "group_size": 32})
    assert any("8 bits for each token" in warning for warning in result.metadata["warnings"])
    eager = quantize_model(bidirectional, QuantizationConfig(dtype="int4", group_size=32)).model
    assert difference(run_pte(result, IDS, MASK), eager(IDS, MASK)) < 0.03


def test_a_mask_hides_what_it_says(bidirectional: Bidirectional, traced: torch.export.ExportedProgram) -> None:
    result = export(traced, (IDS, MASK))
    hidden = MASK.clone()
    hidden[..., 5:] = -1e9
    made = run_pte(result, IDS, hidden)
    assert difference(made, bidirectional(IDS, hidden)) <= EXACT
    assert difference(made, run_pte(result, IDS, MASK)) > 0.01


@pytest.mark.parametrize("with_mask", [True, False])
def test_the_sequence_varies(bidirectional: Bidirectional, with_mask: bool) -> None:
    model = bidirectional if with_mask else bidirectional.model
    inputs = (IDS, MASK) if with_mask else (IDS,)
    shapes: Any = ({1: SEQUENCE}, {2: SEQUENCE, 3: SEQUENCE}) if with_mask else {"input_ids": {1: SEQUENCE}}
    named = {} if with_mask else {"example_kwargs": {"use_cache": False}}
    if not with_mask:
        shapes["use_cache"] = None
    result = export(model, inputs, dynamic_shapes=shapes, **named)
    assert result.metadata["seq_len"] == 64
    for length in (2, 7, 64):
        ids = random_ids(VOCABULARY, 1, length, seed=length)
        given = (ids, torch.zeros(1, 1, length, length)) if with_mask else (ids,)
        wanted = bidirectional(*given) if with_mask else model(ids, use_cache=False).logits
        assert difference(run_pte(result, *given), wanted) <= EXACT


def test_a_model_of_transformers_goes_out_as_it_is(bidirectional: Bidirectional) -> None:
    model = bidirectional.model
    assert model.config.use_cache
    result = export(model, (IDS,))
    assert model.config.use_cache
    assert (result.metadata["output"], result.metadata["warnings"]) == ("logits", [])
    assert difference(run_pte(result, IDS), model(IDS).logits) <= EXACT


def test_a_module_says_nothing_of_a_language_model(bidirectional: Bidirectional, tmp_path: Path) -> None:
    """Not even a language model's: it is a function like any other. A folder's artefact has the facts."""
    from executorch.runtime import Runtime

    result = export(bidirectional.model, (IDS,))
    assert Runtime.get().load_program(bytes(result.buffer)).method_names == {"forward"}
    XNNPACKBackend().export_model(TINY, tmp_path / "x.pte")
    assert "get_mask_id" in Runtime.get().load_program(tmp_path / "x.pte").method_names


def test_a_model_in_bfloat16_computes_in_float32() -> None:
    model = decoder("qwen3").to(torch.bfloat16)
    made = run_pte(export(model, (IDS,)), IDS)
    assert difference(made, model.float()(IDS).logits) <= EXACT


def test_gpt2_has_its_weights_transposed() -> None:
    torch.manual_seed(0)
    settings = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    model = transformers.GPT2LMHeadModel(settings).eval()
    result = export(model, (IDS,), {"dtype": "int8"})
    formats = {layer["layer"]: layer["format"] for layer in result.metadata["layers"] if layer["role"] == "linear"}
    assert formats["transformer.h.0.attn.c_attn"] == "i8 per channel, f32 scales"
    assert formats["lm_head"] == "f32"
    assert difference(run_pte(result, IDS), model(IDS).logits) <= 0.05


def test_composites_are_recognized(bidirectional: Bidirectional, traced: torch.export.ExportedProgram) -> None:
    program = read_module(traced, (IDS, MASK))
    ops = [node.op for node in program.graph.nodes]
    norms = 2 * 2 + 1 + (2 * 2 if "Qwen3" in type(bidirectional.model).__name__ else 0)
    assert [ops.count(op) for op in ("rms_norm", "rope", "attention", "swiglu")] == [norms, 4, 2, 2]
    # Nothing is left of what they were spelled with, nor of copies of keys and values.
    assert not {"square", "rsqrt", "sigmoid", "negate", "softmax", "matmul", "transpose", "expand"} & set(ops)
    assert {node.name for node in program.layers()} >= {"model.lm_head", "model.model.layers.0.self_attn.q_proj"}


# --- The bundled model, by both routes.


@pytest.fixture(scope="module")
def bundled() -> Llada:
    from safetensors.torch import load_file

    model = Llada()
    model.load_state_dict(load_file(TINY / "model.safetensors"))
    return model.eval()


@pytest.mark.parametrize(
    "config", [{"dtype": "fp32"}, {"dtype": "int8"}, {"dtype": "int4"}], ids=lambda config: config["dtype"]
)
def test_the_module_and_the_checkpoint_give_the_same_numbers(
    bundled: Llada, tmp_path: Path, config: dict[str, Any]
) -> None:
    ids = random_ids(1024, 1, 32)
    module = export(
        bundled, (ids,), {**config, "exclude_layers": ["norm", "embedding", "lm_head", "transformer.ff_out"]}
    )
    target = tmp_path / "checkpoint.pte"
    command = [str(COMMAND), "export", str(TINY), "-o", str(target), "--dtype", config["dtype"], "--seq-len", "32"]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    assert difference(run_pte(module, ids), run_pte(target.read_bytes(), ids)) <= EXACT
    assert difference(run_pte(module, ids), bundled(ids)) <= {"fp32": EXACT, "int8": 0.05, "int4": 0.5}[config["dtype"]]


# --- Other modules.


class Encoder(nn.Module):
    """Spelled-out attention of two sequences at once, a norm behind it, and a pooler over the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.pooler = nn.LayerNorm(32), nn.Linear(32, 8)
        self.gain = nn.Parameter(torch.full((32,), 0.5))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
        x = self.norm(x + self.gain * self.out((shares @ v).transpose(1, 2).flatten(2)))
        return torch.tanh(self.pooler(functional.gelu(x[:, 0], approximate="tanh")))


class Elementwise(nn.Module):
    """Operators that the others have not."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a = torch.exp(-x * x) + torch.sqrt(y * y + 1.0) - x.clamp(-0.5, 0.5)
        b = torch.cat([a.sin(), a.cos().floor()], dim=-1)[..., 2:10]
        c = torch.stack([b, functional.relu(b)], dim=1).sum(dim=1) / (1.5 + y.sigmoid()[..., :1])
        d = c.mean(dim=0, keepdim=True).reciprocal().pow(2) - 1.0
        return torch.where(torch.tensor([True, False] * 4), d, d.masked_fill(torch.tensor([False, True] * 4), 3.0)) + c


@pytest.mark.parametrize("config", [None, {"dtype": "int8"}, {"dtype": "fp16"}], ids=["fp32", "int8", "fp16"])
def test_an_encoder(config: dict[str, Any] | None) -> None:
    torch.manual_seed(1)
    model = Encoder().eval()
    ids = random_ids(50, 2, 16)
    result = export(model, (ids,), config)
    assert difference(run_pte(result, ids), model(ids)) <= (EXACT if config is None else 0.03)


class Tied(nn.Module):
    """One parameter as a table, as a head, and turned around; and a computed weight beside another of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(32, 32))
        self.gain = nn.Parameter(torch.rand(32) + 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = functional.embedding(ids, self.table)
        x = functional.linear(x, self.table * self.gain) + functional.linear(x, self.table.abs())
        return functional.linear(x, self.table) + x @ self.table


@pytest.mark.parametrize("config", [None, {"dtype": "int8", "exclude_layers": []}], ids=["fp32", "int8"])
def test_weights_of_one_module_are_told_apart(config: dict[str, Any] | None) -> None:
    torch.manual_seed(5)
    model = Tied().eval()
    ids = random_ids(32, 1, 6)
    result = export(model, (ids,), config)
    linear = {layer["layer"] for layer in result.metadata["layers"] if layer["role"] == "linear"}
    assert len(linear) == 4
    assert difference(run_pte(result, ids), model(ids)) <= (EXACT if config is None else 0.05)


@pytest.mark.parametrize("config", [None, {"dtype": "int8"}], ids=["fp32", "int8"])
def test_a_transformer_of_pytorch(config: dict[str, Any] | None) -> None:
    torch.manual_seed(6)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 10, 64)
    result = export(model, (x,), config)
    assert difference(run_pte(result, x), model(x)) <= (EXACT if config is None else 0.05)


def test_bert() -> None:
    torch.manual_seed(0)
    settings = {key: SIZES[key] for key in SIZES if key not in ("num_key_value_heads", "head_dim")}
    model = transformers.BertModel(transformers.BertConfig(**settings)).eval()
    result = export(model, (IDS,), {"dtype": "int8", "mode": "dynamic"}, dynamic_shapes={"input_ids": {1: SEQUENCE}})
    assert any("returns 2 tensors" in warning for warning in result.metadata["warnings"])
    eager = quantize_model(model, QuantizationConfig(dtype="int8", mode="dynamic")).model
    for length in (5, 64):
        ids = random_ids(VOCABULARY, 1, length)
        assert difference(run_pte(result, ids), eager(ids).last_hidden_state) <= 1e-5


def test_elementwise_operators() -> None:
    torch.manual_seed(2)
    x, y = torch.randn(4, 7), torch.randn(4, 7)
    assert difference(run_pte(export(Elementwise(), (x, y)), x, y), Elementwise()(x, y)) <= 1e-5


def test_an_mlp_with_a_varying_batch() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.RMSNorm(128), nn.Linear(128, 8)).eval()
    result = export(model, (torch.randn(4, 64),), dynamic_shapes={"input": {0: torch.export.Dim("batch", max=32)}})
    for batch in (1, 32):
        x = torch.randn(batch, 64)
        assert difference(run_pte(result, x), model(x)) <= EXACT


def test_torchao_modules_are_accepted() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(version=2))
    x = torch.randn(3, 64)
    result = export(model, (x,))
    assert {layer["format"] for layer in result.metadata["layers"] if layer["role"] == "linear"} == {
        "i8 per channel, f32 scales"
    }
    assert difference(run_pte(result, x), model(x)) <= 1e-5


# --- What is refused.


def failure(model: nn.Module, inputs: tuple[Any, ...], config: BackendConfig | None = None, **named: Any) -> Error:
    result = XNNPACKBackend(config).export(model, inputs, **named)
    assert not result.success
    assert result.buffer is None
    assert result.error_message
    assert "\n" not in result.error_message
    assert result.error is not None
    return result.error


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x).values + 1.0


def test_an_uncovered_operator_is_named_with_its_line() -> None:
    error = failure(Sorted(), (torch.randn(3),))
    assert isinstance(error, UnsupportedError)
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "torch.sort(x).values" in text
    )
    assert f'aten.sort.default at "{__file__}", line {line}, in forward' in str(error)


def test_other_convolutions_are_not_covered() -> None:
    error = failure(nn.Conv3d(3, 4, 3), (torch.randn(1, 3, 8, 8, 8),))
    assert "only convolutions in one and two dimensions" in str(error)


class UnevenAttention(nn.Module):
    """Four values for two keys: PyTorch's CPU kernels do not look."""

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, v)


def test_a_key_without_its_value_is_refused() -> None:
    error = failure(UnevenAttention(), (torch.randn(1, 2, 2, 8), torch.randn(1, 2, 4, 8)))
    assert "2 keys have 4 values" in str(error)


@pytest.mark.parametrize(
    ("config", "named", "words"),
    [
        ({}, {"dynamic_shapes": {"input": {0: torch.export.Dim("batch", min=2)}}}, "has no upper bound"),
        ({"max_memory_mb": 0.001}, {}, "the weights take"),
        ({"batch_size": 3}, {}, "batch_size: 3"),
        ({"backend_options": {"palette": True}}, {}, "palette"),
        ({"quant_config": QuantizationConfig(dtype="int8", mode="static")}, {}, "calibration_data"),
        (
            {"quant_config": QuantizationConfig(dtype="int8")},
            {"calibration_data": [(torch.ones(2, 8),)]},
            "mode static",
        ),
        ({"activation_dtype": "int16"}, {}, "int16"),
    ],
)
def test_impossible_exports_fail_with_a_sentence(config: dict[str, Any], named: dict[str, Any], words: str) -> None:
    model = nn.Linear(8, 64)
    assert words in str(failure(model, (torch.randn(4, 8),), BackendConfig(**config), **named))


def test_two_dimensions_that_vary_are_too_many() -> None:
    shapes = {"input": {0: torch.export.Dim("a", max=8), 1: torch.export.Dim("b", max=8)}}
    assert "2 dimensions vary" in str(failure(nn.Linear(4, 4), (torch.randn(3, 3, 4),), dynamic_shapes=shapes))


def test_training_mode_is_refused() -> None:
    assert "model.eval()" in str(failure(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (torch.randn(1, 4),)))


def test_weights_that_are_nowhere_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(8, 8)
    assert "meta" in str(failure(model, (torch.randn(1, 8, device="meta"),)))


def test_what_torch_export_refuses_fails_with_its_reason() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    error = failure(Branches(), (torch.randn(3),))
    assert "torch.export can't export it" in str(error)
    assert error.__cause__ is not None


def test_qnn_takes_no_varying_length() -> None:
    shapes = {"input": {0: torch.export.Dim("batch", max=8)}}
    result = QNNBackend().export(nn.Linear(4, 4), (torch.randn(2, 4),), dynamic_shapes=shapes)
    assert "QNN compiles for one length" in (result.error_message or "")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"memory_planning": False}, InvalidArgumentError),
        ({"quantization_mode": "dynamic"}, InvalidArgumentError),
        ({"quantize": True, "quantization_mode": "sometimes"}, ValueError),
        ({"quantize": True, "quant_config": QuantizationConfig()}, InvalidArgumentError),
        ({"max_memory_mb": -1}, InvalidArgumentError),
        ({"max_seq_len": 1.5}, TypeError),
        ({"activation_dtype": "int7"}, InvalidArgumentError),
        ({"quant_config": "int8"}, TypeError),
    ],
)
def test_options_that_make_no_sense_raise(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        BackendConfig(**fields)


def test_quantize_is_short_for_int8() -> None:
    model, x = nn.Linear(64, 8), torch.randn(2, 64)
    short = XNNPACKBackend(BackendConfig(quantize=True)).export(model, (x,))
    long = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8", mode="dynamic"))).export(
        model, (x,)
    )
    assert bytes(short.buffer or b"") == bytes(long.buffer or b"") != b""


# --- Results.


def test_artefacts_are_saved_whole(tmp_path: Path) -> None:
    model, x = nn.Linear(8, 4), torch.randn(2, 8)
    result = export(model, (x,))
    target = tmp_path / "model.pte"
    target.write_bytes(b"older")
    assert result.save(target) == target
    assert target.read_bytes() == bytes(result.buffer or b"")
    written = export(model, (x,), path=tmp_path / "direct.pte")
    assert (tmp_path / "direct.pte").read_bytes() == target.read_bytes() == bytes(written.buffer or b"")
    with pytest.raises(OSError, match="can't create"):
        result.save(tmp_path / "no such folder" / "model.pte")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.pte", "model.pte"]
    assert "<table>" in result._repr_html_()
    failed = XNNPACKBackend().export(Sorted(), (x,), path=target)
    assert target.read_bytes() == bytes(result.buffer or b"")
    assert "Export failed" in failed._repr_html_()
    with pytest.raises(UnsupportedError):
        failed.save(tmp_path / "other.pte")


def test_the_module_is_left_as_it_was(bidirectional: Bidirectional) -> None:
    before = {name: value.clone() for name, value in bidirectional.state_dict().items()}
    export(bidirectional, (IDS, MASK), {"dtype": "int4"})
    assert all(torch.equal(before[name], value) for name, value in bidirectional.state_dict().items())


def test_a_dry_run_predicts_the_size() -> None:
    model, x = nn.Linear(64, 32), torch.randn(2, 64)
    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8")))
    predicted, made = backend.dry_run(model, (x,)), backend.export(model, (x,))
    assert predicted.metadata["file_bytes"] == made.metadata["file_bytes"] == len(made.buffer or b"")
    assert predicted.buffer is None


def test_progress_counts_the_weights() -> None:
    calls: list[tuple[int, int, str]] = []
    model = nn.Linear(256, 256)
    export(model, (torch.randn(1, 256),), progress=lambda *state: calls.append(state))
    done, total, stage = calls[-1]
    assert done == total == 4 * 256 * 256 + 4 * 256
    assert stage == "weights"


def test_backends_are_registered_by_name() -> None:
    assert BackendRegistry.list() == ["coreml", "qnn", "xnnpack"]
    assert BackendRegistry.get("xnnpack") is XNNPACKBackend
    assert isinstance(BackendRegistry.create("qnn", BackendConfig(backend_name="qnn")), QNNBackend)
    with pytest.raises(NotImplementedError, match="coreml, qnn, xnnpack"):
        BackendRegistry.get("tflite")
    with pytest.raises(ValueError, match="taken"):
        BackendRegistry.register("qnn", XNNPACKBackend)
    with pytest.raises(ValueError, match="the backend is 'xnnpack'"):
        XNNPACKBackend(BackendConfig(backend_name="qnn"))


def test_own_backends_can_be_registered() -> None:
    class Renamed(XNNPACKBackend):
        pass

    BackendRegistry.register("renamed", Renamed)
    try:
        assert issubclass(BackendRegistry.get("renamed"), EdgeBackend)
        assert BackendRegistry.create("renamed").export(nn.Linear(4, 4), (torch.randn(1, 4),)).success
    finally:
        del BackendRegistry._backends["renamed"]


def test_values_of_more_dimensions_than_the_runtime_takes_are_refused() -> None:
    """XNNPACK's programs with 7 were written, and did not load."""
    for backend, most in ((XNNPACKBackend(), 6), (CoreMLBackend(), 5)):
        for rank in (most, most + 1):
            result = backend.export(nn.Linear(4, 3), (torch.randn(*([1] * (rank - 2)), 2, 4),))
            assert result.success == (rank == most), result.error_message
            assert result.success or f"takes at most {most} dimensions" in result.error_message


def test_backends_come_from_the_librarys_descriptions() -> None:
    for name, backend in (("xnnpack", XNNPACKBackend), ("coreml", CoreMLBackend), ("qnn", QNNBackend)):
        assert backend.description is not None
        assert (backend.description.name, backend.suffix) == (name, backend.description.suffix)
        assert BackendRegistry.get(name) is backend
    options = {option.name: option for option in CoreMLBackend.description.options}
    assert options["chunks"].choices == ["pipeline", "packages"]
    assert options["minimum_deployment_target"].default == "iOS18"
    assert [option.type for option in QNNBackend.description.options if option.name == "qnn_python"] == ["python"]


def test_lists_are_options_with_commas() -> None:
    assert BackendConfig(backend_options={"soc": ["SM8550", "SM8650"]}).options() == {"soc": "SM8550,SM8650"}
    with pytest.raises(TypeError, match="list of strings"):
        BackendConfig(backend_options={"soc": [1, 2]}).options()
