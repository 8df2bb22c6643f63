"""Checkpoints of every supported model family, and an FP32 forward pass to hold exported models against.

`make_checkpoint` writes a small random model in the layout its family has on the Hugging Face hub. `Reference` reads
such a folder by itself and computes logits in plain PyTorch, from the published definitions of the models. It shares
nothing with the C++ library, so that a mistake there cannot hide here.

Shapes: H hidden, A query heads, K key-value heads, D head dimension, I MLP width, V rows of the embedding and head.
Linear weights are stored [out, in].
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FAMILIES: Final = ("llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3")

OMIT: Final = object()
"""As a config override: leave the key out of config.json (None writes null)."""

_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Three query heads on one key-value head, and widths that are no powers of two. Groups of 32 divide every weight row.
_TRANSFORMER_SIZES: Final = """
  "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 160,
  "num_hidden_layers": 2, "vocab_size": 1001, "max_position_embeddings": 256, "hidden_act": "silu",
  "rope_scaling": null, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": true,
  "bos_token_id": 0, "eos_token_id": 0
"""
_NO_SLIDING_WINDOW: Final = """
  "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2
"""

# The keys each family has in its published config.json, with small sizes. fast_dllm_v2 is tied, as the 1.5B model is.
_CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "llada": json.loads("""{
  "architectures": ["LLaDAModelLM"], "model_type": "llada", "auto_map": {
    "AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
  "d_model": 96, "n_heads": 3, "n_kv_heads": 1, "multi_query_attention": null, "n_layers": 2,
  "mlp_hidden_size": 160, "mlp_ratio": 4, "vocab_size": 1001, "embedding_size": 1001, "max_sequence_length": 256,
  "activation_type": "silu", "block_type": "llama", "block_group_size": 1, "weight_tying": false,
  "alibi": false, "alibi_bias_max": 8.0, "rope": true, "rope_full_precision": true, "rope_theta": 500000.0,
  "layer_norm_type": "rms", "layer_norm_with_affine": true, "rms_norm_eps": 1e-05,
  "attention_layer_norm": false, "attention_layer_norm_with_affine": true,
  "include_bias": false, "include_qkv_bias": false, "bias_for_layer_norm": false,
  "input_emb_norm": false, "scale_logits": false, "mask_token_id": 1000, "eos_token_id": 0, "pad_token_id": 0,
  "attention_dropout": 0.0, "embedding_dropout": 0.0, "residual_dropout": 0.0, "flash_attention": false,
  "init_cutoff_factor": null, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
  "precision": "amp_bf16", "use_cache": false
}"""),
    "dream": json.loads(f"""{{
  "architectures": ["DreamModel"], "model_type": "Dream", "auto_map": {{
    "AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}},
  {_TRANSFORMER_SIZES}, {_NO_SLIDING_WINDOW}, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "tie_word_embeddings": false, "use_mrope": false, "mask_token_id": 1000, "pad_token_id": 0
}}"""),
    "sdar": json.loads(f"""{{
  "architectures": ["SDARForCausalLM"], "model_type": "sdar", "auto_map": {{
    "AutoConfig": "configuration_sdar.SDARConfig", "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}},
  {_TRANSFORMER_SIZES}, {_NO_SLIDING_WINDOW}, "head_dim": 32, "attention_bias": false, "rms_norm_eps": 1e-06,
  "rope_theta": 1000000, "tie_word_embeddings": false, "attn_implementation": "flex_attention",
  "fuse_cross_entropy": true, "debug": false, "ep_size": 1, "micro_forward": false, "skip_checkpoint": false,
  "use_deepep": false
}}"""),
    "fast_dllm_v2": json.loads(f"""{{
  "architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen", "auto_map": {{
    "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
    "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM"}},
  {_TRANSFORMER_SIZES}, {_NO_SLIDING_WINDOW}, "bd_size": 32, "layer_types": ["full_attention", "full_attention"],
  "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true, "pad_token_id": 0
}}"""),
    "llama": json.loads(f"""{{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama",
  {_TRANSFORMER_SIZES}, "attention_bias": false, "mlp_bias": false, "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0, "tie_word_embeddings": false, "pretraining_tp": 1
}}"""),
    "qwen2": json.loads(f"""{{
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
  {_TRANSFORMER_SIZES}, {_NO_SLIDING_WINDOW}, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "tie_word_embeddings": false
}}"""),
    "qwen3": json.loads(f"""{{
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
  {_TRANSFORMER_SIZES}, {_NO_SLIDING_WINDOW}, "head_dim": 32, "attention_bias": false, "rms_norm_eps": 1e-06,
  "rope_theta": 1000000, "tie_word_embeddings": false
}}"""),
}

_LLADA_NAMES: Final = {
    "embedding": "model.transformer.wte",
    "layers.": "model.transformer.blocks.",
    "attention_norm": "attn_norm",
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "o_proj": "attn_out",
    "mlp_norm": "ff_norm",
    "gate_proj": "ff_proj",
    "up_proj": "up_proj",
    "down_proj": "ff_out",
    "norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
}
_QWEN_NAMES: Final = {
    "embedding": "model.embed_tokens",
    "layers.": "model.layers.",
    "attention_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o_proj": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
    "norm": "model.norm",
    "lm_head": "lm_head",
}


@dataclass(frozen=True)
class Architecture:
    """What a config.json says about the arithmetic of a model."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    norm_eps: float
    rope_theta: float
    rope: dict[str, Any]  # the rope_scaling entry, or {} for plain RoPE
    max_positions: int
    tied: bool
    block_length: int  # 0: every position sees every other; 1: causal
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    embedding_scale: float = 1.0
    logit_scale: float = 1.0

    def module_name(self, module: str) -> str:
        """The checkpoint's name of a canonical module: "layers.1.down_proj" is "model.layers.1.mlp.down_proj" here."""
        names = _LLADA_NAMES if self.family == "llada" else _QWEN_NAMES
        if not module.startswith("layers."):
            return names[module]
        _, layer, leaf = module.split(".")
        return f"{names['layers.']}{layer}.{names[leaf]}"

    def modules(self) -> dict[str, tuple[tuple[int, ...], bool]]:
        """Every module by its canonical name, in file order: the shape of its weight, and whether it has a bias."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[tuple[int, ...], bool]] = {"embedding": ((self.vocab, self.hidden), False)}
        for layer in range(self.layers):
            block = {
                "attention_norm": ((self.hidden,), self.norm_bias),
                "q_proj": ((query, self.hidden), self.qkv_bias),
                "k_proj": ((key, self.hidden), self.qkv_bias),
                "v_proj": ((key, self.hidden), self.qkv_bias),
                "o_proj": ((self.hidden, query), self.o_bias),
                "mlp_norm": ((self.hidden,), self.norm_bias),
                "gate_proj": ((self.intermediate, self.hidden), self.mlp_bias),
                "up_proj": ((self.intermediate, self.hidden), self.mlp_bias),
                "down_proj": ((self.hidden, self.intermediate), self.mlp_bias),
            }
            if self.qk_norm:
                block |= {"q_norm": ((self.head_dim,), False), "k_norm": ((self.head_dim,), False)}
            found |= {f"layers.{layer}.{leaf}": entry for leaf, entry in block.items()}
        found["norm"] = ((self.hidden,), self.norm_bias)
        if not self.tied:
            found["lm_head"] = ((self.vocab, self.hidden), self.head_bias)
        return found


def make_config(family: str, dtype: str = "float32", **overrides: Any) -> dict[str, Any]:
    """The config.json of a small model of `family`, with some of the family's own keys overridden (see `OMIT`).

    `embedding_size` and `mask_token_id` follow an overridden `vocab_size`, and `layer_types` the number of layers,
    unless given.
    """
    config = dict(_CONFIGS[family], torch_dtype=dtype, transformers_version="4.52.4") | overrides
    if family == "llada" and "embedding_size" not in overrides and config["vocab_size"] is not OMIT:
        config["embedding_size"] = config["vocab_size"]
    if "layer_types" in config and "layer_types" not in overrides:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    mask, vocab = config.get("mask_token_id"), config["vocab_size"]
    if "mask_token_id" not in overrides and isinstance(mask, int) and isinstance(vocab, int):
        config["mask_token_id"] = min(mask, max(vocab - 1, 0))
    return {key: value for key, value in config.items() if value is not OMIT}


def make_weights(
    config: Mapping[str, Any], seed: int = 0, weight_scales: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Random FP32 weights for `config`, by checkpoint name, scaled like a trained model's.

    Linear weights have standard deviation 1/sqrt(in), norm weights lie around 1, biases are not zero, embeddings have
    standard deviation 1. `weight_scales` multiplies the weights of modules by their last name: `{"lm_head": 4}` spreads
    the logits, so that a few tokens are likely at each position.
    """
    scales = weight_scales or {}
    generator = torch.Generator().manual_seed(seed)
    architecture = read_architecture(config)
    weights = {}
    for module, (shape, has_bias) in architecture.modules().items():
        name = architecture.module_name(module)
        values = torch.randn(shape, generator=generator)
        if module.endswith("norm"):
            values = 1.0 + 0.2 * values
        elif module != "embedding":
            values /= math.sqrt(shape[1])
        weights[f"{name}.weight"] = values * scales.get(module.rpartition(".")[2], 1.0)
        if has_bias:
            weights[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return weights


def write_checkpoint(
    path: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], shards: int = 1
) -> Path:
    """Write config.json and safetensors files to the folder `path`; more than one shard also gets an index.

    Tensors keep their order and dtype; shards are cut so that each has about the same number of bytes.
    """
    if not 1 <= shards <= len(weights):
        raise ValueError(f"{len(weights)} tensors do not fill {shards} shards")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    total = sum(tensor.nbytes for tensor in weights.values())
    files: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    written, shard = 0, 0
    for index, (name, tensor) in enumerate(weights.items()):
        too_few_left = len(weights) - index < shards - shard
        if files[shard] and shard < shards - 1 and (written >= total * (shard + 1) / shards or too_few_left):
            shard += 1
        files[shard][name] = tensor.contiguous()
        written += tensor.nbytes

    if shards == 1:
        save_file(files[0], path / "model.safetensors", metadata={"format": "pt"})
        return path
    weight_map = {}
    for number, tensors in enumerate(files, start=1):
        file_name = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file(tensors, path / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file_name)
    index_json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (path / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=2) + "\n")
    return path


def make_checkpoint(
    path: str | Path,
    family: str,
    *,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    weight_scales: Mapping[str, float] | None = None,
    **config_overrides: Any,
) -> Path:
    """Write a small random model of `family` to the folder `path`, as it would come from the Hugging Face hub.

    By default H 96, A 3, K 1, D 32, I 160, 2 layers, V 1001, 256 positions. Overrides are keys of the family's own
    config.json (`n_layers` for llada, `num_hidden_layers` for the others); the weights follow them. `dtype` is one of
    float32, float16, bfloat16. fast_dllm_v2 is tied by default and has no lm_head.weight. `weight_scales`: see
    `make_weights`.
    """
    config = make_config(family, dtype, **config_overrides)
    weights = make_weights(config, seed, weight_scales)
    weights = {name: tensor.to(_DTYPES[dtype]) for name, tensor in weights.items()}
    return write_checkpoint(path, config, weights, shards)


def write_sparse_checkpoint(path: str | Path, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write a bfloat16 model of any size, nearly all zeros, that takes little room on the disk and no time.

    The first four bytes of every tensor are numbers that no other has, since equal tensors are stored once.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for number, entry in enumerate(header.values()):
            file.seek(8 + len(text) + entry["data_offsets"][0])
            file.write((0x3F80 + number % 128 << 16 | 0x3E00 + number // 128).to_bytes(4, "little"))
    return path


def _only(config: Mapping[str, Any], key: str, default: Any, allowed: Sequence[Any]) -> Any:
    value = config.get(key, default)
    if value not in allowed:
        raise ValueError(f"config.json: {key} is {value!r}; the reference knows only {', '.join(map(repr, allowed))}")
    return value


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json. Raises ValueError where it asks for arithmetic that is not written here."""
    model_type = config["model_type"]
    if model_type == "llada":
        return _read_llada(config)
    if model_type == "wedlm":  # its larger model is Qwen3's network
        _only(config, "qk_norm", False, [True])
        return _read_qwen_like("qwen3", {**config, "architectures": _CONFIGS["qwen3"]["architectures"]})
    families = {_CONFIGS[family]["model_type"]: family for family in FAMILIES}
    if model_type not in families:
        raise ValueError(f"config.json: unknown model_type {model_type!r}")
    return _read_qwen_like(families[model_type], config)


def _read_llada(config: Mapping[str, Any]) -> Architecture:
    _only(config, "architectures", ["LLaDAModelLM"], [["LLaDAModelLM"]])
    _only(config, "rope", False, [True])
    _only(config, "alibi", False, [False])
    _only(config, "block_type", "sequential", ["llama"])
    _only(config, "block_group_size", 1, [1])
    _only(config, "activation_type", "swiglu", ["silu"])
    _only(config, "layer_norm_type", "default", ["rms"])
    _only(config, "layer_norm_with_affine", True, [True])
    _only(config, "attention_layer_norm", False, [False])
    hidden, heads = config["d_model"], config["n_heads"]
    kv_heads = config.get("n_kv_heads")
    multi_query = config.get("multi_query_attention")
    if kv_heads is None:
        kv_heads = 1 if multi_query else heads
    elif multi_query is not None and kv_heads != (1 if multi_query else heads):
        raise ValueError(f"config.json: multi_query_attention {multi_query} contradicts n_kv_heads {kv_heads}")
    bias = config.get("include_bias", False)
    norm_bias = config.get("bias_for_layer_norm")
    return Architecture(
        family="llada",
        hidden=hidden,
        layers=config["n_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * hidden,
        vocab=config.get("embedding_size", 50304) or config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_theta=config.get("rope_theta", 10000.0),
        rope={},
        max_positions=config.get("max_sequence_length", 1024),
        tied=config.get("weight_tying", True),
        block_length=0,
        qkv_bias=bias or config.get("include_qkv_bias", False),
        o_bias=bias,
        mlp_bias=bias,
        head_bias=bias,
        norm_bias=bias if norm_bias is None else norm_bias,
        embedding_scale=math.sqrt(hidden) if config.get("input_emb_norm", False) else 1.0,
        logit_scale=1 / math.sqrt(hidden) if config.get("scale_logits", False) else 1.0,
    )


def _read_qwen_like(family: str, config: Mapping[str, Any]) -> Architecture:
    _only(config, "architectures", _CONFIGS[family]["architectures"], [_CONFIGS[family]["architectures"]])
    _only(config, "hidden_act", "silu", ["silu"])
    _only(config, "use_sliding_window", False, [False])
    _only(config, "use_mrope", False, [False])
    _only(config, "partial_rotary_factor", 1.0, [1.0, None])
    if set(config.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        raise ValueError("config.json: layer_types other than full_attention")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", 128 if family in ("sdar", "qwen3") else None) or hidden // heads
    if family == "dream" and head_dim * heads != hidden:
        raise ValueError("config.json: Dream's heads must add up to hidden_size")
    qwen2_like = family in ("dream", "fast_dllm_v2", "qwen2")
    attention_bias = not qwen2_like and config.get("attention_bias", False)

    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if family == "sdar":
        block_length = config.get("block_length", config.get("block_size", 4))  # block_size: SDAR's training code
    elif family == "fast_dllm_v2":
        block_length = config.get("bd_size", 32)
    else:
        block_length = 0 if family == "dream" else 1
    return Architecture(
        family=family,
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads if family == "llama" else 32) or heads,
        head_dim=head_dim,
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        rope=rope,
        max_positions=config.get("max_position_embeddings", 2048 if family == "llama" else 32768),
        tied=config.get("tie_word_embeddings", False),
        block_length=block_length,
        qk_norm=family in ("sdar", "qwen3"),
        qkv_bias=qwen2_like or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family == "llama" and config.get("mlp_bias", False),
    )


def rope_frequencies(architecture: Architecture) -> tuple[Tensor, float]:
    """Angle for one position step in each pair of dimensions, float32 [D/2], and the factor on cosines and sines.

    Plain RoPE (arXiv:2104.09864), position interpolation (arXiv:2306.15595), Llama 3.1's scaling, and YaRN
    (arXiv:2309.00071), with the parameter names and defaults of Hugging Face configs.
    """
    dim, theta, rope = architecture.head_dim, architecture.rope_theta, architecture.rope
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / rope["factor"], 1.0
    original_positions = rope.get("original_max_position_embeddings") or architecture.max_positions
    if kind == "llama3":
        return _llama3_frequencies(frequencies, rope, original_positions), 1.0
    if kind == "yarn":
        return _yarn_frequencies(frequencies, architecture, original_positions)
    raise ValueError(f"config.json: rope type {kind!r} is not written here")


def _llama3_frequencies(frequencies: Tensor, rope: Mapping[str, Any], original_positions: int) -> Tensor:
    # How many turns a pair makes over the original context decides: few turns are slowed down by `factor`, many are
    # not changed, between them the two are blended.
    turns = original_positions * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / rope["factor"]


def _yarn_frequencies(frequencies: Tensor, architecture: Architecture, original_positions: int) -> tuple[Tensor, float]:
    dim, rope = architecture.head_dim, architecture.rope
    factor = rope.get("factor") or architecture.max_positions / original_positions

    def dimension_making(turns: float) -> float:
        return dim * math.log(original_positions / (turns * 2 * math.pi)) / (2 * math.log(architecture.rope_theta))

    low = dimension_making(rope.get("beta_fast") or 32)
    high = dimension_making(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    slowed = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        attention_factor = magnitude(1.0)
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            attention_factor = magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
    return (1 - slowed) * frequencies + slowed * frequencies / factor, attention_factor


def attention_mask(length: int, block_length: int) -> Tensor:
    """Which position (row) sees which (column), bool [length, length].

    Position i sees j iff floor(j / block_length) <= floor(i / block_length); with block length 0, always.
    """
    if block_length == 0:
        return torch.ones(length, length, dtype=torch.bool)
    block = torch.arange(length) // block_length
    return block[None, :] <= block[:, None]


class Reference:
    """A model folder, computed in FP32 one operation after the other.

    `weight_transform(name, weight)`, if given, gets every tensor of the checkpoint under its own name, as float32, and
    returns what to use instead: a test can put the dequantized weights of an export there.
    """

    def __init__(self, path: str | Path, weight_transform: Callable[[str, Tensor], Tensor] | None = None) -> None:
        path = Path(path)
        self.config: dict[str, Any] = json.loads((path / "config.json").read_text())
        self.architecture = read_architecture(self.config)
        index = path / "model.safetensors.index.json"
        if index.exists():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        else:
            files = ["model.safetensors"]
        self.weights: dict[str, Tensor] = {}
        for file in files:
            for name, tensor in load_file(path / file).items():
                weight = tensor.float()
                self.weights[name] = weight if weight_transform is None else weight_transform(name, weight).float()

        self._modules = self.architecture.modules()
        for module, (shape, has_bias) in self._modules.items():
            name = self.architecture.module_name(module)
            expected = {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if has_bias else {})
            for tensor_name, tensor_shape in expected.items():
                if tensor_name not in self.weights:
                    raise ValueError(f"{path}: no tensor {tensor_name}")
                if tuple(self.weights[tensor_name].shape) != tensor_shape:
                    raise ValueError(
                        f"{path}: {tensor_name} is {list(self.weights[tensor_name].shape)}, "
                        f"the config says {list(tensor_shape)}"
                    )

    @torch.no_grad()
    def logits(
        self,
        input_ids: Tensor | Sequence[int],
        block_length: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits at every position, float32 [batch, sequence, V]; not shifted, as the published forward passes.

        `input_ids` is [sequence] (batch 1) or [batch, sequence]. `block_length` overrides the one from the config or
        the family: 0 lets every position see every other, 1 is causal. `positions` are those that rotary angles follow
        from, where they are not 0, 1, 2, ...; the mask goes by the order of the tokens.
        """
        model = self.architecture
        ids = torch.as_tensor(input_ids, dtype=torch.long)
        if ids.dim() == 1:
            ids = ids[None]
        batch, length = ids.shape
        mask = attention_mask(length, model.block_length if block_length is None else block_length)
        frequencies, rope_scale = rope_frequencies(model)
        places = torch.arange(length) if positions is None else torch.as_tensor(positions)
        angles = places.float()[:, None] * frequencies
        cos, sin = rope_scale * angles.cos(), rope_scale * angles.sin()

        x = self._weight("embedding")[ids] * model.embedding_scale
        for layer in range(model.layers):
            block = f"layers.{layer}"
            normed = self._norm(f"{block}.attention_norm", x)
            query = self._heads(f"{block}.q", normed, model.heads)
            key = self._heads(f"{block}.k", normed, model.kv_heads)
            value = self._heads(f"{block}.v", normed, model.kv_heads)
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            attended = _attention(query, key, value, mask).transpose(1, 2).reshape(batch, length, -1)
            x = x + self._linear(f"{block}.o_proj", attended)

            normed = self._norm(f"{block}.mlp_norm", x)
            gate = torch.nn.functional.silu(self._linear(f"{block}.gate_proj", normed))
            x = x + self._linear(f"{block}.down_proj", gate * self._linear(f"{block}.up_proj", normed))
        x = self._norm("norm", x)
        return self._linear("embedding" if model.tied else "lm_head", x) * model.logit_scale

    def _weight(self, module: str) -> Tensor:
        return self.weights[f"{self.architecture.module_name(module)}.weight"]

    def _bias(self, module: str) -> Tensor | float:
        _, has_bias = self._modules[module]
        return self.weights[f"{self.architecture.module_name(module)}.bias"] if has_bias else 0.0

    def _linear(self, module: str, x: Tensor) -> Tensor:
        return x @ self._weight(module).T + self._bias(module)

    def _norm(self, module: str, x: Tensor) -> Tensor:
        inverse_rms = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.architecture.norm_eps)
        return x * inverse_rms * self._weight(module) + self._bias(module)

    def _heads(self, projection: str, x: Tensor, heads: int) -> Tensor:
        """Project [batch, sequence, H] to [batch, heads, sequence, D]; queries and keys of some families are normed."""
        projected = self._linear(f"{projection}_proj", x).unflatten(-1, (heads, self.architecture.head_dim))
        if self.architecture.qk_norm and projection[-1] in "qk":
            projected = self._norm(f"{projection}_norm", projected)
        return projected.transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on [batch, heads, sequence, D] with cos and sin [sequence, D/2]; dimension i is paired with i + D/2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention: query [batch, A, sequence, D], key and value [batch, K, sequence, D] -> like query."""
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ value


def compare(a: Any, b: Any) -> dict[str, float]:
    """How far two tensors or arrays of one shape are apart: the largest difference, and the cosine between them."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    return {"max_abs": (a - b).abs().max().item(), "cosine": cosine.item()}
