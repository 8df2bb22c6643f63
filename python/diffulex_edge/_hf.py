"""Models from Hugging Face's folders, as modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffulex_edge._errors import BadFileError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn


def load_hf_model(path: str | Path, *, dtype: Any = None, trust_remote_code: bool = False, **options: Any) -> nn.Module:
    """A causal language model of `transformers`, ready to quantize and export: in evaluation mode, without a cache.

    `path`: a folder, or a name on the Hugging Face hub. `dtype`: of the weights; default float32. `trust_remote_code`:
    runs the Python code that comes with a model, which LLaDA and Dream need. `options` go to
    `transformers.AutoModelForCausalLM.from_pretrained`. A folder that `diffulex-edge quantize` wrote is loaded with
    quantized layers. For an export, the folder itself is enough: `diffulex-edge export` needs less memory and no
    PyTorch.

    Errors: `BadFileError` for a folder without config.json, `UnsupportedError` for a model that transformers does not
    know, ImportError without transformers.
    """
    import torch

    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ImportError("load_hf_model needs transformers: pip install transformers") from error
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        raise BadFileError(f"{folder}: has no config.json", where=str(folder))
    try:
        if _is_quantized(folder):
            from diffulex_edge.quant import load_quantized

            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
            del config.quantization_config
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust_remote_code, dtype=dtype or torch.float32
            )
            model = load_quantized(model, folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                path, trust_remote_code=trust_remote_code, dtype=dtype or torch.float32, **options
            )
    except (ValueError, KeyError) as error:
        raise UnsupportedError(f"{path}: transformers can't load it: {error}", where=str(path)) from error
    model.config.use_cache = False
    return model.eval()


def _is_quantized(folder: Path) -> bool:
    config = folder / "config.json"
    if not config.is_file():
        return False
    try:
        note = json.loads(config.read_text(encoding="utf-8")).get("quantization_config", {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise BadFileError(f"{config}: is not a JSON object: {error}", where=str(config)) from None
    return isinstance(note, dict) and note.get("quant_method") == "diffulex_edge"
