"""What commands say that they read and write: by hand for each command, and the same at the tile and command levels."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, parse_module
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import g5, tile
from pmc.dialects.accesses import Access

KERNEL = """builtin.module attributes {dist.mesh = #dist.mesh<4 ranks, tp = 4 stride 1>} {
  tile.program() {sym_name = "step", phase = "decode"} at "step" {
    %w = tile.global() {kind = "weight", layers = true} at "w" : !tile.memref<[3, 8, 16], bf16>
    %i = tile.global() {kind = "input", layers = false} at "i" : !tile.memref<[6], i32>
    %t = tile.global() {kind = "weight", layers = false} at "t" : !tile.memref<[100, 16], bf16>
    %u = tile.global() {kind = "activation", layers = false} at "u" : !tile.memref<[100, 16], bf16>
    tile.repeat() {symbol = "layer", count = 3, first = 0} at "blocks" {
      tile.kernel() {cores = 1, op_name = "x"} at "p" {
        tile.for k < <4> at "p" {
          %a = tile.alloc() {slots = 1} at "p" : !tile.buffer<[8, 16], bf16>
          %n = tile.alloc() {slots = 1} at "p" : !tile.buffer<[1, 8], i32>
          %c = tile.alloc() {slots = 1} at "p" : !tile.buffer<[8, 8], f32>
          OP
        }
      }
    }
  }
}
"""


def described(access: Access) -> str:
    mode = ("r" if access.reads == 1 else f"r({access.reads})" if access.may_read else "") + "w" * access.writes
    shape = "x".join(str(n) for n in access.shape)
    return f"{access.role} {access.memory} {mode} [{shape}] {access.element_type}{' indexed' * access.indexed}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "tile.load(%w, %a) {offsets = [<layer>, <0>, <k*4>], sizes = [<2>, <3>, <4>], row = <1>}",
            ["dram dram r [2x3x4] bf16", "lmem lmem w [6x4] bf16"],
        ),
        (
            "tile.store(%w, %a) {offsets = [<layer>, <0>, <0>], sizes = [<1>, <k>, <4>]}",
            ["dram dram w [1xkx4] bf16", "lmem lmem r [kx4] bf16"],
        ),
        (
            "tile.gather(%t, %n, %a) {count = <k>, column = <8>, columns = <4>}",
            ["dram dram r [kx4] bf16 indexed", "index lmem r [1xk] i32", "lmem lmem w [kx4] bf16"],
        ),
        (
            "tile.mma(%c, %a, %a) {m = <2>, n = <3>, k = <4>, accumulate = <k>, transpose_b = true}",
            ["a lmem r [2x4] bf16", "b lmem r [3x4] bf16", "acc lmem r(k)w [2x3] f32"],
        ),
        (
            "tile.mma(%c, %a, %a) {m = <2>, n = <3>, k = <4>, accumulate = <0>, transpose_b = false}",
            ["a lmem r [2x4] bf16", "b lmem r [4x3] bf16", "acc lmem w [2x3] f32"],
        ),
        (
            "tile.vector([%c], [%a], [%c, %c, %c]) {kind = #tile.softmax_step<scale = 1.0, causal = false, "
            "position = 0, key = 0>, rows = <2>, columns = <3>}",
            [
                "scores lmem r [2x3] f32", "p lmem w [2x3] bf16", "row_max lmem rw [2x1] f32",
                "row_sum lmem rw [2x1] f32", "acc lmem rw [2x8] f32",
            ],
        ),
        (
            "tile.collective([%t], [%u]) {collective = #dist.all_reduce<tp>}",
            ["in0 dram r [100x16] bf16", "out0 dram w [100x16] bf16"],
        ),
    ],
)  # fmt: skip
def test_accesses_by_hand(text: str, expected: list[str]) -> None:
    module = parse_module(KERNEL.replace("OP", f'{text} at "p"'), "x.mlir")
    (op,) = (op for op in module.walk() if isinstance(op, tile.CommandOp))
    assert [described(access) for access in op.accesses()] == expected
    values = dict.fromkeys(a.value for a in op.accesses() if "r" in described(a).split()[2])
    assert dict.fromkeys(op.reads()) == values


@cache
def lowered(model: str, deployment: str, level: Any) -> ModuleOp:
    small = shrink_deployment(load_deployment(deployment))
    config, source = load_model_config(model)
    module = shrink_model(import_hf(config, source, model), small, 3)
    return compile_model(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), small, level)


def signature(access: Access) -> tuple[object, ...]:
    return (
        access.role,
        access.memory,
        str(access.elements),
        access.element_type,
        access.reads,
        access.writes,
        access.indexed,
    )


@pytest.mark.parametrize(
    ("model", "deployment"), [("deepseek-v3", "dsv3-decode-ep32"), ("llama-3.1-8b", "llama-8b-prefill")]
)
def test_a_command_uses_what_its_tile_op_uses(model: str, deployment: str) -> None:
    """Role by role as many elements, read and written alike; only places differ between the levels."""
    ops = [op for op in lowered(model, deployment, "tile").walk() if isinstance(op, tile.CommandOp)]
    commands = [op for op in lowered(model, deployment, "commands").walk() if isinstance(op, g5.CommandOp)]
    assert len(ops) == len(commands) > 20
    assert {type(op) for op in ops} >= {tile.LoadOp, tile.StoreOp, tile.GatherOp, tile.MmaOp, tile.VectorOp}
    for op, command in zip(ops, commands, strict=True):
        assert sorted(map(str, map(signature, op.accesses()))) == sorted(map(str, map(signature, command.accesses())))
        assert (op.UNIT, op.flops()) == (command.UNIT, command.flops())


def test_the_extents_of_every_command_lie_in_its_buffer() -> None:
    """Rows of a matrix are no longer than its pitch, so that the bytes that two commands use are told apart rightly."""
    for op in lowered("deepseek-v3", "dsv3-decode-ep32", "commands").walk():
        if isinstance(op, g5.CommandOp):
            for access in op.accesses():
                assert len(access.shape) == len(access.strides)
                if access.memory == "lmem" and access.shape[-1].is_constant:
                    assert access.strides[-1] == 1
                    pitches = [s.constant for s in access.strides[:-1] if s.is_constant]
                    assert all(access.shape[-1].constant <= pitch for pitch in pitches)
