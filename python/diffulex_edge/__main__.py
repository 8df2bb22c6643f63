"""`python -m diffulex_edge verify` and `generate`: the package's functions on artefacts, in a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TextIO

from diffulex_edge import (
    DiffusionEngine,
    DiffusionGenerationConfig,
    Error,
    Execution,
    GenerationComparison,
    InvalidArgumentError,
    Placement,
    Verification,
    VerificationError,
    compare_generation,
    verify,
)
from diffulex_edge.quant import QuantizationConfig

#: Those of the command, by the code of an error.
EXIT_CODES: Final = {"InvalidArgument": 2, "BadFile": 3, "Unsupported": 4, "Io": 5}


def _aligned(rows: list[list[str]], *, left: int = 0) -> str:
    """A table of text; its first `left` columns begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        words = [cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in enumerate(cells)]
        return "  ".join(words)

    return "\n".join(map(line, rows))


def _table(verification: Verification) -> str:
    header = ["set", "tokens", "loss", "accuracy"]
    if verification.reference is not None:
        header += ["increase", "KL", "agreement", "flips", "max error", "cosine"]
    if any(figures.cpu_cosine is not None for figures in verification.sets.values()):
        header += ["off CPU", "CPU cosine"]
    rows = [header]
    for label, figures in verification.sets.items():
        row = [label, f"{figures.tokens:,}", f"{figures.loss.mean:.4f}", f"{figures.accuracy:.1%}"]
        if figures.loss_increase and figures.kl_divergence:
            row += [f"{figures.loss_increase.mean:.4f}", f"{figures.kl_divergence.mean:.5f}"]
            row += [f"{figures.agreement:.1%}", f"{figures.commit_flip_rate:.1%}"]
            row += [f"{figures.max_abs_error:.5f}", f"{figures.cosine:.6f}"]
        if figures.cpu_cosine is not None:
            row += [f"{figures.cpu_max_abs_error:.5f}", f"{figures.cpu_cosine:.6f}"]
        rows.append(row)
    return _aligned(rows)


def _placement_text(placement: Placement) -> str:
    rows = [["operator", "NPU", "host"]]
    for name in sorted(placement.npu.keys() | placement.host.keys()):
        rows.append([name, f"{placement.npu.get(name, 0):,}", f"{placement.host.get(name, 0):,}"])
    rows.append(["all", f"{sum(placement.npu.values()):,}", f"{sum(placement.host.values()):,}"])
    table = _aligned(rows, left=1)
    if placement.binary_bytes is None:
        return table
    return f"{table}\n{placement.soc}: context binary of {placement.binary_bytes:,} bytes"


def _execution_text(execution: Execution) -> str:
    if execution.soc is None:
        return f"executed on the CPU, by ONNX Runtime {execution.onnxruntime}: there is no context binary"
    return (
        f"executed on Qualcomm's emulator of {execution.soc} (HTP v{execution.htp_arch}), without fallback to the CPU: "
        f"onnxruntime-qnn {execution.onnxruntime_qnn}, ONNX Runtime {execution.onnxruntime}"
    )


def _text(verification: Verification) -> str:
    lines = []
    if verification.check is not None:
        lines.append(verification.check.describe())
    if verification.placement is not None:
        lines.append(_placement_text(verification.placement))
    if verification.execution is not None:
        lines.append(_execution_text(verification.execution))
    if verification.reference_execution is not None:
        lines.append(f"{verification.reference}: {_execution_text(verification.reference_execution)}")
    if verification.sets:
        lines.append(_table(verification))
    elif verification.not_executed is not None:
        lines.append(verification.not_executed)
    return "\n".join(lines)


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """The standard output only for us: what the vendors' libraries write there goes to stderr, up to the end."""
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding) as own:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield own


def _comparison_text(comparison: GenerationComparison) -> str:
    lines = []
    for one in comparison.prompts:
        lines.append(f"{one.prompt!r}: {len(one.tokens)} tokens in {one.forward_passes} passes")
        if one.first_difference is None:
            lines += [f"  both      {one.text!r}"]
        else:
            lines += [
                f"  artefact  {one.text!r}",
                f"  model     {one.reference_text!r}",
                f"  the first {one.first_difference} tokens are the same",
            ]
    total = len(comparison.prompts)
    lines.append(f"{comparison.equal_texts} of {total} texts are equal, {comparison.agreement:.1%} of all tokens")
    return "\n".join(lines)


