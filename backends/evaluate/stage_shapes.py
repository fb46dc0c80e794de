"""Footprints of the pipeline stages of many programs that differ in sizes: arrays and lifetimes are found once.

Which values share an array, and when each of them is needed, follows from the structure of a program: its ops, which
values they use, and which results may take the place of operands.  Layouts of one model have few structures.  What a
stage of a program needs is then a matter of the sizes of its values.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, SSAValue

from pmc.backends.evaluate.footprint import PARTS
from pmc.backends.evaluate.memory import end_of_arrays
from pmc.dialects import layer
from pmc.dialects.analyses.liveness import Lifetime
from pmc.dialects.analyses.pipeline_stages import Handover, Stage, StageItem, built
from pmc.dialects.analyses.stored_arrays import ArrayKey, StoredArray, array_key
from pmc.dialects.analyses.value_arrays import ProgramArrays, StageArrays


class Structure:
    """A program without its sizes."""

    def __init__(self, program: layer.ProgramOp) -> None:
        self.program = program
        self.numbers: dict[SSAValue, int] = {}
        """Every value, in the order of the program."""
        self.sources: list[layer.SourceOp] = []
        self._arrays: dict[ArrayKey, int] = {}
        self._ops: list[tuple[layer.LayerOp, int]] = []
        self._fixed = self._of(program.body.block)
        self.places = {op: index for index, op in enumerate(program.body.block.ops)}

    @property
    def key(self) -> Hashable:
        """Equal for programs whose values have the same arrays and lifetimes, value by value."""
        numbers = self.numbers
        pairs = [
            (place, numbers[value], numbers[result]) for op, place in self._ops for value, result in op.in_place_pairs()
        ]
        return self._fixed, tuple(pairs)

    def _of(self, block: Block) -> Hashable:
        numbers, key = self.numbers, list[Hashable]()
        for argument in block.args:
            numbers[argument] = len(numbers)
        for op in block.ops:
            key += op.name, *(numbers[value] for value in op.operands), len(op.results)
            for result in op.results:
                numbers[result] = len(numbers)
            if isinstance(op, layer.SourceOp):
                self.sources.append(op)
                key.append(self._arrays.setdefault(array_key(op), len(self._arrays)))
            elif isinstance(op, layer.RepeatOp):
                key += op.is_layers, op.first.value.data, op.trip_count, op.total.value.data, op.share_counts
                key.append(self._of(op.body.block))
            elif isinstance(op, layer.LayerOp):
                self._ops.append((op, len(self._ops)))
        return tuple(key)

    def kind(self, stage: Stage) -> Hashable:
        """What two stages of programs of one structure have in common that have the same arrays and lifetimes."""
        places = self.places
        return tuple(
            (self.numbers[item.value], item.sends)
            if isinstance(item, Handover)
            else (places[item.op], item.count is None, item.first > 0)
            for item in stage
        )


@dataclass(frozen=True)
class StoredShape:
    """A weight or cache of a stage."""

    value: int
    """The number of the value that first names it."""
    items: tuple[int, ...]
    """The repeats over layers of the stage in which it is named; without any, one layer is stored."""
    copies: int
    """Tensors that are stored for every layer of these."""

    def copies_in(self, layers: Sequence[range]) -> int:
        """The tensors that a stage stores whose items run these layers of their repeats."""
        if not self.items:
            return self.copies
        own = [layers[item] for item in self.items]
        return (max(r.stop for r in own) - min(r.start for r in own)) * self.copies


def _layers(item: StageItem) -> range:
    """The layers of its repeat that an item of a stage runs; none of another op."""
    if isinstance(item, Handover) or item.count is None or not isinstance(item.op, layer.RepeatOp):
        return range(0)
    first = item.op.first.value.data + item.first
    return range(first, first + item.count)


@dataclass(frozen=True)
class StageShape:
    """The arrays of a stage, by the numbers of values of the program."""

    inputs: tuple[int, ...]
    weights: tuple[StoredShape, ...]
    states: tuple[StoredShape, ...]
    shared: tuple[int, ...]
    """What lives for a while."""
    lifetimes: tuple[Lifetime, ...]
    alive: tuple[tuple[int, ...], ...]
    """Of every step the arrays that are alive, as places in `shared`."""

    @classmethod
    def of(cls, structure: Structure, stage: Stage | None) -> StageShape:
        """That of a stage of a program, which is built, looked at, and thrown away; None for the program without any.

        Raises PmcError as `ProgramArrays.of` does.
        """
        program = structure.program
        if stage is None:
            return cls._of(ProgramArrays.of(program), (), structure.numbers)
        op, origin = built(stage, 0)
        try:
            numbers = {**structure.numbers, **{new: structure.numbers[old] for new, old in origin.items()}}
            return cls._of(ProgramArrays.of_stage(program, op), stage, numbers)
        finally:
            op.erase()

    @classmethod
    def _of(cls, found: ProgramArrays, stage: Stage, numbers: Mapping[SSAValue, int]) -> StageShape:
        (arrays,) = found.stages
        assert not arrays.scratch, "no op has a plan before tiles are selected"
        stored = [(array.kind, _stored(array, arrays, stage, numbers)) for array in arrays.stored.values()]
        return cls(
            inputs=tuple(_number(array.value, numbers) for array in found.inputs),
            weights=tuple(shape for kind, shape in stored if kind == "weight"),
            states=tuple(shape for kind, shape in stored if kind == "state"),
            shared=tuple(_number(array.value, numbers) for array in arrays.lifetimes),
            lifetimes=tuple(arrays.lifetimes.values()),
            alive=tuple(map(tuple, arrays.alive)),
        )

    def parts(
        self, stage: Stage, sizes: Sequence[int], stored_sizes: Mapping[int, int], buffer_bytes: int, alignment: int
    ) -> dict[str, int]:
        """Bytes by part, in the order of `PARTS`, without any reserve.

        `sizes` are the bytes of every value, `stored_sizes` those of one tensor of a weight or cache.
        """
        inputs, layers = [sizes[number] for number in self.inputs], list(map(_layers, stage))
        weights, states = (
            [shape.copies_in(layers) * stored_sizes[shape.value] for shape in shapes]
            for shapes in (self.weights, self.states)
        )
        shared = [sizes[number] for number in self.shared]
        end = end_of_arrays([*inputs, *weights, *states, buffer_bytes], shared, self.lifetimes, alignment)
        alive = max(sum(shared[i] for i in together) for together in self.alive)
        parts = (sum(weights), sum(states), sum(inputs) + alive, buffer_bytes, 0)
        return dict(zip(PARTS, (*parts, end - sum(parts)), strict=True))


def _number(value: SSAValue | None, numbers: Mapping[SSAValue, int]) -> int:
    assert value is not None
    return numbers[value]


def _stored(array: StoredArray, arrays: StageArrays, stage: Stage, numbers: Mapping[SSAValue, int]) -> StoredShape:
    """What a stage stores of an array; `stage` has the items of which the ops of the scope were built, in order."""
    items = tuple(
        index
        for index, (item, op) in enumerate(zip(stage, arrays.scope.body.block.ops, strict=False))
        if not isinstance(item, Handover)
        and item.count is not None
        and any(isinstance(inner, layer.SourceOp) and array_key(inner) == array.key for inner in op.walk())
    )
    layers = len(array.layers)
    return StoredShape(numbers[array.op.result], items, array.copies // layers if items else array.copies)
