"""From steps to the figures of serving: time, work and utilisation of one step or of many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pmc.backends.cost.model import BottleneckTag, Number, Target
from pmc.backends.evaluate.engine import sites, symbol_values
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator, StepResult
from pmc.backends.evaluate.pipeline import Pipeline
from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.dialects import dist
from pmc.dialects.interfaces import FloatArray, IntArray

SAMPLES = 17
"""Steps that are evaluated one by one where a sweep cannot be: at the granularity tile, and under overlap."""


@dataclass(frozen=True)
class StepTotals:
    """What one micro-batch takes and does in each of several steps; arrays end with one entry per step.

    `stage_us`, `send_us` and `passage_us` have the stage as first dim.  Times in us; work is that of one rank of every
    stage.
    """

    stage_us: FloatArray
    """How long each stage cannot take the next micro-batch."""
    send_us: FloatArray
    """Sends to the next stage that the stage does not wait for, and which `stage_us` is without."""
    passage_us: FloatArray
    """From the arrival of the micro-batch at each stage to its arrival at the next."""
    compute_us: FloatArray
    comm_us: FloatArray
    exposed_us: FloatArray
    wait_us: FloatArray
    flops: FloatArray
    peak_us: FloatArray
    """What the matrix FLOPs take at the peak of their element types."""
    dram_bytes: FloatArray
    link_bytes: FloatArray
    bottlenecks_us: Mapping[BottleneckTag, FloatArray]
    interpolation_error_us: float = 0.0
    """The most by which the sum of the times over the steps can be off, for times that grow with the length."""

    @property
    def points(self) -> int:
        """How many steps these are."""
        return len(self.compute_us)

    @property
    def pipeline(self) -> Pipeline:
        """The stages with their transfers."""
        return Pipeline(self.stage_us, self.send_us[:-1], self.passage_us)


def totals_of(step: StepResult) -> StepTotals:
    """The totals of one evaluated step."""
    stages = step.schedule.stages
    hidden = [0.0 if step.overlap is Overlap.NONE else stage.send_us for stage in stages]
    return StepTotals(
        stage_us=np.asarray([[stage.occupied_us] for stage in stages]),
        send_us=np.asarray([[send] for send in hidden]),
        passage_us=np.asarray([[stage.total_us] for stage in stages]),
        compute_us=np.asarray([sum(stage.compute_us for stage in stages)]),
        comm_us=np.asarray([step.comm_us]),
        exposed_us=np.asarray([step.exposed_us]),
        wait_us=np.asarray([step.wait_us]),
        flops=np.asarray([float(step.ops.total_flops)]),
        peak_us=np.asarray([step.ops.total_peak_us]),
        dram_bytes=np.asarray([float(step.ops.total_bytes)]),
        link_bytes=np.asarray([float(step.ops.total_link_bytes)]),
        bottlenecks_us={tag: np.asarray([us]) for tag, us in step.ops.bottleneck_summary.items()},
    )


def totals_over(evaluator: StepEvaluator, bindings: Mapping[str, int], kv_lens: IntArray) -> StepTotals:
    """The totals of the steps with `kv_len` = each of `kv_lens`, which ascend, the other symbols as in `bindings`.

    At granularities chip and core without overlap every step is computed, all at once.  Otherwise up to `SAMPLES`
    lengths are evaluated exactly and the rest interpolated linearly.  A time that grows with the length lies between
    those of the samples around it, so that n steps between samples a and b are off by at most n (t_b - t_a) / 2
    together; that is `interpolation_error_us`.
    """
    if not evaluator.granularity.one_by_one and evaluator.overlap is Overlap.NONE:
        return _swept(evaluator, {**bindings, "kv_len": kv_lens})
    picks = np.unique(np.linspace(0, len(kv_lens) - 1, min(SAMPLES, len(kv_lens))).round().astype(np.int64))
    samples = [totals_of(evaluator.step({**bindings, "kv_len": int(kv_lens[i])})) for i in picks]
    return _interpolated(samples, kv_lens[picks], kv_lens)


def _swept(evaluator: StepEvaluator, bindings: Mapping[str, int | IntArray]) -> StepTotals:
    values = symbol_values(evaluator.module, bindings)
    points = max(np.size(value) for value in values.values())
    all_sites = list(sites(evaluator.program))
    stages = 1 + max((site.stage for site in all_sites), default=0)
    stage_us = np.zeros((stages, points))
    names = ("compute_us", "comm_us", "flops", "peak_us", "dram_bytes", "link_bytes")
    sums = {name: np.zeros(points) for name in names}
    # In the order in which `OpCost.bottleneck` settles ties.
    tags = (BottleneckTag.BW_BOUND, BottleneckTag.COMPUTE_BOUND, BottleneckTag.COMM_BOUND, BottleneckTag.LATENCY_BOUND)
    by_tag = np.zeros((len(tags), points))
    for site in all_sites:
        cost = evaluator.model.cost(site.op, values)
        if cost is None:
            continue
        time_us = site.count * 1e6 * _at(cost.time_s, points)
        stage_us[site.stage] += time_us
        sums["compute_us" if stream_of(site.op) is Stream.COMPUTE else "comm_us"] += time_us
        for name, amount in (
            ("flops", cost.flops), ("peak_us", 1e6 * cost.peak_s),
            ("dram_bytes", cost.bytes_read + cost.bytes_written), ("link_bytes", cost.link_bytes),
        ):  # fmt: skip
            sums[name] += site.count * _at(amount, points)
        parts = (cost.memory_s, cost.compute_s, cost.transfer_s, cost.latency_s)
        largest = np.argmax([_at(part, points) for part in parts], axis=0)
        for index in range(len(tags)):
            by_tag[index] += np.where(largest == index, time_us, 0.0)
    return StepTotals(
        stage_us=stage_us,
        send_us=np.zeros((stages, points)),
        passage_us=stage_us,
        compute_us=sums["compute_us"],
        comm_us=sums["comm_us"],
        exposed_us=sums["comm_us"],
        wait_us=np.zeros(points),
        flops=sums["flops"],
        peak_us=sums["peak_us"],
        dram_bytes=sums["dram_bytes"],
        link_bytes=sums["link_bytes"],
        bottlenecks_us={tag: us for tag, us in zip(tags, by_tag, strict=True) if us.any()},
    )


def _at(value: Number, points: int) -> FloatArray:
    return np.broadcast_to(np.asarray(value, np.float64), points)


def _interpolated(samples: Sequence[StepTotals], known: IntArray, wanted: IntArray) -> StepTotals:
    """The samples at `known` lengths, linearly interpolated at `wanted` ones."""

    def along(values: Sequence[FloatArray]) -> FloatArray:
        rows: FloatArray = np.concatenate(values, axis=-1)
        found = np.zeros((*rows.shape[:-1], len(wanted)))
        for place in np.ndindex(*rows.shape[:-1]):
            found[place] = np.interp(wanted, known, rows[place])
        return found

    tags = [tag for tag in BottleneckTag if any(tag in sample.bottlenecks_us for sample in samples)]
    at_samples = np.asarray([float(sample.pipeline.once_us[0]) for sample in samples])
    between = np.diff(np.searchsorted(wanted, known)) - 1
    return StepTotals(
        stage_us=along([sample.stage_us for sample in samples]),
        send_us=along([sample.send_us for sample in samples]),
        passage_us=along([sample.passage_us for sample in samples]),
        bottlenecks_us={
            tag: along([sample.bottlenecks_us.get(tag, np.zeros(1)) for sample in samples]) for tag in tags
        },
        compute_us=along([sample.compute_us for sample in samples]),
        comm_us=along([sample.comm_us for sample in samples]),
        exposed_us=along([sample.exposed_us for sample in samples]),
        wait_us=along([sample.wait_us for sample in samples]),
        flops=along([sample.flops for sample in samples]),
        peak_us=along([sample.peak_us for sample in samples]),
        dram_bytes=along([sample.dram_bytes for sample in samples]),
        link_bytes=along([sample.link_bytes for sample in samples]),
        interpolation_error_us=float(np.sum(between * np.abs(np.diff(at_samples)) / 2)),
    )


def ranks_of(target: Target) -> int:
    """The chips of a deployment."""
    mesh: dist.Mesh | None = target.mesh
    return 1 if mesh is None else mesh.ranks
