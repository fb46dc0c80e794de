"""Layers in the order of a model, as repeats: equal ones that follow each other, groups of them that recur, and kinds
that take turns in no order of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise


@dataclass(frozen=True)
class Run:
    """`count` layers of one kind, one after the other."""

    kind: str
    count: int


@dataclass(frozen=True)
class Period:
    """Runs of several kinds that recur `count` times, as five local layers and a global one."""

    runs: tuple[Run, ...]
    count: int


@dataclass(frozen=True)
class Turns:
    """Layers of several kinds: in each turn of each kind, in this order, so many as `shares` has for it."""

    kinds: tuple[str, ...]
    shares: tuple[tuple[int, ...], ...]
    """Of each kind the number of layers in every turn, which may be none."""

    @property
    def count(self) -> int:
        """How many turns there are."""
        return len(self.shares[0])


Group = Run | Period | Turns


def layer_groups(order: Sequence[str]) -> list[Group]:
    """The fewest bodies that say `order`: groups where they recur, else all kinds in turns, one body for each."""
    groups = recurring(order)
    bodies = sum(1 if isinstance(group, Run) else len(group.runs) for group in groups)
    return [*groups] if bodies == len(set(order)) else [turns(order)]


def turns(order: Sequence[str]) -> Turns:
    """Every kind once, in the order in which they first come; a turn ends where an earlier kind follows."""
    kinds = list(dict.fromkeys(order))
    found: list[dict[str, int]] = []
    last = len(kinds)
    for run in runs(order):
        place = kinds.index(run.kind)
        if place <= last:
            found.append({})
        found[-1][run.kind] = run.count
        last = place
    return Turns(tuple(kinds), tuple(tuple(turn.get(kind, 0) for turn in found) for kind in kinds))


def in_order(groups: Sequence[Group]) -> list[str]:
    """The kind of every layer."""
    found: list[str] = []
    for group in groups:
        match group:
            case Run():
                found += [group.kind] * group.count
            case Period():
                found += in_order(group.runs) * group.count
            case Turns():
                for turn in zip(*group.shares, strict=True):
                    found += (kind for kind, count in zip(group.kinds, turn, strict=True) for _ in range(count))
    return found


def recurring(order: Sequence[str]) -> list[Run | Period]:
    """The fewest runs that say `order`; of equally few, the fewest repeats.

    Groups are of runs, not of groups.  Found from left to right: the best way to say the layers up to each one is that
    up to an earlier one, and a run or a group behind it.
    """
    changes = list(accumulate((a != b for a, b in pairwise(order)), initial=0))
    equal = {length: _matches(order, length) for length in range(2, len(order) // 2 + 1)}
    best: list[tuple[int, int, list[Run | Period]]] = [(0, 0, [])]
    for end in range(1, len(order) + 1):
        found: list[tuple[int, int, int, int]] = []
        for start in range(end):
            size, repeats, _ = best[start]
            if changes[start] == changes[end - 1]:
                found.append((size + 1, repeats + 1, start, 0))
            for length in range(2, (end - start) // 2 + 1):
                kinds = 1 + changes[start + length - 1] - changes[start]
                if (end - start) % length == 0 and kinds > 1 and equal[length][end - 1] >= end - start - length:
                    found.append((size + kinds, repeats + 1, start, length))
        size, repeats, start, length = min(found)
        group = order[start : start + length] if length else order[start:end]
        last = Period(tuple(runs(group)), (end - start) // length) if length else runs(group)[0]
        best.append((size, repeats, [*best[start][2], last]))
    return best[-1][2]


def _matches(order: Sequence[str], length: int) -> list[int]:
    """Of every layer, how many up to it are of the kind that stands `length` before them."""
    found: list[int] = []
    for i, kind in enumerate(order):
        found.append(found[-1] + 1 if i >= length and order[i - length] == kind else 0)
    return found


def runs(order: Sequence[str]) -> list[Run]:
    """Equal layers that follow each other."""
    return [Run(kind, len(list(layers))) for kind, layers in groupby(order)]
