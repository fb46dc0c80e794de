"""A sweep as a picture: lines over an axis, as SVG in a page of HTML that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, prod

import numpy as np

from pmc.compiler.sweep.axes import Axis
from pmc.compiler.sweep.result import DOES_NOT_FIT, TEXTS, SweepResult, plain
from pmc.dialects.errors import PmcError

WIDTH, HEIGHT = 920, 560
LEFT, RIGHT, TOP, BOTTOM = 90, 250, 40, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")

MOST_LINES = 24
"""Of a picture: more cannot be told apart."""

MOST_DRAWN = 20_000
"""Points of a picture: browsers are slow with more."""

WIDE = 20.0
"""Ratio of the largest to the smallest value from which on a scale is logarithmic."""


@dataclass(frozen=True)
class Plan:
    """What is drawn: an axis of numbers, a column over it, and a line for each combination of the other axes."""

    x: int
    y: str
    others: tuple[int, ...]


def plan_of(result: SweepResult, by: str | None) -> Plan:
    """What the picture of a sweep shows: the first axis of numbers, and `by` (by default the time) over it.

    Raises PmcError without such an axis, for a column without numbers, and for more than a picture can show.
    """
    x = next((i for i, axis in enumerate(result.axes) if _is_numeric(axis)), None)
    if x is None:
        raise PmcError("--plot needs an axis of numbers, as --set deployment.batch=1,2,4")
    default = "time_us" if "time_us" in result.names else "e2e_us"
    y = (by or "").removeprefix("-") or default
    result.check_column(y)
    if y in TEXTS or y not in result.names:
        raise PmcError(f"--plot draws a column of numbers that was evaluated, not {y}: give another one with --sort")
    others = tuple(i for i in range(len(result.axes)) if i != x)
    lines = prod(len(result.axes[i].values) for i in others)
    if lines > MOST_LINES:
        raise PmcError(f"--plot would draw {lines} lines, one per combination of the other axes; {MOST_LINES} at most")
    if len(result) > MOST_DRAWN:
        raise PmcError(f"--plot would draw {len(result)} points; {MOST_DRAWN} at most")
    return Plan(x, y, others)


def _is_numeric(axis: Axis) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values)


@dataclass(frozen=True)
class Line:
    """The points of a line by x; `fits` says which of them fit the DRAM."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    fits: tuple[bool, ...]


def lines_of(result: SweepResult, plan: Plan) -> list[Line]:
    """What a picture has: a line for each combination of the axes that are not across."""
    shape = [len(axis.values) for axis in result.axes]
    points = np.transpose(np.arange(len(result)).reshape(shape), (*plan.others, plan.x))
    values = [float(str(value)) for value in result.axes[plan.x].values]
    column, status = result.columns[plan.y], result.columns["status"]
    found: list[Line] = []
    for places in np.ndindex(*(shape[i] for i in plan.others)):
        named = zip((result.axes[i] for i in plan.others), places, strict=True)
        name = ", ".join(f"{axis.name} = {plain(axis.values[place])}" for axis, place in named)
        own: list[int] = points[places].tolist()
        drawn = sorted(
            (x, float(column[point]), status[point] != DOES_NOT_FIT)
            for x, point in zip(values, own, strict=True)
            if np.isfinite(column[point])
        )
        x, y, fits = zip(*drawn, strict=True) if drawn else ((), (), ())
        found.append(Line(name or plan.y, x, y, fits))
    return found


def is_wide(values: Sequence[float]) -> bool:
    """Whether the scale of such values is logarithmic."""
    return min(values) > 0 and max(values) / min(values) > WIDE


class _Scale:
    """From values to 0 .. 1, linear or logarithmic."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        self.log = is_wide(values)
        if self.log:
            self.low, self.high = float(floor(log10(low))), float(ceil(log10(high)))
            self.ticks = [10.0**power for power in range(int(self.low), int(self.high) + 1)]
        else:
            step = _step(high - low or abs(high) or 1.0)
            first, last = floor(low / step), ceil(high / step)
            last += first == last
            self.low, self.high = first * step, last * step
            self.ticks = [n * step for n in range(first, last + 1)]

    def at(self, value: float) -> float:
        """0 at the beginning, 1 at the end."""
        return ((log10(value) if self.log else value) - self.low) / (self.high - self.low)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten: about five to ten of them make up the span."""
    power = 10.0 ** floor(log10(span / 5))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= span / 5)


def sweep_svg(result: SweepResult, plan: Plan) -> str:
    """The picture; a point that does not fit the DRAM is hollow, one without a result is missing."""
    lines = lines_of(result, plan)
    x_name = result.axes[plan.x].name
    title = f"{result.model}: {plan.y} over {x_name}"
    body = [_text(LEFT, 22, title, "title")]
    if any(line.x for line in lines):
        body += _drawn(lines, x_name, plan.y)
    else:
        body.append(_text(LEFT, TOP + 20, "no point has a result"))
    style = (
        "text{font:12px sans-serif}.title{font-size:14px;font-weight:bold}.end{text-anchor:end}"
        ".mid{text-anchor:middle}.grid{stroke:#ddd}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f'<style>{style}</style>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _drawn(lines: Sequence[Line], x_name: str, y_name: str) -> list[str]:
    across, up = _Scale([v for line in lines for v in line.x]), _Scale([v for line in lines for v in line.y])

    def px(value: float) -> float:
        return LEFT + across.at(value) * (WIDTH - LEFT - RIGHT)

    def py(value: float) -> float:
        return HEIGHT - BOTTOM - up.at(value) * (HEIGHT - TOP - BOTTOM)

    found: list[str] = []
    for tick in across.ticks:
        found.append(_rule(px(tick), HEIGHT - BOTTOM, px(tick), TOP))
        found.append(_text(px(tick), HEIGHT - BOTTOM + 18, f"{tick:.6g}", "mid"))
    for tick in up.ticks:
        found.append(_rule(LEFT, py(tick), WIDTH - RIGHT, py(tick)))
        found.append(_text(LEFT - 8, py(tick) + 4, f"{tick:.6g}", "end"))
    found.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x_name, "mid"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    found.append(f'<text transform="translate(18 {middle:.1f}) rotate(-90)" class="mid">{escape(y_name)}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        if path:
            found.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for x, y, fits in zip(line.x, line.y, line.fits, strict=True):
            told = f"{line.name}; {x_name} = {x:g}: {y_name} {y:.6g}{'' if fits else ', does not fit'}"
            fill = colour if fits else "white"
            found.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" stroke="{colour}" fill="{fill}">'
                f"<title>{escape(told)}</title></circle>"
            )
        at = TOP + 8 + 20 * number
        found.append(f'<circle cx="{WIDTH - RIGHT + 12}" cy="{at - 4}" r="5" fill="{colour}"/>')
        found.append(_text(WIDTH - RIGHT + 22, at, line.name[-36:]))
    return found


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def sweep_page(result: SweepResult, plan: Plan) -> str:
    """A page with the picture."""
    title = escape(f"{result.model}: {plan.y}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n{sweep_svg(result, plan)}</body></html>\n"
    )
