"""Writes a random checkpoint of a named shape, in the layout its family has on the Hugging Face hub.

Tensors are streamed to disk one after another in constant memory: every tensor is cut from one tile of normal noise,
starting at its own offset, so that 16 GB take about as long as the disk does. The same shape gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20261124
TILE_ELEMENTS = 8_388_593  # a prime: no two rows of a matrix are the same piece of the tile
OFFSET_STRIDE = 3_214_567  # coprime to the tile, so every tensor starts somewhere else
SHARD_BYTES = 5 * 1000**3
ELEMENT_BYTES = {"F32": 4, "BF16": 2}
WEIGHT_STD = 0.02
NORM_STD = 0.1


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: a weight has mean 0, a norm mean 1; tensors with the same source have the same bytes."""

    name: str
    shape: tuple[int, ...]
    std: float = WEIGHT_STD
    mean: float = 0.0
    source: str = ""

    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Shape:
    """A named shape: its config.json, its tensors in file order and the type they are stored in."""

    config: dict[str, Any]
    tensors: Callable[[dict[str, Any]], list[Tensor]]
    dtype: str


def llada_tensors(config: dict[str, Any]) -> list[Tensor]:
    """Tensors of a LLaDA checkpoint (block_type "llama"), named as in GSAI-ML/LLaDA-8B-Instruct."""
    hidden, layers, mlp = config["d_model"], config["n_layers"], config["mlp_hidden_size"]
    kv = hidden // config["n_heads"] * config["n_kv_heads"]
    vocab = config["embedding_size"]
    out_std = WEIGHT_STD / (2 * layers) ** 0.5  # layers that write to the residual stream are smaller in trained models
    tensors = [Tensor("model.transformer.wte.weight", (vocab, hidden))]
    for layer in range(layers):
        prefix = f"model.transformer.blocks.{layer}."
        tensors += [
            Tensor(prefix + "attn_norm.weight", (hidden,), NORM_STD, 1.0),
            Tensor(prefix + "q_proj.weight", (hidden, hidden)),
            Tensor(prefix + "k_proj.weight", (kv, hidden)),
            Tensor(prefix + "v_proj.weight", (kv, hidden)),
            Tensor(prefix + "attn_out.weight", (hidden, hidden), out_std),
            Tensor(prefix + "ff_norm.weight", (hidden,), NORM_STD, 1.0),
            Tensor(prefix + "ff_proj.weight", (mlp, hidden)),
            Tensor(prefix + "up_proj.weight", (mlp, hidden)),
            Tensor(prefix + "ff_out.weight", (hidden, mlp), out_std),
        ]
    tensors += [
        Tensor("model.transformer.ln_f.weight", (hidden,), NORM_STD, 1.0),
        Tensor("model.transformer.ff_out.weight", (vocab, hidden)),
    ]
    return tensors


