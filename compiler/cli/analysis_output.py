"""An analysis in the form that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmc.compiler.cli.output import TableFormat

if TYPE_CHECKING:
    from pmc.backends.evaluate.analyses.table import Analysis, Cell


def analysis_text(analysis: Analysis, form: TableFormat) -> str:
    """The rows as CSV, all of it as JSON, or a table between its headline and its notes."""
    match form:
        case TableFormat.CSV:
            return analysis.to_csv()
        case TableFormat.JSON:
            return analysis.to_json()
        case TableFormat.TEXT:
            lines = [analysis.headline(), *_table(analysis), *analysis.notes()]
            return "".join(f"{line.rstrip()}\n" for line in lines)


def _table(analysis: Analysis) -> list[str]:
    """Aligned columns: text to the left, numbers to the right; columns without any entry are left out."""
    rows = analysis.to_rows()
    used = [name for name in analysis.COLUMNS if any(row[name] not in (None, "") for row in rows)]
    cells = [[_shown(row[name]) for name in used] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(used)]
    text = [any(isinstance(row[name], str) for row in rows) for name in used]

    def line(entries: list[str]) -> str:
        aligned = (e.ljust(w) if left else e.rjust(w) for e, w, left in zip(entries, widths, text, strict=True))
        return "  ".join(aligned)

    if not rows:
        return []
    return [line(used), "  ".join("-" * width for width in widths), *map(line, cells)]


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
