"""Points of a sweep that differ in batch, q_len and kv_len only: one program, all of them evaluated at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.backends.evaluate.aggregate import ranks_of
from pmc.backends.evaluate.engine import SYMBOLS
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.steps_over import BOTTLENECKS, StepsOver, can_be_at_once, steps_over
from pmc.compiler.sweep.axes import Axis
from pmc.compiler.sweep.result import DOES_NOT_FIT, OK, SweepResult
from pmc.dialects.interfaces import FloatArray, IntArray

FEWEST = 64
"""Points of a program from which on they are evaluated at once."""

BLOCK = 2**15
"""Points that are evaluated at once, about: their arrays stay in the cache of a core."""

Columns = dict[str, npt.NDArray[Any]]
"""By name one entry per point."""


@dataclass(frozen=True)
class Block:
    """Points of a sweep, the figures of each by column, and which of them are beyond doubt."""

    points: IntArray
    columns: Columns
    certain: npt.NDArray[np.bool_]

    def row(self, place: int) -> dict[str, object]:
        """The figures of one of the points."""
        return {name: value[place] for name, value in self.columns.items()}

    def surely(self) -> Columns:
        """The columns of the points that are beyond doubt."""
        return {name: value[self.certain] for name, value in self.columns.items()}


def symbol_of(axis: Axis) -> str | None:
    """`batch` of `deployment.batch`, if that is a symbol of programs with values that an array holds exactly."""
    if axis.part != "deployment" or axis.path not in SYMBOLS:
        return None
    fine = all(type(value) is int and 1 <= value < 2**40 for value in axis.values)
    return axis.path if fine else None


def families(axes: Sequence[Axis], result: SweepResult) -> Iterator[tuple[dict[str, object], IntArray]]:
    """The values of the axes that are no symbols, with the points there: one dim per axis that is one."""
    shape = [len(axis.values) for axis in axes]
    own = [i for i, axis in enumerate(axes) if symbol_of(axis) is None]
    wide = [i for i in range(len(axes)) if i not in own]
    size = int(np.prod([shape[i] for i in wide])) if wide else 0
    if size < FEWEST:
        return
    points = np.transpose(np.arange(len(result)).reshape(shape), (*own, *wide))
    for places in np.ndindex(*(shape[i] for i in own)):
        yield {axes[i].name: axes[i].values[place] for i, place in zip(own, places, strict=True)}, points[places]


def blocks(
    evaluator: StepEvaluator, bindings: Mapping[str, IntArray], points: IntArray, wanted: npt.NDArray[np.bool_]
) -> Iterator[Block | None]:
    """The wanted of some points at values of the symbols that broadcast to their shape; None where that cannot be."""
    if not can_be_at_once(evaluator):
        yield None
        return
    if not wanted.all():
        bindings = {name: np.broadcast_to(value, points.shape)[wanted] for name, value in bindings.items()}
        points = points[wanted]
    rows = max(1, BLOCK // max(1, points[0].size))
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        here = points[part]
        symbols = {name: value[part] if len(value) > 1 else value for name, value in bindings.items()}
        found = steps_over(evaluator, symbols)
        yield None if found is None else _block(evaluator, found, here)


def _block(evaluator: StepEvaluator, found: StepsOver, points: IntArray) -> Block:
    """The columns of a sweep."""

    def flat(values: FloatArray) -> FloatArray:
        return np.broadcast_to(values, points.shape).reshape(-1)

    names = (
        "time_us", "compute_us", "comm_us", "exposed_us", "mfu", "mbu", "tps_per_chip", "flops", "dram_bytes",
        "link_bytes",
    )  # fmt: skip
    columns: Columns = {name: flat(getattr(found, name)) for name in names}
    chip = evaluator.target.chip
    total = np.asarray(sum(found.memory.values(), np.asarray(0.0)))
    fits = flat(total) <= chip.dram_bytes
    status, reason = np.full(points.size, OK, object), np.full(points.size, "", object)
    misfits = np.flatnonzero(~fits)
    if misfits.size:
        parts = {name: flat(size)[misfits].astype(np.int64).tolist() for name, size in found.memory.items()}
        status[misfits] = DOES_NOT_FIT
        phase = evaluator.program.phase.data
        for place, *sizes in zip(misfits.tolist(), *parts.values(), strict=True):
            of_point = dict(zip(parts, sizes, strict=True))
            reason[place] = Feasibility(phase, 0, of_point, chip.name, chip.dram_bytes).verdict
    columns |= {
        "wait_us": np.zeros(points.size),
        "bottleneck": np.asarray(BOTTLENECKS, object)[np.broadcast_to(found.bottleneck, points.shape).reshape(-1)],
        "ranks": np.full(points.size, ranks_of(evaluator.target)),
        "relative_only": np.full(points.size, bool(evaluator.model.unvalidated()), object),
        "status": status,
        "reason": reason,
        "memory_bytes": flat(total),
        "memory_capacity_bytes": np.full(points.size, chip.dram_bytes),
    }
    return Block(points.reshape(-1), columns, np.broadcast_to(found.certain, points.shape).reshape(-1))


def agrees(found: Sequence[Block], row_at: Callable[[int], Mapping[str, object]], seed: int = 0) -> bool:
    """Whether the first and the last point and some others have the rows that they have when evaluated alone."""
    rng = np.random.default_rng(seed)
    numbers: list[int] = rng.integers(len(found), size=6).tolist()
    some = [found[0], found[-1], *(found[number] for number in numbers)]
    places = [0, found[-1].points.size - 1, *(int(rng.integers(block.points.size)) for block in some[2:])]
    for block, place in zip(some, places, strict=True):
        if block.certain[place] and block.row(place) != dict(row_at(int(block.points[place]))):
            return False
    return True
