"""Ring attention: the steps that the ranks of a mesh axis take over keys that go around (Liu et al., 2023).

A sequence is striped over the ranks (`dist.CONTEXT`).  In step s a rank has the keys of the rank s places before it.
Its query i, at position i*n + rank, sees of them key j, at position j*n + source, while j <= i, or j < i where the
source is the later rank, which it is in the steps after the rank's own number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import f32
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from ..dialects import dist, layer
from ..dialects.assembly import PropertyValue
from ..dialects.dist import Axis, ShardingAttr, rank_symbol, sharding_of, step_symbol
from ..dialects.expr import ceildiv, expr, floordiv
from ..dialects.tensor import TensorType, tensor


def ring_attention(op: layer.AttentionOp, axis: Axis) -> tuple[list[Operation], SSAValue]:
    """The ops that compute `op`, whose keys `axis` splits, and their result."""
    kept = ("qk_dims", "v_dim", "scale", "causal")
    properties: dict[str, PropertyValue] = {name: op.properties[name] for name in kept}
    properties["q_len"] = ceildiv(op.q_len.data, axis.size)
    path, moving = op.path.data, list(dict.fromkeys([*op.k, op.v]))
    own = _step(op, {value: value for value in moving}, [], properties)
    inits = [*moving, *own.results]
    block = Block(arg_types=[value.type for value in inits])
    blocks, state = block.args[: len(moving)], block.args[len(moving) :]
    received: dict[SSAValue, SSAValue] = {}
    for value, argument in zip(moving, blocks, strict=True):
        exchange = dist.RingExchangeOp.make([argument], [argument.type], path, {"axis": axis.name}, like=op)
        block.add_op(exchange)
        received[value] = exchange.y
    # Whether the step is beyond the rank's own number: 1 for the differences 1 to n-1, 0 down to -(n-1).
    ahead = expr(step_symbol(axis.name)) - expr(rank_symbol(axis.name))
    hidden: dict[str, PropertyValue] = (
        {"hidden": floordiv(ahead + (axis.size - 1), axis.size)} if bool(op.causal) else {}
    )
    step = _step(op, received, state, {**properties, **hidden})
    block.add_ops([step, layer.YieldOp.make([[*received.values(), *step.results]], [], path, like=op)])
    ring = layer.RepeatOp.build_with(
        axis.size - 1, inits, Region(block), path, first=1, total=axis.size, symbol=step_symbol(axis.name)
    )
    ring.location = op.location
    finish = _finish(op, ring.results[len(moving) :])
    return [own, ring, finish], finish.y


def _step(
    op: layer.AttentionOp,
    keyed: Mapping[SSAValue, SSAValue],
    state: Sequence[SSAValue],
    properties: Mapping[str, PropertyValue],
) -> layer.AttentionStepOp:
    """Attention over the keys and values that `keyed` has in place of those of `op`."""
    rows, width = tensor(op.y).dims
    sharding = ShardingAttr(sharding_of(tensor(op.y)))
    heads = expr(width.constant // op.v_dim.value.data)
    types: list[Attribute] = [TensorType.of((rows, n), f32, sharding) for n in (width, heads, heads)]
    operands: list[SSAValue | Sequence[SSAValue]] = [list(op.q), [keyed[k] for k in op.k], keyed[op.v], list(state)]
    return layer.AttentionStepOp.make(operands, types, op.path.data, properties, like=op)


def _finish(op: layer.AttentionOp, state: Sequence[SSAValue]) -> layer.AttentionFinishOp:
    acc, _, row_sum = state
    finish = layer.AttentionFinishOp.make([acc, row_sum], [op.y.type], op.path.data, like=op)
    finish.y.name_hint = op.y.name_hint
    return finish
