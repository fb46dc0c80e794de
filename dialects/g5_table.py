"""Unrolled commands as a table: one row per command, integer columns, readable text.

    #g5.table<[id, kind:direction, dram], 3 rows, sha256 "9f86d081884c7d65", ["1 load 4096; 2 load 8192; 3 store 0"]>

A column `name:enum` holds numbers that the text spells as the names of `ENUMS[enum]`.  A table is whole or, because
text of 1e5 rows serves nobody, reduced to its first and last rows; row count and hash are those of the whole table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.accesses import BANDWIDTH_DOMAINS
from pmc.dialects.vector_kinds import VECTOR_KINDS

Rows = npt.NDArray[np.int64]

ELEMENT_TYPES = ("none", "f8E4M3FN", "f8E5M2", "i8", "bf16", "f16", "i16", "f32", "i32", "f64", "i64", "i4")

ENUMS: dict[str, tuple[str, ...]] = {
    "direction": ("load", "store", "gather"),
    "domain": BANDWIDTH_DOMAINS,
    "vector": tuple(kind.name.partition(".")[2] for kind in VECTOR_KINDS),
    "element": ELEMENT_TYPES,
}
"""The names that the text of a table uses instead of numbers."""

ENDS = 4
"""Rows that a reduced table keeps at either end."""

ROWS_PER_LINE = 16

_INTEGER = re.compile(r"-?[0-9]{1,18}")


class CommandTable:
    """Columns of int64; `rows` is [count, columns], or the first and last `ENDS` rows when reduced."""

    def __init__(self, columns: Sequence[str], rows: Rows, count: int, digest: str) -> None:
        self.columns = tuple(columns)
        self.rows = rows
        self.count = count
        self.digest = digest

    @classmethod
    def of(cls, columns: Sequence[str], rows: Rows) -> CommandTable:
        """The whole table of `rows`, [count, columns]."""
        return cls(columns, rows, len(rows), digest_of(columns, rows))

    @property
    def is_whole(self) -> bool:
        """Whether no row is left out."""
        return len(self.rows) == self.count

    def reduced(self) -> CommandTable:
        """The table with only its first and last rows, if it is longer than these."""
        if self.count <= 2 * ENDS:
            return self
        return CommandTable(
            self.columns, np.concatenate([self.rows[:ENDS], self.rows[-ENDS:]]), self.count, self.digest
        )

    def column(self, name: str) -> Rows:
        """The values of a column, named with or without its enum."""
        names = [c.partition(":")[0] for c in self.columns]
        values: Rows = self.rows[:, names.index(name.partition(":")[0])]
        return values

    @cached_property
    def _identity(self) -> tuple[tuple[str, ...], int, str, bool]:
        return self.columns, self.count, self.digest, self.is_whole

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CommandTable)
            and self._identity == other._identity
            and np.array_equal(self.rows, other.rows)
        )

    def __hash__(self) -> int:
        return hash(self._identity)

    def lines(self) -> list[str]:
        """The rows as text, `ROWS_PER_LINE` rows a line."""
        texts = [self._texts(i) for i in range(len(self.columns))]
        rows = [" ".join(row) for row in zip(*texts, strict=True)]
        return ["; ".join(rows[i : i + ROWS_PER_LINE]) for i in range(0, len(rows), ROWS_PER_LINE)]

    def _texts(self, column: int) -> list[str]:
        names = ENUMS.get(self.columns[column].partition(":")[2])
        values = self.rows[:, column].tolist()
        return [str(v) for v in values] if names is None else [names[v] for v in values]


def digest_of(columns: Sequence[str], rows: Rows) -> str:
    """The first 16 hex digits of the SHA-256 of the column names and the columns as little-endian int64."""
    digest = hashlib.sha256(" ".join(columns).encode())
    digest.update(np.ascontiguousarray(rows.T, "<i8").data)
    return digest.hexdigest()[:16]


def rows_from_lines(columns: Sequence[str], lines: Sequence[str]) -> Rows:
    """The rows that `CommandTable.lines` wrote; raises `ValueError` on text that no table writes."""
    words = [row.split() for line in lines for row in line.split(";")]
    if any(len(row) != len(columns) for row in words):
        raise ValueError(f"every row needs {len(columns)} values")
    rows = np.empty((len(words), len(columns)), np.int64)
    for index, texts in enumerate(zip(*words, strict=True)):
        names = ENUMS.get(columns[index].partition(":")[2])
        if names is None:
            wrong = next((text for text in texts if not _INTEGER.fullmatch(text)), None)
            if wrong is not None:
                raise ValueError(f"'{wrong[:40]}' in column '{columns[index]}' is not an integer of up to 18 digits")
            rows[:, index] = np.array(texts, np.str_).astype(np.int64)
        else:
            codes = {name: code for code, name in enumerate(names)}
            unknown = set(texts) - codes.keys()
            if unknown:
                raise ValueError(f"'{min(unknown)[:40]}' is not one of {', '.join(names)}")
            rows[:, index] = [codes[t] for t in texts]
    return rows


@irdl_attr_definition
class TableAttr(Data[CommandTable]):
    """A table of commands, whole or reduced."""

    name: ClassVar[str] = "g5.table"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> CommandTable:
        """Parse `<[column, ..], n rows, sha256 "..", ["row; row", ..]>`."""

        def column() -> str:
            name = parser.parse_identifier()
            return name if parser.parse_optional_punctuation(":") is None else f"{name}:{parser.parse_identifier()}"

        with parser.in_angle_brackets():
            columns = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, column)
            parser.parse_punctuation(",")
            count = parser.parse_integer(allow_negative=False)
            parser.parse_keyword("rows")
            parser.parse_punctuation(",")
            parser.parse_keyword("sha256")
            digest = parser.parse_str_literal()
            parser.parse_punctuation(",")
            position = parser.pos
            lines = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_str_literal)
            try:
                rows = rows_from_lines(columns, lines)
            except ValueError as error:
                parser.raise_error(str(error), position)
            if len(rows) not in (count, 2 * ENDS) or len(rows) > count:
                parser.raise_error(f"a table of {count} rows shows all or {2 * ENDS}, found {len(rows)}", position)
            if len(rows) == count and digest_of(columns, rows) != digest:
                parser.raise_error("the rows do not have the hash of the table", position)
        return CommandTable(columns, rows, count, digest)

    def print_parameter(self, printer: Printer) -> None:
        """Print what `parse_parameter` reads."""
        table = self.data
        with printer.in_angle_brackets():
            printer.print_string(f"[{', '.join(table.columns)}], {table.count} rows, sha256 ")
            printer.print_string_literal(table.digest)
            printer.print_string(", ")
            with printer.in_square_brackets():
                printer.print_list(table.lines(), printer.print_string_literal)
