"""FLOPs, bytes and time of an evaluated program by kind of op, by block and by unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.analyses.table import Analysis, Row, conditions_of
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.backends.evaluate.engine import program_of, sites
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.metrics import EngineResult, StepMetrics
from pmc.dialects.analyses.work import work_of
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import Unit

UNITS: dict[Unit, str] = {"cube": "matrix", "vector": "vector", "none": "data movement"}
"""The units by the names under which the breakdown lists them."""

NETWORK = "network"
"""The unit of ops that send to other ranks, whatever else they do."""


@dataclass(frozen=True)
class Part:
    """The ops of one group: sums over all their executions in one step of one rank."""

    name: str
    count: int
    """Executions of ops."""
    flops: int
    bytes_read: int
    bytes_written: int
    link_bytes: int
    time_us: float
    compute_us: float
    memory_us: float
    comm_us: float


@dataclass(frozen=True)
class OpsBreakdown(Analysis):
    """The same ops grouped in three ways: every way adds up to the totals of the evaluation."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "by", "name", "count", "flops", "bytes_read", "bytes_written", "link_bytes",
        "time_us", "compute_us", "memory_us", "comm_us", "share",
    )  # fmt: skip

    result: EngineResult
    depth: int
    by_op: tuple[Part, ...]
    """By kind of op: `layer.matmul`."""
    by_block: tuple[Part, ...]
    """By the first `depth` names of the path: `blocks.moe.mla`."""
    by_unit: tuple[Part, ...]
    """By the unit that does the arithmetic: matrix, vector, or none (data movement); network where an op sends."""
    memory: Feasibility | None
    """Whether the program fits, where that is known."""

    @property
    def misfits(self) -> list[str]:
        """What exceeds, where the program does not fit."""
        return [] if self.memory is None or self.memory.fits else [self.memory.verdict]

    def to_rows(self) -> list[Row]:
        """One row per group; `by` is op, block or unit."""
        total = self.result.total_us
        groups = (("op", self.by_op), ("block", self.by_block), ("unit", self.by_unit))
        return [
            {
                "by": by,
                "name": part.name,
                "count": part.count,
                "flops": part.flops,
                "bytes_read": part.bytes_read,
                "bytes_written": part.bytes_written,
                "link_bytes": part.link_bytes,
                "time_us": part.time_us,
                "compute_us": part.compute_us,
                "memory_us": part.memory_us,
                "comm_us": part.comm_us,
                "share": part.time_us / total if total else 0.0,
            }
            for by, parts in groups
            for part in parts
        ]

    def summary(self) -> dict[str, object]:
        """The evaluation without its rows."""
        evaluation = {k: v for k, v in self.result.to_dict().items() if k != "steps"}
        return {**evaluation, "depth": self.depth, "memory": None if self.memory is None else self.memory.to_dict()}

    def headline(self) -> str:
        """Program, point, target and granularity."""
        return conditions_of(self.result)

    def notes(self) -> list[str]:
        """Totals, and what does not fit."""
        r = self.result
        return [
            f"total: {r.total_flops / 1e9:.3f} GFLOP, {r.total_bytes / 1e6:.3f} MB moved, "
            f"{r.total_link_bytes / 1e6:.3f} MB sent, {r.total_us:.3f} us",
            *honesty_notes(r.lower_bound, r.assumptions, r.unvalidated),
            *self.misfits,
        ]


def ops_breakdown(
    module: ModuleOp, result: EngineResult, depth: int = 3, memory: Feasibility | None = None
) -> OpsBreakdown:
    """Group the steps of `result`, the evaluation of `module`; blocks are the first `depth` names of a path.

    `memory` says whether the program fits, where that is known.  Groups stand in the order of their time, the longest
    first.  Raises PmcError for a depth below 1.
    """
    if depth < 1:
        raise PmcError(f"depth is {depth}, must be at least 1")
    units = _units(module)
    return OpsBreakdown(
        result,
        depth,
        _group(result, lambda step: step.op),
        _group(result, lambda step: ".".join(step.path.split(".")[:depth])),
        _group(result, lambda step: NETWORK if step.link_bytes else UNITS[units[step.stage, step.path, step.op]]),
        memory,
    )


def _units(module: ModuleOp) -> dict[tuple[int, str, str], Unit]:
    return {
        (site.stage, site.op.path.data if isinstance(site.op, PmcOp) else "", site.op_name): work.unit
        for site in sites(program_of(module))
        if (work := work_of(site.op)) is not None
    }


def _group(result: EngineResult, key: Callable[[StepMetrics], str]) -> tuple[Part, ...]:
    groups: dict[str, list[StepMetrics]] = {}
    for step in result.steps:
        groups.setdefault(key(step), []).append(step)
    parts = [
        Part(
            name,
            sum(s.count for s in steps),
            sum(s.flops for s in steps),
            sum(s.bytes_read for s in steps),
            sum(s.bytes_written for s in steps),
            sum(s.link_bytes for s in steps),
            sum(s.time_us for s in steps),
            sum(s.compute_us for s in steps),
            sum(s.memory_us for s in steps),
            sum(s.comm_us for s in steps),
        )
        for name, steps in groups.items()
    ]
    return tuple(sorted(parts, key=lambda p: (-p.time_us, p.name)))
