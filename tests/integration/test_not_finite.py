"""Numbers that are not finite, in weights, stored scales and what a model computes: every command says where."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest
import torch
from command import BAD_FILE, assert_fails, run
from evaluation_data import cut
from safetensors.torch import load_file, save_file

NOT_FINITE: Final = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """The bundled model, to be broken."""
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """Two sequences of one of its evaluation sets."""
    return cut(tiny / "eval.safetensors", tmp_path / "data.safetensors", 2, sets=["50"])


def names_of(folder: Path) -> dict[str, str]:
    """A tensor for each kind: the names in the checkpoint."""
    names = list(load_file(folder / "model.safetensors"))

    def first(*parts: str) -> str:
        return next(name for part in parts for name in names if name.endswith(part + ".weight"))

    return {
        "linear": first("ff_out", "down_proj"),
        "norm": first("attn_norm", "input_layernorm"),
        "final norm": first("ln_f", "model.norm"),
        "embedding": first("wte", "embed_tokens"),
    }


def damage(folder: Path, name: str, value: float) -> None:
    """Every element, so that any token that reads a row meets one."""
    weights = load_file(folder / "model.safetensors")
    broken = weights[name].clone()
    broken[...] = value
    save_file(weights | {name: broken}, folder / "model.safetensors", metadata={"format": "pt"})


COMMANDS: Final[dict[str, tuple[object, ...]]] = {
    "evaluate": ("evaluate", "{model}", "--data", "{data}"),
    "evaluate fast": ("evaluate", "{model}", "--data", "{data}", "--arithmetic", "fast"),
    "evaluate int4": ("evaluate", "{model}", "--data", "{data}", "--dtype", "int4"),
    "evaluate int4 fast": ("evaluate", "{model}", "--data", "{data}", "--dtype", "int4", "--arithmetic", "fast"),
    "evaluate static": ("evaluate", "{model}", "--data", "{data}", "--dtype", "int8", "--mode", "static"),
    "evaluate gptq": ("evaluate", "{model}", "--data", "{data}", "--dtype", "int4", "--method", "gptq"),
    "generate": ("generate", "{model}", "--prompt", "In the beginning", "--max-new-tokens", "4"),
    "generate int4": ("generate", "{model}", "--prompt", "In the beginning", "--dtype", "int4"),
    "plan": ("plan", "{model}", "-o", "{out}", "--max-loss", "0.1"),
    "quantize": ("quantize", "{model}", "-o", "{out}", "--dtype", "int8"),
    "quantize static": ("quantize", "{model}", "-o", "{out}", "--dtype", "int8", "--mode", "static"),
    "quantize awq": ("quantize", "{model}", "-o", "{out}", "--dtype", "int4", "--method", "awq"),
    "export": ("export", "{model}", "-o", "{out}.pte", "--dtype", "int8"),
    "export static": ("export", "{model}", "-o", "{out}.pte", "--dtype", "int8", "--mode", "static"),
    "export coreml": ("export", "{model}", "-o", "{out}.mlpackage", "--backend", "coreml"),
}
CALIBRATED: Final = ("static", "gptq", "awq", "plan")


def arguments(name: str, model: Path, data: Path) -> list[str]:
    """The command line: calibration by a few short sequences where it needs one."""
    places = {"model": model, "data": data, "out": model.parent / "out" / "x"}
    words = [str(word).format(**places) for word in COMMANDS[name]]
    if name.split()[-1] in CALIBRATED:
        words += ["--calibration", str(model / "calibration.txt"), "--calibration-sequences", "4"]
        words += ["--calibration-length", "32"]
    return [*words, "--quiet"]


@pytest.mark.parametrize("kind", ["linear", "norm", "final norm", "embedding"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_tensor(name: str, kind: str, model: Path, data: Path) -> None:
    tensor = names_of(model)[kind]
    (model.parent / "out").mkdir()
    damage(model, tensor, NOT_FINITE[len(name + kind) % 3])
    result = run(*arguments(name, model, data))
    assert_fails(result, BAD_FILE, "model.safetensors", tensor, "is not finite")
    assert result.stdout == ""
    assert not list((model.parent / "out").iterdir())


@pytest.mark.parametrize("value", [*NOT_FINITE, 0.0, -1.0, 1e-42], ids=str)
@pytest.mark.parametrize("stored", ["int8", "int4"])
def test_stored_scale_is_checked_by_every_command(stored: str, value: float, model: Path, data: Path) -> None:
    quantized = model.parent / "quantized"
    assert run("quantize", model, "-o", quantized, "--dtype", stored).returncode == 0
    scales = names_of(model)["linear"] + "_scale"
    weights = load_file(quantized / "model.safetensors")
    weights[scales].view(-1)[5] = value
    save_file(weights, quantized / "model.safetensors", metadata={"format": "pt"})
    (model.parent / "out").mkdir()
    for words in (
        ("evaluate", quantized, "--data", data),
        ("evaluate", quantized, "--data", data, "--arithmetic", "fast"),
        ("evaluate", model, "--data", data, "--against", quantized),
        ("quantize", quantized, "-o", model.parent / "out/x"),
        ("export", quantized, "-o", model.parent / "out/x.pte"),
    ):
        result = run(*words)
        assert_fails(result, BAD_FILE, "model.safetensors", scales, "scale 5", "is not a positive, normal number")
        assert not list((model.parent / "out").iterdir())


@pytest.mark.parametrize("arithmetic", ["simulated", "fast"])
def test_first_operator_that_overflows_is_named(arithmetic: str, model: Path, data: Path) -> None:
    """Finite weights whose products are not: the loss was NaN, and the exit code 0."""
    weights = load_file(model / "model.safetensors")
    linear = names_of(model)["linear"]
    weights[linear] = torch.full_like(weights[linear].float(), 3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = run("evaluate", model, "--data", data, "--arithmetic", arithmetic)
    assert_fails(result, BAD_FILE, "'layers.0.down_proj' (linear) gives", "of sequence 0", "not finite")
    assert result.stdout == ""
    plan = ("--max-loss", "0.1", "--calibration", model / "calibration.txt", "--calibration-sequences", "2")
    result = run("plan", model, "-o", model.parent / "plan.json", *plan)
    assert_fails(result, BAD_FILE, "'layers.0.down_proj' (linear) gives", "not finite")
    assert not (model.parent / "plan.json").exists()
    result = run("generate", model, "--prompt", "In the beginning", "--quiet")
    assert_fails(result, BAD_FILE, "position", "logits are not finite", "evaluate")


def test_logits_that_overflow_are_named(model: Path, data: Path) -> None:
    weights = load_file(model / "model.safetensors")
    norm = names_of(model)["final norm"]
    weights[norm] = torch.full_like(weights[norm].float(), 3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = run("evaluate", model, "--data", data)
    assert_fails(result, BAD_FILE, "not finite")
    assert "lm_head" in result.stderr or "norm" in result.stderr


def test_unquantized_tensors_go_into_a_checkpoint_byte_for_byte(model: Path) -> None:
    """They go through the check, and stay what they are."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weights = {name: tensor.to(dtype) for name, tensor in load_file(model / "model.safetensors").items()}
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        target = model.parent / str(dtype)
        assert run("quantize", model, "-o", target, "--dtype", "int8").returncode == 0
        stored = load_file(target / "model.safetensors")
        kept = [name for name in weights if name + "_scale" not in stored]
        assert kept
        for name in kept:
            assert stored[name].dtype == dtype
            assert torch.equal(stored[name].view(torch.uint8), weights[name].view(torch.uint8))
