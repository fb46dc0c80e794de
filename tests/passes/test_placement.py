"""TAPS against enumeration, and the rules that every placement keeps."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.errors import PmcError
from pmc.dialects.tas_params import TapsObjective
from pmc.passes.placement.heuristic import far_apart, taps
from pmc.passes.placement.milp import taps_milp
from pmc.passes.placement.problem import CoreLimits, ExpertWork, Ints, PlacementProblem, require_placed

PEAK_ONLY = TapsObjective(w_peak=1.0, w_var=0.0, w_smooth=0.0)


def problem(
    watts: list[float],
    columns: int = 2,
    rows: int = 2,
    copies: list[int] | None = None,
    banks: int = 4,
    rate: float = 100.0,
    objective: TapsObjective = PEAK_ONLY,
) -> PlacementProblem:
    """Experts of 2 shards whose FLOP/s are their watts, on cores of which those at the edge are warmer."""
    place = np.arange(rows * columns)
    apart = np.abs(place[:, None] // columns - place // columns) + np.abs(place[:, None] % columns - place % columns)
    response = 0.5**apart + 0.01 * place[:, None]
    power = np.array(watts)
    work = ExpertWork(tuple(f"E{i}" for i in range(len(watts))), power, power, np.full(len(watts), 2))
    return PlacementProblem(
        work,
        np.array(copies if copies is not None else [1] * len(watts)),
        power,
        0.1 * power,
        HeatResponse(response, 0.8 * response),
        np.full(len(place), 50.0),
        CoreLimits(rate, 1e9, banks),
        objective,
        columns,
    )


def best(of: PlacementProblem) -> float:
    """The least score of all legal placements that overload no core."""
    found = np.inf
    for cores in product(range(of.cores), repeat=len(of.part_expert)):
        try:
            require_placed(of, cores)
        except PmcError:
            continue
        load = np.bincount(cores, of.per_part(of.work.flop_per_s), of.cores)
        if load.max() <= of.limits.flop_per_s:
            found = min(found, float(of.score(of.temperatures(np.array(cores)))))
    return found


def score(of: PlacementProblem, cores: Ints) -> float:
    require_placed(of, cores.tolist())
    return float(of.score(of.temperatures(cores)))


WATTS = st.lists(st.floats(0.1, 10), min_size=1, max_size=4)


@given(WATTS, st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.1]))
@settings(deadline=None, max_examples=25)
def test_taps_is_near_the_best_of_all_placements(watts: list[float], w_var: float, w_smooth: float) -> None:
    of = problem(watts, objective=TapsObjective(w_peak=1.0, w_var=w_var, w_smooth=w_smooth))
    least, found = best(of), score(of, taps(of))
    # Moves and swaps end where no single one helps: within a tenth of what the experts warm at all.
    assert least - 1e-9 <= found <= least + 0.1 * (least - 50)


@given(WATTS)
@settings(deadline=None, max_examples=10)
def test_the_program_finds_the_best_of_all_placements(watts: list[float]) -> None:
    of = problem(watts)
    found = taps_milp(of, taps(of), time_limit_s=60, gap=0)
    assert found.optimal and found.bound_k <= found.objective_k + 1e-6
    assert score(of, found.cores) == pytest.approx(best(of), abs=1e-5)


def test_the_program_begins_with_the_heuristic_and_says_how_far_it_may_be() -> None:
    rng = np.random.default_rng(5)
    of = problem(rng.uniform(0.1, 3, 24).tolist(), columns=6, rows=4)
    start = taps(of)
    found = taps_milp(of, start, time_limit_s=0.5, gap=0)
    assert not found.optimal and found.gap > 0
    assert found.objective_k <= of.temperatures(start).max() + 1e-6
    assert found.bound_k == pytest.approx(found.objective_k * (1 - found.gap), rel=1e-6)


def test_a_hot_expert_goes_where_it_warms_least_and_its_neighbour_away() -> None:
    # Core 0 is the coolest place; the farthest from it on a 2 x 2 mesh is core 3.
    of = problem([8.0, 4.0])
    assert taps(of).tolist() == [0, 3]


def test_copies_stand_on_different_cores_and_share_the_work() -> None:
    one, two = problem([8.0]), problem([8.0], copies=[2])
    cores = taps(two)
    assert len(set(cores.tolist())) == 2 and two.named(cores) == {"E0": cores.tolist()}
    assert score(two, cores) < score(one, taps(one))


def test_no_core_gets_more_work_than_it_can_do_where_that_is_possible() -> None:
    # Alone by temperature both would stand apart from the first; the rate of a core is what keeps the small ones away.
    of = problem([6.0, 3.0, 3.0, 1.0, 1.0], rate=6.0)
    load = np.bincount(taps(of), of.per_part(of.work.flop_per_s), of.cores)
    assert load.max() <= 6.0


def test_weights_that_do_not_fit_are_refused_by_how_much() -> None:
    with pytest.raises(PmcError, match=r"9 experts, 9 with copies, fill 18 banks, the chip has 16: 2 too few"):
        problem([1.0] * 9)
    with pytest.raises(
        PmcError, match=r"no core can take expert E1, whose weights fill 2 banks: .* at most 1 are free"
    ):
        taps(problem([2.0, 1.0], columns=1, rows=2, copies=[2, 1], banks=3))


@pytest.mark.parametrize(("cores", "says"), [([0, 4], "no core 4"), ([1, 1, 1], "core 1 cannot take expert E2")])
def test_a_placement_that_is_none_is_refused(cores: list[int], says: str) -> None:
    with pytest.raises(PmcError, match=says):
        require_placed(problem([3.0, 2.0, 1.0]), cores)


@given(st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None)
def test_the_spectral_order_has_every_core_once(rows: int, columns: int) -> None:
    assert sorted(far_apart(rows, columns)) == list(range(rows * columns))


def test_the_first_cores_of_the_spectral_order_are_in_different_quarters() -> None:
    quarters = {(core // 8 // 4, core % 8 // 4) for core in far_apart(8, 8)[:4]}
    assert len(quarters) == 4
