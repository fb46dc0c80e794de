"""The `g5` dialect: accelerator commands, one op per command template, with loops kept as loops.

A `g5.stream` is one step of one rank.  A `g5.program` in it is what all cores run for one kernel: each core has its own
value of the symbol `core` and its own engines `ENGINES`, which take their commands in program order, one in flight.
A `g5.barrier` waits for all commands of all cores; programs that emit-g5 writes end with one.  Ids restart with every
program.

    g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.moe.mla.q_a_proj" {
      g5.loop k < <14> at ".." {
        g5.gdma {direction = "load", dram = <core*512 + 4096>, lmem = <mod(k.seq, 2)*32768>, ..} after [tiu-1] at ".."
        g5.tiu {acc = #g5.lmem<0, pitch 8, f32>, .., accumulate = <k>} after [gdma-0] at ".."
      }
      g5.barrier() at ".."

The id of a command is its ordinal, from 1, on its engine, core and program.  `after [gdma-1]` means: wait until all
but the last 1 of the commands that GDMA was given before this one, in program order, have finished.  The absolute id
to wait for is (commands given to that engine so far) - lag, satisfied when not positive.  One text so serves every
iteration, also of loops whose trip counts differ between cores.  Addresses are bytes, shapes and strides elements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Self, cast

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, DictionaryAttr, IntegerAttr, StringAttr, UnitAttr, i64
from xdsl.ir import Attribute, Block, Dialect, Operation, ParametrizedAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, NoTerminator
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.accesses import ALWAYS, BANDWIDTH_DOMAINS, NEVER, CommandAccess, Memory
from pmc.dialects.assembly import PmcOp, parse_properties, parse_text, print_properties
from pmc.dialects.collective import AlgorithmAttr, CollectiveAttr, Exchange, ExchangeInterface
from pmc.dialects.dist import ShardingAttr, verify_exchange
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, ExprAttr, expr, max_of, min_of, parse_expr
from pmc.dialects.g5_table import CommandTableAttr
from pmc.dialects.g5_waits import ENGINES as ENGINES
from pmc.dialects.g5_waits import FREE as FREE
from pmc.dialects.g5_waits import AfterAttr as AfterAttr
from pmc.dialects.interfaces import Unit, Work, WorkInterface
from pmc.dialects.lmem_spans import HandedOver, wrong_spans
from pmc.dialects.lmem_spans import SpanAttr as SpanAttr
from pmc.dialects.matrix_types import matrix_type
from pmc.dialects.memory_map import chip_around, placement_fault
from pmc.dialects.structure import AnyProgramOp, AnyRepeatOp, AnyStageOp
from pmc.dialects.tensor import (
    ShapeAttr,
    TensorType,
    TypeMismatchError,
    element_name,
    shape_text,
    verify_element_type,
    verify_numbers,
)
from pmc.dialects.tile import (
    CORE,
    BodyOp,
    CoresAttr,
    MemRefType,
    NamedLoopOp,
    StoredOp,
    cores_fault,
    misplaced_late,
    missed_barrier,
    symbols_in_scope,
)
from pmc.dialects.vector_kinds import KIND, VectorKindAttr

GDMA_RANK = 4
"""The number of dims of a GDMA descriptor."""

Field = Expr | int | str
"""An entry of a command in a table: a number, or the name of an entry of the column's enum."""


# -- attributes -------------------------------------------------------------------------------------------------


