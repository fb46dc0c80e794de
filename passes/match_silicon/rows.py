"""Ops on rows: one launch for as many as stand together, priced by the bytes that it moves."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.ir import Block, Operation

from pmc.dialects import dist, layer
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import WorkInterface


def runs_of_rows(block: Block) -> Iterator[list[Operation]]:
    """The ops of a block that the vector unit does, or that move data on the chip, with nothing else in between.

    Engines fuse these: a residual with the norm and the conversion behind it, both rotations with both writes of the
    cache, an activation with its conversion.  Weights and caches are named, and views taken, at no cost.
    """
    run: list[Operation] = []
    for op in list(block.ops):
        if isinstance(op, layer.SourceOp) or _is_view_of_weight(op):
            continue
        if _is_row_op(op):
            run.append(op)
            continue
        yield from _trimmed(run)
        run = []
    yield from _trimmed(run)


def _is_row_op(op: Operation) -> bool:
    if isinstance(op, dist.LocalSliceOp):
        return True
    return isinstance(op, layer.LayerOp) and op.UNIT != "cube" and not isinstance(op, _ALONE)


def _is_view_of_weight(op: Operation) -> bool:
    while isinstance(op, layer.SliceOp) and isinstance(op.x.owner, Operation):
        op = op.x.owner
    return isinstance(op, layer.WeightOp)


def _trimmed(run: list[Operation]) -> Iterator[list[Operation]]:
    """The run without views at its ends, if anything is left."""
    while run and isinstance(run[0], layer.SliceOp):
        run = run[1:]
    while run and isinstance(run[-1], layer.SliceOp):
        run = run[:-1]
    if run and any(isinstance(op, WorkInterface) and op.work().bytes_written != expr(0) for op in run):
        yield run


_ALONE = (layer.RecurrenceOp, layer.CausalConvOp, layer.TopkSelectOp, layer.GatherRowsOp)
"""Kernels that no engine fuses with their neighbours."""
