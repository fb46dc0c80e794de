"""The pass `partition-stages`: pipeline parallelism as stages with send and recv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.analyses.op_times import OP_TIMES
from pmc.dialects.assembly import PmcOp
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

    Weights are repeated in the stages that use them.  With pp = 1 the program stays as it is.
    """

    name = "partition-stages"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)
    COSTS: ClassVar[bool] = True

    layers: str = BALANCED

    def run(self, module: ModuleOp) -> None:
        """Partition every program."""
        mesh = module.attributes[MESH]
        assert isinstance(mesh, MeshAttr)
        stages = mesh.data.axis(dist.PIPELINE).size
        if stages == 1:
            return
        balances = self.layers == BALANCED and "arch.chip" in module.attributes
        times = OP_TIMES.of(module) if balances else None
        for op in module.ops:
            if isinstance(op, layer.ProgramOp):
                self._partition(op, stages, times)

    def _partition(self, program: layer.ProgramOp, stages: int, times: Mapping[Operation, float] | None) -> None:
        block = program.body.block
        if any(isinstance(op, dist.StageOp) for op in block.ops):
            raise PassError(f"{self.name}: '{program.sym_name.data}' already has stages")
        layers = sum(op.trip_count for op in block.ops if isinstance(op, layer.RepeatOp) and op.is_layers)
        if layers < stages:
            raise PassError(f"{self.name}: pp = {stages} stages for {layers} layers; at most one stage per layer")
        if self.layers != BALANCED:
            quotas = self._given(layers, stages)
        elif times is None:
            quotas = stage_lengths(layers, stages)
        else:
            quotas = balanced_lengths(layer_times(block, times), stages)
        splitter = _Splitter(quotas)
        for op in list(block.ops):
            splitter.add(op)
        new = Block(splitter.finish(), arg_types=[])
        for argument in list(block.args):
            moved = new.insert_arg(argument.type, len(new.args))
            moved.name_hint = argument.name_hint
            argument.replace_all_uses_with(moved)
        old = program.detach_region(program.body)
        program.add_region(Region(new))
        old.drop_all_references()

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


def lengths_of(module: ModuleOp) -> list[int]:
    """How many layers every stage of a module has; none without stages."""
    return [
        sum(op.trip_count for op in stage.body.block.ops if isinstance(op, layer.RepeatOp) and op.is_layers)
        for stage in module.walk()
        if isinstance(stage, dist.StageOp)
    ]


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


def _used_from_outside(op: Operation) -> list[SSAValue]:
    """The values that an op or its body uses and does not define, in the order of their first use."""
    regions = [region for inner in op.walk() for region in inner.regions]
    inside: set[SSAValue] = {argument for region in regions for block in region.blocks for argument in block.args}
    found: dict[SSAValue, None] = {}
    for inner in op.walk():
        found.update(dict.fromkeys(v for v in inner.operands if v not in inside))
        inside.update(inner.results)
    return list(found)


class _Splitter:
    """Deals the ops of a program to stages; a value needed from an earlier stage is sent on."""

    def __init__(self, quotas: list[int]) -> None:
        self.quotas = quotas
        self.stages = [Block() for _ in quotas]
        self.stage: int = 0
        self.used: int = 0
        self.values: list[dict[SSAValue, SSAValue]] = [{} for _ in quotas]
        self.home: dict[SSAValue, int] = {}
        self.sources: dict[SSAValue, Operation] = {}
        self.channel = 0

    def add(self, op: Operation) -> None:
        """Give `op` to the current stage; a repeat may go on in the next ones."""
        if isinstance(op, layer.SourceOp):
            self.sources[op.result] = op
            return
        if not isinstance(op, layer.RepeatOp) or not op.is_layers:
            self._emit(op)
            return
        done = 0
        inits: list[SSAValue] = list(op.inits)
        while done < op.trip_count:
            if self.used == self.quotas[self.stage]:
                self.stage, self.used = self.stage + 1, 0
            count = min(self.quotas[self.stage] - self.used, op.trip_count - done)
            part = layer.RepeatOp.build_with(
                count,
                [self._here(v) for v in inits],
                op.body.clone(),
                op.path.data,
                op.first.value.data + done,
                op.total.value.data,
            )
            self.stages[self.stage].add_op(part)
            for before, after in zip(op.results, part.results, strict=True):
                after.name_hint = before.name_hint
                self._define(before, after)
            inits = list(op.results)
            done += count
            self.used += count

    def _emit(self, op: Operation) -> None:
        mapping = {v: self._here(v) for v in _used_from_outside(op)}
        new = op.clone(value_mapper=mapping)
        self.stages[self.stage].add_op(new)
        for before, after in zip(op.results, new.results, strict=True):
            self._define(before, after)

    def _define(self, old: SSAValue, new: SSAValue) -> None:
        self.values[self.stage][old] = new
        self.home[old] = self.stage

    def _here(self, value: SSAValue) -> SSAValue:
        """`value` in the current stage: received from the one that has it, or a source named again."""
        known = self.values[self.stage].get(value)
        if known is not None:
            return known
        if value in self.sources:
            copy = self.sources[value].clone()
            self.stages[self.stage].add_op(copy)
            self.values[self.stage][value] = copy.results[0]
            return copy.results[0]
        if value not in self.home:
            return value  # an argument of the program, which every rank has
        return self._received(value, self.stage)

    def _received(self, value: SSAValue, stage: int) -> SSAValue:
        """Hand `value` on from stage to stage up to `stage`."""
        known = self.values[stage].get(value)
        if known is not None:
            return known
        sent = self._received(value, stage - 1)
        owner = value.owner
        path = owner.path.data if isinstance(owner, PmcOp) else ""
        self.stages[stage - 1].add_op(dist.SendOp.make([sent], [], path, {"peer": stage, "channel": self.channel}))
        recv = dist.RecvOp.make([], [value.type], path, {"peer": stage - 1, "channel": self.channel})
        self.channel += 1
        self.stages[stage].add_op(recv)
        recv.y.name_hint = value.name_hint
        self.values[stage][value] = recv.y
        return recv.y

    def finish(self) -> list[dist.StageOp]:
        """The stages in order."""
        return [
            dist.StageOp.make([], [], "", {"index": index}, [Region(block)]) for index, block in enumerate(self.stages)
        ]
