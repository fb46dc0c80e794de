"""The `dist` dialect: one program that every rank of a device mesh runs on its shard (SPMD).

A module with the attribute `dist.mesh` is at the dist level.  Between `annotate-shardings` and `localize`, types are
those of whole tensors with a `#dist.sharding` as encoding; after `localize` they are those of one rank, and only a
partial sum still says so.

    %y = layer.matmul(%x, %w) at "..o_proj" : !layer.tensor<[batch*q_len, 4096], bf16,
                                               #dist.sharding<[[dp], []], partial [tp]>>
    %z = dist.all_reduce(%y) {axis = "tp"} at "..o_proj" : !layer.tensor<.., #dist.sharding<[[dp], []]>>
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.ir import Data, Dialect, Operation
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import NoTerminator
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import (
    ALGORITHMS,
    COLLECTIVES,
    AlgorithmAttr,
    AllGatherAttr,
    AllReduceAttr,
    CollectiveAttr,
    CombineAttr,
    DispatchAttr,
    Exchange,
    ExchangeInterface,
    LocalSliceAttr,
    RecvAttr,
    ReduceScatterAttr,
    RingExchangeAttr,
    SendAttr,
)
from pmc.dialects.effects import NOTHING, UPDATES, Effects, HasEffects, StatedEffects
from pmc.dialects.expr import Expr, ceildiv, expr
from pmc.dialects.interfaces import Work, WorkInterface
from pmc.dialects.levels import MESH
from pmc.dialects.structure import AnyStageOp
from pmc.dialects.tensor import Encoding, TensorType, TypeMismatchError, shape_text, tensor, wrong_indices

SHARDING, ARGUMENTS, RESULTS = "dist.sharding", "dist.arguments", "dist.results"
"""The attributes by which a local weight or cache, the arguments of a program and its results (with the types of the
whole) say which part of the whole they are."""

WHOLE = "dist.whole"
"""The attribute of a local weight with padding that holds the dims of the whole weight."""

DATA = "dp"
"""The mesh axis of data parallelism, which splits the batch into whole sequences."""

REPLICAS = "moe_dp"
"""The mesh axis of the replicas of the experts of a stage."""

PIPELINE = "pp"
"""The mesh axis of the pipeline stages."""

CONTEXT = "cp"
"""The mesh axis of context parallelism, which deals the positions of every sequence out to its ranks in turn.

