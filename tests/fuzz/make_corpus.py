#!/usr/bin/env python3
"""Writes corpus/READER/: small files of each kind that a fuzzer starts from, by the tests' own generators.

Run it where a reader learns to read something new, and commit what it writes:

    .venv/bin/python tests/fuzz/make_corpus.py --command build/release/bin/diffulex-edge

Files that begin with "seed-" are read without an error, those with "part-" as far as they go. Inputs of findings are
added by hand, under names that say what was wrong; they stay.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

FUZZ: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(FUZZ.parent / "integration"))

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import prequantized  # noqa: E402
import sentencepiece  # noqa: E402
import torch  # noqa: E402
from expert_families import make_expert_checkpoint  # noqa: E402
from families import FAMILIES, make_checkpoint  # noqa: E402
from gguf import GGMLQuantizationType  # noqa: E402
from gguf_models import random_blocks, write_gguf  # noqa: E402
from safetensors.torch import load_file, save, save_file  # noqa: E402

CORPUS: Final = FUZZ / "corpus"
LIMIT: Final = 48_000
"""Bytes of an input: a fuzzer is fast on small ones, and the repository stays small."""

Files = Mapping[str, str | bytes | dict[str, Any]]


def joined(files: Files) -> bytes:
    """An input of several files, as input_folder.h has it."""
    parts = []
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content
        data = text.encode() if isinstance(text, str) else text
        assert b"\n%%% " not in data, name
        parts.append(b"%%% " + name.encode() + b"\n" + data)
    return b"\n".join(parts)


def folder_input(folder: Path) -> bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return joined({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


# --- Small models.

SIZES: Final = {
    "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8,
    "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 64,
}  # fmt: skip
LLADA_SIZES: Final = {
    "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "mlp_hidden_size": 8, "n_layers": 1, "vocab_size": 12,
    "embedding_size": 12, "max_sequence_length": 64, "mask_token_id": 11,
}  # fmt: skip
WIDE: Final = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16}
"""Where groups of 32 are needed."""


def sizes_of(family: str) -> dict[str, Any]:
    if family == "llada":
        return LLADA_SIZES
    head = {"head_dim": 4} if family in ("sdar", "qwen3") else {}
    mask = {"mask_token_id": 11} if family == "dream" else {}
    return SIZES | head | mask


def small_model(path: Path, family: str, **overrides: Any) -> Path:
    return make_checkpoint(path, family, dtype="bfloat16", **sizes_of(family) | overrides)


EXPERTS: Final[dict[str, dict[str, Any]]] = {
    "qwen3_moe": SIZES | {"head_dim": 4, "moe_intermediate_size": 4, "num_experts": 4, "num_experts_per_tok": 2},
}


# --- Seeds by reader.


def safetensors_seeds() -> Iterator[tuple[str, bytes]]:
    yield "two", save({"a.weight": torch.ones(2, 4), "b": torch.zeros(0, 3, dtype=torch.int8)}, {"format": "pt"})
    yield "types", save({str(kind): torch.zeros(2, 2, dtype=kind) for kind in (
        torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool,
        torch.float8_e4m3fn, torch.float8_e5m2)})  # fmt: skip
    packed = torch.zeros(4, 16, dtype=torch.uint8)
    yield "int4", save({"x.weight": packed, "x.weight_scale": torch.ones(4, 1, dtype=torch.bfloat16)})
    yield "int8", save({"x.weight": torch.ones(4, 3, dtype=torch.int8), "x.weight_scale": torch.ones(4)})
    yield "input_ids", save({"input_ids_0": torch.arange(12).reshape(2, 6), "masked_0": torch.zeros(2, 6).bool()})


def config_seeds(place: Path) -> Iterator[tuple[str, bytes]]:
    for family in FAMILIES:
        yield family, (small_model(place / family, family) / "config.json").read_bytes()
    for family in ("llada_moe", "llada2_moe", "qwen3_moe"):
        path = make_expert_checkpoint(place / family, family)
        yield family, (path / "config.json").read_bytes()
    config = json.loads((place / "qwen3/config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32,
            "beta_slow": 1, "mscale": 1.0}  # fmt: skip
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 16}  # fmt: skip
    parameters = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    for name, change in {
        "yarn": {"rope_scaling": yarn},
        "llama3": {"rope_scaling": llama3},
        "nested": parameters,
    }.items():
        yield name, json.dumps(config | change).encode()
    yield "tokens", joined({
        "config.json": config | {"eos_token_id": [1, 2]},
        "generation_config.json": {"eos_token_id": 1, "bos_token_id": [0], "temperature": float("nan")},
        "tokenizer_config.json": {"mask_token": {"content": "<mask>"}, "eos_token": "<e>",
                                  "added_tokens_decoder": {"3": {"content": "<mask>", "special": True}}},
        "special_tokens_map.json": {"mask_token": "<mask>"},
        "tokenizer.json": {"added_tokens": [{"id": 3, "content": "<mask>", "special": True}]},
    })  # fmt: skip
    yield "gptq", joined({"config.json": config, "quantize_config.json": prequantized.Gptq().config()})


def checkpoint_seeds(place: Path, command: Path) -> Iterator[tuple[str, bytes]]:
    for family in FAMILIES:
        yield family, folder_input(small_model(place / family, family))
    for family, sizes in EXPERTS.items():
        yield family, folder_input(make_expert_checkpoint(place / family, family, dtype=torch.bfloat16, **sizes))
    sharded = make_checkpoint(place / "sharded", "llama", dtype="bfloat16", shards=2, **sizes_of("llama"))
    first, second = sorted(sharded.glob("model-*.safetensors"))
    index = (sharded / "model.safetensors.index.json").read_text()
    files = {"model-1.safetensors": first, "model-2.safetensors": second}
    for name, path in files.items():
        index = index.replace(path.name, name)
    yield "sharded", joined({
        "config.json": (sharded / "config.json").read_text(), "model.safetensors.index.json": index,
        "model-1.safetensors": first.read_bytes(), "model-2.safetensors": second.read_bytes()})  # fmt: skip
    wide = small_model(place / "wide", "qwen3", **WIDE)
    for model, dtype in ((place / "qwen3", "int8"), (wide, "int4")):
        target = place / f"ours-{dtype}"
        words = [command, "quantize", model, "-o", target, "--dtype", dtype, "--embedding-dtype", "int8"]
        subprocess.run(words, check=True, capture_output=True)
        yield f"ours-{dtype}", folder_input(target)
    yield from foreign_seeds(place, small_model(place / "foreign", "qwen3", num_key_value_heads=2))


def foreign_seeds(place: Path, model: Path) -> Iterator[tuple[str, bytes]]:
    """Of other quantizers, with all layers but embedding and head packed."""
    layouts: dict[str, Any] = {
        "gptq": prequantized.Gptq(group_size=8),
        "gptq-8": prequantized.Gptq(bits=8, group_size=4, symmetric=False, reordered=True),
        "awq": prequantized.Awq(group_size=8), "packed": prequantized.PackedIntegers(group_size=8, symmetric=False),
        "bytes": prequantized.Bytes(), "float": prequantized.Bytes(type="float", strategy="block", size=4),
        "fp8": prequantized.BlockFp8(size=4), "nf4": prequantized.Nf4(nested=False),
    }  # fmt: skip
    for name, layout in layouts.items():
        folder = place / f"foreign-{name}"
        shutil.copytree(model, folder)
        weights = load_file(folder / "model.safetensors")
        for layer in [key for key in weights if key.endswith("_proj.weight")]:
            rows, columns = weights.pop(layer).shape
            tensors, _ = layout.pack(rows, columns, torch.Generator().manual_seed(1))
            for part, value in tensors.items():
                if part == "bias":
                    continue
                key = layer.removesuffix("weight") + part
                weights[key] = value.contiguous()
        save_file(weights, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": layout.config()}))
        yield f"foreign-{name}", folder_input(folder)


def gguf_seeds(place: Path) -> Iterator[tuple[str, bytes]]:
    types = GGMLQuantizationType

    def add_tokenizer(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(["a", "b", "ab", "\u0120", "\u0120a", "<|e|>", *"cdefgh"])
        writer.add_token_types([1, 1, 1, 1, 1, 3, *[1] * 6])
        writer.add_token_merges(["a b", "\u0120 a"])
        writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")

    def add_sentencepiece(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", *"cdef"])
        writer.add_token_scores([0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0])
        writer.add_token_types([2, 3, 3, 6, *[1] * 8])

    for family in ("llama", "qwen2", "qwen3", "dream", "llada"):
        model = small_model(place / family, family)
        add = add_sentencepiece if family in ("llama", "llada") else add_tokenizer
        write_gguf(place / f"{family}.gguf", model, lambda name: types.F16, add)
        yield family, (place / f"{family}.gguf").read_bytes()
    wide = small_model(place / "wide", "qwen3", **WIDE)
    kinds = [types.Q8_0, types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1]
    write_gguf(place / "blocks.gguf", wide, lambda name: kinds[len(name) % len(kinds)])
    yield "blocks", (place / "blocks.gguf").read_bytes()
    # Blocks of 256, which no small model's rows have: a file that is no model, of which every tensor is read.
    writer = gguf.GGUFWriter(place / "k.gguf", "llama")
    for kind in (types.Q4_K, types.Q5_K, types.Q6_K):
        writer.add_tensor(f"{kind.name}.weight", random_blocks(kind, (1, 256), 1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    yield "part-k-blocks", (place / "k.gguf").read_bytes()


def npy_seeds() -> Iterator[tuple[str, bytes]]:
    for kind in ("<i8", "<i4", "<u2", "|i1"):
        stream = io.BytesIO()
        np.save(stream, np.arange(12, dtype=kind).reshape(2, 6))
        yield kind[1:], stream.getvalue()
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }\n"
    yield "version2", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + struct.pack("<2q", 1, 2)


def jsonl_seeds() -> Iterator[tuple[str, bytes]]:
    lines: dict[str, list[dict[str, Any]]] = {
        "text": [{"text": "abab ab"}, {"text": "a\u00e4b\u20ac"}],
        "ids": [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}],
        "tasks": [
            {"prompt": "a", "answer": "ab", "rule": "exact"}, {"prompt": "b", "answer": "1,000.5", "rule": "number"},
            {"prompt": "ab", "answer": "(a|b)+$", "rule": "regex"}, {"input_ids": [1, 2]},
            {"prompt": "a", "answer": "true", "rule": "command"},
        ],
    }  # fmt: skip
    for name, objects in lines.items():
        yield name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in objects).encode()


LAYERS: Final = [
    "embed_tokens", *(f"layers.0.self_attn.{part}_proj" for part in "qkvo"),
    *(f"layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")), "lm_head",
]  # fmt: skip


def plan_seeds(place: Path, command: Path) -> Iterator[tuple[str, bytes]]:
    """For tiny_model() of tiny_models.h."""
    model = small_model(place / "plan", "qwen3", tie_word_embeddings=False)
    np.save(place / "data.npy", np.arange(24).reshape(4, 6) % 12)
    words = [command, "plan", model, "-o", place / "plan.json", "--calibration", place / "data.npy",
             "--target-size", "30kB"]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    document = json.loads((place / "plan.json").read_text()) | {"model": "model"}
    yield "measured", json.dumps(document).encode()
    plain = {key: document[key] for key in ("format", "version", "mode", "method")}
    yield "default", json.dumps(plain | {"default": "int8", "layers": {"lm_head": "fp16"}}).encode()


def artefact_seeds(
    place: Path, command: Path, kinds: Mapping[str, list[str]], suffix: str = ""
) -> Iterator[tuple[str, bytes]]:
    models: dict[str, Path] = {}
    for name, options in kinds.items():
        family, *words = options
        if family not in models:
            models[family] = small_model(place / family, family, **(WIDE if family == "qwen3" else {}))
        target = place / f"out-{name}{suffix}"
        subprocess.run([command, "export", models[family], "-o", target, "--seq-len", "8", *words], check=True,
                       capture_output=True)  # fmt: skip
        if target.is_dir():
            yield name, folder_input(target)
        else:
            yield name, target.read_bytes()


PROGRAMS: Final = {
    "fp32": ["llada"],
    "int4": ["qwen3", "--dtype", "int4", "--group-size", "32", "--embedding-dtype", "int8"],
    "coreml": ["llada", "--backend", "coreml", "--container", "pte"],
}
PACKAGES: Final = {
    "fp16": ["llada", "--backend", "coreml"],
    "pipeline": ["llada", "--backend", "coreml", "--dtype", "int8", "--chunk-size", "2500"],
    "palette": ["llada", "--backend", "coreml", "--dtype", "palette4", "--minimum-deployment-target", "iOS16"],
}
ONNX: Final = {
    "fp16": ["llada", "--backend", "qnn"],
    "int4": ["qwen3", "--backend", "qnn", "--dtype", "int4", "--group-size", "32"],
}


# --- Tokenizers, whose vocabularies are a few tokens.

BYTES: Final = {chr(code): index for index, code in enumerate([*range(33, 127), 0x120, 0x10A])}


def tokenizer_json(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    size = len(model["vocab"])
    added = [{"id": size, "content": "<|mask|>", "special": True, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False},
             {"id": size + 1, "content": "ab ", "special": False, "single_word": True, "lstrip": True, "rstrip": True,
              "normalized": True}]  # fmt: skip
    empty = {"truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "post_processor": None,
             "decoder": None}  # fmt: skip
    return {"version": "1.0", "added_tokens": added} | empty | parts | {"model": model}


def tokenizer_seeds(place: Path) -> Iterator[tuple[str, bytes]]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
           "vocab": BYTES | {"in": 110, "\u0120t": 111, "he": 112}, "merges": ["i n", ["\u0120", "t"],
           "h e"]}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False}  # fmt: skip
    qwen = tokenizer_json(bpe, normalizer={"type": "NFC"}, decoder=byte_level,
                          pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})  # fmt: skip
    yield "byte-level", joined({"tokenizer.json": qwen, "text": "In the  beginning \u00e4 <|mask|>ab\n3.1415"})

    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "\u2581", *"aeginbhtIn.123", "\u2581the", "in"]
    llama = bpe | {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": ["i n"],
                   "vocab": {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}}  # fmt: skip
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}  # fmt: skip
    steps = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
             {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]  # fmt: skip
    prepend = [{"type": "Prepend", "prepend": "\u2581"},
               {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]  # fmt: skip
    yield "byte-fallback", joined({"tokenizer.json": tokenizer_json(
        llama, normalizer={"type": "Sequence", "normalizers": prepend}, post_processor=template,
        decoder={"type": "Sequence", "decoders": steps})})  # fmt: skip

    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [[piece, -index / 7] for index, piece in enumerate(dict.fromkeys(pieces))]}  # fmt: skip
    nmt = {"type": "Sequence", "normalizers": [
        {"type": "Nmt"}, {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "NFKD"},
        {"type": "StripAccents"}, {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}  # fmt: skip
    yield "unigram", joined({"tokenizer.json": tokenizer_json(
        unigram, normalizer=nmt, pre_tokenizer=metaspace, decoder=metaspace)})  # fmt: skip

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "in", "the", "beg", "##in", "##ning", "##s", "3", ".", "a"]
    word_piece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {word: index for index, word in enumerate(words)}}  # fmt: skip
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True}  # fmt: skip
    yield "word-piece", joined({"tokenizer.json": tokenizer_json(
        word_piece, normalizer=bert, pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})})  # fmt: skip
    yield "vocab-txt", joined({"vocab.txt": "\n".join(words) + "\n",
                               "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}})  # fmt: skip

    special = {"content": "<|mask|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
               "special": True}  # fmt: skip
    size = len(bpe["vocab"])
    yield "vocab-merges", joined({
        "vocab.json": bpe["vocab"], "merges.txt": "#version: 0.2\ni n\n\u0120 t\nh e\n",
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False,
                                  "added_tokens_decoder": {str(size): special}, "mask_token": "<|mask|>"},
        "special_tokens_map.json": {"mask_token": "<|mask|>"}})  # fmt: skip

    # A table of characters that is small, instead of nmt_nfkc's.
    (place / "rules.tsv").write_text("41\t61\n42\t62\nE9\t65 301\nFB01\t66 69\n")
    for kind, rules in {"bpe": {"normalization_rule_name": "identity"},
                        "unigram": {"normalization_rule_tsv": place / "rules.tsv"}}.items():  # fmt: skip
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["in the beginning god created the heaven and the earth", "and the earth was 3.14"]),
            model_writer=model, vocab_size=60, model_type=kind, hard_vocab_limit=False, minloglevel=2,
            num_threads=1, **rules,
        )  # fmt: skip
        config = {"tokenizer_class": "LlamaTokenizer", "legacy": True} if kind == "bpe" else {}
        yield f"sentencepiece-{kind}", joined({
            "tokenizer.model": model.getvalue(), "config.json": {"model_type": "llama"},
            "tokenizer_config.json": config})  # fmt: skip


TEMPLATES: Final = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "tools": "{%- macro show(x, indent=2) -%}{{ x | tojson(indent=indent) }}{%- endmacro -%}"
    "{%- if tools %}{%- for tool in tools %}{{ show(tool.function) }}{% else %}none{% endfor %}{% endif %}"
    "{%- set ns = namespace(last=-1, multi=true) %}{%- for m in messages[::-1] %}{%- set index = loop.index0 %}"
    "{%- if ns.multi and m.role == 'user' and m.content is string and not(m.content.startswith('<x>')) %}"
    "{%- set ns.last = index %}{%- endif %}{%- endfor %}{% for m in messages if m.role in ['user', 'tool'] %}"
    "{% if m.content is iterable and m.content is not string %}{% for part in m.content %}{{ part['text'] }}"
    "{% endfor %}{% else %}{{ m.content.split('</think>')[-1].lstrip('\\n') | upper }}{% endif %}"
    "{{ loop.cycle('a', 'b') }}{% endfor %}{{ ns.last }}",
    "filters": "{{ messages | map(attribute='role') | list | join(', ') }}{{ messages | selectattr('role', 'equalto', "
    "'user') | list | length }}{{ [3, 1, 2] | sort(reverse=true) | first }}{{ '%05.2f|%s' | format(3.14159, 'x') }}"
    "{{ {'a': 1, 'b': [1, 2]}.items() | list }}{{ 'abc'[::-1] ~ 7 // 2 ** 2 % 3 }}{{ strftime_now('%Y-%m-%d') }}"
    "{% raw %}{{ x }}{% endraw %}{# note #}{{ range(3) | reverse | list }}{{ none is none and true }}"
    "{{ messages | tojson }}{{ 'a-b' | replace('-', '+') | indent(2) | title }}",
}  # fmt: skip


def template_seeds() -> Iterator[tuple[str, bytes]]:
    for name, template in TEMPLATES.items():
        yield name, template.encode()
    document = {"bos_token": "<s>", "eos_token": {"content": "</s>"},
                "chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"},
                                  {"name": "tool_use", "template": "{{ tools | length }}{{ eos_token }}"}]}  # fmt: skip
    yield "several", joined({"tokenizer_config.json": document, "special_tokens_map.json": {"pad_token": "<p>"}})


def write(reader: str, seeds: Iterator[tuple[str, bytes]]) -> None:
    folder = CORPUS / reader
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob("seed-*"), *folder.glob("part-*")]:
        path.unlink()
    total = 0
    for name, content in seeds:
        if len(content) > LIMIT:
            print(f"{reader}: {name} has {len(content):,} bytes and is left out")
            continue
        (folder / (name if name.startswith("part-") else f"seed-{name}")).write_bytes(content)
        total += len(content)
    print(f"{reader}: {len(list(folder.iterdir()))} files, {total:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, type=lambda text: Path(text).resolve())
    command = parser.parse_args().command
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write("safetensors", safetensors_seeds())
        write("config", config_seeds(place / "config"))
        write("quantized_checkpoint", checkpoint_seeds(place / "checkpoint", command))
        write("gguf", gguf_seeds(place / "gguf"))
        write("npy", npy_seeds())
        write("jsonl", jsonl_seeds())
        write("plan", plan_seeds(place, command))
        write("program", artefact_seeds(place / "program", command, PROGRAMS, ".pte"))
        write("coreml_package", artefact_seeds(place / "coreml", command, PACKAGES, ".mlpackage"))
        write("onnx", artefact_seeds(place / "onnx", command, ONNX))
        write("tokenizer", tokenizer_seeds(place))
        write("chat_template", template_seeds())


if __name__ == "__main__":
    main()