@irdl_attr_definition
class LmemAttr(ParametrizedAttribute):
    """A matrix in LMEM: `#g5.lmem<mod(k.seq, 2)*32768, pitch 512, f8E4M3FN>`.

    Address of its first element in bytes, distance of its rows in elements, element type.
    """

    name: ClassVar[str] = "g5.lmem"
    address: ExprAttr
    pitch: IntegerAttr
    element_type: Attribute

    def verify(self) -> None:
        """Elements that can be stored."""
        verify_element_type(self.element_type)

    @classmethod
    def of(cls, address: Expr | int, pitch: int, element_type: Attribute) -> Self:
        """The matrix at `address` with rows `pitch` elements apart."""
        return cls(ExprAttr.of(address), IntegerAttr(pitch, i64), element_type)

    def access(self, role: str, rows: Expr, columns: Expr, reads: Expr, writes: bool) -> CommandAccess:
        """The use of the first `rows` x `columns` as an operand of a command."""
        steps = (expr(self.pitch.value.data), expr(1))
        return CommandAccess(
            role, "lmem", (rows, columns), self.element_type, reads, writes, False, self.address.data, steps
        )

    def fields(self, name: str) -> dict[str, Field]:
        """The columns of an operand in a table of commands."""
        return {
            name: self.address.data,
            f"{name}_pitch": self.pitch.value.data,
            f"{name}_type:element": element_name(self.element_type),
        }

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<address, pitch n, element>`."""
        with parser.in_angle_brackets():
            address = ExprAttr(parse_expr(parser))
            parser.parse_punctuation(",")
            parser.parse_keyword("pitch")
            pitch = IntegerAttr(parser.parse_integer(), i64)
            parser.parse_punctuation(",")
            return [address, pitch, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<address, pitch n, element>`."""
        with printer.in_angle_brackets():
            printer.print_string(f"{self.address.data}, pitch {self.pitch.value.data}, ")
            printer.print_attribute(self.element_type)


@irdl_attr_definition
class DramAttr(ParametrizedAttribute):
    """A strided array in DRAM: `#g5.dram<layer*8192 + 4096, [64, 128], strides [128, 1], bf16>`.

    Address of its first element in bytes, shape and strides in elements.
    """

    name: ClassVar[str] = "g5.dram"
    address: ExprAttr
    shape: ShapeAttr
    strides: ShapeAttr
    element_type: Attribute

    def verify(self) -> None:
        """Numbers, one stride per dim, and elements that can be stored."""
        verify_numbers(self.shape, self.strides)
        if len(self.shape.data) != len(self.strides.data):
            raise VerifyException(f"{len(self.strides.data)} strides for {len(self.shape.data)} dims")
        verify_element_type(self.element_type)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims, which are integers at this level."""
        return tuple(d.constant for d in self.shape.data)

    @property
    def steps(self) -> tuple[int, ...]:
        """The strides in elements."""
        return tuple(s.constant for s in self.strides.data)

    @property
    def tensor(self) -> TensorType:
        """The tensor that the array holds."""
        return TensorType.of(self.shape.data, self.element_type)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<address, [dim, ..], strides [..], element>`."""
        with parser.in_angle_brackets():
            address = ExprAttr(parse_expr(parser))
            parser.parse_punctuation(",")
            shape = ShapeAttr(ShapeAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            parser.parse_keyword("strides")
            strides = ShapeAttr(ShapeAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            return [address, shape, strides, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<address, [dim, ..], strides [..], element>`."""
        with printer.in_angle_brackets():
            shape, strides = shape_text(self.shape.data), shape_text(self.strides.data)
            printer.print_string(f"{self.address.data}, {shape}, strides {strides}, ")
            printer.print_attribute(self.element_type)


# -- structure --------------------------------------------------------------------------------------------------


@irdl_op_definition
class StreamOp(AnyProgramOp):
    """One step of one rank: its DRAM arrays, then the programs and chip commands that run one after the other."""

    name = "g5.stream"
    sym_name = prop_def(StringAttr)
    phase = prop_def(StringAttr)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), NoTerminator())

    def verify_(self) -> None:
        """Expressions use only the symbols of the bodies around them; arrays are aligned and inside the chip."""
        _check_symbols(self.body.block, frozenset())
        for scope in (self.body.block, *(op.body.block for op in self.walk() if isinstance(op, RepeatOp | StageOp))):
            around = scope.parent_op()
            carried = around.handed_over if isinstance(around, RepeatOp) else None
            found = [op.handed_over for op in scope.ops if isinstance(op, ProgramOp | RepeatOp | StageOp)]
            wrong = wrong_spans(found, carried)
            if wrong is not None:
                raise VerifyException(f"g5.stream '{self.sym_name.data}': {wrong}")
        block, chip = self.body.block, chip_around(self)
        own = [op.placed for op in block.ops if isinstance(op, ArrayOp)]
        for stage in [op.body.block for op in block.ops if isinstance(op, StageOp)] or [Block()]:
            fault = placement_fault([*own, *(op.placed for op in stage.ops if isinstance(op, ArrayOp))], chip)
            if fault is not None:
                raise VerifyException(f"g5.stream '{self.sym_name.data}': {fault}")


@irdl_op_definition
class ArrayOp(StoredOp):
    """An array in DRAM, named by its path; the properties are those of `tile.global`.

    An array in a `g5.stage` is in the DRAM of the ranks of that stage only.
    """

    name = "g5.array"
    kind = prop_def(StringAttr)
    layers = prop_def(BoolAttr)
    address = prop_def(IntegerAttr)
    """In bytes."""
    sharding = opt_prop_def(ShardingAttr)
    axes = opt_prop_def(ArrayAttr[StringAttr])
    role = opt_prop_def(StringAttr)
    below = opt_prop_def(IntegerAttr)
    type = prop_def(MemRefType)

    @property
    def memref(self) -> MemRefType:
        """The type of the array."""
        return self.type


@irdl_op_definition
class StageOp(BodyOp, AnyStageOp):
    """The arrays that the ranks of pipeline stage `index` have for themselves, and the part of the stream they run."""

    name = "g5.stage"
    index = prop_def(IntegerAttr)
    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    @property
    def handed_over(self) -> HandedOver:
        """No LMEM outlives what stands before a stage."""
        return HandedOver.of(self.path.data, None, None, is_body=True)


@irdl_op_definition
class RepeatOp(BodyOp, AnyRepeatOp):
    """Equal layers: the body runs for `symbol` = first, first+1, .., first+count-1.

    With `shares` iteration i of the repeat around, whose symbol is `period`, runs the next shares[i] of these.
    """

    name = "g5.repeat"
    symbol = prop_def(StringAttr)
    count = prop_def(IntegerAttr)
    first = prop_def(IntegerAttr)
    carries = opt_prop_def(ArrayAttr[SpanAttr])
    """The LMEM that a program before it has loaded for its first run, and each run for the next; what the last one
    loads is for nobody."""
    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    @property
    def handed_over(self) -> HandedOver:
        """What it takes of LMEM that outlives a program."""
        return HandedOver.of(self.path.data, None, self.carries, is_body=True)

    def defined_symbols(self) -> tuple[str, ...]:
        """The layer number."""
        return (self.symbol.data,)

    def verify_(self) -> None:
        """The shares are those of the repeat around."""
        self.verify_shares()


@irdl_op_definition
class ProgramOp(BodyOp):
    """The commands of one kernel, run by each of `cores` cores; ends with a barrier.

    The body holds loops and commands, or after `unroll-commands` only one queue per engine.
    """

    name = "g5.program"
    cores = prop_def(IntegerAttr)
    op_name = prop_def(StringAttr)
    """The tensor op that the program computes, `layer.matmul`."""
    hands_over = opt_prop_def(ArrayAttr[SpanAttr])
    """The LMEM of every core that it loads for a later program; the programs between leave it alone."""
    takes = opt_prop_def(ArrayAttr[SpanAttr])
    """The LMEM that an earlier program has loaded for it."""
    traits = traits_def(NoTerminator())
    body = region_def("single_block")

    @property
    def handed_over(self) -> HandedOver:
        """What it says of LMEM that outlives a program."""
        return HandedOver.of(self.path.data, self.hands_over, self.takes)

    def defined_symbols(self) -> tuple[str, ...]:
        """The core number."""
        return (CORE,)

    def verify_(self) -> None:
        """Loops, commands and barriers that all cores come to, or queues; loads that serve cores that exist."""
        wrong = cores_fault(self.cores.value.data, chip_around(self))
        if wrong is not None:
            raise VerifyException(f"g5.program at '{self.path.data}': {wrong}")
        for op in self.body.block.ops:
            if not isinstance(op, (LoopOp, CommandOp, BarrierOp, QueueOp)):
                raise VerifyException(f"g5.program at '{self.path.data}': {op.name} cannot stand in a program")
        for op in self.body.block.walk():
            if isinstance(op, BarrierOp):
                fault = missed_barrier(op)
            elif isinstance(op, ChipCommandOp):
                fault = "a command of the chip, which stands between programs"
            elif isinstance(op, GdmaOp) and op.serves is not None:
                fault = op.serves.fault(self.cores.value.data)
            elif isinstance(op, GdmaOp) and op.late is not None:
                fault = misplaced_late(op)
            else:
                continue
            if fault is not None:
                raise VerifyException(f"{op.name} at '{op.path.data}': {fault}")


@irdl_op_definition
class LoopOp(NamedLoopOp):
    """A loop of commands; `symbol.seq` counts all runs of the body on this core so far."""

    name = "g5.loop"
    traits = traits_def(NoTerminator())


@irdl_op_definition
class QueueOp(PmcOp):
    """All commands of one engine of one core in one program, as a table (see `g5_table`).

    Column `op` numbers the entries of `paths`, column `params` those of `kinds`: a vector kind with its parameters.
    """

    name = "g5.queue"
    engine = prop_def(StringAttr)
    core = prop_def(IntegerAttr)
    paths = prop_def(ArrayAttr[StringAttr])
    kinds = prop_def(ArrayAttr[VectorKindAttr])
    table = prop_def(CommandTableAttr)


@irdl_op_definition
class BarrierOp(PmcOp):
    """No core goes on before all cores of the program have come here and all commands given before have finished."""

    name = "g5.barrier"


# -- commands ---------------------------------------------------------------------------------------------------


class CommandOp(PmcOp, ABC):
    """One command template: `g5.tiu {..} after [gdma-0] at "path"`."""

    ENGINE: ClassVar[str]
    UNIT: ClassVar[Unit] = "none"
    """The unit that does its arithmetic."""
    after = opt_prop_def(AfterAttr)

    @abstractmethod
    def accesses(self) -> tuple[CommandAccess, ...]:
        """What the command reads and writes: inputs, outputs, updates."""

    def fields(self) -> dict[str, Field]:
        """The columns of its operands in a table of unrolled commands."""
        raise PmcError(f"{self.name} at '{self.path.data}' stands in no table of commands")

    def flops(self) -> Expr:
        """The arithmetic of one run."""
        return expr(0)

    @property
    def dependencies(self) -> tuple[tuple[str, int], ...]:
        """Pairs of engine and lag."""
        return () if self.after is None else self.after.data

    def print(self, printer: Printer) -> None:
        """Print the properties, the dependencies and the path."""
        names = (n for n in self.get_irdl_definition().properties if n in self.properties)
        print_properties(printer, {n: self.properties[n] for n in names if n not in ("path", "after")})
        if self.after is not None:
            printer.print_string(f" after {self.after.text}")
        printer.print_string(" at ")
        printer.print_string_literal(self.path.data)
        printer.print_op_attributes(self.attributes, print_keyword=True)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse what `print` prints."""
        properties = parse_properties(parser)
        if parser.parse_optional_keyword("after") is not None:
            properties["after"] = AfterAttr(AfterAttr.parse_list(parser))
        parser.parse_keyword("at")
        properties["path"] = StringAttr(parse_text(parser))
        attributes: dict[str, Attribute] = {}
        if parser.parse_optional_keyword("attributes") is not None:
            attributes = parser.parse_optional_dictionary_attr_dict()
        return cls.create(properties=properties, attributes=attributes)


