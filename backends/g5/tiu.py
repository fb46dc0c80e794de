"""The matrix unit of a core: how long an MM2 command takes.

cycles = start-up + ceil(m / cube m) ceil(n / cube n) (ceil(k / cube k) + conflicts), with a cycle of conflict where the
result lies in the bank of the first operand, and one where it lies in that of the second.  Source: the command timing
templates published with Tier6-Model.
"""

from __future__ import annotations

from pmc.backends.g5.clock import of_cycles
from pmc.backends.g5.lmem import bank
from pmc.dialects.analyses.expand import Runs
from pmc.dialects.analyses.matmul_tiling import cube_k
from pmc.dialects.analyses.resources import ceil_div
from pmc.dialects.arch import Chip
from pmc.dialects.g5 import TiuOp
from pmc.dialects.interfaces import IntArray


def durations_ps(op: TiuOp, runs: Runs, chip: Chip) -> IntArray:
    """Picoseconds of every run of a command."""
    m, n, k = (runs.value(size.data) for size in (op.m, op.n, op.k))
    result, a, b = (bank(chip, runs.value(matrix.address.data)) for matrix in (op.acc, op.a, op.b))
    conflicts = (result == a).astype(int) + (result == b)
    blocks = ceil_div(m, chip.cube.m) * ceil_div(n, chip.cube.n)
    tiu = chip.commands.tiu
    startup = tiu.startup_cycles_nt if bool(op.transpose_b) else tiu.startup_cycles_nn
    return of_cycles(startup + blocks * (ceil_div(k, cube_k(chip, op.matrix_type)) + conflicts), chip.clocks.tiu_ghz)
