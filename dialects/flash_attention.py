"""Attention over all keys of a sequence, attention over one block of them, and what the two share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import AnyFloat, ArrayAttr, BoolAttr, FloatAttr, IntegerAttr, IntegerType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    var_operand_def,
)

from pmc.dialects.expr import Expr, ExprAttr, expr, min_of, mod
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, WHOLE, ShardingRule
from pmc.dialects.key_reach import Reach
from pmc.dialects.layer_op import HEAD, TOKEN, MatrixOp, RowOp
from pmc.dialects.matrix_types import widens_to
from pmc.dialects.tensor import TensorType, TypeMismatchError, element_name, tensor
from pmc.dialects.vector_kinds import SoftmaxFinishAttr, VectorKindAttr


class FlashAttentionOp(MatrixOp):
    """Attention of queries over blocks of keys.

    Scores are a sum over pieces: piece i has q_i [T, heads*d_i] and k_i [batch, kv_len, kv_heads_i*d_i] with
    d_i = `qk_dims[i]`; kv_heads_i divides heads.  GQA has one piece.  MLA has two: the latent (or the expanded
    nope part) and the rotary part, whose one key head all query heads share.  v [batch, kv_len, kv_heads*v_dim] may
    be the same value as a k piece, as in absorbed MLA: it is then read once.  The weights are a softmax of scale *
    scores over the keys that a query may see; causal: keys up to kv_len - q_len + i for query i.

    With a `window` a query sees only the last `window` of these, its own included: the keys j with
    kv_len - q_len + i - window < j (`sliding_window_overlay` of transformers).  The rows of k and v may then be fewer
    than there are positions: min(kv_len, window + q_len - 1) of them are seen by any query, and `kv_len` here is the
    number of rows, of which the newest are the last.

    With a `chunk` the query at position p of a sequence of `kv_len` positions sees the keys from position
    p // chunk * chunk to p (Llama 4).  The rows of k and v are those of the last positions, of which
    q_len + (kv_len - q_len) mod chunk are seen by any query: a cache of min(kv_len, chunk + q_len - 1) rows is enough.

    A `soft_cap` keeps scores below it before the softmax: soft_cap * tanh(scale * scores / soft_cap) (Gemma 2 report,
    section 2).

    With `alibi_heads` every score has a bias that falls with the distance: slope * (key - query), both positions, with
    a slope of its own for every head (ALiBi: Press, Smith and Lewis, 2022).  The slopes follow from the number of heads
    of the model, `alibi_heads`, of which `first_head` is the first one here.

    `sinks` [heads] of an op that has them are one more logit of every head: exp(sink) is added to the sum of the
    softmax and has no value (Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023; gpt-oss).
    """

    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    v = operand_def(TensorType)
    qk_dims = prop_def(ArrayAttr[IntegerAttr])
    v_dim = prop_def(IntegerAttr)
    q_len = prop_def(ExprAttr)
    scale = prop_def(FloatAttr)
    causal = prop_def(BoolAttr)
    window = opt_prop_def(IntegerAttr)
    chunk = opt_prop_def(IntegerAttr)
    kv_len = opt_prop_def(ExprAttr)
    """The positions of a sequence, where there is a chunk."""
    soft_cap = opt_prop_def(FloatAttr)
    alibi_heads = opt_prop_def(IntegerAttr)
    first_head = prop_def(ExprAttr, default_value=ExprAttr.of(0))

    def verify_(self) -> None:
        """Pieces agree in number; every width is a multiple of its head."""
        dims = self.piece_dims()
        self.fail_unless(len(self.q) == len(self.k) == len(dims) > 0, "as many q as k pieces as qk_dims")
        self.fail_unless(self.v_dim.value.data > 0 and min(dims) > 0, "the width of a head must be positive")
        self.fail_unless(all(len(tensor(q).dims) == 2 for q in self.q), "queries must be [T, width]")
        for value in (*self.k, self.v):
            self.fail_unless(len(tensor(value).dims) == 3, "keys and values must be [batch, kv_len, width]")
        self.fail_unless(self.window is None or self.chunk is None, "a window and a chunk exclude each other")
        self.fail_unless((self.chunk is None) == (self.kv_len is None), "a chunk needs kv_len, and only a chunk")
        if self.reach is not None:
            kind, keys = self.reach.kind, self.reach.keys
            self.fail_unless(keys > 0, f"{kind} is {keys}, must be at least 1")
            self.fail_unless(bool(self.causal), f"a {kind} needs causal: it ends with the key of the query")
        if self.soft_cap is not None:
            cap = self.soft_cap.value.data
            self.fail_unless(0 < cap < float("inf"), f"soft_cap is {cap}, must be positive")
        if self.alibi_heads is not None:
            self.fail_unless(self.reach is None, "a bias by distance goes with neither a window nor a chunk")
            self.fail_unless(bool(self.causal), "a bias by distance needs causal")
        for value in (*self.q, *self.k, self.v):
            self.fail_unless(tensor(value).dims[-1].is_constant, "the width of queries, keys and values is a number")
        self._verify_widths()
        whole = None if self.alibi_heads is None else self.alibi_heads.value.data
        self.fail_unless(whole is None or whole >= self.heads, f"alibi_heads is {whole}, must be at least {self.heads}")
        batch, kv_len, _ = tensor(self.v).dims
        if kv_len.is_constant and self.keys_seen.is_constant:
            needed = self.keys_seen.constant
            self.fail_unless(kv_len.constant >= needed, f"there are {kv_len} keys, queries see {needed}")
        for value in self.k:
            self.require_shape(value, (batch, kv_len, tensor(value).dims[2]), "the keys")
        if self.sink_logits is not None:
            self.require_shape(self.sink_logits, (expr(self.heads),), "sinks")
            stored = tensor(self.sink_logits).element_type
            self.fail_unless(isinstance(stored, AnyFloat), f"sinks are {stored}, must be a float type")
        rows = tensor(self.q[0]).dims[0] if self.is_sharded else batch * self.q_len.data
        for value in self.q:
            self.require_shape(value, (rows, tensor(value).dims[1]), "the queries")
        self.require_shape(self.results[0], (rows, expr(self.heads * self.v_dim.value.data)), "the result")

    def _verify_widths(self) -> None:
        """All pieces have the same query heads, which their key heads divide, as those of v."""
        heads = self.heads
        for piece, d in enumerate(self.piece_dims()):
            width = tensor(self.q[piece]).dims[1].constant
            self.fail_unless(
                width == heads * d > 0, f"piece {piece} of q has {width} columns, not {heads} heads of {d}"
            )
        for value, d in self._keyed():
            width = tensor(value).dims[2].constant
            key_heads, rest = divmod(width, d)
            self.fail_unless(rest == 0 < width, f"keys or values of {width} columns are not whole heads of {d}")
            self.fail_unless(heads % key_heads == 0, f"{key_heads} key heads do not divide {heads} heads")

    def piece_dims(self) -> tuple[int, ...]:
        """The head width of every score piece."""
        return tuple(d.value.data for d in self.qk_dims.data)

    @property
    def heads(self) -> int:
        """The query heads on this rank (widths are integers at every level)."""
        return tensor(self.q[0]).dims[1].constant // self.piece_dims()[0]

    def kv_heads(self, piece: int) -> int:
        """The key heads of a piece on this rank."""
        return tensor(self.k[piece]).dims[2].constant // self.piece_dims()[piece]

    @property
    def v_heads(self) -> int:
        """The heads of v on this rank."""
        return tensor(self.v).dims[2].constant // self.v_dim.value.data

    @property
    def state_before(self) -> Sequence[SSAValue]:
        """The running state that the op goes on from: accumulator, maximum and sum; none where it starts one."""
        return ()

    @property
    def state_bytes(self) -> int:
        """Bytes of running state that a row (a query of one head) reads and writes in DRAM."""
        return 0

    @property
    def arithmetic_type(self) -> Attribute:
        """The type in which both products are computed: that of the queries, and of the softmax weights in between.

        Keys and values are read in the type in which they are stored, and widened to it.
        """
        return tensor(self.q[0]).element_type

    def compute_dtype(self) -> str:
        """The type of the arithmetic.  Raises TypeMismatchError for types that do not make an attention."""
        arithmetic = element_name(self.arithmetic_type)
        if isinstance(self.arithmetic_type, IntegerType):
            raise TypeMismatchError(
                f"attention in {arithmetic}: the weights of a softmax are at most 1, so no integer type holds them"
            )
        for query in self.q:
            if (other := element_name(tensor(query).element_type)) != arithmetic:
                raise TypeMismatchError(f"the queries are {arithmetic} and {other}, must be of one type")
        for value in (*self.k, self.v):
            if not widens_to(stored := element_name(tensor(value).element_type), arithmetic):
                raise TypeMismatchError(
                    f"keys or values are {stored}, which the {arithmetic} of the arithmetic does not hold"
                )
        return arithmetic

    @property
    def largest_score(self) -> float | None:
        """The bound that a soft cap sets to scores, None without."""
        return None if self.soft_cap is None else self.soft_cap.value.data

    @property
    def sink_logits(self) -> SSAValue | None:
        """The sinks of the query heads on this rank, None without."""
        return None

    @property
    def reach(self) -> Reach | None:
        """How far back queries see, None for all keys up to their own."""
        if self.window is not None:
            return Reach("window", self.window.value.data)
        return None if self.chunk is None else Reach("chunk", self.chunk.value.data)

    @property
    def keys_seen(self) -> Expr:
        """The keys of a sequence that any query sees, the last ones of all: those before are not read."""
        kv_len, q_len = tensor(self.v).dims[1], self.q_len.data
        if self.reach is None:
            return kv_len
        if self.kv_len is not None:
            return q_len + mod(self.kv_len.data - q_len, self.reach.keys)
        return min_of(kv_len, q_len + (self.reach.keys - 1))

    @property
    def pairs_twice(self) -> Expr:
        """Twice the (query, key) pairs of a sequence: a causal query sees keys_seen - q_len + i + 1 keys in reach."""
        q_len, keys = self.q_len.data, self.keys_seen
        if not self.causal:
            return 2 * q_len * keys
        pairs = q_len * (2 * keys - q_len + 1)
        if self.reach is None:
            return pairs
        # The first query sees all keys_seen keys up to its own.
        return pairs - self.reach.unseen_pairs_twice(keys)

    def flops(self) -> Expr:
        """2 * (query, key) pairs * heads * (qk dims + v dim)."""
        width = self.heads * (sum(self.piece_dims()) + self.v_dim.value.data)
        return tensor(self.k[0]).dims[0] * self.pairs_twice * width

    def bytes_read(self) -> Expr:
        """Those of all distinct operands; of keys and values the rows that any query sees."""
        keyed = {*self.k, self.v}

        def read(value: SSAValue) -> Expr:
            type_ = tensor(value)
            return (type_.with_dims((type_.dims[0], self.keys_seen, type_.dims[2])) if value in keyed else type_).bytes

        return sum((read(value) for value in dict.fromkeys(self.operands)), expr(0))

    def factors(self) -> tuple[tuple[str, ...], ...]:
        """Of q, k and v: heads as the queries, key heads as their cache; a piece with one key head is shared."""
        q = tuple((ROWS, HEAD) for _ in self.q)
        k = tuple((SEQUENCES, POSITIONS, "g" if self._follows_heads(v, d) else WHOLE) for v, d in self._keyed())
        return (*q, *k)

    def _keyed(self) -> list[tuple[SSAValue, int]]:
        return [*zip(self.k, self.piece_dims(), strict=False), (self.v, self.v_dim.value.data)]

    @staticmethod
    def _follows_heads(value: SSAValue, head_dim: int) -> bool:
        return tensor(value).dims[-1] != expr(head_dim)


@irdl_op_definition
class AttentionOp(FlashAttentionOp):
    """Attention of every sequence over its cache: y [T, heads*v_dim] is the weighted sum of v."""

    name = "layer.attention"
    BARE: ClassVar[tuple[str, ...]] = ("sinks",)
    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    v = operand_def(TensorType)
    sinks = opt_operand_def(TensorType)
    y = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    @property
    def sink_logits(self) -> SSAValue | None:
        return self.sinks

    def sharding_rule(self) -> ShardingRule:
        """Query heads decide; where cp splits queries and keys, insert-collectives makes a ring of the op."""
        sinks = ((HEAD,),) if self.sinks is not None else ()
        return ShardingRule((*self.factors(), *sinks), ((ROWS, HEAD),), aligned=frozenset({"g"}))


@irdl_op_definition
class AttentionStepOp(FlashAttentionOp):
    """Attention over one block of the keys, a step of ring attention (Liu et al., 2023), or the first of two kinds.

    The state of the online softmax (Milakov and Gimelshein, 2018) goes from step to step in FP32: the sum of
    exp(score - row_max) * v as `acc` [T, heads*v_dim], and of every head the largest score and the sum of the
    exponentials, both [T, heads].  The first step has no `state` to go on from; it is the one that counts the `sinks`.
    `hidden` keys fewer are visible than
    causality over the positions of this rank says: 1 where the block of a striped sequence is that of a later rank.
    The step over the window that `layer.compressed_attention` goes on from has a `window`, and is the first.
    """

    name = "layer.attention_step"
    BARE: ClassVar[tuple[str, ...]] = ("sinks",)
    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    v = operand_def(TensorType)
    state = var_operand_def(TensorType)
    sinks = opt_operand_def(TensorType)
    hidden = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    acc = result_def(TensorType)
    row_max = result_def(TensorType)
    row_sum = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def verify_(self) -> None:
        """State in and out have the same types; only a causal op hides keys."""
        super().verify_()
        for value, what in ((self.row_max, "row_max"), (self.row_sum, "row_sum")):
            self.require_shape(value, (tensor(self.acc).dims[0], expr(self.heads)), what)
        types = [value.type for value in self.state]
        self.fail_unless(not types or types == list(self.result_types), "the state must be acc, row_max and row_sum")
        self.fail_unless(self.sinks is None or not types, "only the first step has sinks: they are counted once")
        self.fail_unless(bool(self.causal) or self.hidden.data == 0, "hidden needs causal")
        kind = "" if self.reach is None else self.reach.kind
        self.fail_unless(
            not (kind and (self.state or self.hidden.data != 0)),
            f"a step of a ring has no {kind}: its keys are every n-th of a sequence",
        )
        self.fail_unless(self.alibi_heads is None, "a step of a ring has no bias by distance: its keys are every n-th")

    @property
    def sink_logits(self) -> SSAValue | None:
        return self.sinks

    @property
    def state_before(self) -> Sequence[SSAValue]:
        return self.state

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """The state before and after the step."""
        return list(zip(self.state, self.results, strict=False))

    @property
    def state_bytes(self) -> int:
        """Accumulator, maximum and sum: written, and but for the first step read."""
        return 4 * (self.v_dim.value.data + 2) * (2 if self.state else 1)

    def sharding_rule(self) -> ShardingRule:
        """As attention; the state has the rows and heads of the queries."""
        row = (ROWS, HEAD)
        others = (*(row for _ in self.state), *(((HEAD,),) if self.sinks is not None else ()))
        return ShardingRule((*self.factors(), *others), (row, row, row), aligned=frozenset({"g"}))


@irdl_op_definition
class AttentionFinishOp(RowOp):
    """y = acc / row_sum of each head: the result of attention from the state of its last step.

    It counts no FLOPs, as those of attention are those of its matmuls.
    """

    name = "layer.attention_finish"
    acc = operand_def(TensorType)
    row_sum = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """The width of acc is that of y, a multiple of the heads."""
        acc, sums = tensor(self.acc).dims, tensor(self.row_sum).dims
        self.fail_unless(
            len(acc) == len(sums) == 2 and acc[1].is_constant and sums[1].is_constant and sums[1].constant > 0,
            "acc must be [T, width] and row_sum [T, heads]",
        )
        self.require_shape(self.row_sum, (acc[0], sums[1]), "row_sum")
        self.require_shape(self.y, tensor(self.acc).dims, "y")
        width, heads = tensor(self.acc).dims[-1], tensor(self.row_sum).dims[-1]
        self.fail_unless(width.constant % heads.constant == 0, f"{heads} heads do not divide a width of {width}")

    @property
    def v_dim(self) -> int:
        """The columns of a head."""
        return tensor(self.acc).dims[-1].constant // tensor(self.row_sum).dims[-1].constant

    @property
    def row_columns(self) -> int:
        return self.v_dim

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SoftmaxFinishAttr()

    def sharding_rule(self) -> ShardingRule:
        return ShardingRule(((TOKEN, HEAD), (TOKEN, HEAD)), ((TOKEN, HEAD),))
