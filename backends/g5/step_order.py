"""Where in a step its parts run: the order of kernels and movements, layers of a repeat one after the other.

A repeat is a body and how often it runs, so finding a place takes as long for many layers as for few.  A place says
which work is done, not how long it took: it is the same at any clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmc.dialects.interfaces import FloatArray, IntArray


@dataclass(frozen=True)
class Stretch:
    """Parts, and stretches inside, that run in this order `times` times."""

    times: int
    items: tuple[int | Stretch, ...]
    """Numbers of parts."""
    round_runs: IntArray
    """[parts] runs of each part in one of the times."""

    @classmethod
    def of(cls, times: int, items: Sequence[int | Stretch], parts: int) -> Stretch:
        """A stretch of a step with so many parts."""
        runs = np.zeros(parts, np.int64)
        for item in items:
            runs += runs_of(item, parts)
        return cls(times, tuple(items), runs)


def runs_of(item: int | Stretch, parts: int) -> IntArray:
    """[parts] how often each part runs in all times of an item."""
    if isinstance(item, Stretch):
        return item.times * item.round_runs
    one = np.zeros(parts, np.int64)
    one[item] = 1
    return one


@dataclass(frozen=True)
class Place:
    """A point inside of a step."""

    done: IntArray
    """[parts] whole runs of each part before it."""
    part: int
    """The part that runs."""
    share: float
    """How much of this run is done, from 0 to below 1."""

    @property
    def runs(self) -> FloatArray:
        """[parts] runs of each part before it, the present one by its share."""
        found = self.done.astype(np.float64)
        found[self.part] += self.share
        return found

    def time_ps(self, durations_ps: IntArray) -> int:
        """From the start of the step, where a run of each part takes so long."""
        return int(self.done @ durations_ps) + round(self.share * int(durations_ps[self.part]))


@dataclass(frozen=True)
class StepOrder:
    """The order of the parts of a step."""

    step: Stretch
    """Runs once."""

    @property
    def begin(self) -> Place:
        """The start of the step."""
        return Place(np.zeros_like(self.runs), self._first(self.step), 0.0)

    @property
    def runs(self) -> IntArray:
        """[parts] runs of each part in a step."""
        return self.step.round_runs

    def place(self, durations_ps: IntArray, time_ps: int) -> Place:
        """Where a step is after some time, where a run of each part takes so long; the time is less than the step's."""
        done = np.zeros_like(self.runs)
        stretch = self.step
        while True:
            rounds, time_ps = divmod(time_ps, int(stretch.round_runs @ durations_ps))
            done += rounds * stretch.round_runs
            for item in stretch.items:
                runs = runs_of(item, len(done))
                length = int(runs @ durations_ps)
                if time_ps < length:
                    break
                time_ps -= length
                done += runs
            else:
                raise AssertionError("the time lies in one of the items")
            if isinstance(item, int):
                return Place(done, item, time_ps / length)
            stretch = item

    def after(self, place: Place, durations_ps: IntArray, length_ps: int) -> tuple[Place, FloatArray]:
        """Where steps that follow each other are some time later, and [parts] the runs of each part until then."""
        steps, rest = divmod(place.time_ps(durations_ps) + length_ps, int(self.runs @ durations_ps))
        then = self.place(durations_ps, rest)
        return then, steps * self.runs + then.runs - place.runs

    def _first(self, stretch: Stretch) -> int:
        item = stretch.items[0]
        return item if isinstance(item, int) else self._first(item)
