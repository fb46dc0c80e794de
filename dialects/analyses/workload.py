"""What each op asks of the cores, in a few families that every cost model knows.

Adding an op to the core and tile models is one function here, under `@describes(OpType)`.  Ops that only move data
need none: their bytes say it all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses import vector_steps as steps
from pmc.dialects.analyses.work import work_of
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, expr, product
from pmc.dialects.tensor import element_bits, element_name, tensor


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


@dataclass(frozen=True)
class AttentionWorkload:
    """`sequences` x `kv_heads` flash attentions of `group` query heads each."""

    sequences: Expr
    kv_heads: int
    group: int
    q_len: Expr
    kv_len: Expr
    qk_dims: tuple[int, ...]
    v_dim: int
    v_is_key: bool
    causal: bool
    q_bits: int
    kv_bits: int
    p_bits: int
    out_bits: int
    """Of the result; 0 for a step of a ring, which leaves its running state instead."""
    state_bytes: int
    """Bytes of running state that a row (a query of one head) reads and writes."""
    dtype: str


@dataclass(frozen=True)
class VectorWorkload:
    """`rows` x `columns` elements with so many vector steps each, and steps that happen once per row."""

    rows: Expr
    columns: Expr
    steps_per_element: int
    steps_per_row: int
    dtype: str


@dataclass(frozen=True)
class MoveWorkload:
    """Bytes that move and no arithmetic."""


Workload = MatmulWorkload | AttentionWorkload | VectorWorkload | MoveWorkload

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
    work = work_of(op)
    if work is not None and work.unit == "none":
        return MoveWorkload()
    path = op.path.data if isinstance(op, PmcOp) else ""
    raise PmcError(f"{op.name} at '{path}': the core and tile models do not know this op; --level chip does")


# -- matrix ops -------------------------------------------------------------------------------------------------


def _matmul(op: layer.MatrixOp, x: SSAValue, w: SSAValue, groups: Expr, m: Expr, n: Expr, k: Expr) -> MatmulWorkload:
    a_bits, b_bits, out_bits = (element_bits(tensor(v).element_type) for v in (x, w, op.results[0]))
    return MatmulWorkload(groups, m, n, k, a_bits, b_bits, out_bits, op.compute_dtype())


@describes(layer.MatmulOp)
def _(op: layer.MatmulOp) -> Workload:
    *rows, k = tensor(op.x).dims
    return _matmul(op, op.x, op.w, expr(1), product(rows), tensor(op.w).dims[1], k)


@describes(layer.GroupedMatmulOp)
def _(op: layer.GroupedMatmulOp) -> Workload:
    experts, capacity, k = tensor(op.x).dims
    return _matmul(op, op.x, op.w, experts, capacity, tensor(op.w).dims[2], k)


@describes(layer.HeadMatmulOp)
def _(op: layer.HeadMatmulOp) -> Workload:
    rank, width = tensor(op.w).dims
    group = op.group.value.data
    heads = expr(width.constant // group)
    n, k = (rank, expr(group)) if op.transpose else (expr(group), rank)
    return _matmul(op, op.x, op.w, heads, tensor(op.x).dims[0], n, k)


@describes(layer.AttentionStepOp)
@describes(layer.AttentionOp)
def _(op: layer.FlashAttentionOp) -> Workload:
    dims, v_dim = op.piece_dims(), op.v_dim.value.data
    sequences, kv_len, v_width = tensor(op.v).dims
    pieces = range(len(op.k))
    kv_heads = max(*(op.kv_heads(i) for i in pieces), v_width.constant // v_dim)
    return AttentionWorkload(
        sequences=sequences,
        kv_heads=kv_heads,
        group=op.heads // kv_heads,
        q_len=op.q_len.data,
        kv_len=kv_len,
        qk_dims=dims,
        v_dim=v_dim,
        v_is_key=any(op.k[i] is op.v and dims[i] == v_dim for i in pieces),
        causal=bool(op.causal),
        q_bits=element_bits(tensor(op.q[0]).element_type),
        kv_bits=element_bits(tensor(op.v).element_type),
        p_bits=16,
        out_bits=element_bits(tensor(op.y).element_type) if isinstance(op, layer.AttentionOp) else 0,
        state_bytes=op.state_bytes,
        dtype=op.compute_dtype(),
    )


# -- vector ops -------------------------------------------------------------------------------------------------


def _vector(
    op: layer.LayerOp, value: SSAValue, per_element: int, per_row: int = 0, columns: Expr | None = None
) -> VectorWorkload:
    """Steps on every element of `value`; a row is its last dim, or `columns` of it."""
    type_ = tensor(value)
    width = type_.dims[-1] if columns is None else columns
    rows = product(type_.dims[:-1])
    if columns is not None:
        rows = rows * (type_.dims[-1].constant // columns.constant)
    return VectorWorkload(rows, width, per_element, per_row, op.compute_dtype())


@describes(layer.RmsNormOp)
def _(op: layer.RmsNormOp) -> Workload:
    group = expr(op.group.value.data)
    return _vector(op, op.x, steps.RMS_NORM_PER_ELEMENT, steps.RMS_NORM_PER_ROW, group)


@describes(layer.RopeOp)
def _(op: layer.RopeOp) -> Workload:
    return _vector(op, op.x, steps.ROPE_PER_ELEMENT)


@describes(layer.AttentionFinishOp)
def _(op: layer.AttentionFinishOp) -> Workload:
    """The reciprocal of the sum per row of a head, a multiplication per element."""
    return _vector(op, op.acc, 1, steps.DIV, expr(op.v_dim))


@describes(layer.SiluMulOp)
def _(op: layer.SiluMulOp) -> Workload:
    return _vector(op, op.gate, steps.SILU_MUL_PER_ELEMENT)


@describes(layer.AddOp)
def _(op: layer.AddOp) -> Workload:
    return _vector(op, op.a, 1)


@describes(layer.QuantizeOp)
def _(op: layer.QuantizeOp) -> Workload:
    return _vector(op, op.x, 1)


@describes(layer.RouterTopkOp)
def _(op: layer.RouterTopkOp) -> Workload:
    """Scores, then one scan of all logits per choice."""
    score = steps.SIGMOID if op.scoring.data == "sigmoid" else steps.SOFTMAX_SCORE_PER_LOGIT
    return _vector(op, op.logits, score + op.top_k.value.data)


@describes(layer.CombineOp)
def _(op: layer.CombineOp) -> Workload:
    """A multiply and an add per element of every expert row of a token."""
    rows = tensor(op.weights)
    return VectorWorkload(rows.elements, tensor(op.y).dims[1], 2, 0, element_name(tensor(op.y_experts).element_type))
