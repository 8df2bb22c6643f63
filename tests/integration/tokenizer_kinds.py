"""Small tokenizers of every kind that is read, trained on the bundled model's text, and the folders that hold them."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sentencepiece
from command import tiny_llada
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

MARK: Final = "\u2581"
BYTES: Final = [f"<0x{byte:02X}>" for byte in range(256)]
QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def text_lines() -> list[str]:
    return (tiny_llada() / "calibration.txt").read_text(encoding="utf-8").splitlines()[:400]


def with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """One added token of each kind."""
    tokenizer.add_special_tokens(["<|endoftext|>", "<|mask|>"])
    tokenizer.add_tokens(
        [
            AddedToken("<sp>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("<caf\u00e9>", normalized=True),
        ]
    )
    return tokenizer


def llama(*, legacy: bool, fuse_unk: bool = True) -> Tokenizer:
    """As Llama 2's tokenizer.json: byte fallback, and spaces by normalizers (legacy) or by Metaspace."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=True))
    space = pre_tokenizers.Metaspace(MARK, "first", split=False)
    prefix = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "first")
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(text_lines(), trainer)
    # Trained bytes would be found in texts: in a published file they are no added tokens.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.normalizer = prefix if legacy else None
    tokenizer.pre_tokenizer = None if legacy else space
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return with_added_tokens(tokenizer)


def character_map() -> bytes:
    """SentencePiece's table of the name nmt_nfkc."""
    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_bytes("unigram", 100))
    return bytes(model.normalizer_spec.precompiled_charsmap)


def unigram(*, byte_fallback: bool = False, scheme: str = "always", normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, scheme)
    tokens = ["<unk>", "</s>", *(BYTES if byte_fallback else [])]
    trainer = trainers.UnigramTrainer(
        vocab_size=900, special_tokens=tokens, unk_token="<unk>", show_progress=False, initial_alphabet=["a", "b"]
    )
    tokenizer.train_from_iterator(text_lines(), trainer)
    document = json.loads(tokenizer.to_str())
    document["model"]["byte_fallback"] = byte_fallback
    document["added_tokens"] = document["added_tokens"][:2]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.normalizer = normalizer
    steps = [decoders.ByteFallback()] if byte_fallback else []
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Metaspace(MARK, scheme)])
    return with_added_tokens(tokenizer)


