"""The `tile` dialect: what the cores of one chip do, as loops over tiles with explicit buffers.

A `tile.kernel` is one tensor op spread over cores: every core runs the body with its own value of the symbol `core`.
Loops are named; offsets, sizes and trip counts are expressions of `core`, the enclosing loop names and the name of
an enclosing `tile.repeat`.  Memory is explicit: a `tile.global` lives in DRAM, a `tile.alloc` in the LMEM of the core.

    tile.kernel 64 cores at "blocks.moe.mla.q_a_proj" {
      tile.for n < <3> at ".." {
        %c = tile.alloc() {slots = 2} at ".." : !tile.buffer<[64, 8], f32>
        tile.for k < <14> at ".." {
          %a = tile.alloc() {slots = 2} at ".." : !tile.buffer<[64, 512], f8E4M3FN>
          tile.load(%x, %a) {offsets = [<0>, <k*512>], sizes = [<64>, <512>]} at ".."
          ..
          tile.mma(%c, %a, %b) {m = <64>, n = <8>, k = <512>, accumulate = <k>, transpose_b = false} at ".."

A loop named `k` also defines `k.seq`, how often its body has run before in this kernel on this core, over all runs of
the loop.  A buffer with `slots` > 1 rotates: the allocation in the body of loop `k` means slot `k.seq mod slots`, so
that loads of one iteration may run while the previous iteration computes.  `tile.previous` is the slot of the iteration
before, for the part of a body that `pipeline-loops` runs one iteration later.

A `tile.alloc` outside of kernels outlives them: one kernel loads it for a later one (`prefetch-weights`), which has it
in its first iteration by `tile.handed_over`.  No kernel from the one to the other has buffers in its bytes.  In
front of a repeat, a kernel loads it for the first run of the body; in the body one kernel reads it and a later one
loads it for the next run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, IntegerAttr, StringAttr, UnitAttr
from xdsl.ir import Block, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, NoTerminator
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.accesses import ALWAYS, NEVER, TileAccess
from pmc.dialects.assembly import PmcOp, parse_text
from pmc.dialects.collective import AlgorithmAttr, CollectiveAttr, Exchange, ExchangeInterface
from pmc.dialects.dist import ShardingAttr, verify_exchange
from pmc.dialects.expr import Expr, ExprAttr, expr, product
from pmc.dialects.interfaces import Unit, Work, WorkInterface
from pmc.dialects.matrix_types import matrix_type
from pmc.dialects.memory_map import Access, Loop, chip_around, placement_fault, reuse_fault
from pmc.dialects.stored_array import ARRAY_KINDS as ARRAY_KINDS
from pmc.dialects.stored_array import SHARED_KINDS as SHARED_KINDS
from pmc.dialects.stored_array import StoredOp as StoredOp
from pmc.dialects.structure import AnyProgramOp, AnyRepeatOp, AnyStageOp
from pmc.dialects.tensor import TypeMismatchError, element_name
from pmc.dialects.tile_command import CommandOp as CommandOp
from pmc.dialects.tile_gathers import GatherOp as GatherOp
from pmc.dialects.tile_gathers import GatherRowsOp as GatherRowsOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.tile_types import CORE as CORE
from pmc.dialects.tile_types import BufferType as BufferType
from pmc.dialects.tile_types import CoresAttr as CoresAttr
from pmc.dialects.tile_types import MemRefType as MemRefType
from pmc.dialects.tile_types import buffer_type as buffer_type
from pmc.dialects.tile_types import cores_fault as cores_fault
from pmc.dialects.tile_types import dense_strides as dense_strides
from pmc.dialects.tile_types import is_running_count as is_running_count
from pmc.dialects.tile_types import memref_type as memref_type
from pmc.dialects.tile_types import running_count as running_count
from pmc.dialects.vector_kinds import KIND, VECTOR_KINDS

LAYER = "layer"
"""The symbol of a repeat over layers, here and in commands."""

PERIOD = "period"
"""The symbol of a repeat over groups of layers, whose layers are repeats inside of it."""

# -- structure --------------------------------------------------------------------------------------------------


@irdl_op_definition
class ProgramOp(AnyProgramOp):
    """One step of one rank: DRAM arrays and the kernels and collectives that run one after the other."""

    name = "tile.program"
    sym_name = prop_def(StringAttr)
    phase = prop_def(StringAttr)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), NoTerminator())

    def verify_(self) -> None:
        """Arrays with addresses are aligned and inside the chip, and no value is overwritten while it is needed."""
        block = self.body.block
        for scope in (block, *(op.body.block for op in block.walk() if isinstance(op, RepeatOp | StageOp))):
            wrong = wrong_hand_over(scope)
            if wrong is not None:
                raise VerifyException(f"tile.program '{self.sym_name.data}': {wrong}")
        own, chip = _globals(block), chip_around(self)
        for scope in [op.body.block for op in block.ops if isinstance(op, StageOp)] or [block]:
            held = own if scope is block else [*own, *_globals(scope)]
            if not held or any(op.address is None for op in held):
                continue  # allocate-dram comes later
            placed = [op.placed for op in held]
            number: dict[SSAValue, int] = {op.result: i for i, op in enumerate(held)}
            fault = placement_fault(placed, chip) or reuse_fault(placed, _memory_accesses(scope, number))
            if fault is not None:
                raise VerifyException(f"tile.program '{self.sym_name.data}': {fault}")


def _globals(block: Block) -> list[GlobalOp]:
    return [op for op in block.ops if isinstance(op, GlobalOp)]


def _memory_accesses(block: Block, number: dict[SSAValue, int]) -> list[Access | Loop]:
    """What the ops of a block do with arrays, by their numbers; views get those of their sources."""
    found: list[Access | Loop] = []
    for op in block.ops:
        match op:
            case ViewOp() if op.source in number:
                number[op.result] = number[op.source]
            case RepeatOp():
                found.append(Loop(op.trip_count, _memory_accesses(op.body.block, number), op.share_counts))
            case KernelOp() | CollectiveOp():
                commands = [c for c in op.walk() if isinstance(c, CommandOp)]
                reads, writes = (
                    [number[v] for v in dict.fromkeys(values) if v in number]
                    for values in ((v for c in commands for v in c.reads()), (v for c in commands for v in c.writes()))
                )
                found.append(Access(op.path.data, reads, writes))
            case _:
                pass
    return found


@irdl_op_definition
class GlobalOp(StoredOp):
    """An array in DRAM; `kind` is one of `ARRAY_KINDS`.

    Weights and caches of repeated layers have a leading layer dim.  `sharding` says which part of the model's array
    the rank holds.  An array in a `tile.stage` is in the DRAM of the ranks of that stage only.
    """

    name = "tile.global"
    kind = prop_def(StringAttr)
    layers = prop_def(BoolAttr)
    """Whether the first dim counts the layers of an enclosing repeat."""
    sharding = opt_prop_def(ShardingAttr)
    axes = opt_prop_def(ArrayAttr[StringAttr])
    """The logical axis of each dim of one layer, of weights and caches."""
    role = opt_prop_def(StringAttr)
    """What a weight or cache is, as `layer.weight` and `layer.state` declare it, and `below` what a table has."""
    below = opt_prop_def(IntegerAttr)
    address = opt_prop_def(IntegerAttr)
    """The DRAM byte address, once allocated."""
    result = result_def(MemRefType)

    @property
    def memref(self) -> MemRefType:
        """The type of the array."""
        return memref_type(self.result)

    def verify_(self) -> None:
        """A known kind, and layers that exist."""
        super().verify_()
        if self.kind.data not in ARRAY_KINDS:
            raise VerifyException(
                f"tile.global at '{self.path.data}': unknown kind '{self.kind.data}', must be {', '.join(ARRAY_KINDS)}"
            )


@irdl_op_definition
class ViewOp(PmcOp):
    """The same memory with other dims, strides and offset, all counted in elements from the start of the global."""

    name = "tile.view"
    source = operand_def(MemRefType)
    result = result_def(MemRefType)


class BodyOp(PmcOp):
    """An op with one block that defines a symbol for the expressions inside."""

    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    def defined_symbols(self) -> tuple[str, ...]:
        """The symbols that the body may use in addition to those around it."""
        return ()


@irdl_op_definition
class RepeatOp(BodyOp, AnyRepeatOp):
    """Equal layers: the body runs for `symbol` = first, first+1, .., first+count-1.

    With `shares` iteration i of the repeat around, whose symbol is `period`, runs the next shares[i] of these.
    """

    name = "tile.repeat"
    symbol = prop_def(StringAttr)
    count = prop_def(IntegerAttr)
    first = prop_def(IntegerAttr)
    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    def defined_symbols(self) -> tuple[str, ...]:
        """The layer number."""
        return (self.symbol.data,)

    def verify_(self) -> None:
        """The shares are those of the repeat around."""
        self.verify_shares()


@irdl_op_definition
class StageOp(BodyOp, AnyStageOp):
    """The arrays that the ranks of pipeline stage `index` have for themselves, and the part of the program they run."""

    name = "tile.stage"
    index = prop_def(IntegerAttr)
    traits = traits_def(NoTerminator())
    body = region_def("single_block")


@irdl_op_definition
class KernelOp(BodyOp):
    """One tensor op on `cores` cores; ends when all of them have finished."""

    name = "tile.kernel"
    cores = prop_def(IntegerAttr)
    op_name = prop_def(StringAttr)
    """The tensor op that the kernel computes, `layer.matmul`; `copy` moves an array, or the first block of one."""
    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    def defined_symbols(self) -> tuple[str, ...]:
        """The core number."""
        return (CORE,)

    def verify_(self) -> None:
        """Buffers in use at one time share no byte; all cores come to every barrier; loads serve cores that exist."""
        fault = cores_fault(self.cores.value.data, chip_around(self))
        if fault is not None:
            raise VerifyException(f"tile.kernel at '{self.path.data}': {fault}")
        self._verify_disjoint(self.body.block, [])
        for op in self.body.block.walk():
            if isinstance(op, BarrierOp):
                fault = missed_barrier(op)
            elif isinstance(op, LoadOp) and op.serves is not None:
                fault = op.serves.fault(self.cores.value.data)
            elif isinstance(op, StoreOp) and op.late is not None:
                fault = misplaced_late(op) or lost_late(op)
            else:
                continue
            if fault is not None:
                raise VerifyException(f"{op.name} at '{op.path.data}': {fault}")

    def _verify_disjoint(self, block: Block, around: Sequence[AllocOp]) -> None:
        held = list(around)
        for op in block.ops:
            if isinstance(op, AllocOp) and op.address is not None:
                for other in held:
                    if _overlap(op, other):
                        raise VerifyException(
                            f"tile.kernel at '{self.path.data}': buffers at {_span(op)} and {_span(other)} overlap"
                        )
                held.append(op)
            elif isinstance(op, ForOp):
                self._verify_disjoint(op.body.block, held)


def missed_barrier(barrier: Operation) -> str | None:
    """Why some cores do not come to a barrier: a loop around it runs differently often on different cores."""
    parent = barrier.parent_op()
    while parent is not None:
        if isinstance(parent, NamedLoopOp) and CORE in parent.count.data.symbols:
            return (
                f"some cores miss the barrier: loop '{parent.symbol.data}' around it runs {parent.count.data} times, "
                "which differs from core to core"
            )
        parent = parent.parent_op()
    return None


def misplaced_late(op: Operation) -> str | None:
    """Why a command cannot be late: it stands in no loop."""
    return None if isinstance(op.parent_op(), NamedLoopOp) else "only a command in a loop can be late"


def lost_late(op: StoreOp) -> str | None:
    """Why what a late store has to store would be overwritten before."""
    buffer = op.buffer.owner
    if not isinstance(buffer, AllocOp) or buffer.parent is not op.parent or buffer.slots.value.data < 2:
        return "a late store needs a buffer that its loop allocates with at least 2 slots"
    later = op.next_op
    while later is not None:
        if any(isinstance(user, CommandOp) and op.buffer in user.writes() for user in later.walk()):
            return "what it stores is overwritten after it in the same iteration"
        later = later.next_op
    return None


def handed_over(block: Block) -> dict[AllocOp, tuple[int, int]]:
    """The buffers of a block outside of kernels, with the places in it of the first and the last op that use them."""
    allocs = [op for op in block.ops if isinstance(op, AllocOp)]
    if not allocs:
        return {}
    places = {op: place for place, op in enumerate(block.ops)}
    found: dict[AllocOp, tuple[int, int]] = {}
    for alloc in allocs:
        users = [block.find_ancestor_op_in_block(use.operation) for use in alloc.result.uses]
        used = [places[user] for user in users if user is not None] or [places[alloc]]
        found[alloc] = min(used), max(used)
    return found


def wrong_hand_over(block: Block) -> str | None:
    """What is wrong with the buffers of a block that outlive kernels: who loads and reads them, where they are."""
    ops, live = list(block.ops), handed_over(block)
    for alloc, (first, last) in live.items():
        where = f"the buffer that is handed over to '{alloc.path.data}'"
        if alloc.slots.value.data != 1:
            return f"{where} has {alloc.slots.value.data} slots, must have 1"
        user = ops[last]
        if first == last or not _loaded_and_read(alloc, ops[first], user):
            return (
                f"{where} must be loaded by one kernel and read by a later one of the same body"
                if not isinstance(user, RepeatOp)
                else f"{where} must be loaded by one kernel before the repeat at '{user.path.data}', and in it be "
                "read by one kernel and then loaded by a later one"
            )
        for use in alloc.result.uses:
            loads = isinstance(use.operation, LoadOp)
            if isinstance(use.operation, CommandOp) and not loads and alloc.result in use.operation.writes():
                return f"{where} is overwritten by the kernel that reads it"
        if alloc.address is None:
            continue
        beside = [op for kernel in ops[first : last + 1] for op in kernel.walk() if isinstance(op, AllocOp)]
        beside += [op for op, (start, stop) in live.items() if op is not alloc and start <= last and first <= stop]
        for other in beside:
            if other.address is not None and _overlap(alloc, other):
                return f"{where} at {_span(alloc)} overlaps one of '{other.path.data}' at {_span(other)}"
    return None


def _loaded_and_read(alloc: AllocOp, first: Operation, last: Operation) -> bool:
    """Whether a buffer is loaded by the first of its users and read by the last one.

    Where the last one is a repeat, a kernel of its body reads what the run before has left, and a later one loads.
    """
    uses = [use.operation for use in alloc.result.uses]
    early = [op for op in uses if first.is_ancestor(op)]
    late = [op for op in uses if last.is_ancestor(op)]
    if not isinstance(first, KernelOp) or len(early) + len(late) != len(uses):
        return False
    if not all(isinstance(op, LoadOp) for op in early):
        return False
    if not isinstance(last, RepeatOp):
        return isinstance(last, KernelOp) and not any(isinstance(op, LoadOp) for op in late)
    body = last.body.block
    kernels = {op: body.find_ancestor_op_in_block(op) for op in late}
    readers = {kernels[op] for op in late if not isinstance(op, LoadOp)}
    loaders = {kernels[op] for op in late if isinstance(op, LoadOp)}
    if len(readers) != 1 or len(loaders) != 1:
        return False
    (reader,), (loader,) = readers, loaders
    if not isinstance(reader, KernelOp) or not isinstance(loader, KernelOp):
        return False
    return body.get_operation_index(reader) < body.get_operation_index(loader)


def _overlap(one: AllocOp, other: AllocOp) -> bool:
    return one.byte_range.start < other.byte_range.stop and other.byte_range.start < one.byte_range.stop


def _span(op: AllocOp) -> str:
    return f"{op.byte_range.start}..{op.byte_range.stop - 1}"


class NamedLoopOp(BodyOp):
    """The body runs for `symbol` = 0 .. count-1: `k < <14> at "path" { .. }`."""

    symbol = prop_def(StringAttr)
    count = prop_def(ExprAttr)

    def defined_symbols(self) -> tuple[str, ...]:
        """The iteration number and the running count."""
        return (self.symbol.data, running_count(self.symbol.data))

    def print(self, printer: Printer) -> None:
        """Print `k < <count> at "path" { .. }`."""
        printer.print_string(f" {self.symbol.data} < <{self.count.data}> at ")
        printer.print_string_literal(self.path.data)
        printer.print_string(" ")
        printer.print_region(self.body)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse what `print` prints."""
        symbol = parser.parse_identifier()
        parser.parse_punctuation("<")
        count = ExprAttr(ExprAttr.parse_parameter(parser))
        parser.parse_keyword("at")
        path = parse_text(parser)
        return cls.make([], [], path, {"symbol": symbol, "count": count}, [parser.parse_region()])


