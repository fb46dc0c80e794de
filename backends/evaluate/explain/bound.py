"""Which engine binds an op, and how much faster it must be until the next one does."""

from __future__ import annotations

from dataclasses import dataclass

from pmc.backends.cost.breakdown import Breakdown, Engine, Part

CORES: frozenset[Engine] = frozenset({"matrix", "vector"})
"""Engines that work one after the other, as the models charge them."""


@dataclass(frozen=True)
class Bound:
    """What binds one execution of an op.  Times in us."""

    by: str
    """`matrix + vector` of the busiest core, an engine, or of a transfer its `latency` or its `transfer`."""
    us: float
    next: str
    """What takes longest of all others; empty where nothing else is asked for."""
    next_us: float

    @property
    def factor(self) -> float | None:
        """How many times as fast what binds must be until the next one binds; None where nothing else does."""
        return self.us / self.next_us if self.next_us > 0 else None

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {"by": self.by, "us": self.us, "next": self.next, "next_us": self.next_us, "factor": self.factor}


def bound_of(one: Breakdown) -> Bound | None:
    """What binds an op; None for one that takes no time.

    A transfer is latency and then bytes; anything else is the longest of computation and of the engines that move data.
    """
    terms: dict[str, float] = {}
    if one.parts.get(Part.LATENCY) or one.parts.get(Part.TRANSFER):
        terms = {part.value: one.parts.get(part, 0.0) for part in (Part.LATENCY, Part.TRANSFER)}
        terms |= {name: s for name, s in one.engines_s.items() if name != "link"}
    else:
        for engine, seconds in one.engines_s.items():
            name = " + ".join(e for e in ("matrix", "vector") if e in one.engines_s) if engine in CORES else engine
            terms[name] = terms.get(name, 0.0) + seconds
    ranked = sorted(((s * 1e6, name) for name, s in terms.items() if s > 0), key=lambda t: (-t[0], t[1]))
    if not ranked:
        return None
    second = ranked[1] if len(ranked) > 1 else (0.0, "")
    return Bound(ranked[0][1], ranked[0][0], second[1], second[0])
