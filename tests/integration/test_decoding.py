"""Text decoded by the command: the same tokens as the authors' own programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run_json
from decoding_cases import CHANGING, DecodingCase, decoding_cases

MakeCheckpoint = Callable[..., Path]


def option_words(options: dict[str, Any]) -> list[str]:
    """The command's options for a case's."""
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif name == "suffix":
            continue  # a file, see `generate`
        elif name == "eos_ids":
            words += [word for identifier in value for word in ("--eos-id", str(identifier))]
        elif value is not False:
            words += [flag, str(value)]
    return words


def generate(model: Path, prompt: list[int], folder: Path, **options: Any) -> dict[str, Any]:
    """The command's report of one generation from token ids."""
    ids = folder / "prompt.npy"
    np.save(ids, np.array([prompt], dtype=np.int64))
    words = option_words(options)
    if "suffix" in options:
        suffix = folder / "suffix.npy"
        np.save(suffix, np.array([options["suffix"]], dtype=np.int64))
        words += ["--suffix-ids", str(suffix)]
    return run_json("generate", model, "--prompt-ids", ids, *words, "--threads", 1)


@pytest.mark.parametrize("case", decoding_cases(), ids=str)
def test_tokens_are_those_of_the_authors_program(
    case: DecodingCase, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    # The programs write on behind an end token, or to the end of a block: what is before has to be the same.
    options = case.options | ({} if case.options.get("eos_ids") else {"ignore_eos": True})
    report = generate(case.folder(checkpoint), case.prompt, tmp_path, **options)
    tokens = report["tokens"]
    common = min(
        len(tokens), len(case.tokens)
    )  # Fast-dLLM v2's program counts whole blocks from the prompt's beginning
    assert common > 0
    assert tokens[:common] == case.tokens[:common]
    if report["stopped"] == "length":
        assert len(tokens) == case.options["max_new_tokens"]
    else:
        assert tokens[-1] in case.options["eos_ids"]
        assert not set(tokens[:-1]) & set(case.options["eos_ids"])


@pytest.mark.parametrize("case", decoding_cases(*CHANGING), ids=str)
def test_a_canvas_that_changes_does_so_in_the_passes_of_the_authors_program(
    case: DecodingCase, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    has_end = "eos_ids" in case.options
    report = generate(
        case.folder(checkpoint), case.prompt, tmp_path, **case.options | ({} if has_end else {"ignore_eos": True})
    )
    assert report["tokens"] == case.tokens
    assert report["prompt_tokens"] == len(case.prompt)
    if case.family == "wedlm":  # its engine learns in a pass more that nothing is left
        assert report["forward_passes"] == case.forward_passes - 1
    elif report["stopped"] == "length":
        assert report["forward_passes"] == case.forward_passes
    else:  # blocks behind the end are not computed
        assert report["stopped"] == "end"
        assert report["forward_passes"] <= case.forward_passes
