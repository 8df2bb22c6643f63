#!/usr/bin/env python3
"""Decodes small models with the programs that their authors published, and writes down which tokens come out.

    python3 -m venv /tmp/old && /tmp/old/bin/pip install torch safetensors einops transformers==4.52.4
    /tmp/old/bin/python scripts/decode_by_authors.py --authors DIR --output tests/integration/decoding

DIR holds their repositories under the names that `PROGRAMS` says. They were written for transformers 4.5x, which has to
be installed here; those of `NEWER` run with any.
Models are FP32: the authors' own modeling files wherever they were published, else `families.Reference`. Nothing is
random: temperature is 0, and where a program divides by it, `torch.multinomial` takes the most probable token.

Each case has "program", "model" (arguments of `families.make_checkpoint`, or "bundled"), "prompt", "options" (named
like our command's), "tokens" (what the program wrote behind the prompt), "forward_passes" (calls of the model), and
"smallest_margin": how close the closest decision of the run was. A case with a decision closer than `MARGIN` gets
another prompt, so that rounding cannot turn it. So does a case in which the mask token itself is the most likely one,
and one in which token 0 is written, which ends a text by the models' config.json, but not in these programs.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import math
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Optional

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from families import Reference, _attention, _rotate, compare, make_checkpoint, rope_frequencies  # noqa: E402

torch.compiler.set_stance("force_eager")  # LLaDA's file compiles its attention

MARGIN: Final = 1e-4
FILTER_MARGIN: Final = 3e-6
"""Of sums of probabilities to top_p: they have no error of a model's rounding that is not far smaller."""

PROGRAMS: Final = {
    "llada": "LLaDA/generate.py",
    "fast_llada": "Fast-dLLM/llada/generate.py",
    "factor": "dllm/dllm/pipelines/fastdllm/llada/sampler.py",
    "dream": "dllm/dllm/pipelines/dream/models/generation_utils.py",
    "fast_dream": "Fast-dLLM/dream/model/generation_utils.py",
    "fast_dream_block": "Fast-dLLM/dream/model/generation_utils_block.py",
    "rnd1": "RND1/rnd/sampling.py",
    "sdar": "SDAR/generate.py",
    "fast_dllm_v2": "fast_dllm_v2/generate.py",
    "editing": "dllm/dllm/pipelines/llada21/models/modeling_llada21_moe.py",
    "p2": "Open-dLLM/veomni/models/transformers/qwen2/generation_utils.py",
    "dreamon": "DreamOn/eval/generator.py",
    "wedlm": "WeDLM/wedlm/engine/wedlm_decoder.py",
    "transformers": "transformers GenerationMixin.generate",
}

NEWER: Final = ("editing", "p2", "dreamon", "wedlm")
"""Programs whose models are `families.Reference`."""

END: Final = 0
MASK: Final = 1000

Options = dict[str, Any]


class RejectedError(Exception):
    """The run depends on something that no other program has to do alike."""


# ---------------------------------------------------------------------------------------------------------------------
# What is watched


class Decisions(TorchFunctionMode):
    """Sees every choice that a program makes by torch functions, and keeps the least distance to another choice."""

    def __init__(self, vocabulary: int, mask_id: int | None, *, exact_counts: bool, by_order: bool) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.mask_id = mask_id
        self.exact_counts = exact_counts  # more tokens asked for than are masked: others would be overwritten
        self.by_order = by_order
        self.margin = math.inf
        self.filter_margin = math.inf
        self.paused = False
        self.threshold = math.inf
        self.best_two: tuple[float, float] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "multinomial":
            self._token(args[0].log(), args[0].argmax(-1))
            return args[0].argmax(-1, keepdim=True)
        result = func(*args, **kwargs)
        if name == "argmax":
            values = args[0]
            if values.shape[-1] == self.vocabulary:
                self._token(values, result)
            else:
                self._best(values)
        elif name == "argmin":
            self._best(-args[0])
        elif name == "max" and kwargs.get("dim") == -1:
            self._token(args[0].log(), result.indices)
        elif name == "topk":
            self._rank(args[0], int(args[1] if len(args) > 1 else kwargs["k"]))
        elif name == "sort":
            self._order(args[0])
        elif name == "argsort":
            for row in args[0].reshape(-1, args[0].shape[-1]):
                ordered = row[row.isfinite()].sort().values
                if len(ordered) > 1:
                    self._add(ordered.diff().min().item())
        elif name in ("gt", "lt", "ge", "le", "__gt__", "__lt__", "__ge__", "__le__"):
            self._compare(args[0], args[1])
        return result

    def _token(self, logits: Tensor, chosen: Tensor) -> None:
        if self.mask_id is not None and bool((chosen == self.mask_id).any()):
            raise RejectedError("the mask token is the most likely one")
        if logits.numel():
            best = logits.topk(2, dim=-1).values
            self._add((best[..., 0] - best[..., 1]).min().item())

    def _best(self, confidence: Tensor) -> None:
        """The most confident position, which matters where no position is above the threshold."""
        for row in confidence.reshape(-1, confidence.shape[-1]):
            finite = row[row.isfinite()].sort(descending=True).values
            if len(finite) > 1 and finite[0] <= self.threshold:
                self._add((finite[0] - finite[1]).item())

    def _rank(self, values: Tensor, count: int) -> None:
        for row in values.reshape(-1, values.shape[-1]):
            finite = row[row > torch.finfo(row.dtype).min].sort(descending=True).values
            if self.exact_counts and count > len(finite):
                raise RejectedError("tokens that were not masked are overwritten")
            if 0 < count < len(finite):
                self._add((finite[count - 1] - finite[count]).item())
            self.best_two = (finite[0].item(), finite[1].item()) if len(finite) > 1 else None

    def _order(self, values: Tensor) -> None:
        """All positions in order, for a program that adds their entropies up in that order."""
        if self.by_order and values.shape[-1] != self.vocabulary:
            limit = torch.finfo(values.dtype).max
            for row in values.reshape(-1, values.shape[-1]):
                ordered = row[row.abs() < limit].sort().values
                if len(ordered) > 1:
                    self._add(ordered.diff().min().item())

    def _compare(self, values: Any, limit: Any) -> None:
        if (
            isinstance(values, Tensor)
            and isinstance(limit, Tensor)
            and values.is_floating_point()
            and values.dim() == 2
        ):
            if values.shape[-1] != self.vocabulary and limit.shape == (1, values.shape[-1]):
                self._add((values - limit).abs().min().item())
                accepted = int((values >= limit).sum())
                if accepted < values.numel():
                    self._add((values[0, accepted - 1] - values[0, accepted]).item())
            return
        if not isinstance(values, Tensor) or not values.is_floating_point() or not isinstance(limit, (int, float)):
            return
        finite = values[values.isfinite()]
        if not finite.numel():
            return
        distance = (finite - limit).abs().min().item()
        if values.dim() and values.shape[-1] == self.vocabulary:
            self.filter_margin = min(self.filter_margin, distance)
            return
        self.threshold = limit
        if limit != 1:  # no probability is above 1
            self._add(distance)
        if self.best_two is not None and self.best_two[0] < limit:
            self._add(self.best_two[0] - self.best_two[1])

    def _add(self, distance: float) -> None:
        self.margin = min(self.margin, distance)


