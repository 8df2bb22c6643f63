"""The weight cache of ExecuTorch's XNNPACK backend: off in the PyPI wheel, on in ExecuTorch's builds for phones.

With it on, packed weights are kept for the whole process by the names of a program's data, and what is not packed is
freed. Every .pte of the tests is executed both ways.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import executorch

_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_SOURCE: Final = _REPOSITORY / "tests/tools/xnnpack_weight_cache.cc"
_PACKAGE: Final = Path(next(iter(executorch.__path__)))


def _compile() -> Path:
    """The switch as a shared library in the build folder, made once for a source and a package."""
    stamp = hashlib.sha256(_SOURCE.read_bytes() + str(_PACKAGE).encode()).hexdigest()[:16]
    target = _REPOSITORY / "build/tests" / f"xnnpack_weight_cache-{stamp}.so"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        include = _PACKAGE / "include"
        headers = (include, include / "executorch/runtime/core/portable_type/c10")
        words = ["c++", "-std=c++17", "-shared", "-fPIC", *(f"-I{folder}" for folder in headers)]
        subprocess.run([*words, str(_SOURCE), "-o", str(unfinished)], check=True)
        unfinished.replace(target)  # another worker may have been as fast
    return target


@functools.cache
def _backend() -> int:
    """The address of the runtime's XNNPACK backend.

    Several of the package's libraries have a registry of backends; which of them is used depends on which was loaded
    first.
    """
    from executorch.extension.pybindings import _portable_lib  # noqa: F401  registers it

    mapped = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    for path in sorted(path for path in mapped if path.startswith(str(_PACKAGE)) and ".so" in path):
        library = ctypes.CDLL(path)
        try:
            find = library["_ZN10executorch7runtime17get_backend_classEPKc"]  # executorch::runtime::get_backend_class
        except AttributeError:
            continue
        find.argtypes = [ctypes.c_char_p]
        find.restype = ctypes.c_void_p
        if backend := find(b"XnnpackBackend"):
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)  # the switch needs its symbols
            return int(backend)
    raise AssertionError("the runtime has no XNNPACK backend")


@functools.cache
def _switch() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(str(_compile())).set_xnnpack_weight_cache
    function.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    function.restype = ctypes.c_int
    return function


@contextmanager
def weight_cache(on: bool) -> Iterator[None]:
    """Programs that are loaded inside have the cache on or off."""
    backend = _backend()  # before the switch, which needs its library's symbols
    error = _switch()(backend, on)
    assert error == 0, f"XNNPACK's weight cache can't be switched: error {error}"
    try:
        yield
    finally:
        _switch()(backend, False)
