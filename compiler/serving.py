"""Serving estimates from the Python API and the command line.

module = compile_service(load_model("llama-3.1-8b"), chip, topology, deployment, traffic, scheduler)
print(serve_module(module, EvaluationOptions("core"), "events").ttft.p99_us)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from pydantic import ValidationError
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.serve.requests import Requests
from pmc.backends.serve.result import ServingResult
from pmc.backends.serve.service import Engine, Service
from pmc.compiler.driver import compile_model
from pmc.compiler.evaluation import EvaluationOptions, request_deployments
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema, explain
from pmc.dialects.serve import PHASES, ServiceOp, service_of
from pmc.dialects.traffic import HistogramLengths, Lengths, LengthShare, Scheduler, Traffic, parse_lengths

REQUESTS = 4000
"""Requests that a simulation looks at, where nothing is said about it."""


def compile_service(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    traffic: Traffic,
    scheduler: Scheduler,
    accounting: Accounting | None = None,
) -> ModuleOp:
    """A module with the programs of both phases for the longest requests, the traffic and the scheduler.

    The batch and the chunk of prefill of the deployment become those of the scheduler.  Raises PmcError as
    `compile_model`, and for what decode cannot do (cp).
    """
    own = deployment.model_copy(
        update={"batch": scheduler.largest_batch * deployment.dp, "prefill_chunk": scheduler.token_budget}
    )
    phases = request_deployments(own, traffic.input_length.longest, traffic.output_length.longest)
    programs = {
        name: compile_model(model.clone(), chip, topology, phase, "dist", accounting=accounting)
        for name, phase in zip(PHASES, phases, strict=True)
    }
    name = next(op for op in programs["prefill"].ops).properties["sym_name"]
    return ModuleOp([ServiceOp.of(str(getattr(name, "data", "")), traffic, scheduler, programs)])


def service_in(module: ModuleOp, options: EvaluationOptions) -> Service:
    """What answers questions about the service of a module.  Raises PmcError as `Service` does."""
    op = service_of(module)
    prefill, decode = (options.evaluator(op.program(phase)) for phase in PHASES)
    return Service(prefill, decode, op.traffic.data, op.scheduler.data)


def serve_module(
    module: ModuleOp,
    options: EvaluationOptions,
    engine: Engine = "events",
    requests: int = REQUESTS,
    seed: int = 0,
    trace: Requests | None = None,
) -> ServingResult:
    """The estimate for the service of a module under its traffic, or what becomes of the requests of a trace.

    Raises PmcError.
    """
    service = service_in(module, options)
    if trace is not None:
        if engine != "events":
            raise PmcError("a trace is replayed by the engine events: the closed form knows distributions only")
        return service.replay(trace)
    return service.estimate(service.traffic, engine, requests, seed)


def scheduler_of(
    policy: str, largest_batch: int, token_budget: int, headroom: float, kv_block_tokens: int
) -> Scheduler:
    """The scheduler of these fields, checked.  Raises PmcError."""
    return _checked(
        Scheduler,
        {
            "policy": policy,
            "largest_batch": largest_batch,
            "token_budget": token_budget,
            "headroom": float(headroom),
            "kv_block_tokens": kv_block_tokens,
        },
    )


def traffic_of(
    rate: float | None,
    concurrency: int | None,
    isl: int | str | Lengths | None,
    osl: int | str | Lengths | None,
    prefix_share: float,
    trace: Requests | None,
) -> Traffic:
    """The traffic of these fields, or that of a trace.  Raises PmcError for what is missing, or given twice."""
    given = {"rate": rate, "concurrency": concurrency, "isl": isl, "osl": osl}
    if trace is not None:
        said = [name for name, value in given.items() if value is not None]
        if said:
            raise PmcError(f"a trace says when requests arrive and how long they are: leave out {', '.join(said)}")
        return _traffic_of_trace(trace, prefix_share)
    missing = [name for name in ("isl", "osl") if given[name] is None]
    if missing:
        raise PmcError(f"missing {', '.join(missing)}: serving needs the tokens in and out of requests, or a trace")
    if (rate is None) == (concurrency is None):
        found = "neither" if rate is None else "both"
        raise PmcError(f"serving needs a rate (requests per second) or a concurrency (users), found {found}")
    fields = {
        "rate": None if rate is None else float(rate),
        "concurrency": concurrency,
        "input_length": _lengths(isl, "isl"),
        "output_length": _lengths(osl, "osl"),
        "prefix_share": float(prefix_share),
    }
    return _checked(Traffic, fields)


def _lengths(given: int | str | Lengths | None, name: str) -> Lengths:
    return given if isinstance(given, Lengths) else parse_lengths(str(given), name)


SchemaT = TypeVar("SchemaT", bound=Schema)


def _checked(schema: type[SchemaT], fields: Mapping[str, object]) -> SchemaT:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise PmcError(f"{schema.__name__.lower()}: {explain(error, schema)[1]}") from None


def _traffic_of_trace(trace: Requests, prefix_share: float) -> Traffic:
    """The distribution of a trace: its mean rate, and its lengths each by themselves."""
    assert trace.arrival_us is not None
    span_s = float(trace.arrival_us[-1] - trace.arrival_us[0]) / 1e6

    def lengths(values: object) -> Lengths:
        found, times = np.unique(np.asarray(values), return_counts=True)
        pairs = zip(found.tolist(), times.tolist(), strict=True)
        return HistogramLengths(histogram=tuple(LengthShare(tokens=n, weight=float(w)) for n, w in pairs))

    rate = (len(trace) - 1) / span_s if span_s else None
    fields = {
        "rate": rate,
        "concurrency": len(trace) if rate is None else None,
        "input_length": lengths(trace.prompts),
        "output_length": lengths(trace.outputs),
        "prefix_share": float(prefix_share),
    }
    return _checked(Traffic, fields)
