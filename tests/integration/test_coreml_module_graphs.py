"""The Core ML backend on graphs of torch modules, of any shape: each package loads in coremltools and gives, in the
interpreter, what numpy computes from the graph."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from coreml_check import check_with_coremltools
from coreml_package import Package
from families import compare
from mil_interpreter import Interpreter
from module_graphs import SEQUENCE, Array, ModuleGraph
from quantization import Format

pytest.importorskip("diffulex_edge._core", reason="the Python package is not built")

from diffulex_edge import InvalidArgumentError, UnsupportedError
from diffulex_edge.quant import QuantizationConfig

WEIGHT_ONLY: Final = {"mode": "weight_only", "exclude_layers": []}
FP32: Final = QuantizationConfig(dtype="fp32", **WEIGHT_ONLY)
FP16: Final = QuantizationConfig(dtype="fp16", **WEIGHT_ONLY)
CONFIGS: Final = {"fp32": FP32, "fp16": FP16}
TARGETS: Final = ("iOS16", "iOS17", "iOS18")


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    return numbers(rows, columns, seed=seed) / np.float32(math.sqrt(columns))


def run(package: Path, inputs: dict[str, Array], output: str = "result") -> Array:
    """What the interpreter computes, as numpy: floats are given as float32, ids as int32."""
    given = {
        name: torch.from_numpy(np.asarray(value, np.float32 if value.dtype.kind == "f" else np.int32))
        for name, value in inputs.items()
    }
    outputs = Interpreter(package).run(given)
    assert list(outputs) == [output]
    assert outputs[output].dtype == torch.float32
    return outputs[output].numpy()


def agree(found: Array, expected: Array, config: str) -> None:
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    if config == "fp32":
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
        assert compare(torch.from_numpy(found), torch.from_numpy(expected))["cosine"] > 0.9999


def operations(package: Package) -> Counter[str]:
    return Counter(operation.type for program in package.programs for operation in program.functions["main"].operations)


# --- Single operators, in graphs of several.


def elementwise(graph: ModuleGraph, x: int, y: int) -> int:
    """Every elementwise operator, each with a share in the result [n, 4, 6] of x [n, 4, 6] and y [1, 6]."""
    add = graph.add
    positive = add("add", add("square", x), graph.constant([0.5]))
    parts = [
        add("subtract", x, y),
        add("multiply", y, x),
        add("divide", x, positive),
        add("negate", x),
        add("sqrt", positive),
        add("rsqrt", positive),
        add("sigmoid", x),
        add("tanh", x),
        add("exp", add("multiply", x, graph.constant(0.5))),
        add("gelu", x, tanh=False),
        add("gelu", x, tanh=True),
        add("sin", x),
        add("cos", x),
        add("floor", add("add", x, graph.constant(numbers(4, 1, seed=9)))),
        add("clamp", x, min=-0.5, max=0.7),
        add("clamp", x, min=0.0, max=math.inf),
        add("clamp", x, min=-0.3, max=math.inf),
        add("clamp", x, min=-math.inf, max=0.3),
        add("clamp", x, min=-math.inf, max=math.inf),
        add("softmax", x),
        add("reduce_mean", x),
    ]
    total = parts[0]
    for place, part in enumerate(parts[1:]):
        total = add("add", total, add("multiply", part, graph.constant([[0.5 + place / 20]])))
    return total


def off_steps(*shape: int) -> Array:
    """Away from whole numbers, where a rounding in FP16 would change a floor."""
    x = numbers(*shape)
    shift = numbers(4, 1, seed=9)
    return np.float32(np.floor(x + shift) + 0.25 + np.float32(0.5) * np.abs(np.sin(7 * x)) - shift)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [3, SEQUENCE], ids=["static", "symbolic"])
def test_elementwise_operators(config: str, target: str, size: int, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=5)
    result = elementwise(graph, graph.input("x", [size, 4, 6]), graph.input("y", [1, 6]))
    lengths = None if size > 0 else "1..5"
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config], input_lengths=lengths, options={"minimum_deployment_target": target})
    package = check_with_coremltools(path)
    assert package.inputs["x"].dtype == package.inputs["y"].dtype == "fp32"
    for length in (3,) if size > 0 else (1, 3, 5):
        inputs = {"x": off_steps(length, 4, 6), "y": numbers(1, 6, seed=1)}
        agree(run(path, inputs), graph.compute(result, inputs, length), config)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [3, SEQUENCE], ids=["static", "symbolic"])
def test_operators_that_move_values(config: str, size: int, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=5)
    x = graph.input("x", [size, 4, 6])
    add = graph.add
    turned = add("transpose", x, axes=[2, 0, 1])  # [6, size, 4]
    first = add("slice", turned, axis=0, begin=1, end=5)
    both = add("concat", first, add("slice", turned, axis=0, begin=0, end=3), axes=[0])  # [7, size, 4]
    last = add("slice", both, axis=2, begin=1, end=4)  # [7, size, 3]
    wide = add("concat", both, last, axes=[2])  # [7, size, 7]
    flat = add("reshape", add("transpose", wide, axes=[1, 0, 2]), shape=[size, 49])
    rows = add("reshape", flat, shape=[1, size, 7, 7])
    square = add("matmul", rows, rows, transpose_b=True)  # [1, size, 7, 7]
    product = add("matmul", square, graph.constant(numbers(2, 1, 7, 5) / 7), transpose_b=False)  # [2, size, 7, 5]
    result = add("reshape", product, shape=[2, size, 35])
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config], input_lengths=None if size > 0 else "1,3,5")
    check_with_coremltools(path)
    for length in (3,) if size > 0 else (1, 3, 5):
        inputs = {"x": numbers(length, 4, 6)}
        agree(run(path, inputs), graph.compute(result, inputs, length), config)


@pytest.mark.parametrize("size", [3, SEQUENCE], ids=["static", "symbolic"])
def test_gather_takes_ids_of_any_rank_and_from_any_table(size: int, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=5)
    ids = graph.input("ids", [2, size, 2], "I32")
    pairs = graph.add("reshape", ids, shape=[size, 4])
    table = graph.weight("table", numbers(7, 8))
    looked_up = graph.add("embedding", table, pairs, name="words")  # [size, 4, 8]
    other = graph.add(
        "gather", graph.constant(numbers(7, 8, seed=1)), graph.add("slice", pairs, axis=1, begin=0, end=1)
    )
    chosen = graph.add("embedding", table, graph.constant([[3], [0], [6], [1]]), name="chosen")  # [4, 1, 8]
    result = graph.add("add", graph.add("add", looked_up, other), graph.add("reshape", chosen, shape=[4, 8]))
    result = graph.add("multiply", result, graph.add("reshape", ids, shape=[size, 4, 1]))
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, FP32, input_lengths=None if size > 0 else "1..5")
    assert check_with_coremltools(path).inputs["ids"].dtype == "int32"
    for length in (3,) if size > 0 else (1, 4, 5):
        inputs = {"ids": np.random.default_rng(length).integers(0, 7, (2, length, 2))}
        agree(run(path, inputs), graph.compute(result, inputs, length), "fp32")


@pytest.mark.parametrize("config", CONFIGS)
def test_linear_layers_of_any_rank(config: str, tmp_path: Path) -> None:
    for rank in (1, 2, 3, 4, 5):
        shape = [*range(2, rank + 1), 8]
        graph = ModuleGraph()
        x = graph.input("x", shape)
        first = graph.linear(x, "first", matrix(6, 8), numbers(6))
        result = graph.linear(first, "second", matrix(4, 6))
        path = tmp_path / f"{rank}.mlpackage"
        graph.export(result, path, CONFIGS[config])
        check_with_coremltools(path)
        inputs = {"x": numbers(*shape)}
        agree(run(path, inputs), graph.compute(result, inputs), config)


@pytest.mark.parametrize("affine", [0, 1, 2])
@pytest.mark.parametrize("config", CONFIGS)
def test_layer_norms_do_not_overflow(config: str, affine: int, tmp_path: Path) -> None:
    graph = ModuleGraph()
    x = graph.input("x", [6, 64])
    weights = [graph.weight(name, numbers(64, seed=place)) for place, name in enumerate(("w", "b"))]
    result = graph.add("layer_norm", x, *weights[:affine], name="norm", epsilon=1e-5)
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config])
    package = check_with_coremltools(path)
    assert operations(package)["layer_norm"] == (config == "fp32")
    rows = numbers(6, 64)
    rows[1] *= 1e3
    rows[2] = rows[2] * 30 + 3e4  # only the sum is beyond FP16
    rows[3] *= 1e-3
    rows[4] = 2.5
    rows[5, 3] = 2e4
    x_half = rows.astype(np.float16).astype(np.float32)
    inputs = {"x": x_half}
    expected = graph.compute(result, inputs)
    found = run(path, inputs)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]], rtol=1e-2, atol=1e-2)
    if config == "fp32":
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    else:  # steps are 16 there, the deviation is 30
        assert compare(torch.from_numpy(found[2]), torch.from_numpy(expected[2]))["cosine"] > 0.97


# --- Models.


def mlp(graph: ModuleGraph, x: int, width: int = 64) -> int:
    hidden = graph.linear(x, "fc1", matrix(width, 32), numbers(width))
    hidden = graph.add("gelu", hidden, tanh=False)
    hidden = graph.layer_norm(hidden, "norm", 1 + numbers(width) / 4, numbers(width, seed=1))
    return graph.linear(hidden, "fc2", matrix(10, width), numbers(10))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("lengths", ["1..8", "2,5,8", None])
def test_mlp_with_a_symbolic_batch(config: str, lengths: str | None, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=8)
    result = mlp(graph, graph.input("x", [SEQUENCE, 32]))
    path = tmp_path / "m.mlpackage"
    metadata = graph.export(result, path, CONFIGS[config], input_lengths=lengths)
    assert not metadata["warnings"]
    feature = check_with_coremltools(path).inputs["x"]
    assert feature.dtype == "fp32"
    assert [feature.accepts((size, 32)) for size in (1, 2, 5, 8, 9)] == {
        "1..8": [True, True, True, True, False],
        "2,5,8": [False, True, True, True, False],
        None: [False, False, False, True, False],
    }[lengths]
    for size in (5, 8) if lengths else (8,):
        inputs = {"x": numbers(size, 32)}
        agree(run(path, inputs), graph.compute(result, inputs, size), config)


def quantized(graph: ModuleGraph, dtype: str, group_size: int = 0) -> dict[str, Array]:
    """The graph's weights as they are stored."""
    return {
        name: Format(dtype, group_size).dequantize(values) if values.ndim == 2 else values
        for name, values in graph.weights().items()
    }


