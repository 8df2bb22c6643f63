"""Checkpoints of the model families with routed experts, and an FP32 forward pass to hold the command against.

As in `families`: `make_expert_checkpoint` writes a small random model with the keys and tensor names that its family
has on the Hugging Face hub, and `ExpertReference` computes its logits in plain PyTorch, from the authors' files
(modeling_qwen3_moe.py of transformers; modeling_rnd.py of RadicalNumerics/RND1; modeling_lladamoe.py and
modeling_llada2_moe.py of inclusionAI's models). `scripts/compare_experts_with_authors.py` compares the two.

Shapes: H hidden, A query heads, K key-value heads, D head dimension, E experts, I an MLP's width, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from families import OMIT, _attention, _rotate, attention_mask, rope_frequencies, write_checkpoint
from safetensors.torch import load_file
from torch import Tensor

EXPERT_FAMILIES: Final = ("qwen3_moe", "sdar_moe", "rnd1", "llada_moe", "llada2_moe")

_SIZES: Final = """
  "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3, "vocab_size": 1001,
  "max_position_embeddings": 256, "hidden_act": "silu", "rope_scaling": null, "attention_dropout": 0.0,
  "initializer_range": 0.02, "use_cache": true, "num_experts": 8, "num_experts_per_tok": 3,
  "output_router_logits": false, "tie_word_embeddings": false, "eos_token_id": 0, "pad_token_id": 0
"""
_QWEN3_MOE: Final = f"""{_SIZES},
  "attention_bias": false, "bos_token_id": 0, "decoder_sparse_step": 1, "head_dim": 32, "intermediate_size": 160,
  "max_window_layers": 3, "mlp_only_layers": [], "moe_intermediate_size": 64, "norm_topk_prob": true,
  "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "use_sliding_window": false
