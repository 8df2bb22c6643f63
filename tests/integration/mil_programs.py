"""Small ML Programs, made with coremltools' own builder."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from coremltools_alone import Builder, ct
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TARGETS: Final = {"iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}


def build(
    path: Path, function: Callable[..., Any], inputs: list[tuple[tuple[int, ...], Any]], target: str = "iOS18"
) -> Path:
    """A package with the operations that `function` adds, and no others."""
    specs = [Builder.TensorSpec(shape, dtype) for shape, dtype in inputs]
    program = Builder.program(input_specs=specs, opset_version=TARGETS[target])(function)
    converted = ct.convert(
        program,
        minimum_deployment_target=TARGETS[target],
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    converted.save(str(path))
    return path


def random_array(*shape: int) -> Floats:
    """Normally distributed numbers, the same ones for the same number of them."""
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype(np.float32)
