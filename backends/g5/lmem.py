"""The LMEM of the cores: the port that DMA engines share, and the banks in which operands of matrix commands lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pmc.backends.g5.clock import of_bytes
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray


def bank(chip: Chip, address: IntArray) -> IntArray:
    """The bank of an address: LMEM is as many equal parts, one after the other, as a lane has banks."""
    lmem = chip.commands.lmem
    return np.asarray(address // (lmem.bytes_per_core // lmem.banks_per_lane))


@dataclass
class Ports:
    """The ports of all cores, through which GDMA and SDMA reach LMEM, first come first served."""

    bytes_per_s: float
    free: dict[int, int] = field(default_factory=dict[int, int])
    """When the port of a core is free again."""

    @classmethod
    def of(cls, chip: Chip) -> Ports:
        """The ports of a chip: `lmem.bytes_per_cycle` each."""
        return cls(chip.commands.lmem.bytes_per_cycle * chip.clocks.chip_ghz * 1e9)

    def service(self, size: IntArray) -> IntArray:
        """Picoseconds in which so many bytes pass."""
        return of_bytes(size, self.bytes_per_s)

    def serve(self, time_ps: int, service_ps: int, core: int) -> int:
        """Queue a transfer that arrives at `time_ps`; when its last byte has passed."""
        done = max(self.free.get(core, 0), time_ps) + service_ps
        self.free[core] = done
        return done
