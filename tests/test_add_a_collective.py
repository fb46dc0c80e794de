"""docs/add-an-op.md, "Add a collective", followed with one that exists not yet: all_to_all, from a reshard to commands.

The doc shows these code blocks; a test holds that they are the same text, and that they stand for four files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, IntegerAttr, ModuleOp
from xdsl.ir import Dialect
from xdsl.irdl import irdl_attr_definition, irdl_op_definition, prop_def
from xdsl.parser import Parser
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.utils.exceptions import VerifyException

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Target
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.analyses.link_traffic import link_traffic
from pmc.backends.numeric.collectives import Movement, Ranked, computes, groups, shard
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import module_text, parse_module, run_pipeline, set_target
from pmc.compiler.pipelines import PIPELINE, default_pipeline
from pmc.dialects import dist, g5, tile
from pmc.dialects.collective import CollectiveAttr, ExchangeInterface, Phase
from pmc.dialects.dist import CollectiveOp, Mesh, Sharding, ShardingAttr, sharding_of
from pmc.dialects.expr import ceildiv, expr
from pmc.dialects.tensor import tensor

DOC = Path(__file__).parents[1] / "docs" / "add-an-op.md"


# [1]
@irdl_attr_definition
class AllToAllAttr(CollectiveAttr):
    """Part i of every value along `split` goes to rank i, which joins what it gets along `join`."""

    name = "dist.all_to_all"
    split: IntegerAttr
    join: IntegerAttr
    PHASES: ClassVar[tuple[Phase, ...]] = (Phase.EXCHANGE,)


# [/1]


# [2]
@irdl_op_definition
class AllToAllOp(CollectiveOp):
    """Part i of every value along `split` goes to rank i, which joins what it gets along `join`."""

    name = "dist.all_to_all"
    COLLECTIVE: ClassVar[type[CollectiveAttr]] = AllToAllAttr
    split = prop_def(IntegerAttr)
    join = prop_def(IntegerAttr)

    def wrong_sharding(self, mesh: Mesh) -> str | None:
        before, after = sharding_of(tensor(self.x)), sharding_of(tensor(self.y))
        split, join, dims = self.split.value.data, self.join.value.data, list(before.dims)
        dims[join], dims[split] = dims[join][:-1], (*dims[split], self.axis.data)
        expected = ShardingAttr(Sharding(tuple(dims), before.partial))
        return None if after == expected.data else f"the result has {ShardingAttr(after)}, must have {expected}"

    def wrong_shape(self, mesh: Mesh) -> str | None:
        ranks, x, y = mesh.axis(self.axis.data).size, tensor(self.x), tensor(self.y)
        split, join, dims = self.split.value.data, self.join.value.data, list(x.dims)
        dims[join], dims[split] = dims[join] * ranks, ceildiv(dims[split], ranks)
        expected = x.with_dims(dims)
        return None if y == expected else f"the result is {y}, must be {expected}"


# [/2]


# [3]
@computes(AllToAllAttr)
def run_all_to_all(collective: AllToAllAttr, run: Movement) -> Sequence[Ranked]:
    axis, split, join = run.axis(collective), collective.split.value.data, collective.join.value.data
    (x,) = run.sources
    return [
        {
            rank: np.concatenate([shard(x[other], axis, rank, split) for other in group], axis=join)
            for group in groups(run.ranks, axis)
            for rank in group
        }
    ]


# [/3]


# [4]
class MoveAxis(RewritePattern):
    """An axis that leaves one dim for another goes there directly and not by way of the whole value."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: dist.ReshardOp, rewriter: PatternRewriter) -> None:
        x, y = sharding_of(tensor(op.x)), sharding_of(tensor(op.y))
        match [(dim, *axes) for dim, axes in enumerate(zip(x.dims, y.dims, strict=True)) if axes[0] != axes[1]]:
            case [(join, (*rest, axis), left), (split, own, joined)] if (*own, axis) == joined and tuple(rest) == left:
                properties = {"axis": axis, "split": split, "join": join}
                rewriter.replace(op, AllToAllOp.make([op.x], [op.y.type], op.path.data, properties, like=op))
            case _:
                pass


# [/4]

PROGRAM = """
builtin.module attributes {dist.mesh = #dist.mesh<8 ranks, tp = 4 stride 1, dp = 2 stride 4, pp = 1 stride 8>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%t: !layer.tensor<[batch*q_len], i32, #dist.sharding<[[dp]]>>):
    %w = layer.weight() {axes = ["", ""]} at "w" : !layer.tensor<[64, 32], f32, #dist.sharding<[[tp], []]>>
    %m = dist.reshard(%w) at "w" : !layer.tensor<[64, 32], f32, #dist.sharding<[[], [tp]]>>
    %y = layer.add(%m, %m) at "double" : !layer.tensor<[64, 32], f32, #dist.sharding<[[], [tp]]>>
    layer.return([%y]) at "m"
  }
}
"""
DEPLOYMENT = load_deployment("llama-8b-decode", {"tp": 4, "dp": 2, "batch": 2, "q_len": 1, "kv_len": 4})
VALUES = np.arange(64 * 32, dtype=np.float64).reshape(64, 32)
ENVIRONMENT = Environment({"batch": 2, "q_len": 1, "kv_len": 4}, np.zeros(2, np.int64), {"w": VALUES})


def with_all_to_all() -> ModuleOp:
    """The program after insert-collectives, if `MoveAxis` were among its patterns."""
    module = parse_module(PROGRAM, "program")
    set_target(module, load_chip("sg2262"), load_topology("p1-r1-b1-c8"), DEPLOYMENT)
    PatternRewriteWalker(GreedyRewritePatternApplier([MoveAxis()])).rewrite_module(module)
    module.verify()
    return module


