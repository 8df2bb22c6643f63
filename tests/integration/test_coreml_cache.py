"""Core ML packages that keep keys and values (export --cache), as states and as inputs and outputs.

The interpreter executes them in the framework's place; CoreMLLanguageModel fills steps up and keeps the caller's
caches, as it does on a Mac.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json, tiny_sdar
from command import export as export_file
from conftest import MakeCheckpoint
from coreml_cases import FORMATS, export, load
from coreml_steps import in_steps, open_engine, open_model, step
from families import FAMILIES, Reference, compare
from program import random_ids
from test_artefact_text import mask_of, prompts, with_peaks

from diffulex_edge import DiffusionEngine, VerificationError
from diffulex_edge._coreml import CoreMLLanguageModel

CAPACITY: Final = 128
LENGTH: Final = 100
VOCAB: Final = 1001
BIDIRECTIONAL: Final = ("llada", "dream")
BLOCK_CAUSAL: Final = tuple(family for family in FAMILIES if family not in BIDIRECTIONAL)
STATE: Final = ("--cache", CAPACITY, "--activation-dtype", "fp32")
INPUTS: Final = (*STATE, "--cache-storage", "inputs")
OLD_INPUTS: Final = (*STATE, "--minimum-deployment-target", "iOS16")
STORAGES: Final[dict[str, tuple[object, ...]]] = {"state": STATE, "inputs": INPUTS, "inputs, iOS16": OLD_INPUTS}
# Whole steps, such as are filled up, and several blocks of every family's mask in one.
PIECES: Final = (64, 32, 4)


def tolerances(storage: str) -> dict[str, float]:
    return {"rtol": 2e-4, "atol": 2e-4} if storage != "state" else {"rtol": 0.05, "atol": 0.05}  # float16 in states


@pytest.mark.parametrize("family", BLOCK_CAUSAL)
@pytest.mark.parametrize("storage", STORAGES)
def test_steps_give_the_logits_of_the_whole(
    family: str, storage: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family)
    sizes = ("--block-tokens", "32,64")
    report = export(model, tmp_path / "m.mlpackage", *STORAGES[storage], *sizes)
    assert (report["seq_len"], report["cache"]["tokens"]) == (64, CAPACITY)
    assert report["cache"]["dtype"] == ("fp16" if storage == "state" else "fp32")
    ids = random_ids(LENGTH, VOCAB)
    expected = Reference(model).logits(ids[None])[0]
    steps = open_model(tmp_path / "m.mlpackage")
    for _ in range(2):  # a second text in the same memory
        found = in_steps(steps, ids, PIECES)
        torch.testing.assert_close(found, expected, **tolerances(storage))
        assert compare(found, expected)["cosine"] > 0.99999


@pytest.mark.parametrize("family", BIDIRECTIONAL)
@pytest.mark.parametrize("storage", STORAGES)
def test_bidirectional_steps_see_what_lies_before_and_behind(
    family: str, storage: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """A step over tokens that have not changed gives what the step over all gave them, and leaves the others' rows."""
    model = checkpoint(family)
    export(model, tmp_path / "m.mlpackage", *STORAGES[storage], "--block-tokens", "8,32,128")
    ids = random_ids(LENGTH, VOCAB)
    expected = Reference(model).logits(ids[None])[0]
    steps = open_model(tmp_path / "m.mlpackage")
    torch.testing.assert_close(step(steps, ids, 0, LENGTH), expected, **tolerances(storage))
    # The prefix cache's step and the dual cache's; those of 3 and 20 tokens are filled up over others' rows.
    for begin, end in ((32, LENGTH), (40, 43), (32, 52), (0, 20), (99, 100), (0, LENGTH)):
        found = step(steps, ids[begin:end], begin, LENGTH)
        torch.testing.assert_close(found, expected[begin:end], **tolerances(storage))
    changed = ids.clone()
    changed[40] = (ids[40] + 1) % VOCAB  # is seen from everywhere, also through the cache
    again = step(steps, changed[40:41], 40, LENGTH)
    assert (again - expected[40:41]).abs().max() > 1e-3
    first = step(steps, ids[:8], 0, LENGTH)
    assert (first - expected[:8]).abs().max() > 1e-3
    # Without what lies behind the step: the logits of a shorter text.
    torch.testing.assert_close(
        step(steps, ids[:40], 0, 40), Reference(model).logits(ids[None, :40])[0], **tolerances(storage)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("storage", ["state", "inputs, iOS16"])
def test_tokens_are_those_of_the_engine(family: str, storage: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = with_peaks(checkpoint, family)
    is_bidirectional = family in BIDIRECTIONAL
    export(model, tmp_path / "m.mlpackage", *STORAGES[storage], *mask_of(family))
    artefact = open_engine(tmp_path / "m.mlpackage", model)
    engine = DiffusionEngine.from_model(model, mask_token_id=5)
    options: dict[str, Any] = {"max_new_tokens": 24 if is_bidirectional else 40, "ignore_eos": True}
    dtype = "fp16" if storage == "state" else "fp32"
    for prompt in prompts()[:2]:
        for cache in ("prefix", "dual") if is_bidirectional else ("auto",):
            expected = engine.generate(prompt, cache=cache, cache_dtype=dtype, **options)
            found = artefact.generate(prompt, cache=cache, **options)
            assert found.tokens == expected.tokens
            assert found.forward_passes == expected.forward_passes


@pytest.mark.parametrize("family", ["llada", "sdar", "qwen2"])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "fp32"])
def test_every_format_in_half_precision(
    family: str, name: str, checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    """What a package of the same format without a cache computes of the whole."""
    case, model = FORMATS[name], checkpoint(family)
    own = calibration if case.stored.mode == "static" else ()
    words = (*case.arguments(target="iOS18"), *own)
    export_file(model, tmp_path / "steps.mlpackage", *words, "--cache", CAPACITY)
    export_file(model, tmp_path / "whole.mlpackage", *words, "--seq-len", LENGTH)
    ids = random_ids(LENGTH, VOCAB)
    pieces = (LENGTH,) if family == "llada" else PIECES
    found = in_steps(open_model(tmp_path / "steps.mlpackage"), ids, pieces)
    whole = load(tmp_path / "whole.mlpackage").logits(ids)
    assert compare(found, whole)["cosine"] > (0.999 if case.stored.mode == "static" else 0.9999)


def test_positions_beyond_those_that_float16_holds(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar", max_position_embeddings=4096, num_hidden_layers=1)
    export(model, tmp_path / "m.mlpackage", "--cache", 2600, "--dtype", "fp16", "--block-tokens", "4,512")
    ids = random_ids(2516, VOCAB)
    found = in_steps(open_model(tmp_path / "m.mlpackage"), ids, (512, 512, 512, 512, 464, 4))
    expected = Reference(model).logits(ids[None])[0]
    assert compare(found[-68:], expected[-68:])["cosine"] > 0.9995


def test_parts_keep_their_own_states(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar")
    parts = ("--chunk-size", "600000", "--chunks", "packages")
    export(model, tmp_path / "parts", *STATE, *parts)
    export(model, tmp_path / "m.mlpackage", *STATE)
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert len(manifest["parts"]) > 1
    ids = random_ids(LENGTH, VOCAB)
    whole = in_steps(open_model(tmp_path / "m.mlpackage"), ids, PIECES)
    torch.testing.assert_close(in_steps(open_model(tmp_path / "parts"), ids, PIECES), whole, rtol=1e-5, atol=1e-5)


def test_logits_of_the_last_token(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("qwen3")
    export(model, tmp_path / "m.mlpackage", *STATE, "--logits", "last", "--block-tokens", "1,32")
    last = open_model(tmp_path / "m.mlpackage")
    ids = random_ids(21, VOCAB)
    expected = Reference(model).logits(ids[None])[0]
    for begin, end in ((0, 20), (20, 21)):  # the first is filled up: its last token is not the step's
        found = last.step(ids[begin:end].long().numpy(), begin, end, torch.tensor([end - begin - 1]).numpy())
        torch.testing.assert_close(torch.from_numpy(found)[0], expected[end - 1], **tolerances("state"))
    with pytest.raises(VerificationError, match="without --logits last"):
        last.step(ids.long().numpy(), 0, 21, torch.tensor([0]).numpy())


def test_a_step_has_the_least_length_that_holds_it(tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "m.mlpackage", "--cache", 64)
    described = run_json("inspect", tmp_path / "m.mlpackage")
    inputs = described["models"][0]["inputs"]
    assert [one["name"] for one in inputs] == ["input_ids", "start_pos", "token_count"]
    assert len(described["models"][0]["states"]) == 2 * 6
    model = open_model(tmp_path / "m.mlpackage")
    for count in (1, 4, 5, 60):
        step(model, random_ids(count, VOCAB), 0, count)
    (part,) = model._parts
    assert part.runtime.lengths == [4, 4, 64, 64]
    with pytest.raises(VerificationError, match=r"up to 64 tokens .* not 4 from position 62"):
        step(model, random_ids(4, VOCAB), 62, 66)


def test_a_program_of_executorch_holds_the_same_package(tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "m.pte", "--cache", 64, "--container", "pte")
    described = run_json("inspect", tmp_path / "m.pte")
    assert "get_cache_kind" in json.dumps(described)
    states = json.dumps(described).count('"key_cache_')
    assert states >= 6


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--cache", 64, "--seq-len", 64), USAGE_ERROR, "--block-tokens"),
        (("--block-tokens", 4), USAGE_ERROR, "--cache TOKENS"),
        (("--logits", "last"), USAGE_ERROR, "--cache TOKENS"),
        (("--cache", 64, "--block-tokens", "4,x"), USAGE_ERROR, "'x' is not a number of tokens"),
        (("--cache", 64, "--block-tokens", "4,65"), USAGE_ERROR, "65 is not between"),
        (("--cache", 1000000), USAGE_ERROR, "longer than the model's context"),
        (("--cache", 64, "--cache-storage", "state", "--minimum-deployment-target", "iOS17"), UNSUPPORTED, "iOS18"),
        (("--cache", 64, "--chunk-size", "2MB"), UNSUPPORTED, "--chunks packages"),
        (("--cache", 64, "--cache-storage", "inputs", "--container", "pte"), UNSUPPORTED, "--cache-storage"),
    ],
)
def test_refusals(options: tuple[object, ...], code: int, words: str, tmp_path: Path) -> None:
    suffix = "pte" if "pte" in options else "mlpackage"
    target = tmp_path / f"m.{suffix}"
    assert_fails(run("export", tiny_sdar(), "-o", target, "--backend", "coreml", *options), code, words)
    assert not target.exists()


def test_packages_without_a_cache_write_no_text(tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "m.mlpackage")
    with pytest.raises(VerificationError, match="export it with --cache"):
        open_model(tmp_path / "m.mlpackage")
    export(tiny_sdar(), tmp_path / "c.mlpackage", "--cache", 64)
    with pytest.raises(VerificationError, match="only on a Mac"):
        CoreMLLanguageModel(tmp_path / "c.mlpackage")
