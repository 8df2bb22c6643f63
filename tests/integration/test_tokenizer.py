"""Token ids are those of Hugging Face's `tokenizers`, whatever the text."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
from command import COMMAND, PATIENCE, SANITIZED_COMMAND, SANITIZER_OPTIONS, tiny_llada
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_TOOL: Final = COMMAND.parent / "encode_text"
pytestmark = pytest.mark.skipif(not _TOOL.is_file(), reason=f"{_TOOL} is not built beside the command")

GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2: Final = LLAMA3.replace("{1,3}", "")
O200K: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

AWKWARD: Final = [
    "",
    " ",
    "  leading, trailing  ",
    "I'm you'RE we'Ve THEY'LL it'S he'd 'tis don't I\u2019m it'\u017f \u212aelvin's",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "cafe\u0301 caf\u00e9 A\u030a \u00c5 \u212b o\u0302\u0323 \ufb01 \u1e9b\u0323 \ud55c\uae00 \u1112\u1161\u11ab",
    "\u0301\u0308 lone marks \u0300",
    "\u4e2d\u6587\u5206\u8bcd \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 \U00020000",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202eRTL\u202c \u0660\u0661\u0662",
    "\t\ttabs\t \n\n newlines\r\n\r\n \r mixed \n\t \n",
    "1 12 123 1234567890 3.14159 1e-10 \u00bd \u2167 \u2460 \u0967\u0968\u0969 1,234,567",
    "\x00\x01\x02\x1b[0m\x7f\x80\x85\x9f",
    "a\u2028b\u2029c\u00a0d\u00a0\u00a0e\u202ff\u3000g\u180eh\u200bi\ufeffj\u2003 \u2003k",
    "w" * 5000,
    "ab" * 3000 + " " * 2000 + "x" + "\n" * 500 + "!" * 1000,
    "<|endoftext|>text<|mask|><|mask|> <|mask|>\n<|endoftext|",
    "<|mask|>\n\n  <sp>  <sp>\t<word>x <word> <word>. a<word> <caf\u00e9> <cafe\u0301> <|mas<|mask|>k|>",
    "snake_case camelCase kebab-case __init__ if (x >= 0) { return x[i++] && !y; }  // #comment",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\Users\\x",
]


def trained(pre_tokenizer: Any, normalizer: Any = None, **options: Any) -> Tokenizer:
    """A byte-level BPE tokenizer of 2,000 tokens, with one added token of each kind."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    text = (tiny_llada() / "calibration.txt").read_text(encoding="utf-8")
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator([text, *AWKWARD * 20], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|mask|>"])
    tokenizer.add_tokens(
        [
            AddedToken("<sp>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("<caf\u00e9>", normalized=True),
            AddedToken("<|mask|><|mask|>", normalized=True),
        ]
    )
    return tokenizer


def byte_level(**options: Any) -> Any:
    return pre_tokenizers.ByteLevel(**({"add_prefix_space": False, "use_regex": True} | options))


def split(pattern: str | Regex, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(pattern, behavior, invert)


def after(*steps: Any) -> Any:
    return pre_tokenizers.Sequence([*steps, byte_level(use_regex=False)])


TOKENIZERS: Final = {
    "gpt2": lambda: trained(byte_level()),
    "gpt2-prefix-space": lambda: trained(byte_level(add_prefix_space=True)),
    "no-regex": lambda: trained(byte_level(use_regex=False)),
    "gpt2-split": lambda: trained(after(split(Regex(GPT2)))),
    "llama3": lambda: trained(after(split(Regex(LLAMA3))), ignore_merges=True),
    "o200k": lambda: trained(after(split(Regex(O200K)))),
    "qwen2": lambda: trained(after(split(Regex(QWEN2))), normalizers.NFC()),
    "smollm2": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()])),
    "digits-together": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level()])),
    "nfd": lambda: trained(byte_level(), normalizers.NFD()),
    "nfkc": lambda: trained(byte_level(), normalizers.NFKC()),
    "nfkd-nfc": lambda: trained(byte_level(), normalizers.Sequence([normalizers.NFKD(), normalizers.NFC()])),
    "word-classes": lambda: trained(after(split(Regex(r"^\w+|[\w\d]+$|[^\w\s]|\W\d|\h{2}"), "removed"))),
    "empty-matches": lambda: trained(after(split(Regex(r"\d*|(?=x)"), "merged_with_previous"))),
    "string": lambda: trained(after(split("a.", "contiguous"), split(" ", "merged_with_next"))),
    "inverted": lambda: trained(after(split(Regex(r"\p{L}+|\p{N}"), "removed", invert=True))),
    "merged-with-next": lambda: trained(after(split(Regex(r"\s"), "merged_with_next"))),
    "merged-with-previous": lambda: trained(after(split(Regex(r"\s"), "merged_with_previous", invert=True))),
    "contiguous": lambda: trained(after(split(Regex(r"[\s\p{P}]"), "contiguous"))),
    "unknown-tokens": lambda: _with_unknown(fuse=False),
    "unknown-tokens-fused": lambda: _with_unknown(fuse=True),
    "unknown-characters-dropped": lambda: _with_unknown(fuse=None),
}


