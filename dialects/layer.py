"""The `layer` dialect: one op is one tensor operation on typed tensors, in SSA form.

    %q = layer.matmul(%x, %w) at "blocks.moe.mla.q_a_proj" : !layer.tensor<[batch*q_len, 1536], bf16>

Tokens are flat: an activation is `[batch*q_len, width]`, token `b*q_len + i` is query i of sequence b.  `kv_len`
counts all keys of a sequence, the current queries included, so query i stands at position `kv_len - q_len + i`.
A cache is `[batch, kv_len, width]`; one that serves a window or a chunk has fewer rows, the newest last.  Heads are
adjacent in the width of a row: head h of width d is columns `h*d .. h*d+d`.  Weights are ops inside the body that uses
them; inside a `layer.repeat` a weight or a cache means that of the iteration.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    NoneAttr,
    StringAttr,
    UnitAttr,
    i64,
)
from xdsl.ir import Dialect, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
)

from pmc.dialects.block_sparse_attention import BlockScoresOp as BlockScoresOp
from pmc.dialects.causal_conv import CausalConvOp as CausalConvOp
from pmc.dialects.collective import CollectiveAttr, CombineAttr, DispatchAttr
from pmc.dialects.compressed_attention import CompressedAttentionOp as CompressedAttentionOp
from pmc.dialects.compressed_attention import CompressOp as CompressOp
from pmc.dialects.effects import READS, Effects
from pmc.dialects.elementwise import ActivationOp as ActivationOp
from pmc.dialects.elementwise import AddBiasOp as AddBiasOp
from pmc.dialects.elementwise import AddOp as AddOp
from pmc.dialects.elementwise import GatedActivationOp as GatedActivationOp
from pmc.dialects.elementwise import MultiplyOp as MultiplyOp
from pmc.dialects.elementwise import QuantizeOp as QuantizeOp
from pmc.dialects.elementwise import RowGateOp as RowGateOp
from pmc.dialects.elementwise import ScaleOp as ScaleOp
from pmc.dialects.elementwise import SiluMulOp as SiluMulOp
from pmc.dialects.elementwise import SoftCapOp as SoftCapOp
from pmc.dialects.elementwise import TemperatureOp as TemperatureOp
from pmc.dialects.expr import Expr, ExprAttr, expr, mod, product
from pmc.dialects.flash_attention import AttentionFinishOp as AttentionFinishOp
from pmc.dialects.flash_attention import AttentionOp as AttentionOp
from pmc.dialects.flash_attention import AttentionStepOp as AttentionStepOp
from pmc.dialects.flash_attention import FlashAttentionOp as FlashAttentionOp
from pmc.dialects.hyper_connections import CollapseStreamsOp as CollapseStreamsOp
from pmc.dialects.hyper_connections import CopyStreamsOp as CopyStreamsOp
from pmc.dialects.hyper_connections import MixStreamsOp as MixStreamsOp
from pmc.dialects.hyper_connections import StreamWeightsOp as StreamWeightsOp
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, WHOLE, ShardingRule, Unit, Work
from pmc.dialects.kv_append import KvAppendOp as KvAppendOp
from pmc.dialects.layer_op import HEAD, TOKEN, OnChipExchangeOp, RowOp
from pmc.dialects.layer_op import LayerOp as LayerOp
from pmc.dialects.layer_op import MatrixOp as MatrixOp
from pmc.dialects.layer_op import StateUpdateOp as StateUpdateOp
from pmc.dialects.layer_structure import ProgramOp as ProgramOp
from pmc.dialects.layer_structure import RepeatOp as RepeatOp
from pmc.dialects.layer_structure import ReturnOp as ReturnOp
from pmc.dialects.layer_structure import YieldOp as YieldOp
from pmc.dialects.norms import AddRmsNormOp as AddRmsNormOp
from pmc.dialects.norms import LayerNormOp as LayerNormOp
from pmc.dialects.norms import RmsNormOp as RmsNormOp
from pmc.dialects.norms import SplitRmsNormOp as SplitRmsNormOp
from pmc.dialects.norms import SquareSumOp as SquareSumOp
from pmc.dialects.recurrence import GatedDeltaOp as GatedDeltaOp
from pmc.dialects.recurrence import RecurrenceOp as RecurrenceOp
from pmc.dialects.recurrence import SsmScanOp as SsmScanOp
from pmc.dialects.recurrence_rows import DecayOp as DecayOp
from pmc.dialects.recurrence_rows import GatedRmsNormOp as GatedRmsNormOp
from pmc.dialects.recurrence_rows import L2NormOp as L2NormOp
from pmc.dialects.recurrence_rows import SoftplusOp as SoftplusOp
from pmc.dialects.rope_scaling import of_length
from pmc.dialects.sparse_attention import GatherRowsOp as GatherRowsOp
from pmc.dialects.sparse_attention import IndexScoresOp as IndexScoresOp
from pmc.dialects.sparse_attention import SparseAttentionOp as SparseAttentionOp
from pmc.dialects.sparse_attention import TopkSelectOp as TopkSelectOp
from pmc.dialects.state_roles import STATE_ROLES
from pmc.dialects.tensor import ScaledType, ShapeAttr, TensorType, element_name, tensor
from pmc.dialects.vector_kinds import (
    SCORINGS,
    AddAttr,
    ExpertScaleAttr,
    RopeAttr,
    RouterTopkAttr,
    RouterWeightsAttr,
    VectorKindAttr,
)

# -- weights and state ------------------------------------------------------------------------------------------


EXPERT_AXIS = "expert"
"""The logical axis of a weight that counts experts."""


class SourceOp(LayerOp):
    """A tensor that the program finds in memory.  `axes` names the logical axis of every dim ('' for none)."""

    UNIT: ClassVar[Unit] = "none"
    ROLES: ClassVar[tuple[str, ...]]
    """What a tensor can be, where its users must know."""
    axes = prop_def(ArrayAttr[StringAttr])
    role = opt_prop_def(StringAttr)
    result = result_def(TensorType)

    def verify_(self) -> None:
        self.fail_unless(
            len(self.axes.data) == len(tensor(self.result).dims),
            f"{len(self.axes.data)} axes for a tensor of {len(tensor(self.result).dims)} dims",
        )
        if self.role is not None:
            expected = " or ".join(f"'{role}'" for role in self.ROLES)
            self.fail_unless(self.role.data in self.ROLES, f"the role is '{self.role.data}', must be {expected}")

    def axis_names(self) -> tuple[str, ...]:
        """The logical axis of each dim."""
        return tuple(a.data for a in self.axes.data)

    def sharding_rule(self) -> ShardingRule:
        """A source has no operands; its sharding follows from its axes."""
        return ShardingRule((), (tuple(str(i) for i in range(len(self.axes.data))),))

    def work(self) -> Work:
        """Naming a tensor costs nothing; the op that reads it pays."""
        return Work(expr(0), expr(0), expr(0), "none", element_name(tensor(self.result).element_type))


@irdl_op_definition
class WeightOp(SourceOp):
    """A parameter of the model; its path is the name of the parameter."""

    name = "layer.weight"
    ROLES: ClassVar[tuple[str, ...]] = ("bias",)
    below = opt_prop_def(IntegerAttr)
    """Of a table of experts by token id: their number, below which all its entries are."""
    transpose_of = opt_prop_def(StringAttr)
    """The path of the stored parameter that this one is the transpose of (tied embeddings)."""


@irdl_op_definition
class StateOp(SourceOp):
    """A cache that lives across steps; `layer.kv_append` writes to it.

    The role says what a row holds: the keys or values of the heads that the rank has, one latent for all heads, or the
    key of an indexer.  Two roles have a fixed size, however long the sequence is, and are replaced in every step:
    `conv`, the last inputs of a convolution, and `recurrent`, what a recurrence has of all tokens before.
    """

    name = "layer.state"
    EFFECTS: ClassVar[Effects] = READS
    ROLES: ClassVar[tuple[str, ...]] = STATE_ROLES


# -- matrix ops -------------------------------------------------------------------------------------------------


@irdl_op_definition
class MatmulOp(MatrixOp):
    """y[.., n] = sum_k x[.., k] w[k, n]."""

    name = "layer.matmul"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [.., K], w [K, N], y [.., N]."""
        x, w = tensor(self.x).dims, tensor(self.w).dims
        self.fail_unless(len(x) > 1 and len(w) == 2, "x must be [.., K] and w [K, N]")
        self.require_shape(self.w, (*x[-1:], w[1]), "w")
        self.require_shape(self.y, (*x[:-1], w[1]), "y")

    def flops(self) -> Expr:
        """2 M N K."""
        return 2 * product(tensor(self.x).dims) * tensor(self.w).dims[1]

    def sharding_rule(self) -> ShardingRule:
        """Rows follow x, columns follow w, K is contracted."""
        rows = (TOKEN, POSITIONS)[: len(tensor(self.x).dims) - 1]
        return ShardingRule(((*rows, "k"), ("k", "n")), ((*rows, "n"),), stationary=frozenset({1}))


