"""Writes GGUF files and evaluates them in llama.cpp itself: the same logits, the same loss, the same token ids.

    python benchmarks/llama_cpp.py --source LLAMA_CPP --library BUILD/bin [MODEL ...]

LLAMA_CPP is a checkout of llama.cpp, or vendor/llama.cpp of the sdist of llama-cpp-python; BUILD a folder in which
`cmake -S LLAMA_CPP -B BUILD -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
-DLLAMA_BUILD_COMMON=OFF && cmake --build BUILD --target llama` built its library. Without MODEL: a small random model
of every family that is written, from the tests. Each is written in FP32, FP16, INT8 and INT4 and computed twice, by
`diffulex-edge evaluate` on what the file holds, as our reader has it in float32, and by llama.cpp, which rounds
activations to 8 bits before it multiplies quantized weights (Q8_0 and Q4_0), and to FP16 before F16.

The loss is that of the next token, or of a masked model that of its masked tokens (every second one).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from command import run_json, tiny_llada_text  # noqa: E402
from expert_families import make_expert_checkpoint  # noqa: E402
from families import make_checkpoint  # noqa: E402
from simulation import simulated_logits  # noqa: E402

Array = NDArray[Any]

DTYPES = ("fp32", "fp16", "int8", "int4")
TEXT = """In the beginning was the word, and 1234567 words more.
  I'm here\tthey'LL be there
<|endoftext|>caf\u00e9 \u4e2d\u6587 x=[1,22,333]; // __init__
"""
SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 320, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
LLADA_SIZES: dict[str, Any] = {
    "d_model": 128, "mlp_hidden_size": 192, "n_layers": 2, "vocab_size": 320, "embedding_size": 320, "n_heads": 4,
    "n_kv_heads": 2, "mask_token_id": 319,
}  # fmt: skip


def compile_program(source: Path, library: Path, folder: Path) -> Path:
    program = folder / "llama_cpp_logits"
    subprocess.run(
        [
            "c++", "-O1", "-std=c++17", str(ROOT / "benchmarks/llama_cpp_logits.cc"), "-o", str(program),
            f"-I{source / 'include'}", f"-I{source / 'ggml/include'}", f"-L{library}", "-lllama", "-lggml",
            "-lggml-base", f"-Wl,-rpath,{library.resolve()}",
        ],
        check=True,
    )  # fmt: skip
    return program


def llama_cpp_logits(program: Path, model: Path, ids: Array, folder: Path) -> Array:
    (folder / "ids.i32").write_bytes(ids.astype(np.int32).tobytes())
    subprocess.run([program, model, "ids", folder / "ids.i32", folder / "logits.f32"], check=True)
    return np.fromfile(folder / "logits.f32", np.float32).reshape(len(ids), -1)


class Sequence:
    """Ids that a model sees, and what it is asked: of a causal model the next token, of others those that are masked.

    They are of real text where the model has a tokenizer, else random.
    """

    def __init__(self, model: Path, shape: dict[str, Any]) -> None:
        length = min(256, shape["max_positions"])
        if (model / "tokenizer.json").is_file():
            text = (ROOT / "examples/tiny-llada/calibration.txt").read_text(encoding="utf-8")[:4000]
            encoded = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
            self.text = np.array(encoded[:length])
        else:
            self.text = np.random.default_rng(3).integers(0, shape["vocab_size"] - 1, length)
        self.ids = self.text.copy()
        mask = json.loads((model / "config.json").read_text()).get("mask_token_id")
        self.is_causal = shape["block_length"] == 1 or mask is None
        if not self.is_causal:
            self.ids[1::2] = mask

    def loss(self, logits: Array) -> float:
        targets, values = (self.text[1:], logits[:-1]) if self.is_causal else (self.text[1::2], logits[1::2])
        pair = torch.from_numpy(values).double(), torch.from_numpy(targets.astype(np.int64))
        return float(torch.nn.functional.cross_entropy(*pair))


def count_token_differences(program: Path, model: Path, gguf: Path, folder: Path) -> int:
    """Lines of text whose ids are not those of Hugging Face's tokenizer."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    printed = subprocess.run([program, gguf, "text", folder / "text.txt"], check=True, capture_output=True, text=True)
    theirs = [[int(number) for number in line.split()] for line in printed.stdout.splitlines()]
    ours = [tokenizer.encode(line, add_special_tokens=False).ids for line in TEXT.splitlines()]
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


def make_a2d(path: Path, family: str) -> Path:
    make_checkpoint(path, family, **SIZES)
    config = json.loads((path / "config.json").read_text())
    name = {"llama": "A2DLlama", "qwen2": "A2DQwen2", "qwen3": "A2DQwen3"}[family]
    config |= {"model_type": f"a2d-{family}", "architectures": [f"{name}LMHeadModel"], "mask_token_id": 319}
    (path / "config.json").write_text(json.dumps(config))
    return path


def random_models(folder: Path) -> dict[str, Path]:
    models = {}
    for family in ("llama", "qwen2", "qwen3", "dream", "llada"):
        sizes = LLADA_SIZES if family == "llada" else SIZES
        models[family] = make_checkpoint(folder / family, family, **sizes)
    for name, rope in {
        "llama, llama3 rope": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 64},
        "qwen3, yarn rope": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "llama, linear rope": {"rope_type": "linear", "factor": 4.0},
    }.items():  # fmt: skip
        family = name.split(",")[0]
        models[name] = make_checkpoint(folder / name, family, **SIZES, rope_scaling=rope)
    models["llama, biases"] = make_checkpoint(folder / "biases", "llama", **SIZES, attention_bias=True, mlp_bias=True)
    models["llada, biases"] = make_checkpoint(folder / "llada-biases", "llada", **LLADA_SIZES, include_qkv_bias=True)
    for family in ("llama", "qwen2", "qwen3"):
        models[f"a2d-{family}"] = make_a2d(folder / f"a2d-{family}", family)
    for family in ("qwen3_moe", "rnd1", "llada_moe"):
        models[family] = make_expert_checkpoint(folder / family, family)
    models["the bundled LLaDA"] = tiny_llada_text()
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("models", type=Path, nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = compile_program(arguments.source, arguments.library, folder)
        models = {str(model): model for model in arguments.models} or random_models(folder)
        print("| model | file | loss here | loss in llama.cpp | largest difference of logits | of magnitude |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        for name, model in models.items():
            shape = run_json("inspect", model, "--no-hash")["config"]
            sequence = Sequence(model, shape)
            for dtype in DTYPES:
                target = folder / "model.gguf"
                run_json("quantize", model, "-o", target, "--dtype", dtype)
                ours = simulated_logits(target, torch.from_numpy(sequence.ids), folder).numpy()
                theirs = llama_cpp_logits(program, target, sequence.ids, folder)
                losses = [sequence.loss(logits) for logits in (ours, theirs)]
                print(
                    f"| {name} | {dtype} | {losses[0]:.6f} | {losses[1]:.6f} | {np.abs(ours - theirs).max():.2g} "
                    f"| {np.abs(ours).max():.3g} |",
                    flush=True,
                )
            if (model / "tokenizer.json").is_file():
                differences = count_token_differences(program, model, target, folder)
                print(f"{name}: {differences} of {len(TEXT.splitlines())} lines have other token ids in llama.cpp")


if __name__ == "__main__":
    main()
