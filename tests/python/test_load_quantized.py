"""Modules load what `diffulex-edge quantize` wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import COMMAND, TINY, Quantize
from modules import Llada, unchanged
from safetensors.torch import load_file, save_file
from torch import nn

import diffulex_edge
from diffulex_edge.quant import QuantizationConfig, QuantizedEmbedding, QuantizedLinear, load_quantized, quantize_model

IDS = torch.arange(5, 45).reshape(1, 40)
CASES = [
    (["--dtype", "fp16"], {"dtype": "fp16"}),
    (["--dtype", "int8", "--mode", "dynamic"], {"dtype": "int8", "mode": "dynamic"}),
    (
        ["--dtype", "int4", "--embedding-dtype", "int8", "--head-dtype", "int4"],
        {"dtype": "int4", "embedding_dtype": "int8", "head_dtype": "int4"},
    ),
]


@pytest.mark.parametrize(("options", "config"), CASES, ids=[" ".join(options) for options, _ in CASES])
def test_a_loaded_model_is_the_quantized_one(
    options: list[str], config: dict[str, str], llada: Llada, quantize_checkpoint: Quantize
) -> None:
    empty = Llada().to(torch.bfloat16)
    check = unchanged(empty)
    loaded = load_quantized(empty, quantize_checkpoint(*options))
    check()
    expected = quantize_model(llada, QuantizationConfig(**config)).model
    assert repr(loaded) == repr(expected)
    assert set(loaded.state_dict()) == set(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(IDS), expected(IDS))


def test_a_model_on_the_meta_device_will_do(quantize_checkpoint: Quantize) -> None:
    folder = quantize_checkpoint("--dtype", "int8")
    with torch.device("meta"):
        empty = Llada()
    loaded = load_quantized(empty, str(folder))
    assert torch.equal(loaded(IDS), load_quantized(Llada(), folder)(IDS))
    assert next(empty.parameters()).device.type == "meta"


def test_floats_take_the_models_dtype_and_flags(quantize_checkpoint: Quantize) -> None:
    model = Llada()
    model.requires_grad_(False)
    loaded = load_quantized(model.eval(), quantize_checkpoint("--dtype", "int8"))
    parameters = dict(loaded.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert not any(p.requires_grad for p in parameters.values())
    assert not any(module.training for module in loaded.modules())
    assert loaded(IDS).dtype == torch.float32


def test_static_ranges_come_from_config_json(quantize_checkpoint: Quantize) -> None:
    folder = quantize_checkpoint("--dtype", "int8", "--mode", "static", "--calibration", TINY / "calibration.txt")
    loaded = load_quantized(Llada(), folder)
    noted = json.loads((folder / "config.json").read_text())["quantization_config"]["activations"]
    assert len(noted) == 28
    canonical = {"attn_out": "o_proj", "ff_proj": "gate_proj", "ff_out": "down_proj"}
    for name, module in loaded.named_modules():
        if isinstance(module, QuantizedLinear):
            *_, block, layer = name.split(".")
            ranges = noted[f"layers.{block}.{canonical.get(layer, layer)}"]
            assert module.mode == "static"
            assert module.input_range.tolist() == ranges["input"]
            assert module.output_range.tolist() == ranges["output"]


def test_mixed_precision_is_loaded(quantize_checkpoint: Quantize, tmp_path: Path) -> None:
    source = quantize_checkpoint("--dtype", "int8")
    loaded = load_quantized(Llada(), source)
    assert isinstance(loaded.model.transformer["wte"], nn.Embedding)
    source = quantize_checkpoint("--dtype", "fp16", "--embedding-dtype", "int4", "--head-dtype", "int8")
    loaded = load_quantized(Llada(), source)
    assert loaded.model.transformer["wte"].dtype == "int4"
    assert isinstance(loaded.model.transformer["wte"], QuantizedEmbedding)
    assert loaded.model.transformer["ff_out"].dtype == "int8"
    assert loaded.model.transformer["blocks"][0].q_proj.dtype == "fp16"


def test_losses_are_those_of_the_runtime(quantize_checkpoint: Quantize) -> None:
    """The command's own CPU runtime on the same checkpoint, dynamic activations included."""
    folder = quantize_checkpoint("--dtype", "int8", "--mode", "dynamic")
    data = load_file(TINY / "eval.safetensors")
    few = {f"{kind}_50": data[f"{kind}_50"][:4].clone() for kind in ("input_ids", "target_ids")}
    path = folder.parent / "few.safetensors"
    save_file(few, path)
    words = [COMMAND, "evaluate", folder, "--backend", "xnnpack", "--data", path, "--json"]
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    model = load_quantized(Llada(), folder)
    logits = torch.cat([model(ids[None])[0] for ids in few["input_ids_50"]])
    loss = nn.functional.cross_entropy(logits, few["target_ids_50"].flatten(), ignore_index=-100)
    assert loss.item() == pytest.approx(json.loads(result.stdout)["loss"]["50"], abs=2e-3)


def test_broken_folders_are_errors(quantize_checkpoint: Quantize, tmp_path: Path) -> None:
    with pytest.raises(diffulex_edge.InvalidArgumentError, match="no quantized checkpoint"):
        load_quantized(Llada(), TINY)
    with pytest.raises(diffulex_edge.BadFileError):
        load_quantized(Llada(), tmp_path / "nothing")
    cut = tmp_path / "cut"
    shutil.copytree(quantize_checkpoint("--dtype", "int8"), cut)
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(diffulex_edge.BadFileError):
        load_quantized(Llada(), cut)


def test_other_architectures_are_errors_that_name_the_tensor(quantize_checkpoint: Quantize) -> None:
    folder = quantize_checkpoint("--dtype", "int8")
    model = Llada()
    model.model.transformer["blocks"].append(nn.Linear(3, 3))
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"has no model\.transformer\.blocks\.4\.weight"):
        load_quantized(model, folder)
    model = Llada()
    del model.model.transformer["blocks"][3].q_proj
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"blocks\.3\.q_proj\.weight is quantized"):
        load_quantized(model, folder)
    model = Llada()
    del model.model.transformer["blocks"][3].ff_norm
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"the model has no .*blocks\.3\.ff_norm\.weight"):
        load_quantized(model, folder)
    model = Llada()
    model.model.transformer["blocks"][3].q_proj = nn.Linear(256, 255)
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=r"q_proj: is \[255, 256\] in the model, \[256, 256\]"):
        load_quantized(model, folder)


def test_without_safetensors_the_error_says_so(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['safetensors'] = None\n"
        "import torch\nfrom diffulex_edge.quant import load_quantized\n"
        "load_quantized(torch.nn.Linear(3, 3), 'folder')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: load_quantized needs the safetensors package" in result.stderr