def lowered(level: str) -> ModuleOp:
    module = with_all_to_all()
    names = {"dist": ["localize"], "tile": ["localize", *PIPELINE["tile"]]}
    names["commands"] = [*names["tile"], "emit-g5"]
    run_pipeline(module, [s for s in default_pipeline(DEPLOYMENT, "commands") if s.name in names[level]])
    return module


def the_exchange(module: ModuleOp) -> ExchangeInterface:
    (op,) = (op for op in module.walk() if isinstance(op, ExchangeInterface))
    return op


def test_it_computes_the_same_at_every_level() -> None:
    assert isinstance(the_exchange(with_all_to_all()), AllToAllOp)
    np.testing.assert_array_equal(run_dist(with_all_to_all(), ENVIRONMENT).outputs[0], 2 * VALUES)
    np.testing.assert_array_equal(run_dist(lowered("dist"), ENVIRONMENT).outputs[0], 2 * VALUES)
    np.testing.assert_array_equal(run_tiles(lowered("tile"), ENVIRONMENT).outputs[0], 2 * VALUES)
    np.testing.assert_array_equal(run_commands(lowered("commands"), ENVIRONMENT).outputs[0], 2 * VALUES)


def test_a_fault_in_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above could fail: the parts of the wrong ranks are another value."""
    module = with_all_to_all()
    op = the_exchange(module)
    assert isinstance(op, AllToAllOp)
    op.properties["axis"] = dist.StringAttr("dp")
    with pytest.raises(Exception, match=r"dist.all_to_all at 'w': rank 0 holds \[32, 16\], the type says \[64, 8\]"):
        run_dist(module, ENVIRONMENT)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("whole", "the result has #dist.sharding<[[], [tp]]>, must have #dist.sharding<[[tp, tp], []]>"),
        ("dist", "the result is !layer.tensor<[64, 8], f32>, must be !layer.tensor<[4, 128], f32>"),
    ],
)
def test_a_result_that_it_does_not_make_is_refused(level: str, message: str) -> None:
    module = with_all_to_all() if level == "whole" else lowered("dist")
    op = the_exchange(module)
    assert isinstance(op, AllToAllOp)
    op.split, op.join = op.join, op.split
    with pytest.raises(VerifyException) as error:
        module.verify()
    assert str(error.value) == f"dist.all_to_all at 'w': {message}"


def test_every_model_knows_what_it_costs() -> None:
    modules = [lowered(level) for level in ("dist", "tile", "commands")]
    value = 16 * 32 * 4  # of a rank
    for module in modules:
        op = the_exchange(module)
        exchange = op.exchange()
        assert exchange == the_exchange(modules[0]).exchange()
        assert exchange.link_bytes(4) == expr(value * 3 // 4)
        assert isinstance(op, AllToAllOp | tile.CollectiveOp | g5.CdmaOp)
        target = Target.of(module)
        roofline = ChipCostModel(target).cost(op, {})
        assert roofline is not None and roofline.link_bytes == value * 3 // 4
        assert roofline.bytes_read == roofline.bytes_written == value
        step = next(s for s in evaluate_module(module).steps if s.op == "dist.all_to_all")
        assert (step.stream.value, step.link_bytes) == ("communication", value * 3 // 4)
        assert target.topology is not None
        time = CommProtocol(target.topology, load_accounting("physical")).time_of(op, target, {})
        # One message on a board, and the bytes over 95% of 400 GB/s.
        assert time is not None and time.latency_s == pytest.approx(0.69e-6, rel=1e-12)
        assert time.transfer_s == pytest.approx(value * 3 / 4 / 380e9, rel=1e-12)
        traffic = link_traffic(module)
        # Up to the switch of the board and down again.
        assert {link.bytes for link in traffic.links} == {value * 3 / 4} and len(traffic.links) == 2 * 4 * 2


def test_it_reads_back() -> None:
    context = Context()
    context.load_dialect(Builtin)
    context.load_dialect(Dialect("dist", [AllToAllOp], [AllToAllAttr]))
    text = "#dist.all_to_all<tp, split = 1, join = 0>"
    assert str(Parser(context, text).parse_attribute()) == text
    (line,) = (line for line in module_text(lowered("commands")).splitlines() if "g5.cdma" in line)
    assert f"g5.cdma {{collective = {text}, ins = " in line


def test_one_without_semantics_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody sees who forgets step 3."""
    monkeypatch.setattr("pmc.backends.numeric.collectives._COMPUTES", {})
    with pytest.raises(Exception, match="has no numeric semantics"):
        run_dist(with_all_to_all(), ENVIRONMENT)


def test_the_doc_shows_the_code_of_this_file() -> None:
    section = DOC.read_text().partition("# Add a collective")[2]
    shown = dict(re.findall(r"# \[(\d)\]\n(.*?)# \[/\1\]", Path(__file__).read_text(), re.DOTALL))
    assert sorted(shown) == ["1", "2", "3", "4"]
    for number, body in shown.items():
        assert dedent(body).strip() in section, f"step {number} of {DOC.name} is not the code of this test"
    rows = re.findall(r"^\| (\d)\. .*? \| `([\w/.]+)` \|", section, re.MULTILINE)
    assert [number for number, _ in rows] == ["1", "2", "3", "4"] and len({file for _, file in rows}) == 4
    for _, file in rows:
        assert (DOC.parents[1] / file).exists()
