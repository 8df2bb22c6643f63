"""Graphs of torch modules through the QNN backend: every operator on the CPU, whole layers in the NPU's emulator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest
from graph_builder import GraphBuilder, export_graph, quantization
from module_graphs import Array
from qnn import QnnArtefact, npu_session

from diffulex_edge import InvalidArgumentError, UnsupportedError

Feeds = dict[str, Array]
COMPILER: Final = {"soc": "SM8550", "qnn_python": sys.executable}
SOURCE: Final = np.random.default_rng(0)
FIRST_STATE: Final = SOURCE.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """A test's numbers are its own, whichever tests this process ran before."""
    SOURCE.bit_generator.state = FIRST_STATE


def floats(*shape: int, scale: float = 1.0) -> Array:
    return (SOURCE.normal(size=shape) * scale).astype(np.float32)


def ids(most: int, *shape: int) -> Array:
    return SOURCE.integers(0, most, shape).astype(np.int32)


class Case:
    """A graph with its inputs: floats, or ids below the number that is given with their shape."""

    def __init__(self) -> None:
        self.graph = GraphBuilder()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.rows: dict[str, int] = {}
        self.output = -1
        self.positive = False
        self.fixed: Feeds = {}

    def x(self, *shape: int) -> int:
        name = f"x{len(self.shapes)}"
        self.shapes[name] = shape
        return self.graph.input(name, shape)

    def ids(self, rows: int, *shape: int) -> int:
        name = f"ids{len(self.shapes)}"
        self.shapes[name], self.rows[name] = shape, rows
        return self.graph.input(name, shape, dtype="I64")

    def feeds(self) -> Feeds:
        made: Feeds = {}
        for name, shape in self.shapes.items():
            made[name] = ids(self.rows[name], *shape) if name in self.rows else floats(*shape)
            if self.positive and name not in self.rows:
                made[name] = np.abs(made[name]) + np.float32(0.25)
        return made | self.fixed


MODES: Final[dict[str, tuple[dict[str, object], str | None, float]]] = {
    "fp32": ({}, None, 1e-5),
    "fp16": ({"dtype": "fp16", "embedding_dtype": "fp16"}, "fp16", 1e-2),
    "a16w8": ({"dtype": "int8", "mode": "static"}, None, 2e-3),
}


def run_on_cpu(folder: Path, feeds: Mapping[str, Array]) -> Array:
    artefact = QnnArtefact(folder)
    artefact.check()
    session = onnxruntime.InferenceSession(artefact.paths[0], providers=["CPUExecutionProvider"])
    (value,) = session.run(["output"], dict(feeds))
    return np.asarray(value)


def run_on_npu(folder: Path, feeds: Mapping[str, Array]) -> Array:
    (context,) = QnnArtefact(folder).manifest["contexts"]
    (value,) = npu_session(folder, context).run(["output"], dict(feeds))
    return np.asarray(value)


def compare(found: Array, expected: Array) -> tuple[float, float]:
    """The cosine of both, and the greatest difference in terms of the greatest number."""
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    assert found.shape == expected.shape
    assert np.isfinite(a).all()
    return a @ b / np.sqrt((a @ a) * (b @ b)), np.abs(a - b).max() / np.abs(b).max()


def config_of(case: Case, mode: str, feeds: list[Feeds], **changes: object) -> Any:
    settings = MODES[mode][0] | changes
    if settings.get("mode") == "static":
        settings["graph_activations"] = case.graph.activations(feeds)
    return quantization(**settings)


def unary(op: str, *shape: int, positive: bool = False, **attributes: object) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        case.positive = positive
        return case.graph.add(op, case.x(*shape), **attributes)

    return build


def binary(op: str, a: tuple[int, ...], b: tuple[int, ...], **attributes: object) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        case.positive = op == "divide"
        return case.graph.add(op, case.x(*a), case.x(*b), **attributes)

    return build


def with_constant(op: str, shape: tuple[int, ...], constant: Any) -> Callable[[Case], int]:
    return lambda case: case.graph.add(op, case.x(*shape), case.graph.constant(constant))


