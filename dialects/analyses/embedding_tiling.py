"""The tilings of an embedding look-up: rows of a table gathered by token id.

A plan has cores [tokens, columns] and tile [tokens, columns]; core c is (tokens, columns) = c in row-major order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import i32

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, padded, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr

MIN_COLUMNS = 64
"""Rows are not cut into narrower pieces, however many cores are idle."""


@dataclass(frozen=True)
class Lookup:
    """`tokens` rows of `width` columns; bits of an id, of an element of the table, and of one of the result."""

    tokens: int
    width: int
    id_bits: int
    stored_bits: int
    out_bits: int
    converts: bool
    stored_dtype: str
    """What sets the rate of a conversion; f32 for a table of experts, whose integers are only moved."""

    @property
    def column_bits(self) -> int:
        """Bits of a column of a row in LMEM: as gathered, and as converted."""
        return self.stored_bits + (self.out_bits if self.converts else 0)


def lookup_of(op: layer.EmbeddingOp, dims: Dims = ints) -> Lookup:
    """The look-up that an op is."""
    tokens, width = dims(op.y)
    table, ids, y = (tensor(v).element_type for v in (op.table, op.tokens, op.y))
    id_bits, stored_bits, out_bits = (element_bits(t) for t in (ids, table, y))
    stored = "f32" if table == y == i32 else element_name(table)
    return Lookup(tokens, width, id_bits, stored_bits, out_bits, table != y, stored)


def parts_of(lookup: Lookup, plan: PlanAttr) -> tuple[Split, Split]:
    """How tokens and columns are cut."""
    (cores_t, cores_n), (tile_t, tile_n) = plan.core_counts, plan.tile_sizes
    return Split.over(lookup.tokens, cores_t, tile_t), Split.over(lookup.width, cores_n, tile_n, MIN_COLUMNS)


def plan_lookup(lookup: Lookup, chip: Chip) -> PlanAttr:
    """Tokens over the cores, columns over those that are left.  Raises PmcError where not one element fits."""
    parts = Split.over(lookup.tokens, chip.cores, 1)
    columns = Split.over(lookup.width, max(1, chip.cores // parts.parts), 1, MIN_COLUMNS)
    # Two slots of a row of ids and of the rows, each padded to the alignment.
    most = (chip.lmem_tile_budget_bytes - 6 * chip.alignment_bytes) * 8 // 2
    if most < lookup.column_bits + lookup.id_bits:
        raise PmcError(
            f"the smallest tile (one element) needs {(lookup.column_bits + lookup.id_bits) // 4} bytes of LMEM, "
            f"the budget of a core is {chip.lmem_tile_budget_bytes}"
        )
    tile_columns = min(min(columns.chunk, lookup.width), (most - lookup.id_bits) // lookup.column_bits)
    tile_tokens = min(parts.chunk, most // (tile_columns * lookup.column_bits + lookup.id_bits))
    return PlanAttr.of([parts.parts, columns.parts], [tile_tokens, tile_columns], "tn")


def plan_fault(lookup: Lookup, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 2), orders=("tn",))
    if fault is not None:
        return fault
    tokens, columns = plan.tile_sizes
    sizes = [tokens * lookup.id_bits, tokens * columns * lookup.stored_bits]
    sizes += [tokens * columns * lookup.out_bits] * lookup.converts
    need = plan.buffer_slots * int(sum(round_up(bytes_of(bits, 1), chip.alignment_bytes) for bits in sizes))
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def resources(lookup: Lookup, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    tokens, columns = parts_of(lookup, plan)
    own_t, own_n = min(tokens.chunk, lookup.tokens), min(columns.chunk, lookup.width)
    trips_t, trips = tokens.max_trips, tokens.max_trips * columns.max_trips
    row_bits, all_rows = lookup.stored_bits + lookup.out_bits, lookup.tokens * lookup.width
    read_bits = all_rows * lookup.stored_bits + columns.parts * lookup.tokens * lookup.id_bits
    steps = own_t * int(padded(own_n, columns.tile, chip.cube.m)) if lookup.converts else 0
    return Resources.nothing(1).plus(
        cores=np.array([tokens.parts * columns.parts]),
        vec_steps=np.array([steps]),
        vec_commands=np.array([trips * lookup.converts]),
        gdma_bytes=bytes_of(np.array([own_t * (lookup.id_bits + own_n * row_bits)]), 1),
        gdma_commands=np.array([trips_t + 2 * trips]),
        dram_read=bytes_of(np.array([read_bits]), 1),
        dram_written=bytes_of(np.array([all_rows * lookup.out_bits]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and trips > 1]),
        merge=Resources.nothing(1),
    )
