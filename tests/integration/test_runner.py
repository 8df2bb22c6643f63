"""Text through the C++ runner: a bundle's .pte in ExecuTorch, with the library's tokenizer and samplers.

At temperature 0 the tokens are those of the engine on this machine's processor, and of the same file in ExecuTorch's
Python runtime.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from command import (
    BAD_FILE,
    COMMAND,
    SANITIZED_COMMAND,
    UNSUPPORTED,
    USAGE_ERROR,
    run_json,
    tiny_llada_text,
    tiny_sdar,
)
from families import make_checkpoint
from fuzz_bundles import fuzz
from runner import RUNNER, assert_refuses, bundle, run_bundle, written

_REPOSITORY: Final = Path(__file__).resolve().parents[2]

PROMPT: Final = "And the LORD said unto Moses,"
CACHE: Final = ("--cache", 160, "--cache-dtype", "fp32")
STEPS: Final = ("--logits", "rows", "--block-tokens", 8)
FORMATS: Final = {
    "fp32": (),
    "int8": ("--dtype", "int8"),
    "int8 dynamic": ("--dtype", "int8", "--mode", "dynamic"),
    "int4": ("--dtype", "int4", "--group-size", 0),
    "int4 groups": ("--dtype", "int4", "--group-size", 32),
}


@pytest.fixture(scope="module", autouse=True)
def _runner() -> None:
    if not RUNNER.is_file():
        pytest.fail(f"{RUNNER} does not exist: run `make runner`, or set DIFFULEX_EDGE_RUNNER")


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of tiny-sdar under a causal mask."""
    model = tmp_path_factory.mktemp("models") / "qwen3"
    shutil.copytree(tiny_sdar(), model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    del config["fuse_cross_entropy"], config["mask_token_id"]
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.fixture(scope="module")
def sdar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, which tests must not change."""
    target = tmp_path_factory.mktemp("bundles") / "sdar"
    bundle(tiny_sdar(), target, "--dtype", "int8", *CACHE)
    return target


@pytest.fixture
def changed(sdar: Path, tmp_path: Path) -> Path:
    """One that they may."""
    shutil.copytree(sdar, tmp_path / "b")
    return tmp_path / "b"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "generation.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def expected_text(model: Path, folder: Path, dtype: str, *words: object) -> dict[str, Any]:
    """Of the engine; where ExecuTorch may round the other way, of the same file in its Python runtime."""
    if dtype not in ("int8 dynamic", "int4 groups"):
        return run_json("generate", model, *words, *FORMATS[dtype])
    line = [sys.executable, "-m", "diffulex_edge", "generate", str(folder), *map(str, words), "--json"]
    report: dict[str, Any] = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
    return report


@pytest.mark.parametrize(
    ("family", "dtype", "steps"),
    [
        ("sdar", "fp32", ()),
        ("sdar", "int8", STEPS),
        ("sdar", "int8 dynamic", ()),
        ("sdar", "int4", ()),
        ("sdar", "int4 groups", STEPS),
        ("qwen3", "fp32", STEPS),
        ("qwen3", "int8 dynamic", STEPS),
        ("qwen3", "int4", ()),
    ],
)
def test_tokens_are_those_of_the_engine(
    family: str, dtype: str, steps: tuple[object, ...], autoregressive: Path, tmp_path: Path
) -> None:
    model = autoregressive if family == "qwen3" else tiny_sdar()
    bundle(model, tmp_path / "b", *FORMATS[dtype], *CACHE, *steps)
    words = ("--prompt", PROMPT, "--max-new-tokens", 40)
    expected = expected_text(model, tmp_path / "b", dtype, *words)
    found = written(tmp_path / "b", *words)
    for key in ("text", "tokens", "prompt_tokens", "forward_passes", "stopped"):
        assert found[key] == expected[key], key


@pytest.mark.parametrize(
    ("dtype", "cache"),
    [("fp32", "none"), ("int4", "none"), ("int8", "prefix"), ("fp32", "dual"), ("int8 dynamic", "dual")],
)
def test_a_bidirectional_model(dtype: str, cache: str, tmp_path: Path) -> None:
    steps = ("--seq-len", 160) if cache == "none" else CACHE
    bundle(tiny_llada_text(), tmp_path / "b", *FORMATS[dtype], *steps)
    words = ("--prompt", PROMPT, "--max-new-tokens", 32, "--cache", cache)
    expected = expected_text(tiny_llada_text(), tmp_path / "b", dtype, *words)
    assert written(tmp_path / "b", *words)["tokens"] == expected["tokens"]


def test_placed_tokens_are_edited_as_in_the_engine(tmp_path: Path) -> None:
    bundle(tiny_sdar(), tmp_path / "b", *FORMATS["fp32"], *CACHE)
    words = ("--prompt", PROMPT, "--max-new-tokens", 24, "--threshold", 0.5, "--editing-threshold", 0.3)
    expected = run_json("generate", tiny_sdar(), *words, *FORMATS["fp32"])
    assert expected["tokens"] != run_json("generate", tiny_sdar(), *words[:-2], *FORMATS["fp32"])["tokens"]
    found = written(tmp_path / "b", *words)
    assert (found["tokens"], found["forward_passes"]) == (expected["tokens"], expected["forward_passes"])
    edit(tmp_path / "b", lambda document: document["decoding"].update(editing_threshold=0.3))
    assert written(tmp_path / "b", *words[:-2])["tokens"] == expected["tokens"]


def test_a_canvas_grows_as_in_the_engine(tmp_path: Path) -> None:
    tiny = json.loads((tiny_llada_text() / "config.json").read_text())
    mask = ("--mask-token-id", tiny["mask_token_id"])
    model = make_checkpoint(tmp_path / "model", "dream", vocab_size=tiny["vocab_size"], expand_token_id=9)
    for file in tiny_llada_text().glob("token*"):
        shutil.copy(file, model)
    bundle(model, tmp_path / "b", *FORMATS["fp32"], "--seq-len", 96, *mask)
    said = json.loads((tmp_path / "b/generation.json").read_text())
    assert (said["version"], said["decoding"]["expand_id"]) == (2, 9)
    words = ("--prompt", PROMPT, "--max-new-tokens", 24)
    engine = ("generate", model, *words, *FORMATS["fp32"], *mask)
    tokens = run_json(*engine, "--fixed-length")["tokens"]
    expands = max(tokens, key=tokens.count)
    edit(tmp_path / "b", lambda document: document["decoding"].update(expand_id=expands, initial_masks=3))
    expected = run_json(*engine, "--expand-id", expands, "--initial-masks", 3)
    found = written(tmp_path / "b", *words)
    assert (found["tokens"], found["forward_passes"]) == (expected["tokens"], expected["forward_passes"])
    assert found["forward_passes"] > len(found["tokens"])


def test_sampling_draws_the_same_numbers(sdar: Path) -> None:
    words = ("--prompt", PROMPT, "--max-new-tokens", 40, "--temperature", 0.7, "--top-k", 20)
    texts = [written(sdar, *words, "--seed", seed)["tokens"] for seed in (1, 2)]
    assert texts[0] != texts[1]
    assert texts[0] == run_json("generate", tiny_sdar(), *words, "--seed", 1, "--dtype", "int8")["tokens"]


def test_text_is_streamed(sdar: Path) -> None:
    words = ("--prompt", PROMPT, "--max-new-tokens", 40)
    result = run_bundle(sdar, *words, "--stats")
    assert result.returncode == 0, result.stderr
    assert result.stdout == run_json("generate", tiny_sdar(), *words, "--dtype", "int8")["text"] + "\n"
    (stats,) = result.stderr.splitlines()
    assert re.fullmatch(r"40 tokens in \d+ passes, [\d.]+ tokens per second \(length\); opened in [\d.]+ s", stats)
    assert run_bundle(sdar, *words).stderr == ""
    assert run_bundle("--help").stdout.startswith("diffulex-edge-run BUNDLE --prompt TEXT")


def test_the_bundle_has_its_own_settings(changed: Path) -> None:
    edit(changed, lambda document: document["decoding"].update(max_new_tokens=8, threshold=0.0))
    found = written(changed, "--prompt", PROMPT)
    assert len(found["tokens"]) == 8
    assert found["forward_passes"] < 8
    assert len(written(changed, "--prompt", PROMPT, "--max-new-tokens", 12)["tokens"]) == 12


def test_chat(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_sdar(), model)
    (model / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}")
    bundle(model, tmp_path / "b", *CACHE)
    words = ("--prompt", PROMPT, "--chat", "--max-new-tokens", 20)
    assert written(tmp_path / "b", *words)["tokens"] == run_json("generate", model, *words)["tokens"]
    (tmp_path / "b/chat_template.jinja").unlink()
    assert_refuses(run_bundle(tmp_path / "b", *words), BAD_FILE, "has no chat template")


def test_the_commands_of_its_readme(sdar: Path, tmp_path: Path) -> None:
    """As a shell in the folder runs them."""
    names = {"diffulex-edge-run": [str(RUNNER)], "python": [sys.executable], "diffulex-edge": [str(COMMAND)]}
    commands = re.findall(r"^    (.+)$", (sdar / "README.md").read_text(), flags=re.MULTILINE)
    assert len(commands) == 2
    texts = []
    for command in commands:
        first, *words = shlex.split(command)
        result = subprocess.run([*names[first], *words], cwd=sdar, capture_output=True, text=True, check=True)
        texts.append(result.stdout)
    assert texts[0] == texts[1]
    assert len(texts[0]) > 100


def documented(page: str) -> list[list[str]]:
    """The words of a page's commands, those that go on in the next line included."""
    text = (_REPOSITORY / page).read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^    ((?:diffulex-edge(?:-run)?|python|build/runner/\S+) .+)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def of_the_walk(words: list[str]) -> bool:
    return any(name in words for name in ("tiny-bundle", "tiny-coreml"))


@pytest.mark.parametrize("page", ["README.md", "docs/ANDROID.md", "docs/IOS.md"])
def test_the_walk_to_a_phone(page: str, tmp_path: Path) -> None:
    """Every command of it that this machine can run, one after the other."""
    (tmp_path / "examples").symlink_to(_REPOSITORY / "examples")
    programs = {
        "diffulex-edge": str(COMMAND),
        "diffulex-edge-run": str(RUNNER),
        "build/runner/diffulex-edge-run": str(RUNNER),
        "python": sys.executable,
    }
    texts = []
    walk = [words for words in documented(page) if of_the_walk(words)]
    assert len(walk) >= 3
    for first, *words in walk:
        result = subprocess.run([programs[first], *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        if "--prompt" in words:
            texts.append(result.stdout)
    assert len(set(texts)) <= 1
    assert bool(texts) == (page != "docs/IOS.md")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--max-new-tokens", 200), USAGE_ERROR, "more than the model's 160"),
        (("--max-new-tokens", 0), USAGE_ERROR, "max_new_tokens"),
        (("--max-new-tokens", "many"), USAGE_ERROR, "'many'"),
        (("--temperature", -1), USAGE_ERROR, "temperature"),
        (("--cache", "prefix"), USAGE_ERROR, "cache"),
        (("--cache", "block"), USAGE_ERROR, "cache"),
        (("--speed", 3), USAGE_ERROR, "--speed"),
        (("--seed",), USAGE_ERROR, "has no value"),
        (("another",), USAGE_ERROR, "second bundle"),
    ],
)
def test_requests_that_can_not_be(words: tuple[object, ...], code: int, message: str, sdar: Path) -> None:
    assert_refuses(run_bundle(sdar, "--prompt", "In", *words), code, message)


def test_words_that_are_missing(sdar: Path, tmp_path: Path) -> None:
    assert_refuses(run_bundle("--prompt", "In"), USAGE_ERROR, "BUNDLE")
    assert_refuses(run_bundle(sdar), USAGE_ERROR, "--prompt")
    assert_refuses(run_bundle(tmp_path, "--prompt", "In"), BAD_FILE, "is no bundle", "--bundle")
    assert_refuses(run_bundle(tmp_path / "absent", "--prompt", "In"), BAD_FILE, "is no bundle")


def test_a_step_that_is_too_long(tmp_path: Path) -> None:
    """Without a cache, the whole text is a step."""
    bundle(tiny_sdar(), tmp_path / "b", "--seq-len", 32)
    assert_refuses(run_bundle(tmp_path / "b", "--prompt", PROMPT, "--max-new-tokens", 64), USAGE_ERROR, "32")
    refused = run_bundle(tmp_path / "b", "--prompt", "In", "--cache", "exact", "--max-new-tokens", 8)
    assert_refuses(refused, UNSUPPORTED, "--cache TOKENS")


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: damage_end(b / "model.pte"), "bytes"),
        (lambda b: damage_middle(b / "model.pte"), "SHA-256"),
        (lambda b: (b / "model.pte").unlink(), "model.pte"),
        (lambda b: damage_middle(b / "tokenizer.json"), "tokenizer.json"),
        (lambda b: (b / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda b: damage_end(b / "generation.json"), "generation.json"),
        (lambda b: edit(b, lambda d: d["model"].update(vocab_size=1 << 40)), "vocab_size"),
        (lambda b: edit(b, lambda d: d["model"].update(vocab_size=1024)), "contradicts generation.json"),
        (lambda b: edit(b, lambda d: d["model"].update(family="dream")), "contradicts generation.json in 'family'"),
        (lambda b: edit(b, lambda d: d["model"].update(block_length=8)), "'block_length'"),
        (lambda b: edit(b, lambda d: d["model"].update(max_tokens=4096)), "'max_tokens'"),
        (lambda b: edit(b, lambda d: d["model"].pop("mask_token_id")), "mask_token_id"),
        (lambda b: edit(b, lambda d: d["artefact"].update(name="../model.pte")), "name"),
        (lambda b: edit(b, lambda d: d.update(format="other")), "format"),
        (lambda b: (b / "generation.json").write_text("[1]"), "generation.json"),
    ],
)
def test_damage_is_one_sentence(damage: Callable[[Path], object], message: str, changed: Path) -> None:
    damage(changed)
    assert_refuses(run_bundle(changed, "--prompt", "In"), BAD_FILE, message)


