"""The kernels of flash attention (FlashAttention-2, Dao 2023) under any plan of `analyses/attention_tiling.py`.

A core of the grid [p, u, s] runs over its problems (a key head of a sequence), over its units of each (query blocks x
head blocks, dealt in turn) and over the key tiles of its part of the keys, with an online softmax.  Where cores share
the keys of a problem, a merge of their running states follows behind a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import BoolAttr, IntegerAttr, f32, i64
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.attention_tiling import key_step, merge_share, plan_fault, scratch_dims
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import Split, core_coordinates, cores_along, round_up
from pmc.dialects.analyses.workload import attention_shape
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, ExprAttr, ceildiv, expr, floordiv, max_of, min_of, mod
from pmc.dialects.tensor import ints, tensor
from pmc.dialects.tile import CORE, KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import (
    ROW,
    FillAttr,
    RepeatRowsAttr,
    SoftmaxFinishAttr,
    SoftmaxMergeAttr,
    SoftmaxStepAttr,
)
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode
from pmc.passes.tiling.kernels import Arrays


class AttentionFamily:
    """Attention over all keys, selected ones or compressed entries, and its steps with their state in DRAM between."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """The fastest plan."""
        assert isinstance(op, layer.FlashAttentionOp)
        return planner.attention(attention_shape(op))

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.FlashAttentionOp)
        return plan_fault(attention_shape(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loops p, u, s, then the merge of the states where cores share the keys."""
        assert isinstance(op, layer.FlashAttentionOp)
        return _Kernel(op, plan, arrays, chip).kernel()


@dataclass(frozen=True)
class _Unit:
    """Where a unit is: sequence, key head, first query head, first query, number of queries."""

    sequence: Expr
    kv_head: Expr
    head: Expr
    query: Expr
    queries: Expr
    first_query: Expr
    """The first query of the units that the cores along u have in the same iteration."""


