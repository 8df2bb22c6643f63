"""Text through an artefact in its vendor's runtime: the engine's decoders and samplers, the artefact's logits.

At temperature 0 the tokens are those of the engine on this machine's processor, whose arithmetic agrees with the
runtime's to the last bits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, USAGE_ERROR, export, run_json, tiny_llada, tiny_sdar
from conftest import MakeCheckpoint
from families import FAMILIES
from safetensors.torch import save_file

from diffulex_edge import DiffusionEngine, UnsupportedError, VerificationError, verify
from diffulex_edge.quant import QuantizationConfig

NEW: Final = 64
CACHE: Final = ("--cache", 160, "--cache-dtype", "fp32")
FORMATS: Final = {"fp32": (), "int8": ("--dtype", "int8"), "int4": ("--dtype", "int4", "--group-size", 0)}
CONFIGS: Final = {
    "fp32": QuantizationConfig(dtype="fp32"),
    "int8": QuantizationConfig(dtype="int8"),
    "int4": QuantizationConfig(dtype="int4", group_size=0),
}
OPTIONS: Final[dict[str, Any]] = {"max_new_tokens": NEW, "ignore_eos": True}


def prompts(vocab: int = 1001) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(2, vocab, (length,), generator=generator).tolist() for length in (3, 40, 77)]


def with_peaks(checkpoint: MakeCheckpoint, family: str) -> Path:
    """A model whose best token is well ahead of the second, as a trained one's."""
    return checkpoint(family, weight_scales={"lm_head": 4.0, "embedding": 1.0})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("steps", [("--block-tokens", 32, "--logits", "rows"), ()])
