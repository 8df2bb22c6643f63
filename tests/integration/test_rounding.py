"""Rounding methods against the papers, written in NumPy in the plainest way, and what they do to a trained model.

The library is reached through `round_weight` (tests/tools), which rounds one weight, and through the command.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import COMMAND, PATIENCE, USAGE_ERROR, assert_fails, export, run, run_json
from numpy.typing import NDArray
from program import Program
from quantization import round_to_bf16
from safetensors.torch import load_file, save_file

Floats = NDArray[Any]

TOOL: Final = COMMAND.with_name("round_weight")
ROWS, COLUMNS, TOKENS = 48, 320, 1000
FORMATS: Final = {
    "int4 g32": ("int4", 32),
    "int4 g64": ("int4", 64),
    "int4 per channel": ("int4", 0),
    "int8": ("int8", 0),
}


class Grid:
    """The integers and scales of a format."""

    def __init__(self, dtype: str, group_size: int) -> None:
        self.low, self.high = (-128, 127) if dtype == "int8" else (-8, 7)
        self.dtype, self.group_size = dtype, group_size

    def store(self, scale: float) -> float:
        """The nearest scale that is stored."""
        single = np.array([scale], dtype=np.float32)
        return float(round_to_bf16(single)[0] if self.group_size else single[0])

    def round(self, weights: Floats, scale: float) -> Floats:
        return np.clip(np.rint(weights / scale), self.low, self.high)

    def nearest(self, weights: Floats) -> float:
        if self.dtype == "int8":
            return self.store(np.abs(weights).max() / 127)
        return self.store(max(weights.max() / 7, -weights.min() / 8))


def squared_error(grid: Grid, weights: Floats, scale: float, importance: Floats | float = 1.0) -> float:
    return float((importance * (weights - grid.round(weights, scale) * scale) ** 2).sum())


def hqq_scale(grid: Grid, weights: Floats, p: float = 0.7, beta: float = 10.0, kappa: float = 1.01) -> float:
    """Badri & Shaji 2023, with the zero point fixed at 0: the alternation solves for the scale."""
    nearest = grid.nearest(weights)
    weights = weights / nearest
    scale = best = 1.0
    least = np.inf
    for _ in range(21):
        q = grid.round(weights, scale)
        r = weights - q * scale
        error = (np.abs(r) ** p).sum()
        if error >= least:
            break
        best, least = scale, error
        with np.errstate(divide="ignore"):
            e = np.sign(r) * np.maximum(np.abs(r) - np.abs(r) ** (p - 1) / beta, 0)
        scale = (q * (weights - e)).sum() / (q * q).sum()
        beta *= kappa
    chosen = grid.store(best * nearest)

    def lp_error(scale: float) -> float:
        return float((np.abs(weights - grid.round(weights, scale) * scale) ** p).sum())

    return chosen if lp_error(chosen / nearest) < lp_error(1.0) else nearest


def gptq(grid: Grid, weight: Floats, hessian: Floats, act_order: bool, static_groups: bool) -> tuple[Floats, Floats]:
    """Frantar et al. 2022, column by column, with round-to-nearest scales; integers and scales."""
    weight = weight.astype(np.float64)
    rows, columns = weight.shape
    size = grid.group_size or columns
    scales = np.zeros((rows, columns // size))

    def measure(group: int) -> None:
        for row in range(rows):
            scales[row, group] = grid.nearest(weight[row, group * size : (group + 1) * size].astype(np.float32))

    if static_groups or act_order or not grid.group_size:
        for group in range(columns // size):
            measure(group)
    diagonal = np.diag(hessian).copy()
    h = hessian.astype(np.float64) + np.diag(np.where(diagonal == 0, 1.0, 0.0))
    h[np.diag_indices(columns)] += 0.01 * diagonal.mean() * (diagonal != 0)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(columns)
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    integers = np.zeros((rows, columns))
    for i, column in enumerate(order):
        if not (static_groups or act_order) and grid.group_size and column % size == 0:
            measure(column // size)
        scale = scales[:, column // size]
        integers[:, column] = np.clip(np.rint(weight[:, column] / scale), grid.low, grid.high)
        error = (weight[:, column] - integers[:, column] * scale) / upper[i, i]
        weight[:, order[i:]] -= np.outer(error, upper[i, i:])
    return integers, scales


def awq_scales(grid: Grid, weight: Floats, hessian: Floats, mean_abs: Floats) -> Floats:
    """Lin et al. 2023: mean|x|^alpha, alpha by grid search on the output's error."""
    best, least = np.ones(weight.shape[1]), np.inf
    for step in range(20):
        scales = np.maximum(mean_abs.astype(np.float64) ** (step / 20), 1e-4)
        scales /= np.sqrt(scales.max() * scales.min())
        decoded = decode(*round_nearest(grid, (weight * scales).astype(np.float32))) / scales
        difference = (weight - decoded).astype(np.float64)
        error = ((difference @ hessian) * difference).sum()
        if error < least:
            best, least = scales, error
    return best


