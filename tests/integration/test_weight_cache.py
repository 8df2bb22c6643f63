"""Two models of one process, with XNNPACK's weight cache on: it knows packed weights by their names in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import export
from families import Reference, compare, make_checkpoint
from program import Program, random_ids
from quantization import Options, QuantizedReference

FORMATS = [
    Options(),
    Options("fp16"),
    Options("fp16", activations="fp16"),
    Options("int8", embedding="int8", head="int8"),
    Options("int8", "dynamic"),
    Options("int4"),
    Options("int4", group_size=0),
]


@pytest.mark.parametrize("options", FORMATS, ids=lambda options: "-".join(options.arguments()))
def test_two_models_with_the_same_names_keep_their_own_weights(options: Options, tmp_path: Path) -> None:
    programs = {}
    for seed in (1, 2):
        model = make_checkpoint(tmp_path / f"model{seed}", "dream", seed=seed)
        export(model, tmp_path / f"{seed}.pte", *options.arguments())
        programs[model] = Program(tmp_path / f"{seed}.pte")
    ids = random_ids(24, 1000)
    for model, program in programs.items():
        reference = QuantizedReference(model, options)
        assert compare(program.logits(ids), reference.logits(ids)[0])["cosine"] > 0.999


def test_two_formats_of_one_model_are_packed_apart(tmp_path: Path) -> None:
    """The same integers and scales, for kernels whose packed forms differ."""
    model = make_checkpoint(tmp_path / "model", "dream")
    programs = []
    for mode in ("weight_only", "dynamic"):
        export(model, tmp_path / f"{mode}.pte", "--dtype", "int8", "--mode", mode)
        programs.append(Program(tmp_path / f"{mode}.pte"))
    ids = random_ids(24, 1000)
    expected = Reference(model).logits(ids)[0]
    for program in programs:
        assert compare(program.logits(ids), expected)["cosine"] > 0.999
