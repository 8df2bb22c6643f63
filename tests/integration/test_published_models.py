"""Every model on the list of published ones: small checkpoints against what computes the same, in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import UNSUPPORTED, assert_fails, run, run_json
from families import make_checkpoint
from published_models import (
    LIMIT,
    MODELS,
    Forward,
    check_commands,
    guide_parts,
    largest_difference,
    make_table,
    table_row,
)


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
