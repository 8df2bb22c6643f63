"""Models by their names on the hub, in the cache that `hf download` fills, wherever the package takes a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import torch
from checkpoints import Quantize
from modules import Llada

from diffulex_edge import BadFileError, DiffusionEngine, DiffusionGenerationConfig
from diffulex_edge.backends import XNNPACKBackend
from diffulex_edge.quant import load_quantized

TEXT: Final = Path(__file__).resolve().parents[2] / "examples/tiny-llada-text"
FEW: Final = DiffusionGenerationConfig(max_new_tokens=4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def put(hub: Path, source: Path, name: str) -> Path:
    """The snapshot's folder."""
    snapshot = hub / f"models--{name.replace('/', '--')}" / "snapshots" / "0123"
    shutil.copytree(source, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    return snapshot


def test_a_name_stands_for_its_folder(hub: Path, quantize_checkpoint: Quantize, llada: Llada) -> None:
    put(hub, TEXT, "org/text")
    named = DiffusionEngine.from_model("org/text").generate("the", FEW)
    assert named.text == DiffusionEngine.from_model(TEXT).generate("the", FEW).text
    result = XNNPACKBackend().export_model("org/text", hub.parent / "model.pte", seq_len=32)
    assert result.success, result.error
    folder = quantize_checkpoint("--dtype", "int8")
    put(hub, folder, "org/int8")
    ids = torch.arange(9)[None]
    assert torch.equal(load_quantized(llada, "org/int8")(ids), load_quantized(llada, folder)(ids))


def test_a_name_that_is_not_there_says_how_to_download_it(hub: Path) -> None:
    with pytest.raises(BadFileError, match="hf download org/absent"):
        DiffusionEngine.from_model("org/absent")
    error = XNNPACKBackend().export_model("org/absent", hub.parent / "model.pte").error
    assert isinstance(error, BadFileError)
    assert str(hub) in str(error)


def test_verify_takes_a_name_and_keys_to_ignore(hub: Path) -> None:
    snapshot = put(hub, TEXT, "org/text")
    assert XNNPACKBackend().export_model("org/text", hub.parent / "model.pte", seq_len=32).success
    config = json.loads((snapshot / "config.json").read_text()) | {"somebodys_note": 1}
    (snapshot / "config.json").write_text(json.dumps(config))
    words = [sys.executable, "-m", "diffulex_edge", "verify", "model.pte", "--generate", "org/text", "--prompt", "the"]
    words += ["--max-new-tokens", "4", "--json"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    assert refused.returncode == 4
    assert "--ignore-config-key somebodys_note" in refused.stderr
    words += ["--ignore-config-key", "somebodys_note"]
    taken = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["agreement"] == 1.0