@irdl_op_definition
class GdmaOp(CommandOp):
    """A strided copy between DRAM and LMEM; `direction` is `load` (DRAM -> LMEM) or `store`.

    With `serves`, one read of DRAM serves several cores, see `tile.load`.  A `late` command of an iteration is given to
    the engine one iteration later, see `tile.store`; what it waits for is counted from its own iteration.
    """

    name = "g5.gdma"
    ENGINE: ClassVar[str] = "gdma"
    after = opt_prop_def(AfterAttr)
    direction = prop_def(StringAttr)
    dram = prop_def(ExprAttr)
    lmem = prop_def(ExprAttr)
    shape = prop_def(ArrayAttr[ExprAttr])
    dram_strides = prop_def(ArrayAttr[ExprAttr])
    lmem_strides = prop_def(ArrayAttr[ExprAttr])
    element_type = prop_def(Attribute)
    serves = opt_prop_def(CoresAttr)
    late = opt_prop_def(UnitAttr)

    @property
    def is_load(self) -> bool:
        """DRAM to LMEM."""
        return self.direction.data == "load"

    def accesses(self) -> tuple[CommandAccess, ...]:
        shape, load = tuple(n.data for n in self.shape.data), self.is_load
        read, written = (ALWAYS, False), (NEVER, True)

        def side(role: Memory, at: ExprAttr, strides: ArrayAttr[ExprAttr], use: tuple[Expr, bool]) -> CommandAccess:
            steps = tuple(s.data for s in strides.data)
            return CommandAccess(role, role, shape, self.element_type, *use, False, at.data, steps)

        return (
            side("dram", self.dram, self.dram_strides, read if load else written),
            side("lmem", self.lmem, self.lmem_strides, written if load else read),
        )

    def fields(self) -> dict[str, Field]:
        """Shape and strides, filled up to four dims from the outside; the cores that one read serves, if any."""
        missing = GDMA_RANK - len(self.shape.data)
        fields: dict[str, Field] = {"direction:direction": self.direction.data}
        fields |= {"dram": self.dram.data, "lmem": self.lmem.data}
        columns = (("n", self.shape, 1), ("dram_stride", self.dram_strides, 0), ("lmem_stride", self.lmem_strides, 0))
        for name, values, filler in columns:
            fields |= {f"{name}{i}": filler for i in range(missing)}
            fields |= {f"{name}{missing + i}": v.data for i, v in enumerate(values.data)}
        fields["element:element"] = element_name(self.element_type)
        if self.serves is not None:
            cores = self.serves
            fields |= {"serves_first": cores.first.data, "serves": cores.count.value.data}
            fields["serves_stride"] = cores.stride.value.data
        return fields

    def verify_(self) -> None:
        """A known direction; one stride per dim, at most `GDMA_RANK` dims."""
        if self.direction.data not in ("load", "store"):
            raise VerifyException(f"g5.gdma at '{self.path.data}': direction must be load or store")
        rank = len(self.shape.data)
        if not 1 <= rank <= GDMA_RANK:
            raise VerifyException(f"g5.gdma at '{self.path.data}': 1 to {GDMA_RANK} dims, found {rank}")
        if len(self.dram_strides.data) != rank or len(self.lmem_strides.data) != rank:
            raise VerifyException(f"g5.gdma at '{self.path.data}': needs {rank} strides on both sides")
        verify_element_type(self.element_type)


