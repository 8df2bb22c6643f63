"""The command line: help, usage errors, inspect, matrix, the HTML report."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import BAD_FILE, UNSUPPORTED, USAGE_ERROR, assert_fails, export, run, run_json
from conftest import MakeCheckpoint
from safetensors import safe_open
from safetensors.torch import load_file

SUBCOMMANDS: Final = ("generate", "serve", "bench", "export", "quantize", "inspect", "matrix")


# --- Help and usage.


def test_help_names_every_subcommand_and_exit_code() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for word in (*SUBCOMMANDS, "2 wrong usage", "3 bad input file", "4 not supported", "5 output"):
        assert word in result.stdout


@pytest.mark.parametrize("subcommand", [*SUBCOMMANDS, "evaluate", "plan"])
def test_usage_errors_name_the_subcommands_help(subcommand: str) -> None:
    assert_fails(run(subcommand, "--nonsense\x1b\udcf0"), USAGE_ERROR, f"(see diffulex-edge {subcommand} --help)")
    assert_fails(run("--nonsense"), USAGE_ERROR, "(see diffulex-edge --help)")


def test_what_is_no_subcommand_is_named_beside_those_that_are() -> None:
    assert_fails(
        run("translate", "x"), USAGE_ERROR, "'translate' is not one of generate, ", "export, ", "matrix (see diffulex"
    )


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_subcommand_has_help(subcommand: str) -> None:
    result = run(subcommand, "--help")
    assert result.returncode == 0
    assert "Usage: diffulex-edge" in result.stdout
    assert "--json" in result.stdout


def test_version_is_one_line() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"diffulex-edge \d+\.\d+\.\d+ \(\w+ kernels\)\n", result.stdout)


def processor_features() -> set[str]:
    """What the operating system knows of this processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(features.split())
    return set()


def test_verbose_version_names_the_fastest_kernels_that_the_processor_has() -> None:
    result = run("--version", "--verbose")
    assert result.returncode == 0
    first, *lines = result.stdout.splitlines()
    assert first == run("--version").stdout.strip()
    kernels = dict(line.split(": ", 1) for line in lines)
    features = processor_features()
    assert set(kernels["processor"].split()) <= features
    if {"avx2", "fma", "f16c", "bmi2"} <= features:
        wide = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= features
        for part in ("quantization", "matrix products"):
            assert kernels[part].startswith("AVX3") if wide else kernels[part] == "AVX2", kernels
        integers = {"avx512bw", "avx512vl", "avx512_vnni"} <= features
        assert kernels["packed weights"] == ("AVX-512 VNNI" if integers else "AVX2")
    elif "asimd" in features:
        assert kernels["matrix products"] == "NEON"
        assert kernels["packed weights"] == ("NEON with dot products" if "asimddp" in features else "NEON")


def test_verbose_goes_with_version() -> None:
    assert_fails(run("--verbose"), USAGE_ERROR, "--version")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--nonsense",),
        ("nonsense",),
        ("export",),
        ("export", "MODEL"),
        ("export", "-o", "OUT/x.pte"),
        ("export", "MODEL", "-o"),
        ("export", "MODEL", "MODEL", "-o", "OUT/x.pte"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--nonsense"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--dtype", "int5"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--dtype", ""),
        ("export", "MODEL", "-o", "OUT/x.pte", "--mode", "often"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--embedding-dtype", "bf16"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--head-dtype", "8"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--activation-dtype", "fp8"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--dtype", "int4", "--group-size", "16"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--dtype", "int4", "--group-size", "-32"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--dtype", "int4", "--group-size", "x"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--block-length", "-1"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--threads", "-1"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--threads", "100000"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--seq-len", "0"),
        ("export", "MODEL", "-o", "OUT/x.pte", "--exclude"),
        ("quantize", "MODEL"),
        ("quantize", "MODEL", "-o", "OUT/q", "--seq-len", "8"),
        ("inspect",),
        ("inspect", "MODEL", "MODEL"),
        ("matrix", "x"),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    result = run(*(word.replace("MODEL", str(tiny)).replace("OUT", str(tmp_path)) for word in arguments))
    assert_fails(result, USAGE_ERROR)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option",
    [
        "--backend tpu",
    ],
)
def test_option_of_a_later_version_is_refused_not_ignored(option: str, tiny: Path, tmp_path: Path) -> None:
    result = run("export", tiny, "-o", tmp_path / "x.pte", *option.split())
    assert_fails(result, UNSUPPORTED, option.split()[-1] if "backend" in option else option.split()[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "backend"),
    [
        ("--minimum-deployment-target iOS18", "coreml"),
        ("--palette", "coreml"),
        ("--chunk-size 1GB", "coreml"),
        ("--container pte", "coreml"),
        ("--container pte", "qnn"),
        ("--soc SM8650", "qnn"),
        ("--qnn-python python3", "qnn"),
        ("--embedding-on host", "qnn"),
        ("--shards 2", "qnn"),
    ],
)
def test_option_of_another_backend_is_refused_not_ignored(
    option: str, backend: str, tiny: Path, tmp_path: Path
) -> None:
    result = run("export", tiny, "-o", tmp_path / "x.pte", *option.split())
    assert_fails(result, USAGE_ERROR, option.split()[0], f"--backend {backend}")
    assert not list(tmp_path.iterdir())


