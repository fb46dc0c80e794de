"""`prefetch-weights`: a kernel of products loads the first weights of the next one, which then need not wait for them.

Before a kernel multiplies anything, its first blocks must have come, while the matrix unit of the kernel before stood
still.  Nobody writes weights, so their loads need not wait for the barrier between the two:

    tile.kernel() .. at "gate" {                          tile.kernel() .. at "down" {
      tile.for k < <4> .. {                                 tile.for k < <2> .. {
        ..                                                    %b = tile.alloc() {slots = 2} ..
        tile.mma(..)                                          tile.load(%w, %b) {offsets = [<k*64>, <0>], ..}
      }                                                       tile.mma(%acc, %a, %b) ..
      tile.store(..)

becomes

    %held = tile.alloc() {slots = 1, address = 2031616} at "down" : ..
    tile.kernel() .. at "gate" {                          tile.kernel() .. at "down" {
      tile.for k < <4> .. {                                 tile.for k < <2> .. {
        ..                                                    %b = tile.alloc() {slots = 2} ..
        tile.mma(..)                                          tile.for k_later < <min(k, 1)> .. {
        tile.for k_ahead < <max(k - 2, 0)> .. {                 tile.load(%w, %b) {offsets = [<k*64>, <0>], ..}
          tile.load(%w, %held) {offsets = [<0>, <0>]}         }
        }                                                     %now = tile.handed_over(%held, %b) {later = <min(k, 1)>}
      }                                                       tile.mma(%acc, %a, %now) ..
      tile.store(..)

The load stands behind the last products of the earlier kernel and before its last stores, which wait for the products.
The earlier kernel is the nearest one whose last products take as long as the load, else the nearest one whose products
hide a part of it; what runs between the two goes on as it is, beside the held bytes.  Those lie at the end of the LMEM,
in what plans leave free (`tile_budget_fraction`).  One block is handed over to a kernel.  Where it does not fit, where
loops run differently often on different cores, or where the block stays for several products, nothing changes.

For a kernel that finds nobody before it in the body of a repeat, one behind it loads for the next run of the body:

    %held = tile.alloc() {slots = 1, address = 2031616} at "q" : ..
    tile.kernel() {cores = 64, op_name = "copy"} at "q" {
      tile.load(%w, %held) {offsets = [<0>, <0>, <0>], ..}        the block for the first run
    }
    tile.repeat() {symbol = "layer", count = 4, first = 0} .. {
      tile.kernel() .. at "q" { .. %now = tile.handed_over(%held, %b) .. }
      tile.kernel() .. at "down" { .. tile.load(%w, %held) {offsets = [<min(layer + 1, 3)>, <0>, <0>], ..} .. }
    }

The last run loads its own block once more, for nobody, so that all runs are alike.  Weights go from one repeat to the
next one neither way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue

from pmc.dialects.analyses.split import round_up
from pmc.dialects.arch import Chip
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import expr, max_of, min_of, product
from pmc.dialects.levels import Level
from pmc.dialects.tile import (
    CORE,
    AllocOp,
    BarrierOp,
    CollectiveOp,
    CommandOp,
    ForOp,
    GlobalOp,
    HandedOverOp,
    KernelOp,
    LoadOp,
    MmaOp,
    ProgramOp,
    RepeatOp,
    StageOp,
    StoreOp,
    ViewOp,
    buffer_type,
    memref_type,
)
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.substitution import substitute
from pmc.passes.tiling.target import chip_of

DRAWN = 0.7
"""The part of all hand-overs that run where they are drawn."""

LEAST = 0.1
"""The part of a load that a kernel must hide at least: with less, it would only pass the wait on."""


@dataclass(frozen=True)
class PrefetchWeightsPass(PmcPass):
    """Load the first weights of kernels ahead."""

    name = "prefetch-weights"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = (
        "cores", "lanes_per_core", "clocks.tiu_ghz", "macs_per_lane_per_cycle", "alignment_bytes",
        "command_level.lmem.bytes_per_core", "command_level.gdma.gb_per_s", "command_level.gdma.efficiency",
        "dram.bandwidth_gb_per_s",
    )  # fmt: skip

    enabled: bool = True
    """Without it, the pass leaves the module alone."""
    choose: str = "best"
    """best or random: with random, which kernel loads for which does not depend on time; `pmc check` runs that too."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the way to choose."""
        if self.choose not in ("best", "random"):
            raise PassError(f"{self.name}: choose is '{self.choose}', must be best or random")

    def run(self, module: ModuleOp) -> None:
        """Go through the kernels of every body, up to the next body inside it."""
        if not self.enabled:
            return
        chip = chip_of(module, self.name)
        random = np.random.default_rng(self.seed) if self.choose == "random" else None
        for body in [op for op in module.walk() if isinstance(op, ProgramOp | RepeatOp | StageOp)]:
            run: list[KernelOp] = []
            for op in [*body.body.block.ops, None]:
                if isinstance(op, KernelOp):
                    run.append(op)
                elif op is None or isinstance(op, RepeatOp | StageOp):
                    _Run(run, chip, random, _repeated(body)).hand_over()
                    run = []