Rank r of n holds the positions r, r + n, r + 2n, ..: every rank has equal work under a causal mask (Brandon et al.,
Striped Attention, 2023).  `q_len` and `kv_len` are multiples of n.
"""


_STEP = ".step"


def step_symbol(axis: str) -> str:
    """The symbol that numbers the steps of a ring along a mesh axis; in step 0 a rank works on what is its own."""
    return f"{axis}{_STEP}"


def is_step_symbol(symbol: str) -> bool:
    """Whether a symbol numbers the steps of a ring, as `step_symbol` names it."""
    return symbol.endswith(_STEP)


# -- the mesh ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A mesh axis: rank r has the coordinate (r // stride) mod size.

    Axes may overlap: attention sees the ranks of a stage as dp x tp, the experts see the same ranks as ep x moe_tp.
    """

    name: str
    size: int
    stride: int

    def coordinate(self, rank: int) -> int:
        """The coordinate of a rank."""
        return rank // self.stride % self.size

    def group(self, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` in this coordinate only, in coordinate order."""
        base = rank - self.coordinate(rank) * self.stride
        return tuple(base + i * self.stride for i in range(self.size))

    @property
    def is_striped(self) -> bool:
        """Whether the axis deals elements out in turn; any other gives each rank one contiguous part."""
        return self.name == CONTEXT

    def overlaps(self, other: Axis) -> bool:
        """Whether the coordinates of a rank along both axes depend on each other, so that no value is split by both."""
        return self.stride < other.stride * other.size and other.stride < self.stride * self.size


@dataclass(frozen=True)
class Mesh:
    """All axes of a deployment over `ranks` ranks, one rank per chip."""

    ranks: int
    axes: tuple[Axis, ...]

    def axis(self, name: str) -> Axis:
        """The axis with this name."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise TypeMismatchError(f"the mesh has no axis '{name}', it has {', '.join(a.name for a in self.axes)}")

    def told_apart(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Which ranks differ in the coordinates along some axes: the strides from .. to .., neighbours merged."""
        spans: list[tuple[int, int]] = []
        for axis in sorted((self.axis(name) for name in names), key=lambda a: (a.stride, a.size)):
            stop = axis.stride * axis.size
            if axis.size > 1 and spans and spans[-1][1] == axis.stride:
                spans[-1] = (spans[-1][0], stop)
            elif axis.size > 1:
                spans.append((axis.stride, stop))
        return spans

    def coordinates(self, rank: int) -> dict[str, int]:
        """The coordinate of a rank along every axis."""
        return {axis.name: axis.coordinate(rank) for axis in self.axes}


@irdl_attr_definition
class MeshAttr(Data[Mesh]):
    """`#dist.mesh<32 ranks, tp = 4 stride 1, dp = 8 stride 4>`."""

    name: ClassVar[str] = "dist.mesh"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Mesh:
        """Parse `<n ranks, name = size stride s, ..>`."""
        with parser.in_angle_brackets():
            ranks = parser.parse_integer()
            parser.parse_keyword("ranks")
            axes: list[Axis] = []
            while parser.parse_optional_punctuation(",") is not None:
                name = parser.parse_identifier()
                parser.parse_punctuation("=")
                size = parser.parse_integer()
                parser.parse_keyword("stride")
                axes.append(Axis(name, size, parser.parse_integer()))
        return Mesh(ranks, tuple(axes))

    def print_parameter(self, printer: Printer) -> None:
        """Print what `parse_parameter` reads."""
        axes = "".join(f", {a.name} = {a.size} stride {a.stride}" for a in self.data.axes)
        with printer.in_angle_brackets():
            printer.print_string(f"{self.data.ranks} ranks{axes}")

    def verify(self) -> None:
        """Every axis has its own name and fits into the ranks."""
        names = [axis.name for axis in self.data.axes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise VerifyException(f"the mesh has two axes '{twice}'")
        for axis in self.data.axes:
            if axis.size < 1 or axis.stride < 1 or axis.size * axis.stride > self.data.ranks:
                raise VerifyException(f"axis {axis.name} of {axis.size} x {axis.stride} leaves {self.data.ranks} ranks")


# -- shardings --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sharding:
    """Which mesh axes split each dim, the first axis slowest, and over which axes the value is a partial sum."""

    dims: tuple[tuple[str, ...], ...]
    partial: tuple[str, ...] = ()


@irdl_attr_definition
class ShardingAttr(Data[Sharding], Encoding):
    """`#dist.sharding<[[dp, tp], []]>`, of a partial sum `#dist.sharding<[[dp], []], partial [tp]>`."""

    name: ClassVar[str] = "dist.sharding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Sharding:
        """Parse `<[[axis, ..], ..] (, partial [axis, ..])?>`."""

        def axes() -> tuple[str, ...]:
            return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_identifier))

        with parser.in_angle_brackets():
            dims = tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, axes))
            partial: tuple[str, ...] = ()
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("partial")
                partial = axes()
        return Sharding(dims, partial)

    def print_parameter(self, printer: Printer) -> None:
        """Print what `parse_parameter` reads."""
        dims = ", ".join(f"[{', '.join(axes)}]" for axes in self.data.dims)
        partial = f", partial [{', '.join(self.data.partial)}]" if self.data.partial else ""
        with printer.in_angle_brackets():
            printer.print_string(f"[{dims}]{partial}")

    @property
    def partial_axes(self) -> tuple[str, ...]:
        """The axes of the partial sum."""
        return self.data.partial

    @property
    def is_sharding(self) -> bool:
        """The dims are those of the whole."""
        return True


