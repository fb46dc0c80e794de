"""What the commands of a program ask of every engine of every core: the counts that the resources of a plan state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects.analyses.expand import Runs, expand
from pmc.dialects.analyses.matmul_tiling import cube_k
from pmc.dialects.analyses.program_work import layer_symbols, program_work
from pmc.dialects.analyses.resources import bytes_of, ceil_div
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.expr import product
from pmc.dialects.g5 import FetchOp, GatherOp, GatherRowsOp, GdmaOp, LmemAttr, ProgramOp, TiuOp, VectorCommandOp
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import element_bits, element_name


@dataclass
class ProgramResources:
    """Per core; steps, commands and bytes as in `resources.Resources`."""

    tiu_steps: dict[str, IntArray]
    vec_steps: dict[str, IntArray]
    """By the element type that sets the rate of the vector unit."""
    tiu_commands: IntArray
    gdma_bytes: IntArray
    gdma_commands: IntArray
    sdma_bytes: IntArray
    sdma_commands: IntArray
    core_macs: IntArray
    fetched_bytes: IntArray
    """[cores, cores] that the second fetches from the first: a part of `sdma_bytes`."""
    dram_read: int = 0
    dram_written: int = 0

    @property
    def macs(self) -> int:
        """Of all cores."""
        return int(self.core_macs.sum())

    @classmethod
    def nothing(cls, cores: int) -> ProgramResources:
        """What no command asks for."""
        tiu, gdma, gdma_commands, sdma, sdma_commands, macs = np.zeros((6, cores), np.int64)
        fetched = np.zeros((cores, cores), np.int64)
        return cls({}, {}, tiu, gdma, gdma_commands, sdma, sdma_commands, macs, fetched)

    def add(self, other: ProgramResources) -> None:
        """Count another command, its DRAM traffic left out."""
        for mine, more in ((self.tiu_steps, other.tiu_steps), (self.vec_steps, other.vec_steps)):
            for dtype, steps in more.items():
                mine[dtype] = mine[dtype] + steps if dtype in mine else steps
        self.tiu_commands = self.tiu_commands + other.tiu_commands
        self.gdma_bytes, self.gdma_commands = (
            self.gdma_bytes + other.gdma_bytes,
            self.gdma_commands + other.gdma_commands,
        )
        self.sdma_bytes, self.sdma_commands = (
            self.sdma_bytes + other.sdma_bytes,
            self.sdma_commands + other.sdma_commands,
        )
        self.core_macs = self.core_macs + other.core_macs
        self.fetched_bytes = self.fetched_bytes + other.fetched_bytes


def program_resources(program: ProgramOp, chip: Chip) -> ProgramResources:
    """Counted command by command, in the first layer of a repeat.  Raises PmcError for an unrolled program."""
    cores = program.cores.value.data
    work = program_work(program)
    found = ProgramResources.nothing(cores)
    found.dram_read, found.dram_written = work.bytes_read.constant, work.bytes_written.constant
    for runs in expand(program, range(cores), layer_symbols(program)):
        found.add(command_resources(runs, cores, chip))
    return found


def command_resources(runs: Runs, cores: int, chip: Chip) -> ProgramResources:
    """What all runs of one command ask of the engines; DRAM is left out, which loads may share."""
    found = ProgramResources.nothing(cores)

    def per_core(amount: IntArray) -> IntArray:
        return np.bincount(runs.core, weights=np.broadcast_to(amount, (runs.count,)), minlength=cores).astype(np.int64)

    one = np.ones(runs.count, np.int64)
    match runs.op:
        case TiuOp() as op:
            name = op.matrix_type
            m, n, k = (runs.value(e.data) for e in (op.m, op.n, op.k))
            depth = cube_k(chip, name)
            steps = ceil_div(m, chip.cube.m) * ceil_div(n, chip.cube.n) * ceil_div(k, depth)
            found.core_macs = per_core(m * n * k)
            found.tiu_steps[name] = per_core(steps)
            found.tiu_commands = per_core(one)
        case VectorCommandOp() as op:
            steps = command_steps(op.kind, runs.value(op.rows.data), runs.value(op.columns.data), chip)
            found.vec_steps[vector_dtype(op)] = per_core(steps)
        case GdmaOp() as op:
            size = runs.value(product(n.data for n in op.shape.data))
            found.gdma_bytes = per_core(bytes_of(size, element_bits(op.element_type)))
            found.gdma_commands = per_core(one)
        case GatherOp() as op:
            size = runs.value(op.count.data * op.columns.data)
            found.gdma_bytes = per_core(bytes_of(size, element_bits(op.lmem.element_type)))
            found.gdma_commands = per_core(one)
        case GatherRowsOp() as op:
            size = runs.value(op.count.data) * op.columns.value.data
            found.sdma_bytes = per_core(bytes_of(size, element_bits(op.lmem.element_type)))
            found.sdma_commands = per_core(one)
        case FetchOp() as op:
            size = bytes_of(runs.value(op.rows.data * op.columns.data), element_bits(op.target.element_type))
            found.sdma_bytes = per_core(size)
            np.add.at(found.fetched_bytes, (runs.value(op.core.data), runs.core), size)
            found.sdma_commands = per_core(one)
        case _:
            pass
    return found


def vector_dtype(op: VectorCommandOp) -> str:
    """The element type that sets the rate of a vector command: what its kind computes in, or its first operand's."""
    matrix: LmemAttr = op.matrices[0]
    return op.kind.RATE or element_name(matrix.element_type)