@irdl_op_definition
class GroupedMatmulOp(MatrixOp):
    """y[e, c, n] = sum_k x[e, c, k] w[e, k, n]: one matmul per local expert."""

    name = "layer.grouped_matmul"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [E, C, K], w [E, K, N], y [E, C, N]."""
        x, w = tensor(self.x).dims, tensor(self.w).dims
        self.fail_unless(len(w) == 3 and len(x) == 3, "x must be [E, C, K] and w [E, K, N]")
        self.require_shape(self.w, (x[0], x[2], w[2]), "w")
        self.require_shape(self.y, (x[0], x[1], w[2]), "y")

    def flops(self) -> Expr:
        """2 E C K N."""
        return 2 * product(tensor(self.x).dims) * tensor(self.w).dims[2]

    def sharding_rule(self) -> ShardingRule:
        """Experts and columns follow w, the capacity follows x, K is contracted."""
        return ShardingRule((("e", "c", "k"), ("e", "k", "n")), (("e", "c", "n"),), stationary=frozenset({1}))


@irdl_op_definition
class GatedMatmulOp(MatrixOp):
    """y = silu(x gate) * (x up), the first half of a SwiGLU: two products of one x that never leave the cores.

    With one matrix each as `layer.matmul`, with one per local expert as `layer.grouped_matmul`.
    """

    name = "layer.gated_matmul"
    x = operand_def(TensorType)
    gate = operand_def(TensorType)
    up = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [.., K], gate and up [K, N], y [.., N]; or with experts [E, C, K], [E, K, N] and [E, C, N]."""
        x, gate = tensor(self.x).dims, tensor(self.gate).dims
        self.fail_unless(
            len(x) > 1 and (len(gate) == 2 or (len(gate) == 3 and len(x) == 3)),
            "x must be [.., K] and gate [K, N], or x [E, C, K] and gate [E, K, N]",
        )
        experts = x[:1] if self.is_grouped else ()
        self.require_shape(self.gate, (*experts, *x[-1:], gate[-1]), "gate")
        self.fail_unless(self.up.type == self.gate.type, f"up is {self.up.type}, must be {self.gate.type}, as gate")
        self.require_shape(self.y, (*x[:-1], gate[-1]), "y")

    @property
    def is_grouped(self) -> bool:
        """Whether every local expert has matrices of its own."""
        return len(tensor(self.gate).dims) == 3

    def flops(self) -> Expr:
        """Those of two products."""
        return 4 * product(tensor(self.x).dims) * tensor(self.gate).dims[-1]

    def sharding_rule(self) -> ShardingRule:
        """As the products, but for K: a partial sum has no activation."""
        rows = ("e", "c") if self.is_grouped else (TOKEN, POSITIONS)[: len(tensor(self.x).dims) - 1]
        weight = ("e", WHOLE, "n") if self.is_grouped else (WHOLE, "n")
        return ShardingRule(((*rows, WHOLE), weight, weight), ((*rows, "n"),), stationary=frozenset({1, 2}))


