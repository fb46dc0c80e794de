"""The chip roofline: the chip is a peak rate, a memory bandwidth and a link, and nothing gets in their way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar, get_args

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Engine, Load, link_loads, loads_of, roofline_parts
from pmc.backends.cost.model import (
    Bindings,
    CostModel,
    Granularity,
    Number,
    OpCost,
    Target,
    as_number,
    larger,
    number,
    useful,
)
from pmc.backends.cost.network import Network, Transfer, network_of, transfer_of
from pmc.dialects.analyses.expert_slots import ExpertSlots
from pmc.dialects.analyses.idle_ops import is_idle
from pmc.dialects.analyses.padding import unpadded_share
from pmc.dialects.analyses.work import work_of
from pmc.dialects.arch import DTYPE_BITS, LinkLevel
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import UnboundSymbolError, expr
from pmc.dialects.interfaces import Work

VECTOR_FLOPS_PER_OP = 2
"""A vector unit may do a multiply-add per cycle: the most FLOPs that one of its operations can be."""


DRAM_FIELDS = ("chip.dram.bandwidth_gb_per_s",)


def matrix_fields(dtype: str) -> tuple[str, ...]:
    """The fields that the peak of all matrix units is made of."""
    names = (f"macs_per_lane_per_cycle.{dtype}", "lanes_per_core", "cores", "clocks.tiu_ghz")
    return tuple(f"chip.{name}" for name in names)


def vector_fields(dtype: str) -> tuple[str, ...]:
    """The fields that the rate of all vector units is made of."""
    width = max(8, DTYPE_BITS[dtype])
    names = (f"vector_eus_per_lane.bits_{width}", "lanes_per_core", "cores", "clocks.chip_ghz")
    return tuple(f"chip.{name}" for name in names)


class ChipCostModel(CostModel):
    """time = max(FLOPs / peak, bytes / DRAM bandwidth) (Williams et al., Roofline, CACM 2009).

    The peak is that of the matrix unit for the op's element type, or of the vector units.  A collective takes at least
    what its bytes take on the links, by the algorithm that asks least of them where none is named: no latency, full
    utilisation.  A lower bound of every other model.

    Time and bytes are those of the rank with most work, in the shapes of the program; FLOPs are counted as `OpCost`
    says.
    """

    granularity: ClassVar[Granularity] = Granularity.CHIP
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (
        "cores", "lanes_per_core", "clocks.chip_ghz", "clocks.tiu_ghz", "macs_per_lane_per_cycle",
        "vector_eus_per_lane", "dram.bandwidth_gb_per_s",
    )  # fmt: skip
    TOPOLOGY_PARAMETERS: ClassVar[tuple[str, ...]] = (
        "pods", "racks_per_pod", "boards_per_rack", "chips_per_board", "board_wiring",
        *(f"links.{level}.gb_per_s" for level in get_args(LinkLevel)),
    )  # fmt: skip

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.slots = ExpertSlots()

    @property
    def is_lower_bound(self) -> bool:
        """A roofline is one."""
        return True

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The roofline of `op`."""
        work = work_of(op)
        if work is None or all(amount == expr(0) for amount in (work.flops, work.bytes_read, work.bytes_written)):
            return None
        path = op.path.data if isinstance(op, PmcOp) else ""
        try:
            if is_idle(op, bindings):
                return None
            flops, read, written = (number(e, bindings) for e in (work.flops, work.bytes_read, work.bytes_written))
            transfer = transfer_of(op, self.target)
            link_bytes = 0.0 if transfer is None else number(transfer.link_bytes, bindings)
            useful_flops = useful(work.flops, bindings) * self.slots.fill(op, self.target.mesh)
            useful_flops = useful_flops * unpadded_share(op, self.target.mesh)
            transfer_s = 0.0 if transfer is None else self.transfer_s(transfer, network_of(op, self.target), bindings)
        except UnboundSymbolError as error:
            raise PmcError(f"{op.name} at '{path}': {error}") from None
        compute_s = self.compute_s(op, work, flops)
        memory_s = (read + written) / self.target.chip.dram_bytes_per_s
        return OpCost(
            time_s=larger(compute_s, memory_s, transfer_s),
            compute_s=compute_s,
            memory_s=memory_s,
            transfer_s=transfer_s,
            flops=useful_flops,
            peak_s=self.compute_s(op, work, useful_flops) if work.unit == "cube" else 0.0,
            bytes_read=read,
            bytes_written=written,
            link_bytes=link_bytes,
        )

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The parts of the roofline, and FLOPs, bytes and bytes sent."""
        cost, work = self.cost(op, bindings), work_of(op)
        if cost is None or work is None:
            return None
        return Breakdown(roofline_parts(cost, work.unit), loads_of(self.loads(op, work, cost)))

    def loads(self, op: Operation, work: Work, cost: OpCost) -> list[Load]:
        """FLOPs of the unit, bytes of DRAM, bytes on the links."""
        loads = [*self.link_loads(op, cost, ("gb_per_s",))]
        if work.unit != "none":
            matrix = work.unit == "cube"
            fields = matrix_fields(work.dtype) if matrix else vector_fields(work.dtype)
            engine: Engine = "matrix" if matrix else "vector"
            loads.append(Load(engine, "main", float(cost.flops), "FLOP", float(cost.compute_s), fields))
        moved = float(cost.bytes_read + cost.bytes_written)
        return [*loads, Load("dram", "main", moved, "bytes", float(cost.memory_s), DRAM_FIELDS)]

    def link_loads(self, op: Operation, cost: OpCost, of_link: Sequence[str], more: Sequence[str] = ()) -> list[Load]:
        """What an op asks of the outermost links that it spans, of which the fields `of_link` count."""
        transfer = transfer_of(op, self.target)
        if transfer is None:
            return []
        link = [f"topology.links.{transfer.level}.{name}" for name in of_link]
        return link_loads(cost, [*link, *(f"topology.{name}" for name in more)])

    def transfer_s(self, transfer: Transfer, network: Network, bindings: Bindings) -> Number:
        """The bytes on the links at full bandwidth, by the algorithm that asks least of them; 0 for a single rank."""
        if transfer.ranks == 1:
            return 0.0
        times = [np.asarray(network.wire_s(way, bindings), np.float64) for way in network.ways(transfer)]
        return as_number(reduce(np.minimum, times))

    def compute_s(self, op: Operation, work: Work, flops: Number) -> Number:
        """FLOPs over the peak of the unit that does them; 0 for an op that only moves data."""
        if work.unit == "none":
            return 0.0
        chip = self.target.chip
        try:
            if work.unit == "cube":
                return flops / chip.peak_flops_per_s(work.dtype)
            return flops / (VECTOR_FLOPS_PER_OP * chip.vector_ops_per_s(work.dtype))
        except PmcError as error:
            path = op.path.data if isinstance(op, PmcOp) else ""
            raise PmcError(f"{op.name} at '{path}': {error}") from None
