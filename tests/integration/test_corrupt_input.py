"""Broken, hostile and contradictory input: one sentence, the right exit code, no output, bounded time and memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import (
    BAD_FILE,
    COMMAND,
    UNSUPPORTED,
    USAGE_ERROR,
    assert_fails,
    run,
    run_bounded,
)
from conftest import MakeCheckpoint
from families import OMIT
from safetensors.torch import load_file, save_file


@pytest.fixture
def model(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A small llama to be broken: config.json and one safetensors file."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama", vocab_size=64, num_hidden_layers=1, dtype="bfloat16"), folder)
    return folder


@pytest.fixture
def sharded(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """The same in three shards with an index."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama", vocab_size=64, num_hidden_layers=1, dtype="bfloat16", shards=3), folder)
    return folder


def assert_refused(command: Path, model: Path, code: int, *words: str, options: tuple[object, ...] = ()) -> None:
    """`export` and `quantize` both end with `code` and one line that contains `words`, and write nothing."""
    out = model.parent / "out"
    out.mkdir(exist_ok=True)
    for subcommand in ("export", "quantize"):
        result = run_bounded(command, subcommand, model, "-o", out / "x", *options)
        assert_fails(result, code, *words)
        assert len(result.stderr) < 2000
        assert not list(out.iterdir())


Header = dict[str, Any]


def read_header(path: Path) -> tuple[Header, bytes]:
    """The header of a safetensors file, and the data behind it."""
    file = path.read_bytes()
    (length,) = struct.unpack_from("<Q", file)
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def write_raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file of any header, with a length of one's own."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def edit_header(path: Path, edit: Callable[[Header], None]) -> None:
    header, data = read_header(path)
    edit(header)
    write_raw(path, json.dumps(header).encode(), data)


def tensor_names(path: Path) -> list[str]:
    return [name for name in read_header(path)[0] if name != "__metadata__"]


# --- Whole files.


