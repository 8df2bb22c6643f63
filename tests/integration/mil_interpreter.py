"""Executes the ML Programs of a Core ML package in PyTorch.

Inputs have to be what the model's description promises; the type and the shape of every result what the program
declares. Floating-point results are rounded to the declared type, FP16 or FP32, after each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from coreml_package import Constant, Function, Package, Program, TensorType, read_type
from coremltools_alone import MIL_pb2
from mil_operators import OPERATORS, TORCH_TYPES
from torch import Tensor

State = dict[str, Tensor]
Observer = Callable[[MIL_pb2.Operation, Tensor], None]

_MIL_TYPES: Final = {kind: name for name, kind in TORCH_TYPES.items()}


class Interpreter:
    """A package, ready to run. `observe` is called with every operation and each of its results."""

    def __init__(self, package: Package | Path, observe: Observer | None = None) -> None:
        self.package = package if isinstance(package, Package) else Package(package)
        self._observe = observe

    def make_state(self, function: str = "main") -> State:
        """The function's states, as the framework has them at first: zeros."""
        (program,) = self.package.programs
        states = program.functions[function].states
        return {
            name: torch.zeros([*map(int, held.shape)], dtype=TORCH_TYPES[held.dtype]) for name, held in states.items()
        }

    def run(
        self, inputs: Mapping[str, Tensor], function: str = "main", state: State | None = None
    ) -> dict[str, Tensor]:
        """The outputs by name. Of a pipeline: those of its description, each model taking what is there by name.

        `state`, of `make_state()`, is changed by a function that has states. Raises ValueError for inputs that the
        framework would refuse and for a program that breaks its own declarations.
        """
        if not self.package.is_pipeline:
            (program,) = self.package.programs
            return self._run(program, program.functions[function], inputs, state or {})
        if set(inputs) != set(self.package.inputs):
            raise ValueError(f"inputs {sorted(inputs)} for a pipeline that takes {sorted(self.package.inputs)}")
        known = dict(inputs)
        for program in self.package.programs:
            main = program.functions["main"]
            known |= self._run(program, main, {name: known[name] for name in main.inputs}, {})
        return {entry.name: known[entry.name] for entry in self.package.spec.description.output}

    def logits(self, ids: Tensor | Sequence[int], function: str = "main") -> Tensor:
        """Of a language model, input_ids int32 [1, seq] -> logits float32 [1, seq, vocab]: those of one sequence."""
        outputs = self.run({"input_ids": torch.as_tensor(ids, dtype=torch.int32)[None]}, function)
        (logits,) = outputs.values()
        assert list(outputs) == ["logits"] and logits.dtype == torch.float32
        return logits[0]

    def _run(
        self, program: Program, function: Function, inputs: Mapping[str, Tensor], state: State
    ) -> dict[str, Tensor]:
        _check_inputs(function, inputs)
        if set(state) != set(function.states):
            raise ValueError(f"states {sorted(state)} for a function that has {sorted(function.states)}")
        values: dict[str, Any] = dict(inputs)
        last_uses = _last_uses(function)
        for place, operation in enumerate(function.operations):
            if operation.type == "write_state":
                _write_state(operation, values, state)
                continue
            results = _execute(program, operation, values, state)
            for output, result in zip(operation.outputs, results, strict=True):
                values[output.name] = result
                if self._observe is not None and isinstance(result, Tensor):
                    self._observe(operation, result)
            for name in [name for name in values if last_uses.get(name, -1) <= place]:
                del values[name]
        return {name: values[name] for name in function.outputs}


def _zeros(held: TensorType) -> Tensor:
    return torch.zeros([size or 0 for size in held.shape], dtype=TORCH_TYPES[held.dtype])


def _check_inputs(function: Function, inputs: Mapping[str, Tensor]) -> None:
    if set(inputs) != set(function.inputs):
        raise ValueError(f"inputs {sorted(inputs)} for a function that takes {sorted(function.inputs)}")
    for name, feature in function.inputs.items():
        value = inputs[name]
        if value.dtype != TORCH_TYPES[feature.dtype] or not feature.accepts(tuple(value.shape)):
            raise ValueError(f"{value.dtype} {list(value.shape)} is no input {feature}")


def _last_uses(function: Function) -> dict[str, int]:
    """The last operation, by its place, that takes a value; outputs are needed after all of them."""
    last = {}
    for place, operation in enumerate(function.operations):
        for argument in operation.inputs.values():
            last |= {binding.name: place for binding in argument.arguments if binding.WhichOneof("binding") == "name"}
    kept = dict.fromkeys((*function.outputs, *function.states), len(function.operations))
    return last | kept


def _write_state(operation: MIL_pb2.Operation, values: Mapping[str, Any], state: State) -> None:
    (target,), (source,) = (operation.inputs[name].arguments for name in ("input", "data"))
    before, after = state[target.name], values[source.name]
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        raise ValueError(f"write_state {target.name}: {after.dtype} {list(after.shape)} for {list(before.shape)}")
    state[target.name] = after.clone()


def _execute(program: Program, operation: MIL_pb2.Operation, values: Mapping[str, Any], state: State) -> Sequence[Any]:
    """The results of one operation, each of the type that it declares."""
    place = f"{operation.type} {', '.join(output.name for output in operation.outputs)}"
    declared = [read_type(output.type) for output in operation.outputs]
    if operation.type == "const":
        value = operation.attributes["val"]
        if [read_type(value.type)] != declared:
            raise ValueError(f"{place}: {declared[0]} is declared for a value {read_type(value.type)}")
        return [_tensor(program.constant(value))]
    if operation.type == "read_state":
        (source,) = operation.inputs["input"].arguments
        held = state[source.name].clone()
        if declared != [TensorType(_MIL_TYPES[held.dtype], tuple(held.shape))]:
            raise ValueError(f"{place}: {declared[0]} is declared for {list(held.shape)}")
        return [held]
    if operation.type not in OPERATORS:
        raise ValueError(f"{place}: this operator is not written here")
    arguments = _arguments(program, operation, values)
    try:
        found = OPERATORS[operation.type](**arguments)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{place}: {error}") from error
    results = [found] if isinstance(found, Tensor) else list(found)
    if len(results) != len(declared):
        raise ValueError(f"{place}: {len(results)} results, {len(declared)} declared")
    for result, wanted in zip(results, declared, strict=True):
        if _MIL_TYPES[result.dtype] != wanted.dtype or not wanted.holds(tuple(result.shape)):
            computed = TensorType(_MIL_TYPES[result.dtype], tuple(result.shape))
            raise ValueError(f"{place}: {wanted} is declared, {computed} was computed")
    return results


def _arguments(program: Program, operation: MIL_pb2.Operation, values: Mapping[str, Any]) -> dict[str, Any]:
    """An operation's inputs, and the attributes that are inputs of older operators, by name."""
    found: dict[str, Any] = {
        name: _tensor(program.constant(value)) for name, value in operation.attributes.items() if name != "name"
    }
    for name, argument in operation.inputs.items():
        bound = [
            values[binding.name]
            if binding.WhichOneof("binding") == "name"
            else _tensor(program.constant(binding.value))
            for binding in argument.arguments
        ]
        if len(bound) != 1 and name != "values":
            raise ValueError(f"{operation.type}: {len(bound)} values for {name}")
        found[name] = bound if name == "values" else bound[0]
    return found


def _tensor(constant: Constant) -> Any:
    return constant if isinstance(constant, str | list) else torch.from_numpy(constant)
