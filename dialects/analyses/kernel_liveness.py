"""When the arrays of a program of kernels matter: the steps are kernels and collectives."""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.ir import Operation, SSAValue

from pmc.dialects.analyses.liveness import Lifetime, Timeline
from pmc.dialects.tile import (
    SHARED_KINDS,
    CollectiveOp,
    CommandOp,
    GlobalOp,
    KernelOp,
    ProgramOp,
    RepeatOp,
    StageOp,
    ViewOp,
)


def array_lifetimes(scope: ProgramOp | StageOp) -> dict[GlobalOp, Lifetime]:
    """The lifetime of every array of a program or a stage that shares memory; outputs live to the end."""
    base: dict[SSAValue, GlobalOp] = {}
    timeline = Timeline[GlobalOp]()
    for op in _ops_of(scope):
        match op:
            case GlobalOp():
                base[op.result] = op
            case ViewOp():
                if op.source in base:
                    base[op.result] = base[op.source]
            case KernelOp() | CollectiveOp():
                reads, writes = (list(_arrays(values, base)) for values in _accesses(op))
                scratch = [a for a in dict.fromkeys((*reads, *writes)) if a.kind.data == "scratch"]
                timeline.add(_without(reads, scratch), _without(writes, scratch), _repeats_around(op), scratch)
            case _:
                pass
    timeline.add([op for op in base.values() if op.kind.data == "output"], [], ())
    return timeline.lifetimes()


def _ops_of(scope: ProgramOp | StageOp) -> Iterable[Operation]:
    """The ops of a stage with all that is in them, or those of a program outside of its stages."""
    for op in scope.body.block.ops:
        if not isinstance(op, StageOp):
            yield from op.walk()


def _arrays(values: Iterable[SSAValue], base: dict[SSAValue, GlobalOp]) -> Iterable[GlobalOp]:
    for value in values:
        array = base.get(value)
        if array is not None and array.kind.data in SHARED_KINDS:
            yield array


def _without(arrays: Iterable[GlobalOp], others: list[GlobalOp]) -> list[GlobalOp]:
    return [array for array in arrays if array not in others]


def _accesses(op: Operation) -> tuple[list[SSAValue], list[SSAValue]]:
    """What the commands of a kernel, or a collective, read and write."""
    commands = [command for command in op.walk() if isinstance(command, CommandOp)]
    return [v for c in commands for v in c.reads()], [v for c in commands for v in c.writes()]


def _repeats_around(op: Operation) -> list[RepeatOp]:
    found: list[RepeatOp] = []
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, RepeatOp):
            found.append(parent)
        parent = parent.parent_op()
    return found
