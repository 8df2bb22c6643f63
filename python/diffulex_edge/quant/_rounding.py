"""Calibrated rounding of a module: its graph goes to the C++ library, and the integers come back to its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from diffulex_edge import _core
from diffulex_edge._calibration_items import arguments_of
from diffulex_edge._errors import InvalidArgumentError, UnsupportedError
from diffulex_edge.frontend._calibration import runs_of
from diffulex_edge.frontend._graph import Node
from diffulex_edge.frontend._module import ModuleProgram, read_module
from diffulex_edge.quant import _ops
from diffulex_edge.quant._config import LayerActivations, QuantizationConfig, layer_format_name
from diffulex_edge.quant._encode import Progress, empty_storage
from diffulex_edge.quant._layers import Layer, evaluating


@dataclass
class Rounded:
    """A module's weights after calibration."""

    program: ModuleProgram
    native: _core.ModuleGraph
    module: _core.RoundedModule
    norms: dict[str, Tensor]  # parameters that AWQ changed, by name, float32
    _nodes: dict[str, Node]

    def read(self, layer: Layer, planned: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """`weight` and `weight_scale` of a layer, as its plan stores them."""
        tensor = self._tensor(layer).name
        weight, scale = empty_storage(dict(planned))
        self.module.read(tensor, weight.data_ptr(), weight.numel() * weight.element_size())
        if scale is not None:
            self.module.read(f"{tensor}_scale", scale.data_ptr(), scale.numel() * scale.element_size())
        return weight, scale

    def error(self, layer: Layer, planned: Mapping[str, Any], stored: tuple[Tensor, Tensor | None]) -> float:
        """|stored - given| / |given|, Frobenius norms; what is given has AWQ's scales in it."""
        given = layer.module.weight.detach().to("cpu", torch.float32)
        source = self.program.graph[self._nodes[layer.label].inputs[0]]
        if layer.role == "linear" and source.op == "rms_norm":
            norm = self.program.graph[source.inputs[1]]
            if norm.name in self.norms:
                assert norm.values is not None
                given = given * (norm.values.float() / self.norms[norm.name])
        made = _ops.decode(*stored, str(planned["dtype"]), planned["group_size"])
        size = float(given.norm())
        return float((made - given).norm()) / size if size else 0.0

    def ranges(self, layers: Sequence[Layer]) -> dict[str, LayerActivations]:
        """Mode static: of the layers that have any."""
        found = self.module.calibration["activations"]
        return {
            layer.label: LayerActivations(found[layer.label][:2], found[layer.label][2:])
            for layer in layers
            if layer.label in found
        }

    def methods(self) -> dict[str, str]:
        """How each layer was rounded that calibration could round."""
        return {layer: rounding["method"] for layer, rounding in self.module.calibration["rounding"].items()}

    def _tensor(self, layer: Layer) -> Node:
        node = self._nodes[layer.label]
        return self.program.graph[node.inputs[1 if node.op == "linear" else 0]]


def round_module(
    model: nn.Module,
    layers: Sequence[Layer],
    planned: Sequence[Mapping[str, Any]],
    config: QuantizationConfig,
    items: Sequence[Any],
    *,
    observer: str,
    percentile: float,
    threads: int,
    progress: Progress | None,
) -> Rounded:
    """Rounds the layers, as planned, with `config.method` and what they see of the items, in the C++ library.

    The model is exported by `torch.export` for the items' shapes, of which one size may vary. It is left as it was.

    Errors: `UnsupportedError` for a model that can't be exported; `InvalidArgumentError` for a layer that it does not
    call, and for items of different structure.
    """
    program = _read(model, items, config)
    nodes = {node.name: node for node in program.layers()}
    for layer in layers:
        if layer.label not in nodes:
            raise InvalidArgumentError(
                f"{layer.label}: the model's forward does not use it, so that calibration can't round it (exclude it "
                "from the model, or use rtn, mse or hqq)",
                where=layer.label,
            )
    formats = dict.fromkeys(nodes, "fp32") | {
        layer.label: layer_format_name(str(plan["dtype"]), plan["group_size"])
        for layer, plan in zip(layers, planned, strict=True)
    }
    request = QuantizationConfig(
        dtype="int8" if {"int8", "int4"} & {str(plan["dtype"]) for plan in planned} else "fp32",  # type: ignore[arg-type]
        layer_formats=formats,
        mode=config.mode,
        method=config.method,
        saturate_fp16=config.saturate_fp16 and "fp16" in formats.values(),
    )
    parameters = dict(model.named_parameters())
    norms = {
        program.graph[node.inputs[1]].name: program.graph[node.inputs[1]]
        for node in program.graph.nodes
        if node.op == "rms_norm"
    }
    fixed = [name for name, node in norms.items() if not _is(parameters.get(name), node.values)]
    runs = runs_of(program, items)
    native = program.native()
    rounded = native.round(request, runs.inputs, observer, percentile, fixed, threads, progress)
    changed = {}
    for name, node in norms.items():
        assert node.values is not None
        values = torch.empty(node.shape, dtype=torch.float32)
        rounded.read_floats(name, values.data_ptr(), values.numel())
        if not torch.equal(values, node.values.to(torch.float32)):
            changed[name] = values
    return Rounded(program, native, rounded, changed, nodes)


def _is(parameter: Tensor | None, values: Tensor | None) -> bool:
    return parameter is not None and values is not None and parameter.shape == values.shape and torch.equal(
        parameter.detach().to("cpu", torch.float32), values.to(torch.float32)
    )  # fmt: skip


def _read(model: nn.Module, items: Sequence[Any], config: QuantizationConfig) -> ModuleProgram:
    arguments = [arguments_of(item) for item in items]
    sizes = [[list(leaf.shape) for leaf in _pytree.tree_leaves(item) if isinstance(leaf, Tensor)] for item in arguments]
    if any([len(shape) for shape in item] != [len(shape) for shape in sizes[0]] for item in sizes):
        raise InvalidArgumentError(
            "calibration_data: its items have different numbers of inputs or of dimensions", where="calibration_data"
        )
    # The longest item is the example: an export for a size of 1 is for that size only.
    positional, named = max(arguments, key=lambda item: sum(leaf.numel() for leaf in _tensors(item)))
    shapes = _varying(positional, named, sizes)
    try:
        with evaluating(model):
            return read_module(model, positional, example_kwargs=named, dynamic_shapes=shapes)
    except UnsupportedError as error:
        raise UnsupportedError(f"method {config.method} needs the model's graph; {error}", where=error.where) from error


def _tensors(arguments: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]


def _varying(positional: tuple[Any, ...], named: dict[str, Any], sizes: list[list[list[int]]]) -> Any:
    """`dynamic_shapes` for what differs between the items; None where nothing does."""
    columns: dict[tuple[int, int], tuple[int, ...]] = {}
    for tensor, shape in enumerate(sizes[0]):
        for axis in range(len(shape)):
            column = tuple(item[tensor][axis] for item in sizes)
            if len(set(column)) > 1:
                columns[tensor, axis] = column
    if not columns:
        return None
    if len(set(columns.values())) > 1:
        raise InvalidArgumentError(
            "calibration_data: its items differ in more than one size (make all but the sequence's length the same)",
            where="calibration_data",
        )
    lengths = next(iter(columns.values()))
    length = torch.export.Dim("length", min=max(2, min(lengths)), max=max(lengths))
    index = {id(leaf): number for number, leaf in enumerate(_tensors((positional, named)))}

    def spec(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        return {axis: length for tensor, axis in columns if tensor == index[id(leaf)]}

    return tuple(_pytree.tree_map(spec, positional)) if not named else _pytree.tree_map(spec, named)
