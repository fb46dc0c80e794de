"""Ops that become one query, and where in their block it can stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.silicon import ExchangeOp, QueryOp, Workload


@dataclass(frozen=True)
class Cluster:
    """Ops of one block in program order, and the row of a table that covers them."""

    ops: Sequence[Operation]
    workload: Workload

    def rewrite(self, kind: type[QueryOp | ExchangeOp] = QueryOp) -> QueryOp | ExchangeOp | None:
        """Put a query in place of the ops, named like the first; None where no place in the block is behind all that
        they need and before all that needs them."""
        first, last = self.ops[0], self.ops[-1]
        assert isinstance(first, PmcOp)
        if _is_free_behind(self.ops):
            before = last.next_op
        elif (needed := _sources_between(self.ops)) is not None:
            before, block = first.next_op, first.parent
            assert block is not None
            for op in needed:
                block.detach_op(op)
                block.insert_op_before(op, first)
        else:
            return None
        inside = set(self.ops)
        while before is not None and before in inside:
            before = before.next_op
        assert before is not None, "a block ends in an op that no table covers"
        return kind.covering(self.workload, first.path.data, self.ops, before)


def between(first: Operation, last: Operation) -> list[Operation]:
    """The ops of a block from `first` to `last`, both left out."""
    found: list[Operation] = []
    op = first.next_op
    while op is not None and op is not last:
        found.append(op)
        op = op.next_op
    return found


def _is_free_behind(ops: Sequence[Operation]) -> bool:
    """Whether nothing between the ops needs what they make, so that all can stand where the last one does."""
    inside, made = set(ops), {value for op in ops for value in op.results}
    others = (op for op in between(ops[0], ops[-1]) if op not in inside)
    return all(made.isdisjoint(value for inner in op.walk() for value in inner.operands) for op in others)


def _sources_between(ops: Sequence[Operation]) -> list[Operation] | None:
    """The weights and caches that must be named earlier for all to stand where the first one does; None where
    something else would have to move."""
    inside, others = set(ops), between(ops[0], ops[-1])
    used = {value.owner for op in ops for value in op.operands}
    needed = [op for op in others if op not in inside and op in used]
    return needed if all(isinstance(op, layer.SourceOp) for op in needed) else None
