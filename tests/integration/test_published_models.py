"""Every model on the list of published ones: small checkpoints against what computes the same, in every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from command import BAD_FILE, COMMAND, UNSUPPORTED, USAGE_ERROR, assert_fails, run, run_json
from families import make_checkpoint
from program import random_ids
from published_models import (
    ARTEFACTS,
    EXPORTS,
    LIMIT,
    MODELS,
    Forward,
    check_commands,
    guide_parts,
    largest_difference,
    largest_sizes,
    make_table,
    table_row,
    write_published_size,
)

SHELL: Final = Path("/bin/sh")


@pytest.fixture(scope="module", params=MODELS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Forward]:
    """A model's name, its folder, and what computes its logits."""
    folder = tmp_path_factory.mktemp("published") / "model"
    return request.param, folder, MODELS[request.param].write(folder)


def test_logits_are_the_authors(published: tuple[str, Path, Forward]) -> None:
    _, folder, expected = published
    assert largest_difference(folder, expected) < LIMIT


def test_every_command_takes_it_or_says_why_not(published: tuple[str, Path, Forward], tmp_path: Path) -> None:
    name, folder, _ = published
    check_commands(MODELS[name], folder, tmp_path)


def test_the_guide_has_the_list_and_differences_within_the_limit() -> None:
    _, table, _ = guide_parts()
    differences = [line.rstrip("| ").rpartition(" | ")[2] for line in table.splitlines()[2:]]
    assert len(differences) == len(MODELS), "run `make models UPDATE=1`"
    rows = [table_row(name, difference) for name, difference in zip(MODELS, differences, strict=True)]
    assert table == make_table(rows), "run `make models UPDATE=1`"
    assert max(map(float, differences)) < LIMIT


@pytest.mark.parametrize(("size", "name"), largest_sizes().items())
def test_published_sizes_are_planned_in_little_memory(size: str, name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    folder = write_published_size(name, size, tmp_path / "model")
    inspected = run("-c", 'ulimit -d 98304; exec "$@"', "sh", COMMAND, "inspect", folder, "--no-hash", command=SHELL)
    assert inspected.returncode == 0, inspected.stderr
    for refusing, backend in EXPORTS.items():
        if refusing in model.refused:
            continue
        report = run_json(
            "export", folder, "-o", tmp_path / ARTEFACTS[backend], "--backend", backend, "--dtype", "int4", "--dry-run"
        )
        assert report["parameters"] == model.sizes[size].parameters
        # Where there are tens of thousands of experts' tensors, their plans and graphs are most of it.
        assert report["peak_rss_bytes"] < max(100e6, 11e3 * len(model.published_shapes(size)))
    (folder / "model.safetensors").unlink()


@pytest.mark.skipif(shutil.which("fincore") is None, reason="util-linux's fincore is not there")
@pytest.mark.parametrize(
    ("name", "size", "backend"), [("LLaDA-MoE", "LLaDA-MoE-7B-A1B", "xnnpack"), ("Qwen3", "Qwen3-8B", "qnn")]
)
def test_planning_reads_little_of_each_tensor_from_the_disk(name: str, size: str, backend: str, tmp_path: Path) -> None:
    """A page fault alone reads 32 pages and more: of thousands of experts' tensors, that is a good part of the file."""
    folder = write_published_size(name, size, tmp_path / "model")
    file = folder / "model.safetensors"
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(file) > 0:
        pytest.skip("the file system keeps its files in memory")
    target = tmp_path / ARTEFACTS[backend]
    run_json("export", folder, "-o", target, "--backend", backend, "--dtype", "int4", "--dry-run")
    beginning = 4096  # pages that are read ahead with the header
    assert cached_pages(file) < beginning + 3 * len(MODELS[name].published_shapes(size))
    file.unlink()


def cached_pages(file: Path) -> int:
    """How many pages of the file the system has in memory."""
    words = ("fincore", "--raw", "--noheadings", "--output", "PAGES", file)
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_dreamon_is_known_by_its_expand_token(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "dream", expand_token_id=999)
    np.save(tmp_path / "prompt.npy", random_ids(5, 990)[None].numpy())
    generate = ("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 12, "--ignore-eos")
    assert len(run_json(*generate, "--expand-budget", 0)["tokens"]) == 4
    assert len(run_json(*generate, "--expand-budget", 0, "--initial-masks", 7)["tokens"]) == 7
    assert len(run_json(*generate, "--fixed-length", "--steps", 6)["tokens"]) == 12
    assert_fails(run(*generate, "--json", "--steps", 6), USAGE_ERROR, "steps", "fixed length")
    assert_fails(run(*generate, "--json", "--fixed-length", "--expand-id", 3), USAGE_ERROR, "--expand-id")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"expand_token_id": 1001}))
    assert_fails(run(*generate, "--json"), BAD_FILE, "config.json", "expand_token_id", "1001")
    assert_fails(
        run("generate", make_checkpoint(tmp_path / "plain", "dream"), *generate[2:], "--json", "--initial-masks", 4),
        USAGE_ERROR,
        "initial_masks",
        "expand_id",
    )


def test_wedlm_without_a_mask_token_says_so(tmp_path: Path) -> None:
    keys = {"model_type": "wedlm", "architectures": ["WeDLMForCausalLM"], "qk_norm": True}
    folder = make_checkpoint(tmp_path / "model", "qwen3", **keys)
    np.save(tmp_path / "prompt.npy", random_ids(5, 990)[None].numpy())
    generate = ("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 8, "--ignore-eos")
    assert_fails(run(*generate, "--json"), USAGE_ERROR, "mask token", "--mask-token-id")
    assert len(run_json(*generate, "--mask-token-id", 1000)["tokens"]) == 8
    single = run_json(*generate, "--window-size", 0)
    assert len(single["tokens"]) == single["forward_passes"] == 8
    assert_fails(run(*generate, "--json", "--window-size", -1), USAGE_ERROR, "window_size")


def test_open_dcoder_is_known_by_its_code(tmp_path: Path) -> None:
    """The same class without the authors' code is Qwen2, and causal."""
    folder = make_checkpoint(tmp_path / "model", "qwen2")
    path = folder / "config.json"
    plain = json.loads(path.read_text())
    code = {"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"}
    path.write_text(json.dumps(plain | {"auto_map": code}))
    assert run_json("inspect", folder, "--no-hash")["config"]["family"] == "qwen2"
    path.write_text(json.dumps(plain | {"auto_map": code, "trust_remote_code": True}))
    assert run_json("inspect", folder, "--no-hash")["config"]["family"] == "open_dcoder"
    path.write_text(json.dumps(plain | {"architectures": ["Qwen2ForSequenceClassification"]}))
    assert_fails(run("inspect", folder), UNSUPPORTED, "architectures", "Qwen2ForCausalLM")
