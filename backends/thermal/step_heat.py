"""Joules of the parts of a simulated step, in the cores and banks of a stacked chip.

    core: (FLOPs x energy) x (V / V of the fastest clock)^2 + network
    bank: DRAM bytes x energy, evenly over all banks, as channels interleave

Energies are those of the chip file (`command_level.energy`) where it states them, else those of the stack (`power`).
With the stack's, the network is bytes times links times energy.  Data of DRAM comes from all banks alike, so from above
all cores alike; a byte that one read brings to several cores takes the whole way once and one link for each other core.
What leaves the chip is spent evenly over the cores; the stack states no energy for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.g5.step_work import PartWork, StepWork
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.backends.thermal.power import PICO, DynamicPower
from pmc.dialects.analyses.mesh_traffic import link_bytes
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import StackedArch


@dataclass(frozen=True)
class StepHeat:
    """Joules of one run of every part, at the voltage of the fastest clock."""

    arch: StackedArch
    source: str
    """Whose energies they are."""
    scaled_j: Floats
    """[parts, cores] that go with the voltage squared."""
    fixed_j: Floats
    """[parts, cores] that do not."""
    dram_j: Floats
    """[parts] of all banks."""

    @classmethod
    def of(cls, arch: StackedArch, chip: Chip, work: StepWork) -> StepHeat:
        """The heat of a step on a stacked chip.  Raises PmcError where the stack is none of this chip."""
        require_stack_of(arch, chip)
        place = core_places(chip)
        stated = chip.commands.energy
        energies = _OfChip(chip) if stated is not None else _OfStack(arch, place)
        shape = len(work.parts), arch.mesh.count
        scaled, fixed, dram = np.zeros(shape), np.zeros(shape), np.zeros(len(work.parts))
        for number, part in enumerate(work.parts):
            scaled[number, place] = energies.computed_pj(part)
            fixed[number, place] = energies.moved_pj(part)
            dram[number] = part.dram_bytes * energies.pj_per_dram_byte
        where = f"the chip file {chip.name}" if stated is not None else f"the stack {arch.name}"
        return cls(arch, where, scaled * PICO, fixed * PICO, dram * PICO)

    def joules(self, runs: Floats, energy_factor: Floats) -> tuple[Floats, float]:
        """[cores] joules, and those of all banks, of [parts] runs, where energies of [cores] have a factor."""
        return (runs @ self.scaled_j) * energy_factor + runs @ self.fixed_j, float(runs @ self.dram_j)

    def power(self, runs: Floats, energy_factor: Floats, seconds: float) -> DynamicPower:
        """Mean watts of [parts] runs in a time."""
        core_j, bank_j = self.joules(runs, energy_factor)
        banks = self.arch.dram.count
        return DynamicPower(core_j / seconds, np.full(banks, bank_j / banks / seconds))


def require_stack_of(arch: StackedArch, chip: Chip) -> None:
    """Raises PmcError unless the mesh and the fastest clock of a stack are those of a chip."""
    noc = chip.commands.noc
    columns, rows = arch.mesh.cores
    if (columns, rows) != (noc.mesh_columns, noc.mesh_rows):
        raise PmcError(
            f"stack {arch.name} has {columns} x {rows} cores (mesh.cores), chip {chip.name} has "
            f"{noc.mesh_columns} x {noc.mesh_rows} (command_level.noc)"
        )
    fastest = arch.domain.steps_ghz[0]
    if fastest != chip.clocks.tiu_ghz:
        raise PmcError(
            f"stack {arch.name} runs at {fastest:g} GHz (the first of dvfs steps_ghz), chip {chip.name} at "
            f"{chip.clocks.tiu_ghz:g} GHz (clocks.tiu_ghz)"
        )


def core_places(chip: Chip) -> Ints:
    """[cores] of a chip: which core of the stack each is; chips number theirs cluster by cluster."""
    noc = chip.commands.noc
    positions = (noc.position(core) for core in range(chip.cores))
    return np.array([y * noc.mesh_columns + x for x, y in positions], np.int64)


class _OfChip:
    """Picojoules of [cores of the chip], as the chip file has them."""

    def __init__(self, chip: Chip) -> None:
        assert chip.commands.energy is not None
        self.energy = chip.commands.energy
        self.pj_per_dram_byte = self.energy.pj_per_dram_byte

    def computed_pj(self, part: PartWork) -> Floats:
        found: Floats = part.macs * self.energy.pj_per_mac + part.vector_steps * self.energy.pj_per_vector_step
        return found

    def moved_pj(self, part: PartWork) -> Floats:
        energy = self.energy
        sent = part.sent_bytes * energy.pj_per_cdma_byte / len(part.macs)
        loaded, fetched = part.gdma_bytes * energy.pj_per_gdma_byte, part.sdma_bytes * energy.pj_per_sdma_byte
        return np.asarray(loaded + fetched + sent, np.float64)


class _OfStack:
    """Picojoules of [cores of the chip], as the stack has them."""

    def __init__(self, arch: StackedArch, place: Ints) -> None:
        self.arch, self.place = arch, place
        self.pj_per_dram_byte = arch.power.pj_per_dram_byte
        cores = np.arange(arch.mesh.count)
        one = np.ones_like(cores)
        self.hops_to = np.stack([self.crossed(cores, one * core, one) for core in place]) / len(cores)
        """[cores, cores] byte-hops in the second for a byte from everywhere to the first."""

    def computed_pj(self, part: PartWork) -> Floats:
        return np.asarray(part.flops * self.arch.power.pj_per_flop, np.float64)

    def moved_pj(self, part: PartWork) -> Floats:
        found: Floats = self.byte_hops(part) * self.arch.power.pj_per_noc_byte_hop
        return found

    def byte_hops(self, part: PartWork) -> Floats:
        """[cores] bytes times links; see the module for reads that serve several cores."""
        loaded = int(part.gdma_bytes.sum())
        whole_way = min(1.0, part.dram_bytes / loaded) if loaded else 0.0
        fetched = part.fetched_bytes
        others = part.sdma_bytes - fetched.sum(axis=0)
        from_dram = part.gdma_bytes * whole_way + others
        source, target = np.nonzero(fetched)
        crossed = self.crossed(self.place[source], self.place[target], fetched[source, target])
        found: Floats = from_dram @ self.hops_to + part.gdma_bytes * (1 - whole_way) + crossed
        return found

    def crossed(self, source: Ints, target: Ints, size: Ints) -> Floats:
        """[cores of the chip] bytes times links, of what leaves each over its links; messages are between places."""
        found = link_bytes(*self.arch.mesh.cores, source, target, size).sum(axis=0).reshape(-1)
        return np.asarray(found[self.place])
