"""Core ML packages: checked by coremltools anywhere, executed by Apple's framework on a Mac.

A package holds a model or a pipeline of parts, which the framework runs as one; a folder with our manifest.json holds a
package for each part, which are run one after the other here.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Artefact, Forward, Logits, Runnable, TensorForward, VerificationError
from diffulex_edge._errors import UnsupportedError
from diffulex_edge._language_model import LanguageModelFacts, check_rows, logits_in_steps

ONLY_ON_A_MAC: Final = "Core ML itself runs only on a Mac"
_CHUNKS_FORMAT: Final = "diffulex-edge coreml chunks"
_COMPUTE_UNIT: Final = "com.diffulex-edge.compute_unit"
_FACTS: Final = "com.diffulex-edge.language_model"
_CACHE: Final = "_cache_"
_FLOATS: Final = {65552: np.float16, 65568: np.float32}
"""By ArrayFeatureType.ArrayDataType."""


@dataclass(frozen=True)
class PackageCheck:
    """What coremltools has read and found right: every operation's types, by its own registry of operations."""

    coremltools: str
    """Its version."""
    specification_version: int
    packages: int
    programs: int
    operations: dict[str, int]
    """How many of each, of all programs."""

    def describe(self) -> str:
        count = sum(self.operations.values())
        programs = "one program" if self.programs == 1 else f"{self.programs} programs"
        return (
            f"coremltools {self.coremltools} has built {programs} (specification version "
            f"{self.specification_version}) and found the types of {count:,} operations right"
        )


class CoreMLPackage(Artefact):
    """A Core ML package, or a folder of them."""

    what = "a Core ML package"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return is_package(path)

    def check(self) -> PackageCheck:
        return check(self.path)

    def not_executed(self, has_data: bool) -> str | None:
        return f"not executed: {ONLY_ON_A_MAC}" if has_data and not can_execute() else None

    def load(self) -> Runnable:
        if can_execute() and keeps_cache(self.path):
            return Runnable(partial(logits_in_steps, CoreMLLanguageModel(self.path)))
        return Runnable(load(self.path))

    def load_language_model(self) -> CoreMLLanguageModel:
        return CoreMLLanguageModel(self.path)

    def load_module(self) -> tuple[str, TensorForward]:
        raise UnsupportedError(
            f"{self.path}: Core ML packages are executed by Apple's framework, only on a Mac (`python -m "
            "diffulex_edge verify` checks them here)",
            where=str(self.path),
        )


@dataclass(frozen=True)
class _Part:
    package: Path
    input: str
    output: str


def is_package(artefact: Path) -> bool:
    """Whether it is meant to be a package or a folder of packages."""
    return artefact.suffix == ".mlpackage" or artefact.is_dir()


def can_execute() -> bool:
    """Whether Core ML is on this machine."""
    return sys.platform == "darwin"


def check(artefact: Path) -> PackageCheck:
    """Let coremltools build the programs of an artefact, which infers the types of every operation.

    Raises VerificationError where it refuses them.
    """
    coremltools = _coremltools(artefact)
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    packages = _packages(artefact)
    operations: Counter[str] = Counter()
    version = programs = 0
    for package in packages:
        with _coremltools_errors(package, "refuses it"):
            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            specification = model.get_spec()
            for program in _programs(specification):
                built = load_program(program, program.specificationVersion, str(model.weights_dir))
                programs += 1
                for function in program.mlProgram.functions.values():
                    for operation in function.block_specializations[function.opset].operations:
                        operations[operation.type] += 1
                del built
            version = max(version, specification.specificationVersion)
    return PackageCheck(coremltools.__version__, version, len(packages), programs, dict(sorted(operations.items())))


def load(artefact: Path) -> Forward:
    """Load an artefact into the framework. Raises VerificationError where there is none, or where it refuses it."""
    if not can_execute():
        raise VerificationError(f"{artefact}: can't be executed here: {ONLY_ON_A_MAC}")
    coremltools = _coremltools(artefact)
    models = []
    for part in _parts(artefact):
        unit = _specification(part.package).description.metadata.userDefined.get(_COMPUTE_UNIT, "all")
        with _coremltools_errors(part.package, "Core ML can't load it"):
            units = coremltools.ComputeUnit[unit.upper()]
            models.append((part, coremltools.models.MLModel(str(part.package), compute_units=units)))
    first = models[0][0]
    described = {feature.name: feature for feature in _specification(first.package).description.input}
    if first.input not in described:
        raise VerificationError(f"{first.package}: has no input '{first.input}'")
    accepted = _Lengths(described[first.input].type.multiArrayType)

    def forward(ids: NDArray[np.int64]) -> Logits:
        if not accepted.takes(len(ids)):
            raise VerificationError(f"{artefact}: takes inputs of {accepted} tokens, not of {len(ids)}")
        value: Any = ids.astype(np.int32)[None]
        for part, model in models:
            with _coremltools_errors(part.package, f"Core ML refuses an input of {len(ids)} tokens"):
                value = model.predict({part.input: value})[part.output]
        return np.asarray(value, np.float32)[0]

    return forward


