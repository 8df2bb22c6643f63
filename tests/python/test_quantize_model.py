"""Quantizing whole modules: which layers, what stays, ties, warnings, results."""

from __future__ import annotations

import copy
import io
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from modules import Llada, Small, unchanged
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import diffulex_edge
from diffulex_edge.quant import (
    BaseQuantizer,
    FP16Quantizer,
    INT4Quantizer,
    INT8Quantizer,
    QuantizationConfig,
    QuantizedEmbedding,
    QuantizedLinear,
    Quantizer,
    quantize_model,
)

IDS = torch.arange(12).reshape(1, 12)
ALL = {"exclude_layers": []}


def kinds(model: nn.Module) -> dict[str, str]:
    """By name, the dtypes of quantized modules."""
    return {
        name: str(module.dtype)
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear | QuantizedEmbedding)
    }


def test_defaults_leave_head_norms_and_embedding() -> None:
    result = quantize_model(Small(), QuantizationConfig(dtype="int8"))
    assert kinds(result.model) == {"up": "int8", "down": "int8"}
    assert {layer.name for layer in result.layers if layer.excluded} == {"embed_tokens", "lm_head"}
    assert result.warnings == []
    assert result.success is True


def test_exclusions_are_substrings_in_any_case() -> None:
    config = QuantizationConfig(dtype="int8", exclude_layers=("UP", "Embedding"))
    assert kinds(quantize_model(Small(), config).model) == {"down": "int8", "lm_head": "int8"}


def test_embedding_and_head_have_formats_of_their_own() -> None:
    config = QuantizationConfig(dtype="int4", embedding_dtype="int8", head_dtype="fp16")
    model = quantize_model(Small(), config).model
    assert kinds(model) == {"embed_tokens": "int8", "up": "int4", "down": "int4", "lm_head": "fp16"}


def test_a_head_of_another_name_is_known_by_get_output_embeddings(llada: Llada) -> None:
    head = "model.transformer.ff_out"
    assert head not in kinds(quantize_model(llada, QuantizationConfig(dtype="int8")).model)
    result = quantize_model(llada, QuantizationConfig(dtype="int8", head_dtype="int4"))
    assert kinds(result.model)[head] == "int4"
    assert "model.transformer.blocks.0.ff_out" in kinds(result.model)
    assert head in {layer.name for layer in result.layers}


def test_an_embedding_that_is_the_head_too_stays() -> None:
    """As LLaDA has it with weight_tying: its weight is read for the logits."""

    class Tied(Small):
        def get_output_embeddings(self) -> nn.Embedding:
            return self.embed_tokens

        def forward(self, ids: Tensor) -> Tensor:
            return nn.functional.linear(self.up(self.embed_tokens(ids))[..., :64], self.embed_tokens.weight)

    result = quantize_model(Tied(), QuantizationConfig(dtype="int8", **ALL))
    assert "embed_tokens" not in kinds(result.model)
    assert result.warnings == ["embed_tokens: stays as it is, since the model reads its weight as its head's"]
    assert result.model(IDS).shape == (1, 12, 50)


def test_mixed_precision_by_names() -> None:
    formats = {"embed_tokens": "int8", "up": "int4_g32", "down": "INT4_channel", "lm_head": "fp32"}
    result = Quantizer().quantize(Small(), QuantizationConfig(layer_formats=formats))
    assert kinds(result.model) == {"embed_tokens": "int8", "up": "int4", "down": "int4"}
    assert (result.model.up.group_size, result.model.down.group_size) == (32, 0)
    del formats["up"]
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="up: the plan has no format"):
        quantize_model(Small(), QuantizationConfig(layer_formats=formats))
    formats |= {"up": "int8", "sideways": "int8"}
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="sideways"):
        quantize_model(Small(), QuantizationConfig(layer_formats=formats))


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [("fp32", "weight_only"), ("fp16", "weight_only")]
    + [(dtype, mode) for dtype in ("int8", "int4") for mode in ("weight_only", "dynamic", "static")],
)
def test_the_original_is_as_it_was(dtype: str, mode: str) -> None:
    model = Small(tied=True)
    model.up.weight.requires_grad_(False)
    model.down.eval()
    check = unchanged(model)
    settings = {"group_size": 0} if (dtype, mode) == ("int4", "static") else {}
    config = QuantizationConfig(dtype=dtype, mode=mode, **settings, **ALL)
    quantized = quantize_model(model, config, calibration_data=[IDS] if mode == "static" else None).model
    check()
    for tensor in quantized.state_dict().values():
        tensor.zero_()
    check()


