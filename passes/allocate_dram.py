"""`allocate-dram`: where every array is in the DRAM of the chip.

    %w = tile.global() {kind = "weight", ..} ..   ->   %w = tile.global() {kind = "weight", .., address = 4096} ..

Weights, caches, inputs and the buffers of the network have memory of their own.  Activations and outputs share: two of
them may overlap when no kernel or collective runs between the first write of one and the last use of the other.
Pipeline stages run on ranks of their own: each has its arrays after those of the program, where the other stages have
theirs.  More than the capacity of the chip is an error that says by how much, and in which stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64

from pmc.dialects.analyses.dram_placement import Placement, place_by_lifetime, place_in_turn
from pmc.dialects.analyses.kernel_liveness import array_lifetimes
from pmc.dialects.analyses.liveness import Lifetime
from pmc.dialects.levels import Level
from pmc.dialects.tile import SHARED_KINDS, GlobalOp, ProgramOp, StageOp
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.target import chip_of


@dataclass(frozen=True)
class AllocateDramPass(PmcPass):
    """Give every `tile.global` an address."""

    name = "allocate-dram"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = ("cores", "alignment_bytes", "dram.capacity_gib")

    def run(self, module: ModuleOp) -> None:
        """Programs of one module share weights and caches no more than names: each has its own memory map."""
        chip = chip_of(module, self.name)
        for program in module.ops:
            if isinstance(program, ProgramOp):
                for place, need in _allocate_program(program, chip.alignment_bytes):
                    if need > chip.dram_bytes:
                        raise PassError(
                            f"{self.name}: {place} needs {need} bytes of DRAM, {chip.name} has "
                            f"{chip.dram_bytes}: {need - chip.dram_bytes} bytes too many"
                        )


def _allocate_program(program: ProgramOp, alignment: int) -> list[tuple[str, int]]:
    """Assign all addresses; what one rank needs in bytes, for the program or for each of its stages."""
    name = f"program '{program.sym_name.data}'"
    shared = _allocate(program, 0, alignment)
    stages = [op for op in program.body.block.ops if isinstance(op, StageOp)]
    if not stages:
        return [(name, shared)]
    return [(f"stage {op.index.value.data} of {name}", _allocate(op, shared, alignment)) for op in stages]


def _allocate(scope: ProgramOp | StageOp, base: int, alignment: int) -> int:
    """Assign the addresses of the arrays of a program or a stage from `base` on; the end of the last array."""
    arrays = [op for op in scope.body.block.ops if isinstance(op, GlobalOp)]
    lives = array_lifetimes(scope)
    staying = [op for op in arrays if op.kind.data not in SHARED_KINDS]
    sharing = [op for op in arrays if op.kind.data in SHARED_KINDS]
    stay = place_in_turn([op.memref.bytes for op in staying], base, alignment)
    lifetimes = [lives.get(op, NEVER) for op in sharing]
    share = place_by_lifetime([op.memref.bytes for op in sharing], lifetimes, stay.end, alignment)
    _write(staying, stay)
    _write(sharing, share)
    return share.end


NEVER = Lifetime(0, -1)
"""The lifetime of an array that nothing uses."""


def _write(arrays: list[GlobalOp], placement: Placement) -> None:
    for op, address in zip(arrays, placement.addresses, strict=True):
        op.address = IntegerAttr(address, i64)
