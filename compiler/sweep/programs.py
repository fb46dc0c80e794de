"""Programs of many deployments, compiled together: what their pipelines have in common runs once.

The pipeline of a deployment is a list of passes with options, and a pass reads the module, its options and at most the
target, or what ops take on it.  Two deployments whose lists begin alike therefore have the same module after that
beginning.  Deployments are compiled in an order in which those that share most are neighbours; of the one at hand, the
modules at which the next one branches off are kept.

Nothing is verified here: what a pass leaves does not depend on how many deployments are compiled, and the passes are
held against the verifiers wherever they run alone.  What a deployment may not ask for, passes refuse themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        self.costed: dict[Target, int] = {}
        self.targets: dict[tuple[Chip, Topology, Accounting], int] = {}

    def pipeline(self, target: Target) -> Pipeline:
        """The passes from the model to the dist level."""
        return tuple(self._stage(spec, target) for spec in default_pipeline(target.deployment, "dist"))

    def programs(self, wanted: Mapping[Pipeline, Target]) -> Iterator[tuple[Pipeline, ModuleOp | PmcError]]:
        """The module at the dist level of each pipeline, for one of the targets that lead to it, or why there is none.

        The caller may change the modules.  They come in an order in which those that share most are neighbours.
        """
        order = sorted(wanted)
        branches = _branches(order)
        kept: dict[Pipeline, ModuleOp | PmcError] = {}
        for pipeline, depths in zip(order, branches, strict=True):
            kept = {start: found for start, found in kept.items() if start == pipeline[: len(start)]}
            start = max(kept, key=len, default=())
            found = kept.get(start, self.model)
            if isinstance(found, ModuleOp):
                module = found.clone()
                target = wanted[pipeline]
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
            yield pipeline, found

    def _stage(self, spec: ArgSpec, target: Target) -> Stage:
        name = str(spec)
        if name not in self.passes:
            module_pass = build_pass(spec)
            assert isinstance(module_pass, PmcPass)
            self.passes[name] = module_pass
        if self.passes[name].COSTS and target.deployment.pp > 1:  # one stage is never balanced
            return name, self.costed.setdefault(target, len(self.costed) + 1)
        if not self.passes[name].CHIP_FIELDS and not self.passes[name].TOPOLOGY_FIELDS:
            return name, 0
        read = (target.chip, target.topology, target.accounting)
        return name, self.targets.setdefault(read, len(self.targets) + 1)


def _branches(order: Sequence[Pipeline]) -> list[set[int]]:
    """For each of some sorted pipelines the depths at which any later one leaves it, the last of which may be all."""
    depths: list[set[int]] = [set() for _ in order]
    for index in range(len(order) - 2, -1, -1):
        common = _common(order[index], order[index + 1])
        depths[index] = {common} | {depth for depth in depths[index + 1] if depth < common}
    return depths


def _common(first: Pipeline, second: Pipeline) -> int:
    """How many stages two pipelines begin with together."""
    different = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(different, min(len(first), len(second)))
