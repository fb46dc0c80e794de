"""The one tabular form of all analyses: rows keyed by fixed columns, as CSV, as JSON, or to read."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from typing import ClassVar

from pmc.backends.evaluate.metrics import EngineResult

Cell = str | int | float | bool | None
"""One entry of a table; None, an empty field in CSV, where a column does not apply to a row."""

Row = dict[str, Cell]


class Analysis(ABC):
    """A result with one row per thing that it counts."""

    COLUMNS: ClassVar[tuple[str, ...]]
    """The columns of `to_rows`, of the CSV and of the JSON rows; new ones are only ever appended."""

    @property
    def misfits(self) -> list[str]:
        """What exceeds the memory of its chip, where that is known; then the answer is no."""
        return []

    @abstractmethod
    def to_rows(self) -> list[Row]:
        """One mapping per row, keyed by `COLUMNS` in that order."""

    @abstractmethod
    def summary(self) -> dict[str, object]:
        """What the JSON form says beside the rows: the conditions and the totals."""

    @abstractmethod
    def headline(self) -> str:
        """One line over the table: what was counted, under which conditions."""

    @abstractmethod
    def notes(self) -> list[str]:
        """The lines under the table: totals, and what limits the meaning of the numbers."""

    def to_csv(self) -> str:
        """A header line with `COLUMNS`, then one line per row; floats in their shortest exact form."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_rows())
        return text.getvalue()

    def to_dict(self) -> dict[str, object]:
        """The JSON form: the summary, then `rows`."""
        return {**self.summary(), "rows": self.to_rows()}

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def conditions_of(result: EngineResult) -> str:
    """Program, point, target and granularity of an evaluation in one line."""
    symbols = ", ".join(f"{name} {value}" for name, value in result.bindings.items())
    network = f" ({result.topology})" if result.topology else ""
    return (
        f"{result.program}: one {result.phase} step of one rank of {result.ranks}, {symbols}; "
        f"{result.chip}{network}, granularity {result.granularity.value}"
    )