@pytest.mark.parametrize("activations", ["fp32", "fp16"])
@pytest.mark.parametrize(("dtype", "group_size"), [("int8", 0), ("int4", 32), ("int4", 0)])
def test_integer_weights(dtype: str, group_size: int, activations: str, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=8)
    x = graph.input("x", [2, SEQUENCE, 2, 32])  # of rank 4: the second layer is a product
    result = graph.add("gelu", graph.linear(x, "fc1", matrix(64, 32), numbers(64)), tanh=True)
    rows = graph.add("reshape", result, shape=[SEQUENCE, 4 * 64])
    result = graph.linear(rows, "fc2", matrix(10, 4 * 64), numbers(10))
    groups = {"group_size": group_size} if dtype == "int4" else {}
    config = QuantizationConfig(dtype=dtype, **groups, **WEIGHT_ONLY)
    path = tmp_path / "m.mlpackage"
    metadata = graph.export(result, path, config, activation_dtype=activations, input_lengths="1..8")
    kernels = {layer["layer"]: layer["kernel"] for layer in metadata["layers"] if layer["role"] == "linear"}
    assert kernels == dict.fromkeys(("fc1", "fc2"), f"{activations} x {dtype}")
    check_with_coremltools(path)
    stored = quantized(graph, dtype, group_size)
    for length in (1, 8):
        inputs = {"x": numbers(2, length, 2, 32)}
        agree(run(path, inputs), graph.compute(result, inputs, length, stored), activations)


