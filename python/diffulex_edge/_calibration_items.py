"""What an item of calibration data means to a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def arguments_of(item: Any, where: str = "calibration_data") -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments in an item: a tensor, a tuple or list of arguments, or a dict of named ones.

    Errors: `TypeError`, beginning with `where`, for anything else.
    """
    if isinstance(item, Tensor):
        return (item,), {}
    if isinstance(item, Mapping):
        return (), dict(item)
    if isinstance(item, tuple | list):
        return tuple(item), {}
    raise TypeError(f"{where}: {type(item).__name__} is neither a tensor, nor a tuple of arguments, nor a dict of them")
