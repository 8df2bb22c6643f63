"""Loading what `diffulex-edge quantize` wrote into a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffulex_edge import _core
from diffulex_edge._errors import InvalidArgumentError
from diffulex_edge.quant._config import QuantizationMode
from diffulex_edge.quant._layers import Layer, copy_with, find_layers
from diffulex_edge.quant._modules import QuantizedEmbedding, QuantizedLinear

if TYPE_CHECKING:
    from safetensors import safe_open


def load_quantized(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """A copy of the model with the weights of a quantized checkpoint; the model stays as it is.

    model: the architecture in PyTorch, whose parameters have the checkpoint's names, as Hugging Face models do. Its own
    values do not matter: it may be on the meta device, apart from buffers that are in no checkpoint. path: the folder
    that `diffulex-edge quantize` wrote, or ORG/NAME in the Hugging Face cache. Linear layers and embeddings whose
    weights are stored in FP16, INT8 or INT4 become `QuantizedLinear` and `QuantizedEmbedding`, with the mode and the
    ranges that config.json notes; all else is loaded in the dtype and on the device that it has in the model.

    Errors: `ImportError` without the safetensors package; `BadFileError` for a folder that is broken;
    `InvalidArgumentError` for one that is not quantized, and where names or shapes are not the model's.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError("load_quantized needs the safetensors package: pip install safetensors") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
    folder = Path(_core.find_model_folder(str(path)))
    description = _core.describe_checkpoint(str(folder))
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return _Loading(model, folder, description, file).run()


class _Loading:
    def __init__(self, model: nn.Module, folder: Path, description: dict[str, Any], file: safe_open) -> None:
        self._model = model
        self._folder = folder
        self._mode = QuantizationMode(description["mode"])
        self._file = file
        self._unread = set(file.keys())
        self._planned = [layer for layer in description["layers"] if layer["role"] in ("linear", "embedding")]

    def run(self) -> nn.Module:
        layers, _ = find_layers(self._model)
        read: dict[str, tuple[Tensor, Tensor | None]] = {}
        replacements = []
        for layer in layers:
            planned = self._find(layer)
            if planned is None or planned["dtype"] == "fp32":
                continue
            name = planned["tensor"]
            if name not in read:
                device = layer.module.weight.device
                scale = f"{name}_scale"
                stored = self._tensor(name, device), self._tensor(scale, device) if planned["is_kept"] else None
                read[name] = stored
            replacements.append((layer.module, self._module(layer, planned, read[name])))
        # What is assigned below needs no copy before.
        loaded = copy_with(self._model, replacements, shared=self._model.parameters())
        self._refuse_unusable({layer["tensor"] for layer in self._planned if layer["dtype"] != "fp32"} - set(read))
        self._assign(loaded)
        if self._unread:
            raise InvalidArgumentError(
                f"{self._folder}: the model has no {', '.join(sorted(self._unread)[:5])}"
                + (f" and {len(self._unread) - 5} more" if len(self._unread) > 5 else "")
            )
        return loaded

    def _find(self, layer: Layer) -> dict[str, Any] | None:
        """The layer in the file's plan. A tied head goes by the embedding's tensor there."""
        names = (f"{layer.label}.weight", layer.tensor)
        with_tensor = [planned for planned in self._planned if planned["tensor"] in names]
        with_role = [planned for planned in with_tensor if planned["role"] == layer.role]
        return next(iter(with_role or with_tensor), None)

    def _tensor(self, name: str, device: torch.device) -> Tensor:
        self._unread.discard(name)
        tensor = self._file.get_tensor(name)
        return tensor if device.type == "meta" else tensor.to(device)

    def _module(
        self, layer: Layer, planned: dict[str, Any], stored: tuple[Tensor, Tensor | None]
    ) -> QuantizedLinear | QuantizedEmbedding:
        old: Any = layer.stored or layer.module
        shape = (
            (old.num_embeddings, old.embedding_dim)
            if layer.role == "embedding"
            else (old.out_features, old.in_features)
        )
        if shape != (planned["rows"], planned["columns"]):
            raise InvalidArgumentError(
                f"{layer.label}: is {list(shape)} in the model, "
                f"{[planned['rows'], planned['columns']]} in {self._folder}",
                where=layer.label,
            )
        form = {"dtype": planned["dtype"], "group_size": planned["group_size"], "device": "meta"}
        new: QuantizedLinear | QuantizedEmbedding
        if layer.role == "embedding":
            output_dtype = getattr(old, "output_dtype", old.weight.dtype)
            new = QuantizedEmbedding(*shape, old.padding_idx, output_dtype=output_dtype, **form)
            new.set_stored(*stored)
            return new
        mode = self._mode if planned["is_kept"] else QuantizationMode.WEIGHT_ONLY
        new = QuantizedLinear(old.in_features, old.out_features, False, mode=mode, **form)
        new.set_stored(*stored)
        if mode == QuantizationMode.STATIC:
            input_min, input_max, output_min, output_max = planned["activations"]
            new.set_ranges((input_min, input_max), (output_min, output_max))
        return new

    def _refuse_unusable(self, unused: set[str]) -> None:
        """A quantized weight of a module that is none of ours, or has a forward of its own."""
        if unused:
            raise InvalidArgumentError(
                f"{self._folder}: {min(unused)} is quantized, and the model has no linear layer or embedding of that "
                "name that can be replaced"
            )

    def _assign(self, model: nn.Module) -> None:
        """New parameters and buffers from the file, one for each that the model has, however many names that has."""
        owners: dict[int, list[tuple[nn.Module, str, str]]] = {}
        tensors: dict[int, Tensor] = {}
        for prefix, module in model.named_modules(remove_duplicate=False):
            stored = ("weight", "weight_scale", "input_range", "output_range")
            is_ours = isinstance(module, QuantizedLinear | QuantizedEmbedding)
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or (is_ours and key in stored):
                    continue
                tensors[id(tensor)] = tensor
                owners.setdefault(id(tensor), []).append((module, key, f"{prefix}.{key}" if prefix else key))
        missing = []
        for identity, places in owners.items():
            old = tensors[identity]
            name = next((name for _, _, name in places if name in self._unread), None)
            if name is not None:
                new = self._assigned(name, old)
                for module, key, _ in places:
                    (module._parameters if key in module._parameters else module._buffers)[key] = new
            elif old.device.type == "meta" or any(_is_saved(module, key) for module, key, _ in places):
                missing.append(places[0][2])
        if missing:
            raise InvalidArgumentError(
                f"{self._folder}: has no {', '.join(missing[:5])}"
                + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
                where=missing[0],
            )

    def _assigned(self, name: str, old: Tensor) -> Tensor:
        new = self._tensor(name, old.device)
        if new.shape != old.shape:
            raise InvalidArgumentError(
                f"{name}: is {list(old.shape)} in the model, {list(new.shape)} in {self._folder}", where=name
            )
        new = new.to(old.dtype)
        return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _is_saved(module: nn.Module, key: str) -> bool:
    return key not in module._non_persistent_buffers_set
