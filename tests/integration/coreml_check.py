"""A Core ML package, checked by coremltools: its own type inference runs on every operation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coreml_package import Package, Program, TensorType, read_type
from coremltools_alone import BuiltProgram, MLModel, Var, is_symbolic, load_program, types


def check_with_coremltools(path: Path) -> Package:
    """Load the package as coremltools does, without a warning, and compare each declared type with the inferred one.

    Types are equal where element type and rank are, and the sizes: one depends on the input in both or in none. Returns
    what was read. Raises ValueError, or what coremltools raises for a program that it cannot build.
    """
    package = Package(path)
    with _no_warnings(path):
        model = MLModel(str(path), skip_model_load=True)
        if model.get_spec() != package.spec:
            raise ValueError(f"{path.name}: coremltools reads another specification")
        for program in package.programs:
            built = load_program(program.spec, program.spec.specificationVersion, str(Path(model.weights_dir or path)))
            # What coremltools asks of a program before it is written: ranks up to 5, constants where they have to be.
            built._check_early_error_out_for_invalid_program()
            _compare_types(program, built)
    return package


def _compare_types(program: Program, built: BuiltProgram) -> None:
    if set(built.functions) != set(program.functions):
        raise ValueError(f"coremltools builds the functions {sorted(built.functions)}")
    for name, function in program.functions.items():
        # The same operations in the same order; before them, coremltools puts a const for each value given in place.
        inferred = iter(built.functions[name].operations)
        for operation in function.operations:
            if operation.type == "write_state":  # coremltools joins it to the read behind it
                continue
            outputs = [output.name for output in operation.outputs]
            names = (operation.type, "coreml_update_state") if operation.type == "read_state" else (operation.type,)
            found = next(
                (one for one in inferred if one.op_type in names and [v.name for v in one.outputs] == outputs), None
            )
            if found is None:
                raise ValueError(f"coremltools has no {operation.type} {', '.join(outputs)}")
            for output, var in zip(operation.outputs, found.outputs, strict=True):
                declared, computed = read_type(output.type), _inferred_type(var)
                if declared != computed:
                    place = f"{operation.type} {output.name}"
                    raise ValueError(f"{place}: {declared} is declared, coremltools infers {computed}")


def _inferred_type(var: Var) -> TensorType:
    kind: Any = var.sym_type
    if not types.is_tensor(kind):
        return TensorType(_name(kind), ())
    sizes = kind.get_shape()
    return TensorType(_name(kind.get_primitive()), tuple(None if is_symbolic(n) else int(n) for n in sizes))


def _name(primitive: Any) -> str:
    """MIL's name of an element type."""
    return "string" if types.is_str(primitive) else str(types.builtin_to_string(primitive))


@contextmanager
def _no_warnings(path: Path) -> Iterator[None]:
    """Whatever coremltools warns about is an error: through Python's warnings or in its log."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("coremltools")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
    if records:
        raise ValueError(f"{path.name}: coremltools says {records[0].getMessage()}")
