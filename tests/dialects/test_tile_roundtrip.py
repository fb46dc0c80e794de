"""The tile dialect: text of types and loops, what verifiers refuse, and compiled programs that read back."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import bf16, f32
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, module_text, parse_module
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import tile
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr, floordiv, mod
from pmc.dialects.tile import BufferType, CoresAttr, MemRefType
from pmc.dialects.tile_plan import PlanAttr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (MemRefType.of([64, 128], bf16), "!tile.memref<[64, 128], bf16>"),
        (MemRefType.of([64, 128], bf16, [128, 1]), "!tile.memref<[64, 128], bf16>"),
        (MemRefType.of([64, 128], bf16, [192, 1], 64), "!tile.memref<[64, 128], bf16, strides [192, 1], offset 64>"),
        (MemRefType.of([64], bf16, [1], 4), "!tile.memref<[64], bf16, strides [1], offset 4>"),
        (BufferType.of(64, 512, f32), "!tile.buffer<[64, 512], f32>"),
        (
            PlanAttr.of([1, 4, 16, 1], [64, 8, 512], "gmnk"),
            '#tile.plan<cores [1, 4, 16, 1], tile [64, 8, 512], order "gmnk", slots 2>',
        ),
        (
            PlanAttr.of([1, 4, 4, 4], [64, 8, 512], "gmkn", 1, ["a", "b"], "sdma"),
            '#tile.plan<cores [1, 4, 4, 4], tile [64, 8, 512], order "gmkn", slots 1, multicast [a, b], merge sdma>',
        ),
        (
            PlanAttr.of([1], [2], "tn", 2, [], "dram"),
            '#tile.plan<cores [1], tile [2], order "tn", slots 2, merge dram>',
        ),
        (CoresAttr.of(floordiv(expr("core"), 16) * 16, 16), "#tile.cores<floordiv(core, 16)*16, 16>"),
        (CoresAttr.of(mod(expr("core"), 4), 16, 4), "#tile.cores<mod(core, 4), 16 stride 4>"),
    ],
)
def test_text_of_types(value: MemRefType | BufferType | PlanAttr | CoresAttr, text: str) -> None:
    assert str(value) == text
    assert Parser(make_context(), text).parse_attribute() == value


def test_sizes() -> None:
    view = MemRefType.of([4, 8], bf16, [16, 1], 3)
    assert (view.dims, view.steps, view.bytes, view.is_dense) == ((4, 8), (16, 1), 64, False)
    assert BufferType.of(3, 5, f32).bytes == 60
    assert tile.dense_strides((expr(2), expr(3), expr(4))) == (expr(12), expr(4), expr(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!tile.buffer<[4], f32>", "a buffer has rows and columns, found [4]"),
        ("!tile.memref<[4], f32, strides [1]>", "expected ','"),
        ("#tile.plan<cores [1], order>", "expected 'tile'"),
        ('#tile.plan<cores [1], tile [1], order "oi">', "expected ','"),
        ('#tile.plan<cores [1], tile [1], order "oi", slots 2, multicasts [w]>', "expected 'merge'"),
        ("#tile.cores<core, 4 step 2>", "'>' expected"),
    ],
)
def test_malformed_types(text: str, message: str) -> None:
    with pytest.raises((ParseError, VerifyException)) as error:
        Parser(make_context(), text).parse_attribute()
    assert message.lower() in str(error.value).lower()


KERNEL = """builtin.module {
  tile.program() {sym_name = "step", phase = "decode"} at "step" {
    %w = tile.global() {kind = "weight", layers = true} at "w" : !tile.memref<[3, 8, 16], bf16>
    tile.repeat() {symbol = "layer", count = 3, first = 0} at "blocks" {
      tile.kernel() {cores = 4, op_name = "copy"} at "blocks.copy" {
        tile.for k < <4> at "blocks.copy" {
          %b = tile.alloc() {slots = 2} at "blocks.copy" : !tile.buffer<[8, 4], bf16>
          tile.load(%w, %b) {offsets = [<layer>, <0>, <k*4>], sizes = [<1>, <8>, <4>]} at "p"
          tile.vector([%b], [%b], []) {kind = #tile.convert, rows = <8>, columns = <4>} at "p"
        }
      }
    }
  }
}
"""


def test_a_kernel_reads_and_prints() -> None:
    module = parse_module(KERNEL, "kernel.mlir")
    assert module_text(module) == KERNEL
    load = next(op for op in module.walk() if isinstance(op, tile.LoadOp))
    assert list(tile.symbols_in_scope(load)) == ["k", "k.seq", "core", "layer"]
    assert load.reads() == (load.memref,) and load.writes() == (load.buffer,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "weight"', 'kind = "wight"', "tile.global at 'w': unknown kind 'wight'"),
        ("layers = true", "layers = true, first = 2", "tile.global at 'w': first and total must stand together"),
        ("layers = true", "layers = false, first = 0, total = 6", "first and total need a layer dim"),
        ("layers = true", "layers = true, first = 4, total = 6", "tile.global at 'w': layers 4..6 of 6"),
        (
            "layers = true",
            "layers = true, sharding = #dist.sharding<[[], [], []]>",
            "tile.global at 'w': without the dim that counts layers, the array has 2 dims, sharding has 3",
        ),
        ("layers = true", 'layers = false, axes = ["a"]', "tile.global at 'w': the array has 3 dims, axes has 1"),
        ("sizes = [<1>, <8>, <4>]", "sizes = [<8>, <4>]", "tile.load at 'p': needs 3 offsets and sizes"),
        ("kind = #tile.convert", "kind = #tile.add", "tile.vector #tile.add at 'p': takes (2, 1, 0) inputs, outputs"),
        ("k < <4>", "k < 4", "'<' expected"),
    ],
)
def test_what_is_wrong_is_one_line(old: str, new: str, message: str) -> None:
    assert old in KERNEL
    with pytest.raises(PmcError) as error:
        parse_module(KERNEL.replace(old, new), "kernel.mlir")
    assert message.lower() in str(error.value).lower() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "deployment", "changes"),
    [
        ("llama-3.1-8b", "llama-8b-prefill", {"tp": 2, "pp": 2, "sp": True}),
        ("deepseek-v3", "dsv3-decode-ep32", {"tp": 2, "dp": 2, "ep": 4}),
    ],
)
def test_a_compiled_program_reads_back(model: str, deployment: str, changes: dict[str, object]) -> None:
    small = shrink_deployment(load_deployment(deployment, changes))
    config, source = load_model_config(model)
    module = shrink_model(import_hf(config, source, model), small, 3)
    compile_model(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), small, "tile")
    for generic in (False, True):
        text = module_text(module, generic)
        again = parse_module(text, "tile.mlir")
        assert again.is_structurally_equivalent(module) and module_text(again, generic) == text
