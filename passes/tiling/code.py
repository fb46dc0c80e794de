"""Builds the body of one kernel: loops, buffers and commands, all with the path of the tensor op."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.expr import Expr, expr
from pmc.dialects.tile import AllocOp, BufferType, ForOp, GatherOp, KernelOp, LoadOp, MmaOp, StoreOp, VectorOp
from pmc.dialects.vector_kinds import VectorKindAttr
from pmc.passes.tiling.arrays import Array

Place = Callable[[Array], SSAValue]
"""Gives the SSA value of an array, making a `tile.view` before the kernel where it needs one."""


class KernelCode:
    """A kernel under construction; the loop that is open is where ops and buffers go."""

    def __init__(self, place: Place, op_name: str, path: str, like: Operation) -> None:
        self.place = place
        self.op_name = op_name
        self.path = path
        self.like = like
        self.open: list[list[Operation]] = [[]]

    def add(self, op: Operation) -> None:
        """Append to the open loop."""
        self.open[-1].append(op)

    @contextmanager
    def loop(self, symbol: str, count: Expr | int) -> Generator[Expr]:
        """Open a loop and give its symbol; a loop that surely runs once is left out and its symbol is 0."""
        count = expr(count)
        if count == 1:
            yield expr(0)
            return
        self.open.append([])
        yield expr(symbol)
        region = Region(Block(self.open.pop()))
        self.add(ForOp.make([], [], self.path, {"symbol": symbol, "count": count}, [region], like=self.like))

    def alloc(self, rows: int, columns: int, element_type: Attribute, slots: int | None = None) -> SSAValue:
        """A buffer in the open loop: two slots where the loop can run ahead, one outside of loops."""
        count = slots if slots is not None else 2 if len(self.open) > 1 else 1
        type_ = BufferType.of(rows, columns, element_type)
        op = AllocOp.make([], [type_], self.path, {"slots": count}, like=self.like)
        self.add(op)
        return op.results[0]

    def load(
        self,
        array: Array,
        buffer: SSAValue,
        offsets: Sequence[Expr | int],
        sizes: Sequence[Expr | int],
        row: Expr | int = 0,
        column: Expr | int = 0,
    ) -> None:
        """Load a block of `array`."""
        memref = self.place(array)
        op = LoadOp.transfer(memref, buffer, array.offsets(offsets), array.sizes(sizes), self.path, row, column)
        self.add(op)

    def store(self, array: Array, buffer: SSAValue, offsets: Sequence[Expr | int], sizes: Sequence[Expr | int]) -> None:
        """Store a block of `array`."""
        memref = self.place(array)
        self.add(StoreOp.transfer(memref, buffer, array.offsets(offsets), array.sizes(sizes), self.path))

    def gather(
        self,
        array: Array,
        index: SSAValue,
        buffer: SSAValue,
        count: Expr,
        column: Expr,
        columns: Expr,
        base_axis: Attribute | None,
    ) -> None:
        """Gather rows of `array`, which has no leading dims."""
        properties: dict[str, PropertyValue] = {
            "count": count, "column": column, "columns": columns, "base_axis": base_axis,
        }  # fmt: skip
        self.add(GatherOp.make([self.place(array), index, buffer], [], self.path, properties, like=self.like))

    def mma(
        self,
        acc: SSAValue,
        a: SSAValue,
        b: SSAValue,
        size: tuple[Expr | int, Expr | int, Expr | int],
        accumulate: Expr | int,
        transpose_b: bool,
    ) -> None:
        """acc (+)= a b for `size` = m, n, k."""
        m, n, k = (expr(s) for s in size)
        properties: dict[str, PropertyValue] = {
            "m": m, "n": n, "k": k, "accumulate": expr(accumulate), "transpose_b": transpose_b,
        }  # fmt: skip
        self.add(MmaOp.make([acc, a, b], [], self.path, properties, like=self.like))

    def vector(
        self,
        kind: VectorKindAttr,
        rows: Expr | int,
        columns: Expr | int,
        ins: Sequence[SSAValue] = (),
        outs: Sequence[SSAValue] = (),
        updates: Sequence[SSAValue] = (),
    ) -> None:
        """What `kind` says, on the first rows x columns of its buffers."""
        properties: dict[str, PropertyValue] = {"kind": kind, "rows": expr(rows), "columns": expr(columns)}
        self.add(VectorOp.make([ins, outs, updates], [], self.path, properties, like=self.like))

    def kernel(self, cores: int) -> KernelOp:
        """The finished kernel."""
        body = Region(Block(self.open[0]))
        properties: dict[str, PropertyValue] = {"cores": cores, "op_name": self.op_name}
        return KernelOp.make([], [], self.path, properties, [body], like=self.like)


def path_of(op: Operation) -> str:
    """The path of a pmc op."""
    assert isinstance(op, PmcOp)
    return op.path.data
