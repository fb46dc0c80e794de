"""The metrics of a run: one row per window, and the row of the whole run that scenarios are compared by.

T_peak_logic, T_peak_dram   hottest core and bank at the end of any window, degrees C
T_avg                       mean of all cores and banks, each by its area, degrees C
ips                         tokens finished per second
lat_ms                      mean time of the finished tokens, from their generation to the end of their last part
bw_util                     bytes read and written over what all banks could serve without refresh
refresh_mhz                 refresh commands of all banks, millions per second
noc_load                    part of the busiest link's bandwidth that is asked for
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pmc.backends.thermal.tas_loop import WindowRecord
from pmc.dialects.analyses.event_state import EventSetting

RUN_COLUMNS = (
    "scenario", "workload", "T_peak_logic", "T_peak_dram", "T_avg", "ips", "lat_ms", "bw_util", "refresh_mhz",
    "noc_load",
)  # fmt: skip
"""The columns of `results/<scenario>/<workload>.csv`, as the TAS-MoE study has them."""

WINDOW_COLUMNS = ("window", "ts_ns", *RUN_COLUMNS[2:], "clock_ghz", "tokens", "reroutes", "migrations", "waiting")
"""The columns of `windows.csv`: `clock_ghz` is the mean of the cores, `waiting` the parts that wait at the end."""

Metrics = Mapping[str, float | int | str]


def window_metrics(setting: EventSetting, record: WindowRecord) -> dict[str, float | int]:
    """The row of a window; `lat_ms` is NaN where no token was finished."""
    events, snapshot = record.events, record.snapshot
    seconds = setting.window_ns * 1e-9
    tokens = len(events.finished_tokens)
    cores, banks = snapshot.temps_core_c, snapshot.temps_bank_c
    dies = setting.chip.arch.dram.banks[2]
    could = setting.chip.bank_gb_per_s * setting.window_ns * len(banks)
    return {
        "window": record.window,
        "ts_ns": snapshot.ts_ns,
        "T_peak_logic": float(cores.max()),
        "T_peak_dram": float(banks.max()),
        "T_avg": float((cores.mean() + dies * banks.mean()) / (1 + dies)),
        "ips": tokens / seconds,
        "lat_ms": float(events.latency_ns.mean()) * 1e-6 if tokens else math.nan,
        "bw_util": float(events.bank_bytes.sum()) / could,
        "refresh_mhz": record.refresh_mhz,
        "noc_load": events.noc_load,
        "clock_ghz": float(snapshot.clock_ghz.mean()),
        "tokens": tokens,
        "reroutes": record.overlay.reroute.count,
        "migrations": experts_moved(record),
        "waiting": len(events.state.queue.part),
    }


def experts_moved(record: WindowRecord) -> int:
    """Experts that get a core, or lose one, in a window."""
    return record.overlay.migrate.texts("obj_type").tolist().count("expert")


def run_metrics(scenario: str, workload: str, windows: Sequence[Metrics]) -> dict[str, float | str]:
    """The row of a run, from those of its windows."""

    def of(column: str) -> np.ndarray:
        return np.array([float(row[column]) for row in windows])

    tokens, latency = of("tokens"), of("lat_ms")
    done = tokens > 0
    mean = {name: float(of(name).mean()) for name in ("T_avg", "ips", "bw_util", "refresh_mhz", "noc_load")}
    return {
        "scenario": scenario,
        "workload": workload,
        "T_peak_logic": float(of("T_peak_logic").max()),
        "T_peak_dram": float(of("T_peak_dram").max()),
        "T_avg": mean["T_avg"],
        "ips": mean["ips"],
        "lat_ms": float((tokens[done] * latency[done]).sum() / tokens[done].sum()) if done.any() else math.nan,
        "bw_util": mean["bw_util"],
        "refresh_mhz": mean["refresh_mhz"],
        "noc_load": mean["noc_load"],
    }
