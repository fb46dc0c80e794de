"""The work that waits for a window, by core and expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.dialects.analyses.event_state import EventSetting, Queue


@dataclass(frozen=True)
class Amount:
    """Some work of an expert."""

    busy_ns: float
    """Time of a core at its fastest clock."""
    size_bytes: float
    """What it reads."""


class PendingWork:
    """What a queue holds for the window that begins at `start_ns`."""

    def __init__(self, setting: EventSetting, queue: Queue, start_ns: int) -> None:
        parts, chip = setting.parts, setting.chip
        busy_ns = parts.flops[queue.part] / (chip.flops_per_cycle * chip.arch.domain.steps_ghz[0])
        self.load: Floats = np.bincount(queue.core, busy_ns, chip.cores) / setting.window_ns
        """[cores] all that waits, in windows."""
        new = np.flatnonzero(parts.t_gen_ns[queue.part] >= start_ns)
        self.flow: Floats = np.bincount(queue.core[new], busy_ns[new], chip.cores) / setting.window_ns
        """[cores] what the window generates, in windows."""
        expert = parts.expert[queue.part]
        of_experts = np.flatnonzero(expert >= 0)
        part = queue.part[of_experts]
        self._core, self._expert, self._busy_ns = queue.core[of_experts], expert[of_experts], busy_ns[of_experts]
        self._mb = parts.mb[part]
        self._fresh = parts.t_gen_ns[part] >= start_ns
        row, place = parts.rows_of(part)
        self._bytes = np.bincount(place, parts.row_bytes[row], len(part))
        self._stacks: dict[tuple[int, int], tuple[tuple[int, ...], Floats, Floats]] = {}

    def busiest(self, core: int) -> int | None:
        """The expert with most work on a core, the first of equal ones; None where none waits for it."""
        here = np.flatnonzero(self._core == core)
        return int(np.argmax(np.bincount(self._expert[here], self._busy_ns[here]))) if len(here) else None

    def last(self, core: int, expert: int, wanted_ns: float) -> tuple[tuple[int, ...], Amount]:
        """The last micro-batches that wait for an expert on a core: so many, but at least one, as come next to the work
        that is wanted; and their work.
        """
        mbs, busy_ns, size = self._stacked(core, expert)
        count = int(np.argmin(np.abs(busy_ns - wanted_ns)))
        return mbs[len(mbs) - count - 1 :], Amount(float(busy_ns[count]), float(size[count]))

    def fresh(self, core: int, expert: int) -> Amount:
        """The work of an expert on a core that the window itself generates."""
        here = self._at(core, expert)
        places = here[self._fresh[here]]
        return Amount(float(self._busy_ns[places].sum()), float(self._bytes[places].sum()))

    def _stacked(self, core: int, expert: int) -> tuple[tuple[int, ...], Floats, Floats]:
        """The micro-batches of an expert on a core, and time and bytes of the last one, of the last two, and so on."""
        if (core, expert) not in self._stacks:
            here = self._at(core, expert)
            mbs, place = np.unique(self._mb[here], return_inverse=True)
            sums = (np.bincount(place.reshape(-1), values[here]) for values in (self._busy_ns, self._bytes))
            busy_ns, size = (np.cumsum(amounts[::-1], dtype=np.float64) for amounts in sums)
            self._stacks[core, expert] = tuple(mbs.tolist()), busy_ns, size
        return self._stacks[core, expert]

    def _at(self, core: int, expert: int) -> Ints:
        return np.flatnonzero((self._core == core) & (self._expert == expert))
