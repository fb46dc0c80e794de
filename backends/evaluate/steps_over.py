"""Steps of one program at many values of its symbols at once, with the figures of one by one to the last bit.

Symbols are arrays that broadcast against each other: what depends on the batch alone is computed once per batch.  Sums
are taken in the order in which `evaluate_step` takes them; counts are whole numbers that a float holds exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmc.backends.cost.model import BottleneckTag, Number
from pmc.backends.evaluate.aggregate import ranks_of
from pmc.backends.evaluate.engine import sites, symbol_values
from pmc.backends.evaluate.feasibility import unreserved
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator
from pmc.backends.evaluate.speculation import accepted_length
from pmc.backends.evaluate.streams import Stream
from pmc.dialects import layer
from pmc.dialects.interfaces import FloatArray, IntArray

EXACT = 2.0**50
"""Counts up to here are whole in floats, with room for what they are computed from."""

TIES = 1e-9
"""Relative difference of times below which the order of two sums may be that of their rounding."""

COMPENSATED = sum([1.0, 1e100, 1.0, -1e100]) == 2.0
"""Whether `sum` of floats carries its rounding along, as from Python 3.12 on: then no sum here is the same."""

_TAGS = (BottleneckTag.BW_BOUND, BottleneckTag.COMPUTE_BOUND, BottleneckTag.COMM_BOUND, BottleneckTag.LATENCY_BOUND)
"""In the order in which `OpCost.bottleneck` settles ties."""


@dataclass(frozen=True)
class StepsOver:
    """Figures of steps; arrays broadcast to the points.  Times in us, work is that of one chip."""

    time_us: FloatArray
    compute_us: FloatArray
    comm_us: FloatArray
    exposed_us: FloatArray
    mfu: FloatArray
    mbu: FloatArray
    tps_per_chip: FloatArray
    flops: FloatArray
    dram_bytes: FloatArray
    link_bytes: FloatArray
    bottleneck: npt.NDArray[np.int64]
    """What limits the step most, as an index of `BOTTLENECKS`."""
    certain: npt.NDArray[np.bool_]
    """Where `bottleneck` is beyond doubt: not where two limits are as good as equal."""
    memory: Mapping[str, FloatArray]
    """DRAM bytes by part, in the order of `PARTS`."""


BOTTLENECKS = tuple(tag.value for tag in _TAGS)


def can_be_at_once(evaluator: StepEvaluator) -> bool:
    """Whether `steps_over` is about such steps: one stage, granularity chip or core, no overlap."""
    return (
        not evaluator.granularity.one_by_one
        and evaluator.overlap is Overlap.NONE
        and evaluator.stages == 1
        and isinstance(evaluator.program, layer.ProgramOp)
        and not COMPENSATED
    )


def steps_over(evaluator: StepEvaluator, bindings: Mapping[str, int | IntArray]) -> StepsOver | None:
    """The steps at all points of `bindings`; None where counts are too large to be exact.

    Raises PmcError as `StepEvaluator.step` does.
    """
    values = symbol_values(evaluator.module, bindings)
    sums: dict[str, FloatArray] = {}
    by_tag = [np.asarray(0.0) for _ in _TAGS]

    def add(name: str, amount: Number) -> None:
        sums[name] = sums.get(name, np.asarray(0.0)) + amount

    for site in sites(evaluator.program):
        cost = evaluator.model.cost(site.op, values)
        if cost is None:
            continue
        time_us = np.asarray(cost.time_s) * 1e6 * site.count
        add("time", time_us)
        add("compute" if site.stream is Stream.COMPUTE else "comm", time_us)
        if np.any(cost.peak_s):
            add("peak", np.asarray(cost.peak_s) * 1e6 * site.count)
        add("flops", np.round(cost.flops) * site.count)
        add("dram", np.trunc(cost.bytes_read) * site.count + np.trunc(cost.bytes_written) * site.count)
        if np.any(cost.link_bytes):
            add("link", np.trunc(cost.link_bytes) * site.count)
        parts = np.broadcast_arrays(cost.memory_s, cost.compute_s, cost.transfer_s, cost.latency_s)
        largest = np.argmax(np.stack(parts), axis=0)
        for index in range(len(_TAGS)):
            limited = largest == index
            if limited.all():
                by_tag[index] = by_tag[index] + time_us
            elif limited.any():
                by_tag[index] = by_tag[index] + np.where(limited, time_us, 0.0)
    none = np.asarray(0.0)
    time, compute, comm = (sums.get(name, none) for name in ("time", "compute", "comm"))
    flops, dram, link = (sums.get(name, none) for name in ("flops", "dram", "link"))
    plan = FootprintPlan.of(evaluator.module, unreserved(1))
    memory = plan.stages[0].over(values) if len(plan.stages) == 1 else None
    if memory is None or not np.all(time > 0.0) or max(map(np.max, (flops, dram, link))) > EXACT:
        return None
    exposed = time - compute
    of_sequence = accepted_length(evaluator.module) or np.asarray(values.get("q_len", 1))
    tokens = np.asarray(values.get("batch", 1)) * of_sequence
    stacked = np.stack(np.broadcast_arrays(*by_tag))
    first, second = stacked.max(axis=0), np.partition(stacked, -2, axis=0)[-2]
    return StepsOver(
        time_us=time,
        compute_us=compute,
        comm_us=comm,
        exposed_us=np.where(exposed > 1e-12 * time, exposed, 0.0),
        mfu=sums.get("peak", none) / time,
        mbu=dram * 1e6 / evaluator.target.chip.dram_bytes_per_s / time,
        tps_per_chip=tokens / (time * 1e-6) / ranks_of(evaluator.target),
        flops=flops,
        dram_bytes=dram,
        link_bytes=link,
        bottleneck=np.argmax(stacked, axis=0),
        certain=np.asarray(first - second > TIES * first),
        memory=memory,
    )
