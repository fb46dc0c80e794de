"""One run of a program on the simulated chip: cores with their engines, and what they share.

A core gives its commands in program order, one per `issue.cycles_per_command`, to queues of `issue.queue_depth`
commands, one queue per engine.  An engine takes them in order, one at a time, each once the commands that it waits for
have finished.  Matrix and vector commands then take the time that they take.  A DMA command asks DRAM, the port of its
LMEM and the link between the dies for its bytes after its start-up, and ends with the slowest of these and its own
engine.  A load that serves several cores starts when all of them have come to it, and reads DRAM once.

Only DMA commands share anything, so only they are events.  All other times follow from the times before them: they are
known as soon as those are.  A command that becomes known through an event starts no earlier than that event, so events
come in the order of their times and first come is first served; at one time the lower core comes first.

This is the plain form of the machine, which runs every command: the oracle of `kernel.c`, which does the same faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pmc.backends.g5 import dram
from pmc.backends.g5.clock import of_cycles
from pmc.backends.g5.events import EventQueue
from pmc.backends.g5.program import BARRIER as BARRIER_ROW
from pmc.backends.g5.program import NONE, Commands
from pmc.backends.g5.times import BARRIER, DIES, ENGINE, ISSUE, LMEM, OWN, PROGRAM, SHARED, WAIT, ProgramTimes
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ENGINES
from pmc.dialects.interfaces import IntArray


@dataclass
class _Engine:
    """Where an engine of a core stands."""

    waiting: deque[tuple[int, list[int]]] = field(default_factory=deque[tuple[int, list[int]]])
    """Commands in its queue, each with how many commands every engine had been given before."""
    started: list[int] = field(default_factory=list[int])
    finished: list[int] = field(default_factory=list[int])
    """Commands in the order of their ids."""
    busy: bool = False
    """Whether the command that it took last has no end yet."""

    @property
    def given(self) -> int:
        return len(self.started) + len(self.waiting)


@dataclass
class _Core:
    """Where a core stands."""

    next: int
    stop: int
    front_ps: int = 0
    """When the core gave its last command."""
    front_cause: int = NONE
    front_reason: int = PROGRAM
    """What let it give that command."""
    at_barrier: bool = False
    engines: list[_Engine] = field(default_factory=lambda: [_Engine() for _ in ENGINES])


class Machine:
    """Runs the commands of one program, one after the other, whatever repeats."""

    def __init__(self, commands: Commands, chip: Chip) -> None:
        self.commands = commands
        issue, ghz = chip.commands.issue, chip.clocks.chip_ghz
        self.depth = issue.queue_depth
        self.period_ps = int(of_cycles(issue.cycles_per_command, ghz))
        self.barrier_ps = int(of_cycles(issue.barrier_cycles, ghz))
        self.cores_per_die = chip.cores // chip.dies
        self.channels = [0] * commands.shares.shape[1]
        self.ports, self.dies = [0] * chip.cores, [0] * chip.dies
        """When each channel, port and link is free again."""
        self.service: list[list[tuple[int, int]]] = [
            [(channel, ps) for channel, ps in enumerate(row) if ps]
            for row in dram.service_ps(commands.shares, chip).tolist()
        ]
        rows, bounds = _sequence(commands)
        self.row: list[int] = rows
        self.core_of = [core for core, (first, stop) in enumerate(pairwise(bounds)) for _ in range(first, stop)]
        self.engine: list[int] = commands.engine.tolist()
        self.lags: list[list[int]] = commands.lags.tolist()
        self.fixed: list[int] = commands.fixed_ps.tolist()
        self.moved: list[int] = commands.transfer_ps.tolist()
        self.port: list[int] = commands.port_ps.tolist()
        self.die: list[int] = commands.die_ps.tolist()
        self.share: list[int] = commands.share.tolist()
        self.source: list[int] = commands.source.tolist()
        self.group: list[int] = commands.group.tolist()
        self.is_dma = [engine in (ENGINES.index("gdma"), ENGINES.index("sdma")) for engine in self.engine]
        count = len(rows)
        self.start, self.end = [0] * count, [0] * count
        self.taken = [0] * count
        """When the engine took each command from its queue; a load that is shared may start later."""
        self.reason, self.cause, self.limit = [PROGRAM] * count, [NONE] * count, [OWN] * count
        self.cores = [_Core(first, stop) for first, stop in pairwise(bounds)]
        self.events: EventQueue[Sequence[int]] = EventQueue()
        """The commands that ask for their bytes: one, or those that one read of DRAM serves."""
        self.gathered: dict[int, list[int]] = {}
        """Of every load that serves several cores the commands that have come to it."""
        self.open = 0
        """Commands that were given and have not finished."""
        self.last_ps, self.last = 0, NONE

    def run(self) -> ProgramTimes:
        """Run to the end.  Raises PmcError where commands wait for what never happens."""
        for core in range(self.commands.cores):
            self._advance(core)
        self._barriers()
        while self.events:
            time_ps, members = self.events.next()
            self._transfer(members, time_ps)
            self._barriers()
        if self.open or any(core.next < core.stop for core in self.cores):
            raise PmcError(self._deadlock())
        kept = [index for index, row in enumerate(self.row) if self.engine[row] != BARRIER_ROW]
        place = np.full(len(self.row) + 1, NONE, np.int64)
        place[kept] = np.arange(len(kept))

        def column(values: list[int]) -> IntArray:
            return np.asarray(np.asarray(values, np.int64)[kept])

        start, end, reason, limit = (column(values) for values in (self.start, self.end, self.reason, self.limit))
        cause = place[column(self.cause)]
        cores, rows = column(self.core_of), column(self.row)
        return ProgramTimes(self.commands, cores, rows, start, end, reason, cause, limit, self.last_ps)

    def _advance(self, number: int) -> None:
        """Let a core do all that can be known by now."""
        core, progress = self.cores[number], True
        while progress:
            progress = self._issue(core)
            for engine in range(len(ENGINES)):
                while core.engines[engine].waiting and not core.engines[engine].busy and self._begin(core, engine):
                    progress = True

    def _issue(self, core: _Core) -> bool:
        """Give commands to their queues while these have room; whether any was given."""
        given = False
        while core.next < core.stop and not core.at_barrier:
            command = core.next
            number = self.engine[self.row[command]]
            if number == BARRIER_ROW:
                core.at_barrier = True
                break
            engine = core.engines[number]
            before = engine.given
            if before >= self.depth:
                if len(engine.started) <= before - self.depth:
                    break
                room = engine.started[before - self.depth]
                if self.taken[room] > core.front_ps:
                    core.front_ps, core.front_cause, core.front_reason = self.taken[room], room, ISSUE
            core.front_ps += self.period_ps
            self.start[command] = core.front_ps
            self.cause[command], self.reason[command] = core.front_cause, core.front_reason
            engine.waiting.append((command, [other.given for other in core.engines]))
            self.open += 1
            core.next += 1
            given = True
        return given

    def _begin(self, core: _Core, number: int) -> bool:
        """Start the first command of a queue if all that it waits for is known."""
        engine = core.engines[number]
        command, given = engine.waiting[0]
        waits: list[tuple[_Engine, int]] = []
        for other, before, lag in zip(core.engines, given, self.lags[self.row[command]], strict=True):
            if before > lag:
                if len(other.finished) < before - lag:
                    return False
                waits.append((other, before - lag))
        time_ps = self.start[command]
        if engine.finished and self.end[engine.finished[-1]] >= time_ps:
            time_ps = self.end[engine.finished[-1]]
            self.reason[command], self.cause[command] = ENGINE, engine.finished[-1]
        for other, wait in waits:
            awaited = other.finished[wait - 1]
            if self.end[awaited] > time_ps:
                time_ps = self.end[awaited]
                self.reason[command], self.cause[command] = WAIT, awaited
        engine.waiting.popleft()
        self.start[command] = self.taken[command] = time_ps
        engine.started.append(command)
        if self.is_dma[self.row[command]]:
            engine.busy = True
            self._request(command, number)
        else:
            self._finish(command, time_ps + self.fixed[self.row[command]])
        return True

    def _request(self, command: int, engine: int) -> None:
        """Let a DMA command ask for its bytes after its start-up, together with those that it shares them with."""
        commands, row = self.commands, self.row
        group = self.group[row[command]]
        members, first = [command], self.core_of[command]
        if group != NONE:
            members, first = self.gathered.setdefault(group, []), int(commands.group_owners[group])
            members.append(command)
            if len(members) < commands.group_sizes[group]:
                return
            del self.gathered[group]
            members.sort()
            latest = max(members, key=lambda member: (self.start[member], member))
            time_ps = self.start[latest]
            for member in members:
                if self.start[member] < time_ps:
                    self.start[member], self.reason[member], self.cause[member] = time_ps, SHARED, latest
        asks = max(self.start[member] + self.fixed[row[member]] for member in members)
        self.events.add(asks, first * len(ENGINES) + engine, members)

    def _transfer(self, members: Sequence[int], time_ps: int) -> None:
        """Serve the bytes of one command, or of a load that serves several cores."""
        share = self.share[self.row[members[0]]]
        served = 0
        for channel, ps in self.service[share] if share != NONE else ():
            served = max(served, _serve(self.channels, channel, time_ps, ps))
        for command in members:
            row, core = self.row[command], self.core_of[command]
            port_ps, die_ps, source = self.port[row], self.die[row], self.source[row]
            ends = [time_ps + self.moved[row], served, 0, 0]
            ends[LMEM] = _serve(self.ports, core, time_ps, port_ps)
            if source not in (NONE, core):
                ends[LMEM] = max(ends[LMEM], _serve(self.ports, source, time_ps, port_ps))
            if die_ps:
                ends[DIES] = _serve(self.dies, source // self.cores_per_die, time_ps, die_ps)
            self.limit[command] = ends.index(max(ends))
            self.cores[core].engines[self.engine[row]].busy = False
            self._finish(command, max(ends))
        for command in members:
            self._advance(self.core_of[command])

    def _finish(self, command: int, end_ps: int) -> None:
        self.end[command] = end_ps
        self.cores[self.core_of[command]].engines[self.engine[self.row[command]]].finished.append(command)
        if end_ps > self.last_ps or (end_ps == self.last_ps and command < self.last):
            self.last_ps, self.last = end_ps, command
        self.open -= 1

    def _barriers(self) -> None:
        """Pass the barriers before which nothing is left to do."""
        while not self.open and all(core.at_barrier for core in self.cores):
            self.last_ps += self.barrier_ps
            for core in self.cores:
                core.front_ps, core.front_cause, core.front_reason = self.last_ps, self.last, BARRIER
                core.at_barrier, core.next = False, core.next + 1
            for number in range(len(self.cores)):
                self._advance(number)

    def _deadlock(self) -> str:
        """Which commands wait for what, one per core, of the first few cores."""
        stuck: list[str] = []
        for number, core in enumerate(self.cores):
            heads = [self._waiting(core, e) for e, engine in enumerate(core.engines) if engine.waiting]
            heads += [self._serving(e, engine) for e, engine in enumerate(core.engines) if engine.busy]
            if heads:
                stuck.append(f"core {number}: {', '.join(heads)}")
        shown = "; ".join(stuck[:3]) + (f"; and {len(stuck) - 3} more cores" if len(stuck) > 3 else "")
        left = self.open + sum(core.stop - core.next for core in self.cores)
        path = self.commands.ops[0].path.data
        return f"the program at '{path}' stands still with {left} commands left: {shown}"

    def _waiting(self, core: _Core, number: int) -> str:
        """What the first command of a queue waits for; one behind a busy engine waits for that."""
        engine = core.engines[number]
        command, given = engine.waiting[0]
        name = f"{ENGINES[number]} {len(engine.started) + 1} ({self._path(command)})"
        for other, (before, lag) in enumerate(zip(given, self.lags[self.row[command]], strict=True)):
            if len(core.engines[other].finished) < before - lag:
                return f"{name} waits for {ENGINES[other]} {before - lag}"
        return f"{name} waits for {ENGINES[number]} {len(engine.started)}"

    def _serving(self, number: int, engine: _Engine) -> str:
        command = engine.started[-1]
        group = self.group[self.row[command]]
        come, all_ = len(self.gathered.get(group, ())), int(self.commands.group_sizes[group])
        name = f"{ENGINES[number]} {len(engine.started)} ({self._path(command)})"
        return f"{name} serves {all_} cores, of which {come} have come to it"

    def _path(self, command: int) -> str:
        return self.commands.ops[int(self.commands.op[self.row[command]])].path.data


def _serve(free: list[int], index: int, time_ps: int, service_ps: int) -> int:
    """Queue a transfer that arrives at `time_ps`; when its last byte has passed."""
    free[index] = max(free[index], time_ps) + service_ps
    return free[index]


def _sequence(commands: Commands) -> tuple[list[int], list[int]]:
    """The rows that all cores run, one core after the other, and where each core begins; one entry more than cores."""
    rows: list[int] = []
    bounds = [0]
    segments = commands.segments
    for core in range(commands.cores):
        for number in range(int(segments.start[core]), int(segments.start[core + 1])):
            first, count = int(segments.first[number]), int(segments.rows[number])
            rows += list(range(first, first + count)) * int(segments.repeats[number])
        bounds.append(len(rows))
    return rows, bounds
