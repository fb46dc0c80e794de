"""The schedule of one step on two streams, compute and communication, from the SSA dependencies of the program.

An op starts when its stream is free and its operands are there.  The order is that of list scheduling: of the ops that
can start first, one of the micro-batch that ran last, then the one with the longest path to the end (Graham, Bounds on
multiprocessing timing anomalies, 1969; highest level first).

A repeat of layers is not unrolled: it is scheduled with few iterations, of which each may overlap with the one before,
until one iteration more adds the same time as the last one did; all that are left add that time.  So the work does not
grow with the number of layers.  The few steps of a ring inside a layer are all scheduled: its exchanges run ahead of
its computation, so that which of them is slower may show only after many steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.evaluate.engine import CostedProgram
from pmc.backends.evaluate.streams import Stream, is_send, stream_of
from pmc.dialects import dist, layer
from pmc.dialects.errors import PmcError

MAX_ITERATIONS = 12
"""Layers of a repeat after which the schedule is taken to be steady, if it does not show before."""

MAX_STEPS = 128
"""Steps of a ring that are all scheduled; of a longer one those that are left add what the last of them did."""


@dataclass(frozen=True)
class Wait:
    """How long the ops of a program kept their stream waiting, over all iterations, in us."""

    by_op: Mapping[tuple[int, Operation], float]
    """By micro-batch and op."""

    def of(self, op: Operation) -> float:
        """The wait before an op, over all micro-batches."""
        return sum(us for (_, waiting), us in self.by_op.items() if waiting is op)


@dataclass(frozen=True)
class StageSchedule:
    """One pipeline stage: the time of a step, and where it goes.  Times in us."""

    stage: int
    total_us: float
    compute_us: float
    """The time in which ops run on the cores."""
    comm_us: float
    """The time of all transfers."""
    send_us: float
    """The part of the transfers that are sends to other stages."""
    compute_wait_us: float
    """How long the cores wait for transfers before an op."""
    comm_wait_us: float
    """How long the network waits for operands before a transfer."""

    @property
    def serial_us(self) -> float:
        """The time without overlap."""
        return self.compute_us + self.comm_us

    @property
    def exposed_us(self) -> float:
        """Transfers that no computation hides: something runs at any time, so what is no computation is exposed."""
        exposed = self.total_us - self.compute_us
        return exposed if exposed > 1e-12 * self.total_us else 0.0  # else the rounding of two sums


@dataclass(frozen=True)
class Schedule:
    """A step of all stages, one micro-batch (or both halves of one) through each of them."""

    stages: tuple[StageSchedule, ...]
    waits: Wait

    @property
    def total_us(self) -> float:
        """The sum over the stages."""
        return sum(stage.total_us for stage in self.stages)


def serial_schedule(program: CostedProgram) -> Schedule:
    """One op after the other, on one stream: nothing waits, nothing is hidden."""
    stages: dict[int, dict[str, float]] = {}
    for site, cost in program.costs:
        parts = stages.setdefault(site.stage, {"compute": 0.0, "comm": 0.0, "send": 0.0, "total": 0.0})
        time_us = float(cost.time_s) * 1e6 * site.count
        parts["compute" if stream_of(site.op) is Stream.COMPUTE else "comm"] += time_us
        parts["send"] += time_us if is_send(site.op) else 0.0
        parts["total"] += time_us
    return Schedule(
        tuple(
            StageSchedule(index, p["total"], p["compute"], p["comm"], p["send"], 0.0, 0.0)
            for index, p in sorted(stages.items())
        ),
        Wait({}),
    )


def stream_schedule(programs: Sequence[CostedProgram], efficiency: float = 1.0) -> Schedule:
    """The micro-batches `programs` (costs of one program under different bindings) on the two streams.

    `efficiency` is the part of the ideal saving over the serial schedule that is reached.  Raises PmcError for a
    program of tiles, whose dependencies go through memory.
    """
    if not isinstance(programs[0].program, layer.ProgramOp):
        raise PmcError("overlap follows the values of a program at the dist level, this one is at the tile level")
    times = [{site.op: float(cost.time_s) * 1e6 for site, cost in program.costs} for program in programs]
    serial = [serial_schedule(program).stages for program in programs]
    block = programs[0].program.regions[0].block
    found: list[StageSchedule] = []
    waits: dict[tuple[int, Operation], float] = {}
    for index, body in _stage_blocks(block):
        own = [stage for stages in serial for stage in stages if stage.stage == index]
        compute, comm, send = (sum(getattr(s, name) for s in own) for name in ("compute_us", "comm_us", "send_us"))
        timeline = _steady(body, times)
        # No schedule is shorter than its streams are busy: an iteration added by rounding errors may seem to be.
        ideal = max(timeline.end_us, compute, comm)
        waits.update(timeline.waits)
        found.append(
            StageSchedule(
                stage=index,
                total_us=ideal + (1.0 - efficiency) * max(0.0, compute + comm - ideal),
                compute_us=compute,
                comm_us=comm,
                send_us=send,
                compute_wait_us=timeline.waited(Stream.COMPUTE),
                comm_wait_us=timeline.waited(Stream.COMMUNICATION),
            )
        )
    return Schedule(tuple(found), Wait(waits))


def _stage_blocks(block: Block) -> Iterator[tuple[int, Block]]:
    """The body of every stage; the program itself where it has none."""
    stages = [op for op in block.ops if isinstance(op, dist.StageOp)]
    if not stages:
        yield 0, block
    for stage in stages:
        yield stage.index.value.data, stage.body.block


@dataclass(frozen=True)
class _Timeline:
    """When everything is done, and how long streams wait before which op of which micro-batch."""

    end_us: float
    waits: Mapping[tuple[int, Operation], float]

    def waited(self, stream: Stream) -> float:
        """How long a stream waits."""
        return sum(us for (_, op), us in self.waits.items() if stream_of(op) is stream)

    def plus(self, times: int, longer: _Timeline, shorter: _Timeline) -> _Timeline:
        """This timeline with `times` what `longer` has more than `shorter`."""
        end_us = self.end_us + times * (longer.end_us - shorter.end_us)
        keys = dict.fromkeys([*self.waits, *longer.waits, *shorter.waits])
        found = {
            key: self.waits.get(key, 0.0) + times * (longer.waits.get(key, 0.0) - shorter.waits.get(key, 0.0))
            for key in keys
        }
        return _Timeline(end_us, {key: us for key, us in found.items() if us > 0.0})


Times = Sequence[Mapping[Operation, float]]
"""What the ops of each micro-batch take."""


def _steady(block: Block, times: Times) -> _Timeline:
    """The timeline of a stage: all steps of a ring, as many layers as it takes to be steady, and the others added."""
    depths = dict(_repeats(block, 0))
    counts = {op: min(op.trip_count, 2 if op.is_layers else MAX_STEPS) for op in depths}
    steady = _list_schedule(_Graph(block, times, counts))
    for op in filter(lambda op: op.is_layers, depths):
        added: float | None = None
        while counts[op] < op.trip_count:
            counts[op] += 1
            before, steady = steady, _list_schedule(_Graph(block, times, counts))
            adds = steady.end_us - before.end_us
            if counts[op] == MAX_ITERATIONS or (added is not None and abs(adds - added) <= 1e-9 * steady.end_us):
                break
            added = adds
    return _extended(block, times, counts, depths, 0)


def _extended(
    block: Block,
    times: Times,
    counts: Mapping[layer.RepeatOp, int],
    depths: Mapping[layer.RepeatOp, int],
    depth: int,
) -> _Timeline:
    """The timeline with all iterations of the repeats that are `depth` deep or deeper.

    An iteration of an outer repeat that is added brings all iterations of those inside it.
    """
    if depth > max(depths.values(), default=-1):
        return _list_schedule(_Graph(block, times, counts))
    steady = _extended(block, times, counts, depths, depth + 1)
    total = steady
    for op, own_depth in depths.items():
        left = op.trip_count - counts[op]
        if own_depth == depth and left:
            shorter = _extended(block, times, {**counts, op: counts[op] - 1}, depths, depth + 1)
            total = total.plus(left, steady, shorter)
    return total


def _repeats(block: Block, depth: int) -> Iterator[tuple[layer.RepeatOp, int]]:
    """All repeats with the number of those around them."""
    for op in block.ops:
        if isinstance(op, layer.RepeatOp):
            yield op, depth
            yield from _repeats(op.body.block, depth + 1)


@dataclass(frozen=True)
class _Task:
    """One execution of an op of one micro-batch, and the tasks whose results it takes."""

    copy: int
    op: Operation
    stream: Stream
    time_us: float
    needs: frozenset[int]


class _Graph:
    """The tasks of a block in program order, with `counts` iterations of every repeat."""

    def __init__(self, block: Block, times: Times, counts: Mapping[layer.RepeatOp, int]) -> None:
        self.tasks: list[_Task] = []
        self.counts = counts
        for copy, of_op in enumerate(times):
            self._add(block, copy, of_op, {})

    def _add(
        self, block: Block, copy: int, times: Mapping[Operation, float], makers: dict[SSAValue, frozenset[int]]
    ) -> None:
        """Add the ops of a block; `makers` are the tasks behind each value, through views, which take no time."""
        for op in block.ops:
            if isinstance(op, layer.RepeatOp):
                carried = [makers.get(value, frozenset()) for value in op.operands]
                body, last = op.body.block, op.body.block.last_op
                assert last is not None
                for _ in range(self.counts[op]):
                    makers.update(zip(body.args, carried, strict=True))
                    self._add(body, copy, times, makers)
                    carried = [makers.get(value, frozenset()) for value in last.operands]
                makers.update(zip(op.results, carried, strict=True))
                continue
            needs = frozenset[int]().union(*(makers.get(value, frozenset()) for value in op.operands))
            if op in times:
                self.tasks.append(_Task(copy, op, stream_of(op), times[op], needs))
                needs = frozenset({len(self.tasks) - 1})
            makers.update(dict.fromkeys(op.results, needs))


def _list_schedule(graph: _Graph) -> _Timeline:
    """The timeline of all tasks, in the order that the module describes."""
    tasks = graph.tasks
    users: list[list[int]] = [[] for _ in tasks]
    for index, task in enumerate(tasks):
        for needed in task.needs:
            users[needed].append(index)
    level = [0.0] * len(tasks)
    for index in reversed(range(len(tasks))):  # users of a value follow its maker
        level[index] = tasks[index].time_us + max((level[u] for u in users[index]), default=0.0)
    missing = [len(task.needs) for task in tasks]
    ready = [0.0] * len(tasks)
    free = dict.fromkeys(Stream, 0.0)
    available = [index for index, task in enumerate(tasks) if not task.needs]
    waits: dict[tuple[int, Operation], float] = {}
    running = 0
    while available:
        chosen, first = available[0], (float("inf"), True, 0.0, 0)
        for index in available:
            task = tasks[index]
            key = (max(ready[index], free[task.stream]), task.copy != running, -level[index], index)
            if key < first:
                chosen, first = index, key
        available.remove(chosen)
        task, start = tasks[chosen], first[0]
        if start > free[task.stream]:
            at = task.copy, task.op
            waits[at] = waits.get(at, 0.0) + start - free[task.stream]
        free[task.stream] = start + task.time_us
        if task.stream is Stream.COMPUTE:
            running = task.copy
        for user in users[chosen]:
            ready[user] = max(ready[user], start + task.time_us)
            missing[user] -= 1
            if not missing[user]:
                available.append(user)
    return _Timeline(max(free.values()), waits)
