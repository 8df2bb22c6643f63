"""GGUF files are read as the `gguf` package and llama.cpp's converter mean them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
import torch
from command import BAD_FILE, COMMAND, UNSUPPORTED, assert_fails, run, run_bounded, run_json, tiny_llada_text
from expert_families import ExpertReference, make_expert_checkpoint
from families import Reference, compare, make_config, make_weights, write_checkpoint
from gguf import GGMLQuantizationType as Type
from gguf_models import ARCHITECTURES, EXPERT_ARCHITECTURES, write_gguf
from safetensors.torch import load_file
from simulation import simulated_logits
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers.convert_slow_tokenizer import generate_merges

SIZES: Final = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 160,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
LLADA_SIZES: Final = {
    "d_model": 256, "mlp_hidden_size": 512, "n_layers": 2, "vocab_size": 160, "embedding_size": 160, "n_heads": 4,
    "n_kv_heads": 2, "mask_token_id": 159,
}  # fmt: skip
TYPES: Final = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]


def checkpoint(folder: Path, family: str, **more: Any) -> Path:
    config = make_config(family, **((LLADA_SIZES if family == "llada" else SIZES) | more))
    return write_checkpoint(folder / "original", config, make_weights(config))


def plain(folder: Path, model: Path, values: dict[str, Tensor]) -> Path:
    """A checkpoint of the values that the GGUF file holds."""
    return write_checkpoint(folder / "plain", json.loads((model / "config.json").read_text()), values)


def token_ids(vocabulary: int = 160) -> Tensor:
    return torch.randint(0, vocabulary, (20,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TYPES)
def test_values_are_those_of_the_gguf_package(name: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "llama")
    values = write_gguf(tmp_path / "model.gguf", model, lambda _: Type[name])
    run_json("quantize", tmp_path / "model.gguf", "-o", tmp_path / "written", "--dtype", "fp32")
    written = load_file(tmp_path / "written/model.safetensors")
    assert set(written) == set(values)
    for tensor, value in values.items():
        assert torch.equal(written[tensor].float(), value), tensor


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_computes_as_its_checkpoint(family: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, family)
    values = write_gguf(tmp_path / "model.gguf", model, lambda _: Type.Q8_0)
    reference = plain(tmp_path, model, values)
    ids = token_ids()
    ours = simulated_logits(tmp_path / "model.gguf", ids, tmp_path)
    assert torch.equal(ours, simulated_logits(reference, ids, tmp_path))
    assert compare(ours, Reference(reference).logits(ids)[0])["max_abs"] < 1e-3
    report = run_json("export", tmp_path / "model.gguf", "-o", tmp_path / "x.pte", "--dry-run")
    assert any("GGUF Q8_0: dequantized" in warning for warning in report["warnings"])
    report = run_json("inspect", tmp_path / "model.gguf")
    assert report["kind"] == "gguf"
    assert {tensor["name"] for tensor in report["tensors"]} == set(values)


EXPERT_SIZES: Final = {
    "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 160, "num_hidden_layers": 1,
    "num_experts": 4, "mask_token_id": 159,
}  # fmt: skip


@pytest.mark.parametrize("family", EXPERT_ARCHITECTURES)
def test_experts_compute_as_their_checkpoint(family: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"moe_layer_freq": [1]} if family == "llada_moe" else {"head_dim": 64}
    sizes = EXPERT_SIZES | ({"mask_token_id": None} if family == "qwen3_moe" else {})
    model = make_expert_checkpoint(tmp_path / "original", family, **sizes, **more)
    types = {"gate_proj": Type.Q8_0, "up_proj": Type.Q4_0, "down_proj": Type.Q5_1}
    values = write_gguf(tmp_path / "model.gguf", model, lambda name: types.get(name.split(".")[-2], Type.F32))
    reference = plain(tmp_path, model, values)
    ids = token_ids()
    ours = simulated_logits(tmp_path / "model.gguf", ids, tmp_path)
    assert torch.equal(ours, simulated_logits(reference, ids, tmp_path))
    assert compare(ours, ExpertReference(reference).logits(ids))["max_abs"] < 1e-3
    assert {tensor["name"] for tensor in run_json("inspect", tmp_path / "model.gguf")["tensors"]} == set(values)


def test_experts_that_are_not_as_llama_cpp_computes_them_are_refused(tmp_path: Path) -> None:
    model = make_expert_checkpoint(tmp_path / "original", "qwen3_moe")
    target = tmp_path / "model.gguf"
    for add, words in {
        lambda writer: writer.add_expert_weights_norm(False): ("normalizes the weights of experts",),
        lambda writer: writer.add_expert_group_count(4): ("'qwen3moe.expert_group_count' 4",),
        lambda writer: writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID): ("expert_gating_func",),
    }.items():
        write_gguf(target, model, lambda _: Type.F32, add)
        assert_fails(run("inspect", target), UNSUPPORTED, str(target), *words)
    write_gguf(target, model, lambda _: Type.F32)
    data = target.read_bytes()
    shape = struct.pack("<IQQQ", 3, 96, 64, 8)
    assert shape in data
    target.write_bytes(data.replace(shape, struct.pack("<IQQQ", 3, 96, 32, 16), 1))
    assert_fails(run("inspect", target), BAD_FILE, "_exps.weight", "one for each of 8 experts")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "dream"])
def test_a_full_mask_without_a_shift_is_a2ds(family: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, family)

    def add(writer: Any) -> None:
        if family != "dream":
            writer.add_causal_attention(False)
        writer.add_diffusion_shift_logits(False)

    write_gguf(tmp_path / "model.gguf", model, lambda _: Type.F32, add)
    config = run_json("inspect", tmp_path / "model.gguf")["config"]
    assert (config["family"], config["block_length"]) == ("a2d", 0)
    ours = simulated_logits(tmp_path / "model.gguf", token_ids(), tmp_path)
    assert torch.equal(ours, simulated_logits(model, token_ids(), tmp_path, "--block-length", 0))


def test_exports_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "llama", tie_word_embeddings=True)
    values = write_gguf(tmp_path / "model.gguf", model, lambda name: Type.Q6_K if "embed" in name else Type.Q4_K)
    reference = plain(tmp_path, model, values)
    for options in (("--dtype", "int4", "--group-size", 32), ("--dtype", "fp16")):
        written = []
        for source in (tmp_path / "model.gguf", reference):
            run_json("export", source, "-o", tmp_path / "model.pte", *options)
            written.append((tmp_path / "model.pte").read_bytes())
        assert written[0] == written[1]
    assert run_json("quantize", tmp_path / "model.gguf", "-o", tmp_path / "int4", "--dtype", "int4")["success"]
    stored = load_file(tmp_path / "int4/model.safetensors")
    run_json("quantize", reference, "-o", tmp_path / "int4-plain", "--dtype", "int4")
    expected = load_file(tmp_path / "int4-plain/model.safetensors")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


LLAMA3: Final = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def llama3_factors(theta: float, dim: int, context: int, factor: float) -> Tensor:
    """What llama.cpp's converter writes as rope_freqs.weight."""
    waves = 2 * math.pi * theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    smooth = (context / waves - 1) / 3
    blended = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(waves < context / 4, 1.0, torch.where(waves > context, factor, blended))
    return factors.float()


