"""What measured tables of a GPU charge: queries in place of the ops that a table covers, and the host beside them.

    %q = silicon.query([%x, %a, %b]) {workload = #silicon.workload<gemm, m = batch*q_len, n = 768, k = 4096,
        gemm_dtype = "bfloat16">} at "blocks.dense.gqa.q_proj" : !layer.tensor<[batch*q_len, 512], bf16>, .. {
      %1 = layer.matmul(%x, %a) at "blocks.dense.gqa.q_proj" : ..
      %2 = layer.matmul(%x, %b) at "blocks.dense.gqa.k_proj" : ..
      layer.yield([%1, %2]) at "blocks.dense.gqa.q_proj"
    }

The body holds the ops that the query covers, as they were, so that work, memory and paths can still be read off the
program.  It uses the values from outside that the operands list, which is what schedules go by.  A query whose body is
a collective is a `silicon.exchange`.  `memory` is no table: one launch that only moves data, of so many bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field
from xdsl.dialects.builtin import FloatAttr, StringAttr
from xdsl.ir import Block, Data, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import RecursiveMemoryEffect
from xdsl.utils.exceptions import VerifyException

from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import Exchange, ExchangeInterface
from pmc.dialects.effects import UPDATES, Effects, HasEffects, StatedEffects
from pmc.dialects.expr import Expr, expr, parse_expr
from pmc.dialects.interfaces import Work, WorkInterface
from pmc.dialects.schema import Schema
from pmc.dialects.schema_text import SchemaAttr
from pmc.dialects.tensor import tensor

DATABASE = "silicon.database"
"""The module attribute that says whose measurements are meant."""

MEMORY = "memory"
"""A launch that only moves data: priced by bytes, without a table."""

# -- whose measurements -------------------------------------------------------------------------------------------


class Database(Schema, frozen=True):
    """A system, what serves on it, and where numbers may be from."""

    system: str = Field(description="the system, as its specification is called")
    backend: str = Field(description="the serving engine")
    version: str = Field(description="the version of the engine")
    mode: str = Field(description="sol, empirical, silicon or hybrid")
    distribution: str = Field(description="how uneven tokens choose experts, as the tables call it")
    folder: str = Field(description="the folder of tables; empty for those that are installed")
    host: str = Field(description="graph, eager or none: how the host launches kernels")


@irdl_attr_definition
class DatabaseAttr(SchemaAttr[Database]):
    """``#silicon.database<{system = "h200_sxm", backend = "vllm", ..}>``."""

    name = "silicon.database"
    SCHEMA = Database


# -- what a table is asked ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """The key of a row: sizes, which may depend on the symbols of the program, and words."""

    table: str
    """The kind of table."""
    sizes: Mapping[str, Expr]
    words: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        sizes = [f"{name} = {value}" for name, value in self.sizes.items()]
        return ", ".join([self.table, *sizes, *(f'{name} = "{word}"' for name, word in self.words.items())])


@irdl_attr_definition
class WorkloadAttr(Data[Workload]):
    """`#silicon.workload<gemm, m = batch*q_len, n = 512, k = 4096, gemm_dtype = "bfloat16">`."""

    name: ClassVar[str] = "silicon.workload"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Workload:
        """Parse `<table, size = expression, .., word = "text", ..>`."""
        sizes: dict[str, Expr] = {}
        words: dict[str, str] = {}
        with parser.in_angle_brackets():
            table = parser.parse_identifier()
            while parser.parse_optional_punctuation(",") is not None:
                position = parser.pos
                name = parser.parse_identifier()
                if name in sizes or name in words:
                    parser.raise_error(f"{name} is there twice", position)
                parser.parse_punctuation("=")
                text = parser.parse_optional_str_literal()
                if text is None:
                    sizes[name] = parse_expr(parser)
                else:
                    words[name] = text
        return Workload(table, sizes, words)

    def print_parameter(self, printer: Printer) -> None:
        """Print what `parse_parameter` reads."""
        with printer.in_angle_brackets():
            printer.print_string(str(self.data))