class Counted:
    """Counts the calls of a model's forward function; its inside is not watched for decisions."""

    def __init__(self, model: Any, decisions: Decisions) -> None:
        self.calls = 0
        self._forward = model.forward
        self._decisions = decisions
        model.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        paused, self._decisions.paused = self._decisions.paused, True
        try:
            with torch.no_grad():
                return self._forward(*args, **kwargs)
        finally:
            self._decisions.paused = paused


# ---------------------------------------------------------------------------------------------------------------------
# The authors' files


def load_package(name: str, folder: Path) -> types.ModuleType:
    """A folder as the package `name`, with or without an __init__.py."""
    if name in sys.modules:
        return sys.modules[name]
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    else:
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    return module


def load_file_as(name: str, path: Path, replaced: dict[str, str] | None = None) -> types.ModuleType:
    """One file as a module, with some text replaced."""
    source = path.read_text()
    for old, new in (replaced or {}).items():
        if old not in source:
            raise ValueError(f"{path} has no {old!r}")
        source = source.replace(old, new)
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def stand_in(name: str, **members: Any) -> None:
    """A module that is not installed here, with what the authors' files take from it."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    module.__dict__.update(members)
    sys.modules[name] = module


def rms_norm(x: Tensor, weight: Tensor, bias: None, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def attention_of_all(query: Tensor, key: Tensor, value: Tensor, causal: bool, softmax_scale: float) -> Tensor:
    """flash_attn_func in plain PyTorch: [batch, sequence, heads, dim]."""
    assert not causal
    share = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(share, dim=2), value.repeat_interleave(share, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * softmax_scale
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)


class Authors:
    """The authors' programs and models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if any((folder / name).is_dir() for name in ("LLaDA", "Fast-dLLM", "SDAR")):
            self._stand_in_for_flash_attention()

    def _stand_in_for_flash_attention(self) -> None:
        stand_in("flash_attn", flash_attn_func=attention_of_all, flash_attn_varlen_func=None)
        stand_in("flash_attn.bert_padding", index_first_axis=None, pad_input=None, unpad_input=None)
        stand_in("flash_attn.ops")
        stand_in("flash_attn.ops.triton")
        stand_in("flash_attn.ops.triton.layer_norm", rms_norm_fn=rms_norm)

    @cached_property
    def llada_model(self) -> types.ModuleType:
        package = load_package("authors_llada", self.folder / "Fast-dLLM/llada/model")
        sys.modules["model"] = package
        sys.modules["model.modeling_llada"] = sys.modules["authors_llada.modeling_llada"]
        return package

    @cached_property
    def fast_llada(self) -> types.ModuleType:
        _ = self.llada_model  # it imports that
        return load_file_as("authors_fast_llada", self.folder / PROGRAMS["fast_llada"])

    @cached_property
    def fast_dream(self) -> types.ModuleType:
        return load_package("authors_fast_dream", self.folder / "Fast-dLLM/dream/model")

    @cached_property
    def fast_dream_block(self) -> types.ModuleType:
        _ = self.fast_dream
        return importlib.import_module("authors_fast_dream.generation_utils_block")

    @cached_property
    def dream(self) -> types.ModuleType:
        return load_package("authors_dream", self.folder / "dllm/dllm/pipelines/dream/models")

    @cached_property
    def rnd1(self) -> types.ModuleType:
        return load_file_as("authors_rnd1", self.folder / PROGRAMS["rnd1"])

    @cached_property
    def sdar(self) -> types.ModuleType:
        return load_file_as("authors_sdar_generate", self.folder / PROGRAMS["sdar"])

    @cached_property
    def sdar_model(self) -> types.ModuleType:
        return self._sdar_model(self.folder / "SDAR/training/model/SDAR-8B-Chat")

    @cached_property
    def v2(self) -> types.ModuleType:
        return load_file_as("authors_fast_dllm_v2", self.folder / PROGRAMS["fast_dllm_v2"])

    @cached_property
    def factor(self) -> types.ModuleType:
        return self._factor(self.folder / PROGRAMS["factor"])

    @cached_property
    def editing(self) -> type:
        """LLaDA 2.1's model class without its network: `generate` and what it calls."""
        tree = ast.parse((self.folder / PROGRAMS["editing"]).read_text())
        [model] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LLaDA2MoeModelLM"]
        functions = [node for node in model.body if isinstance(node, ast.FunctionDef)]
        wanted = ("generate", "_sample_with_temperature_topk_topp", "_top_k_logits", "_top_p_logits")
        model.body = [node for node in functions if node.name in wanted]
        model.bases, model.decorator_list = [], []
        names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "Optional": Optional}
        exec(compile(ast.Module([model], []), PROGRAMS["editing"], "exec"), names)
        found: type = names["LLaDA2MoeModelLM"]
        return found

    @cached_property
    def p2(self) -> types.ModuleType:
        return load_file_as("authors_p2", self.folder / PROGRAMS["p2"])

    @cached_property
    def dreamon(self) -> types.ModuleType:
        stand_in("omegaconf", OmegaConf=None)
        return load_file_as("authors_dreamon", self.folder / PROGRAMS["dreamon"])

    @cached_property
    def wedlm(self) -> types.ModuleType:
        """The engine's decoder on this machine's CPU."""
        folder = self.folder / "WeDLM/wedlm"
        stand_in("wedlm")
        stand_in("wedlm.engine")
        load_file_as("wedlm.sampling_params", folder / "sampling_params.py")
        load_file_as("wedlm.engine.sequence", folder / "engine/sequence.py")
        load_file_as("wedlm.engine.sampler", folder / "engine/sampler.py")
        cpu = {'"cuda"': '"cpu"', ", pin_memory=True": "", ".cuda(non_blocking=True)": ""}
        return load_file_as("wedlm.engine.wedlm_decoder", self.folder / PROGRAMS["wedlm"], cpu)

    def llada(self, eos_id: int, eot_id: int) -> types.ModuleType:
        """LLaDA's generate.py has the ids of EOS and EoT as numbers."""
        return load_file_as(
            "authors_llada_generate",
            self.folder / PROGRAMS["llada"],
            {"126081": str(eos_id), "126348": str(eot_id)},
        )

    def _sdar_model(self, folder: Path) -> types.ModuleType:
        load_package("authors_sdar", folder)
        name = "authors_sdar.fused_linear_diffusion_cross_entropy"
        stand_in(name, FusedLinearDiffusionCrossEntropyLoss=None)  # only for training
        return importlib.import_module("authors_sdar.modeling_sdar")

    def _factor(self, path: Path) -> types.ModuleType:
        fast = self.fast_llada
        nothing = type("Nothing", (), {})
        for name in ("dllm", "dllm.core", "dllm.core.samplers"):
            stand_in(name)
        stand_in("dllm.core.samplers.base", BaseSampler=nothing, BaseSamplerConfig=nothing, BaseSamplerOutput=nothing)
        stand_in(
            "dllm.core.samplers.utils",
            add_gumbel_noise=fast.add_gumbel_noise,
            get_num_transfer_tokens=fast.get_num_transfer_tokens,
        )
        return load_file_as("authors_factor", path)


