"""The backends, and what they share: a module goes through `torch.export` and the C++ library to an artefact."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diffulex_edge import _core
from diffulex_edge._errors import Error, InvalidArgumentError, UnsupportedError
from diffulex_edge.backends._calibration import Calibration
from diffulex_edge.backends._config import BackendConfig
from diffulex_edge.backends._description import BackendDescription, descriptions
from diffulex_edge.backends._registry import BackendRegistry
from diffulex_edge.backends._result import ExportResult
from diffulex_edge.quant._config import QuantizationConfig, QuantizationDtype, QuantizationMode, layer_format_name

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from diffulex_edge.frontend._calibration import Runs
    from diffulex_edge.frontend._module import ModuleProgram

#: done bytes, total bytes, stage
ProgressCallback = Callable[[int, int, str], None]
#: Exports to a path, or predicts what would be there, and gives the metadata.


class EdgeBackend:
    """Base of the backends. A subclass with another `name` can be registered with `BackendRegistry`."""

    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    #: What the library says of a backend that it has.
    description: ClassVar[BackendDescription | None] = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        described = descriptions().get(cls.__dict__.get("name", ""))
        if described is not None:
            cls.description = described
            cls.suffix = described.suffix

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
        it. `calibration_data`: for mode static and the methods gptq, awq, auto, also for mse: inputs as
        `example_inputs`, each a tensor, a tuple or a dict of named ones, of lengths that `dynamic_shapes` allows.
        `observer` ("mse", "min_max" or "percentile" with `percentile`) chooses ranges from what the layers see of it.
        `threads`: 0 for all processors. `progress(done, total, stage)`: called while the module is calibrated, in
        operators, and while weights are written, in bytes; tqdm's update fits in.

        Never raises the library's `Error`: failures come back in the result, and `path` is then as it was before. What
        `progress` raises comes out unchanged.
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
        seq_len: int | str | None = None,
        block_length: int | None = None,
        mask_token_id: int | None = None,
        ignored_config_keys: Sequence[str] = (),
        adapter: str | Path | None = None,
        calibration: Calibration | str | Path | None = None,
        plan: str | Path | None = None,
        threads: int = 0,
        progress: ProgressCallback | None = None,
    ) -> ExportResult:
        """Exports a model's folder, as `diffulex-edge export` does: without PyTorch, in memory that does not grow.

        `folder`: with config.json and safetensors files, of a family in the user guide's list, or ORG/NAME in the
        Hugging Face cache, or the folder of a LoRA adapter. `seq_len`: the longest input, in tokens, or the lengths as
        the command takes them ("64,128", "8..512"); default: the config's max_seq_len, or what the model was made for,
        at most 1024. `block_length`: overrides the model's block-causal mask; 0: fully bidirectional. `mask_token_id`:
        overrides the one of config.json. `ignored_config_keys`: keys of config.json that are not known and declared
        harmless. `adapter`: the folder of a LoRA adapter to merge while the model is read. `calibration`: for mode
        static and the methods gptq, awq, auto, also for mse: a `Calibration`, or only its data. `plan`: a file that
        `diffulex-edge plan` wrote, in place of quant_config. `progress`: as in `export`.

        Never raises the library's `Error`: failures come back in the result, and `path` is then as it was before. What
        `progress` raises comes out unchanged.
        """
        if isinstance(ignored_config_keys, str):
            raise TypeError("ignored_config_keys: is a string, not a list of them")
        checkpoint = {
            "folder": str(folder),
            "block_length": block_length,
            "mask_token_id": mask_token_id,
            "ignored_config_keys": list(ignored_config_keys),
            "adapter": None if adapter is None else str(adapter),
            "plan": None if plan is None else str(plan),
            "calibration": Calibration(calibration) if isinstance(calibration, str | Path) else calibration,
        }
        return _guarded(lambda: self._export_model(checkpoint, Path(path), seq_len, threads, progress))

    def support(self, dtype: str, mode: str = "weight_only") -> dict[str, str]:
        """What this backend can do with a format: "level" (full, partial, unsupported) and "note"."""
        return _core.support(self.name, str(QuantizationDtype(dtype)), str(QuantizationMode(mode)))

    # --- Inside.

    def _input_lengths(self, program: ModuleProgram) -> str | None:
        """Which lengths the artefact takes, as the C++ library reads it; None: what suits the backend."""
        if self.description is None or self.description.lengths == "up_to" or program.longest is None:
            return None
        if self.description.lengths == "exact":
            raise UnsupportedError(
                f"dynamic_shapes: {self.description.title} compiles for one length (leave them out, and export once "
                "for each length)",
                where="dynamic_shapes",
            )
        assert program.shortest is not None
        return f"{program.shortest}..{program.longest}" if program.shortest < program.longest else str(program.longest)

    def _options(self) -> dict[str, str]:
        """The backend's options, as the C++ library reads them."""
        options = self.config.options()
        for option in self.description.options if self.description is not None else ():
            if option.type == "python":  # this interpreter has the packages that the user installed
                options.setdefault(option.name, sys.executable)
        return options

    def _export_model(
        self,
        checkpoint: dict[str, Any],
        path: Path,
        seq_len: int | str | None,
        threads: int,
        progress: ProgressCallback | None,
    ) -> ExportResult:
        config = self.config
        if config.batch_size not in (None, 1):
            raise InvalidArgumentError(f"batch_size: {config.batch_size}, but models take one sequence at a time")
        if checkpoint["plan"] is not None and config.quantization() is not None:
            raise InvalidArgumentError(
                "plan: quant_config says the formats already (leave one of them out)", where="plan"
            )
        lengths = seq_len if isinstance(seq_len, str) else None
        length = config.max_seq_len if seq_len is None else None if lengths is not None else int(seq_len)

        if config.max_seq_len is not None and seq_len is not None:
            longest = length if lengths is None else _core.longest_input(lengths)
            if longest > config.max_seq_len:
                raise InvalidArgumentError(
                    f"max_seq_len: {config.max_seq_len} is less than {longest}", where="max_seq_len"
                )
        metadata = _core.export_checkpoint(
            **checkpoint, seq_len=length, backend=self.name, quant_config=config.quantization(),
            activation_dtype=config.activation_dtype, input_lengths=lengths, options=self._options(),
            target=str(path), max_memory_mb=config.max_memory_mb, threads=threads, progress=progress,
        )  # fmt: skip
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
        quantization = self._quantization(program)
        runs = calibration.runs(program)
        native = program.native()
        folder = None if dry_run or path is not None else _core.Workspace()
        target = path if folder is None else Path(folder.folder()) / f"model{self.suffix}"

        metadata = native.export(
            self.name, quantization, self.config.activation_dtype, self._input_lengths(program), self._options(),
            None if target is None else str(target), threads, progress, runs.inputs, calibration.observer,
            calibration.percentile, self.config.max_memory_mb,
        )  # fmt: skip
        metadata["torch_export_seconds"] = program.seconds["torch_export"]
        metadata["seconds"] = time.perf_counter() - began + program.seconds["translation"]
        metadata["inputs"] = program.inputs
        metadata["output"] = program.output_name
        metadata["has_sequence"] = program.longest is not None
        metadata["warnings"] = [*program.warnings, *metadata["warnings"]]
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

    def _quantization(self, program: ModuleProgram) -> QuantizationConfig:
        config = self.config.quantization()
        if config is None:
            config = _stored_quantization(program)
        wants_integers = self.config.activation_dtype in ("int8", "int16")
        if wants_integers and not any(dtype.traits["is_quantized"] for dtype in config.dtypes()):
            raise UnsupportedError(
                f"activation_dtype: {self.config.activation_dtype} is for INT8 and INT4 weights (give a quant_config)",
                where="activation_dtype",
            )
        if wants_integers and config.mode == QuantizationMode.WEIGHT_ONLY:
            config = replace(config, mode=QuantizationMode.STATIC)
        if config.mode == QuantizationMode.STATIC:
            config = replace(config, activations={**config.activations, **_module_ranges(program)})
        return config


