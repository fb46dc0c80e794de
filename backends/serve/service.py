"""The estimate of a service: its programs, traffic and scheduler in, latencies and throughput out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from pmc.backends.evaluate.aggregate import ranks_of
from pmc.backends.evaluate.assumptions import checkpoint_assumptions, held_rows
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.serve.cache_room import CacheRoom
from pmc.backends.serve.closed_form import ClosedForm, Overload
from pmc.backends.serve.events import Served, simulate
from pmc.backends.serve.requests import Requests, drawn_requests, users_of
from pmc.backends.serve.result import Latency, ServingResult
from pmc.backends.serve.step_times import StepTimes, StepTimesOf
from pmc.dialects.errors import PmcError
from pmc.dialects.traffic import Scheduler, Traffic

Engine = Literal["closed-form", "events"]
"""How latencies follow from the times of steps."""


SAMPLED = (
    "tiles are searched for steps of some sizes, in steps of a factor of 1.5, and lines drawn between: up to 10% off"
)
"""Said of a granularity that looks at one shape at a time."""


class DoesNotFit(PmcError):
    """The DRAM of a chip has no room for a single request."""


class Service:
    """Programs on their chips with a scheduler: answers what becomes of a traffic."""

    def __init__(self, prefill: StepEvaluator, decode: StepEvaluator, traffic: Traffic, scheduler: Scheduler) -> None:
        """Of the traffic the lengths and the cached prefix matter; rates can be asked for later.

        Raises DoesNotFit where no request of the longest lengths fits, and PmcError for programs whose steps the model
        of a service does not cover.
        """
        self.parts = StepTimesOf(prefill, decode)
        self.prefill, self.decode = prefill, decode
        self.traffic, self.scheduler = traffic, scheduler
        self.replicas = decode.replicas
        self.room = CacheRoom.of(prefill.module, decode.module, self.replicas, scheduler, traffic)
        self.memory = self.room.feasibility(scheduler.largest_batch)
        if not self.room.feasibility(1).fits:
            raise DoesNotFit(f"not a single request: {self.room.feasibility(1).verdict}")
        self.times: StepTimes = self.parts.tables(
            scheduler.largest_batch, scheduler.token_budget, traffic.input_length.longest, traffic.longest_context
        )
        self.closed_form = ClosedForm(self.times, scheduler, traffic, self.room)

    @property
    def largest_rate(self) -> float:
        """Requests per second that can be answered in the long run, by all data-parallel ranks."""
        return self.closed_form.largest_rate * self.replicas * 1e6

    def estimate(self, traffic: Traffic, engine: Engine, count: int, seed: int) -> ServingResult:
        """What becomes of a traffic with the lengths of this service; `count` and `seed` are for simulations.

        Raises Overload where more arrives than can be answered, and PmcError.
        """
        if engine not in get_args(Engine):
            raise PmcError(f"unknown engine '{engine}'; must be one of {', '.join(get_args(Engine))}")
        if traffic.rate is not None and traffic.rate >= self.largest_rate:
            raise Overload(
                f"overload: {traffic.rate:g} requests/s arrive, the largest sustainable rate is about "
                f"{self.largest_rate:.4g} requests/s"
            )
        if engine == "closed-form":
            return self._means(traffic)
        for name, value, least in (("requests", count, 1), ("seed", seed, 0)):
            if value < least:
                raise PmcError(f"{name} is {value}, must be at least {least}")
        users = None if traffic.concurrency is None else users_of(traffic, self.replicas)
        requests = drawn_requests(traffic, self.replicas, count, seed)
        served = simulate(self.times, self.scheduler, traffic, self.room, requests, users)
        return self._result(traffic, [served], self.replicas, engine)

    def replay(self, requests: Requests) -> ServingResult:
        """What becomes of the requests of a trace, which are dealt out in turn to the data-parallel ranks."""
        parts = requests.dealt(self.replicas)
        served = [simulate(self.times, self.scheduler, self.traffic, self.room, part) for part in parts]
        return self._result(self.traffic, served, 1, "events", requests)

    def _means(self, traffic: Traffic) -> ServingResult:
        form = self.closed_form
        if traffic.rate is not None:
            found = form.under_rate(traffic.rate / self.replicas / 1e6)
        else:
            found = form.under_concurrency(users_of(traffic, self.replicas))
        rate = found.rate * 1e6 * self.replicas
        tpot = None if found.tpot_us is None else Latency(found.tpot_us)
        decoding_us = 0.0 if found.tpot_us is None else found.tpot_us * form.decoded
        reading = found.rate * (found.ttft_us - found.waiting_us)
        return self._filled(
            traffic=traffic,
            engine="closed-form",
            ttft=Latency(found.ttft_us),
            tpot=tpot,
            e2e=Latency(found.ttft_us + decoding_us),
            requests_per_s=rate,
            tokens_per_s=rate * (form.decoded + 1),
            running=found.decoding + reading,
            queue=found.rate * found.waiting_us,
        )

    def _result(
        self, traffic: Traffic, ranks: Sequence[Served], times: int, engine: Engine, trace: Requests | None = None
    ) -> ServingResult:
        """The figures of simulated ranks, each of which stands for so many."""
        ttft, tpot, e2e = (
            np.concatenate([getattr(served, name) for served in ranks]) for name in ("ttft_us", "tpot_us", "e2e_us")
        )
        running, queue = (
            float(np.concatenate(found).mean())
            for found in (
                [served.end_us - served.start_us for served in ranks],
                [served.start_us - served.arrival_us for served in ranks],
            )
        )
        if trace is None:
            (served,) = ranks
            finished, tokens, span_s = served.finished, served.finished_tokens, served.span_us / 1e6
            if not span_s:
                raise PmcError("a single request has no rate: simulate more requests")
            rate = times * finished / span_s
            written = times * tokens / span_s
        else:
            assert trace.arrival_us is not None
            end_us = max(float(served.end_us.max()) for served in ranks)
            span_s = (end_us - float(trace.arrival_us[0])) / 1e6
            rate, written = len(trace) / span_s, float(trace.outputs.sum()) / span_s
        each = rate / self.replicas / 1e6
        return self._filled(
            traffic=traffic,
            engine=engine,
            ttft=Latency.of(ttft),
            tpot=Latency.of(tpot) if len(tpot) else None,
            e2e=Latency.of(e2e),
            requests_per_s=rate,
            tokens_per_s=written,
            running=each * running,
            queue=each * queue,
            utilisation=float(np.mean([served.busy for served in ranks])),
            simulated=len(ttft),
            trace=trace is not None,
        )

    def _filled(
        self,
        traffic: Traffic,
        engine: Engine,
        ttft: Latency,
        tpot: Latency | None,
        e2e: Latency,
        requests_per_s: float,
        tokens_per_s: float,
        running: float,
        queue: float,
        utilisation: float | None = None,
        simulated: int = 0,
        trace: bool = False,
    ) -> ServingResult:
        target, chips = self.prefill.target, ranks_of(self.prefill.target)
        largest = None if trace else self.largest_rate
        longest = traffic.longest_context
        return ServingResult(
            model=self.prefill.program.sym_name.data,
            chip=target.chip.name,
            topology=target.topology.name if target.topology is not None else "",
            granularity=self.prefill.granularity.value,
            accounting=self.prefill.accounting.name,
            engine=engine,
            ranks=chips,
            replicas=self.replicas,
            ttft=ttft,
            tpot=tpot,
            e2e=e2e,
            requests_per_s=requests_per_s,
            tokens_per_s=tokens_per_s,
            tokens_per_s_per_chip=tokens_per_s / chips,
            largest_requests_per_s=largest,
            load=None if largest is None else (traffic.rate or requests_per_s) / largest,
            utilisation=utilisation,
            running=running,
            queue=queue,
            simulated_requests=simulated,
            traffic=traffic,
            scheduler=self.scheduler,
            memory=self.memory,
            assumptions=(
                *([SAMPLED] if self.prefill.granularity.one_by_one else []),
                *held_rows(self.prefill.program, {"batch": self.replicas, "kv_len": longest}, target.chip),
                *checkpoint_assumptions(self.decode.module, {"kv_len": longest}),
            ),
            unvalidated=self.parts.unvalidated,
            lower_bound=self.prefill.model.is_lower_bound,
        )
