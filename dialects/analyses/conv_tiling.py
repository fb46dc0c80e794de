"""The tilings of a causal convolution: sequences and channels over the cores, tokens one tile after the other.

A plan has cores [sequences, channels] and tile [tokens, channels].  The weights of a tile of channels are loaded once;
for every sequence the core keeps the last inputs while the tokens pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, padded, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split, largest
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import CausalConvAttr, FillAttr

ORDER = "cbt"
"""The one loop order: channels, sequences, tokens."""

MIN_CHANNELS = 64
"""Channels are not cut into narrower pieces for more cores, however many are idle."""


@dataclass(frozen=True)
class Convolution:
    """`q_len` tokens of `sequences` sequences with `channels` channels each; bits of an element of every array."""

    sequences: int
    q_len: int
    channels: int
    kind: CausalConvAttr
    x_bits: int
    y_bits: int
    weight_bits: int
    bias_bits: int
    """0 where there is no bias."""
    dtype: str

    @property
    def taps(self) -> int:
        """How many inputs an output depends on."""
        return self.kind.taps.value.data

    @property
    def constant_bits(self) -> int:
        """Bits of the weights and the bias of a channel in DRAM."""
        return self.taps * self.weight_bits + self.bias_bits

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.taps} taps on {self.channels} channels, {self.sequences} x {self.q_len} tokens"


def convolution_of(op: layer.CausalConvOp, dims: Dims = ints) -> Convolution:
    """The convolution that an op is."""
    (rows, channels), sequences = dims(op.x), dims(op.state)[0]
    x, y, weight = (element_bits(tensor(v).element_type) for v in (op.x, op.y, op.weight))
    bias = 0 if op.bias is None else element_bits(tensor(op.bias).element_type)
    dtype = element_name(tensor(op.x).element_type)
    return Convolution(sequences, rows // sequences, channels, op.vector_kind(), x, y, weight, bias, dtype)


def splits_of(conv: Convolution, plan: PlanAttr) -> tuple[Split, Split, Split]:
    """How sequences, channels and tokens are cut."""
    (cores_b, cores_c), (tokens, channels) = plan.core_counts, plan.tile_sizes
    sequences = Split.over(conv.sequences, cores_b, 1)
    return sequences, Split.over(conv.channels, cores_c, channels, MIN_CHANNELS), Split.over(conv.q_len, 1, tokens)


def lmem_bytes(conv: Convolution, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM of the kernel: a buffer has a second slot where a loop around it runs more than once."""
    sequences, channels, tokens = splits_of(conv, plan)
    wide, many = plan.tile_sizes[1], channels.max_trips > 1

    def size(rows: int, bits: int, rotates: bool) -> int:
        slots = plan.buffer_slots if rotates else 1
        return slots * int(round_up(bytes_of(rows * wide, bits), chip.alignment_bytes))

    total = size(conv.taps, conv.weight_bits, many) + size(1, conv.bias_bits or conv.weight_bits, many)
    many = many or sequences.max_trips > 1
    total += size(conv.taps - 1, conv.x_bits, many)
    many = many or tokens.max_trips > 1
    return total + sum(size(tokens.tile, bits, many) for bits in (conv.x_bits, conv.y_bits))


def plan_fault(conv: Convolution, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 2), orders=(ORDER,))
    if fault is not None:
        return fault
    need = lmem_bytes(conv, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def plan_convolution(conv: Convolution, chip: Chip) -> PlanAttr:
    """Sequences over the cores, channels over those that are left; the widest tiles that fit, then the longest.

    Raises PmcError where not one token of one channel fits.
    """
    sequences = Split.over(conv.sequences, chip.cores, 1)
    channels = Split.over(conv.channels, max(1, chip.cores // sequences.parts), 1, MIN_CHANNELS)
    cores = [sequences.parts, channels.parts]

    def fits(tokens: int, wide: int) -> bool:
        return plan_fault(conv, PlanAttr.of(cores, [tokens, wide], ORDER), chip) is None

    own = min(channels.chunk, conv.channels)
    wide = largest(own, lambda wide: fits(1, wide))
    if wide == 0:
        smallest = plan_fault(conv, PlanAttr.of(cores, [1, 1], ORDER), chip)
        raise PmcError(f"no tile of a causal convolution fits: {smallest}")
    tokens = largest(conv.q_len, lambda tokens: fits(tokens, wide))
    # At least two tiles of tokens, so that transfers overlap with the work.
    trips = max(-(-conv.q_len // tokens), min(2, conv.q_len))
    return PlanAttr.of(cores, [-(-conv.q_len // trips), wide], ORDER)


def resources(conv: Convolution, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    sequences, channels, tokens = splits_of(conv, plan)
    own_b, own_c = min(sequences.chunk, conv.sequences), min(channels.chunk, conv.channels)
    columns = int(padded(own_c, channels.tile, chip.cube.m)) // chip.cube.m
    filled = 0 if conv.bias_bits else columns * int(command_steps(FillAttr, 1, 1, chip))
    steps = own_b * conv.q_len * columns * int(command_steps(conv.kind, 1, 1, chip)) + filled
    state_bits = (conv.taps - 1) * conv.x_bits
    moved = own_b * (2 * state_bits + conv.q_len * (conv.x_bits + conv.y_bits)) + conv.constant_bits
    in_dram = sequences.parts * conv.constant_bits + conv.sequences * (state_bits + conv.q_len * conv.x_bits)
    written = conv.sequences * (state_bits + conv.q_len * conv.y_bits)
    tiles = own_b * tokens.max_trips
    return Resources.nothing(1).plus(
        cores=np.array([sequences.parts * channels.parts]),
        vec_steps=np.array([steps]),
        vec_commands=np.array([channels.max_trips * tiles]),
        gdma_bytes=bytes_of(np.array([own_c * moved]), 1),
        gdma_commands=np.array([channels.max_trips * (1 + bool(conv.bias_bits) + 2 * own_b + 2 * tiles)]),
        dram_read=bytes_of(np.array([conv.channels * in_dram]), 1),
        dram_written=bytes_of(np.array([conv.channels * written]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and channels.max_trips * tiles > 1]),
        merge=Resources.nothing(1),
    )
