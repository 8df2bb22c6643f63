"""Trains the bundled models that write: small diffusion language models on the King James Bible.

Two stages. First a plain autoregressive model, which is the cheapest way to learn the language; then the same weights
with the objective of the form that is asked for:

- sdar (examples/tiny-sdar): blocks of masked tokens, each of which sees itself and the clean blocks before it, and
  predicts the token at its own position.
- llada (examples/tiny-llada-text): any share of a row is masked; every token sees the whole row.

    scripts/install-packages bench
    python scripts/train_tiny_model.py build/tiny-sdar --checkpoint build/tiny-sdar.pt
    python scripts/train_tiny_model.py build/tiny-sdar --sample

The README.md of each model has the command that made it and what it reached.

A run that was stopped goes on from its checkpoint. Batches depend on the seed and the step only; two runs with equal
steps and threads on one machine see the same numbers. With minutes the schedule follows the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END: Final = "<|endoftext|>"
MASK: Final = "<|mask|>"
END_ID: Final = 0
MASK_ID: Final = 1
HELD_OUT: Final = 0.05
QUERY_CHUNK: Final = 64
EVALUATED: Final = 64  # held-out windows

# The keys of SDAR's published config.json. Its block length, 4, is not among them.
SDAR_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["SDARForCausalLM"],
    "model_type": "sdar",
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 640,
    "vocab_size": 2048,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 6,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "fuse_cross_entropy": True,
    "mask_token_id": MASK_ID,
    "bos_token_id": END_ID,
    "eos_token_id": END_ID,
    "pad_token_id": END_ID,
    "torch_dtype": "bfloat16",
}
BLOCK: Final = 4

# The keys of LLaDA's published config.json, of equal width and depth. There are no norms of queries and keys.
LLADA_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "d_model": 256,
    "n_layers": 6,
    "n_heads": 4,
    "n_kv_heads": 2,
    "mlp_hidden_size": 640,
    "mlp_ratio": 4,
    "vocab_size": 2048,
    "embedding_size": 2048,
    "mask_token_id": MASK_ID,
    "eos_token_id": END_ID,
    "pad_token_id": END_ID,
    "rms_norm_eps": 1e-06,
    "rope": True,
    "rope_theta": 10000.0,
    "rope_full_precision": True,
    "alibi": False,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": True,
    "scale_logits": False,
    "input_emb_norm": False,
    "max_sequence_length": 256,
    "multi_query_attention": None,
    "use_cache": False,
    "torch_dtype": "bfloat16",
}

# Where LLaDA's checkpoint has the parameters of `Decoder`.
LLADA_NAMES: Final[dict[str, str]] = {
    "embed_tokens": "transformer.wte",
    "layers": "transformer.blocks",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "norm": "transformer.ln_f",
}

PROMPTS: Final = ("And the LORD said unto", "In the beginning", "Blessed are", "Wisdom is", "And Jesus answered")


# --- Text ---------------------------------------------------------------------------------------------------------


def read_chapters() -> list[list[str]]:
    """The verses of each chapter of the King James Bible, without their numbers."""
    try:
        lines = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit("the command `bible` is missing; run `scripts/install-packages bench`") from None
    chapters: list[list[str]] = []
    for line in lines.splitlines():
        reference, verse = re.fullmatch(r"\S*\d+:(\d+)\s+(.*)", line.strip()).groups()
        if reference == "1":
            chapters.append([])
        chapters[-1].append(verse)
    return chapters


def split_chapters(chapters: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Training text, and the chapters that begin in its last 5%, by characters."""
    sizes = [sum(len(verse) + 1 for verse in chapter) for chapter in chapters]
    border = (1 - HELD_OUT) * sum(sizes)
    starts = np.cumsum([0, *sizes[:-1]])
    first = int(np.argmax(starts >= border))
    return chapters[:first], chapters[first:]


def train_tokenizer(chapters: list[list[str]], vocab: int) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((verse for chapter in chapters for verse in chapter), trainer)
    return tokenizer


