"""The steps of collectives, run on arrays: they compute what the collective defines and send what its formula says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import Float64Type, IntegerAttr, StringAttr, f64, i8, i64
from xdsl.utils.exceptions import VerifyException

from pmc.backends.numeric import collectives as numeric
from pmc.dialects import collective as c
from pmc.dialects.analyses.collective_steps import Step, collective_steps
from pmc.dialects.collective import AlgorithmAttr, DirectAttr, Exchange, FlatRingAttr, Phase, TwoLevelAttr
from pmc.dialects.dist import Axis
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType

Array = npt.NDArray[np.float64]

SHARE = 4
"""Elements of one part of the value; even, so that both directions of a ring get as many."""

TP = StringAttr("tp")
DIM0 = IntegerAttr(0, i64)
ALL_REDUCE = c.AllReduceAttr.new([TP])
ALL_GATHER = c.AllGatherAttr.new([TP, DIM0])
REDUCE_SCATTER = c.ReduceScatterAttr.new([TP, DIM0])


def exchange_of(collective: c.CollectiveAttr, algorithm: AlgorithmAttr | None, ranks: int) -> Exchange:
    """On vectors of f64 of `SHARE` elements a part."""
    whole, part = (TensorType.of((n,), Float64Type()) for n in (ranks * SHARE, SHARE))
    ins = part if isinstance(collective, c.AllGatherAttr) else whole
    outs = part if isinstance(collective, c.ReduceScatterAttr) else whole
    return Exchange.of(collective, algorithm, [ins], [outs])


def run(steps: tuple[Step, ...], ranks: int, held: list[Array]) -> tuple[list[Array], list[int]]:
    """Run the steps on what every rank holds of the whole value, [ranks, SHARE]; NaN is what it does not have.

    Gives what the ranks hold in the end and the bytes that each has sent.
    """
    sent = [0] * ranks
    before: Phase | None = None
    for step in steps:
        if before is Phase.REDUCE_SCATTER and step.phase is Phase.ALL_GATHER:
            for rank in range(ranks):  # what others own are terms of no use any more
                held[rank][np.arange(ranks) != rank] = np.nan
        before = step.phase
        for round_ in range(step.rounds):
            messages: list[tuple[int, npt.NDArray[np.int64], slice, Array]] = []
            for rank in range(ranks):
                size = 0
                for way, distance in enumerate(step.peers):
                    owner = step.part(rank, distance, round_)
                    parts = np.array(
                        [p for p in range(ranks) if step.place(p) == owner and p % step.stride == rank % step.stride]
                    )
                    # Around a ring a part goes in equal shares in all directions, directly it goes whole.
                    width = SHARE // len(step.peers) if step.rounds > 1 else SHARE
                    columns = slice(way * width, (way + 1) * width) if step.rounds > 1 else slice(None)
                    values = held[rank][parts, columns].copy()
                    assert not np.isnan(values).any(), "a rank sends what it does not have"
                    messages.append((step.peer(rank, distance), parts, columns, values))
                    size += values.nbytes
                assert size == step.bytes.constant
                sent[rank] += size
            for receiver, parts, columns, values in messages:
                old = held[receiver][parts, columns]
                held[receiver][parts, columns] = old + values if step.phase is Phase.REDUCE_SCATTER else values
    return held, sent


def algorithms(ranks: int) -> list[AlgorithmAttr]:
    inner = [i for i in range(2, ranks) if ranks % i == 0]
    return [FlatRingAttr(), DirectAttr(), *(TwoLevelAttr.of(i) for i in inner)]


CASES = [(ranks, algorithm) for ranks in range(2, 33) for algorithm in algorithms(ranks)]


def test_the_cases_cover_all_algorithms() -> None:
    assert len(CASES) == 2 * 31 + sum(1 for n in range(2, 33) for i in range(2, n) if n % i == 0)


@pytest.mark.parametrize(("ranks", "algorithm"), CASES, ids=str)
def test_the_steps_compute_the_collective(ranks: int, algorithm: AlgorithmAttr) -> None:
    rng = np.random.default_rng(ranks)
    terms = [rng.integers(-9, 9, (ranks, SHARE)).astype(np.float64) for _ in range(ranks)]
    axis = Axis("tp", ranks, 1)
    flat = {rank: term.reshape(-1) for rank, term in enumerate(terms)}

    def check(collective: c.CollectiveAttr, held: list[Array], expected: Callable[[int], Array], own: bool) -> None:
        exchange = exchange_of(collective, algorithm, ranks)
        exchange.verify(ranks)
        after, sent = run(collective_steps(exchange, ranks), ranks, held)
        for rank in range(ranks):
            found = after[rank][rank] if own else after[rank].reshape(-1)
            assert found.tolist() == expected(rank).tolist()
        assert sent == [exchange.link_bytes(ranks).constant] * ranks

    sums = numeric.all_reduce(flat, axis)
    check(ALL_REDUCE, [t.copy() for t in terms], lambda rank: sums[rank], own=False)
    scattered = numeric.reduce_scatter(flat, axis, 0)
    check(REDUCE_SCATTER, [t.copy() for t in terms], lambda rank: scattered[rank], own=True)
    parts = [np.where(np.arange(ranks)[:, None] == rank, terms[rank], np.nan) for rank in range(ranks)]
    gathered = numeric.all_gather({rank: terms[rank][rank] for rank in range(ranks)}, axis, 0, ranks * SHARE)
    check(ALL_GATHER, parts, lambda rank: gathered[rank], own=False)


def test_steps_by_hand() -> None:
    """8 ranks with D = 8 x 32 bytes, in one ring and in two levels with inner rings of 4."""

    def rows(algorithm: AlgorithmAttr) -> list[tuple[str, int, int, int, list[int], int]]:
        steps = collective_steps(exchange_of(ALL_REDUCE, algorithm, 8), 8)
        return [(s.phase.value, s.size, s.stride, s.rounds, list(s.peers), s.bytes.constant) for s in steps]

    assert rows(FlatRingAttr()) == [
        ("reduce_scatter", 8, 1, 7, [1, -1], 32), ("all_gather", 8, 1, 7, [1, -1], 32),
    ]  # fmt: skip
    assert rows(TwoLevelAttr.of(4)) == [
        ("reduce_scatter", 4, 1, 3, [1, -1], 64), ("reduce_scatter", 2, 4, 1, [1], 32),
        ("all_gather", 2, 4, 1, [1], 32), ("all_gather", 4, 1, 3, [1, -1], 64),
    ]  # fmt: skip
    assert rows(DirectAttr()) == [
        ("reduce_scatter", 8, 1, 1, [1, 2, 3, 4, 5, 6, 7], 7 * 32),
        ("all_gather", 8, 1, 1, [1, 2, 3, 4, 5, 6, 7], 7 * 32),
    ]  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 64, 4096, 2**20])
def test_the_number_of_steps_does_not_grow_with_the_group(ranks: int) -> None:
    kinds: list[AlgorithmAttr] = [FlatRingAttr(), DirectAttr()]
    for algorithm in [*kinds, *([TwoLevelAttr.of(2)] if ranks > 2 else [])]:
        steps = collective_steps(exchange_of(ALL_REDUCE, algorithm, ranks), ranks)
        assert len(steps) <= 4 and all(isinstance(s.peers, range) or len(s.peers) <= 2 for s in steps)


@given(st.integers(2, 32), st.integers(1, 999), st.data())
def test_a_value_that_does_not_divide_is_sent_in_whole_bytes(ranks: int, size: int, data: Any) -> None:
    algorithm = data.draw(st.sampled_from(algorithms(ranks)))
    whole = TensorType.of((size,), i8)
    exchange = Exchange.of(ALL_REDUCE, algorithm, [whole], [whole])
    steps = collective_steps(exchange, ranks)
    sent = sum(step.rounds * step.bytes.constant for step in steps)
    assert 0 <= sent - exchange.link_bytes(ranks).constant < sum(step.rounds for step in steps)


@pytest.mark.parametrize("ranks", [2, 3, 8, 32])
def test_a_ring_exchange_is_one_message_to_the_next(ranks: int) -> None:
    exchange = exchange_of(c.RingExchangeAttr.new([TP]), None, ranks)
    (step,) = collective_steps(exchange, ranks)
    values = {rank: np.array([rank]) for rank in range(ranks)}
    received = {step.peer(rank, distance): values[rank] for rank in range(ranks) for distance in step.peers}
    assert received == numeric.ring_exchange(values, Axis("tp", ranks, 1))
    assert (step.rounds, step.bytes) == (1, exchange.link_bytes(ranks)) == (1, expr(ranks * SHARE * 8))


@pytest.mark.parametrize("ranks", [2, 3, 8, 32])
def test_a_dispatch_reaches_every_other_rank_once(ranks: int) -> None:
    x, indices, slots = TensorType.of((6, 16), f64), TensorType.of((6, 3), i64), TensorType.of((2, 9, 16), f64)
    exchange = Exchange.of(c.DispatchAttr.new([StringAttr("ep")]), None, [x, indices], [slots])
    (step,) = collective_steps(exchange, ranks)
    for rank in range(ranks):
        assert sorted([rank, *(step.peer(rank, d) for d in step.peers)]) == list(range(ranks))
    assert step.bytes == exchange.link_bytes(ranks) == expr(-(-6 * 3 * 16 * 8 * (ranks - 1) // ranks))


@pytest.mark.parametrize(("stage", "peer"), [(0, 1), (1, 2), (3, 0)])
def test_a_send_goes_from_its_stage_to_the_peer(stage: int, peer: int) -> None:
    value = TensorType.of((9,), f64)
    send = c.SendAttr.new([StringAttr("pp"), IntegerAttr(peer, i64), IntegerAttr(0, i64)])
    (step,) = collective_steps(Exchange.of(send, None, [value], []), 4, stage)
    assert [step.peer(stage, d) for d in step.peers] == [peer] and step.bytes == expr(72)
    recv = c.RecvAttr.new([StringAttr("pp"), IntegerAttr(stage, i64), IntegerAttr(0, i64)])
    assert collective_steps(Exchange.of(recv, None, [], [value]), 4, peer) == (), "the send says it"


def test_what_sends_nothing_has_no_steps() -> None:
    assert collective_steps(exchange_of(ALL_REDUCE, None, 1), 1) == ()
    assert collective_steps(exchange_of(c.LocalSliceAttr.new([TP, DIM0]), None, 4), 4) == ()


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(VerifyException, match="two levels with inner rings of 4 do not fit a group of 6 ranks"):
        collective_steps(exchange_of(ALL_REDUCE, TwoLevelAttr.of(4), 6), 6)
