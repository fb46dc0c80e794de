"""Clocks and refresh rates by temperature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc.backends.thermal.dvfs import DvfsState, dvfs_step
from pmc.backends.thermal.refresh import bandwidth_factor, refresh_multiplier, refreshes_per_s
from pmc.compiler.config import ConfigError
from pmc.compiler.tas.configuration import load_tas
from pmc.dialects.stacked_arch import REFRESH_CURVES

from .stacked_chips import small_chip

ARCH = small_chip()
TAS = "tas_params"
DOMAIN = ARCH.domain  # 2.0, 1.8, 1.6, 1.2 GHz; trips 80, 85, 90 C; hysteresis 3 K


def steps(*temperatures: float) -> list[float]:
    """The clocks of one core from window to window."""
    state, found = DvfsState.fastest(DOMAIN, 1), list[float]()
    for celsius in temperatures:
        state = state.after(np.array([celsius]))
        found.append(float(state.clock_ghz[0]))
    return found


def test_a_core_falls_at_once_and_climbs_one_step_per_window() -> None:
    assert steps(80.0, 80.1, 86.0, 91.0) == [2.0, 1.8, 1.6, 1.2]
    assert steps(95.0, 20.0, 20.0, 20.0, 20.0) == [1.2, 1.6, 1.8, 2.0, 2.0]


def test_a_core_climbs_only_below_the_trip_by_the_hysteresis() -> None:
    assert steps(81.0, 79.0, 77.1, 77.0) == [1.8, 1.8, 1.8, 2.0]
    assert steps(95.0, 87.1, 87.0, 82.1, 82.0, 77.0) == [1.2, 1.2, 1.6, 1.6, 1.8, 2.0]


def test_every_core_has_its_own_clock() -> None:
    state = DvfsState.fastest(DOMAIN, 4).after(np.array([20.0, 82.0, 87.0, 99.0]))
    assert state.clock_ghz.tolist() == [2.0, 1.8, 1.6, 1.2]
    assert state.energy_factor == pytest.approx([1.0, 0.95**2, 0.9**2, 0.8**2])


def test_one_clock_has_no_trips() -> None:
    chip = small_chip(**{"dvfs__domains": [{**DOMAIN.model_dump(), "steps_ghz": [2.0], "voltage_v": [1.0],
                                            "trip_c": []}]})  # fmt: skip
    assert dvfs_step(chip.domain, np.zeros(2, np.int64), np.array([20.0, 300.0])).tolist() == [0, 0]


@given(st.lists(st.floats(20, 120), min_size=1, max_size=30))
def test_no_clock_is_faster_than_the_trips_allow(temperatures: list[float]) -> None:
    clocks = steps(*temperatures)
    for celsius, clock in zip(temperatures, clocks, strict=True):
        assert clock <= DOMAIN.steps_ghz[sum(celsius > trip for trip in DOMAIN.trip_c)]
    for before, after in zip([2.0, *clocks], clocks, strict=False):
        places = DOMAIN.steps_ghz.index(before), DOMAIN.steps_ghz.index(after)
        assert places[1] >= places[0] - 1


def test_refresh_follows_the_steps_of_the_curve() -> None:
    celsius = np.array([-10.0, 39.9, 40.0, 54.9, 55.0, 70.0, 84.99, 85.0, 200.0])
    assert refresh_multiplier(ARCH.refresh, celsius).tolist() == [1, 1, 1, 1, 2, 4, 4, 8, 8]
    # 350 ns of each 7.8 us at the base rate.
    multiplier = np.array([1.0, 8.0])
    assert bandwidth_factor(ARCH.refresh, multiplier) == pytest.approx([1 - 0.35 / 7.8, 1 - 8 * 0.35 / 7.8])
    assert refreshes_per_s(ARCH.refresh, multiplier) == pytest.approx([1e6 / 7.8, 8e6 / 7.8])


def test_curves_have_names() -> None:
    celsius = np.array([60.0, 84.9, 85.0, 95.0])
    found = {
        name: refresh_multiplier(small_chip(refresh__tref_curve=name).refresh, celsius).tolist()
        for name in REFRESH_CURVES
    }
    assert found == {"jedec": [1, 1, 2, 2], "hbm2": [1, 1, 2, 4], "study": [2, 4, 8, 8]}
    assert small_chip().refresh.tref_curve == REFRESH_CURVES["study"]


@pytest.mark.parametrize("emergency", [80.0, 79.0])
def test_an_emergency_is_hotter_than_hot(emergency: float) -> None:
    with pytest.raises(ConfigError, match=r"Temg \(\d+ C\) must be above Thot \(80 C\)") as error:
        load_tas(TAS, {"tacs.thresholds.Temg": emergency})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("refresh__tref_curve", [[40.0, 2.0], [55.0, 1.0]], "tref_curve falls from 2 to 1 at 55 C"),
        ("refresh__tref_curve", [[55.0, 1.0], [40.0, 2.0]], "temperatures of tref_curve must rise: 40 comes after 55"),
        ("refresh__tref_curve", [[40.0, 0.5]], "tref_curve"),
        ("refresh__tref_curve", [[40.0, 30.0]], "refresh takes 135% of the time of a bank"),
        ("refresh__tref_curve", "jedeck", "there is no curve 'jedeck', .*; did you mean 'jedec'"),
    ],
)
def test_wrong_curves_are_one_line(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        small_chip(**{field: value})
    assert "\n" not in str(error.value)
