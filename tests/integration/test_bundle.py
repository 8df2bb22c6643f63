"""Bundles: a folder with an artefact, its tokenizer and what a program that writes text has to know."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from command import BAD_FILE, OUTPUT_ERROR, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json, tiny_llada, tiny_sdar
from conftest import MakeCheckpoint
from families import FAMILIES
from runner import bundle

CACHE: Final = ("--cache", 160)


def generation(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "generation.json").read_text())
    return document


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_in_it(tmp_path: Path) -> None:
    report = bundle(tiny_sdar(), tmp_path / "b", "--dtype", "int4", *CACHE, "--block-tokens", 32, "--logits", "rows")
    found = files(tmp_path / "b")
    assert set(found) == {
        "model.pte", "generation.json", "README.md", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json",
    }  # fmt: skip
    assert report["bundle_bytes"] == sum(map(len, found.values()))
    assert report["file_bytes"] == len(found["model.pte"])
    assert found["tokenizer.json"] == (tiny_sdar() / "tokenizer.json").read_bytes()
    run_json("export", tiny_sdar(), "-o", tmp_path / "m.pte", "--dtype", "int4", *CACHE, "--block-tokens", 32,
             "--logits", "rows")  # fmt: skip
    assert found["model.pte"] == (tmp_path / "m.pte").read_bytes()
    said = generation(tmp_path / "b")
    assert said["format"] == "diffulex-edge bundle"
    assert said["version"] == 1
    assert said["artefact"] == {
        "name": "model.pte",
        "backend": "xnnpack",
        "bytes": len(found["model.pte"]),
        "sha256": hashlib.sha256(found["model.pte"]).hexdigest(),
    }
    # What the program's own methods say.
    methods = run_json("inspect", tmp_path / "b" / "model.pte")["metadata"]
    model = said["model"]
    assert model == {
        "family": methods["get_model_family"],
        "vocab_size": methods["get_vocab_size"],
        "block_length": methods["get_block_length"],
        "mask_token_id": methods["get_mask_id"],
        "eos_ids": methods["get_eos_ids"],
        "bos_id": methods["get_bos_id"],
        "shifted_logits": methods["use_shifted_logits"],
        "max_tokens": methods["get_max_context_len"],
        "max_step_tokens": methods["get_max_seq_len"],
        "step_sizes": [],
        "cache": methods["get_cache_kind"],
        "logits": methods["get_logits_kind"],
        "tokenizer_sha256": methods["get_tokenizer_hash"],
    }
    assert said["decoding"] == {
        "max_new_tokens": 128,
        "temperature": 0.0,
        "remasking": "low_confidence_dynamic",
        "threshold": 0.85,
    }
    assert "diffulex-edge-run ." in found["README.md"].decode()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_settings(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint(family), model)
    shutil.copy(tiny_sdar() / "tokenizer.json", model)
    mask = () if family in ("llama", "qwen2", "qwen3") else ("--mask-token-id", 5)
    bundle(model, tmp_path / "b", *CACHE, *mask)
    said = generation(tmp_path / "b")
    methods = run_json("inspect", tmp_path / "b" / "model.pte")["metadata"]
    assert said["model"]["family"] == family
    assert said["model"].get("mask_token_id") == methods.get("get_mask_id")
    assert said["model"]["max_step_tokens"] == methods["get_max_seq_len"]
    assert said["model"]["cache"] == methods["get_cache_kind"]
    decoding = {
        key: said["decoding"].get(key) for key in ("remasking", "threshold", "block_length", "sub_block_length")
    }
    assert decoding == {
        "llada": {"remasking": "low_confidence", "threshold": None, "block_length": 32, "sub_block_length": None},
        "dream": {"remasking": "entropy", "threshold": None, "block_length": None, "sub_block_length": None},
        "sdar": {
            "remasking": "low_confidence_dynamic", "threshold": 0.85, "block_length": None, "sub_block_length": None,
        },
        "fast_dllm_v2": {"remasking": None, "threshold": 1.0, "block_length": None, "sub_block_length": 8},
    }.get(family, dict.fromkeys(decoding))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--backend", "coreml", "--seq-len", "32,64"), "model.mlpackage"),
        (("--backend", "coreml", "--container", "pte", "--seq-len", "64"), "model.pte"),
        (("--backend", "qnn", "--seq-len", "64", "--dtype", "fp16"), "model"),
    ],
)
def test_other_backends(options: tuple[str, ...], name: str, tmp_path: Path) -> None:
    report = bundle(tiny_sdar(), tmp_path / "b", *options)
    said = generation(tmp_path / "b")
    assert said["artefact"]["name"] == name
    assert said["artefact"]["bytes"] == report["file_bytes"]
    assert said["model"]["max_tokens"] == 64
    assert said["model"]["step_sizes"] == ([32, 64] if "32,64" in options else [64])
    found = run_json("inspect", tmp_path / "b")
    assert found["bundle"]["backend"] == options[1]
    assert found["path"] == str(tmp_path / "b" / name)
    assert report["bundle_bytes"] == sum(map(len, files(tmp_path / "b").values()))


def test_a_dry_run_counts_its_bytes(tmp_path: Path) -> None:
    for options in ((*CACHE, "--dtype", "int8"), ("--backend", "coreml", "--seq-len", 64)):
        predicted = bundle(tiny_sdar(), tmp_path / "b", *options, "--dry-run")
        assert not (tmp_path / "b").exists()
        made = bundle(tiny_sdar(), tmp_path / "b", *options)
        assert predicted["bundle_bytes"] == made["bundle_bytes"]
        shutil.rmtree(tmp_path / "b")


def test_chat_templates_come_along(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_sdar(), model)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/tool_use.jinja").write_text("tools")
    bundle(model, tmp_path / "b", *CACHE)
    assert {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"} <= set(files(tmp_path / "b"))
    bundle(model, tmp_path / "b", *CACHE)  # over itself


def test_inspect_knows_it(tmp_path: Path) -> None:
    bundle(tiny_sdar(), tmp_path / "b", "--dtype", "int8", *CACHE)
    found = run_json("inspect", tmp_path / "b")
    assert found["kind"] == "executorch_program"
    assert found["bundle"]["generation"] == generation(tmp_path / "b")
    assert {file["path"] for file in found["bundle"]["files"]} >= {"generation.json", "tokenizer.json"}
    text = run("inspect", tmp_path / "b").stdout
    assert "a bundle for xnnpack" in text
    assert "model max_tokens 160" in text
    artefact = tmp_path / "b" / "model.pte"
    damaged = bytearray(artefact.read_bytes())
    damaged[-1] ^= 1
    artefact.write_bytes(damaged)
    assert_fails(run("inspect", tmp_path / "b"), BAD_FILE, "model.pte", "SHA-256")
    run_json("inspect", tmp_path / "b", "--no-hash")


def split_tokenizer(source: Path, target: Path) -> None:
    """A copy of the model whose tokenizer is vocab.json and merges.txt: the same, as GPT-2's class reads it."""
    shutil.copytree(source, target)
    model = json.loads((target / "tokenizer.json").read_text())["model"]
    (target / "tokenizer.json").unlink()
    (target / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (target / "merges.txt").write_text("#version: 0.2\n" + "".join(merge + "\n" for merge in merges))
    config = json.loads((target / "tokenizer_config.json").read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    (target / "tokenizer_config.json").write_text(json.dumps(config))


def test_it_carries_the_files_of_any_tokenizer(tmp_path: Path) -> None:
    split_tokenizer(tiny_sdar(), tmp_path / "model")
    prompt = ("--prompt", "In the beginning", "--max-new-tokens", 12)
    written = run_json("generate", tiny_sdar(), *prompt)
    assert run_json("generate", tmp_path / "model", *prompt)["text"] == written["text"]
    bundle(tmp_path / "model", tmp_path / "b", "--dtype", "int8", *CACHE)
    found = files(tmp_path / "b")
    names = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
    assert set(found) == {"model.pte", "generation.json", "README.md", *names}
    lines = "".join(f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in names)
    assert generation(tmp_path / "b")["model"]["tokenizer_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    bundle(tmp_path / "model", tmp_path / "b", "--dtype", "int8", *CACHE)  # it is a bundle, and may be replaced
    (tmp_path / "b" / "merges.txt").write_text("#version: 0.2\n")
    assert_fails(run("inspect", tmp_path / "b"), BAD_FILE, "vocab.json", "a file beside it is damaged")


def test_refusals(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    target = tmp_path / "b"
    assert_fails(run("export", tiny_sdar()), USAGE_ERROR, "--output", "--bundle")
    both = run("export", tiny_sdar(), "-o", tmp_path / "m.pte", "--bundle", target)
    assert_fails(both, USAGE_ERROR, "--output", "--bundle")
    plain = checkpoint("sdar")
    assert_fails(run("export", plain, "--bundle", target), BAD_FILE, str(plain), "tokenizer.json")
    model = tmp_path / "model"
    shutil.copytree(plain, model)
    shutil.copy(tiny_sdar() / "tokenizer.json", model)
    assert_fails(run("export", model, "--bundle", target), USAGE_ERROR, "mask token", "--mask-token-id")
    last = run("export", tiny_sdar(), "--bundle", target, *CACHE, "--logits", "last")
    assert_fails(last, USAGE_ERROR, "logits")
    (model / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    unknown = run("export", model, "--bundle", target, "--mask-token-id", 5)
    assert unknown.returncode in (BAD_FILE, UNSUPPORTED)
    assert "tokenizer.json" in unknown.stderr
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "letter.txt").write_text("mine")
    assert_fails(run("export", tiny_sdar(), "--bundle", target), OUTPUT_ERROR, str(target))
    (target / "letter.txt").unlink()
    bundle(tiny_sdar(), target, *CACHE)
    bundle(tiny_sdar(), target, *CACHE, "--dtype", "int8")  # one bundle for another
    (target / "letter.txt").write_text("mine")
    assert_fails(run("export", tiny_sdar(), "--bundle", target), OUTPUT_ERROR, str(target))
    assert (target / "letter.txt").read_text() == "mine"
    (target / "letter.txt").unlink()
    shutil.copytree(tiny_llada(), target / "model")  # a model where a QNN artefact could be
    inside = run("export", target / "model", "--bundle", target)
    assert_fails(inside, USAGE_ERROR, str(target), "holds the model")
    assert (target / "model/model.safetensors").is_file()
