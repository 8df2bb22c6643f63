"""Which function translates which ATen operator, and which of the operator's arguments it reads.

An argument that differs from its default and that the function neither reads nor may ignore is an error of the
dispatcher (`Translation`): no argument is dropped without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

#: Takes a `Translation` and a node; gives a value of the graph, or several for an operator with several results.
Translate = Callable[[Any, fx.Node], int | list[int]]

#: Arguments that say where and how PyTorch keeps a result, or how it computes gradients, and change no number of it.
#: `dtype` is one because artefacts compute in FP32 and results that are not floating-point are refused.
WITHOUT_EFFECT = frozenset({
    "copy", "cudnn_enable", "device", "dtype", "half_to_float", "implicit", "layout", "memory_format", "non_blocking",
    "output_size", "padding_idx", "pin_memory", "scale_grad_by_freq", "sparse",
})  # fmt: skip


@dataclass(frozen=True)
class Handler:
    """How one operator is translated."""

    translate: Translate
    reads: frozenset[str]  # arguments, by their names in the operator's schema
    integers: bool  # whether operands and results may be integers or booleans


HANDLERS: dict[Any, Handler] = {}


def handles(*targets: Any, reads: str, integers: bool = False) -> Callable[[Translate], Translate]:
    """Registers a function for operators: packets (`aten.add`), single overloads, or Python functions.

    `reads`: the names of all arguments that the function looks at, or whose effect it sees in the result's shape, with
    a space between. `integers`: whether it's right for integers and booleans too; else such operands and results are
    refused before it's called.
    """

    def register(function: Translate) -> Translate:
        handler = Handler(function, frozenset(reads.split()), integers)
        for target in targets:
            HANDLERS[target] = handler
        return function

    return register


def handler_of(node: fx.Node) -> Handler | None:
    found = HANDLERS.get(node.target)
    return HANDLERS.get(getattr(node.target, "overloadpacket", None)) if found is None else found


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument by its name in the schema; its default there if it isn't given; `default` if there is none."""
    names, defaults = _schema(node.target)
    if name in node.kwargs:
        return node.kwargs[name]
    index = names.index(name) if name in names else len(node.args)
    return node.args[index] if index < len(node.args) else defaults.get(name, default)


def unread(node: fx.Node, handler: Handler) -> list[str]:
    """The arguments of a node that differ from their defaults and that its handler does not read."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    names, defaults = _schema(node.target)
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    known = handler.reads | WITHOUT_EFFECT
    return [
        name for name, value in given.items()
        if name not in known and not (name in defaults and _is_same(value, defaults[name]))
    ]  # fmt: skip


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, fx.Node) and type(value) is type(default) and value == default)


@cache
def _schema(target: Any) -> tuple[list[str], dict[str, Any]]:
    """An operator's arguments in order, and the defaults of those that have one."""
    if not isinstance(target, torch._ops.OpOverload):
        return [], {}
    arguments = target._schema.arguments
    return [a.name for a in arguments], {a.name: a.default_value for a in arguments if a.has_default_value()}
