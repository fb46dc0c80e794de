"""The schedule of ring attention: a hand-made ring whose makespan follows from its ops, and real prefills."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.overlap import Overlap, StepResult, evaluate_step
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, parse_module
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import ChipAttr, Topology, TopologyAttr

SG2262, RACK = load_chip("sg2262"), load_topology("p1-r1-b4-c32")

X = "!layer.tensor<[batch*1024, 1024], bf16>"
NEW = "!layer.tensor<[batch*1024, 256], bf16>"
KEYS = "!layer.tensor<[batch, 1024, 256], bf16>"
ROWS = "!layer.tensor<[batch*1024, 8], f32>"
STATE = f"!layer.tensor<[batch*1024, 1024], f32>, {ROWS}, {ROWS}"
ATTENTION = "{qk_dims = [128], v_dim = 128, q_len = <1024>, scale = 0.1, causal = true}"
CARRIED = ("k", "v", "acc", "max", "sum")


def names(suffix: str) -> list[str]:
    return [f"%{name}{suffix}" for name in CARRIED]


def exchange_and_step(query: str, before: str, after: str) -> list[str]:
    """The blocks of keys and values that come by, and attention to them."""
    (k, v, *state), (k1, v1, *new) = names(before), names(after)
    return [
        f'{k1} = dist.ring_exchange({k}) {{axis = "cp"}} at "ring.k" : {KEYS}',
        f'{v1} = dist.ring_exchange({v}) {{axis = "cp"}} at "ring.v" : {KEYS}',
        f"{', '.join(new)} = layer.attention_step([{query}], [{k1}], {v1}, [{', '.join(state)}]) {ATTENTION} "
        f'at "ring.step" : {STATE}',
    ]


def ring(ranks: int, at: str) -> list[str]:
    """The other steps as a repeat, from the values `k{at}`, .. to `k{at}_last`, .."""
    pairs = zip(names(f"{at}_in"), names(at), strict=True)
    carried = ", ".join(f"{argument} = {init}" for argument, init in pairs)
    return [
        f'{", ".join(names(f"{at}_last"))} = layer.repeat {ranks - 1} from 1 of {ranks} as "cp.step" ({carried}) '
        f'at "ring" : {KEYS}, {KEYS}, {STATE} {{',
        *exchange_and_step(f"%q{at}", f"{at}_in", f"{at}_out"),
        f'layer.yield([{", ".join(names(f"{at}_out"))}]) at "ring"',
        "}",
    ]


def unrolled_ring(ranks: int, at: str) -> list[str]:
    places = [at, *(f"{at}_{step}" for step in range(1, ranks - 1)), f"{at}_last"]
    return [line for here, there in itertools.pairwise(places) for line in exchange_and_step(f"%q{at}", here, there)]


def attention(at: str, steps: list[str]) -> list[str]:
    (k, v, *state), (_, _, acc, _, row_sum) = names(at), names(f"{at}_last")
    own = f'{", ".join(state)} = layer.attention_step([%q{at}], [{k}], {v}, []) {ATTENTION} at "own" : {STATE}'
    return [own, *steps, f'%y{at} = layer.attention_finish({acc}, {row_sum}) at "finish" : {X}']


def attention_layer(h: str, at: str, steps: list[str]) -> list[str]:
    """A layer: the keys are there first, so that the ring may start beside the other projections."""
    return [
        f'%kx{at} = layer.matmul({h}, %wk) at "k_proj" : {NEW}',
        f'%k{at} = layer.kv_append(%cache, %kx{at}) at "k_append" : {KEYS}',
        f'%vx{at} = layer.matmul({h}, %wk) at "v_proj" : {NEW}',
        f'%v{at} = layer.kv_append(%cache, %vx{at}) at "v_append" : {KEYS}',
        f'%q{at} = layer.matmul({h}, %wq) at "q_proj" : {X}',
        *attention(at, steps),
        f'%o{at} = layer.matmul(%y{at}, %wq) at "o_proj" : {X}',
        f'%h{at} = layer.add({h}, %o{at}) at "residual" : {X}',
    ]


def program(ranks: int, body: list[str], gb_per_s: float) -> ModuleOp:
    lines = [
        f"builtin.module attributes {{dist.mesh = #dist.mesh<{ranks} ranks, cp = {ranks} stride 1>}} {{",
        'layer.program() {sym_name = "m", phase = "prefill"} at "m" {',
        f"^bb0(%x: {X}, %q: {X}, %k: {KEYS}, %v: {KEYS}):",
        '%wk = layer.weight() {axes = ["", ""]} at "wk" : !layer.tensor<[1024, 256], bf16>',
        '%wq = layer.weight() {axes = ["", ""]} at "wq" : !layer.tensor<[1024, 1024], bf16>',
        f'%cache = layer.state() {{axes = ["batch", "position", "kv_heads"]}} at "cache" : {KEYS}',
    ]
    module = parse_module("\n".join([*lines, *body, "}", "}"]), "ring.mlir")
    module.attributes["arch.chip"] = ChipAttr(SG2262)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    module.attributes["arch.topology"] = TopologyAttr(with_links(gb_per_s))
    return module


def with_links(gb_per_s: float) -> Topology:
    both = {level: RACK.link(level).model_copy(update={"gb_per_s": gb_per_s}) for level in ("c2c", "b2b")}
    return RACK.model_copy(update={"links": RACK.links.model_copy(update=both)})


def step(module: ModuleOp, overlap: Overlap = Overlap.STREAMS, batch: int = 6) -> StepResult:
    return evaluate_step(module, "core", {"batch": batch}, overlap=overlap)


def times(found: StepResult) -> Iterator[float]:
    """What the own step, both exchanges of another step, its attention, and the end take."""
    once = {row.path: row.time_us / row.count for row in found.ops.steps}
    yield from (once["own"], once["ring.k"] + once["ring.v"], once["ring.step"], once["finish"])


# -- one ring ---------------------------------------------------------------------------------------------------


def one_ring(ranks: int, gb_per_s: float) -> ModuleOp:
    return program(ranks, [*attention("", ring(ranks, "")), 'layer.return([%y]) at "m"'], gb_per_s)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_bound_by_its_arithmetic_hides_every_exchange(ranks: int) -> None:
    found = step(one_ring(ranks, 400.0))
    own, exchange, other, finish = times(found)
    assert exchange < own < other, "or another regime"
    # The first exchange runs beside the own step, every other beside the step before.
    assert found.total_us == pytest.approx(own + (ranks - 1) * other + finish, rel=1e-12)
    assert found.exposed_us == pytest.approx(0.0, abs=1e-9) and found.wait_us == 0.0
    assert found.comm_us == pytest.approx((ranks - 1) * exchange, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_bound_by_its_links_has_exchanges_back_to_back(ranks: int) -> None:
    found = step(one_ring(ranks, 20.0))
    own, exchange, other, finish = times(found)
    assert exchange > other, "or another regime"
    # All exchanges one after the other, then what the last one brought.
    assert found.total_us == pytest.approx((ranks - 1) * exchange + other + finish, rel=1e-12)
    # The first of the other steps waits from the end of the own one, each later one from the end of that before it.
    waits = (exchange - own) + (ranks - 2) * (exchange - other)
    (row,) = [row for row in found.ops.steps if row.path == "ring.step"]
    assert row.wait_us == pytest.approx(waits, rel=1e-9)
    assert found.exposed_us == pytest.approx(waits, rel=1e-9)
    assert found.schedule.stages[0].comm_wait_us == 0.0, "what a step sends does not wait for what it computes"


def test_between_both_only_the_first_exchange_shows() -> None:
    own, _, other, _ = times(step(one_ring(8, 400.0)))
    # The own step has no state to read: exchanges that take longer than it but not than the others.
    latency = 2 * (2 * 0.2 + 0.15 + 0.01 + 0.05 + 2 * 0.04)
    gb_per_s = 2 * 6 * 1024 * 256 * 2 / 0.95 / ((own + other) / 2 - latency) / 1e3
    found = step(one_ring(8, gb_per_s))
    own, exchange, other, finish = times(found)
    assert exchange == pytest.approx((own + other) / 2, rel=1e-9) and own < exchange < other
    assert found.total_us == pytest.approx(exchange + 7 * other + finish, rel=1e-12)
    assert found.exposed_us == pytest.approx(exchange - own, rel=1e-6)


# -- rings in layers --------------------------------------------------------------------------------------------


def layers(ranks: int, count: int, gb_per_s: float) -> ModuleOp:
    body = [
        f'%out = layer.repeat {count} from 0 of {count} (%h = %x) at "layers" : {X} {{',
        *attention_layer("%h", "_l", ring(ranks, "_l")),
        'layer.yield([%h_l]) at "layers"',
        "}",
        'layer.return([%out]) at "m"',
    ]
    return program(ranks, body, gb_per_s)


def unrolled_layers(ranks: int, count: int, gb_per_s: float) -> ModuleOp:
    places = ["%x", *(f"%h_l{i}" for i in range(count))]
    body = [
        line for i, h in enumerate(places[:-1]) for line in attention_layer(h, f"_l{i}", unrolled_ring(ranks, f"_l{i}"))
    ]
    return program(ranks, [*body, f'layer.return([{places[-1]}]) at "m"'], gb_per_s)


# At 60 GB/s an exchange takes a little longer than a step: it falls behind only after many steps.
@pytest.mark.parametrize(
    ("ranks", "count", "gb_per_s", "overlap"),
    [
        *itertools.product((2, 4, 9), (1, 2, 7), (10.0, 60.0, 400.0), [Overlap.STREAMS]),
        (16, 3, 60.0, Overlap.STREAMS),
    ],
)
def test_rings_in_layers_are_those_of_the_unrolled_program(
    ranks: int, count: int, gb_per_s: float, overlap: Overlap
) -> None:
    found = step(layers(ranks, count, gb_per_s), overlap)
    whole = step(unrolled_layers(ranks, count, gb_per_s), overlap)
    assert found.total_us == pytest.approx(whole.total_us, rel=1e-9)
    assert found.ops.total_us == pytest.approx(whole.ops.total_us, rel=1e-9)
    assert found.total_us < found.ops.total_us
    assert found.exposed_us == pytest.approx(whole.exposed_us, rel=1e-6, abs=1e-6)
    assert found.wait_us == pytest.approx(whole.wait_us, rel=1e-6, abs=1e-6)


def test_a_very_long_ring_is_that_of_the_unrolled_program() -> None:
    found, whole = step(layers(32, 4, 60.0)), step(unrolled_layers(32, 4, 60.0))
    assert found.total_us == pytest.approx(whole.total_us, rel=1e-9)
    assert found.wait_us == pytest.approx(whole.wait_us, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("count", "gb_per_s"), [(3, 80.0), (5, 10.0), (5, 400.0)])
def test_rings_of_two_micro_batches_take_their_steps_in_turn(count: int, gb_per_s: float) -> None:
    """So both end together, and what stands between two rings shows where the links are the limit."""
    found = step(layers(8, count, gb_per_s), Overlap.TWO_BATCH)
    whole = step(unrolled_layers(8, count, gb_per_s), Overlap.TWO_BATCH)
    own, _, other, finish = times(found)
    rows = {row.path: row.time_us / row.count for row in found.ops.steps}
    between = own + other + finish + sum(rows[n] for n in ("k_proj", "v_proj", "q_proj", "o_proj", "residual"))
    assert whole.total_us * (1 - 1e-9) <= found.total_us <= whole.total_us + count * between


# -- models -----------------------------------------------------------------------------------------------------


@cache
def compiled(model: str, deployment: str, **changes: Any) -> ModuleOp:
    return compile_model(load_model(model), SG2262, RACK, load_deployment(deployment, changes), "dist")


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama-3.1-70b", "llama-70b-prefill-tp8-cp4", {}),
    ("llama-3.1-70b", "llama-70b-prefill-tp8-cp4", {"tp": 2, "cp": 8, "pp": 2, "q_len": 256, "kv_len": 4096}),
    ("llama-3.1-70b", "llama-70b-prefill-tp8-cp4", {"tp": 1, "cp": 32, "batch": 3, "q_len": 64, "kv_len": 64}),
    ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 2, "cp": 4, "dp": 4, "sp": True}),
]


@pytest.mark.parametrize(("model", "deployment", "changes"), CASES)
def test_bounds_of_every_schedule_with_a_ring(model: str, deployment: str, changes: dict[str, Any]) -> None:
    module = compiled(model, deployment, **changes)
    serial = evaluate_step(module, "core")
    found = evaluate_step(module, "core", overlap=Overlap.STREAMS)
    assert found.ops.total_us == pytest.approx(serial.total_us, rel=1e-12)
    assert found.exposed_us < serial.exposed_us == pytest.approx(serial.comm_us, rel=1e-9)
    for stage in found.schedule.stages:
        assert max(stage.compute_us, stage.comm_us) * (1 - 1e-12) <= stage.total_us < stage.serial_us
        assert stage.compute_wait_us <= stage.exposed_us * (1 + 1e-9) <= stage.comm_us * (1 + 1e-9)


def test_a_long_prompt_hides_its_ring_and_nothing_else() -> None:
    found = evaluate_step(compiled("llama-3.1-70b", "llama-70b-prefill-tp8-cp4"), "core", overlap=Overlap.STREAMS)
    exchanges = [row for row in found.ops.steps if row.op == "dist.ring_exchange"]
    step_us, exchange_us = (
        sum(row.time_us / row.count for row in found.ops.steps if row.op == op and row.count == 240)
        for op in ("layer.attention_step", "dist.ring_exchange")
    )
    assert step_us > 10 * exchange_us, "32768 tokens: each step has the arithmetic of 8192 queries and keys"
    # The all-reduces of a layer are on its one chain of dependencies.
    assert found.ops.total_us - found.total_us == pytest.approx(sum(row.time_us for row in exchanges), rel=1e-9)
    assert found.exposed_us == pytest.approx(found.comm_us - sum(row.time_us for row in exchanges), rel=1e-9)


@pytest.mark.parametrize("overlap", [Overlap.STREAMS, Overlap.TWO_BATCH])
def test_faster_links_never_make_a_ring_slower(overlap: Overlap) -> None:
    totals = [step(layers(8, 6, 25.0 * 1.3**i), overlap).total_us for i in range(14)]
    assert all(slow >= fast * (1 - 1e-9) for slow, fast in itertools.pairwise(totals))
    assert totals[0] > 1.5 * totals[-1]
