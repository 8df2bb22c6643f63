"""Models as people deploy them, and their masks, at varying lengths: artefacts compute as PyTorch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")
transformers = pytest.importorskip("transformers")

from module_runs import BACKENDS, eager, export, run  # noqa: E402

SEQUENCE = torch.export.Dim("sequence", min=2, max=64)
VOCABULARY = 96


def ids(length: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length)),)


def padded(length: int) -> tuple[Tensor, ...]:
    mask = torch.ones(1, length, dtype=torch.int64)
    mask[:, length - length // 3 :] = 0
    return (*ids(length), mask)


def numbers(length: int) -> tuple[Tensor, ...]:
    return (torch.randn(1, length, 8, generator=torch.Generator().manual_seed(length)),)


def check(model: nn.Module, make: Callable[[int], tuple[Tensor, ...]], backend: str, folder: Path) -> None:
    """Exported once for all lengths, or by QNN for one."""
    model.eval()
    inputs = make(16)
    named: dict[str, Any] = {} if backend == "qnn" else {"dynamic_shapes": ({1: SEQUENCE},) * len(inputs)}
    result = export(model, inputs, backend, folder, **named)
    assert result.success, result.error_message
    for given in [inputs] if backend == "qnn" else [inputs, make(3), make(41)]:
        torch.testing.assert_close(run(result, given, backend, folder), eager(model, given), rtol=1e-4, atol=1e-5)


class SentenceEncoder(nn.Module):
    """`(input_ids, attention_mask) -> normalized mean`, or the first, last and mean positions."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pooling = pooling
        self.model = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=48, max_position_embeddings=64,
            ), add_pooling_layer=False,
        )  # fmt: skip

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "positions":
            return torch.cat([x[:, 0], x[:, -1], x.mean(1)], dim=-1)
        weights = attention_mask.unsqueeze(-1).expand(x.size()).float()
        mean = torch.sum(x * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)
        return functional.normalize(mean, p=2, dim=1)


