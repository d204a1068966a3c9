"""Plots as SVG: no script, no font and no colour of their own, so that a page's style decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 56, 116, 14, 42
MOST_POINTS = 600
WIDEST_COLUMN = 60
NARROWEST_NAME, WIDEST_NAME = 170, 300  # pixels for the names of bars


@dataclass(frozen=True)
class Line:
    """One curve: its name, its class in the style sheet, and its points in the order of x."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]
    marked: bool = False  # a dot at every point: for few points, far apart


@dataclass(frozen=True)
class Bar:
    """One value with its interval."""

    name: str
    style: str
    value: float
    low: float
    high: float


def curves(title: str, lines: Sequence[Line], *, x_name: str, height: int = 260) -> str:
    """Curves over a common x, each with its name at its end; nothing when there is nothing to draw."""
    drawn = [Line(one.name, one.style, _finite(one.points), one.marked) for one in lines]
    drawn = [one for one in drawn if one.points]
    if sum(len(one.points) for one in drawn) < 2:
        return ""
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    # from 0 on, unless that would flatten the curve
    lowest = 0.0 if 0 <= min(ys) <= max(ys) / 2 else min(ys)
    across, up = ticks(min(xs), max(xs), 6), ticks(lowest, max(ys), 5)
    right = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    rise = _scale(lowest, max(ys), height - BOTTOM, TOP)
    parts = [_grid_y(tick, rise(tick)) for tick in up]
    parts += [_text(right(tick), height - BOTTOM + 18, number(tick), "middle") for tick in across]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 6, x_name, "middle"))
    names = _apart([rise(one.points[-1][1]) for one in drawn])
    for one, place in zip(drawn, names, strict=True):
        dots = [(right(x), rise(y)) for x, y in _thinned(one.points)]
        parts.append(f'<polyline class="line {one.style}" points="{_path(dots)}"/>')
        if one.marked:
            parts += [f'<circle class="dot {one.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
        label = f"{one.name} {number(one.points[-1][1])}"
        parts.append(_text(dots[-1][0] + 8, place + 4, label, "start", one.style))
    said = "; ".join(f"{one.name} from {number(one.points[0][1])} to {number(one.points[-1][1])}" for one in drawn)
    return _svg(title, said, height, parts)


def bars(title: str, values: Sequence[Bar], top: float, show: Callable[[float], str]) -> str:
    """Values side by side from 0 to `top`, each with its interval as a whisker; `show` writes a value with its unit."""
    row, height = 46, 46 * len(values) + 34
    left = min(WIDEST_NAME, max(NARROWEST_NAME, 24 + 8 * max(len(one.name) for one in values)))
    right = _scale(0.0, top, left, WIDTH - RIGHT)
    parts = []
    for tick in ticks(0.0, top, 5):
        x = right(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 30}"/>')
        parts.append(_text(x, height - 10, f"{100 * tick:.0f} %" if top == 1.0 else number(tick), "middle"))
    for index, one in enumerate(values):
        middle = 4 + row * index + row / 2
        low, high, end = right(one.low), right(one.high), right(one.value)
        parts.append(_text(left - 12, middle + 4, one.name, "end", "name"))
        parts.append(
            f'<rect class="bar {one.style}" x="{left}" y="{middle - 11:.1f}" '
            f'width="{max(1.0, end - left):.1f}" height="22" rx="3"/>'
        )
        parts.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
        parts += [
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 5}" y2="{middle + 5}"/>'
            for x in (low, high)
        ]
        parts.append(_text(max(end, high) + 8, middle + 4, show(one.value), "start", "value"))
    said = "; ".join(
        f"{one.name}: {show(one.value)}, 95 % interval {show(one.low)} to {show(one.high)}" for one in values
    )
    return _svg(title, said, height, parts)


def columns(title: str, values: Sequence[tuple[str, int]], height: int = 200) -> str:
    """Counts side by side under their names, from 0 on; names that have no room are left out."""
    top = max((count for _, count in values), default=0)
    if not top:
        return ""
    rise = _scale(0.0, top, height - BOTTOM, TOP)
    step = min(WIDEST_COLUMN, (WIDTH - LEFT - RIGHT) / len(values))
    parts = [_grid_y(tick, rise(tick)) for tick in ticks(0.0, top, 4)]
    every = max(1, math.ceil(max(len(name) for name, _ in values) * 7 / step))
    for index, (name, count) in enumerate(values):
        x, y = LEFT + index * step, rise(count)
        parts.append(
            f'<rect class="bar one" x="{x + 1:.1f}" y="{y:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{max(0.0, height - BOTTOM - y):.1f}"><title>{escape(name)}: {count:,}</title></rect>'
        )
        if index % every == 0:
            parts.append(_text(x + step / 2, height - BOTTOM + 18, name, "middle"))
    said = "; ".join(f"{name}: {count:,}" for name, count in values if count)
    return _svg(title, said, height, parts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers inside a range, about so many."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * index, 12) for index in range(first, last + 1)] or [low]


def number(value: float) -> str:
    """A number as short as it may be."""
    if value == 0:
        return "0"
    if abs(value) < 0.0001 or abs(value) >= 1e6:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A straight map from a range of values to a range of pixels."""
    slope = (end - start) / (high - low) if high > low else 0.0
    return lambda value: start + (value - low) * slope


def _finite(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """As many points as can be told apart, the last one among them."""
    stride = max(1, len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]


def _apart(places: Sequence[float], least: float = 15.0) -> list[float]:
    """The same heights, moved up where two names would cover each other."""
    moved = list(places)
    order = sorted(range(len(places)), key=places.__getitem__, reverse=True)
    for below, above in pairwise(order):
        moved[above] = min(moved[above], moved[below] - least)
    return moved


def _path(dots: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)


def _grid_y(tick: float, y: float) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(LEFT - 8, y + 4, number(tick), "end")


def _text(x: float, y: float, words: str, anchor: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, said: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg role="img" viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">'
    return f"{head}<title>{escape(title)}</title><desc>{escape(said)}</desc>{''.join(parts)}</svg>"