@pytest.mark.parametrize("kind", ["llama3", "linear", "yarn"])
def test_rotary_scaling_is_the_checkpoints(kind: str, tmp_path: Path) -> None:
    scaling: dict[str, Any] = {
        "llama3": LLAMA3 | {"original_max_position_embeddings": 8192},
        "linear": {"rope_type": "linear", "factor": 4.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    }[kind]
    model = checkpoint(tmp_path, "llama", rope_theta=500000.0, rope_scaling=scaling)

    def add(writer: Any) -> None:
        if kind == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_factors(500000.0, 64, 8192, 8.0).numpy())
        else:
            writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
            writer.add_rope_scaling_factor(4.0)
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(64)

    write_gguf(tmp_path / "model.gguf", model, lambda _: Type.F32, add)
    ids = token_ids()
    ours = simulated_logits(tmp_path / "model.gguf", ids, tmp_path)
    assert torch.equal(ours, simulated_logits(model, ids, tmp_path))


def test_frequencies_of_no_known_rule_are_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "llama")
    write_gguf(
        tmp_path / "model.gguf", model, lambda _: Type.F32,
        lambda writer: writer.add_tensor("rope_freqs.weight", np.linspace(1, 3, 32, dtype=np.float32)),
    )  # fmt: skip
    assert_fails(run("inspect", tmp_path / "model.gguf"), UNSUPPORTED, "rope_freqs.weight", "Llama 3")


