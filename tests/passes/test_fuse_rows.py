"""`fuse-rows`: what becomes one kernel and what stays, the values that it keeps, and the time that it saves."""

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
from pmc.dialects import g5, layer
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import ChipAttr
from pmc.passes.fuse_rows import FuseRowsPass

CHIP = load_chip("sg2262")
X = "!layer.tensor<[64, 4096], bf16>"
Q = "!layer.tensor<[64, 4096], f8E4M3FN>"
RESIDUAL = f'%r = layer.add(%x, %d) at "residual" : {X}'
NORM = f'%n = layer.rms_norm(%r, %w) {{eps = 1.0e-05, group = 4096}} at "norm" : {X}'
QUANTIZE = f'%q = layer.quantize(%n) at "norm.quantize" : {Q}'


def program(*lines: str, result: str = "%q") -> ModuleOp:
    body = "\n".join(lines)
    text = f"""
builtin.module attributes {{dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>}} {{
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x: {X}, %d: {X}):
  %w = layer.weight() {{axes = [""]}} at "norm.weight" : !layer.tensor<[4096], bf16>
  {body}
  layer.return([{result}]) at "p"
}} }}"""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def fused(module: ModuleOp) -> list[str]:
    FuseRowsPass().apply(make_context(), module)
    module.verify()
    return [op.name.removeprefix("layer.") for op in module.walk() if isinstance(op, layer.RowOp | layer.MatrixOp)]


def test_a_residual_its_norm_and_the_conversion_are_one_op_at_the_path_of_the_norm() -> None:
    module = program(RESIDUAL, NORM, QUANTIZE, result="%q, %r")
    assert fused(module) == ["add_rms_norm"]
    (op,) = (op for op in module.walk() if isinstance(op, layer.AddRmsNormOp))
    assert op.path.data == "norm" and [str(r.type) for r in op.results] == [X, Q]


@pytest.mark.parametrize(
    ("lines", "result", "kept"),
    [
        ((RESIDUAL, NORM), "%n", ["add_rms_norm"]),
        # A norm without a gain.
        ((RESIDUAL, NORM.replace("%r, %w", "%r")), "%n", ["add", "rms_norm"]),
        # The sum is read before its norm.
        (
            (RESIDUAL, f'%u = layer.silu_mul(%r, %r) at "u" : {X}', NORM),
            "%n, %u",
            ["add", "silu_mul", "rms_norm"],
        ),
        # Norms of heads.
        (
            (
                '%v = layer.weight() {axes = [""]} at "v" : !layer.tensor<[128], bf16>',
                RESIDUAL,
                NORM.replace("%w", "%v").replace("4096}", "128}"),
            ),
            "%n",
            ["add", "rms_norm"],
        ),
        # The norm is read in its own type too.
        ((RESIDUAL, NORM, QUANTIZE), "%q, %n", ["add_rms_norm", "quantize"]),
        # An activation and a bias convert what they give.
        (
            (
                f'%a = layer.activation(%x) {{function = "gelu"}} at "a" : {X}',
                f'%b = layer.add_bias(%a, %w) at "b" : {X}',
                f'%q = layer.quantize(%b) at "b.quantize" : {Q}',
            ),
            "%q",
            ["activation", "add_bias"],
        ),
        # What comes from a collective, or from outside, is converted by itself.
        (
            (
                f'%g = dist.all_reduce(%p) {{axis = "tp"}} at "g" : {X}',
                f'%q = layer.quantize(%g) at "g.quantize" : {Q}',
            ),
            "%q",
            ["quantize"],
        ),
        ((f'%q = layer.quantize(%x) at "x.quantize" : {Q}',), "%q", ["quantize"]),
    ],
)
def test_what_is_fused_and_what_stays(lines: tuple[str, ...], result: str, kept: list[str]) -> None:
    if any("%p" in line for line in lines):
        matmul = "layer.matmul(%x, %m)"
        partial = X.replace("bf16>", "bf16, #dist.partial<tp>>")
        weight = '%m = layer.weight() {axes = ["", ""]} at "m" : !layer.tensor<[4096, 4096], bf16>'
        lines, kept = (weight, f'%p = {matmul} at "p.y" : {partial}', *lines), ["matmul", *kept]
    assert fused(program(*lines, result=result)) == kept


def test_a_gain_of_one_and_the_weight_stays_so() -> None:
    module = program(RESIDUAL, NORM.replace("group", "zero_centered = unit, group"), result="%n")
    assert fused(module) == ["add_rms_norm"]
    (op,) = (op for op in module.walk() if isinstance(op, layer.AddRmsNormOp))
    assert op.zero_centered is not None


def lowered(option: str, result: str = "%q") -> ModuleOp:
    module = program(RESIDUAL, NORM, QUANTIZE, result=result)
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    passes = f"fuse-rows{option},select-tiles,lower-to-tiles,allocate-lmem,allocate-dram,emit-g5"
    run_pipeline(module, list(parse_pipeline(passes)))
    return module


@pytest.mark.parametrize("result", ["%q", "%r"])
def test_one_kernel_computes_what_three_do_but_for_one_rounding(result: str) -> None:
    found: list[Array] = []
    for option in ("{enabled=false}", ""):
        (stream,) = (op for op in lowered(option, result).walk() if isinstance(op, g5.StreamOp))
        values = np.random.default_rng(0)
        arrays = {
            op.path.data: values.standard_normal((1, *op.memref.dims))
            for op in stream.walk()
            if isinstance(op, g5.ArrayOp) and op.kind.data in HOST_KINDS
        }
        found += run_stream(stream, arrays, CHIP.commands.lmem.bytes_per_core).outputs.values()
    before, after = found
    different = (before != after).mean()
    # A step of f8E4M3FN is an eighth of the power of two below, and never less than 2**-9.
    assert np.all(np.abs(before - after) <= np.maximum(np.abs(after) / 8, 2**-9))
    assert 0 < different < 0.05 if result == "%q" else different == 0


def test_one_kernel_takes_less_time_than_three() -> None:
    before, after = (simulate(lowered(option, "%q, %r")).total_us for option in ("{enabled=false}", ""))
    assert 0.4 <= after / before <= 0.6, (before, after)
