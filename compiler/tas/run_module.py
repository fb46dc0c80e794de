"""The module of a run: its trace and placement, and then overlays and physical events in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr, i64

from pmc.compiler.tas.run_files import WINDOWS, read_committed, read_windows
from pmc.compiler.trace_files import FILES
from pmc.dialects.analyses.event_state import EventSetting
from pmc.dialects.table import Table
from pmc.dialects.table_csv import read_table
from pmc.dialects.trace import LogicalOp, OverlayOp, PhysicalOp
from pmc.dialects.trace_tables import NO_WINDOW_YET, TABLES, TraceTableAttr

MODULE = "module.mlir"


def add_events(module: ModuleOp, folder: Path, setting: EventSetting) -> None:
    """Add what the tables in a folder say of a run: windows up to an overlay are one op, then the overlay, and on."""
    waiting = [int(row["waiting"]) for row in read_windows(folder / WINDOWS)]
    committed = [NO_WINDOW_YET, *read_committed(folder / WINDOWS)]
    tables = {kind: read_table(folder / FILES[kind], TABLES[kind]) for kind in ("compute_events", "memory_events")}
    overlays = {kind: read_table(folder / FILES[kind], TABLES[kind]) for kind in ("reroute", "migrate")}
    changed = np.unique(np.concatenate([table.ints("t_apply_ns") // setting.window_ns for table in overlays.values()]))
    path = next(op for op in module.ops if isinstance(op, LogicalOp)).path
    block = module.body.block
    first = 0
    for window in (*changed.tolist(), len(waiting)):
        if window > first:
            rows = {kind: _between(table, "t_start_ns", first, window, setting) for kind, table in tables.items()}
            numbers = {"first": first, "count": window - first, "window_ns": setting.window_ns}
            numbers["waiting"] = waiting[window - 1]
            block.add_op(
                PhysicalOp(
                    properties={
                        **{name: IntegerAttr(value, i64) for name, value in numbers.items()},
                        "committed": StringAttr(committed[window]),
                        **{kind: TraceTableAttr(table) for kind, table in rows.items()},
                        "path": path,
                    }
                )
            )
            first = window
        if window < len(waiting):
            rows = {
                kind: _between(table, "t_apply_ns", window, window + 1, setting) for kind, table in overlays.items()
            }
            block.add_op(
                OverlayOp(
                    properties={
                        "window": IntegerAttr(window, i64),
                        "committed": StringAttr(committed[window]),
                        **{kind: TraceTableAttr(table) for kind, table in rows.items()},
                        "path": path,
                    }
                )
            )


def _between(table: Table, column: str, first: int, end: int, setting: EventSetting) -> Table:
    """The rows of some windows."""
    times = table.ints(column)
    rows = np.flatnonzero((times >= setting.start_ns(first)) & (times < setting.start_ns(end)))
    return Table.of(table.schema, [values[rows] for values in table.columns])
