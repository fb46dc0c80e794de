"""The evaluation of hand-written modules, whose numbers follow from the chip file by a short sum."""

from __future__ import annotations

import csv
import io
import json

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.backends.evaluate import COLUMNS, EngineResult, evaluate_module
from pmc.compiler.config import load_accounting, load_chip, load_topology
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import Arch, ChipAttr, TopologyAttr
from pmc.dialects.dist import Dist
from pmc.dialects.errors import PmcError
from pmc.dialects.layer import Layer

MATMUL = """
builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch*q_len, 4096], f8E4M3FN>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 4096], f8E4M3FN>
    %y = layer.repeat 5 from 0 of 5 (%h = %x) at "blocks" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN> {
      %p = layer.matmul(%h, %w) at "blocks.proj" : !layer.tensor<[batch*q_len, 4096], bf16>
      %q = layer.quantize(%p) at "blocks.proj.quantize" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN>
      layer.yield([%q]) at "blocks"
    }
    layer.return([%y]) at "m"
  }
}
"""

STAGES = """
builtin.module attributes {dist.mesh = #dist.mesh<32 ranks, tp = 16 stride 1, pp = 2 stride 16>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch, 4096], bf16, #dist.partial<tp>>):
    dist.stage() {index = 0} at "" {
      %a = dist.all_reduce(%x) {axis = "tp"} at "o" : !layer.tensor<[batch, 4096], bf16>
      dist.send(%a) {peer = 1, channel = 0} at "o"
    }
    dist.stage() {index = 1} at "" {
      %b = dist.recv() {peer = 0, channel = 0} at "o" : !layer.tensor<[batch, 4096], bf16>
      %c = layer.add(%b, %b) at "double" : !layer.tensor<[batch, 4096], bf16>
      layer.return([%c]) at "m"
    }
  }
}
"""


def parse(text: str, chip: str | None = "sg2262", topology: str | None = "p1-r1-b4-c32") -> ModuleOp:
    context = Context()
    for dialect in (Builtin, Layer, Dist, Arch):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    if chip is not None:
        module.attributes["arch.chip"] = ChipAttr(load_chip(chip))
    if topology is not None:
        module.attributes["arch.topology"] = TopologyAttr(load_topology(topology))
    return module


def run(text: str, **bindings: int) -> EngineResult:
    return evaluate_module(parse(text), "chip", bindings)


def test_a_matmul_is_the_larger_of_its_two_rooflines() -> None:
    step = run(MATMUL, batch=2, q_len=1, kv_len=1).steps[0]
    assert (step.path, step.op, step.count) == ("blocks.proj", "layer.matmul", 5)
    assert step.flops == 5 * 2 * 2 * 4096 * 4096
    assert step.bytes_read == 5 * (2 * 4096 + 4096 * 4096)
    assert step.bytes_written == 5 * 2 * 4096 * 2
    assert step.bottleneck.name == "BW_BOUND"
    assert step.time_us == pytest.approx((step.bytes_read + step.bytes_written) / 8601.6e9 * 1e6, rel=1e-12)
    assert step.compute_us == pytest.approx(step.flops / 786.432e12 * 1e6, rel=1e-12)

    step = run(MATMUL, batch=4096, q_len=1, kv_len=1).steps[0]
    assert step.bottleneck.name == "COMPUTE_BOUND"
    assert step.time_us == pytest.approx(5 * 2 * 4096**3 / 786.432e12 * 1e6, rel=1e-12)


def test_the_rows_add_up_to_the_total_exactly() -> None:
    for text in (MATMUL, STAGES):
        result = run(text, batch=37, q_len=1, kv_len=1)
        assert sum(step.time_us for step in result.steps) == result.total_us
        assert sum(step.share for step in result.steps) == pytest.approx(1.0, rel=1e-12)
        assert sum(stage.time_us for stage in result.stages) == pytest.approx(result.total_us, rel=1e-12)
        assert sum(result.bottleneck_summary.values()) == pytest.approx(result.total_us, rel=1e-12)


def test_views_and_weights_have_no_row() -> None:
    assert [step.op for step in run(MATMUL, batch=1, q_len=1, kv_len=1).steps] == ["layer.matmul", "layer.quantize"]