class StepRuntime(Protocol):
    """What executes a package that computes one step of a text, and keeps its state."""

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The outputs by name."""


class _FrameworkRuntime:
    """Core ML itself."""

    def __init__(self, package: Path) -> None:
        if not can_execute():
            raise VerificationError(f"{package}: can't be executed here: {ONLY_ON_A_MAC}")
        coremltools = _coremltools(package)
        description = _specification(package).description
        unit = description.metadata.userDefined.get(_COMPUTE_UNIT, "all")
        self._package = package
        with _coremltools_errors(package, "Core ML can't load it"):
            self._model = coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit[unit.upper()])
            self._state = self._model.make_state() if description.state else None

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        with _coremltools_errors(self._package, "Core ML refuses a step"):
            found: Mapping[str, NDArray[Any]] = self._model.predict(dict(inputs), state=self._state)
        return found


@dataclass(frozen=True)
class _StepPart:
    runtime: StepRuntime
    inputs: list[str]
    outputs: list[str]


class CoreMLLanguageModel:
    """A package, or a folder of them, with a cache (`--cache TOKENS`), one step of a text at a time.

    A step is filled up to one of the lengths that the packages take; `token_count` says how many of its tokens count.
    Keys and values are the packages' states, or are kept here: [1, kv heads, tokens, dim], of which each execution
    gives the rows of its tokens.

    Errors: `VerificationError`, also for packages without a cache, and where the runtime is not on this machine.
    """

    def __init__(self, artefact: Path, runtime: Callable[[Path], StepRuntime] = _FrameworkRuntime) -> None:
        self.path = artefact
        packages = _packages(artefact)
        descriptions = [_specification(package).description for package in packages]
        described = descriptions[0].metadata.userDefined.get(_FACTS)
        if described is None:
            raise VerificationError(
                f"{artefact}: keeps no keys and values from one step of a text to the next: export it with --cache"
            )
        try:
            self.facts = LanguageModelFacts.read(artefact, json.loads(described))
        except (ValueError, TypeError, AttributeError) as error:
            raise VerificationError(f"{artefact}: what it says of its language model can't be read: {error}") from error
        tokens = next((feature for feature in descriptions[0].input if feature.name == "input_ids"), None)
        if tokens is None:
            raise VerificationError(f"{artefact}: has no input 'input_ids'")
        self._lengths = _Lengths(tokens.type.multiArrayType).all()
        self._caches = {
            feature.name: np.zeros(list(array.shape), _FLOATS.get(array.dataType, np.float32))
            for description in descriptions
            for feature in description.input
            if _CACHE in feature.name
            for array in [feature.type.multiArrayType]
        }
        self._parts = [
            _StepPart(
                runtime(package), [one.name for one in description.input], [one.name for one in description.output]
            )
            for package, description in zip(packages, descriptions, strict=True)
        ]

    def step(self, tokens: NDArray[np.int64], start: int, sees: int, rows: NDArray[np.int64]) -> Logits:
        """See `LanguageModel`."""
        count = len(tokens)
        check_rows(self.path, self.facts, count, rows)
        length = next((length for length in self._lengths if length >= count), None)
        if length is None or start + count > self.facts.max_tokens or sees > self.facts.max_tokens:
            raise VerificationError(
                f"{self.path}: takes steps of up to {self._lengths[-1]} tokens in a text of up to "
                f"{self.facts.max_tokens}, not {count} from position {start} that see {sees}"
            )
        filled = np.zeros((1, length), np.int32)
        filled[0, :count] = tokens
        known: dict[str, NDArray[Any]] = {
            "input_ids": filled,
            "start_pos": np.array([start], np.int32),
            "token_count": np.array([count], np.int32),
            "context_len": np.array([sees], np.int32),
            **self._caches,
        }
        for part in self._parts:
            found = part.runtime.predict({name: known[name] for name in part.inputs})
            known |= {name: found[name] for name in part.outputs}
        for name, cache in self._caches.items():
            kind, layer = name.split(_CACHE)
            cache[:, :, start : start + count] = known[f"new_{kind}_{layer}"][:, :, :count]
        logits = np.asarray(known["logits"], np.float32)[0]
        return logits[: len(rows)] if self.facts.logits == "last" else logits[rows]


def _names(features: Iterable[Any]) -> list[str]:
    return [feature.name for feature in features]


def keeps_cache(artefact: Path) -> bool:
    """Whether it computes one step of a text at a time."""
    return _FACTS in _specification(_packages(artefact)[0]).description.metadata.userDefined


class _Lengths:
    """The sequence lengths that an input [1, seq] may have: one, some, or a range."""

    def __init__(self, array: Any) -> None:
        kind = array.WhichOneof("ShapeFlexibility")
        self._range: tuple[int, int] | None = None
        if kind == "shapeRange":
            sizes = array.shapeRange.sizeRanges[1]
            self._range = (sizes.lowerBound, sizes.upperBound)
        shapes = (
            [shape.shape for shape in array.enumeratedShapes.shapes] if kind == "enumeratedShapes" else [array.shape]
        )
        self._lengths = sorted(shape[1] for shape in shapes)

    def all(self) -> list[int]:
        """Ascending; of a range, its ends."""
        return self._lengths if self._range is None else list(self._range)

    def takes(self, length: int) -> bool:
        if self._range is None:
            return length in self._lengths
        least, most = self._range
        return least <= length and (most < 0 or length <= most)

    def __str__(self) -> str:
        if self._range is None:
            return ", ".join(map(str, self._lengths))
        least, most = self._range
        return f"{least} or more" if most < 0 else f"{least} to {most}"


def _coremltools(artefact: Path) -> Any:
    try:
        with _quiet():
            import coremltools
            import coremltools.converters.mil.frontend.milproto.load
            import coremltools.models
    except ImportError as error:
        raise VerificationError(f"{artefact}: reading it needs the Python package coremltools: {error}") from error
    return coremltools


@contextmanager
def _quiet() -> Iterator[None]:
    """Without coremltools' remarks on versions of other packages, and on what only a Mac has."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _coremltools_errors(package: Path, what: str) -> Iterator[None]:
    """Whatever coremltools raises (it has no type of its own) as one that names the package."""
    try:
        with _quiet():
            yield
    except Exception as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise VerificationError(f"{package}: coremltools: {what}: {reason}") from error