@irdl_op_definition
class HeadMatmulOp(MatrixOp):
    """One matmul per head, with the heads adjacent in the columns of x, w and y.

    `group` is the width of a head in w [R, heads*group].  Plain: x [T, heads*R] -> y [T, heads*group];
    transposed: x [T, heads*group] -> y [T, heads*R].  These are the absorbed projections of MLA decode.
    """

    name = "layer.head_matmul"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    group = prop_def(IntegerAttr)
    transpose = prop_def(BoolAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x and y have the same rows; their widths are heads times the two sides of w's head block."""
        self.fail_unless(
            all(len(tensor(v).dims) == 2 for v in (self.x, self.w, self.y)) and self.group.value.data > 0,
            "x, w and y must have two dims, and a group at least one column",
        )
        self.require_shape(self.y, (tensor(self.x).dims[0], tensor(self.y).dims[1]), "y")
        wide_in, rank, wide_out = tensor(self.x).dims[-1], tensor(self.w).dims[0], tensor(self.y).dims[-1]
        of_rank, of_group = (wide_out, wide_in) if self.transpose else (wide_in, wide_out)
        group = self.group.value.data
        self.fail_unless(
            of_group * rank == of_rank * group and tensor(self.w).dims[1] == of_group,
            "the widths of x, w and y do not agree",
        )

    def flops(self) -> Expr:
        """2 T heads R group."""
        t, w = tensor(self.x).dims[0], tensor(self.w).dims
        return 2 * t * w[0] * w[1]

    def sharding_rule(self) -> ShardingRule:
        """Heads are sharded alike in x, w and y."""
        return ShardingRule(((TOKEN, HEAD), (WHOLE, HEAD)), ((TOKEN, HEAD),), stationary=frozenset({1}))


# -- row-wise ops -----------------------------------------------------------------------------------------------


@irdl_op_definition
class EmbeddingOp(LayerOp):
    """Rows of the table by token id.  On a shard of the vocabulary, ids of other shards give zeros.

    A table of integers gives numbers of experts (hash routing); it is whole on every rank.
    """

    name = "layer.embedding"
    UNIT: ClassVar[Unit] = "none"
    tokens = operand_def(TensorType)
    table = operand_def(TensorType)
    vocab_axis = opt_prop_def(StringAttr)
    """The mesh axis that shards the vocabulary, once the program is local."""
    y = result_def(TensorType)

    def verify_(self) -> None:
        """tokens [T], table [V, N], y [T, N]."""
        tokens, table = tensor(self.tokens).dims, tensor(self.table).dims
        self.fail_unless(len(tokens) == 1 and len(table) == 2, "tokens must be [T] and the table [V, N]")
        self.require_shape(self.y, (tokens[0], table[1]), "y")

    def bytes_read(self) -> Expr:
        """The ids and one row per token, not the table."""
        return tensor(self.tokens).bytes + tensor(self.y).bytes

    def sharding_rule(self) -> ShardingRule:
        """A sharded vocabulary makes the rows partial sums."""
        return ShardingRule(((TOKEN,), ("v", "n")), ((TOKEN, "n"),), stationary=frozenset({1}))


@irdl_op_definition
class PositionEmbeddingOp(LayerOp):
    """y[t] = x[t] + table[position + offset] with the position of token t in its sequence: learned positions.

    Query i of a sequence stands at kv_len - q_len + i.  `offset` is that of OPT, 2; GPT-2 has none.  Every token reads
    its row of the table, as in an embedding.
    """

    name = "layer.position_embedding"
    x = operand_def(TensorType)
    table = operand_def(TensorType)
    q_len = prop_def(ExprAttr)
    kv_len = prop_def(ExprAttr)
    offset = prop_def(IntegerAttr, default_value=IntegerAttr(0, i64))
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, N] with a number of columns, table [P, N], which has a row for the last position."""
        x, table = tensor(self.x).dims, tensor(self.table).dims
        self.fail_unless(
            len(x) == 2 and x[1].is_constant and len(table) == 2,
            "x must be [T, N] with a number of columns, table [P, N]",
        )
        self.require_shape(self.table, (table[0], x[1]), "table")
        self.require_shape(self.y, x, "y")
        offset, last = self.offset.value.data, self.kv_len.data + self.offset.value.data
        self.fail_unless(offset >= 0, f"offset is {offset}, must not be negative")
        if last.is_constant and table[0].is_constant:
            rows = table[0].constant
            self.fail_unless(
                last.constant <= rows, f"the last position needs row {last.constant - 1}, table has {rows}"
            )

    @property
    def first_row(self) -> Expr:
        """The row of the table for the first query of a sequence."""
        return self.kv_len.data - self.q_len.data + self.offset.value.data

    def vector_kind(self) -> VectorKindAttr:
        """What the command does with rows of x and of the table."""
        return AddAttr()

    def flops(self) -> Expr:
        """An addition per element."""
        return tensor(self.x).elements * AddAttr.FLOPS

    def bytes_read(self) -> Expr:
        """x, and a row of the table per token."""
        return tensor(self.x).bytes + tensor(self.table).with_dims(tensor(self.x).dims).bytes

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """A tile writes the rows that it has read."""
        return [(self.x, self.y)] if self.x.type == self.y.type else []

    def sharding_rule(self) -> ShardingRule:
        """Whole sequences: a rank has the positions of the program."""
        row = (SEQUENCES, "n")
        return ShardingRule((row, (WHOLE, "n")), (row,), stationary=frozenset({1}))


@irdl_op_definition
class RopeOp(RowOp):
    """Rotary position embedding of every `head_dim` columns.

    Query i of a sequence stands at `stride` * (kv_len - q_len + i) + `first`: 1 and 0, but for a rank of cp.
    `interleaved` pairs columns (2j, 2j+1), otherwise (j, j + head_dim/2).  `scaling` holds the fields of the Hugging
    Face `rope_scaling` (yarn, llama3) that change the frequencies; what follows from the length of a sequence stands
    there for both lengths (`rope_scaling.py`).

    With `rotary_dim` only the first columns of a head are rotated, as a head of that width, and the rest is copied
    (`partial_rotary_factor` and `rotary_dim` of Hugging Face); with `trailing` the last ones.  `inverse` turns by
    minus the angles, so that what has been rotated comes back (DeepSeek-V4).
    """

    name = "layer.rope"
    x = operand_def(TensorType)
    head_dim = prop_def(IntegerAttr)
    theta = prop_def(FloatAttr)
    interleaved = prop_def(BoolAttr)
    q_len = prop_def(ExprAttr)
    kv_len = prop_def(ExprAttr)
    stride = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))
    first = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    scaling = opt_prop_def(DictionaryAttr)
    rotary_dim = opt_prop_def(IntegerAttr)
    trailing = opt_prop_def(UnitAttr)
    inverse = opt_prop_def(UnitAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Pairs of columns are rotated, by angles that a positive theta gives."""
        self.require_shape(self.y, tensor(self.x).dims, "y")
        self.fail_unless(len(tensor(self.x).dims) == 2, "x must be [T, width]")
        self.require_groups(self.head_dim.value.data)
        head_dim = self.head_dim.value.data
        if self.rotary_dim is None:
            self.fail_unless(head_dim % 2 == 0, f"head_dim {head_dim} is odd")
            self.fail_unless(self.trailing is None, "trailing needs rotary_dim: without it all columns are rotated")
        else:
            rotary = self.rotary_dim.value.data
            self.fail_unless(
                0 < rotary < head_dim and rotary % 2 == 0,
                f"rotary_dim is {rotary}, must be positive, even and less than {head_dim}, the head_dim",
            )
        self.fail_unless(self.theta.value.data > 0, f"theta is {self.theta.value.data}, must be positive")
        self.fail_unless(self.stride.value.data > 0, f"stride is {self.stride.value.data}, must be positive")

    def position(self, query: Expr) -> Expr:
        """Where query number `query` of a sequence stands."""
        return self.stride.value.data * (self.kv_len.data - self.q_len.data + query) + self.first.data

    @property
    def row_columns(self) -> int:
        return self.head_dim.value.data

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        position = self.position(mod(token, self.q_len.data))
        columns = self.rotary_dim or NoneAttr(), self.trailing or NoneAttr(), self.inverse or NoneAttr()
        scaling, tokens = self.scaling, self.sequence_length
        if scaling is not None and tokens.is_constant:
            scaling = of_length(scaling, tokens.constant)
        return RopeAttr(self.theta, self.interleaved, ExprAttr(position), scaling or NoneAttr(), *columns)

    @property
    def sequence_length(self) -> Expr:
        """The tokens of a whole sequence."""
        return self.stride.value.data * self.kv_len.data

    def sharding_rule(self) -> ShardingRule:
        """Heads may be sharded, the columns of one head not."""
        return ShardingRule(((ROWS, HEAD),), ((ROWS, HEAD),))


