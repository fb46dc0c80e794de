"""The tilings of a recurrence: sequences, groups and heads of a group over the cores, tokens one after the other.

A plan has cores [sequences, groups, heads of a group] and tile [tokens, groups, heads of a group].  A core keeps the
state of the heads of a tile in LMEM while the tokens of a sequence pass, so the state is read and written once.  A tile
is several groups with all their heads, or some heads of one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from xdsl.ir import SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split, largest
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.recurrence_kinds import RecurrenceStepAttr
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr

ORDER = "grbt"
"""The one loop order: groups, heads of a group, sequences, tokens."""

MIN_TOKENS = 16
"""A tile of more heads is not worth it where fewer tokens fit with it."""


@dataclass(frozen=True)
class Recurrence:
    """`q_len` tokens of `sequences` sequences on the states of `groups` x `group_heads` heads; counts are in bits."""

    sequences: int
    q_len: int
    groups: int
    group_heads: int
    step: RecurrenceStepAttr
    input_bits: int
    """Of what a head reads of a token."""
    output_bits: int
    """Of what it writes of a token."""
    group_bits: tuple[int, ...]
    """Of what a group reads of a token, array by array."""
    number_bits: tuple[int, ...]
    """Of the numbers of a token and head, array by array."""
    constant_bits: tuple[int, ...]
    """Of the numbers of a head, array by array."""
    state_bits: int
    """Of the state of a head."""
    state_dtype: str

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"{self.groups * self.group_heads} heads with a state of {self.state_bits // 8} bytes, "
            f"{self.sequences} x {self.q_len} tokens"
        )


def recurrence_of(op: layer.RecurrenceOp, dims: Dims = ints) -> Recurrence:
    """The recurrence that an op is."""
    (rows, _), (sequences, state_rows, state_columns) = dims(op.inputs), dims(op.updated[0])

    def bits(*values: SSAValue) -> tuple[int, ...]:
        return tuple(element_bits(tensor(v).element_type) for v in values)

    of_input, of_output, of_state = bits(op.inputs, op.results[0], op.updated[0])
    return Recurrence(
        sequences,
        rows // sequences,
        op.groups,
        op.heads // op.groups,
        op.step(1),
        op.value_dim * of_input,
        op.value_dim * of_output,
        tuple(op.key_dim * b for b in bits(*op.group_inputs)),
        tuple(columns * b for columns, b in zip(op.number_columns, bits(*op.numbers), strict=True)),
        bits(*op.constants),
        state_rows // op.heads * state_columns * of_state,
        element_name(tensor(op.updated[0]).element_type),
    )


@dataclass(frozen=True)
class Splits:
    """How sequences, groups, the heads of a group and tokens are cut."""

    sequences: Split
    groups: Split
    heads: Split
    tokens: Split

    @classmethod
    def of(cls, r: Recurrence, plan: PlanAttr) -> Splits:
        """Those of a plan."""
        (cores_b, cores_g, cores_r), (tokens, groups, heads) = plan.core_counts, plan.tile_sizes
        return cls(
            Split.over(r.sequences, cores_b, 1),
            Split.over(r.groups, cores_g, groups),
            Split.over(r.group_heads, cores_r, heads),
            Split.over(r.q_len, 1, tokens),
        )

    @property
    def parts(self) -> tuple[int, int, int]:
        """The grid of cores that have work."""
        return self.sequences.parts, self.groups.parts, self.heads.parts

    @property
    def head_tiles(self) -> int:
        """Tiles of heads of a group on all cores together."""
        cores = range(self.heads.parts)
        return sum(-(-min(self.heads.chunk, self.heads.total - c * self.heads.chunk) // self.heads.tile) for c in cores)


def lmem_bytes(r: Recurrence, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM of the kernel: a buffer has a second slot where a loop around it runs more than once."""
    s, (tokens, groups, of_group) = Splits.of(r, plan), plan.tile_sizes
    heads = groups * of_group

    def size(bits: int, rotates: bool) -> int:
        return (plan.buffer_slots if rotates else 1) * int(round_up(bytes_of(bits, 1), chip.alignment_bytes))

    many = s.groups.max_trips > 1 or s.heads.max_trips > 1
    total = sum(size(heads * bits, many) for bits in r.constant_bits)
    many = many or s.sequences.max_trips > 1
    total += size(heads * r.state_bits, many)
    many = many or s.tokens.max_trips > 1
    of_heads = [heads * bits for bits in (r.input_bits, r.output_bits, *r.number_bits)]
    of_groups = [groups * bits for bits in r.group_bits]
    return total + sum(size(tokens * bits, many) for bits in (*of_heads, *of_groups))


