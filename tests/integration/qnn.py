"""QNN artefacts as their users load them: ONNX Runtime on the CPU, and Qualcomm's emulator of the NPU."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import onnxruntime_qnn
import torch
from command import run_json
from torch import Tensor

PROVIDER: Final = "QNNExecutionProvider"


def export(model: Path, target: Path, *options: object) -> dict[str, Any]:
    """Export `model` to the folder `target`; the JSON report."""
    return run_json("export", model, "-o", target, "--backend", "qnn", *options)


class QnnArtefact:
    """A folder that `export --backend qnn` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.model_path = folder / self.manifest["model"]["file"]
        self.model = onnx.load(self.model_path, load_external_data=False)

    def check(self) -> None:
        """Let ONNX check every node, and infer every shape anew: they have to be the declared ones."""
        onnx.checker.check_model(str(self.model_path), full_check=True)
        declared = {value.name: value for value in self.model.graph.value_info}
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        del bare.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph.value_info
        known = [value for value in inferred if value.type.tensor_type.HasField("shape")]
        assert known, "no shape was inferred"
        for value in known:
            tensor, own = value.type.tensor_type, declared[value.name].type.tensor_type
            assert tensor.elem_type == own.elem_type, value.name
            # Behind an operator that ONNX does not know, sizes are unknown.
            for size, own_size in zip(tensor.shape.dim, own.shape.dim, strict=True):
                assert size.dim_value in (own_size.dim_value, 0), value.name

    def operators(self) -> list[str]:
        """The operators' types, in order."""
        return [node.op_type for node in self.model.graph.node]

    def cpu_logits(self, ids: Tensor) -> Tensor:
        """[sequence, vocabulary] from ONNX Runtime's own kernels."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return _run(onnxruntime.InferenceSession(self.model_path, options, providers=["CPUExecutionProvider"]), ids)

    def npu_logits(self, soc: str, ids: Tensor) -> Tensor:
        """[sequence, vocabulary] from the context binary in the emulator."""
        (context,) = (entry for entry in self.manifest["contexts"] if entry["soc"] == soc)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            "soc_model": str(context["soc_model"]),
            "htp_arch": str(context["htp_arch"]),
        }
        options.add_provider_for_devices(_devices(), provider)
        return _run(onnxruntime.InferenceSession(self.folder / context["model"], options), ids)


@cache
def _devices() -> list[Any]:
    def listed() -> list[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER][:1]

    if not listed():  # `verify` registers it too, and a second time is an error
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return listed()


def _run(session: onnxruntime.InferenceSession, ids: Tensor) -> Tensor:
    (logits,) = session.run(["logits"], {"input_ids": ids.reshape(1, -1).to(torch.int32).numpy()})
    assert logits.dtype == np.float32
    return torch.from_numpy(logits[0])
