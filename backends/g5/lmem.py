"""The LMEM of the cores: the port that DMA engines share, and the banks in which operands of matrix commands lie."""

from __future__ import annotations

import numpy as np

from pmc.backends.g5.clock import of_bytes
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray


def bank(chip: Chip, address: IntArray) -> IntArray:
    """The bank of an address: LMEM is as many equal parts, one after the other, as a lane has banks."""
    lmem = chip.commands.lmem
    return np.asarray(address // (lmem.bytes_per_core // lmem.banks_per_lane))


def port_ps(chip: Chip, size: IntArray) -> IntArray:
    """Picoseconds in which so many bytes pass the port through which GDMA and SDMA reach the LMEM of a core."""
    return of_bytes(size, chip.commands.lmem.bytes_per_cycle * chip.clocks.chip_ghz * 1e9)
