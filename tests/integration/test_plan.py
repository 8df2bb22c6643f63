"""Mixed-precision plans: made, edited, exported and evaluated through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES
from program import Program, random_ids
from test_calibration import mask_option
from test_formats import relative_error
from test_runtime import forward

RATIOS: Final = ("15", "50", "90")
SETTLED: Final = ("--embedding-dtype", "fp16", "--head-dtype", "fp16")


@pytest.fixture(scope="session")
def measured(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of the bundled model, whose measurements other plans use again."""
    plan = tmp_path_factory.mktemp("plans") / "measured.json"
    run_json("plan", tiny, "-o", plan, "--calibration", tiny / "calibration.txt", "--target-size", "2MB")
    return plan


@pytest.fixture(scope="session")
def ids_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids for the small random models: 6 sequences of 30."""
    path = tmp_path_factory.mktemp("plan") / "ids.npy"
    np.save(path, random_ids(6 * 30, 1000).reshape(6, 30).numpy())
    return path


def read(plan: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(plan.read_text())
    return document


def edit(plan: Path, target: Path, **changes: Any) -> Path:
    target.write_text(json.dumps(read(plan) | changes))
    return target


@pytest.mark.parametrize("target", ["1.55MB", "1.9 MiB", "2500000", "5MB"])
def test_target_size_is_hit_and_kept(target: str, tiny: Path, measured: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    report = run_json("plan", tiny, "-o", plan, "--sensitivity", measured, "--target-size", target)
    wanted = report["target_size_bytes"]
    assert 0.99 * wanted <= report["file_bytes"] <= wanted
    exported = export(tiny, tmp_path / "x.pte", "--plan", plan)
    size = (tmp_path / "x.pte").stat().st_size
    assert size == exported["file_bytes"] == report["file_bytes"]
    assert report["kl_divergence_bound"] <= report["kl_divergence"]
    chosen = {layer["layer"]: layer["dtype"] for layer in exported["layers"]}
    for layer, name in read(plan)["layers"].items():
        assert chosen[layer] == name.split("_")[0]


def test_plan_loses_no_more_than_a_uniform_format_of_its_size(
    tiny: Path, few: Path, measured: Path, tmp_path: Path
) -> None:
    """Embedding and head settled as the uniform export has them: only the linear layers make the difference."""
    data = ("--data", few)
    calibration = ("--calibration", tiny / "calibration.txt")
    sensitivity = tmp_path / "settled.json"
    run_json("plan", tiny, "-o", sensitivity, *calibration, *SETTLED, "--target-size", "4MB")
    for group in (32, 64, 128):
        uniform = ("--dtype", "int4", "--group-size", group, *SETTLED)
        size = export(tiny, tmp_path / "uniform.pte", *uniform)["file_bytes"]
        plan = tmp_path / f"{group}.json"
        report = run_json("plan", tiny, "-o", plan, "--sensitivity", sensitivity, "--target-size", size)
        assert 0.99 * size <= report["file_bytes"] <= size
        planned = run_json("evaluate", tiny, *data, "--plan", plan)
        compared = run_json("evaluate", tiny, *data, *uniform)
        assert planned["dtype"] == "mixed"
        # Its weights are tame and the data is other text: a plan can be as good as a uniform format here, not more.
        loss, uniform_loss = (sum(report["kl_divergence"][ratio] for ratio in RATIOS) for report in (planned, compared))
        assert loss < 1.03 * uniform_loss, group


def test_measured_effect_is_near_the_sum_of_the_layers(tiny: Path, measured: Path) -> None:
    document = read(measured)
    assert 0.5 < document["measured_kl_divergence"] / document["kl_divergence"] < 2.0


@pytest.mark.parametrize("largest", [0.0005, 0.004])
def test_largest_loss_is_kept(largest: float, tiny: Path, measured: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    options = ("--calibration", tiny / "calibration.txt", "--sensitivity", measured, "--max-loss", largest)
    report = run_json("plan", tiny, "-o", plan, *options)
    assert 0.5 * largest < report["measured_kl_divergence"] <= largest
    smaller = [entry for entry in report["uniform"] if entry["file_bytes"] < report["file_bytes"]]
    assert all(entry["kl_divergence"] > largest for entry in smaller)
    assert any(entry["file_bytes"] > report["file_bytes"] for entry in report["uniform"])


def test_plan_is_a_file_that_a_person_edits(tiny: Path, measured: Path, tmp_path: Path) -> None:
    edited = edit(measured, tmp_path / "edited.json", layers={"layers.0.q_proj": "fp32"}, default="int8")
    report = export(tiny, tmp_path / "x.pte", "--plan", edited)
    formats = {layer["layer"]: layer["dtype"] for layer in report["layers"] if "norm" not in layer["layer"]}
    assert formats.pop("layers.0.q_proj") == "fp32"
    assert set(formats.values()) == {"int8"}


def test_restricted_formats_are_kept(tiny: Path, measured: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    options = ("--sensitivity", measured, "--formats", "fp16,int8", "--target-size", "3.5MB")
    report = run_json("plan", tiny, "-o", plan, *options)
    assert set(read(plan)["layers"].values()) == {"fp16", "int8"}
    assert [entry["format"] for entry in report["uniform"]] == ["fp16", "int8"]


def test_same_data_gives_the_same_plan(tiny: Path, tmp_path: Path) -> None:
    options = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 2, "--target-size", "2MB")
    for threads in (1, 2):
        run_json("plan", tiny, "-o", tmp_path / f"{threads}.json", *options, "--threads", threads)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("mode", ["weight_only", "dynamic", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_planned_program_computes_what_the_runtime_simulates(
    family: str, mode: str, checkpoint: MakeCheckpoint, ids_file: Path, tmp_path: Path
) -> None:
    model = checkpoint(family)
    plan = tmp_path / "plan.json"
    calibration = ("--calibration", ids_file, *mask_option(family))
    fp16 = export(model, tmp_path / "fp16.pte", "--dtype", "fp16", *SETTLED)["file_bytes"]
    report = run_json("plan", model, "-o", plan, *calibration, "--mode", mode, "--target-size", int(0.45 * fp16))
    assert len({entry["format"] for entry in report["formats"]}) > 1
    needed = calibration if mode == "static" else ()
    quantized = tmp_path / "quantized"
    run_json("quantize", model, "-o", quantized, "--plan", plan, *needed)
    export(quantized, tmp_path / "x.pte")
    ids = random_ids(24, 1000)
    logits = Program(tmp_path / "x.pte").logits(ids)
    (expected,) = forward(quantized, [ids.tolist()])
    # 8-bit results move by whole steps where a value half-way between two rounds the other way.
    assert relative_error(logits, expected) < (0.1 if mode == "static" else 2e-2)
    assert torch.isfinite(logits).all()


def test_evaluate_compares_two_plans(tiny: Path, few: Path, measured: Path, tmp_path: Path) -> None:
    data = ("--data", few)
    same = run_json("evaluate", tiny, *data, "--plan", measured, "--against", measured)
    assert same["kl_divergence"]["50"] == 0.0
    better = edit(measured, tmp_path / "int8.json", layers={}, default="int8")
    against = run_json("evaluate", tiny, *data, "--plan", measured, "--against", better)
    assert against["reference"].endswith("int8.json")
    assert against["kl_divergence"]["50"] > 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target-size", "2MB", "--max-loss", "0.1"), ("--target-size", "--max-loss")),
        ((), ("--target-size", "--max-loss")),
        (("--target-size", "lots"), ("--target-size", "lots")),
        (("--target-size", "-3MB"), ("--target-size", "-3MB")),
        (("--target-size", "10kB"), ("target size", "10000", "too few")),
        (("--max-loss", "-1"), ("--max-loss",)),
        (("--max-loss", "0.001", "--formats", "int4_channel"), ("largest loss",)),
        (("--target-size", "2MB", "--formats", "int5"), ("int5",)),
        (("--target-size", "2MB", "--dtype", "int8"), ("--dtype",)),
        (("--target-size", "2MB", "--head-dtype", "int8"), ("--head-dtype", "--sensitivity")),
        (("--target-size", "2MB", "--exclude", "q_proj"), ("--exclude", "--sensitivity")),
        (("--target-size", "2MB", "--mode", "static"), ("static", "--calibration")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_options_are_named(
    options: tuple[str, ...], words: tuple[str, ...], tiny: Path, measured: Path, tmp_path: Path
) -> None:
    result = run("plan", tiny, "-o", tmp_path / "plan.json", "--sensitivity", measured, *options)
    assert_fails(result, USAGE_ERROR, *words)
    assert not list(tmp_path.iterdir())


def test_plan_needs_data(tiny: Path, tmp_path: Path) -> None:
    assert_fails(run("plan", tiny, "-o", tmp_path / "p", "--target-size", "2MB"), USAGE_ERROR, "--calibration")


@pytest.mark.parametrize(
    "option", [("--dtype", "int8"), ("--mode", "dynamic"), ("--group-size", 64), ("--exclude", "q")]
)
def test_what_a_plan_decides_is_not_asked_for_beside_it(
    option: tuple[object, ...], tiny: Path, measured: Path, tmp_path: Path
) -> None:
    result = run("export", tiny, "-o", tmp_path / "x.pte", "--plan", measured, *option)
    assert_fails(result, USAGE_ERROR, str(option[0]), "measured.json")


def test_broken_plans_are_bad_files(tiny: Path, measured: Path, tmp_path: Path) -> None:
    def expect_bad(plan: Path, *words: str) -> None:
        assert_fails(run("export", tiny, "-o", tmp_path / "x.pte", "--plan", plan), BAD_FILE, *words)
        assert not (tmp_path / "x.pte").exists()

    expect_bad(tmp_path / "none.json", "none.json")
    (tmp_path / "text.json").write_text("layers: {}")
    expect_bad(tmp_path / "text.json", "text.json")
    layers = read(measured)["layers"]
    expect_bad(edit(measured, tmp_path / "a.json", layers=layers | {"layers.9.q_proj": "int8"}), "layers.9.q_proj")
    expect_bad(edit(measured, tmp_path / "b.json", layers=layers | {"layers.1.q_proj": "int3"}), "int3", "int4_g32")
    expect_bad(edit(measured, tmp_path / "c.json", version=7), "version 7")
    expect_bad(tiny / "config.json", "config.json", "not a mixed-precision plan")


def test_plan_of_a_quantized_checkpoint_stays_as_it_is(tiny: Path, measured: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "q"
    run_json("quantize", tiny, "-o", quantized, "--plan", measured)
    report = export(quantized, tmp_path / "a.pte")
    export(tiny, tmp_path / "b.pte", "--plan", measured)
    assert report["dtype"] == "mixed"
    assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()
    result = run("export", quantized, "-o", tmp_path / "c.pte", "--head-dtype", "int8")
    assert_fails(result, USAGE_ERROR, "--head-dtype", "plan")
    result = run("plan", quantized, "-o", tmp_path / "p.json", "--sensitivity", measured, "--target-size", "2MB")
    assert_fails(result, USAGE_ERROR, "quantized already")
