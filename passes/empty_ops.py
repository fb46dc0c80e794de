"""What `bind-symbols` does with ops that turn out to have nothing to work on.

In a step in which no entry closes (`layer.compress`) there are no rows to pool, to normalise, to rotate and to append,
and before the first entry closes there is none to attend to.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from pmc.dialects import layer
from pmc.dialects.dist import CollectiveOp
from pmc.dialects.tensor import TensorType


def drop_empty_ops(module: ModuleOp) -> None:
    """Erase ops whose results have no elements; appends of no rows, and attention over no entries, hand on what was."""
    for op in reversed(list(module.walk())):
        if isinstance(op, layer.KvAppendOp) and _is_empty(op.new):
            op.y.replace_all_uses_with(op.cache)
            op.detach()
            op.erase()
        elif isinstance(op, layer.CompressedAttentionOp) and _is_empty(op.v):
            _finish(op)
        elif isinstance(op, layer.LayerOp | CollectiveOp) and op.results:
            if all(_is_empty(result) and result.first_use is None for result in op.results):
                op.detach()
                op.erase()


def _finish(op: layer.CompressedAttentionOp) -> None:
    """The state of the attention before is the result."""
    finish = layer.AttentionFinishOp.make([op.acc, op.row_sum], [op.y.type], op.path.data, like=op)
    Rewriter.insert_op(finish, InsertPoint.before(op))
    op.y.replace_all_uses_with(finish.y)
    op.detach()
    op.erase()


def _is_empty(value: SSAValue) -> bool:
    type_ = value.type
    return isinstance(type_, TensorType) and any(dim == 0 for dim in type_.dims)
