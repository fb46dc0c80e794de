"""TACS decides: which cores are under pressure, what moves where, and what least stays and cool-downs forbid.

Five experts with an even share of the tokens stand on core 5 of 4 x 4 cores, others on other cores: in a window core 5
has computing to do for 0.9 of it, a core with one expert for 0.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pmc.backends.thermal.core_response import response_of
from pmc.backends.thermal.pending_work import PendingWork
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.tacs import STUBBORN_WINDOWS, Tacs, TacsMemory, Telemetry
from pmc.dialects.analyses.event_state import EventSetting, EventState
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import uncommitted
from tests.compiler.thermal_cases import HOT, moved_experts, placed, records, started, study

WINDOW_NS = 3_000_000
CORES = [5] * 5 + [0, 2, 3, 4, 6, 8, 9, 11, 13, 15, 1]
IDLE = [7, 10, 12, 14]
SHARD = 2**20


@dataclass(frozen=True)
class Case:
    """TACS before a window of a run that has no work left over."""

    tacs: Tacs
    setting: EventSetting
    window: int = 0

    @property
    def now(self) -> int:
        return self.window * WINDOW_NS

    @property
    def state(self) -> EventState:
        before = int((self.setting.parts.t_gen_ns < self.now).sum())
        return replace(self.setting.initial, window=self.window, generated=before)

    def work(self) -> PendingWork:
        return PendingWork(self.setting, uncommitted(self.setting, self.state), self.now)

    def step(
        self, celsius: dict[int, float], memory: TacsMemory | None = None, **telemetry: Any
    ) -> tuple[Overlay, TacsMemory]:
        """A step with cores at 50 degrees C, but for some."""
        cores = np.full(16, 50.0)
        cores[list(celsius)] = list(celsius.values())
        load = np.minimum(self.work().load, 1)
        given: dict[str, Any] = {"util_core": load, "noc_load": 0.0, "ts_ns": self.now, **telemetry}
        found = Telemetry(cores, np.full(128, 50.0), **given)
        return self.tacs.step(found, self.state, memory or TacsMemory())


def case(work: dict[str, Any] | None = None, cores: Sequence[int] = CORES, window: int = 0, **tas: Any) -> Case:
    """The rules with some parameters, `Thot` 52 and `Temg` 62 degrees C."""
    given = {f"tacs.{name.replace('__', '.')}": value for name, value in tas.items()}
    found = study(tas={**HOT, **given}, workload={"tensors.shards_per_expert": 4, **(work or {})})
    setting = placed(found, cores)
    return Case(Tacs(found.tas.tacs, setting, response_of(StackedModel.of(found.arch)), SHARD), setting, window)


def experts(overlay: Overlay) -> list[tuple[str, str, str]]:
    table = overlay.migrate
    columns = (table.texts(name).tolist() for name in ("obj_type", "obj_id", "src", "dst"))
    return [(name, source, target) for kind, name, source, target in zip(*columns, strict=True) if kind == "expert"]


def reroutes(overlay: Overlay) -> list[tuple[int, int]]:
    table = overlay.reroute
    return list(zip(table.ints("from_core").tolist(), table.ints("to_core").tolist(), strict=True))


def test_pressure_is_that_of_the_study() -> None:
    """S = [T - Thot]+ / (Temg - Thot) + gamma [q - q_target]+ / q_target."""
    tacs = case(gamma_load=2.0).tacs
    found = tacs.pressure(np.array([40.0, 52.0, 57.0, 62.0, 67.0]), np.array([0.0, 0.7, 0.7, 0.84, 1.05]))
    assert found == pytest.approx([0, 0, 0.5, 1 + 2 * 0.2, 1.5 + 2 * 0.5])


# -- work that waits ----------------------------------------------------------------------------------------------


def test_what_waits_is_counted_by_core_and_expert() -> None:
    found = case()
    work, parts = found.work(), found.setting.parts
    first = int((parts.t_gen_ns < WINDOW_NS).sum())
    assert work.load.sum() * WINDOW_NS == pytest.approx(parts.flops[:first].sum() / 5e3)
    assert work.load == pytest.approx(work.flow), "before the first window nothing is left over"
    assert int(np.argmax(work.load)) == 5 and work.busiest(12) is None
    here = [found.setting.experts[f"E{expert}"] for expert in range(5)]
    busiest = work.busiest(5)
    assert busiest in here
    assert work.fresh(5, busiest).busy_ns == max(work.fresh(5, expert).busy_ns for expert in here)
    _, most = work.last(5, busiest, 1e12)
    assert work.fresh(5, busiest) == most, "all of one window"
    assert most.size_bytes == round(most.busy_ns / 250_000) * 2**20, "a shard is read for 1.25 GFLOP"
    nothing = work.fresh(0, busiest)
    assert (nothing.busy_ns, nothing.size_bytes) == (0.0, 0.0)


def test_the_last_micro_batches_are_taken_and_at_least_one() -> None:
    """Of four windows that wait."""
    setting = case().setting
    later = replace(setting.initial, window=3)
    work = PendingWork(setting, uncommitted(setting, later), 3 * WINDOW_NS)
    mbs, amount = work.last(5, 0, 0.0)
    assert mbs == (3,) and amount == work.fresh(5, 0)
    every, whole = work.last(5, 0, 1e12)
    assert every == (0, 1, 2, 3)
    half, near = work.last(5, 0, whole.busy_ns / 2)
    assert half == every[-len(half) :] and abs(near.busy_ns - whole.busy_ns / 2) <= amount.busy_ns
    assert work.load.sum() > 3 * work.flow.sum()


# -- moves --------------------------------------------------------------------------------------------------------


def test_without_pressure_nothing_moves() -> None:
    overlay, memory = case(q_target=1.0).step({5: 52.0})
    assert not overlay.reroute.count + overlay.migrate.count and not memory.stubborn


def test_a_hot_core_gives_work_to_an_idle_one() -> None:
    overlay, memory = case(cost__lambda_hops=0.0).step({5: 62.0})
    ((source, target),) = reroutes(overlay)
    assert source == 5 and target in IDLE and not overlay.migrate.count
    assert list(memory.stubborn.values()) == [1]
    assert overlay.reroute.numbers("expected_gain")[0] > 0
    assert overlay.reroute.lists("mb_ids_json").int_lists() == [[0]]


def test_of_idle_cores_the_coolest_near_one_is_taken() -> None:
    found = case(cost__lambda_hops=0.0, cost__eta_temp=3.0)
    for cool in IDLE:
        overlay, _ = found.step({5: 62.0, **{core: 51.9 for core in IDLE if core != cool}, cool: 46.0})
        assert reroutes(overlay) == [(5, cool)]


def test_the_radius_bounds_the_way() -> None:
    for radius in (1, 2, 3):
        overlay, _ = case(radius_hops=radius, cost__lambda_hops=0.0).step({5: 62.0, 14: 46.0, 12: 45.0})
        ((_, target),) = reroutes(overlay)
        assert abs(target % 4 - 1) + abs(target // 4 - 1) <= radius


def test_of_many_hot_cores_only_some_are_looked_at() -> None:
    work = case().work()
    hot = dict.fromkeys([core for core in range(16) if core != 5 and work.busiest(core) is not None][:3], 75.0) | {
        5: 76.0
    }
    for count in (1, 2, 4):
        overlay, memory = case(top_k=count).step(hot)
        assert len(memory.stubborn) == count and len(reroutes(overlay)) <= count
    overlay, _ = case(max_parallel_migrations=2).step(hot)
    cores = [core for ends in reroutes(overlay) for core in ends]
    assert len(reroutes(overlay)) == 2 and len(set(cores)) == 4, "a core takes part in one move"


def test_a_full_network_stops_all_moves() -> None:
    memory = TacsMemory({(5, 0): 7})
    overlay, after = case(noc_guard=0.5).step({5: 80.0}, memory, noc_load=0.51)
    assert not overlay.reroute.count + overlay.migrate.count and not after.stubborn
    assert reroutes(case(noc_guard=0.5).step({5: 80.0}, noc_load=0.5)[0])


def skewed() -> tuple[Case, int, TacsMemory]:
    """Before window 20 of a run with one very popular expert, its core, and the memory of how long it was hot."""
    found = case({"routing.zipf_s": 1.2, "sequence.steps": 22}, range(16), 20, cost__mu_noc=0.0)
    work = found.work()
    core = int(np.argmax(work.flow))
    expert = work.busiest(core)
    assert expert is not None and work.flow[core] > 0.7
    return found, core, TacsMemory({(core, expert): STUBBORN_WINDOWS})


def test_an_expert_that_stays_hot_gets_another_core_with_half_of_its_weights() -> None:
    found, hot, remembered = skewed()
    overlay, memory = found.step({hot: 56.0}, remembered)
    ((name, source, target),) = experts(overlay)
    assert source == "" and int(target[1:]) != hot and int(name[1:]) == hot
    table = overlay.migrate
    weights = [row for row in range(table.count) if table.texts("obj_type").tolist()[row] == "weight"]
    assert [table.texts("obj_id").tolist()[row] for row in weights] == [f"W_{name}_1", f"W_{name}_3"]
    arch = found.setting.chip.arch
    for row in weights:
        lies, goes = (arch.bank_number(table.texts(end).tolist()[row]) for end in ("src", "dst"))
        assert (arch.core_at_bank(lies), arch.core_at_bank(goes)) == (hot, int(target[1:]))
        assert table.ints("size_bytes")[row] == SHARD and goes not in found.setting.initial.tensor_bank
    assert memory.added == {(found.setting.experts[name], int(target[1:])): found.now}
    fresh, _ = found.step({hot: 56.0})
    assert not experts(fresh), "not before it was hot for some windows"


def test_replica_state_invariants() -> None:
    """A replica stays for its least time, and a core that lost an expert does not get it back before the cool-down."""
    found, hot, remembered = skewed()
    overlay, _ = found.step({hot: 56.0}, remembered)
    ((name, _, target),) = experts(overlay)
    expert, core = found.setting.experts[name], int(target[1:])
    for age_ns, allowed in ((14_999_999, False), (15_000_000, True)):
        lost = replace(remembered, removed={(expert, core): found.now - age_ns})
        overlay, _ = found.step({hot: 56.0}, lost)
        assert ((name, "", target) in experts(overlay)) == allowed
        came = replace(remembered, added={(expert, core): found.now - age_ns})
        twice = _on_two_cores(found.state, expert, core)
        cool = Telemetry(np.full(16, 45.0), np.full(128, 45.0), np.zeros(16), 0.0, found.now)
        quiet = replace(twice, generated=len(found.setting.parts))
        overlay, after = found.tacs.step(cool, quiet, came)
        assert experts(overlay) == ([(name, target, "")] if allowed else [])
        assert after.removed == ({(expert, core): found.now} if allowed else {})


def _on_two_cores(state: EventState, expert: int, core: int) -> EventState:
    cores = np.full((len(state.expert_cores), 2), -1, np.int64)
    cores[:, 0] = state.expert_cores[:, 0]
    cores[expert, 1] = core
    return replace(state, expert_cores=cores)


@pytest.mark.parametrize("least_ms", [15.0, 60.0])
def test_replicas_stay_for_their_time_and_then_go(least_ms: float) -> None:
    """After the popularity has shifted, in the middle of the run."""
    work = {"routing.zipf_s": 1.2, "sequence.steps": 70, "routing.drift": {"every_steps": 30, "share": 1.0}}
    found = study(workload=work, tas={**HOT, "tacs.min_residency_ms": least_ms})
    came: dict[tuple[str, str], int] = {}
    stays: list[int] = []
    for window, name, source, target in moved_experts(records(started(found, "tacs"))):
        if source:
            stays.append(window - came.pop((name, source)))
        else:
            came[name, target] = window
    assert stays and min(stays) * 3.0 >= least_ms
