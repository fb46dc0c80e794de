"""What a sweep varies: `chip.cores=16..128:16` as an axis with its values.

An axis is a field of a part of the target (`deployment.tp`, see `overrides`), a whole part by its presets or files
(`chip=sg2262,h100-sxm`), or one of the `OPTIONS` of an evaluation (`overlap=none,streams`, `isl=1024,4096`).

Values are a list, `1,2,4,8`, of which an entry may be a range with both ends: `16..128` in steps of 1, `16..128:16` in
steps of 16, `1..64:x2` each twice the one before.  A field whose own values have commas takes a list with semicolons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pmc.compiler.config import ConfigError
from pmc.compiler.overrides import PARTS, field_path, value_of
from pmc.dialects.schema import did_you_mean

FILES = ("chip", "topology", "deployment", "accounting", "calibration")
"""Axes whose values are presets or files."""

LENGTHS = ("isl", "osl", "micro_batches")
"""Axes of requests, whose values are integers from 1."""

OPTIONS = ("granularity", "overlap", *LENGTHS)
"""Axes that are options of the evaluation."""

MOST_VALUES = 10_000_000
"""Of an axis: a range with more is a slip of the pen, and would fill the memory before anything else fails."""

_RANGE = re.compile(r"(?P<first>[^.]+(?:\.\d+)?[^.]*)\.\.(?P<last>[^:]+)(?::(?P<step>.+))?")


@dataclass(frozen=True)
class Axis:
    """One thing that varies, and its values in the order of the results."""

    name: str
    """`deployment.tp`, `chip` or `overlap`."""
    values: tuple[object, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError without values, or with one that is given twice."""
        if not self.values:
            raise ConfigError("--set", f"{self.name}: expected at least one value")
        seen = sorted(map(repr, self.values))
        twice = next((a for a, b in pairwise(seen) if a == b), None)
        if twice is not None:
            raise ConfigError("--set", f"{self.name}: {twice} is given twice")

    @property
    def part(self) -> str:
        """`deployment` of `deployment.tp`; the name itself of what has no parts."""
        return self.name.partition(".")[0]

    @property
    def path(self) -> str:
        """`tp` of `deployment.tp`, nothing for a whole part or an option."""
        return self.name.partition(".")[2]


def parse_axis(text: str) -> Axis:
    """The axis that `NAME=VALUES` says.  Raises ConfigError."""
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals:
        raise ConfigError("--set", f"expected NAME=VALUES, as deployment.tp=1,2,4,8, found '{text[:80]}'")
    return axis_of(name, values)


def varies(text: str) -> bool:
    """Whether `NAME=VALUES` is an axis: has several values, or is about no single field.  Raises ConfigError."""
    axis = parse_axis(text)
    return len(axis.values) > 1 or not axis.path


def axis_of(name: str, values: str | Sequence[object]) -> Axis:
    """The axis of that name; `values` are text, as on the command line, or the values themselves.

    Raises ConfigError for a name that nothing has, or text that is no value of it.
    """
    part, dot, field = name.partition(".")
    if dot:
        path = field_path(part, field)
        name = f"{part}.{path}"
        return Axis(name, _all_values(name, values) if isinstance(values, str) else tuple(values))
    known = (*FILES, *OPTIONS)
    if name.replace("-", "_") not in known:
        fields = [f"{part}." for part in PARTS]
        hint = did_you_mean(name, known) or f"; a sweep varies {', '.join(known)} and fields of {', '.join(fields)}"
        raise ConfigError("--set", f"unknown name '{name[:80]}'{hint}")
    name = name.replace("-", "_")
    return Axis(name, _all_values(name, values) if isinstance(values, str) else tuple(values))


def _all_values(name: str, text: str) -> tuple[object, ...]:
    return tuple(value for entry in _entries(text) for value in _values(name, entry))


def _entries(text: str) -> list[str]:
    """The entries of a list: split at semicolons where there are any, else at commas outside of brackets."""
    separator, depth, entries = ";" if ";" in text else ",", 0, [""]
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == separator and not depth:
            entries.append("")
        else:
            entries[-1] += character
    return [entry for item in entries if (entry := item.strip())]


def _values(name: str, entry: str) -> Iterable[object]:
    """The value of an entry, or those of a range."""
    found = None if name in (*FILES, "granularity", "overlap") else _RANGE.fullmatch(entry)
    if found is None:
        return [_value(name, entry)]
    first, last = _number(name, found["first"]), _number(name, found["last"])
    step = found["step"] or "1"
    if step[:1] in ("x", "*"):
        return _checked(name, entry, _geometric(first, last, _factor(name, entry, step[1:])))
    return _checked(name, entry, _arithmetic(first, last, _number(name, step)))


def _checked(name: str, entry: str, values: Iterator[float]) -> list[float]:
    found: list[float] = []
    for value in values:
        found.append(value)
        if len(found) > MOST_VALUES:
            raise ConfigError("--set", f"{name}: {entry} has more than {MOST_VALUES} values")
    if not found:
        raise ConfigError("--set", f"{name}: {entry} is empty: the first end is above the last")
    return found


def _arithmetic(first: float, last: float, step: float) -> Iterator[float]:
    if step <= 0:
        raise ConfigError("--set", f"a step of {step} never reaches the end of a range; it must be above 0")
    index = 0
    while (value := first + index * step) <= last:  # not a sum of steps, whose rounding would add up
        yield value
        index += 1


def _geometric(first: float, last: float, factor: float) -> Iterator[float]:
    if factor <= 1 or first <= 0:
        raise ConfigError("--set", "a range of factors begins above 0, and its factor is above 1")
    index = 0
    while (value := first * factor**index) <= last:
        yield value
        index += 1


def _factor(name: str, entry: str, text: str) -> float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise ConfigError("--set", f"{name}: {entry}: expected a factor as x2, found 'x{text[:20]}'") from None


def _number(name: str, text: str) -> float:
    value = _value(name, text.strip())
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError("--set", f"{name}: the end of a range is a number, found '{text[:80]}'")
    return value


def _value(name: str, text: str) -> object:
    if name in LENGTHS:
        if not re.fullmatch(r"\d+", text) or int(text) < 1:
            raise ConfigError("--set", f"{name}: expected an integer from 1, found '{text[:80]}'")
        return int(text)
    part, dot, path = name.partition(".")
    return value_of(part, path, text) if dot else text
