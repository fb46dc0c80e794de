"""The assembly that all pmc ops share: properties in short form, and errors with their position."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FileLineColLoc,
    Float32Type,
    FloatAttr,
    IntAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    UnitAttr,
    bf16,
    f64,
    i1,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Dialect, Region
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.traits import NoTerminator
from xdsl.utils.exceptions import ParseError, VerifyException

from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text
from pmc.dialects.assembly import PmcOp, attribute, float_text
from pmc.dialects.expr import Expr, ExprAttr, expr
from pmc.dialects.tensor import TensorType

TYPE = TensorType.of((4,), bf16)


@irdl_op_definition
class HolderOp(PmcOp):
    name = "toy.holder"
    value = opt_prop_def(Attribute)
    y = result_def(TensorType)


@irdl_op_definition
class GroupsOp(PmcOp):
    name = "toy.groups"
    a = var_operand_def(TensorType)
    b = operand_def(TensorType)
    c = opt_operand_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)


@irdl_op_definition
class OuterOp(PmcOp):
    name = "toy.outer"
    count = prop_def(IntegerAttr)
    body = region_def("single_block")
    traits = traits_def(NoTerminator())


TOY = Dialect("toy", [HolderOp, GroupsOp, OuterOp], [])


def parse(text: str) -> ModuleOp:
    context = make_context()
    context.load_dialect(TOY)
    return Parser(context, text, "input.mlir").parse_module()


def holder(value: Any, path: str = "p") -> HolderOp:
    return HolderOp.make([], [TYPE], path, {"value": value})


def first_line(module: ModuleOp) -> str:
    return module_text(module).splitlines()[1].strip()


def survives(module: ModuleOp, forms: Sequence[bool] = (False, True)) -> bool:
    module.verify()
    return all(parse(module_text(module, generic)).is_structurally_equivalent(module) for generic in forms)


# -- properties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-3, "-3"),
        (True, "true"),
        (False, "false"),
        (0.5, "0.5"),
        (1e-6, "1.0e-06"),
        (1e300, "1.0e+300"),
        ("text", '"text"'),
        (expr("q_len") + 1, "<q_len + 1>"),
        (ArrayAttr([IntegerAttr(1, i64), ExprAttr.of("x")]), "[1, <x>]"),
        (ArrayAttr([ArrayAttr([StringAttr("a")]), ArrayAttr([])]), '[["a"], []]'),
        (IntegerAttr(7, i32), "7 : i32"),
        (FloatAttr(0.5, Float32Type()), "5.000000e-01 : f32"),
        (DictionaryAttr({"a": IntegerAttr(1, i64)}), "{a = 1 : i64}"),
        (bf16, "bf16"),
        (TYPE, "!layer.tensor<[4], bf16>"),
        (UnitAttr(), "unit"),
    ],
)
def test_short_form_of_a_property(value: Any, text: str) -> None:
    module = ModuleOp([holder(value)])
    assert first_line(module) == f'%0 = toy.holder() {{value = {text}}} at "p" : !layer.tensor<[4], bf16>'
    assert survives(module)


SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="ascii")),
    st.integers(-(2**31), 2**31 - 1).map(lambda i: IntegerAttr(i, i32)),
    st.integers(0, 9).map(lambda i: expr("x") * i + 1),
).map(attribute)
PROPERTIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(ArrayAttr), max_leaves=4)


@settings(deadline=None)
@given(PROPERTIES, st.text(st.characters(codec="ascii")))
def test_properties_and_paths_survive(value: Attribute, path: str) -> None:
    assert survives(ModuleOp([holder(value, path)]))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_in_the_custom_form(text: str) -> None:
    # xDSL 0.74 reads the generic form of a non-ASCII string as bytes.
    assert survives(ModuleOp([holder(text, text)]), forms=[False])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_text_is_exact_and_a_float(value: float) -> None:
    text = float_text(value)
    assert float(text) == value and math.copysign(1, float(text)) == math.copysign(1, value)
    assert "." in text.partition("e")[0]


def test_infinities_survive() -> None:
    for value in (math.inf, -math.inf):
        for kind in (f64, Float32Type()):
            assert survives(ModuleOp([holder(FloatAttr(value, kind))]))


def test_python_values_as_attributes() -> None:
    assert attribute(True) == IntegerAttr(-1, i1)  # one bit, as xDSL spells it
    assert attribute(1) == IntegerAttr(1, i64)
    assert attribute(1.0) == FloatAttr(1.0, 64)
    assert attribute(expr("x")) == ExprAttr.of("x")
    assert attribute(IntAttr(3)) == IntAttr(3)
    with pytest.raises(ValueError, match="None is not an attribute"):
        attribute(None)


# -- ops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("optional", [False, True])
def test_groups_of_operands_stand_in_brackets(count: int, optional: bool) -> None:
    source = holder(None)
    groups = GroupsOp.make([[source.y] * count, source.y, [source.y] * optional], [], "g")
    module = ModuleOp([source, groups])
    names = ", ".join(["%0"] * count)
    line = f'toy.groups([{names}], %0, [{"%0" * optional}]) at "g"'
    assert module_text(module).splitlines()[2].strip() == line
    assert survives(module)
    assert (len(groups.a), groups.c is not None) == (count, optional)


def test_regions_block_arguments_and_attributes() -> None:
    inner = holder(1, "inner")
    block = Block([inner], arg_types=[TYPE])
    outer = OuterOp.make([], [], "outer", {"count": 2}, [Region(block)])
    outer.attributes["toy.note"] = StringAttr("kept")
    assert survives(ModuleOp([outer]))


def test_a_none_property_is_left_out_and_the_location_is_that_of_the_original() -> None:
    original = holder(None)
    original.location = FileLineColLoc(StringAttr("config.json"), IntAttr(7), IntAttr(1))
    assert "value" not in original.properties
    copy = HolderOp.make([], [TYPE], "q", like=original)
    assert copy.location == original.location and copy.path.data == "q"


def test_a_missing_path_is_refused() -> None:
    op = HolderOp.create(result_types=[TYPE])
    with pytest.raises(VerifyException, match="path"):
        ModuleOp([op]).verify()


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('toy.groups([], %x, []) at "g"', 1, 16, "value %x is used before its definition"),
        ('toy.outer() {count = 1, count = 2} at "o" {}', 1, 25, "property 'count' is given twice"),
        ('toy.outer() {count = } at "o" {}', 1, 22, "attribute"),
        ('toy.outer() {count = <x + >} at "o" {}', 1, 27, "expected an integer, a symbol or a function"),
        ('toy.outer() {count = 1.5 : i32} at "o" {}', 1, 28, "1.5 is no value of the type i32"),
        ('toy.holder() {value = "\\ff"} at "o" : bf16', 1, 23, "the text is not utf-8"),
        ("toy.outer() {count = 1} at p {}", 1, 28, "string literal expected"),
        ("toy.outer() {count = 1} {}", 1, 25, "expected 'at'"),
    ],
)
def test_malformed_ops_name_the_place(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ParseError) as error:
        parse(text)
    assert message.lower() in error.value.msg.lower()
    assert str(error.value.span.get_location()) == f"input.mlir:{line}:{column}"


def test_the_second_result_of_an_op_with_one_is_not_defined() -> None:
    text = 'builtin.module {\n%0 = toy.holder() at "p" : !layer.tensor<[4], bf16>\ntoy.groups([], %0#1, []) at "g"\n}'
    with pytest.raises(ParseError, match="value %0 is used before its definition"):
        parse(text)


def test_expressions_are_python_values_too() -> None:
    op = holder(Expr({("x",): 2}))
    assert op.value == ExprAttr(2 * expr("x"))