def _with_unknown(fuse: bool | None) -> Tokenizer:
    """BPE over characters, not bytes."""
    vocabulary = {token: index for index, token in enumerate(["?", "a", "b", "ab", "abab", " ", "\u00e9", "aba"])}
    options = {} if fuse is None else {"unk_token": "?", "fuse_unk": fuse}
    merges = [("a", "b"), ("ab", "ab"), ("ab", "a")]
    return Tokenizer(models.BPE(vocabulary, merges, **options))


_HF_NFKD: Final = normalizers.NFKD()


def is_comparable(character: str) -> bool:
    """Assigned in this Python's Unicode (14), and a mark that Hugging Face's older normalization knows as one.

    Newer characters are letters to one library and nothing to another, by the age of their tables.
    """
    if unicodedata.category(character) in ("Cn", "Cs", "Co"):
        return False
    texts = (character, "\u0345" + character)  # U+0345 goes behind every other mark
    return all(_HF_NFKD.normalize_str(text) == unicodedata.normalize("NFKD", text) for text in texts)


def random_texts(count: int, seed: int = 20261124) -> Iterable[str]:
    """Strings of characters from three ranges of Unicode, of words and of added tokens."""
    generator = random.Random(seed)
    ranges = [(0x20, 0x7E), (0x00, 0x20), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x1FFF)]
    ranges += [(0x2000, 0x206F), (0x20A0, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)]
    ranges += [(0xF900, 0xFFFF), (0x10000, 0x1FFFF)]
    words = [
        "<|mask|>",
        "<|endoftext|>",
        "<sp>",
        "<word>",
        "'s",
        "'LL",
        "the ",
        " and",
        "\n\n",
        "  ",
        "12345",
        "\u017f",
    ]
    for _ in range(count):
        favourites = generator.sample(ranges, 3)
        text = ""
        for _ in range(generator.randrange(1, 30)):
            if generator.random() < 0.2:
                text += generator.choice(words)
                continue
            character = chr(generator.randint(*generator.choice([*favourites, ranges[0]])))
            if is_comparable(character):
                text += character
        yield text


def run_tool(tokenizer: Path, lines: Iterable[Any], *arguments: str, folder: Path = COMMAND.parent) -> list[Any]:
    """What encode_text of a build makes of each line."""
    process = subprocess.run(
        [folder / "encode_text", tokenizer, *arguments],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=os.environ | SANITIZER_OPTIONS,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def assert_equal_ids(path: Path, texts: list[str]) -> None:
    reference = Tokenizer.from_file(str(path))
    expected = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    for text, ids, ours in zip(texts, expected, run_tool(path, texts), strict=True):
        assert ours == ids, f"{text!r}: {[reference.id_to_token(i) for i in ids]}"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (tiny_llada() / "calibration.txt").read_text(encoding="utf-8").splitlines()[:200]
    return [*AWKWARD, "\n".join(AWKWARD), "\n".join(lines), *lines, *random_texts(4000)]


def test_the_bundled_tokenizer_gives_the_same_ids(texts: list[str]) -> None:
    assert_equal_ids(tiny_llada() / "tokenizer.json", texts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_trained_tokenizers_give_the_same_ids(name: str, texts: list[str], tmp_path: Path) -> None:
    TOKENIZERS[name]().save(str(tmp_path / "tokenizer.json"))
    assert_equal_ids(tmp_path / "tokenizer.json", texts)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "smollm2"])
def test_every_assigned_character_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    TOKENIZERS[name]().save(str(tmp_path / "tokenizer.json"))
    characters = [chr(i) for i in range(sys.maxunicode + 1) if is_comparable(chr(i))]
    assert_equal_ids(
        tmp_path / "tokenizer.json", [f"a{character}b1{character}2 {character}" for character in characters]
    )


def test_merges_as_strings_are_read(texts: list[str], tmp_path: Path) -> None:
    document = json.loads((tiny_llada() / "tokenizer.json").read_text())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert_equal_ids(tmp_path / "tokenizer.json", texts[:300])


def test_decoding_gives_the_same_text(texts: list[str]) -> None:
    path = tiny_llada() / "tokenizer.json"
    reference = Tokenizer.from_file(str(path))
    generator = random.Random(1)
    lists = [reference.encode(text).ids for text in texts[:500]]
    # Single bytes in any order are rarely UTF-8, and ids beyond the vocabulary are no tokens.
    lists += [[generator.randrange(1100) for _ in range(20)] for _ in range(1000)]
    expected = [reference.decode(ids, skip_special_tokens=False) for ids in lists]
    assert run_tool(path, lists, "decode") == expected


@pytest.mark.skipif(SANITIZED_COMMAND is None, reason="DIFFULEX_EDGE_ASAN is not set")
@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2", "nfkd-nfc"])
def test_nothing_is_found_by_sanitizers(name: str, texts: list[str], tmp_path: Path) -> None:
    assert SANITIZED_COMMAND is not None
    TOKENIZERS[name]().save(str(tmp_path / "tokenizer.json"))
    run_tool(tmp_path / "tokenizer.json", texts, folder=SANITIZED_COMMAND.parent)