# -- views ------------------------------------------------------------------------------------------------------


@irdl_op_definition
class SliceOp(LayerOp):
    """Columns `offset .. offset+size` of every `group` columns: a view, no data moves."""

    name = "layer.slice"
    UNIT: ClassVar[Unit] = "none"
    x = operand_def(TensorType)
    group = prop_def(IntegerAttr)
    offset = prop_def(IntegerAttr)
    size = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """The slice lies inside the group and the width of x is whole groups."""
        group, offset, size = (p.value.data for p in (self.group, self.offset, self.size))
        self.fail_unless(offset >= 0 and size > 0 and offset + size <= group, "the slice leaves its group")
        x, y = tensor(self.x).dims, tensor(self.y).dims
        self.require_shape(self.y, (*x[:-1], y[-1]), "y")
        self.fail_unless(x[-1] * size == y[-1] * group, "the width of y is not size per group of x")
        self.fail_unless(tensor(self.y).element_type == tensor(self.x).element_type, "a view has the type of x")

    def work(self) -> Work:
        """A view costs nothing."""
        return Work(expr(0), expr(0), expr(0), "none", self.compute_dtype())

    def sharding_rule(self) -> ShardingRule:
        """Whole groups may be sharded."""
        dims = tensor(self.x).dims
        column = WHOLE if dims[-1] == expr(self.group.value.data) else HEAD
        leading = tuple(f"d{i}" for i in range(len(dims) - 1))
        return ShardingRule(((*leading, column),), ((*leading, column),), linear=frozenset({0}))


