"""The core model: the roofline of cores that work in whole waves on blocks of the matrix unit's size.

It needs no tiles, so it is quick and takes arrays of symbol values; no tiling of an op can be faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Load, MatrixTime, busy_parts, loads_of, roofline_parts
from pmc.backends.cost.chip import DRAM_FIELDS, ChipCostModel, matrix_fields, vector_fields
from pmc.backends.cost.model import Bindings, CostModel, Granularity, Number, OpCost, Target, as_number, larger, number
from pmc.backends.cost.network import transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.cost.rates import CoreRates, ceil_div, round_up
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.work import work_of
from pmc.dialects.analyses.workload import (
    AttentionWorkload,
    IndexWorkload,
    MatmulWorkload,
    MoveWorkload,
    VectorWorkload,
    workload_of,
)
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import Exchange
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import Work
from pmc.dialects.vector_kinds import SiluMulAttr


@dataclass(frozen=True)
class _Waves:
    """Row blocks of an attention, those of the core that decides, and the seconds of one on either unit."""

    blocks: Number
    waves: Number
    gemm_s: Number
    softmax_s: Number


class CoreCostModel(CostModel):
    """time = max + (1 - overlap rate) * min of compute on the busiest core and DRAM traffic.

    Matmul: blocks of cube m x n, contracted in steps of cube k, dealt to the cores; the contraction may be split over
    cores, which then add up their parts.  Attention: row blocks of all heads, FlashAttention-2 with its softmax on the
    vector units.  Collectives take what the communication protocol says.
    """

    granularity: ClassVar[Granularity] = Granularity.CORE
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (
        *ChipCostModel.CHIP_PARAMETERS, "compute_dma_overlap_rate", "cube.m", "cube.n", "cube.k",
        "elementary_steps.exp", "elementary_steps.div", "elementary_steps.rsqrt",
        "command_level.sdma.startup_ns", "command_level.gdma.startup_ns", "command_level.lmem.bytes_per_core",
    )  # fmt: skip
    TOPOLOGY_PARAMETERS: ClassVar[tuple[str, ...]] = (*CommProtocol.CHOICE_PARAMETERS, "cpu_fetch_us")

    def __init__(self, target: Target, accounting: Accounting) -> None:
        super().__init__(target)
        self.accounting = accounting
        self.rates = CoreRates(target.chip, accounting)
        self.roofline = ChipCostModel(target)
        self.protocol = None if target.topology is None else CommProtocol(target.topology, accounting)

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The cost of `op`; counts are those of the roofline."""
        base = self.roofline.cost(op, bindings)
        if base is None:
            return None
        if op.name in self.accounting.uncharged_ops:
            return OpCost(0.0, flops=base.flops)  # what takes no time moves nothing: it is part of its neighbours
        comm = None if self.protocol is None else self.protocol.time_of(op, self.target, bindings)
        if comm is not None:
            return replace(
                base,
                time_s=larger(comm.total_s, base.memory_s, base.compute_s),
                latency_s=comm.latency_s,
                transfer_s=comm.transfer_s,
                link_bytes=comm.link_bytes,
            )
        try:
            return self.busy(op, base, bindings)
        except PmcError as error:
            path = op.path.data if isinstance(op, PmcOp) else ""
            raise PmcError(f"{op.name} at '{path}': {error}") from None

    def busy(self, op: Operation, base: OpCost, bindings: Bindings) -> OpCost:
        """The cost of an op that keeps the cores busy."""
        match workload_of(op):
            case MatmulWorkload() as matmul:
                return self.matmul(matmul, base, bindings)
            case AttentionWorkload() as attention:
                return self.attention(attention, base, bindings)
            case IndexWorkload() as index:
                return self.index(index, base, bindings)
            case VectorWorkload() as vector:
                return self.vector(vector, base, bindings)
            case MoveWorkload() | Exchange():
                return base

    # -- families -----------------------------------------------------------------------------------------------

    def matmul(self, workload: MatmulWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """The best of all splits of the contraction: whole waves of blocks, each so many steps of cube k long."""
        w, cube = workload, self.target.chip.cube
        cube_k = self.rates.cube_k(w.dtype)
        groups, m, n, k = (number(e, bindings) for e in (w.groups, w.m, w.n, w.k))
        blocks = groups * ceil_div(m, cube.m) * ceil_div(n, cube.n)
        steps = ceil_div(k, cube_k)
        step_s = w.products * 2.0 * cube.m * cube.n * cube_k / self.rates.core_flops_per_s(w.dtype)
        compute_s = self._split_steps(blocks, steps, step_s) / self._efficiency(base)
        return self._finish(base, compute_s + self._activation_s(w, bindings), base.memory_s)

    def _activation_s(self, w: MatmulWorkload, bindings: Bindings) -> Number:
        """Seconds of the vector units for what is computed of the sums of two products; a conversion is left out."""
        if not w.gated:
            return 0.0
        groups, m, n = (number(e, bindings) for e in (w.groups, w.m, w.n))
        steps = (
            groups * m * round_up(n, self.target.chip.cube.m) * self.target.chip.vector_steps(SiluMulAttr.ELEMENT_STEPS)
        )
        return steps / self.rates.cores / self.rates.core_steps_per_s("f32")

    def _split_steps(self, blocks: Number, steps: Number, step_s: float) -> Number:
        cores = self.rates.cores
        if self.accounting.waves == "fractional":
            return as_number(np.asarray(blocks * steps * step_s / np.minimum(blocks * steps, cores)))
        best: Number = np.inf
        seen = set[int]()
        for parts in range(1, cores + 1):
            side = cores // parts
            if side in seen:
                continue  # more parts for the same number of blocks at a time are the next ones
            seen.add(side)
            most = cores // side
            reduction_s = self.reduction_floor_s(parts)
            waves = ceil_div(blocks, side) * ceil_div(steps, most)
            best = as_number(np.minimum(best, waves * step_s + reduction_s))
        return best

    def reduction_floor_s(self, parts: int) -> float:
        """The least time of adding up a contraction split over `parts` cores: one message per part, or through DRAM."""
        free = self.accounting.core_reduction == "free" or self.accounting.command_startup == "free"
        if parts == 1 or free or self.target.chip.command_level is None:
            return 0.0
        commands = self.target.chip.commands
        return min(parts * commands.sdma.startup_ns, 2 * commands.gdma.startup_ns) * 1e-9

    def attention(self, workload: AttentionWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """Row blocks of cube m against blocks of keys, over the cores in whole waves: keys may be split as well."""
        w, found = workload, self._attention_waves(workload, bindings)
        compute_s = found.waves * (found.gemm_s / self._efficiency(base) + found.softmax_s)
        read, written = base.bytes_read, base.bytes_written
        sequences, kv_len = number(w.sequences, bindings), number(w.kv_len, bindings)
        if self.accounting.v_read == "apart" and w.v_is_key:
            read = read + sequences * w.kv_heads * kv_len * w.v_dim * w.v_bits / 8
        if self.accounting.attention_output == "as_inputs" and w.out_bits:
            written = written * (w.q_bits / w.out_bits)
        charged = replace(base, bytes_read=read, bytes_written=written)
        return self._finish(charged, compute_s, (read + written) / self.target.chip.dram_bytes_per_s)

    def _attention_waves(self, workload: AttentionWorkload, bindings: Bindings) -> _Waves:
        w, cube = workload, self.target.chip.cube
        sequences, q_len = (number(e, bindings) for e in (w.sequences, w.q_len))
        depth = self.rates.cube_k(w.dtype)
        keys = number(w.pairs_twice, bindings) / (2 * q_len)  # of a query, on average
        rows = ceil_div(q_len * w.group, cube.m) * cube.m
        # A core has whole blocks of rows x keys; a part of the keys is whole blocks of both matmuls.
        step = float(np.lcm(cube.n, depth))
        parts = 1.0 if w.state_bytes and not w.out_bits else np.maximum(ceil_div(keys, step), 1)
        blocks = sequences * w.kv_heads * rows / cube.m * parts
        own = keys / parts
        widths = sum(round_up(d, depth) for d in w.qk_dims) + round_up(w.v_dim, cube.n)
        gemm_s = 2.0 * cube.m * own * widths / self.rates.core_flops_per_s(w.dtype)
        per_score, per_row = self.rates.softmax_steps(w.capped, w.biased)
        softmax_s = cube.m * (own * per_score + per_row / parts) / self.rates.core_steps_per_s("bf16")
        return _Waves(blocks, self.rates.waves(blocks), gemm_s, softmax_s)

    def index(self, workload: IndexWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """Products in whole waves of blocks of cube m x n, then the weighted sum of each score on the vector units."""
        gemm_s, vector_s = self._index_parts(workload, bindings)
        return self._finish(base, gemm_s / self._efficiency(base) + vector_s, base.memory_s)

    def _index_parts(self, w: IndexWorkload, bindings: Bindings) -> tuple[Number, Number]:
        """Seconds of the matrix unit and of the vector unit of the busiest core."""
        cube, depth = self.target.chip.cube, self.rates.cube_k(w.dtype)
        rows, keys = number(w.rows, bindings), number(w.keys, bindings)
        # Queries share blocks of the matrix unit; every block is as deep as its pieces.
        blocks = ceil_div(rows * w.heads, cube.m) * ceil_div(keys, cube.n)
        deep = sum(float(round_up(d, depth)) for d in w.qk_dims)
        gemm_s = 2.0 * cube.m * cube.n * deep / self.rates.core_flops_per_s(w.dtype) * self.rates.waves(blocks)
        steps = rows * keys * self.target.chip.vector_steps(w.per_score) / self.rates.cores
        return gemm_s, steps / self.rates.core_steps_per_s("f32")

    def vector(self, workload: VectorWorkload, base: OpCost, bindings: Bindings) -> OpCost:
        """Steps on the busiest core; rows stay whole where something happens once per row."""
        rows, columns = number(workload.rows, bindings), number(workload.columns, bindings)
        aligned = round_up(columns, self.target.chip.cube.m)
        per_element, per_row = (self.target.chip.vector_steps(s) for s in (workload.per_element, workload.per_row))
        if per_row:
            steps = self.rates.waves(rows) * (aligned * per_element + per_row)
        else:
            steps = rows * aligned * per_element / self.rates.cores
        steps = steps * number(workload.turns, bindings)
        return self._finish(base, steps / self.rates.core_steps_per_s(workload.dtype), base.memory_s)

    # -- where the time goes ------------------------------------------------------------------------------------

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The parts of whole waves on cores, or of a transfer."""
        cost, work = self.cost(op, bindings), work_of(op)
        if cost is None or work is None:
            return None
        if op.name in self.accounting.uncharged_ops:
            return Breakdown({})
        if transfer_of(op, self.target) is not None and self.protocol is not None:
            loads = self.roofline.loads(op, work, cost)
            named = [n for n in self.TOPOLOGY_PARAMETERS if n.endswith(("_us", "_utilisation")) and "links." not in n]
            links = self.roofline.link_loads(op, cost, ("gb_per_s", "latency_us"), named)
            others = [load for load in loads if load.engine != "link"]
            return Breakdown(roofline_parts(cost, work.unit), loads_of([*links, *others]))
        return self.busy_breakdown(op, work, cost, bindings)

    def busy_breakdown(self, op: Operation, work: Work, cost: OpCost, bindings: Bindings) -> Breakdown:
        """The parts of an op that keeps the cores busy, and its FLOPs and bytes."""
        compute_s, memory_s = float(cost.compute_s), float(cost.memory_s)
        overlap, matrix, vector_s, rate = self.target.chip.compute_dma_overlap_rate, MatrixTime(), 0.0, "bf16"
        match workload_of(op):
            case MatmulWorkload() as matmul:
                matrix = self._matmul_time(matmul, cost, bindings)
                vector_s, rate = float(self._activation_s(matmul, bindings)), "f32"
            case AttentionWorkload() as attention:
                matrix, vector_s = self._attention_time(attention, cost, bindings)
            case IndexWorkload() as index:
                gemm_s, scores_s = (float(part) for part in self._index_parts(index, bindings))
                useful_s = float(cost.flops) / self.target.chip.peak_flops_per_s(index.dtype)
                lost_s = max(0.0, compute_s - scores_s - gemm_s)
                matrix = replace(MatrixTime.of(gemm_s, useful_s, gemm_s), efficiency_s=lost_s)
                vector_s, rate = scores_s, "f32"
            case VectorWorkload() as vector:
                vector_s, rate = compute_s, vector.dtype
            case MoveWorkload() | Exchange():
                return Breakdown(roofline_parts(cost, work.unit), loads_of(self.roofline.loads(op, work, cost)))
        peak = self.target.chip.peak_flops_per_s(work.dtype) if matrix.total_s else 0.0
        steps = vector_s * self.rates.core_steps_per_s(rate)
        loads = [
            Load("matrix", "main", matrix.total_s * peak, "FLOP", matrix.total_s, matrix_fields(work.dtype)),
            Load("vector", "main", steps, "steps", vector_s, vector_fields(rate)),
            Load("dram", "main", memory_s * self.target.chip.dram_bytes_per_s, "bytes", memory_s, DRAM_FIELDS),
        ]
        return Breakdown(busy_parts(matrix, vector_s, memory_s, overlap), loads_of(loads))

    def _matmul_time(self, workload: MatmulWorkload, cost: OpCost, bindings: Bindings) -> MatrixTime:
        w, cube = workload, self.target.chip.cube
        depth = self.rates.cube_k(w.dtype)
        groups, m, n, k = (float(number(e, bindings)) for e in (w.groups, w.m, w.n, w.k))
        cubes = w.products * groups * float(ceil_div(m, cube.m) * ceil_div(n, cube.n) * ceil_div(k, depth))
        cube_s = 2.0 * cube.m * cube.n * depth / self.target.chip.peak_flops_per_s(w.dtype)
        useful_s = w.products * 2.0 * groups * m * n * k / self.target.chip.peak_flops_per_s(w.dtype)
        efficiency = float(self._efficiency(cost))
        busiest_s = (float(cost.compute_s) - float(self._activation_s(w, bindings))) * efficiency
        found = MatrixTime.of(busiest_s, useful_s, cubes * cube_s)
        return replace(found, efficiency_s=busiest_s / efficiency - busiest_s)

    def _attention_time(
        self, workload: AttentionWorkload, cost: OpCost, bindings: Bindings
    ) -> tuple[MatrixTime, float]:
        w, found = workload, self._attention_waves(workload, bindings)
        busiest_s = float(found.waves * found.gemm_s)
        useful_s = float(cost.flops) / self.target.chip.peak_flops_per_s(w.dtype)
        matrix = MatrixTime.of(busiest_s, useful_s, float(found.blocks * found.gemm_s) / self.rates.cores)
        softmax_s = float(found.waves * found.softmax_s)
        compute_s = float(cost.compute_s)
        lost_s = compute_s - softmax_s - busiest_s
        lost_s = lost_s if lost_s > 1e-14 * compute_s else 0.0  # else the rounding of the sums
        return replace(matrix, efficiency_s=lost_s), softmax_s

    def _finish(self, base: OpCost, compute_s: Number, memory_s: Number) -> OpCost:
        time_s = self.rates.overlapped(compute_s, memory_s)
        return replace(base, time_s=time_s, compute_s=compute_s, memory_s=memory_s)

    def _efficiency(self, base: OpCost) -> Number:
        efficiency = self.accounting.core_efficiency
        if efficiency is None or self.target.chip.command_level is None:
            return 1.0
        lmem = self.target.chip.commands.lmem.bytes_per_core * self.rates.cores
        ratio = np.asarray((base.bytes_read + base.bytes_written) / lmem)
        fits = [ratio <= 1.0, ratio <= 2.0]
        reached = [np.float64(efficiency.within_lmem), np.float64(efficiency.within_twice_lmem)]
        return as_number(np.select(fits, reached, np.float64(efficiency.beyond)))
