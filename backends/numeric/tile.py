"""Runs tile programs: every core's loops one iteration at a time, all ranks together, buffers as numpy arrays.

A buffer is fresh, filled with NaN, whenever its allocation runs: what an earlier iteration left in a slot is not
there to be relied upon.  DRAM arrays hold their storage types; arithmetic is FP32, FP64 where an operand is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Self

import numpy as np
from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.numeric.collectives import Movement, Ranked, run_collective
from pmc.backends.numeric.command_memory import compute_type, decode, encode, storage_type, unwritten
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import ValueKey
from pmc.backends.numeric.padding import padding_of
from pmc.backends.numeric.streams import (
    HOST_KINDS,
    RESULT_KINDS,
    SINGLE,
    StreamResult,
    collect,
    host_array,
    stored_arrays,
)
from pmc.backends.numeric.vector_kinds import Tiles, run_kind
from pmc.dialects import tile
from pmc.dialects.accesses import TileAccess
from pmc.dialects.dist import PIPELINE, Mesh
from pmc.dialects.expr import Expr, rank_symbol
from pmc.dialects.vector_kinds import ROLES, ROW


def run_tiles(
    program: tile.ProgramOp, arrays: Mapping[str, Array], mesh: Mesh = SINGLE, record: bool = False
) -> StreamResult:
    """Run one step on local arrays by path, as `streams.run_stream` does with commands; `commands` counts tile ops."""
    held = stored_arrays(program)
    run = _Ranks(mesh, arrays, record, _dram(held, mesh))
    run.steps(program.body.block, {}, list(range(mesh.ranks)))
    results: dict[str, dict[str, Array]] = {kind: {} for kind in RESULT_KINDS}
    for op in held:
        if isinstance(op, tile.GlobalOp) and op.kind.data in RESULT_KINDS:
            ranks = run.stage_ranks(op.parent_op(), list(range(mesh.ranks)))
            values = run.memory[op.result].elements[ranks].reshape(len(ranks), *op.memref.dims)
            collect(results[op.kind.data], op, values, ranks, arrays, mesh)
    return StreamResult(results["output"], results["state"], run.commands, run.written)


DRAM_ALIGNMENT = 8
"""Rows of bytes start at a multiple of the widest element."""


def poison(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> Array:
    """[*shape] elements that nobody wrote; `what` opens the error where they are too many."""
    return unwritten((prod(shape) * dtype.itemsize,), what).view(dtype).reshape(shape)


def _dram(held: Iterable[Operation], mesh: Mesh) -> Array:
    """[ranks, bytes] up to the end of the last array, which nobody wrote."""
    ends = [
        op.address.value.data + op.memref.bytes
        for op in held
        if isinstance(op, tile.GlobalOp) and op.address is not None
    ]
    size = -(-max(ends, default=0) // DRAM_ALIGNMENT) * DRAM_ALIGNMENT
    return unwritten((mesh.ranks, size), "the DRAM of all ranks")


@dataclass
class _Elements:
    """An array, or a view of one, and where its elements are."""

    memory: Array
    """[ranks, bytes] in one piece, of which the array is a part."""
    start: int
    """Its first byte on every rank."""
    elements: Array
    """[ranks, elements] of the whole array."""
    dims: tuple[int, ...]
    steps: tuple[int, ...]
    byte_steps: tuple[int, ...]
    """From rank to rank, and along every dim."""
    offset: Expr

    @classmethod
    def of(cls, type_: tile.MemRefType, memory: Array, start: int, elements: Array) -> Self:
        """That of a type in the `elements` of an array, which lie in `memory` from byte `start`."""
        steps = type_.steps
        byte_steps = (memory.strides[0], *(s * elements.itemsize for s in steps))
        return cls(memory, start, elements, type_.dims, steps, byte_steps, type_.offset.data)

    def seen_as(self, type_: tile.MemRefType) -> Self:
        """A view of it."""
        return self.of(type_, self.memory, self.start, self.elements)


@dataclass
class _Ranks:
    """The DRAM of all ranks: for every global, and every view of it, its elements."""

    mesh: Mesh
    arrays: Mapping[str, Array]
    record: bool
    dram: Array
    """The bytes of all ranks, which arrays with an address share."""
    memory: dict[SSAValue, _Elements] = field(default_factory=dict[SSAValue, "_Elements"])
    held: dict[SSAValue, dict[int, Array]] = field(default_factory=dict[SSAValue, dict[int, Array]])
    """Of every buffer that outlives a kernel what each core has in it."""
    channels: dict[int, Ranked] = field(default_factory=dict[int, Ranked])
    commands: int = 0
    bodies: dict[Block, list[tuple[Operation, _Step | None]]] = field(
        default_factory=dict[Block, "list[tuple[Operation, _Step | None]]"]
    )
    known: dict[tile.CommandOp, tuple[_Command, list[_Part]]] = field(
        default_factory=dict[tile.CommandOp, "tuple[_Command, list[_Part]]"]
    )
    slots: dict[tuple[SSAValue, int], Array] = field(default_factory=dict[tuple[SSAValue, int], Array])
    """Slots of buffers for so many ranks that nobody writes."""
    written: dict[ValueKey, list[dict[int, Array]]] = field(default_factory=dict[ValueKey, list[dict[int, Array]]])

    def steps(self, block: Block, symbols: Mapping[str, int], ranks: list[int]) -> None:
        """Run a body outside kernels on some ranks."""
        for op in block.ops:
            match op:
                case tile.GlobalOp():
                    self.memory[op.result] = self.hold(op, ranks)
                case tile.ViewOp():
                    self.memory[op.result] = self.memory[op.source].seen_as(tile.memref_type(op.result))
                case tile.AllocOp():
                    self.held[op.result] = {}
                case tile.RepeatOp():
                    for layer in op.iterations(symbols.get(tile.PERIOD)):
                        self.steps(op.body.block, {**symbols, op.symbol.data: layer}, ranks)
                case tile.StageOp():
                    self.steps(op.body.block, symbols, self.stage_ranks(op, ranks))
                case tile.KernelOp():
                    self.kernel(op, symbols, ranks)
                    if self.record:
                        self.note(op, symbols, ranks)
                case tile.CollectiveOp():
                    self.collective(op, symbols, ranks)
                case _:
                    raise NumericError(f"{op.name} has no numeric semantics outside a kernel")

    def kernel(self, op: tile.KernelOp, symbols: Mapping[str, int], ranks: list[int]) -> None:
        """All cores one after the other, from barrier to barrier."""
        cores: list[_Core] = []
        held = {value for user in op.walk() for value in user.operands if value in self.held}
        for core in range(op.cores.value.data):
            cores.append(_Core(self, ranks, {**symbols, tile.CORE: core}, cores))
            for value in held:
                if core not in self.held[value]:
                    self.held[value][core] = self.unwritten(value, len(ranks), op.path.data)
                cores[-1].buffers[value] = self.held[value][core]
        running = [core.body(op.body.block) for core in cores]
        while True:
            waiting = [next(steps, None) for steps in running]
            if all(barrier is None for barrier in waiting):
                return
            if len(set(waiting)) > 1:
                first = next(barrier for barrier in waiting if barrier is not None)
                other = next(core for core, barrier in enumerate(waiting) if barrier is not first)
                raise NumericError(f"{first.name} at '{first.path.data}': core {other} misses the barrier")

    def steps_of(self, block: Block) -> list[tuple[Operation, _Step | None]]:
        """The ops of a body in a kernel with what each does; None for what can stop at a barrier."""
        found = self.bodies.get(block)
        if found is None:
            found = self.bodies[block] = [(op, _step_of(op)) for op in block.ops]
        return found

    def command(self, op: tile.CommandOp) -> tuple[_Command, list[_Part]]:
        """What an op does, and what it reads and writes."""
        found = self.known.get(op)
        if found is None:
            if type(op) not in COMMANDS:
                raise NumericError(f"{_where(op)} has no numeric semantics in a kernel")
            found = self.known[op] = COMMANDS[type(op)], [_Part.of(access, op) for access in op.accesses()]
        return found

    def unwritten(self, buffer: SSAValue, ranks: int, path: str) -> Array:
        """A new slot of a buffer, of so many ranks."""
        slot = self.slots.get((buffer, ranks))
        if slot is None:
            slot = self.slots[buffer, ranks] = _slot(buffer, ranks, path)
        return slot.copy()

    def stage_ranks(self, stage: Operation | None, ranks: list[int]) -> list[int]:
        """Those of `ranks` that run a stage; all of them for another op."""
        if not isinstance(stage, tile.StageOp):
            return ranks
        axis, index = self.mesh.axis(PIPELINE), stage.index.value.data
        return [r for r in ranks if axis.coordinate(r) == index]

    def coordinates(self, ranks: Sequence[int]) -> dict[str, Array]:
        """The coordinate of every rank along every axis, [ranks, 1], by the symbol that parameters know it by."""
        return {
            rank_symbol(axis.name): np.array([axis.coordinate(r) for r in ranks])[:, None] for axis in self.mesh.axes
        }

    def note(self, kernel: tile.KernelOp, symbols: Mapping[str, int], ranks: list[int]) -> None:
        """Record the arrays that a kernel has stored to, in the order of its first stores."""
        stores = (op for op in kernel.body.block.walk() if isinstance(op, tile.StoreOp))
        results = (memref for memref in dict.fromkeys(op.memref for op in stores) if not _is_scratch(memref))
        for result, memref in enumerate(results):
            dims = tile.memref_type(memref).dims
            values = decode(self.block(memref, (0,) * len(dims), dims, symbols, lambda: kernel.name), np.float64)
            key = ValueKey(kernel.path.data, kernel.op_name.data, result)
            self.written.setdefault(key, []).append({rank: values[rank] for rank in ranks})

    def hold(self, op: tile.GlobalOp, ranks: list[int]) -> _Elements:
        """The elements of a global on all ranks: memory of its own until allocate-dram gives it an address.

        Only `ranks` have the array; what other ranks store at its address is left alone.
        """
        type_ = op.memref
        dtype, size = storage_type(type_.element_type), prod(type_.dims)
        start, memory = 0, self.dram
        if op.address is None:
            memory = unwritten((self.mesh.ranks, size * dtype.itemsize), f"{op.path.data}: the array")
        else:
            start = op.address.value.data
        held = memory[:, start : start + size * dtype.itemsize].view(dtype)
        if op.kind.data in HOST_KINDS:
            values = host_array(op, self.arrays, self.mesh)
            held[ranks] = values[ranks].reshape(len(ranks), size)
        return _Elements.of(type_, memory, start, held)

    def block(
        self,
        memref: SSAValue,
        offsets: Sequence[int],
        sizes: Sequence[int],
        symbols: Mapping[str, int],
        where: Callable[[], str],
    ) -> Array:
        """[all ranks, *sizes] elements of an array from `offsets`; writing to it writes DRAM.

        `where` opens the error for a block that is not all in the array.
        """
        array = self.memory[memref]
        elements, dims = array.elements, array.dims
        reach, first = 0, array.offset.integer(symbols)
        for o, s, d, step in zip(offsets, sizes, dims, array.steps, strict=True):
            if o < 0 or s < 0 or o + s > d:
                raise NumericError(f"{where()}: block {list(sizes)} at {list(offsets)} leaves the array {list(dims)}")
            first += o * step
            reach += (s - 1) * step
        ranks, count = elements.shape
        if 0 in sizes:
            return np.empty((ranks, *sizes), elements.dtype)
        if not 0 <= first <= first + reach < count:
            raise NumericError(f"{where()}: elements {first}..{first + reach} of an array of {count}")
        at = array.start + first * elements.itemsize
        return np.ndarray((ranks, *sizes), elements.dtype, array.memory.data, at, array.byte_steps)

    def collective(self, op: tile.CollectiveOp, symbols: Mapping[str, int], ranks: list[int]) -> None:
        """A movement of the chip, on whole arrays."""
        where = partial(_where, op)

        def whole(value: SSAValue) -> Array:
            dims = tile.memref_type(value).dims
            return self.block(value, (0,) * len(dims), dims, symbols, where)

        sources = [whole(v) for v in op.ins]
        targets = [whole(v) for v in op.outs]
        operands = [{r: decode(s[r], compute_type([s.dtype])) for r in ranks} for s in sources]
        movement = Movement(op.exchange(), operands, [t.shape[1:] for t in targets], self.mesh, ranks, self.channels)
        results = run_collective(op.path.data, movement)
        for value, target, result in zip(op.outs, targets, results, strict=True):
            for rank in ranks:
                if result[rank].shape != target.shape[1:]:
                    raise NumericError(f"{where()}: gives {list(result[rank].shape)} for {list(target.shape[1:])}")
                target[rank] = encode(result[rank], tile.memref_type(value).element_type)


def _is_scratch(memref: SSAValue) -> bool:
    """Whether an array is memory of one kernel and no result."""
    owner = memref.owner
    if isinstance(owner, tile.ViewOp):
        return _is_scratch(owner.source)
    return isinstance(owner, tile.GlobalOp) and owner.kind.data == "scratch"


def _slot(buffer: SSAValue, ranks: int, path: str) -> Array:
    """A slot of a buffer that nobody has written, of so many ranks."""
    type_ = tile.buffer_type(buffer)
    return poison((ranks, *type_.dims), storage_type(type_.element_type), f"{path}: the buffer")


@dataclass
class _Part:
    """An operand of an op, and its shape and place where these are the same in every iteration."""

    access: TileAccess
    role: str
    in_dram: bool
    value: SSAValue
    shape: tuple[int, ...] | None
    offsets: tuple[int, ...] | None
    where: Callable[[], str]
    """Opens an error."""

    @classmethod
    def of(cls, access: TileAccess, op: tile.CommandOp) -> Self:
        """The operand `access` of `op`."""
        constants = _constants(access.shape), _constants(access.offsets)
        return cls(access, access.role, access.memory == "dram", access.value, *constants, partial(_where, op))


def _constants(values: Sequence[Expr]) -> tuple[int, ...] | None:
    return tuple(value.constant for value in values) if all(value.is_constant for value in values) else None


def _where(op: tile.CommandOp | tile.CollectiveOp) -> str:
    return f"{op.name} at '{op.path.data}'"


class _Core:
    """One core of some ranks while it runs one kernel."""

    def __init__(self, dram: _Ranks, ranks: list[int], symbols: dict[str, int], cores: Sequence[_Core]) -> None:
        self.dram = dram
        self.cores = cores
        self.last: dict[Operation, bool] = {}
        """Of every loop that runs whether this is its last iteration."""
        self.late: dict[tile.StoreOp, tuple[dict[str, int], Array]] = {}
        """Late stores that have not been done: the symbols of their iteration and the slot of their buffer."""
        self.ranks = ranks
        self.places: slice | list[int] = slice(None) if len(ranks) == dram.mesh.ranks else ranks
        """The ranks as an index, which copies nothing where it is all of them."""
        self.symbols = symbols
        self.buffers: dict[SSAValue, Array] = {}
        self.before: dict[SSAValue, Array] = {}
        """Of every buffer the slot of the iteration before."""

    def value(self, expression: Expr) -> int:
        """The value of an expression in this iteration."""
        return expression.integer(self.symbols)

    def values(self, expressions: Sequence[Expr]) -> tuple[int, ...]:
        """Their values in this iteration."""
        symbols = self.symbols
        return tuple([expression.integer(symbols) for expression in expressions])

    def body(self, block: Block) -> Iterator[tile.BarrierOp]:
        """Run the ops of a kernel or of one iteration of a loop; stops at barriers until it is asked to go on."""
        for op, step in self.dram.steps_of(block):
            if step is not None:
                step(self, op)
            elif isinstance(op, tile.ForOp):
                for _ in self.iterations(op):
                    yield from self.body(op.body.block)
            else:
                assert isinstance(op, tile.BarrierOp)
                yield op

    def iterations(self, loop: tile.ForOp) -> Iterator[None]:
        """Bind the symbols of a loop for one iteration after the other."""
        symbol, running = loop.symbol.data, tile.running_count(loop.symbol.data)
        self.symbols.setdefault(running, 0)
        count = self.value(loop.count.data)
        for iteration in range(count):
            self.symbols[symbol] = iteration
            self.last[loop] = iteration == count - 1
            yield
            self.symbols[running] += 1

    def loop(self, op: tile.ForOp) -> None:
        """A loop without barriers."""
        steps = self.dram.steps_of(op.body.block)
        for _ in self.iterations(op):
            for inner, step in steps:
                assert step is not None
                step(self, inner)

    def allocate(self, op: tile.AllocOp) -> None:
        """A slot that nobody has written."""
        buffer = op.result
        if buffer in self.buffers:
            self.before[buffer] = self.buffers[buffer]
        self.buffers[buffer] = self.dram.unwritten(buffer, len(self.ranks), op.path.data)

    def hand_over(self, op: tile.HandedOverOp) -> None:
        """The buffer that an earlier kernel has loaded, or the kernel's own."""
        self.buffers[op.result] = self.buffers[op.own if self.value(op.later.data) else op.held]

    def previous(self, op: tile.PreviousOp) -> None:
        """The slot of the iteration before."""
        if op.source not in self.before:
            raise NumericError(f"{op.name} at '{op.path.data}': no iteration came before")
        self.buffers[op.result] = self.before[op.source]

    def command(self, op: tile.CommandOp) -> None:
        """Run one op on the parts of its operands."""
        self.execute(op)
        self.dram.commands += len(self.ranks)

    def execute(self, op: tile.CommandOp) -> None:
        """The same without counting it."""
        run, parts = self.dram.command(op)
        run(self, op, {part.role: self.part(part, op) for part in parts})

    def load(self, _op: tile.LoadOp, parts: Mapping[str, Array]) -> None:
        """A block of DRAM to rows of a buffer."""
        rows = parts["lmem"]
        rows[...] = parts["dram"][self.places].reshape(rows.shape)

    def store(self, _op: tile.StoreOp, parts: Mapping[str, Array]) -> None:
        """Rows of a buffer to a block of DRAM."""
        memory = parts["dram"]
        memory[self.places] = parts["lmem"].reshape(len(self.ranks), *memory.shape[1:])

    def fetch(self, _op: tile.FetchOp, parts: Mapping[str, Array]) -> None:
        """A part of a buffer of another core."""
        parts["target"][...] = parts["source"]

    def store_late(self, op: tile.StoreOp) -> None:
        """The store of the iteration before, and in the last iteration also its own."""
        if op in self.late:
            now, slot = self.symbols, self.buffers[op.buffer]
            self.symbols, self.buffers[op.buffer] = self.late.pop(op)
            self.execute(op)
            self.symbols, self.buffers[op.buffer] = now, slot
        loop = op.parent_op()
        if loop is not None and self.last[loop]:
            self.execute(op)
        else:
            self.late[op] = (dict(self.symbols), self.buffers[op.buffer])
        self.dram.commands += len(self.ranks)

    def part(self, part: _Part, op: tile.CommandOp) -> Array:
        """What an op uses: [all ranks, *shape] of an array, [ranks, rows, columns] of a buffer of the running ones."""
        access = part.access
        shape = self.values(access.shape) if part.shape is None else part.shape
        at = self.values(access.offsets) if part.offsets is None else part.offsets
        if part.in_dram:
            if access.indexed:
                shape = (*shape[:-2], tile.memref_type(access.value).dims[-2], shape[-1])
            return self.dram.block(part.value, at, shape, self.symbols, part.where)
        owner = self if access.core is None else self.core(self.value(access.core), op)
        held = owner.buffers[part.value]
        (rows, columns), (row, column), (_, most_rows, most_columns) = shape, at, held.shape
        if min(rows, columns, row, column) < 0 or row + rows > most_rows or column + columns > most_columns:
            raise NumericError(f"{part.where()}: {list(shape)} at {list(at)} leaves the buffer {list(held.shape[1:])}")
        return held[:, row : row + rows, column : column + columns]

    def core(self, number: int, op: tile.CommandOp) -> _Core:
        """Another core of the kernel, in whose LMEM `op` reads."""
        if not 0 <= number < len(self.cores):
            raise NumericError(f"{_where(op)}: there is no core {number}, the kernel has 0..{len(self.cores) - 1}")
        return self.cores[number]

    def gather(self, op: tile.GatherOp, parts: Mapping[str, Array]) -> None:
        """Rows by index; rows of other shards are padding."""
        table, target = parts["dram"], parts["lmem"]
        table = table.reshape(table.shape[0], *table.shape[-2:])
        rows, index = table.shape[1], parts["index"][:, 0].astype(np.int64)
        axis = None if op.base_axis is None else self.dram.mesh.axis(op.base_axis.data)
        for position, rank in enumerate(self.ranks):
            local = index[position] - (0 if axis is None else axis.coordinate(rank) * rows)
            held = (local >= 0) & (local < rows)
            found = table[rank, np.where(held, local, 0)]
            target[position] = np.where(held[:, None], found, padding_of(table))

    def gather_rows(self, op: tile.GatherRowsOp, parts: Mapping[str, Array]) -> None:
        """Rows by index, each of which must exist."""
        table, target = parts["dram"], parts["lmem"]
        table = table.reshape(table.shape[0], *table.shape[-2:])
        for position, rank in enumerate(self.ranks):
            index = parts["index"][position, 0].astype(np.int64)
            wrong = index[(index < 0) | (index >= table.shape[1])]
            if len(wrong):
                where = f"{op.name} at '{op.path.data}'"
                raise NumericError(f"{where}: gathers row {int(wrong[0])} of a matrix of {table.shape[1]} rows")
            target[position] = table[rank, index]

    def mma(self, op: tile.MmaOp, parts: Mapping[str, Array]) -> None:
        """acc (+)= a b."""
        acc, a, b = (parts[role] for role in ("acc", "a", "b"))
        b = b.swapaxes(1, 2) if bool(op.transpose_b) else b
        compute = compute_type([acc.dtype, a.dtype, b.dtype])
        product = np.matmul(decode(a, compute), decode(b, compute))
        if self.value(op.accumulate.data):
            product += decode(acc, compute)
        acc[...] = encode(product, tile.buffer_type(op.acc).element_type)

    def vector(self, op: tile.VectorOp, parts: Mapping[str, Array]) -> None:
        """A vector kind on parts of the buffers."""
        ins, outs, updates = ([parts[m.name] for m in op.kind.operands(role)] for role in ROLES)
        values: dict[str, Array] = {}
        expressions = op.kind.expressions()
        if expressions:
            symbols = {**self.symbols, **self.dram.coordinates(self.ranks), ROW: np.arange(self.value(op.rows.data))}
            values = {name: np.asarray(value.evaluate(symbols)) for name, value in expressions.items()}
        compute = compute_type([part.dtype for part in parts.values()])
        tiles = Tiles(
            [decode(part, compute) for part in ins],
            [decode(part, compute) for part in updates],
            (*outs, *updates)[0].shape,
            values,
        )
        written = zip([*op.outs, *op.updates], [*outs, *updates], run_kind(op.kind, tiles), strict=True)
        for value, part, result in written:
            part[...] = encode(result, tile.buffer_type(value).element_type)


