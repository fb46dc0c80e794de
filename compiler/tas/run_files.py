"""The files of one scenario: tables that grow window by window, a checkpoint, and what is written at the end."""

from __future__ import annotations

import csv
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pmc.backends.thermal.metrics import RUN_COLUMNS, WINDOW_COLUMNS, Metrics
from pmc.backends.thermal.tas_loop import WindowRecord
from pmc.compiler.files import write_bytes, write_file
from pmc.compiler.trace_files import FILES
from pmc.dialects.analyses.event_state import EventChip
from pmc.dialects.errors import PmcError
from pmc.dialects.table_csv import TableCsv
from pmc.dialects.trace_tables import TABLES

CHECKPOINT = "checkpoint.pickle"
WINDOWS = "windows.csv"
CLOCKS = "clocks.csv"
"""GHz of every core in every window."""
COMMITTED = "committed"
"""The last column of `windows.csv`: the hash of all events up to the window."""

GROWING = ("reroute", "migrate", "compute_events", "memory_events")
"""The kinds of tables that every window adds rows to."""


class GrowingFiles:
    """The tables of a run in its folder; `sizes` are those of a checkpoint, what lies beyond them is dropped."""

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None) -> None:
        self.folder = folder
        for name, size in (sizes or {}).items():
            _cut(folder / name, size)
        goes_on = sizes is not None
        self._tables = {kind: TableCsv(folder / FILES[kind], TABLES[kind], goes_on) for kind in GROWING}
        self._windows = _opened(folder / WINDOWS, goes_on)
        self._clocks = _opened(folder / CLOCKS, goes_on)
        if not goes_on:
            self._windows.write(",".join((*WINDOW_COLUMNS, COMMITTED)) + "\n")

    def add(self, record: WindowRecord, chip: EventChip, metrics: Metrics) -> None:
        """Add the rows of a window.  Raises PmcError where a file cannot be written."""
        self._tables["reroute"].write(record.overlay.reroute)
        self._tables["migrate"].write(record.overlay.migrate)
        self._tables["compute_events"].write(record.events.compute.table(chip))
        self._tables["memory_events"].write(record.events.memory.table(chip))
        self._clocks.write(",".join(map(str, record.clock_ghz.tolist())) + "\n")
        self._clocks.flush()
        cells = [*(_text(metrics[name]) for name in WINDOW_COLUMNS), record.events.state.committed]
        self._windows.write(",".join(cells) + "\n")
        self._windows.flush()

    def sizes(self) -> dict[str, int]:
        """How long every file is by now."""
        names = (*(FILES[kind] for kind in GROWING), WINDOWS, CLOCKS)
        return {name: (self.folder / name).stat().st_size for name in names}

    def close(self) -> None:
        """Close all of them."""
        for table in self._tables.values():
            table.close()
        self._windows.close()
        self._clocks.close()


def write_checkpoint(folder: Path, content: Mapping[str, Any]) -> None:
    """Keep what a run goes on from.  Raises PmcError where it cannot be written."""
    write_bytes(folder / CHECKPOINT, pickle.dumps(dict(content)))


def read_checkpoint(folder: Path, digest: str) -> dict[str, Any] | None:
    """What `write_checkpoint` kept, None where there is none.  Raises PmcError for that of another study."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    content: dict[str, Any] = pickle.loads(path.read_bytes())
    if content["digest"] != digest:
        raise PmcError(f"{path}: is that of another chip, workload or other parameters: give another --out")
    return content


def write_run(path: Path, rows: Sequence[Mapping[str, float | str]]) -> None:
    """The table of runs, one row each."""
    lines = [",".join(RUN_COLUMNS), *(",".join(_text(row[name]) for name in RUN_COLUMNS) for row in rows)]
    write_file(path, "\n".join(lines) + "\n")


def read_windows(path: Path) -> list[dict[str, float]]:
    """The numbers of `windows.csv`.  Raises PmcError, with the line, for a row that is none."""
    found: list[dict[str, float]] = []
    for number, row in enumerate(_rows(path), 2):
        try:
            values = [float(text) if text else math.nan for text in row[:-1]]
        except ValueError:
            values = []
        if len(values) != len(WINDOW_COLUMNS):
            raise PmcError(f"{path}:{number}: needs {len(WINDOW_COLUMNS)} numbers and a hash")
        found.append(dict(zip(WINDOW_COLUMNS, values, strict=True)))
    return found


def read_committed(path: Path) -> list[str]:
    """The hashes of `windows.csv`, window by window."""
    return [row[-1] for row in _rows(path)]


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != [*WINDOW_COLUMNS, COMMITTED]:
        raise PmcError(f"{path}:1: the columns must be {', '.join((*WINDOW_COLUMNS, COMMITTED))}")
    return rows[1:]


def write_snapshot(path: Path, ts_ns: int, celsius: Mapping[str, Sequence[float]]) -> None:
    """The last temperatures of a run that was stopped."""
    write_file(path, json.dumps({"ts_ns": ts_ns, **{name: list(values) for name, values in celsius.items()}}) + "\n")


def _text(value: float | str) -> str:
    """A cell; what is no number is empty."""
    return "" if isinstance(value, float) and math.isnan(value) else str(value)


def _opened(path: Path, goes_on: bool) -> TextIO:
    try:
        return path.open("a" if goes_on else "w", encoding="utf-8", newline="")
    except OSError as error:
        raise PmcError(f"{path}: cannot be written: {error.strerror}") from None


def _cut(path: Path, size: int) -> None:
    try:
        with path.open("r+b") as file:
            file.truncate(size)
    except OSError as error:
        raise PmcError(f"{path}: cannot go on: {error.strerror}") from None
