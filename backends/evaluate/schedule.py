"""The schedule of one step on two streams, compute and communication, from the SSA dependencies of the program.

An op starts when its operands are there and the op before it on its stream is done.  The order on the streams is one of
a few that follow from the structure of the program (`stream_orders`), whichever ends first.  For each of them the end
is a longest path through a fixed graph, so that an op that takes less time never makes the step longer.

The streams share the DRAM of the chip: no schedule is shorter than the DRAM traffic of all ops together.

A repeat of layers is a power of a matrix in the max-plus algebra (`max_plus`): exact for any number of layers, at a
cost that grows with the binary digits of that number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.cost.model import OpCost
from pmc.backends.evaluate.engine import CostedProgram, Site
from pmc.backends.evaluate.max_plus import NEVER, applied, latest, orbit, power, product, unit
from pmc.backends.evaluate.stream_orders import Entry, Order, stream_orders
from pmc.backends.evaluate.streams import Stream, is_send, stream_of
from pmc.dialects import dist, layer
from pmc.dialects.collective import SendAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, WorkInterface
from pmc.dialects.structure import AnyProgramOp


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
    dram_us: float
    """The time that the DRAM traffic of all ops takes at full bandwidth."""
    occupied_us: float
    """How long the stage cannot take the next micro-batch: the time without sends where these run beside it."""
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
        """Transfers that no computation hides, and what transfers take of the DRAM bandwidth of the computation:
        something runs at any time, so what is no computation is exposed.
        """
        return exposed_of(self.total_us, self.compute_us)


def exposed_of(total_us: float, compute_us: float) -> float:
    """What of a time is no computation."""
    exposed = total_us - compute_us
    return exposed if exposed > 1e-12 * total_us else 0.0  # else the rounding of two sums


@dataclass(frozen=True)
class Schedule:
    """A step of all stages, one micro-batch (or both halves of one) through each of them."""

    stages: tuple[StageSchedule, ...]
    waits: Wait
    starts: tuple[tuple[Start, ...], ...] = field(compare=False)
    """Of every stage, from its beginning; not compared, as an op is equal to itself only."""

    @property
    def total_us(self) -> float:
        """The sum over the stages."""
        return sum(stage.total_us for stage in self.stages)


def serial_schedule(program: CostedProgram) -> Schedule:
    """One op after the other, on one stream: nothing waits, nothing is hidden."""
    stages: dict[int, _Busy] = {}
    starts: dict[int, list[Start]] = {}
    for site, cost in program.costs:
        busy = stages.setdefault(site.stage, _Busy())
        # The runs of an op in a repeat stand together, as in the table.
        own = starts.setdefault(site.stage, [])
        own.append(Start(0, site.op, busy.total_us, float(cost.time_s) * 1e6, site.count))
        busy.add(site, cost, program.model.target.chip.dram_bytes_per_s)
    return Schedule(
        tuple(
            StageSchedule(index, b.total_us, b.compute_us, b.comm_us, b.send_us, b.dram_us, b.total_us, 0.0, 0.0)
            for index, b in sorted(stages.items())
        ),
        Wait({}),
        tuple(tuple(starts[index]) for index in sorted(starts)),
    )


@dataclass
class _Busy:
    """How long streams and DRAM are busy in a stage, in us."""

    compute_us: float = 0.0
    comm_us: float = 0.0
    send_us: float = 0.0
    dram_us: float = 0.0
    total_us: float = 0.0

    def add(self, site: Site, cost: OpCost, dram_bytes_per_s: float) -> None:
        time_us = float(cost.time_s) * 1e6 * site.count
        if site.stream is Stream.COMPUTE:
            self.compute_us += time_us
        else:
            self.comm_us += time_us
        self.send_us += time_us if isinstance(site.collective, SendAttr) else 0.0
        self.dram_us += float(cost.bytes_read + cost.bytes_written) * site.count / dram_bytes_per_s * 1e6
        self.total_us += time_us


class StreamScheduler:
    """Schedules of one program with so many micro-batches at once; its orders are found once."""

    def __init__(self, program: AnyProgramOp, copies: int) -> None:
        """Raises PmcError for a program of tiles, whose dependencies go through memory."""
        if not isinstance(program, layer.ProgramOp):
            raise PmcError("overlap follows the values of a program at the dist level, this one is at the tile level")
        self.stages = [
            (index, body, Facts(body), stream_orders(body, copies))
            for index, body in _stage_blocks(program.regions[0].block)
        ]

    def schedule(self, programs: Sequence[CostedProgram], efficiency: float = 1.0) -> Schedule:
        """The micro-batches `programs` (costs of the program under different bindings) on the two streams.

        `efficiency` is the part of the ideal saving over the serial schedule that is reached.
        """
        times = [{site.op: float(cost.time_s) * 1e6 for site, cost in program.costs} for program in programs]
        serial = [serial_schedule(program).stages for program in programs]
        found: list[StageSchedule] = []
        starts: list[tuple[Start, ...]] = []
        waits: dict[tuple[int, Operation], float] = {}
        for index, body, facts, orders in self.stages:
            own = [stage for stages in serial for stage in stages if stage.stage == index]
            compute, comm, send, dram = (
                sum(getattr(s, name) for s in own) for name in ("compute_us", "comm_us", "send_us", "dram_us")
            )

            def total(end_us: float, comm_us: float, compute: float = compute, dram: float = dram) -> float:
                ideal = max(end_us, compute, comm_us, dram)  # an end below these is one by rounding
                return ideal + (1.0 - efficiency) * max(0.0, compute + comm_us - ideal)

            best = min((timeline(body, order, times, facts) for order in orders), key=lambda t: t.end_us)
            own_waits = best.waits()
            starts.append(tuple(best.starts()))
            waits.update(own_waits)
            waited = {
                stream: sum(us for (_, op), us in own_waits.items() if stream_of(op) is stream) for stream in Stream
            }
            total_us = occupied_us = total(best.end_us, comm)
            if send:
                unsent = [{op: 0.0 if is_send(op) else us for op, us in of_op.items()} for of_op in times]
                end_us = min(timeline(body, order, unsent, facts).end_us for order in orders)
                occupied_us = total(end_us, comm - send)
            found.append(
                StageSchedule(
                    stage=index,
                    total_us=total_us,
                    compute_us=compute,
                    comm_us=comm,
                    send_us=send,
                    dram_us=dram,
                    occupied_us=occupied_us,
                    compute_wait_us=waited[Stream.COMPUTE],
                    comm_wait_us=waited[Stream.COMMUNICATION],
                )
            )
        return Schedule(tuple(found), Wait(waits), tuple(starts))


def _stage_blocks(block: Block) -> Iterator[tuple[int, Block]]:
    """The body of every stage; the program itself where it has none."""
    stages = [op for op in block.ops if isinstance(op, dist.StageOp)]
    if not stages:
        yield 0, block
    for stage in stages:
        yield stage.index.value.data, stage.body.block


# -- the timeline of one order ----------------------------------------------------------------------------------

STREAMS = tuple(Stream)

Times = Sequence[Mapping[Operation, float]]
"""What the ops of each micro-batch take; an op without an entry takes no time and no place on a stream."""


class Facts:
    """What every order of a block shares: streams of ops, and what the bodies of repeats take from around them."""

    def __init__(self, block: Block) -> None:
        ops = [op for op in block.walk() if isinstance(op, WorkInterface)]
        self.streams: dict[Operation, Stream] = {op: stream_of(op) for op in ops}
        repeats = [op for op in block.walk() if isinstance(op, layer.RepeatOp)]
        self.around = {op.body.block: _taken(op.body.block) for op in repeats}


def _takes_turns(block: Block) -> bool:
    """Whether the iterations of a block differ in how many layers they run of each kind."""
    return any(isinstance(op, layer.RepeatOp) and op.shares is not None for op in block.ops)


def _taken(block: Block) -> list[SSAValue]:
    """The values that the ops of a block, and of repeats in it, take from around it."""
    own = set[SSAValue](block.args)
    taken: dict[SSAValue, None] = {}
    for op in block.walk():
        taken.update(dict.fromkeys(op.operands))
        own.update(op.results, *(inner.args for region in op.regions for inner in region.blocks))
    return [value for value in taken if value not in own]


def timeline(block: Block, order: Order, times: Times, facts: Facts) -> Timeline:
    """The ops of a block and of the repeats in it, started in the order given, from an idle chip."""
    frame = _Frame(order, times, facts, [np.zeros(1) for _ in STREAMS])
    frame.run(block)
    return Timeline(frame)


@dataclass(frozen=True)
class Start:
    """When an op of a micro-batch starts for the first time, in us, and how many runs follow each other alike."""

    copy: int
    op: Operation
    start_us: float
    time_us: float
    repeat: int


class Timeline:
    """When everything is done, and how long streams wait before which op."""

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame
        self.end_us = float(max(row[0] for row in frame.free))

    def starts(self) -> list[Start]:
        """When every op starts: once for the first iteration of a repeat, and once for those that are alike."""
        found: list[Start] = []
        self.frame.add_starts(found, np.zeros((1, 1)), 1)
        return found

    def waits(self) -> dict[tuple[int, Operation], float]:
        """How long the stream waits before an op of a micro-batch, over all its executions, in us."""
        found: dict[tuple[int, Operation], float] = {}
        self.frame.add_waits(found, np.zeros((1, 1)))
        least = 1e-9 * self.end_us  # below that it is the rounding of sums
        return {key: us for key, us in found.items() if us > least}


_Key = tuple[int, SSAValue]
"""A value of a micro-batch."""


class _Frame:
    """Times within a block, as rows: of every time at which the block may begin to depend on something, how much later.

    The block of a stage begins at one time.  An iteration of a repeat begins when the streams become free and when the
    values of the iteration before it and of what is around the repeat are there.
    """

    def __init__(self, order: Order, times: Times, facts: Facts, free: Sequence[FloatArray]) -> None:
        self.order = order
        self.times = times
        self.facts = facts
        self.free = list(free)
        """When the streams, in the order of `Stream`, are done with what was started so far."""
        self.ready: dict[_Key, FloatArray] = {}
        """When values are there; a value without an entry is there from the beginning."""
        self.before: dict[_Key, FloatArray] = {}
        """The same in the iteration before."""
        self.carried: Mapping[SSAValue, SSAValue] = {}
        """The arguments of an iteration, and what the iteration before yields for them."""
        self.yielded: dict[SSAValue, SSAValue] = {}
        """The results of repeats, and what the last iteration yields for them."""
        self.idle = set[Block]()
        """The bodies of repeats that have nothing to do in this turn, and so leave nothing over."""
        self.begun: list[tuple[int, Operation, FloatArray, FloatArray]] = []
        """Micro-batch and op, when it starts, and when its stream was free."""
        self.inner: list[tuple[_Frame, FloatArray, FloatArray, int]] = []
        """Iterations of a repeat: the rows with which the first of them begins, those after one, and their number."""

    def run(self, block: Block, first: bool = False, around: int | None = None) -> None:
        """Start the ops of a block in their order; in the first iteration none is left over from the one before.

        `around` is the number of the iteration whose body the block is, where iterations are not alike.
        """
        for entry in self.order[block]:
            if (entry.late and first) or entry.op.parent in self.idle:
                continue
            if isinstance(entry.op, layer.RepeatOp):
                self._layers(entry.op, around)
            else:
                self._start(entry)

    def _there(self, copy: int, value: SSAValue, late: bool = False) -> FloatArray | None:
        """When a value is there."""
        if late:
            return self.before.get((copy, value))
        if value in self.carried:
            return self.before.get((copy, self.carried[value]))
        row = self.ready.get((copy, value))
        return self._there(copy, self.yielded[value]) if row is None and value in self.yielded else row

    def _start(self, entry: Entry) -> None:
        copy, op, values = entry.copy, entry.op, self.before if entry.late else self.ready
        needed = [row for value in op.operands if (row := self._there(copy, value, entry.late)) is not None]
        time_us = self.times[copy].get(op)
        if time_us is None:
            if needed:
                values.update({(copy, result): latest(needed) for result in op.results})
            return
        stream = STREAMS.index(self.facts.streams[op])
        free = self.free[stream]
        start = latest([free, *needed])
        self.begun.append((copy, op, start, free))
        self.free[stream] = end = start + time_us
        values.update({(copy, result): end for result in op.results})

    def _layers(self, repeat: layer.RepeatOp, around: int | None) -> None:
        """A repeat: iterations that are alike at once, those with shares of others one by one."""
        body = repeat.body.block
        own = repeat.iterations(around)
        if not own:
            for copy in range(len(self.times)):
                for result, init in zip(repeat.results, repeat.inits, strict=True):
                    self._set(copy, result, self._there(copy, init))
            for result in repeat.results:
                self.yielded.pop(result, None)
            self.idle.add(body)
        elif _takes_turns(body):
            last = body.last_op
            assert last is not None
            values = repeat.operands
            for index in own:
                for copy in range(len(self.times)):
                    rows = [self._there(copy, value) for value in values]
                    for argument, row in zip(body.args, rows, strict=True):
                        self._set(copy, argument, row)
                self.run(body, first=True, around=index)
                values = last.operands
            self.yielded.update(zip(repeat.results, values, strict=True))
        else:
            self.idle.discard(body)
            for result in repeat.results:
                for copy in range(len(self.times)):
                    self._set(copy, result, None)
            self._repeat(repeat, len(own))

    def _repeat(self, repeat: layer.RepeatOp, times: int) -> None:
        """The first iteration, and those that are alike; what the last one leaves over stands behind the repeat."""
        body, copies = repeat.body.block, range(len(self.times))
        last = body.last_op
        assert last is not None
        for copy in copies:
            for argument, value in zip(body.args, repeat.operands, strict=True):
                self._set(copy, argument, self._there(copy, value))
        self.run(body, first=True)
        late = [entry for entry in self.order[body] if entry.late]
        made_late = {(entry.copy, result) for entry in late for result in entry.op.results}
        passed = [
            *((copy, value) for copy in copies for value in last.operands),
            *((entry.copy, value) for entry in late for value in entry.op.operands),
        ]
        around = set(self.facts.around[body])
        passed = [key for key in dict.fromkeys(passed) if key not in made_late and key[1] not in around]
        if times > 1:
            self._alike(repeat, times - 1, passed)
        self.yielded.update(zip(repeat.results, last.operands, strict=True))

    def _alike(self, repeat: layer.RepeatOp, times: int, passed: Sequence[_Key]) -> None:
        """All `times` iterations behind the first, which pass on when the values `passed` are there."""
        body = repeat.body.block
        last = body.last_op
        assert last is not None
        copies = range(len(self.times))
        around = [
            key for value in self.facts.around[body] for c in copies if self._there(*(key := (c, value))) is not None
        ]
        never = np.full_like(self.free[0], NEVER)
        entry = np.stack(
            [*self.free, *(never if (row := self._there(*key)) is None else row for key in (*passed, *around))]
        )
        rows, first = list(unit(len(entry))), len(self.free)
        inner = _Frame(self.order, self.times, self.facts, rows[:first])
        inner.before = dict(zip((*passed, *around), rows[first:], strict=True))
        inner.ready = {key: inner.before[key] for key in around}
        inner.carried = dict(zip(body.args, last.operands, strict=True))
        inner.run(body)
        nothing = np.full(len(entry), NEVER)
        found = [nothing if (row := inner._there(*key)) is None else row for key in passed]
        step = np.stack([*inner.free, *found, *rows[first + len(passed) :]])
        self.inner.append((inner, entry, step, times))
        after = product(power(step, times), entry)
        self.free = list(after[:first])
        self.ready.update(zip(passed, after[first:], strict=False))

    def _set(self, copy: int, value: SSAValue, row: FloatArray | None) -> None:
        if row is None:
            self.ready.pop((copy, value), None)
        else:
            self.ready[copy, value] = row

    def add_starts(self, found: list[Start], begins: FloatArray, repeat: int) -> None:
        """Add when every op starts in the first of `repeat` iterations, which begins at `begins` [1, size]."""
        for copy, op, start, _ in self.begun:
            found.append(Start(copy, op, float(applied(start[None], begins)[0, 0]), self.times[copy][op], repeat))
        for inner, entry, _, times in self.inner:
            inner.add_starts(found, applied(entry, begins), repeat * times)

    def add_waits(self, found: dict[tuple[int, Operation], float], begins: FloatArray) -> None:
        """Add the waits of all ops, for a block that begins at each of `begins` [number, size]."""
        if self.begun:
            starts, frees = (np.stack(rows) for rows in zip(*(entry[2:] for entry in self.begun), strict=True))
            waited = (applied(starts, begins) - applied(frees, begins)).sum(axis=0)
            for (copy, op, _, _), us in zip(self.begun, waited, strict=True):
                found[copy, op] = found.get((copy, op), 0.0) + float(us)
        for inner, entry, step, times in self.inner:
            states = orbit(step, applied(entry, begins), times)
            inner.add_waits(found, states.reshape(-1, states.shape[-1]))
