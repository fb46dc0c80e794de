"""TACS: work moved away from hot and overloaded cores, window by window.

The pressure of a core is S = [T - Thot]+ / (Temg - Thot) + gamma [q - q_target]+ / q_target, of its temperature and the
part of the last window that it was busy.  Of the cores under most pressure, the busiest expert may go to a core within
some hops:

- *reroute*: the last of its waiting micro-batches, about as many as make both cores equally busy, run there and read
  the weights over the network;
- *replicate*: where the expert has kept its core under pressure for two windows, the target becomes one more of its
  cores, half of the weights move to the banks there, and tokens take turns from then on.

A move takes something off the greater one of the pressures of both cores: where all cores are hot, heat is still moved
from a hotter to a cooler one.  Their load is the work that waits, for a reroute, or the work that a window generates,
for a replica, which stays.  The move is made if it takes off more than the first two terms of its cost

    lambda x hops / longest way + mu x bytes / what a link carries in a window
    + eta x (how much hotter the target comes to be than the coolest possible one would) / (Temg - ambient)

while the third only chooses between moves: were it to count, TACS would do less because some other target is cooler.
Bytes of weights that move count by the part of their least stay that a window is.  The best move is taken first, and
what it changes is counted before the next is looked for.  A replica is removed after its least stay, once the other
cores of its expert would stay cool and far from their target load without it, so that they do not ask for it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
"""Part of the target load that the remaining cores of an expert must not exceed for a replica to be removed."""


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


class _Candidate(NamedTuple):
    """A move that is possible."""

    move: Move
    carried_bytes: float
    """What it puts on links in a window."""


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
        outlook = _Outlook(telemetry.temps_core, work.load, work.flow)
        taken = self._removals(now, state, memory, work, outlook)
        room = self.params.max_parallel_migrations - len(taken) - len(self._rows.on_their_way(state))
        moves = self._chosen(room, now, hot, state, memory, work, outlook)
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
                if move.target not in busy and move.worth > 0
            ]
            best = max(found, key=lambda move: (move.worth - move.heat, -move.source, -move.target), default=None)
            if best is None:
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
        found: list[_Candidate] = []
        for target in np.flatnonzero(self._hops[core] <= self.params.radius_hops).tolist():
            left = memory.removed.get((expert, target))
            cool = left is None or now - left >= self.params.cool_down_ms * 1e6
            if target == core:
                continue
            if settled and cool and target not in stands:
                found.append(self._replicate(expert, core, target, sorted(stands), work))
            found.append(self._reroute(expert, core, target, work, outlook))
        return self._judged(found, outlook)

    def _reroute(self, expert: int, core: int, target: int, work: PendingWork, outlook: _Outlook) -> _Candidate:
        uneven = float(outlook.load[core] - outlook.load[target])
        mbs, moved = work.last(core, expert, uneven / 2 * self.setting.window_ns)
        shift = {core: -moved.busy_ns, target: moved.busy_ns}
        return _Candidate(Move("reroute", expert, core, target, mbs, shift), moved.size_bytes)

    def _replicate(self, expert: int, core: int, target: int, stands: list[int], work: PendingWork) -> _Candidate:
        """Tokens take turns, so every core of the expert gives up an equal part of what it does."""
        fresh = {place: work.fresh(place, expert) for place in stands}
        share = 1 / (len(stands) + 1)
        shift = {place: -amount.busy_ns * share for place, amount in fresh.items()}
        shift[target] = -sum(shift.values())
        stay_windows = self.params.min_residency_ms * 1e6 / self.setting.window_ns
        # Half of the weights is at the new core then, and half of what it reads comes from the old ones.
        read = sum(amount.size_bytes for amount in fresh.values()) * share / 2
        carried = read + self._rows.bytes_that_move(expert) / stay_windows
        return _Candidate(Move("replicate", expert, core, target, (), shift), carried)

    def _judged(self, found: Sequence[_Candidate], outlook: _Outlook) -> list[Move]:
        """The moves with their worth and cost."""
        if not found:
            return []
        moves, carried_bytes = [candidate.move for candidate in found], [candidate.carried_bytes for candidate in found]
        ends = np.array([(move.source, move.target) for move in moves])
        before = np.stack([outlook.of(move.kind) for move in moves])
        shift = np.stack([self._shift(move) for move in moves])
        celsius = outlook.celsius + self._watts(before, shift) @ self.response.core_k_per_w.T
        rows = np.arange(len(moves))[:, None]
        worst = self.pressure(outlook.celsius[ends], before[rows, ends]).max(axis=1)
        gain = worst - self.pressure(celsius[rows, ends], (before + shift)[rows, ends]).max(axis=1)
        weights, warm = self.params.cost, celsius[rows[:, 0], ends[:, 1]]
        way = weights.lambda_hops * self._hops[ends[:, 0], ends[:, 1]] / self._longest
        way += weights.mu_noc * np.array(carried_bytes) / self._link_bytes
        room = self.params.thresholds.Temg - self.setting.chip.arch.cooling.ambient_c
        heat = weights.eta_temp * (warm - warm.min()) / room
        columns = (gain - way).tolist(), heat.tolist(), (way + heat).tolist()
        return [
            replace(move, worth=worth, heat=warmer, cost=cost)
            for move, worth, warmer, cost in zip(moves, *columns, strict=True)
        ]

    def _shift(self, move: Move) -> Floats:
        """[cores] work that comes with a move, in windows."""
        found = np.zeros(self.setting.chip.cores)
        found[list(move.shift_ns)] = np.array(list(move.shift_ns.values())) / self.setting.window_ns
        return found

    def _watts(self, before: Floats, shift: Floats) -> Floats:
        """[.., cores] power that comes with a shift of work; no core does more than it can."""
        found: Floats = (np.minimum(before + shift, 1) - np.minimum(before, 1)) * self._busy_core_w
        return found

    def _after(self, move: Move, outlook: _Outlook) -> _Outlook:
        """Loads and, as if they had settled, temperatures after a move."""
        shift = self._shift(move)
        celsius = outlook.celsius + self.response.core_k_per_w @ self._watts(outlook.of(move.kind), shift)
        return _Outlook(celsius, outlook.load + shift, outlook.flow + shift)

    # -- replicas that go ---------------------------------------------------------------------------------------

    def _removals(
        self, now: int, state: EventState, memory: TacsMemory, work: PendingWork, outlook: _Outlook
    ) -> list[tuple[int, int]]:
        """Experts and the cores that TACS added and that are not needed any more, at most one core of an expert."""
        moving = self._rows.on_their_way(state)
        found: dict[int, int] = {}
        for (expert, core), since in sorted(memory.added.items()):
            settled = now - since >= self.params.min_residency_ms * 1e6 and expert not in moving
            if settled and expert not in found and self._is_idle(expert, core, state, work, outlook):
                found[expert] = core
        return list(found.items())[: max(0, self.params.max_parallel_migrations - len(moving))]

    def _is_idle(self, expert: int, core: int, state: EventState, work: PendingWork, outlook: _Outlook) -> bool:
        """Whether the other cores of an expert can do without one of them."""
        others = [int(c) for c in state.expert_cores[expert] if c not in (-1, core)]
        gone = work.fresh(core, expert).busy_ns
        shift = {core: -gone, **dict.fromkeys(others, gone / len(others))}
        after = self._after(Move("replicate", expert, core, others[0], (), shift), outlook)
        cool = after.celsius[others].max() <= self.params.thresholds.Thot
        return bool(cool and after.load[others].max() <= IDLE_SHARE * self.params.q_target)

    def _remembered(self, now: int, memory: TacsMemory, moves: list[Move], taken: list[tuple[int, int]]) -> TacsMemory:
        added, removed = dict(memory.added), dict(memory.removed)
        for move in moves:
            if move.kind == "replicate":
                added[move.expert, move.target] = now
        for place in taken:
            del added[place]
            removed[place] = now
        return TacsMemory(memory.stubborn, added, removed)