@irdl_op_definition
class LastTokenOp(LayerOp):
    """The row of the last query of every sequence, the only one that needs logits in prefill."""

    name = "layer.last_token"
    UNIT: ClassVar[Unit] = "none"
    x = operand_def(TensorType)
    q_len = prop_def(ExprAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """One row of `q_len` stays."""
        x, y = tensor(self.x).dims, tensor(self.y).dims
        self.fail_unless(len(x) == 2, "x must be [T, width]")
        self.require_shape(self.y, (y[0], x[1]), "y")
        if not self.is_sharded:
            self.require_shape(self.x, (y[0] * self.q_len.data, x[1]), "x")

    def bytes_read(self) -> Expr:
        """Only the rows that are kept."""
        return tensor(self.y).bytes

    def sharding_rule(self) -> ShardingRule:
        """Sequences stay together; a sequence that cp splits has one last row on every rank."""
        return ShardingRule(((ROWS, "n"),), ((ROWS, "n"),))


@irdl_op_definition
class SampledTokensOp(LayerOp):
    """Token ids, of which the last ones were sampled from logits: those that the program is given, no data moves.

    How a token is chosen and a draft accepted is up to the host and not modelled; that nothing can be done with the
    tokens before there are logits is.
    """

    name = "layer.sampled_tokens"
    UNIT: ClassVar[Unit] = "none"
    tokens = operand_def(TensorType)
    logits = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """At least a token for every row of logits."""
        tokens, logits = tensor(self.tokens).dims, tensor(self.logits).dims
        self.fail_unless(len(tokens) == 1 and len(logits) == 2, "tokens must be [T], logits [rows, vocabulary]")
        if tokens[0].is_constant and logits[0].is_constant:
            self.fail_unless(tokens[0].constant >= logits[0].constant, "there are more logits than tokens")
        self.fail_unless(self.y.type == self.tokens.type, "the result must have the type of the tokens")

    def work(self) -> Work:
        """The tokens are there."""
        return Work(expr(0), expr(0), expr(0), "none", self.compute_dtype())

    def sharding_rule(self) -> ShardingRule:
        """A sampler sees the whole vocabulary of a row."""
        return ShardingRule(((ROWS,), (ROWS, WHOLE)), ((ROWS,),))


# -- mixture of experts -----------------------------------------------------------------------------------------


@irdl_op_definition
class RouterTopkOp(RowOp):
    """The experts of every token and their weights, from the router logits [T, E].

    Scores are one of `SCORINGS` of the logits, such as their softmax, or these themselves (`none`).  With a `bias` the
    choice is made on score + bias, the weights are scores.  With `groups` > 1 only the `top_groups` groups with the
    largest sum of their two best choices take part, or of so many as `best_of_group` says.  `normalize` divides the
    weights by their sum; `scale` multiplies them (DeepSeek-V3 report, section 2.1; one of a group: DeepSeek-V2).
    """

    name = "layer.router_topk"
    logits = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    top_k = prop_def(IntegerAttr)
    scoring = prop_def(StringAttr)
    groups = prop_def(IntegerAttr)
    top_groups = prop_def(IntegerAttr)
    normalize = prop_def(BoolAttr)
    scale = prop_def(FloatAttr)
    best_of_group = opt_prop_def(IntegerAttr)
    weights = result_def(TensorType)
    indices = result_def(TensorType)

    def verify_(self) -> None:
        """Logits [T, E], a bias [E], results [T, top_k]; the scoring function is known; groups divide the experts."""
        dims, groups, top_groups = tensor(self.logits).dims, self.groups.value.data, self.top_groups.value.data
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "logits must be [T, E] with a number of experts")
        experts = dims[1].constant
        self.fail_unless(0 < self.top_k.value.data <= experts, f"top_k is {self.top_k.value.data} of {experts} experts")
        self.fail_unless(groups > 0 and experts % groups == 0, f"{groups} groups do not divide {experts} experts")
        self.fail_unless(0 < top_groups <= groups, f"top_groups is {top_groups} of {groups} groups")
        best = None if self.best_of_group is None else self.best_of_group.value.data
        self.fail_unless(best is None or best > 0, f"best_of_group is {best}, must be at least 1")
        if self.bias is not None:
            self.require_shape(self.bias, (dims[1],), "the bias")
        self.fail_unless(self.scoring.data in SCORINGS, f"scoring must be {', '.join(SCORINGS)}")
        shape = (tensor(self.logits).dims[0], expr(self.top_k.value.data))
        self.require_shape(self.weights, shape, "weights")
        self.require_shape(self.indices, shape, "indices")
        self.require_indices(self.indices)

    @property
    def row_columns(self) -> int:
        return tensor(self.logits).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        best = self.best_of_group or NoneAttr()
        return RouterTopkAttr(self.top_k, self.scoring, self.groups, self.top_groups, self.normalize, self.scale, best)

    def sharding_rule(self) -> ShardingRule:
        """Tokens are independent, experts are compared whole."""
        row = (TOKEN, WHOLE)
        bias = ((WHOLE,),) if self.bias is not None else ()
        return ShardingRule((row, *bias), (row, row))


