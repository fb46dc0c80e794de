"""Which activations of a program are in memory together.

Program order is execution order.  While an op runs, its operands and its results are in memory; a value leaves memory
after its last use.  Nothing is computed in place, with three exceptions that need no memory of their own: views
(`layer.slice`, `dist.local_slice`) keep the value alive that they look into, `layer.kv_append` gives the cache itself,
and the value that a `layer.repeat` carries takes over the memory of its initial value when nothing else uses that one.
The body of a repeat counts once: every iteration uses the same memory.  Weights and caches are no activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from pmc.backends.cost.model import Bindings
from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.expr import Expr
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import tensor

Buffer = int
"""An activation in memory: its index in `LivePoints.sizes`."""


@dataclass(frozen=True)
class Point:
    """What is in memory while the op at `path` runs."""

    path: str
    op: str
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class LivePoints:
    """Every op of one pipeline stage with the activations that are in memory while it runs."""

    sizes: tuple[Expr, ...]
    """Bytes of each buffer."""
    points: tuple[Point, ...]

    def bytes_at(self, bindings: Bindings) -> IntArray:
        """Bytes in memory at every point: [points, ..], where `..` is the broadcast shape of the bindings.

        Raises UnboundSymbolError for a symbol without a value.
        """
        shape = np.broadcast_shapes(*(np.shape(v) for v in bindings.values()))
        values = [np.broadcast_to(np.asarray(size.evaluate(bindings), np.int64), shape) for size in self.sizes]
        sums = [sum((values[b] for b in p.buffers), np.zeros(shape, np.int64)) for p in self.points]
        return np.stack(sums) if sums else np.zeros((1, *shape), np.int64)


def live_points(stage: Block, arguments: Sequence[BlockArgument]) -> LivePoints:
    """The points of a block of a program; those of its `arguments` that it uses stay in memory all the time."""
    walk = _Walk()
    inputs = [walk.new(a) for a in arguments if any(_inside(use.operation, stage) for use in a.uses)]
    walk.block(stage, frozenset(inputs))
    return LivePoints(tuple(walk.sizes), tuple(walk.points))


def _inside(op: Operation, block: Block) -> bool:
    return block.find_ancestor_op_in_block(op) is not None


class _Walk:
    """Gives every value its buffer and records the points."""

    def __init__(self) -> None:
        self.sizes: list[Expr] = []
        self.points: list[Point] = []
        self.buffer_of: dict[SSAValue, Buffer] = {}

    def new(self, value: SSAValue) -> Buffer:
        """A buffer for `value`."""
        self.sizes.append(tensor(value).bytes)
        self.buffer_of[value] = len(self.sizes) - 1
        return self.buffer_of[value]

    def block(self, block: Block, outside: frozenset[Buffer]) -> None:
        """Record the points of `block`; `outside` is in memory all through it."""
        for op in block.ops:
            self._define(op)
        last = self._last_uses(block)
        live = {self.buffer_of[a] for a in block.args if a in self.buffer_of} - outside
        for index, op in enumerate(block.ops):
            dead = {b for b, use in last.items() if use == index}
            if isinstance(op, layer.RepeatOp):
                self._repeat(op, outside | live, dead - outside)
            elif not isinstance(op, layer.YieldOp | layer.ReturnOp | layer.SourceOp):
                live |= self._results(op) - outside
                path = op.path.data if isinstance(op, PmcOp) else ""
                self.points.append(Point(path, op.name, tuple(sorted(outside | live))))
            live |= self._results(op) - outside
            live = {b for b in live - dead if last.get(b, -1) > index}

    def _define(self, op: Operation) -> None:
        """Buffers of the results: none for weights and caches, that of the operand for a view of it."""
        match op:
            case layer.SourceOp():
                pass
            case layer.SliceOp() | dist.LocalSliceOp():
                self._alias(op.y, op.x)
            case layer.KvAppendOp():
                self._alias(op.y, op.cache)
            case _:
                for result in op.results:
                    self.new(result)

    def _alias(self, view: SSAValue, value: SSAValue) -> None:
        if value in self.buffer_of:
            self.buffer_of[view] = self.buffer_of[value]

    def _results(self, op: Operation) -> set[Buffer]:
        return {self.buffer_of[r] for r in op.results if r in self.buffer_of}

    def _last_uses(self, block: Block) -> dict[Buffer, int]:
        """The index of the last op of the block that uses each buffer, itself or in a region."""
        last: dict[Buffer, int] = {}
        for index, op in enumerate(block.ops):
            for user in op.walk():
                for value in user.operands:
                    if value in self.buffer_of:
                        last[self.buffer_of[value]] = index
        return last

    def _repeat(self, op: layer.RepeatOp, live: frozenset[Buffer], dead: set[Buffer]) -> None:
        """The body: a carried value takes the buffer of its initial value if that one is not used any more."""
        taken: set[Buffer] = set()
        for init, argument in zip(op.inits, op.body.block.args, strict=True):
            buffer = self.buffer_of.get(init)
            if buffer is not None and buffer in dead and buffer not in taken and not _used_in(op.body.block, init):
                self.buffer_of[argument] = buffer
                taken.add(buffer)
            else:
                self.new(argument)
        self.block(op.body.block, live - taken)


def _used_in(block: Block, value: SSAValue) -> bool:
    return any(_inside(use.operation, block) for use in value.uses)
