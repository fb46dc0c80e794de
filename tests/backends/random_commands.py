"""Random programs of the simulator, as rows and segments: durations, waits, shared reads, fetches, loops and barriers.

Sizes are small and many are equal, so that commands meet at the same times and states repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from pmc.backends.g5.program import BARRIER, NONE, Commands, Segments
from pmc.dialects.arch import Chip
from pmc.dialects.g5 import ENGINES, FREE, CommandOp
from pmc.dialects.interfaces import IntArray

DMA = (ENGINES.index("gdma"), ENGINES.index("sdma"))


@dataclass
class _Row:
    core: int
    engine: int
    lags: list[int]
    fixed: int = 0
    transfer: int = 0
    port: int = 0
    die: int = 0
    share: int = NONE
    source: int = NONE
    group: int = NONE


def random_commands(random: Random, chip: Chip, op: CommandOp) -> Commands:
    """A program of one to six cores; waits name commands given before, so that it always comes to its end."""
    return _Maker(random, chip).make(op)


class _Maker:
    def __init__(self, random: Random, chip: Chip) -> None:
        self.random, self.chip = random, chip
        self.cores = random.choice((1, 1, 2, 3, 6))
        self.unit = random.choice((1, 7, 1000))
        """What durations are multiples of: equal times are common."""
        self.shares = self._shares()
        self.rows: list[_Row] = []
        self.segments: list[list[tuple[int, int, int]]] = [[] for _ in range(self.cores)]
        self.groups: list[tuple[int, int]] = []

    def make(self, op: CommandOp) -> Commands:
        random = self.random
        for _ in range(random.randint(1, 3)):
            same = random.random() < 0.5
            engines = random.sample(range(len(ENGINES)), random.randint(1, 3))
            count, repeats = random.randint(1, 5), random.choice((1, 2, 3, 10, 40, 150))
            body = [random.choice(engines) for _ in range(count)]
            shared = [self._group() if same and engine in DMA and random.random() < 0.3 else NONE for engine in body]
            alike = random.random() < 0.5
            template = [self._row(0, engine) for engine in body]
            for core in range(self.cores):
                first = len(self.rows)
                for engine, row, group in zip(body, template, shared, strict=True):
                    own = row if alike else self._row(core, engine)
                    self.rows.append(replace(own, core=core, group=group))
                if not same:
                    more = random.choice((0, 0, 1, 30))
                    self.rows += [self._row(core, random.choice(engines)) for _ in range(random.randint(0, 2))]
                    self.segments[core].append((first, len(self.rows) - first, repeats + more))
                else:
                    self.segments[core].append((first, count, repeats))
            if random.random() < 0.5:
                for core in range(self.cores):
                    self.segments[core].append((len(self.rows), 1, 1))
                    self.rows.append(_Row(core, BARRIER, [FREE] * len(ENGINES)))
        return self._commands(op)

    def _duration(self) -> int:
        return self.unit * self.random.choice((1, 1, 2, 3, 5, 8, 20))

    def _row(self, core: int, engine: int) -> _Row:
        random = self.random
        lags = [random.choice((0, 0, 1, 2, 5)) if random.random() < 0.4 else FREE for _ in ENGINES]
        row = _Row(core, engine, lags, fixed=self._duration())
        if engine in DMA:
            row.transfer, row.port = self._duration(), random.choice((0, self._duration()))
            if engine == ENGINES.index("gdma"):
                row.share = random.randrange(len(self.shares))
            else:
                row.source = random.randrange(self.chip.cores)
                row.die = random.choice((0, self._duration()))
        return row

    def _group(self) -> int:
        self.groups.append((self.cores, 0))
        return len(self.groups) - 1

    def _shares(self) -> IntArray:
        """Bytes by channel; most channels have nothing."""
        count = self.chip.commands.dram_channels.count
        found = np.zeros((self.random.randint(1, 4), count), np.int64)
        per_unit = self.chip.dram_bytes_per_s / count * 1e-12 * self.unit
        for row in found:
            for channel in self.random.sample(range(count), self.random.randint(1, 2)):
                row[channel] = int(per_unit * self.random.choice((1, 2, 4))) + 1
        return found

    def _commands(self, op: CommandOp) -> Commands:
        def column(value: Callable[[_Row], int]) -> IntArray:
            return np.asarray([value(row) for row in self.rows], np.int64)

        flat = [segment for core in self.segments for segment in core]
        starts = np.cumsum([0, *(len(core) for core in self.segments)])
        segments = Segments(starts, *(np.asarray(column, np.int64) for column in zip(*flat, strict=True)))
        return Commands(
            self.cores,
            segments,
            [op],
            column(lambda row: NONE if row.engine == BARRIER else 0),
            column(lambda row: row.core),
            column(lambda row: row.engine),
            np.asarray([row.lags for row in self.rows], np.int64),
            column(lambda row: row.fixed),
            column(lambda row: row.transfer),
            column(lambda row: row.port),
            column(lambda row: row.die),
            self.shares,
            column(lambda row: row.share),
            column(lambda row: row.source),
            column(lambda row: row.group),
            np.asarray([size for size, _ in self.groups], np.int64),
            np.asarray([owner for _, owner in self.groups], np.int64),
        )
