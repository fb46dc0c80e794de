"""The functions of the TAS-MoE study (section 4 of its guide), by its names and signatures, on the typed code.

Configurations are dicts as YAML files give them; tables are data frames with the columns of the study.  A run is

    lc, lm = generate_logical_traces(cfg_workload, "traces")
    placement = build_placement(cfg_arch, cfg_workload, cfg_tas["taps"])
    state = ReplicaState(cfg_workload, cfg_tas)
    state.begin(*iter_logical(lc, lm), placement, cfg_arch)
    for window in range(num_windows(cfg_workload, cfg_tas["tacs"])):
        overlays = tacs_step(sense_last_window(state), placement, state, cfg_tas["tacs"], pending_view(window, state))
        events = physicalize_window(window, *iter_logical(lc, lm), placement, overlays, state, cfg_arch)
        metrics.append(submit_events_to_comet(*events, cfg_arch, state=state))
    row = reduce_window_metrics(metrics)

and gives the windows of `run_experiment`.  Where a function of the study has no state but the model does, the state is
an optional argument by name, and None says what holds without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pmc.backends.thermal import tacs
from pmc.backends.thermal.chip_state import ChipState
from pmc.backends.thermal.hotspot import HotspotProgram, Mode, heat_engine
from pmc.backends.thermal.metrics import RUN_COLUMNS, run_metrics, window_metrics
from pmc.backends.thermal.power import links_of, work_of
from pmc.backends.thermal.refresh import refreshes_per_s
from pmc.backends.thermal.snapshot import Snapshot
from pmc.backends.thermal.stacked import StackedModel
from pmc.compiler.config import load_content
from pmc.compiler.core_heat import core_heat, require_scipy
from pmc.compiler.tas.configuration import load_stack, load_tas, load_workload
from pmc.compiler.tas.experiment import Job, run_scenario
from pmc.compiler.tas.frames import DataFrame, frame_of, require_pandas, table_of
from pmc.compiler.tas.scenario import SCENARIOS, Study
from pmc.compiler.tas.study_power import (
    compute_columns,
    compute_power_from_events,
    dvfs_step,
    memory_columns,
    refresh_multiplier,
    window_ns_of,
)
from pmc.compiler.tas.study_state import Config, ReplicaState, Rows, WindowView, arch_of, workload_of
from pmc.compiler.trace_files import placement_document, read_logical
from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.analyses.expert_draws import drawn_routing
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.workload_trace import logical_tables
from pmc.dialects.errors import PmcError
from pmc.dialects.table import Table
from pmc.dialects.table_csv import write_table
from pmc.dialects.tas_params import TacsParams, TapsParams, TasParams
from pmc.dialects.trace_tables import MIGRATE, REROUTE
from pmc.passes.place_experts import PlaceExpertsPass, Strategy, first_change_ns
from pmc.passes.trace_experts import TraceExpertsPass

__all__ = [
    "ReplicaState", "Telemetry", "WindowView", "build_placement", "compute_power_from_events", "default_placement",
    "dvfs_step", "empty_overlays", "generate_logical_traces", "iter_logical", "num_windows", "pending_view",
    "physicalize_window", "reduce_window_metrics", "refresh_multiplier", "run_experiment", "sense_last_window",
    "submit_events_to_comet", "tacs_step",
]  # fmt: skip

Overlays = tuple[DataFrame, DataFrame]
"""The frames `overlay_reroute` and `overlay_migrate` of one window."""


@dataclass
class Telemetry:
    """What is known of the chip before a window."""

    temps_core: list[float]
    """Degrees C."""
    temps_bank: list[float]
    """Degrees C."""
    util_core: list[float]
    """0 to 1."""
    noc_load: float
    """Of the busiest link, 0 to 1."""
    ts_ns: int


# -- before a run -----------------------------------------------------------------------------------------------


def generate_logical_traces(cfg_workload: Config, out_dir: str) -> tuple[str, str]:
    """Write `logical_compute.csv` and `logical_memory.csv` of a workload, and give their paths.

    The same workload and seed give the same bytes.  Raises PmcError.
    """
    workload = workload_of(cfg_workload)
    routing = drawn_routing(workload.routing, workload.sequence.steps, workload.sequence.micro_batch)
    paths = Path(out_dir) / "logical_compute.csv", Path(out_dir) / "logical_memory.csv"
    for path, table in zip(paths, logical_tables(workload, routing), strict=True):
        write_table(path, table)
    return str(paths[0]), str(paths[1])


def iter_logical(compute_path: str, memory_path: str) -> tuple[Iterator[dict[str, Any]], Iterator[dict[str, Any]]]:
    """The rows of both files, which are read when the first row is asked for."""

    def rows(which: int) -> Iterator[dict[str, Any]]:
        table: Table = read_logical(Path(compute_path), Path(memory_path))[which]
        yield from frame_of(table).to_dict("records")

    return rows(0), rows(1)


def build_placement(
    cfg_arch: Config,
    cfg_workload: Config,
    taps_params: Config,
    H: np.ndarray | None = None,
    *,
    strategy: Strategy = "taps",
    window_ms: float | None = None,
) -> dict[str, Any]:
    """The object of `placement.json`: experts placed by their heat.

    `H` [cores, cores] is the steady warming in kelvin of the first by a watt in the second, None for that of the
    thermal model.  The profile covers whole windows of `window_ms`, None for those of the shipped parameters.
    Raises PmcError.
    """
    arch, workload = arch_of(cfg_arch), workload_of(cfg_workload)
    shipped = load_tas("tas_params", None if window_ms is None else {"tacs.window_ms": window_ms})
    tas = TasParams(taps=load_content(TapsParams, taps_params, "taps_params"), tacs=shipped.tacs)
    logical = TraceExpertsPass().of_workload(workload)
    assert logical.weights is not None
    response = core_heat(arch) if H is None else _with_cores(core_heat(arch), H)
    change_ns = first_change_ns(workload)
    found = PlaceExpertsPass(strategy).placed(arch, logical, logical.weights.data, tas, change_ns, response)
    return placement_document(*found[:2])


def _with_cores(response: HeatResponse, cores: np.ndarray) -> HeatResponse:
    wanted = response.core_k_per_w.shape
    if cores.shape != wanted:
        raise PmcError(f"H has the shape {list(cores.shape)}, expected {list(wanted)}: cores by cores")
    return HeatResponse(np.asarray(cores, np.float64), response.column_k_per_w)


def default_placement(cfg_arch: Config, cfg_workload: Config | None = None) -> dict[str, Any]:
    """The placement of scenarios without TAPS: expert e on core e modulo cores; None for the shipped workload."""
    workload = load_workload("workload_mixtral_8x7b") if cfg_workload is None else workload_of(cfg_workload)
    return placement_document(*identity_placement(arch_of(cfg_arch), workload))


# -- window by window -------------------------------------------------------------------------------------------


def num_windows(cfg_workload: Config, tacs_params: Config) -> int:
    """Windows in which the workload generates tokens."""
    sequence = workload_of(cfg_workload).sequence
    last_ns = round((sequence.steps - 1) * sequence.interval_ms * 1e6)
    return last_ns // load_content(TacsParams, tacs_params, "tacs_params").window_ns + 1


def sense_last_window(state: ReplicaState) -> Telemetry:
    """What the last window left behind; before the first one the chip is in the steady state of its work."""
    seen = state.run.telemetry()
    return Telemetry(
        seen.temps_core.tolist(), seen.temps_bank.tolist(), seen.util_core.tolist(), seen.noc_load, seen.ts_ns
    )


def pending_view(win_idx: int, state: ReplicaState) -> WindowView:
    """What a window may change.  Raises PmcError for a window that is committed, or not the next one."""
    _require_next(win_idx, state)
    return WindowView(win_idx, state)


def empty_overlays() -> Overlays:
    """Overlays that change nothing."""
    return frame_of(Table.empty(REROUTE)), frame_of(Table.empty(MIGRATE))


def tacs_step(
    tele: Telemetry, placement: Config, state: ReplicaState, params: Config, pending_window: WindowView
) -> Overlays:
    """The frames `overlay_reroute` and `overlay_migrate` of the next window; `params` is the part `tacs` of the file.

    The state remembers what was decided, for least stays and cool-downs.  Raises PmcError for a window that is not the
    next one, and for another placement than the run was begun with.
    """
    run = state.run
    _require_next(pending_window.window, state)
    state.begin((), (), placement, {})
    seen = tacs.Telemetry(
        np.array(tele.temps_core), np.array(tele.temps_bank), np.array(tele.util_core), tele.noc_load, tele.ts_ns
    )
    overlay, memory = state.tacs_of(params).step(seen, run.state.events, run.state.memory)
    state.decided = run.window, memory
    return frame_of(overlay.reroute), frame_of(overlay.migrate)


def physicalize_window(
    win_idx: int,
    logical_compute: Rows,
    logical_memory: Rows,
    placement: Config,
    overlays: Overlays | None,
    state: ReplicaState,
    hw: Config,
) -> Overlays:
    """The frames `compute_events` and `memory_events` of the next window, with the traffic of migrations.

    The first call reads all logical rows and begins the run of the state; later ones go on with it.  A window that was
    not submitted heats the chip when the next one is asked for.  `overlays` is None for none.  Raises PmcError for a
    window that is committed and for overlays that do not fit.
    """
    state.begin(logical_compute, logical_memory, placement, hw)
    _require_next(win_idx, state)
    events, chip = state.run.state.events, state.run.setting.chip
    overlay = Overlay.empty(events)
    if overlays is not None:
        tables = (table_of(schema, frame) for schema, frame in zip((REROUTE, MIGRATE), overlays, strict=True))
        overlay = Overlay(events.window, events.committed, *tables)
    found = state.put(overlay)
    return frame_of(found.compute.table(chip)), frame_of(found.memory.table(chip))


def _require_next(window: int, state: ReplicaState) -> None:
    following = state.run.window
    if window < following:
        raise PmcError(f"window {window} is committed: the next is {following}")
    if window > following:
        raise PmcError(f"window {window} is not the next: that is {following}")


# -- heat -------------------------------------------------------------------------------------------------------


def submit_events_to_comet(
    compute_df: DataFrame,
    memory_df: DataFrame,
    cfg_arch: Config,
    *,
    state: ReplicaState | None = None,
    mode: Mode = "auto",
    hotspot: HotspotProgram | None = None,
    folder: str = "hotspot",
    window_ms: float | None = None,
) -> dict[str, Any]:
    """Temperatures, clocks, refresh and metrics at the end of a window, see `submitted`.

    With a state, the frames are those of its last window: they are committed and heat the chip for the time of that
    window, by the engine of the state.  Without one the chip is in the steady state T = H p + T_amb of the events
    repeated for ever, with the leakage, the clocks and the refresh of that state; `ips` and `lat_ms` are then NaN.
    `mode` `file` runs HotSpot in `folder`, `auto` does so if there is one.  Raises PmcError, RunAwayError.
    """
    if state is not None:
        return _submit_next(compute_df, memory_df, state)
    arch, window_ns = arch_of(cfg_arch), window_ns_of(window_ms)
    compute, memory = compute_columns(compute_df), memory_columns(arch, memory_df)
    require_scipy()
    engine = heat_engine(StackedModel.of(arch), hotspot, Path(folder), mode)
    found = ChipState(arch, engine, work_of(arch, compute, memory), window_ns).snapshot
    could = load_tas("tas_params").taps.capacity.bank_bw_gbps * window_ns * arch.dram.count
    dies = arch.dram.banks[2]
    metrics = {
        "T_peak_logic": float(found.temps_core_c.max()),
        "T_peak_dram": float(found.temps_bank_c.max()),
        "T_avg": float((found.temps_core_c.mean() + dies * found.temps_bank_c.mean()) / (1 + dies)),
        "ips": float("nan"),
        "lat_ms": float("nan"),
        "bw_util": float(memory.size.sum()) / could,
        "refresh_mhz": float(refreshes_per_s(arch.refresh, found.refresh_multiplier).sum()) / 1e6,
        "noc_load": float(links_of(arch, memory).max()) / (arch.mesh.noc.link_gb_per_s * window_ns),
        "tokens": 0,
    }
    return submitted(found, metrics)


def submitted(snapshot: Snapshot, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a window, and its snapshot as lists: degrees C, GHz, multiples of the base rate, and watts."""
    lists = {
        "temps_core": snapshot.temps_core_c, "temps_bank": snapshot.temps_bank_c, "clock_core_ghz": snapshot.clock_ghz,
        "refresh_multiplier": snapshot.refresh_multiplier, "power_core_w": snapshot.power_core_w,
        "power_bank_w": snapshot.power_bank_w,
    }  # fmt: skip
    return {**metrics, "ts_ns": snapshot.ts_ns, **{name: values.tolist() for name, values in lists.items()}}


