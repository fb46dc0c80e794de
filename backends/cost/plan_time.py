"""The time of a plan, from what it asks of every engine of the busiest core and of the DRAM of the chip.

time = max(c, m) + (1 - overlap) * min(c, m) with c the matrix unit, then the vector unit; m the slowest of the DRAM of
the chip, the GDMA of the busiest core and its LMEM port.  Where cores merge partial results, what comes after the
barrier is added.  Source of the overlap rule: the tiling rules of the SG2262 as published with Tier6-Model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from pmc.backends.cost.rates import CoreRates
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.interfaces import FloatArray


@dataclass(frozen=True)
class PhaseTime:
    """Seconds of each engine before or after the barrier of a merge, one entry per plan."""

    tiu_s: FloatArray
    """With the start of every command."""
    tiu_start_s: FloatArray
    """The part of it that is the start of commands."""
    vec_s: FloatArray
    dram_s: FloatArray
    gdma_s: FloatArray
    lmem_s: FloatArray
    sdma_s: FloatArray

    @property
    def compute_s(self) -> FloatArray:
        """Matrix and vector unit of the busiest core."""
        return self.tiu_s + self.vec_s

    @property
    def memory_s(self) -> FloatArray:
        """What bounds the data: DRAM of the chip, or what the busiest core receives."""
        return np.asarray(np.maximum.reduce([self.dram_s, self.gdma_s, self.lmem_s]) + self.sdma_s)

    def plus(self, other: PhaseTime) -> PhaseTime:
        """Engine by engine one after the other."""
        return PhaseTime(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class PlanTime:
    """Seconds of plans, one entry per plan."""

    total_s: FloatArray
    main: PhaseTime
    merge: PhaseTime | None
    """What comes after the barrier of a merge; None where no plan merges, or merging is free."""
    overlap: FloatArray
    """The part of the shorter of compute and DMA that the main phase hides."""

    @property
    def engines(self) -> PhaseTime:
        """Both phases together."""
        return self.main if self.merge is None else self.main.plus(self.merge)

    @property
    def compute_s(self) -> FloatArray:
        """Matrix and vector unit of the busiest core."""
        return self.engines.compute_s

    @property
    def memory_s(self) -> FloatArray:
        """What bounds the data: DRAM of the chip, or what the busiest core receives."""
        return self.engines.memory_s


class PlanTimes:
    """Times of plans on one chip under one accounting."""

    def __init__(self, rates: CoreRates) -> None:
        self.rates = rates

    def of(self, r: Resources, vec_dtype: str, vec_is_free: bool = False) -> PlanTime:
        """The time of every plan; `vec_dtype` sets the rate of the vector unit."""
        accounting = self.rates.accounting
        main = self._phase(r, vec_dtype, vec_is_free)
        overlaps = np.asarray(r.overlaps, np.float64)
        overlap = self.rates.chip.compute_dma_overlap_rate * overlaps
        total = np.asarray(self.rates.overlapped(main.compute_s, main.memory_s, overlaps), np.float64)
        if r.merge is None or accounting.core_reduction == "free":
            return PlanTime(total, main, None, overlap)
        merge = self._phase(r.merge, "f32", False)
        return PlanTime(total + merge.compute_s + merge.memory_s, main, merge, overlap)

    def _phase(self, r: Resources, vec_dtype: str, vec_is_free: bool) -> PhaseTime:
        rates, accounting = self.rates, self.rates.accounting
        nothing = np.zeros(r.dram_read.shape)
        whole = accounting.waves == "whole"
        tiu_s = nothing
        for dtype, steps in (r.tiu_steps if whole else r.tiu_mean_steps).items():
            tiu_s = tiu_s + steps * rates.tiu_step_s(dtype)
        vec_steps = r.vec_steps if whole or not np.any(r.vec_mean_steps) else r.vec_mean_steps
        vec_s = nothing if vec_is_free else vec_steps / rates.core_steps_per_s(vec_dtype)
        if accounting.result_conversion == "charged":
            vec_s = vec_s + r.vec_end_steps / rates.core_steps_per_s("f32")
        dram_s = (r.dram_read + r.dram_written) / rates.chip.dram_bytes_per_s
        tiu_start_s: FloatArray = nothing
        gdma_s, lmem_s, sdma_s = nothing, nothing, nothing
        if rates.chip.command_level is not None:
            charged = accounting.command_startup == "charged"
            commands = rates.chip.commands
            if charged:
                cycles_per_s = rates.chip.clocks.tiu_ghz * 1e9
                tiu_start_s = np.asarray(r.tiu_commands * (commands.tiu.startup_cycles_nn / cycles_per_s), np.float64)
            receives = accounting.core_receive == "charged"
            gdma_s = rates.dma_s(commands.gdma, r.gdma_bytes * receives, r.gdma_commands)
            if receives:
                lmem_s = (r.gdma_bytes + r.sdma_bytes) / rates.lmem_bytes_per_s
            sdma_s = rates.dma_s(commands.sdma, r.sdma_bytes, r.sdma_commands)
        return PhaseTime(
            np.asarray(tiu_s + tiu_start_s), tiu_start_s, np.asarray(vec_s), dram_s, gdma_s, np.asarray(lmem_s), sdma_s
        )
