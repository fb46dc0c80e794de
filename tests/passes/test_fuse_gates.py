"""`fuse-gates`: what becomes one op and what stays, the kernel of that op, its values, and the time that it saves."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.arg_spec import parse_pipeline

from pmc.backends.g5.stream import simulate
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.dialects import g5, layer, tile
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.analyses.matmul_tiling import lmem_bytes, tiling_of
from pmc.dialects.analyses.workload import matmul_shape
from pmc.dialects.arch import ChipAttr
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.fuse_gates import FuseGatesPass

CHIP = load_chip("sg2262")
X = "!layer.tensor<[64, 1024], bf16>"
W = "!layer.tensor<[1024, 512], bf16>"
Y = "!layer.tensor<[64, 512], bf16>"
GATE = f'%g = layer.matmul(%x, %wg) at "gate_proj" : {Y}'
UP = f'%u = layer.matmul(%x, %wu) at "up_proj" : {Y}'
SILU_MUL = f'%y = layer.silu_mul(%g, %u) at "silu_mul" : {Y}'


def program(*lines: str, result: str = "%y") -> ModuleOp:
    body = "\n".join(lines)
    text = f"""
builtin.module attributes {{dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>}} {{
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x: {X}, %z: {X}):
  %wg = layer.weight() {{axes = ["", ""]}} at "gate_proj.weight" : {W}
  %wu = layer.weight() {{axes = ["", ""]}} at "up_proj.weight" : {W}
  {body}
  layer.return([{result}]) at "p"
}} }}"""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def fused(module: ModuleOp) -> list[str]:
    FuseGatesPass().apply(make_context(), module)
    module.verify()
    return [op.name.removeprefix("layer.") for op in module.walk() if isinstance(op, layer.RowOp | layer.MatrixOp)]


def test_gate_and_up_keep_their_places() -> None:
    module = program(GATE, UP, SILU_MUL)
    assert fused(module) == ["gated_matmul"]
    (op,) = (op for op in module.walk() if isinstance(op, layer.GatedMatmulOp))
    paths = [value.owner.path.data for value in (op.gate, op.up) if isinstance(value.owner, layer.WeightOp)]
    assert op.path.data == "silu_mul" and paths == ["gate_proj.weight", "up_proj.weight"]


@pytest.mark.parametrize(
    ("lines", "result", "kept"),
    [
        # A product is read by something else too.
        ((GATE, UP, SILU_MUL), "%y, %u", ["matmul", "matmul", "silu_mul"]),
        # Products of two x.
        ((GATE, UP.replace("%x", "%z"), SILU_MUL), "%y", ["matmul", "matmul", "silu_mul"]),
        # The product with itself has one matrix.
        ((GATE, SILU_MUL.replace("%u", "%g")), "%y", ["matmul", "silu_mul"]),
        # Another activation, or a bias before it, which the kernel of the products does not know.
        (
            (GATE, UP, SILU_MUL.replace("silu_mul(%g, %u)", 'gated_activation(%g, %u) {function = "gelu"}')),
            "%y",
            ["matmul", "matmul", "gated_activation"],
        ),
        (
            (
                '%b = layer.weight() {axes = [""], role = "bias"} at "b" : !layer.tensor<[512], bf16>',
                GATE,
                f'%h = layer.add_bias(%g, %b) at "gate_proj.add_bias" : {Y}',
                UP,
                SILU_MUL.replace("%g", "%h"),
            ),
            "%y",
            ["matmul", "add_bias", "matmul", "silu_mul"],
        ),
        # Weights of two types.
        (
            (
                '%w8 = layer.weight() {axes = ["", ""]} at "w8" : !layer.tensor<[1024, 512], f8E4M3FN>',
                GATE,
                UP.replace("%wu", "%w8"),
                SILU_MUL,
            ),
            "%y",
            ["matmul", "matmul", "silu_mul"],
        ),
        # What was added up over ranks is no product of this one.
        (
            (
                GATE.replace("%g", "%p").replace("bf16>", "bf16, #dist.partial<tp>>"),
                f'%g = dist.all_reduce(%p) {{axis = "tp"}} at "gate_proj" : {Y}',
                UP,
                SILU_MUL,
            ),
            "%y",
            ["matmul", "matmul", "silu_mul"],
        ),
    ],
)
def test_what_stays_apart(lines: tuple[str, ...], result: str, kept: list[str]) -> None:
    assert fused(program(*lines, result=result)) == kept


def parsed(plan: str) -> PlanAttr:
    found = Parser(make_context(), f"#tile.plan<{plan}>").parse_attribute()
    assert isinstance(found, PlanAttr)
    return found


def lowered(option: str, plan: str = "") -> ModuleOp:
    module = program(GATE, UP, SILU_MUL)
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    if plan:
        FuseGatesPass().apply(make_context(), module)
        (op,) = (op for op in module.walk() if isinstance(op, layer.GatedMatmulOp))
        op.attributes[PLAN] = parsed(plan)
    passes = f"fuse-gates{option},select-tiles,lower-to-tiles,allocate-lmem,allocate-dram,emit-g5"
    run_pipeline(module, list(parse_pipeline(passes)))
    return module


def outputs(module: ModuleOp) -> Array:
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    values = np.random.default_rng(0)
    arrays = {
        op.path.data: values.standard_normal((1, *op.memref.dims)) / 8
        for op in stream.walk()
        if isinstance(op, g5.ArrayOp) and op.kind.data in HOST_KINDS
    }
    (found,) = run_stream(stream, arrays, CHIP.commands.lmem.bytes_per_core).outputs.values()
    return found


PLANS = {
    "sums in LMEM": 'cores [1, 1, 32, 1], tile [64, 16, 256], order "gmnk", slots 2, multicast [a, b], merge none',
    "sums of several steps in DRAM":
        'cores [1, 2, 16, 1], tile [16, 32, 512], order "gnkm", slots 2, multicast [a, b], merge none',
    "cores share k": 'cores [1, 1, 16, 4], tile [64, 32, 256], order "gmnk", slots 2, multicast [a, b], merge sdma',
    "through DRAM": 'cores [1, 1, 8, 4], tile [32, 32, 256], order "gmnk", slots 2, multicast [a, b], merge dram',
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_one_kernel_computes_what_three_do_but_for_the_rounding_of_the_products(plan: str) -> None:
    before, after = outputs(lowered("{enabled=false}")), outputs(lowered("", plan))
    # Each of two products is off by at most 2**-8 of itself, the slope of silu is at most 1.1.
    assert np.all(np.abs(before - after) <= 2**-6 * (np.abs(after) + np.abs(after).max() * 0.05))
    assert 0 < (before != after).mean() < 0.75


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_buffers_take_what_the_plan_says(plan: str) -> None:
    module = program(GATE, UP, SILU_MUL)
    FuseGatesPass().apply(make_context(), module)
    (op,) = (op for op in module.walk() if isinstance(op, layer.GatedMatmulOp))
    tiling = parsed(plan)
    op.attributes[PLAN] = tiling
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    said = int(lmem_bytes(matmul_shape(op), tiling_of(tiling), CHIP)[0])
    run_pipeline(module, list(parse_pipeline("lower-to-tiles,allocate-lmem")))
    assert sum(len(alloc.byte_range) for alloc in module.walk() if isinstance(alloc, tile.AllocOp)) == said


def test_no_product_goes_to_dram() -> None:
    module = lowered("")
    (program_,) = (op for op in module.walk() if isinstance(op, g5.ProgramOp))
    stores = [op for op in program_.walk() if isinstance(op, g5.GdmaOp) and op.direction.data == "store"]
    kinds = [op.kind.name for op in program_.walk() if isinstance(op, g5.VecOp)]
    assert len(stores) == 1 and kinds.count("tile.silu_mul") == 1


def test_one_kernel_takes_less_time_than_three() -> None:
    before, after = (simulate(lowered(option)).total_us for option in ("{enabled=false}", ""))
    assert 0.4 <= after / before <= 0.6, (before, after)


def test_the_tile_level_has_both_blocks_of_b_for_one_of_a() -> None:
    module = program(GATE, UP, SILU_MUL)
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    run_pipeline(module, list(parse_pipeline("fuse-gates,select-tiles,lower-to-tiles")))
    (kernel,) = (op for op in module.walk() if isinstance(op, tile.KernelOp))
    loads = [op for op in kernel.walk() if isinstance(op, tile.LoadOp)]
    products = [op for op in kernel.walk() if isinstance(op, tile.MmaOp)]
    assert kernel.op_name.data == "layer.gated_matmul" and len(loads) == 3 and len(products) == 2
    assert products[0].a is products[1].a and products[0].acc is not products[1].acc
