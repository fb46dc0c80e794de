"""The tensor ops of DeepSeek sparse attention (DeepSeek-V3.2 report, section 2): score, select, gather, attend.

    %s = layer.index_scores([%q], [%k], %w) {..} : !layer.tensor<[batch*q_len, kv_len], f32>
    %i = layer.topk_select(%s) {top_k = 2048, ..} : !layer.tensor<[batch*q_len, min(kv_len, 2048)], i32>
    %g = layer.gather_rows(%c_kv, %i) {bandwidth_domain = "dram", ..} : !layer.tensor<[.., min(kv_len, 2048), 512], ..>
    %y = layer.sparse_attention([%q], [%g], %g) {..}

The scores go over all keys, whatever few of them are attended to: their work grows with queries x keys.  The selected
keys of a query stand in the order of their positions, so those that the query may see come first.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, FloatAttr, IntegerAttr, IntegerType, StringAttr, f32, i32, i64
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    var_operand_def,
)

from pmc.dialects.accesses import BANDWIDTH_DOMAINS
from pmc.dialects.expr import Expr, ExprAttr, ceildiv, expr, floordiv, min_of, mod
from pmc.dialects.flash_attention import FlashAttentionOp
from pmc.dialects.interfaces import ROWS, SEQUENCES, WHOLE, ShardingRule, Unit, Work
from pmc.dialects.layer_op import HEAD, LayerOp, MatrixOp
from pmc.dialects.matrix_types import widens_to
from pmc.dialects.tensor import TensorType, TypeMismatchError, element_name, tensor
from pmc.dialects.vector_kinds import ReluWeightedSumAttr, TopkSelectAttr


@irdl_op_definition
class IndexScoresOp(MatrixOp):
    """y[t, s] = scale * sum over heads h of weights[t, h] * max(0, sum over pieces i of q_i[t, h] . k_i[b, s]).

    In FP32.  The lightning indexer (DeepSeek-V3.2 report, equation 1).  Token t belongs to sequence b = t // q_len.
    Piece i has q_i [T, heads*d_i] and k_i [batch, kv_len, d_i] with d_i = `qk_dims[i]`: all heads share one key.  Every
    query is scored against every key; which of them it may see is left to `layer.topk_select`.
    """

    name = "layer.index_scores"
    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    weights = operand_def(TensorType)
    qk_dims = prop_def(ArrayAttr[IntegerAttr])
    q_len = prop_def(ExprAttr)
    scale = prop_def(FloatAttr)
    y = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def verify_(self) -> None:
        """Pieces agree in number and widths; weights [T, heads], scores [T, kv_len] in FP32."""
        dims = self.piece_dims()
        self.fail_unless(len(self.q) == len(self.k) == len(dims) > 0, "as many q as k pieces as qk_dims")
        self.fail_unless(min(dims) > 0, "the width of a head must be positive")
        self.fail_unless(all(len(tensor(q).dims) == 2 for q in self.q), "queries must be [T, width]")
        self.fail_unless(all(len(tensor(k).dims) == 3 for k in self.k), "keys must be [batch, kv_len, width]")
        self.fail_unless(len(tensor(self.weights).dims) == 2, "weights must be [T, heads]")
        (batch, kv_len, _), (rows, heads) = tensor(self.k[0]).dims, tensor(self.weights).dims
        if not self.is_sharded:
            rows = batch * self.q_len.data
        self.require_shape(self.weights, (rows, heads), "the weights")
        for q, k, d in zip(self.q, self.k, dims, strict=True):
            self.require_shape(q, (rows, heads * d), "the queries")
            self.require_shape(k, (batch, kv_len, expr(d)), "the keys")
        self.require_shape(self.y, (rows, kv_len), "y")
        self.fail_unless(tensor(self.y).element_type == f32, f"scores are {tensor(self.y).element_type}, must be f32")

    def piece_dims(self) -> tuple[int, ...]:
        """The width of a head in every piece."""
        return tuple(d.value.data for d in self.qk_dims.data)

    @property
    def heads(self) -> int:
        """The index heads on this rank."""
        return tensor(self.weights).dims[1].constant

    @property
    def vector_kind(self) -> ReluWeightedSumAttr:
        """What happens to the products of a tile of keys."""
        return ReluWeightedSumAttr(IntegerAttr(self.heads, i64), self.scale)

    def compute_dtype(self) -> str:
        """The type of the products: that of the queries.  Raises TypeMismatchError for others that do not fit it."""
        arithmetic = element_name(tensor(self.q[0]).element_type)
        for value in (*self.q, *self.k):
            if not widens_to(stored := element_name(tensor(value).element_type), arithmetic):
                raise TypeMismatchError(f"index queries in {arithmetic} and keys in {stored} cannot be multiplied")
        return arithmetic

    def flops(self) -> Expr:
        """2 * queries * all keys * heads * width: those of the products, as attention counts no softmax."""
        rows, kv_len = tensor(self.y).dims
        return 2 * rows * kv_len * self.heads * sum(self.piece_dims())

    def sharding_rule(self) -> ShardingRule:
        """Heads are summed up, after each has been cut off at zero; a query is scored against whole sequences."""
        q = tuple((ROWS, HEAD) for _ in self.q)
        k = tuple((SEQUENCES, WHOLE, WHOLE) for _ in self.k)
        return ShardingRule((*q, *k, (ROWS, HEAD)), ((ROWS, WHOLE),))


@irdl_op_definition
class TopkSelectOp(LayerOp):
    """The positions of the `top_k` visible keys with the largest scores of every query, ascending; of all if fewer.

    scores [T, kv_len] -> [T, min(kv_len, top_k)].  Query i of a sequence sees keys up to kv_len - q_len + i.  Of equal
    scores the first wins.  A query that sees fewer keys than are selected gets those, then the ones behind them, which
    `layer.sparse_attention` masks.  Query i stands at `stride` * i + `first` of the queries: 1 and 0, but for a rank of
    cp, whose queries are every n-th of a sequence, from its own number on; it scores all keys.

    With a `ratio` the keys are entries of so many tokens (`layer.compress`): query i of a sequence of `tokens` tokens
    sees those up to number floor((tokens - q_len + i + 1) / ratio) - 1.

    With a `block` they are blocks of so many keys (`layer.block_scores`), and every head of a query selects for itself:
    scores [T, heads, blocks] -> [T, heads, min(blocks, top_k)].  Query i sees those that have begun, up to number
    floor((tokens - q_len + i) / block); the last `always` of these are selected whatever their scores are.
    """

    name = "layer.topk_select"
    scores = operand_def(TensorType)
    top_k = prop_def(IntegerAttr)
    q_len = prop_def(ExprAttr)
    stride = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))
    first = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    ratio = opt_prop_def(IntegerAttr)
    block = opt_prop_def(IntegerAttr)
    always = opt_prop_def(IntegerAttr)
    tokens = opt_prop_def(ExprAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Scores [T, kv_len], positions [T, min(kv_len, top_k)] as i32; of blocks with a dim of heads."""
        scores, top_k = tensor(self.scores).dims, self.top_k.value.data
        if self.block is None:
            self.fail_unless(len(scores) == 2, "scores must be [T, kv_len]")
        else:
            self.fail_unless(len(scores) == 3, "scores of blocks must be [T, heads, blocks]")
        self.fail_unless(top_k > 0, f"top_k is {top_k}, must be at least 1")
        self.require_shape(self.y, (*scores[:-1], min_of(scores[-1], top_k)), "y")
        self.fail_unless(tensor(self.y).element_type == i32, f"positions are {tensor(self.y).element_type}, not i32")
        self.fail_unless(self.ratio is None or self.block is None, "keys are entries or blocks, not both")
        given = self.ratio is not None or self.block is not None
        name = "ratio" if self.block is None else "block"
        self.fail_unless(given == (self.tokens is not None), f"{name} and tokens need each other")
        self.fail_unless((self.block is None) == (self.always is None), "block and always need each other")
        if self.block is not None and self.tokens is not None and self.always is not None:
            block, tokens, always = self.block.value.data, self.tokens.data, self.always.value.data
            self.fail_unless(block > 1, f"block is {block}, must be at least 2")
            # Attention counts on the block of the query being the last one that is selected.
            self.fail_unless(1 <= always <= top_k, f"always is {always}, must be 1 to top_k, which is {top_k}")
            self.fail_unless(
                ceildiv(tokens, block) == scores[-1],
                f"{tokens} tokens have {ceildiv(tokens, block)} blocks of {block}, not {scores[-1]}",
            )
        if self.ratio is not None and self.tokens is not None:
            ratio, tokens = self.ratio.value.data, self.tokens.data
            self.fail_unless(ratio > 1, f"ratio is {ratio}, must be at least 2")
            self.fail_unless(
                floordiv(tokens, ratio) == scores[1],
                f"{tokens} tokens have {floordiv(tokens, ratio)} entries of {ratio}, not {scores[1]}",
            )
        integers = isinstance(tensor(self.scores).element_type, IntegerType)
        self.fail_unless(
            not integers, f"scores are {tensor(self.scores).element_type}, must be numbers with a fraction"
        )

    def position(self, token: Expr) -> Expr:
        """The last key that a token may see; -1 where it sees none."""
        tokens = tensor(self.scores).dims[-1] if self.tokens is None else self.tokens.data
        at = _position(tokens, self.q_len.data, token, self.stride.value.data, self.first)
        if self.ratio is not None:
            return floordiv(at + 1, self.ratio.value.data) - 1
        return at if self.block is None else floordiv(at, self.block.value.data)

    @property
    def heads(self) -> int | None:
        """The heads on this rank that select for themselves; None where a query selects once."""
        return None if self.block is None else tensor(self.scores).dims[1].constant

    def position_of_row(self, row: Expr) -> Expr:
        """`position` for a row of scores: a token, or one of its heads."""
        return self.position(row if self.heads is None else floordiv(row, self.heads))

    def flops(self) -> Expr:
        """A comparison per score: every key is looked at, however few are selected."""
        return tensor(self.scores).elements * TopkSelectAttr.FLOPS

    def sharding_rule(self) -> ShardingRule:
        """Queries and their heads are independent, keys are compared whole."""
        dims = (ROWS, WHOLE) if self.block is None else (ROWS, HEAD, WHOLE)
        return ShardingRule((dims,), (dims,))


