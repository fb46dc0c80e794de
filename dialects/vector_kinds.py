"""The vector kinds: what a command of the vector unit or the sort unit does, an attribute class each.

    tile.vector([%s], [%p], [%m, %l, %o]) {kind = #tile.softmax_step<scale = 0.1, causal = true, position = row,
                                           key = s*64>, rows = <16>, columns = <64>} at ".."

A class says which matrices the command has and how much of each it uses, its typed parameters, its arithmetic, the
elementary steps of the vector unit that it takes, and the engine.  Everything else reads that: verifiers, accesses,
work, emission and unrolling.  What a kind computes is in its docstring; in numpy, in
`backends/numeric/vector_kinds.py`.

In the docstrings r is a row and c a column of the command's `rows` x `columns`; arithmetic is FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, get_type_hints

from xdsl.dialects.builtin import (
    BoolAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    NoneAttr,
    StringAttr,
    i1,
)
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import MessageConstraint, base, irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.hints import isa

from pmc.dialects.accesses import ALWAYS, NEVER
from pmc.dialects.assembly import parse_value, print_value
from pmc.dialects.expr import Expr, ExprAttr, expr, is_rank_symbol, parse_expr
from pmc.dialects.vector_steps import VectorSteps

ROW = "row"
"""The symbol of the row number in the parameters that differ from row to row."""

Role = Literal["in", "out", "update"]
"""Whether a command reads a matrix, writes it, or both."""

ROLES: tuple[Role, ...] = ("in", "out", "update")

Extent = int | str | tuple[str, str]
"""A number of rows or columns: a constant, `rows` or `columns` of the command, `width` (all columns of the matrix's
own rows), an integer parameter of the kind, or the product of two of these."""


@dataclass(frozen=True)
class Matrix:
    """One operand of a kind and the part of it that the command uses, from its first element."""

    name: str
    role: Role
    rows: Extent = "rows"
    columns: Extent = "columns"

    @property
    def writes(self) -> bool:
        """Whether it writes it."""
        return self.role != "in"


SIGMOID = VectorSteps(basic=1, exp=1, div=1)
"""exp, add, div."""


TANH = VectorSteps(basic=2, exp=1, div=1)
"""1 - 2 / (1 + exp(2 x)), the factor in the exponent left to what is multiplied before: exp, add, div, subtract."""


class VectorKindAttr(ParametrizedAttribute):
    """The base of all kinds: `#tile.name<parameter = value, ..>`, without brackets where there are no parameters.

    The parameters are the fields of the class.  Those that are expressions may use the symbols in scope, the
    coordinates of the rank on the mesh (`cp.rank`) and, where the class says so, the row number `row`.
    """

    MATRICES: ClassVar[tuple[Matrix, ...]]
    """Inputs, outputs, updates, in this order."""
    ENGINE: ClassVar[Literal["vec", "hau"]] = "vec"
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """The parameters that may use the symbol `row`."""
    FLOPS: ClassVar[int] = 0
    PADS_ROWS: ClassVar[bool] = False
    """Whether rows count in whole blocks of the cube, as they come out of the matrix unit."""
    RATE: ClassVar[str | None] = None
    """The element type that sets the rate of the vector unit, where it is not that of the first matrix."""
    ELEMENT_STEPS: ClassVar[VectorSteps]
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps()

    @property
    def flops_per_element(self) -> int:
        """Arithmetic per element of the command, in the counting of the tensor ops."""
        return self.FLOPS

    @property
    def steps_per_element(self) -> VectorSteps:
        """What the vector unit does for every element of `rows` x `columns`."""
        return self.ELEMENT_STEPS

    @property
    def steps_per_row(self) -> VectorSteps:
        """What it does once for every row besides."""
        return self.ROW_STEPS

    @classmethod
    def operands(cls, role: Role) -> tuple[Matrix, ...]:
        """The matrices of one role."""
        return tuple(m for m in cls.MATRICES if m.role == role)

    def reads(self, matrix: Matrix) -> Expr:
        """When the command reads a matrix: inputs and updates always, unless the kind says otherwise."""
        return NEVER if matrix.role == "out" else ALWAYS

    def extents(self, rows: Expr, columns: Expr, widths: Sequence[int]) -> list[tuple[Expr, Expr]]:
        """Rows and columns that a command of `rows` x `columns` uses of each matrix; `widths` are those of the rows."""
        named: dict[str, Expr] = {"rows": rows, "columns": columns}
        for name in _parameters(type(self)):
            value = getattr(self, name)
            if isinstance(value, IntegerAttr):
                named[name] = expr(value.value.data)
        return [
            (_extent(matrix.rows, named, width), _extent(matrix.columns, named, width))
            for matrix, width in zip(self.MATRICES, widths, strict=True)
        ]

    def expressions(self) -> dict[str, Expr]:
        """The parameters that are expressions."""
        values = {name: getattr(self, name) for name in _parameters(type(self))}
        return {name: value.data for name, value in values.items() if isinstance(value, ExprAttr)}

    def wrong_parameter(self, columns: Expr) -> str | None:
        """What is wrong with the values of the parameters for a command of so many columns."""
        del columns
        return None

    def fault(self, counts: tuple[int, int, int], columns: Expr, scope: frozenset[str]) -> str | None:
        """What is wrong with a command of this kind: one clause, or None.

        `counts` are the command's inputs, outputs and updates, `scope` the symbols of the bodies around it.
        """
        needed = tuple(len(self.operands(role)) for role in ("in", "out", "update"))
        if counts != needed:
            names = ", ".join(m.name for m in self.MATRICES)
            return f"takes {needed} inputs, outputs and updates ({names}), found {counts}"
        for name, value in self.expressions().items():
            own = {ROW} if name in self.PER_ROW_PARAMETERS else set[str]()
            unknown = sorted(s for s in value.symbols - scope - own if not is_rank_symbol(s))
            if unknown:
                return f"parameter '{name}' uses '{unknown[0]}', which is not in scope"
        return self.wrong_parameter(columns)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<name = value, ..>`; expressions stand without brackets."""
        forms = _parameters(cls)
        found: dict[str, Attribute] = {}

        def entry() -> None:
            position = parser.pos
            name = parser.parse_identifier()
            if name not in forms:
                expected = f"it has {', '.join(forms)}" if forms else "it has none"
                parser.raise_error(f"#{cls.name} has no parameter '{name}', {expected}", position, parser.pos)
            if name in found:
                parser.raise_error(f"parameter '{name}' of #{cls.name} is given twice", position, parser.pos)
            parser.parse_punctuation("=")
            found[name] = forms[name].parse(parser, f"parameter '{name}' of #{cls.name}")

        parser.parse_optional_comma_separated_list(parser.Delimiter.ANGLE, entry)
        missing = [name for name, form in forms.items() if name not in found and not form.optional]
        if missing:
            parser.raise_error(f"#{cls.name} needs the parameter '{missing[0]}'")
        return [found.get(name, NoneAttr()) for name in forms]

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        values = {name: getattr(self, name) for name in _parameters(type(self))}
        given = {name: value for name, value in values.items() if not isinstance(value, NoneAttr)}
        if not given:
            return

        def entry(name: str) -> None:
            printer.print_string(f"{name} = ")
            value = given[name]
            if isinstance(value, ExprAttr):
                printer.print_string(str(value.data))
            else:
                print_value(printer, value)

        with printer.in_angle_brackets():
            printer.print_list(given, entry)


