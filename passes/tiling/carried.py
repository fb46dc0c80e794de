"""Whether the op that computes the next value of a loop may overwrite the old one."""

from __future__ import annotations

from xdsl.ir import BlockArgument, Operation, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.layer_op import RowOp
from pmc.passes.tiling.rowwise import is_view


def in_place_target(value: SSAValue, argument: BlockArgument) -> bool:
    """Whether `value`, yielded as the next `argument`, may be written into the argument's array.

    True when the op that computes it stands in the body, makes an array of its own, and neither the old value nor a
    view of it is read afterwards; the op itself may read it only element by element.
    """
    owner = value.owner
    if not isinstance(owner, Operation) or owner.parent_block() is not argument.block:
        return False
    if isinstance(owner, layer.SliceOp | layer.KvAppendOp | layer.SourceOp | layer.RepeatOp | dist.StageOp):
        return False
    order = {op: i for i, op in enumerate(argument.block.ops)}
    aliases: list[SSAValue] = [argument]
    for alias in aliases:
        for use in alias.uses:
            reader = use.operation
            if isinstance(reader, layer.SliceOp):
                aliases.append(reader.y)
                continue
            place = order.get(reader)
            if place is None or place > order[owner]:
                return False
            if reader is owner and not _overwrites_what_it_read(owner, alias, value):
                return False
    return True


def _overwrites_what_it_read(op: Operation, operand: SSAValue, result: SSAValue) -> bool:
    """Whether a tile of `result` overwrites just what the same tile has read of `operand`, of the same shape and type.

    So it is with the rows of a row-wise op, which a tile reads before it writes them, and with the state of an
    attention step.
    """
    if isinstance(op, layer.AttentionStepOp):
        states = [v for v, r in zip(op.state, op.results, strict=False) if r is result]
        return [v for v in op.operands if v is operand] == states
    return isinstance(op, RowOp) and not is_view(operand) and operand.type == result.type
