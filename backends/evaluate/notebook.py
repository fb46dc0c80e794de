"""How results show themselves outside of the command line: as a data frame of pandas, and as a table in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any

from pmc.dialects.errors import PmcError

DataFrame = Any
"""`pandas.DataFrame`; pandas is no dependency."""

SHOWN_ROWS = 60
"""Rows of a table in a notebook."""


class Tabular(ABC):
    """A result that is a table."""

    @abstractmethod
    def to_rows(self) -> Sequence[Mapping[str, Any]]:
        """One mapping per row, all with the same keys in the same order."""

    @abstractmethod
    def __repr__(self) -> str:
        """One line."""

    def to_pandas(self) -> DataFrame:
        """The rows as a data frame.  Raises PmcError without pandas."""
        try:
            pandas: Any = import_module("pandas")
        except ImportError:
            raise PmcError("to_pandas needs pandas, which is not installed: pip install pandas") from None
        return pandas.DataFrame(list(self.to_rows()))

    def _repr_html_(self) -> str:
        """The table, or its beginning, as notebooks show it."""
        rows = self.to_rows()
        names = list(rows[0]) if rows else []
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(_shown(row[name]))}</td>' for name in names)}</tr>"
            for row in rows[:SHOWN_ROWS]
        )
        more = f"<p>{len(rows) - SHOWN_ROWS} more rows</p>" if len(rows) > SHOWN_ROWS else ""
        return f"<p>{escape(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