def test_a_collective_is_charged_to_the_links_that_its_steps_use() -> None:
    result = run(STAGES, batch=64)
    reduce, send, recv, add = result.steps
    value = 64 * 4096 * 2
    # 16 ranks span two boards of 8: 2 (n-1)/n of the value.  In two levels 2 x 7/8 of it stay on the board, with links
    # of 400 GB/s, and 2 x 1/2 of an eighth goes between boards, 450 GB/s; a flat ring would be held up by the 400.
    assert reduce.link_bytes == 2 * 15 * value // 16
    assert reduce.comm_us == pytest.approx((2 * 7 / 8 / 400e9 + 1 / 8 / 450e9) * value * 1e6, rel=1e-12)
    assert reduce.time_us == reduce.comm_us and reduce.bottleneck.name == "COMM_BOUND"
    # Rank r of stage 0 sends to rank r + 16, always on another board.
    assert send.link_bytes == value and send.comm_us == pytest.approx(value / 450e9 * 1e6, rel=1e-12)
    assert (recv.link_bytes, recv.bytes_written) == (0, value)
    assert [s.stage for s in result.steps] == [0, 0, 1, 1]
    assert result.bottleneck_stage == 0
    assert add.bytes_read == value, "a value used twice is read once"


def test_a_group_on_one_board_uses_the_links_of_the_board() -> None:
    text = STAGES.replace("tp = 16 stride 1, pp = 2 stride 16", "tp = 8 stride 1, pp = 2 stride 8")
    reduce = run(text, batch=64).steps[0]
    assert reduce.comm_us == pytest.approx(2 * 7 * 64 * 4096 * 2 / 8 / 400e9 * 1e6, rel=1e-12)


def test_the_table_is_stable_in_every_format() -> None:
    result = run(MATMUL, batch=3, q_len=1, kv_len=1)
    rows = result.to_rows()
    assert all(tuple(row) == COLUMNS for row in rows)
    data = json.loads(result.to_json())
    assert data["steps"] == rows
    assert data["total_us"] == result.total_us and data["bindings"] == {"batch": 3, "q_len": 1, "kv_len": 1}
    read = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [float(row["time_us"]) for row in read] == [row["time_us"] for row in rows]


def test_results_on_unvalidated_links_are_relative_only() -> None:
    assert run(MATMUL, batch=1, q_len=1).unvalidated == ("granularity chip on sg2262",)
    result = run(STAGES, batch=1)
    assert "topology.links.b2b.gb_per_s" in result.unvalidated
    assert result.to_dict()["relative_only"] is True


@pytest.mark.parametrize(
    ("change", "bindings", "message"),
    [
        ("", {"batch": 1}, "layer.matmul at 'blocks.proj': symbol 'q_len' of 'batch*q_len*33554432' has no value"),
        ("", {"batch": 0}, "symbol 'batch' is 0, must be at least 1"),
        ("", {"bach": 1}, "unknown symbol 'bach'; the symbols of a program are batch, q_len, kv_len"),
        (
            "f8E4M3FN>f32",
            {"batch": 1, "q_len": 1},
            "layer.matmul at 'blocks.proj': chip sg2262: the matrix unit has no rate for element type 'f32'",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(change: str, bindings: dict[str, int], message: str) -> None:
    old, _, new = change.partition(">")
    text = MATMUL.replace(old, new) if change else MATMUL
    with pytest.raises(PmcError) as caught:
        run(text, **bindings)
    assert str(caught.value).startswith(message)


def test_a_missing_target_is_named() -> None:
    with pytest.raises(PmcError, match=r"^the module has no attribute 'arch.chip'"):
        evaluate_module(parse(MATMUL, chip=None), "chip", {"batch": 1, "q_len": 1})
    with pytest.raises(PmcError, match=r"^dist.all_reduce at 'o': the module has no attribute 'arch.topology'"):
        evaluate_module(parse(STAGES, topology=None), "chip", {"batch": 1})
    with pytest.raises(PmcError, match=r"^unknown granularity 'lane'; must be one of chip, core, tile"):
        evaluate_module(parse(MATMUL), "lane")
    with pytest.raises(PmcError, match=r"^the deployment has 32 ranks, topology p1-r1-b1-c8 has 8 chips"):
        evaluate_module(parse(STAGES, topology="p1-r1-b1-c8"), "chip", {"batch": 1})
    with pytest.raises(PmcError, match=r"^expected one program .* found a module at the empty level"):
        evaluate_module(ModuleOp([]), "chip")
