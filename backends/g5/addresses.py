"""Commands whose operands lie outside the memories of the chip."""

from __future__ import annotations

import numpy as np

from pmc.dialects.accesses import CommandAccess
from pmc.dialects.analyses.expand import Runs
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import FetchOp
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import element_bits


def check_addresses(runs: Runs, chip: Chip) -> None:
    """Raises PmcError for a run of a command that touches bytes outside of LMEM or DRAM, or a core that is not there.

    Of rows that an index picks only the first is known.
    """
    sizes = {"lmem": chip.commands.lmem.bytes_per_core, "dram": chip.dram_bytes}
    for access in runs.op.accesses():
        if not runs.count:
            return
        first, last = _bytes(access, runs)
        lowest, highest = int(first.min()), int(last.max())
        if lowest < 0 or highest > sizes[access.memory]:
            worst = int(np.argmin(first) if lowest < 0 else np.argmax(last))
            memory = f"{access.memory.upper()} of chip {chip.name} has {sizes[access.memory]}"
            raise PmcError(
                f"{runs.op.name} at '{runs.op.path.data}': '{access.role}' of core {runs.core[worst]} lies at bytes "
                f"{first[worst]} to {last[worst]}, {memory}"
            )
    if isinstance(runs.op, FetchOp):
        source = runs.value(runs.op.core.data)
        wrong = source[(source < 0) | (source >= chip.cores)]
        if wrong.size:
            raise PmcError(
                f"g5.fetch at '{runs.op.path.data}' reads the LMEM of core {wrong[0]}: chip {chip.name} has cores 0 to "
                f"{chip.cores - 1}"
            )


def _bytes(access: CommandAccess, runs: Runs) -> tuple[IntArray, IntArray]:
    """[runs] the first byte of an operand, and the one behind its last; zeros for one without elements."""
    bits = element_bits(access.element_type)
    lowest, highest = np.zeros(runs.count, np.int64), np.zeros(runs.count, np.int64)
    shape = access.shape[-1:] if access.indexed else access.shape
    empty = np.zeros(runs.count, np.bool_)
    for extent, stride in zip(shape, access.strides[len(access.strides) - len(shape) :], strict=True):
        way = (runs.value(extent) - 1) * runs.value(stride)
        lowest, highest = lowest + np.minimum(way, 0), highest + np.maximum(way, 0)
        empty |= runs.value(extent) <= 0
    address = runs.value(access.address)
    last = address + -(-(highest + 1) * bits // 8)
    return np.where(empty, 0, address + lowest * bits // 8), np.where(empty, 0, last)
