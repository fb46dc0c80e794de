"""The tables of a trace, from the events of a model to those of a chip, and the attribute that holds one.

    #trace.table<tensors, [tensor_id, dram_bank], 1 rows, sha256 "..", ["'W_E17_0' 'B(12,7,3)'"]>

Columns have the names and the order of the CSV files of the TAS-MoE study (section 3 of its guide).  Times are whole
nanoseconds, sizes bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from xdsl.irdl import irdl_attr_definition

from pmc.dialects.schema import did_you_mean
from pmc.dialects.table import Table, TableAttr, TableSchema
from pmc.dialects.table_columns import Column, EnumColumn, IntColumn, ListColumn, NumberColumn, TextColumn, Values

NO_WINDOW_YET = "0" * 16
"""The hash of the committed physical events before the first window."""

WEIGHT = re.compile(r"W_(?P<expert>.+)_(?P<shard>\d+)")
"""Name of a shard of the weights of an expert."""
CACHE = re.compile(r"KV_S(?P<sequence>\d+)")
"""Name of the KV cache of a sequence, whose bank follows from the sequence where a placement does not list it."""
CORE = re.compile(r"C(?P<core>\d+)")
"""Name of a core in an overlay."""

OPS = ("fc", "attn")
"""What a token asks for: its experts, or attention on the core that keeps its sequence."""
ACCESSES = ("read", "write")
POLICIES = ("single", "replicate")
QOS = ("workload", "migration")
"""Why bytes go over the network: the model asks for them, or an overlay moves them."""

LOGICAL_COMPUTE = TableSchema(
    (
        IntColumn("event_id"),
        IntColumn("t_gen_ns"),
        IntColumn("mb_id"),
        IntColumn("token_id"),
        ListColumn.of("experts_json", TextColumn),
        ListColumn.of("flops_json", NumberColumn),
        EnumColumn("op_type", OPS),
    ),
    "compute",
)
"""One event per token and op; of `fc` the experts and the FLOP of each, of `attn` no expert and the FLOP of all."""

LOGICAL_MEMORY = TableSchema(
    (
        IntColumn("event_id"),
        TextColumn("tensor_id"),
        EnumColumn("access", ACCESSES),
        IntColumn("bytes"),
        TextColumn("locality_hint"),
    ),
    "memory",
)
"""What events read and write; `event_id` is that of the compute event which a row belongs to."""

WEIGHTS = TableSchema((TextColumn("expert"), IntColumn("shards"), IntColumn("shard_bytes")), "weights")
"""All experts of the chip, whether a token goes there or not, and the shards `W_<expert>_<shard>` of their weights."""

EXPERTS = TableSchema(
    (TextColumn("expert"), ListColumn.of("cores", IntColumn), EnumColumn("policy", POLICIES)), "experts"
)
"""The cores of every expert, the primary one first."""

TENSORS = TableSchema((TextColumn("tensor_id"), TextColumn("dram_bank")), "tensors")
"""The bank of every tensor."""

REROUTE = TableSchema(
    (
        IntColumn("t_apply_ns"),
        TextColumn("scope"),
        IntColumn("from_core"),
        IntColumn("to_core"),
        ListColumn.of("mb_ids_json", IntColumn),
        TextColumn("reason"),
        NumberColumn("expected_gain"),
    ),
    "reroute",
)
"""Parts of micro-batches that go to another core; scope `mb` is all of them, `fc` or `attn` one op, `E17` an expert."""

MIGRATE = TableSchema(
    (
        IntColumn("t_apply_ns"),
        TextColumn("obj_type"),
        TextColumn("obj_id"),
        TextColumn("src"),
        TextColumn("dst"),
        IntColumn("size_bytes"),
        NumberColumn("cost"),
    ),
    "migrate",
)
"""Tensors (`weight`, `kv`) that go from bank to bank, and experts (`expert`) that go from core `C33` to core `C21`.

An expert without `src` gets one core more, without `dst` it loses one; its weights do not follow by themselves.
"""

COMPUTE_EVENTS = TableSchema(
    (
        IntColumn("evt_id"),
        IntColumn("t_start_ns"),
        IntColumn("core_id"),
        IntColumn("duration_cycles"),
        NumberColumn("flops"),
        EnumColumn("op", OPS),
        TextColumn("dvfs_domain"),
        NumberColumn("power_hint"),
    ),
    "compute_events",
)
"""What cores do; `evt_id` is the event of the model, of which every expert is a part; `power_hint` is in watts."""

MEMORY_EVENTS = TableSchema(
    (
        IntColumn("evt_id"),
        IntColumn("t_start_ns"),
        IntColumn("src_core"),
        TextColumn("dst_bank"),
        IntColumn("bytes"),
        EnumColumn("rw", ACCESSES),
        IntColumn("hops"),
        EnumColumn("noc_qos", QOS),
    ),
    "memory_events",
)
"""What banks serve, and for which core; a migration belongs to no event of the model and has the `evt_id` 0."""

TABLES: Mapping[str, TableSchema] = {
    schema.kind: schema
    for schema in (
        LOGICAL_COMPUTE, LOGICAL_MEMORY, WEIGHTS, EXPERTS, TENSORS, REROUTE, MIGRATE, COMPUTE_EVENTS, MEMORY_EVENTS,
    )
}  # fmt: skip


def trace_table(schema: TableSchema, **columns: Values) -> Table:
    """The table of a schema from its columns by name.  Raises ValueError where they are not those of the schema."""
    if tuple(columns) != schema.names:
        raise ValueError(f"a table '{schema.kind}' has the columns {', '.join(schema.names)}")
    return Table.of(schema, list(columns.values()))


@irdl_attr_definition
class TraceTableAttr(TableAttr):
    """A table of a trace, whole or reduced."""

    name: ClassVar[str] = "trace.table"

    @classmethod
    def schema_of(cls, kind: str, heads: Sequence[str]) -> TableSchema:
        """One of `TABLES`, whose columns the text repeats for its reader."""
        if kind not in TABLES:
            raise ValueError(f"'{kind}' is no table of a trace{did_you_mean(kind, TABLES)}")
        schema = TABLES[kind]
        if tuple(heads) != schema.heads:
            raise ValueError(f"a table '{kind}' has the columns {', '.join(schema.heads)}")
        return schema


def column_of(schema: TableSchema, name: str) -> Column:
    """A column by its name."""
    return schema.columns[schema.names.index(name)]
