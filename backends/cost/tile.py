"""The tile model: the price of the plan that stands on an op, or of the fastest one where none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from xdsl.ir import Operation, SSAValue

from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import Bindings, Granularity, OpCost, Target
from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.plan_time import PlanTime
from pmc.dialects import layer
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import embedding_tiling, row_tiling
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.analyses.workload import AttentionWorkload, MatmulWorkload, single, workload_of
from pmc.dialects.errors import PmcError
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import tensor
from pmc.dialects.tile_plan import PLAN, PlanAttr


class TileCostModel(CoreCostModel):
    """The core model with every op that becomes a kernel priced by its plan.  Symbols must be bound to integers."""

    granularity: ClassVar[Granularity] = Granularity.TILE
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (
        *CoreCostModel.CHIP_PARAMETERS, "gdma_multicast", "alignment_bytes", "command_level.lmem.tile_budget_fraction",
        "command_level.lmem.bytes_per_cycle", "command_level.gdma.gb_per_s", "command_level.gdma.efficiency",
        "command_level.sdma.gb_per_s", "command_level.sdma.efficiency", "command_level.tiu.startup_cycles_nn",
    )  # fmt: skip

    def __init__(self, target: Target, accounting: Accounting, folder: Path | None = None) -> None:
        """Plans that are searched are kept in `folder`, if one is given."""
        super().__init__(target, accounting)
        self.search = PlanSearch(self.rates, folder)

    def busy(self, op: Operation, base: OpCost, bindings: Bindings) -> OpCost:
        """The cost of an op that keeps the cores busy: the price of its plan."""
        found = self.planned(op, bindings)
        if found is None:
            return super().busy(op, base, bindings)
        _, r, time = found
        return _priced(base, r, time, self.accounting)

    def planned(self, op: Operation, bindings: Bindings) -> tuple[PlanAttr, Resources, PlanTime] | None:
        """The plan of an op, what it asks of the engines, and its time; None for an op that becomes no kernel.

        Raises PmcError for a plan on the op that is not legal, or where none fits.
        """
        on_op = op.attributes.get(PLAN)
        given = on_op if isinstance(on_op, PlanAttr) else None
        chip, search = self.target.chip, self.search

        def dims(value: SSAValue) -> tuple[int, ...]:
            return tuple(single(d, bindings) for d in tensor(value).dims)

        if isinstance(op, RowOp | layer.LastTokenOp | layer.KvAppendOp):
            rows = row_tiling.rows_of(op, chip.cores, dims)
            plan = given or row_tiling.plan_rows(rows, chip)
            _refuse(row_tiling.plan_fault(rows, plan, chip))
            r = row_tiling.resources(rows, plan, chip)
            return plan, r, search.times.of(r, row_tiling.rate_type(rows))
        if isinstance(op, layer.EmbeddingOp):
            lookup = embedding_tiling.lookup_of(op, dims)
            plan = given or embedding_tiling.plan_lookup(lookup, chip)
            _refuse(embedding_tiling.plan_fault(lookup, plan, chip))
            r = embedding_tiling.resources(lookup, plan, chip)
            return plan, r, search.times.of(r, lookup.stored_dtype)
        match workload_of(op):
            case MatmulWorkload() as matmul:
                shape = matmul.at(bindings)
                plan = given or search.matmul(shape)
                _refuse(matmuls.plan_fault(shape, plan, chip))
                r = search.matmul_resources(shape, matmuls.tiling_of(plan))
                return plan, r, search.matmul_time(shape, r)
            case AttentionWorkload() as attention:
                problem = attention.at(bindings)
                plan = given or search.attention(problem)
                _refuse(attentions.plan_fault(problem, plan, chip))
                r = search.attention_resources(problem, attentions.tiling_of(plan))
                return plan, r, search.attention_time(r)
            case _:
                return None


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise PmcError(f"the plan: {fault}")


def _priced(base: OpCost, r: Resources, time: PlanTime, accounting: Accounting) -> OpCost:
    """The cost of the one plan in `r` and `time`; bytes are those that the plan moves."""
    read, written = float(r.dram_read[0]), float(r.dram_written[0])
    if r.merge is not None and accounting.core_reduction == "charged":
        read, written = read + float(r.merge.dram_read[0]), written + float(r.merge.dram_written[0])
    return replace(
        base,
        time_s=float(time.total_s[0]),
        compute_s=float(time.compute_s[0]),
        memory_s=float(time.memory_s[0]),
        bytes_read=read,
        bytes_written=written,
    )