@irdl_op_definition
class ForOp(NamedLoopOp):
    """A loop of a kernel; `symbol.seq` counts all runs of the body on this core so far."""

    name = "tile.for"
    traits = traits_def(NoTerminator())


# -- inside a kernel --------------------------------------------------------------------------------------------


@irdl_op_definition
class AllocOp(PmcOp):
    """A buffer in LMEM; `slots` copies that rotate with the enclosing loop.  Outside of kernels it has one, see above.

    `address` is the byte address of slot 0, slot i starts i times the size of the type after it.  Plans keep to the
    tile budget of a core; `extra` of the slots may lie in what the budget leaves free.
    """

    name = "tile.alloc"
    slots = prop_def(IntegerAttr)
    extra = opt_prop_def(IntegerAttr)
    address = opt_prop_def(IntegerAttr)
    result = result_def(BufferType)

    @property
    def byte_range(self) -> range:
        """The LMEM bytes of all slots, once allocated; from 0 before."""
        start = 0 if self.address is None else self.address.value.data
        return range(start, start + self.slots.value.data * buffer_type(self.result).bytes)

    @property
    def extra_slots(self) -> int:
        """How many of the slots are outside of the tile budget."""
        return 0 if self.extra is None else self.extra.value.data

    def verify_(self) -> None:
        """At least one slot is in the budget."""
        if not 0 <= self.extra_slots < self.slots.value.data:
            raise VerifyException(
                f"tile.alloc at '{self.path.data}': extra is {self.extra_slots}, must be 0 to "
                f"{self.slots.value.data - 1}, less than the slots"
            )


