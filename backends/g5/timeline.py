"""A simulated step as a timeline: kernels, the engines of cores, CDMA engines, bandwidth and LMEM over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import numpy as np

from pmc.backends.evaluate.timeline import Counter, Event, Timeline, Value, level_counter
from pmc.backends.g5.clock import PS_PER_US
from pmc.backends.g5.stream import Part, StepTimes
from pmc.backends.g5.times import LIMITS, REASONS, ProgramTimes
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ENGINES

KERNELS = "kernels"
"""The site that shows the kernels of the step, and the bandwidth of DRAM."""


def timeline(step: StepTimes, cores: Iterable[int]) -> Timeline:
    """The events of the step on some cores; equal layers are shown once.

    A kernel that runs in several layers is followed by the next one at the end of its first run, so the timeline is
    shorter than the step; `repeat` says how often it runs.
    """
    shown = sorted(set(cores))
    events: list[Event] = []
    read: list[tuple[float, float]] = []
    lmem: dict[int, list[tuple[float, float]]] = {core: [] for core in shown}
    begin = 0
    for part in step.parts:
        start = begin / PS_PER_US
        about = {"op": part.op}
        events.append(
            Event(KERNELS, "ops", part.path, part.path, start, part.duration_ps / PS_PER_US, part.count, about)
        )
        events += _sent(part, begin)
        if part.times is not None:
            times = part.times.unrolled()
            events += _commands(part, times, begin, shown)
            read += _dram(times, begin)
            for core in shown:
                lmem[core] += _port(times, begin, core)
        begin += part.duration_ps
    order = {engine: number for number, engine in enumerate(ENGINES)}
    events.sort(key=lambda event: (event.site != KERNELS, event.site, order.get(event.engine, -1), event.start_us))
    counters = [_grouped(level_counter(KERNELS, "DRAM GB/s", read))]
    counters += [_grouped(level_counter(f"core {core}", "LMEM port in use", changes)) for core, changes in lmem.items()]
    return Timeline(tuple(events), tuple(counter for counter in counters if counter.times_us))


def kernel_timeline(step: StepTimes, core: int, paths: str) -> Timeline:
    """One run of the kernel that takes longest of those whose path fits the pattern: its commands on a core, from 0.

    Raises PmcError where no kernel has such a path.
    """
    parts = [part for part in step.parts if part.times is not None and fnmatchcase(part.path, paths)]
    if not parts:
        raise PmcError(f"no kernel of the step has a path like '{paths}'")
    longest = max(parts, key=lambda part: part.count * part.duration_ps)
    assert longest.times is not None
    times = longest.times.unrolled()
    found = _commands(longest, times, 0, [core])
    order = {engine: number for number, engine in enumerate(ENGINES)}
    events = sorted(found, key=lambda event: (order[event.engine], event.start_us))
    if not events:
        raise PmcError(f"core {core} runs no command of the kernel at '{longest.path}'")
    counters = (
        _grouped(level_counter(KERNELS, "DRAM GB/s", _dram(times, 0))),
        _grouped(level_counter(f"core {core}", "LMEM port in use", _port(times, 0, core))),
    )
    return Timeline(tuple(events), tuple(counter for counter in counters if counter.times_us))


def _commands(part: Part, times: ProgramTimes, begin: int, cores: list[int]) -> Iterator[Event]:
    for index in np.flatnonzero(np.isin(times.core, cores)).tolist():
        start, end = (int(column[index]) for column in (times.start_ps, times.end_ps))
        why = {"after": REASONS[int(times.reason[index])], "ends_with": LIMITS[int(times.limit[index])]}
        engine = ENGINES[int(times.engine[index])]
        yield Event(
            f"core {int(times.core[index])}", engine, part.path, times.op(index).name,
            (begin + start) / PS_PER_US, (end - start) / PS_PER_US, part.count, why,
        )  # fmt: skip


def _sent(part: Part, begin: int) -> Iterator[Event]:
    """What the CDMA engines of the first chip send, on one track each per command that is at work at a time."""
    if part.moves is None or not part.moves.sent:
        return
    first = min(sent.source for sent in part.moves.sent)
    busy: dict[int, list[int]] = {}
    """Of every engine until when each of its tracks is taken."""
    for sent in sorted((s for s in part.moves.sent if s.source == first), key=lambda s: s.start_ps):
        tracks = busy.setdefault(sent.engine, [])
        track = next((i for i, until in enumerate(tracks) if until <= sent.start_ps), len(tracks))
        tracks[track : track + 1] = [sent.left_ps]
        about: dict[str, Value] = {"to chip": sent.target, "bytes": sent.size, "leaves with": sent.limit}
        yield Event(
            "CDMA", f"engine {sent.engine}.{track}", part.path, part.op,
            (begin + sent.start_ps) / PS_PER_US, (sent.left_ps - sent.start_ps) / PS_PER_US, part.count, about,
        )  # fmt: skip


def _dram(times: ProgramTimes, begin: int) -> Iterator[tuple[float, float]]:
    """Rises and falls of the bandwidth: the bytes of a read of DRAM over the time from its first byte to its last."""
    commands = times.commands
    share, group = commands.share[times.row], commands.group[times.row]
    sizes = commands.shares.sum(axis=1)
    owner = np.where(group >= 0, commands.group_owners[group] if len(commands.group_owners) else -1, times.core)
    for index in np.flatnonzero((share >= 0) & (owner == times.core)).tolist():
        first = int(times.start_ps[index]) + int(commands.fixed_ps[times.row[index]])
        last = int(times.end_ps[index])
        if last > first:
            gb_per_s = float(sizes[share[index]]) / (last - first) * 1e3
            yield (begin + first) / PS_PER_US, gb_per_s
            yield (begin + last) / PS_PER_US, -gb_per_s


def _port(times: ProgramTimes, begin: int, core: int) -> Iterator[tuple[float, float]]:
    """Rises and falls of the part of the bandwidth of LMEM that the DMA engines of a core use."""
    own = np.flatnonzero((times.core == core) & (times.commands.port_ps[times.row] > 0))
    for index in own.tolist():
        row = times.row[index]
        first, last = int(times.start_ps[index] + times.commands.fixed_ps[row]), int(times.end_ps[index])
        if last > first:
            used = float(times.commands.port_ps[row]) / (last - first)
            yield (begin + first) / PS_PER_US, used
            yield (begin + last) / PS_PER_US, -used


def _grouped(counter: Counter) -> Counter:
    """A counter with at most some thousand points, each the value at its time."""
    step = -(-len(counter.times_us) // 4000) or 1
    return Counter(counter.site, counter.name, counter.times_us[::step], counter.values[::step])