def _programs(specification: Any) -> Iterator[Any]:
    """The ML Programs of a model: itself, or those of a pipeline."""
    if specification.WhichOneof("Type") == "pipeline":
        for model in specification.pipeline.models:
            yield from _programs(model)
    else:
        yield specification


def _manifest(artefact: Path) -> list[dict[str, Any]] | None:
    """The parts of a folder of packages; None for a package itself."""
    path = artefact / "manifest.json"
    if artefact.suffix == ".mlpackage" or (artefact / "Data").is_dir():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: can't be read: {error}") from error
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    if not parts or manifest.get("format") != _CHUNKS_FORMAT or manifest.get("version") != 1:
        raise VerificationError(f"{path}: is not the manifest of a model in parts")
    names = ("package", "input", "output")
    if not all(isinstance(part, dict) and all(isinstance(part.get(name), str) for name in names) for part in parts):
        raise VerificationError(f"{path}: a part lacks one of {', '.join(names)}")
    return list(parts)


def _packages(artefact: Path) -> list[Path]:
    if not artefact.is_dir():
        raise VerificationError(f"{artefact}: does not exist, or is no folder")
    parts = _manifest(artefact)
    return [artefact] if parts is None else [artefact / part["package"] for part in parts]


def _parts(artefact: Path) -> list[_Part]:
    """What is run one after the other."""
    packages = _packages(artefact)
    parts = _manifest(artefact)
    if parts is not None:
        return [_Part(path, part["input"], part["output"]) for path, part in zip(packages, parts, strict=True)]
    description = _specification(artefact).description
    if len(description.input) != 1 or len(description.output) != 1:
        raise VerificationError(f"{artefact}: has not one input and one output")
    return [_Part(artefact, description.input[0].name, description.output[0].name)]


def _specification(package: Path) -> Any:
    with _coremltools_errors(package, "can't read it"):
        return _coremltools(package).models.utils.load_spec(str(package))
