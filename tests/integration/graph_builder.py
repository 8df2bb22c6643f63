"""Graphs of torch modules for the QNN backend, and what calibration would find of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from module_graphs import Array, ModuleGraph, attention_scores


class GraphBuilder(ModuleGraph):
    """A graph under construction, of fixed shapes or at its longest sequence."""

    def length(self, feeds: Mapping[str, Array]) -> int:
        """Of the sequence that positions count."""
        counted = [self.nodes[node.inputs[0]].name for node in self.nodes if node.op in ("positions", "position_table")]
        return max((max(np.shape(feeds[name])) for name in counted), default=1)

    def activations(self, feeds: Sequence[Mapping[str, Array]]) -> SimpleNamespace:
        """What calibration on `feeds` would find, as the extension takes it."""
        runs = [self.values(each, self.length(each)) for each in feeds]
        ranges, scores = [], {}
        for index, node in enumerate(self.nodes):
            everything = [run[index] for run in runs]
            is_source = node.op in ("weight", "constant") or (node.op == "input" and node.attributes["dtype"] != "F32")
            ranges.append((0.0, 0.0) if is_source else _range(everything))
            if node.op == "attention":
                q, k = node.inputs[:2]
                scores[index] = _range([attention_scores(run[q], run[k], node.attributes["scale"]) for run in runs])
        return SimpleNamespace(values=ranges, scores=scores)


def quantization(**changes: object) -> SimpleNamespace:
    """A config as the extension reads it."""
    settings: dict[str, object] = {
        "dtype": "fp32",
        "mode": "weight_only",
        "group_size": 32,
        "exclude_layers": [],
        "embedding_dtype": None,
        "head_dtype": None,
        "method": "rtn",
        "layer_formats": {},
        "activations": {},
        "palette_group": 0,
        "saturate_fp16": False,
        "strict_group_size": False,
    }
    return SimpleNamespace(**settings | changes)


def export_graph(
    module: Any, target: Path, config: SimpleNamespace, activations: str | None = None, **options: str
) -> dict[str, Any]:
    """Through the QNN backend to the folder `target`; the metadata."""
    return dict(module.export("qnn", config, activations, None, options, str(target), 2, None))


def _range(arrays: list[Array]) -> tuple[float, float]:
    limits = np.finfo(np.float32)
    least, greatest = min(float(each.min()) for each in arrays), max(float(each.max()) for each in arrays)
    return min(0.0, max(least, float(limits.min))), max(0.0, min(greatest, float(limits.max)))
