"""Checkpoints in the layouts of other quantizers, packed here from the layouts' own descriptions.

Each class makes one weight [out, in] of random integers: the tensors that the quantizer stores for it, and the float32
values that they stand for. Layouts: AutoGPTQ's and GPTQModel's QuantLinear, AutoAWQ's WQLinear_GEMM
and WQLinear_GEMV, compressed-tensors' pack_quantized and naive_quantized, DeepSeek-V3's FP8 weights, bitsandbytes'
QuantState and Int8Params.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

Packed = tuple[dict[str, Tensor], Tensor]
AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
NF4: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def _words(values: Tensor, bits: int, dim: int) -> Tensor:
    """Unsigned integers packed along `dim` into int32, the first in the lowest bits; the last word is filled with 0."""
    values = values.movedim(dim, -1).to(torch.int64)
    per_word = 32 // bits
    padding = -values.shape[-1] % per_word
    values = torch.nn.functional.pad(values, (0, padding)).unflatten(-1, (-1, per_word))
    packed = (values << (bits * torch.arange(per_word))).sum(-1)
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    return packed.movedim(-1, dim).contiguous()


def _stream(values: Tensor, bits: int, dim: int) -> Tensor:
    """Unsigned integers along `dim` as one stream of bits in int32 words, the first in the lowest bits."""
    values = values.movedim(dim, -1).to(torch.int64)
    all_bits = (values[..., None] >> torch.arange(bits) & 1).flatten(-2)
    return _words(all_bits, 1, -1).movedim(-1, dim).contiguous()


def _scales(shape: tuple[int, ...], columns: int, levels: int, generator: torch.Generator) -> Tensor:
    """Random ones that give weights the deviation of a trained layer's."""
    spread = 0.5 + torch.rand(shape, generator=generator)
    return spread * 4 / (levels * columns**0.5)


