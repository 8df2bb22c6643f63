"""GGUF files that `quantize -o x.gguf` writes, read by the `gguf` package: what llama.cpp computes with.

`benchmarks/llama_cpp.py` loads such files in llama.cpp itself.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
import torch
from command import BAD_FILE, COMMAND, UNSUPPORTED, assert_fails, run, run_json, tiny_llada_text
from expert_families import make_expert_checkpoint
from families import OMIT, make_checkpoint
from gguf import GGMLQuantizationType as Type
from gguf_models import ARCHITECTURES, EXPERT_ARCHITECTURES, gguf_name, neighbours_rotated, write_gguf
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from simulation import simulated_logits
from tokenizer_kinds import TOKENIZERS, write_dream, write_sentencepiece
from tokenizers import Tokenizer
from torch import Tensor

Array = NDArray[Any]

DTYPES: Final = ("fp32", "fp16", "int8", "int4")
TEXT: Final = "In the beginning, 1234567 words.  I'm here\n\tcafe\u0301 \u4e2d\u6587 <|mask|>"


def fields(path: Path) -> dict[str, Any]:
    return {
        name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if not name.startswith("GGUF.")
    }


def values_in(path: Path) -> dict[str, Tensor]:
    """By GGUF's names, as the package dequantizes them."""
    values = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values[tensor.name] = torch.from_numpy(data.reshape(tuple(tensor.shape.tolist())[::-1]).copy())
    return values


def raw_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def values_of_folder(folder: Path) -> dict[str, Tensor]:
    """A quantized checkpoint's weights in float32, by its names."""
    stored = load_file(folder / "model.safetensors")
    values = {}
    for name, tensor in stored.items():
        scale = stored.get(f"{name}_scale")
        if name.endswith("_scale"):
            continue
        if scale is None:
            values[name] = tensor.float()
            continue
        integers = tensor.float()
        if tensor.dtype == torch.uint8:
            integers = torch.stack([(tensor & 15).float(), (tensor >> 4).float()], -1).flatten(1) - 8
        groups = integers.unflatten(1, (scale.shape[1] if scale.dim() == 2 else 1, -1))
        values[name] = (groups * scale.float().reshape(len(integers), -1, 1)).flatten(1)
    return values


