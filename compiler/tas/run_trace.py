"""The events of a run as a timeline, which ui.perfetto.dev opens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pmc.backends.evaluate.trace_timeline import trace_timeline
from pmc.compiler.files import write_file
from pmc.compiler.tas.run_files import CLOCKS
from pmc.compiler.trace_files import FILES
from pmc.dialects.table_csv import read_table
from pmc.dialects.trace_tables import COMPUTE_EVENTS, MEMORY_EVENTS


def write_trace(folder: Path, window_ns: int, model: str, path: Path) -> None:
    """Write what the cores of a run did, each event at the clock of its core in its window.  Raises PmcError."""
    compute = read_table(folder / FILES["compute_events"], COMPUTE_EVENTS)
    memory = read_table(folder / FILES["memory_events"], MEMORY_EVENTS)
    clocks = np.loadtxt(folder / CLOCKS, delimiter=",", ndmin=2)
    clock_ghz = clocks[compute.ints("t_start_ns") // window_ns, compute.ints("core_id")]
    write_file(path, json.dumps(trace_timeline(compute, memory, clock_ghz, model).trace()) + "\n")
