"""Collectives and algorithms as attributes: text, what is refused, and one exchange from the dist level to commands."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import BFloat16Type, ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, make_context, parse_module, run_pipeline
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.dialects import collective as c
from pmc.dialects.analyses.workload import workload_of
from pmc.dialects.collective import Exchange, ExchangeInterface
from pmc.dialects.levels import Level
from pmc.dialects.tensor import TensorType

TEXTS = [
    "#dist.all_reduce<tp>",
    "#dist.all_gather<tp, dim = 1>",
    "#dist.reduce_scatter<tp, dim = 0>",
    "#dist.local_slice<tp, dim = 0>",
    "#dist.ring_exchange<cp>",
    "#dist.dispatch<ep>",
    "#dist.dispatch",
    "#dist.combine<ep>",
    "#dist.combine",
    "#dist.send<pp, peer = 1, channel = 3>",
    "#dist.recv<pp, peer = 0, channel = 3>",
    "#dist.flat_ring",
    "#dist.two_level<inner = 4>",
    "#dist.two_level<inner = 8, direct = across>",
    "#dist.direct",
    "#dist.one_shot",
    "#dist.per_rank<copies = 6.25>",
    "#dist.per_node<ranks = 8, nodes = 2.196157340575934, copies = 5.77>",
]


def parsed(text: str) -> Any:
    return Parser(make_context(), text).parse_attribute()


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_reads_back(text: str) -> None:
    assert str(parsed(text)) == text


def test_every_collective_and_algorithm_is_here() -> None:
    assert {type(parsed(text)) for text in TEXTS} == {*c.COLLECTIVES, *c.ALGORITHMS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#dist.all_reduce", "dist.all_reduce needs a mesh axis: #dist.all_reduce<axis>"),
        ("#dist.all_gather", "Expected '<'"),
        ("#dist.all_gather<tp>", "Expected ','"),
        ("#dist.all_gather<tp, size = 1>", "Expected 'dim'"),
        ("#dist.all_gather<tp, dim = x>", "Expected integer literal"),
        ("#dist.two_level<4>", "Expected 'inner'"),
        (
            "#dist.two_level<inner = 4, direct = outside>",
            "direct is 'outside', must be one of none, inside, across, both",
        ),
    ],
)
def test_a_wrong_collective_is_refused(text: str, message: str) -> None:
    with pytest.raises((ParseError, VerifyException), match=message):
        parsed(text)


# -- verifiers --------------------------------------------------------------------------------------------------

DIST = """
builtin.module attributes {dist.mesh = #dist.mesh<12 ranks, tp = 12 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[24, 12], bf16, #dist.partial<tp>>):
    %y = dist.all_reduce(%x) {axis = "AXIS", algorithm = ALGORITHM} at "o" : !layer.tensor<[24, 12], bf16>
    layer.return([%y]) at "m"
  }
}
"""
TILE = """
builtin.module attributes {dist.mesh = #dist.mesh<12 ranks, tp = 12 stride 1>} {
  tile.program() {sym_name = "m", phase = "decode"} at "m" {
    %x = tile.global() {kind = "activation", layers = false} at "x" : !tile.memref<[24, 12], bf16>
    tile.collective([%x], [%x]) {collective = #dist.all_reduce<AXIS>, algorithm = ALGORITHM} at "o"
  }
}
"""
COMMANDS = """
builtin.module attributes {dist.mesh = #dist.mesh<12 ranks, tp = 12 stride 1>} {
  g5.stream() {sym_name = "m", phase = "decode"} at "" {
    g5.cdma {collective = #dist.all_reduce<AXIS>, algorithm = ALGORITHM,
      ins = [#g5.dram<0, [4], strides [1], bf16>], outs = [#g5.dram<0, [4], strides [1], bf16>]} at "o"
  }
}
"""
LEVELS = {"dist.all_reduce": DIST, "tile.collective": TILE, "g5.cdma": COMMANDS}


@pytest.mark.parametrize("op", LEVELS)
@pytest.mark.parametrize("inner", [2, 3, 4, 6])
def test_an_inner_ring_divides_the_group(op: str, inner: int) -> None:
    parse_module(LEVELS[op].replace("AXIS", "tp").replace("ALGORITHM", f"#dist.two_level<inner = {inner}>"), "x")


@pytest.mark.parametrize("op", LEVELS)
@pytest.mark.parametrize("inner", [0, 1, 5, 8, 12, 24])
def test_an_algorithm_that_does_not_fit_is_refused(op: str, inner: int) -> None:
    text = LEVELS[op].replace("AXIS", "tp").replace("ALGORITHM", f"#dist.two_level<inner = {inner}>")
    expected = (
        f"{op} at 'o': two levels with inner rings of {inner} do not fit a group of 12 ranks; "
        "a divisor between 1 and the size of the group does"
    )
    with pytest.raises(Exception, match="do not fit") as error:
        parse_module(text, "x")
    assert expected in str(error.value)


@pytest.mark.parametrize("op", LEVELS)
def test_an_axis_that_the_mesh_lacks_is_refused(op: str) -> None:
    text = LEVELS[op].replace("AXIS", "nonsense").replace("ALGORITHM", "#dist.flat_ring")
    with pytest.raises(Exception, match=f"{op} at 'o': the mesh has no axis 'nonsense', it has tp"):
        parse_module(text, "x")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("g5.sdma {collective = #dist.all_reduce<tp>", "g5.sdma at 'o': #dist.all_reduce<tp> is done by cdma"),
        ("g5.cdma {collective = #dist.local_slice<tp, dim = 0>", "slice<tp, dim = 0> is done by sdma"),
    ],
)
def test_the_engine_is_that_of_what_moves(command: str, message: str) -> None:
    text = COMMANDS.replace("g5.cdma {collective = #dist.all_reduce<AXIS>, algorithm = ALGORITHM", command)
    with pytest.raises(Exception, match=message):
        parse_module(text, "x")


TYPE = TensorType.of((8, 4), BFloat16Type())


@pytest.mark.parametrize(
    ("text", "algorithm", "ins", "outs", "message"),
    [
        (
            "#dist.dispatch<ep>",
            "#dist.flat_ring",
            2,
            1,
            "goes by #dist.direct, not by #dist.flat_ring",
        ),
        ("#dist.dispatch", "#dist.direct", 2, 1, "#dist.dispatch has no algorithm, not by #dist.direct"),
        ("#dist.local_slice<tp, dim = 0>", "#dist.direct", 1, 1, "dim = 0> has no algorithm, not by #dist.direct"),
        (
            "#dist.all_reduce<tp>",
            "#dist.direct",
            2,
            1,
            "has as many operands as results, found 2 operands and 1 results",
        ),
        ("#dist.combine<ep>", "#dist.direct", 1, 1, "has 3 operands and 1 results, found 1 operands and 1 results"),
    ],
)
def test_an_exchange_that_cannot_be_is_refused(text: str, algorithm: str, ins: int, outs: int, message: str) -> None:
    exchange = Exchange.of(parsed(text), parsed(algorithm), [TYPE] * ins, [TYPE] * outs)
    with pytest.raises(VerifyException) as error:
        exchange.verify(None)
    assert message in str(error.value)


# -- the same at every level ------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "moe": ("deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 2, "ep": 8, "pp": 2, "sp": True}),
    "one chip": ("deepseek-v3", "dsv3-decode-ep32", {"tp": 1, "dp": 1, "ep": 1, "batch": 8}),
    "dense": ("llama-3.1-70b", "llama-70b-decode-tp8", {}),
    "ring": ("llama-3.1-8b", "llama-8b-prefill", {"cp": 4, "q_len": 64, "kv_len": 64}),
}


def exchanges(module: ModuleOp) -> list[tuple[str, Exchange]]:
    return [(op.path.data, op.exchange()) for op in module.walk() if isinstance(op, ExchangeInterface)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES)
def test_an_exchange_is_the_same_at_every_level(case: str) -> None:
    model, deployment, changes = CASES[case]
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment(deployment, changes)
    levels: tuple[Level, ...] = ("dist", "tile", "commands")
    config, source = load_model_config(model)
    config.update(num_hidden_layers=5)
    family = "deepseek-v3" if model == "deepseek-v3" else "llama"
    dist, tile, commands = (compile_model(import_hf(config, source, family), *target, level) for level in levels)
    chosen = ("bind-symbols", "select-algorithms")
    run_pipeline(dist, [spec for spec in default_pipeline(target[2], "tile") if spec.name in chosen])
    expected = exchanges(dist)
    assert not any(exchange.is_open for _, exchange in expected)
    assert expected and exchanges(tile) == expected and exchanges(commands) == expected
    assert {workload_of(op) for op in commands.walk() if isinstance(op, ExchangeInterface)} == {e for _, e in expected}


def test_collectives_on_other_axes_are_not_equal() -> None:
    """Costs, tables and passes look collectives up by equality."""
    assert parsed("#dist.all_gather<tp, dim = 0>") != parsed("#dist.all_gather<dp, dim = 0>")
    assert parsed("#dist.all_gather<tp, dim = 0>") == parsed("#dist.all_gather<tp, dim = 0>")
