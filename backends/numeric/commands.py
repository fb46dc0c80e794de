"""A functional simulator of `g5` programs: commands move and compute real bytes in the DRAM and LMEM of all cores.

All cores that run the same command with the same LMEM addresses and sizes at the same place of their program do so in
one numpy call, for all ranks together.  Each core's commands run in program order; that no other order the engines may
take gives another result is what `command_order` checks, once per set of cores with equal commands.  Reads of bytes
that nobody wrote, races, addresses out of bounds or misaligned are NumericErrors naming command, engine, core and path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from xdsl.ir import Attribute

from pmc.backends.numeric.command_memory import CoreSet, Dram, Lmem, compute_type, decode, encode, storage_type
from pmc.backends.numeric.command_order import Access, CoreOrder
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.padding import padding_of
from pmc.backends.numeric.vector_kinds import Tiles, run_kind
from pmc.dialects import g5
from pmc.dialects.accesses import CommandAccess
from pmc.dialects.analyses.expand import ENGINE_NUMBER, Ints, Runs, expand, loops_and_commands
from pmc.dialects.expr import Expr, rank_symbol
from pmc.dialects.tile import CORE, is_running_count
from pmc.dialects.vector_kinds import ROLES, ROW

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Elements in LMEM: byte address, shape, distances in bytes, type, and the numpy type that holds one."""

    start: int
    shape: Shape
    steps: Shape
    element_type: Attribute
    dtype: np.dtype[Any]

    @property
    def stop(self) -> int:
        """The end of the last element."""
        return self.start + self.dtype.itemsize + sum((n - 1) * s for n, s in zip(self.shape, self.steps, strict=True))

    def access(self, write: bool) -> Access:
        """The bytes for the check of the waits; elements of the last dim are adjacent."""
        size = self.dtype.itemsize
        if self.steps[-1] == size:
            return Access(self.start, self.shape[:-1], self.steps[:-1], size * self.shape[-1], write)
        return Access(self.start, self.shape, self.steps, size, write)


@dataclass(frozen=True)
class _Operand:
    """An operand in LMEM; what is the same in every run is a number."""

    access: CommandAccess
    dtype: np.dtype[Any]
    shape: tuple[Expr | int, ...]
    strides: tuple[Expr | int, ...]
    address: Expr | int
    reads: Expr | int

    @classmethod
    def of(cls, access: CommandAccess) -> Self:
        """The operand `access`."""
        return cls(
            access,
            storage_type(access.element_type),
            tuple(map(_constant, access.shape)),
            tuple(map(_constant, access.strides)),
            _constant(access.address),
            _constant(access.reads),
        )


def _constant(value: Expr) -> Expr | int:
    return value.constant if value.is_constant else value


@dataclass(frozen=True)
class _Operands:
    """What a command uses."""

    in_lmem: tuple[_Operand, ...]
    uniform: tuple[Expr, ...]
    """The expressions that must have one value in a batch: all but where a block is in DRAM."""
    symbols: frozenset[str]
    """What these depend on, and the core in whose LMEM an operand is."""

    @classmethod
    def of(cls, op: g5.CommandOp) -> Self:
        """What `op` uses."""
        accesses = op.accesses()
        values = dict.fromkeys(
            value
            for a in accesses
            for value in (*a.shape, *a.strides, a.reads, *([a.address] if a.memory == "lmem" else []))
            if not value.is_constant
        )
        cores = [a.core for a in accesses if a.core is not None]
        symbols = frozenset[str]().union(*(value.symbols for value in (*values, *cores)))
        return cls(tuple(_Operand.of(a) for a in accesses if a.memory == "lmem"), tuple(values), symbols)


@dataclass
class Batch:
    """One command of several cores: same place in their programs, same LMEM addresses and sizes."""

    runs: Runs
    index: Ints
    """Which of the runs."""
    cores: Ints
    phase: int
    """Barriers before it."""
    order: int
    operands: _Operands
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    """The operands in LMEM, by role."""
    accesses: list[Access] = field(default_factory=list[Access])

    @property
    def core_set(self) -> CoreSet:
        """The cores, as a range where they are adjacent."""
        first, count = int(self.cores[0]), len(self.cores)
        return slice(first, first + count) if int(self.cores[-1]) - first + 1 == count else self.cores


