"""FLOPs and DRAM bytes of a kernel, counted from its loops and commands.

Every loop is enumerated, vectorised over cores and iterations, as far as the expressions of a command depend on it;
loops that do not matter only multiply.  The counts are exact, edges and idle cores included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Attribute, Block, Operation

from pmc.dialects.accesses import TileAccess
from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import IntArray, Unit, Work
from pmc.dialects.tensor import element_bits, element_name
from pmc.dialects.tile import CORE, CommandOp, ForOp, KernelOp, LoadOp, MmaOp, RepeatOp


@dataclass(frozen=True)
class Iterations:
    """The iterations of a command: values of the symbols, and how many equal iterations each entry stands for."""

    symbols: dict[str, IntArray]
    times: IntArray

    def sum(self, value: Expr) -> int:
        """The sum of `value` over all iterations."""
        return int((self.at(value) * self.times).sum())

    def at(self, value: Expr) -> IntArray:
        """The value in every entry."""
        found = value.evaluate_int64(self.symbols)
        return found if found.shape == self.times.shape else np.broadcast_to(found, self.times.shape)


def iterations(op: Operation, values: Sequence[Expr]) -> Iterations:
    """The iterations of `op` in its kernel, told apart by what `values` and the trip counts depend on."""
    return _Known().iterations(op, values)


def _iterations(op: Operation, wanted: frozenset[str]) -> Iterations:
    loops: list[ForOp] = []
    outer: dict[str, int] = {}
    kernel: KernelOp | None = None
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, ForOp):
            loops.append(parent)
        elif isinstance(parent, KernelOp):
            kernel = parent
        elif isinstance(parent, RepeatOp):
            outer[parent.symbol.data] = parent.first.value.data
        parent = parent.parent_op()
    assert kernel is not None, "a command stands in a kernel"
    needed = set(wanted)
    for loop in loops:  # from the inside out: a needed loop needs the symbols of its trip count
        needed |= loop.count.data.symbols if loop.symbol.data in needed else set()
    cores = np.arange(kernel.cores.value.data, dtype=np.int64)
    symbols: dict[str, IntArray] = {CORE: cores}
    times = np.ones_like(cores)
    for loop in reversed(loops):
        bound = {**outer, **symbols}
        count = np.broadcast_to(loop.count.data.evaluate_int64(bound), times.shape)
        count = np.maximum(count, 0)
        if loop.symbol.data not in needed and not _needed_inside(loop, op):
            times = times * count
            continue
        total = int(count.sum())
        first = np.repeat(np.cumsum(count) - count, count)
        symbols = {name: np.repeat(column, count) for name, column in symbols.items()}
        symbols[loop.symbol.data] = np.arange(total, dtype=np.int64) - first
        times = np.repeat(times, count)
    keep = times > 0
    bound_arrays = {name: np.asarray(value) for name, value in outer.items()}
    return Iterations({**bound_arrays, **{n: c[keep] for n, c in symbols.items()}}, times[keep])


def _needed_inside(loop: ForOp, op: Operation) -> bool:
    """Whether the trip count of a loop between `loop` and `op` depends on `loop`."""
    parent = op.parent_op()
    while parent is not loop:
        if isinstance(parent, ForOp) and loop.symbol.data in parent.count.data.symbols:
            return True
        assert parent is not None
        parent = parent.parent_op()
    return False


class _Known:
    """The iterations of the commands of one kernel: those of a block that depend on the same symbols have the same."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[Block | None, frozenset[str]], Iterations] = {}

    def iterations(self, op: Operation, values: Sequence[Expr]) -> Iterations:
        """As the function `iterations`."""
        wanted = frozenset(symbol for value in values for symbol in value.symbols)
        key = op.parent_block(), wanted
        found = self._by_place.get(key)
        if found is None:
            found = self._by_place[key] = _iterations(op, wanted)
        return found


def kernel_work(kernel: KernelOp) -> Work:
    """FLOPs of the matrix commands (of the vector commands in a kernel without any) and DRAM traffic.

    A load that serves several cores reads DRAM once for all of them.
    """
    flops: dict[Unit, int] = {"cube": 0, "vector": 0}
    types: dict[Unit, str] = {}
    known = _Known()
    bytes_read = bytes_written = 0
    for op in kernel.walk():
        if not isinstance(op, CommandOp):
            continue
        if op.UNIT != "none":
            work = op.flops()
            flops[op.UNIT] += 0 if work == 0 else known.iterations(op, [work]).sum(work)
        if isinstance(op, MmaOp):
            types["cube"] = op.matrix_type
        for access in op.accesses():
            if access.memory == "lmem" and access.may_read and op.UNIT != "none":
                types.setdefault(op.UNIT, element_name(access.element_type))
            elif access.memory == "dram" and access.writes:
                bytes_written += _moved_bytes(op, access, known)
            elif access.memory == "dram" and not access.held:
                bytes_read += _moved_bytes(op, access, known)
                types.setdefault("none", element_name(access.element_type))
    unit: Unit = "cube" if flops["cube"] else "vector" if flops["vector"] else "none"
    dtype = types.get("cube") or types.get("vector") or types.get("none") or ""
    return Work(expr(flops["cube"] or flops["vector"]), expr(bytes_read), expr(bytes_written), unit, dtype)


def _moved_bytes(op: CommandOp, access: TileAccess, known: _Known) -> int:
    """The bytes of a DRAM access over all cores and iterations."""
    sizes, elements = access.shape, access.elements
    if not isinstance(op, LoadOp) or op.serves is None:
        return packed_bytes(known.iterations(op, sizes).sum(elements), access.element_type)
    kernel = next(parent for parent in _around(op) if isinstance(parent, KernelOp))
    # All loops are told apart: cores come together only in the same iteration.
    loops = [expr(parent.symbol.data) for parent in _around(op) if isinstance(parent, ForOp)]
    points = known.iterations(op, [*loops, *sizes])
    leaders = op.serves.leaders(kernel.cores.value.data)
    keys = np.stack([leaders[points.symbols[CORE]], *(points.at(loop) for loop in loops)])
    _, first = np.unique(keys, axis=1, return_index=True)
    return packed_bytes(int(points.at(elements)[first].sum()), access.element_type)


def _around(op: Operation) -> Iterator[Operation]:
    parent = op.parent_op()
    while parent is not None:
        yield parent
        parent = parent.parent_op()


def packed_bytes(elements: int, element_type: Attribute) -> int:
    """The bytes of so many elements, rounded up."""
    return -(-elements * element_bits(element_type) // 8)
