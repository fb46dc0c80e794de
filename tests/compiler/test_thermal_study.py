"""The functions of the TAS-MoE study, by its names: one by one, and as the loop of its section 14."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmc
from pmc.backends.thermal.metrics import RUN_COLUMNS
from pmc.compiler.config import yaml_text
from pmc.compiler.tas.run_files import read_windows
from pmc.dialects.errors import PmcError
from pmc.dialects.trace_tables import COMPUTE_EVENTS, LOGICAL_COMPUTE, MEMORY_EVENTS, MIGRATE, REROUTE
from tests.compiler.thermal_cases import HOT, study

pd = pytest.importorskip("pandas")
api = pmc.thermal_study

SKEWED = {"routing.zipf_s": 1.2, "sequence.steps": 14}


def configs(**workload: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The three files of a small study as dicts."""
    found = study(workload={**SKEWED, **workload}, tas=HOT)
    arch, work, tas = (part.model_dump(mode="json") for part in (found.arch, found.workload, found.tas))
    return arch, work, tas


def windows_of(scenario: str, folder: Path) -> tuple[Any, list[dict[str, Any]], Any]:
    """The state, the metrics of all windows and the row of a scenario, by the pseudo code of the study."""
    cfg_arch, cfg_wl, cfg_tas = configs()
    lc_path, lm_path = api.generate_logical_traces(cfg_wl, out_dir=str(folder))
    placed = scenario in {"taps", "tas"}
    placement = (
        api.build_placement(cfg_arch, cfg_wl, cfg_tas["taps"]) if placed else api.default_placement(cfg_arch, cfg_wl)
    )
    state = api.ReplicaState(cfg_wl, cfg_tas)
    state.begin(*api.iter_logical(lc_path, lm_path), placement, cfg_arch)
    found: list[dict[str, Any]] = []
    for win_idx in range(api.num_windows(cfg_wl, cfg_tas["tacs"])):
        tele = api.sense_last_window(state)
        overlays = (
            api.tacs_step(tele, placement, state, cfg_tas["tacs"], api.pending_view(win_idx, state))
            if scenario in {"tacs", "tas"}
            else api.empty_overlays()
        )
        events = api.physicalize_window(
            win_idx, *api.iter_logical(lc_path, lm_path), placement, overlays, state, cfg_arch
        )
        metrics = api.submit_events_to_comet(*events, cfg_arch, state=state)
        found.append({"scenario": scenario, "workload": cfg_wl["model"], **metrics})
    return state, found, api.reduce_window_metrics(found)


@pytest.mark.parametrize("scenario", ["baseline", "taps", "tacs", "tas"])
def test_the_loop_of_the_study_gives_the_windows_of_run_experiment(scenario: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.yaml" for name in ("arch", "workload", "tas")]
    found = study(workload=SKEWED, tas=HOT)
    for path, part in zip(paths, (found.arch, found.workload, found.tas), strict=True):
        path.write_text(yaml_text(part))
    arch, workload, tas = map(str, paths)
    result = Path(api.run_experiment(arch, workload, tas, scenario, str(tmp_path / "out")))
    assert result == tmp_path / "out" / scenario / "mixtral-8x7b.csv"

    state, windows, row = windows_of(scenario, tmp_path / "traces")
    expected = read_windows(result.parent / "windows.csv")
    assert len(windows) == len(expected) == 14
    for mine, theirs in zip(windows, expected, strict=True):
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, rel=1e-12, nan_ok=True)
    with result.open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert list(line) == list(row.columns) == list(RUN_COLUMNS)
    assert [str(value) for value in row.iloc[0]] == list(line.values())
    if scenario == "tacs":
        assert sum(window["migrations"] + window["reroutes"] for window in windows) > 0
        assert set(state.replicas()) <= {f"E{e}" for e in range(16)}


def test_traces_are_the_same_for_the_same_seed_and_others_for_another(tmp_path: Path) -> None:
    _, workload, _ = configs()
    texts = [
        [Path(path).read_bytes() for path in api.generate_logical_traces(cfg, str(tmp_path / name))]
        for name, cfg in (
            ("one", workload),
            ("two", workload),
            ("other", {**workload, "routing": {**workload["routing"], "seed": 43}}),
        )
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0].split(b"\n")[0].decode() == ",".join(LOGICAL_COMPUTE.names)