@irdl_op_definition
class GatherOp(CommandOp):
    """Rows of a DRAM array by index: lmem[r] = dram[index[0, r] - base]; outside 0..rows-1 zeros, -1 of integers.

    `count` rows of `columns` elements; rows of the array are `stride` elements apart.  The base is `rows` times the
    coordinate of the rank on `base_axis`, 0 without one.
    """

    name = "g5.gather"
    ENGINE: ClassVar[str] = "gdma"
    after = opt_prop_def(AfterAttr)
    dram = prop_def(ExprAttr)
    rows = prop_def(IntegerAttr)
    stride = prop_def(IntegerAttr)
    index = prop_def(LmemAttr)
    lmem = prop_def(LmemAttr)
    count = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)
    base_axis = opt_prop_def(StringAttr)

    def accesses(self) -> tuple[CommandAccess, ...]:
        count, columns = self.count.data, self.columns.data
        steps = (expr(self.stride.value.data), expr(1))
        element = self.lmem.element_type
        return (
            CommandAccess("dram", "dram", (count, columns), element, ALWAYS, False, True, self.dram.data, steps),
            self.index.access("index", expr(1), count, ALWAYS, False),
            self.lmem.access("lmem", count, columns, NEVER, True),
        )

    def fields(self) -> dict[str, Field]:
        """The columns of a copy of `count` rows, and the address of the index."""
        return {
            "direction:direction": "gather",
            "dram": self.dram.data,
            "lmem": self.lmem.address.data,
            "n2": self.count.data,
            "n3": self.columns.data,
            "n0": 1,
            "n1": 1,
            "dram_stride2": self.stride.value.data,
            "dram_stride3": 1,
            "lmem_stride2": self.lmem.pitch.value.data,
            "lmem_stride3": 1,
            "element:element": element_name(self.lmem.element_type),
            "index": self.index.address.data,
        }


