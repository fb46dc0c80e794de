"""The evaluation of all points of a sweep."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.memo import CostMemo
from pmc.backends.evaluate.aggregate import ranks_of
from pmc.backends.evaluate.dealt_program import DealtMemo, DealtProgram
from pmc.backends.evaluate.feasibility import step_feasibility
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.overlap import Overlap
from pmc.backends.evaluate.request import PhaseAggregates, RequestResult, aggregate_step
from pmc.backends.evaluate.request import evaluate_request as evaluate_programs
from pmc.compiler.driver import check_deployment, check_target, set_target, verifier_errors
from pmc.compiler.evaluation import CALIBRATION, request_deployments, with_stages_of_request
from pmc.compiler.op_times import costs_kept, times_of
from pmc.compiler.sweep.axes import LENGTHS, Axis
from pmc.compiler.sweep.points import Lengths, Point, Points
from pmc.compiler.sweep.programs import Pipeline, SharedCompiler, Target, neighbours
from pmc.compiler.sweep.result import DOES_NOT_FIT, INFEASIBLE, OK, REQUEST_COLUMNS, STEP_COLUMNS, SweepResult
from pmc.compiler.sweep.resume import conditions_of
from pmc.compiler.sweep.wide import FEWEST, Block, agrees, blocks, families, symbol_of
from pmc.dialects import model
from pmc.dialects.checkpoint import too_long
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from pmc.passes.partition_stages import PartitionStagesPass

MOST_POINTS = 10_000_000
"""Of a sweep: the table of more does not fit the memory of most machines."""

COLLECT_EVERY = 64
"""Programs after which what they leave behind is collected."""


@dataclass(frozen=True)
class _Run:
    """A table that is filled in, and what all of its rows share."""

    result: SweepResult
    done: Callable[[Sequence[int]], None]
    """Is told which points were found."""
    collected: Callable[[], None]
    """Is told that a program has been left behind."""
    points: Points
    compiler: SharedCompiler
    memo: CostMemo


@dataclass(frozen=True)
class Sweep:
    """Evaluates `model`, a module of the model level that is not changed, at every point of the product of `axes`."""

    model: ModuleOp
    name: str
    base: Point
    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        """Raises PmcError for axes that do not go together, or too many points."""
        names = [axis.name for axis in self.axes]
        for name in names:
            if names.count(name) > 1:
                raise PmcError(f"{name} is swept twice")
        if not self.axes:
            raise PmcError("nothing varies: give at least one axis, as --set deployment.tp=1,2,4,8")
        if math.prod(len(axis.values) for axis in self.axes) > MOST_POINTS:
            counts = " x ".join(str(len(axis.values)) for axis in self.axes)
            raise PmcError(f"{counts} points are more than {MOST_POINTS}")
        if self.base.request is None:
            lengths = [name for name in names if name in LENGTHS]
            if lengths:
                raise PmcError(f"{', '.join(lengths)}: only requests have such lengths, give isl and osl")
        else:
            given = [name for name in names if name in ("deployment.phase", "deployment.q_len", "deployment.kv_len")]
            if given:
                raise PmcError(f"{', '.join(given)} cannot vary with isl and osl, which say it for both phases")

    def table(self) -> SweepResult:
        """A table without results."""
        names = STEP_COLUMNS if self.base.request is None else REQUEST_COLUMNS
        return SweepResult(self.name, self.axes, names, conditions=conditions_of(self.model, self.base, self.axes))

    def result(self) -> SweepResult:
        """The table with all rows."""
        result = self.table()
        self.run(result)
        return result

    def run(self, result: SweepResult, done: Callable[[Sequence[int]], None] = lambda points: None) -> None:
        """Fill in all rows of `result` that have no status yet; `done` is told which points were found, as they are."""
        with few_collections() as collected:
            run = _Run(result, done, collected, Points(self.base), SharedCompiler(self.model), CostMemo())
            with costs_kept(run.memo):
                if self.base.request is None:
                    self._run_at_once(run)
                self._run_programs(run)

    def _run_programs(self, run: _Run) -> None:
        """Fill in the rows that are left, program by program."""
        groups: dict[tuple[Pipeline, ...], list[tuple[int, Point]]] = {}
        layouts: dict[Pipeline, list[tuple[int, Point]]] = {}
        for index in np.flatnonzero(run.result.columns["status"] == "").tolist():
            try:
                point = run.points.at(self._values(index))
                check_target(point.target.chip, point.target.topology, point.target.deployment)
                point = self._with_stages(point)
                targets = _programs_of(point)
                for target in targets:
                    check_deployment(self.model, target.chip, target.topology, target.deployment)
                dealt = _can_be_dealt(point, self.model)
                pipelines = tuple(run.compiler.pipeline(target, not dealt) for target in targets)
            except PmcError as error:
                run.result.put(index, {"status": INFEASIBLE, "reason": str(error)})
                run.done([index])
                continue
            if dealt:
                layouts.setdefault(pipelines[0], []).append((index, point))
            else:
                groups.setdefault(pipelines, []).append((index, point))
        self._run_layouts(run, layouts)
        for modules, members in self._compiled(run.compiler, groups):
            for index, point in members:
                run.result.put(index, _row(modules, point, run.memo))
            run.done([index for index, _ in members])
            run.memo.forget_ops()
            if any(isinstance(module, ModuleOp) for module in modules):
                run.collected()

    def _run_layouts(self, run: _Run, layouts: Mapping[Pipeline, Sequence[tuple[int, Point]]]) -> None:
        """Fill in the rows of steps of which many have one program but for the number of pipeline stages."""
        order, known = neighbours(layouts), DealtMemo(run.memo)
        modules = run.compiler.layouts([(pipeline, layouts[pipeline][0][1].target) for pipeline in order])
        last: tuple[ModuleOp, DealtProgram] | None = None
        for pipeline, module in zip(order, modules, strict=True):
            members = layouts[pipeline]
            if isinstance(module, PmcError):
                for index, _ in members:
                    run.result.put(index, {"status": INFEASIBLE, "reason": str(module)})
            else:
                if last is not None and last[0] is module:
                    run.memo.forget_types()
                    last[1].retyped()
                else:
                    run.memo.forget_ops()
                    last = module, DealtProgram(module, known)
                    run.collected()
                for index, point in members:
                    run.compiler.retarget(module, pipeline, point.target)
                    partition = run.compiler.partition(point.target)
                    run.result.put(index, _layout_row(last[1], module, partition, point, run.memo))
            run.done([index for index, _ in members])

    def _values(self, index: int) -> dict[str, object]:
        """The values of the axes at a point."""
        places = np.unravel_index(index, [len(axis.values) for axis in self.axes])
        return {axis.name: axis.values[int(i)] for axis, i in zip(self.axes, places, strict=True)}

    def _run_at_once(self, run: _Run) -> None:
        """Fill in rows of points that differ in batch and lengths only, where these can be evaluated at once."""
        symbols = [axis for axis in self.axes if symbol_of(axis) is not None]
        for values, family in families(self.axes, run.result):
            wanted = run.result.columns["status"][family] == ""
            bindings: dict[str, IntArray] = {}
            for dim, axis in enumerate(symbols):
                shape = [1] * family.ndim
                shape[dim] = -1
                bindings[axis.path] = np.asarray(axis.values, np.int64).reshape(shape)
            try:
                ends = {axis.name: _end(bindings[axis.path], axis.path) for axis in symbols}
                point = run.points.at({**values, **ends})
            except PmcError:
                continue
            deployment = point.target.deployment
            if deployment.pp > 1:
                continue
            if deployment.draft_tokens and "q_len" in bindings:
                continue  # a step verifies one new token and its drafts
            q_len = bindings.get("q_len", np.asarray(deployment.queries))
            kv_len = bindings.get("kv_len", np.asarray(deployment.kv_len))
            wanted &= (q_len <= kv_len) & (q_len % deployment.cp == 0) & (kv_len % deployment.cp == 0)
            lengths: list[int] = np.unique(kv_len).tolist()
            longest = max((n for n in lengths if not too_long(self.model, n, deployment.longer_context)), default=0)
            wanted &= kv_len <= longest
            if np.count_nonzero(wanted) < FEWEST:
                continue
            found = self._at_once(run, bindings, family, wanted)
            for block in found:
                run.result.put(block.points[block.certain], block.surely())
                run.done(block.points[block.certain].tolist())

    def _at_once(
        self,
        run: _Run,
        bindings: dict[str, IntArray],
        family: IntArray,
        wanted: npt.NDArray[np.bool_],
    ) -> list[Block]:
        """All wanted points of a family, or none where a point evaluated alone would say something else."""
        first, last = (int(family[wanted][place]) for place in (0, -1))
        try:
            point = run.points.at(self._values(first))
            target = point.target
            check_target(target.chip, target.topology, target.deployment)
            pipeline = run.compiler.pipeline(target)
            if run.compiler.pipeline(run.points.at(self._values(last)).target) != pipeline:
                return []
            module = next(run.compiler.programs([(pipeline, target)]))
            if isinstance(module, PmcError):
                return []
            set_target(module, target.chip, target.topology, target.deployment, target.accounting)
            module.attributes.pop(CALIBRATION, None)
            found: list[Block] = []
            for block in blocks(point.options.evaluator(module, run.memo), bindings, family, wanted):
                if block is None:
                    return []
                found.append(block)
        except PmcError:
            return []
        return (
            found if agrees(found, lambda index: _row([module], run.points.at(self._values(index)), run.memo)) else []
        )

    def _with_stages(self, point: Point) -> Point:
        """The point of a request with the stages that both of its phases have."""
        if point.request is None:
            return point
        t = point.target
        deployment = with_stages_of_request(
            self.model, t.chip, t.topology, t.deployment, point.request.isl, point.request.osl, t.accounting
        )
        return replace(point, target=_with_deployment(t, deployment))

    def _compiled(
        self, compiler: SharedCompiler, groups: dict[tuple[Pipeline, ...], list[tuple[int, Point]]]
    ) -> Iterator[tuple[Sequence[ModuleOp | PmcError], list[tuple[int, Point]]]]:
        """The programs of each group: one, or those of the two phases of a request."""
        order = sorted(groups)
        targets = [_programs_of(groups[pipelines][0][1]) for pipelines in order]
        phases = [
            compiler.programs(
                [(pipelines[phase], found[phase]) for pipelines, found in zip(order, targets, strict=True)]
            )
            for phase in range(len(order[0]) if order else 0)
        ]
        for pipelines, *modules in zip(order, *phases, strict=True):
            yield modules, groups[pipelines]


def _end(values: IntArray, symbol: str) -> int:
    """The value at which a point is most likely to be one: what is new is no longer than what is attended to."""
    return int(values.min() if symbol == "q_len" else values.max())


def _programs_of(point: Point) -> tuple[Target, ...]:
    """What a point needs compiled: one program, or those of the two phases of a request.  Raises PmcError."""
    if point.request is None:
        return (point.target,)
    deployments = request_deployments(point.target.deployment, point.request.isl, point.request.osl)
    return tuple(_with_deployment(point.target, deployment) for deployment in deployments)


def _with_deployment(target: Target, deployment: Deployment) -> Target:
    return Target(target.chip, target.topology, deployment, target.accounting)


def _row(modules: Sequence[ModuleOp | PmcError], point: Point, memo: CostMemo) -> dict[str, object]:
    """The columns of one point."""
    try:
        for module, target in zip(modules, _programs_of(point), strict=True):
            if isinstance(module, PmcError):
                raise module
            set_target(module, target.chip, target.topology, target.deployment, target.accounting)
            module.attributes.pop(CALIBRATION, None)
        programs = [module for module in modules if isinstance(module, ModuleOp)]
        if point.request is None:
            return _step_row(programs[0], point, memo)
        return _request_row(programs[0], programs[1], point, point.request, memo)
    except PmcError as error:
        return {"status": INFEASIBLE, "reason": str(error)}


def _can_be_dealt(point: Point, module: ModuleOp) -> bool:
    """Whether a point is a step whose figures follow from the program before `partition-stages`.

    For several stages that pass takes groups of layers apart.
    """
    options = point.options
    groups = (isinstance(op, model.RepeatOp) and isinstance(op.parent_op(), model.RepeatOp) for op in module.walk())
    if point.target.deployment.pp > 1 and any(groups):
        return False
    return point.request is None and options.overlap is Overlap.NONE and options.granularity in ("chip", "core")


def _layout_row(
    program: DealtProgram, module: ModuleOp, partition: PartitionStagesPass, point: Point, memo: CostMemo
) -> dict[str, object]:
    """The columns of one point, whose program is that of `module` but for the pipeline stages."""
    module.attributes.pop(CALIBRATION, None)
    try:
        with verifier_errors(partition.name), times_of(program):
            (lengths,) = partition.lengths(module).values()
        evaluator = point.options.evaluator(module, memo)
        figures, memory = program.evaluate(evaluator, lengths)
    except PmcError as error:
        return {"status": INFEASIBLE, "reason": str(error)}
    return _step_columns(figures, memory, ranks_of(evaluator.target), bool(evaluator.model.unvalidated()))


def _step_row(module: ModuleOp, point: Point, memo: CostMemo) -> dict[str, object]:
    evaluator = point.options.evaluator(module, memo)
    step = evaluator.step({})
    figures = aggregate_step(evaluator, step)
    memory = step_feasibility(module, search=False)
    assert memory is not None  # a program at the dist level
    return _step_columns(figures, memory, step.ops.ranks, bool(step.ops.unvalidated))


def _step_columns(figures: PhaseAggregates, memory: Feasibility, ranks: int, relative_only: bool) -> dict[str, object]:
    limits = figures.bottlenecks_us
    own = {name: getattr(figures, name) for name in STEP_COLUMNS if hasattr(figures, name)}
    return {
        **own,
        "bottleneck": max(limits, key=lambda tag: limits[tag]) if limits else "",
        "ranks": ranks,
        "relative_only": relative_only,
        **_memory(memory),
    }


def _request_row(
    prefill: ModuleOp, decode: ModuleOp, point: Point, request: Lengths, memo: CostMemo
) -> dict[str, object]:
    first, rest = (point.options.evaluator(module, memo) for module in (prefill, decode))
    batch = point.target.deployment.batch
    found = evaluate_programs(first, rest, batch, request.isl, request.osl, request.micro_batches)
    return request_figures(found)


def request_figures(found: RequestResult) -> dict[str, object]:
    """The columns of a request."""
    names = ("ttft_us", "tpot_us", "itl_first_us", "itl_last_us", "e2e_us", "tps_per_user", "tps_per_chip", "ranks")
    phases = {"prefill": found.prefill, "decode": found.decode}
    return {
        **{name: getattr(found, name) for name in names},
        **{
            f"{phase}_{name}": getattr(figures, name)
            for phase, figures in phases.items()
            if figures is not None
            for name in ("mfu", "mbu", "bubble")
        },
        "relative_only": bool(found.unvalidated),
        **_memory(found.memory),
    }


def _memory(memory: Feasibility) -> dict[str, object]:
    return {
        "status": OK if memory.fits else DOES_NOT_FIT,
        "memory_bytes": memory.total_bytes,
        "memory_capacity_bytes": memory.capacity_bytes,
        "reason": "" if memory.fits else memory.verdict,
    }


@contextmanager
def few_collections() -> Generator[Callable[[], None]]:
    """Collect garbage every `COLLECT_EVERY` calls of what is given, and not each time that many objects were made.

    Modules refer to themselves in circles, so that only a collection frees them.  Most other objects of a sweep live as
    long as it does: what survives a collection is not looked at by the next.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls % COLLECT_EVERY == 0:
            gc.collect()
            gc.freeze()

    try:
        yield count
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
