"""What separates the four scenarios of the TAS-MoE study, and what none of them changes.

On the chip of `thermal_cases` an expert that has an even share of the tokens keeps a core busy for a sixth of a window,
and attention, which waits for its bank, for a ninth: five experts on a core are work for 0.95 windows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pmc.backends.thermal.tas_loop import WindowRecord
from pmc.compiler.tas.scenario import SCENARIOS, Study, setting_of
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import MIGRATION, physicalize_window
from pmc.dialects.errors import PmcError
from tests.compiler.thermal_cases import HOT, moved_experts, placed, records, row_of, started, study

LONG = {"sequence.steps": 60}
SKEWED = {"routing.zipf_s": 1.2}
SHIFT = 40
"""The step at which all experts exchange their popularity."""

FIVE_ON_CORE_5 = [5] * 5 + [0, 2, 3, 4, 6, 8, 9, 11, 13, 15, 1]


def run(found: Study, scenario: str, windows: int | None = None) -> tuple[list[WindowRecord], dict[str, Any]]:
    """The windows of a scenario, and its row."""
    begun = started(found, scenario)
    done = records(begun, windows)
    return done, row_of(done, begun.setting)


def hot_spot(tas: dict[str, Any], scenario: str = "tacs", cores: list[int] = FIVE_ON_CORE_5) -> dict[str, Any]:
    """The row of a run of 60 windows with the experts on some cores."""
    found = study(workload=LONG, tas=tas)
    setting = placed(found, cores)
    return row_of(records(started(found, scenario, setting)), setting)


def peaks(windows: list[WindowRecord]) -> list[float]:
    return [float(record.snapshot.temps_core_c.max()) for record in windows]


# -- what no scenario changes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_flops_bytes_and_tokens_are_those_of_the_workload(scenario: str) -> None:
    found = study(workload={**SKEWED, "sequence.steps": 30}, tas=HOT)
    begun = started(found, scenario)
    setting, done = begun.setting, records(begun)
    while not begun.state.events.is_done(setting):
        done.append(begun.step())
    assert sum(record.events.core_flops.sum() for record in done) == pytest.approx(setting.parts.flops.sum(), rel=1e-12)
    memory = [record.events.memory for record in done]
    own = sum(int(events.bytes[events.qos != MIGRATION].sum()) for events in memory)
    assert own == int(setting.parts.row_bytes.sum())
    tokens = np.concatenate([record.events.finished_tokens for record in done])
    assert sorted(tokens.tolist()) == list(range(30 * 16))
    moved = sum(record.events.migrated_bytes for record in done)
    assert (moved > 0) == SCENARIOS[scenario].online, "weights that move are extra"
    asked = sum(int(record.overlay.migrate.ints("size_bytes").sum()) for record in done)
    assert moved == asked
    assert sum(int(record.events.bank_bytes.sum()) for record in done) == own + 2 * moved


@pytest.mark.parametrize("scenario", ["baseline", "tacs"])
def test_watts_are_joules_over_the_window(scenario: str) -> None:
    """What work adds to the power of a window without any is its energy."""
    found = study(workload={**SKEWED, "sequence.steps": 12}, tas=HOT)
    begun = started(found, scenario)
    power, leak = found.arch.power, found.arch.power.core_leakage
    before = begun.chip.snapshot
    for record in records(begun):
        joule = record.events.core_flops.sum() * power.pj_per_flop + record.events.byte_hops * power.pj_per_noc_byte_hop
        idle = leak.reference_w * np.exp2((before.temps_core_c - leak.reference_c) / leak.doubles_every_k)
        assert (before.clock_ghz == 2.0).all(), "so that energies are those of the fastest clock"
        assert record.snapshot.power_core_w.sum() == pytest.approx(joule * 1e-12 / 3e-3 + idle.sum(), rel=1e-9)
        before = record.snapshot


def test_no_temperature_is_negative_or_no_number() -> None:
    for scenario in ("baseline", "taps"):
        done, row = run(study(workload=SKEWED), scenario)
        assert len(done) == 5
        for record in done:
            celsius = np.concatenate([record.snapshot.temps_core_c, record.snapshot.temps_bank_c])
            assert np.isfinite(celsius).all() and celsius.min() > 45.0
        assert row["tokens"] > 0


def test_physicalizer_consistency() -> None:
    """No overlay and an empty one give the same bytes."""
    found = study(workload=SKEWED)
    begun, setting = started(found, "baseline"), setting_of(found.module("baseline"))
    clock, factor = begun.chip.clock_ghz, begun.chip.bandwidth_factor
    plain = empty = setting.initial
    for _ in range(5):
        without = physicalize_window(setting, plain, clock, factor)
        with_empty = physicalize_window(setting, empty, clock, factor, Overlay.empty(empty))
        for events in ("compute", "memory"):
            tables = [getattr(window, events).table(setting.chip) for window in (without, with_empty)]
            assert tables[0] == tables[1]
        plain, empty = without.state, with_empty.state
        assert plain.committed == empty.committed


def test_what_is_committed_stays() -> None:
    found = study(workload=SKEWED, tas=HOT)
    begun = started(found, "tacs")
    hashes = [record.events.state.committed for record in records(begun, 3)]
    assert len(set(hashes)) == 3
    overlay = Overlay.empty(begun.state.events)
    with pytest.raises(PmcError, match="was made after other events"):
        begun.physical(replace(overlay, committed=hashes[1]))
    with pytest.raises(PmcError, match="the overlay is for window 2, the next is 3: what is committed stays"):
        begun.physical(replace(overlay, window=2))
    assert begun.state.events.committed == hashes[-1], "and nothing has changed"


# -- what separates them -----------------------------------------------------------------------------------------


def test_taps_lowers_the_peak_of_a_static_skew() -> None:
    found = study(workload={**LONG, **SKEWED})
    rows = {scenario: run(found, scenario)[1] for scenario in ("baseline", "taps", "tas")}
    assert rows["taps"]["T_peak_logic"] < rows["baseline"]["T_peak_logic"] - 3
    assert rows["taps"]["lat_ms"] < rows["baseline"]["lat_ms"]
    assert rows["tas"]["T_peak_logic"] <= rows["taps"]["T_peak_logic"]


def test_after_a_shift_of_popularity_tas_is_cooler_than_taps() -> None:
    shifting = {**SKEWED, "sequence.steps": 2 * SHIFT, "routing.drift": {"every_steps": SHIFT, "share": 1.0}}
    found = study(workload=shifting, tas=HOT)
    (taps, taps_row), (tas, tas_row) = (run(found, scenario) for scenario in ("taps", "tas"))
    assert max(peaks(tas)[SHIFT:]) < max(peaks(taps)[SHIFT:]) - 3
    assert np.mean(peaks(tas)[-10:]) < np.mean(peaks(taps)[-10:]) - 3
    assert tas_row["lat_ms"] < taps_row["lat_ms"]


@pytest.mark.parametrize("tas", [{}, HOT], ids=["cool", "hot"])
def test_at_an_even_load_nothing_moves(tas: dict[str, Any]) -> None:
    found = study(workload=LONG, tas=tas)
    (plain, row), (online, online_row) = (run(found, scenario) for scenario in ("baseline", "tacs"))
    assert online_row == row and online_row["reroutes"] + online_row["migrations"] == 0
    assert [record.events.state.committed for record in plain] == [record.events.state.committed for record in online]
    assert peaks(plain) == peaks(online)


@pytest.mark.parametrize("tas", [{}, HOT], ids=["by load", "by load and heat"])
def test_tacs_lowers_the_peak_of_one_core_with_the_hottest_experts(tas: dict[str, Any]) -> None:
    before, after = hot_spot(tas, "baseline"), hot_spot(tas)
    assert after["T_peak_logic"] < before["T_peak_logic"] - 0.5
    assert after["lat_ms"] < 0.75 * before["lat_ms"]


def test_a_higher_thot_makes_fewer_moves() -> None:
    """Without the part of the pressure that comes from load, which knows no temperature."""
    moves: list[int] = []
    for thot in (50.0, 57.0, 60.0, 70.0):
        tas = {"tacs.gamma_load": 0.0, "tacs.thresholds.Thot": thot, "tacs.thresholds.Temg": thot + 10}
        row = hot_spot(tas)
        moves.append(row["reroutes"] + row["migrations"])
    assert moves == sorted(moves, reverse=True) and moves[0] > moves[1] > moves[-1] == 0


def test_a_higher_mu_adds_less_to_the_load_of_the_network() -> None:
    assert hot_spot(HOT, "baseline")["noc_load"] == 0
    added = [hot_spot({**HOT, "tacs.cost.mu_noc": mu})["noc_load"] for mu in (0.0, 10.0, 20.0, 50.0)]
    assert added == sorted(added, reverse=True) and added[0] > added[1] > added[2] > added[3] == 0


def test_without_its_temperature_term_tacs_is_no_cooler() -> None:
    """Of the idle cores, the nearest lies between three that are busy for half of the time."""
    crowded = [5] * 5 + [2] * 3 + [7] * 3 + [10] * 3 + [1, 4]
    found = {
        eta: hot_spot({"tacs.cost.lambda_hops": 0.1, "tacs.cost.eta_temp": eta}, cores=crowded) for eta in (0.0, 5.0)
    }
    assert found[5.0]["T_peak_logic"] < found[0.0]["T_peak_logic"] - 0.3
    assert found[5.0]["lat_ms"] < found[0.0]["lat_ms"]


# -- how TACS behaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["tacs", "tas"])
def test_work_does_not_go_to_and_fro(scenario: str) -> None:
    shifting = {**SKEWED, "sequence.steps": 2 * SHIFT, "routing.drift": {"every_steps": SHIFT, "share": 1.0}}
    done, _ = run(study(workload=shifting, tas=HOT), scenario)
    rerouted: set[tuple[str, int, int]] = set()
    for record in done:
        table = record.overlay.reroute
        lists = table.lists("mb_ids_json").int_lists()
        columns = table.texts("scope").tolist(), table.ints("from_core").tolist(), table.ints("to_core").tolist()
        for name, source, target, mbs in zip(*columns, lists, strict=True):
            assert source != target
            for mb in mbs:
                assert (name, mb, source) not in rerouted, "back to where it came from"
                rerouted.add((name, mb, target))
                rerouted.discard((name, mb, source))
    came = [(name, target) for window, name, source, target in moved_experts(done) if not source and window < SHIFT]
    assert len(came) == len(set(came)), "a replica that went does not come back while nothing has changed"


def test_in_the_long_run_tacs_makes_neither_peak_nor_latency_worse() -> None:
    for skew in (0.6, 1.2):
        found = study(workload={"routing.zipf_s": skew, "sequence.steps": 80}, tas=HOT)
        settled: dict[str, tuple[float, float]] = {}
        for scenario in ("baseline", "tacs"):
            done, _ = run(found, scenario)
            late = np.concatenate([record.events.latency_ns for record in done[40:]])
            settled[scenario] = float(np.mean(peaks(done)[40:])), float(late.mean())
        assert settled["tacs"][0] <= settled["baseline"][0] and settled["tacs"][1] <= settled["baseline"][1]
