"""Evaluation results as a table to read."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from pmc.backends.evaluate.assumptions import honesty_notes

if TYPE_CHECKING:
    from pmc.backends.evaluate import EngineResult

WIDTH = 1000
"""Wider than any table: rows are never wrapped or cut, whatever the terminal."""


def result_table(result: EngineResult) -> str:
    """One row per op in program order, a row of totals, and the conditions that the numbers hold under."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    columns: dict[str, str] = {
        "op path": "total",
        "op": "",
        "count": "",
        "GFLOP": f"{result.total_flops / 1e9:.3f}",
        "MB moved": f"{result.total_bytes / 1e6:.3f}",
        "MB sent": f"{result.total_link_bytes / 1e6:.3f}",
        "time us": f"{result.total_us:.3f}",
        "share": f"{sum(step.share for step in result.steps):.1%}",
        "bottleneck": "",
    }
    for name, footer in columns.items():
        left = name in ("op path", "op", "bottleneck")
        table.add_column(name, footer, justify="left" if left else "right", no_wrap=True)
    for step in result.steps:
        table.add_row(
            step.path,
            step.op,
            str(step.count),
            f"{step.flops / 1e9:.3f}",
            f"{(step.bytes_read + step.bytes_written) / 1e6:.3f}",
            f"{step.link_bytes / 1e6:.3f}",
            f"{step.time_us:.3f}",
            f"{step.share:.1%}",
            step.bottleneck.value,
        )
    lines = [_heading(result), *_render(table), *_summary(result)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _heading(result: EngineResult) -> str:
    symbols = ", ".join(f"{name} {value}" for name, value in result.bindings.items())
    network = f" ({result.topology})" if result.topology else ""
    return (
        f"{result.program}: one {result.phase} step of one rank of {result.ranks}, {symbols}; "
        f"{result.chip}{network}, granularity {result.granularity.value}"
    )


def _render(table: Table) -> list[str]:
    buffer = StringIO()
    Console(file=buffer, width=WIDTH, color_system=None, highlight=False, markup=False).print(table)
    return [line for line in buffer.getvalue().splitlines() if line.strip()]


def _summary(result: EngineResult) -> list[str]:
    parts = [f"{tag.value} {us:.3f} us ({us / result.total_us:.1%})" for tag, us in result.bottleneck_summary.items()]
    lines = [f"by bottleneck: {', '.join(parts)}"]
    if len(result.stages) > 1:
        times = ", ".join(f"{stage.stage}: {stage.time_us:.3f} us" for stage in result.stages)
        lines.append(f"by stage: {times}; the slowest is {result.bottleneck_stage}")
    return [*lines, *honesty_notes(result.lower_bound, result.assumptions, result.unvalidated)]
