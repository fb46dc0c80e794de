"""The tile model: the fastest tiling of every op, and the time of given tilings for `select-tiles`."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from pmc.backends.cost.attention_tiles import AttentionTiles, AttentionTiling
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.matmul_search import MatmulSearch, MatmulTiling
from pmc.backends.cost.matmul_tiles import MatmulTiles, Partition
from pmc.backends.cost.model import Bindings, Granularity, OpCost, Target
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile_cache import TileCache
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.workload import AttentionWorkload, MatmulWorkload
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.interfaces import AttentionPlans, AttentionShape, FloatArray, MatmulPlans, MatmulShape


class TilePlanCost:
    """The `TileCostModel` of one chip under one accounting: seconds of the plans that `select-tiles` proposes."""

    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = ("command_level.gdma.startup_ns",)
    """The chip fields that it reads besides those of the tile model."""

    def __init__(self, rates: CoreRates) -> None:
        commands = rates.chip.command_level
        self.load_startup_s = 0.0 if commands is None else commands.gdma.startup_ns * 1e-9
        self.matmuls = MatmulTiles(rates)
        self.attentions = AttentionTiles(rates)

    def matmul_seconds(self, shape: MatmulShape, plans: MatmulPlans) -> FloatArray:
        """The time of a matmul under each plan; K stays on one core and partial sums in LMEM."""
        granules = self.matmuls.granules(shape)
        cube_m, cube_n, cube_k = granules.cube
        one = np.ones_like(plans.cores_g)
        partition = Partition(
            (plans.cores_g, plans.cores_m, plans.cores_n, one),
            (plans.chunk_g, -(-plans.chunk_m // cube_m), -(-plans.chunk_n // cube_n), one * -(-shape.k // cube_k)),
        )
        mt, nt, kt = (
            np.asarray(-(-size // tile), np.float64)
            for size, tile in (
                (plans.chunk_m, plans.tile_m), (plans.chunk_n, plans.tile_n), (shape.k, plans.tile_k),
            )
        )  # fmt: skip
        again = self.matmuls.traffic(granules, partition, (mt, nt, kt), "k")
        # A tile that holds all of K stays while the inner loop runs: its operand is read once.
        a_stays = self.matmuls.traffic(granules, partition, (mt, nt, kt), "n")
        b_stays = self.matmuls.traffic(granules, partition, (mt, nt, kt), "m")
        traffic = np.where(kt > 1, again, np.where(plans.order == 0, a_stays, b_stays))
        # GDMA takes its commands in order: the loads of the next result wait behind the store of this one, so only the
        # steps along K after the first run beside the matrix unit.
        overlaps = (kt - 1) / kt
        loads = plans.chunk_g * (mt * nt * kt + np.where(kt > 1, mt * nt * kt, np.where(plans.order == 0, mt, nt)))
        return self.matmuls.time(granules, partition, traffic, overlaps).total_s + loads * self.load_startup_s

    def attention_seconds(self, shape: AttentionShape, plans: AttentionPlans) -> FloatArray:
        """The time of an attention under each plan."""
        return self.attentions.time(shape, plans).total_s


class TileCostModel(CoreCostModel):
    """The core model with matmul and attention replaced by their fastest tiling.  Symbols must be bound to integers."""

    granularity: ClassVar[Granularity] = Granularity.TILE
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (
        *CoreCostModel.CHIP_PARAMETERS, "gdma_multicast", "alignment_bytes", "command_level.lmem.tile_budget_fraction",
        "command_level.sdma.gb_per_s", "command_level.sdma.efficiency",
    )  # fmt: skip

    def __init__(self, target: Target, accounting: Accounting, cache: TileCache | None = None) -> None:
        super().__init__(target, accounting)
        self.cache = cache if cache is not None else TileCache()
        self.search = MatmulSearch(MatmulTiles(self.rates))
        self.attention_tiles = AttentionTiles(self.rates)

    def matmul(self, workload: MatmulWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """The fastest tiling of a matmul."""
        w = workload
        groups, m, n, k = (_integer(e, bindings) for e in (w.groups, w.m, w.n, w.k))
        found = self.matmul_tiling(MatmulShape(groups, m, n, k, w.a_bits, w.b_bits, w.out_bits, w.dtype))
        return replace(
            base, time_s=found.seconds, compute_s=found.compute_s + found.reduction_s, memory_s=found.memory_s
        )

    def attention(self, workload: AttentionWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """The fastest tiling of an attention."""
        w = workload
        sequences, q_len, kv_len = (_integer(e, bindings) for e in (w.sequences, w.q_len, w.kv_len))
        shape = AttentionShape(
            sequences, w.kv_heads, w.group, q_len, kv_len, w.qk_dims, w.v_dim, w.v_is_key, w.causal and q_len > 1,
            w.q_bits, w.kv_bits, w.p_bits, w.out_bits, w.state_bytes, w.dtype,
        )  # fmt: skip
        found = self.attention_tiling(shape)
        return replace(base, time_s=found.seconds, compute_s=found.compute_s, memory_s=found.memory_s)

    def matmul_tiling(self, shape: MatmulShape) -> MatmulTiling:
        """The fastest tiling, searched once per shape."""
        return self.cache.get(self.rates, shape, MatmulTiling, lambda: self.search.best(shape))

    def attention_tiling(self, shape: AttentionShape) -> AttentionTiling:
        """The fastest tiling, searched once per shape."""
        return self.cache.get(self.rates, shape, AttentionTiling, lambda: self.attention_tiles.best(shape))


def _integer(value: Expr, bindings: Bindings) -> int:
    result = value.evaluate(bindings)
    if isinstance(result, np.ndarray):
        raise PmcError("granularity tile takes one value per symbol, not arrays: sweep at granularity core")
    return int(result)