@irdl_op_definition
class PreviousOp(PmcOp):
    """What the iteration before has left in a buffer of the loop: the slot that it used.

    The first run of the loop has none; there the op must stand in a loop that does not run.
    """

    name = "tile.previous"
    source = operand_def(BufferType)
    result = result_def(BufferType)

    def verify_(self) -> None:
        """The buffer has a slot to keep that in."""
        alloc = self.source.owner
        if not isinstance(alloc, AllocOp) or alloc.slots.value.data < 2 or not isinstance(alloc.parent_op(), ForOp):
            raise VerifyException(
                f"tile.previous at '{self.path.data}': needs a buffer that a loop allocates with at least 2 slots"
            )
        if self.result.type != self.source.type:
            raise VerifyException(
                f"tile.previous at '{self.path.data}': is {self.result.type}, the buffer is {self.source.type}"
            )


@irdl_op_definition
class HandedOverOp(PmcOp):
    """What an earlier kernel has loaded into `held` where `later` is 0, in the first iteration; else what `own` has.

    `later` is 0 or 1.
    """

    name = "tile.handed_over"
    held = operand_def(BufferType)
    own = operand_def(BufferType)
    later = prop_def(ExprAttr)
    result = result_def(BufferType)

    def verify_(self) -> None:
        """One type, and a buffer from outside of the kernel."""
        for value, what in ((self.held, "held"), (self.own, "own")):
            if value.type != self.result.type:
                raise VerifyException(
                    f"tile.handed_over at '{self.path.data}': is {self.result.type}, {what} is {value.type}"
                )
        alloc = self.held.owner
        if not isinstance(alloc, AllocOp) or isinstance(alloc.parent_op(), KernelOp | ForOp):
            raise VerifyException(
                f"tile.handed_over at '{self.path.data}': held must be a buffer that is allocated outside of kernels"
            )


