"""The planner of `select-tiles`; passes do not know backends, so the driver brings the two together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.arch import Chip


@lru_cache(maxsize=8)
def tile_planner(chip: Chip, accounting: Accounting) -> TilePlanner:
    """The search of the tile model, in which every element type has a rate."""
    return PlanSearch(_RankingRates(chip, accounting))


@dataclass(frozen=True)
class _RankingRates(CoreRates):
    """Plans are needed, and run by the functional simulator, for types that no evaluation accepts."""

    def core_flops_per_s(self, dtype: str) -> float:
        """Matrix peak of one core; of a type that the matrix unit does not know, the slowest that it has."""
        known = self.chip.macs_per_lane_per_cycle.supported()
        candidates = [dtype] if dtype in known else known
        return min(map(super().core_flops_per_s, candidates))
