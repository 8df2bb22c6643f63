"""Exports a checkpoint of Qwen3's or SDAR's layout by ExecuTorch's own route for language models (export_llm).

That is its Llama-style model: a cache of its own operators (use_sdpa_with_kv_cache), layers in INT4 groups with
dynamic 8-bit activations (8da4w) and embeddings in INT4 groups. The result takes input_ids int64 [1, B] and input_pos
int64 [1], as our programs with a cache do: `steps.py --official` lets both take turns. Needs the packages of the tests'
environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


def meta_checkpoint(folder: Path, target: Path) -> None:
    """The weights under the names that the route reads."""
    from executorch.examples.models.qwen3.convert_weights import qwen_3_tune_to_meta

    state = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    torch.save(qwen_3_tune_to_meta({name: tensor.float() for name, tensor in state.items()}), target)


def write_params(folder: Path, target: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    params = {
        "dim": config["hidden_size"],
        "ffn_dim_multiplier": 1,
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "head_dim": config["head_dim"],
        "n_kv_heads": config["num_key_value_heads"],
        "n_layers": config["num_hidden_layers"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"],
        "use_scaled_rope": False,
        "vocab_size": config["vocab_size"],
        "use_hf_rope": True,
        "attention_qkv_bias": False,
        "use_qk_norm": True,
        "qk_norm_before_rope": True,
    }
    target.write_text(json.dumps(params))


def export(folder: Path, target: Path, capacity: int, group_size: int, full_logits: bool) -> float:
    """Seconds that the route takes."""
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig, ModelType

    work = target.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    meta_checkpoint(folder, work / "meta.pth")
    write_params(folder, work / "params.json")
    config = LlmConfig()
    config.base.model_class = ModelType.qwen3_0_6b
    config.base.checkpoint, config.base.params = str(work / "meta.pth"), str(work / "params.json")
    config.base.metadata = '{"get_bos_id": 0, "get_eos_ids": [0]}'
    config.model.use_kv_cache = config.model.use_sdpa_with_kv_cache = True
    config.export.max_seq_length = config.export.max_context_length = capacity
    config.export.output_name = str(target)
    config.quantization.qmode, config.quantization.group_size = "8da4w", group_size
    config.quantization.embedding_quantize = f"4,{group_size}"
    config.quantization.use_hqq = False  # round-to-nearest, as ours
    config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    config.debug.generate_full_logits = full_logits
    begin = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        export_llama(config)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder in Qwen3's or SDAR's layout")
    parser.add_argument("target", type=Path, help="the .pte")
    parser.add_argument("--capacity", type=int, default=2048)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--last-logits", action="store_true", help="of a step's last token only (default: of all)")
    options = parser.parse_args()
    seconds = export(options.model, options.target, options.capacity, options.group_size, not options.last_logits)
    print(json.dumps({"seconds": seconds, "file_bytes": options.target.stat().st_size}))


if __name__ == "__main__":
    main()