PATTERNS: Final = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
TEXTS: Final = [
    "In the beginning was the word, and 1234567 words more.", "  I'm here\n\n\tthey'LL be there  ",
    "<|im_start|>user\ncafe\u0301 \u4e2d\u6587 \U0001f44d\U0001f3fd<|im_end|>", "", "x=[1,22,333]; // __init__",
]  # fmt: skip


def hugging_face_tokenizer(kind: str) -> Tokenizer:
    """The bundled model's vocabulary with the rules of a family."""
    source = json.loads((tiny_llada_text() / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in source["merges"]]
    tokenizer = Tokenizer(models.BPE(source["vocab"], merges, ignore_merges=kind == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in PATTERNS)
    steps = {"smollm": [pre_tokenizers.Digits(individual_digits=True)], "gpt-2": []}
    first = [pre_tokenizers.Split(Regex(PATTERNS[kind]), "isolated")] if kind in PATTERNS else steps[kind]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|mask|>"])
    return tokenizer


def add_tokenizer(writer: Any, tokenizer: Tokenizer, kind: str, template: str) -> None:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = set(vocabulary) - set(tokenizer.get_vocab(with_added_tokens=False))
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    assert [vocabulary[token] for token in tokens] == list(range(len(tokens)))
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in added else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_chat_template(template)


@pytest.mark.parametrize("kind", ["llama-bpe", "qwen2", "smollm", "gpt-2"])
def test_its_tokenizer_gives_hugging_faces_ids(kind: str, tmp_path: Path) -> None:
    tokenizer = hugging_face_tokenizer(kind)
    model = checkpoint(tmp_path, "qwen3", vocab_size=tokenizer.get_vocab_size())
    target = tmp_path / "model.gguf"
    write_gguf(target, model, lambda _: Type.F16, lambda writer: add_tokenizer(writer, tokenizer, kind, "{{ 1 }}"))
    run_json("quantize", target, "-o", tmp_path / "written", "--dtype", "fp32", "--block-length", 1)
    written = Tokenizer.from_file(str(tmp_path / "written/tokenizer.json"))
    for text in TEXTS:
        assert written.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).ids, text
    # Read without being written, as any command does.
    texts = tmp_path / "texts.txt"
    texts.write_text(TEXTS[0] + "\n", encoding="utf-8")
    sources = (target, tmp_path / "written")
    losses = [run_json("evaluate", source, "--data", texts, "--block-length", 1)["loss"] for source in sources]
    assert losses[0] == losses[1]


def test_merges_of_sentence_piece_are_hugging_faces(tmp_path: Path) -> None:
    """Its scores become the list of merges that transformers' converter makes of them."""
    letters = ["\u2581", *"abcdeinrt\u00e9\u4e2d"]
    longer = [
        "\u2581a",
        "in",
        "an",
        "\u2581in",
        "er",
        "re",
        "ter",
        "inter",
        "\u2581inter",
        "\u2581an",
        "and",
        "\u00e9\u4e2d",
        "nd",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *longer, *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(longer) + len(letters))]
    scores = [0.0] * 259 + [-float(rank // 2) for rank in range(len(longer) + len(letters))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    expected = generate_merges(vocabulary, list(zip(tokens, scores, strict=True)))

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_unk_token_id(0)

    model = checkpoint(tmp_path, "llama", vocab_size=len(tokens), bos_token_id=1, eos_token_id=2)
    write_gguf(tmp_path / "model.gguf", model, lambda _: Type.F16, add)
    run_json("quantize", tmp_path / "model.gguf", "-o", tmp_path / "written", "--dtype", "fp32")
    written = json.loads((tmp_path / "written/tokenizer.json").read_text(encoding="utf-8"))
    assert [tuple(merge) for merge in written["model"]["merges"]] == [tuple(merge) for merge in expected]
    tokenizer = Tokenizer.from_file(str(tmp_path / "written/tokenizer.json"))
    encoded = tokenizer.encode("inter an\u00e9 x")
    assert encoded.tokens == ["<s>", "\u2581inter", "\u2581an", "\u00e9", "\u2581", "<0x78>"]
    assert tokenizer.decode(encoded.ids) == "inter an\u00e9 x"


def test_it_writes_and_chats(tmp_path: Path) -> None:
    """The bundled model as GGUF writes what its folder writes."""
    template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}In the{{ eos_token }}"
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in tiny_llada_text().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(template)
    source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    special = {token["content"] for token in source["added_tokens"] if token["special"]}

    def add(writer: Any) -> None:
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in special else 1 for token in tokens])
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in source["model"]["merges"]])
        writer.add_chat_template(template)

    target = tmp_path / "model.gguf"
    write_gguf(target, folder, lambda _: Type.F32, add)
    for options in ((), ("--chat",)):
        asked = ("--prompt", "In the beginning", "--max-new-tokens", 16, *options)
        ours, theirs = (run_json("generate", model, *asked) for model in (target, folder))
        assert ours["tokens"] == theirs["tokens"]
        assert ours["text"] == theirs["text"] != ""


