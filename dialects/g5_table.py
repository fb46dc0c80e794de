"""Unrolled commands as a table: one row per command, integer columns, readable text.

    #g5.table<[id, kind:direction, dram], 3 rows, sha256 "9f86d081884c7d65", ["1 load 4096; 2 load 8192; 3 store 0"]>

A column `name:enum` holds numbers that the text spells as the names of `ENUMS[enum]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from xdsl.irdl import irdl_attr_definition

from pmc.dialects.accesses import BANDWIDTH_DOMAINS
from pmc.dialects.interfaces import IntArray
from pmc.dialects.table import Table, TableAttr, TableSchema
from pmc.dialects.table_columns import Column, EnumColumn, IntColumn
from pmc.dialects.vector_kinds import VECTOR_KINDS

ELEMENT_TYPES = ("none", "f8E4M3FN", "f8E5M2", "i8", "bf16", "f16", "i16", "f32", "i32", "f64", "i64", "i4")

ENUMS: dict[str, tuple[str, ...]] = {
    "direction": ("load", "store", "gather"),
    "domain": BANDWIDTH_DOMAINS,
    "vector": tuple(kind.name.partition(".")[2] for kind in VECTOR_KINDS),
    "element": ELEMENT_TYPES,
}
"""The names that the text of a table uses instead of numbers."""


def command_table(heads: Sequence[str], rows: IntArray) -> Table:
    """The whole table of `rows`, [count, columns]; columns in one piece of memory each are not copied."""
    return Table.of(command_schema(heads), [rows[:, column] for column in range(len(heads))])


def command_schema(heads: Sequence[str]) -> TableSchema:
    """The schema of a table with such columns, which differ from engine to engine.  Raises ValueError."""
    if not heads:
        raise ValueError("a table of commands has columns")
    return _schema(tuple(heads))


@cache
def _schema(heads: tuple[str, ...]) -> TableSchema:
    return TableSchema(tuple(map(_column, heads)))


def _column(head: str) -> Column:
    name, _, enum = head.partition(":")
    if enum and enum not in ENUMS:
        raise ValueError(f"'{enum}' of column '{head}' is not one of {', '.join(ENUMS)}")
    return EnumColumn(name, ENUMS[enum], enum) if enum else IntColumn(name)


@irdl_attr_definition
class CommandTableAttr(TableAttr):
    """A table of commands, whole or reduced."""

    name: ClassVar[str] = "g5.table"

    @classmethod
    def schema_of(cls, kind: str, heads: Sequence[str]) -> TableSchema:
        """Any columns of integers and known enums; there is one kind, which has no name."""
        if kind:
            raise ValueError(f"a table of commands has no kind, found '{kind}'")
        return command_schema(heads)
