"""Backends by name."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from diffulex_edge._errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from diffulex_edge.backends._backends import EdgeBackend
    from diffulex_edge.backends._config import BackendConfig


class BackendRegistry:
    """The library's backends are there from the start; others can be added at any time, from any thread."""

    _backends: ClassVar[dict[str, type[EdgeBackend]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def register(cls, name: str, backend: type[EdgeBackend]) -> type[EdgeBackend]:
        """Errors: `InvalidArgumentError` if the name is taken by another class."""
        with cls._lock:
            if cls._backends.setdefault(name, backend) is not backend:
                raise InvalidArgumentError(f"backend '{name}': the name is taken", where=name)
        return backend

    @classmethod
    def get(cls, name: str) -> type[EdgeBackend]:
        """Errors: `UnsupportedError` for an unknown name, listing the known ones."""
        with cls._lock:
            if name not in cls._backends:
                known = ", ".join(sorted(cls._backends))
                raise UnsupportedError(f"backend '{name}': is not known (there are {known})", where=name)
            return cls._backends[name]

    @classmethod
    def list(cls) -> list[str]:
        with cls._lock:
            return sorted(cls._backends)

    @classmethod
    def create(cls, name: str, config: BackendConfig | None = None) -> EdgeBackend:
        return cls.get(name)(config)
