"""Small studies for tests of `pmc thermal`: 4 x 4 cores under two dies of 8 x 8 banks, and runs without files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pmc.backends.thermal.core_response import response_of
from pmc.backends.thermal.engine import SolverEngine
from pmc.backends.thermal.metrics import run_metrics, window_metrics
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.tacs import Tacs
from pmc.backends.thermal.tas_loop import TasRun, WindowRecord
from pmc.compiler.tas.configuration import load_stack, load_tas, load_workload
from pmc.compiler.tas.scenario import SCENARIOS, Study, setting_of
from pmc.dialects.analyses.event_state import EventSetting
from pmc.dialects.analyses.workload_trace import weights_table
from pmc.passes.place_experts import tables_of

CHIP = {"mesh.cores": [4, 4], "dram.banks": [8, 8, 2], "geometry.grid": [8, 8]}
WORK = {
    "routing.experts": 16, "routing.zipf_s": 0.0, "sequence.micro_batch": 16, "sequence.steps": 5,
    "tensors.shards_per_expert": 2, "tensors.weight_shard_mb": 1.0,
}  # fmt: skip
HOT = {"tacs.thresholds.Thot": 52.0, "tacs.thresholds.Temg": 62.0}
"""Limits that the small chip reaches: its sink is as large as that of the chip of the study."""


def study(
    arch: dict[str, Any] | None = None, workload: dict[str, Any] | None = None, tas: dict[str, Any] | None = None
) -> Study:
    """The presets of the TAS-MoE study on a small chip, with some fields replaced."""
    return Study(
        load_stack("arch_8x8_32x32x8", {**CHIP, **(arch or {})}),
        load_workload("workload_mixtral_8x7b", {**WORK, **(workload or {})}),
        load_tas("tas_params", tas),
    )


def started(found: Study, scenario: str, setting: EventSetting | None = None) -> TasRun:
    """A scenario before its first window; `setting` replaces that of its own trace and placement."""
    setting = setting or setting_of(found.module(scenario))
    model = StackedModel.of(found.arch)
    shard_bytes = round(found.workload.tensors.weight_shard_mb * 2**20)
    tacs = Tacs(found.tas.tacs, setting, response_of(model), shard_bytes) if SCENARIOS[scenario].online else None
    return TasRun(setting, SolverEngine(model), tacs)


def records(run: TasRun, windows: int | None = None) -> list[WindowRecord]:
    """The windows of a run, by default those that the trace fills."""
    return [run.step() for _ in range(run.setting.windows if windows is None else windows)]


def placed(found: Study, cores: Sequence[int]) -> EventSetting:
    """The setting of a study whose expert e stands on core `cores[e]`."""
    plain = setting_of(found.module("baseline"))
    experts, tensors = tables_of(
        found.arch, weights_table(found.workload), {f"E{expert}": [core] for expert, core in enumerate(cores)}
    )
    return EventSetting.of(plain.parts, plain.chip, plain.window_ns, experts, tensors)


def row_of(windows: Sequence[WindowRecord], setting: EventSetting) -> dict[str, Any]:
    """The metrics of a run, with the sums of its moves."""
    rows = [window_metrics(setting, record) for record in windows]
    counts = {name: sum(int(row[name]) for row in rows) for name in ("reroutes", "migrations", "tokens")}
    return {**run_metrics("", "", rows), **counts, "waiting": rows[-1]["waiting"]}


def moved_experts(windows: Sequence[WindowRecord]) -> list[tuple[int, str, str, str]]:
    """Window, expert, source and target of all experts that got a core, or lost one."""
    found: list[tuple[int, str, str, str]] = []
    for record in windows:
        table = record.overlay.migrate
        rows = zip(*(table.texts(name).tolist() for name in ("obj_type", "obj_id", "src", "dst")), strict=True)
        found += [(record.window, name, source, target) for kind, name, source, target in rows if kind == "expert"]
    return found
