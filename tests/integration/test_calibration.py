"""Calibration: static activations and the rounding methods that look at a layer's input, through the command."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, COMMAND, PATIENCE, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES
from program import Program, random_ids
from safetensors.torch import load_file
from test_formats import relative_error
from test_runtime import forward

METHODS: Final = ("gptq", "awq", "auto")


@pytest.fixture(scope="session")
def ids_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids for the small random models: 12 sequences of 40, as NumPy has them."""
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    np.save(path, random_ids(12 * 40, 1000).reshape(12, 40).numpy())
    return path


def mask_option(family: str) -> tuple[object, ...]:
    """What the families whose config.json does not name the mask token need where there is no tokenizer."""
    return ("--mask-token-id", 1000) if family in ("sdar", "fast_dllm_v2") else ()


def losses(tiny: Path, data: Path, *options: object) -> dict[str, Any]:
    """The losses of the bundled model, quantized by `options` with its own calibration text."""
    calibration = ("--calibration", tiny / "calibration.txt", "--calibration-length", 128)
    return run_json("evaluate", tiny, "--data", data, *calibration, *options)


@pytest.mark.parametrize(("observer", "limit"), [("min_max", 0.05), ("percentile", 0.025), ("mse", 0.025)])
def test_static_int8_costs_the_bundled_model_little(observer: str, limit: float, tiny: Path, few: Path) -> None:
    report = losses(tiny, few, "--dtype", "int8", "--mode", "static", "--observer", observer)
    for ratio in ("15", "50", "90"):
        assert abs(report["loss_increase"][ratio]) < limit
    layers = report["calibration"]["activations"]
    assert len(layers) == 4 * 7
    for layer in layers:
        assert layer["masked"]["max"] > 0 > layer["masked"]["min"]
        assert layer["input"][0] <= 0 <= layer["input"][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_static_program_computes_what_the_runtime_simulates(
    family: str, checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path
) -> None:
    model = checkpoint(family)
    static = ("--dtype", "int8", "--mode", "static", "--calibration", ids_file, *mask_option(family))
    report = export(model, tmp_path / "model.pte", *static, "--seq-len", 100)
    assert {layer["kernel"] for layer in report["layers"] if layer["dtype"] == "int8"} == {"qs8 x qc8w"}
    run_json("quantize", model, "-o", tmp_path / "static", *static)
    program = Program(tmp_path / "model.pte")
    sequences = [random_ids(length, 1000).flatten().tolist() for length in (5, 37)]
    for ids, logits in zip(sequences, forward(tmp_path / "static", sequences), strict=True):
        # A value half-way between two of 255 steps may round either way.
        assert relative_error(logits, program.logits(ids)) < 3e-2
    export(tmp_path / "static", tmp_path / "again.pte", "--seq-len", 100, *mask_option(family))
    assert (tmp_path / "again.pte").read_bytes() == (tmp_path / "model.pte").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_rounding_is_no_worse_than_the_nearest(method: str, tiny: Path, few: Path) -> None:
    report = losses(tiny, few, "--dtype", "int4", "--method", method)
    rounding = report["calibration"]["rounding"]
    assert len(rounding) == 4 * 7
    for layer in rounding:
        assert layer["error"] <= layer["nearest_error"] * (1.0 if method == "auto" else 1.5), layer["layer"]
    assert sum(layer["error"] for layer in rounding) < sum(layer["nearest_error"] for layer in rounding)
    for ratio in ("15", "50", "90"):
        assert report["loss_increase"][ratio] < 0.02
    scaled = [layer["layer"] for layer in rounding if layer["awq_scaled"]]
    assert method != "gptq" or not scaled
    assert all(layer.rsplit(".", 1)[1] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") for layer in scaled)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_rounded_programs_run(
    family: str, method: str, checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path
) -> None:
    model = checkpoint(family)
    options = ("--dtype", "int4", "--method", method, "--calibration", ids_file, *mask_option(family))
    report = export(model, tmp_path / "model.pte", *options, "--seq-len", 64)
    nearest = export(model, tmp_path / "rtn.pte", "--dtype", "int4", "--seq-len", 64, *mask_option(family))
    assert report["file_bytes"] == nearest["file_bytes"]
    assert not list(tmp_path.glob(".*"))  # nothing of the work in between stays
    run_json("quantize", model, "-o", tmp_path / "int4", *options)
    ids = random_ids(37, 1000).flatten().tolist()
    (logits,) = forward(tmp_path / "int4", [ids])
    assert relative_error(logits, Program(tmp_path / "model.pte").logits(ids)) < 2e-2
    config = json.loads((tmp_path / "int4/config.json").read_text())["quantization_config"]
    assert config["method"] == method


@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_a_model_calibrates_itself(method: str, tiny: Path, few: Path) -> None:
    own = ("--calibration", "self", "--calibration-sequences", 16, "--calibration-length", 128)
    report = run_json("evaluate", tiny, "--data", few, "--dtype", "int4", "--method", method, *own)
    rounding = report["calibration"]["rounding"]
    assert {layer["method"] for layer in rounding} == {method}
    assert sum(layer["error"] for layer in rounding) < sum(layer["nearest_error"] for layer in rounding)
    for ratio in ("15", "50", "90"):
        assert report["loss_increase"][ratio] < 0.02


def test_mse_with_data_weighs_what_matters(tiny: Path, few: Path) -> None:
    """Its errors are those of the layer's output; without data they are those of the weights."""
    text = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 16)
    reports = {
        data: run_json("evaluate", tiny, "--data", few, "--dtype", "int4", "--method", "mse", *data)
        for data in ((), text)
    }
    assert "calibration" not in reports[()]
    assert reports[()]["loss"] != reports[text]["loss"]


