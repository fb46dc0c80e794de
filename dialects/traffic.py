"""What arrives at a service, and by which rules it is served: schemas of traffic, lengths and schedulers.

Lengths of prompts and outputs are distributions.  Each can be sampled, and each is a list of lengths with their
probabilities, which is exact but for long ranges: those are cut into `PARTS` parts of equal probability, each of which
its middle stands for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import exp, log
from statistics import NormalDist
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.schema import Number, Schema, Share, Tokens

PARTS = 200
"""Parts of equal probability that a wide distribution is cut into."""


class Lengths(Schema, frozen=True):
    """A distribution of lengths in tokens."""

    @abstractmethod
    def sample(self, random: np.random.Generator, count: int) -> IntArray:
        """`count` independent lengths."""

    @abstractmethod
    def masses(self) -> tuple[IntArray, FloatArray]:
        """Lengths that ascend, and the probability of each."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The longest length that there is."""

    @property
    def mean(self) -> float:
        """The mean of `masses`."""
        lengths, shares = self.masses()
        return float(lengths @ shares)


class ConstantLengths(Lengths, frozen=True):
    """One length."""

    constant: Tokens = Field(description="Length of all")

    def sample(self, random: np.random.Generator, count: int) -> IntArray:
        """`count` times that length."""
        return np.full(count, self.constant, np.int64)

    def masses(self) -> tuple[IntArray, FloatArray]:
        """That length."""
        return np.asarray([self.constant], np.int64), np.ones(1)

    @property
    def longest(self) -> int:
        """That length."""
        return self.constant


class UniformLengths(Lengths, frozen=True):
    """All integers of a range, equally likely."""

    uniform: Annotated[tuple[Tokens, ...], Field(strict=False, min_length=2, max_length=2)] = Field(
        description="Shortest and longest length"
    )

    @model_validator(mode="after")
    def _check(self) -> UniformLengths:
        if self.uniform[0] > self.uniform[1]:
            raise ValueError(f"a range ends where it begins or later, {self.uniform[0]} is more than {self.uniform[1]}")
        return self

    def sample(self, random: np.random.Generator, count: int) -> IntArray:
        """`count` independent lengths."""
        return random.integers(self.uniform[0], self.uniform[1] + 1, count, np.int64)

    def masses(self) -> tuple[IntArray, FloatArray]:
        """Every integer, or the middles of parts of equal length."""
        least, most = self.uniform
        if most - least < PARTS:
            lengths = np.arange(least, most + 1, dtype=np.int64)
        else:
            middles = (np.arange(PARTS) + 0.5) / PARTS
            lengths = np.round(least - 0.5 + middles * (most - least + 1)).astype(np.int64)
        return lengths, np.full(len(lengths), 1.0 / len(lengths))

    @property
    def longest(self) -> int:
        """The end of the range."""
        return self.uniform[1]


class LogNormal(Schema, frozen=True):
    """The parameters of a lognormal distribution that ends somewhere."""

    median: Tokens = Field(description="Median")
    sigma: Annotated[Number, Field(gt=0, le=10)] = Field(description="Standard deviation of the natural logarithm")
    longest: Tokens = Field(description="Longest length; what is drawn longer has this one")

    @model_validator(mode="after")
    def _check(self) -> LogNormal:
        if self.longest < self.median:
            raise ValueError(f"longest is {self.longest}, must be at least the median, {self.median}")
        return self


class LogNormalLengths(Lengths, frozen=True):
    """exp(a normal variable), rounded, at least 1 and at most `longest`."""

    lognormal: LogNormal = Field(description="Median, sigma, longest length")

    def sample(self, random: np.random.Generator, count: int) -> IntArray:
        """`count` independent lengths."""
        drawn = np.exp(random.normal(log(self.lognormal.median), self.lognormal.sigma, count))
        return np.clip(np.round(drawn), 1, self.lognormal.longest).astype(np.int64)

    def masses(self) -> tuple[IntArray, FloatArray]:
        """The middles of `PARTS` parts of equal probability."""
        normal, median, sigma = NormalDist(), self.lognormal.median, self.lognormal.sigma
        drawn = [median * exp(sigma * normal.inv_cdf((part + 0.5) / PARTS)) for part in range(PARTS)]
        lengths = np.clip(np.round(drawn), 1, self.lognormal.longest).astype(np.int64)
        found, times = np.unique(lengths, return_counts=True)
        return found, times / PARTS

    @property
    def longest(self) -> int:
        """Where the distribution ends."""
        return self.lognormal.longest


class LengthShare(Schema, frozen=True):
    """A length of a histogram."""

    tokens: Tokens = Field(description="Length")
    weight: Annotated[Number, Field(gt=0)] = Field(description="How often, in any unit")


class HistogramLengths(Lengths, frozen=True):
    """Lengths, each with how often it occurs."""

    histogram: Annotated[tuple[LengthShare, ...], Field(strict=False, min_length=1)] = Field(
        description="Lengths with their weights"
    )

    @model_validator(mode="after")
    def _check(self) -> HistogramLengths:
        lengths = [entry.tokens for entry in self.histogram]
        if sorted(set(lengths)) != lengths:
            raise ValueError("the lengths of a histogram ascend, each stands there once")
        return self

    def sample(self, random: np.random.Generator, count: int) -> IntArray:
        """`count` independent lengths."""
        lengths, shares = self.masses()
        return random.choice(lengths, count, p=shares)

    def masses(self) -> tuple[IntArray, FloatArray]:
        """The histogram, with weights that add up to 1."""
        weights = np.asarray([entry.weight for entry in self.histogram])
        return np.asarray([entry.tokens for entry in self.histogram], np.int64), weights / weights.sum()

    @property
    def longest(self) -> int:
        """The last length."""
        return self.histogram[-1].tokens


