"""Traffic on physical links: nothing is lost or invented on the way, and placements small enough to draw."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Target
from pmc.backends.cost.network import LEVELS
from pmc.backends.evaluate.analyses.comm_pattern import comm_pattern
from pmc.backends.evaluate.analyses.link_traffic import flows_of, link_traffic
from pmc.backends.evaluate.analyses.wiring import Wiring, chip
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, parse_module
from pmc.dialects import dist
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import BoardWiring, ChipAttr, Topology, TopologyAttr
from pmc.dialects.errors import PmcError

RACK = load_topology("p1-r1-b4-c32")
DEEP = Topology.model_validate(
    {**RACK.model_dump(), "name": "deep", "pods": 2, "racks_per_pod": 2, "boards_per_rack": 2, "chips_per_board": 4}
)
"""32 chips on every level of the network."""


def wired(topology: Topology, board: BoardWiring) -> Topology:
    return topology.model_copy(update={"board_wiring": board})


RING = wired(RACK, "ring")

COLLECTIVE = """
builtin.module attributes {dist.mesh = #dist.mesh<RANKS ranks, g = SIZE stride STRIDE>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch, 1000], bf16>, %s: !layer.tensor<[batch, 1000], bf16, #dist.partial<g>>):
    OP
    layer.return([%y]) at "m"
  }
}
"""
FLAT = 'axis = "g", algorithm = #dist.flat_ring'
ALL_REDUCE = f'%y = dist.all_reduce(%s) {{{FLAT}}} at "c" : !layer.tensor<[batch, 1000], bf16>'
ALL_GATHER = f'%y = dist.all_gather(%x) {{dim = 0, {FLAT}}} at "c" : !layer.tensor<[batch*SIZE, 1000], bf16>'
RING_EXCHANGE = '%y = dist.ring_exchange(%x) {axis = "g"} at "c" : !layer.tensor<[batch, 1000], bf16>'
DISPATCH = """%i = layer.state() {axes = ["", ""]} at "i" : !layer.tensor<[batch, 4], i32>
    %y = dist.dispatch(%x, %i) {capacity = "worst", axis = "g"} at "c" : !layer.tensor<[2, batch*SIZE, 1000], bf16>"""


def module_of(op: str, ranks: int, size: int, stride: int = 1, topology: Topology = RING) -> ModuleOp:
    text = COLLECTIVE.replace("OP", op).replace("RANKS", str(ranks)).replace("SIZE", str(size))
    module = parse_module(text.replace("STRIDE", str(stride)), "test")
    module.attributes["arch.chip"] = ChipAttr(load_chip("sg2262"))
    module.attributes["arch.topology"] = TopologyAttr(topology)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    return module


def compiled(topology: Topology, **changes: Any) -> ModuleOp:
    target = (load_chip("sg2262"), topology, load_deployment("dsv3-decode-ep32", changes))
    return compile_model(load_model("deepseek-v3"), *target, "dist")


# -- wiring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("board", "neighbours"), [("ring", 2), ("full_mesh", 7)])
def test_chips_share_their_board_bandwidth_over_their_links(board: BoardWiring, neighbours: int) -> None:
    graph = Wiring(wired(RACK, board)).graph()
    for rank in range(32):
        own = [data for _, _, data in graph.out_edges(chip(rank), data=True)]
        board_links = [data["gb_per_s"] for data in own if data["level"] == "c2c"]
        assert len(board_links) == neighbours
        assert sum(board_links) == pytest.approx(400 * 0.95)
        assert [data["gb_per_s"] for data in own if data["level"] == "b2b"] == [450 * 0.95]
    assert {data["level"] for _, _, data in graph.edges(data=True)} == {"c2c", "b2b"}, "one rack needs no slower links"


def test_every_level_of_a_deep_topology_has_its_switches() -> None:
    graph = Wiring(wired(DEEP, "ring")).graph()
    switches = sorted(node for node in graph if "switch" in node)
    assert switches == [
        *(f"b2b switch {i}" for i in range(4)), "p2p switch 0", "r2r switch 0", "r2r switch 1",
    ]  # fmt: skip
    assert nx.is_strongly_connected(graph)


def test_a_path_uses_the_level_that_the_chips_span() -> None:
    wiring = Wiring(wired(DEEP, "ring"))
    assert wiring.paths(0, 1) == ((("chip 0", "chip 1"),),)
    assert len(wiring.paths(0, 2)) == 2, "two ways around a ring of four"
    assert wiring.paths(5, 7) == (
        (("chip 5", "chip 4"), ("chip 4", "chip 7")), (("chip 5", "chip 6"), ("chip 6", "chip 7")),
    )  # fmt: skip
    for other, middle in ((4, "b2b switch 0"), (8, "r2r switch 0"), (16, "p2p switch 0")):
        assert wiring.paths(0, other) == ((("chip 0", middle), (middle, f"chip {other}")),)
    graph = wiring.graph()
    assert all(
        graph.has_edge(*ends) for a in range(32) for b in range(32) if a != b for p in wiring.paths(a, b) for ends in p
    )


# -- placements by hand -----------------------------------------------------------------------------------------


def test_a_ring_on_a_ring_loads_every_link_alike() -> None:
    module = module_of(ALL_REDUCE, ranks=8, size=8)
    traffic = link_traffic(module, {"batch": 16})
    per_rank = 2 * 7 * 16 * 1000 * 2 // 8
    assert [link.bytes for link in traffic.links] == [per_rank / 2] * 16, "half in either direction"
    assert traffic.placed[0].hops == 1 and traffic.link_bytes == traffic.pattern.total_bytes == 8 * per_rank


@pytest.mark.parametrize("board", ["ring", "full_mesh"])
def test_a_ring_exchange_loads_the_links_to_the_next_chip_only(board: BoardWiring) -> None:
    module = module_of(RING_EXCHANGE, ranks=16, size=8, topology=wired(RACK, board))
    traffic = link_traffic(module, {"batch": 16})
    ways = {(f"chip {b + i}", f"chip {b + (i + 1) % 8}") for b in (0, 8) for i in range(8)}
    assert {(link.source, link.target) for link in traffic.links} == ways
    assert {link.bytes for link in traffic.links} == {16 * 1000 * 2}
    assert traffic.placed[0].hops == 1 and traffic.link_bytes == traffic.pattern.total_bytes == 16 * 16 * 2000
    collective = next(o for o in module.walk() if isinstance(o, dist.CollectiveOp))
    roofline = ChipCostModel(Target.of(module)).cost(collective, {"batch": 16})
    assert roofline is not None and traffic.busiest is not None
    # One of the 2 or 7 links of a chip carries all.
    links = {"ring": 2, "full_mesh": 7}[board]
    assert traffic.busiest.time_us * 0.95 == pytest.approx(links * 16 * 2000 / 400e9 * 1e6, rel=1e-12)
    assert traffic.busiest.time_us * 0.95 == pytest.approx(float(roofline.transfer_s) * 1e6, rel=1e-12)


def test_a_ring_exchange_across_boards_goes_through_the_switch_once() -> None:
    module = module_of(RING_EXCHANGE, ranks=32, size=4, stride=8)
    traffic = link_traffic(module, {"batch": 16})
    # Every chip sends up to the switch and receives from it: two hops, no link has two flows.
    assert {link.level for link in traffic.links} == {"b2b"} and len(traffic.links) == 64
    assert {link.bytes for link in traffic.links} == {16 * 1000 * 2}
    assert traffic.placed[0].hops == 2 and traffic.link_bytes == 2 * traffic.pattern.total_bytes


@pytest.mark.parametrize(("op", "board"), [(ALL_REDUCE, "ring"), (ALL_GATHER, "ring"), (DISPATCH, "full_mesh")])
def test_a_one_hop_placement_takes_as_long_as_the_roofline_says(op: str, board: BoardWiring) -> None:
    module = module_of(op, ranks=8, size=8, topology=wired(RACK, board))
    traffic = link_traffic(module, {"batch": 16})
    collective = next(o for o in module.walk() if isinstance(o, dist.CollectiveOp))
    roofline = ChipCostModel(Target.of(module)).cost(collective, {"batch": 16})
    assert roofline is not None and traffic.busiest is not None
    assert traffic.link_bytes == traffic.pattern.total_bytes, "bytes on links = bytes of the collectives"
    assert traffic.busiest.time_us * 0.95 == pytest.approx(float(roofline.transfer_s) * 1e6, rel=1e-12)


def test_an_exchange_on_a_ring_of_eight_makes_sixteen_sevenths_of_a_hop() -> None:
    traffic = link_traffic(module_of(DISPATCH, ranks=8, size=8), {"batch": 16})
    # Distances 1 1 2 2 3 3 4 to the seven others.
    assert traffic.placed[0].hops == pytest.approx(16 / 7, rel=1e-15)
    per_rank = 16 * 4 * 2000 * 7 // 8
    assert {link.bytes for link in traffic.links} == {per_rank * 16 / 7 / 2}
    assert (len(traffic.links), traffic.idle) == (16, 32 * 2 + 48), "other boards and the switch are idle"


def test_groups_across_boards_go_through_the_switch() -> None:
    traffic = link_traffic(module_of(ALL_REDUCE, ranks=32, size=4, stride=8), {"batch": 16})
    per_rank = 2 * 3 * 16 * 1000 * 2 // 4
    assert {link.level for link in traffic.links} == {"b2b"} and len(traffic.links) == 64
    assert {link.bytes for link in traffic.links} == {per_rank}
    assert traffic.placed[0].hops == 2


@pytest.mark.parametrize("op", [ALL_REDUCE, RING_EXCHANGE])
def test_a_pair_is_one_neighbour_not_two(op: str) -> None:
    traffic = link_traffic(module_of(op, ranks=2, size=2), {"batch": 16})
    assert [(link.source, link.target, link.bytes) for link in traffic.links] == [
        ("chip 0", "chip 1", 16 * 2000), ("chip 1", "chip 0", 16 * 2000),
    ]  # fmt: skip


@pytest.mark.parametrize("op", [ALL_REDUCE, RING_EXCHANGE])
def test_a_group_of_one_sends_nothing(op: str) -> None:
    traffic = link_traffic(module_of(op, ranks=2, size=1), {"batch": 16})
    assert traffic.links == () and traffic.busiest is None and traffic.notes() == ["nothing is sent"]


# -- conservation -----------------------------------------------------------------------------------------------

SPLITS: list[dict[str, Any]] = [
    {},
    {"tp": 2, "dp": 8, "ep": 4, "moe_tp": 4, "pp": 2},
    {"tp": 4, "dp": 2, "ep": 8, "pp": 4, "sp": True},
    {"tp": 2, "cp": 4, "dp": 2, "ep": 16, "pp": 2, "q_len": 4},
]


@pytest.mark.parametrize("topology", [RACK, DEEP], ids=["rack", "deep"])
@pytest.mark.parametrize("board", ["switch", "ring", "full_mesh"])
@pytest.mark.parametrize("split", SPLITS)
def test_bytes_on_links_are_bytes_times_hops(topology: Topology, board: BoardWiring, split: dict[str, Any]) -> None:
    topology = wired(topology, board)
    module = compiled(topology, **split)
    traffic, pattern = link_traffic(module), comm_pattern(module)
    mesh = Target.of(module).mesh
    assert mesh is not None
    wiring = Wiring(topology)
    distances: dict[tuple[int, int], int] = {}
    for level in LEVELS:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_edges_from((link.source, link.target) for link in wiring.links() if link.level == level)
        for a in range(mesh.ranks):
            for b in range(mesh.ranks):
                if a != b and topology.link_of_span((a, b)) == level:
                    distances[a, b] = min(len(path) for path in nx.all_shortest_paths(graph, chip(a), chip(b))) - 1
    expected = 0.0
    for c in pattern.collectives:
        sent = 0
        for step in c.steps:
            flows = list(flows_of(c, step, mesh))
            assert sum(part for _, _, part in flows) == c.senders, "every sender sends all of its bytes"
            size = step.bytes.evaluate(pattern.bindings) * step.rounds
            expected += sum(float(part) * distances[a, b] for a, b, part in flows) * size * c.count
            sent += size
        assert sent == c.bytes_per_rank
    assert traffic.link_bytes == pytest.approx(expected, rel=1e-12)
    assert sum(p.total_bytes * p.hops for p in traffic.placed) == pytest.approx(expected, rel=1e-12)
    assert all(p.hops >= 1 for p in traffic.placed)


def test_what_a_chip_sends_and_receives_balances() -> None:
    module = compiled(wired(RACK, "full_mesh"), **SPLITS[1])
    traffic = link_traffic(module)
    pattern = comm_pattern(module)
    sends = sum(c.total_bytes for c in pattern.collectives if c.kind == "send")
    out, back = (
        sum(link.bytes for link in traffic.links if getattr(link, end).startswith("chip"))
        for end in ("source", "target")
    )
    # Direct links, or up to a switch and down again: what leaves all chips reaches all chips.
    assert out == pytest.approx(back, rel=1e-12)
    assert out == pytest.approx(pattern.total_bytes, rel=1e-12) and sends > 0


def test_a_module_without_a_topology_is_refused() -> None:
    module = module_of(ALL_REDUCE, ranks=8, size=8)
    del module.attributes["arch.topology"]
    with pytest.raises(PmcError, match=r"^dist.all_reduce at 'c': the module has no attribute 'arch.topology'"):
        link_traffic(module, {"batch": 1})
    with pytest.raises(PmcError, match=r"^dist.all_reduce at 'c': symbol 'batch' of .* has no value"):
        link_traffic(module_of(ALL_REDUCE, ranks=8, size=8))
