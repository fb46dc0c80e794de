"""Symbolic integers: canonical form, meaning, substitution and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from pmc.dialects.expr import (
    Expr,
    ExprAttr,
    ExprError,
    UnboundSymbolError,
    ceildiv,
    expr,
    floordiv,
    max_of,
    min_of,
    mod,
    parse_expr,
    product,
)

X, Y, Z = expr("x"), expr("y"), expr("z")


def parse(text: str) -> Expr:
    parser = Parser(Context(), text)
    value = parse_expr(parser)
    assert parser.pos == len(text), f"{text[parser.pos :]} is left"
    return value


# -- canonical form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (expr(0), "0"),
        (expr(-7), "-7"),
        (X - X, "0"),
        (1 + X * Y, "x*y + 1"),
        (Y * X, "x*y"),
        (X + X + 3 * X, "x*5"),
        (-X, "-x"),
        (5 - X, "-x + 5"),
        ((X + 1) * (X - 1), "x*x - 1"),
        (2 * X - 3 * Y * Z, "-y*z*3 + x*2"),
        (ceildiv(X, 1), "x"),
        (ceildiv(7, 2), "4"),
        (floordiv(7, 2), "3"),
        (mod(7, 2), "1"),
        (ceildiv(8 * X + Y, 8), "ceildiv(y, 8) + x"),
        (floordiv(X + 8 * Y + 16, 8), "floordiv(x, 8) + y + 2"),
        (mod(X + 8 * Y, 8), "mod(x, 8)"),
        (mod(8 * Y, 8), "0"),
        (ceildiv(X, X), "1"),
        (mod(X, X), "0"),
        (ceildiv(ceildiv(X, 4), 2), "ceildiv(x, 8)"),
        (floordiv(floordiv(X, 4), 2), "floordiv(x, 8)"),
        (ceildiv(floordiv(X, 4), 2), "ceildiv(floordiv(x, 4), 2)"),
        (min_of(X, 5, 3), "min(x, 3)"),
        (max_of(X, 5, 3), "max(x, 5)"),
        (min_of(X), "x"),
        (min_of(X, X), "x"),
        (min_of(min_of(X, 7), Y, 9), "min(x, y, 7)"),
        (min_of(max_of(X, 7), Y), "min(max(x, 7), y)"),
        (min_of(3, 4), "3"),
        (product([]), "1"),
        (product([2, X, Y, 3]), "x*y*6"),
    ],
)
def test_canonical_text(value: Expr, text: str) -> None:
    assert str(value) == text


def test_equal_polynomials_are_equal_and_hash_alike() -> None:
    a, b = (X + Y) * (X + Y), X * X + 2 * X * Y + Y * Y
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1
    assert X != Y and X != "x" and expr(3) == 3 and expr(3) != 4 and X - X == 0


def test_queries() -> None:
    value = X * ceildiv(Y, Z) + 1
    assert value.symbols == {"x", "y", "z"}
    assert not value.is_constant and expr(4).is_constant and expr(0).constant == 0
    with pytest.raises(UnboundSymbolError, match=r"'ceildiv\(y, z\)\*x \+ 1' is not a constant: bind x, y, z"):
        _ = value.constant
    with pytest.raises(UnboundSymbolError, match=r"symbol 'z' of 'z' has no value"):
        value.evaluate({"x": 1, "y": 2})


@pytest.mark.parametrize("function", [ceildiv, floordiv, mod])
@pytest.mark.parametrize("divisor", [0, -2])
def test_a_divisor_must_be_positive(function: Callable[..., Expr], divisor: int) -> None:
    with pytest.raises(ExprError, match="the divisor must be positive"):
        function(X, divisor)


# -- meaning ----------------------------------------------------------------------------------------------------

Tree = Any
"""An int, a symbol, or (operator, left, right)."""

FUNCTIONS: dict[str, Callable[[Any, Any], Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "ceildiv": ceildiv,
    "floordiv": floordiv,
    "mod": mod,
    "min": min_of,
    "max": max_of,
}
MEANING: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "ceildiv": lambda a, b: -np.floor_divide(-a, b),
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}

LEAVES = st.one_of(st.integers(-20, 20), st.sampled_from(["x", "y", "z", "k.seq"]))
DIVISORS = st.one_of(st.integers(1, 12), st.sampled_from(["x", "y"]))


def _grow(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), children, children),
        st.tuples(st.sampled_from(["ceildiv", "floordiv", "mod"]), children, DIVISORS),
    )


TREES = st.recursive(LEAVES, _grow, max_leaves=8)
VALUES = st.fixed_dictionaries({name: st.integers(1, 50) for name in ("x", "y", "z", "k.seq")})


def build(tree: Tree) -> Expr:
    return FUNCTIONS[tree[0]](build(tree[1]), build(tree[2])) if isinstance(tree, tuple) else expr(tree)


def meaning(tree: Tree, values: dict[str, Any]) -> Any:
    """The tree computed by numpy, without any simplification."""
    if isinstance(tree, tuple):
        return MEANING[tree[0]](meaning(tree[1], values), meaning(tree[2], values))
    return values[tree] if isinstance(tree, str) else tree


@settings(deadline=None)
@given(TREES, VALUES)
def test_simplification_keeps_the_value(tree: Tree, values: dict[str, int]) -> None:
    assert build(tree).evaluate(values) == meaning(tree, values)


@settings(deadline=None)
@given(TREES, st.lists(VALUES, min_size=1, max_size=4))
def test_arrays_evaluate_element_by_element(tree: Tree, points: list[dict[str, int]]) -> None:
    arrays = {name: np.array([p[name] for p in points]) for name in points[0]}
    found = np.broadcast_to(build(tree).evaluate(arrays), (len(points),))
    assert found.tolist() == [build(tree).evaluate(p) for p in points]


def test_axes_of_a_sweep_broadcast() -> None:
    value = min_of(X, 3) * ceildiv(Y, 2)
    grid = value.evaluate({"x": np.arange(5)[:, None], "y": np.arange(4)})
    assert grid.tolist() == [[min(x, 3) * -(-y // 2) for y in range(4)] for x in range(5)]


@settings(deadline=None)
@given(TREES, TREES, VALUES)
def test_substitution_is_evaluation_in_two_steps(tree: Tree, replacement: Tree, values: dict[str, int]) -> None:
    inner = max_of(build(replacement), 1)  # symbols are sizes, and divisors
    value = build(tree)
    assert value.substitute({"x": inner}).evaluate(values) == value.evaluate({**values, "x": inner.evaluate(values)})


@settings(deadline=None)
@given(TREES, VALUES)
def test_substituting_all_symbols_gives_the_constant(tree: Tree, values: dict[str, int]) -> None:
    assert build(tree).substitute(values).constant == build(tree).evaluate(values)


def test_substitution_leaves_other_symbols_and_is_the_identity_without_its_symbols() -> None:
    value = ceildiv(X * Y, 4)
    assert str(value.substitute({"x": 8})) == "y*2"
    assert value.substitute({"z": 3}) is value
    assert str((X * Y).substitute({"x": Y, "y": X + 1})) == "x*y + y"  # at once, not one after the other


@settings(deadline=None)
@given(TREES, TREES, TREES)
def test_ring_laws_hold_as_identities(a: Tree, b: Tree, c: Tree) -> None:
    x, y, z = build(a), build(b), build(c)
    assert x + y == y + x and x * y == y * x
    assert (x + y) + z == x + (y + z) and (x * y) * z == x * (y * z)
    assert x * (y + z) == x * y + x * z
    assert x - x == 0 and x + 0 == x and x * 1 == x and x * 0 == 0


@settings(deadline=None)
@given(TREES, TREES)
def test_min_and_max_do_not_depend_on_order(a: Tree, b: Tree) -> None:
    x, y = build(a), build(b)
    for extremum in (min_of, max_of):
        assert extremum(x, y) == extremum(y, x)
        assert extremum(extremum(x, y), x) == extremum(x, y)


# -- text -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(TREES)
def test_text_round_trip(tree: Tree) -> None:
    value = build(tree)
    assert parse(str(value)) == value
    assert str(parse(str(value))) == str(value)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1 + q_len*batch", "batch*q_len + 1"),
        ("2*(x - 3)*2", "x*4 - 12"),
        ("-(x)", "-x"),
        ("-x*2+3", "-x*2 + 3"),
        ("min(3,x,2)", "min(x, 2)"),
        ("min", "min"),  # a symbol of that name
        ("k.seq - 1", "k.seq - 1"),
    ],
)
def test_reading(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an integer, a symbol or a function of an expression"),
        ("x + ", "expected an integer, a symbol or a function of an expression"),
        ("ceildiv(x)", "ceildiv takes two arguments, found 1"),
        ("mod(x, y, z)", "mod takes two arguments, found 3"),
        ("floordiv(x, 0)", "the divisor must be positive"),
        ("(x", "expected"),
        ("min(x", "expected"),
        (f"min(x, {2**53 + 1})", "the numbers of an expression are at most 2**53, found 9007199254740993"),
        (f"1 - x*{2**30}*y*{2**24}", "the numbers of an expression are at most 2**53, found 18014398509481984"),
    ],
)
def test_malformed_text_is_an_error_with_a_position(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        parse(text)
    assert message in error.value.msg.lower()


def test_values_beyond_64_bits_are_an_error() -> None:
    square = expr("x") * expr("y")
    assert square.evaluate_int64({"x": 2**40, "y": 2**22}) == 2**62
    with pytest.raises(ExprError, match=r"the value of 'x\*y' needs more than 64 bits"):
        square.evaluate_int64({"x": 2**40, "y": 2**23})


def test_attribute() -> None:
    attribute = ExprAttr(ceildiv(X, 32) * Y + 1)
    assert str(attribute) == "#layer.expr<ceildiv(x, 32)*y + 1>"
    assert ExprAttr.of(4) == ExprAttr(expr(4)) and ExprAttr.of("x") == ExprAttr(X)
