# The types of matplotlib are partly unknown.
# pyright: basic
"""Pictures of a study as PNG, drawn by matplotlib, which the extra `pmc[plot]` brings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pmc.compiler.sweep.picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
MAPS_PER_ROW = 3

BARS = {
    "T_peak_logic": "hottest core, degrees C",
    "T_peak_dram": "hottest bank, degrees C",
    "ips": "tokens per second",
    "lat_ms": "latency of a token, ms",
    "noc_load": "load of the busiest link",
    "refresh_mhz": "refresh commands, MHz",
}
"""The metrics of the comparison, and what they say."""


def maps_png(title: str, dies: Mapping[str, npt.NDArray[np.float64]]) -> bytes:
    """[rows, columns] degrees C of every die, on one scale."""
    figure = _figure(3.6 * MAPS_PER_ROW, 1.9 * -(-len(dies) // MAPS_PER_ROW) + 0.6)
    low, high = (float(pick([pick(cells) for cells in dies.values()])) for pick in (np.min, np.max))
    shown = None
    axes = figure.subplots(-(-len(dies) // MAPS_PER_ROW), MAPS_PER_ROW, squeeze=False).ravel()
    for place, (name, cells) in zip(axes, dies.items(), strict=False):
        shown = place.imshow(cells, vmin=low, vmax=high, cmap="inferno", aspect="auto")
        place.set(title=f"{name}: {cells.min():.1f} to {cells.max():.1f}", xticks=[], yticks=[])
    for place in axes[len(dies) :]:
        place.axis("off")
    if shown is not None:
        figure.colorbar(shown, ax=axes.tolist(), label="degrees C")
    figure.suptitle(title)
    return _png(figure)


def peaks_png(windows: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """The hottest core and bank of every scenario over time."""
    figure = _figure(10, 4.4)
    for place, (column, what) in zip(
        figure.subplots(1, 2), (("T_peak_logic", "hottest core"), ("T_peak_dram", "hottest bank")), strict=True
    ):
        for number, (scenario, rows) in enumerate(windows.items()):
            times = [row["ts_ns"] * 1e-6 for row in rows]
            colour = COLOURS[number % len(COLOURS)]
            place.plot(times, [row[column] for row in rows], color=colour, linewidth=1, label=scenario)
        place.set(title=what, xlabel="time, ms", ylabel="degrees C")
        place.grid(color="#dddddd")
        place.legend(fontsize="small", frameon=False)
    return _png(figure)


def comparison_png(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Bars of all scenarios, metric by metric."""
    figure = _figure(10, 5.2)
    names = [str(row["scenario"]) for row in rows]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(rows))]
    for place, (column, what) in zip(figure.subplots(2, 3).ravel(), BARS.items(), strict=True):
        values = [float(row[column]) for row in rows]
        place.bar(names, values, color=colours)
        if column.startswith("T_"):
            place.set_ylim(bottom=max(0.0, min(values) - 10))
        place.set_title(what, fontsize="medium")
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without the version of matplotlib, so that two machines write the same bytes more often.
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()