class Passages:
    """Rows of tokens made of passages: some verses of one chapter, one a line, and the end token."""

    def __init__(self, chapters: list[list[str]], tokenizer: Tokenizer) -> None:
        self.verses: list[list[int]] = []
        self.left: list[int] = []  # verses to the end of the chapter, this one counted
        for chapter in chapters:
            self.verses += [encoding.ids for encoding in tokenizer.encode_batch(chapter)]
            self.left += range(len(chapter), 0, -1)
        self.newline: list[int] = tokenizer.encode("\n").ids

    def batch(self, rng: np.random.Generator, rows: int, length: int) -> Tensor:
        return torch.tensor([self._row(rng, length) for _ in range(rows)])

    def _row(self, rng: np.random.Generator, length: int) -> list[int]:
        row: list[int] = []
        while len(row) < length:
            first = int(rng.integers(len(self.verses)))
            count = min(int(rng.integers(2, 9)), self.left[first])
            for verse in range(first, first + count):
                row += self.verses[verse] + (self.newline if verse + 1 < first + count else [END_ID])
        return row[:length]

    def windows(self, count: int, length: int) -> Tensor:
        """Evenly spaced windows of running text that begin with a verse."""
        rows = []
        last = len(self.verses) - length // 4
        for first in np.linspace(0, last, count).astype(int):
            row: list[int] = []
            while len(row) < length and first < len(self.verses):
                row += self.verses[first] + self.newline
                first += 1
            if len(row) >= length:
                rows.append(row[:length])
        return torch.tensor(rows)


# --- Model --------------------------------------------------------------------------------------------------------


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class Linear(nn.Linear):
    """A linear layer without bias that computes in the type of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    theta: float
    query_key_norms: bool

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        if config["model_type"] == "llada":
            return Shape(
                hidden=config["d_model"],
                layers=config["n_layers"],
                heads=config["n_heads"],
                kv_heads=config["n_kv_heads"],
                head_dim=config["d_model"] // config["n_heads"],
                intermediate=config["mlp_hidden_size"],
                vocab=config["embedding_size"],
                eps=config["rms_norm_eps"],
                theta=config["rope_theta"],
                query_key_norms=False,
            )
        return Shape(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            eps=config["rms_norm_eps"],
            theta=config["rope_theta"],
            query_key_norms=True,
        )


class Attention(nn.Module):
    """Qwen3's attention on [rows, streams, length, hidden]. Stream 0 is the clean text; the others are noisy copies."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.heads, self.kv_heads, self.dim = shape.heads, shape.kv_heads, shape.head_dim
        self.q_proj = Linear(hidden, self.heads * self.dim)
        self.k_proj = Linear(hidden, self.kv_heads * self.dim)
        self.v_proj = Linear(hidden, self.kv_heads * self.dim)
        self.o_proj = Linear(self.heads * self.dim, hidden)
        self.q_norm = RmsNorm(self.dim, shape.eps) if shape.query_key_norms else nn.Identity()
        self.k_norm = RmsNorm(self.dim, shape.eps) if shape.query_key_norms else nn.Identity()

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], block: int) -> Tensor:
        rows, streams, length, _ = x.shape
        split = (rows, streams, length, -1, self.dim)
        query = rotate(self.q_norm(self.q_proj(x).view(split)), rotary).to(x.dtype)
        key = rotate(self.k_norm(self.k_proj(x).view(split)), rotary).to(x.dtype)
        value = self.v_proj(x).view(split)
        # [rows, kv heads, streams, heads of the group, length, dim]
        query = query.unflatten(3, (self.kv_heads, -1)).permute(0, 3, 1, 4, 2, 5) * (self.dim**-0.5)
        key, value = key.permute(0, 3, 1, 2, 4), value.permute(0, 3, 1, 2, 4)
        out = [self._clean(query[:, :, :1], key[:, :, 0], value[:, :, 0], block)]
        if streams > 1:
            out.append(self._noisy(query[:, :, 1:], key, value, block))
        attended = torch.cat(out, 2).permute(0, 2, 4, 1, 3, 5).reshape(rows, streams, length, -1)
        return self.o_proj(attended)

    def _clean(self, query: Tensor, key: Tensor, value: Tensor, block: int) -> Tensor:
        # In chunks of queries, because each needs the keys up to its block's end only.
        parts, length = [], key.shape[2]
        chunk_length = max(QUERY_CHUNK, block)
        for start in range(0, length, chunk_length):
            end = min(start + chunk_length, length)
            chunk = query[..., start:end, :]
            scores = (chunk.flatten(2, 4) @ key[:, :, :end].transpose(-1, -2)).unflatten(2, chunk.shape[2:5])
            if block < length:
                scores = scores + visible(start, end, block, own=True).to(query.dtype)
            weights = scores.softmax(-1)
            parts.append((weights.flatten(2, 4) @ value[:, :, :end]).unflatten(2, chunk.shape[2:5]))
        return torch.cat(parts, 4)

    def _noisy(self, query: Tensor, key: Tensor, value: Tensor, block: int) -> Tensor:
        # A noisy block sees itself, and the clean blocks before it.
        parts, length = [], key.shape[3]
        for start in range(0, length, QUERY_CHUNK):
            end = min(start + QUERY_CHUNK, length)
            before = visible(start, end, block, own=False)
            itself = same_block(end - start, block)
            chunk = query[..., start:end, :]
            noisy_key, noisy_value = key[:, :, 1:, start:end], value[:, :, 1:, start:end]
            to_clean = (chunk.flatten(2, 4) @ key[:, :, 0, :end].transpose(-1, -2)).unflatten(2, chunk.shape[2:5])
            to_noisy = (chunk.flatten(3, 4) @ noisy_key.transpose(-1, -2)).unflatten(3, chunk.shape[3:5])
            seen = torch.cat((before, itself), -1).to(query.dtype)
            weights = (torch.cat((to_clean, to_noisy), -1) + seen).softmax(-1)
            from_clean = (weights[..., :end].flatten(2, 4) @ value[:, :, 0, :end]).unflatten(2, chunk.shape[2:5])
            from_noisy = (weights[..., end:].flatten(3, 4) @ noisy_value).unflatten(3, chunk.shape[3:5])
            parts.append(from_clean + from_noisy)
        return torch.cat(parts, 4)