@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
def test_integer_weights_of_older_targets(target: str, tmp_path: Path) -> None:
    graph = ModuleGraph()
    result = mlp(graph, graph.input("x", [3, 32]))
    path = tmp_path / "m.mlpackage"
    config = QuantizationConfig(dtype="int8", **WEIGHT_ONLY)
    graph.export(result, path, config, options={"minimum_deployment_target": target})
    check_with_coremltools(path)
    inputs = {"x": numbers(3, 32)}
    agree(run(path, inputs), graph.compute(result, inputs, weights=quantized(graph, "int8")), "fp16")


WORDS, WIDTH, HEADS = 50, 32, 4


def bert(graph: ModuleGraph, batch: int, length: int, mask: bool = True) -> int:
    """Embeddings and one layer: ids [batch, length], a padding mask of numbers -> hidden states."""
    add, head = graph.add, WIDTH // HEADS
    ids, kinds = (graph.input(name, [batch, length], "I64") for name in ("input_ids", "token_type_ids"))
    words = add("embedding", graph.weight("words.weight", numbers(WORDS, WIDTH)), ids, name="words")
    types = add("embedding", graph.weight("types.weight", numbers(2, WIDTH)), kinds, name="types")
    x = add("add", add("add", words, types), graph.constant(numbers(1, length, WIDTH, seed=5)))
    x = graph.layer_norm(x, "embeddings.norm", 1 + numbers(WIDTH) / 4, numbers(WIDTH), 1e-12)

    def heads(name: str) -> int:
        flat = graph.linear(x, name, matrix(WIDTH, WIDTH, seed=len(graph.nodes)), numbers(WIDTH))
        return add("transpose", add("reshape", flat, shape=[batch, length, HEADS, head]), axes=[0, 2, 1, 3])

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = add("divide", add("matmul", query, key, transpose_b=True), graph.constant(math.sqrt(head)))
    if mask:
        keep = add("reshape", graph.input("attention_mask", [batch, length]), shape=[batch, 1, 1, length])
        away = add("subtract", graph.constant(1.0), keep)
        scores = add("add", scores, add("multiply", away, graph.constant(np.finfo(np.float32).min)))
    mixed = add("matmul", add("softmax", scores), value, transpose_b=False)
    flat = add("reshape", add("transpose", mixed, axes=[0, 2, 1, 3]), shape=[batch, length, WIDTH])
    x = graph.layer_norm(
        add("add", x, graph.linear(flat, "output", matrix(WIDTH, WIDTH), numbers(WIDTH))),
        "attention.norm",
        1 + numbers(WIDTH) / 4,
        numbers(WIDTH),
    )
    hidden = add("gelu", graph.linear(x, "up", matrix(64, WIDTH), numbers(64)), tanh=False)
    x = add("add", x, graph.linear(hidden, "down", matrix(WIDTH, 64), numbers(WIDTH)))
    return graph.layer_norm(x, "norm", 1 + numbers(WIDTH) / 4, numbers(WIDTH))