def scores_with(mask: Any, as_input: bool = False, compute: bool = False) -> Callable[[Case], int]:
    """What an encoder does: softmax(scores + mask)."""

    def build(case: Case) -> int:
        graph = case.graph
        scores = case.x(2, 4, 4)
        array = np.asarray(mask, np.float32)
        if not as_input and not compute:
            return graph.add("softmax", graph.add("add", scores, graph.constant(array)))
        given = graph.input("mask", array.shape)
        case.fixed = {"mask": array}
        if compute:
            hidden = graph.add("subtract", graph.constant(np.ones(1)), given)
            given = graph.add("multiply", hidden, graph.constant(np.array([-1e9])))
        return graph.add("softmax", graph.add("add", scores, given))

    return build


def attention(mask: str | None, length: int = 6, heads: int = 4, key_heads: int = 2) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        graph = case.graph
        qkv = [case.x(length, count, 8) for count in (heads, key_heads, key_heads)]
        far = np.finfo(np.float32).min
        hidden = np.triu(np.full((length, length), far, np.float32), 1)
        if mask == "input":
            case.fixed = {"mask": hidden}
            qkv.append(graph.input("mask", (length, length)))
        elif mask == "constant":
            qkv.append(graph.constant(hidden))
        elif mask == "slopes":
            qkv.append(graph.constant(-0.5 * np.abs(np.subtract.outer(np.arange(length), np.arange(length)))))
        elif mask == "block":
            places = graph.constant(np.arange(length))
            qkv.append(graph.add("block_causal_mask", places, block_length=2))
        return graph.add("attention", *qkv, scale=8**-0.5)

    return build


def rope(case: Case) -> int:
    angles = np.outer(np.arange(5), np.repeat([0.5, 0.1], 2))[:, None]
    tables = [case.graph.constant(np.cos(angles)), case.graph.constant(np.sin(angles) * [-1, -1, 1, 1])]
    return case.graph.add("rope", case.x(5, 3, 4), *tables)


def normed(op: str, *shape: int, vectors: int) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        graph = case.graph
        weights = [graph.weight(f"norm.{index}", floats(shape[-1])) for index in range(vectors)]
        return graph.add(op, case.x(*shape), *weights, name="norm", epsilon=1e-5)

    return build


def linear(*shape: int, bias: bool = True, last: bool = False) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        made = case.graph.linear(case.x(*shape), "proj", floats(24, shape[-1]), floats(24) if bias else None)
        return made if last else case.graph.add("tanh", made)

    return build


def embedding(*shape: int) -> Callable[[Case], int]:
    def build(case: Case) -> int:
        table = case.graph.weight("table", floats(10, 16))
        return case.graph.add("embedding", table, case.ids(10, *shape), name="embedding")

    return build


def gather_of_moved_ids(case: Case) -> int:
    graph = case.graph
    moved = graph.add("slice", graph.add("transpose", case.ids(5, 3, 4), axes=[1, 0]), axis=0, begin=1, end=3)
    return graph.add("gather", case.x(5, 8), graph.add("concat", moved, moved, axes=[1]))


def numbers_of_ids(case: Case) -> int:
    return case.graph.add("multiply", case.x(2, 3), case.ids(40, 1, 3))


def halves_floored(case: Case) -> int:
    """Far from integers, where a step of 16 bits would decide."""
    places = case.graph.constant(np.arange(-4, 5) + 0.5)
    return case.graph.add("floor", case.graph.add("add", case.graph.add("clamp", case.x(3, 9), min=0, max=0), places))


def clamp_nothing(case: Case) -> int:
    infinity = float("inf")
    return case.graph.add("tanh", case.graph.add("clamp", case.x(3, 4), min=-infinity, max=infinity))


def constant_alone(case: Case) -> int:
    tanh = case.graph.add("tanh", case.graph.constant(floats(4, 1)))
    return case.graph.add("add", case.x(2, 4, 3), tanh)


def same_names(case: Case) -> int:
    """Layers called as inputs and outputs are."""
    graph = case.graph
    x = case.x(3, 8)
    hidden = graph.linear(x, "output", floats(8, 8))
    return graph.linear(graph.add("exp", hidden), "x0", floats(8, 8, scale=0.1))


def unused(case: Case) -> int:
    case.x(7)
    case.graph.add("tanh", case.x(2, 2))
    return case.graph.add("tanh", case.x(3, 4))


