"""FLOPs and DRAM bytes of the commands of a program, over all its cores and loops.

The counts are those of the tile kernel that the commands came from: FLOPs of the matrix commands, bytes of the
transfers, where a load that serves several cores reads DRAM once.
"""

from __future__ import annotations

import numpy as np

from pmc.dialects.accesses import CommandAccess
from pmc.dialects.analyses.expand import Ints, Runs, expand
from pmc.dialects.analyses.kernel_work import packed_bytes
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, expr
from pmc.dialects.g5 import GdmaOp, ProgramOp, QueueOp, RepeatOp, TiuOp
from pmc.dialects.interfaces import Unit, Work
from pmc.dialects.tensor import element_name
from pmc.dialects.tile import CORE, is_running_count


def program_work(program: ProgramOp) -> Work:
    """FLOPs and bytes of one run of `program`, in its first layer where it stands in a repeat.

    Raises PmcError for a program whose loops were unrolled into tables.
    """
    if any(isinstance(op, QueueOp) for op in program.body.block.ops):
        raise PmcError(
            f"g5.program at '{program.path.data}' was unrolled into tables of one core; "
            "take the module before unroll-commands"
        )
    symbols = layer_symbols(program)
    flops: dict[Unit, int] = {"cube": 0, "vector": 0}
    types: dict[Unit, str] = {}
    bytes_read = bytes_written = 0
    for runs in expand(program, range(program.cores.value.data), symbols):
        op = runs.op
        if op.UNIT != "none":
            flops[op.UNIT] += _total(runs, op.flops())
        if isinstance(op, TiuOp):
            types["cube"] = op.matrix_type
        for access in op.accesses():
            if access.memory == "lmem" and access.may_read and op.UNIT != "none":
                types.setdefault(op.UNIT, element_name(access.element_type))
            elif access.memory == "dram" and access.writes:
                bytes_written += packed_bytes(_total(runs, access.elements), access.element_type)
            elif access.memory == "dram" and not access.held:
                served = isinstance(op, GdmaOp) and op.serves is not None
                moved = _served_once(program, runs, access) if served else _total(runs, access.elements)
                bytes_read += packed_bytes(moved, access.element_type)
                types.setdefault("none", element_name(access.element_type))
    unit: Unit = "cube" if flops["cube"] else "vector" if flops["vector"] else "none"
    dtype = types.get("cube") or types.get("vector") or types.get("none") or ""
    return Work(expr(flops["cube"] or flops["vector"]), expr(bytes_read), expr(bytes_written), unit, dtype)


def _total(runs: Runs, value: Expr) -> int:
    return int(runs.value(value).sum())


def _served_once(program: ProgramOp, runs: Runs, access: CommandAccess) -> int:
    """The elements of all loads, counted once over the cores that one load serves."""
    assert isinstance(runs.op, GdmaOp) and runs.op.serves is not None
    leaders = runs.op.serves.leaders(program.cores.value.data)
    loops: list[Ints] = [
        np.broadcast_to(np.asarray(value), (runs.count,))
        for name, value in runs.symbols.items()
        if name != CORE and not is_running_count(name)
    ]
    _, first = np.unique(np.stack([leaders[runs.core], *loops]), axis=1, return_index=True)
    return int(runs.value(access.elements)[first].sum())


def layer_symbols(program: ProgramOp) -> dict[str, int]:
    """The numbers of the layers around a program, of every repeat the first."""
    symbols: dict[str, int] = {}
    parent = program.parent_op()
    while parent is not None:
        if isinstance(parent, RepeatOp):
            symbols[parent.symbol.data] = parent.first.value.data
        parent = parent.parent_op()
    return symbols
