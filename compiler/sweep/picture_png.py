# The types of matplotlib are partly unknown.
# pyright: basic
"""The picture of a sweep as PNG, drawn by matplotlib, which the extra `pmc[plot]` brings."""

from __future__ import annotations

import io
from importlib.util import find_spec

from pmc.compiler.sweep.picture import COLOURS, Plan, is_wide, lines_of
from pmc.compiler.sweep.result import SweepResult
from pmc.dialects.errors import PmcError

DOTS_PER_INCH = 150


def require_matplotlib(plot: str) -> None:
    """Raise PmcError, naming the extra, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise PmcError(f"--plot {plot}: PNG needs matplotlib: pip install 'pmc[plot]', or draw a page with .html")


def sweep_png(result: SweepResult, plan: Plan) -> bytes:
    """The file; a point that does not fit the DRAM is hollow, one without a result is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 5.6), layout="constrained")
    axes = figure.add_subplot()
    lines = lines_of(result, plan)
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(line.x, line.y, color=colour, linewidth=1, label=line.name[-36:])
        faces = [colour if fits else "white" for fits in line.fits]
        axes.scatter(line.x, line.y, s=16, c=faces, edgecolors=colour, zorder=2)
    x_name = result.axes[plan.x].name
    axes.set(title=f"{result.model}: {plan.y} over {x_name}", xlabel=x_name, ylabel=plan.y)
    axes.grid(color="#dddddd")
    if any(line.x for line in lines):
        if is_wide([x for line in lines for x in line.x]):
            axes.set_xscale("log")
        if is_wide([y for line in lines for y in line.y]):
            axes.set_yscale("log")
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    else:
        axes.text(0.5, 0.5, "no point has a result", ha="center", transform=axes.transAxes)
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return file.getvalue()