def allocation_of(value: SSAValue) -> SSAValue:
    """The allocation that a buffer is a slot of, its own or that of the iteration before."""
    match value.owner:
        case PreviousOp() as op:
            return op.source
        case HandedOverOp() as op:
            return op.own
        case _:
            return value


class TransferOp(CommandOp):
    """A block of a DRAM array <-> the top left of a buffer.

    The block starts at `offsets` and has `sizes`, one per dim of the array.  All dims but the last are rows of the
    buffer, in order and without gaps, the last is its columns; `row` and `column` shift the block inside the buffer.
    """

    offsets = prop_def(ArrayAttr[ExprAttr])
    sizes = prop_def(ArrayAttr[ExprAttr])
    row = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    column = prop_def(ExprAttr, default_value=ExprAttr.of(0))
    memref = operand_def(MemRefType)
    buffer = operand_def(BufferType)

    def moved(self, store: bool) -> tuple[TileAccess, TileAccess]:
        """The block in DRAM and the part of the buffer, of a store or of a load."""
        sizes = [s.data for s in self.sizes.data]
        block = TileAccess.block("dram", self.memref, [o.data for o in self.offsets.data], sizes, store)
        reads, at = ALWAYS if store else NEVER, (self.row.data, self.column.data)
        return block, TileAccess.part("lmem", self.buffer, product(sizes[:-1]), sizes[-1], reads, not store, at)

    def verify_(self) -> None:
        """One offset and one size per dim of the array."""
        rank = len(memref_type(self.memref).dims)
        if len(self.offsets.data) != rank or len(self.sizes.data) != rank:
            raise VerifyException(f"{self.name} at '{self.path.data}': needs {rank} offsets and sizes")

    @classmethod
    def transfer(
        cls,
        memref: SSAValue,
        buffer: SSAValue,
        offsets: Sequence[Expr | int],
        sizes: Sequence[Expr | int],
        path: str,
        row: Expr | int = 0,
        column: Expr | int = 0,
    ) -> Self:
        """Move the block at `offsets` of `sizes`."""
        return cls.make(
            [memref, buffer],
            [],
            path,
            {
                "offsets": ArrayAttr([ExprAttr.of(o) for o in offsets]),
                "sizes": ArrayAttr([ExprAttr.of(s) for s in sizes]),
                "row": expr(row),
                "column": expr(column),
            },
        )


