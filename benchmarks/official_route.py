"""Exports a checkpoint the way ExecuTorch documents it: torch.export, torchao, to_edge_transform_and_lower, XNNPACK.

The model is a plain decoder in PyTorch with the same signature and the same layers kept in FP32 (embedding and lm_head)
as our defaults. Prints one JSON line: seconds by stage, peak RSS, file size, delegate calls, operators outside.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

if TYPE_CHECKING:
    from executorch.exir import EdgeProgramManager

PACKAGES = ("torch", "executorch", "torchao")


@dataclass(frozen=True)
class DecoderConfig:
    """What a decoder is made of. `block_length` 0 means fully bidirectional attention, 1 causal."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float
    eps: float
    tied: bool
    qk_norm: bool
    block_length: int


def transformers_config(c: dict[str, Any], *, head_dim: int, qk_norm: bool, block_length: int) -> DecoderConfig:
    """What the models of the transformers library name alike."""
    return DecoderConfig(
        hidden=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        head_dim=head_dim,
        intermediate=c["intermediate_size"],
        vocab=c["vocab_size"],
        rope_theta=c["rope_theta"],
        eps=c["rms_norm_eps"],
        tied=c["tie_word_embeddings"],
        qk_norm=qk_norm,
        block_length=block_length,
    )


def read_config(folder: Path) -> DecoderConfig:
    """Reads config.json of a LLaDA, Llama, SDAR or Qwen3 checkpoint; anything else is a ValueError."""
    c = json.loads((folder / "config.json").read_text())
    match c["model_type"]:
        case "llada":
            return DecoderConfig(
                hidden=c["d_model"],
                layers=c["n_layers"],
                heads=c["n_heads"],
                kv_heads=c["n_kv_heads"],
                head_dim=c["d_model"] // c["n_heads"],
                intermediate=c["mlp_hidden_size"],
                vocab=c["embedding_size"],
                rope_theta=c["rope_theta"],
                eps=c["rms_norm_eps"],
                tied=c["weight_tying"],
                qk_norm=False,
                block_length=0,
            )
        case "llama":
            if c.get("rope_scaling") or c.get("attention_bias") or c.get("mlp_bias"):
                raise ValueError("a Llama with scaled rotary positions or biases has no reference model here")
            head_dim = c["hidden_size"] // c["num_attention_heads"]
            return transformers_config(c, head_dim=head_dim, qk_norm=False, block_length=1)
        case "sdar" | "qwen3":
            block_length = c.get("block_length", c.get("block_size", 4)) if c["model_type"] == "sdar" else 1
            return transformers_config(c, head_dim=c["head_dim"], qk_norm=True, block_length=block_length)
        case other:
            raise ValueError(f"model_type {other!r}: only llada, llama, sdar and qwen3 have a reference model here")


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and an optional norm of queries and keys.

    `fused` calls scaled_dot_product_attention, whose decomposition leaves operators outside XNNPACK; otherwise the same
    formula is written out, which lowers whole and runs faster there.
    """

    def __init__(self, config: DecoderConfig, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.head_dim = config.head_dim
        self.groups = config.heads // config.kv_heads
        self.q_proj = nn.Linear(config.hidden, config.heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden, config.kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden, config.kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.hidden, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, -1, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, length, -1, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
            y = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    """Pre-norm transformer layer with SwiGLU."""

    def __init__(self, config: DecoderConfig, fused_attention: bool) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden, config.eps)
        self.attention = Attention(config, fused_attention)
        self.mlp_norm = nn.RMSNorm(config.hidden, config.eps)
        self.gate_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.down_proj = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask)
        h = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Decoder(nn.Module):
    """input_ids int64 [1, length] -> logits float32 [1, length, vocab], length at most seq_len.

    Rotary tables and the block-causal mask are buffers cut to the length, as ExecuTorch's own Llama has them. They are
    one longer than the longest input: torch.export would specialize on a cut that keeps everything.
    """

    def __init__(self, config: DecoderConfig, seq_len: int, fused_attention: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config, fused_attention) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, config.eps)
        self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)
        with torch.device("cpu"):
            half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
            positions = torch.arange(seq_len + 1)
            angles = positions[:, None] * config.rope_theta**-half
            angles = torch.cat((angles, angles), dim=-1)
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)
            mask = None
            if config.block_length:
                block = positions // config.block_length
                hidden = block[:, None] < block[None, :]
                mask = torch.zeros(seq_len + 1, seq_len + 1).masked_fill(hidden, float("-inf"))
            self.register_buffer("mask", mask, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        mask = None if self.mask is None else self.mask[:length, :length]
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length], mask)
        return self.lm_head(self.norm(x))


def tensor_names(config: DecoderConfig, model_type: str) -> Iterator[tuple[str, str]]:
    """Pairs (name in Decoder, name in the checkpoint)."""
    if model_type == "llada":
        yield "embedding", "model.transformer.wte"
        yield "norm", "model.transformer.ln_f"
        if not config.tied:
            yield "lm_head", "model.transformer.ff_out"
        prefix = "model.transformer.blocks"
        layer_names = {"attention_norm": "attn_norm", "mlp_norm": "ff_norm"}
        layer_names |= {f"attention.{p}_proj": f"{p}_proj" for p in "qkv"} | {"attention.o_proj": "attn_out"}
        layer_names |= {"gate_proj": "ff_proj", "up_proj": "up_proj", "down_proj": "ff_out"}
    else:
        yield "embedding", "model.embed_tokens"
        yield "norm", "model.norm"
        if not config.tied:
            yield "lm_head", "lm_head"
        prefix = "model.layers"
        layer_names = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        layer_names |= {f"attention.{p}_proj": f"self_attn.{p}_proj" for p in "qkvo"}
        if config.qk_norm:
            layer_names |= {f"attention.{p}_norm": f"self_attn.{p}_norm" for p in "qk"}
        layer_names |= {name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    for layer in range(config.layers):
        for ours, theirs in layer_names.items():
            yield f"layers.{layer}.{ours}", f"{prefix}.{layer}.{theirs}"


def load_decoder(folder: Path, seq_len: int, fused_attention: bool = False) -> Decoder:
    """Builds the decoder on the meta device and gives it the checkpoint's weights, memory-mapped, as float32."""
    config = read_config(folder)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    with torch.device("meta"):
        model = Decoder(config, seq_len, fused_attention)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
    else:
        with safe_open(folder / "model.safetensors", "pt") as file:
            weight_map = dict.fromkeys(file.keys(), "model.safetensors")
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(safe_open(folder / name, "pt")) for name in set(weight_map.values())}
        state = {}
        for ours, theirs in tensor_names(config, model_type):
            name = theirs + ".weight"
            if name in weight_map:
                state[ours + ".weight"] = files[weight_map[name]].get_tensor(name).float()
    if config.tied:
        state["lm_head.weight"] = state["embedding.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    if config.tied:
        model.lm_head.weight = model.embedding.weight
    return model.eval().requires_grad_(False)


def quantize(model: Decoder, weight_dtype: torch.dtype, group_size: int, qparams: str, head: bool) -> None:
    """Quantizes the linear layers in place as ExecuTorch's LLM export does for "8da4w" and "8da8w".

    Weights are symmetric, in groups of `group_size` along the input (0: per channel); activations are INT8, per token.
    """
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=weight_dtype,
        weight_granularity=PerGroup(group_size) if group_size else PerAxis(0),
        intx_choose_qparams_algorithm=qparams,
    )
    quantize_(model, config, lambda module, name: isinstance(module, nn.Linear) and (head or name != "lm_head"))


