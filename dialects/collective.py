"""What ranks do together: collectives and their algorithms as attributes, the same at every level.

A `dist` op says by its own properties which collective it is.  A `tile.collective` and a command hold the attribute:

    %y = dist.all_gather(%x) {axis = "tp", dim = 0} at ".." : ..
    tile.collective([%x], [%y]) {collective = #dist.all_gather<tp, dim = 0>} at ".."
    g5.cdma {collective = #dist.all_gather<tp, dim = 0>, ins = [..], outs = [..]} at ".."

An op of any of these levels is an `ExchangeInterface`: it gives its `Exchange`, the collective with the types of its
values.  Cost models, link traffic, memory and the numeric backend ask the exchange and never the op, so they treat a
new collective like the ones that stand here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Self

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, NoneAttr, StringAttr, f64, i64
from xdsl.ir import Attribute, ParametrizedAttribute, SSAValue
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.class_check import PlainClassCheck
from pmc.dialects.expr import Expr, ceildiv, expr, product
from pmc.dialects.interfaces import Work
from pmc.dialects.tensor import TensorType, element_name, size_bytes, tensor


class Phase(Enum):
    """What collectives are made of, among n ranks.

    A rank sends (n-1)/n of the whole value, in a broadcast n-1 times all of it, in a message once.
    """

    REDUCE_SCATTER = "reduce_scatter"
    """Every rank has a term of the whole value and ends up with one part of the sum."""
    ALL_GATHER = "all_gather"
    """Every rank has one part and ends up with all of them."""
    EXCHANGE = "exchange"
    """Every rank has a part for every other (all-to-all)."""
    BROADCAST = "broadcast"
    """Every rank sends the whole of its value to every other."""
    MESSAGE = "message"
    """A rank sends its value to one other."""


RING_PHASES = frozenset({Phase.REDUCE_SCATTER, Phase.ALL_GATHER})
"""The phases that can go around a ring; the others are sent directly."""

DIRECTIONS = ("none", "inside", "across", "both")
"""Where the two levels of an algorithm send directly in place of rings."""


# -- algorithms -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tier:
    """Ranks that exchange data with each other: in a ring, or each with each."""

    size: int
    direct: bool


class AlgorithmAttr(ParametrizedAttribute, metaclass=PlainClassCheck):
    """Which way the data of a collective takes between the ranks of its group."""

    @abstractmethod
    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        """Groups inside each other: the first of neighbours, the next of the ranks in the same place of those, ..

        Raises VerifyException where the algorithm does not fit a group of `ranks`.
        """


@irdl_attr_definition
class FlatRingAttr(AlgorithmAttr):
    """`#dist.flat_ring`: one ring of all ranks, half of every part in either direction."""

    name = "dist.flat_ring"

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        return (Tier(ranks, direct=False),)


@irdl_attr_definition
class TwoLevelAttr(AlgorithmAttr):
    """`#dist.two_level<inner = 4>`: rings of `inner` neighbours, and rings of the ranks in the same place of them.

    `#dist.two_level<inner = 4, direct = across>` sends directly across (or `inside`, or in `both`) in place of rings.
    """

    name = "dist.two_level"
    inner: IntegerAttr
    direct: StringAttr

    @classmethod
    def of(cls, inner: int, direct: str = "none") -> TwoLevelAttr:
        """The algorithm with so many neighbours in an inner group."""
        return cls(IntegerAttr(inner, i64), StringAttr(direct))

    def verify(self) -> None:
        if self.direct.data not in DIRECTIONS:
            raise VerifyException(f"direct is '{self.direct.data}', must be one of {', '.join(DIRECTIONS)}")

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        inner, direct = self.inner.value.data, self.direct.data
        if not 1 < inner < ranks or ranks % inner:
            raise VerifyException(
                f"two levels with inner rings of {inner} do not fit a group of {ranks} ranks; "
                "a divisor between 1 and the size of the group does"
            )
        return Tier(inner, direct in ("inside", "both")), Tier(ranks // inner, direct in ("across", "both"))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            parser.parse_keyword("inner")
            parser.parse_punctuation("=")
            inner, direct = parser.parse_integer(), "none"
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("direct")
                parser.parse_punctuation("=")
                direct = parser.parse_identifier()
            return [IntegerAttr(inner, i64), StringAttr(direct)]

    def print_parameters(self, printer: Printer) -> None:
        direct = "" if self.direct.data == "none" else f", direct = {self.direct.data}"
        with printer.in_angle_brackets():
            printer.print_string(f"inner = {self.inner.value.data}{direct}")


@irdl_attr_definition
class DirectAttr(AlgorithmAttr):
    """`#dist.direct`: every rank sends every other its part, in one round."""

    name = "dist.direct"

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        return (Tier(ranks, direct=True),)


@irdl_attr_definition
class OneShotAttr(AlgorithmAttr):
    """`#dist.one_shot`: an all-reduce in which every rank sends every other its whole value, and each adds up all."""

    name = "dist.one_shot"

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        return (Tier(ranks, direct=True),)


COPY_UNITS = 2**20
"""Expected numbers of copies are rounded to 1 / COPY_UNITS where they are multiplied by bytes."""


@irdl_attr_definition
class PerRankAttr(AlgorithmAttr):
    """`#dist.per_rank<copies = 6.39>`: a dispatch or combine with one copy of a token for each rank with its experts.

    `copies` is the expected number of other ranks that a token goes to, or in a combine comes back from, summed up
    there (`analyses/token_copies.py`).
    """

    name = "dist.per_rank"
    copies: FloatAttr

    @classmethod
    def of(cls, copies: float) -> PerRankAttr:
        """The algorithm with so many copies of a token."""
        return cls(FloatAttr(copies, f64))

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        return (Tier(ranks, direct=True),)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [_parse_copies(parser, "copies")]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"copies = {self.copies.value.data!r}")


@irdl_attr_definition
class PerNodeAttr(AlgorithmAttr):
    """`#dist.per_node<ranks = 8, nodes = 2.2, copies = 5.77>`: a token crosses to a node once, and is copied there.

    It goes to the rank in its own place of every other node with any of its experts, `nodes` of them on average, and
    from there and on its own node to the other ranks of the node that hold some, `copies` in all.  `ranks` of the group
    are on a node.  A combine sums up on the way back (as the normal kernels of DeepEP do).
    """

    name = "dist.per_node"
    ranks: IntegerAttr
    nodes: FloatAttr
    copies: FloatAttr

    @classmethod
    def of(cls, ranks: int, nodes: float, copies: float) -> PerNodeAttr:
        """The algorithm with so many ranks on a node and copies of a token."""
        return cls(IntegerAttr(ranks, i64), FloatAttr(nodes, f64), FloatAttr(copies, f64))

    def tiers(self, ranks: int) -> tuple[Tier, ...]:
        inner = self.ranks.value.data
        if not 1 <= inner <= ranks or ranks % inner:
            raise VerifyException(f"nodes of {inner} ranks do not divide a group of {ranks} ranks")
        return Tier(inner, direct=True), Tier(ranks // inner, direct=True)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            parser.parse_keyword("ranks")
            parser.parse_punctuation("=")
            ranks = IntegerAttr(parser.parse_integer(), i64)
            parser.parse_punctuation(",")
            nodes = _parse_copies(parser, "nodes")
            parser.parse_punctuation(",")
            return [ranks, nodes, _parse_copies(parser, "copies")]

    def print_parameters(self, printer: Printer) -> None:
        ranks, nodes, copies = self.ranks.value.data, self.nodes.value.data, self.copies.value.data
        with printer.in_angle_brackets():
            printer.print_string(f"ranks = {ranks}, nodes = {nodes!r}, copies = {copies!r}")


def _parse_copies(parser: AttrParser, name: str) -> FloatAttr:
    parser.parse_keyword(name)
    parser.parse_punctuation("=")
    copies = float(parser.parse_number())
    if not 0.0 <= copies < 2.0**20:
        parser.raise_error(f"{name} is {copies}, must be a number of copies of a token")
    return FloatAttr(copies, f64)


# -- collectives ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, init=False)  # the axis counts when two are compared
class CollectiveAttr(ParametrizedAttribute, metaclass=PlainClassCheck):
    """The base of all collectives: `#dist.all_gather<tp, dim = 0>`, the mesh axis and then integer fields.

    Without an axis the data stays on its chip: `#dist.dispatch` is what a `layer.dispatch` does.
    """

    axis: StringAttr | NoneAttr
    PHASES: ClassVar[tuple[Phase, ...]]
    """What sends, one after the other; empty where nothing is sent."""
    OPERANDS: ClassVar[int] = 1
    RESULTS: ClassVar[int] = 1
    GROUPED: ClassVar[bool] = False
    """Whether it may carry several values at once, each with its own result: one message for all of them."""
    ON_CHIP: ClassVar[bool] = False
    """Whether it makes sense without an axis."""

    def verify(self) -> None:
        """There is an axis where one is needed."""
        if self.mesh_axis is None and not self.ON_CHIP:
            raise VerifyException(f"{self.name} needs a mesh axis: #{self.name}<axis>")

    @classmethod
    def on_chip(cls) -> Self:
        """The collective without an axis."""
        return cls.new([NoneAttr()])

    @property
    def mesh_axis(self) -> str | None:
        """The mesh axis along which ranks exchange data."""
        return self.axis.data if isinstance(self.axis, StringAttr) else None

    @property
    def op_name(self) -> str:
        """The op at the dist level that does it."""
        return self.name

    @property
    def leaves_chip(self) -> bool:
        """Whether data goes from chip to chip."""
        return self.mesh_axis is not None

    @property
    def is_ring(self) -> bool:
        """Whether it can go around a ring, so that there is an algorithm to choose."""
        return self.leaves_chip and bool(self.PHASES) and RING_PHASES.issuperset(self.PHASES)

    @property
    def default_algorithm(self) -> AlgorithmAttr | None:
        """The algorithm where none is named; None where there is nothing to choose, or a choice to make."""
        return DirectAttr() if self.leaves_chip and Phase.EXCHANGE in self.PHASES else None

    def can_go_by(self, algorithm: AlgorithmAttr) -> bool:
        """Whether an algorithm can do it."""
        if self.is_ring:
            return isinstance(algorithm, FlatRingAttr | TwoLevelAttr | DirectAttr) or (
                isinstance(algorithm, OneShotAttr) and self.PHASES == (Phase.REDUCE_SCATTER, Phase.ALL_GATHER)
            )
        return algorithm == self.default_algorithm

    def token_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Expr:
        """One row for every token of a rank, of what goes to experts; only where tokens are sent in copies."""
        raise VerifyException(f"{self} sends no tokens")

    def whole_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType], ranks: int) -> Expr:
        """The size of the whole value, of which a rank sends (n-1)/n in every phase, or all of it in a message."""
        return _bytes(self.sent(ins))

    def sent(self, ins: Sequence[TensorType]) -> Sequence[TensorType]:
        """The operands whose data is sent: all of a collective that carries several values, else the first."""
        return ins if self.GROUPED else ins[:1]

    def work(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Work:
        """What it does on one chip: operands are read in DRAM and results written, once."""
        return Work(expr(0), _bytes(ins), _bytes(outs), "none", element_name((*ins, *outs)[0].element_type))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<axis, field = integer, ..>`, or nothing for what stays on the chip."""
        fields = cls.fields()
        if not fields and parser.parse_optional_punctuation("<") is None:
            return [NoneAttr()]
        if fields:
            parser.parse_punctuation("<")
        values: list[Attribute] = [StringAttr(parser.parse_identifier())]
        for name in fields:
            parser.parse_punctuation(",")
            parser.parse_keyword(name)
            parser.parse_punctuation("=")
            values.append(IntegerAttr(parser.parse_integer(), i64))
        parser.parse_punctuation(">")
        return values

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        if self.mesh_axis is None:
            return
        values: Iterable[IntegerAttr] = (getattr(self, name) for name in self.fields())
        fields = (f", {name} = {value.value.data}" for name, value in zip(self.fields(), values, strict=True))
        with printer.in_angle_brackets():
            printer.print_string(self.mesh_axis + "".join(fields))

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the fields behind the axis."""
        return tuple(name for name, _ in cls.get_irdl_definition().parameters if name != "axis")


def _bytes(types: Iterable[TensorType]) -> Expr:
    return sum((t.bytes for t in types), expr(0))


@irdl_attr_definition
class AllReduceAttr(CollectiveAttr):
    """The sum over the group, on every rank."""

    name = "dist.all_reduce"
    GROUPED: ClassVar[bool] = True
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.REDUCE_SCATTER, Phase.ALL_GATHER)


@irdl_attr_definition
class AllGatherAttr(CollectiveAttr):
    """The shards of the group one after the other along `dim`; padding beyond the size of the result is dropped."""

    name = "dist.all_gather"
    dim: IntegerAttr
    GROUPED: ClassVar[bool] = True
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.ALL_GATHER,)

    def whole_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType], ranks: int) -> Expr:
        """The shards with their padding."""
        return ranks * _bytes(ins)


@irdl_attr_definition
class ReduceScatterAttr(CollectiveAttr):
    """The sum over the group, of which rank i keeps the i-th shard along `dim`; the last shards are padded."""

    name = "dist.reduce_scatter"
    dim: IntegerAttr
    GROUPED: ClassVar[bool] = True
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.REDUCE_SCATTER,)


@irdl_attr_definition
class LocalSliceAttr(CollectiveAttr):
    """The i-th shard along `dim` of a value that every rank of the group holds: no communication."""

    name = "dist.local_slice"
    dim: IntegerAttr
    PHASES: ClassVar[tuple[Phase, ...]] = ()

    @property
    def leaves_chip(self) -> bool:
        return False

    def work(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Work:
        """Rows of the value that stay where they are."""
        return Work(expr(0), expr(0), expr(0), "none", element_name(ins[0].element_type))


@irdl_attr_definition
class RingExchangeAttr(CollectiveAttr):
    """Every rank sends its value to the next rank of the group and receives that of the one before (MPI_Sendrecv)."""

    name = "dist.ring_exchange"
    GROUPED: ClassVar[bool] = True
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.MESSAGE,)


@irdl_attr_definition
class DispatchAttr(CollectiveAttr):
    """Tokens [T, H] and the indices [T, k] of their experts -> the slots of the local experts [E / n, C, H].

    Rank i of the group holds experts i*E/n .. ; slots of an expert are filled by source rank, then token.
    """

    name = "dist.dispatch"
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.EXCHANGE,)
    OPERANDS: ClassVar[int] = 2
    ON_CHIP: ClassVar[bool] = True

    @property
    def op_name(self) -> str:
        return self.name if self.leaves_chip else "layer.dispatch"

    def whole_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType], ranks: int) -> Expr:
        """One row per token and choice."""
        x, indices = ins
        return indices.elements * size_bytes(product(x.dims[1:]), x.element_type)

    def token_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Expr:
        return ins[0].bytes

    def can_go_by(self, algorithm: AlgorithmAttr) -> bool:
        return super().can_go_by(algorithm) or (self.leaves_chip and isinstance(algorithm, PerRankAttr | PerNodeAttr))


@irdl_attr_definition
class CombineAttr(CollectiveAttr):
    """Expert rows back to the ranks of their tokens and summed with the router's weights; inverse of dispatch."""

    name = "dist.combine"
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.EXCHANGE,)
    OPERANDS: ClassVar[int] = 3
    ON_CHIP: ClassVar[bool] = True

    @property
    def op_name(self) -> str:
        return self.name if self.leaves_chip else "layer.combine"

    def whole_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType], ranks: int) -> Expr:
        """One row per token and choice."""
        _, indices, _ = ins
        return outs[0].bytes * indices.dims[1]

    def token_bytes(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Expr:
        return outs[0].bytes

    def can_go_by(self, algorithm: AlgorithmAttr) -> bool:
        return super().can_go_by(algorithm) or (self.leaves_chip and isinstance(algorithm, PerRankAttr | PerNodeAttr))

    def work(self, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Work:
        """A multiply-add per element of every row that comes back."""
        moved = super().work(ins, outs)
        flops = 2 * outs[0].elements * ins[2].dims[1]
        return Work(flops, moved.bytes_read, moved.bytes_written, "vector", moved.dtype)


@irdl_attr_definition
class SendAttr(CollectiveAttr):
    """A value for the same rank of stage `peer`; `channel` pairs it with its receive."""

    name = "dist.send"
    peer: IntegerAttr
    channel: IntegerAttr
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.MESSAGE,)
    RESULTS: ClassVar[int] = 0


@irdl_attr_definition
class RecvAttr(CollectiveAttr):
    """The value that the same rank of stage `peer` sends on `channel`; what that takes is said by the send."""

    name = "dist.recv"
    peer: IntegerAttr
    channel: IntegerAttr
    PHASES: ClassVar[tuple[Phase, ...]] = ()
    OPERANDS: ClassVar[int] = 0


# -- what an op does --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """A collective with its algorithm on values of these types, in the shapes of one rank.

    Its cost depends on nothing else but on where the ranks of its group are.  It is the same from `localize` down to
    the commands.
    """

    collective: CollectiveAttr
    algorithm: AlgorithmAttr | None
    """None where there is no choice, and where nobody has chosen yet (`is_open`)."""
    ins: tuple[TensorType, ...]
    outs: tuple[TensorType, ...]

    @classmethod
    def of(
        cls,
        collective: CollectiveAttr,
        algorithm: AlgorithmAttr | None,
        ins: Iterable[TensorType],
        outs: Iterable[TensorType],
    ) -> Exchange:
        """The exchange of an op; an algorithm that it does not name is the default of the collective."""
        plain_ins, plain_outs = (tuple(t.with_encoding(None) for t in types) for types in (ins, outs))
        return cls(collective, algorithm or collective.default_algorithm, plain_ins, plain_outs)

    @classmethod
    def of_values(
        cls,
        collective: CollectiveAttr,
        algorithm: AlgorithmAttr | None,
        operands: Iterable[SSAValue],
        results: Iterable[SSAValue],
    ) -> Exchange:
        """The exchange of an op on tensors."""
        return cls.of(collective, algorithm, map(tensor, operands), map(tensor, results))

    def work(self) -> Work:
        """FLOPs, bytes read and bytes written on one chip."""
        return self.collective.work(self.ins, self.outs)

    @property
    def is_open(self) -> bool:
        """Whether any algorithm may do it: `select-algorithms` chooses one when sizes are known."""
        return self.algorithm is None and self.collective.is_ring

    def by(self, algorithm: AlgorithmAttr) -> Exchange:
        """The same done by another algorithm."""
        return replace(self, algorithm=algorithm)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What sends, one after the other."""
        return (Phase.BROADCAST,) if isinstance(self.algorithm, OneShotAttr) else self.collective.PHASES

    @property
    def named_algorithm(self) -> AlgorithmAttr | None:
        """The algorithm where it is not the default, which ops do not name."""
        return None if self.algorithm == self.collective.default_algorithm else self.algorithm

    @property
    def sends(self) -> bool:
        """Whether ranks send anything; a receive does not, its sender does."""
        return self.collective.leaves_chip and bool(self.collective.PHASES)

    def whole_bytes(self, ranks: int) -> Expr:
        """The size of the value that the group exchanges."""
        return self.collective.whole_bytes(self.ins, self.outs, ranks)

    def link_bytes(self, ranks: int) -> Expr:
        """The bytes that one rank of a group of `ranks` sends.

        (n-1)/n of the value in every phase, the least that a reduce-scatter or an all-gather can do with, by rings and
        directly alike (Thakur et al., 2005); n-1 times the value in one shot; the expected copies of all tokens in a
        dispatch or combine that does not send a row for every choice.
        """
        phases = self.phases
        if not self.sends or ranks == 1:
            return expr(0)
        match self.algorithm:
            case PerRankAttr():
                return self.copied_bytes(self.algorithm.copies)
            case PerNodeAttr():
                return self.copied_bytes(self.algorithm.nodes) + self.copied_bytes(self.algorithm.copies)
            case _:
                pass
        if Phase.MESSAGE in phases:
            return self.whole_bytes(ranks)
        if Phase.BROADCAST in phases:
            return (ranks - 1) * self.whole_bytes(ranks)
        return ceildiv(len(phases) * (ranks - 1) * self.whole_bytes(ranks), ranks)

    def copied_bytes(self, copies: FloatAttr) -> Expr:
        """The bytes that one rank sends of an expected number of copies of each of its tokens."""
        units = round(copies.value.data * COPY_UNITS)
        return ceildiv(self.collective.token_bytes(self.ins, self.outs) * units, COPY_UNITS)

    @property
    def buffer_bytes(self) -> Expr:
        """The memory that the network needs for it: the data that is sent and all that is received."""
        return _bytes((*self.collective.sent(self.ins), *self.outs))

    def verify(self, ranks: int | None) -> None:
        """Raise VerifyException unless the collective has its operands and results and the algorithm can do it.

        `ranks` is the size of the group where that is known.
        """
        kind, found = self.collective, (len(self.ins), len(self.outs))
        expected = f"{kind.OPERANDS} operands and {kind.RESULTS} results"
        if kind.GROUPED:
            expected = "as many operands as results"
        if found != ((found[0], max(found[0], 1)) if kind.GROUPED else (kind.OPERANDS, kind.RESULTS)):
            raise VerifyException(f"{kind} has {expected}, found {found[0]} operands and {found[1]} results")
        if self.algorithm is None:
            return
        if not kind.can_go_by(self.algorithm):
            ring = "goes by rings or directly" if kind.is_ring else "has no algorithm"
            known = ring if kind.default_algorithm is None else f"goes by {kind.default_algorithm}"
            raise VerifyException(f"{kind} {known}, not by {self.algorithm}")
        if ranks is not None and ranks > 1:
            self.algorithm.tiers(ranks)


class ExchangeInterface(metaclass=PlainClassCheck):
    """An op that moves whole arrays: a collective, a transfer, a permutation of tokens."""

    @abstractmethod
    def exchange(self) -> Exchange:
        """What it does, with the types of its values."""


COLLECTIVES: tuple[type[CollectiveAttr], ...] = (
    AllReduceAttr, AllGatherAttr, ReduceScatterAttr, LocalSliceAttr, RingExchangeAttr, DispatchAttr, CombineAttr,
    SendAttr, RecvAttr,
)  # fmt: skip
ALGORITHMS: tuple[type[AlgorithmAttr], ...] = (
    FlatRingAttr, TwoLevelAttr, DirectAttr, OneShotAttr, PerRankAttr, PerNodeAttr,
)  # fmt: skip
