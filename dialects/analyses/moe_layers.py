"""What the layers of a compiled mixture of experts ask of one rank, read from its ops: work and weights of an expert.

An expert is what lies between a dispatch and its combine.  Its FLOP per token are those of the ops on slots over the
slots that they have room for; its weights are the arrays that those ops read with an axis of experts.  Attention is
counted beside it: FLOP and cache bytes of the attention op of the layer, per token of the rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from xdsl.ir import Block, Operation

from pmc.dialects import dist, layer
from pmc.dialects.analyses.expert_slots import COMBINES, Dispatch, ExpertSlots, Routed
from pmc.dialects.analyses.work import work_of
from pmc.dialects.dist import Mesh
from pmc.dialects.expr import Expr
from pmc.dialects.flash_attention import FlashAttentionOp
from pmc.dialects.tensor import tensor


@dataclass(frozen=True)
class MoeLayer:
    """One layer on one rank."""

    index: int
    """Among the layers of the model, those without experts included."""
    routed: Routed
    rank_tokens: int
    """Tokens of the rank itself, whose attention it computes."""
    expert_flop: float
    """Of one expert for one token."""
    expert_bytes: int
    """Weights of one expert."""
    attention_flop: float
    """For one token."""
    cache_bytes: int
    """Read for one token, and written for it."""
    appended_bytes: int


def moe_layers(program: layer.ProgramOp, mesh: Mesh | None, bindings: Mapping[str, int]) -> list[MoeLayer]:
    """The layers with experts of a program, in order; `bindings` are the values of its symbols.

    Of a program in pipeline stages those of the first stage that has any.
    """
    stages = [op for op in program.body.block.ops if isinstance(op, dist.StageOp)]
    walk = _Walk(mesh, bindings)
    for block in [stage.body.block for stage in stages] or [program.body.block]:
        walk.block(block, 1)
        if walk.found:
            break
    return walk.found


class _Walk:
    """Goes through a program in order and counts layers by their attention."""

    def __init__(self, mesh: Mesh | None, bindings: Mapping[str, int]) -> None:
        self.mesh, self.bindings = mesh, bindings
        self.slots = ExpertSlots()
        self.layers = 0
        self.attention: FlashAttentionOp | None = None
        self.found: list[MoeLayer] = []

    def block(self, block: Block, times: int) -> None:
        for op in block.ops:
            match op:
                case layer.RepeatOp() if op.is_layers:
                    self.block(op.body.block, op.runs(times))
                case FlashAttentionOp():
                    self.attention = op
                    self.layers += times
                case layer.DispatchOp() | dist.DispatchOp():
                    first = self.layers - times
                    one = self.layer(op, first)
                    self.found += [replace(one, index=first + number) for number in range(times)]
                case _:
                    pass

    def layer(self, dispatch: Dispatch, index: int) -> MoeLayer:
        routed = Routed.of(dispatch, self.mesh)
        rank_tokens = self.value(tensor(dispatch.x).dims[0])
        slots = self.value(tensor(dispatch.y).dims[0] * tensor(dispatch.y).dims[1])
        flop, weights = 0, 0
        for op in self.on_slots(dispatch):
            work = work_of(op)
            flop += self.value(work.flops) if work is not None else 0
            weights += sum(self.value(tensor(value).bytes) for value in op.operands if _is_weight(value.owner))
        reads, writes, attention_flop = self.cache(rank_tokens)
        return MoeLayer(
            index, routed, rank_tokens, flop / slots, weights // routed.local_experts, attention_flop, reads, writes
        )

    def on_slots(self, dispatch: Dispatch) -> Iterator[Operation]:
        """The ops between a dispatch and its combine."""
        assert dispatch.parent is not None
        for op in dispatch.parent.ops:
            if op is not dispatch and not isinstance(op, COMBINES) and self.slots.dispatch_of(op) is dispatch:
                yield op

    def cache(self, rank_tokens: int) -> tuple[int, int, float]:
        """Bytes of cache that attention reads and that a token adds, and the FLOP of attention, per token."""
        op = self.attention
        if op is None:
            return 0, 0, 0.0
        caches = dict.fromkeys([*op.k, op.v])
        positions = sum(self.value(tensor(value).bytes) // self.value(tensor(value).dims[1]) for value in caches)
        reads = positions * self.value(op.keys_seen)
        batch, q_len = self.value(tensor(op.v).dims[0]), self.value(op.q_len.data)
        return reads // rank_tokens, positions // batch, self.value(op.flops()) / (batch * q_len)

    def value(self, size: Expr) -> int:
        return int(size.evaluate_int64(self.bindings))


def _is_weight(op: Operation | Block) -> bool:
    return isinstance(op, layer.WeightOp) and layer.EXPERT_AXIS in op.axis_names()
