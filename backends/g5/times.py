"""What became of the commands of a program: start, end and the reasons of both, with repetitions that were left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pmc.backends.g5.program import NONE, Commands
from pmc.dialects.g5 import ENGINES, CommandOp
from pmc.dialects.interfaces import IntArray

PROGRAM, ENGINE, WAIT, ISSUE, BARRIER, SHARED = range(6)
"""Why a command starts when it does: the start of the program, the command before it on its engine, one that it waits
for, a full queue, a barrier, the other cores that its load serves."""

REASONS = ("start", "engine", "wait", "queue", "barrier", "shared load")

OWN, DRAM, LMEM, DIES = range(4)
"""What a command ends with: its own engine, a channel of DRAM, the port of LMEM, the link between the dies."""

LIMITS = ("engine", "dram", "lmem port", "die to die")


@dataclass(frozen=True)
class Jump:
    """A stretch of commands that happened once in the simulation and `times` times more in the program.

    Of core c these are the commands `until[c] - length[c]` to `until[c]`, counted from 0 among its simulated commands.
    """

    times: int
    period_ps: int
    until: IntArray
    length: IntArray


@dataclass(frozen=True)
class ProgramTimes:
    """Every simulated command, ordered by core and then as given; picoseconds from the start of the program.

    Where repetitions were left out, times behind them are those of a program without them.
    """

    commands: Commands
    core: IntArray
    row: IntArray
    """Which row of `commands` it is a run of."""
    start_ps: IntArray
    end_ps: IntArray
    reason: IntArray
    """Index in `REASONS`."""
    cause: IntArray
    """The command whose end let it start; NONE for the start of the program."""
    limit: IntArray
    """Index in `LIMITS`."""
    last_ps: int
    """When the last barrier was passed and the last command had finished."""
    jumps: tuple[Jump, ...] = ()

    @property
    def duration_ps(self) -> int:
        """Until the last barrier has been passed and the last command has finished."""
        return self.last_ps + sum(jump.times * jump.period_ps for jump in self.jumps)

    def op(self, index: int) -> CommandOp:
        """The op that a command is a run of."""
        return self.commands.ops[int(self.commands.op[self.row[index]])]

    @cached_property
    def engine(self) -> IntArray:
        """Number of the engine of each command in `ENGINES`."""
        return self.commands.engine[self.row]

    @cached_property
    def runs(self) -> IntArray:
        """How many commands of the program each simulated one stands for."""
        runs, ordinal = np.ones(len(self.core), np.int64), self.ordinal
        for jump in self.jumps:
            until, length = jump.until[self.core], jump.length[self.core]
            runs += jump.times * ((ordinal < until) & (ordinal >= until - length))
        return runs

    @cached_property
    def first(self) -> IntArray:
        """The first command of each core."""
        return np.searchsorted(self.core, np.arange(self.commands.cores + 1))

    @cached_property
    def ordinal(self) -> IntArray:
        """The number of each command on its core, from 0."""
        return np.arange(len(self.core)) - self.first[self.core]

    @property
    def count(self) -> int:
        """Commands of the program on all cores."""
        return int(self.runs.sum())

    def busy_ps(self) -> dict[str, int]:
        """Of every engine how long it is busy on the core on which it is busy longest."""
        length, found = (self.end_ps - self.start_ps) * self.runs, dict[str, int]()
        for number, engine in enumerate(ENGINES):
            own = self.engine == number
            if own.any():
                sums = np.zeros(self.commands.cores, np.int64)
                np.add.at(sums, self.core[own], length[own])
                found[engine] = int(sums.max())
        return found

    def unrolled(self) -> ProgramTimes:
        """The same with every command of the program: what a simulation that leaves nothing out gives."""
        if not self.jumps:
            return self
        pieces = [self._unrolled_core(core) for core in range(self.commands.cores)]
        index = np.concatenate([index for index, _ in pieces])
        made = np.concatenate([made for _, made in pieces])
        first = np.cumsum([0, *(len(index) for index, _ in pieces)])
        shift = made @ np.asarray([jump.period_ps for jump in self.jumps])
        reason, cause = self.reason[index], self.cause[index]
        cause_core = self.core[cause]
        ordinal = self.ordinal[cause]
        for number, jump in enumerate(self.jumps):
            until, length = jump.until[cause_core], jump.length[cause_core]
            # Before a barrier the last repetition counts, for any other cause the one that is as far away.
            behind = jump.times * (self.ordinal[cause] >= until - length)
            ordinal = ordinal + length * np.where(reason == BARRIER, behind, made[:, number])
        return ProgramTimes(
            self.commands,
            self.core[index],
            self.row[index],
            self.start_ps[index] + shift,
            self.end_ps[index] + shift,
            reason,
            np.where(cause == NONE, NONE, first[cause_core] + ordinal),
            self.limit[index],
            self.duration_ps,
        )

    def _unrolled_core(self, core: int) -> tuple[IntArray, IntArray]:
        """Of all commands of a core in the program which simulated one each is like, and [commands, jumps] how many
        repetitions of each jump lie between them."""
        begin, position = int(self.first[core]), 0
        index: list[IntArray] = []
        made: list[IntArray] = []

        def add(ordinals: IntArray, number: int, repetition: IntArray | int) -> None:
            index.append(begin + ordinals)
            times = np.zeros((len(ordinals), len(self.jumps)), np.int64)
            times[:, :number] = [jump.times for jump in self.jumps[:number]]
            if number < len(self.jumps):
                times[:, number] = repetition
            made.append(times)

        for number, jump in enumerate(self.jumps):
            until, length = int(jump.until[core]), int(jump.length[core])
            add(np.arange(position, until), number, 0)
            again = np.tile(np.arange(until - length, until), jump.times)
            add(again, number, np.repeat(np.arange(1, jump.times + 1), length))
            position = until
        add(np.arange(position, int(self.first[core + 1]) - begin), len(self.jumps), 0)
        return np.concatenate(index), np.concatenate(made)