"""

# The keys of each family's published config.json, with small sizes.
_CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "qwen3_moe": json.loads(f"""{{
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", {_QWEN3_MOE}, "sliding_window": null
}}"""),
    "sdar_moe": json.loads(f"""{{
  "architectures": ["SDARMoeForCausalLM"], "model_type": "sdar_moe", "auto_map": {{
    "AutoConfig": "configuration_sdar_moe.SDARMoeConfig",
    "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM"}}, {_QWEN3_MOE}, "sliding_window": null,
  "block_size": 4, "fuse_cross_entropy": true, "debug": false, "ep_size": 1, "micro_forward": false,
  "skip_checkpoint": false, "use_deepep": false, "mask_token_id": 1000
}}"""),
    "rnd1": json.loads(f"""{{
  "architectures": ["RND1LM"], "model_type": "rnd1", "auto_map": {{
    "AutoConfig": "configuration_rnd.RND1Config", "AutoModelForMaskedLM": "modeling_rnd.RND1LM"}}, {_QWEN3_MOE},
  "rope_scaling": false, "sliding_window": false, "is_causal": false, "moe_backend": "hf", "num_diffusion_steps": 256,
  "mask_token_id": 1000
}}"""),
    "llada_moe": json.loads(f"""{{
  "architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "auto_map": {{
    "AutoConfig": "configuration_lladamoe.LLaDAConfig",
    "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM"}}, {_SIZES},
  "attention_bias": false, "clip_qkv": null, "dense_intermediate_size": 160, "expert_intermediate_size": 64,
  "moe_layer_freq": [1, 1, 1], "moe_router_enable_expert_bias": false, "moe_router_score_function": "softmax",
  "norm_topk_prob": null, "partial_rotary_factor": 1, "qk_layernorm": true, "rms_norm_eps": 1e-05,
  "rope_theta": 50000.0, "routed_scaling_factor": 1, "router_aux_loss_coef": 0.01, "router_num_group": null,
  "router_topk_group": null, "shared_expert_intermediate_size": null, "mask_token_id": 1000
}}"""),
    "llada2_moe": json.loads(f"""{{
  "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "auto_map": {{
    "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
    "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"}}, {_SIZES},
  "intermediate_size": 160, "first_k_dense_replace": 1, "moe_intermediate_size": 64, "norm_topk_prob": true,
  "norm_head": false, "rope_theta": 600000, "use_bias": false, "use_rmsnorm": true, "rms_norm_eps": 1e-06,
  "head_dim": 32, "num_shared_experts": 1, "use_qkv_bias": false, "embedding_dropout": 0.0, "norm_softmax": false,
  "output_dropout": 0.0, "rotary_dim": 16, "using_split_qkv_in_self_attention": false, "router_dtype": "fp32",
  "moe_router_enable_expert_bias": true, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
  "score_function": "sigmoid", "max_window_layers": 28, "partial_rotary_factor": 0.5, "use_sliding_window": false,
  "use_qk_norm": true, "mask_token_id": 1000
}}"""),
}


@dataclass(frozen=True)
class ExpertArchitecture:
    """What a config.json says about the arithmetic of a model."""

    family: str
    config: Mapping[str, Any]
    head_dim: int
    rotary_dim: int
    expert_width: int
    shared_width: int
    dense_width: int
    dense_layers: frozenset[int]
    block_length: int
    has_bias: bool
    rope: dict[str, Any] = field(default_factory=dict)

    def mlp(self, prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        """The tensors of a gated MLP."""
        hidden = self.config["hidden_size"]
        return {
            f"{prefix}gate_proj.weight": (width, hidden),
            f"{prefix}up_proj.weight": (width, hidden),
            f"{prefix}down_proj.weight": (hidden, width),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its name in the checkpoint."""
        config = self.config
        hidden, dim, experts = config["hidden_size"], self.head_dim, config["num_experts"]
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        is_llada2 = self.family == "llada2_moe"
        found: dict[str, tuple[int, ...]] = {self.embedding: (config["vocab_size"], hidden)}
        for layer in range(config["num_hidden_layers"]):
            block = f"model.layers.{layer}."
            found[f"{block}input_layernorm.weight"] = (hidden,)
            found[f"{block}post_attention_layernorm.weight"] = (hidden,)
            if is_llada2:
                found[f"{block}attention.query_key_value.weight"] = ((heads + 2 * kv_heads) * dim, hidden)
                found[f"{block}attention.dense.weight"] = (hidden, heads * dim)
                found[f"{block}attention.query_layernorm.weight"] = (dim,)
                found[f"{block}attention.key_layernorm.weight"] = (dim,)
            else:
                found[f"{block}self_attn.q_proj.weight"] = (heads * dim, hidden)
                found[f"{block}self_attn.k_proj.weight"] = (kv_heads * dim, hidden)
                found[f"{block}self_attn.v_proj.weight"] = (kv_heads * dim, hidden)
                found[f"{block}self_attn.o_proj.weight"] = (hidden, heads * dim)
                found[f"{block}self_attn.q_norm.weight"] = (dim,)
                found[f"{block}self_attn.k_norm.weight"] = (dim,)
            if layer in self.dense_layers:
                found |= self.mlp(f"{block}mlp.", self.dense_width)
                continue
            found[f"{block}mlp.gate.weight"] = (experts, hidden)
            if self.has_bias:
                found[block + ("mlp.gate.expert_bias" if is_llada2 else "mlp.expert_bias")] = (experts,)
            for expert in range(experts):
                found |= self.mlp(f"{block}mlp.experts.{expert}.", self.expert_width)
            if self.shared_width:
                found |= self.mlp(block + self.shared, self.shared_width)
        found["model.norm.weight"] = (hidden,)
        found["lm_head.weight"] = (config["vocab_size"], hidden)
        return found

    @property
    def embedding(self) -> str:
        """The embedding's name."""
        return "model.word_embeddings.weight" if self.family == "llada2_moe" else "model.embed_tokens.weight"

    @property
    def shared(self) -> str:
        """What stands before the shared expert's names in its layer."""
        return "mlp.shared_experts." if self.family == "llada2_moe" else "shared_expert."


