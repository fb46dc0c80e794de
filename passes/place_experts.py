"""Decide which cores compute an expert and which banks keep its weights (TAPS).

    trace.logical() {micro_batch = 32, compute = .., memory = .., weights = ..} at "mixtral-8x7b"

becomes, with `place-experts{strategy="taps"}`,

    trace.logical() {micro_batch = 32, compute = .., memory = .., weights = ..} at "mixtral-8x7b"
    trace.placement() {strategy = "taps", experts = #trace.table<experts, ..>, tensors = ..} at "mixtral-8x7b"

- `identity`: expert e on core e modulo cores, as nobody who does not know the heat would do otherwise;
- `taps`: by heat, see `placement.heuristic`; the hottest experts get a second core (`replicate_hot_k`);
- `taps-milp`: the same problem as a mixed integer program, from the heuristic's placement on.

How much an expert does is taken from the trace: from its beginning to the first change of domain, or from all of it
where there is none.  What comes later is what a placement before the run cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from xdsl.dialects.builtin import BoolAttr, DictionaryAttr, FloatAttr, ModuleOp, f64

from pmc.dialects.analyses.core_heat import CORE_HEAT, Floats, HeatResponse
from pmc.dialects.analyses.event_state import EventChip
from pmc.dialects.analyses.identity_placement import identity_of
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from pmc.dialects.levels import STAGES, Stage
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkload, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.tas_params import TAS, TapsParams, TasParams, TasParamsAttr
from pmc.dialects.trace import LogicalOp, PlacementOp
from pmc.dialects.trace_tables import EXPERTS, POLICIES, TENSORS, TraceTableAttr, trace_table
from pmc.passes.base import PassError, PmcPass
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


def profile_of(parts: LogicalParts, weights: Table, chip: EventChip, end_ns: int) -> Profile:
    """The work that the trace generates before a time, of the experts of `weights`."""
    count, seconds = int(np.searchsorted(parts.t_gen_ns, end_ns)), end_ns * 1e-9
    owner = np.repeat(np.arange(count), np.diff(parts.row_starts[: count + 1]))
    size = _sums(owner, parts.row_bytes[: len(owner)] / seconds, count)
    flops, mine, home = parts.flops[:count] / seconds, parts.expert[:count] >= 0, parts.sequence[:count] % chip.cores
    names = weights.texts("expert").tolist()
    place = {name: number for number, name in enumerate(names)}
    number = np.array([place[name] for name in parts.experts], np.int64)[parts.expert[:count][mine]]
    work = ExpertWork(
        tuple(names),
        _sums(number, flops[mine], len(names)),
        _sums(number, size[mine], len(names)),
        weights.ints("shards"),
    )
    return Profile(work, _sums(home[~mine], flops[~mine], chip.cores), _sums(home[~mine], size[~mine], chip.cores))


def _sums(place: IntArray, amount: Floats, count: int) -> Floats:
    return np.bincount(place, amount, count).astype(np.float64)


def problem_of(
    arch: StackedArch, profile: Profile, weights: Table, params: TapsParams, response: HeatResponse | None = None
) -> PlacementProblem:
    """The heat sources and the chip.  Raises PmcError where the weights do not fit into the banks.

    `response` is that of the cores; None for that of the thermal model.
    Leakage and refresh count at their reference temperature and base rate: they shift all placements alike.
    """
    power, cores = arch.power, arch.mesh.count
    response = CORE_HEAT.response(arch) if response is None else response
    work, copies = profile.experts, np.ones(len(profile.experts.names), np.int64)
    hottest = np.argsort(-work.flop_per_s, kind="stable")[: params.replicate_hot_k]
    copies[hottest] = min(2, cores)
    per_core, per_bank = arch.dram.count // cores, shards_per_bank(arch, weights)
    bank_w = power.bank_leakage.reference_w + power.nj_per_refresh * 1e-9 / (arch.refresh.tref_base_us * 1e-6)
    core_w = profile.core_flop_per_s * power.pj_per_flop * 1e-12 + power.core_leakage.reference_w
    column_w = profile.column_bytes_per_s * power.pj_per_dram_byte * 1e-12 + bank_w * per_core
    return PlacementProblem(
        work,
        copies,
        work.flop_per_s * power.pj_per_flop * 1e-12,
        work.bytes_per_s * power.pj_per_dram_byte * 1e-12,
        response,
        arch.cooling.ambient_c + response.core_k_per_w @ core_w + response.column_k_per_w @ column_w,
        CoreLimits(
            params.capacity.core_flops_tps,
            params.capacity.bank_bw_gbps * 1e9,
            per_core * per_bank,
        ),
        params.objective,
        arch.mesh.cores[0],
    )


def shards_per_bank(arch: StackedArch, weights: Table) -> int:
    """Shards of the largest kind that a bank holds.  Raises PmcError where it holds none."""
    largest, room = int(weights.ints("shard_bytes").max()), arch.dram.bank_capacity_mb * 2**20
    if largest > room:
        raise PmcError(
            f"a shard of {largest / 2**20:g} MiB is {(largest - room) / 2**20:g} MiB larger than a bank of {arch.name}"
        )
    return int(room // largest)


def tables_of(arch: StackedArch, weights: Table, cores: Mapping[str, Sequence[int]]) -> tuple[Table, Table]:
    """The tables of experts and of tensors; the shards of an expert lie at its first core, far from each other."""
    names, per_bank = weights.texts("expert").tolist(), shards_per_bank(arch, weights)
    shards = dict(zip(names, weights.ints("shards").tolist(), strict=True))
    at_core: dict[int, list[str]] = {}
    for name in names:
        at_core.setdefault(cores[name][0], []).extend(f"W_{name}_{shard}" for shard in range(shards[name]))
    places: dict[str, str] = {}
    for core, own in at_core.items():
        slots = [bank for bank in arch.banks_at_core(core) for _ in range(per_bank)]
        apart = slots[:: len(slots) // len(own)]
        places.update({name: arch.bank_name(bank) for name, bank in zip(own, apart, strict=False)})
    tensors = [f"W_{name}_{shard}" for name in names for shard in range(shards[name])]
    lengths = np.array([len(cores[name]) for name in names])
    flat = np.array([core for name in names for core in cores[name]], np.int64)
    policy = np.where(lengths > 1, POLICIES.index("replicate"), POLICIES.index("single"))
    lists = Lists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), flat)
    return (
        trace_table(EXPERTS, expert=Texts.of(names), cores=lists, policy=policy.astype(np.int64)),
        trace_table(TENSORS, tensor_id=Texts.of(tensors), dram_bank=Texts.of([places[name] for name in tensors])),
    )


@dataclass(frozen=True)
class PlaceExpertsPass(PmcPass):
    """Make the placement of a trace."""

    name = "place-experts"
    READS: ClassVar[tuple[Stage, ...]] = STAGES

    strategy: Strategy
    time_limit_s: float = 60.0
    """Of `taps-milp`."""
    gap: float = 0.01
    """Of `taps-milp`: how far from the best placement is good enough, as a part of the objective."""

    def run(self, module: ModuleOp) -> None:
        """Place what `trace.logical` names.  Raises PmcError where the chip has no room for the weights."""
        logical = next((op for op in module.ops if isinstance(op, LogicalOp)), None)
        arch, tas, workload = (module.attributes.get(name) for name in (STACKED, TAS, WORKLOAD))
        if logical is None or logical.weights is None:
            raise PassError(f"{self.name}: the module has no trace with the weights of its experts: run trace-experts")
        if not isinstance(arch, StackedArchAttr) or not isinstance(tas, TasParamsAttr):
            raise PassError(f"{self.name}: the module needs the attributes {STACKED} and {TAS}")
        change_ns = first_change_ns(workload.data) if isinstance(workload, MoeWorkloadAttr) else None
        experts, tensors, found = self.placed(arch.data, logical, logical.weights.data, tas.data, change_ns)
        placement = PlacementOp.make(
            [], [], logical.path.data,
            {"strategy": self.strategy, "experts": TraceTableAttr(experts), "tensors": TraceTableAttr(tensors)},
        )  # fmt: skip
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

    def placed(
        self,
        arch: StackedArch,
        logical: LogicalOp,
        weights: Table,
        tas: TasParams,
        change_ns: int | None,
        response: HeatResponse | None = None,
    ) -> tuple[Table, Table, MilpResult | None]:
        """The tables of the strategy, and what the exact search says of them; `response` as in `problem_of`."""
        if self.strategy == "identity":
            return (*identity_of(arch, weights), None)
        parts = LogicalParts.of(logical.compute.data, logical.memory.data, logical.micro_batch.value.data)
        window_ns = tas.tacs.window_ns
        end_ns = (int(parts.t_gen_ns[-1]) // window_ns + 1) * window_ns
        profile = profile_of(
            parts,
            weights,
            EventChip.of(arch, tas.taps.capacity),
            end_ns if change_ns is None else min(change_ns, end_ns),
        )
        problem = problem_of(arch, profile, weights, tas.taps, response)
        cores, found = taps(problem), None
        if self.strategy == "taps-milp":
            found = taps_milp(problem, cores, self.time_limit_s, self.gap)
            cores = found.cores
        return (*tables_of(arch, weights, problem.named(cores)), found)


def first_change_ns(workload: MoeWorkload) -> int | None:
    """When the popularity of experts first changes; None where it stays."""
    drift = workload.routing.drift
    return None if drift is None else round(drift.every_steps * workload.sequence.interval_ms * 1e6)
