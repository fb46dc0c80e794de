"""FLOPs and bytes of any op: the one question that every cost model asks, whatever the dialect.

A tensor op knows its work from its types (`WorkInterface`).  The work of a kernel and of a program of commands is
counted from their loops.
"""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects.interfaces import Work, WorkInterface


def work_of(op: Operation) -> Work | None:
    """The work of one execution of `op` on one rank; None for an op that neither computes nor moves data.

    Raises PmcError for a program whose loops were unrolled into the tables of one core.
    """
    if isinstance(op, WorkInterface):
        return op.work()
    match op.name:  # their dialects take a while to import, and most modules hold neither
        case "tile.kernel":
            from pmc.dialects.analyses.kernel_work import kernel_work
            from pmc.dialects.tile import KernelOp

            return kernel_work(op) if isinstance(op, KernelOp) else None
        case "g5.program":
            from pmc.dialects.analyses.program_work import program_work
            from pmc.dialects.g5 import ProgramOp

            return program_work(op) if isinstance(op, ProgramOp) else None
        case _:
            return None
