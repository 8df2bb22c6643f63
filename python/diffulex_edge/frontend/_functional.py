"""Exported programs without writes: what a module changes in place becomes new tensors, by `torch.export`'s own means.

Linear layers, attention and norms stay the single operators that they are. Tensors of the module that `forward` changes
are checked here: an artefact keeps nothing from one run to the next.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec

from diffulex_edge._errors import UnsupportedError
from diffulex_edge.frontend._folding import Folding, source_of
from diffulex_edge.frontend.aten.registry import argument

aten = torch.ops.aten

#: Operators that may give their operand itself, though their schemas don't say so: writes to it must not be lost.
_HIDDEN_ALIASES = (aten.type_as.default,)


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program, or an equal one in which no operator writes to its operands."""
    writes = [node for node in program.graph.nodes if _writes(node)]
    if not writes:
        return program
    for node in writes:
        if any(_overlaps_itself(target) for target in _targets(node)):
            # PyTorch's own functional form adds up what was written to one place (2.13).
            raise UnsupportedError(
                f"{source_of(node)}: a write to a tensor whose elements share memory (write to it before it is "
                "expanded, or to a clone)",
                where=str(node.target),
            )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
        try:
            known = torch.export.default_decompositions()
            with _dropouts_as_aliases(program):
                result = program.run_decompositions({op: known[op] for op in _HIDDEN_ALIASES})
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnsupportedError(
                f"{source_of(writes[0])}: torch.export can't do without this change in place, or another one: {first}",
                where=str(writes[0].target),
            ) from error
    for node in result.graph.nodes:
        if _writes(node):
            raise UnsupportedError(f"{source_of(node)}: an operator that changes its operands", where=str(node.target))
    return result


@contextmanager
def _dropouts_as_aliases(program: ExportedProgram) -> Iterator[None]:
    """For the time of a decomposition: dropout that is off gives back its operand itself, as it does when it's run."""
    off = [
        (node, node.target, node.args, node.kwargs)
        for node in program.graph.nodes
        if node.target in (aten.dropout.default, aten.feature_dropout.default) and argument(node, "train") is False
    ]
    for node, _, _, _ in off:
        operand = argument(node, "input")
        node.target, node.args, node.kwargs = aten.alias.default, (operand,), {}
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node, target, args, kwargs in off:
            node.target, node.args, node.kwargs = target, args, kwargs
        program.graph_module.recompile()


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _targets(node: fx.Node) -> Iterator[Tensor]:
    """The tensors that a node writes to."""
    for declared in node.target._schema.arguments:  # type: ignore[union-attr]
        operand = argument(node, declared.name) if declared.alias_info and declared.alias_info.is_write else None
        if isinstance(operand, fx.Node) and isinstance(operand.meta["val"], Tensor):
            yield operand.meta["val"]


def _overlaps_itself(value: Tensor) -> bool:
    """Whether two elements may be one place in memory, as those of an expanded tensor."""
    sizes = [size if isinstance(size, int) else size.node.hint for size in value.shape]
    strides = [stride if isinstance(stride, int) else stride.node.hint for stride in value.stride()]
    if 0 in sizes:
        return False
    reach = 0
    for stride, size in sorted((stride, size) for stride, size in zip(strides, sizes, strict=True) if size != 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def check_state(folding: Folding, output: fx.Node) -> list[str]:
    """Refuses a program whose output depends on what earlier runs left in the module; gives warnings on the rest.

    A tensor of the module that `forward` changes does no harm where the output depends on no value of it, or where the
    change is the same each time and the first run already sees it.
    """
    notes = []
    before = folding.upstream(output)
    for node, spec in _changes(folding.program):
        placeholder = next(n for n in folding.program.graph.nodes if n.op == "placeholder" and _is(folding, n, spec))
        if spec.kind == OutputKind.USER_INPUT_MUTATION:
            notes.append(
                f"input {placeholder.name}: the model changes it in place, and the artefact leaves it as it is"
            )
        elif placeholder in before and not _is_settled(folding, placeholder, node, before):
            kind = "parameter" if spec.kind == OutputKind.PARAMETER_MUTATION else "buffer"
            raise UnsupportedError(
                f"{source_of(node)}: forward changes the {kind} {spec.target} that its output depends on, and an "
                "artefact keeps nothing from one run to the next (change a copy of it, or set it before the export)",
                where=spec.target,
            )
    return notes


def _changes(program: ExportedProgram) -> Iterator[tuple[fx.Node, OutputSpec]]:
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION, OutputKind.USER_INPUT_MUTATION)
    for node, spec in zip(last.args[0], program.graph_signature.output_specs, strict=True):
        if spec.kind in kinds:
            yield node, spec


def _is(folding: Folding, placeholder: fx.Node, spec: OutputSpec) -> bool:
    if spec.kind == OutputKind.USER_INPUT_MUTATION:
        return placeholder.name == spec.target
    signature = folding.program.graph_signature
    names = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    return names.get(placeholder.name) == spec.target


def _is_settled(folding: Folding, placeholder: fx.Node, changed: fx.Node, before: set[fx.Node]) -> bool:
    """Whether a second run computes what the first one does."""
    if _is_scaled_table(placeholder, before):
        return True
    if folding.kinds[changed] != "constant":
        return False
    second = folding.with_tensor(placeholder, folding.value(changed))
    read = [n for n in before if folding.kinds[n] == "constant" and _is_read_by_others(folding, n, before)]
    return all(_equal(folding.value(node), second.value(node)) for node in [changed, *read])


def _is_read_by_others(folding: Folding, node: fx.Node, before: set[fx.Node]) -> bool:
    return any(user in before and folding.kinds[user] != "constant" for user in node.users)


def _is_scaled_table(placeholder: fx.Node, before: set[fx.Node]) -> bool:
    """Whether a parameter is the table of embeddings with `max_norm`, and nothing else: its handler scales all rows."""
    pending, found = [placeholder], False
    while pending:
        for user in pending.pop().users:
            packet = getattr(user.target, "overloadpacket", None)
            if packet in (aten.detach, aten.alias, aten.embedding_renorm):
                found = found or packet is aten.embedding_renorm
                pending.append(user)
            elif user in before and user.op != "output" and packet is not aten.embedding:
                return False
    return found


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a == b
