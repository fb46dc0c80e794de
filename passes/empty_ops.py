"""What `bind-symbols` does with ops that turn out to have nothing to work on.

In a step in which no entry closes (`layer.compress`) there are no rows to pool, to normalise, to rotate and to append,
and before the first entry closes there is none to attend to.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.rewriter import InsertPoint, Rewriter

from pmc.dialects import layer
from pmc.dialects.analyses.idle_ops import is_empty, is_idle


def drop_empty_ops(module: ModuleOp) -> None:
    """Erase ops whose results have no elements; appends of no rows, and attention over no entries, hand on what was."""
    for op in reversed(list(module.walk())):
        if isinstance(op, layer.CompressedAttentionOp) and is_empty(op.v, {}):
            # The running state of the attention before it is all that there is.
            finish = layer.AttentionFinishOp.make([op.acc, op.row_sum], [op.y.type], op.path.data, like=op)
            Rewriter.insert_op(finish, InsertPoint.before(op))
            op.y.replace_all_uses_with(finish.y)
        elif is_idle(op, {}):
            if isinstance(op, layer.KvAppendOp):
                op.y.replace_all_uses_with(op.cache)
        else:
            continue
        if all(result.first_use is None for result in op.results):
            Rewriter.erase_op(op)
