"""Nemotron-Labs-Diffusion: small models with the 8B model's own keys, and transformers' Ministral3 to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import UNSUPPORTED, assert_fails, run, run_json
from families import attention_mask
from program import random_ids
from published_models import MINISTRAL, MODELS
from simulation import simulated_logits
from test_runtime import forward
from transformers import Ministral3ForCausalLM

CONFIG: Final = MODELS["Nemotron-Labs-Diffusion"].config
ROPE: Final[dict[str, Any]] = CONFIG["rope_parameters"]


def write_nemotron(folder: Path, **changes: Any) -> tuple[Path, Ministral3ForCausalLM]:
    """The small model of the published list with other keys, and transformers' network of its weights."""
    config = CONFIG | changes
    MINISTRAL.write(config, 0, folder)
    return folder, MINISTRAL.network(config)


def logits_of(network: Ministral3ForCausalLM, ids: list[int], block_length: int) -> torch.Tensor:
    allowed = attention_mask(len(ids), block_length)[None, None]
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.no_grad():
        return network(torch.tensor([ids]), attention_mask=bias).logits[0]


def assert_close(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("factor", [16.0, 0.25])  # of 8B and of 3B-Base
def test_logits_are_ministrals(factor: float, tmp_path: Path) -> None:
    rope = ROPE | {"factor": factor}
    model, network = write_nemotron(tmp_path / "model", rope_parameters=rope)
    sequences = [random_ids(length, 1001).tolist() for length in (1, 7, 33, 64)]
    for ids, logits in zip(sequences, forward(model, sequences), strict=True):
        assert_close(logits, logits_of(network, ids, 0))
    causal = simulated_logits(model, torch.tensor(sequences[2]), tmp_path, "--block-length", 1)
    assert_close(causal, logits_of(network, sequences[2], 1))


def test_positions_whose_queries_are_scaled_are_refused(tmp_path: Path) -> None:
    """From original_max_position_embeddings on, Llama 4's scaling changes the logits."""
    model, _ = write_nemotron(tmp_path / "model")
    assert run_json("inspect", model, "--no-hash")["config"]["max_positions"] == 64
    result = run("export", model, "-o", tmp_path / "a.pte", "--seq-len", 65)
    assert_fails(result, UNSUPPORTED, "65", "llama_4_scaling_beta", "at most 64")
    run_json("export", model, "-o", tmp_path / "a.pte", "--seq-len", 64)


@pytest.mark.parametrize("paradigm", ["block_diff", "sbd_block_diff"])
def test_training_with_blocks_in_the_mask_is_refused(paradigm: str, tmp_path: Path) -> None:
    model, _ = write_nemotron(tmp_path / "model", dlm_paradigm=paradigm)
    assert_fails(run("inspect", model), UNSUPPORTED, "dlm_paradigm", paradigm)


def logits_behind(network: Ministral3ForCausalLM, ids: list[int], context: int) -> torch.Tensor:
    """Of all tokens, where the first `context` see those before them, and the others everything."""
    allowed = attention_mask(len(ids), 1)
    allowed[context:] = True
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        return network(torch.tensor([ids]), attention_mask=bias).logits[0]


def decoded(
    network: Ministral3ForCausalLM, prompt: list[int], new: int, block: int, threshold: float | None, eos: int = -1
) -> list[int]:
    """By the generate of modeling_nemotron_labs_diffusion.py, greedy: a causal pass gives a block's first token."""
    ids = list(prompt)
    for begin in range(len(prompt), len(prompt) + new, block):
        ids += [int(logits_behind(network, ids, len(ids))[-1].argmax())] + [CONFIG["mask_token_id"]] * (block - 1)
        masked = set(range(begin + 1, begin + block))
        while masked:
            probabilities = logits_behind(network, ids, begin).softmax(-1)
            best = {position: probabilities[position].max(-1) for position in sorted(masked)}
            order = sorted(masked, key=lambda position: -float(best[position].values))
            chosen = order[:1]
            if threshold is not None:
                chosen += [position for position in order[1:] if float(best[position].values) >= threshold]
            for position in chosen:
                ids[position] = int(best[position].indices)
            masked -= set(chosen)
            if eos in ids[begin:] and not any(position < ids.index(eos, begin) for position in masked):
                break
        if eos in ids[len(prompt) :]:
            return ids[len(prompt) : ids.index(eos, len(prompt)) + 1]
    return ids[len(prompt) :]


def generated(model: Path, prompt: list[int], folder: Path, *options: object) -> dict[str, Any]:
    np.save(folder / "prompt.npy", np.array([prompt], dtype=np.int64))
    result: dict[str, Any] = run_json("generate", model, "--prompt-ids", folder / "prompt.npy", *options)
    return result


@pytest.mark.parametrize("threshold", [None, 0.015])
@pytest.mark.parametrize("block", [1, 4, 8])
def test_text_is_that_of_the_authors_program(block: int, threshold: float | None, tmp_path: Path) -> None:
    model, network = write_nemotron(tmp_path / "model")
    prompt = random_ids(13, 1001).tolist()
    options = ("--max-new-tokens", 16, "--block-length", block, "--ignore-eos")
    options += () if threshold is None else ("--threshold", threshold)
    report = generated(model, prompt, tmp_path, *options)
    assert report["tokens"] == decoded(network, prompt, 16, block, threshold)
    passes = report["forward_passes"]
    assert passes <= 1 + 16 + 16 // block
    if threshold is not None and block > 1:
        assert passes < generated(model, prompt, tmp_path, *options[:-2])["forward_passes"]


def test_an_end_token_ends_the_text(tmp_path: Path) -> None:
    model, network = write_nemotron(tmp_path / "model")
    prompt = random_ids(13, 1001).tolist()
    eos = decoded(network, prompt, 16, 8, None)[5]
    report = generated(model, prompt, tmp_path, "--max-new-tokens", 16, "--block-length", 8, "--eos-id", eos)
    assert report["tokens"] == decoded(network, prompt, 16, 8, None, eos)
    assert report["stopped"] == "end"


def test_without_a_cache_all_tokens_see_one_another(tmp_path: Path) -> None:
    """As LLaDA decodes: another text, which an artefact writes too; it has no pass with a causal mask."""
    model, network = write_nemotron(tmp_path / "model")
    prompt = random_ids(13, 1001).tolist()
    options = ("--max-new-tokens", 8, "--block-length", 8, "--ignore-eos")
    ids = [*prompt, *[CONFIG["mask_token_id"]] * 8]
    while CONFIG["mask_token_id"] in ids:
        probabilities = logits_of(network, ids, 0).softmax(-1)
        masked = [position for position, token in enumerate(ids) if token == CONFIG["mask_token_id"]]
        position = max(masked, key=lambda position: float(probabilities[position].max()))
        ids[position] = int(probabilities[position].argmax())
    assert generated(model, prompt, tmp_path, *options, "--cache", "none")["tokens"] == ids[len(prompt) :]
    result = run("generate", model, "--prompt-ids", tmp_path / "prompt.npy", *options, "--cfg-scale", 1.5, "--json")
    assert_fails(result, 2, "cfg_scale")
