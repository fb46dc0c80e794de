"""The communication protocol: each formula by hand, in microseconds, on the topology of 4 boards x 8 chips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import BFloat16Type
from xdsl.ir import Operation

from pmc.backends.cost.comm_time import CommTime
from pmc.backends.cost.model import Target
from pmc.backends.cost.network import transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.cost.published_protocol import PublishedProtocol
from pmc.compiler.config import load_accounting, load_chip, load_topology
from pmc.dialects import dist
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.collective import DirectAttr, FlatRingAttr, OneShotAttr, TwoLevelAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType

TOPOLOGY = load_topology("p1-r1-b4-c32")
BOARD = 2 * 0.2 + 0.15 + 0.01 + 0.05 + 2 * 0.04  # 0.69 us per message
RACK = BOARD + 2 * (0.35 - 0.2) + 1.0 + 0.025  # board-to-board links take 0.35 us; a switch and a cable
D = 4.0e6


def us(volume: float, gb_per_s: float) -> float:
    return volume / (gb_per_s * 0.95 * 1e3)


# -- the published formulas -------------------------------------------------------------------------------------

PUBLISHED = PublishedProtocol(TOPOLOGY)


def test_the_constants_are_those_of_the_protocol() -> None:
    assert PUBLISHED.message_us == pytest.approx(0.69, abs=1e-12)
    assert PUBLISHED.hop_us("b2b") == pytest.approx(1.025, abs=1e-12) and PUBLISHED.hop_us("c2c") == 0.0


def test_a_flat_ring() -> None:
    time = PUBLISHED.flat_all_reduce(D, 4, "c2c")
    assert time.latency_s * 1e6 == pytest.approx(3 * BOARD, rel=1e-12)
    assert time.transfer_s * 1e6 == pytest.approx(us(2 * 3 / 4 * D, 400), rel=1e-12)


def test_of_two_levels_the_longest_phase_hides_the_others() -> None:
    # 32 ranks: rings of 4 neighbours, 8 groups of them.
    near = us(2 * 3 / 4 * D, 400) + 3 * BOARD
    far = us(2 * 7 / 8 * D, 450) + 7 * (BOARD + 1.0 + 0.025)
    last = us(D, 400) + 3 * BOARD
    time = PUBLISHED.two_level_all_reduce(D, 4, 8, "c2c", "b2b")
    assert time.total_s * 1e6 == pytest.approx(max(near, far, last), rel=1e-12)
    assert time.latency_s * 1e6 == pytest.approx(7 * (BOARD + 1.025), rel=1e-12)


def test_8_ranks_on_one_board_pass_no_switch() -> None:
    # 4 neighbours, 2 groups of them, all on one board: the middle phase has one message and no switch.
    time = PUBLISHED.two_level_all_reduce(D, 4, 2, "c2c", "c2c")
    assert time.latency_s * 1e6 == pytest.approx(3 * BOARD, rel=1e-12)
    assert time.transfer_s * 1e6 == pytest.approx(us(2 * 3 / 4 * D, 400), rel=1e-12)


def test_dispatch_and_combine_pass_two_switches() -> None:
    time = PUBLISHED.exchange(64 * 8 * 7168.0, "b2b")
    assert time.latency_s * 1e6 == pytest.approx(2.74, abs=1e-12)
    assert time.total_s * 1e6 == pytest.approx(11.325, abs=5e-4)
    assert PUBLISHED.exchange(64 * 8 * 7168 * 2.0, "b2b").total_s * 1e6 == pytest.approx(19.91, abs=5e-3)


def test_a_send_is_one_message() -> None:
    assert PUBLISHED.send(D, "b2b").total_s * 1e6 == pytest.approx(us(D, 450) + BOARD + 1.025, rel=1e-12)


@pytest.mark.parametrize(
    ("size", "algorithm"), [(4, None), (8, TwoLevelAttr.of(4)), (16, TwoLevelAttr.of(2)), (32, TwoLevelAttr.of(4))]
)
def test_the_topology_lists_the_groups_of_two_levels(size: int, algorithm: TwoLevelAttr | None) -> None:
    """What is published all-reduces in two levels; a reduce-scatter of the same group goes around one ring."""
    protocol = CommProtocol(TOPOLOGY, load_accounting("ds-tpu"))
    op, target = collective(dist.AllReduceOp, size, 1)
    assert protocol.algorithm_of(op, target, {}) == (algorithm or FlatRingAttr())
    named, _ = collective(dist.AllReduceOp, size, 1, algorithm=algorithm or FlatRingAttr())
    assert protocol.time_of(op, target, {}) == protocol.time_of(named, target, {})
    scatter, _ = collective(dist.ReduceScatterOp, size, 1, dim=0)
    assert protocol.algorithm_of(scatter, target, {}) == FlatRingAttr()


# -- by steps ---------------------------------------------------------------------------------------------------


def collective(kind: type[dist.CollectiveOp], size: int, stride: int, **properties: Any) -> tuple[Operation, Target]:
    """Of D bytes, among `size` of 32 ranks."""
    type_ = TensorType.of((int(D) // 2,), BFloat16Type())
    (x,) = test_dialect.TestOp(result_types=[type_]).results
    op = kind.make([x], [type_], "c", {"axis": "tp", **properties})
    return op, Target(load_chip("sg2262"), TOPOLOGY, Mesh(32, (Axis("tp", size, stride),)))


def total_us(kind: type[dist.CollectiveOp], size: int, stride: int, **properties: Any) -> float:
    protocol = CommProtocol(TOPOLOGY, load_accounting("physical"))
    time = protocol.time_of(*collective(kind, size, stride, **properties), {})
    assert time is not None
    return float(time.total_s) * 1e6


FLAT = {"algorithm": FlatRingAttr()}


def test_half_an_all_reduce() -> None:
    gather, scatter = dist.AllGatherOp, dist.ReduceScatterOp
    assert total_us(gather, 4, 8, dim=0, **FLAT) == pytest.approx(us(3 * D, 450) + 3 * RACK, rel=1e-12)
    assert total_us(scatter, 4, 1, dim=0, **FLAT) == pytest.approx(us(3 / 4 * D, 400) + 3 * BOARD, rel=1e-12)


def test_two_levels_use_the_links_that_their_rings_span() -> None:
    """16 ranks on two boards: 8 neighbours on a board, then pairs across."""
    two = {"dim": 0, "algorithm": TwoLevelAttr.of(8)}
    near, far = us(7 / 8 * D, 400) + 7 * BOARD, us(1 / 16 * D, 450) + RACK
    assert total_us(dist.ReduceScatterOp, 16, 1, **two) == pytest.approx(near + far, rel=1e-12)
    # Gathering D bytes from each: two shards on the outer level, 7 times as much inside.
    near, far = us(7 * 2 * D, 400) + 7 * BOARD, us(D, 450) + RACK
    assert total_us(dist.AllGatherOp, 16, 1, **two) == pytest.approx(near + far, rel=1e-12)


@pytest.mark.parametrize(
    ("direct", "near", "far"), [("none", 7, 3), ("inside", 1, 3), ("across", 7, 1), ("both", 1, 1)]
)
def test_two_levels_may_send_directly(direct: str, near: int, far: int) -> None:
    """32 ranks on four boards: as many bytes, fewer messages one after the other."""
    inside, across = us(2 * 7 / 8 * D, 400) + 2 * near * BOARD, us(2 * 3 / 4 * D / 8, 450) + 2 * far * RACK
    two = TwoLevelAttr.of(8, direct)
    assert total_us(dist.AllReduceOp, 32, 1, algorithm=two) == pytest.approx(inside + across, rel=1e-12)


def test_a_direct_collective_takes_one_round() -> None:
    direct = {"algorithm": DirectAttr()}
    assert total_us(dist.AllGatherOp, 8, 1, dim=0, **direct) == pytest.approx(us(7 * D, 400) + BOARD, rel=1e-12)
    assert total_us(dist.AllReduceOp, 8, 1, **direct) == pytest.approx(us(2 * 7 / 8 * D, 400) + 2 * BOARD, rel=1e-12)


def test_one_shot_is_one_message_of_the_whole_value_to_each() -> None:
    one_shot = {"algorithm": OneShotAttr()}
    assert total_us(dist.AllReduceOp, 8, 1, **one_shot) == pytest.approx(us(7 * D, 400) + BOARD, rel=1e-12)


def test_the_attribute_of_an_all_reduce_decides() -> None:
    """8 ranks: two phases around the ring have 14 messages, in both directions at a time."""
    flat = us(2 * 7 / 8 * D, 400) + 14 * BOARD
    assert total_us(dist.AllReduceOp, 8, 1, **FLAT) == pytest.approx(flat, rel=1e-12)
    two = us(2 * 7 / 8 * D, 400) + 2 * BOARD + 6 * BOARD
    assert total_us(dist.AllReduceOp, 8, 1, algorithm=TwoLevelAttr.of(2)) == pytest.approx(two, rel=1e-12)


DEEP = Topology.model_validate(
    {**TOPOLOGY.model_dump(), "name": "deep", "pods": 2, "racks_per_pod": 2, "boards_per_rack": 2, "chips_per_board": 4}
)
"""32 chips on every level of the network."""


def ring_exchange(size: int, stride: int, topology: Topology) -> tuple[dist.RingExchangeOp, Target]:
    """Of 2 `batch` bytes, among `size` of 32 ranks."""
    type_ = TensorType.of((expr("batch"),), BFloat16Type())
    (x,) = test_dialect.TestOp(result_types=[type_]).results
    op = dist.RingExchangeOp.make([x], [type_], "ring", {"axis": "cp"})
    return op, Target(load_chip("sg2262"), topology, Mesh(32, (Axis("cp", size, stride),)))


@pytest.mark.parametrize(
    ("size", "stride", "topology", "level"),
    [
        (2, 4, TOPOLOGY, "c2c"),
        (8, 1, TOPOLOGY, "c2c"),
        (4, 4, TOPOLOGY, "b2b"),  # ranks 0 and 4 are on one board, 4 and 8 are not
        (16, 1, TOPOLOGY, "b2b"),
        (4, 8, TOPOLOGY, "b2b"),
        (4, 1, DEEP, "c2c"),
        (8, 1, DEEP, "b2b"),
        (4, 4, DEEP, "r2r"),  # two boards of one rack, then two of another
        (2, 16, DEEP, "p2p"),
    ],
)
def test_a_ring_exchange_is_one_message_over_the_slowest_pair(
    size: int, stride: int, topology: Topology, level: LinkLevel
) -> None:
    op, target = ring_exchange(size, stride, topology)
    transfer = transfer_of(op, target)
    assert transfer is not None and (transfer.ranks, transfer.level) == (size, level)
    batch = np.array([1, 10**6])
    assert transfer.link_bytes.evaluate({"batch": batch}).tolist() == [2, 2 * 10**6]
    time = CommProtocol(topology, load_accounting("physical")).time_of(op, target, {"batch": batch})
    assert time is not None
    # 2 link latencies, memory, NoC, two die crossings; beyond the board a switch and a cable.  It does not grow with
    # the group: all ranks send at the same time.  Some pairs are on one board, unless groups have a chip of each.
    links = {"c2c": (400, 0.2), "b2b": (450, 0.35), "r2r": (200, 2.0), "p2p": (100, 5.0)}
    link = links[level]
    gb_per_s = link[0] if stride >= topology.chips_per_board else min(400, link[0])
    latency = 2 * link[1] + 0.15 + 0.01 + 0.05 + 2 * 0.04 + (0.0 if level == "c2c" else 1.025)
    assert time.latency_s == pytest.approx(latency * 1e-6, rel=1e-12)
    assert np.asarray(time.transfer_s).tolist() == pytest.approx([us(2.0 * b, gb_per_s) * 1e-6 for b in batch])


def test_a_ring_exchange_of_one_rank_takes_no_time() -> None:
    op, target = ring_exchange(1, 1, TOPOLOGY)
    assert CommProtocol(TOPOLOGY, load_accounting("physical")).time_of(op, target, {"batch": 9}) == CommTime(0.0, 0.0)
    transfer = transfer_of(op, target)
    assert transfer is not None and transfer.link_bytes == expr(0)


@pytest.mark.parametrize("preset", ["physical", "ds-tpu"])
@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_arrays_give_what_their_points_give(preset: str, size: int) -> None:
    """Also where different algorithms are the fastest at different points."""
    protocol = CommProtocol(TOPOLOGY, load_accounting(preset))
    type_ = TensorType.of((expr("batch"), 512), BFloat16Type())
    (x,) = test_dialect.TestOp(result_types=[type_]).results
    op = dist.AllReduceOp.make([x], [type_], "c", {"axis": "tp"})
    target = Target(load_chip("sg2262"), TOPOLOGY, Mesh(32, (Axis("tp", size, 1),)))
    batches = np.array([1, 32, 1024, 10**6])
    swept = protocol.time_of(op, target, {"batch": batches})
    points = [protocol.time_of(op, target, {"batch": int(b)}) for b in batches]
    assert swept is not None
    for name in ("latency_s", "transfer_s", "link_bytes"):
        found = np.broadcast_to(getattr(swept, name), 4).tolist()
        assert found == pytest.approx([getattr(point, name) for point in points], rel=1e-12)