def word_piece(normalizer: Any, pre_tokenizer: Any, **decoder: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(text_lines(), trainer)
    tokenizer.decoder = decoders.WordPiece(**decoder)
    return with_added_tokens(tokenizer)


def affixes(**options: Any) -> Tokenizer:
    """BPE whose tokens say where in a word they stand."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>"], show_progress=False, **options)
    tokenizer.train_from_iterator(text_lines(), trainer)
    if "end_of_word_suffix" in options:
        tokenizer.decoder = decoders.BPEDecoder(options["end_of_word_suffix"])
    return with_added_tokens(tokenizer)


def replaced() -> Tokenizer:
    """Normalizers and pre-tokenizers that no other of these has."""
    tokenizer = affixes()
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.Strip(left=True, right=False),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s{2,}|\d"), "#"),
            normalizers.Replace("th", "\u00fe"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.CharDelimiterSplit("e"), pre_tokenizers.Punctuation("merged_with_previous")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex("o+"), "0"), decoders.Strip("a", 1, 0)])
    return tokenizer


BERT: Final = normalizers.BertNormalizer
TOKENIZERS: Final[dict[str, Callable[[], Tokenizer]]] = {
    "llama-legacy": lambda: llama(legacy=True),
    "llama": lambda: llama(legacy=False),
    "llama-unfused": lambda: llama(legacy=False, fuse_unk=False),
    "unigram": unigram,
    "unigram-bytes": lambda: unigram(byte_fallback=True, scheme="first"),
    "unigram-never": lambda: unigram(scheme="never", normalizer=normalizers.NFKC()),
    "unigram-charsmap": lambda: unigram(normalizer=normalizers.Precompiled(character_map())),
    "bert": lambda: word_piece(BERT(), pre_tokenizers.BertPreTokenizer()),
    "bert-cased": lambda: word_piece(BERT(lowercase=False), pre_tokenizers.BertPreTokenizer(), cleanup=False),
    "bert-accents": lambda: word_piece(BERT(strip_accents=False), pre_tokenizers.Whitespace()),
    "bert-plain": lambda: word_piece(
        BERT(clean_text=False, handle_chinese_chars=False), pre_tokenizers.WhitespaceSplit()
    ),
    "suffix": lambda: affixes(end_of_word_suffix="</w>"),
    "prefix": lambda: affixes(continuing_subword_prefix="##"),
    "replaced": replaced,
}


def sentencepiece_bytes(kind: str, size: int, **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_lines()), model_writer=model, vocab_size=size, model_type=kind,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return model.getvalue()


_BERT_PROBE: Final = normalizers.BertNormalizer(
    clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=True
)
_PUNCTUATION: Final = pre_tokenizers.Punctuation()


def has_one_meaning(character: str) -> bool:
    """Whether Hugging Face's tables, of an older Unicode, say of a character what those of this Python do.

    Where they do not, it is a letter to one library and a mark or nothing to another, by the tables' age.
    """
    category = unicodedata.category(character)
    is_punctuation = category[0] == "P" or (character < "\x80" and category[0] == "S")
    if is_punctuation != (len(_PUNCTUATION.pre_tokenize_str("a" + character + "b")) == 3):
        return False
    if category[0] == "M":
        is_stripped = normalizers.StripAccents().normalize_str(character) == ""
        return is_stripped and (category != "Mn" or _BERT_PROBE.normalize_str("a" + character) == "a")
    if category == "Cf":
        return _BERT_PROBE.normalize_str("a" + character + "b") == "ab"
    return normalizers.Lowercase().normalize_str(character) == character.lower()


def added(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of added_tokens_decoder."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} | flags
    return {"content": content} | flags


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE of at most 1000 tokens, as Qwen2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text_lines(), trainer)
    return tokenizer


def write_vocabulary_and_merges(folder: Path) -> int:
    """vocab.json and merges.txt; returns the number of tokens."""
    tokenizer = byte_level_tokenizer()
    tokenizer.model.save(str(folder))
    return tokenizer.get_vocab_size()


def write_dream(folder: Path, **config: Any) -> None:
    """The files of Dream's tokenizer: as Qwen2's, with a mask token."""
    size = write_vocabulary_and_merges(folder)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
    decoder = {str(size + index): added(token) for index, token in enumerate(tokens)}
    decoder[str(size + len(tokens))] = added("<tool_call>", special=False)
    document = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|beginoftext|>", "<|mask|>"],
        "bos_token": "<|beginoftext|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", document | config)


def write_old_qwen2(folder: Path) -> None:
    """Added tokens as transformers wrote them before it had added_tokens_decoder."""
    size = write_vocabulary_and_merges(folder)
    tokens = {"<|endoftext|>": size, "<|im_end|>": size + 1, "<|mask|>": size + 2, "<plain>": size + 3}
    write_json(folder / "added_tokens.json", tokens)
    special = {
        "additional_special_tokens": ["<|im_end|>"],
        "eos_token": "<|endoftext|>",
        "mask_token": {
            "content": "<|mask|>",
            "lstrip": True,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        },
        "pad_token": "<|pad|>",
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2TokenizerFast", "add_prefix_space": False})


def write_gpt2(folder: Path) -> None:
    write_vocabulary_and_merges(folder)
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": True}
    write_json(folder / "tokenizer_config.json", config)


def write_sentencepiece(folder: Path, kind: str, config: dict[str, Any] | None, **options: Any) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece_bytes(kind, 700, **options))
    write_json(folder / "config.json", {"model_type": "llama"})
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)


def write_bert(folder: Path, **config: Any) -> None:
    word_piece(BERT(), pre_tokenizers.BertPreTokenizer()).model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"} | config)


LLAMA: Final = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
FOLDERS: Final[dict[str, Callable[[Path], None]]] = {
    "dream": write_dream,
    "dream-begin": lambda folder: write_dream(folder, add_bos_token=True),
    "qwen2-old": write_old_qwen2,
    "gpt2": write_gpt2,
    "llama": lambda folder: write_sentencepiece(
        folder, "bpe", {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}, **LLAMA
    ),
    "llama-legacy": lambda folder: write_sentencepiece(
        folder, "bpe", {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}, **LLAMA
    ),
    "llama-no-prefix": lambda folder: write_sentencepiece(
        folder, "bpe", {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}, **LLAMA
    ),
    "llama-added": lambda folder: write_sentencepiece(
        folder, "bpe",
        {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {"0": added("<unk>"), "1": added("<s>"),
         "2": added("</s>"), "700": added("<|mask|>")}, "mask_token": "<|mask|>"}, **LLAMA,
    ),
    "bpe-of-no-class": lambda folder: write_sentencepiece(folder, "bpe", None, byte_fallback=True),
    "bpe-with-user-defined": lambda folder: write_sentencepiece(
        folder, "bpe", None, user_defined_symbols=["<sp>", "the.", "(x)"], byte_fallback=True
    ),
    "unigram-of-no-class": lambda folder: write_sentencepiece(folder, "unigram", None),
    "unigram-bytes": lambda folder: write_sentencepiece(
        folder, "unigram", {"tokenizer_class": "PreTrainedTokenizerFast", "legacy": False}, byte_fallback=True
    ),
    "unigram-plain": lambda folder: write_sentencepiece(
        folder, "unigram", None, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, user_defined_symbols=["<word>"],
    ),
    "bert": write_bert,
    "bert-cased": lambda folder: write_bert(folder, do_lower_case=False, tokenize_chinese_chars=False),
}  # fmt: skip
