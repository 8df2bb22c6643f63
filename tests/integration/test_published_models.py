"""Published models of dense architectures: small ones with their configurations' own keys and tensor names.

Each is computed by transformers' class of the same arithmetic, under the mask that the model's authors give it. The
configurations are by the authors' own code and scripts: dllm's A2D classes, WeDLM's hf_compat, Open-dLLM's upload
script, Stable-DiffCoder's modeling file, and the Dream classes that Dream-Coder and DiffuCoder use.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json
from families import Reference, attention_mask, make_checkpoint
from program import random_ids
from test_runtime import forward
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

CLASSES: Final = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
LENGTHS: Final = (1, 7, 33)

_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1001,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_NO_WINDOW: Final[dict[str, Any]] = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 2}
_DUMP_4: Final[dict[str, Any]] = {"torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True}
_DREAM: Final[dict[str, Any]] = (
    _SIZES
    | _NO_WINDOW
    | _DUMP_4
    | {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mask_token_id": 1000,
        "model_type": "Dream",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }
)


def qwen_dump(**keys: Any) -> dict[str, Any]:
    """A configuration as transformers 4.57 writes one of Qwen2 or Qwen3."""
    return (
        _SIZES
        | {"max_window_layers": 2, "sliding_window": None, "use_sliding_window": False}
        | {
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "layer_types": ["full_attention"] * 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "transformers_version": "4.57.0",
            "use_cache": False,
        }
        | keys
    )


@dataclass(frozen=True)
class Published:
    arithmetic: str  # of which of transformers' classes
    block_length: int  # of the mask; 0: full, 1: causal
    family: str
    config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)  # of transformers' configuration, where they have other names


MODELS: Final[dict[str, Published]] = {
    "Dream-Coder": Published("qwen2", 0, "dream", _DREAM),
    "DiffuCoder": Published("qwen2", 0, "dream", _DREAM | {"use_mrope": False}),
    "DreamOn": Published("qwen2", 0, "dream", _DREAM | {"use_cache": False, "expand_token_id": 999}),
    "TraDo": Published(
        "qwen3",
        4,
        "sdar",
        qwen_dump(
            architectures=["SDARForCausalLM"],
            auto_map={
                "AutoConfig": "configuration_sdar.SDARConfig",
                "AutoModel": "modeling_sdar.SDARForCausalLM",
                "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
            },
            model_type="sdar",
            attention_bias=False,
            head_dim=32,
            tie_word_embeddings=False,
            fuse_cross_entropy=True,
        ),
    ),
    "A2D-Qwen3": Published(
        "qwen3",
        0,
        "a2d",
        qwen_dump(architectures=["A2DQwen3LMHeadModel"], model_type="a2d-qwen3", attention_bias=False, head_dim=32),
    ),
    "A2D-Qwen2": Published(
        "qwen2", 0, "a2d", qwen_dump(architectures=["A2DQwen2LMHeadModel"], model_type="a2d-qwen2", mask_token_id=1000)
    ),
    "A2D-Llama": Published(
        "llama",
        0,
        "a2d",
        _SIZES
        | _DUMP_4
        | {
            "architectures": ["A2DLlamaLMHeadModel"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 32,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mlp_bias": False,
            "model_type": "a2d-llama",
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
        },
    ),
    "WeDLM-8B": Published(
        "qwen3",
        1,
        "wedlm",
        qwen_dump(
            architectures=["WeDLMForCausalLM"],
            auto_map={
                "AutoConfig": "configuration_wedlm.WeDLMConfig",
                "AutoModelForCausalLM": "modeling_wedlm.WeDLMForCausalLM",
            },
            model_type="wedlm",
            attention_bias=False,
            head_dim=32,
            qk_norm=True,
            mask_token_id=1000,
            tie_word_embeddings=False,
        ),
    ),
    "WeDLM-7B": Published(
        "qwen2",
        1,
        "wedlm",
        qwen_dump(
            architectures=["WeDLMForCausalLM"],
            model_type="wedlm",
            attention_bias=True,
            head_dim=32,
            qk_norm=False,
            mask_token_id=None,
            tie_word_embeddings=False,
        ),
    ),
    "Stable-DiffCoder": Published(
        "llama",
        4,
        "stable_diffcoder",
        _SIZES
        | _DUMP_4
        | {
            "architectures": ["StableDiffcoderForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_stable_diffcoder.StableDiffcoderForCausalLM"},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 32,
            "hidden_act": "silu",
            "initializer_range": 0.009882118,
            "mlp_bias": False,
            "model_type": "llama",
            "pad_token_id": 1,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
        },
    ),
    "Open-dCoder": Published(
        "qwen2",
        0,
        "open_dcoder",
        qwen_dump(
            architectures=["Qwen2ForCausalLM"],
            auto_map={"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"},
            model_type="qwen2",
            trust_remote_code=True,
        ),
    ),
    "SmolLM2": Published(
        "llama",
        1,
        "llama",
        _SIZES
        | _DUMP_4
        | {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.041666666666666664,
            "is_llama_config": True,
            "mlp_bias": False,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        },
    ),
    "TinyLlama": Published(
        "llama",
        1,
        "llama",
        _SIZES
        | _DUMP_4
        | {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
    ),
}


def dense_model(model: Published) -> Any:
    """Transformers' model with random weights that are no trivial ones, float32."""
    configuration, model_class = CLASSES[model.arithmetic]
    others = ("architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "qk_norm")
    keys = {key: value for key, value in model.config.items() if key not in others}
    torch.manual_seed(0)
    dense = model_class(configuration(**keys, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            spread = torch.randn_like(parameter)
            if "norm" in name:
                parameter.copy_(1.0 + 0.2 * spread)
            else:
                parameter.copy_(spread * (0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5))
    return dense


@pytest.fixture(scope="module", params=MODELS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path, Any]:
    """A model, its folder, and transformers' model of the same weights."""
    model = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    dense = dense_model(model)
    dense.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2))
    return model, folder, dense


def test_logits_are_the_authors(published: tuple[Published, Path, Any]) -> None:
    model, folder, dense = published
    sequences = [random_ids(length, 1001).tolist() for length in LENGTHS]
    for ids, logits in zip(sequences, forward(folder, sequences), strict=True):
        allowed = attention_mask(len(ids), model.block_length)[None, None]
        bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        with torch.no_grad():
            expected = dense(torch.tensor([ids]), attention_mask=bias).logits[0]
        assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_every_command_takes_it(published: tuple[Published, Path, Any], tmp_path: Path) -> None:
    model, folder, _ = published
    config = run_json("inspect", folder, "--no-hash")["config"]
    assert (config["family"], config["block_length"]) == (model.family, model.block_length)
    for backend, name in (("xnnpack", "a.pte"), ("coreml", "a.mlpackage"), ("qnn", "qnn")):
        options = ("--backend", backend, "--dtype", "int4", "--seq-len", 16)
        assert run_json("export", folder, "-o", tmp_path / name, *options)["success"]
    assert run_json("quantize", folder, "-o", tmp_path / "quantized", "--dtype", "int4")["success"]
    np.save(tmp_path / "ids.npy", random_ids(48, 1001).reshape(2, 24).numpy())
    np.save(tmp_path / "prompt.npy", random_ids(5, 1001)[None].numpy())
    mask = ("--mask-token-id", 1000)
    assert run_json("evaluate", folder, "--data", tmp_path / "ids.npy", "--length", 24, *mask)["success"]
    written = run_json("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 8, *mask)
    assert len(written["tokens"]) >= 1


def test_dreamon_is_known_by_its_expand_token(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "dream", expand_token_id=999)
    np.save(tmp_path / "prompt.npy", random_ids(5, 990)[None].numpy())
    generate = ("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 12, "--ignore-eos")
    assert len(run_json(*generate, "--expand-budget", 0)["tokens"]) == 4
    assert len(run_json(*generate, "--expand-budget", 0, "--initial-masks", 7)["tokens"]) == 7
    assert len(run_json(*generate, "--fixed-length", "--steps", 6)["tokens"]) == 12
    assert_fails(run(*generate, "--json", "--steps", 6), USAGE_ERROR, "steps", "fixed length")
    assert_fails(run(*generate, "--json", "--fixed-length", "--expand-id", 3), USAGE_ERROR, "--expand-id")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"expand_token_id": 1001}))
    assert_fails(run(*generate, "--json"), BAD_FILE, "config.json", "expand_token_id", "1001")
    assert_fails(
        run("generate", make_checkpoint(tmp_path / "plain", "dream"), *generate[2:], "--json", "--initial-masks", 4),
        USAGE_ERROR,
        "initial_masks",
        "expand_id",
    )