# ---------------------------------------------------------------------------------------------------------------------
# Models


def load_module(folder: Path, model_class: Any, config_class: Any) -> Any:
    """An author's model with the weights of a checkpoint; its logits are those of `Reference`."""
    config = config_class(**json.loads((folder / "config.json").read_text()))
    model = model_class(config).float().eval()
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(f"{folder}: tensors {missing} are missing, {unexpected} are not known")
    return model


def cached_logits(
    reference: Reference,
    ids: Tensor,
    begin: int,
    visible: Tensor,
    extend: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """`Reference.logits` of tokens that begin at position `begin`; `extend` puts a layer's new keys behind the old."""
    model = reference.architecture
    batch, length = ids.shape
    frequencies, scale = rope_frequencies(model)
    angles = torch.arange(begin, begin + length, dtype=torch.float32)[:, None] * frequencies
    cos, sin = scale * angles.cos(), scale * angles.sin()
    x = reference._weight("embedding")[ids]
    for layer in range(model.layers):
        block = f"layers.{layer}"
        normed = reference._norm(f"{block}.attention_norm", x)
        query = _rotate(reference._heads(f"{block}.q", normed, model.heads), cos, sin)
        key = _rotate(reference._heads(f"{block}.k", normed, model.kv_heads), cos, sin)
        key, value = extend(layer, key, reference._heads(f"{block}.v", normed, model.kv_heads))
        attended = _attention(query, key, value, visible).transpose(1, 2).reshape(batch, length, -1)
        x = x + reference._linear(f"{block}.o_proj", attended)
        normed = reference._norm(f"{block}.mlp_norm", x)
        gate = torch.nn.functional.silu(reference._linear(f"{block}.gate_proj", normed))
        x = x + reference._linear(f"{block}.down_proj", gate * reference._linear(f"{block}.up_proj", normed))
    return reference._linear("embedding" if model.tied else "lm_head", reference._norm("norm", x))


class FastDLLM2:
    """What Fast-dLLM v2's generate calls: a cache of finished blocks, and one of the block that is being decoded.

    Within a block every token sees every other. The block's cache is written by a pass over the whole block; a pass
    over a part of it replaces that part's rows.
    """

    device = "cpu"
    Cache = dict[int, tuple[Tensor, Tensor]]

    def __init__(self, folder: Path) -> None:
        self.reference = Reference(folder)

    def forward(
        self,
        input_ids: Tensor,
        use_cache: bool,
        past_key_values: Cache | None = None,
        update_past_key_values: bool = False,
        block_size: int = 32,
        use_block_cache: bool = False,
        block_past_key_values: Cache | None = None,
        replace_position: int | None = None,
    ) -> Any:
        past = {} if past_key_values is None else past_key_values
        in_block = {} if block_past_key_values is None else block_past_key_values
        seen = past[0][0].shape[2] if past else 0
        length = input_ids.shape[1]
        if use_block_cache and in_block:
            visible = torch.ones(length, seen + in_block[0][0].shape[2], dtype=torch.bool)
        else:
            queries = torch.arange(seen, seen + length) // block_size
            visible = torch.arange(seen + length)[None, :] // block_size <= queries[:, None]

        def extend(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            if use_block_cache:
                if layer in in_block:
                    assert replace_position is not None
                    for cached, new in zip(in_block[layer], (key, value), strict=True):
                        cached[:, :, replace_position : replace_position + length] = new
                else:
                    in_block[layer] = (key, value)
                key, value = in_block[layer]
            if layer in past:
                key = torch.cat((past[layer][0], key), dim=2)
                value = torch.cat((past[layer][1], value), dim=2)
            if update_past_key_values:
                past[layer] = (key, value)
            return key, value

        logits = cached_logits(self.reference, input_ids, seen + (replace_position or 0), visible, extend)
        return types.SimpleNamespace(logits=logits, past_key_values=past, block_past_key_values=in_block)


# ---------------------------------------------------------------------------------------------------------------------
# Runs: each returns the tokens behind the prompt


class Runner:
    def __init__(self, authors: Authors, folder: Path) -> None:
        self.authors = authors
        self.folder = folder
        self._checkpoints: dict[str, Path] = {}

    def checkpoint(self, model: Options) -> Path:
        if "bundled" in model:
            return ROOT / "examples" / model["bundled"]
        key = json.dumps(model, sort_keys=True)
        if key not in self._checkpoints:
            arguments = dict(model)
            overrides = arguments.pop("overrides", {})
            family = arguments.pop("family")
            path = self.folder / str(len(self._checkpoints))
            self._checkpoints[key] = make_checkpoint(path, family, **arguments, **overrides)
        return self._checkpoints[key]

    def model(self, program: str, model: Options) -> Any:
        """A fresh model, since a run changes its forward function."""
        folder, authors = self.checkpoint(model), self.authors
        if program in ("llada", "fast_llada", "factor"):
            made = load_module(folder, authors.llada_model.LLaDAModelLM, authors.llada_model.LLaDAConfig)
        elif program in ("fast_dream", "fast_dream_block"):
            made = load_module(folder, authors.fast_dream.DreamModel, authors.fast_dream.DreamConfig)
        elif program in ("dream", "rnd1"):
            made = load_module(folder, authors.dream.DreamModel, authors.dream.DreamConfig)
        elif program == "sdar":
            made = load_module(folder, authors.sdar_model.SDARForCausalLM, authors.sdar_model.SDARConfig)
        elif program == "fast_dllm_v2":
            return FastDLLM2(folder)
        elif program in NEWER:
            return self._network(program, Reference(folder))
        else:
            made = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
        return made

    def _network(self, program: str, reference: Reference) -> Any:
        """What a program calls, with the logits of `reference`."""
        network = self.authors.editing() if program == "editing" else types.SimpleNamespace()

        def forward(ids: Tensor | None = None, mask: Tensor | None = None, *_: Tensor, **more: Any) -> Any:
            if ids is None:
                ids = more["input_ids"]
            seen = ids.shape[1]
            if program == "dreamon":  # positions behind the canvas are there, and nothing sees them
                assert mask is not None
                seen = int(mask[0, 0, 0].sum())
            logits = reference.logits(ids[:, :seen], positions=more.get("positions"))
            missing = ids.shape[1] - seen
            return types.SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 0, 0, missing)))

        network.device = torch.device("cpu")
        network.forward = forward
        return network

    def run(self, program: str, model: Options, prompt: list[int], options: Options) -> Options:
        """The case, or RejectedError."""
        made = self.model(program, model)
        vocabulary = json.loads((self.checkpoint(model) / "config.json").read_text())["vocab_size"]
        decisions = Decisions(
            vocabulary, options.get("mask_token_id"), exact_counts=program == "sdar", by_order=program == "rnd1"
        )
        counted = Counted(made, decisions)
        ids = torch.tensor([prompt])
        with decisions, contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            written = getattr(self, f"run_{program}")(made, ids, options)
        tokens = written[0, len(prompt) :].tolist()
        if END in tokens:
            raise RejectedError("the answer has the end token of config.json")
        if decisions.margin < MARGIN:
            raise RejectedError(f"a decision is as close as {decisions.margin}")
        if decisions.filter_margin < FILTER_MARGIN:
            raise RejectedError(f"a sum of probabilities is {decisions.filter_margin} from top_p")
        return {
            "program": PROGRAMS[program],
            "model": model,
            "prompt": prompt,
            "options": options,
            "tokens": tokens,
            "forward_passes": counted.calls,
            "smallest_margin": float(f"{decisions.margin:.3g}"),
        }

    def run_llada(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        module = self.authors.llada((options.get("eos_ids") or [126081])[0], options.get("eot_id", 126348))
        return module.generate(
            model,
            ids,
            attention_mask=torch.ones_like(ids),
            steps=options["steps"],
            gen_length=options["max_new_tokens"],
            block_length=options["block_length"],
            temperature=0.0,
            cfg_scale=options.get("cfg_scale", 0.0),
            remasking=options["remasking"],
            mask_id=options["mask_token_id"],
            logits_eos_inf=options.get("logits_eos_inf", False),
            confidence_eos_eot_inf=options.get("confidence_eos_eot_inf", False),
        )

    def run_fast_llada(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        module = self.authors.fast_llada
        generate = {
            "none": module.generate,
            "prefix": module.generate_with_prefix_cache,
            "dual": module.generate_with_dual_cache,
        }[options["cache"]]
        written, passes = generate(
            model,
            ids,
            steps=options["steps"],
            gen_length=options["max_new_tokens"],
            block_length=options["block_length"],
            temperature=0.0,
            remasking=options["remasking"],
            mask_id=options["mask_token_id"],
            threshold=options.get("threshold"),
        )
        assert passes == model.forward.calls
        return written

    def run_factor(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        """Fast-dLLM's loops with dllm's choice of positions, since the former's file at hand has no factor."""
        module, choose = self.authors.fast_llada, self.authors.factor._get_transfer_index

        def by_factor(
            logits: Tensor, temperature: float, remasking: str, mask: Tensor, x: Tensor, count: Any, threshold: Any
        ) -> Any:
            return choose(logits, temperature, remasking, mask, x, None, factor=options["factor"])

        original = module.get_transfer_index
        module.get_transfer_index = by_factor
        try:
            return self.run_fast_llada(model, ids, options | {"threshold": 2.0})
        finally:
            module.get_transfer_index = original

    def _dream(self, package: str, model: Any, ids: Tensor, algorithm: str, options: Options, **more: Any) -> Tensor:
        config_class = sys.modules[f"{package}.generation_utils"].DreamGenerationConfig
        config = config_class(
            max_new_tokens=options["max_new_tokens"],
            steps=options["steps"],
            eps=options.get("eps", 1e-3),
            alg=algorithm,
            temperature=0.0,
            top_p=options.get("top_p"),
            top_k=options.get("top_k"),
            mask_token_id=options["mask_token_id"],
            pad_token_id=0,
            eos_token_id=0,
        )
        return model.diffusion_generate(ids, config, **more)

    def run_dream(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        return self._dream("authors_dream", model, ids, options["remasking"], options)

    def run_fast_dream(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        more = {"threshold": options["threshold"]}
        return self._dream("authors_fast_dream", model, ids, "confidence_threshold", options, **more)

    def run_fast_dream_block(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        mixin = self.authors.fast_dream_block.DreamGenerationMixin
        model.diffusion_generate = types.MethodType(mixin.diffusion_generate, model)
        model._sample = types.MethodType(mixin._sample, model)
        more = {"block_length": options["block_length"], "dual_cache": options["cache"] == "dual"}
        if "threshold" in options:
            more["threshold"] = options["threshold"]
        algorithm = "confidence_threshold" if "threshold" in options else options["remasking"]
        return self._dream("authors_fast_dream", model, ids, algorithm, options, **more)

    def run_rnd1(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        """RND1 shifts logits and sees every position, as Dream does: its program decodes Dream's model."""
        return self.authors.rnd1.diffusion_sample(
            model,
            seq_len=ids.shape[1] + options["max_new_tokens"],
            num_steps=options["steps"],
            greedy=True,
            mask_token_id=options["mask_token_id"],
            prefix_ids=ids,
            eos_token_id=None,
            eb_gamma=options["eb_threshold"],
        )

    def run_sdar(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        written = self.authors.sdar.block_diffusion_generate(
            model,
            {"input_ids": ids},
            mask_id=options["mask_token_id"],
            gen_length=options["max_new_tokens"],
            block_length=options["block_length"],
            denoising_steps=options["steps_per_block"],
            temperature=1.0,
            top_k=options.get("top_k", 0),
            top_p=options.get("top_p", 1.0),
            remasking_strategy=options["remasking"],
            confidence_threshold=options.get("threshold", 0.85),
            stopping_criteria_idx=options.get("eos_ids"),
        )
        while written[0, -1] == options["mask_token_id"]:  # blocks behind a stop
            written = written[:, :-1]
        return written

    def run_fast_dllm_v2(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        model.sample_with_top_p = types.MethodType(self.authors.v2.sample_with_top_p, model)
        return self.authors.v2.generate(
            model,
            ids,
            max_new_tokens=options["max_new_tokens"],
            mask_id=options["mask_token_id"],
            threshold=options["threshold"],
            small_block_size=options["sub_block_length"],
            block_size=options["block_length"],
            stop_token=(options.get("eos_ids") or [-1])[0],
            temperature=0,
            use_block_cache=options["cache"] == "block",
        )

    def run_transformers(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        model.generation_config.eos_token_id = None
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=options["max_new_tokens"],
            eos_token_id=options.get("eos_ids"),
            pad_token_id=0,
        )

    def run_editing(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        written = model.generate(
            ids,
            block_length=options["block_length"],
            steps=options["block_length"],
            gen_length=options["max_new_tokens"],
            threshold=options["threshold"],
            editing_threshold=options.get("editing_threshold", 2.0),
            max_post_steps=options.get("max_post_steps", 16),
            top_p=options.get("top_p"),
            top_k=options.get("top_k"),
            eos_id=(options.get("eos_ids") or [-1])[0],
            mask_id=options["mask_token_id"],
        )
        return torch.cat((ids, written), dim=1)

    def run_p2(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        module = self.authors.p2

        class Model(module.MDMGenerationMixin):  # type: ignore[name-defined, misc]
            device = torch.device("cpu")
            config = types.SimpleNamespace(pad_token_id=None)

            def __call__(self, **arguments: Any) -> Any:
                return model.forward(arguments["input_ids"])

        written = Model()._mdm_sample(
            torch.nn.functional.pad(ids, (0, options["max_new_tokens"]), value=options["mask_token_id"]),
            None,
            types.SimpleNamespace(
                max_length=ids.shape[1] + options["max_new_tokens"],
                mask_token_id=options["mask_token_id"],
                steps=options["steps"],
                eps=1e-3,
                alg=options["remasking"],
                alg_temp=0.5,
                temperature=0.0,
                top_p=options.get("top_p"),
                top_k=options.get("top_k"),
                output_history=True,
                return_dict_in_generate=True,
            ),
        )
        masked = [step[0] == options["mask_token_id"] for step in written.history]
        if not any(bool((~before & after).any()) for before, after in pairwise(masked)):
            raise RejectedError("nothing is masked again")
        return written.sequences

    def run_dreamon(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        suffix = torch.tensor([options.get("suffix", [])], dtype=torch.long)
        masks = torch.full((1, options["initial_masks"]), options["mask_token_id"])
        longest = ids.shape[1] + options["max_new_tokens"] + suffix.shape[1]
        generator = object.__new__(self.authors.dreamon.MDMGenerator)
        generator.__dict__.update(
            model=model.forward,
            tokenizer=types.SimpleNamespace(eos_id=options["eos_ids"][0]),
            device=torch.device("cpu"),
            mask_id=options["mask_token_id"],
            expand_id=options["expand_id"],
            max_tokens=longest,
            max_gen_len=options["max_new_tokens"],
            min_gen_len=options["initial_masks"],
            expand_budget=options.get("expand_budget", 2 * (longest - ids.shape[1])),
            steps=10000,
            alg=options["remasking"],
            alg_temp=0.0,
            temperature=0.0,
            top_p=options.get("top_p"),
            top_k=options.get("top_k"),
            delete_eos_token=True,
            pad_eos_to_right=options.get("pad_delete_to_right", False),
            show_progress=False,
        )
        written, count = generator.batch_generate_with_expand_as_token(torch.cat((ids, masks, suffix), dim=1))
        return written[:, : ids.shape[1] + count]

    def run_wedlm(self, model: Any, ids: Tensor, options: Options) -> Tensor:
        """The engine's steps without its cache: each pass computes the prompt and what is written again."""
        module = self.authors.wedlm
        sequence_class = sys.modules["wedlm.engine.sequence"].Sequence
        sequence_class.block_size = 4096
        prompt = ids[0].tolist()
        sequence = sequence_class(
            prompt,
            sys.modules["wedlm.sampling_params"].SamplingParams(
                temperature=0.0,
                max_tokens=options["max_new_tokens"],
                stop_token_ids=options.get("eos_ids"),
                wedlm_entropy_threshold=options["entropy_threshold"],
                wedlm_pos_penalty_factor=options["pos_penalty_factor"],
            ),
        )
        sequence.block_table = [0]
        sequence.kv_budget = 4096 - 2 * options["window_size"]
        decoder = module.WeDLMDecoder(
            options["mask_token_id"], 4096, options["window_size"], sys.modules["wedlm.engine.sampler"].Sampler()
        )
        decoder.initialize_states([sequence])
        while (prepared := decoder.prepare_decode_inputs([sequence])) is not None:
            before = sequence.token_ids
            tokens = torch.cat((torch.tensor(before), prepared.input_ids))[None]
            positions = [*range(len(before)), *prepared.positions.tolist()]
            logits = model.forward(tokens, positions=positions).logits[0, len(before) :]
            for token in decoder.process_decode_outputs([sequence], prepared, logits)[0] or []:
                if sequence.num_completion_tokens < options["max_new_tokens"]:
                    sequence.append_token(token)
        return torch.tensor([sequence.token_ids])

    def check(self, program: str, model: Options) -> None:
        """The authors' forward pass gives the logits of `Reference`."""
        if program in NEWER:
            return
        made = self.model(program, model)
        reference = Reference(self.checkpoint(model))
        ids = torch.randint(2, 900, (1, 32), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if program == "sdar":
                block = torch.arange(32) // reference.architecture.block_length
                logits = made(ids, attention_mask=(block[None, :] <= block[:, None])[None], use_cache=False).logits
            elif program == "fast_dllm_v2":
                logits = made.forward(ids, use_cache=True, block_size=reference.architecture.block_length).logits
            else:
                logits = made(ids).logits
        difference = compare(logits, reference.logits(ids))["max_abs"]
        if difference > 1e-3:
            raise ValueError(f"{program} and Reference differ by {difference}: {model}")


# ---------------------------------------------------------------------------------------------------------------------
# Settings: what is decoded. "stop": an end token is taken from the answer that comes out without one.


def random_model(family: str, seed: int, **overrides: Any) -> Options:
    scales = {"lm_head": 5.0, "embedding": 0.3}
    scales["q_norm" if family in ("sdar", "qwen3") else "q_proj"] = 3.0
    made: Options = {"family": family, "seed": seed, "weight_scales": scales}
    if family == "fast_dllm_v2":
        overrides["tie_word_embeddings"] = False
    return made | ({"overrides": overrides} if overrides else {})


TINY: Final[Options] = {"bundled": "tiny-llada"}

Setting = tuple[str, Options, int, Options]  # program, model, length of the prompt, options


def llada_settings() -> Iterator[Setting]:
    a, b = random_model("llada", 1), random_model("llada", 2, include_qkv_bias=True)
    c = random_model("llada", 3, n_kv_heads=3, weight_tying=False)

    def plain(model: Options, prompt: int, new: int, block: int, steps: int, **more: Any) -> Setting:
        options = {"max_new_tokens": new, "steps": steps, "block_length": block, "remasking": "low_confidence", **more}
        return "llada", model, prompt, options

    yield plain(a, 12, 16, 16, 16)
    yield plain(a, 5, 16, 4, 16)
    yield plain(a, 17, 24, 8, 9)  # 3 + 3 + 2
    yield plain(a, 1, 24, 12, 10)  # 3 + 3 + 2 + 2 + 2
    yield plain(b, 9, 32, 32, 7)
    yield plain(b, 30, 32, 8, 4)  # a block a step
    yield plain(b, 16, 16, 8, 32)  # more steps than tokens: half of them commit nothing
    yield plain(c, 8, 32, 16, 20)
    yield plain(TINY, 20, 32, 32, 32)
    yield plain(TINY, 11, 32, 8, 12)
    yield plain(TINY, 40, 48, 16, 24)
    yield plain(a, 14, 16, 8, 16, cfg_scale=0.5)
    yield plain(c, 7, 24, 24, 10, cfg_scale=1.5)
    yield plain(TINY, 16, 24, 8, 12, cfg_scale=1.0)
    for model, prompt in ((a, 10), (b, 13), (TINY, 18)):
        yield plain(model, prompt, 16, 8, 8, logits_eos_inf=True, stop="common")
    for model, prompt in ((a, 15), (c, 6), (TINY, 21)):
        yield plain(model, prompt, 16, 8, 12, confidence_eos_eot_inf=True, stop="rare")
    yield plain(b, 12, 16, 16, 12, logits_eos_inf=True, confidence_eos_eot_inf=True, stop="rare")

    def fast(
        model: Options,
        prompt: int,
        new: int,
        block: int,
        steps: int,
        cache: str,
        program: str = "fast_llada",
        **more: Any,
    ) -> Setting:
        _, _, _, options = plain(model, prompt, new, block, steps, cache=cache, **more)
        return program, model, prompt, options

    yield fast(a, 10, 32, 8, 32, "none", threshold=0.9)
    yield fast(b, 19, 32, 32, 32, "none", threshold=0.5)
    yield fast(TINY, 24, 32, 16, 32, "none", threshold=0.2)
    yield fast(TINY, 9, 32, 8, 32, "none", threshold=0.3)
    for cache in ("prefix", "dual"):
        yield fast(a, 12, 24, 8, 24, cache)
        yield fast(b, 7, 32, 16, 10, cache)
        yield fast(c, 21, 32, 8, 12, cache)
        yield fast(TINY, 17, 32, 8, 16, cache)
        yield fast(a, 16, 32, 8, 32, cache, threshold=0.9)
        yield fast(b, 5, 32, 16, 32, cache, threshold=0.6)
        yield fast(c, 33, 32, 32, 32, cache, threshold=0.5)
        yield fast(TINY, 30, 48, 16, 48, cache, threshold=0.2)
        yield fast(TINY, 13, 24, 4, 24, cache, threshold=0.25)
    yield fast(a, 11, 32, 16, 32, "none", "factor", factor=1.0)
    yield fast(TINY, 22, 32, 32, 32, "none", "factor", factor=2.6)
    yield fast(TINY, 15, 32, 8, 32, "prefix", "factor", factor=2.4)
    yield fast(b, 18, 32, 8, 32, "dual", "factor", factor=1.0)


def dream_settings() -> Iterator[Setting]:
    a, b = random_model("dream", 1), random_model("dream", 2)
    c = random_model("dream", 3, num_key_value_heads=3)

    def plain(model: Options, prompt: int, new: int, steps: int, remasking: str, **more: Any) -> Setting:
        return "dream", model, prompt, {"max_new_tokens": new, "steps": steps, "remasking": remasking, **more}

    for remasking in ("maskgit_plus", "topk_margin", "entropy"):
        yield plain(a, 10, 16, 16, remasking)
        yield plain(b, 5, 24, 7, remasking)
        yield plain(c, 21, 20, 12, remasking, eps=0.2)
        yield plain(a, 33, 16, 40, remasking)  # more steps than tokens
        yield plain(b, 1, 16, 1, remasking)
        yield plain(c, 14, 16, 8, remasking, top_p=0.9)
        yield plain(a, 8, 16, 8, remasking, top_k=5)
        yield plain(b, 17, 16, 8, remasking, top_p=0.7, top_k=5)
        yield plain(c, 9, 32, 10, remasking, eps=0.05)
    yield plain(a, 12, 16, 1, "origin")

    def threshold(model: Options, prompt: int, new: int, steps: int, value: float) -> Setting:
        options = {
            "max_new_tokens": new,
            "steps": steps,
            "remasking": "maskgit_plus",
            "cache": "none",
            "threshold": value,
        }
        return "fast_dream", model, prompt, options

    yield threshold(a, 13, 32, 8, 0.9)
    yield threshold(b, 8, 32, 4, 0.5)
    yield threshold(c, 20, 24, 24, 0.7)
    yield threshold(b, 16, 32, 1, 0.6)

    def bounded(model: Options, prompt: int, new: int, steps: int, entropy: float) -> Setting:
        options = {"max_new_tokens": new, "steps": steps, "remasking": "entropy_bounded", "eb_threshold": entropy}
        return "rnd1", model, prompt, options

    yield bounded(a, 11, 16, 64, 0.1)
    yield bounded(b, 18, 24, 64, 1.0)
    yield bounded(c, 7, 24, 64, 3.0)
    yield bounded(a, 24, 16, 4, 0.5)  # what is left after 4 passes is filled in

    def block(model: Options, prompt: int, new: int, length: int, steps: int, cache: str, **more: Any) -> Setting:
        options = {
            "max_new_tokens": new,
            "steps": steps,
            "block_length": length,
            "remasking": "entropy",
            "cache": cache,
        }
        if "threshold" in more:
            options["remasking"] = "maskgit_plus"
        return "fast_dream_block", model, prompt, options | more

    for cache in ("prefix", "dual"):
        yield block(a, 9, 32, 8, 32, cache, threshold=0.9)
        yield block(b, 16, 32, 16, 32, cache, threshold=0.5)
        yield block(c, 30, 32, 32, 32, cache, threshold=0.7)
        yield block(a, 6, 24, 4, 24, cache, threshold=0.6)
        yield block(b, 12, 32, 8, 32, cache)
        yield block(c, 25, 32, 16, 8, cache)
        yield block(a, 19, 32, 8, 20, cache, eps=0.1)


def sdar_settings() -> Iterator[Setting]:
    def model(seed: int, block: int) -> Options:
        return random_model("sdar", seed, **({} if block == 4 else {"block_length": block}))

    def decode(seed: int, prompt: int, new: int, block: int, steps: int, remasking: str, **more: Any) -> Setting:
        options = {"max_new_tokens": new, "block_length": block, "steps_per_block": steps, "remasking": remasking}
        return "sdar", model(seed, block), prompt, options | more

    yield decode(1, 8, 16, 4, 4, "sequential")
    yield decode(1, 10, 16, 4, 2, "sequential")
    yield decode(2, 7, 16, 4, 3, "sequential")  # 2 + 1 + 1
    yield decode(2, 3, 18, 8, 3, "sequential")
    yield decode(1, 12, 16, 4, 4, "low_confidence_static")
    yield decode(1, 13, 16, 4, 4, "low_confidence_static")
    yield decode(2, 3, 16, 4, 4, "low_confidence_static")
    yield decode(2, 16, 16, 4, 2, "low_confidence_static")
    yield decode(1, 18, 16, 4, 2, "low_confidence_static")
    yield decode(3, 4, 12, 4, 3, "low_confidence_static")
    yield decode(3, 8, 12, 4, 1, "low_confidence_static")
    yield decode(3, 9, 16, 4, 6, "low_confidence_static")  # more steps than tokens
    yield decode(4, 16, 32, 8, 3, "low_confidence_static")
    yield decode(4, 11, 32, 16, 16, "low_confidence_static")
    for threshold, prompt in ((0.85, 8), (0.5, 9), (0.3, 14)):
        yield decode(1, prompt, 24, 4, 4, "low_confidence_dynamic", threshold=threshold)
    yield decode(2, 12, 24, 4, 2, "low_confidence_dynamic", threshold=0.6)
    yield decode(5, 8, 32, 8, 8, "low_confidence_dynamic", threshold=0.6)
    yield decode(5, 21, 32, 8, 8, "low_confidence_dynamic", threshold=0.4)
    yield decode(5, 32, 32, 16, 16, "low_confidence_dynamic", threshold=0.5)
    yield decode(4, 1, 32, 32, 32, "low_confidence_dynamic", threshold=0.7)
    yield decode(3, 5, 1, 4, 4, "low_confidence_dynamic", threshold=0.9)
    yield decode(3, 6, 20, 4, 4, "low_confidence_dynamic", threshold=0.8, top_k=10)
    yield decode(2, 9, 20, 4, 4, "low_confidence_dynamic", threshold=0.8, top_p=0.9)
    yield decode(1, 15, 20, 4, 4, "low_confidence_static", top_k=3)
    yield decode(1, 8, 24, 4, 4, "low_confidence_static", stop="middle")
    yield decode(2, 10, 24, 4, 4, "low_confidence_dynamic", threshold=0.6, stop="middle")
    yield decode(5, 13, 32, 8, 8, "sequential", stop="middle")
    yield decode(4, 18, 32, 8, 4, "low_confidence_static", stop="middle")


def fast_dllm_v2_settings() -> Iterator[Setting]:
    def model(seed: int, block: int) -> Options:
        return random_model("fast_dllm_v2", seed, **({} if block == 32 else {"bd_size": block}))

    def decode(
        seed: int, prompt: int, new: int, block: int, part: int, value: float, cache: str, **more: Any
    ) -> Setting:
        options = {"max_new_tokens": new, "block_length": block, "sub_block_length": part, "threshold": value}
        return "fast_dllm_v2", model(seed, block), prompt, options | {"cache": cache} | more

    yield decode(3, 24, 24, 8, 8, 0.3, "none")
    yield decode(5, 33, 32, 16, 16, 0.5, "none")
    for cache in ("none", "block"):
        for value, prompt in ((1.0, 10), (0.9, 40), (0.6, 64), (0.3, 27)):
            yield decode(1, prompt, 64 if prompt == 27 else 32, 32, 8, value, cache)
        yield decode(1, 70, 64, 32, 8, 0.6, cache)
        yield decode(2, 5, 24, 8, 4, 1.0, cache)
        yield decode(2, 16, 24, 8, 4, 0.9, cache)
        yield decode(3, 11, 24, 8, 4, 0.6, cache)
        yield decode(4, 7, 32, 16, 4, 0.6, cache)
        yield decode(4, 20, 32, 16, 4, 0.9, cache)
        yield decode(5, 48, 32, 16, 4, 0.3, cache)
        yield decode(4, 9, 48, 16, 4, 0.6, cache, stop="middle")
        yield decode(2, 19, 32, 8, 4, 0.4, cache, stop="middle")


def autoregressive_settings(family: str) -> Iterator[Setting]:
    a, b = random_model(family, 1), random_model(family, 2, num_key_value_heads=3)
    for model, prompt, new in ((a, 1, 24), (a, 12, 24), (b, 5, 32), (b, 40, 16), (a, 20, 1)):
        yield "transformers", model, prompt, {"max_new_tokens": new}
    yield "transformers", a, 9, {"max_new_tokens": 24, "stop": "middle"}
    yield "transformers", b, 16, {"max_new_tokens": 32, "stop": "middle"}
    if family == "llama":
        scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        scaling["original_max_position_embeddings"] = 64
        yield "transformers", random_model(family, 3, rope_scaling=scaling), 30, {"max_new_tokens": 32}


def editing_settings() -> Iterator[Setting]:
    def decode(
        seed: int, prompt: int, new: int, block: int, threshold: float, editing_threshold: float, **more: Any
    ) -> Setting:
        options = {"max_new_tokens": new, "block_length": block, "threshold": threshold}
        model = random_model("sdar", seed, block_length=block)
        return "editing", model, prompt, options | {"editing_threshold": editing_threshold} | more

    yield decode(1, 8, 32, 32, 0.95, 0.9)
    yield decode(2, 33, 64, 32, 0.7, 0.5)
    yield decode(3, 17, 48, 16, 0.5, 0.0)
    yield decode(4, 1, 24, 8, 0.4, 0.3)
    yield decode(5, 40, 40, 8, 0.95, 0.5)
    yield decode(6, 13, 21, 8, 0.3, 0.2)  # the last block is not asked for as a whole
    yield decode(1, 11, 32, 16, 0.5, 0.0, max_post_steps=0)
    yield decode(2, 9, 32, 16, 0.5, 0.0, max_post_steps=1)
    yield decode(3, 21, 32, 8, 0.3, 0.1, max_post_steps=3)
    yield decode(4, 16, 32, 16, 0.6, 0.4, stop="middle")
    yield decode(5, 7, 48, 16, 0.4, 0.0, stop="middle")


def p2_settings() -> Iterator[Setting]:
    def decode(seed: int, prompt: int, new: int, steps: int, **more: Any) -> Setting:
        options = {"max_new_tokens": new, "steps": steps, "remasking": "p2"}
        return "p2", random_model("dream", seed), prompt, options | more

    yield decode(1, 10, 16, 16)
    yield decode(2, 5, 24, 7)
    yield decode(3, 21, 20, 12)
    yield decode(1, 33, 16, 40)  # more steps than tokens
    yield decode(2, 1, 16, 4)
    yield decode(3, 14, 24, 24)
    yield decode(4, 8, 32, 20)
    yield decode(4, 17, 12, 12, top_k=5)
    yield decode(5, 12, 16, 10, top_p=0.95)


def dreamon_settings() -> Iterator[Setting]:
    def decode(seed: int, prompt: int, behind: int, first: int, new: int, remasking: str, **more: Any) -> Setting:
        options = {"max_new_tokens": new, "initial_masks": first, "remasking": remasking, "behind": behind}
        return "dreamon", random_model("dream", seed), prompt, options | {"stop": "canvas"} | more

    for remasking in ("entropy", "maskgit_plus", "topk_margin"):
        yield decode(1, 10, 5, 4, 16, remasking)
        yield decode(2, 21, 9, 8, 24, remasking)
    yield decode(3, 6, 1, 4, 8, "entropy")  # it soon has no room
    yield decode(4, 12, 7, 4, 32, "entropy", expand_budget=3)
    yield decode(5, 9, 0, 6, 20, "entropy")
    yield decode(1, 15, 4, 12, 12, "entropy")  # room only after a mask was deleted
    yield decode(2, 8, 6, 10, 24, "entropy", pad_delete_to_right=True)
    yield decode(3, 18, 3, 4, 24, "entropy", top_k=5)


def wedlm_settings() -> Iterator[Setting]:
    class_name = ["WeDLMForCausalLM"]

    def decode(seed: int, prompt: int, new: int, window: int, entropy: float, penalty: float, **more: Any) -> Setting:
        keys = {"model_type": "wedlm", "architectures": class_name, "qk_norm": True, "mask_token_id": MASK}
        model = random_model("qwen3", seed, **keys)
        options = {"max_new_tokens": new, "window_size": window}
        return "wedlm", model, prompt, options | {"entropy_threshold": entropy, "pos_penalty_factor": penalty} | more

    yield decode(1, 10, 24, 16, 0.4, 0.02)
    yield decode(2, 33, 32, 16, 1.0, 0.02)
    yield decode(3, 5, 24, 8, 2.0, 0.05)
    yield decode(1, 1, 20, 4, 0.4, 1.0)
    yield decode(2, 17, 24, 6, 0.0, 0.0)  # one token in each pass
    yield decode(3, 40, 32, 16, 3.0, 0.1)
    yield decode(4, 12, 9, 16, 1.5, 0.0)  # the window is longer than the answer
    yield decode(5, 9, 32, 12, 2.5, 0.2)
    yield decode(4, 8, 1, 16, 0.4, 0.02)
    yield decode(5, 21, 32, 8, 2.0, 0.02, stop="middle")
    yield decode(1, 14, 32, 16, 1.0, 0.1, stop="middle")


SETTINGS: Final[dict[str, Callable[[], Iterator[Setting]]]] = {
    "llada": llada_settings,
    "sdar": sdar_settings,
    "dream": dream_settings,
    "fast_dllm_v2": fast_dllm_v2_settings,
    "llama": lambda: autoregressive_settings("llama"),
    "qwen2": lambda: autoregressive_settings("qwen2"),
    "qwen3": lambda: autoregressive_settings("qwen3"),
    "editing": editing_settings,
    "p2": p2_settings,
    "dreamon": dreamon_settings,
    "wedlm": wedlm_settings,
}


def make_prompt(model: Options, length: int, seed: int) -> list[int]:
    """Random ids, or for the bundled model a piece of the text that it was not trained on."""
    generator = torch.Generator().manual_seed(seed)
    if "bundled" not in model:
        return torch.randint(1, MASK, (length,), generator=generator).tolist()
    tensors = load_file(ROOT / "examples" / model["bundled"] / "eval.safetensors")
    hidden = tensors["target_ids_15"] >= 0
    text = torch.where(hidden, tensors["target_ids_15"], tensors["input_ids_15"])
    row = int(torch.randint(0, len(text), (1,), generator=generator))
    return text[row, :length].tolist()


def with_stop(runner: Runner, program: str, model: Options, prompt: list[int], options: Options) -> Options:
    """Options whose end tokens are tokens that the answer has without them."""
    kind = options.pop("stop")
    if kind == "canvas":
        return with_canvas_tokens(runner, program, model, prompt, options)
    free = {key: value for key, value in options.items() if not key.endswith("_inf")}
    tokens = runner.run(program, model, prompt, free)["tokens"]
    if kind == "middle":
        return options | {"eos_ids": [tokens[len(tokens) // 2]]}
    ordered = sorted(set(tokens), key=lambda token: (tokens.count(token), token), reverse=kind == "common")
    if len(ordered) < 4:
        raise RejectedError("too few tokens differ")
    return options | {"eos_ids": [ordered[0]], "eot_id": ordered[1]}


def with_canvas_tokens(runner: Runner, program: str, model: Options, prompt: list[int], options: Options) -> Options:
    """Options whose expand token and end token are tokens that the model writes where there are none."""
    behind = options.pop("behind")
    if behind:
        options["suffix"] = make_prompt(model, behind, 7 * len(prompt) + prompt[0])
    plain = options | {"expand_id": MASK - 1, "eos_ids": [MASK - 2], "initial_masks": options["max_new_tokens"]}
    tokens = runner.run(program, model, prompt, plain)["tokens"]
    ordered = sorted(set(tokens), key=lambda token: (tokens.count(token), token), reverse=True)
    if len(ordered) < 4:
        raise RejectedError("too few tokens differ")
    if ordered[0] in (*prompt, *options.get("suffix", ())):
        raise RejectedError("the program expands tokens of the prompt")
    return options | {"expand_id": ordered[0], "eos_ids": [ordered[1]]}


MATTERS: Final = (
    *("cfg_scale", "top_p", "top_k", "logits_eos_inf", "confidence_eos_eot_inf", "cache"),
    *("editing_threshold", "expand_budget", "pad_delete_to_right"),
)
"""Options without which another answer comes out: a program that forgets one of them writes other tokens."""


def check_that_options_matter(runner: Runner, case: Options, program: str) -> None:
    if program == "dreamon":
        for other in ({"expand_id": MASK - 1}, {"eos_ids": [MASK - 2]}):
            if runner.run(program, case["model"], case["prompt"], case["options"] | other)["tokens"] == case["tokens"]:
                raise RejectedError(f"{other} does not matter")
    for name in MATTERS:
        options = dict(case["options"])
        if name in ("top_p", "top_k") and {"top_p", "top_k"} <= options.keys():
            continue  # one of them does most of the work
        if program == "fast_dream_block" and options["block_length"] == options["max_new_tokens"]:
            continue  # nothing behind the block: both caches are the same
        if options.get(name, "none") == "none":
            continue
        del options[name]
        if name == "cache":
            options["cache"] = (
                "dual" if program == "fast_dream_block" and case["options"]["cache"] == "prefix" else "none"
            )
        if runner.run(program, case["model"], case["prompt"], options)["tokens"] == case["tokens"]:
            raise RejectedError(f"{name} does not matter")


def make_case(runner: Runner, setting: Setting, number: int) -> Options:
    program, model, length, given = setting
    mask_id = 1 if "bundled" in model else MASK
    reasons = []
    for trial in range(200):
        options = dict(given)
        if program != "transformers":
            options["mask_token_id"] = mask_id
        try:
            prompt = make_prompt(model, length, 1000 * number + trial)
            if "stop" in options:
                options = with_stop(runner, program, model, prompt, options)
            case = runner.run(program, model, prompt, options)
            check_that_options_matter(runner, case, program)
        except RejectedError as error:
            reasons.append(str(error))
            continue
        if len(set(case["tokens"])) < min(3, len(case["tokens"])):
            reasons.append("too few tokens differ")
            continue
        return case
    raise SystemExit(f"no prompt will do for {setting}: {sorted(set(reasons))[-8:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--family", action="append", choices=SETTINGS, help="only these families")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    authors = Authors(arguments.authors)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for family in arguments.family or SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(authors, Path(folder))
            settings = list(SETTINGS[family]())
            for program, model in {json.dumps(setting[:2]): setting[:2] for setting in settings}.values():
                runner.check(program, model)
            cases = [make_case(runner, setting, number) for number, setting in enumerate(settings)]
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        path = arguments.output / f"{family}.json"
        path.write_text(f"[\n{lines}\n]\n")
        least = min(case["smallest_margin"] for case in cases)
        print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes, smallest margin {least}", flush=True)


if __name__ == "__main__":
    main()
