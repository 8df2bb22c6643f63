"""Programs that keep keys and values (export --cache), in the ExecuTorch runtime.

What they compute step by step is what a program without a cache computes of the whole sequence, with XNNPACK's weight
cache off and on (see program.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import families
import pytest
import torch
from command import USAGE_ERROR, assert_fails, export, run, run_json, tiny_sdar
from conftest import MakeCheckpoint
from families import FAMILIES, Reference, compare
from program import Program, cut_into_steps, random_ids
from quantization import Options
from static_reference import measure, static_checkpoint
from tokenizers import Tokenizer
from torch import Tensor

CAPACITY: Final = 120
LENGTH: Final = 100
VOCAB: Final = 1001
FORMATS: Final = {
    "fp32": (),
    "fp16": ("--dtype", "fp16"),
    "fp16 throughout": ("--dtype", "fp16", "--activation-dtype", "fp16"),
    "int8": ("--dtype", "int8"),
    "int8 dynamic": ("--dtype", "int8", "--mode", "dynamic", "--embedding-dtype", "int8", "--head-dtype", "int8"),
    "int4": ("--dtype", "int4", "--group-size", 32, "--embedding-dtype", "int4", "--head-dtype", "int4"),
    "int4 per channel": ("--dtype", "int4", "--group-size", 0),
}
DTYPES: Final = ("fp32", "fp16")  # of the cache
BIDIRECTIONAL: Final = ("llada", "dream")
BLOCK_CAUSAL: Final = tuple(family for family in FAMILIES if family not in BIDIRECTIONAL)
# Several blocks of every family's mask in one step, one in each, and a last step that fills none.
PIECES: Final = ((64, 36), (32, 32, 32, 4), (96, 4))


def in_steps(program: Program, ids: Tensor, pieces: tuple[int, ...]) -> Tensor:
    return cut_into_steps(program.step, ids, pieces)


def assert_close(logits: Tensor, expected: Tensor, name: str) -> None:
    if name in ("fp16 throughout", "int8 dynamic", "int4"):  # values half-way between two steps may go either way
        assert compare(logits, expected)["cosine"] > 0.9999
    else:
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", BLOCK_CAUSAL)
@pytest.mark.parametrize("name", FORMATS)
def test_steps_give_the_logits_of_the_whole(family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint(family)
    report = export(model, tmp_path / "steps.pte", *FORMATS[name], "--cache", CAPACITY, "--cache-dtype", "fp32")
    assert report["seq_len"] == CAPACITY  # of one step
    assert report["cache"]["tokens"] == CAPACITY
    export(model, tmp_path / "whole.pte", *FORMATS[name], "--seq-len", LENGTH)
    ids = random_ids(LENGTH, VOCAB)
    whole = Program(tmp_path / "whole.pte").logits(ids)
    steps = Program(tmp_path / "steps.pte")
    for pieces in PIECES:  # each begins anew in the same memory
        assert_close(in_steps(steps, ids, pieces), whole, name)


@pytest.mark.parametrize("family", BIDIRECTIONAL)
@pytest.mark.parametrize("name", FORMATS)
def test_bidirectional_steps_see_what_lies_before_and_behind(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """A step over tokens that have not changed gives what the step over all gave them."""
    model = checkpoint(family)
    export(model, tmp_path / "steps.pte", *FORMATS[name], "--cache", CAPACITY, "--cache-dtype", "fp32")
    export(model, tmp_path / "whole.pte", *FORMATS[name], "--seq-len", LENGTH)
    ids, context = random_ids(LENGTH, VOCAB), torch.tensor([LENGTH])
    whole = Program(tmp_path / "whole.pte").logits(ids)
    steps = Program(tmp_path / "steps.pte")
    assert_close(steps.step(ids, 0, context), whole, name)
    for begin, end in ((32, LENGTH), (32, 48), (99, 100)):  # the prefix cache's step, and the dual cache's
        assert_close(steps.step(ids[begin:end], begin, context), whole[begin:end], name)
    if name == "fp32":  # another token is seen from everywhere, also through the cache
        changed = ids.clone()
        changed[40] = (ids[40] + 1) % VOCAB
        again = steps.step(changed[40:41], 40, context)
        assert (again - whole[40:41]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["sdar", "qwen2"])
def test_fp16_cache_rounds_keys_and_values_only(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint(family)
    caches = {dtype: export(model, tmp_path / dtype, "--cache", CAPACITY, "--cache-dtype", dtype) for dtype in DTYPES}
    ids = random_ids(LENGTH, VOCAB)
    exact, rounded = (in_steps(Program(tmp_path / dtype), ids, PIECES[1]) for dtype in DTYPES)
    assert 0 < (exact - rounded).abs().max() < 0.02
    assert compare(rounded, exact)["cosine"] > 0.99999
    # Buffers end with the bytes that XNNPACK may read beyond them.
    assert caches["fp16"]["cache"]["bytes"] < 0.51 * caches["fp32"]["cache"]["bytes"]


def rounded_by_row(x: Tensor) -> Tensor:
    """[..., tokens, dim] as an 8-bit cache holds it: 127ths of each row's greatest magnitude."""
    magnitude = x.abs().amax(-1, keepdim=True)
    return (x / magnitude * 127).round() / 127 * magnitude


