"""One run of a program on the simulated chip: cores with their engines, and what they share.

A core gives its commands in program order, one per `issue.cycles_per_command`, to queues of `issue.queue_depth`
commands, one queue per engine.  An engine takes them in order, one at a time, each once the commands that it waits for
have finished.  Matrix and vector commands then take the time that they take.  A DMA command asks DRAM, the port of its
LMEM and the link between the dies for its bytes after its start-up, and ends with the slowest of these and its own
engine.  A load that serves several cores starts when all of them have come to it, and reads DRAM once.

Only DMA commands share anything, so only they are events.  All other times follow from the times before them: they are
known as soon as those are.  A command that becomes known through an event starts no earlier than that event, so events
come in the order of their times and first come is first served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from pmc.backends.g5.clock import of_cycles
from pmc.backends.g5.dram import Channels
from pmc.backends.g5.events import EventQueue
from pmc.backends.g5.lmem import Ports
from pmc.backends.g5.noc import DieLink, crosses_dies
from pmc.backends.g5.program import NONE, Commands
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ENGINES
from pmc.dialects.interfaces import IntArray

PROGRAM, ENGINE, WAIT, ISSUE, BARRIER, SHARED = range(6)
"""Why a command starts when it does: the start of the program, the command before it on its engine, one that it waits
for, a full queue, a barrier, the other cores that its load serves."""

REASONS = ("start", "engine", "wait", "queue", "barrier", "shared load")

OWN, DRAM, LMEM, DIES = range(4)
"""What a command ends with: its own engine, a channel of DRAM, the port of LMEM, the link between the dies."""

LIMITS = ("engine", "dram", "lmem port", "die to die")


@dataclass(frozen=True)
class ProgramTimes:
    """What became of every command, in the order of `Commands`; picoseconds from the start of the program."""

    commands: Commands
    start_ps: IntArray
    end_ps: IntArray
    reason: IntArray
    """Index in `REASONS`."""
    cause: IntArray
    """The command whose end let it start; NONE for the start of the program."""
    limit: IntArray
    """Index in `LIMITS`."""
    duration_ps: int
    """Until the last barrier has been passed and the last command has finished."""


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
    waiting: list[deque[int]] = field(default_factory=lambda: [deque() for _ in ENGINES])
    """Commands in the queue of each engine."""
    started: list[list[int]] = field(default_factory=lambda: [[] for _ in ENGINES])
    finished: list[list[int]] = field(default_factory=lambda: [[] for _ in ENGINES])
    """Commands of each engine in the order of their ids."""
    busy: list[bool] = field(default_factory=lambda: [False for _ in ENGINES])
    """Whether the command that the engine took last has no end yet."""


class Machine:
    """Runs the commands of one program."""

    def __init__(self, commands: Commands, chip: Chip) -> None:
        self.commands = commands
        issue, ghz = chip.commands.issue, chip.clocks.chip_ghz
        self.depth = issue.queue_depth
        self.period_ps = int(of_cycles(issue.cycles_per_command, ghz))
        self.barrier_ps = int(of_cycles(issue.barrier_cycles, ghz))
        self.channels, self.ports, self.dies = Channels(chip), Ports.of(chip), DieLink(chip)
        self.service = self.channels.service(commands.shares)
        self.used: list[Sequence[int]] = [np.flatnonzero(row).tolist() for row in commands.shares]
        self.engine: list[int] = commands.engine.tolist()
        self.phase: list[int] = commands.phase.tolist()
        self.fixed: list[int] = commands.fixed_ps.tolist()
        self.transfer: list[int] = commands.transfer_ps.tolist()
        self.is_dma = [engine in (ENGINES.index("gdma"), ENGINES.index("sdma")) for engine in self.engine]
        waits: list[list[int]] = commands.waits.tolist()
        self.waits = [[(engine, number) for engine, number in enumerate(row) if number] for row in waits]
        fetches = commands.source != NONE
        self.crosses = np.zeros(len(commands.op), np.int64)
        self.crosses[fetches] = crosses_dies(chip, commands.source[fetches], commands.core[fetches])
        count = len(self.engine)
        self.start, self.end = [0] * count, [0] * count
        self.reason, self.cause, self.limit = [PROGRAM] * count, [NONE] * count, [OWN] * count
        bounds = np.searchsorted(commands.core, np.arange(commands.cores + 1)).tolist()
        self.cores = [_Core(first, stop) for first, stop in pairwise(bounds)]
        self.events: EventQueue[Callable[[int], None]] = EventQueue()
        self.gathered: dict[int, list[int]] = {}
        """Of every load that serves several cores the commands that have come to it."""
        self.left: list[int] = np.bincount(commands.phase, minlength=commands.barriers + 1).tolist()
        """Unfinished commands before each barrier."""
        self.passed = 0
        self.last_ps, self.last = 0, NONE

    def run(self) -> ProgramTimes:
        """Run to the end.  Raises PmcError where commands wait for what never happens."""
        self._barriers()
        for core in range(self.commands.cores):
            self._advance(core)
        while self.events:
            time_ps, happen = self.events.next()
            happen(time_ps)
        if any(self.left):
            raise PmcError(self._deadlock())
        start, end, reason, cause, limit = (
            np.asarray(values, np.int64) for values in (self.start, self.end, self.reason, self.cause, self.limit)
        )
        return ProgramTimes(self.commands, start, end, reason, cause, limit, self.last_ps)

    def _advance(self, number: int) -> None:
        """Let a core do all that can be known by now."""
        core, progress = self.cores[number], True
        while progress:
            progress = self._issue(core)
            for engine, queue in enumerate(core.waiting):
                while queue and not core.busy[engine] and self._begin(core, engine, queue):
                    progress = True

    def _issue(self, core: _Core) -> bool:
        """Give commands to their queues while these have room; whether any was given."""
        given = False
        while core.next < core.stop and self.phase[core.next] == self.passed:
            command = core.next
            engine = self.engine[command]
            started, number = core.started[engine], len(core.started[engine]) + len(core.waiting[engine])
            if number >= self.depth:
                if len(started) <= number - self.depth:
                    break
                room = started[number - self.depth]
                if self.start[room] > core.front_ps:
                    core.front_ps, core.front_cause, core.front_reason = self.start[room], room, ISSUE
            core.front_ps += self.period_ps
            self.start[command] = core.front_ps
            self.cause[command], self.reason[command] = core.front_cause, core.front_reason
            core.waiting[engine].append(command)
            core.next += 1
            given = True
        return given

    def _begin(self, core: _Core, engine: int, queue: deque[int]) -> bool:
        """Start the first command of a queue if all that it waits for is known."""
        command = queue[0]
        for other, number in self.waits[command]:
            if len(core.finished[other]) < number:
                return False
        time_ps = self.start[command]
        before = core.finished[engine]
        if before and self.end[before[-1]] >= time_ps:
            time_ps = self.end[before[-1]]
            self.reason[command], self.cause[command] = ENGINE, before[-1]
        for other, number in self.waits[command]:
            awaited = core.finished[other][number - 1]
            if self.end[awaited] > time_ps:
                time_ps = self.end[awaited]
                self.reason[command], self.cause[command] = WAIT, awaited
        queue.popleft()
        self.start[command] = time_ps
        core.started[engine].append(command)
        if self.is_dma[command]:
            core.busy[engine] = True
            self._request(command, time_ps)
        else:
            self._finish(command, time_ps + self.fixed[command])
        return True

    def _request(self, command: int, time_ps: int) -> None:
        """Let a DMA command ask for its bytes after its start-up, together with those that it shares them with."""
        group = int(self.commands.group[command])
        members = [command] if group == NONE else self.gathered.setdefault(group, [])
        if group != NONE:
            members.append(command)
            if len(members) < self.commands.group_sizes[group]:
                return
            latest = max(members, key=lambda member: (self.start[member], member))
            time_ps = self.start[latest]
            for member in members:
                if self.start[member] < time_ps:
                    self.start[member], self.reason[member], self.cause[member] = time_ps, SHARED, latest
        asks = max(time_ps + self.fixed[member] for member in members)
        self.events.add(asks, int(self.commands.core[command]), partial(self._transfer, members))

    def _transfer(self, members: Sequence[int], time_ps: int) -> None:
        """Serve the bytes of one command, or of a load that serves several cores."""
        commands = self.commands
        share = int(commands.share[members[0]])
        served = 0 if share == NONE else self.channels.serve(time_ps, self.service[share], self.used[share])
        for command in members:
            core = int(commands.core[command])
            ends = [time_ps + self.transfer[command], served, 0, 0]
            ends[LMEM] = self.ports.serve(time_ps, int(commands.port_ps[command]), core)
            source = int(commands.source[command])
            if source != NONE and source != core:
                ends[LMEM] = max(ends[LMEM], self.ports.serve(time_ps, int(commands.port_ps[command]), source))
            if self.crosses[command]:
                ends[DIES] = self.dies.serve(time_ps, int(commands.size[command]), source)
            end_ps = max(ends)
            self.limit[command] = ends.index(end_ps)
            self.cores[core].busy[self.engine[command]] = False
            self._finish(command, end_ps)
        for command in members:
            self._advance(int(commands.core[command]))

    def _finish(self, command: int, end_ps: int) -> None:
        self.end[command] = end_ps
        self.cores[int(self.commands.core[command])].finished[self.engine[command]].append(command)
        if end_ps > self.last_ps:
            self.last_ps, self.last = end_ps, command
        self.left[self.phase[command]] -= 1
        if not self.left[self.passed]:
            self._barriers()

    def _barriers(self) -> None:
        """Pass the barriers before which nothing is left to do."""
        passed = self.passed
        while self.passed < self.commands.barriers and not self.left[self.passed]:
            self.passed += 1
            self.last_ps += self.barrier_ps
        if self.passed > passed:
            for number, core in enumerate(self.cores):
                core.front_ps, core.front_cause, core.front_reason = self.last_ps, self.last, BARRIER
                self.events.add(self.last_ps, number, partial(self._go_on, number))

    def _go_on(self, number: int, time_ps: int) -> None:
        """A core is past a barrier."""
        del time_ps
        self._advance(number)

    def _deadlock(self) -> str:
        """Which commands wait for what, one per core, of the first few cores."""
        stuck: list[str] = []
        for number, core in enumerate(self.cores):
            heads = [(engine, queue[0]) for engine, queue in enumerate(core.waiting) if queue]
            heads += [(e, core.started[e][-1]) for e in range(len(ENGINES)) if core.busy[e]]
            if heads:
                stuck.append(f"core {number}: " + ", ".join(self._stuck(core, *head) for head in heads))
        shown = "; ".join(stuck[:3]) + (f"; and {len(stuck) - 3} more cores" if len(stuck) > 3 else "")
        path = self.commands.ops[0].path.data
        return f"the program at '{path}' stands still with {sum(self.left)} commands left: {shown}"

    def _stuck(self, core: _Core, engine: int, command: int) -> str:
        op = self.commands.ops[int(self.commands.op[command])]
        number = len(core.finished[engine]) + 1
        for other, awaited in self.waits[command]:
            if len(core.finished[other]) < awaited:
                return f"{ENGINES[engine]} {number} ({op.path.data}) waits for {ENGINES[other]} {awaited}"
        group = int(self.commands.group[command])
        come, all_ = len(self.gathered.get(group, ())), int(self.commands.group_sizes[group])
        return f"{ENGINES[engine]} {number} ({op.path.data}) serves {all_} cores, of which {come} have come to it"
