"""The kernel of the scores of an indexer: products of all heads of a block of queries, then their weighted sum.

    for u:  load Q, W        units of the core: queries of one sequence with all index heads
      for s:  load K         tiles of keys
        mma                  products [queries*heads, keys], piece by piece
        relu_weighted_sum    scores [queries, keys]
        store

The plan is that of `analyses/index_tiling.py`.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import f32
from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.index_tiling import cuts_of, index_shape, plan_fault, rows_of
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, ceildiv, expr, floordiv, min_of, mod
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.tiling.kernels import Arrays


class IndexScoresFamily:
    """`layer.index_scores` and `layer.block_scores`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """The fastest of the plans that are tried."""
        assert isinstance(op, layer.IndexScoresOp | layer.BlockScoresOp)
        return planner.index_scores(index_shape(op))

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.IndexScoresOp | layer.BlockScoresOp)
        return plan_fault(index_shape(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loops u and s."""
        assert isinstance(op, layer.IndexScoresOp | layer.BlockScoresOp)
        s, tile_s = index_shape(op), plan.tile_sizes[1]
        tile_q = min(plan.tile_sizes[0], s.q_len)
        cuts, capacity = cuts_of(s, plan, chip), rows_of(s, plan, chip)
        core_u, core_s = core_coordinates(cuts.parts)
        queries_of, keys_of = ([op.q], [op.k]) if isinstance(op, layer.BlockScoresOp) else (op.q, op.k)
        q = [arrays.array(v, s.sequences, s.q_len, s.heads, d) for v, d in zip(queries_of, s.qk_dims, strict=True)]
        k = [arrays.array(v) for v in keys_of]
        of_heads = () if s.block == 1 else (s.heads,)
        y = arrays.result(op.y, s.sequences, s.q_len, *of_heads, -(-s.kv_len // s.block))
        code = arrays.code(op, plan)
        with code.loop("u", cuts.units.trips(core_u)) as ui:
            unit = cuts.units.start(core_u, ui)
            sequence, query = floordiv(unit, cuts.blocks), mod(unit, cuts.blocks) * tile_q
            queries = expr(tile_q) if s.q_len % tile_q == 0 else min_of(tile_q, s.q_len - query)
            rows = queries * s.heads
            q_tiles = [code.alloc(capacity, d, array.element_type) for array, d in zip(q, s.qk_dims, strict=True)]
            for array, buffer, d in zip(q, q_tiles, s.qk_dims, strict=True):
                code.load(array, buffer, (sequence, query, 0, 0), (1, queries, s.heads, d))
            w_tiles: list[SSAValue] = []
            if isinstance(op, layer.IndexScoresOp):
                weights = arrays.array(op.weights, s.sequences, s.q_len, s.heads)
                w_tiles = [code.alloc(tile_q, s.heads, weights.element_type)]
                code.load(weights, w_tiles[0], (sequence, query, 0), (1, queries, s.heads))
            with code.loop("s", cuts.keys.trips(core_s)) as si:
                key, keys = cuts.keys.start(core_s, si), cuts.keys.size(core_s, si)
                k_tiles = [code.alloc(tile_s, d, array.element_type) for array, d in zip(k, s.qk_dims, strict=True)]
                for array, buffer, d in zip(k, k_tiles, s.qk_dims, strict=True):
                    code.load(array, buffer, (sequence, key, 0), (1, keys, d))
                products = code.alloc(capacity, tile_s, f32, slots=1)
                for piece, (a, b, d) in enumerate(zip(q_tiles, k_tiles, s.qk_dims, strict=True)):
                    code.mma(products, a, b, (rows, keys, d), accumulate=int(piece > 0), transpose_b=True)
                scores = code.alloc(tile_q * s.scores, -(-tile_s // s.block), f32)
                code.vector(s.kind, queries * s.scores, keys, [products, *w_tiles], [scores])
                at: list[Expr | int] = [sequence, query, *(0 for _ in of_heads), floordiv(key, s.block)]
                code.store(y, scores, at, (1, queries, *of_heads, ceildiv(keys, s.block)))
        return code.kernel(prod(cuts.parts))
