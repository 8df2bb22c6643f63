"""What to export and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.quant._config import QuantizationConfig, QuantizationDtype, QuantizationMode

_ACTIVATIONS = ("fp32", "fp16", "int16", "int8")


@dataclass
class BackendConfig:
    """The configuration of a backend. What makes no sense raises here, at its place, and is never ignored.

    Errors: `InvalidArgumentError` (a `ValueError`), `TypeError`, and `UnsupportedError` (a `NotImplementedError`).
    """

    #: "xnnpack", "coreml", "qnn", or a name registered with `BackendRegistry`; None: whichever backend gets the config.
    backend_name: str | None = None
    #: Short for quant_config: INT8 in `quantization_mode`.
    quantize: bool = False
    #: With `quantize`; None: "dynamic".
    quantization_mode: str | QuantizationMode | None = None
    #: Tensors between the parts of an artefact lie in one arena, placed before it runs. There is no artefact without.
    memory_planning: bool = True
    #: Upper bound for the weights as stored, in MiB: an export beyond it fails.
    max_memory_mb: float | None = None
    #: Upper bound for the sequence that the artefact takes: an export beyond it fails.
    max_seq_len: int | None = None
    #: What the first dimension of the example inputs must be.
    batch_size: int | None = None
    #: The backend's own, by name: see docs/USER_GUIDE.md, or `XNNPACKBackend.description.options` and its like.
    #: Unknown ones fail the export.
    backend_options: dict[str, str | int | bool | list[str]] = field(default_factory=dict)
    #: How weights and activations are quantized. None: the module's own layers decide, which are FP32 or were quantized
    #: by `diffulex_edge.quant`.
    quant_config: QuantizationConfig | None = None
    #: The type in which activations flow: "fp32", "fp16", "int16", "int8"; None: what suits the backend.
    activation_dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("quantize", "memory_planning"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: {getattr(self, name)!r} is not True or False")
        if self.quant_config is not None and not isinstance(self.quant_config, QuantizationConfig):
            raise TypeError(f"quant_config: {type(self.quant_config).__name__} is not a QuantizationConfig")
        if not self.memory_planning:
            raise InvalidArgumentError(
                "memory_planning: every artefact has a memory plan, it can't be False (leave it out)",
                where="memory_planning",
            )
        self._check_bounds()
        self._check_quantization()
        if self.activation_dtype is not None and self.activation_dtype not in _ACTIVATIONS:
            raise InvalidArgumentError(
                f"activation_dtype: {self.activation_dtype!r} is not one of {', '.join(_ACTIVATIONS)}",
                where="activation_dtype",
            )
        if not isinstance(self.backend_options, Mapping):
            raise TypeError(f"backend_options: {type(self.backend_options).__name__} is not a dict")

    def _check_bounds(self) -> None:
        for name in ("max_memory_mb", "max_seq_len", "batch_size"):
            value = getattr(self, name)
            if value is None:
                continue
            kinds: tuple[type, ...] = (int, float) if name == "max_memory_mb" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"{name}: {value!r} is not a number")
            if value <= 0:
                raise InvalidArgumentError(f"{name}: {value} is not positive", where=name)

    def _check_quantization(self) -> None:
        if self.quantization_mode is not None:
            if not self.quantize:
                raise InvalidArgumentError(
                    "quantization_mode: is for quantize=True (or say the mode in quant_config)",
                    where="quantization_mode",
                )
            self.quantization_mode = QuantizationMode(self.quantization_mode)
        if self.quantize and self.quant_config is not None:
            raise InvalidArgumentError(
                "quantize: quant_config says how already (leave one of them out)", where="quantize"
            )

    def quantization(self) -> QuantizationConfig | None:
        """What `quant_config`, or `quantize` with its mode, asks for."""
        if self.quantize:
            mode = self.quantization_mode or QuantizationMode.DYNAMIC
            return QuantizationConfig(dtype=QuantizationDtype.INT8, mode=mode)
        return self.quant_config

    def options(self) -> dict[str, str]:
        """The backend's options as the C++ library reads them."""
        result = {}
        for name, value in self.backend_options.items():
            is_list = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
            if not isinstance(name, str) or not (is_list or isinstance(value, str | int | float | bool)):
                raise TypeError(
                    f"backend_options: {name!r}: {value!r} is not a string, a list of strings, a number, or True or "
                    "False"
                )
            if is_list:
                result[name] = ",".join(value)
            else:
                result[name] = str(value).lower() if isinstance(value, bool) else str(value)
        return result