HIDING: Final = np.triu(np.full((4, 4), np.finfo(np.float32).min), 1)
INFINITE: Final = np.triu(np.full((4, 4), -np.inf), 1)
CASES: Final[dict[str, Callable[[Case], int]]] = {
    "add to a row": binary("add", (2, 3, 8), (8,)),
    "add both ways": binary("add", (2, 1, 8), (3, 1)),
    "add a scalar": with_constant("add", (2, 3), np.array(1.5)),
    "subtract from less": binary("subtract", (3, 1), (2, 3, 8)),
    "multiply": binary("multiply", (1, 5, 8), (1, 5, 8)),
    "multiply by a constant": with_constant("multiply", (2, 3, 4, 5), floats(3, 1, 5)),
    "divide": binary("divide", (2, 3, 8), (3, 1)),
    "negate": unary("negate", 6),
    "square": unary("square", 3, 1, 5),
    "sqrt": unary("sqrt", 3, 5, positive=True),
    "rsqrt": unary("rsqrt", 3, 5, positive=True),
    "sigmoid": unary("sigmoid", 1, 3, 5),
    "tanh": unary("tanh", 2, 3, 5),
    "exp": unary("exp", 2, 3, 5),
    "gelu": unary("gelu", 2, 3, 5, tanh=False),
    "gelu by tanh": unary("gelu", 5, 16, tanh=True),
    "sin": unary("sin", 7),
    "cos": unary("cos", 7),
    "floor": halves_floored,
    "clamp": unary("clamp", 3, 4, min=-0.5, max=0.75),
    "relu": unary("clamp", 3, 4, min=0.0, max=float("inf")),
    "clamp from above": unary("clamp", 3, 4, min=float("-inf"), max=0.25),
    "clamp nothing": clamp_nothing,
    "reduce_mean": unary("reduce_mean", 2, 3, 8),
    "reduce_mean of a row": unary("reduce_mean", 8),
    "softmax": unary("softmax", 2, 3, 8),
    "matmul": binary("matmul", (3, 8), (8, 5), transpose_b=False),
    "matmul of batches": binary("matmul", (2, 1, 3, 8), (4, 8, 5), transpose_b=False),
    "matmul transposed": binary("matmul", (1, 3, 8), (2, 5, 8), transpose_b=True),
    "matmul with a constant": lambda case: case.graph.add(
        "matmul", case.x(2, 3, 8), case.graph.constant(floats(5, 8)), transpose_b=True
    ),
    "reshape": unary("reshape", 2, 3, 4, shape=[4, 6]),
    "transpose": unary("transpose", 2, 3, 4, 5, axes=[2, 0, 3, 1]),
    "transpose one row": unary("transpose", 1, 3, 4, axes=[1, 0, 2]),
    "slice first": unary("slice", 4, 3, 2, axis=0, begin=1, end=3),
    "slice middle": unary("slice", 1, 6, 2, axis=1, begin=2, end=5),
    "slice last": unary("slice", 3, 6, axis=1, begin=5, end=6),
    "concat first": binary("concat", (1, 3, 4), (2, 3, 4), axes=[0]),
    "concat last": binary("concat", (1, 3, 4), (1, 3, 2), axes=[2]),
    "gather": lambda case: case.graph.add("gather", case.x(5, 8), case.ids(5, 2, 3)),
    "gather from a constant": lambda case: case.graph.add("gather", case.graph.constant(floats(5, 8)), case.ids(5, 4)),
    "gather by a constant": lambda case: case.graph.add("gather", case.x(5, 8), case.graph.constant([[3, 1], [0, 4]])),
    "gather by moved ids": gather_of_moved_ids,
    "embedding of a row": embedding(4),
    "embedding": embedding(1, 4),
    "embedding of a cube": embedding(2, 3, 2),
    "layer_norm": normed("layer_norm", 2, 3, 32, vectors=2),
    "layer_norm without bias": normed("layer_norm", 4, 16, vectors=1),
    "layer_norm alone": normed("layer_norm", 1, 4, 16, vectors=0),
    "rms_norm": normed("rms_norm", 2, 3, 32, vectors=1),
    "linear": linear(2, 3, 32),
    "linear of a row": linear(32),
    "linear without bias": linear(1, 3, 32, bias=False),
    "linear last": linear(2, 3, 32, bias=False, last=True),
    "rope": rope,
    "swiglu": binary("swiglu", (2, 3, 8), (2, 3, 8)),
    "attention": attention(None),
    "attention, mask as input": attention("input"),
    "attention, constant mask": attention("constant"),
    "attention, slopes": attention("slopes"),
    "attention, block mask": attention("block"),
    "scores, constant mask": scores_with(HIDING),
    "scores, infinite mask": scores_with(INFINITE),
    "scores, mask as input": scores_with(HIDING[-1:] + HIDING[1], as_input=True),
    "scores, computed mask": scores_with([[1, 0, 1, 1]], compute=True),
    "constant alone": constant_alone,
    "same names": same_names,
    "unused values": unused,
    "numbers": numbers_of_ids,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_every_operator_computes_what_numpy_does(name: str, mode: str, tmp_path: Path) -> None:
    case = Case()
    case.output = CASES[name](case)
    feeds = case.feeds()
    export_graph(
        case.graph.native(case.output, "output"), tmp_path / "m", config_of(case, mode, [feeds]), MODES[mode][1]
    )
    expected = case.graph.compute(case.output, feeds, case.graph.length(feeds))
    cosine, worst = compare(run_on_cpu(tmp_path / "m", feeds), expected)
    has_int8_weights = mode == "a16w8" and any(node.op in ("linear", "embedding") for node in case.graph.nodes)
    assert worst <= (0.1 if has_int8_weights else MODES[mode][2])
    assert cosine >= 1 - 1e-3


def mlp(case: Case) -> None:
    graph = case.graph
    hidden = graph.layer_norm(case.x(5, 64), "norm", 1 + floats(64, scale=0.1), floats(64, scale=0.1))
    hidden = graph.add("gelu", graph.linear(hidden, "up", floats(128, 64, scale=0.1), floats(128)), tanh=False)
    case.output = graph.linear(hidden, "down", floats(32, 128, scale=0.1), floats(32))


def bert_layer(case: Case) -> None:
    """Embeddings, one encoder layer with a padded token, and the pooler."""
    graph, length, width, heads = case.graph, 12, 64, 4
    case.fixed = {"attention_mask": np.ones((1, length), np.float32)}
    case.fixed["attention_mask"][0, -2:] = 0

    def norm(name: str, x: int) -> int:
        return graph.layer_norm(x, name, 1 + floats(width, scale=0.1), floats(width, scale=0.1), 1e-12)

    def dense(name: str, x: int, rows: int = width, columns: int = width) -> int:
        return graph.linear(x, name, floats(rows, columns, scale=columns**-0.5), floats(rows, scale=0.1))

    def by_head(name: str) -> int:
        split = graph.add("reshape", dense(name, stream), shape=[1, length, heads, width // heads])
        return graph.add("transpose", split, axes=[0, 2, 1, 3])

    words = graph.add("embedding", graph.weight("words", floats(50, width)), case.ids(50, 1, length), name="words")
    types = graph.add("embedding", graph.weight("types", floats(2, width)), case.ids(2, 1, length), name="types")
    places = graph.constant(floats(1, length, width))
    stream = norm("embeddings.norm", graph.add("add", graph.add("add", words, types), places))
    hidden = graph.add("subtract", graph.constant([1.0]), graph.input("attention_mask", (1, length)))
    mask = graph.add("multiply", hidden, graph.constant([np.finfo(np.float32).min]))
    mask = graph.add("reshape", mask, shape=[1, 1, 1, length])
    query, key, value = (by_head(name) for name in ("query", "key", "value"))
    scores = graph.add("divide", graph.add("matmul", query, key, transpose_b=True), graph.constant([4.0]))
    shares = graph.add("softmax", graph.add("add", scores, mask))
    mixed = graph.add("transpose", graph.add("matmul", shares, value, transpose_b=False), axes=[0, 2, 1, 3])
    joined = graph.add("reshape", mixed, shape=[1, length, width])
    stream = norm("attention.norm", graph.add("add", dense("attention.output", joined), stream))
    between = graph.add("gelu", dense("intermediate", stream, 2 * width), tanh=False)
    stream = norm("output.norm", graph.add("add", dense("output", between, width, 2 * width), stream))
    first = graph.add("reshape", graph.add("slice", stream, axis=1, begin=0, end=1), shape=[1, width])
    case.output = graph.add("tanh", dense("pooler", first))


@pytest.mark.parametrize(("mode", "cosine"), [("fp32", 0.9999), ("fp16", 0.9999), ("a16w8", 0.999)])
@pytest.mark.parametrize("build", [mlp, bert_layer])
def test_whole_modules_run_on_the_npu(build: Callable[[Case], None], mode: str, cosine: float, tmp_path: Path) -> None:
    case = Case()
    build(case)
    feeds = [case.feeds() for _ in range(8)]
    config = config_of(case, mode, feeds)
    metadata = export_graph(
        case.graph.native(case.output, "output"), tmp_path / "m", config, MODES[mode][1], **COMPILER
    )
    assert metadata["placement"]["host"] == {}
    for each in feeds[:2]:
        expected = case.graph.compute(case.output, each, case.graph.length(each))
        assert compare(run_on_cpu(tmp_path / "m", each), expected)[0] >= cosine
        assert compare(run_on_npu(tmp_path / "m", each), expected)[0] >= cosine


ON_NPU: Final = (
    "gelu by tanh", "layer_norm alone", "rms_norm", "attention, mask as input", "attention, slopes", "numbers",
    "attention, constant mask", "matmul transposed", "concat first", "gather by moved ids", "rsqrt", "clamp",
    "scores, infinite mask", "unused values", "embedding of a cube", "linear last",
)  # fmt: skip


@pytest.mark.parametrize("mode", ["fp16", "a16w8"])
@pytest.mark.parametrize("name", ON_NPU)
def test_operators_run_on_the_npu(name: str, mode: str, tmp_path: Path) -> None:
    case = Case()
    case.output = CASES[name](case)
    feeds = case.feeds()
    config = config_of(case, mode, [feeds])
    export_graph(case.graph.native(case.output, "output"), tmp_path / "m", config, MODES[mode][1], **COMPILER)
    expected = case.graph.compute(case.output, feeds, case.graph.length(feeds))
    assert compare(run_on_npu(tmp_path / "m", feeds), expected)[0] >= 0.999


def test_inputs_and_output_keep_names_and_shapes(tmp_path: Path) -> None:
    case = Case()
    bert_layer(case)
    export_graph(case.graph.native(case.output, "pooled"), tmp_path / "m", quantization())
    (model,) = QnnArtefact(tmp_path / "m").manifest["models"]
    found = [(each["name"], each["dtype"], each["shape"]) for each in (*model["inputs"], *model["outputs"])]
    assert found == [
        ("ids0", "int32", [1, 12]),
        ("ids1", "int32", [1, 12]),
        ("attention_mask", "float32", [1, 12]),
        ("pooled", "float32", [1, 64]),
    ]


@pytest.mark.parametrize(("options", "word"), [({"embedding_on": "host"}, "embedding"), ({"shards": "2"}, "shards")])
def test_cuts_that_a_module_does_not_allow_are_refused(options: dict[str, str], word: str, tmp_path: Path) -> None:
    case = Case()
    mlp(case)
    with pytest.raises(UnsupportedError, match=word):
        export_graph(case.graph.native(case.output, "output"), tmp_path / "m", quantization(), **options)
    assert not (tmp_path / "m").exists()


def test_static_needs_the_ranges_of_this_graph(tmp_path: Path) -> None:
    case = Case()
    mlp(case)
    feeds = case.feeds()
    activations = case.graph.activations([feeds])
    activations.values.pop()
    for given in (None, activations):
        config = quantization(dtype="int8", mode="static", graph_activations=given)
        with pytest.raises(InvalidArgumentError, match=r"the ranges of (all )?activations"):
            export_graph(case.graph.native(case.output, "output"), tmp_path / "m", config)


def test_an_output_called_as_an_input_is_refused(tmp_path: Path) -> None:
    case = Case()
    output = case.graph.add("tanh", case.x(3))
    with pytest.raises(InvalidArgumentError, match="x0"):
        export_graph(case.graph.native(output, "x0"), tmp_path / "m", quantization())