@dataclass(frozen=True)
class _Held:
    """LMEM that a program has loaded for a later one."""

    path: str
    """The program that has."""
    written: npt.NDArray[np.bool_]
    """[cores, bytes]: what it has written."""


class ProgramRun:
    """Runs the commands of one program on the cores of some ranks."""

    def __init__(
        self, dram: Dram, lmem_bytes: int, coordinates: Mapping[str, Sequence[int]], check_order: bool = True
    ) -> None:
        """`coordinates` gives every rank's coordinate on each mesh axis; `lmem_bytes` is the LMEM of a core."""
        self.dram = dram
        self.lmem_bytes = lmem_bytes
        self.coordinates = coordinates
        self.check_order = check_order
        self.lmem = Lmem(0, len(dram.bytes), 0)
        self.commands = 0
        """Commands run so far, of all ranks and cores."""
        self.running: dict[str, range] = {}
        """The programs since the last barrier, by path, and the LMEM that their commands may still use."""
        self.held: dict[g5.SpanAttr, _Held] = {}
        """The LMEM that programs have loaded for later ones."""
        self.operands: dict[g5.CommandOp, _Operands] = {}
        self.prepared: dict[g5.ProgramOp, list[Batch]] = {}
        """Of programs in which every layer does the same, but for DRAM addresses, the batches; their order is right."""

    def run(self, program: g5.ProgramOp, symbols: Mapping[str, int]) -> None:
        """Run all commands; `symbols` are the layer numbers around the program."""
        cores = program.cores.value.data
        ranks = len(self.dram.bytes)
        before = self.prepared.get(program)
        batches = self._batches(program, symbols) if before is None else _moved(before, symbols)
        used = max((a.stop for b in batches for a in b.accesses), default=0)
        first = min((a.start for b in batches for a in b.accesses), default=0)
        for path, other in self.running.items():
            if first < other.stop and other.start < used:
                raise NumericError(
                    f"g5.program at '{program.path.data}' uses LMEM that the program at '{path}' may still use: "
                    "a g5.barrier is missing between them"
                )
        self.running[program.path.data] = range(first, used)
        taken = self._take(program, batches)
        given = program.handed_over.gives
        if self.check_order and before is None:
            size = max([used, *(span.bytes.stop for span in (*taken, *given))])
            written = _check_order(batches, cores, size, taken)
            for span in given:
                self.held[span] = _Held(program.path.data, written[:, span.bytes.start : span.bytes.stop])
        if before is None:
            check_fetches(batches)
            if not (taken or given or self._symbols(program) & symbols.keys()):
                self.prepared[program] = batches
        check_multicasts(program, batches)
        phase = 0
        for batch in batches:
            if batch.phase > phase:
                self.dram.settle()
                phase = batch.phase
            self._execute(batch, self._lmem(cores, used))
            self.commands += len(batch.cores) * ranks
        if _ends_with_barrier(program):
            self.dram.settle()
            self.running.clear()

    def require_barrier(self, where: str) -> None:
        """Raise NumericError while commands of a program may still run, for `where` does not wait for them."""
        for path in self.running:
            raise NumericError(f"{where} comes after the program at '{path}', which ends without a g5.barrier")

    def release(self, spans: Iterable[g5.SpanAttr]) -> None:
        """Forget what programs have loaded for runs of a body that do not come."""
        for span in spans:
            self.held.pop(span, None)

    def _batches(self, program: g5.ProgramOp, symbols: Mapping[str, int]) -> list[Batch]:
        """The batches of a program in an order in which they can run, with their places in LMEM."""
        batches: list[Batch] = []
        for runs in expand(program, range(program.cores.value.data), symbols):
            operands = self.operands.get(runs.op)
            if operands is None:
                operands = self.operands[runs.op] = _Operands.of(runs.op)
            batches.extend(_batches(runs, operands))
        batches.sort(key=lambda b: (b.phase, b.order))
        for batch in batches:
            batch.places, batch.accesses = _places(batch)
            self._check_places(batch)
        return batches

    def _symbols(self, program: g5.ProgramOp) -> frozenset[str]:
        """What the trip counts of a program, its places in LMEM and its extents depend on."""
        found: set[str] = set()
        for op in loops_and_commands(program.body.block):
            found |= op.count.data.symbols if isinstance(op, g5.LoopOp) else self.operands[op].symbols
        return frozenset(found)

    def _take(self, program: g5.ProgramOp, batches: Sequence[Batch]) -> dict[g5.SpanAttr, _Held]:
        """What earlier programs have loaded for this one; it leaves alone what they have loaded for others."""
        taken: dict[g5.SpanAttr, _Held] = {}
        for span in program.handed_over.takes if self.check_order else ():
            if span not in self.held:
                raise NumericError(
                    f"g5.program at '{program.path.data}' takes LMEM {span.bytes.start}..{span.bytes.stop - 1}, "
                    "which no program before it hands over"
                )
            taken[span] = self.held.pop(span)
        for span, held in self.held.items():
            for batch in batches:
                if any(a.start < span.bytes.stop and span.bytes.start < a.stop for a in batch.accesses):
                    raise fault(batch, f"uses LMEM that the program at '{held.path}' hands over to a later one")
        return taken

    def _lmem(self, cores: int, size: int) -> Lmem:
        """LMEM of at least that many cores and bytes.

        Cores could read whatever earlier programs left there; the order check forbids relying on it where these do not
        hand it over.
        """
        have_cores, ranks, have_size = self.lmem.bytes.shape
        if have_cores < cores or have_size < size:
            before = self.lmem
            self.lmem = Lmem(max(cores, have_cores), ranks, max(size, have_size))
            self.lmem.bytes[:have_cores, :, :have_size] = before.bytes
        return self.lmem

    def _check_places(self, batch: Batch) -> None:
        for place in batch.places.values():
            if min(place.shape) < 1:
                raise fault(batch, f"extents must be positive, found {list(place.shape)}")
            step, stop = place.dtype.itemsize, place.stop
            if place.start % step:
                raise fault(batch, f"LMEM address {place.start} is no multiple of {step}")
            if place.start < 0 or stop > self.lmem_bytes:
                raise fault(batch, f"LMEM {place.start}..{stop - 1} is outside 0..{self.lmem_bytes - 1}")

    # -- commands -----------------------------------------------------------------------------------------------

    def _execute(self, batch: Batch, lmem: Lmem) -> None:
        match batch.runs.op:
            case g5.GdmaOp() as op:
                self._gdma(op, batch, lmem)
            case g5.GatherOp() | g5.GatherRowsOp() as op:
                self._gather(op, batch, lmem)
            case g5.TiuOp() as op:
                self._tiu(op, batch, lmem)
            case g5.VectorCommandOp() as op:
                self._vector(op, batch, lmem)
            case g5.FetchOp() as op:
                self._fetch(op, batch, lmem)
            case op:
                raise NumericError(f"{op.name} at '{op.path.data}' has no numeric semantics in a program")

    def _gdma(self, op: g5.GdmaOp, batch: Batch, lmem: Lmem) -> None:
        place = batch.places["lmem"]
        if 0 in place.shape:
            return
        dtype = place.dtype
        steps = tuple([_one(batch, _constant(s.data)) * dtype.itemsize for s in op.dram_strides.data])
        starts = batch.runs.value(op.dram.data)[batch.index]
        reach = sum((n - 1) * s for n, s in zip(place.shape, steps, strict=True))
        self._check_dram(batch, starts, reach, dtype.itemsize)
        view = lmem.view(place.start, place.shape, place.steps, dtype)
        for first, count, core_step in _progressions(starts):
            start = int(starts[first])
            cores = batch.cores[first : first + count]
            there = self.dram.across(start, core_step, count, place.shape, steps, dtype)
            owners = self.dram.owners(start, core_step, count, place.shape, steps)
            own = (cores + Dram.CORES).astype(np.int16).reshape(-1, *[1] * len(place.shape))
            adjacent = int(cores[-1]) - int(cores[0]) + 1 == count
            here: CoreSet = slice(int(cores[0]), int(cores[-1]) + 1) if adjacent else cores
            readers = self.dram.readers(start, core_step, count, place.shape, steps)
            last = start + (count - 1) * core_step
            low, high = min(start, last), max(start, last) + reach + dtype.itemsize
            if op.is_load:
                wrong = owners != Dram.SETTLED
                if np.count_nonzero(wrong):
                    wrong &= owners != own
                    if wrong.any():
                        raise self._dram_fault(batch, owners, wrong, cores, "reads")
                view[here] = there
                self.dram.read(readers, own, low, high)
            else:
                wrong = (readers != Dram.UNWRITTEN) & (readers != own)
                if np.count_nonzero(wrong):
                    raise self._overwritten(batch, readers, wrong, cores)
                wrong = (owners >= Dram.CORES) & (owners != own)
                if np.count_nonzero(wrong):
                    raise self._dram_fault(batch, owners, wrong, cores, "writes")
                there[...] = view[here]
                owners[...] = own
                wrong = owners != own
                if np.count_nonzero(wrong):
                    raise self._dram_fault(batch, owners, wrong, cores, "writes")
                self.dram.fresh.append((low, high))

    def _dram_fault(
        self, batch: Batch, owners: npt.NDArray[np.int16], wrong: npt.NDArray[np.bool_], cores: Ints, verb: str
    ) -> NumericError:
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        owner = int(owners[position])
        core = int(cores[position[0]])
        who = "nobody wrote" if owner == Dram.UNWRITTEN else f"core {owner - Dram.CORES} wrote in the same program"
        element = list(position[1:])
        return fault(batch, f"{verb} element {element} of its block of DRAM, which {who}", core)

    def _overwritten(
        self, batch: Batch, readers: npt.NDArray[np.int16], wrong: npt.NDArray[np.bool_], cores: Ints
    ) -> NumericError:
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        reader = int(readers[position])
        who = "other cores read" if reader == Dram.SEVERAL else f"core {reader - Dram.CORES} reads"
        text = f"writes element {list(position[1:])} of its block of DRAM, which {who} without a barrier in between"
        return fault(batch, text, int(cores[position[0]]))

    def _check_dram(self, batch: Batch, starts: Ints, reach: int, size: int) -> None:
        most = self.dram.size - reach - size
        for core, start in zip(batch.cores.tolist(), starts.tolist(), strict=True):
            if not 0 <= start <= most:
                raise fault(batch, f"DRAM {start}..{start + reach + size - 1} is outside 0..{self.dram.size - 1}", core)
            if start % size:
                raise fault(batch, f"DRAM address {start} is no multiple of {size}", core)

    def _gather(self, op: g5.GatherOp | g5.GatherRowsOp, batch: Batch, lmem: Lmem) -> None:
        index_place, target = batch.places["index"], batch.places["lmem"]
        dtype = target.dtype
        rows = op.rows.value.data
        axis = None if isinstance(op, g5.GatherRowsOp) or op.base_axis is None else op.base_axis.data
        if axis is not None and axis not in self.coordinates:
            raise fault(batch, f"the mesh has no axis '{axis}', it has {', '.join(self.coordinates)}")
        ranks = len(self.dram.bytes)
        bases = np.zeros(ranks, np.int64) if axis is None else np.asarray(self.coordinates[axis]) * rows
        index = lmem.view(index_place.start, index_place.shape, index_place.steps, index_place.dtype)
        row_of = index[batch.core_set][:, :, 0, :].astype(np.int64) - bases[:, None]
        held = (row_of >= 0) & (row_of < rows)
        if isinstance(op, g5.GatherRowsOp) and not held.all():
            raise fault(batch, f"gathers row {int(row_of[~held][0])} of a matrix of {rows} rows", int(batch.cores[0]))
        step = op.stride.value.data * dtype.itemsize
        starts = batch.runs.value(op.dram.data)[batch.index]
        columns = target.shape[1]
        self._check_dram(batch, starts, (rows - 1) * step + (columns - 1) * dtype.itemsize, dtype.itemsize)
        view = lmem.view(target.start, target.shape, target.steps, dtype)
        for position, core in enumerate(batch.cores.tolist()):
            start = int(starts[position])
            table = self.dram.view(start, (rows, columns), (step, dtype.itemsize), dtype)
            if (self.dram.owners(start, 0, 1, (rows, columns), (step, dtype.itemsize)) != Dram.SETTLED).any():
                raise fault(batch, "gathers from rows of DRAM that no earlier program wrote", core)
            readers = self.dram.readers(start, 0, 1, (rows, columns), (step, dtype.itemsize))
            own = np.full((1, 1, 1), core + Dram.CORES, np.int16)
            self.dram.read(readers, own, start, start + (rows - 1) * step + columns * dtype.itemsize)
            for rank in range(ranks):
                inside = held[position, rank]
                found = table[rank, np.where(inside, row_of[position, rank], 0)]
                view[core, rank] = np.where(inside[:, None], found, padding_of(table))

    def _tiu(self, op: g5.TiuOp, batch: Batch, lmem: Lmem) -> None:
        acc, a, b = (batch.places[role] for role in ("acc", "a", "b"))
        compute = _compute_type(batch.places.values())
        cores = batch.core_set
        left = _read(lmem, a, cores, compute)
        right = _read(lmem, b, cores, compute)
        if op.transpose_b.value.data:
            right = right.swapaxes(-1, -2)
        product = np.matmul(left, right)
        if _one(batch, _constant(op.accumulate.data)):
            product += _read(lmem, acc, cores, compute)
        _write(lmem, acc, cores, product)

    def _fetch(self, op: g5.FetchOp, batch: Batch, lmem: Lmem) -> None:
        """A block of the LMEM of another core."""
        target, source = batch.places["target"], batch.places["source"]
        dtype = source.dtype
        view = lmem.view(source.start, source.shape, source.steps, dtype)
        found = view[batch.runs.value(op.core.data)[batch.index]]
        lmem.view(target.start, target.shape, target.steps, dtype)[batch.core_set] = found

    def _vector(self, op: g5.VectorCommandOp, batch: Batch, lmem: Lmem) -> None:
        compute, cores = _compute_type(batch.places.values()), batch.core_set
        ins, outs, updates = ([batch.places[m.name] for m in op.kind.operands(role)] for role in ROLES)
        written = (*outs, *updates)
        values = {
            name: self._row_values(batch, value, written[0].shape[0]) for name, value in op.kind.expressions().items()
        }
        tiles = Tiles(
            [_read(lmem, p, cores, compute) for p in ins],
            [_read(lmem, p, cores, compute) for p in updates],
            (len(batch.cores), len(self.dram.bytes), *written[0].shape),
            values,
        )
        results = run_kind(op.kind, tiles)
        for place, result in zip(written, results, strict=True):
            _write(lmem, place, cores, result)

    def _row_values(self, batch: Batch, value: Expr, rows: int) -> Array:
        """The value of a parameter for every core, rank and row: it broadcasts against [cores, ranks, rows]."""
        symbols: dict[str, Any] = {
            name: column[batch.index][:, None, None] if isinstance(column, np.ndarray) else column
            for name, column in batch.runs.symbols.items()
        }
        for axis, places in self.coordinates.items():
            symbols[rank_symbol(axis)] = np.asarray(places)[:, None]
        symbols[ROW] = np.arange(rows)
        evaluated = np.asarray(value.evaluate(symbols))
        return evaluated