def test_hqq_has_no_use_for_data(tiny: Path, tmp_path: Path) -> None:
    result = run("quantize", tiny, "-o", tmp_path / "q", "--dtype", "int4", "--method", "hqq", "--calibration", "self")
    assert_fails(result, USAGE_ERROR, "nothing here needs it")


def test_awq_changes_norms_and_nothing_that_the_model_computes(
    checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path
) -> None:
    """With weights that INT8 hardly rounds, the scaled model is the model."""
    model = checkpoint("llama")
    run_json("quantize", model, "-o", tmp_path / "awq", "--dtype", "int8", "--method", "awq", "--calibration", ids_file)
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "awq/model.safetensors")
    norms = [name for name in before if "layernorm" in name]
    assert any(not torch.equal(before[name].float(), after[name]) for name in norms)
    ids = random_ids(20, 1000).flatten().tolist()
    (expected,), (logits,) = forward(model, [ids]), forward(tmp_path / "awq", [ids])
    assert relative_error(logits, expected) < 2e-2


def test_results_do_not_depend_on_threads(checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path) -> None:
    for method, data in (("gptq", ids_file), ("auto", ids_file), ("mse", "self")):
        for threads in (1, 2):
            options = ("--dtype", "int4", "--method", method, "--calibration", data, "--threads", threads)
            run_json("quantize", checkpoint("qwen3"), "-o", tmp_path / f"{method}{threads}", *options)
        one, two = (tmp_path / f"{method}{threads}/model.safetensors" for threads in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_mask_weight_and_seed_change_what_is_seen(tiny: Path, few: Path) -> None:
    def total_error(*options: object) -> float:
        report = losses(tiny, few, "--dtype", "int4", "--method", "gptq", "--calibration-sequences", 8, *options)
        return float(sum(layer["error"] for layer in report["calibration"]["rounding"]))

    plain = total_error()
    assert plain == total_error("--seed", 0)
    assert plain != total_error("--seed", 1)
    assert plain != total_error("--mask-weight", 5)


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_an_interrupted_calibration_leaves_nothing(command: str, large: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.npy"
    np.save(ids, random_ids(64 * 128, 1000).reshape(64, 128).numpy())
    folder = tmp_path / "work"
    folder.mkdir()
    options = ("--dtype", "int4", "--method", "auto", "--calibration", ids)
    words = [str(COMMAND), command, str(large), "-o", str(folder / "output"), *map(str, options)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.iterdir()), "the work in between has not begun"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "diffulex-edge: stopped, nothing was written"
    assert not list(folder.iterdir())


def test_calibration_data_must_fit(tiny: Path, tmp_path: Path) -> None:
    def refuse(name: str, content: bytes, *words: str) -> None:
        file = tmp_path / name
        file.write_bytes(content)
        options = ("--dtype", "int4", "--method", "gptq", "--calibration", file)
        assert_fails(run("export", tiny, "-o", tmp_path / "model.pte", *options), BAD_FILE, name, *words)
        assert not (tmp_path / "model.pte").exists()

    refuse("empty.txt", b"")
    refuse("one.txt", b"a")
    refuse("binary.txt", bytes(range(256)) * 10)
    refuse("broken.jsonl", b'{"text": "a b c"}\n{"text"')
    refuse("foreign.jsonl", json.dumps({"input_ids": [1, 2, 5000]}).encode(), "5000")
    refuse("long.jsonl", json.dumps({"input_ids": [5] * 5000}).encode())
    refuse("cut.npy", b"\x93NUMPY\x01\x00")


def test_calibration_is_asked_for_where_it_is_needed(tiny: Path, tmp_path: Path) -> None:
    for options in (("--dtype", "int8", "--mode", "static"), ("--dtype", "int4", "--method", "auto")):
        result = run("export", tiny, "-o", tmp_path / "model.pte", *options)
        assert_fails(result, USAGE_ERROR, "--calibration")


def test_calibration_that_nothing_needs_is_refused(tiny: Path, tmp_path: Path) -> None:
    options = ("--dtype", "int4", "--calibration", tiny / "calibration.txt")
    assert_fails(run("export", tiny, "-o", tmp_path / "model.pte", *options), USAGE_ERROR, "--calibration")


def test_sizes_need_no_calibration(tiny: Path, tmp_path: Path) -> None:
    options = ("--dtype", "int4", "--method", "auto", "--dry-run")
    predicted = export(tiny, tmp_path / "model.pte", *options)["file_bytes"]
    assert predicted == export(tiny, tmp_path / "model.pte", "--dtype", "int4")["file_bytes"]


def test_mask_token_is_found_or_asked_for(checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path) -> None:
    model = checkpoint("sdar")
    options = ("--dtype", "int8", "--mode", "static", "--calibration", ids_file)
    target = ("-o", tmp_path / "model.pte")
    assert_fails(run("export", model, *target, *options), USAGE_ERROR, "--mask-token-id")
    assert_fails(run("export", model, *target, *options, "--mask-token-id", 5000), USAGE_ERROR, "5000")


def test_text_is_masked_at_several_ratios(tiny: Path) -> None:
    size = ("--length", 128, "--sequences", 16)
    text = run_json("evaluate", tiny, "--data", tiny / "calibration.txt", *size)
    assert list(text["loss"]) == ["15", "50", "90", "bound"]
    assert text["loss"]["15"] < text["loss"]["50"] < text["loss"]["90"]
    assert text["loss"]["15"] < text["loss"]["bound"] < text["loss"]["90"]
    again = run_json("evaluate", tiny, "--data", tiny / "calibration.txt", *size)
    assert again["loss"] == text["loss"]
    other = run_json("evaluate", tiny, "--data", tiny / "calibration.txt", *size, "--seed", 1)
    assert other["loss"] != text["loss"]
