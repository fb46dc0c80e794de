"""The tilings of a selection among scores: rows over the cores, each scanned in tiles of keys.

A core keeps, for a tile of rows, the positions and scores of the best keys so far, and looks at every score once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, NoneAttr, i64

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, padded, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import ExprAttr
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import TopkSelectAttr

ORDER = "rs"
"""The one loop order: rows, keys."""

KEY_BITS = 32
"""A position is an i32."""


@dataclass(frozen=True)
class Selection:
    """`kept` of `keys` scores of every one of `rows` rows."""

    rows: int
    keys: int
    kept: int
    score_bits: int
    score_dtype: str

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.kept} of {self.keys} keys for each of {self.rows} queries"


def selection_of(op: layer.TopkSelectOp, dims: Dims = ints) -> Selection:
    """The selection that an op is."""
    (*rows, keys), kept = dims(op.scores), dims(op.y)[-1]
    element = tensor(op.scores).element_type
    return Selection(prod(rows), keys, kept, element_bits(element), element_name(element))


def lmem_bytes(selection: Selection, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM of the kernel: scores and positions have a slot for the next tile, kept scores stay where they are."""
    (rows, keys), step, slots = plan.tile_sizes, chip.alignment_bytes, plan.buffer_slots
    split = Split.over(selection.rows, plan.core_counts[0], rows)
    many_rows = split.max_trips > 1
    many = many_rows or Split.over(selection.keys, 1, keys).max_trips > 1

    def size(columns: int, bits: int) -> int:
        return int(round_up(bytes_of(rows * columns, bits), step))

    scores = (slots if many else 1) * size(keys, selection.score_bits)
    positions = (slots if many_rows else 1) * size(selection.kept, KEY_BITS)
    return scores + positions + size(selection.kept, selection.score_bits)


def plan_fault(selection: Selection, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(1, 2), orders=(ORDER,))
    if fault is not None:
        return fault
    need = lmem_bytes(selection, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def plan_selection(selection: Selection, chip: Chip) -> PlanAttr:
    """Rows over the cores, one at a time, in the longest tiles of keys that fit.  Raises PmcError where none does."""
    cores = Split.over(selection.rows, chip.cores, 1).parts

    def plan(keys: int) -> PlanAttr:
        return PlanAttr.of([cores], [1, keys], ORDER)

    fits, too_many = 0, selection.keys + 1
    while fits + 1 < too_many:
        middle = (fits + too_many) // 2
        if plan_fault(selection, plan(middle), chip) is None:
            fits = middle
        else:
            too_many = middle
    if fits == 0:
        raise PmcError(f"no tile of a selection fits: {plan_fault(selection, plan(1), chip)}")
    tiles = -(-selection.keys // fits)
    return plan(-(-selection.keys // tiles))


def resources(selection: Selection, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    s, (tile_rows, tile_keys) = selection, plan.tile_sizes
    split = Split.over(s.rows, plan.core_counts[0], tile_rows)
    own, tiles = min(split.chunk, s.rows), Split.over(s.keys, 1, tile_keys).max_trips
    kind = TopkSelectAttr(IntegerAttr(s.kept, i64), ExprAttr.of(0), ExprAttr.of(0), NoneAttr())
    columns = int(padded(s.keys, tile_keys, chip.cube.m)) // chip.cube.m
    steps = own * columns * int(command_steps(kind, 1, 1, chip))
    read, written = s.keys * s.score_bits, s.kept * KEY_BITS
    return Resources.nothing(1).plus(
        cores=np.array([split.parts]),
        vec_steps=np.array([steps]),
        vec_commands=np.array([split.max_trips * tiles]),
        gdma_bytes=bytes_of(np.array([own * (read + written)]), 1),
        gdma_commands=np.array([split.max_trips * (tiles + 1)]),
        dram_read=bytes_of(np.array([s.rows * read]), 1),
        dram_written=bytes_of(np.array([s.rows * written]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and split.max_trips * tiles > 1]),
        merge=Resources.nothing(1),
    )
