"""`pipeline-loops`: the second half of a loop body runs one iteration later, so that units need not take turns.

In attention the matrix unit waits for the softmax of its scores, and the vector unit for the next scores:

    tile.for s < <16> at ".." {
      %kv = tile.alloc() {slots = 2} ..            tile.load(%cache, %kv) {..}
      %scores = tile.alloc() {slots = 1} ..        tile.mma(%scores, %q, %kv) {..}
      %p = tile.alloc() {slots = 1} ..             tile.vector([%scores], [%p], [..]) {..}
      tile.mma(%acc, %p, %kv) {..}
    }

becomes a loop that multiplies the next scores before it goes on with those of the iteration before:

    tile.for s < <16> at ".." {
      %kv = tile.alloc() {slots = 3, extra = 1} ..      tile.load(%cache, %kv) {..}
      %scores = tile.alloc() {slots = 2, extra = 1} ..  tile.mma(%scores, %q, %kv) {..}
      %p = tile.alloc() {slots = 1} ..
      tile.for s_late < <min(s, 1)> at ".." {
        %before = tile.previous(%scores) ..             tile.vector([%before], [%p], [..]) {..}
        %kv_before = tile.previous(%kv) ..              tile.mma(%acc, %p, %kv_before) {..}
      }
      tile.for s_last < <min(max(s - 14, 0), 1)> at ".." { tile.vector(..)  tile.mma(..) }
    }

The second half begins with the first vector command that stands between two matrix commands: it reads what one wrote
and writes what the other reads.  Buffers that both halves use get a slot more, which may lie in what the tile budget
leaves free of the LMEM.  A loop stays as it is where its body does something else than load and compute, where the
halves share a buffer from outside that one of them writes, and where the slots do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Region, SSAValue

from pmc.dialects.analyses.split import round_up
from pmc.dialects.arch import Chip
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import expr, max_of, min_of
from pmc.dialects.levels import Level
from pmc.dialects.tile import (
    AllocOp,
    CommandOp,
    ForOp,
    GatherOp,
    GatherRowsOp,
    KernelOp,
    LoadOp,
    MmaOp,
    PreviousOp,
    VectorOp,
    buffer_type,
)
from pmc.passes.base import PmcPass
from pmc.passes.tiling.substitution import substitute
from pmc.passes.tiling.target import chip_of


@dataclass(frozen=True)
class PipelineLoopsPass(PmcPass):
    """Run the second half of loop bodies one iteration later."""

    name = "pipeline-loops"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = ("cores", "alignment_bytes", "command_level.lmem.bytes_per_core")

    enabled: bool = True
    """Without it, the pass leaves the module alone."""

    def run(self, module: ModuleOp) -> None:
        """Go through the innermost loops of all kernels."""
        if not self.enabled:
            return
        chip = chip_of(module, self.name)
        for kernel in [op for op in module.walk() if isinstance(op, KernelOp)]:
            for loop in [op for op in kernel.walk() if isinstance(op, ForOp)]:
                halves = _halves(loop)
                if halves is not None:
                    _pipeline(kernel, loop, halves, chip)


@dataclass(frozen=True)
class _Halves:
    """The commands of a body that stay, those that run an iteration later, and the buffers that both use."""

    first: Sequence[CommandOp]
    second: Sequence[CommandOp]
    shared: Sequence[AllocOp]


def _halves(loop: ForOp) -> _Halves | None:
    """Where the body is divided; None where it cannot be, or nothing would be gained."""
    ops = list(loop.body.block.ops)
    if not all(isinstance(op, AllocOp | LoadOp | GatherOp | GatherRowsOp | MmaOp | VectorOp) for op in ops):
        return None
    commands = [op for op in ops if isinstance(op, CommandOp)]
    start = next((index for index in range(len(commands)) if _stands_between(commands, index)), None)
    if start is None:
        return None
    first, second = commands[:start], commands[start:]
    if any(isinstance(op, LoadOp | GatherOp | GatherRowsOp) for op in second):
        return None
    own = {op.result for op in ops if isinstance(op, AllocOp)}
    reads, writes = _buffers(first, CommandOp.reads), _buffers(first, CommandOp.writes)
    reads_later, writes_later = _buffers(second, CommandOp.reads), _buffers(second, CommandOp.writes)
    if (writes & (reads_later | writes_later) | reads & writes_later) - own:
        return None
    shared = (reads | writes) & (reads_later | writes_later)
    return _Halves(first, second, [op for op in ops if isinstance(op, AllocOp) and op.result in shared])


def _stands_between(commands: Sequence[CommandOp], index: int) -> bool:
    """Whether a vector command reads what a matrix command has written, and writes what another will read."""
    op = commands[index]
    if not isinstance(op, VectorOp):
        return False
    before = {value for other in commands[:index] if isinstance(other, MmaOp) for value in other.writes()}
    after = {value for other in commands[index:] if isinstance(other, MmaOp) for value in other.reads()}
    return not before.isdisjoint(op.reads()) and not after.isdisjoint(op.writes())


def _buffers(commands: Sequence[CommandOp], used: Callable[[CommandOp], Sequence[SSAValue]]) -> set[SSAValue]:
    return {value for op in commands for value in used(op)}


def _pipeline(kernel: KernelOp, loop: ForOp, halves: _Halves, chip: Chip) -> None:
    """Give shared buffers their slot, and write the second half twice: late, and behind the last iteration."""
    step, more = chip.alignment_bytes, sum(buffer_type(op.result).bytes for op in halves.shared)
    taken = sum(round_up(len(op.byte_range), step) for op in kernel.walk() if isinstance(op, AllocOp))
    if taken + more + step * len(halves.shared) > chip.commands.lmem.bytes_per_core:
        return
    for allocation in halves.shared:
        allocation.slots = IntegerAttr(allocation.slots.value.data + 1, i64)
        allocation.extra = IntegerAttr(allocation.extra_slots + 1, i64)
    symbol, count, path = loop.symbol.data, loop.count.data, loop.path.data
    late, last = Block(), Block()
    before: dict[SSAValue, SSAValue] = {}
    for allocation in halves.shared:
        previous = PreviousOp.make([allocation.result], [allocation.result.type], path, like=allocation)
        late.add_op(previous)
        before[allocation.result] = previous.result
    for op in halves.second:
        copy = op.clone(value_mapper={value: before.get(value, value) for value in op.operands})
        substitute(copy, {symbol: expr(symbol) - 1})
        late.add_op(copy)
        loop.body.block.detach_op(op)
        last.add_op(op)
    in_last = min_of(max_of(expr(symbol) - count + 2, 0), 1)
    for suffix, times, block in (("late", min_of(expr(symbol), 1), late), ("last", in_last, last)):
        properties: dict[str, PropertyValue] = {"symbol": f"{symbol}_{suffix}", "count": times}
        loop.body.block.add_op(ForOp.make([], [], path, properties, [Region(block)], like=loop))
