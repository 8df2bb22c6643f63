"""What a .pte says of its language model: constant methods, executed by ExecuTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any, Final

import pytest
from command import BAD_FILE, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from flatc import PROGRAM_SCHEMA, decode
from program import Runtime

COMMON: Final = {
    "get_max_seq_len": [40],
    "get_max_context_len": [40],
    "get_vocab_size": [1001],
    "enable_dynamic_shape": [True],
    "use_kv_cache": [False],
    "use_sdpa_with_kv_cache": [False],
    "get_cache_kind": ["none"],
    "get_logits_kind": ["all"],
    "get_eos_ids": [0],
}

# As published: LLaDA's config.json has no token that begins a text, and autoregressive models mask nothing.
FAMILIES: Final[dict[str, dict[str, list[Any]]]] = {
    "llada": {"get_block_length": [0], "use_shifted_logits": [False], "get_mask_id": [1000]},
    "dream": {"get_block_length": [0], "use_shifted_logits": [True], "get_mask_id": [1000], "get_bos_id": [0]},
    "sdar": {"get_block_length": [4], "use_shifted_logits": [False], "get_bos_id": [0]},
    "fast_dllm_v2": {"get_block_length": [32], "use_shifted_logits": [True], "get_bos_id": [0]},
    "llama": {"get_block_length": [1], "use_shifted_logits": [True], "get_bos_id": [0]},
    "qwen3": {"get_block_length": [1], "use_shifted_logits": [True], "get_bos_id": [0]},
}


def constants(path: Path) -> dict[str, list[Any]]:
    """What each method but `forward` returns in the runtime."""
    program = Runtime.get().load_program(path)
    found = {}
    for name in program.method_names - {"forward"}:
        method = program.load_method(name)
        assert method is not None
        found[name] = list(method.execute([]))
    return found


def assert_are(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    """Equal, and of equal types: True is no 1."""
    typed = [
        {name: [(type(value), value) for value in values] for name, values in each.items()}
        for each in (found, expected)
    ]
    assert typed[0] == typed[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_facts(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    made = export(checkpoint(family), tmp_path / "m.pte", "--seq-len", 40)
    expected = COMMON | FAMILIES[family] | {"get_model_family": [family]}
    assert_are(constants(tmp_path / "m.pte"), expected)
    shown = {name: values if name == "get_eos_ids" else values[0] for name, values in expected.items()}
    report = run_json("inspect", tmp_path / "m.pte")
    assert report["metadata"] == shown
    assert list(report["metadata"]) == sorted(shown)
    assert [method["name"] for method in report["methods"]] == ["forward"]
    assert made["file_bytes"] == (tmp_path / "m.pte").stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_with_a_cache_says_so(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options = ("--cache", 64, "--block-tokens", 40, "--logits", "rows")
    export(checkpoint(family), tmp_path / "m.pte", *options)
    kind = "approximate" if FAMILIES[family]["get_block_length"] == [0] else "exact"
    expected = COMMON | FAMILIES[family] | {"get_model_family": [family], "get_max_context_len": [64]}
    expected |= {"use_kv_cache": [True], "get_cache_kind": [kind], "get_logits_kind": ["rows"]}
    assert_are(constants(tmp_path / "m.pte"), expected)
    (method,) = run_json("inspect", tmp_path / "m.pte")["methods"]
    assert len(method["delegates"]) == 4  # of two layers and the head


@pytest.mark.parametrize("model", ["tiny-llada", "tiny-sdar"])
def test_a_tokenizer_is_named_by_its_hash(model: str, tiny: Path, tmp_path: Path) -> None:
    folder = tiny.parent / model
    export(folder, tmp_path / "m.pte", "--seq-len", 40)
    found = constants(tmp_path / "m.pte")
    tokenizer = (folder / "tokenizer.json").read_bytes()
    assert found["get_tokenizer_hash"] == [hashlib.sha256(tokenizer).hexdigest()]
    tokens = {token["content"]: token["id"] for token in json.loads(tokenizer)["added_tokens"]}
    (mask,) = found["get_mask_id"]
    assert mask == tokens[json.loads((folder / "tokenizer_config.json").read_text())["mask_token"]]


def test_ids_come_from_all_files_of_the_folder(checkpoint: MakeCheckpoint, tiny: Path, tmp_path: Path) -> None:
    """generation_config.json before config.json, and the tokenizer's words where neither has a number."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("sdar", bos_token_id=None, eos_token_id=5), model)
    (model / "generation_config.json").write_text('{"eos_token_id": [7, 9, 1001]}')
    shutil.copy(tiny / "tokenizer.json", model)
    tokens = {
        token["content"]: token["id"] for token in json.loads((tiny / "tokenizer.json").read_text())["added_tokens"]
    }
    first, second = sorted(tokens, key=lambda text: tokens[text])[:2]
    words = {"bos_token": {"content": second}, "eos_token": first, "mask_token": second}
    (model / "tokenizer_config.json").write_text(json.dumps(words))
    export(model, tmp_path / "m.pte", "--seq-len", 40)
    found = constants(tmp_path / "m.pte")
    assert found["get_eos_ids"] == [7, 9]
    assert found["get_bos_id"] == [tokens[second]]
    assert found["get_mask_id"] == [tokens[second]]
    assert run_json("inspect", tmp_path / "m.pte")["metadata"]["get_eos_ids"] == [7, 9]
    assert "metadata  get_eos_ids = 7, 9\n" in run("inspect", tmp_path / "m.pte").stdout


