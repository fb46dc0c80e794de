"""The load of the busiest expert-parallel rank, which decides how long the experts of a layer take.

A token chooses `top_k` different experts, each with a chance proportional to 1 / rank**zipf of its popularity (0 is
uniform); where an expert sits does not depend on its popularity.  Or a histogram says how many of all rows each expert
gets, and experts sit on the ranks in its order.  A router may limit the choice of a token to `top_groups` of `groups`
groups, which lie on the ranks in order: all sets of them equally likely, under a histogram each group as often as its
rows ask for (see `drawn_experts`).  Popular experts are then in any groups.

Expectations are means of seeded draws.  Few tokens are drawn one by one.  From `FEW_TOKENS` on,
the rows of an expert are normal with the mean and variance of that many tokens, conditioned on their sum, and an expert
is hit with the chance 1 - (1 - p)**tokens.  With groups, rows of one group vary together: as `_of_groups` says where
all experts are alike, else as they do among drawn tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pmc.dialects import deployment
from pmc.dialects.analyses.token_copies import RouterChoice, drawn_experts
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray

FEW_TOKENS = 256
DRAWS = 2000
"""Draws behind an expectation: the mean of the busiest rank is off by about 1 / 45 of its standard deviation."""
TOKEN_POOL = 8192
"""Tokens whose choices are drawn once, and from which draws of few tokens take theirs."""
CHOICES_AT_ONCE = 2**20
PLACES = 16
"""Ways in which experts of a Zipf law are dealt to groups: the load of a rank depends on who is in a group together."""
POINTS_PER_OCTAVE = 8
"""Numbers of tokens per factor of two at which expectations are drawn; between them they are interpolated."""


@dataclass(frozen=True)
class ExpertLoad:
    """Expectations over routings, as arrays of the shape of the numbers of tokens."""

    rows: FloatArray
    """Rows on the rank with the most rows."""
    mean_rows: FloatArray
    """Rows of a rank on average."""
    hit: FloatArray
    """Experts with any row on the rank with the most such experts; weights of the others are not read."""


@dataclass(frozen=True)
class Routing:
    """`experts` over `ranks`, of which a token chooses `top_k`.  Raises PmcError where these do not fit."""

    experts: int
    top_k: int
    ranks: int
    zipf: float = 0.0
    histogram: tuple[float, ...] | None = None
    """Rows of every expert in any unit, in place of the Zipf law."""
    groups: int = 1
    top_groups: int = 1

    @classmethod
    def of(cls, law: deployment.Routing, choice: RouterChoice, ranks: int) -> Routing:
        """The routing of a deployment, for what a router chooses from."""
        zipf = law.zipf if isinstance(law, deployment.Zipf) else 0.0
        histogram = law.histogram if isinstance(law, deployment.Histogram) else None
        return cls(choice.experts, choice.top_k, ranks, zipf, histogram, choice.groups, choice.top_groups)

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.experts % self.ranks:
            raise PmcError(f"{self.experts} experts cannot be dealt to {self.ranks} ranks evenly")
        if not 1 <= self.top_k <= self.experts:
            raise PmcError(f"top_k is {self.top_k}, must be in 1..{self.experts}")
        if self.experts % self.groups or self.top_k > self.open_experts:
            raise PmcError(
                f"a token cannot choose {self.top_k} of {self.experts} experts in {self.top_groups} of {self.groups} "
                "equal groups"
            )
        if not self.zipf >= 0:
            raise PmcError(f"the Zipf exponent is {self.zipf}, must be at least 0")
        if self.histogram is None:
            return
        if len(self.histogram) != self.experts:
            raise PmcError(
                f"the routing histogram has {len(self.histogram)} entries, the model {self.experts} routed experts"
            )
        most = max(self.histogram) / sum(self.histogram)
        if most * self.top_k > 1 + 1e-9:
            raise PmcError(
                f"expert {self.histogram.index(max(self.histogram))} of the routing histogram gets {most:.1%} of the "
                f"rows, must be at most {1 / self.top_k:.1%}: a token chooses {self.top_k} different experts"
            )

    @property
    def is_uniform(self) -> bool:
        """Whether all experts are alike."""
        return self.zipf == 0.0 and self.histogram is None

    @property
    def is_limited(self) -> bool:
        """Whether a token chooses from some of the groups only."""
        return self.top_groups < self.groups

    @property
    def places(self) -> int:
        """How many ways to deal experts to groups are drawn."""
        return PLACES if self.zipf and self.is_limited else 1

    @property
    def open_experts(self) -> int:
        """The experts that a token can choose from."""
        return self.experts // self.groups * self.top_groups

    def load(self, tokens: int | IntArray) -> ExpertLoad:
        """The load under so many tokens in all, over all ranks.  Raises PmcError for less than one token."""
        wanted = np.asarray(tokens, np.int64)
        if wanted.size and wanted.min() < 1:
            raise PmcError(f"the number of tokens is {wanted.min()}, must be at least 1")
        points = _around(wanted)
        drawn = np.asarray([_expected(self, int(t)) for t in points])
        mean_rows = wanted * self.top_k / self.ranks
        most = wanted * min(self.top_k, self.experts // self.ranks)
        rows = np.clip(np.interp(wanted, points, drawn[:, 0]), mean_rows, most)
        return ExpertLoad(np.asarray(rows), np.asarray(mean_rows), np.asarray(np.interp(wanted, points, drawn[:, 1])))


def _around(tokens: IntArray) -> IntArray:
    """The numbers of tokens, drawn for, next to any of `tokens`: a number that is drawn for needs no other."""
    wanted = np.unique(tokens)
    octaves = np.unique(np.frexp(wanted.astype(np.float64))[1] - 1)
    steps = np.arange(POINTS_PER_OCTAVE + 1) / POINTS_PER_OCTAVE
    points = np.unique(np.round(2.0 ** (octaves[:, None] + steps)).astype(np.int64))
    above = np.searchsorted(points, wanted)
    below = above - (points[above] != wanted)
    return np.unique(points[np.concatenate([below, above])])


@lru_cache(maxsize=4096)
def _expected(routing: Routing, tokens: int) -> tuple[float, float]:
    """Rows of the rank with most rows, and hit experts of the rank with most of them."""
    draw = _draw_few if tokens < FEW_TOKENS else _draw_many
    rows, hit = draw(routing, tokens, np.random.default_rng(tokens))
    by_rank = (len(rows), routing.ranks, routing.experts // routing.ranks)
    return (
        float(rows.reshape(by_rank).sum(axis=2).max(axis=1).mean()),
        float(hit.reshape(by_rank).sum(axis=2).max(axis=1).mean()),
    )


def _draw_few(routing: Routing, tokens: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Rows and hits [draw, expert] of tokens drawn one by one."""
    draws = min(DRAWS, max(1, CHOICES_AT_ONCE // (tokens * routing.top_k)))
    if routing.is_uniform and routing.top_k**2 <= 2 * routing.open_experts:
        choices = _uniform(routing, draws * tokens, random).reshape(draws, -1)
    else:
        pool = np.stack([_pool(routing, place) for place in range(routing.places)])
        place = np.arange(draws)[:, None] % routing.places
        choices = pool[place, random.integers(TOKEN_POOL, size=(draws, tokens))].reshape(draws, -1)
    cells = choices + np.arange(draws)[:, None] * routing.experts
    rows = np.bincount(cells.ravel(), minlength=draws * routing.experts).reshape(draws, routing.experts)
    return _placed(routing, rows.astype(np.float64), (rows > 0).astype(np.float64), random)


def _draw_many(routing: Routing, tokens: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Rows and hits [draw, expert] of so many tokens that the rows of an expert are normal."""
    normal = random.standard_normal((DRAWS, routing.experts))
    chance = np.stack([_chances(routing, place) for place in range(routing.places)])
    if routing.is_limited:
        chance = chance[np.arange(DRAWS) % routing.places]
        noise = np.sqrt(tokens) * (_of_groups if routing.is_uniform else _of_drawn)(routing, normal)
    else:
        variance = tokens * chance * (1.0 - chance)
        noise = np.sqrt(variance) * normal
        if variance.sum() > 0.0:  # tokens * top_k rows in all: what is too many goes where rows vary most
            noise -= noise.sum(axis=1, keepdims=True) * variance / variance.sum()
    rows = np.maximum(0.0, tokens * chance + noise)
    hit = random.random((DRAWS, routing.experts)) < 1.0 - (1.0 - chance) ** tokens
    return _placed(routing, rows, hit.astype(np.float64), random)


def _of_groups(routing: Routing, normal: FloatArray) -> FloatArray:
    """Standard normal [draw, expert] made to vary as the choices of one token with limited groups do.

    With E experts in G groups of s, g of them open with M = g s experts, two experts are both chosen with the chance
    P = k (k - 1) / (M (M - 1)) times g / G in one group, times g (g - 1) / (G (G - 1)) in two.  So their indicators
    have the covariance c_in or c_out, and the variance v = p (1 - p) with p = k / E.  That matrix has two eigenvalues
    besides 0 (of the sum of all, which is fixed): v - c_in of differences inside a group, and
    v + (s - 1) c_in - s c_out of differences between groups.
    """
    experts, groups, opened, k = routing.experts, routing.groups, routing.top_groups, routing.top_k
    size, pool, p = experts // groups, routing.open_experts, k / experts
    both = k * (k - 1) / (pool * (pool - 1)) if pool > 1 else 0.0
    c_in = both * opened / groups - p * p
    c_out = both * opened * (opened - 1) / (groups * (groups - 1)) - p * p
    v = p * (1 - p)
    of_groups = normal.reshape(len(normal), groups, size)
    mean = of_groups.mean(axis=2, keepdims=True)
    inside = np.sqrt(max(0.0, v - c_in)) * (of_groups - mean)
    between = np.sqrt(max(0.0, v + (size - 1) * c_in - size * c_out)) * (mean - mean.mean(axis=1, keepdims=True))
    return np.asarray((inside + between).reshape(normal.shape))


def _of_drawn(routing: Routing, normal: FloatArray) -> FloatArray:
    """Standard normal [draw, expert] made to vary as the choices of drawn tokens do.

    A token chooses as many experts as any other, so that the covariance has no part along the sum of all.
    """
    found = np.empty_like(normal)
    for place in range(routing.places):
        found[place :: routing.places] = normal[place :: routing.places] @ _deviations(routing, place)
    return found


@lru_cache(maxsize=64)
def _deviations(routing: Routing, place: int) -> FloatArray:
    """The square root of the covariance [expert, expert] of the choices of one token."""
    chosen = np.zeros((TOKEN_POOL, routing.experts))
    np.put_along_axis(chosen, _pool(routing, place), 1.0, axis=1)
    values, vectors = np.linalg.eigh(np.cov(chosen, rowvar=False))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T)


def _placed(
    routing: Routing, rows: FloatArray, hit: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Rows and hits with the experts on ranks regardless of their popularity; a histogram says where each is.

    Experts of one group stay together: groups change places, and experts in their group.
    """
    if routing.is_uniform or routing.histogram is not None:
        return rows, hit
    groups = routing.groups if routing.is_limited else 1
    size = routing.experts // groups
    places = random.permuted(np.tile(np.arange(size), (len(rows) * groups, 1)), axis=1).reshape(-1, groups, size)
    if groups > 1:
        order = random.permuted(np.tile(np.arange(groups), (len(rows), 1)), axis=1)
        places = places + order[:, :, None] * size
    flat = places.reshape(rows.shape)
    return np.take_along_axis(rows, flat, axis=1), np.take_along_axis(hit, flat, axis=1)


def _uniform(routing: Routing, tokens: int, random: np.random.Generator) -> IntArray:
    """Choices without replacement, all equally likely: those with a repetition are drawn again."""
    choices = random.integers(routing.open_experts, size=(tokens, routing.top_k))
    again = np.arange(tokens)
    while True:
        ordered = np.sort(choices[again], axis=1)
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
        if not len(again):
            break
        choices[again] = random.integers(routing.open_experts, size=(len(again), routing.top_k))
    if routing.top_groups == routing.groups:
        return choices
    size = routing.experts // routing.groups
    opened = _open_groups(routing, tokens, random)
    return np.take_along_axis(opened, choices // size, axis=1) * size + choices % size


def _open_groups(routing: Routing, tokens: int, random: np.random.Generator) -> IntArray:
    """The groups [token, top_groups] that each token may choose from."""
    keys = random.random((tokens, routing.groups))
    return np.argpartition(keys, routing.top_groups - 1, axis=1)[:, : routing.top_groups]


@lru_cache(maxsize=64)
def _pool(routing: Routing, place: int) -> IntArray:
    """The choices of many tokens, each without replacement.

    Under a Zipf law the largest top_k of log popularity plus Gumbel noise, of the groups that are open to the token;
    `place` numbers the ways in which experts of all popularities are dealt to groups.  Under a histogram a systematic
    sample of the experts in random order (Madow, 1949), which includes each with just its chance.
    """
    if routing.histogram is not None and routing.is_limited:
        choice = RouterChoice(routing.experts, routing.top_k, routing.groups, routing.top_groups)
        return drawn_experts(routing.histogram, choice, TOKEN_POOL, seed=0)
    random = np.random.default_rng(place)
    if routing.histogram is not None:
        order = random.permuted(np.tile(np.arange(routing.experts), (TOKEN_POOL, 1)), axis=1)
        ends = np.cumsum(_chances(routing, place)[order], axis=1)
        picks = random.random((TOKEN_POOL, 1)) + np.arange(routing.top_k)
        # The expert in whose interval a pick falls; rounding may put the end of the last one below a pick.
        places = np.minimum((ends[:, None, :] <= picks[:, :, None]).sum(axis=2), routing.experts - 1)
        return np.take_along_axis(order, places, axis=1)
    popularity = -routing.zipf * np.log(np.arange(1, routing.experts + 1))
    if routing.places > 1:
        popularity = random.permutation(popularity)
    keys = popularity + random.gumbel(size=(TOKEN_POOL, routing.experts))
    if routing.is_limited:
        opened = np.zeros((TOKEN_POOL, routing.groups), np.bool_)
        np.put_along_axis(opened, _open_groups(routing, TOKEN_POOL, random), True, axis=1)
        keys[~np.repeat(opened, routing.experts // routing.groups, axis=1)] = -np.inf
    return np.argpartition(keys, -routing.top_k, axis=1)[:, -routing.top_k :]


@lru_cache(maxsize=64)
def _chances(routing: Routing, place: int) -> FloatArray:
    """The chance of every expert to be among the choices of a token; `place` as in `_pool`."""
    if routing.histogram is not None:
        return routing.top_k * np.asarray(routing.histogram) / sum(routing.histogram)
    if routing.zipf == 0.0:
        return np.full(routing.experts, routing.top_k / routing.experts)
    return np.bincount(_pool(routing, place).ravel(), minlength=routing.experts) / TOKEN_POOL