# -- batches ----------------------------------------------------------------------------------------------------


def _batches(runs: Runs, operands: _Operands) -> Iterator[Batch]:
    """The runs of one command, grouped by place in the program, LMEM addresses and sizes."""
    if not runs.count:
        return
    phase, order, core = runs.phase, runs.order, runs.core
    if runs.count == 1:
        yield Batch(runs, np.zeros(1, np.int64), core, int(phase[0]), int(order[0]), operands)
        return
    keys = [phase, order]
    for value in operands.uniform:
        column = runs.value(value)
        if np.count_nonzero(column != column[0]):
            keys.append(column)
    by_key = np.lexsort([core, *reversed(keys)])
    table = np.stack(keys, axis=1)[by_key]
    starts = np.flatnonzero(np.concatenate([[True], (table[1:] != table[:-1]).any(axis=1)])).tolist()
    for start, stop in zip(starts, [*starts[1:], runs.count], strict=True):
        index = by_key[start:stop]
        yield Batch(runs, index, core[index], int(table[start, 0]), int(table[start, 1]), operands)


def _moved(batches: list[Batch], symbols: Mapping[str, int]) -> list[Batch]:
    """The batches of a program in another layer, where only DRAM addresses and parameters of kinds are others."""
    runs: dict[g5.CommandOp, Runs] = {}
    for batch in batches:
        op, old = batch.runs.op, batch.runs
        if op not in runs:
            runs[op] = Runs(op, {**old.symbols, **symbols}, old.issued, old.seen)
        batch.runs = runs[op]
    return batches


