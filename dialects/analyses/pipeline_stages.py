"""How the ops of a program are dealt to pipeline stages, and the stages that come of it.

`partition-stages` builds all stages of a program.  A sweep over many numbers of stages evaluates most of them from the
program and the deal alone, without building any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, Operation, Region, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp


@dataclass(frozen=True)
class Part:
    """An op of the program as one stage has it."""

    op: Operation
    """A source that the stage names, a repeat over layers, or any other op."""
    first: int
    """The layers of the repeat that run in earlier stages; 0 for other ops."""
    count: int | None
    """The layers of the repeat that run in this stage; None for other ops."""


@dataclass(frozen=True)
class Handover:
    """A value that one stage sends and the next receives."""

    value: SSAValue
    sends: bool
    """Whether this is the sender's side."""
    peer: int
    """The stage on the other side."""
    channel: int

    def op(self) -> dist.SendOp | dist.RecvOp:
        """The op; that of a sender still sends the value of the program and not that of the stage."""
        owner = self.value.owner
        path = owner.path.data if isinstance(owner, PmcOp) else ""
        properties = {"peer": self.peer, "channel": self.channel}
        if self.sends:
            return dist.SendOp.make([self.value], [], path, properties)
        found = dist.RecvOp.make([], [self.value.type], path, properties)
        found.y.name_hint = self.value.name_hint
        return found


StageItem = Part | Handover
Stage = Sequence[StageItem]
"""What a stage runs, in order."""


def dealt(block: Block, lengths: Sequence[int]) -> list[Stage]:
    """The ops of a program dealt to stages with so many layers each; a value that an earlier stage has is handed on.

    Ops before the first layer run in the first stage, others where the layer before them does.  Each stage names the
    sources that it uses.
    """
    dealer = _Dealer(lengths)
    for op in block.ops:
        dealer.add(op)
    return [tuple(items) for items in dealer.stages]


class _Dealer:
    """Deals op by op."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.stages: list[list[StageItem]] = [[] for _ in lengths]
        self.stage: int = 0
        self.used: int = 0
        self.there: list[set[SSAValue]] = [set() for _ in lengths]
        """The values that each stage has so far."""
        self.home: dict[SSAValue, int] = {}
        """The last stage that computes a value."""
        self.sources: dict[SSAValue, Operation] = {}
        self.channel = 0

    def add(self, op: Operation) -> None:
        """Give `op` to the current stage; a repeat may go on in the next ones."""
        if isinstance(op, layer.SourceOp):
            self.sources[op.result] = op
            return
        if not isinstance(op, layer.RepeatOp) or not op.is_layers:
            self._put(op, used_from_outside(op), 0, None)
            return
        done = 0
        while done < op.trip_count:
            if self.used == self.lengths[self.stage]:
                self.stage, self.used = self.stage + 1, 0
            count = min(self.lengths[self.stage] - self.used, op.trip_count - done)
            self._put(op, op.results if done else op.inits, done, count)
            done += count
            self.used += count

    def _put(self, op: Operation, needed: Sequence[SSAValue], first: int, count: int | None) -> None:
        for value in needed:
            self._bring(value)
        self.stages[self.stage].append(Part(op, first, count))
        self.there[self.stage].update(op.results)
        self.home.update(dict.fromkeys(op.results, self.stage))

    def _bring(self, value: SSAValue) -> None:
        """See to it that the current stage has a value."""
        if value in self.there[self.stage]:
            return
        if value in self.sources:
            self.stages[self.stage].append(Part(self.sources[value], 0, None))
            self.there[self.stage].add(value)
        elif value in self.home:
            self._hand_on(value, self.stage)
        # else an argument of the program, which every rank has

    def _hand_on(self, value: SSAValue, stage: int) -> None:
        """Hand `value` on from stage to stage up to `stage`."""
        if value in self.there[stage]:
            return
        self._hand_on(value, stage - 1)
        self.stages[stage - 1].append(Handover(value, True, stage, self.channel))
        self.stages[stage].append(Handover(value, False, stage - 1, self.channel))
        self.channel += 1
        self.there[stage].add(value)


def built(stage: Stage, index: int) -> tuple[dist.StageOp, dict[SSAValue, SSAValue]]:
    """The op of a stage, and of which value of the program each value in it is the copy.

    Arguments of the program are used as they are.
    """
    block = Block()
    here: dict[SSAValue, SSAValue] = {}
    origin: dict[SSAValue, SSAValue] = {}
    originals: list[SSAValue]
    for item in stage:
        new = item.op() if isinstance(item, Handover) else _copied(item, here)
        if isinstance(item, Handover):
            originals = [] if item.sends else [item.value]
            new.operands = [here[value] for value in new.operands]
        else:
            originals = list(item.op.results)
            origin.update(_inside(new, item.op))
        block.add_op(new)
        for before, after in zip(originals, new.results, strict=True):
            after.name_hint = before.name_hint
            here[before] = after
            origin[after] = before
    return dist.StageOp.make([], [], "", {"index": index}, [Region(block)]), origin


def _copied(part: Part, here: Mapping[SSAValue, SSAValue]) -> Operation:
    """The op of a stage on the values that the stage has."""
    op = part.op
    if part.count is None or not isinstance(op, layer.RepeatOp):
        return op.clone(value_mapper={v: here.get(v, v) for v in used_from_outside(op)})
    return layer.RepeatOp.build_with(
        part.count,
        [here.get(v, v) for v in (op.results if part.first else op.inits)],
        op.body.clone(),
        op.path.data,
        op.first.value.data + part.first,
        op.total.value.data,
    )


def _inside(new: Operation, old: Operation) -> Iterator[tuple[SSAValue, SSAValue]]:
    """The values in the regions of a copy with those that they are copies of."""
    for copy, op in zip(new.walk(), old.walk(), strict=True):
        if op is not old:
            yield from zip(copy.results, op.results, strict=True)
        for after, before in zip(copy.regions, op.regions, strict=True):
            for copied, block in zip(after.blocks, before.blocks, strict=True):
                yield from zip(copied.args, block.args, strict=True)


def used_from_outside(op: Operation) -> list[SSAValue]:
    """The values that an op or its body uses and does not define, in the order of their first use."""
    regions = [region for inner in op.walk() for region in inner.regions]
    inside: set[SSAValue] = {argument for region in regions for block in region.blocks for argument in block.args}
    found: dict[SSAValue, None] = {}
    for inner in op.walk():
        found.update(dict.fromkeys(v for v in inner.operands if v not in inside))
        inside.update(inner.results)
    return list(found)
