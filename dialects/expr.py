"""Integer expressions of named symbols: the dims of tensors, the bounds and addresses of loops.

An expression is a polynomial with integer coefficients over *atoms*; an atom is a symbol (`batch`, `kv_len`, a
loop variable, `core`) or one of the non-linear functions `ceildiv`, `floordiv`, `mod`, `min`, `max`.  Expressions
are immutable, hashable and kept in a canonical form, so that equal polynomials compare equal and print the same.
One text form serves every dialect: `ceildiv(batch, 32)*q_len + 1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, reduce
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.errors import PmcError, excerpt

DIVISIONS = ("ceildiv", "floordiv", "mod")
FUNCTIONS = (*DIVISIONS, "min", "max")

Value = Any
"""What `Expr.evaluate` computes with: an int or an integer numpy array."""


class ExprError(PmcError):
    """An expression has no value."""


class UnboundSymbolError(ExprError):
    """An expression was evaluated without a value for one of its symbols."""


class Call:
    """A non-linear atom: one of `FUNCTIONS` applied to expressions."""

    __slots__ = ("args", "function", "text")

    def __init__(self, function: str, args: tuple[Expr, ...]) -> None:
        self.function = function
        self.args = args
        self.text = f"{function}({', '.join(str(a) for a in args)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


Atom = str | Call
Monomial = tuple[Atom, ...]
ExprLike = "Expr | int | str"


def expr(value: Expr | int | str) -> Expr:
    """`value` as an expression: an int is a constant, a str is one symbol."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Expr({(value,): 1})
    return Expr({(): int(value)})


