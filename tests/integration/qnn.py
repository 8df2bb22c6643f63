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
    """A folder that `export --backend qnn` wrote: one model for the NPU, or several, and perhaps one for the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.paths = [folder / entry["file"] for entry in self.manifest["models"]]
        self.models = [onnx.load(path, load_external_data=False) for path in self.paths]

    @property
    def model(self) -> onnx.ModelProto:
        """The only model."""
        (model,) = self.models
        return model

    def check(self) -> None:
        """Let ONNX check every node, and infer every shape anew: they have to be the declared ones."""
        for path, model in zip(self.paths, self.models, strict=True):
            onnx.checker.check_model(str(path), full_check=True)
            _check_shapes(model)

    def operators(self) -> list[str]:
        """The operators' types, in order."""
        return [node.op_type for model in self.models for node in model.graph.node]

    def cpu_logits(self, ids: Tensor) -> Tensor:
        """[sequence, vocabulary] from ONNX Runtime's own kernels."""
        return self._run([_cpu_session(path) for path in self.paths], ids)

    def npu_logits(self, soc: str, ids: Tensor) -> Tensor:
        """[sequence, vocabulary] from the context binaries in the emulator, and what is the host's on the CPU."""
        contexts = {entry["source"]: entry for entry in self.manifest["contexts"] if entry["soc"] == soc}
        sessions = []
        for entry in self.manifest["models"]:
            if entry["runs_on"] == "host":
                sessions.append(_cpu_session(self.folder / entry["file"]))
            else:
                sessions.append(npu_session(self.folder, contexts[entry["file"]]))
        return self._run(sessions, ids)

    def _run(self, sessions: list[onnxruntime.InferenceSession], ids: Tensor) -> Tensor:
        value = ids.reshape(1, -1).to(torch.int32).numpy()
        for session, entry in zip(sessions, self.manifest["models"], strict=True):
            (tensor,) = entry["inputs"]
            assert list(value.shape) == tensor["shape"]
            assert value.dtype == tensor["dtype"]
            (value,) = session.run([entry["outputs"][0]["name"]], {tensor["name"]: value})
        assert value.dtype == np.float32
        return torch.from_numpy(value[0])


def _check_shapes(model: onnx.ModelProto) -> None:
    declared = {value.name: value for value in model.graph.value_info}
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
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


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _cpu_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, _options(), providers=["CPUExecutionProvider"])


def npu_session(folder: Path, context: dict[str, Any]) -> onnxruntime.InferenceSession:
    """Of one of the manifest's contexts."""
    options = _options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(context["soc_model"]),
        "htp_arch": str(context["htp_arch"]),
    }
    options.add_provider_for_devices(_devices(), provider)
    return onnxruntime.InferenceSession(folder / context["model"], options)


@cache
def _devices() -> list[Any]:
    def listed() -> list[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER][:1]

    if not listed():  # `verify` registers it too, and a second time is an error
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return listed()
