"""Options that do not go together: refused before calibration, and by a dry run as by a real one."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from command import BAD_FILE, OUTPUT_ERROR, UNSUPPORTED, USAGE_ERROR, assert_fails, run
from conftest import MakeCheckpoint

Choice = dict[str, str | None]

COMMON: Final[dict[str, tuple[str | None, ...]]] = {
    "dtype": ("int4", "int8", "fp16", "fp32"),
    "mode": ("weight_only", "dynamic", "static"),
    "method": (None, "rtn", "mse", "hqq", "gptq", "awq", "auto"),
    "group-size": (None, "0", "32", "256", "5"),
    "embedding-dtype": (None, "fp16", "int8", "int4"),
    "head-dtype": (None, "fp16", "int8", "int4"),
    "strict-group-size": (None, ""),
    "calibration": ("DATA", None, "MISSING"),
    "percentile": (None, "30"),
    "mask-weight": (None, "0"),
}
EXPORT: Final = COMMON | {
    "activation-dtype": (None, "fp32", "fp16", "int8", "int16"),
    "seq-len": (None, "16", "8,16", "8..16"),
    "container": (None, "pte"),
}
COREML: Final = EXPORT | {
    "palette": (None, ""),
    "palette-group": (None, "8", "7"),
    "minimum-deployment-target": (None, "iOS16", "iOS17"),
    "chunk-size": (None, "1MB", "100"),
    "chunks": (None, "packages"),
}
QNN: Final = EXPORT | {"embedding-on": (None, "host"), "shards": (None, "2")}
BACKENDS: Final = {"xnnpack": EXPORT, "coreml": COREML, "qnn": QNN}


def pairs_of(choice: Choice) -> set[tuple[tuple[str, str | None], tuple[str, str | None]]]:
    return set(itertools.combinations(choice.items(), 2))


def covering(options: dict[str, tuple[str | None, ...]]) -> Iterator[Choice]:
    """Choices in which every two values of two options meet: greedy, and the same in every run.

    What is refused at once hides what comes after it, so that most values of an option that refuse everything are rare.
    """
    generator = random.Random(1)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(options, 2) for x in options[a] for y in options[b]}
    while missing:
        tried = []
        for _ in range(30):
            choice = {name: generator.choice(values) for name, values in options.items()}
            (a, x), (b, y) = min(missing, key=str)
            tried.append(choice | {a: x, b: y})
        best = max(tried, key=lambda choice: len(pairs_of(choice) & missing))
        missing -= pairs_of(best)
        yield best
    for name, values in options.items():  # and each value by itself, nothing else in its way
        for value in values:
            yield {other: all_values[0] for other, all_values in options.items()} | {name: value}


def words_of(choice: Choice, data: Path) -> list[str]:
    words = []
    for name, value in choice.items():
        if value is not None:
            given = {"DATA": str(data), "MISSING": str(data.parent / "missing.npy")}.get(value, value)
            words += [f"--{name}"] if given == "" else [f"--{name}", given]
    return words


@pytest.fixture(scope="module")
def model(checkpoint: MakeCheckpoint) -> Path:
    """A layer whose inputs no group of 256 divides, with a tied head."""
    return checkpoint("llama", vocab_size=64, num_hidden_layers=1, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, 64, size=(2, 12)))
    return path


def refusal(result: subprocess.CompletedProcess[str]) -> str | None:
    """The sentence of a refusal, which nothing came before: no progress of calibration, rounding or measuring."""
    if result.returncode == 0:
        return None
    assert result.returncode in (USAGE_ERROR, BAD_FILE, UNSUPPORTED), result.stderr
    assert_fails(result, result.returncode)
    assert result.stdout == ""
    return f"{result.returncode}: {result.stderr}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dry_run_refuses_what_the_real_one_does(backend: str, model: Path, data: Path, tmp_path: Path) -> None:
    refused = written = 0
    for choice in covering(BACKENDS[backend]):
        is_file = backend == "xnnpack" or (backend == "coreml" and choice["container"] == "pte")
        folder = "m" if backend == "qnn" or choice.get("chunks") else "m.mlpackage"
        target = tmp_path / "out" / ("m.pte" if is_file else folder)
        target.parent.mkdir()
        words = ("export", model, "-o", target, "--backend", backend, *words_of(choice, data))
        dry, real = refusal(run(*words, "--dry-run")), refusal(run(*words))
        if dry is None and real is not None:
            # The one thing that a prediction of the size does without.
            assert choice["calibration"] is None, (words, real)
            assert "needs calibration data" in real, (words, real)
            assert "method" in real
        else:
            assert dry == real, words
        assert real is None or not list(target.parent.iterdir()), words
        refused, written = refused + (real is not None), written + (real is None)
        shutil.rmtree(target.parent)
    assert refused >= 10
    assert written >= 5


def test_quantize_and_evaluate_refuse_before_they_calibrate(model: Path, data: Path, tmp_path: Path) -> None:
    for choice in covering(COMMON):
        words = words_of(choice, data)
        refusal(run("quantize", model, "-o", tmp_path / "q", *words))
        shutil.rmtree(tmp_path / "q", ignore_errors=True)
    for choice in itertools.islice(covering(COMMON), 0, None, 3):
        refusal(run("evaluate", model, "--data", data, "--length", 12, *words_of(choice, data)))


@pytest.mark.parametrize("method", ["gptq", "awq", "auto", "mse"])
def test_palettes_beside_a_method_are_refused_at_once(method: str, tiny: Path, tmp_path: Path) -> None:
    """They rounded the whole model first."""
    words = ("--backend", "coreml", "--dtype", "int4", "--palette", "--method", method)
    calibration = ("--calibration", tiny / "calibration.txt")
    for more in ((), ("--dry-run",)):
        result = run("export", tiny, "-o", tmp_path / "m.mlpackage", *words, *calibration, *more)
        assert_fails(result, USAGE_ERROR, "palette", f"not by method {method}")
    assert not list(tmp_path.iterdir())


def test_what_needs_no_calibration_is_refused_before_it(tiny: Path, tmp_path: Path) -> None:
    calibration = ("--calibration", tiny / "calibration.txt")
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "foreign.mlpackage").mkdir()
    (tmp_path / "foreign.mlpackage/file").touch()
    static = ("--dtype", "int8", "--mode", "static", *calibration)
    gptq = ("--dtype", "int4", "--method", "gptq", *calibration)
    plan = ("plan", tiny, "-o", tmp_path / "p.json", *calibration)
    evaluate = ("evaluate", tiny, "--data", tiny / "eval.safetensors")
    coreml = ("export", tiny, "--backend", "coreml")
    qnn = ("export", tiny, "--backend", "qnn")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((*evaluate, *static, "--against", tmp_path / "plan.json"), BAD_FILE, "plan.json"),
        ((*evaluate, *gptq, "--against", tmp_path / "missing"), BAD_FILE, "missing"),
        ((*evaluate, *gptq, "--mode", "static"), UNSUPPORTED, "no kernel for INT4 weights in groups"),
        (("quantize", tiny, "-o", tmp_path / "full", *static), OUTPUT_ERROR, "full"),
        (("quantize", tiny, "-o", tmp_path / "absent/q", *static), OUTPUT_ERROR, "absent/q: can't create"),
        (("export", tiny, "-o", tmp_path / "full", *static), OUTPUT_ERROR, "full: is a folder"),
        (("export", tiny, "-o", tmp_path / "absent/m.pte", *gptq), OUTPUT_ERROR, "absent/m.pte: can't create"),
        ((*qnn, "-o", tmp_path / "full", *static), OUTPUT_ERROR, "full: exists and is not an empty folder"),
        ((*coreml, "-o", tmp_path / "foreign.mlpackage", *static), OUTPUT_ERROR, "exists and is not an empty folder"),
        ((*coreml, "-o", tmp_path / "full", "--container", "pte", *static), OUTPUT_ERROR, "full: is a folder"),
        (
            (*coreml, "-o", tmp_path / "full", "--chunk-size", "1MB", "--chunks", "packages", *static),
            OUTPUT_ERROR,
            "full: exists and is not an empty folder",
        ),
        ((*plan, "--target-size", "1kB"), USAGE_ERROR, "smallest"),
        ((*plan, "--target-size", "2MB", "--backend", "other"), UNSUPPORTED, "other"),
        ((*plan, "--target-size", "2MB", "--method", "gptq"), USAGE_ERROR, "gptq"),
        ((*plan, "--target-size", "2MB", "--mode", "static", "--formats", "int4_g32"), USAGE_ERROR, "none of the"),
        ((*plan, "--max-loss", "0.1", "--formats", "int5"), USAGE_ERROR, "int5"),
    ]
    for words, code, said in cases:
        result = run(*words)
        assert result.returncode == code, (words, result.stderr)
        assert result.stderr.count("\n") == 1, (words, result.stderr)
        assert said in result.stderr, (words, result.stderr)
    assert not json.loads((tmp_path / "plan.json").read_text())
