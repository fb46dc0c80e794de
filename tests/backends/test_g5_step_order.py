"""Where a step is after some time: as a list of all its runs, written out, says it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pmc.backends.g5.step_order import StepOrder, Stretch
from pmc.dialects.interfaces import FloatArray, IntArray

DURATIONS = np.array([7, 3, 0, 5, 11, 2])
INNER = Stretch.of(3, [1, 2], 6)
REPEAT = Stretch.of(4, [INNER, 3], 6)
ORDER = StepOrder(Stretch.of(1, [0, REPEAT, 4, 5], 6))
"""Part 0, four times (three times (1, 2), 3), then 4 and 5; part 2 takes no time."""


def written_out(stretch: Stretch) -> Iterator[int]:
    for _ in range(stretch.times):
        for item in stretch.items:
            if isinstance(item, int):
                yield item
            else:
                yield from written_out(item)


RUNS = list(written_out(ORDER.step))
STEP_PS = int(sum(DURATIONS[part] for part in RUNS))


def runs_until(time_ps: int) -> FloatArray:
    """[parts] runs that a list of all runs has done by then, steps one after the other."""
    steps, left = divmod(time_ps, STEP_PS)
    found = steps * np.bincount(RUNS, minlength=6).astype(float)
    for part in RUNS:
        took = int(DURATIONS[part])
        if left < took:
            found[part] += left / took
            break
        found[part] += 1
        left -= took
    return found


def test_the_runs_of_a_step_are_those_of_its_repeats() -> None:
    assert ORDER.runs.tolist() == [1, 12, 12, 4, 1, 1] == np.bincount(RUNS).tolist()


@pytest.mark.parametrize("time_ps", range(STEP_PS))
def test_a_place_is_where_the_list_of_runs_has_it(time_ps: int) -> None:
    place = ORDER.place(DURATIONS, time_ps)
    assert place.runs == pytest.approx(runs_until(time_ps))
    assert place.time_ps(DURATIONS) == time_ps


@pytest.mark.parametrize("length_ps", [1, 13, STEP_PS - 1, STEP_PS, 5 * STEP_PS + 4])
def test_windows_of_any_length_do_what_lies_in_them(length_ps: int) -> None:
    place, now = ORDER.begin, 0
    for _ in range(20):
        place, runs = ORDER.after(place, DURATIONS, length_ps)
        assert runs == pytest.approx(runs_until(now + length_ps) - runs_until(now))
        now += length_ps


def test_a_place_keeps_its_work_when_the_clocks_change() -> None:
    """Half of the time in a part is half of its work, whatever the part takes then."""
    place, runs = ORDER.after(ORDER.begin, DURATIONS, 16)
    assert (place.part, place.share) == (3, 0.0)
    total: FloatArray = runs
    for factor in (2, 3, 1, 5, 2):
        durations: IntArray = DURATIONS * factor
        place, runs = ORDER.after(place, durations, 101)
        total = total + runs
    steps = round(float((total - place.runs)[0]))
    assert steps >= 1
    assert total == pytest.approx(steps * ORDER.runs + place.runs, rel=1e-12)


def test_the_number_of_layers_costs_nothing() -> None:
    layers = 10**12
    order = StepOrder(Stretch.of(1, [0, Stretch.of(layers, [1, 3], 6)], 6))
    place = order.place(DURATIONS, 7 + 8 * (layers - 1) + 4)
    assert place.done.tolist() == [1, layers, 0, layers - 1, 0, 0]
    assert (place.part, place.share) == (3, 0.2)
