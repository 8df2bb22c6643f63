"""evaluate --generate: what is said of two models' texts is what comparing the texts of `generate` by hand gives."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from command import BAD_FILE, USAGE_ERROR, assert_fails, run, run_json

PROMPTS = ["In the beginning", "And the LORD said", "The king of", "Blessed is the man", "Now therefore"]
INT4 = ("--dtype", "int4", "--mode", "dynamic", "--head-dtype", "int4")
DECODING = ("--max-new-tokens", 16, "--threshold", 0.6)


def write_prompts(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts_of(model: Path, *options: object) -> list[dict[str, Any]]:
    return [run_json("generate", model, "--prompt", prompt, *DECODING, *options) for prompt in PROMPTS]


def evaluate(model: Path, prompts: Path, *options: object) -> dict[str, Any]:
    found: dict[str, Any] = run_json("evaluate", model, "--generate", prompts, *DECODING, *options)["generation"]
    return found


def common(a: list[int], b: list[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_int4_beside_fp32_is_what_two_runs_of_generate_give(tiny: Path, tmp_path: Path) -> None:
    reference, texts = texts_of(tiny), texts_of(tiny, *INT4)
    lines = [{"prompt": prompt, "answer": text["text"]} for prompt, text in zip(PROMPTS, reference, strict=True)]
    found = evaluate(tiny, write_prompts(tmp_path / "p.jsonl", lines), *INT4, "--at-once", 2)

    pairs = [(a["tokens"], b["tokens"]) for a, b in zip(texts, reference, strict=True)]
    shares = [common(a, b) / max(len(a), len(b)) for a, b in pairs]
    places = [common(a, b) for a, b in pairs if a != b]
    assert 0 < len(places) < len(PROMPTS), "the test needs prompts of both kinds"
    assert found["prompts"] == len(PROMPTS)
    assert found["same"]["count"] == sum(a == b for a, b in pairs)
    assert found["equal_before_first_difference"] == pytest.approx(statistics.mean(shares))
    assert found["first_difference"] == statistics.median(places)
    for entry, runs in ((found, texts), (found["reference"], reference)):
        assert entry["tokens"] == sum(len(text["tokens"]) for text in runs)
        assert entry["forward_passes"] == sum(text["forward_passes"] for text in runs)
        assert entry["tokens_per_forward"] == pytest.approx(entry["tokens"] / entry["forward_passes"])
        right = sum(a["text"].strip() == b["text"].strip() for a, b in zip(runs, reference, strict=True))
        assert (entry["right"]["count"], entry["right"]["of"]) == (right, len(PROMPTS))


def test_a_model_writes_what_it_writes_itself(tiny: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    found = evaluate(tiny, prompts, "--against", tiny)
    assert found["same"]["share"] == 1.0
    assert found["equal_before_first_difference"] == 1.0
    assert found["first_difference"] is None
    assert "right" not in found


def test_rules_say_what_is_right(tiny: Path, tmp_path: Path) -> None:
    text = run_json("generate", tiny, "--prompt", PROMPTS[0], *DECODING)["text"]
    word = next(word for word in text.split() if word.isalpha())
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import sys\nprompt, answer, text = sys.argv[1:]\nsys.exit(0 if answer in text and prompt else 1)\n"
    )
    answers = [
        (text, "exact", 1),
        (text + "x", "exact", 0),
        (rf"\b{word}\b", "regex", 1),
        (rf"\b{word}\d", "regex", 0),
        ("7", "number", 0),
        (word, "command", 1),
        (word + "7", "command", 0),
    ]
    lines = [{"prompt": PROMPTS[0], "answer": answer, "rule": rule} for answer, rule, _ in answers]
    prompts = write_prompts(tmp_path / "p.jsonl", lines)
    found = evaluate(tiny, prompts, "--judge-command", f"python3 {judge}")
    assert (found["right"]["count"], found["right"]["of"]) == (sum(right for _, _, right in answers), len(answers))


def test_a_command_comes_from_the_command_line_only(tiny: Path, tmp_path: Path) -> None:
    line = {"prompt": "a", "answer": "touch " + str(tmp_path / "made"), "rule": "command"}
    prompts = write_prompts(tmp_path / "p.jsonl", [{"prompt": "a"}, line])
    result = run("evaluate", tiny, "--generate", prompts)
    assert_fails(result, BAD_FILE, f"{prompts}: line 2: ", "--judge-command")
    line["judge_command"] = "touch"
    assert_fails(run("evaluate", tiny, "--generate", write_prompts(prompts, [line])), BAD_FILE, "line 1: ")
    result = run("evaluate", tiny, "--generate", prompts, "--judge-command", "/no/such/judge", "--quiet")
    assert_fails(result, USAGE_ERROR, "/no/such/judge")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"prompt": 1}', '{"input_ids": [99999]}', '{"prompt": "a", "answer": "b", "rule": "x"}']
)
def test_broken_lines_are_refused_with_file_and_line(line: str, tiny: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n\n' + line + "\n")
    assert_fails(run("evaluate", tiny, "--generate", prompts), BAD_FILE, f"{prompts}: line 3: ")


def test_options_that_make_no_sense_are_refused(tiny: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", [{"prompt": "a"}])
    assert_fails(run("evaluate", tiny), USAGE_ERROR, "--data", "--generate")
    assert_fails(run("evaluate", tiny, "--generate", prompts, "--temperature", 1), USAGE_ERROR, "without chance")
    assert_fails(run("evaluate", tiny, "--data", "x.txt", "--steps", 4), USAGE_ERROR, "--steps requires --generate")
    assert_fails(
        run("evaluate", tiny, "--generate", prompts, "--logits", tmp_path / "l.safetensors"), USAGE_ERROR, "--data"
    )


def test_loss_and_text_are_in_one_report(tiny: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", [{"prompt": prompt} for prompt in PROMPTS[:2]])
    page = tmp_path / "r.html"
    options = ("--generate", prompts, *DECODING, *INT4, "--report", page)
    report = run_json("evaluate", tiny, "--data", tiny / "eval.safetensors", "--no-format-comparison", *options)
    assert set(report["loss"]) == set(report["loss_increase"])
    assert report["generation"]["prompts"] == 2
    html = page.read_text()
    assert "Same text" in html
    assert str(prompts) in html
    without_loss = run_json("evaluate", tiny, *options)
    assert "loss" not in without_loss
    assert without_loss["generation"] == report["generation"]
    assert ">Loss<" not in page.read_text()
