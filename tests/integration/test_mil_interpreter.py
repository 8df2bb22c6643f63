"""The interpreter of Core ML packages, on models that coremltools makes and on each operator by itself."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from coreml_check import check_with_coremltools
from coremltools_alone import Builder, MIL_pb2, ct, cto, types
from families import compare
from mil_interpreter import Interpreter
from mil_operators import OPERATORS, TORCH_TYPES
from mil_programs import TARGETS, Floats, build, random_array
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated")

VOCAB, HIDDEN, HEADS, WIDTH = 96, 64, 4, 160

# --- Models that coremltools makes.


class Transformer(nn.Module):
    """One layer of a transformer, ids [1, seq] -> logits [1, seq, VOCAB], with nothing that asks for a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.norm = nn.Parameter(1 + 0.2 * torch.randn(HIDDEN))
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.output = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate, self.up = (nn.Linear(HIDDEN, WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def _normed(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.norm

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        normed = self._normed(x)
        query, key, value = (
            layer(normed).reshape(1, -1, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(attended.transpose(1, 2).reshape(1, -1, HIDDEN))
        normed = self._normed(x)
        x = x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))
        return self.head(self._normed(x))


PRECISIONS: Final = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
SHAPES: Final[dict[str, Callable[[], Any]]] = {
    "fixed": lambda: (1, 12),
    "enumerated": lambda: ct.EnumeratedShapes([(1, 12), (1, 5), (1, 30)], default=(1, 12)),
    "range": lambda: ct.Shape((1, ct.RangeDim(2, 64, default=12))),
}
TAKEN: Final = {"fixed": (12,), "enumerated": (5, 12, 30), "range": (2, 12, 64)}
REFUSED: Final = {"fixed": (11, 13), "enumerated": (4, 13), "range": (1, 65)}


@dataclass(frozen=True)
class Converted:
    """The torch model, and its conversions: `package(target, precision, shape)`, each made once."""

    model: Transformer
    folder: Path

    def logits(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(ids[None])[0]

    def package(self, target: str, precision: str, shape: str) -> Path:
        path = self.folder / f"{target}-{precision}-{shape}.mlpackage"
        if not path.exists():
            traced = torch.jit.trace(self.model, torch.zeros(1, 12, dtype=torch.long))
            converted = ct.convert(
                traced,
                inputs=[ct.TensorType("input_ids", SHAPES[shape](), dtype=np.int32)],
                outputs=[ct.TensorType("logits", dtype=np.float32)],
                minimum_deployment_target=TARGETS[target],
                compute_precision=PRECISIONS[precision],
                skip_model_load=True,
            )
            converted.save(str(path))
        return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(0)
    return Converted(Transformer().eval(), tmp_path_factory.mktemp("converted"))


def ids_of(length: int) -> Tensor:
    """Token ids [length], the same ones for the same length."""
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length))


CONVERSIONS: Final = (
    "iOS16-fp32-range",
    "iOS16-fp16-fixed",
    "iOS17-fp32-range",
    "iOS17-fp16-enumerated",
    "iOS18-fp32-range",
    "iOS18-fp16-range",
    "iOS18-fp32-fixed",
)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_agrees_with_torch(name: str, converted: Converted) -> None:
    target, precision, shape = name.split("-")
    interpreter = Interpreter(check_with_coremltools(converted.package(target, precision, shape)))
    for length in TAKEN[shape]:
        agreement = compare(interpreter.logits(ids_of(length)), converted.logits(ids_of(length)))
        if precision == "fp32":
            assert agreement["max_abs"] < 1e-5
        else:
            assert agreement["max_abs"] > 1e-5  # it is FP16 that was computed
            assert agreement["cosine"] >= 0.99999
    for length in REFUSED[shape]:
        with pytest.raises(ValueError, match="is no input"):
            interpreter.logits(ids_of(length))


@dataclass(frozen=True)
class Compression:
    """How coremltools compresses weights: the operator that it uses, and the cosine that weights and logits keep."""

    compress: Callable[..., Any]
    config: Any
    operator: str
    cosine: float

    def write(self, source: Path, target: Path) -> None:
        model = ct.models.MLModel(str(source), skip_model_load=True)
        self.compress(model, cto.OptimizationConfig(global_config=self.config)).save(str(target))


def quantized(operator: str, cosine: float, **options: Any) -> Compression:
    config = cto.OpLinearQuantizerConfig(weight_threshold=0, **options)
    return Compression(cto.linear_quantize_weights, config, operator, cosine)


def palettized(bits: int, cosine: float, **options: Any) -> Compression:
    config = cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0, **options)
    return Compression(cto.palettize_weights, config, "constexpr_lut_to_dense", cosine)


AFFINE, BLOCKWISE = "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"
BLOCKS: Final = {"granularity": "per_block", "block_size": 32}

COMPRESSIONS: Final = {
    "iOS16-int8": quantized(AFFINE, 0.9999, dtype="int8", mode="linear_symmetric"),
    "iOS16-uint8": quantized(AFFINE, 0.9999, dtype="uint8", mode="linear"),
    "iOS17-int8": quantized(AFFINE, 0.9999, dtype="int8", mode="linear_symmetric"),
    "iOS18-int8": quantized(BLOCKWISE, 0.9999, dtype="int8", mode="linear_symmetric"),
    "iOS18-int4": quantized(BLOCKWISE, 0.99, dtype="int4", mode="linear_symmetric", **BLOCKS),
    "iOS18-uint4": quantized(BLOCKWISE, 0.99, dtype="uint4", mode="linear", **BLOCKS),
    "iOS16-palette of 16": palettized(4, 0.97),
    "iOS16-palette of 64": palettized(6, 0.998),
    "iOS17-palette of 4": palettized(2, 0.7),
    "iOS18-palette of 8": palettized(3, 0.9),
    "iOS18-palette of 16 for 16 rows": palettized(4, 0.98, granularity="per_grouped_channel", group_size=16),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_are_near_the_original_ones(name: str, converted: Converted, tmp_path: Path) -> None:
    compression = COMPRESSIONS[name]
    path = tmp_path / "compressed.mlpackage"
    compression.write(converted.package(name.split("-")[0], "fp32", "range"), path)
    decompressed: list[Tensor] = []

    def observe(operation: MIL_pb2.Operation, result: Tensor) -> None:
        if operation.type == compression.operator:
            decompressed.append(result)

    logits = Interpreter(check_with_coremltools(path), observe).logits(ids_of(37))
    assert compression.cosine <= compare(logits, converted.logits(ids_of(37)))["cosine"] < 0.999999

    # They are those of a torch model that has the decompressed weights, each of which is near its original.
    replaced = Transformer()
    replaced.load_state_dict(converted.model.state_dict())
    weights = [module.weight for module in replaced.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    assert len(decompressed) == len(weights)
    for weight in weights:
        alike = [found for found in decompressed if found.shape == weight.shape]
        nearest = max(alike, key=lambda found: compare(found, weight.detach())["cosine"])
        assert compare(nearest, weight.detach())["cosine"] >= compression.cosine
        weight.data = nearest
    with torch.no_grad():
        assert compare(logits, replaced(ids_of(37)[None])[0])["max_abs"] < 1e-5


# --- Programs of our own.


X: Final = random_array(2, 3, 4)
INTEGERS: Final = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)

# Operators with constant arguments, for which coremltools computes the value itself.
CASES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("add", {"x": X, "y": X[:, :1]}),
    ("sub", {"x": X, "y": X[:1]}),
    ("mul", {"x": X, "y": np.float32(3)}),
    ("real_div", {"x": X, "y": np.abs(X[0]) + 1}),
    ("maximum", {"x": X, "y": np.float32(0.3)}),
    ("minimum", {"x": X, "y": np.float32(0.3)}),
    ("pow", {"x": np.abs(X), "y": np.float32(2.5)}),
    ("floor_div", {"x": INTEGERS, "y": np.int32(5)}),
    ("mod", {"x": INTEGERS, "y": np.int32(5)}),
    ("greater", {"x": X, "y": np.float32(0)}),
    ("greater_equal", {"x": INTEGERS, "y": INTEGERS[:1]}),
    ("less", {"x": X, "y": np.float32(0)}),
    ("less_equal", {"x": INTEGERS, "y": np.int32(3)}),
    ("equal", {"x": INTEGERS, "y": np.int32(3)}),
    ("not_equal", {"x": INTEGERS, "y": np.int32(3)}),
    ("logical_and", {"x": X > 0, "y": X[:1] > 0}),
    ("logical_or", {"x": X > 0, "y": X[:1] > 0}),
    ("logical_not", {"x": X > 0}),
    ("abs", {"x": X}),
    ("exp", {"x": X}),
    ("floor", {"x": 3 * X}),
    ("gelu", {"x": X}),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    ("square", {"x": X}),
    ("sqrt", {"x": np.abs(X)}),
    ("rsqrt", {"x": np.abs(X), "epsilon": np.float32(0.5)}),
    ("rsqrt", {"x": np.abs(X) + 0.1}),
    ("sin", {"x": X}),
    ("cos", {"x": X}),
    ("tanh", {"x": X}),
    ("relu", {"x": X}),
    ("sigmoid", {"x": X}),
    ("clip", {"x": X, "alpha": np.float32(-0.5), "beta": np.float32(0.7)}),
    ("cast", {"x": 3 * X, "dtype": "int32"}),
    ("cast", {"x": INTEGERS, "dtype": "bool"}),
    ("cast", {"x": X, "dtype": "fp16"}),
    ("select", {"cond": X > 0, "a": X, "b": np.float32(-7)}),
    ("reduce_mean", {"x": X, "axes": [-1], "keep_dims": True}),
    ("reduce_mean", {"x": X, "axes": [0, 2]}),
    ("reduce_sum", {"x": X}),
    ("reduce_max", {"x": X, "axes": [1], "keep_dims": True}),
    ("reduce_min", {"x": X, "axes": [-1]}),
    ("softmax", {"x": X}),
    ("softmax", {"x": X, "axis": 1}),
    ("layer_norm", {"x": X, "axes": [-1], "gamma": random_array(4), "beta": random_array(4), "epsilon": 1e-3}),
    ("linear", {"x": X, "weight": random_array(5, 4), "bias": random_array(5)}),
    ("linear", {"x": X[0], "weight": random_array(5, 4)}),
    ("matmul", {"x": X, "y": random_array(4, 6)}),
    ("matmul", {"x": X[:, None], "y": random_array(1, 5, 6, 4), "transpose_y": True}),
    ("matmul", {"x": X, "y": random_array(2, 3, 5), "transpose_x": True}),
    ("gather", {"x": X, "indices": np.array([[2, 0], [1, 1]], np.int32), "axis": 1}),
    ("gather", {"x": X, "indices": np.int32(1), "axis": -1}),
    ("reshape", {"x": X, "shape": [4, -1, 2]}),
    ("reshape", {"x": X, "shape": [1, 0, 3, 4]}),
    ("transpose", {"x": X, "perm": [2, 0, 1]}),
    ("expand_dims", {"x": X, "axes": [0, 2, -1]}),
    ("squeeze", {"x": X[:1, :, :1], "axes": [-1]}),
    ("squeeze", {"x": X[:1, :, :1]}),
    ("slice_by_index", {"x": X, "begin": [0, -2, 1], "end": [2, 3, 3]}),
    ("slice_by_index", {"x": X, "begin": [0, 0, 3], "end": [0, 0, 0], "stride": [1, 2, -1], "end_mask": [True] * 3}),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": [1, 0, 0],
            "end": [0, 2, 0],
            "begin_mask": [False, True, True],
            "end_mask": [False, False, True],
            "squeeze_mask": [True, False, False],
        },
    ),
    ("slice_by_size", {"x": X, "begin": [0, 1, -2], "size": [2, -1, 1]}),
    ("concat", {"values": [X, X[:, :1]], "axis": 1}),
    ("concat", {"values": [np.int32(3), np.int32(4)], "axis": 0}),
    ("tile", {"x": X, "reps": [1, 2, 3]}),
    ("shape", {"x": X}),
    ("fill", {"shape": [2, 3], "value": np.float32(1.5)}),
    ("range_1d", {"start": np.int32(2), "end": np.int32(17), "step": np.int32(3)}),
    ("range_1d", {"start": np.float32(0), "end": np.float32(1), "step": np.float32(0.25)}),
    ("quantize", {"input": X, "scale": np.float32(0.02), "zero_point": np.int8(-5), "output_dtype": "int8"}),
    ("quantize", {"input": X, "scale": np.float32(0.01), "output_dtype": "uint8"}),
    ("quantize", {"input": X, "scale": np.float32([0.01, 0.02, 0.03]), "axis": 1, "output_dtype": "int8"}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)])
