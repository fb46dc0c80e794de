"""The events of a trace as a timeline, for the writers that the simulator's timelines have."""

from __future__ import annotations

import numpy as np

from pmc.backends.evaluate.timeline import Event, Timeline, level_counter
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.table import Table
from pmc.dialects.trace_tables import OPS, QOS


def trace_timeline(compute: Table, memory: Table, clock_ghz: float | FloatArray, model: str) -> Timeline:
    """A timeline of tables `compute_events` and `memory_events`: parts on their cores, migrations, busy cores.

    `clock_ghz` is the clock of all events, or [event] that of each.
    """
    start = compute.ints("t_start_ns") / 1e3
    duration = compute.ints("duration_cycles") / (np.asarray(clock_ghz) * 1e3)
    events = [
        Event(
            f"core {compute.ints('core_id')[row]}", "parts", model, OPS[int(compute.ints("op")[row])],
            float(start[row]), float(duration[row]),
            args={"event": int(compute.ints("evt_id")[row]), "flops": float(compute.numbers("flops")[row])},
        )
        for row in range(compute.count)
    ]  # fmt: skip
    ends = zip((start + duration).tolist(), [-1.0] * len(start), strict=True)
    busy = level_counter("chip", "busy cores", [*zip(start.tolist(), [1.0] * len(start), strict=True), *ends])
    return Timeline((*events, *_migrations(memory, model)), (busy,))


def _migrations(memory: Table, model: str) -> list[Event]:
    """A mark of no length for every piece that a bank reads or writes for a migration."""
    rows = np.flatnonzero(memory.ints("noc_qos") == QOS.index("migration"))
    times, sizes = memory.ints("t_start_ns")[rows] / 1e3, memory.ints("bytes")[rows]
    names = memory.texts("dst_bank")[rows].tolist()
    return [
        Event("migrations", bank, model, "piece", time, 0.0, args={"bytes": size})
        for bank, time, size in zip(names, times.tolist(), sizes.tolist(), strict=True)
    ]
