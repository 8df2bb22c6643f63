"""Text from diffusion language models on this machine; the C++ library's engine (docs/GENERATION.md)."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from diffulex_edge import _core
from diffulex_edge._bundle import artefact_of
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge._language_model import LanguageModel
from diffulex_edge._runtimes import kind_of
from diffulex_edge.quant._config import QuantizationConfig


@dataclass(frozen=True)
class DiffusionGenerationConfig:
    """How a text is decoded. None stands for the family's own default; docs/GENERATION.md has the table.

    The names are those of the command's options. What a family does not have is refused where it is used
    (`InvalidArgumentError`).
    """

    max_new_tokens: int = 128  #: 0: only the mask tokens in the prompt
    steps: int | None = None  #: of the whole answer
    steps_per_block: int | None = None
    block_length: int | None = None  #: bidirectional models: tokens that are decoded before later ones
    sub_block_length: int | None = None  #: Fast-dLLM v2
    remasking: str | None = None
    threshold: float | None = None  #: commits all tokens at least this probable
    factor: float | None = None
    eb_threshold: float = 0.35
    editing_threshold: float | None = None  #: LLaDA 2.1: placed tokens become others more probable than this
    max_post_steps: int | None = None  #: of editing: passes of a block after its last mask, at most (16)
    expand_id: int | None = None  #: DreamOn: the token that stands for two masks; default: the model's
    initial_masks: int | None = None  #: DreamOn: masks that the text begins with (4)
    expand_budget: int | None = None  #: DreamOn: masks that may be added
    pad_delete_to_right: bool = False  #: DreamOn: where a mask is deleted, those behind it are as well
    fixed_length: bool = False  #: DreamOn: decode max_new_tokens masks, as Dream
    window_size: int | None = None  #: WeDLM: masks in a window behind what is written (16); 0: token by token
    entropy_threshold: float | None = None  #: WeDLM: commits all tokens of less entropy, in nats (0.4)
    pos_penalty_factor: float | None = None  #: WeDLM: entropy added for each position behind the first mask (0.02)
    temperature: float = 0.0  #: 0: always the most probable token
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    eps: float = 1e-3
    alg_temp: float = 0.0
    cfg_scale: float = 0.0
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    eos_ids: Sequence[int] | None = None  #: default: the model's
    eot_id: int | None = None
    ignore_eos: bool = False
    cache: str = "auto"
    cache_refresh: int = 0
    cache_dtype: str = "fp32"

    @classmethod
    def of(cls, config: DiffusionGenerationConfig | None, options: dict[str, Any]) -> DiffusionGenerationConfig:
        """`config`, or the default one, with other values for some fields; `InvalidArgumentError` for other names."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidArgumentError(f"{name}: is not one of {', '.join(known)}", where=name)
        return replace(config or cls(), **options)


@dataclass(frozen=True)
class GenerationResult:
    """What was written, and what it took."""

    text: str | None  #: without special tokens; None where the model has no tokenizer
    tokens: list[int]  #: the new ones, up to and with an end token
    prompt_tokens: int
    forward_passes: int
    cache_bytes: int
    seconds: float
    seconds_to_first_block: float
    stopped: str  #: "end" (an end token), "length" or "stop" (a stop text, or the caller)

    @property
    def tokens_per_forward(self) -> float:
        return len(self.tokens) / self.forward_passes if self.forward_passes else 0.0

    @property
    def tokens_per_second(self) -> float:
        return len(self.tokens) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return self.text or ""


Prompt = str | Sequence[int]
"""A text, or its token ids."""

_END: Final = object()


class Generator(Iterator[str]):
    """Pieces of a text while it is written; none ends inside a character.

    Written by a thread of its own. Leaving the `with` block, `close()`, or dropping the last reference ends it.
    `result` waits for the end.
    """

    def __init__(self, write: Callable[[Callable[[str], bool]], GenerationResult]) -> None:
        self._pieces: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._is_closed = threading.Event()
        self._result: GenerationResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=_write, args=(write, self._pieces, self._is_closed), daemon=True)
        self._thread.start()

    def __next__(self) -> str:
        if self._result is not None or self._error is not None:
            raise StopIteration
        piece = self._pieces.get()
        if isinstance(piece, str):
            return piece
        if isinstance(piece, GenerationResult):
            self._result = piece
            raise StopIteration
        assert isinstance(piece, BaseException)
        self._error = piece
        raise piece

    @property
    def result(self) -> GenerationResult:
        """The whole, after its end; raises what ended it."""
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def close(self) -> None:
        """End the text after the current pass, and wait for that."""
        self._is_closed.set()
        self._thread.join()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._is_closed.set()