def small(folder: Path) -> Path:
    model = checkpoint(folder, "llama")
    write_gguf(folder / "model.gguf", model, lambda _: Type.Q8_0)
    return folder / "model.gguf"


def test_other_types_and_architectures_are_refused(tmp_path: Path) -> None:
    target = small(tmp_path)
    data = target.read_bytes()
    at = data.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    assert struct.unpack_from("<I", data, at) == (8,)
    target.write_bytes(data[:at] + struct.pack("<I", 10) + data[at + 4 :])
    assert_fails(run("inspect", target), UNSUPPORTED, "attn_q.weight", "Q2_K", "Q4_K")
    target.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gemma", 1))
    assert_fails(run("inspect", target), UNSUPPORTED, '"gemma"', "qwen3moe, dream, llada")
    target.write_bytes(data.replace(b"llama.context_length", b"llama.kontext_length", 1))
    assert_fails(run("inspect", target), BAD_FILE, "'llama.context_length'", "is missing")
    target.write_bytes(b"GGUF" + struct.pack("<I", 1) + data[8:])
    assert_fails(run("inspect", target), UNSUPPORTED, "version 1")
    target.write_bytes(b"GGUF" + struct.pack(">I", 3) + data[8:])
    assert_fails(run("inspect", target), UNSUPPORTED, "big-endian")


def test_an_unknown_key_is_named_with_what_lets_it_pass(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "llama")
    target = tmp_path / "model.gguf"
    write_gguf(target, model, lambda _: Type.Q8_0, lambda writer: writer.add_logit_scale(2.0))
    assert_fails(run("inspect", target), UNSUPPORTED, "'llama.logit_scale'", "--ignore-config-key llama.logit_scale")
    run_json("inspect", target, "--ignore-config-key", "llama.logit_scale")


def test_experts_of_a_dense_architecture_are_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "llama")
    target = tmp_path / "model.gguf"
    write_gguf(target, model, lambda _: Type.Q8_0, lambda writer: writer.add_expert_count(8))
    assert_fails(run("inspect", target), UNSUPPORTED, "8 experts")


COUNTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "tensors": lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
    "keys": lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:],
    "a key's length": lambda data: data[:24] + struct.pack("<Q", 1 << 62) + data[32:],
    "an offset": lambda data: data.replace(
        struct.pack("<QIQ", 256, 8, 0), struct.pack("<QIQ", 256, 8, 1 << 63), 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COUNTS)
def test_lies_of_a_header_are_not_believed(what: str, command: Path, tmp_path: Path) -> None:
    target = small(tmp_path)
    data = target.read_bytes()
    changed = COUNTS[what](data)
    if what != "an offset":
        assert changed != data
    target.write_bytes(changed)
    if changed != data:
        assert_fails(run_bounded(command, "inspect", target), BAD_FILE, str(target))


def test_files_cut_anywhere_and_flipped_bytes_end_in_one_sentence(command: Path, tmp_path: Path) -> None:
    target = small(tmp_path)
    data = target.read_bytes()
    header = data.index(b"blk.1.ffn_up.weight") + 64
    generator = np.random.default_rng(5)
    cuts = [data[:size] for size in (0, 3, 4, 12, 23, 40, *generator.integers(24, len(data), 12))]
    flips = []
    for _ in range(40 if command == COMMAND else 12):
        damaged = bytearray(data)
        damaged[int(generator.integers(0, header))] ^= 1 << int(generator.integers(0, 8))
        flips.append(bytes(damaged))
    for damaged_data in cuts + flips:
        target.write_bytes(damaged_data)
        result = run_bounded(command, "inspect", target)
        assert result.returncode in (0, BAD_FILE, UNSUPPORTED), result.stderr
        assert len(result.stderr.splitlines()) == (0 if result.returncode == 0 else 1), result.stderr
