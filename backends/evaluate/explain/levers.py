"""What would make a step faster: every lever pulled alone, and the step evaluated again.

A hardware lever is pulled with the plans of today.  Its factor is the least that makes the step as fast as asked for:
first it is pulled without limit, which says whether it can at all and what binds then; the time falls with 1 / factor
along straight lines, whose crossing with the target time is found by false position.  Other levers (cores, LMEM, the
rows of a cube, the batch) change what the best plan is: they are tried at a few values, with plans searched again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor, log10
from typing import Literal

from pmc.backends.cost.breakdown import Part
from pmc.backends.cost.model import Granularity, Target
from pmc.backends.evaluate.explain.hardware import HARDWARE, HardwareLever, with_fields
from pmc.backends.evaluate.feasibility import unreserved
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.dialects import layer
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema
from pmc.dialects.tile_plan import PLAN

NO_LIMIT = 1e6
"""The factor of a lever that is pulled without limit."""

NOTHING = 5e-3
"""A lever that saves less than this part of the time does nothing."""

CLOSE = 1e-4
"""Relative width at which the search for a factor ends."""

ROUNDING = 1e-12
"""Relative difference of times that is the rounding of a sum."""


@dataclass(frozen=True)
class HardwareResult:
    """What one hardware lever does alone.  Times in us."""

    name: str
    paths: tuple[str, ...]
    """The fields or blocks of fields that it changes."""
    fields: Mapping[str, float]
    """The fields that it changes, with the values of today."""
    factor: float | None
    """The least factor that reaches the target, to three digits; None where no factor does."""
    after: Mapping[str, float]
    """The fields at that factor; empty where none reaches the target."""
    reached_us: float | None
    limit_us: float
    """The time with no limit of this kind."""
    limit_speedup: float
    then: str
    """The largest part of the time that is left without the limit."""

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Trial:
    """One field at another value, everything evaluated again with the plans that are best then.  Times in us."""

    name: str
    field: str
    before: float
    after: float
    us: float
    speedup: float
    """Of the time; of a batch the sequences per second."""
    measure: Literal["time", "throughput"]
    fits: bool
    """Whether it fits the DRAM of a chip; only a batch may not."""


@dataclass(frozen=True)
class Levers:
    """All levers of a step, or of some ops of it."""

    base_us: float
    target_us: float
    hardware: tuple[HardwareResult, ...]
    without_effect: tuple[str, ...]
    """Hardware levers that change nothing."""
    trials: tuple[Trial, ...]
    floor_us: float
    """The rooflines of the ops: what no plan can go below on this chip."""
    plans: Literal["searched", "given", "none"]
    """Whether plans were searched, stood on the ops, or are not looked at."""
    granularity: Granularity
    """At which levers were tried: a less close one than that of the step where this is commands."""

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {
            "base_us": self.base_us,
            "target_us": self.target_us,
            "hardware": [result.to_dict() for result in self.hardware],
            "without_effect": list(self.without_effect),
            "trials": [asdict(trial) for trial in self.trials],
            "floor_us": self.floor_us,
            "plans": self.plans,
        }


def find_levers(evaluator: StepEvaluator, values: Mapping[str, int], path: str | None, faster: float) -> Levers:
    """The levers of the ops at or below `path`, or of the whole step, to make them `faster` times as fast.

    Raises PmcError for a factor that is not above 1.
    """
    if not faster > 1.0:
        raise PmcError(f"levers make a step faster: the factor is {faster:g}, must be above 1")
    timer = _Timer(evaluator, values, path)
    base_us = timer.us(evaluator.target)
    found: list[HardwareResult] = []
    idle: list[str] = []
    pulled: list[dict[str, float]] = []
    for lever in HARDWARE:
        numbers = numbers_at(evaluator.target, lever.fields)
        if not numbers or numbers in pulled:
            continue  # the target has none of these fields, or no more than another lever
        pulled.append(numbers)
        result = _pulled(lever, timer, base_us, base_us / faster)
        if result is None:
            idle.append(lever.name)
        else:
            found.append(result)
    found.sort(key=lambda r: (r.limit_us, r.name))
    given = any(PLAN in site.op.attributes for site in timer.sites)
    looked_at = evaluator.granularity is Granularity.TILE
    return Levers(
        base_us,
        base_us / faster,
        tuple(found),
        tuple(idle),
        tuple(_trials(timer, base_us, given)),
        min(base_us, _Timer(evaluator.at(Granularity.CHIP), values, path).us(evaluator.target)),
        "given" if given else "searched" if looked_at else "none",
        evaluator.granularity,
    )


class _Timer:
    """The time of a step, or of some of its ops, on other targets and at other batches."""

    def __init__(self, evaluator: StepEvaluator, values: Mapping[str, int], path: str | None) -> None:
        self.evaluator, self.values, self.path = evaluator, values, path
        self.sites = evaluator.sites_below(path)

    def us(self, target: Target, keep_plans: bool = True, **symbols: int) -> float:
        """The time on `target`, with the plans of today where they are kept."""
        evaluator = self.evaluator.on(target, keep_plans)
        values = {**self.values, **symbols}
        if self.path is None:
            return evaluator.step(values).total_us
        total = 0.0
        for batch in evaluator.micro_batches(values):
            for site in self.sites:
                cost = evaluator.model.cost(site.op, batch)
                total += 0.0 if cost is None else float(cost.time_s) * 1e6 * site.count
        return total

    def largest_part(self, target: Target) -> str:
        """What most of the time goes to on `target`."""
        evaluator = self.evaluator.on(target, keep_plans=True)
        sums = dict.fromkeys(Part, 0.0)
        for site in self.sites:
            one = evaluator.model.breakdown(site.op, self.values)
            if one is not None:
                for part, seconds in one.parts.items():
                    sums[part] += seconds * site.count
        return max(Part, key=lambda part: sums[part]).value


def _pulled(lever: HardwareLever, timer: _Timer, base_us: float, target_us: float) -> HardwareResult | None:
    """What a lever does alone; None for nothing."""
    target = timer.evaluator.target
    without_limit = lever.on(target, NO_LIMIT)
    limit_us = timer.us(without_limit)
    if limit_us > base_us * (1 - NOTHING):
        return None
    factor, reached_us = None, None
    if limit_us <= target_us:
        factor = least_factor(lambda f: timer.us(lever.on(target, f)), base_us, limit_us, target_us)
        reached_us = timer.us(lever.on(target, factor))
    before = numbers_at(target, lever.fields)
    return HardwareResult(
        lever.name,
        lever.fields,
        before,
        factor,
        {} if factor is None else {path: lever.changed(value, factor) for path, value in before.items()},
        reached_us,
        limit_us,
        base_us / limit_us if limit_us else float("inf"),
        timer.largest_part(without_limit),
    )


def least_factor(us: Callable[[float], float], base_us: float, limit_us: float, target_us: float) -> float:
    """The least factor with a time of at most `target_us`, rounded up to three digits.

    False position (Illinois) on x = 1 / factor, along which the time rises in straight lines.
    """
    low, high = 1.0 / NO_LIMIT, 1.0
    at_low, at_high = limit_us - target_us, base_us - target_us
    side = 0
    while high - low > CLOSE * low:
        x = (low * at_high - high * at_low) / (at_high - at_low)
        if not low * (1 + CLOSE / 4) < x < high * (1 - CLOSE / 4):
            x = (low * high) ** 0.5
        found = us(1.0 / x) - target_us
        if found <= 0:
            low, at_low = x, found
            at_high /= 2 if side < 0 else 1
            side = -1
        else:
            high, at_high = x, found
            at_low /= 2 if side > 0 else 1
            side = 1
    least = _rounded_up(1.0 / high)
    return least if us(least) <= target_us * (1 + ROUNDING) else _rounded_up(1.0 / low)


def _rounded_up(value: float) -> float:
    """Three significant digits, not below the value."""
    step = 10.0 ** (floor(log10(value)) - 2)
    return round(-(-value // step) * step, 12)


def numbers_at(target: Target, paths: Sequence[str]) -> dict[str, float]:
    """The numbers at and inside of `paths`, by dotted path."""
    found: dict[str, float] = {}
    for path in paths:
        value: object = target
        for name in path.split("."):
            value = None if value is None else getattr(value, name)
        match value:
            case Schema():
                found |= numbers_at(target, [f"{path}.{name}" for name in type(value).model_fields])
            case int() | float():
                found[path] = value
            case _:
                pass
    return found


# -- trials -----------------------------------------------------------------------------------------------------


def _trials(timer: _Timer, base_us: float, given: bool) -> list[Trial]:
    """Values of fields for which other plans are best.  A plan in the module is for this chip and this batch only."""
    if given or not isinstance(timer.evaluator.program, layer.ProgramOp):
        return []
    return [*_chip_trials(timer, base_us), *_batch_trials(timer, base_us)]


def _chip_trials(timer: _Timer, base_us: float) -> list[Trial]:
    chip = timer.evaluator.target.chip
    tries = [("cores", "chip.cores", float(chip.cores), 2.0)]
    if chip.command_level is not None:
        tries.append(("LMEM", "chip.command_level.lmem.bytes_per_core", float(chip.commands.lmem.bytes_per_core), 2.0))
    if chip.cube.m % 4 == 0:
        tries.append(("rows of the cube, same peak", "chip.cube.m", float(chip.cube.m), 0.25))
    found: list[Trial] = []
    for name, field, before, factor in tries:
        target = with_fields(timer.evaluator.target, [field], _times(factor))
        us = timer.us(target, keep_plans=False)
        if abs(us - base_us) > NOTHING * base_us:
            found.append(Trial(name, field, before, before * factor, us, base_us / us, "time", True))
    return found


def _times(factor: float) -> Callable[[float], float]:
    return lambda value: int(value * factor)


def _batch_trials(timer: _Timer, base_us: float) -> list[Trial]:
    """Half and a quarter of the batch for the time; twice and four times the batch for sequences per second."""
    module, values = timer.evaluator.module, timer.values
    plan = FootprintPlan.of(module, unreserved(1))
    batch = values.get("batch")
    if batch is None or plan.largest_batch(values) is None:
        return []
    found: list[Trial] = []
    for factor in (0.25, 0.5, 2.0, 4.0):
        other = int(batch * factor)
        if other < 1 or other == batch:
            continue
        us = timer.us(timer.evaluator.target, keep_plans=False, batch=other)
        measure: Literal["time", "throughput"] = "time" if factor < 1 else "throughput"
        speedup = base_us / us * (1.0 if factor < 1 else other / batch)
        fits = plan.fits({**values, "batch": other})
        found.append(Trial("batch", "deployment.batch", batch, other, us, speedup, measure, fits))
    return found
