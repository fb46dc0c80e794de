"""The roofline as a picture: characters for a terminal, SVG or a page of HTML that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10, sqrt

from pmc.backends.evaluate.explain.roofline import Roofline, RooflinePoint

COLUMNS, ROWS = 64, 14
"""Characters of the small picture."""

WIDTH, HEIGHT = 920, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 40, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")

BIG = 12
"""Ops that get a name in the picture: those that take longest."""


class _Axes:
    """Decades of both axes, wide enough for all points and for the ridge of the highest roof."""

    def __init__(self, roofline: Roofline) -> None:
        peak = roofline.roofs[0].flops_per_s
        x = [*(p.flops_per_byte for p in roofline.points), peak / roofline.bytes_per_s]
        y = [*(p.flops_per_s for p in roofline.points), peak]
        self.x0, self.x1 = floor(log10(min(x))), ceil(log10(max(x)) + 0.3)
        self.y0, self.y1 = floor(log10(min(y))), ceil(log10(max(y)) + 0.01)

    def x(self, value: float) -> float:
        """0 at the left edge, 1 at the right."""
        return (log10(value) - self.x0) / (self.x1 - self.x0)

    def y(self, value: float) -> float:
        """0 at the bottom, 1 at the top."""
        return (log10(value) - self.y0) / (self.y1 - self.y0)


def roofline_text(roofline: Roofline) -> list[str]:
    """The lines of a picture: `.` the roofs, letters the ops that take longest, `o` the others; none without points."""
    if not roofline.points:
        return []
    axes = _Axes(roofline)
    cells = [[" "] * COLUMNS for _ in range(ROWS)]

    def put(x: float, y: float, mark: str) -> None:
        row = ROWS - 1 - min(ROWS - 1, max(0, round(axes.y(y) * (ROWS - 1))))
        cells[row][min(COLUMNS - 1, max(0, round(axes.x(x) * (COLUMNS - 1))))] = mark

    for column in range(COLUMNS):
        x = 10 ** (axes.x0 + column / (COLUMNS - 1) * (axes.x1 - axes.x0))
        for roof in roofline.roofs:
            if min(roof.flops_per_s, x * roofline.bytes_per_s) >= 10**axes.y0:
                put(x, min(roof.flops_per_s, x * roofline.bytes_per_s), ".")
    named = _longest(roofline.points)
    for point in sorted(roofline.points, key=lambda p: p.time_us):
        mark = chr(ord("A") + named.index(point)) if point in named else "o"
        put(point.flops_per_byte, point.flops_per_s, mark)
    lines = ["roofline (log scales): FLOP/s over FLOPs per byte of DRAM"]
    for number, row in enumerate(cells):
        decade = axes.y1 - number / (ROWS - 1) * (axes.y1 - axes.y0)
        lines.append(f"  1e{decade:04.1f} |{''.join(row)}".rstrip())
    lines.append(f"         +{'-' * COLUMNS}")
    lines.append(f"          {f'1e{axes.x0}':<{COLUMNS // 2}}{f'1e{axes.x1} FLOP/byte':>{COLUMNS // 2}}")
    lines += [
        f"  {chr(ord('A') + i)} {p.path}: {p.flops_per_byte:.3g} FLOP/byte, {p.flops_per_s / 1e12:.3g} TFLOP/s, "
        f"{_reached(roofline, p):.0%} of its roof"
        for i, p in enumerate(named)
    ]
    return lines


def _longest(points: Sequence[RooflinePoint]) -> list[RooflinePoint]:
    return sorted(points, key=lambda p: (-p.time_us, p.path))[:BIG]


def _reached(roofline: Roofline, point: RooflinePoint) -> float:
    """The part of the roof at its own FLOPs per byte that an op reaches."""
    peak = next(roof.flops_per_s for roof in roofline.roofs if roof.name == point.roof)
    return point.flops_per_s / min(peak, point.flops_per_byte * roofline.bytes_per_s)


def roofline_svg(roofline: Roofline, title: str) -> str:
    """A picture of its own; the area of a circle is the time of its op, whose figures show under the pointer."""
    body = (
        [_text(LEFT, 22, title, "title"), *_drawn(roofline)] if roofline.points else [_text(LEFT, 22, title, "title")]
    )
    style = (
        "text{font:12px sans-serif}.title{font-size:14px;font-weight:bold}.end{text-anchor:end}"
        ".mid{text-anchor:middle}.grid{stroke:#ddd}.axis{stroke:#333}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f'<style>{style}</style>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _drawn(roofline: Roofline) -> list[str]:
    axes = _Axes(roofline)

    def px(value: float) -> float:
        return LEFT + axes.x(value) * (WIDTH - LEFT - RIGHT)

    def py(value: float) -> float:
        return HEIGHT - BOTTOM - axes.y(value) * (HEIGHT - TOP - BOTTOM)

    left, right, low = 10.0**axes.x0, 10.0**axes.x1, 10.0**axes.y0
    found: list[str] = []
    for decade in range(axes.x0, axes.x1 + 1):
        x = px(10.0**decade)
        found.append(_line(x, py(low), x, py(10.0**axes.y1), "grid"))
        found.append(_text(x, HEIGHT - BOTTOM + 18, _decade(decade), "mid"))
    for decade in range(axes.y0, axes.y1 + 1):
        y = py(10.0**decade)
        found.append(_line(px(left), y, px(right), y, "grid"))
        found.append(_text(LEFT - 8, y + 4, _decade(decade), "end"))
    found.append(_text((px(left) + px(right)) / 2, HEIGHT - 16, "FLOP per byte of DRAM", "mid"))
    found.append(f'<text transform="translate(18 {(py(low) + TOP) / 2:.1f}) rotate(-90)" class="mid">FLOP/s</text>')
    for roof in roofline.roofs:
        ridge = roof.flops_per_s / roofline.bytes_per_s
        start = max(left, low / roofline.bytes_per_s)
        points = [(start, min(roof.flops_per_s, start * roofline.bytes_per_s)), (right, roof.flops_per_s)]
        if start < ridge < right:
            points.insert(1, (ridge, roof.flops_per_s))
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        found.append(f'<polyline points="{path}" fill="none" class="axis"/>')
        found.append(_text(px(right) + 6, py(roof.flops_per_s) + 4, f"{roof.name} {roof.flops_per_s / 1e12:.4g} T"))
    longest, all_us = _longest(roofline.points), max(p.time_us for p in roofline.points)
    for point in sorted(roofline.points, key=lambda p: -p.time_us):
        named = point in longest
        colour = COLOURS[longest.index(point) % len(COLOURS)] if named else "#999999"
        x, y, radius = px(point.flops_per_byte), py(point.flops_per_s), 3 + 17 * sqrt(point.time_us / all_us)
        told = (
            f"{point.path} {point.op}: {point.time_us:.3f} us, {point.flops_per_byte:.3g} FLOP/byte, "
            f"{point.flops_per_s / 1e12:.3g} TFLOP/s, {_reached(roofline, point):.1%} of its roof"
        )
        found.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.6">'
            f"<title>{escape(told)}</title></circle>"
        )
    for number, point in enumerate(longest):
        y = TOP + 14 + 16 * number + 18 * len(roofline.roofs)
        colour = COLOURS[number % len(COLOURS)]
        found.append(f'<circle cx="{WIDTH - RIGHT + 12}" cy="{y - 4}" r="5" fill="{colour}"/>')
        found.append(_text(WIDTH - RIGHT + 22, y, point.path[-34:]))
    return found


def _decade(power: int) -> str:
    return f"1e{power}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def roofline_page(roofline: Roofline, title: str) -> str:
    """A page with the picture, and the ops as a table, the longest first."""
    rows = "\n".join(
        f"<tr><td>{escape(p.path)}</td><td>{escape(p.op)}</td><td>{p.time_us:.3f}</td><td>{p.flops_per_byte:.4g}</td>"
        f"<td>{p.flops_per_s / 1e12:.4g}</td><td>{escape(p.roof)}</td><td>{_reached(roofline, p):.1%}</td></tr>"
        for p in sorted(roofline.points, key=lambda p: (-p.time_us, p.path))
    )
    heads = "".join(
        f"<th>{head}</th>" for head in ("op path", "op", "time us", "FLOP/byte", "TFLOP/s", "roof", "of the roof")
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 10px;text-align:left}</style></head>\n"
        f"<body>\n{roofline_svg(roofline, title)}<table>\n<tr>{heads}</tr>\n{rows}\n</table>\n</body></html>\n"
    )
