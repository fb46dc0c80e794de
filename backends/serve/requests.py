"""The requests of a simulation: drawn from a traffic with a seed, or read from a trace file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.traffic import Traffic

COLUMNS = ("arrival_s", "input_tokens", "output_tokens")
"""The columns of a trace; its first line may name them."""

LONGEST = 2**40
"""Tokens of a request in a trace, at most."""

MOST_REQUESTS = 5_000_000
"""Of a simulation: what they are kept in takes about 100 bytes each."""


@dataclass(frozen=True)
class Requests:
    """Requests in the order of their arrival."""

    arrival_us: FloatArray | None
    """None where each arrives when another one is answered."""
    prompts: IntArray
    """Tokens in."""
    outputs: IntArray
    """Tokens out, the first one included."""
    first_counted: int = 0
    """Requests before this one warm the service up."""
    counted: int | None = None
    """How many are counted; those behind keep the service as busy as it was.  None for all."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def end_counted(self) -> int:
        """The first request that is not counted any more."""
        return len(self) if self.counted is None else self.first_counted + self.counted

    def dealt(self, ranks: int) -> list[Requests]:
        """The requests dealt out in turn to so many ranks; ranks that get none are left out."""
        parts = [slice(rank, None, ranks) for rank in range(min(ranks, len(self)))]
        assert self.arrival_us is not None and self.counted is None
        return [Requests(self.arrival_us[part], self.prompts[part], self.outputs[part]) for part in parts]


def drawn_requests(traffic: Traffic, ranks: int, count: int, seed: int) -> Requests:
    """`count` requests of one of `ranks` equal ranks in the long run, with others before and behind them.

    Under a rate each rank has its share of the arrivals, at random: a Poisson process again.  Under a concurrency it
    has its share of the users.  Raises PmcError where the users cannot be shared equally.
    """
    random = np.random.default_rng(seed)
    arrival_us: FloatArray | None = None
    if traffic.rate is not None:
        before, behind = count // 5, count // 5
        gaps = random.exponential(1e6 * ranks / traffic.rate, before + count + behind)
        arrival_us = np.cumsum(gaps)
    else:
        users = users_of(traffic, ranks)
        before, behind = max(count // 5, 3 * users), 2 * users
    total = before + count + behind
    if total > MOST_REQUESTS:
        raise PmcError(
            f"{count} requests need {total} with those before and behind, at most {MOST_REQUESTS} are simulated"
        )
    prompts = traffic.input_length.sample(random, total)
    outputs = traffic.output_length.sample(random, total)
    return Requests(arrival_us, prompts, outputs, before, count)


def users_of(traffic: Traffic, ranks: int) -> int:
    """The users of one of so many ranks.  Raises PmcError where they cannot be shared equally."""
    assert traffic.concurrency is not None
    users, left = divmod(traffic.concurrency, ranks)
    if left:
        raise PmcError(
            f"concurrency {traffic.concurrency} cannot be shared equally by {ranks} data-parallel ranks: "
            f"give a multiple of {ranks}"
        )
    return users


def read_trace(path: Path) -> Requests:
    """The requests of a CSV file with the columns `COLUMNS`, whose arrivals ascend.

    Raises PmcError for a file that cannot be read or is empty, and with its number for a line that is none.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PmcError(f"{path}: cannot be read: {reason}") from None
    found = list(_lines(path, text))
    if not found:
        raise PmcError(f"{path}: the trace is empty: expected a line per request with {', '.join(COLUMNS)}")
    if len(found) > MOST_REQUESTS:
        raise PmcError(f"{path}: {len(found)} requests, at most {MOST_REQUESTS} are simulated")
    arrivals, prompts, outputs = zip(*found, strict=True)
    return Requests(
        np.asarray(arrivals, np.float64) * 1e6, np.asarray(prompts, np.int64), np.asarray(outputs, np.int64)
    )


def _lines(path: Path, text: str) -> Iterator[tuple[float, int, int]]:
    last = 0.0
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip() or (number == 1 and tuple(fields) == COLUMNS):
            continue
        where = f"{path}:{number}"
        if len(fields) != len(COLUMNS):
            raise PmcError(f"{where}: expected {len(COLUMNS)} fields ({', '.join(COLUMNS)}), found {len(fields)}")
        try:
            arrival, prompt, output = float(fields[0]), int(fields[1]), int(fields[2])
        except ValueError:
            raise PmcError(f"{where}: expected a time in seconds and two counts of tokens, found '{line}'") from None
        if not math.isfinite(arrival) or not 0 <= arrival <= LONGEST:
            raise PmcError(f"{where}: {COLUMNS[0]} is {fields[0]}, must be a time in seconds, 0 or more")
        if arrival < last:
            raise PmcError(f"{where}: {COLUMNS[0]} is {arrival:g}, less than {last:g} in the line before: must ascend")
        for name, value in zip(COLUMNS[1:], (prompt, output), strict=True):
            if not 1 <= value <= LONGEST:
                raise PmcError(f"{where}: {name} is {value}, must be at least 1 and at most {LONGEST}")
        last = arrival
        yield arrival, prompt, output