def test_training_flags_and_gradients_are_kept() -> None:
    model = Small()
    model.up.eval()
    model.down.bias.requires_grad_(False)
    quantized = quantize_model(model, QuantizationConfig(dtype="int8")).model
    assert [quantized.up.training, quantized.down.training] == [False, True]
    assert [quantized.up.bias.requires_grad, quantized.down.bias.requires_grad] == [True, False]


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_outputs_stay_near(dtype: str, llada: Llada) -> None:
    llada = llada.float()
    expected = llada(IDS)
    result = quantize_model(llada, QuantizationConfig(dtype=dtype, **ALL))
    error = (result.model(IDS) - expected).norm() / expected.norm()
    assert error < {"fp16": 1e-3, "int8": 0.03, "int4": 0.3}[dtype]
    assert error > 0


def test_half_precision_models_stay_in_half_precision(llada: Llada) -> None:
    result = quantize_model(llada, QuantizationConfig(dtype="int8", **ALL))
    assert result.model(IDS).dtype == torch.bfloat16


def test_a_linear_layer_is_a_model(linear: nn.Linear) -> None:
    result = quantize_model(linear, QuantizationConfig(dtype="int8"))
    assert isinstance(result.model, QuantizedLinear)
    assert type(linear) is nn.Linear
    assert result.layers[0].name == "model"
    x = torch.randn(2, 64)
    assert torch.equal(result.model(x), QuantizedLinear.from_float(linear)(x))


def test_tied_weights_of_one_format_share_a_buffer() -> None:
    result = quantize_model(Small(tied=True), QuantizationConfig(dtype="int4", **ALL))
    model = result.model
    assert model.lm_head.weight is model.embed_tokens.weight
    assert model.lm_head.weight_scale is model.embed_tokens.weight_scale
    untied = quantize_model(Small(), QuantizationConfig(dtype="int4", **ALL))
    stored = 50 * 64 // 2 + 2 * 50 * 2
    assert untied.module_bytes_after - result.module_bytes_after == stored
    assert round((untied.quantized_memory_mb - result.quantized_memory_mb) * 1e6) == stored


def test_weights_that_share_memory_are_tied_too() -> None:
    model = Small()
    model.lm_head.weight = nn.Parameter(model.embed_tokens.weight.detach())
    assert model.lm_head.weight is not model.embed_tokens.weight
    quantized = quantize_model(model, QuantizationConfig(dtype="int8", **ALL)).model
    assert quantized.lm_head.weight is quantized.embed_tokens.weight


def test_tied_weights_of_two_formats_become_two() -> None:
    model = Small(tied=True)
    result = quantize_model(model, QuantizationConfig(dtype="int8", head_dtype="int4"))
    assert type(result.model.embed_tokens) is nn.Embedding
    assert torch.equal(result.model.embed_tokens.weight, model.embed_tokens.weight)
    assert result.model.lm_head.dtype == "int4"