@irdl_op_definition
class GatherRowsOp(CommandOp):
    """Whole rows of a matrix in DRAM by index, moved by SDMA: lmem[r] = dram[index[0, r]].

    `count` of the `rows` rows of `columns` elements, which are `stride` elements apart.  The bandwidth domain says
    whether they come from DRAM or, `on_chip`, from what the cores hold of the matrix.
    """

    name = "g5.gather_rows"
    ENGINE: ClassVar[str] = "sdma"
    after = opt_prop_def(AfterAttr)
    dram = prop_def(ExprAttr)
    rows = prop_def(IntegerAttr)
    stride = prop_def(IntegerAttr)
    index = prop_def(LmemAttr)
    lmem = prop_def(LmemAttr)
    count = prop_def(ExprAttr)
    columns = prop_def(IntegerAttr)
    bandwidth_domain = prop_def(StringAttr)

    def accesses(self) -> tuple[CommandAccess, ...]:
        count, columns = self.count.data, expr(self.columns.value.data)
        steps, element = (expr(self.stride.value.data), expr(1)), self.lmem.element_type
        held = self.bandwidth_domain.data == "on_chip"
        return (
            CommandAccess(
                "dram", "dram", (count, columns), element, ALWAYS, False, True, self.dram.data, steps, held=held
            ),
            self.index.access("index", expr(1), count, ALWAYS, False),
            self.lmem.access("lmem", count, columns, NEVER, True),
        )

    def fields(self) -> dict[str, Field]:
        """Where the rows come from, the matrices in LMEM and the sizes."""
        return {
            "domain:domain": self.bandwidth_domain.data,
            "dram": self.dram.data,
            "stride": self.stride.value.data,
            **self.index.fields("index"),
            **self.lmem.fields("target"),
            "rows": self.count.data,
            "columns": self.columns.value.data,
        }

    def verify_(self) -> None:
        """A known domain."""
        domain = self.bandwidth_domain.data
        if domain not in BANDWIDTH_DOMAINS:
            raise VerifyException(
                f"{self.name} at '{self.path.data}': bandwidth_domain is '{domain}', must be "
                f"{' or '.join(BANDWIDTH_DOMAINS)}"
            )


