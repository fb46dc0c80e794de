"""TAPS: experts spread over the mesh by their heat.

Two first placements are improved by moves and swaps, and the better one is taken:

- greedy: the hottest part first, each where the score of the temperatures so far is least;
- spectral: cores are put in an order in which those that follow each other are far apart on the mesh (the mesh is
  halved along its Fiedler vector, the halves again, and the orders of two halves are interleaved), the hottest first.

Moves and swaps only of parts on the hottest cores are tried, the best one at a time, as long as the score falls.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from pmc.dialects.analyses.core_heat import Floats
from pmc.dialects.errors import PmcError
from pmc.passes.placement.problem import Ints, Occupancy, PlacementProblem

HOT_CORES = 8
"""Of how many of the hottest cores parts are moved."""

ROUNDS = 400
"""Moves and swaps at most."""

LEAST_GAIN_K = 1e-6
"""A smaller gain is no gain."""

Change = tuple[float, dict[int, int]]
"""What a placement is worth after parts have gone to other cores, infinity where they cannot."""

NO_CHANGE: Change = (np.inf, {})

OVERLOAD_K = 1e3
"""What being overloaded by once its rate counts: more than any temperature."""


def taps(problem: PlacementProblem) -> Ints:
    """[parts] the core of each part.  Raises PmcError where the banks of no core can take the weights of a part."""
    improved = [_improved(_Placed(problem, start)) for start in (_greedy(problem), _spectral(problem))]
    return min(improved, key=lambda placed: placed.value).cores


def _greedy(problem: PlacementProblem) -> Ints:
    occupancy, temperatures = Occupancy(problem), problem.base_c.copy()
    cores = np.empty(len(problem.part_expert), np.int64)
    for part in range(len(cores)):
        found = problem.score(temperatures + problem.warming[part]) + OVERLOAD_K * occupancy.overload(part)
        cores[part] = _best(problem, occupancy, part, found)
        temperatures += problem.warming[part, cores[part]]
        occupancy.put(part, int(cores[part]))
    return cores


def _spectral(problem: PlacementProblem) -> Ints:
    rank = np.empty(problem.cores)
    rank[far_apart(problem.cores // problem.columns, problem.columns)] = np.arange(problem.cores)
    occupancy = Occupancy(problem)
    cores = np.empty(len(problem.part_expert), np.int64)
    for part in range(len(cores)):
        crowd = np.array([len(held) for held in occupancy.experts])
        found = crowd * problem.cores + rank + OVERLOAD_K * problem.cores * occupancy.overload(part)
        cores[part] = _best(problem, occupancy, part, found)
        occupancy.put(part, int(cores[part]))
    return cores


def _best(problem: PlacementProblem, occupancy: Occupancy, part: int, found: Floats) -> int:
    possible = occupancy.possible(part)
    if not possible.any():
        expert = int(problem.part_expert[part])
        raise PmcError(
            f"no core can take expert {problem.work.names[expert]}, whose weights fill {problem.work.shards[expert]} "
            f"banks: of the {problem.limits.banks} banks at a core at most "
            f"{problem.limits.banks - int(occupancy.banks.min())} are free where it does not stand already"
        )
    return int(np.argmin(np.where(possible, found, np.inf)))


def far_apart(rows: int, columns: int) -> list[int]:
    """The cores of a mesh, numbered row by row, in an order in which those that follow each other are far apart."""

    def order(cores: Ints) -> list[int]:
        if len(cores) < 2:
            return [int(core) for core in cores]
        upward = cores[np.argsort(-_fiedler(cores // columns, cores % columns), kind="stable")]
        half = (len(cores) + 1) // 2
        pairs = zip_longest(order(np.sort(upward[:half])), order(np.sort(upward[half:])))
        return [core for pair in pairs for core in pair if core is not None]

    return order(np.arange(rows * columns))


def _fiedler(row: Ints, column: Ints) -> Floats:
    """The eigenvector of the second eigenvalue of the Laplacian of a part of a mesh, one sign for all machines."""
    linked = np.abs(row[:, None] - row) + np.abs(column[:, None] - column) == 1
    # A square has two vectors of one eigenvalue: a slight slope along the rows makes the choice.
    diagonal = linked.sum(axis=1) + 1e-3 * row / (row.max() + 1)
    vectors: Floats = np.linalg.eigh((np.diag(diagonal) - linked).astype(np.float64))[1]
    fiedler: Floats = np.round(vectors[:, 1], 6)
    fiedler *= np.sign(fiedler[np.argmax(fiedler != 0)])
    return fiedler


def _improved(placed: _Placed) -> _Placed:
    """Take the best move or swap of a part on a hot core, until none is a gain."""
    for _ in range(ROUNDS):
        hottest = np.argsort(-placed.temperatures, kind="stable")[:HOT_CORES]
        parts = np.flatnonzero(np.isin(placed.cores, hottest)).tolist()
        found = [change for part in parts for change in (placed.best_move(part), placed.best_swap(part))]
        value, cores = min(found, key=lambda change: change[0], default=NO_CHANGE)
        if not value < placed.value - LEAST_GAIN_K:
            break
        changed = placed.cores.copy()
        changed[list(cores)] = list(cores.values())
        placed = _Placed(placed.problem, changed)
    return placed


class _Placed:
    """A placement, and what its changes are worth."""

    def __init__(self, problem: PlacementProblem, cores: Ints) -> None:
        self.problem = problem
        self.cores = cores
        self.temperatures = problem.temperatures(cores)
        self._flop = problem.per_part(problem.work.flop_per_s)
        self._shards = problem.work.shards[problem.part_expert]
        self._load: Floats = np.bincount(cores, self._flop, problem.cores).astype(np.float64)
        self._free = problem.limits.banks - np.bincount(cores, self._shards, problem.cores)
        self._holds = np.zeros((len(problem.copies), problem.cores), np.bool_)
        self._holds[problem.part_expert, cores] = True
        self.value = float(self._values(self.temperatures, self._load))

    def _values(self, temperatures: Floats, load: Floats) -> Floats:
        overload = np.maximum(0, load / self.problem.limits.flop_per_s - 1).sum(axis=-1)
        found: Floats = self.problem.score(temperatures) + OVERLOAD_K * overload
        return found

    def best_move(self, part: int) -> Change:
        """The best other core for a part."""
        every, here = np.arange(self.problem.cores), self.cores[part]
        warming = self.problem.warming[part]
        load = np.tile(self._load, (len(every), 1))
        load[:, here] -= self._flop[part]
        load[every, every] += self._flop[part]
        possible = (self._free >= self._shards[part]) & ~self._holds[self.problem.part_expert[part]]
        found = np.where(possible, self._values(self.temperatures - warming[here] + warming, load), np.inf)
        core = int(np.argmin(found))
        return float(found[core]), {part: core}

    def best_swap(self, part: int) -> Change:
        """The best part on another core to change places with."""
        every, here, there = np.arange(len(self.cores)), int(self.cores[part]), self.cores
        warming, expert = self.problem.warming, self.problem.part_expert
        temperatures = self.temperatures - warming[part, here] + warming[part, there]
        temperatures += warming[:, here] - warming[every, there]
        more = self._flop - self._flop[part]
        load = np.tile(self._load, (len(every), 1))
        load[:, here] += more
        load[every, there] -= more
        grow = self._shards - self._shards[part]
        possible = (self._free[here] >= grow) & (self._free[there] >= -grow) & (there != here)
        possible &= ~self._holds[expert[part], there] & ~self._holds[expert, here]
        found = np.where(possible, self._values(temperatures, load), np.inf)
        other = int(np.argmin(found))
        return float(found[other]), {part: int(there[other]), other: here}