@irdl_attr_definition
class PartialAttr(Data[tuple[str, ...]], Encoding):
    """The encoding of a local value that is a partial sum: `#dist.partial<tp>`."""

    name: ClassVar[str] = "dist.partial"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[str, ...]:
        """Parse `<axis, ..>`."""
        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, parser.parse_identifier))

    def print_parameter(self, printer: Printer) -> None:
        """Print `<axis, ..>`."""
        with printer.in_angle_brackets():
            printer.print_string(", ".join(self.data))

    @property
    def partial_axes(self) -> tuple[str, ...]:
        """The axes of the partial sum."""
        return self.data


def sharding_of(type_: TensorType) -> Sharding:
    """The sharding of a type between annotate-shardings and localize."""
    if isinstance(type_.encoding, ShardingAttr):
        return type_.encoding.data
    raise TypeMismatchError(f"{type_} has no sharding")


def local_dim(dim: Expr, axes: Sequence[str], mesh: Mesh) -> Expr:
    """The size of a dim on one rank.

    dp splits whole sequences: it divides the symbol `batch`, so `batch*q_len` becomes `ceildiv(batch, dp)*q_len`.  cp
    splits their positions: it divides `q_len` and `kv_len`, in a dim without them the dim.  Any other axis divides the
    dim.  Shards are rounded up, the last ones padded.
    """
    for name in axes:
        dim = _divided(dim, name, mesh.axis(name).size)
    return dim


@lru_cache(maxsize=65536)
def _divided(dim: Expr, axis: str, size: int) -> Expr:
    """The size of a dim that an axis of that size splits."""
    symbols = SPLIT_SYMBOLS.get(axis, frozenset()) & dim.symbols
    if symbols or axis == DATA:
        return dim.substitute({symbol: ceildiv(expr(symbol), size) for symbol in symbols})
    return ceildiv(dim, size)


SPLIT_SYMBOLS: Mapping[str, frozenset[str]] = {DATA: frozenset({"batch"}), CONTEXT: frozenset({"q_len", "kv_len"})}
"""The axes that divide a symbol wherever it is a factor of a dim."""


def uneven_lengths(mesh: Mesh, lengths: Mapping[str, object]) -> str | None:
    """What is wrong with the `lengths` of sequences, by symbol (integers or integer arrays), for the cp of a mesh."""
    size = next((axis.size for axis in mesh.axes if axis.name == CONTEXT), 1)
    for symbol in sorted(SPLIT_SYMBOLS[CONTEXT] & lengths.keys(), reverse=True):
        values = np.asarray(lengths[symbol])
        uneven = values[values % size != 0]
        if uneven.size:
            return (
                f"{symbol} = {int(uneven.flat[0])} is not a multiple of cp = {size}, which splits every sequence evenly"
            )
    return None


# -- collectives ------------------------------------------------------------------------------------------------


def mesh_around(op: Operation) -> Mesh | None:
    """The mesh of the module that `op` stands in, None where there is none."""
    parent: Operation | None = op
    while parent is not None:
        attribute = parent.attributes.get(MESH)
        if isinstance(attribute, MeshAttr):
            return attribute.data
        parent = parent.parent_op()
    return None


def verify_exchange(op: PmcOp, exchange: Exchange) -> None:
    """Raise VerifyException, naming the op, unless its mesh axis exists and its algorithm fits the group."""
    mesh, axis = mesh_around(op), exchange.collective.mesh_axis
    try:
        exchange.verify(None if mesh is None or axis is None else mesh.axis(axis).size)
    except VerifyException as error:
        raise VerifyException(f"{op.name} at '{op.path.data}': {error}") from None


