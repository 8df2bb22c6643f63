"""Every code block of docs/PYTHON.md, docs/GENERATION.md and the specification, run word for word."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import random_ids
from modules import Small
from torch import nn

from diffulex_edge.quant import BaseQuantizer, QuantizedLinear

_REPOSITORY = Path(__file__).resolve().parents[2]
_PAGE = _REPOSITORY / "docs/PYTHON.md"
_TEXT_PAGE = _REPOSITORY / "docs/GENERATION.md"
_SPECIFICATION = _REPOSITORY.parent / "shared/SPECIFICATION.md"
_GONE = "int4_weight_only"  # from torchao


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def run(block: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Runs a block as a function's body, since one of them returns, and gives its names."""
    source = f"def block(model, example_inputs):\n{textwrap.indent(block, '    ')}\n    return locals()\n"
    exec(compile(source, str(_PAGE), "exec"), namespace)
    result: dict[str, Any] = namespace["block"](Small().eval(), (random_ids(50, 1, 12),))
    return result


def names() -> dict[str, Any]:
    """What blocks of the specification's implementation details use without importing it."""
    return {"torch": torch, "nn": nn, "BaseQuantizer": BaseQuantizer, "QuantizedLinear": QuantizedLinear}


@pytest.mark.parametrize("block", [block for block in blocks(_PAGE) + blocks(_TEXT_PAGE) if _GONE not in block])
def test_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(_REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    found = run(block, names())
    result = found.get("result")
    if result is not None:
        assert result.success or "max_memory_mb" in block, result
    if "FP16Quantizer(BaseQuantizer)" in block:
        found["FP16Quantizer"]().quantize(nn.Sequential(nn.Linear(32, 8)), None)
    if 'save("model.pte")' in block:
        assert (tmp_path / "model.pte").stat().st_size > 10_000


def test_torchao_has_not_the_name_any_more() -> None:
    (block,) = (block for block in blocks(_PAGE) if _GONE in block)
    pytest.importorskip("torchao")
    with pytest.raises(ImportError, match=_GONE):
        run(block, names())


@pytest.mark.skipif(not _SPECIFICATION.exists(), reason="the specification is not beside the repository")
def test_every_block_of_the_specification_is_on_the_page() -> None:
    assert len(blocks(_SPECIFICATION)) == 7
    assert set(blocks(_SPECIFICATION)) <= set(blocks(_PAGE))