@irdl_op_definition
class LoadOp(TransferOp):
    """DRAM -> LMEM.

    With `serves`, one read of DRAM serves several cores: those that the attribute names run the load in the same
    iteration, of the same block.
    """

    name = "tile.load"
    serves = opt_prop_def(CoresAttr)

    def accesses(self) -> tuple[TileAccess, ...]:
        return self.moved(store=False)


@irdl_op_definition
class StoreOp(TransferOp):
    """LMEM -> DRAM.

    A `late` store of an iteration is given to the engine one iteration later, where it stands in the body; in the last
    iteration also its own follows.  DMA takes its commands in order, so the loads of the next iteration do not queue
    up behind a store that still waits for its result.  The buffer keeps the result meanwhile in one of its slots.
    """

    name = "tile.store"
    late = opt_prop_def(UnitAttr)

    def accesses(self) -> tuple[TileAccess, ...]:
        return self.moved(store=True)


@irdl_op_definition
class MmaOp(CommandOp):
    """acc[:m, :n] (+)= a[:m, :k] b[:k, :n], with `transpose_b` b[:n, :k]; adds where `accumulate` is not zero.

    Products are summed in FP32; the accumulator is FP32.
    """

    name = "tile.mma"
    acc = operand_def(BufferType)
    a = operand_def(BufferType)
    b = operand_def(BufferType)
    m = prop_def(ExprAttr)
    n = prop_def(ExprAttr)
    k = prop_def(ExprAttr)
    accumulate = prop_def(ExprAttr)
    transpose_b = prop_def(BoolAttr)
    UNIT: ClassVar[Unit] = "cube"

    def accesses(self) -> tuple[TileAccess, ...]:
        m, n, k = self.m.data, self.n.data, self.k.data
        b = (n, k) if bool(self.transpose_b) else (k, n)
        return (
            TileAccess.part("a", self.a, m, k, ALWAYS, False),
            TileAccess.part("b", self.b, *b, ALWAYS, False),
            TileAccess.part("acc", self.acc, m, n, self.accumulate.data, True),
        )

    @property
    def matrix_type(self) -> str:
        """The type of the arithmetic, which sets the rate."""
        return matrix_type(*(element_name(buffer_type(v).element_type) for v in (self.a, self.b)))

    def verify_(self) -> None:
        """The types of the operands can be multiplied."""
        try:
            _ = self.matrix_type
        except TypeMismatchError as error:
            raise VerifyException(f"tile.mma at '{self.path.data}': {error}") from None

    def flops(self) -> Expr:
        """A multiplication and an addition per element of the contraction."""
        return 2 * self.m.data * self.n.data * self.k.data