def visible(start: int, end: int, block: int, own: bool) -> Tensor:
    """0 where queries [start, end) see keys [0, end), a large negative number elsewhere."""
    queries, keys = torch.arange(start, end)[:, None] // block, torch.arange(end)[None] // block
    return torch.where(keys <= queries if own else keys < queries, 0.0, -1e9)


def same_block(length: int, block: int) -> Tensor:
    blocks = torch.arange(length) // block
    return torch.where(blocks[:, None] == blocks[None], 0.0, -1e9)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on [rows, streams, length, heads, dim]; dimension i is paired with i + dim/2."""
    cos, sin = rotary
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, width = shape.hidden, shape.intermediate
        self.gate_proj = Linear(hidden, width)
        self.up_proj = Linear(hidden, width)
        self.down_proj = Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden, shape.eps)
        self.mlp = Mlp(shape)
        self.dropout = 0.0

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], block: int, dtype: torch.dtype) -> Tensor:
        x = x + F.dropout(self.self_attn(self.input_layernorm(x).to(dtype), rotary, block), self.dropout)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x).to(dtype)), self.dropout)


class Decoder(nn.Module):
    """Its parameters have the names of SDAR's tensors, without "model."."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.shape = shape = Shape.of(config)
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.hidden, shape.eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (math.sqrt(2 * len(self.layers)) if deep else 1)
                nn.init.normal_(parameter, std=std)

    def hidden(self, ids: Tensor, block: int, dtype: torch.dtype) -> Tensor:
        """Normed hidden states of ids [rows, streams, length]; block 1 is a causal mask, the length a full one."""
        dim, theta = self.shape.head_dim, self.shape.theta
        frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        angles = torch.arange(ids.shape[-1], dtype=torch.float32)[:, None, None] * frequencies
        rotary = angles.cos(), angles.sin()
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, rotary, block, dtype)
        return self.norm(x).to(dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype)).float()

    @torch.no_grad()
    def forward(self, ids: Tensor, block: int = BLOCK) -> Tensor:
        """Logits of clean text [rows, length], in float32."""
        return self.logits(self.hidden(ids[:, None], block, torch.float32)[:, 0])


# --- Objectives ---------------------------------------------------------------------------------------------------


def token_losses(model: Decoder, hidden: Tensor, targets: Tensor) -> Tensor:
    # In pieces: logits of everything would not stay in the processor's caches.
    pieces = zip(hidden.split(1024), targets.split(1024), strict=True)
    return torch.cat([F.cross_entropy(model.logits(part), target, reduction="none") for part, target in pieces])