def bert_inputs(batch: int, length: int) -> dict[str, Array]:
    generator = np.random.default_rng(length)
    mask = np.ones((batch, length), np.float32)
    mask[0, length // 2 :] = 0
    return {
        "input_ids": generator.integers(0, WORDS, (batch, length)),
        "token_type_ids": generator.integers(0, 2, (batch, length)),
        "attention_mask": mask,
    }


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seq_len", [1, 9, 77], ids=lambda seq_len: f"seq_len {seq_len}")
def test_bert_layer_of_fixed_shape(config: str, seq_len: int, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=seq_len)  # which says nothing of a graph without a sequence
    result = bert(graph, 2, 9)
    path = tmp_path / "m.mlpackage"
    metadata = graph.export(result, path, CONFIGS[config], output_name="last_hidden_state")
    package = check_with_coremltools(path)
    assert {name: (feature.dtype, feature.shape) for name, feature in package.inputs.items()} == {
        "input_ids": ("int32", (2, 9)),
        "token_type_ids": ("int32", (2, 9)),
        "attention_mask": ("fp32", (2, 9)),
    }
    assert ("-30000 in FP16" in str(metadata["warnings"])) == (config == "fp16")
    assert package.metadata["com.diffulex-edge.options"].endswith("lengths=fixed")
    inputs = bert_inputs(2, 9)
    agree(run(path, inputs, "last_hidden_state"), graph.compute(result, inputs), config)


def test_rows_where_all_is_masked_have_no_nan(tmp_path: Path) -> None:
    graph = ModuleGraph()
    result = bert(graph, 1, 6)
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, FP16)
    assert np.isfinite(run(path, bert_inputs(1, 6) | {"attention_mask": np.zeros((1, 6), np.float32)})).all()


