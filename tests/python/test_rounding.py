"""Modules that the library calibrates: rounding by what layers see, and ranges, as from a checkpoint."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import difference, random_ids, run_pte
from checkpoints import COMMAND, TINY
from modules import Llada, Small, unchanged
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import diffulex_edge
from diffulex_edge.backends import BackendConfig, CoreMLBackend, ExportResult, QNNBackend, XNNPACKBackend
from diffulex_edge.quant import INT4Quantizer, QuantizationConfig, QuantizedLinear, quantize_model

LENGTH = 24
STATES = [random_ids(1024, 1, LENGTH, seed=seed) for seed in range(8)]
SEQUENCE = torch.export.Dim("sequence", min=2, max=64)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same token ids as a file, which the command takes as they are."""
    path = tmp_path_factory.mktemp("states") / "states.safetensors"
    save_file({"input_ids_50": torch.cat(STATES)}, path)
    return path


def quantized_checkpoint(states: Path, target: Path, *options: str) -> Path:
    command = [str(COMMAND), "quantize", str(TINY), "-o", str(target), "--calibration", str(states), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    return target


def rotary_tables(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """As the runtime computes them, by the C library's functions; PyTorch's differ in the last bit."""
    library = ctypes.CDLL("libm.so.6")
    frequencies = (10000.0 ** -(torch.arange(0, head_dim, 2).double() / head_dim)).float()
    angles = (torch.arange(positions).float()[:, None] * torch.cat((frequencies, frequencies))).flatten()
    tables = []
    for name in ("cosf", "sinf"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        tables.append(torch.tensor([function(angle) for angle in angles.tolist()]).reshape(positions, head_dim))
    return tables[0], tables[1]


@pytest.fixture
def floats(trained: dict[str, Tensor]) -> Llada:
    """The bundled model in float32, to the bits of the checkpoint's graph."""
    model = Llada()
    model.load_state_dict(trained)
    tables = rotary_tables(128, 64)
    for block in model.model.transformer["blocks"]:
        block.tables = tables
    return model.eval()


# --- The same as from the checkpoint.


@pytest.mark.parametrize("method", ["gptq", "awq", "auto", "mse"])
@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_a_module_gets_the_integers_of_the_checkpoint(
    floats: Llada, states: Path, tmp_path: Path, method: str, dtype: str
) -> None:
    folder = quantized_checkpoint(states, tmp_path / "q", "--dtype", dtype, "--method", method)
    expected = load_file(folder / "model.safetensors")
    check = unchanged(floats)
    result = quantize_model(floats, QuantizationConfig(dtype=dtype, method=method), calibration_data=STATES)
    check()
    made = result.model.state_dict()
    integers = [name for name in expected if f"{name}_scale" in expected]
    assert len(integers) == 28
    for name in integers:
        assert torch.equal(made[name], expected[name]), name
        assert torch.equal(made[f"{name}_scale"], expected[f"{name}_scale"]), name
    for name in set(expected) - {*integers, *(f"{name}_scale" for name in integers)}:
        assert torch.equal(made[name], expected[name].float()), name  # norms, which AWQ changes
    assert result.calibration_samples == len(STATES)
    linear = [layer for layer in result.layers if layer.role == "linear" and layer.dtype == dtype]
    assert len(linear) == 28
    assert all(layer.weight_error is not None and 0.0 < layer.weight_error < 0.3 for layer in linear)
    if method in ("gptq", "mse"):
        assert {layer.method for layer in linear} == {method}


def test_a_module_gets_the_ranges_of_the_checkpoint(floats: Llada, states: Path, tmp_path: Path) -> None:
    options = ("--dtype", "int8", "--mode", "static", "--method", "gptq", "--head-dtype", "int8")
    folder = quantized_checkpoint(states, tmp_path / "q", *options)
    expected = json.loads((folder / "config.json").read_text())["quantization_config"]["activations"]
    config = QuantizationConfig(dtype="int8", mode="static", method="gptq", head_dtype="int8")
    result = quantize_model(floats, config, calibration_data=STATES)
    names = {"attn_out": "o_proj", "ff_proj": "gate_proj", "ff_out": "down_proj"}
    for name, ranges in result.config.activations.items():
        *_, block, own = name.split(".")
        known = "lm_head" if block == "transformer" else f"layers.{block}.{names.get(own, own)}"
        assert list(ranges.input) == expected[known]["input"], name
        if known != "lm_head":  # logits are observed by their extremes where the graph's lengths vary
            assert list(ranges.output) == expected[known]["output"], name
    assert len(result.config.activations) == len(expected) == 29


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int4", "method": "gptq"},
        {"dtype": "int8", "mode": "static", "method": "auto"},
        {"dtype": "int8", "mode": "static"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_an_export_of_the_module_computes_as_that_of_the_checkpoint(
    floats: Llada, states: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    target = tmp_path / "checkpoint.pte"
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    command = [str(COMMAND), "export", str(TINY), "-o", str(target), "--seq-len", "64", "--calibration", str(states)]
    subprocess.run([*command, *words], check=True, capture_output=True, timeout=900)
    exclude = ["norm", "embedding", "transformer.ff_out"]
    config = BackendConfig(quant_config=QuantizationConfig(**options, exclude_layers=exclude))
    stages = []
    made = XNNPACKBackend(config).export(
        floats, (STATES[0],), dynamic_shapes={"ids": {1: SEQUENCE}}, calibration_data=[(ids,) for ids in STATES],
        progress=lambda done, total, stage: stages.append(stage),
    )  # fmt: skip
    assert made.success, made.error_message
    assert made.metadata["calibration"]["sequences"] == len(STATES)
    assert ("rounding" in stages, "calibration" in stages) == ("method" in options, "mode" in options)
    assert len(made.metadata["calibration"]["rounding"]) == (28 if "method" in options else 0)
    assert made.path is None
    (tmp_path / "module.pte").write_bytes(made.buffer)
    assert stored_integers(tmp_path / "module.pte") == stored_integers(target)
    ids = random_ids(1024, 1, LENGTH, seed=99)
    # Rotary tables are stored in one and computed in the other. INT4 in groups rounds its inputs to 8 bits as it runs:
    # a value between two steps may go to the other side, and how many do depends on the processor.
    tolerance = 1e-2 if options["dtype"] == "int4" else 2e-6
    assert difference(run_pte(made, ids), run_pte(target.read_bytes(), ids)) <= tolerance


def stored_integers(program: Path) -> list[str]:
    """Hashes of the integers of a program's 28 quantized layers, whatever they are called."""
    command = [str(COMMAND), "inspect", str(program), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["tensors"]
    hashes = sorted(tensor["sha256"] for tensor in found if tensor["dtype"].startswith(("qb", "qc")))
    assert len(hashes) >= 28
    return hashes


# --- Other modules.


class Mixed(nn.Module):
    """Floats and ids, a layer that runs twice, a norm whose output is used twice, an embedding with a tied layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(40, 64)
        self.twice = nn.Linear(64, 64)
        self.norm = nn.RMSNorm(64, eps=1e-5)
        self.out = nn.Linear(64, 40, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        h = self.twice(torch.tanh(self.twice(x + self.table(ids))))
        n = self.norm(h)
        return self.out(n) + n.sum(-1, keepdim=True)


def mixed_items(count: int = 6, fixed: bool = False) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    lengths = [7 if fixed else 5 + i for i in range(count)]
    return [{"ids": random_ids(40, 1, n, seed=n), "x": torch.randn(1, n, 64)} for n in lengths]


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("method", ["gptq", "awq", "auto"])
def test_layers_that_are_shared_are_rounded_once(method: str, fixed: bool) -> None:
    model = Mixed().eval()
    check = unchanged(model)
    config = QuantizationConfig(dtype="int8", method=method, exclude_layers=[])
    data = mixed_items(fixed=fixed)
    result = quantize_model(model, config, calibration_data=data)
    check()
    assert result.model.out.weight is result.model.table.weight
    assert torch.equal(result.model.norm.weight, model.norm.weight)
    for item in mixed_items():
        assert difference(result.model(**item).detach(), model(**item).detach()) < 0.02


class Gated(nn.Module):
    """A norm before two layers, with columns of very different sizes: what AWQ is for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.norm = nn.RMSNorm(64, eps=1e-5)
        with torch.no_grad():
            self.norm.weight.copy_(torch.exp(0.4 * (torch.arange(64) % 16) - 3.0))
        self.gate, self.up, self.down = nn.Linear(64, 96), nn.Linear(64, 96), nn.Linear(96, 64)
        for layer in (self.gate, self.up):
            nn.init.normal_(layer.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.to(self.norm.weight.dtype))
        return self.down(functional.silu(self.gate(h)) * self.up(h))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_awq_changes_the_norm_with_the_layers(dtype: torch.dtype) -> None:
    model = Gated().to(dtype).eval()
    torch.manual_seed(1)
    data = [torch.randn(16, 64) for _ in range(4)]
    wanted = model(data[0]).detach()
    errors = {}
    for method in ("rtn", "awq"):
        named: dict[str, Any] = {} if method == "rtn" else {"calibration_data": data}
        result = INT4Quantizer().quantize(
            model, QuantizationConfig(dtype="int4", method=method, exclude_layers=[]), **named
        )
        errors[method] = float((result.model(data[0]) - wanted).norm() / wanted.norm())
        assert torch.equal(result.model.norm.weight, model.norm.weight) == (method == "rtn")
        assert result.model.norm.weight.dtype == dtype
        assert all(0.0 < (layer.weight_error or 0.0) < 0.3 for layer in result.layers)
    assert errors["awq"] < errors["rtn"], errors


def test_calibration_beats_rounding_to_nearest(floats: Llada) -> None:
    config = {"dtype": "int4", "group_size": 0}
    text = load_file(TINY / "eval.safetensors")["input_ids_50"]
    data, held_out = list(text[:32, None]), text[40:44, None]
    nearest = quantize_model(floats, QuantizationConfig(**config)).model
    rounded = quantize_model(floats, QuantizationConfig(**config, method="gptq"), calibration_data=data).model
    error = [sum(float((model(ids) - floats(ids)).square().mean()) for ids in held_out) for model in (nearest, rounded)]
    assert error[1] < 0.8 * error[0]


def test_integers_that_are_there_stay() -> None:
    model = Small().eval()
    model.up = QuantizedLinear.from_float(model.up, "int8")
    kept = model.up.weight.clone()
    config = QuantizationConfig(dtype="int8", method="gptq")
    result = quantize_model(model, config, calibration_data=[random_ids(50, 2, 9, seed=seed) for seed in range(4)])
    assert torch.equal(result.model.up.weight, kept)
    assert isinstance(result.model.down, QuantizedLinear)
    errors = {layer.name: layer.weight_error for layer in result.layers}
    assert errors["up"] is None and 0.0 < (errors["down"] or 0.0) < 0.05


def test_a_model_in_training_is_rounded_in_evaluation() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, 32)).train()
    config = QuantizationConfig(dtype="int8", method="gptq")
    results = [quantize_model(model, config, calibration_data=[torch.ones(4, 32)]) for _ in range(2)]
    assert model.training and model[1].training and results[0].model.training
    assert torch.equal(results[0].model[2].weight, results[1].model[2].weight)


# --- What can't be done is said.


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) if x.sum() > 0 else x


class Unused(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


X = torch.randn(4, 32)
GPTQ = {"dtype": "int8", "method": "gptq"}


@pytest.mark.parametrize(
    ("model", "config", "data", "error", "words"),
    [
        (Unused, GPTQ, None, ValueError, ["gptq", "calibration_data=", "rtn"]),
        (Unused, GPTQ, [], ValueError, ["calibration_data", "empty"]),
        (Unused, GPTQ, X, TypeError, ["did you mean"]),
        (Unused, GPTQ, ["x"], TypeError, ["str"]),
        (Unused, GPTQ, [X], ValueError, ["unused", "does not use it"]),
        (Branch, GPTQ, [X], diffulex_edge.UnsupportedError, ["gptq", "graph", "torch.where"]),
        (Unused, GPTQ | {"mode": "static", "dtype": "int4"}, [X], diffulex_edge.UnsupportedError, ["used", "groups"]),
        (Unused, GPTQ, [X, (X, X)], ValueError, ["numbers of inputs"]),
        (Small, GPTQ, [random_ids(50, 2, 4), random_ids(50, 3, 5), random_ids(50, 2, 5)], ValueError, ["one size"]),
        (Small, GPTQ, [torch.tensor([[99]])], ValueError, ["99", "table of 50"]),
        (Small, GPTQ | {"exclude_layers": ["up", "down", "lm_head", "embed"]}, [random_ids(50, 1, 4)], ValueError,
         ["gptq", "no layer gets INT8"]),
    ],
)  # fmt: skip
def test_what_can_not_be_rounded_raises(
    model: type[nn.Module], config: dict[str, Any], data: Any, error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        quantize_model(model().eval(), QuantizationConfig(**config), calibration_data=data)
    for word in words:
        assert word in str(raised.value)


def test_weights_that_are_not_finite_are_named() -> None:
    model = Small().eval()
    with torch.no_grad():
        model.up.bias[3] = 1e38
        model.up.bias *= 10.0
    with pytest.raises(diffulex_edge.BadFileError, match="up"):
        quantize_model(model, QuantizationConfig(**GPTQ), calibration_data=[random_ids(50, 1, 4)])


def failed(result: ExportResult, *words: str) -> None:
    assert not result.success
    for word in words:
        assert word in (result.error_message or "")


@pytest.mark.parametrize(
    ("backend", "config", "words"),
    [
        (XNNPACKBackend, {"backend_options": {"palette": True}}, ["palette"]),
        (CoreMLBackend, {"backend_options": {"precision": "fp8"}}, ["precision"]),
        (QNNBackend, {"backend_options": {"soc": "SM1"}}, ["SM1"]),
        (XNNPACKBackend, {"activation_dtype": "int16"}, ["int16"]),
    ],
)
def test_options_are_refused_before_calibration(
    backend: type[Any], config: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    stages: list[str] = []
    result = backend(BackendConfig(quant_config=QuantizationConfig(**GPTQ), **config)).export(
        Gated().eval(), (torch.randn(4, 64),), path=tmp_path / "out", calibration_data=[torch.randn(4, 64)],
        progress=lambda done, total, stage: stages.append(stage),
    )  # fmt: skip
    failed(result, *words)
    assert not stages
    assert not (tmp_path / "out").exists()


def test_exports_say_what_calibration_needs(tmp_path: Path) -> None:
    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(**GPTQ)))
    model, x = Gated().eval(), torch.randn(4, 64)
    failed(backend.export(model, (x,)), "calibration_data", "method gptq", "rtn")
    failed(backend.export(model, (x,), calibration_data=[]), "calibration_data", "empty")
    failed(backend.export(model, (x,), calibration_data=[torch.randn(5, 64)]), "run 0", "[5, 64]", "[4, 64]")
    failed(backend.export(model, (x,), calibration_data=[()]), "item 0", "0 inputs")
    failed(XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8"))).export(
        model, (x,), calibration_data=[x]), "calibration_data", "mode static", "weight_only", "rtn")  # fmt: skip
    failed(backend.export(model, (x,), calibration_data=[x * float("nan")]), "not finite")
    dry = backend.dry_run(model, (x,))
    made = backend.export(model, (x,), calibration_data=[x], path=tmp_path / "model.pte")
    assert dry.success and made.success, (dry.error_message, made.error_message)
    assert dry.metadata["file_bytes"] == made.metadata["file_bytes"] == (tmp_path / "model.pte").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["model.pte"]
