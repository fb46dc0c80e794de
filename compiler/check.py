"""`pmc check`: proof by execution that every pass keeps the meaning of a model.

The model is shrunk and compiled pass by pass.  After each pass the module runs on the same seeded inputs, and its
logits and caches are compared with those of the model level, which is an implementation of its own, written from
the published equations.  A difference is blamed on the pass after which it first shows, at the first op whose value
differs from what the levels above computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import VerifyException

from pmc.backends.numeric.dist import layouts, run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import LayerRun, ValueKey, run_layer
from pmc.backends.numeric.model import run_model, seeded_model_environment
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.backends.numeric.shards import Layout
from pmc.compiler.context import make_context
from pmc.compiler.driver import check_target, compile_model, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import build_pass, default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_config, shrink_deployment
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level, level_of

LAST_EXACT_LEVEL: Level = "dist"
LAST_LEVEL: Level = "commands"

FP32 = {"weights": "f32", "activations": "f32", "kv_cache": "f32", "keep": ()}
"""A quantization that keeps everything in the type of the small models."""

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
    """The checks of one phase, up to the first pass that fails."""

    phase: str
    types: str
    """The element type of the weights."""
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
    emit: Level = "commands",
    accounting: Accounting | None = None,
) -> CheckResult:
    """Compile a small `model` with a small `deployment` (see compiler/shrink.py) to `emit`, running it after each pass.

    Down to the dist level arithmetic is FP64 whatever the element types say.  Tiles and commands store them, so they
    can be compared with the model only where all are FP32.
    """
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_model_environment(model, bindings, seed)
    reference = run_model(model, environment)
    logits = reference.logits
    if deployment.phase == "prefill":
        logits = logits[deployment.q_len - 1 :: deployment.q_len]  # a prefill gives those of the last tokens
    expected = _Expected(logits, reference.states, {})
    set_target(model, chip, topology, deployment, accounting)
    checks: list[PassCheck] = []
    runner = _Runner(environment)
    context = make_context()
    for spec in default_pipeline(deployment, emit):
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
            checks.append(PassCheck(module_pass.name, level_of(model), np.inf, perf_counter() - start, failure=failure))
            break
        difference, error_size = _compare(expected, run, _tolerance(model))
        seconds = perf_counter() - start
        checks.append(PassCheck(module_pass.name, level_of(model), error_size, seconds, difference))
        if difference is not None:
            break
        if run.values:
            expected = _Expected(logits, reference.states, run.values)
    return CheckResult(deployment.phase, deployment.quantization.weights, tuple(checks), seed, bindings)


def check_small(
    config: Mapping[str, Any],
    source: str,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    layers: int = 4,
    seed: int = 0,
    mutate: Mutation | None = None,
    accounting: Accounting | None = None,
) -> tuple[CheckResult, ...]:
    """Shrink everything and check prefill, decode, and a decode step on the caches that a prefill left.

    `config` is a Hugging Face config from `source`.  Each phase is compiled twice: with the element types of the
    deployment down to the dist level, and with FP32 down to commands.  Stops at the first failure.
    """
    check_target(chip, topology, deployment)
    small_chip = shrink_chip(chip)
    results: list[CheckResult] = []

    def model(small: Deployment) -> ModuleOp:
        return import_hf(shrink_config(config, small, max(layers, small.pp)), source, "small")

    for phase in ("prefill", "decode"):
        typed = shrink_deployment(deployment.model_copy(update={"phase": phase}))
        plain = shrink_deployment(typed, quantization=FP32)
        targets: list[tuple[Deployment, Level]] = [(typed, LAST_EXACT_LEVEL), (plain, LAST_LEVEL)]
        for small, emit in targets:
            results.append(check_model(model(small), small_chip, topology, small, seed, mutate, emit, accounting))
            if not results[-1].passed:
                return tuple(results)
    small = shrink_deployment(deployment.model_copy(update={"phase": "prefill"}), quantization=FP32)
    results.append(_check_sequence(partial(model, small), small_chip, topology, small, seed, accounting))
    return tuple(results)


def _check_sequence(
    model: Callable[[], ModuleOp],
    chip: Chip,
    topology: Topology,
    small: Deployment,
    seed: int,
    accounting: Accounting | None,
) -> CheckResult:
    """A prefill and one decode step, both as commands, against one longer prefill of the model."""
    start = perf_counter()
    past, new = small.kv_len, small.cp
    reference = model()
    bindings = {"batch": small.batch, "q_len": past + new, "kv_len": past + new}
    longer = seeded_model_environment(reference, bindings, seed)
    expected = run_model(reference, longer)
    tokens = longer.tokens.reshape(small.batch, past + new)
    step = Environment(
        {"batch": small.batch, "q_len": past, "kv_len": past},
        tokens[:, :past].reshape(-1),
        longer.weights,
        {path: values[..., :past, :] for path, values in longer.states.items()},
    )
    run: LayerRun | None = None
    for phase, q_len, kv_len in (("prefill", past, past), ("decode", new, past + new)):
        changes: dict[str, object] = {"phase": phase, "q_len": q_len, "kv_len": kv_len}
        here = small.model_copy(update=changes)
        module = compile_model(model(), chip, topology, here, "commands", accounting=accounting)
        if run is not None:
            step = step.next_step(tokens[:, past:].reshape(-1), run.states)
        run = run_commands(module, step)
    assert run is not None
    logits = expected.logits.reshape(small.batch, past + new, -1)[:, past:].reshape(small.batch * new, -1)
    outcome = _Expected(logits, expected.states, {})
    difference, error = _compare(outcome, run, COMMAND_TOLERANCE)
    check = PassCheck("prefill-then-decode", "commands", error, perf_counter() - start, difference)
    return CheckResult("sequence", small.quantization.weights, (check,), seed, bindings)


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
        if level == "tile":
            return run_tiles(module, self.environment, self.known)
        return run_commands(module, self.environment)


def _compare(expected: _Expected, run: LayerRun, tolerance: float) -> tuple[Difference | None, float]:
    """The first value that differs, by execution order if it was recorded; and the largest error of the results."""
    results = [("logits", expected.logits, run.outputs[0] if run.outputs else None)]
    results += [(path, values, run.states.get(path)) for path, values in expected.states.items()]
    worst = max(_error(before, after) for _, before, after in results)
    if worst <= tolerance:
        return None, worst
    for key, execution in _in_execution_order(expected.values):
        before, found = expected.values[key][execution], run.values.get(key, ())
        after = found[execution] if execution < len(found) else None
        if after is not None and before.shape == after.shape and _error(before, after) > tolerance:
            return Difference(key.path, f"{key.op} result {key.result}", _error(before, after)), worst
    name, error = next((name, _error(a, b)) for name, a, b in results if _error(a, b) > tolerance)
    what = "logits" if name == "logits" else "the cache after the step"
    return Difference("" if name == "logits" else name, what, error), worst


def _in_execution_order(values: Mapping[ValueKey, Sequence[Array]]) -> Iterator[tuple[ValueKey, int]]:
    """Every value and which of its executions: the ops of repeated layers run one layer after the other."""
    for _, group in groupby(values, key=lambda key: key.path.split(".")[:2]):
        keys = list(group)
        for execution in range(max(len(values[key]) for key in keys)):
            yield from ((key, execution) for key in keys if execution < len(values[key]))


def _error(before: Array, after: Array | None) -> float:
    """The largest difference, relative to the largest value (at least 1); infinite where shapes differ."""
    if after is None or before.shape != after.shape:
        return np.inf
    if before.size == 0 or before.dtype.kind in "iu":
        return 0.0 if np.array_equal(before, after) else np.inf
    scale = max(1.0, float(np.abs(before).max()))
    difference = float(np.abs(before - after).max()) / scale
    return difference if np.isfinite(difference) else np.inf
