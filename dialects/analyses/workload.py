"""What each op asks of the cores, in a few families that every cost model knows.

Adding an op to the core and tile models is one function here, under `@describes(OpType)`.  Row-wise ops need none, as
their vector kind says what they do, nor do ops that only move data: their bytes say it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import f32
from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape, WeightStorage
from pmc.dialects.analyses.work import work_of
from pmc.dialects.arch import DTYPE_BITS
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import Exchange, ExchangeInterface
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, expr, floordiv, product
from pmc.dialects.interfaces import IntArray
from pmc.dialects.key_reach import Reach
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import ScaledType, element_bits, element_name, number_type, tensor
from pmc.dialects.vector_kinds import ROW, PoolStepAttr, TopkSelectAttr
from pmc.dialects.vector_steps import VectorSteps


@dataclass(frozen=True)
class MatmulWorkload:
    """`groups` independent products [m, k] x [k, n]."""

    groups: Expr
    m: Expr
    n: Expr
    k: Expr
    a_bits: int
    b_bits: int
    out_bits: int
    dtype: str
    """The type of the arithmetic, which sets the rate (see `matrix_types`)."""
    converts: bool
    """Whether the result is stored in another type than the FP32 of the accumulator."""
    storage: WeightStorage
    """How B is stored where the matrix unit does not take it as it is."""
    gated: bool = False
    """Whether there are two B and the result is silu(A B) * (A B'), as in `MatmulShape`."""

    @property
    def products(self) -> int:
        """How many products there are of every A."""
        return 2 if self.gated else 1

    def at(self, bindings: Bindings) -> MatmulShape:
        """The workload for these values of the symbols.  Raises PmcError for arrays of values."""
        groups, m, n, k = (single(e, bindings) for e in (self.groups, self.m, self.n, self.k))
        return MatmulShape(
            groups, m, n, k, self.a_bits, self.b_bits, self.out_bits, self.dtype, self.converts, self.storage,
            self.gated,
        )  # fmt: skip


@dataclass(frozen=True)
class AttentionWorkload:
    """`sequences` x `kv_heads` flash attentions of `group` query heads each; types as in `AttentionShape`."""

    sequences: Expr
    kv_heads: int
    group: int
    q_len: Expr
    kv_len: Expr
    """The keys that any query sees."""
    pairs_twice: Expr
    """Twice the pairs of a query and a key that it sees, of a sequence."""
    qk_dims: tuple[int, ...]
    v_dim: int
    shared_piece: int | None
    causal: bool
    reach: Reach | None
    hides: bool
    """Whether keys are hidden from a single query too: a step of a ring may have blocks of later keys."""
    q_bits: int
    k_bits: tuple[int, ...]
    v_bits: int
    p_bits: int
    out_bits: int
    state_reads: int
    state_bytes: int
    """Bytes of running state that a row (a query of one head) reads and writes."""
    dtype: str
    """The type of the arithmetic, of the scores and of the sum over the values."""
    sink_bits: int
    """Of the sink of a head; 0 without sinks."""
    capped: bool
    """Whether scores have a soft cap."""
    biased: bool
    """Whether scores have a bias by distance (ALiBi)."""
    ratio: int
    """The positions that a key stands for."""
    positions: Expr
    """Those of a sequence, up to its last query."""

    @property
    def v_is_key(self) -> bool:
        """Whether v is a key piece."""
        return self.shared_piece is not None

    def at(self, bindings: Bindings) -> AttentionShape:
        """The workload for these values of the symbols.  Raises PmcError for arrays of values."""
        sequences, q_len, kv_len = (single(e, bindings) for e in (self.sequences, self.q_len, self.kv_len))
        causal = self.causal and (q_len > 1 or self.hides)
        reach = None if self.reach is None or self.reach.keys >= kv_len else self.reach
        entries = (self.ratio, single(self.positions, bindings)) if causal and self.ratio > 1 else ()
        return AttentionShape(
            sequences, self.kv_heads, self.group, q_len, kv_len, self.qk_dims, self.v_dim, self.shared_piece, causal,
            self.q_bits, self.k_bits, self.v_bits, self.p_bits, self.out_bits, self.state_reads, self.dtype, reach,
            self.sink_bits, self.capped, self.biased, *entries,
        )  # fmt: skip


@dataclass(frozen=True)
class VectorWorkload:
    """`rows` x `columns` elements: what the vector unit does for each of them, and once per row besides."""

    rows: Expr
    columns: Expr
    per_element: VectorSteps
    per_row: VectorSteps
    dtype: str
    turns: Expr = field(default_factory=lambda: expr(1))
    """How often all this is done, one time after the other."""


@dataclass(frozen=True)
class MoveWorkload:
    """Bytes that move inside the DRAM of a chip and no arithmetic."""

    bytes_read: Expr
    bytes_written: Expr
    dtype: str


@dataclass(frozen=True)
class IndexWorkload:
    """Scores of `rows` queries against `keys` keys by `heads` index heads: products, then their weighted sum."""

    rows: Expr
    keys: Expr
    heads: int
    qk_dims: tuple[int, ...]
    dtype: str
    """The type of the products."""
    per_score: VectorSteps
    """What the vector unit does for a score."""


Workload = IndexWorkload | MatmulWorkload | AttentionWorkload | VectorWorkload | MoveWorkload | Exchange

Bindings = Mapping[str, int | IntArray]
"""The value of each symbol, or its values over a sweep."""


def single(value: Expr, bindings: Bindings) -> int:
    """The value of an expression at one point.  Raises PmcError for arrays of values."""
    result = value.evaluate(bindings)
    if isinstance(result, np.ndarray):
        raise PmcError("tilings take one value per symbol, not arrays: sweep at granularity core")
    return int(result)


_DESCRIPTIONS: dict[type[Operation], Callable[[Any], Workload]] = {}


def describes(
    op_type: type[Operation],
) -> Callable[[Callable[[Any], Workload]], Callable[[Any], Workload]]:
    """Register the description of an op type."""

    def register(function: Callable[[Any], Workload]) -> Callable[[Any], Workload]:
        _DESCRIPTIONS[op_type] = function
        return function

    return register


def workload_of(op: Operation) -> Workload:
    """The workload of an op that has work.  Raises PmcError for arithmetic that no description covers."""
    describe = _DESCRIPTIONS.get(type(op))
    if describe is not None:
        return describe(op)
    if isinstance(op, RowOp):
        return _rows(op)
    if isinstance(op, ExchangeInterface):
        return op.exchange()
    work = work_of(op)
    if work is not None and work.unit == "none":
        return MoveWorkload(work.bytes_read, work.bytes_written, work.dtype)
    path = op.path.data if isinstance(op, PmcOp) else ""
    raise PmcError(f"{op.name} at '{path}': the core and tile models do not know this op; --granularity chip does")


# -- matrix ops -------------------------------------------------------------------------------------------------


def _matmul(op: layer.MatrixOp, x: SSAValue, w: SSAValue, groups: Expr, m: Expr, n: Expr, k: Expr) -> MatmulWorkload:
    a_bits, b_bits, out_bits = (element_bits(tensor(v).element_type) for v in (x, w, op.results[0]))
    converts = tensor(op.results[0]).element_type != f32
    return MatmulWorkload(groups, m, n, k, a_bits, b_bits, out_bits, op.compute_dtype(), converts, _storage(op, w))


def _storage(op: layer.MatrixOp, w: SSAValue) -> WeightStorage:
    """Codes of less than 8 bits, and codes with scales, become numbers on the vector unit.

    Codes in the type of the arithmetic are multiplied as they are, and the scales applied to the sums of every group.
    """
    type_, dtype = tensor(w).element_type, op.compute_dtype()
    same = element_name(number_type(type_)) == dtype
    if isinstance(type_, ScaledType):
        return WeightStorage(type_.scale_bits, 0 if same else DTYPE_BITS[dtype], type_.block[0] if same else 0)
    return WeightStorage(0.0, 0 if same or element_bits(type_) >= 8 else DTYPE_BITS[dtype], 0)


@describes(layer.MatmulOp)
def _(op: layer.MatmulOp) -> Workload:
    *rows, k = tensor(op.x).dims
    return _matmul(op, op.x, op.w, expr(1), product(rows), tensor(op.w).dims[1], k)


@describes(layer.GroupedMatmulOp)
def _(op: layer.GroupedMatmulOp) -> Workload:
    experts, capacity, k = tensor(op.x).dims
    return _matmul(op, op.x, op.w, experts, capacity, tensor(op.w).dims[2], k)


@describes(layer.GatedMatmulOp)
def _(op: layer.GatedMatmulOp) -> Workload:
    *rows, k = tensor(op.x).dims
    groups = rows.pop(0) if op.is_grouped else expr(1)
    plain = _matmul(op, op.x, op.gate, groups, product(rows), tensor(op.gate).dims[-1], k)
    return replace(plain, gated=True)


@describes(layer.HeadMatmulOp)
def _(op: layer.HeadMatmulOp) -> Workload:
    rank, width = tensor(op.w).dims
    group = op.group.value.data
    heads = expr(width.constant // group)
    n, k = (rank, expr(group)) if op.transpose else (expr(group), rank)
    return _matmul(op, op.x, op.w, heads, tensor(op.x).dims[0], n, k)


@describes(layer.AttentionStepOp)
@describes(layer.SparseAttentionOp)
@describes(layer.CompressedAttentionOp)
@describes(layer.AttentionOp)
def _(op: layer.FlashAttentionOp) -> Workload:
    dims, v_dim = op.piece_dims(), op.v_dim.value.data
    sequences, _, v_width = tensor(op.v).dims
    pieces = range(len(op.k))
    v_heads = v_width.constant // v_dim
    kv_heads = max(*(op.kv_heads(i) for i in pieces), v_heads)
    shared = next((i for i in pieces if op.k[i] is op.v and dims[i] == v_dim and op.kv_heads(i) == v_heads), None)
    q_type, v_type = op.arithmetic_type, tensor(op.v).element_type
    ratio = op.visible_entries if isinstance(op, layer.CompressedAttentionOp) else None
    k_types = [tensor(k).element_type for k in op.k]
    return AttentionWorkload(
        sequences=sequences,
        kv_heads=kv_heads,
        group=op.heads // kv_heads,
        q_len=op.q_len.data,
        kv_len=op.keys_seen,
        pairs_twice=op.pairs_twice,
        qk_dims=dims,
        v_dim=v_dim,
        shared_piece=shared,
        causal=bool(op.causal) or ratio is not None,
        reach=op.reach,
        # A step with a window is the first of two attentions, not one of a ring.
        hides=isinstance(op, layer.AttentionStepOp) and op.reach is None,
        q_bits=element_bits(q_type),
        k_bits=tuple(element_bits(t) for t in k_types),
        v_bits=element_bits(v_type),
        p_bits=element_bits(q_type),
        out_bits=0 if isinstance(op, layer.AttentionStepOp) else element_bits(tensor(op.results[0]).element_type),
        state_reads=int(bool(op.state_before)),
        state_bytes=op.state_bytes,
        dtype=op.compute_dtype(),
        sink_bits=0 if op.sink_logits is None else element_bits(tensor(op.sink_logits).element_type),
        capped=op.soft_cap is not None,
        biased=op.alibi_heads is not None,
        ratio=ratio or 1,
        positions=op.sequence_kv_len.data if isinstance(op, layer.CompressedAttentionOp) else op.keys_seen,
    )


@describes(layer.IndexScoresOp)
def _(op: layer.IndexScoresOp) -> Workload:
    rows, keys = tensor(op.y).dims
    steps = op.vector_kind.steps_per_element
    return IndexWorkload(rows, keys, op.heads, op.piece_dims(), op.compute_dtype(), steps)


@describes(layer.BlockScoresOp)
def _(op: layer.BlockScoresOp) -> Workload:
    keys = tensor(op.k).dims[1]
    # What is done for a product is done for those of all heads of a query and a key.
    steps = VectorSteps(basic=op.heads * op.vector_kind.steps_per_element.basic)
    return IndexWorkload(tensor(op.q).dims[0], keys, op.heads, (op.head_dim,), op.compute_dtype(), steps)


def attention_shape(op: layer.FlashAttentionOp) -> AttentionShape:
    """The shape of an attention whose symbols are bound."""
    workload = workload_of(op)
    assert isinstance(workload, AttentionWorkload)
    return workload.at({})


def matmul_shape(op: Operation) -> MatmulShape:
    """The shape of a matmul whose symbols are bound."""
    workload = workload_of(op)
    assert isinstance(workload, MatmulWorkload)
    return workload.at({})


# -- vector ops -------------------------------------------------------------------------------------------------


def _rows(op: RowOp) -> VectorWorkload:
    """What the op's vector kind does, on rows as wide as the kind needs them."""
    kind, type_ = op.vector_kind(expr(ROW)), tensor(op.operands[0])
    rows, columns = product(type_.dims[:-1]), type_.dims[-1]
    if op.row_columns is not None and columns != op.row_columns:
        rows, columns = rows * (columns.constant // op.row_columns), expr(op.row_columns)
    return VectorWorkload(rows, columns, kind.steps_per_element, kind.steps_per_row, op.compute_dtype())


@describes(layer.PositionEmbeddingOp)
def _(op: layer.PositionEmbeddingOp) -> Workload:
    (rows, columns), kind = tensor(op.x).dims, op.vector_kind()
    return VectorWorkload(rows, columns, kind.steps_per_element, kind.steps_per_row, op.compute_dtype())


@describes(layer.TopkSelectOp)
def _(op: layer.TopkSelectOp) -> Workload:
    """A scan of every score, whatever the number of keys that are selected."""
    *rows, keys = tensor(op.scores).dims
    dtype = element_name(tensor(op.scores).element_type)
    return VectorWorkload(product(rows), keys, TopkSelectAttr.ELEMENT_STEPS, TopkSelectAttr.ROW_STEPS, dtype)


@describes(layer.CausalConvOp)
def _(op: layer.CausalConvOp) -> Workload:
    """Tokens of a channel are independent once their inputs are known; the state only moves."""
    (rows, channels), kind = tensor(op.x).dims, op.vector_kind()
    return VectorWorkload(rows, channels, kind.steps_per_element, kind.steps_per_row, op.compute_dtype())


@describes(layer.CompressOp)
def _(op: layer.CompressOp) -> Workload:
    """A step of the running softmax for every token and column; the division of an entry is not counted."""
    tokens = tensor(op.kv).dims[0] * op.pooled_tokens
    kind = PoolStepAttr
    return VectorWorkload(tokens, expr(op.columns), kind.ELEMENT_STEPS, kind.ROW_STEPS, op.compute_dtype())


@describes(layer.SsmScanOp)
@describes(layer.GatedDeltaOp)
def _(op: layer.RecurrenceOp) -> Workload:
    """The heads of all sequences side by side, the tokens of a sequence one after the other."""
    tokens, sequences = tensor(op.inputs).dims[0], tensor(op.updated[0]).dims[0]
    heads, of_a_head = sequences * op.heads, op.step(1).steps_per_element
    return VectorWorkload(heads, expr(0), VectorSteps(), of_a_head, op.compute_dtype(), floordiv(tokens, sequences))


@describes(layer.CombineOp)
def _(op: layer.CombineOp) -> Workload:
    """A multiply and an add per element of every expert row of a token."""
    rows, dtype = tensor(op.weights).elements, element_name(tensor(op.y_experts).element_type)
    return VectorWorkload(rows, tensor(op.y).dims[1], VectorSteps(basic=2), VectorSteps(), dtype)
