"""All passes, and the pipelines made of them.  Pipelines are data: pass names and what a deployment makes of options.

A pass is added by one line in `PIPELINE` or `OTHER_PASSES`; its module and class follow from its name:
`insert-collectives` is `InsertCollectivesPass` in `pmc.passes.insert_collectives`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from operator import attrgetter
from typing import cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ArgSpec, ParameterListType

from pmc.compiler.context import foreign_universes
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.algorithm_choice import CHOICES, AlgorithmChoice
from pmc.dialects.analyses.core_heat import CORE_HEAT, HeatResponse
from pmc.dialects.analyses.op_times import OP_TIMES
from pmc.dialects.analyses.planner import PLANNERS, TilePlanner
from pmc.dialects.arch import Chip, DeploymentAttr
from pmc.dialects.deployment import Deployment, DeploymentField, deployment_fields
from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.levels import LEVELS, Level
from pmc.dialects.schema import did_you_mean
from pmc.dialects.stacked_arch import StackedArch
from pmc.passes.base import PmcPass, history

DEPLOYMENT = "arch.deployment"
"""The module attribute that holds the deployment, from which a pipeline takes its options."""

PIPELINE: Mapping[Level, tuple[str, ...]] = {
    "model": (),
    "layer": ("expand-blocks", "quantize"),
    "dist": (
        "annotate-shardings",
        "insert-collectives",
        "localize",
        "combine-collectives",
        "fuse-rows",
        "fuse-gates",
        "partition-stages",
    ),
    "tile": (
        "bind-symbols",
        "select-algorithms",
        "select-tiles",
        "lower-to-tiles",
        "pipeline-loops",
        "prefetch-weights",
        "allocate-lmem",
        "allocate-dram",
    ),
    "commands": ("emit-g5",),
}
"""The default pipeline: for each level the passes that lead to it from the level before."""

OTHER_PASSES: tuple[str, ...] = (
    "match-silicon", "unroll-commands", "trace-experts", "place-experts", "physicalize", "shorten-tables",
)  # fmt: skip
"""Passes that run only when they are asked for."""

Options = dict[str, ParameterListType]


def pass_options(deployment: Deployment) -> dict[str, Options]:
    """What a deployment says about the options of the passes; its schema says which field is whose."""
    return {name: options_of(name, reader[1](deployment)) for name, reader in option_readers().items()}


def options_of(pass_name: str, values: Sequence[object]) -> Options:
    """The options of a pass with the values that its reader has found."""
    return {option: (_option(value),) for option, value in zip(option_readers()[pass_name][0], values, strict=True)}


OptionReader = tuple[tuple[str, ...], Callable[[Deployment], tuple[object, ...]]]
"""The options of a pass, and what finds their values in a deployment."""


@cache
def option_readers() -> Mapping[str, OptionReader]:
    """By pass the options that a deployment says."""
    fields: dict[str, list[DeploymentField]] = {}
    for field in deployment_fields():
        if field.pass_option is not None:
            fields.setdefault(field.pass_option.pass_name, []).append(field)
    return {name: _reader(own) for name, own in fields.items()}


def _reader(fields: Sequence[DeploymentField]) -> OptionReader:
    marks = [(field, field.pass_option) for field in fields]
    options = tuple(mark.option or field.name for field, mark in marks if mark is not None)
    values_of = attrgetter(*(mark.value or field.path for field, mark in marks if mark is not None))
    return options, values_of if len(fields) > 1 else lambda deployment: (values_of(deployment),)


def _option(value: object) -> str | int | bool | float:
    """A value in pipeline text, which has no lists."""
    if isinstance(value, tuple):
        return ",".join(map(str, cast(tuple[object, ...], value)))
    assert isinstance(value, str | int | float)
    return value


def pass_names() -> tuple[str, ...]:
    """All passes, those of the default pipeline first and in its order."""
    return (*(name for level in LEVELS for name in PIPELINE[level]), *OTHER_PASSES)


def _tile_planner(chip: Chip, accounting: Accounting) -> TilePlanner:
    from pmc.compiler.tile_selection import tile_planner

    return tile_planner(chip, accounting)


def _op_times(module: ModuleOp) -> Mapping[Operation, float] | None:
    from pmc.compiler.op_times import op_times

    return op_times(module)


class _CoreHeat:
    def response(self, arch: StackedArch) -> HeatResponse:
        from pmc.compiler.core_heat import core_heat

        return core_heat(arch)


# Whoever finds a pass by its name has imported this module.
PLANNERS.provide(_tile_planner)
OP_TIMES.provide(_op_times)
CORE_HEAT.provide(_CoreHeat())


def _algorithm_choice(module: ModuleOp) -> AlgorithmChoice:
    from pmc.compiler.algorithm_selection import algorithm_choice

    return algorithm_choice(module)


CHOICES.provide(_algorithm_choice)


def _load_pass(name: str) -> type[PmcPass]:
    words = name.split("-")
    class_name = "".join(word.capitalize() for word in words) + "Pass"
    pass_class: type[PmcPass] = getattr(import_module(f"pmc.passes.{'_'.join(words)}"), class_name)
    assert issubclass(pass_class, PmcPass)
    return pass_class


def pass_factories() -> dict[str, Callable[[], type[PmcPass]]]:
    """For each pass a function that imports it."""
    return {name: partial(_load_pass, name) for name in pass_names()}


def foreign_pass_factories() -> dict[str, Callable[[], type[ModulePass]]]:
    """The passes that other installed packages bring by the entry point `xdsl.universe`."""
    return {name: factory for universe in foreign_universes() for name, factory in universe.all_passes.items()}


def build_pass(spec: ArgSpec) -> ModulePass:
    """The pass that `spec` describes.  Raises PmcError for an unknown pass or option."""
    if spec.name not in pass_names():
        raise PmcError(f"unknown pass '{spec.name}'{did_you_mean(spec.name, pass_names())}")
    try:
        return _load_pass(spec.name).from_spec(spec)
    except ValueError as error:
        raise PmcError(f"{spec.name}: {error}") from None


def default_pipeline(deployment: Deployment, level: Level) -> list[ArgSpec]:
    """The passes from the `model` level to `level`, with the options that `deployment` asks for."""
    options = pass_options(deployment)
    reached = LEVELS[: LEVELS.index(level) + 1]
    return [ArgSpec(name, options.get(name, {})) for step in reached for name in PIPELINE[step]]


def remaining_pipeline(module: ModuleOp, level: Level) -> list[ArgSpec]:
    """What is left of the default pipeline of the module's own deployment.

    Passes that other packages bring may have run anywhere in between.
    Raises PmcError when the module holds no deployment, or when what it has been through (`pmc.passes`) is not how
    that pipeline begins: then only its author knows how to go on.
    """
    deployment = module.attributes.get(DEPLOYMENT)
    if not isinstance(deployment, DeploymentAttr):
        raise PmcError(
            f"the module has no attribute {DEPLOYMENT}, which `pmc compile` writes into it; name the passes with -p"
        )
    specs = default_pipeline(deployment.data, level)
    ours = pass_names()
    done = [entry.data for entry in history(module) if entry.data.partition("{")[0] in ours]
    for step, (recorded, spec) in enumerate(zip(done, specs, strict=False), 1):
        expected = str(build_pass(spec))
        if recorded != expected:
            raise PmcError(
                f"pass {step} of the module was {excerpt(recorded)}, "
                f"the pipeline of its deployment has {excerpt(expected)}; "
                "name the remaining passes with -p"
            )
    if len(done) > len(specs):
        raise PmcError(f"the module is past the {level} level: its last pass was {excerpt(done[-1])}")
    return specs[len(done) :]


def unroll_specs(core: int, full: bool) -> list[ArgSpec]:
    """What turns loops of commands into the tables of one core, with all their rows or the first and last."""
    return [ArgSpec("unroll-commands", {"core": (core,), "full": (full,)})]
