"""The commands of a program in arrays: what the simulator needs to know of each before it runs any.

Entry i of every array is command i; commands are ordered by core and then as the program gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pmc.backends.g5 import dma, dram, lmem, noc, tiu, vec
from pmc.dialects.analyses.expand import Runs, expand
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


@dataclass(frozen=True)
class Commands:
    """All commands of one run of a program on all its cores; times are picoseconds."""

    cores: int
    barriers: int
    """How many barriers every core passes."""
    ops: list[CommandOp]
    op: IntArray
    """Which of `ops` the command is a run of."""
    core: IntArray
    engine: IntArray
    """Number of its engine in `ENGINES`."""
    phase: IntArray
    """Barriers before it."""
    waits: IntArray
    """[commands, engines]: the id on each engine that must have finished before it starts, 0 for none."""
    fixed_ps: IntArray
    """How long it takes where that is known beforehand; of a DMA command the time to its first byte."""
    transfer_ps: IntArray
    """What its engine needs from the first byte to the last; 0 for a command that is no DMA."""
    port_ps: IntArray
    """What the port of LMEM needs for it."""
    size: IntArray
    """Bytes that a DMA command moves."""
    shares: IntArray
    """[distinct, channels]: bytes in every channel of DRAM."""
    share: IntArray
    """Which of `shares`; NONE for a command that leaves DRAM alone."""
    source: IntArray
    """The core whose LMEM is read by a fetch; NONE for any other command."""
    group: IntArray
    """The read of DRAM that serves it together with other cores; NONE where it serves one core."""
    group_sizes: IntArray


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
    order = np.lexsort((_joined([run.order for run in runs]), _joined([run.core for run in runs])))
    groups, sizes = _groups(runs, cores)

    def column(values: list[IntArray]) -> IntArray:
        return np.asarray(_joined(values)[order])

    distinct, share = dram.shares(_joined([part.block for part in parts], (0, dram.BLOCK)), chip.commands.dram_channels)
    return Commands(
        cores,
        _barriers(program, symbols),
        [run.op for run in runs],
        column([np.full(run.count, number) for number, run in enumerate(runs)]),
        column([run.core for run in runs]),
        column([np.full(run.count, ENGINES.index(run.op.ENGINE)) for run in runs]),
        column([run.phase for run in runs]),
        _joined([run.dependencies for run in runs], (0, len(ENGINES)))[order],
        column([part.fixed_ps for part in parts]),
        column([part.transfer_ps for part in parts]),
        column([part.port_ps for part in parts]),
        column([part.size for part in parts]),
        distinct,
        share[order],
        column([part.source for part in parts]),
        groups[order],
        sizes,
    )


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
    size: IntArray
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
                first = dma.startup_ps(commands.sdma) + noc.way_ps(chip, source, runs.core)
                moved = dma.transfer_ps(commands.sdma, size)
                return cls(first, moved, lmem.Ports.of(chip).service(size), size, no_block, source)
            case GdmaOp() | GatherOp() as op:
                (access,) = (access for access in op.accesses() if access.memory == "dram")
                bits = element_bits(access.element_type)
                size = bytes_of(runs.value(product(access.shape)), bits)
                shape, strides = ([runs.value(size) for size in sizes] for sizes in (access.shape, access.strides))
                block = dram.blocks(runs.value(access.address), shape, strides, bits)
                missed = dram.misses(block, runs.core, commands.dram_channels)
                first = dma.startup_ps(commands.gdma) + missed * dram.page_miss_ps(chip.dram)
                moved = dma.transfer_ps(commands.gdma, size)
                return cls(first, moved, lmem.Ports.of(chip).service(size), size, block, none)
            case _:
                raise PmcError(f"{runs.op.name} at '{runs.op.path.data}' has no timing on a core")


def _groups(runs: list[Runs], cores: int) -> tuple[IntArray, IntArray]:
    """Of every run, in the order of `runs`, the read that it shares with other cores, and how many share each.

    Cores share a read of a load that serves them when they are in one iteration of the same loops.
    """
    found: list[IntArray] = []
    sizes: list[IntArray] = [np.zeros(0, np.int64)]
    total = 0
    for run in runs:
        if not isinstance(run.op, GdmaOp) or run.op.serves is None:
            found.append(np.full(run.count, NONE))
            continue
        loops: list[IntArray] = [
            np.broadcast_to(np.asarray(value), (run.count,))
            for name, value in run.symbols.items()
            if name != CORE and not is_running_count(name)
        ]
        keys = np.stack([run.op.serves.leaders(cores)[run.core], *loops])
        _, number, members = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        found.append(number.reshape(-1) + total)
        sizes.append(members)
        total += len(members)
    return _joined(found), np.concatenate(sizes)
