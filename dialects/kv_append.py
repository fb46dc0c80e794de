"""The append to a cache as a tensor op."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, ShardingRule, Unit, Work
from pmc.dialects.layer_op import HEAD, StateUpdateOp
from pmc.dialects.state_roles import OPEN_ENTRY
from pmc.dialects.tensor import TensorType, tensor


@irdl_op_definition
class KvAppendOp(StateUpdateOp):
    """Write the rows of the current tokens at positions kv_len - q_len + i of their sequences; gives the cache.

    `kv_len` is the number of rows of the cache: one of a sliding window holds the newest tokens of a sequence, the new
    ones last.
    """

    name = "layer.kv_append"
    UNIT: ClassVar[Unit] = "none"
    cache = operand_def(TensorType)
    new = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """The cache keeps its type; widths and element types agree."""
        cache, new = tensor(self.cache).dims, tensor(self.new).dims
        self.fail_unless(
            len(cache) == 3 and len(new) == 2, "the cache must be [batch, kv_len, width], new rows [T, width]"
        )
        self.require_shape(self.new, (new[0], cache[2]), "new")
        self.require_sequences(new[0], cache[0])
        self.fail_unless(self.y.type == self.cache.type, "the result must have the type of the cache")
        self.fail_unless(
            tensor(self.new).element_type == tensor(self.cache).element_type,
            "new rows need the type of the cache",
        )

    @property
    def holds_keys(self) -> bool:
        """Whether the cache is one of keys or values, and not of tokens that a compressor has not pooled yet."""
        source = self.cache.owner
        role = source.properties.get("role") if isinstance(source, Operation) else None
        return role != StringAttr(OPEN_ENTRY)

    @property
    def updated(self) -> tuple[SSAValue, SSAValue]:
        return self.cache, self.y

    def bytes_read(self) -> Expr:
        """Only the new rows."""
        return tensor(self.new).bytes

    def work(self) -> Work:
        """The new rows are read and written; the rest of the cache stays where it is."""
        moved = tensor(self.new).bytes
        return Work(expr(0), moved, moved, "none", self.compute_dtype())

    def sharding_rule(self) -> ShardingRule:
        """Sequences, positions and key heads follow the cache."""
        return ShardingRule(
            ((SEQUENCES, POSITIONS, HEAD), (ROWS, HEAD)),
            ((SEQUENCES, POSITIONS, HEAD),),
            stationary=frozenset({0}),
        )
