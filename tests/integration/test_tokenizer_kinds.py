"""Every kind of tokenizer gives the ids and the texts of Hugging Face's `tokenizers` and `transformers`."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, PATIENCE, SANITIZED_COMMAND, tiny_llada
from test_tokenizer import _TOOL, AWKWARD, random_texts, run_tool
from tokenizer_kinds import FOLDERS, LLAMA, TOKENIZERS, has_one_meaning, write_dream, write_json, write_sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2Tokenizer

pytestmark = pytest.mark.skipif(not _TOOL.is_file(), reason=f"{_TOOL} is not built beside the command")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (tiny_llada() / "calibration.txt").read_text(encoding="utf-8").splitlines()[:200]
    all_texts = [*AWKWARD, "\n".join(AWKWARD), "\n".join(lines), *lines, *random_texts(3000)]
    return ["".join(character for character in text if has_one_meaning(character)) for text in all_texts]


def assert_equal(path: Path, reference: Tokenizer, texts: list[str]) -> None:
    """Ids of texts, and texts of ids: those that a text has, and any."""
    expected = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    for text, ids, ours in zip(texts, expected, run_tool(path, texts), strict=True):
        assert ours == ids, f"{text!r}: {[reference.id_to_token(i) for i in ids]}"
    generator = random.Random(3)
    size = reference.get_vocab_size()
    lists = [*expected, *([generator.randrange(size) for _ in range(12)] for _ in range(500))]
    written = [reference.decode(ids, skip_special_tokens=False) for ids in lists]
    for ids, text, ours in zip(lists, written, run_tool(path, lists, "decode"), strict=True):
        assert ours == text, [reference.id_to_token(i) for i in ids]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_json_of_each_kind(name: str, texts: list[str], tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert_equal(tmp_path / "tokenizer.json", tokenizer, texts)


def transformers_tokenizer(folder: Path) -> Any:
    """DreamTokenizer is code of the model's own folder: Qwen2's tokenizer under another name."""
    is_dream = "DreamTokenizer" in (folder / "tokenizer_config.json").read_text() if folder.name == "dream" else False
    return (Qwen2Tokenizer if is_dream else AutoTokenizer).from_pretrained(str(folder))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_tokenizer_json(name: str, texts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / name.split("-")[0]
    folder.mkdir()
    FOLDERS[name](folder)
    reference = transformers_tokenizer(folder)
    assert_equal(folder, reference._tokenizer, texts)
    tokenizer = reference._tokenizer
    begin = tokenizer.encode("a").ids[: tokenizer.encode("a").special_tokens_mask.index(0)]
    assert run_tool(folder, [0], "begin") == [begin]


def damaged(path: Path) -> list[bytes]:
    """The file cut off, and with bytes in it changed."""
    whole = path.read_bytes()
    generator = random.Random(11)
    files = [whole[: len(whole) * part // 8] for part in range(8)]
    for _ in range(60):
        piece = bytearray(whole)
        for _ in range(generator.randrange(1, 6)):
            piece[generator.randrange(len(piece))] = generator.randrange(256)
        files.append(bytes(piece))
    return files


@pytest.mark.parametrize(
    ("main", "write"),
    [
        ("tokenizer.model", lambda folder: write_sentencepiece(folder, "unigram", None)),
        ("tokenizer.model", lambda folder: write_sentencepiece(folder, "bpe", {"tokenizer_class": "LlamaTokenizer"})),
        ("tokenizer.json", lambda folder: TOKENIZERS["unigram-charsmap"]().save(str(folder / "tokenizer.json"))),
        ("tokenizer.json", lambda folder: TOKENIZERS["bert"]().save(str(folder / "tokenizer.json"))),
        ("merges.txt", write_dream),
        ("vocab.json", write_dream),
        ("tokenizer_config.json", write_dream),
    ],
)
def test_a_damaged_file_is_a_sentence(main: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    for number, content in enumerate(damaged(tmp_path / main)):
        (tmp_path / main).write_bytes(content)
        tool = (SANITIZED_COMMAND or COMMAND).parent / "encode_text"
        process = subprocess.run(
            [tool, tmp_path], input='"In the beginning \\u00e9"\n', capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert process.returncode in (0, 1), (number, process.stderr)
        assert process.returncode == 0 or len(process.stderr.splitlines()) == 1, process.stderr


def encode_error(folder: Path) -> str:
    process = subprocess.run([_TOOL, folder], input="", capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert process.returncode == 1
    return process.stderr


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    write_dream(tmp_path, tokenizer_class="CodeGenTokenizer")
    assert "'CodeGenTokenizer' is not supported without a tokenizer.json" in encode_error(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["tokenizer_class"]
    write_json(tmp_path / "tokenizer_config.json", config)
    assert "no file says which 'tokenizer_class'" in encode_error(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "Dream"})
    assert run_tool(tmp_path, ["a"]) == [[run_tool(tmp_path, ["a"])[0][0]]]
    (tmp_path / "merges.txt").unlink()
    assert "no vocab.json with merges.txt" in encode_error(tmp_path)
    write_sentencepiece(tmp_path, "bpe", {"tokenizer_class": "T5Tokenizer"}, **LLAMA)
    assert "'T5Tokenizer' is not supported without a tokenizer.json" in encode_error(tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\n", encoding="utf-8")
    assert "tokenizer.model: is no SentencePiece model" in encode_error(tmp_path)
    write_sentencepiece(tmp_path, "word", None)
    assert "model of words or characters" in encode_error(tmp_path)


def test_ids_that_no_reader_would_give_are_refused(tmp_path: Path) -> None:
    write_dream(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    decoder = config["added_tokens_decoder"]
    last = max(decoder, key=int)
    decoder["5000"] = decoder.pop(last)
    write_json(tmp_path / "tokenizer_config.json", config)
    assert f"has id 5000, but Hugging Face's reader would give it {last}" in encode_error(tmp_path)
