"""The table of a sweep: one row per point, the values of the axes first, then what was found there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.backends.evaluate.notebook import Tabular
from pmc.compiler.sweep.axes import Axis
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean

STEP_COLUMNS: tuple[str, ...] = (
    "status", "time_us", "compute_us", "comm_us", "exposed_us", "wait_us", "bottleneck", "mfu", "mbu", "tps_per_chip",
    "flops", "dram_bytes", "link_bytes", "ranks", "memory_bytes", "memory_capacity_bytes", "relative_only",
    "conditions", "reason",
)  # fmt: skip
"""What is told of a step, see `PhaseAggregates`; new columns are only ever appended before `reason`."""

REQUEST_COLUMNS: tuple[str, ...] = (
    "status", "ttft_us", "tpot_us", "itl_first_us", "itl_last_us", "e2e_us", "tps_per_user", "tps_per_chip",
    "prefill_mfu", "prefill_mbu", "prefill_bubble", "decode_mfu", "decode_mbu", "decode_bubble", "ranks",
    "memory_bytes", "memory_capacity_bytes", "relative_only", "conditions", "reason",
)  # fmt: skip
"""What is told of a request, see `RequestResult`."""

OK, DOES_NOT_FIT, INFEASIBLE = "ok", "does not fit", "infeasible"
"""The status of a point: a result; a result that needs more DRAM than a chip has; no result, with a reason."""

TEXTS = ("status", "bottleneck", "relative_only", "conditions", "reason")
"""Columns that are not numbers."""

WHOLE = ("ranks", "memory_bytes", "memory_capacity_bytes")
"""Columns of whole numbers."""

CSV_ROWS = 2**16
"""Lines of CSV that are made at once."""

Cell = str | int | float | bool | None
"""An entry of a row; None where a figure does not exist."""

Column = npt.NDArray[Any]


@dataclass(eq=False, repr=False)
class SweepResult(Tabular):
    """The points of a sweep in the order of its axes, of which the last varies fastest."""

    model: str
    axes: tuple[Axis, ...]
    names: tuple[str, ...]
    """The columns after those of the axes."""
    columns: dict[str, Column] = field(default_factory=dict[str, Column])
    """By name one entry per point: numbers, NaN where there is none, or objects."""
    conditions: str = ""
    """A digest of all that is the same at every point, see `resume`; a column of the table."""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in self.columns:
                text = name in TEXTS
                self.columns[name] = np.full(len(self), "" if text else np.nan, object if text else np.float64)
        self.columns["conditions"][:] = self.conditions

    def __len__(self) -> int:
        """The number of points."""
        return math.prod(len(axis.values) for axis in self.axes)

    def __repr__(self) -> str:
        counted = ", ".join(f"{self.count(status)} {status}" for status in (OK, DOES_NOT_FIT, INFEASIBLE))
        varied = ", ".join(f"{axis.name} ({len(axis.values)})" for axis in self.axes)
        return f"<sweep of {self.model} over {varied}: {counted}>"

    @property
    def header(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (*(axis.name for axis in self.axes), *self.names)

    def put(self, points: npt.NDArray[np.int64] | int, values: Mapping[str, object]) -> None:
        """Fill in some columns at some points."""
        for name, value in values.items():
            self.columns[name][points] = value

    def value(self, point: int, name: str) -> Cell:
        """One entry."""
        if name in self.names:
            return _cell(name, self.columns[name][point])
        index = next(i for i, axis in enumerate(self.axes) if axis.name == name)
        places = np.unravel_index(point, [len(axis.values) for axis in self.axes])
        return plain(self.axes[index].values[int(places[index])])

    def rows(self, points: Iterable[int] | None = None) -> Iterable[tuple[Cell, ...]]:
        """The rows of some points, by default of all, as tuples in the order of `header`."""
        shape = [len(axis.values) for axis in self.axes]
        values = [[plain(value) for value in axis.values] for axis in self.axes]
        columns = [(name, self.columns[name]) for name in self.names]
        for point in range(len(self)) if points is None else points:
            places = np.unravel_index(point, shape)
            at = (values[i][int(place)] for i, place in enumerate(places))
            yield (*at, *(_cell(name, column[point]) for name, column in columns))

    def to_rows(self, points: Iterable[int] | None = None) -> list[dict[str, Cell]]:
        """One mapping per point, keyed by `header` in that order."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows(points)]

    def to_csv(self, points: Iterable[int] | None = None) -> str:
        """A header line, then one line per point; floats in their shortest exact form, nothing where there is none."""
        return ",".join(map(_csv_text, self.header)) + "\n" + self.csv_lines(points)

    def csv_lines(self, points: Iterable[int] | None = None) -> str:
        """`to_csv` without its header."""
        chosen: npt.NDArray[np.int64] = np.arange(len(self)) if points is None else np.asarray(list(points), np.int64)
        return "".join(self._csv_block(chosen[i : i + CSV_ROWS]) for i in range(0, len(chosen), CSV_ROWS))

    def _csv_block(self, points: npt.NDArray[np.int64]) -> str:
        """Some lines, column by column: a row of objects per point is what took most of the time."""
        places = np.unravel_index(points, [len(axis.values) for axis in self.axes])
        columns: list[list[str]] = []
        for axis, place in zip(self.axes, places, strict=True):
            used, which = np.unique(place, return_inverse=True)
            texts = [_csv_text(plain(axis.values[i])) for i in used.tolist()]
            columns.append([texts[i] for i in which.tolist()])
        numbers: list[tuple[Column, list[str]]] = []
        for name in self.names:
            column = self.columns[name][points]
            if name in TEXTS:
                known = {value: _csv_text(_cell(name, value)) for value in set(column.tolist())}
                columns.append([known[value] for value in column.tolist()])
                continue
            none: list[str] = []
            texts = next((texts for other, texts in numbers if _same(column, other)), none)
            if name in WHOLE or not texts:
                texts = _csv_numbers(name, column)
                if name not in WHOLE:
                    numbers.append((column, texts))
            columns.append(texts)
        return "".join(f"{line}\n" for line in map(",".join, zip(*columns, strict=True)))

    def to_dict(self, points: Iterable[int] | None = None) -> dict[str, object]:
        """The JSON form: what varies, then the rows."""
        return {
            "model": self.model,
            "axes": {axis.name: [plain(value) for value in axis.values] for axis in self.axes},
            "rows": self.to_rows(points),
        }

    def to_json(self, points: Iterable[int] | None = None) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(points), indent=2) + "\n"

    def count(self, status: str) -> int:
        """The points of that status."""
        return int(np.count_nonzero(self.columns["status"] == status))

    def check_column(self, by: str | None) -> None:
        """Raises PmcError for an order by a column that the table does not have."""
        name = (by or "").removeprefix("-")
        if name and name not in self.header:
            hint = did_you_mean(name, self.header) or f"; the columns are {', '.join(self.header)}"
            raise PmcError(f"no column '{name[:80]}' to sort by{hint}")

    def ordered(self, by: str | None = None, top: int | None = None) -> list[int]:
        """The points in the order of a column, those without a value last; `-name` begins with the largest.

        Without a column they keep their order.  With `top` only so many, of those that have a result and fit.  Raises
        PmcError for a column that the table does not have.
        """
        self.check_column(by)
        points = list(range(len(self)))
        if top is not None:
            points = [point for point in points if self.columns["status"][point] == OK]
        if by is not None:
            keys = {point: self.value(point, by.removeprefix("-")) for point in points}
            known = [point for point in points if keys[point] is not None]
            texts = any(isinstance(keys[point], str) for point in known)
            known.sort(key=lambda point: str(keys[point]) if texts else keys[point], reverse=by.startswith("-"))  # type: ignore[arg-type, return-value]
            points = known + [point for point in points if keys[point] is None]
        return points[:top]


