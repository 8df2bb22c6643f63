"""Checkpoints as they lie on disks: the hub's cache, names and files that differ, and what is in a weight's place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import (
    BAD_FILE,
    COMMAND,
    OUTPUT_ERROR,
    UNSUPPORTED,
    USAGE_ERROR,
    assert_fails,
    export,
    run,
    run_json,
    tiny_llada_text,
)
from conftest import MakeCheckpoint
from families import OMIT, Reference, compare
from program import Program, random_ids
from safetensors.torch import load_file, save_file
from test_runtime import forward

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
POINTER: Final = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 4096\n"


@pytest.fixture
def model(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A copy of a small model, to be changed."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def refused(model: object, code: int, *words: str, environment: Mapping[str, str] | None = None) -> None:
    """`export` ends with this exit code, and a sentence with these words."""
    env = None if environment is None else os.environ | dict(environment)
    assert_fails(run("export", model, "-o", "/nowhere/x.pte", "--dry-run", env=env), code, *words)


def rename_tensors(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not OMIT}))


def assert_same_model(changed: Path, original: Path, tmp_path: Path, *options: object) -> None:
    """Their logits are the same to the last bit, quantized too, and an artefact can be made."""
    ids = random_ids(21, 1001).tolist()
    for config in ({}, {"dtype": "int4", "embedding_dtype": "int8", "head_dtype": "int8"}):
        assert torch.equal(forward(changed, [ids], **config)[0], forward(original, [ids], **config)[0])
    export(changed, tmp_path / "changed.pte", "--dtype", "int4", *options)


# --- Tensors' names.


@pytest.mark.parametrize("family", ["llada", "dream", "llama", "qwen3"])
def test_names_without_the_prefix(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    original = checkpoint(family)
    bare = Path(shutil.copytree(original, tmp_path / "bare"))
    rename_tensors(bare, lambda name: name.removeprefix("model."))
    assert any(name.startswith("model.") for name in load_file(original / "model.safetensors"))
    assert_same_model(bare, original, tmp_path)


@pytest.mark.parametrize("family", ["llada", "llama"])
def test_tied_model_of_which_only_the_head_is_stored(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    tie = {"weight_tying": True} if family == "llada" else {"tie_word_embeddings": True}
    original = checkpoint(family, **tie)
    changed = Path(shutil.copytree(original, tmp_path / "changed"))
    table = "model.transformer.wte.weight" if family == "llada" else "model.embed_tokens.weight"
    head = "model.transformer.ff_out.weight" if family == "llada" else "lm_head.weight"
    rename_tensors(changed, lambda name: head if name == table else name)
    assert_same_model(changed, original, tmp_path, "--embedding-dtype", "int8", "--head-dtype", "int8")
    # It is quantized under that name, and read again.
    run_json("quantize", changed, "-o", tmp_path / "quantized", "--dtype", "int8", "--embedding-dtype", "int8",
             "--head-dtype", "int8")  # fmt: skip
    assert load_file(tmp_path / "quantized/model.safetensors")[head].dtype == torch.int8
    export(tmp_path / "quantized", tmp_path / "quantized.pte")


def test_missing_head_hints_at_the_tie(model: Path, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, model / "model.safetensors")
    refused(model, BAD_FILE, "lm_head.weight", "tie_word_embeddings")
    edit_config(model, tie_word_embeddings=True)
    export(model, tmp_path / "tied.pte")
    ids = random_ids(9, 1001)
    expected = Reference(model).logits(ids)[0]
    assert compare(Program(tmp_path / "tied.pte").logits(ids), expected)["max_abs"] < 1e-4


# --- Files of other names and kinds.


@pytest.mark.parametrize("name", ["pytorch_model.safetensors", "consolidated.safetensors"])
def test_single_file_of_another_name(name: str, model: Path, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / name)
    report = export(model, tmp_path / "a.pte")
    assert any(name in warning for warning in report["warnings"])
    export(checkpoint("llama"), tmp_path / "b.pte")
    assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()
    shutil.copy(model / name, model / "other.safetensors")
    refused(model, BAD_FILE, name, "other.safetensors", "model.safetensors")


def test_index_of_another_name(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    original = checkpoint("llama", shards=3)
    changed = Path(shutil.copytree(original, tmp_path / "changed"))
    (changed / "model.safetensors.index.json").rename(changed / "pytorch_model.safetensors.index.json")
    assert_same_model(changed, original, tmp_path)
    (changed / "pytorch_model.safetensors.index.json").unlink()
    refused(changed, BAD_FILE, "model-00001-of-00003.safetensors", "model.safetensors.index.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_say_how_to_convert(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / name)
    refused(model, BAD_FILE, name, "save_pretrained", "safe_serialization=True")
    (model / "config.json").unlink()
    refused(model, BAD_FILE, name, "config.json", "Hugging Face")


def test_an_adapter_without_its_model_says_how_to_get_it(model: Path) -> None:
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    note = {"peft_type": "LORA", "base_model_name_or_path": "GSAI-ML/LLaDA-8B-Base"}
    (model / "adapter_config.json").write_text(json.dumps(note))
    for _ in range(2):
        refused(model, BAD_FILE, "adapter", "GSAI-ML/LLaDA-8B-Base", "hf download GSAI-ML/LLaDA-8B-Base")
        assert_fails(run("inspect", model), BAD_FILE, "adapter", "hf download GSAI-ML/LLaDA-8B-Base")
        (model / "config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_lfs_pointer_is_known(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llada_text(), tmp_path / "model"))
    (folder / name).write_text(POINTER)
    if name != "tokenizer_config.json":  # which that model's text does not need
        result = run("generate", folder, "--prompt", "a", "--max-new-tokens", 2)
        assert_fails(result, BAD_FILE, str(folder / name), "Git LFS", "git lfs pull")
    result = run("quantize", folder, "-o", tmp_path / "quantized", "--dtype", "int8")
    assert_fails(result, BAD_FILE, str(folder / name), "Git LFS", "git lfs pull")
    assert not (tmp_path / "quantized").exists()


def gptq(layer: str, groups: int) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.qweight": torch.zeros(12, 96, dtype=torch.int32),
        f"{layer}.qzeros": torch.zeros(groups, 12, dtype=torch.int32),
        f"{layer}.scales": torch.zeros(groups, 96, dtype=torch.float16),
        f"{layer}.g_idx": torch.zeros(96, dtype=torch.int32),
    }


def awq(layer: str, groups: int) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.qweight": torch.zeros(96, 12, dtype=torch.int32),
        f"{layer}.qzeros": torch.zeros(groups, 12, dtype=torch.int32),
        f"{layer}.scales": torch.zeros(groups, 96, dtype=torch.float16),
    }


@pytest.mark.parametrize(("make", "method"), [(gptq, "GPTQ"), (awq, "AWQ")])
def test_packed_weights_of_others_are_known_by_their_tensors(make: Any, method: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        del weights[f"{name}.weight"]
        weights |= make(name, 3)
    save_file(weights, model / "model.safetensors")
    refused(model, UNSUPPORTED, "q_proj.qweight", f"by {method}", "unquantized")
    edit_config(model, quantization_config={"quant_method": "hqq"})
    refused(model, UNSUPPORTED, "quantization_config", "hqq", "unquantized")


# --- The hub's cache.


def put_into_cache(hub: Path, source: Path, name: str) -> Path:
    """As `hf download` does: blobs, a folder of links for the commit, and the revision that names it."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    for number, file in enumerate(sorted(path for path in source.iterdir() if path.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return repository


