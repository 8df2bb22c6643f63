"""What to quantize and how: the C++ library's `QuantizationConfig` as a dataclass that checks itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Final, TypeVar

from diffulex_edge import _core
from diffulex_edge._errors import InvalidArgumentError

GROUP_SIZES: Final = (32, 64, 128, 256)
"""INT4: neighbours along the input that share a scale; beside them 0, one scale for each output channel."""

_DEFAULT_GROUP_SIZE: Final = 32
_DEFAULT_EXCLUSIONS: Final = ("lm_head", "norm", "embedding", "router")


class _Names(StrEnum):
    """Strings in any letter case are looked up; an unknown one is an error that names the known ones."""

    @classmethod
    def _missing_(cls, value: object) -> _Names:
        if isinstance(value, str):
            for member in cls:
                if member.value == value.lower():
                    return member
        known = ", ".join(f"'{member.value}'" for member in cls)
        raise InvalidArgumentError(f"{cls.__name__}: {value!r} is not one of {known}", where=cls.__name__)

    def __str__(self) -> str:
        return str(self.value)


class QuantizationDtype(_Names):
    """How weights are stored."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"  # one scale for each output channel
    INT4 = "int4"  # one scale for each group along the input, or for each output channel
    # Indices of so many bits into a table of values (Core ML).
    PALETTE8 = "palette8"
    PALETTE6 = "palette6"
    PALETTE4 = "palette4"
    PALETTE3 = "palette3"
    PALETTE2 = "palette2"
    PALETTE1 = "palette1"

    @property
    def traits(self) -> dict[str, Any]:
        """This format's row of the library's table: bits, is_quantized, has_codebook, takes_groups, in_modules."""
        return _traits()[self.value]


@cache
def _traits() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in _core.describe_formats()}


class QuantizationMode(_Names):
    """What happens to the activations of layers with integer weights."""

    DYNAMIC = "dynamic"  # 8 bits, one scale and zero point for each token at run time
    STATIC = "static"  # 8 bits, with scales from calibration
    WEIGHT_ONLY = "weight_only"  # they stay floating-point


class RoundingMethod(_Names):
    """How weights become integers; docs/QUANTIZATION.md, "Rounding methods"."""

    RTN = "rtn"  # to nearest
    MSE = "mse"  # scales of the least squared error
    HQQ = "hqq"  # half-quadratic quantization
    # These need calibration of a whole model, which the backends' export has and modules do not.
    GPTQ = "gptq"
    AWQ = "awq"
    AUTO = "auto"


Range = tuple[float, float]


def _range(name: str, value: object) -> Range:
    try:
        low, high = (float(bound) for bound in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"{name}: {value!r} is not a range (min, max)", where=name) from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InvalidArgumentError(f"{name}: [{low}, {high}] is not a range", where=name, advice="calibrate again")
    return low, high


@dataclass(frozen=True)
class LayerActivations:
    """The values that one linear layer is expected to see in mode static, each as (min, max)."""

    input: Range
    output: Range  # bias included

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", _range("input", self.input))
        object.__setattr__(self, "output", _range("output", self.output))

    @classmethod
    def of(cls, layer: str, value: object) -> LayerActivations:
        """From one of these, or from {"input": [min, max], "output": [min, max]}, as config.json has it."""
        if isinstance(value, LayerActivations):
            return value
        if isinstance(value, Mapping) and set(value) == {"input", "output"}:
            return cls(_range(f"{layer}: input", value["input"]), _range(f"{layer}: output", value["output"]))
        raise InvalidArgumentError(
            f"activations of {layer}: {value!r} needs exactly the keys 'input' and 'output'", where=layer
        )


NamesT = TypeVar("NamesT", bound=_Names)


def _parse(names: type[NamesT], value: object, what: str) -> NamesT:
    if isinstance(value, names):
        return value
    if isinstance(value, str) and not isinstance(value, Enum):
        return names(value)
    raise TypeError(f"{what}: {value!r} is neither a {names.__name__} nor a string")


def layer_format(text: object, what: str = "layer_formats") -> tuple[QuantizationDtype, int]:
    """Dtype and group size of "fp32", "int8", "int4_g32", ..., "int4_channel", ...; 0 where there are no groups."""
    known = [name for row in _traits().values() for name in row["layer_formats"]]
    name = str(text).lower() if isinstance(text, str) else text
    if name not in known:
        raise InvalidArgumentError(f"{what}: {text!r} is not one of {', '.join(known)}", where=what)
    dtype, _, grouping = str(name).partition("_")
    return QuantizationDtype(dtype), int(grouping[1:]) if grouping.startswith("g") else 0


def layer_format_name(dtype: str, group_size: int) -> str:
    """The name that `layer_format` reads; `group_size` counts where there are groups."""
    if not QuantizationDtype(dtype).traits["takes_groups"]:
        return dtype
    return f"{dtype}_g{group_size}" if group_size else f"{dtype}_channel"


