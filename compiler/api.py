"""The functions of `import pmc`.

    found = evaluate("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32", granularity="tile")
    print(found.total_us, found.figures.mfu)

A model, chip, topology, deployment, accounting or calibration is what a `load_*` function gave, or the name of a preset
or a file.  `overrides` replaces fields of the target by name, as `--set` does: {"chip.cores": 32, "deployment.tp": 4}.
No function changes what it is given.  Every mistake of a caller is a PmcError of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import (
    changed,
    default_accounting,
    load_accounting,
    load_calibration,
    load_chip,
    load_deployment,
    load_topology,
)
from pmc.compiler.driver import compile_model, lower_dump, replace_accounting, resume
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request, overlap_of
from pmc.compiler.module import Module, module_of
from pmc.compiler.overrides import PARTS, field_path
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.calibration import Calibration
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS, Level
from pmc.dialects.schema import Schema, did_you_mean

if TYPE_CHECKING:
    from pmc.backends.evaluate.explain.explanation import Explanation
    from pmc.backends.evaluate.request import RequestResult
    from pmc.backends.serve.result import ServingResult
    from pmc.backends.serve.service import Engine
    from pmc.compiler.check_report import CheckReport
    from pmc.compiler.silicon import Measurements
    from pmc.compiler.step_evaluation import StepEvaluation
    from pmc.compiler.sweep.result import SweepResult
    from pmc.dialects.traffic import Lengths

Named = str | Path
ModelLike = Module | ModuleOp | str | Path
ChipLike = Chip | str | Path
TopologyLike = Topology | str | Path
DeploymentLike = Deployment | str | Path
AccountingLike = Accounting | str | Path
CalibrationLike = Calibration | str | Path
Overrides = Mapping[str, object]

SchemaT = TypeVar("SchemaT", bound=Schema)


def load_model(name_or_path: Named) -> Module:
    """The model of a preset, a `config.json` (or its folder, or YAML), or a dump (`.mlir`).  Raises PmcError."""
    return Module.load(name_or_path)


def compile(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    emit: Level = "dist",
    accounting: AccountingLike | None = None,
    overrides: Overrides | None = None,
) -> Module:
    """A model lowered to the level `emit` for a target; or a dump, which holds its own, lowered further.

    Without an accounting, `physical` says by what tiles are chosen and costs are charged.  Raises PmcError.
    """
    if emit not in LEVELS:
        raise PmcError(f"emit: expected {' or '.join(LEVELS)}, found '{emit}'{did_you_mean(str(emit), LEVELS)}")
    source = module_of(model)
    if source.has_target:
        _refuse_target(source, chip, topology, deployment, overrides)
        return Module(resume(_charged(source.copy(), accounting), emit), source.name)
    target = _target(chip, topology, deployment, accounting, overrides)
    return Module(compile_model(source.copy(), *target[:3], emit, accounting=target[3]), source.name)


@overload
def evaluate(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    granularity: str = "chip",
    overlap: str = "none",
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    tile_cache: Named | None = None,
    overrides: Overrides | None = None,
    isl: None = None,
    osl: None = None,
    bindings: Mapping[str, int] | None = None,
    measurements: Measurements | None = None,
) -> StepEvaluation: ...


@overload
def evaluate(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    granularity: str = "chip",
    overlap: str = "none",
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    tile_cache: Named | None = None,
    overrides: Overrides | None = None,
    isl: int,
    osl: int,
    micro_batches: int | None = None,
    measurements: Measurements | None = None,
) -> RequestResult: ...


def evaluate(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    granularity: str = "chip",
    overlap: str = "none",
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    tile_cache: Named | None = None,
    overrides: Overrides | None = None,
    isl: int | None = None,
    osl: int | None = None,
    micro_batches: int | None = None,
    bindings: Mapping[str, int] | None = None,
    measurements: Measurements | None = None,
) -> StepEvaluation | RequestResult:
    """The time of one step of one rank, op by op; with `isl` and `osl` that of requests of so many tokens in and out.

    Granularity silicon asks the tables that `measurements` names.

    A dump holds its own target; `bindings` replaces its symbols (batch, q_len, kv_len) while it has any.  Raises
    PmcError.
    """
    from pmc.compiler.step_evaluation import evaluate_dist

    options = replace(_options(granularity, overlap, calibration, tile_cache), measurements=measurements)
    source = module_of(model)
    if (isl is None) != (osl is None):
        raise PmcError(f"a request needs both lengths: {'isl' if isl is None else 'osl'} is missing")
    if isl is not None and osl is not None:
        if source.has_target:
            raise PmcError(f"{source.name} is a dump of one phase: requests need a model, both phases are compiled")
        target = _target(chip, topology, deployment, accounting, overrides)
        return evaluate_request(source.op, *target[:3], isl, osl, options, micro_batches, target[3])
    if micro_batches is not None:
        raise PmcError("micro_batches is about requests: give isl and osl")
    module = _dist(source, chip, topology, deployment, accounting, overrides, bindings or {})
    return evaluate_dist(module, options, bindings or {})


def sweep(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    axes: Mapping[str, str | Sequence[object]],
    granularity: str = "chip",
    overlap: str = "none",
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    tile_cache: Named | None = None,
    overrides: Overrides | None = None,
    isl: int | None = None,
    osl: int | None = None,
    micro_batches: int | None = None,
) -> SweepResult:
    """Every combination of the values of `axes`, each row as `evaluate` says it.

    An axis is a field ("deployment.tp"), a part of the target by name ("chip") or an option ("overlap", "isl"); its
    values are a sequence, or text with lists and ranges: {"deployment.tp": [1, 2, 4], "chip.cores": "16..64:16"}.  What
    an axis names need not be given otherwise.  Raises PmcError; a point that cannot be has a reason in its row.
    """
    from pmc.compiler.sweep.axes import axis_of
    from pmc.compiler.sweep.engine import Sweep
    from pmc.compiler.sweep.points import Lengths, Point
    from pmc.compiler.sweep.programs import Target

    varied = tuple(axis_of(name, values) for name, values in axes.items())
    first = {axis.name: axis.values[0] for axis in varied}
    lengths = {name: cast("int | None", first.get(name, given)) for name, given in (("isl", isl), ("osl", osl))}
    if (lengths["isl"] is None) != (lengths["osl"] is None):
        raise PmcError(f"a request needs both lengths: {'isl' if lengths['isl'] is None else 'osl'} is missing")
    request = None
    if lengths["isl"] is not None and lengths["osl"] is not None:
        request = Lengths(lengths["isl"], lengths["osl"], micro_batches)
    elif micro_batches is not None:
        raise PmcError("micro_batches is about requests: give isl and osl")
    named = {name: cast("str | None", first.get(name)) for name in ("chip", "topology", "deployment", "accounting")}
    target = Target(
        *_target(
            chip or named["chip"],
            topology or named["topology"],
            deployment or named["deployment"],
            accounting or named["accounting"],
            overrides,
        )
    )
    source = module_of(model)
    if source.has_target:
        raise PmcError(f"{source.name} is a dump of one target: a sweep needs a model")
    options = _options(granularity, overlap, calibration, tile_cache)
    return Sweep(source.op, source.name, Point(target, options, request), varied).result()


def serve(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    isl: int | str | Lengths | None = None,
    osl: int | str | Lengths | None = None,
    prefix_share: float = 0.0,
    trace: Named | None = None,
    policy: str = "mixed",
    largest_batch: int = 64,
    token_budget: int = 2048,
    headroom: float = 0.1,
    kv_block_tokens: int = 16,
    engine: Engine = "events",
    requests: int = 4000,
    seed: int = 0,
    granularity: str = "chip",
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    tile_cache: Named | None = None,
    overrides: Overrides | None = None,
) -> ServingResult:
    """Latencies and throughput of a deployment that serves a traffic with continuous batching.

    Lengths are tokens, or text as of `pmc serve`: "uniform:100-2000".  `largest_batch` and `token_budget` are those of
    a data-parallel rank.  The engine `events` simulates `requests` requests, or those of the file `trace`;
    `closed-form` gives means.  Raises PmcError, also where the rate cannot be sustained or no request fits.
    """
    from pmc.backends.serve.requests import read_trace
    from pmc.compiler.serving import compile_service, scheduler_of, serve_module, traffic_of

    options = _options(granularity, "none", calibration, tile_cache)
    recorded = None if trace is None else read_trace(Path(trace))
    traffic = traffic_of(rate, concurrency, isl, osl, prefix_share, recorded)
    scheduler = scheduler_of(policy, largest_batch, token_budget, headroom, kv_block_tokens)
    source = module_of(model)
    if source.has_target:
        raise PmcError(f"{source.name} is a dump of one phase: serving needs a model, both phases are compiled")
    target = _target(chip, topology, deployment, accounting, overrides)
    module = compile_service(source.op, *target[:3], traffic, scheduler, target[3])
    return serve_module(module, options, engine, requests, seed, recorded)


def explain(
    model: ModelLike,
    chip: ChipLike | None = None,
    topology: TopologyLike | None = None,
    deployment: DeploymentLike | None = None,
    *,
    path: str | None = None,
    granularity: str | None = None,
    overlap: str = "none",
    faster: float | None = 2.0,
    commands: bool = False,
    accounting: AccountingLike | None = None,
    calibration: CalibrationLike | None = None,
    overrides: Overrides | None = None,
    bindings: Mapping[str, int] | None = None,
) -> Explanation:
    """Where the time of a step of one rank goes, or of the ops at `path`, and what would make them `faster`.

    A dump holds its own target; `bindings` replaces its symbols.  Without a granularity it is the finest that the
    module and the chip allow.  `faster` None leaves out the levers; `commands` looks up what the ops are lowered to.
    Raises PmcError.
    """
    from pmc.compiler.explain import explain_module

    options = _options(granularity or "", overlap, calibration, None)
    module = _dist(module_of(model), chip, topology, deployment, accounting, overrides, bindings or {})
    return explain_module(module, bindings or {}, options, path, faster, commands)


def check(
    model: Named,
    chip: ChipLike,
    topology: TopologyLike,
    deployment: DeploymentLike,
    *,
    layers: int = 3,
    seed: int = 0,
    plans: Literal["chosen", "random", "both"] = "both",
    accounting: AccountingLike | None = None,
    overrides: Overrides | None = None,
) -> CheckReport:
    """Proof by execution, on a small model of the same structure, that every pass keeps the meaning.

    `model` is a preset or a file: its config is shrunk.  Raises PmcError for what cannot be compiled.
    """
    from pmc.compiler.check import check_small
    from pmc.compiler.check_report import CheckReport
    from pmc.compiler.config import load_model_config

    if not isinstance(model, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PmcError(
            f"check shrinks the config of a model: give the name of a preset or a file, not {type(model).__name__}"
        )
    config, source = load_model_config(model)
    chip, topology, deployment, accounting = _target(chip, topology, deployment, accounting, overrides)
    results = check_small(config, source, chip, topology, deployment, layers, seed, plans, accounting=accounting)
    return CheckReport(str(model), results)


def _dist(
    source: Module,
    chip: ChipLike | None,
    topology: TopologyLike | None,
    deployment: DeploymentLike | None,
    accounting: AccountingLike | None,
    overrides: Overrides | None,
    bindings: Mapping[str, int],
) -> ModuleOp:
    """A copy of a module at the dist level or below.  Raises PmcError."""
    if source.has_target:
        _refuse_target(source, chip, topology, deployment, overrides)
        return lower_dump(_charged(source.copy(), accounting), bindings)
    if bindings:
        raise PmcError("bindings replace symbols of a dump; of a model give overrides, as {'deployment.batch': 64}")
    target = _target(chip, topology, deployment, accounting, overrides)
    return compile_model(source.copy(), *target[:3], "dist", accounting=target[3])


# -- what the arguments stand for -----------------------------------------------------------------------------------


def _target(
    chip: ChipLike | None,
    topology: TopologyLike | None,
    deployment: DeploymentLike | None,
    accounting: AccountingLike | None,
    overrides: Overrides | None,
) -> tuple[Chip, Topology, Deployment, Accounting]:
    """The parts of a target, with fields replaced.  Raises PmcError for one that is missing or none."""
    given = {"chip": chip, "topology": topology, "deployment": deployment}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise PmcError(f"missing {', '.join(missing)}: a model is compiled for a chip, a topology and a deployment")
    fields: dict[str, dict[str, object]] = {}
    for name, value in (overrides or {}).items():
        part, dot, field = name.partition(".")
        if not dot:
            raise PmcError(f"overrides: expected PART.FIELD, as chip.cores, found '{name}'")
        fields.setdefault(part, {})[field_path(part, field)] = value
    return (
        _part(Chip, load_chip, chip, fields),
        _part(Topology, load_topology, topology, fields),
        _part(Deployment, load_deployment, deployment, fields),
        _part(Accounting, load_accounting, accounting or default_accounting(), fields),
    )


def _part(
    schema: type[SchemaT], load: Callable[[Named], SchemaT], given: object, fields: Mapping[str, Mapping[str, object]]
) -> SchemaT:
    part = next(name for name, known in PARTS.items() if known is schema)
    found = _loaded(schema, load, given)
    return changed(found, fields[part]) if part in fields else found


def _loaded(schema: type[SchemaT], load: Callable[[Named], SchemaT], given: object) -> SchemaT:
    """What a name stands for, or what was loaded already.  Raises PmcError for anything else."""
    if isinstance(given, str | Path):
        return load(given)
    if isinstance(given, schema):
        return given
    name = schema.__name__.lower()
    raise PmcError(f"expected a {name}, or the name of a preset or a file, found {type(given).__name__}")


def _options(
    granularity: str, overlap: str, calibration: CalibrationLike | None, tile_cache: Named | None
) -> EvaluationOptions:
    corrections = None if calibration is None else _loaded(Calibration, load_calibration, calibration)
    cache = None if tile_cache is None else Path(tile_cache)
    return EvaluationOptions(granularity, overlap_of(overlap), corrections, cache)


def _charged(module: ModuleOp, accounting: AccountingLike | None) -> ModuleOp:
    """A dump under another accounting, where one is given.  Raises PmcError where its plans rest on its own."""
    if accounting is not None:
        replace_accounting(module, _loaded(Accounting, load_accounting, accounting))
    return module


def _refuse_target(source: Module, *given: object) -> None:
    if any(value is not None for value in given):
        raise PmcError(f"{source.name} holds its own target, which cannot be changed any more")
