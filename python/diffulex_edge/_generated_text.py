"""What an artefact writes beside what the model writes on this machine's processor, for the same prompts.

    from diffulex_edge import compare_generation
    compare_generation("int4.pte", "MODEL", ["In the beginning"]).agreement

or, in a shell, `python -m diffulex_edge verify int4.pte --generate MODEL --prompt "In the beginning"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge._generation import DiffusionEngine, DiffusionGenerationConfig, GenerationResult
from diffulex_edge.quant._config import QuantizationConfig


@dataclass(frozen=True)
class PromptComparison:
    """One prompt and its two texts."""

    prompt: str
    text: str | None  #: the artefact's
    reference_text: str | None
    tokens: list[int]
    reference_tokens: list[int]
    forward_passes: int
    reference_forward_passes: int

    @property
    def first_difference(self) -> int | None:
        """The place of the first token that differs, or that only one text has. None: they are equal."""
        if self.tokens == self.reference_tokens:
            return None
        pairs = enumerate(zip(self.tokens, self.reference_tokens, strict=False))
        shorter = min(len(self.tokens), len(self.reference_tokens))
        return next((place for place, (one, other) in pairs if one != other), shorter)

    @property
    def equal_tokens(self) -> int:
        """How many places have the same token in both."""
        return sum(one == other for one, other in zip(self.tokens, self.reference_tokens, strict=False))


@dataclass(frozen=True)
class GenerationComparison:
    """All prompts."""

    artefact: Path
    reference: Path
    prompts: list[PromptComparison]

    @property
    def agreement(self) -> float:
        """The share of places with the same token, of the longer text's. After a first difference, few agree."""
        longest = sum(max(len(one.tokens), len(one.reference_tokens)) for one in self.prompts)
        return sum(one.equal_tokens for one in self.prompts) / longest if longest else 1.0

    @property
    def equal_texts(self) -> int:
        return sum(one.first_difference is None for one in self.prompts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "success": True,
            "artefact": str(self.artefact),
            "reference": str(self.reference),
            "agreement": self.agreement,
            "equal_texts": self.equal_texts,
            "prompts": [
                asdict(one) | {"equal_tokens": one.equal_tokens, "first_difference": one.first_difference}
                for one in self.prompts
            ],
        }


def compare_generation(
    artefact: str | PathLike[str],
    model: str | PathLike[str],
    prompts: Sequence[str],
    config: DiffusionGenerationConfig | None = None,
    *,
    quant_config: QuantizationConfig | None = None,
    soc: str | None = None,
    ignored_config_keys: Sequence[str] = (),
    **options: Any,
) -> GenerationComparison:
    """Let an artefact in its vendor's runtime and the CPU engine with `model` write to the same prompts.

    `model`: the folder of the artefact's model, and of its tokenizer, or ORG/NAME in the Hugging Face cache.
    `quant_config`: the formats that the engine computes in; None takes the weights as the folder has them, so that a
    quantized artefact is compared with the model before it was quantized. `ignored_config_keys`: as in
    `DiffusionEngine.from_model`. `config` and `options`: as in `DiffusionEngine.generate`. Errors: `VerificationError`,
    and those of the library.
    """
    if not prompts:
        raise InvalidArgumentError("prompts: there is none to compare texts of", where="prompts")
    reference = DiffusionEngine.from_model(model, quant_config, ignored_config_keys=ignored_config_keys)
    engine = DiffusionEngine.from_artefact(artefact, model, soc=soc)

    def compared(prompt: str) -> PromptComparison:
        found, expected = (one.generate(prompt, config, **options) for one in (engine, reference))
        return _comparison(prompt, found, expected)

    return GenerationComparison(Path(artefact), Path(model), [compared(prompt) for prompt in prompts])


def _comparison(prompt: str, found: GenerationResult, expected: GenerationResult) -> PromptComparison:
    return PromptComparison(
        prompt=prompt,
        text=found.text,
        reference_text=expected.text,
        tokens=found.tokens,
        reference_tokens=expected.tokens,
        forward_passes=found.forward_passes,
        reference_forward_passes=expected.forward_passes,
    )
