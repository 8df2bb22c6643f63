"""Models with routed experts: the CPU runtime against PyTorch, their checkpoints, calibration, and what exports do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, assert_fails, export, run, run_json
from expert_families import EXPERT_FAMILIES, ExpertReference, make_expert_checkpoint
from families import OMIT
from program import Program, cut_into_steps, random_ids
from safetensors.torch import load_file, save_file
from test_runtime import forward
from torch import Tensor

LENGTHS: Final = (1, 5, 37, 100)
EXACT: Final = 1e-5

MakeExperts = Callable[..., Path]


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> MakeExperts:
    """`experts(family, **options of make_expert_checkpoint)` -> its folder, which tests must not change."""
    made: dict[str, Path] = {}

    def make(family: str, **options: Any) -> Path:
        key = json.dumps([family, {name: str(value) for name, value in options.items()}])
        if key not in made:
            made[key] = make_expert_checkpoint(tmp_path_factory.mktemp(family), family, **options)
        return made[key]

    return make


def sequences() -> list[list[int]]:
    return [random_ids(length, 1001).flatten().tolist() for length in LENGTHS]


VARIANTS: Final[list[tuple[str, dict[str, Any]]]] = [
    *((family, {}) for family in EXPERT_FAMILIES),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("qwen3_moe", {"norm_topk_prob": OMIT, "decoder_sparse_step": 2, "mlp_only_layers": [0]}),
    ("qwen3_moe", {"num_experts_per_tok": 1, "num_experts": 3}),
    ("qwen3_moe", {"num_experts_per_tok": 8}),
    ("sdar_moe", {"block_size": 32}),
    ("llada_moe", {"moe_layer_freq": [0, 1, 1], "shared_expert_intermediate_size": 96}),
    ("llada_moe", {"moe_router_enable_expert_bias": True, "partial_rotary_factor": 0.5}),
    ("llada2_moe", {"n_group": 1, "topk_group": 1, "num_shared_experts": 2}),
    ("llada2_moe", {"first_k_dense_replace": 0, "partial_rotary_factor": 1.0, "rotary_dim": 32}),
    ("llada2_moe", {"num_experts": 16, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}),
]


def variant_name(value: str | dict[str, Any]) -> str:
    """The same in every process that runs the tests."""
    if isinstance(value, str):
        return value
    return " ".join(f"{key}={'absent' if option is OMIT else option}" for key, option in value.items()) or "usual"


@pytest.mark.parametrize(("family", "options"), VARIANTS, ids=variant_name)
def test_logits_are_those_of_the_reference(family: str, options: dict[str, Any], experts: MakeExperts) -> None:
    model = experts(family, **options)
    reference = (
        ExpertReference(model) if "norm_topk_prob" not in options or options["norm_topk_prob"] is not OMIT else None
    )
    if reference is None:  # absence is false
        reference = ExpertReference(experts(family, **(options | {"norm_topk_prob": False})))
    for ids, logits in zip(sequences(), forward(model, sequences()), strict=True):
        assert (logits - reference.logits(ids)).abs().max() < EXACT


def test_qwen3_moe_is_transformers(experts: MakeExperts) -> None:
    transformers = pytest.importorskip("transformers")
    model = experts("qwen3_moe")
    network = transformers.Qwen3MoeForCausalLM.from_pretrained(model, dtype=torch.float32)
    for ids, logits in zip(sequences(), forward(model, sequences()), strict=True):
        with torch.no_grad():
            assert (logits - network(torch.tensor([ids])).logits[0]).abs().max() < EXACT


def test_a_checkpoint_that_transformers_saved_is_the_same_model(experts: MakeExperts, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = experts("qwen3_moe")
    network = transformers.Qwen3MoeForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.save_pretrained(tmp_path / "saved")
    for logits, again in zip(forward(model, sequences()), forward(tmp_path / "saved", sequences()), strict=True):
        assert torch.equal(logits, again)


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_a_sequence_is_the_same_alone_and_among_others(family: str, experts: MakeExperts) -> None:
    model = experts(family)
    together = forward(model, sequences())
    for ids, logits in zip(sequences(), together, strict=True):
        assert (forward(model, [ids])[0] - logits).abs().max() < EXACT


def generated(model: Path, tmp_path: Path, *options: object) -> list[int]:
    np.save(tmp_path / "prompt.npy", np.array([[5, 17, 256, 3, 99]], dtype=np.int64))
    prompt = ("--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 24)
    tokens: list[int] = run_json("generate", model, *prompt, *options)["tokens"]
    return tokens


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_text_is_the_same_with_and_without_a_cache(family: str, experts: MakeExperts, tmp_path: Path) -> None:
    model = experts(family)
    is_bidirectional = family in ("rnd1", "llada_moe")
    plain = generated(model, tmp_path, "--cache", "none")
    assert len(plain) > 0
    assert generated(model, tmp_path, "--cache", "none" if is_bidirectional else "exact", "--threads", 1) == plain


def test_text_of_a_causal_model_is_the_most_probable(experts: MakeExperts, tmp_path: Path) -> None:
    model = experts("qwen3_moe")
    reference = ExpertReference(model)
    ids = [5, 17, 256, 3, 99]
    for token in generated(model, tmp_path):
        assert int(reference.logits(ids)[-1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
@pytest.mark.parametrize("dtype", ["int8", "int4", "fp16"])
def test_a_quantized_checkpoint_has_each_expert_and_a_float_router(
    family: str, dtype: str, experts: MakeExperts, tmp_path: Path
) -> None:
    model = experts(family)
    report = run_json("quantize", model, "-o", tmp_path / "q", "--dtype", dtype)
    original, stored = load_file(model / "model.safetensors"), load_file(tmp_path / "q/model.safetensors")
    experts_found = 0
    for name, tensor in original.items():
        is_expert = ".experts." in name
        if is_expert or "shared_expert" in name:
            experts_found += is_expert
            assert stored[name].dtype == {"int8": torch.int8, "int4": torch.uint8, "fp16": torch.float16}[dtype]
        elif name.endswith(("mlp.gate.weight", "expert_bias")):
            assert torch.equal(stored[name], tensor)
    sparse_layers = 2 if family == "llada2_moe" else 3
    assert experts_found == sparse_layers * 8 * 3
    named = {layer["layer"] for layer in report["layers"]}
    assert {f"layers.2.experts.{expert}.up_proj" for expert in range(8)} <= named
    ids = sequences()
    for simulated, from_file in zip(forward(model, ids, dtype=dtype), forward(tmp_path / "q", ids), strict=True):
        assert (simulated - from_file).abs().max() < EXACT


def evaluation_data(path: Path, count: int = 6, length: int = 48) -> Path:
    generator = np.random.default_rng(1)
    ids = generator.integers(1, 1000, (count, length))
    masked = generator.random(ids.shape) < 0.5
    pairs = {"input_ids_50": np.where(masked, 1000, ids), "target_ids_50": np.where(masked, ids, -100)}
    save_file({name: torch.from_numpy(values) for name, values in pairs.items()}, path)
    return path


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_fast_kernels_have_the_loss_of_the_simulation(family: str, experts: MakeExperts, tmp_path: Path) -> None:
    data = evaluation_data(tmp_path / "data.safetensors")
    arguments = ("evaluate", experts(family), "--data", data, "--dtype", "int4", "--mode", "dynamic")
    simulated = run_json(*arguments)
    fast = run_json(*arguments, "--arithmetic", "fast")
    assert abs(simulated["loss"]["50"] - fast["loss"]["50"]) < 0.02
    assert 0 < simulated["kl_divergence"]["50"] < 0.5
    layers = {layer["layer"]: layer["signal_to_noise_db"] for layer in simulated["layers"]}
    assert any(".experts." in name for name in layers)
    # Tokens that the quantized model sends to other experts are not compared: what is left is alike.
    assert all(noise is None or noise > 3 for noise in layers.values())


def calibration_data(path: Path, count: int, length: int) -> Path:
    generator = np.random.default_rng(2)
    np.save(path, generator.integers(1, 1000, (count, length)))
    return path


@pytest.mark.parametrize("method", ["gptq", "auto"])
def test_experts_that_calibration_hardly_reaches_are_rounded_alone_and_named(
    method: str, experts: MakeExperts, tmp_path: Path
) -> None:
    model = experts("llada_moe", num_experts=32)
    data = calibration_data(tmp_path / "few.npy", 4, 16)
    options = ("--dtype", "int4", "--method", method, "--calibration", data)
    report = run_json("quantize", model, "-o", tmp_path / "q", *options)
    methods = {entry["layer"]: entry["method"] for entry in report["calibration"]["rounding"]}
    tokens = {entry["layer"]: entry["tokens"] for entry in report["calibration"]["activations"]}
    assert len(methods) == len(tokens) == 3 * (4 + 3 * 32)
    missed = {layer for layer, count in tokens.items() if ".experts." in layer and count < 8}
    assert 0 < len(missed) < 3 * 3 * 32
    assert {methods[layer] for layer in missed} == {"mse"}
    if method == "gptq":
        assert {methods[layer] for layer in methods if layer not in missed} == {"gptq"}
    warnings = [warning for warning in report["warnings"] if "hardly reached" in warning]
    assert len(warnings) == 3
    assert all("layers." in warning and "rounded by mse" in warning for warning in warnings)
    assert all(torch.isfinite(logits).all() for logits in forward(tmp_path / "q", sequences()))


def test_enough_calibration_reaches_all_and_helps(experts: MakeExperts, tmp_path: Path) -> None:
    model = experts("llada_moe")
    data = calibration_data(tmp_path / "data.npy", 12, 100)
    exact = forward(model, sequences())
    errors = {}
    for method in ("rtn", "gptq"):
        calibration = () if method == "rtn" else ("--calibration", data)
        report = run_json(
            "quantize", model, "-o", tmp_path / method, "--dtype", "int4", "--method", method, *calibration
        )
        assert not any("hardly reached" in warning for warning in report["warnings"])
        found = forward(tmp_path / method, sequences())
        errors[method] = sum((a - b).square().sum().item() for a, b in zip(found, exact, strict=True))
    assert errors["gptq"] < 0.98 * errors["rtn"]  # of weights and tokens that have no structure


def test_static_ranges_of_experts_that_nobody_chose_are_those_of_the_others(
    experts: MakeExperts, tmp_path: Path
) -> None:
    model = experts("llada_moe", num_experts=32)
    data = calibration_data(tmp_path / "few.npy", 1, 8)
    options = ("--dtype", "int8", "--mode", "static", "--calibration", data)
    report = run_json("quantize", model, "-o", tmp_path / "q", *options)
    assert any("hardly reached" in warning and "static ranges" in warning for warning in report["warnings"])
    ranges = json.loads((tmp_path / "q/config.json").read_text())["quantization_config"]["activations"]
    groups = [ranges[f"layers.1.experts.{expert}.down_proj"]["output"] for expert in range(32)]
    assert all(low < 0 < high for low, high in groups)
    assert all(torch.isfinite(logits).all() for logits in forward(tmp_path / "q", sequences()))


def test_a_plan_gives_all_experts_of_a_layer_one_format(experts: MakeExperts, tmp_path: Path) -> None:
    model = experts("llada_moe", num_hidden_layers=2, moe_layer_freq=[1, 1])
    data = calibration_data(tmp_path / "data.npy", 2, 32)
    options = ("--calibration", data, "--target-size", "700KB", "--formats", "int8,int4_g32")
    run_json("plan", model, "-o", tmp_path / "plan.json", *options)
    plan = json.loads((tmp_path / "plan.json").read_text())
    formats = plan["formats"] if "formats" in plan else plan["layers"]
    text = json.dumps(plan)
    assert "layers.1.experts.7.down_proj" in text
    assert "router" in text
    assert formats
    report = run_json("quantize", model, "-o", tmp_path / "q", "--plan", tmp_path / "plan.json")
    found = {layer["layer"]: layer for layer in report["layers"]}
    for layer in range(2):
        used = {
            found[f"layers.{layer}.experts.{expert}.{role}_proj"]["dtype"]
            for expert in range(8)
            for role in ("gate", "up", "down")
        }
        assert len(used) == 1
        assert found[f"layers.{layer}.router"]["dtype"] == "fp32"


@pytest.mark.parametrize(("family", "options"), VARIANTS, ids=variant_name)
def test_xnnpack_computes_all_experts_and_weighs_them(
    family: str, options: dict[str, Any], experts: MakeExperts, tmp_path: Path
) -> None:
    model = experts(family, **options)
    export(model, tmp_path / "model.pte", "--seq-len", max(LENGTHS))
    program = Program(tmp_path / "model.pte")
    for ids, logits in zip(sequences(), forward(model, sequences()), strict=True):
        assert (torch.as_tensor(program.logits(ids)).reshape(logits.shape) - logits).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["sdar_moe", "llada2_moe"])
def test_steps_of_a_program_with_a_cache_give_the_logits_of_the_whole(
    family: str, experts: MakeExperts, tmp_path: Path
) -> None:
    model = experts(family)
    export(model, tmp_path / "steps.pte", "--cache", 128, "--cache-dtype", "fp32")
    ids = random_ids(100, 1001)
    steps = cut_into_steps(Program(tmp_path / "steps.pte").step, ids, (64, 36))
    expected = ExpertReference(model).logits(ids)
    torch.testing.assert_close(steps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["coreml", "qnn"])
def test_other_backends_say_what_works_instead(backend: str, experts: MakeExperts, tmp_path: Path) -> None:
    soc = ("--soc", "SM8650") if backend == "qnn" else ()
    for mode in ((), ("--dtype", "int8")):
        result = run(
            "export", experts("llada_moe"), "-o", tmp_path / "out.mlpackage", "--backend", backend, *soc, *mode
        )
        assert_fails(result, UNSUPPORTED, "routed experts", "--backend xnnpack")


def damaged(source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def test_a_missing_or_foreign_expert_is_named(experts: MakeExperts, tmp_path: Path) -> None:
    model = experts("llada_moe")
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    missing = damaged(model, tmp_path / "missing", lambda tensors: tensors.pop(name) is None)
    assert_fails(run("quantize", missing, "-o", tmp_path / "q", "--dtype", "int8"), BAD_FILE, name)

    def add(tensors: dict[str, Tensor]) -> None:
        tensors[name.replace(".5.", ".8.")] = torch.zeros(64, 96)

    foreign = damaged(model, tmp_path / "foreign", add)
    assert_fails(run("quantize", foreign, "-o", tmp_path / "q", "--dtype", "int8"), UNSUPPORTED, "experts.8.up_proj")


def test_inspect_shows_the_experts(experts: MakeExperts) -> None:
    report = run_json("inspect", experts("llada2_moe"))
    assert report["config"]["experts"] == {
        "count": 8,
        "per_token": 3,
        "intermediate_size": 64,
        "shared_intermediate_size": 64,
        "groups": 4,
        "groups_per_token": 2,
    }
    text = run("inspect", experts("llada2_moe")).stdout
    assert "experts 8 (3 a token) of intermediate 64 and a shared one of 64" in text


def edited(
    reference: ExpertReference, prompt: list[int], new: int, limits: tuple[float, float]
) -> tuple[list[int], int]:
    """LLaDA 2.1's decoding as its modeling file has it, without a cache; and how many passes it took.

    A block ends with a pass that finds no mask and replaces nothing, or after two passes without a mask.
    """
    mask, block = 200, 32
    canvas = prompt + [mask] * (-(-(len(prompt) + new) // block) * block - len(prompt))
    passes = 0
    for begin in range(len(prompt) // block * block, len(canvas), block):
        own = range(max(begin, len(prompt)), begin + block)
        post_steps = 0
        while post_steps < 2:
            masked = [place for place in own if canvas[place] == mask]
            post_steps += not masked
            probabilities = reference.logits(canvas[: begin + block]).softmax(-1)
            probabilities[:, mask] = -1  # it counts in the others' probabilities, and is not written
            best, tokens = probabilities.max(-1)
            passes += 1
            chosen = [place for place in masked if best[place] > limits[0]]
            if masked and not chosen:
                chosen = [max(masked, key=lambda place: float(best[place]))]
            replaced = [
                place for place in own if canvas[place] not in (mask, int(tokens[place])) and best[place] > limits[1]
            ]
            for place in chosen + replaced:
                canvas[place] = int(tokens[place])
            if not masked and not replaced:
                break
    return canvas[len(prompt) : len(prompt) + new], passes


def test_llada2_edits_what_it_has_placed(tmp_path: Path) -> None:
    limits = (0.02, 0.015)
    folder = make_expert_checkpoint(tmp_path / "model", "llada2_moe")
    prompt = [5, 9, 11, 300, 42]
    np.save(tmp_path / "prompt.npy", np.array([prompt]))
    tokens, passes = edited(ExpertReference(folder), prompt, 27, limits)
    words = ("generate", folder, "--prompt-ids", tmp_path / "prompt.npy", "--max-new-tokens", 27, "--ignore-eos")
    options = ("--mask-token-id", 200, "--threshold", limits[0], "--max-post-steps", 2, "--editing-threshold")
    found = run_json(*words, *options, limits[1])
    assert (found["tokens"], found["forward_passes"]) == (tokens, passes)
    assert run_json(*words, *options, 1.0)["tokens"] != tokens
