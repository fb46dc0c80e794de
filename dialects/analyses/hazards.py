"""Which earlier commands a command must wait for, derived from the buffers that both use.

Engines take their commands in order but run independently.  Two commands on different engines conflict when both use
bytes of LMEM that one of them writes; the later one must wait for the earlier.  The wait is stated as a *lag*: how many
commands of the other engine may still be unfinished, counted back from the waiting command in program order.  For
commands Y before X with c commands of Y's engine in between, any lag <= c makes X wait for Y; the largest such lag lets
the engines run furthest ahead.  In a loop nest c depends on the iteration, so the lag is the smallest c of any pair of
runs of Y and X that use the same bytes:

    in one run of all loops around both     Y ... X                    (when Y stands before X)
    d runs of the innermost such loop apart  Y ... | (d-1) bodies | ... X

where d is the number of slots of the buffer when that loop rotates it, and 1 when every run uses the same bytes.  A
command may also use the slot of the iteration before: then d is counted between the runs that use one slot.
Runs further apart, or in different runs of an outer loop, have at least as many commands in between.  Loops that lie in
between count with their smallest trip count.  A loop that runs at most once is not left and entered again without a
turn of the loop around it: two of its runs are as far apart as two of that.

A late command waits where it stands in its own iteration, and is given to its engine one iteration later: commands that
wait for it find one body less in between, and none may need it sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard


@dataclass(frozen=True, eq=False)
class Buffer:
    """Bytes `start` to `stop` of LMEM, all slots together."""

    start: int
    stop: int
    slots: int
    depth: int
    """How many loops are around its allocation; the innermost of them rotates the slots."""


@dataclass(eq=False)
class Command:
    """A command template and the buffers it uses (an update is in both)."""

    engine: str
    reads: Sequence[Buffer]
    writes: Sequence[Buffer]
    late: bool = False
    """Whether it is given to its engine one iteration of the loop around it after its own."""
    behind: Sequence[Buffer] = ()
    """The buffers of which it uses the slot of the iteration before."""


@dataclass(eq=False)
class Barrier:
    """All commands before it have finished when those after it start; only one outside of loops is made use of."""


@dataclass(eq=False)
class Loop:
    """A loop whose body runs at least `trips` times."""

    trips: int
    body: list[Command | Loop | Barrier] = field(default_factory=list["Command | Loop | Barrier"])
    once: bool = False
    """Whether it runs at most once in an iteration of the loop around it."""


Item = Command | Loop | Barrier
Counts = dict[str, int]


@dataclass(eq=False)
class _Block:
    """One body: commands per engine before each of its items; the last entry is for the whole body."""

    prefix: list[Counts]
    once: bool = False
    """Whether it is the body of a loop that runs at most once."""

    def before(self, index: int, engine: str) -> int:
        return self.prefix[index].get(engine, 0)

    def after(self, index: int, engine: str) -> int:
        return self.prefix[-1].get(engine, 0) - self.prefix[index + 1].get(engine, 0)


@dataclass(eq=False)
class _Place:
    """A command with its position in every body around it, outermost first."""

    command: Command
    blocks: tuple[_Block, ...]
    indices: tuple[int, ...]

    def before(self, level: int, engine: str) -> int:
        """Commands from the start of the body at `level` to this one, inner loops entered at once."""
        return sum(b.before(i, engine) for b, i in zip(self.blocks[level:], self.indices[level:], strict=True))

    def after(self, level: int, engine: str) -> int:
        """Commands from this one to the end of the body at `level`, inner loops left at once."""
        return sum(b.after(i, engine) for b, i in zip(self.blocks[level:], self.indices[level:], strict=True))


def lags(body: Sequence[Item]) -> dict[Command, dict[str, int]]:
    """For every command in `body` the lag per engine that it must wait for, in the order of the text."""
    result: dict[Command, dict[str, int]] = {}
    start = 0
    for index, item in enumerate([*body, Barrier()]):
        if isinstance(item, Barrier):
            result.update(_lags_between_barriers(body[start:index]))
            start = index + 1
    return result


def _lags_between_barriers(body: Sequence[Item]) -> dict[Command, dict[str, int]]:
    places: list[_Place] = []
    _collect(body, (), (), places)
    users: dict[Buffer, list[tuple[_Place, bool]]] = {}
    for place in places:
        for buffer in dict.fromkeys((*place.command.reads, *place.command.writes)):
            users.setdefault(buffer, []).append((place, buffer in place.command.writes))
    result: dict[Command, dict[str, int]] = {place.command: {} for place in places}
    buffers = sorted(users, key=lambda b: b.start)
    for number, buffer in enumerate(buffers):
        _conflicts(users[buffer], users[buffer], buffer, result)
        for other in buffers[number + 1 :]:
            if other.start >= buffer.stop:
                break
            _conflicts(users[buffer], users[other], None, result)
            _conflicts(users[other], users[buffer], None, result)
    return result


def _collect(
    body: Sequence[Item], blocks: tuple[_Block, ...], indices: tuple[int, ...], places: list[_Place], once: bool = False
) -> Counts:
    """Place all commands of `body`; the commands per engine of one run of it."""
    block = _Block([{}], once)
    for index, item in enumerate(body):
        inside = (*blocks, block), (*indices, index)
        counts: Counts
        if isinstance(item, Loop):
            counts, times = _collect(item.body, *inside, places, item.once), item.trips
        elif isinstance(item, Barrier):
            counts, times = {}, 1
        else:
            places.append(_Place(item, *inside))
            # A late command may not have been given yet.
            counts, times = {item.engine: int(not item.late)}, 1
        total = dict(block.prefix[-1])
        for engine, count in counts.items():
            total[engine] = total.get(engine, 0) + times * count
        block.prefix.append(total)
    return block.prefix[-1]


def _conflicts(
    earlier: Sequence[tuple[_Place, bool]],
    later: Sequence[tuple[_Place, bool]],
    buffer: Buffer | None,
    result: dict[Command, dict[str, int]],
) -> None:
    """Let all of `later` wait for all of `earlier`; `buffer` is the one they share, None for two that overlap."""
    for y, y_writes in earlier:
        engine = y.command.engine
        for x, x_writes in later:
            if x.command.engine == engine or not (x_writes or y_writes):
                continue
            lag = _smallest_lag(y, x, buffer)
            if lag is not None:
                waits = result[x.command]
                waits[engine] = min(lag, waits.get(engine, lag))


def _smallest_lag(y: _Place, x: _Place, buffer: Buffer | None) -> int | None:
    """The fewest commands of y's engine between two runs of y and x that use the same bytes; None if there are none."""
    engine = y.command.engine
    level = next(i for i, (a, b) in enumerate(zip(y.indices, x.indices, strict=False)) if a != b)
    apart = _iterations_apart(y, x, buffer, level)
    if y.indices[level] < x.indices[level] and apart == 0:
        assert not _is_late(y, level), "nothing may use the buffer of a late command after it in the same iteration"
        block = y.blocks[level]
        between = block.before(x.indices[level], engine) - block.before(y.indices[level] + 1, engine)
        return between + y.after(level + 1, engine) + x.before(level + 1, engine)
    while level > 0 and y.blocks[level].once:
        level -= 1
    if level == 0:
        return None
    distance = _iterations_apart(y, x, buffer, level) or (buffer.slots if _rotates(buffer, level) else 1)
    distance -= _is_late(y, level)
    assert distance > 0, "the buffer of a late command has a slot to keep its bytes in"
    whole_bodies = (distance - 1) * y.blocks[level].prefix[-1].get(engine, 0)
    return y.after(level, engine) + whole_bodies + x.before(level, engine)


def _is_late(y: _Place, level: int) -> bool:
    """Whether y may not have been given yet: when its loop has ended, a late command is one like any other."""
    return y.command.late and level == len(y.indices) - 1


def _rotates(buffer: Buffer | None, level: int) -> TypeGuard[Buffer]:
    return buffer is not None and buffer.depth == level


def _iterations_apart(y: _Place, x: _Place, buffer: Buffer | None, level: int) -> int:
    """How many iterations after a run of y, fewer than the slots, x uses the slot that y has used."""
    if not _rotates(buffer, level):
        return 0
    return ((buffer in x.command.behind) - (buffer in y.command.behind)) % buffer.slots