@irdl_op_definition
class TiuOp(CommandOp):
    """MM2: acc[:m, :n] (+)= a[:m, :k] b[:k, :n], with `transpose_b` b[:n, :k]; adds where `accumulate` is not zero."""

    name = "g5.tiu"
    ENGINE: ClassVar[str] = "tiu"
    after = opt_prop_def(AfterAttr)
    acc = prop_def(LmemAttr)
    a = prop_def(LmemAttr)
    b = prop_def(LmemAttr)
    m = prop_def(ExprAttr)
    n = prop_def(ExprAttr)
    k = prop_def(ExprAttr)
    accumulate = prop_def(ExprAttr)
    transpose_b = prop_def(BoolAttr)
    UNIT: ClassVar[Unit] = "cube"

    def accesses(self) -> tuple[CommandAccess, ...]:
        m, n, k = self.m.data, self.n.data, self.k.data
        b = (n, k) if bool(self.transpose_b) else (k, n)
        return (
            self.a.access("a", m, k, ALWAYS, False),
            self.b.access("b", *b, ALWAYS, False),
            self.acc.access("acc", m, n, self.accumulate.data, True),
        )

    @property
    def matrix_type(self) -> str:
        """The type of the arithmetic, which sets the rate."""
        return matrix_type(*(element_name(matrix.element_type) for matrix in (self.a, self.b)))

    def verify_(self) -> None:
        """The types of the operands can be multiplied."""
        try:
            _ = self.matrix_type
        except TypeMismatchError as error:
            raise VerifyException(f"g5.tiu at '{self.path.data}': {error}") from None

    def flops(self) -> Expr:
        """A multiplication and an addition per element of the contraction."""
        return 2 * self.m.data * self.n.data * self.k.data

    def fields(self) -> dict[str, Field]:
        """The matrices, the sizes and the flags."""
        matrices = {**self.acc.fields("acc"), **self.a.fields("a"), **self.b.fields("b")}
        sizes: dict[str, Field] = {"m": self.m.data, "n": self.n.data, "k": self.k.data}
        adds = max_of(min_of(self.accumulate.data, 1), min_of(-self.accumulate.data, 1))
        flags: dict[str, Field] = {"accumulate": adds, "transpose_b": int(bool(self.transpose_b))}
        return {**matrices, **sizes, **flags}


