"""The command `generate`: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import (
    BAD_FILE,
    COMMAND,
    OUTPUT_ERROR,
    PATIENCE,
    UNSUPPORTED,
    USAGE_ERROR,
    assert_fails,
    run,
    run_json,
    tiny_llada_text,
    tiny_sdar,
)
from conftest import MakeCheckpoint
from tokenizers import Tokenizer

PROMPT = "And the LORD said unto Moses,"
SHORT = ("--max-new-tokens", 24, "--block-length", 8)


def generate(model: Path, *options: object) -> dict[str, Any]:
    return run_json("generate", model, *options)


def test_text_is_that_of_the_tokens(tiny: Path) -> None:
    report = generate(tiny, "--prompt", PROMPT, *SHORT)
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    assert report["text"] == tokenizer.decode(report["tokens"], skip_special_tokens=True)
    assert len(report["tokens"]) == 24
    assert report["prompt_tokens"] == len(tokenizer.encode(PROMPT, add_special_tokens=False).ids)
    assert report["forward_passes"] == 24
    assert report["tokens_per_forward"] == 1
    assert report["stopped"] == "length"
    assert report["cache_bytes"] > 0
    assert report["tokens_per_second"] > 0
    assert 0 < report["seconds_to_first_block"] <= report["seconds"]


def test_plain_text_comes_on_stdout_alone(tiny: Path, tmp_path: Path) -> None:
    text = generate(tiny, "--prompt", PROMPT, *SHORT)["text"]
    (tmp_path / "prompt.txt").write_text(PROMPT)
    for words, stdin in (
        (("--prompt", PROMPT), ""),
        (("--prompt", "-"), PROMPT),
        (("--prompt", f"@{tmp_path / 'prompt.txt'}"), ""),
    ):
        result = run("generate", tiny, *words, *SHORT, input=stdin)
        assert result.returncode == 0, result.stderr
        assert result.stdout == text + "\n"
        assert "24 tokens in 24 passes" in result.stderr
    assert run("generate", tiny, "--prompt", PROMPT, *SHORT, "--quiet").stderr == ""


def test_stream_has_a_line_for_each_piece_and_then_the_whole(tiny: Path) -> None:
    result = run("generate", tiny, "--prompt", PROMPT, *SHORT, "--json", "--stream")
    *pieces, whole = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(pieces) > 3
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert [token for piece in pieces for token in piece["tokens"]] == whole["tokens"]
    assert whole["success"]


def test_stream_without_tokenizer_has_the_tokens(tmp_path: Path, tiny: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / "tokenizer.json").unlink()
    np.save(tmp_path / "prompt.npy", np.array([[5, 6, 7]], np.int64))
    result = run("generate", model, "--prompt-ids", tmp_path / "prompt.npy", *SHORT, "--json", "--stream")
    *pieces, whole = [json.loads(line) for line in result.stdout.splitlines()]
    assert [token for piece in pieces for token in piece["tokens"]] == whole["tokens"]
    assert len(pieces) > 3
    assert not any("text" in piece for piece in pieces)


def test_text_ends_before_a_stop(tiny: Path) -> None:
    text = generate(tiny, "--prompt", PROMPT, *SHORT)["text"]
    stop = text[10:14]
    report = generate(tiny, "--prompt", PROMPT, *SHORT, "--stop", stop)
    assert report["text"] == text[: text.index(stop)]
    assert report["stopped"] == "stop"


def test_bundled_masked_diffusion_model_writes_between_two_texts() -> None:
    options = ("--prompt", "And Moses said unto", "--max-new-tokens", 24, "--block-length", 8)
    report = generate(tiny_llada_text(), *options, "--suffix", " came unto the king of Egypt.")
    other = generate(tiny_llada_text(), *options, "--suffix", " shall be unclean until the even.")
    assert "unto" in report["text"]
    assert report["text"] != other["text"], "what comes behind is seen"
    held = generate(tiny_llada_text(), *options, "--dtype", "int4", "--cache", "dual", "--cache-effect")
    assert held["cache_effect"]["differing_tokens"] < 1


def test_bundled_block_diffusion_model_writes_the_same_with_and_without_its_cache() -> None:
    options = ("--prompt", PROMPT, "--max-new-tokens", 48, "--threshold", 0.2)
    cached = generate(tiny_sdar(), *options)
    assert cached["tokens"] == generate(tiny_sdar(), *options, "--cache", "none")["tokens"]
    assert "the land of " in cached["text"]
    assert len(cached["tokens"]) == 48
    assert cached["forward_passes"] < 48, "its threshold lets it commit several tokens at once"


def test_quantized_model_writes_what_its_quantized_checkpoint_does(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "int4"
    assert run("quantize", tiny, "-o", folder, "--dtype", "int4").returncode == 0
    direct = generate(tiny, "--prompt", PROMPT, *SHORT, "--dtype", "int4")
    assert direct["tokens"] == generate(folder, "--prompt", PROMPT, *SHORT)["tokens"]
    assert direct["weight_bytes"] < generate(tiny, "--prompt", PROMPT, *SHORT)["weight_bytes"] / 2


def test_threads_and_caches_change_nothing_or_little(tiny: Path) -> None:
    expected = generate(tiny, "--prompt", PROMPT, *SHORT, "--threads", 1)
    assert generate(tiny, "--prompt", PROMPT, *SHORT, "--threads", 2)["tokens"] == expected["tokens"]
    cached = generate(tiny, "--prompt", PROMPT, *SHORT, "--cache", "dual", "--cache-dtype", "int8")
    assert cached["cache_bytes"] < expected["cache_bytes"] / 3
    assert cached["forward_passes"] == expected["forward_passes"]


def test_effect_of_a_cache_is_measured(tiny: Path) -> None:
    long = ("--prompt", PROMPT, "--max-new-tokens", 64, "--block-length", 16)
    exact = generate(tiny, *long)["tokens"]
    report = generate(tiny, *long, "--cache", "dual", "--cache-effect")
    differing = sum(a != b for a, b in zip(exact, report["tokens"], strict=True)) / 64
    assert differing > 0
    assert report["cache_effect"]["differing_tokens"] == pytest.approx(differing, rel=1e-3)
    result = run("generate", tiny, *long, "--cache", "prefix", "--cache-effect")
    assert "of the tokens differ" in result.stderr


def test_suffix_and_canvas_fill_in(tiny: Path) -> None:
    report = generate(tiny, "--prompt", "In the beginning God", "--suffix", " the earth.", "--max-new-tokens", 6)
    assert len(report["tokens"]) == 6
    canvas = "In the beginning <|mask|><|mask|> the heaven and the <|mask|>."
    report = generate(tiny, "--canvas", canvas)
    assert " the heaven and the " in report["text"]
    assert "<|mask|>" not in report["text"]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ opening | default('And') }}{% endif %}"
)


def test_chat_renders_the_models_template(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chatty"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    asked = generate(folder, "--chat", "--system", "Be brief.", "--prompt", " Who art thou? ", *SHORT)
    plain = "<system>Be brief.\n<user>Who art thou?\nAnd"
    assert asked["tokens"] == generate(tiny, "--prompt", plain, *SHORT)["tokens"]
    variables = json.dumps({"opening": "Then"})
    other = generate(folder, "--chat", "--prompt", "Who?", "--template-variables", variables, *SHORT)
    assert other["tokens"] == generate(tiny, "--prompt", "<user>Who?\nThen", *SHORT)["tokens"]
    assert_fails(run("generate", tiny, "--chat", "--prompt", "a"), BAD_FILE, str(tiny), "no chat template")
    assert_fails(run("generate", tiny, "--system", "a", "--prompt", "a"), USAGE_ERROR, "--system", "--chat")
    (folder / "chat_template.jinja").write_text("{% import 'x' as y %}")
    assert_fails(run("generate", folder, "--chat", "--prompt", "a"), UNSUPPORTED, "chat_template.jinja", "line 1")


def test_packed_weights_are_mapped_at_the_next_start(tiny: Path, command: Path, tmp_path: Path) -> None:
    packs = tmp_path / "packs"
    asked = ("generate", tiny, "--prompt", PROMPT, *SHORT, "--dtype", "int4", "--quiet", "--pack-cache", packs)
    expected = generate(tiny, "--prompt", PROMPT, *SHORT, "--dtype", "int4")["text"] + "\n"
    assert run(*asked, command=command).stdout == expected
    (pack,) = packs.iterdir()
    written = pack.stat().st_mtime_ns
    assert run(*asked, command=command).stdout == expected
    assert pack.stat().st_mtime_ns == written
    run(*asked, "--group-size", 64, command=command)
    assert len(list(packs.iterdir())) == 2
    data = pack.read_bytes()
    for broken in (data[: len(data) // 2], data[:12], b"", b"x" * len(data), data[:16] + b"[" + data[17:]):
        pack.write_bytes(broken)
        assert_fails(run(*asked, command=command), BAD_FILE, str(pack))
    pack.unlink()
    packs.chmod(0o500)
    if os.geteuid() != 0:
        assert_fails(run(*asked, command=command), OUTPUT_ERROR, str(packs))
    assert_fails(run(*asked[:-1], tiny / "config.json", command=command), OUTPUT_ERROR, "config.json")


def test_seed_repeats_a_temperature(tiny: Path) -> None:
    warm = ("--prompt", PROMPT, *SHORT, "--temperature", 1)
    texts = [generate(tiny, *warm, "--seed", seed)["text"] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_visual_draws_the_canvas_in_a_terminal(tiny: Path) -> None:
    text = generate(tiny, "--prompt", PROMPT, *SHORT)["text"]
    leader, follower = pty.openpty()
    words = [COMMAND, "generate", tiny, "--prompt", PROMPT, *map(str, SHORT), "--visual", "--quiet"]
    process = subprocess.Popen(words, stdout=follower, stderr=subprocess.PIPE, close_fds=True)
    os.close(follower)
    drawn = b""
    while chunk := _read(leader):
        drawn += chunk
    assert process.wait(PATIENCE) == 0
    shown = drawn.decode().replace("\r\n", "\n")
    assert "░" in shown
    assert "\x1b[1A" in shown  # over what was there
    assert shown.rstrip("\n").endswith(text)


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # the other end is closed
        return b""


def test_interrupt_keeps_what_was_written(tiny: Path) -> None:
    words = [COMMAND, "generate", tiny, "--prompt", PROMPT, "--max-new-tokens", "224", "--block-length", "1"]
    words += ["--steps-per-block", "1", "--json", "--stream", "--threads", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    *pieces, whole = [json.loads(line) for line in (first + rest).splitlines()]
    assert whole["text"] == "".join(piece["text"] for piece in pieces)
    assert whole["tokens"] == [token for piece in pieces for token in piece["tokens"]]
    assert 0 < len(whole["tokens"]) < 224
    assert whole["stopped"] == "stop"
    assert "as far as it was written" in error


def test_closed_pipe_ends_it(tiny: Path) -> None:
    words = [COMMAND, "generate", tiny, "--prompt", PROMPT, "--max-new-tokens", "200", "--block-length", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        began = time.monotonic()
        process.wait(PATIENCE)
    assert process.returncode != 0
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ((), USAGE_ERROR, ("prompt", "--prompt-ids")),
        (("--prompt", "a", "--canvas", "b"), USAGE_ERROR, ("prompt", "more than once")),
        (("--prompt", ""), USAGE_ERROR, ("prompt", "no token")),
        (("--prompt", "a", "--max-new-tokens", "0"), USAGE_ERROR, ("max_new_tokens", "nothing to write")),
        (("--canvas", "no mask here"), USAGE_ERROR, ("max_new_tokens", "nothing to write", "mask tokens")),
        (("--prompt", "a", "--max-new-tokens", "300"), USAGE_ERROR, ("300 new ones", "256", "shorten")),
        (("--prompt", "a", "--remasking", "best"), USAGE_ERROR, ("remasking", "'best'", "low_confidence")),
        (("--prompt", "a", "--cache", "exact"), USAGE_ERROR, ("cache", "exact", "prefix or dual")),
        (("--prompt", "a", "--steps", "7"), USAGE_ERROR, ("steps", "7", "4 blocks of 32")),
        (("--prompt", "a", "--stop", ""), USAGE_ERROR, ("--stop", "empty")),
        (("--prompt", "a", "--visual"), USAGE_ERROR, ("--visual", "terminal")),
        (("--prompt", "@/nowhere/prompt.txt"), BAD_FILE, ("/nowhere/prompt.txt", "opened")),
        (("--prompt-ids", "/nowhere/ids.npy"), BAD_FILE, ("/nowhere/ids.npy",)),
    ],
)
def test_what_cannot_be_is_refused(tiny: Path, options: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    assert_fails(run("generate", tiny, *options), code, *words)


def test_prompts_of_ids_are_checked(tiny: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.npy"
    np.save(two, np.zeros((2, 3), dtype=np.int64))
    assert_fails(run("generate", tiny, "--prompt-ids", two), BAD_FILE, str(two), "2 rows")
    large = tmp_path / "large.npy"
    np.save(large, np.full((1, 3), 4000, dtype=np.int64))
    assert_fails(run("generate", tiny, "--prompt-ids", large), USAGE_ERROR, "token 4000", "vocabulary")


def test_models_without_what_is_needed_are_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    ids = tmp_path / "ids.npy"
    np.save(ids, np.array([[5, 6, 7]]))
    sdar = checkpoint("sdar")
    assert_fails(run("generate", sdar, "--prompt", "a"), BAD_FILE, str(sdar), "tokenizer.json")
    assert_fails(run("generate", sdar, "--prompt-ids", ids), BAD_FILE, str(sdar), "tokenizer.json", "--prompt-ids")
    assert_fails(run("generate", sdar, "--prompt-ids", ids, "--quiet", "--json"), USAGE_ERROR, "--mask-token-id")
    with_mask = ("--prompt-ids", ids, "--mask-token-id", 1000, "--json")
    assert run("generate", sdar, *with_mask).returncode == 0
    assert_fails(run("generate", sdar, *with_mask, "--cache", "dual"), USAGE_ERROR, "dual", "bidirectional")


def test_every_input_is_withstood(command: Path, tiny: Path) -> None:
    """With sanitizers too: half characters, control characters, a long prompt, masks everywhere."""
    for prompt in ("\x00\x1b[2J", "é" * 40, "<|mask|>" * 30, "a" * 100):
        if "\x00" in prompt:
            result = run("generate", tiny, "--prompt", "-", *SHORT, command=command, input=prompt)
        else:
            result = run("generate", tiny, "--prompt", prompt, *SHORT, command=command)
        assert result.returncode == 0, result.stderr
    result = run("generate", tiny, "--prompt", "-", *SHORT, command=command, input="\udce9", errors="surrogateescape")
    assert_fails(result, USAGE_ERROR, "not valid UTF-8")


def test_suffix_of_a_block_causal_model_is_refused(tiny: Path, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = tmp_path / "sdar"
    folder.mkdir()
    for file in checkpoint("sdar", vocab_size=1024).iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer.json").symlink_to(tiny / "tokenizer.json")
    result = run("generate", folder, "--prompt", "a", "--suffix", "b", "--mask-token-id", 1)
    assert_fails(result, UNSUPPORTED, "suffix", "sdar", "LLaDA")
