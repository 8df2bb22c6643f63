"""DiffuLex Edge in Python: so far `verify`, which measures an artefact in its vendor's runtime."""

from diffulex_edge._artefact import VerificationError
from diffulex_edge._coreml import PackageCheck
from diffulex_edge._verify import Interval, SetFigures, Verification, verify

__all__ = ["Interval", "PackageCheck", "SetFigures", "Verification", "VerificationError", "verify"]
