"""Draws of experts: seeds, popularity, Gini coefficient, drift, recorded routing."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from pmc.dialects.analyses.expert_draws import (
    chances,
    drawn,
    drawn_routing,
    exponent_of_gini,
    gini,
    ranks,
    zipf_weights,
)
from pmc.dialects.analyses.recorded_routing import recorded_routing
from pmc.dialects.analyses.workload_trace import logical_tables
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import MoeRouting
from tests.dialects.tas_cases import workload


def routing(**changed: object) -> MoeRouting:
    fields = {"experts": 8, "topk": 2, "seed": 1, "zipf_s": 1.2, "gini": None, "drift": None}
    return MoeRouting.model_validate({**fields, **changed})


def by_sets(weight: np.ndarray, topk: int) -> np.ndarray:
    """The chance of every item to be drawn, over all orders of draws."""
    found = np.zeros(len(weight))
    for order in itertools.permutations(range(len(weight)), topk):
        chance, left = 1.0, weight.sum()
        for item in order:
            chance *= weight[item] / left
            left -= weight[item]
        found[list(order)] += chance
    return found


@pytest.mark.parametrize(("experts", "topk", "exponent"), [(5, 1, 1.2), (6, 2, 1.2), (6, 3, 0.0), (6, 4, 3.0)])
def test_chances_are_those_of_all_orders(experts: int, topk: int, exponent: float) -> None:
    weight = zipf_weights(np.arange(experts), exponent)
    assert chances(weight, topk) == pytest.approx(by_sets(weight, topk), rel=1e-8)


def test_draws_have_their_chances_and_no_expert_twice() -> None:
    weight = zipf_weights(np.arange(8), 1.2)
    found = drawn(np.tile(weight, (200_000, 1)), 3, np.random.default_rng(0))
    assert (np.sort(found, axis=1)[:, 1:] != np.sort(found, axis=1)[:, :-1]).all()
    load = np.bincount(found.ravel(), minlength=8) / len(found)
    assert load == pytest.approx(chances(weight, 3), abs=4 * 0.5 / np.sqrt(len(found)))
    first = np.bincount(found[:, 0], minlength=8) / len(found)
    assert first == pytest.approx(weight / weight.sum(), abs=0.005)


def test_an_item_of_no_weight_is_never_drawn() -> None:
    weight = np.array([0.0, 1.0, 1.0, 0.0])
    assert set(drawn(np.tile(weight, (1000, 1)), 2, np.random.default_rng(0)).ravel().tolist()) == {1, 2}


@pytest.mark.parametrize(("wanted", "experts", "topk"), [(0.25, 64, 2), (0.1, 64, 2), (0.2, 32, 8), (0.7, 64, 2)])
def test_the_exponent_gives_the_gini_coefficient(wanted: float, experts: int, topk: int) -> None:
    law = routing(experts=experts, topk=topk, zipf_s=None, gini=wanted)
    exponent = exponent_of_gini(law)
    assert gini(chances(zipf_weights(np.arange(experts), exponent), topk)) == pytest.approx(wanted, abs=1e-9)
    load = np.bincount(drawn_routing(law, 2000, 32).ravel(), minlength=experts)
    assert gini(load.astype(np.float64)) == pytest.approx(wanted, abs=0.01)


def test_a_uniform_gini_is_uniform_and_an_impossible_one_an_error() -> None:
    assert exponent_of_gini(routing(zipf_s=None, gini=0.0)) == 0.0
    with pytest.raises(PmcError, match=r"routing\.gini: 0\.8 is out of reach: with 2 of 8 experts .* below 0\.75"):
        exponent_of_gini(routing(zipf_s=None, gini=0.8))


def test_gini_of_known_loads() -> None:
    assert gini(np.ones(5)) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(0.75)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)


def test_a_change_of_domain_moves_its_share_of_the_experts() -> None:
    law = routing(experts=64, drift={"every_steps": 10, "share": 0.25})
    found = ranks(law, 35)
    assert all(sorted(row) == list(range(64)) for row in found.tolist())
    changed = [int((found[step] != found[step - 1]).sum()) for step in range(1, 35)]
    assert [step for step, count in enumerate(changed, 1) if count] == [10, 20, 30]
    assert changed[9] == 16
    still = ranks(routing(experts=64), 35)
    assert (still == still[0]).all() and (still[0] == found[0]).all(), "before the first change nothing differs"


def test_the_seed_decides_everything() -> None:
    one, same, other = (drawn_routing(routing(seed=seed), 5, 4) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    longer = drawn_routing(routing(seed=1), 9, 4)
    assert np.array_equal(longer[:20], one), "more steps do not change the first"


def test_a_workload_of_the_study_takes_well_under_a_second() -> None:
    study = workload(**{"routing.experts": 64, "sequence.steps": 500, "sequence.micro_batch": 32})
    start = time.perf_counter()
    compute, memory = logical_tables(study, drawn_routing(study.routing, 500, 32))
    assert time.perf_counter() - start < 1.0
    assert (compute.count, memory.count) == (32_000, 64_000)


def test_tables_of_a_workload() -> None:
    small = workload(**{"sequence.steps": 3, "sequence.micro_batch": 2})
    compute, memory = logical_tables(small, np.array([[4, 1], [0, 7], [3, 2], [1, 0], [5, 6], [2, 3]]))
    assert compute.rows()[:3] == [
        "1 0 0 0 ['E4' 'E1'] [1250000000.0 1250000000.0] fc", "2 0 0 0 [] [1000000000.0] attn",
        "3 0 0 1 ['E0' 'E7'] [1250000000.0 1250000000.0] fc",
    ]  # fmt: skip
    assert memory.rows()[4:12] == [
        "3 'W_E0_1' read 1048576 'shard1'", "3 'W_E7_1' read 1048576 'shard1'",
        "4 'KV_S1' read 8388608 'kv'", "4 'KV_S1' write 4096 'kv'",
        "5 'W_E3_0' read 1048576 'shard0'", "5 'W_E2_0' read 1048576 'shard0'",
        "6 'KV_S2' read 8388608 'kv'", "6 'KV_S2' write 4096 'kv'",
    ]  # fmt: skip
    assert compute.ints("t_gen_ns")[::4].tolist() == [0, 3_000_000, 6_000_000]


GOOD = 'token_id,experts_json\n1,"[""E3"",""E1""]"\n0,"[""E0"",""E7""]"\n2,[]\n2,"[""E2"",""E1""]"\n'


def test_recorded_routing_is_taken_in_the_order_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "recorded.csv"
    path.write_text(GOOD)
    small = workload(**{"sequence.steps": 1, "sequence.micro_batch": 3})
    assert recorded_routing(path, small).tolist() == [[0, 7], [3, 1], [2, 1]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("token_id,", "token,", r":1: needs the columns token_id and experts_json"),
        ("\n1,", "\nx,", r":2: token_id: 'x' is not a number"),
        ("E3", "E8", r":2: experts_json: expected 2 different experts of E0 \.\. E7"),
        ("E3", "E1", r":2: experts_json: expected 2 different"),
        ('[""E3"",""E1""]', "[1,2]", r":2: experts_json"),
        ('[""E3"",""E1""]', "{", r":2: experts_json"),
        ("\n0,", "\n1,", r":3: token 1 has its experts twice"),
        ('2,"[""E2"",""E1""]"\n', "", r": holds the experts of 2 tokens, the workload has 3"),
    ],
)
def test_recorded_routing_that_is_malformed_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "recorded.csv"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(PmcError, match=r"recorded\.csv" + message):
        recorded_routing(path, workload(**{"sequence.steps": 1, "sequence.micro_batch": 3}))


def test_a_recorded_file_that_is_missing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(PmcError, match="cannot be read"):
        recorded_routing(tmp_path / "none.csv", workload())