class DistExchangeOp(PmcOp, WorkInterface, HasEffects, ExchangeInterface):
    """An op of this dialect that exchanges data; the fields of its `COLLECTIVE` are its properties."""

    COLLECTIVE: ClassVar[type[CollectiveAttr]]
    EFFECTS: ClassVar[Effects] = UPDATES
    traits = traits_def(StatedEffects())

    def exchange(self) -> Exchange:
        fields = (self.properties[name] for name in self.COLLECTIVE.fields())
        collective = self.COLLECTIVE.new([StringAttr(self.mesh_axis), *fields])
        algorithm = self.properties.get("algorithm")
        assert algorithm is None or isinstance(algorithm, AlgorithmAttr)
        return Exchange.of_values(collective, algorithm, self.operands, self.results)

    @property
    @abstractmethod
    def mesh_axis(self) -> str:
        """The mesh axis along which ranks exchange data, for which each of them must come by."""

    def verify_(self) -> None:
        verify_exchange(self, self.exchange())

    def work(self) -> Work:
        return self.exchange().work()


Split = Literal["same", "finer", "coarser"]


class CollectiveOp(DistExchangeOp):
    """An op in which the ranks of a group along `axis` exchange data, for which each of them must come by."""

    SUMS: ClassVar[bool] = False
    """Whether the operand is a partial sum over the axis, and the result no more."""
    SPLIT: ClassVar[Split] = "same"
    """Whether the axis splits `dim` of the result in addition to what splits the operand, or no longer."""
    axis = prop_def(StringAttr)
    algorithm = opt_prop_def(AlgorithmAttr)
    """Where there is none, the only one that the collective has, or one still to be chosen."""
    x = operand_def(TensorType)
    y = result_def(TensorType)

    @property
    def mesh_axis(self) -> str:
        return self.axis.data

    def wrong_sharding(self, mesh: Mesh) -> str | None:
        """What is wrong with the shardings, before `localize`."""
        return self.wrong_sharding_of(tensor(self.x), tensor(self.y), self.exchange().collective)

    def wrong_shape(self, mesh: Mesh) -> str | None:
        """What is wrong with the shapes of one rank, after `localize`."""
        return self.wrong_shape_of(tensor(self.x), tensor(self.y), self.exchange().collective, mesh)

    @classmethod
    def wrong_sharding_of(cls, x: TensorType, y: TensorType, collective: CollectiveAttr) -> str | None:
        """What is wrong with the shardings where `collective` makes `y` of `x`."""
        axis = _axis(collective)
        if (x.shape, x.element_type) != (y.shape, y.element_type):
            return f"the result is {y.with_encoding(None)}, must be {x.with_encoding(None)}: only the sharding changes"
        before, after = sharding_of(x), sharding_of(y)
        if cls.SUMS and axis not in before.partial:
            return f"the operand is no partial sum over '{axis}'"
        dims = list(before.dims)
        if cls.SPLIT != "same":
            dim = _split_dim(collective)
            if not 0 <= dim < len(dims):
                return f"dim {dim} of a tensor with {len(dims)} dims"
            if cls.SPLIT == "coarser" and dims[dim][-1:] != (axis,):
                return (
                    f"dim {dim} of the operand is split along {', '.join(dims[dim]) or 'no axis'}, must end in {axis}"
                )
            dims[dim] = (*dims[dim], axis) if cls.SPLIT == "finer" else dims[dim][:-1]
        partial = tuple(a for a in before.partial if not cls.SUMS or a != axis)
        expected = Sharding(tuple(dims), partial)
        return (
            None if after == expected else f"the result has {ShardingAttr(after)}, must have {ShardingAttr(expected)}"
        )

    @classmethod
    def wrong_shape_of(cls, x: TensorType, y: TensorType, collective: CollectiveAttr, mesh: Mesh) -> str | None:
        """What is wrong with the shapes of one rank where `collective` makes `y` of `x`."""
        axis = _axis(collective)
        if x.element_type != y.element_type:
            return f"the elements of the result are {y.element_type}, must be {x.element_type}"
        if cls.SUMS and axis not in x.partial_axes:
            return f"the operand is no partial sum over '{axis}'"
        kept = tuple(a for a in x.partial_axes if not cls.SUMS or a != axis)
        if y.partial_axes != kept:
            found = ", ".join(y.partial_axes) or "no axis"
            return f"the result is a partial sum over {found}, not over {', '.join(kept) or 'no axis'}"
        split = cls.SPLIT != "same"
        dim = _split_dim(collective) if split else -1
        if (split and not 0 <= dim < len(x.dims)) or len(x.dims) != len(y.dims):
            return f"{f'dim {dim} of ' if split else ''}tensors with {len(x.dims)} and {len(y.dims)} dims"
        for index, (before, after) in enumerate(zip(x.dims, y.dims, strict=True)):
            part, whole = (before, after) if cls.SPLIT == "coarser" else (after, before)
            if part != whole if index != dim else not _is_part(part, whole, axis, mesh):
                ways = "" if index != dim else f", one of {mesh.axis(axis).size} parts of the other"
                return f"dim {index} is {before} in the operand and {after} in the result{ways}"
        return None


