"""Line charts as plain SVG, several beside one another: no library draws them, and a diff shows what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 240  # of one chart, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 42
COLUMNS = 3
INK, GRID, COLOURS = "#57606a", "#d0d7de", ("#0969da", "#bc4c00", "#1a7f37")  # readable on white and on dark
FONT = "font-family='sans-serif' font-size='11'"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name and its points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one x, which is on a logarithmic scale; y begins at 0."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]


def svg(charts: Sequence[Chart]) -> str:
    """The charts in rows of COLUMNS."""
    rows = math.ceil(len(charts) / COLUMNS)
    width, height = WIDTH * min(COLUMNS, len(charts)), HEIGHT * rows
    parts = [f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' {FONT}>"]
    for number, chart in enumerate(charts):
        place = f"{number % COLUMNS * WIDTH},{number // COLUMNS * HEIGHT}"
        parts += [f"<g transform='translate({place})'>", *_chart(chart), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _chart(chart: Chart) -> list[str]:
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    top = _round_up(max(y for line in chart.lines for _, y in line.points))

    def across(x: float) -> float:
        span = math.log(xs[-1] / xs[0]) or 1.0
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / span

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top

    parts = [_text(WIDTH / 2, 14, chart.title, "middle", "font-weight='bold'")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = down(top * share)
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at:.1f}' y2='{at:.1f}' stroke='{GRID}'/>")
        parts.append(_text(LEFT - 5, at + 4, short(top * share), "end"))
    parts += [_text(across(x), HEIGHT - BOTTOM + 14, short(x), "middle") for x in xs]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x, "middle"))
    parts.append(_text(4, TOP - 8, chart.y, "start"))
    for number, line in enumerate(chart.lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(x), down(y)) for x, y in line.points]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f"<polyline points='{corners}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in places]
        if len(chart.lines) > 1:
            parts.append(_text(LEFT + 8, TOP + 12 + 14 * number, line.name, "start", colour=colour))
    return parts


def _text(x: float, y: float, text: str, anchor: str, more: str = "", *, colour: str = INK) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' {more}>{escape(text)}</text>"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)


def short(value: float) -> str:
    """A number for an axis: 1.5 M, 20 k, 300."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
