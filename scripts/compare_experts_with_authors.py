#!/usr/bin/env python3
"""Compares models with routed experts: this program's logits with those of the authors' own modeling files.

    scripts/compare_experts_with_authors.py --authors DIR

DIR has RND1/rnd/ (RadicalNumerics/RND1), lladamoe/ with modeling_lladamoe.py and configuration_lladamoe.py, and
llada2/ with modeling_llada2_moe.py and configuration_llada2_moe.py, as they are beside the models on the Hugging Face
hub or in ZHZisZZ/dllm. They were written for transformers 4.5x, which has to be installed here; Qwen3-MoE is
transformers' own. Prints the largest difference of small random models, and fails where it is 1e-5 or more.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from expert_families import ExpertReference, make_expert_checkpoint  # noqa: E402
from test_runtime import forward  # noqa: E402

LENGTHS: Final = (1, 32, 96)
LIMIT: Final = 1e-5

Forward = Callable[[Tensor], Tensor]
"""Token ids [1, sequence] to logits [1, sequence, V]."""


def qwen3_moe(authors: Path, model: Path) -> Forward:
    from transformers import Qwen3MoeForCausalLM

    network = Qwen3MoeForCausalLM.from_pretrained(model, torch_dtype=torch.float32, attn_implementation="eager")
    return lambda ids: network(ids).logits


def rnd1(authors: Path, model: Path) -> Forward:
    sys.path.insert(0, str(authors / "RND1"))
    configuration = importlib.import_module("rnd.configuration_rnd")
    modeling = importlib.import_module("rnd.modeling_rnd")
    import json

    # Its defaults are set over what the file says.
    configuration.CONFIG_DEFAULTS.update(json.loads((model / "config.json").read_text()), rope_scaling=None)
    config = configuration.RND1Config(mask_token_id=1000)
    network = load(modeling.RND1LM(config), model)
    return lambda ids: network(ids).logits


def llada_moe(authors: Path, model: Path) -> Forward:
    sys.path.insert(0, str(authors))
    configuration = importlib.import_module("lladamoe.configuration_lladamoe")
    modeling = importlib.import_module("lladamoe.modeling_lladamoe")
    names = ("LLaDAConfig", "LLaDAMoEConfig")  # on the hub, and in dllm
    config_class = next(getattr(configuration, name) for name in names if hasattr(configuration, name))
    config = config_class.from_pretrained(model)
    config._attn_implementation = "sdpa"
    network = load(modeling.LLaDAMoEModelLM(config), model)
    return lambda ids: network(ids, use_cache=False).logits


def llada2_moe(authors: Path, model: Path) -> Forward:
    sys.path.insert(0, str(authors))
    configuration = importlib.import_module("llada2.configuration_llada2_moe")
    modeling = importlib.import_module("llada2.modeling_llada2_moe")
    config = configuration.LLaDA2MoeConfig.from_pretrained(model)
    config._attn_implementation = "sdpa"
    network = load(modeling.LLaDA2MoeModelLM(config), model)

    def run(ids: Tensor) -> Tensor:
        block = torch.arange(ids.shape[1]) // 32
        sees = block[None, :] <= block[:, None]
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        return network(ids, attention_mask=mask[None, None]).logits

    return run


def load(network: Any, model: Path) -> Any:
    """The checkpoint's tensors in the authors' network, every one in its place."""
    weights = ExpertReference(model).weights
    network.load_state_dict(weights, strict=True)
    return network.float().eval()


CASES: Final[dict[str, tuple[Callable[[Path, Path], Forward], list[dict[str, Any]]]]] = {
    "qwen3_moe": (qwen3_moe, [{}, {"norm_topk_prob": False, "mlp_only_layers": [1]}]),
    "rnd1": (rnd1, [{}]),
    "llada_moe": (
        llada_moe,
        [
            {},
            {
                "moe_layer_freq": [0, 1, 1],
                "moe_router_enable_expert_bias": True,
                "shared_expert_intermediate_size": 64,
                "partial_rotary_factor": 0.5,
            },
        ],
    ),
    "llada2_moe": (llada2_moe, [{}, {"n_group": 1, "topk_group": 1, "partial_rotary_factor": 1.0, "rotary_dim": 32}]),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, required=True)
    authors = parser.parse_args().authors
    is_close = True
    for family, (loader, variants) in CASES.items():
        for overrides in variants:
            with tempfile.TemporaryDirectory() as folder:
                model = make_expert_checkpoint(folder, family, **overrides)
                network = loader(authors, model)
                sequences = [torch.randint(0, 1001, (length,)).tolist() for length in LENGTHS]
                with torch.no_grad():
                    expected = [network(torch.tensor([ids]))[0].float() for ids in sequences]
                ours = forward(model, sequences)
                theirs = max((a - b).abs().max().item() for a, b in zip(ours, expected, strict=True))
                reference = ExpertReference(model)
                by_tests = max(
                    (reference.logits(ids) - b).abs().max().item() for ids, b in zip(sequences, expected, strict=True)
                )
            is_close = is_close and theirs < LIMIT and by_tests < LIMIT
            print(f"{family:12} {overrides}: the program {theirs:.1e}, the tests' reference {by_tests:.1e}", flush=True)
    return 0 if is_close else 1


if __name__ == "__main__":
    sys.exit(main())
