"""The pass `partition-stages`: pipeline parallelism as stages with send and recv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region

from pmc.dialects import dist, layer
from pmc.dialects.analyses.op_times import OP_TIMES
from pmc.dialects.analyses.pipeline_stages import built, dealt
from pmc.dialects.analyses.unnested import unnest
from pmc.dialects.dist import MeshAttr
from pmc.dialects.levels import MESH, Level
from pmc.passes.base import PassError, PmcPass

BALANCED = "balanced"
"""The option `layers` where times decide."""


@dataclass(frozen=True)
class PartitionStagesPass(PmcPass):
    """Split a local program into as many `dist.stage`s as the mesh axis pp has coordinates.

    The layers of all repeats, in order, are dealt to the stages in contiguous runs, so that the slowest stage takes
    as little time as can be and the others are as equal as can be.  Ops before the first layer (the embedding) run in
    the first stage, others where the layer before them does (the LM head in the last).  Times are those that the
    driver gives, of the target and the deployment of the module; sends are not in them.  A module without a target has
    no times: its stages have equally many layers, and what is left over goes to the inner ones.  With `layers` =
    16,15,.. the stages have so many.  A repeat that a boundary cuts becomes two repeats over parts of the same stored
    layers; which ones stands in the IR.

        %y = layer.repeat 32 from 0 of 32 (%h = %x) {..}
    becomes, with pp = 2,
        dist.stage {index = 0} { %a = layer.repeat 16 from 0 of 32 (%h = %x) {..}  dist.send(%a) {peer = 1, ..} }
        dist.stage {index = 1} { %b = dist.recv() ..  %y = layer.repeat 16 from 16 of 32 (%h = %b) {..} }

    Weights are repeated in the stages that use them.  Groups of layers that recur become one repeat after the other, so
    that a boundary may be anywhere.  With pp = 1 the program stays as it is.
    """

    name = "partition-stages"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)
    COSTS: ClassVar[bool] = True

    layers: str = BALANCED

    def run(self, module: ModuleOp) -> None:
        """Partition every program."""
        if _stages(module) > 1:
            for program in (op for op in module.ops if isinstance(op, layer.ProgramOp)):
                unnest(program.body.block)
        for program, lengths in self.lengths(module).items():
            if len(lengths) > 1:
                _partition(program, lengths)

    def lengths(self, module: ModuleOp) -> dict[layer.ProgramOp, list[int]]:
        """How many layers each stage of every program gets.  Raises PassError where they cannot be dealt."""
        stages = _stages(module)
        programs = [op for op in module.ops if isinstance(op, layer.ProgramOp)]
        if stages == 1:
            return {program: [layers_of(program.body.block)] for program in programs}
        balances = self.layers == BALANCED and "arch.chip" in module.attributes
        times = OP_TIMES.of(module) if balances else None
        return {program: self._lengths(program, stages, times) for program in programs}

    def _lengths(self, program: layer.ProgramOp, stages: int, times: Mapping[Operation, float] | None) -> list[int]:
        block = program.body.block
        if any(isinstance(op, dist.StageOp) for op in block.ops):
            raise PassError(f"{self.name}: '{program.sym_name.data}' already has stages")
        layers = layers_of(block)
        if layers < stages:
            raise PassError(f"{self.name}: pp = {stages} stages for {layers} layers; at most one stage per layer")
        if self.layers != BALANCED:
            return self._given(layers, stages)
        if times is None:
            return stage_lengths(layers, stages)
        return balanced_lengths(layer_times(block, times), stages)

    def _given(self, layers: int, stages: int) -> list[int]:
        """The lengths that the option names.  Raises PassError unless each stage has one and they add up."""
        try:
            given = [int(part) for part in self.layers.split(",")]
        except ValueError:
            raise PassError(f"{self.name}: layers is '{self.layers}', must be {BALANCED} or as in 16,15,15") from None
        if len(given) != stages or sum(given) != layers or min(given) < 1:
            raise PassError(
                f"{self.name}: layers = {self.layers} gives {len(given)} stages {sum(given)} layers, "
                f"must give pp = {stages} stages {layers} layers, each at least one"
            )
        return given


def _stages(module: ModuleOp) -> int:
    mesh = module.attributes[MESH]
    assert isinstance(mesh, MeshAttr)
    return mesh.data.axis(dist.PIPELINE).size


def _partition(program: layer.ProgramOp, lengths: Sequence[int]) -> None:
    """Put stages with so many layers in place of the ops of a program."""
    block = program.body.block
    new = Block([built(stage, index)[0] for index, stage in enumerate(dealt(block, lengths))], arg_types=[])
    for argument in list(block.args):
        moved = new.insert_arg(argument.type, len(new.args))
        moved.name_hint = argument.name_hint
        argument.replace_all_uses_with(moved)
    old = program.detach_region(program.body)
    program.add_region(Region(new))
    old.drop_all_references()


def layers_of(block: Block) -> int:
    """The layers of all repeats of a program or stage."""
    return sum(op.trip_count for op in block.ops if isinstance(op, layer.RepeatOp) and op.is_layers)


def lengths_of(module: ModuleOp) -> list[int]:
    """How many layers every stage of a module has; none without stages."""
    return [layers_of(stage.body.block) for stage in module.walk() if isinstance(stage, dist.StageOp)]


def stage_lengths(layers: int, stages: int) -> list[int]:
    """Layers per stage; the stages from the second on take the remainder first, then the last, then the first."""
    base, extra = divmod(layers, stages)
    order = [*range(1, stages - 1), stages - 1, 0]
    longer = set(order[:extra])
    return [base + (stage in longer) for stage in range(stages)]


def layer_times(block: Block, times: Mapping[Operation, float]) -> list[float]:
    """The seconds of every layer of a program, with those of the ops that run in the same stage as it."""
    found: list[float] = []
    before = 0.0
    for op in block.ops:
        seconds = sum(times.get(inner, 0.0) for inner in op.walk())
        if isinstance(op, layer.RepeatOp) and op.is_layers:
            found += [seconds / op.trip_count] * op.trip_count
        elif found:
            found[-1] += seconds
        else:
            before += seconds
    return [found[0] + before, *found[1:]]


_TICKS = 1 << 24
"""Of these is the time of all layers; whole numbers make stages of equal time exactly equal."""


def balanced_lengths(seconds: Sequence[float], stages: int) -> list[int]:
    """How many layers, one after the other, each of `stages` gets of layers that take `seconds` each; at least one.

    The longest stage is as short as it can be.  Among such splits the sum of squares of the times is the least; of
    equal ones that with more layers in earlier stages.  Found by dynamic programming over the first layer of each
    stage (the linear partition problem, Skiena, The Algorithm Design Manual, 8.5), in stages * layers**2 steps.
    """
    layers = len(seconds)
    ticks = np.rint(np.asarray(seconds) / max(sum(seconds), 1e-300) * _TICKS).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(ticks)])
    cost = ends[None, :] - ends[:, None]  # [first layer, layer behind the last]
    impossible = np.int64(1) << 60
    cost[np.tri(layers + 1, dtype=bool)] = impossible
    longest = cost[0]
    for _ in range(stages - 1):
        longest = np.min(np.maximum(longest[:, None], cost), axis=0)
    squares = np.where(cost <= longest[layers], cost**2, impossible)
    total, starts = squares[0], list[NDArray[np.intp]]()
    for _ in range(stages - 1):
        sums = np.minimum(total[:, None] + squares, impossible)
        starts.append(layers - np.argmin(sums[::-1], axis=0))
        total = np.min(sums, axis=0)
    bounds = [layers]
    for start in reversed(starts):
        bounds.insert(0, int(start[bounds[0]]))
    return [b - a for a, b in pairwise([0, *bounds])]
