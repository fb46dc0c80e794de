"""The chip roofline: the chip is a peak rate, a memory bandwidth and a link, and nothing gets in their way."""

from __future__ import annotations

from typing import ClassVar, get_args

from xdsl.ir import Operation

from pmc.backends.cost.model import Bindings, CostModel, Granularity, Number, OpCost, larger, number
from pmc.backends.cost.network import transfer_of
from pmc.dialects.analyses.work import work_of
from pmc.dialects.arch import LinkLevel
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import UnboundSymbolError, expr
from pmc.dialects.interfaces import Work

VECTOR_FLOPS_PER_OP = 2
"""A vector unit may do a multiply-add per cycle: the most FLOPs that one of its operations can be."""


class ChipCostModel(CostModel):
    """time = max(FLOPs / peak, bytes / DRAM bandwidth) (Williams et al., Roofline, CACM 2009).

    The peak is that of the matrix unit for the op's element type, or of the vector units.  A collective takes at least
    the bytes that one rank sends, over the bandwidth of the slowest link that its group spans: no latency, full
    utilisation.  A lower bound of every other model.
    """

    granularity: ClassVar[Granularity] = Granularity.CHIP
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (
        "cores", "lanes_per_core", "clocks.chip_ghz", "clocks.tiu_ghz", "macs_per_lane_per_cycle",
        "vector_eus_per_lane", "dram.bandwidth_gb_per_s",
    )  # fmt: skip
    TOPOLOGY_PARAMETERS: ClassVar[tuple[str, ...]] = (
        "pods", "racks_per_pod", "boards_per_rack", "chips_per_board",
        *(f"links.{level}.gb_per_s" for level in get_args(LinkLevel)),
    )  # fmt: skip

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The roofline of `op`."""
        work = work_of(op)
        if work is None or all(amount == expr(0) for amount in (work.flops, work.bytes_read, work.bytes_written)):
            return None
        path = op.path.data if isinstance(op, PmcOp) else ""
        try:
            flops, read, written = (number(e, bindings) for e in (work.flops, work.bytes_read, work.bytes_written))
            transfer = transfer_of(op, self.target)
            link_bytes = 0.0 if transfer is None else number(transfer.link_bytes, bindings)
        except UnboundSymbolError as error:
            raise PmcError(f"{op.name} at '{path}': {error}") from None
        compute_s = self.compute_s(op, work, flops)
        memory_s = (read + written) / self.target.chip.dram_bytes_per_s
        transfer_s: Number = 0.0
        if transfer is not None and self.target.topology is not None:
            transfer_s = link_bytes / (self.target.topology.link(transfer.level).gb_per_s * 1e9)
        return OpCost(
            time_s=larger(compute_s, memory_s, transfer_s),
            compute_s=compute_s,
            memory_s=memory_s,
            transfer_s=transfer_s,
            flops=flops,
            bytes_read=read,
            bytes_written=written,
            link_bytes=link_bytes,
        )

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