def decoder(graph: ModuleGraph, size: int, longest: int, mask: int | None, x: int | None = None) -> int:
    """A layer with grouped heads and rotary embedding on x [1, size, WIDTH]."""
    add, head, kv_heads = graph.add, WIDTH // HEADS, 2
    x = graph.input("x", [1, size, WIDTH]) if x is None else x
    angles = np.arange(longest)[:, None, None] * 0.3 ** np.arange(head // 2)[None, None]
    double = np.concatenate([angles, angles], -1)
    signs = np.repeat([-1.0, 1.0], head // 2)
    cos = graph.constant(np.cos(double), [size, 1, head])
    sin = graph.constant(np.sin(double) * signs, [size, 1, head])
    normed = add("rms_norm", x, graph.weight("norm.weight", 1 + numbers(WIDTH) / 4), name="norm", epsilon=1e-6)

    def heads(name: str, count: int) -> int:
        flat = graph.linear(normed, name, matrix(count * head, WIDTH, seed=len(name)))
        return add("reshape", flat, shape=[size, count, head])

    query = add("rope", heads("q", HEADS), cos, sin)
    key = add("rope", heads("k_proj", kv_heads), cos, sin)
    inputs = [query, key, heads("values", kv_heads), *([] if mask is None else [mask])]
    mixed = add("attention", *inputs, scale=0.4)
    x = add("add", x, graph.linear(mixed, "o", matrix(WIDTH, WIDTH)))
    gate, up = (graph.linear(x, name, matrix(48, WIDTH, seed=len(name))) for name in ("gate", "up"))
    return add("add", x, graph.linear(add("swiglu", gate, up), "down", matrix(WIDTH, 48)))


@pytest.mark.parametrize("masked", [-1e9, -math.inf, float(np.finfo(np.float32).min), -1e4])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [7, SEQUENCE], ids=["static", "symbolic"])
def test_decoder_layer_with_a_constant_mask(size: int, config: str, target: str, masked: float, tmp_path: Path) -> None:
    longest = 7
    graph = ModuleGraph(seq_len=longest)
    seen = np.where(np.tril(np.ones((longest, longest), bool)), np.float32(0), np.float32(masked))
    result = decoder(graph, size, longest, graph.constant(seen, [size, size]))
    path = tmp_path / "m.mlpackage"
    graph.export(
        result,
        path,
        CONFIGS[config],
        input_lengths=None if size > 0 else "1..7",
        options={"minimum_deployment_target": target},
    )
    check_with_coremltools(path)
    for length in (7,) if size > 0 else (1, 4, 7):
        inputs = {"x": numbers(1, length, WIDTH)}
        agree(run(path, inputs), graph.compute(result, inputs, length), config)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("config", CONFIGS)
def test_decoder_layer_with_a_mask_for_input(config: str, target: str, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=7)
    mask = graph.input("mask", [SEQUENCE, SEQUENCE])
    result = decoder(graph, SEQUENCE, 7, mask)
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config], input_lengths="1..7", options={"minimum_deployment_target": target})
    check_with_coremltools(path)
    for length in (1, 5, 7):
        away = np.float32(np.finfo(np.float32).min)
        seen = np.where(np.tril(np.ones((length, length), bool)), np.float32(0), away)
        seen[0] = away  # which leaves nothing to see
        inputs = {"x": numbers(1, length, WIDTH), "mask": seen}
        found, expected = run(path, inputs), graph.compute(result, inputs, length)
        assert np.isfinite(found).all()
        if length > 1:
            agree(found[:, 1:], expected[:, 1:], config)