def test_wedlm_without_a_mask_token_says_so(tmp_path: Path) -> None:
    keys = {"model_type": "wedlm", "architectures": ["WeDLMForCausalLM"], "qk_norm": True}
    folder = make_checkpoint(tmp_path / "model", "qwen3", **keys)
    np.save(tmp_path / "prompt.npy", random_ids(5, 990)[None].numpy())
    generate = ("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 8, "--ignore-eos")
    assert_fails(run(*generate, "--json"), USAGE_ERROR, "mask token", "--mask-token-id")
    assert len(run_json(*generate, "--mask-token-id", 1000)["tokens"]) == 8
    single = run_json(*generate, "--window-size", 0)
    assert len(single["tokens"]) == single["forward_passes"] == 8
    assert_fails(run(*generate, "--json", "--window-size", -1), USAGE_ERROR, "window_size")


def test_llada_15_is_llada(tmp_path: Path) -> None:
    """LLaDA-1.5 has the class and the keys of LLaDA-8B."""
    folder = make_checkpoint(tmp_path / "model", "llada", n_kv_heads=3, use_cache=False)
    ids = random_ids(33, 1001).tolist()
    expected = Reference(folder).logits(torch.tensor([ids]))[0]
    assert float((forward(folder, [ids])[0] - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_open_dcoder_is_known_by_its_code(tmp_path: Path) -> None:
    """The same class without the authors' code is Qwen2, and causal."""
    folder = make_checkpoint(tmp_path / "model", "qwen2")
    path = folder / "config.json"
    plain = json.loads(path.read_text())
    code = {"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"}
    path.write_text(json.dumps(plain | {"auto_map": code}))
    assert run_json("inspect", folder, "--no-hash")["config"]["family"] == "qwen2"
    path.write_text(json.dumps(plain | {"auto_map": code, "trust_remote_code": True}))
    assert run_json("inspect", folder, "--no-hash")["config"]["family"] == "open_dcoder"
    path.write_text(json.dumps(plain | {"architectures": ["Qwen2ForSequenceClassification"]}))
    assert_fails(run("inspect", folder), UNSUPPORTED, "architectures", "Qwen2ForCausalLM")
