"""Which modules of a model are layers that can be quantized, and copies of the model with others in their place."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.quant import _torchao
from diffulex_edge.quant._modules import QuantizedEmbedding, QuantizedLinear

# Modules whose fast paths read the weights of their linear layers instead of calling these.
_READ_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


@dataclass
class Layer:
    """One module that has a weight matrix."""

    name: str  # the first of its names in the model; "" for the model itself
    module: nn.Module
    stored: QuantizedLinear | QuantizedEmbedding | None  # the module, or torchao's weight, as ours; None for floats
    plan_name: str  # what the planner calls it: "lm_head" for the head, whatever the model calls that
    tensor: str  # "NAME.weight" of the first layer with this weight

    @property
    def role(self) -> str:
        """ "linear" or "embedding"."""
        return "embedding" if isinstance(self.module, nn.Embedding | QuantizedEmbedding) else "linear"

    @property
    def label(self) -> str:
        """For messages and results, where "" would say nothing."""
        return self.name or "model"


def find_layers(model: nn.Module) -> tuple[list[Layer], dict[str, str]]:
    """All layers, each module once, and by name why other linear layers and embeddings can't be replaced."""
    layers: list[Layer] = []
    skipped: dict[str, str] = {}
    head = _output_embeddings(model)
    reading = {
        id(child): type(parent).__name__
        for parent in model.modules()
        if isinstance(parent, _READ_WEIGHTS)
        for child in parent.children()
    }
    tensors: dict[object, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding | QuantizedLinear | QuantizedEmbedding):
            continue
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise InvalidArgumentError(f"{name or 'model'}: its weight is not initialized (run the model once)")
        reason = _reason_to_skip(module)
        if reason is None and id(module) in reading:
            reason = f"{reading[id(module)]} reads its weight instead of calling it"
        if reason is None and module is head and isinstance(module, nn.Embedding):
            reason = "the model reads its weight as its head's"
        if reason is not None:
            skipped[name or "model"] = reason
            continue
        label = name or "model"
        is_unnamed_head = module is head and label != "lm_head" and not label.endswith(".lm_head")
        plan_name = "lm_head" if is_unnamed_head else label
        tensor = tensors.setdefault(identity(module.weight), f"{label}.weight")
        layers.append(Layer(name, module, _as_stored(label, module), plan_name, tensor))
    return layers, skipped


def _as_stored(label: str, module: nn.Module) -> QuantizedLinear | QuantizedEmbedding | None:
    if isinstance(module, QuantizedLinear | QuantizedEmbedding):
        return module
    return _torchao.convert(label, module) if _torchao.is_torchao(module.weight) else None


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    """Of a Hugging Face model: its head, which LLaDA calls ff_out."""
    getter = getattr(model, "get_output_embeddings", None)
    try:
        return getter() if callable(getter) else None
    except (AttributeError, NotImplementedError):
        return None


def identity(weight: Tensor) -> object:
    """Equal for weights that are one: the same tensor, or two that look at the same memory in the same way."""
    if _torchao.is_torchao(weight) or weight.device.type == "meta":
        return id(weight)
    return weight.device, weight.data_ptr(), weight.dtype, tuple(weight.shape), weight.stride()


def _reason_to_skip(module: nn.Module) -> str | None:
    if isinstance(module, QuantizedLinear | QuantizedEmbedding):
        return None
    base = nn.Linear if isinstance(module, nn.Linear) else nn.Embedding
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "its weight is read instead of calling it"
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    if "weight" not in module._parameters:
        return "its weight is no parameter, but computed from others"
    if type(module).forward is not base.forward or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    if set(module._parameters) - {"weight", "bias"} or module._buffers or module._modules:
        return f"{type(module).__name__} has more than a weight and a bias"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "its max_norm changes the weight while it runs"
    return None


def copy_with(
    model: nn.Module, replacements: Sequence[tuple[nn.Module, nn.Module]], shared: Iterable[Tensor] = ()
) -> nn.Module:
    """A deep copy of the model with other modules in the places of some, wherever the model refers to them.

    Biases, hooks and further attributes of a replaced module are copied to the one in its place. Its weight is not
    copied at all, unless something else in the model uses it too. `shared` tensors are the copy's as they are.
    """
    # What copy.deepcopy finds in its memo it does not copy, and all references go there.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    memo.update((id(old), new) for old, new in replacements)
    for module in model.modules():
        for value in vars(module).values():
            # Such as the weight that weight_norm computes before each call, which PyTorch does not copy.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    for old, new in replacements:
        if isinstance(new, QuantizedLinear):
            new.bias = copy.deepcopy(old.bias, memo)
        for name in _HOOKS:
            setattr(new, name, copy.deepcopy(getattr(old, name), memo))
        for name in set(vars(old)) - _plain_attributes(type(old)) - set(vars(new)):
            if not hasattr(type(new), name):  # torchao gives its layers an extra_repr
                setattr(new, name, copy.deepcopy(vars(old)[name], memo))
        new.train(old.training)
    return copy.deepcopy(model, memo)


def _plain_attributes(kind: type[nn.Module]) -> set[str]:
    """Names in the __dict__ of a module that nobody added to."""
    plain: nn.Module
    if issubclass(kind, nn.Embedding):
        plain = nn.Embedding(1, 1, device="meta")
    elif issubclass(kind, nn.Linear):
        plain = nn.Linear(1, 1, device="meta")
    else:
        return set()
    return set(vars(plain))


def distinct_parameters(model: nn.Module) -> list[Tensor]:
    """Every parameter once, also where two modules have their own objects for the same memory."""
    return list({identity(parameter): parameter for parameter in model.parameters()}.values())


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters and buffers, shared memory once."""
    seen: dict[object, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        parts = _torchao.parts(tensor) if _torchao.is_torchao(tensor) else [tensor]
        for part in parts:
            seen[identity(part)] = part.numel() * part.element_size()
    return sum(seen.values())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and afterwards as it was."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