def _repeated(body: Operation) -> RepeatOp | None:
    """The repeat whose runs can hand weights over to each other.

    It holds no other repeat and takes no turns with others, and a kernel or a collective stands before it, to which the
    first load can be charged.
    """
    if not isinstance(body, RepeatOp) or body.trip_count < 2 or body.shares is not None or body.parent is None:
        return None
    if any(isinstance(op, RepeatOp) for op in body.body.block.ops):
        return None
    before = body.prev_op
    while before is not None and not isinstance(before, KernelOp | CollectiveOp):
        before = before.prev_op
    return body if before is not None else None


@dataclass(frozen=True)
class _Held:
    """Bytes of LMEM from the kernel that loads them to the one that uses them, by their places."""

    kernels: range
    span: range


class _Run:
    """The kernels of a body that run one after the other, collectives between them left out."""

    def __init__(
        self, kernels: Sequence[KernelOp], chip: Chip, random: np.random.Generator | None, repeat: RepeatOp | None
    ) -> None:
        """`repeat` is the one that runs them again and again, where one run can load for the next."""
        self.kernels, self.chip, self.random, self.repeat = kernels, chip, random, repeat
        self.places = {index: place for index, kernel in enumerate(kernels) if (place := _place(kernel)) is not None}
        self.left_s = {index: _hidden_s(place, chip) for index, place in self.places.items()}
        """How much longer DMA may load behind the last loads of a kernel without keeping anybody waiting."""
        self.held: list[_Held] = []

    def hand_over(self) -> None:
        """Find for every kernel the nearest one that can load for it: before it, else behind it in the run before."""
        without, count = list(self.places), len(self.kernels)
        for around in (False, True) if self.repeat is not None else (False,):
            for whole in (True, False):
                for taker in without.copy():
                    givers = range(count - 1, taker, -1) if around else range(taker - 1, -1, -1)
                    if any(giver in self.places and self.hand(giver, taker, whole) for giver in givers):
                        without.remove(taker)

    def hand(self, giver: int, taker: int, whole: bool) -> bool:
        """Let one kernel load for another if it has the time and the LMEM; whether it has.

        `whole` asks for the time of the whole load, else the part `LEAST` is enough.
        """
        chip, one, other = self.chip, self.kernels[giver], self.kernels[taker]
        repeat = self.repeat if giver > taker else None
        load = _first_weights(other, one)
        if load is None or (repeat is not None and repeat.symbol.data in _symbols_of_place(load)):
            return False
        kernels = range(giver, taker + 1) if repeat is None else range(len(self.kernels))
        seconds, span = _load_s(load, other.cores.value.data, chip), self.room(load, kernels)
        if span is None or not self.hides(seconds if whole else LEAST * seconds, giver):
            return False
        properties: dict[str, PropertyValue] = {"slots": 1, "address": span.start}
        alloc = AllocOp.make([], [load.buffer.type], other.path.data, properties, like=load)
        _before(alloc, one if repeat is None else repeat)
        early = _handed_over(load, alloc.result, one)
        if repeat is not None:
            _load_for_first_run(early, repeat, other)
            last = repeat.first.value.data + repeat.count.value.data - 1
            substitute(early, {repeat.symbol.data: min_of(expr(repeat.symbol.data) + 1, last)})
        _insert(early, self.places[giver], one, other)
        self.left_s[giver] -= seconds
        self.held.append(_Held(kernels, span))
        return True

    def hides(self, seconds: float, giver: int) -> bool:
        """Whether loads that take so long keep nobody waiting, or have been drawn."""
        if self.random is not None:
            return bool(self.random.random() < DRAWN)
        return seconds <= self.left_s[giver]

    def room(self, load: LoadOp, kernels: range) -> range | None:
        """Bytes for what is loaded, as far up as possible while these kernels run; None where there are none."""
        beside = [h for h in self.held if h.kernels.start < kernels.stop and kernels.start < h.kernels.stop]
        step = self.chip.alignment_bytes
        size = round_up(buffer_type(load.buffer).bytes, step)
        end = self.chip.commands.lmem.bytes_per_core // step * step
        for stop in sorted({end, *(h.span.start for h in beside)}, reverse=True):
            span = range(stop - size, stop)
            if any(h.span.start < span.stop and span.start < h.span.stop for h in beside):
                continue
            return span if all(self.own_bytes(index) <= span.start for index in kernels) else None
        return None

    def own_bytes(self, index: int) -> int:
        """The LMEM of the buffers of a kernel."""
        step = self.chip.alignment_bytes
        allocs = (op for op in self.kernels[index].walk() if isinstance(op, AllocOp))
        return sum(round_up(len(op.byte_range), step) for op in allocs)