@pytest.mark.parametrize("size", [7, SEQUENCE], ids=["static", "symbolic"])
def test_block_causal_masks_of_positions_in_any_form(size: int, tmp_path: Path) -> None:
    for kind in ("positions", "constant", "input"):
        graph = ModuleGraph(seq_len=7)
        x = graph.input("x", [1, size, WIDTH])
        if kind == "positions" and size > 0:
            continue  # they are those of a sequence
        if kind == "input":
            source = graph.input("position_ids", [size], "I32")
        else:
            source = graph.add("positions", x) if kind == "positions" else graph.constant(np.arange(7) + 5, [size])
        result = decoder(graph, size, 7, graph.add("block_causal_mask", source, block_length=3), x)
        path = tmp_path / f"{kind}.mlpackage"
        graph.export(result, path, FP32, input_lengths=None if size > 0 else "1..7")
        check_with_coremltools(path)
        for length in (7,) if size > 0 else (1, 4, 7):
            inputs = {"x": numbers(1, length, WIDTH)}
            if kind == "input":
                inputs["position_ids"] = np.arange(length)[::-1].copy()
            agree(run(path, inputs), graph.compute(result, inputs, length), "fp32")


# --- Values that depend only on the length.


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("lengths", ["1..6", "2,6", None])
def test_constants_are_cut_along_their_sequence(config: str, lengths: str | None, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=6)
    add = graph.add
    x = graph.input("x", [3, SEQUENCE, 4])
    positions = add("positions", x)
    column = add("reshape", positions, shape=[SEQUENCE, 1])
    distance = add("subtract", column, add("reshape", positions, shape=[1, SEQUENCE]))  # [seq, seq]
    waves = add("sin", add("multiply", distance, graph.constant([0.1])))
    middle = graph.constant(numbers(3, 6, 4), [3, SEQUENCE, 4])
    last = graph.constant(numbers(4, 6), [4, SEQUENCE])
    fixed = graph.constant(numbers(6, 1, 4), [6, 1, 4])  # as long as the longest sequence, and none
    table = add("position_table", x, graph.constant(numbers(6, 4, seed=2)))
    # The elements of several positions mixed: what is left of it for a shorter sequence is no part of the whole.
    mixed = add("reshape", add("multiply", last, graph.constant(0.5)), shape=[SEQUENCE, 4])
    grown = add("exp", add("multiply", column, graph.constant(-0.1)))  # known, and no value that is stored
    total = add("add", add("add", x, middle), add("add", table, mixed))
    total = add("multiply", total, grown)
    total = add("add", total, add("matmul", waves, x, transpose_b=False))
    total = add("add", total, add("transpose", last, axes=[1, 0]))
    result = add("add", add("reshape", total, shape=[1, 3, SEQUENCE, 4]), add("reshape", fixed, shape=[6, 1, 1, 4]))
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config], input_lengths=lengths)
    check_with_coremltools(path)
    for length in (2, 6) if lengths else (6,):
        inputs = {"x": numbers(3, length, 4)}
        agree(run(path, inputs), graph.compute(result, inputs, length), config)


