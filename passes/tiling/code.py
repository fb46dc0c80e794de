"""Builds the body of one kernel: loops, buffers and commands, all with the path of the tensor op."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from xdsl.dialects.builtin import ArrayAttr, UnitAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.expr import Expr, ExprAttr, expr
from pmc.dialects.tile import (
    AllocOp,
    BarrierOp,
    BufferType,
    CoresAttr,
    FetchOp,
    ForOp,
    GatherOp,
    GatherRowsOp,
    KernelOp,
    LoadOp,
    MmaOp,
    StoreOp,
    VectorOp,
)
from pmc.dialects.vector_kinds import VectorKindAttr
from pmc.passes.tiling.arrays import Array

Place = Callable[[Array], SSAValue]
"""Gives the SSA value of an array, making a `tile.view` before the kernel where it needs one."""


class KernelCode:
    """A kernel under construction; the loop that is open is where ops and buffers go."""

    def __init__(
        self, place: Place, op_name: str, path: str, like: Operation, slots: int = 2, late_stores: bool = True
    ) -> None:
        """`slots` is how many copies a buffer in a loop has; without `late_stores` all stores are given at once."""
        self.place = place
        self.op_name = op_name
        self.path = path
        self.like = like
        self.slots = slots
        self.late_stores = late_stores
        self.open: list[list[Operation]] = [[]]
        self.loops: list[str] = []
        """The symbols of the open loops."""
        self.rotates_with: dict[SSAValue, int] = {}
        """Of a buffer with slots: how many loops are open around its allocation."""

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
        self.loops.append(symbol)
        yield expr(symbol)
        self.loops.pop()
        region = Region(Block(self.open.pop()))
        self.add(ForOp.make([], [], self.path, {"symbol": symbol, "count": count}, [region], like=self.like))

    def alloc(self, rows: int, columns: int, element_type: Attribute, slots: int | None = None) -> SSAValue:
        """A buffer in the open loop: the slots of the plan where the loop can run ahead, one outside of loops."""
        count = slots if slots is not None else self.slots if self.loops else 1
        type_ = BufferType.of(rows, columns, element_type)
        op = AllocOp.make([], [type_], self.path, {"slots": count}, like=self.like)
        self.add(op)
        if count > 1:
            self.rotates_with[op.results[0]] = len(self.loops)
        return op.results[0]

    def load(
        self,
        array: Array,
        buffer: SSAValue,
        offsets: Sequence[Expr | int],
        sizes: Sequence[Expr | int],
        serves: CoresAttr | None = None,
    ) -> None:
        """Load a block of `array`, for all the cores that it serves."""
        memref = self.place(array)
        op = LoadOp.transfer(memref, buffer, array.offsets(offsets), array.sizes(sizes), self.path)
        if serves is not None and serves.count.value.data > 1:
            op.serves = serves
        self.add(op)

    def store(
        self,
        array: Array,
        buffer: SSAValue,
        offsets: Sequence[Expr | int],
        sizes: Sequence[Expr | int],
        at_once: bool = False,
    ) -> None:
        """Store a block of `array`: late where the buffer has a slot to keep it in, unless `at_once`."""
        op = StoreOp.transfer(self.place(array), buffer, array.offsets(offsets), array.sizes(sizes), self.path)
        if self.late_stores and not at_once and self.loops and self.rotates_with.get(buffer) == len(self.loops):
            op.late = UnitAttr()
        self.add(op)

    def fetch(
        self,
        source: SSAValue,
        buffer: SSAValue,
        core: Expr,
        from_row: Expr | int,
        row: Expr | int,
        size: tuple[Expr | int, Expr | int],
    ) -> None:
        """Take `size` rows and columns of `source` from the LMEM of `core`."""
        properties: dict[str, PropertyValue] = {
            "core": core, "from_row": expr(from_row), "row": expr(row), "rows": expr(size[0]), "columns": expr(size[1]),
        }  # fmt: skip
        self.add(FetchOp.make([source, buffer], [], self.path, properties, like=self.like))

    def barrier(self) -> None:
        """All cores finish what they were given before any of them goes on."""
        self.add(BarrierOp.make([], [], self.path, {}, like=self.like))

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
        """Gather rows of `array`, a matrix, by GDMA."""
        lead = [ExprAttr(found.index) for found in array.leads]
        properties: dict[str, PropertyValue] = {
            "count": count, "column": column, "columns": columns, "base_axis": base_axis,
            "lead": ArrayAttr(lead) if lead else None,
        }  # fmt: skip
        self.add(GatherOp.make([self.place(array), index, buffer], [], self.path, properties, like=self.like))

    def gather_rows(
        self, array: Array, index: SSAValue, buffer: SSAValue, lead: Sequence[Expr], count: Expr, domain: Attribute
    ) -> None:
        """Gather whole rows of the matrix at `lead` of `array`, the last two dims of which it is."""
        lead = [*(found.index for found in array.leads), *lead]
        properties: dict[str, PropertyValue] = {
            "lead": ArrayAttr([ExprAttr(value) for value in lead]), "count": count, "bandwidth_domain": domain,
        }  # fmt: skip
        self.add(GatherRowsOp.make([self.place(array), index, buffer], [], self.path, properties, like=self.like))

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
