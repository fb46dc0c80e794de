"""Orders in which the ops of micro-batches may start on their streams, from the structure of a program alone.

An order that does not depend on how long ops take makes the schedule monotone: where every op waits for its operands
and for the op before it on its stream, the end is the longest path through a fixed graph.  List scheduling with the
actual times is not (Graham, Bounds on multiprocessing timing anomalies, 1969).  So lists are made here for nominal
times, and the best of them under the actual times is taken, for a minimum of monotone functions is monotone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.dialects import layer
from pmc.dialects.interfaces import WorkInterface
from pmc.dialects.layer_op import MatrixOp

NOMINAL_TRANSFERS = (0, 2, 4, 8, 16, 64)
"""The nominal times of a transfer, in those of a vector op: what may run beside it."""

NOMINAL_MATRIX = 4
"""The nominal time of a matrix op."""

LATE_TRANSFERS = (0, 1, 2)
"""So many of the last transfers of a layer, and what follows from them, may end while the next layer has begun."""


@dataclass(frozen=True)
class Entry:
    """What comes next in a block: an op of one micro-batch, or a repeat of all of them together."""

    copy: int
    op: Operation
    late: bool = False
    """Whether the op is that of the iteration before."""


Order = Mapping[Block, Sequence[Entry]]
"""The entries of a block and of all blocks of repeats in it; makers stand before users.