def test_other_kinds_of_bundles(changed: Path, tmp_path: Path) -> None:
    edit(changed, lambda document: document.update(version=3))
    assert_refuses(run_bundle(changed, "--prompt", "In"), UNSUPPORTED, "version 3")
    bundle(tiny_sdar(), tmp_path / "coreml", "--backend", "coreml", "--seq-len", 64)
    assert_refuses(run_bundle(tmp_path / "coreml", "--prompt", "In"), UNSUPPORTED, "is for coreml")


@pytest.mark.parametrize("cut", [4, 60, 2000, 100_000])
def test_a_program_whose_hash_was_forged(cut: int, changed: Path) -> None:
    """What ExecuTorch's own checks find is a sentence, too."""
    artefact = changed / "model.pte"
    content = artefact.read_bytes()[:cut]
    artefact.write_bytes(content)
    said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(changed, lambda document: document["artefact"].update(said))
    assert_refuses(run_bundle(changed, "--prompt", "In"), BAD_FILE, "model.pte", "the ExecuTorch runtime refuses it")


def fuzzers() -> list[Path]:
    builds = [COMMAND, SANITIZED_COMMAND] if SANITIZED_COMMAND else [COMMAND]
    return [build.with_name("fuzz_bundle") for build in builds]


@pytest.mark.parametrize("fuzzer", fuzzers(), ids=["release", "sanitized"][: len(fuzzers())])
def test_mutated_bundles(fuzzer: Path, tmp_path: Path) -> None:
    """A text or one sentence each; `make fuzz-bundles` does many."""
    if not fuzzer.is_file():
        pytest.fail(f"{fuzzer} does not exist: run `make test-tools`")
    ends = fuzz(fuzzer, tmp_path, 300, 1)
    assert ends["text"] > 30
    assert ends["BadFile"] > 100
    assert set(ends) <= {"text", "BadFile", "Unsupported", "InvalidArgument"}