class _Kernel:
    """One kernel under construction."""

    def __init__(self, op: layer.FlashAttentionOp, plan: PlanAttr, arrays: Arrays, chip: Chip) -> None:
        self.op, self.plan = op, plan
        s = self.shape = attention_shape(op)
        tile_q, self.tile_g, self.tile_s = plan.tile_sizes
        self.tile_q = min(tile_q, s.q_len)
        cores_p, cores_u, cores_s = plan.core_counts
        self.problems = Split.over(s.problems, cores_p, 1)
        self.blocks_g = s.group // self.tile_g
        self.all_units = -(-s.q_len // self.tile_q) * self.blocks_g
        units = min(cores_u, self.all_units)
        granule = key_step(s, chip) if cores_s > 1 else 1
        self.keys = Split.over(s.kv_len, cores_s, self.tile_s, granule)
        self.parts = (self.problems.parts, units, self.keys.parts)
        self.core_p, self.core_u, self.core_s = core_coordinates(self.parts)
        self.merges = self.keys.parts > 1

        heads = s.kv_heads * s.group
        self.q = [arrays.array(v, s.sequences, s.q_len, heads, d) for v, d in zip(op.q, s.qk_dims, strict=True)]
        self.piece_heads = [ints(k)[2] // d for k, d in zip(op.k, s.qk_dims, strict=True)]
        stored = ints(op.v)[1]

        def keyed(value: SSAValue, heads: int, width: int) -> Array:
            return arrays.array(value, s.sequences, stored, heads, width).rows_from(1, stored - s.kv_len, s.kv_len)

        self.k = [keyed(v, h, d) for v, h, d in zip(op.k, self.piece_heads, s.qk_dims, strict=True)]
        self.v_heads = ints(op.v)[2] // s.v_dim
        self.v = keyed(op.v, self.v_heads, s.v_dim)
        self.widths = (s.v_dim, 1, 1)
        """Columns of the running state: accumulator, maximum, sum."""
        self.results = [
            arrays.result(r, s.sequences, s.q_len, heads, w) for r, w in zip(op.results, self.widths, strict=False)
        ]
        before = zip(op.state_before, self.widths, strict=False)
        self.state = [arrays.array(v, s.sequences, s.q_len, heads, w) for v, w in before]
        self.hidden = op.hidden.data if isinstance(op, layer.AttentionStepOp) else expr(0)
        sinks = op.sink_logits
        self.sinks = None if sinks is None else arrays.array(sinks, heads, 1)
        self.scratch = [arrays.scratch(op, dims, f32) for dims in scratch_dims(s, plan, chip)]
        q_type, v_type = (tensor(v).element_type for v in (op.q[0], op.v))
        self.q_type, self.v_type = q_type, v_type
        self.p_type = op.arithmetic_type
        self.capacity = round_up(self.tile_q * self.tile_g, chip.cube.m)
        self.code: KernelCode = arrays.code(op, plan)

    def kernel(self) -> KernelOp:
        """The whole kernel."""
        running: tuple[SSAValue, ...] = ()
        with self.code.loop("p", self.problems.trips(self.core_p)) as pi, self.code.loop("u", self.unit_trips()) as ui:
            running = self.attend(self.unit(pi, ui))
        if self.merges:
            self.merge(running)
        return self.code.kernel(prod(self.parts))

    def unit_trips(self) -> Expr:
        """Units of a problem that a core has: core u has u, u + cores, .."""
        cores = self.parts[1]
        if self.all_units % cores == 0:
            return expr(self.all_units // cores)
        return ceildiv(self.all_units - self.core_u, cores)

    def unit(self, pi: Expr, ui: Expr) -> _Unit:
        """The unit of an iteration; head blocks are fastest."""
        s, index = self.shape, ui * self.parts[1] + self.core_u
        problem = self.problems.start(self.core_p, pi)
        query = floordiv(index, self.blocks_g) * self.tile_q
        kv_head = mod(problem, s.kv_heads)
        head = kv_head * s.group + mod(index, self.blocks_g) * self.tile_g
        queries = expr(self.tile_q) if s.q_len % self.tile_q == 0 else min_of(self.tile_q, s.q_len - query)
        first_query = floordiv(ui * self.parts[1], self.blocks_g) * self.tile_q
        return _Unit(floordiv(problem, s.kv_heads), kv_head, head, query, queries, first_query)

    # -- one unit -----------------------------------------------------------------------------------------------

    def attend(self, unit: _Unit) -> tuple[SSAValue, ...]:
        """All keys that the unit sees in the part of this core; gives the running state."""
        s, code = self.shape, self.code
        rows = unit.queries * self.tile_g
        at, size = (unit.sequence, unit.query, unit.head, 0), (1, unit.queries, self.tile_g)
        serves = cores_along(self.parts, 2) if self.plan.multicasts("q") else None
        q_tiles = [code.alloc(self.capacity, d, self.q_type) for d in s.qk_dims]
        for array, buffer, d in zip(self.q, q_tiles, s.qk_dims, strict=True):
            code.load(array, buffer, at, (*size, d), serves)
        running = tuple(code.alloc(self.capacity, w, f32, slots=1) for w in self.widths)
        acc, row_max, row_sum = running
        if self.state and not self.merges:
            self.load_state(running, at, size)
        if self.sinks is not None:
            # exp(sink - maximum) is 1 at first; cores that share the keys have equal parts of it.
            sinks = code.alloc(self.tile_g, 1, self.sinks.element_type)
            code.load(self.sinks, sinks, (unit.head, 0), (self.tile_g, 1), serves)
            code.vector(RepeatRowsAttr(IntegerAttr(self.tile_g, i64)), rows, 1, [sinks], [row_max])
            code.vector(FillAttr.of(1 / self.keys.parts), rows, 1, outs=[row_sum])
        elif not self.state or self.merges:
            code.vector(FillAttr.of(float("-inf")), rows, 1, outs=[row_max])
            code.vector(FillAttr.of(0.0), rows, 1, outs=[row_sum])
        if not self.state or self.merges:
            code.vector(FillAttr.of(0.0), rows, s.v_dim, outs=[acc])
        if self.state and self.merges:
            # Of the cores that share the keys the first goes on from the state, the others start from nothing.
            with code.loop("z", max_of(1 - self.core_s, 0)):
                self.load_state(running, at, size)
        seen = self.keys_before(unit)
        first = self.keys.start(self.core_s, expr(0))
        mine = min_of(self.keys.length(self.core_s), seen - first) if s.causal else self.keys.length(self.core_s)
        skipped = self.skipped_tiles(unit)
        with code.loop("s", self.key_trips(mine, skipped)) as si:
            self.key_step(unit, rows, q_tiles, running, si + skipped, mine)
        if self.merges:
            for array, buffer, width in zip(self.scratch, running, self.widths, strict=False):
                code.store(array, buffer, (self.core_s, *at), (1, *size, width))
            return running
        results: tuple[SSAValue, ...] = running
        if not s.state_results:
            results = (code.alloc(self.capacity, s.v_dim, tensor(self.op.results[0]).element_type),)
            code.vector(SoftmaxFinishAttr(), rows, s.v_dim, [acc, row_sum], [results[0]])
        for array, buffer, width in zip(self.results, results, self.widths, strict=False):
            code.store(array, buffer, at, (*size, width))
        return running

    def load_state(
        self, running: tuple[SSAValue, ...], at: tuple[Expr | int, ...], size: tuple[Expr | int, ...]
    ) -> None:
        """The state that the op goes on from."""
        for array, buffer, width in zip(self.state, running, self.widths, strict=True):
            self.code.load(array, buffer, at, (*size, width))

    def keys_before(self, unit: _Unit) -> Expr:
        """The keys that a unit needs: up to its last query where that is causal, as all before the first are cached."""
        s = self.shape
        if not s.causal or (s.ratio > 1 and not s.may_see_none(self.tile_q)):
            return expr(s.kv_len)
        return floordiv(s.positions - s.q_len + unit.query + unit.queries, s.ratio)

    def skipped_tiles(self, unit: _Unit) -> Expr:
        """Key tiles of the part of a core that lie out of reach of the unit, or of those that read with it."""
        s = self.shape
        if s.reach is None or (self.keys.max_trips == 1 and not self.merges):
            return expr(0)
        query = unit.first_query if self.plan.multicasts("kv") else unit.query
        first = s.reach.first(s.kv_len - s.q_len + query) - self.keys.start(self.core_s, expr(0))
        return floordiv(max_of(first, 0), self.tile_s)

    def key_trips(self, mine: Expr, skipped: Expr) -> Expr:
        """Key tiles of a core that sees `mine` keys of its part, but those of the `skipped` tiles."""
        if self.keys.max_trips == 1 and not (self.merges and self.shape.causal):
            return min_of(mine, 1) if self.shape.may_see_none(self.tile_q) else expr(1)
        if not (self.merges and self.shape.causal):
            return ceildiv(mine, self.tile_s) - skipped
        trips = ceildiv(max_of(mine, 0), self.tile_s)
        return trips if self.shape.reach is None else max_of(trips - skipped, 0)

    def key_step(
        self, unit: _Unit, rows: Expr, q_tiles: list[SSAValue], running: tuple[SSAValue, ...], si: Expr, mine: Expr
    ) -> None:
        """Scores of one tile of keys, softmax, and the sum over the values."""
        s, code = self.shape, self.code
        acc, row_max, row_sum = running
        offset = si * self.tile_s
        key = self.keys.start(self.core_s, si)
        # All cores along u load the whole tile, whatever their queries may see of it: one read serves them.
        loaded = self.keys.size(self.core_s, si)
        one_step = self.keys.max_trips == 1
        whole = mine.is_constant and mine.constant % self.tile_s == 0
        keys = mine if one_step else expr(self.tile_s) if whole else min_of(self.tile_s, mine - offset)
        serves = cores_along(self.parts, 1) if self.plan.multicasts("kv") else None

        def load_keys(array: Array, heads: int, width: int, element: Attribute) -> SSAValue:
            buffer = code.alloc(self.tile_s, width, element)
            head = unit.kv_head if heads == s.kv_heads else floordiv(unit.kv_head * heads, s.kv_heads)
            code.load(array, buffer, (unit.sequence, key, head, 0), (1, loaded, 1, width), serves)
            return buffer

        k_tiles = [
            load_keys(array, h, d, tensor(v).element_type)
            for array, h, d, v in zip(self.k, self.piece_heads, s.qk_dims, self.op.k, strict=True)
        ]
        shared = s.shared_piece
        v_tile = k_tiles[shared] if shared is not None else load_keys(self.v, self.v_heads, s.v_dim, self.v_type)
        scores = code.alloc(self.capacity, self.tile_s, f32, slots=1)
        for piece, (a, b, d) in enumerate(zip(q_tiles, k_tiles, s.qk_dims, strict=True)):
            code.mma(scores, a, b, (rows, keys, d), accumulate=int(piece > 0), transpose_b=True)
        p = code.alloc(self.capacity, self.tile_s, self.p_type, slots=1)
        masks, position = self.last_visible(unit)
        first = None if s.reach is None else ExprAttr(s.reach.first(position))
        biased = self.op.alibi_heads
        head = None if biased is None else ExprAttr(self.op.first_head.data + unit.head + mod(expr(ROW), self.tile_g))
        step = SoftmaxStepAttr(
            self.op.scale, BoolAttr.from_bool(masks), ExprAttr(position), ExprAttr(key), first, self.op.soft_cap,
            biased, head,
        )  # fmt: skip
        code.vector(step, rows, keys, [scores], [p], [row_max, row_sum, acc])
        code.mma(acc, p, v_tile, (rows, s.v_dim, keys), accumulate=1, transpose_b=False)

    def last_visible(self, unit: _Unit) -> tuple[bool, Expr]:
        """Whether rows may see fewer keys than there are, and the last one that row `row` sees."""
        s = self.shape
        if isinstance(self.op, layer.SparseAttentionOp):
            return self.op.hides, self.op.last_slot(unit.sequence)
        if isinstance(self.op, layer.CompressedAttentionOp):
            query = unit.query + floordiv(expr(ROW), self.tile_g)
            gathered = self.op.gathered
            last = self.op.last_entry(unit.sequence) if gathered else self.op.last_of_query(query)
            return (self.op.hides if gathered else s.causal), last
        return s.causal, s.kv_len - s.q_len + unit.query + floordiv(expr(ROW), self.tile_g) - self.hidden

    # -- the merge ----------------------------------------------------------------------------------------------

    def merge(self, running: tuple[SSAValue, ...]) -> None:
        """After a barrier every core merges the states of its share of the rows of each unit."""
        s, code, parts = self.shape, self.code, self.keys.parts
        by_heads = self.tile_q == 1
        share_q, share_g = (int(n) for n in merge_share(self.tile_q, self.tile_g, parts))
        code.barrier()
        with code.loop("p", self.problems.trips(self.core_p)) as pi, code.loop("u", self.unit_trips()) as ui:
            unit = self.unit(pi, ui)
            start = self.core_s * (share_g if by_heads else share_q)
            queries = expr(1) if by_heads else max_of(min_of(share_q, unit.queries - start), 0)
            heads = max_of(min_of(share_g, self.tile_g - start), 0) if by_heads else expr(self.tile_g)
            # A core whose share is empty has nothing to do.
            with code.loop("m", min_of(queries, heads, 1)):
                rows = queries * heads
                query, head = (unit.query, unit.head + start) if by_heads else (unit.query + start, unit.head)
                found = [code.alloc(parts * share_q * share_g, w, f32, slots=1) for w in self.widths]
                for index, (buffer, width) in enumerate(zip(found, self.widths, strict=True)):
                    if self.scratch:
                        at, size = (0, unit.sequence, query, head, 0), (parts, 1, queries, heads, width)
                        code.load(self.scratch[index], buffer, at, size)
                    else:
                        from_row = start if by_heads else start * self.tile_g
                        with code.loop("o", parts) as o:
                            core = expr(CORE) - self.core_s + o
                            code.fetch(running[index], buffer, core, from_row, o * rows, (rows, width))
                out = code.alloc(share_q * share_g, s.v_dim, tensor(self.op.results[0]).element_type, slots=1)
                code.vector(SoftmaxMergeAttr(IntegerAttr(parts, i64)), rows, s.v_dim, found, [out])
                code.store(
                    self.results[0], out, (unit.sequence, query, head, 0), (1, queries, heads, s.v_dim), at_once=True
                )