def _one(batch: Batch, value: Expr | int) -> int:
    """The value of an expression that all cores of a batch share."""
    return value if isinstance(value, int) else int(batch.runs.value(value)[batch.index[0]])


def _places(batch: Batch) -> tuple[dict[str, Place], list[Access]]:
    """The operands in LMEM by role, and the bytes that the command writes and reads there."""
    places: dict[str, Place] = {}
    accesses: list[Access] = []
    for operand in batch.operands.in_lmem:
        access, size = operand.access, operand.dtype.itemsize
        shape, steps = (tuple([_one(batch, e) for e in values]) for values in (operand.shape, operand.strides))
        if min(steps, default=0) < 0:
            raise fault(batch, f"goes backwards in LMEM, by {min(steps)} elements")
        if len(shape) == 2 and shape[1] > steps[0]:
            raise fault(batch, f"uses {shape[1]} columns of rows of {steps[0]}")
        start, byte_steps = _one(batch, operand.address), tuple([s * size for s in steps])
        place = places[access.role] = Place(start, shape, byte_steps, access.element_type, operand.dtype)
        if access.core is not None:
            continue  # `check_fetches` looks after what is in the LMEM of another core
        if access.writes:
            accesses.append(place.access(write=True))
        if _one(batch, operand.reads):
            accesses.append(place.access(write=False))
    return places, accesses


