"""Evaluation results as a table to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.compiler.cli.text_table import Column, prose, text_table

if TYPE_CHECKING:
    from pmc.backends.evaluate import EngineResult
    from pmc.backends.evaluate.metrics import OpSource


def result_table(result: EngineResult, width: int | None) -> str:
    """One row per op in program order, a row of totals, and the conditions that the numbers hold under.

    `width` is that of a line in characters, None for any.
    """
    steps = result.steps
    columns = [
        Column("op path", [s.path for s in steps], "total", left=True),
        Column("op", [s.op for s in steps], left=True),
        Column("count", [str(s.count) for s in steps], optional=2),
        Column("GFLOP", [f"{s.flops / 1e9:.3f}" for s in steps], f"{result.total_flops / 1e9:.3f}", optional=3),
        Column(
            "MB moved",
            [f"{(s.bytes_read + s.bytes_written) / 1e6:.3f}" for s in steps],
            f"{result.total_bytes / 1e6:.3f}",
            optional=1,
        ),
        Column(
            "MB sent", [f"{s.link_bytes / 1e6:.3f}" for s in steps], f"{result.total_link_bytes / 1e6:.3f}", optional=4
        ),
        Column("time us", [f"{s.time_us:.3f}" for s in steps], f"{result.total_us:.3f}"),
        Column("share", [f"{s.share:.1%}" for s in steps], f"{sum(s.share for s in steps):.1%}"),
        Column("bottleneck", [s.bottleneck.value for s in steps], left=True),
    ]
    if result.sources is not None:
        columns.append(Column("source", [_source_text(s) for s in result.sources], left=True))
        bands = [_band_text(s.band_us, t.time_us) for s, t in zip(result.sources, steps, strict=True)]
        columns.append(Column("band", bands, _band_text(result.band_us, result.total_us)))
    if result.plans is not None:
        columns.append(Column("plan", [plan.replace("#tile.plan", "") for plan in result.plans], left=True))
    lines = [*prose([_heading(result)], width), *text_table(columns, width), *prose(_summary(result), width)]
    return "".join(f"{line}\n" for line in lines)


def _source_text(source: OpSource) -> str:
    return f"{source.source}: {source.table}" if source.table else source.source


def _band_text(band_us: tuple[float, float] | None, time_us: float) -> str:
    """`-3%..+4%`."""
    if band_us is None or not time_us:
        return ""
    return "..".join(f"{edge / time_us - 1:+.0%}" for edge in band_us)


def _heading(result: EngineResult) -> str:
    symbols = ", ".join(f"{name} {value}" for name, value in result.bindings.items())
    network = f" ({result.topology})" if result.topology else ""
    return (
        f"{result.program}: one {result.phase} step of one rank of {result.ranks}, {symbols}; "
        f"{result.chip}{network}, granularity {result.granularity.value}"
    )


def _summary(result: EngineResult) -> list[str]:
    parts = [f"{tag.value} {us:.3f} us ({us / result.total_us:.1%})" for tag, us in result.bottleneck_summary.items()]
    lines = [f"by bottleneck: {', '.join(parts)}"]
    if result.sources is not None:
        shares = [f"{name} {us:.3f} us ({us / result.total_us:.1%})" for name, us in result.time_by_source_us.items()]
        lines.append(
            f"by source: {', '.join(shares)}; a band holds 80% of measurements; "
            "that of the total is for errors that all go one way, with nothing for what has no band"
        )
    if len(result.stages) > 1:
        times = ", ".join(f"{stage.stage}: {stage.time_us:.3f} us" for stage in result.stages)
        lines.append(f"by stage: {times}; the slowest is {result.bottleneck_stage}")
    return [*lines, *honesty_notes(result.lower_bound, result.assumptions, result.unvalidated)]
