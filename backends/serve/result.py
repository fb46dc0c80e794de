"""What a service gives its users, and what it takes of the chips: the typed result of a serving estimate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

import numpy as np

from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.notebook import Tabular
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.traffic import Scheduler, Traffic


@dataclass(frozen=True)
class Latency:
    """A latency of requests, in us; percentiles are None where the engine knows means only."""

    mean_us: float
    p50_us: float | None = None
    p90_us: float | None = None
    p99_us: float | None = None

    @classmethod
    def of(cls, values: FloatArray) -> Latency:
        """The mean and the percentiles of some values."""
        return cls(float(values.mean()), *(float(found) for found in np.percentile(values, (50, 90, 99))))


@dataclass(frozen=True, repr=False)
class ServingResult(Tabular):
    """Latencies from the arrival of a request on, and throughput in the long run.

    TTFT ends with the first token; TPOT of a request is the time from its first to its last token over the tokens after
    the first; E2E ends with the last token.
    """

    model: str
    chip: str
    topology: str
    granularity: str
    accounting: str
    engine: str
    """`closed-form` or `events`."""
    ranks: int
    """Chips."""
    replicas: int
    """Data-parallel ranks, to which requests are dealt; each has a scheduler."""
    ttft: Latency
    tpot: Latency | None
    """None where every answer is one token."""
    e2e: Latency
    requests_per_s: float
    """Requests that are answered, of all chips."""
    tokens_per_s: float
    """Tokens that are written, of all chips."""
    tokens_per_s_per_chip: float
    largest_requests_per_s: float | None
    """What can be answered in the long run, of all chips (closed form); None for a trace."""
    load: float | None
    """Requests that arrive over the largest rate; None for a trace."""
    utilisation: float | None
    """The part of the time in which steps run; None from the closed form."""
    running: float
    """Requests on a data-parallel rank that are read or decoded, on average."""
    queue: float
    """Requests at a data-parallel rank that are not let in yet, on average."""
    simulated_requests: int
    """Requests that the figures are of; 0 from the closed form."""
    traffic: Traffic
    scheduler: Scheduler
    memory: Feasibility
    """Whether the DRAM of a chip has room for the largest batch of the longest requests; and how many it has room for.

    Where it has not, fewer are let in: the figures are what comes of that.
    """
    assumptions: tuple[str, ...]
    unvalidated: tuple[str, ...]
    """What the numbers rest on and was never validated against silicon; if anything, results are relative only."""
    lower_bound: bool
    """Whether no step can be faster on hardware of these rates."""

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order; new keys are only ever appended."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **own,
            "ttft": asdict(self.ttft),
            "tpot": None if self.tpot is None else asdict(self.tpot),
            "e2e": asdict(self.e2e),
            "traffic": self.traffic.model_dump(mode="json"),
            "scheduler": self.scheduler.model_dump(mode="json"),
            "memory": self.memory.to_dict(),
            "assumptions": list(self.assumptions),
            "unvalidated": list(self.unvalidated),
            "relative_only": bool(self.unvalidated),
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_rows(self) -> list[dict[str, object]]:
        """One mapping per latency."""
        found = {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}
        return [{"latency": name, **asdict(value)} for name, value in found.items() if value is not None]

    def __repr__(self) -> str:
        tpot = "" if self.tpot is None else f"TPOT {self.tpot.mean_us / 1e3:.3f} ms, "
        return (
            f"<{self.model}: served by {self.ranks} x {self.chip}, TTFT {self.ttft.mean_us / 1e3:.3f} ms, {tpot}"
            f"{self.requests_per_s:.3f} requests/s, {self.tokens_per_s_per_chip:.1f} tokens/s per chip>"
        )
