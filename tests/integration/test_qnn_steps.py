"""QNN folders with a cache (export --cache): the host keeps keys and values, and each execution computes one step.

In floating point ONNX Runtime executes them on the CPU, and the tokens are the engine's. In mode static Qualcomm's
emulator executes the context binaries, whose integers are compared with the CPU runtime, which simulates them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json, tiny_sdar
from conftest import MakeCheckpoint
from families import FAMILIES, Reference, compare
from program import random_ids
from qnn import QnnArtefact, export
from safetensors.torch import save_file
from simulation import simulated_logits
from test_artefact_text import mask_of, with_peaks

from diffulex_edge import DiffusionEngine, UnsupportedError, VerificationError, verify
from diffulex_edge._language_model import logits_in_steps
from diffulex_edge._qnn import QnnFolder
from diffulex_edge._qnn_steps import QnnLanguageModel
from diffulex_edge.quant import QuantizationConfig

CAPACITY: Final = 160
MASK: Final = 5
BIDIRECTIONAL: Final = ("llada", "dream")
COMPILER: Final = ("--soc", "SM8650", "--qnn-python", sys.executable)
OPTIONS: Final[dict[str, Any]] = {"ignore_eos": True}


def sizes_of(family: str) -> str:
    """Of a step: a block of Fast-dLLM v2 has 32 tokens, and a step of a bidirectional model may be the whole text."""
    return f"32,{CAPACITY}" if family in BIDIRECTIONAL else "4,32"


def export_steps(model: Path, target: Path, family: str, *options: object) -> QnnArtefact:
    cache = () if "--cache" in options else ("--cache", CAPACITY)
    sizes = () if "--block-tokens" in options else ("--block-tokens", sizes_of(family))
    export(model, target, *cache, *sizes, *mask_of(family), *options)
    return QnnArtefact(target)


def language_model(folder: Path) -> QnnLanguageModel:
    return QnnFolder(folder).load_language_model()


def share_of_equal(tokens: list[int], others: list[int]) -> float:
    assert len(tokens) == len(others)
    return sum(a == b for a, b in zip(tokens, others, strict=True)) / len(tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_tokens_are_those_of_the_engine(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = with_peaks(checkpoint, family)
    artefact = export_steps(model, tmp_path / "m", family)
    artefact.check()
    ids = random_ids(100, 1001)
    logits = logits_in_steps(language_model(tmp_path / "m"), ids.reshape(-1).numpy())
    expected = Reference(model).logits(ids)[0]
    assert compare(torch.from_numpy(logits), expected)["max_abs"] < 1e-3 * expected.abs().max().item()
    steps = DiffusionEngine.from_artefact(tmp_path / "m", model)
    assert (steps.family, steps.max_tokens) == (family, CAPACITY)
    engine = DiffusionEngine.from_model(model, mask_token_id=MASK)
    generator = torch.Generator().manual_seed(7)
    for length in (3, 40, 77):
        prompt = torch.randint(6, 1001, (length,), generator=generator).tolist()
        for cache in ("auto", "prefix", "dual") if family in BIDIRECTIONAL else ("auto",):
            options = OPTIONS | {"max_new_tokens": 64, "cache": cache}
            written = steps.generate(prompt, **options).tokens
            assert written == engine.generate(prompt, **options).tokens, (length, cache)


@pytest.mark.parametrize(
    ("options", "cosine"), [(("--dtype", "fp16"), 0.9999), (("--dtype", "int8"), 0.99), (("--dtype", "int4"), 0.9)]
)
def test_the_sizes_of_steps_change_nothing(
    options: tuple[str, ...], cosine: float, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Sizes that are filled up, steps that are computed again, and an end that is there twice."""
    artefact = export_steps(checkpoint("sdar"), tmp_path / "m", "sdar", "--block-tokens", "4,8,32", *options)
    model = language_model(tmp_path / "m")
    ids = random_ids(60, 1001).reshape(-1).numpy()
    logits = []
    for begin, end in ((0, 4), (4, 24), (24, 28), (28, 60)):
        for tokens in (ids[begin:end][::-1].copy(), ids[begin:end]):
            rows = model.step(tokens, begin, end, np.arange(end - begin))
        logits.append(rows)
    found = torch.from_numpy(np.concatenate(logits))
    expected = Reference(checkpoint("sdar")).logits(torch.from_numpy(ids)[None])[0]
    assert compare(found, expected)["cosine"] > cosine
    whole = logits_in_steps(language_model(tmp_path / "m"), ids)
    assert compare(found, torch.from_numpy(whole))["cosine"] > 0.9999
    halves = artefact.manifest["cache"]["dtype"] == "float16"
    assert halves == ("fp16" in options)


