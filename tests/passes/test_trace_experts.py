"""The pass `trace-experts`: from workloads, recorded routing and compiled models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.analyses.model_trace import law_routing
from pmc.dialects.analyses.token_copies import RouterChoice
from pmc.dialects.deployment import Histogram, Zipf
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkloadAttr
from pmc.dialects.table import Table
from pmc.dialects.trace import LogicalOp
from pmc.passes.base import PassError
from pmc.passes.trace_experts import TraceExpertsPass
from tests.dialects.tas_cases import workload

BATCH, KV_LEN, LAYERS = 64, 128, 58


@cache
def compiled(model: str = "deepseek-v3", deployment: str = "dsv3-decode-ep32") -> ModuleOp:
    module = load_model(model)
    sizes = {"batch": BATCH, "kv_len": KV_LEN}
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment(deployment, sizes)
    compile_model(module, *target, "dist")
    return module


def traced(module: ModuleOp, **options: Any) -> LogicalOp:
    found = module.clone()
    TraceExpertsPass(**options).apply(make_context(), found)
    found.verify()
    return next(op for op in found.ops if isinstance(op, LogicalOp))


def of_workload(**options: Any) -> LogicalOp:
    module = ModuleOp([])
    module.attributes[WORKLOAD] = MoeWorkloadAttr(workload())
    return traced(module, **options)


@cache
def of_model(steps: int = 2, seed: int = 42) -> LogicalOp:
    return traced(compiled(), steps=steps, seed=seed)


def test_a_workload_gives_its_trace() -> None:
    op = of_workload()
    assert (op.path.data, op.micro_batch.value.data) == ("mixtral-8x7b", 4)
    assert (op.compute.data.count, op.memory.data.count) == (2 * 24, 4 * 24)
    assert op.weights is not None and op.weights.data.rows()[7] == "'E7' 2 67108864"


def test_recorded_routing_takes_the_place_of_draws(tmp_path: Path) -> None:
    path = tmp_path / "recorded.csv"
    rows = [f'{token},"[""E{token % 7}"",""E7""]"' for token in range(24)]
    path.write_text("\n".join(["token_id,experts_json", *rows]) + "\n")
    compute = of_workload(recorded=str(path)).compute.data
    assert compute.rows()[4] == "5 0 0 2 ['E2' 'E7'] [1250000000.0 1250000000.0] fc"


# -- compiled models --------------------------------------------------------------------------------------------


def fc(compute: Table) -> np.ndarray:
    return compute.ints("op_type") == 0


def test_experts_of_a_compiled_model_are_those_of_the_rank() -> None:
    op = of_model()
    assert op.weights is not None
    names = op.weights.data.texts("expert").tolist()
    assert len(names) == LAYERS * 8 and names[:9] == [*(f"L3E{e}" for e in range(8)), "L4E0"]
    assert set(op.weights.data.ints("shard_bytes").tolist()) == {3 * 7168 * 2048}, "gate, up and down of one byte each"


def test_flop_of_an_expert_are_those_of_its_products() -> None:
    compute = of_model().compute.data
    flops = np.unique(compute.lists("flops_json")[np.flatnonzero(fc(compute))].values_as_numbers())
    products = 2 * 3 * 7168 * 2048
    assert len(flops) == 1 and products < flops[0] < products * 1.001


def test_attention_is_that_of_the_tokens_of_the_rank() -> None:
    op = of_model()
    compute, memory = op.compute.data, op.memory.data
    attention = np.flatnonzero(~fc(compute))
    assert len(attention) == 2 * LAYERS * (BATCH // 32)
    pairs = 128 * (512 + 64 + 512) * 2 * KV_LEN
    assert np.unique(compute.lists("flops_json")[attention].values_as_numbers()) == pytest.approx([pairs], rel=0.01)
    cache_rows = [row for row in memory.rows() if "'KV_S0' read" in row or "'KV_S0' write" in row]
    assert cache_rows[0].split(" ", 1)[1] == f"'KV_S0' read {KV_LEN * 576} 'kv'"
    assert cache_rows[1].split(" ", 1)[1] == "'KV_S0' write 576 'kv'"


def test_an_expert_reads_its_weights_once_per_step() -> None:
    op = of_model()
    compute, memory = op.compute.data, op.memory.data
    weights = np.flatnonzero(memory.ints("access") + (memory.texts("locality_hint").codes == _kv(memory)) == 0)
    step = compute.ints("mb_id")[memory.ints("event_id")[weights] - 1]
    names = memory.texts("tensor_id")[weights]
    key = step * len(names.words) + names.codes
    read = np.bincount(key, memory.ints("bytes")[weights])
    assert set(read[np.unique(key)].tolist()) == {float(3 * 7168 * 2048)}


def _kv(memory: Table) -> int:
    return memory.texts("locality_hint").words.index("kv")


def test_layers_of_a_step_come_one_after_the_other() -> None:
    compute = of_model().compute.data
    times = compute.ints("t_gen_ns")
    assert times.min() == 0 and times.max() == 3_000_000 + 57 * 3_000_000 // 58
    assert len(np.unique(times)) == 2 * LAYERS


def test_routing_is_drawn_from_the_seed() -> None:
    assert of_model().compute.data == traced(compiled(), steps=2).compute.data
    assert of_model().compute.data != of_model(seed=43).compute.data


def test_tokens_choose_about_as_often_as_the_law_says() -> None:
    """64 tokens choose 8 of 256 experts in each of 58 layers, twice; 8 of the experts are here."""
    parts = int(of_model().compute.data.lists("experts_json").lengths.sum())
    assert parts == pytest.approx(2 * LAYERS * BATCH * 8 * 8 / 256, rel=0.05)


CHOICE = RouterChoice(experts=32, top_k=4, groups=8, top_groups=2)


@pytest.mark.parametrize("law", ["uniform", Zipf(zipf=1.0), Histogram(histogram=tuple([2.0, 1.0] * 16))])
def test_laws_keep_to_the_groups_of_the_router(law: Any) -> None:
    found = law_routing(law, CHOICE, 500, (1, 2))
    assert found.shape == (500, 4)
    assert all(len(set(row)) == 4 and len({expert // 4 for expert in row}) <= 2 for row in found.tolist())
    assert np.array_equal(found, law_routing(law, CHOICE, 500, (1, 2)))
    assert not np.array_equal(found, law_routing(law, CHOICE, 500, (1, 3)))


def test_laws_give_the_load_that_they_say() -> None:
    free = RouterChoice(experts=16, top_k=1, groups=1, top_groups=1)
    uniform, zipf, rows = (
        np.bincount(law_routing(law, free, 40_000, (0, 0)).ravel(), minlength=16) / 40_000
        for law in ("uniform", Zipf(zipf=1.0), Histogram(histogram=tuple(range(16))))
    )
    assert uniform == pytest.approx(np.full(16, 1 / 16), abs=0.006)
    weight = 1 / np.arange(1, 17)
    assert np.sort(zipf)[::-1] == pytest.approx(weight / weight.sum(), abs=0.01)
    assert rows == pytest.approx(np.arange(16) / 120, abs=0.006)


# -- what it refuses --------------------------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    with pytest.raises(PassError, match=r"neither a program nor the attribute trace\.workload"):
        traced(ModuleOp([]))
    twice = ModuleOp([of_workload().clone()])
    twice.attributes[WORKLOAD] = MoeWorkloadAttr(workload())
    with pytest.raises(PassError, match="has a logical trace already"):
        traced(twice)
    without = compiled().clone()
    del without.attributes["arch.deployment"]
    with pytest.raises(PassError, match=r"no attribute arch\.deployment"):
        traced(without)
    with pytest.raises(PassError, match=r"'llama-3\.1-8b' has no layer with experts"):
        traced(dense())


def dense() -> ModuleOp:
    module = load_model("llama-3.1-8b")
    target = load_chip("sg2262"), load_topology("p1-r1-b1-c8"), load_deployment("llama-8b-decode")
    compile_model(module, *target, "dist")
    return module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0, must be at least 1"),
        ({"interval_us": 0}, "interval-us is 0"),
        ({"shard_kib": 0}, "shard-kib is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"recorded": "x.csv"}, "recorded routing is for a workload"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassError, match=message):
        traced(compiled(), **options)