def test_outputs_that_are_inputs_or_constants(tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=4)
    x = graph.input("x", [SEQUENCE, 2])
    constant = graph.constant(numbers(4, 2), [SEQUENCE, 2])
    positions = graph.add("positions", x)
    for place, output in enumerate((x, constant, positions)):
        for config in CONFIGS:
            for lengths in (None, "1..4"):
                path = tmp_path / f"{place}-{config}-{lengths}.mlpackage"
                graph.export(output, path, CONFIGS[config], input_lengths=lengths)
                check_with_coremltools(path)
                inputs = {"x": numbers(4, 2)}
                agree(run(path, inputs), graph.compute(output, inputs, 4), config)


# --- What the package says, and what is refused.


def test_names_that_core_ml_does_not_take_are_changed_and_said(tmp_path: Path) -> None:
    graph = ModuleGraph()
    x, y = graph.input("state", [2, 4]), graph.input("x.1", [2, 4])
    hidden = graph.linear(graph.add("add", x, y), "result", matrix(4, 4))  # a layer named as the output is
    path = tmp_path / "m.mlpackage"
    metadata = graph.export(graph.add("tanh", hidden, name="fp16"), path, FP32)
    package = check_with_coremltools(path)
    assert list(package.inputs) == ["state_", "x_1"]
    assert [warning.split(":")[-1].strip() for warning in metadata["warnings"]] == [
        "it is called 'state_'",
        "it is called 'x_1'",
    ]
    inputs = {"state": numbers(2, 4), "x.1": numbers(2, 4, seed=1)}
    expected = graph.compute(4 + 1, inputs)
    agree(run(path, {"state_": inputs["state"], "x_1": inputs["x.1"]}), expected, "fp32")


def refused(graph: ModuleGraph, output: int, path: Path, config: Any = FP32, **options: Any) -> str:
    with pytest.raises((UnsupportedError, InvalidArgumentError)) as error:
        graph.export(output, path, config, **options)
    assert not path.exists()
    return str(error.value)


def test_refusals_are_clear(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    graph = ModuleGraph(seq_len=4)
    x = graph.input("x", [2, 3])
    assert "every shape of this model is fixed" in refused(graph, graph.add("exp", x), path, input_lengths="1..4")
    big = graph.add("add", x, graph.constant(1e5))
    assert "constant: has values beyond FP16 (65504)" in refused(graph, big, path, FP16)
    deep = ModuleGraph(seq_len=4)
    reshaped = deep.add("reshape", deep.input("x", [2, 3]), shape=[1, 2, 1, 3, 1, 1])
    assert "Core ML takes at most 5 dimensions" in refused(deep, reshaped, path)
    ids = graph.add("embedding", graph.weight("t", numbers(4, 4)), graph.add("floor", x), name="t")
    assert "its ids are computed numbers" in refused(graph, ids, path)
    several = ModuleGraph(seq_len=4)
    both = several.add("add", several.input("x", [SEQUENCE, 3]), several.input("y", [SEQUENCE, 3]))
    old = {"minimum_deployment_target": "iOS17"}
    assert "several inputs with enumerated lengths" in refused(several, both, path, input_lengths="2,4", options=old)
    several.export(both, path, FP32, input_lengths="2,4")
    check_with_coremltools(path)


# --- Parts.


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seq_len", [1, 9])
def test_parts_of_a_model_with_several_inputs(config: str, seq_len: int, tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=seq_len)
    result = bert(graph, 1, 9, mask=False)
    path = tmp_path / "m.mlpackage"
    graph.export(result, path, CONFIGS[config], options={"chunk_size": "40000" if config == "fp32" else "20000"})
    package = check_with_coremltools(path)
    assert len(package.programs) > 1
    inputs = {name: value for name, value in bert_inputs(1, 9).items() if name != "attention_mask"}
    agree(run(path, inputs), graph.compute(result, inputs), config)


def test_a_mask_that_every_layer_takes_is_not_parted(tmp_path: Path) -> None:
    graph = ModuleGraph(seq_len=7)
    mask = graph.input("mask", [SEQUENCE, SEQUENCE])
    result = decoder(graph, SEQUENCE, 7, mask)
    message = refused(graph, result, tmp_path / "m.mlpackage", options={"chunk_size": "5000"})
    assert "what can't be parted from it take" in message
