"""CDMA engines, credits and links: single messages and rings by closed forms, contention, unequal loads, bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.cost.model import Target
from pmc.backends.cost.network import Network, Transfer, network_of, transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.g5.cdma import Message, Rounds, rounds_of, simulate_exchange
from pmc.backends.g5.links import Links
from pmc.backends.g5.stream import simulate
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.collective import AlgorithmAttr, DirectAttr, FlatRingAttr, OneShotAttr, Phase, TwoLevelAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ChipCommandOp

PS = 1_000_000
"""Picoseconds of a microsecond."""

CHIP, PHYSICAL = load_chip("sg2262"), load_accounting("physical")


def topology(wiring: str = "switch", **changes: Any) -> Topology:
    return load_topology("p1-r1-b4-c32").model_copy(update={"board_wiring": wiring, **changes})


def chip(**changes: Any) -> Chip:
    commands = CHIP.commands
    return CHIP.model_copy(
        update={"command_level": commands.model_copy(update={"cdma": commands.cdma.model_copy(update=changes)})}
    )


def mesh(size: int, stride: int = 1, ranks: int | None = None) -> Mesh:
    return Mesh(ranks or size * stride, (Axis("tp", size, stride),))


def run_us(rounds: Rounds, over: Topology, own: Chip = CHIP, ranks: int = 32) -> float:
    found = simulate_exchange(rounds, own, Links(Network(over, mesh(ranks)), own), CommProtocol(over, PHYSICAL))
    assert sum(found.critical_ps.values()) == found.duration_ps
    return found.duration_ps / PS


def message_us(over: Topology, hops: int = 1) -> float:
    """2 link latencies, one more for every further link, memory, NoC, two die crossings (facts, section 7)."""
    return (
        (hops + 1) * over.links.c2c.latency_us
        + over.memory_read_us
        + over.memory_write_us
        + over.noc_us
        + (2 * over.die_to_die_us)
    )


def send(source: int, target: int, size: int) -> Message:
    return Message(source, target, size, Phase.MESSAGE)


def test_one_message_goes_by_all_engines_of_its_chip() -> None:
    """alpha + bytes / (400 GB/s x 0.95) + way + beta; its eight engines could send 512 GB/s."""
    over = topology()
    expected = 0.25 + 8_000_000 / (400 * 0.95) * 1e-3 + message_us(over) + 0.3
    assert run_us([[send(0, 1, 8_000_000)]], over) == pytest.approx(expected, rel=1e-6)


def test_slow_engines_are_the_limit() -> None:
    over, slow = topology(), chip(gb_per_s_per_engine=10.0)
    assert run_us([[send(0, 1, 8_000_000)]], over, slow) == pytest.approx(
        0.25 + 8_000_000 / 80 * 1e-3 + message_us(over) + 0.3, rel=1e-6
    )


def test_the_ports_of_a_chip_carry_all_of_its_links() -> None:
    """One message on the board, one to another board: 850 GB/s of links, ports of 448."""
    over = topology()
    both = run_us([[send(0, 1, 8_000_000), send(0, 8, 8_000_000)]], over)
    assert both > 16_000_000 / (448 * 0.95) * 1e-3


@pytest.mark.parametrize(("wiring", "rate", "hops"), [("switch", 400, 1), ("full_mesh", 400 / 7, 1), ("ring", 200, 3)])
def test_what_a_message_crosses_on_a_board(wiring: str, rate: float, hops: int) -> None:
    """Three places on: one link of a full mesh has a seventh of the bandwidth, one of a ring the half."""
    over = topology(wiring)
    expected = 0.25 + 1_000_000 / (rate * 0.95) * 1e-3 + message_us(over, hops) + 0.3
    assert run_us([[send(0, 3, 1_000_000)]], over) == pytest.approx(expected, rel=1e-5)


def test_links_of_a_ring_are_shared() -> None:
    """From 0 to 2 and from 1 to 3 both go over the link from 1 to 2."""
    over = topology("ring")
    alone, both = (run_us([ms], over) for ms in ([send(0, 2, 10**7)], [send(0, 2, 10**7), send(1, 3, 10**7)]))
    assert both > alone + 0.9 * 10**7 / (200 * 0.95) * 1e-3


def test_receivers_are_shared() -> None:
    over = topology()
    one, many = run_us([[send(1, 0, 10**7)]], over), run_us([[send(i, 0, 10**7) for i in range(1, 5)]], over)
    assert many > one + 3 * 0.99 * 10**7 / (400 * 0.95) * 1e-3


def test_threads_and_credits_hold_commands_back() -> None:
    """64 small messages by 8 engines, 8 each: with one thread start-ups follow each other, with one credit replies."""
    over, messages = load_topology("p1-r1-b4-c32"), [[send(0, 1 + i % 31, 64) for i in range(64)]]
    free = run_us(messages, over, chip(threads_per_engine=8, credit_queue_depth=32))
    one_thread = run_us(messages, over, chip(threads_per_engine=1, credit_queue_depth=32))
    one_credit = run_us(messages, over, chip(threads_per_engine=8, credit_queue_depth=1))
    assert one_thread == pytest.approx(free + 7 * 0.25, abs=0.1)
    assert one_credit > free + 7 * (0.25 + message_us(over))


def transfer(size: int, by: AlgorithmAttr, over: Topology, stride: int = 1) -> tuple[Transfer, Network]:
    """An all-reduce of 1 MB among `size` ranks, taken out of a compiled program."""
    deployment = load_deployment("llama-8b-decode", {"tp": 8, "batch": 64, "kv_len": 128})
    module = compile_model(load_model("llama-3.1-8b"), CHIP, load_topology("p1-r1-b4-c32"), deployment, "commands")
    target = Target.of(module)
    found = next(t for op in module.walk() if isinstance(op, ChipCommandOp) and (t := transfer_of(op, target)))
    own = mesh(size, stride)
    return replace(found, axis=own.axes[0], ranks=size).by(by), Network(over, own)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_ring_takes_its_rounds(size: int) -> None:
    """2 (n - 1) rounds of alpha + D/n / link + way + beta."""
    over = topology()
    found, network = transfer(size, FlatRingAttr(), over)
    rounds = rounds_of(found, network)
    assert len(rounds) == 2 * (size - 1)
    sent = found.steps[0].bytes.constant
    each = 0.25 + sent / (400 * 0.95) * 1e-3 + message_us(over) + over.sync_us + 0.3
    times = simulate_exchange(rounds, CHIP, Links(network, CHIP), CommProtocol(over, PHYSICAL))
    assert times.duration_ps / PS == pytest.approx(2 * (size - 1) * each, rel=1e-3)


@pytest.mark.parametrize("wiring", ["switch", "full_mesh", "ring"])
@pytest.mark.parametrize("by", [FlatRingAttr(), DirectAttr(), OneShotAttr(), TwoLevelAttr.of(4, "none")])
def test_no_exchange_is_faster_than_its_protocol(wiring: str, by: AlgorithmAttr) -> None:
    """The protocol knows no start-up of commands, no synchronisation of theirs and no queues."""
    for size, stride in ((8, 1), (16, 1), (4, 8)):
        if size == 4 and isinstance(by, TwoLevelAttr):
            continue
        over = topology(wiring)
        found, network = transfer(size, by, over, stride)
        protocol = CommProtocol(over, PHYSICAL)
        times = simulate_exchange(rounds_of(found, network), CHIP, Links(network, CHIP), protocol)
        bound_s = float(protocol.time(found, network, {}).total_s)
        if size == 16 and isinstance(by, OneShotAttr):
            # The protocol charges all of such a round to each of its levels, here it is on the ports once.
            bound_s = found.link_bytes.constant / (448e9 * 0.95)
        # Half way around a ring the protocol sends by both ways, the engines by one.
        assert times.duration_ps * 1e-12 >= 0.98 * bound_s


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31), st.integers(0, 10**6)), max_size=20), max_size=4
    )
)
def test_unequal_loads(drawn: list[list[tuple[int, int, int]]]) -> None:
    """Any messages: all arrive, a round of a chip after its round before; no link carries more than it can."""
    over = topology("ring")
    rounds = [[send(a, b, size) for a, b, size in messages if a != b] for messages in drawn]
    links = Links(Network(over, mesh(32)), CHIP)
    found = simulate_exchange(rounds, CHIP, links, CommProtocol(over, PHYSICAL))
    assert sum(sent.size for sent in found.sent) == sum(m.size for messages in rounds for m in messages)
    ended = {(s.round, s.target): 0 for s in found.sent}
    busy: dict[object, float] = {}
    for sent in found.sent:
        assert sent.start_ps < sent.left_ps < sent.arrived_ps <= found.duration_ps
        ended[sent.round, sent.target] = max(ended[sent.round, sent.target], sent.arrived_ps)
        for link, rate in links.route(sent.source, sent.target).links:
            busy[link] = busy.get(link, 0.0) + sent.size / rate
    for sent in found.sent:
        for number in range(sent.round):
            assert sent.start_ps >= ended.get((number, sent.source), 0)
    assert all(seconds <= found.duration_ps * 1e-12 * (1 + 1e-9) for seconds in busy.values())
    assert sum(found.critical_ps.values()) == found.duration_ps


def test_an_uneven_all_to_all_takes_as_long_as_its_busiest_chip() -> None:
    over = topology()
    even = [[send(a, b, 10**6) for a in range(8) for b in range(8) if a != b]]
    uneven = [[send(a, b, 4 * 10**6 if b == 0 else 5 * 10**5) for a in range(8) for b in range(8) if a != b]]
    assert run_us(uneven, over) > 1.8 * run_us(even, over)
    assert run_us(uneven, over) >= 7 * 4 * 10**6 / (400 * 0.95) * 1e-3


def test_equal_groups_are_simulated_once() -> None:
    over = topology()
    network = Network(over, Mesh(32, (Axis("tp", 4, 1), Axis("dp", 8, 4))))
    found, _ = transfer(4, FlatRingAttr(), over)
    alike = rounds_of(found, network)
    assert {m.source for messages in alike for m in messages} == {0, 1, 2, 3}
    # The links of a ring carry for all groups of a board.
    ring = rounds_of(found, Network(topology("ring"), network.mesh))
    assert {m.source for messages in ring for m in messages} == set(range(32))


def test_a_step_with_stages_sends_and_a_step_of_experts_dispatches() -> None:
    deployment = load_deployment("llama-8b-decode", {"tp": 2, "pp": 2, "batch": 8, "kv_len": 128})
    module = compile_model(load_model("llama-3.1-8b"), CHIP, load_topology("p1-r1-b1-c8"), deployment, "commands")
    parts = {part.op: part for part in simulate(module).parts}
    assert {"dist.all_reduce"} <= parts.keys()
    moves = parts["dist.all_reduce"].moves
    assert moves is not None
    assert np.array([sent.left_ps for sent in moves.sent]).max() < moves.duration_ps
    op = next(op for op in module.walk() if isinstance(op, ChipCommandOp) and transfer_of(op, Target.of(module)))
    assert network_of(op, Target.of(module)).topology.name == "p1-r1-b1-c8"


def dispatch_and_combine(histogram: list[float] | None) -> dict[str, Any]:
    """What leaves the chips of experts on the eight ranks of a board, by collective."""
    fields: dict[str, Any] = {"dp": 8, "ep": 8, "batch": 64, "kv_len": 64}
    if histogram is not None:
        fields["routing"] = {"histogram": histogram}
    deployment = load_deployment("dsv3-decode-ep32", fields)
    module = compile_model(load_model("deepseek-v3"), CHIP, load_topology("p1-r1-b1-c8"), deployment, "commands")
    return {part.op: part for part in simulate(module).parts if part.moves is not None}


def test_experts_that_get_more_rows_make_all_wait() -> None:
    """Rows of 1, 13, 1, 1, .. on eight ranks: 13 / (20 / 8) = 5.2 times the mean to rank 1, and back from it."""
    even = dispatch_and_combine([1.0] * 256)
    skewed = dispatch_and_combine([1.0] * 32 + [13.0] * 32 + [1.0] * 192)
    uniform = dispatch_and_combine(None)
    for name, side in (("dist.dispatch", "target"), ("dist.combine", "source")):
        assert even[name].duration_ps == pytest.approx(uniform[name].duration_ps, rel=1e-3)
        own = {r: sum(s.size for s in skewed[name].moves.sent if getattr(s, side) == r) for r in range(8)}
        mean = sum(s.size for s in even[name].moves.sent) / 8
        assert own[1] == pytest.approx(5.2 * mean, rel=0.01) and own[0] == pytest.approx(0.4 * mean, rel=0.01)
        assert skewed[name].duration_ps > even[name].duration_ps


def test_a_histogram_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(PmcError, match=r"routing\.histogram.* has 250 "):
        dispatch_and_combine([1.0] * 250)
