"""QNN folders with a cache, one step at a time: the host keeps keys and values, fills steps up, and makes the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Logits, VerificationError
from diffulex_edge._language_model import LanguageModelFacts

_POSITIONS: Final = "positions"
_MASK: Final = "attention_mask"


@dataclass(frozen=True)
class CacheTensor:
    """Keys or values of one layer: what a model is given of earlier tokens, and what it makes of the step's."""

    past: str
    """Keys [1, heads, D, tokens], values [1, heads, tokens, D]."""
    new: str
    """[1, step, heads, D]."""
    token_axis: int
    """Of `past`."""


@dataclass(frozen=True)
class StepCache:
    """What the manifest says of a folder's cache."""

    tokens: int
    """That fit."""
    sizes: list[int]
    """Of a step, ascending."""
    hidden: float
    """What hides a position in the mask, which is in the mask's own type."""
    visible: float


@dataclass(frozen=True)
class StepModel:
    """An ONNX model for steps of one size, loaded: the whole, or a part that goes on from the one before."""

    path: Path
    session: Any
    stream: str
    """The input that is token ids, or what the part before it made."""
    output: str
    caches: Sequence[CacheTensor]
    tensors: Mapping[str, tuple[list[int], np.dtype[Any]]]
    """Shape and type of each input."""


def read_cache(manifest: Mapping[str, Any]) -> StepCache | None:
    """Of a manifest; None for a folder that computes whole sequences."""
    if "cache" not in manifest:
        return None
    cache = manifest["cache"]
    return StepCache(
        tokens=int(cache["tokens"]),
        sizes=sorted(map(int, cache["block_tokens"])),
        hidden=float(cache["mask"]["hidden"]),
        visible=float(cache["mask"]["visible"]),
    )


class QnnLanguageModel:
    """A folder that `diffulex-edge export --backend qnn --cache TOKENS` wrote, with its loaded models.

    `models` are those of each step size, in order of execution. Errors: `VerificationError`.
    """

    def __init__(
        self, path: Path, facts: LanguageModelFacts, cache: StepCache, models: Mapping[int, Sequence[StepModel]]
    ) -> None:
        self.path = path
        self.facts = facts
        self._cache = cache
        self._models = models
        # The same for all sizes of a step.
        self._past: dict[str, NDArray[Any]] = {}
        for model in models[cache.sizes[0]]:
            for tensor in model.caches:
                shape, dtype = model.tensors[tensor.past]
                self._past[tensor.past] = np.zeros(shape, dtype)

    def step(self, tokens: NDArray[np.int64], start: int, sees: int, rows: NDArray[np.int64]) -> Logits:
        """See `LanguageModel`."""
        count = len(tokens)
        size = next((size for size in self._cache.sizes if size >= count), None)
        if size is None or start < 0 or start + count > self._cache.tokens:
            raise VerificationError(
                f"{self.path}: a step of {count} tokens from position {start} does not fit: it has steps of "
                f"{' or '.join(map(str, self._cache.sizes))} and room for {self._cache.tokens} tokens"
            )
        if count and not 0 <= tokens.min() <= tokens.max() < self.facts.vocab_size:  # an NPU would read anything
            raise VerificationError(
                f"{self.path}: takes token ids from 0 to {self.facts.vocab_size - 1}, not {tokens.min()} to "
                f"{tokens.max()}"
            )
        stream: NDArray[Any] = np.zeros((1, size), np.int32)
        stream[0, :count] = tokens
        positions = np.zeros((1, size), np.int32)
        positions[0, :count] = np.arange(start, start + count)
        mask = np.where(self._visible(size, count, start, sees), self._cache.visible, self._cache.hidden)
        given = {_POSITIONS: positions, _MASK: mask[None, None], **self._past}
        fresh: dict[CacheTensor, NDArray[Any]] = {}
        for model in self._models[size]:
            feeds = {
                name: given[name].astype(dtype, copy=False)
                for name, (_, dtype) in model.tensors.items()
                if name in given
            }
            feeds[model.stream] = stream.astype(model.tensors[model.stream][1], copy=False)
            try:
                stream, *made = model.session.run([model.output, *(tensor.new for tensor in model.caches)], feeds)
            except Exception as error:  # ONNX Runtime's have no common base
                reason = " ".join(str(error).split())
                raise VerificationError(f"{model.path}: ONNX Runtime can't execute it: {reason}") from error
            fresh |= dict(zip(model.caches, made, strict=True))
        for tensor, new in fresh.items():
            past = np.moveaxis(self._past[tensor.past][0], tensor.token_axis - 1, 0)  # [tokens, heads, D]
            past[start : start + count] = new[0, :count]
        logits: Logits = np.asarray(stream[0][rows], np.float32)
        if not np.isfinite(logits).all():
            raise VerificationError(f"{self.path}: gives values that are not finite")
        return logits

    def _visible(self, size: int, count: int, start: int, sees: int) -> NDArray[np.bool_]:
        """Of [step, cached positions and step], which key each query sees. The cache's rows of the step are old."""
        cached = self._cache.tokens
        visible = np.zeros((size, cached + size), np.bool_)
        if self.facts.block_length == 0:
            visible[:count, :sees] = True
            visible[:count, start : start + count] = False
            visible[:count, cached : cached + count] = True
        else:
            blocks = np.arange(start, start + count) // self.facts.block_length
            visible[:count, :start] = True
            visible[:count, cached : cached + count] = blocks[None, :] <= blocks[:, None]
        visible[count:] = visible[0]  # rows that nobody reads
        return visible