@dataclass(frozen=True)
class Gptq:
    bits: int = 4
    group_size: int = 32
    symmetric: bool = True
    reordered: bool = False
    version: int = 1
    own_file: bool = False

    def config(self) -> dict[str, Any]:
        config = {
            "quant_method": "gptq", "bits": self.bits, "group_size": self.group_size, "sym": self.symmetric,
            "desc_act": self.reordered, "damp_percent": 0.01, "static_groups": False, "true_sequential": True,
        }  # fmt: skip
        return config | ({"checkpoint_format": "gptq_v2"} if self.version == 2 else {})

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        size = columns if self.group_size == -1 else self.group_size
        groups = -(-columns // size)
        levels = 1 << self.bits
        integers = torch.randint(0, levels, (rows, columns), generator=generator)
        zeros = torch.full((rows, groups), levels // 2)
        if not self.symmetric:
            zeros = torch.randint(1, levels, (rows, groups), generator=generator)
        scales = _scales((rows, groups), columns, levels, generator).half()
        index = torch.arange(columns) // size
        if self.reordered:
            index = index[torch.randperm(columns, generator=generator)]
        tensors = {
            "qweight": _stream(integers.T, self.bits, 0),
            "qzeros": _stream(zeros.T - (2 - self.version), self.bits, 1),
            "scales": scales.T.contiguous(),
            "g_idx": index.to(torch.int32),
            "bias": torch.zeros(rows, dtype=torch.float16),
        }
        return tensors, (integers - zeros[:, index]).float() * scales.float()[:, index]


@dataclass(frozen=True)
class Awq:
    group_size: int = 32
    version: str = "gemm"

    def config(self) -> dict[str, Any]:
        return {
            "quant_method": "awq", "bits": 4, "group_size": self.group_size, "version": self.version,
            "zero_point": True, "modules_to_not_convert": None,
        }  # fmt: skip

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        groups = columns // self.group_size
        integers = torch.randint(0, 16, (rows, columns), generator=generator)
        zeros = torch.randint(0, 16, (rows, groups), generator=generator)
        scales = _scales((rows, groups), columns, 16, generator).half()
        index = torch.arange(columns) // self.group_size

        values = (integers - zeros[:, index]).float() * scales.float()[:, index]
        if self.version == "gemv":
            # Room for whole words of zero points: of 4 words with groups of 32, 2 with 64.
            whole = max(1, 128 // self.group_size) * 8
            filled = torch.nn.functional.pad(zeros, (0, -groups % whole))
            tensors = {
                "qweight": _words(integers, 4, 1),
                "qzeros": _words(filled, 4, 1),
                "scales": torch.nn.functional.pad(scales, (0, -groups % whole)),
            }
            return tensors, values

        def ordered(values: Tensor) -> Tensor:
            return values.T.unflatten(1, (-1, 8))[:, :, list(AWQ_ORDER)].flatten(1)

        tensors = {
            "qweight": _words(ordered(integers), 4, 1),
            "qzeros": _words(ordered(zeros), 4, 1),
            "scales": scales.T.contiguous(),
        }
        return tensors, values


def _compressed_config(form: str, weights: dict[str, Any], **group: Any) -> dict[str, Any]:
    common = {"actorder": None, "block_structure": None, "dynamic": False, "observer": "minmax", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": common | weights} | group}
    return {
        "quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"],
        "kv_cache_scheme": None, "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
    }  # fmt: skip


@dataclass(frozen=True)
class PackedIntegers:
    bits: int = 4
    group_size: int | None = 32
    symmetric: bool = True
    reordered: bool = False

    def config(self) -> dict[str, Any]:
        strategy = "channel" if self.group_size is None else "group"
        return _compressed_config(
            "pack-quantized",
            {"num_bits": self.bits, "type": "int", "strategy": strategy, "group_size": self.group_size,
             "symmetric": self.symmetric},
        )  # fmt: skip

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        size = self.group_size or columns
        groups, half = columns // size, 1 << self.bits - 1
        integers = torch.randint(-half, half, (rows, columns), generator=generator)
        scales = _scales((rows, groups), columns, 2 * half, generator).bfloat16()
        zeros = torch.zeros(rows, groups, dtype=torch.int64)
        index = torch.arange(columns) // size
        tensors = {
            "weight_packed": _words(integers + half, self.bits, 1),
            "weight_scale": scales,
            "weight_shape": torch.tensor([rows, columns]),
        }
        if not self.symmetric:
            zeros = torch.randint(-half, half, (rows, groups), generator=generator)
            tensors["weight_zero_point"] = _words(zeros + half, self.bits, 0)
        if self.reordered:
            index = index[torch.randperm(columns, generator=generator)]
            tensors["weight_g_idx"] = index.to(torch.int32)
        return tensors, (integers - zeros[:, index]).float() * scales.float()[:, index]


@dataclass(frozen=True)
class Bytes:
    """INT8 or FP8 of compressed-tensors, with one scale for the tensor, each row, groups or blocks."""

    type: str = "int"
    strategy: str = "channel"
    size: int = 32
    symmetric: bool = True

    def config(self) -> dict[str, Any]:
        form = "int-quantized" if self.type == "int" else "float-quantized"
        weights: dict[str, Any] = {"num_bits": 8, "type": self.type, "strategy": self.strategy}
        weights["symmetric"] = self.symmetric
        weights["block_structure"] = [self.size, self.size] if self.strategy == "block" else None
        return _compressed_config(form, weights, input_activations={"num_bits": 8, "dynamic": True, "type": self.type})

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        if self.type == "int":
            values = torch.randint(-128, 128, (rows, columns), generator=generator, dtype=torch.int8)
        else:
            values = (200 * torch.randn(rows, columns, generator=generator)).clamp(-448, 448).to(torch.float8_e4m3fn)
        blocks = -(-rows // self.size), -(-columns // self.size)
        shapes = {"tensor": (1,), "channel": (rows, 1), "group": (rows, columns // self.size), "block": blocks}
        scales = _scales(shapes[self.strategy], columns, 400, generator).bfloat16()
        row = torch.arange(rows)[:, None] // (self.size if self.strategy == "block" else 1)
        column = torch.arange(columns)[None] // (self.size if self.strategy in ("group", "block") else columns)
        if self.strategy == "tensor":
            row, column = torch.zeros_like(row), torch.zeros_like(column)
        table = scales.float().reshape(1, 1) if self.strategy == "tensor" else scales.float()
        tensors = {"weight": values, "weight_scale": scales}
        zeros = torch.zeros_like(table)
        if not self.symmetric:
            zeros = torch.randint(-128, 128, table.shape, generator=generator).float()
            tensors["weight_zero_point"] = zeros.to(torch.int8).reshape(scales.shape)
        return tensors, (values.float() - zeros[row, column]) * table[row, column]


@dataclass(frozen=True)
class BlockFp8:
    """E4M3 with scales for blocks, some of which are smaller at the edges."""

    size: int = 128

    def config(self) -> dict[str, Any]:
        return {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [self.size, self.size],
        }  # fmt: skip

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        values = (200 * torch.randn(rows, columns, generator=generator)).clamp(-448, 448).to(torch.float8_e4m3fn)
        scales = _scales((-(-rows // self.size), -(-columns // self.size)), columns, 400, generator)
        whole = scales.repeat_interleave(self.size, 0).repeat_interleave(self.size, 1)[:rows, :columns]
        return {"weight": values, "weight_scale_inv": scales}, values.float() * whole


@dataclass(frozen=True)
class Nf4:
    nested: bool = True
    block: int = 64

    def config(self) -> dict[str, Any]:
        return {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.nested, "bnb_4bit_compute_dtype": "bfloat16",
        }  # fmt: skip

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        count = rows * columns
        blocks = -(-count // self.block)
        indices = torch.randint(0, 16, (count,), generator=generator)
        table = torch.tensor(NF4)
        state: dict[str, Any] = {
            "quant_type": "nf4", "blocksize": self.block, "dtype": "bfloat16", "shape": [rows, columns],
        }  # fmt: skip
        tensors = {
            "weight": (indices[0::2] << 4 | indices[1::2]).to(torch.uint8)[:, None].contiguous(),
            "weight.quant_map": table,
        }
        if self.nested:
            nested_table = torch.linspace(-1, 1, 256)
            scale_indices = torch.randint(0, 256, (blocks,), generator=generator)
            nested_scales = _scales((-(-blocks // 256),), columns, 16, generator)
            offset = 3 / columns**0.5
            tensors["weight.absmax"] = scale_indices.to(torch.uint8)
            tensors["weight.nested_absmax"] = nested_scales
            tensors["weight.nested_quant_map"] = nested_table
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            products = nested_table[scale_indices] * nested_scales[torch.arange(blocks) // 256]
            scales = products + torch.tensor(offset, dtype=torch.float32)
        else:
            scales = _scales((blocks,), columns, 4, generator)
            tensors["weight.absmax"] = scales
        text = json.dumps(state).encode()
        tensors["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
        values = table[indices] * scales[torch.arange(count) // self.block]
        return tensors, values.reshape(rows, columns)


@dataclass(frozen=True)
class LlmInt8:
    def config(self) -> dict[str, Any]:
        return {
            "quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True, "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": None, "llm_int8_has_fp16_weight": False,
        }  # fmt: skip

    def pack(self, rows: int, columns: int, generator: torch.Generator) -> Packed:
        integers = torch.randint(-127, 128, (rows, columns), generator=generator).to(torch.int8)
        magnitudes = 127 * _scales((rows,), columns, 256, generator)
        tensors = {"weight": integers, "SCB": magnitudes, "weight_format": torch.zeros((), dtype=torch.uint8)}
        return tensors, integers * magnitudes[:, None] * 7.874015718698502e-3


Layout = LlmInt8 | Gptq | Awq | PackedIntegers | Bytes | BlockFp8 | Nf4

LAYOUTS: Final[dict[str, Layout]] = {
    "gptq": Gptq(),
    "gptq-asymmetric": Gptq(symmetric=False),
    "gptq-reordered": Gptq(reordered=True, symmetric=False),
    "gptq-v2": Gptq(version=2, symmetric=False),
    "gptq-8-bits-per-channel": Gptq(bits=8, group_size=-1),
    "gptq-3-bits": Gptq(bits=3, symmetric=False),
    "gptq-3-bits-reordered": Gptq(bits=3, reordered=True),
    "gptq-own-file": Gptq(own_file=True),
    "awq": Awq(),
    "awq-gemv": Awq(version="gemv"),
    "awq-gemv-64": Awq(group_size=64, version="gemv"),
    "packed-int4": PackedIntegers(),
    "packed-int4-asymmetric": PackedIntegers(symmetric=False),
    "packed-int4-reordered": PackedIntegers(reordered=True),
    "packed-int8-per-channel": PackedIntegers(bits=8, group_size=None),
    "int8-per-channel": Bytes(),
    "int8-per-tensor": Bytes(strategy="tensor"),
    "int8-groups-asymmetric": Bytes(strategy="group", symmetric=False),
    "fp8-per-channel": Bytes(type="float"),
    "fp8-blocks-of-compressed-tensors": Bytes(type="float", strategy="block", size=64),
    "fp8-blocks": BlockFp8(),
    "nf4": Nf4(nested=False),
    "nf4-nested": Nf4(),
    "llm-int8": LlmInt8(),
}


def quantized(
    weights: dict[str, Tensor], layout: Layout, is_quantized: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's tensors with other weights where `is_quantized`: packed, and the values that these stand for."""
    generator = torch.Generator().manual_seed(7)
    packed, plain = {}, {}
    for name, tensor in weights.items():
        if not is_quantized(name):
            packed[name] = plain[name] = tensor
            continue
        tensors, plain[name] = layout.pack(tensor.shape[0], tensor.shape[1], generator)
        prefix = name.removesuffix("weight")
        packed |= {prefix + key: value for key, value in tensors.items()}
    return packed, plain