def _load_s(load: LoadOp, cores: int, chip: Chip) -> float:
    """The least time of a load on all cores: through the DMA of each, and out of DRAM."""
    own, gdma = buffer_type(load.buffer).bytes, chip.commands.gdma
    reads = cores if load.serves is None else cores // load.serves.count.value.data
    return max(own / (gdma.gb_per_s * 1e9 * gdma.efficiency), own * reads / chip.dram_bytes_per_s)


def _hidden_s(place: _Place, chip: Chip) -> float:
    """The time of the products of the last iteration, whose loads have come."""
    flops: dict[str, int] = {}
    for op in place.block.walk():
        if isinstance(op, MmaOp):
            sizes = [size.data.substitute(dict.fromkeys(size.data.symbols, expr(0))) for size in (op.m, op.n, op.k)]
            flops[op.matrix_type] = flops.get(op.matrix_type, 0) + 2 * product(sizes).constant
    return sum(count * chip.cores / chip.peak_flops_per_s(name) for name, count in flops.items())


def _before(op: Operation, other: Operation) -> None:
    block = other.parent
    assert block is not None
    block.insert_op_before(op, other)


def _main_phase(kernel: KernelOp) -> Iterator[Operation]:
    """The ops before the cores meet, if they do."""
    for op in kernel.body.block.ops:
        if isinstance(op, BarrierOp):
            return
        yield from op.walk()


def _loops(op: Operation) -> list[ForOp]:
    """The loops around an op, from the outside in."""
    found: list[ForOp] = []
    parent = op.parent_op()
    while isinstance(parent, ForOp):
        found.insert(0, parent)
        parent = parent.parent_op()
    return found


def _runs_alike(loops: Sequence[ForOp]) -> bool:
    """Whether all cores run loops equally often, at least once."""
    return all(loop.count.data.is_constant and loop.count.data.constant > 0 for loop in loops)


# -- the kernel that loads ahead --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where loads can stand behind the last products: in a block, before an op or at the end, inside loops."""

    block: Block
    before: Operation | None
    loops: Sequence[ForOp]


def _place(kernel: KernelOp) -> _Place | None:
    """The end of the loop that has the last loads, before what it stores; None where its loops run differently often.

    Kernels without products have nothing to hide a load behind.
    """
    loads = [op for op in _main_phase(kernel) if isinstance(op, LoadOp) and _runs_alike(_loops(op))]
    if not loads or not any(isinstance(op, MmaOp) for op in kernel.walk()):
        return None
    block = loads[-1].parent
    assert block is not None
    later, op = None, loads[-1].next_op
    while op is not None and later is None:
        later = op if isinstance(op, StoreOp | BarrierOp) else None
        op = op.next_op
    return _Place(block, later, _loops(loads[-1]))


def _insert(early: Operation, place: _Place, giver: KernelOp, taker: KernelOp) -> None:
    """Put a load at a place, in the last iteration of its loops, on the cores that the later kernel has."""
    last = [min_of(max_of(expr(loop.symbol.data) - loop.count.data + 2, 0), 1) for loop in place.loops]
    if taker.cores.value.data < giver.cores.value.data:
        last.append(min_of(max_of(taker.cores.value.data - expr(CORE), 0), 1))
    op = early
    if last:
        symbol = f"{place.loops[-1].symbol.data}_ahead" if place.loops else "ahead"
        properties: dict[str, PropertyValue] = {"symbol": symbol, "count": min_of(product(last), 1)}
        op = ForOp.make([], [], taker.path.data, properties, [Region(Block([early]))], like=taker)
    if place.before is None:
        place.block.add_op(op)
    else:
        place.block.insert_op_before(op, place.before)