@pytest.mark.parametrize("family", BLOCK_CAUSAL)
@pytest.mark.parametrize("name", ["fp32", "fp16 throughout"])
def test_int8_cache_has_a_scale_for_each_token_and_head(
    family: str, name: str, checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keys far from the others' magnitudes: no scale of a layer would do.
    model = checkpoint(family, weight_scales={"k_proj": 3.0, "v_proj": 0.1})
    options = (*FORMATS[name], "--cache", CAPACITY, "--cache-dtype")
    report = export(model, tmp_path / "int8.pte", *options, "int8")
    whole = export(model, tmp_path / "fp32.pte", *options, "fp32")
    assert report["cache"]["dtype"] == "int8"
    assert report["cache"]["bytes"] < 0.35 * whole["cache"]["bytes"]  # of heads of 16: 4 bytes beside 16
    ids = random_ids(LENGTH, VOCAB)
    exact = in_steps(Program(tmp_path / "fp32.pte"), ids, PIECES[1])
    attention = families._attention
    monkeypatch.setattr(
        families, "_attention", lambda q, k, v, mask: attention(q, rounded_by_row(k), rounded_by_row(v), mask)
    )
    expected = Reference(model).logits(ids[None])[0]
    program = Program(tmp_path / "int8.pte")
    for pieces in PIECES:  # each begins anew in the same memory
        logits = in_steps(program, ids, pieces)
        assert compare(logits, exact)["cosine"] > 0.999
        if name == "fp32":  # FP16's own rounding is as large
            assert (logits - expected).abs().mean() < 0.02 * (exact - expected).abs().mean()


@pytest.mark.parametrize("family", BIDIRECTIONAL)
def test_int8_cache_of_bidirectional_models(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint(family)
    caches = {
        dtype: export(model, tmp_path / dtype, "--cache", CAPACITY, "--cache-dtype", dtype)
        for dtype in ("fp32", "int8")
    }
    ids, context = random_ids(LENGTH, VOCAB), torch.tensor([LENGTH])
    assert caches["int8"]["cache"]["bytes"] < 0.35 * caches["fp32"]["cache"]["bytes"]
    exact, rounded = (Program(tmp_path / dtype) for dtype in ("fp32", "int8"))
    for begin, end in ((0, LENGTH), (32, LENGTH), (32, 48), (99, 100)):
        expected = exact.step(ids[begin:end], begin, context)
        logits = rounded.step(ids[begin:end], begin, context)
        assert compare(logits, expected)["cosine"] > 0.999
        assert (logits - expected).abs().max() > 0


def test_int8_cache_of_zeros(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Rows without a magnitude stay zeros, and are no division by one."""
    model = checkpoint("llama", weight_scales={"v_proj": 0.0})
    export(model, tmp_path / "model.pte", "--cache", CAPACITY, "--cache-dtype", "int8")
    ids = random_ids(LENGTH, VOCAB)
    expected = Reference(model).logits(ids[None])[0]
    torch.testing.assert_close(
        in_steps(Program(tmp_path / "model.pte"), ids, PIECES[0]), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 3), (6, 6), (7, 7), (4, 2)])
def test_any_number_of_heads(heads: int, kv_heads: int, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint("sdar", num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=32)
    export(model, tmp_path / "steps.pte", "--cache", CAPACITY, "--cache-dtype", "fp32")
    ids = random_ids(LENGTH, VOCAB)
    expected = Reference(model).logits(ids[None])[0]
    torch.testing.assert_close(
        in_steps(Program(tmp_path / "steps.pte"), ids, PIECES[0]), expected, rtol=2e-4, atol=2e-4
    )


def test_static_activations(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Keys and values are those of 8-bit layers; attention is computed in floating point, with and without a cache."""
    options = Options("int8", "static", embedding="int8", head="int8")
    model = static_checkpoint(checkpoint("sdar"), tmp_path / "q", options, measure(checkpoint("sdar"), options))
    export(model, tmp_path / "steps.pte", "--cache", CAPACITY, "--cache-dtype", "fp32")
    export(model, tmp_path / "whole.pte", "--seq-len", LENGTH)
    ids = random_ids(LENGTH, VOCAB)
    whole = Program(tmp_path / "whole.pte").logits(ids)
    assert compare(in_steps(Program(tmp_path / "steps.pte"), ids, PIECES[1]), whole)["cosine"] > 0.9999


def test_a_step_replaces_what_an_earlier_one_wrote(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Denoising: a block is computed with masks again and again, and at last with its tokens."""
    model = checkpoint("sdar")
    export(model, tmp_path / "steps.pte", "--cache", CAPACITY, "--cache-dtype", "fp32")
    program = Program(tmp_path / "steps.pte")
    ids = random_ids(24, VOCAB)
    expected = in_steps(program, ids, (8, 4, 4, 8))
    program.step(ids[:8], 0)
    for seed in range(3):
        program.step(torch.randint(0, VOCAB, (4,), generator=torch.Generator().manual_seed(seed)), 8)
    logits = [program.step(ids[begin:end], begin) for begin, end in ((8, 12), (12, 16), (16, 24))]
    assert torch.equal(torch.cat(logits), expected[8:])


@pytest.mark.parametrize("family", ["sdar", "llama", "llada"])
def test_logits_of_the_rows_that_are_asked_for(family: str, checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = checkpoint(family)
    programs = {}
    for logits in ("all", "last", "rows"):
        export(model, tmp_path / logits, "--cache", CAPACITY, "--logits", logits)
        programs[logits] = Program(tmp_path / logits)
    ids = random_ids(40, VOCAB)
    context = (torch.tensor([40]),) if family == "llada" else ()
    for begin, end in ((0, 32), (32, 40)):
        every = programs["all"].step(ids[begin:end], begin, *context)
        torch.testing.assert_close(
            programs["last"].step(ids[begin:end], begin, *context), every[-1:], rtol=1e-6, atol=1e-6
        )
        rows = torch.tensor([[7, 0, 3]])
        chosen = programs["rows"].step(ids[begin:end], begin, *context, rows)
        torch.testing.assert_close(chosen, every[rows[0]], rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError):
        programs["rows"].step(ids[:8], 0, *context, torch.tensor([[8]]))


def test_positions_instead_of_the_first_one(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """As optimum-executorch calls a model, and ExecuTorch's own runner where the argument has room for them."""
    export(checkpoint("qwen3"), tmp_path / "steps.pte", "--cache", CAPACITY)
    program = Program(tmp_path / "steps.pte")
    ids = random_ids(12, VOCAB)
    expected = in_steps(program, ids, (8, 1, 1, 1, 1))
    logits = [program.call(ids[None, :8], torch.arange(8))]
    logits += [program.call(ids[None, at : at + 1], torch.tensor([at])) for at in range(8, 12)]
    assert torch.equal(torch.cat(logits), expected)


def test_what_does_not_fit_is_refused_and_harms_nothing(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export(checkpoint("sdar"), tmp_path / "steps.pte", "--cache", 64, "--block-tokens", 16)
    program = Program(tmp_path / "steps.pte")
    ids = random_ids(64, VOCAB)
    expected = in_steps(program, ids, (16,) * 4)
    for begin, count in ((52, 16), (64, 1), (-4, 4), (1 << 40, 4), (0, 17)):
        with pytest.raises(RuntimeError):
            program.step(ids[:count], begin)
    with pytest.raises(RuntimeError):
        program.step(torch.tensor([VOCAB]), 0)
    assert torch.equal(in_steps(program, ids, (16,) * 4), expected)


def test_two_models_in_one_process(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Each with its own cache and weights, in turns."""
    ids = random_ids(32, VOCAB)
    programs, alone = [], []
    for seed in (1, 2):
        path = tmp_path / f"{seed}.pte"
        export(checkpoint("sdar", seed=seed), path, "--dtype", "int8", "--mode", "dynamic", "--cache", CAPACITY)
        programs.append(Program(path))
        alone.append(in_steps(programs[-1], ids, (16, 16)))
    assert not torch.allclose(*alone)
    turns = [[program.step(ids[at : at + 16], at) for program in programs] for at in (0, 16)]
    for expected, parts in zip(alone, zip(*turns, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), expected)


def decode(program: Program, prompt: list[int], mask: int, blocks: int) -> list[int]:
    """SDAR's low_confidence_static with a token a step, at temperature 0, in blocks of 4."""
    ids, at = list(prompt), len(prompt) // 4 * 4
    for begin in range(0, at, 4):
        program.step(ids[begin : begin + 4], begin)
    for begin in range(at, at + 4 * blocks, 4):
        block = ids[begin:] + [mask] * (begin + 4 - len(ids))
        while mask in block:
            logits = program.step(block, begin)
            logits[:, mask] = -torch.inf
            confidence, tokens = logits.softmax(-1).max(-1)
            confidence[[token != mask for token in block]] = -1
            best = int(confidence.argmax())
            block[best] = int(tokens[best])
        program.step(block, begin)
        ids = ids[:begin] + block
    return ids


@pytest.mark.parametrize("options", [(), ("--dtype", "int8"), ("--dtype", "int4", "--group-size", 0)])
@pytest.mark.parametrize("prompt", ["And the LORD said unto Moses, ", "In the beginning"])
def test_text_is_that_of_the_engine(options: tuple[object, ...], prompt: str, tmp_path: Path) -> None:
    export(tiny_sdar(), tmp_path / "model.pte", *options, "--cache", 128, "--cache-dtype", "fp32")
    words = ("--prompt", prompt, "--max-new-tokens", 64, "--ignore-eos", "--steps-per-block", 4)
    report = run_json("generate", tiny_sdar(), *words, "--remasking", "low_confidence_static", *options)
    ids: list[int] = Tokenizer.from_file(str(tiny_sdar() / "tokenizer.json")).encode(prompt).ids
    written = decode(Program(tmp_path / "model.pte"), ids, mask=1, blocks=17)
    assert written[len(ids) : len(ids) + 64] == report["tokens"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--cache", 257), USAGE_ERROR, ("cache", "257", "256")),
        (("--cache", 64, "--block-tokens", 65), USAGE_ERROR, ("block tokens", "65", "64")),
        (("--cache", 64, "--block-tokens", 3), USAGE_ERROR, ("block tokens", "3", "4")),
        (("--cache", -1), USAGE_ERROR, ("cache", "-1")),
        (("--logits", "last"), USAGE_ERROR, ("cache", "--cache TOKENS")),
        (("--cache-dtype", "fp32"), USAGE_ERROR, ("cache", "--cache TOKENS")),
        (("--cache", 64, "--cache-dtype", "int4"), USAGE_ERROR, ("cache", "int4", "int8")),
        (("--cache", 64, "--block-tokens", "4,8"), USAGE_ERROR, ("block tokens", "only the largest")),
        (("--cache", 64, "--cache-dtype", "fp32", "--backend", "coreml"), USAGE_ERROR, ("--cache-dtype", "XNNPACK")),
    ],
)
def test_bad_options(
    options: tuple[object, ...], code: int, words: tuple[str, ...], checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    result = run("export", checkpoint("sdar"), "-o", tmp_path / "model", *options)
    assert_fails(result, code, *words)
    assert not (tmp_path / "model").exists()


def test_dry_run_and_text_report_name_the_cache(tmp_path: Path) -> None:
    options = ("--cache", 128, "--block-tokens", 32)
    report = export(tiny_sdar(), tmp_path / "model.pte", *options)
    dry = run_json("export", tiny_sdar(), "-o", tmp_path / "no.pte", "--dry-run", *options)
    assert dry["file_bytes"] == report["file_bytes"] == (tmp_path / "model.pte").stat().st_size
    assert dry["cache"] == report["cache"]
    text = run("export", tiny_sdar(), "-o", tmp_path / "model.pte", *options).stdout
    assert "up to 32 tokens a step" in text
    assert "cache of 128 tokens in fp16" in text
    assert "outside the delegate: 24 x aten::empty.out\n" in text  # two views of two heads in each of six layers
    assert "  operator  24 x aten::empty.out\n" in run("inspect", tmp_path / "model.pte").stdout
