"""Any legal plan, drawn at random: what no search would choose must run as well."""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.ir import Operation

from pmc.dialects.analyses.matmul_tiling import ORDERS
from pmc.dialects.arch import Chip
from pmc.dialects.tile_plan import MAX_SLOTS, MERGES, PlanAttr
from pmc.passes.tiling.kernels import Family

ATTEMPTS = 300
CUTS = (1, 2, 3)
"""Into how many pieces a tile of the best plan is cut along a dim."""

MOST_TILES = 8
"""Random plans are for running them: many more tiles than the best plan has take long and show nothing new."""


def random_plan(op: Operation, family: Family, best: PlanAttr, chip: Chip, random: np.random.Generator) -> PlanAttr:
    """A legal plan of smaller tiles than `best` on any grid of cores; `best` itself where none is found."""
    orders = ORDERS if best.order.data in ORDERS else (best.order.data,)
    names = [name.data for name in best.multicast.data]
    for _ in range(ATTEMPTS):
        cores, left = [1] * len(best.core_counts), int(chip.cores)
        for dim in map(int, random.permutation(len(cores))):
            some = int(random.integers(1, left + 1))
            cores[dim] = int(random.choice([1, min(left, best.core_counts[dim]), some]))
            left //= cores[dim]
        cuts = random.choice(CUTS, len(best.tile_sizes)).tolist()
        if prod(cuts) * prod(best.core_counts) > MOST_TILES * prod(cores):
            continue
        tile = [-(-size // cut) for size, cut in zip(best.tile_sizes, cuts, strict=True)]
        order, slots = str(random.choice(orders)), int(random.integers(1, MAX_SLOTS + 1))
        multicast = names if random.random() < 0.5 else []
        for merge in random.permutation(MERGES).tolist():
            plan = PlanAttr.of(cores, tile, order, slots, multicast, merge)
            if family.fault(op, plan, chip) is None:
                return plan
    return best
