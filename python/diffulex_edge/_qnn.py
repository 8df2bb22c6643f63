"""QNN folders: checked by their hashes and by ONNX, executed on Qualcomm's emulator of the NPU, or on the CPU.

A folder that `diffulex-edge export --backend qnn` wrote holds an ONNX model, or several that follow each other, and,
where they were compiled, a context binary of each for each SoC. The `onnxruntime-qnn` package executes a binary as the
NPU does; without a binary, and for what is the host's, ONNX Runtime's own kernels execute the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import (
    Artefact,
    Execution,
    Logits,
    Placement,
    Runnable,
    TensorForward,
    VerificationError,
    most_tokens,
)
from diffulex_edge._language_model import LanguageModelFacts, logits_in_steps
from diffulex_edge._qnn_steps import CacheTensor, QnnLanguageModel, StepModel, read_cache

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT: Final = "diffulex-edge-qnn"
_PROVIDER: Final = "QNNExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_FATAL_ALONE: Final = 4
"""ONNX Runtime's severity of what it logs: errors come as exceptions already."""
_MAX_ID: Final = 2**31 - 1
_TYPES: Final[dict[str, type]] = {
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class QnnCheck:
    """What was found right in a QNN folder."""

    models: int
    """ONNX models whose SHA-256 is the manifest's."""
    binaries: int
    """Context binaries, of all SoCs, whose SHA-256 is the manifest's."""
    onnx: str | None
    """Version of the ONNX whose checker took every node and inferred every shape; None: not installed, not checked."""

    def describe(self) -> str:
        models = "one ONNX model" if self.models == 1 else f"{self.models} ONNX models"
        binaries = {0: "no context binary", 1: "one context binary"}.get(
            self.binaries, f"{self.binaries} context binaries"
        )
        hashes = f"SHA-256 as in manifest.json: {models}, {binaries}"
        if self.onnx is None:
            return f"{hashes}; operators neither checked nor counted: pip install onnx"
        return f"{hashes}; ONNX {self.onnx} has checked every operator and inferred every shape"


@dataclass(frozen=True)
class _Model:
    file: str
    sha256: str
    on_host: bool
    inputs: list[str]
    output: str
    step_tokens: int
    """0: whole sequences."""
    caches: list[CacheTensor]
    tensors: dict[str, tuple[list[int], np.dtype[Any]]]
    """Of each input: its shape and type."""


@dataclass(frozen=True)
class _Context:
    soc: str
    source: str
    soc_model: int
    htp_arch: int
    model: str
    binary: str
    sha256: str
    shares_binary: bool
    """With models for steps of other sizes."""


def is_package(artefact: Path) -> bool:
    """Whether it is a folder that the QNN backend wrote."""
    try:
        manifest = json.loads((artefact / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == _FORMAT


class QnnFolder(Artefact):
    """A folder with the manifest of the QNN backend, and the context binary of one SoC, if it was compiled."""

    what = "a QNN folder"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return is_package(path)

    @classmethod
    def open(cls, path: Path, soc: str | None = None) -> QnnFolder:
        return cls(path, soc)

    @classmethod
    def open_reference(cls, path: Path, soc: str | None) -> QnnFolder:
        folder = cls(path)
        if soc is not None and folder.socs:
            folder = cls(path, soc)
        folder.check()
        return folder

    def __init__(self, folder: Path, soc: str | None = None) -> None:
        """Read the manifest; `soc` (the first one without it) is the binary that is meant.

        Raises VerificationError where the manifest is broken, or there is no such binary.
        """
        super().__init__(folder)
        self.folder = folder
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            if manifest["version"] != 1:
                raise VerificationError(f"{path}: is of version {manifest['version']}, and 1 is read here")
            self._models = [
                _Model(
                    file=str(each["file"]),
                    sha256=str(each["sha256"]),
                    on_host=each["runs_on"] == "host",
                    inputs=[str(given["name"]) for given in each["inputs"]],
                    output=str(each["outputs"][0]["name"]),
                    step_tokens=int(each.get("step_tokens", 0)),
                    caches=[
                        CacheTensor(str(one["past"]), str(one["new"]), int(one["token_axis"]))
                        for one in each.get("caches", [])
                    ],
                    tensors={
                        str(given["name"]): (list(map(int, given["shape"])), np.dtype(given["dtype"]))
                        for given in each["inputs"]
                    },
                )
                for each in manifest["models"]
            ]
            self._data = folder / manifest["data"]["file"]
            self._data_bytes = int(manifest["data"]["bytes"])
            self._shapes = [list(map(int, given["shape"])) for given in manifest["models"][0]["inputs"]]
            self._contexts = [
                _Context(
                    soc=str(each["soc"]),
                    source=str(each["source"]),
                    soc_model=int(each["soc_model"]),
                    htp_arch=int(each["htp_arch"]),
                    model=str(each["model"]),
                    binary=str(each["binary"]),
                    sha256=str(each["sha256"]),
                    shares_binary=bool(each.get("shares_binary", False)),
                )
                for each in manifest["contexts"]
            ]
            self._cache = read_cache(manifest)
            self._facts = None if self._cache is None else LanguageModelFacts.read(path, manifest["language_model"])
            sizes = [0] if self._cache is None else self._cache.sizes
            if not sizes or {model.step_tokens for model in self._models} != set(sizes):
                raise VerificationError(f"{path}: its models are not those of its sizes of a step")
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            if isinstance(error, VerificationError):
                raise
            raise VerificationError(f"{path}: is not the manifest of a QNN folder: {error!r}") from error
        self._soc = self._choose(soc)

    def _choose(self, soc: str | None) -> str | None:
        if soc is None:
            return self.socs[0] if self.socs else None
        for known in self.socs:
            if known.lower() == soc.lower():
                return known
        listed = ", ".join(self.socs) or "none: export with --soc"
        raise VerificationError(f"{self.folder}: has no context binary for {soc}; it has {listed}")

    def _context(self, model: _Model) -> _Context | None:
        """What the NPU executes of it; None where that is the host."""
        for context in self._contexts:
            if context.soc == self._soc and context.source == model.file:
                return context
        if self._soc is not None and not model.on_host:
            raise VerificationError(f"{self.folder}: has no context binary of {model.file} for {self._soc}")
        return None

    def length_of_tokens(self) -> int | None:
        """N of token ids [1, N], the only input; VerificationError for a model that takes something else.

        None for models that compute steps.
        """
        return most_tokens(self.folder, self._shapes) if self._cache is None else None

    @property
    def socs(self) -> list[str]:
        """Those with context binaries."""
        return list(dict.fromkeys(context.soc for context in self._contexts))

    def check(self) -> QnnCheck:
        """Compare every hash with the manifest's, and let ONNX check the model.

        Raises VerificationError where a file is not the one that was exported, or ONNX refuses the model.
        """
        hashes = {self.folder / model.file: model.sha256 for model in self._models}
        hashes |= {self.folder / context.binary: context.sha256 for context in self._contexts}
        for path, expected in hashes.items():
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise VerificationError(f"{path}: can't be read: {error}") from error
            if found != expected:
                raise VerificationError(
                    f"{path}: is damaged or was changed: its SHA-256 is {found}, in manifest.json it is {expected}; "
                    "export it again"
                )
        size = self._data.stat().st_size if self._data.is_file() else None
        if size != self._data_bytes:
            held = "is missing" if size is None else f"has {size:,} bytes"
            raise VerificationError(
                f"{self._data}: {held}, in manifest.json it has {self._data_bytes:,}; export it again"
            )
        onnx = _onnx()
        if onnx is not None:
            for model in self._models:
                path = self.folder / model.file
                with _errors(path, "ONNX's checker refuses it"):
                    onnx.checker.check_model(str(path), full_check=True)
        binaries = {context.binary for context in self._contexts}
        return QnnCheck(len(self._models), len(binaries), None if onnx is None else onnx.__version__)

    def placement(self) -> Placement | None:
        """Where each operator is executed; None without the package `onnx`, which reads the models."""
        if _onnx() is None:
            return None
        npu: Counter[str] = Counter()
        host: Counter[str] = Counter()
        contexts = 0
        binaries = set()
        for model in self._models:
            source = _operators(self.folder / model.file)
            context = self._context(model)
            if context is None:
                host += source
                continue
            compiled = _operators(self.folder / context.model)
            contexts += compiled.pop("com.microsoft.EPContext", 0)
            npu += source - compiled
            host += compiled
            binaries.add(self.folder / context.binary)
        size = sum(binary.stat().st_size for binary in binaries)
        return Placement(self._soc, _sorted(npu), _sorted(host), contexts, size if self._soc else None)

    def load(self) -> Runnable:
        """The context binaries in the emulator, with the same models on the CPU beside them; without any, only those.

        For models of token ids. Raises VerificationError where a package is not installed, or the runtime refuses a
        model.
        """
        runtime = self._runtime()
        cpu_steps = [self._cpu_step(runtime, model) for model in self._models]
        if self._cache is not None:
            on_cpu = partial(logits_in_steps, self._language_model(cpu_steps))
            if self._soc is None:
                return Runnable(on_cpu, execution=self._execution(runtime))
            device = self._language_model(self._device_steps(runtime, cpu_steps))
            return Runnable(partial(logits_in_steps, device), on_cpu, self._execution(runtime))
        if self._soc is None:
            return Runnable(partial(_run_tokens, cpu_steps), execution=self._execution(runtime))
        steps = self._device_steps(runtime, cpu_steps)
        return Runnable(partial(_run_tokens, steps), partial(_run_tokens, cpu_steps), self._execution(runtime))

    def load_language_model(self) -> QnnLanguageModel:
        runtime = self._runtime()
        on_host = [self._cpu_step(runtime, model) if self._context(model) is None else None for model in self._models]
        return self._language_model(self._device_steps(runtime, on_host))

    def _language_model(self, steps: Sequence[_Step]) -> QnnLanguageModel:
        if self._cache is None or self._facts is None:
            raise VerificationError(
                f"{self.folder}: computes whole sequences of one length, and text has any: export it with --cache "
                "TOKENS"
            )
        models: dict[int, list[StepModel]] = {size: [] for size in self._cache.sizes}
        for step in steps:
            model = step.model
            models[model.step_tokens].append(
                StepModel(step.path, step.session, model.inputs[0], model.output, model.caches, model.tensors)
            )
        return QnnLanguageModel(self.folder, self._facts, self._cache, models)

    def not_executed(self, has_data: bool) -> str | None:
        return None if has_data else "not executed: that needs --data"

    def load_module(self) -> tuple[str, TensorForward]:
        execute, execution = self.load_arrays()

        def run(inputs: Sequence[Any]) -> Tensor:
            import torch

            return torch.from_numpy(execute([value.numpy() for value in inputs if isinstance(value, torch.Tensor)]))

        if execution.soc is None:
            return f"ONNX Runtime {execution.onnxruntime} on the CPU", run
        return f"Qualcomm's emulator of {execution.soc} (onnxruntime-qnn {execution.onnxruntime_qnn})", run

    def load_arrays(self) -> tuple[Callable[[Sequence[NDArray[Any]]], NDArray[np.float32]], Execution]:
        """What takes the inputs of any model and gives its output: on the emulator where there are context binaries.

        Raises VerificationError as `load`.
        """
        if self._cache is not None:
            raise VerificationError(f"{self.folder}: has a cache: it computes steps of a text, not a module's output")
        runtime = self._runtime()
        on_host = [self._cpu_step(runtime, model) if self._context(model) is None else None for model in self._models]
        return partial(_run_arrays, self._device_steps(runtime, on_host)), self._execution(runtime)

    def _runtime(self) -> _Runtime:
        what = "its models" if self._soc is None else "its context binaries"
        package = "onnxruntime" if self._soc is None else "onnxruntime-qnn"
        onnxruntime_qnn = None
        try:
            import onnxruntime

            if self._soc is not None:
                import onnxruntime_qnn
        except ImportError as error:
            raise VerificationError(
                f"{self.folder}: executing {what} needs a Python package: pip install {package} ({error})"
            ) from error
        return _Runtime(onnxruntime, onnxruntime_qnn)

    def _cpu_step(self, runtime: _Runtime, model: _Model) -> _Step:
        path = self.folder / model.file
        with _errors(path, "ONNX Runtime refuses it"):
            return _Step(path, model, runtime.onnxruntime.InferenceSession(path, runtime.options(), providers=[_CPU]))

    def _device_steps(self, runtime: _Runtime, cpu_steps: Sequence[_Step | None]) -> list[_Step]:
        """Each model where it is executed: in the emulator, or, where that is the host, as in `cpu_steps`."""
        steps = []
        for model, cpu_step in zip(self._models, cpu_steps, strict=True):
            context = self._context(model)
            if context is None:
                assert cpu_step is not None
                steps.append(cpu_step)
                continue
            if context.shares_binary:
                raise VerificationError(
                    f"{self.folder}: its context binary for {context.soc} has graphs that share weights, which "
                    "Qualcomm's emulator does not load: export it without --share-weights to execute it here"
                )
            path = self.folder / context.model
            with _errors(path, f"Qualcomm's emulator of {context.soc} refuses it"):
                session = runtime.onnxruntime.InferenceSession(path, runtime.device_options(context))
                steps.append(_Step(path, model, session))
        return steps

    def _execution(self, runtime: _Runtime) -> Execution:
        version = str(runtime.onnxruntime.__version__)
        used = next((context for context in self._contexts if context.soc == self._soc), None)
        if used is None:
            return Execution(_CPU, version)
        return Execution(_PROVIDER, version, runtime.onnxruntime_qnn.__version__, used.soc, used.htp_arch)


@dataclass(frozen=True)
class _Runtime:
    """ONNX Runtime, and Qualcomm's provider for it where context binaries are executed."""

    onnxruntime: Any
    onnxruntime_qnn: Any

    def options(self) -> Any:
        result = self.onnxruntime.SessionOptions()
        result.log_severity_level = _FATAL_ALONE
        return result

    def device_options(self, context: _Context) -> Any:
        """The emulator of the context's SoC, without fallback to the CPU."""
        result = self.options()
        result.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        target = {
            "backend_path": self.onnxruntime_qnn.get_qnn_htp_path(),
            "soc_model": str(context.soc_model),
            "htp_arch": str(context.htp_arch),
        }
        result.add_provider_for_devices(_devices(self.onnxruntime, self.onnxruntime_qnn), target)
        return result


@dataclass(frozen=True)
class _Step:
    """A loaded model, and the file that an error is about."""

    path: Path
    model: _Model
    session: Any


def _run_tokens(steps: list[_Step], ids: NDArray[np.int64]) -> Logits:
    if ids.min() < 0 or ids.max() > _MAX_ID:  # ONNX counts negative ones from the end
        raise VerificationError(f"{steps[0].path}: takes token ids from 0 on, not {ids.min()} to {ids.max()}")
    return _run_arrays(steps, [ids.astype(np.int32)[None]])[0]


def _run_arrays(steps: list[_Step], arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """What each step makes goes into the next one. Arrays become the types that the model declares."""
    wanted = len(steps[0].model.inputs)
    if len(arrays) != wanted:
        raise VerificationError(f"{steps[0].path}: takes {wanted} inputs, not {len(arrays)}")
    for step in steps:
        with _errors(step.path, "ONNX Runtime can't execute it"):
            types = {given.name: _TYPES.get(given.type) for given in step.session.get_inputs()}
            feeds = {
                name: array.astype(types[name] or array.dtype, copy=False)
                for name, array in zip(step.model.inputs, arrays, strict=True)
            }
            arrays = step.session.run([step.model.output], feeds)
    (value,) = arrays
    if not np.isfinite(value).all():
        raise VerificationError(f"{steps[-1].path}: gives values that are not finite")
    return np.asarray(value, np.float32)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
    except ImportError:
        return None
    return onnx


def _operators(path: Path) -> Counter[str]:
    with _errors(path, "ONNX can't read it"):
        nodes = _onnx().load(path, load_external_data=False).graph.node
    return Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _devices(onnxruntime: Any, onnxruntime_qnn: Any) -> list[Any]:
    """The emulator, as ONNX Runtime lists it once the provider is registered, which a process may do only once."""

    def listed() -> list[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER][:1]

    if not listed():
        onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    devices = listed()
    if not devices:
        raise RuntimeError(f"onnxruntime lists no device of {_PROVIDER}")
    return devices


@contextmanager
def _errors(path: Path, what: str) -> Iterator[None]:
    """Whatever ONNX or ONNX Runtime raises (their types have no common base) as one that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VerificationError(f"{path}: {what}: {reason}") from error