def test_modules_used_twice_stay_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(32, 32)
            self.second = self.first
            self.aliases = [self.first]  # no ModuleList: a reference that PyTorch does not know

        def forward(self, x: Tensor) -> Tensor:
            return self.aliases[0](self.second(self.first(x)))

    result = quantize_model(Twice(), QuantizationConfig(dtype="int8"))
    model = result.model
    assert isinstance(model.first, QuantizedLinear)
    assert model.first is model.second is model.aliases[0]
    assert len(result.layers) == 1


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def patched() -> nn.Linear:
    layer = nn.Linear(32, 32)
    layer.forward = lambda x: x * 0  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Doubling(32, 32), "forward of its own"),
        (patched, "forward of its own"),
        (lambda: weight_norm(nn.Linear(32, 32)), "computed from others"),
        (lambda: parametrizations.weight_norm(nn.Linear(32, 32)), "parametrized"),
        (lambda: nn.Embedding(32, 32, max_norm=1.0), "max_norm"),
    ],
)
def test_layers_that_are_more_than_their_weight_stay_with_a_warning(make: Any, word: str) -> None:
    model = nn.ModuleDict({"odd": make(), "plain": nn.Linear(32, 32)})
    x = torch.arange(4) if isinstance(model["odd"], nn.Embedding) else torch.randn(4, 32)
    result = quantize_model(model, QuantizationConfig(dtype="int8", **ALL))
    assert kinds(result.model) == {"plain": "int8"}
    assert len(result.warnings) == 1
    assert "odd" in result.warnings[0] and word in result.warnings[0]
    assert torch.equal(result.model["odd"](x), model["odd"](x))
    assert quantize_model(model, QuantizationConfig(dtype="int8", exclude_layers=["odd", "norm"])).warnings == []


def test_a_subclass_without_a_forward_is_a_linear_layer() -> None:
    class Named(nn.Linear):
        pass

    model = nn.Sequential(Named(32, 32))
    assert kinds(quantize_model(model, QuantizationConfig(dtype="int8")).model) == {"0": "int8"}


def test_attention_that_reads_weights_is_left_alone() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(32, 4), "proj": nn.Linear(32, 32)}).eval()
    result = quantize_model(model, QuantizationConfig(dtype="int8"))
    assert kinds(result.model) == {"proj": "int8"}
    assert "attention.out_proj" in result.warnings[0]
    x = torch.randn(5, 2, 32)
    assert torch.equal(result.model["attention"](x, x, x)[0], model["attention"](x, x, x)[0])


@pytest.mark.filterwarnings("ignore")
def test_encoder_layers_run_their_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(32, 32)).eval()
    result = quantize_model(model, QuantizationConfig(dtype="int8"))
    assert kinds(result.model) == {"1": "int8"}
    assert len(result.warnings) == 6  # linear1, linear2 and out_proj of each
    with torch.no_grad():
        x = torch.randn(2, 5, 32)
        assert torch.equal(result.model[0](x), model[0](x))


def test_hooks_and_attributes_come_along() -> None:
    model = Small()
    seen = []
    model.up.register_forward_hook(lambda module, arguments, output: seen.append(type(module)))
    model.up.note = ["mine"]
    quantized = quantize_model(model, QuantizationConfig(dtype="int8")).model
    quantized(IDS)
    assert seen == [QuantizedLinear]
    assert quantized.up.note == ["mine"]
    assert quantized.up.note is not model.up.note


def test_strided_and_double_weights() -> None:
    model = Small().double()
    model.up.weight = nn.Parameter(model.up.weight.detach().T.contiguous().T)
    result = quantize_model(model, QuantizationConfig(dtype="int8"))
    assert sorted(warning.split(":")[0] for warning in result.warnings)[-2:] == ["lm_head.weight", "up.weight"]
    assert all("float64" in warning for warning in result.warnings)
    assert torch.equal(
        result.model.up.weight, quantize_model(Small(), QuantizationConfig(dtype="int8")).model.up.weight
    )
    assert result.model(IDS).dtype == torch.float64


