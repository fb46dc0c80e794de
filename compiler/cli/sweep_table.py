"""A sweep as a table to read: the axes, and the figures that most questions are about."""

from __future__ import annotations

from collections.abc import Sequence

from pmc.compiler.cli.text_table import Column, prose, text_table
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


def sweep_table(result: SweepResult, order: Sequence[int], width: int | None) -> str:
    """The rows in an order; under the table what the points that have no result, or do not fit, are told.

    `width` is that of a line in characters, None for any.
    """
    shown = [name for name in FIGURES if name in result.names]
    rows = [{name: result.value(point, name) for name in result.header} for point in order]
    reasons: dict[str, int] = {}
    for row in rows:
        if row["status"] == INFEASIBLE:
            reasons.setdefault(str(row["reason"]), len(reasons) + 1)
    status = [
        f"{row['status']} [{reasons[str(row['reason'])]}]" if row["status"] == INFEASIBLE else str(row["status"])
        for row in rows
    ]
    columns = [
        *(Column(axis.name, [str(row[axis.name]) for row in rows]) for axis in result.axes),
        *(
            Column(FIGURES[name][0], [_figure(name, row[name]) for row in rows], optional=index)
            for index, name in enumerate(shown)
        ),
        Column("status", status, left=True),
    ]
    counted = ", ".join(
        f"{count} {status}" for status in (OK, DOES_NOT_FIT, INFEASIBLE) if (count := result.count(status))
    )
    heading = f"{result.model}: {len(result)} points: {counted}"
    notes = [f"[{number}] {reason}" for reason, number in reasons.items()]
    lines = [*prose([heading], width), *text_table(columns, width), *prose(notes, width)]
    return "".join(f"{line}\n" for line in lines)


def _figure(name: str, value: Cell) -> str:
    _, factor, form = FIGURES[name]
    return form.format(value * factor) if isinstance(value, int | float) else "-"
