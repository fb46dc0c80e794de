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
from pmc.dialects.g5 import FetchOp, GatherOp, GdmaOp, LmemAttr, ProgramOp, TiuOp, VectorCommandOp
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
    dram_read: int = 0
    dram_written: int = 0
    macs: int = 0


def program_resources(program: ProgramOp, chip: Chip) -> ProgramResources:
    """Counted command by command, in the first layer of a repeat.  Raises PmcError for an unrolled program."""
    cores = program.cores.value.data
    work = program_work(program)
    zero = np.zeros(cores, np.int64)
    found = ProgramResources({}, {}, zero.copy(), zero.copy(), zero.copy(), zero.copy(), zero.copy())
    found.dram_read, found.dram_written = work.bytes_read.constant, work.bytes_written.constant

    def per_core(runs: Runs, amount: IntArray) -> IntArray:
        return np.bincount(runs.core, weights=np.broadcast_to(amount, (runs.count,)), minlength=cores).astype(np.int64)

    for runs in expand(program, range(cores), layer_symbols(program)):
        one = np.ones(runs.count, np.int64)
        match runs.op:
            case TiuOp() as op:
                name = op.matrix_type
                m, n, k = (runs.value(e.data) for e in (op.m, op.n, op.k))
                found.macs += int((m * n * k).sum())
                depth = cube_k(chip, name)
                steps = ceil_div(m, chip.cube.m) * ceil_div(n, chip.cube.n) * ceil_div(k, depth)
                found.tiu_steps[name] = found.tiu_steps.get(name, zero) + per_core(runs, steps)
                found.tiu_commands += per_core(runs, one)
            case VectorCommandOp() as op:
                name = vector_dtype(op)
                steps = command_steps(op.kind, runs.value(op.rows.data), runs.value(op.columns.data), chip)
                found.vec_steps[name] = found.vec_steps.get(name, zero) + per_core(runs, steps)
            case GdmaOp() as op:
                size = runs.value(product(n.data for n in op.shape.data))
                found.gdma_bytes += per_core(runs, bytes_of(size, element_bits(op.element_type)))
                found.gdma_commands += per_core(runs, one)
            case GatherOp() as op:
                size = runs.value(op.count.data * op.columns.data)
                found.gdma_bytes += per_core(runs, bytes_of(size, element_bits(op.lmem.element_type)))
                found.gdma_commands += per_core(runs, one)
            case FetchOp() as op:
                size = runs.value(op.rows.data * op.columns.data)
                found.sdma_bytes += per_core(runs, bytes_of(size, element_bits(op.target.element_type)))
                found.sdma_commands += per_core(runs, one)
            case _:
                pass
    return found


def vector_dtype(op: VectorCommandOp) -> str:
    """The element type that sets the rate of a vector command: what its kind computes in, or its first operand's."""
    matrix: LmemAttr = op.matrices[0]
    return op.kind.RATE or element_name(matrix.element_type)