def sdar_tensors(config: dict[str, Any]) -> list[Tensor]:
    """Tensors of an SDAR (Qwen3-like) checkpoint. As Qwen3-0.6B's file does, a tied head is stored a second time."""
    hidden, layers, mlp = (config[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    head_dim, vocab = config["head_dim"], config["vocab_size"]
    q, kv = (config[k] * head_dim for k in ("num_attention_heads", "num_key_value_heads"))
    out_std = WEIGHT_STD / (2 * layers) ** 0.5
    embedding = "model.embed_tokens.weight"
    tensors = [Tensor(embedding, (vocab, hidden))]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors += [
            Tensor(prefix + "input_layernorm.weight", (hidden,), NORM_STD, 1.0),
            Tensor(prefix + "self_attn.q_proj.weight", (q, hidden)),
            Tensor(prefix + "self_attn.k_proj.weight", (kv, hidden)),
            Tensor(prefix + "self_attn.v_proj.weight", (kv, hidden)),
            Tensor(prefix + "self_attn.o_proj.weight", (hidden, q), out_std),
            Tensor(prefix + "self_attn.q_norm.weight", (head_dim,), NORM_STD, 1.0),
            Tensor(prefix + "self_attn.k_norm.weight", (head_dim,), NORM_STD, 1.0),
            Tensor(prefix + "post_attention_layernorm.weight", (hidden,), NORM_STD, 1.0),
            Tensor(prefix + "mlp.gate_proj.weight", (mlp, hidden)),
            Tensor(prefix + "mlp.up_proj.weight", (mlp, hidden)),
            Tensor(prefix + "mlp.down_proj.weight", (hidden, mlp), out_std),
        ]
    tied = bool(config["tie_word_embeddings"])
    tensors += [
        Tensor("model.norm.weight", (hidden,), NORM_STD, 1.0),
        Tensor("lm_head.weight", (vocab, hidden), source=embedding if tied else ""),
    ]
    return tensors


# As published: GSAI-ML/LLaDA-8B-Instruct, config.json.
LLADA_8B = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}

# The keys of JetLM/SDAR-1.7B-Chat's config.json with the dimensions of Qwen/Qwen3-0.6B's.
QWEN3_06B = {
    "architectures": ["SDARForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "block_size": 4,
    "debug": False,
    "eos_token_id": 151643,
    "ep_size": 1,
    "fuse_cross_entropy": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "mask_token_id": 151669,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "micro_forward": False,
    "model_type": "sdar",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "skip_checkpoint": False,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.52.4",
    "use_cache": False,
    "use_deepep": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

# The shape of examples/tiny-llada.
TINY = LLADA_8B | {
    "d_model": 256,
    "embedding_size": 1024,
    "eos_token_id": 0,
    "mask_token_id": 1,
    "max_sequence_length": 256,
    "mlp_hidden_size": 512,
    "mlp_ratio": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 4,
    "pad_token_id": 0,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 1024,
}

# Wide enough to be bound by arithmetic, small enough for the official route to take seconds.
SMALL = QWEN3_06B | {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "mask_token_id": 1,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "vocab_size": 8000,
}

# LLaDA's layers at about the size of Qwen3-0.6B.
LLADA_05B = LLADA_8B | {"d_model": 1024, "n_heads": 16, "n_kv_heads": 16, "n_layers": 24, "mlp_hidden_size": 3072}

SHAPES = {
    "tiny": Shape(TINY, llada_tensors, "BF16"),
    "small": Shape(SMALL, sdar_tensors, "F32"),
    "qwen3-0.6b": Shape(QWEN3_06B, sdar_tensors, "F32"),
    "llada-0.5b": Shape(LLADA_05B, llada_tensors, "BF16"),
    "llada-8b": Shape(LLADA_8B, llada_tensors, "BF16"),
}


def to_bytes(values: np.ndarray, dtype: str) -> bytes:
    """Encodes float32 values, little-endian; BF16 is rounded to nearest, ties to even."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def split_into_shards(tensors: list[Tensor], dtype: str) -> list[list[Tensor]]:
    """Fills files of at most SHARD_BYTES in order, as save_pretrained does; a larger tensor gets a file of its own."""
    shards: list[list[Tensor]] = [[]]
    used = 0
    for tensor in tensors:
        size = tensor.elements() * ELEMENT_BYTES[dtype]
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    return shards


def safetensors_header(tensors: list[Tensor], dtype: str) -> bytes:
    """The u64 length and the JSON of a safetensors file, padded with spaces to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size = tensor.elements() * ELEMENT_BYTES[dtype]
        entries[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_checkpoint(shape: Shape, folder: Path) -> int:
    """Writes config.json and the safetensors files of a shape; returns the bytes of all tensors."""
    tile = np.random.default_rng(SEED).standard_normal(TILE_ELEMENTS, dtype=np.float32)
    encoded: dict[tuple[float, float], bytes] = {}
    tensors = shape.tensors(shape.config)
    order = {tensor.name: i for i, tensor in enumerate(tensors)}
    width = ELEMENT_BYTES[shape.dtype]
    shards = split_into_shards(tensors, shape.dtype)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / name, "wb") as file:
            file.write(safetensors_header(shard, shape.dtype))
            for tensor in shard:
                weight_map[tensor.name] = name
                key = (tensor.std, tensor.mean)
                if key not in encoded:
                    encoded[key] = to_bytes(tile * np.float32(tensor.std) + np.float32(tensor.mean), shape.dtype)
                view = memoryview(encoded[key])
                start = order[tensor.source or tensor.name] * OFFSET_STRIDE % TILE_ELEMENTS * width
                left = tensor.elements() * width
                while left:
                    piece = view[start : start + left]
                    file.write(piece)
                    left -= len(piece)
                    start = 0
    total = sum(tensor.elements() for tensor in tensors) * width
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(shape.config, indent=2) + "\n")
    return total


def make_checkpoint(name: str, folder: Path) -> int:
    """Writes the shape beside `folder` and renames it when complete; returns the bytes of all tensors."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it first")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    total = write_checkpoint(SHAPES[name], partial)
    partial.rename(folder)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        total = make_checkpoint(options.shape, options.folder)
    except OSError as error:
        print(f"make_checkpoint: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    print(f"{options.folder}: {total / 1e9:.3f} GB in {seconds:.1f} s ({total / 1e9 / seconds:.2f} GB/s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