def test_a_placement_is_that_of_the_pass_and_follows_the_response_that_is_given() -> None:
    arch, workload, tas = configs()
    placement = api.build_placement(arch, workload, tas["taps"])
    assert set(placement) == {"experts", "tensors"} and len(placement["experts"]) == 16
    assert placement["experts"]["E0"].keys() == {"cores", "policy"}
    assert all(bank["dram_bank"].startswith("B(") for bank in placement["tensors"].values())
    hottest = max(placement["experts"], key=lambda name: len(placement["experts"][name]["cores"]))
    assert placement["experts"][hottest]["policy"] == "replicate"
    # A chip in which a watt in one of the first four cores warms all cores by far the most.
    bad = np.full((16, 16), 0.01) + np.diag([0.1] * 16)
    bad[:, :4] += 100.0
    moved = api.build_placement(arch, workload, tas["taps"], H=bad)
    used = {core for expert in moved["experts"].values() for core in expert["cores"]}
    assert not used & {0, 1, 2, 3} and moved != placement
    with pytest.raises(PmcError, match=r"H has the shape \[2, 2\], expected \[16, 16\]"):
        api.build_placement(arch, workload, tas["taps"], H=np.eye(2))


def begun(tmp_path: Path, **workload: Any) -> tuple[Any, ...]:
    arch, work, tas = configs(**workload)
    paths = api.generate_logical_traces(work, str(tmp_path))
    placement = api.default_placement(arch, work)
    state = api.ReplicaState(work, tas)
    return state, paths, placement, arch, tas


def test_a_window_is_physicalized_once_and_in_its_turn(tmp_path: Path) -> None:
    state, paths, placement, arch, _ = begun(tmp_path)
    compute, memory = api.physicalize_window(0, *api.iter_logical(*paths), placement, None, state, arch)
    assert list(compute.columns) == list(COMPUTE_EVENTS.names) and list(memory.columns) == list(MEMORY_EVENTS.names)
    assert len(compute) == 16 * 3
    for window, message in ((0, "window 0 is committed: the next is 1"), (3, "window 3 is not the next: that is 1")):
        with pytest.raises(PmcError, match=message):
            api.physicalize_window(window, *api.iter_logical(*paths), placement, None, state, arch)
    other = {**placement, "experts": {**placement["experts"], "E0": {"cores": [7], "policy": "single"}}}
    with pytest.raises(PmcError, match="the run was begun with another placement"):
        api.physicalize_window(1, *api.iter_logical(*paths), other, None, state, arch)


def test_events_are_submitted_once(tmp_path: Path) -> None:
    state, paths, placement, arch, _ = begun(tmp_path)
    events = api.physicalize_window(0, *api.iter_logical(*paths), placement, None, state, arch)
    assert api.submit_events_to_comet(*events, arch, state=state)["ts_ns"] == 3_000_000
    with pytest.raises(PmcError, match="nothing can be submitted twice"):
        api.submit_events_to_comet(*events, arch, state=state)


def test_a_state_without_a_run_says_so() -> None:
    with pytest.raises(PmcError, match=r"the state has no run yet: call its begin\(\)"):
        api.sense_last_window(api.ReplicaState())


def test_empty_overlays_have_the_columns_of_the_study() -> None:
    reroute, migrate = api.empty_overlays()
    assert list(reroute.columns) == list(REROUTE.names) and list(migrate.columns) == list(MIGRATE.names)


def test_overlays_with_a_missing_column_or_a_wrong_value_are_refused(tmp_path: Path) -> None:
    state, paths, placement, arch, _ = begun(tmp_path)
    reroute, migrate = api.empty_overlays()
    with pytest.raises(PmcError, match="the frame of 'reroute' has no column scope"):
        api.physicalize_window(
            0, *api.iter_logical(*paths), placement, (reroute.drop(columns="scope"), migrate), state, arch
        )
    row = dict(zip(REROUTE.names, (0, "mb", "here", 1, "[0]", "hot_core", 0.1), strict=True))
    with pytest.raises(PmcError, match="the frame of 'reroute': 'here' in column 'from_core' is not an integer"):
        api.physicalize_window(0, *api.iter_logical(*paths), placement, (pd.DataFrame([row]), migrate), state, arch)
    api.physicalize_window(0, *api.iter_logical(*paths), placement, None, state, arch)


