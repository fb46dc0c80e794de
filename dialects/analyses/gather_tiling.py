"""The tilings of a gather of cached rows: tokens over the cores, the rows of a token over those that are left.

A core loads the positions of a tile of rows, SDMA gathers the rows into LMEM, GDMA stores them behind each other.  In
the bandwidth domain `dram` the gathered rows are DRAM traffic of the chip too; in `on_chip` they come from what the
cores hold, and only the SDMA engines bound them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, i64

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.block_kinds import BlockRowsAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import ExprAttr
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr

ORDER = "tj"
"""The one loop order: tokens, rows of a token."""

MIN_ROWS = 64
"""The rows of a token are not cut into fewer, however many cores are idle."""


@dataclass(frozen=True)
class Gather:
    """`rows` rows of `width` elements for every one of `tokens` tokens."""

    tokens: int
    rows: int
    width: int
    bits: int
    index_bits: int
    dtype: str
    reads_dram: bool
    kind: BlockRowsAttr | None = None
    """What makes rows of an index, where it is one for a block of rows; a token is then a key head of one."""

    @property
    def block(self) -> int:
        """The rows of an index."""
        return 1 if self.kind is None else self.kind.block.value.data

    @property
    def text(self) -> str:
        """In words."""
        tokens = "tokens" if self.kind is None else "key heads of tokens"
        return f"{self.rows} rows of {self.width} for each of {self.tokens} {tokens}"


def gather_of(op: layer.GatherRowsOp, dims: Dims = ints) -> Gather:
    """The gather that an op is."""
    element, index = tensor(op.y).element_type, tensor(op.indices).element_type
    tokens, rows, width = dims(op.y)
    heads, kind = 1, None
    if op.block is not None:
        heads, last = dims(op.indices)[1], ExprAttr.of(dims(op.cache)[1] - 1)
        kind = BlockRowsAttr(op.block, IntegerAttr(heads, i64), last, ExprAttr.of(0))
    return Gather(
        tokens * heads, rows, width // heads, element_bits(element), element_bits(index), element_name(element),
        op.reads_dram, kind,
    )  # fmt: skip


def parts_of(gather: Gather, plan: PlanAttr) -> tuple[Split, Split]:
    """How tokens and rows are cut."""
    (cores_t, cores_j), (tile,) = plan.core_counts, plan.tile_sizes
    granule = _granule(gather, cores_j)
    return Split.over(gather.tokens, cores_t, 1), Split.over(gather.rows, cores_j, tile, granule)


def _granule(gather: Gather, cores: int) -> int:
    """What the rows of a token are cut into between cores: whole blocks, and not too few rows."""
    return int(round_up(MIN_ROWS, gather.block)) if cores > 1 else gather.block


def plan_fault(gather: Gather, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 1), orders=(ORDER,))
    if fault is not None:
        return fault
    if plan.tile_sizes[0] % gather.block:
        return f"a tile has {plan.tile_sizes[0]} rows, must be whole blocks of {gather.block}"
    need = lmem_bytes(gather, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def lmem_bytes(gather: Gather, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM of the kernel: a tile of positions and one of rows, with a slot for the next where there is one."""
    tokens, rows = parts_of(gather, plan)
    slots = plan.buffer_slots if max(tokens.max_trips, rows.max_trips) > 1 else 1
    bits = [rows.tile * gather.index_bits, rows.tile * gather.width * gather.bits]
    if gather.kind is not None:
        bits.append(rows.tile // gather.block * gather.index_bits)
    return slots * int(sum(round_up(bytes_of(b, 1), chip.alignment_bytes) for b in bits))


def plan_gather(gather: Gather, chip: Chip) -> PlanAttr:
    """Tokens over the cores, rows over those that are left.  Raises PmcError where not one row fits."""
    tokens = Split.over(gather.tokens, chip.cores, 1)
    left = max(1, chip.cores // tokens.parts)
    rows = Split.over(gather.rows, left, 1, _granule(gather, left))
    most = (chip.lmem_tile_budget_bytes // 2 - (2 if gather.kind is None else 3) * chip.alignment_bytes) * 8
    of_block = gather.block * (gather.width * gather.bits + gather.index_bits)
    if gather.kind is not None:
        of_block += gather.index_bits
    count = most // of_block
    if count < 1:
        smallest = PlanAttr.of([tokens.parts, rows.parts], [gather.block], ORDER)
        raise PmcError(f"no tile of a gather fits: {plan_fault(gather, smallest, chip) or 'not twice'}")
    own = min(rows.chunk, gather.rows) // gather.block
    trips = -(-own // count)
    return PlanAttr.of([tokens.parts, rows.parts], [-(-own // trips) * gather.block], ORDER)


def resources(gather: Gather, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    g, (tokens, rows) = gather, parts_of(gather, plan)
    own = min(tokens.chunk, g.tokens) * min(rows.chunk, g.rows)
    trips, row_bits = min(tokens.chunk, g.tokens) * rows.max_trips, g.width * g.bits
    total = g.tokens * g.rows
    steps = 0 if g.kind is None else own // g.block * int(command_steps(g.kind, 1, 1, chip))
    return Resources.nothing(1).plus(
        cores=np.array([tokens.parts * rows.parts]),
        vec_steps=np.array([steps]),
        vec_commands=np.array([0 if g.kind is None else trips]),
        gdma_bytes=bytes_of(np.array([own // g.block * g.index_bits + own * row_bits]), 1),
        gdma_commands=np.array([2 * trips]),
        sdma_bytes=bytes_of(np.array([own * row_bits]), 1),
        sdma_commands=np.array([trips]),
        dram_read=bytes_of(np.array([total // g.block * g.index_bits + (total * row_bits if g.reads_dram else 0)]), 1),
        dram_written=bytes_of(np.array([total * row_bits]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and trips > 1]),
        merge=Resources.nothing(1),
    )