def autoregressive_loss(model: Decoder, ids: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = model.hidden(ids[:, None], 1, dtype)[:, 0, :-1]
    return token_losses(model, hidden.flatten(0, 1), ids[:, 1:].flatten()).mean()


def choose_masks(rng: torch.Generator, rows: int, length: int, counts: Tensor) -> Tensor:
    """bool [rows, length]: in each block, as many random positions as `counts` [rows, blocks] says."""
    order = torch.rand(rows, length // BLOCK, BLOCK, generator=rng).argsort(-1).argsort(-1)
    return (order < counts[..., None]).flatten(1)


def diffusion_losses(model: Decoder, ids: Tensor, masks: Tensor, dtype: torch.dtype) -> Tensor:
    """Cross-entropy of every masked token: ids [rows, length], masks [rows, copies, length]."""
    noisy = torch.where(masks, MASK_ID, ids[:, None])
    hidden = model.hidden(torch.cat((ids[:, None], noisy), 1), BLOCK, dtype)[:, 1:]
    return token_losses(model, hidden[masks], ids[:, None].expand_as(masks)[masks])


def block_diffusion_loss(model: Decoder, ids: Tensor, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """The bound of block diffusion, with mask counts that are uniform in 1..4 and stratified.

    Each block has two noisy copies for one clean text: one is all masks, the other has 1, 2 or 3 of them. A token's
    weight is 4 / masks, and a quarter of the counts are 4.
    """
    rows, length = ids.shape
    counts = torch.randint(1, BLOCK, (rows, length // BLOCK), generator=rng)
    masks = torch.stack((torch.ones(rows, length, dtype=torch.bool), choose_masks(rng, rows, length, counts)), 1)
    share = torch.tensor([1, BLOCK - 1]) / BLOCK
    weights = torch.stack((torch.ones(rows, length), (BLOCK / counts).repeat_interleave(BLOCK, 1)), 1)
    weights = weights * share[None, :, None]
    return (diffusion_losses(model, ids, masks, dtype) * weights[masks]).sum() / ids.numel()


def masked_diffusion_loss(model: Decoder, ids: Tensor, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """LLaDA's bound: of each row a share t, uniform in (0, 1], is masked, and each masked token has the weight 1/t.

    The shares are stratified over the rows. Every other row begins with a clean prompt of random length, as LLaDA's
    instruction tuning has it; the share is one of the rest then, and so is the mean.
    """
    rows, length = ids.shape
    shares = (torch.arange(rows) + torch.rand(rows, generator=rng)) / rows
    shares = shares[torch.randperm(rows, generator=rng)]
    starts = (torch.rand(rows, generator=rng) * (length - 32)).long()
    starts[::2] = 0
    room = length - starts
    counts = (shares * room).ceil().clamp(min=1)
    order = torch.rand(rows, length, generator=rng)
    order[torch.arange(length) < starts[:, None]] = 2.0
    masks = order.argsort(-1).argsort(-1) < counts[:, None]
    hidden = model.hidden(torch.where(masks, MASK_ID, ids)[:, None], length, dtype)[:, 0]
    weights = (1 / counts)[:, None].expand_as(masks)
    return (token_losses(model, hidden[masks], ids[masks]) * weights[masks]).sum() / rows


# --- Training -----------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    name: str
    steps: int
    minutes: float
    rate: float
    dropout: float


@dataclass
class State:
    """What a checkpoint holds."""

    model: Decoder
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "place": (self.stage, self.step, self.seconds),
                "log": self.log,
            },
            temporary,
        )
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        stored = torch.load(path, weights_only=True)
        self.model.load_state_dict(stored["model"])
        self.average = stored["average"]
        for optimizer, values in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.stage, self.step, self.seconds = stored["place"]
        self.log = stored["log"]

    def averaged(self) -> Decoder:
        model = Decoder(self.model.config)
        model.load_state_dict(self.average)
        return model


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (https://kellerjordan.github.io/posts/muon/), with decoupled decay.

    As torch.optim.Muon with adjust_lr_fn="match_rms_adamw", but in float32: processors without instructions for
    bfloat16 take a hundred times as long for it.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                scale = 0.2 * math.sqrt(max(parameter.shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrix."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def make_optimizers(model: Decoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [parameter for parameter in model.layers.parameters() if parameter.dim() == 2]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [
        {"params": [model.embed_tokens.weight], "weight_decay": 0.1},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [
        Muon(matrices, lr=1e-3, weight_decay=0.1),
        torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
    ]


def learning_rate(stage: Stage, step: int, progress: float) -> float:
    """Warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / 100)
    return stage.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Polite:
    """Takes one thread while other programs use as much as a core, else all that it may.

    A program of least priority whose threads wait for each other is as slow as the one that shares its core.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.last = self._read()

    def adjust(self) -> None:
        now = self._read()
        seconds = now[0] - self.last[0]
        if seconds < 1:
            return
        others = (now[1] - self.last[1]) / seconds
        self.last = now
        torch.set_num_threads(max(1, min(self.threads, math.floor(os.cpu_count() - others + 0.6))))

    def _read(self) -> tuple[float, float]:
        """The clock, and the processor time of the other programs since the start of the machine."""
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
        idle = int(fields[3]) + int(fields[4])
        busy = (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy - time.process_time()


class Trainer:
    def __init__(self, options: argparse.Namespace, tokenizer: Tokenizer) -> None:
        self.options = options
        self.tokenizer = tokenizer
        training, held_out = split_chapters(read_chapters())
        self.passages = Passages(training, tokenizer)
        self.held_out = Passages(held_out, tokenizer).windows(EVALUATED, options.length)
        self.stages = [
            Stage("autoregressive", options.ar_steps, options.ar_minutes, options.ar_rate, options.ar_dropout),
            Stage("diffusion", options.steps, options.minutes, options.rate, options.dropout),
        ]
        torch.manual_seed(options.seed)
        model = Decoder(FORMS[options.form].config)
        if options.start:
            copy_weights(model, load(options.start)[0])
        if options.compile:
            torch._inductor.config.cpp.dynamic_threads = True
            for layer in model.layers:
                layer.compile(dynamic=False)
        average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.state = State(model, average, make_optimizers(model))
        if options.checkpoint.exists():
            self.state.load(options.checkpoint)
            print(f"goes on from {options.checkpoint}: stage {self.state.stage}, step {self.state.step}", flush=True)

    def run(self) -> None:
        while self.state.stage < len(self.stages):
            stage = self.stages[self.state.stage]
            self._run_stage(stage)
            self.state.stage, self.state.step, self.state.seconds = self.state.stage + 1, 0, 0.0
            for optimizer, fresh in zip(self.state.optimizers, make_optimizers(self.state.model), strict=True):
                optimizer.load_state_dict(fresh.state_dict())  # moments of another objective would mislead
            self.state.save(self.options.checkpoint)

    def _progress(self, stage: Stage) -> float:
        if stage.steps == 0:
            return 1.0
        clock = self.state.seconds / 60 / stage.minutes if stage.minutes else 0.0
        return max(self.state.step / stage.steps, clock)

    def _run_stage(self, stage: Stage) -> None:
        state, losses, saved = self.state, [], time.monotonic()
        for layer in state.model.layers:
            layer.dropout = stage.dropout
        polite = Polite(self.options.threads) if self.options.polite else None
        while (progress := self._progress(stage)) < 1:
            begin = time.monotonic()
            if polite:
                polite.adjust()
            losses.append(self._step(stage, progress))
            state.step += 1
            state.seconds += time.monotonic() - begin
            if state.step % 20 == 0:
                speed = 20 * self.options.batch * self.options.length / sum(seconds for _, seconds in losses[-20:])
                mean = sum(loss for loss, _ in losses[-20:]) / len(losses[-20:])
                where = f"{time.strftime('%H:%M:%S')} {stage.name} {state.step} {progress:.3f}"
                print(f"{where} loss {mean:.3f} {speed:.0f}/s {torch.get_num_threads()} threads", flush=True)
            if time.monotonic() - saved > 60 * self.options.save_every:
                saved = time.monotonic()
                self._save()
        self._save()

    def _step(self, stage: Stage, progress: float) -> tuple[float, float]:
        options, state = self.options, self.state
        begin = time.monotonic()
        seeds = np.random.SeedSequence([options.seed, state.stage, state.step])
        ids = self.passages.batch(np.random.default_rng(seeds), options.batch, options.length)
        rate = learning_rate(stage, state.step, progress)
        torch.manual_seed(int(seeds.generate_state(2)[1]))  # dropout
        rng = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))  # masks
        total = 0.0
        for part in ids.split(options.micro_batch):
            if stage.name == "autoregressive":
                loss = autoregressive_loss(state.model, part, options.dtype)
            else:
                loss = FORMS[options.form].loss(state.model, part, rng, options.dtype)
            loss = loss * (len(part) / len(ids))
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._average()
        return total, time.monotonic() - begin

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the start of a stage is forgotten.
        keep = min(0.99, self.state.step / (self.state.step + 10))
        for name, tensor in self.state.model.state_dict().items():
            self.state.average[name].lerp_(tensor, 1 - keep)

    def _save(self) -> None:
        state = self.state
        model = state.averaged()
        if state.stage == 0:
            measured = f"next token {evaluate_next(model, self.held_out):.3f}"
        else:
            measured = FORMS[self.options.form].evaluate(model, self.held_out[::4]).summary()
        state.log.append(f"stage {state.stage} step {state.step}: {measured}")
        print(f"{time.strftime('%H:%M:%S')} held out: {state.log[-1]}", flush=True)
        state.save(self.options.checkpoint)
        if state.stage > 0:
            export(model, self.tokenizer, self.options.output)


# --- Evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskedLosses:
    """Nats per masked token and accuracy, by how much is masked."""

    losses: dict[str, float]
    accuracy: dict[str, float]

    def bound(self) -> float:
        """Nats per token: the mean over what is masked."""
        return sum(self.losses.values()) / len(self.losses)

    def summary(self) -> str:
        parts = [f"{masked} {self.losses[masked]:.3f} ({self.accuracy[masked]:.1%})" for masked in self.losses]
        return f"bound {self.bound():.3f}; masked " + ", ".join(parts)


@torch.no_grad()
def evaluate_next(model: Decoder, windows: Tensor) -> float:
    losses = [autoregressive_loss(model, part, torch.float32).item() * len(part) for part in windows.split(16)]
    return sum(losses) / len(windows)


@torch.no_grad()
def evaluate_blocks(model: Decoder, windows: Tensor) -> MaskedLosses:
    losses, accuracy = {}, {}
    rows, length = windows.shape
    for count in range(1, BLOCK + 1):
        rng = torch.Generator().manual_seed(count)
        masks = choose_masks(rng, rows, length, torch.full((rows, length // BLOCK), count))
        total, right = 0.0, 0
        for ids, mask in zip(windows.split(16), masks.split(16), strict=True):
            noisy = torch.where(mask, MASK_ID, ids)
            hidden = model.hidden(torch.stack((ids, noisy), 1), BLOCK, torch.float32)[:, 1]
            logits = model.logits(hidden[mask])
            total += F.cross_entropy(logits, ids[mask], reduction="sum").item()
            right += int((logits.argmax(-1) == ids[mask]).sum())
        masked = f"{count}/{BLOCK}"
        losses[masked], accuracy[masked] = total / int(masks.sum()), right / int(masks.sum())
    return MaskedLosses(losses, accuracy)


@torch.no_grad()
def evaluate_masked(model: Decoder, windows: Tensor) -> MaskedLosses:
    """At shares in the middle of five equal parts, so that their mean is one over all shares."""
    losses, accuracy = {}, {}
    rows, length = windows.shape
    for percent in (10, 30, 50, 70, 90):
        rng = torch.Generator().manual_seed(percent)
        order = torch.rand(rows, length, generator=rng).argsort(-1).argsort(-1)
        masks = order < round(length * percent / 100)
        hidden = model.hidden(torch.where(masks, MASK_ID, windows)[:, None], length, torch.float32)[:, 0]
        logits, targets = model.logits(hidden[masks]), windows[masks]
        losses[f"{percent}%"] = F.cross_entropy(logits, targets).item()
        accuracy[f"{percent}%"] = (logits.argmax(-1) == targets).float().mean().item()
    return MaskedLosses(losses, accuracy)


@dataclass(frozen=True)
class Form:
    config: dict[str, Any]
    block: int  # tokens that are decoded together
    aligned: bool  # blocks begin at multiples of their length, and see nothing behind them
    names: dict[str, str]  # from those of `Decoder` to those of the checkpoint
    loss: Callable[[Decoder, Tensor, torch.Generator, torch.dtype], Tensor]
    evaluate: Callable[[Decoder, Tensor], MaskedLosses]

    def tensor(self, parameter: str) -> str:
        """The checkpoint's name of a parameter."""
        for ours, theirs in self.names.items():
            parameter = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\g<1>{theirs}.", parameter)
        return f"model.{parameter}"


FORMS: Final = {
    "sdar": Form(SDAR_CONFIG, BLOCK, True, {}, block_diffusion_loss, evaluate_blocks),
    "llada": Form(LLADA_CONFIG, 16, False, LLADA_NAMES, masked_diffusion_loss, evaluate_masked),
}


@torch.no_grad()
def copy_weights(model: Decoder, source: Decoder) -> None:
    """Weights of another form. Norms of queries and keys that `model` has not are left out: it learns their scale."""
    theirs = source.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(theirs[name])
    if source.shape.query_key_norms and not model.shape.query_key_norms:
        for layer, other in zip(model.layers, source.layers, strict=True):
            for projection, norm in (
                (layer.self_attn.q_proj, other.self_attn.q_norm),
                (layer.self_attn.k_proj, other.self_attn.k_norm),
            ):
                # The norm makes rows of unit size of what the projection makes of a normed input.
                scale = norm.weight.repeat(len(projection.weight) // len(norm.weight))[:, None]
                size = (projection.weight * other.input_layernorm.weight).square().sum(1).mean().sqrt()
                projection.weight.mul_(scale / size)


# --- Decoding -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding:
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    threshold: float | None = 0.85  # None: the static schedule, a fixed number of tokens a step
    steps: int | None = None  # None: as many as a block has tokens
    new_tokens: int = 160
    seed: int = 0


@dataclass(frozen=True)
class Decoded:
    ids: list[int]
    passes: int
    blocks: int


def draw(logits: Tensor, options: Decoding, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens for each row of logits, and the probability of each among those that were candidates."""
    logits = logits.clone()
    logits[:, MASK_ID] = -math.inf
    if options.temperature == 0:
        confidence, tokens = logits.softmax(-1).max(-1)
        return tokens, confidence
    logits /= options.temperature
    if options.top_k:
        logits[logits < logits.topk(options.top_k, -1).values[:, -1:]] = -math.inf
    if options.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered > options.top_p
        logits[torch.zeros_like(beyond).scatter(-1, order, beyond)] = -math.inf
    probabilities = logits.softmax(-1)
    tokens = torch.multinomial(probabilities, 1, generator=rng)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0]


def committed(confidence: Tensor, step: int, block: int, options: Decoding) -> Tensor:
    """Which of the masked positions keep their tokens in this step: at least the schedule's number."""
    base, more = divmod(block, options.steps or block)
    least = min(max(base + (step < more), 1), len(confidence))
    if options.threshold is not None:
        above = (confidence > options.threshold).nonzero()[:, 0]
        if len(above) >= least:
            return above
    return confidence.topk(least).indices


def decode(model: Decoder, prompt: Sequence[int], options: Decoding) -> Decoded:
    """Block by block, as the model's form has it.

    sdar: blocks are aligned, so that the end of a prompt that fills none lies in the first one that is decoded; nothing
    is behind a block. llada: blocks begin behind the prompt, and the masks of all later ones are seen.
    """
    form = FORMS[model.config["model_type"]]
    rng = torch.Generator().manual_seed(options.seed)
    end = len(prompt) + options.new_tokens
    first = len(prompt) // form.block * form.block if form.aligned else len(prompt)
    last = first + -(-(end - first) // form.block) * form.block
    ids = list(prompt) + [MASK_ID] * (last - len(prompt))
    passes = blocks = 0
    for start in range(first, last, form.block):
        blocks += 1
        step = 0
        canvas = start + form.block if form.aligned else last
        while masked := [at for at in range(start, start + form.block) if ids[at] == MASK_ID]:
            seen = torch.tensor([ids[:canvas]])
            logits = model(seen, form.block if form.aligned else canvas)[0, masked]
            passes += 1
            tokens, confidence = draw(logits, options, rng)
            for at in committed(confidence, step, form.block, options).tolist():
                ids[masked[at]] = int(tokens[at])
            step += 1
        if END_ID in ids[max(start, len(prompt)) : start + form.block]:
            break
    new = [token for token in ids[len(prompt) : end] if token != MASK_ID]
    return Decoded(new[: new.index(END_ID)] if END_ID in new else new, passes, blocks)


SETTINGS: Final = {
    "temperature 0, threshold 0.85": Decoding(),
    "temperature 0, one token a step": Decoding(threshold=None),
    "temperature 0.7, top_p 0.9, threshold 0.85": Decoding(temperature=0.7, top_p=0.9),
    "temperature 1.0, top_k 50, top_p 0.95, threshold 0.85": Decoding(temperature=1.0, top_k=50, top_p=0.95),
    "temperature 1.0, threshold 0.85": Decoding(temperature=1.0),
}


def print_samples(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    for name, options in SETTINGS.items():
        print(f"\n== {name}")
        for prompt in prompts:
            decoded = decode(model, tokenizer.encode(prompt).ids, options)
            print(f"[{len(decoded.ids)} tokens, {decoded.passes} passes] {prompt}{tokenizer.decode(decoded.ids)}\n")


def print_measurements(model: Decoder, tokenizer: Tokenizer, length: int) -> None:
    training, held_out = split_chapters(read_chapters())
    windows = Passages(held_out, tokenizer).windows(EVALUATED, length)
    evaluate = FORMS[model.config["model_type"]].evaluate
    found = evaluate(model, windows)
    characters = sum(len(tokenizer.decode(row.tolist())) for row in windows) / windows.numel()
    bits = found.bound() / math.log(2) / characters
    print(f"held out, {tuple(windows.shape)} tokens: {found.summary()}; at most {bits:.3f} bits per character")
    seen = Passages(training, tokenizer).windows(EVALUATED, length)
    print(f"training text: {evaluate(model, seen).summary()}")
    for name, options in SETTINGS.items():
        runs = [decode(model, row[:16].tolist(), options) for row in windows[::4]]
        tokens, passes = sum(len(run.ids) for run in runs), sum(run.passes for run in runs)
        with_commit = passes + sum(run.blocks for run in runs)
        print(f"{name}: {tokens / passes:.2f} tokens a pass, {tokens / with_commit:.2f} if finished blocks run again")


# --- Files --------------------------------------------------------------------------------------------------------


def export(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """The folder of a published checkpoint, in BF16."""
    folder.mkdir(parents=True, exist_ok=True)
    form = FORMS[model.config["model_type"]]
    weights = {form.tensor(name): tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": END, "mask_token": MASK}
    files = {
        "config.json": model.config,
        "generation_config.json": {"bos_token_id": END_ID, "eos_token_id": END_ID, "pad_token_id": END_ID},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": SDAR_CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[Decoder, Tokenizer]:
    model = Decoder(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    form, weights = FORMS[model.config["model_type"]], load_file(folder / "model.safetensors")
    model.load_state_dict({name: weights[form.tensor(name)].float() for name in model.state_dict()})
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the model's folder; written whenever a checkpoint is")
    parser.add_argument("--form", choices=("sdar", "llada"), default="sdar")
    parser.add_argument("--start", type=Path, help="a folder with the weights to begin with, of either form")
    parser.add_argument("--checkpoint", type=Path, default=Path("tiny-sdar.pt"), help="continued from where it exists")
    parser.add_argument("--ar-steps", type=int, default=1500, help="autoregressive steps")
    parser.add_argument("--ar-minutes", type=float, default=0, help="end them after this time")
    parser.add_argument("--ar-rate", type=float, default=3e-3)
    parser.add_argument("--ar-dropout", type=float, default=0)
    parser.add_argument("--steps", type=int, default=1500, help="steps of the form's own objective")
    parser.add_argument("--minutes", type=float, default=0, help="end them after this time")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=16, help="rows in a step")
    parser.add_argument("--micro-batch", type=int, default=16, help="rows that are computed together")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--polite", action="store_true", help="one thread while other programs use a core (Linux)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", dest="dtype", action="store_const", const=torch.float32, default=torch.bfloat16)
    parser.add_argument("--compile", action="store_true", help="torch.compile: a quarter faster after two minutes")
    parser.add_argument("--sample", action="store_true", help="don't train: print texts of the model in the folder")
    parser.add_argument("--measure", action="store_true", help="don't train: print losses and tokens a pass")
    parser.add_argument("--prompt", action="append", help="for --sample; may be repeated")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    if options.sample or options.measure:
        model, tokenizer = load(options.output)
        if options.sample:
            print_samples(model, tokenizer, options.prompt or PROMPTS)
        if options.measure:
            print_measurements(model, tokenizer, options.length)
        return
    tokenizer = train_tokenizer(split_chapters(read_chapters())[0], SDAR_CONFIG["vocab_size"])
    Trainer(options, tokenizer).run()


if __name__ == "__main__":
    main()
