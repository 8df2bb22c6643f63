"""Programs for ExecuTorch (.pte), in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import (
    Artefact,
    LanguageModelFacts,
    Logits,
    Runnable,
    TensorForward,
    VerificationError,
    forward_in_steps,
    most_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

_IDENTIFIER = b"ET12"
"""Of a program's flatbuffer, behind the offset of its root."""


class PteMethod:
    """The method "forward" of a .pte, with the program that it does not keep alive itself.

    Errors: `VerificationError` for a file that does not exist, that the runtime refuses, and without `executorch`.
    """

    def __init__(self, artefact: Path) -> None:
        if not artefact.is_file():
            raise VerificationError(f"{artefact}: does not exist")
        with artefact.open("rb") as file:
            if file.read(8)[4:] != _IDENTIFIER:
                raise VerificationError(f"{artefact}: is no ExecuTorch program: it does not begin as one")
        self.path = artefact
        try:
            import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
            from executorch.runtime import Runtime, Verification
        except ImportError as error:
            raise VerificationError(f"{artefact}: running it needs the Python package executorch: {error}") from error
        try:
            self.program = Runtime.get().load_program(artefact, verification=Verification.InternalConsistency)
            self._method = self.program.load_method("forward")
        except RuntimeError as error:
            raise VerificationError(
                f"{artefact}: the ExecuTorch runtime refuses it, so that it is truncated, damaged, or for another "
                f"runtime: {error}"
            ) from error

    def input_sizes(self) -> list[list[int]]:
        """The largest sizes of every input."""
        described = self._method.metadata
        return [list(described.input_tensor_meta(i).sizes()) for i in range(described.num_inputs())]

    def run(self, inputs: Sequence[Any]) -> Any:
        """The output for tensors, which the next run overwrites. RuntimeError for inputs that the program refuses."""
        (output,) = self._method.execute(list(inputs))
        return output


class PteLanguageModel:
    """A .pte that `diffulex-edge export` wrote from a model's folder, one step at a time.

    Errors: `VerificationError`, also for a program that does not say what its model is.
    """

    def __init__(self, artefact: Path) -> None:
        self._method = PteMethod(artefact)
        self.path = artefact
        self.facts = self._read_facts()

    def _read_facts(self) -> LanguageModelFacts:
        names = self._method.program.method_names

        def values(name: str) -> list[Any]:
            return list(self._method.program.load_method(name).execute([])) if name in names else []

        def value(name: str) -> Any:
            found = values(name)
            if not found:
                raise VerificationError(
                    f"{self.path}: has no method {name}: text is written by programs that `diffulex-edge export` made "
                    "of a model's folder"
                )
            return found[0]

        return LanguageModelFacts(
            family=value("get_model_family"),
            vocab_size=value("get_vocab_size"),
            block_length=value("get_block_length"),
            mask_token_id=next(iter(values("get_mask_id")), None),
            eos_ids=values("get_eos_ids"),
            max_tokens=value("get_max_context_len"),
            max_step_tokens=value("get_max_seq_len"),
            has_cache=bool(value("use_kv_cache")),
            logits=value("get_logits_kind"),
            tokenizer_hash=next(iter(values("get_tokenizer_hash")), None),
        )

    def step(self, tokens: NDArray[np.int64], start: int, sees: int, rows: NDArray[np.int64]) -> Logits:
        """Logits [rows, vocab] of some of the tokens [B], which are at the positions from `start` on.

        They see the positions before `sees`. `rows` are places in `tokens`. Without a cache, `start` is 0.
        """
        import torch

        wanted = torch.from_numpy(rows)
        last = len(tokens) - 1
        if self.facts.logits == "last" and any(row != last for row in rows):
            raise VerificationError(
                f"{self.path}: has the logits of a step's last token only: export it without --logits last"
            )
        inputs = [torch.from_numpy(tokens)[None]]
        if self.facts.has_cache:
            inputs.append(torch.tensor([start]))
            if self.facts.block_length == 0:
                inputs.append(torch.tensor([sees]))
            if self.facts.logits == "rows":
                inputs.append((wanted if len(rows) else torch.tensor([last]))[None])
        try:
            logits = self._method.run(inputs)[0]
        except RuntimeError as error:
            raise VerificationError(
                f"{self.path}: the ExecuTorch runtime refuses a step of {len(tokens)} tokens from position {start}: "
                f"{error}"
            ) from error
        if self.facts.logits == "all":
            logits = logits[wanted]
        result: Logits = logits[: len(rows)].numpy().copy()  # the runtime reuses its memory
        return result


class PteProgram(Artefact):
    """A .pte file."""

    what = "a .pte file"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.suffix == ".pte"

    def load(self) -> Runnable:
        method = PteMethod(self.path)
        if "use_kv_cache" in method.program.method_names and len(method.input_sizes()) > 1:
            return Runnable(forward_in_steps(PteLanguageModel(self.path)))
        limit = most_tokens(self.path, method.input_sizes())
        import torch

        def forward(ids: NDArray[np.int64]) -> Logits:
            if len(ids) > limit:
                raise VerificationError(
                    f"{self.path}: takes at most {limit} tokens, and the data has sequences of {len(ids)}: export it "
                    f"with --seq-len {len(ids)}"
                )
            try:
                logits = method.run([torch.from_numpy(ids)[None]])
            except RuntimeError as error:
                raise VerificationError(
                    f"{self.path}: the ExecuTorch runtime refuses an input of {len(ids)} tokens: {error}"
                ) from error
            return logits[0].numpy().copy()  # the runtime reuses its memory

        return Runnable(forward)

    def load_language_model(self) -> PteLanguageModel:
        return PteLanguageModel(self.path)

    def load_module(self) -> tuple[str, TensorForward]:
        method = PteMethod(self.path)

        def run(inputs: Sequence[Any]) -> Tensor:
            import torch

            return method.run([value.contiguous() for value in inputs if isinstance(value, torch.Tensor)]).clone()

        return "ExecuTorch", run
