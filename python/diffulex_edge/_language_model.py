"""Language models in artefacts, as the library's decoders execute them: one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Logits, VerificationError

FACTS: Final = (
    *("get_model_family", "get_vocab_size", "get_block_length", "get_max_context_len", "get_max_seq_len"),
    *("use_kv_cache", "get_logits_kind", "get_mask_id", "get_eos_ids", "get_tokenizer_hash"),
)
"""Names of constant methods of an ExecuTorch program, by which every kind of artefact has its facts."""

_REQUIRED: Final = FACTS[:7]


@dataclass(frozen=True)
class LanguageModelFacts:
    """What an artefact says of its model (docs/USER_GUIDE.md has the table)."""

    family: str
    vocab_size: int
    block_length: int  #: 0: bidirectional
    mask_token_id: int | None
    eos_ids: list[int]
    max_tokens: int  #: of prompt and text together
    max_step_tokens: int  #: of one execution
    has_cache: bool
    logits: str  #: of which tokens: "all", "last" or "rows"
    tokenizer_hash: str | None  #: SHA-256 of its tokenizer.json, or of its tokenizer's files

    @classmethod
    def read(cls, artefact: Path, found: Mapping[str, Any]) -> LanguageModelFacts:
        """From what an artefact has of `FACTS`."""
        for name in _REQUIRED:
            if name not in found:
                raise VerificationError(
                    f"{artefact}: has no {name}: text is written by artefacts that `diffulex-edge export` made of a "
                    "model's folder"
                )
        return cls(
            family=found["get_model_family"],
            vocab_size=found["get_vocab_size"],
            block_length=found["get_block_length"],
            mask_token_id=found.get("get_mask_id"),
            eos_ids=list(found.get("get_eos_ids", [])),
            max_tokens=found["get_max_context_len"],
            max_step_tokens=found["get_max_seq_len"],
            has_cache=bool(found["use_kv_cache"]),
            logits=found["get_logits_kind"],
            tokenizer_hash=found.get("get_tokenizer_hash"),
        )


class LanguageModel(Protocol):
    """An artefact in its runtime. Errors: `VerificationError`."""

    path: Path
    facts: LanguageModelFacts

    def step(self, tokens: NDArray[np.int64], start: int, sees: int, rows: NDArray[np.int64]) -> Logits:
        """Logits [rows, vocab] of some of the tokens [B], which are at the positions from `start` on.

        They see the positions before `sees`. `rows` are places in `tokens`. Without a cache, `start` is 0.
        """


def check_rows(artefact: Path, facts: LanguageModelFacts, count: int, rows: NDArray[np.int64]) -> None:
    """That the artefact has the logits of these rows of a step of `count` tokens."""
    if facts.logits == "last" and any(row != count - 1 for row in rows):
        raise VerificationError(
            f"{artefact}: has the logits of a step's last token only: export it without --logits last"
        )


def logits_in_steps(model: LanguageModel, ids: NDArray[np.int64]) -> Logits:
    """Logits [seq, vocab] of a whole sequence: from its beginning, in as few steps as there may be."""
    artefact, facts = model.path, model.facts
    if facts.logits == "last":
        raise VerificationError(f"{artefact}: has logits of last tokens only: export it without --logits last")
    blocks = facts.max_step_tokens // max(facts.block_length, 1)
    longest = blocks * max(facts.block_length, 1)
    limit = longest if facts.block_length == 0 else facts.max_tokens
    if len(ids) > limit:
        option = "block-tokens" if len(ids) <= facts.max_tokens else "cache"
        raise VerificationError(
            f"{artefact}: takes at most {limit} tokens, and the data has sequences of {len(ids)}: export it with "
            f"--{option} {len(ids)}"
        )
    parts = [(begin, ids[begin : begin + longest]) for begin in range(0, len(ids), longest)]
    logits = [model.step(np.ascontiguousarray(part), begin, len(ids), np.arange(len(part))) for begin, part in parts]
    return np.concatenate(logits)
