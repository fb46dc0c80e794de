"""Steps of a program before `partition-stages`, evaluated as though its layers were dealt to so many stages.

No stage is built: an op costs the same in whichever stage it runs, unless it is a handover between them.  Programs
that differ in nothing but the number of stages are one program here.  All figures are those of `StepEvaluator.step` and
`step_feasibility` for the program that `partition-stages` makes, to the last bit: sums are taken in the same order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from operator import add
from typing import NamedTuple

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region

from pmc.backends.cost.memo import CostMemo, MemoCostModel
from pmc.backends.cost.model import BottleneckTag, OpCost
from pmc.backends.evaluate.aggregate import StepTotals
from pmc.backends.evaluate.engine import Site, program_of, sites
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.request import PhaseAggregates, Run, aggregates_of
from pmc.backends.evaluate.schedule import exposed_of
from pmc.backends.evaluate.stage_shapes import StageShape, Structure
from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.dialects import dist, layer
from pmc.dialects.analyses.pipeline_stages import Handover, Stage, dealt
from pmc.dialects.analyses.stored_arrays import stored_type
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.tensor import TensorType, tensor


class _Figures(NamedTuple):
    """One execution of an op."""

    time_us: float
    flops: float
    peak_us: float
    bytes_read: int
    bytes_written: int
    link_bytes: int
    tag: BottleneckTag
    computes: bool
    """Whether it runs on the cores, and not between chips."""


class DealtMemo:
    """What programs of one model have in common, beside the costs of their ops."""

    def __init__(self, costs: CostMemo) -> None:
        self.costs = costs
        self.shapes: dict[Hashable, StageShape] = {}
        self.structures: dict[Hashable, int] = {}
        self.bytes: dict[Hashable, int] = {}
        """Of types, at values of the symbols."""


class DealtProgram:
    """One program, for all numbers of stages; what does not depend on that is found once."""

    def __init__(self, module: ModuleOp, memo: DealtMemo) -> None:
        """`module` holds one program at the dist level without stages."""
        program = program_of(module)
        assert isinstance(program, layer.ProgramOp)
        self.program = program
        self.memo = memo
        self.sites: list[Site] = []
        """The ops that may cost anything."""
        self.spans: dict[Operation, range] = {}
        """The places in `sites` of every op of the program and of the ops in it."""
        for op in program.body.block.ops:
            first = len(self.sites)
            if not isinstance(op, layer.SourceOp):
                inside = sites(op) if isinstance(op, layer.RepeatOp) else [Site(op, 0, 1)]
                self.sites += (site for site in inside if not isinstance(site.op, layer.SourceOp))
            self.spans[op] = range(first, len(self.sites))
        self.structure = Structure(program)
        self.number = memo.structures.setdefault(self.structure.key, len(memo.structures))
        self._known: dict[Hashable, list[_Figures | None]] = {}
        self._known_sizes: dict[Hashable, tuple[list[int], dict[int, int], dict[Operation, int]]] = {}

    def evaluate(self, evaluator: StepEvaluator, lengths: Sequence[int]) -> tuple[PhaseAggregates, Feasibility]:
        """One step with so many layers in each stage: its figures, and whether the fullest stage fits.

        `evaluator` is that of the program in a module with the mesh of all stages.  Raises PmcError as its `step` does.
        """
        values = evaluator.values()
        stages = dealt(self.program.body.block, lengths) if len(lengths) > 1 else None
        handovers = [] if stages is None else [_handovers(stage, index) for index, stage in enumerate(stages)]
        totals = self._totals(evaluator, values, stages, handovers)
        tokens = values.get("batch", 1) * values.get("q_len", 1)
        figures = aggregates_of(evaluator, [Run(totals, 1)], 1, totals.pipeline.once_us, tokens)
        return figures, self._memory(evaluator, values, stages, handovers)

    # -- time -------------------------------------------------------------------------------------------------------

    def _totals(
        self,
        evaluator: StepEvaluator,
        values: Mapping[str, int],
        stages: Sequence[Stage] | None,
        handovers: Sequence[_Handovers],
    ) -> StepTotals:
        own = self._figures(evaluator, values)
        runs: list[list[tuple[_Figures, int]]] = []
        if stages is None:
            runs.append(list(self._runs(((op, _times(op, None)) for op in self.spans), own)))
        for stage, between in zip(stages or (), handovers, strict=True):
            found: list[tuple[_Figures, int]] = []
            for item in stage:
                if isinstance(item, Handover):
                    figures = self._figures_of(between.ops[item], evaluator, values)
                    found += [] if figures is None else [(figures, 1)]
                else:
                    found += self._runs([(item.op, _times(item.op, item.count))], own)
            runs.append(found)
        return _summed(runs)

    def _runs(
        self, ops: Iterable[tuple[Operation, int]], own: Sequence[_Figures | None]
    ) -> Iterator[tuple[_Figures, int]]:
        """What ops of the program cost that run so often, and how often each of the ops in them does."""
        for op, times in ops:
            for place in self.spans[op]:
                figures = own[place]
                if figures is not None:
                    yield figures, times * self.sites[place].count

    def _figures(self, evaluator: StepEvaluator, values: Mapping[str, int]) -> list[_Figures | None]:
        """One execution of every op of `sites`; those of ops on one chip are the same on every mesh."""
        model = evaluator.model
        assert isinstance(model, MemoCostModel)
        key = (id(model.costs), *values.values())
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = [self._figures_of(site.op, evaluator, values) for site in self.sites]
            return known
        found = list(known)
        for place in self._exchanges:
            found[place] = self._figures_of(self.sites[place].op, evaluator, values)
        return found

    def _figures_of(self, op: Operation, evaluator: StepEvaluator, values: Mapping[str, int]) -> _Figures | None:
        cost = evaluator.model.cost(op, values)
        if cost is None:
            return None
        computes = not isinstance(op, ExchangeInterface) or stream_of(op) is Stream.COMPUTE
        return _figures(cost, computes)

    @cached_property
    def _exchanges(self) -> list[int]:
        return [place for place, site in enumerate(self.sites) if isinstance(site.op, ExchangeInterface)]

    # -- memory -----------------------------------------------------------------------------------------------------

    def _memory(
        self,
        evaluator: StepEvaluator,
        values: Mapping[str, int],
        stages: Sequence[Stage] | None,
        handovers: Sequence[_Handovers],
    ) -> Feasibility:
        """The footprint of the fullest stage, the first of those that need equally much."""
        chip = evaluator.target.chip
        sizes, stored, buffers = self._sizes(values)
        found: list[dict[str, int]] = []
        if stages is None:
            buffer = max(buffers.values(), default=0)
            found.append(self._shape(None).parts((), sizes, stored, buffer, chip.alignment_bytes))
        for stage, between in zip(stages or (), handovers, strict=True):
            largest = max(
                (
                    self._buffer_bytes(between.ops[item], values)
                    if isinstance(item, Handover)
                    else buffers.get(item.op, 0)
                    for item in stage
                ),
                default=0,
            )
            found.append(self._shape(stage).parts(stage, sizes, stored, largest, chip.alignment_bytes))
        fullest = max(range(len(found)), key=lambda index: sum(found[index].values()))
        return Feasibility(self.program.phase.data, fullest, found[fullest], chip.name, chip.dram_bytes)

    def _shape(self, stage: Stage | None) -> StageShape:
        kind = None if stage is None else self.structure.kind(stage)
        key = (self.number, kind)
        if key not in self.memo.shapes:
            self.memo.shapes[key] = StageShape.of(self.structure, stage)
        return self.memo.shapes[key]

    def _sizes(self, values: Mapping[str, int]) -> tuple[list[int], dict[int, int], dict[Operation, int]]:
        """Bytes of every value, of one tensor of each weight or cache, and of the largest buffers in each op."""
        key = tuple(values.values())
        if key not in self._known_sizes:
            number, numbers = self.memo.costs.number, self.structure.numbers
            known = self.memo.bytes

            def bytes_of(type_: TensorType) -> int:
                of_type = (number(type_), key)
                if of_type not in known:
                    known[of_type] = int(type_.bytes.evaluate(values))
                return known[of_type]

            sizes = [bytes_of(tensor(value)) for value in numbers]
            stored = {
                place: bytes_of(stored_type(value.owner))
                for value, place in numbers.items()
                if isinstance(value.owner, layer.SourceOp)
            }
            buffers = {
                op: max((self._buffer_bytes(self.sites[place].op, values) for place in span), default=0)
                for op, span in self.spans.items()
            }
            self._known_sizes[key] = sizes, stored, buffers
        return self._known_sizes[key]

    def _buffer_bytes(self, op: Operation, values: Mapping[str, int]) -> int:
        """The buffers of a transfer; none of another op."""
        if not isinstance(op, dist.DistExchangeOp):
            return 0
        exchange = op.exchange()
        return int(exchange.buffer_bytes.evaluate(values)) if exchange.collective.leaves_chip else 0


class _Handovers(NamedTuple):
    """The ops that hand values from a stage to its neighbours, in a stage without any other op."""

    scope: dist.StageOp
    ops: dict[Handover, dist.SendOp | dist.RecvOp]


def _handovers(stage: Stage, index: int) -> _Handovers:
    items = [item for item in stage if isinstance(item, Handover)]
    block = Block(arg_types=[item.value.type for item in items])
    ops: dict[Handover, dist.SendOp | dist.RecvOp] = {}
    for item, stand_in in zip(items, block.args, strict=True):
        ops[item] = op = item.op()
        op.operands = [stand_in] * len(op.operands)
        block.add_op(op)
    return _Handovers(dist.StageOp.make([], [], "", {"index": index}, [Region(block)]), ops)


def _times(op: Operation, count: int | None) -> int:
    """How often an op of the program, or `count` layers of it, runs what is in it."""
    if count is not None:
        return count
    return op.trip_count if isinstance(op, layer.RepeatOp) else 1


def _figures(cost: OpCost, computes: bool) -> _Figures:
    return _Figures(
        float(cost.time_s) * 1e6,
        float(cost.flops),
        float(cost.peak_s) * 1e6,
        int(cost.bytes_read),
        int(cost.bytes_written),
        int(cost.link_bytes),
        cost.bottleneck(),
        computes,
    )


def _summed(stages: Sequence[Sequence[tuple[_Figures, int]]]) -> StepTotals:
    """The totals of a step from what the ops of each stage cost, and how often each of them runs."""
    by_stage = [[figures.time_us * count for figures, count in runs] for runs in stages]
    totals: list[float] = []
    compute: list[float] = []
    comm: list[float] = []
    for times, runs in zip(by_stage, stages, strict=True):
        # One after the other and not by `sum`, which carries roundings along in some versions of Python.
        totals.append(reduce(add, times, 0.0))
        compute.append(reduce(add, (us for us, (figures, _) in zip(times, runs, strict=True) if figures.computes), 0.0))
        comm.append(
            reduce(add, (us for us, (figures, _) in zip(times, runs, strict=True) if not figures.computes), 0.0)
        )
    runs = [run for of_stage in stages for run in of_stage]
    times = [us for of_stage in by_stage for us in of_stage]
    by_tag: dict[BottleneckTag, list[float]] = {tag: [] for tag in BottleneckTag}
    for us, (figures, _) in zip(times, runs, strict=True):
        by_tag[figures.tag].append(us)
    limits = {tag: us for tag, found in by_tag.items() if (us := sum(found))}
    return StepTotals(
        stage_us=np.asarray([[us] for us in totals]),
        send_us=np.zeros((len(totals), 1)),
        passage_us=np.asarray([[us] for us in totals]),
        compute_us=np.asarray([sum(compute)]),
        comm_us=np.asarray([sum(comm)]),
        exposed_us=np.asarray([sum(map(exposed_of, totals, compute))]),
        wait_us=np.zeros(1),
        flops=np.asarray([float(sum(round(figures.flops * count) for figures, count in runs))]),
        peak_us=np.asarray([sum(figures.peak_us * count for figures, count in runs)]),
        dram_bytes=np.asarray(
            [float(sum(figures.bytes_read * count + figures.bytes_written * count for figures, count in runs))]
        ),
        link_bytes=np.asarray([float(sum(figures.link_bytes * count for figures, count in runs))]),
        bottlenecks_us={tag: np.asarray([us]) for tag, us in sorted(limits.items(), key=lambda item: -item[1])},
    )
