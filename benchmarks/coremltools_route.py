"""Converts a checkpoint the way Core ML documents it: torch.export, coremltools.convert, weights quantized after it.

The model is the plain decoder of official_route.py. Prints one JSON line: seconds by stage, peak RSS, package size.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official_route import Stages, load_decoder, peak_rss_bytes, seconds_since_start
from torch import Tensor, nn

PACKAGES = ("torch", "coremltools")
TARGETS = ("iOS16", "iOS17", "iOS18")


class PlainRmsNorm(nn.Module):
    """RMSNorm in operators that coremltools converts."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def with_plain_norms(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(module, name, PlainRmsNorm(child))
    return model


def quantized(package: Any, weight_format: str, group_size: int) -> Any:
    """The converted model with its linear weights in INT8 per channel, INT4 in groups or 4-bit palettes.

    Embedding and head stay as they are, as with our defaults.
    """
    import coremltools.optimize.coreml as cto

    match weight_format:
        case "fp32" | "fp16":
            return package
        case "int8":
            op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=0)
            compress = cto.linear_quantize_weights
        case "int4":
            op = cto.OpLinearQuantizerConfig(
                mode="linear_symmetric",
                dtype="int4",
                granularity="per_block",
                block_size=group_size,
                weight_threshold=0,
            )
            compress = cto.linear_quantize_weights
        case "palette":
            op = cto.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=0)
            compress = cto.palettize_weights
    config = cto.OptimizationConfig(op_type_configs={"linear": op})
    head = [name for name, _ in cto.get_weights_metadata(package, weight_threshold=0).items() if "lm_head" in name]
    for name in head:
        config.set_op_name(name, None)
    return compress(package, config)


def convert(options: argparse.Namespace) -> dict[str, object]:
    """Runs the whole route and returns what main prints; seconds are wall time."""
    stage = Stages()
    import coremltools as ct

    stage("import")
    model = with_plain_norms(load_decoder(options.model, options.seq_len, options.target == "iOS18"))
    stage("load")
    ids = torch.zeros((1, options.seq_len), dtype=torch.int32)
    # coremltools' reader of torch.jit.trace takes one-element arrays for numbers, which NumPy 2.4 refuses.
    exported = torch.export.export(model, (ids,), strict=False).run_decompositions({})
    stage("export")
    package = ct.convert(
        exported,
        inputs=[ct.TensorType("input_ids", shape=ids.shape, dtype=np.int32)],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        minimum_deployment_target=getattr(ct.target, options.target),
        compute_precision=ct.precision.FLOAT32 if options.format == "fp32" else ct.precision.FLOAT16,
        skip_model_load=True,
    )
    stage("convert")
    package = quantized(package, options.format, options.group_size)
    stage("quantize")
    package.save(str(options.output))
    stage("save")
    files = [path for path in options.output.rglob("*") if path.is_file()]
    return {
        "seconds": stage.seconds | {"total": round(seconds_since_start(), 3)},
        "peak_rss_bytes": peak_rss_bytes(),
        "package_bytes": sum(path.stat().st_size for path in files),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="NAME.mlpackage")
    parser.add_argument("--format", choices=("fp32", "fp16", "int8", "int4", "palette"), default="int4")
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--target", choices=TARGETS, default="iOS18")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    print(json.dumps(convert(options)))


if __name__ == "__main__":
    main()