def test_without_a_state_a_chip_settles_at_its_events(tmp_path: Path) -> None:
    """T = H p + T_amb: the heat that leaves through the sink is the power that comes in."""
    state, paths, placement, arch, _ = begun(tmp_path)
    events = api.physicalize_window(0, *api.iter_logical(*paths), placement, None, state, arch)
    settled = api.submit_events_to_comet(*events, arch)
    assert settled["T_peak_logic"] == max(settled["temps_core"]) > arch["cooling"]["ambient_c"]
    assert np.isnan(settled["ips"]) and settled["bw_util"] > 0
    power = api.compute_power_from_events(*events, arch, snapshot=settled)
    assert power["P_logic"] == pytest.approx(settled["power_core_w"], rel=1e-3)
    assert power["P_mem"] == pytest.approx(settled["power_bank_w"], rel=1e-3)


def test_power_is_the_energy_of_the_events_over_the_window(tmp_path: Path) -> None:
    state, paths, placement, arch, _ = begun(tmp_path)
    compute, memory = api.physicalize_window(0, *api.iter_logical(*paths), placement, None, state, arch)
    cold = api.compute_power_from_events(compute.iloc[:0], memory.iloc[:0], arch)
    full = api.compute_power_from_events(compute, memory, arch)
    joule = compute["flops"].sum() * arch["power"]["pj_per_flop"] * 1e-12
    links = (memory["bytes"] * memory["hops"]).sum() * arch["power"]["pj_per_noc_byte_hop"] * 1e-12
    assert (sum(full["P_logic"]) - sum(cold["P_logic"])) * 3e-3 == pytest.approx(joule + links, rel=1e-9)
    dram = memory["bytes"].sum() * arch["power"]["pj_per_dram_byte"] * 1e-12
    assert (sum(full["P_mem"]) - sum(cold["P_mem"])) * 3e-3 == pytest.approx(dram, rel=1e-9)
    longer = api.compute_power_from_events(compute, memory, arch, window_ms=6.0)
    assert sum(longer["P_logic"]) - sum(cold["P_logic"]) == pytest.approx((joule + links) / 6e-3, rel=1e-9)


def test_refresh_and_clocks_follow_the_curves_of_the_chip() -> None:
    assert [api.refresh_multiplier(c) for c in (20.0, 40.0, 54.9, 55.0, 70.0, 120.0)] == [1, 1, 1, 2, 4, 8]
    assert [api.dvfs_step(c, "all") for c in (20.0, 80.0, 80.1, 85.1, 90.1)] == [2.0, 2.0, 1.8, 1.6, 1.2]
    assert api.dvfs_step(78.0, "all", ghz=1.8) == 1.8, "not yet 3 K below the trip"
    assert api.dvfs_step(77.0, "all", ghz=1.8) == 2.0
    arch = study(arch={"refresh.tref_curve": "jedec"}).arch.model_dump(mode="json")
    assert api.refresh_multiplier(84.0, cfg_arch=arch) == 1
    with pytest.raises(PmcError, match="there is no DVFS domain 'gpu', expected all"):
        api.dvfs_step(20.0, "gpu")
    with pytest.raises(PmcError, match=r"1.7 GHz is no clock of .*: 2, 1.8, 1.6, 1.2"):
        api.dvfs_step(20.0, "all", ghz=1.7)


def test_wrong_configurations_and_scenarios_are_one_line(tmp_path: Path) -> None:
    arch, workload, tas = configs()
    with pytest.raises(PmcError, match=r"cfg_workload: routing\.topk"):
        api.generate_logical_traces({**workload, "routing": {**workload["routing"], "topk": 0}}, str(tmp_path))
    with pytest.raises(PmcError, match="unknown scenario 'best', expected baseline, taps, tacs, tas"):
        api.run_experiment("a", "b", "c", "best", str(tmp_path))
    with pytest.raises(PmcError, match="there are no windows to reduce"):
        api.reduce_window_metrics([])
    with pytest.raises(PmcError, match="taps_params: missing field objective"):
        api.build_placement(arch, workload, {name: part for name, part in tas["taps"].items() if name != "objective"})


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PmcError, match=r"the functions of the study use pandas: pip install 'pmc\[thermal\]'"):
        api.empty_overlays()
