"""The programs of ranks whose experts have other rows than the mean, where a routing histogram says which.

A program is lowered for the mean rank.  A rank whose experts get more rows runs the same ops on more slots: its kernels
between dispatch and combine take longer, and all others wait for it in the combine.  Dispatch and combine themselves
carry what the histogram says already.  Ranks whose experts have equally many rows share a program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.driver import resume, run_pipeline
from pmc.compiler.pipelines import DEPLOYMENT, remaining_pipeline
from pmc.dialects import dist
from pmc.dialects.analyses.expert_slots import ExpertSlots, Routed, unequal_ranks
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.deployment import Histogram
from pmc.dialects.dist import MeshAttr
from pmc.dialects.drafting import queries
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.levels import LEVELS, MESH
from pmc.dialects.tensor import tensor

if TYPE_CHECKING:
    from pmc.backends.g5.stream import Part, StepTimes

SELECT_TILES = "select-tiles"
"""The pass from which on a program is made for its rows."""


@dataclass(frozen=True)
class RankProgram:
    """What some ranks run."""

    load: float
    """The rows of the experts of the first of them over the mean of all ranks."""
    ranks: tuple[int, ...]
    """Their places along the axis of the experts; empty where all ranks run the program."""
    module: ModuleOp
    """At the commands level."""


def rank_programs(module: ModuleOp) -> Iterator[RankProgram]:
    """The commands of all ranks that differ, one after the other.

    They are lowered from `module`, at the dist level or below, which is used up.  The rows of a rank are shared evenly
    by its experts, as `evaluate` shares them.  Without a histogram, under an accounting that charges the mean rank, and
    for a module whose plans are chosen there is one program.
    Raises PmcError for a histogram whose experts do not fall evenly on the ranks.
    """
    histogram = unequal_ranks(module)
    if histogram is not None:
        left = remaining_pipeline(module, LEVELS[-1])
        run_pipeline(module, left[: [spec.name for spec in left].index(SELECT_TILES)])
        found = [_Slots.of(op, module) for op in _dispatches(module)]
        (ranks,) = {slots.ranks for slots in found} or {1}
        loads = _loads(histogram, ranks)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for rank, load in enumerate(loads):
            sizes.setdefault(tuple(slots.rows_at(load) for slots in found), []).append(rank)
        if len(sizes) > 1:
            for rows, own in sizes.items():
                yield RankProgram(float(loads[own[0]]), tuple(own), _lowered(module.clone(), rows))
            return
    yield RankProgram(1.0, (), resume(module, LEVELS[-1]))


def simulate_ranks(module: ModuleOp) -> StepTimes:
    """The step of the slowest of all ranks, from a module at the dist level or below.  Raises PmcError."""
    from pmc.backends.g5.stream import simulate

    steps = (
        replace(simulate(own.module), expert_ranks=own.ranks, expert_load=own.load) for own in rank_programs(module)
    )
    return max(steps, key=lambda step: step.total_ps)


def slowest_parts(module: ModuleOp) -> tuple[Part, ...]:
    """What the ranks of all pipeline stages do in a step, of the slowest of their programs."""
    from pmc.backends.g5.stream import simulate_parts, step_of

    found = ((own.module, simulate_parts(own.module)) for own in rank_programs(module))
    return max(found, key=lambda one: step_of(*one).total_ps)[1]


def _loads(histogram: Histogram, ranks: int) -> list[Fraction]:
    """Of every rank the rows of its experts over the mean."""
    rows = [Fraction(count) for count in histogram.histogram]
    if len(rows) % ranks:
        raise PmcError(f"routing.histogram has {len(rows)} experts, which {ranks} ranks cannot share evenly")
    own = len(rows) // ranks
    return [sum(rows[rank * own : (rank + 1) * own], Fraction(0)) * ranks / sum(rows) for rank in range(ranks)]


def _dispatches(module: ModuleOp) -> list[dist.DispatchOp]:
    """Those with slots for the mean load: slots for the worst case have room for any."""
    found = (op for op in module.walk() if isinstance(op, dist.DispatchOp))
    return [op for op in found if op.capacity.data == "balanced"]


@dataclass(frozen=True)
class _Slots:
    """The slots of a dispatch in the program of the mean rank."""

    ranks: int
    rows: int
    """Rows of an expert that the program has."""
    mean: Fraction
    """The rows that an expert has on average: `rows` before they were rounded up."""

    @classmethod
    def of(cls, dispatch: dist.DispatchOp, module: ModuleOp) -> _Slots:
        mesh, deployment = module.attributes[MESH], module.attributes[DEPLOYMENT]
        assert isinstance(mesh, MeshAttr) and isinstance(deployment, DeploymentAttr)
        run, routed = deployment.data, Routed.of(dispatch, mesh.data)
        tokens = -(-run.batch * queries(dispatch.path.data, run.q_len) // routed.replicas)
        mean, rows = Fraction(tokens * routed.top_k, routed.experts), tensor(dispatch.y).dims[1].constant
        # Ranks of tensor parallelism may share the rows of an expert.
        return cls(routed.ranks, rows, mean * rows / ceil(mean))

    def rows_at(self, load: Fraction) -> int:
        """The rows of an expert of a rank with so many times the mean."""
        return self.rows if load == 1 else max(1, ceil(self.mean * load))


def _lowered(module: ModuleOp, rows: Sequence[int]) -> ModuleOp:
    """The commands of a rank whose experts have so many rows, one number for every dispatch."""
    rows_of = dict(zip(_dispatches(module), rows, strict=True))
    slots = ExpertSlots()
    filled = [(value, slots.source(value)) for op in module.walk() for value in op.results]
    for value, dispatch in filled:
        if isinstance(dispatch, dist.DispatchOp) and dispatch in rows_of:
            type_ = tensor(value)
            own = type_.with_dims((type_.dims[0], expr(rows_of[dispatch]), *type_.dims[2:]))
            value._type = own  # pyright: ignore[reportPrivateUsage]  # the value stays the one that others know
    return resume(module, LEVELS[-1])
