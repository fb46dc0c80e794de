"""FLOPs and DRAM bytes of the commands of a program, over all its cores and loops.

The counts are those of the tile kernel that the commands came from: FLOPs of the matrix commands, bytes of the
transfers, where a block that several cores load in the same iteration is read once if the chip multicasts.
"""

from __future__ import annotations

import numpy as np

from pmc.dialects.analyses.expand import Ints, Runs, expand
from pmc.dialects.analyses.kernel_work import multicasts, packed_bytes
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, expr, product
from pmc.dialects.g5 import GatherOp, GdmaOp, ProgramOp, QueueOp, RepeatOp, TiuOp, VectorCommandOp
from pmc.dialects.interfaces import Unit, Work
from pmc.dialects.tensor import element_name
from pmc.dialects.tile import CORE


def program_work(program: ProgramOp) -> Work:
    """FLOPs and bytes of one run of `program`, in its first layer where it stands in a repeat.

    Raises PmcError for a program whose loops were unrolled into tables.
    """
    if any(isinstance(op, QueueOp) for op in program.body.block.ops):
        raise PmcError(
            f"g5.program at '{program.path.data}' was unrolled into tables of one core; "
            "take the module before unroll-commands"
        )
    symbols = _layer_symbols(program)
    multicast = multicasts(program)
    cube_flops = vector_flops = bytes_read = bytes_written = 0
    cube_type = vector_type = moved_type = ""
    for runs in expand(program, range(program.cores.value.data), symbols):
        match runs.op:
            case TiuOp() as op:
                cube_flops += 2 * _total(runs, op.m.data * op.n.data * op.k.data)
                cube_type = cube_type or element_name(op.a.element_type)
            case VectorCommandOp() as op:
                vector_flops += op.kind.flops_per_element * _total(runs, op.rows.data * op.columns.data)
                if op.ins.data:
                    vector_type = vector_type or element_name(op.ins.data[0].element_type)
            case GatherOp() as op:
                bytes_read += packed_bytes(_total(runs, op.count.data * op.columns.data), op.lmem.element_type)
                moved_type = moved_type or element_name(op.lmem.element_type)
            case GdmaOp() as op:
                elements = product(size.data for size in op.shape.data)
                if op.direction.data == "store":
                    bytes_written += packed_bytes(_total(runs, elements), op.element_type)
                else:
                    moved = _distinct(runs, op, elements) if multicast else _total(runs, elements)
                    bytes_read += packed_bytes(moved, op.element_type)
                    moved_type = moved_type or element_name(op.element_type)
            case _:
                pass
    unit: Unit = "cube" if cube_flops else "vector" if vector_flops else "none"
    flops = cube_flops or vector_flops
    return Work(expr(flops), expr(bytes_read), expr(bytes_written), unit, cube_type or vector_type or moved_type)


def _total(runs: Runs, value: Expr) -> int:
    return int(runs.value(value).sum())


def _distinct(runs: Runs, op: GdmaOp, elements: Expr) -> int:
    """The elements of all loads, those of one block in one iteration counted once over the cores."""
    loops: list[Ints] = [
        np.broadcast_to(np.asarray(value), (runs.count,))
        for name, value in runs.symbols.items()
        if name != CORE and not name.endswith(".seq")
    ]
    keys = np.stack([*loops, runs.value(op.dram.data), *(runs.value(size.data) for size in op.shape.data)])
    _, first = np.unique(keys, axis=1, return_index=True)
    return int(runs.value(elements)[first].sum())


def _layer_symbols(program: ProgramOp) -> dict[str, int]:
    symbols: dict[str, int] = {}
    parent = program.parent_op()
    while parent is not None:
        if isinstance(parent, RepeatOp):
            symbols[parent.symbol.data] = parent.first.value.data
        parent = parent.parent_op()
    return symbols
