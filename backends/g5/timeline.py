"""A simulated step as a trace that Perfetto and chrome://tracing open: cores as processes, engines as tracks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pmc.backends.g5.clock import PS_PER_US
from pmc.backends.g5.stream import Part, StepTimes
from pmc.backends.g5.times import LIMITS, REASONS
from pmc.dialects.g5 import ENGINES

KERNELS = 0
"""The process that shows the kernels of the step; core i is process i + 1."""


def trace(step: StepTimes, cores: Iterable[int]) -> dict[str, Any]:
    """The trace in the JSON form of the Trace Event Format, times in microseconds; equal layers are shown once.

    A kernel that runs in several layers is followed by the next one at the end of its first run, so the trace is
    shorter than the step; `args.runs` of a kernel says how often it runs.
    """
    shown = sorted(set(cores))
    events: list[dict[str, Any]] = [_named(KERNELS, "process_name", "kernels")]
    for core in shown:
        events.append(_named(core + 1, "process_name", f"core {core}"))
        events += [_named(core + 1, "thread_name", name, number) for number, name in enumerate(ENGINES)]
    begin = 0
    for part in step.parts:
        events.append(_slice(part.path, KERNELS, 0, begin, part.duration_ps, {"op": part.op, "runs": part.count}))
        events += _commands(part, begin, shown)
        begin += part.duration_ps
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _commands(part: Part, begin: int, cores: list[int]) -> Iterable[dict[str, Any]]:
    if part.times is None:
        return
    times = part.times.unrolled()
    wanted = set(cores)
    for index, core in enumerate(times.core.tolist()):
        if core in wanted:
            start, end = int(times.start_ps[index]), int(times.end_ps[index])
            why = {"after": REASONS[int(times.reason[index])], "ends_with": LIMITS[int(times.limit[index])]}
            yield _slice(times.op(index).name, core + 1, int(times.engine[index]), begin + start, end - start, why)


def _slice(name: str, process: int, track: int, start_ps: int, ps: int, args: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": start_ps / PS_PER_US, "dur": ps / PS_PER_US}
    return {"name": name, "ph": "X", "pid": process, "tid": track, **times, "args": args}


def _named(process: int, what: str, name: str, track: int = 0) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}
