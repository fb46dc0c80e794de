"""The pass `place-experts`: where experts and their weights come to lie by each strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import DictionaryAttr, ModuleOp

from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text, parse_module
from pmc.compiler.pipelines import pass_factories
from pmc.dialects.analyses.event_state import EventChip
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArchAttr
from pmc.dialects.tas_params import TAS, TasParams, TasParamsAttr
from pmc.dialects.trace import LogicalOp, PlacementOp
from pmc.dialects.trace_tables import POLICIES
from pmc.passes.base import PassError
from pmc.passes.place_experts import PlaceExpertsPass, first_change_ns, profile_of
from pmc.passes.trace_experts import TraceExpertsPass
from tests.dialects.tas_cases import stack, tas, workload

assert pass_factories(), "which brings the thermal model"

SMALL = {"geometry.grid": [8, 8]}


def traced(
    work: dict[str, Any] | None = None, arch: dict[str, Any] | None = None, params: TasParams | None = None
) -> ModuleOp:
    """A module with the trace of a workload."""
    module = ModuleOp([])
    module.attributes |= {
        STACKED: StackedArchAttr(stack(**SMALL, **(arch or {}))),
        WORKLOAD: MoeWorkloadAttr(workload(**(work or {}))),
        TAS: TasParamsAttr(params or tas()),
    }
    TraceExpertsPass().apply(make_context(), module)
    return module


def placed(module: ModuleOp, strategy: str = "taps", **options: Any) -> PlacementOp:
    PlaceExpertsPass(strategy, **options).apply(make_context(), module)  # type: ignore[arg-type]  # pyright: ignore
    module.verify()
    return next(op for op in module.ops if isinstance(op, PlacementOp))


def cores_of(op: PlacementOp) -> dict[str, list[int]]:
    table = op.experts.data
    return dict(zip(table.texts("expert").tolist(), table.lists("cores").int_lists(), strict=True))


def banks_of(op: PlacementOp) -> dict[str, str]:
    table = op.tensors.data
    return dict(zip(table.texts("tensor_id").tolist(), table.texts("dram_bank").tolist(), strict=True))


def test_identity_takes_cores_in_turn() -> None:
    op = placed(traced(), "identity")
    assert cores_of(op) == {f"E{e}": [e % 4] for e in range(8)}
    assert "search" not in op.attributes
    assert set(op.experts.data.ints("policy").tolist()) == {POLICIES.index("single")}


@pytest.mark.parametrize("strategy", ["identity", "taps"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_weights_lie_over_the_first_core_and_fit_into_their_banks(strategy: str, shards: int) -> None:
    arch = stack(**SMALL)
    op = placed(traced({"tensors.shards_per_expert": shards}, params=params(replicate=0)), strategy)
    cores, banks = cores_of(op), banks_of(op)
    assert len(banks) == 8 * shards
    held = dict.fromkeys(banks.values(), 0.0)
    for tensor, bank in banks.items():
        expert = tensor.split("_")[1]
        assert arch.core_at_bank(arch.bank_number(bank)) == cores[expert][0]
        held[bank] += 64.0
    assert max(held.values()) <= arch.dram.bank_capacity_mb


def test_small_shards_share_a_bank_up_to_its_capacity() -> None:
    """32 experts of four shards of 16 MiB: 32 shards over each core, whose eight banks hold four each."""
    work = {"routing.experts": 32, "tensors.shards_per_expert": 4, "tensors.weight_shard_mb": 16.0}
    for strategy in ("identity", "taps"):
        banks = list(banks_of(placed(traced(work, params=params(replicate=0)), strategy)).values())
        assert set(map(banks.count, banks)) == {4} and len(set(banks)) == 32


def params(replicate: int) -> TasParams:
    found = tas()
    return found.model_copy(update={"taps": found.taps.model_copy(update={"replicate_hot_k": replicate})})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_hottest_experts_get_a_second_core(count: int) -> None:
    module = traced({"routing.zipf_s": 1.2, "sequence.steps": 50}, params=params(count))
    logical = next(op for op in module.ops if isinstance(op, LogicalOp))
    lists = logical.compute.data.lists("experts_json").values
    names = lists.tolist()
    op = placed(module)
    doubled = {name for name, cores in cores_of(op).items() if len(cores) == 2}
    hottest = sorted(set(names), key=lambda name: -names.count(name))[:count]
    assert doubled == set(hottest)
    assert all(len(set(cores)) == len(cores) for cores in cores_of(op).values())
    table = op.experts.data
    policies = dict(zip(table.texts("expert").tolist(), table.ints("policy").tolist(), strict=True))
    assert {name for name, policy in policies.items() if POLICIES[policy] == "replicate"} == doubled


def test_taps_spreads_the_work_of_a_skew() -> None:
    """No core has more than the hottest expert and its fair share: identity puts E0 and E4 on one core."""
    work = {"routing.zipf_s": 1.2, "sequence.steps": 50}
    loads: dict[str, float] = {}
    for strategy in ("identity", "taps"):
        module = traced(work)
        logical = next(op for op in module.ops if isinstance(op, LogicalOp))
        names = logical.compute.data.lists("experts_json").values.tolist()
        cores = cores_of(placed(module, strategy))
        load = np.zeros(4)
        for name in set(names):
            load[cores[name]] += names.count(name) / len(cores[name])
        loads[strategy] = float(load.max() / load.sum())
    assert loads["taps"] < loads["identity"] and loads["taps"] < 0.3


def test_the_exact_search_says_how_far_it_is_from_the_best() -> None:
    pytest.importorskip("highspy")
    module = traced({"routing.zipf_s": 1.2, "sequence.steps": 20}, params=params(0))
    op = placed(module, "taps-milp", time_limit_s=20.0, gap=0.05)
    search = op.attributes["search"]
    assert isinstance(search, DictionaryAttr)
    found = {name: value.value.data for name, value in search.data.items()}  # type: ignore[attr-defined]  # pyright: ignore
    assert found["bound_k"] <= found["objective_k"] + 1e-6 and 0 <= found["gap"] <= 0.05 and found["optimal"]
    assert set(cores_of(op)) == {f"E{e}" for e in range(8)}


def test_the_profile_ends_at_the_first_change_of_popularity() -> None:
    drift = {"routing.drift": {"every_steps": 3, "share": 1.0}, "routing.zipf_s": 1.2}
    changing, steady = traced(drift), traced({"routing.zipf_s": 1.2})
    found = workload(**drift)
    assert first_change_ns(found) == 9_000_000 and first_change_ns(workload()) is None
    profiles: list[np.ndarray] = []
    for module in (changing, steady):
        logical = next(op for op in module.ops if isinstance(op, LogicalOp))
        assert logical.weights is not None
        parts = LogicalParts.of(logical.compute.data, logical.memory.data, 4)
        chip = EventChip.of(stack(), tas().taps.capacity)
        profiles.append(profile_of(parts, logical.weights.data, chip, 9_000_000).experts.flop_per_s)
    assert (profiles[0] == profiles[1]).all(), "the first three steps are the same"
    assert profiles[0].sum() == pytest.approx(4 * 3 * 2.5e9 / 9e-3)
    late = traced({**drift, "routing.drift": {"every_steps": 3, "share": 1.0}, "sequence.steps": 60})
    assert cores_of(placed(late)) == cores_of(placed(changing)), "what comes after the change does not count"


def test_a_placement_is_printed_and_parsed() -> None:
    module = traced()
    placed(module)
    again = parse_module(module_text(module), "printed.mlir")
    again.verify()
    assert again.is_structurally_equivalent(module)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(PassError, match="has no trace with the weights of its experts: run trace-experts"):
        placed(ModuleOp([]))
    for name in (STACKED, TAS):
        module = traced()
        del module.attributes[name]
        with pytest.raises(PassError, match=r"the module needs the attributes arch\.stacked and trace\.tas"):
            placed(module)


def test_weights_that_do_not_fit_are_refused_by_how_much() -> None:
    for strategy in ("identity", "taps"):
        with pytest.raises(PmcError, match=r"MiB too many|4 too few|\d+ too few"):
            placed(traced({"tensors.shards_per_expert": 5}), strategy)
    with pytest.raises(PmcError, match="a shard of 100 MiB is 36 MiB larger than a bank"):
        placed(traced({"tensors.weight_shard_mb": 100.0}))
