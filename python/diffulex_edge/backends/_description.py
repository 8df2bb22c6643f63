"""What the library's backends say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from diffulex_edge import _core


@dataclass(frozen=True)
class BackendOption:
    """An entry of `BackendConfig.backend_options`."""

    name: str
    #: "text", "choice", "count", "size", "flag", "list" or "python" (an interpreter).
    type: str
    help: str
    #: What holds without it; empty where that is nothing that could be given.
    default: str
    #: The values of a "choice".
    choices: list[str]


@dataclass(frozen=True)
class BackendDescription:
    """A backend of the library."""

    name: str
    #: In sentences, such as "Core ML".
    title: str
    #: What an export writes, such as "a .mlpackage folder".
    output: str
    #: Of its name, such as ".mlpackage"; empty: any name will do.
    suffix: str
    #: Which lengths of input it takes: "up_to" one, "exact"ly one, or "any": one, several or a range.
    lengths: str
    options: list[BackendOption]


@cache
def descriptions() -> dict[str, BackendDescription]:
    """Of all backends that the library has, by name."""
    found = {}
    for fields in _core.backends():
        options = [BackendOption(**option) for option in fields.pop("options")]
        found[fields["name"]] = BackendDescription(**fields, options=options)
    return found
