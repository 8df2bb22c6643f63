"""Packed weights and integer kernels: the logits and losses of the simulation, for every format and family."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from command import USAGE_ERROR, assert_fails, run, run_json
from conftest import MakeCheckpoint
from families import FAMILIES
from program import random_ids
from quantization import Options
from test_formats import FORMATS, label, relative_error, wide_sizes
from test_runtime import LENGTHS, config_of, forward


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [options for options in FORMATS if options.activations == "fp32"], ids=label)
def test_fast_logits_are_the_simulated_ones(family: str, options: Options, checkpoint: MakeCheckpoint) -> None:
    model = checkpoint(family, **(wide_sizes(family) if options.group_size > 32 else {}))
    sequences = [random_ids(length, 1001).flatten().tolist() for length in LENGTHS]
    config = config_of(options)
    simulated = forward(model, sequences, **config)
    fast = forward(model, sequences, **config, arithmetic="fast")
    errors = [relative_error(a, b) for a, b in zip(fast, simulated, strict=True)]
    if options.mode == "dynamic":
        # Scales of channels are rounded at another place, and a value half-way between two steps of 8 bits may then
        # round either way and move every token that sees it. Scales of groups are rounded nowhere.
        assert min(errors) < 1e-5, errors
        assert max(errors) < 2e-2, errors
    else:
        assert max(errors) < 1e-5, errors


def rounded_apart(report: dict[str, Any], ratio: str) -> float:
    """How far two losses may differ whose activations round differently: what is known of any two arithmetics.

    A value half-way between two steps goes either way, and later layers then see other values, so that in the worst
    case the two errors of quantization are independent. A small error of the logits with divergence K changes a token's
    loss by sqrt(2 K) (one standard deviation) around K; two independent ones have 2 K. The mean of n tokens has
    1 / sqrt(n) of that, and four standard deviations hold for all but one in ten thousand.
    """
    divergence = 2 * report["kl_divergence"][ratio]
    return 4 * math.sqrt(2 * divergence / report["tokens"][ratio]) + divergence


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options("fp16"),
        Options("int8"),
        Options("int8", "dynamic", embedding="int8", head="int8"),
        Options("int4"),
        Options("int4", group_size=0, embedding="int4", head="int4"),
    ],
    ids=label,
)
def test_fast_evaluation_has_the_losses_of_the_simulation(options: Options, tiny: Path, few: Path) -> None:
    arguments = ("evaluate", tiny, "--data", few, *options.arguments())
    simulated = run_json(*arguments)
    fast = run_json(*arguments, "--arithmetic", "fast")
    assert (simulated["arithmetic"], fast["arithmetic"]) == ("simulated", "fast")
    for ratio, loss in simulated["loss"].items():
        assert abs(fast["loss"][ratio] - loss) < (
            rounded_apart(simulated, ratio) if options.mode == "dynamic" else 2e-4
        )


def test_fast_evaluation_of_static_activations_has_the_losses_of_the_simulation(tiny: Path, few: Path) -> None:
    arguments = ("evaluate", tiny, "--data", few, "--dtype", "int8", "--mode", "static")
    arguments += ("--calibration", tiny / "calibration.txt")
    simulated = run_json(*arguments)
    fast = run_json(*arguments, "--arithmetic", "fast")
    for ratio, loss in simulated["loss"].items():
        assert abs(fast["loss"][ratio] - loss) < 1e-3


@pytest.mark.parametrize("options", [Options("int8"), Options("int4")], ids=label)
def test_fast_evaluation_measures_weights_alone(options: Options, tiny: Path, few: Path) -> None:
    arguments = ("evaluate", tiny, "--data", few, *options.arguments(), "--float-activations")
    simulated = run_json(*arguments)
    fast = run_json(*arguments, "--arithmetic", "fast")
    for ratio, loss in simulated["loss"].items():
        assert abs(fast["loss"][ratio] - loss) < 1e-5


def test_fast_evaluation_is_the_same_for_any_number_of_threads(tiny: Path, few: Path) -> None:
    arguments = ("evaluate", tiny, "--data", few, "--dtype", "int4", "--arithmetic", "fast")
    reports = [run_json(*arguments, "--threads", threads) for threads in (1, 3)]
    for report in reports:
        del report["seconds"], report["peak_rss_bytes"]
    assert reports[0] == reports[1]


def test_an_unknown_arithmetic_is_an_error(tiny: Path, few: Path) -> None:
    result = run("evaluate", tiny, "--data", few, "--arithmetic", "slow")
    assert_fails(result, USAGE_ERROR, "arithmetic", "slow", "simulated, fast")
