"""A cost model with a calibration: what measurements say about modelled times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Part
from pmc.backends.cost.model import Bindings, CostModel, OpCost, as_number
from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.dialects.calibration import Calibration


class CalibratedCostModel(CostModel):
    """Another model's times, corrected (formulas of Tier6-Model).

    On the chip t / compute_efficiency, whatever bounds the op; between chips
    t * congestion / bandwidth_factor + startup, where anything is sent.  Counts stay as they are.
    """

    def __init__(self, model: CostModel, calibration: Calibration) -> None:
        super().__init__(model.target)
        self.model = model
        self.calibration = calibration

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The corrected cost of `op`."""
        base = self.model.cost(op, bindings)
        if base is None:
            return None
        c = self.calibration
        if stream_of(op) is Stream.COMPUTE:
            slower = 1.0 / c.compute_efficiency.value
            return replace(
                base, time_s=base.time_s * slower, compute_s=base.compute_s * slower, memory_s=base.memory_s * slower
            )
        slower = c.congestion.value / c.bandwidth_factor.value
        startup_s = as_number(np.where(np.asarray(base.comm_s) > 0.0, c.startup_us.value * 1e-6, 0.0))
        return replace(
            base,
            time_s=base.time_s * slower + startup_s,
            latency_s=base.latency_s * slower + startup_s,
            transfer_s=base.transfer_s * slower,
        )

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """Parts and loads, corrected alike; the start-up is latency."""
        base, cost = self.model.breakdown(op, bindings), self.model.cost(op, bindings)
        if base is None or cost is None:
            return None
        c = self.calibration
        if stream_of(op) is Stream.COMPUTE:
            return base.scaled(1.0 / c.compute_efficiency.value)
        startup_s = c.startup_us.value * 1e-6 if float(cost.comm_s) > 0.0 else 0.0
        return base.scaled(c.congestion.value / c.bandwidth_factor.value, {Part.LATENCY: startup_s})

    def unvalidated(self) -> tuple[str, ...]:
        """Those of the model, and the parameters of the calibration."""
        return (*self.model.unvalidated(), *self.calibration.unvalidated())
