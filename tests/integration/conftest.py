"""What the integration tests share: checkpoints of every family, written once for each session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import COMMAND, tiny_llada
from families import make_checkpoint

torch.set_num_threads(2)

MakeCheckpoint = Callable[..., Path]


def pytest_sessionstart() -> None:
    if not COMMAND.is_file():
        pytest.exit(f"{COMMAND} does not exist: run `make build`, or set DIFFULEX_EDGE", returncode=2)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """`checkpoint(family, **options of families.make_checkpoint)` -> its folder, which tests must not change."""
    root = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def make(family: str, **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = make_checkpoint(root / str(len(made)), family, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundled model: trained weights, with evaluation data."""
    return tiny_llada()
