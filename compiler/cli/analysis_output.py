"""An analysis in the form that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pmc.compiler.cli.output import TableFormat
from pmc.compiler.cli.text_table import Column, output_width, prose, text_table

if TYPE_CHECKING:
    from pmc.backends.evaluate.analyses.table import Analysis, Cell

UNITS = {"flops": "GFLOP", "bytes": "MB"}
"""For the unit at the end of the name of a column how its heading says it, where numbers are shown in another one."""

IN_WORDS = {
    "bytes_read": "MB read", "bytes_written": "MB written", "link_bytes": "MB sent", "bytes_per_rank": "MB/rank",
    "total_bytes": "MB total", "comm_us": "communication us",
}  # fmt: skip
"""Headings that do not follow from the name of the column; sides of a comparison put `a` or `b` before them."""

OPTIONAL = (
    "algorithm", "element_type", "shape", "groups", "found_in", "count", "a_count", "b_count", "link_bytes",
    "a_link_bytes", "b_link_bytes", "a_flops", "b_flops", "a_bytes", "b_bytes", "flops", "bytes_written", "bytes_read",
    "compute_us", "memory_us", "comm_us", "layers", "kind", "delta_us",
)  # fmt: skip
"""Columns that are left out where the terminal is narrow, the first of them first."""


def analysis_text(analysis: Analysis, form: TableFormat, path: Path | None) -> str:
    """The rows as CSV, all of it as JSON, or a table between its headline and its notes, for a file or the terminal."""
    match form:
        case TableFormat.CSV:
            return analysis.to_csv()
        case TableFormat.JSON:
            return analysis.to_json()
        case TableFormat.TEXT:
            width = output_width(path)
            lines = [*prose([analysis.headline()], width), *_table(analysis, width), *prose(analysis.notes(), width)]
            return "".join(f"{line}\n" for line in lines)


def _table(analysis: Analysis, width: int | None) -> list[str]:
    """Text to the left, numbers to the right and in the units of their headings; empty columns are left out."""
    rows = analysis.to_rows()
    columns: list[Column] = []
    for name in analysis.COLUMNS if rows else ():
        cells = [row[name] for row in rows]
        optional = len(OPTIONAL) - OPTIONAL.index(name) if name in OPTIONAL else 0
        text = any(isinstance(cell, str) for cell in cells)
        columns.append(Column(_title(name), [_shown(name, cell) for cell in cells], left=text, optional=optional))
    return text_table(columns, width)


def _title(name: str) -> str:
    """The heading of a column: `time us`, `GFLOP`, `a MB sent`."""
    side = name[:2] if name[:2] in ("a_", "b_") else ""
    bare = name.removeprefix(side)
    known = IN_WORDS.get(bare)
    if known is None:
        end = next((end for end in UNITS if bare == end or bare.endswith(f"_{end}")), "")
        known = f"{bare.removesuffix(end)}{UNITS.get(end, '')}"
    return f"{side}{known}".replace("_", " ")


def _shown(name: str, cell: Cell) -> str:
    if cell is None or isinstance(cell, str | bool):
        return "" if cell is None else str(cell)
    if name == "share":
        return f"{cell:.1%}"
    scale = 1e6 if "bytes" in name else 1e9 if name.endswith("flops") else 1.0
    if scale != 1.0 or name.endswith("_us"):
        return f"{cell / scale:.3f}"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
