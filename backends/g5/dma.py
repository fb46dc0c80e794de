"""The DMA engines of a core: how long they are busy with a command when nobody else wants anything.

start-up + bytes / (bandwidth x efficiency).  Source: the command timing templates published with Tier6-Model.
"""

from __future__ import annotations

from pmc.backends.g5.clock import of_bytes, of_ns
from pmc.dialects.arch import Dma
from pmc.dialects.interfaces import IntArray


def startup_ps(engine: Dma) -> int:
    """Picoseconds from the start of a command to its first byte."""
    return of_ns(engine.startup_ns)


def transfer_ps(engine: Dma, size: IntArray) -> IntArray:
    """Picoseconds from the first byte to the last."""
    return of_bytes(size, engine.gb_per_s * 1e9 * engine.efficiency)
