"""`emit-g5` on a hand-written matmul kernel, and the errors of kernels that cannot become commands."""

from __future__ import annotations

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.dialects import g5, layer, tile
from pmc.dialects.dist import Dist
from pmc.passes.base import PassError
from pmc.passes.emit_g5 import EmitG5Pass

MATMUL = """
builtin.module {
  tile.program() {sym_name = "step", phase = "decode"} at "" {
    %x = tile.global() {kind = "input", layers = false, address = 0} at "x" : !tile.memref<[64, 1024], f8E4M3FN>
    %w = tile.global() {kind = "weight", layers = false, address = 65536} at "w"
      : !tile.memref<[1024, 32], f8E4M3FN>
    %y = tile.global() {kind = "output", layers = false, address = 98304} at "y" : !tile.memref<[64, 32], bf16>
    tile.kernel() {cores = 2, op_name = "layer.matmul"} at "mm" {
      tile.for n < <2> at "mm" {
        %c = tile.alloc() {slots = 2, address = 0} at "mm" : !tile.buffer<[64, 8], f32>
        tile.for k < <4> at "mm" {
          %a = tile.alloc() {slots = 2, address = 4096} at "mm" : !tile.buffer<[64, 256], f8E4M3FN>
          %b = tile.alloc() {slots = 2, address = 36864} at "mm" : !tile.buffer<[256, 8], f8E4M3FN>
          tile.load(%x, %a) {offsets = [<0>, <k*256>], sizes = [<64>, <256>], row = <0>, column = <0>} at "mm"
          tile.load(%w, %b) {offsets = [<k*256>, <core*16 + n*8>], sizes = [<256>, <8>], row = <0>, column = <0>}
            at "mm"
          tile.mma(%c, %a, %b) {m = <64>, n = <8>, k = <256>, accumulate = <k>, transpose_b = false} at "mm"
        }
        %o = tile.alloc() {slots = 2, address = 40960} at "mm" : !tile.buffer<[64, 8], bf16>
        tile.vector([%c], [%o], []) {kind = #tile.convert, rows = <64>, columns = <8>} at "mm"
        tile.store(%y, %o) {offsets = [<0>, <core*16 + n*8>], sizes = [<64>, <8>], row = <0>, column = <0>} at "mm"
      }
    }
  }
}
"""
"""[64, 1024] x [1024, 32] on two cores, each 16 columns in two tiles of 8, K in four tiles of 256."""

LINES = """
g5.loop n < <2> at "mm" {
g5.loop k < <4> at "mm" {
g5.gdma {direction = "load", dram = <k*256>, lmem = <mod(k.seq, 2)*16384 + 4096>, shape = [<64>, <256>], \
dram_strides = [<1024>, <1>], lmem_strides = [<256>, <1>], element_type = f8E4M3FN} after [tiu-1] at "mm"
g5.gdma {direction = "load", dram = <core*16 + k*8192 + n*8 + 65536>, lmem = <mod(k.seq, 2)*2048 + 36864>, \
shape = [<256>, <8>], dram_strides = [<32>, <1>], lmem_strides = [<8>, <1>], element_type = f8E4M3FN} \
after [tiu-1] at "mm"
g5.tiu {acc = #g5.lmem<mod(n.seq, 2)*2048, pitch 8, f32>, \
a = #g5.lmem<mod(k.seq, 2)*16384 + 4096, pitch 256, f8E4M3FN>, \
b = #g5.lmem<mod(k.seq, 2)*2048 + 36864, pitch 8, f8E4M3FN>, \
m = <64>, n = <8>, k = <256>, accumulate = <k>, transpose_b = false} after [gdma-0, vec-1] at "mm"
}
g5.vec {kind = #tile.convert, ins = [#g5.lmem<mod(n.seq, 2)*2048, pitch 8, f32>], \
outs = [#g5.lmem<mod(n.seq, 2)*1024 + 40960, pitch 8, bf16>], updates = [], rows = <64>, columns = <8>} \
after [tiu-0, gdma-17] at "mm"
g5.gdma {direction = "store", dram = <core*32 + n*16 + 98304>, lmem = <mod(n.seq, 2)*1024 + 40960>, \
shape = [<64>, <8>], dram_strides = [<32>, <1>], lmem_strides = [<8>, <1>], element_type = bf16} \
after [vec-0] at "mm"
}
"""


def parse(text: str) -> ModuleOp:
    context = Context()
    for dialect in (Builtin, layer.Layer, Dist, tile.Tile, g5.G5):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    return module


def emit(text: str) -> ModuleOp:
    module = parse(text)
    EmitG5Pass().apply(Context(), module)
    module.verify()
    return module


def commands(module: ModuleOp) -> list[g5.CommandOp]:
    return [op for op in module.walk() if isinstance(op, g5.CommandOp)]


def test_a_matmul_becomes_commands_that_overlap() -> None:
    lines = [line.strip() for line in str(emit(MATMUL)).splitlines()]
    start = lines.index('g5.program() {cores = 2, op_name = "layer.matmul"} at "mm" {')
    wanted = LINES.strip().splitlines()
    assert lines[start + 1 : start + 1 + len(wanted)] == wanted
    assert str(parse(str(emit(MATMUL)))) == str(emit(MATMUL))


