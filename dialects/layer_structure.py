"""The structure of programs of the `layer` dialect: the program, its results, repeats of equal layers or steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from xdsl.dialects.builtin import IntegerAttr, StringAttr, SymbolNameConstraint
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoMemoryEffect, NoTerminator, RecursiveMemoryEffect
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp, parse_text, parse_value_use
from pmc.dialects.mesh_rules import verify_on_mesh
from pmc.dialects.structure import AnyProgramOp, AnyRepeatOp, shares_attr
from pmc.dialects.tensor import TensorType, verify_carried


@irdl_op_definition
class ProgramOp(AnyProgramOp):
    """One step of the model, prefill or decode: a function from the token ids to the logits."""

    name = "layer.program"
    sym_name = prop_def(SymbolNameConstraint())
    phase = prop_def(StringAttr)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), NoTerminator())

    def verify_(self) -> None:
        """The body ends in `layer.return`, or consists of pipeline stages; all of it fits the mesh of the module."""
        last = self.body.block.last_op
        if last is None or last.name not in ("layer.return", "dist.stage"):
            raise VerifyException(f"layer.program '{self.sym_name.data}': the body must end in layer.return")
        verify_on_mesh(self)


@irdl_op_definition
class ReturnOp(PmcOp):
    """The results of a program."""

    name = "layer.return"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator())


@irdl_op_definition
class YieldOp(PmcOp):
    """The values that a `layer.repeat` iteration hands to the next one."""

    name = "layer.yield"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator(), NoMemoryEffect())


@irdl_op_definition
class RepeatOp(AnyRepeatOp):
    """Equal layers: the body runs `count` times with the weights `first`, `first + 1`, ..

    %y = layer.repeat 58 from 3 of 61 (%h = %x) at "blocks.moe" : !layer.tensor<..> { .. layer.yield(%z) }

    Layers may be nested: the layers of a path are numbered through, so that iteration i of 5 in iteration p of the
    repeat around it is layer 5 p + i.  With `shares` iteration p runs the next shares[p] layers:

    %y = layer.repeat 5 from 0 of 5 shares [2, 0, 2, 1] (%h = %x) at "blocks.attention" : !layer.tensor<..> { .. }

    With a `symbol` the iterations are no layers but equal steps, and expressions in the body know their number by it:

    %b = layer.repeat 3 from 1 of 4 as "cp.step" (%a = %x) at "..attention" : !layer.tensor<..> { .. layer.yield(%c) }
    """

    name = "layer.repeat"
    inits = var_operand_def(TensorType)
    count = prop_def(IntegerAttr)
    first = prop_def(IntegerAttr)
    """The index of the first iteration among the stored layers of this path."""
    total = prop_def(IntegerAttr)
    """How many layers of this path the whole model stores."""
    symbol = opt_prop_def(StringAttr)
    outs = var_result_def(TensorType)
    body = region_def("single_block")
    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        """Iteration values keep their types, iterations stay inside the stored layers."""
        block = self.body.block
        count, first, total = self.trip_count, self.first.value.data, self.total.value.data
        if count < 1 or first < 0 or first + count > total:
            raise VerifyException(
                f"layer.repeat at '{self.path.data}': iterations {first}..{first + count} of {total} stored layers"
            )
        self.verify_shares()
        around = self.parent_op()
        of_steps = self.symbol is not None or (isinstance(around, RepeatOp) and not around.is_layers)
        if self.shares is not None and (of_steps or count != total):
            raise VerifyException(f"layer.repeat at '{self.path.data}': only layers have shares, and all of them")
        last = block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException(f"layer.repeat at '{self.path.data}': the body must end in layer.yield")
        verify_carried(
            f"layer.repeat at '{self.path.data}'",
            [v.type for v in self.inits],
            block_arguments=[a.type for a in block.args],
            yielded_values=[v.type for v in last.values],
            results=list(self.result_types),
        )

    @classmethod
    def build_with(
        cls,
        count: int,
        inits: Sequence[SSAValue],
        body: Region,
        path: str,
        first: int = 0,
        total: int | None = None,
        symbol: str | None = None,
        shares: Sequence[int] | None = None,
    ) -> Self:
        """Repeat `body`, whose block takes and yields values of the types of `inits`."""
        return cls.make(
            [inits],
            [v.type for v in inits],
            path,
            {
                "count": count,
                "first": first,
                "total": count if total is None else total,
                "symbol": symbol,
                "shares": shares_attr(shares),
            },
            [body],
        )

    def layer_after(self, outer: int | None, index: int) -> int:
        """The number of the layer of iteration `index`, where `outer` is that of the repeat around, if there is one."""
        return index if outer is None or self.shares is not None else outer * self.total.value.data + index

    @property
    def is_layers(self) -> bool:
        """Whether the iterations are layers, each with weights and caches of its own."""
        return self.symbol is None

    def print(self, printer: Printer) -> None:
        """Print `58 from 0 of 58 (as "symbol")? (shares [..])? (%h = %x) at "path" : types { .. }`."""
        printer.print_string(f" {self.trip_count} from {self.first.value.data} of {self.total.value.data} ")
        if self.symbol is not None:
            printer.print_string("as ")
            printer.print_string_literal(self.symbol.data)
            printer.print_string(" ")
        if self.share_counts is not None:
            printer.print_string(f"shares {list(self.share_counts)} ")
        block = self.body.block
        with printer.in_parens():
            for index, (argument, init) in enumerate(zip(block.args, self.inits, strict=True)):
                if index:
                    printer.print_string(", ")
                printer.print_ssa_value(argument)
                printer.print_string(" = ")
                printer.print_operand(init)
        printer.print_string(" at ")
        printer.print_string_literal(self.path.data)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        if self.results:
            printer.print_string(" : ")
            printer.print_list(self.result_types, printer.print_attribute)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        count = parser.parse_integer()
        parser.parse_keyword("from")
        first = parser.parse_integer()
        parser.parse_keyword("of")
        total = parser.parse_integer()
        symbol = parse_text(parser) if parser.parse_optional_keyword("as") is not None else None
        shares: list[int] | None = None
        if parser.parse_optional_keyword("shares") is not None:
            shares = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        names: list[Parser.UnresolvedArgument] = []
        inits: list[SSAValue] = []

        def entry() -> None:
            names.append(parser.parse_argument(expect_type=False))
            parser.parse_punctuation("=")
            inits.append(parse_value_use(parser))

        parser.parse_comma_separated_list(parser.Delimiter.PAREN, entry)
        parser.parse_keyword("at")
        path = parse_text(parser)
        attributes: dict[str, Attribute] = {}
        if parser.parse_optional_keyword("attributes") is not None:
            attributes = parser.parse_optional_dictionary_attr_dict()
        types: list[Attribute] = []
        if parser.parse_optional_punctuation(":") is not None:
            types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
        arguments = [n.resolve(v.type) for n, v in zip(names, inits, strict=True)]
        body = parser.parse_region(arguments)
        op = cls.build_with(count, inits, body, path, first, total, symbol, shares)
        op.attributes.update(attributes)
        if list(op.result_types) != types:
            parser.raise_error("the result types of layer.repeat must be those of its initial values")
        return op
