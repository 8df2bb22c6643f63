"""Programs for ExecuTorch (.pte), in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Artefact, Forward, Logits, Runnable, TensorForward, VerificationError, most_tokens
from diffulex_edge._language_model import FACTS, LanguageModelFacts, check_rows, logits_in_steps

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
        program = self._method.program
        found: dict[str, Any] = {}
        for name in program.method_names.intersection(FACTS):
            values = list(program.load_method(name).execute([]))
            found[name] = values if name == "get_eos_ids" else values[0]
        return LanguageModelFacts.read(self.path, found)

    def step(self, tokens: NDArray[np.int64], start: int, sees: int, rows: NDArray[np.int64]) -> Logits:
        """See `LanguageModel`."""
        import torch

        wanted = torch.from_numpy(rows)
        last = len(tokens) - 1
        check_rows(self.path, self.facts, len(tokens), rows)
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
            return Runnable(self._forward_in_steps())
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

    def _forward_in_steps(self) -> Forward:
        return partial(logits_in_steps, PteLanguageModel(self.path))

    def load_module(self) -> tuple[str, TensorForward]:
        method = PteMethod(self.path)

        def run(inputs: Sequence[Any]) -> Tensor:
            import torch

            return method.run([value.contiguous() for value in inputs if isinstance(value, torch.Tensor)]).clone()

        return "ExecuTorch", run
