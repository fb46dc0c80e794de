"""Where the time of an op goes: parts that add up to it, and what the op asks of every engine.

A core computes, or waits for data.  With c the busy time of matrix and vector unit, m that of the data and o the rate
of overlap, max(c, m) + (1 - o) min(c, m) is c, then max(0, m - c) in which only data moves, then (1 - o) min(c, m) in
which computation and data take turns.  The matrix unit is busy with useful products, with padding of its cube, with
more than the mean core has, and with the start of commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from pmc.backends.cost.model import OpCost
    from pmc.dialects.interfaces import Unit
    from pmc.dialects.tile_plan import PlanAttr


class Part(Enum):
    """What a core, or the network, does in a part of the time of an op."""

    MATRIX = "matrix"
    """Products that the op asks for, at the peak of all cores."""
    PADDING = "padding"
    """Rows, columns and depth of the cube that hold no data."""
    IMBALANCE = "imbalance"
    """What the busiest core has more than the mean of all cores: uneven shares, tile edges, idle cores."""
    EFFICIENCY = "efficiency"
    """The factor `core_efficiency` of the accounting."""
    START_UP = "start-up"
    """The start of matrix commands."""
    VECTOR = "vector"
    """The vector unit of the busiest core, padding included."""
    DATA = "data"
    """Data moves and nothing is computed: the data takes longer than the computation."""
    FILL = "fill"
    """The first data come in and nothing is computed yet (granularity commands)."""
    DRAIN = "drain"
    """All is computed and the last results go out (granularity commands)."""
    NO_OVERLAP = "no overlap"
    """Computation and data take turns: the first tile, the last one, and what the overlap rate does not hide."""
    MERGE = "merge"
    """Partial results of several cores are put together."""
    BARRIER = "barrier"
    """Barriers, and the giving of commands (granularity commands)."""
    LATENCY = "latency"
    """The part of a transfer between chips that does not depend on its size."""
    TRANSFER = "transfer"
    """The part of it that does."""


Engine = Literal["matrix", "vector", "dram", "gdma", "lmem", "sdma", "link"]
"""What an op keeps busy: units and DMA engines of a core, the DRAM of the chip, the links between chips."""

Phase = Literal["main", "merge"]
"""Before and after the barrier at which cores merge partial results."""


@dataclass(frozen=True)
class Load:
    """What one execution of an op asks of an engine, and how long that takes if nothing else limits it."""

    engine: Engine
    phase: Phase
    amount: float
    unit: str
    time_s: float
    fields: tuple[str, ...]
    """The fields of chip, topology and accounting that the time rests on, by dotted path."""


@dataclass(frozen=True)
class CubeUse:
    """The data of a matrix product in its cubes: dims of the product and of the cube."""

    rows: int
    columns: int
    depth: int
    cube: tuple[int, int, int]
    """m, n and k."""

    @property
    def dims(self) -> tuple[tuple[str, int, int], ...]:
        """Name, data and room (in whole cubes) of every dim."""
        pairs = zip(("rows", "columns", "depth"), (self.rows, self.columns, self.depth), self.cube, strict=True)
        return tuple((name, size, -(-size // step) * step) for name, size, step in pairs)

    @property
    def utilisation(self) -> float:
        """The part of the cubes that holds data."""
        filled = 1.0
        for _, data, room in self.dims:
            filled *= data / room
        return filled


@dataclass(frozen=True)
class Shape:
    """A shape that an op was priced for, with the plan for it, and how much of the time it stands for."""

    weight: float
    text: str
    plan: PlanAttr | None
    cores: int
    """Cores that have work."""
    cubes: tuple[CubeUse, ...]
    """One for every product of the op."""


@dataclass(frozen=True)
class Breakdown:
    """One execution of an op on one rank; `parts` in seconds add up to its time."""

    parts: Mapping[Part, float]
    loads: tuple[Load, ...] = ()
    shapes: tuple[Shape, ...] = ()
    note: str = ""
    """What to know about the load that the time is for."""

    @property
    def time_s(self) -> float:
        """The sum of the parts."""
        return sum(self.parts.values())

    @property
    def engines_s(self) -> dict[Engine, float]:
        """How long every engine is busy, in both phases."""
        found: dict[Engine, float] = {}
        for load in self.loads:
            found[load.engine] = found.get(load.engine, 0.0) + load.time_s
        return found

    def scaled(self, factor: float, added: Mapping[Part, float] | None = None) -> Self:
        """All times by `factor`, then `added` parts."""
        parts = {part: seconds * factor for part, seconds in self.parts.items()}
        for part, seconds in (added or {}).items():
            parts[part] = parts.get(part, 0.0) + seconds
        return replace(self, parts=parts, loads=tuple(replace(x, time_s=x.time_s * factor) for x in self.loads))

    @classmethod
    def mixed(cls, weighted: Sequence[tuple[float, Breakdown]]) -> Breakdown:
        """The weighted mean of several."""
        parts: dict[Part, float] = {}
        loads: dict[tuple[Engine, Phase, str], Load] = {}
        for weight, found in weighted:
            for part, seconds in found.parts.items():
                parts[part] = parts.get(part, 0.0) + weight * seconds
            for load in found.loads:
                key = load.engine, load.phase, load.unit
                known = loads.get(key, replace(load, amount=0.0, time_s=0.0))
                loads[key] = replace(
                    known,
                    amount=known.amount + weight * load.amount,
                    time_s=known.time_s + weight * load.time_s,
                )
        shapes = [replace(shape, weight=weight * shape.weight) for weight, found in weighted for shape in found.shapes]
        return Breakdown(parts, tuple(loads.values()), tuple(shapes))


@dataclass(frozen=True)
class MatrixTime:
    """The busy time of the matrix unit of the busiest core, in seconds, by what it is spent on."""

    useful_s: float = 0.0
    padding_s: float = 0.0
    imbalance_s: float = 0.0
    efficiency_s: float = 0.0
    start_up_s: float = 0.0

    @classmethod
    def of(cls, busiest_s: float, useful_s: float, cubes_s: float) -> MatrixTime:
        """Of the time of the busiest core, of all useful products and of all cubes, the latter two over all cores.

        A tile may round up more than the cubes of the whole op: that is imbalance too.
        """
        useful = min(useful_s, busiest_s)
        cubes = min(max(cubes_s, useful), busiest_s)
        return cls(useful, cubes - useful, busiest_s - cubes)

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.useful_s + self.padding_s + self.imbalance_s + self.efficiency_s + self.start_up_s


def busy_parts(matrix: MatrixTime, vector_s: float, data_s: float, overlap: float) -> dict[Part, float]:
    """The parts of max(c, m) + (1 - o) min(c, m); see the module."""
    compute_s = matrix.total_s + vector_s
    return present(
        {
            Part.MATRIX: matrix.useful_s,
            Part.PADDING: matrix.padding_s,
            Part.IMBALANCE: matrix.imbalance_s,
            Part.EFFICIENCY: matrix.efficiency_s,
            Part.START_UP: matrix.start_up_s,
            Part.VECTOR: vector_s,
            Part.DATA: max(0.0, data_s - compute_s),
            Part.NO_OVERLAP: (1.0 - overlap) * min(compute_s, data_s),
        }
    )


def roofline_parts(cost: OpCost, unit: Unit) -> dict[Part, float]:
    """The parts of a time that is the largest of transfer, computation and data: the transfer first.

    What is left beside a transfer is that of the slower of the two others.
    """
    compute_s, data_s, time_s = float(cost.compute_s), float(cost.memory_s), float(cost.time_s)
    busy = Part.MATRIX if unit == "cube" else Part.VECTOR
    parts = {Part.LATENCY: float(cost.latency_s), Part.TRANSFER: float(cost.transfer_s)}
    left = time_s - sum(parts.values())
    if sum(parts.values()):
        parts[Part.DATA if data_s >= compute_s else busy] = max(0.0, left)
    else:
        parts |= {busy: compute_s, Part.DATA: left - compute_s}
    return present(parts)


def link_loads(cost: OpCost, fields: Sequence[str]) -> list[Load]:
    """What an op asks of the links: bytes that the rank sends, and messages that wait for each other."""
    bandwidth = tuple(f for f in fields if f.endswith(("gb_per_s", "bandwidth_utilisation")))
    latency = tuple(f for f in fields if f not in bandwidth)
    return [
        Load("link", "main", float(cost.link_bytes), "bytes", float(cost.transfer_s), bandwidth),
        Load("link", "main", float(cost.latency_s) * 1e6, "us of latency", float(cost.latency_s), latency),
    ]


def present(parts: Mapping[Part, float]) -> dict[Part, float]:
    """The parts that take any time."""
    return {part: seconds for part, seconds in parts.items() if seconds}


def loads_of(loads: Iterable[Load]) -> tuple[Load, ...]:
    """The loads that are any."""
    return tuple(load for load in loads if load.amount or load.time_s)