def plan_fault(r: Recurrence, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(3, 3), orders=(ORDER,))
    if fault is not None:
        return fault
    _, groups, heads = plan.tile_sizes
    if groups > 1 and (heads != r.group_heads or Splits.of(r, plan).heads.parts > 1):
        return f"a tile of {groups} groups must have all {r.group_heads} heads of each"
    need = lmem_bytes(r, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def plan_recurrence(r: Recurrence, chip: Chip) -> PlanAttr:
    """The grid on which the busiest core has the fewest heads, then as many heads at a time as fit with some tokens.

    Raises PmcError where not one token of one head fits.
    """
    grid = min(_grids(r, chip.cores))[1]

    def fits(tokens: int, groups: int, heads: int) -> bool:
        return plan_fault(r, PlanAttr.of(grid, [tokens, groups, heads], ORDER), chip) is None

    if not fits(1, 1, 1):
        smallest = plan_fault(r, PlanAttr.of(grid, [1, 1, 1], ORDER), chip)
        raise PmcError(f"no tile of a recurrence fits: {smallest}")
    own, least = Split.over(r.group_heads, grid[2], 1).chunk, min(MIN_TOKENS, r.q_len)
    heads = _even(own, largest(own, lambda heads: fits(least, 1, heads)))
    groups = 1
    if heads == r.group_heads:
        own_groups = Split.over(r.groups, grid[1], 1).chunk
        groups = _even(own_groups, largest(own_groups, lambda groups: fits(least, groups, heads)))
    tokens = largest(r.q_len, lambda tokens: fits(tokens, groups, heads))
    # At least two tiles of tokens, so that transfers overlap with the work.
    trips = max(-(-r.q_len // tokens), min(2, r.q_len))
    return PlanAttr.of(grid, [-(-r.q_len // trips), groups, heads], ORDER)


def _even(total: int, most: int) -> int:
    """The size of the fewest equal parts of `total` that have at most `most`, or 1 each."""
    return -(-total // -(-total // max(1, most)))


def _grids(r: Recurrence, cores: int) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Grids of cores, the best first when sorted; of equal ones those that read the inputs of a group least often."""
    for b in _counts(r.sequences, cores):
        for g in _counts(r.groups, cores // b):
            heads = Split.over(r.group_heads, cores // (b * g), 1)
            busiest = -(-r.sequences // b) * -(-r.groups // g) * heads.chunk
            yield (busiest, heads.parts, g), (b, g, heads.parts)


def _counts(total: int, most: int) -> list[int]:
    """The numbers of cores among which `total` can be split so that every one has something."""
    return sorted({Split.over(total, count, 1).parts for count in range(1, min(total, most) + 1)})


def resources(r: Recurrence, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    s = Splits.of(r, plan)
    own_b, own_g, own_r = (min(split.chunk, split.total) for split in (s.sequences, s.groups, s.heads))
    tiles, head_tiles = s.heads.max_trips, s.groups.max_trips * s.heads.max_trips
    blocks = own_b * head_tiles
    per_token = r.input_bits + r.output_bits + sum(r.number_bits)
    constants, inputs = own_g * own_r * sum(r.constant_bits), tiles * r.q_len * sum(r.group_bits)
    moved = own_b * own_g * (own_r * (2 * r.state_bits + r.q_len * per_token) + inputs)
    commands = 2 + len(r.group_bits) + len(r.number_bits)
    heads = r.groups * r.group_heads
    read = r.sequences * heads * (r.state_bits + r.q_len * (r.input_bits + sum(r.number_bits)))
    read += r.sequences * r.groups * s.head_tiles * r.q_len * sum(r.group_bits)
    read += s.sequences.parts * heads * sum(r.constant_bits)
    steps = own_b * own_g * own_r * r.q_len * int(command_steps(r.step, 1, 1, chip))
    return Resources.nothing(1).plus(
        cores=np.array([s.sequences.parts * s.groups.parts * s.heads.parts]),
        vec_steps=np.array([steps]),
        vec_commands=np.array([blocks * s.tokens.max_trips]),
        gdma_bytes=bytes_of(np.array([moved + constants]), 1),
        gdma_commands=np.array([head_tiles * len(r.constant_bits) + blocks * (2 + s.tokens.max_trips * commands)]),
        dram_read=bytes_of(np.array([read]), 1),
        dram_written=bytes_of(np.array([r.sequences * heads * (r.state_bits + r.q_len * r.output_bits)]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and blocks * s.tokens.max_trips > 1]),
        merge=Resources.nothing(1),
    )
