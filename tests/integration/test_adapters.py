"""LoRA adapters that peft writes, merged while the model is read: the weights are those of peft's own merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, assert_fails, run, run_json
from families import make_checkpoint, make_config, make_weights, write_checkpoint
from peft import LoraConfig, get_peft_model
from prequantized import Gptq, quantized
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

SIZES: Final = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 128}
LINEAR: Final = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]

ADAPTERS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"target_modules": LINEAR},
    "all-linear-rank-stabilized": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 16},
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "ranks-and-alphas": {
        "target_modules": LINEAR,
        "rank_pattern": {"up_proj": 2, "layers.1.self_attn.q_proj": 9},
        "alpha_pattern": {"self_attn.q_proj": 3, "layers.1.mlp.down_proj": 40},
    },
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head-saved-whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "biases": {"target_modules": ["q_proj", "down_proj"], "bias": "all"},
}


def write_adapter(folder: Path, base: Path, **options: Any) -> tuple[Path, dict[str, Tensor]]:
    """An adapter with random factors, and the weights that peft merges it to."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 6} | options)))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            scale = 1 if "magnitude" in name else 0.2
            parameter.data += scale * torch.rand_like(parameter) if scale == 1 else scale * torch.randn_like(parameter)
    tuned.save_pretrained(folder)
    return folder, tuned.merge_and_unload().state_dict()


def weights_of(model: Path, folder: Path, *options: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    report = run_json("quantize", model, "-o", folder, "--dtype", "fp32", *options)
    return load_file(folder / "model.safetensors"), report


@pytest.mark.parametrize("kind", ADAPTERS)
def test_weights_are_those_that_peft_merges(kind: str, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "qwen2" if kind == "biases" else "llama", **SIZES)
    adapter, merged = write_adapter(tmp_path / "adapter", base, **ADAPTERS[kind])
    written, report = weights_of(adapter, tmp_path / "written")
    original = load_file(base / "model.safetensors")
    assert set(written) == set(original)
    for name, weight in written.items():
        torch.testing.assert_close(weight, merged[name], rtol=1e-6, atol=1e-6, msg=name)
    assert sum(not torch.equal(written[name], original[name]) for name in written) >= 2
    assert any("merged while weights are read" in warning for warning in report["warnings"])


def test_an_adapter_may_be_named_beside_its_model(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "llama", **SIZES)
    adapter, _ = write_adapter(tmp_path / "adapter", base, target_modules=LINEAR)
    expected, _ = weights_of(adapter, tmp_path / "by-name")
    base.rename(tmp_path / "elsewhere")
    assert_fails(run("inspect", adapter), BAD_FILE, "adapter_config.json", "base", "which is not there", "--adapter")
    written, _ = weights_of(tmp_path / "elsewhere", tmp_path / "by-option", "--adapter", adapter)
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_an_export_is_that_of_the_merged_checkpoint(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "llama", dtype="bfloat16", **SIZES)
    adapter, _ = write_adapter(tmp_path / "adapter", base, target_modules=LINEAR)
    weights_of(adapter, tmp_path / "merged")
    for options in (("--dtype", "int4"), ("--dtype", "int8", "--mode", "dynamic")):
        run_json("export", adapter, "-o", tmp_path / "a.pte", *options)
        run_json("export", tmp_path / "merged", "-o", tmp_path / "b.pte", *options)
        assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()


def test_a_quantized_model_keeps_its_values_beneath_an_adapter(tmp_path: Path) -> None:
    config = make_config("llama", **SIZES)
    packed, plain = quantized(make_weights(config), Gptq(), lambda name: name.endswith("_proj.weight"))
    base = write_checkpoint(tmp_path / "base", config, plain)
    adapter, _ = write_adapter(tmp_path / "adapter", base, target_modules=LINEAR)
    expected, _ = weights_of(adapter, tmp_path / "plain")
    quantized_base = write_checkpoint(tmp_path / "packed", config | {"quantization_config": Gptq().config()}, packed)
    written, report = weights_of(quantized_base, tmp_path / "written", "--adapter", adapter)
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert any("GPTQ" in warning for warning in report["warnings"])


def test_inspect_shows_what_is_added(of_q_proj: Path) -> None:
    types = {tensor["name"]: tensor["dtype"] for tensor in run_json("inspect", of_q_proj)["tensors"]}
    assert types["model.layers.0.self_attn.q_proj.weight"] == "BF16 with LoRA of rank 4"
    assert types["model.layers.0.self_attn.k_proj.weight"] == "BF16"


def test_the_adapter_is_part_of_the_model_that_a_report_names(of_q_proj: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(of_q_proj, tmp_path / "adapter"))
    run_json("export", adapter, "-o", tmp_path / "a.pte", "--report", tmp_path / "report.html")
    assert "adapter_model.safetensors" in (tmp_path / "report.html").read_text()
    assert_fails(
        run("export", adapter, "-o", adapter / "adapter_model.safetensors"), 2, "is a file of the model itself"
    )


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | changes))

    return change


