"""To how many ranks and nodes a token goes that is sent once to each which holds any of its experts.

Experts are dealt to ranks in order, e // (experts of a rank), and ranks to nodes.  A router that limits its choice to
`top_groups` of `groups` groups of experts (DeepSeek-V3 report, section 2.1.2) opens that many groups and chooses
`top_k` experts among theirs.

Uniform routing: all sets of open groups are equally likely, and then all sets of k of the m experts in them.  A set of
b experts, u of which are open, is missed with the chance C(m - u, k) / C(m, k), so that

    P(hit) = 1 - sum_u P(u) C(m - u, k) / C(m, k),      P(u) by counting the sets of open groups.

A Zipf law puts the popular experts anywhere: over all places the experts of one token are as likely to be any k, and
the expectation is that of uniform routing.  A histogram fixes the place of every expert; its expectation is a mean of
seeded draws in which every expert is chosen as often as the histogram says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np

from pmc.dialects import deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray

DRAWS = 8192
"""Tokens drawn behind an expectation over a histogram: a chance is off by at most 1 / 181 (one standard deviation)."""


@dataclass(frozen=True)
class RouterChoice:
    """What a router chooses from: `top_k` of `experts`, in `top_groups` of `groups` groups of as many experts each."""

    experts: int
    top_k: int
    groups: int
    top_groups: int

    @property
    def open_experts(self) -> int:
        """The experts that a token can choose from."""
        return self.experts // self.groups * self.top_groups


@dataclass(frozen=True)
class TokenCopies:
    """Expected numbers for one token, over all ranks that it may be on."""

    ranks: float
    """Other ranks that hold any of its experts."""
    nodes: float
    """Other nodes that do."""
    in_nodes: float
    """Ranks that do, of its own and of other nodes, but for those in its own place of a node, where it lands."""


def token_copies(law: deployment.Routing, choice: RouterChoice, ranks: int, per_node: int) -> TokenCopies:
    """The copies of a token among `ranks` ranks, of which `per_node` are on a node.

    Tokens are on all ranks alike: of what n ranks hold, 1/n is on its own.  Raises PmcError where the experts cannot be
    dealt to the ranks, the ranks to the nodes, or a histogram does not fit.
    """
    if choice.experts % ranks or ranks % per_node:
        raise PmcError(f"{choice.experts} experts cannot be dealt to {ranks} ranks with {per_node} on a node evenly")
    nodes, of_rank = ranks // per_node, choice.experts // ranks
    if isinstance(law, deployment.Histogram):
        chosen = drawn_experts(law.histogram, choice, DRAWS, seed=0) // of_rank
        on_ranks, on_nodes = _distinct(chosen, ranks), _distinct(chosen // per_node, nodes)
    else:
        on_ranks, on_nodes = (
            float(sum(hit_chance(choice, part * size, size) for part in range(parts)))
            for parts, size in ((ranks, of_rank), (nodes, of_rank * per_node))
        )
    return TokenCopies(
        on_ranks * (ranks - 1) / ranks, on_nodes * (nodes - 1) / nodes, on_ranks * (per_node - 1) / per_node
    )


@lru_cache(maxsize=4096)
def hit_chance(choice: RouterChoice, first: int, count: int) -> Fraction:
    """The chance that a token chooses any of `count` experts from `first` on, under uniform routing."""
    size = choice.experts // choice.groups
    overlaps = Counter(
        max(0, min(first + count, (group + 1) * size) - max(first, group * size)) for group in range(choice.groups)
    )
    ways = {(0, 0): 1}
    """Of sets of open groups, by how many they are and how many of the experts are in them."""
    for overlap, number in overlaps.items():
        found: Counter[tuple[int, int]] = Counter()
        for (opened, inside), so_far in ways.items():
            for more in range(min(number, choice.top_groups - opened) + 1):
                found[opened + more, inside + more * overlap] += so_far * comb(number, more)
        ways = found
    pool, k = choice.open_experts, choice.top_k
    missed = sum(n * comb(pool - inside, k) for (opened, inside), n in ways.items() if opened == choice.top_groups)
    return 1 - Fraction(missed, comb(choice.groups, choice.top_groups) * comb(pool, k))


def drawn_experts(histogram: Sequence[float], choice: RouterChoice, tokens: int, seed: int) -> IntArray:
    """The experts [tokens, top_k] that tokens choose, each expert as often as a histogram of rows says.

    Systematic samples in random order (Madow, 1949) include each of their items with just its chance: first groups,
    each with a chance in proportion to its rows (1 where that is more, the others in proportion to what is left), then
    experts of the open groups.  An open group then expects rows / chance experts, which add up to top_k whichever
    groups are open.  Raises PmcError for a histogram in which an expert is chosen more often than its group is open.
    """
    if len(histogram) != choice.experts:
        raise PmcError(f"the routing histogram has {len(histogram)} entries, the model {choice.experts} routed experts")
    random = np.random.default_rng(seed)
    chance = choice.top_k * np.asarray(histogram, np.float64) / sum(histogram)
    opened = _open_chances(chance.reshape(choice.groups, -1).sum(axis=1), choice.top_groups)
    of_group = np.repeat(opened, choice.experts // choice.groups)
    worst = int(np.argmax(chance - of_group))
    if chance[worst] > of_group[worst] * (1 + 1e-9):
        raise PmcError(
            f"expert {worst} of the routing histogram is chosen by {chance[worst]:.1%} of the tokens, its group is "
            f"open to at most {of_group[worst]:.1%}: a token chooses {choice.top_k} experts in {choice.top_groups} of "
            f"{choice.groups} groups"
        )
    groups = _systematic(np.tile(opened, (tokens, 1)), choice.top_groups, random)
    is_open = np.zeros((tokens, choice.groups))
    np.put_along_axis(is_open, groups, 1.0, axis=1)
    given_open = np.divide(chance, of_group, out=np.zeros_like(chance), where=of_group > 0)
    inside = np.repeat(is_open, choice.experts // choice.groups, axis=1) * given_open
    return _systematic(inside, choice.top_k, random)


def _open_chances(rows: FloatArray, top_groups: int) -> FloatArray:
    """The chance of every group to be open: `top_groups` in all, in proportion to its rows, at most 1."""
    always = np.zeros(len(rows), np.bool_)
    while True:
        left = rows[~always].sum()
        scale = (top_groups - always.sum()) / left if left > 0 else 0.0
        found = np.where(always, 1.0, np.minimum(rows * scale, np.inf))
        more = ~always & (found > 1.0)
        if not more.any():
            return found
        always |= more


def _systematic(chances: FloatArray, count: int, random: np.random.Generator) -> IntArray:
    """`count` items of every row, each with its chance; the chances of a row add up to `count`."""
    order: IntArray = random.random(chances.shape).argsort(axis=1)
    ordered: FloatArray = np.take_along_axis(chances, order, axis=1)
    ends: FloatArray = np.cumsum(ordered, axis=1)
    picks = random.random((len(chances), 1)) + np.arange(count)
    # The item in whose interval a pick falls, in all rows at once.
    apart = np.arange(len(chances))[:, None] * (count + 1.0)
    found = np.searchsorted((ends + apart).ravel(), (picks + apart).ravel(), side="right").reshape(picks.shape)
    places = found - np.arange(len(chances))[:, None] * chances.shape[1]
    # Rounding may put the end of the last item below a pick.
    items: IntArray = np.where(ordered > 0.0, np.arange(len(chances[0])), 0)
    last: IntArray = items.max(axis=1, keepdims=True)
    return np.asarray(np.take_along_axis(order, np.minimum(places, last), axis=1))


def _distinct(chosen: IntArray, parts: int) -> float:
    """How many different values of 0 .. parts - 1 a row of `chosen` holds on average."""
    hit = np.zeros((len(chosen), parts), np.bool_)
    np.put_along_axis(hit, chosen, values=True, axis=1)
    return float(hit.sum(axis=1).mean())