@pytest.mark.parametrize(
    ("model", "config", "error", "words"),
    [
        (lambda: Small().to("meta"), {}, ValueError, ["embed_tokens.weight", "meta"]),
        (lambda: nn.Sequential(nn.ReLU()), {}, ValueError, ["Sequential", "no linear layer"]),
        (lambda: Small().to(torch.complex64), {}, ValueError, ["complex64"]),
        (lambda: nn.Sequential(nn.LazyLinear(3)), {}, ValueError, ["0:", "initialized"]),
        (lambda: nn.Sequential(nn.Linear(0, 3)), {}, ValueError, ["0.weight", "empty"]),
        (Small, {"dtype": "palette6"}, diffulex_edge.UnsupportedError, ["palette6", "export"]),
        (Small, {"dtype": "int4", "group_size": 64, "strict_group_size": True}, ValueError, ["down", "64", "96"]),
        (lambda: nn.Linear(33, 4), {"dtype": "int4"}, ValueError, ["33"]),
        (lambda: nn.Linear(33, 4), {"dtype": "int4", "group_size": 0}, diffulex_edge.UnsupportedError, ["odd"]),
        (lambda: "model", {}, TypeError, ["str"]),
    ],
)
def test_what_can_not_be_done_raises(
    model: Any, config: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        quantize_model(model(), QuantizationConfig(**({"dtype": "int8"} | config)))
    for word in words:
        assert word in str(raised.value)


def test_a_config_that_was_changed_is_checked_again() -> None:
    config = QuantizationConfig(dtype="int8")
    config.mode = "sometimes"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="sometimes"):
        quantize_model(Small(), config)
    config.mode = "dynamic"  # type: ignore[assignment]
    assert quantize_model(Small(), config).model.up.mode == "dynamic"


def test_weights_beyond_fp16_fail_or_saturate() -> None:
    model = Small()
    with torch.no_grad():
        model.up.weight[1, 2] = 1e6
    with pytest.raises(diffulex_edge.BadFileError, match=r"up\.weight"):
        quantize_model(model, QuantizationConfig(dtype="fp16"))
    saturated = quantize_model(model, QuantizationConfig(dtype="fp16", saturate_fp16=True)).model
    assert saturated.up.weight[1, 2] == 65504


def test_smaller_groups_and_unused_patterns_are_warnings() -> None:
    config = QuantizationConfig(dtype="int4", group_size=64, exclude_layers=["lm_head", "embedding", "typo"])
    result = INT4Quantizer().quantize(Small(), config)
    assert (result.model.up.group_size, result.model.down.group_size) == (64, 32)
    assert len(result.warnings) == 2
    assert "down" in result.warnings[0] and "groups of 32" in result.warnings[0]
    assert "typo" in result.warnings[1]


def test_quantizers_share_a_base_and_have_default_configs() -> None:
    for quantizer, dtype in ((FP16Quantizer, "fp16"), (INT8Quantizer, "int8"), (INT4Quantizer, "int4")):
        assert isinstance(quantizer(), BaseQuantizer)
        assert kinds(quantizer().quantize(Small()).model) == {"up": dtype, "down": dtype}
    with pytest.raises(TypeError):
        Quantizer().quantize(Small())
    with pytest.raises(TypeError):
        INT8Quantizer().quantize(Small(), "int8")  # type: ignore[arg-type]


def test_figures_are_those_of_the_formats() -> None:
    result = quantize_model(Small(), QuantizationConfig(dtype="int8"))
    weights, rest = 96 * 64 * 2, 2 * 50 * 64 + 96 + 64 + 2 * 64
    assert result.parameters == weights + rest
    assert result.original_memory_mb == 4 * (weights + rest) / 1e6
    assert result.quantized_memory_mb == (weights + 4 * (96 + 64) + 4 * rest) / 1e6
    assert result.compression_ratio == result.original_memory_mb / result.quantized_memory_mb
    assert result.memory_reduction_pct == pytest.approx(100 * (1 - 1 / result.compression_ratio))
    assert result.module_bytes_before == 4 * (weights + rest)
    assert result.module_bytes_after == round(result.quantized_memory_mb * 1e6)
    metrics = result.metrics
    assert metrics["layers"] == {"fp32": 2, "int8": 2}
    assert metrics["compression_ratio"] == result.compression_ratio
    assert metrics["excluded_layers"] == ["embed_tokens", "lm_head"]
    up = Small().up.weight.detach()
    error = (result.model.up.dequantize() - up).norm() / up.norm()
    assert metrics["weight_error"]["up"] == pytest.approx(error.item(), rel=1e-5)


