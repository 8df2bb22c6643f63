"""DiffuLex Edge in Python: the C++ library, and `verify`, which measures an artefact in its vendor's runtime.

Importing it takes milliseconds and nothing but Python: numpy, PyTorch and the vendors' runtimes are imported by what
needs them, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from diffulex_edge._core import __version__
from diffulex_edge._errors import (
    BadFileError,
    CancelledError,
    Error,
    InternalError,
    InvalidArgumentError,
    OutOfMemoryError,
    OutputError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from diffulex_edge._accuracy import NumericalAccuracy, validate_numerical_accuracy
    from diffulex_edge._artefact import Execution, Placement, VerificationError
    from diffulex_edge._coreml import PackageCheck
    from diffulex_edge._generated_text import GenerationComparison, PromptComparison, compare_generation
    from diffulex_edge._generation import (
        DiffusionEngine,
        DiffusionGenerationConfig,
        GenerationResult,
        Generator,
        generate,
    )
    from diffulex_edge._hf import load_hf_model
    from diffulex_edge._qnn import QnnCheck
    from diffulex_edge._verify import Interval, SetFigures, Verification, verify

# The modules that are imported later, most of them with numpy, and the names that are theirs.
_LATER = {
    "DiffusionEngine": "_generation",
    "DiffusionGenerationConfig": "_generation",
    "GenerationComparison": "_generated_text",
    "GenerationResult": "_generation",
    "Generator": "_generation",
    "generate": "_generation",
    "Execution": "_artefact",
    "Interval": "_verify",
    "NumericalAccuracy": "_accuracy",
    "PackageCheck": "_coreml",
    "Placement": "_artefact",
    "PromptComparison": "_generated_text",
    "QnnCheck": "_qnn",
    "SetFigures": "_verify",
    "Verification": "_verify",
    "VerificationError": "_artefact",
    "compare_generation": "_generated_text",
    "load_hf_model": "_hf",
    "validate_numerical_accuracy": "_accuracy",
    "verify": "_verify",
}

__all__ = [
    "BadFileError",
    "CancelledError",
    "DiffusionEngine",
    "DiffusionGenerationConfig",
    "Error",
    "Execution",
    "GenerationComparison",
    "GenerationResult",
    "Generator",
    "InternalError",
    "Interval",
    "InvalidArgumentError",
    "NumericalAccuracy",
    "OutOfMemoryError",
    "OutputError",
    "PackageCheck",
    "Placement",
    "PromptComparison",
    "QnnCheck",
    "SetFigures",
    "UnsupportedError",
    "Verification",
    "VerificationError",
    "__version__",
    "compare_generation",
    "generate",
    "load_hf_model",
    "validate_numerical_accuracy",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
