"""Wrong numbers of collectives: time, bytes on links, and which links count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import BFloat16Type

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Target
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.analyses.link_traffic import link_traffic
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects import dist
from pmc.dialects.arch import BoardWiring, Topology
from pmc.dialects.collective import AlgorithmAttr, FlatRingAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.tensor import TensorType

RACK = load_topology("p1-r1-b4-c32")
NVLINK = load_topology("nvlink-8")
NODES = load_topology("nvlink-8-ib-4")
PHYSICAL = load_accounting("physical")
KINDS = (dist.AllReduceOp, dist.ReduceScatterOp, dist.AllGatherOp)


def seconds(
    kind: type[dist.CollectiveOp], value: int, size: int, topology: Topology, algorithm: AlgorithmAttr | None = None
) -> tuple[float, float]:
    """Of a whole value of so many bytes, by the protocol and by the roofline."""
    mesh = Mesh(size, (Axis("tp", size, 1),))
    part = value // size if kind is dist.AllGatherOp else value
    (x,) = test_dialect.TestOp(result_types=[TensorType.of((part // 2,), BFloat16Type())]).results
    properties: dict[str, Any] = {"axis": "tp", "algorithm": algorithm}
    if kind is not dist.AllReduceOp:
        properties["dim"] = 0
    op = kind.make([x], [x.type], "c", properties)
    target = Target(load_chip("sg2262"), topology, mesh)
    time, roofline = CommProtocol(topology, PHYSICAL).time_of(op, target, {}), ChipCostModel(target).cost(op, {})
    assert time is not None and roofline is not None
    return float(time.total_s), float(roofline.transfer_s)


SIZES = [2, 4, 8, 16, 32]
VALUES = [8 * 7 * 512, 64 * 7 * 2**16, 64 * 7 * 2**20]
"""Bytes, from small to large."""


@pytest.mark.parametrize("ranks", [4, 8])
def test_n07_an_all_reduce_on_one_board_moves_what_a_ring_moves(ranks: int) -> None:
    """2 (n-1)/n D at 80% of 450 GB/s and two messages of 2 x 1.0 + 0.3 + 0.3 us, at any size of group."""
    value = 64 * 7 * 2**20
    found, roofline = seconds(dist.AllReduceOp, value, ranks, NVLINK)
    wire = 2 * (ranks - 1) / ranks * value / 450e9
    assert roofline == pytest.approx(wire, rel=1e-9)
    assert found == pytest.approx(wire / 0.8 + 2 * 2.6e-6, rel=1e-9)


def test_n07_an_all_reduce_across_boards_reduces_on_a_board_first() -> None:
    """32 ranks, 8 on a board: 2 x 7/8 D at 400 GB/s, 2 x 3/4 of D/8 at 450 GB/s, two messages on either level."""
    value = 64 * 7 * 2**20
    board, rack = 2 * 0.2 + 0.29, 2 * 0.35 + 0.29 + 1.025
    wire = 2 * 7 / 8 * value / 400e9 + 2 * 3 / 4 * value / 8 / 450e9
    found, _ = seconds(dist.AllReduceOp, value, 32, RACK)
    assert found == pytest.approx(wire / 0.95 + 2 * (board + rack) * 1e-6, rel=1e-9)


@pytest.mark.parametrize("topology", [NVLINK, RACK], ids=["nvlink-8", "rack"])
@pytest.mark.parametrize("value", VALUES)
def test_issue9_1_an_all_reduce_is_never_longer_than_its_halves(topology: Topology, value: int) -> None:
    for size in range(2, topology.chips + 1):
        whole, scatter, gather = (seconds(kind, value // size * size, size, topology)[0] for kind in KINDS)
        # The parts of a reduce-scatter and an all-gather may be rounded up to whole elements.
        assert whole <= (scatter + gather) * (1 + 1e-4), size


@pytest.mark.parametrize(
    ("topology", "sizes"),
    [(NVLINK, range(2, 9)), (RACK, (*range(2, 9), 16, 24, 32)), (NODES, (*range(2, 9), 16, 24, 32))],
    ids=["nvlink-8", "rack", "nvlink-8-ib-4"],
)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_issue9_1_time_never_falls_with_the_size_of_the_group(
    topology: Topology, sizes: Sequence[int], value: int, kind: type[dist.CollectiveOp]
) -> None:
    """Any size on one board, and whole boards: a board that is not full has fewer links out (the next test)."""
    times = [seconds(kind, value // size * size, size, topology)[0] for size in sizes]
    assert all(b >= a * (1 - 1e-3) for a, b in pairwise(times)), times


def test_issue9_1_a_rank_alone_on_its_node_makes_a_group_slower_than_two_full_nodes() -> None:
    """Of an element its term leaves the lone rank and the sum comes in, or the other terms come in and the sum leaves.

    D each way over its one link of 50 GB/s takes longer than all that 16 ranks do: 2 x 7/8 D at 450 GB/s and 2 x 1/2 of
    D/8 at 50 GB/s.  So time cannot rise with the size of a group where boards are not alike, by any algorithm.
    """
    value = 9 * 16 * 7 * 2**16
    alone, full = (seconds(dist.AllReduceOp, value, size, NODES)[0] for size in (9, 16))
    assert alone > value / 50e9 > full


@pytest.mark.parametrize("wiring", ["switch", "ring", "full_mesh"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_issue9_1_no_collective_is_faster_than_its_bytes_on_the_wire(
    wiring: BoardWiring, kind: type[dist.CollectiveOp]
) -> None:
    """What a rank must send at least, over all that its ports carry; and the roofline, whatever the wiring."""
    topology = RACK.model_copy(update={"board_wiring": wiring})
    for size in SIZES:
        for value in VALUES:
            found, roofline = seconds(kind, value, size, topology)
            phases = 2 if kind is dist.AllReduceOp else 1
            assert found >= roofline >= phases * (size - 1) / size * value / 450e9 * 0.999


def test_n08_rings_pay_for_every_message() -> None:
    """A flat ring of 8 has 7 messages in a reduce-scatter, 7 in an all-gather and 14 in an all-reduce."""
    value = 8 * 7 * 512
    whole, scatter, gather = (seconds(kind, value, 8, RACK, FlatRingAttr())[0] for kind in KINDS)
    assert whole == pytest.approx(scatter + gather, rel=1e-12)
    assert whole == pytest.approx(14 * 0.69e-6 + 14 / 8 * value / 380e9, rel=1e-9)


def test_n08_a_ring_across_boards_pays_for_switch_and_cable_in_every_round() -> None:
    """16 ranks on two boards: a round waits for the hop between them, 2 x 0.35 + 0.29 + 1.025 us."""
    value = 1920 * 7168 * 2
    found, _ = seconds(dist.ReduceScatterOp, value, 16, RACK, FlatRingAttr())
    assert found == pytest.approx(15 * 2.015e-6 + 15 / 16 * value / 380e9, rel=1e-9)


def test_n09_the_slowest_link_is_the_one_with_least_bandwidth() -> None:
    """Links between boards have 450 GB/s, those on a board 400: a ring over both is as slow as these."""
    value = 1920 * 7168 * 2
    slow = RACK.model_copy(update={"links": RACK.links.model_copy(update={"c2c": RACK.link("b2b")})})
    now, as_fast = (seconds(dist.ReduceScatterOp, value, 16, t, FlatRingAttr())[1] for t in (RACK, slow))
    assert now == pytest.approx(15 / 16 * value / 400e9, rel=1e-9)
    assert as_fast == pytest.approx(15 / 16 * value / 450e9, rel=1e-9)


@pytest.mark.parametrize(("tp", "wiring"), [(8, "switch"), (2, "switch"), (8, "full_mesh"), (2, "ring"), (8, "ring")])
def test_n12_the_busiest_link_takes_what_the_cost_models_charge(tp: int, wiring: BoardWiring) -> None:
    topology = NVLINK.model_copy(update={"board_wiring": wiring})
    deployment = load_deployment("llama-70b-decode-tp8", {"tp": tp})
    module = compile_model(load_model("llama-3.1-70b"), load_chip("h100-sxm"), topology, deployment, "dist")
    busiest = link_traffic(module).busiest
    core = evaluate_module(module, "core")
    assert busiest is not None
    latency_us = sum(step.comm_us for step in core.steps) - busiest.time_us
    # What is left over is latency: 2.6 us for every message on the board, and up to 3 more links of 1 us in a ring.
    messages = latency_us / 2.6
    if wiring != "ring":
        assert messages == pytest.approx(round(messages), abs=1e-3) and messages > 0
    chip = evaluate_module(module, "chip")
    roofline_us = sum(step.comm_us for step in chip.steps)
    assert busiest.time_us >= roofline_us / 0.8 * (1 - 1e-9)
    if wiring != "ring" or tp == 2:
        assert busiest.time_us == pytest.approx(roofline_us / 0.8, rel=1e-9)


def test_issue9_1_the_published_protocol_is_what_it_was() -> None:
    """Three phases of which the longest hides the others: for 8 ranks 1.5 D at 380 GB/s and 3 messages of 0.69 us."""
    deployment = load_deployment("dsv3-decode-ep32", {"tp": 8, "dp": 4})
    accounting = load_accounting("ds-tpu")
    module = compile_model(
        load_model("deepseek-v3"), load_chip("sg2262"), RACK, deployment, "dist", accounting=accounting
    )
    (step,) = (s for s in evaluate_module(module, "core").steps if s.path == "blocks.dense.mla.o_proj" and s.comm_us)
    assert step.time_us / step.count == pytest.approx(1.5 * 512 * 7168 * 2 / 380e3 + 3 * 0.69, rel=1e-9)


def test_issue9_1_a_sweep_takes_the_fastest_at_every_point() -> None:
    times = [np.min([seconds(dist.AllReduceOp, v, 8, NVLINK, a)[0] for a in (None, FlatRingAttr())]) for v in VALUES]
    assert times == [seconds(dist.AllReduceOp, v, 8, NVLINK)[0] for v in VALUES]
