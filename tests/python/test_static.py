"""Mode static: calibration of modules, and the ranges that it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from modules import Llada, Small, unchanged
from torch import Tensor, nn
from torch.utils.data import DataLoader

import diffulex_edge
from diffulex_edge import _core
from diffulex_edge.quant import INT8Quantizer, LayerActivations, QuantizationConfig, _calibrate, quantize_model

STATIC = {"dtype": "int8", "mode": "static"}


def batches(count: int = 4, length: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 50, (2, length), generator=generator) for _ in range(count)]


def seen(model: nn.Module, name: str, data: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All that goes into and comes out of a layer."""
    inputs, outputs = [], []

    def note(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0])
        outputs.append(output)

    handle = model.get_submodule(name).register_forward_hook(note)
    with torch.no_grad():
        for ids in data:
            model(ids)
    handle.remove()
    return torch.cat(inputs).float().flatten(), torch.cat(outputs).float().flatten()


@pytest.mark.parametrize("observer", ["mse", "min_max", "percentile"])
def test_ranges_are_what_the_librarys_observer_chooses(observer: str) -> None:
    model, data = Small(), batches()
    result = quantize_model(
        model, QuantizationConfig(**STATIC), calibration_data=data, observer=observer, percentile=99.0
    )
    assert result.calibration_samples == 4
    assert set(result.config.activations) == {"up", "down"}
    for name in ("up", "down"):
        module = result.model.get_submodule(name)
        ranges = result.config.activations[name]
        for values, found, kept in zip(
            seen(model, name, data),
            (ranges.input, ranges.output),
            (module.input_range, module.output_range),
            strict=True,
        ):
            assert found == _core.observe(values.data_ptr(), values.numel(), observer, 99.0)
            assert tuple(kept.tolist()) == found
            if observer == "min_max":
                assert found == (min(0.0, values.min().item()), values.max().item())
            elif observer == "percentile":
                assert found[1] < values.max().item()


def test_items_are_tensors_tuples_or_dicts() -> None:
    data = batches()
    expected = quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=data).config.activations
    for items in ([(ids,) for ids in data], [[ids] for ids in data], [{"ids": ids} for ids in data], iter(data)):
        result = INT8Quantizer().quantize(Small(), QuantizationConfig(**STATIC), calibration_data=items)
        assert result.config.activations == expected
    loader = DataLoader(torch.cat(data), batch_size=2)  # type: ignore[arg-type]
    assert quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=loader).config.activations == expected
    with pytest.raises(TypeError, match=r"did you mean \[tensor\]"):
        quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=data[0])
    with pytest.raises(TypeError, match="str"):
        quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=["ids"])


def test_layers_called_by_keyword_are_seen() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(input=x)

    x = torch.randn(4, 32)
    result = quantize_model(Keyword(), QuantizationConfig(**STATIC), calibration_data=[x], observer="min_max")
    assert result.config.activations["proj"].input == (x.min().item(), x.max().item())


def test_the_model_runs_in_evaluation_mode_and_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 4))
    model[1].eval()
    check = unchanged(model)
    data = [torch.randn(8, 32) for _ in range(3)]
    results = [quantize_model(model, QuantizationConfig(**STATIC), calibration_data=data) for _ in range(2)]
    check()
    assert [module.training for module in model] == [True, False, True, True]
    assert results[0].config.activations == results[1].config.activations  # no dropout
    assert [module.training for module in results[0].model] == [True, False, True, True]


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = Small()
    check = unchanged(model)
    with pytest.raises(IndexError):
        quantize_model(model, QuantizationConfig(**STATIC), calibration_data=[torch.tensor([[99]])])
    check()


