"""Tables as CSV: the columns of a table by name and order, a list as JSON in a cell, UTF-8.

Whatever is wrong with a file is one PmcError with its path and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

import numpy as np

from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import (
    Column,
    Flat,
    IntColumn,
    ListColumn,
    Lists,
    NumberColumn,
    TextColumn,
    Texts,
    Values,
)

_LARGEST = 10**18


class TableCsv:
    """A CSV file that grows table by table, so that nothing of a long run must be kept.

    With `append` it goes on with a file that has the right header.  Raises PmcError where it cannot be written.
    """

    def __init__(self, path: Path, schema: TableSchema, append: bool = False) -> None:
        self.path, self.schema = path, schema
        goes_on = append and path.exists() and path.stat().st_size > 0
        if goes_on:
            with _opened(path) as file:
                _check_header(path, schema, next(csv.reader(file), None))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: TextIO = path.open("a" if goes_on else "w", encoding="utf-8", newline="")
        except OSError as error:
            raise PmcError(f"{path}: cannot be written: {error.strerror}") from None
        self.writer = csv.writer(self.file, lineterminator="\n")
        if not goes_on:
            self.writer.writerow(schema.names)

    def write(self, table: Table) -> None:
        """Append all rows of a whole table and hand them to the system.  Raises PmcError."""
        if table.schema != self.schema or not table.is_whole:
            raise PmcError(f"{self.path}: takes whole tables '{self.schema.kind}', not '{table.schema.kind}'")
        cells = [cells_of(column, values) for column, values in zip(self.schema.columns, table.columns, strict=True)]
        try:
            self.writer.writerows(zip(*cells, strict=True))
            self.file.flush()
        except OSError as error:
            raise PmcError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_table(path: Path, table: Table) -> None:
    """Write a whole table as a CSV file.  Raises PmcError."""
    with TableCsv(path, table.schema) as file:
        file.write(table)


def read_table(path: Path, schema: TableSchema) -> Table:
    """The table of a CSV file.  Raises PmcError with file and line."""
    lines: list[int] = []
    rows: list[list[str]] = []
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            _check_header(path, schema, next(reader, None))
            for row in reader:
                if len(row) != len(schema.columns):
                    raise PmcError(f"{path}:{reader.line_num}: {len(row)} values, expected {len(schema.columns)}")
                lines.append(reader.line_num)
                rows.append(row)
        except csv.Error as error:
            raise PmcError(f"{path}:{reader.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise PmcError(f"{path}:{reader.line_num + 1}: not UTF-8 text") from None
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(schema.columns)
    columns: list[Values] = []
    for column, texts in zip(schema.columns, cells, strict=True):
        try:
            columns.append(values_of(column, texts))
        except ValueError:
            columns.append(_first_error(path, lines, column, texts))
    return Table.of(schema, columns)


@contextmanager
def _opened(path: Path) -> Generator[TextIO]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise PmcError(f"{path}: cannot be read: {error.strerror}") from None


def _check_header(path: Path, schema: TableSchema, found: list[str] | None) -> None:
    if tuple(found or ()) != schema.names:
        wanted = ",".join(schema.names)
        raise PmcError(f"{path}:1: the columns are {excerpt(','.join(found or ())) or 'missing'}, expected {wanted}")


def _first_error(path: Path, lines: list[int], column: Column, texts: tuple[str, ...]) -> Values:
    """Read value by value, so that the first that is wrong is found with its line."""
    for line, text in zip(lines, texts, strict=True):
        try:
            values_of(column, (text,))
        except ValueError as error:
            raise PmcError(f"{path}:{line}: {column.name}: {error}") from None
    raise AssertionError(f"{path}: no value of {column.name} is wrong by itself")


def cells_of(column: Column, values: Values) -> list[str]:
    """The cells of a column, a list as JSON."""
    match values:
        case Texts():
            return values.tolist()
        case Lists():
            items = _json_items(values)
            starts = values.starts.tolist()
            return [f"[{','.join(items[a:b])}]" for a, b in pairwise(starts)]
        case _:
            return column.texts(values)


def _json_items(lists: Lists) -> list[str]:
    if isinstance(lists.values, Texts):
        words = [json.dumps(word, ensure_ascii=False) for word in lists.values.words]
        return [words[code] for code in lists.values.codes.tolist()]
    return list(map(repr, lists.values.tolist()))


def values_of(column: Column, texts: Sequence[str]) -> Values:
    """The column that cells hold.  Raises ValueError for a cell that is none of its values."""
    match column:
        case ListColumn():
            parsed = [_json_list(column.items, text) for text in texts]
            starts = np.concatenate([[0], np.cumsum([len(items) for items in parsed])]).astype(np.int64)
            flat = [item for items in parsed for item in items]
            return Lists(starts, _array(column.items, flat))
        case TextColumn():
            return Texts.of(texts)
        case IntColumn():
            return column.parsed(texts)
        case _:
            return _array(column, [_number(text) for text in texts])


def _array(column: Column, items: list[Any]) -> Flat:
    if isinstance(column, TextColumn):
        return Texts.of(items)
    if isinstance(column, IntColumn):
        return np.array(items, np.int64)
    return np.array(items, np.float64)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = np.nan
    if not np.isfinite(found):
        raise ValueError(f"'{excerpt(text, 40)}' is not a number")
    return found


def _json_list(items: Column, text: str) -> list[Any]:
    """The list of a cell, whose items are as the column wants them."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"'{excerpt(text, 40)}' is not a JSON list")
    values = cast(list[object], found)
    wrong = next((value for value in values if not _is_item(items, value)), None)
    if wrong is not None or None in values:
        raise ValueError(f"'{excerpt(text, 40)}' is not a list of {_plural(items)}")
    return values


def _is_item(items: Column, value: object) -> bool:
    if isinstance(items, TextColumn):
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(items, NumberColumn):
        return bool(np.isfinite(value)) if isinstance(value, float) else abs(value) < _LARGEST
    return isinstance(value, int) and abs(value) < _LARGEST


def _plural(items: Column) -> str:
    if isinstance(items, TextColumn):
        return "texts"
    return "numbers" if isinstance(items, NumberColumn) else "integers"