class VectorCommandOp(CommandOp):
    """What `kind` says, on the first `rows` x `columns` of its matrices; see `vector_kinds`."""

    kind = prop_def(KIND)
    ins = prop_def(ArrayAttr[LmemAttr])
    outs = prop_def(ArrayAttr[LmemAttr])
    updates = prop_def(ArrayAttr[LmemAttr])
    rows = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)
    UNIT: ClassVar[Unit] = "vector"

    @property
    def matrices(self) -> tuple[LmemAttr, ...]:
        """Inputs, outputs and updates."""
        return (*self.ins.data, *self.outs.data, *self.updates.data)

    def accesses(self) -> tuple[CommandAccess, ...]:
        widths = [m.pitch.value.data for m in self.matrices]
        extents = self.kind.extents(self.rows.data, self.columns.data, widths)
        return tuple(
            place.access(matrix.name, *extent, self.kind.reads(matrix), matrix.writes)
            for matrix, place, extent in zip(self.kind.MATRICES, self.matrices, extents, strict=True)
        )

    def flops(self) -> Expr:
        """The arithmetic of the kind."""
        return self.kind.flops(self.rows.data, self.columns.data)

    def fields(self) -> dict[str, Field]:
        """The kind, the matrices and the sizes."""
        fields: dict[str, Field] = {"kind:vector": self.kind.name.partition(".")[2]}
        for index, matrix in enumerate(self.matrices):
            fields |= matrix.fields(f"x{index}")
        return {**fields, "rows": self.rows.data, "columns": self.columns.data}

    def verify_(self) -> None:
        """The engine of the kind, its number of matrices, and parameters of which it can make sense."""
        where = f"{self.name} #{self.kind.name} at '{self.path.data}'"
        if self.kind.ENGINE != self.ENGINE:
            raise VerifyException(f"{where}: the kind is one of g5.{self.kind.ENGINE}")
        counts = (len(self.ins.data), len(self.outs.data), len(self.updates.data))
        wrong = self.kind.fault(counts, self.columns.data, frozenset(symbols_in_scope(self)))
        if wrong is not None:
            raise VerifyException(f"{where}: {wrong}")


@irdl_op_definition
class VecOp(VectorCommandOp):
    """A command of the vector unit."""

    name = "g5.vec"
    ENGINE: ClassVar[str] = "vec"


@irdl_op_definition
class HauOp(VectorCommandOp):
    """A command of the sort and top-k unit."""

    name = "g5.hau"
    ENGINE: ClassVar[str] = "hau"


@irdl_op_definition
class FetchOp(CommandOp):
    """`rows` x `columns` elements from `source` in the LMEM of core `core` to `target` in that of this core."""

    name = "g5.fetch"
    ENGINE: ClassVar[str] = "sdma"
    after = opt_prop_def(AfterAttr)
    core = prop_def(ExprAttr)
    source = prop_def(LmemAttr)
    target = prop_def(LmemAttr)
    rows = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)

    def accesses(self) -> tuple[CommandAccess, ...]:
        extent = self.rows.data, self.columns.data
        source = self.source.access("source", *extent, ALWAYS, False)
        return replace(source, core=self.core.data), self.target.access("target", *extent, NEVER, True)

    def fields(self) -> dict[str, Field]:
        """The other core, both matrices and the sizes."""
        matrices = {**self.source.fields("source"), **self.target.fields("target")}
        return {"core": self.core.data, **matrices, "rows": self.rows.data, "columns": self.columns.data}