def test_file_truncated_at_any_boundary_is_a_bad_file(command: Path, model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header, _ = read_header(path)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    cuts = {0, 1, 7, 8, 9, 8 + length // 2, 8 + length - 1, 8 + length, 8 + length + 1, len(whole) - 1}
    cuts |= {8 + length + end for end in ends} - {len(whole)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        assert_refused(command, model, BAD_FILE, "model.safetensors")
    path.write_bytes(whole + b"\0")
    assert_refused(command, model, BAD_FILE, "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_empty_missing_or_wrong_kind_of_file_is_a_bad_file(command: Path, name: str, model: Path) -> None:
    path = model / name

    def become(make: Callable[[], object]) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make()
        assert_refused(command, model, BAD_FILE, name)

    become(lambda: path.write_bytes(b""))
    become(lambda: path.symlink_to(name))
    become(lambda: path.symlink_to("nowhere"))
    become(lambda: path.symlink_to("/dev/zero"))
    become(lambda: path.symlink_to("/proc/self/mem"))
    become(path.mkdir)
    become(lambda: os.mkfifo(path))
    path.unlink()
    assert_refused(command, model, BAD_FILE, name)


def test_folder_that_is_none_is_a_bad_file(command: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    for name in ("loop", "empty", "file", "missing"):
        assert_refused(command, tmp_path / name, BAD_FILE, name)
        if name != "file":
            assert_fails(run_bounded(command, "inspect", tmp_path / name), BAD_FILE, name)
    assert_fails(run_bounded(command, "inspect", tmp_path / "file"), BAD_FILE, "file")
    assert_fails(run_bounded(command, "inspect", "/dev/zero"), BAD_FILE, "/dev/zero")
    assert_fails(run_bounded(command, "inspect", ""), BAD_FILE)


def test_pickled_weights_are_not_read(command: Path, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert_refused(command, model, BAD_FILE, "pytorch_model.bin", "safetensors")


def test_file_of_a_terabyte_without_content_is_a_bad_file(command: Path, model: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        whole = (model / name).read_bytes()
        os.truncate(model / name, 1 << 40)
        assert_refused(command, model, BAD_FILE, name)
        (model / name).write_bytes(whole)


# --- The header of a safetensors file.


@pytest.mark.parametrize(
    "length", [0, 1, 2**16, 100_000_001, 2**31, 2**32 + 100, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]
)
def test_lying_header_length_is_a_bad_file(command: Path, length: int, model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert_refused(command, model, BAD_FILE, "model.safetensors")


def test_bytes_of_a_damaged_header_are_shown_escaped(command: Path, model: Path) -> None:
    """They reached the terminal as they were: as control sequences, or as text that is no UTF-8."""
    write_raw(model / "model.safetensors", b'{"wte\xf0\x1b[31m')
    result = subprocess.run([command, "inspect", model], capture_output=True, check=False)
    assert result.returncode == BAD_FILE
    assert b"\\xF0" in result.stderr
    assert result.stderr.isascii()
    assert b"\x1b" not in result.stderr


def test_header_length_off_by_one_is_a_bad_file(command: Path, model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    for wrong in (length - 1, length + 1):
        path.write_bytes(struct.pack("<Q", wrong) + whole[8:])
        assert_refused(command, model, BAD_FILE, "model.safetensors")


FIRST: Final = "model.embed_tokens.weight"
SECOND: Final = "model.layers.0.input_layernorm.weight"

LIES: Final[dict[str, dict[str, Any]]] = {
    "overlap": {"data_offsets": [0, 192]},
    "begin after end": {"data_offsets": [24768, 24576]},
    "beyond the end": {"data_offsets": [2**40, 2**40 + 192]},
    "hole": {"data_offsets": [24578, 24770]},
    "empty": {"data_offsets": [24576, 24576]},
    "negative": {"data_offsets": [-192, 0]},
    "2^63": {"data_offsets": [2**63, 2**63 + 192]},
    "2^64": {"data_offsets": [24576, 2**64]},
    "10^400": {"data_offsets": [24576, 10**400]},
    "one offset": {"data_offsets": [24576]},
    "three offsets": {"data_offsets": [24576, 24768, 24960]},
    "no offsets": {"data_offsets": []},
    "offsets as text": {"data_offsets": ["24576", "24768"]},
    "offsets as floats": {"data_offsets": [24576.0, 24768.0]},
    "offsets as nulls": {"data_offsets": [None, None]},
    "offsets as lists": {"data_offsets": [[24576], [24768]]},
    "offsets as object": {"data_offsets": {"begin": 24576}},
    "wrong shape": {"shape": [97]},
    "wrong rank": {"shape": [96, 1, 1]},
    "scalar": {"shape": []},
    "zero": {"shape": [0]},
    "negative shape": {"shape": [-96]},
    "two negatives": {"shape": [-96, -1]},
    "shape that wraps to its bytes": {"shape": [2**62 + 48, 2]},
    "shape of 2^64": {"shape": [2**64]},
    "shape product of 2^64": {"shape": [2**32, 2**32]},
    "shape of ones": {"shape": [1] * 1000 + [96]},
    "shape as text": {"shape": "96"},
    "shape as booleans": {"shape": [True]},
    "other dtype": {"dtype": "F32"},
    "8-bit dtype": {"dtype": "I8", "shape": [192]},
    "integer dtype": {"dtype": "I64", "shape": [24]},
    "unknown dtype": {"dtype": "Q4_K"},
    "dtype as number": {"dtype": 1},
    "dtype of 1 MB": {"dtype": "F" * 1_000_000},
    "another key": {"comment": "x"},
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_tensor_entry_is_a_bad_file(command: Path, lie: str, model: Path) -> None:
    def edit(header: Header) -> None:
        assert header[SECOND] == {"dtype": "BF16", "shape": [96], "data_offsets": [24576, 24768]}
        header[SECOND] |= LIES[lie]

    edit_header(model / "model.safetensors", edit)
    assert_refused(command, model, BAD_FILE, "model.safetensors")


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_tensor_entry_without_a_key_is_a_bad_file(command: Path, key: str, model: Path) -> None:
    edit_header(model / "model.safetensors", lambda header: header[SECOND].pop(key))
    assert_refused(command, model, BAD_FILE, SECOND)


ENTRY: Final = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

HEADERS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "no JSON": b"hello, world",
    "a list": b"[]",
    "a number": b"1",
    "a text": b'"x"',
    "no tensors": b"{}",
    "cut": b'{"a":',
    "text behind it": b"{} x",
    "two objects": b"{}{}",
    "zeros behind it": b"{}" + b"\0" * 8,
    "duplicate tensor": f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(),
    "duplicate key": b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "tensor as list": b'{"a":[]}',
    "tensor as null": b'{"a":null}',
    "metadata as list": b'{"__metadata__":[]}',
    "metadata as numbers": b'{"__metadata__":{"a":1}}',
    "metadata within metadata": b'{"__metadata__":{"a":{}}}',
    "two metadata": b'{"__metadata__":{},"__metadata__":{}}',
    "invalid UTF-8": b'{"\xff\xfe":' + ENTRY.encode() + b"}",
    "overlong UTF-8": b'{"\xc0\xaf":' + ENTRY.encode() + b"}",
    "lone surrogate": f'{{"\\ud800":{ENTRY}}}'.encode(),
    "zero byte": b'{"a\0":' + ENTRY.encode() + b"}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": b'{"a":' + b"[" * 1_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "deep shape": b'{"a":{"dtype":"F32","shape":' + b"[" * 1_000_000,
    "long number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b"]}}",
    "huge exponent": b'{"a":{"dtype":"F32","shape":[1e999999999]}}',
    "comment": b"{/* x */}",
    "nothing but spaces": b"{" + b" " * 5_000_000,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_header_that_is_no_header_is_a_bad_file(command: Path, kind: str, model: Path) -> None:
    write_raw(model / "model.safetensors", HEADERS[kind], b"\0\0\0\0")
    assert_refused(command, model, BAD_FILE)
    assert_fails(run_bounded(command, "inspect", model / "model.safetensors"), BAD_FILE)


def test_huge_header_is_read_in_bounded_memory_and_time(command: Path, model: Path) -> None:
    count = 300_000 if command == COMMAND else 20_000
    entries = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    write_raw(model / "model.safetensors", b"{" + entries.encode() + b"}")
    assert_refused(command, model, BAD_FILE)
    metadata = {"__metadata__": {str(i): "x" * 50 for i in range(count)}}
    write_raw(model / "model.safetensors", json.dumps(metadata).encode())
    assert_refused(command, model, BAD_FILE)


@pytest.mark.parametrize("name", ["a\nb", "\r\x1b[2J", "x" * 5_000_000, "%s%n{}", "\u202e", ""])
def test_hostile_tensor_name_stays_on_one_bounded_line(command: Path, name: str, model: Path) -> None:
    def edit(header: Header) -> None:
        header[name] = header.pop(SECOND) | {"shape": [95]}

    edit_header(model / "model.safetensors", edit)
    assert_refused(command, model, BAD_FILE)
    result = run_bounded(command, "inspect", model, "--json")
    assert json.loads(result.stdout)["success"] is False
    assert "\x1b" not in result.stderr


def test_flipped_bytes_of_the_header_never_crash(command: Path, model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    generator = random.Random(1)
    for _ in range(60 if command == COMMAND else 15):
        flipped = bytearray(whole)
        flipped[generator.randrange(8 + length)] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        result = run_bounded(command, "export", model, "-o", model.parent / "x.pte")
        assert result.returncode in (0, BAD_FILE, UNSUPPORTED), result.stderr  # metadata may become other metadata
        if result.returncode != 0:
            assert_fails(result, result.returncode)


# --- Shards.


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))


def test_missing_or_broken_shard_is_a_bad_file(command: Path, sharded: Path) -> None:
    shard = sharded / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.unlink()
    assert_refused(command, sharded, BAD_FILE, shard.name)
    shard.symlink_to(shard.name)
    assert_refused(command, sharded, BAD_FILE, shard.name)
    shard.unlink()
    other = (sharded / "model-00001-of-00003.safetensors").read_bytes()
    for broken in (b"", whole[:-1], whole[:100], whole + b"\0", other):
        shard.write_bytes(broken)
        assert_refused(command, sharded, BAD_FILE)


@pytest.mark.parametrize(
    "name",
    ["../model/model-00001-of-00003.safetensors", "/etc/passwd", "..", ".", "", "x\0y", "a" * 5000, "config.json"],
)
def test_shard_outside_the_folder_or_of_no_tensors_is_a_bad_file(command: Path, name: str, sharded: Path) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update({FIRST: name}))
    assert_refused(command, sharded, BAD_FILE)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": null}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "x", "a": "y"}}',
        b'{"weight_map": ' + b"[" * 1_000_000,
        b'{"weight_map": ' * 1_000_000,
    ],
    ids=lambda index: index[:24].decode() + ("..." if len(index) > 24 else ""),
)
def test_broken_index_is_a_bad_file(command: Path, index: bytes, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(index)
    assert_refused(command, sharded, BAD_FILE)


def test_index_that_contradicts_the_shards_is_a_bad_file(command: Path, sharded: Path) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update({FIRST: "model-00003-of-00003.safetensors"}))
    assert_refused(command, sharded, BAD_FILE, FIRST)


def test_tensor_in_two_shards_is_a_bad_file(command: Path, sharded: Path) -> None:
    shutil.copy(sharded / "model-00001-of-00003.safetensors", sharded / "model-00004.safetensors")
    edit_index(sharded, lambda index: index["weight_map"].update({FIRST: "model-00004.safetensors"}))
    assert_refused(command, sharded, BAD_FILE)


# --- Tensors that do not fit the model.


def test_missing_tensor_is_named(command: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for name in list(weights):
        save_file({key: value for key, value in weights.items() if key != name}, model / "model.safetensors")
        assert_refused(command, model, BAD_FILE, name)


def test_tensor_of_another_shape_is_named(command: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for name in list(weights)[:: 1 if command == COMMAND else 4]:
        for wrong in (weights[name][:-1].clone(), weights[name][None].clone(), weights[name][..., :-1].clone()):
            save_file(weights | {name: wrong}, model / "model.safetensors")
            assert_refused(command, model, BAD_FILE, name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weight_that_is_not_finite_is_named(command: Path, value: float, dtype: torch.dtype, model: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(model / "model.safetensors").items()}
    places: dict[str, tuple[int, ...]] = {
        "model.layers.0.mlp.down_proj.weight": (95, 159),
        "model.embed_tokens.weight": (3, 0),
        "model.norm.weight": (95,),
    }
    for name, place in places.items():
        broken = weights[name].clone()
        broken[place] = value
        save_file(weights | {name: broken}, model / "model.safetensors")
        for stored in ("fp32", "fp16", "int8", "int4")[:: 1 if command == COMMAND else 2]:
            out = model.parent / "x.pte"
            result = run_bounded(command, "export", model, "-o", out, "--dtype", stored)
            assert_fails(result, BAD_FILE, name, str(list(place) if len(place) == 2 else place[0]))
            assert not out.exists()


def test_not_finite_weight_is_not_quantized(command: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][7, 8] = float("nan")
    save_file(weights, model / "model.safetensors")
    for dtype in ("fp16", "int8", "int4"):
        assert_refused(command, model, BAD_FILE, "down_proj.weight", "[7, 8]", options=("--dtype", dtype))


def test_fp16_overflow_is_named_and_saturates_on_request(command: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][7, 8] = -70144.0
    save_file(weights, model / "model.safetensors")
    options = ("--dtype", "fp16")
    assert_refused(command, model, BAD_FILE, "down_proj.weight", "-70144", "--saturate-fp16", options=options)
    result = run_bounded(command, "quantize", model, "-o", model.parent / "q", *options, "--saturate-fp16")
    assert result.returncode == 0
    stored = load_file(model.parent / "q/model.safetensors")
    assert stored["model.layers.0.mlp.down_proj.weight"][7, 8] == -65504.0


# --- config.json.


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not OMIT}))


CONFIG_TEXTS: Final[dict[str, bytes]] = {
    "nothing but spaces": b"  ",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "an empty object": b"{}",
    "cut": b'{"model_type": "llama"',
    "trailing comma": b'{"model_type": "llama",}',
    "duplicate key": b'{"model_type": "llama", "model_type": "llama"}',
    "not a number": b'{"model_type": NaN}',
    "invalid UTF-8": b'{"model_type": "\xff"}',
    "UTF-16": '{"model_type": "llama"}'.encode("utf-16"),
    "deep lists": b'{"x": ' + b"[" * 1_000_000,
    "deep lists, closed": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"x": ' * 1_000_000,
    "20 MB": b'{"x": "' + b"y" * 20_000_000 + b'"}',
    "5 MB of digits": b'{"x": ' + b"1" * 5_000_000 + b"}",
}


@pytest.mark.parametrize("kind", CONFIG_TEXTS)
def test_config_that_is_no_config_is_a_bad_file(command: Path, kind: str, model: Path) -> None:
    (model / "config.json").write_bytes(CONFIG_TEXTS[kind])
    assert_refused(command, model, BAD_FILE, "config.json")


def test_config_of_millions_of_lists_is_a_bad_file(command: Path, model: Path) -> None:
    count = 3_000_000 if command == COMMAND else 600_000
    (model / "config.json").write_bytes(b'{"x": [' + b"[]," * count + b"[]]}")
    assert_refused(command, model, BAD_FILE, "config.json")


CONTRADICTIONS: Final[dict[str, dict[str, Any]]] = {
    "no model_type": {"model_type": OMIT},
    "model_type as number": {"model_type": 7},
    "no hidden_size": {"hidden_size": OMIT},
    "no layers": {"num_hidden_layers": OMIT},
    "no vocabulary": {"vocab_size": OMIT},
    "no intermediate_size": {"intermediate_size": OMIT},
    "hidden_size as text": {"hidden_size": "96"},
    "hidden_size as float": {"hidden_size": 96.0},
    "hidden_size of a list": {"hidden_size": [96]},
    "zero layers": {"num_hidden_layers": 0},
    "negative layers": {"num_hidden_layers": -1},
    "2^63 layers": {"num_hidden_layers": 2**63},
    "2^64 layers": {"num_hidden_layers": 2**64},
    "10^400 layers": {"num_hidden_layers": 10**400},
    "2^31 layers": {"num_hidden_layers": 2**31},
    "one layer too many": {"num_hidden_layers": 2},
    "zero heads": {"num_attention_heads": 0},
    "2^31 heads": {"num_attention_heads": 2**31, "num_key_value_heads": 2**31},
    "heads that do not divide": {"num_attention_heads": 5, "num_key_value_heads": 5},
    "key heads that do not divide": {"num_key_value_heads": 2},
    "odd head_dim": {"head_dim": 33},
    "head_dim of 2^31": {"head_dim": 2**31},
    "head_dim of 2^30 and as many heads": {"head_dim": 2**30, "num_attention_heads": 2**31, "num_key_value_heads": 1},
    "vocabulary of 2^31": {"vocab_size": 2**31},
    "all of 2^31": {"hidden_size": 2**31, "intermediate_size": 2**31, "vocab_size": 2**31, "head_dim": 2**31},
    "vocabulary too large": {"vocab_size": 65},
    "vocabulary too small": {"vocab_size": 63},
    "wrong intermediate_size": {"intermediate_size": 161},
    "epsilon of zero": {"rms_norm_eps": 0},
    "negative epsilon": {"rms_norm_eps": -1e-6},
    "epsilon as text": {"rms_norm_eps": "1e-6"},
    "epsilon of 10^400": {"rms_norm_eps": 10**400},
    "theta of zero": {"rope_theta": 0},
    "negative theta": {"rope_theta": -1.0},
    "tied as text": {"tie_word_embeddings": "false"},
    "tied as number": {"tie_word_embeddings": 0},
    "scaling as text": {"rope_scaling": "linear"},
    "scaling without factor": {"rope_scaling": {"rope_type": "linear"}},
    "scaling by zero": {"rope_scaling": {"rope_type": "linear", "factor": 0}},
    "scaling of llama3 the wrong way": {
        "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}
    },
    "yarn by a negative factor": {"rope_scaling": {"rope_type": "yarn", "factor": -1}},
    "architectures as text": {"architectures": "LlamaForCausalLM"},
    "no architectures": {"architectures": []},
    "biases that are not there": {"attention_bias": True},
    "zero positions": {"max_position_embeddings": 0},
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_contradictory_config_is_a_bad_file(command: Path, kind: str, model: Path) -> None:
    edit_config(model, **CONTRADICTIONS[kind])
    assert_refused(command, model, BAD_FILE)


OTHER_MODELS: Final[dict[str, dict[str, Any]]] = {
    "unknown model_type": {"model_type": "mamba"},
    "model_type in other letters": {"model_type": "LLAMA"},
    "empty architecture name": {"architectures": ["LlamaForSequenceClassification"]},
    "unknown key": {"sparse_attention": True},
    "unknown key with zero": {"new_factor": 0},
    "other activation": {"hidden_act": "gelu"},
    "unknown scaling": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "unknown key of a scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}},
    "partial rotation": {"partial_rotary_factor": 0.5},
    "sliding window": {"use_sliding_window": True},
    "sliding layers": {"layer_types": ["sliding_attention"]},
    "quantized by others": {"quantization_config": {"quant_method": "quip", "bits": 4}},
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_model_that_is_not_supported_is_refused_as_such(command: Path, kind: str, model: Path) -> None:
    edit_config(model, **OTHER_MODELS[kind])
    assert_refused(command, model, UNSUPPORTED)


LLADA_DEFAULTS: Final = (
    "rope",
    "block_type",
    "activation_type",
    "layer_norm_type",
)


@pytest.mark.parametrize("key", LLADA_DEFAULTS)
def test_llada_key_whose_default_is_another_network_must_be_there(
    command: Path, key: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("llada", vocab_size=64, n_layers=1), model)
    edit_config(model, **{key: OMIT})
    assert_refused(command, model, UNSUPPORTED, key)


def test_flipped_bytes_of_the_config_never_crash(command: Path, model: Path) -> None:
    path = model / "config.json"
    whole = path.read_bytes()
    generator = random.Random(2)
    for _ in range(60 if command == COMMAND else 15):
        flipped = bytearray(whole)
        flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        result = run_bounded(command, "export", model, "-o", model.parent / "x.pte")
        assert result.returncode in (0, BAD_FILE, UNSUPPORTED), result.stderr
        if result.returncode != 0:
            assert_fails(result, result.returncode)


# --- Our own quantized checkpoints.


@pytest.fixture
def quantized(command: Path, model: Path) -> Path:
    folder = model.parent / "quantized"
    assert run("quantize", model, "-o", folder, "--dtype", "int8").returncode == 0
    shutil.rmtree(model)
    return folder


WEIGHT: Final = "model.layers.0.mlp.down_proj.weight"
SCALE: Final = f"{WEIGHT}_scale"


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-40, float("nan"), float("inf")])
def test_scale_that_is_not_positive_and_normal_is_named(command: Path, value: float, quantized: Path) -> None:
    weights = load_file(quantized / "model.safetensors")
    weights[SCALE][5] = value
    save_file(weights, quantized / "model.safetensors")
    result = run_bounded(command, "export", quantized, "-o", quantized.parent / "x.pte")
    assert_fails(result, BAD_FILE, SCALE, "5")
    assert not (quantized.parent / "x.pte").exists()


def test_scales_that_do_not_fit_are_named(command: Path, quantized: Path) -> None:
    weights = load_file(quantized / "model.safetensors")
    scale = weights.pop(SCALE)
    wrong = [None, scale[:-1].clone(), scale[:, None].clone(), scale.half(), scale.double(), scale.int()]
    for tensor in wrong:
        broken = weights if tensor is None else weights | {SCALE: tensor}
        save_file(broken, quantized / "model.safetensors")
        assert_refused(command, quantized, BAD_FILE, WEIGHT)


@pytest.mark.parametrize(
    "note",
    [
        {"dtype": "int5"},
        {"dtype": 8},
        {"mode": "sometimes"},
        {"group_size": "x"},
        {"exclude_layers": "lm_head"},
        {"exclude_layers": [1]},
        {"embedding_dtype": "int2"},
    ],
    ids=str,
)
def test_broken_note_of_the_quantization_is_a_bad_file(command: Path, note: dict[str, Any], quantized: Path) -> None:
    config = json.loads((quantized / "config.json").read_text())
    edit_config(quantized, quantization_config=config["quantization_config"] | note)
    assert_refused(command, quantized, BAD_FILE, "quantization_config")


# --- Programs, for inspect.


@pytest.fixture
def program(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    model = checkpoint("llama", vocab_size=64, num_hidden_layers=1, dtype="bfloat16")
    path = tmp_path / "model.pte"
    arguments = ("--dtype", "int4", "--embedding-dtype", "int4", "--head-dtype", "int8")
    assert run("export", model, "-o", path, *arguments).returncode == 0
    return path


def test_truncated_program_is_a_bad_file(command: Path, program: Path) -> None:
    whole = program.read_bytes()
    program_size, segment_base = struct.unpack_from("<QQ", whole, 16)
    cuts = [0, 4, 8, 12, 13, 39, 40, 41, 100, program_size - 1, program_size, segment_base, segment_base + 1]
    for cut in [*cuts, len(whole) // 2, len(whole) - 1]:
        program.write_bytes(whole[:cut])
        assert_fails(run_bounded(command, "inspect", program), BAD_FILE, "model.pte")


def test_flipped_bytes_of_a_program_never_crash_inspect(command: Path, program: Path) -> None:
    whole = program.read_bytes()
    program_size, segment_base = struct.unpack_from("<QQ", whole, 16)
    (payload,) = (i for i in range(segment_base, len(whole)) if whole.startswith(b"XH00", i))
    generator = random.Random(3)
    places = [generator.randrange(program_size) for _ in range(50)]
    places += [generator.randrange(payload - 4, len(whole)) for _ in range(50)]
    for place in places[:: 1 if command == COMMAND else 10]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        program.write_bytes(flipped)
        result = run_bounded(command, "inspect", program, "--json")
        assert result.returncode in (0, BAD_FILE), result.stderr
        assert isinstance(json.loads(result.stdout), dict)
        if result.returncode != 0:
            assert_fails(result, BAD_FILE)


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("place", [0, 8, 12, 16, 24, 32])
def test_lying_program_header_is_a_bad_file(command: Path, place: int, value: int, program: Path) -> None:
    lying = bytearray(program.read_bytes())
    before = bytes(lying)
    width = 8 if place >= 16 else 4
    lying[place : place + width] = struct.pack("<Q", value)[:width]
    if bytes(lying) == before:
        return
    program.write_bytes(lying)
    result = run_bounded(command, "inspect", program)
    assert result.returncode in (0, BAD_FILE)
    if result.returncode != 0:
        assert_fails(result, BAD_FILE, "model.pte")


# --- Sizes that the user asks for.


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**32, 2**62, 2**63, 10**30, "x", "1.5"])
def test_senseless_length_is_a_usage_error(command: Path, value: object, model: Path) -> None:
    result = run_bounded(command, "export", model, "-o", model.parent / "x.pte", "--seq-len", value)
    assert_fails(result, USAGE_ERROR)
    assert not (model.parent / "x.pte").exists()
