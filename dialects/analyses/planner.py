"""Where `select-tiles` finds its search for plans, which is a backend's: passes do not know backends."""

from __future__ import annotations

from typing import Protocol

from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.index_tiling import IndexShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.tile_plan import PlanAttr


class TilePlanner(Protocol):
    """A search over all legal plans; raises PmcError where none fits the chip."""

    def matmul(self, shape: MatmulShape) -> PlanAttr:
        """The best plan of a matmul."""
        ...

    def index_scores(self, shape: IndexShape) -> PlanAttr:
        """A good plan of the scores of an indexer."""
        ...

    def attention(self, shape: AttentionShape) -> PlanAttr:
        """The best plan of an attention."""
        ...


class PlannerFactory(Protocol):
    """Makes the planner of a chip under an accounting."""

    def __call__(self, chip: Chip, accounting: Accounting) -> TilePlanner: ...


class PlannerRegistry:
    """Holds the factory that every `select-tiles` uses."""

    def __init__(self) -> None:
        self._provided: PlannerFactory | None = None

    def provide(self, factory: PlannerFactory) -> None:
        """Set what every `select-tiles` uses from here on."""
        self._provided = factory

    def planner(self, chip: Chip, accounting: Accounting) -> TilePlanner:
        """The planner of a chip under an accounting.  Raises PmcError while nothing is provided."""
        if self._provided is None:
            raise PmcError("no planner of tiles is provided: import pmc.compiler.pipelines, which brings one")
        return self._provided(chip, accounting)


PLANNERS = PlannerRegistry()
"""The one registry; `pmc.compiler.pipelines` fills it."""
