"""The quantizers: a plan from the C++ library, its integers in the places of a module's weights."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffulex_edge._errors import InvalidArgumentError, UnsupportedError
from diffulex_edge.quant._config import (
    LayerActivations,
    QuantizationConfig,
    QuantizationDtype,
    QuantizationMode,
    RoundingMethod,
)
from diffulex_edge.quant._result import MEGABYTE, LayerResult, QuantizationResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffulex_edge._core import LayerQuantization
    from diffulex_edge.quant._encode import Progress
    from diffulex_edge.quant._layers import Layer
    from diffulex_edge.quant._rounding import Rounded


def is_int4_available() -> bool:
    """Whether INT4 works here: always, since the C++ library has its kernels. torchao is not needed."""
    return True


def quantize_model(
    model: nn.Module,
    config: QuantizationConfig,
    *,
    calibration_data: Iterable[Any] | None = None,
    observer: str = "mse",
    percentile: float = 99.99,
    progress: Progress | None = None,
    threads: int = 0,
) -> QuantizationResult:
    """A copy of the model whose linear layers and embeddings are stored as `config` says. The model stays as it is.

    model: its weights may be float32, float16, bfloat16 or float64 (rounded to float32 first), on any device, strided,
    tied. Layers that torchao quantized, and `QuantizedLinear` and `QuantizedEmbedding`, keep their integers, which
    `config` has to ask for, and get its mode. Linear layers whose weight is used otherwise than by calling them, or
    that have a forward of their own, stay as they are, with a warning.

    calibration_data: an iterable of inputs, each a tensor, a tuple of positional arguments or a dict of keyword
    arguments. Mode static needs it, unless config.activations has every layer; the methods gptq, awq and auto need it,
    and mse weighs its errors with it: their model goes through `torch.export` to the library, which rounds it layer by
    layer as `diffulex-edge quantize` does, and AWQ changes norms beside the layers. observer ("mse", "min_max",
    "percentile") and percentile choose ranges from what the layers see, as `diffulex-edge` does.

    progress: called as progress(done_bytes, total_bytes, stage), from another thread, one call at a time.
    threads: 0 is one for each processor.

    Errors, all of them `diffulex_edge.Error`: `InvalidArgumentError` for what makes no sense (also a `ValueError`),
    `UnsupportedError` for what modules can't do, `BadFileError` for weights or activations that are not finite, or
    weights beyond FP16 without saturate_fp16. Nothing is quantized in part: there is a result, or an error.
    """
    return _Quantization(model, config, observer, percentile).run(calibration_data, progress, threads)


class BaseQuantizer:
    """Quantizes modules; its subclasses each make one dtype."""

    #: The dtype that configurations have to ask for; None is any.
    dtype: QuantizationDtype | None = None

    def quantize(
        self,
        model: nn.Module,
        config: QuantizationConfig | None = None,
        *,
        calibration_data: Iterable[Any] | None = None,
        observer: str = "mse",
        percentile: float = 99.99,
        progress: Progress | None = None,
        threads: int = 0,
    ) -> QuantizationResult:
        """As `quantize_model`; without a config, its defaults with this quantizer's dtype.

        Further errors: `InvalidArgumentError` for a config of another dtype.
        """
        if config is None:
            if self.dtype is None:
                raise TypeError(f"{type(self).__name__}.quantize: needs a config, which says the dtype")
            config = QuantizationConfig(dtype=self.dtype)
        if not isinstance(config, QuantizationConfig):
            raise TypeError(f"config: {config!r} is not a QuantizationConfig")
        if self.dtype is not None and QuantizationDtype(config.dtype) != self.dtype:
            raise InvalidArgumentError(
                f"dtype: this quantizer makes {self.dtype}, the config asks for {config.dtype}", where="dtype"
            )
        return quantize_model(
            model,
            config,
            calibration_data=calibration_data,
            observer=observer,
            percentile=percentile,
            progress=progress,
            threads=threads,
        )


class FP16Quantizer(BaseQuantizer):
    """Rounds weights to float16."""

    dtype = QuantizationDtype.FP16


class INT8Quantizer(BaseQuantizer):
    """Symmetric, one scale for each output channel: scale = max_abs / 127, q = clamp(round(w / scale), -128, 127)."""

    dtype = QuantizationDtype.INT8


class INT4Quantizer(BaseQuantizer):
    """Symmetric groups along the input, values in [-8, 7], scales rounded to bfloat16 before the weights."""

    dtype = QuantizationDtype.INT4


class Quantizer(BaseQuantizer):
    """The facade: whatever dtype the config asks for, mixed precision too."""


class _Quantization:
    """One run of `quantize_model`."""

    def __init__(self, model: nn.Module, config: QuantizationConfig, observer: str, percentile: float) -> None:
        _check_model(model)
        if not isinstance(config, QuantizationConfig):
            raise TypeError(f"config: {config!r} is not a QuantizationConfig")
        from diffulex_edge.quant._encode import Sources
        from diffulex_edge.quant._layers import find_layers

        self._model = model
        self._config = replace(config)  # checked again: the caller may have changed it since
        self._observer = observer
        self._percentile = percentile
        _check_supported(self._config)
        self._layers, skipped = find_layers(model)
        self._warnings = [
            f"{name}: stays as it is, since {reason}"
            for name, reason in skipped.items()
            if not any(_matches(pattern, name) for pattern in self._config.exclude_layers)
        ]
        # Patterns that are only for these modules; the planner would say that they match nothing.
        self._done_patterns = {
            pattern
            for pattern in self._config.exclude_layers
            if any(_matches(pattern, name) for name in skipped)
            and not any(_matches(pattern, name) for layer in self._layers for name in (layer.label, layer.tensor))
        }
        if not self._layers:
            raise InvalidArgumentError(
                f"{type(model).__name__}: has no linear layer and no embedding that can be quantized"
                + "".join(f"; {warning}" for warning in self._warnings)
            )
        self._sources = Sources()
        for layer in self._layers:
            holder = layer.stored or layer.module
            self._sources.add(layer.tensor, holder.weight)
            if layer.stored is not None and layer.stored.weight_scale is not None:
                self._sources.add(f"{layer.tensor}_scale", layer.stored.weight_scale)

    def run(
        self, calibration_data: Iterable[Any] | None, progress: Progress | None, threads: int
    ) -> QuantizationResult:
        from diffulex_edge.quant._layers import copy_with, stored_bytes

        begin = time.monotonic()
        rounded = None
        if self._rounds_by_inputs(calibration_data):
            rounded, samples = self._round(calibration_data, progress, threads)
        else:
            samples = self._calibrate(calibration_data)
        plan = self._plan(self._config)
        stored, errors = self._encode(plan, rounded, progress, threads)
        replacements = [
            (layer.module, self._module(layer, planned, stored[planned["tensor"], planned["format"]]))
            for layer, planned in zip(self._layers, plan.layers, strict=True)
            if (planned["tensor"], planned["format"]) in stored
        ]
        quantized = copy_with(self._model, replacements)
        for name, values in rounded.norms.items() if rounded is not None else ():
            quantized.get_parameter(name).data.copy_(values)
        others, other_parameters = self._other_parameters()
        return QuantizationResult(
            model=quantized,
            config=self._config,
            layers=self._layer_results(plan, errors, rounded.methods() if rounded is not None else {}),
            parameters=plan.parameters + other_parameters,
            original_memory_mb=4.0 * (plan.parameters + other_parameters) / MEGABYTE,
            quantized_memory_mb=(plan.planned_bytes + others) / MEGABYTE,
            warnings=[
                *self._warnings,
                *self._sources.warnings,
                *plan.warnings,
                *(rounded.module.calibration["warnings"] if rounded is not None else ()),
            ],
            module_bytes_before=stored_bytes(self._model),
            module_bytes_after=stored_bytes(quantized),
            calibration_samples=samples,
            seconds=time.monotonic() - begin,
        )

    def _plan(self, config: QuantizationConfig) -> LayerQuantization:
        """The C++ library's plan, whose layers are in the order of ours. It knows the head as lm_head."""
        from diffulex_edge._core import LayerQuantization

        names = {layer.label: layer.plan_name for layer in self._layers}
        planned = replace(
            config,
            exclude_layers=[pattern for pattern in config.exclude_layers if pattern not in self._done_patterns],
            layer_formats={names.get(name, name): text for name, text in config.layer_formats.items()},
            activations={names.get(name, name): ranges for name, ranges in config.activations.items()},
        )
        layers = [(layer.plan_name, layer.role, layer.tensor) for layer in self._layers]
        return LayerQuantization(layers, self._sources.tensors, planned)

    def _rounds_by_inputs(self, data: Iterable[Any] | None) -> bool:
        """Whether weights are rounded by what layers see; `InvalidArgumentError` where data for that is missing."""
        method = self._config.method
        if method in (RoundingMethod.GPTQ, RoundingMethod.AWQ, RoundingMethod.AUTO):
            if data is None:
                raise InvalidArgumentError(
                    f"method {method} rounds a layer by what it sees, and needs calibration_data=..., an iterable of "
                    "inputs to the model (or use rtn, mse or hqq)",
                    where="calibration_data",
                )
            return True
        return method == RoundingMethod.MSE and data is not None

    def _round(self, data: Iterable[Any] | None, progress: Progress | None, threads: int) -> tuple[Rounded, int]:
        """The rounded weights, and the number of items; completes config.activations in mode static."""
        from diffulex_edge.frontend._calibration import items_of
        from diffulex_edge.quant._rounding import round_module

        assert data is not None
        items = items_of(data)
        is_static = self._config.mode == QuantizationMode.STATIC
        plan = self._plan(replace(self._config, activations=self._anything()) if is_static else self._config)
        rounded = round_module(
            self._model, self._layers, plan.layers, self._config, items,
            observer=self._observer, percentile=self._percentile, threads=threads, progress=progress,
        )  # fmt: skip
        if is_static:
            ranges = {**self._known_ranges(), **rounded.ranges(self._layers)}
            self._config = replace(self._config, activations=ranges)
        return rounded, len(items)

    def _calibrate(self, data: Iterable[Any] | None) -> int:
        """Completes config.activations; the number of items that the model saw."""
        from torch import Tensor

        if self._config.mode != QuantizationMode.STATIC:
            if data is not None:
                raise InvalidArgumentError(
                    f"calibration_data: mode {self._config.mode} has no use for it; it is for static",
                    where="calibration_data",
                )
            return 0
        if isinstance(data, Tensor):
            raise TypeError("calibration_data: is a tensor, and not an iterable of inputs; did you mean [tensor]?")
        known = self._known_ranges()
        # Which layers need ranges, and whether they can be static at all, before the model runs.
        plan = self._plan(replace(self._config, activations=self._anything()))
        needed = {
            layer.label: layer.module
            for layer, planned in zip(self._layers, plan.layers, strict=True)
            if planned["activations"] is not None
        }
        if data is not None:
            from diffulex_edge.quant._calibrate import calibrate

            found, count = calibrate(self._model, needed, data, self._observer, self._percentile)
            self._config = replace(self._config, activations={**known, **found})
            return count
        self._config = replace(self._config, activations=known)
        missing = [label for label in needed if label not in known]
        if missing:
            raise InvalidArgumentError(
                f"{missing[0]}: mode static needs the range of its activations (give calibration_data=..., an iterable "
                "of inputs to the model; or config.activations; or use mode dynamic)",
                where=missing[0],
            )
        return 0

    def _anything(self) -> dict[str, LayerActivations]:
        """Ranges for every layer that plans are made with before the real ones are known."""
        return {layer.label: LayerActivations((0.0, 0.0), (0.0, 0.0)) for layer in self._layers}

    def _known_ranges(self) -> dict[str, LayerActivations]:
        """Those of the config, and of layers that were static before."""
        unknown = sorted(set(self._config.activations) - {layer.label for layer in self._layers})
        if unknown:
            raise InvalidArgumentError(f"activations: the model has no layer '{unknown[0]}'", where=unknown[0])
        return {**self._own_ranges(), **self._config.activations}

    def _own_ranges(self) -> dict[str, LayerActivations]:
        """Of layers that were static before."""
        return {
            layer.label: LayerActivations(
                tuple(layer.stored.input_range.tolist()), tuple(layer.stored.output_range.tolist())
            )
            for layer in self._layers
            if layer.role == "linear" and layer.stored is not None and layer.stored.input_range is not None
        }

    def _encode(
        self, plan: LayerQuantization, rounded: Rounded | None, progress: Progress | None, threads: int
    ) -> tuple[dict[tuple[str, str], tuple[Tensor, Tensor | None]], dict[tuple[str, str], float]]:
        """By tensor and format, each pair once: what is stored, and the relative error of what was rounded."""
        from diffulex_edge.quant._encode import empty_storage, encode

        stored: dict[tuple[str, str], tuple[Tensor, Tensor | None]] = {}
        targets = []
        errors: dict[tuple[str, str], float] = {}
        for index, (layer, planned) in enumerate(zip(self._layers, plan.layers, strict=True)):
            key = planned["tensor"], planned["format"]
            if planned["dtype"] == "fp32" and layer.stored is not None:
                self._warnings.append(f"{layer.label}: is to be fp32, but its weight is fp16 already, and so it stays")
            elif planned["dtype"] != "fp32" and key not in stored:
                if layer.stored is not None and planned["is_kept"]:
                    scale = layer.stored.weight_scale
                    stored[key] = layer.stored.weight.clone(), None if scale is None else scale.clone()
                elif rounded is not None:
                    stored[key] = rounded.read(layer, planned)
                    errors[key] = rounded.error(layer, planned, stored[key])
                else:
                    stored[key] = empty_storage(planned)
                    targets.append((index, stored[key]))
        keys = [(plan.layers[index]["tensor"], plan.layers[index]["format"]) for index, _ in targets]
        errors |= dict(zip(keys, encode(plan, targets, threads, progress), strict=True)) if targets else {}
        devices = {layer.tensor: (layer.stored or layer.module).weight.device for layer in reversed(self._layers)}
        on_device = {
            key: (weight.to(devices[key[0]]), None if scale is None else scale.to(devices[key[0]]))
            for key, (weight, scale) in stored.items()
        }
        return on_device, errors

    def _module(self, layer: Layer, planned: dict[str, Any], stored: tuple[Tensor, Tensor | None]) -> nn.Module:
        """The module that takes the layer's place; copy_with gives it the bias."""
        from diffulex_edge.quant._modules import QuantizedEmbedding, QuantizedLinear

        old: Any = layer.stored or layer.module
        if layer.role == "embedding":
            new: QuantizedLinear | QuantizedEmbedding = QuantizedEmbedding(
                old.num_embeddings,
                old.embedding_dim,
                old.padding_idx,
                dtype=planned["dtype"],
                group_size=planned["group_size"],
                output_dtype=getattr(old, "output_dtype", old.weight.dtype),
                device="meta",
            )
            new.set_stored(*stored)
            return new
        mode = self._mode(planned)
        new = QuantizedLinear(
            old.in_features,
            old.out_features,
            False,
            dtype=planned["dtype"],
            mode=mode,
            group_size=planned["group_size"],
            device="meta",
        )
        new.set_stored(*stored)
        if mode == QuantizationMode.STATIC:
            ranges = self._config.activations[layer.label]
            new.set_ranges(ranges.input, ranges.output)
        if isinstance(old, QuantizedLinear) and old.mode != mode:
            self._warnings.append(f"{layer.label}: its mode was {old.mode}, and becomes {mode} as the config says")
        return new

    def _mode(self, planned: dict[str, Any]) -> QuantizationMode:
        has_mode = planned["role"] == "linear" and QuantizationDtype(planned["dtype"]).traits["is_quantized"]
        return self._config.mode if has_mode else QuantizationMode.WEIGHT_ONLY

    def _method(self, layer: Layer, planned: dict[str, Any], methods: Mapping[str, str]) -> RoundingMethod:
        """As calibration rounded it; a table, whose inputs are ids, gets mse then."""
        is_table = bool(methods) and layer.role == "embedding" and planned["dtype"] in ("int8", "int4")
        return RoundingMethod(methods.get(layer.label, "mse" if is_table else planned["method"]))

    def _other_parameters(self) -> tuple[int, int]:
        """Bytes, in FP32 as the artefacts have them, and number of the parameters that are no layer's weight."""
        from diffulex_edge.quant._layers import distinct_parameters, identity

        weights = {identity(layer.module.weight) for layer in self._layers}
        parameters = distinct_parameters(self._model)
        count = sum(parameter.numel() for parameter in parameters if identity(parameter) not in weights)
        return 4 * count, count

    def _layer_results(
        self, plan: LayerQuantization, errors: Mapping[tuple[str, str], float], methods: Mapping[str, str]
    ) -> list[LayerResult]:
        results = []
        for layer, planned in zip(self._layers, plan.layers, strict=True):
            is_kept = planned["dtype"] != "fp32" and planned["is_kept"]
            error = 0.0 if planned["dtype"] == "fp32" else errors.get((planned["tensor"], planned["format"]))
            results.append(
                LayerResult(
                    name=layer.label,
                    role=layer.role,
                    rows=planned["rows"],
                    columns=planned["columns"],
                    dtype=QuantizationDtype(planned["dtype"]),
                    format=planned["format"],
                    group_size=planned["group_size"],
                    mode=self._mode(planned),
                    method=self._method(layer, planned, methods),
                    excluded=planned["excluded"],
                    stored_bytes=planned["value_bytes"] + planned["scale_bytes"],
                    weight_error=None if is_kept else error,
                )
            )
        return results


def _matches(pattern: str, name: str) -> bool:
    return pattern != "" and pattern.lower() in name.lower()


def _check_model(model: object) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")


def _check_supported(config: QuantizationConfig) -> None:
    """What only the backends' export of whole graphs can do."""
    if palettes := sorted(dtype.value for dtype in config.dtypes() if not dtype.traits["in_modules"]):
        what = f"dtype {', '.join(palettes)}"
        raise UnsupportedError(
            f"{what}: modules can't do that, a backend's export can (give it the config and the float model)",
            where=what,
        )
