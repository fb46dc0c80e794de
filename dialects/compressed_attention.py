"""The tensor ops of compressed attention (DeepSeek-V4 report, section 2.3): pool tokens into entries, attend to them.

    %e = layer.compress(%kv, %gate, %bias) {ratio = 128, ..} : !layer.tensor<[batch*.., 512], bf16>
    %acc, %max, %sum = layer.attention_step([%q], [%kv], %kv, [], %sinks) {window = 128, ..}
    %y = layer.compressed_attention([%q], [%entries], %entries, %acc, %max, %sum) {ratio = 128, ..}

An entry stands for `ratio` tokens: entry w for those at positions w*ratio .. w*ratio + ratio - 1.  It exists once the
last of them has been seen, so a sequence of n tokens has floor(n / ratio) entries, and the query at position p sees
floor((p + 1) / ratio) of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, IntegerAttr, f32
from xdsl.ir import SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    var_operand_def,
)

from pmc.dialects.compression_kinds import PoolFinishAttr, PoolStepAttr
from pmc.dialects.expr import Expr, ExprAttr, expr, floordiv, max_of, min_of, mod
from pmc.dialects.flash_attention import FlashAttentionOp
from pmc.dialects.interfaces import ROWS, SEQUENCES, WHOLE, ShardingRule, Unit
from pmc.dialects.layer_op import HEAD, LayerOp
from pmc.dialects.tensor import TensorType, tensor


def entries_of(tokens: Expr, ratio: int) -> Expr:
    """How many entries `tokens` tokens from the beginning of a sequence on have closed."""
    return floordiv(tokens, ratio)


def closing_entries(q_len: Expr, kv_len: Expr, ratio: int) -> Expr:
    """How many entries of a sequence close in a step whose `q_len` tokens are the last of `kv_len`."""
    return entries_of(kv_len, ratio) - entries_of(kv_len - q_len, ratio)


@irdl_op_definition
class CompressOp(LayerOp):
    """The entries that close in this step: y[w, c] = sum over j of softmax_j(gate[j, c] + bias[j, c]) * kv[j, c].

    kv and gate [batch, rows, S*d] are caches that hold the newest tokens of every sequence, the last one at position
    kv_len - 1; bias [ratio, S*d]; y [batch * closing entries, d], sequence by sequence.  Every column has a softmax of
    its own.  Entry w is pooled over its `ratio` tokens (S = 1); where entries are `overlapping` (S = 2) over those in
    the columns d .. 2d and over the `ratio` tokens before them in the columns 0 .. d, which the first entry of a
    sequence has none of.  DeepSeek-V4 report, equations 9 to 12 and 20 to 23.
    """

    name = "layer.compress"
    UNIT: ClassVar[Unit] = "vector"
    kv = operand_def(TensorType)
    gate = operand_def(TensorType)
    bias = operand_def(TensorType)
    ratio = prop_def(IntegerAttr)
    overlapping = prop_def(BoolAttr)
    q_len = prop_def(ExprAttr)
    kv_len = prop_def(ExprAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above; the caches reach back to the first token of the first entry that closes."""
        kv, ratio = tensor(self.kv).dims, self.ratio.value.data
        self.fail_unless(ratio > 1, f"ratio is {ratio}, must be at least 2")
        self.fail_unless(len(kv) == 3 and kv[2].is_constant, "kv must be [batch, rows, width] with a number of columns")
        width = kv[2].constant
        self.fail_unless(width % self.series == 0, f"{width} columns are not {self.series} series of one width")
        self.fail_unless(self.gate.type == self.kv.type, f"gate is {self.gate.type}, must be {self.kv.type}, as kv")
        self.require_shape(self.bias, (expr(ratio), kv[2]), "bias")
        self.require_shape(self.y, (kv[0] * self.closing, expr(width // self.series)), "y")
        if kv[1].is_constant and self.rows_needed.is_constant:
            needed = self.rows_needed.constant
            self.fail_unless(kv[1].constant >= needed, f"the caches hold {kv[1]} tokens, the entries need {needed}")

    @property
    def series(self) -> int:
        """Into how many parts of columns a token is projected."""
        return 2 if self.overlapping else 1

    @property
    def columns(self) -> int:
        """The width of an entry."""
        return tensor(self.y).dims[1].constant

    @property
    def first_entry(self) -> Expr:
        """The number of the first entry of a sequence that closes."""
        return entries_of(self.kv_len.data - self.q_len.data, self.ratio.value.data)

    @property
    def closing(self) -> Expr:
        """How many entries of a sequence close."""
        return closing_entries(self.q_len.data, self.kv_len.data, self.ratio.value.data)

    @property
    def rows_needed(self) -> Expr:
        """The newest tokens of a sequence that the caches must hold, if any entry closes."""
        before = max_of(self.first_entry - (self.series - 1), 0)
        return (self.kv_len.data - before * self.ratio.value.data) * min_of(self.closing, 1)

    @property
    def pooled_tokens(self) -> Expr:
        """Pairs of an entry of a sequence and a token of a series that goes into it."""
        own = self.closing
        if self.overlapping:
            last = self.first_entry + self.closing
            own = own + max_of(last, 1) - max_of(self.first_entry, 1)
        return own * self.ratio.value.data

    def compute_dtype(self) -> str:
        """That of the vector kinds."""
        return "f32"

    def flops(self) -> Expr:
        """Those of the vector kinds: a step per token and column, a division per column of an entry."""
        batch, entries = tensor(self.kv).dims[0], tensor(self.y).dims[0]
        steps = batch * self.pooled_tokens * PoolStepAttr.FLOPS
        return (steps + entries * PoolFinishAttr.FLOPS) * self.columns

    def bytes_read(self) -> Expr:
        """Of kv and gate what goes into the entries, and the bias."""
        pooled = tensor(self.kv).with_dims((tensor(self.kv).dims[0] * self.pooled_tokens, expr(self.columns)))
        return 2 * pooled.bytes + tensor(self.bias).bytes * min_of(self.closing, 1)

    def sharding_rule(self) -> ShardingRule:
        """A sequence is pooled where its tokens are; columns stay together, as the norm behind them needs them."""
        cache = (SEQUENCES, WHOLE, WHOLE)
        return ShardingRule((cache, cache, (WHOLE, WHOLE)), ((SEQUENCES, WHOLE),), stationary=frozenset({0, 1, 2}))


@irdl_op_definition
class CompressedAttentionOp(FlashAttentionOp):
    """Attention over compressed entries, going on from the running state of attention over other keys; gives y.

    Entries are keys and values of all heads: k and v [batch, entries, width], and `q_len` queries of every sequence, or
    [T, k, width] with the k entries that were gathered for every token, ascending, and `q_len` = 1.  Query i of the
    `sequence_q_len` queries of a sequence of `sequence_kv_len` tokens stands at position p = sequence_kv_len -
    sequence_q_len + i and sees the first floor((p + 1) / ratio) of them.  The state is that of `layer.attention_step`.
    """

    name = "layer.compressed_attention"
    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    v = operand_def(TensorType)
    acc = operand_def(TensorType)
    row_max = operand_def(TensorType)
    row_sum = operand_def(TensorType)
    ratio = prop_def(IntegerAttr)
    sequence_q_len = prop_def(ExprAttr)
    sequence_kv_len = prop_def(ExprAttr)
    y = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def verify_(self) -> None:
        """A state of the rows and heads of the queries; queries and keys of one sequence, or of one token."""
        super().verify_()
        ratio = self.ratio.value.data
        self.fail_unless(ratio > 1, f"ratio is {ratio}, must be at least 2")
        for name in ("window", "chunk", "soft_cap"):
            self.fail_unless(name not in self.properties, f"attention over entries has no {name}")
        self.fail_unless(not bool(self.causal), "causal must be false: entries are seen by positions of their tokens")
        own, all_ = self.q_len.data, self.sequence_q_len.data
        self.fail_unless(own in (all_, expr(1)), f"q_len is {own}, must be 1 or sequence_q_len, which is {all_}")
        rows = tensor(self.q[0]).dims[0]
        self.require_shape(self.acc, tensor(self.y).dims, "acc")
        for value, what in ((self.row_max, "row_max"), (self.row_sum, "row_sum")):
            self.require_shape(value, (rows, expr(self.heads)), what)
        for value in (self.acc, self.row_max, self.row_sum):
            stored = tensor(value).element_type
            self.fail_unless(stored == f32, f"the state is {stored}, must be f32")

    @property
    def state_before(self) -> Sequence[SSAValue]:
        return self.acc, self.row_max, self.row_sum

    @property
    def state_bytes(self) -> int:
        """Accumulator, maximum and sum, which are read."""
        return 4 * (self.v_dim.value.data + 2)

    @property
    def gathered(self) -> bool:
        """Whether every token has keys of its own, as each has where a sequence has one query."""
        return self.q_len.data == 1

    @property
    def visible_entries(self) -> int | None:
        """The ratio, where later queries of one set of keys see more of them; None where all see all, or masks say."""
        return None if self.gathered else self.ratio.value.data

    def last_entry(self, token: Expr) -> Expr:
        """The last of the entries that a token of the program sees; -1 where it sees none."""
        return self.last_of_query(mod(token, self.sequence_q_len.data))

    def last_of_query(self, query: Expr) -> Expr:
        """The last of the entries that query number `query` of a sequence sees."""
        tokens = self.sequence_kv_len.data - self.sequence_q_len.data + query + 1
        return entries_of(tokens, self.ratio.value.data) - 1

    @property
    def hides(self) -> bool:
        """Whether a token may see fewer keys than there are: one that is not the last of its sequence."""
        return self.sequence_q_len.data != 1

    @property
    def pairs_twice(self) -> Expr:
        """Twice the pairs of a query and an entry that it sees; of gathered keys all, as the arithmetic is on all.

        The queries at positions 0 .. n - 1 see sum over p of floor((p + 1) / r) = r a (a - 1) / 2 + a (n - r a + 1)
        entries, with a = floor(n / r).
        """
        if self.gathered:
            return super().pairs_twice
        ratio = self.ratio.value.data

        def before(tokens: Expr) -> Expr:
            whole = entries_of(tokens, ratio)
            return whole * (whole - 1) * ratio + 2 * whole * (mod(tokens, ratio) + 1)

        kv_len = self.sequence_kv_len.data
        return before(kv_len) - before(kv_len - self.sequence_q_len.data)

    def factors(self) -> tuple[tuple[str, ...], ...]:
        """Of q, k and v: entries go with their sequence or token; one key head serves all query heads."""
        rows = ROWS if self.gathered else SEQUENCES
        q = tuple((ROWS, HEAD) for _ in self.q)
        return (*q, *((rows, WHOLE, WHOLE) for _ in (*self.k, self.v)))

    def sharding_rule(self) -> ShardingRule:
        """Query heads may be split, every rank then has all entries."""
        row = (ROWS, HEAD)
        return ShardingRule((*self.factors(), row, row, row), (row,))