def _write(
    write: Callable[[Callable[[str], bool]], GenerationResult],
    pieces: queue.SimpleQueue[object],
    is_closed: threading.Event,
) -> None:
    def give(text: str) -> bool:
        pieces.put(text)
        return not is_closed.is_set()

    try:
        pieces.put(write(give))
    except BaseException as error:  # it is raised again where the pieces are taken
        pieces.put(error)


class _Artefact:
    """An artefact in its vendor's runtime, with what `_core.TextModel` has."""

    def __init__(self, program: LanguageModel, tokenizer: Path) -> None:
        self._program = program
        path, facts = program.path, program.facts
        self.family, self.block_length, self.vocab_size = facts.family, facts.block_length, facts.vocab_size
        self.max_tokens, self.eos_ids = facts.max_tokens, facts.eos_ids
        self.weight_bytes = 0
        self.warnings = _tokenizer_warnings(path, tokenizer, facts.tokenizer_hash)
        self._text = _core.TextArtefact(
            str(tokenizer), facts.family, facts.vocab_size, facts.block_length, facts.mask_token_id, facts.eos_ids,
            facts.max_tokens, facts.max_step_tokens, facts.has_cache,
        )  # fmt: skip
        self.encode_chat = self._text.encode_chat

    def generate(
        self,
        prompt: str | None,
        prompt_ids: list[int] | None,
        suffix: str,
        options: DiffusionGenerationConfig,
        stops: list[str],
        on_text: Callable[[str], bool] | None,
        threads: int,
    ) -> dict[str, Any]:
        del threads  # they are the runtime's
        return self._text.generate(self._program.step, prompt, prompt_ids, suffix, options, stops, on_text)


def _tokenizer_warnings(artefact: Path, tokenizer: Path, expected: str | None) -> list[str]:
    found = None if expected is None else _core.tokenizer_digest(str(tokenizer))
    if found in (None, expected):
        return []
    return [f"{tokenizer}: its tokenizer is not the one that {artefact} was exported with"]


