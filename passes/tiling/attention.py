"""Flash attention (FlashAttention-2): query blocks over the cores, an online softmax over key tiles.

A unit is `tile_q` queries x `tile_g` query heads that share a key head, of one sequence: its rows are (query, head)
pairs, query by query.  A plan has cores [units], tile [tile_q, tile_g, tile_s] and the order "us".  Units are numbered
sequence, key head, head block, query block, the last one fastest; each core takes a contiguous range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import BoolAttr, bf16, f32
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.expr import Expr, ExprAttr, ceildiv, expr, floordiv, min_of, mod
from pmc.dialects.interfaces import AttentionPlans, AttentionShape, IntArray
from pmc.dialects.tensor import element_bits, element_name, tensor
from pmc.dialects.tile import CORE, KernelOp, PlanAttr
from pmc.dialects.vector_kinds import ROW, FillAttr, SoftmaxFinishAttr, SoftmaxStepAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import path_of
from pmc.passes.tiling.kernels import Arrays
from pmc.passes.tiling.matmul import ints
from pmc.passes.tiling.split import Split, round_up
from pmc.passes.tiling.target import Target, does_not_fit

QUERY_TILES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
KEY_TILES = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Attention:
    """The sizes and types of the op; key heads per piece and of v may differ, the largest number forms the units."""

    shape: AttentionShape
    heads: int
    piece_heads: tuple[int, ...]
    v_heads: int
    shared_piece: int | None
    """The key piece that is also v."""
    q: Attribute
    k: tuple[Attribute, ...]
    v: Attribute
    p: Attribute
    out: Attribute | None
    """The element type of the result; a step of a ring has none, it stores its state."""


def attention_of(op: layer.FlashAttentionOp) -> Attention:
    """The attention that a layer op is."""
    dims, v_dim, heads = op.piece_dims(), op.v_dim.value.data, op.heads
    sequences, kv_len, v_width = ints(op.v)
    piece_heads = tuple(ints(k)[2] // d for k, d in zip(op.k, dims, strict=True))
    v_heads = v_width // v_dim
    kv_heads = max(*piece_heads, v_heads)
    shared = next((i for i, k in enumerate(op.k) if k is op.v and dims[i] == v_dim and piece_heads[i] == v_heads), None)
    q_type, v_type = (tensor(v).element_type for v in (op.q[0], op.v))
    out = tensor(op.y).element_type if isinstance(op, layer.AttentionOp) else None
    p_type: Attribute = f32 if v_type == f32 else bf16
    q_len = op.q_len.data.constant
    shape = AttentionShape(
        sequences=sequences,
        kv_heads=kv_heads,
        group=heads // kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        qk_dims=dims,
        v_dim=v_dim,
        v_is_key=shared is not None,
        causal=bool(op.causal) and (q_len > 1 or isinstance(op, layer.AttentionStepOp)),
        q_bits=element_bits(q_type),
        kv_bits=element_bits(v_type),
        p_bits=element_bits(p_type),
        out_bits=0 if out is None else element_bits(out),
        state_bytes=op.state_bytes,
        dtype=element_name(q_type),
    )
    k_types = tuple(tensor(k).element_type for k in op.k)
    return Attention(shape, heads, piece_heads, v_heads, shared, q_type, k_types, v_type, p_type, out)


# -- plans ------------------------------------------------------------------------------------------------------


def candidates(attention: Attention, target: Target) -> AttentionPlans:
    """Query blocks, head blocks (divisors of the group) and key tiles."""
    s = attention.shape
    queries = sorted({q for q in QUERY_TILES if q < s.q_len} | {s.q_len if s.q_len <= 512 else 512})
    groups = [g for g in range(1, s.group + 1) if s.group % g == 0]
    whole = round_up(s.kv_len, KEY_TILES[0])
    keys = sorted({k for k in KEY_TILES if k < whole} | ({whole} if whole <= 2048 else set()))
    q, g, k = (a.ravel().astype(np.int64) for a in np.meshgrid(queries, groups, keys, indexing="ij"))
    units = s.sequences * s.kv_heads * (s.group // g) * -(-s.q_len // q)
    per_core = -(-units // target.chip.cores)
    return AttentionPlans(-(-units // per_core), units, per_core, q, g, k)


def lmem_bytes(attention: Attention, plans: AttentionPlans, target: Target) -> IntArray:
    """The LMEM that the kernel's buffers take, exactly as `lower` allocates them."""
    step, s = target.chip.alignment_bytes, attention.shape
    rows = _padded(plans.tile_q * plans.tile_g, target)
    keys = plans.tile_s

    def size(r: IntArray, columns: IntArray | int, element: Attribute) -> IntArray:
        return -(-(r * columns * element_bits(element)) // (8 * step)) * step

    unit_slots = 1 + (plans.units_per_core > 1)
    step_slots = 1 + ((plans.units_per_core > 1) | (keys < s.kv_len))
    need = size(rows, s.v_dim, f32) + 2 * size(rows, 1, f32)
    if attention.out is not None:
        need = need + unit_slots * size(rows, s.v_dim, attention.out)
    for d, k_type in zip(s.qk_dims, attention.k, strict=True):
        need = need + unit_slots * size(rows, d, attention.q) + step_slots * size(keys, d, k_type)
    if attention.shared_piece is None:
        need = need + step_slots * size(keys, s.v_dim, attention.v)
    return need + size(rows, keys, f32) + size(rows, keys, attention.p)


def _padded(rows: IntArray, target: Target) -> IntArray:
    return -(-rows // target.chip.cube.m) * target.chip.cube.m


class AttentionFamily:
    """`layer.attention`, and `layer.attention_step` with its state in DRAM between the steps."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """The candidate of least time, then of fewest key steps."""
        assert isinstance(op, layer.FlashAttentionOp)
        attention = attention_of(op)
        plans = candidates(attention, target)
        need = lmem_bytes(attention, plans, target)
        fits = np.flatnonzero(need <= target.budget)
        if not len(fits):
            least = int(need.argmin())
            tile = f"{plans.tile_q[least]} queries x {plans.tile_g[least]} heads x {plans.tile_s[least]} keys"
            raise does_not_fit(op.name, path_of(op), int(need[least]), target.budget, tile)
        plans = AttentionPlans(*(column[fits] for column in vars(plans).values()))
        seconds = target.model.attention_seconds(attention.shape, plans)
        steps = plans.units_per_core * -(-attention.shape.kv_len // plans.tile_s)
        best = int(np.lexsort((plans.cores, steps, np.round(seconds * 1e12)))[0])
        tile_sizes = (plans.tile_q[best], plans.tile_g[best], plans.tile_s[best])
        return PlanAttr.of([int(plans.cores[best])], [int(t) for t in tile_sizes], "us")

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Loop u over units, inside it loop s over key tiles."""
        assert isinstance(op, layer.FlashAttentionOp)
        return _lower(op, attention_of(op), plan, arrays, target)


# -- the kernel -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unit:
    """Where a unit is: sequence, key head, first query head, first query, number of queries."""

    sequence: Expr
    kv_head: Expr
    head: Expr
    query: Expr
    queries: Expr


def _unit(index: Expr, shape: AttentionShape, tile_q: int, tile_g: int) -> _Unit:
    blocks_q, blocks_g = -(-shape.q_len // tile_q), shape.group // tile_g
    query = mod(index, blocks_q) * tile_q
    kv_head = mod(floordiv(index, blocks_q * blocks_g), shape.kv_heads)
    head = kv_head * shape.group + mod(floordiv(index, blocks_q), blocks_g) * tile_g
    queries = expr(tile_q) if shape.q_len % tile_q == 0 else min_of(tile_q, shape.q_len - query)
    return _Unit(floordiv(index, blocks_q * blocks_g * shape.kv_heads), kv_head, head, query, queries)


def _lower(
    op: layer.FlashAttentionOp, attention: Attention, plan: PlanAttr, arrays: Arrays, target: Target
) -> KernelOp:
    s = attention.shape
    tile_q, tile_g, tile_s = plan.tile_sizes
    total = s.sequences * s.kv_heads * (s.group // tile_g) * -(-s.q_len // tile_q)
    units = Split.over(total, plan.core_counts[0], 1)
    q = [arrays.array(v, s.sequences, s.q_len, attention.heads, d) for v, d in zip(op.q, s.qk_dims, strict=True)]
    k = [
        arrays.array(v, s.sequences, s.kv_len, h, d)
        for v, h, d in zip(op.k, attention.piece_heads, s.qk_dims, strict=True)
    ]
    v = arrays.array(op.v, s.sequences, s.kv_len, attention.v_heads, s.v_dim)
    widths = (s.v_dim, 1, 1)[: len(op.results)]
    stored = [
        arrays.result(r, s.sequences, s.q_len, attention.heads, w) for r, w in zip(op.results, widths, strict=True)
    ]
    state = op.state if isinstance(op, layer.AttentionStepOp) else ()
    before = [arrays.array(r, s.sequences, s.q_len, attention.heads, w) for r, w in zip(state, widths, strict=False)]
    hidden = op.hidden.data if isinstance(op, layer.AttentionStepOp) else expr(0)
    code = arrays.code(op)
    capacity = round_up(tile_q * tile_g, target.chip.cube.m)
    core = expr(CORE)

    with code.loop("u", units.trips(core)) as ui:
        unit = _unit(units.start(core, ui), s, tile_q, tile_g)
        rows = unit.queries * tile_g
        q_at, q_size = (unit.sequence, unit.query, unit.head, 0), (1, unit.queries, tile_g)
        q_tiles = [code.alloc(capacity, d, attention.q) for d in s.qk_dims]
        for array, buffer, d in zip(q, q_tiles, s.qk_dims, strict=True):
            code.load(array, buffer, q_at, (*q_size, d))
        acc = code.alloc(capacity, s.v_dim, f32, slots=1)
        row_max, row_sum = code.alloc(capacity, 1, f32, slots=1), code.alloc(capacity, 1, f32, slots=1)
        running = (acc, row_max, row_sum)
        for array, buffer, width in zip(before, running, widths, strict=False):
            code.load(array, buffer, q_at, (*q_size, width))
        if not before:
            code.vector(FillAttr.of(float("-inf")), rows, 1, outs=[row_max])
            code.vector(FillAttr.of(0.0), rows, 1, outs=[row_sum])
            code.vector(FillAttr.of(0.0), rows, s.v_dim, outs=[acc])
        # A causal block needs the keys up to its last query; all before the first query are cached.
        visible = s.kv_len - s.q_len + unit.query + unit.queries if s.causal else expr(s.kv_len)
        one_step = tile_s >= s.kv_len
        with code.loop("s", 1 if one_step else ceildiv(visible, tile_s)) as si:
            key = si * tile_s
            keys = visible if one_step else _keys(visible, key, tile_s)

            def load_keys(array: Array, heads: int, width: int, element: Attribute) -> SSAValue:
                buffer = code.alloc(tile_s, width, element)
                head = unit.kv_head if heads == s.kv_heads else floordiv(unit.kv_head * heads, s.kv_heads)
                code.load(array, buffer, (unit.sequence, key, head, 0), (1, keys, 1, width))
                return buffer

            k_tiles = [
                load_keys(array, h, d, t)
                for array, h, d, t in zip(k, attention.piece_heads, s.qk_dims, attention.k, strict=True)
            ]
            scores = code.alloc(capacity, tile_s, f32, slots=1)
            for piece, (a, b, d) in enumerate(zip(q_tiles, k_tiles, s.qk_dims, strict=True)):
                code.mma(scores, a, b, (rows, keys, d), accumulate=int(piece > 0), transpose_b=True)
            p = code.alloc(capacity, tile_s, attention.p, slots=1)
            position = s.kv_len - s.q_len + unit.query + floordiv(expr(ROW), tile_g) - hidden
            step = SoftmaxStepAttr(op.scale, BoolAttr.from_bool(s.causal), ExprAttr(position), ExprAttr(key))
            code.vector(step, rows, keys, [scores], [p], [row_max, row_sum, acc])
            shared = attention.shared_piece
            v_tile = k_tiles[shared] if shared is not None else load_keys(v, attention.v_heads, s.v_dim, attention.v)
            code.mma(acc, p, v_tile, (rows, s.v_dim, keys), accumulate=1, transpose_b=False)
        results: tuple[SSAValue, ...] = running
        if attention.out is not None:
            results = (code.alloc(capacity, s.v_dim, attention.out),)
            code.vector(SoftmaxFinishAttr(), rows, s.v_dim, [acc, row_sum], [results[0]])
        for array, buffer, width in zip(stored, results, widths, strict=True):
            code.store(array, buffer, q_at, (*q_size, width))
    return code.kernel(units.parts)


def _keys(visible: Expr, key: Expr, tile_s: int) -> Expr:
    whole = visible.is_constant and visible.constant % tile_s == 0
    return expr(tile_s) if whole else min_of(tile_s, visible - key)
