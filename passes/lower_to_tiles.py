"""`lower-to-tiles`: the tensor program becomes kernels over explicit memory (dist -> tile).

    %x = layer.weight() .. : !layer.tensor<[4096], bf16>             %w = tile.global() {kind = "weight", ..}
    %y = layer.rms_norm(%h, %w) .. attributes {tile.plan = ..}   ->  %y = tile.global() {kind = "activation", ..}
                                                                     tile.kernel() {cores = 64, ..} { loops }

Every tensor gets an array in DRAM: one `tile.global` per weight, cache, input, output and computed value; slices are
`tile.view`s.  Weights and caches inside a repeat have a leading layer dim, indexed by the symbol of the repeat.  The
values that a repeat carries live in one array each: the op that yields the next value writes into it when nothing
reads the old one afterwards, otherwise a copy kernel does.  `layer.kv_append` writes into the cache itself, its result
is the cache; so do recurrences with their state.  Collectives, dispatch and combine become `tile.collective`.

Every pipeline stage has arrays of its own, with the layers that it runs; only the inputs of the program stand outside.

Needs the plans of `select-tiles` and integer shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, cast

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, i8
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.analyses.communication import largest_transfer
from pmc.dialects.analyses.row_tiling import Rows, copied, plan_rows
from pmc.dialects.analyses.stored_arrays import ArrayKey, StoredArray, array_key
from pmc.dialects.analyses.value_arrays import Move, ProgramArrays, StageArrays, ValueArray
from pmc.dialects.arch import Chip
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.collective import Exchange, ExchangeInterface
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, UnboundSymbolError, expr
from pmc.dialects.levels import Level
from pmc.dialects.tensor import ScaledType, TensorType, element_bits, ints
from pmc.dialects.tile import (
    LAYER,
    PERIOD,
    SHARED_KINDS,
    CollectiveOp,
    GlobalOp,
    MemRefType,
    ProgramOp,
    RepeatOp,
    StageOp,
    ViewOp,
)
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode, path_of
from pmc.passes.tiling.families import family_of
from pmc.passes.tiling.rowwise import copy_kernel
from pmc.passes.tiling.target import TILING_FIELDS, chip_of

Properties = dict[str, PropertyValue]


@dataclass(frozen=True)
class LowerToTilesPass(PmcPass):
    """Replace each `layer.program` by a `tile.program`."""

    name = "lower-to-tiles"
    READS: ClassVar[tuple[Level, ...]] = ("layer", "dist")
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = TILING_FIELDS

    late_stores: bool = True
    """Whether a store in a loop is given behind the loads of the next iteration, where its buffer has a slot."""

    def run(self, module: ModuleOp) -> None:
        """Lower program by program."""
        chip = chip_of(module, self.name)
        for program in [op for op in module.ops if isinstance(op, layer.ProgramOp)]:
            try:
                lowered = _Lowering(chip, self._assigned(program), self.late_stores).program(program)
            except UnboundSymbolError as error:
                raise PassError(f"{self.name}: program '{program.sym_name.data}': {error}") from None
            block = program.parent_block()
            assert block is not None
            block.insert_op_before(lowered, program)
            block.erase_op(program)

    def _assigned(self, program: layer.ProgramOp) -> ProgramArrays:
        try:
            return ProgramArrays.of(program)
        except PmcError as error:
            raise PassError(f"{self.name}: {error}") from None


class _Lowering:
    """The arrays of one program and the ops that have been written; implements `tiling.kernels.Arrays`."""

    def __init__(self, chip: Chip, assigned: ProgramArrays, late_stores: bool) -> None:
        self.chip = chip
        self.late_stores = late_stores
        self.assigned = assigned
        self.bases: dict[ValueArray, SSAValue] = {}
        self.globals: list[GlobalOp] = []
        self.sources: dict[ArrayKey, SSAValue] = {}
        self.arrays: dict[SSAValue, Array] = {}
        self.dense_copies: dict[SSAValue, Array] = {}
        self.ops: list[Operation] = []
        self.views: list[dict[tuple[SSAValue, MemRefType], SSAValue]] = [{}]
        self.layer: Expr | None = None
        self.stored: dict[ArrayKey, StoredArray] = {}
        """The weights and caches of the program, or of the stage that is lowered."""
        self.results: dict[str, Attribute] = {}

    # -- structure ----------------------------------------------------------------------------------------------

    def program(self, program: layer.ProgramOp) -> ProgramOp:
        """The whole program."""
        block = program.body.block
        for array, sharding in zip(self.assigned.inputs, _argument_shardings(program), strict=True):
            self.bases[array] = self._global(_memref(array.type), "input", array.path, False, sharding)
        if self.assigned.stages[0].scope is program:
            self._stage_arrays(self.assigned.stages[0])
        self._block(block)
        body = Region(Block([*self._globals_in_order(), *self.ops]))
        properties: Properties = {"sym_name": program.sym_name.data, "phase": program.phase.data}
        lowered = ProgramOp.make([], [], program.path.data, properties, [body], like=program)
        # The shardings of arguments and results stay with the program: they say how its arrays relate to the whole.
        lowered.attributes.update(program.attributes)
        lowered.attributes.update(self.results)
        return lowered

    def _block(self, block: Block) -> None:
        for op in block.ops:
            match op:
                case layer.WeightOp() | layer.StateOp():
                    self._source(op)
                case layer.SliceOp():
                    self.arrays[op.y] = self._slice(op)
                case layer.SampledTokensOp():
                    self.arrays[op.y] = self._located(op.tokens)
                case layer.RepeatOp():
                    self._repeat(op)
                case dist.StageOp():
                    self._stage(op)
                case layer.YieldOp():
                    pass
                case layer.ReturnOp():
                    self._return(op)
                case _ if family_of(op) is not None:
                    self._kernel(op)
                case layer.LayerOp() | dist.DistExchangeOp() if isinstance(op, ExchangeInterface):
                    self._collective(op, op.exchange())
                case _:
                    raise PassError(f"lower-to-tiles: {op.name} at '{path_of(op)}' has no lowering to tiles")

    def _nested(self, block: Block) -> list[Operation]:
        """Lower `block` on its own; views made inside stay inside."""
        outside, self.ops = self.ops, []
        self.views.append({})
        self._block(block)
        self.views.pop()
        inside, self.ops = self.ops, outside
        return inside

    def _stage(self, op: dist.StageOp) -> None:
        """A stage: its ranks share no memory with those of other stages."""
        outside, self.globals = self.globals, []
        self.sources, self.dense_copies = {}, {}
        self._stage_arrays(next(stage for stage in self.assigned.stages if stage.scope is op))
        ops = self._nested(op.body.block)
        body = Region(Block([*self._globals_in_order(), *ops]))
        self.globals = outside
        self.ops.append(StageOp.make([], [], op.path.data, {"index": op.index}, [body], like=op))

    def _stage_arrays(self, stage: StageArrays) -> None:
        """The globals of a stage: weights and caches when an op names them, all others here."""
        self.stored = stage.stored
        transfer = largest_transfer(stage.scope.body.block)
        if transfer is not None:
            self._global(MemRefType.of([transfer.bytes], i8), "communication", transfer.path)
        for array in stage.arrays:
            kind = "output" if array.is_output else "activation"
            self.bases[array] = self._global(_memref(array.type), kind, array.path, like=array.like)

    def _repeat(self, op: layer.RepeatOp) -> None:
        self._moves(self.assigned.before[op], op)
        layer_around = self.layer
        symbol = op.symbol.data if op.symbol is not None else PERIOD if holds_layers(op) else LAYER
        if op.is_layers:
            if symbol == PERIOD and layer_around is not None:
                raise PassError(f"lower-to-tiles: layer.repeat at '{op.path.data}': layers are nested three deep")
            index = expr(symbol)
            outer = None if op.shares is not None else layer_around
            self.layer = index if outer is None else outer * op.total.value.data + index
        outside, self.ops = self.ops, []
        self.views.append({})
        self._block(op.body.block)
        self._moves(self.assigned.handed_over[op], op)
        self.views.pop()
        inside, self.ops = self.ops, outside
        self.layer = layer_around
        properties: Properties = {"symbol": symbol, "count": op.count, "first": op.first, "shares": op.shares}
        self.ops.append(RepeatOp.make([], [], op.path.data, properties, [Region(Block(inside))], like=op))

    def _return(self, op: layer.ReturnOp) -> None:
        self.results.update(op.attributes)
        self._moves(self.assigned.returned, op)

    def _moves(self, moves: Sequence[Move], op: Operation) -> None:
        for move in moves:
            source = self._located(move.source) if isinstance(move.source, SSAValue) else self._whole(move.source)
            self._copy(source, self._whole(move.destination), path_of(op), op)

    # -- arrays -------------------------------------------------------------------------------------------------

    def _global(
        self,
        type_: MemRefType,
        kind: str,
        path: str,
        layers: bool = False,
        sharding: Attribute | None = None,
        like: Operation | None = None,
        axes: Attribute | None = None,
        part: Properties | None = None,
    ) -> SSAValue:
        if isinstance(type_.element_type, ScaledType) or element_bits(type_.element_type) % 8:
            raise PassError(
                f"lower-to-tiles: '{path}' is stored as {type_.element_type}: GDMA moves whole bytes of one type, "
                "so no command reads it; evaluate it at granularity chip, core or tile, or compile to --emit dist"
            )
        properties: Properties = {"kind": kind, "layers": layers, "sharding": sharding, "axes": axes, **(part or {})}
        op = GlobalOp.make([], [type_], path, properties, like=like)
        self.globals.append(op)
        return op.results[0]

    def _source(self, op: layer.SourceOp) -> None:
        """One global per array that the program or the stage stores."""
        stored = self.stored[array_key(op)]
        if stored.key not in self.sources:
            self.sources[stored.key] = self._stored_global(stored)
        base = self.sources[stored.key]
        index = None if self.layer is None or not stored.layer_counts else self.layer - stored.layers.start
        array = Array.of_global(base, index)
        if isinstance(op, layer.StateOp):  # of a cache that several ops append to, each sees what is there by then
            array = array.rows_from(1, 0, ints(op.result)[1])
        transposed = isinstance(op, layer.WeightOp) and op.transpose_of is not None
        self.arrays[op.result] = array.transposed() if transposed else array

    def _whole(self, array: ValueArray) -> Array:
        return Array.of_global(self.bases[array])

    def _located(self, value: SSAValue) -> Array:
        """Where `value` is."""
        if value not in self.arrays:
            array = self.assigned.array_of[value]
            assert isinstance(array, ValueArray), "sources and appended caches are located where they are defined"
            self.arrays[value] = self._whole(array)
        return self.arrays[value]

    def _globals_in_order(self) -> list[GlobalOp]:
        """What stays first, then what shares memory."""
        return sorted(self.globals, key=lambda op: op.kind.data in SHARED_KINDS)

    def _stored_global(self, stored: StoredArray) -> SSAValue:
        dims = tuple(d.constant for d in stored.type.dims)
        if stored.layer_counts:
            dims = (len(stored.layers), *dims)
        part: Properties = {"role": stored.role, "below": stored.below}
        if stored.is_part:
            part.update(first=stored.layers.start, total=stored.layer_counts[0])
        sharding = None if stored.key.sharding is None else dist.ShardingAttr(stored.key.sharding)
        axes = ArrayAttr([StringAttr(name) for name in stored.axes])
        type_ = MemRefType.of(dims, stored.type.element_type)
        return self._global(type_, stored.kind, stored.path, bool(stored.layer_counts), sharding, stored.op, axes, part)

    def _slice(self, op: layer.SliceOp) -> Array:
        group, offset, size = (p.value.data for p in (op.group, op.offset, op.size))
        view = self._located(op.x).columns(group, offset, size)
        if view is None:
            view = self.array(op.x, *ints(op.x)).columns(group, offset, size)
        assert view is not None
        return view

    def array(self, value: SSAValue, *dims: int) -> Array:
        """Where `value` is under other dims when given; a copy where strides cannot say them."""
        wanted = dims or ints(value)
        array = self._located(value).reshape(wanted)
        if array is not None:
            return array
        if value not in self.dense_copies:
            owner = value.owner
            assert isinstance(owner, Operation)
            self.dense_copies[value] = self._dense(self._located(value), path_of(owner), owner)
        copied = self.dense_copies[value].reshape(wanted)
        assert copied is not None
        return copied

    def whole(self, value: SSAValue) -> Array:
        """Where `value` is without leading dims: a part of a repeated array is copied out first."""
        array = self.array(value)
        if not array.leads:
            return array
        owner = value.owner
        assert isinstance(owner, Operation)
        return self._dense(array, path_of(owner), owner)

    def result(self, value: SSAValue, *dims: int) -> Array:
        """Where the op must write its result."""
        if isinstance(value.owner, layer.StateUpdateOp):
            before, after = value.owner.updated
            if value is after:  # the op writes into the cache itself
                self.arrays[value] = self.arrays[before]
        array = self._located(value).reshape(dims or ints(value))
        assert array is not None, "an array that an op writes is dense"
        return array

    def scratch(self, op: Operation, dims: Sequence[int], element_type: Attribute) -> Array:
        """An array that the cores of the kernel of `op` share while it runs."""
        return Array.of_global(self._global(MemRefType.of(dims, element_type), "scratch", path_of(op), like=op))

    def _place(self, array: Array) -> SSAValue:
        """The SSA value of an array, a view where it is not a whole global."""
        type_ = array.memref()
        if type_ == array.base.type:
            return array.base
        for scope in reversed(self.views):
            if (array.base, type_) in scope:
                return scope[array.base, type_]
        owner = array.base.owner
        assert isinstance(owner, GlobalOp)
        view = ViewOp.make([array.base], [type_], owner.path.data, like=owner)
        self.ops.append(view)
        self.views[-1][array.base, type_] = view.result
        return view.result

    # -- ops ----------------------------------------------------------------------------------------------------

    def code(self, op: Operation, plan: PlanAttr) -> KernelCode:
        """An empty kernel for `op`."""
        return KernelCode(self._place, op.name, path_of(op), op, plan.buffer_slots, self.late_stores)

    def _kernel(self, op: Operation) -> None:
        plan, family = op.attributes.get(PLAN), family_of(op)
        assert family is not None
        if not isinstance(plan, PlanAttr):
            raise PassError(f"lower-to-tiles: {op.name} at '{path_of(op)}' has no plan, run select-tiles before")
        fault = family.fault(op, plan, self.chip)
        if fault is not None:
            raise PassError(f"lower-to-tiles: the plan of {op.name} at '{path_of(op)}': {fault}")
        self.ops.append(family.lower(op, plan, self, self.chip))

    def _collective(self, op: Operation, exchange: Exchange) -> None:
        ins = [self._place(self.whole(v)) for v in op.operands]
        outs = [self._place(self.result(v)) for v in op.results]
        properties: Properties = {"collective": exchange.collective, "algorithm": exchange.named_algorithm}
        self.ops.append(CollectiveOp.make([ins, outs], [], path_of(op), properties, like=op))

    def _dense(self, array: Array, path: str, like: Operation) -> Array:
        """A dense copy of an array."""
        type_ = MemRefType.of(array.dims, array.element_type)
        copy = Array.of_global(self._global(type_, "activation", path, like=like))
        self._copy(array, copy, path, like)
        return copy

    def _copy(self, source: Array, destination: Array, path: str, like: Operation) -> None:
        """A kernel that copies one array into another of as many elements."""
        rows = _copy_rows(source, destination)
        view = rows.dims(rows.width)
        code = KernelCode(self._place, "copy", path, like)
        plan = plan_rows(rows, self.chip)
        read, written = source.reshape(view), destination.reshape(view)
        assert read is not None and written is not None
        self.ops.append(copy_kernel(code, plan, rows, read, written))


def _memref(type_: TensorType) -> MemRefType:
    """The dense array of a tensor."""
    return MemRefType.of([d.constant for d in type_.dims], type_.element_type)


def _copy_rows(source: Array, destination: Array) -> Rows:
    """Both arrays as [outer, inner, width]: the strided one decides what is adjacent."""
    *leading, width = (destination if source.is_dense else source).dims
    *outer, inner = leading if len(leading) > 1 else (*leading, 1)
    return copied(prod(outer), inner, width, source.element_type)


def _argument_shardings(program: layer.ProgramOp) -> Sequence[Attribute | None]:
    """What `localize` recorded of the arguments, nothing for a program of one rank."""
    recorded = program.attributes.get(dist.ARGUMENTS)
    if not isinstance(recorded, ArrayAttr):
        return [None] * len(program.body.block.args)
    return cast(ArrayAttr[Attribute], recorded).data


def holds_layers(op: layer.RepeatOp) -> bool:
    """Whether layers are repeated inside of a repeat."""
    return any(inner is not op and isinstance(inner, layer.RepeatOp) and inner.is_layers for inner in op.walk())
