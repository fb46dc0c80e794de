"""Services: times of steps against the evaluation of programs, the simulation against textbook queues and against
itself taken step by step, the closed form against the simulation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

import pmc
from pmc.backends.serve.cache_room import CacheRoom
from pmc.backends.serve.closed_form import ClosedForm, Overload
from pmc.backends.serve.events import simulate
from pmc.backends.serve.requests import Requests, drawn_requests
from pmc.backends.serve.service import DoesNotFit
from pmc.backends.serve.step_times import StepTimes, StepTimesOf, Table
from pmc.compiler.evaluation import EvaluationOptions
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.traffic import Scheduler, Traffic, parse_lengths

ROOM = CacheRoom("any", 10**15, 0, 0, 0, 10**6, (0, 1))


def scheduler(policy: str = "mixed", batch: int = 8, budget: int = 64) -> Scheduler:
    return Scheduler.model_validate(
        {"policy": policy, "largest_batch": batch, "token_budget": budget, "headroom": 0.0, "kv_block_tokens": 16}
    )


def traffic(
    rate: float | None = 1.0, users: int | None = None, isl: str = "100", osl: str = "1", cached: float = 0.0
) -> Traffic:
    lengths = {"input_length": parse_lengths(isl, "isl"), "output_length": parse_lengths(osl, "osl")}
    return Traffic.model_validate({"rate": rate, "concurrency": users, "prefix_share": cached, **lengths})


def plain_times(tokens_us: FloatArray) -> StepTimes:
    """Steps whose time depends on the number of tokens only."""
    rows = np.zeros((len(tokens_us), 1))
    nothing = Table(rows, 1.0, 1.0)
    return StepTimes(tuple(tokens_us.tolist()), tuple(0.0 for _ in tokens_us), nothing, nothing)


def real_times(batch: int = 8, budget: int = 64, longest: int = 400) -> StepTimes:
    """Steps with a constant part, a part per token and attention, in us."""
    tokens_us = 900.0 + 12.0 * np.arange(max(batch, budget) + 1)
    tokens_us[0] = 0.0
    decode_us = np.outer(np.arange(batch + 1), 0.5 * np.linspace(1, longest, 9))
    new, before = np.arange(budget + 1), np.linspace(0, longest, 9)
    prefill_us = 0.01 * new[:, None] * (before[None, :] + new[:, None] / 2)
    rows = tuple(40.0 * (n > 0) for n in range(batch + 1))
    spacing = (longest - 1) / 8
    return StepTimes(
        tuple(tokens_us.tolist()), rows, Table(decode_us, 1.0, spacing), Table(prefill_us, 0.0, longest / 8)
    )


# -- times of steps -------------------------------------------------------------------------------------------------


def programs(model: str, deployment: str, overrides: dict[str, object]) -> tuple[ModuleOp, ModuleOp]:
    prefill, decode = (
        pmc.compile(model, "sg2262", "p1-r1-b4-c32", deployment, overrides={**overrides, "deployment.phase": phase})
        for phase in ("prefill", "decode")
    )
    return prefill.op, decode.op


@pytest.mark.parametrize(
    ("model", "deployment", "overrides", "granularity"),
    [
        ("llama-3.1-8b", "llama-8b-decode", {"deployment.tp": 2}, "chip"),
        # absorbed and expanded MLA, experts, an LM head over all ranks of a stage; dp = 32
        ("deepseek-v3", "dsv3-decode-ep32", {"accounting.expert_load": "balanced"}, "core"),
    ],
)
def test_a_step_of_one_phase_takes_what_its_program_takes(
    model: str, deployment: str, overrides: dict[str, object], granularity: str
) -> None:
    options = EvaluationOptions(granularity)
    prefill, decode = (options.evaluator(module) for module in programs(model, deployment, overrides))
    parts = StepTimesOf(prefill, decode)
    times, ranks = parts.tables(64, 1024, 2048, 4096), parts.replicas
    for sequences, context in ((1, 1), (7, 4096), (64, 4096)):
        bindings = {"batch": sequences * ranks, "q_len": 1, "kv_len": context}
        found = times.decode_us(sequences, context)
        assert found == pytest.approx(decode.step(bindings).total_us, rel=1e-9)
    for new, before in ((1, 0), (1024, 0), (1024, 1024)):  # sizes of the table
        bindings = {"batch": ranks, "q_len": new, "kv_len": new + before}
        found = times.step_us(0, 0.0, [(new, before)], 1)
        assert found == pytest.approx(prefill.step(bindings).total_us, rel=1e-3 if before else 1e-9)
    # Between sizes lines are drawn.
    bindings = {"batch": ranks, "q_len": 700, "kv_len": 700}
    expected = prefill.step(bindings).total_us
    assert times.step_us(0, 0.0, [(700, 0)], 1) == pytest.approx(expected, rel=2e-3)
    # Weights are read once for both; so it takes longer than either, and less than both one after the other.
    alone, other = times.decode_us(32, 2000), times.step_us(0, 0.0, [(300, 0)], 1)
    both = times.step_us(32, 2000, [(300, 0)], 1)
    assert max(alone, other) < both < alone + other
    # So does the LM head, for all that are sampled from.
    assert 0 < times.rows_us[33] < times.rows_us[32] + times.rows_us[1]


def test_the_sum_over_steps_is_that_of_single_steps() -> None:
    times = real_times()
    for sequences, context, steps in ((3, 20.5, 50), (8, 1.0, 300), (1, 399.0, 2)):
        one_by_one = sum(times.decode_us(sequences, context + step) for step in range(steps))
        assert times.decode_us(sequences, context, steps) == pytest.approx(one_by_one, rel=1e-12)


def test_programs_that_the_model_does_not_cover_are_refused() -> None:
    serve = partial(pmc.serve, rate=1.0, isl=100, osl=10)
    args = ("llama-3.1-8b", "h100-sxm", "nvlink-8", "llama-8b-decode")
    with pytest.raises(PmcError, match="serving needs pp = 1"):
        serve(*args, overrides={"deployment.pp": 2})
    with pytest.raises(PmcError, match="serving needs a granularity other than commands"):
        serve("llama-3.1-8b", "sg2262", "p1-r1-b1-c8", "llama-8b-decode", granularity="commands")
    with pytest.raises(DoesNotFit, match=r"not a single request: does not fit: .*most of it for reserve"):
        serve(*args, headroom=0.9)


def test_the_cache_takes_whole_blocks_and_what_is_left_by_weights() -> None:
    found = pmc.serve(
        "llama-3.1-8b", "h100-sxm", "nvlink-8", "llama-8b-decode", rate=1.0, isl=100, osl=30, requests=20,
        kv_block_tokens=64, largest_batch=10,
    )  # fmt: skip
    # 32 layers of 8 heads of 128 keys and values in BF16; 129 tokens are 3 blocks of 64 of them
    assert found.memory.parts["states"] == 10 * 192 * 32 * 2 * 8 * 128 * 2
    # 10% of 80 GiB
    assert found.memory.parts["reserve"] == 8 * 2**30
    each = found.memory.parts["states"] // 10
    free = found.memory.capacity_bytes - found.memory.total_bytes
    assert found.memory.largest_batch == 10 + free // each


# -- the simulation -------------------------------------------------------------------------------------------------


def interval(values: FloatArray, batches: int = 40) -> tuple[float, float]:
    """The mean, and half of its 99% confidence interval by the method of batch means.

    Batches are long against the time that waiting remembers, so that their means are as good as independent; 2.71 is
    the quantile of Student's distribution with 39 degrees of freedom.
    """
    means = values[: len(values) // batches * batches].reshape(batches, -1).mean(axis=1)
    return float(values.mean()), 2.71 * float(means.std(ddof=1)) / batches**0.5


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_with_constant_service_is_an_m_d_1_queue(load: float) -> None:
    """Pollaczek and Khinchine: W = rate E[S^2] / 2 (1 - load), with S = 1000 us: load / 2 (1 - load) ms."""
    one, times = scheduler("prefill-first", batch=1, budget=128), plain_times(np.asarray([0.0] + [1000.0] * 128))
    requests = drawn_requests(traffic(rate=load * 1e3), 1, 60_000, seed=3)
    served = simulate(times, one, traffic(rate=load * 1e3), ROOM, requests)
    mean, half = interval(served.ttft_us - 1000.0)
    assert abs(mean - 1000.0 * load / (2 * (1 - load))) < half
    assert half < 0.1 * mean
    assert served.busy == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_one_server_with_exponential_service_is_an_m_m_1_queue(load: float) -> None:
    """Time in the system: 1 / (mu - rate) = 1 ms / (1 - load).  Steps take 0.3 us a token, prompts are exponential."""
    budget = 2**15
    one, times = scheduler("prefill-first", batch=1, budget=budget), plain_times(0.3 * np.arange(budget + 1.0))
    drawn = drawn_requests(traffic(rate=load * 1e3), 1, 60_000, seed=4)
    tokens = np.random.default_rng(5).exponential(1000 / 0.3, len(drawn))
    requests = replace(drawn, prompts=np.clip(np.ceil(tokens), 1, budget).astype(np.int64))
    served = simulate(times, one, traffic(), ROOM, requests)
    mean, half = interval(served.ttft_us)
    assert abs(mean - 1000.0 / (1 - load)) < half
    assert half < 0.1 * mean


def step_by_step(
    times: StepTimes, rules: Scheduler, prompts: list[int], outputs: list[int], arrivals: list[float]
) -> tuple[FloatArray, FloatArray]:
    """The same scheduler, written as its description reads, a step at a time."""
    now, waiting = 0.0, list(range(len(prompts)))
    running: list[int] = []
    read, written = [0] * len(prompts), [0] * len(prompts)
    first, end = [0.0] * len(prompts), [0.0] * len(prompts)
    while waiting or running:
        if not running and arrivals[waiting[0]] > now:
            now = arrivals[waiting[0]]
        while waiting and arrivals[waiting[0]] <= now and len(running) < rules.largest_batch:
            running.append(waiting.pop(0))
        reading = [i for i in running if read[i] < prompts[i]]
        decoding = [i for i in running if read[i] == prompts[i]]
        if reading and rules.policy == "prefill-first":
            decoding = []
        left = rules.token_budget - len(decoding)
        chunks: list[tuple[int, int]] = []
        ended: list[int] = []
        for i in reading:
            new = min(left, prompts[i] - read[i])
            if new:
                chunks.append((new, read[i]))
                read[i] += new
                left -= new
                if read[i] == prompts[i]:
                    ended.append(i)
        # The first step attends to the prompt and the token that came out of it.
        context = float(np.mean([prompts[i] + written[i] for i in decoding])) if decoding else 0.0
        now += times.step_us(len(decoding), context, chunks, len(ended))
        for i in decoding:
            written[i] += 1
        for i in ended:
            first[i], written[i] = now, 1
        for i in [*decoding, *ended]:
            if written[i] == outputs[i]:
                end[i] = now
                running.remove(i)
    return np.asarray(first), np.asarray(end)


@pytest.mark.parametrize("policy", ["mixed", "prefill-first"])
@pytest.mark.parametrize("gap_us", [500.0, 20_000.0, 200_000.0])
def test_steps_taken_together_are_steps_taken_one_by_one(policy: str, gap_us: float) -> None:
    random = np.random.default_rng(8)
    prompts, outputs = random.integers(1, 200, 80), random.integers(1, 60, 80)
    arrivals = np.cumsum(random.exponential(gap_us, 80))
    times, rules = real_times(), scheduler(policy)
    served = simulate(times, rules, traffic(), ROOM, Requests(arrivals, prompts, outputs))
    first, end = step_by_step(times, rules, prompts.tolist(), outputs.tolist(), arrivals.tolist())
    np.testing.assert_allclose(served.first_us, first, rtol=1e-9)
    np.testing.assert_allclose(served.end_us, end, rtol=1e-9)


def test_room_for_two_requests_lets_two_in() -> None:
    """Constant steps of 100 us: of three requests of 1 + 5 tokens at once, the third waits for the others."""
    times, rules = plain_times(np.asarray([0.0] + [100.0] * 64)), scheduler(batch=8)
    requests = Requests(np.zeros(3), np.full(3, 1), np.full(3, 5))
    room = replace(ROOM, capacity_bytes=2)
    served = simulate(times, rules, traffic(), room, requests)
    assert served.start_us.tolist() == [0.0, 0.0, 500.0]
    assert served.end_us.tolist() == [500.0, 500.0, 1000.0]
    with pytest.raises(PmcError, match=r"request 1 of 1 \+ 5 tokens needs 1 bytes of cache, the rank has 0"):
        simulate(times, rules, traffic(), replace(ROOM, capacity_bytes=0), requests)


def test_what_is_in_the_cache_is_not_read() -> None:
    """100 tokens of which 75% are there: a step of 25 tokens behind 75."""
    times, rules = real_times(), scheduler()
    served = simulate(times, rules, traffic(cached=0.75), ROOM, Requests(np.zeros(1), np.full(1, 100), np.ones(1, int)))
    assert served.ttft_us[0] == pytest.approx(times.step_us(0, 0.0, [(25, 75)], 1))


def test_a_seed_gives_the_same_requests() -> None:
    asked = traffic(rate=5.0, isl="uniform:10-100", osl="lognormal:20,0.5,100")
    first, again, other = (drawn_requests(asked, 1, 50, seed) for seed in (1, 1, 2))
    assert first.arrival_us is not None and again.arrival_us is not None
    assert (first.arrival_us == again.arrival_us).all() and (first.prompts == again.prompts).all()
    assert (first.prompts != other.prompts).any()


# -- the closed form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "batch", "budget", "isl", "osl", "load"),
    [
        ("mixed", 32, 512, "uniform:50-300", "uniform:20-100", 0.3),
        ("mixed", 64, 256, "lognormal:200,0.5,350", "80", 0.6),
        ("mixed", 6, 512, "uniform:50-300", "uniform:20-100", 0.5),  # a quarter of the TTFT is the wait for a place
        ("prefill-first", 32, 512, "150", "uniform:30-50", 0.4),
        ("prefill-first", 64, 256, "histogram:50=1,300=1", "histogram:40=1,120=1", 0.5),
    ],
)
def test_the_closed_form_agrees_with_the_simulation(
    policy: str, batch: int, budget: int, isl: str, osl: str, load: float
) -> None:
    times, rules, asked = (
        real_times(batch, budget, 450),
        scheduler(policy, batch, budget),
        traffic(1.0, isl=isl, osl=osl),
    )
    form = ClosedForm(times, rules, asked, ROOM)
    rate = load * form.largest_rate
    found = form.under_rate(rate)
    requests = drawn_requests(asked.model_copy(update={"rate": rate * 1e6}), 1, 20_000, seed=1)
    served = simulate(times, rules, asked, ROOM, requests)
    assert found.ttft_us == pytest.approx(served.ttft_us.mean(), rel=0.05)
    assert found.tpot_us == pytest.approx(served.tpot_us.mean(), rel=0.05)
    # The largest rate is what a full house of users gets.
    full = drawn_requests(traffic(None, batch, isl=isl, osl=osl), 1, 3000, seed=1)
    saturated = simulate(times, rules, asked, ROOM, full, batch)
    assert form.largest_rate == pytest.approx(saturated.finished / saturated.span_us, rel=0.04)
    with pytest.raises(Overload, match="overload"):
        form.under_rate(1.01 * form.largest_rate)


def test_users_are_shared_by_the_ranks_or_refused() -> None:
    with pytest.raises(
        PmcError, match="concurrency 30 cannot be shared equally by 4 data-parallel ranks: give a multiple"
    ):
        pmc.serve(
            "llama-3.1-8b", "h100-sxm", "nvlink-8", "llama-8b-decode", concurrency=30, isl=10, osl=10,
            overrides={"deployment.dp": 4},
        )  # fmt: skip


@pytest.mark.parametrize("policy", ["mixed", "prefill-first"])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_request_that_is_alone_takes_what_its_steps_take(policy: str, batch: int) -> None:
    """At a rate of almost nothing: chunks of 64 and 36 tokens, then four steps that attend to 101 tokens and more."""
    times, rules, asked = real_times(batch), scheduler(policy, batch), traffic(isl="100", osl="5")
    found = ClosedForm(times, rules, asked, ROOM).under_rate(1e-12)
    first_us = times.step_us(0, 0.0, [(64, 0)], 0) + times.step_us(0, 0.0, [(36, 64)], 1)
    assert found.ttft_us == pytest.approx(first_us, rel=0.02)
    assert found.tpot_us == pytest.approx(times.decode_us(1, 101, 4) / 4, rel=1e-3)
