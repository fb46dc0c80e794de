"""Tables as data of attributes: columns with declared kinds, readable text, whole or reduced to their ends.

    #trace.table<tensors, [tensor_id, dram_bank], 2 rows, sha256 "9f86d081884c7d65", ["'W_E17_0' 'B(12,7,3)'; .."]>
    #g5.table<[id, kind:direction, dram], 3 rows, sha256 "9f86d081884c7d65", ["1 load 4096; 2 load 8192; 3 store 0"]>

A dialect makes its own attribute of `TableAttr`, which says which tables it knows.  Because text of 1e5 rows serves
nobody, a table may be reduced to its first and last rows; row count and hash are those of the whole table.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import cast

import numpy as np
from xdsl.ir import Data
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.assembly import parse_text
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.table_columns import (
    Column,
    ListColumn,
    Lists,
    TextColumn,
    Texts,
    Token,
    Values,
    same,
    split_rows,
)

ENDS = 4
"""Rows that a reduced table keeps at either end."""

ROWS_PER_LINE = 16


@dataclass(frozen=True)
class TableSchema:
    """What a table holds; a `kind` is the word by which its text begins, where a dialect has more than one."""

    columns: tuple[Column, ...]
    kind: str = ""

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The columns as the text of the table calls them."""
        return tuple(column.head for column in self.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each column stands, by its name."""
        return {name: place for place, name in enumerate(self.names)}


class Table:
    """Columns of one length: `count` rows, or the first and last `ENDS` of them when reduced."""

    def __init__(self, schema: TableSchema, columns: Sequence[Values], count: int, digest: str) -> None:
        self.schema = schema
        self.columns = tuple(columns)
        self.count = count
        """Rows of the whole table."""
        self.digest = digest
        """First 16 hex digits of the SHA-256 of the whole table: heads of columns, then their values."""

    @classmethod
    def of(cls, schema: TableSchema, columns: Sequence[Values]) -> Table:
        """The whole table of these columns.  Raises ValueError where they are not those of the schema."""
        if len(columns) != len(schema.columns):
            raise ValueError(f"{len(columns)} columns, the table has {len(schema.columns)}")
        for column, values in zip(schema.columns, columns, strict=True):
            wrong = column.wrong(values)
            if wrong is not None:
                raise ValueError(wrong)
        if len({len(values) for values in columns}) > 1:
            raise ValueError("the columns of a table have one length")
        return cls(schema, columns, len(columns[0]), digest_of(schema, columns))

    @classmethod
    def empty(cls, schema: TableSchema) -> Table:
        """The table without rows."""
        return cls.of(schema, [column.parsed([]) for column in schema.columns])

    @property
    def shown(self) -> int:
        """The rows that it holds."""
        return len(self.columns[0])

    @property
    def is_whole(self) -> bool:
        """Whether no row is left out."""
        return self.shown == self.count

    def reduced(self) -> Table:
        """The table with only its first and last rows, if it is longer than these."""
        if self.count <= 2 * ENDS:
            return self
        rows = np.concatenate([np.arange(ENDS), np.arange(self.shown - ENDS, self.shown)])
        return Table(self.schema, [values[rows] for values in self.columns], self.count, self.digest)

    def values(self, name: str) -> Values:
        """The values of a column, named with or without its enum."""
        return self.columns[self.schema.places[name.partition(":")[0]]]

    def ints(self, name: str) -> IntArray:
        """The values of a column of integers, or the codes of an enum."""
        values = self.values(name)
        assert isinstance(values, np.ndarray) and values.dtype == np.int64
        return values.astype(np.int64, copy=False)

    def numbers(self, name: str) -> FloatArray:
        """The values of a column of numbers."""
        values = self.values(name)
        assert isinstance(values, np.ndarray) and values.dtype == np.float64
        return values.astype(np.float64, copy=False)

    def texts(self, name: str) -> Texts:
        """The values of a column of texts."""
        values = self.values(name)
        assert isinstance(values, Texts)
        return values

    def lists(self, name: str) -> Lists:
        """The values of a column of lists."""
        values = self.values(name)
        assert isinstance(values, Lists)
        return values

    @cached_property
    def _identity(self) -> tuple[tuple[str, ...], int, str, bool]:
        return self.schema.heads, self.count, self.digest, self.is_whole

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Table)
            and self._identity == other._identity
            and all(map(same, self.columns, other.columns))
        )

    def __hash__(self) -> int:
        return hash(self._identity)

    def rows(self) -> list[str]:
        """A text per row."""
        texts = [column.texts(values) for column, values in zip(self.schema.columns, self.columns, strict=True)]
        return [" ".join(row) for row in zip(*texts, strict=True)]

    def lines(self) -> list[str]:
        """The rows as text, `ROWS_PER_LINE` rows a line."""
        rows = self.rows()
        return ["; ".join(rows[i : i + ROWS_PER_LINE]) for i in range(0, len(rows), ROWS_PER_LINE)]


def digest_of(schema: TableSchema, columns: Sequence[Values]) -> str:
    """The hash of a whole table, see `Table.digest`."""
    digest = hashlib.sha256(" ".join(schema.heads).encode())
    for column, values in zip(schema.columns, columns, strict=True):
        for part in column.digest_parts(values):
            digest.update(part)
    return digest.hexdigest()[:16]


def columns_from_lines(schema: TableSchema, lines: Sequence[str]) -> list[Values]:
    """The columns of the rows that `Table.lines` wrote; raises ValueError on text that no table writes."""
    rows: list[list[Token]] = [row for line in lines for row in _split(schema, line)]
    if any(len(row) != len(schema.columns) for row in rows):
        raise ValueError(f"every row needs {len(schema.columns)} values")
    columns = zip(*rows, strict=True) if rows else repeat((), len(schema.columns))
    return [column.parsed(tokens) for column, tokens in zip(schema.columns, columns, strict=True)]


def _split(schema: TableSchema, line: str) -> list[list[Token]]:
    if any(isinstance(column, TextColumn | ListColumn) for column in schema.columns):
        return split_rows(line)
    return [cast("list[Token]", row.split()) for row in line.split(";")]


class TableAttr(Data[Table], ABC):
    """A table, whole or reduced; each dialect that has tables makes an attribute of it."""

    @classmethod
    @abstractmethod
    def schema_of(cls, kind: str, heads: Sequence[str]) -> TableSchema:
        """The schema of a table by its kind, "" where its text names none, and the heads of its columns.

        Raises ValueError for a table that the dialect does not know.
        """

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Table:
        """Parse `<kind, [column, ..], n rows, sha256 "..", ["row; row", ..]>`, of which the kind may be missing."""
        with parser.in_angle_brackets():
            position = parser.pos
            kind = parser.parse_optional_identifier() or ""
            if kind:
                parser.parse_punctuation(",")
            heads = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: _parse_head(parser))
            try:
                schema = cls.schema_of(kind, heads)
            except ValueError as error:
                parser.raise_error(str(error), position)
            parser.parse_punctuation(",")
            return _parse_rows(parser, schema)

    def print_parameter(self, printer: Printer) -> None:
        """Print what `parse_parameter` reads."""
        table = self.data
        with printer.in_angle_brackets():
            kind = f"{table.schema.kind}, " if table.schema.kind else ""
            printer.print_string(f"{kind}[{', '.join(table.schema.heads)}], {table.count} rows, sha256 ")
            printer.print_string_literal(table.digest)
            printer.print_string(", ")
            with printer.in_square_brackets():
                printer.print_list(table.lines(), printer.print_string_literal)


def _parse_head(parser: AttrParser) -> str:
    name = parser.parse_identifier()
    return name if parser.parse_optional_punctuation(":") is None else f"{name}:{parser.parse_identifier()}"


def _parse_rows(parser: AttrParser, schema: TableSchema) -> Table:
    count = parser.parse_integer(allow_negative=False)
    parser.parse_keyword("rows")
    parser.parse_punctuation(",")
    parser.parse_keyword("sha256")
    digest = parser.parse_str_literal()
    parser.parse_punctuation(",")
    position = parser.pos
    lines = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: parse_text(parser))
    try:
        columns = columns_from_lines(schema, lines)
    except ValueError as error:
        parser.raise_error(str(error), position)
    shown = len(columns[0])
    if shown not in (count, 2 * ENDS) or shown > count:
        parser.raise_error(f"a table of {count} rows shows all or {2 * ENDS}, found {shown}", position)
    if shown == count and digest_of(schema, columns) != digest:
        parser.raise_error("the rows do not have the hash of the table", position)
    return Table(schema, columns, count, digest)
