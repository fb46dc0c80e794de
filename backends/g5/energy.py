"""The energy of commands, by class: how much of what they do, times what the chip file says that it takes."""

from __future__ import annotations

from collections.abc import Mapping

from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.arch import Chip
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.g5 import ChipCommandOp, ProgramOp, SdmaOp

CLASSES = ("tiu", "vec", "gdma", "sdma", "dram", "cdma")
"""Products of the matrix unit; steps of vector and sort units; bytes of DMA engines, of DRAM, and between chips."""


def program_energy_pj(program: ProgramOp, chip: Chip) -> Mapping[str, float] | None:
    """Picojoules of all cores in one run of a kernel; None where the chip file says nothing about energy."""
    energy = chip.commands.energy
    if energy is None:
        return None
    counted = program_resources(program, chip)
    return {
        "tiu": counted.macs * energy.pj_per_mac,
        "vec": float(sum(steps.sum() for steps in counted.vec_steps.values())) * energy.pj_per_vector_step,
        "gdma": float(counted.gdma_bytes.sum()) * energy.pj_per_gdma_byte,
        "sdma": float(counted.sdma_bytes.sum()) * energy.pj_per_sdma_byte,
        "dram": (counted.dram_read + counted.dram_written) * energy.pj_per_dram_byte,
    }


def movement_energy_pj(op: ChipCommandOp, ranks: int, chip: Chip) -> Mapping[str, float] | None:
    """Picojoules of one chip in a movement among `ranks`, or inside of its DRAM."""
    energy = chip.commands.energy
    if energy is None:
        return None
    work = op.work()
    moved = work.bytes_read.constant + work.bytes_written.constant
    found = {"dram": moved * energy.pj_per_dram_byte}
    if isinstance(op, SdmaOp):
        return {**found, "sdma": moved * energy.pj_per_sdma_byte}
    assert isinstance(op, ExchangeInterface)
    exchange = op.exchange()
    sent = exchange.link_bytes(ranks).constant if exchange.sends and ranks > 1 else 0
    return {**found, "cdma": sent * energy.pj_per_cdma_byte}