KIND = MessageConstraint(base(VectorKindAttr), "kind must be a vector kind such as #tile.add")
"""The constraint of the property that holds the kind of a command."""


def _extent(extent: Extent, named: Mapping[str, Expr], width: int) -> Expr:
    if isinstance(extent, int):
        return expr(extent)
    if isinstance(extent, tuple):
        return _extent(extent[0], named, width) * _extent(extent[1], named, width)
    return expr(width) if extent == "width" else named[extent]


# -- the text of parameters -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How a parameter of one type is written."""

    what: str
    accepts: Callable[[Attribute], bool]
    optional: bool = False

    def parse(self, parser: AttrParser, name: str) -> Attribute:
        position = parser.pos
        value = parse_value(parser)
        if not self.accepts(value):
            parser.raise_error(f"{name} must be {self.what}, found {value}", position, parser.pos)
        return value


class _ExprForm(_Form):
    def parse(self, parser: AttrParser, name: str) -> Attribute:
        del name
        return ExprAttr(parse_expr(parser))


def _is_integer(value: Attribute) -> bool:
    return isa(value, IntegerAttr[IntegerType]) and value.type != i1


def _is_bool(value: Attribute) -> bool:
    return isa(value, IntegerAttr[IntegerType]) and value.type == i1


_FORMS: tuple[tuple[Any, _Form], ...] = (
    (ExprAttr, _ExprForm("an expression", lambda v: isinstance(v, ExprAttr))),
    (BoolAttr, _Form("true or false", _is_bool)),
    (IntegerAttr, _Form("an integer", _is_integer)),
    (ExprAttr | NoneAttr, _ExprForm("an expression", lambda v: isinstance(v, ExprAttr), optional=True)),
    (FloatAttr, _Form("a float such as 1.0", lambda v: isinstance(v, FloatAttr))),
    (FloatAttr | NoneAttr, _Form("a float such as 1.0", lambda v: isinstance(v, FloatAttr), optional=True)),
    (StringAttr, _Form("a text", lambda v: isinstance(v, StringAttr))),
    (DictionaryAttr | NoneAttr, _Form("a dictionary", lambda v: isinstance(v, DictionaryAttr), optional=True)),
)


