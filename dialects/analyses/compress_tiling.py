"""The tilings of `layer.compress`: entries of all sequences and their columns over the cores, an entry at a time.

A plan has cores [entries, columns] and tile [columns].  A core takes its columns in tiles; of every tile it loads the
bias once, and then the tokens of one entry after the other.  The tokens of an entry are one block, so LMEM bounds how
many columns a tile has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects import layer
from pmc.dialects.analyses.resources import ACCUMULATOR_BITS, Resources, bytes_of, padded, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split, largest
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import element_bits, ints, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import FillAttr, PoolFinishAttr, PoolStepAttr

ORDER = "ce"
"""The one loop order: columns, entries."""

MIN_COLUMNS = 64
"""Columns are not cut into narrower pieces for more cores, however many are idle."""

STATE_ROWS = 3
"""Rows of the running softmax of a column: the largest score, the sum, the pooled tokens."""

DTYPE = "f32"
"""The type of the arithmetic, which sets the rate."""


@dataclass(frozen=True)
class Compression:
    """`closing` entries of each of `sequences` sequences, from number `first_entry` on, with `columns` columns each."""

    sequences: int
    closing: int
    first_entry: int
    columns: int
    ratio: int
    series: int
    token_bits: int
    bias_bits: int
    out_bits: int

    @property
    def entries(self) -> int:
        """Those of all sequences."""
        return self.sequences * self.closing

    def blocks(self, start: int, end: int) -> int:
        """The blocks of `ratio` tokens that the entries `start` .. `end` of all are pooled from."""
        if self.series == 1 or self.first_entry:
            return self.series * (end - start)
        # The first entry of a sequence has no tokens before its own.
        firsts = -(-end // self.closing) - -(-start // self.closing)
        return self.series * (end - start) - firsts

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.entries} entries of {self.series * self.ratio} tokens and {self.columns} columns"


def compression_of(op: layer.CompressOp, dims: Dims = ints, first_entry: int | None = None) -> Compression:
    """What an op pools; `first_entry` where the symbols of the op are not bound."""
    sequences, entries = dims(op.kv)[0], dims(op.y)[0]
    first = op.first_entry.constant if first_entry is None else first_entry
    bits = (element_bits(tensor(v).element_type) for v in (op.kv, op.bias, op.y))
    return Compression(sequences, entries // sequences, first, op.columns, op.ratio.value.data, op.series, *bits)


def splits_of(work: Compression, plan: PlanAttr) -> tuple[Split, Split]:
    """How entries and columns are cut."""
    (cores_e, cores_c), (columns,) = plan.core_counts, plan.tile_sizes
    return Split.over(work.entries, cores_e, 1), Split.over(work.columns, cores_c, columns, MIN_COLUMNS)


def lmem_bytes(work: Compression, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM of the kernel: a buffer has a second slot where a loop around it runs more than once."""
    entries, columns = splits_of(work, plan)
    wide = plan.tile_sizes[0]

    def size(rows: int, bits: int, rotates: bool) -> int:
        slots = plan.buffer_slots if rotates else 1
        return slots * int(round_up(bytes_of(rows * wide, bits), chip.alignment_bytes))

    many = columns.max_trips > 1
    total = work.series * size(work.ratio, work.bias_bits, many) + STATE_ROWS * size(1, ACCUMULATOR_BITS, False)
    many = many or entries.max_trips > 1
    # The block before may be missing: its loop is there where an entry may be the first of a sequence.
    earlier = work.series - 1
    before = many or (work.first_entry == 0 and entries.parts > 1)
    total += 2 * size(work.ratio, work.token_bits, many) + 2 * earlier * size(work.ratio, work.token_bits, before)
    return total + size(1, work.out_bits, many)


def plan_fault(work: Compression, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 1), orders=(ORDER,))
    if fault is not None:
        return fault
    need = lmem_bytes(work, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def plan_compression(work: Compression, chip: Chip) -> PlanAttr:
    """Entries over the cores, columns over those that are left; the widest tiles that fit.

    Raises PmcError where not one column fits.
    """
    entries = Split.over(work.entries, chip.cores, 1)
    columns = Split.over(work.columns, max(1, chip.cores // entries.parts), 1, MIN_COLUMNS)
    cores = [entries.parts, columns.parts]

    def fits(wide: int) -> bool:
        return plan_fault(work, PlanAttr.of(cores, [wide], ORDER), chip) is None

    wide = largest(min(columns.chunk, work.columns), fits)
    if wide == 0:
        smallest = plan_fault(work, PlanAttr.of(cores, [1], ORDER), chip)
        raise PmcError(f"no tile of a compression fits: {smallest}")
    return PlanAttr.of(cores, [wide], ORDER)


def resources(work: Compression, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    entries, columns = splits_of(work, plan)
    own_e, own_c = min(entries.chunk, work.entries), min(columns.chunk, work.columns)
    starts = range(0, work.entries, entries.chunk)
    blocks = max(work.blocks(start, min(start + entries.chunk, work.entries)) for start in starts)
    lanes = int(padded(own_c, columns.tile, chip.cube.m)) // chip.cube.m

    def steps(kind: type[PoolStepAttr | PoolFinishAttr | FillAttr], rows: int) -> int:
        return lanes * int(command_steps(kind, rows, 1, chip))

    pooled, ends = blocks * work.ratio, own_e * (STATE_ROWS * steps(FillAttr, 1) + steps(PoolFinishAttr, 1))
    bias = work.series * work.ratio * work.bias_bits
    moved = bias + 2 * pooled * work.token_bits + own_e * work.out_bits
    read = entries.parts * bias + 2 * work.blocks(0, work.entries) * work.ratio * work.token_bits
    trips = columns.max_trips
    return Resources.nothing(1).plus(
        cores=np.array([entries.parts * columns.parts]),
        vec_steps=np.array([steps(PoolStepAttr, pooled) + ends]),
        vec_commands=np.array([trips * (blocks + (STATE_ROWS + 1) * own_e)]),
        gdma_bytes=bytes_of(np.array([own_c * moved]), 1),
        gdma_commands=np.array([trips * (work.series + 2 * blocks + own_e)]),
        dram_read=bytes_of(np.array([work.columns * read]), 1),
        dram_written=bytes_of(np.array([work.columns * work.entries]), work.out_bits),
        overlaps=np.array([plan.buffer_slots == 2 and trips * own_e > 1]),
        merge=Resources.nothing(1),
    )
