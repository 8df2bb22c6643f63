"""The list of published models: what the tests run, what `make models` prints and the user guide shows.

An entry has the keys of the published config.json in a small size, what computes the same model, and the sizes that
were published. A new model is one more entry, which `make models UPDATE=1` brings into the guide.

The keys are those of the authors' own files: the models' config.json, dllm's A2D classes, WeDLM's hf_compat,
Open-dLLM's upload script, the modeling files of Stable-DiffCoder and Dream. Sizes are from config.json of the models,
or from what repeats them: dFactory's configs/model_configs (LLaDA 2), Seed-Coder-8B (which Stable-DiffCoder continues),
Qwen3-30B-A3B (RND1, SDAR-30B-A3B), Qwen2.5 and Qwen3 (all others that continue these). Counts of parameters are those
that the hub shows, where it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from command import UNSUPPORTED, assert_fails, run, run_json
from expert_families import (
    EXPERT_FAMILIES,
    ExpertReference,
    make_expert_checkpoint,
    make_expert_config,
    read_expert_architecture,
)
from families import (
    Reference,
    attention_mask,
    make_checkpoint,
    make_config,
    read_architecture,
    write_sparse_checkpoint,
)
from program import random_ids
from safetensors.torch import load_file, save_file
from test_runtime import forward
from tokenizer_kinds import FOLDERS, byte_level_tokenizer
from torch import Tensor

LIMIT: Final = 1e-5
"""Of the difference between logits, as a part of the largest one."""

VOCABULARY: Final = 1001
MASK_TOKEN: Final = 1000
EXPORTS: Final = {"XNNPACK": "xnnpack", "Core ML": "coreml", "QNN": "qnn"}
ARTEFACTS: Final = {"xnnpack": "model.pte", "coreml": "model.mlpackage", "qnn": "qnn"}

Forward = Callable[[Sequence[int]], Tensor]
"""Token ids to logits [sequence, V]."""


@dataclass(frozen=True)
class OfTransformers:
    """A class of transformers that computes the model once it gets the model's mask."""

    name: str
    renamed: tuple[tuple[str, str], ...] = ()  # beginnings of tensors' names: the class's, the model's
    like: str = ""  # the family of `families` that has the same shapes, if it is not the class's own

    def describe(self, block_length: int) -> str:
        masks = {0: "under a full mask", 1: "as it is"}
        return f"transformers' `{self.name}`, {masks.get(block_length, f'under a mask of blocks of {block_length}')}"

    def write(self, config: Mapping[str, Any], block_length: int, folder: Path) -> Forward:
        network = self.network(config)
        network.save_pretrained(folder)
        if self.renamed:
            tensors = load_file(folder / "model.safetensors")
            save_file({self.rename(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2))

        def compute(ids: Sequence[int]) -> Tensor:
            allowed = attention_mask(len(ids), block_length)[None, None]
            bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
            with torch.no_grad():
                logits: Tensor = network(torch.tensor([ids]), attention_mask=bias).logits[0]
            return logits

        return compute

    def rename(self, tensor: str) -> str:
        """The model's name of one of the class's tensors."""
        for own, models in self.renamed:
            if tensor.startswith(own):
                return models + tensor.removeprefix(own)
        return tensor

    def network(self, config: Mapping[str, Any]) -> Any:
        """With random weights that are no trivial ones, float32."""
        # Not of the arithmetic, or said by this class.
        others = {"architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "qk_norm"}
        others |= {"attn_implementation"}
        keys = {key: value for key, value in config.items() if key not in others}
        for key in ("rope_scaling", "sliding_window"):
            keys[key] = keys.get(key) or None  # RND1 writes false
        model_class = getattr(transformers, self.name)
        torch.manual_seed(0)
        network = model_class(model_class.config_class(**keys, attn_implementation="eager")).float().eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                spread = torch.randn_like(parameter)
                if "norm" in name:
                    parameter.copy_(1.0 + 0.2 * spread)
                else:
                    parameter.copy_(spread * (0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5))
        return network


@dataclass(frozen=True)
class Written:
    """PyTorch operations that the tests wrote from the formulas of the authors' file."""

    file: str

    def describe(self, block_length: int) -> str:
        del block_length
        return f"PyTorch, from `{self.file}`"

    def write(self, config: Mapping[str, Any], block_length: int, folder: Path) -> Forward:
        del block_length  # the file's formulas have it
        for family in EXPERT_FAMILIES:
            if make_expert_config(family)["architectures"] == config["architectures"]:
                make_expert_checkpoint(folder, family, **config)
                experts = ExpertReference(folder)
                return lambda ids: experts.logits(torch.tensor(ids))
        make_checkpoint(folder, "llada", **config)
        reference = Reference(folder)
        return lambda ids: reference.logits(torch.tensor([ids]))[0]


LLAMA: Final = OfTransformers("LlamaForCausalLM")
QWEN2: Final = OfTransformers("Qwen2ForCausalLM")
QWEN3: Final = OfTransformers("Qwen3ForCausalLM")
QWEN3_MOE: Final = OfTransformers("Qwen3MoeForCausalLM")
MINISTRAL: Final = OfTransformers(
    "Ministral3ForCausalLM", renamed=(("model.", "encoder."), ("lm_head.", "diffusion_head.")), like="llama"
)
LLADA_FILE: Final = Written("modeling_llada.py")
LLADA_MOE_FILE: Final = Written("modeling_lladamoe.py")
LLADA2_FILE: Final = Written("modeling_llada2_moe.py")


@dataclass(frozen=True)
class Size:
    """A published size: the keys of its config.json that the small model has otherwise, and how many parameters."""

    parameters: int
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """A published model, or several of one layout."""

    hub: tuple[str, ...]  # names on the Hugging Face hub, or what it is made of
    family: str  # as `inspect` says
    block_length: int  # of the mask; 0: full, 1: causal
    authors: OfTransformers | Written
    config: Mapping[str, Any]
    sizes: Mapping[str, Size] = field(default_factory=dict)  # by a short name
    tokenizer: str = "json"
    refused: tuple[str, ...] = ()  # the keys of EXPORTS that refuse it

    @property
    def layout(self) -> str:
        """Its model_type and class."""
        return f"`{self.config['model_type']}` / `{self.config['architectures'][0]}`"

    @property
    def comparison(self) -> str:
        """What its logits are compared with."""
        return self.authors.describe(self.block_length)

    @property
    def commands(self) -> str:
        """Which commands take it."""
        if not self.refused:
            return "all"
        return f"all but `export` to {' and '.join(self.refused)}"

    def write(self, folder: Path) -> Forward:
        """Write the small model with its tokenizer; returns what computes its logits."""
        expected = self.authors.write(self.config, self.block_length, folder)
        config = (folder / "config.json").read_bytes()
        if self.tokenizer == "json":
            byte_level_tokenizer().save(str(folder / "tokenizer.json"))
        else:
            FOLDERS[self.tokenizer](folder)
        (folder / "config.json").write_bytes(config)  # which a tokenizer's writer may have overwritten
        return expected

    def published_config(self, size: str) -> dict[str, Any]:
        """The config.json of a published size."""
        config = dict(self.config) | self.sizes[size].keys
        for key in ("layer_types", "moe_layer_freq"):
            if key in config and key not in self.sizes[size].keys:
                config[key] = [config[key][0]] * config["num_hidden_layers"]
        return config

    def published_shapes(self, size: str) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of a published size, by name."""
        config = self.published_config(size)
        if self.authors in (QWEN3_MOE, LLADA_MOE_FILE, LLADA2_FILE):
            return read_expert_architecture(config).tensors()
        if self.authors != LLADA_FILE:
            class_name = self.authors.name
            family = self.authors.like or class_name.removesuffix("ForCausalLM").lower()
            config |= {"model_type": family, "architectures": [f"{family.capitalize()}ForCausalLM"]}
        architecture = read_architecture(config)
        shapes = {}
        for module, (shape, has_bias) in architecture.modules().items():
            name = architecture.module_name(module)
            shapes |= {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if has_bias else {})
        if self.authors != LLADA_FILE:
            shapes = {self.authors.rename(name): shape for name, shape in shapes.items()}
        return shapes


# What is measured of a model.


def largest_difference(folder: Path, expected: Forward) -> float:
    """Between the command's logits and the expected ones, as a part of the largest of these."""
    sequences = [random_ids(length, VOCABULARY).tolist() for length in (1, 7, 33)]
    largest = 0.0
    for ids, logits in zip(sequences, forward(folder, sequences), strict=True):
        correct = expected(ids)
        largest = max(largest, float((logits - correct).abs().max() / correct.abs().max()))
    return largest


def check_commands(model: Published, folder: Path, work: Path) -> None:
    """Run every command on the small model; AssertionError where one does not do what the list says."""
    config = run_json("inspect", folder, "--no-hash")["config"]
    assert (config["family"], config["block_length"]) == (model.family, model.block_length)
    for name, backend in EXPORTS.items():
        target = work / ARTEFACTS[backend]
        options = ("-o", target, "--backend", backend, "--dtype", "int4", "--seq-len", 16)
        if name in model.refused:
            assert_fails(run("export", folder, *options), UNSUPPORTED, "routed experts", "--backend xnnpack")
            assert not target.exists()
        else:
            assert run_json("export", folder, *options)["success"]
    assert run_json("quantize", folder, "-o", work / "quantized", "--dtype", "int4")["success"]
    (work / "text.txt").write_text("In the beginning God created the heaven and the earth.\n")
    mask = ("--mask-token-id", MASK_TOKEN)
    assert run_json("evaluate", folder, "--data", work / "text.txt", "--length", 16, *mask)["success"]
    written = run_json("generate", folder, "--prompt", "And God said", "--max-new-tokens", 8, *mask)
    assert len(written["tokens"]) >= 1


def largest_sizes() -> dict[str, str]:
    """The largest size of every arithmetic, and its model."""
    largest: dict[OfTransformers | Written, tuple[str, str]] = {}
    for name, model in MODELS.items():
        for size, published in model.sizes.items():
            known = largest.get(model.authors)
            if known is None or MODELS[known[1]].sizes[known[0]].parameters < published.parameters:
                largest[model.authors] = (size, name)
    return dict(largest.values())


def write_published_size(name: str, size: str, folder: Path) -> Path:
    """A sparse checkpoint of a published size, of which only the shapes and a few bytes are there."""
    model = MODELS[name]
    return write_sparse_checkpoint(folder, model.published_config(size), model.published_shapes(size))


# Configurations of small models: three query heads on one key-value head, two layers.

_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_NO_WINDOW: Final[dict[str, Any]] = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 2}
_DUMP_4: Final[dict[str, Any]] = {"torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True}
_DREAM: Final[dict[str, Any]] = (
    _SIZES
    | _NO_WINDOW
    | _DUMP_4
    | {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mask_token_id": MASK_TOKEN,
        "model_type": "Dream",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }
)


def _qwen_dump(**keys: Any) -> dict[str, Any]:
    """A configuration as transformers 4.57 writes one of Qwen2 or Qwen3."""
    return (
        _SIZES
        | _NO_WINDOW
        | {
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "layer_types": ["full_attention"] * 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "transformers_version": "4.57.0",
            "use_cache": False,
        }
        | keys
    )


def _llama_dump(**keys: Any) -> dict[str, Any]:
    """A configuration as transformers 4 writes one of Llama."""
    return (
        _SIZES
        | _DUMP_4
        | {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mlp_bias": False,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
        }
        | keys
    )


def _llama3_scaling(factor: float, original_positions: int = 64) -> dict[str, Any]:
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": original_positions,
        "rope_type": "llama3",
    }


# Published sizes.


def _size(
    parameters: int, hidden: int, layers: int, heads: tuple[int, int], intermediate: int, vocabulary: int, **keys: Any
) -> Size:
    """`heads`: those of queries, and of keys and values."""
    return Size(
        parameters,
        {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "intermediate_size": intermediate,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768,
            "head_dim": 128,
        }
        | keys,
    )


def _untied(size: Size) -> Size:
    """The same, with a head of its own."""
    head = size.keys["hidden_size"] * size.keys["vocab_size"]
    return Size(size.parameters + head, dict(size.keys) | {"tie_word_embeddings": False})


def _of_dream(size: Size) -> Size:
    """The same by the keys of Qwen2's own configuration, which has no head_dim."""
    return Size(size.parameters, {key: value for key, value in size.keys.items() if key != "head_dim"})


_QWEN3_06B: Final = _size(596_049_920, 1024, 28, (16, 8), 3072, 151936, tie_word_embeddings=True)
_QWEN3_17B: Final = _size(1_720_574_976, 2048, 28, (16, 8), 6144, 151936, tie_word_embeddings=True)
_QWEN3_4B: Final = _size(4_022_468_096, 2560, 36, (32, 8), 9728, 151936, tie_word_embeddings=True)
_QWEN3_8B: Final = _size(8_190_735_360, 4096, 36, (32, 8), 12288, 151936, tie_word_embeddings=False)
_QWEN25_05B: Final = _of_dream(_size(494_032_768, 896, 24, (14, 2), 4864, 151936, tie_word_embeddings=True))
_QWEN25_15B: Final = _of_dream(_size(1_543_714_304, 1536, 28, (12, 2), 8960, 151936, tie_word_embeddings=True))
_QWEN25_7B: Final = _of_dream(_size(7_615_616_512, 3584, 28, (28, 4), 18944, 152064, tie_word_embeddings=False))
_QWEN3_30B_A3B: Final = _size(
    30_532_122_624, 2048, 48, (32, 4), 6144, 151936,
    moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
)  # fmt: skip
_LLADA_8B: Final = Size(
    8_015_581_184,
    {
        "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288,
        "vocab_size": 126464, "embedding_size": 126464, "max_sequence_length": 4096, "mask_token_id": 126336,
    },
)  # fmt: skip
_LLADA_MOE_7B: Final = Size(
    7_356_880_896,
    {
        "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 16,
        "vocab_size": 157184, "max_position_embeddings": 8192, "num_experts": 64, "num_experts_per_tok": 8,
        "dense_intermediate_size": 8192, "expert_intermediate_size": 1024,
    },
)  # fmt: skip
_LLADA2: Final = {
    "num_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "rotary_dim": 64,
    "max_position_embeddings": 16384,
}  # fmt: skip
_LLADA2_MINI: Final = _size(
    16_255_643_392, 2048, 20, (16, 4), 5120, 157184, moe_intermediate_size=512, **_LLADA2
)  # fmt: skip
_LLADA2_FLASH: Final = _size(
    102_889_705_216, 4096, 32, (32, 4), 9216, 157184, moe_intermediate_size=1024, **_LLADA2
)  # fmt: skip
_NO_EXPERTS: Final = ("Core ML", "QNN")

MODELS: Final[dict[str, Published]] = {
    "LLaDA-8B": Published(
        hub=("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct"),
        family="llada",
        block_length=0,
        authors=LLADA_FILE,
        config=make_config("llada", n_kv_heads=3),
        sizes={"LLaDA-8B": _LLADA_8B},
    ),
    "LLaDA-1.5": Published(
        hub=("GSAI-ML/LLaDA-1.5",),
        family="llada",
        block_length=0,
        authors=LLADA_FILE,
        config=make_config("llada", n_kv_heads=3, use_cache=False),
        sizes={"LLaDA-1.5": _LLADA_8B},
    ),
    "LLaDA-MoE": Published(
        hub=("inclusionAI/LLaDA-MoE-7B-A1B-Base", "inclusionAI/LLaDA-MoE-7B-A1B-Instruct"),
        family="llada_moe",
        block_length=0,
        authors=LLADA_MOE_FILE,
        config=make_expert_config("llada_moe"),
        sizes={"LLaDA-MoE-7B-A1B": _LLADA_MOE_7B},
        refused=_NO_EXPERTS,
    ),
    "LLaDA2.0": Published(
        hub=("inclusionAI/LLaDA2.0-mini", "inclusionAI/LLaDA2.0-flash"),
        family="llada2_moe",
        block_length=32,
        authors=LLADA2_FILE,
        config=make_expert_config("llada2_moe"),
        sizes={"LLaDA2.0-mini": _LLADA2_MINI, "LLaDA2.0-flash": _LLADA2_FLASH},
        refused=_NO_EXPERTS,
    ),
    "LLaDA2.1": Published(
        hub=("inclusionAI/LLaDA2.1-mini", "inclusionAI/LLaDA2.1-flash"),
        family="llada2_moe",
        block_length=32,
        authors=LLADA2_FILE,
        config=make_expert_config("llada2_moe", transformers_version="4.57.1"),
        sizes={"LLaDA2.1-mini": _LLADA2_MINI, "LLaDA2.1-flash": _LLADA2_FLASH},
        refused=_NO_EXPERTS,
    ),
    "Dream": Published(
        hub=("Dream-org/Dream-v0-Base-7B", "Dream-org/Dream-v0-Instruct-7B"),
        family="dream",
        block_length=0,
        authors=QWEN2,
        config=_DREAM | {"use_mrope": False},
        sizes={"Dream-7B": _QWEN25_7B},
        tokenizer="dream",
    ),
    "Dream-Coder": Published(
        hub=("Dream-org/Dream-Coder-v0-Base-7B", "Dream-org/Dream-Coder-v0-Instruct-7B"),
        family="dream",
        block_length=0,
        authors=QWEN2,
        config=_DREAM,
        sizes={"Dream-Coder-7B": _QWEN25_7B},
        tokenizer="dream",
    ),
    "DreamOn": Published(
        hub=("Dream-org/DreamOn-v0-7B",),
        family="dream",
        block_length=0,
        authors=QWEN2,
        config=_DREAM | {"use_cache": False, "expand_token_id": 999},
        sizes={"DreamOn-7B": _QWEN25_7B},
        tokenizer="dream",
    ),
    "DiffuCoder": Published(
        hub=("apple/DiffuCoder-7B-Base", "apple/DiffuCoder-7B-Instruct", "apple/DiffuCoder-7B-cpGRPO"),
        family="dream",
        block_length=0,
        authors=QWEN2,
        config=_DREAM | {"use_mrope": False},
        sizes={"DiffuCoder-7B": _QWEN25_7B},
        tokenizer="dream",
    ),
    "SDAR": Published(
        hub=("JetLM/SDAR-1.7B-Chat", "JetLM/SDAR-4B-Chat", "JetLM/SDAR-8B-Chat"),
        family="sdar",
        block_length=4,
        authors=QWEN3,
        config=make_config("sdar"),
        sizes={"SDAR-1.7B": _untied(_QWEN3_17B), "SDAR-4B": _untied(_QWEN3_4B), "SDAR-8B": _QWEN3_8B},
    ),
    "TraDo": Published(
        hub=("Gen-Verse/TraDo-4B-Instruct", "Gen-Verse/TraDo-8B-Instruct", "Gen-Verse/TraDo-8B-Thinking"),
        family="sdar",
        block_length=4,
        authors=QWEN3,
        config=_qwen_dump(
            architectures=["SDARForCausalLM"],
            auto_map={
                "AutoConfig": "configuration_sdar.SDARConfig",
                "AutoModel": "modeling_sdar.SDARForCausalLM",
                "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
            },
            model_type="sdar",
            attention_bias=False,
            head_dim=32,
            tie_word_embeddings=False,
            fuse_cross_entropy=True,
        ),
        sizes={"TraDo-4B": _untied(_QWEN3_4B), "TraDo-8B": _QWEN3_8B},
    ),
    "SDAR-30B-A3B": Published(
        hub=("JetLM/SDAR-30B-A3B-Chat",),
        family="sdar_moe",
        block_length=4,
        authors=QWEN3_MOE,
        config=make_expert_config("sdar_moe"),
        sizes={"SDAR-30B-A3B": _QWEN3_30B_A3B},
        refused=_NO_EXPERTS,
    ),
    "RND1": Published(
        hub=("radicalnumerics/RND1-Base-0910",),
        family="rnd1",
        block_length=0,
        authors=QWEN3_MOE,
        config=make_expert_config("rnd1"),
        sizes={"RND1-30B-A3B": _QWEN3_30B_A3B},
        refused=_NO_EXPERTS,
    ),
    "Fast-dLLM v2": Published(
        hub=("Efficient-Large-Model/Fast_dLLM_v2_1.5B", "Efficient-Large-Model/Fast_dLLM_v2_7B"),
        family="fast_dllm_v2",
        block_length=32,
        authors=QWEN2,
        config=make_config("fast_dllm_v2"),
        sizes={"Fast-dLLM-v2-1.5B": _QWEN25_15B, "Fast-dLLM-v2-7B": _QWEN25_7B},
    ),
    "Open-dCoder": Published(
        hub=("fredzzp/open-dcoder-0.5B",),
        family="open_dcoder",
        block_length=0,
        authors=QWEN2,
        config=_qwen_dump(
            architectures=["Qwen2ForCausalLM"],
            auto_map={"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"},
            model_type="qwen2",
            trust_remote_code=True,
        ),
        sizes={"Open-dCoder-0.5B": _QWEN25_05B},
    ),
    "A2D-Qwen3": Published(
        hub=("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",),
        family="a2d",
        block_length=0,
        authors=QWEN3,
        config=_qwen_dump(
            architectures=["A2DQwen3LMHeadModel"], model_type="a2d-qwen3", attention_bias=False, head_dim=32
        ),
        sizes={"A2D-Qwen3-0.6B": _QWEN3_06B},
    ),
    "A2D-Qwen2": Published(
        hub=("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",),
        family="a2d",
        block_length=0,
        authors=QWEN2,
        config=_qwen_dump(architectures=["A2DQwen2LMHeadModel"], model_type="a2d-qwen2", mask_token_id=MASK_TOKEN),
        sizes={"A2D-Qwen2-0.5B": _QWEN25_05B},
    ),
    "A2D-Llama": Published(
        hub=("what dLLM makes of Llama 3.2",),
        family="a2d",
        block_length=0,
        authors=LLAMA,
        config=_llama_dump(
            architectures=["A2DLlamaLMHeadModel"],
            head_dim=32,
            model_type="a2d-llama",
            rope_scaling=_llama3_scaling(32.0),
            tie_word_embeddings=True,
        ),
        sizes={"A2D-Llama-1B": _size(1_235_814_400, 2048, 16, (32, 8), 8192, 128256, head_dim=64)},
    ),
    "WeDLM-8B": Published(
        hub=("tencent/WeDLM-8B-Base", "tencent/WeDLM-8B-Instruct"),
        family="wedlm",
        block_length=1,
        authors=QWEN3,
        config=_qwen_dump(
            architectures=["WeDLMForCausalLM"],
            auto_map={
                "AutoConfig": "configuration_wedlm.WeDLMConfig",
                "AutoModelForCausalLM": "modeling_wedlm.WeDLMForCausalLM",
            },
            model_type="wedlm",
            attention_bias=False,
            head_dim=32,
            qk_norm=True,
            mask_token_id=MASK_TOKEN,
            tie_word_embeddings=False,
        ),
        sizes={"WeDLM-8B": _QWEN3_8B},
    ),
    "WeDLM-7B": Published(
        hub=("tencent/WeDLM-7B-Base", "tencent/WeDLM-7B-Instruct"),
        family="wedlm",
        block_length=1,
        authors=QWEN2,
        config=_qwen_dump(
            architectures=["WeDLMForCausalLM"],
            model_type="wedlm",
            attention_bias=True,
            head_dim=32,
            qk_norm=False,
            mask_token_id=None,
            tie_word_embeddings=False,
        ),
        sizes={"WeDLM-7B": Size(_QWEN25_7B.parameters, dict(_QWEN25_7B.keys) | {"head_dim": 128})},
    ),
    "Nemotron-Labs-Diffusion": Published(
        hub=tuple(f"nvidia/Nemotron-Labs-Diffusion-{size}" for size in ("3B-Base", "3B", "8B", "14B")),
        family="nemotron_diffusion",
        block_length=0,
        authors=MINISTRAL,
        config=_SIZES
        | {
            "ar_loss_weight": 1.0,
            "architectures": ["NemotronLabsDiffusionModel"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_implementation": "sdpa",
            "auto_map": {
                "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
                "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
            },
            "block_size": 32,
            "dlm_loss_weight": None,
            "dlm_paradigm": "bidirectional",
            "dp_varying_mask_ratio": False,
            "head_dim": 32,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mask_token_id": MASK_TOKEN,
            "mlp_bias": False,
            "model_type": "nemotron_labs_diffusion",
            "rms_norm_eps": 1e-05,
            "rope_parameters": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 16.0,
                "llama_4_scaling_beta": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 1000000.0,
                "rope_type": "yarn",
            },
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "5.0.0",
            "use_cache": False,
        },
        sizes={
            "Nemotron-Labs-Diffusion-3B": _size(3_831_659_520, 3072, 26, (32, 8), 9216, 131072),
            "Nemotron-Labs-Diffusion-8B": _size(8_489_553_920, 4096, 34, (32, 8), 14336, 131072),
        },
    ),
    "Stable-DiffCoder": Published(
        hub=("ByteDance-Seed/Stable-DiffCoder-8B-Base", "ByteDance-Seed/Stable-DiffCoder-8B-Instruct"),
        family="stable_diffcoder",
        block_length=4,
        authors=LLAMA,
        config=_llama_dump(
            architectures=["StableDiffcoderForCausalLM"],
            auto_map={"AutoModelForCausalLM": "modeling_stable_diffcoder.StableDiffcoderForCausalLM"},
            head_dim=32,
            initializer_range=0.009882118,
            pad_token_id=1,
            rms_norm_eps=1e-06,
        ),
        sizes={"Stable-DiffCoder-8B": _size(8_250_462_208, 4096, 32, (32, 8), 14336, 155136)},
    ),
    "Qwen2.5": Published(
        hub=("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B"),
        family="qwen2",
        block_length=1,
        authors=QWEN2,
        config=make_config("qwen2", "bfloat16"),
        sizes={"Qwen2.5-0.5B": _QWEN25_05B, "Qwen2.5-1.5B": _QWEN25_15B, "Qwen2.5-7B": _QWEN25_7B},
    ),
    "Qwen3": Published(
        hub=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B"),
        family="qwen3",
        block_length=1,
        authors=QWEN3,
        config=make_config("qwen3", "bfloat16"),
        sizes={"Qwen3-0.6B": _QWEN3_06B, "Qwen3-1.7B": _QWEN3_17B, "Qwen3-4B": _QWEN3_4B, "Qwen3-8B": _QWEN3_8B},
    ),
    "Llama 3.1": Published(
        hub=("meta-llama/Llama-3.1-8B",),
        family="llama",
        block_length=1,
        authors=LLAMA,
        config=_llama_dump(rope_scaling=_llama3_scaling(8.0)),
        sizes={"Llama-3.1-8B": _size(8_030_261_248, 4096, 32, (32, 8), 14336, 128256)},
    ),
    "Llama 3.2": Published(
        hub=("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"),
        family="llama",
        block_length=1,
        authors=LLAMA,
        config=_llama_dump(head_dim=32, rope_scaling=_llama3_scaling(32.0), tie_word_embeddings=True),
        sizes={
            "Llama-3.2-1B": _size(1_235_814_400, 2048, 16, (32, 8), 8192, 128256, head_dim=64),
            "Llama-3.2-3B": _size(3_212_749_824, 3072, 28, (24, 8), 8192, 128256),
        },
    ),
    "SmolLM2": Published(
        hub=("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-1.7B"),
        family="llama",
        block_length=1,
        authors=LLAMA,
        config=_llama_dump(
            initializer_range=0.041666666666666664,
            is_llama_config=True,
            rope_interleaved=False,
            rope_theta=100000,
            tie_word_embeddings=True,
            **{"transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}},
        ),
        sizes={
            "SmolLM2-135M": _size(134_515_008, 576, 30, (9, 3), 1536, 49152, head_dim=64),
            "SmolLM2-360M": _size(361_821_120, 960, 32, (15, 5), 2560, 49152, head_dim=64),
            "SmolLM2-1.7B": _size(1_711_376_384, 2048, 24, (32, 32), 8192, 49152, head_dim=64),
        },
    ),
    "TinyLlama": Published(
        hub=("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
        family="llama",
        block_length=1,
        authors=LLAMA,
        config={
            key: value
            for key, value in _llama_dump(rope_theta=10000.0).items()
            if key not in ("attention_dropout", "mlp_bias")
        },
        sizes={"TinyLlama-1.1B": _size(1_100_048_384, 2048, 22, (32, 4), 5632, 32000, head_dim=64)},
        tokenizer="llama-legacy",
    ),
    "Qwen3-MoE": Published(
        hub=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
        family="qwen3_moe",
        block_length=1,
        authors=QWEN3_MOE,
        config=make_expert_config("qwen3_moe"),
        sizes={"Qwen3-30B-A3B": _QWEN3_30B_A3B},
        refused=_NO_EXPERTS,
    ),
}


# The table of the user guide.

_COLUMNS: Final = ("model", "`model_type` / architecture", "compared with", "commands", "difference")
_GUIDE: Final = Path(__file__).resolve().parents[2] / "docs/USER_GUIDE.md"
_BEGIN: Final = "<!-- begin models: printed by `make models UPDATE=1` -->\n\n"
_END: Final = "\n<!-- end models -->\n"


def table_row(name: str, difference: str) -> str:
    """A model's line of the table."""
    model = MODELS[name]
    hub = ", ".join(f"`{repository}`" if "/" in repository else repository for repository in model.hub)
    return f"| {name}: {hub} | {model.layout} | {model.comparison} | {model.commands} | {difference} |"


def make_table(rows: Sequence[str]) -> str:
    """The table in Markdown."""
    return "\n".join([f"| {' | '.join(_COLUMNS)} |", "|" + " --- |" * len(_COLUMNS), *rows]) + "\n"


def guide_parts() -> tuple[str, str, str]:
    """The user guide before the table, the table, and what follows."""
    before, begin, rest = _GUIDE.read_text().partition(_BEGIN)
    table, end, after = rest.partition(_END)
    assert begin and end, f"{_GUIDE}: no table of models between its two comments"
    return before + begin, table, end + after


def update_guide(table: str) -> None:
    """Put the table into the user guide."""
    before, _, after = guide_parts()
    _GUIDE.write_text(before + table + after)
