"""Exports of model folders: files that change meanwhile, callbacks that raise, and errors with their parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from checkpoints import COMMAND
from safetensors import safe_open
from safetensors.numpy import save_file

from diffulex_edge import BadFileError, DiffusionEngine, InvalidArgumentError
from diffulex_edge.backends import BackendConfig, Calibration, CoreMLBackend, XNNPACKBackend
from diffulex_edge.quant import QuantizationConfig

TINY: Final = Path(__file__).resolve().parents[2] / "examples/tiny-llada"


@pytest.mark.parametrize("dtype", ["fp32", "int8", "int4"])
def test_a_checkpoint_that_is_cut_while_it_is_read(dtype: str, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    calls = []

    def cut(done: int, total: int, stage: str) -> None:
        calls.append(stage)
        os.truncate(weights, 10_000)

    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype=dtype)))
    result = backend.export_model(tmp_path / "model", tmp_path / "x.pte", threads=1, progress=cut)
    assert calls
    assert not result.success
    assert isinstance(result.error, BadFileError)
    assert f"{weights}: was cut short" in str(result.error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

    shutil.copyfile(TINY / "model.safetensors", weights)
    assert backend.export_model(tmp_path / "model", tmp_path / "x.pte").success


def test_an_adapter_is_merged_as_the_command_does(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2}))
    name = "model.transformer.blocks.0.q_proj"
    with safe_open(TINY / "model.safetensors", framework="np") as file:
        rows, columns = file.get_slice(f"{name}.weight").get_shape()
    factors = {"A": np.ones((1, columns), np.float32), "B": np.ones((rows, 1), np.float32)}
    save_file(
        {f"base_model.model.{name}.lora_{key}.weight": value for key, value in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    assert XNNPACKBackend().export_model(TINY, tmp_path / "a.pte", adapter=adapter).success
    command = [COMMAND, "export", TINY, "--adapter", adapter, "-o", tmp_path / "b.pte", "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    assert XNNPACKBackend().export_model(TINY, tmp_path / "c.pte").success
    assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()
    assert (tmp_path / "a.pte").read_bytes() != (tmp_path / "c.pte").read_bytes()
    engine = DiffusionEngine.from_model(TINY, adapter=adapter)
    assert engine.generate([1, 2, 3], steps=2, max_new_tokens=2)


def test_what_a_progress_callback_raises_comes_out_unchanged(tmp_path: Path) -> None:
    """It came back as an internal error of the library."""

    def stop(done: int, total: int, stage: str) -> None:
        raise KeyError(stage)

    with pytest.raises(KeyError, match="weights"):
        XNNPACKBackend().export_model(TINY, tmp_path / "x.pte", progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_of_a_folder_has_the_parts_of_its_error(tmp_path: Path) -> None:
    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8", mode="static")))
    result = backend.export_model(TINY, tmp_path / "x.pte")
    assert result.error is not None
    assert result.error.where
    assert str(result.error).startswith(result.error.where)
    assert result.error.advice
    assert result.error.advice in str(result.error)


TEXT: Final = TINY / "calibration.txt"
SHORT: Final = Calibration(TEXT, length=32, sequences=4, observer="min_max")
SHORT_WORDS: Final = [
    "--calibration", str(TEXT), "--calibration-length", "32", "--calibration-sequences", "4", "--observer", "min_max",
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"dtype": "int8", "mode": "static"}, {"dtype": "int4", "method": "gptq"}],
    ids=lambda options: "-".join(options.values()),
)
def test_a_calibrated_folder_is_the_commands(tmp_path: Path, options: dict[str, str]) -> None:
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    command = [str(COMMAND), "export", str(TINY), "-o", str(tmp_path / "command.pte"), "--seq-len", "64"]
    subprocess.run([*command, *words, *SHORT_WORDS], check=True, capture_output=True, timeout=900)
    stages: list[str] = []
    result = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(**options))).export_model(
        TINY, tmp_path / "python.pte", seq_len=64, calibration=SHORT,
        progress=lambda done, total, stage: stages.append(stage),
    )  # fmt: skip
    assert result.success, result.error_message
    assert (tmp_path / "python.pte").read_bytes() == (tmp_path / "command.pte").read_bytes()
    assert {"weights", "rounding" if "method" in options else "calibration"} <= set(stages)
    calibration = result.metadata["calibration"]
    assert calibration["sequences"] == 4 and calibration["masked_tokens"] > 0
    assert len(calibration["rounding"]) == (28 if "method" in options else 0)


def test_a_plan_gives_the_formats(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    command = [str(COMMAND), "plan", str(TINY), "-o", str(plan), "--target-size", "2.5MB", "--formats", "int8,int4_g32"]
    subprocess.run([*command, *SHORT_WORDS[:6]], check=True, capture_output=True, timeout=900)
    result = XNNPACKBackend().export_model(TINY, tmp_path / "x.pte", plan=plan)
    assert result.success, result.error_message
    assert len({layer["format"] for layer in result.metadata["layers"] if layer["role"] == "linear"}) == 2
    both = XNNPACKBackend(BackendConfig(quantize=True)).export_model(TINY, tmp_path / "y.pte", plan=plan)
    assert isinstance(both.error, InvalidArgumentError)
    assert "quant_config" in str(both.error)


def test_lengths_and_keys_are_the_commands(tmp_path: Path) -> None:
    result = CoreMLBackend().export_model(TINY, tmp_path / "m.mlpackage", seq_len="8..64")
    assert result.success, result.error_message
    assert result.metadata["seq_len"] == 64
    short = CoreMLBackend(BackendConfig(max_seq_len=32)).export_model(TINY, tmp_path / "n.mlpackage", seq_len="8..64")
    assert "max_seq_len" in (short.error_message or "")
    model = shutil.copytree(TINY, tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"a_new_key": 1}
    (model / "config.json").write_text(json.dumps(config))
    refused = XNNPACKBackend().export_model(model, tmp_path / "x.pte")
    assert "a_new_key" in (refused.error_message or "")
    result = XNNPACKBackend().export_model(model, tmp_path / "x.pte", ignored_config_keys=["a_new_key"])
    assert result.success, result.error_message


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"calibration": TINY / "nothing.txt"}, ["nothing.txt"]),
        ({"calibration": Calibration("self", percentile=3.0, observer="percentile")}, ["percentile"]),
        ({"calibration": Calibration("self", observer="best")}, ["best"]),
        ({}, ["static", "calibration"]),
    ],
)
def test_calibration_that_can_not_be_is_said(tmp_path: Path, named: dict[str, Any], words: list[str]) -> None:
    backend = XNNPACKBackend(BackendConfig(quant_config=QuantizationConfig(dtype="int8", mode="static")))
    result = backend.export_model(TINY, tmp_path / "x.pte", **named)
    assert result.error is not None
    for word in words:
        assert word in str(result.error)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="length"):
        Calibration("self", length="3")  # type: ignore[arg-type]
