"""The vector kinds: their text, their extents, and what is refused of their parameters, in one clear line each."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import BoolAttr, DictionaryAttr, FloatAttr, IntegerAttr, NoneAttr, StringAttr, UnitAttr, i64
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import parse_module
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import ExprAttr, expr, floordiv
from pmc.dialects.vector_kinds import (
    VECTOR_KINDS,
    ActivationAttr,
    AddBiasAttr,
    ConvertAttr,
    FillAttr,
    GatedActivationAttr,
    RopeAttr,
    RouterTopkAttr,
    SoftmaxMergeAttr,
    SoftmaxStepAttr,
    VectorKindAttr,
)

ROUTER = '#tile.router_topk<top_k = 2, scoring = "sigmoid", groups = 4, top_groups = 2, normalize = true, scale = 2.5>'
WEIGHED = '#tile.router_weights<top_k = 2, scoring = "sigmoid", normalize = true, scale = 2.5>'
STEP = "#tile.softmax_step<scale = 0.125, causal = true, position = floordiv(row, 4) + 3, key = s*64>"
ROPE = "#tile.rope<theta = 10000.0, interleaved = false, position = row, scaling = {factor = 8.000000e+00 : f64}>"
PARTIAL = "#tile.rope<theta = 10000.0, interleaved = true, position = 7, rotary_dim = 4>"
INDEX = "#tile.relu_weighted_sum<heads = 3, scale = 0.5>"
TOPK = "#tile.topk_select<top_k = 5, position = row, key = s*64>"
BLOCK_MAX = "#tile.block_max<block = 4>"
BLOCK_ROWS = "#tile.block_rows<block = 4, stride = 2, last = 10, offset = mod(s, 2)>"
CLAMPED = '#tile.gated_activation<function = "clamped_swiglu", limit = 7.0, alpha = 1.702>'
GELU = '#tile.activation<function = "gelu">'
CONV = '#tile.causal_conv<taps = 4, activation = "silu">'
SCAN = "#tile.ssm_step<key_dim = 3, value_dim = 5, shared = 4>"
DELTA = "#tile.gated_delta_step<key_dim = 3, value_dim = 5, shared = 16, decay_dim = 1, scale = 0.5>"
KDA = DELTA.replace("decay_dim = 1", "decay_dim = 3")
DECAY = "#tile.decay<group = 1>"
GATED = '#tile.gated_rms_norm<eps = 0.0, groups = 4, gate_first = true, activation = "silu">'
POSITION = ExprAttr(floordiv(expr("row"), 4) + 3)


def number(value: float) -> FloatAttr:
    return FloatAttr(value, 64)


FIRST_FORWARDS = NoneAttr(), NoneAttr()
"""A rotation of the first columns, by the angles and not by minus them."""


def partial_rope(trailing: UnitAttr | NoneAttr, inverse: UnitAttr | NoneAttr) -> RopeAttr:
    columns = IntegerAttr(4, i64)
    return RopeAttr(number(1e4), BoolAttr.from_bool(True), ExprAttr.of(7), NoneAttr(), columns, trailing, inverse)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ConvertAttr(), "#tile.convert"),
        (FillAttr.of(0.0), "#tile.fill<value = 0.0>"),
        (FillAttr.of(float("-inf")), "#tile.fill<value = 0xfff0000000000000 : f64>"),
        (SoftmaxStepAttr(number(0.125), BoolAttr.from_bool(True), POSITION, ExprAttr(expr("s") * 64)), STEP),
        (
            SoftmaxStepAttr(number(0.125), BoolAttr.from_bool(True), POSITION, ExprAttr.of(0), ExprAttr.of("row")),
            STEP.replace("key = s*64", "key = 0, first = row"),
        ),
        (
            SoftmaxStepAttr(
                number(0.125), BoolAttr.from_bool(True), POSITION, ExprAttr(expr("s") * 64), None, number(50.0)
            ),
            STEP.replace(">", ", soft_cap = 50.0>"),
        ),
        (
            RopeAttr(
                number(1e4),
                BoolAttr.from_bool(False),
                ExprAttr.of("row"),
                DictionaryAttr({"factor": number(8.0)}),
                NoneAttr(),
                *FIRST_FORWARDS,
            ),
            ROPE,
        ),
        (
            RopeAttr(number(1e4), BoolAttr.from_bool(False), ExprAttr.of(7), NoneAttr(), NoneAttr(), *FIRST_FORWARDS),
            "#tile.rope<theta = 10000.0, interleaved = false, position = 7>",
        ),
        (partial_rope(*FIRST_FORWARDS), PARTIAL),
        (partial_rope(UnitAttr(), UnitAttr()), PARTIAL.replace(">", ", trailing = unit, inverse = unit>")),
        (ActivationAttr(StringAttr("gelu")), GELU),
        (AddBiasAttr(NoneAttr()), "#tile.add_bias"),
        (AddBiasAttr(ExprAttr(1 - expr("tp.rank"))), "#tile.add_bias<share = -tp.rank + 1>"),
        (GatedActivationAttr(StringAttr("clamped_swiglu"), number(7.0), number(1.702)), CLAMPED),
        (
            GatedActivationAttr(StringAttr("gelu"), NoneAttr(), NoneAttr()),
            '#tile.gated_activation<function = "gelu">',
        ),
    ],
)
def test_text(kind: VectorKindAttr, text: str) -> None:
    assert str(kind) == text
    assert Parser(make_context(), text).parse_attribute() == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#tile.rms_norm", "#tile.rms_norm needs the parameter 'eps'"),
        ("#tile.rms_norm<eps = 1>", "parameter 'eps' of #tile.rms_norm must be a float such as 1.0, found 1 : i64"),
        ('#tile.rms_norm<eps = "small">', 'must be a float such as 1.0, found "small"'),
        ("#tile.rms_norm<epz = 1.0>", "#tile.rms_norm has no parameter 'epz', it has eps, zero_centered"),
        ("#tile.rms_norm<eps = 1.0, zero_centered = true>", "'zero_centered' of #tile.rms_norm must be unit, found"),
        ("#tile.rms_norm<eps = 1.0, eps = 2.0>", "parameter 'eps' of #tile.rms_norm is given twice"),
        ("#tile.add<eps = 1.0>", "#tile.add has no parameter 'eps', it has none"),
        (ROUTER.replace("top_k = 2", "top_k = true"), "parameter 'top_k' of #tile.router_topk must be an integer"),
        (ROUTER.replace("normalize = true", "normalize = 1"), "'normalize' of #tile.router_topk must be true or false"),
        (ROUTER.replace('"sigmoid"', "sigmoid"), "expected"),
        (ROPE.replace("position = row", 'position = "row"'), "expected an integer, a symbol or a function"),
        (ROPE.replace("{factor = 8.000000e+00 : f64}", "8.0"), "'scaling' of #tile.rope must be a dictionary"),
        ("#tile.sum_parts", "#tile.sum_parts needs the parameter 'parts'"),
        ("#tile.sum_parts<parts = 2.0>", "parameter 'parts' of #tile.sum_parts must be an integer"),
        ("#tile.softmax_merge<part = 2>", "#tile.softmax_merge has no parameter 'part', it has parts"),
        ("#tile.square", "tile.square"),
    ],
)
def test_malformed_text(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        Parser(make_context(), text).parse_attribute()
    assert message in str(error.value)


PROGRAM = """builtin.module {
  tile.program() {sym_name = "step", phase = "decode"} at "step" {
    tile.kernel() {cores = 4, op_name = "layer.rope"} at "mm" {
      tile.for s < <4> at "mm" {
        BUFFERS
        tile.vector([INS], [OUTS], [UPDATES]) {kind = KIND, rows = <16>, columns = <8>} at "mm"
      }
    }
  }
}
"""


def program(kind: str, counts: tuple[int, int, int]) -> str:
    """A program with one command of a kind on as many buffers as `counts` says."""
    names = iter(f"%b{i}" for i in range(sum(counts)))
    groups = [", ".join(next(names) for _ in range(count)) for count in counts]
    buffers = "\n".join(
        f'%b{i} = tile.alloc() {{slots = 1}} at "mm" : !tile.buffer<[16, 64], f32>' for i in range(sum(counts))
    )
    text = PROGRAM.replace("BUFFERS", buffers).replace("KIND", kind)
    for name, group in zip(("INS", "OUTS", "UPDATES"), groups, strict=True):
        text = text.replace(f"[{name}]", f"[{group}]")
    return text


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("#tile.convert", (1, 1, 0)), (STEP, (1, 1, 3)), (ROPE, (1, 1, 0)), (ROUTER, (2, 2, 0)),
        ("#tile.layer_norm<eps = 1.0>", (3, 1, 0)), (INDEX, (2, 1, 0)), (TOPK, (1, 0, 2)),
        ("#tile.add_bias", (2, 1, 0)), (PARTIAL, (1, 1, 0)), (GELU, (1, 1, 0)), (CLAMPED, (2, 1, 0)),
        ("#tile.sum_parts<parts = 2>", (1, 1, 0)), ("#tile.softmax_merge<parts = 2>", (3, 1, 0)),
        (CONV, (3, 1, 1)), (SCAN, (6, 1, 1)), (DELTA, (5, 1, 1)), (GATED, (3, 1, 0)), (DECAY, (3, 1, 0)),
        (KDA, (5, 1, 1)),
        ("#tile.l2_norm<eps = 0.0>", (1, 1, 0)), ("#tile.softplus<low = 0.0, high = 0.5>", (2, 1, 0)),
    ],
)  # fmt: skip
def test_legal_commands(kind: str, counts: tuple[int, int, int]) -> None:
    parse_module(program(kind, counts), "x.mlir").verify()


@pytest.mark.parametrize(
    ("kind", "counts", "message"),
    [
        ('"add"', (1, 1, 0), "kind must be a vector kind such as #tile.add"),
        ("#tile.add", (1, 1, 0), "#tile.add at 'mm': takes (2, 1, 0) inputs, outputs and updates (a, b, out), found"),
        (STEP.replace("s*64", "k*64"), (1, 1, 3), "at 'mm': parameter 'key' uses 'k', which is not in scope"),
        (STEP.replace("s*64", "row"), (1, 1, 3), "at 'mm': parameter 'key' uses 'row', which is not in scope"),
        ("#tile.sum_parts<parts = 1>", (1, 1, 0), "#tile.sum_parts at 'mm': parts is 1, must be at least 2"),
        ("#tile.softmax_merge<parts = 0>", (3, 1, 0), "#tile.softmax_merge at 'mm': parts is 0, must be at least 2"),
        (
            "#tile.softmax_merge<parts = 2>",
            (1, 1, 0),
            "takes (3, 1, 0) inputs, outputs and updates (accumulator, max, ",
        ),
        ("#tile.layer_norm<eps = -1.0>", (3, 1, 0), "at 'mm': eps is -1.0, must not be negative"),
        (INDEX.replace("3", "0"), (2, 1, 0), "at 'mm': heads is 0, must be at least 1"),
        (TOPK.replace("5", "0"), (1, 0, 2), "at 'mm': top_k is 0, must be at least 1"),
        (TOPK.replace("s*64", "row"), (1, 0, 2), "at 'mm': parameter 'key' uses 'row', which is not in scope"),
        (TOPK, (1, 2, 0), "takes (1, 0, 2) inputs, outputs and updates (scores, kept_scores, kept_keys), found"),
        (
            PARTIAL.replace("= 4", "= 8"),
            (1, 1, 0),
            "rotary_dim is 8, must be positive, even and less than the 8 columns",
        ),
        (
            PARTIAL.replace("= 4", "= 3"),
            (1, 1, 0),
            "rotary_dim is 3, must be positive, even and less than the 8 columns",
        ),
        ("#tile.add_bias<share = k>", (2, 1, 0), "at 'mm': parameter 'share' uses 'k', which is not in scope"),
        ("#tile.soft_cap<cap = -1.0>", (1, 1, 0), "at 'mm': cap is -1.0, must be positive"),
        (GELU.replace("gelu", "elu"), (1, 1, 0), "at 'mm': function is 'elu', must be silu, gelu, gelu_tanh, relu, "),
        (CLAMPED.replace("7.0", "0.0"), (2, 1, 0), "at 'mm': limit is 0.0, must be positive"),
        (CLAMPED.replace(", alpha = 1.702", ""), (2, 1, 0), "at 'mm': clamped_swiglu needs an alpha"),
        (CLAMPED.replace("swiglu", "silu"), (2, 1, 0), "at 'mm': clamped_silu has no alpha"),
        (CLAMPED.replace("clamped_swiglu", "gelu"), (2, 1, 0), "at 'mm': gelu has no limit"),
        ("#tile.rms_normalize<eps = -1.0>", (1, 1, 0), "at 'mm': eps is -1.0, must not be negative"),
        ("#tile.split_rms_norm<eps = -1.0, width = 1>", (3, 1, 0), "at 'mm': eps is -1.0, must not be negative"),
        ("#tile.split_rms_norm<eps = 0.0, width = 0>", (3, 1, 0), "at 'mm': width is 0, must be positive"),
        ("#tile.add_rms_norm<eps = -1.0>", (3, 2, 0), "at 'mm': eps is -1.0, must not be negative"),
        ("#tile.rms_norm<eps = -1.0>", (2, 1, 0), "at 'mm': eps is -1.0, must not be negative"),
        (CONV.replace("4", "1"), (3, 1, 1), "at 'mm': taps is 1, must be at least 2"),
        (CONV.replace("silu", "gelu"), (3, 1, 1), "at 'mm': activation is 'gelu', must be none or silu"),
        (SCAN.replace("3", "0"), (6, 1, 1), "at 'mm': key_dim is 0, must be at least 1"),
        (DELTA.replace("= 5", "= -5"), (5, 1, 1), "at 'mm': value_dim is -5, must be at least 1"),
        (DELTA.replace("decay_dim = 1", "decay_dim = 2"), (5, 1, 1), "at 'mm': decay_dim is 2, must be 1 or key_dim, "),
        (DECAY.replace("1", "3"), (3, 1, 0), "at 'mm': group 3 does not divide 8 columns"),
        (DECAY.replace("1", "0"), (3, 1, 0), "at 'mm': group is 0, must be at least 1"),
        (GATED.replace("silu", "gelu"), (3, 1, 0), "at 'mm': activation is 'gelu', must be silu or sigmoid"),
        (GATED.replace("eps = 0.0", "eps = -0.5"), (3, 1, 0), "at 'mm': eps is -0.5, must not be negative"),
        (GATED.replace("4", "0"), (3, 1, 0), "at 'mm': groups is 0, must be at least 1"),
        (GATED.replace("4", "3"), (3, 1, 0), "at 'mm': 3 groups do not divide 8 columns"),
        ("#tile.l2_norm<eps = -1.0>", (1, 1, 0), "at 'mm': eps is -1.0, must not be negative"),
        ("#tile.softplus<low = 1.0, high = 0.5>", (2, 1, 0), "low is 1.0, must not be above high, which is 0.5"),
        (ROPE.replace("10000.0", "0.0"), (1, 1, 0), "at 'mm': theta is 0.0, must be positive"),
        (
            ROUTER.replace("sigmoid", "tanh"),
            (2, 2, 0),
            "at 'mm': scoring is 'tanh', must be softmax, sigmoid, sqrtsoftplus, none",
        ),
        ("#tile.copy_streams<streams = 1>", (1, 1, 0), "streams is 1, must be at least 2"),
        ("#tile.stream_weights<streams = 3, iterations = 4, eps = 0.0>", (3, 1, 0), "have 15 weights, found 8"),
        ("#tile.stream_weights<streams = 2, iterations = -1, eps = 0.0>", (3, 1, 0), "iterations is -1, must be"),
        (
            "#tile.mix_streams<streams = 3, stream_width = 4, weight_columns = 15>",
            (3, 1, 0),
            "3 streams of 4 columns are 12, found 8",
        ),
        (WEIGHED.replace("top_k = 2", "top_k = 9"), (2, 1, 0), "top_k is 9, must be 1 to 8, the experts"),
        (WEIGHED.replace("sigmoid", "tanh"), (2, 1, 0), "scoring is 'tanh', must be softmax, sigmoid, sqrtsoftplus,"),
        (ROUTER.replace("top_k = 2", "top_k = 5"), (2, 2, 0), "top_k is 5, there are 4 experts to choose from"),
        (
            STEP.replace("causal = true", "causal = false").replace("key = s*64", "key = 0, first = row"),
            (1, 1, 3),
            "parameter 'first' needs causal = true",
        ),
        (STEP.replace(">", ", alibi = 6>"), (1, 1, 3), "parameters 'alibi' and 'head' need each other"),
        (STEP.replace(">", ", soft_cap = 0.0>"), (1, 1, 3), "soft_cap is 0.0, must be positive"),
        ("#tile.repeat_rows<period = 0>", (1, 1, 0), "period is 0, must be at least 1"),
        (ROUTER.replace("top_k = 2", "top_k = 0"), (2, 2, 0), "top_k is 0, must be at least 1"),
        (ROUTER.replace("groups = 4", "groups = 3"), (2, 2, 0), "3 groups do not divide 8 experts"),
        (ROUTER.replace("top_groups = 2", "top_groups = 5"), (2, 2, 0), "top_groups is 5, must be 1 to 4, the groups"),
    ],
)
def test_wrong_commands(kind: str, counts: tuple[int, int, int], message: str) -> None:
    with pytest.raises(PmcError) as error:
        parse_module(program(kind, counts), "x.mlir").verify()
    assert message in str(error.value)


def test_extents_follow_rows_columns_widths_and_parameters() -> None:
    """The accumulator of attention is used in its whole width, the maximum and the sum in one column."""
    step = Parser(make_context(), STEP).parse_attribute()
    router = Parser(make_context(), ROUTER).parse_attribute()
    assert isinstance(step, SoftmaxStepAttr) and isinstance(router, RouterTopkAttr)
    rows, columns = expr("n") + 1, expr(8)
    whole = (rows, columns)
    assert step.extents(rows, columns, [64, 64, 1, 1, 40]) == [
        whole, whole, (rows, expr(1)), (rows, expr(1)), (rows, expr(40)),
    ]  # fmt: skip
    merge = Parser(make_context(), "#tile.softmax_merge<parts = 4>").parse_attribute()
    assert isinstance(merge, SoftmaxMergeAttr)
    # The states of the parts lie below each other; a maximum and a sum are one column.
    stacked = 4 * rows
    assert merge.extents(rows, columns, [8, 1, 1, 8]) == [(stacked, columns), *[(stacked, expr(1))] * 2, whole]
    index, topk = (Parser(make_context(), text).parse_attribute() for text in (INDEX, TOPK))
    assert isinstance(index, VectorKindAttr) and isinstance(topk, VectorKindAttr)
    # The products of the 3 heads of a row lie below each other; each row keeps 5 keys and their scores.
    assert index.extents(rows, columns, [8, 3, 8]) == [(3 * rows, columns), (rows, expr(3)), whole]
    assert topk.extents(rows, columns, [8, 5, 5]) == [whole, *[(rows, expr(5))] * 2]
    largest, numbers = (Parser(make_context(), text).parse_attribute() for text in (BLOCK_MAX, BLOCK_ROWS))
    assert isinstance(largest, VectorKindAttr) and isinstance(numbers, VectorKindAttr)
    assert largest.extents(rows, expr(11), [11, 3]) == [(rows, expr(11)), (rows, expr(3))]
    assert numbers.extents(expr(1), expr(2), [2, 8]) == [(expr(1), expr(2)), (expr(1), expr(8))]
    repeat = Parser(make_context(), "#tile.repeat_rows<period = 5>").parse_attribute()
    assert isinstance(repeat, VectorKindAttr)
    assert repeat.extents(rows, columns, [8, 8]) == [(expr(5), columns), whole]
    conv, scan, delta = (Parser(make_context(), text).parse_attribute() for text in (CONV, SCAN, DELTA))
    assert all(isinstance(kind, VectorKindAttr) for kind in (conv, scan, delta))
    # Four taps and the three inputs before the first row.
    taps = [(expr(4), columns), (expr(1), columns)]
    assert conv.extents(rows, columns, [8] * 5) == [whole, *taps, whole, (expr(3), columns)]  # type: ignore[union-attr]
    # A column is a head of 5 columns, its state 5 x 3 or 3 x 5; 8 heads have two keys of 3 columns, or a part of one.
    wide, key, one = (rows, 5 * columns), (rows, expr(6)), (expr(1), columns)
    found = scan.extents(rows, columns, [40, 3, 3, 8, 8, 8, 40, 3])  # type: ignore[union-attr]
    assert found == [wide, key, key, whole, one, one, wide, (5 * columns, expr(3))]
    found = delta.extents(rows, columns, [40, 3, 3, 8, 8, 40, 5])  # type: ignore[union-attr]
    key = (rows, expr(3))
    assert found == [wide, key, key, whole, whole, wide, (3 * columns, expr(5))]
    kda, decay = (Parser(make_context(), text).parse_attribute() for text in (KDA, DECAY.replace("1", "4")))
    found = kda.extents(rows, columns, [40, 3, 3, 24, 8, 40, 5])  # type: ignore[union-attr]
    assert found == [wide, key, key, (rows, 3 * columns), whole, wide, (3 * columns, expr(5))]
    # Two heads of four columns.
    assert decay.extents(rows, columns, [8] * 4) == [whole, (expr(1), expr(2)), one, whole]  # type: ignore[union-attr]
    assert router.extents(rows, columns, [8, 8, 2, 2]) == [whole, (expr(1), columns), (rows, expr(2)), (rows, expr(2))]


def test_every_kind_has_its_matrices_in_order_and_a_name_of_its_own() -> None:
    order = ("in", "out", "update")
    for kind in VECTOR_KINDS:
        roles = [order.index(matrix.role) for matrix in kind.MATRICES]
        assert roles == sorted(roles) and any(matrix.writes for matrix in kind.MATRICES)
    assert len({kind.name for kind in VECTOR_KINDS}) == len(VECTOR_KINDS)


@pytest.mark.parametrize(
    ("text", "per_element", "per_row"),
    [
        ("#tile.silu_mul", 70, 0),  # exp, add, div; times gate, times up, convert
        ("#tile.rms_norm<eps = 0.0>", 4, 1 + 31 + 1 + 30),  # sum, div, add, rsqrt once per row
        ("#tile.rms_norm<eps = 0.0, zero_centered = unit>", 4 + 1, 1 + 31 + 1 + 30),  # 1 + w
        ("#tile.rms_normalize<eps = 0.0>", 4 - 1, 1 + 31 + 1 + 30),  # no gain
        ("#tile.add_rms_norm<eps = 0.0>", 1 + 4, 1 + 31 + 1 + 30),  # those of the sum and of the norm
        (STEP, 1 + 35 + 1, 6 + 35),
        (STEP.replace(">", ", alibi = 6, head = row>"), 1 + 35 + 1 + 2, 6 + 35),  # mul and add of the bias
        # Times 2 scale / cap, then exp, add, div and subtract for the tanh, times cap.
        (STEP.replace(">", ", soft_cap = 50.0>"), 1 + 35 + 1 + 1 + (35 + 1 + 31 + 1) + 1, 6 + 35),
        ("#tile.softmax_finish", 1, 31),
        ("#tile.repeat_rows<period = 4>", 1, 0),
        ("#tile.layer_norm<eps = 0.0>", 6, 2 + 2 * 31 + 1 + 30),  # two sums, two means, add, rsqrt once per row
        (INDEX, 3 * 3 + 2, 0),  # maximum, mul and add of each of 3 heads; scale and conversion
        (TOPK, 10, 0),  # five looks at every key, two steps each
        (TOPK.replace("5", "2048"), 10, 0),  # however many are kept
        ("#tile.add_bias", 1, 0),
        ("#tile.scale<factor = 2.0>", 1, 0),
        ("#tile.expert_scale<experts = 16>", 3, 0),
        ("#tile.copy_streams<streams = 3>", 3, 0),
        # Two per logit and its conversion; 4 sigmoids and one more; a softmax of 2 x 2 with eps; 3 divisions of 2 sums.
        (
            "#tile.stream_weights<streams = 2, iterations = 2, eps = 0.0>",
            3,
            4 * (1 + 35 + 31 + 1) + (5 * 4 + 4 * 35 + 2 * 31) + 3 * (2 * 4 + 2 + 2 * 31),
        ),
        ("#tile.stream_weights<streams = 8, iterations = 0, eps = 0.0>", 3, 8 * (1 + 35 + 31 + 1)),
        ("#tile.collapse_streams<streams = 2, stream_width = 4, weight_columns = 8>", 2, 4),
        ("#tile.mix_streams<streams = 2, stream_width = 4, weight_columns = 8>", 1 + 2 * 2 + 1, 0),
        (WEIGHED, 1 + 35 + 31, 4 * 2 + 31),
        (WEIGHED.replace("sigmoid", "sqrtsoftplus"), 2 + 2 * 35 + 30, 4 * 2 + 31),
        (WEIGHED.replace("true", "false"), 1 + 35 + 31, 2 * 2),
        ("#tile.soft_cap<cap = 30.0>", 1 + 67 + 2 + 1, 0),  # mul, sigmoid, mul, subtract, convert
        # Together those of rms_norm: 4 per element; sum, mean, eps and root per row.
        ("#tile.square_sum", 1, 1),
        ("#tile.split_rms_norm<eps = 0.0, width = 64>", 3, 1 + 31 + 30),
        ("#tile.split_rms_norm<eps = 0.0, width = 64, zero_centered = unit>", 4, 1 + 31 + 30),
        ("#tile.row_gate", 2, 67),  # mul and convert; the sigmoid once per row
        (ROPE, 4, 0),  # two mul, add, convert
        (PARTIAL, 1, 3 * 4),  # all columns are converted, 4 are rotated
        (GELU, 20 + 35 + 31 + 1, 0),  # erf by a polynomial, an exp and a div; convert
        (GELU.replace("gelu", "gelu_tanh"), 4 + 67 + 1 + 1, 0),  # a polynomial, its sigmoid, times x, convert
        (GELU.replace("gelu", "silu"), 67 + 1 + 1, 0),  # one step less than silu_mul
        (GELU.replace("gelu", "sigmoid"), 67 + 1, 0),
        (GELU.replace("gelu", "relu"), 1 + 1, 0),
        (GELU.replace("gelu", "relu2"), 2 + 1, 0),
        ('#tile.gated_activation<function = "sigmoid">', 67 + 1 + 1, 0),  # times up
        (CLAMPED, 1 + 2 + 67 + 4 + 1, 0),  # clamps, sigmoid, times alpha and gate, up + 1 and its product, convert
        ('#tile.gated_activation<function = "clamped_silu", limit = 7.0>', 1 + 2 + 67 + 2 + 1, 0),
        ("#tile.sum_parts<parts = 3>", 3, 0),  # one step for every part
        (CONV, 4 * 2 + 1 + 35 + 1 + 31 + 1, 0),  # mul and add of every tap, convert; sigmoid and its multiplication
        (CONV.replace("silu", "none"), 4 * 2 + 1, 0),
        (SCAN, 5 * 15 + 4 * 5 + 1 + 2 * 35, 0),  # of 15 numbers of the state, 5 columns, and the decay
        (DELTA, 7 * 15 + 4 * 5 + 35, 0),
        ("#tile.softplus<low = 0.0, high = 0.5>", 2 + 2 * 35 + 3, 0),  # a log is counted as an exp
        (KDA, 7 * 15 + 4 * 5 + 3 * 35, 0),  # an exponential for every row of the state
        (DECAY, 2 + 3 * 35 + 2, 0),
        ("#tile.l2_norm<eps = 0.0>", 3, 2 + 30),
        (GATED, 4 + 35 + 1 + 31 + 2, 4 * (1 + 31 + 1 + 30)),  # a norm of every of 4 groups
        (GATED.replace("silu", "sigmoid"), 4 + 35 + 1 + 31 + 1, 4 * (1 + 31 + 1 + 30)),
        (ROUTER, 35 + 1 + 31 + 2, 0),  # the score, and two choices
        (ROUTER.replace("sigmoid", "softmax"), 1 + 35 + 31 + 2, 0),
    ],
)
def test_steps_on_sg2262(text: str, per_element: int, per_row: int) -> None:
    """The counts of its kernel templates: exp 35, div 31, rsqrt 30."""
    kind, chip = Parser(make_context(), text).parse_attribute(), load_chip("sg2262")
    assert isinstance(kind, VectorKindAttr)
    assert chip.vector_steps(kind.steps_per_element) == per_element
    assert chip.vector_steps(kind.steps_per_row) == per_row