def _progressions(starts: Ints) -> Iterator[tuple[int, int, int]]:
    """Cut addresses into (first, count, step) of equal steps."""
    steps = starts[1:] - starts[:-1]
    first = 0
    while first < len(starts):
        if first == len(starts) - 1:
            yield first, 1, 0
            return
        step = int(steps[first])
        other = np.flatnonzero(steps[first:] != step)
        count = int(other[0]) + 1 if len(other) else len(starts) - first
        yield first, count, step
        first += count


def _compute_type(places: Iterable[Place]) -> type[np.float32] | type[np.float64]:
    return compute_type(place.dtype for place in places)


def _read(lmem: Lmem, place: Place, cores: CoreSet, compute: Any) -> Array:
    return decode(lmem.view(place.start, place.shape, place.steps, place.dtype)[cores], compute)


def _write(lmem: Lmem, place: Place, cores: CoreSet, values: Array) -> None:
    lmem.view(place.start, place.shape, place.steps, place.dtype)[cores] = encode(values, place.element_type)


def _ends_with_barrier(program: g5.ProgramOp) -> bool:
    return isinstance(program.body.block.last_op, g5.BarrierOp)


# -- what cores do for each other ---------------------------------------------------------------------------------


def check_fetches(batches: Sequence[Batch]) -> None:
    """What a core takes from the LMEM of another must have been written before the last barrier and not since."""
    fetches = [b for b in batches if isinstance(b.runs.op, g5.FetchOp)]
    if not fetches:
        return
    writes = [(b, a) for b in batches for a in b.accesses if a.write]
    written: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
    """The bytes of a core that were written before a phase."""
    size = max([b.places["source"].access(False).stop for b in fetches] + [a.stop for _, a in writes])
    for batch in fetches:
        op = batch.runs.op
        assert isinstance(op, g5.FetchOp)
        source = batch.places["source"].access(False)
        for core, owner in zip(batch.cores.tolist(), batch.runs.value(op.core.data)[batch.index].tolist(), strict=True):
            touching = [b for b, a in writes if owner in b.cores and a.start < source.stop and source.start < a.stop]
            where = f"LMEM {source.start}..{source.stop - 1} of core {owner}"
            marks = written.get((owner, batch.phase))
            if marks is None:
                marks = written[owner, batch.phase] = np.zeros(size, np.bool_)
                for b, a in writes:
                    if b.phase < batch.phase and owner in b.cores:
                        a.of(marks)[...] = True
            if not source.of(marks).all():
                raise fault(batch, f"reads {where}, of which no command wrote all before the last barrier", core)
            if any(b.phase == batch.phase for b in touching):
                raise fault(batch, f"reads {where}, which core {owner} writes without a barrier in between", core)


