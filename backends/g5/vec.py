"""The vector unit and the sort unit of a core: how long their commands take.

A vector command takes its steps at the rate of the unit for the type it computes in, and once the latency of LMEM.
The sort unit selects in ceil(n / width) passes of ceil(log2 k) compares per row after its start-up; the score that a
router computes first takes its vector steps.  Source: the command timing templates published with Tier6-Model.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np

from pmc.backends.g5.clock import of_cycles, of_ns
from pmc.dialects.analyses.expand import Runs
from pmc.dialects.analyses.program_resources import vector_dtype
from pmc.dialects.analyses.resources import ceil_div
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.g5 import VectorCommandOp
from pmc.dialects.interfaces import IntArray
from pmc.dialects.vector_kinds import RouterTopkAttr


def durations_ps(op: VectorCommandOp, runs: Runs, chip: Chip) -> IntArray:
    """Picoseconds of every run of a command."""
    rows, columns = runs.value(op.rows.data), runs.value(op.columns.data)
    steps = command_steps(op.kind, rows, columns, chip)
    per_cycle = chip.vector_ops_per_s(vector_dtype(op)) / chip.cores / (chip.clocks.chip_ghz * 1e9)
    cycles = np.ceil(np.asarray(steps) / per_cycle).astype(np.int64)
    if isinstance(op.kind, RouterTopkAttr):
        hau = chip.commands.hau
        compares = ceil(log2(max(2, op.kind.top_k.value.data)))
        cycles = cycles + hau.startup_cycles
        cycles = cycles + rows * ceil_div(columns, hau.sort_width) * compares * hau.cycles_per_compare
    return of_cycles(cycles, chip.clocks.chip_ghz) + of_ns(chip.commands.lmem.latency_ns)