@irdl_op_definition
class VectorOp(CommandOp):
    """What `kind` says, on the first `rows` x `columns` of its buffers.

    `ins`, `outs` and `updates` (read and written) are the matrices of the kind, in its order; see `vector_kinds`.
    """

    name = "tile.vector"
    ins = var_operand_def(BufferType)
    outs = var_operand_def(BufferType)
    updates = var_operand_def(BufferType)
    kind = prop_def(KIND)
    rows = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)
    UNIT: ClassVar[Unit] = "vector"
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    @property
    def matrices(self) -> tuple[SSAValue, ...]:
        """Inputs, outputs and updates."""
        return tuple(self.operands)

    def accesses(self) -> tuple[TileAccess, ...]:
        matrices = self.matrices
        widths = [buffer_type(v).dims[1] for v in matrices]
        extents = self.kind.extents(self.rows.data, self.columns.data, widths)
        return tuple(
            TileAccess.part(matrix.name, value, *extent, self.kind.reads(matrix), matrix.writes)
            for matrix, value, extent in zip(self.kind.MATRICES, matrices, extents, strict=True)
        )

    def flops(self) -> Expr:
        """The arithmetic of the kind."""
        return self.kind.flops(self.rows.data, self.columns.data)

    def verify_(self) -> None:
        """The number of matrices, and parameters of which the kind can make sense."""
        counts = (len(self.ins), len(self.outs), len(self.updates))
        wrong = self.kind.fault(counts, self.columns.data, frozenset(symbols_in_scope(self)))
        if wrong is not None:
            raise VerifyException(f"tile.vector #{self.kind.name} at '{self.path.data}': {wrong}")


