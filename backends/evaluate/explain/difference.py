"""Why two steps differ: op by op, and part by part.  Times in us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pmc.backends.cost.breakdown import Part
from pmc.backends.evaluate.explain.explanation import ExplainedOp, Explanation, Parts, field_value, total_of


@dataclass(frozen=True)
class ComparedLoad:
    """What all executions of an op ask of an engine, and how long that takes alone; 0 where they ask for nothing."""

    engine: str
    unit: str
    a_amount: float
    b_amount: float
    a_us: float
    b_us: float

    @property
    def amount_ratio(self) -> float | None:
        """What b asks for over what a asks for."""
        return self.b_amount / self.a_amount if self.a_amount else None

    @property
    def rate_ratio(self) -> float | None:
        """The rate of b over the rate of a."""
        known = self.a_us and self.b_us and self.a_amount and self.b_amount
        return (self.b_amount / self.b_us) / (self.a_amount / self.a_us) if known else None

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        names = ("engine", "unit", "a_amount", "b_amount", "a_us", "b_us", "amount_ratio", "rate_ratio")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class OpDifference:
    """An op by path and kind, over all pipeline stages; a side is empty where its program has no such op."""

    path: str
    op: str
    a: tuple[ExplainedOp, ...]
    b: tuple[ExplainedOp, ...]

    @property
    def a_us(self) -> float:
        """The time of a."""
        return sum(op.step.time_us for op in self.a)

    @property
    def b_us(self) -> float:
        """The time of b."""
        return sum(op.step.time_us for op in self.b)

    @property
    def delta_us(self) -> float:
        """Time of b less time of a."""
        return self.b_us - self.a_us

    @property
    def parts_us(self) -> dict[Part, float]:
        """What every part adds to the difference; they add up to it."""
        return parts_between(total_of([op.parts_us for op in self.a]), total_of([op.parts_us for op in self.b]))

    @property
    def loads(self) -> tuple[ComparedLoad, ...]:
        """Engine by engine and unit by unit, those of a first."""
        sides = (_loads(self.a), _loads(self.b))
        return tuple(
            ComparedLoad(*key, sides[0].get(key, (0.0, 0.0))[0], sides[1].get(key, (0.0, 0.0))[0],
                         sides[0].get(key, (0.0, 0.0))[1], sides[1].get(key, (0.0, 0.0))[1])
            for key in dict.fromkeys([*sides[0], *sides[1]])
        )  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {
            "path": self.path,
            "op": self.op,
            "found_in": "both" if self.a and self.b else "a" if self.a else "b",
            "a_us": self.a_us,
            "b_us": self.b_us,
            "delta_us": self.delta_us,
            "parts_us": {part.value: us for part, us in self.parts_us.items()},
            "loads": [load.to_dict() for load in self.loads],
        }


@dataclass(frozen=True)
class Difference:
    """Two explanations and what makes them differ.

    The differences of the parts of all ops add up to that of the ops, and less what overlap hides more in b to that of
    the steps.
    """

    a: Explanation
    b: Explanation
    ops: tuple[OpDifference, ...]
    """In the order of a; those that only b has stand at the end."""

    @property
    def delta_us(self) -> float:
        """Time of the ops of b less that of a."""
        return self.b.time_us - self.a.time_us

    @property
    def hidden_us(self) -> float | None:
        """What overlap hides more in b; None for some of the ops."""
        if self.a.hidden_us is None or self.b.hidden_us is None:
            return None
        return self.b.hidden_us - self.a.hidden_us

    @property
    def parts_us(self) -> dict[Part, float]:
        """What every part adds to the difference."""
        return parts_between(self.a.parts_us, self.b.parts_us)

    @property
    def misfits(self) -> list[str]:
        """One line for every side that does not fit."""
        return [f"{name} {line}" for name, side in (("a", self.a), ("b", self.b)) for line in side.misfits]

    @property
    def fields(self) -> dict[str, tuple[object, object]]:
        """The fields of chip and topology that times rest on and that differ, with both values."""
        paths = dict.fromkeys(
            path for side in (self.a, self.b) for op in side.ops for load in op.one.loads for path in load.fields
        )
        found: dict[str, tuple[object, object]] = {}
        for path in paths:
            values = _value(path, self.a), _value(path, self.b)
            if values[0] != values[1]:
                found[path] = values
        return found

    def to_dict(self) -> dict[str, object]:
        """The JSON form; keys are only ever added, at the end."""
        sides = {
            name: {key: value for key, value in side.to_dict().items() if key not in ("ops", "levers", "roofline")}
            for name, side in (("a", self.a), ("b", self.b))
        }
        return {
            **sides,
            "delta_us": self.delta_us,
            "hidden_us": self.hidden_us,
            "parts_us": {part.value: us for part, us in self.parts_us.items()},
            "fields": {path: list(values) for path, values in self.fields.items()},
            "ops": [op.to_dict() for op in self.ops],
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def difference(a: Explanation, b: Explanation) -> Difference:
    """Match the ops of two explanations by path and kind."""
    sides = [_by_key(side.ops) for side in (a, b)]
    keys = dict.fromkeys([*sides[0], *sides[1]])
    return Difference(a, b, tuple(OpDifference(*key, sides[0].get(key, ()), sides[1].get(key, ())) for key in keys))


def parts_between(a: Parts, b: Parts) -> dict[Part, float]:
    """Every part of b less that of a, in the order of `Part`."""
    return {part: b.get(part, 0.0) - a.get(part, 0.0) for part in Part if part in a or part in b}


def _by_key(ops: Sequence[ExplainedOp]) -> dict[tuple[str, str], tuple[ExplainedOp, ...]]:
    found: dict[tuple[str, str], tuple[ExplainedOp, ...]] = {}
    for op in ops:
        key = op.step.path, op.step.op
        found[key] = (*found.get(key, ()), op)
    return found


def _loads(ops: Sequence[ExplainedOp]) -> dict[tuple[str, str], tuple[float, float]]:
    """Amount and us of every engine and unit, over all executions of `ops` and both phases of their plans."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for op in ops:
        for load in op.one.loads:
            amount, us = found.get((load.engine, load.unit), (0.0, 0.0))
            times = op.step.count
            found[load.engine, load.unit] = amount + load.amount * times, us + load.time_s * 1e6 * times
    return found


def _value(path: str, side: Explanation) -> object:
    try:
        return field_value(path, side.target)
    except AttributeError:  # a block that the chip or the topology of this side does not have
        return None
