"""Programs of many deployments, compiled together: what their pipelines have in common runs once.

The pipeline of a deployment is a list of passes with options, and a pass reads the module, its options and at most the
target, or what ops take on it.  Two deployments whose lists begin alike therefore have the same module after that
beginning.  Deployments are compiled in an order in which those that share most are neighbours; of the one at hand, the
modules at which the next one branches off are kept.  Meshes that shard values alike differ in sizes only, which is no
difference until `localize`, and in the number of pipeline stages, which is none until `partition-stages`: a module that
goes on gets the mesh of its target.

Nothing is verified here: what a pass leaves does not depend on how many deployments are compiled, and the passes are
held against the verifiers wherever they run alone.  What a deployment may not ask for, passes refuse themselves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.context import make_context
from pmc.compiler.driver import set_target, verifier_errors
from pmc.compiler.pipelines import PIPELINE as PASSES
from pmc.compiler.pipelines import build_pass, option_readers, options_of
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.sharded_model import ShardedModel
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.dist import PIPELINE, Mesh, MeshAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS, MESH
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import HISTORY, PmcPass
from pmc.passes.localize import LocalizePass, LocalTypes
from pmc.passes.partition_stages import PartitionStagesPass


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

DIST_PASSES = tuple(name for level in LEVELS[: LEVELS.index("dist") + 1] for name in PASSES[level])
"""The passes from the model to the dist level."""

Kept = dict[Pipeline, ModuleOp | PmcError]
"""What the beginnings of pipelines lead to."""


class SharedCompiler:
    """Compiles one model for many deployments; those whose pipelines begin alike share what these lead to."""

    def __init__(self, model: ModuleOp) -> None:
        """`model` is a module of the model level, which is not changed."""
        self.model = model
        self.context = make_context()
        self.passes: dict[Hashable, PmcPass] = {}
        self.classes: dict[str, type[PmcPass]] = {}
        self.passes_of: dict[int, tuple[Deployment, Sequence[PmcPass]]] = {}
        """By the identity of the deployment, which is kept, so that nothing else takes its place in memory."""
        self.texts: dict[int, str] = {}
        """By the identity of a pass in `passes`."""
        self.targets: dict[Hashable, int] = {}
        self.parts: dict[int, tuple[Hashable, int]] = {}
        """By the identity of a part of a target, which is kept: a number that equal ones share."""
        self.whole: Kept = {}
        """The modules of whole tensors, before any sharding: one for all layouts."""
        self.sharded: dict[Pipeline, ShardedModel] = {}

    def pipeline(self, target: Target, dealt: bool = True) -> Pipeline:
        """The passes from the model to the dist level; unless `dealt`, without the one that deals layers to stages.

        Raises PmcError where it is known that one of them refuses.
        """
        passes = self._passes(target)
        stages: list[Stage] = []
        sizes: tuple[Hashable, ...] = ()
        for module_pass in passes if dealt else passes[:-1]:
            if isinstance(module_pass, AnnotateShardingsPass):
                model = self._sharded_model(tuple(stages), passes, target)
                text = module_pass.shardings(model)
                sizes = tuple((axis.name, axis.size) for axis in module_pass.mesh(model).axes if axis.name != PIPELINE)
            else:
                text = self._text(module_pass)
            stages.append((text, self._read(module_pass, target, sizes)))
        return tuple(stages)

    def programs(self, wanted: Sequence[tuple[Pipeline, Target]]) -> Iterator[ModuleOp | PmcError]:
        """The modules at the dist level, one by one, or why there is none; each may be changed by the caller.

        Pipelines that begin alike had better be neighbours, see `neighbours`: between two others that do not, what they
        share is compiled again.
        """
        branches = _branches([pipeline for pipeline, _ in wanted])
        kept: Kept = {}
        for (pipeline, target), depths in zip(wanted, branches, strict=True):
            kept = {start: found for start, found in kept.items() if start == pipeline[: len(start)]}
            whole = pipeline[: self._sharding(self._passes(target))]
            start = max(kept, key=len, default=whole)
            found = kept.get(start) or self.whole[whole]
            if isinstance(found, ModuleOp):
                module = found
                if len(start) in depths or start == whole:
                    module = found.clone()
                else:
                    del kept[start]  # nobody else goes on from here
                self.retarget(module, start, target)
                found = self._lowered(module, pipeline, len(start), target, depths, kept)
            yield found

    def _lowered(
        self, module: ModuleOp, pipeline: Pipeline, first: int, target: Target, depths: Set[int], kept: Kept
    ) -> ModuleOp | PmcError:
        """A module, in place, after the stages of a pipeline from `first` on, or the error of one of them.

        `kept` gets that error, or copies of the modules at `depths`.
        """
        passes = self._passes(target)
        for index in range(first, len(pipeline)):
            try:
                with verifier_errors(passes[index].name):
                    passes[index].apply(self.context, module)
            except PmcError as error:
                kept[pipeline[: index + 1]] = error
                return error
            if index + 1 in depths:
                kept[pipeline[: index + 1]] = module.clone()
        return module

    def retarget(self, module: ModuleOp, done: Pipeline, target: Target) -> Mesh:
        """Make a module after the stages `done` that of another target, which has these stages too; gives its mesh."""
        set_target(module, target.chip, target.topology, target.deployment, target.accounting)
        passes = self._passes(target)
        index = self._sharding(passes)
        if len(done) <= index:
            return Mesh(1, ())
        annotate = passes[index]
        assert isinstance(annotate, AnnotateShardingsPass)
        mesh = annotate.mesh(self.sharded[done[:index]])
        module.attributes[MESH] = MeshAttr(mesh)
        module.attributes[HISTORY] = ArrayAttr([StringAttr(self._text(one)) for one in passes[: len(done)]])
        return mesh

    def layouts(self, wanted: Sequence[tuple[Pipeline, Target]]) -> Iterator[ModuleOp | PmcError]:
        """The modules before the layers are dealt to stages, one by one, or why there is none.

        `wanted` has pipelines that end there, neighbours as in `programs`.  Modules whose values are sharded alike are
        one module, whose types are changed for each: what was given is gone when the next is asked for.  To that end
        `combine-collectives` runs before `localize`: it looks at kinds of collectives and at element types.
        """
        sharded = [pipeline[: self._localize(target)] for pipeline, target in wanted]
        groups = [list(found) for _, found in groupby(range(len(wanted)), key=sharded.__getitem__)]
        modules = self.programs([(sharded[places[0]], wanted[places[0]][1]) for places in groups])
        for places, module in zip(groups, modules, strict=True):
            if isinstance(module, PmcError):
                yield from [module] * len(places)
                continue
            passes = self._passes(wanted[places[0]][1])
            for module_pass in passes[self._localize(wanted[places[0]][1]) + 1 : -1]:
                module_pass.apply(self.context, module)
            local = LocalTypes(module)
            for place in places:
                pipeline, target = wanted[place]
                mesh = self.retarget(module, pipeline, target)
                try:
                    local.on(mesh)
                except PmcError as error:
                    yield error
                else:
                    yield module

    def _localize(self, target: Target) -> int:
        """Where sizes begin to matter."""
        return next(i for i, one in enumerate(self._passes(target)) if isinstance(one, LocalizePass))

    def partition(self, target: Target) -> PartitionStagesPass:
        """The pass that deals the layers to the stages of a target."""
        last = self._passes(target)[-1]
        assert isinstance(last, PartitionStagesPass)
        return last

    def _sharded_model(self, whole: Pipeline, passes: Sequence[PmcPass], target: Target) -> ShardedModel:
        """What decides over which meshes the module of whole tensors can be sharded.  Raises PmcError without one."""
        if whole not in self.whole:
            module = self.model.clone()
            set_target(module, target.chip, target.topology, target.deployment, target.accounting)
            self.whole[whole] = found = self._lowered(module, whole, 0, target, set(), {})
            if isinstance(found, ModuleOp):
                self.sharded[whole] = ShardedModel.of(found)
        if isinstance(error := self.whole[whole], PmcError):
            raise error
        return self.sharded[whole]

    def _passes(self, target: Target) -> Sequence[PmcPass]:
        """The passes of a target from the model to the dist level."""
        known = self.passes_of.get(id(target.deployment))
        if known is None:
            passes = [self._built(name, target.deployment) for name in DIST_PASSES]
            known = self.passes_of[id(target.deployment)] = target.deployment, passes
        return known[1]

    def _built(self, name: str, deployment: Deployment) -> PmcPass:
        """A pass with the options that a deployment says."""
        reader = option_readers().get(name)
        values = () if reader is None else reader[1](deployment)
        if (name, values) not in self.passes:
            options = options_of(name, values) if values else {}
            known = self.classes.get(name)
            # A deployment says every option of a pass in one value of its type; text would have to be looked at.
            module_pass = (
                build_pass(ArgSpec(name, options))
                if known is None
                else known(**{option: value for option, (value,) in options.items()})
            )
            assert isinstance(module_pass, PmcPass)
            self.classes[name] = type(module_pass)
            self.passes[name, values] = module_pass
        return self.passes[name, values]

    def _text(self, module_pass: PmcPass) -> str:
        if id(module_pass) not in self.texts:
            self.texts[id(module_pass)] = str(module_pass.spec())
        return self.texts[id(module_pass)]

    def _sharding(self, passes: Sequence[PmcPass]) -> int:
        """Where the modules of whole tensors end."""
        return next(i for i, one in enumerate(passes) if isinstance(one, AnnotateShardingsPass))

    def _read(self, found: PmcPass, target: Target, sizes: tuple[Hashable, ...]) -> int:
        """The number of what a pass reads of a target beside its options, 0 for nothing."""
        deployment = target.deployment
        read: tuple[Hashable, ...] = tuple(getattr(deployment, name) for name in found.deployment_fields)
        read += sizes if found.reads_sizes else ()
        if found.COSTS and deployment.pp > 1:
            parts: tuple[Hashable, ...] = (target.chip, target.topology, target.accounting, deployment)
            read += tuple(map(self._number, parts))
        elif found.CHIP_FIELDS or found.TOPOLOGY_FIELDS:
            read += self._number(target.chip), self._number(target.topology)
        return self.targets.setdefault(read, len(self.targets) + 1) if read else 0

    def _number(self, part: Hashable) -> int:
        """The number of a part of a target."""
        known = self.parts.get(id(part))
        if known is None:
            known = self.parts[id(part)] = part, self.targets.setdefault((part,), len(self.targets) + 1)
        return known[1]


def neighbours(pipelines: Iterable[Pipeline]) -> list[Pipeline]:
    """Pipelines in their order, but for those that begin as an earlier one does: these follow it."""
    first: dict[Pipeline, int] = {}
    given = list(pipelines)
    for pipeline in given:
        for depth in range(len(pipeline)):
            first.setdefault(pipeline[: depth + 1], len(first))
    return sorted(given, key=lambda pipeline: [first[pipeline[: depth + 1]] for depth in range(len(pipeline))])


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