def round_nearest(grid: Grid, weight: Floats) -> tuple[Floats, Floats]:
    return round_groups(grid, weight, lambda group, _: grid.nearest(group))


def round_groups(grid: Grid, weight: Floats, find: Any) -> tuple[Floats, Floats]:
    """Integers and scales, with `find(weights, columns)` for each group's scale."""
    rows, columns = weight.shape
    size = grid.group_size or columns
    scales = np.zeros((rows, columns // size))
    integers = np.zeros((rows, columns))
    for row in range(rows):
        for group in range(columns // size):
            part = slice(group * size, (group + 1) * size)
            scales[row, group] = find(weight[row, part], part)
            integers[row, part] = grid.round(weight[row, part], np.float32(scales[row, group]))
    return integers, scales


def decode(integers: Floats, scales: Floats) -> Floats:
    return integers * np.repeat(scales, integers.shape[1] // scales.shape[1], axis=1)


def stored_parts(stored: dict[str, torch.Tensor], name: str) -> tuple[Floats, Floats]:
    """Integers [rows, columns] and scales [rows, groups] of a quantized tensor in a file."""
    values, scales = stored[name], stored[f"{name}_scale"].float().numpy()
    if values.dtype == torch.uint8:
        packed = values.numpy().astype(np.int64)
        integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1) - 8
    else:
        integers = values.numpy().astype(np.int64)
    return integers, scales.reshape(len(integers), -1)


class Layer:
    """A weight and the inputs that it sees: correlated, some channels large, some dead."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(11)
        inputs = rng.normal(size=(TOKENS, 80)) @ rng.normal(size=(80, COLUMNS)) / 9 + rng.normal(size=(TOKENS, COLUMNS))
        inputs *= np.exp(rng.normal(size=COLUMNS))
        inputs[:, [5, 200]] = 0
        self.weight = (0.02 * rng.standard_t(6, size=(ROWS, COLUMNS))).astype(np.float32)
        self.hessian = (inputs.T @ inputs).astype(np.float32)
        self.mean_abs = np.abs(inputs).mean(axis=0).astype(np.float32)
        self._folder = folder
        tensors = {"weight": self.weight, "hessian": self.hessian, "mean_abs": self.mean_abs}
        save_file({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, folder / "layer.safetensors")

    def run(self, grid: Grid, **options: object) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The tool's report and the tensors that it wrote."""
        options |= {"dtype": grid.dtype, "group_size": grid.group_size, "tokens": TOKENS}
        words = [f"{name}={value}" for name, value in options.items()]
        files = [self._folder / "layer.safetensors", self._folder / "rounded.safetensors"]
        result = subprocess.run([TOOL, *files, *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout), load_file(files[1])

    def output_error(self, integers: Floats, scales: Floats) -> float:
        difference = self.weight.astype(np.float64) - decode(integers, scales)
        return float(((difference @ self.hessian) * difference).sum() / TOKENS)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    if not TOOL.is_file():
        pytest.skip(f"{TOOL} is not built")
    return Layer(tmp_path_factory.mktemp("layer"))


def assert_equal_but_for_ties(found: Floats, expected: Floats) -> None:
    """Rounding in another precision may take a tie the other way: by one, and rarely."""
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("weighted", [False, True])
def test_mse_finds_the_scale_of_least_squared_error(name: str, weighted: bool, layer: Layer) -> None:
    grid = Grid(*FORMATS[name])
    importance = np.diag(layer.hessian).astype(np.float64) / TOKENS if weighted else np.ones(COLUMNS)
    _, stored = layer.run(grid, method="mse", weigh_scales=int(weighted))
    integers, scales = stored_parts(stored, "weight")
    size = grid.group_size or COLUMNS
    found_sum = least_sum = 0.0
    for row in range(ROWS):
        for group in range(COLUMNS // size):
            part = slice(group * size, (group + 1) * size)
            weights, factors = layer.weight[row, part].astype(np.float64), importance[part]
            error = squared_error(grid, weights, scales[row, group], factors)
            nearest = grid.nearest(layer.weight[row, part])
            assert error <= squared_error(grid, weights, nearest, factors)
            assert np.abs(integers[row, part] - grid.round(weights, scales[row, group])).max() <= 1
            candidates = {grid.store(nearest * ratio) for ratio in np.linspace(0.5, 1.14, 60)}
            least = min(squared_error(grid, weights, scale, factors) for scale in candidates)
            # Every bfloat16 is tried. No grid finds the least error of a float32 scale in every row.
            assert not grid.group_size or error <= least * 1.0001
            found_sum += error
            least_sum += least
    assert found_sum <= least_sum * 1.02


@pytest.mark.parametrize("name", FORMATS)
def test_hqq_alternates_as_the_paper_does(name: str, layer: Layer) -> None:
    grid = Grid(*FORMATS[name])
    _, stored = layer.run(grid, method="hqq")
    integers, scales = stored_parts(stored, "weight")
    _, expected_scales = round_groups(grid, layer.weight, lambda group, _: hqq_scale(grid, group.astype(np.float64)))
    # The alternation amplifies the last bit where a weight is at a tie: not many groups may end elsewhere.
    same = np.abs(scales / expected_scales - 1) < (1e-9 if grid.group_size else 1e-5)
    assert same.mean() >= 0.97
    assert_equal_but_for_ties(integers, round_groups(grid, layer.weight, scale_of(grid, scales))[0])
    assert (scales != round_nearest(grid, layer.weight)[1]).mean() > 0.3


def scale_of(grid: Grid, scales: Floats) -> Any:
    """A `find` for round_groups that hands out known scales in order."""
    remaining = iter(scales.reshape(-1))
    return lambda group, _: next(remaining)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("order", ["plain", "static_groups", "act_order"])
def test_gptq_is_the_papers(name: str, order: str, layer: Layer) -> None:
    grid = Grid(*FORMATS[name])
    options = {} if order == "plain" else {order: 1}
    report, stored = layer.run(grid, method="gptq", scale_method="rtn", **options)
    integers, scales = stored_parts(stored, "weight")
    expected, expected_scales = gptq(grid, layer.weight, layer.hessian, order == "act_order", order == "static_groups")
    assert not report["fell_back"]
    assert report["output_error"] == pytest.approx(layer.output_error(integers, scales), rel=1e-3)
    assert report["output_error"] == pytest.approx(layer.output_error(expected, expected_scales), rel=2e-2)
    nearest = layer.output_error(*round_nearest(grid, layer.weight))
    assert report["output_error"] < 0.7 * nearest
    # A tie that falls the other way changes what later columns of its row make up for: rows that agree agree wholly.
    assert (scales == expected_scales).mean() > 0.98
    assert (integers == expected).all(axis=1).mean() > 0.75


@pytest.mark.parametrize("name", FORMATS)
def test_awq_scales_are_the_papers(name: str, layer: Layer) -> None:
    grid = Grid(*FORMATS[name])
    report, stored = layer.run(grid, method="awq")
    expected = awq_scales(grid, layer.weight, layer.hessian, layer.mean_abs)
    assert np.allclose(stored["scales"].numpy(), expected, rtol=1e-5)
    assert report["output_error"] < report["unscaled_error"]


@pytest.mark.parametrize("name", FORMATS)
def test_auto_is_best(name: str, layer: Layer) -> None:
    grid = Grid(*FORMATS[name])
    errors = {method: layer.run(grid, method=method)[0]["output_error"] for method in ("rtn", "mse", "hqq", "gptq")}
    report, _ = layer.run(grid, method="auto")
    assert report["output_error"] <= min(errors.values())
    assert report["method"] == "gptq"


def weight_errors(original: Path, quantized: Path, p: float) -> float:
    """Mean of |w - decoded|^p over the quantized weights of a checkpoint."""
    weights, stored = load_file(original / "model.safetensors"), load_file(quantized / "model.safetensors")
    total, count = 0.0, 0
    for name in stored:
        if f"{name}_scale" in stored:
            difference = weights[name].double().numpy() - decode(*stored_parts(stored, name))
            total += float((np.abs(difference) ** p).sum())
            count += difference.size
    return total / count


@pytest.mark.parametrize("name", FORMATS)
def test_quantize_lowers_the_error_of_the_weights(name: str, tiny: Path, tmp_path: Path) -> None:
    dtype, group_size = FORMATS[name]
    sizes = []
    for method in ("rtn", "mse", "hqq"):
        options = ["--dtype", dtype, "--method", method] + (["--group-size", group_size] if dtype == "int4" else [])
        report = run_json("quantize", tiny, "-o", tmp_path / method, *options)
        sizes.append(report["file_bytes"])
        note = json.loads((tmp_path / method / "config.json").read_text())["quantization_config"]
        assert note["method"] == method
        assert {layer["method"] for layer in report["layers"] if layer["dtype"] == dtype} == {method}
    assert len(set(sizes)) == 1
    assert weight_errors(tiny, tmp_path / "mse", 2.0) < 0.96 * weight_errors(tiny, tmp_path / "rtn", 2.0)
    assert weight_errors(tiny, tmp_path / "hqq", 0.7) < 0.995 * weight_errors(tiny, tmp_path / "rtn", 0.7)


def masked_loss(program: Program, tiny: Path) -> float:
    """Mean loss in nats over the masked half of some evaluation sequences."""
    data = load_file(tiny / "eval.safetensors")
    total, count = 0.0, 0
    for ids, targets in list(zip(data["input_ids_50"], data["target_ids_50"], strict=True))[:24]:
        logits = program.logits(ids)
        total += float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
        count += int((targets != -100).sum())
    return total / count


@pytest.mark.parametrize("method", ["mse", "hqq"])
def test_exports_keep_size_and_loss_and_do_not_depend_on_threads(method: str, tiny: Path, tmp_path: Path) -> None:
    options = ("--dtype", "int4", "--seq-len", 128)
    rtn = export(tiny, tmp_path / "rtn.pte", *options)
    one = export(tiny, tmp_path / "one.pte", *options, "--method", method, "--threads", 1)
    export(tiny, tmp_path / "two.pte", *options, "--method", method, "--threads", 2)
    assert (tmp_path / "one.pte").read_bytes() == (tmp_path / "two.pte").read_bytes()
    assert (tmp_path / "one.pte").read_bytes() != (tmp_path / "rtn.pte").read_bytes()
    assert one["file_bytes"] == rtn["file_bytes"]
    export(tiny, tmp_path / "fp32.pte", "--seq-len", 128)
    exact, loss = (masked_loss(Program(tmp_path / name), tiny) for name in ("fp32.pte", "one.pte"))
    assert loss < exact + 0.08


def test_export_of_a_searched_checkpoint_equals_the_direct_export(tiny: Path, tmp_path: Path) -> None:
    options = ("--dtype", "int4", "--method", "mse")
    run_json("quantize", tiny, "-o", tmp_path / "q", *options)
    export(tiny, tmp_path / "direct.pte", *options)
    export(tmp_path / "q", tmp_path / "again.pte")
    assert (tmp_path / "again.pte").read_bytes() == (tmp_path / "direct.pte").read_bytes()


@pytest.mark.parametrize("method", ["gptq", "awq", "auto"])
def test_methods_that_need_calibration_say_so(method: str, tiny: Path, tmp_path: Path) -> None:
    result = run("quantize", tiny, "-o", tmp_path / "q", "--dtype", "int4", "--method", method)
    assert_fails(result, USAGE_ERROR, f"method {method}", "--calibration")
    assert not list(tmp_path.iterdir())
