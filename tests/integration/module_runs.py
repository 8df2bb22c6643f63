"""Exports a module by one backend and runs what was written here: ExecuTorch, the Core ML interpreter, ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mil_interpreter import Interpreter
from torch import Tensor, nn

from diffulex_edge.backends import BackendConfig, CoreMLBackend, EdgeBackend, ExportResult, QNNBackend, XNNPACKBackend
from diffulex_edge.quant import QuantizationConfig

BACKENDS: dict[str, type[EdgeBackend]] = {"xnnpack": XNNPACKBackend, "coreml": CoreMLBackend, "qnn": QNNBackend}
_NAMES = {"xnnpack": "model.pte", "coreml": "model.mlpackage", "qnn": "model"}


def export(model: Any, inputs: tuple[Tensor, ...], backend: str, folder: Path, **named: Any) -> ExportResult:
    """Into `folder`, in FP32 if no `dtype` is given; what went wrong is in the result."""
    config = BackendConfig(quant_config=QuantizationConfig(dtype=named.pop("dtype", "fp32")))
    return BACKENDS[backend](config).export(model, inputs, path=folder / _NAMES[backend], **named)


def run(result: ExportResult, inputs: tuple[Tensor, ...], backend: str, folder: Path) -> Tensor:
    """The artefact's output for the inputs that are its own, in order."""
    path = folder / _NAMES[backend]
    if backend == "xnnpack":
        return _run_pte(path, inputs)
    names = result.metadata["inputs"]
    if backend == "coreml":
        given = {
            name: value.to(torch.float32 if value.is_floating_point() else torch.int32)
            for name, value in zip(names, inputs, strict=True)
        }
        (output,) = Interpreter(path).run(given).values()
        return output
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path / "model.onnx", options, providers=["CPUExecutionProvider"])
    types = {"tensor(int32)": torch.int32, "tensor(int64)": torch.int64, "tensor(float)": torch.float32}
    feeds = {
        declared.name: value.to(types[declared.type]).numpy()
        for declared, value in zip(session.get_inputs(), inputs, strict=True)
    }
    return torch.from_numpy(session.run(None, feeds)[0])


def _run_pte(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    import executorch.kernels.quantized  # noqa: F401  operators of quantized embeddings
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path.read_bytes())  # the method does not keep it alive
    method = program.load_method("forward")
    assert method is not None
    return method.execute([value.contiguous() for value in inputs])[0].clone()


def eager(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return model(*(value.clone() for value in inputs))