def in_gguf(values: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Under the names and in the order of rows that llama.cpp's converter gives them."""
    is_llama = config["model_type"] in ("llama", "a2d-llama", "llada") and "num_experts" not in config
    heads = {
        "attn_q": config.get("num_attention_heads") or config.get("n_heads"),
        "attn_k": config.get("num_key_value_heads") or config.get("n_kv_heads"),
    }
    result: dict[str, Tensor] = {}
    experts: dict[str, list[Tensor]] = {}
    for name, value in values.items():
        before, is_expert, after = name.partition(".experts.")
        if is_expert:
            number, _, part = after.partition(".")
            experts.setdefault(gguf_name(f"{before}.experts.{part}"), []).insert(int(number), value)
            continue
        target = gguf_name(name)
        part = target.split(".")[-2]
        result[target] = neighbours_rotated(value, heads[part]) if is_llama and part in heads else value
    return result | {name: torch.stack(parts) for name, parts in experts.items()}


def read_config(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return config


def small_model(folder: Path, family: str, **more: Any) -> Path:
    if family in EXPERT_ARCHITECTURES:
        return make_expert_checkpoint(folder / "model", family, **more)
    return make_checkpoint(folder / "model", family, **more)


def write(model: Path, target: Path, *options: object) -> dict[str, Any]:
    return run_json("quantize", model, "-o", target, *options)


@pytest.mark.parametrize("family", [*ARCHITECTURES, *EXPERT_ARCHITECTURES])
def test_values_are_those_of_the_quantized_checkpoint(family: str, tmp_path: Path) -> None:
    model = small_model(tmp_path, family)
    config = read_config(model)
    for dtype in ("fp32", "fp16", "int4"):
        report = write(model, tmp_path / "x.gguf", "--dtype", dtype)
        write(model, tmp_path / dtype, "--dtype", dtype)
        expected = in_gguf(values_of_folder(tmp_path / dtype), config)
        values = values_in(tmp_path / "x.gguf")
        assert values.keys() == expected.keys()
        for name, value in values.items():
            assert torch.equal(value, expected[name]), name
        assert report["file_bytes"] == (tmp_path / "x.gguf").stat().st_size
        ours = simulated_logits(tmp_path / "x.gguf", torch.arange(20), tmp_path)
        folder = tmp_path / dtype if dtype == "fp32" else tmp_path / "x.gguf"
        assert torch.equal(ours, simulated_logits(folder, torch.arange(20), tmp_path))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tied_table_is_written_once(dtype: str, tmp_path: Path) -> None:
    """Also where the file's type is not the plan's; two formats are two tensors."""
    model = small_model(tmp_path, "qwen2", tie_word_embeddings=True, dtype="bfloat16")
    report = write(model, tmp_path / "x.gguf", "--embedding-dtype", dtype, "--head-dtype", dtype)
    values = values_in(tmp_path / "x.gguf")
    assert "output.weight" not in values
    formats = {layer["layer"]: layer["format"] for layer in report["layers"]}
    assert formats["lm_head"] == formats["embedding"]
    if dtype != "fp32":
        write(model, tmp_path / "x.gguf", "--embedding-dtype", dtype)
        kinds = {name: kind for name, (kind, _) in raw_bytes(tmp_path / "x.gguf").items()}
        assert kinds["output.weight"] == "BF16" != kinds["token_embd.weight"]


def blocks_of_int8(weight: Array) -> Array:
    """Of 32 weights: the scale in FP16 first, then the integers that are nearest with it."""
    blocks = weight.reshape(-1, 32)
    scales = np.maximum((np.abs(blocks).max(1, keepdims=True) / np.float32(127)).astype(np.float16), 2.0**-24)
    integers = np.clip(np.rint(blocks / scales.astype(np.float32)), -128, 127)
    return (integers * scales.astype(np.float32)).reshape(weight.shape).astype(np.float32)


def test_int8_has_a_scale_for_each_block(tmp_path: Path) -> None:
    model = small_model(tmp_path, "qwen3")
    formats = ("--dtype", "int8", "--embedding-dtype", "int8", "--head-dtype", "fp16")
    report = write(model, tmp_path / "x.gguf", *formats)
    stored = {layer["format"] for layer in report["layers"] if "gate_proj" in layer["layer"]}
    assert stored == {"i8 groups of 32, f16 scales"}
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert types["token_embd.weight"] == types["blk.1.ffn_up.weight"] == Type.Q8_0
    assert (types["output.weight"], types["output_norm.weight"]) == (Type.F16, Type.F32)
    values = values_in(tmp_path / "x.gguf")
    errors = np.zeros(2)
    for name, tensor in load_file(model / "model.safetensors").items():
        if types[gguf_name(name)] != Type.Q8_0:
            continue
        weight = tensor.float().numpy()
        assert np.array_equal(values[gguf_name(name)].numpy(), blocks_of_int8(weight)), name
        theirs = gguf.quants.dequantize(gguf.quants.quantize(weight, Type.Q8_0), Type.Q8_0)
        errors += [np.square(found - weight).sum() for found in (blocks_of_int8(weight), theirs)]
    assert errors[0] <= errors[1]  # than the package's, which rounds with a scale that it then does not store


@pytest.mark.parametrize("family", [*ARCHITECTURES, *EXPERT_ARCHITECTURES])
def test_keys_are_the_converters(family: str, tmp_path: Path) -> None:
    model = small_model(tmp_path, family)
    write(model, tmp_path / "x.gguf", "--dtype", "int4")
    found = fields(tmp_path / "x.gguf")
    write_gguf(tmp_path / "expected.gguf", model, lambda _: Type.F32)
    expected = fields(tmp_path / "expected.gguf")
    architecture = expected["general.architecture"]
    for key, value in expected.items():
        if key not in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):  # there is no tokenizer
            assert found[key] == value, key
    assert {"general.type": "model", "general.file_type": 2, "general.quantization_version": 2}.items() <= found.items()
    assert found["general.name"] == "model"
    assert found[f"{architecture}.rope.dimension_count"] == 32
    assert found[f"{architecture}.vocab_size"] == 1001
    assert found["tokenizer.ggml.model"] == "none"
    is_diffusion = family in ("dream", "llada", "rnd1", "llada_moe")
    assert found.get(f"{architecture}.attention.causal") is (False if is_diffusion else None)
    assert found.get("diffusion.shift_logits") is (family in ("dream", "rnd1") if is_diffusion else None)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper().replace("-", "_")], 3).mapping
    names = {name for _, name in known.values()}
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert all(tensor.name.removesuffix(".weight").removesuffix(".bias") in names for tensor in reader.tensors)
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)