_KINDS: dict[str, type[Lengths]] = {
    "constant": ConstantLengths,
    "uniform": UniformLengths,
    "lognormal": LogNormalLengths,
    "histogram": HistogramLengths,
}


def _kind(value: object) -> str | None:
    if isinstance(value, Lengths):
        return type(value).__name__
    named = [cls.__name__ for name, cls in _KINDS.items() if isinstance(value, dict) and name in value]
    return named[0] if named else ConstantLengths.__name__


AnyLengths: TypeAlias = Annotated[
    Annotated[ConstantLengths, Tag("ConstantLengths")]
    | Annotated[UniformLengths, Tag("UniformLengths")]
    | Annotated[LogNormalLengths, Tag("LogNormalLengths")]
    | Annotated[HistogramLengths, Tag("HistogramLengths")],
    Discriminator(_kind),
]
"""One of the distributions of lengths."""

LENGTH_FORMS = "TOKENS, uniform:LEAST-MOST, lognormal:MEDIAN,SIGMA,LONGEST or histogram:TOKENS=WEIGHT,TOKENS=WEIGHT,.."
"""The texts that `parse_lengths` takes."""


def parse_lengths(text: str, name: str) -> AnyLengths:
    """The distribution that a text says, see `LENGTH_FORMS`.  Raises PmcError, which begins with `name`."""
    kind, colon, rest = text.partition(":")
    readers: dict[str, Callable[[], AnyLengths]] = {
        "uniform": lambda: UniformLengths(uniform=tuple(int(end) for end in rest.split("-", 1))),
        "lognormal": lambda: _lognormal(rest),
        "histogram": lambda: _histogram(rest),
    }
    try:
        if not colon:
            return ConstantLengths(constant=int(text))
        return readers[kind]()
    except (KeyError, ValueError):  # what pydantic refuses is a ValueError
        raise PmcError(f"{name}: expected {LENGTH_FORMS}, found '{text}'") from None


def _lognormal(text: str) -> LogNormalLengths:
    median, sigma, longest = text.split(",")
    return LogNormalLengths(lognormal=LogNormal(median=int(median), sigma=float(sigma), longest=int(longest)))


def _histogram(text: str) -> HistogramLengths:
    pairs = sorted((int(tokens), float(weight)) for tokens, weight in (entry.split("=") for entry in text.split(",")))
    return HistogramLengths(histogram=tuple(LengthShare(tokens=tokens, weight=weight) for tokens, weight in pairs))


class Traffic(Schema, frozen=True):
    """What arrives at a service: how often, how long, and how much of it is known already.

    Arrivals have a rate, and are then independent of each other and of the service (a Poisson process), or a
    concurrency: so many users, each of whom sends the next request when the last one is answered.
    """

    rate: Annotated[Number, Field(gt=0, json_schema_extra={"unit": "requests/s"})] | None = Field(
        description="Requests per second; null under a concurrency"
    )
    concurrency: Annotated[int, Field(gt=0, le=2**31)] | None = Field(
        description="Requests that are there at any time; null under a rate"
    )
    input_length: AnyLengths = Field(description="Tokens of a prompt")
    output_length: AnyLengths = Field(description="Tokens of an answer, the first one included")
    prefix_share: Annotated[Share, Field(lt=1)] = Field(
        description="Part of every prompt whose keys and values are in the cache already"
    )

    @model_validator(mode="after")
    def _check(self) -> Traffic:
        if (self.rate is None) == (self.concurrency is None):
            found = "neither" if self.rate is None else "both"
            raise ValueError(f"traffic has a rate or a concurrency, found {found}")
        return self

    def new_tokens(self, prompts: IntArray) -> IntArray:
        """The tokens of prompts that are prefilled: what is not in the cache, at least one, which gives the answer."""
        cached: IntArray = np.floor(prompts * self.prefix_share).astype(np.int64)
        return np.asarray(np.maximum(prompts - cached, 1), np.int64)

    @property
    def longest_context(self) -> int:
        """The most tokens that a step attends to: the last token is written and never attended to."""
        return self.input_length.longest + self.output_length.longest - 1


class Scheduler(Schema, frozen=True):
    """Continuous batching on one data-parallel rank: what runs in a step, and who is let in.

    A step decodes one token of every running sequence.  Prompts are prefilled in the order of their arrival, in chunks
    that fill the token budget: `mixed` puts them into the same step beside the decoding sequences, which count as a
    token each; `prefill-first` gives them steps of their own, before anything is decoded.  A request is let in when
    there is a place in the batch and room in the cache for all tokens that it will have: none is ever put out.
    """

    policy: Literal["mixed", "prefill-first"] = Field(
        description="Whether prompts share steps with decoding sequences, or go before them"
    )
    largest_batch: Annotated[int, Field(gt=0, le=2**14)] = Field(
        description="Requests that are prefilled or decoded at the same time, on a data-parallel rank"
    )
    token_budget: Annotated[int, Field(gt=0, le=2**18, json_schema_extra={"unit": "tokens"})] = Field(
        description="Tokens of a step, on a data-parallel rank: the chunk of prefill"
    )
    headroom: Annotated[Share, Field(lt=1)] = Field(description="Part of the DRAM that stays free")
    kv_block_tokens: Annotated[int, Field(gt=0, le=2**20, json_schema_extra={"unit": "tokens"})] = Field(
        description="Tokens of a block of the cache: every sequence has whole blocks"
    )

    @model_validator(mode="after")
    def _check(self) -> Scheduler:
        if self.policy == "mixed" and self.token_budget < self.largest_batch:
            raise ValueError(
                f"a mixed step of {self.token_budget} tokens has no room for {self.largest_batch} decoding sequences: "
                "token_budget must be at least largest_batch"
            )
        return self
