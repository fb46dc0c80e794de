"""The pass `combine-collectives`: several collectives on the same group of ranks become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.traits import MemoryEffectKind

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.dist import GROUPED, CollectiveGroupOp, CollectiveOp
from pmc.dialects.effects import HasEffects
from pmc.dialects.levels import Level
from pmc.dialects.tensor import tensor
from pmc.passes.base import PmcPass


@dataclass(frozen=True)
class CombineCollectivesPass(PmcPass):
    """Do collectives of one kind on one group of ranks at once, where none needs what another brings.

    Their values go in the same messages, so that the latency of all but one is saved; the bytes stay the same.  NCCL
    does this between ncclGroupStart and ncclGroupEnd, XLA in its collective combiners.

        %a = dist.all_gather(%x) {axis = "tp", dim = 0} at "blocks.mla.q_a_layernorm" : ..
        %q = layer.matmul(%a, %w) ..
        %b = dist.all_gather(%y) {axis = "tp", dim = 0} at "blocks.mla.k_pe" : ..
    becomes
        %a, %b = dist.collective_group([%x, %y]) {collective = #dist.all_gather<tp, dim = 0>} at "blocks.mla" : ..
        %q = layer.matmul(%a, %w) ..

    The one stands where the last of them stood, its path is what their paths begin with alike; what needed the first
    moves behind it.  Collectives are the same when kind, axis, dim and algorithm are; sums also need one element type.
    No op passes another that writes a cache which it may use.
    """

    name = "combine-collectives"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)

    def run(self, module: ModuleOp) -> None:
        """Combine what can be, block by block."""
        for op in list(module.walk()):
            if isinstance(op, layer.ProgramOp | layer.RepeatOp | dist.StageOp):
                _combine(op.body.block)


def _combine(block: Block) -> None:
    """Join each collective of a block with an earlier one that can wait for it, the nearest first."""
    for op in list(block.ops):
        kind = _kind(op)
        if kind is None:
            continue
        for earlier in [other for other in _before(op) if _kind(other) == kind]:
            if (between := _moved(earlier, op)) is not None:
                _join(earlier, op, between)
                break


def _before(op: Operation) -> Iterator[Operation]:
    """The ops of the block before `op`, the nearest first."""
    while (op_before := op.prev_op) is not None:
        yield (op := op_before)


def _kind(op: Operation) -> tuple[Attribute, Attribute | None, Attribute | None] | None:
    """What two collectives must have in common; None for an op that is never combined."""
    if not isinstance(op, CollectiveOp | CollectiveGroupOp):
        return None
    exchange = op.exchange()
    grouped = GROUPED.get(type(exchange.collective))
    if grouped is None:
        return None
    element_type = tensor(op.operands[0]).element_type if grouped.SUMS else None
    return exchange.collective, exchange.algorithm, element_type


def _moved(first: Operation, last: Operation) -> Sequence[Operation] | None:
    """The ops that must move behind `last` for `first` to stand there; None where that cannot be."""
    moved: list[Operation] = []
    passed: list[Operation] = []
    needs: set[SSAValue] = set(first.results)
    op = first.next_op
    while op is not None and op is not last:
        if needs.isdisjoint(value for inner in op.walk() for value in inner.operands):
            passed.append(op)
        else:
            moved.append(op)
            needs.update(op.results)
        op = op.next_op
    if not needs.isdisjoint(last.operands):
        return None
    behind, ahead = _effects(moved), _effects(passed)
    return None if _conflict(behind, ahead) or _conflict(ahead, behind) else moved


def _effects(ops: Iterable[Operation]) -> set[MemoryEffectKind]:
    """What ops do to caches.  Nobody writes weights, and the order of exchanges is that of all ranks."""
    inside = (inner for op in ops for inner in op.walk() if isinstance(inner, HasEffects))
    others = (op for op in inside if not isinstance(op, layer.WeightOp | dist.DistExchangeOp))
    return {effect.kind for op in others for effect in op.EFFECTS}


def _conflict(one: Set[MemoryEffectKind], other: Set[MemoryEffectKind]) -> bool:
    return MemoryEffectKind.WRITE in one and bool(other)


def _join(first: Operation, last: Operation, moved: Sequence[Operation]) -> None:
    """Put one op for both in the place of `last`, and `moved` behind it."""
    assert isinstance(first, ExchangeInterface) and isinstance(first, PmcOp) and isinstance(last, PmcOp)
    exchange, results = first.exchange(), [*first.results, *last.results]
    group = CollectiveGroupOp.make(
        [[*first.operands, *last.operands]],
        [value.type for value in results],
        _common_path(first.path.data, last.path.data),
        {"collective": exchange.collective, "algorithm": exchange.named_algorithm},
        like=last,
    )
    block = last.parent
    assert block is not None
    block.insert_op_after(group, last)
    place: Operation = group
    for op in moved:
        op.detach()
        block.insert_op_after(op, place)
        place = op
    for before, after in zip(results, group.y, strict=True):
        after.name_hint = before.name_hint
        before.replace_all_uses_with(after)
    for op in (last, first):
        op.detach()
        op.erase()


def _common_path(a: str, b: str) -> str:
    """The path of the innermost block that two ops are in."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(a.split("."), b.split("."), strict=False))
    return ".".join(part for part, _ in pairs)
