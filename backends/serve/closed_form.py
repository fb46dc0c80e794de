"""Mean latencies of a service without a simulation: a chain of steps within a chain of batches.

Decoding takes hundreds of steps, reading a prompt a few.  So the number n of sequences that are decoded is taken to be
constant while the backlog of prompts (tokens that have arrived and are not read) comes to its equilibrium.

*Backlog, for each n.*  From one step to the next the backlog is a Markov chain: a step takes up to a budget of tokens
off, and takes a time that depends on how many; in that time prompts arrive, a compound Poisson number of tokens.  The
chain gives the mean time between two tokens of a sequence, and by PASTA what a prompt finds that arrives: the rest of
a step, the tokens before it, its own, and in its last step some of those behind it.

*Batch.*  Given these times the decoding sequences share a server whose speed depends on their number only: the
stationary distribution is that of a birth-death chain, whatever the distribution of output lengths (processor
sharing, Kelly, Reversibility and Stochastic Networks, 1979, section 3.3).  Sequences beyond the largest batch wait.

Under a concurrency a prompt arrives when an answer ends; n is the number for which those that are read and those that
are decoded are as many as the users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pmc.backends.serve.cache_room import CacheRoom
from pmc.backends.serve.step_times import StepTimes
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.traffic import Scheduler, Traffic

BINS = 6
"""Parts of a prompt, or of a budget of tokens, whichever is smaller."""

MOST_BUDGET_BINS, MOST_BINS = 32, 320
"""Of a budget of tokens, and of a backlog."""

UNLIKELY = 1e-4
"""Probability of the longest backlog that is looked at; where it is more, bins are made larger."""

STABLE = 0.985
"""The part of the budget of tokens that prompts may ask for; with more the backlog has no end that matters."""

BATCHES = 6
"""Numbers of decoding sequences for which the chain is solved; between them its results are interpolated."""

TAIL = 1e-5
"""Probability of batches that are left out at either end."""

_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(3)[0] + 1) / 2, np.polynomial.legendre.leggauss(3)[1] / 2


class Overload(PmcError):
    """More arrives than can be served."""


@dataclass(frozen=True)
class Steady:
    """Means in equilibrium, of one data-parallel rank; times in us."""

    rate: float
    """Requests per us that are answered."""
    ttft_us: float
    tpot_us: float | None
    """None where every answer is one token."""
    decoding: float
    """Sequences that are decoded."""
    waiting_us: float
    """Of the time to the first token, how long requests are not let in."""


@dataclass(frozen=True)
class _Backlog:
    """The equilibrium of the backlog of prompts under a number of decoding sequences."""

    step_us: float
    """The mean time between two tokens of a sequence."""
    ttft_us: float
    rate: float
    """Requests per us."""
    more_us: float
    """What an answer takes in addition, because it begins with what arrived behind its prompt."""


@dataclass(frozen=True)
class _Chain:
    """The backlog of prompts from step to step, in bins of tokens."""

    x: FloatArray
    """The probabilities of the bins of a prompt."""
    m: int
    """The bins that a step reads."""
    mean: float
    """The bins of a prompt, on average."""
    step_us: FloatArray
    """The time of steps that read 0 .. m bins."""
    rate: float | None
    """Prompts per us; None where they arrive as answers end."""
    by_step: float
    """Answers that end with a step that decodes."""
    idle: bool
    """Whether nothing is decoded, so that steps without a prompt do not exist."""
    mixed: bool
    """Whether steps that read also decode."""

    @property
    def asked(self) -> float:
        """The bins that arrive while a full step is read."""
        return self.mean * (self.by_step if self.rate is None else self.rate * float(self.step_us[self.m]))

    @cached_property
    def arriving(self) -> FloatArray:
        """Prompts that arrive in steps that read 0 .. m bins, on average."""
        if self.rate is not None:
            return self.rate * self.step_us
        means = np.full(self.m + 1, self.by_step)
        if not self.mixed:
            means[1:] = 0.0
        return means

    @cached_property
    def lasting_us(self) -> FloatArray:
        """What steps take; one that does not exist is the time to the next arrival."""
        lasting = self.step_us.copy()
        if self.idle:
            assert self.rate is not None
            lasting[0] = 1.0 / self.rate
        return lasting

    def solved(self) -> _Backlog | None:
        """The equilibrium; None where longer backlogs than `MOST_BINS` are likely."""
        moves = self._moves(MOST_BINS)
        unit = np.eye(MOST_BINS)
        equations = moves.T - unit
        equations[-1] = 1.0
        wanted = np.zeros(MOST_BINS)
        wanted[-1] = 1.0
        stationary = np.maximum(np.linalg.solve(equations, wanted), 0.0)
        if stationary[-self.m :].sum() > UNLIKELY:
            return None
        read = np.minimum(np.arange(MOST_BINS), self.m)
        decodes = np.ones(MOST_BINS) if self.mixed else (read == 0).astype(np.float64)
        if self.idle and self.mixed:
            decodes = np.zeros(MOST_BINS)
        lasting = self.lasting_us[read]
        total_us, steps = float(stationary @ lasting), float(stationary @ decodes)
        step_us = total_us / steps if steps else np.inf
        answered = self.rate if self.rate is not None else self.by_step * steps / total_us
        # What an answer takes in addition that begins with a backlog: the bias of the chain (Puterman, Markov Decision
        # Processes, 1994, section 8.2), less the bias of where it ends.
        bias = np.zeros(MOST_BINS)
        if steps and not self.idle:
            wanted = lasting - step_us * decodes
            bias = np.asarray(np.linalg.solve(unit - moves + stationary[None, :], wanted), np.float64)
        ttft_us, begins = self._ttft_us(stationary, bias)
        ends = float((stationary if self.mixed else moves[0]) @ bias)
        more = begins - ends if steps else 0.0
        return _Backlog(step_us, ttft_us, answered, more)

    def _moves(self, count: int) -> FloatArray:
        """Probabilities from one backlog to the next; what is longer than all counts as the longest."""
        batches = compound_poisson(self.x, self.arriving, count)
        if self.idle:
            batches[0] = 0.0
            batches[0, : min(len(self.x), count)] = self.x[:count]
        backlog = np.arange(count)
        more = backlog[None, :] - np.maximum(backlog - self.m, 0)[:, None]
        moves = np.where(more >= 0, batches[np.minimum(backlog, self.m)[:, None], np.maximum(more, 0)], 0.0)
        moves[:, -1] += 1.0 - moves.sum(axis=1)
        return moves

    def _ttft_us(self, stationary: FloatArray, bias: FloatArray) -> tuple[float, float]:
        """From the arrival of a prompt to the end of the step in which its last token is read; the bias from there."""
        m, x, rate, step_us = self.m, self.x, self.rate, self.step_us
        count = len(stationary)
        classes = np.append(stationary[:m], stationary[m:].sum())
        weights = classes * (self.lasting_us if rate is not None else np.ones(m + 1))
        if rate is None and not self.mixed:
            weights[1:] = 0.0
        weights /= weights.sum()
        length = _power_of_two(2 * count + len(x))
        spectrum = np.fft.rfft(x, length)
        y = np.arange(length)
        steps = np.maximum(-(-y // m), 1)
        rest = y - m * (steps - 1)
        total = begins = 0.0
        for kind in np.flatnonzero(weights > 1e-6).tolist():
            left = stationary[m:] if kind == m else np.ones(1)
            ahead = np.fft.rfft(left / left.sum(), length)
            alone = self.idle and kind == 0
            for node, weight in ((0.0, 1.0),) if alone else zip(_NODES, _WEIGHTS, strict=True):
                before = 0.0 if alone else float(self.arriving[kind]) * node
                shares = np.fft.irfft(ahead * np.exp(before * (spectrum - 1)) * spectrum, length)
                wait_us = 0.0 if alone or rate is None else (1 - node) * float(step_us[kind])
                before_us = wait_us + (steps - 1) * float(step_us[m])
                if rate is not None:
                    behind = rate * self.mean * before_us
                else:
                    behind = self.mean * (self.by_step * (1 - node) + (steps - 1) * float(self.arriving[m]))
                there = rest + behind
                last_us = np.interp(np.minimum(there, m), np.arange(m + 1), step_us)
                arrive = self.mean * np.interp(np.minimum(there, m), np.arange(m + 1), self.arriving)
                after = np.interp(np.maximum(there - m, 0.0) + arrive, np.arange(count), bias)
                share = float(weights[kind]) * float(weight)
                total += share * float(shares @ (before_us + last_us))
                begins += share * float(shares @ after)
        return total, begins


class ClosedForm:
    """Means of a service on one data-parallel rank."""

    def __init__(self, times: StepTimes, scheduler: Scheduler, traffic: Traffic, room: CacheRoom) -> None:
        """Of the traffic the rate and the concurrency are not looked at.  Raises PmcError where no request fits."""
        self.times, self.scheduler = times, scheduler
        prompts, shares = traffic.input_length.masses()
        outputs, weights = traffic.output_length.masses()
        self.new = traffic.new_tokens(prompts).astype(np.float64)
        self.shares = shares
        self.mean_new = float(self.new @ shares)
        self.before = (prompts - self.new).astype(np.float64)
        self.decoded = float((outputs - 1) @ weights)
        self.context = float(prompts @ shares)
        self.output_variation, self.several, self.inverse = 0.0, 0.0, 0.0
        if self.decoded:
            self.several = float((outputs > 1) @ weights)
            self.inverse = float(np.where(outputs > 1, 1 / np.maximum(outputs - 1, 1), 0.0) @ weights)
            self.context += float(((outputs - 1) * outputs) @ weights) / (2 * self.decoded)
            self.output_variation = float((outputs - 1.0) ** 2 @ weights) / self.decoded**2 - 1.0
        sizes = room.bytes_of_all(prompts[:, None] + outputs[None, :] - 1)
        mean_bytes = float(shares @ sizes @ weights)
        fitting = int(room.cache_bytes // mean_bytes) if mean_bytes else scheduler.largest_batch
        if sizes.max() > room.cache_bytes:
            raise PmcError(room.feasibility(1).verdict)
        self.most = max(1, min(scheduler.largest_batch, fitting))
        """Requests that can be there at the same time: places in the batch, or room for caches of mean size."""
        self._at_tokens, self._at_rows = np.asarray(times.tokens_us), np.asarray(times.rows_us)
        self._reading: dict[int, float] = {}
        self._largest: float | None = None

    # -- times of steps at numbers that are not whole ----------------------------------------------------------------

    def _decode_us(self, sequences: float) -> float:
        low = int(sequences)
        high = min(low + 1, len(self.times.decode.rows) - 1)
        first, second = (self.times.decode.at(n, self.context) if n else 0.0 for n in (low, high))
        return first + (second - first) * (sequences - low)

    def _read_us(self, budget: int) -> float:
        """Attention and what else prompts need on their own, in us per new token, in chunks of a budget."""
        if budget not in self._reading:
            chunk = min(budget, len(self.times.prefill.rows) - 1)
            total = 0.0
            for new, before, share in zip(self.new.tolist(), self.before.tolist(), self.shares.tolist(), strict=True):
                left = int(new)
                while left:
                    part = min(left, chunk)
                    total += share * self.times.prefill.at(part, before)
                    left, before = left - part, before + part
            self._reading[budget] = total / self.mean_new
        return self._reading[budget]

    def _step_us(self, sequences: float, tokens: FloatArray, budget: int) -> FloatArray:
        """Steps of a number of decoding sequences and numbers of new tokens of prompts."""
        ended = tokens / self.mean_new
        n = np.where(tokens > 0, 0.0, sequences) if self.scheduler.policy == "prefill-first" else np.asarray(sequences)
        found = np.asarray(
            np.interp(n + tokens, np.arange(len(self._at_tokens)), self._at_tokens)
            + np.interp(n + ended, np.arange(len(self._at_rows)), self._at_rows)
            + tokens * self._read_us(budget)
        )
        return np.asarray(found + np.where(n > 0, self._decode_us(sequences), 0.0), np.float64)

    # -- the backlog of prompts --------------------------------------------------------------------------------------

    def _backlog(self, sequences: float, rate: float | None) -> _Backlog | None:
        """The equilibrium, None where there is none; without a rate a prompt arrives whenever an answer ends.

        In units of bins of tokens: x is a prompt, m the budget of a step, b the backlog.
        """
        mixed = self.scheduler.policy == "mixed"
        # A prompt that is read has a place, so that not all places decode beside it.
        beside = min(int(np.ceil(sequences)), self.most - 1) if mixed else 0
        budget = self.scheduler.token_budget - beside
        m = int(min(MOST_BUDGET_BINS, np.ceil(BINS * max(1.0, budget / self.mean_new)), budget))
        while True:
            chain = _Chain(
                x=self._prompt(budget / m),
                m=m,
                mean=self.mean_new * m / budget,
                step_us=self._step_us(sequences, np.arange(m + 1, dtype=np.float64) * (budget / m), budget),
                rate=rate,
                by_step=sequences / self.decoded if self.decoded else 0.0,
                idle=rate is not None and sequences == 0,
                mixed=mixed,
            )
            if chain.asked > STABLE * m and (mixed or rate is not None):
                return None
            solved = chain.solved()
            if solved is not None:
                return solved
            if m == 1:
                return None
            m //= 2

    def _prompt(self, size: float) -> FloatArray:
        """The probabilities of the bins of a prompt; the mean is that of its tokens."""
        places = np.maximum(self.new / size, 1e-9)
        low = np.floor(places).astype(np.int64)
        x = np.zeros(int(low.max()) + 2)
        np.add.at(x, low, self.shares * (1 - (places - low)))
        np.add.at(x, low + 1, self.shares * (places - low))
        return x

    # -- the batch ---------------------------------------------------------------------------------------------------

    def under_rate(self, rate: float) -> Steady:
        """Means under Poisson arrivals, in requests per us.  Raises Overload where there is no equilibrium."""
        largest = self.largest_rate
        if rate >= largest:
            raise Overload(
                f"overload: {rate * 1e6:g} requests/s arrive at a data-parallel rank, which answers at most "
                f"{largest * 1e6:.4g}"
            )
        if not self.decoded:
            found = self._backlog(0.0, rate)
            if found is None:
                raise Overload(f"overload: {rate * 1e6:g} requests/s are more than can be read")
            return Steady(rate, found.ttft_us, None, 0.0, 0.0)
        sampled = np.unique(np.linspace(0, self.most, 17).round().astype(np.int64))
        roughly = [self._rough_step_us(n, rate) for n in sampled.tolist()]
        rough = self._batches(rate, lambda n: float(np.interp(n, sampled, roughly)), float(self.most))
        likely = np.flatnonzero(rough > TAIL)
        low, high = int(likely[0]), max(min(int(likely[-1]), self.most), 1)
        picks = np.unique(np.append(np.linspace(low, high, BATCHES).round().astype(np.int64), max(low, 1)))
        solved = [(n, found) for n in picks.tolist() if (found := self._backlog(float(n), rate)) is not None]
        some = [(n, found) for n, found in solved if n]
        if not some:
            raise Overload(f"overload: {rate * 1e6:g} requests/s are more than can be read")
        numbers, decoding_numbers = [n for n, _ in solved], [n for n, _ in some]
        ttft_us, more_us = [found.ttft_us for _, found in solved], [found.more_us for _, found in some]
        step_us = [
            max(found.step_us + found.more_us * self.several / self.decoded, 0.1 * found.step_us) for _, found in some
        ]
        # Prompts that are read have places, too.
        most = float(self.most)
        for _ in range(10):
            most = max(self.most - rate * float(np.interp(most, numbers, ttft_us)), 0.5 * self.most)
        shares = self._batches(rate, lambda n: float(np.interp(n, decoding_numbers, step_us)), most)
        n = np.arange(len(shares))
        beyond = np.maximum(n - most, 0.0)
        decoding = float(shares @ np.minimum(n, most))
        waiting_us = float(shares @ beyond) / rate * self._waiting_factor(decoding / most, most)
        first_us = float(shares @ np.interp(n, numbers, ttft_us))
        more = float(shares @ np.interp(n, decoding_numbers, more_us))
        lasting_us = decoding / (rate * self.several) - more
        tpot_us = lasting_us * self.several / self.decoded + more * self.inverse / self.several
        return Steady(rate, first_us + waiting_us, tpot_us, decoding, waiting_us)

    def _waiting_factor(self, load: float, servers: float) -> float:
        """The wait for a place over that under exponential lengths, which the birth-death chain has.

        Between constant (Cosmetatos, Some approximate equilibrium results for the multi-server queue (M/G/r), 1976)
        and exponential lengths by the squared coefficient of variation.
        """
        spread = (1 - load) * (servers - 1) * (np.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
        constant = (1 + max(min(spread, 1.0), 0.0)) / 2
        return float(constant + (1 - constant) * self.output_variation)

    def _rough_step_us(self, sequences: int, rate: float) -> float:
        """The time between two tokens if every step read the mean number of new tokens."""
        policy = self.scheduler.policy
        budget = self.scheduler.token_budget - (sequences if policy == "mixed" else 0)
        budget = max(budget, 1)
        alone = float(self._step_us(float(sequences), np.zeros(1), budget)[0])
        if policy == "prefill-first":
            reading = float(self._step_us(0.0, np.asarray([float(min(self.mean_new, budget))]), budget)[0])
            reading *= max(1.0, self.mean_new / budget)
            return alone / max(1.0 - rate * reading, 0.02)
        step_us = alone
        for _ in range(6):
            tokens = min(rate * step_us * self.mean_new, float(budget))
            step_us = float(self._step_us(float(sequences), np.asarray([tokens]), budget)[0])
        return step_us

    def _batches(self, rate: float, step_us: Callable[[int], float], most: float) -> FloatArray:
        """The distribution of sequences that are decoded or wait for that, of which `most` are decoded at once.

        p(n) = p(n - 1) * rate * decoded * step(n) / n, and beyond the largest batch p(n - 1) * rate / the largest rate.
        """
        logs, n = [0.0], 0
        while n < 20_000:
            n += 1
            ratio = rate * self.decoded * step_us(min(n, self.most)) / n
            part = min(max(most - (n - 1), 0.0), 1.0)  # of the place that is there for reading the rest of the time
            ratio = part * ratio + (1 - part) * rate / self.largest_rate
            logs.append(logs[-1] + np.log(ratio))
            if n >= most and logs[-1] < max(logs) - 14:
                break
        shares = np.exp(np.asarray(logs) - max(logs))
        return np.asarray(shares / shares.sum())

    def under_concurrency(self, users: int) -> Steady:
        """Means with so many users, of whom each sends the next request when the last one is answered."""
        inside = min(users, self.most)
        if not self.decoded:
            raise PmcError("a concurrency needs answers of more than one token: with one, give a rate")
        low, high, best = 0.0, float(inside), None
        for _ in range(12):
            middle = (low + high) / 2
            found = self._backlog(middle, None)
            there = np.inf if found is None else middle + found.rate * found.ttft_us
            if found is not None and there <= inside * (1 + 1e-9):
                low, best = middle, (middle, found)
            else:
                high = middle
            if high - low < 4e-3 * inside:
                break
        if best is None:
            raise Overload("no batch reads prompts as fast as it answers them")
        decoding, found = best
        ttft_us = found.ttft_us
        if decoding + found.rate * ttft_us < 0.95 * inside:
            # Reading cannot go faster: all that are not decoded are read, or wait for that.
            ttft_us = (inside - decoding) / found.rate
        waiting_us = (users - inside) / found.rate
        return Steady(
            found.rate,
            ttft_us + waiting_us,
            found.step_us + found.more_us * self.inverse / self.several,
            decoding,
            waiting_us,
        )

    @property
    def largest_rate(self) -> float:
        """Requests per us that can be answered in the long run: what a full house of users gets."""
        if self._largest is None:
            if self.decoded:
                self._largest = self.under_concurrency(self.most).rate
            else:
                budget = self.scheduler.token_budget
                full = float(self._step_us(0.0, np.asarray([float(budget)]), budget)[0])
                one = float(self._step_us(0.0, np.asarray([min(self.mean_new, float(budget))]), budget)[0])
                at_once = min(float(self.scheduler.largest_batch), budget / self.mean_new)
                self._largest = at_once / (full if at_once > 1 else one * max(1.0, self.mean_new / budget))
        return self._largest


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def compound_poisson(x: FloatArray, means: FloatArray, count: int) -> FloatArray:
    """The distribution of a sum of a Poisson number of independent variables with the probabilities `x`.

    One row for each mean; what exceeds `count` is left out.
    """
    length = _power_of_two(2 * count + len(x))
    spectrum = np.fft.rfft(x, length)
    found = np.fft.irfft(np.exp(means[:, None] * (spectrum[None, :] - 1)), length)
    return np.maximum(found[:, :count], 0.0)