def _axis(collective: CollectiveAttr) -> str:
    assert collective.mesh_axis is not None, "an op of this dialect names its axis"
    return collective.mesh_axis


def _split_dim(collective: CollectiveAttr) -> int:
    assert isinstance(collective, AllGatherAttr | ReduceScatterAttr | LocalSliceAttr)
    return collective.dim.value.data


def _is_part(part: Expr, whole: Expr, axis: str, mesh: Mesh) -> bool:
    """Whether `part` is what one rank has of a dim that `axis` splits."""
    if axis in SPLIT_SYMBOLS and whole.is_constant and part.is_constant:
        # Whole sequences or positions, of which the number alone does not tell how many there are.
        return part.constant <= whole.constant <= part.constant * mesh.axis(axis).size
    return part == local_dim(whole, (axis,), mesh)


@irdl_op_definition
class ReshardOp(PmcOp, HasEffects):
    """A change of sharding, not yet a collective: the two types say from what to what."""

    name = "dist.reshard"
    x = operand_def(TensorType)
    y = result_def(TensorType)
    traits = traits_def(StatedEffects())

    def verify_(self) -> None:
        """Only the sharding changes, and a partial sum does not come from nowhere."""
        x, y = tensor(self.x), tensor(self.y)
        if (x.shape, x.element_type) != (y.shape, y.element_type):
            raise VerifyException(f"dist.reshard at '{self.path.data}': only the sharding may change")
        if not set(sharding_of(y).partial) <= set(sharding_of(x).partial):
            raise VerifyException(f"dist.reshard at '{self.path.data}': the result is partial, the operand is not")


@irdl_op_definition
class AllReduceOp(CollectiveOp):
    """The sum over the group, on every rank."""

    name = "dist.all_reduce"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = AllReduceAttr
    SUMS: ClassVar[bool] = True


@irdl_op_definition
class AllGatherOp(CollectiveOp):
    """The shards of the group one after the other along `dim`; padding beyond the size of the result is dropped."""

    name = "dist.all_gather"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = AllGatherAttr
    SPLIT: ClassVar[Split] = "coarser"
    dim = prop_def(IntegerAttr)


@irdl_op_definition
class ReduceScatterOp(CollectiveOp):
    """The sum over the group, of which rank i keeps the i-th shard along `dim`; the last shards are padded."""

    name = "dist.reduce_scatter"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = ReduceScatterAttr
    SUMS: ClassVar[bool] = True
    SPLIT: ClassVar[Split] = "finer"
    dim = prop_def(IntegerAttr)


@irdl_op_definition
class LocalSliceOp(CollectiveOp):
    """The i-th shard along `dim` of a value that every rank of the group holds: no communication."""

    name = "dist.local_slice"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = LocalSliceAttr
    EFFECTS: ClassVar[Effects] = NOTHING
    SPLIT: ClassVar[Split] = "finer"
    dim = prop_def(IntegerAttr)


