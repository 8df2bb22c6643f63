"""The backends, and what they share: a module goes through `torch.export` and the C++ library to an artefact."""

from __future__ import annotations

import mmap
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diffulex_edge import _core
from diffulex_edge._errors import Error, InvalidArgumentError, UnsupportedError
from diffulex_edge.backends._config import BackendConfig
from diffulex_edge.backends._registry import BackendRegistry
from diffulex_edge.backends._result import ExportResult
from diffulex_edge.quant._config import QuantizationConfig, QuantizationDtype, QuantizationMode

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from diffulex_edge.frontend._module import ModuleProgram

#: done bytes, total bytes, stage
ProgressCallback = Callable[[int, int, str], None]
#: Exports to a path, or predicts what would be there, and gives the metadata.
_Run = Callable[[str | None, ProgressCallback | None], dict[str, Any]]


class EdgeBackend:
    """Base of the backends. A subclass with another `name` can be registered with `BackendRegistry`."""

    name: ClassVar[str]
    suffix: ClassVar[str] = ""

    def __init__(self, config: BackendConfig | None = None) -> None:
        self.config = config if config is not None else BackendConfig()
        if not isinstance(self.config, BackendConfig):
            raise TypeError(f"config: {type(config).__name__} is not a BackendConfig")
        if self.config.backend_name not in (None, self.name):
            raise InvalidArgumentError(
                f"backend_name: the config is for '{self.config.backend_name}', the backend is '{self.name}'",
                where="backend_name",
            )

    def export(
        self,
        model: nn.Module | ExportedProgram,
        example_inputs: Sequence[Any],
        *,
        path: str | Path | None = None,
        example_kwargs: Mapping[str, Any] | None = None,
        dynamic_shapes: Any = None,
        calibration_data: Iterable[Any] | None = None,
        observer: str = "mse",
        percentile: float = 99.99,
        threads: int = 0,
        progress: ProgressCallback | None = None,
    ) -> ExportResult:
        """Quantizes, lowers and writes `model`. The module is left as it was.

        `example_inputs`: positional arguments of its forward, such as `(input_ids,)`; their shapes are the artefact's,
        but for what `dynamic_shapes` (as in `torch.export.export`, with one `torch.export.Dim` that has a maximum) lets
        vary. `path`: where the artefact goes; without it, `result.buffer` has its bytes and `result.save(path)` copies
        it. `calibration_data`: for mode static, tuples of inputs as `example_inputs`; `observer` ("mse", "min_max" or
        "percentile" with `percentile`) chooses ranges from what the layers see of it. `threads`: 0 for all processors.
        `progress(done_bytes, total_bytes, stage)`: called while weights are written; tqdm's update fits in.

        Never raises the library's `Error`: failures come back in the result, and `path` is then as it was before.
        `TypeError` for arguments of a wrong type.
        """
        return _guarded(lambda: self._export(
            model, example_inputs, Path(path) if path is not None else None, example_kwargs, dynamic_shapes,
            _Calibration(calibration_data, observer, percentile), threads, progress, dry_run=False,
        ))  # fmt: skip

    def dry_run(
        self,
        model: nn.Module | ExportedProgram,
        example_inputs: Sequence[Any],
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        dynamic_shapes: Any = None,
        calibration_data: Iterable[Any] | None = None,
    ) -> ExportResult:
        """The metadata that `export` would give, sizes exact, without writing anything."""
        return _guarded(lambda: self._export(
            model, example_inputs, None, example_kwargs, dynamic_shapes,
            _Calibration(calibration_data, "mse", 99.99), 0, None, dry_run=True,
        ))  # fmt: skip

    def export_model(
        self,
        folder: str | Path,
        path: str | Path,
        *,
        seq_len: int | None = None,
        block_length: int | None = None,
        threads: int = 0,
        progress: ProgressCallback | None = None,
    ) -> ExportResult:
        """Exports a model's folder, as `diffulex-edge export` does: without PyTorch, in memory that does not grow.

        `folder`: with config.json and safetensors files, of LLaDA, Dream, SDAR, Fast-dLLM v2, Llama, Qwen2 or Qwen3.
        `seq_len`: the longest input, in tokens; default: the config's max_seq_len, or what the model was made for, at
        most 1024. `block_length`: overrides the model's block-causal mask; 0: fully bidirectional. Calibration, for
        mode static and the rounding methods that need it, is the command's alone.

        Never raises the library's `Error`: failures come back in the result, and `path` is then as it was before.
        """
        return _guarded(lambda: self._export_model(folder, Path(path), seq_len, block_length, threads, progress))

    def support(self, dtype: str, mode: str = "weight_only") -> dict[str, str]:
        """What this backend can do with a format: "level" (full, partial, unsupported) and "note"."""
        return _core.support(self.name, str(QuantizationDtype(dtype)), str(QuantizationMode(mode)))

    # --- Inside.

    def _input_lengths(self, program: ModuleProgram) -> str | None:
        """Which lengths the artefact takes, as the C++ library reads it; None: what suits the backend."""
        return None

    def _options(self) -> dict[str, str]:
        """The backend's options, as the C++ library reads them."""
        return self.config.options()

    def _export_model(
        self,
        folder: str | Path,
        path: Path,
        seq_len: int | None,
        block_length: int | None,
        threads: int,
        progress: ProgressCallback | None,
    ) -> ExportResult:
        config = self.config
        if config.batch_size not in (None, 1):
            raise InvalidArgumentError(f"batch_size: {config.batch_size}, but models take one sequence at a time")
        length = seq_len if seq_len is not None else config.max_seq_len
        if config.max_seq_len is not None and length is not None and length > config.max_seq_len:
            raise InvalidArgumentError(f"max_seq_len: {config.max_seq_len} is less than {length}", where="max_seq_len")

        def run(to: str | None, report: ProgressCallback | None) -> dict[str, Any]:
            return _core.export_checkpoint(
                str(folder), length, block_length, self.name, config.quantization(), config.activation_dtype,
                self._options(), to, threads, report,
            )  # fmt: skip

        metadata = self._within_memory(run, path, progress)
        metadata["has_sequence"] = True
        return ExportResult(success=True, buffer=_mapped(path), metadata=metadata, path=path, _artefact=path)

    def _export(
        self,
        model: nn.Module | ExportedProgram,
        example_inputs: Sequence[Any],
        path: Path | None,
        example_kwargs: Mapping[str, Any] | None,
        dynamic_shapes: Any,
        calibration: _Calibration,
        threads: int,
        progress: ProgressCallback | None,
        dry_run: bool,
    ) -> ExportResult:
        from diffulex_edge.frontend._module import read_module

        program = read_module(model, example_inputs, example_kwargs=example_kwargs, dynamic_shapes=dynamic_shapes)
        began = time.perf_counter()
        self._check_shapes(program)
        quantization = self._quantization(program, calibration)
        native = program.native()
        folder = None if dry_run or path is not None else tempfile.TemporaryDirectory(prefix="diffulex-edge-")
        target = path if folder is None else Path(folder.name) / f"model{self.suffix}"

        def run(to: str | None, report: ProgressCallback | None) -> dict[str, Any]:
            return native.export(
                self.name, quantization, self.config.activation_dtype, self._input_lengths(program),
                self._options(), to, threads, report,
            )  # fmt: skip

        metadata = self._within_memory(run, target, progress)
        metadata["torch_export_seconds"] = program.seconds["torch_export"]
        metadata["seconds"] = time.perf_counter() - began + program.seconds["translation"]
        metadata["inputs"] = program.inputs
        metadata["output"] = program.output_name
        metadata["has_sequence"] = program.longest is not None
        metadata["warnings"] = [*program.warnings, *calibration.warnings, *metadata["warnings"]]
        return ExportResult(
            success=True,
            buffer=_mapped(target),
            metadata=metadata,
            path=path,
            _folder=folder,
            _artefact=target,
        )

    def _check_shapes(self, program: ModuleProgram) -> None:
        config = self.config
        if config.max_seq_len is not None and program.seq_len > config.max_seq_len:
            raise InvalidArgumentError(
                f"max_seq_len: {config.max_seq_len} is less than the {program.seq_len} of the example inputs or of "
                "dynamic_shapes",
                where="max_seq_len",
            )
        first = next(node for node in program.graph.nodes if node.op == "input")
        if config.batch_size is not None and first.shape[:1] != (config.batch_size,):
            has = "varies" if first.shape[:1] == (-1,) else f"is {list(first.shape[:1])}"
            raise InvalidArgumentError(
                f"batch_size: {config.batch_size}, but the first dimension of {first.name} {has}", where="batch_size"
            )

    def _within_memory(self, run: _Run, target: Path | None, progress: ProgressCallback | None) -> dict[str, Any]:
        """Runs an export, if what it would store keeps to max_memory_mb."""
        most = self.config.max_memory_mb
        if most is not None:
            needed = run(None, None)["quantized_memory_mb"]
            if needed > most:
                raise UnsupportedError(
                    f"max_memory_mb: the weights take {needed:.2f} MiB, more than {most:g} (quantize further, or raise "
                    "it)",
                    where="max_memory_mb",
                )
        return run(None if target is None else str(target), progress)

    def _quantization(self, program: ModuleProgram, calibration: _Calibration) -> QuantizationConfig:
        config = self.config.quantization()
        if config is None:
            config = _stored_quantization(program)
        wants_integers = self.config.activation_dtype in ("int8", "int16")
        if wants_integers and not {QuantizationDtype.INT8, QuantizationDtype.INT4} & config.dtypes():
            raise UnsupportedError(
                f"activation_dtype: {self.config.activation_dtype} is for INT8 and INT4 weights (give a quant_config)",
                where="activation_dtype",
            )
        if wants_integers and config.mode == QuantizationMode.WEIGHT_ONLY:
            config = replace(config, mode=QuantizationMode.STATIC)
        if config.mode == QuantizationMode.STATIC:
            config = calibration.complete(program, config, everything=self.name == "qnn")
        elif calibration.data is not None:
            raise InvalidArgumentError(
                f"calibration_data: is for mode static, and the mode is {config.mode}", where="calibration_data"
            )
        return config


