"""Small chips, workloads and settings for tests of traces."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmc.compiler.tas.configuration import load_stack, load_tas, load_workload
from pmc.dialects.analyses.event_state import EventChip, EventSetting
from pmc.dialects.analyses.expert_draws import drawn_routing
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.workload_trace import logical_tables
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import Column, ListColumn, Lists, TextColumn, Values, quote
from pmc.dialects.tas_params import TasParams
from pmc.dialects.trace_tables import MIGRATE, REROUTE

WINDOW_NS = 3_000_000


def stack(**overrides: Any) -> StackedArch:
    """2 x 2 cores, each under 2 x 2 banks on 2 dies."""
    return load_stack("arch_8x8_32x32x8", {"mesh.cores": [2, 2], "dram.banks": [4, 4, 2], **overrides})


def workload(**overrides: Any) -> MoeWorkload:
    """Eight experts of two shards, four tokens per micro-batch."""
    small = {
        "routing.experts": 8, "sequence.micro_batch": 4, "sequence.steps": 6, "tensors.shards_per_expert": 2,
    }  # fmt: skip
    return load_workload("workload_mixtral_8x7b", {**small, **overrides})


def tas() -> TasParams:
    """The parameters of the study, but for migrations that may take all of a bank's bandwidth."""
    return load_tas("tas_params", {"taps.capacity.migration_bw_gbps": 25.0})


def tables(found: MoeWorkload) -> tuple[Table, Table]:
    return logical_tables(found, drawn_routing(found.routing, found.sequence.steps, found.sequence.micro_batch))


def setting(found: MoeWorkload | None = None, arch: StackedArch | None = None) -> EventSetting:
    """A workload under the identity placement."""
    found, arch = found or workload(), arch or stack()
    parts = LogicalParts.of(*tables(found), found.sequence.micro_batch)
    chip = EventChip.of(arch, tas().taps.capacity)
    return EventSetting.of(parts, chip, WINDOW_NS, *identity_placement(arch, found))


def table_of(schema: TableSchema, *rows: tuple[Any, ...]) -> Table:
    """A table from rows of plain values, those of enums as their names."""
    return Table.of(schema, [_column(column, [row[i] for row in rows]) for i, column in enumerate(schema.columns)])


def _column(column: Column, values: list[Any]) -> Values:
    if isinstance(column, ListColumn):
        items = _column(column.items, [item for value in values for item in value])
        assert not isinstance(items, Lists)
        return Lists(np.cumsum([0, *map(len, values)]), items)
    return column.parsed([_text(column, value) for value in values])


def _text(column: Column, value: Any) -> str:
    return quote(value) if isinstance(column, TextColumn) else str(value)


def overlay(
    window: int,
    committed: str,
    reroute: list[tuple[Any, ...]] | None = None,
    migrate: list[tuple[Any, ...]] | None = None,
) -> Overlay:
    """Rows (scope, from, to, mb ids) and (type, id, source, target, bytes), all from the start of the window on."""
    start = window * WINDOW_NS
    return Overlay(
        window, committed,
        table_of(REROUTE, *((start, *row, "hot_core", 0.5) for row in reroute or [])),
        table_of(MIGRATE, *((start, *row, 1.0) for row in migrate or [])),
    )  # fmt: skip