@cache
def _parameters(kind: type[VectorKindAttr]) -> dict[str, _Form]:
    """The parameters of a kind and how they are written, from the types of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: next(form for hint, form in _FORMS if hint == hints[name])
        for name, _ in kind.get_irdl_definition().parameters
    }


# -- the kinds --------------------------------------------------------------------------------------------------


@irdl_attr_definition
class FillAttr(VectorKindAttr):
    """out = value."""

    name: ClassVar[str] = "tile.fill"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("out", "out"),)
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    value: FloatAttr

    @classmethod
    def of(cls, value: float) -> FillAttr:
        """Fill with `value`."""
        return cls(FloatAttr(value, 64))


@irdl_attr_definition
class RepeatRowsAttr(VectorKindAttr):
    """out[r, c] = x[r mod period, c] in the element type of out."""

    name: ClassVar[str] = "tile.repeat_rows"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in", rows="period"), Matrix("out", "out"))
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    period: IntegerAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one row."""
        return None if self.period.value.data > 0 else f"period is {self.period.value.data}, must be at least 1"


@irdl_attr_definition
class ConvertAttr(VectorKindAttr):
    """out = x in the element type of out."""

    name: ClassVar[str] = "tile.convert"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class AddAttr(VectorKindAttr):
    """out = a + b."""

    name: ClassVar[str] = "tile.add"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("a", "in"), Matrix("b", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class SiluMulAttr(VectorKindAttr):
    """out = silu(gate) * up.

    Steps: sigmoid, times gate, times up, convert.
    """

    name: ClassVar[str] = "tile.silu_mul"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("gate", "in"), Matrix("up", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 5
    ELEMENT_STEPS: ClassVar[VectorSteps] = SIGMOID + VectorSteps(basic=3)


@irdl_attr_definition
class RmsNormAttr(VectorKindAttr):
    """out = x / sqrt(mean_c(x^2) + eps) * w, every row by itself.

    Steps of an element: square, mul, scale, convert; of a row: sum, mean (div), add eps, rsqrt, as in the SG2262 kernel
    templates published with Tier6-Model.
    """

    name: ClassVar[str] = "tile.rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("w", "in", rows=1), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 4
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=4)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2, div=1, rsqrt=1)
    eps: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A square root needs no negative number."""
        return None if self.eps.value.data >= 0 else f"eps is {self.eps.value.data}, must not be negative"


@irdl_attr_definition
class AddRmsNormAttr(VectorKindAttr):
    """total = a + b, out = total / sqrt(mean_c(total^2) + eps) * w, every row by itself: the steps of both."""

    name: ClassVar[str] = "tile.add_rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("a", "in"), Matrix("b", "in"), Matrix("w", "in", rows=1), Matrix("total", "out"), Matrix("out", "out"),
    )  # fmt: skip
    FLOPS: ClassVar[int] = AddAttr.FLOPS + RmsNormAttr.FLOPS
    ELEMENT_STEPS: ClassVar[VectorSteps] = AddAttr.ELEMENT_STEPS + RmsNormAttr.ELEMENT_STEPS
    ROW_STEPS: ClassVar[VectorSteps] = RmsNormAttr.ROW_STEPS
    eps: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A square root needs no negative number."""
        return None if self.eps.value.data >= 0 else f"eps is {self.eps.value.data}, must not be negative"


