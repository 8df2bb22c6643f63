"""DiffuLex Edge in Python: so far `verify`, which measures an artefact in its vendor's runtime."""

from diffulex_edge._artefact import Execution, VerificationError
from diffulex_edge._coreml import PackageCheck
from diffulex_edge._qnn import Placement, QnnCheck
from diffulex_edge._verify import Interval, SetFigures, Verification, verify

__all__ = [
    "Execution",
    "Interval",
    "PackageCheck",
    "Placement",
    "QnnCheck",
    "SetFigures",
    "Verification",
    "VerificationError",
    "verify",
]
