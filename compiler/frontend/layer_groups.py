"""Layers in the order of a model, as repeats: equal ones that follow each other, and groups of them that recur."""

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


def layer_groups(order: Sequence[str]) -> list[Run | Period]:
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
