"""The network of the cores: what a transfer between two of them takes on its way, and the link between the dies."""

from __future__ import annotations

import numpy as np

from pmc.backends.g5.clock import of_bytes, of_cycles, of_ns
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray


def hops(chip: Chip, source: IntArray, target: IntArray) -> IntArray:
    """Manhattan distances on the mesh."""
    noc = chip.commands.noc
    places = np.array([noc.position(core) for core in range(chip.cores)], np.int64)
    return np.asarray(np.abs(places[source] - places[target]).sum(axis=1))


def way_ps(chip: Chip, source: IntArray, target: IntArray) -> IntArray:
    """Picoseconds from the LMEM of one core to that of another: hops, and the latency of the link between the dies."""
    way = of_cycles(hops(chip, source, target) * chip.commands.noc.cycles_per_hop, chip.clocks.chip_ghz)
    if chip.die_to_die is None:
        return way
    return way + crosses_dies(chip, source, target) * of_ns(chip.die_to_die.latency_ns)


def crosses_dies(chip: Chip, source: IntArray, target: IntArray) -> IntArray:
    """1 where a transfer passes the link between two dies; cores are numbered die by die."""
    per_die = chip.cores // chip.dies
    return np.asarray(source // per_die != target // per_die, np.int64)


def die_link_ps(chip: Chip, source: IntArray, target: IntArray, size: IntArray) -> IntArray:
    """Picoseconds in which transfers pass the link between the dies, one way; 0 for those that stay on their die."""
    if chip.die_to_die is None:
        return np.zeros_like(size)
    return crosses_dies(chip, source, target) * of_bytes(size, chip.die_to_die.gb_per_s * 1e9)