class _Calibration:
    """Ranges for mode static, from running the graph in PyTorch."""

    def __init__(self, data: Iterable[Any] | None, observer: str, percentile: float) -> None:
        self.data = data
        self.observer = observer
        self.percentile = percentile
        self.warnings: list[str] = []

    def complete(self, program: ModuleProgram, config: QuantizationConfig, everything: bool) -> QuantizationConfig:
        """`config` with the ranges that it lacks; `everything`: those of every value, for integers throughout."""
        from diffulex_edge.frontend._calibrate import layer_ranges, value_ranges

        known = {**config.activations, **_module_ranges(program)}
        if self.data is None:
            if everything or not known:
                raise InvalidArgumentError(
                    "calibration_data: mode static needs the ranges of activations (give some inputs of the model, or "
                    "use mode dynamic)",
                    where="calibration_data",
                )
            return replace(config, activations=known)
        items = list(self.data)
        if not items:
            raise InvalidArgumentError("calibration_data: is empty", where="calibration_data")
        if everything:
            completed = replace(config)
            completed.graph_activations = value_ranges(program, items)  # type: ignore[attr-defined]
            return completed
        found = layer_ranges(program, items, self.observer, self.percentile)
        return replace(config, activations={**found, **known})


def _module_ranges(program: ModuleProgram) -> dict[str, Any]:
    return {
        name: {"input": given.tolist(), "output": made.tolist()} for name, (given, made) in program.activations.items()
    }


