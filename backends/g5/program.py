"""The commands of a program in arrays: what the simulator needs to know of each before it runs any.

A row is a command with all that its time depends on.  A core runs segments: some rows, one after the other, so many
times.  Without loops that repeat exactly, every command of every core is a row, and every core runs one segment once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pmc.backends.g5 import dma, dram, lmem, noc, tiu, vec
from pmc.dialects.analyses.expand import FREE, Runs, expand
from pmc.dialects.analyses.resources import bytes_of
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import product
from pmc.dialects.g5 import (
    ENGINES,
    BarrierOp,
    CommandOp,
    FetchOp,
    GatherOp,
    GatherRowsOp,
    GdmaOp,
    LoopOp,
    ProgramOp,
    QueueOp,
    TiuOp,
    VectorCommandOp,
)
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import element_bits
from pmc.dialects.tile import CORE, is_running_count

NONE = -1

BARRIER = len(ENGINES)
"""What a barrier has in place of the number of an engine."""


@dataclass(frozen=True)
class Segments:
    """What the cores run: `repeats` times the `rows` rows from `first` on; segments are ordered by core."""

    start: IntArray
    """[cores + 1]: the first segment of each core."""
    first: IntArray
    rows: IntArray
    repeats: IntArray


@dataclass(frozen=True)
class Commands:
    """All commands of one run of a program on all its cores; entry i of every array is row i, times are picoseconds."""

    cores: int
    segments: Segments
    ops: list[CommandOp]
    op: IntArray
    """Which of `ops` the command is a run of; NONE for a barrier."""
    core: IntArray
    engine: IntArray
    """Number of its engine in `ENGINES`, or BARRIER."""
    lags: IntArray
    """[rows, engines]: how many of the commands given before to each engine may be unfinished when it starts; FREE
    where it does not wait for the engine."""
    fixed_ps: IntArray
    """How long it takes where that is known beforehand; of a DMA command the time to its first byte."""
    transfer_ps: IntArray
    """What its engine needs from the first byte to the last; 0 for a command that is no DMA."""
    port_ps: IntArray
    """What the port of LMEM needs for it."""
    die_ps: IntArray
    """What the link between the dies needs for it; 0 for a command that does not pass it."""
    shares: IntArray
    """[distinct, channels]: bytes in every channel of DRAM."""
    share: IntArray
    """Which of `shares`; NONE for a command that leaves DRAM alone."""
    source: IntArray
    """The core whose LMEM is read by a fetch; NONE for any other command."""
    group: IntArray
    """The cores that one read of DRAM serves together; NONE where it serves one core."""
    group_sizes: IntArray
    group_owners: IntArray
    """The lowest core of each group."""

    @property
    def count(self) -> int:
        """All runs of all commands, barriers left out."""
        found = 0
        commands = np.concatenate([[0], np.cumsum(self.engine != BARRIER)])
        for first, rows, repeats in zip(self.segments.first, self.segments.rows, self.segments.repeats, strict=True):
            found += int(commands[first + rows] - commands[first]) * int(repeats)
        return found


def lower(program: ProgramOp, chip: Chip, symbols: Mapping[str, int]) -> Commands:
    """All commands of `program` on the modelled chip; `symbols` are those around it (the layer number).

    Raises PmcError for a program whose loops were unrolled into tables.
    """
    if any(isinstance(op, QueueOp) for op in program.body.block.ops):
        raise PmcError(
            f"g5.program at '{program.path.data}' was unrolled into tables of one core; "
            "simulate the module before unroll-commands"
        )
    cores = program.cores.value.data
    runs = expand(program, range(cores), symbols)
    parts = [_Part.of(run, chip) for run in runs]
    barriers = _barriers(program, symbols)
    order, core = _order(runs, cores, barriers)
    groups, sizes, owners = _groups(runs, cores)
    distinct, share = dram.shares(_joined([part.block for part in parts], (0, dram.BLOCK)), chip.commands.dram_channels)

    def column(values: list[IntArray], of_a_barrier: int) -> IntArray:
        return np.asarray(np.append(_joined(values), of_a_barrier)[order])

    lags = np.concatenate([_joined([run.lags for run in runs], (0, len(ENGINES))), np.full((1, len(ENGINES)), FREE)])
    start = np.arange(cores + 1)
    bounds = np.searchsorted(core, start)
    return Commands(
        cores,
        Segments(start, bounds[:-1], np.diff(bounds), np.ones(cores, np.int64)),
        [run.op for run in runs],
        column([np.full(run.count, number) for number, run in enumerate(runs)], NONE),
        core,
        column([np.full(run.count, ENGINES.index(run.op.ENGINE)) for run in runs], BARRIER),
        lags[order],
        column([part.fixed_ps for part in parts], 0),
        column([part.transfer_ps for part in parts], 0),
        column([part.port_ps for part in parts], 0),
        column([part.die_ps for part in parts], 0),
        distinct,
        np.append(share, NONE)[order],
        column([part.source for part in parts], NONE),
        np.append(groups, NONE)[order],
        sizes,
        owners,
    )


def _order(runs: list[Runs], cores: int, barriers: int) -> tuple[IntArray, IntArray]:
    """The runs of all commands and -1 for each barrier, ordered by core and as the program gives them; their cores."""
    core, order = _joined([run.core for run in runs]), _joined([run.order for run in runs])
    sorted_ = np.lexsort((order, core))
    core, phase = core[sorted_], _joined([run.phase for run in runs])[sorted_]
    number = np.arange(cores * barriers)
    behind = np.searchsorted(
        core * (barriers + 1) + phase, number // max(barriers, 1) * (barriers + 1) + number % max(barriers, 1), "right"
    )
    return np.insert(sorted_, behind, -1), np.insert(core, behind, number // max(barriers, 1))


def _joined(arrays: list[IntArray], empty: tuple[int, ...] = (0,)) -> IntArray:
    return np.concatenate(arrays) if arrays else np.zeros(empty, np.int64)


def _barriers(program: ProgramOp, symbols: Mapping[str, int]) -> int:
    """Every core comes to the same barriers, so those of core 0 count."""

    def inside(body: ProgramOp | LoopOp) -> int:
        count = 0
        for op in body.body.block.ops:
            if isinstance(op, BarrierOp):
                count += 1
            elif isinstance(op, LoopOp) and any(isinstance(inner, BarrierOp) for inner in op.walk()):
                count += int(op.count.data.evaluate({**symbols, CORE: 0})) * inside(op)
        return count

    return inside(program)


@dataclass(frozen=True)
class _Part:
    """What is known of all runs of one command, see `Commands`."""

    fixed_ps: IntArray
    transfer_ps: IntArray
    port_ps: IntArray
    die_ps: IntArray
    block: IntArray
    """[runs, dram.BLOCK]: where in DRAM it reads or writes; zeros for a command that leaves DRAM alone."""
    source: IntArray

    @classmethod
    def of(cls, runs: Runs, chip: Chip) -> _Part:
        zero = np.zeros(runs.count, np.int64)
        none, no_block = zero + NONE, np.zeros((runs.count, dram.BLOCK), np.int64)
        commands = chip.commands
        match runs.op:
            case TiuOp() as op:
                return cls(tiu.durations_ps(op, runs, chip), zero, zero, zero, no_block, none)
            case VectorCommandOp() as op:
                return cls(vec.durations_ps(op, runs, chip), zero, zero, zero, no_block, none)
            case FetchOp() as op:
                size = bytes_of(runs.value(op.rows.data * op.columns.data), element_bits(op.target.element_type))
                source = runs.value(op.core.data)
                _check_cores(op, source, chip)
                first = dma.startup_ps(commands.sdma) + noc.way_ps(chip, source, runs.core)
                passed = noc.die_link_ps(chip, source, runs.core, size)
                moved = dma.transfer_ps(commands.sdma, size)
                return cls(first, moved, lmem.port_ps(chip, size), passed, no_block, source)
            case GatherRowsOp() as op:
                (access,) = (access for access in op.accesses() if access.memory == "dram")
                bits = element_bits(access.element_type)
                size = bytes_of(runs.value(product(access.shape)), bits)
                first, block = dma.startup_ps(commands.sdma) + zero, no_block
                if not access.held:
                    # Where the rows lie is in the index: they are taken to be as far apart as rows are.
                    shape, strides = ([runs.value(size) for size in sizes] for sizes in (access.shape, access.strides))
                    block = dram.blocks(runs.value(access.address), shape, strides, bits)
                    first = first + dram.misses(block, runs.core, commands.dram_channels) * dram.page_miss_ps(chip.dram)
                return cls(first, dma.transfer_ps(commands.sdma, size), lmem.port_ps(chip, size), zero, block, none)
            case GdmaOp() | GatherOp() as op:
                (access,) = (access for access in op.accesses() if access.memory == "dram")
                bits = element_bits(access.element_type)
                size = bytes_of(runs.value(product(access.shape)), bits)
                shape, strides = ([runs.value(size) for size in sizes] for sizes in (access.shape, access.strides))
                block = dram.blocks(runs.value(access.address), shape, strides, bits)
                missed = dram.misses(block, runs.core, commands.dram_channels)
                first = dma.startup_ps(commands.gdma) + missed * dram.page_miss_ps(chip.dram)
                moved = dma.transfer_ps(commands.gdma, size)
                return cls(first, moved, lmem.port_ps(chip, size), zero, block, none)
            case _:
                raise PmcError(f"{runs.op.name} at '{runs.op.path.data}' has no timing on a core")


def _groups(runs: list[Runs], cores: int) -> tuple[IntArray, IntArray, IntArray]:
    """Of every run, in the order of `runs`, the cores that share its read; how many these are, and the lowest of them.

    Cores share a read of a load that serves them when they are in one iteration of the same loops.  The members of a
    group come to its reads in one order, so that a group needs one list of those who have come.
    """
    found: list[IntArray] = []
    known: dict[tuple[int, bytes], int] = {}
    sizes: list[int] = []
    owners: list[int] = []
    for number, run in enumerate(runs):
        if not isinstance(run.op, GdmaOp) or run.op.serves is None:
            found.append(np.full(run.count, NONE))
            continue
        loops: list[IntArray] = [
            np.broadcast_to(np.asarray(value), (run.count,))
            for name, value in run.symbols.items()
            if name != CORE and not is_running_count(name)
        ]
        leader = run.op.serves.leaders(cores)[run.core]
        keys = np.stack([leader, *loops])
        reads, read, members = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        read, served = read.reshape(-1), _served(leader, run.core)
        if all((members[reads[0] == first] == len(those)).all() for first, those in served.items()):
            instances, instance = list(served.values()), np.searchsorted(np.asarray(list(served)), leader)
        else:
            instances = np.split(run.core[np.argsort(read, kind="stable")], np.cumsum(members)[:-1])
            instance = read
        groups: list[int] = []
        for those in instances:
            key = number, those.tobytes()
            if key not in known:
                known[key] = len(sizes)
                sizes.append(len(those))
                owners.append(int(those.min()))
            groups.append(known[key])
        found.append(np.asarray(groups, np.int64)[instance])
    return _joined(found), np.asarray(sizes, np.int64), np.asarray(owners, np.int64)


def _served(leader: IntArray, core: IntArray) -> dict[int, IntArray]:
    """By their leader, in rising order, the cores that come to a load at all."""
    pairs = np.unique(np.stack([leader, core]), axis=1)
    return {int(first): pairs[1, pairs[0] == first] for first in np.unique(pairs[0])}


def _check_cores(op: FetchOp, source: IntArray, chip: Chip) -> None:
    wrong = source[(source < 0) | (source >= chip.cores)]
    if wrong.size:
        raise PmcError(
            f"g5.fetch at '{op.path.data}' reads the LMEM of core {wrong[0]}: chip {chip.name} has cores 0 to "
            f"{chip.cores - 1}"
        )
