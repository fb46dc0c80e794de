"""A sweep that goes on where an earlier one ended: the rows that stand in its file, and those that are added to it.

A row belongs to a point by the values of the axes, and to a sweep by its `conditions`: a digest of all else that
decides about a row.  While a sweep runs, the file has its rows in the order in which they are found, each whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import ConfigError
from pmc.compiler.files import write_file
from pmc.compiler.sweep.axes import Axis
from pmc.compiler.sweep.points import Point
from pmc.compiler.sweep.result import DOES_NOT_FIT, INFEASIBLE, OK, TEXTS, SweepResult, plain
from pmc.dialects.errors import PmcError

DIGITS = 12
"""Of a digest of conditions, in hexadecimal."""


def conditions_of(model: ModuleOp, base: Point, axes: Sequence[Axis]) -> str:
    """A digest of what all points have in common: the model, and of target and options all that no axis replaces."""
    names = {axis.name for axis in axes}
    target, options = base.target, base.options
    parts = {
        "chip": target.chip, "topology": target.topology, "deployment": target.deployment,
        "accounting": target.accounting, "calibration": options.calibration,
    }  # fmt: skip
    said: dict[str, object] = {
        name: None if part is None else _without(part.model_dump(mode="json"), name, names)
        for name, part in parts.items()
        if name not in names
    }
    request = base.request
    chosen = {
        "granularity": options.granularity,
        "overlap": options.overlap.value,
        "isl": request and request.isl,
        "osl": request and request.osl,
        "micro_batches": request and request.micro_batches,
    }
    said |= {name: value for name, value in chosen.items() if name not in names}
    text = f"{model}{json.dumps(said, sort_keys=True, default=str)}"
    return sha256(text.encode()).hexdigest()[:DIGITS]


def _without(part: Mapping[str, object], path: str, names: set[str]) -> dict[str, object]:
    """The fields of a part that no axis names."""
    found: dict[str, object] = {}
    for key, value in part.items():
        field = f"{path}.{key}"
        if field not in names:
            found[key] = _without(cast(Mapping[str, object], value), field, names) if isinstance(value, dict) else value
    return found


class ResumedFile:
    """The file of a sweep: what stands in it is taken over into `result`, what is found later is added."""

    def __init__(self, path: Path, result: SweepResult) -> None:
        """Reads the file if there is one, drops a last line without an end, and writes the header of a new one.

        Raises PmcError for a file of another sweep, which is not changed.
        """
        self.path = path
        self.result = result
        self.kept = 0
        """The points that were in the file."""
        text = self._text()
        whole = text[: text.rfind("\n") + 1]  # a sweep that was killed may have left the beginning of a line
        if whole:
            self._take(whole)
            if whole != text:
                write_file(path, whole)
        else:
            if text and not result.to_csv([]).startswith(text):
                raise ConfigError(str(path), "cannot be resumed: it is no table of a sweep")
            write_file(path, result.to_csv([]))

    def add(self, points: Sequence[int]) -> None:
        """Add the rows of some points.  Raises PmcError where the file cannot be written."""
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(self.result.csv_lines(points).encode())
        except OSError as error:
            raise PmcError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise ConfigError(str(self.path), "cannot be resumed: it is no table of a sweep") from None
        except OSError as error:
            raise PmcError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _take(self, text: str) -> None:
        result = self.result
        rows = csv.reader(io.StringIO(text))
        header = next(rows)
        if set(header) != set(result.header) or len(header) != len(result.header):
            own = [name for name in header if name not in result.names]
            axes = ", ".join(axis.name for axis in result.axes)
            raise self._other(f"it varies {', '.join(own)[:200] or 'nothing'}, not {axes}, or has other columns")
        places = [{_csv_text(value): i for i, value in enumerate(axis.values)} for axis in result.axes]
        at = [header.index(axis.name) for axis in result.axes]
        shape = [len(axis.values) for axis in result.axes]
        points: list[int] = []
        columns: dict[str, list[object]] = {name: [] for name in result.names}
        conditions = result.conditions
        for number, row in self._numbered(rows):
            if len(row) != len(header):
                raise self._other(f"line {number} has {len(row)} entries, the header has {len(header)}")
            cells = dict(zip(header, row, strict=True))
            if cells["conditions"] != conditions:
                raise self._other("its rows are of another model, target or options")
            point = 0
            for axis, index, known, size in zip(result.axes, at, places, shape, strict=True):
                if row[index] not in known:
                    raise self._other(f"line {number} has {axis.name} = {row[index][:80]}, which is no value of --set")
                point = point * size + known[row[index]]
            if cells["status"] not in (OK, DOES_NOT_FIT, INFEASIBLE):
                raise self._other(f"line {number} has the status '{cells['status'][:80]}'")
            points.append(point)
            for name, found in columns.items():
                try:
                    found.append(_parsed(name, cells[name]))
                except ValueError:
                    message = f"line {number} has the {name} '{cells[name][:80]}', which is no number"
                    raise self._other(message) from None
        result.put(np.asarray(points, dtype=np.int64), columns)
        self.kept = len(set(points))

    def _numbered(self, rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
        """The rows after the header with their lines."""
        try:
            yield from enumerate(rows, 2)
        except csv.Error as error:
            raise self._other(str(error)) from None

    def _other(self, why: str) -> PmcError:
        return ConfigError(str(self.path), f"cannot be resumed: {why}")


def _csv_text(value: object) -> str:
    """A value of an axis as the CSV has it."""
    shown = plain(value)
    return "" if shown is None else str(shown)


def _parsed(name: str, text: str) -> object:
    if name == "relative_only":
        return {"True": True, "False": False}.get(text, "")
    if name in TEXTS:
        return text
    return float(text) if text else np.nan
