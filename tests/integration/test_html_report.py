"""Reports as people see them: loaded in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from browser import Browser, Page, open_browser
from command import COMMAND, OUTPUT_ERROR, USAGE_ERROR, assert_fails, run, run_json
from conftest import MakeCheckpoint
from evaluation_data import cut
from program import random_ids
from safetensors.numpy import load_file, save_file

WIDTHS = (1280, 400)
LAYERS = 4 * 7  # linear layers of the bundled model's blocks
INPUTS = 4 * 4  # distinct inputs of these


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@dataclass
class Report:
    html: Path
    json: dict[str, Any]
    words: list[str]


def make_report(folder: Path, *words: object) -> Report:
    html = folder / "report.html"
    arguments = [*map(str, words), "--report", str(html), "--quiet"]
    return Report(html=html, json=run_json(*arguments), words=[str(COMMAND), *arguments, "--json"])


@pytest.fixture(scope="module")
def data(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sequences of each set of the bundled model's evaluation data: pages look the same, and sooner."""
    return cut(tiny / "eval.safetensors", tmp_path_factory.mktemp("data") / "eval.safetensors", 6)


@pytest.fixture(scope="module")
def evaluation(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("evaluation")
    return make_report(folder, "evaluate", tiny, "--data", data, "--dtype", "int4")


@pytest.fixture(scope="module")
def static_evaluation(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("static")
    options = ("--dtype", "int8", "--mode", "static", "--calibration", tiny / "calibration.txt")
    sizes = ("--calibration-sequences", 8, "--no-format-comparison")
    return make_report(folder, "evaluate", tiny, "--data", data, *options, *sizes)


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("export")
    options = ("--dtype", "int4", "--method", "gptq", "--calibration", tiny / "calibration.txt")
    sizes = ("--calibration-sequences", 8)
    return make_report(folder, "export", tiny, "-o", folder / "model.pte", *options, *sizes)


@pytest.fixture(scope="module")
def planned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("plan")
    options = ("--calibration", tiny / "calibration.txt", "--calibration-sequences", 2, "--target-size", "2MB")
    return make_report(folder, "plan", tiny, "-o", folder / "plan.json", *options)


@pytest.fixture(scope="module")
def compiled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("qnn")
    options = ("--dtype", "int8", "--seq-len", 16, "--embedding-on", "host")
    compiler = ("--soc", "SM8550", "--soc", "SM8750", "--qnn-python", sys.executable)
    return make_report(folder, "export", tiny, "-o", folder / "model", "--backend", "qnn", *options, *compiler)


REPORTS = ("evaluation", "static_evaluation", "exported", "planned", "compiled")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_page_loads_without_errors_requests_or_overflow(
    name: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(name)
    page = browser.load(report.html, width)
    assert page.console == []
    assert page.requests == [report.html.resolve().as_uri()]
    assert page.evaluate("window.innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.count("script, link, img, iframe") == 0


@pytest.mark.parametrize("name", REPORTS)
def test_chart_text_is_legible_and_inside_the_page(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    for width in WIDTHS:
        page = browser.load(report.html, width)
        texts = page.evaluate(
            "[...document.querySelectorAll('main svg text')].map(t => {"
            "const r = t.getBoundingClientRect(); const s = parseFloat(getComputedStyle(t).fontSize);"
            "return [t.textContent, s, r.left, r.right]})"
        )
        assert texts
        for text, size, left, right in texts:
            assert size >= 12, text
            assert left >= 0, text
            assert right <= width, text


OVERLAPS = """(() => {
const found = [];
for (const figure of document.querySelectorAll('figure.chart')) {
  const boxes = [...figure.querySelectorAll('svg text, .mark.point g')]
    .map(t => [t.tagName === 'g' ? 'a point' : t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    if (a === 'a point' && b === 'a point') return;
    const width = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const height = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (width > 1 && height > 4) found.push(`${figure.querySelector('figcaption')?.textContent}: ${a} over ${b}`);
  }));
}
return found})()"""  # letters are some 4 pixels lower than their line


@pytest.mark.parametrize("name", REPORTS)
def test_texts_of_a_chart_do_not_overlap(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    for width in (1280, 1000, 700, 400, 320):
        assert browser.load(report.html, width).evaluate(OVERLAPS) == [], width


@pytest.mark.parametrize("name", REPORTS)
def test_page_begins_with_one_sentence(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    page = browser.load(report.html, 400)
    assert page.evaluate("document.querySelector('main').firstElementChild.className") == "verdict"
    assert page.count(".verdict") == 1
    assert page.evaluate("document.querySelector('.verdict').textContent").endswith(".")


def shade(page: Page, x: float, y: float, height: float) -> float:
    """How dark the page is at most in a column of pixels, from 0 (white) to 255."""
    clip = {"x": x, "y": y, "width": 1, "height": height, "scale": 1}
    options = {"format": "png", "clip": clip, "captureBeyondViewport": True}
    picture = page.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    script = """const done = arguments[1]; const image = new Image();
    image.onload = () => {
      const canvas = document.createElement('canvas'); canvas.width = image.width; canvas.height = image.height;
      const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
      const data = context.getImageData(0, 0, image.width, image.height).data;
      let least = 255;
      for (let i = 0; i < data.length; i += 4) least = Math.min(least, data[i]);
      done(255 - least);
    };
    image.src = 'data:image/png;base64,' + arguments[0];"""
    return float(page.driver.execute_async_script(script, picture))


def test_a_table_that_scrolls_shows_that_it_does(evaluation: Report, browser: Browser) -> None:
    box = "document.querySelector('.scroll')"
    at = f"(() => {{const r = {box}.getBoundingClientRect(); return [r.left, r.right, r.top + scrollY]}})()"
    room = 5.0  # the space above the header's letters

    wide = browser.load(evaluation.html, 1280)
    assert wide.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")
    left, right, top = wide.evaluate(at)
    assert shade(wide, right - 2, top, room) < 5

    # A picture of the whole page has no scrollbar: neither has what is measured.
    wide.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    try:
        page = browser.load(evaluation.html, 400)
        assert page.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
        left, right, top = page.evaluate(at)
        assert shade(page, right - 2, top, room) > 50
        assert shade(page, left + 1, top, room) < 5
        page.evaluate(f"{box}.scrollLeft = {box}.scrollWidth")
        assert shade(page, right - 2, top, room) < 5
        assert shade(page, left + 1, top, room) > 50
    finally:
        wide.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": False})


@pytest.mark.parametrize("name", REPORTS)
def test_light_and_dark_differ(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.load(report.html, 1280, "light").evaluate(colour)
    dark = browser.load(report.html, 1280, "dark").evaluate(colour)
    assert light == "rgb(255, 255, 255)"
    assert dark != light


def test_plan_draws_every_format_and_layer(planned: Report, browser: Browser) -> None:
    page = browser.load(planned.html, 1280)
    tooltips = page.evaluate("[...document.querySelectorAll('main svg .mark title')].map(t => t.textContent)")
    for entry in planned.json["uniform"]:
        assert entry["format"] == "fp32" or any(text.startswith(entry["format"] + ":") for text in tooltips)
    assert any(text.startswith("this plan") for text in tooltips)
    layers = {text.split(":")[0]: text for text in tooltips if text.startswith("layers.")}
    assert len(layers) == LAYERS
    for layer, text in layers.items():
        assert text.endswith("chosen " + planned.json["layers"][layer])


def charts(title: str) -> str:
    """In JavaScript, the charts whose title starts with `title`."""
    return (
        "[...document.querySelectorAll('figure.chart')]"
        f".filter(f => f.querySelector('figcaption')?.textContent.startsWith({json.dumps(title)}))"
    )


def panels(page: Any, title: str, marks: str = ".mark") -> int:
    """Marks in the charts whose title starts with `title`."""
    return int(
        page.evaluate(f"{charts(title)}.reduce((n, f) => n + f.querySelectorAll({json.dumps(marks)}).length, 0)")
    )


def is_measurable(low: float, high: float) -> bool:
    return not low <= 0 <= high and max(abs(low), abs(high)) >= 0.00005


def axis_numbers(page: Any, title: str) -> list[list[str]]:
    """The horizontal axis of each chart whose title starts with `title`."""
    return list(
        page.evaluate(f"{charts(title)}.map(f => [...f.querySelectorAll('.tick.middle')].map(t => t.textContent))")
    )


def test_loss_against_size_has_one_scale(evaluation: Report, browser: Browser) -> None:
    numbers = axis_numbers(browser.load(evaluation.html, 1280), "set ")
    assert len(numbers) == 3
    assert numbers[0] == numbers[1] == numbers[2]
    assert any(float(number) > 0 for number in numbers[0])


def test_evaluation_has_a_mark_for_each_figure(evaluation: Report, browser: Browser) -> None:
    page = browser.load(evaluation.html, 1280)
    formats = evaluation.json["formats"]
    assert [(entry["dtype"], entry["group_size"]) for entry in formats] == [
        ("fp16", 32),
        ("int8", 32),
        *(("int4", size) for size in (32, 64, 128, 256)),
        ("int4", 0),
    ]
    # This run is one of them; fp32 is the line at zero, and in the sizes.
    assert panels(page, "Weights", ".mark.area") == len(formats) + 1
    for label in ("15", "50", "90"):
        assert panels(page, f"set {label}", ".mark.point") == len(formats)
        assert panels(page, f"set {label}", ".whisker") == 3 * len(formats)  # the line and its two ends
        unknown = sum(not is_measurable(*entry["loss_increase_interval"][label]) for entry in formats)
        assert panels(page, f"set {label}", ".mark.outline") == unknown > 0
        words = page.evaluate("[...document.querySelectorAll('figure.chart text')].map(t => t.textContent)")
    assert words.count("not measurable") == sum(
        not is_measurable(*interval) for entry in formats for interval in entry["loss_increase_interval"].values()
    )
    noise = sum(panels(page, kind) for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"))
    assert noise + panels(page, "down_proj") == LAYERS
    assert panels(page, "Outside the blocks") == 1
    assert len(evaluation.json["layers"]) == LAYERS + 1
    assert {layer["format"] for layer in evaluation.json["layers"]} == {"i4 groups of 32, bf16 scales", "f32"}
    text = page.evaluate("document.body.innerText")
    for label, loss in evaluation.json["loss"].items():
        assert f"{loss:.4f}" in text, label


def test_formats_cost_what_their_own_evaluation_says(evaluation: Report, tiny: Path, data: Path) -> None:
    by_name = {entry["name"]: entry for entry in evaluation.json["formats"]}
    same = by_name["int4, groups of 32"]
    for key in ("loss", "loss_increase", "kl_divergence"):
        assert same[key] == evaluation.json[key]
    assert same["planned_bytes"] == evaluation.json["planned_bytes"]
    options = ("--dtype", "int4", "--group-size", 0)
    alone = run_json("evaluate", tiny, "--data", data, *options)
    channel = by_name["int4, per channel"]
    assert channel["planned_bytes"] == alone["planned_bytes"]
    for key in ("loss", "kl_divergence"):
        assert channel[key] == pytest.approx(alone[key], rel=1e-6)
    assert evaluation.json["original_bytes"] == 4 * 2885888


@pytest.mark.parametrize("name", ["static_evaluation", "exported"])
def test_calibration_is_shown(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    page = browser.load(report.html, 400)
    assert len(report.json["calibration"]["activations"]) == LAYERS
    assert panels(page, "Input of", ".mark.area") == 2 * INPUTS
    assert panels(page, "Input of", ".mark.point") == 4 * INPUTS
    for layer in report.json["calibration"]["activations"]:
        for kind in ("masked", "unmasked"):
            assert layer[kind]["token_scales_db"] > 10
            assert layer[kind]["static_scale_db"] > 0
        assert ("output" in layer) == (name == "static_evaluation")
    # One scale for all tokens is worse for most layers, whatever kind of token.
    worse = sum(a[k]["static_scale_db"] < a[k]["token_scales_db"] for a, k in each_kind(report))
    assert worse > LAYERS


def each_kind(report: Report) -> list[tuple[dict[str, Any], str]]:
    return [(layer, kind) for layer in report.json["calibration"]["activations"] for kind in ("masked", "unmasked")]


def test_export_shows_rounding_and_every_layer(exported: Report, browser: Browser) -> None:
    page = browser.load(exported.html, 1280)
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert sum(panels(page, kind) for kind in kinds) == LAYERS  # rounding; sizes are the same in every block
    assert "Each linear layer" not in exported.html.read_text()
    assert page.count("details tbody tr") >= len(exported.json["layers"])
    assert panels(page, "Stored size") > 5


def test_placement_and_binaries_are_shown(compiled: Report, browser: Browser) -> None:
    folder = Path(compiled.json["output"])
    placement = compiled.json["placement"]
    (host, npu) = (onnx.load(folder / name, load_external_data=False) for name in ("embedding.onnx", "model.onnx"))
    assert placement["host"] == Counter(node.op_type for node in host.graph.node)
    assert placement["npu"] == Counter(node.op_type for node in npu.graph.node)
    page = browser.load(compiled.html, 1280)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    text = page.evaluate("document.body.innerText")
    assert f"{placement['npu']['MatMul']:,}" in text
    assert [binary["soc"] for binary in placement["binaries"]] == ["SM8550", "SM8750"]
    for binary in placement["binaries"]:
        assert binary["source"] == "model.onnx"
        assert binary["bytes"] == (folder / binary["soc"] / "model_ctx_qnn.bin").stat().st_size
        assert f"{binary['bytes']:,}" in text
        assert binary["peak_rss_bytes"] > 50e6


@pytest.mark.parametrize("name", REPORTS)
def test_page_says_where_it_comes_from(name: str, tiny: Path, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(name)
    files = ("config.json", "model.safetensors")
    hashes = [hashlib.sha256((tiny / file).read_bytes()).hexdigest() for file in files]
    lines = "".join(f"{value}  {file}\n" for value, file in zip(hashes, files, strict=True))
    assert [file["sha256"] for file in report.json["model_files"]] == hashes
    assert report.json["model_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert shlex.split(report.json["command"]) == report.words
    html = report.html.read_text()
    assert report.json["model_sha256"] in html
    assert all(value in html for value in hashes)


def test_same_inputs_give_the_same_page(tiny: Path, tmp_path: Path) -> None:
    pages = []
    for _ in range(2):
        report = make_report(tmp_path, "export", tiny, "-o", tmp_path / "model.pte", "--dtype", "int8")
        pages.append(report.html.read_bytes())
    assert pages[0] == pages[1]


def test_an_evaluation_page_does_not_depend_on_threads(tiny: Path, data: Path, tmp_path: Path) -> None:
    pages = []
    for threads in (1, 2):
        words = ("evaluate", tiny, "--data", data, "--dtype", "int8", "--threads", threads)
        page = make_report(tmp_path, *words, "--no-format-comparison").html.read_text()
        pages.append(page.replace(f"<span>{threads}</span>", ""))
    assert pages[0] == pages[1]


def test_formats_that_a_model_cannot_take_are_named(
    checkpoint: MakeCheckpoint, browser: Browser, tmp_path: Path
) -> None:
    """Groups that do not divide a row, and weights beyond FP16, which show only when they are read."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("llama", dtype="float32"), model)
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    weights[name][0, 0] = 1e5
    save_file(weights, model / "model.safetensors")
    ids = tmp_path / "ids.npy"
    np.save(ids, random_ids(2 * 20, 1000).reshape(2, 20).numpy())
    report = make_report(tmp_path, "evaluate", model, "--data", ids, "--dtype", "int8")
    left_out = {entry["name"]: entry["reason"] for entry in report.json["formats_left_out"]}
    assert "65504" in left_out["fp16"]
    assert "256 do not divide" in left_out["int4, groups of 256"]
    names = [entry["name"] for entry in report.json["formats"]]
    assert {"int8", "int4, groups of 32", "int4, per channel"} <= set(names)
    assert len(names) + len(left_out) == 7
    text = browser.load(report.html, 1280).evaluate("document.body.innerText")
    for format_name, reason in left_out.items():
        assert f"Left out: {format_name}. {reason}" in text


def test_a_quantized_checkpoint_has_one_format(tiny: Path, data: Path, tmp_path: Path) -> None:
    run_json("quantize", tiny, "-o", tmp_path / "int4", "--dtype", "int4")
    report = make_report(tmp_path, "evaluate", tmp_path / "int4", "--data", data)
    assert "formats" not in report.json
    assert "Loss against size" not in report.html.read_text()


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_an_unwritable_report_fails_before_the_work(command: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    output = ("-o", tmp_path / "model.pte") if command == "export" else ("--data", tiny / "eval.safetensors")
    for target in ("missing/report.html", "folder", "/dev/null"):
        result = run(command, tiny, *output, "--report", tmp_path / target)
        assert_fails(result, OUTPUT_ERROR, str(tmp_path / target) if target != "/dev/null" else target)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_dry_run_reads_no_weights_for_its_report(tiny: Path, tmp_path: Path) -> None:
    report = make_report(tmp_path, "export", tiny, "-o", tmp_path / "model.pte", "--dtype", "int4", "--dry-run")
    assert "model_sha256" not in report.json
    assert "Would be written to" in report.html.read_text()


def test_a_report_never_replaces_data(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    text = (tiny / "calibration.txt").read_bytes()
    data.write_bytes(text)
    result = run("evaluate", tiny, "--data", data, "--report", data)
    assert_fails(result, USAGE_ERROR, "data.txt")
    options = ("--dtype", "int4", "--method", "gptq", "--calibration", data)
    result = run("export", tiny, "-o", tmp_path / "model.pte", *options, "--report", data)
    assert_fails(result, USAGE_ERROR, "data.txt")
    assert data.read_bytes() == text
