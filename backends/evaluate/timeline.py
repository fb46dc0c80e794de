"""What happens when: one form for what the simulator finds and for the schedule of an evaluated step.

Tables, traces and pictures are written from it, whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float


@dataclass(frozen=True)
class Event:
    """Something that an engine does, with all of its runs; times in microseconds."""

    site: str
    """Where: `core 3`, `kernels`, `rank`."""
    engine: str
    """What of it is busy; one after the other on an engine."""
    path: str
    """The block of the model that it belongs to."""
    name: str
    start_us: float
    """Of the first run, from the start of the step."""
    duration_us: float
    """Of one run."""
    repeat: int = 1
    """How often it runs: layers of a repeat are alike."""
    args: Mapping[str, Value] = field(default_factory=dict[str, Value])


@dataclass(frozen=True)
class Counter:
    """A quantity over time: from each of its times on it has the value there."""

    site: str
    name: str
    times_us: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Timeline:
    """The events of a step, and quantities over it."""

    events: tuple[Event, ...]
    counters: tuple[Counter, ...] = ()

    @property
    def end_us(self) -> float:
        """When the last event that is shown ends."""
        return max((event.start_us + event.duration_us for event in self.events), default=0.0)

    def tracks(self) -> dict[str, list[str]]:
        """The engines of every site, in the order in which they come."""
        found: dict[str, list[str]] = {}
        for event in self.events:
            engines = found.setdefault(event.site, [])
            if event.engine not in engines:
                engines.append(event.engine)
        return found

    def trace(self) -> dict[str, Any]:
        """The JSON form of the Trace Event Format, which Perfetto and chrome://tracing open: sites are processes."""
        tracks = self.tracks()
        sites = list(dict.fromkeys([*tracks, *(counter.site for counter in self.counters)]))
        return {"traceEvents": list(self._trace_events(sites, tracks)), "displayTimeUnit": "ns"}

    def _trace_events(self, sites: list[str], tracks: Mapping[str, list[str]]) -> Iterator[dict[str, Any]]:
        for process, site in enumerate(sites):
            yield _named(process, 0, "process_name", site)
            for track, engine in enumerate(tracks.get(site, ())):
                yield _named(process, track, "thread_name", engine)
        for event in self.events:
            process, track = sites.index(event.site), tracks[event.site].index(event.engine)
            yield {
                "name": event.name, "cat": event.path, "ph": "X", "pid": process, "tid": track,
                "ts": event.start_us, "dur": event.duration_us,
                "args": {"path": event.path, "runs": event.repeat, **event.args},
            }  # fmt: skip
        for counter in self.counters:
            process = sites.index(counter.site)
            for time_us, value in zip(counter.times_us, counter.values, strict=True):
                yield {
                    "name": counter.name,
                    "ph": "C",
                    "pid": process,
                    "tid": 0,
                    "ts": time_us,
                    "args": {"value": value},
                }


def level_counter(site: str, name: str, changes: Iterable[tuple[float, float]]) -> Counter:
    """The sum over time of changes (time, by how much): what is in use, or bytes per second."""
    at: dict[float, float] = {}
    for time_us, by in changes:
        at[time_us] = at.get(time_us, 0.0) + by
    times = sorted(at)
    values: list[float] = []
    level = 0.0
    for time_us in times:
        level += at[time_us]
        values.append(max(0.0, level) if abs(level) > 1e-9 else 0.0)
    return Counter(site, name, tuple(times), tuple(values))


def _named(process: int, track: int, what: str, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}
