"""Any legal plan, drawn at random: what no search would choose must run as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from math import gcd, prod
from typing import TypeVar

import numpy as np
from xdsl.ir import Operation

from pmc.dialects.analyses.matmul_tiling import ORDERS, chunks, tiling_of
from pmc.dialects.analyses.workload import attention_shape, matmul_shape
from pmc.dialects.arch import Chip
from pmc.dialects.layer import (
    BlockScoresOp,
    FlashAttentionOp,
    GatedMatmulOp,
    GroupedMatmulOp,
    HeadMatmulOp,
    IndexScoresOp,
    MatmulOp,
    MatrixOp,
)
from pmc.dialects.tile_plan import MAX_SLOTS, PlanAttr
from pmc.passes.tiling.kernels import Family

ATTEMPTS = 150
"""Per way to merge."""

CUTS = (1, 2, 3)
"""Into how many pieces a tile of the best plan is cut along a dim."""

GROWTHS = (1, 2, 4, 8)
"""How many tiles of the best plan become one along a dim of the result, where a core may have a single tile."""

MOST_SHARES = 3
"""Among how many cores a contraction is cut at most."""

SDMA_DRAWS = 4
"""Of so many plans that merge by SDMA that of the smallest tiles runs: a core may have one tile, and hardly has it."""

MOST_TILES = 8
"""Random plans are for running them: many more tiles than the best plan has take long and show nothing new."""

MOST_TILES_OF_A_MATMUL = 192
"""On all cores together; experts would have thousands."""

TIGHT = 3
"""One in so many ops of a kind has a plan that just fits: what is one byte too small for it shows."""

DOUBLINGS = 6
"""How often a tile is doubled at most in search of a limit; sizes beyond that of the op are legal."""

WAYS = ("sdma", "none", "dram", "none")
"""The way to merge that is tried first for the ops of a kind, in turn: none as often as the others together."""

MERGING = ("sdma", "dram")


class RandomPlans:
    """Draws the plans of the ops of a module.

    Few grids and tiles allow cores to share a contraction, and a draw of all at once would hardly meet them.  So the
    way to merge is given first, in turn and not by chance: a module with few ops of a kind has all ways too.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._turn: Counter[str] = Counter()
        self._first = 2 * seed

    def plan(self, op: Operation, family: Family, best: PlanAttr, chip: Chip) -> PlanAttr:
        """A legal plan of other tiles than `best` on any grid of cores; `best` itself where none is found."""
        merges = isinstance(op, MatrixOp | FlashAttentionOp) and not isinstance(op, IndexScoresOp | BlockScoresOp)
        turn = self._first + self._turn[op.name]
        self._turn[op.name] += 1
        group = attention_shape(op).group if isinstance(op, FlashAttentionOp) else None
        # Where the way whose turn it is does not fit, another merge is tried before none.
        ways = dict.fromkeys((WAYS[turn % len(WAYS)], *MERGING, "none")) if merges else ("none",)
        for merge in ways:
            drawn = (_drawn(best, chip, merge, merges, group, self._random) for _ in range(ATTEMPTS))
            legal = (
                plan
                for plan in drawn
                if plan is not None and family.fault(op, plan, chip) is None and _is_quick(op, plan, chip)
            )
            some = list(islice(legal, SDMA_DRAWS if merge == "sdma" else 1))
            if some:
                found = min(some, key=lambda plan: prod(plan.tile_sizes))
                return self._tight(op, family, found, chip) if turn % TIGHT == TIGHT - 1 else found
        return best

    def _tight(self, op: Operation, family: Family, plan: PlanAttr, chip: Chip) -> PlanAttr:
        """The plan with the longest tile along one dim that is legal; itself where no dim has a limit."""
        dims: list[int] = self._random.permutation(len(plan.tile_sizes)).tolist()
        for dim in dims:
            longer = partial(_with_tile, plan, dim)
            size = plan.tile_sizes[dim]
            sizes = (size << doubling for doubling in range(1, DOUBLINGS + 1))
            limit = next((size for size in sizes if family.fault(op, longer(size), chip) is not None), None)
            if limit is None:
                continue
            fits = limit // 2
            while limit - fits > 1:
                middle = (fits + limit) // 2
                fits, limit = (middle, limit) if family.fault(op, longer(middle), chip) is None else (fits, middle)
            if fits > size:
                return longer(fits)
        return plan


def _with_tile(plan: PlanAttr, dim: int, size: int) -> PlanAttr:
    sizes = [size if place == dim else old for place, old in enumerate(plan.tile_sizes)]
    names = [name.data for name in plan.multicast.data]
    return PlanAttr.of(plan.core_counts, sizes, plan.order.data, plan.buffer_slots, names, plan.merge.data)


def _is_quick(op: Operation, plan: PlanAttr, chip: Chip) -> bool:
    """Whether a legal plan is run soon."""
    if not isinstance(op, MatmulOp | GroupedMatmulOp | GatedMatmulOp | HeadMatmulOp):
        return True
    parts = chunks(matmul_shape(op), tiling_of(plan), chip)
    per_core = parts.groups * parts.trips_m * parts.trips_n * parts.trips_k
    return prod(int(part[0]) for part in parts.parts) * int(per_core[0]) <= MOST_TILES_OF_A_MATMUL


def _drawn(
    best: PlanAttr, chip: Chip, merge: str, contracts: bool, group: int | None, random: np.random.Generator
) -> PlanAttr | None:
    """A plan that need not be legal, None for one of too many tiles.

    `contracts` when cores can share the last dim; `group` is what the heads of a tile of an attention must divide.
    """
    cores: list[int] = [1] * len(best.core_counts)
    left = chip.cores
    dims: list[int] = random.permutation(len(cores) - contracts).tolist()
    if merge != "none":
        if chip.cores == 1:
            return None
        cores[-1] = int(random.integers(2, min(chip.cores, MOST_SHARES) + 1))
        left //= cores[-1]
    for dim in dims:
        any_count = int(random.integers(1, left + 1))
        cores[dim] = _one_of((1, min(left, best.core_counts[dim]), any_count), random)
        left //= cores[dim]
    cuts = _some_of(CUTS, len(best.tile_sizes), random)
    growths: list[int] = [1] * len(cuts)
    if merge == "sdma":
        growths[:-1] = _some_of(GROWTHS, len(cuts) - 1, random)
    if prod(cuts) * prod(best.core_counts) > MOST_TILES * prod(cores) * prod(growths):
        return None
    tile = [-(-size * grow // cut) for size, cut, grow in zip(best.tile_sizes, cuts, growths, strict=True)]
    if group is not None:
        tile[1] = gcd(tile[1], group)
    orders = ORDERS if best.order.data in ORDERS else (best.order.data,)
    names = [name.data for name in best.multicast.data]
    order, slots = _one_of(orders, random), int(random.integers(1, MAX_SLOTS + 1))
    return PlanAttr.of(cores, tile, order, slots, names if random.random() < 0.5 else [], merge)


# `Generator.choice` draws the same from the same stream, and takes three times as long.

Choice = TypeVar("Choice")


def _one_of(values: Sequence[Choice], random: np.random.Generator) -> Choice:
    return values[int(random.integers(len(values)))]


def _some_of(values: Sequence[int], count: int, random: np.random.Generator) -> list[int]:
    return [values[place] for place in random.integers(len(values), size=count).tolist()]
