"""The window loop of TAS, its metrics, and the unit responses that TAPS and TACS ask for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pmc.backends.thermal.core_response import response_of
from pmc.backends.thermal.metrics import RUN_COLUMNS, WINDOW_COLUMNS, run_metrics, window_metrics
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.tas_loop import first_work
from pmc.compiler.tas.scenario import setting_of
from pmc.dialects.trace_tables import OPS
from tests.backends.stacked_chips import small_chip
from tests.compiler.thermal_cases import HOT, records, started, study

SKEWED = {"routing.zipf_s": 1.2, "sequence.steps": 10}


# -- responses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logic", ["far", "near"])
def test_the_response_to_banks_is_that_of_solved_columns(logic: str) -> None:
    """Reciprocity, against a steady state for every column of banks."""
    arch = small_chip(geometry__logic=logic)
    model = StackedModel.of(arch)
    response = response_of(model)
    for core in range(arch.mesh.count):
        banks = np.zeros(arch.dram.count)
        here = arch.banks_at_core(core)
        banks[here] = 1 / len(here)
        celsius, _ = model.celsius(model.model.steady(model.powers(np.zeros(4), banks)))
        assert celsius - 45.0 == pytest.approx(response.column_k_per_w[:, core], rel=1e-9)
        own, _ = model.celsius(model.model.steady(model.powers(np.eye(4)[core], np.zeros(arch.dram.count))))
        assert own - 45.0 == pytest.approx(response.core_k_per_w[:, core], rel=1e-9)


def test_a_core_warms_itself_most() -> None:
    response = response_of(StackedModel.of(small_chip()))
    assert (response.core_k_per_w.argmax(axis=0) == np.arange(4)).all()
    assert (response.core_k_per_w > 0).all() and (response.column_k_per_w > 0).all()


# -- the loop -----------------------------------------------------------------------------------------------------


def test_all_scenarios_begin_in_the_state_of_even_work() -> None:
    found = study(workload=SKEWED)
    starts = [started(found, scenario).chip.snapshot for scenario in ("baseline", "tas")]
    assert (starts[0].temps_core_c == starts[1].temps_core_c).all()
    setting = setting_of(found.module("baseline"))
    work = first_work(setting)
    assert len(set(work.flops.tolist())) == len(set(work.dram_bytes.tolist())) == 1
    assert work.flops.sum() == pytest.approx(16 * (2.5e9 + 1e9))
    assert work.dram_bytes.sum() == pytest.approx(16 * (2 * 2**20 + 2049 * 4096))


def test_the_clocks_of_a_window_are_those_of_the_temperatures_before_it() -> None:
    """A chip whose first trip lies below its hottest core."""
    dvfs = {"dvfs.domains": [{
        "cores": "all", "steps_ghz": [2.0, 1.0], "voltage_v": [1.0, 0.8], "trip_c": [56.0], "hysteresis_c": 1.0,
    }]}  # fmt: skip
    begun = started(study(arch=dvfs, workload={**SKEWED, "sequence.steps": 30}), "baseline")
    slowed = 0
    for _ in range(30):
        clock = begun.chip.clock_ghz
        events = begun.step().events.compute
        floating = np.flatnonzero(events.op == OPS.index("fc"))  # attention waits for its bank
        expected = events.flops[floating] / 2500 / clock[events.core[floating]]
        assert events.duration_ns[floating] == pytest.approx(expected, rel=0.01)
        slowed += int((clock[events.core] == 1.0).sum())
    assert slowed > 0


def test_hot_banks_refresh_more_and_serve_less() -> None:
    curve = {"refresh.tref_curve": [[40.0, 1.0], [53.0, 8.0]]}
    begun = started(study(arch=curve, workload={**SKEWED, "sequence.steps": 20}), "baseline")
    done = records(begun)
    arch = begun.setting.chip.arch
    hot = done[-1].snapshot.temps_bank_c >= 53.0
    assert 0 < hot.sum() < 128
    assert (done[-1].snapshot.refresh_multiplier == np.where(hot, 8.0, 1.0)).all()
    assert begun.chip.bandwidth_factor == pytest.approx(1 - np.where(hot, 8, 1) * 350.0 / 7800.0)
    before = done[-2].snapshot.refresh_multiplier
    assert done[-1].refresh_mhz == pytest.approx(before.sum() / arch.refresh.tref_base_us)


def test_temperatures_are_smoothed_for_tacs_only() -> None:
    found = study(workload=SKEWED, tas={**HOT, "tacs.smoothing": 0.5})
    for scenario, newest in (("baseline", 1.0), ("tacs", 0.5)):
        begun = started(found, scenario)
        before = begun.telemetry().temps_core
        record = begun.step()
        seen = begun.telemetry()
        assert seen.temps_core == pytest.approx(newest * record.snapshot.temps_core_c + (1 - newest) * before)
        assert (seen.util_core == record.events.utilisation).all()
        assert (seen.ts_ns, seen.noc_load) == (3_000_000, record.events.noc_load)


def test_a_run_goes_on_from_what_was_kept() -> None:
    found = study(workload={**SKEWED, "sequence.steps": 20}, tas=HOT)
    whole = [record.events.state.committed for record in records(started(found, "tacs"))]
    first = started(found, "tacs")
    records(first, 8)
    second = started(found, "tacs")
    second.restore(first.kept())
    rest = records(second, 12)
    assert [record.window for record in rest] == list(range(8, 20))
    assert [record.events.state.committed for record in rest] == whole[8:]


# -- metrics ------------------------------------------------------------------------------------------------------


def test_the_row_of_a_window() -> None:
    begun = started(study(workload=SKEWED), "baseline")
    record = begun.step()
    row = window_metrics(begun.setting, record)
    assert tuple(row) == WINDOW_COLUMNS
    snapshot, events = record.snapshot, record.events
    assert row["T_peak_logic"] == snapshot.temps_core_c.max() and row["T_peak_dram"] == snapshot.temps_bank_c.max()
    assert row["T_avg"] == pytest.approx((snapshot.temps_core_c.mean() + 2 * snapshot.temps_bank_c.mean()) / 3)
    assert row["ips"] == pytest.approx(len(events.finished_tokens) / 3e-3)
    assert row["bw_util"] == pytest.approx(events.bank_bytes.sum() / (128 * 25e9 * 3e-3))
    assert row["waiting"] == len(events.state.queue.part) and row["clock_ghz"] == 2.0


def rows(*values: tuple[float, float, int]) -> list[dict[str, Any]]:
    """Windows of a peak, a latency and tokens."""
    others = {"T_peak_dram": 1.0, "T_avg": 2.0, "bw_util": 3.0, "refresh_mhz": 4.0, "noc_load": 5.0}
    return [
        {**others, "T_peak_logic": peak, "lat_ms": latency, "tokens": tokens, "ips": tokens / 3e-3}
        for peak, latency, tokens in values
    ]


def test_the_row_of_a_run_weighs_latency_by_tokens() -> None:
    row = run_metrics("tas", "mixtral", rows((60.0, 1.0, 30), (70.0, 5.0, 10), (65.0, math.nan, 0)))
    assert tuple(row) == RUN_COLUMNS
    assert (row["scenario"], row["workload"], row["T_peak_logic"]) == ("tas", "mixtral", 70.0)
    assert row["lat_ms"] == 2.0 and row["ips"] == pytest.approx(40 / 9e-3)
    assert math.isnan(float(run_metrics("", "", rows((60.0, math.nan, 0)))["lat_ms"]))
