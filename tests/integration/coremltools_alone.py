"""What the tests use of coremltools, imported without its optional companions.

Where ExecuTorch, torchao, scikit-learn or SciPy are installed, coremltools imports them, for converters that no test
needs: 12 seconds instead of 2. It also logs what it misses on Linux.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

_COMPANIONS: Final = ("executorch", "scipy", "sklearn", "torchao")


def _import_alone() -> None:
    hidden: dict[str, Any] = {name: sys.modules.get(name) for name in _COMPANIONS}
    sys.modules.update(dict.fromkeys(_COMPANIONS))  # None: importing it fails
    logging.disable(logging.WARNING)
    try:
        import coremltools  # noqa: F401
    finally:
        logging.disable(logging.NOTSET)
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


_import_alone()
import coremltools as ct  # noqa: E402
import coremltools.optimize.coreml as cto  # noqa: E402
from coremltools.converters.mil import Builder  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load as load_program  # noqa: E402
from coremltools.converters.mil.mil import Program as BuiltProgram  # noqa: E402
from coremltools.converters.mil.mil import Var, types  # noqa: E402
from coremltools.converters.mil.mil.ops.defs import iOS16, iOS18  # noqa: E402
from coremltools.converters.mil.mil.types.symbolic import is_symbolic  # noqa: E402
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobStorageWriter  # noqa: E402
from coremltools.models import MLModel  # noqa: E402
from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2  # noqa: E402

__all__ = [
    "BlobStorageWriter",
    "Builder",
    "BuiltProgram",
    "FeatureTypes_pb2",
    "MIL_pb2",
    "MLModel",
    "Model_pb2",
    "Var",
    "ct",
    "cto",
    "iOS16",
    "iOS18",
    "is_symbolic",
    "load_program",
    "types",
]