BODY = """
    tile.kernel() {cores = 1, op_name = "layer.matmul"} at "k" {
      %a = tile.alloc() {slots = 1, address = 64} at "k" : !tile.buffer<[12, 8], bf16>
      BODY
    }
"""


def one(body: str, arrays: str = "") -> ModuleOp:
    text = f"""builtin.module {{ tile.program() {{sym_name = "s", phase = "decode"}} at "" {{
      %x = tile.global() {{kind = "weight", layers = true, address = 1000}} at "x"
        : !tile.memref<[5, 3, 4, 8], bf16>
      {arrays}
      {BODY.replace("BODY", body)} }} }}"""
    return emit(text)


def test_rows_of_several_dims_follow_each_other_in_the_buffer() -> None:
    """Block [1, 2, 3, 6] at [2, 1, 0, 2] of [5, 3, 4, 8]: element 2*96 + 1*32 + 2, rows of 8 at row 1, column 1."""
    module = one(
        "tile.load(%x, %a) {offsets = [<2>, <1>, <0>, <2>], sizes = [<1>, <2>, <3>, <6>], row = <1>, column = <1>} "
        'at "k"'
    )
    (load,) = commands(module)
    assert (
        "dram = <1452>, lmem = <82>, shape = [<2>, <3>, <6>], dram_strides = [<32>, <8>, <1>], "
        "lmem_strides = [<24>, <8>, <1>]"
    ) in str(load)


def test_views_and_layers_are_in_the_address() -> None:
    """The view starts 16 elements into the array and steps over every second row; layers are 96 elements apart."""
    text = """builtin.module { tile.program() {sym_name = "s", phase = "decode"} at "" {
      %x = tile.global() {kind = "weight", layers = true, address = 1000} at "x" : !tile.memref<[5, 12, 8], bf16>
      tile.repeat() {symbol = "layer", count = 3, first = 2} at "b" {
        %v = tile.view(%x) at "x" : !tile.memref<[5, 5, 8], bf16, strides [96, 16, 1], offset 16>
        tile.kernel() {cores = 1, op_name = "copy"} at "k" {
          %a = tile.alloc() {slots = 1, address = 64} at "k" : !tile.buffer<[12, 8], bf16>
          tile.load(%v, %a) {offsets = [<layer>, <3>, <0>], sizes = [<1>, <2>, <8>], row = <0>, column = <0>} at "k"
        }
      } } }"""
    (load,) = commands(emit(text))
    assert isinstance(load, g5.GdmaOp)
    assert str(load.dram.data) == f"layer*192 + {1000 + 2 * (16 + 3 * 16)}"
    assert [str(s.data) for s in load.dram_strides.data] == ["16", "1"]


def test_collectives_along_an_axis_go_between_chips() -> None:
    text = """builtin.module { tile.program() {sym_name = "s", phase = "decode"} at "" {
      %x = tile.global() {kind = "activation", layers = false, address = 0} at "x" : !tile.memref<[4, 8], bf16>
      %y = tile.global() {kind = "activation", layers = false, address = 64} at "y" : !tile.memref<[4, 8], bf16>
      tile.collective([%x], [%y]) {collective = #dist.all_reduce<tp>, algorithm = #dist.two_level<inner = 4>} at "r"
      tile.collective([%x], [%y]) {collective = #dist.local_slice<tp, dim = 0>} at "r"
      tile.collective([%x], []) {collective = #dist.send<pp, peer = 1, channel = 0>} at "r"
      tile.collective([%x, %x], [%y]) {collective = #dist.dispatch} at "r"
    } }"""
    assert [op.ENGINE for op in commands(emit(text))] == ["cdma", "sdma", "cdma", "sdma"]


def test_a_buffer_outside_loops_does_not_rotate() -> None:
    module = one(
        "tile.load(%x, %a) {offsets = [<0>, <0>, <0>, <0>], sizes = [<1>, <1>, <4>, <8>], row = <0>, column = <0>} "
        'at "k"'
    )
    assert "lmem = <64>" in str(commands(module)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MATMUL.replace(", address = 98304", ""), "tile.global at 'y' has no address, run allocate-dram first"),
        (MATMUL.replace(", address = 40960", ""), "tile.alloc at 'mm' has no address, run allocate-lmem first"),
        (MATMUL.replace("[64, 32], bf16>", "[64, 32], f32>"), "tile.store at 'mm' moves f32 to bf16"),
        (MATMUL.replace("f8E4M3FN", "i4"), "i4 elements are not whole bytes"),
    ],
)
def test_what_cannot_be_emitted_is_one_line(text: str, message: str) -> None:
    with pytest.raises(PassError) as error:
        emit(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_level_is_checked() -> None:
    with pytest.raises(PassError, match="emit-g5: the module is at the commands level"):
        EmitG5Pass().apply(Context(), emit(MATMUL))
