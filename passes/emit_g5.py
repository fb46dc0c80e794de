"""`emit-g5`: buffers become addresses, ops become commands that wait for each other; loops stay loops.

    %a = tile.alloc() {slots = 2, address = 0} at ".." : !tile.buffer<[64, 512], f8E4M3FN>
    tile.load(%x, %a) {offsets = [<0>, <k*512>], sizes = [<64>, <512>], ..} at ".."
    tile.mma(%c, %a, %b) {m = <64>, n = <8>, k = <512>, accumulate = <k>, ..} at ".."

becomes

    g5.gdma {direction = "load", dram = <k*512 + 4096>, lmem = <mod(k.seq, 2)*32768>, ..} after [tiu-1] at ".."
    g5.tiu {acc = #g5.lmem<..>, a = #g5.lmem<mod(k.seq, 2)*32768, ..>, ..} after [gdma-0] at ".."

Every `tile.global` and `tile.alloc` must have its address (allocate-dram, allocate-lmem).  Views disappear: their
strides and offsets are in the addresses.  A collective that leaves the chip becomes a CDMA command, any other an SDMA
command.  What a command waits for is derived in `hazards`; DRAM needs no waits, as one engine per core uses it and
every program ends with a barrier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.dialects import g5, tile
from pmc.dialects.analyses.hazards import Barrier, Buffer, Command, Item, Loop, lags
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import Expr, ExprAttr, expr, min_of, mod
from pmc.dialects.levels import Level
from pmc.dialects.tensor import element_bits
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class EmitG5Pass(PmcPass):
    """Tile kernels -> command programs."""

    name: ClassVar[str] = "emit-g5"
    READS: ClassVar[tuple[Level, ...]] = ("tile",)
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = ("cores", "alignment_bytes", "dram.capacity_gib")

    def run(self, module: ModuleOp) -> None:
        """Replace every `tile.program` by a `g5.stream`."""
        for op in list(module.ops):
            if isinstance(op, tile.ProgramOp):
                block = Block()
                block.add_ops(_Stream().steps(op.body.block))
                stream = g5.StreamOp.make(
                    [],
                    [],
                    op.path.data,
                    {"sym_name": op.sym_name, "phase": op.phase},
                    [Region(block)],
                    like=op,
                )
                # The shardings of arguments and results say how the arrays relate to the whole.
                stream.attributes.update(op.attributes)
                module.body.block.insert_op_before(stream, op)
                module.body.block.erase_op(op)


class _Stream:
    """Emits what stands around and between kernels; knows where every DRAM array is."""

    def __init__(self) -> None:
        self.bases: dict[SSAValue, int] = {}
        self.held: dict[SSAValue, _Allocation] = {}
        """The buffers that outlive a kernel."""

    def steps(self, block: Block) -> list[Operation]:
        """The ops of the stream for the ops of a body outside kernels."""
        out: list[Operation] = []
        for op in block.ops:
            match op:
                case tile.GlobalOp():
                    out.append(self.array(op))
                case tile.ViewOp():
                    self.bases[op.result] = self.base(op.source, op)
                case tile.AllocOp():
                    self.held[op.result] = _allocation(op, ())
                case tile.KernelOp():
                    out.append(_Kernel(self).program(op))
                case tile.CollectiveOp():
                    out.append(self.collective(op))
                case tile.RepeatOp():
                    names = ("symbol", "count", "first", "shares")
                    properties = {name: op.properties[name] for name in names if name in op.properties}
                    out.append(self.nested(g5.RepeatOp, op, op.body.block, {**properties, "carries": self.carries(op)}))
                case tile.StageOp():
                    out.append(self.nested(g5.StageOp, op, op.body.block, {"index": op.index}))
                case _:
                    raise PassError(f"emit-g5: {op.name} cannot stand outside a tile.kernel")
        return out

    def nested(
        self,
        kind: type[g5.RepeatOp | g5.StageOp],
        op: tile.BodyOp,
        body: Block,
        properties: Mapping[str, PropertyValue],
    ) -> Operation:
        """A repeat or a stage with its body."""
        block = Block()
        block.add_ops(self.steps(body))
        return kind.make([], [], op.path.data, properties, [Region(block)], like=op)

    def carries(self, op: tile.RepeatOp) -> ArrayAttr[g5.SpanAttr] | None:
        """The LMEM from before the repeat that its runs use."""
        used = {value for user in op.walk() for value in user.operands}
        own = [a.buffer for value, a in self.held.items() if value in used]
        return ArrayAttr([g5.SpanAttr.of(b.start, b.stop - b.start) for b in own]) if own else None

    def array(self, op: tile.GlobalOp) -> g5.ArrayOp:
        """The array at its address."""
        if op.address is None:
            raise PassError(f"emit-g5: tile.global at '{op.path.data}' has no address, run allocate-dram first")
        self.bases[op.result] = op.address.value.data
        properties: dict[str, PropertyValue] = {
            "kind": op.kind,
            "layers": op.layers,
            "address": op.address,
            "sharding": op.sharding,
            "axes": op.axes,
            "role": op.role,
            "below": op.below,
            "type": op.result.type,
            "first": op.first,
            "total": op.total,
        }
        return g5.ArrayOp.make([], [], op.path.data, properties, like=op)

    def base(self, value: SSAValue, user: tile.ViewOp | tile.CommandOp) -> int:
        """The byte address of the array that `value` is a view of."""
        if value not in self.bases:
            raise PassError(f"emit-g5: {user.name} at '{user.path.data}' uses an array of another program")
        return self.bases[value]

    def collective(self, op: tile.CollectiveOp) -> g5.ChipCommandOp:
        """A command of the chip: CDMA where data leaves it, else SDMA."""

        def dram(value: SSAValue) -> g5.DramAttr:
            type_ = tile.memref_type(value)
            address = self.base(value, op) + type_.offset.data * element_bytes(type_.element_type, op)
            return g5.DramAttr(ExprAttr(address), type_.shape, type_.strides, type_.element_type)

        kind = g5.CdmaOp if op.collective.leaves_chip else g5.SdmaOp
        properties: dict[str, PropertyValue] = {
            "collective": op.collective,
            "algorithm": op.algorithm,
            "ins": ArrayAttr([dram(v) for v in op.ins]),
            "outs": ArrayAttr([dram(v) for v in op.outs]),
        }
        return kind.make([], [], op.path.data, properties, like=op)


@dataclass
class _Allocation:
    """A buffer of the kernel: where its current slot is, and what hazards see of it."""

    turn: Expr | None
    """How often it has rotated; None for one that does not."""
    slot_bytes: int
    pitch: int
    element_type: Attribute
    buffer: Buffer
    held: int = 0
    """Where an earlier kernel has loaded what the first iteration has instead."""
    later: Expr | None = None
    """0 in that iteration, else 1; None where nothing is handed over."""

    @property
    def address(self) -> Expr:
        start = expr(self.buffer.start)
        own = start if self.turn is None else start + mod(self.turn, self.buffer.slots) * self.slot_bytes
        return own if self.later is None else own * self.later + self.held * (1 - self.later)

    def previous(self) -> _Allocation:
        """The slot of the iteration before."""
        assert self.turn is not None, "the buffer rotates"
        return replace(self, turn=self.turn - 1)


def _allocation(op: tile.AllocOp, loops: tuple[str, ...]) -> _Allocation:
    """A buffer that is allocated inside `loops`."""
    if op.address is None:
        raise PassError(f"emit-g5: tile.alloc at '{op.path.data}' has no address, run allocate-lmem first")
    type_ = tile.buffer_type(op.result)
    start, slots, size = op.address.value.data, op.slots.value.data, type_.bytes
    turn = expr(tile.running_count(loops[-1])) if slots > 1 and loops else None
    buffer = Buffer(start, start + slots * size, slots, len(loops))
    return _Allocation(turn, size, type_.dims[1], type_.element_type, buffer)


class _Kernel:
    """Emits one kernel: its ops first, then what each command waits for."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self.allocations: dict[SSAValue, _Allocation] = dict(stream.held)
        self.commands: dict[Command, g5.CommandOp] = {}

    def program(self, op: tile.KernelOp) -> g5.ProgramOp:
        """The program of a kernel."""
        block, items = self.body(op.body.block, ())
        for command, waits in lags(items).items():
            if waits:
                after = tuple((engine, waits[engine]) for engine in g5.ENGINES if engine in waits)
                self.commands[command].properties["after"] = g5.AfterAttr(after)
        block.add_op(g5.BarrierOp.make([], [], op.path.data, {}, like=op))
        properties: dict[str, PropertyValue] = {"cores": op.cores, "op_name": op.op_name, **self.hand_over(op)}
        return g5.ProgramOp.make([], [], op.path.data, properties, [Region(block)], like=op)

    def hand_over(self, op: tile.KernelOp) -> dict[str, PropertyValue]:
        """The LMEM that the kernel loads for a later one, and what it has from an earlier one."""
        loaded = {load.buffer for load in op.walk() if isinstance(load, tile.LoadOp)}
        used = {value for user in op.walk() for value in user.operands}
        own = [(value, a.buffer) for value, a in self.stream.held.items() if value in used]
        given = [g5.SpanAttr.of(b.start, b.stop - b.start) for value, b in own if value in loaded]
        taken = [g5.SpanAttr.of(b.start, b.stop - b.start) for value, b in own if value not in loaded]
        return {"hands_over": ArrayAttr(given) if given else None, "takes": ArrayAttr(taken) if taken else None}

    def body(self, block: Block, loops: tuple[str, ...]) -> tuple[Block, list[Item]]:
        """The commands of a body inside `loops`, and the same as `hazards` sees them."""
        out: list[Operation] = []
        items: list[Item] = []
        for op in block.ops:
            match op:
                case tile.AllocOp():
                    self.allocations[op.result] = _allocation(op, loops)
                case tile.PreviousOp():
                    self.allocations[op.result] = self.allocations[op.source].previous()
                case tile.HandedOverOp():
                    held = self.allocations[op.held].buffer.start
                    self.allocations[op.result] = replace(self.allocations[op.own], held=held, later=op.later.data)
                case tile.ViewOp():
                    self.stream.bases[op.result] = self.stream.base(op.source, op)
                case tile.ForOp():
                    inner, inner_items = self.body(op.body.block, (*loops, op.symbol.data))
                    properties = {"symbol": op.symbol, "count": op.count}
                    out.append(g5.LoopOp.make([], [], op.path.data, properties, [Region(inner)], like=op))
                    count = op.count.data
                    least = max(count.constant, 0) if count.is_constant else 0
                    items.append(Loop(least, inner_items, once=min_of(count, 1) == count))
                case tile.BarrierOp():
                    out.append(g5.BarrierOp.make([], [], op.path.data, {}, like=op))
                    items.append(Barrier())
                case tile.CommandOp():
                    emitted = self.command(op)
                    out.append(emitted)
                    own = [a for a in op.accesses() if a.memory == "lmem" and a.core is None]
                    used = [(a, self.allocations[a.value].buffer) for a in own]
                    reads, writes = [b for a, b in used if a.may_read], [b for a, b in used if a.writes]
                    late = isinstance(op, tile.StoreOp) and op.late is not None
                    behind = [b for a, b in used if isinstance(a.value.owner, tile.PreviousOp)]
                    command = Command(emitted.ENGINE, reads, writes, late, behind)
                    items.append(command)
                    self.commands[command] = emitted
                case _:
                    raise PassError(f"emit-g5: {op.name} cannot stand in a tile.kernel")
        result = Block()
        result.add_ops(out)
        return result, items

    def matrix(self, value: SSAValue) -> g5.LmemAttr:
        """A buffer as an operand."""
        allocation = self.allocations[value]
        return g5.LmemAttr.of(allocation.address, allocation.pitch, allocation.element_type)

    def command(self, op: tile.CommandOp) -> g5.CommandOp:
        """The command of an op."""
        match op:
            case tile.LoadOp() | tile.StoreOp():
                return self.transfer(op)
            case tile.GatherOp():
                return self.gather(op)
            case tile.GatherRowsOp():
                return self.gather_rows(op)
            case tile.MmaOp():
                properties = {name: op.properties[name] for name in ("m", "n", "k", "accumulate", "transpose_b")}
                operands = {"acc": self.matrix(op.acc), "a": self.matrix(op.a), "b": self.matrix(op.b)}
                return g5.TiuOp.make([], [], op.path.data, {**operands, **properties}, like=op)
            case tile.VectorOp():
                kind = g5.HauOp if op.kind.ENGINE == "hau" else g5.VecOp
                groups = {"ins": op.ins, "outs": op.outs, "updates": op.updates}
                matrices = {name: ArrayAttr([self.matrix(v) for v in values]) for name, values in groups.items()}
                properties = {name: op.properties[name] for name in ("kind", "rows", "columns")}
                return kind.make([], [], op.path.data, {**matrices, **properties}, like=op)
            case tile.FetchOp():
                return self.fetch(op)
            case _:
                raise PassError(f"emit-g5: {op.name} at '{op.path.data}' is no command of a core")

    def fetch(self, op: tile.FetchOp) -> g5.FetchOp:
        """A copy out of the LMEM of another core, where buffers have the addresses that they have here."""

        def rows_from(value: SSAValue, row: Expr) -> g5.LmemAttr:
            a = self.allocations[value]
            pitch_bytes = a.pitch * element_bytes(a.element_type, op)
            return g5.LmemAttr.of(a.address + row * pitch_bytes, a.pitch, a.element_type)

        properties: dict[str, PropertyValue] = {
            "core": op.core,
            "source": rows_from(op.source, op.from_row.data),
            "target": rows_from(op.buffer, op.row.data),
            "rows": op.rows,
            "columns": op.columns,
        }
        return g5.FetchOp.make([], [], op.path.data, properties, like=op)

    def transfer(self, op: tile.LoadOp | tile.StoreOp) -> g5.GdmaOp:
        """A strided copy; dims of size 1 are dropped."""
        type_, allocation = tile.memref_type(op.memref), self.allocations[op.buffer]
        if type_.element_type != allocation.element_type:
            raise PassError(
                f"emit-g5: {op.name} at '{op.path.data}' moves {type_.element_type} to "
                f"{allocation.element_type}, both must be one type"
            )
        size = element_bytes(type_.element_type, op)
        element = type_.offset.data
        for offset, stride in zip(op.offsets.data, type_.strides.data, strict=True):
            element = element + offset.data * stride
        lmem = allocation.address + (op.row.data * allocation.pitch + op.column.data) * size
        sizes = [s.data for s in op.sizes.data]
        # All dims but the last are rows of the buffer, one after the other.
        lmem_strides = [expr(1)]
        row = expr(allocation.pitch)
        for rows in reversed(sizes[:-1]):
            lmem_strides.insert(0, row)
            row = row * rows
        kept = [i for i, s in enumerate(sizes) if s != 1] or [len(sizes) - 1]
        if len(kept) > g5.GDMA_RANK:
            raise PassError(
                f"emit-g5: {op.name} at '{op.path.data}' moves a block of {len(kept)} dims, "
                f"a GDMA descriptor has {g5.GDMA_RANK}"
            )
        properties: dict[str, PropertyValue] = {
            "direction": _direction(isinstance(op, tile.LoadOp)),
            "dram": ExprAttr(self.stream.base(op.memref, op) + element * size),
            "lmem": ExprAttr(lmem),
            "shape": _exprs([sizes[i] for i in kept]),
            "dram_strides": _exprs([type_.strides.data[i] for i in kept]),
            "lmem_strides": _exprs([lmem_strides[i] for i in kept]),
            "element_type": type_.element_type,
            "serves": op.serves if isinstance(op, tile.LoadOp) else None,
            "late": op.late if isinstance(op, tile.StoreOp) else None,
        }
        return g5.GdmaOp.make([], [], op.path.data, properties, like=op)

    def gather_rows(self, op: tile.GatherRowsOp) -> g5.GatherRowsOp:
        """A gather by SDMA, from the matrix that the leading offsets pick."""
        type_ = tile.memref_type(op.memref)
        size = element_bytes(type_.element_type, op)
        element = type_.offset.data
        for at, step in zip(op.lead.data, type_.strides.data, strict=False):
            element = element + at.data * step
        *_, rows, columns = type_.dims
        properties: dict[str, PropertyValue] = {
            "dram": ExprAttr(self.stream.base(op.memref, op) + element * size),
            "rows": rows,
            "stride": type_.steps[-2],
            "index": self.matrix(op.index),
            "lmem": self.matrix(op.buffer),
            "count": op.count,
            "columns": columns,
            "bandwidth_domain": op.bandwidth_domain,
        }
        return g5.GatherRowsOp.make([], [], op.path.data, properties, like=op)

    def gather(self, op: tile.GatherOp) -> g5.GatherOp:
        """A gather of rows by an index in LMEM."""
        type_ = tile.memref_type(op.memref)
        size = element_bytes(type_.element_type, op)
        *_, rows, _ = type_.dims
        *_, stride, _ = type_.steps
        element = type_.offset.data + op.column.data
        for at, step in zip(op.leading, type_.strides.data, strict=False):
            element = element + at * step
        properties: dict[str, PropertyValue] = {
            "dram": ExprAttr(self.stream.base(op.memref, op) + element * size),
            "rows": IntegerAttr(rows, i64),
            "stride": IntegerAttr(stride, i64),
            "index": self.matrix(op.index),
            "lmem": self.matrix(op.buffer),
            "count": op.count,
            "columns": op.columns,
            "base_axis": op.base_axis,
        }
        return g5.GatherOp.make([], [], op.path.data, properties, like=op)


@cache
def _direction(load: bool) -> StringAttr:
    return StringAttr("load" if load else "store")


def _exprs(values: Sequence[Expr]) -> ArrayAttr[ExprAttr]:
    return ArrayAttr([ExprAttr(v) for v in values])


def element_bytes(element_type: Attribute, op: tile.CommandOp) -> int:
    """The size of an element in bytes; packed elements have no byte address of their own."""
    bits = element_bits(element_type)
    if bits % 8:
        raise PassError(f"emit-g5: {op.name} at '{op.path.data}': {element_type} elements are not whole bytes")
    return bits // 8
