"""bench: what it prints of the passes it was asked for. How fast they are is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import USAGE_ERROR, assert_fails, run, run_json


def test_every_pass_is_timed(tiny: Path) -> None:
    report = run_json(
        "bench", tiny, "--dtype", "int8", "--mode", "dynamic", "--tokens", "4,1", "--contexts", "0,32",
        "--passes-per-block", "1,4", "--repetitions", 2, "--threads", 1, "--cache-dtype", "fp16",
    )  # fmt: skip
    assert [(row["context"], row["tokens"]) for row in report["passes"]] == [(0, 1), (0, 4), (32, 1), (32, 4)]
    assert [row["tokens"] for row in report["prefill"]] == [32]
    assert (report["dtype"], report["threads"], report["rows"], report["cache_dtype"]) == ("int8", 1, "all", "fp16")
    assert report["cache_bytes"] == 4 * 2 * 2 * 64 * 36 * 2  # layers, keys and values, heads, dim, tokens, bytes
    for row in report["passes"]:
        low, high = row["milliseconds_range"]
        assert 0 < low <= row["milliseconds"] <= high
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes"] / row["milliseconds"] / 1e6)
        for speed in row["decoding"]:
            seconds = row["milliseconds"] * speed["passes_per_block"] / 1e3
            assert speed["tokens_per_second"] == pytest.approx(row["tokens"] / seconds)


def test_table_names_the_machine_and_each_pass(tiny: Path) -> None:
    result = run("bench", tiny, "--tokens", "1,2", "--contexts", 0, "--repetitions", 1, "--rows", "last", "--quiet")
    assert result.returncode == 0
    assert "logits of the last token" in result.stdout
    assert "ms a pass" in result.stdout
    assert len(result.stdout.splitlines()) == 8


def test_what_the_model_cannot_take_is_refused_in_a_sentence(tiny: Path) -> None:
    assert_fails(
        run("bench", tiny, "--contexts", 250, "--tokens", 8), USAGE_ERROR, "a context of 250 and a pass of 8", "256"
    )
    assert_fails(run("bench", tiny, "--tokens", 0), USAGE_ERROR, "0 is less than 1")
    assert_fails(run("bench", tiny, "--contexts", -1), USAGE_ERROR, "-1 is less than 0")
    assert_fails(run("bench", tiny, "--cache-dtype", "int2"), USAGE_ERROR, "int2")