# -- the kernel that they are for -------------------------------------------------------------------------------


def _first_weights(kernel: KernelOp, giver: KernelOp) -> LoadOp | None:
    """The load of weights that an earlier kernel can do for the first iteration of this one.

    It is one at most: commands wait for all but the last so many loads, whatever the iteration.  A second block that
    comes only later would have the first products of every iteration wait for it.
    """
    cores = giver.cores.value.data
    if kernel.cores.value.data > cores:
        return None
    for op in _main_phase(kernel):
        if not isinstance(op, LoadOp) or not _is_weight(op.memref) or not _runs_alike(_loops(op)):
            continue
        alloc = op.buffer.owner
        users = [use.operation for use in op.buffer.uses if use.operation is not op]
        alone = isinstance(alloc, AllocOp) and all(
            isinstance(user, CommandOp) and user.parent is op.parent and op.buffer not in user.writes()
            for user in users
        )
        if alone and alloc.parent is op.parent and (op.serves is None or op.serves.fault(cores) is None):
            return op
    return None


def _is_weight(value: SSAValue) -> bool:
    owner = value.owner
    return _is_weight(owner.source) if isinstance(owner, ViewOp) else _is_global_weight(owner)


def _is_global_weight(owner: Operation | Block) -> bool:
    return isinstance(owner, GlobalOp) and owner.kind.data == "weight"


def _handed_over(load: LoadOp, held: SSAValue, giver: KernelOp) -> Operation:
    """Take what `load` loads first from `held`; gives the load that an earlier kernel does instead."""
    loops, block = _loops(load), load.parent
    assert block is not None
    symbols = [loop.symbol.data for loop in loops]
    if isinstance(load.memref.owner, ViewOp):
        _define_before(load.memref.owner, giver)
    early = load.clone(value_mapper={load.memref: load.memref, load.buffer: held})
    substitute(early, {symbol: expr(0) for symbol in symbols})
    users = [use.operation for use in load.buffer.uses if use.operation is not load]
    now = held
    if loops:
        later = min_of(sum((expr(symbol) for symbol in symbols), expr(0)), 1)
        properties: dict[str, PropertyValue] = {"symbol": f"{symbols[-1]}_later", "count": later}
        rest = ForOp.make([], [], load.path.data, properties, [Region(Block())], like=load)
        block.insert_op_after(rest, load)
        block.detach_op(load)
        rest.body.block.add_op(load)
        taken = HandedOverOp.make([held, load.buffer], [load.buffer.type], load.path.data, {"later": later}, like=load)
        block.insert_op_after(taken, rest)
        now = taken.result
    for user in users:
        for index, operand in enumerate(user.operands):
            if operand is load.buffer:
                user.operands[index] = now
    if not loops:
        alloc = load.buffer.owner
        assert isinstance(alloc, AllocOp)
        block.erase_op(load)
        block.erase_op(alloc)
    return early


def _symbols_of_place(load: LoadOp) -> frozenset[str]:
    """The symbols that say where the array of a load is, besides its offsets in it."""
    type_ = memref_type(load.memref)
    return type_.offset.data.symbols.union(*(step.symbols for step in type_.strides.data))


def _load_for_first_run(early: Operation, repeat: RepeatOp, taker: KernelOp) -> None:
    """Let a kernel before a repeat do the load that in the repeat one run does for the next."""
    views: list[ViewOp] = []
    source = early.operands[0]
    while isinstance(source.owner, ViewOp) and source.owner.parent is repeat.body.block:
        views.insert(0, source.owner)
        source = source.owner.source
    mapper: dict[SSAValue, SSAValue] = {}
    for view in views:
        _before(view.clone(mapper), repeat)
    first = early.clone(mapper)
    substitute(first, {repeat.symbol.data: expr(repeat.first.value.data)})
    properties: dict[str, PropertyValue] = {"cores": taker.cores, "op_name": "copy"}
    _before(KernelOp.make([], [], taker.path.data, properties, [Region(Block([first]))], like=taker), repeat)


def _define_before(view: ViewOp, kernel: KernelOp) -> None:
    """Move a view in front of the kernel that uses it first."""
    block = kernel.parent
    assert block is not None
    if view.parent is block and block.get_operation_index(view) > block.get_operation_index(kernel):
        block.detach_op(view)
        block.insert_op_before(view, kernel)