def test_what_is_not_known_has_no_method(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar", eos_token_id=None, bos_token_id=-1)
    made = export(model, tmp_path / "m.pte", "--seq-len", 40)
    found = constants(tmp_path / "m.pte")
    assert "get_vocab_size" in found
    assert not {"get_eos_ids", "get_bos_id", "get_mask_id", "get_tokenizer_hash"} & set(found)
    assert not any("get_" in warning for warning in made["warnings"])
    export(model, tmp_path / "m.pte", "--seq-len", 40, "--mask-token-id", 3)
    assert constants(tmp_path / "m.pte")["get_mask_id"] == [3]


def test_a_tokenizer_that_is_not_understood_does_not_stop_an_export(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("sdar", eos_token_id=None), model)
    (model / "tokenizer.json").write_text('{"model": {"type": "Unheard"}}')
    (model / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    made = export(model, tmp_path / "m.pte", "--seq-len", 40)
    assert [warning for warning in made["warnings"] if "get_eos_ids" in warning and "tokenizer.json" in warning]
    found = constants(tmp_path / "m.pte")
    assert "get_eos_ids" not in found
    assert "get_tokenizer_hash" in found
    dry = run_json("export", model, "-o", tmp_path / "m.pte", "--seq-len", 40, "--dry-run")
    assert dry["file_bytes"] == made["file_bytes"] == (tmp_path / "m.pte").stat().st_size


def test_a_file_is_the_same_every_time(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    for name in ("a.pte", "b.pte"):
        export(checkpoint("dream"), tmp_path / name, "--dtype", "int4", "--seq-len", 40)
    assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()


def plans_of(path: Path, folder: Path) -> list[dict[str, Any]]:
    file = path.read_bytes()
    (program_size,) = struct.unpack_from("<Q", file, 16) if file[8:12] == b"eh00" else (len(file),)
    (folder / "program.bin").write_bytes(file[:program_size])
    return list(decode(PROGRAM_SCHEMA, folder / "program.bin", folder)["execution_plan"])


def test_methods_are_as_executorchs_own_exporter_writes_them(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Field by field, and `inspect` reads both."""
    torch = pytest.importorskip("torch")
    exir = pytest.importorskip("executorch.exir")
    model = checkpoint("dream", eos_token_id=[3, 8])
    export(model, tmp_path / "ours.pte", "--seq-len", 40)
    metadata = run_json("inspect", tmp_path / "ours.pte")["metadata"]
    assert metadata["get_eos_ids"] == [3, 8]
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(4),))
    edge = exir.to_edge(program, constant_methods=metadata)
    (tmp_path / "theirs.pte").write_bytes(edge.to_executorch().buffer)
    ours, theirs = (plans_of(tmp_path / name, tmp_path) for name in ("ours.pte", "theirs.pte"))
    assert ours[1:] == theirs[1:]
    assert run_json("inspect", tmp_path / "theirs.pte")["metadata"] == metadata


def test_a_method_whose_value_is_cut_off_is_refused(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """The only output of one is an index of nothing."""
    path = tmp_path / "m.pte"
    export(checkpoint("llada"), path, "--seq-len", 40)
    whole = path.read_bytes()
    name = whole.index(b"get_max_seq_len\0") - 4
    (program_size,) = struct.unpack_from("<Q", whole, 16)
    outputs = struct.pack("<II", 1, 0)  # a vector of one index, 0
    refused = 0
    for place in range(0, program_size - 8, 4):
        if whole[place : place + 8] == outputs and abs(place - name) < 400:
            path.write_bytes(whole[: place + 4] + struct.pack("<i", 7) + whole[place + 8 :])
            result = run("inspect", path, "--no-hash")
            if result.returncode != 0:
                assert_fails(result, BAD_FILE, "value 7 does not exist")
                refused += 1
    assert refused >= 1