@irdl_op_definition
class RouterWeightsOp(RowOp):
    """The weights of experts that were chosen without the router logits [T, E], by a table (hash routing).

    As those of `layer.router_topk` for the same choices, indices [T, top_k].
    """

    name = "layer.router_weights"
    logits = operand_def(TensorType)
    indices = operand_def(TensorType)
    scoring = prop_def(StringAttr)
    normalize = prop_def(BoolAttr)
    scale = prop_def(FloatAttr)
    weights = result_def(TensorType)

    def verify_(self) -> None:
        """Logits [T, E], indices and weights [T, top_k]; the scoring function is known."""
        dims, indices = tensor(self.logits).dims, tensor(self.indices).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "logits must be [T, E] with a number of experts")
        self.fail_unless(len(indices) == 2 and indices[1].is_constant, "indices must be [T, top_k]")
        self.require_shape(self.indices, (dims[0], indices[1]), "indices")
        self.require_shape(self.weights, indices, "weights")
        self.require_indices(self.indices)
        wrong = self.vector_kind(expr(0)).wrong_parameter(dims[1])
        self.fail_unless(wrong is None, wrong or "")

    @property
    def row_columns(self) -> int:
        return tensor(self.logits).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        top_k = IntegerAttr(tensor(self.indices).dims[1].constant, i64)
        return RouterWeightsAttr(top_k, self.scoring, self.normalize, self.scale)

    def sharding_rule(self) -> ShardingRule:
        """Tokens are independent, the logits of one are whole."""
        row = (TOKEN, WHOLE)
        return ShardingRule((row, row), (row,))


