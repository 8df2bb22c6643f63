"""What a config.json can say beside the sizes: biases, tied heads, rotary scaling, masks, shards, source types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from command import export, run_json
from conftest import MakeCheckpoint
from families import FAMILIES, OMIT, Reference, compare
from program import Program, random_ids
from quantization import Options
from test_formats import LENGTHS, SEQ_LEN, assert_agrees

LLAMA3: Final = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llada with qkv biases": ("llada", {"include_qkv_bias": True}),
    "llada tied": ("llada", {"weight_tying": True}),
    "llada with one query head for each key head": ("llada", {"n_kv_heads": None}),
    "llada with mlp_ratio": ("llada", {"mlp_hidden_size": None, "mlp_ratio": 3}),
    "llada with spare embedding rows": ("llada", {"embedding_size": 1024}),
    "llama with all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with a head_dim of its own": ("llama", {"head_dim": 40}),
    "llama with llama3 scaling": ("llama", {"rope_scaling": LLAMA3}),
    "llama without kv heads": ("llama", {"num_key_value_heads": OMIT}),
    "qwen2 with yarn": (
        "qwen2",
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "qwen2 with linear scaling": ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen3 with attention biases": ("qwen3", {"attention_bias": True}),
    "qwen3 with rope_parameters": (
        "qwen3",
        {"rope_scaling": OMIT, "rope_theta": OMIT, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    ),
    "sdar with a wide attention": ("sdar", {"head_dim": 56}),
    "sdar with blocks of 7": ("sdar", {"block_length": 7}),
    "sdar as trained": ("sdar", {"block_size": 16}),
    "fast_dllm_v2 untied": ("fast_dllm_v2", {"tie_word_embeddings": False}),
    "fast_dllm_v2 with blocks of 5": ("fast_dllm_v2", {"bd_size": 5}),
    "dream with an epsilon that matters": ("dream", {"rms_norm_eps": 0.5}),
}


@pytest.mark.parametrize("options", [Options(), Options("int8")], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", VARIANTS)
def test_config_is_honoured(name: str, options: Options, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    family, overrides = VARIANTS[name]
    model = checkpoint(family, **overrides)
    export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", SEQ_LEN)
    assert_agrees(Program(tmp_path / "model.pte"), model, options)


@pytest.mark.parametrize("block_length", [0, 1, 8, 47, 10**12])
@pytest.mark.parametrize("family", ["llada", "sdar", "fast_dllm_v2", "qwen2"])
def test_block_length_option_sets_the_mask(
    family: str, block_length: int, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family)
    report = export(model, tmp_path / "model.pte", "--block-length", block_length, "--seq-len", SEQ_LEN)
    assert report["block_length"] == block_length
    program, reference = Program(tmp_path / "model.pte"), Reference(model)
    for length in LENGTHS:
        ids = random_ids(length, 1001)
        expected = reference.logits(ids, block_length=block_length)[0]
        assert compare(program.logits(ids), expected)["max_abs"] < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "options", [Options(), Options("fp16"), Options("int8"), Options("int4")], ids=lambda o: o.dtype
)
def test_source_type_is_read_exactly(dtype: str, options: Options, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("dream", dtype=dtype)
    report = export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", SEQ_LEN)
    source = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
    assert {layer["source"] for layer in report["layers"]} == {source}
    assert_agrees(Program(tmp_path / "model.pte"), model, options)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_give_the_same_file_as_one(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    for shards in (1, 3):
        export(checkpoint(family, shards=shards), tmp_path / f"{shards}.pte", "--dtype", "int4")
    assert (tmp_path / "1.pte").read_bytes() == (tmp_path / "3.pte").read_bytes()


def test_default_bound_is_the_models_limit_but_at_most_1024(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    small = export(checkpoint("llama"), tmp_path / "model.pte", "--dry-run")
    large = export(checkpoint("llama", max_position_embeddings=4096), tmp_path / "model.pte", "--dry-run")
    assert small["seq_len"] == 256
    assert large["seq_len"] == 1024


def test_an_unknown_key_can_be_declared_harmless(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llama", somebodys_note="x")
    report = run_json("export", model, "-o", tmp_path / "model.pte", "--ignore-config-key", "somebodys_note")
    assert report["success"] is True
