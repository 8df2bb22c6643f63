"""Modules to quantize: the bundled model's architecture with the names of its checkpoint, and small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight


class Block(nn.Module):
    """Of LLaDA: grouped-query attention with rotary embedding, SwiGLU, no biases."""

    def __init__(self, width: int = 256, heads: int = 4, kv_heads: int = 2, hidden: int = 512) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.attn_norm = RmsNorm(width)
        self.ff_norm = RmsNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)
        #: Cosines and sines [positions, head_dim] in place of PyTorch's.
        self.tables: tuple[Tensor, Tensor] | None = None

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        if self.tables is not None:
            return self.tables[0][:length], self.tables[1][:length]
        frequencies = 10000.0 ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angles = torch.arange(length).float()[:, None] * torch.cat((frequencies, frequencies))
        return angles.cos(), angles.sin()

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = self._tables(x.shape[-2])
        first, second = x.chunk(2, dim=-1)
        turned = x.float() * cos + torch.cat((-second, first), dim=-1).float() * sin
        return turned.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attn_norm(x)
        q = self.q_proj(h).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_proj(h).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(h).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        repeat = self.heads // self.kv_heads
        k, v = self._rotate(k).repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        attended = functional.scaled_dot_product_attention(self._rotate(q), k, v)
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        return x + self.ff_out(functional.silu(self.ff_proj(h)) * self.up_proj(h))


class Llada(nn.Module):
    """ids int64 [1, seq] -> logits [1, seq, 1024]. Its head is called ff_out, as LLaDA has it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(1024, 256),
                "blocks": nn.ModuleList(Block() for _ in range(4)),
                "ln_f": RmsNorm(256),
                "ff_out": nn.Linear(256, 1024, bias=False),
            }
        )

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.transformer["ff_out"]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.transformer["wte"](ids)
        for block in self.model.transformer["blocks"]:
            x = block(x)
        return self.model.transformer["ff_out"](self.model.transformer["ln_f"](x))


class Small(nn.Module):
    """ids -> logits, with an embedding, two layers with biases and a head, tied or not."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed_tokens = nn.Embedding(50, 64)
        self.up = nn.Linear(64, 96)
        self.down = nn.Linear(96, 64)
        self.norm = nn.LayerNorm(64)
        self.lm_head = nn.Linear(64, 50, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        return self.lm_head(self.norm(x + self.down(functional.gelu(self.up(x)))))


def unchanged(model: nn.Module) -> Callable[[], None]:
    """Call it later: the model has the same modules, values, hooks, modes and flags as now."""
    before = _describe(model)
    values = {name: value.clone() for name, value in model.state_dict().items()}

    def check() -> None:
        assert _describe(model) == before
        for name, value in model.state_dict().items():
            assert torch.equal(value, values[name]), name

    return check


def _describe(model: nn.Module) -> list[Any]:
    parameters = [(name, id(p), p.requires_grad, p.dtype) for name, p in model.named_parameters()]
    modules = [
        (name, id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    return [parameters, modules]
