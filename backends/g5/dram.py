"""The DRAM of a chip: channels that all cores share, each first come first served.

Addresses are dealt out to the channels in granules of `dram_channels.interleave_bytes`.  A transfer asks for all its
bytes at once, and a channel serves its part at its share of the bandwidth, after what came before.  The published
start-up of a DMA command covers the latency of an open page; where the page is closed, a command takes
(command_latency - page_hit_latency) longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.backends.g5.clock import of_bytes, of_ns
from pmc.dialects.arch import Chip, Dram, DramChannels
from pmc.dialects.g5 import GDMA_RANK
from pmc.dialects.interfaces import IntArray

RANK = GDMA_RANK
BLOCK = 2 + 2 * RANK
"""Columns of a block: bits of an element, address of the first one in bytes, shape, and strides in elements."""

Parts = Sequence[IntArray]


def blocks(start: IntArray, shape: Parts, strides: Parts, element_bits: int) -> IntArray:
    """[n, BLOCK] strided blocks: an array of n per dim and stride, filled up to `RANK` dims from the outside."""
    missing = RANK - len(shape)
    one, none = np.ones_like(start), np.zeros_like(start)
    columns = [one * element_bits, start, *[one] * missing, *shape, *[none] * missing, *strides]
    return np.stack(columns, axis=1)


def misses(block: IntArray, core: IntArray, dram: DramChannels) -> IntArray:
    """1 for every block of one command that does not begin in the page in which the one before it on its core ended.

    A page is as wide as all channels together; each command of a program has banks of its own, which stay open.
    """
    page = dram.page_bytes * dram.count
    bits, start = block[:, 0], block[:, 1]
    shape, strides = block[:, 2 : 2 + RANK], block[:, 2 + RANK :]
    last = start + ((shape - 1) * strides).sum(axis=1) * bits // 8
    missed = np.ones(len(block), np.int64)
    missed[1:] = (core[1:] != core[:-1]) | (start[1:] // page != last[:-1] // page)
    return missed


EVEN = 16
"""Granules per channel from which on a block is taken to ask as much of every channel."""


def shares(block: IntArray, dram: DramChannels) -> tuple[IntArray, IntArray]:
    """[distinct, channels] bytes that blocks ask of every channel, and [n] which of these each does; -1 for none.

    Granule j of stripe s lies in channel (j + s) mod n, so that rows of a matrix whose distance is a whole stripe do
    not all lie in one.  A block of more than `EVEN` granules per channel asks as much of every channel; blocks whose
    starts differ by n stripes are alike.
    """
    alike = block.copy()
    alike[:, 1] %= dram.interleave_bytes * dram.count**2
    alike[_granules(alike, dram.interleave_bytes) > EVEN * dram.count, 1] = 0
    distinct, number = np.unique(alike, axis=0, return_inverse=True)
    found = np.zeros((len(distinct), dram.count), np.int64)
    forms, form = np.unique(np.delete(distinct, 1, axis=1), axis=0, return_inverse=True)
    for index, (bits, *rest) in enumerate(forms.tolist()):
        if bits:
            rows = np.flatnonzero(form.reshape(-1) == index)
            found[rows] = _channel_bytes(distinct[rows, 1], bits, rest[:RANK], rest[RANK:], dram)
    return found, np.where(block[:, 0] == 0, -1, number.reshape(-1))


def _granules(block: IntArray, granule: int) -> IntArray:
    """At least how many granules a block touches: its bytes over the granule, or its rows where these are shorter."""
    bits, shape, strides = block[:, 0], block[:, 2 : 2 + RANK], block[:, 2 + RANK :]
    rows = np.prod(np.where(strides * bits[:, None] // 8 >= granule, shape, 1), axis=1)
    return np.asarray(np.maximum(rows, np.prod(shape, axis=1) * bits // 8 // granule))


def _channel_bytes(
    start: IntArray, bits: int, shape: Sequence[int], strides: Sequence[int], dram: DramChannels
) -> IntArray:
    """[n, channels] bytes of blocks of one form, which begin at `start` [n]."""
    granule, width, dims = dram.interleave_bytes, 1, list(zip(shape, strides, strict=True))
    while dims and (dims[-1][0] == 1 or dims[-1][1] == width):
        width *= dims.pop()[0]
    size = -(-width * bits // 8)
    rows = np.zeros(1, np.int64)
    for count, step in dims:
        rows = (rows[:, None] + np.arange(count) * step * bits // 8).reshape(-1)
    if len(rows) * size > EVEN * dram.count * granule or len(rows) > EVEN * dram.count:
        even = -(-len(rows) * size // dram.count)
        return np.full((len(start), dram.count), even, np.int64)
    begin = (start[:, None] + rows).reshape(-1)
    found = np.zeros(len(start) * dram.count, np.int64)
    first = begin // granule
    owner = np.repeat(np.arange(len(start)) * dram.count, len(rows))
    for step in range(size // granule + 2):
        number = first + step
        piece = np.minimum(begin + size, (number + 1) * granule) - np.maximum(begin, number * granule)
        channel = (number + number // dram.count) % dram.count
        found += np.bincount(owner + channel, np.maximum(piece, 0), len(found)).astype(np.int64)
    return found.reshape(len(start), dram.count)


def service_ps(shares: IntArray, chip: Chip) -> IntArray:
    """Picoseconds that every channel needs for its part of a transfer."""
    return of_bytes(shares, chip.dram_bytes_per_s / chip.commands.dram_channels.count)


def page_miss_ps(dram: Dram) -> int:
    """What a command takes longer that finds its page closed."""
    assert dram.command_latency_ns is not None and dram.page_hit_latency_ns is not None
    return max(0, of_ns(dram.command_latency_ns) - of_ns(dram.page_hit_latency_ns))
