"""Why two accountings differ: every option of one switched alone to its value in the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.engine import evaluate_module
from pmc.backends.evaluate.metrics import EngineResult
from pmc.dialects.accounting import ACCOUNTING, Accounting, AccountingAttr

UNCHARGED = "uncharged_ops"


@dataclass(frozen=True)
class OptionEffect:
    """What one option does when it alone is switched."""

    option: str
    """The name of the option, for an op that is charged in one accounting only `uncharged_ops:<op>`."""
    base: str
    other: str
    total_us: float
    """The change of the total."""
    ops_us: dict[str, float]
    """The change of one execution of each op that changes, by path."""


@dataclass(frozen=True)
class Attribution:
    """Two evaluations of a module and what makes them differ."""

    base: EngineResult
    other: EngineResult
    effects: tuple[OptionEffect, ...]

    @property
    def together_us(self) -> float:
        """What is left of the difference: options that act on the same op do more or less together than apart."""
        return self.other.total_us - self.base.total_us - sum(effect.total_us for effect in self.effects)


def attribute_difference(
    module: ModuleOp, base: Accounting, other: Accounting, granularity: str = "tile"
) -> Attribution:
    """Evaluate `module` under both, whatever its own, and under `base` with each option that differs switched alone.

    Options that change nothing have an effect of 0.  Raises PmcError as `evaluate_module` does.
    """
    start, end = (_evaluated(module, granularity, accounting) for accounting in (base, other))
    effects: list[OptionEffect] = []
    for option, before, after, switched in _switches(base, other):
        result = _evaluated(module, granularity, switched)
        changed = {
            new.path: (new.time_us - old.time_us) / new.count
            for old, new in zip(start.steps, result.steps, strict=True)
            if new.time_us != old.time_us
        }
        effects.append(OptionEffect(option, before, after, result.total_us - start.total_us, changed))
    return Attribution(start, end, tuple(effects))


def _evaluated(module: ModuleOp, granularity: str, accounting: Accounting) -> EngineResult:
    charged = module.clone()
    charged.attributes[ACCOUNTING] = AccountingAttr(accounting)
    return evaluate_module(charged, granularity)


def _switches(base: Accounting, other: Accounting) -> Iterator[tuple[str, str, str, Accounting]]:
    """Option, its two values, and `base` with that option of `other`; one switch per op that one of them charges."""
    for option in Accounting.model_fields:
        before, after = getattr(base, option), getattr(other, option)
        if option == "name" or before == after:
            continue
        if option != UNCHARGED:
            yield option, str(before), str(after), base.model_copy(update={option: after})
            continue
        for op in sorted({*base.uncharged_ops} ^ {*other.uncharged_ops}):
            free = op in base.uncharged_ops
            ops = tuple(o for o in base.uncharged_ops if o != op) if free else (*base.uncharged_ops, op)
            before, after = ("free", "charged") if free else ("charged", "free")
            yield f"{UNCHARGED}:{op}", before, after, base.model_copy(update={UNCHARGED: ops})
