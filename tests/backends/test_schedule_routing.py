"""The busiest rank: expectations against published draws and exact enumeration, and what they do to costs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.routing import Routing
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.analyses.token_copies import RouterChoice
from pmc.dialects.deployment import Histogram, Zipf
from pmc.dialects.errors import PmcError

# Expected distinct experts hit on the busiest of ep ranks, uniform top 8 of 256, 10 000 draws (Tier6-Model).
EP = (1, 2, 4, 8, 16, 32, 64)
PUBLISHED = {
    4: (30.51, 17.34, 10.37, 6.58, 4.45, 3.18, 2.33),
    16: (101.98, 54.10, 29.54, 16.71, 9.87, 6.06, 3.81),
    64: (222.42, 113.35, 58.33, 30.30, 15.84, 8, 4),
    256: (255.93, 128.00, 64, 32, 16, 8, 4),
}


@pytest.mark.parametrize("tokens", PUBLISHED)
def test_the_published_table(tokens: int) -> None:
    found = [float(Routing(256, 8, ep).load(tokens).hit) for ep in EP]
    # The counts vary by at most about 4 between draws: 3 standard errors of our 2000 draws are below 0.27, and of the
    # narrow distributions at many ranks (deviation about 1) below 0.1.
    for value, published, ep in zip(found, PUBLISHED[tokens], EP, strict=True):
        assert value == pytest.approx(published, abs=0.27 if ep < 4 else 0.1)


def test_small_cases_against_all_routings() -> None:
    for experts, top_k, ranks, tokens in ((4, 1, 2, 3), (4, 2, 2, 2), (6, 2, 3, 2)):
        choices = list(itertools.combinations(range(experts), top_k))
        rows: list[int] = []
        hits: list[int] = []
        for routing in itertools.product(choices, repeat=tokens):
            counts = np.bincount([e for choice in routing for e in choice], minlength=experts).reshape(ranks, -1)
            rows.append(int(counts.sum(axis=1).max()))
            hits.append(int((counts > 0).sum(axis=1).max()))
        load = Routing(experts, top_k, ranks).load(tokens)
        assert float(load.rows) == pytest.approx(np.mean(rows), abs=0.06)
        assert float(load.hit) == pytest.approx(np.mean(hits), abs=0.06)


@pytest.mark.parametrize(("experts", "top_k", "groups", "top_groups", "ranks", "tokens"), [
    (4, 1, 2, 1, 2, 3), (4, 2, 2, 1, 2, 2), (8, 2, 4, 2, 2, 2), (6, 3, 3, 2, 3, 2),
])  # fmt: skip
def test_small_cases_with_groups_against_all_routings(
    experts: int, top_k: int, groups: int, top_groups: int, ranks: int, tokens: int
) -> None:
    """A token opens groups, all sets alike, and chooses in them, all sets alike."""
    size = experts // groups
    choices = [
        choice
        for opened in itertools.combinations(range(groups), top_groups)
        for choice in itertools.combinations([e for e in range(experts) if e // size in opened], top_k)
    ]
    rows: list[int] = []
    hits: list[int] = []
    for routing in itertools.product(choices, repeat=tokens):
        counts = np.bincount([e for choice in routing for e in choice], minlength=experts).reshape(ranks, -1)
        rows.append(int(counts.sum(axis=1).max()))
        hits.append(int((counts > 0).sum(axis=1).max()))
    load = Routing(experts, top_k, ranks, groups=groups, top_groups=top_groups).load(tokens)
    assert float(load.rows) == pytest.approx(np.mean(rows), abs=0.06)
    assert float(load.hit) == pytest.approx(np.mean(hits), abs=0.06)


def test_groups_make_the_busiest_rank_busier() -> None:
    """DeepSeek-V3: 4 of 8 groups.  Many tokens are normal, with the covariance of one token; few are drawn."""
    free, limited = (Routing(256, 8, 32, groups=8, top_groups=g) for g in (8, 4))
    for tokens in (16, 128, 2048, 10**5):
        assert float(limited.load(tokens).rows) > float(free.load(tokens).rows)
    few, many = (float(limited.load(tokens).rows) for tokens in (255, 256))
    assert few == pytest.approx(many, rel=0.03)
    # Two groups of one expert each: the rows of a rank are binomial, and their mean distance from n / 2 is
    # sqrt(n / (2 pi)) for large n.
    coin = Routing(2, 1, 2, groups=2, top_groups=1).load(10000)
    assert float(coin.rows) - 5000 == pytest.approx(math.sqrt(10000 / (2 * math.pi)), rel=0.05)
    with pytest.raises(PmcError, match="a token cannot choose 5 of 8 experts in 1 of 2 equal groups"):
        Routing(8, 5, 2, groups=2, top_groups=1)


@pytest.mark.parametrize(("experts", "top_k", "groups", "top_groups", "ranks", "tokens", "zipf"), [
    (4, 1, 2, 1, 2, 3, 1.5), (4, 2, 2, 1, 2, 2, 1.0), (6, 2, 3, 2, 3, 2, 2.0), (6, 2, 3, 1, 6, 3, 1.0),
])  # fmt: skip
def test_popular_experts_with_groups_against_all_places_and_routings(
    experts: int, top_k: int, groups: int, top_groups: int, ranks: int, tokens: int, zipf: float
) -> None:
    """Popular experts are in any groups; a token opens groups, all sets alike, and chooses in them by popularity."""
    size = experts // groups
    opened_sets = list(itertools.combinations(range(groups), top_groups))
    rows = hits = 0.0
    places = list(itertools.permutations([1 / rank**zipf for rank in range(1, experts + 1)]))
    for popularity in places:
        chances: dict[tuple[int, ...], float] = {}
        for opened in opened_sets:
            inside = [e for e in range(experts) if e // size in opened]
            for order in itertools.permutations(inside, top_k):
                chance, left = 1 / len(opened_sets), sum(popularity[e] for e in inside)
                for e in order:
                    chance *= popularity[e] / left
                    left -= popularity[e]
                key = tuple(sorted(order))
                chances[key] = chances.get(key, 0.0) + chance
        for routing in itertools.combinations_with_replacement(chances, tokens):
            # So many orders of the tokens have the same choices.
            ways = math.factorial(tokens) / math.prod(math.factorial(routing.count(c)) for c in set(routing))
            chance = ways * math.prod(chances[choice] for choice in routing) / len(places)
            counts = np.bincount([e for choice in routing for e in choice], minlength=experts).reshape(ranks, -1)
            rows += chance * int(counts.sum(axis=1).max())
            hits += chance * int((counts > 0).sum(axis=1).max())
    choice = RouterChoice(experts, top_k, groups, top_groups)
    load = Routing.of(Zipf(zipf=zipf), choice, ranks).load(tokens)
    assert float(load.rows) == pytest.approx(rows, abs=0.06)
    assert float(load.hit) == pytest.approx(hits, abs=0.06)


@pytest.mark.parametrize("tokens", [1, 5, 200, 10000])
def test_a_histogram_with_groups_opens_them_as_its_rows_ask_for(tokens: int) -> None:
    """Both experts of the one open group are chosen: rank 0 has twice a binomial number of rows, rank 1 the rest."""
    choice = RouterChoice(4, 2, 2, 1)
    load = Routing.of(Histogram(histogram=(51.0, 51.0, 49.0, 49.0)), choice, 2).load(tokens)
    logs = [
        math.lgamma(tokens + 1) - math.lgamma(n + 1) - math.lgamma(tokens - n + 1)
        + n * math.log(0.51) + (tokens - n) * math.log(0.49)
        for n in range(tokens + 1)
    ]  # fmt: skip
    most = sum(math.exp(log) * 2 * max(n, tokens - n) for n, log in enumerate(logs))
    deviation = 2 * math.sqrt(0.25 * tokens)
    assert float(load.rows) == pytest.approx(most, abs=0.07 * deviation)
    assert float(load.hit) == 2.0


def test_popularity_under_limited_groups() -> None:
    """DeepSeek-V3: 4 of 8 groups.  A token that meets fewer ranks makes one of them busier; few and many meet."""
    choices = [RouterChoice(256, 8, 8, opened) for opened in (8, 4)]
    histogram = Histogram(histogram=tuple(1.0 + (e % 16 == 0) for e in range(256)))
    for law in (Zipf(zipf=0.8), histogram):
        free, limited = (Routing.of(law, choice, 32) for choice in choices)
        assert float(limited.load(4).hit) > float(free.load(4).hit) + 0.1
        few, many = (float(limited.load(tokens).rows) for tokens in (255, 256))
        assert few == pytest.approx(many, rel=0.03)
    assert float(Routing.of(Zipf(zipf=0.0), choices[1], 32).load(2048).rows) == pytest.approx(
        float(Routing(256, 8, 32, groups=8, top_groups=4).load(2048).rows)
    )
    # An expert can be chosen no more often than its group is open.
    often = Histogram(histogram=(1.0, *(0.04 for _ in range(255))))
    with pytest.raises(PmcError, match=r"expert 0 of the routing histogram is chosen by 71.4% of the tokens"):
        Routing.of(often, RouterChoice(256, 8, 8, 1), 32).load(100)


def test_few_and_many_tokens_meet() -> None:
    # 255 tokens are drawn one by one, 256 are normal.
    for zipf, ranks in itertools.product((0.0, 0.8), (2, 32)):
        few, many = (Routing(256, 8, ranks, zipf).load(tokens) for tokens in (255, 256))
        assert float(few.rows) == pytest.approx(float(many.rows), rel=0.03)
        assert float(few.hit) == pytest.approx(float(many.hit), rel=0.01)


def test_limits() -> None:
    tokens = np.array([1, 2, 5, 30, 100, 300, 2048, 10**6])
    one_rank = Routing(256, 8, 1).load(tokens)
    assert one_rank.rows == pytest.approx(tokens * 8, rel=1e-9) and one_rank.hit[0] == 8
    spread = Routing(256, 8, 32).load(tokens)
    assert (spread.rows >= spread.mean_rows).all() and (np.diff(spread.rows / spread.mean_rows) < 0).all()
    assert (np.diff(spread.hit) >= 0).all() and spread.hit[-1] == 8
    assert spread.rows[-1] == pytest.approx(spread.mean_rows[-1], rel=0.01)
    # Popular experts make their rank busier; an exponent of 0 is uniform.
    steep = [float(Routing(256, 8, 32, zipf).load(512).rows) for zipf in (0.0, 0.5, 1.0, 1.5)]
    assert steep == sorted(steep) and steep[-1] > 2 * steep[0]
    assert float(Routing(8, 8, 4).load(100).rows) == 200.0, "with all experts chosen nothing varies"


def test_a_histogram_gives_every_expert_its_rows_on_its_rank() -> None:
    rows = (6.0, 1.0, 3.0, 2.0, 4.0, 0.0, 5.0, 3.0)
    ranks = Routing(8, 2, 4, histogram=rows)
    # Of 24 rows the four ranks get 7, 5, 4 and 8: in the long run 8/24 of two rows a token are on the busiest.
    assert float(ranks.load(10**7).rows) == pytest.approx(2e7 * 8 / 24, rel=1e-3)
    assert float(ranks.load(10**7).hit) == 2.0, "rank 2 never sees its expert 5, the others both of theirs"
    # 255 tokens are drawn one by one, with the same chances: 510 * 8/24 = 170 rows on rank 3, which is nearly always
    # the busiest, as rank 0 has 149 with a deviation of 8.
    few, many = (float(ranks.load(tokens).rows) for tokens in (255, 256))
    assert few == pytest.approx(many, rel=0.01) and few == pytest.approx(170.5, rel=0.01)
    # One token on two experts of which one gets half of all rows: it is always among the two.
    certain = Routing(4, 2, 2, histogram=(3.0, 1.0, 1.0, 1.0)).load(1)
    assert float(certain.rows) == pytest.approx(1 + 1 / 3, abs=0.05), "with expert 1 in one of three draws"


def test_an_even_histogram_is_uniform() -> None:
    for tokens in (4, 64, 255, 4096):
        even, uniform = (Routing(64, 4, 8, histogram=h).load(tokens) for h in ((7.0,) * 64, None))
        assert float(even.rows) == pytest.approx(float(uniform.rows), rel=0.02)
        assert float(even.hit) == pytest.approx(float(uniform.hit), rel=0.02)


def test_the_busiest_rank_of_a_histogram_costs_what_it_carries() -> None:
    """Dispatch at chip level is bound by rows: the busiest rank has 2.5 times as many as in an even histogram."""
    rows = np.ones(256)
    rows[8:16] = 2.5 * 248 / (256 - 2.5 * 8)  # so that the eight experts of rank 1 get 2.5 * 8/256 of all rows
    times: list[float] = []
    for law in ([1.0] * 256, [float(r) for r in rows]):
        deployment = load_deployment("dsv3-decode-ep32", {"routing": {"histogram": law}, "batch": 2**20})
        module = compile_model(
            load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment, "dist"
        )
        steps = evaluate_module(module).steps
        times.append(next(s.comm_us for s in steps if s.op == "dist.dispatch"))
    assert times[1] / times[0] == pytest.approx(2.5, rel=0.02)


def test_arrays_give_what_their_points_give_and_draws_are_seeded() -> None:
    tokens = np.array([[3, 77], [255, 5000]])
    found = Routing(256, 8, 16, 0.6).load(tokens)
    for index in np.ndindex(2, 2):
        point = Routing(256, 8, 16, 0.6).load(int(tokens[index]))
        assert (found.rows[index], found.hit[index]) == (float(point.rows), float(point.hit))


def test_weights_of_experts_that_are_not_hit_are_not_read() -> None:
    module_ = compile_model(
        load_model("deepseek-v3"),
        load_chip("sg2262"),
        load_topology("p1-r1-b4-c32"),
        load_deployment("dsv3-decode-ep32", {"batch": 1, "dp": 32, "ep": 32}),
        "dist",
    )
    rows = {row.path: row for row in evaluate_module(module_, "chip").steps}
    expert = 7168 * 2048
    read = rows["blocks.moe.moe.experts.gate_proj"].bytes_read / 58
    hit = float(Routing(256, 8, 32, groups=8, top_groups=4).load(1).hit)
    assert read == pytest.approx(hit * expert, rel=0.001)
    # A token with four groups of eight meets 16 ranks and not 32, with more of its experts on each.
    limited, free = (most_on_a_rank(8, ranks, 8) for ranks in (16, 32))
    assert limited > free + 0.2
    assert hit == pytest.approx(limited, abs=0.05)
    assert float(Routing(256, 8, 32).load(1).hit) == pytest.approx(free, abs=0.05)


def most_on_a_rank(chosen: int, ranks: int, of_rank: int) -> float:
    """The mean of the most that any of some ranks holds of so many chosen experts, all sets of them equally likely.

    Sets of k with at most m on each of R ranks of s experts are counted by the coefficient of x**k in
    (sum over a <= m of C(s, a) x**a)**R.
    """

    def at_most(most: int) -> int:
        counts = [1] + [0] * chosen
        for _ in range(ranks):
            counts = [
                sum(counts[k - a] * math.comb(of_rank, a) for a in range(min(k, most) + 1)) for k in range(chosen + 1)
            ]
        return counts[chosen]

    return sum(1 - at_most(most) / math.comb(ranks * of_rank, chosen) for most in range(chosen))


def test_the_busiest_rank_decides_times_but_not_flops() -> None:
    accounting = load_accounting("physical")
    balanced = accounting.model_copy(update={"expert_load": "balanced"})
    module, other = (
        compile_model(
            load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"),
            load_deployment("dsv3-decode-ep32"), "dist", accounting=charged,
        )
        for charged in (accounting, balanced)
    )  # fmt: skip
    load = Routing(256, 8, 32, groups=8, top_groups=4).load(2048)
    for level in ("chip", "core", "tile"):
        busy, even = (evaluate_module(m, level) for m in (module, other))
        assert busy.total_flops == even.total_flops and busy.total_link_bytes == even.total_link_bytes
        for a, b in zip(busy.steps, even.steps, strict=True):
            if ".experts." in a.path or a.path.endswith((".dispatch", ".combine")):
                assert a.time_us > b.time_us
            else:
                assert a == b or a.time_us == b.time_us
    by_path = {row.path: row for row in evaluate_module(module, "chip").steps}
    dispatch = by_path["blocks.moe.moe.dispatch"]
    sent = dispatch.link_bytes * float(load.rows / load.mean_rows)
    assert dispatch.time_us == pytest.approx(sent / 450e9 * 1e6, rel=1e-9)
    gate = by_path["blocks.moe.moe.experts.gate_proj"]
    rows = np.ceil(float(load.rows) / 8) * 8  # whole rows of each of the 8 experts
    assert gate.compute_us / 58 == pytest.approx(2 * rows * 7168 * 2048 / 786.432e12 * 1e6, rel=1e-9)


def test_capacity_is_room_and_does_not_change_the_load() -> None:
    results = [
        evaluate_module(
            compile_model(
                load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"),
                load_deployment("dsv3-decode-ep32", {"expert_capacity": capacity}), "dist",
            ),
            "core",
        )
        for capacity in ("balanced", "worst")
    ]  # fmt: skip
    assert results[0].total_us == pytest.approx(results[1].total_us, rel=1e-12)
    assert results[0].total_flops == pytest.approx(results[1].total_flops, rel=1e-9)


def test_a_histogram_that_no_routing_gives() -> None:
    with pytest.raises(PmcError, match="the routing histogram has 3 entries, the model 4 routed experts"):
        Routing(4, 2, 2, histogram=(1.0, 1.0, 1.0))
    with pytest.raises(
        PmcError, match=r"expert 1 of the routing histogram gets 60.0% of the rows, must be at most 50.0"
    ):
        Routing(4, 2, 2, histogram=(2.0, 6.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("arguments", "tokens", "message"),
    [
        ((256, 8, 3), 1, "256 experts cannot be dealt to 3 ranks evenly"),
        ((8, 9, 1), 1, "top_k is 9, must be in 1..8"),
        ((8, 2, 1, -0.1), 1, "the Zipf exponent is -0.1, must be at least 0"),
        ((8, 2, 1), 0, "the number of tokens is 0, must be at least 1"),
    ],
)
def test_bad_input(arguments: tuple[int, int, int], tokens: int, message: str) -> None:
    with pytest.raises(PmcError) as caught:
        Routing(*arguments).load(tokens)
    assert str(caught.value) == message
