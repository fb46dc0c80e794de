"""TAPS as a mixed integer program, solved by HiGHS (the extra `milp`).

    minimise   w_peak z + w_smooth mean d + OVERLOAD_K x sum o
    part p     stands on one core: sum over c of x[p, c] = 1, on a core of its own for each copy of an expert
    core c     T[c] = base[c] + sum of warming[p, k, c] x[p, k]  and  z >= T[c]
               flop(p) x[p, c] <= rate (1 + o[c]) and shards(p) x[p, c] <= banks, summed over p
    link a, b  d >= T[a] - T[b] and d >= T[b] - T[a]

This is the score of the heuristic without the standard deviation, which is not linear.  The heuristic's placement is
where the search starts, so that a time limit gives nothing worse by this objective.  What a search with a time limit
finds depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects.analyses.core_heat import Floats
from pmc.dialects.errors import PmcError
from pmc.passes.placement.heuristic import OVERLOAD_K
from pmc.passes.placement.problem import Ints, PlacementProblem


@dataclass(frozen=True)
class MilpResult:
    """A placement, and how far it may be from the best one."""

    cores: Ints
    """[parts]"""
    objective_k: float
    bound_k: float
    """No placement has a lower objective."""
    gap: float
    """(objective - bound) / objective."""
    seconds: float
    optimal: bool
    """Whether the search ended by itself, and not at its time limit."""


def taps_milp(problem: PlacementProblem, start: Ints, time_limit_s: float, gap: float) -> MilpResult:
    """The best placement that is found in the time, beginning with `start`.  Raises PmcError without HiGHS."""
    try:
        import highspy
    except ImportError:
        raise PmcError("strategy taps-milp needs HiGHS: pip install 'pmc[milp]'") from None
    program = _Program(problem)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("time_limit", time_limit_s), ("mip_rel_gap", gap)):
        solver.setOptionValue(option, value)
    infinity = highspy.kHighsInf
    rows, columns = len(program.lower), len(program.cost)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = columns, rows
    lp.col_cost_ = program.cost
    lp.col_lower_ = program.least
    lp.col_upper_ = np.where(np.isinf(program.most), infinity, program.most)
    lp.row_lower_ = np.where(np.isinf(program.lower), -infinity, program.lower)
    lp.row_upper_ = np.where(np.isinf(program.upper), infinity, program.upper)
    lp.integrality_ = [
        highspy.HighsVarType.kInteger if whole else highspy.HighsVarType.kContinuous for whole in program.whole
    ]
    starts, index, factors = program.rows
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = starts, index, factors
    solver.passModel(lp)
    solution = highspy.HighsSolution()
    solution.col_value = program.values(start)
    solver.setSolution(solution)
    solver.run()
    info = solver.getInfo()
    found = np.asarray(solver.getSolution().col_value)
    if len(found) != columns:
        raise PmcError(f"HiGHS found no placement: {solver.modelStatusToString(solver.getModelStatus())}")
    return MilpResult(
        program.placement(found), info.objective_function_value, info.mip_dual_bound, info.mip_gap, solver.getRunTime(),
        solver.getModelStatus() == highspy.HighsModelStatus.kOptimal,
    )  # fmt: skip


class _Program:
    """The columns x[parts, cores], T[cores], o[cores], d[links], z and the rows over them."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._problem = problem
        parts, cores = len(problem.part_expert), problem.cores
        self._links = _links(cores, problem.columns)
        self._at_t = parts * cores
        self._at_o = self._at_t + cores
        self._at_d = self._at_o + cores
        self._at_z = self._at_d + len(self._links)
        count = self._at_z + 1
        self.cost = np.zeros(count)
        self.cost[self._at_o : self._at_d] = OVERLOAD_K
        self.cost[self._at_d : self._at_z] = problem.objective.w_smooth / max(len(self._links), 1)
        self.cost[self._at_z] = problem.objective.w_peak
        self.whole = np.arange(count) < self._at_t
        self.least = np.zeros(count)
        self.least[self._at_t : self._at_o] = -np.inf
        self.least[self._at_z] = -np.inf
        self.most = np.where(self.whole, 1.0, np.inf)
        self.lower: list[float] = []
        self.upper: list[float] = []
        self._index: list[Ints] = []
        self._value: list[Floats] = []
        self._fill()

    @property
    def rows(self) -> tuple[Ints, Ints, Floats]:
        """Where each row starts, and the columns and factors of all rows."""
        starts = np.cumsum([0, *(len(index) for index in self._index)])
        return starts, np.concatenate(self._index), np.concatenate(self._value)

    def values(self, cores: Ints) -> Floats:
        """The columns of a placement."""
        problem = self._problem
        x = np.zeros((len(cores), problem.cores))
        x[np.arange(len(cores)), cores] = 1
        temperatures = problem.temperatures(cores)
        load = problem.per_part(problem.work.flop_per_s) @ x
        steps = [abs(temperatures[a] - temperatures[b]) for a, b in self._links]
        overload = np.maximum(0, load / problem.limits.flop_per_s - 1)
        return np.concatenate([x.ravel(), temperatures, overload, steps, [temperatures.max()]])

    def placement(self, values: Floats) -> Ints:
        """The core of each part."""
        found: Ints = values[: self._at_t].reshape(-1, self._problem.cores).argmax(axis=1)
        return found

    def _row(self, lower: float, upper: float, index: Ints, value: Floats) -> None:
        self.lower.append(lower)
        self.upper.append(upper)
        self._index.append(index)
        self._value.append(value)

    def _fill(self) -> None:
        problem = self._problem
        parts, cores = len(problem.part_expert), problem.cores
        x = np.arange(self._at_t).reshape(parts, cores)
        flop = problem.per_part(problem.work.flop_per_s) / problem.limits.flop_per_s
        shards = problem.work.shards[problem.part_expert].astype(np.float64)
        for part in range(parts):
            self._row(1, 1, x[part], np.ones(cores))
        for expert in np.flatnonzero(problem.copies > 1).tolist():
            copies = np.flatnonzero(problem.part_expert == expert)
            for core in range(cores):
                self._row(0, 1, x[copies, core], np.ones(len(copies)))
        for core in range(cores):
            warming = problem.warming[:, :, core].ravel()
            self._row(
                -problem.base_c[core], -problem.base_c[core],
                np.append(x.ravel(), self._at_t + core), np.append(warming, -1.0),
            )  # fmt: skip
            self._row(-np.inf, 0, np.array([self._at_t + core, self._at_z]), np.array([1.0, -1.0]))
            self._row(-np.inf, 1, np.append(x[:, core], self._at_o + core), np.append(flop, -1.0))
            self._row(-np.inf, problem.limits.banks, x[:, core], shards)
        for number, (a, b) in enumerate(self._links):
            for sign in (1.0, -1.0):
                index = np.array([self._at_t + a, self._at_t + b, self._at_d + number])
                self._row(-np.inf, 0, index, np.array([sign, -sign, -1.0]))


def _links(cores: int, columns: int) -> list[tuple[int, int]]:
    """Neighbours on the mesh."""
    right = [(c, c + 1) for c in range(cores) if (c + 1) % columns]
    return right + [(c, c + columns) for c in range(cores - columns)]
