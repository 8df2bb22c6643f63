"""Exported programs keep one node for each quantized layer, and compute the same."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from modules import Llada, Small
from torch import nn

from diffulex_edge.quant import QuantizationConfig, quantize_model

CONFIGS = [
    {"dtype": "fp16"},
    {"dtype": "int8"},
    {"dtype": "int8", "mode": "dynamic"},
    {"dtype": "int8", "mode": "static"},
    {"dtype": "int4"},
    {"dtype": "int4", "group_size": 0},
]
IDS = torch.arange(12).reshape(1, 12)


def quantized(config: dict[str, object]) -> nn.Module:
    data = [IDS] if config.get("mode") == "static" else None
    settings = QuantizationConfig(exclude_layers=[], **config)
    return quantize_model(Small().eval(), settings, calibration_data=data).model


def targets(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
def test_export_keeps_the_layers_as_nodes(config: dict[str, object], strict: bool) -> None:
    model = quantized(config)
    sequence = torch.export.Dim("sequence", min=2, max=64)
    program = torch.export.export(model, (IDS,), dynamic_shapes=({1: sequence},), strict=strict)
    for exported in (program, program.run_decompositions()):
        assert targets(exported).count("diffulex_edge.quantized_linear.default") == 3
        assert targets(exported).count("diffulex_edge.quantized_embedding.default") == 1
        for ids in (IDS, torch.arange(40).reshape(1, 40)):
            torch.testing.assert_close(exported.module()(ids), model(ids))


def test_the_nodes_are_as_documented() -> None:
    """python/diffulex_edge/quant/_ops.py; what the backends' front end relies on."""
    model = quantized({"dtype": "int8", "mode": "static"})
    program = torch.export.export(model, (IDS,))
    buffers, parameters = program.graph_signature.inputs_to_buffers, program.graph_signature.inputs_to_parameters
    nodes = [node for node in program.graph.nodes if node.target is torch.ops.diffulex_edge.quantized_linear.default]
    x, weight, scale, bias, input_range, output_range, dtype, mode, group_size = nodes[0].args
    assert buffers[weight.name] == "up.weight"
    assert buffers[scale.name] == "up.weight_scale"
    assert parameters[bias.name] == "up.bias"
    assert buffers[input_range.name] == "up.input_range"
    assert buffers[output_range.name] == "up.output_range"
    assert (dtype, mode, group_size) == ("int8", "static", 0)
    assert x.meta["val"].shape == (1, 12, 64)
    assert nodes[2].args[3] is None  # the head has no bias
    embedding = next(
        node for node in program.graph.nodes if node.target is torch.ops.diffulex_edge.quantized_embedding.default
    )
    assert embedding.args[3:] == ("int8", 0, torch.float32)
    assert torch.equal(program.state_dict["up.weight"], model.up.weight)


def test_a_saved_program_is_loaded_by_a_process_that_imports_the_package(tmp_path: Path) -> None:
    model = quantized({"dtype": "int4", "mode": "dynamic"})
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model, (IDS,)), path)
    torch.save(model(IDS), tmp_path / "expected.pt")
    script = (
        "import torch, diffulex_edge.quant\n"
        f"program = torch.export.load({str(path)!r})\n"
        f"expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        "torch.testing.assert_close(program.module()(torch.arange(12).reshape(1, 12)), expected)\n"
        "print('equal')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout == "equal\n", result.stderr


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("config", CONFIGS[1:4])
def test_torch_compile_takes_the_modules(config: dict[str, object], backend: str) -> None:
    torch.compiler.reset()
    model = quantized(config)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(IDS), model(IDS))


def test_operators_pass_pytorchs_own_checks() -> None:
    model = quantized({"dtype": "int8", "mode": "static"})
    up, table = model.up, model.embed_tokens
    x = torch.randn(3, 64, requires_grad=True)
    arguments = (x, up.weight, up.weight_scale, up.bias, up.input_range, up.output_range, "int8", "static", 0)
    torch.library.opcheck(torch.ops.diffulex_edge.quantized_linear.default, arguments)
    arguments = (IDS, table.weight, table.weight_scale, "int8", 0, torch.float32)
    torch.library.opcheck(torch.ops.diffulex_edge.quantized_embedding.default, arguments)


def test_the_bundled_model_exports(llada: Llada) -> None:
    result = quantize_model(llada.float(), QuantizationConfig(dtype="int4", mode="dynamic"))
    program = torch.export.export(result.model, (IDS,))
    assert targets(program).count("diffulex_edge.quantized_linear.default") == 28
    torch.testing.assert_close(program.module()(IDS), result.model(IDS))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    torch.testing.assert_close(torch.export.load(saved).module()(IDS), result.model(IDS))
