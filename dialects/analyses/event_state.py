"""What turns events of a model into events of a chip rests on: rates of the chip, names, and who waits where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.mesh_traffic import cores_over
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.table import Table
from pmc.dialects.tas_params import TapsCapacity
from pmc.dialects.trace_tables import CACHE, NO_WINDOW_YET


@dataclass(frozen=True, eq=False)
class EventChip:
    """Rates and places of a stacked chip, as arrays."""

    arch: StackedArch
    flops_per_cycle: float
    """Of one core."""
    bank_gb_per_s: float
    """Bandwidth of one bank without refresh; 1 GB/s is a byte per ns."""
    move_gb_per_s: float
    """What of it a tensor on its way to another bank may take: moving heats, so it is slow."""
    core_of_bank: IntArray
    banks_at_core: IntArray
    """[core, place], die by die from the logic die."""

    @classmethod
    def of(cls, arch: StackedArch, capacity: TapsCapacity) -> EventChip:
        """The chip with cores and banks of this capacity."""
        banks = np.array([arch.banks_at_core(core) for core in range(arch.mesh.count)], np.int64)
        per_cycle = capacity.core_flops_tps / (arch.domain.steps_ghz[0] * 1e9)
        return cls(arch, per_cycle, capacity.bank_bw_gbps, capacity.migration_bw_gbps, cores_over(arch), banks)

    @property
    def cores(self) -> int:
        """How many there are."""
        return self.arch.mesh.count

    @cached_property
    def bank_names(self) -> tuple[str, ...]:
        """`B(x,y,layer)` of every bank."""
        return tuple(map(self.arch.bank_name, range(self.arch.dram.count)))

    def cache_bank(self, sequence: int) -> int:
        """The bank of the KV cache of a sequence: over its home core, in turn, from the die farthest from the logic."""
        home, turn = sequence % self.cores, sequence // self.cores
        return int(self.banks_at_core[home, -1 - turn % self.banks_at_core.shape[1]])


@dataclass(frozen=True)
class Move:
    """A tensor on its way to another bank; it is read from the old one until the window after its last byte."""

    tensor: int
    source: int
    target: int
    start_ns: int
    left: int
    """Bytes that are still to go."""


@dataclass(frozen=True, eq=False)
class EventState:
    """Everything that one window hands on to the next."""

    window: int
    """The next window; those before it are committed."""
    committed: str
    """Hash of all committed physical events."""
    expert_cores: IntArray
    """[expert, place]: the cores of every expert, the primary one first; -1 where there is none."""
    expert_since_ns: IntArray
    """When the cores of an expert last changed."""
    tensor_bank: IntArray
    moves: tuple[Move, ...]
    generated: int
    """Parts of the trace that were generated before this window."""
    queue: Queue
    """Parts that were generated and have not started."""
    running: Running
    """Parts that have started and not ended."""
    core_free_ns: IntArray
    token_left: IntArray
    """Of every token, the parts that have not ended, and the end of the last that has."""
    token_end_ns: IntArray

    def is_done(self, setting: EventSetting) -> bool:
        """Whether nothing is left to do."""
        waits = len(self.queue.part) + len(self.running.part) + len(self.moves)
        return self.generated == len(setting.parts) and not waits

    def replicas(self, setting: EventSetting) -> dict[str, tuple[tuple[int, ...], int]]:
        """Of every expert with more than one core, these, and when they last changed, ns."""
        return {
            name: (tuple(core for core in self.expert_cores[number].tolist() if core >= 0), since)
            for name, number in setting.experts.items()
            if self.expert_cores.shape[1] > 1
            and self.expert_cores[number, 1] >= 0
            and (since := int(self.expert_since_ns[number])) >= 0
        }


@dataclass(frozen=True, eq=False)
class Queue:
    """Parts with the cores that they wait for, core by core in the order of service."""

    part: IntArray
    core: IntArray
    ready_ns: IntArray
    """From when a part may start."""

    @classmethod
    def ordered(cls, part: IntArray, core: IntArray, ready_ns: IntArray) -> Queue:
        """First come first served on every core; of equal times, first generated."""
        order = np.lexsort((part, ready_ns, core))
        return cls(part[order], core[order], ready_ns[order])


@dataclass(frozen=True, eq=False)
class Running:
    """Parts that have started, with their memory rows."""

    part: IntArray
    core: IntArray
    start_ns: IntArray
    end_ns: IntArray
    row: IntArray
    """Memory rows of the trace, all parts one after the other."""
    row_place: IntArray
    """Of every row the place of its part among `part`."""
    row_bank: IntArray

    def __getitem__(self, kept: IntArray) -> Running:
        """Some of the parts, by rising place."""
        place = np.full(len(self.part), -1, np.int64)
        place[kept] = np.arange(len(kept))
        rows = np.flatnonzero(place[self.row_place] >= 0)
        return Running(
            self.part[kept], self.core[kept], self.start_ns[kept], self.end_ns[kept],
            self.row[rows], place[self.row_place[rows]], self.row_bank[rows],
        )  # fmt: skip

    def joined(self, other: Running) -> Running:
        """These parts and then the others."""
        moved = replace(other, row_place=other.row_place + len(self.part))
        return Running(*(np.concatenate([getattr(part, name) for part in (self, moved)]) for name in _RUNNING))


_RUNNING = tuple(Running.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class EventSetting:
    """What stays the same during a run."""

    parts: LogicalParts
    chip: EventChip
    window_ns: int
    experts: Mapping[str, int]
    """The number of every expert and tensor, those of the trace first, then others of the placement."""
    tensors: Mapping[str, int]
    initial: EventState

    @classmethod
    def of(cls, parts: LogicalParts, chip: EventChip, window_ns: int, experts: Table, tensors: Table) -> EventSetting:
        """The setting of a run that begins with the placement `experts`, `tensors` (see `trace_tables`).

        KV caches that the placement does not list lie over the home cores of their sequences.  Raises PmcError for an
        expert or a tensor of the trace that it does not place, and for cores and banks that there are not.
        """
        expert_numbers, expert_cores = _expert_cores(parts, chip, experts)
        tensor_numbers, tensor_bank = _tensor_banks(parts, chip, tensors)
        none = np.zeros(0, np.int64)
        initial = EventState(
            0, NO_WINDOW_YET, expert_cores, np.zeros(len(expert_cores), np.int64), tensor_bank, (), 0,
            Queue(none, none, none), Running(*(none for _ in _RUNNING)), np.zeros(chip.cores, np.int64),
            parts.token_parts, parts.token_t_gen_ns,
        )  # fmt: skip
        return cls(parts, chip, window_ns, expert_numbers, tensor_numbers, initial)

    @cached_property
    def home(self) -> IntArray:
        """The home core of every part."""
        return self.parts.sequence % self.chip.cores

    @property
    def windows(self) -> int:
        """Windows until the last part is generated; what then waits needs more."""
        return int(self.parts.t_gen_ns[-1]) // self.window_ns + 1 if len(self.parts) else 0

    def start_ns(self, window: int) -> int:
        """When a window begins."""
        return window * self.window_ns


def _expert_cores(parts: LogicalParts, chip: EventChip, experts: Table) -> tuple[dict[str, int], IntArray]:
    placed = dict(zip(experts.texts("expert").tolist(), experts.lists("cores").int_lists(), strict=True))
    names = [*parts.experts, *(name for name in placed if name not in set(parts.experts))]
    missing = next((name for name in names if not placed.get(name)), None)
    if missing is not None:
        raise PmcError(f"expert {missing} has no core in the placement")
    found = np.full((len(names), max(map(len, placed.values()), default=1)), -1, np.int64)
    for number, name in enumerate(names):
        found[number, : len(placed[name])] = placed[name]
    if found.max(initial=0) >= chip.cores or found.min(initial=0) < -1:
        wrong = next(name for name in names if not all(0 <= core < chip.cores for core in placed[name]))
        raise PmcError(f"expert {wrong} is placed on a core outside of 0..{chip.cores - 1}: {placed[wrong]}")
    return {name: number for number, name in enumerate(names)}, found


def _tensor_banks(parts: LogicalParts, chip: EventChip, tensors: Table) -> tuple[dict[str, int], IntArray]:
    placed = dict(zip(tensors.texts("tensor_id").tolist(), tensors.texts("dram_bank").tolist(), strict=True))
    known = set(parts.tensors)
    names = [*parts.tensors, *(name for name in placed if name not in known)]
    banks = np.empty(len(names), np.int64)
    for number, name in enumerate(names):
        cache = CACHE.fullmatch(name)
        if name in placed:
            banks[number] = chip.arch.bank_number(placed[name])
        elif cache is not None:
            banks[number] = chip.cache_bank(int(cache["sequence"]))
        else:
            raise PmcError(f"tensor {name} has no bank in the placement")
    return {name: number for number, name in enumerate(names)}, banks
