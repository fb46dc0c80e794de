"""The time that commands keep every engine of every core busy, at the rates of the tile model."""

from __future__ import annotations

import numpy as np

from pmc.backends.cost.rates import CoreRates
from pmc.dialects.analyses.program_resources import ProgramResources
from pmc.dialects.interfaces import FloatArray

ENGINES: tuple[str, ...] = ("matrix", "vector", "gdma", "sdma")
"""The engines of a core."""


def engine_seconds(counted: ProgramResources, rates: CoreRates) -> dict[str, FloatArray]:
    """Seconds per core of every engine."""
    commands, clock_hz = rates.chip.commands, rates.chip.clocks.tiu_ghz * 1e9
    charged = rates.accounting.command_startup == "charged"
    matrix = counted.tiu_commands * (commands.tiu.startup_cycles_nn / clock_hz * charged)
    for dtype, steps in counted.tiu_steps.items():
        matrix = matrix + steps * rates.tiu_step_s(dtype)
    vector = 0.0 * matrix
    for dtype, steps in counted.vec_steps.items():
        vector = vector + steps / rates.core_steps_per_s(dtype)
    gdma = rates.dma_s(commands.gdma, counted.gdma_bytes, counted.gdma_commands)
    sdma = rates.dma_s(commands.sdma, counted.sdma_bytes, counted.sdma_commands)
    columns: tuple[FloatArray, ...] = (np.asarray(matrix, np.float64), np.asarray(vector, np.float64), gdma, sdma)
    return dict(zip(ENGINES, columns, strict=True))


def dram_seconds(counted: ProgramResources, rates: CoreRates) -> float:
    """Seconds of the DRAM of the chip."""
    return (counted.dram_read + counted.dram_written) / rates.chip.dram_bytes_per_s