def _submit_next(compute_df: DataFrame, memory_df: DataFrame, state: ReplicaState) -> dict[str, Any]:
    pending = state.pending
    asked = (0, 0) if pending is None else (len(pending.compute.event), len(pending.memory.event))
    if pending is None or asked != (len(compute_df), len(memory_df)):
        raise PmcError("the events are not those of the last window of the state: nothing can be submitted twice")
    record = state.finish()
    assert record is not None
    return submitted(record.snapshot, dict(window_metrics(state.run.setting, record)))


# -- a whole run ------------------------------------------------------------------------------------------------


def reduce_window_metrics(win_metrics: Sequence[Config]) -> DataFrame:
    """The frame with the one row of a run, from what `submit_events_to_comet` gave for its windows.

    Scenario and workload are those of the first window's dict, empty where it names none.  Raises PmcError without
    windows.
    """
    if not win_metrics:
        raise PmcError("there are no windows to reduce")
    scenario, workload = (str(win_metrics[0].get(name, "")) for name in ("scenario", "workload"))
    return require_pandas().DataFrame([run_metrics(scenario, workload, win_metrics)], columns=list(RUN_COLUMNS))


def run_experiment(cfg_arch_path: str, cfg_workload_path: str, tas_params_path: str, scenario: str, outdir: str) -> str:
    """Run a scenario with all of its files, and give the path of `<outdir>/<scenario>/<workload>.csv`.

    Presets may be named in place of files.  Raises PmcError for a scenario that there is not, RunAwayError.
    """
    if scenario not in SCENARIOS:
        raise PmcError(f"unknown scenario '{scenario}', expected {', '.join(SCENARIOS)}")
    require_scipy()
    found = Study(load_stack(cfg_arch_path), load_workload(cfg_workload_path), load_tas(tas_params_path))
    job = Job(found, scenario, Path(outdir), None, False, "api", None)
    run_scenario(job)
    return str(job.folder / f"{found.workload.model}.csv")
