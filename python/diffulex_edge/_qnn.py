"""QNN folders: checked by their hashes and by ONNX, executed on Qualcomm's emulator of the NPU, or on the CPU.

A folder that `diffulex-edge export --backend qnn` wrote holds an ONNX model, or several that follow each other, and,
where they were compiled, a context binary of each for each SoC. The `onnxruntime-qnn` package executes a binary as the
NPU does; without a binary, and for what is the host's, ONNX Runtime's own kernels execute the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffulex_edge._artefact import Execution, Logits, Runnable, VerificationError

_FORMAT: Final = "diffulex-edge-qnn"
_PROVIDER: Final = "QNNExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_FATAL_ALONE: Final = 4
"""ONNX Runtime's severity of what it logs: errors come as exceptions already."""
_MAX_ID: Final = 2**31 - 1


@dataclass(frozen=True)
class QnnCheck:
    """What was found right in a QNN folder."""

    models: int
    """ONNX models whose SHA-256 is the manifest's."""
    binaries: int
    """Context binaries, of all SoCs, whose SHA-256 is the manifest's."""
    onnx: str | None
    """Version of the ONNX whose checker took every node and inferred every shape; None: not installed, not checked."""


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


@dataclass(frozen=True)
class _Model:
    file: str
    sha256: str
    on_host: bool
    input: str
    output: str


@dataclass(frozen=True)
class _Context:
    soc: str
    source: str
    soc_model: int
    htp_arch: int
    model: str
    binary: str
    sha256: str


def is_package(artefact: Path) -> bool:
    """Whether it is a folder that the QNN backend wrote."""
    try:
        manifest = json.loads((artefact / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == _FORMAT


class QnnFolder:
    """A folder with the manifest of the QNN backend, and the context binary of one SoC, if it was compiled."""

    def __init__(self, folder: Path, soc: str | None = None) -> None:
        """Read the manifest; `soc` (the first one without it) is the binary that is meant.

        Raises VerificationError where the manifest is broken, or there is no such binary.
        """
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
                    input=str(each["inputs"][0]["name"]),
                    output=str(each["outputs"][0]["name"]),
                )
                for each in manifest["models"]
            ]
            self._data = folder / manifest["data"]["file"]
            self._data_bytes = int(manifest["data"]["bytes"])
            _, self.length = map(int, manifest["models"][0]["inputs"][0]["shape"])
            self._contexts = [
                _Context(
                    soc=str(each["soc"]),
                    source=str(each["source"]),
                    soc_model=int(each["soc_model"]),
                    htp_arch=int(each["htp_arch"]),
                    model=str(each["model"]),
                    binary=str(each["binary"]),
                    sha256=str(each["sha256"]),
                )
                for each in manifest["contexts"]
            ]
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
        return QnnCheck(len(self._models), len(self._contexts), None if onnx is None else onnx.__version__)

    def placement(self) -> Placement | None:
        """Where each operator is executed; None without the package `onnx`, which reads the models."""
        if _onnx() is None:
            return None
        npu: Counter[str] = Counter()
        host: Counter[str] = Counter()
        contexts = size = 0
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
            size += (self.folder / context.binary).stat().st_size
        return Placement(self._soc, _sorted(npu), _sorted(host), contexts, size if self._soc else None)

    def load(self) -> Runnable:
        """The context binaries in the emulator, with the same models on the CPU beside them; without any, those alone.

        Raises VerificationError where a package is not installed, or the runtime refuses a model.
        """
        what = "its models" if self._soc is None else "its context binaries"
        package = "onnxruntime" if self._soc is None else "onnxruntime-qnn"
        try:
            import onnxruntime

            if self._soc is not None:
                import onnxruntime_qnn
        except ImportError as error:
            raise VerificationError(
                f"{self.folder}: executing {what} needs a Python package: pip install {package} ({error})"
            ) from error

        def options() -> Any:
            result = onnxruntime.SessionOptions()
            result.log_severity_level = _FATAL_ALONE
            return result

        def on_cpu(model: _Model) -> _Step:
            path = self.folder / model.file
            with _errors(path, "ONNX Runtime refuses it"):
                return _Step(path, model, onnxruntime.InferenceSession(path, options(), providers=[_CPU]))

        def on_npu(model: _Model, context: _Context) -> _Step:
            path = self.folder / context.model
            with _errors(path, f"Qualcomm's emulator of {context.soc} refuses it"):
                own = options()
                own.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
                target = {
                    "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
                    "soc_model": str(context.soc_model),
                    "htp_arch": str(context.htp_arch),
                }
                own.add_provider_for_devices(_devices(onnxruntime, onnxruntime_qnn), target)
                return _Step(path, model, onnxruntime.InferenceSession(path, own))

        cpu_steps = [on_cpu(model) for model in self._models]
        version = str(onnxruntime.__version__)
        if self._soc is None:
            return Runnable(partial(_run, cpu_steps), execution=Execution(_CPU, version))
        npu_steps, used = [], None
        for model, cpu_step in zip(self._models, cpu_steps, strict=True):
            context = self._context(model)
            used = context or used
            npu_steps.append(cpu_step if context is None else on_npu(model, context))
        assert used is not None
        execution = Execution(_PROVIDER, version, onnxruntime_qnn.__version__, used.soc, used.htp_arch)
        return Runnable(partial(_run, npu_steps), partial(_run, cpu_steps), execution)


@dataclass(frozen=True)
class _Step:
    """A loaded model, and the file that an error is about."""

    path: Path
    model: _Model
    session: Any


def _run(steps: list[_Step], ids: NDArray[np.int64]) -> Logits:
    """What each step makes goes into the next one."""
    if ids.min() < 0 or ids.max() > _MAX_ID:  # ONNX counts negative ones from the end
        raise VerificationError(f"{steps[0].path}: takes token ids from 0 on, not {ids.min()} to {ids.max()}")
    value: Any = ids.astype(np.int32)[None]
    for step in steps:
        with _errors(step.path, "ONNX Runtime can't execute it"):
            (value,) = step.session.run([step.model.output], {step.model.input: value})
    if not np.isfinite(value).all():
        raise VerificationError(f"{steps[-1].path}: gives logits that are not finite")
    return np.asarray(value[0], np.float32)


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
