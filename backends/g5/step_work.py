"""What the parts of a step ask of every core and of DRAM, and in which order they run.

Work is counted, as `program_resources` does it, once for a layer of a repeat and once for equal kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.backends.cost.model import Target
from pmc.backends.cost.network import transfer_of
from pmc.backends.g5.equal_programs import timing_key
from pmc.backends.g5.step_order import StepOrder, Stretch
from pmc.backends.g5.stream import stream_of
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.program_work import layer_symbols
from pmc.dialects.g5 import ChipCommandOp, ProgramOp, RepeatOp, SdmaOp, StageOp
from pmc.dialects.interfaces import IntArray

OpT = TypeVar("OpT", ProgramOp, ChipCommandOp)


@dataclass(frozen=True)
class PartWork:
    """One run of a kernel or of a movement of the chip; [cores] are all cores of the chip."""

    macs: IntArray
    """[cores] multiply-accumulates of the matrix unit."""
    vector_steps: IntArray
    """[cores] steps of vector and sort units, one per element."""
    gdma_bytes: IntArray
    """[cores] between DRAM interface and LMEM."""
    sdma_bytes: IntArray
    """[cores] that SDMA engines bring into LMEM; of a movement inside of DRAM an equal part of what is moved."""
    fetched_bytes: IntArray
    """[cores, cores] of these, what the second fetches from the first."""
    dram_bytes: int
    """Read from DRAM and written to it: a load that serves several cores counts once."""
    sent_bytes: int
    """To other chips."""

    @property
    def flops(self) -> IntArray:
        """[cores] two per multiply-accumulate, one per vector step."""
        return 2 * self.macs + self.vector_steps


@dataclass(frozen=True)
class StepWork:
    """A step of one rank."""

    order: StepOrder
    paths: tuple[str, ...]
    """[parts]"""
    parts: tuple[PartWork, ...]


def step_work(module: ModuleOp, stage: int | None) -> StepWork:
    """The work of a step, of its parts in the order of `simulate_parts`: those of one pipeline stage and of all ranks.

    Raises PmcError for a module above the commands level, or whose loops were unrolled into tables.
    """
    walk = _Walk(Target.of(module), stage, [], [], {}, {})
    items = walk.items(stream_of(module).body.block)
    return StepWork(StepOrder(_sized(1, items, len(walk.parts))), tuple(walk.paths), tuple(walk.parts))


_Items = list["int | tuple[int, _Items]"]
"""Numbers of parts, and repeats: how often, and what."""


def _sized(times: int, items: _Items, parts: int) -> Stretch:
    inside = [item if isinstance(item, int) else _sized(*item, parts) for item in items]
    return Stretch.of(times, inside, parts)


@dataclass(frozen=True)
class _Walk:
    target: Target
    stage: int | None
    paths: list[str]
    parts: list[PartWork]
    known: dict[Hashable, PartWork]
    numbers: dict[ProgramOp | ChipCommandOp, int]

    def items(self, block: Block, around: int | None = None) -> _Items:
        found: _Items = []
        for op in block.ops:
            match op:
                case ProgramOp():
                    found.append(self.add(op, self.program))
                case ChipCommandOp():
                    found.append(self.add(op, self.movement))
                case RepeatOp():
                    found += self.repeat(op, around)
                case StageOp() if op.index.value.data == self.stage:
                    found += self.items(op.body.block)
                case _:
                    pass
        return found

    def repeat(self, op: RepeatOp, around: int | None) -> _Items:
        """Its iterations, those that differ in the shares of repeats inside apart."""
        own = op.iterations(around)
        repeats = [other for other in op.body.block.ops if isinstance(other, RepeatOp)]
        inner = [counts for repeat in repeats if (counts := repeat.share_counts)]
        alike = [list(found) for _, found in groupby(own, lambda index: [counts[index] for counts in inner])]
        return [(len(found), self.items(op.body.block, found[0])) for found in alike]

    def add(self, op: OpT, work: Callable[[OpT], PartWork]) -> int:
        """The number of the part that an op is, wherever it runs."""
        if op not in self.numbers:
            self.numbers[op] = len(self.parts)
            self.paths.append(op.path.data)
            self.parts.append(work(op))
        return self.numbers[op]

    def program(self, op: ProgramOp) -> PartWork:
        chip = self.target.chip
        key = timing_key(op, chip, layer_symbols(op))
        found = self.known.get(key)
        if found is None:
            counted = program_resources(op, chip)
            more = chip.cores - op.cores.value.data
            macs, gdma, sdma = (
                np.pad(amount, (0, more)) for amount in (counted.core_macs, counted.gdma_bytes, counted.sdma_bytes)
            )
            steps = np.pad(sum(counted.vec_steps.values(), np.zeros(op.cores.value.data, np.int64)), (0, more))
            moved = counted.dram_read + counted.dram_written
            fetched = np.pad(counted.fetched_bytes, (0, more))
            found = self.known[key] = PartWork(macs, steps, gdma, sdma, fetched, moved, 0)
        return found

    def movement(self, op: ChipCommandOp) -> PartWork:
        cores = self.target.chip.cores
        work = op.work()
        moved = work.bytes_read.constant + work.bytes_written.constant
        sdma = _evenly(moved, cores) if isinstance(op, SdmaOp) else np.zeros(cores, np.int64)
        zero = np.zeros(cores, np.int64)
        return PartWork(zero, zero, zero, sdma, np.zeros((cores, cores), np.int64), moved, self.sent(op))

    def sent(self, op: ChipCommandOp) -> int:
        """As `movement_energy_pj` counts them."""
        transfer = transfer_of(op, self.target)
        exchange = op.exchange()
        if isinstance(op, SdmaOp) or transfer is None or transfer.ranks == 1 or not exchange.sends:
            return 0
        return int(exchange.link_bytes(transfer.ranks).constant)


def _evenly(amount: int, cores: int) -> IntArray:
    """[cores] whole bytes with this sum, as equal as can be."""
    return np.diff(np.arange(cores + 1) * amount // cores)