SCALINGS: Final[dict[str, dict[str, Any]]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotary_scaling_comes_back(kind: str, tmp_path: Path) -> None:
    model = small_model(tmp_path, "llama", rope_scaling=SCALINGS[kind], rope_theta=10000.0)
    write(model, tmp_path / "x.gguf")
    assert ("rope_freqs.weight" in values_in(tmp_path / "x.gguf")) == (kind == "llama3")
    ids = torch.arange(100)
    assert torch.equal(simulated_logits(tmp_path / "x.gguf", ids, tmp_path), simulated_logits(model, ids, tmp_path))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a2d_is_the_architecture_with_a_full_mask(family: str, tmp_path: Path) -> None:
    model = small_model(tmp_path, family, tie_word_embeddings=True)
    name = {"llama": "A2DLlama", "qwen2": "A2DQwen2", "qwen3": "A2DQwen3"}[family]
    config = read_config(model) | {"model_type": f"a2d-{family}", "architectures": [f"{name}LMHeadModel"]}
    (model / "config.json").write_text(json.dumps(config))
    write(model, tmp_path / "x.gguf")
    found = fields(tmp_path / "x.gguf")
    assert found["general.architecture"] == {"llama": "llada", "qwen2": "dream", "qwen3": "qwen3"}[family]
    assert found[f"{found['general.architecture']}.attention.causal"] is False
    assert found["diffusion.shift_logits"] is False
    assert "output.weight" not in values_in(tmp_path / "x.gguf")
    ids = torch.arange(40)
    assert torch.equal(simulated_logits(tmp_path / "x.gguf", ids, tmp_path), simulated_logits(model, ids, tmp_path))


def test_rounding_with_calibration_and_quantized_folders_keep_their_integers(tmp_path: Path) -> None:
    model = small_model(tmp_path, "qwen2")
    config = read_config(model)
    ids = tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(2).integers(0, 1000, (4, 32)))
    for options in (
        ("--dtype", "int4", "--group-size", 32, "--method", "gptq", "--calibration", ids),
        ("--dtype", "int4", "--group-size", 0, "--method", "mse"),
        ("--dtype", "int8", "--method", "awq", "--calibration", ids),
    ):
        folder = tmp_path / f"folder{options[1]}{options[3]}"
        write(model, folder, *options)
        report = write(folder, tmp_path / "x.gguf")
        expected = in_gguf(values_of_folder(folder), config)
        values = values_in(tmp_path / "x.gguf")
        has_row_scales = options[3] != 32
        assert any("one scale for each row" in warning for warning in report["warnings"]) == has_row_scales
        for name, value in values.items():
            tolerance = 2.0**-11 if has_row_scales else 0.0
            assert torch.allclose(value, expected[name], rtol=tolerance, atol=0.0), name
        if ids in options:
            write(model, tmp_path / "direct.gguf", *options)
            assert raw_bytes(tmp_path / "direct.gguf") == raw_bytes(tmp_path / "x.gguf")
    assert not list(tmp_path.glob(".*")), "a temporary checkpoint was left"


