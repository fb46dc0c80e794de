"""An op with its plan: what the plan asks of the engines, its time, and the shape that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pmc.backends.cost.breakdown import CubeUse, Shape
from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.plan_time import PlanTime
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.index_tiling import IndexShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import Chip
from pmc.dialects.tile_plan import PlanAttr


@dataclass(frozen=True)
class PlannedOp:
    """One op under one plan; arrays have one entry."""

    plan: PlanAttr
    resources: Resources
    time: PlanTime
    vec_dtype: str
    """What sets the rate of the vector unit."""
    text: str
    """The shape in words."""
    vec_is_free: bool = False
    macs: Mapping[str, float] = field(default_factory=dict[str, float])
    """Multiply-accumulates of the chip without padding, by the element type that sets the rate."""
    cubes: tuple[CubeUse, ...] = ()

    @property
    def shape(self) -> Shape:
        """What the op was priced for."""
        return Shape(1.0, self.text, self.plan, int(self.resources.cores[0]), self.cubes)

    @classmethod
    def of_matmul(cls, shape: MatmulShape, plan: PlanAttr, r: Resources, search: PlanSearch) -> PlannedOp:
        """A matmul under `plan`, which asks for `r`."""
        groups = f"{shape.groups} x " if shape.groups > 1 else ""
        twice = "two " if shape.gated else ""
        return cls(
            plan,
            r,
            search.matmul_time(shape, r),
            "f32",
            f"{groups}[{shape.m}, {shape.k}] x {twice}[{shape.k}, {shape.n}] at {shape.dtype}",
            search.vec_is_free(shape),
            {shape.dtype: float(r.macs[0])},
            (_cube(search.chip, shape.m, shape.n, shape.k, search.rates.cube_k(shape.dtype)),),
        )

    @classmethod
    def of_attention(cls, shape: AttentionShape, plan: PlanAttr, r: Resources, search: PlanSearch) -> PlannedOp:
        """An attention under `plan`, which asks for `r`."""
        s, depth, rows = shape, search.rates.cube_k(shape.dtype), shape.q_len * shape.group
        keys = f"{s.kv_len} keys" if s.reach is None else f"{s.kv_len} keys in a {s.reach.kind} of {s.reach.keys}"
        return cls(
            plan,
            r,
            search.attention_time(r),
            "bf16",
            f"{s.problems} x {rows} rows ({s.q_len} queries of {s.group} heads) on {keys}, at {s.dtype}",
            False,
            {s.dtype: float(r.macs[0])},
            (
                *(_cube(search.chip, rows, s.kv_len, d, depth) for d in s.qk_dims),
                _cube(search.chip, rows, s.v_dim, s.kv_len, depth),
            ),
        )

    @classmethod
    def of_index(cls, shape: IndexShape, plan: PlanAttr, r: Resources, search: PlanSearch) -> PlannedOp:
        """The scores of an indexer under `plan`, which asks for `r`."""
        s, depth, rows = shape, search.rates.cube_k(shape.dtype), shape.q_len * shape.heads
        cubes = tuple(_cube(search.chip, rows, s.kv_len, d, depth) for d in s.qk_dims)
        macs = {s.dtype: float(r.macs[0])}
        return cls(plan, r, search.index_time(r), "f32", s.text, False, macs, cubes)


def _cube(chip: Chip, rows: int, columns: int, depth: int, cube_k: int) -> CubeUse:
    return CubeUse(rows, columns, depth, (chip.cube.m, chip.cube.n, cube_k))
