"""Recurrent token mixers as tensor ops: a state of a fixed size goes from token to token of a sequence.

    %y, %after = layer.ssm_scan(%x, %b, %c, %dt, %a_log, %d, %state) at ".."
    %y, %after = layer.gated_delta(%v, %q, %k, %g, %beta, %state) {scale = 0.088} at ".."

A step reads and writes the state once, in place.  Heads are adjacent in the columns of x, v and y, and in the rows of
the state; a group of heads shares one key head.  Both ops are computed token by token on the vector unit.  For many
tokens real kernels compute chunks of them as products on the matrix unit (SSD, WY): the time of a prefill is an upper
bound because of that, the time of a decode step is not, as it is that of the state.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, f32, i64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import SEQUENCES, WHOLE, ShardingRule, Unit
from pmc.dialects.layer_op import HEAD, StateUpdateOp
from pmc.dialects.recurrence_kinds import GatedDeltaStepAttr, RecurrenceStepAttr, SsmStepAttr
from pmc.dialects.tensor import TensorType, element_name, tensor


class RecurrenceOp(StateUpdateOp):
    """The base of both: operands are the inputs of heads, of groups, of heads as one number each, constants, the state.

    Inputs of heads [T, heads*value_dim], of groups [T, groups*key_dim], numbers [T, heads], constants [heads], the
    state [batch, rows of all heads, columns] in FP32.  A number may also be one for every column of a key.
    """

    UNIT: ClassVar[Unit] = "vector"
    NUMBERS: ClassVar[int]
    """How many operands have one number per token and head, the last of them surely."""
    CONSTANTS: ClassVar[int]
    """How many operands have one number per head."""

    @property
    @abstractmethod
    def key_dim(self) -> int:
        """The columns of a key head."""

    @abstractmethod
    def step(self, shared: int) -> RecurrenceStepAttr:
        """What a command does with a tile of tokens and heads, `shared` of which have one key head.

        Its matrices are the operands in their order, and y.
        """

    @property
    def inputs(self) -> SSAValue:
        """What has columns of its own for every head."""
        return self.operands[0]

    @property
    def group_inputs(self) -> tuple[SSAValue, ...]:
        """What the heads of a group share."""
        return tuple(self.operands[1:3])

    @property
    def numbers(self) -> tuple[SSAValue, ...]:
        """One number per token and head, or `number_columns` of them."""
        return tuple(self.operands[3 : 3 + self.NUMBERS])

    @property
    def number_columns(self) -> tuple[int, ...]:
        """The columns of a head in each of these."""
        return (1,) * self.NUMBERS

    @property
    def constants(self) -> tuple[SSAValue, ...]:
        """One number per head."""
        return tuple(self.operands[3 + self.NUMBERS : -1])

    @property
    def updated(self) -> tuple[SSAValue, SSAValue]:
        return self.operands[-1], self.results[1]

    @property
    def heads(self) -> int:
        """The heads with a state of their own, on this rank."""
        return tensor(self.numbers[-1]).dims[1].constant

    @property
    def value_dim(self) -> int:
        """The columns of a head."""
        return tensor(self.inputs).dims[1].constant // self.heads

    @property
    def groups(self) -> int:
        """The key heads on this rank."""
        return tensor(self.operands[1]).dims[1].constant // self.key_dim

    def verify_(self) -> None:
        """Shapes as above; whole heads and groups; the state keeps its type, which is FP32."""
        *tokens, state = (*self.operands[: 3 + self.NUMBERS], self.operands[-1])
        ranks = all(len(tensor(v).dims) == 2 and tensor(v).dims[1].is_constant for v in tokens)
        self.fail_unless(ranks, f"{self._names(tokens)} must be [T, width] with a number of columns")
        self.fail_unless(len(tensor(state).dims) == 3, "the state must be [batch, rows, columns]")
        (rows, width), heads = tensor(self.inputs).dims, self.heads
        self.fail_unless(heads > 0 and width.constant % heads == 0, f"{heads} heads do not divide {width} columns")
        self._verify_state()
        keys, key_dim = tensor(self.operands[1]).dims[1].constant, self.key_dim
        self.fail_unless(keys > 0 and keys % key_dim == 0, f"{keys} columns are not whole groups of {key_dim}")
        self.fail_unless(heads % self.groups == 0, f"{self.groups} groups do not divide {heads} heads")
        for value in self.group_inputs:
            self.require_shape(value, (rows, expr(keys)), self._names([value]))
        for value, columns in zip(self.numbers, self.number_columns, strict=True):
            self.require_shape(value, (rows, expr(heads * columns)), self._names([value]))
        for value in self.constants:
            self.require_shape(value, (expr(heads),), self._names([value]))
        self.require_shape(self.results[0], (rows, width), "y")
        self.require_sequences(rows, tensor(state).dims[0])
        stored = tensor(state).element_type
        self.fail_unless(stored == f32, f"the state is {stored}, must be f32: it adds up over all tokens")
        self.fail_unless(self.updated[1].type == state.type, "the state after the step must have the type of the state")

    @abstractmethod
    def _verify_state(self) -> None:
        """The rows and columns of the state are those of the heads, and so are those of their numbers."""

    def _names(self, values: list[SSAValue]) -> str:
        """The names of operands."""
        names = [field for field, _ in self.get_irdl_definition().operands]
        return ", ".join(names[self.operands.index(value)] for value in values)

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """A tile of outputs may overwrite the inputs of the same heads and tokens, which nothing else reads."""
        return [(self.inputs, self.results[0])] if self.inputs.type == self.results[0].type else []

    def compute_dtype(self) -> str:
        """That of the state."""
        return element_name(tensor(self.operands[-1]).element_type)

    def flops(self) -> Expr:
        """Those of the recurrence for every token of every head."""
        return tensor(self.numbers[-1]).elements * self.step(1).flops_per_element

    def sharding_rule(self) -> ShardingRule:
        """Heads are independent; one group is shared by all, more are split as the heads are.

        A sequence is gone through from its first token to its last.
        """
        rows, state = (SEQUENCES, HEAD), (SEQUENCES, HEAD, WHOLE)
        group = (SEQUENCES, WHOLE if self.groups == 1 else HEAD)
        constants = ((HEAD,),) * self.CONSTANTS
        operands = (rows, group, group, *((rows,) * self.NUMBERS), *constants, state)
        return ShardingRule(operands, (rows, state), stationary=frozenset({len(operands) - 1}))


@irdl_op_definition
class SsmScanOp(RecurrenceOp):
    """S = exp(dt A) S + dt x B^T, y = S C + D x for every token and head, with A = -exp(a_log).

    x [T, heads*p], B and C [T, groups*n], dt [T, heads] after bias, softplus and limits, a_log and D [heads], the state
    [batch, heads*p, n]: S of head h in rows h*p .. h*p+p.  Results: y [T, heads*p], and the state after the last token.
    The recurrence of Mamba2 (Dao and Gu, 2024), `mamba2_selective_state_update` of transformers 5.23.
    """

    name = "layer.ssm_scan"
    NUMBERS: ClassVar[int] = 1
    CONSTANTS: ClassVar[int] = 2
    x = operand_def(TensorType)
    b = operand_def(TensorType)
    c = operand_def(TensorType)
    dt = operand_def(TensorType)
    a_log = operand_def(TensorType)
    d = operand_def(TensorType)
    state = operand_def(TensorType)
    y = result_def(TensorType)
    after = result_def(TensorType)

    @property
    def key_dim(self) -> int:
        return tensor(self.state).dims[2].constant

    def step(self, shared: int) -> SsmStepAttr:
        return SsmStepAttr(*(IntegerAttr(size, i64) for size in (self.key_dim, self.value_dim, shared)))

    def _verify_state(self) -> None:
        batch, _, columns = tensor(self.state).dims
        self.fail_unless(columns.is_constant and columns.constant > 0, "the state must have a number of columns")
        self.require_shape(self.state, (batch, tensor(self.x).dims[1], columns), "the state")


@irdl_op_definition
class GatedDeltaOp(RecurrenceOp):
    """S = exp(g) S, S = S + k (beta (v - S^T k))^T, y = scale S^T q for every token and head.

    v [T, heads*d_v], q and k [T, groups*d_k], the logarithm g of the decay and beta [T, heads], the state
    [batch, heads*d_k, d_v]: S of head h in rows h*d_k .. h*d_k+d_k.  Results: y [T, heads*d_v], and the state after the
    last token.  Whether q and k have length 1 is up to the ops before, see `layer.l2_norm`.  The gated delta rule
    (Yang, Kautz and Hatamizadeh, 2024), `torch_recurrent_gated_delta_rule` of transformers 5.23.

    g [T, heads*d_k] is a decay of its own for every row of S, exp(g) along the columns of a key: Kimi Delta Attention
    (arXiv 2510.26692), `recurrent_kimi_delta_attention` of transformers 5.23.
    """

    name = "layer.gated_delta"
    NUMBERS: ClassVar[int] = 2
    CONSTANTS: ClassVar[int] = 0
    v = operand_def(TensorType)
    q = operand_def(TensorType)
    k = operand_def(TensorType)
    g = operand_def(TensorType)
    beta = operand_def(TensorType)
    state = operand_def(TensorType)
    scale = prop_def(FloatAttr)
    y = result_def(TensorType)
    after = result_def(TensorType)

    @property
    def key_dim(self) -> int:
        return tensor(self.state).dims[1].constant // self.heads

    @property
    def number_columns(self) -> tuple[int, ...]:
        of_head = tensor(self.g).dims[1] == expr(self.heads)
        return (1 if of_head else self.key_dim, 1)

    def step(self, shared: int) -> GatedDeltaStepAttr:
        sizes = (self.key_dim, self.value_dim, shared, self.number_columns[0])
        key, value, of_key, decays = (IntegerAttr(size, i64) for size in sizes)
        return GatedDeltaStepAttr(key, value, of_key, decays, self.scale)

    def _verify_state(self) -> None:
        batch, rows, _ = tensor(self.state).dims
        self.fail_unless(
            rows.is_constant and rows.constant > 0 and rows.constant % self.heads == 0,
            f"{self.heads} heads do not divide {rows} rows of the state",
        )
        self.require_shape(self.state, (batch, rows, expr(self.value_dim)), "the state")
        width, heads, keys = tensor(self.g).dims[1].constant, self.heads, rows.constant
        self.fail_unless(
            width in (heads, keys),
            f"g has {width} columns, must have {heads}, one per head, or {keys}, one per row of the state",
        )