@irdl_op_definition
class GatherRowsOp(LayerOp):
    """The selected rows of a cache, one behind the other: y[t, j] = cache[b, indices[t, j]], b = t // q_len.

    cache [batch, kv_len, W], indices [T, k] -> [T, k, W].  With the bandwidth domain `dram` every row comes from DRAM;
    with `on_chip` the cores hold the cache among them, as in a prefill that has just computed it, and the rows go from
    core to core.  The result is a buffer in DRAM: what reads it does not read the cache again.

    With a `block` the indices [T, heads, k] are numbers of blocks of so many rows, and every key head has its own: the
    columns of head h of row j are those of row indices[t, h, j // block]*block + j % block, of the last row of the
    cache where that would be behind it.  cache [batch, kv_len, heads*W] -> [T, k*block, heads*W].
    """

    name = "layer.gather_rows"
    UNIT: ClassVar[Unit] = "none"
    cache = operand_def(TensorType)
    indices = operand_def(TensorType)
    q_len = prop_def(ExprAttr)
    bandwidth_domain = prop_def(StringAttr)
    block = opt_prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above, a known domain; the rows keep their type."""
        cache, indices = tensor(self.cache).dims, tensor(self.indices).dims
        wanted = "[T, k]" if self.block is None else "[T, heads, k]"
        self.fail_unless(
            len(cache) == 3 and len(indices) == (2 if self.block is None else 3),
            f"the cache must be [batch, kv_len, width] and indices {wanted}",
        )
        if not self.is_sharded:
            self.require_shape(self.indices, (cache[0] * self.q_len.data, *indices[1:]), "indices")
        if self.block is None:
            self.require_shape(self.y, (*indices, cache[2]), "y")
        else:
            block, heads, width = self.block.value.data, indices[1].constant, cache[2].constant
            self.fail_unless(block > 1, f"block is {block}, must be at least 2")
            self.fail_unless(width % heads == 0, f"a cache of {width} columns is not of {heads} key heads")
            self.require_shape(self.y, (indices[0], indices[2] * block, cache[2]), "y")
        self.fail_unless(
            tensor(self.y).element_type == tensor(self.cache).element_type, "gathered rows have the type of the cache"
        )
        domain = self.bandwidth_domain.data
        self.fail_unless(
            domain in BANDWIDTH_DOMAINS, f"bandwidth_domain is '{domain}', must be {' or '.join(BANDWIDTH_DOMAINS)}"
        )

    @property
    def reads_dram(self) -> bool:
        """Whether the rows cross the DRAM interface."""
        return self.bandwidth_domain.data == "dram"

    def compute_dtype(self) -> str:
        """That of the rows."""
        return element_name(tensor(self.cache).element_type)

    def bytes_read(self) -> Expr:
        """The indices, and in the domain `dram` as many rows as there are in the result."""
        return tensor(self.indices).bytes + (tensor(self.y).bytes if self.reads_dram else expr(0))

    def work(self) -> Work:
        """Rows move, nothing is computed."""
        return Work(expr(0), self.bytes_read(), tensor(self.y).bytes, "none", self.compute_dtype())

    def sharding_rule(self) -> ShardingRule:
        """Queries are where their sequences are."""
        stationary = frozenset({0})
        if self.block is not None:
            rule = ((SEQUENCES, WHOLE, HEAD), (ROWS, HEAD, WHOLE))
            return ShardingRule(rule, ((ROWS, WHOLE, HEAD),), stationary=stationary)
        return ShardingRule(((SEQUENCES, WHOLE, WHOLE), (ROWS, WHOLE)), ((ROWS, WHOLE, WHOLE),), stationary=stationary)


@irdl_op_definition
class SparseAttentionOp(FlashAttentionOp):
    """Attention of every token over the keys that were gathered for it: keys [T, k, width], y [T, heads*v_dim].

    Each token is a sequence of one query (`q_len` = 1).  Query i of the `sequence_q_len` queries sees as many of its k
    keys, from the first on, as there are keys up to its position: sequence_kv_len - sequence_q_len + i + 1.  `stride`
    and `first` are those of `layer.topk_select`.

    With a `block` the keys are those of the blocks that every key head has selected, at most `top_k` of them,
    ascending.  The last block that a query at position p sees is its own, number floor(p / block), so of min(floor(p /
    block) + 1, top_k) blocks it sees the last up to its own key and the others whole.
    """

    name = "layer.sparse_attention"
    sequence_q_len = prop_def(ExprAttr)
    sequence_kv_len = prop_def(ExprAttr)
    stride = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))
    first = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    block = opt_prop_def(IntegerAttr)
    top_k = opt_prop_def(IntegerAttr)
    y = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def verify_(self) -> None:
        """One query per set of keys."""
        super().verify_()
        self.fail_unless((self.block is None) == (self.top_k is None), "block and top_k need each other")
        for name, value in (("block", self.block), ("top_k", self.top_k)):
            self.fail_unless(value is None or value.value.data > 0, f"{name} must be at least 1")
        self.fail_unless(self.q_len.data == 1, f"q_len is {self.q_len.data}, must be 1: every token has its own keys")
        self.fail_unless(not bool(self.causal), "causal must be false: positions are those of the whole sequence")
        self.fail_unless(self.soft_cap is None, "the scores of sparse attention have no soft_cap")
        self.fail_unless(self.alibi_heads is None, "the scores of sparse attention have no bias by distance")

    @property
    def hides(self) -> bool:
        """Whether a token may see fewer keys than were gathered: one that is not the last of its sequence."""
        # The block of the last query too has keys behind it, those that do not exist yet.
        return self.sequence_q_len.data != 1 or self.stride.value.data != 1 or self.block is not None

    def last_slot(self, token: Expr) -> Expr:
        """The last of its keys that a token sees, where there are so many."""
        kv_len, q_len = self.sequence_kv_len.data, self.sequence_q_len.data
        at = _position(kv_len, q_len, token, self.stride.value.data, self.first)
        if self.block is None or self.top_k is None:
            return at
        block = self.block.value.data
        return min_of(floordiv(at, block), self.top_k.value.data - 1) * block + mod(at, block)

    def factors(self) -> tuple[tuple[str, ...], ...]:
        """Of q, k and v: keys go with their token; key heads are split as their cache is, one serves all heads."""
        q = tuple((ROWS, HEAD) for _ in self.q)
        return (*q, *((ROWS, WHOLE, "g" if self._follows_heads(v, d) else WHOLE) for v, d in self._keyed()))

    def sharding_rule(self) -> ShardingRule:
        """Query heads may be split; every rank has the keys of its key heads."""
        return ShardingRule(self.factors(), ((ROWS, HEAD),), aligned=frozenset({"g"}))


def _position(kv_len: Expr, q_len: Expr, token: Expr, stride: int, first: ExprAttr) -> Expr:
    """Where the query of a token stands among the keys of its sequence."""
    return kv_len - stride * (q_len - mod(token, q_len)) + first.data