def test_all_sizes_read_the_same_weights(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    one = export_steps(checkpoint("llama"), tmp_path / "one", "llama", "--block-tokens", "32")
    two = export_steps(checkpoint("llama"), tmp_path / "two", "llama")
    assert [entry["file"] for entry in two.manifest["models"]] == ["model_b4.onnx", "model_b32.onnx"]
    assert two.manifest["data"] == one.manifest["data"]
    report = run_json("inspect", tmp_path / "two")
    weights = [tensor for tensor in report["tensors"] if tensor["file"] == "model.onnx.data"]
    assert sum(tensor["bytes"] for tensor in weights) <= two.manifest["data"]["bytes"]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_pieces_keep_their_own_layers(dtype: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = ("--dtype", dtype)
    export_steps(checkpoint("qwen3"), tmp_path / "whole", "qwen3", *options)
    export_steps(checkpoint("qwen3"), tmp_path / "m", "qwen3", *options, "--shards", 2, "--embedding-on", "host")
    ids = random_ids(50, 1001).reshape(-1).numpy()
    whole, pieces = (logits_in_steps(language_model(tmp_path / name), ids) for name in ("whole", "m"))
    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-4)


def test_verify_measures_in_steps(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar")
    ids = random_ids(3 * 50, 1001).reshape(3, 50)
    data = tmp_path / "data.safetensors"
    save_file({"input_ids_50": ids, "target_ids_50": ids.roll(1, 1).contiguous()}, data)
    export_steps(model, tmp_path / "steps", "sdar")
    export(model, tmp_path / "whole", "--seq-len", 50)
    figures = verify(tmp_path / "steps", data, against=tmp_path / "whole").sets["50"]
    assert figures.max_abs_error is not None
    assert figures.max_abs_error < 1e-4
    export_steps(model, tmp_path / "short", "sdar", "--cache", 40)
    with pytest.raises(VerificationError, match="export it with --cache 50"):
        verify(tmp_path / "short", data)
    export_steps(checkpoint("llada"), tmp_path / "short", "llada", "--block-tokens", "32")
    with pytest.raises(VerificationError, match="export it with --block-tokens 50"):
        verify(tmp_path / "short", data)


STATIC: Final = {
    "a16w8": ("--dtype", "int8"),
    "a16w8, cache in 8 bits": ("--dtype", "int8", "--cache-dtype", "int8"),
    "a16w4": ("--dtype", "int4"),
}


@pytest.mark.parametrize("name", STATIC)
def test_the_emulator_writes_what_the_simulation_does(
    name: str, checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path
) -> None:
    family = "llada" if "cache" in name else "sdar"
    model = with_peaks(checkpoint, family)
    options = (*STATIC[name][:2], "--mode", "static", "--head-dtype", "int8", *calibration[:2], "--mask-token-id", MASK)
    export(model, tmp_path / "m", "--cache", 64, "--block-tokens", "4,40", *options, *STATIC[name][2:], *COMPILER)
    cache = QnnArtefact(tmp_path / "m").manifest["cache"]
    assert cache["dtype"] == ("uint8" if "cache" in name else "uint16")
    ids = random_ids(40, 1001)
    logits = logits_in_steps(language_model(tmp_path / "m"), ids.reshape(-1).numpy())
    simulated = simulated_logits(model, ids, tmp_path, "--backend", "qnn", *options)
    assert compare(torch.from_numpy(logits), simulated)["cosine"] > 0.999
    steps = DiffusionEngine.from_artefact(tmp_path / "m", model, soc="sm8650")
    engine = DiffusionEngine.from_model(
        model, QuantizationConfig(dtype=STATIC[name][1], head_dtype="int8"), mask_token_id=MASK
    )
    prompt = random_ids(10, 1001).reshape(-1).tolist()
    decoding = OPTIONS | {"max_new_tokens": 20 if family == "llada" else 32}
    if family == "llada":
        decoding |= {"cache": "dual", "steps": 5}
    written, expected = (each.generate(prompt, **decoding).tokens for each in (steps, engine))
    share = share_of_equal(written, expected)
    print(f"{name}: {share:.2f} of the tokens are equal")
    assert share >= 0.9


def test_one_binary_for_all_sizes(checkpoint: MakeCheckpoint, calibration: tuple[object, ...], tmp_path: Path) -> None:
    model = checkpoint("sdar", hidden_size=256, intermediate_size=512)
    options = ("--dtype", "int8", "--mode", "static", "--head-dtype", "int8", *calibration[:2])
    sizes = {}
    for name, more in (("apart", ()), ("shared", ("--share-weights",))):
        artefact = export_steps(model, tmp_path / name, "sdar", *options, *COMPILER, *more)
        contexts = artefact.manifest["contexts"]
        assert [entry["source"] for entry in contexts] == ["model_b4.onnx", "model_b32.onnx"]
        assert len({entry["graph"] for entry in contexts}) == 2
        binaries = {entry["binary"]: entry["bytes"] for entry in contexts}
        assert len(binaries) == (1 if more else 2)
        sizes[name] = sum(binaries.values())
    assert sizes["shared"] < 0.75 * sizes["apart"]
    report = run_json("inspect", tmp_path / "shared")
    assert sum(file["path"].endswith(".bin") for file in report["files"]) == 1
    folder = QnnFolder(tmp_path / "shared")
    assert folder.check().binaries == 1
    placement = folder.placement()
    assert placement is not None
    assert placement.binary_bytes == sizes["shared"]
    with pytest.raises(VerificationError, match="without --share-weights"):
        DiffusionEngine.from_artefact(tmp_path / "shared", model)


def test_what_does_not_fit_is_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export_steps(checkpoint("sdar"), tmp_path / "m", "sdar", "--cache", 64)
    model = language_model(tmp_path / "m")
    for count, start in ((33, 0), (32, 40), (4, 64), (4, -4)):
        with pytest.raises(VerificationError, match="does not fit"):
            model.step(np.zeros(count, np.int64), start, start + count, np.arange(1))
    for token in (-1, 1001):
        with pytest.raises(VerificationError, match="0 to 1000"):
            model.step(np.array([token]), 0, 1, np.arange(1))
    engine = DiffusionEngine.from_artefact(tmp_path / "m", checkpoint("sdar"))
    with pytest.raises(ValueError, match="64"):
        engine.generate([1, 2, 3], max_new_tokens=64)
    with pytest.raises(VerificationError, match="SM8650"):
        DiffusionEngine.from_artefact(tmp_path / "m", soc="SM8650")


@pytest.mark.parametrize(
    ("key", "value"),
    [("cache", {}), ("language_model", {}), ("block_tokens", []), ("block_tokens", [4]), ("block_tokens", ["x"])],
)
def test_a_damaged_manifest_is_refused(key: str, value: object, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export_steps(checkpoint("sdar"), tmp_path / "m", "sdar")
    path = tmp_path / "m/manifest.json"
    manifest = json.loads(path.read_text())
    (manifest["cache"] if key == "block_tokens" else manifest)[key] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=r"manifest\.json"):
        DiffusionEngine.from_artefact(tmp_path / "m")


def test_the_block_cache_of_fast_dllm_v2_is_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export_steps(checkpoint("fast_dllm_v2"), tmp_path / "m", "fast_dllm_v2")
    engine = DiffusionEngine.from_artefact(tmp_path / "m", checkpoint("fast_dllm_v2"))
    with pytest.raises(UnsupportedError, match="use the exact cache"):
        engine.generate([1, 2, 3], cache="block", max_new_tokens=32)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "diffulex_edge", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_writes_text(tmp_path: Path) -> None:
    prompt = ("--prompt", "And the LORD said unto Moses,", "--max-new-tokens", 24)
    report = export(tiny_sdar(), tmp_path / "m", "--cache", 128)
    assert report["cache"] == {"tokens": 128, "dtype": "fp32", "bytes": 6 * 2 * 2 * 64 * 128 * 4}
    manifest = json.loads((tmp_path / "m/manifest.json").read_text())
    assert manifest["cache"]["block_tokens"] == [4, 64]
    assert manifest["language_model"]["get_mask_id"] == 1
    expected = run_json("generate", tiny_sdar(), *prompt)
    written = command("generate", tmp_path / "m", "--tokenizer", tiny_sdar(), *prompt)
    assert written.returncode == 0, written.stderr
    assert written.stdout == expected["text"] + "\n"
    export(tiny_sdar(), tmp_path / "whole", "--seq-len", 64)
    refused = command("generate", tmp_path / "whole", "--tokenizer", tiny_sdar(), *prompt)
    assert refused.returncode == BAD_FILE
    assert "export it with --cache TOKENS" in refused.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--cache", 257), USAGE_ERROR, ("cache", "257", "256")),
        (("--cache", 64, "--block-tokens", "4,65"), USAGE_ERROR, ("block tokens", "65", "64")),
        (("--cache", 64, "--block-tokens", "4,x"), USAGE_ERROR, ("block tokens", "x")),
        (("--cache", 64, "--block-tokens", "3"), USAGE_ERROR, ("block tokens", "3", "4")),
        (("--block-tokens", "4"), USAGE_ERROR, ("cache", "--cache TOKENS")),
        (("--cache-dtype", "int8"), USAGE_ERROR, ("cache", "--cache TOKENS")),
        (("--cache", 64, "--cache-dtype", "int8"), USAGE_ERROR, ("cache dtype", "static")),
        (("--cache", 64, "--cache-dtype", "fp32"), USAGE_ERROR, ("cache", "fp32")),
        (("--cache", 64, "--share-weights"), USAGE_ERROR, ("share weights", "--soc")),
        (("--soc", "SM8650", "--share-weights"), USAGE_ERROR, ("share weights", "--cache")),
        (
            ("--cache", 64, "--soc", "SM8650", "--share-weights", "--container", "pte"),
            UNSUPPORTED,
            ("container pte", "--share-weights"),
        ),
    ],
)
def test_bad_options(
    options: tuple[object, ...], code: int, words: tuple[str, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    result = run("export", checkpoint("sdar"), "-o", tmp_path / "m", "--backend", "qnn", *options)
    assert_fails(result, code, *words)
    assert not (tmp_path / "m").exists()