@pytest.mark.parametrize("observer", ["mse", "min_max"])
def test_memory_is_bounded_and_the_ends_are_exact(observer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(20, 40)
    model = Small()
    exact = quantize_model(model, QuantizationConfig(**STATIC), calibration_data=data, observer=observer)
    monkeypatch.setattr(_calibrate, "MAX_VALUES", 5000)
    kept = []
    original = _calibrate.Sample.add

    def add(self: Any, values: Tensor) -> None:
        original(self, values)
        kept.append(sum(part.numel() for part in self._kept))

    monkeypatch.setattr(_calibrate.Sample, "add", add)
    sampled = quantize_model(model, QuantizationConfig(**STATIC), calibration_data=data, observer=observer)
    assert max(kept) <= 5000 < 20 * 2 * 40 * 64
    assert kept[-1] > 1000
    for name, ranges in exact.config.activations.items():
        found = sampled.config.activations[name]
        if observer == "min_max":
            assert found == ranges
        else:
            assert found.output == pytest.approx(ranges.output, rel=0.3)


def test_layers_of_one_input_get_one_range(llada: Llada, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calibrate, "MAX_VALUES", 3000)
    result = quantize_model(llada, QuantizationConfig(**STATIC), calibration_data=[torch.arange(100)[None]] * 3)
    for block in range(4):
        ranges = [
            result.config.activations[f"model.transformer.blocks.{block}.{name}"].input
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        assert ranges[0] == ranges[1] == ranges[2]


def test_static_stays_near_and_differs_from_weight_only() -> None:
    model, data = Small(), batches()
    static = quantize_model(model, QuantizationConfig(**STATIC), calibration_data=data).model
    weight_only = quantize_model(model, QuantizationConfig(dtype="int8")).model
    expected = model(data[0])
    error = (static(data[0]) - expected).norm() / expected.norm()
    assert 0 < error < 0.03
    assert not torch.equal(static(data[0]), weight_only(data[0]))


def test_ranges_come_from_the_config_too() -> None:
    ranges = {"up": {"input": [-3, 3], "output": [-4, 4]}, "down": LayerActivations((-1, 2), (-2, 2))}
    result = quantize_model(Small(), QuantizationConfig(**STATIC, activations=ranges))
    assert result.model.up.output_range.tolist() == [-4, 4]
    assert result.model.down.input_range.tolist() == [-1, 2]
    ranges |= {"sideways": ranges["up"]}
    with pytest.raises(ValueError, match="sideways"):
        quantize_model(Small(), QuantizationConfig(**STATIC, activations=ranges))


def test_static_layers_bring_their_ranges_along() -> None:
    static = quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=batches())
    again = quantize_model(static.model, QuantizationConfig(**STATIC))
    assert again.config.activations == static.config.activations
    assert torch.equal(again.model(batches()[1]), static.model(batches()[1]))
    ranges = {"up": LayerActivations((-9, 9), (-9, 9))}
    other = quantize_model(static.model, QuantizationConfig(**STATIC, activations=ranges)).model
    assert other.up.input_range.tolist() == [-9, 9]
    assert torch.equal(other.down.input_range, static.model.down.input_range)


def test_the_head_of_another_name_has_a_range(llada: Llada) -> None:
    config = QuantizationConfig(**STATIC, head_dtype="int8")
    result = quantize_model(llada, config, calibration_data=[torch.arange(20)[None]])
    head = result.model.get_output_embeddings()
    assert head.mode == "static"
    assert tuple(head.output_range.tolist()) == result.config.activations["model.transformer.ff_out"].output


@pytest.mark.parametrize(
    ("config", "data", "error", "words"),
    [
        (STATIC, None, ValueError, ["up", "calibration_data=", "dynamic"]),
        (STATIC, [], ValueError, ["calibration_data", "empty"]),
        (STATIC | {"dtype": "int4"}, [batches()[0]], diffulex_edge.UnsupportedError, ["up", "INT4", "groups"]),
        ({"dtype": "int8"}, [batches()[0]], ValueError, ["calibration_data", "weight_only"]),
        ({"dtype": "int8", "mode": "dynamic"}, [batches()[0]], ValueError, ["calibration_data", "dynamic"]),
    ],
)
def test_what_makes_no_sense_raises(
    config: dict[str, Any], data: Any, error: type[Exception], words: list[str]
) -> None:
    ran = []
    model = Small()
    model.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(error) as raised:
        quantize_model(model, QuantizationConfig(**config), calibration_data=data)
    for word in words:
        assert word in str(raised.value)
    assert not ran  # what can't be done is said before the model runs


def test_observers_are_checked() -> None:
    for options in ({"observer": "best"}, {"observer": "percentile", "percentile": 0.0}):
        with pytest.raises(ValueError, match=r"best|percentile"):
            quantize_model(Small(), QuantizationConfig(**STATIC), calibration_data=batches(), **options)


def test_a_layer_that_no_data_reaches_is_an_error() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(ValueError, match="unused: no item"):
        quantize_model(Branch(), QuantizationConfig(**STATIC), calibration_data=[torch.randn(2, 32)])


def test_activations_that_are_not_finite_are_an_error() -> None:
    model = Small()
    with torch.no_grad():
        model.embed_tokens.weight[3, 3] = float("inf")
    with pytest.raises(diffulex_edge.BadFileError, match="not finite"):
        quantize_model(model, QuantizationConfig(**STATIC), calibration_data=[torch.tensor([[3]])])