@irdl_attr_definition
class LayerNormAttr(VectorKindAttr):
    """out = (x - mean_c(x)) / sqrt(mean_c((x - mean_c(x))^2) + eps) * w + b, every row by itself.

    Steps of an element: subtract the mean, square, scale, mul, add, convert; of a row: two sums, two means (div), add
    eps, rsqrt, counted as those of `rms_norm`.
    """

    name: ClassVar[str] = "tile.layer_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("w", "in", rows=1),
        Matrix("b", "in", rows=1),
        Matrix("out", "out"),
    )
    FLOPS: ClassVar[int] = 6
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=6)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3, div=2, rsqrt=1)
    eps: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A square root needs no negative number."""
        return None if self.eps.value.data >= 0 else f"eps is {self.eps.value.data}, must not be negative"


@irdl_attr_definition
class RopeAttr(VectorKindAttr):
    """out = x, the columns of each row rotated by the angles of `position` (RoFormer, equation 34).

    `interleaved` pairs columns (2j, 2j+1), otherwise (j, j + columns/2).  `scaling` holds the fields of the Hugging
    Face `rope_scaling` that change the frequencies.  Steps: two mul, add, convert.
    """

    name: ClassVar[str] = "tile.rope"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position",)
    FLOPS: ClassVar[int] = 3
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=4)
    theta: FloatAttr
    interleaved: BoolAttr
    position: ExprAttr
    scaling: DictionaryAttr | NoneAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A positive base, and pairs of columns."""
        if not self.theta.value.data > 0:
            return f"theta is {self.theta.value.data}, must be positive"
        if columns.is_constant and columns.constant % 2:
            return f"rotates pairs of columns, found {columns}"
        return None