@irdl_op_definition
class ExpertScaleOp(RowOp):
    """y[t, i] = scale[indices[t, i]] * weights[t, i]: a learned factor of every expert on its weight (Gemma 4)."""

    name = "layer.expert_scale"
    weights = operand_def(TensorType)
    indices = operand_def(TensorType)
    scale = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Weights, indices and y [T, top_k], scale [E]."""
        dims, scale = tensor(self.weights).dims, tensor(self.scale).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "weights must be [T, top_k]")
        self.fail_unless(len(scale) == 1 and scale[0].is_constant, "scale must be [E] with a number of experts")
        self.require_shape(self.indices, dims, "indices")
        self.require_shape(self.y, dims, "y")
        self.require_indices(self.indices)
        wrong = self.vector_kind(expr(0)).wrong_parameter(dims[1])
        self.fail_unless(wrong is None, wrong or "")

    @property
    def row_columns(self) -> int:
        return tensor(self.weights).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return ExpertScaleAttr(IntegerAttr(tensor(self.scale).dims[0].constant, i64))

    def sharding_rule(self) -> ShardingRule:
        """Tokens are independent; every rank has the factors of all experts."""
        row = (TOKEN, WHOLE)
        return ShardingRule((row, row, (WHOLE,)), (row,))


@irdl_op_definition
class DispatchOp(OnChipExchangeOp):
    """Copy each token row into a slot of each of its experts: [T, H] -> [E, C, H].

    Slots of an expert are filled in token order and the rest are zero; `capacity` says how C was chosen: `worst`
    never drops a token, `balanced` is the mean load, for cost models only.
    """

    name = "layer.dispatch"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = DispatchAttr
    UNIT: ClassVar[Unit] = "none"
    x = operand_def(TensorType)
    indices = operand_def(TensorType)
    capacity = prop_def(StringAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, H], indices [T, k], y [E, C, H]; the capacity policy is known."""
        x, indices, y = (tensor(v).dims for v in (self.x, self.indices, self.y))
        self.fail_unless(len(x) == 2 and len(indices) == 2, "x must be [T, H] and indices [T, k]")
        self.require_shape(self.indices, (x[0], indices[1]), "indices")
        self.fail_unless(self.capacity.data in ("balanced", "worst"), "capacity must be balanced or worst")
        self.fail_unless(len(y) == 3, "y must be [E, C, H]")
        self.require_shape(self.y, (*y[:2], x[1]), "y")
        self.require_indices(self.indices)

    def sharding_rule(self) -> ShardingRule:
        """Decided by the mesh, see the annotate-shardings pass: tokens change ranks here."""
        return ShardingRule(((TOKEN, WHOLE), (TOKEN, WHOLE)), (("e", "c", WHOLE),), routed=ROUTED)


