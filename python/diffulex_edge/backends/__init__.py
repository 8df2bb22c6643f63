"""Backends: from a module to an artefact that a device's runtime executes.

`import diffulex_edge.backends` does not import PyTorch; exporting a module does.
"""

from diffulex_edge.backends._backends import CoreMLBackend, EdgeBackend, QNNBackend, XNNPACKBackend
from diffulex_edge.backends._calibration import Calibration
from diffulex_edge.backends._config import BackendConfig
from diffulex_edge.backends._registry import BackendRegistry
from diffulex_edge.backends._result import ExportResult

__all__ = [
    "BackendConfig",
    "BackendRegistry",
    "Calibration",
    "CoreMLBackend",
    "EdgeBackend",
    "ExportResult",
    "QNNBackend",
    "XNNPACKBackend",
]
