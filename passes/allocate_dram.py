"""`allocate-dram`: where every array is in the DRAM of the chip.

    %w = tile.global() {kind = "weight", ..} ..   ->   %w = tile.global() {kind = "weight", .., address = 4096} ..

Weights, caches, inputs and outputs have memory of their own.  Activations share: two of them may overlap when no
kernel or collective runs between the first write of one and the last use of the other.  Pipeline stages run on ranks of
their own: each has its arrays after those of the program, where the other stages have theirs.  More than the capacity
of the chip is an error that says by how much, and in which stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Operation, SSAValue

from pmc.dialects.levels import Level
from pmc.dialects.tile import CollectiveOp, CommandOp, GlobalOp, KernelOp, ProgramOp, RepeatOp, StageOp, ViewOp
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.split import round_up
from pmc.passes.tiling.target import chip_of


@dataclass(frozen=True)
class AllocateDramPass(PmcPass):
    """Give every `tile.global` an address."""

    name = "allocate-dram"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = ("alignment_bytes", "dram.capacity_gib")

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


def _allocate_program(program: ProgramOp, step: int) -> list[tuple[str, int]]:
    """Assign all addresses; what one rank needs in bytes, for the program or for each of its stages."""
    lives = _lifetimes(program)
    name = f"program '{program.sym_name.data}'"
    shared = _allocate(_arrays(program.body.block), lives, 0, step)
    stages = [op for op in program.body.block.ops if isinstance(op, StageOp)]
    if not stages:
        return [(name, shared)]
    base = round_up(shared, step)
    return [
        (f"stage {stage.index.value.data} of {name}", _allocate(_arrays(stage.body.block), lives, base, step))
        for stage in stages
    ]


def _arrays(block: Block) -> list[GlobalOp]:
    return [op for op in block.ops if isinstance(op, GlobalOp)]


def _allocate(arrays: Sequence[GlobalOp], lives: Mapping[GlobalOp, tuple[int, int]], address: int, step: int) -> int:
    """Assign the addresses from `address` on and return the end of the last array."""
    for op in arrays:
        if op.kind.data != "activation":
            op.address = IntegerAttr(address, i64)
            address = round_up(address + op.memref.bytes, step)
    top = address
    placed: list[tuple[int, int, int]] = []  # (address, end, last use) of the activations that may still be live
    for op in sorted((a for a in arrays if a in lives), key=lambda a: lives[a][0]):
        first, last = lives[op]
        placed = [p for p in placed if p[2] >= first]
        size = op.memref.bytes
        start = address
        for begin, end, _ in sorted(placed):
            if start + size <= begin:
                break
            start = max(start, round_up(end, step))
        op.address = IntegerAttr(start, i64)
        placed.append((start, start + size, last))
        top = max(top, start + size)
    return top


@dataclass(frozen=True)
class _Use:
    """An access to an array: when, whether it reads, and the repeats around it, innermost first."""

    step: int
    reads: bool
    repeats: tuple[RepeatOp, ...]


def _lifetimes(program: ProgramOp) -> dict[GlobalOp, tuple[int, int]]:
    """First and last step at which each activation matters; steps are kernels and collectives in program order."""
    base: dict[SSAValue, GlobalOp] = {}
    uses: dict[GlobalOp, list[_Use]] = {}
    spans: dict[RepeatOp, tuple[int, int]] = {}
    step = -1
    for op in program.walk():
        match op:
            case GlobalOp():
                base[op.result] = op
                if op.kind.data == "activation":
                    uses[op] = []
            case ViewOp():
                base[op.result] = base[op.source]
            case KernelOp() | CollectiveOp():
                step += 1
                repeats = tuple(_repeats_around(op))
                for repeat in repeats:
                    spans[repeat] = (spans.get(repeat, (step, step))[0], step)
                for value, reads in _accesses(op):
                    array = base.get(value)
                    if array is not None and array in uses:
                        uses[array].append(_Use(step, reads, repeats))
            case _:
                pass
    return {array: _lifetime(found, spans) for array, found in uses.items()}


def _repeats_around(op: Operation) -> Iterable[RepeatOp]:
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, RepeatOp):
            yield parent
        parent = parent.parent_op()


def _accesses(op: Operation) -> Iterable[tuple[SSAValue, bool]]:
    """The arrays that the commands of an op use, and whether they read them."""
    for command in op.walk():
        if isinstance(command, CommandOp):
            accesses = [a for a in command.accesses() if a.memory == "dram"]
            yield from ((a.value, True) for a in accesses if a.may_read)
            yield from ((a.value, False) for a in accesses if a.writes)


def _lifetime(uses: Sequence[_Use], spans: Mapping[RepeatOp, tuple[int, int]]) -> tuple[int, int]:
    """From the first to the last use; a value that crosses iterations or leaves a repeat lives all through it."""
    if not uses:
        return (0, -1)
    first, last = uses[0].step, uses[-1].step
    for repeat in dict.fromkeys(r for use in uses for r in use.repeats):
        inside = [use for use in uses if repeat in use.repeats]
        read_first = any(use.reads for use in inside if use.step == inside[0].step)
        if len(inside) < len(uses) or read_first:
            first, last = min(first, spans[repeat][0]), max(last, spans[repeat][1])
    return first, last