@irdl_op_definition
class RingExchangeOp(CollectiveOp):
    """Every rank sends its value to the next rank of the group and receives that of the one before (MPI_Sendrecv)."""

    name = "dist.ring_exchange"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = RingExchangeAttr


GROUPED: Mapping[type[CollectiveAttr], type[CollectiveOp]] = {
    kind.COLLECTIVE: kind for kind in (AllReduceOp, AllGatherOp, ReduceScatterOp, RingExchangeOp)
}
"""The ops of which `CollectiveGroupOp` does several at once, by their collective."""


@irdl_op_definition
class CollectiveGroupOp(DistExchangeOp):
    """One collective on several values, as between ncclGroupStart and ncclGroupEnd: y[i] is made of x[i].

    All values go in the same messages, so that latency is paid once.

        %u, %v = dist.collective_group([%x, %y]) {collective = #dist.all_gather<tp, dim = 0>} at "blocks.mla"
    """

    name = "dist.collective_group"
    collective = prop_def(CollectiveAttr)
    algorithm = opt_prop_def(AlgorithmAttr)
    """Where there is none, the only one that the collective has, or one still to be chosen."""
    x = var_operand_def(TensorType)
    y = var_result_def(TensorType)

    @property
    def mesh_axis(self) -> str:
        return _axis(self.collective)

    def exchange(self) -> Exchange:
        return Exchange.of_values(self.collective, self.algorithm, self.x, self.y)

    def verify_(self) -> None:
        """The collective is one that carries several values, all of them of one type where they are summed."""
        kind, place = GROUPED.get(type(self.collective)), f"{self.name} at '{self.path.data}'"
        if kind is None or self.collective.mesh_axis is None:
            raise VerifyException(f"{place}: {self.collective} does not carry several values")
        types = {str(tensor(value).element_type): None for value in self.x}
        if kind.SUMS and len(types) > 1:
            raise VerifyException(f"{place}: sums of {' and '.join(types)} in one collective, must be of one type")
        super().verify_()

    def wrong_sharding(self, mesh: Mesh) -> str | None:
        """What is wrong with the shardings, before `localize`."""
        kind = GROUPED[type(self.collective)]
        pairs = zip(map(tensor, self.x), map(tensor, self.y), strict=True)
        return next((wrong for x, y in pairs if (wrong := kind.wrong_sharding_of(x, y, self.collective))), None)

    def wrong_shape(self, mesh: Mesh) -> str | None:
        """What is wrong with the shapes of one rank, after `localize`."""
        kind = GROUPED[type(self.collective)]
        pairs = zip(map(tensor, self.x), map(tensor, self.y), strict=True)
        return next((wrong for x, y in pairs if (wrong := kind.wrong_shape_of(x, y, self.collective, mesh))), None)


@irdl_op_definition
class DispatchOp(CollectiveOp):
    """Tokens to the ranks of their experts: x [T, H], indices [T, k] -> y [E / axis, C, H].

    Rank i of the group holds experts i*E/n .. ; slots of an expert are filled by source rank, then token.
    """

    name = "dist.dispatch"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = DispatchAttr
    x = operand_def(TensorType)
    indices = operand_def(TensorType)
    capacity = prop_def(StringAttr)

    def wrong_sharding(self, mesh: Mesh) -> str | None:
        """Tokens are split over the ranks of the experts and their slots."""
        return _wrong_routing(sharding_of(tensor(self.x)), sharding_of(tensor(self.y)), self.axis.data, mesh)

    def wrong_shape(self, mesh: Mesh) -> str | None:
        """y has slots for the tokens of the whole group, in the worst case all of them at one expert."""
        x, y = tensor(self.x).dims, tensor(self.y).dims
        if len(x) != 2 or len(y) != 3 or y[2] != x[1] or tensor(self.indices).dims[0] != x[0]:
            return f"x is {shape_text(x)} and y {shape_text(y)}, must be [T, H] and [E, C, H] with indices [T, k]"
        slots = x[0] * mesh.axis(self.axis.data).size
        if self.capacity.data == "worst" and y[1] != slots:
            return f"y has {y[1]} slots, must have {slots} for the worst case"
        return wrong_indices(self.indices)


