"""A chip from window to window: it starts where its first window leads to, feeds back, and runs away loudly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmc.backends.thermal.chip_state import SETTLED_K, ChipState
from pmc.backends.thermal.engine import SolverEngine
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.power import Work, dynamic_power, leakage_w, refresh_w
from pmc.backends.thermal.snapshot import RunAwayError
from pmc.backends.thermal.stacked import StackedModel

from .stacked_chips import small_chip

WINDOW_NS = 3_000_000


def work(*core_w: float, bank_w: float = 0.0) -> Work:
    """That gives cores and every bank so many watts at the fastest clock."""
    seconds = WINDOW_NS * 1e-9
    return Work(np.array(core_w) * seconds / 1e-12, np.zeros(4), np.full(16, bank_w * seconds / 321e-12))


def started(first: Work, **fields: Any) -> ChipState:
    arch = small_chip(**fields)
    return ChipState(arch, SolverEngine(StackedModel.of(arch)), first, WINDOW_NS)


def test_the_start_is_the_steady_state_of_the_first_window_with_its_leakage() -> None:
    chip = started(work(3, 2, 1, 0, bank_w=0.1))
    first = chip.snapshot
    arch, model = chip.arch, StackedModel.of(chip.arch)
    core_w = np.array([3.0, 2.0, 1.0, 0.0]) + leakage_w(arch.power.core_leakage, first.temps_core_c)
    bank_w = 0.1 + leakage_w(arch.power.bank_leakage, first.temps_bank_c) + refresh_w(arch, first.refresh_multiplier)
    cores, banks = model.celsius(model.model.steady(model.powers(core_w, bank_w)))
    assert first.temps_core_c == pytest.approx(cores, abs=SETTLED_K)
    assert first.temps_bank_c == pytest.approx(banks, abs=SETTLED_K)
    assert first.power_core_w == pytest.approx(core_w, rel=1e-3)
    assert (first.ts_ns, chip.windows) == (0, 0)
    assert (first.temps_core_c.argmax(), first.temps_core_c.argmin()) == (0, 3)


def test_more_of_the_same_work_changes_nothing() -> None:
    chip = started(work(3, 2, 1, 0, bank_w=0.1))
    first = chip.snapshot
    for window in range(5):
        found = chip.step(work(3, 2, 1, 0, bank_w=0.1), WINDOW_NS)
        assert found.ts_ns == (window + 1) * WINDOW_NS
        assert found.temps_core_c == pytest.approx(first.temps_core_c, abs=SETTLED_K)
        assert found is chip.snapshot
    assert chip.windows == 5


def test_a_window_spends_its_work_with_the_leakage_and_refresh_that_it_began_with() -> None:
    chip = started(work(0, 0, 0, 0))
    before = chip.snapshot
    found = chip.step(work(20, 0, 0, 0, bank_w=0.2), WINDOW_NS)
    core_w = np.array([20.0, 0, 0, 0]) + leakage_w(chip.arch.power.core_leakage, before.temps_core_c)
    bank_w = 0.2 + leakage_w(chip.arch.power.bank_leakage, before.temps_bank_c)
    bank_w += refresh_w(chip.arch, before.refresh_multiplier)
    assert found.power_core_w == pytest.approx(core_w, rel=1e-12)
    assert found.power_bank_w == pytest.approx(bank_w, rel=1e-12)
    assert found.temps_core_c[0] > before.temps_core_c[0] + 1


def test_heat_slows_clocks_and_refreshes_banks_and_both_come_back() -> None:
    chip = started(work(0, 0, 0, 0))
    assert chip.clock_ghz.tolist() == [2.0] * 4
    idle = chip.bandwidth_factor.copy()
    while chip.clock_ghz[0] > 1.2:
        chip.step(work(20, 0, 0, 0), WINDOW_NS)
        assert chip.windows < 200
    assert (chip.bandwidth_factor < idle).any() and (chip.snapshot.refresh_multiplier > 1).any()
    slowed = chip.snapshot
    # At 0.8 of the voltage the same work takes 0.64 of the energy.
    found = chip.step(work(20, 0, 0, 0), WINDOW_NS)
    leak = leakage_w(chip.arch.power.core_leakage, slowed.temps_core_c)[0]
    assert found.power_core_w[0] - leak == pytest.approx(20 * 0.64)
    while chip.clock_ghz[0] < 2.0:
        chip.step(work(0, 0, 0, 0), WINDOW_NS)
        assert chip.windows < 2000
    for _ in range(300):
        chip.step(work(0, 0, 0, 0), WINDOW_NS)
    assert (chip.bandwidth_factor == idle).all()


def test_a_chip_that_is_hot_from_the_start_starts_with_slower_clocks() -> None:
    cool, hot = started(work(1, 1, 1, 1)), started(work(25, 0, 0, 0))
    assert cool.clock_ghz.tolist() == [2.0] * 4
    assert hot.clock_ghz[0] < 2.0 and hot.clock_ghz[3] > hot.clock_ghz[0]
    dynamic = dynamic_power(hot.arch, work(25, 0, 0, 0), hot.dvfs.energy_factor, WINDOW_NS * 1e-9).core_w
    leak = leakage_w(hot.arch.power.core_leakage, hot.snapshot.temps_core_c)
    assert hot.snapshot.power_core_w == pytest.approx(dynamic + leak, rel=1e-3)


def test_no_steady_state_is_a_run_away_before_the_first_window() -> None:
    with pytest.raises(RunAwayError, match=r"core \d has run away in the steady state before the first") as error:
        started(work(1, 1, 1, 1), power__core_leakage__reference_w=20.0)
    assert error.value.window is None and error.value.last is None and error.value.celsius > 150


def test_a_run_away_names_window_and_unit_and_carries_the_last_snapshot() -> None:
    chip = started(work(0, 0, 0, 0))
    with pytest.raises(RunAwayError) as error:
        for window in range(1000):
            chip.step(work(0, 0, 10 * window, 0), WINDOW_NS)
    found = error.value
    assert (found.window, found.unit) == (chip.windows, "core 2") and chip.windows > 2
    assert found.celsius > 150 and found.last is chip.snapshot
    assert str(found).startswith(f"thermal: core 2 has run away in window {chip.windows}: ")
    assert str(found).endswith(" C, the limit is 150 C")


def test_leakage_alone_runs_away_after_a_spark() -> None:
    """Beyond a temperature leakage feeds itself: a short spark cools down, and a longer one does not."""
    fields = {"power__core_leakage__reference_w": 0.05, "power__core_leakage__doubles_every_k": 10.0}
    chip = started(work(0, 0, 0, 0), **fields)
    idle = chip.snapshot.temps_core_c
    for window in range(500):
        chip.step(work(*[14.0 * (window < 4)] * 4), WINDOW_NS)
    assert chip.snapshot.temps_core_c == pytest.approx(idle, abs=0.1)
    with pytest.raises(RunAwayError) as error:
        for window in range(500):
            chip.step(work(*[14.0 * (window < 6)] * 4), WINDOW_NS)
    assert error.value.window is not None and error.value.window >= 506  # when nothing works any more


class Broken(SolverEngine):
    """An engine that loses a bank."""

    def advance(self, core_w: Floats, bank_w: Floats, seconds: float) -> tuple[Floats, Floats]:
        cores, banks = super().advance(core_w, bank_w, seconds)
        banks[9] = np.nan
        return cores, banks


def test_no_number_is_a_run_away() -> None:
    arch = small_chip()
    chip = ChipState(arch, Broken(StackedModel.of(arch)), work(1, 1, 1, 1), WINDOW_NS)
    with pytest.raises(RunAwayError, match=r"bank B\(1,0,1\) has run away in window 0: nan C") as error:
        chip.step(work(1, 1, 1, 1), WINDOW_NS)
    assert error.value.last is chip.snapshot


def test_engines_of_one_model_have_a_state_each() -> None:
    arch = small_chip()
    model = StackedModel.of(arch)
    first, second = (ChipState(arch, SolverEngine(model), work(1, 1, 1, 1), WINDOW_NS) for _ in range(2))
    cold = second.snapshot.temps_core_c
    first.step(work(20, 20, 20, 20), WINDOW_NS)
    assert second.step(work(1, 1, 1, 1), WINDOW_NS).temps_core_c == pytest.approx(cold, abs=SETTLED_K)
