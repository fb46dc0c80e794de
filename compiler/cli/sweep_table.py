"""A sweep as a table to read: the axes, and the figures that most questions are about."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from pmc.compiler.cli.table import WIDTH
from pmc.compiler.sweep.result import DOES_NOT_FIT, INFEASIBLE, OK, Cell, SweepResult

FIGURES = {
    "time_us": ("time us", 1.0, "{:.3f}"),
    "ttft_us": ("TTFT ms", 1e-3, "{:.3f}"),
    "tpot_us": ("TPOT ms", 1e-3, "{:.3f}"),
    "tps_per_user": ("tokens/s user", 1.0, "{:.1f}"),
    "tps_per_chip": ("tokens/s chip", 1.0, "{:.1f}"),
    "mfu": ("MFU", 1.0, "{:.3f}"),
    "mbu": ("MBU", 1.0, "{:.3f}"),
    "decode_mfu": ("decode MFU", 1.0, "{:.3f}"),
    "decode_mbu": ("decode MBU", 1.0, "{:.3f}"),
    "memory_bytes": ("DRAM GiB", 2.0**-30, "{:.2f}"),
}
"""For the columns that are shown a heading, a factor and a format."""


def sweep_table(result: SweepResult, order: Sequence[int]) -> str:
    """The rows in an order; under the table what the points that have no result, or do not fit, are told."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [name for name in FIGURES if name in result.names]
    for axis in result.axes:
        table.add_column(axis.name, justify="right", no_wrap=True)
    for name in shown:
        table.add_column(FIGURES[name][0], justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    reasons: dict[str, int] = {}
    for point in order:
        row = {name: result.value(point, name) for name in result.header}
        status = str(row["status"])
        if status == INFEASIBLE:
            reasons.setdefault(str(row["reason"]), len(reasons) + 1)
            status += f" [{reasons[str(row['reason'])]}]"
        table.add_row(
            *(str(row[axis.name]) for axis in result.axes), *(_figure(name, row[name]) for name in shown), status
        )
    buffer = StringIO()
    Console(file=buffer, width=WIDTH, color_system=None, highlight=False, markup=False).print(table)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()]
    counted = ", ".join(
        f"{count} {status}" for status in (OK, DOES_NOT_FIT, INFEASIBLE) if (count := result.count(status))
    )
    heading = f"{result.model}: {len(result)} points: {counted}"
    notes = [f"[{number}] {reason}" for reason, number in reasons.items()]
    return "".join(f"{line}\n" for line in (heading, *lines, *notes))


def _figure(name: str, value: Cell) -> str:
    _, factor, form = FIGURES[name]
    return form.format(value * factor) if isinstance(value, int | float) else "-"
