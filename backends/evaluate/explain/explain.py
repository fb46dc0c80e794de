"""Explains a step that an evaluator looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from pmc.backends.cost.breakdown import Breakdown
from pmc.backends.cost.model import Granularity
from pmc.backends.evaluate.engine import Site, tile_model_of
from pmc.backends.evaluate.explain.commands import CommandTable
from pmc.backends.evaluate.explain.explanation import ExplainedOp, Explanation, SearchedPlan, total_of
from pmc.backends.evaluate.explain.levers import find_levers
from pmc.backends.evaluate.explain.roofline import roofline_of
from pmc.backends.evaluate.feasibility import step_feasibility
from pmc.backends.evaluate.metrics import StepMetrics
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.dialects import layer
from pmc.dialects.errors import PmcError
from pmc.dialects.tile_plan import PLAN


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain."""

    path: str | None = None
    """The ops at this path or below it; None for the whole step."""
    faster: float | None = 2.0
    """How many times as fast the levers try to make it; None for no levers."""
    commands: CommandTable | None = None
    """What the program was lowered to."""


def explain_step(
    evaluator: StepEvaluator, bindings: Mapping[str, int] | None = None, options: ExplainOptions | None = None
) -> Explanation:
    """Where the time of one step goes, with the symbols of the deployment replaced by `bindings`.

    Raises PmcError as `StepEvaluator.step`, for a path at which no op takes time, and for levers that would not make
    anything faster.
    """
    asked = options or ExplainOptions()
    step, values = evaluator.step(bindings), evaluator.values(bindings)
    sites = [site for site, _ in evaluator.costed(values).costs]
    batches = evaluator.micro_batches(values)
    chosen = [
        (site, row)
        for site, row in zip(sites, step.ops.steps, strict=True)
        if asked.path is None or site.is_below(asked.path)
    ]
    if not chosen:
        raise _unknown(asked.path or "", [row.path for row in step.ops.steps])
    ops = tuple(_explained(evaluator, site, row, batches) for site, row in chosen)
    if asked.commands is not None:
        table = asked.commands
        ops = tuple(replace(op, commands=table.of(site)) for op, (site, _) in zip(ops, chosen, strict=True))
    # A lever is tried at many values, each of which would be lowered and simulated anew.
    tried = evaluator
    if evaluator.granularity is Granularity.COMMANDS:
        tensors = isinstance(evaluator.program, layer.ProgramOp)
        tried = evaluator.at(Granularity.TILE if tensors else Granularity.CHIP)
    levers = None if asked.faster is None else find_levers(tried, values, asked.path, asked.faster)
    roofline = roofline_of(ops, [site for site, _ in chosen], evaluator)
    memory = step_feasibility(evaluator.module, bindings)
    return Explanation(step, evaluator.target, ops, asked.path, roofline, levers, memory)


def _explained(evaluator: StepEvaluator, site: Site, row: StepMetrics, batches: list[dict[str, int]]) -> ExplainedOp:
    found: list[Breakdown] = []
    for values in batches:
        one = evaluator.model.breakdown(site.op, values)
        assert one is not None, "an op with a cost has parts"
        found.append(one)
    us = [{part: seconds * 1e6 * site.count for part, seconds in one.parts.items()} for one in found]
    one = found[0] if len(found) == 1 else Breakdown.mixed([(1 / len(found), half) for half in found])
    return ExplainedOp(row, total_of(us), one, _searched(evaluator, site, batches[0], one))


def _searched(evaluator: StepEvaluator, site: Site, values: dict[str, int], one: Breakdown) -> SearchedPlan | None:
    """The plan that a search finds for an op that has another one; corrections of times are those of its own plan."""
    model = tile_model_of(evaluator.model)
    if model is None or PLAN not in site.op.attributes:
        return None
    given, best = model.planned(site.op, values), model.planned(site.op, values, searched=True)
    if given is None or best is None or given.plan == best.plan:
        return None
    own_s = float(given.time.total_s[0])
    return SearchedPlan(best.plan, one.time_s * 1e6 * float(best.time.total_s[0]) / own_s) if own_s else None


def _unknown(path: str, known: list[str]) -> PmcError:
    blocks = {".".join(p.split(".")[:depth]) for p in known for depth in range(1, len(p.split(".")) + 1)}
    close = get_close_matches(path, sorted(blocks), n=1, cutoff=0.5)
    roots = ", ".join(dict.fromkeys(p.split(".")[0] for p in known))
    hint = f"did you mean '{close[0]}'?" if close else f"the blocks are {roots}"
    return PmcError(f"no op of the program has the path '{path}'; {hint}")
