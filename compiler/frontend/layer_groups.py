"""Layers in the order of a model, as repeats: equal ones that follow each other, and groups of them that recur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


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
    """The fewest runs that say `order`, with at most one group that recurs; of equally few, with the shortest group.

    A group recurs in one place: before it and behind it are runs (dense first layers, layers that are left over).
    """
    best: list[Run | Period] = [*runs(order)]
    for length in range(2, len(order) // 2 + 1):
        start = 0
        while start + 2 * length <= len(order):
            # As many periods from here on as there are.
            end = start + length
            while end < len(order) and order[end] == order[end - length]:
                end += 1
            count = (end - start) // length
            group = runs(order[start : start + length])
            if count > 1 and len(group) > 1:
                before, behind = runs(order[:start]), runs(order[start + count * length :])
                if len(before) + len(group) + len(behind) < _size(best):
                    best = [*before, Period(tuple(group), count), *behind]
            start += 1
    return best


def runs(order: Sequence[str]) -> list[Run]:
    """Equal layers that follow each other."""
    return [Run(kind, len(list(layers))) for kind, layers in groupby(order)]


def _size(groups: Sequence[Run | Period]) -> int:
    return sum(len(group.runs) if isinstance(group, Period) else 1 for group in groups)