def test_letter_case_of_a_format_does_not_matter(tiny: Path, tmp_path: Path) -> None:
    report = export(tiny, tmp_path / "x.pte", "--dtype", "INT8", "--mode", "Dynamic")
    assert (report["dtype"], report["mode"]) == ("int8", "dynamic")


def test_pattern_that_excludes_nothing_is_warned_about(tiny: Path, tmp_path: Path) -> None:
    report = export(tiny, tmp_path / "x.pte", "--dtype", "int8", "--exclude", "layers.9.", "--exclude", "v_proj")
    (warning,) = report["warnings"]
    assert "layers.9." in warning


# --- Text and HTML reports.


def test_text_report_has_sizes_formats_and_operators(tiny: Path, tmp_path: Path) -> None:
    result = run("export", tiny, "-o", tmp_path / "x.pte", "--dtype", "int4")
    assert result.returncode == 0
    size = (tmp_path / "x.pte").stat().st_size
    for word in (f"{size:,} bytes", "MiB", "layers.*.q_proj", "qd8 x qb4w", "lm_head", "aten::embedding", "warning: "):
        assert word in result.stdout


class Tags(HTMLParser):
    """Checks that tags are closed in order; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_report_is_well_formed_and_escapes_names(tiny: Path, tmp_path: Path) -> None:
    name = "<b>&\"'.pte"
    report = export(tiny, tmp_path / name, "--dtype", "int8", "--report", tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    page = Tags()
    page.feed(html)
    page.close()
    assert page.open == []
    text = "".join(page.text)
    assert str(tmp_path / name) in text
    assert f"{report['file_bytes']:,}" in text
    for layer in report["layers"]:
        assert layer["tensor"] in text
    assert "<b>" not in html


# --- inspect.


def test_inspect_of_a_checkpoint_shows_config_and_tensors(tiny: Path) -> None:
    report = run_json("inspect", tiny)
    assert report["kind"] == "checkpoint"
    assert report["config"] | CONFIG == report["config"]
    check_tensors(report, tiny / "model.safetensors")
    text = run("inspect", tiny).stdout
    for tensor in report["tensors"]:
        assert tensor["name"] in text
        assert tensor["sha256"][:16] in text


CONFIG: Final[dict[str, Any]] = {
    "family": "llada",
    "architecture": "LLaDAModelLM",
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": 1024,
    "max_positions": 256,
    "block_length": 0,
    "tie_word_embeddings": False,
}


def check_tensors(report: dict[str, Any], path: Path) -> None:
    """Names, types, shapes and hashes are those of the file, read by the official library."""
    weights = load_file(path)
    names = {"torch.bfloat16": "BF16", "torch.float32": "F32", "torch.float16": "F16", "torch.int64": "I64"}
    assert report["file_bytes"] == path.stat().st_size
    assert report["parameters"] == sum(weight.numel() for weight in weights.values())
    shown = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert set(shown) == set(weights)
    for name, weight in weights.items():
        data = weight.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert shown[name]["shape"] == list(weight.shape)
        assert shown[name]["dtype"] == names[str(weight.dtype)]
        assert shown[name]["bytes"] == len(data)
        assert shown[name]["sha256"] == hashlib.sha256(data).hexdigest()
        offset = shown[name]["offset"]
        assert path.read_bytes()[offset : offset + len(data)] == data


@pytest.mark.parametrize("name", ["model.safetensors", "eval.safetensors"])
def test_inspect_of_a_safetensors_file_shows_its_tensors(name: str, tiny: Path) -> None:
    report = run_json("inspect", tiny / name)
    assert report["kind"] == "safetensors"
    check_tensors(report, tiny / name)


def test_inspect_finds_shards(checkpoint: MakeCheckpoint) -> None:
    model = checkpoint("qwen3", shards=3)
    report = run_json("inspect", model)
    for tensor in report["tensors"]:
        with safe_open(model / tensor["file"], "pt") as shard:
            assert tensor["name"] in shard.keys()  # noqa: SIM118  (not a dict)


def test_inspect_of_a_program_hashes_it_and_its_weights(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    export(tiny, path, "--dtype", "int4", "--embedding-dtype", "int8", "--seq-len", 50)
    report = run_json("inspect", path)
    file = path.read_bytes()
    assert report["kind"] == "executorch_program"
    assert report["sha256"] == hashlib.sha256(file).hexdigest()
    (method,) = report["methods"]
    assert method["name"] == "forward"
    assert method["inputs"] == [{"dtype": "LONG", "shape": [1, 50], "dynamic": True}]
    assert method["outputs"] == [{"dtype": "FLOAT", "shape": [1, 50, 1024], "dynamic": True}]
    assert method["arena_bytes"] >= 4 * 50 * 1024
    for weight in report["tensors"]:
        data = file[weight["offset"] : weight["offset"] + weight["bytes"]]
        assert weight["sha256"] == hashlib.sha256(data).hexdigest()
    quick = run_json("inspect", path, "--no-hash")
    assert "sha256" not in quick
    assert all("sha256" not in weight for weight in quick["tensors"])


def test_inspect_of_something_else_is_a_bad_file(tiny: Path) -> None:
    assert_fails(run("inspect", tiny / "README.md"), BAD_FILE, "README.md")
    assert_fails(run("inspect", tiny / "config.json"), BAD_FILE, "config.json")


# --- matrix.

ROWS: Final = [
    *("FP32", "FP16", "INT8 Dynamic", "INT8 Static", "INT8 Weight-only", "PALETTE8 Weight-only"),
    *("PALETTE6 Weight-only", "INT4 Weight-only", "PALETTE4 Weight-only", "PALETTE3 Weight-only"),
    *("PALETTE2 Weight-only", "PALETTE1 Weight-only"),
]


def test_matrix_has_every_format_and_three_backends() -> None:
    matrix = run_json("matrix")
    assert matrix["backends"] == ["xnnpack", "coreml", "qnn"]
    assert [row["quantization"] for row in matrix["rows"]] == ROWS
    text = run("matrix").stdout
    for row in matrix["rows"]:
        (line,) = (line for line in text.splitlines() if line.startswith(f"{row['quantization']} "))
        for backend in matrix["backends"]:
            sign = {"full": "✅", "partial": "⚠️", "unsupported": "❌"}[row[backend]["level"]]
            assert sign in line


def test_matrix_says_what_export_does(tiny: Path, tmp_path: Path) -> None:
    matrix = run_json("matrix")
    for row in matrix["rows"]:
        for backend in matrix["backends"]:
            target = tmp_path / {"xnnpack": "m.pte", "coreml": "m.mlpackage", "qnn": "folder"}[backend]
            options = ("--dtype", row["dtype"], "--mode", row["mode"], "--backend", backend, "--json", "--dry-run")
            result = run("export", tiny, "-o", target, *options)
            supported = row[backend]["level"] != "unsupported"
            calibrated = row["mode"] != "static"
            expected = (0 if calibrated else USAGE_ERROR) if supported else UNSUPPORTED
            assert result.returncode == expected, f"{row['quantization']} on {backend}"
            assert json.loads(result.stdout)["success"] is (supported and calibrated)
            assert row[backend]["note"]
