"""What is done with sound input is sound as well, under AddressSanitizer and UBSan: nothing found, the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import SANITIZED_COMMAND, SANITIZER_OPTIONS, export, run
from conftest import MakeCheckpoint
from families import FAMILIES
from quantization import Options
from test_formats import FORMATS, label

pytestmark = pytest.mark.skipif(SANITIZED_COMMAND is None, reason="DIFFULEX_EDGE_ASAN is not set")


def run_sanitized(*arguments: object) -> None:
    assert SANITIZED_COMMAND is not None
    result = run(*arguments, command=SANITIZED_COMMAND, env=os.environ | SANITIZER_OPTIONS)
    assert result.returncode == 0, result.stderr


def check_export(model: Path, options: Options, folder: Path) -> None:
    run_sanitized("export", model, "-o", folder / "sanitized.pte", *options.arguments(), "--report", folder / "r.html")
    export(model, folder / "model.pte", *options.arguments())
    assert (folder / "sanitized.pte").read_bytes() == (folder / "model.pte").read_bytes()
    run_sanitized("inspect", folder / "model.pte")


@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_every_format_is_exported_cleanly(options: Options, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    check_export(checkpoint("qwen2"), options, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_cleanly(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    check_export(checkpoint(family, shards=2), Options(), tmp_path)


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_every_format_is_quantized_and_read_back_cleanly(
    dtype: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    run_sanitized("quantize", checkpoint("llada", dtype="float16"), "-o", tmp_path / "q", "--dtype", dtype)
    run_sanitized("inspect", tmp_path / "q", "--json")
    check_export(tmp_path / "q", Options(dtype), tmp_path)
