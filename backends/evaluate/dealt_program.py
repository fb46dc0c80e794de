"""Steps of a program before `partition-stages`, evaluated as though its layers were dealt to so many stages.

No stage is built: an op costs the same in whichever stage it runs, unless it is a handover between them.  Programs
that differ in nothing but the number of stages are one program here.  All figures are those of `StepEvaluator.step` and
`step_feasibility` for the program that `partition-stages` makes, to the last bit: sums are taken in the same order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region

from pmc.backends.cost.memo import CostMemo, MemoCostModel
from pmc.backends.cost.model import BottleneckTag, OpCost
from pmc.backends.evaluate.aggregate import StepTotals
from pmc.backends.evaluate.engine import Site, program_of, sites_of
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.request import PhaseAggregates, Run, aggregates_of
from pmc.backends.evaluate.schedule import exposed_of
from pmc.backends.evaluate.speculation import tokens_of_step
from pmc.backends.evaluate.stage_shapes import StageShape, Structure
from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.dialects import dist, layer
from pmc.dialects.analyses.pipeline_stages import Handover, Stage, dealt
from pmc.dialects.analyses.stored_arrays import stored_type
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.tensor import TensorType, tensor


class _Figures(NamedTuple):
    """One execution of an op."""

    time_s: float
    time_us: float
    flops: float
    peak_us: float
    bytes_read: int
    bytes_written: int
    link_bytes: int
    tag: BottleneckTag
    computes: bool
    """Whether it runs on the cores, and not between chips."""


class _Handed(NamedTuple):
    """A value on its way from a stage to the next, on one of the two sides."""

    figures: _Figures | None
    buffer_bytes: int


_Runs = Sequence[tuple[_Figures, int]]
"""What ops cost, and how often each of them runs."""


class DealtMemo:
    """What programs of one model have in common, beside the costs of their ops."""

    def __init__(self, costs: CostMemo) -> None:
        self.costs = costs
        self.shapes: dict[Hashable, StageShape] = {}
        self.structures: dict[Hashable, int] = {}
        self.bytes: dict[Hashable, int] = {}
        """Of types, and of the buffers of transfers, at values of the symbols."""
        self.handed: dict[Hashable, _Handed] = {}
        self.figures: dict[int, _Figures] = {}
        """By the identity of a cost in `costs`, which are those of one op."""


class DealtProgram:
    """One program, for all numbers of stages; what does not depend on that is found once."""

    def __init__(self, module: ModuleOp, memo: DealtMemo) -> None:
        """`module` holds one program at the dist level without stages."""
        program = program_of(module)
        assert isinstance(program, layer.ProgramOp)
        self.program = program
        self.memo = memo
        self.sites: list[Site] = []
        """The ops that may cost anything, and how often each runs in the program."""
        self.spans: dict[Operation, range] = {}
        """The places in `sites` of every op of the program and of the ops in it."""
        for op in program.body.block.ops:
            first = len(self.sites)
            if not isinstance(op, layer.SourceOp):
                self.sites += (site for site in sites_of(op) if not isinstance(site.op, layer.SourceOp))
            self.spans[op] = range(first, len(self.sites))
        self.exchanges = [place for place, site in enumerate(self.sites) if isinstance(site.op, ExchangeInterface)]
        self.computes = [site.stream is Stream.COMPUTE for site in self.sites]
        self.structure = Structure(program)
        self.retyped()

    def retyped(self) -> None:
        """Look at the types of all values again, which are all that has changed."""
        structures = self.memo.structures
        self.number = structures.setdefault(self.structure.key, len(structures))
        self._known: dict[Hashable, list[_Figures | None]] = {}
        self._known_sizes: dict[Hashable, tuple[list[int], dict[int, int], dict[Operation, int]]] = {}

    def evaluate(self, evaluator: StepEvaluator, lengths: Sequence[int]) -> tuple[PhaseAggregates, Feasibility]:
        """One step with so many layers in each stage: its figures, and whether the fullest stage fits.

        `evaluator` is that of the program in a module with the mesh of all stages.  Raises PmcError as its `step` does.
        """
        model, values = evaluator.model, evaluator.values()
        assert isinstance(model, MemoCostModel)
        stages = dealt(self.program.body.block, lengths) if len(lengths) > 1 else None
        handed = [
            {item: self._handed(model, values, item, index) for item in stage if isinstance(item, Handover)}
            for index, stage in enumerate(stages or ())
        ]
        totals = _summed(self._runs(model, values, stages, handed))
        tokens = tokens_of_step(evaluator.module, values)
        figures = aggregates_of(evaluator, [Run(totals, 1)], 1, totals.pipeline.once_us, tokens)
        return figures, self._memory(model, values, stages, handed)

    def seconds(self, model: MemoCostModel, values: Mapping[str, int]) -> dict[Operation, float]:
        """What all executions of every op take in one step of all layers.  Raises PmcError as `model` does."""
        own = self._figures(model, values)
        return {
            self.sites[place].op: figures.time_s * self.sites[place].count
            for span in self.spans.values()
            for place in span
            if (figures := own[place]) is not None
        }

    # -- time -------------------------------------------------------------------------------------------------------

    def _runs(
        self,
        model: MemoCostModel,
        values: Mapping[str, int],
        stages: Sequence[Stage] | None,
        handed: Sequence[Mapping[Handover, _Handed]],
    ) -> list[_Runs]:
        """What the ops of every stage cost, in order."""
        own = self._figures(model, values)

        def runs(op: Operation, layers: int | None) -> Iterator[tuple[_Figures, int]]:
            """With `layers` those of so many layers of a repeat, whose layers are alike."""
            for place in self.spans[op]:
                figures, count = own[place], self.sites[place].count
                if figures is not None and layers is not None and isinstance(op, layer.RepeatOp):
                    count = count // op.trip_count * layers
                if figures is not None:
                    yield figures, count

        if stages is None:
            return [[run for op in self.spans for run in runs(op, None)]]
        found: list[_Runs] = []
        for stage, between in zip(stages, handed, strict=True):
            of_stage: list[tuple[_Figures, int]] = []
            for item in stage:
                if not isinstance(item, Handover):
                    of_stage += runs(item.op, item.count)
                elif (figures := between[item].figures) is not None:
                    of_stage.append((figures, 1))
            found.append(of_stage)
        return found

    def _figures(self, model: MemoCostModel, values: Mapping[str, int]) -> list[_Figures | None]:
        """One execution of every op of `sites`; those of ops on one chip are the same on every mesh."""
        key = (id(model.costs), *values.values())
        known = self._known.get(key)
        found: list[_Figures | None] = [None] * len(self.sites) if known is None else list(known)
        for place in range(len(self.sites)) if known is None else self.exchanges:
            cost = model.cost(self.sites[place].op, values)
            found[place] = None if cost is None else self._figures_of(cost, place)
        self._known[key] = found
        return found

    def _figures_of(self, cost: OpCost, place: int) -> _Figures:
        """The figures of a cost, which the memo keeps."""
        found = self.memo.figures.get(id(cost))
        if found is None:
            found = self.memo.figures[id(cost)] = _figures(cost, self.computes[place])
        return found

    def _handed(self, model: MemoCostModel, values: Mapping[str, int], item: Handover, stage: int) -> _Handed:
        """A handover of a stage; the op is made, asked for, and thrown away."""
        mesh = model.target.mesh
        place = None if mesh is None else (mesh.ranks, mesh.axis(dist.PIPELINE))
        type_ = self.memo.costs.number(item.value.type)
        key = (id(model.costs), *values.values(), place, type_, stage, item.peer, item.sends)
        if key not in self.memo.handed:
            op, block = item.op(), Block(arg_types=[item.value.type])
            op.operands = [block.args[0]] * len(op.operands)
            block.add_op(op)
            around = dist.StageOp.make([], [], "", {"index": stage}, [Region(block)])
            assert around.body.block is block
            cost = model.model.cost(op, values)
            figures = None if cost is None else _figures(cost, stream_of(op) is Stream.COMPUTE)
            self.memo.handed[key] = _Handed(figures, _buffer_bytes(op, values))
        return self.memo.handed[key]

    # -- memory -----------------------------------------------------------------------------------------------------

    def _memory(
        self,
        model: MemoCostModel,
        values: Mapping[str, int],
        stages: Sequence[Stage] | None,
        handed: Sequence[Mapping[Handover, _Handed]],
    ) -> Feasibility:
        """The footprint of the fullest stage, the first of those that need equally much."""
        chip = model.target.chip
        sizes, stored, buffers = self._sizes(model, values)
        found: list[dict[str, int]] = []
        if stages is None:
            buffer = max(buffers.values(), default=0)
            found.append(self._shape(None).parts((), sizes, stored, buffer, chip.alignment_bytes))
        for stage, between in zip(stages or (), handed, strict=True):
            of_items = [
                between[item].buffer_bytes if isinstance(item, Handover) else buffers[item.op] for item in stage
            ]
            largest = max(of_items, default=0)
            found.append(self._shape(stage).parts(stage, sizes, stored, largest, chip.alignment_bytes))
        totals = [sum(parts.values()) for parts in found]
        fullest = totals.index(max(totals))
        return Feasibility(self.program.phase.data, fullest, found[fullest], chip.name, chip.dram_bytes)

    def _shape(self, stage: Stage | None) -> StageShape:
        kind = None if stage is None else self.structure.kind(stage)
        key = (self.number, kind)
        if key not in self.memo.shapes:
            self.memo.shapes[key] = StageShape.of(self.structure, stage)
        return self.memo.shapes[key]

    def _sizes(
        self, model: MemoCostModel, values: Mapping[str, int]
    ) -> tuple[list[int], dict[int, int], dict[Operation, int]]:
        """Bytes of every value, of one tensor of each weight or cache, and of the largest buffers in each op."""
        key = tuple(values.values())
        if key not in self._known_sizes:
            numbers, known = self.memo.costs.number, self.memo.bytes

            def of_type(type_: TensorType) -> int:
                found = (numbers(type_), key)
                if found not in known:
                    known[found] = int(type_.bytes.evaluate(values))
                return known[found]

            def of_buffers(op: Operation) -> int:
                found = ("buffers", model.numbers.of(op), key)
                if found not in known:
                    known[found] = _buffer_bytes(op, values)
                return known[found]

            sizes = [of_type(tensor(value)) for value in self.structure.numbers]
            stored = {self.structure.numbers[op.result]: of_type(stored_type(op)) for op in self.structure.sources}
            buffers = dict.fromkeys(self.spans, 0)
            for op, span in self.spans.items():
                own = [of_buffers(self.sites[place].op) for place in span if not self.computes[place]]
                buffers[op] = max(own, default=0)
            self._known_sizes[key] = sizes, stored, buffers
        return self._known_sizes[key]


def _buffer_bytes(op: Operation, values: Mapping[str, int]) -> int:
    """The buffers of a transfer; none of another op."""
    if not isinstance(op, dist.DistExchangeOp):
        return 0
    exchange = op.exchange()
    return int(exchange.buffer_bytes.evaluate(values)) if exchange.collective.leaves_chip else 0


def _figures(cost: OpCost, computes: bool) -> _Figures:
    return _Figures(
        float(cost.time_s),
        float(cost.time_s) * 1e6,
        float(cost.flops),
        float(cost.peak_s) * 1e6,
        int(cost.bytes_read),
        int(cost.bytes_written),
        int(cost.link_bytes),
        cost.bottleneck(),
        computes,
    )


def _summed(stages: Sequence[_Runs]) -> StepTotals:
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