class Expr:
    """A canonical polynomial over atoms; build it with operators, `ceildiv`, `floordiv`, `mod`, `min_of`, `max_of`."""

    __slots__ = ("__dict__", "terms")
    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = [(monomial, coefficient) for monomial, coefficient in terms.items() if coefficient]
        if len(kept) < 2:
            self.terms = tuple(kept)
            return
        # Degree first, then text: `batch*q_len + 1`, never `1 + batch*q_len`.
        self.terms = tuple(sorted(kept, key=lambda t: (-len(t[0]), [str(a) for a in t[0]])))

    @cached_property
    def text(self) -> str:
        """The canonical text, which is also the identity of the expression."""
        if not self.terms:
            return "0"
        out = ""
        for monomial, coefficient in self.terms:
            factors = [str(a) for a in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.append(str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+"
            body = "*".join(factors)
            out += f" {sign} {body}" if out else (f"-{body}" if coefficient < 0 else body)
        return out

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"expr<{self.text}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.terms == expr(other).terms
        return isinstance(other, Expr) and self.terms == other.terms

    @cached_property
    def _hash(self) -> int:
        return hash(self.text)

    def __hash__(self) -> int:
        return self._hash

    # -- arithmetic ---------------------------------------------------------------------------------------------

    def __add__(self, other: Expr | int) -> Expr:
        terms = dict(self.terms)
        for monomial, coefficient in expr(other).terms:
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Expr(terms)

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return Expr({monomial: -coefficient for monomial, coefficient in self.terms})

    def __sub__(self, other: Expr | int) -> Expr:
        return self + -expr(other)

    def __rsub__(self, other: int) -> Expr:
        return expr(other) - self

    def __mul__(self, other: Expr | int) -> Expr:
        factor = expr(other)
        if factor.is_constant:
            return self._scaled(factor.constant)
        if self.is_constant:
            return factor._scaled(self.constant)
        terms: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in factor.terms:
                monomial = tuple(sorted(m1 + m2, key=str))
                terms[monomial] = terms.get(monomial, 0) + c1 * c2
        return Expr(terms)

    __rmul__ = __mul__

    def _scaled(self, factor: int) -> Expr:
        """The product with a constant, whose monomials are those of the expression, in their order."""
        if factor == 1:
            return self
        scaled = Expr({})
        if factor:
            scaled.terms = tuple((monomial, factor * coefficient) for monomial, coefficient in self.terms)
        return scaled

    # -- queries ------------------------------------------------------------------------------------------------

    @cached_property
    def is_constant(self) -> bool:
        """Whether the expression has no symbol."""
        return all(not monomial for monomial, _ in self.terms)

    @property
    def constant(self) -> int:
        """The value of a constant expression; raises `UnboundSymbolError` otherwise."""
        if not self.is_constant:
            raise UnboundSymbolError(f"'{self}' is not a constant: bind {', '.join(sorted(self.symbols))}")
        return self.terms[0][1] if self.terms else 0

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names of all symbols in the expression."""
        names: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    names.add(atom)
                else:
                    names.update(*(a.symbols for a in atom.args))
        return frozenset(names)

    def evaluate(self, bindings: Mapping[str, Value]) -> Value:
        """The value under `bindings` (symbol -> int or integer array; arrays broadcast against each other)."""
        return self._value(bindings, _apply)

    def integer(self, bindings: Mapping[str, int]) -> int:
        """The value under bindings that are integers, for whoever asks often: equal texts share compiled code."""
        if self.is_constant:
            return self.constant
        try:
            return self._compiled(bindings)
        except (KeyError, ZeroDivisionError):
            return int(self.evaluate(bindings))  # which says what is wrong

    @cached_property
    def _compiled(self) -> Callable[[Mapping[str, int]], int]:
        found = _COMPILED.get(self.text)
        if found is None:
            found = _COMPILED[self.text] = eval(f"lambda _: {_code(self)}")
        return found

    def evaluate_int64(self, bindings: Mapping[str, Value]) -> npt.NDArray[np.int64]:
        """The value as 64-bit integers; raises `ExprError` where a number on the way needs more."""
        try:
            return np.asarray(self.evaluate(bindings), np.int64)
        except OverflowError:
            raise ExprError(f"the value of '{excerpt(str(self))}' needs more than 64 bits") from None

    def without_rounding(self, bindings: Mapping[str, Value]) -> Value:
        """The value with every `ceildiv` as an exact quotient: what a rank has on average, without any padding."""
        return self._value(bindings, _apply_exactly)

    def _value(self, bindings: Mapping[str, Value], apply: Callable[[str, Sequence[Value]], Value]) -> Value:
        total: Value = 0
        for monomial, coefficient in self.terms:
            product: Value = coefficient
            for atom in monomial:
                if isinstance(atom, str):
                    if atom not in bindings:
                        raise UnboundSymbolError(f"symbol '{atom}' of '{self}' has no value")
                    product = product * bindings[atom]
                else:
                    product = product * apply(atom.function, [a._value(bindings, apply) for a in atom.args])
            total = total + product
        return total

    def substitute(self, bindings: Mapping[str, Expr | int]) -> Expr:
        """The expression with symbols replaced; symbols without an entry stay."""
        if not self.symbols & bindings.keys():
            return self
        total = expr(0)
        for monomial, coefficient in self.terms:
            product = expr(coefficient)
            for atom in monomial:
                if isinstance(atom, str):
                    product = product * (expr(bindings[atom]) if atom in bindings else expr(atom))
                else:
                    product = product * call(atom.function, [a.substitute(bindings) for a in atom.args])
            total = total + product
        return total


_COMPILED: dict[str, Callable[[Mapping[str, int]], int]] = {}
"""The functions of `Expr.integer`, by text."""


def _code(expression: Expr) -> str:
    """Python for the value, where `_` maps symbols to integers."""
    products = ("*".join([str(coefficient), *map(_code_of_atom, atoms)]) for atoms, coefficient in expression.terms)
    return f"({' + '.join(products) or '0'})"


def _code_of_atom(atom: Atom) -> str:
    if isinstance(atom, str):
        return f"_[{atom!r}]"
    args = [_code(argument) for argument in atom.args]
    match atom.function:
        case "ceildiv":
            return f"-(-{args[0]} // {args[1]})"
        case "floordiv":
            return f"({args[0]} // {args[1]})"
        case "mod":
            return f"({args[0]} % {args[1]})"
        case extremum:
            return f"{extremum}({', '.join(args)})"


def _apply(function: str, args: Sequence[Value]) -> Value:
    if function in DIVISIONS and (args[1] == 0 if isinstance(args[1], int) else np.any(np.equal(args[1], 0))):
        raise ExprError(f"{function}({args[0]}, 0): the divisor must be positive")
    if function == "ceildiv":
        return -(-args[0] // args[1])
    if function == "floordiv":
        return args[0] // args[1]
    if function == "mod":
        return args[0] % args[1]
    if all(isinstance(a, int) for a in args):
        return min(args) if function == "min" else max(args)
    return reduce(np.minimum if function == "min" else np.maximum, args)


def _apply_exactly(function: str, args: Sequence[Value]) -> Value:
    if function != "ceildiv":
        return _apply(function, args)
    rounded_up = _apply(function, args)
    exact = args[0] / args[1]
    # A quotient of integers stays one: counts that need no rounding are exact beyond 2**53.
    return rounded_up if np.all(rounded_up == exact) else exact


def ceildiv(a: Expr | int, b: Expr | int) -> Expr:
    """`a / b` rounded up (both positive)."""
    return call("ceildiv", [expr(a), expr(b)])


def floordiv(a: Expr | int, b: Expr | int) -> Expr:
    """`a / b` rounded down."""
    return call("floordiv", [expr(a), expr(b)])


def mod(a: Expr | int, b: Expr | int) -> Expr:
    """The remainder of `a / b`, as in Python."""
    return call("mod", [expr(a), expr(b)])


def min_of(*args: Expr | int) -> Expr:
    """The smallest argument."""
    return call("min", [expr(a) for a in args])


def max_of(*args: Expr | int) -> Expr:
    """The largest argument."""
    return call("max", [expr(a) for a in args])


def product(factors: Iterable[Expr | int]) -> Expr:
    """The product of all factors (1 for none)."""
    return reduce(lambda a, b: a * b, factors, expr(1))


def call(function: str, args: Sequence[Expr]) -> Expr:
    """`function(args)`, simplified; the only constructor of non-linear atoms."""
    if function in ("min", "max"):
        return _extremum(function, args)
    a, b = args
    if b.is_constant:
        divisor = b.constant
        if divisor <= 0:
            raise ExprError(f"{function}({a}, {b}): the divisor must be positive")
        # Terms that the divisor divides leave the function: floordiv(x + 8*y, 8) = floordiv(x, 8) + y.
        whole = Expr({m: c // divisor for m, c in a.terms if c % divisor == 0})
        rest = Expr({m: c for m, c in a.terms if c % divisor})
        if function == "mod":
            whole = expr(0)
        if rest.is_constant:
            return whole + int(_apply(function, [rest.constant, divisor]))
        nested = _nested_division(function, rest, divisor)
        return whole + (nested if nested is not None else Expr({(Call(function, (rest, b)),): 1}))
    if a == b:
        return expr(0 if function == "mod" else 1)
    return Expr({(Call(function, (a, b)),): 1})


def _nested_division(function: str, a: Expr, divisor: int) -> Expr | None:
    """ceildiv(ceildiv(x, a), b) = ceildiv(x, a*b), and the same for floordiv."""
    if function == "mod" or len(a.terms) != 1 or a.terms[0][1] != 1 or len(a.terms[0][0]) != 1:
        return None
    atom = a.terms[0][0][0]
    if isinstance(atom, Call) and atom.function == function and atom.args[1].is_constant:
        return call(function, [atom.args[0], atom.args[1] * divisor])
    return None


def _extremum(function: str, args: Sequence[Expr]) -> Expr:
    flat: dict[Expr, None] = {}
    constants: list[int] = []
    for argument in args:
        atom = argument.terms[0][0][0] if len(argument.terms) == 1 and argument.terms[0][0] else None
        same = isinstance(atom, Call) and atom.function == function and len(argument.terms[0][0]) == 1
        for part in atom.args if same and argument.terms[0][1] == 1 and isinstance(atom, Call) else (argument,):
            if part.is_constant:
                constants.append(part.constant)
            else:
                flat[part] = None
    if constants:
        flat[expr(min(constants) if function == "min" else max(constants))] = None
    parts = sorted(flat, key=lambda e: (e.is_constant, str(e)))
    return parts[0] if len(parts) == 1 else Expr({(Call(function, tuple(parts)),): 1})


# -- symbols of the mesh ----------------------------------------------------------------------------------------


def rank_symbol(axis: str) -> str:
    """The symbol that is the coordinate of the rank along a mesh axis."""
    return f"{axis}.rank"


def is_rank_symbol(symbol: str) -> bool:
    """Whether a symbol is the coordinate of the rank along some mesh axis."""
    return symbol.endswith(".rank")


# -- text -------------------------------------------------------------------------------------------------------


LARGEST_NUMBER = 2**53
"""What a number in the text of an expression may be: products with loop variables stay inside 64-bit integers."""


def parse_expr(parser: AttrParser) -> Expr:
    """Parse `term (("+" | "-") term)*` from the parser's position; no number is above `LARGEST_NUMBER`."""
    start = parser.pos
    value = _parse_sum(parser)
    largest = max((abs(coefficient) for _, coefficient in value.terms), default=0)
    if largest > LARGEST_NUMBER:
        parser.raise_error(f"the numbers of an expression are at most 2**53, found {largest}", start)
    return value


def _parse_sum(parser: AttrParser) -> Expr:
    negative = parser.parse_optional_punctuation("-") is not None
    value = -_parse_term(parser) if negative else _parse_term(parser)
    while True:
        if parser.parse_optional_punctuation("+") is not None:
            value = value + _parse_term(parser)
        elif parser.parse_optional_punctuation("-") is not None:
            value = value - _parse_term(parser)
        else:
            return value


def _parse_term(parser: AttrParser) -> Expr:
    value = _parse_factor(parser)
    while parser.parse_optional_punctuation("*") is not None:
        value = value * _parse_factor(parser)
    return value


def _parse_factor(parser: AttrParser) -> Expr:
    number = parser.parse_optional_integer(allow_boolean=False, allow_negative=False)
    if number is not None:
        return expr(number)
    if parser.parse_optional_punctuation("(") is not None:
        value = parse_expr(parser)
        parser.parse_punctuation(")")
        return value
    position = parser.pos
    name = parser.parse_optional_identifier()
    if name is None:
        parser.raise_error("expected an integer, a symbol or a function of an expression")
    if name in FUNCTIONS and parser.parse_optional_punctuation("(") is not None:
        args = [parse_expr(parser)]
        while parser.parse_optional_punctuation(",") is not None:
            args.append(parse_expr(parser))
        parser.parse_punctuation(")")
        if function_arity_wrong(name, len(args)):
            parser.raise_error(f"{name} takes two arguments, found {len(args)}", position)
        try:
            return call(name, args)
        except ExprError as error:
            parser.raise_error(str(error), position)
    return expr(name)


def function_arity_wrong(function: str, count: int) -> bool:
    """Whether `count` arguments are wrong for `function`: divisions take two, min and max any number."""
    return count != 2 if function in DIVISIONS else count < 1


@irdl_attr_definition
class ExprAttr(Data[Expr]):
    """An expression as an attribute: `#layer.expr<batch*q_len>`."""

    name: ClassVar[str] = "layer.expr"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Expr:
        """Parse `<expr>`."""
        with parser.in_angle_brackets():
            return parse_expr(parser)

    def print_parameter(self, printer: Printer) -> None:
        """Print `<expr>`."""
        with printer.in_angle_brackets():
            printer.print_string(str(self.data))

    @classmethod
    def of(cls, value: Expr | int | str) -> ExprAttr:
        """The attribute of an expression, a constant or a symbol name."""
        return cls(expr(value))
