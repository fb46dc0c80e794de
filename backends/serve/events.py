"""The scheduler of a data-parallel rank, simulated request by request.

A step begins when the one before it ends, or with the first arrival of an idle rank.  What arrives during a step is
looked at when it ends.  Between two events (an arrival, the end of a request) all steps decode the same sequences: they
are taken together, with the sum of their times, so that a simulation costs a few events for each request, however
many tokens it writes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from pmc.backends.serve.cache_room import CacheRoom
from pmc.backends.serve.requests import Requests
from pmc.backends.serve.step_times import StepTimes
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.traffic import Scheduler, Traffic


@dataclass(frozen=True)
class Served:
    """What became of every request, in us from the beginning; requests that did not end are not in it."""

    arrival_us: FloatArray
    start_us: FloatArray
    """When it was let in."""
    first_us: FloatArray
    """The first token."""
    end_us: FloatArray
    """The last token."""
    outputs: FloatArray
    """Tokens out."""
    busy: float
    """The part of the time in which steps run."""
    span_us: float
    """From the first to the last of what is looked at."""
    finished_tokens: float
    """The tokens of requests that ended in that time."""
    finished: float
    """Requests that ended in that time."""

    @property
    def ttft_us(self) -> FloatArray:
        """From the arrival to the first token."""
        return self.first_us - self.arrival_us

    @property
    def e2e_us(self) -> FloatArray:
        """From the arrival to the last token."""
        return self.end_us - self.arrival_us

    @property
    def tpot_us(self) -> FloatArray:
        """The mean time between the tokens of each request that has several."""
        several = self.outputs > 1
        return (self.end_us - self.first_us)[several] / (self.outputs[several] - 1)


def simulate(
    times: StepTimes,
    scheduler: Scheduler,
    traffic: Traffic,
    room: CacheRoom,
    requests: Requests,
    users: int | None = None,
) -> Served:
    """The requests on one rank; `users` of them are there at any time where they have no arrivals.

    Of the traffic only the share of prompts that are in the cache already counts.  Raises PmcError for a request that
    can never be let in.
    """
    count = len(requests)
    sizes = room.bytes_of_all(requests.prompts + requests.outputs - 1)
    if sizes.max() > room.cache_bytes:
        index = int(np.argmax(sizes))
        raise PmcError(
            f"request {index + 1} of {requests.prompts[index]} + {requests.outputs[index]} tokens needs "
            f"{int(sizes[index])} bytes of cache, the rank has {max(room.cache_bytes, 0)}"
        )
    new_tokens: list[int] = traffic.new_tokens(requests.prompts).tolist()
    prompts: list[int] = requests.prompts.tolist()
    outputs: list[int] = requests.outputs.tolist()
    cache: list[float] = sizes.tolist()
    closed = requests.arrival_us is None
    arrivals: list[float] = [0.0] * count if requests.arrival_us is None else requests.arrival_us.tolist()
    start, first, end = [0.0] * count, [-1.0] * count, [-1.0] * count

    mixed, most, budget = scheduler.policy == "mixed", scheduler.largest_batch, scheduler.token_budget
    free = float(room.cache_bytes)
    waiting: deque[int] = deque()
    reading: deque[list[int]] = deque()  # the request, tokens that are read, tokens that are left
    writing: list[tuple[int, int]] = []  # the step after which it ends, the request
    contexts = 0  # what all that are decoded attend to in the next step
    steps, following = 0, 0
    now = busy_us = 0.0
    if closed:
        assert users is not None
        following = min(users, count)
        waiting.extend(range(following))
    to_end = requests.end_counted
    ended_counted = 0

    def ended(index: int) -> None:
        nonlocal free, following, ended_counted
        end[index] = now
        free += cache[index]
        ended_counted += index < to_end
        if closed and following < count:
            arrivals[following] = now
            waiting.append(following)
            following += 1

    while ended_counted < to_end:
        if not closed:
            while following < count and arrivals[following] <= now:
                waiting.append(following)
                following += 1
        while waiting and len(reading) + len(writing) < most and cache[waiting[0]] <= free:
            index = waiting.popleft()
            free -= cache[index]
            start[index] = now
            reading.append([index, prompts[index] - new_tokens[index], new_tokens[index]])
        sequences = len(writing)
        if reading:
            decoded = sequences if mixed else 0
            left = budget - decoded
            chunks: list[tuple[int, int]] = []
            last: list[int] = []
            for request in reading:
                new = min(request[2], left)
                chunks.append((new, request[1]))
                left -= new
                if new == request[2]:
                    last.append(request[0])
                else:
                    request[1] += new
                    request[2] -= new
                if not left:
                    break
            taken = times.step_us(decoded, contexts / decoded if decoded else 0.0, chunks, len(last))
            now += taken
            busy_us += taken
            for _ in last:
                reading.popleft()
            if decoded:
                steps += 1
                contexts += decoded
                while writing and writing[0][0] == steps:
                    index = heappop(writing)[1]
                    contexts -= prompts[index] + outputs[index]
                    ended(index)
            for index in last:
                first[index] = now
                if outputs[index] == 1:
                    ended(index)
                else:
                    heappush(writing, (steps + outputs[index] - 1, index))
                    contexts += prompts[index] + 1
        elif sequences:
            run = writing[0][0] - steps
            context = contexts / sequences
            taken = times.decode_us(sequences, context, run)
            if run > 1 and not closed and not waiting and following < count and arrivals[following] < now + taken:
                until = arrivals[following] - now
                low = 0
                while run - low > 1:
                    middle = (low + run) // 2
                    if times.decode_us(sequences, context, middle) < until:
                        low = middle
                    else:
                        run = middle
                taken = times.decode_us(sequences, context, run)
            now += taken
            busy_us += taken
            steps += run
            contexts += run * sequences
            while writing and writing[0][0] == steps:
                index = heappop(writing)[1]
                contexts -= prompts[index] + outputs[index]
                ended(index)
        elif following < count and not closed:
            now = arrivals[following]
        else:
            break
    return _served(requests, arrivals, start, first, end, busy_us, now)


def _served(
    requests: Requests,
    arrivals: list[float],
    start: list[float],
    first: list[float],
    end: list[float],
    busy_us: float,
    now: float,
) -> Served:
    """The requests that are counted, and what ended while these arrived."""
    counted = slice(requests.first_counted, requests.end_counted)
    ends = np.asarray(end)
    arrived = np.asarray(arrivals)[counted]
    begin = float(arrived[0])
    # With others behind them, the last arrival; else the last end: a trace is over when all of it is answered.
    stop = float(arrived[-1]) if requests.counted is not None and len(arrived) > 1 else float(ends.max())
    within = (ends >= begin) & (ends <= stop)
    began = float(requests.arrival_us[0]) if requests.arrival_us is not None else 0.0
    return Served(
        arrival_us=arrived,
        start_us=np.asarray(start)[counted],
        first_us=np.asarray(first)[counted],
        end_us=ends[counted],
        outputs=requests.outputs[counted].astype(np.float64),
        busy=busy_us / (now - began) if now > began else 0.0,
        span_us=stop - begin,
        finished_tokens=float(requests.outputs[within].sum()),
        finished=float(np.count_nonzero(within)),
    )
