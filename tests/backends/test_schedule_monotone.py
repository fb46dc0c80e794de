"""Faster ops never make a schedule longer: random programs and durations, and powers in the max-plus algebra."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.evaluate.max_plus import NEVER, chain, orbit, power, product, unit
from pmc.backends.evaluate.schedule import Facts, Timeline, timeline
from pmc.backends.evaluate.stream_orders import stream_orders
from pmc.backends.evaluate.streams import Stream, stream_of
from pmc.compiler.driver import parse_module
from pmc.dialects import layer

T = "!layer.tensor<[64, 64], bf16>"


@st.composite
def lines(draw: st.DrawFn, known: list[str], fresh: itertools.count[int], depth: int) -> tuple[list[str], list[str]]:
    """Ops on values that are known: sums on the cores, exchanges on the links, repeats; and all values then."""
    found, values = list[str](), list(known)
    for _ in range(draw(st.integers(1, 5))):
        name = f"%v{next(fresh)}"
        kind = draw(st.sampled_from(["add", "send", "send", "repeat"] if depth else ["add", "send"]))
        if kind == "repeat":
            count, inits = draw(st.integers(1, 9)), draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
            arguments = [f"%v{next(fresh)}" for _ in inits]
            body, inside = draw(lines([*values, *arguments], fresh, depth - 1))
            yielded = [draw(st.sampled_from(inside)) for _ in inits]
            results = [f"%v{next(fresh)}" for _ in inits]
            carried = ", ".join(f"{a} = {i}" for a, i in zip(arguments, inits, strict=True))
            step = draw(st.sampled_from(["", ' as "tp.step"']))
            types = ", ".join(T for _ in inits)
            found += [
                f'{", ".join(results)} = layer.repeat {count} from 0 of {count}{step} ({carried}) at "r" : {types} {{',
                *body, f'layer.yield([{", ".join(yielded)}]) at "r"', "}",
            ]  # fmt: skip
            values += results
            continue
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        send = f'{name} = dist.ring_exchange({a}) {{axis = "tp"}} at "t" : {T}'
        found.append(send if kind == "send" else f'{name} = layer.add({a}, {b}) at "c" : {T}')
        values.append(name)
    return found, values


@st.composite
def programs(draw: st.DrawFn) -> str:
    body, values = draw(lines(["%x", "%y"], itertools.count(), 2))
    text = [
        "builtin.module attributes {dist.mesh = #dist.mesh<4 ranks, tp = 4 stride 1>} {",
        'layer.program() {sym_name = "m", phase = "prefill"} at "m" {',
        f"^bb0(%x: {T}, %y: {T}):", *body, f'layer.return([{values[-1]}]) at "m"', "}", "}",
    ]  # fmt: skip
    return "\n".join(text)


def ops_of(module: ModuleOp) -> list[Operation]:
    return [op for op in module.walk() if op.name in ("layer.add", "dist.ring_exchange")]


def best(module: ModuleOp, times: Sequence[Mapping[Operation, float]]) -> Timeline:
    (program,) = (op for op in module.ops if isinstance(op, layer.ProgramOp))
    block = program.body.block
    facts = Facts(block)
    return min((timeline(block, o, times, facts) for o in stream_orders(block, len(times))), key=lambda t: t.end_us)


def durations(data: st.DataObject, ops: list[Operation]) -> dict[Operation, float]:
    return {op: data.draw(st.sampled_from([0.0, 0.1, 1.0, 2.0, 3.0, 10.0, 31.0])) for op in ops}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_no_op_makes_a_schedule_longer_by_taking_less_time(data: st.DataObject) -> None:
    module, copies = parse_module(data.draw(programs()), "m.mlir"), data.draw(st.sampled_from([1, 2]))
    ops = ops_of(module)
    slow = [durations(data, ops) for _ in range(copies)]
    factors = {op: data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.0])) for op in ops}
    fast = [{op: us * factors[op] for op, us in of_op.items()} for of_op in slow]
    assert best(module, fast).end_us <= best(module, slow).end_us * (1 + 1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_streams_are_busy_or_wait(data: st.DataObject) -> None:
    """The end is a power of a matrix, waits are added up over all iterations: the two say the same."""
    module, copies = parse_module(data.draw(programs()), "m.mlir"), data.draw(st.sampled_from([1, 2]))
    ops = ops_of(module)
    times = [durations(data, ops) for _ in range(copies)]
    found = best(module, times)
    ends = {
        stream: sum(us * runs(op) for of_op in times for op, us in of_op.items() if stream_of(op) is stream)
        + sum(us for (_, op), us in found.waits().items() if stream_of(op) is stream)
        for stream in Stream
    }
    assert max(ends.values()) == pytest.approx(found.end_us, rel=1e-6, abs=1e-9)
    total = sum(us * runs(op) for of_op in times for op, us in of_op.items())
    assert found.end_us <= total * (1 + 1e-9), "never longer than one op after the other"


def runs(op: Operation) -> int:
    count, parent = 1, op.parent_op()
    while parent is not None:
        count *= parent.trip_count if isinstance(parent, layer.RepeatOp) else 1
        parent = parent.parent_op()
    return count


@pytest.mark.parametrize("times", [0, 1, 2, 3, 10, 61])
def test_powers_chains_and_orbits_are_products_one_by_one(times: int) -> None:
    random = np.random.default_rng(times)
    matrix = np.where(random.random((5, 5)) < 0.4, NEVER, random.uniform(0, 9, (5, 5)))
    one_by_one, states = unit(5), list[np.ndarray]()
    start = random.uniform(0, 5, (2, 5))
    for _ in range(times):
        states.append(np.stack([product(one_by_one, row[:, None])[:, 0] for row in start]))
        one_by_one = product(matrix, one_by_one)
    assert power(matrix, times) == pytest.approx(one_by_one, rel=1e-12)
    if times:
        assert orbit(matrix, start, times) == pytest.approx(np.stack(states), rel=1e-12)
        assert chain(np.stack([matrix] * times)) == pytest.approx(one_by_one, rel=1e-12)


def test_a_chain_begins_with_its_first_matrix() -> None:
    first = np.asarray([[1.0, NEVER], [2.0, 0.0]])
    second = np.asarray([[0.0, 5.0], [NEVER, 0.0]])
    third = np.asarray([[0.0, NEVER], [1.0, 3.0]])
    assert (chain(np.stack([first, second, third])) == product(third, product(second, first))).all()