class _Calibration:
    """What a caller gives to calibrate a module with."""

    def __init__(self, data: Iterable[Any] | None, observer: str, percentile: float) -> None:
        self.data = data
        self.observer = observer
        self.percentile = percentile

    def runs(self, program: ModuleProgram) -> Runs:
        from diffulex_edge.frontend._calibration import Runs, items_of, runs_of

        return Runs() if self.data is None else runs_of(program, items_of(self.data))


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
        row = QuantizationDtype(dtype).traits
        if row["is_quantized"] and node.op == "linear":
            modes.add(mode)
        formats[node.name] = layer_format_name(dtype, group_size)
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


class CoreMLBackend(EdgeBackend):
    """Core ML packages (.mlpackage). Options: docs/USER_GUIDE.md, "Core ML"."""

    name = "coreml"


class QNNBackend(EdgeBackend):
    """Folders with an ONNX model, and context binaries for Qualcomm's NPUs. Options: docs/USER_GUIDE.md, "QNN"."""

    name = "qnn"


def _register_all() -> None:
    """A class for each backend of the library: those above, and one made from the description of any other."""
    own = {backend.name: backend for backend in (XNNPACKBackend, CoreMLBackend, QNNBackend)}
    for name, described in descriptions().items():
        backend = own.get(name)
        if backend is None:
            members = {"name": name, "__doc__": f"{described.title}: writes {described.output}."}
            backend = type(f"{described.title.replace(' ', '')}Backend", (EdgeBackend,), members)
        BackendRegistry.register(name, backend)


_register_all()