@irdl_attr_definition
class SoftmaxStepAttr(VectorKindAttr):
    """One step of FlashAttention-2 (Dao 2023, algorithm 1): scores S -> P, with max M, sum L, accumulator O updated.

    Column c is key `key` + c; with `causal`, keys beyond `position` of the row have score -inf, and where the kind has
    it, also keys before `first` of the row.  s = scale * S;
    m = max(M, max_c s); P = exp(s - m); f = exp(M - m); L = f*L + sum_c P; O = f*O; M = m.  Kernels fill M with -inf,
    L and O with 0 before the first step; the mma after the step adds P V to O.

    With a `soft_cap`, s = soft_cap * tanh(scale * S / soft_cap).

    Steps of a score: subtract the maximum, exp, convert; with a soft cap also a multiplication before the tanh and one
    after it; of a row: reduce-max, max, exp of the correction, reduce-sum,
    mul, add, copy; as in the SG2262 kernel templates published with Tier6-Model.
    """

    name: ClassVar[str] = "tile.softmax_step"
    PADS_ROWS: ClassVar[bool] = True
    RATE: ClassVar[str | None] = "bf16"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("scores", "in"),
        Matrix("p", "out"),
        Matrix("row_max", "update", columns=1),
        Matrix("row_sum", "update", columns=1),
        Matrix("acc", "update", columns="width"),
    )
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position", "first")
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2, exp=1)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=6, exp=1)
    scale: FloatAttr
    causal: BoolAttr
    position: ExprAttr
    key: ExprAttr
    first: ExprAttr | NoneAttr
    soft_cap: FloatAttr | NoneAttr

    def __init__(
        self,
        scale: FloatAttr,
        causal: BoolAttr,
        position: ExprAttr,
        key: ExprAttr,
        first: ExprAttr | NoneAttr | None = None,
        soft_cap: FloatAttr | NoneAttr | None = None,
    ) -> None:
        """Without `first` rows see all keys from the beginning on; without `soft_cap` scores may be of any size."""
        super().__init__(scale, causal, position, key, first or NoneAttr(), soft_cap or NoneAttr())

    @classmethod
    def element_steps(cls, capped: bool) -> VectorSteps:
        """The steps of a score with or without a soft cap."""
        return cls.ELEMENT_STEPS + (TANH + VectorSteps(basic=2) if capped else VectorSteps())

    @property
    def steps_per_element(self) -> VectorSteps:
        return self.element_steps(isinstance(self.soft_cap, FloatAttr))

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Only a causal row has a first key; a cap is positive."""
        if isinstance(self.soft_cap, FloatAttr) and not self.soft_cap.value.data > 0:
            return f"soft_cap is {self.soft_cap.value.data}, must be positive"
        hides = isinstance(self.first, ExprAttr) and not bool(self.causal)
        return "parameter 'first' needs causal = true" if hides else None


@irdl_attr_definition
class SoftmaxFinishAttr(VectorKindAttr):
    """out = acc / row_sum: the reciprocal once a row, a multiplication per element."""

    name: ClassVar[str] = "tile.softmax_finish"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("acc", "in"),
        Matrix("row_sum", "in", columns=1),
        Matrix("out", "out"),
    )
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(div=1)


class MergeAttr(VectorKindAttr):
    """The base of kinds that merge partial results of `parts` cores, which lie in `x` below each other."""

    @property
    def steps_per_element(self) -> VectorSteps:
        """One step for every part of an element."""
        return VectorSteps(basic=self._parts)

    @property
    def _parts(self) -> int:
        parts = getattr(self, "parts")  # noqa: B009  # every merge has this parameter
        assert isinstance(parts, IntegerAttr)
        return parts.value.data

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least two parts."""
        return None if self._parts > 1 else f"parts is {self._parts}, must be at least 2"


@irdl_attr_definition
class SumPartsAttr(MergeAttr):
    """out[r, c] = sum over p of x[p*rows + r, c]: partial sums of a contraction that cores share."""

    name: ClassVar[str] = "tile.sum_parts"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in", rows=("parts", "rows")), Matrix("out", "out"))
    parts: IntegerAttr


@irdl_attr_definition
class SoftmaxMergeAttr(MergeAttr):
    """out = sum over p of w_p acc_p / sum over p of w_p l_p with w_p = exp(m_p - max over p of m_p).

    The running states (accumulator, maximum, sum) of cores that share the keys (flash decoding, Dao et al., 2023),
    those of part p in rows p*rows to (p+1)*rows.
    """

    name: ClassVar[str] = "tile.softmax_merge"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("accumulator", "in", rows=("parts", "rows")),
        Matrix("max", "in", rows=("parts", "rows"), columns=1),
        Matrix("sum", "in", rows=("parts", "rows"), columns=1),
        Matrix("out", "out"),
    )
    parts: IntegerAttr


