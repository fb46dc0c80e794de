"""One window of a trace on a chip: which core does what when, which banks serve it, what goes over the network.

A part (an expert of a token, or its attention) waits on its core for those that came before it.  It then runs for

    max(FLOP / (FLOP per cycle) / clock,   sum of bytes / (bank bandwidth x factor),   bytes / link bandwidth + hops)

nanoseconds, with the clock and the factors of the window in which it starts.  What has not started by the end of the
window waits for the next, on the same core.  Rates of a window (FLOP, bytes) count what is done inside of it: a part
that runs across its end is shared out by time, so that sums over windows are those of the trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.dialects.analyses.event_state import EventChip, EventSetting, EventState, Move, Queue, Running
from pmc.dialects.analyses.mesh_traffic import hops, link_bytes
from pmc.dialects.analyses.overlays import Overlay, check_overlay, migrated, ready_ns, rerouted
from pmc.dialects.grouped_sums import grouped_sums, whole_sums
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Texts
from pmc.dialects.trace_tables import COMPUTE_EVENTS, MEMORY_EVENTS, trace_table

WORKLOAD, MIGRATION = 0, 1
"""Codes of `trace_tables.QOS`."""


@dataclass(frozen=True, eq=False)
class ComputeEvents:
    """Parts that start in a window, in the order of their start."""

    event: IntArray
    start_ns: IntArray
    core: IntArray
    cycles: IntArray
    flops: FloatArray
    op: IntArray
    duration_ns: IntArray

    def table(self, chip: EventChip) -> Table:
        """As `compute_events`; the hint of power is that of the arithmetic at the fastest clock's voltage."""
        watts = self.flops * chip.arch.power.pj_per_flop * 1e-3 / self.duration_ns
        domain = Texts(np.zeros(len(self.event), np.int64), (chip.arch.domain.cores,) if len(self.event) else ())
        return trace_table(
            COMPUTE_EVENTS, evt_id=self.event, t_start_ns=self.start_ns, core_id=self.core,
            duration_cycles=self.cycles, flops=self.flops, op=self.op, dvfs_domain=domain, power_hint=watts,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class MemoryEvents:
    """What banks are asked for in a window: the rows of the parts that start, then those of migrations."""

    event: IntArray
    """0 for a migration."""
    start_ns: IntArray
    core: IntArray
    bank: IntArray
    bytes: IntArray
    write: IntArray
    hops: IntArray
    qos: IntArray

    def table(self, chip: EventChip) -> Table:
        """As `memory_events`."""
        return trace_table(
            MEMORY_EVENTS, evt_id=self.event, t_start_ns=self.start_ns, src_core=self.core,
            dst_bank=Texts.coded(self.bank, chip.bank_names), bytes=self.bytes, rw=self.write, hops=self.hops,
            noc_qos=self.qos,
        )  # fmt: skip


def joined_compute(windows: Sequence[ComputeEvents]) -> ComputeEvents:
    """The events of some windows one after the other."""
    return ComputeEvents(*_joined(windows, ComputeEvents))


def joined_memory(windows: Sequence[MemoryEvents]) -> MemoryEvents:
    """The events of some windows one after the other."""
    return MemoryEvents(*_joined(windows, MemoryEvents))


def _joined(windows: Sequence[object], kind: type[ComputeEvents | MemoryEvents]) -> list[Any]:
    return [np.concatenate([getattr(window, field.name) for window in windows]) for field in fields(kind)]


@dataclass(frozen=True, eq=False)
class PhysicalWindow:
    """The events of a window, what they load, and the state in which the next begins."""

    window: int
    window_ns: int
    link_gb_per_s: float
    compute: ComputeEvents
    memory: MemoryEvents
    state: EventState
    core_flops: FloatArray
    """FLOP done in the window, by core."""
    core_busy_ns: IntArray
    bank_bytes: IntArray
    """Bytes read and written in the window, by bank, those of migrations included."""
    migrated_bytes: int
    """Of tensors that overlays move; each is read once and written once."""
    link_bytes: FloatArray
    """[direction, row, column], see `mesh_traffic`."""
    finished_tokens: IntArray
    """`token_id` of those of which nothing is left to do."""
    latency_ns: IntArray
    """Of each, from its generation to the end of its last part."""

    @property
    def utilisation(self) -> FloatArray:
        """The part of the window that a core is busy, by core."""
        return self.core_busy_ns / self.window_ns

    @property
    def core_byte_hops(self) -> FloatArray:
        """Bytes that leave over the links of a core, by core."""
        return np.asarray(self.link_bytes.sum(axis=0).reshape(-1))

    @property
    def byte_hops(self) -> float:
        """Bytes times links, of all messages."""
        return float(self.link_bytes.sum())

    @property
    def noc_load(self) -> float:
        """The busiest link's part of what it can carry; above 1 where parts ask for more than it does."""
        return float(self.link_bytes.max(initial=0.0)) / (self.link_gb_per_s * self.window_ns)


def physicalize_window(
    setting: EventSetting,
    state: EventState,
    clock_ghz: FloatArray,
    bank_factor: FloatArray,
    overlay: Overlay | None = None,
) -> PhysicalWindow:
    """The next window of a run; nothing that is passed in changes.

    `clock_ghz` [cores] and `bank_factor` [banks] (the part of its bandwidth that refresh leaves to a bank) hold for all
    that starts in the window.  Raises PmcError for an overlay that does not fit (see `overlays`).
    """
    start, end = setting.start_ns(state.window), setting.start_ns(state.window + 1)
    queue, placed = _waiting(setting, state, overlay)
    ran, queue, cycles = _started(setting, state, queue, clock_ghz, bank_factor, end)
    moves, moved = _moves(setting, placed.moves, bank_factor, start, end) if placed.moves else ([], _Moved.nothing())
    compute = _compute_events(setting, ran, cycles)
    memory = _memory_events(setting, ran, moved)
    running = state.running.joined(ran)
    load = _Load.of(setting, running, start, end)
    ended = running.end_ns <= end
    left, token_end, done = _tokens(setting, state, running, ended)
    bank = placed.tensor_bank.copy()
    for move in moves:
        if not move.left:
            bank[move.tensor] = move.target
    free = state.core_free_ns.copy()
    np.maximum.at(free, ran.core, ran.end_ns)
    mesh = setting.chip.arch.mesh
    after = replace(
        placed, window=state.window + 1, committed=_digest(state.committed, compute, memory), tensor_bank=bank,
        moves=tuple(move for move in moves if move.left), generated=_generated(setting, state), queue=queue,
        running=running[np.flatnonzero(~ended)], core_free_ns=free, token_left=left, token_end_ns=token_end,
    )  # fmt: skip
    traffic = [np.concatenate(pair) for pair in zip(load.traffic, moved.traffic, strict=True)]
    return PhysicalWindow(
        state.window, setting.window_ns, mesh.noc.link_gb_per_s, compute, memory, after, load.core_flops,
        load.core_busy_ns, load.bank_bytes + moved.bank_bytes(setting.chip), int(moved.bytes.sum()),
        link_bytes(*mesh.cores, *traffic), setting.parts.token_ids[done], token_end[done] -
        setting.parts.token_t_gen_ns[done],
    )  # fmt: skip


def uncommitted(setting: EventSetting, state: EventState) -> Queue:
    """The parts that the next window can start: those that wait, and those that it generates, on the cores in force.

    It is what an overlay of that window may change.
    """
    return _waiting(setting, state, None)[0]


# -- who waits where --------------------------------------------------------------------------------------------


def _waiting(setting: EventSetting, state: EventState, overlay: Overlay | None) -> tuple[Queue, EventState]:
    placed = state
    if overlay is not None:
        check_overlay(overlay, setting, state)
        placed = migrated(state, overlay, setting)
    new = np.arange(state.generated, _generated(setting, state))
    core = _cores(setting, placed, new)
    if placed is not state:
        since = placed.expert_since_ns[setting.parts.expert[new]]
        late = (setting.parts.expert[new] < 0) | (setting.parts.t_gen_ns[new] >= since)
        core = np.where(late, core, _cores(setting, state, new))
    part, core = np.concatenate([state.queue.part, new]), np.concatenate([state.queue.core, core])
    ready = np.concatenate([state.queue.ready_ns, ready_ns(setting, new, core[len(state.queue.part) :])])
    queue = Queue.ordered(part, core, ready)
    return queue if overlay is None else rerouted(queue, overlay, setting), placed


def _generated(setting: EventSetting, state: EventState) -> int:
    end = setting.start_ns(state.window + 1)
    return int(np.searchsorted(setting.parts.t_gen_ns, end, side="left"))


def _cores(setting: EventSetting, state: EventState, part: IntArray) -> IntArray:
    """The core of each part: of the replicas of an expert they take turns by token."""
    parts = setting.parts
    expert = parts.expert[part]
    if not len(state.expert_cores):
        return setting.home[part]
    copies = (state.expert_cores >= 0).sum(axis=1)[expert]
    turn = parts.token_ids[parts.token[part]] % copies
    return np.where(expert < 0, setting.home[part], state.expert_cores[expert, turn])


# -- what starts ------------------------------------------------------------------------------------------------


def _started(
    setting: EventSetting, state: EventState, queue: Queue, clock_ghz: FloatArray, bank_factor: FloatArray, end: int
) -> tuple[Running, Queue, IntArray]:
    """What starts before `end`, with its cycles, and what goes on waiting.

    On a core that serves in order, part k starts at S_k + max(free, max over j <= k of (ready_j - S_j)), S_k being the
    time of all parts before it.
    """
    parts, chip = setting.parts, setting.chip
    row, place = parts.rows_of(queue.part)
    bank = state.tensor_bank[parts.row_tensor[row]]
    links = hops(chip.arch.mesh.cores[0], queue.core[place], chip.core_of_bank[bank])
    compute_ns = np.ceil(parts.flops[queue.part] / chip.flops_per_cycle) / clock_ghz[queue.core]
    served = parts.row_bytes[row]
    bank_ns = grouped_sums(place, served / (chip.bank_gb_per_s * bank_factor[bank]), len(queue.part))
    noc = chip.arch.mesh.noc
    way = np.where(links > 0, served / noc.link_gb_per_s + links * noc.link_latency_ns, 0.0)
    noc_ns = grouped_sums(place, way, len(queue.part))
    duration = np.ceil(np.maximum(np.maximum(compute_ns, bank_ns), np.maximum(noc_ns, 1.0))).astype(np.int64)

    before = np.cumsum(duration) - duration
    first = np.searchsorted(queue.core, np.arange(chip.cores))
    base = before[np.minimum(first, max(0, len(before) - 1))] if len(before) else first
    before -= base[queue.core]
    wait = queue.ready_ns - before
    # A running maximum per core: every core's values are lifted above those of the cores before it.
    low = min(int(wait.min(initial=0)), int(state.core_free_ns.min(initial=0)))
    lift = queue.core * (max(int(wait.max(initial=0)), int(state.core_free_ns.max(initial=0))) - low + 1)
    floor = np.maximum(wait, state.core_free_ns[queue.core]) - low + lift
    start = before + np.maximum.accumulate(floor) - lift + low

    starts = start < end
    now, later = np.flatnonzero(starts), np.flatnonzero(~starts)
    rows = np.flatnonzero(starts[place])
    moved = np.cumsum(starts) - 1
    ran = Running(
        queue.part[now], queue.core[now], start[now], (start + duration)[now], row[rows], moved[place[rows]], bank[rows]
    )
    cycles = np.ceil(duration[now] * clock_ghz[ran.core]).astype(np.int64)
    return ran, Queue(queue.part[later], queue.core[later], queue.ready_ns[later]), cycles


def _compute_events(setting: EventSetting, ran: Running, cycles: IntArray) -> ComputeEvents:
    parts = setting.parts
    order = np.lexsort((ran.part, ran.start_ns))
    part = ran.part[order]
    return ComputeEvents(
        parts.event[part], ran.start_ns[order], ran.core[order], cycles[order], parts.flops[part], parts.op[part],
        (ran.end_ns - ran.start_ns)[order],
    )  # fmt: skip


def _memory_events(setting: EventSetting, ran: Running, moved: _Moved) -> MemoryEvents:
    parts, chip = setting.parts, setting.chip
    start, part, core = (values[ran.row_place] for values in (ran.start_ns, ran.part, ran.core))
    links = hops(chip.arch.mesh.cores[0], core, chip.core_of_bank[ran.row_bank])
    order = np.lexsort((ran.row, start))
    own = (
        parts.event[part], start, core, ran.row_bank, parts.row_bytes[ran.row], parts.row_write[ran.row], links,
        np.full(len(order), WORKLOAD),
    )  # fmt: skip
    joined = (np.concatenate([values[order], more]) for values, more in zip(own, moved.events(chip), strict=True))
    return MemoryEvents(*joined)


# -- migrations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Moved:
    """The pieces of tensors that move in a window."""

    source: IntArray
    """Banks."""
    target: IntArray
    start_ns: IntArray
    bytes: IntArray
    source_core: IntArray
    target_core: IntArray

    @classmethod
    def nothing(cls) -> _Moved:
        """In a window in which nothing moves."""
        return cls(*(np.zeros(0, np.int64) for _ in fields(cls)))

    @cached_property
    def traffic(self) -> tuple[IntArray, IntArray, IntArray]:
        """Messages between cores."""
        return self.source_core, self.target_core, self.bytes

    def bank_bytes(self, chip: EventChip) -> IntArray:
        """What banks read and write for it."""
        return whole_sums(np.concatenate([self.source, self.target]), np.tile(self.bytes, 2), len(chip.core_of_bank))

    def events(self, chip: EventChip) -> tuple[IntArray, ...]:
        """A read at the source by the core there, and the write by which that core sends the piece on."""
        count = len(self.bytes)
        links = hops(chip.arch.mesh.cores[0], self.source_core, self.target_core)
        return (
            np.zeros(2 * count, np.int64), np.repeat(self.start_ns, 2), np.repeat(self.source_core, 2),
            np.stack([self.source, self.target], axis=1).reshape(-1), np.repeat(self.bytes, 2),
            np.tile(np.array([0, 1]), count), np.stack([0 * links, links], axis=1).reshape(-1),
            np.full(2 * count, MIGRATION),
        )  # fmt: skip


def _moves(
    setting: EventSetting, moves: tuple[Move, ...], bank_factor: FloatArray, start: int, end: int
) -> tuple[list[Move], _Moved]:
    """All moves after the window, and what of them it moves.

    A move gets an equal share of each of its banks and links among the moves that use it, up to `move_gb_per_s`; parts
    of the workload on the same bank or link are not slowed.
    """
    chip, mesh = setting.chip, setting.chip.arch.mesh
    source = np.array([move.source for move in moves], np.int64)
    target = np.array([move.target for move in moves], np.int64)
    begins = np.array([max(start, move.start_ns) for move in moves], np.int64)
    left = np.array([move.left for move in moves], np.int64)
    cores = chip.core_of_bank[source], chip.core_of_bank[target]
    rate = np.full(len(moves), chip.move_gb_per_s)
    for bank in (source, target):
        sharing = np.bincount(np.concatenate([source, target]), minlength=len(chip.core_of_bank))[bank]
        rate = np.minimum(rate, chip.bank_gb_per_s * bank_factor[bank] / sharing)
    used = link_bytes(*mesh.cores, *cores, np.ones(len(moves), np.int64))
    for number in range(len(moves)):
        own = link_bytes(*mesh.cores, cores[0][[number]], cores[1][[number]], np.ones(1, np.int64))
        busiest = float((used * own).max())
        rate[number] = min(rate[number], mesh.noc.link_gb_per_s / busiest if busiest else np.inf)
    amount = np.minimum(left, np.floor(rate * (end - begins))).astype(np.int64)
    after = [replace(move, left=move.left - done) for move, done in zip(moves, amount.tolist(), strict=True)]
    return after, _Moved(source, target, begins, amount, *cores)


# -- what it loads ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Load:
    core_flops: FloatArray
    core_busy_ns: IntArray
    bank_bytes: IntArray
    traffic: tuple[IntArray, IntArray, IntArray]

    @classmethod
    def of(cls, setting: EventSetting, running: Running, start: int, end: int) -> _Load:
        """What parts do between two times, shared out by time; bytes are whole, and add up over windows."""
        parts, chip = setting.parts, setting.chip
        duration = running.end_ns - running.start_ns
        since = np.clip(start - running.start_ns, 0, duration)
        until = np.clip(end - running.start_ns, 0, duration)
        flops = parts.flops[running.part] * ((until - since) / duration)
        size, place = parts.row_bytes[running.row], running.row_place
        moved = size * until[place] // duration[place] - size * since[place] // duration[place]
        core, at = running.core[place], chip.core_of_bank[running.row_bank]
        write = parts.row_write[running.row] == 1
        return cls(
            grouped_sums(running.core, flops, chip.cores), whole_sums(running.core, until - since, chip.cores),
            whole_sums(running.row_bank, moved, len(chip.core_of_bank)),
            (np.where(write, core, at), np.where(write, at, core), moved),
        )  # fmt: skip


def _tokens(
    setting: EventSetting, state: EventState, running: Running, ended: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, IntArray]:
    """What tokens still wait for, when their last part ended, and which of them are done."""
    token = setting.parts.token[running.part[ended]]
    left, last = state.token_left.copy(), state.token_end_ns.copy()
    np.subtract.at(left, token, 1)
    np.maximum.at(last, token, running.end_ns[ended])
    touched = np.unique(token)
    return left, last, touched[left[touched] == 0]


def _digest(before: str, compute: ComputeEvents, memory: MemoryEvents) -> str:
    digest = hashlib.sha256(before.encode())
    for events in (compute, memory):
        for name in events.__dataclass_fields__:
            digest.update(np.ascontiguousarray(getattr(events, name)).data)
    return digest.hexdigest()[:16]
