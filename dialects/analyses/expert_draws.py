"""Which experts tokens are routed to: every token draws different experts by their popularity, from a seed.

With weights w a token takes expert i before expert j with the chance w_i / (w_i + w_j): the k smallest of exponential
times with the rates w (Efraimidis and Spirakis, 2006).  The weight of the r-th most popular of E experts is
r^-s; which expert that is comes from the seed, and a change of domain lets some experts exchange their ranks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.moe_workload import MoeRouting

RANKS, DRIFT, TOKENS = range(3)
"""Streams of random numbers, so that none depends on how many another has used."""

STEEPEST = 64.0
"""The largest exponent that is looked for."""


def drawn_routing(routing: MoeRouting, steps: int, micro_batch: int) -> IntArray:
    """The experts [steps * micro_batch, topk] of all tokens, of each the one it wants most first.

    Raises PmcError for a Gini coefficient that the loads cannot have.
    """
    exponent = routing.zipf_s if routing.zipf_s is not None else exponent_of_gini(routing)
    weight = zipf_weights(ranks(routing, steps), exponent)
    return drawn(np.repeat(weight, micro_batch, axis=0), routing.topk, np.random.default_rng([routing.seed, TOKENS]))


def zipf_weights(rank: IntArray, exponent: float) -> FloatArray:
    """The weights of experts by their ranks, 0 for the most popular."""
    return np.asarray((1.0 + rank) ** -exponent, np.float64)


def drawn(weight: FloatArray, topk: int, random: np.random.Generator) -> IntArray:
    """`topk` different items of every row [row, item], drawn by their weights one after the other; never one of 0."""
    with np.errstate(divide="ignore"):
        times = random.standard_exponential(weight.shape) / weight
    found = np.argpartition(times, topk - 1, axis=1)[:, :topk]
    order = np.argsort(np.take_along_axis(times, found, axis=1), axis=1)
    return np.asarray(np.take_along_axis(found, order, axis=1))


def ranks(routing: MoeRouting, steps: int) -> IntArray:
    """The rank of popularity [step, expert], 0 for the most popular; it changes with the domain of the text."""
    rank = np.random.default_rng([routing.seed, RANKS]).permutation(routing.experts)
    found = np.empty((steps, routing.experts), np.int64)
    if routing.drift is None:
        found[:] = rank
        return found
    random, every = np.random.default_rng([routing.seed, DRIFT]), routing.drift.every_steps
    changing = round(routing.drift.share * routing.experts)
    for first in range(0, steps, every):
        if first:
            who = random.permutation(routing.experts)[:changing]
            rank[who] = rank[np.roll(who, 1)]
        found[first : first + every] = rank
    return found


def exponent_of_gini(routing: MoeRouting) -> float:
    """The exponent with which the expected loads of experts have the Gini coefficient of the routing.

    Raises PmcError for one that they cannot have: a token's experts differ, so that at worst k experts share all.
    """
    assert routing.gini is not None
    return _exponent(routing.gini, routing.experts, routing.topk)


@lru_cache(maxsize=64)
def _exponent(wanted: float, experts: int, topk: int) -> float:
    def excess(exponent: float) -> float:
        return gini(chances(zipf_weights(np.arange(experts), exponent), topk)) - wanted

    if wanted == 0:
        return 0.0
    low, high = 0.0, 1.0
    below, above = -wanted, excess(high)
    while above < 0:
        low, high, below, above = high, 2 * high, above, excess(2 * high)
        if high > STEEPEST:
            raise PmcError(
                f"routing.gini: {wanted:g} is out of reach: with {topk} of {experts} experts per token it is below "
                f"{1 - topk / experts:g}"
            )
    while True:  # false position that halves the weight of an end which stays (Illinois)
        middle = (low * above - high * below) / (above - below)
        here = excess(middle)
        if abs(here) < 1e-12 or not low < middle < high:
            return middle
        if here < 0:
            low, below, above = middle, here, above / 2
        else:
            high, above, below = middle, here, below / 2


def gini(loads: FloatArray) -> float:
    """The Gini coefficient of loads: 0 where all are equal, towards 1 where one has all."""
    ordered, count = np.sort(loads), len(loads)
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * ordered.sum()))


def chances(weight: FloatArray, topk: int) -> FloatArray:
    """The chance of every item to be among the first `topk` that are drawn by weight without replacement.

    Items arrive at exponential times of rate w; item i is among the first k when fewer than k others come before it:

        P_i = integral over t of w_i exp(-w_i t) P(fewer than k of the others before t) dt,

    where the number of the others is a sum of independent draws.  The sum over log t converges exponentially.
    """
    rate = weight / weight.max()
    log_t = np.arange(-24.0, np.log(48.0 / rate.min()), 0.2)
    late = np.exp(-rate[:, None] * np.exp(log_t))
    before, after = _counts(late, topk), _counts(late[::-1], topk)[::-1]
    tails = np.cumsum(after, axis=2)[:, :, ::-1]
    few = (before[:-1] * tails[1:]).sum(axis=2)
    return np.asarray((rate[:, None] * np.exp(log_t) * late * few).sum(axis=1) * 0.2)


def _counts(late: FloatArray, topk: int) -> FloatArray:
    """P(exactly m of the first n items have come) [n, time, m] for m < topk."""
    items, times = late.shape
    found = np.zeros((items + 1, times, topk))
    found[0, :, 0] = 1.0
    for item in range(items):
        there = 1.0 - late[item][:, None]
        found[item + 1] = found[item] * late[item][:, None]
        found[item + 1, :, 1:] += found[item, :, :-1] * there
    return found