@irdl_op_definition
class CombineOp(OnChipExchangeOp):
    """The weighted sum of the expert rows of every token: [E, C, H] -> [T, H]; inverse of `layer.dispatch`."""

    name = "layer.combine"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = CombineAttr
    y_experts = operand_def(TensorType)
    indices = operand_def(TensorType)
    weights = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """y_experts [E, C, H], indices and weights [T, k], y [T, H]."""
        experts, indices = tensor(self.y_experts).dims, tensor(self.indices).dims
        self.fail_unless(len(experts) == 3 and len(indices) == 2, "y_experts must be [E, C, H] and indices [T, k]")
        self.require_shape(self.weights, indices, "weights")
        self.require_shape(self.y, (indices[0], experts[2]), "y")
        self.require_indices(self.indices)

    def flops(self) -> Expr:
        """A multiply-add per element of every expert row of a token."""
        return 2 * tensor(self.y).elements * tensor(self.weights).dims[1]

    def sharding_rule(self) -> ShardingRule:
        """Decided by the mesh; linear in the expert rows."""
        row = (TOKEN, WHOLE)
        return ShardingRule((("e", "c", WHOLE), row, row), (row,), linear=frozenset({0}), routed=ROUTED)


ROUTED = (frozenset({TOKEN}), frozenset({"e", "c"}))
"""The factors of tokens and of the slots of experts."""

Layer = Dialect(
    "layer",
    [
        ProgramOp,
        ReturnOp,
        YieldOp,
        RepeatOp,
        WeightOp,
        StateOp,
        MatmulOp,
        GroupedMatmulOp,
        GatedMatmulOp,
        HeadMatmulOp,
        AttentionOp,
        AttentionStepOp,
        AttentionFinishOp,
        IndexScoresOp,
        TopkSelectOp,
        GatherRowsOp,
        BlockScoresOp,
        SparseAttentionOp,
        CompressOp,
        CompressedAttentionOp,
        EmbeddingOp,
        PositionEmbeddingOp,
        RmsNormOp,
        SquareSumOp,
        SplitRmsNormOp,
        LayerNormOp,
        RopeOp,
        SiluMulOp,
        ActivationOp,
        GatedActivationOp,
        AddBiasOp,
        ScaleOp,
        SoftCapOp,
        RowGateOp,
        TemperatureOp,
        MultiplyOp,
        AddOp,
        AddRmsNormOp,
        QuantizeOp,
        CopyStreamsOp,
        StreamWeightsOp,
        CollapseStreamsOp,
        MixStreamsOp,
        SliceOp,
        SampledTokensOp,
        LastTokenOp,
        KvAppendOp,
        CausalConvOp,
        SsmScanOp,
        GatedDeltaOp,
        SoftplusOp,
        DecayOp,
        L2NormOp,
        GatedRmsNormOp,
        RouterTopkOp,
        RouterWeightsOp,
        ExpertScaleOp,
        DispatchOp,
        CombineOp,
    ],
    [ExprAttr, ShapeAttr, TensorType, ScaledType],
)
