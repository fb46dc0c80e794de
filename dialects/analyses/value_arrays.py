"""Which array in DRAM holds every value of a tensor program of one rank.

Each value gets an array of its own, with these exceptions:
- a weight, a cache and what `layer.kv_append` or a recurrence makes of it are a stored array (see `stored_arrays`);
- a slice is a view of its operand;
- a value that an op computes tile by tile from an operand of its type takes the array of that operand, if nothing reads
  the old value afterwards (`LayerOp.in_place_pairs`);
- what a repeat carries has one array: that of its initial value if it is free, and the op that yields the next value
  writes into it where nothing reads the old one afterwards.  Otherwise the values are copied.

`lower-to-tiles` makes these arrays and copies, so that a footprint computed from here is the one that is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.analyses.liveness import Lifetime, Timeline
from pmc.dialects.analyses.scratch import scratch_types
from pmc.dialects.analyses.stored_arrays import ArrayKey, StoredArray, array_key, stored_arrays
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.silicon import QueryOp
from pmc.dialects.tensor import TensorType, tensor


@dataclass(eq=False)
class ValueArray:
    """An array that holds a value for a while, or the scratch memory of an op."""

    path: str
    type: TensorType
    like: Operation | None
    """The op that makes the value; None for an input."""
    value: SSAValue | None = None
    """The value that it was made for, the first of those that it holds; None for scratch memory."""
    is_output: bool = False


@dataclass(frozen=True)
class Move:
    """A copy from where a value is, or from an array, to an array."""

    source: SSAValue | ValueArray
    destination: ValueArray


@dataclass(frozen=True)
class Step:
    """An op that runs by itself, or a copy."""

    path: str
    op: str


@dataclass
class StageArrays:
    """The arrays in the DRAM of a pipeline stage, or of the whole program, beside the inputs of the program."""

    scope: layer.ProgramOp | dist.StageOp
    stored: dict[ArrayKey, StoredArray]
    arrays: list[ValueArray] = field(default_factory=list[ValueArray])
    """In the order of the program."""
    scratch: list[ValueArray] = field(default_factory=list[ValueArray])
    timeline: Timeline[ValueArray] = field(default_factory=Timeline[ValueArray])
    steps: list[Step] = field(default_factory=list[Step])
    """One for each of the timeline; the last is the end, where the outputs are read."""

    @property
    def index(self) -> int:
        """The number of the stage, 0 for a program without stages."""
        return self.scope.index.value.data if isinstance(self.scope, dist.StageOp) else 0

    @cached_property
    def lifetimes(self) -> dict[ValueArray, Lifetime]:
        """The lifetime of every array, in the order in which they are made, scratch memory last."""
        lives = self.timeline.lifetimes()
        return {array: lives[array] for array in (*self.arrays, *self.scratch)}

    @cached_property
    def alive(self) -> list[list[int]]:
        """The numbers of the arrays that are alive at every step, as `lifetimes` counts them."""
        steps: list[list[int]] = [[] for _ in range(self.timeline.steps)]
        for number, life in enumerate(self.lifetimes.values()):
            for step in range(life.first, life.last + 1):
                steps[step].append(number)
        return steps


@dataclass
class ProgramArrays:
    """The arrays of a program and the copies between them."""

    inputs: list[ValueArray] = field(default_factory=list[ValueArray])
    stages: list[StageArrays] = field(default_factory=list[StageArrays])
    array_of: dict[SSAValue, ValueArray | ArrayKey] = field(default_factory=dict[SSAValue, "ValueArray | ArrayKey"])
    """Where every value is; a slice is in the array of its operand."""
    before: dict[layer.RepeatOp, list[Move]] = field(default_factory=dict[layer.RepeatOp, list[Move]])
    """Copies of initial values into carried arrays."""
    handed_over: dict[layer.RepeatOp, list[Move]] = field(default_factory=dict[layer.RepeatOp, list[Move]])
    """Copies at the end of each iteration, in this order."""
    returned: list[Move] = field(default_factory=list[Move])
    """Copies of results into outputs."""

    @classmethod
    def of(cls, program: layer.ProgramOp) -> ProgramArrays:
        """The arrays of `program`.  Raises PmcError where a cache is read after it was appended to."""
        return _Assignment().program(program)

    @classmethod
    def of_stage(cls, program: layer.ProgramOp, stage: dist.StageOp) -> ProgramArrays:
        """Those of a stage that was built of a part of `program` and uses its arguments."""
        return _Assignment().scopes(program, [stage])


class _Assignment:
    """Walks a program in the order in which it runs."""

    def __init__(self) -> None:
        self.found = ProgramArrays()
        self.values_in: dict[ValueArray, list[SSAValue]] = {}
        """The values that an array holds at some time, also those that will be computed into it later."""
        self.views: set[SSAValue] = set()
        self.order = _Order()

    def program(self, program: layer.ProgramOp) -> ProgramArrays:
        stages = [op for op in program.body.block.ops if isinstance(op, dist.StageOp)]
        return self.scopes(program, stages or [program])

    def scopes(self, program: layer.ProgramOp, scopes: Sequence[dist.StageOp | layer.ProgramOp]) -> ProgramArrays:
        for index, argument in enumerate(program.body.block.args):
            array = ValueArray(argument.name_hint or f"input{index}", tensor(argument), None, argument)
            self.found.inputs.append(array)
            self.found.array_of[argument] = array
        for scope in scopes:
            self.stage = StageArrays(scope, stored_arrays(scope))
            self.repeats: tuple[layer.RepeatOp, ...] = ()
            self._block(scope.body.block)
            self.stage.steps.append(Step(program.path.data, "end"))
            self.stage.timeline.add([a for a in self.stage.arrays if a.is_output], [], ())
            self.found.stages.append(self.stage)
        return self.found

    # -- ops ------------------------------------------------------------------------------------------------------

    def _block(self, block: Block) -> None:
        array_of = self.found.array_of
        for op in block.ops:
            match op:
                case layer.SourceOp():
                    array_of[op.result] = array_key(op)
                case layer.SliceOp():
                    array_of[op.y] = array_of[op.x]
                    self.views.add(op.y)
                case layer.SampledTokensOp():
                    array_of[op.y] = array_of[op.tokens]
                case layer.RepeatOp():
                    self._repeat(op)
                case layer.YieldOp():
                    pass
                case layer.ReturnOp():
                    self._return(op)
                case _:
                    if isinstance(op, layer.StateUpdateOp):
                        self._update(op)
                    elif isinstance(op, QueryOp):
                        for before, after in op.updated:
                            array_of[after] = array_of[before]
                    for result in op.results:
                        if result not in array_of:
                            self._hold(result, self._overwritten_operand(op, result) or self._new(result, op))
                    scratch = [ValueArray(_path(op), type_, op) for type_ in scratch_types(op)]
                    self.stage.scratch += scratch
                    self._step(op.name, _path(op), op.operands, op.results, scratch=scratch)

    def _update(self, op: layer.StateUpdateOp) -> None:
        before, after = op.updated
        self.found.array_of[after] = self.found.array_of[before]
        if self.order.reads_later(before, op):
            raise PmcError(
                f"the cache of {op.name} at '{op.path.data}' is read after the update, "
                f"only the result of {op.name.removeprefix('layer.')} may be"
            )

    def _repeat(self, op: layer.RepeatOp) -> None:
        block = op.body.block
        carried: list[ValueArray] = []
        moves = self.found.before[op] = []
        for init, argument, result in zip(op.inits, block.args, op.outs, strict=True):
            array = self._free_array(op, init, result)
            if array is None or array in carried:
                array = self._new(argument, op)
                moves.append(Move(init, array))
                self._copy(init, array, op)
            carried.append(array)
            self._hold(argument, array)
        last = block.last_op
        assert isinstance(last, layer.YieldOp)
        for value, argument, array in zip(last.values, block.args, carried, strict=True):
            if value not in self.found.array_of and self._may_yield_into(value, argument, array):
                self._hold(value, array)
        self.repeats = (op, *self.repeats)
        self._block(block)
        self._hand_over(op, last.values, carried)
        self.repeats = self.repeats[1:]
        for result, array in zip(op.outs, carried, strict=True):
            self._hold(result, array)

    def _hand_over(self, op: layer.RepeatOp, values: Sequence[SSAValue], carried: Sequence[ValueArray]) -> None:
        """Copy yielded values to where the next iteration expects them, all reads before the writes that spoil them."""
        array_of = self.found.array_of
        moves = [
            Move(value, array)
            for value, array in zip(values, carried, strict=True)
            if array_of[value] is not array or value in self.views
        ]
        written = {move.destination for move in moves}
        staged: list[Move] = []
        for index, move in enumerate(moves):
            assert isinstance(move.source, SSAValue)
            if array_of[move.source] in written:
                aside = self._new(move.source, op)
                staged.append(Move(move.source, aside))
                self._copy(move.source, aside, op)
                moves[index] = Move(aside, move.destination)
        for move in moves:
            self._copy(move.source, move.destination, op)
        self.found.handed_over[op] = [*staged, *moves]

    def _return(self, op: layer.ReturnOp) -> None:
        """Results become outputs: their own array where they have one, a copy otherwise."""
        for value in op.values:
            array = None if value in self.views else self._shared(value)
            if array is not None and not array.is_output:
                array.is_output = True
                continue
            output = self._new(value, op)
            output.is_output = True
            self.found.returned.append(Move(value, output))
            self._copy(value, output, op)

    # -- arrays ---------------------------------------------------------------------------------------------------

    def _new(self, value: SSAValue, op: Operation) -> ValueArray:
        array = ValueArray(_path(op), tensor(value), op, value)
        self.stage.arrays.append(array)
        return array

    def _hold(self, value: SSAValue, array: ValueArray) -> None:
        self.found.array_of[value] = array
        self.values_in.setdefault(array, []).append(value)

    def _step(
        self,
        name: str,
        path: str,
        reads: Sequence[SSAValue],
        writes: Sequence[SSAValue],
        scratch: Sequence[ValueArray] = (),
    ) -> None:
        read, written = ([a for v in values if (a := self._shared(v))] for values in (reads, writes))
        self.stage.steps.append(Step(path, name))
        self.stage.timeline.add(read, written, self.repeats, scratch)

    def _copy(self, source: SSAValue | ValueArray, destination: ValueArray, op: Operation) -> None:
        array = source if isinstance(source, ValueArray) else self._shared(source)
        self.stage.steps.append(Step(_path(op), "copy"))
        self.stage.timeline.add([array] if array is not None else [], [destination], self.repeats)

    def _shared(self, value: SSAValue) -> ValueArray | None:
        """The array of a value, if it is one that values share with others over time."""
        array = self.found.array_of[value]
        return array if isinstance(array, ValueArray) and array.like is not None else None

    # -- sharing --------------------------------------------------------------------------------------------------

    def _overwritten_operand(self, op: Operation, result: SSAValue) -> ValueArray | None:
        """The array of an operand that `result` may take.

        A value that is yielded has its array already, or will be copied into it: in another it would be in the way.
        """
        if isinstance(op, layer.LayerOp) and not any(isinstance(u.operation, layer.YieldOp) for u in result.uses):
            for operand, written in op.in_place_pairs():
                if written is result and operand not in self.views:
                    array = self._shared(operand)
                    if array is not None and self._is_free(array, op, result):
                        return array
        return None

    def _free_array(self, op: layer.RepeatOp, init: SSAValue, result: SSAValue) -> ValueArray | None:
        """The array of an initial value, if the repeat may overwrite it."""
        array = None if init in self.views else self._shared(init)
        return array if array is not None and self._is_free(array, op, result) else None

    def _may_yield_into(self, value: SSAValue, argument: BlockArgument, array: ValueArray) -> bool:
        """Whether the op that computes the next value of a repeat may write it over the old one."""
        owner = value.owner
        if not isinstance(owner, Operation) or owner.parent_block() is not argument.block:
            return False
        if isinstance(owner, layer.SliceOp | layer.SourceOp | layer.RepeatOp):
            return False
        if isinstance(owner, layer.StateUpdateOp) and owner.updated[1] is value:
            return False
        return self._is_free(array, owner, value)

    def _is_free(self, array: ValueArray, op: Operation, result: SSAValue) -> bool:
        """Whether `op` may write `result` into an array: no other value in it is needed while `result` is there."""
        for value in self.values_in[array]:
            owner = value.owner
            if isinstance(owner, Operation) and self.order.is_later(owner, op):  # will be computed into the array
                if self.order.reads_later(result, owner) or not _spares(owner, result, value):
                    return False
            elif self.order.reads_later(value, op) or not _spares(op, value, result):
                return False
        return True


class _Order:
    """Which op reads a value after which."""

    def __init__(self) -> None:
        self.positions: dict[Block, dict[Operation, int]] = {}

    def is_later(self, op: Operation, other: Operation) -> bool:
        """Whether `op` stands behind `other` in one block."""
        block = op.parent_block()
        return block is not None and block is other.parent_block() and self._of(block)[op] > self._of(block)[other]

    def reads_later(self, value: SSAValue, op: Operation) -> bool:
        """Whether a value or a view of it is read after `op` has run, in this iteration of the repeats around or later.

        Every iteration reads what it takes from outside, `op` too.
        """
        home = value.owner if isinstance(value.owner, Block) else value.owner.parent_block()
        assert home is not None
        readers = list(_readers(value))
        current: Operation | None = op
        while current is not None and (block := current.parent_block()) is not None:
            place = self._of(block)
            comes_again = home is not block and home.is_ancestor(block) and _is_repeated(block)
            for reader in readers:
                found = block.find_ancestor_op_in_block(reader)
                if found is not None and (comes_again or place[found] > place[current]):
                    return True
            if home is block:
                return False
            current = block.parent_op()
        return False

    def _of(self, block: Block) -> dict[Operation, int]:
        if block not in self.positions:
            self.positions[block] = {op: index for index, op in enumerate(block.ops)}
        return self.positions[block]


def _is_repeated(block: Block) -> bool:
    return isinstance(block.parent_op(), layer.RepeatOp)


def _readers(value: SSAValue) -> Iterator[Operation]:
    """The ops that read a value or a view of it."""
    for use in value.uses:
        if isinstance(use.operation, layer.SliceOp):
            yield from _readers(use.operation.y)
        else:
            yield use.operation


def _spares(op: Operation, value: SSAValue, result: SSAValue) -> bool:
    """Whether `op`, where it reads `value`, has read each part of it before it writes `result` there."""
    reads = sum(1 for reader in _readers(value) if reader is op or op.is_ancestor(reader))
    if not reads:
        return True
    if isinstance(op, layer.RepeatOp):
        pairs: Sequence[tuple[SSAValue, SSAValue]] = list(zip(op.inits, op.outs, strict=True))
    else:
        pairs = op.in_place_pairs() if isinstance(op, layer.LayerOp) else []
    return reads == sum(1 for operand, written in pairs if operand is value and written is result)


def _path(op: Operation) -> str:
    return op.path.data if isinstance(op, PmcOp) else ""
