"""Tables of a trace as data frames of pandas, which the extra `pmc[thermal]` brings, and back.

A frame has the columns of the CSV file of its table: integers and numbers as such, all else as the text of a cell, so
lists as JSON.  pandas has no types of its own, so a frame is `Any` to the type checker.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from pmc.dialects.errors import PmcError
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import Column, EnumColumn, IntColumn, NumberColumn
from pmc.dialects.table_csv import cells_of, values_of

DataFrame: TypeAlias = Any
"""A `pandas.DataFrame`."""


def require_pandas() -> Any:
    """The module pandas.  Raises PmcError, naming the extra, where it is not installed."""
    try:
        return import_module("pandas")
    except ImportError:
        raise PmcError("the functions of the study use pandas: pip install 'pmc[thermal]'") from None


def frame_of(table: Table) -> DataFrame:
    """The frame of a whole table."""
    columns = zip(table.schema.columns, table.columns, strict=True)
    return require_pandas().DataFrame(
        {
            column.name: values if _is_numeric(column) else cells_of(column, values)
            for column, values in columns
        }
    )  # fmt: skip


def table_of(schema: TableSchema, frame: DataFrame) -> Table:
    """The table that a frame holds; its other columns are left out.

    Raises PmcError for a column that it lacks, and for a value that is none of its column.
    """
    missing = next((name for name in schema.names if name not in frame.columns), None)
    if missing is not None:
        raise PmcError(f"the frame of '{schema.kind}' has no column {missing}")
    try:
        columns = [values_of(column, [_cell(value) for value in frame[column.name]]) for column in schema.columns]
    except ValueError as error:
        raise PmcError(f"the frame of '{schema.kind}': {error}") from None
    return Table.of(schema, columns)


def table_of_rows(schema: TableSchema, rows: Iterable[Mapping[str, Any]]) -> Table:
    """The table of rows by the names of their columns.  Raises PmcError as `table_of`."""
    found = list(rows)
    return table_of(schema, require_pandas().DataFrame(found, columns=None if found else list(schema.names)))


def _is_numeric(column: Column) -> bool:
    return isinstance(column, IntColumn | NumberColumn) and not isinstance(column, EnumColumn)


def _cell(value: Any) -> str:
    """A value as the CSV file would have it; numbers of NumPy are written as those of Python."""
    item = value.item() if hasattr(value, "item") else value
    return json.dumps(item, ensure_ascii=False) if isinstance(item, list) else str(item)