In an iteration of a repeat, late entries are those that the iteration before has left over.  Those of the last
iteration stand behind the repeat.
"""


def stream_orders(block: Block, copies: int) -> list[Order]:
    """Different orders for so many micro-batches that run the same block; at least one."""
    found: dict[object, Order] = {}
    for late in LATE_TRANSFERS if copies > 1 else (0,):
        left = {inner: _left_over(inner, late if of_layers else 0) for of_layers, inner in _blocks(block, False)}
        bodies = [_Body(inner, copies, left) for inner in left]
        for transfer in NOMINAL_TRANSFERS:
            order = {body.block: body.entries(transfer) for body in bodies}
            key = tuple((e.copy, e.late, id(e.op)) for entries in order.values() for e in entries)
            found.setdefault(key, order)
    return list(found.values())


def _blocks(block: Block, of_layers: bool) -> Iterator[tuple[bool, Block]]:
    """A block and those of the repeats in it, and whether it is the body of a repeat of layers."""
    yield of_layers, block
    for op in block.ops:
        if isinstance(op, layer.RepeatOp):
            yield from _blocks(op.body.block, op.is_layers)


def _left_over(block: Block, transfers: int) -> list[Operation]:
    """What follows from the last `transfers` transfers behind all repeats of a block."""
    behind: list[Operation] = []
    for op in block.ops:
        behind = [] if isinstance(op, layer.RepeatOp) else [*behind, op]
    sent = [op for op in behind if stream_of(op) is Stream.COMMUNICATION][-transfers:] if transfers else []
    found = dict.fromkeys(sent[:1])
    for op in behind:
        if op.results and any(value.owner in found for value in op.operands):
            found[op] = None
    return [op for op in found if op not in sent[:1]]


@dataclass
class _Task:
    """An op of a micro-batch in a block, without repeats between it and the others of its list."""

    entry: Entry
    stream: Stream | None
    """None for views and sources, which take no time."""
    needs: list[_Task]
    after_transfer: bool
    """Whether it takes what a transfer of the iteration before brings."""
    starts_ring: bool
    """Whether a transfer of the repeat behind it takes its result."""
    users: list[_Task]
    place: int
    path: int = 0
    missing: int = 0
    ready: int = 0

    def nominal(self, transfer: int) -> int:
        """The nominal time of an op."""
        match self.stream:
            case None:
                return 0
            case Stream.COMMUNICATION:
                return transfer
            case Stream.COMPUTE:
                return NOMINAL_MATRIX if isinstance(self.entry.op, MatrixOp) else 1


class _Body:
    """The ops of a block as lists of tasks, with the repeats between them."""

    def __init__(self, block: Block, copies: int, left_over: Mapping[Block, Sequence[Operation]]) -> None:
        """`left_over` says what micro-batches but the first leave over to the next iteration, by block."""
        self.block = block
        self.parts: list[list[_Task] | layer.RepeatOp] = []
        late, last = left_over[block], block.last_op
        carried = zip(block.args, last.operands, strict=True) if late and last is not None else ()
        self.carried: dict[SSAValue, SSAValue] = dict(carried)
        """Arguments, and what the iteration before yields for them."""
        self.yielded: dict[SSAValue, SSAValue] = {}
        """Results of repeats, and what their last iteration yields for them."""
        self.made: dict[tuple[int, bool, Operation], _Task] = {}
        tasks: list[_Task] = []
        for copy in range(1, copies):
            tasks += [self._task(Entry(copy, op, late=True)) for op in late]
        for op in block.ops:
            if not isinstance(op, layer.RepeatOp):
                among = range(1) if op in late else range(copies)
                tasks += [self._task(Entry(copy, op)) for copy in among]
                continue
            inner, inner_last = op.body.block, op.body.block.last_op
            assert inner_last is not None
            self.parts += [tasks, op]
            self.yielded.update(zip(op.results, inner_last.operands, strict=True))
            tasks = [self._task(Entry(copy, left)) for copy in range(1, copies) for left in left_over[inner]]
        self.parts.append(tasks)

    def _task(self, entry: Entry) -> _Task:
        op, needs, after_transfer = entry.op, list[_Task](), False
        for operand in op.operands:
            value, late = operand, entry.late
            if value in self.carried:
                value, late = self.carried[value], True
            value = self.yielded.get(value, value)
            owner = value.owner
            if not isinstance(owner, Operation):
                continue
            maker = self.made.get((entry.copy, late, owner))
            if maker is not None:
                needs.append(maker)
            else:
                after_transfer |= stream_of(owner) is Stream.COMMUNICATION
        stream = stream_of(op) if isinstance(op, WorkInterface) else None
        task = _Task(entry, stream, needs, after_transfer, _starts_ring(op), [], len(self.made))
        for maker in needs:
            maker.users.append(task)
        self.made[entry.copy, entry.late, op] = task
        return task

    def entries(self, transfer: int) -> list[Entry]:
        """All entries, in lists for this nominal time of a transfer."""
        found: list[Entry] = []
        for part in self.parts:
            found += [Entry(0, part)] if isinstance(part, layer.RepeatOp) else _listed(part, transfer)
        return found


def _starts_ring(op: Operation) -> bool:
    """Whether the result of an op goes into a repeat and is sent there."""
    for use in (use for result in op.results for use in result.uses):
        if isinstance(use.operation, layer.RepeatOp):
            argument = use.operation.body.block.args[use.index]
            if any(stream_of(inner.operation) is Stream.COMMUNICATION for inner in argument.uses):
                return True
    return False


def _listed(tasks: Sequence[_Task], transfer: int) -> list[Entry]:
    """List scheduling: of the tasks that can start first one of the micro-batch that ran last, then the one with the
    longest path to the end.  What takes no time stands right behind its makers.
    """
    inside = set(map(id, tasks))
    for task in reversed(tasks):
        onwards = [user.path for user in task.users if id(user) in inside]
        task.path = task.nominal(transfer) + max(onwards, default=0) + (RING if task.starts_ring else 0)
        task.missing = sum(id(maker) in inside for maker in task.needs)
        task.ready = transfer if task.after_transfer else 0
    free = dict.fromkeys(Stream, 0)
    entries: list[Entry] = []
    running = 0
    untimed = [task for task in tasks if not task.missing and task.stream is None]
    timed = [task for task in tasks if not task.missing and task.stream is not None]

    def urgency(task: _Task) -> tuple[int, bool, int, int]:
        assert task.stream is not None
        return max(task.ready, free[task.stream]), task.entry.copy != running, -task.path, task.place

    while untimed or timed:
        if untimed:
            task = untimed.pop()
            end = task.ready
        else:
            task = min(timed, key=urgency)
            timed.remove(task)
            assert task.stream is not None
            end = free[task.stream] = max(task.ready, free[task.stream]) + task.nominal(transfer)
            running = task.entry.copy if task.stream is Stream.COMPUTE else running
        entries.append(task.entry)
        for user in task.users:
            if id(user) in inside:
                user.ready = max(user.ready, end)
                user.missing -= 1
                if not user.missing:
                    (untimed if user.stream is None else timed).append(user)
    return entries


RING = 1000
"""The nominal length of a ring: what it sends first is made before all else."""