ENVIRONMENTS: Final = {
    "HF_HUB_CACHE": "",
    "HF_HOME": "hub",
    "XDG_CACHE_HOME": "huggingface/hub",
    "HOME": ".cache/huggingface/hub",
}


@pytest.mark.parametrize("variable", ENVIRONMENTS)
def test_name_is_found_in_the_cache(
    variable: str, checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRONMENTS.keys() - {"HOME"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    monkeypatch.chdir(tmp_path)
    repository = put_into_cache(tmp_path / "there" / ENVIRONMENTS[variable], checkpoint("llama"), "org/some.model-7B")
    export(checkpoint("llama"), tmp_path / "expected.pte")
    for name in ("org/some.model-7B", repository, repository / "snapshots" / COMMIT):
        export(name, tmp_path / "found.pte")  # type: ignore[arg-type]
        assert (tmp_path / "found.pte").read_bytes() == (tmp_path / "expected.pte").read_bytes()
    refused("org/another", BAD_FILE, str(tmp_path / "there" / ENVIRONMENTS[variable]), "hf download org/another")
    # A folder of that name wins.
    shutil.copytree(checkpoint("qwen3"), tmp_path / "org/some.model-7B")
    assert run_json("inspect", "org/some.model-7B", "--no-hash")["config"]["family"] == "qwen3"


def test_every_command_takes_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(tiny_llada_text(), tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    put_into_cache(tmp_path / "hub", model, "org/tiny")
    (tmp_path / "text.txt").write_text("the little dog sat on a mat and looked at the moon\n" * 4)
    data = ("--data", "text.txt", "--length", 16, "--sequences", 2)
    plan = ("-o", "plan.json", "--calibration", "text.txt", "--calibration-length", 16, "--formats", "int8")
    assert run_json("inspect", "org/tiny", "--no-hash")["kind"] == "checkpoint"
    assert run_json("evaluate", "org/tiny", *data, "--against", "org/tiny", "--dtype", "int8")["success"]
    assert run_json("quantize", "org/tiny", "-o", "quantized", "--dtype", "int8")["success"]
    assert (tmp_path / "quantized/tokenizer.json").is_file()
    assert not (tmp_path / "quantized/tokenizer.json").is_symlink()
    assert run_json("export", "org/tiny", "--bundle", "bundle", "--seq-len", 32)["success"]
    assert run_json("generate", "org/tiny", "--prompt", "the", "--max-new-tokens", 4)["text"]
    assert run_json("bench", "org/tiny", "--tokens", 1, "--contexts", 0, "--repetitions", 1)["success"]
    assert run_json("plan", "org/tiny", *plan, "--max-loss", 1)["success"]
    assert run("chat", "org/tiny", "--max-new-tokens", 4, input="the\n").returncode == 0


@pytest.mark.parametrize(
    "command", ["export", "inspect", "quantize", "evaluate", "plan", "generate", "chat", "serve", "bench"]
)
def test_every_command_lets_a_key_pass(command: str, model: Path) -> None:
    edit_config(model, somebodys_note=1)
    needed: dict[str, tuple[object, ...]] = {
        "export": ("-o", model / "x.pte", "--dry-run"),
        "quantize": ("-o", model / "quantized"),
        "evaluate": ("--data", model / "absent.npy"),
        "plan": ("-o", model / "plan.json", "--calibration", model / "absent.npy", "--max-loss", 1),
        "generate": ("--prompt-ids", model / "absent.npy"),
        "serve": ("--port", 0, "--capacity", 10**6),
        "bench": ("--tokens", 1, "--contexts", 10**6),
    }
    (model / "chat_template.jinja").write_text("x")
    words = (command, model, *needed.get(command, ()))
    refused = run(*words, input="")
    assert "'somebodys_note'" in refused.stderr
    assert "--ignore-config-key somebodys_note" in refused.stderr
    taken = run(*words, "--ignore-config-key", "somebodys_note", input="")
    assert "somebodys_note" not in taken.stderr


def test_incomplete_download_is_named(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = put_into_cache(tmp_path, checkpoint("llama"), "org/name")
    snapshot = repository / "snapshots" / COMMIT
    for name in ("model.safetensors", "config.json"):
        blob = (snapshot / name).resolve()
        blob.rename(f"{blob}.incomplete")
        refused("org/name", BAD_FILE, name, "link to a file that is not there", "download is incomplete")
        (snapshot / name).unlink()
        refused("org/name", BAD_FILE, name, "the download is incomplete", "hf download org/name")
        shutil.copy(f"{blob}.incomplete", snapshot / name)
    (repository / "refs/main").write_text("f" * 40)
    refused("org/name", BAD_FILE, "f" * 40, "refs/main", "download is incomplete", "hf download org/name")
    (repository / "refs/main").write_text("../../../secret")
    refused("org/name", BAD_FILE, "refs/main", "commit")
    (repository / "refs/main").unlink()
    refused("org/name", BAD_FILE, "refs/main", "hf download org/name")


# --- Values and outputs.


@pytest.mark.parametrize("value", [1001, -1, 10**15])
def test_mask_token_beyond_the_vocabulary_names_file_and_key(
    value: int, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("dream"), tmp_path / "model"))
    edit_config(folder, mask_token_id=value)
    refused(
        folder,
        BAD_FILE,
        str(folder / "config.json"),
        "'mask_token_id'",
        str(value),
        "vocabulary of 1001",
        "--mask-token-id",
    )
    assert run("export", folder, "-o", tmp_path / "x.pte", "--dry-run", "--mask-token-id", 7).returncode == 0
    edit_config(folder, mask_token_id=OMIT)
    added = {"1001": {"content": "<mask>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>", "added_tokens_decoder": added}))
    np.save(tmp_path / "ids.npy", random_ids(24, 1001).reshape(2, 12).numpy())
    result = run("evaluate", folder, "--data", tmp_path / "ids.npy")
    assert_fails(result, BAD_FILE, str(folder / "tokenizer_config.json"), "'mask_token'", "<mask>", "1001")


def test_numbers_of_python_are_read_where_the_key_allows(model: Path, tmp_path: Path) -> None:
    for value in (float("inf"), float("-inf"), float("nan")):
        edit_config(model, initializer_range=value, time_step_limit=[0.0, value], note='NaN, "Infinity"')
        options = ("--ignore-config-key", "time_step_limit", "--ignore-config-key", "note")
        export(model, tmp_path / "x.pte", *options)
        run_json("quantize", model, "-o", tmp_path / f"q{value}", "--dtype", "int8", *options)
        config = json.loads((tmp_path / f"q{value}/config.json").read_text())
        assert str(config["time_step_limit"]) == str([0.0, value])
        assert config["note"] == 'NaN, "Infinity"'
        edit_config(model, time_step_limit=OMIT, note=OMIT, rms_norm_eps=value)
        spelled = json.dumps(value)
        refused(model, BAD_FILE, "config.json", "rms_norm_eps", f"is {spelled}, not a finite number")
        edit_config(model, rms_norm_eps=1e-6)
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace("NaN", "Nan"))
    refused(model, BAD_FILE, "config.json", "not valid JSON")


def test_artefact_into_a_pipe_says_why_not(model: Path) -> None:
    for target in ("/dev/stdout", "/dev/null"):
        assert_fails(run("export", model, "-o", target), OUTPUT_ERROR, target, "written in many places", "copy")


def test_full_file_size_limit_is_an_error(model: Path, tmp_path: Path) -> None:
    for words in (("export", model, "-o", tmp_path / "out/x.pte"), ("quantize", model, "-o", tmp_path / "out/x")):
        (tmp_path / "out").mkdir(exist_ok=True)
        limited = ("-c", 'ulimit -f 8 && exec "$@"', "sh", COMMAND, *words)
        assert_fails(run(*limited, command=Path("/bin/sh")), OUTPUT_ERROR, "File too large", "ulimit -f")
        assert list((tmp_path / "out").iterdir()) == []


def test_logits_of_rows_of_one_length(model: Path, tmp_path: Path) -> None:
    rows = random_ids(36, 1001).reshape(3, 12).tolist()
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    run_json("evaluate", model, "--data", data, "--logits", tmp_path / "logits.safetensors")
    saved = load_file(tmp_path / "logits.safetensors")
    assert saved["input_ids_next"].tolist() == [row[:-1] for row in rows]
    reference = Reference(model)
    expected = torch.cat([reference.logits(torch.tensor([row[:-1]]))[0] for row in rows])
    assert compare(saved["logits_next"], expected)["max_abs"] < 1e-4
    data.write_text(data.read_text() + '{"input_ids": [1, 2, 3]}\n')
    result = run("evaluate", model, "--data", data, "--logits", tmp_path / "other.safetensors")
    assert_fails(result, USAGE_ERROR, "--logits", "one length", "data.jsonl")
