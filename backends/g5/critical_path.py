"""What decides how long a program takes: back from its last command to its start.

Each stretch of time belongs to the command that the next one waited for.  A command is charged from its start to its
end, or to the start of the one that went on from there, with what decided when it ended.  What is left between
commands, barriers and the giving of commands, is charged to barriers.  Of the data, what comes in before any core
computes fills the pipeline, and what goes out when all have computed drains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.g5.program import NONE
from pmc.backends.g5.times import BARRIER, LIMITS, OWN, ProgramTimes
from pmc.dialects.g5 import ENGINES
from pmc.dialects.interfaces import IntArray

BARRIERS = "barrier"
"""The activity that stands for barriers and the giving of commands."""


_COMPUTING = ("tiu", "vec", "hau")


@dataclass(frozen=True)
class _Place:
    """A command of the program: a simulated one, and how many repetitions of each jump lie between them."""

    command: int
    made: tuple[int, ...]


def critical_ps(times: ProgramTimes) -> dict[str, int]:
    """Picoseconds by engine, memory and link; adds up to the duration of the program."""
    if not len(times.end_ps):
        return {BARRIERS: times.duration_ps} if times.duration_ps else {}
    return _Walk(times).run()


def fill_and_drain_ps(times: ProgramTimes) -> tuple[int, int]:
    """Picoseconds of the critical path in which data move before any core computes, and after all have computed.

    0 for a program that computes nothing.
    """
    computing = np.isin(times.engine, [ENGINES.index(name) for name in _COMPUTING])
    if not computing.any():
        return 0, 0
    walk = _Walk(times, int(times.start_ps[computing].min()), int(_ends_ps(times)[0][computing].max()))
    walk.run()
    return walk.fill_ps, walk.drain_ps


def _ends_ps(times: ProgramTimes) -> tuple[IntArray, IntArray]:
    """When the last run of every simulated command ends, and how many repetitions of each jump lie before it."""
    ends = times.end_ps.copy()
    made = np.zeros((len(ends), len(times.jumps)), np.int64)
    for number, jump in enumerate(times.jumps):
        inside = times.ordinal >= (jump.until - jump.length)[times.core]
        made[:, number] = jump.times * inside
        ends += made[:, number] * jump.period_ps
    return ends, made


class _Walk:
    def __init__(self, times: ProgramTimes, first_ps: int = 0, last_ps: int = 0) -> None:
        """`first_ps` and `last_ps` are when the first computation begins and the last one ends, to know the edges."""
        self.times = times
        self.charged: dict[str, int] = {}
        self.first_ps, self.last_ps = first_ps, last_ps
        self.fill_ps = self.drain_ps = 0
        self.until = times.duration_ps
        self.seen: dict[tuple[int, int], tuple[int, int, dict[str, int]]] = {}
        """By jump and command at which repetition the walk came there, how far it was, and what had been charged."""

    def run(self) -> dict[str, int]:
        place: _Place | None = self._last()
        while place is not None:
            place = self._step(self._repeated(place))
        self._charge(BARRIERS, self.until)
        return self.charged

    def _last(self) -> _Place:
        """The command that ends last; of several the first of the lowest core."""
        ends, made = _ends_ps(self.times)
        last = int(np.argmax(ends))
        return _Place(last, tuple(int(n) for n in made[last]))

    def _step(self, place: _Place) -> _Place | None:
        """Charge a command; what it waited for."""
        times, command = self.times, place.command
        shift = sum(n * jump.period_ps for n, jump in zip(place.made, times.jumps, strict=True))
        start, end = int(times.start_ps[command]) + shift, int(times.end_ps[command]) + shift
        self._charge(BARRIERS, max(0, self.until - end))
        limit = int(times.limit[command])
        self._charge(
            LIMITS[limit] if limit != OWN else ENGINES[int(times.engine[command])], min(self.until, end) - start
        )
        if ENGINES[int(times.engine[command])] not in _COMPUTING:
            self.fill_ps += max(0, min(self.until, end, self.first_ps) - start)
            self.drain_ps += max(0, min(self.until, end) - max(start, self.last_ps))
        self.until = min(self.until, start)
        cause = int(times.cause[command])
        if cause == NONE:
            return None
        core, ordinal = int(times.core[cause]), int(times.ordinal[cause])
        for number, jump in enumerate(times.jumps):
            length = int(jump.length[core])
            behind = times.ordinal[cause] >= int(jump.until[core]) - length
            made = jump.times * behind if times.reason[command] == BARRIER else place.made[number]
            ordinal += int(made) * length
        return self._place(core, ordinal)

    def _place(self, core: int, ordinal: int) -> _Place:
        """The command of the program that core gives as its `ordinal`."""
        jumps, made = self.times.jumps, list[int]()
        for jump in jumps:
            until, length = int(jump.until[core]), int(jump.length[core])
            if ordinal < until:
                break
            if ordinal < until + jump.times * length:
                made.append((ordinal - until) // length + 1)
                ordinal = until - length + (ordinal - until) % length
                break
            made.append(jump.times)
            ordinal -= jump.times * length
        made += [0] * (len(jumps) - len(made))
        return _Place(int(self.times.first[core]) + ordinal, tuple(made))

    def _repeated(self, place: _Place) -> _Place:
        """The place further back at which the walk is when it has gone round as it did before for as long as it can."""
        inside = [number for number, n in enumerate(place.made) if n]
        if not inside:
            return place
        number = inside[-1]
        jump, made = self.times.jumps[number], place.made[number]
        if made == jump.times and self.times.runs[place.command] == 1:
            return place  # behind the repetitions
        before = self.seen.get((number, place.command))
        self.seen[number, place.command] = made, self.until, dict(self.charged)
        if before is None or before[0] <= made:
            return place
        round_ = before[0] - made
        rounds = made // round_ - 3
        if rounds <= 0 or before[1] - self.until != round_ * jump.period_ps:
            return place
        for activity, ps in self.charged.copy().items():
            self.charged[activity] += rounds * (ps - before[2].get(activity, 0))
        self.until -= rounds * round_ * jump.period_ps
        counts = list(place.made)
        counts[number] -= rounds * round_
        return _Place(place.command, tuple(counts))

    def _charge(self, activity: str, ps: int) -> None:
        if ps > 0:
            self.charged[activity] = self.charged.get(activity, 0) + ps
