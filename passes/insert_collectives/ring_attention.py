"""Ring attention: the steps that the ranks of a mesh axis take over keys that go around (Liu et al., 2023).

A sequence is striped over the ranks (`dist.CONTEXT`).  In step s a rank has the keys of the rank s places before it.
Its query i, at position i*n + rank, sees of them key j, at position j*n + source, while j <= i, or j < i where the
source is the later rank, which it is in the steps after the rank's own number.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import StringAttr, f32
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.dist import Axis, Mesh, ShardingAttr, local_dim, sharding_of, step_symbol
from pmc.dialects.expr import ceildiv, expr, floordiv, rank_symbol
from pmc.dialects.tensor import TensorType, element_bits, tensor


def ring_attention(op: layer.AttentionOp, axis: Axis, mesh: Mesh, smallest: bool) -> tuple[list[Operation], SSAValue]:
    """The ops that compute `op`, whose keys `axis` splits, and their result.

    Keys and values go around, or the `smallest` tensors that they are computed from.
    """
    kept = ("qk_dims", "v_dim", "scale", "causal", "soft_cap", "alibi_heads")
    properties: dict[str, PropertyValue] = {name: op.properties.get(name) for name in kept}
    properties["q_len"] = ceildiv(op.q_len.data, axis.size)
    path, keyed = op.path.data, list(dict.fromkeys([*op.k, op.v]))
    moving = _fewest_bytes(keyed, mesh) if smallest else keyed
    own = _step(op, {value: value for value in keyed}, [], properties, op.sinks)
    inits = [*moving, *own.results]
    block = Block(arg_types=[value.type for value in inits])
    _name_alike(block.args, inits)
    blocks, state = block.args[: len(moving)], block.args[len(moving) :]
    received: dict[SSAValue, SSAValue] = {}
    for value, argument in zip(moving, blocks, strict=True):
        exchange = dist.RingExchangeOp.make([argument], [argument.type], path, {"axis": axis.name}, like=op)
        block.add_op(exchange)
        _name_alike([exchange.y], [value])
        received[value] = exchange.y
    handed_on = [*received.values()]
    for value in keyed:
        _rebuild(value, received, block)
    # Whether the step is beyond the rank's own number: 1 for the differences 1 to n-1, 0 down to -(n-1).
    ahead = expr(step_symbol(axis.name)) - expr(rank_symbol(axis.name))
    hidden = floordiv(ahead + (axis.size - 1), axis.size) if bool(op.causal) else expr(0)
    step = _step(op, received, state, {**properties, "hidden": hidden})
    block.add_ops([step, layer.YieldOp.make([[*handed_on, *step.results]], [], path, like=op)])
    ring = layer.RepeatOp.build_with(
        axis.size - 1, inits, Region(block), path, first=1, total=axis.size, symbol=step_symbol(axis.name)
    )
    ring.location = op.location
    _name_alike(ring.results, inits)
    finish = _finish(op, ring.results[len(moving) :])
    return [own, ring, finish], finish.y


def _fewest_bytes(values: Sequence[SSAValue], mesh: Mesh) -> list[SSAValue]:
    """The tensors with the fewest bytes, taken together, from which all `values` can be computed.

    So the latent of MLA goes around once, not the keys and the values that each rank makes of it again.
    """
    choices = itertools.product(*(_sources(value) for value in values))
    return min(
        (list(dict.fromkeys(choice)) for choice in choices),
        key=lambda moving: sum(_row_bits(value, mesh) for value in moving),
    )


def _sources(value: SSAValue) -> list[SSAValue]:
    """The value and those before it that it is computed from, position by position."""
    found = [value]
    while isinstance(owner := value.owner, layer.MatmulOp | layer.SliceOp | layer.QuantizeOp):
        if isinstance(owner, layer.MatmulOp) and not isinstance(owner.w.owner, layer.WeightOp):
            break
        value = owner.x
        found.append(value)
    return found


def _row_bits(value: SSAValue, mesh: Mesh) -> int:
    """The bits of one position on one rank."""
    type_ = tensor(value)
    width = local_dim(type_.dims[-1], sharding_of(type_).dims[-1], mesh)
    return width.constant * element_bits(type_.element_type)


def _rebuild(value: SSAValue, received: dict[SSAValue, SSAValue], block: Block) -> SSAValue:
    """`value` as it is computed from what was `received`, to which it is added; the ops go to the end of `block`."""
    if value not in received:
        op = value.owner
        assert isinstance(op, layer.MatmulOp | layer.SliceOp | layer.QuantizeOp)
        again = op.clone({op.x: _rebuild(op.x, received, block)})
        again.path = StringAttr(f"{op.path.data}.of_step")
        block.add_op(again)
        received[value] = again.y
    return received[value]


def _step(
    op: layer.AttentionOp,
    keyed: Mapping[SSAValue, SSAValue],
    state: Sequence[SSAValue],
    properties: Mapping[str, PropertyValue],
    sinks: SSAValue | None = None,
) -> layer.AttentionStepOp:
    """Attention over the keys and values that `keyed` has in place of those of `op`."""
    rows, width = tensor(op.y).dims
    sharding = ShardingAttr(sharding_of(tensor(op.y)))
    heads = expr(width.constant // op.v_dim.value.data)
    types: list[Attribute] = [TensorType.of((rows, n), f32, sharding) for n in (width, heads, heads)]
    operands: list[SSAValue | Sequence[SSAValue]] = [list(op.q), [keyed[k] for k in op.k], keyed[op.v], list(state)]
    if sinks is not None:
        operands.append(sinks)
    step = layer.AttentionStepOp.make(operands, types, op.path.data, properties, like=op)
    for result, name in zip(step.results, ("acc", "row_max", "row_sum"), strict=True):
        result.name_hint = name
    return step


def _name_alike(values: Sequence[SSAValue], like: Sequence[SSAValue]) -> None:
    for value, named in zip(values, like, strict=True):
        value.name_hint = named.name_hint


def _finish(op: layer.AttentionOp, state: Sequence[SSAValue]) -> layer.AttentionFinishOp:
    acc, _, row_sum = state
    finish = layer.AttentionFinishOp.make([acc, row_sum], [op.y.type], op.path.data, like=op)
    finish.y.name_hint = op.y.name_hint
    return finish
