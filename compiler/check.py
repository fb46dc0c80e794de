"""`pmc check`: proof by execution that every pass keeps the meaning of a model.

The model is shrunk and compiled pass by pass.  After each pass the module runs on the same seeded inputs, and its
logits and caches are compared with those of the model level, which is an implementation of its own, written from
the published equations.  A difference is blamed on the pass after which it first shows, at the first op whose value
differs from what the levels above computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec
from xdsl.utils.exceptions import VerifyException

from ..backends.numeric.dist import layouts, run_dist
from ..backends.numeric.environment import Environment
from ..backends.numeric.errors import Array
from ..backends.numeric.layer import LayerRun, ValueKey, run_layer
from ..backends.numeric.model import run_model, seeded_model_environment
from ..backends.numeric.rank_programs import run_commands
from ..backends.numeric.shards import Layout
from ..dialects.arch import Chip, Deployment, Topology
from ..dialects.errors import PmcError
from ..dialects.levels import level_of
from .context import make_context
from .driver import set_target
from .pipelines import build_pass, default_pipeline

TOLERANCE = 1e-9
"""Levels above the tiles compute in FP64; they differ by the order of sums only."""

COMMAND_TOLERANCE = 2e-4
"""Tiles and commands hold FP32 in memory; relative to the largest value of a tensor."""


@dataclass(frozen=True)
class Difference:
    """Where a pass first changed a value."""

    path: str
    what: str
    max_error: float


@dataclass(frozen=True)
class PassCheck:
    """What running a module after one pass showed."""

    name: str
    level: str
    max_error: float
    seconds: float
    difference: Difference | None = None
    failure: str | None = None
    """Why the pass could not be applied, or its result not be run."""

    @property
    def passed(self) -> bool:
        """Whether the module still computes what the model does."""
        return self.difference is None and self.failure is None


@dataclass(frozen=True)
class CheckResult:
    """The checks of one deployment, up to the first pass that fails."""

    checks: tuple[PassCheck, ...]
    seed: int
    bindings: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Whether every pass kept the meaning."""
        return all(check.passed for check in self.checks)

    @property
    def guilty(self) -> PassCheck | None:
        """The first check that failed."""
        return next((check for check in self.checks if not check.passed), None)


Mutation = Callable[[str, ModuleOp], None]
"""Called after every pass with its name and the module; a test breaks the compiler on purpose with it."""


@dataclass(frozen=True)
class _Expected:
    """What the model computes, and what the last good level recorded on the way."""

    logits: Array
    states: Mapping[str, Array]
    values: Mapping[ValueKey, Sequence[Array]]


def check_model(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    seed: int = 0,
    mutate: Mutation | None = None,
) -> CheckResult:
    """Compile a small `model` with a small `deployment` (see compiler/shrink.py), running it after every pass.

    Weight and activation types are checked as the deployment has them where storage does not matter, and as FP32
    from the tiles on, where it does.
    """
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_model_environment(model, bindings, seed)
    reference = run_model(model, environment)
    logits = reference.logits
    if deployment.phase == "prefill":
        logits = logits[deployment.q_len - 1 :: deployment.q_len]  # a prefill gives those of the last tokens
    expected = _Expected(logits, reference.states, {})
    set_target(model, chip, topology, deployment)
    checks: list[PassCheck] = []
    runner = _Runner(environment)
    context = make_context()
    for spec in default_pipeline(deployment, "commands"):
        module_pass = build_pass(spec)
        start = perf_counter()
        try:
            module_pass.apply(context, model)
            model.verify()
            if mutate is not None:
                mutate(module_pass.name, model)
                model.verify()
            run = runner.run(model)
        except (PmcError, VerifyException) as error:
            failure = " ".join(str(error).split())
            checks.append(
                PassCheck(module_pass.name, level_of(model), np.inf, perf_counter() - start, failure=failure)
            )
            break
        difference, error_size = _compare(expected, run, _tolerance(model))
        seconds = perf_counter() - start
        checks.append(PassCheck(module_pass.name, level_of(model), error_size, seconds, difference))
        if difference is not None:
            break
        if run.values:
            expected = _Expected(logits, reference.states, run.values)
    return CheckResult(tuple(checks), seed, bindings)


def _tolerance(module: ModuleOp) -> float:
    return COMMAND_TOLERANCE if level_of(module) in ("tile", "commands") else TOLERANCE


@dataclass
class _Runner:
    """Runs a module of any level on the inputs of the whole model."""

    environment: Environment
    known: dict[ValueKey, Layout] | None = None
    """The layouts of the values, from the module in which they were annotated."""

    def run(self, module: ModuleOp) -> LayerRun:
        """Logits, caches and, where the level has them, the values on the way."""
        level = level_of(module)
        if level == "layer":
            return run_layer(module, self.environment, record=True)
        if level == "dist":
            self.known = self.known or layouts(module)
            return run_dist(module, self.environment, record=self.known)
        if level == "commands":
            return run_commands(module, self.environment)
        raise PmcError(f"a module of the {level} level cannot be run here")


def _compare(expected: _Expected, run: LayerRun, tolerance: float) -> tuple[Difference | None, float]:
    """The first value that differs, by execution order if it was recorded; and the largest error of the results."""
    results = [("logits", expected.logits, run.outputs[0] if run.outputs else None)]
    results += [(path, values, run.states.get(path)) for path, values in expected.states.items()]
    worst = max(_error(before, after) for _, before, after in results)
    if worst <= tolerance:
        return None, worst
    for key, values in expected.values.items():
        for before, after in zip(values, run.values.get(key, ()), strict=False):
            error = _error(before, after)
            if before.shape == after.shape and error > tolerance:
                return Difference(key.path, f"{key.op} result {key.result}", error), worst
    name, before, after = next(r for r in results if _error(r[1], r[2]) > tolerance)
    what = "logits" if name == "logits" else "the cache after the step"
    return Difference("" if name == "logits" else name, what, _error(before, after)), worst


def _error(before: Array, after: Array | None) -> float:
    """The largest difference, relative to the largest value (at least 1); infinite where shapes differ."""
    if after is None or before.shape != after.shape:
        return np.inf
    if before.size == 0 or before.dtype.kind in "iu":
        return 0.0 if np.array_equal(before, after) else np.inf
    scale = max(1.0, float(np.abs(before).max()))
    difference = float(np.abs(before - after).max()) / scale
    return difference if np.isfinite(difference) else np.inf
