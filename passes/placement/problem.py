"""Experts as heat sources on the cores of a stacked chip, and what a placement of them is worth.

A hot expert may stand on several cores; each of its parts has an equal share of its work.  The temperature of the cores
is linear in the power of the parts, T = base + sum over parts of (R_core x core power + R_column x DRAM power) at the
part's core, with the steady unit responses R of the thermal model; base is what does not depend on the placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pmc.dialects.analyses.core_heat import Floats, HeatResponse
from pmc.dialects.errors import PmcError
from pmc.dialects.tas_params import TapsObjective

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ExpertWork:
    """What every expert does, in the mean of a profile; arrays are [experts]."""

    names: tuple[str, ...]
    flop_per_s: Floats
    bytes_per_s: Floats
    """Read from the banks that hold its weights."""
    shards: Ints
    """Banks that its weights fill."""


@dataclass(frozen=True)
class CoreLimits:
    """What one core, with the banks at it, can take."""

    flop_per_s: float
    bytes_per_s: float
    """Of one bank; a part reads its shards in turn, so this bounds what it reads on average of each."""
    banks: int


@dataclass(frozen=True)
class PlacementProblem:
    """Parts of experts and the cores of a mesh of `columns` x (cores / columns)."""

    work: ExpertWork
    copies: Ints
    """[experts] on how many cores an expert stands."""
    core_w: Floats
    """[experts] power in a core of the whole work of an expert."""
    dram_w: Floats
    """[experts] power in the banks that its weights lie in."""
    response: HeatResponse
    base_c: Floats
    """[cores] temperatures without experts."""
    limits: CoreLimits
    objective: TapsObjective
    columns: int

    def __post_init__(self) -> None:
        shards, room = int((self.copies * self.work.shards).sum()), self.limits.banks * self.cores
        if shards > room:
            raise PmcError(
                f"the weights of {len(self.work.names)} experts, {int(self.copies.sum())} with copies, fill {shards} "
                f"banks, the chip has {room}: {shards - room} too few"
            )

    @property
    def cores(self) -> int:
        """How many cores there are."""
        return len(self.base_c)

    @cached_property
    def part_expert(self) -> Ints:
        """[parts] the expert of each part, hottest parts first, equal ones in the order of experts."""
        experts = np.repeat(np.arange(len(self.copies)), self.copies)
        heat = (self.core_w + self.dram_w)[experts] / self.copies[experts]
        return experts[np.argsort(-heat, kind="stable")]

    def per_part(self, of_expert: Floats) -> Floats:
        """[parts] the share of each part."""
        shares: Floats = of_expert[self.part_expert] / self.copies[self.part_expert]
        return shares

    @cached_property
    def warming(self) -> Floats:
        """[parts, cores, cores] warming of the last by a part on the second."""
        core, dram = self.per_part(self.core_w), self.per_part(self.dram_w)
        found: Floats = (
            core[:, None, None] * self.response.core_k_per_w.T + dram[:, None, None] * self.response.column_k_per_w.T
        )
        return found

    def temperatures(self, cores: Ints) -> Floats:
        """[cores] degrees C with part p on `cores[p]`."""
        found: Floats = self.base_c + self.warming[np.arange(len(cores)), cores].sum(axis=0)
        return found

    def score(self, temperatures: Floats) -> Floats:
        """What temperatures [.., cores] are worth, in kelvin, less is better: peak, spread and steps.

        The spread is the standard deviation, so that all three terms have one unit; steps are between neighbours.
        """
        grid = temperatures.reshape(*temperatures.shape[:-1], -1, self.columns)
        steps = [np.abs(np.diff(grid, axis=axis)) for axis in (-1, -2)]
        count = sum(step.shape[-1] * step.shape[-2] for step in steps)
        smooth = sum((step.sum(axis=(-1, -2)) for step in steps), np.zeros(temperatures.shape[:-1])) / max(count, 1)
        found: Floats = (
            self.objective.w_peak * temperatures.max(axis=-1)
            + self.objective.w_var * temperatures.std(axis=-1)
            + self.objective.w_smooth * smooth
        )
        return found

    def named(self, cores: Ints) -> dict[str, list[int]]:
        """The cores of every expert, in the order of the parts."""
        found: dict[str, list[int]] = {name: [] for name in self.work.names}
        for expert, core in zip(self.part_expert.tolist(), cores.tolist(), strict=True):
            found[self.work.names[expert]].append(core)
        return found


class Occupancy:
    """What parts on cores leave to further ones."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._problem = problem
        self._flop = problem.per_part(problem.work.flop_per_s)
        self._shards = problem.work.shards[problem.part_expert]
        self._bytes = problem.per_part(problem.work.bytes_per_s) / self._shards
        self.flop_per_s = np.zeros(problem.cores)
        self.banks = np.zeros(problem.cores, np.int64)
        self.experts: list[set[int]] = [set() for _ in range(problem.cores)]

    def put(self, part: int, core: int, times: int = 1) -> None:
        """Place a part, or take it away with times = -1."""
        self.flop_per_s[core] += times * self._flop[part]
        self.banks[core] += times * self._shards[part]
        expert = int(self._problem.part_expert[part])
        (self.experts[core].add if times > 0 else self.experts[core].discard)(expert)

    def possible(self, part: int) -> Bools:
        """[cores] that have banks for the weights of the part and no other part of its expert."""
        expert = int(self._problem.part_expert[part])
        free: Bools = self._problem.limits.banks - self.banks >= self._shards[part]
        apart: Bools = np.array([expert not in held for held in self.experts])
        return free & apart

    def overload(self, part: int) -> Floats:
        """[cores] by what part of its rate a core would be overloaded by the part, 0 where it has the time."""
        limits = self._problem.limits
        core = (self.flop_per_s + self._flop[part]) / limits.flop_per_s - 1
        bank = self._bytes[part] / limits.bytes_per_s - 1
        most: Floats = np.maximum(0, np.maximum(core, bank))
        return most


def require_placed(problem: PlacementProblem, cores: Sequence[int]) -> None:
    """Check that a placement is one.  Raises PmcError with what is wrong."""
    occupancy = Occupancy(problem)
    for part, core in enumerate(cores):
        if not 0 <= core < problem.cores:
            raise PmcError(f"there is no core {core}: the chip has {problem.cores}")
        if not occupancy.possible(part)[core]:
            name = problem.work.names[int(problem.part_expert[part])]
            raise PmcError(f"core {core} cannot take expert {name}: no bank is free, or it holds {name} already")
        occupancy.put(part, core)