def check_multicasts(program: g5.ProgramOp, batches: Sequence[Batch]) -> None:
    """The cores that one load serves must load the same block wherever they run the same iteration."""
    seen: dict[g5.GdmaOp, Runs] = {b.runs.op: b.runs for b in batches if isinstance(b.runs.op, g5.GdmaOp)}
    for op, runs in seen.items():
        if op.serves is None:
            continue
        group = op.serves.leaders(program.cores.value.data)[runs.core]
        loops = [
            np.broadcast_to(np.asarray(value), (runs.count,))
            for name, value in runs.symbols.items()
            if name != CORE and not is_running_count(name)
        ]
        block = np.stack([runs.value(op.dram.data), *(runs.value(n.data) for n in op.shape.data)])
        keys = np.stack([group, *loops])
        order = np.lexsort(keys[::-1])
        keys, block = keys[:, order], block[:, order]
        wrong = (keys[:, 1:] == keys[:, :-1]).all(axis=0) & (block[:, 1:] != block[:, :-1]).any(axis=0)
        if wrong.any():
            first, second = (int(runs.core[order[int(np.argmax(wrong)) + i]]) for i in (0, 1))
            raise NumericError(
                f"{op.name} at '{op.path.data}': one read is to serve cores {first} and {second}, which load different "
                "blocks in the same iteration"
            )


