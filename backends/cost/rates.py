"""The rates of one core, as the core and tile models use them, and the rule by which compute and DMA overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.cost.model import Number, as_number
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.matmul_tiling import cube_k
from pmc.dialects.arch import Chip, Dma
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.vector_kinds import SoftmaxStepAttr


def round_up(value: Number, step: int) -> Number:
    """`value` rounded up to a multiple of `step`."""
    return as_number(np.ceil(np.asarray(value) / step) * step)


def ceil_div(value: Number, parts: Number) -> Number:
    """`value / parts` rounded up."""
    return as_number(np.ceil(np.asarray(value, np.float64) / parts))


@dataclass(frozen=True)
class CoreRates:
    """What a chip does per second under an accounting."""

    chip: Chip
    accounting: Accounting

    @property
    def cores(self) -> int:
        """Cores of the chip."""
        return self.chip.cores

    def cube_k(self, dtype: str) -> int:
        """Elements of the contraction that the matrix unit takes at once."""
        return cube_k(self.chip, dtype)

    def core_flops_per_s(self, dtype: str) -> float:
        """Matrix peak of one core."""
        return self.chip.peak_flops_per_s(dtype) / self.cores

    def core_steps_per_s(self, dtype: str) -> float:
        """Vector steps of one core."""
        return self.chip.vector_ops_per_s(dtype) * self.accounting.vector_steps_per_cycle / self.cores

    def softmax_steps(self, capped: bool, biased: bool) -> tuple[int, int]:
        """Vector steps of one block of an online softmax, per score, with or without soft cap and bias, and per row."""
        steps = (SoftmaxStepAttr.element_steps(capped, biased), SoftmaxStepAttr.ROW_STEPS)
        return self.chip.vector_steps(steps[0]), self.chip.vector_steps(steps[1])

    def waves(self, units: Number) -> Number:
        """Units of work on the core that decides: the busiest one, or the mean of those that have any."""
        if self.accounting.waves == "whole":
            return ceil_div(units, self.cores)
        return as_number(np.asarray(units, np.float64) / np.minimum(units, self.cores))

    def overlapped(self, compute_s: Number, memory_s: Number, overlaps: bool | FloatArray = True) -> Number:
        """max + (1 - rate) * min of compute and DMA; their sum where nothing overlaps."""
        rate = self.chip.compute_dma_overlap_rate * np.asarray(overlaps, np.float64)
        slow, fast = np.maximum(compute_s, memory_s), np.minimum(compute_s, memory_s)
        return as_number(np.asarray(slow + (1.0 - rate) * fast))

    def tiu_step_s(self, dtype: str) -> float:
        """One block of the cube on the matrix unit of a core."""
        cube = self.chip.cube
        k = self.cube_k(dtype)
        return 2.0 * cube.m * cube.n * k / self.core_flops_per_s(dtype)

    def dma_s(self, engine: Dma, size: FloatArray | IntArray, commands: FloatArray | IntArray) -> FloatArray:
        """Transfers of `size` bytes in so many commands, one after the other."""
        startup_ns = engine.startup_ns if self.accounting.command_startup == "charged" else 0.0
        return np.asarray(size / (engine.gb_per_s * 1e9 * engine.efficiency) + commands * (startup_ns * 1e-9))

    @property
    def lmem_bytes_per_s(self) -> float:
        """What the LMEM of a core takes in and gives out."""
        return self.chip.commands.lmem.bytes_per_cycle * self.chip.clocks.chip_ghz * 1e9