class ChipCommandOp(CommandOp, WorkInterface, ExchangeInterface):
    """A movement that the chip does as a whole between two programs (see `collective.py`)."""

    collective = prop_def(CollectiveAttr)
    algorithm = opt_prop_def(AlgorithmAttr)
    """Where there is none, the only one that the collective has, or one still to be chosen."""
    ins = prop_def(ArrayAttr[DramAttr])
    outs = prop_def(ArrayAttr[DramAttr])

    def exchange(self) -> Exchange:
        ins, outs = ([array.tensor for array in arrays] for arrays in (self.ins.data, self.outs.data))
        return Exchange.of(self.collective, self.algorithm, ins, outs)

    def work(self) -> Work:
        return self.exchange().work()

    def verify_(self) -> None:
        verify_exchange(self, self.exchange())
        engine = "cdma" if self.collective.leaves_chip else "sdma"
        if engine != self.ENGINE:
            raise VerifyException(f"{self.name} at '{self.path.data}': {self.collective} is done by {engine}")

    def accesses(self) -> tuple[CommandAccess, ...]:
        """All arrays, whole."""

        def whole(role: str, at: DramAttr, reads: Expr, writes: bool) -> CommandAccess:
            shape, steps = at.shape.data, at.strides.data
            return CommandAccess(role, "dram", shape, at.element_type, reads, writes, False, at.address.data, steps)

        ins = (whole(f"in{i}", at, ALWAYS, False) for i, at in enumerate(self.ins.data))
        return (*ins, *(whole(f"out{i}", at, NEVER, True) for i, at in enumerate(self.outs.data)))


@irdl_op_definition
class SdmaOp(ChipCommandOp):
    """A movement inside the DRAM of one chip."""

    name = "g5.sdma"
    ENGINE: ClassVar[str] = "sdma"


@irdl_op_definition
class CdmaOp(ChipCommandOp):
    """A movement between chips."""

    name = "g5.cdma"
    ENGINE: ClassVar[str] = "cdma"


# -- symbols ----------------------------------------------------------------------------------------------------


def symbols_used(attribute: Attribute) -> Iterator[str]:
    """The symbols of all expressions in an attribute, nested ones included."""
    if isinstance(attribute, ExprAttr):
        yield from attribute.data.symbols
    elif isinstance(attribute, ArrayAttr):
        for item in cast(ArrayAttr[Attribute], attribute).data:
            yield from symbols_used(item)
    elif isinstance(attribute, DictionaryAttr):
        for item in attribute.data.values():
            yield from symbols_used(item)
    elif isinstance(attribute, (LmemAttr, DramAttr)):
        yield from attribute.address.data.symbols


def _check_symbols(block: Block, scope: frozenset[str]) -> None:
    for op in block.ops:
        for name, value in op.properties.items():
            unknown = frozenset(symbols_used(value)) - scope
            if unknown:
                raise VerifyException(f"{op.name} at '{_path(op)}': '{sorted(unknown)[0]}' in '{name}' is not in scope")
        if isinstance(op, BodyOp):
            _check_symbols(op.body.block, scope | frozenset(op.defined_symbols()))


def _path(op: Operation) -> str:
    return op.path.data if isinstance(op, PmcOp) else ""


G5 = Dialect(
    "g5",
    [
        StreamOp,
        ArrayOp,
        StageOp,
        RepeatOp,
        ProgramOp,
        LoopOp,
        BarrierOp,
        QueueOp,
        GdmaOp,
        GatherOp,
        GatherRowsOp,
        TiuOp,
        VecOp,
        HauOp,
        FetchOp,
        SdmaOp,
        CdmaOp,
    ],
    [AfterAttr, LmemAttr, SpanAttr, DramAttr, CommandTableAttr],
)
