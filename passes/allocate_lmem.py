"""`allocate-lmem`: where every buffer of a kernel is in the LMEM of its core.

    %a = tile.alloc() {slots = 2} ..   ->   %a = tile.alloc() {slots = 2, address = 131072} ..

Buffers follow each other, aligned as the chip asks; the slots of one buffer follow each other without gaps.  A matrix
command loses cycles when its result starts in the bank of an operand, so a buffer that would is moved to the next
bank as long as everything still fits.  A kernel that needs more than the tile budget of a core is an error; slots that
are `extra` may lie in the rest of the LMEM.  Buffers outside of kernels have their addresses from `prefetch-weights`;
kernels stay below those that are in use while they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Operation, SSAValue

from pmc.dialects.analyses.split import round_up
from pmc.dialects.arch import Chip
from pmc.dialects.levels import Level
from pmc.dialects.tile import AllocOp, KernelOp, MmaOp, allocation_of, buffer_type, handed_over
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.target import chip_of


@dataclass(frozen=True)
class AllocateLmemPass(PmcPass):
    """Give every `tile.alloc` an address."""

    name = "allocate-lmem"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = (
        "cores", "alignment_bytes", "command_level.lmem.bytes_per_core", "command_level.lmem.banks_per_lane",
        "command_level.lmem.tile_budget_fraction",
    )  # fmt: skip

    def run(self, module: ModuleOp) -> None:
        """Allocate kernel by kernel: all that stays in LMEM between kernels has its address already."""
        chip = chip_of(module, self.name)
        for op in module.walk():
            if isinstance(op, KernelOp):
                _allocate(op, chip, _free_bytes(op, chip))


def lmem_bank(address: int, chip: Chip) -> int:
    """The bank of a byte of a core: a buffer is spread over all lanes, so banks are equal parts of the LMEM."""
    lmem = chip.commands.lmem
    return address * lmem.banks_per_lane // lmem.bytes_per_core


def _free_bytes(kernel: KernelOp, chip: Chip) -> int:
    """Where the LMEM of a kernel ends: below the buffers that are handed over while it runs."""
    starts = [chip.commands.lmem.bytes_per_core]
    inside: Operation | None = kernel
    while inside is not None and inside.parent is not None:
        block = inside.parent
        live = handed_over(block)
        here = block.get_operation_index(inside) if live else 0
        starts += [op.byte_range.start for op, (first, last) in live.items() if first <= here <= last]
        inside = inside.parent_op()
    return min(starts)


def _allocate(kernel: KernelOp, chip: Chip, free: int) -> None:
    step, budget = chip.alignment_bytes, chip.lmem_tile_budget_bytes
    allocs = [op for op in kernel.walk() if isinstance(op, AllocOp)]
    sizes = [round_up(_bytes(op), step) for op in allocs]
    planned = sum(round_up(_bytes(op, op.extra_slots), step) for op in allocs)
    where = f"allocate-lmem: the kernel of {kernel.op_name.data} at '{kernel.path.data}'"
    if planned > budget:
        raise PassError(f"{where} needs {planned} bytes of LMEM, the budget of a core is {budget}")
    if sum(sizes) > free:
        raise PassError(
            f"{where} needs {sum(sizes)} bytes of LMEM with its extra slots, a core has {free} beside what is "
            "handed over"
        )
    budget = free if any(op.extra_slots for op in allocs) else min(budget, free)
    partners = _partners(kernel)
    banks: dict[SSAValue, int] = {}
    address, remaining = 0, sum(sizes)
    bank_bytes = chip.commands.lmem.bytes_per_core // chip.commands.lmem.banks_per_lane
    for op, size in zip(allocs, sizes, strict=True):
        avoid = {banks[v] for v in partners.get(op.result, ()) if v in banks}
        moved = address
        while lmem_bank(moved, chip) in avoid:
            moved = round_up(moved + 1, round_up(bank_bytes, step))
        if moved + remaining <= budget:
            address = moved
        op.address = IntegerAttr(address, i64)
        banks[op.result] = lmem_bank(address, chip)
        address += size
        remaining -= size


def _bytes(op: AllocOp, without: int = 0) -> int:
    return (op.slots.value.data - without) * buffer_type(op.result).bytes


def _partners(kernel: KernelOp) -> Mapping[SSAValue, set[SSAValue]]:
    """For every buffer those that should start in another bank: results of matrix commands against their operands."""
    partners: dict[SSAValue, set[SSAValue]] = {}
    for op in kernel.walk():
        if isinstance(op, MmaOp):
            acc = allocation_of(op.acc)
            for operand in map(allocation_of, (op.a, op.b)):
                partners.setdefault(acc, set()).add(operand)
                partners.setdefault(operand, set()).add(acc)
    return partners
