"""The roofline of a step: every op by its FLOPs per byte of DRAM and the FLOP/s that it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pmc.backends.evaluate.engine import Site
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.dialects.analyses.work import work_of

if TYPE_CHECKING:
    from pmc.backends.evaluate.explain.explanation import ExplainedOp


@dataclass(frozen=True)
class Roof:
    """A ceiling: the peak of a unit for an element type."""

    name: str
    flops_per_s: float


@dataclass(frozen=True)
class RooflinePoint:
    """One op, over all its executions."""

    path: str
    op: str
    flops_per_byte: float
    flops_per_s: float
    time_us: float
    roof: str
    """The ceiling of its unit and type."""


@dataclass(frozen=True)
class Roofline:
    """Ceilings and points; ops without arithmetic, or that move no bytes, have no point."""

    bytes_per_s: float
    """The DRAM bandwidth: FLOP/s are at most FLOPs per byte times this."""
    roofs: tuple[Roof, ...]
    """The highest first."""
    points: tuple[RooflinePoint, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def roofline_of(ops: Sequence[ExplainedOp], sites: Sequence[Site], evaluator: StepEvaluator) -> Roofline:
    """The roofline of ops, at the places `sites` of the program."""
    chip = evaluator.target.chip
    roofs: dict[str, Roof] = {}
    points: list[RooflinePoint] = []
    for op, site in zip(ops, sites, strict=True):
        work, step = work_of(site.op), op.step
        moved = step.bytes_read + step.bytes_written
        if work is None or work.unit == "none" or not (moved and step.flops and step.time_us):
            continue
        matrix = work.unit == "cube"
        name = f"{'matrix' if matrix else 'vector'} {work.dtype}"
        peak = chip.peak_flops_per_s(work.dtype) if matrix else 2 * chip.vector_ops_per_s(work.dtype)
        roofs[name] = Roof(name, peak)
        rate = step.flops / (step.time_us * 1e-6)
        points.append(RooflinePoint(step.path, step.op, step.flops / moved, rate, step.time_us, name))
    ranked = sorted(roofs.values(), key=lambda roof: (-roof.flops_per_s, roof.name))
    return Roofline(chip.dram_bytes_per_s, tuple(ranked), tuple(points))
