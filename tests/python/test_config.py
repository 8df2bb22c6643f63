"""The configuration: what it takes, and that it refuses what makes no sense."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import diffulex_edge
from diffulex_edge import _core
from diffulex_edge.quant import (
    FP16Quantizer,
    INT4Quantizer,
    INT8Quantizer,
    LayerActivations,
    QuantizationConfig,
    QuantizationDtype,
    QuantizationMode,
    is_int4_available,
)
from diffulex_edge.quant._config import layer_format

DTYPES = {
    "fp32": QuantizationDtype.FP32,
    "fp16": QuantizationDtype.FP16,
    "int8": QuantizationDtype.INT8,
    "int4": QuantizationDtype.INT4,
}
STATIC = {"dtype": "int8", "mode": "static"}


def test_importing_takes_no_torch() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import diffulex_edge.quant as quant\n"
        "config = quant.QuantizationConfig(dtype='int4', group_size=64)\n"
        "assert quant.is_int4_available() and config.group_size == 64\n"
        "try: quant.QuantizedLinear\n"
        "except ImportError: print('needs torch')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("needs torch\n", 0), result.stderr


def test_int4_is_always_available() -> None:
    assert is_int4_available() is True


@pytest.mark.parametrize("text", [*DTYPES, "INT8", "Fp16"])
def test_dtype_takes_strings_in_any_case(text: str) -> None:
    assert QuantizationConfig(dtype=text).dtype is DTYPES[text.lower()]


@pytest.mark.parametrize("mode", ["dynamic", "STATIC", "weight_only", *QuantizationMode])
def test_mode_takes_strings_and_the_enum(mode: Any) -> None:
    config = QuantizationConfig(dtype="int8", mode=mode)
    assert isinstance(config.mode, QuantizationMode)
    assert config.mode == str(mode).lower()


@pytest.mark.parametrize("patterns", [["lm_head", "norm"], ("lm_head", "norm"), iter(["lm_head", "norm"])])
def test_exclude_layers_takes_lists_and_tuples(patterns: Any) -> None:
    assert QuantizationConfig(dtype="int8", exclude_layers=patterns).exclude_layers == ["lm_head", "norm"]


def test_defaults_are_those_of_the_library() -> None:
    config = QuantizationConfig()
    assert config.dtype == QuantizationDtype.FP32
    assert config.mode == QuantizationMode.WEIGHT_ONLY
    assert config.group_size == 32
    assert config.exclude_layers == ["lm_head", "norm", "embedding", "router"]
    config.exclude_layers.append("x")
    assert QuantizationConfig().exclude_layers == ["lm_head", "norm", "embedding", "router"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int3"}, ["'int3'", "'fp32', 'fp16', 'int8', 'int4'"]),
        ({"dtype": "int8", "mode": "weights"}, ["'weights'", "'dynamic', 'static', 'weight_only'"]),
        ({"dtype": "int8", "method": "best"}, ["'best'", "'rtn'"]),
        ({"dtype": "int4", "group_size": 48}, ["48", "32, 64, 128, 256, 0"]),
        ({"dtype": "int4", "group_size": -32}, ["-32"]),
        ({"dtype": "int8", "layer_formats": {"a": "int5"}}, ["layer_formats of a", "int5", "int4_g32"]),
        (STATIC | {"activations": {"a": {"input": [0, 1]}}}, ["a", "output"]),
        (STATIC | {"activations": {"a": {"input": [2, 1], "output": [0, 1]}}}, ["[2.0, 1.0]"]),
    ],
)  # fmt: skip
def test_unknown_values_are_errors_that_name_the_known_ones(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        QuantizationConfig(**options)
    assert isinstance(error.value, diffulex_edge.InvalidArgumentError)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": 8},
        {"dtype": None},
        {"dtype": QuantizationMode.STATIC},
        {"dtype": "int8", "exclude_layers": "lm_head"},
        {"dtype": "int8", "exclude_layers": [1]},
        {"dtype": "int8", "exclude_layers": None},
        {"dtype": "int4", "group_size": "32"},
        {"dtype": "int4", "group_size": 32.0},
        {"dtype": "int4", "strict_group_size": 1},
        {"dtype": "int8", "layer_formats": ["a"]},
    ],
)
def test_values_of_another_type_are_type_errors(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        QuantizationConfig(**options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"dtype": "int8", "group_size": 64}, "group_size"),
        ({"dtype": "fp16", "mode": "dynamic"}, "mode"),
        ({"dtype": "fp32", "mode": "static"}, "mode"),
        ({"dtype": "fp16", "method": "mse"}, "method"),
        ({"dtype": "int8", "saturate_fp16": True}, "saturate_fp16"),
        ({"dtype": "int8", "strict_group_size": True}, "strict_group_size"),
        ({"dtype": "int4", "palette_group": 8}, "palette_group"),
        ({"dtype": "int8", "activations": {"a": LayerActivations((0, 1), (0, 1))}}, "activations"),
        ({"layer_formats": {"a": "int8"}, "head_dtype": "int8"}, "head_dtype"),
        ({"layer_formats": {"a": "int4_g32"}, "group_size": 64}, "group_size"),
        ({"layer_formats": {"a": "int8"}, "exclude_layers": ["a"]}, "exclude_layers"),
    ],
)
def test_options_without_a_use_are_errors(options: dict[str, Any], word: str) -> None:
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=word):
        QuantizationConfig(**options)


def test_options_have_a_use_for_the_embedding_or_the_head_too() -> None:
    assert QuantizationConfig(dtype="fp16", head_dtype="int4", group_size=128, mode="dynamic").group_size == 128
    assert QuantizationConfig(dtype="int8", embedding_dtype="fp16", saturate_fp16=True).saturate_fp16


@pytest.mark.parametrize(
    ("quantizer", "dtype"), [(FP16Quantizer, "int8"), (INT8Quantizer, "int4"), (INT4Quantizer, "fp16")]
)
def test_a_quantizer_refuses_another_dtype(quantizer: type, dtype: str, linear: Any) -> None:
    with pytest.raises(diffulex_edge.InvalidArgumentError, match=f"the config asks for {dtype}"):
        quantizer().quantize(linear, QuantizationConfig(dtype=dtype, exclude_layers=[]))


def test_dtypes_are_the_rows_of_the_table_of_formats() -> None:
    rows = _core.describe_formats()
    assert {row["name"] for row in rows} == {dtype.value for dtype in QuantizationDtype}
    for row in rows:
        dtype = QuantizationDtype(row["name"])
        assert dtype.traits == row
        assert all(layer_format(name)[0] == dtype for name in row["layer_formats"])
    assert layer_format("int4_g64") == (QuantizationDtype.INT4, 64)
    assert layer_format("palette6") == (QuantizationDtype.PALETTE6, 0)
