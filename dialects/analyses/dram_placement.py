"""Addresses in DRAM: arrays that stay have memory of their own, the others share what is left.

Two arrays may overlap when no step lies in both lifetimes.  Finding the smallest memory is NP-hard (Garey and Johnson
1979, dynamic storage allocation), so a few orders of first-fit are tried until one needs no more than what is alive at
once; the best one counts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pmc.dialects.analyses.liveness import Lifetime


@dataclass(frozen=True)
class Placement:
    """The address of every array, in the order in which they were given, and the end of the last one."""

    addresses: tuple[int, ...]
    end: int


def place_in_turn(sizes: Sequence[int], base: int, alignment: int) -> Placement:
    """Arrays that stay: one after the other, from `base` on."""
    addresses: list[int] = []
    end = base
    for size in sizes:
        addresses.append(round_up(end, alignment))
        end = addresses[-1] + size
    return Placement(tuple(addresses), end)


def place_by_lifetime(sizes: Sequence[int], lifetimes: Sequence[Lifetime], base: int, alignment: int) -> Placement:
    """Arrays that live for a while, from `base` on."""
    start = round_up(base, alignment)
    padded = [round_up(size, alignment) for size in sizes]
    least = start + most_alive(padded, lifetimes)
    best: Placement | None = None
    for order in _orders(padded, lifetimes):
        found = _first_fit(order, padded, sizes, lifetimes, start)
        if best is None or found.end < best.end:
            best = found
        if round_up(best.end, alignment) <= least:
            break
    return best if best is not None and best.addresses else Placement((), base)


def most_alive(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes that are alive at one step: no placement needs less."""
    change: dict[int, int] = {}
    for size, life in zip(sizes, lifetimes, strict=True):
        change[life.first] = change.get(life.first, 0) + size
        change[life.last + 1] = change.get(life.last + 1, 0) - size
    alive = most = 0
    for step in sorted(change):
        alive += change[step]
        most = max(most, alive)
    return most


def round_up(value: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-value // step) * step


def _orders(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> Iterator[list[int]]:
    """By first use; the longest living first; the largest first."""
    indices = range(len(sizes))
    yield sorted(indices, key=lambda i: lifetimes[i].first)
    yield sorted(indices, key=lambda i: (lifetimes[i].first - lifetimes[i].last, lifetimes[i].first))
    yield sorted(indices, key=lambda i: (-sizes[i], lifetimes[i].first))


def _first_fit(
    order: Sequence[int], padded: Sequence[int], sizes: Sequence[int], lifetimes: Sequence[Lifetime], start: int
) -> Placement:
    """Each array, in this order, at the lowest address that no array of a lifetime it meets has."""
    addresses: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # (begin, end, first step, last step)
    for index in order:
        (first, last), size, address = lifetimes[index], padded[index], start
        for begin, end, other_first, other_last in placed:
            if other_first > last or first > other_last:
                continue
            if address + size <= begin:
                break
            address = max(address, end)
        addresses[index] = address
        insort(placed, (address, address + size, first, last))
    end = max((at + sizes[i] for i, at in addresses.items()), default=start)
    return Placement(tuple(addresses[i] for i in range(len(sizes))), end)