# -- between the cores of a kernel ------------------------------------------------------------------------------


@irdl_op_definition
class FetchOp(CommandOp):
    """The top left of a buffer of another core -> a buffer of this core, by SDMA.

    The block has `rows` x `columns` elements, from row `from_row` of `source` in the LMEM of core `core` to row `row`
    of `buffer`.  All cores of a kernel have their buffers at the same addresses.
    """

    name = "tile.fetch"
    source = operand_def(BufferType)
    buffer = operand_def(BufferType)
    core = prop_def(ExprAttr)
    from_row = prop_def(ExprAttr)
    row = prop_def(ExprAttr)
    rows = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)

    def accesses(self) -> tuple[TileAccess, ...]:
        rows, columns, zero = self.rows.data, self.columns.data, expr(0)
        source = TileAccess.part("source", self.source, rows, columns, ALWAYS, False, (self.from_row.data, zero))
        target = TileAccess.part("target", self.buffer, rows, columns, NEVER, True, (self.row.data, zero))
        return replace(source, core=self.core.data), target


@irdl_op_definition
class BarrierOp(PmcOp):
    """No core goes on before all cores of the kernel have come here and finished what they were given before."""

    name = "tile.barrier"


# -- between chips and across DRAM ------------------------------------------------------------------------------


@irdl_op_definition
class CollectiveOp(CommandOp, WorkInterface, ExchangeInterface):
    """A movement that the chip does as a whole, on DRAM arrays, between two kernels (see `collective.py`)."""

    name = "tile.collective"
    ins = var_operand_def(MemRefType)
    outs = var_operand_def(MemRefType)
    collective = prop_def(CollectiveAttr)
    algorithm = opt_prop_def(AlgorithmAttr)
    """Where there is none, the only one that the collective has, or one still to be chosen."""
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def exchange(self) -> Exchange:
        ins, outs = ([memref_type(value).tensor for value in values] for values in (self.ins, self.outs))
        return Exchange.of(self.collective, self.algorithm, ins, outs)

    def work(self) -> Work:
        return self.exchange().work()

    def verify_(self) -> None:
        verify_exchange(self, self.exchange())

    def accesses(self) -> tuple[TileAccess, ...]:
        """All arrays, whole."""

        def whole(role: str, value: SSAValue, write: bool) -> TileAccess:
            dims = memref_type(value).shape.data
            return TileAccess.block(role, value, [expr(0)] * len(dims), dims, write)

        ins = (whole(f"in{i}", value, False) for i, value in enumerate(self.ins))
        return (*ins, *(whole(f"out{i}", value, True) for i, value in enumerate(self.outs)))


# -- symbols in scope -------------------------------------------------------------------------------------------


def symbols_in_scope(op: Operation) -> Iterator[str]:
    """The symbols that expressions of `op` may use: those of the bodies around it."""
    parent = op.parent_op()
    while parent is not None:
        # Ops are verified before the op around them: its symbol may be no name yet.
        if isinstance(parent, BodyOp) and isinstance(parent.properties.get("symbol", StringAttr("")), StringAttr):
            yield from parent.defined_symbols()
        parent = parent.parent_op()


Tile = Dialect(
    "tile",
    [
        ProgramOp,
        GlobalOp,
        ViewOp,
        RepeatOp,
        StageOp,
        KernelOp,
        ForOp,
        AllocOp,
        PreviousOp,
        HandedOverOp,
        LoadOp,
        StoreOp,
        GatherOp,
        GatherRowsOp,
        MmaOp,
        VectorOp,
        FetchOp,
        BarrierOp,
        CollectiveOp,
    ],
    [MemRefType, BufferType, PlanAttr, CoresAttr, *VECTOR_KINDS],
)
