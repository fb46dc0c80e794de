"""Gives `select-tiles` the tile cost model; passes do not know backends, so the driver brings the two together."""

from __future__ import annotations

from dataclasses import dataclass

from pmc.backends.cost.accounting import default_accounting
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TilePlanCost
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import (
    AttentionPlans,
    AttentionShape,
    FloatArray,
    MatmulPlans,
    MatmulShape,
    TileCostModel,
)
from pmc.passes.select_tiles import SelectTilesPass


@dataclass(frozen=True)
class CostedSelectTilesPass(SelectTilesPass):
    """`select-tiles` that minimises what `pmc evaluate --level tile` charges."""

    def cost_model(self, chip: Chip) -> TileCostModel:
        """The tile model, and DRAM traffic for element types that the matrix unit has no rate for."""
        return _WhereRated(TilePlanCost(CoreRates(chip, default_accounting())), super().cost_model(chip), chip)


@dataclass(frozen=True)
class _WhereRated:
    rated: TileCostModel
    unrated: TileCostModel
    chip: Chip

    def _model(self, dtype: str) -> TileCostModel:
        return self.rated if dtype in self.chip.macs_per_lane_per_cycle.supported() else self.unrated

    def matmul_seconds(self, shape: MatmulShape, plans: MatmulPlans) -> FloatArray:
        """The time of a matmul under each plan."""
        return self._model(shape.dtype).matmul_seconds(shape, plans)

    def attention_seconds(self, shape: AttentionShape, plans: AttentionPlans) -> FloatArray:
        """The time of an attention under each plan."""
        return self._model(shape.dtype).attention_seconds(shape, plans)
