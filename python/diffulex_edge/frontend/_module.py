"""A module as a graph with its weights, ready for the backends."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from diffulex_edge import _core
from diffulex_edge._errors import InvalidArgumentError, UnsupportedError
from diffulex_edge.frontend import aten
from diffulex_edge.frontend._folding import Folding
from diffulex_edge.frontend._functional import check_state, functional
from diffulex_edge.frontend._graph import Graph, Node
from diffulex_edge.quant._encode import Sources
from diffulex_edge.quant._torchao import from_torchao, is_torchao


@dataclass
class ModuleProgram:
    """What `read_module` makes of a module."""

    graph: Graph
    output: int
    output_name: str
    inputs: list[str]  # names, in order
    input_indices: list[int]  # of the graph's inputs among the module's flattened ones
    name: str  # the module's class
    shortest: int | None  # of the sequence; None where every shape is fixed
    quantized: dict[str, tuple[str, str, int]]  # layers that were quantized before: dtype, mode, group size
    activations: dict[str, tuple[Tensor, Tensor]]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # torch_export, translation
    _sources: Sources = field(default_factory=Sources)  # what `native` has given to C++

    @property
    def longest(self) -> int | None:
        """Upper bound of the sequence; None where every shape is fixed."""
        return self.graph.longest

    @property
    def seq_len(self) -> int:
        """What the artefact calls its length: the sequence's upper bound, or the ids' last dimension, or 1."""
        if self.longest is not None:
            return self.longest
        ids = [node.shape[-1] for node in self.graph.nodes if node.op == "input" and node.attributes["dtype"] != "F32"]
        return ids[0] if ids and ids[0] > 0 else 1

    def layers(self) -> list[Node]:
        """The linear layers and embeddings, in order."""
        return [node for node in self.graph.nodes if node.op in ("linear", "embedding")]

    def native(self) -> _core.ModuleGraph:
        """The C++ library's graph, which refers to this one's tensors: keep both."""
        nodes = []
        sources = Sources()
        for node in self.graph.nodes:
            attributes = dict(node.attributes)
            if node.op in ("input", "weight", "constant", "reshape"):
                attributes["shape"] = list(node.shape)
            if node.op == "constant":
                assert node.values is not None
                attributes["values"] = (node.values.data_ptr(), node.values.numel())
            if node.op == "weight":
                assert node.values is not None
                sources.add(node.name, node.values)
                if node.scales is not None:
                    sources.add(f"{node.name}_scale", node.scales)
            nodes.append((node.op, node.name, list(node.inputs), attributes))
        self._sources = sources
        return _core.ModuleGraph(nodes, self.output, self.output_name, sources.tensors, self.seq_len, self.name)


def read_module(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | Tensor,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ModuleProgram:
    """Exports a module by `torch.export` and translates it.

    `example_inputs`: positional arguments, a tensor standing for a tuple of one. `dynamic_shapes`: as `torch.export`
    has it, with one `torch.export.Dim` that has a maximum; every other dimension is fixed. The module's first output,
    or the one that it calls `logits`, is the artefact's.

    Errors: `UnsupportedError` for an operator that is not covered, naming it and its line in the model, and for what
    `torch.export` refuses; `InvalidArgumentError` for a module in training mode.
    """
    began = time.perf_counter()
    if isinstance(model, nn.Module) and any(is_torchao(parameter) for parameter in model.parameters()):
        model = from_torchao(model)
    program = _exported(model, example_inputs, example_kwargs, dynamic_shapes)
    exported = time.perf_counter()
    if any("diffulex_edge." in str(node.target) for node in program.graph.nodes):
        aten.register_quantized()
    program = functional(program)
    folding = Folding(program)
    translation = aten.Translation(folding)
    node, name, dropped = _output_of(program)
    translation.warnings += check_state(folding, node)
    if dropped:
        translation.warnings.append(
            f"the model returns {dropped + 1} tensors, and the artefact has one: {name} (return one to choose)"
        )
    graph, output = translation.graph.finished(translation.run(node))
    _check_output(graph, output, node)
    names = [other.name for other in graph.nodes if other.op == "input"]
    kind = type(model).__name__ if isinstance(model, nn.Module) else "ExportedProgram"
    return ModuleProgram(
        graph=graph,
        output=output,
        output_name=name,
        inputs=names,
        input_indices=[i for i, placeholder in enumerate(folding.inputs) if placeholder.name in names],
        name=kind,
        shortest=folding.shortest if folding.symbol is not None else None,
        quantized=translation.quantized,
        activations=translation.activations,
        warnings=translation.warnings,
        seconds={"torch_export": exported - began, "translation": time.perf_counter() - exported},
    )


def _exported(
    model: nn.Module | ExportedProgram, example_inputs: Any, example_kwargs: Mapping[str, Any] | None, shapes: Any
) -> ExportedProgram:
    if isinstance(model, ExportedProgram):
        if shapes is not None:
            raise InvalidArgumentError("dynamic_shapes: an ExportedProgram has its own", where="dynamic_shapes")
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is neither a torch.nn.Module nor an ExportedProgram")
    if any(isinstance(module, nn.Dropout) and module.training and module.p for module in model.modules()):
        raise InvalidArgumentError("model: it is in training mode (call model.eval() before the export)", where="model")
    arguments = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    try:
        with torch.no_grad(), _untouched(model), _as_plain_operators(model):
            return torch.export.export(model, arguments, dict(example_kwargs or {}), dynamic_shapes=shapes)
    except Exception as error:
        raise UnsupportedError(_reason(error, shapes), where="model") from error


def _reason(error: Exception, shapes: Any) -> str:
    """What torch.export says, whole, and what to do about it."""
    text = " ".join(str(error).split()) or type(error).__name__  # errors are one line
    if "data-dependent" in text or "control flow" in text or "DataDependent" in type(error).__name__:
        advice = "write what depends on a tensor's numbers without `if`, for example by torch.where"
    elif shapes is not None:
        advice = "change dynamic_shapes as it says, or leave them out for a fixed length"
    else:
        advice = "change the model or its inputs until torch.export.export(model, inputs) passes"
    return f"model: torch.export can't export it ({advice}): {text}"


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Gives a module's attributes back as they were: what `forward` assigns while it's traced holds no numbers."""
    before = [
        (module, dict(vars(module)), {key: copy.copy(value) for key, value in vars(module).items() if _is_plain(value)})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes, containers in before:
            vars(module).clear()
            vars(module).update(attributes)
            for key, content in containers.items():
                _refill(attributes[key], content)


def _is_plain(value: Any) -> bool:
    return type(value) in (dict, OrderedDict, list, set)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(content)


@contextmanager
def _as_plain_operators(model: nn.Module) -> Iterator[None]:
    """For the time of an export: no operators that are whole layers, and no caches of keys and values, which
    transformers' models return beside their logits."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    caching = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    torch.backends.mha.set_fastpath_enabled(False)
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for config in caching:
            config.use_cache = True


def _output_of(program: ExportedProgram) -> tuple[fx.Node, str, int]:
    """The node of the module's output, its name, and how many other tensors the module returns."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    specs = program.graph_signature.output_specs
    user = [node for node, spec in zip(output.args[0], specs, strict=True) if spec.kind.name == "USER_OUTPUT"]
    tensors = [node for node in user if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)]
    if not tensors:
        raise UnsupportedError("model: it returns no tensor")
    names = _output_names(program, len(user))
    named = dict(zip(names, user, strict=True))
    if named.get("logits") in tensors:
        return named["logits"], "logits", len(tensors) - 1
    name = names[user.index(tensors[0])]
    return tensors[0], name, len(tensors) - 1


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    """What the model calls its outputs, where it returns a dictionary or a dataclass; else "output"."""
    spec = program.call_spec.out_spec
    keys = spec.context if spec is not None else None
    if spec is not None and spec.type is not tuple and isinstance(keys, list | tuple):
        flat = keys if all(isinstance(key, str) for key in keys) else keys[0]
        names: list[str] = []
        for key, child in zip(flat, spec.children(), strict=False):
            names += [str(key)] if child.num_leaves == 1 else [f"{key}_{i}" for i in range(child.num_leaves)]
        if len(names) == count:
            return names
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _check_output(graph: Graph, output: int, node: fx.Node) -> None:
    if not node.meta["val"].dtype.is_floating_point:
        raise UnsupportedError(
            f"model: its output is {node.meta['val'].dtype} (only floating-point outputs are supported)"
        )
    if graph[output].op == "input":
        raise UnsupportedError(
            f"model: the output that an artefact would have is the input {graph[output].name} itself (return only the "
            "tensor that you want, or a dictionary that calls it logits)"
        )
    if graph[output].op in ("input", "constant", "position_table", "positions", "weight"):
        raise UnsupportedError("model: its output is not computed from its inputs")
