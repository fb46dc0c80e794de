"""Two evaluations side by side, op by op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pmc.backends.evaluate.analyses.table import Analysis, Row, conditions_of
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.metrics import EngineResult, StepMetrics


@dataclass(frozen=True)
class Side:
    """The executions of an op in one evaluation, over all stages, in one step of one rank per stage."""

    count: int
    flops: int
    bytes: int
    link_bytes: int
    time_us: float


@dataclass(frozen=True)
class ComparedOp:
    """An op by path and kind; a side is None where its program has no such op."""

    path: str
    op: str
    a: Side | None
    b: Side | None

    @property
    def found_in(self) -> Literal["both", "a", "b"]:
        """Which programs have it."""
        return "both" if self.a is not None and self.b is not None else "a" if self.b is None else "b"

    @property
    def ratio(self) -> float | None:
        """Time of b over time of a; None where one has no such op, or it takes no time in a."""
        return None if self.a is None or self.b is None or not self.a.time_us else self.b.time_us / self.a.time_us

    @property
    def delta_us(self) -> float:
        """Time of b less time of a, an op that is missing taking none."""
        return (self.b.time_us if self.b else 0.0) - (self.a.time_us if self.a else 0.0)


@dataclass(frozen=True)
class Comparison(Analysis):
    """Ops in the program order of a; those that only b has stand where b has them."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "path", "op", "found_in", "a_count", "b_count", "a_flops", "b_flops", "a_bytes", "b_bytes",
        "a_link_bytes", "b_link_bytes", "a_time_us", "b_time_us", "delta_us", "ratio",
    )  # fmt: skip

    names: tuple[str, str]
    results: tuple[EngineResult, EngineResult]
    ops: tuple[ComparedOp, ...]
    memory: tuple[Feasibility | None, Feasibility | None] = (None, None)
    """Whether either program fits a chip, where that is known."""

    @property
    def misfits(self) -> list[str]:
        """One line for every side that does not fit."""
        return [
            f"{side} ({name}) {found.verdict}"
            for side, name, found in zip("ab", self.names, self.memory, strict=True)
            if found is not None and not found.fits
        ]

    @property
    def ratio(self) -> float | None:
        """Total time of b over that of a, None where a takes none."""
        a, b = self.results
        return b.total_us / a.total_us if a.total_us else None

    def to_rows(self) -> list[Row]:
        """One row per op; fields of a side without the op are None."""
        rows: list[Row] = []
        for op in self.ops:
            row: Row = {"path": op.path, "op": op.op, "found_in": op.found_in}
            for field in ("count", "flops", "bytes", "link_bytes", "time_us"):
                row[f"a_{field}"] = None if op.a is None else getattr(op.a, field)
                row[f"b_{field}"] = None if op.b is None else getattr(op.b, field)
            rows.append({**row, "delta_us": op.delta_us, "ratio": op.ratio})
        return rows

    def summary(self) -> dict[str, object]:
        """Both evaluations without their rows, and the ratio of the totals."""
        sides = {
            side: {"name": name, **{k: v for k, v in result.to_dict().items() if k != "steps"}}
            for side, name, result in zip("ab", self.names, self.results, strict=True)
        }
        memory = {
            side: None if found is None else found.to_dict() for side, found in zip("ab", self.memory, strict=True)
        }
        delta_us = self.results[1].total_us - self.results[0].total_us
        return {**sides, "delta_us": delta_us, "ratio": self.ratio, "memory": memory}

    def headline(self) -> str:
        """Both conditions."""
        a, b = (f"{name} = {conditions_of(r)}" for name, r in zip(self.names, self.results, strict=True))
        return f"a: {a} | b: {b}"

    def notes(self) -> list[str]:
        """Totals, what only one side has, and what does not fit."""
        a, b = self.results
        ratio = "" if self.ratio is None else f", b takes {self.ratio:.4f} of the time of a"
        lines = [f"total: a {a.total_us:.3f} us, b {b.total_us:.3f} us{ratio}"]
        for side, name in zip("ab", self.names, strict=True):
            alone = [op for op in self.ops if op.found_in == side]
            if alone:
                lines.append(f"only in {side} ({name}): {len(alone)} ops, {sum(abs(o.delta_us) for o in alone):.3f} us")
        assumptions = [f"{side}: {text}" for side, r in (("a", a), ("b", b)) for text in r.assumptions]
        unvalidated = tuple(dict.fromkeys((*a.unvalidated, *b.unvalidated)))
        notes = honesty_notes(a.lower_bound and b.lower_bound, assumptions, unvalidated)
        return [*lines, *notes, *self.misfits]


def compare(
    a: EngineResult,
    b: EngineResult,
    names: tuple[str, str],
    memory: tuple[Feasibility | None, Feasibility | None] = (None, None),
) -> Comparison:
    """Match the ops of two evaluations by path and kind; executions in several stages add up."""
    sides_a, sides_b = _sides(a), _sides(b)
    keys = _merged(list(sides_a), list(sides_b))
    ops = tuple(ComparedOp(*key, sides_a.get(key), sides_b.get(key)) for key in keys)
    return Comparison(names, (a, b), ops, memory)


def _sides(result: EngineResult) -> dict[tuple[str, str], Side]:
    groups: dict[tuple[str, str], list[StepMetrics]] = {}
    for step in result.steps:
        groups.setdefault((step.path, step.op), []).append(step)
    return {
        key: Side(
            sum(s.count for s in steps),
            sum(s.flops for s in steps),
            sum(s.bytes_read + s.bytes_written for s in steps),
            sum(s.link_bytes for s in steps),
            sum(s.time_us for s in steps),
        )
        for key, steps in groups.items()
    }


def _merged(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The keys of both: those of a in order, each key that only b has before the next one that both have."""
    known, pending = set(a), list(b)
    merged: list[tuple[str, str]] = []
    in_b = set(b)
    for key in a:
        if key in in_b:
            while pending and pending[0] != key:
                other = pending.pop(0)
                if other not in known:
                    merged.append(other)
            pending = pending[1:]
        merged.append(key)
    return [*merged, *(key for key in pending if key not in known)]
