"""Hyper-connections as tensor ops: a residual of several streams that is read, and written to, with weights.

The streams of a token lie beside each other in its row: x [T, streams*width].  Weights are (pre, post, comb), see
`hyper_connection_kinds`.  Manifold-constrained hyper-connections (Xie et al., 2026), as in DeepSeek-V4.
"""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, i64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.hyper_connection_kinds import (
    CollapseStreamsAttr,
    CopyStreamsAttr,
    MixStreamsAttr,
    StreamWeightsAttr,
    weights_of_a_row,
)
from pmc.dialects.interfaces import WHOLE, ShardingRule
from pmc.dialects.layer_op import TOKEN, RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kind_attr import VectorKindAttr

ROW_OF_A_TOKEN = (TOKEN, WHOLE)
"""Tokens are independent; the columns of a row belong together."""


class StreamsOp(RowOp):
    """The base of these ops: whole rows, one token each."""

    @property
    def row_columns(self) -> int:
        return tensor(self.operands[0]).dims[1].constant

    def require_rows(self) -> None:
        """The first operand is [T, columns] with a number of columns."""
        dims = tensor(self.operands[0]).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, columns] with a number of columns")

    def require_streams(self, count: int) -> int:
        """The width of each of the streams of a row of the first operand."""
        self.require_rows()
        self.fail_unless(count > 1, f"streams is {count}, must be at least 2")
        self.require_groups(count)
        return self.row_columns // count

    def require_weights(self, weights: SSAValue, count: int, of_head: bool) -> None:
        """Rows of weights of a block, or, where they will do, those of the head."""
        rows, columns = tensor(self.operands[0]).dims[0], tensor(weights).dims[-1]
        head = of_head and columns == expr(weights_of_a_row(count, collapses_only=True))
        self.require_shape(weights, (rows, expr(weights_of_a_row(count, head))), "weights")

    def widths(self, weights: SSAValue, count: int) -> tuple[IntegerAttr, IntegerAttr]:
        """The width of a stream, the columns of a row of weights."""
        return IntegerAttr(self.row_columns // count, i64), IntegerAttr(tensor(weights).dims[1].constant, i64)

    def sharding_rule(self) -> ShardingRule:
        """Tokens are independent, their rows whole."""
        rows = [ROW_OF_A_TOKEN if len(tensor(v).dims) == 2 else (WHOLE,) for v in self.operands]
        return ShardingRule(tuple(rows), (ROW_OF_A_TOKEN,))


@irdl_op_definition
class CopyStreamsOp(StreamsOp):
    """y [T, streams*width] = x [T, width] as often as there are streams: the residual in front of the first layer."""

    name = "layer.copy_streams"
    x = operand_def(TensorType)
    streams = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Rows become `streams` times as wide."""
        self.require_rows()
        count = self.streams.value.data
        self.fail_unless(count > 1, f"streams is {count}, must be at least 2")
        rows, width = tensor(self.x).dims
        self.require_shape(self.y, (rows, width * count), "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return CopyStreamsAttr(self.streams)


@irdl_op_definition
class StreamWeightsOp(StreamsOp):
    """The weights of every token from their logits x [T, (2+n)*n], or [T, n] with 0 `iterations`: only pre.

    scale [3] or [1] has a factor for pre, post and comb, base an offset for every weight; what is computed is said by
    `StreamWeightsAttr`.
    """

    name = "layer.stream_weights"
    x = operand_def(TensorType)
    scale = operand_def(TensorType)
    base = operand_def(TensorType)
    streams = prop_def(IntegerAttr)
    iterations = prop_def(IntegerAttr)
    eps = prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above."""
        self.require_rows()
        dims, iterations = tensor(self.x).dims, self.iterations.value.data
        wrong = self.vector_kind(expr(0)).wrong_parameter(dims[1])
        self.fail_unless(wrong is None, wrong or "")
        self.require_shape(self.scale, (expr(3 if iterations else 1),), "scale")
        self.require_shape(self.base, dims[1:], "base")
        self.require_shape(self.y, dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return StreamWeightsAttr(self.streams, self.iterations, self.eps)


@irdl_op_definition
class CollapseStreamsOp(StreamsOp):
    """y [T, width] = the sum of the streams of x [T, streams*width], each times its weight pre: what a block reads."""

    name = "layer.collapse_streams"
    x = operand_def(TensorType)
    weights = operand_def(TensorType)
    streams = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Weights of a block, or of the head."""
        count = self.streams.value.data
        width = self.require_streams(count)
        self.require_weights(self.weights, count, of_head=True)
        self.require_shape(self.y, (tensor(self.x).dims[0], expr(width)), "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return CollapseStreamsAttr(self.streams, *self.widths(self.weights, self.streams.value.data))


@irdl_op_definition
class MixStreamsOp(StreamsOp):
    """y = the streams of x [T, streams*width] mixed by comb, plus added [T, width] times post: behind a block.

    Stream k of y is post_k * added + sum over j of comb_jk * stream j of x.
    """

    name = "layer.mix_streams"
    x = operand_def(TensorType)
    added = operand_def(TensorType)
    weights = operand_def(TensorType)
    streams = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Weights of a block."""
        count, dims = self.streams.value.data, tensor(self.x).dims
        width = self.require_streams(count)
        self.require_shape(self.added, (dims[0], expr(width)), "added")
        self.require_weights(self.weights, count, of_head=False)
        self.require_shape(self.y, dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return MixStreamsAttr(self.streams, *self.widths(self.weights, self.streams.value.data))

    def sharding_rule(self) -> ShardingRule:
        """The residual decides where tokens are, as in `layer.add`."""
        rule = super().sharding_rule()
        return ShardingRule(rule.operands, rule.results, stationary=frozenset({0}))