class _AnyQueryOp(PmcOp, WorkInterface):
    """The ops of its body, charged as one query."""

    workload = prop_def(WorkloadAttr)
    values = var_operand_def()
    body = region_def("single_block")
    outs = var_result_def()

    @property
    def covered(self) -> Sequence[Operation]:
        """The ops that the query stands for, in program order."""
        return [op for op in self.body.block.ops if not isinstance(op, layer.YieldOp)]

    @property
    def updated(self) -> list[tuple[SSAValue, SSAValue]]:
        """Arrays that an op of the body updates in place, and the results that are these arrays afterwards."""
        last = self.body.block.last_op
        assert isinstance(last, layer.YieldOp)
        found: list[tuple[SSAValue, SSAValue]] = []
        for value, result in zip(last.values, self.outs, strict=True):
            if isinstance(op := value.owner, layer.StateUpdateOp) and op.updated[1] is value:
                found.append((op.updated[0], result))
        return found

    def verify_(self) -> None:
        """The body yields the results and uses from outside what the operands list."""
        last = self.body.block.last_op
        if not isinstance(last, layer.YieldOp):
            raise VerifyException(f"{self.name} at '{self.path.data}': the body must end in layer.yield")
        if [v.type for v in last.values] != list(self.result_types):
            raise VerifyException(f"{self.name} at '{self.path.data}': the body must yield values of the result types")
        if not self.covered:
            raise VerifyException(f"{self.name} at '{self.path.data}': the body covers no op")
        if captured(self.covered) != list(self.operands):
            raise VerifyException(
                f"{self.name} at '{self.path.data}': the operands must be the values that the body uses from outside, "
                "in the order of their first use"
            )

    def work(self) -> Work:
        """The sum over the body in one launch: what one op makes for another is not read back, what nobody outside
        uses is not written, and rows that several ops read are read once."""
        ops = [op for op in self.covered if isinstance(op, WorkInterface)]
        works = [op.work() for op in ops]
        arithmetic = next((w for w in works if w.unit == "cube"), works[0])
        read = sum((w.bytes_read for w in works), expr(0))
        written = sum((w.bytes_written for w in works), expr(0))
        inside = set(self.covered)
        for value in dict.fromkeys(value for op in self.covered for value in (*op.operands, *op.results)):
            owner = value.owner
            if isinstance(owner, layer.SourceOp | layer.StateUpdateOp):
                continue  # a weight or a cache is read as far as an op needs it
            users = [use.operation for use in value.uses if use.operation in inside]
            readers = sum(not isinstance(user, layer.SliceOp) for user in users)  # a view reads nothing
            seen = owner
            while isinstance(seen, layer.SliceOp) and seen in inside:
                seen = seen.x.owner
            made = isinstance(seen, Operation) and seen in inside
            read = read - tensor(value).bytes * (readers if made else max(0, readers - 1))
            if made and len(users) == len(list(value.uses)) and not isinstance(owner, layer.SliceOp):
                written = written - tensor(value).bytes
        return Work(sum((w.flops for w in works), expr(0)), read, written, arithmetic.unit, arithmetic.dtype)

    @classmethod
    def covering(cls, workload: Workload, path: str, ops: Sequence[Operation], before: Operation) -> Self:
        """Put a query in front of `before`, and `ops` of one block, in program order, into it."""
        inside = set(ops)
        results = [
            value
            for op in ops
            for value in op.results
            if any(_ancestor_in(use.operation, op.parent) not in inside for use in value.uses)
        ]
        query = cls.make(
            [captured(ops)],
            [value.type for value in results],
            path,
            {"workload": WorkloadAttr(workload)},
            [Region(Block())],
            like=ops[0],
        )
        around = before.parent
        assert around is not None
        around.insert_op_before(query, before)
        for op in ops:
            around.detach_op(op)
        body = query.body.block
        body.add_ops(ops)
        for value, outside in zip(results, query.outs, strict=True):
            outside.name_hint = value.name_hint
            value.replace_uses_with_if(outside, lambda use: query is not _ancestor_in(use.operation, query.parent))
        body.add_op(layer.YieldOp.make([results], [], path))
        return query


def captured(ops: Iterable[Operation]) -> list[SSAValue]:
    """The values that ops use and do not make, in the order of their first use."""
    ops = list(ops)
    made = {value for op in ops for inner in op.walk() for value in inner.results}
    used = dict.fromkeys(value for op in ops for inner in op.walk() for value in inner.operands)
    return [value for value in used if value not in made]


def _ancestor_in(op: Operation, block: Block | None) -> Operation | None:
    """The op of a block that is or holds `op`."""
    around: Operation | None = op
    while around is not None and around.parent is not block:
        around = around.parent_op()
    return around


@irdl_op_definition
class QueryOp(_AnyQueryOp):
    """Ops on one chip that one row of a table covers."""

    name = "silicon.query"
    workload = prop_def(WorkloadAttr)
    values = var_operand_def()
    body = region_def("single_block")
    outs = var_result_def()
    traits = traits_def(RecursiveMemoryEffect())


@irdl_op_definition
class ExchangeOp(_AnyQueryOp, ExchangeInterface, HasEffects):
    """A collective that one row of a table covers."""

    name = "silicon.exchange"
    EFFECTS: ClassVar[Effects] = UPDATES
    workload = prop_def(WorkloadAttr)
    values = var_operand_def()
    body = region_def("single_block")
    outs = var_result_def()
    traits = traits_def(StatedEffects())

    def exchange(self) -> Exchange:
        """That of the collective in the body."""
        op = self.covered[0]
        assert isinstance(op, ExchangeInterface)
        return op.exchange()

    def verify_(self) -> None:
        """The body is one collective."""
        super().verify_()
        if len(self.covered) != 1 or not isinstance(self.covered[0], ExchangeInterface):
            raise VerifyException(f"{self.name} at '{self.path.data}': the body must be one collective")


AnyQueryOp = QueryOp | ExchangeOp

# -- the host -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """What the host adds to a step of a rank."""

    step_us: float
    """Once per step."""
    launch_us: float
    """Between the launches of two kernels: a step takes at least that long for each of them."""
    source: str


HOSTS: Mapping[str, Host] = {
    "graph": Host(
        6.0, 0.0, "NVIDIA, Constant time launch for straight-line CUDA graphs (2024): 2.5 us and about 1 ns a node; "
        "3.5 us are chosen here for preparing the inputs"
    ),
    "eager": Host(
        6.0, 5.0, "chosen here: order of a launch from PyTorch, published profiles of eager decoding have 4 to 10 us"
    ),
}  # fmt: skip
"""By the way in which the host launches kernels.  None of them was fitted, or validated against silicon."""


@irdl_op_definition
class HostOp(PmcOp, WorkInterface, HasEffects):
    """The host of a step of a rank: what it adds once, and how fast it launches kernels, with the source of both."""

    name = "silicon.host"
    step_us = prop_def(FloatAttr)
    launch_us = prop_def(FloatAttr)
    source = prop_def(StringAttr)
    EFFECTS: ClassVar[Effects] = UPDATES
    traits = traits_def(StatedEffects())

    def work(self) -> Work:
        """None on the chip."""
        return Work(expr(0), expr(0), expr(0), "none", "bf16")


Silicon = Dialect("silicon", [QueryOp, ExchangeOp, HostOp], [WorkloadAttr, DatabaseAttr])