@dataclass
class QuantizationConfig:
    """What to quantize and how. Strings stand for enum members in any letter case.

    Errors: `InvalidArgumentError` (a `ValueError`) for values that are unknown or make no sense together, `TypeError`
    for values of another type. Both where the config is made, so that a mistake shows at its place.
    """

    #: The format of every layer that nothing below gives another one.
    dtype: QuantizationDtype = QuantizationDtype.FP32
    mode: QuantizationMode = QuantizationMode.WEIGHT_ONLY
    #: INT4: neighbours along the input that share a scale, 32, 64, 128 or 256; 0 for one scale for each output channel.
    #: Where it does not divide a layer's input, the next smaller one that does is taken, with a warning.
    group_size: int = _DEFAULT_GROUP_SIZE
    #: Layers that keep FP32: case-insensitive substrings of a layer's name; "embedding" is every embedding.
    exclude_layers: list[str] = field(default_factory=lambda: list(_DEFAULT_EXCLUSIONS))
    #: Formats for embeddings and the head (`lm_head`), whatever exclude_layers says.
    embedding_dtype: QuantizationDtype | None = None
    head_dtype: QuantizationDtype | None = None
    method: RoundingMethod = RoundingMethod.RTN
    #: Mixed precision: every linear layer's and embedding's format ("int8", "int4_g64", ...) by its name, over all of
    #: the above but mode and method. Empty, or with every such layer of the model and no other.
    layer_formats: dict[str, str] = field(default_factory=dict)
    #: Mode static: what calibration found, by layer. `quantize` fills it from its calibration_data.
    activations: dict[str, LayerActivations] = field(default_factory=dict)
    #: Palettes: rows of a weight that share a table of values; 0: all of them.
    palette_group: int = 0
    #: FP16: store ±65504 for weights beyond it instead of failing.
    saturate_fp16: bool = False
    #: INT4: fail where group_size does not divide a layer's input, instead of taking a smaller one.
    strict_group_size: bool = False

    def __post_init__(self) -> None:
        self.dtype = _parse(QuantizationDtype, self.dtype, "dtype")
        self.mode = _parse(QuantizationMode, self.mode, "mode")
        self.method = _parse(RoundingMethod, self.method, "method")
        if self.embedding_dtype is not None:
            self.embedding_dtype = _parse(QuantizationDtype, self.embedding_dtype, "embedding_dtype")
        if self.head_dtype is not None:
            self.head_dtype = _parse(QuantizationDtype, self.head_dtype, "head_dtype")
        self.exclude_layers = _patterns(self.exclude_layers)
        for name in ("saturate_fp16", "strict_group_size"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: {getattr(self, name)!r} is not True or False")
        self._check_mappings()
        self._check_numbers()
        self._check_sense()

    def _check_mappings(self) -> None:
        for name in ("layer_formats", "activations"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(layer, str) for layer in value):
                raise TypeError(f"{name}: {value!r} is not a dict by layer name")
        for layer, text in self.layer_formats.items():
            layer_format(text, f"layer_formats of {layer}")
        self.layer_formats = {layer: text.lower() for layer, text in self.layer_formats.items()}
        self.activations = {layer: LayerActivations.of(layer, value) for layer, value in self.activations.items()}

    def _check_numbers(self) -> None:
        for name in ("group_size", "palette_group"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}: {value!r} is not an integer")
        if self.group_size not in (*GROUP_SIZES, 0):
            known = ", ".join(map(str, (*GROUP_SIZES, 0)))
            raise InvalidArgumentError(f"group_size: {self.group_size} is not one of {known}", where="group_size")
        if self.palette_group < 0:
            raise InvalidArgumentError(f"palette_group: {self.palette_group} is negative", where="palette_group")

    def dtypes(self) -> set[QuantizationDtype]:
        """Every dtype that some layer may get."""
        if self.layer_formats:
            return {layer_format(text)[0] for text in self.layer_formats.values()}
        return {dtype for dtype in (self.dtype, self.embedding_dtype, self.head_dtype) if dtype is not None}

    def _check_sense(self) -> None:
        dtypes = self.dtypes()
        has_groups = any(dtype.traits["takes_groups"] for dtype in dtypes)
        has_palettes = any(dtype.traits["has_codebook"] for dtype in dtypes)
        is_quantizing = any(dtype.traits["is_quantized"] for dtype in dtypes)
        is_static = self.mode == QuantizationMode.STATIC
        is_excluding = self.exclude_layers not in ([], list(_DEFAULT_EXCLUSIONS))
        nonsense = (
            (self.layer_formats and (self.embedding_dtype or self.head_dtype), "embedding_dtype and head_dtype",
             "layer_formats decides that"),
            (self.layer_formats and self.group_size != _DEFAULT_GROUP_SIZE, f"group_size={self.group_size}",
             "layer_formats decides that"),
            (self.layer_formats and is_excluding, "exclude_layers", "layer_formats decides that"),
            (self.group_size != _DEFAULT_GROUP_SIZE and not has_groups, f"group_size={self.group_size}",
             "is for INT4, and no layer gets it"),
            (self.strict_group_size and not has_groups, "strict_group_size", "is for INT4, and no layer gets it"),
            (self.palette_group and not has_palettes, "palette_group", "is for palettes, and no layer gets one"),
            (self.saturate_fp16 and QuantizationDtype.FP16 not in dtypes, "saturate_fp16",
             "is for FP16, and no layer gets it"),
            (self.mode != QuantizationMode.WEIGHT_ONLY and not is_quantizing, f"mode='{self.mode}'",
             "quantizes the activations of quantized layers, and no layer is one"),
            (self.method != RoundingMethod.RTN and not is_quantizing, f"method='{self.method}'",
             "rounds weights to integers, and no layer gets INT8 or INT4"),
            (self.activations and not is_static, "activations", "are for mode static"),
        )  # fmt: skip
        for is_nonsense, what, why in nonsense:
            if is_nonsense:
                raise InvalidArgumentError(f"{what}: {why}", where=what, advice="leave it out")


def _patterns(patterns: Any) -> list[str]:
    if isinstance(patterns, str | bytes) or not isinstance(patterns, Iterable):
        raise TypeError(f"exclude_layers: {patterns!r} is not a list of strings; did you mean [{patterns!r}]?")
    listed = list(patterns)
    for pattern in listed:
        if not isinstance(pattern, str):
            raise TypeError(f"exclude_layers: {pattern!r} is not a string")
    return listed
