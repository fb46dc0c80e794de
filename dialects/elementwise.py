"""Element-wise tensor ops: activations, sums, biases, gates and factors, conversions."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, NoneAttr, StringAttr, i64
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def

from pmc.dialects.expr import Expr, ExprAttr, expr, mod
from pmc.dialects.interfaces import ROWS, WHOLE, ShardingRule
from pmc.dialects.layer_op import TOKEN, RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import (
    ActivationAttr,
    AddAttr,
    AddBiasAttr,
    ConvertAttr,
    GatedActivationAttr,
    MultiplyAttr,
    RowGateAttr,
    ScaleAttr,
    SiluMulAttr,
    SoftCapAttr,
    TemperatureAttr,
    VectorKindAttr,
)


@irdl_op_definition
class SiluMulOp(RowOp):
    """y = silu(gate) * up."""

    name = "layer.silu_mul"
    gate = operand_def(TensorType)
    up = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        self.require_shape(self.up, tensor(self.gate).dims, "up")
        self.require_shape(self.y, tensor(self.gate).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SiluMulAttr()

    def sharding_rule(self) -> ShardingRule:
        return same_factors(self)


@irdl_op_definition
class ActivationOp(RowOp):
    """y = `function` of x, one of `ACTIVATIONS` in `vector_kinds`."""

    name = "layer.activation"
    x = operand_def(TensorType)
    function = prop_def(StringAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """One shape, and a function that there is."""
        self.require_shape(self.y, tensor(self.x).dims, "y")
        require_parameters(self)

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return ActivationAttr(self.function)

    def sharding_rule(self) -> ShardingRule:
        return same_factors(self)


@irdl_op_definition
class GatedActivationOp(RowOp):
    """y = `function` of gate and up, one of `GATED_ACTIVATIONS` in `vector_kinds`.

    That of SwiGLU is `layer.silu_mul`.
    """

    name = "layer.gated_activation"
    gate = operand_def(TensorType)
    up = operand_def(TensorType)
    function = prop_def(StringAttr)
    limit = opt_prop_def(FloatAttr)
    alpha = opt_prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """One shape; a function that there is, with its own parameters."""
        self.require_shape(self.up, tensor(self.gate).dims, "up")
        self.require_shape(self.y, tensor(self.gate).dims, "y")
        require_parameters(self)

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return GatedActivationAttr(self.function, self.limit or NoneAttr(), self.alpha or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        return same_factors(self)


@irdl_op_definition
class AddOp(RowOp):
    """y = a + b; `a` is the residual or the routed experts, whose sharding decides."""

    name = "layer.add"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        self.require_shape(self.b, tensor(self.a).dims, "b")
        self.require_shape(self.y, tensor(self.a).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return AddAttr()

    def sharding_rule(self) -> ShardingRule:
        """Element-wise and linear: two partial sums of one axis add up to a partial sum."""
        return ShardingRule(
            ((TOKEN, "n"), (TOKEN, "n")), ((TOKEN, "n"),), stationary=frozenset({0}), linear=frozenset({0, 1})
        )


@irdl_op_definition
class AddBiasOp(RowOp):
    """y[.., n] = x[.., n] + b[n], or y[e, c, n] = x[e, c, n] + b[e, n] for the rows of experts.

    It is not linear: a partial sum is added up first, so that no rank adds the bias once more.  With a `share` it is a
    partial sum all the same, and b counts `share` times: once on one rank, and not at all on the others.
    """

    name = "layer.add_bias"
    x = operand_def(TensorType)
    b = operand_def(TensorType)
    share = opt_prop_def(ExprAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, N] with b [N], or x [E, C, N] with b [E, N]; a row has a number of columns."""
        dims = tensor(self.x).dims
        self.fail_unless(
            len(dims) in (2, 3) and dims[-1].is_constant, "x must be [T, N] or [E, C, N] with a number of columns"
        )
        self.require_shape(self.b, (*dims[:1], dims[-1]) if self.has_own_matrices else dims[-1:], "b")
        self.require_shape(self.y, dims, "y")
        summed = bool(tensor(self.x).partial_axes)
        self.fail_unless(self.share is None or summed, "share needs x to be a partial sum")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant

    @property
    def has_own_matrices(self) -> bool:
        return len(tensor(self.x).dims) == 3

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return AddBiasAttr(self.share or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        """Columns and experts follow b, as they follow the weight of the product before."""
        row, bias = (("e", "c", "n"), ("e", "n")) if self.has_own_matrices else ((TOKEN, "n"), ("n",))
        linear = frozenset[int]() if self.share is None else frozenset({0})
        return ShardingRule((row, bias), (row,), stationary=frozenset({1}), linear=linear)


@irdl_op_definition
class ScaleOp(RowOp):
    """y = factor * x: the multipliers of embeddings, residuals and logits of Gemma and Granite."""

    name = "layer.scale"
    x = operand_def(TensorType)
    factor = prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        self.require_shape(self.y, tensor(self.x).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return ScaleAttr(self.factor)

    def sharding_rule(self) -> ShardingRule:
        """Linear: a multiple of a partial sum is one."""
        return same_factors(self, linear=True)


@irdl_op_definition
class MultiplyOp(RowOp):
    """y = w * x, where w is one learned number: the scalar of a layer of Gemma 4."""

    name = "layer.multiply"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        self.require_shape(self.w, (expr(1),), "w")
        self.require_shape(self.y, tensor(self.x).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return MultiplyAttr()

    def sharding_rule(self) -> ShardingRule:
        """Linear in x, as the product with a number is."""
        row = tuple(f"d{i}" for i in range(len(tensor(self.x).dims)))
        return ShardingRule((row, (WHOLE,)), (row,), linear=frozenset({0}))


@irdl_op_definition
class SoftCapOp(RowOp):
    """y = cap * tanh(x / cap): the bound on the logits of Gemma 2 (`final_logit_softcapping`)."""

    name = "layer.soft_cap"
    x = operand_def(TensorType)
    cap = prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """One shape, and a positive bound."""
        self.require_shape(self.y, tensor(self.x).dims, "y")
        require_parameters(self)

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SoftCapAttr(self.cap)

    def sharding_rule(self) -> ShardingRule:
        return same_factors(self)


@irdl_op_definition
class RowGateOp(RowOp):
    """y[t, n] = sigmoid(gate[t, 0]) * x[t, n]: the gate of the shared expert of Qwen2-MoE and Qwen3-Next.

    With several gates a row each is that of as many columns in turn: one for every head of an attention (Step 3.7).
    """

    name = "layer.row_gate"
    x = operand_def(TensorType)
    gate = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, N] with a number of columns, gate [T, G] where G divides N."""
        dims, gates = tensor(self.x).dims, tensor(self.gate).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, N] with a number of columns")
        self.fail_unless(len(gates) == 2 and gates[1].is_constant, "gate must be [T, G] with a number of columns")
        self.require_shape(self.gate, (dims[0], gates[1]), "gate")
        width, count = dims[1].constant, gates[1].constant
        self.fail_unless(count > 0 and width % count == 0, f"{count} gates do not divide {width} columns")
        self.require_shape(self.y, dims, "y")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant // tensor(self.gate).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return RowGateAttr()

    def sharding_rule(self) -> ShardingRule:
        """Linear in x, whose rows decide: the partial sums of the shared expert meet those of the others."""
        if tensor(self.gate).dims[-1] != expr(1):
            return same_factors(self)
        row = (TOKEN, "n")
        return ShardingRule((row, (TOKEN, WHOLE)), (row,), stationary=frozenset({0}), linear=frozenset({0}))


@irdl_op_definition
class TemperatureOp(RowOp):
    """y = x * (1 + scale * ln(1 + floor((p + 1) / floor))): the attention temperature of Llama 4, on its queries.

    Query i of a sequence stands at p = `stride` * (kv_len - q_len + i) + `first`, as in `layer.rope`.
    """

    name = "layer.temperature"
    x = operand_def(TensorType)
    floor = prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    q_len = prop_def(ExprAttr)
    kv_len = prop_def(ExprAttr)
    stride = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))
    first = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Rows of one shape; steps of at least one position."""
        self.fail_unless(len(tensor(self.x).dims) == 2, "x must be [T, width]")
        self.require_shape(self.y, tensor(self.x).dims, "y")
        self.fail_unless(self.stride.value.data > 0, f"stride is {self.stride.value.data}, must be positive")
        require_parameters(self)

    def position(self, query: Expr) -> Expr:
        """Where query number `query` of a sequence stands."""
        return self.stride.value.data * (self.kv_len.data - self.q_len.data + query) + self.first.data

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        return TemperatureAttr(self.floor, self.scale, ExprAttr(self.position(mod(token, self.q_len.data))))

    def sharding_rule(self) -> ShardingRule:
        return ShardingRule(((ROWS, "n"),), ((ROWS, "n"),))


@irdl_op_definition
class QuantizeOp(RowOp):
    """x in another element type, with unit scale and saturation."""

    name = "layer.quantize"
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        self.require_shape(self.y, tensor(self.x).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return ConvertAttr()

    def sharding_rule(self) -> ShardingRule:
        return same_factors(self)


def require_parameters(op: RowOp) -> None:
    """Check that the vector kind of an op can make sense of its properties."""
    kind = op.vector_kind(expr(0))
    wrong = kind.wrong_parameter(tensor(op.operands[0]).dims[-1])
    op.fail_unless(wrong is None, wrong or "")


def same_factors(op: RowOp, linear: bool = False) -> ShardingRule:
    """The rule of an element-wise op: all dims may be split, alike in all operands and results."""
    factors = tuple(f"d{i}" for i in range(len(tensor(op.operands[0]).dims)))
    operands = (factors,) * len(op.operands)
    return ShardingRule(operands, (factors,), linear=frozenset(range(len(operands))) if linear else frozenset())
