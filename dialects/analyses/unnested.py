"""Repeats around repeats as one repeat after the other: the layers of a program in the order in which they run."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, i64
from xdsl.ir import Block, Operation

from pmc.dialects import layer


def unnest(block: Block) -> None:
    """Put the repeats inside of a repeat one after the other, as parts of the same stored layers."""
    for op in list(block.ops):
        if not isinstance(op, layer.RepeatOp) or not any(is_layers(inner) for inner in op.body.block.ops):
            continue
        values, total = list(op.inits), op.total.value.data
        for iteration in range(op.first.value.data, op.first.value.data + op.trip_count):
            body = op.body.clone().block
            for argument, value in zip(body.args, values, strict=True):
                argument.replace_all_uses_with(value)
            for inner in list(body.ops):
                body.detach_op(inner)
                if isinstance(inner, layer.YieldOp):
                    values = list(inner.values)
                    inner.drop_all_references()
                    break
                if isinstance(inner, layer.RepeatOp) and inner.shares is not None:
                    if not _keep_share(inner, iteration):
                        continue
                elif isinstance(inner, layer.RepeatOp) and is_layers(inner):
                    stored = inner.total.value.data
                    inner.properties["first"] = IntegerAttr(iteration * stored + inner.first.value.data, i64)
                    inner.properties["total"] = IntegerAttr(total * stored, i64)
                block.insert_op_before(inner, op)
        for result, value in zip(op.results, values, strict=True):
            result.replace_all_uses_with(value)
        block.erase_op(op)


def _keep_share(repeat: layer.RepeatOp, iteration: int) -> bool:
    """Leave of a repeat, which is not yet in a program, the layers of an iteration around it; whether there are any."""
    own = repeat.iterations(iteration)
    if not own:
        for result, value in zip(repeat.results, repeat.inits, strict=True):
            result.replace_all_uses_with(value)
        repeat.erase()
        return False
    repeat.properties |= {"first": IntegerAttr(own.start, i64), "count": IntegerAttr(len(own), i64)}
    del repeat.properties["shares"]
    return True


def is_layers(op: Operation) -> bool:
    """Whether an op repeats layers."""
    return isinstance(op, layer.RepeatOp) and op.is_layers