def test_operator_gives_what_coremltools_computes(name: str, arguments: dict[str, Any]) -> None:
    program = Builder.program(input_specs=[], opset_version=ct.target.iOS18)(
        lambda: getattr(Builder, name)(**arguments)
    )
    (result,) = program.functions["main"].outputs
    found = OPERATORS[name](**{key: as_tensors(value) for key, value in arguments.items()})
    assert isinstance(found, Tensor)
    assert found.dtype == TORCH_TYPES[types.builtin_to_string(result.dtype)]
    expected = torch.from_numpy(np.array(result.val)).to(found.dtype)  # some come in FP64
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


def as_tensors(value: Any) -> Any:
    """An argument as the interpreter passes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and isinstance(value[0], np.ndarray | np.generic):
        return [torch.from_numpy(np.asarray(one)) for one in value]
    array = np.asarray(value)
    return torch.from_numpy(array.astype(np.int32) if array.dtype == np.int64 else array)


def test_attention_takes_masks_of_both_kinds() -> None:
    query, key, value = (torch.randn(1, 3, 5, 8) for _ in range(3))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    attention = OPERATORS["scaled_dot_product_attention"]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    for mask in (seen, torch.zeros(5, 5).masked_fill(~seen, -1e4)):
        found = attention(query=query, key=key, value=value, attn_mask=mask)
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="attention"):
        attention(query=query, key=key[:, :1], value=value[:, :1])


def test_static_activations_are_rounded_to_integers(tmp_path: Path) -> None:
    weight, scale, zero_point = random_array(8, 16), np.float32(0.03), np.int8(7)

    def layer(x: Any) -> Any:
        steps = Builder.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype="int8")
        return Builder.linear(
            x=Builder.dequantize(input=steps, scale=scale, zero_point=zero_point), weight=weight, name="y"
        )

    path = build(tmp_path / "m.mlpackage", layer, [((1, 5, 16), types.fp32)], "iOS17")
    x = torch.from_numpy(3 * random_array(1, 5, 16))
    found = Interpreter(check_with_coremltools(path)).run({"x": x})["y"]
    steps = np.clip(np.rint(x.numpy() / scale) + zero_point, -128, 127)
    assert -128 in steps and 127 in steps
    expected = ((steps - zero_point) * scale) @ weight.T
    assert compare(found, expected)["max_abs"] < 1e-5


def test_fp16_is_rounded_after_every_operation(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        return Builder.sub(x=Builder.add(x=x, y=np.float16(2048)), y=np.float16(2048), name="y")

    path = build(tmp_path / "m.mlpackage", function, [((4,), types.fp16)])
    x = torch.tensor([0.4, 1.2, 3.0, -0.6], dtype=torch.float16)
    found = Interpreter(check_with_coremltools(path)).run({"x": x})["y"]
    assert found.tolist() == [0.0, 2.0, 4.0, -1.0]  # from 2048 on the step is 2, ties to even

    huge = build(tmp_path / "n.mlpackage", lambda x: Builder.mul(x=x, y=x, name="y"), [((1,), types.fp16)])
    assert Interpreter(huge).run({"x": torch.tensor([300.0], dtype=torch.float16)})["y"].item() == math.inf


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_weights_in_fp16_become_fp32(target: str, tmp_path: Path) -> None:
    weight = random_array(8, 16).astype(np.float16)

    def layer(x: Any) -> Any:
        widened = Builder.constexpr_cast(source_val=weight, output_dtype="fp32")
        return Builder.linear(x=x, weight=widened, name="y")

    path = build(tmp_path / "m.mlpackage", layer, [((1, 5, 16), types.fp32)], target)
    x = torch.from_numpy(random_array(1, 5, 16))
    found = Interpreter(check_with_coremltools(path)).run({"x": x})["y"]
    assert compare(found, x.numpy() @ weight.astype(np.float32).T)["max_abs"] < 1e-5


def test_quotient_of_integers_is_none(tmp_path: Path) -> None:
    path = build(tmp_path / "m.mlpackage", lambda x: Builder.real_div(x=x, y=np.int32(2)), [((3,), types.int32)])
    with pytest.raises(ValueError, match=r"int32\[3\] is declared, fp32\[3\] was computed"):
        Interpreter(path).run({"x": torch.tensor([1, 2, 3], dtype=torch.int32)})


def test_products_of_fp16_are_summed_in_fp32(tmp_path: Path) -> None:
    weight = np.ones((1, 4096), np.float16)
    path = build(
        tmp_path / "m.mlpackage", lambda x: Builder.linear(x=x, weight=weight, name="y"), [((1, 4096), types.fp16)]
    )
    assert Interpreter(path).run({"x": torch.ones(1, 4096, dtype=torch.float16)})["y"].item() == 4096


def test_values_that_nothing_needs_any_more_are_dropped(tmp_path: Path) -> None:
    def chain(x: Any) -> Any:
        for step in range(20):
            x = Builder.add(x=x, y=np.float32(step))
        return x

    alive: list[weakref.ref[Tensor]] = []
    counts = []

    def observe(_: MIL_pb2.Operation, result: Tensor) -> None:
        alive.append(weakref.ref(result))
        counts.append(sum(reference() is not None for reference in alive))

    path = build(tmp_path / "m.mlpackage", chain, [((1000,), types.fp32)])
    Interpreter(path, observe).run({"x": torch.zeros(1000)})
    assert len(counts) == 40  # a constant and a sum each time
    assert max(counts) <= 23  # all constants come first; of the sums, two


def test_unused_results_are_dropped_at_once_and_outputs_kept(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        first = Builder.relu(x=x, name="first")
        Builder.exp(x=x, name="unused")
        return first, Builder.square(x=first, name="second")

    path = build(tmp_path / "m.mlpackage", function, [((3,), types.fp32)])
    outputs = Interpreter(path).run({"x": torch.tensor([-1.0, 2.0, 3.0])})
    assert {name: value.tolist() for name, value in outputs.items()} == {"first": [0, 2, 3], "second": [0, 4, 9]}


# --- Several programs in one package.


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Floats, Floats]:
    """Packages of two layers, x [1, 4, 16] -> hidden [1, 4, 32] -> y [1, 4, 8], and their weights."""
    folder = tmp_path_factory.mktemp("layers")
    first, second = random_array(32, 16), random_array(8, 32)
    return (
        build(
            folder / "first.mlpackage",
            lambda x: Builder.linear(x=x, weight=first, name="hidden"),
            [((1, 4, 16), types.fp32)],
        ),
        build(
            folder / "second.mlpackage",
            lambda hidden: Builder.linear(x=hidden, weight=second, name="y"),
            [((1, 4, 32), types.fp32)],
        ),
        first,
        second,
    )


def test_pipeline_runs_its_models_in_order(layers: tuple[Path, Path, Floats, Floats], tmp_path: Path) -> None:
    *paths, first, second = layers
    models = [ct.models.MLModel(str(path), skip_model_load=True) for path in paths]
    ct.utils.make_pipeline(*models).save(str(tmp_path / "m.mlpackage"))
    package = check_with_coremltools(tmp_path / "m.mlpackage")
    assert sorted(file.path.name for file in package.weight_files) == ["0-weight.bin", "1-weight.bin"]
    x = torch.from_numpy(random_array(1, 4, 16))
    outputs = Interpreter(package).run({"x": x})
    assert list(outputs) == ["y"]
    assert compare(outputs["y"], x.numpy() @ first.T @ second.T)["max_abs"] < 1e-4
    with pytest.raises(ValueError, match="pipeline"):
        Interpreter(package).run({"hidden": x})


def test_function_is_chosen_by_name(layers: tuple[Path, Path, Floats, Floats], tmp_path: Path) -> None:
    path, _, weight, _ = layers
    positive = build(
        tmp_path / "positive.mlpackage",
        lambda x: Builder.relu(x=Builder.linear(x=x, weight=weight), name="hidden"),
        [((1, 4, 16), types.fp32)],
    )
    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(path), "main", "plain")
    descriptor.add_function(str(positive), "main", "positive")
    descriptor.default_function_name = "plain"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "m.mlpackage"))
    interpreter = Interpreter(check_with_coremltools(tmp_path / "m.mlpackage"))
    x = torch.from_numpy(random_array(1, 4, 16))
    plain, positive_only = (interpreter.run({"x": x}, name)["hidden"] for name in ("plain", "positive"))
    assert plain.min() < 0
    assert torch.equal(plain.relu(), positive_only)


def test_indices_out_of_range_are_refused() -> None:
    table = torch.zeros(5, 3)
    for row in (-1, 5):
        with pytest.raises(ValueError, match="gather of row"):
            OPERATORS["gather"](x=table, indices=torch.tensor([row], dtype=torch.int32))
