"""A small line chart as SVG, so that a benchmark needs no plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 64, 176, 40, 44
COLOURS: Final = ("#b03a2e", "#e59866", "#1a5276", "#5dade2")


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name and its points, x rising."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(title: str, x_title: str, y_title: str, lines: Sequence[Series], *, log: bool) -> str:
    """
    Return a chart as an SVG document.

    Args:
        lines: At least one, with at least one point; with `log` all y above 0.
        log: The y axis is logarithmic, from a power of ten to a power of ten.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_low, x_high = 0.0, max(xs)
    ticks = _decades(min(ys), max(ys)) if log else _steps(max(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def x_at(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        share = (
            math.log(y / y_low) / math.log(y_high / y_low)
            if log
            else (y - y_low) / (y_high - y_low)
        )
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, anchor="middle"),
        _text(LEFT - 8, TOP - 6, y_title, anchor="end"),
    ]
    for tick in ticks:
        y = y_at(tick)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", anchor="end"))
    parts += [
        _text(x_at(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", anchor="middle")
        for tick in sorted(set(xs))
    ]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line.points)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in line.points
        ]
        at = TOP + 10 + 18 * number
        x = WIDTH - RIGHT + 12
        parts.append(
            f'<line x1="{x}" y1="{at - 4}" x2="{x + 18}" y2="{at - 4}" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        parts.append(_text(x + 24, at, line.name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**exponent for exponent in range(first, max(last, first + 1) + 1)]


def _steps(high: float) -> list[float]:
    """Return 0 and a few round numbers, the last at or above `high`."""
    rough = (high or 1.0) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * n for n in range(math.ceil((high or 1.0) / step) + 1)]