def test_tokens_are_those_of_the_engine(
    family: str, name: str, steps: tuple[object, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = with_peaks(checkpoint, family)
    is_bidirectional = family in ("llada", "dream")
    if is_bidirectional:
        steps = steps[2:]  # a step has the whole text
    export(model, tmp_path / "model.pte", *FORMATS[name], *CACHE, *steps, *mask_of(family))
    artefact = DiffusionEngine.from_pte(tmp_path / "model.pte")
    assert (artefact.family, artefact.max_tokens) == (family, 160)
    engine = DiffusionEngine.from_model(model, CONFIGS[name], mask_token_id=5)
    caches = ("auto", "prefix", "dual") if is_bidirectional else ("auto",)
    for prompt in prompts():
        for cache in caches:
            expected = engine.generate(prompt, cache=cache, **OPTIONS)
            found = artefact.generate(prompt, cache=cache, **OPTIONS)
            assert found.tokens == expected.tokens
            assert found.forward_passes == expected.forward_passes


def mask_of(family: str) -> tuple[object, ...]:
    return () if family in ("llama", "qwen2", "qwen3") else ("--mask-token-id", 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_with_an_int8_cache_are_those_of_the_engine_with_one(
    family: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = with_peaks(checkpoint, family)
    export(model, tmp_path / "model.pte", "--cache", 160, "--cache-dtype", "int8", *mask_of(family))
    artefact = DiffusionEngine.from_pte(tmp_path / "model.pte")
    engine = DiffusionEngine.from_model(model, mask_token_id=5)
    options = OPTIONS | {"cache": "dual" if family in ("llada", "dream") else "exact"}
    for prompt in prompts():
        expected = engine.generate(prompt, cache_dtype="int8", **options)
        assert artefact.generate(prompt, **options).tokens == expected.tokens


@pytest.mark.parametrize("family", ["llada", "sdar", "qwen3"])
def test_without_a_cache_every_pass_is_the_whole_text(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = with_peaks(checkpoint, family)
    export(model, tmp_path / "model.pte", "--seq-len", 160, *mask_of(family))
    artefact = DiffusionEngine.from_pte(tmp_path / "model.pte")
    engine = DiffusionEngine.from_model(model, mask_token_id=5)
    for prompt in prompts():
        expected = engine.generate(prompt, cache="none", **OPTIONS)
        assert artefact.generate(prompt, **OPTIONS).tokens == expected.tokens
    with pytest.raises(UnsupportedError, match="export it with --cache"):
        artefact.generate(prompts()[0], cache="prefix" if family == "llada" else "exact", **OPTIONS)


def test_sampling_draws_the_same_numbers(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = with_peaks(checkpoint, "sdar")
    export(model, tmp_path / "model.pte", *CACHE, "--logits", "rows", *mask_of("sdar"))
    artefact = DiffusionEngine.from_pte(tmp_path / "model.pte")
    engine = DiffusionEngine.from_model(model, mask_token_id=5)
    options = OPTIONS | {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}
    texts = [artefact.generate(prompts()[1], seed=seed, **options).tokens for seed in (1, 2)]
    assert texts[0] != texts[1]
    assert texts[0] == engine.generate(prompts()[1], seed=1, **options).tokens


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "diffulex_edge", "generate", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_writes_text(tmp_path: Path) -> None:
    prompt = ("--prompt", "And the LORD said unto Moses,", "--max-new-tokens", 40)
    export(tiny_sdar(), tmp_path / "model.pte", "--dtype", "int8", *CACHE)
    expected = run_json("generate", tiny_sdar(), *prompt, "--dtype", "int8")
    shutil.copy(tiny_sdar() / "tokenizer.json", tmp_path)
    written = command(tmp_path / "model.pte", *prompt)
    assert written.returncode == 0, written.stderr
    assert written.stdout == expected["text"] + "\n"
    assert "tokens in" in written.stderr
    report = json.loads(command(tmp_path / "model.pte", "--tokenizer", tiny_sdar(), *prompt, "--json").stdout)
    assert report["success"]
    assert report["text"] == expected["text"]
    assert report["tokens"] == expected["tokens"]
    assert report["forward_passes"] == expected["forward_passes"]
    stop = expected["text"][8:12]
    stopped = command(tmp_path / "model.pte", *prompt, "--stop", stop).stdout
    assert stopped == expected["text"][: expected["text"].index(stop)] + "\n"


@pytest.mark.parametrize("options", [(), ("--logits", "rows"), ("--block-tokens", 30)])
def test_verify_measures_a_program_with_a_cache(options: tuple[object, ...], tmp_path: Path) -> None:
    """In steps, what the program without a cache computes at once."""
    model = tiny_sdar() if options else tiny_llada()
    data = tmp_path / "data.safetensors"
    ids = torch.randint(2, 1000, (3, 100), generator=torch.Generator().manual_seed(1))
    save_file({"input_ids_50": ids, "target_ids_50": ids.roll(1, 1).contiguous()}, data)
    export(model, tmp_path / "steps.pte", "--cache", 128, "--cache-dtype", "fp32", *options)
    export(model, tmp_path / "whole.pte", "--seq-len", 100)
    steps = verify(tmp_path / "steps.pte", data, against=tmp_path / "whole.pte").sets["50"]
    assert steps.max_abs_error is not None
    assert steps.max_abs_error < 1e-4
    export(model, tmp_path / "short.pte", "--cache", 64)
    with pytest.raises(VerificationError, match="export it with --cache 100"):
        verify(tmp_path / "short.pte", data)


def test_another_tokenizer_is_noticed(tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "model.pte", *CACHE)
    words = ("--prompt", "In the beginning", "--max-new-tokens", 4, "--tokenizer", tiny_llada())
    written = command(tmp_path / "model.pte", *words)
    assert written.returncode == 0
    assert "is not the one that" in written.stderr


@pytest.mark.parametrize(
    ("options", "words", "code", "message"),
    [
        (CACHE, ("--max-new-tokens", 200), USAGE_ERROR, "more than the model's 160"),
        (CACHE, ("--cfg-scale", 1), USAGE_ERROR, "cfg_scale"),
        (CACHE, ("--cache", "block"), USAGE_ERROR, "cache"),
        ((*CACHE, "--logits", "last"), (), BAD_FILE, "without --logits last"),
        ((), ("--cache", "exact"), UNSUPPORTED, "--cache TOKENS"),
    ],
)
def test_refusals(
    options: tuple[object, ...], words: tuple[object, ...], code: int, message: str, tmp_path: Path
) -> None:
    export(tiny_sdar(), tmp_path / "model.pte", *options)
    written = command(tmp_path / "model.pte", "--tokenizer", tiny_sdar(), "--prompt", "In", *words)
    assert written.returncode == code, written.stderr
    assert message in written.stderr
    assert "Traceback" not in written.stderr
    assert written.stdout == ""


def test_a_program_without_facts_is_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export(checkpoint("sdar"), tmp_path / "model.pte", *CACHE)
    data = (tmp_path / "model.pte").read_bytes()
    (tmp_path / "other.pte").write_bytes(data.replace(b"get_model_family", b"got_model_family"))
    with pytest.raises(VerificationError, match="get_model_family"):
        DiffusionEngine.from_pte(tmp_path / "other.pte")
    with pytest.raises(VerificationError, match="does not exist"):
        DiffusionEngine.from_pte(tmp_path / "absent.pte")


RUNNER: Final = """
import json, sys
import executorch.kernels.quantized
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
model, tokenizer, prompt, count = sys.argv[1:]
pieces = []
config = GenerationConfig(echo=False, max_new_tokens=int(count), temperature=0.0)
TextLLMRunner(model, tokenizer).generate(prompt, config, pieces.append, None)
print("\\n" + json.dumps("".join(pieces)))
"""


@pytest.mark.parametrize("logits", ["all", "last"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_executorchs_own_runner_writes_it_too(logits: str, dtype: str, tmp_path: Path) -> None:
    """An autoregressive model: the weights of tiny-sdar under a causal mask."""
    model = tmp_path / "qwen3"
    shutil.copytree(tiny_sdar(), model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    del config["fuse_cross_entropy"], config["mask_token_id"]
    (model / "config.json").write_text(json.dumps(config))
    options = ("--dtype", dtype, "--group-size", 0) if dtype == "int4" else ("--dtype", dtype)
    export(model, tmp_path / "model.pte", *options, "--cache", 128, "--cache-dtype", "fp32", "--logits", logits)
    prompt = "And the LORD said unto Moses,"
    expected = run_json("generate", model, "--prompt", prompt, "--max-new-tokens", 40, "--ignore-eos", *options)
    words = [sys.executable, "-c", RUNNER, tmp_path / "model.pte", model / "tokenizer.json", prompt, "40"]
    written = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert json.loads(written.splitlines()[-1]) == expected["text"]


def test_verify_compares_texts_with_the_model(tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "int4.pte", "--dtype", "int4", "--group-size", 32, *CACHE)
    (tmp_path / "prompts.txt").write_text("In the beginning\n\nAnd it came to pass\n")
    words = ("--generate", tiny_sdar(), "--prompt", "The sword", "--prompts", tmp_path / "prompts.txt")
    line = [sys.executable, "-m", "diffulex_edge", "verify", tmp_path / "int4.pte", *words, "--max-new-tokens", "32"]

    def report(*more: str) -> dict[str, Any]:
        found = subprocess.run([*map(str, line), *more, "--json"], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return dict(json.loads(found.stdout))

    same = report("--dtype", "int4", "--group-size", "32", "--mode", "dynamic")
    assert [one["prompt"] for one in same["prompts"]] == ["The sword", "In the beginning", "And it came to pass"]
    assert (same["agreement"], same["equal_texts"]) == (1.0, 3)
    other = report()
    assert other["agreement"] < 1
    assert other["equal_texts"] < 3
    different = next(one for one in other["prompts"] if one["first_difference"] is not None)
    place = different["first_difference"]
    assert different["tokens"][:place] == different["reference_tokens"][:place]
    assert different["tokens"][place] != different["reference_tokens"][place]
    text = subprocess.run([*map(str, line)], capture_output=True, text=True, check=True).stdout
    assert f"{other['equal_texts']} of 3 texts are equal" in text
    assert repr(different["text"]) in text
    none = subprocess.run([*map(str, line[:7])], capture_output=True, text=True, check=False)
    assert none.returncode == USAGE_ERROR
    assert "prompts" in none.stderr