def lower(exported: torch.export.ExportedProgram) -> EdgeProgramManager:
    """Lowers to XNNPACK everything it takes, as the XNNPACK pages of ExecuTorch's documentation do."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils.configs import get_transform_passes
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        exported,
        partitioner=[XnnpackPartitioner()],
        transform_passes=get_transform_passes(),
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )


def calls_in(graph_module: torch.fx.GraphModule) -> tuple[int, dict[str, int]]:
    """Counts delegate calls and, by name, the operators that stay outside the delegate."""
    delegate_calls = 0
    operators: Counter[str] = Counter()
    for node in graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "_name", None) or getattr(node.target, "__name__", node.target))
        if "call_delegate" in name:
            delegate_calls += 1
        elif name not in ("getitem", "alloc"):
            operators[name] += 1
    return delegate_calls, dict(operators.most_common())


def seconds_since_start() -> float:
    """Wall time since the kernel started this process, so that importing PyTorch counts."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes() -> int:
    """VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


class Stages:
    """Wall seconds of each stage of this process, from its start on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = 0.0

    def __call__(self, name: str) -> None:
        """Ends a stage."""
        now = seconds_since_start()
        self.seconds[name] = round(now - self._clock, 3)
        self._clock = now


def export_checkpoint(options: argparse.Namespace) -> dict[str, object]:
    """Runs the whole route and returns what main prints; seconds are wall time."""
    stage = Stages()
    import executorch.exir  # noqa: F401 (imported here to be timed)
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

    stage("import")
    model = load_decoder(options.model, options.seq_len, options.attention == "sdpa")
    stage("load")
    match options.format:
        case "8da4w":
            quantize(model, torch.int4, options.group_size, options.qparams, options.quantize_head)
        case "int8_dynamic":
            quantize(model, torch.int8, 0, options.qparams, options.quantize_head)
    stage("quantize")
    example = torch.zeros(1, options.seq_len // 2, dtype=torch.int64)
    length = torch.export.Dim("length", min=1, max=options.seq_len)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        exported = torch.export.export(model, (example,), dynamic_shapes=({1: length},))
        stage("torch.export")
        edge = lower(exported)
    del model, exported
    stage("lower")
    program = edge.to_executorch(
        ExecutorchBackendConfig(extract_delegate_segments=True, sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass())
    )
    delegate_calls, operators = calls_in(program.exported_program().graph_module)
    stage("to_executorch")
    with open(options.output, "wb") as file:
        program.write_to_file(file)
    stage("write")
    return {
        "format": options.format,
        "group_size": options.group_size if options.format == "8da4w" else None,
        "qparams": options.qparams if options.format != "fp32" else None,
        "attention": options.attention,
        "seq_len": options.seq_len,
        "seconds": stage.seconds,
        "total_seconds": round(sum(stage.seconds.values()), 3),
        "peak_rss_bytes": peak_rss_bytes(),
        "file_bytes": options.output.stat().st_size,
        "delegate_calls": delegate_calls,
        "operators_outside": sum(operators.values()),
        "operators": operators,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--format", choices=("fp32", "8da4w", "int8_dynamic"), default="8da4w")
    parser.add_argument("--group-size", type=int, default=32, help="of 8da4w, in input elements")
    parser.add_argument("--seq-len", type=int, default=128, help="upper bound of the sequence length")
    parser.add_argument("--quantize-head", action="store_true", help="quantize lm_head too")
    parser.add_argument("--qparams", choices=("affine", "hqq_scale_only"), default="affine", help="torchao's algorithm")
    parser.add_argument("--attention", choices=("matmul", "sdpa"), default="matmul", help="how attention is written")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    try:
        result = export_checkpoint(options)
    except (OSError, ValueError) as error:
        print(f"official_route: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
