"""TACS: work moved away from hot and overloaded cores, window by window.

The pressure of a core is S = [T - Thot]+ / (Temg - Thot) + gamma [q - q_target]+ / q_target, of its temperature and the
part of the last window that it was busy.  Of the cores under most pressure, the busiest expert may go to a core within
some hops:

- *reroute*: the last of its waiting micro-batches, about as many as make both cores equally busy, run there and read
  the weights over the network;
- *replicate*: where the expert has kept its core under pressure for two windows, the target becomes one more of its
  cores, half of the weights move to the banks there, and tokens take turns from then on.

A move is worth what it takes off the pressure of both cores, less its cost.  Their load is the work that waits, for a
reroute, or the work that a window generates, for a replica, which stays.  The cost is

    lambda x hops / longest way + mu x bytes / what a link carries in a window
    + eta x (how much hotter the target comes to be than the source is) / (Temg - ambient)

Bytes of weights that move count by the part of their least stay that a window is.  The best move is taken first, and
what it changes is counted before the next is looked for.  A replica that is not needed any more is removed after its
least stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.pending_work import PendingWork
from pmc.backends.thermal.tacs_rows import Kind, Move, OverlayRows
from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.analyses.event_state import EventSetting, EventState
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import uncommitted
from pmc.dialects.tas_params import TacsParams

STUBBORN_WINDOWS = 2
"""Windows in a row in which an expert keeps its core under pressure before it gets another core."""

IDLE_SHARE = 0.5
"""Part of the target load below which the remaining cores of an expert must stay for a replica to be removed."""


@dataclass(frozen=True)
class Telemetry:
    """What is known of the chip before a window."""

    temps_core: Floats
    """[cores] degrees C, smoothed."""
    temps_bank: Floats
    """[banks] degrees C, smoothed."""
    util_core: Floats
    """[cores] part of the last window that a core was busy."""
    noc_load: float
    """Load of the busiest link in the last window."""
    ts_ns: int
    """Begin of the window."""


@dataclass(frozen=True)
class TacsMemory:
    """What TACS remembers from window to window."""

    stubborn: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """Of a core and an expert, in how many windows in a row it was the busiest one there, under pressure."""
    added: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """When an expert came to a core that TACS added, ns."""
    removed: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """When an expert was taken from such a core, ns."""


@dataclass(frozen=True)
class _Outlook:
    """What a window comes to by the moves so far."""

    celsius: Floats
    """[cores]"""
    load: Floats
    """[cores] work that waits, in windows; above 1 where some will go on waiting."""
    flow: Floats
    """[cores] work that a window generates, in windows."""

    def of(self, kind: Kind) -> Floats:
        """What a move changes: a reroute what waits, a new core of an expert what is to come."""
        return self.load if kind == "reroute" else self.flow


class Tacs:
    """The rules for one chip and one run; `step` changes nothing that it is given."""

    def __init__(self, params: TacsParams, setting: EventSetting, response: HeatResponse, shard_bytes: int) -> None:
        self.params = params
        self.setting = setting
        self.response = response
        arch = setting.chip.arch
        columns, rows = arch.mesh.cores
        place = np.arange(arch.mesh.count)
        x, y = place % columns, place // columns
        self._hops = np.abs(x[:, None] - x) + np.abs(y[:, None] - y)
        self._longest = max(columns + rows - 2, 1)
        fastest = setting.chip.flops_per_cycle * arch.domain.steps_ghz[0] * 1e9
        self._busy_core_w = fastest * arch.power.pj_per_flop * 1e-12
        self._link_bytes = arch.mesh.noc.link_gb_per_s * setting.window_ns
        self._rows = OverlayRows(setting, shard_bytes)

    def pressure(self, celsius: Floats, busy: Floats) -> Floats:
        """[cores] S."""
        limits, target = self.params.thresholds, self.params.q_target
        heat = np.maximum(0, celsius - limits.Thot) / (limits.Temg - limits.Thot)
        found: Floats = heat + self.params.gamma_load * np.maximum(0, busy - target) / target
        return found

    def step(self, telemetry: Telemetry, state: EventState, memory: TacsMemory) -> tuple[Overlay, TacsMemory]:
        """The overlay of the next window."""
        if telemetry.noc_load > self.params.noc_guard:
            return Overlay.empty(state), replace(memory, stubborn={})
        now = telemetry.ts_ns
        work = PendingWork(self.setting, uncommitted(self.setting, state), now)
        pressure = self.pressure(telemetry.temps_core, telemetry.util_core)
        ranked = np.argsort(-pressure, kind="stable")[: self.params.top_k].tolist()
        hot = {core: expert for core in ranked if pressure[core] > 0 and (expert := work.busiest(core)) is not None}
        stubborn = {place: memory.stubborn.get(place, 0) + 1 for place in hot.items()}
        memory = replace(memory, stubborn=stubborn)
        taken = self._removals(telemetry, state, memory, work, pressure)
        room = self.params.max_parallel_migrations - len(taken) - len(self._rows.on_their_way(state))
        moves = self._chosen(room, now, hot, state, memory, work, _Outlook(telemetry.temps_core, work.load, work.flow))
        return self._rows.overlay(now, state, moves, taken), self._remembered(now, memory, moves, taken)

    # -- moves --------------------------------------------------------------------------------------------------

    def _chosen(
        self,
        room: int,
        now: int,
        hot: Mapping[int, int],
        state: EventState,
        memory: TacsMemory,
        work: PendingWork,
        outlook: _Outlook,
    ) -> list[Move]:
        """The best moves one after the other; a core takes part in one."""
        moves: list[Move] = []
        while len(moves) < room:
            busy = {core for move in moves for core in (move.source, move.target)}
            found = [
                move
                for core, expert in hot.items()
                if core not in busy
                for move in self._moves(core, expert, now, state, memory, work, outlook)
                if move.target not in busy
            ]
            best = max(found, key=lambda move: (move.worth, -move.source, -move.target), default=None)
            if best is None or best.worth <= 0:
                break
            moves.append(best)
            outlook = self._after(best, outlook)
        return moves

    def _moves(
        self,
        core: int,
        expert: int,
        now: int,
        state: EventState,
        memory: TacsMemory,
        work: PendingWork,
        outlook: _Outlook,
    ) -> list[Move]:
        """The busiest expert of a core to every core near it."""
        stands = {int(c) for c in state.expert_cores[expert] if c >= 0}
        came = max((at for (moved, _), at in memory.added.items() if moved == expert), default=None)
        settled = came is None or now - came >= self.params.min_residency_ms * 1e6
        settled &= memory.stubborn[core, expert] >= STUBBORN_WINDOWS and expert not in self._rows.on_their_way(state)
        found: list[Move] = []
        for target in np.flatnonzero(self._hops[core] <= self.params.radius_hops).tolist():
            left = memory.removed.get((expert, target))
            cool = left is None or now - left >= self.params.cool_down_ms * 1e6
            if target == core:
                continue
            if settled and cool and target not in stands:
                found.append(self._replicate(expert, core, target, len(stands), work, outlook))
            found.append(self._reroute(expert, core, target, work, outlook))
        return found

    def _reroute(self, expert: int, core: int, target: int, work: PendingWork, outlook: _Outlook) -> Move:
        uneven = float(outlook.load[core] - outlook.load[target])
        mbs = work.last(core, expert, uneven / 2 * self.setting.window_ns)
        moved = work.of(core, expert, mbs)
        return self._judged(Move("reroute", expert, core, target, mbs, moved.busy_ns), moved.size_bytes, outlook)

    def _replicate(
        self, expert: int, core: int, target: int, copies: int, work: PendingWork, outlook: _Outlook
    ) -> Move:
        fresh = work.fresh(core, expert)
        share = 1 / (copies + 1)
        stay_windows = self.params.min_residency_ms * 1e6 / self.setting.window_ns
        # Half of the weights is at the new core then, and half of what it reads comes from the old one.
        carried = fresh.size_bytes * share / 2 + self._rows.bytes_that_move(expert) / stay_windows
        return self._judged(Move("replicate", expert, core, target, (), fresh.busy_ns * share), carried, outlook)

    def _judged(self, move: Move, carried_bytes: float, outlook: _Outlook) -> Move:
        after = self._after(move, outlook)
        both = [move.source, move.target]
        before, then = (self.pressure(look.celsius, look.of(move.kind))[both].sum() for look in (outlook, after))
        weights = self.params.cost
        hotter = float(after.celsius[move.target] - outlook.celsius[move.source])
        room = self.params.thresholds.Temg - self.setting.chip.arch.cooling.ambient_c
        cost = (
            weights.lambda_hops * float(self._hops[move.source, move.target]) / self._longest
            + weights.mu_noc * carried_bytes / self._link_bytes
            + weights.eta_temp * max(0.0, hotter) / room
        )
        return replace(move, worth=float(before - then) - cost, cost=cost)

    def _after(self, move: Move, outlook: _Outlook) -> _Outlook:
        """Loads and, as if they had settled, temperatures after a move; no core does more than it can."""
        both = [move.source, move.target]
        shift = np.zeros(len(outlook.load))
        shift[both] = np.array([-1, 1]) * move.busy_ns / self.setting.window_ns
        before = outlook.of(move.kind)
        watts = (np.minimum(before + shift, 1) - np.minimum(before, 1))[both] * self._busy_core_w
        celsius = outlook.celsius + self.response.core_k_per_w[:, both] @ watts
        return _Outlook(celsius, outlook.load + shift, outlook.flow + shift)

    # -- replicas that go ---------------------------------------------------------------------------------------

    def _removals(
        self, telemetry: Telemetry, state: EventState, memory: TacsMemory, work: PendingWork, pressure: Floats
    ) -> list[tuple[int, int]]:
        """Experts and the cores that TACS added and that are not needed any more."""
        found: list[tuple[int, int]] = []
        for (expert, core), since in sorted(memory.added.items()):
            cores = [int(c) for c in state.expert_cores[expert] if c >= 0]
            if telemetry.ts_ns - since < self.params.min_residency_ms * 1e6 or any(e == expert for e, _ in found):
                continue
            load = sum(work.of(c, expert).busy_ns for c in cores) / self.setting.window_ns
            calm = pressure[cores].max() == 0 and expert not in self._rows.on_their_way(state)
            if calm and load <= IDLE_SHARE * self.params.q_target * (len(cores) - 1):
                found.append((expert, core))
        return found[: max(0, self.params.max_parallel_migrations - len(self._rows.on_their_way(state)))]

    def _remembered(self, now: int, memory: TacsMemory, moves: list[Move], taken: list[tuple[int, int]]) -> TacsMemory:
        added, removed = dict(memory.added), dict(memory.removed)
        for move in moves:
            if move.kind == "replicate":
                added[move.expert, move.target] = now
        for place in taken:
            del added[place]
            removed[place] = now
        return TacsMemory(memory.stubborn, added, removed)
