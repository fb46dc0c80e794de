"""The tile model: the price of the plan that stands on an op, or of the fastest one where none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from xdsl.ir import Operation, SSAValue

from pmc.backends.cost.breakdown import Breakdown, MatrixTime, Part, busy_parts, loads_of, present
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import Bindings, Granularity, OpCost, Target
from pmc.backends.cost.plan_loads import plan_loads
from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.planned import PlannedOp
from pmc.dialects import layer
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import (
    compress_tiling,
    conv_tiling,
    embedding_tiling,
    gather_tiling,
    index_tiling,
    recurrence_tiling,
    row_tiling,
    topk_tiling,
)
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.workload import AttentionWorkload, MatmulWorkload, single, workload_of
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import Work
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
        """Plans that are searched are kept in `folder`, if one is given.

        Raises PmcError for a chip without a command level: there is nothing that plans could be for.
        """
        super().__init__(target, accounting)
        _ = target.chip.commands
        self.search = PlanSearch(self.rates, folder)

    def busy(self, op: Operation, base: OpCost, bindings: Bindings) -> OpCost:
        """The cost of an op that keeps the cores busy: the price of its plan."""
        found = self.planned(op, bindings)
        return super().busy(op, base, bindings) if found is None else _priced(base, found, self.accounting)

    def busy_breakdown(self, op: Operation, work: Work, cost: OpCost, bindings: Bindings) -> Breakdown:
        """The parts of the time of its plan, and what the plan asks of every engine."""
        found = self.planned(op, bindings)
        if found is None:
            return super().busy_breakdown(op, work, cost, bindings)
        loads = plan_loads(self.rates, found.resources, found.vec_dtype, found.vec_is_free)
        return Breakdown(self._parts(found), loads_of(loads), (found.shape,))

    def _parts(self, found: PlannedOp) -> dict[Part, float]:
        r, main, rates = found.resources, found.time.main, self.rates
        matrix = MatrixTime.of(
            float(main.tiu_s[0] - main.tiu_start_s[0]),
            sum(2.0 * macs / rates.chip.peak_flops_per_s(dtype) for dtype, macs in found.macs.items()),
            sum(float(s[0] * r.cores[0]) * rates.tiu_step_s(d) for d, s in r.tiu_mean_steps.items()) / rates.cores,
        )
        matrix = replace(matrix, start_up_s=float(main.tiu_start_s[0]))
        parts = busy_parts(matrix, float(main.vec_s[0]), float(main.memory_s[0]), float(found.time.overlap[0]))
        if found.time.merge is not None:
            parts[Part.MERGE] = float(found.time.merge.compute_s[0] + found.time.merge.memory_s[0])
        return present(parts)

    def planned(self, op: Operation, bindings: Bindings, searched: bool = False) -> PlannedOp | None:
        """The plan of an op, what it asks of the engines, and its time; None for an op that becomes no kernel.

        `searched` looks for the fastest plan even where one stands on the op.  Raises PmcError for a plan on the op
        that is not legal, or where none fits.
        """
        on_op = None if searched else op.attributes.get(PLAN)
        given = on_op if isinstance(on_op, PlanAttr) else None
        chip, search = self.target.chip, self.search

        def dims(value: SSAValue) -> tuple[int, ...]:
            return tuple(single(d, bindings) for d in tensor(value).dims)

        if isinstance(op, layer.CompressedAttentionOp) and 0 in dims(op.v):
            return None
        if isinstance(op, RowOp | layer.LastTokenOp | layer.KvAppendOp | layer.PositionEmbeddingOp):
            if isinstance(op, layer.PositionEmbeddingOp):
                rows = row_tiling.positioned_rows(op, single(op.q_len.data, bindings), dims)
            else:
                rows = row_tiling.rows_of(op, chip.cores, dims)
            plan = given or row_tiling.plan_rows(rows, chip)
            _refuse(row_tiling.plan_fault(rows, plan, chip))
            r = row_tiling.resources(rows, plan, chip)
            dtype = row_tiling.rate_type(rows)
            text = f"{rows.outer} x {rows.inner} rows of {rows.width}"
            return PlannedOp(plan, r, search.times.of(r, dtype), dtype, text)
        if isinstance(op, layer.EmbeddingOp):
            lookup = embedding_tiling.lookup_of(op, dims)
            plan = given or embedding_tiling.plan_lookup(lookup, chip)
            _refuse(embedding_tiling.plan_fault(lookup, plan, chip))
            r = embedding_tiling.resources(lookup, plan, chip)
            dtype, text = lookup.stored_dtype, f"{lookup.tokens} rows of {lookup.width}"
            return PlannedOp(plan, r, search.times.of(r, dtype), dtype, text)
        if isinstance(op, layer.IndexScoresOp | layer.BlockScoresOp):
            scores = index_tiling.index_shape(op, dims)
            plan = given or search.index_scores(scores)
            _refuse(index_tiling.plan_fault(scores, plan, chip))
            return PlannedOp.of_index(scores, plan, index_tiling.resources(scores, plan, chip), search)
        if isinstance(op, layer.TopkSelectOp):
            selection = topk_tiling.selection_of(op, dims)
            plan = given or topk_tiling.plan_selection(selection, chip)
            _refuse(topk_tiling.plan_fault(selection, plan, chip))
            r, dtype = topk_tiling.resources(selection, plan, chip), selection.score_dtype
            return PlannedOp(plan, r, search.times.of(r, dtype), dtype, selection.text)
        if isinstance(op, layer.GatherRowsOp):
            gather = gather_tiling.gather_of(op, dims)
            plan = given or gather_tiling.plan_gather(gather, chip)
            _refuse(gather_tiling.plan_fault(gather, plan, chip))
            r = gather_tiling.resources(gather, plan, chip)
            return PlannedOp(plan, r, search.times.of(r, gather.dtype), gather.dtype, gather.text)
        if isinstance(op, layer.CausalConvOp):
            conv = conv_tiling.convolution_of(op, dims)
            plan = given or conv_tiling.plan_convolution(conv, chip)
            _refuse(conv_tiling.plan_fault(conv, plan, chip))
            r = conv_tiling.resources(conv, plan, chip)
            return PlannedOp(plan, r, search.times.of(r, conv.dtype), conv.dtype, conv.text)
        if isinstance(op, layer.CompressOp):
            work = compress_tiling.compression_of(op, dims, single(op.first_entry, bindings))
            plan = given or compress_tiling.plan_compression(work, chip)
            _refuse(compress_tiling.plan_fault(work, plan, chip))
            r, dtype = compress_tiling.resources(work, plan, chip), compress_tiling.DTYPE
            return PlannedOp(plan, r, search.times.of(r, dtype), dtype, work.text)
        if isinstance(op, layer.RecurrenceOp):
            recurrence = recurrence_tiling.recurrence_of(op, dims)
            plan = given or recurrence_tiling.plan_recurrence(recurrence, chip)
            _refuse(recurrence_tiling.plan_fault(recurrence, plan, chip))
            r, dtype = recurrence_tiling.resources(recurrence, plan, chip), recurrence.state_dtype
            return PlannedOp(plan, r, search.times.of(r, dtype), dtype, recurrence.text)
        match workload_of(op):
            case MatmulWorkload() as matmul:
                shape = matmul.at(bindings)
                plan = given or search.matmul(shape)
                _refuse(matmuls.plan_fault(shape, plan, chip))
                r = search.matmul_resources(shape, matmuls.tiling_of(plan))
                return PlannedOp.of_matmul(shape, plan, r, search)
            case AttentionWorkload() as attention:
                problem = attention.at(bindings)
                plan = given or search.attention(problem)
                _refuse(attentions.plan_fault(problem, plan, chip))
                r = search.attention_resources(problem, attentions.tiling_of(plan))
                return PlannedOp.of_attention(problem, plan, r, search)
            case _:
                return None


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise PmcError(f"the plan: {fault}")


def _priced(base: OpCost, found: PlannedOp, accounting: Accounting) -> OpCost:
    """The cost of a plan; bytes are those that it moves."""
    r, time = found.resources, found.time
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
