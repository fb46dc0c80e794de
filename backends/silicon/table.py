"""A table of measurements with one row per key, and its rows of one set of categories.

Rows with the same key, by this rule:

- of one lane (one kernel): repeated measurements, which differ by noise.  The row gets their median.
- of several lanes: the engine had a choice.  The fastest lane stays, as an engine that tunes would take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pmc.backends.silicon.columns import Columns, Floats, Ints, read_columns
from pmc.backends.silicon.schema import TableKind
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean


class NotMeasuredError(PmcError):
    """There is no row of this kind and these categories."""


@dataclass(frozen=True)
class Rows:
    """Measurements of one set of categories; all arrays have one length."""

    kind: TableKind
    source: str
    """As in the table."""
    categories: Mapping[str, str]
    coordinates: Floats
    """[rows, coordinates], in the order of the kind."""
    latency_ms: Floats
    power_w: Floats | None
    lanes: tuple[str, ...]
    """Of every row."""

    def __len__(self) -> int:
        """How many."""
        return len(self.latency_ms)

    def column(self, axis: str) -> Floats:
        """One coordinate of all rows."""
        return self.coordinates[:, self.kind.axes.index(axis)]

    def find(self, point: Floats) -> int | None:
        """The row with these coordinates, None where none has them."""
        return self._index.get(point.tobytes())

    def take(self, chosen: Ints) -> Rows:
        """Some of the rows."""
        return Rows(
            self.kind,
            self.source,
            self.categories,
            self.coordinates[chosen],
            self.latency_ms[chosen],
            None if self.power_w is None else self.power_w[chosen],
            tuple(self.lanes[int(i)] for i in chosen),
        )

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(self.coordinates))}


@dataclass(frozen=True)
class Table:
    """A file of one kind, without duplicates."""

    kind: TableKind
    source: str
    """The file below the root of its library, for messages and provenance."""
    columns: Columns
    kept: Ints
    """Rows of the file, one per key, in the order of the keys."""

    @classmethod
    def read(cls, path: Path, kind: TableKind, source: str) -> Table:
        """The table of a file, which is called `source`.  Raises PmcError as `read_columns` does."""
        columns = read_columns(path, kind)
        columns, kept = _one_row_per_key(kind, columns)
        return cls(kind, source, columns, kept)

    @property
    def category_sets(self) -> tuple[Mapping[str, str], ...]:
        """Every combination of categories that has rows."""
        names = self.kind.categories
        codes = np.stack([self.columns.words[n].codes[self.kept] for n in names], axis=1)
        sets: list[list[int]] = np.unique(codes, axis=0).tolist()
        return tuple({n: self.columns.words[n].words[c] for n, c in zip(names, row, strict=True)} for row in sets)

    def rows(self, categories: Mapping[str, str]) -> Rows:
        """The rows of one set of categories.  Raises NotMeasuredError, with what there is, where there are none."""
        chosen = self.kept
        for name in self.kind.categories:
            column, wanted = self.columns.words[name], categories[name]
            if wanted not in column.words:
                known = sorted(column.words)
                raise NotMeasuredError(
                    f"{self.source}: no rows with {name} '{wanted}'{did_you_mean(wanted, known)}; "
                    f"it has {', '.join(known)}"
                )
            chosen = chosen[column.codes[chosen] == column.words.index(wanted)]
        if not chosen.size:
            words = ", ".join(f"{name} '{categories[name]}'" for name in self.kind.categories)
            raise NotMeasuredError(f"{self.source}: no rows with {words} together")
        lanes = [self.columns.words[n] for n in self.kind.lanes]
        named = tuple(" ".join(w.words[w.codes[i]] for w in lanes if w.words[w.codes[i]]) for i in chosen)
        return Rows(
            self.kind,
            self.source,
            {name: categories[name] for name in self.kind.categories},
            np.stack([self.columns.numbers[a][chosen] for a in self.kind.axes], axis=1),
            self.columns.latency_ms[chosen],
            None if self.columns.power_w is None else self.columns.power_w[chosen],
            named,
        )


def _one_row_per_key(kind: TableKind, columns: Columns) -> tuple[Columns, Ints]:
    """The rows to keep, and the columns in which repeated measurements of a lane are their median."""
    keys: list[Floats | Ints] = [columns.words[n].codes for n in kind.categories]
    keys += [columns.numbers[a] for a in kind.axes]
    lanes: list[Floats | Ints] = [columns.words[n].codes for n in kind.lanes]
    latency = columns.latency_ms.copy()
    power = None if columns.power_w is None else columns.power_w.copy()
    order = np.lexsort([latency, *reversed(lanes), *reversed(keys)])
    starts = _starts(order, [*keys, *lanes])
    stops = np.append(starts[1:], len(order))
    for i in np.flatnonzero(stops - starts > 1):
        same = order[starts[i] : stops[i]]
        latency[same] = np.median(latency[same])
        if power is not None:
            power[same] = np.median(power[same])
    firsts = order[starts]
    firsts = firsts[np.lexsort([latency[firsts], *(k[firsts] for k in reversed(keys))])]
    kept = firsts[_starts(firsts, keys)]
    return Columns(columns.numbers, columns.words, latency, power), kept


def _starts(order: Ints, keys: list[Floats | Ints]) -> Ints:
    """Places in `order` where a key differs from the one before."""
    new = np.ones(len(order), dtype=bool)
    if len(order) > 1:
        new[1:] = np.logical_or.reduce([np.diff(k[order]) != 0 for k in keys])
    return np.flatnonzero(new)
