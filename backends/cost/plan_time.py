"""The time of a plan, from what it asks of every engine of the busiest core and of the DRAM of the chip.

time = max(c, m) + (1 - overlap) * min(c, m) with c the matrix unit, then the vector unit; m the slowest of the DRAM of
the chip, the GDMA of the busiest core and its LMEM port.  Where cores merge partial results, what comes after the
barrier is added.  Source of the overlap rule: the tiling rules of the SG2262 as published with Tier6-Model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.cost.rates import CoreRates
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.interfaces import FloatArray


@dataclass(frozen=True)
class PlanTime:
    """Seconds of each part, one entry per plan; what comes after the barrier of a merge is in every part."""

    total_s: FloatArray
    tiu_s: FloatArray
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


class PlanTimes:
    """Times of plans on one chip under one accounting."""

    def __init__(self, rates: CoreRates) -> None:
        self.rates = rates

    def of(self, r: Resources, vec_dtype: str, vec_is_free: bool = False) -> PlanTime:
        """The time of every plan; `vec_dtype` sets the rate of the vector unit."""
        accounting = self.rates.accounting
        main = self._phase(r, vec_dtype, vec_is_free)
        busy = self.rates.overlapped(main.compute_s, main.memory_s, np.asarray(r.overlaps, np.float64))
        total = np.asarray(busy, np.float64)
        if r.merge is None or accounting.core_reduction == "free":
            return PlanTime(total, main.tiu_s, main.vec_s, main.dram_s, main.gdma_s, main.lmem_s, main.sdma_s)
        merge = self._phase(r.merge, "f32", False)
        return PlanTime(
            total + merge.compute_s + merge.memory_s,
            main.tiu_s,
            main.vec_s + merge.vec_s,
            main.dram_s + merge.dram_s,
            main.gdma_s + merge.gdma_s,
            main.lmem_s + merge.lmem_s,
            main.sdma_s + merge.sdma_s,
        )

    def _phase(self, r: Resources, vec_dtype: str, vec_is_free: bool) -> PlanTime:
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
        gdma_s, lmem_s, sdma_s = nothing, nothing, nothing
        if rates.chip.command_level is not None:
            charged = accounting.command_startup == "charged"
            commands = rates.chip.commands
            if charged:
                tiu_s = tiu_s + r.tiu_commands * (commands.tiu.startup_cycles_nn / (rates.chip.clocks.tiu_ghz * 1e9))
            receives = accounting.core_receive == "charged"
            gdma_s = rates.dma_s(commands.gdma, r.gdma_bytes * receives, r.gdma_commands)
            if receives:
                lmem_s = (r.gdma_bytes + r.sdma_bytes) / rates.lmem_bytes_per_s
            sdma_s = rates.dma_s(commands.sdma, r.sdma_bytes, r.sdma_commands)
        return PlanTime(nothing, np.asarray(tiu_s), np.asarray(vec_s), dram_s, gdma_s, np.asarray(lmem_s), sdma_s)
