"""What the tests of the Python package share: the command, checkpoints that it wrote, and modules to quantize."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from checkpoints import COMMAND, TINY, Quantize
from modules import Llada
from safetensors.torch import load_file
from torch import Tensor, nn

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def quantize_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Quantize:
    """`quantize_checkpoint(*options)`: the folder that `diffulex-edge quantize examples/tiny-llada` wrote, once."""
    root = tmp_path_factory.mktemp("quantized")
    made: dict[tuple[str, ...], Path] = {}

    def quantize(*options: object) -> Path:
        words = tuple(map(str, options))
        if words not in made:
            made[words] = root / str(len(made))
            command = [str(COMMAND), "quantize", str(TINY), "-o", str(made[words]), *words]
            result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            assert result.returncode == 0, result.stderr
        return made[words]

    return quantize


@pytest.fixture(scope="session")
def trained() -> dict[str, Tensor]:
    """The bundled model's weights, bfloat16."""
    return load_file(TINY / "model.safetensors")


@pytest.fixture
def llada(trained: dict[str, Tensor]) -> Llada:
    """The bundled model as a module, in the bfloat16 of its checkpoint."""
    model = Llada().to(torch.bfloat16)
    model.load_state_dict(trained)
    return model.eval()


@pytest.fixture
def linear() -> nn.Linear:
    """A layer [64 -> 48] with weights of different sizes in each row."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    with torch.no_grad():
        layer.weight *= torch.linspace(0.1, 3, 48)[:, None]
    return layer
