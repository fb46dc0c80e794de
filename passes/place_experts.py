"""Decide which cores compute an expert and which banks keep its weights (TAPS).

    trace.logical() {micro_batch = 32, compute = .., memory = ..} at "mixtral-8x7b"

becomes, with `place-experts{strategy="taps"}`,

    trace.logical() {micro_batch = 32, compute = .., memory = ..} at "mixtral-8x7b"
    trace.placement() {strategy = "taps", experts = #trace.table<experts, ..>, tensors = ..} at "mixtral-8x7b"

- `identity`: expert e on core e modulo cores, as nobody who does not know the heat would do otherwise;
- `taps`: by heat, see `placement.heuristic`; the hottest experts get a second core (`replicate_hot_k`);
- `taps-milp`: the same problem as a mixed integer program, from the heuristic's placement on.

How much an expert does is taken from the trace: from its beginning to the first change of domain, or from all of it
where there is none.  What comes later is what a placement before the run cannot know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from xdsl.dialects.builtin import BoolAttr, DictionaryAttr, FloatAttr, ModuleOp, StringAttr, f64

from pmc.dialects.analyses.core_heat import CORE_HEAT, Floats
from pmc.dialects.analyses.event_state import EventChip
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.interfaces import IntArray
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkload, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.tas_params import TAS, TapsParams, TasParams, TasParamsAttr
from pmc.dialects.trace import LogicalOp, PlacementOp
from pmc.dialects.trace_tables import EXPERTS, POLICIES, TENSORS, TraceTableAttr, trace_table
from pmc.passes.base import PassError, TracePass
from pmc.passes.placement.heuristic import taps
from pmc.passes.placement.milp import MilpResult, taps_milp
from pmc.passes.placement.problem import CoreLimits, ExpertWork, PlacementProblem

Strategy = Literal["identity", "taps", "taps-milp"]


@dataclass(frozen=True)
class Profile:
    """The mean work of a trace, per second."""

    experts: ExpertWork
    core_flop_per_s: Floats
    """[cores] what is not an expert's: the attention of the sequences that a core keeps."""
    column_bytes_per_s: Floats
    """[cores] what it reads and writes in the banks at a core."""


def profile_of(parts: LogicalParts, chip: EventChip, workload: MoeWorkload) -> Profile:
    """The work of the trace up to the first change of domain."""
    sequence, drift = workload.sequence, workload.routing.drift
    steps = sequence.steps if drift is None else min(drift.every_steps, sequence.steps)
    seconds = steps * sequence.interval_ms * 1e-3
    count = int(np.searchsorted(parts.t_gen_ns, round(seconds * 1e9)))
    expert, flops = parts.expert[:count], parts.flops[:count] / seconds
    owner = np.repeat(np.arange(count), np.diff(parts.row_starts[: count + 1]))
    size = _sums(owner, parts.row_bytes[: len(owner)] / seconds, count)
    names = tuple(f"E{number}" for number in range(workload.routing.experts))
    number = np.array([int(name[1:]) for name in parts.experts] or [0])[np.maximum(expert, 0)]
    mine, home = expert >= 0, parts.sequence[:count] % chip.cores
    work = ExpertWork(
        names,
        _sums(number[mine], flops[mine], len(names)),
        _sums(number[mine], size[mine], len(names)),
        np.full(len(names), workload.tensors.shards_per_expert),
    )
    return Profile(work, _sums(home[~mine], flops[~mine], chip.cores), _sums(home[~mine], size[~mine], chip.cores))


def _sums(place: IntArray, amount: Floats, count: int) -> Floats:
    return np.bincount(place, amount, count).astype(np.float64)


