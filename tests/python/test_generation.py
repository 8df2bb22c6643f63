"""Text from Python: the same as the command's, in pieces, stopped, and refused."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

import diffulex_edge
from diffulex_edge import DiffusionEngine, DiffusionGenerationConfig, InvalidArgumentError, generate
from diffulex_edge.quant import QuantizationConfig

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = os.environ.get("DIFFULEX_EDGE", str(REPOSITORY / "build/release/bin/diffulex-edge"))
TINY = REPOSITORY / "examples/tiny-llada"
PROMPT = "And the LORD said unto Moses,"
SHORT = DiffusionGenerationConfig(max_new_tokens=24, block_length=8)


@pytest.fixture(scope="module")
def engine() -> DiffusionEngine:
    return DiffusionEngine.from_model(TINY, QuantizationConfig(dtype="int4"), threads=2)


def test_text_is_the_commands(engine: DiffusionEngine) -> None:
    words = [COMMAND, "generate", TINY, "--prompt", PROMPT, "--dtype", "int4", "--json", "--max-new-tokens", "24"]
    report = json.loads(subprocess.check_output([*words, "--block-length", "8"]))
    result = engine.generate(PROMPT, SHORT)
    assert result.text == report["text"] == str(result)
    assert result.tokens == report["tokens"]
    assert result.stopped == "length"
    assert result.forward_passes == 24
    assert result.tokens_per_forward == 1
    assert result.tokens_per_second > 0
    assert engine.weight_bytes == report["weight_bytes"]
    assert generate(TINY, PROMPT, SHORT, quant_config=QuantizationConfig(dtype="int4")).tokens == result.tokens
    assert generate(engine, PROMPT, SHORT).tokens == result.tokens


def test_engine_says_what_it_is(engine: DiffusionEngine) -> None:
    assert engine.family == "llada"
    assert engine.block_length == 0
    assert engine.vocab_size == 1024
    assert engine.max_tokens == 256
    assert engine.eos_ids == [0]


def test_options_stand_over_the_config(engine: DiffusionEngine) -> None:
    result = engine.generate(PROMPT, SHORT, max_new_tokens=8, threshold=0.0)
    assert len(result.tokens) == 8
    assert result.forward_passes == 1


def test_canvases_change_as_the_commands_do(engine: DiffusionEngine) -> None:
    words = [COMMAND, "generate", TINY, "--prompt", PROMPT, "--dtype", "int4", "--json", "--max-new-tokens", "16"]
    report = json.loads(subprocess.check_output([*words, "--remasking", "p2", "--steps", "8"]))
    result = engine.generate(PROMPT, max_new_tokens=16, remasking="p2", steps=8)
    assert (result.tokens, result.forward_passes) == (report["tokens"], 8)
    for name, value in {"editing_threshold": 0.5, "expand_id": 9, "initial_masks": 4, "window_size": 8}.items():
        with pytest.raises(InvalidArgumentError, match=name):
            engine.generate(PROMPT, **{name: value})
    with pytest.raises(InvalidArgumentError, match="fixed_length"):
        engine.generate(PROMPT, expand_id=9, fixed_length=True)


def test_stream_gives_the_text_in_pieces(engine: DiffusionEngine) -> None:
    stream = engine.stream(PROMPT, SHORT)
    pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(pieces) == stream.result.text == engine.generate(PROMPT, SHORT).text


def test_stream_ends_when_it_is_closed(engine: DiffusionEngine) -> None:
    with engine.stream(PROMPT, max_new_tokens=200, block_length=1, steps_per_block=1) as stream:
        next(stream)
    result = stream.result
    assert result.stopped == "stop"
    assert 0 < len(result.tokens) < 200


def test_text_ends_before_a_stop(engine: DiffusionEngine) -> None:
    text = engine.generate(PROMPT, SHORT).text
    assert text is not None
    result = engine.generate(PROMPT, SHORT, stop=text[8:11])
    assert result.text == text[: text.index(text[8:11])]
    assert result.stopped == "stop"


def test_ids_and_suffix_are_taken(engine: DiffusionEngine) -> None:
    assert len(engine.generate([5, 6, 7], max_new_tokens=4, suffix=" the earth.").tokens) == 4


def test_chat_and_pack_cache(tmp_path: Path, engine: DiffusionEngine) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{{ end }}{% endfor %}")
    config = QuantizationConfig(dtype="int4")
    for _ in range(2):
        chatty = DiffusionEngine.from_model(folder, config, pack_cache=tmp_path / "packs", threads=2)
        ids = chatty.encode_chat([{"role": "user", "content": PROMPT[:-1]}], end=",")
        assert chatty.generate(ids, SHORT).tokens == engine.generate(PROMPT, SHORT).tokens
    assert len(list((tmp_path / "packs").iterdir())) == 1
    with pytest.raises(diffulex_edge.BadFileError, match="no chat template"):
        engine.encode_chat([{"role": "user", "content": "a"}])


def test_threads_share_an_engine(engine: DiffusionEngine) -> None:
    expected = engine.generate(PROMPT, SHORT).tokens
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(engine.generate(PROMPT, SHORT).tokens)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_error_of_a_callback_is_raised(engine: DiffusionEngine) -> None:
    def fail(_: str) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engine.generate(PROMPT, SHORT, on_text=fail)


def test_what_cannot_be_is_refused(engine: DiffusionEngine) -> None:
    with pytest.raises(InvalidArgumentError, match="max_new_token: is not one of max_new_tokens"):
        engine.generate(PROMPT, max_new_token=5)
    with pytest.raises(InvalidArgumentError, match=r"remasking: 'best' is not one of low_confidence"):
        engine.generate(PROMPT, remasking="best")
    with pytest.raises(InvalidArgumentError, match=r"300 new ones.*256"):
        engine.generate(PROMPT, max_new_tokens=300)
    with pytest.raises(InvalidArgumentError, match="300 new ones"):
        list(engine.stream(PROMPT, max_new_tokens=300))
    with pytest.raises(InvalidArgumentError, match="stop: has an empty text"):
        engine.generate(PROMPT, stop=[""])
    with pytest.raises(InvalidArgumentError, match="an engine has its weights"):
        generate(engine, PROMPT, quant_config=QuantizationConfig())
    with pytest.raises(diffulex_edge.BadFileError, match="nowhere"):
        DiffusionEngine.from_model("/nowhere")
