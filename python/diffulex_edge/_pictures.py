"""Small pictures and tables for notebooks: HTML and SVG as strings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

_BLUE: Final = "#4878a8"
_GREY: Final = "#999999"


def table(rows: Mapping[str, Any]) -> str:
    """A name and a value in each row; values are HTML."""
    return "<table>" + "".join(f"<tr><th>{html.escape(k)}</th><td>{v}</td></tr>" for k, v in rows.items()) + "</table>"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head; cells are text."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line("th", head) + "".join(line("td", row) for row in rows) + "</table>"


def bar_chart(title: str, bars: Sequence[tuple[str, int, str]]) -> str:
    """Bars of counts: a label below, the count, and what the bar says when pointed at."""
    most = max((count for _, count, _ in bars), default=0)
    if most == 0:
        return ""
    step, height = 28, 120
    parts = []
    for i, (label, count, tip) in enumerate(bars):
        tall = (height - 30) * count / most
        parts.append(
            f'<rect x="{i * step + 2}" y="{height - 20 - tall:.1f}" width="{step - 4}" height="{tall:.1f}" '
            f'fill="{_BLUE}"><title>{html.escape(tip)}</title></rect>'
            f'<text x="{i * step + step / 2}" y="{height - 6}" font-size="8" text-anchor="middle">{html.escape(label)}'
            "</text>"
        )
    return _svg(title, step * len(bars), height, parts)


def interval_chart(title: str, rows: Sequence[tuple[str, float, float | None, float | None, float | None]]) -> str:
    """Estimates with their intervals, one below the other: label, mean, low, high, and a reference to compare with."""
    numbers = [number for row in rows for number in row[1:] if number is not None]
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    left, width, step = 90, 420, 22

    def place(number: float) -> float:
        share = 0.5 if most == least else (number - least) / (most - least)
        return left + 10 + share * (width - left - 20)

    parts = []
    for i, (label, mean, low, high, reference) in enumerate(rows):
        y = i * step + step / 2
        parts.append(
            f'<text x="{left - 6}" y="{y + 3:.1f}" font-size="10" text-anchor="end">{html.escape(label)}</text>'
        )
        if low is not None and high is not None:
            ends = f'x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} stroke="{_BLUE}" stroke-width="2"/>')
        if reference is not None:
            x = place(reference)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 7}" y2="{y + 7}" stroke="{_GREY}" stroke-width="2">'
                         f"<title>reference {reference:.4f}</title></line>")  # fmt: skip
        parts.append(f'<circle cx="{place(mean):.1f}" cy="{y}" r="4" fill="{_BLUE}"><title>{mean:.4f}</title></circle>')
    return _svg(title, width, step * len(rows), parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )
