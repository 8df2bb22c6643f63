"""GGUF files of small models, written by the `gguf` package, from the checkpoints of families.py.

Names and keys are those that llama.cpp's converter writes. Weights are quantized by the package where it can (Q8_0,
Q4_0 and their kin); blocks of the K formats, which it only reads, are random.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

Array = NDArray[Any]

ARCHITECTURES: Final = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "dream": "dream", "llada": "llada"}
"""GGUF's name of each dense family that is read from it."""
EXPERT_ARCHITECTURES: Final = {"qwen3_moe": "qwen3moe", "rnd1": "rnd1", "llada_moe": "llada-moe"}
"""The same of families with experts."""

_TRANSFORMERS: Final = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}  # fmt: skip
_LLADA: Final = {
    "model.transformer.wte": "token_embd", "model.transformer.ln_f": "output_norm",
    "model.transformer.ff_out": "output",
    "attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "attn_out": "attn_output",
    "ff_norm": "ffn_norm", "ff_proj": "ffn_gate", "up_proj": "ffn_up", "ff_out": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    for prefix, names in (("model.layers.", _TRANSFORMERS), ("model.transformer.blocks.", _LLADA)):
        if module.startswith(prefix):
            number, _, part = module.removeprefix(prefix).partition(".")
            return f"blk.{number}.{names[part]}.{kind}"
    return f"{(_TRANSFORMERS | _LLADA)[module]}.{kind}"


def neighbours_rotated(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys as llama.cpp's rotation of (2i, 2i + 1) takes them, from that of (i, i + D/2)."""
    halves = weight.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2)


def halves_rotated(weight: Tensor, heads: int) -> Tensor:
    pairs = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def random_blocks(type_: Type, shape: tuple[int, ...], seed: int) -> Array:
    """Bytes of a K format, with scales that give values a deviation near that of a small layer's weights."""
    block, size = gguf.GGML_QUANT_SIZES[type_]
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (*shape[:-1], shape[-1] // block, size), dtype=np.uint8)
    halves = {Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}[type_]
    for at in halves:
        scales = generator.uniform(2e-5, 8e-5, data.shape[:-1]).astype(np.float16)
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    return data.reshape(*shape[:-1], -1)


def encoded(weight: Tensor, type_: Type, seed: int) -> tuple[Array, Tensor]:
    """A matrix in this type, and the values that the package reads from it."""
    values = np.ascontiguousarray(weight.float().numpy())
    if type_ in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        data = random_blocks(type_, values.shape, seed)
    else:
        data = gguf.quants.quantize(values, type_)
    return data, torch.from_numpy(gguf.quants.dequantize(data, type_).copy())


def is_llada_moe(config: dict[str, Any]) -> bool:
    return config["architectures"] == ["LLaDAMoEModelLM"]


def family_of(config: dict[str, Any]) -> str:
    """As ARCHITECTURES and EXPERT_ARCHITECTURES name it."""
    if is_llada_moe(config):
        return "llada_moe"
    return {"Dream": "dream"}.get(config["model_type"], config["model_type"])


def add_experts(writer: Any, config: dict[str, Any]) -> None:
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    width = "expert_intermediate_size" if is_llada_moe(config) else "moe_intermediate_size"
    writer.add_expert_feed_forward_length(config[width])


def add_settings(writer: Any, config: dict[str, Any]) -> None:
    is_llada = config["model_type"] == "llada" and not is_llada_moe(config)
    names = {
        "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads", "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
    }  # fmt: skip

    def key(name: str) -> Any:
        return config[names[name] if is_llada else name]

    writer.add_embedding_length(key("hidden_size"))
    writer.add_block_count(key("num_hidden_layers"))
    writer.add_head_count(key("num_attention_heads"))
    writer.add_head_count_kv(key("num_key_value_heads"))
    writer.add_feed_forward_length(config.get("dense_intermediate_size") or key("intermediate_size"))
    if "num_experts" in config:
        add_experts(writer, config)
    writer.add_context_length(key("max_position_embeddings"))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config["model_type"] in ("llada", "Dream", "rnd1"):
        writer.add_causal_attention(False)
    for token in ("bos", "eos", "mask"):
        if config.get(f"{token}_token_id") is not None:
            getattr(writer, f"add_{token}_token_id")(config[f"{token}_token_id"])


def write_experts(writer: Any, tensors: dict[str, Tensor], type_of: Callable[[str], Type]) -> dict[str, Tensor]:
    """The matrices of a layer's experts as one tensor; the values that it holds."""
    stacks: dict[str, list[str]] = {}
    for name in sorted(name for name in tensors if ".mlp.experts." in name):
        before, _, after = name.partition(".experts.")
        stacks.setdefault(f"{before}.experts.{after.partition('.')[2]}", []).append(name)
    values = {}
    for seed, (stack, names) in enumerate(stacks.items()):
        parts = [encoded(tensors[name], type_of(name), 1000 * seed + i) for i, name in enumerate(names)]
        writer.add_tensor(gguf_name(stack), np.stack([data for data, _ in parts]), raw_dtype=type_of(names[0]))
        values |= {name: value for name, (_, value) in zip(names, parts, strict=True)}
    return values


def write_gguf(
    path: Path, model: Path, type_of: Callable[[str], Type], add: Callable[[Any], None] = lambda writer: None
) -> dict[str, Tensor]:
    """Writes the checkpoint `model` as GGUF, each matrix in the type of its name; the values that it holds, by the
    checkpoint's names. `add` may write more keys and tensors."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    family = family_of(config)
    writer = gguf.GGUFWriter(path, (ARCHITECTURES | EXPERT_ARCHITECTURES)[family])
    add_settings(writer, config)
    add(writer)
    tensors = load_file(model / "model.safetensors")
    values = write_experts(writer, tensors, type_of)
    for seed, (name, tensor) in enumerate(tensors.items()):
        if name in values:
            continue
        heads = 0
        if family in ("llama", "llada") and ".q_proj." in name:
            heads = config.get("num_attention_heads") or config["n_heads"]
        if family in ("llama", "llada") and ".k_proj." in name:
            heads = config.get("num_key_value_heads") or config["n_kv_heads"]
        stored = neighbours_rotated(tensor, heads) if heads else tensor
        if tensor.dim() == 1:
            writer.add_tensor(gguf_name(name), stored.float().numpy())
            values[name] = tensor.float()
            continue
        data, decoded = encoded(stored, type_of(name), seed)
        writer.add_tensor(gguf_name(name), data, raw_dtype=type_of(name))
        values[name] = halves_rotated(decoded, heads) if heads else decoded
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
