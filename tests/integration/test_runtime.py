"""The CPU runtime: against PyTorch in float32, and against ExecuTorch for every quantized format."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, COMMAND, PATIENCE, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES, Reference
from program import Program, random_ids
from quantization import Options
from safetensors.torch import load_file, save_file
from test_formats import FORMATS, label, relative_error, wide_sizes
from torch import Tensor

LENGTHS: Final = (1, 5, 37, 100)


def forward(model: Path, sequences: list[list[int]], **config: Any) -> list[Tensor]:
    """The CPU runtime's logits of each sequence, [length, vocab]."""
    words = [str(COMMAND.parent / "forward_model"), str(model), json.dumps(config)]
    lines = "".join(json.dumps(ids) + "\n" for ids in sequences).encode()
    result = subprocess.run(words, input=lines, capture_output=True, check=False, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr.decode()
    values = torch.from_numpy(np.frombuffer(result.stdout, dtype=np.float32).copy())
    width = len(values) // sum(map(len, sequences))
    return list(values.reshape(-1, width).split([len(ids) for ids in sequences]))


def config_of(options: Options) -> dict[str, Any]:
    """What forward_model takes for `options`."""
    given = {"dtype": options.dtype, "mode": options.mode, "group_size": options.group_size}
    given |= {"embedding_dtype": options.embedding, "head_dtype": options.head}
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_agrees_with_pytorch(family: str, checkpoint: MakeCheckpoint) -> None:
    model = checkpoint(family)
    sequences = [random_ids(length, 1001).flatten().tolist() for length in LENGTHS]
    for ids, logits in zip(sequences, forward(model, sequences), strict=True):
        expected = Reference(model).logits(torch.tensor([ids]))[0]
        assert relative_error(logits, expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [options for options in FORMATS if options.activations == "fp32"], ids=label)
def test_simulated_formats_agree_with_executorch(
    family: str, options: Options, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family, **(wide_sizes(family) if options.group_size > 32 else {}))
    export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", max(LENGTHS))
    program = Program(tmp_path / "model.pte")
    sequences = [random_ids(length, 1001).flatten().tolist() for length in LENGTHS]
    errors = [
        relative_error(logits, program.logits(ids))
        for ids, logits in zip(sequences, forward(model, sequences, **config_of(options)), strict=True)
    ]
    if options.quantizes_activations():
        # A value half-way between two steps of 8 bits may round either way, and then moves every token that sees it.
        assert min(errors) < 1e-4, errors
        assert max(errors) < 2e-2, errors
    else:
        assert max(errors) < 1e-4, errors


def test_losses_of_the_bundled_model_are_those_that_came_with_it(tiny: Path) -> None:
    expected = json.loads((tiny / "eval.json").read_text())["fp32"]
    report = run_json("evaluate", tiny, "--data", tiny / "eval.safetensors")
    assert list(report["loss"]) == ["15", "50", "90"]
    for ratio, loss in report["loss"].items():
        assert abs(loss - expected[ratio]["mean_nll"]) < 1e-4
        assert report["tokens"][ratio] == expected[ratio]["masked_tokens"]
        assert abs(report["accuracy"][ratio] - expected[ratio]["top1_accuracy"]) < 1e-3
        low, high = report["loss_interval"][ratio]
        assert low < loss < high
    assert "reference" not in report


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (0.0001, Options("fp16")),
        (0.002, Options("int8")),
        (0.002, Options("int8", "dynamic")),
        *((0.02, Options("int4", group_size=size)) for size in (0, 32, 64, 128, 256)),
    ],
    ids=lambda value: label(value) if isinstance(value, Options) else str(value),
)
def test_quantization_costs_the_bundled_model_little(limit: float, options: Options, tiny: Path) -> None:
    report = run_json("evaluate", tiny, "--data", tiny / "eval.safetensors", *options.arguments())
    for ratio in ("15", "50", "90"):
        increase = report["loss_increase"][ratio]
        assert abs(increase - (report["loss"][ratio] - report["reference_loss"][ratio])) < 1e-9
        assert abs(increase) < limit
        assert 0 < report["kl_divergence"][ratio] < limit
        assert report["agreement"][ratio] > 0.9
        assert 0 <= report["commit_flip_rate"][ratio] < 0.1
    assert report["layers"][-1]["layer"] == "lm_head"
    assert all(layer["signal_to_noise_db"] > 15 for layer in report["layers"])


def test_evaluation_is_the_same_for_any_number_of_threads(tiny: Path, few: Path) -> None:
    arguments = ("evaluate", tiny, "--data", few, "--dtype", "int4")
    reports = [run_json(*arguments, "--threads", threads) for threads in (1, 2, 3)]
    for report in reports:
        del report["seconds"], report["peak_rss_bytes"]
    assert reports[0] == reports[1] == reports[2]


def test_a_quantized_checkpoint_is_evaluated_against_its_origin(tiny: Path, few: Path, tmp_path: Path) -> None:
    run_json("quantize", tiny, "-o", tmp_path / "int4", "--dtype", "int4")
    data = ("--data", few)
    stored = run_json("evaluate", tmp_path / "int4", *data, "--against", tiny)
    direct = run_json("evaluate", tiny, *data, "--dtype", "int4")
    for key in ("loss", "reference_loss", "loss_increase", "kl_divergence", "agreement"):
        assert stored[key] == direct[key]


def test_evaluation_data_must_fit(tiny: Path, tmp_path: Path) -> None:
    good = load_file(tiny / "eval.safetensors")
    file = tmp_path / "data.safetensors"

    def refuse(tensors: dict[str, Tensor], *words: str) -> None:
        save_file(tensors, file)
        assert_fails(run("evaluate", tiny, "--data", file), BAD_FILE, *words)

    inputs, targets = good["input_ids_15"], good["target_ids_15"]
    refuse({"a": inputs}, "data.safetensors", "input_ids_R")
    refuse({"input_ids_15": inputs}, "target_ids_15")
    refuse({"input_ids_15": inputs, "target_ids_15": targets[:1]}, "target_ids_15", "shape")
    refuse({"input_ids_15": inputs.float(), "target_ids_15": targets}, "input_ids_15", "int64")
    refuse({"input_ids_15": inputs + 1024, "target_ids_15": targets}, "input_ids_15", "vocabulary")
    refuse({"input_ids_15": inputs, "target_ids_15": targets - 1}, "target_ids_15", "vocabulary")
    refuse({"input_ids_15": inputs, "target_ids_15": torch.full_like(targets, -100)}, "target_ids_15", "no target")
    file.write_bytes(b"")
    assert_fails(run("evaluate", tiny, "--data", file), BAD_FILE, "data.safetensors")
    assert_fails(run("evaluate", tiny, "--data", tmp_path / "none.safetensors"), BAD_FILE, "none.safetensors")
    assert_fails(run("evaluate", tiny, "--data", tmp_path / "none"), USAGE_ERROR, ".safetensors")