class Masked(nn.Module):
    """A mask of 0 and 1 in the ways that models read it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.keys = nn.Embedding(VOCABULARY, 32), nn.Linear(32, 32)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids)
        q, k = (value.view(1, -1, 4, 8).transpose(1, 2) for value in (x, self.keys(x)))
        booleans = mask[:, None, None, :].bool()
        added = (1.0 - mask[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
        mixed = functional.scaled_dot_product_attention(q, k, k, attn_mask=booleans)
        mixed = mixed + functional.scaled_dot_product_attention(q, k, k, attn_mask=added)
        hidden = (q @ k.mT / 3.0).masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        mixed = mixed + hidden.softmax(-1) @ k
        y = mixed.transpose(1, 2).flatten(2) * mask.unsqueeze(-1)
        return torch.where(mask.unsqueeze(-1) > 0, y, x).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [lambda: SentenceEncoder("mean"), lambda: SentenceEncoder("positions"), Masked],
                         ids=["mean", "positions", "masks"])  # fmt: skip
def test_sentence_encoders_take_a_mask(make: Callable[[], nn.Module], backend: str, tmp_path: Path) -> None:
    check(make(), padded, backend, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_is_exact_in_every_format(dtype: str, backend: str, tmp_path: Path) -> None:
    """What a mask hides has no effect, whatever the weights are rounded to."""
    model = Masked().eval()
    result = export(model, padded(16), backend, tmp_path, dtype=dtype)
    assert result.success, result.error_message
    tokens, mask = padded(16)
    other = torch.where(mask == 0, (tokens + 7) % VOCABULARY, tokens)
    outputs = [run(result, (value, mask), backend, tmp_path) for value in (tokens, other)]
    difference = (model(other, mask) - model(tokens, mask)).detach()  # torch.where lets the hidden tokens pass
    torch.testing.assert_close(outputs[1] - outputs[0], difference, rtol=0.05, atol=0.05 * difference.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_that_are_no_mask_are_refused(backend: str, tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            return x * n

    result = export(Scaled().eval(), (torch.randn(1, 4), torch.tensor([[1, 2, 3, 4]])), backend, tmp_path)
    assert not result.success
    assert "only masks of 0 and 1" in (result.error_message or "")


class LanguageModel(nn.Module):
    def __init__(self, name: str, **fields: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")
        shape = {
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
        }  # fmt: skip
        self.model = model(model.config_class(**shape, **fields))

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, use_cache=False).logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "phi3": lambda: LanguageModel("Phi3"),
    "mistral": lambda: LanguageModel("Mistral", sliding_window=5),
    "gemma2": lambda: LanguageModel("Gemma2", sliding_window=5, head_dim=8),
    "gemma3": lambda: LanguageModel("Gemma3", sliding_window=5, head_dim=8),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_language_models_of_transformers(name: str, backend: str, tmp_path: Path) -> None:
    check(MODELS[name](), ids, backend, tmp_path)


def _cut(model: Pairs, scores: Tensor, n: int) -> Tensor:
    return scores.masked_fill(model.lower[:n, :n] == 0, float("-inf")).softmax(-1)


def _full(model: Pairs, scores: Tensor, n: int) -> Tensor:
    return (scores + torch.full((n, n), float("-inf")).triu(1)).softmax(-1)


def _where(model: Pairs, scores: Tensor, n: int) -> Tensor:
    position = torch.arange(n)
    return torch.where(position[:, None] >= position, scores, -1e9).softmax(-1)


def _window(model: Pairs, scores: Tensor, n: int) -> Tensor:
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return scores.masked_fill((distance < 0) | (distance > 4), float("-inf")).softmax(-1)


def _distances(model: Pairs, scores: Tensor, n: int) -> Tensor:
    return (scores - 0.3 * (torch.arange(n)[:, None] - torch.arange(n)).abs()).softmax(-1)


def _table(model: Pairs, scores: Tensor, n: int) -> Tensor:
    return (scores.unsqueeze(1) + model.bias[:, :n, :n]).softmax(-1)


def _causal_sum(model: Pairs, scores: Tensor, n: int) -> Tensor:
    return scores.softmax(-1).cumsum(1)


class Pairs(nn.Module):
    """Attention with a value of pairs of positions."""

    def __init__(self, shares: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.shares = nn.Linear(8, 8), shares
        self.register_buffer("lower", torch.ones(80, 80).tril())
        self.register_buffer("bias", torch.randn(3, 80, 80))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.shares(self, y @ y.transpose(1, 2) / 3.0, x.shape[1]) @ y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shares", [_cut, _full, _where, _window, _distances, _table, _causal_sum],
                         ids=lambda function: function.__name__[1:])  # fmt: skip
def test_values_of_pairs_of_positions(shares: Callable[..., Tensor], backend: str, tmp_path: Path) -> None:
    check(Pairs(shares), numbers, backend, tmp_path)


class Attending(nn.Module):
    def __init__(self, is_boolean: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        mask = torch.ones(80, 80).tril().triu(-3).bool()
        self.register_buffer("mask", mask if is_boolean else torch.where(mask, 0.5, -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        n, q = x.shape[1], self.linear(x).unsqueeze(1)
        return functional.scaled_dot_product_attention(q, q, q, attn_mask=self.mask[:n, :n]).squeeze(1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_boolean", [True, False])
def test_attention_in_a_window(is_boolean: bool, backend: str, tmp_path: Path) -> None:
    check(Attending(is_boolean), numbers, backend, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_that_changes_with_the_length_is_refused(backend: str, tmp_path: Path) -> None:
    class Reversed(Pairs):
        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            return (x @ x.mT + (torch.arange(n)[:, None] - torch.arange(n)) * n).softmax(-1) @ x

    if backend == "qnn":
        pytest.skip("one length")
    shapes = ({1: SEQUENCE},)
    result = export(Reversed(_full).eval(), numbers(16), backend, tmp_path, dynamic_shapes=shapes)
    assert not result.success
    assert "depend on the sequence's length" in (result.error_message or "")
    assert "test_module_models.py" in (result.error_message or "")
