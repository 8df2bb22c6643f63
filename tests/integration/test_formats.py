"""Every format on every model family, in the ExecuTorch runtime, against an independent forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import UNSUPPORTED, USAGE_ERROR, assert_fails, export, run
from conftest import MakeCheckpoint
from families import FAMILIES, Reference, compare, write_checkpoint
from program import Program, random_ids
from quantization import Format, Options, QuantizedReference
from safetensors.torch import load_file
from torch import Tensor

SEQ_LEN: Final = 100
LENGTHS: Final = (1, 5, 37, SEQ_LEN)

FORMATS: Final = [
    Options(),
    Options(embedding="fp16", head="fp16"),
    Options(embedding="int8", head="int8"),
    Options(embedding="int4", head="int4"),
    Options("fp16"),
    Options("fp16", embedding="fp16", head="fp16"),
    Options("fp16", activations="fp16"),
    Options("fp16", embedding="fp16", head="fp16", activations="fp16"),
    Options("int8"),
    Options("int8", embedding="int8", head="int8"),
    Options("int8", "dynamic"),
    Options("int8", "dynamic", embedding="int8", head="int8"),
    Options("int8", "dynamic", activations="fp16"),
    Options("int4"),
    Options("int4", embedding="fp16", head="fp16"),
    Options("int4", embedding="int8", head="int8"),
    Options("int4", embedding="int4", head="int4"),
    Options("int4", activations="fp16"),
    Options("int4", group_size=64),
    Options("int4", group_size=128),
    Options("int4", group_size=256),
    Options("int4", group_size=256, embedding="int4", head="int4"),
    Options("int4", group_size=0),
    Options("int4", group_size=0, embedding="int4", head="int4"),
    Options("int4", "dynamic", group_size=0),
]


def label(options: Options) -> str:
    """A test id: "int4-dynamic-group_size=0"."""
    return "-".join(word.removeprefix("--") for word in options.arguments()) or "fp32"


def wide_sizes(family: str) -> dict[str, Any]:
    """Config overrides for a model whose rows groups of 256 divide."""
    if family == "llada":
        return {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 512, "n_layers": 1}
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512}
    return sizes | {"num_hidden_layers": 1, "head_dim": 64}


def relative_error(logits: Tensor, reference: Tensor) -> float:
    """The largest difference over the largest logit."""
    return compare(logits, reference)["max_abs"] / float(reference.abs().max())


def assert_agrees(program: Program, model: Path, options: Options, lengths: tuple[int, ...] = LENGTHS) -> None:
    """The program computes what the dequantized weights give, at several lengths.

    With floating-point activations to rounding. With activations in 8 bits to the noise of these, and, where those are
    modelled too, to rounding again at some length; not at all of them, since a value half-way between two steps may
    round either way and change every token that sees it.
    """
    dequantized = QuantizedReference(model, options)
    exact = QuantizedReference(model, options, quantize_activations=True)
    exact_errors = []
    for length in lengths:
        ids = random_ids(length, dequantized.architecture.vocab)
        logits = program.logits(ids)
        expected = dequantized.logits(ids)[0]
        assert torch.isfinite(logits).all()
        error, cosine = relative_error(logits, expected), compare(logits, expected)["cosine"]
        if options.quantizes_activations():
            assert cosine >= 0.999, f"length {length}"
            exact_errors.append(relative_error(logits, exact.logits(ids)[0]))
        elif options.activations == "fp16":
            assert error < 5e-3, f"length {length}"
            assert cosine >= 0.99999, f"length {length}"
        else:
            assert error < 1e-4, f"length {length}"
    if exact_errors and options.activations == "fp32":
        assert min(exact_errors) < 1e-4, f"largest errors at {lengths}: {exact_errors}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_logits_are_those_of_the_stored_weights(
    family: str, options: Options, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint(family, **(wide_sizes(family) if options.group_size > 32 else {}))
    report = export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", SEQ_LEN)
    assert report["family"] == family
    assert report["seq_len"] == SEQ_LEN
    assert_agrees(Program(tmp_path / "model.pte"), model, options)


@pytest.mark.parametrize("family", FAMILIES)
def test_input_beyond_the_bound_fails_and_does_no_harm(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export(checkpoint(family), tmp_path / "model.pte", "--seq-len", SEQ_LEN)
    program = Program(tmp_path / "model.pte")
    before = program.logits(random_ids(SEQ_LEN, 1001))
    with pytest.raises(RuntimeError):
        program.logits(random_ids(SEQ_LEN + 1, 1001))
    assert torch.equal(program.logits(random_ids(SEQ_LEN, 1001)), before)


@pytest.mark.parametrize("options", FORMATS, ids=label)
def test_report_names_the_format_and_kernel_of_every_weight(
    options: Options, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("qwen2", **wide_sizes("qwen2"))
    report = export(model, tmp_path / "model.pte", *options.arguments())
    reference = QuantizedReference(model, options)
    compute = options.activations.replace("fp", "f")
    for layer in report["layers"]:
        if layer["role"] in ("norm", "bias"):
            continue
        stored = reference.formats[layer["layer"]]
        assert layer["dtype"] == stored.dtype
        assert layer["format"] == format_text(stored)
        if layer["role"] == "linear":
            weight = {"fp32": "f32", "fp16": "f16", "int8": "qc8w"}.get(stored.dtype) or (
                "qb4w" if stored.group_size else "qc4w"
            )
            activations = "qd8" if options.quantizes_input(stored) else "f32" if weight == "f32" else compute
            assert layer["kernel"] == f"{activations} x {weight}"


def format_text(stored: Format) -> str:
    """A format in the words of the report."""
    grouped = f"i4 groups of {stored.group_size}, bf16 scales" if stored.group_size else "i4 per channel, f32 scales"
    return {"fp32": "f32", "fp16": "f16", "int8": "i8 per channel, f32 scales", "int4": grouped}[stored.dtype]


def test_groups_that_do_not_divide_a_row_become_smaller_and_are_listed(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = Options("int4", group_size=256)
    model = checkpoint("llama")  # rows of 96 and 160: only groups of 32 divide them
    report = export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", SEQ_LEN)
    assert_agrees(Program(tmp_path / "model.pte"), model, options)
    warnings = "\n".join(report["warnings"])
    for layer in report["layers"]:
        if layer["dtype"] == "int4":
            assert layer["format"] == "i4 groups of 32, bf16 scales"
            assert layer["layer"] in warnings

    strict = run("export", model, "-o", tmp_path / "strict.pte", *options.arguments(), "--strict-group-size")
    assert_fails(strict, USAGE_ERROR, "256", "96")


def test_int4_in_groups_says_that_activations_run_in_8_bits(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    report = export(checkpoint("llada"), tmp_path / "model.pte", "--dtype", "int4")
    assert any("8 bits" in warning for warning in report["warnings"])
    dynamic = export(checkpoint("llada"), tmp_path / "model.pte", "--dtype", "int4", "--mode", "dynamic")
    assert not dynamic["warnings"]


def test_fp16_weights_say_that_the_runtime_expands_them(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    report = export(checkpoint("llada"), tmp_path / "model.pte", "--dtype", "fp16")
    assert any("FP32 in memory" in warning for warning in report["warnings"])


def test_excluded_layers_keep_fp32(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("llada")
    report = export(
        model, tmp_path / "model.pte", "--dtype", "int8", "--exclude", "DOWN_proj", "--exclude", "s.0.attn_out"
    )
    kept = {layer["layer"] for layer in report["layers"] if layer["role"] == "linear" and layer["dtype"] == "fp32"}
    assert kept == {"lm_head", "layers.0.down_proj", "layers.1.down_proj", "layers.0.o_proj"}


def test_tied_embedding_and_head_are_stored_once_where_their_formats_agree(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model = checkpoint("fast_dllm_v2")
    sizes = {}
    for dtype in ("fp32", "fp16", "int8"):
        report = export(model, tmp_path / "model.pte", "--embedding-dtype", dtype, "--head-dtype", dtype)
        stored = {layer["layer"]: layer["stored_bytes"] for layer in report["layers"]}
        rows, columns = 1001, 96
        assert stored["embedding"] == Format(dtype).stored_bytes(rows, columns)
        assert stored["lm_head"] == (4 * rows if dtype == "int8" else 0)  # the delegate keeps its own scales
        sizes[dtype] = report["file_bytes"]
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]


def test_tied_embedding_and_head_may_have_different_formats(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("fast_dllm_v2")
    options = Options("int8", embedding="fp16", head="int8")
    export(model, tmp_path / "model.pte", *options.arguments(), "--seq-len", SEQ_LEN)
    untied = untie(model, tmp_path / "untied")
    assert_agrees(Program(tmp_path / "model.pte"), untied, options)


def untie(model: Path, target: Path) -> Path:
    """The same model with a head of its own."""
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    return write_checkpoint(target, Reference(model).config | {"tie_word_embeddings": False}, weights)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "int4", "--mode", "static"),
        ("--dtype", "fp16", "--activation-dtype", "int8"),
        ("--dtype", "int4", "--activation-dtype", "int8"),
        ("--dtype", "int8", "--activation-dtype", "fp16"),
        ("--dtype", "int4", "--group-size", 0, "--activation-dtype", "fp16"),
        ("--dtype", "int4", "--group-size", 0, "--mode", "dynamic", "--activation-dtype", "fp16"),
        ("--activation-dtype", "int8"),
        ("--activation-dtype", "int16"),
    ],
    ids=lambda arguments: "-".join(str(word).removeprefix("--") for word in arguments),
)
def test_what_the_runtime_could_not_load_is_refused(
    arguments: tuple[object, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    result = run("export", checkpoint("llama"), "-o", tmp_path / "model.pte", *arguments)
    assert_fails(result, UNSUPPORTED)
    assert not list(tmp_path.iterdir())


# --- The bundled model, whose weights are trained.

TRAINED: Final = {
    "fp32": (Options(), 1.0),
    "fp16": (Options("fp16"), 0.99999),
    "fp16 throughout": (Options("fp16", embedding="fp16", head="fp16", activations="fp16"), 0.99999),
    "int8": (Options("int8"), 0.999),
    "int8 dynamic": (Options("int8", "dynamic"), 0.999),
    "int8 everywhere": (Options("int8", embedding="int8", head="int8"), 0.999),
    "int4 g32": (Options("int4"), 0.98),
    "int4 g32, fp16 embedding and head": (Options("int4", embedding="fp16", head="fp16"), 0.98),
    "int4 g32, int8 embedding and head": (Options("int4", embedding="int8", head="int8"), 0.98),
    "int4 everywhere": (Options("int4", embedding="int4", head="int4"), 0.98),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_model_stays_close_to_fp32(name: str, tiny: Path, tmp_path: Path) -> None:
    options, cosine = TRAINED[name]
    export(tiny, tmp_path / "model.pte", *options.arguments())
    program = Program(tmp_path / "model.pte")
    data = load_file(tiny / "eval.safetensors")
    logits = torch.stack([program.logits(ids) for ids in data["reference_input_ids"]])
    agreement = compare(logits, data["reference_logits"])
    if options == Options():
        assert agreement["max_abs"] < 1e-4
    else:
        assert agreement["cosine"] >= cosine
    assert_agrees(program, tiny, options, (1, 33, 256))
