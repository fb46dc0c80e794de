"""How fast services are estimated, and how far the closed form is from the simulation of the scheduler.

    python benchmarks/serving.py [--settings 200] [--requests 20000]

Settings are random: batch, token budget, both policies, prompts and answers of four kinds of distributions, part of the
prompt in the cache, load from 10% to 80% of the largest sustainable rate; steps take a part that does not depend on
the tokens, a part that does beyond a knee, and attention.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from pmc.backends.serve.cache_room import CacheRoom
from pmc.backends.serve.closed_form import ClosedForm
from pmc.backends.serve.events import simulate
from pmc.backends.serve.requests import drawn_requests
from pmc.backends.serve.step_times import StepTimes, Table
from pmc.dialects.traffic import Lengths, Scheduler, Traffic, parse_lengths

ROOM = CacheRoom("any", 10**15, 0, 0, 0, 10**6, (0, 1))
"""Room for whatever comes."""


def random_times(random: np.random.Generator, batch: int, budget: int, longest_prompt: int, context: int) -> StepTimes:
    """Steps of a chip that reads weights in 1 to 20 ms and multiplies 60 to 400 tokens in that time."""
    weights_us = math.exp(random.uniform(math.log(1000), math.log(20000)))
    knee = random.uniform(60, 400)
    tokens = np.arange(max(batch, budget) + 1.0)
    tokens_us = 0.8 * np.maximum(weights_us, weights_us * tokens / knee) + 0.2 * weights_us * (1 + tokens / knee)
    tokens_us[0] = 0.0
    cache_us = weights_us * random.uniform(0.1, 1) / (64 * 4096)
    decode_us = np.outer(np.arange(batch + 1), np.linspace(1, context, 65) * cache_us)
    new = np.arange(min(budget, longest_prompt) + 1)
    before = np.linspace(0, longest_prompt, 33)
    attention_us = weights_us / knee * random.uniform(0.02, 0.3) / 4096
    prefill_us = attention_us * new[:, None] * (before[None, :] + new[:, None] / 2)
    return StepTimes(
        tuple(tokens_us.tolist()),
        (0.0, *[0.05 * weights_us] * batch),
        Table(decode_us, 1.0, (context - 1) / 64),
        Table(prefill_us, 0.0, longest_prompt / 32),
    )


def random_lengths(random: np.random.Generator, shortest: int, longest: int) -> str:
    """A constant, a uniform, a lognormal distribution or a histogram, around a length between two."""
    middle = int(math.exp(random.uniform(math.log(shortest), math.log(longest))))
    kinds = (
        str(middle),
        f"uniform:{middle // 2}-{middle * 3 // 2}",
        f"lognormal:{middle},0.5,{6 * middle}",
        f"histogram:{max(middle // 4, 2)}=1,{middle}=2,{2 * middle}=1",
    )
    return kinds[random.integers(len(kinds))]


def random_setting(seed: int) -> tuple[StepTimes, Scheduler, Traffic, float]:
    """Times of steps, a scheduler, a traffic without its rate, and a load."""
    random = np.random.default_rng(seed)
    batch = int(random.choice([8, 16, 32, 64, 128, 256]))
    scheduler = Scheduler(
        policy=random.choice(["mixed", "prefill-first"]).item(),
        largest_batch=batch,
        token_budget=max(batch, int(random.choice([512, 1024, 2048, 4096, 8192]))),
        headroom=0.0,
        kv_block_tokens=16,
    )
    traffic = Traffic(
        rate=1.0,
        concurrency=None,
        input_length=parse_lengths(random_lengths(random, 128, 8192), "isl"),
        output_length=parse_lengths(random_lengths(random, 32, 1024), "osl"),
        prefix_share=float(random.choice([0.0, 0.0, 0.5])),
    )
    longest = traffic.input_length.longest
    times = random_times(random, batch, scheduler.token_budget, longest, traffic.longest_context)
    return times, scheduler, traffic, float(random.uniform(0.1, 0.8))


def _text(lengths: Lengths) -> str:
    return str(lengths.model_dump())


def main() -> None:
    """Print a line per setting and the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000)
    given = parser.parse_args()
    errors: list[tuple[float, float]] = []
    seconds = {"closed form": 0.0, "simulation": 0.0}
    for seed in range(given.settings):
        times, scheduler, traffic, load = random_setting(seed)
        begin = time.process_time()
        form = ClosedForm(times, scheduler, traffic, ROOM)
        rate = load * form.largest_rate
        found = form.under_rate(rate)
        middle = time.process_time()
        requests = drawn_requests(traffic.model_copy(update={"rate": rate * 1e6}), 1, given.requests, seed)
        served = simulate(times, scheduler, traffic, ROOM, requests)
        seconds["closed form"] += middle - begin
        seconds["simulation"] += time.process_time() - middle
        assert found.tpot_us is not None
        means = served.ttft_us.mean(), served.tpot_us.mean()
        errors.append((found.ttft_us / means[0] - 1, found.tpot_us / means[1] - 1))
        print(
            f"{seed:4} TTFT {errors[-1][0]:+6.1%} TPOT {errors[-1][1]:+6.1%}  load {load:.2f} {scheduler.policy} "
            f"batch {scheduler.largest_batch} budget {scheduler.token_budget} "
            f"{_text(traffic.input_length)} in, {_text(traffic.output_length)} out, cached {traffic.prefix_share}",
            flush=True,
        )
    for name, column in zip(("TTFT", "TPOT"), np.abs(np.asarray(errors)).T, strict=True):
        print(
            f"{name}: median {np.median(column):.1%}, p90 {np.percentile(column, 90):.1%}, largest {column.max():.1%}, "
            f"within 5%: {(column < 0.05).mean():.1%}"
        )
    simulated = given.settings * given.requests * 1.4
    print(
        f"closed form {seconds['closed form'] / given.settings * 1e3:.0f} ms a setting, simulation "
        f"{simulated / seconds['simulation']:.0f} requests a second of CPU time"
    )


if __name__ == "__main__":
    main()
