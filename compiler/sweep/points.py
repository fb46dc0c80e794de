"""From the values of axes to what a point is evaluated for: a target, and the options of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from pmc.compiler.config import (
    changed,
    load_accounting,
    load_calibration,
    load_chip,
    load_deployment,
    load_topology,
)
from pmc.compiler.evaluation import EvaluationOptions, overlap_of
from pmc.compiler.sweep.axes import LENGTHS
from pmc.compiler.sweep.programs import Target
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema

SchemaT = TypeVar("SchemaT", bound=Schema)


@dataclass(frozen=True)
class Lengths:
    """What a request is, where requests are evaluated."""

    isl: int
    osl: int
    micro_batches: int | None = None


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    target: Target
    options: EvaluationOptions
    request: Lengths | None
    """None where a step is evaluated."""


class Points:
    """Makes points of one base; parts that several points have in common are made once."""

    def __init__(self, base: Point) -> None:
        self.base = base
        self.files: dict[tuple[str, str], Schema] = {}
        self.made: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[Schema, Schema]] = {}
        """By the identity of what is changed, which is kept, so that nothing else takes its place in memory."""

    def at(self, values: Mapping[str, object]) -> Point:
        """The base with these values of axes.  Raises PmcError for values that the schemas or the options refuse."""
        base = self.base
        chip = self._loaded("chip", load_chip, values) or base.target.chip
        topology = self._loaded("topology", load_topology, values) or base.target.topology
        deployment = self._loaded("deployment", load_deployment, values) or base.target.deployment
        accounting = self._loaded("accounting", load_accounting, values) or base.target.accounting
        target = Target(
            self._changed("chip", chip, values),
            self._changed("topology", topology, values),
            self._changed("deployment", deployment, values),
            self._changed("accounting", accounting, values),
        )
        options = base.options
        if "granularity" in values:
            options = replace(options, granularity=str(values["granularity"]))
        if "overlap" in values:
            options = replace(options, overlap=overlap_of(str(values["overlap"])))
        if (calibration := self._loaded("calibration", load_calibration, values)) is not None:
            options = replace(options, calibration=calibration)
        return Point(target, options, self._request(values))

    def _loaded(self, kind: str, load: Callable[[str], SchemaT], values: Mapping[str, object]) -> SchemaT | None:
        """The preset or file that an axis names, None without such an axis."""
        if kind not in values:
            return None
        name = values[kind]
        if not isinstance(name, str):
            raise PmcError(f"{kind}: expected the name of a preset or a file, found {name!r}")
        if (kind, name) not in self.files:
            self.files[kind, name] = load(name)
        return cast(SchemaT, self.files[kind, name])

    def _request(self, values: Mapping[str, object]) -> Lengths | None:
        request = self.base.request
        if request is None:
            return None
        given = {name: cast(int, values[name]) for name in LENGTHS if name in values}
        return replace(request, **given)

    def _changed(self, part: str, base: SchemaT, values: Mapping[str, object]) -> SchemaT:
        """A part of the target with its fields replaced."""
        prefix = f"{part}."
        fields = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        if not fields:
            return base
        key = (id(base), tuple((name, repr(value)) for name, value in fields.items()))
        if key not in self.made:
            self.made[key] = base, changed(base, fields)
        return cast(SchemaT, self.made[key][1])
