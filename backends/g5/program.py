"""The commands of a program in arrays: what the simulator needs to know of each before it runs any.

A row is a command with all that its time depends on.  A core runs segments: some rows, one after the other, so many
times.  Without loops that repeat exactly, every command of every core is a row, and every core runs one segment once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pmc.backends.g5 import dma, dram, lmem, noc, tiu, vec
from pmc.backends.g5.addresses import check_addresses
from pmc.backends.g5.repetition import FIRST, Repetition, repetitions
from pmc.dialects.analyses.expand import Gap, Runs, expand_kept
from pmc.dialects.analyses.resources import bytes_of
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import product
from pmc.dialects.g5 import (
    ENGINES,
    FREE,
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


def lower(program: ProgramOp, chip: Chip, symbols: Mapping[str, int], *, loops: bool = True) -> Commands:
    """All commands of `program` on the modelled chip; `symbols` are those around it (the layer number).

    Iterations that repeat are rows once; without `loops` every command is a row of its own.
    Raises PmcError for a program whose loops were unrolled into tables, and for operands outside the memories.
    """
    if any(isinstance(op, QueueOp) for op in program.body.block.ops):
        raise PmcError(
            f"g5.program at '{program.path.data}' was unrolled into tables of one core; "
            "simulate the module before unroll-commands"
        )
    cores = program.cores.value.data
    runs, gaps = expand_kept(program, range(cores), symbols, repetitions(program, chip) if loops else {})
    for run in runs:
        check_addresses(run, chip)
    parts = [_Part.of(run, chip) for run in runs]
    barriers = _barriers(program, symbols)
    order, core = _order(runs, cores, barriers)
    groups, sizes, owners = _groups(runs, cores)
    distinct, share = dram.shares([part.block for part in parts], chip.commands.dram_channels)

    def column(values: list[IntArray], of_a_barrier: int) -> IntArray:
        return np.asarray(np.append(_joined(values), of_a_barrier)[order])

    lags = np.concatenate([_joined([run.lags for run in runs], (0, len(ENGINES))), np.full((1, len(ENGINES)), FREE)])
    return Commands(
        cores,
        _segments(gaps, np.searchsorted(core, np.arange(cores + 1))),
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


def _segments(gaps: list[Gap], bounds: IntArray) -> Segments:
    """The segments of cores whose rows lie between `bounds`: a stretch, then a period so many times, and so on.

    Of a loop with a gap the period before the gap is run for all that were left out and for the one behind the gap,
    which was only expanded because what follows it depends on it.
    """
    repeated: list[list[tuple[int, int, int, int]]] = [[] for _ in bounds[1:]]
    for gap in gaps:
        assert isinstance(gap.rule, Repetition)
        period = gap.rule.period
        at = gap.issued.sum(axis=2)
        cores: list[int] = gap.core.tolist()
        for run, core in enumerate(cores):
            begin, end, behind = (int(bounds[core] + at[run, FIRST + k * period]) for k in range(3))
            repeated[core].append((begin, end, behind, int(gap.left_out[run]) // period + 2))
    found: list[tuple[int, int, int]] = []
    start = [0]
    for core, stretches in enumerate(repeated):
        position = int(bounds[core])
        for begin, end, behind, times in sorted(stretches):
            found += [(position, begin - position, 1), (begin, end - begin, times)]
            position = behind
        found.append((position, int(bounds[core + 1]) - position, 1))
        start.append(len(found))
    first, rows, repeats = np.asarray(found, np.int64).T
    return Segments(np.asarray(start, np.int64), first, rows, repeats)


def _order(runs: list[Runs], cores: int, barriers: int) -> tuple[IntArray, IntArray]:
    """The runs of all commands and -1 for each barrier, ordered by core and as the program gives them; their cores."""
    core = _joined([run.core for run in runs])
    before = _joined([run.order for run in runs]) + _joined([run.phase for run in runs])
    sizes = np.bincount(core, minlength=cores) + barriers
    first = np.cumsum(sizes) - sizes
    order = np.full(int(sizes.sum()), -1)
    order[first[core] + before] = np.arange(len(core))
    return order, np.repeat(np.arange(cores), sizes)


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
    block: dram.Blocks
    """Where in DRAM it reads or writes; for a command that leaves DRAM alone, blocks of elements without bits."""
    source: IntArray

    @classmethod
    def of(cls, runs: Runs, chip: Chip) -> _Part:
        zero = np.zeros(runs.count, np.int64)
        none, no_block = zero + NONE, dram.Blocks(0, zero, [], [])
        commands = chip.commands
        match runs.op:
            case TiuOp() as op:
                return cls(tiu.durations_ps(op, runs, chip), zero, zero, zero, no_block, none)
            case VectorCommandOp() as op:
                return cls(vec.durations_ps(op, runs, chip), zero, zero, zero, no_block, none)
            case FetchOp() as op:
                size = bytes_of(runs.value(op.rows.data * op.columns.data), element_bits(op.target.element_type))
                source = runs.value(op.core.data)
                first = dma.startup_ps(commands.sdma) + noc.way_ps(chip, source, runs.core)
                passed = noc.die_link_ps(chip, source, runs.core, size)
                moved = dma.transfer_ps(commands.sdma, size)
                return cls(first, moved, lmem.port_ps(chip, size), passed, no_block, source)
            case GdmaOp() | GatherOp() | GatherRowsOp() as op:
                engine = commands.sdma if isinstance(op, GatherRowsOp) else commands.gdma
                (access,) = (access for access in op.accesses() if access.memory == "dram")
                bits = element_bits(access.element_type)
                size = bytes_of(runs.value(product(access.shape)), bits)
                first, moved = dma.startup_ps(engine) + zero, dma.transfer_ps(engine, size)
                port = lmem.port_ps(chip, size)
                if access.held:  # the rows come from the LMEM of the cores
                    return cls(first, moved, port, zero, no_block, none)
                # Rows that an index picks are taken to lie one behind the other.
                shape, strides = ([runs.value(size) for size in sizes] for sizes in (access.shape, access.strides))
                block = dram.Blocks(bits, runs.value(access.address), shape, strides)
                missed = dram.misses(block, runs.core, commands.dram_channels)
                first = first + missed * dram.page_miss_ps(chip.dram)
                return cls(first, moved, port, zero, block, none)
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
        leader = run.op.serves.leaders(cores)
        served = _served(leader, run.core)
        if _in_step(served, run.core, loops):
            instances, instance = list(served.values()), np.searchsorted(np.asarray(list(served)), leader[run.core])
        else:
            keys = np.stack([leader[run.core], *loops])
            _, read, members = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
            instance = read.reshape(-1)
            instances = np.split(run.core[np.argsort(instance, kind="stable")], np.cumsum(members)[:-1])
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
    cores = np.flatnonzero(np.bincount(core, minlength=1))
    return {int(first): cores[leader[cores] == first] for first in np.unique(leader[cores])}


def _in_step(served: Mapping[int, IntArray], core: IntArray, loops: list[IntArray]) -> bool:
    """Whether cores that share reads all come to them in the same iterations; runs are ordered by core."""
    for cores in served.values():
        begin, end = np.searchsorted(core, cores), np.searchsorted(core, cores, "right")
        if (end - begin != end[0] - begin[0]).any():
            return False
        runs: IntArray = begin[:, None] + np.arange(int(end[0] - begin[0]))
        if any((symbol[runs] != symbol[runs[0]]).any() for symbol in loops):
            return False
    return True
