"""What the integration tests share: checkpoints, each written once for a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import COMMAND, SANITIZED_COMMAND, tiny_llada
from evaluation_data import cut
from families import make_checkpoint, make_config, read_architecture, write_sparse_checkpoint

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


@pytest.fixture(
    params=[
        pytest.param(COMMAND, id="release"),
        pytest.param(
            SANITIZED_COMMAND,
            id="sanitized",
            marks=pytest.mark.skipif(SANITIZED_COMMAND is None, reason="DIFFULEX_EDGE_ASAN is not set"),
        ),
    ]
)
def command(request: pytest.FixtureRequest) -> Path:
    """The command, and its build with sanitizers, if there is one."""
    path: Path = request.param
    return path


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundled model: trained weights, with evaluation data."""
    return tiny_llada()


@pytest.fixture(scope="session")
def few(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen sequences of each set of its evaluation data: what needs no more takes a quarter of the time."""
    return cut(tiny / "eval.safetensors", tmp_path_factory.mktemp("few") / "eval.safetensors", 16)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 checkpoint of 0.4 GB, so that an export takes long enough to be disturbed."""
    config = make_config(
        "llama",
        "bfloat16",
        hidden_size=1024,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=4096,
        num_hidden_layers=8,
        vocab_size=32000,
    )
    architecture = read_architecture(config)
    shapes = {f"{architecture.module_name(name)}.weight": shape for name, (shape, _) in architecture.modules().items()}
    return write_sparse_checkpoint(tmp_path_factory.mktemp("large"), config, shapes)


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options that calibrate the small random models: 12 sequences of 40 token ids."""
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    np.save(path, torch.randint(0, 1000, (12, 40), generator=torch.Generator().manual_seed(0)).numpy())
    return "--calibration", path, "--mask-token-id", 1000
