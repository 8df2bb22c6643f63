"""Core ML packages with a cache, executed one step at a time by the interpreter in the framework's place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from coreml_cases import load
from numpy.typing import NDArray
from program import cut_into_steps
from torch import Tensor

from diffulex_edge import DiffusionEngine
from diffulex_edge._coreml import CoreMLLanguageModel
from diffulex_edge._generation import _Artefact


class InterpretedRuntime:
    """One package that keeps the rules of the format and those of coremltools, with its state."""

    def __init__(self, package: Path) -> None:
        self._interpreter = load(package)
        self.state = self._interpreter.make_state()
        self.lengths: list[int] = []
        """Of the steps so far."""

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        self.lengths.append(next(iter(inputs.values())).shape[1])
        outputs = self._interpreter.run(tensors, state=self.state)
        return {name: value.numpy() for name, value in outputs.items()}


def open_model(package: Path) -> CoreMLLanguageModel:
    """A package, or a folder of them."""
    return CoreMLLanguageModel(package, InterpretedRuntime)


def open_engine(package: Path, tokenizer: Path) -> DiffusionEngine:
    """What `DiffusionEngine.from_artefact` is on a Mac."""
    return DiffusionEngine(_Artefact(open_model(package), tokenizer))


def step(model: CoreMLLanguageModel, ids: Tensor, start: int, sees: int) -> Tensor:
    """Logits [B, vocab] of all tokens of a step."""
    tokens = ids.long().numpy()
    return torch.from_numpy(model.step(tokens, start, sees, torch.arange(len(tokens)).numpy()))


def in_steps(model: CoreMLLanguageModel, ids: Tensor, pieces: tuple[int, ...]) -> Tensor:
    """Logits [seq, vocab] of a sequence that is cut into steps."""
    return cut_into_steps(lambda part, start: step(model, part, start, start + len(part)), ids, pieces)
