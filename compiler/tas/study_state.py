"""What the functions of the TAS-MoE study hand from window to window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmc.backends.thermal.core_response import response_of
from pmc.backends.thermal.hotspot import HotspotProgram, Mode, heat_engine
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.tacs import Tacs, TacsMemory
from pmc.backends.thermal.tas_loop import TasRun, WindowRecord
from pmc.compiler.config import load_content
from pmc.compiler.tas.configuration import load_tas, load_workload
from pmc.compiler.tas.frames import table_of_rows
from pmc.compiler.trace_files import placement_tables
from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.analyses.event_state import EventChip, EventSetting
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import PhysicalWindow
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.tas_params import TacsParams, TasParams
from pmc.dialects.trace_tables import LOGICAL_COMPUTE, LOGICAL_MEMORY

Config = Mapping[str, Any]
"""The content of a YAML file."""

Rows = Iterable[Mapping[str, Any]]
"""Rows of a logical table by the names of their columns."""


@dataclass(frozen=True)
class WindowView:
    """What a window may still change: all that waits, and all that the window generates."""

    window: int
    state: ReplicaState


@dataclass(frozen=True)
class Pending:
    """Events of a window that have not heated the chip yet."""

    overlay: Overlay
    memory: TacsMemory
    events: PhysicalWindow


@dataclass(frozen=True)
class Begun:
    """A run, and what it was begun with."""

    run: TasRun
    placement: Config
    response: HeatResponse


class ReplicaState:
    """Where a run is: cores of experts, weights on their way, events that wait, and the heat in the chip.

    It is empty until it `begin`s, which the first `physicalize_window` does for it.  Rates of cores and banks, the
    window and the size of a shard are those of `cfg_tas` and `cfg_workload`; None for the shipped presets.  `mode`,
    `hotspot` and `folder` say where temperatures come from: `api` is the solver of pmc, `file` the command `hotspot`,
    which works in `folder`, and `auto` the command if there is one.
    """

    def __init__(
        self,
        cfg_workload: Config | None = None,
        cfg_tas: Config | None = None,
        *,
        mode: Mode = "api",
        hotspot: HotspotProgram | None = None,
        folder: str = "hotspot",
    ) -> None:
        self.workload = load_workload("workload_mixtral_8x7b") if cfg_workload is None else workload_of(cfg_workload)
        self.params = load_tas("tas_params") if cfg_tas is None else load_content(TasParams, cfg_tas, "cfg_tas")
        self._engine = hotspot, Path(folder), mode
        self._begun: Begun | None = None
        self._pending: Pending | None = None
        self.decided: tuple[int, TacsMemory] | None = None
        """The window that TACS has decided for, and what it remembers from then on."""

    @property
    def begun(self) -> Begun:
        """The run.  Raises PmcError while there is none."""
        if self._begun is None:
            raise PmcError("the state has no run yet: call its begin(), or physicalize_window first")
        return self._begun

    @property
    def run(self) -> TasRun:
        """The run, all of its windows finished.  Raises PmcError while there is none."""
        self.finish()
        return self.begun.run

    def begin(self, logical_compute: Rows, logical_memory: Rows, placement: Config, hw: Config) -> None:
        """Begin a run in the steady state of its first window's work, spread evenly.  A second call changes nothing.

        Raises PmcError for rows, a placement or a chip that do not fit together, and for another placement than before.
        """
        if self._begun is not None:
            if placement != self._begun.placement:
                raise PmcError("the run was begun with another placement: what moves in it is in overlays")
            return
        arch = arch_of(hw)
        compute, memory = (
            table_of_rows(schema, rows)
            for schema, rows in ((LOGICAL_COMPUTE, logical_compute), (LOGICAL_MEMORY, logical_memory))
        )
        parts = LogicalParts.of(compute, memory, self.workload.sequence.micro_batch)
        chip, tables = EventChip.of(arch, self.params.taps.capacity), placement_tables(placement, "placement")
        setting = EventSetting.of(parts, chip, self.params.tacs.window_ns, *tables)
        model = StackedModel.of(arch)
        response = response_of(model)
        engine = heat_engine(model, *self._engine)
        tacs = Tacs(self.params.tacs, setting, response, self.shard_bytes)
        self._begun = Begun(TasRun(setting, engine, tacs), dict(placement), response)

    @property
    def shard_bytes(self) -> int:
        """Bytes of a shard of weights."""
        return round(self.workload.tensors.weight_shard_mb * 2**20)

    def tacs_of(self, params: Config) -> Tacs:
        """The rules with some parameters."""
        begun, found = self.begun, load_content(TacsParams, params, "params")
        return Tacs(found, begun.run.setting, begun.response, self.shard_bytes)

    def put(self, overlay: Overlay) -> PhysicalWindow:
        """The events of the next window, which `finish` commits.  Raises PmcError for an overlay that does not fit."""
        run = self.run
        memory = run.state.memory if self.decided is None or self.decided[0] != run.window else self.decided[1]
        events = run.physical(overlay)
        self._pending = Pending(overlay, memory, events)
        return events

    def finish(self) -> WindowRecord | None:
        """Commit the events of the window that was put last, and heat the chip by them; None where there are none.

        Raises RunAwayError.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else self.begun.run.finished(pending.overlay, pending.memory, pending.events)

    @property
    def pending(self) -> PhysicalWindow | None:
        """The events that have not heated the chip yet."""
        return None if self._pending is None else self._pending.events

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What `replica_state.json` holds: experts with more than one core, and when their cores last changed, ns."""
        run = self.run
        found = run.state.events.replicas(run.setting)
        return {name: {"cores": list(cores), "ts_created_ns": ts} for name, (cores, ts) in found.items()}


def arch_of(cfg_arch: Config) -> StackedArch:
    """The chip of a dict.  Raises ConfigError."""
    return load_content(StackedArch, cfg_arch, "cfg_arch")


def workload_of(cfg_workload: Config) -> MoeWorkload:
    """The workload of a dict.  Raises ConfigError."""
    return load_content(MoeWorkload, cfg_workload, "cfg_workload")