@irdl_attr_definition
class RouterTopkAttr(VectorKindAttr):
    """Weights and indices of the `top_k` experts of each row from its logits, as in `layer.router_topk`.

    Steps of a logit: its score (sigmoid, or exp of the difference to the maximum over the sum), and one comparison
    per choice.
    """

    name: ClassVar[str] = "tile.router_topk"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("logits", "in"),
        Matrix("bias", "in", rows=1),
        Matrix("weights", "out", columns="top_k"),
        Matrix("indices", "out", columns="top_k"),
    )
    ENGINE: ClassVar[Literal["vec", "hau"]] = "hau"
    top_k: IntegerAttr
    scoring: StringAttr
    groups: IntegerAttr
    top_groups: IntegerAttr
    normalize: BoolAttr
    scale: FloatAttr

    @property
    def flops_per_element(self) -> int:
        """Scoring (5) and one scan per choice."""
        return 5 + self.top_k.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """The score, then one comparison per choice."""
        score = SIGMOID if self.scoring.data == "sigmoid" else VectorSteps(basic=1, exp=1, div=1)
        return score + VectorSteps(basic=self.top_k.value.data)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A known scoring; groups that divide the experts, and choices among those that there are."""
        if self.scoring.data not in ("softmax", "sigmoid"):
            return f"scoring is '{self.scoring.data}', must be softmax or sigmoid"
        top_k, groups, top_groups = (p.value.data for p in (self.top_k, self.groups, self.top_groups))
        if not 1 <= top_groups <= groups:
            return f"top_groups is {top_groups}, must be 1 to {groups}, the groups"
        if top_k < 1:
            return f"top_k is {top_k}, must be at least 1"
        if not columns.is_constant:
            return None
        if columns.constant % groups:
            return f"{groups} groups do not divide {columns} experts"
        choices = columns.constant // groups * top_groups
        return None if top_k <= choices else f"top_k is {top_k}, there are {choices} experts to choose from"


@irdl_attr_definition
class ReluWeightedSumAttr(VectorKindAttr):
    """out[r, c] = scale * sum over h of weights[r, h] * max(0, products[r*heads + h, c]): the scores of an indexer.

    Steps of a score: for every head the maximum, the multiplication and the addition; the scale and the conversion.
    """

    name: ClassVar[str] = "tile.relu_weighted_sum"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("products", "in", rows=("heads", "rows")),
        Matrix("weights", "in", columns="heads"),
        Matrix("out", "out"),
    )
    heads: IntegerAttr
    scale: FloatAttr

    @property
    def flops_per_element(self) -> int:
        """Maximum, multiplication and addition of every head."""
        return 3 * self.heads.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """One step each, then the scale and the conversion."""
        return VectorSteps(basic=3 * self.heads.value.data + 2)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one head."""
        heads = self.heads.value.data
        return None if heads >= 1 else f"heads is {heads}, must be at least 1"


@irdl_attr_definition
class TopkSelectAttr(VectorKindAttr):
    """The `top_k` best of the keys so far: positions and scores of each row, with those of `columns` more keys.

    Column c is key `key` + c, all keys before `key` have been seen; keys beyond `position` of the row count as -inf.
    Of equal scores the first key wins.  Kept keys stand in the order of their positions, at the end of the row: the
    first top_k - key entries hold no key yet and are not looked at, so nothing need be there before the first keys.

    Steps of a score, whatever `top_k` is: a radix selection of 32-bit numbers looks at every key five times, four
    times to take 8 more bits and to count them, and once to compare with the threshold and to copy.  It belongs to no
    vendor's sort unit.
    """

    name: ClassVar[str] = "tile.topk_select"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("scores", "in"),
        Matrix("kept_scores", "update", columns="top_k"),
        Matrix("kept_keys", "update", columns="top_k"),
    )
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position",)
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=10)
    top_k: IntegerAttr
    position: ExprAttr
    key: ExprAttr

    def reads(self, matrix: Matrix) -> Expr:
        """What was kept is read from the second tile of keys on."""
        return self.key.data if matrix.role == "update" else super().reads(matrix)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one key is kept."""
        top_k = self.top_k.value.data
        return None if top_k >= 1 else f"top_k is {top_k}, must be at least 1"


VECTOR_KINDS: tuple[type[VectorKindAttr], ...] = (
    FillAttr,
    RepeatRowsAttr,
    ConvertAttr,
    AddAttr,
    SiluMulAttr,
    RmsNormAttr,
    AddRmsNormAttr,
    RopeAttr,
    SoftmaxStepAttr,
    SoftmaxFinishAttr,
    SumPartsAttr,
    SoftmaxMergeAttr,
    RouterTopkAttr,
    LayerNormAttr,
    ReluWeightedSumAttr,
    TopkSelectAttr,
)
"""Every kind; the order is that of their codes in command tables."""
