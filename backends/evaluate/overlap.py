"""What overlaps in a step, and the evaluation of a step under it.

`none`: one op after the other.  `streams`: transfers run beside computation as far as dependencies allow, such as
dispatch and combine beside the shared expert, or the exchange of keys beside a step of ring attention.  `two-batch`:
the batch is split into two micro-batches, of which one computes while the other communicates (DeepSeek-V3 report,
section 3.4); both pay for their smaller matmuls and read the weights on their own, so it can lose.  Overlap inside an
op is in the tile model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.memo import CostMemo, MemoCostModel
from pmc.backends.cost.model import CostModel, Granularity, Target
from pmc.backends.evaluate import timeline as events
from pmc.backends.evaluate.engine import (
    CostedProgram,
    Site,
    command_model,
    cost_model,
    cost_program,
    granularity_of,
    program_at,
    sites,
    symbol_values,
    tile_model_of,
)
from pmc.backends.evaluate.metrics import EngineResult, OpSource, StageMetrics, StepMetrics
from pmc.backends.evaluate.schedule import Schedule, StreamScheduler, Wait, serial_schedule
from pmc.backends.evaluate.streams import stream_of
from pmc.dialects.accounting import accounting_of
from pmc.dialects.dist import DATA
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.g5.cost import Simulated
    from pmc.backends.silicon.database import PerfDatabase


class Overlap(Enum):
    """What may run at the same time."""

    NONE = "none"
    STREAMS = "streams"
    TWO_BATCH = "two-batch"


@dataclass(frozen=True)
class StepResult:
    """One step of a program: its ops, and the schedule that says how long they take together.  Times in us."""

    ops: EngineResult
    overlap: Overlap
    schedule: Schedule

    @property
    def total_us(self) -> float:
        """The time of one step: of one micro-batch through all stages."""
        return self.schedule.total_us

    @property
    def comm_us(self) -> float:
        """All transfers, hidden or not."""
        return sum(stage.comm_us for stage in self.schedule.stages)

    @property
    def exposed_us(self) -> float:
        """Transfers that no computation hides."""
        return sum(stage.exposed_us for stage in self.schedule.stages)

    @property
    def wait_us(self) -> float:
        """How long the cores wait for transfers."""
        return sum(stage.compute_wait_us for stage in self.schedule.stages)

    def schedule_dict(self) -> dict[str, object]:
        """The JSON form of the schedule: totals, then every stage; new keys are only ever appended."""
        stages = [
            {**asdict(stage), "serial_us": stage.serial_us, "exposed_us": stage.exposed_us}
            for stage in self.schedule.stages
        ]
        return {
            "overlap": self.overlap.value,
            "total_us": self.total_us,
            "serial_us": sum(stage.serial_us for stage in self.schedule.stages),
            "comm_us": self.comm_us,
            "exposed_us": self.exposed_us,
            "wait_us": self.wait_us,
            "stages": stages,
        }


class StepEvaluator:
    """Evaluates one program at many points; what a cost model has searched once it keeps."""

    def __init__(
        self,
        module: ModuleOp,
        granularity: str = "chip",
        overlap: Overlap = Overlap.NONE,
        tile_cache: Path | None = None,
        memo: CostMemo | None = None,
        simulated: Simulated | None = None,
        database: PerfDatabase | None = None,
    ) -> None:
        """Raises PmcError for an unknown granularity, a module without one program, target or accounting.

        Tile searches are kept in the folder `tile_cache`, if one is given; costs of ops in `memo`, for other programs.
        `simulated` runs the commands of the program, for granularity commands; `database` has the tables, for
        granularity silicon.
        """
        self.module = module
        self.granularity = granularity_of(granularity)
        self.program = program_at(module, self.granularity)
        self.accounting = accounting_of(module, "evaluate")
        self.target = Target.of(module)
        self.simulated = simulated
        self.database = database
        self.model = self._model(self.target, tile_cache)
        if memo is not None and not self.granularity.one_by_one:
            self.model = MemoCostModel(self.model, memo, self.granularity, self.accounting)
        self.overlap = overlap
        self._scheduler: StreamScheduler | None = None

    @property
    def stages(self) -> int:
        """The pipeline stages of the program."""
        mesh = self.target.mesh
        return 1 if mesh is None else next((axis.size for axis in mesh.axes if axis.name == "pp"), 1)

    @property
    def replicas(self) -> int:
        """The ranks of data parallelism."""
        mesh = self.target.mesh
        return 1 if mesh is None else next((axis.size for axis in mesh.axes if axis.name == DATA), 1)

    @property
    def efficiency(self) -> float:
        """The part of the ideal saving by overlap that is reached."""
        calibration = self.target.calibration
        return 1.0 if calibration is None else calibration.overlap_efficiency.value

    def step(self, bindings: Mapping[str, int] | None = None) -> StepResult:
        """One step with the symbols of the deployment replaced by `bindings`.

        Raises PmcError for a symbol without a value, an op that the target cannot run, or two-batch overlap of a
        single sequence.
        """
        values = self.values(bindings)
        if self.overlap is not Overlap.TWO_BATCH:
            program = self.costed(values)
            schedule = serial_schedule(program) if self.overlap is Overlap.NONE else self._scheduled([program])
            return StepResult(_with_waits(self._result(program), [program], schedule.waits), self.overlap, schedule)
        halves = self._halves(values)
        schedule = self._scheduled(halves)
        merged = replace(_merged([self._result(half) for half in halves]), bindings=values)
        return StepResult(_with_waits(merged, halves, schedule.waits), self.overlap, schedule)

    def values(self, bindings: Mapping[str, int] | None = None) -> dict[str, int]:
        """The symbols of the deployment, replaced by `bindings`.  Raises PmcError for a symbol that no program has."""
        return symbol_values(self.module, bindings or {})

    def timeline(self, bindings: Mapping[str, int] | None = None) -> events.Timeline:
        """When the ops of a step run: a site per pipeline stage, an engine per stream.  Raises PmcError as `step`."""
        schedule = self.step(bindings).schedule
        found: list[events.Event] = []
        begin = 0.0
        for stage, starts in zip(schedule.stages, schedule.starts, strict=True):
            site = "rank" if len(schedule.stages) == 1 else f"stage {stage.stage}"
            for start in starts:
                if start.time_us:
                    place = Site(start.op, stage.stage, 1)
                    batch = {"micro-batch": start.copy} if self.overlap is Overlap.TWO_BATCH else {}
                    found.append(
                        events.Event(
                            site,
                            stream_of(start.op).value,
                            place.path,
                            place.op_name,
                            begin + start.start_us,
                            start.time_us,
                            start.repeat,
                            batch,
                        )
                    )
            begin += stage.total_us
        return events.Timeline(tuple(found))

    def costed(self, bindings: Mapping[str, int] | None = None) -> CostedProgram:
        """Every op with its cost, before any schedule.  Raises PmcError as `step`."""
        return cost_program(self.program, self.model, self.values(bindings))

    def micro_batches(self, values: Mapping[str, int]) -> list[dict[str, int]]:
        """The symbols of every micro-batch of a step: two with two-batch overlap.  Raises PmcError as `step`."""
        if self.overlap is not Overlap.TWO_BATCH:
            return [dict(values)]
        return [dict(half.bindings) for half in self._halves(values)]

    def with_plans(self, step: StepResult, bindings: Mapping[str, int] | None = None) -> StepResult:
        """A step of this evaluator with the plan of every op; with two-batch overlap those of the first half.

        Raises PmcError at a granularity that prices no plans.
        """
        if self.granularity is not Granularity.TILE:
            raise PmcError(f"plans are priced at granularity tile, this is granularity {self.granularity.value}")
        values = self.micro_batches(self.values(bindings))[0]
        plans: list[str] = []
        for site, _ in self.costed(values).costs:
            one = self.model.breakdown(site.op, values)
            found = [] if one is None else [str(shape.plan) for shape in one.shapes if shape.plan is not None]
            plans.append(" | ".join(dict.fromkeys(found)))
        return replace(step, ops=replace(step.ops, plans=tuple(plans)))

    def on(self, target: Target, keep_plans: bool) -> StepEvaluator:
        """An evaluator of the same program on another target; `keep_plans` holds on to plans that were searched."""
        other = copy(self)
        other.target = target
        other.model = other._model(target)
        mine, theirs = (tile_model_of(evaluator.model) for evaluator in (self, other))
        if keep_plans and mine is not None and theirs is not None:
            theirs.search.known = mine.search.known
        return other

    def at(self, granularity: Granularity) -> StepEvaluator:
        """An evaluator of the same program that looks at the chip from another distance."""
        other = copy(self)
        other.granularity = granularity
        other.model = other._model(self.target)
        return other

    def _model(self, target: Target, tile_cache: Path | None = None) -> CostModel:
        if self.granularity is Granularity.COMMANDS and self.simulated is not None:
            return command_model(self.program, target, self.accounting, self.simulated, tile_cache)
        if self.granularity is Granularity.SILICON and self.database is not None:
            from pmc.backends.silicon.cost import SiliconCostModel

            return SiliconCostModel(target, self.database)
        return cost_model(self.granularity, target, self.accounting, tile_cache)

    def sites_below(self, path: str | None) -> list[Site]:
        """The places of the ops at `path` or inside of that block; of all ops for None."""
        return [site for site in sites(self.program) if path is None or site.is_below(path)]

    def _halves(self, values: Mapping[str, int]) -> list[CostedProgram]:
        batch = values.get("batch", 1)
        if batch < 2:
            raise PmcError(f"two-batch overlap splits the batch in two: batch is {batch}, must be at least 2")
        large = cost_program(self.program, self.model, {**values, "batch": batch - batch // 2})
        if batch % 2 == 0:
            return [large, large]
        return [large, cost_program(self.program, self.model, {**values, "batch": batch // 2})]

    def _scheduled(self, programs: Sequence[CostedProgram]) -> Schedule:
        if self._scheduler is None:
            self._scheduler = StreamScheduler(self.program, len(programs))
        return self._scheduler.schedule(programs, self.efficiency)

    def _result(self, program: CostedProgram) -> EngineResult:
        return program.result(self.granularity)


def evaluate_step(
    module: ModuleOp,
    granularity: str = "chip",
    bindings: Mapping[str, int] | None = None,
    overlap: Overlap = Overlap.NONE,
) -> StepResult:
    """`evaluate_module`, scheduled: with `Overlap.NONE` the total is the sum of the ops.  Raises PmcError as that."""
    return StepEvaluator(module, granularity, overlap).step(bindings)


def _with_waits(result: EngineResult, programs: Sequence[CostedProgram], waits: Wait) -> EngineResult:
    """The table with the wait of every op."""
    if not waits.by_op:
        return result
    ops = [site.op for site, _ in programs[0].costs]
    steps = tuple(replace(step, wait_us=waits.of(op)) for step, op in zip(result.steps, ops, strict=True))
    return replace(result, steps=steps)


_TIMES = ("time_us", "compute_us", "memory_us", "comm_us")
_SUMS = ("count", "flops", "bytes_read", "bytes_written", "link_bytes", "peak_us", *_TIMES)


def _merged(results: Sequence[EngineResult]) -> EngineResult:
    """The ops of all micro-batches, one row per op."""
    total = sum(result.total_us for result in results)

    def step(rows: Sequence[StepMetrics]) -> StepMetrics:
        sums = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
        return replace(rows[0], **sums, share=sums["time_us"] / total if total else 0.0)

    def stage(rows: Sequence[StageMetrics]) -> StageMetrics:
        sums = {name: sum(getattr(row, name) for row in rows) for name in _TIMES}
        return replace(rows[0], **sums, share=sums["time_us"] / total if total else 0.0)

    sources = None
    if all(result.sources is not None for result in results):
        told = zip(*(result.sources or () for result in results), strict=True)
        times = zip(*([row.time_us for row in result.steps] for result in results), strict=True)
        sources = tuple(OpSource.of_parts(parts, us) for parts, us in zip(told, times, strict=True))
    return replace(
        results[0],
        sources=sources,
        steps=tuple(map(step, zip(*(r.steps for r in results), strict=True))),
        stages=tuple(map(stage, zip(*(r.stages for r in results), strict=True))),
    )
