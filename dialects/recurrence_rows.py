"""The row-wise ops around recurrences: step sizes, decays, normalised queries and keys, gated norms."""

from __future__ import annotations

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, StringAttr, i64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import WHOLE, ShardingRule
from pmc.dialects.layer_op import HEAD, TOKEN, RowOp
from pmc.dialects.recurrence_kinds import GATES, DecayAttr, GatedRmsNormAttr, L2NormAttr, SoftplusAttr
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kind_attr import VectorKindAttr


class _PerHeadOp(RowOp):
    """The base of ops on one number per token and head, or per column of a head, with constants beside them."""

    @property
    def row_columns(self) -> int:
        """All heads: the constants are those of whole rows."""
        return tensor(self.operands[0]).dims[1].constant

    def verify_numbers(self, bias: SSAValue) -> None:
        """x and y [T, width], bias [width]."""
        dims = tensor(self.operands[0]).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, heads]")
        self.require_shape(bias, dims[1:], "bias")
        self.require_shape(self.results[0], dims, "y")

    def sharding_rule(self) -> ShardingRule:
        """Heads are independent."""
        row = (TOKEN, HEAD)
        return ShardingRule((row, *(((HEAD,),) * (len(self.operands) - 1))), (row,))


@irdl_op_definition
class SoftplusOp(_PerHeadOp):
    """y = min(max(log(1 + exp(x + bias)), low), high): the step sizes dt of Mamba2.

    x [T, heads], bias [heads], y [T, heads]; `high` may be infinite.
    """

    name = "layer.softplus"
    x = operand_def(TensorType)
    bias = operand_def(TensorType)
    low = prop_def(FloatAttr)
    high = prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above, limits in order."""
        self.verify_numbers(self.bias)
        low, high = self.low.value.data, self.high.value.data
        self.fail_unless(low <= high, f"low is {low}, must not be above high, which is {high}")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SoftplusAttr(self.low, self.high)


@irdl_op_definition
class DecayOp(_PerHeadOp):
    """y = -exp(a_log) * log(1 + exp(x + bias)): the logarithm of the decay of a gated delta rule.

    x [T, heads*d], a_log [heads], bias [heads*d], y [T, heads*d].  d = 1: `g` of `Qwen3NextGatedDeltaNet`; else one
    decay for every column of a key, `KimiLinearForgetGate`, both of transformers 5.23.
    """

    name = "layer.decay"
    x = operand_def(TensorType)
    a_log = operand_def(TensorType)
    bias = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above."""
        self.verify_numbers(self.bias)
        heads = tensor(self.a_log).dims
        self.fail_unless(len(heads) == 1 and heads[0].is_constant, "a_log must be [heads]")
        whole = heads[0].constant > 0 and self.row_columns % heads[0].constant == 0
        self.fail_unless(whole, f"a_log is that of {heads[0]} heads, which do not divide {self.row_columns} columns")

    @property
    def group(self) -> int:
        """The columns of a head."""
        return self.row_columns // tensor(self.a_log).dims[0].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return DecayAttr(IntegerAttr(self.group, i64))


@irdl_op_definition
class L2NormOp(RowOp):
    """y = x / sqrt(sum(x^2) + eps) over each `group` columns: every query or key of a head gets length 1."""

    name = "layer.l2_norm"
    x = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    group = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Groups divide a row."""
        self.fail_unless(len(tensor(self.x).dims) == 2, "x must be [T, width]")
        self.require_groups(self.group.value.data)
        self.require_shape(self.y, tensor(self.x).dims, "y")

    @property
    def row_columns(self) -> int:
        return self.group.value.data

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return L2NormAttr(self.eps)

    def sharding_rule(self) -> ShardingRule:
        """Groups are independent."""
        row = (TOKEN, WHOLE if tensor(self.x).dims[1] == expr(self.group.value.data) else HEAD)
        return ShardingRule((row,), (row,))


@irdl_op_definition
class GatedRmsNormOp(RowOp):
    """An RMS norm over each `group` columns and a gate, in one of two orders.

    `gate_first`: y = norm(x * act(gate)) * w, as in Mamba2 and Nemotron-H; else y = norm(x) * w * act(gate), as in
    Qwen3-Next and Kimi Linear.  The activation is `silu`, in Kimi Linear `sigmoid`.  norm(x) = x / sqrt(mean(x^2) +
    eps).  x, gate and y [T, width]; w [width], or [group] for all groups.
    """

    name = "layer.gated_rms_norm"
    x = operand_def(TensorType)
    gate = operand_def(TensorType)
    w = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    group = prop_def(IntegerAttr)
    gate_first = prop_def(BoolAttr)
    activation = prop_def(StringAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Groups divide a row; w has one element per column of a row or of a group; a known activation."""
        group, dims = self.group.value.data, tensor(self.x).dims
        self.fail_unless(len(dims) == 2, "x must be [T, width]")
        self.require_groups(group)
        if tensor(self.w).dims != dims[1:]:
            self.require_shape(self.w, (expr(group),), "w")
        self.require_shape(self.gate, dims, "gate")
        self.fail_unless(
            self.activation.data in GATES, f"activation is '{self.activation.data}', must be {' or '.join(GATES)}"
        )
        self.require_shape(self.y, dims, "y")

    @property
    def row_columns(self) -> int:
        """Those that w has."""
        return tensor(self.w).dims[0].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        groups = IntegerAttr(self.row_columns // self.group.value.data, i64)
        return GatedRmsNormAttr(self.eps, groups, self.gate_first, self.activation)

    def sharding_rule(self) -> ShardingRule:
        """Groups are independent; a weight of its own for every column goes with them."""
        width, group = tensor(self.x).dims[1], expr(self.group.value.data)
        row = (TOKEN, WHOLE if width == group else HEAD)
        return ShardingRule((row, row, (WHOLE if tensor(self.w).dims[0] == group else HEAD,)), (row,))