def change_tensor(ending: str, value: Tensor | None, name: str | None = None) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors")
        old = next(key for key in tensors if key.endswith(ending))
        del tensors[old]
        if value is not None:
            tensors[name or old] = value
        save_file(tensors, adapter / "adapter_model.safetensors")

    return change


def add_tensor(name: str) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors") | {name: torch.zeros(4)}
        save_file(tensors, adapter / "adapter_model.safetensors")

    return change


@pytest.fixture(scope="module")
def of_q_proj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    base = make_checkpoint(folder / "base", "llama", dtype="bfloat16", **SIZES)
    return write_adapter(folder / "adapter", base, target_modules=["q_proj"])[0]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (change_config(peft_type="IA3"), UNSUPPORTED, ["'peft_type'", "IA3", "merge_and_unload"]),
        (change_config(init_lora_weights="pissa_niter_4"), UNSUPPORTED, ["pissa_niter_4", "merge it first"]),
        (change_config(fan_in_fan_out=True), UNSUPPORTED, ["'fan_in_fan_out'"]),
        (change_config(use_newer_method=True), UNSUPPORTED, ["'use_newer_method'", "--ignore-config-key"]),
        (change_config(alpha_pattern={"q_proj|v_proj": 3}), UNSUPPORTED, ["q_proj|v_proj", "names of modules"]),
        (change_config(lora_alpha="high"), BAD_FILE, ["'lora_alpha'", "not a finite number"]),
        (change_config(base_model_name_or_path=None), BAD_FILE, ["does not say of which model", "--adapter"]),
        (change_config(base_model_name_or_path="some-org/none"), BAD_FILE, ["some-org/none", "hf download"]),
        (change_tensor("q_proj.lora_B.weight", None), BAD_FILE, ["no tensor", "q_proj.lora_B.weight"]),
        (change_tensor("q_proj.lora_B.weight", torch.zeros(96, 5)), BAD_FILE, ["q_proj.lora_B.weight", "[96, 5]"]),
        (change_tensor("q_proj.lora_A.weight", torch.zeros(4, 95)), BAD_FILE, ["q_proj.lora_A.weight", "[4, 95]"]),
        (change_tensor("q_proj.lora_A.weight", torch.zeros(0, 96)), BAD_FILE, ["q_proj.lora_A.weight", "not a matrix"]),
        (
            change_tensor("q_proj.lora_A.weight", torch.zeros(4, 96), "base_model.model.z.q_proj.lora_A.weight"),
            BAD_FILE,
            ["no tensor", "z.q_proj.lora_B.weight"],
        ),
        (change_tensor("q_proj.lora_A.weight", None), BAD_FILE, ["q_proj.lora_B.weight", "no lora_A.weight"]),
        (add_tensor("base_model.model.x.lora_ga.weight"), UNSUPPORTED, ["x.lora_ga.weight", "a kind of adapter"]),
        (add_tensor("model.norm.weight"), BAD_FILE, ["model.norm.weight", "base_model.model."]),
        (add_tensor("base_model.model.x.weight"), BAD_FILE, ["'x.weight'", "does not have"]),
    ],
)
def test_what_cannot_be_merged_says_why(
    change: Callable[[Path], None], code: int, words: list[str], of_q_proj: Path, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(of_q_proj, tmp_path / "adapter"))
    change(adapter)
    assert_fails(run("export", adapter, "-o", tmp_path / "a.pte"), code, *words)
    assert not (tmp_path / "a.pte").exists()


def test_a_tied_embedding_and_quantized_integers_are_not_changed(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "llama", tie_word_embeddings=True, **SIZES)
    adapter, _ = write_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens"])
    assert_fails(run("inspect", adapter), UNSUPPORTED, "embed_tokens", "one table")
    run_json("quantize", base, "-o", tmp_path / "int8", "--dtype", "int8")
    adapter, _ = write_adapter(tmp_path / "second", base, target_modules=["q_proj"])
    options = ("--adapter", adapter, "-o", tmp_path / "a.pte")
    assert_fails(run("export", tmp_path / "int8", *options), UNSUPPORTED, "q_proj.weight", "is quantized")
    assert_fails(run("export", adapter, *options), 2, "is an adapter itself")
