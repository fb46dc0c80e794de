"""When the arrays of a program matter: from the first to the last step that uses them.

A step is an op that runs by itself: a kernel, a collective, or the tensor op that becomes one.  Repeats run the same
steps again, so that an array is needed beyond its own steps where a value crosses an iteration or leaves the repeat.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

ArrayT = TypeVar("ArrayT", bound=Hashable)


class Lifetime(NamedTuple):
    """The steps from `first` to `last`."""

    first: int
    last: int


class _Use(NamedTuple):
    """An access to an array at a step, and the repeats around it, innermost first."""

    step: int
    reads: bool
    repeats: Sequence[Hashable]


@dataclass
class Timeline(Generic[ArrayT]):
    """The steps of a program in the order of its text, and which arrays each of them reads and writes."""

    steps: int = 0
    uses: dict[ArrayT, list[_Use]] = field(default_factory=dict[ArrayT, list[_Use]])
    spans: dict[Hashable, Lifetime] = field(default_factory=dict[Hashable, Lifetime])
    """The steps of every repeat."""

    def add(
        self,
        reads: Iterable[ArrayT],
        writes: Iterable[ArrayT],
        repeats: Sequence[Hashable],
        scratch: Iterable[ArrayT] = (),
    ) -> None:
        """Append a step; `repeats` are those around it, innermost first; `scratch` is used by it alone."""
        step = self.steps
        self.steps += 1
        for repeat in repeats:
            self.spans[repeat] = Lifetime(self.spans.get(repeat, Lifetime(step, step)).first, step)
        for arrays, is_read in ((reads, True), (writes, False)):
            for array in arrays:
                self.uses.setdefault(array, []).append(_Use(step, is_read, repeats))
        for array in scratch:
            self.uses.setdefault(array, []).append(_Use(step, False, ()))

    def lifetimes(self) -> dict[ArrayT, Lifetime]:
        """The lifetime of every array that a step uses."""
        return {array: self._lifetime(uses) for array, uses in self.uses.items()}

    def _lifetime(self, uses: Sequence[_Use]) -> Lifetime:
        """From the first to the last use; a value that crosses iterations or leaves a repeat lives all through it."""
        first, last = uses[0].step, uses[-1].step
        for repeat in dict.fromkeys(r for use in uses for r in use.repeats):
            inside = [use for use in uses if repeat in use.repeats]
            read_first = any(use.reads for use in inside if use.step == inside[0].step)
            if len(inside) < len(uses) or read_first:
                first, last = min(first, self.spans[repeat].first), max(last, self.spans[repeat].last)
        return Lifetime(first, last)
