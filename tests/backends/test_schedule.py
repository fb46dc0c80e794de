"""The schedule on two streams: hand-made programs whose times follow from their ops, and invariants on real ones."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.overlap import Overlap, StepResult, evaluate_step
from pmc.backends.evaluate.streams import Stream
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, parse_module
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import ChipAttr, Topology, TopologyAttr
from pmc.dialects.errors import PmcError

T = "!layer.tensor<[batch, 4096], f8E4M3FN>"
PARTIAL = T.replace(">", ", #dist.partial<tp>>")
W = "!layer.tensor<[4096, 4096], f8E4M3FN>"
HEAD = f"""
builtin.module attributes {{dist.mesh = #dist.mesh<8 ranks, tp = 8 stride 1>}} {{
  layer.program() {{sym_name = "m", phase = "decode"}} at "m" {{
  ^bb0(%x: {T}, %s: {PARTIAL}):
    %w = layer.weight() {{axes = ["", ""]}} at "w" : {W}
"""
TAIL = "\n  }\n}\n"


def matmul(result: str, operand: str, path: str) -> str:
    return f'%{result} = layer.matmul(%{operand}, %w) at "{path}" : {T}'


def gather(result: str, operand: str, path: str) -> str:
    """A transfer that keeps the type, so that bodies can be chained."""
    return f'%{result} = dist.ring_exchange(%{operand}) {{axis = "tp"}} at "{path}" : {T}'


def module(lines: list[str], topology: Topology | None = None) -> ModuleOp:
    parsed = parse_module(HEAD + "\n".join(lines) + TAIL, "m.mlir")
    parsed.attributes["arch.chip"] = ChipAttr(load_chip("sg2262"))
    parsed.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    parsed.attributes["arch.topology"] = TopologyAttr(topology or load_topology("p1-r1-b1-c8"))
    return parsed


def step(lines: list[str], overlap: Overlap = Overlap.STREAMS, batch: int = 4096) -> StepResult:
    return evaluate_step(module(lines), "core", {"batch": batch}, overlap=overlap)


@cache
def compiled(model: str, deployment: str, **options: Any) -> ModuleOp:
    target = (load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment(deployment, options))
    return compile_model(load_model(model), *target, "dist")


FORK = [
    f'%a = dist.all_reduce(%s) {{axis = "tp"}} at "transfer" : {T}',
    matmul("b", "a", "after"),
    matmul("c", "x", "beside"),
    f'%d = layer.add(%b, %c) at "join" : {T}',
    'layer.return([%d]) at "m"',
]


def test_what_a_transfer_does_not_feed_runs_beside_it() -> None:
    board = load_topology("p1-r1-b1-c8")
    slow = board.links.model_copy(update={"c2c": board.links.c2c.model_copy(update={"gb_per_s": 40.0})})
    slowly = module(FORK, board.model_copy(update={"links": slow}))
    found = evaluate_step(slowly, "core", {"batch": 64}, overlap=Overlap.STREAMS)
    by_path = {row.path: row for row in found.ops.steps}
    transfer, after, beside, join = (by_path[p].time_us for p in ("transfer", "after", "beside", "join"))
    assert transfer > beside, "or the test would not show the wait"
    assert found.total_us == pytest.approx(transfer + after + join, rel=1e-12)
    assert by_path["after"].wait_us == pytest.approx(transfer - beside, rel=1e-12)
    assert found.wait_us == pytest.approx(transfer - beside, rel=1e-12)
    assert found.exposed_us == pytest.approx(transfer - beside, rel=1e-12)
    assert by_path["transfer"].stream is Stream.COMMUNICATION and by_path["beside"].stream is Stream.COMPUTE


def test_a_chain_cannot_overlap() -> None:
    found = step([gather("a", "x", "t"), matmul("b", "a", "p"), 'layer.return([%b]) at "m"'])
    assert found.total_us == pytest.approx(found.ops.total_us, rel=1e-12)
    assert found.exposed_us == pytest.approx(found.comm_us, rel=1e-12)


@pytest.mark.parametrize("level", ["chip", "core", "tile"])
@pytest.mark.parametrize(
    ("model", "deployment", "options"),
    [
        ("deepseek-v3", "dsv3-decode-ep32", {}),
        ("llama-3.1-70b", "llama-70b-prefill-tp8", {"q_len": 128, "kv_len": 128}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 2, "pp": 4}),
    ],
)
def test_without_overlap_the_total_is_the_sum_of_the_ops(
    model: str, deployment: str, options: dict[str, Any], level: str
) -> None:
    program = compiled(model, deployment, **options)
    found = evaluate_step(program, level)
    ops = evaluate_module(program, level)
    assert found.ops == ops
    assert sum(s.total_us for s in found.schedule.stages) == found.total_us
    # One stage is added up in the order of the engine; stages are sums of sums.
    assert found.total_us == (ops.total_us if len(ops.stages) == 1 else pytest.approx(ops.total_us, rel=1e-12))
    assert [s.total_us for s in found.schedule.stages] == [s.time_us for s in ops.stages]
    assert found.wait_us == 0.0 and found.exposed_us == pytest.approx(found.comm_us, rel=1e-9)


@pytest.mark.parametrize("overlap", [Overlap.STREAMS, Overlap.TWO_BATCH])
@pytest.mark.parametrize(
    ("model", "deployment", "options"),
    [
        ("deepseek-v3", "dsv3-decode-ep32", {}),
        ("deepseek-v3", "dsv3-decode-ep32", {"batch": 66}),
        ("deepseek-v3", "dsv3-prefill-ep32", {}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 2, "pp": 4, "batch": 7}),
    ],
)
def test_bounds_of_every_schedule(model: str, deployment: str, options: dict[str, Any], overlap: Overlap) -> None:
    found = evaluate_step(compiled(model, deployment, **options), "core", overlap=overlap)
    for stage in found.schedule.stages:
        assert max(stage.compute_us, stage.comm_us) * (1 - 1e-12) <= stage.total_us
        assert stage.total_us <= stage.serial_us * (1 + 1e-12)
        assert 0 <= stage.exposed_us <= stage.comm_us * (1 + 1e-12)
        assert stage.compute_wait_us <= stage.exposed_us * (1 + 1e-9)
    assert sum(s.serial_us for s in found.schedule.stages) == pytest.approx(found.ops.total_us, rel=1e-12)


def body(a: str, b: str, c: str, d: str, h: str, g: str) -> list[str]:
    """Two values go round: `d`, and `b`, from which the next iteration starts while this one still joins."""
    return [
        gather(a, h, "loop.transfer"),
        matmul(b, a, "loop.after"),
        matmul(c, g, "loop.beside"),
        f'%{d} = layer.add(%{b}, %{c}) at "loop.join" : {T}',
    ]


def looped(count: int) -> list[str]:
    return [
        f'%y, %z = layer.repeat {count} from 0 of {count} (%h = %x, %g = %x) at "loop" : {T}, {T} {{',
        *body("a", "b", "c", "d", "h", "g"),
        'layer.yield([%d, %b]) at "loop"',
        "}",
        f'%o = layer.add(%y, %z) at "join" : {T}',
        'layer.return([%o]) at "m"',
    ]


def unrolled(count: int) -> list[str]:
    lines: list[str] = []
    h, g = "x", "x"
    for i in range(count):
        lines += body(f"a{i}", f"b{i}", f"c{i}", f"d{i}", h, g)
        h, g = f"d{i}", f"b{i}"
    return [*lines, f'%o = layer.add(%{h}, %{g}) at "join" : {T}', 'layer.return([%o]) at "m"']


@pytest.mark.parametrize("overlap", [Overlap.STREAMS, Overlap.TWO_BATCH])
@pytest.mark.parametrize("batch", [64, 4096])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_iterations_in_steady_state_are_those_of_the_unrolled_program(count: int, batch: int, overlap: Overlap) -> None:
    found, whole = step(looped(count), overlap, batch), step(unrolled(count), overlap, batch)
    assert found.total_us == pytest.approx(whole.total_us, rel=1e-9)
    assert found.ops.total_us == pytest.approx(whole.ops.total_us, rel=1e-9)
    assert found.total_us < found.ops.total_us
    assert found.exposed_us == pytest.approx(whole.exposed_us, rel=1e-6, abs=1e-6)


def test_the_work_does_not_grow_with_the_number_of_layers() -> None:
    few, many = step(looped(10**6)), step(looped(10**6 + 1))
    once = step(looped(11)).total_us - step(looped(10)).total_us
    assert many.total_us - few.total_us == pytest.approx(once, rel=1e-3)
    assert many.total_us == pytest.approx(once * 10**6, rel=1e-3)


def test_the_shared_expert_hides_dispatch_and_combine_by_its_dependencies_alone() -> None:
    program = compiled("deepseek-v3", "dsv3-decode-ep32")
    found = evaluate_step(program, "core", overlap=Overlap.STREAMS)
    shared = sum(row.time_us for row in found.ops.steps if ".shared." in row.path)
    hidden = found.comm_us - found.exposed_us
    # Nothing else of a layer is free of the routed experts, and it is too short to hide all of both transfers.
    assert hidden == pytest.approx(shared, rel=1e-6)
    assert found.total_us == pytest.approx(found.ops.total_us - hidden, rel=1e-9)


def test_two_batches_hide_transfers_but_pay_for_their_smaller_matmuls() -> None:
    program = compiled("deepseek-v3", "dsv3-decode-ep32")
    for batch in (64, 2048, 16384):
        whole = evaluate_step(program, "core", {"batch": batch})
        halves = evaluate_step(program, "core", {"batch": batch}, overlap=Overlap.TWO_BATCH)
        half = evaluate_step(program, "core", {"batch": batch // 2})
        assert halves.ops.total_us == pytest.approx(2 * half.total_us, rel=1e-12)
        assert halves.ops.total_us > whole.ops.total_us
        assert halves.exposed_us < 0.1 * halves.comm_us
        assert halves.ops.bindings["batch"] == batch
    losing = evaluate_step(program, "core", {"batch": 64}, overlap=Overlap.TWO_BATCH)
    assert losing.total_us > evaluate_step(program, "core", {"batch": 64}).total_us
    winning = evaluate_step(program, "core", {"batch": 16384}, overlap=Overlap.TWO_BATCH)
    assert winning.total_us < evaluate_step(program, "core", {"batch": 16384}, overlap=Overlap.STREAMS).total_us


def test_micro_batches_take_turns_at_transfers() -> None:
    moe = evaluate_step(compiled("deepseek-v3", "dsv3-decode-ep32"), "core", overlap=Overlap.TWO_BATCH)
    assert moe.exposed_us == pytest.approx(0, abs=1e-6), "transfers are shorter than what runs beside them"
    dense = evaluate_step(compiled("llama-3.1-70b", "llama-70b-decode-tp8"), "core", overlap=Overlap.TWO_BATCH)
    # Of the layers nothing is exposed: only the first half's transfer at the start, the second half's at the end.
    rows = [row for row in dense.ops.steps if row.stream is Stream.COMMUNICATION and "blocks" not in row.path]
    assert dense.exposed_us <= sum(row.time_us / row.count for row in rows)


def test_halves_do_the_flops_of_the_whole() -> None:
    program = compiled("deepseek-v3", "dsv3-decode-ep32")
    flops = {
        evaluate_step(program, level, {"batch": 2048}, overlap=overlap).ops.total_flops
        for level in ("chip", "core", "tile")
        for overlap in Overlap
    }
    assert len(flops) == 1


@pytest.mark.parametrize("overlap", list(Overlap))
def test_faster_links_never_make_a_step_slower(overlap: Overlap) -> None:
    program = compiled("deepseek-v3", "dsv3-decode-ep32").clone()
    topology = load_topology("p1-r1-b4-c32")
    totals: list[float] = []
    for factor in (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 3.0, 10.0):
        link = topology.link("b2b")
        links = topology.links.model_copy(update={"b2b": link.model_copy(update={"gb_per_s": link.gb_per_s * factor})})
        program.attributes["arch.topology"] = TopologyAttr(topology.model_copy(update={"links": links}))
        totals.append(evaluate_step(program, "core", overlap=overlap).total_us)
    assert all(slow >= fast * (1 - 1e-9) for slow, fast in itertools.pairwise(totals))
    assert totals[0] > totals[-1]


def test_bad_input() -> None:
    with pytest.raises(PmcError, match=r"^two-batch overlap splits the batch in two: batch is 1, must be at least 2$"):
        step(FORK, Overlap.TWO_BATCH, batch=1)
    with pytest.raises(PmcError, match=r"^layer.matmul at .* symbol 'batch' .* has no value"):
        evaluate_step(module([matmul("b", "x", "p"), 'layer.return([%b]) at "m"']), "tile")
