"""Why a step takes what it takes, from the Python API and the command line.

found = explain(
    load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"),
    load_deployment("dsv3-decode-ep32"), path="blocks.moe.mla.attention",
)
print(found.parts_us, found.ops[0].bound)
"""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Granularity, Target
from pmc.backends.evaluate.engine import program_of
from pmc.backends.evaluate.explain.commands import CommandTable
from pmc.backends.evaluate.explain.explain import ExplainOptions, explain_step
from pmc.backends.evaluate.explain.explanation import Explanation
from pmc.compiler.driver import compile_model, lower_dump, resume
from pmc.compiler.evaluation import EvaluationOptions, overlap_of
from pmc.compiler.pipelines import DEPLOYMENT
from pmc.dialects import layer
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, DeploymentAttr, Topology
from pmc.dialects.calibration import Calibration
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError


def explain(
    model: ModuleOp,
    chip: Chip | None = None,
    topology: Topology | None = None,
    deployment: Deployment | None = None,
    *,
    path: str | None = None,
    granularity: str | None = None,
    overlap: str = "none",
    faster: float | None = 2.0,
    commands: bool = False,
    accounting: Accounting | None = None,
    calibration: Calibration | None = None,
    bindings: Mapping[str, int] | None = None,
) -> Explanation:
    """Where the time of a step of one rank goes, or of the ops at `path`, and what would make them `faster`.

    `model` is a module of the model level, compiled for the target given, or a dump of any level from `dist` on, which
    holds its own; in a dump `bindings` replaces symbols.  Without a granularity it is the finest that the module and
    the chip allow.  `faster` None leaves out the levers; `commands` looks up what the ops are lowered to.  No argument
    is changed.  Raises PmcError.
    """
    module = model.clone()
    if DEPLOYMENT in module.attributes:
        if (chip, topology, deployment, accounting) != (None, None, None, None):
            raise PmcError("a dump holds its own chip, topology, deployment and accounting")
        module = lower_dump(module, bindings or {})
    elif chip is None or topology is None or deployment is None:
        raise PmcError("a model needs a chip, a topology and a deployment; a dump holds its own")
    else:
        module = compile_model(module, chip, topology, deployment, "dist", accounting=accounting)
    options = EvaluationOptions(granularity or "", overlap_of(overlap), calibration)
    return explain_module(module, bindings or {}, options, path, faster, commands)


def explain_module(
    module: ModuleOp,
    bindings: Mapping[str, int],
    options: EvaluationOptions,
    path: str | None = None,
    faster: float | None = 2.0,
    commands: bool = False,
) -> Explanation:
    """The same of a module at the dist level or below; no granularity is the finest possible.  Raises PmcError."""
    looked_at = options.granularity or finest_granularity(module)
    evaluator = EvaluationOptions(looked_at, options.overlap, options.calibration, options.tile_cache).evaluator(module)
    table = command_table(module, bindings) if commands else None
    return explain_step(evaluator, bindings, ExplainOptions(path, faster, table))


def finest_granularity(module: ModuleOp) -> str:
    """The closest look at a program: `tile` needs tensor ops and a chip with a command level, `core` tensor ops."""
    closest = Granularity.CHIP
    if isinstance(program_of(module), layer.ProgramOp):
        closest = Granularity.CORE if Target.of(module).chip.command_level is None else Granularity.TILE
    return str(closest.value)


def coarser(a: str, b: str) -> str:
    """The granularity at which two programs can both be looked at: the less close of the two."""
    order = [granularity.value for granularity in Granularity]
    return min(a, b, key=order.index)


def command_table(module: ModuleOp, bindings: Mapping[str, int]) -> CommandTable:
    """What the ops of a program are lowered to, with symbols replaced by `bindings`.  Raises PmcError."""
    lowered = module.clone()
    deployment = lowered.attributes.get(DEPLOYMENT)
    if isinstance(deployment, DeploymentAttr) and bindings:
        lowered.attributes[DEPLOYMENT] = DeploymentAttr(deployment.data.model_copy(update=dict(bindings)))
    return CommandTable(resume(lowered, "commands"))
