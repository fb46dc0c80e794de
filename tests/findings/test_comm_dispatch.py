"""Wrong numbers of dispatch and combine: how often a token is sent, over which links."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.analyses.comm_pattern import comm_pattern
from pmc.backends.evaluate.analyses.link_traffic import link_traffic
from pmc.backends.numeric import collectives, stepped
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects import deployment, dist
from pmc.dialects.analyses.token_copies import RouterChoice, drawn_experts, hit_chance, token_copies
from pmc.dialects.collective import PerNodeAttr
from pmc.dialects.dist import Axis
from pmc.dialects.errors import PmcError

NODES = load_topology("nvlink-8-ib-4")
DEEPSEEK = RouterChoice(256, 8, 8, 4)


def uniform_choices(choice: RouterChoice, tokens: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Open groups, then experts, all sets equally likely."""
    is_open = random.random((tokens, choice.groups)).argsort(axis=1).argsort(axis=1) < choice.top_groups
    keys = random.random((tokens, choice.experts)) + ~np.repeat(is_open, choice.experts // choice.groups, axis=1)
    return keys.argsort(axis=1)[:, : choice.top_k]


def program(tokens_per_rank: int = 16384, **changes: Any) -> ModuleOp:
    lengths = {"batch": 32 * tokens_per_rank // 4096, "q_len": 4096, "kv_len": 4096}
    deployed = load_deployment("dsv3-prefill-ep32", {**lengths, "dispatch": "per_node", **changes})
    return compile_model(load_model("deepseek-v3"), load_chip("h100-sxm"), NODES, deployed, "dist")


@pytest.mark.parametrize(
    "choice", [DEEPSEEK, RouterChoice(256, 8, 1, 1), RouterChoice(48, 3, 4, 2), RouterChoice(24, 5, 3, 2)]
)
def test_n10_expected_copies_are_those_of_monte_carlo(choice: RouterChoice) -> None:
    ranks, per_node = (32, 8) if choice.experts == 256 else (4, 2)
    chosen = uniform_choices(choice, 20000, np.random.default_rng(1)) // (choice.experts // ranks)
    found = token_copies("uniform", choice, ranks, per_node)
    on_ranks = np.mean([len(set(row)) for row in chosen.tolist()])
    on_nodes = np.mean([len(set(row)) for row in (chosen // per_node).tolist()])
    nodes = ranks // per_node
    assert found.ranks == pytest.approx(on_ranks * (ranks - 1) / ranks, rel=0.01)
    assert found.nodes == pytest.approx(on_nodes * (nodes - 1) / nodes, rel=0.01)
    assert found.in_nodes == pytest.approx(on_ranks * (per_node - 1) / per_node, rel=0.01)


def test_n10_the_chance_of_a_hit_is_a_count_of_sets() -> None:
    """8 experts in 4 groups, 2 groups open, 3 experts: all choices counted, for blocks across groups too."""
    choice = RouterChoice(8, 3, 4, 2)
    sets = [
        chosen
        for groups in itertools.combinations(range(4), 2)
        for chosen in itertools.combinations([e for g in groups for e in (2 * g, 2 * g + 1)], 3)
    ]
    for first, count in itertools.product(range(8), range(1, 5)):
        block = set(range(first, min(8, first + count)))
        hits = sum(not block.isdisjoint(chosen) for chosen in sets)
        assert hit_chance(choice, first, min(count, 8 - first)) * len(sets) == hits


def test_n10_a_token_of_deepseek_crosses_to_two_of_three_nodes() -> None:
    found = token_copies("uniform", DEEPSEEK, 32, 8)
    assert found.nodes == pytest.approx(2.20, abs=0.005)
    assert token_copies("uniform", RouterChoice(256, 8, 1, 1), 32, 8).nodes == pytest.approx(2.71, abs=0.005)
    assert token_copies(deployment.Zipf(zipf=1.2), DEEPSEEK, 32, 8) == found, "popular experts may be anywhere"


def test_n10_a_histogram_is_drawn_as_it_says() -> None:
    rows = 1.0 / (1.0 + np.arange(256)) ** 0.3
    chosen = drawn_experts(tuple(rows), DEEPSEEK, 8192, seed=3)
    assert all(len(set(row)) == 8 and len({e // 32 for e in row}) <= 4 for row in chosen[:500].tolist())
    often = np.bincount(chosen.ravel(), minlength=256) / 8192
    assert np.abs(often - 8 * rows / rows.sum()).max() < 0.02
    flat = token_copies(deployment.Histogram(histogram=(1.0,) * 256), DEEPSEEK, 32, 8)
    assert flat.nodes == pytest.approx(token_copies("uniform", DEEPSEEK, 32, 8).nodes, rel=0.01)
    hot = tuple([100.0, *[1.0] * 255])
    with pytest.raises(PmcError, match="expert 0 of the routing histogram is chosen by"):
        drawn_experts(hot, RouterChoice(256, 8, 8, 1), 10, seed=0)


def test_n10_dispatch_of_deepseek_prefill_on_four_nodes() -> None:
    """58 layers, 16384 tokens, 2.196 nodes, 7168 elements of 1 byte there and 2 bytes back, over 50 GB/s: 0.898 s."""
    wire_s = 58 * 16384 * 2.196157 * 7168 * 3 / 50e9
    assert wire_s == pytest.approx(0.90, abs=0.005)
    module = program()
    steps = [s for s in evaluate_module(module, "chip").steps if s.op in ("dist.dispatch", "dist.combine")]
    chip_s = sum(step.comm_us for step in steps) * 1e-6
    assert chip_s == pytest.approx(wire_s, rel=0.02), "the busiest rank has hardly more than the mean"
    busiest = link_traffic(module).links
    b2b_us = max(link.time_us for link in busiest if link.level == "b2b")
    assert b2b_us * 1e-6 == pytest.approx(wire_s / 0.8, rel=1e-3)


def test_n10_every_way_of_sending_says_the_same_bytes_everywhere() -> None:
    sent: dict[str, int] = {}
    for way in ("direct", "per_rank", "per_node"):
        module = program(dispatch=way)
        rows = [c for c in comm_pattern(module).collectives if c.kind == "dispatch"]
        (collective,) = rows
        sent[way] = collective.bytes_per_rank
        result = evaluate_module(module, "core")
        (step,) = (s for s in result.steps if s.op == "dist.dispatch")
        assert step.link_bytes == collective.bytes_per_rank * collective.count
        assert sum(s.bytes.evaluate(dict(result.bindings)) for s in collective.steps) == collective.bytes_per_rank
    tokens = 16384 * 7168
    copies = token_copies("uniform", DEEPSEEK, 32, 8)
    expected = {"direct": 7.75, "per_rank": copies.ranks, "per_node": copies.nodes + copies.in_nodes}
    assert {way: n / tokens for way, n in sent.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per_node", [1, 2, 4])
def test_n10_tokens_that_are_sent_once_arrive_where_they_should(per_node: int) -> None:
    """As many messages as expected, and the values of a row for every choice."""
    random, axis, choice = np.random.default_rng(0), Axis("ep", 8, 1), RouterChoice(32, 4, 8, 3)
    tokens, groups = 250, [tuple(range(8))]
    x = {rank: random.standard_normal((tokens, 3)) for rank in range(8)}
    indices = {rank: uniform_choices(choice, tokens, random) for rank in range(8)}
    weights = {rank: random.random((tokens, 4)) for rank in range(8)}
    slots = stepped.dispatch(x, indices, groups, (4, 2000), per_node)
    plain = collectives.dispatch(x, indices, axis, 4, 2000)
    assert all(np.array_equal(slots[rank], plain[rank]) for rank in range(8))
    back = stepped.combine(slots, indices, weights, groups, per_node)
    expected = collectives.combine(slots, indices, weights, axis)
    assert all(np.allclose(back[rank], expected[rank], rtol=1e-12) for rank in range(8))
    messages = stepped.token_messages([indices[rank] for rank in range(8)], 4, per_node)
    across = sum(m.source // per_node != m.target // per_node for m in messages) / (8 * tokens)
    copies = token_copies("uniform", choice, 8, per_node)
    assert across == pytest.approx(copies.nodes, rel=0.02)
    assert len(messages) / (8 * tokens) - across == pytest.approx(copies.in_nodes, rel=0.02, abs=1e-9)


def test_n10_what_is_expected_stands_in_the_program() -> None:
    (op,) = (op for op in program().walk() if isinstance(op, dist.DispatchOp))
    copies = token_copies("uniform", DEEPSEEK, 32, 8)
    assert op.algorithm == PerNodeAttr.of(8, copies.nodes, copies.in_nodes)


def test_n10_nodes_that_a_group_does_not_fill_are_refused() -> None:
    boards = NODES.model_copy(update={"chips_per_board": 6})
    deployed = load_deployment("dsv3-prefill-ep32", {"dp": 16, "ep": 16, "batch": 16, "dispatch": "per_node"})
    with pytest.raises(PmcError, match="the 16 ranks of a group along 'ep' are not dealt to boards of 6 chips evenly"):
        compile_model(load_model("deepseek-v3"), load_chip("h100-sxm"), boards, deployed, "dist")