def problem_of(arch: StackedArch, profile: Profile, workload: MoeWorkload, params: TapsParams) -> PlacementProblem:
    """The heat sources and the chip.  Raises PmcError where the weights do not fit into the banks.

    Leakage and refresh count at their reference temperature and base rate: they shift all placements alike.
    """
    power, response, cores = arch.power, CORE_HEAT.response(arch), arch.mesh.count
    work, copies = profile.experts, np.ones(len(profile.experts.names), np.int64)
    hottest = np.argsort(-work.flop_per_s, kind="stable")[: params.replicate_hot_k]
    copies[hottest] = min(2, cores)
    per_core = arch.dram.count // cores
    bank_w = power.bank_leakage.reference_w + power.nj_per_refresh * 1e-9 / (arch.refresh.tref_base_us * 1e-6)
    core_w = profile.core_flop_per_s * power.pj_per_flop * 1e-12 + power.core_leakage.reference_w
    column_w = profile.column_bytes_per_s * power.pj_per_dram_byte * 1e-12 + bank_w * per_core
    shards = int(arch.dram.bank_capacity_mb // workload.tensors.weight_shard_mb)
    return PlacementProblem(
        work,
        copies,
        work.flop_per_s * power.pj_per_flop * 1e-12,
        work.bytes_per_s * power.pj_per_dram_byte * 1e-12,
        response,
        arch.cooling.ambient_c + response.core_k_per_w @ core_w + response.column_k_per_w @ column_w,
        CoreLimits(params.capacity.core_flops_tps, params.capacity.bank_bw_gbps * 1e9, per_core * shards),
        params.objective,
        arch.mesh.cores[0],
    )


def tables_of(arch: StackedArch, workload: MoeWorkload, cores: dict[str, list[int]]) -> tuple[Table, Table]:
    """The tables of experts and of tensors; the shards of an expert lie at its first core, far from each other."""
    shards = workload.tensors.shards_per_expert
    per_bank = int(arch.dram.bank_capacity_mb // workload.tensors.weight_shard_mb)
    at_core: dict[int, list[str]] = {}
    for name, (first, *_) in cores.items():
        at_core.setdefault(first, []).extend(f"W_{name}_{shard}" for shard in range(shards))
    places: dict[str, str] = {}
    for core, names in at_core.items():
        slots = [bank for bank in arch.banks_at_core(core) for _ in range(per_bank)]
        apart = slots[:: len(slots) // len(names)]
        places.update({name: arch.bank_name(bank) for name, bank in zip(names, apart, strict=False)})
    tensors = [f"W_{name}_{shard}" for name in cores for shard in range(shards)]
    lengths = np.array([len(own) for own in cores.values()])
    flat = np.array([core for own in cores.values() for core in own], np.int64)
    policy = np.where(lengths > 1, POLICIES.index("replicate"), POLICIES.index("single"))
    experts = Lists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), flat)
    return (
        trace_table(EXPERTS, expert=Texts.of(list(cores)), cores=experts, policy=policy.astype(np.int64)),
        trace_table(TENSORS, tensor_id=Texts.of(tensors), dram_bank=Texts.of([places[name] for name in tensors])),
    )


@dataclass(frozen=True)
class PlaceExpertsPass(TracePass):
    """Make the placement of a trace."""

    name = "place-experts"

    strategy: Strategy
    time_limit_s: float = 60.0
    """Of `taps-milp`."""
    gap: float = 0.01
    """Of `taps-milp`: how far from the best placement is good enough, as a part of the objective."""

    def run(self, module: ModuleOp) -> None:
        """Place what `trace.logical` names.  Raises PmcError where the chip has no room for the weights."""
        logical = next((op for op in module.ops if isinstance(op, LogicalOp)), None)
        arch, workload, tas = (module.attributes.get(name) for name in (STACKED, WORKLOAD, TAS))
        if logical is None or not isinstance(workload, MoeWorkloadAttr):
            raise PassError("place-experts: the module has no trace with its workload: run trace-experts first")
        if not isinstance(arch, StackedArchAttr) or not isinstance(tas, TasParamsAttr):
            raise PassError(f"place-experts: the module has no attributes {STACKED} and {TAS}: the chip and its rates")
        experts, tensors, found = self._placed(arch.data, logical, workload.data, tas.data)
        placement = PlacementOp(
            properties={
                "strategy": StringAttr(self.strategy),
                "experts": TraceTableAttr(experts),
                "tensors": TraceTableAttr(tensors),
                "path": logical.path,
            }
        )
        if found is not None:
            placement.attributes["search"] = DictionaryAttr(
                {
                    "objective_k": FloatAttr(found.objective_k, f64),
                    "bound_k": FloatAttr(found.bound_k, f64),
                    "gap": FloatAttr(found.gap, f64),
                    "seconds": FloatAttr(round(found.seconds, 1), f64),
                    "optimal": BoolAttr.from_bool(found.optimal),
                }
            )
        module.body.block.insert_op_after(placement, logical)

    def _placed(
        self, arch: StackedArch, logical: LogicalOp, workload: MoeWorkload, tas: TasParams
    ) -> tuple[Table, Table, MilpResult | None]:
        if self.strategy == "identity":
            return (*identity_placement(arch, workload), None)
        parts = LogicalParts.of(logical.compute.data, logical.memory.data, logical.micro_batch.value.data)
        profile = profile_of(parts, EventChip.of(arch, tas.taps.capacity), workload)
        problem = problem_of(arch, profile, workload, tas.taps)
        cores, found = taps(problem), None
        if self.strategy == "taps-milp":
            found = taps_milp(problem, cores, self.time_limit_s, self.gap)
            cores = found.cores
        return (*tables_of(arch, workload, problem.named(cores)), found)