def read_expert_architecture(config: Mapping[str, Any]) -> ExpertArchitecture:
    """Read a config.json with the keys of one of the families."""
    family = next(name for name in EXPERT_FAMILIES if _CONFIGS[name]["architectures"] == config["architectures"])
    layers = range(config["num_hidden_layers"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    shared = 0
    has_bias = False
    if family == "llada_moe":
        width, dense_width = config["expert_intermediate_size"], config["dense_intermediate_size"]
        dense = {layer for layer in layers if config["moe_layer_freq"][layer] == 0}
        shared = config["shared_expert_intermediate_size"] or 0
        has_bias = config["moe_router_enable_expert_bias"]
    else:
        width, dense_width = config["moe_intermediate_size"], config["intermediate_size"]
    if family == "llada2_moe":
        dense = set(layers[: config["first_k_dense_replace"]])
        shared = config["num_shared_experts"] * width
        has_bias = True
    elif family != "llada_moe":
        step, listed = config["decoder_sparse_step"], config["mlp_only_layers"]
        dense = {layer for layer in layers if layer in listed or (layer + 1) % step != 0}
    blocks = {"qwen3_moe": 1, "sdar_moe": config.get("block_size", 4), "llada2_moe": config.get("block_length", 32)}
    return ExpertArchitecture(
        family=family,
        config=config,
        head_dim=head_dim,
        rotary_dim=int(head_dim * config.get("partial_rotary_factor", 1)),
        expert_width=width,
        shared_width=shared,
        dense_width=dense_width,
        dense_layers=frozenset(dense),
        block_length=blocks.get(family, 0),
        has_bias=has_bias,
    )


def make_expert_config(family: str, **overrides: Any) -> dict[str, Any]:
    """The config.json of a small model, with some of its keys overridden (`OMIT` leaves one out)."""
    config = dict(_CONFIGS[family], torch_dtype="float32", transformers_version="4.52.4") | overrides
    return {key: value for key, value in config.items() if value is not OMIT}


def make_expert_checkpoint(
    path: str | Path,
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    **overrides: Any,
) -> Path:
    """Write a small random model of `family`: 3 layers, 8 experts of which a token takes 3, H 96, A 3, K 1, D 32."""
    config = make_expert_config(family, **overrides)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in read_expert_architecture(config).tensors().items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1.0 + 0.2 * values
        elif name.endswith("expert_bias"):
            values *= 0.1
        elif "embed" not in name:
            values /= math.sqrt(shape[1])
        weights[name] = values.to(dtype)
    return write_checkpoint(path, config, weights, shards)


class ExpertReference:
    """A model folder, computed in FP32 one operation after the other. `chosen`: what the last run's routers chose."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.architecture = read_expert_architecture(json.loads((path / "config.json").read_text()))
        self.weights: dict[str, Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            self.weights |= {name: tensor.float() for name, tensor in load_file(file).items()}
        expected = self.architecture.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        if shapes != expected:
            raise ValueError(f"{path}: its tensors are not those that config.json asks for")
        self.chosen: list[Tensor] = []

    @torch.no_grad()
    def logits(self, input_ids: Tensor | Sequence[int], block_length: int | None = None) -> Tensor:
        """Logits at every position, float32 [sequence, V]; not shifted."""
        model, config = self.architecture, self.architecture.config
        ids = torch.as_tensor(input_ids, dtype=torch.long).flatten()
        mask = attention_mask(len(ids), model.block_length if block_length is None else block_length)
        rotary = SimpleNamespace(head_dim=model.rotary_dim, rope_theta=config["rope_theta"], rope=model.rope)
        frequencies, _ = rope_frequencies(rotary)  # type: ignore[arg-type]
        angles = torch.arange(len(ids), dtype=torch.float32)[:, None] * frequencies
        self.chosen = []
        x = self.weights[model.embedding][ids]
        for layer in range(config["num_hidden_layers"]):
            block = f"model.layers.{layer}."
            normed = self._norm(f"{block}input_layernorm", x)
            x = x + self._attend(block, normed, angles.cos(), angles.sin(), mask)
            normed = self._norm(f"{block}post_attention_layernorm", x)
            if layer in model.dense_layers:
                x = x + self._mlp(f"{block}mlp.", normed)
                continue
            mixed = self._experts(block, normed)
            x = x + (mixed + self._mlp(block + model.shared, normed) if model.shared_width else mixed)
        return self._norm("model.norm", x) @ self.weights["lm_head.weight"].T

    def _norm(self, name: str, x: Tensor) -> Tensor:
        inverse_rms = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.architecture.config["rms_norm_eps"])
        return x * inverse_rms * self.weights[f"{name}.weight"]

    def _mlp(self, prefix: str, x: Tensor) -> Tensor:
        gate, up, down = (self.weights[f"{prefix}{role}_proj.weight"] for role in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def _attend(self, block: str, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        model, config = self.architecture, self.architecture.config
        heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], model.head_dim
        if model.family == "llada2_moe":
            fused = x @ self.weights[f"{block}attention.query_key_value.weight"].T
            query, key, value = fused.unflatten(-1, (-1, dim)).split([heads, kv_heads, kv_heads], dim=1)
            names = ("attention.query_layernorm", "attention.key_layernorm", "attention.dense")
        else:
            query, key, value = (
                (x @ self.weights[f"{block}self_attn.{role}_proj.weight"].T).unflatten(-1, (-1, dim)) for role in "qkv"
            )
            names = ("self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj")
        query, key = self._norm(block + names[0], query), self._norm(block + names[1], key)
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        query, key = (self._turn(part, cos, sin) for part in (query, key))
        mixed = _attention(query, key, value, mask)[0].transpose(0, 1).flatten(1)
        return mixed @ self.weights[f"{block}{names[2]}.weight"].T

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned, rest = x.split([self.architecture.rotary_dim, x.shape[-1] - self.architecture.rotary_dim], dim=-1)
        return torch.cat((_rotate(turned, cos, sin), rest), dim=-1)

    def _route(self, block: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each token the chosen experts' numbers and weights, [tokens, experts a token]."""
        model, config = self.architecture, self.architecture.config
        logits = x @ self.weights[f"{block}mlp.gate.weight"].T
        count = config["num_experts_per_tok"]
        if model.family != "llada2_moe":
            scores = logits.softmax(-1)
            if model.has_bias:
                scores = scores + self.weights[f"{block}mlp.expert_bias"]
            weights, chosen = scores.topk(count)
            if model.family != "llada_moe" and config["norm_topk_prob"]:
                weights = weights / weights.sum(-1, keepdim=True)
            return chosen, weights
        scores = logits.sigmoid()
        biased = scores + self.weights[f"{block}mlp.gate.expert_bias"]
        groups = biased.unflatten(-1, (config["n_group"], -1))
        best_groups = groups.topk(2).values.sum(-1).topk(config["topk_group"]).indices
        reachable = torch.full_like(groups, -math.inf)
        for token, numbers in enumerate(best_groups):
            reachable[token, numbers] = groups[token, numbers]
        chosen = reachable.flatten(1).topk(count).indices
        weights = scores.gather(1, chosen)
        return chosen, weights / weights.sum(-1, keepdim=True) * config["routed_scaling_factor"]

    def _experts(self, block: str, x: Tensor) -> Tensor:
        chosen, weights = self._route(block, x)
        self.chosen.append(chosen)
        rows = []
        for token, row in enumerate(x):
            parts = [
                weight * self._mlp(f"{block}mlp.experts.{expert}.", row)
                for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True)
            ]
            rows.append(torch.stack(parts).sum(0))
        return torch.stack(rows)
