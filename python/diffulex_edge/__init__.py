"""DiffuLex Edge in Python: so far `verify`, which measures an artefact in its vendor's runtime."""

from diffulex_edge._verify import Interval, SetFigures, Verification, VerificationError, verify

__all__ = ["Interval", "SetFigures", "Verification", "VerificationError", "verify"]