def _compare(arguments: argparse.Namespace, stdout: TextIO) -> None:
    if arguments.data or arguments.against:
        raise InvalidArgumentError("--generate: compares texts: leave out --data and --against", where="--generate")
    quantization = None
    if arguments.dtype is not None:
        quantization = QuantizationConfig(
            dtype=arguments.dtype,
            mode=arguments.mode or "weight_only",
            **({} if arguments.group_size is None else {"group_size": arguments.group_size}),
        )
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        try:
            prompts += [line for line in arguments.prompts.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise VerificationError(f"{arguments.prompts}: can't be read as lines of UTF-8: {error}") from error
    comparison = compare_generation(
        arguments.artefact,
        arguments.generate,
        prompts,
        quant_config=quantization,
        soc=arguments.soc,
        ignored_config_keys=arguments.ignore_config_key,
        max_new_tokens=arguments.max_new_tokens,
        ignore_eos=arguments.ignore_eos,
    )
    print(json.dumps(comparison.to_dict(), indent=2) if arguments.json else _comparison_text(comparison), file=stdout)


def _verify(arguments: argparse.Namespace, stdout: TextIO) -> None:
    if arguments.generate is not None:
        return _compare(arguments, stdout)
    verification = verify(arguments.artefact, arguments.data, against=arguments.against, soc=arguments.soc)
    print(json.dumps(verification.to_dict(), indent=2) if arguments.json else _text(verification), file=stdout)


def _add_verify(commands: Any) -> None:
    command = commands.add_parser("verify", help="measure an artefact in its runtime")
    command.set_defaults(run=_verify)
    command.add_argument(
        "artefact",
        type=Path,
        help="a .pte file, a .mlpackage or a folder of them, a QNN folder, or a bundle of one of them",
    )
    command.add_argument(
        "--data",
        type=Path,
        help="safetensors with input_ids_R and target_ids_R; a package or QNN folder can be checked without",
    )
    command.add_argument(
        "--against",
        type=Path,
        help="what to compare with, such as the model in FP32, or a file of `diffulex-edge evaluate --logits`",
    )
    command.add_argument("--soc", help="whose context binary of a QNN folder is executed; without it, the first")
    command.add_argument("--json", action="store_true", help="print one JSON object with the keys of `evaluate --json`")
    texts = command.add_argument_group("texts", "at temperature 0, beside those that the model writes on this machine")
    texts.add_argument(
        "--generate", type=Path, metavar="MODEL", help="compare texts with this model's: a folder or ORG/NAME"
    )
    texts.add_argument("--prompt", action="append", default=[], help="what the texts go on from; may be repeated")
    texts.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line")
    texts.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="of each text (default 64)")
    texts.add_argument("--ignore-eos", action="store_true", help="write on behind an end token")
    texts.add_argument("--dtype", help="the format that the model is computed in (default: as its folder has it)")
    texts.add_argument("--mode", help="with --dtype: weight_only (default) or dynamic")
    texts.add_argument("--group-size", type=int, metavar="N", help="with --dtype int4")
    texts.add_argument(
        "--ignore-config-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of the model's config.json that you know to be harmless; may be repeated",
    )


def _generate(arguments: argparse.Namespace, stdout: TextIO) -> None:
    engine = DiffusionEngine.from_artefact(arguments.artefact, arguments.tokenizer, soc=arguments.soc)
    for warning in engine.warnings:
        print(f"diffulex-edge: warning: {warning}", file=sys.stderr)
    names = [field.name for field in fields(DiffusionGenerationConfig)]
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    prompt = arguments.prompt
    if arguments.chat:
        prompt = engine.encode_chat([{"role": "user", "content": prompt}])

    def give(piece: str) -> bool:
        print(piece, end="", file=stdout, flush=True)
        return True

    on_text = None if arguments.json else give
    result = engine.generate(prompt, suffix=arguments.suffix, stop=arguments.stop, on_text=on_text, **options)
    if arguments.json:
        figures = {"tokens_per_forward": result.tokens_per_forward, "tokens_per_second": result.tokens_per_second}
        print(json.dumps({"success": True, **asdict(result), **figures}, indent=2), file=stdout)
        return
    print(file=stdout)
    print(
        f"{len(result.tokens)} tokens in {result.forward_passes} passes, {result.tokens_per_second:.1f} tokens per "
        f"second ({result.stopped})",
        file=sys.stderr,
    )


def _add_generate(commands: Any) -> None:
    command = commands.add_parser("generate", help="write text with an artefact, in its vendor's runtime")
    command.set_defaults(run=_generate)
    command.add_argument("artefact", type=Path, help="an artefact, or a bundle, of a model's folder")
    command.add_argument("--soc", help="whose context binary of a QNN folder is executed; without it, the first")
    command.add_argument("--tokenizer", type=Path, help="the folder of the tokenizer (default: the artefact's)")
    command.add_argument("--prompt", required=True, help="what the text goes on from")
    command.add_argument("--chat", action="store_true", help="answer the prompt, by the folder's chat template")
    command.add_argument("--suffix", default="", help="what comes behind the new text (bidirectional models)")
    command.add_argument("--stop", action="append", default=[], help="ends the text where it appears; may be repeated")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    decoding = command.add_argument_group("decoding", "as `diffulex-edge generate` has them")
    for field in fields(DiffusionGenerationConfig):
        flag = "--" + field.name.replace("_", "-")
        kind = str(field.type).removesuffix(" | None")
        if field.name == "eos_ids":
            decoding.add_argument("--eos-id", dest="eos_ids", type=int, action="append")
        elif field.name == "cache_dtype":
            decoding.set_defaults(cache_dtype=None)  # the artefact's own
        elif kind == "bool":
            decoding.add_argument(flag, action="store_true", default=None)
        else:
            decoding.add_argument(flag, type={"int": int, "float": float, "str": str}[kind])


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m diffulex_edge")
    commands = parser.add_subparsers(required=True)
    _add_verify(commands)
    _add_generate(commands)
    arguments = parser.parse_args()
    with _own_stdout() as stdout:
        try:
            arguments.run(arguments, stdout)
        except (VerificationError, Error) as error:
            print(f"diffulex-edge: error: {error}", file=sys.stderr)
            return EXIT_CODES.get(getattr(error, "code", "BadFile"), 1)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