_Step = Callable[[_Core, Any], None]
_Command = Callable[[_Core, Any, Mapping[str, Array]], None]

COMMANDS: Mapping[type[tile.CommandOp], _Command] = {
    tile.LoadOp: _Core.load,
    tile.StoreOp: _Core.store,
    tile.GatherOp: _Core.gather,
    tile.GatherRowsOp: _Core.gather_rows,
    tile.MmaOp: _Core.mma,
    tile.VectorOp: _Core.vector,
    tile.FetchOp: _Core.fetch,
}
"""What the commands of a core do with the parts of their operands."""


def _step_of(op: Operation) -> _Step | None:
    """What an op in a kernel does; None for a barrier, and for a loop with barriers."""
    match op:
        case tile.BarrierOp():
            return None
        case tile.ForOp():
            return None if any(isinstance(inner, tile.BarrierOp) for inner in op.walk()) else _Core.loop
        case tile.AllocOp():
            return _Core.allocate
        case tile.HandedOverOp():
            return _Core.hand_over
        case tile.PreviousOp():
            return _Core.previous
        case tile.StoreOp() if op.late is not None:
            return _Core.store_late
        case tile.CommandOp():
            return _Core.command
        case _:
            raise NumericError(f"{op.name} has no numeric semantics in a kernel")