# -- the check of the waits -------------------------------------------------------------------------------------


def _check_order(
    batches: Sequence[Batch], cores: int, lmem_bytes: int, taken: Mapping[g5.SpanAttr, _Held]
) -> npt.NDArray[np.bool_]:
    """Check one core of every set of cores that run the same batches; gives the bytes that every core has written.

    Bytes that were `taken` from earlier programs have been written.
    """
    marks = np.random.default_rng(0).integers(0, 1 << 62, len(batches), np.int64)
    sums = np.zeros(cores, np.int64)
    for mark, batch in zip(marks, batches, strict=True):
        sums[batch.cores] += mark
    bounds = {b for batch in batches for a in batch.accesses for b in (a.start, a.stop)}
    runs = [dict(zip(batch.cores.tolist(), batch.index.tolist(), strict=True)) for batch in batches]
    written = np.zeros((cores, lmem_bytes), np.bool_)
    for core in sorted(np.unique(sums, return_index=True)[1].tolist()):
        alike = np.flatnonzero(sums == sums[core])
        order = CoreOrder(bounds, lmem_bytes)
        for span, held in taken.items():
            # What one of these cores has not been left, none of them may read.
            left = held.written[alike].all(axis=0) if alike[-1] < len(held.written) else False
            order.written[span.bytes.start : span.bytes.stop] = left
        phase = 0
        for batch, run_of in zip(batches, runs, strict=True):
            if batch.phase > phase:
                order.barrier()
                phase = batch.phase
            run = run_of.get(core)
            if run is None:
                continue
            waits = batch.runs.dependencies[run].tolist()
            wrong = order.command(ENGINE_NUMBER[batch.runs.op.ENGINE], waits, batch.accesses)
            if wrong is not None:
                raise fault(batch, wrong, core)
        written[alike] = order.written
    return written


def fault(batch: Batch, message: str, core: int | None = None) -> NumericError:
    """An error of one command: engine, id, core, path."""
    position = 0 if core is None else int(np.flatnonzero(batch.cores == core)[0])
    op = batch.runs.op
    number = int(batch.runs.ids[batch.index[position]])
    return NumericError(
        f"{op.ENGINE} command {number} of core {int(batch.cores[position])} at '{op.path.data}': {message}"
    )
