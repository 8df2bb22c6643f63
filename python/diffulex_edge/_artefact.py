"""What every runtime of an artefact has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from diffulex_edge._language_model import LanguageModel

Logits = NDArray[np.float32]
Forward = Callable[[NDArray[np.int64]], Logits]
"""Token ids [seq] to logits [seq, vocab]."""
TensorForward = Callable[[Sequence[Any]], "Tensor"]
"""A module's inputs to its output."""
Pairs = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Token ids and targets, each [sequences, length], by the label of their set."""


class VerificationError(ValueError):
    """A file can't be read, does not hold what it should, or the runtime refuses it. The message names the file."""


@dataclass(frozen=True)
class Execution:
    """What executed a QNN folder."""

    provider: str
    """Of ONNX Runtime: QNNExecutionProvider is Qualcomm's emulator, without fallback to the CPU."""
    onnxruntime: str
    """Its version."""
    onnxruntime_qnn: str | None = None
    """Its version; None on the CPU, as the two below."""
    soc: str | None = None
    htp_arch: int | None = None
    """The version of the emulated NPU, such as 73."""


@dataclass(frozen=True)
class Runnable:
    """An artefact that its runtime has loaded."""

    forward: Forward
    cpu: Forward | None = None
    """The same model on the CPU, where what executes it is an emulated device."""
    execution: Execution | None = None
    """Of a QNN folder."""


@dataclass(frozen=True)
class Placement:
    """Where the models' operators are executed: how many of each type, and how large the context binaries are."""

    soc: str | None
    """None: nothing was compiled, so that all are on the host."""
    npu: dict[str, int]
    """What went into the context. Types outside ONNX's own domain have its name in front."""
    host: dict[str, int]
    """What ONNX Runtime's CPU kernels execute."""
    contexts: int
    """EPContext nodes of all models: pieces that the NPU executes as one each."""
    binary_bytes: int | None


def most_tokens(path: Path, shapes: Sequence[Sequence[int]]) -> int:
    """N of token ids [1, N], the only input; VerificationError for a model whose inputs have other shapes."""
    if len(shapes) != 1 or len(shapes[0]) != 2:
        listed = ", ".join(map(str, shapes))
        raise VerificationError(
            f"{path}: takes inputs of the shape {listed}, not token ids [1, N]: verify measures language "
            "models, and validate_numerical_accuracy compares any module with its artefact"
        )
    return shapes[0][1]


class Check(Protocol):
    """What a vendor's tools have found right in an artefact: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def describe(self) -> str:
        """In a sentence."""
        ...


class Artefact(ABC):
    """An artefact, opened by what checks and executes its kind. Every method may raise VerificationError."""

    #: In sentences, such as "a .pte file".
    what: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a path that exists is meant to be one of this kind."""

    @classmethod
    def open(cls, path: Path, soc: str | None = None) -> Self:
        """`soc`: for which chip it is executed; of a kind that is compiled for chips."""
        if soc is not None:
            raise VerificationError(f"{path}: is not a QNN folder; only those have a SoC ({soc})")
        return cls(path)

    @classmethod
    def open_reference(cls, path: Path, soc: str | None) -> Self:
        """What another artefact is compared with; for the same `soc`, where it is compiled for chips."""
        return cls(path)

    def check(self) -> Check | None:
        """What its vendor's tools find without executing it. None: there are no such tools."""
        return None

    def placement(self) -> Placement | None:
        """Where its operators are executed, if that is known."""
        return None

    def not_executed(self, has_data: bool) -> str | None:
        """Why it is only checked. None: it is executed."""
        return None

    def length_of_tokens(self) -> int | None:
        """The only length of token ids [1, N] that it takes. None: there are several."""
        return None

    @abstractmethod
    def load(self) -> Runnable:
        """The artefact of a language model, in its runtime."""

    def load_language_model(self) -> LanguageModel:
        """The artefact of a language model, to write text with."""
        raise VerificationError(f"{self.path}: text is not written with {self.what}")

    @abstractmethod
    def load_module(self) -> tuple[str, TensorForward]:
        """The artefact of any module, in its runtime, and what that is called. May raise UnsupportedError."""