def test_results_show_themselves() -> None:
    result = quantize_model(Small(), QuantizationConfig(dtype="int8", exclude_layers=["<typo>"]))
    assert "4 int8" in repr(result)
    page = result._repr_html_()
    assert "<td>lm_head</td><td>i8 per channel, f32 scales</td><td>50 × 64</td>" in page
    assert "&lt;typo&gt;" in page and "<typo>" not in page


def test_progress_is_in_bytes_and_ends_at_the_total() -> None:
    calls: list[tuple[int, int, str]] = []
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    quantize_model(model, QuantizationConfig(dtype="int8"), progress=lambda *call: calls.append(call))
    assert calls[-1] == (8 * 512 * 512 * 4, 8 * 512 * 512 * 4, "weights")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_ctrl_c_stops_the_work() -> None:
    script = (
        "import torch\n"
        "from diffulex_edge.quant import QuantizationConfig, quantize_model\n"
        "model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(24)))\n"
        "print('ready', flush=True)\n"
        "quantize_model(model, QuantizationConfig(dtype='int4', method='mse'), threads=1)\n"
        "print('done', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # the whole of it takes seconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=900)
    assert out == ""
    assert "KeyboardInterrupt" in err


def test_progress_fits_tqdm() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    with tqdm(disable=False, file=io.StringIO()) as bar:

        def progress(done: int, total: int, stage: str) -> None:
            bar.total = total
            bar.set_description(stage, refresh=False)
            bar.update(done - bar.n)

        quantize_model(Small(), QuantizationConfig(dtype="int8"), progress=progress)
        assert bar.n == bar.total == 2 * 96 * 64 * 4


def test_what_progress_raises_stops_the_work() -> None:
    def stop(done: int, total: int, stage: str) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        quantize_model(Small(), QuantizationConfig(dtype="int8"), progress=stop)


def test_the_number_of_threads_changes_nothing() -> None:
    model = nn.Sequential(*(nn.Linear(700, 600) for _ in range(4)))
    config = QuantizationConfig(dtype="int4", group_size=0, method="mse")
    one, four = (quantize_model(model, config, threads=threads) for threads in (1, 4))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, four.model.state_dict()[name])
    assert one.metrics["weight_error"] == four.metrics["weight_error"]
    with pytest.raises(ValueError, match="-1"):
        quantize_model(model, config, threads=-1)


def test_quantized_models_are_taken_again(llada: Llada) -> None:
    first = quantize_model(llada, QuantizationConfig(dtype="int8")).model
    again = quantize_model(first, QuantizationConfig(dtype="int8", mode="dynamic"))
    name = "model.transformer.blocks.1.q_proj"
    assert again.model.get_submodule(name).mode == "dynamic"
    assert torch.equal(again.model.get_submodule(name).weight, first.get_submodule(name).weight)
    assert again.model.get_submodule(name).weight.data_ptr() != first.get_submodule(name).weight.data_ptr()
    assert any("its mode was weight_only" in warning for warning in again.warnings)
    assert first.get_submodule(name).mode == "weight_only"
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="start from the unquantized"):
        quantize_model(first, QuantizationConfig(dtype="int4"))


def test_replaced_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep copy of the model would have copied them; PyTorch copies parameters by Parameter.__deepcopy__."""
    copied: list[int] = []
    original = nn.Parameter.__deepcopy__

    def deepcopy(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        copied.append(self.numel())
        return original(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", deepcopy)
    quantize_model(Small(), QuantizationConfig(dtype="int8", **ALL))
    assert sorted(copied) == [64, 64, 64, 96]  # the norm's two and the biases
    copied.clear()
    copy.deepcopy(Small())
    assert max(copied) == 96 * 64