@irdl_op_definition
class CombineOp(CollectiveOp):
    """Expert rows back to the ranks of their tokens and summed with the router's weights; inverse of dispatch."""

    name = "dist.combine"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = CombineAttr
    x = operand_def(TensorType)
    indices = operand_def(TensorType)
    weights = operand_def(TensorType)

    def wrong_sharding(self, mesh: Mesh) -> str | None:
        """Tokens are split over the ranks of the experts and their slots; partial sums stay such."""
        x, y = sharding_of(tensor(self.x)), sharding_of(tensor(self.y))
        if x.partial != y.partial:
            return "the result must be the partial sum that the rows of the experts are"
        return _wrong_routing(y, x, self.axis.data, mesh)

    def wrong_shape(self, mesh: Mesh) -> str | None:
        """x [E, C, H], indices and weights [T, k], y [T, H]."""
        x, y, rows = tensor(self.x).dims, tensor(self.y).dims, tensor(self.weights).dims
        if len(x) != 3 or len(y) != 2 or y[1] != x[2] or rows != tensor(self.indices).dims or rows[0] != y[0]:
            return f"x is {shape_text(x)} and y {shape_text(y)}, must be [E, C, H] and [T, H] with weights [T, k]"
        if tensor(self.x).partial_axes != tensor(self.y).partial_axes:
            return "the result must be the partial sum that the rows of the experts are"
        return wrong_indices(self.indices)


def _wrong_routing(tokens: Sharding, experts: Sharding, axis: str, mesh: Mesh) -> str | None:
    if len(tokens.dims) != 2 or len(experts.dims) != 3 or experts.dims[0] != (axis,):
        return f"tokens [T, H] and experts [E, C, H], of which {axis} splits E"
    rows, slots = tokens.dims[0], (axis, *experts.dims[1])
    if tokens.dims[1] or experts.dims[2] or mesh.told_apart(rows) != mesh.told_apart(slots):
        return (
            f"tokens are split along {', '.join(rows)}, experts and slots along {', '.join(slots)}: not the same ranks"
        )
    return None


# -- pipeline stages --------------------------------------------------------------------------------------------


@irdl_op_definition
class StageOp(AnyStageOp):
    """The part of a program that the ranks of pipeline stage `index` run."""

    name = "dist.stage"
    index = prop_def(IntegerAttr)
    body = region_def("single_block")
    traits = traits_def(NoTerminator())


class PointToPointOp(DistExchangeOp):
    """A transfer between the same rank of two stages; `channel` pairs a send with its recv."""

    peer = prop_def(IntegerAttr)
    channel = prop_def(IntegerAttr)

    @property
    def mesh_axis(self) -> str:
        return PIPELINE


@irdl_op_definition
class SendOp(PointToPointOp):
    """Hand a value to stage `peer`."""

    name = "dist.send"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = SendAttr
    x = operand_def(TensorType)


@irdl_op_definition
class RecvOp(PointToPointOp):
    """Take a value from stage `peer`."""

    name = "dist.recv"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = RecvAttr
    y = result_def(TensorType)


Dist = Dialect(
    "dist",
    [
        ReshardOp,
        AllReduceOp,
        AllGatherOp,
        ReduceScatterOp,
        LocalSliceOp,
        RingExchangeOp,
        CollectiveGroupOp,
        DispatchOp,
        CombineOp,
        StageOp,
        SendOp,
        RecvOp,
    ],
    [MeshAttr, ShardingAttr, PartialAttr, *COLLECTIVES, *ALGORITHMS],
)
