"""FLOPs and DRAM bytes of a kernel, counted from its loops and commands.

Every loop is enumerated, vectorised over cores and iterations, as far as the expressions of a command depend on it;
loops that do not matter only multiply.  The counts are exact, edges and idle cores included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Attribute, Operation

from pmc.dialects.arch import ChipAttr
from pmc.dialects.expr import Expr, ExprAttr, expr
from pmc.dialects.interfaces import IntArray, Unit, Work
from pmc.dialects.tensor import element_bits, element_name
from pmc.dialects.tile import (
    CORE,
    CommandOp,
    ForOp,
    GatherOp,
    KernelOp,
    LoadOp,
    MmaOp,
    RepeatOp,
    StoreOp,
    VectorOp,
    buffer_type,
    memref_type,
)


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
        return np.broadcast_to(np.asarray(value.evaluate(self.symbols), np.int64), self.times.shape)


def iterations(op: Operation, values: Sequence[Expr]) -> Iterations:
    """The iterations of `op` in its kernel, told apart by what `values` and the trip counts depend on."""
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
    needed = {name for value in values for name in value.symbols}
    for loop in loops:  # from the inside out: a needed loop needs the symbols of its trip count
        needed |= loop.count.data.symbols if loop.symbol.data in needed else set()
    cores = np.arange(kernel.cores.value.data, dtype=np.int64)
    symbols: dict[str, IntArray] = {CORE: cores}
    times = np.ones_like(cores)
    for loop in reversed(loops):
        bound = {**outer, **symbols}
        count = np.broadcast_to(np.asarray(loop.count.data.evaluate(bound), np.int64), times.shape)
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


def kernel_work(kernel: KernelOp) -> Work:
    """FLOPs of the matrix commands (of the vector commands in a kernel without any) and DRAM traffic.

    Blocks that several cores load in the same iteration are read once where the chip multicasts; a chip that is not
    on the module is taken to.
    """
    multicast = multicasts(kernel)
    mma_flops = vector_flops = bytes_read = bytes_written = 0
    mma_type = vector_type = moved_type = ""
    for op in kernel.walk():
        match op:
            case MmaOp():
                sizes = [op.m.data, op.n.data, op.k.data]
                mma_flops += 2 * iterations(op, sizes).sum(sizes[0] * sizes[1] * sizes[2])
                mma_type = mma_type or element_name(buffer_type(op.a).element_type)
            case VectorOp():
                vector_flops += _vector_flops(op)
                if not vector_type and op.ins:
                    vector_type = element_name(buffer_type(op.ins[0]).element_type)
            case LoadOp() | StoreOp() | GatherOp():
                moved = transfer_bytes(op, multicast)
                if isinstance(op, StoreOp):
                    bytes_written += moved
                else:
                    bytes_read += moved
                    moved_type = moved_type or element_name(memref_type(op.memref).element_type)
            case _:
                pass
    unit: Unit = "cube" if mma_flops else "vector" if vector_flops else "none"
    flops = mma_flops if mma_flops else vector_flops
    dtype = mma_type or vector_type or moved_type
    return Work(expr(flops), expr(bytes_read), expr(bytes_written), unit, dtype)


def _vector_flops(op: VectorOp) -> int:
    elements, each = op.rows.data * op.columns.data, op.kind.flops_per_element
    return each * iterations(op, [elements]).sum(elements) if each else 0


def transfer_bytes(op: CommandOp, multicast: bool) -> int:
    """The bytes that a transfer moves from or to DRAM over all cores and iterations."""
    if isinstance(op, GatherOp):
        size = op.count.data * op.columns.data
        return packed_bytes(iterations(op, [size]).sum(size), memref_type(op.memref).element_type)
    assert isinstance(op, LoadOp | StoreOp)
    sizes = [_expr(s) for s in op.sizes.data]
    elements = sizes[0]
    for size in sizes[1:]:
        elements = elements * size
    element = memref_type(op.memref).element_type
    if isinstance(op, StoreOp) or not multicast:
        return packed_bytes(iterations(op, sizes).sum(elements), element)
    offsets = [_expr(o) for o in op.offsets.data]
    points = iterations(op, [*offsets, *sizes])
    loops = [points.symbols[n] for n in points.symbols if n != CORE and points.symbols[n].ndim]
    keys = np.stack([*loops, *(points.at(o) for o in offsets)])
    moved = points.at(elements)
    if not keys.shape[1]:
        return 0
    # One read per distinct (iteration, block): as often as the core that repeats it most.
    order = np.lexsort((points.times, *keys))
    keys, moved, times = keys[:, order], moved[order], points.times[order]
    last = np.append((keys[:, 1:] != keys[:, :-1]).any(axis=0), True)
    return packed_bytes(int((moved * times)[last].sum()), element)


def _expr(attribute: object) -> Expr:
    assert isinstance(attribute, ExprAttr)
    return attribute.data


def packed_bytes(elements: int, element_type: Attribute) -> int:
    """The bytes of so many elements, rounded up."""
    return -(-elements * element_bits(element_type) // 8)


def multicasts(op: Operation) -> bool:
    """Whether the chip of the module of `op` multicasts; a chip that is not on the module is taken to."""
    top = op
    while (parent := top.parent_op()) is not None:
        top = parent
    chip = top.attributes.get("arch.chip")
    return chip.data.gdma_multicast if isinstance(chip, ChipAttr) else True
