"""The cost model of `select-tiles`; passes do not know backends, so the driver brings the two together."""

from __future__ import annotations

from dataclasses import dataclass

from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TilePlanCost
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import TileCostModel


def tile_costs(chip: Chip, accounting: Accounting) -> TileCostModel:
    """The tile model, in which every element type has a rate."""
    return TilePlanCost(_RankingRates(chip, accounting))


@dataclass(frozen=True)
class _RankingRates(CoreRates):
    """Plans are needed, and run by the functional simulator, for types that no evaluation accepts."""

    def core_flops_per_s(self, dtype: str) -> float:
        """Matrix peak of one core; of a type that the matrix unit does not know, the slowest that it has."""
        known = self.chip.macs_per_lane_per_cycle.supported()
        candidates = [dtype] if dtype in known else known
        return min(map(super().core_flops_per_s, candidates))