def _stored_quantization(program: ModuleProgram) -> QuantizationConfig:
    """The configuration that keeps each layer as the module has it."""
    if not program.quantized:
        return QuantizationConfig()
    formats = {}
    modes = set()
    for node in program.layers():
        dtype, mode, group_size = program.quantized.get(node.name, ("fp32", "weight_only", 0))
        if dtype in ("int8", "int4") and node.op == "linear":
            modes.add(mode)
        formats[node.name] = dtype if dtype != "int4" else f"int4_g{group_size}" if group_size else "int4_channel"
    if len(modes) > 1:
        raise UnsupportedError(
            f"model: its layers have different modes ({', '.join(sorted(modes))}), and an artefact has one",
            where="model",
        )
    return QuantizationConfig(layer_formats=formats, mode=modes.pop() if modes else "weight_only")


def _guarded(export: Callable[[], ExportResult]) -> ExportResult:
    """The result of an export, or what failed it."""
    try:
        return export()
    except Error as error:
        return ExportResult(success=False, error_message=str(error), error=error)


def _mapped(path: Path | None) -> memoryview | None:
    """An artefact's bytes, if it is a file."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class XNNPACKBackend(EdgeBackend):
    """ExecuTorch programs (.pte) with one XNNPACK delegate call."""

    name = "xnnpack"
    suffix = ".pte"


class CoreMLBackend(EdgeBackend):
    """Core ML packages (.mlpackage). Options: docs/USER_GUIDE.md, "Core ML"."""

    name = "coreml"
    suffix = ".mlpackage"

    def _input_lengths(self, program: ModuleProgram) -> str | None:
        if program.longest is None:
            return None
        assert program.shortest is not None
        return f"{program.shortest}..{program.longest}" if program.shortest < program.longest else str(program.longest)


class QNNBackend(EdgeBackend):
    """Folders with an ONNX model, and context binaries for Qualcomm's NPUs. Options: docs/USER_GUIDE.md, "QNN"."""

    name = "qnn"
    suffix = ""

    def _options(self) -> dict[str, str]:
        options = super()._options()
        if "soc" in options:
            options.setdefault(
                "qnn_python", sys.executable
            )  # this interpreter has the packages that the user installed
        return options

    def _input_lengths(self, program: ModuleProgram) -> str | None:
        if program.longest is not None:
            raise UnsupportedError(
                "dynamic_shapes: QNN compiles for one length (leave them out, and export once for each length)",
                where="dynamic_shapes",
            )
        return None


for _backend in (XNNPACKBackend, CoreMLBackend, QNNBackend):
    BackendRegistry.register(_backend.name, _backend)
