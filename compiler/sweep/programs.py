"""Programs of many deployments, compiled together: what their pipelines have in common runs once.

The pipeline of a deployment is a list of passes with options, and a pass reads the module, its options and at most the
target, or what ops take on it.  Two deployments whose lists begin alike therefore have the same module after that
beginning.  Deployments are compiled in an order in which those that share most are neighbours; of the one at hand, the
modules at which the next one branches off are kept.

Nothing is verified here: what a pass leaves does not depend on how many deployments are compiled, and the passes are
held against the verifiers wherever they run alone.  What a deployment may not ask for, passes refuse themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.context import make_context
from pmc.compiler.driver import set_target, verifier_errors
from pmc.compiler.pipelines import build_pass, default_pipeline
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema
from pmc.passes.base import PmcPass


@dataclass(frozen=True)
class Target:
    """What a program is compiled for."""

    chip: Chip
    topology: Topology
    deployment: Deployment
    accounting: Accounting


Stage = tuple[str, int]
"""A pass with its options, and the number of the target where it reads that: what decides about the module it makes."""

Pipeline = tuple[Stage, ...]
"""What leads to a program; equal pipelines have equal programs."""


class SharedCompiler:
    """Compiles one model for many deployments; those whose pipelines begin alike share what these lead to."""

    def __init__(self, model: ModuleOp) -> None:
        """`model` is a module of the model level, which is not changed."""
        self.model = model
        self.context = make_context()
        self.passes: dict[str, PmcPass] = {}
        self.targets: dict[tuple[Schema, ...], int] = {}

    def pipeline(self, target: Target) -> Pipeline:
        """The passes from the model to the dist level."""
        return tuple(self._stage(spec, target) for spec in default_pipeline(target.deployment, "dist"))

    def programs(self, wanted: Sequence[tuple[Pipeline, Target]]) -> Iterator[ModuleOp | PmcError]:
        """The modules at the dist level, one by one, or why there is none; each may be changed by the caller.

        Pipelines that begin alike had better be neighbours, as in a sorted order: between two others that do not, what
        they share is compiled again.
        """
        branches = _branches([pipeline for pipeline, _ in wanted])
        kept: dict[Pipeline, ModuleOp | PmcError] = {}
        for (pipeline, target), depths in zip(wanted, branches, strict=True):
            kept = {start: found for start, found in kept.items() if start == pipeline[: len(start)]}
            start = max(kept, key=len, default=())
            found = kept.get(start, self.model)
            if isinstance(found, ModuleOp):
                module = found.clone()
                set_target(module, target.chip, target.topology, target.deployment, target.accounting)
                found = module
                for index in range(len(start), len(pipeline)):
                    module_pass = self.passes[pipeline[index][0]]
                    try:
                        with verifier_errors(module_pass.name):
                            module_pass.apply(self.context, module)
                    except PmcError as error:
                        found = kept[pipeline[: index + 1]] = error
                        break
                    if index + 1 in depths:
                        kept[pipeline[: index + 1]] = module.clone()
            yield found

    def _stage(self, spec: ArgSpec, target: Target) -> Stage:
        name = str(spec)
        if name not in self.passes:
            module_pass = build_pass(spec)
            assert isinstance(module_pass, PmcPass)
            self.passes[name] = module_pass
        found = self.passes[name]
        if found.COSTS and target.deployment.pp > 1:
            read: tuple[Schema, ...] = (target.chip, target.topology, target.accounting, target.deployment)
        elif found.CHIP_FIELDS or found.TOPOLOGY_FIELDS:
            read = (target.chip, target.topology)
        else:
            return name, 0
        return name, self.targets.setdefault(read, len(self.targets) + 1)


def _branches(order: Sequence[Pipeline]) -> list[set[int]]:
    """For each of some pipelines the depths at which later ones leave it, as long as these begin as it does."""
    depths: list[set[int]] = [set() for _ in order]
    for index in range(len(order) - 2, -1, -1):
        common = _common(order[index], order[index + 1])
        depths[index] = {common} | {depth for depth in depths[index + 1] if depth < common}
    return depths


def _common(first: Pipeline, second: Pipeline) -> int:
    """How many stages two pipelines begin with together."""
    different = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(different, min(len(first), len(second)))
