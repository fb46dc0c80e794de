"""The DRAM of a chip: channels that all cores share, each first come first served.

Addresses are dealt out to the channels in granules of `dram_channels.interleave_bytes`.  A transfer asks for all its
bytes at once, and a channel serves its part at its share of the bandwidth, after what came before.  The published
start-up of a DMA command covers the latency of an open page; where the page is closed, a command takes
(command_latency - page_hit_latency) longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmc.backends.g5.clock import of_bytes, of_ns
from pmc.dialects.arch import Chip, Dram, DramChannels
from pmc.dialects.interfaces import IntArray


@dataclass(frozen=True)
class Blocks:
    """What the runs of one command ask of DRAM: strided blocks of elements."""

    element_bits: int
    """0 for a command that leaves DRAM alone."""
    start: IntArray
    """[n] addresses of the first elements in bytes."""
    shape: Sequence[IntArray]
    """[n] per dim."""
    strides: Sequence[IntArray]
    """[n] per dim, in elements."""


def misses(blocks: Blocks, core: IntArray, dram: DramChannels) -> IntArray:
    """1 for every block that does not begin in the page in which the one before it on its core ended.

    A page is as wide as all channels together; each command of a program has banks of its own, which stay open.
    """
    page = dram.page_bytes * dram.count
    steps = sum((size - 1) * step for size, step in zip(blocks.shape, blocks.strides, strict=True))
    last = blocks.start + steps * blocks.element_bits // 8
    missed = np.ones(len(core), np.int64)
    missed[1:] = (core[1:] != core[:-1]) | (blocks.start[1:] // page != last[:-1] // page)
    return missed


EVEN = 16
"""Granules per channel from which on a block is taken to ask as much of every channel."""


def shares(commands: Sequence[Blocks], dram: DramChannels) -> tuple[IntArray, IntArray]:
    """[distinct, channels] bytes that blocks ask of every channel, and [n] which of these each does; -1 for none.

    Granule j of stripe s lies in channel (j + s) mod n, so that rows of a matrix whose distance is a whole stripe do
    not all lie in one.  A block of more than `EVEN` granules per channel asks as much of every channel; blocks whose
    starts differ by n stripes are alike.
    """
    alike = dram.interleave_bytes * dram.count**2
    forms: dict[tuple[int, ...], int] = {}
    keys = [np.zeros(0, np.int64)]
    for blocks in commands:
        form = _forms(blocks, forms)
        few = _granules(blocks, dram.interleave_bytes) <= EVEN * dram.count
        keys.append(np.where(form < 0, -1, form * alike + blocks.start % alike * few))
    distinct, number = np.unique(np.concatenate(keys), return_inverse=True)
    none = int(np.searchsorted(distinct, 0))
    distinct = distinct[none:]
    found = np.zeros((len(distinct), dram.count), np.int64)
    form = distinct // alike
    for (bits, *dims), index in forms.items():
        rows = slice(*np.searchsorted(form, (index, index + 1)))
        half = len(dims) // 2
        found[rows] = _channel_bytes(distinct[rows] % alike, bits, dims[:half], dims[half:], dram)
    return found, number.reshape(-1) - none


def _forms(blocks: Blocks, known: dict[tuple[int, ...], int]) -> IntArray:
    """[n] the number of the form of each block, element size, shape and strides, which is added to the known ones."""
    if not blocks.element_bits:
        return np.full(len(blocks.start), -1)
    columns = [*blocks.shape, *blocks.strides]
    first, which = np.zeros(1, np.int64), np.zeros(len(blocks.start), np.int64)
    for column in columns:
        if len(column) and (column != column[0]).any():
            values, value = np.unique(column, return_inverse=True)
            _, first, which = np.unique(which * len(values) + value, return_index=True, return_inverse=True)
    if not len(which):
        return which
    forms = [(blocks.element_bits, *(int(column[index]) for column in columns)) for index in first]
    return np.asarray([known.setdefault(form, len(known)) for form in forms], np.int64)[which]


def _granules(blocks: Blocks, granule: int) -> IntArray:
    """At least how many granules a block touches: its bytes over the granule, or its rows where these are shorter."""
    bits = blocks.element_bits
    rows = size = np.ones(len(blocks.start), np.int64)
    for count, step in zip(blocks.shape, blocks.strides, strict=True):
        rows, size = rows * np.where(step * bits // 8 >= granule, count, 1), size * count
    return np.asarray(np.maximum(rows, size * bits // 8 // granule))


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
