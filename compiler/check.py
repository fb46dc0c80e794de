"""`pmc check`: proof by execution that every pass keeps the meaning of a model.

The model is shrunk and compiled pass by pass.  After each pass the module runs on the same seeded inputs, and its
logits and caches are compared with those of the model level, which is an implementation of its own, written from
the published equations.  A difference is blamed on the pass after which it first shows, at the first op whose value
differs from what the levels above computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Literal, Self

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.utils.arg_spec import ArgSpec, ParameterListType
from xdsl.utils.exceptions import VerifyException

from pmc.backends.numeric.dist import layouts, run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.layer import LayerRun, ValueKey, run_layer
from pmc.backends.numeric.model import model_sources, run_model, seeded_model_environment
from pmc.backends.numeric.op_by_op import first_deviation
from pmc.backends.numeric.precision import EMULATED
from pmc.backends.numeric.quantized import in_format, run_quantized
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.backends.numeric.shards import Layout
from pmc.compiler.context import make_context
from pmc.compiler.coverage import Coverage
from pmc.compiler.differences import Difference, Expected, compare
from pmc.compiler.driver import compile_model, run_pipeline, set_target
from pmc.compiler.invariants import Invariants
from pmc.compiler.pipelines import build_pass, default_pipeline
from pmc.compiler.shrink import shrink_deployment
from pmc.compiler.small import LAYERS, chip_for, refuse_mistakes, small_model
from pmc.compiler.unrolled import UNROLL, wrong_table
from pmc.dialects import tile
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.checkpoint import stored_types
from pmc.dialects.deployment import Deployment
from pmc.dialects.element_formats import element_format
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level, level_of
from pmc.dialects.model import EmbeddingOp
from pmc.dialects.tensor import element_name, tensor
from pmc.dialects.tile_plan import PLAN
from pmc.dialects.type_rules import HeldTypes
from pmc.passes.base import HISTORY

Plans = Literal["chosen", "random"]
"""Where plans come from: the best that the search finds, or any that fits, drawn by the seed."""

CHOOSING = ("select-algorithms", "select-tiles", "prefetch-weights")
"""The passes that choose by time, or at random."""

ADDRESSES = "allocate-dram"
"""The pass whose result the run of the commands proves, which use the same addresses.  It runs by itself where they
fail, to see whose fault it is."""

FP32 = {"weights": "f32", "activations": "f32", "kv_cache": "f32", "attention": "f32", "keep": (), "types": ()}
"""A quantization that keeps everything in the type of the small models."""

TOLERANCE = 1e-9
"""Levels above the tiles compute in FP64; they differ by the order of sums only."""

COMMAND_TOLERANCE = 2e-4
"""Tiles and commands hold FP32 in memory; relative to the largest value of a tensor."""


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
    plans: Plans
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
class Proof:
    """What a check runs.

    Down to the dist level arithmetic is FP64 whatever the element types say.  Tiles and commands store them, so they
    can be compared with the model only where all are FP32.  With `in_types` the deployment may name any types: then
    what `quantize` leaves must be the reference in these formats to the last bit, every kernel its tensor op within
    the rounding of its types, and the commands what the kernels are.
    """

    plans: Plans = "chosen"
    emit: Level = "commands"
    in_types: bool = False
    first: str = "expand-blocks"
    """The passes before this one are taken to be right."""
    unroll: bool = True
    """Whether to look at the tables of `unroll-commands` too."""


WHOLE = Proof()
"""All passes, on FP32."""


def check_model(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    seed: int = 0,
    mutate: Mutation | None = None,
    proof: Proof = WHOLE,
    coverage: Coverage | None = None,
    accounting: Accounting | None = None,
) -> CheckResult:
    """Compile a small `model` with a small `deployment` (see compiler/shrink.py), running it after each pass.

    A module in which a pass changed nothing that is executed is not run again, and addresses run with the commands.
    """
    bindings = deployment.symbols
    environment = seeded_model_environment(model, bindings, seed, deployment.draft_tokens)
    if proof.in_types:
        environment = in_format(environment, _own_format(model))
    reference = run_model(model, environment)
    logits = reference.logits
    if deployment.phase == "prefill":
        logits = logits[deployment.q_len - 1 :: deployment.q_len]  # a prefill gives those of the last tokens
    set_target(model, chip, topology, deployment, accounting)
    checks: list[PassCheck] = []
    runner = _Runner(
        environment, deployment, Expected((logits, *reference.drafted), reference.states, {}), proof.in_types
    )
    context = make_context()
    # The two runs of a phase draw different plans.
    specs = with_plans(default_pipeline(deployment, proof.emit), proof.plans, 2 * seed + proof.in_types)
    skipped = next(i for i, spec in enumerate(specs) if spec.name == proof.first)
    run_pipeline(model, specs[:skipped], verify_each=False)
    for spec in specs[skipped:]:
        module_pass = build_pass(spec)
        start = perf_counter()
        difference, error_size, failure = None, np.inf, None
        try:
            with coverage.tracing() if coverage is not None else nullcontext():
                module_pass.apply(context, model)
            changed = runner.look(model)
            if changed:
                model.verify()
            if mutate is not None:
                mutate(module_pass.name, model)
                model.verify()
                changed = runner.look(model) or changed
            difference, error_size = runner.run(module_pass.name, model)
            if difference is None:
                failure = runner.invariants.broken(module_pass.name, model, changed)
        except (PmcError, VerifyException) as error:
            failure = " ".join(str(error).split())
        except Exception as error:  # whatever a pass stumbles over is its fault, and the others were right
            failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
        seconds = perf_counter() - start
        checks.append(PassCheck(module_pass.name, level_of(model), error_size, seconds, difference, failure))
        if not checks[-1].passed:
            checks = runner.blame(checks)
            break
    done = level_of(model) == "commands" and checks[-1].passed
    if done and coverage is not None:
        coverage.add_programs(model)
    if done and proof.unroll:
        start = perf_counter()
        try:
            failure = wrong_table(model)
        except (PmcError, VerifyException) as error:
            failure = " ".join(str(error).split())
        checks.append(PassCheck(UNROLL, "commands", checks[-1].max_error, perf_counter() - start, None, failure))
    types = deployment.quantization.weights
    return CheckResult(deployment.phase, types, proof.plans, tuple(checks), seed, bindings)


def with_plans(specs: Sequence[ArgSpec], plans: Plans, seed: int) -> list[ArgSpec]:
    """A pipeline that draws plans and the algorithms of collectives where they are to be random."""
    if plans != "random":
        return list(specs)
    drawn: dict[str, ParameterListType] = {"choose": ("random",), "seed": (seed,)}
    return [ArgSpec(spec.name, {**spec.parameters, **drawn}) if spec.name in CHOOSING else spec for spec in specs]


def _own_format(model: ModuleOp) -> str:
    """The element type of the values of a module of the model level."""
    embedding = next(op for op in model.walk() if isinstance(op, EmbeddingOp))
    return element_name(tensor(embedding.y).element_type)


def check_small(
    config: Mapping[str, Any],
    source: str,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    layers: int = LAYERS,
    seed: int = 0,
    plans: Literal["chosen", "random", "both"] = "both",
    coverage: Coverage | None = None,
    accounting: Accounting | None = None,
) -> tuple[CheckResult, ...]:
    """Shrink everything and check prefill, decode, and a decode step on the caches that a prefill left.

    `config` is a Hugging Face config from `source`.  Each phase is compiled with the element types of the deployment
    and with FP32, under plans that `select-tiles` chooses and under random ones.  A chip without a command level, and
    element types that no command moves, are checked down to the dist level.  Stops at the first
    failure.  Raises PmcError for what `pmc compile` refuses too.
    """
    refuse_mistakes(config, source, chip, topology, deployment)
    emit: Level = "dist" if chip.command_level is None else "commands"
    kinds: tuple[Plans, ...] = ("chosen", "random") if plans == "both" else (plans,)
    results: list[CheckResult] = []

    def model(small: Deployment, dtype: str | None) -> ModuleOp:
        return small_model(config, source, small, layers, dtype)

    for phase in ("prefill", "decode"):
        typed = shrink_deployment(_in_phase(deployment, phase))
        plain = shrink_deployment(typed, quantization=FP32)
        held = typed.quantization.held(stored_types(model(typed, None)))
        reached: Level = emit if in_commands(held) else "dist"
        typed_chip = chip if reached == "dist" else chip_for(model(typed, None), chip, topology, typed)
        proof = Proof(kinds[-1], reached, in_types=True)
        args = (seed, None, proof, coverage, accounting)
        results.append(check_model(model(typed, None), typed_chip, topology, typed, *args))
        if not results[-1].passed:
            return tuple(results)
        if emit == "dist":
            continue
        plain_chip = chip_for(model(plain, "float32"), chip, topology, plain)
        for kind in kinds:
            args = (seed, None, Proof(kind, emit, first="bind-symbols", unroll=False), coverage, accounting)
            results.append(check_model(model(plain, "float32"), plain_chip, topology, plain, *args))
            if not results[-1].passed:
                return tuple(results)
    if emit == "commands":
        small = _in_phase(deployment, "prefill").model_copy(update={"draft_tokens": 0, "accepted_length": "none"})
        small = shrink_deployment(small, quantization=FP32)
        past = -(-11 // small.cp) * small.cp
        small = small.model_copy(update={"q_len": past, "kv_len": past})
        make = partial(model, small, "float32")
        results.append(
            _check_sequence(make, chip_for(make(), chip, topology, small), topology, small, seed, accounting)
        )
    return tuple(results)


def in_commands(held: HeldTypes) -> bool:
    """Whether commands exist for the element types: whole bytes without scales."""
    formats = [element_format(name) for name in held.formats]
    return all(found.scales is None and found.bits % 8 == 0 for found in formats)


def _in_phase(deployment: Deployment, phase: str) -> Deployment:
    """The deployment in a phase, of which `shrink_deployment` chooses the lengths."""
    one = {"q_len": 1} if deployment.draft_tokens else {}  # a prompt may be longer, a decode step with drafts not
    return deployment.model_copy(update={"phase": phase, **one})


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
        {p: values if p in longer.fixed else values[..., :past, :] for p, values in longer.states.items()},
        longer.fixed,
    )
    run: LayerRun | None = None
    difference, error, failure = None, np.inf, None
    try:
        for phase, q_len, kv_len in (("prefill", past, past), ("decode", new, past + new)):
            changes: dict[str, object] = {"phase": phase, "q_len": q_len, "kv_len": kv_len}
            here = small.model_copy(update=changes)
            module = compile_model(model(), chip, topology, here, "commands", accounting=accounting)
            if run is not None:
                step = step.next_step(tokens[:, past:].reshape(-1), run.states)
            # Caches of windows and of entries have other rows than one for every token.
            step = step.newest(model_sources(reference, dict(step.bindings)))
            run = run_commands(module, step)
        assert run is not None
        kept = replace(step, states=expected.states).newest(model_sources(reference, dict(step.bindings))).states
        logits = expected.logits.reshape(small.batch, past + new, -1)[:, past:].reshape(small.batch * new, -1)
        difference, error = compare(Expected((logits,), kept, {}), run, COMMAND_TOLERANCE)
    except PmcError as fault:
        failure = " ".join(str(fault).split())
    check = PassCheck("prefill-then-decode", "commands", error, perf_counter() - start, difference, failure)
    return CheckResult("sequence", small.quantization.weights, "chosen", (check,), seed, bindings)


@dataclass
class _Runner:
    """Runs a module of any level on the inputs of the whole model and compares."""

    environment: Environment
    deployment: Deployment
    expected: Expected
    in_types: bool
    known: dict[ValueKey, Layout] | None = None
    """The layouts of the values, from the module in which they were annotated."""
    in_formats: LayerRun | None = None
    """What the model computes in the formats of the deployment, until `quantize` is compared with it."""
    program: ModuleOp | None = None
    """The last tensor program, which kernels are held against."""
    kernels: LayerRun | None = None
    """What the kernels computed in their types."""
    seen: _Text | None = None
    """The module as it was looked at last."""
    executed: list[object] | None = None
    """What a run of the last module depended on."""
    addressed: ModuleOp | None = None
    """The module with addresses, which has not run."""
    error: float = 0.0

    def __post_init__(self) -> None:
        self.invariants = Invariants(self.deployment)

    def look(self, module: ModuleOp) -> bool:
        """Look at a module that is to be run; whether it is another one than when this was last called."""
        before, self.seen = self.seen, _Text.of(module)
        return before != self.seen

    def run(self, name: str, module: ModuleOp) -> tuple[Difference | None, float]:
        """The first value that differs and the largest error of the results."""
        assert self.seen is not None
        level = level_of(module)
        if self.in_types and name == "select-tiles":
            self.program = module.clone()
        before, self.executed = self.executed, self.seen.executed
        if before == self.executed:
            return None, self.error
        if name == ADDRESSES:
            self.addressed = module.clone()
            return None, self.error
        return self.compared(name, module, level)

    def blame(self, checks: list[PassCheck]) -> list[PassCheck]:
        """The same checks, up to the pass that gave wrong addresses if that was the fault."""
        if self.addressed is None:
            return checks
        difference, error, failure = None, np.inf, None
        try:
            difference, error = self.compared(ADDRESSES, self.addressed, "tile")
        except PmcError as fault:
            failure = " ".join(str(fault).split())
        if difference is None and failure is None:
            return checks
        place = next(i for i, check in enumerate(checks) if check.name == ADDRESSES)
        return [*checks[:place], replace(checks[place], max_error=error, difference=difference, failure=failure)]

    def compared(self, name: str, module: ModuleOp, level: Level | Literal["empty"]) -> tuple[Difference | None, float]:
        """Run the module and compare, as `run` says."""
        exact = level in ("layer", "dist")
        found = self.execute(module, level)
        difference: Difference | None = None
        if exact or not self.in_types:
            difference, error = compare(self.expected, found, TOLERANCE if exact else COMMAND_TOLERANCE)
        elif level == "tile":
            difference, error = self.kernels_against_ops(found)
        else:
            assert self.kernels is not None
            difference, error = compare(
                Expected(self.kernels.outputs, self.kernels.states, {}), found, COMMAND_TOLERANCE
            )
        if difference is None and self.in_types and level == "layer":
            difference = self.formats(name, module)
        if found.values:
            self.expected = replace(self.expected, values=found.values)
        self.error = error
        return difference, error

    def execute(self, module: ModuleOp, level: Level | Literal["empty"]) -> LayerRun:
        """Logits, caches and, where the level has them, the values on the way."""
        if level == "layer":
            return run_layer(module, self.environment, record=True)
        if level == "dist":
            self.known = self.known or layouts(module)
            return run_dist(module, self.environment, record=self.known)
        if level == "tile":
            return run_tiles(module, self.environment, self.known)
        return run_commands(module, self.environment)

    def formats(self, name: str, module: ModuleOp) -> Difference | None:
        """After `quantize`: the first result that is not that of the reference in the formats of the deployment."""
        if name != "quantize":
            self.in_formats = run_quantized(module, self.environment, self.deployment.quantization)
            return None
        assert self.in_formats is not None
        found = run_layer(module, self.environment, EMULATED)
        return compare(Expected(self.in_formats.outputs, self.in_formats.states, {}), found, TOLERANCE)[0]

    def kernels_against_ops(self, run: LayerRun) -> tuple[Difference | None, float]:
        """The first kernel that stored something else than its op computes from the same operands."""
        assert self.program is not None
        deviation, beside = first_deviation(self.program, self.environment, run.ranked)
        if deviation is not None:
            return Difference(deviation.path, deviation.what, deviation.error), deviation.error
        self.kernels = run
        # What no kernel wrote alone, the caches and what collectives left, has come the same way.
        return compare(Expected(beside.outputs, beside.states, {}), run, COMMAND_TOLERANCE)


UNDEFINED = -1
"""The number of a value, or of a block, that stands before its definition: a verifier will say so."""


@dataclass
class _Text:
    """All that a module says, but for the passes that it has been through."""

    executed: list[object]
    """What the values of a run depend on: without plans, and without addresses in LMEM above the commands."""
    rest: list[object]

    @classmethod
    def of(cls, module: ModuleOp) -> Self:
        """What `module` says."""
        found = cls([], [{name: value for name, value in module.attributes.items() if name != HISTORY}])
        values: dict[SSAValue, int] = {}
        blocks: dict[Block | None, int] = {None: UNDEFINED}
        for op in module.walk():
            for value in op.results:
                values[value] = len(values)
            for region in op.regions:
                for block in region.blocks:
                    blocks[block] = len(blocks)
                    found.executed.append([argument.type for argument in block.args])
                    for argument in block.args:
                        values[argument] = len(values)
            found.executed += (
                op.name,
                blocks.get(op.parent, UNDEFINED),
                [values.get(v, UNDEFINED) for v in op.operands],
                [v.type for v in op.results],
            )
            properties, attributes = op.properties, {} if op is module else op.attributes
            if isinstance(op, tile.AllocOp):
                properties = dict(properties)
                found.rest.append(properties.pop("address", None))
            attributes = dict(attributes)
            found.rest.append(attributes.pop(PLAN, None))
            found.executed += (dict(properties), attributes)
        return found
