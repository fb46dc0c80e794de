"""All granularities at which a program can be looked at, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Granularity, Target
from pmc.backends.evaluate.engine import program_of
from pmc.backends.evaluate.levels import LevelTable, compare_levels
from pmc.compiler.evaluation import EvaluationOptions
from pmc.dialects import layer


def granularities_of(module: ModuleOp) -> tuple[Granularity, ...]:
    """Those that the module and its chip allow, the least close first: `core` and `tile` need tensor ops, `tile` and
    `commands` a chip with a command level."""
    tensors = isinstance(program_of(module), layer.ProgramOp)
    commands = Target.of(module).chip.command_level is not None
    allowed = {
        Granularity.CHIP: True,
        Granularity.CORE: tensors,
        Granularity.TILE: tensors and commands,
        Granularity.COMMANDS: commands,
    }
    return tuple(granularity for granularity, allows in allowed.items() if allows)


def evaluate_levels(module: ModuleOp, options: EvaluationOptions, bindings: Mapping[str, int]) -> LevelTable:
    """The step of a module at the dist level or below at all its granularities, symbols replaced by `bindings`.

    The granularity of `options` is not used.  Raises PmcError.
    """
    evaluators = [replace(options, granularity=level.value).evaluator(module) for level in granularities_of(module)]
    return compare_levels(evaluators, bindings)