def test_blocks_of_a_gguf_file_stay_byte_for_byte(tmp_path: Path) -> None:
    """Also where rows of heads are in another order, and with the tokenizer's keys."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = make_checkpoint(tmp_path / "model", "llama", vocab_size=160, **sizes)

    def type_of(name: str) -> Type:
        if "embed" in name or "lm_head" in name:
            return Type.Q6_K
        return Type.Q4_0 if "proj" in name else Type.F32

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([f"t{i}" for i in range(160)])
        writer.add_token_scores([-1.0] * 160)

    write_gguf(tmp_path / "q4.gguf", model, type_of, add)
    for source, dtype in (("q4", "int4"), ("q8", "int8")):
        if source == "q8":
            write_gguf(tmp_path / "q8.gguf", model, lambda name: Type.Q8_0 if "layers" in name else Type.F16, add)
        report = write(tmp_path / f"{source}.gguf", tmp_path / "x.gguf", "--dtype", dtype)
        assert any(f"keep their blocks of {source.upper()}_0 byte" in warning for warning in report["warnings"])
        assert raw_bytes(tmp_path / "x.gguf") == raw_bytes(tmp_path / f"{source}.gguf")
        keys, others = fields(tmp_path / f"{source}.gguf"), fields(tmp_path / "x.gguf")
        assert {key: value for key, value in others.items() if key.startswith("tokenizer.")}.items() <= keys.items()
    types = {name: kind for name, (kind, _) in raw_bytes(tmp_path / "q4.gguf").items()}
    write(tmp_path / "q4.gguf", tmp_path / "x.gguf", "--dtype", "fp16")
    for name, (kind, _) in raw_bytes(tmp_path / "x.gguf").items():
        assert kind == ("F16" if types[name] == "Q4_0" else types[name]), name


def test_integers_of_q4_0_stay_where_int4_in_groups_of_32_has_them(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = make_checkpoint(tmp_path / "model", "qwen3", vocab_size=160, **sizes)
    values = write_gguf(tmp_path / "q4.gguf", model, lambda name: Type.Q4_0 if "proj" in name else Type.F32)
    tensors = gguf.GGUFReader(tmp_path / "q4.gguf").tensors
    blocks = {t.name: t.data.reshape(-1, 18) for t in tensors if t.tensor_type == Type.Q4_0}
    write(tmp_path / "q4.gguf", tmp_path / "int4", "--dtype", "int4", "--group-size", 32)
    stored = load_file(tmp_path / "int4/model.safetensors")
    kept = 0
    for name, value in values.items():
        if "proj" not in name:
            continue
        scale = torch.from_numpy(blocks[gguf_name(name)][:, :2].copy().view(np.float16)[:, 0].astype(np.float32))
        ours = values_of_folder(tmp_path / "int4")[name].reshape(-1, 32)
        theirs, found = value.reshape(-1, 32), stored[f"{name}_scale"].float().flatten()
        same = scale > 0
        kept += int(same.sum())
        assert torch.equal(found[same], scale[same].bfloat16().float())
        assert torch.equal(torch.round(ours[same] / found[same, None]), torch.round(theirs[same] / scale[same, None]))
        # The greatest weight of the others is 8 times their scale's magnitude, one more than INT4 has.
        nearest = (theirs.max(1).values / 7).maximum(-theirs.min(1).values / 8).bfloat16().float()[:, None]
        rounded = torch.clamp(torch.round(theirs / nearest), -8, 7) * nearest
        assert bool(((ours - theirs).square().sum(1) <= (rounded - theirs).square().sum(1) + 1e-9).all())
    assert kept > 1000
    # Scales that this program wrote are BF16 and positive: nothing changes.
    write(model, tmp_path / "ours.gguf", "--dtype", "int4")
    write(tmp_path / "ours.gguf", tmp_path / "back", "--dtype", "int4", "--group-size", 32)
    write(model, tmp_path / "direct", "--dtype", "int4", "--group-size", 32)
    back, direct = (load_file(tmp_path / name / "model.safetensors") for name in ("back", "direct"))
    assert back.keys() == direct.keys()
    assert all(torch.equal(back[name], direct[name]) for name in direct)


def test_the_tokenizer_comes_with_it(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in tiny_llada_text().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(template)
    write(folder, tmp_path / "x.gguf", "--dtype", "int4")
    found = fields(tmp_path / "x.gguf")
    source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    special = {token["content"] for token in source["added_tokens"]}
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.tokens"] == sorted(vocabulary, key=vocabulary.__getitem__)
    assert found["tokenizer.ggml.token_type"] == [3 if t in special else 1 for t in found["tokenizer.ggml.tokens"]]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]]
    assert found["tokenizer.ggml.merges"] == merges
    assert found["tokenizer.ggml.mask_token_id"] == vocabulary["<|mask|>"]
    assert found["tokenizer.ggml.eos_token_id"] == vocabulary["<|endoftext|>"]
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == template
    asked = ("--prompt", "In the beginning", "--max-new-tokens", 16, "--chat")
    write(folder, tmp_path / "int4", "--dtype", "int4")
    ours, theirs = (run_json("generate", path, *asked, "--dtype", "fp32") for path in (tmp_path / "x.gguf", folder))
    assert len(ours["tokens"]) == len(theirs["tokens"])
    write(tmp_path / "x.gguf", tmp_path / "back", "--dtype", "fp16")
    back = Tokenizer.from_file(str(tmp_path / "back/tokenizer.json"))
    assert back.encode(TEXT).ids == tokenizer.encode(TEXT).ids


def encoded(model: Path, text: str) -> list[int]:
    """By the tokenizer of a folder, or by what a GGUF file says in its place."""
    result = subprocess.run(
        [COMMAND.parent / "encode_text", model], input=json.dumps(text), capture_output=True, text=True, check=True
    )
    ids: list[int] = json.loads(result.stdout)
    return ids


def test_pieces_have_sentencepieces_scores_and_kinds(tmp_path: Path) -> None:
    model = small_model(tmp_path, "llama", vocab_size=768)
    config = (model / "config.json").read_text()
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    write_sentencepiece(model, "bpe", tokenizer, byte_fallback=True)
    (model / "config.json").write_text(config)
    write(model, tmp_path / "x.gguf")
    found = fields(tmp_path / "x.gguf")
    pieces = sentencepiece_model_pb2.ModelProto.FromString((model / "tokenizer.model").read_bytes()).pieces
    count = len(pieces)
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.pre"] == "default"
    assert found["tokenizer.ggml.tokens"] == [p.piece for p in pieces] + [f"[PAD{i}]" for i in range(count, 768)]
    assert found["tokenizer.ggml.token_type"][:count] == [p.type for p in pieces]
    assert found["tokenizer.ggml.token_type"][count:] == [5] * (768 - count)
    ordinary = [i for i, piece in enumerate(pieces) if piece.type == 1]
    assert [found["tokenizer.ggml.scores"][i] for i in ordinary] == [pieces[i].score for i in ordinary]
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.bos_token_id"] == 1
    assert encoded(tmp_path / "x.gguf", TEXT) == encoded(model, TEXT)


def test_dreams_tokenizer_is_qwen2s(tmp_path: Path) -> None:
    model = small_model(tmp_path, "dream", vocab_size=1200)
    write_dream(model)
    write(model, tmp_path / "x.gguf")
    found = fields(tmp_path / "x.gguf")
    assert found["tokenizer.ggml.pre"] == "qwen2"
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert types[tokens.index("<|mask|>")] == 3
    assert types[tokens.index("<tool_call>")] == 4
    assert types[-1] == 5
    assert encoded(tmp_path / "x.gguf", TEXT) == encoded(model, TEXT)


def test_tokenizers_without_a_name_in_llama_cpp_are_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path, "qwen3", vocab_size=2048)
    for kind, words in {
        "llama": "leaves out ways to put its tokens together",
        "unigram": "is a Unigram model",
        "bert": "is WordPiece",
        "suffix": "neither of bytes nor",
    }.items():
        TOKENIZERS[kind]().save(str(model / "tokenizer.json"))
        result = run("quantize", model, "-o", tmp_path / "x.gguf")
        assert_fails(result, UNSUPPORTED, "tokenizer.json", words, "llama.cpp has no tokenizer for")
    document = json.loads((tiny_llada_text() / "tokenizer.json").read_text(encoding="utf-8"))
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}  # fmt: skip
    (model / "tokenizer.json").write_text(json.dumps(document))
    assert_fails(run("quantize", model, "-o", tmp_path / "x.gguf"), UNSUPPORTED, "the pre-tokenizer", "w+|")
    (model / "tokenizer.json").unlink()
    config = (model / "config.json").read_text()
    write_sentencepiece(model, "bpe", {"tokenizer_class": "LlamaTokenizer"})
    (model / "config.json").write_text(config)
    assert_fails(run("quantize", model, "-o", tmp_path / "x.gguf"), UNSUPPORTED, "no tokens of single bytes")
    small = small_model(tmp_path / "small", "qwen3", vocab_size=500)
    (small / "tokenizer.json").write_bytes((tiny_llada_text() / "tokenizer.json").read_bytes())
    assert_fails(run("quantize", small, "-o", tmp_path / "x.gguf"), BAD_FILE, "tokenizer.json", "has 500 tokens")
    assert not (tmp_path / "x.gguf").exists()


def test_what_llama_cpp_can_not_compute_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"before")
    sdar = make_checkpoint(tmp_path / "sdar", "sdar")
    assert_fails(run("quantize", sdar, "-o", target), UNSUPPORTED, "block-causal, in blocks of 4", "--block-length 1")
    llada2 = make_expert_checkpoint(tmp_path / "llada2", "llada2_moe", block_length=OMIT)
    assert_fails(
        run("quantize", llada2, "-o", target, "--block-length", 0), UNSUPPORTED, "16 of each head's 32 elements"
    )
    odd = make_checkpoint(tmp_path / "odd", "llama", intermediate_size=80)
    assert_fails(run("quantize", odd, "-o", target, "--dtype", "int8"), UNSUPPORTED, "down_proj", "rows of 80 weights")
    assert_fails(
        run("quantize", odd, "-o", target, "--dtype", "palette4"), UNSUPPORTED, "GGUF has no block type for PALETTE4"
    )
    static = ("--dtype", "int8", "--mode", "static", "--calibration", "self")
    small = make_checkpoint(tmp_path / "small", "llama")
    assert_fails(run("quantize", small, "-o", target, *static), UNSUPPORTED, "mode static", "ranges of activations")
    assert target.read_bytes() == b"before"
    write(sdar, target, "--block-length", 1)
    assert fields(target)["general.architecture"] == "qwen3"
