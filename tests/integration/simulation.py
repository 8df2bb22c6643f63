"""What the CPU runtime, which simulates the target, makes of token ids."""

from __future__ import annotations

from pathlib import Path

from command import run_json
from safetensors.torch import load_file, save_file
from torch import Tensor


def simulated_logits(model: Path, ids: Tensor, folder: Path, *options: object) -> Tensor:
    """[length, vocabulary] of ids [length] or [1, length], from `evaluate --logits` with quantization `options`."""
    pair = {f"{kind}_ids_x": ids.reshape(1, -1).long().clone() for kind in ("input", "target")}
    save_file(pair, folder / "ids.safetensors")
    target = folder / "logits.safetensors"
    run_json("evaluate", model, "--data", folder / "ids.safetensors", "--logits", target, *options)
    return load_file(target)["logits_x"]
