"""The one form of every table and of the lines around it: aligned columns, fitted to the terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

GAP = "  "
LEAST_TEXT = 16
"""A column of text is not cut shorter than that."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, one entry a row, and what stands below the rule at the end."""

    title: str
    entries: Sequence[str]
    footer: str = ""
    left: bool = False
    """Text stands to the left, and its beginning may be cut; numbers stand to the right, and are never cut."""
    optional: int = 0
    """Where the table is too wide, columns are left out, those with the largest number first; 0 is never left out."""

    @property
    def width(self) -> int:
        """Of its widest entry, in characters."""
        return max(map(len, (self.title, self.footer, *self.entries)))


def output_width(path: Path | None) -> int | None:
    """The characters of a line of the output: those of the terminal, or of COLUMNS; None where it has no end."""
    if path is not None:
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):  # a pipe or a file, or no stdout of the process at all
        return None


def text_table(columns: Sequence[Column], width: int | None) -> list[str]:
    """The lines of a table: titles, a rule, the rows, and below another rule the footers, where there are any.

    Where it is wider than `width`, optional columns are left out, then text is cut at its beginning; the last line
    names the columns that are missing.
    """
    shown = [column for column in columns if any((*column.entries, column.footer))]
    missing: list[str] = []
    while width is not None and _total(shown) > width and any(c.optional for c in shown):
        least = max((c for c in shown if c.optional), key=lambda c: c.optional)
        shown.remove(least)
        missing.append(least.title)
    widths = [column.width for column in shown]
    if width is not None:
        _cut(shown, widths, width)
    if not shown:
        return []
    lines = [_line([column.title for column in shown], shown, widths)]
    rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    lines += [rule, *(_line(list(row), shown, widths) for row in zip(*(c.entries for c in shown), strict=True))]
    if any(column.footer for column in shown):
        lines += [rule, _line([column.footer for column in shown], shown, widths)]
    if missing and width is not None:
        absent = [c.title for c in columns if c.title in missing]
        lines += prose([f"not shown in {width} columns: {', '.join(absent)}"], width)
    return lines


def prose(lines: Iterable[str], width: int | None) -> list[str]:
    """Lines of text, broken at spaces where they are wider than `width`; what continues a line is indented."""
    if width is None:
        return list(lines)
    broken: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        broken += textwrap.wrap(
            line, max(width, 20), subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
        ) or [""]
    return broken


def hanged(text: str, indent: int, width: int | None) -> list[str]:
    """Text that stands beside something `indent` characters wide, broken where it passes `width`."""
    return (textwrap.wrap(text, max(width - indent, 24)) if width is not None else [text]) or [""]


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _cut(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take from the widest text until the table fits, or no text is left to take from."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        texts = [i for i, column in enumerate(columns) if column.left and widths[i] > LEAST_TEXT]
        if not texts:
            return
        widths[max(texts, key=lambda i: widths[i])] -= 1


def _line(entries: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    aligned = (
        _ending(entry, width).ljust(width) if column.left else entry.rjust(width)
        for entry, column, width in zip(entries, columns, widths, strict=True)
    )
    return GAP.join(aligned).rstrip()


def _ending(text: str, width: int) -> str:
    return text if len(text) <= width else f"..{text[len(text) - width + 2 :]}"