def plain(value: object) -> Cell:
    """A value of an axis as a file says it."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value)


def _same(column: Column, other: Column) -> bool:
    """Whether numbers are the same and written so: 0 and -0 are equal and written otherwise."""
    return column.tobytes() == other.tobytes()


def _csv_numbers(name: str, column: Column) -> list[str]:
    """Numbers as `csv.writer` writes them, a number that all have once."""
    if len(column) and np.all(column.view(np.int64) == column.view(np.int64)[0]):
        return [_csv_text(_cell(name, column[0]))] * len(column)
    if not np.isnan(column).any():
        if name not in WHOLE:
            return list(map(repr, column.tolist()))
        if np.abs(column).max(initial=0.0) < 2.0**63:
            return list(map(str, column.astype(np.int64).tolist()))
    return [_csv_text(_cell(name, value)) for value in column.tolist()]


def _csv_text(cell: Cell) -> str:
    """A cell as `csv.writer` writes it."""
    if cell is None:
        return ""
    text = repr(cell) if isinstance(cell, float) else str(cell)
    if not any(character in text for character in ',"\r\n'):
        return text
    quoted = text.replace('"', '""')
    return f'"{quoted}"'


def _cell(name: str, value: Any) -> Cell:
    if name in TEXTS:
        return None if value == "" and name != "reason" else value
    if math.isnan(value):
        return None
    return int(value) if name in WHOLE else float(value)