class DiffusionEngine:
    """A model that writes text, its weights packed for this machine's processor, or an artefact in its runtime.

    `DiffusionEngine.from_model(folder, quant_config=QuantizationConfig(dtype="int4"))` quantizes as an export for
    `backend` does. It may be used by several threads.
    """

    def __init__(self, model: _core.TextModel | _Artefact, threads: int = 0) -> None:
        self._model = model
        self._threads = threads

    @classmethod
    def from_model(
        cls,
        folder: str | PathLike[str],
        quant_config: QuantizationConfig | None = None,
        *,
        backend: str = "xnnpack",
        seq_len: int | None = None,
        block_length: int | None = None,
        mask_token_id: int | None = None,
        ignored_config_keys: Sequence[str] = (),
        adapter: str | PathLike[str] | None = None,
        pack_cache: str | PathLike[str] = "",
        threads: int = 0,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> DiffusionEngine:
        """From a Hugging Face model folder; `quant_config=None` takes the weights as they are stored.

        `folder` may be ORG/NAME, which is in the Hugging Face cache, or the folder of a LoRA adapter. `adapter`: the
        folder of one to merge while the model is read. `seq_len`: the most tokens of a prompt and its
        answer (default: the model's). `block_length`: of a block-causal model's blocks. `pack_cache`: a folder that
        keeps the packed weights, from which the next start maps them in no time. `threads`: 0 for one for each
        processor. `progress(done_bytes, total_bytes, stage)` is called while weights are read. Errors: those of the
        library (`diffulex_edge.Error`).
        """
        model = _core.TextModel(
            str(folder), seq_len, block_length, mask_token_id, list(ignored_config_keys),
            None if adapter is None else str(adapter), backend, quant_config, str(pack_cache), threads, progress,
        )  # fmt: skip
        return cls(model, threads)

    @classmethod
    def from_artefact(
        cls, artefact: str | PathLike[str], tokenizer: str | PathLike[str] | None = None, *, soc: str | None = None
    ) -> DiffusionEngine:
        """From what `diffulex-edge export` made of a model's folder, or a bundle of it, in its vendor's runtime.

        That is ExecuTorch for a .pte, Core ML for packages (on a Mac), ONNX Runtime with Qualcomm's emulator for a QNN
        folder (`soc`: of which chip; default: the first). With a cache (`--cache TOKENS`) it computes steps, without
        one the whole text in each pass. `tokenizer`: the folder of the tokenizer and the chat template (default: the
        artefact's). One text at a time: the artefact has one cache. Needs the runtime's Python package. Errors:
        `VerificationError`, and those of the library.
        """
        path = artefact_of(Path(artefact))
        program = kind_of(path).open(path, soc).load_language_model()
        if tokenizer is None:
            tokenizer = path if _core.tokenizer_digest(str(path)) else path.parent
        return cls(_Artefact(program, Path(_core.find_model_folder(str(tokenizer)))))

    @classmethod
    def from_pte(cls, artefact: str | PathLike[str], tokenizer: str | PathLike[str] | None = None) -> DiffusionEngine:
        """`from_artefact`, of a .pte that ExecuTorch executes."""
        return cls.from_artefact(artefact, tokenizer)

    family = property(lambda self: self._model.family, doc='"llada", "dream", "sdar", ...')
    block_length = property(lambda self: self._model.block_length, doc="0 for bidirectional models.")
    vocab_size = property(lambda self: self._model.vocab_size)
    max_tokens = property(lambda self: self._model.max_tokens, doc="The most tokens of a prompt and its answer.")
    weight_bytes = property(lambda self: self._model.weight_bytes, doc="Bytes of all weights in memory.")
    eos_ids = property(lambda self: self._model.eos_ids, doc="Token ids that end a text.")
    warnings = property(lambda self: self._model.warnings)

    def generate(
        self,
        prompt: Prompt,
        config: DiffusionGenerationConfig | None = None,
        *,
        suffix: str = "",
        stop: Sequence[str] = (),
        on_text: Callable[[str], bool] | None = None,
        **options: Any,
    ) -> GenerationResult:
        """Write behind `prompt`, and before `suffix` (bidirectional models).

        `options` are fields of `DiffusionGenerationConfig`, over those of `config`. `stop`: texts that end it.
        `on_text(piece)` is called with each new piece and ends the text by returning False.
        """
        texts = [stop] if isinstance(stop, str) else list(stop)
        if not all(texts):
            raise InvalidArgumentError("stop: has an empty text", where="stop")
        is_text = isinstance(prompt, str)
        parts = self._model.generate(
            prompt if is_text else None,
            None if is_text else [int(token) for token in prompt],
            suffix,
            DiffusionGenerationConfig.of(config, options),
            texts,
            on_text,
            self._threads,
        )
        return GenerationResult(**parts)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The prompt that asks for an answer to a conversation, by the model's chat template.

        `messages` as `transformers.PreTrainedTokenizer.apply_chat_template` takes them, `variables` what the template
        asks for beside them (`enable_thinking=False`).
        """
        return self._model.encode_chat(
            json.dumps(list(messages)), json.dumps(list(tools)) if tools else "", json.dumps(variables)
        )

    def stream(
        self,
        prompt: Prompt,
        config: DiffusionGenerationConfig | None = None,
        *,
        suffix: str = "",
        stop: Sequence[str] = (),
        **options: Any,
    ) -> Generator:
        """The same, as an iterator over pieces of the text; `result` of it has the whole."""
        config = DiffusionGenerationConfig.of(config, options)
        return Generator(lambda give: self.generate(prompt, config, suffix=suffix, stop=stop, on_text=give))


def generate(
    model: DiffusionEngine | str | PathLike[str],
    prompt: Prompt,
    config: DiffusionGenerationConfig | None = None,
    *,
    quant_config: QuantizationConfig | None = None,
    suffix: str = "",
    stop: Sequence[str] = (),
    **options: Any,
) -> GenerationResult:
    """Write one text with a model's folder, or an engine, which keeps its weights for the next one."""
    if isinstance(model, DiffusionEngine):
        if quant_config is not None:
            raise InvalidArgumentError("quant_config: an engine has its weights", where="quant_config")
        engine = model
    else:
        engine = DiffusionEngine.from_model(model, quant_config)
    return engine.generate(prompt, config, suffix=suffix, stop=stop, **options)
