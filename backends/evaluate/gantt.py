"""A part of a timeline as a picture: a row per engine, a bar per event, quantities below, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from pmc.backends.evaluate.timeline import Counter, Event

WIDTH, LEFT, RIGHT, TOP, ROW, GAP, CURVE = 1100, 130, 20, 46, 26, 8, 60
"""Sizes in pixels: the picture, its margins, a row, the room between rows, a curve."""

COLOURS = ("#4878a8", "#d08040", "#5a9a5a", "#a05a8a", "#b0a040", "#7a7a7a", "#50a0a0")

TICKS = 8

FINEST = 0.4
"""Pixels below which neighbours of a row become one bar."""


def gantt(title: str, events: Sequence[Event], counters: Sequence[Counter] = ()) -> str:
    """The events from the first to the last of them; rows in the order in which engines come.  Times in us."""
    begin = min((event.start_us for event in events), default=0.0)
    end = max((event.start_us + event.duration_us for event in events), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / max(end - begin, 1e-9)
    rows = list(dict.fromkeys((event.site, event.engine) for event in events))
    height = TOP + len(rows) * (ROW + GAP) + len(counters) * (CURVE + GAP) + 34

    def x(time_us: float) -> float:
        return LEFT + (min(max(time_us, begin), end) - begin) * scale

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    bottom = TOP + len(rows) * (ROW + GAP) + len(counters) * (CURVE + GAP)
    for tick in range(TICKS + 1):
        at = begin + (end - begin) * tick / TICKS
        lines.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="#dddddd"/>')
        lines.append(f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{at - begin:.3g}</text>')
    lines.append(f'<text x="{LEFT - 10}" y="{bottom + 16}" text-anchor="end">us</text>')
    sites = {site for site, _ in rows}
    for number, (site, engine) in enumerate(rows):
        y, name = TOP + number * (ROW + GAP), engine if len(sites) == 1 else f"{site} {engine}"
        lines.append(f'<text x="{LEFT - 10}" y="{y + ROW * 0.7:.1f}" text-anchor="end">{escape(name)}</text>')
        own = [event for event in events if (event.site, event.engine) == (site, engine)]
        for start, stop, label in _bars(own, scale):
            lines.append(
                f'<rect x="{x(start):.2f}" y="{y}" width="{max(0.4, (stop - start) * scale):.2f}" height="{ROW}" '
                f'fill="{COLOURS[number % len(COLOURS)]}" stroke="white" stroke-width="0.3">'
                f"<title>{escape(label)}</title></rect>"
            )
    for number, counter in enumerate(counters):
        y = TOP + len(rows) * (ROW + GAP) + number * (CURVE + GAP)
        lines += _curve(counter, begin, end, x, y)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bars(events: Sequence[Event], scale: float) -> Iterator[tuple[float, float, str]]:
    """Start, end and label of the bars of a row; what cannot be told apart is one bar."""
    open_: tuple[float, float, str] | None = None
    for event in sorted(events, key=lambda event: event.start_us):
        stop = event.start_us + event.duration_us
        label = f"{event.name} {event.duration_us:.3f} us" + "".join(f", {k} {v}" for k, v in event.args.items())
        small = event.duration_us * scale < FINEST
        if open_ is not None and small and (event.start_us - open_[1]) * scale < FINEST:
            open_ = open_[0], max(open_[1], stop), open_[2]
            continue
        if open_ is not None:
            yield open_
        open_ = event.start_us, stop, label
    if open_ is not None:
        yield open_


def _curve(counter: Counter, begin: float, end: float, x: Callable[[float], float], y: float) -> Iterator[str]:
    """A counter as an area, the largest value as high as there is room."""
    inside = [(t, v) for t, v in zip(counter.times_us, counter.values, strict=True) if begin <= t <= end]
    top = max((value for _, value in inside), default=0.0)
    yield f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(counter.name)}</text>'
    yield f'<text x="{LEFT - 10}" y="{y + 30}" text-anchor="end" fill="#777777">max {top:.4g}</text>'
    if top > 0:
        points = [f"{x(begin):.1f},{y + CURVE}"]
        height = 0.0
        for time_us, value in inside:
            points.append(f"{x(time_us):.1f},{y + CURVE - height:.1f}")
            height = CURVE * value / top
            points.append(f"{x(time_us):.1f},{y + CURVE - height:.1f}")
        points += [f"{x(end):.1f},{y + CURVE - height:.1f}", f"{x(end):.1f},{y + CURVE}"]
        yield f'<polygon points="{" ".join(points)}" fill="#9db7d5"/>'
