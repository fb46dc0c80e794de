"""Command streams run on bytes: they compute what numpy does, and every fault is found and named."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, Builtin, IntegerAttr, i64
from xdsl.parser import Parser

from pmc.backends.numeric.command_order import Access, CoreOrder
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.streams import run_stream
from pmc.backends.numeric.vector_kinds import COMPUTATIONS
from pmc.dialects import g5, layer, tile
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.expr import ExprAttr, expr
from pmc.dialects.vector_kinds import VECTOR_KINDS
from pmc.passes.emit_g5 import EmitG5Pass

LMEM = 48 * 1024

TEMPLATE = """
builtin.module {
  tile.program() {sym_name = "step", phase = "decode"} at "" {
    %x = tile.global() {kind = "input", layers = false, address = 0} at "x" : !tile.memref<[60, 1000], IN>
    %w = tile.global() {kind = "weight", layers = false, address = 240000} at "w" : !tile.memref<[1000, 36], IN>
    %y = tile.global() {kind = "output", layers = false, address = 384000} at "y" : !tile.memref<[60, 36], OUT>
    tile.kernel() {cores = 3, op_name = "layer.matmul"} at "mm" {
      tile.for n < <2> at "mm" {
        %c = tile.alloc() {slots = 2, address = 0} at "mm" : !tile.buffer<[60, 8], f32>
        tile.for k < <8> at "mm" {
          %a = tile.alloc() {slots = 2, address = 4096} at "mm" : !tile.buffer<[60, 128], IN>
          %b = tile.alloc() {slots = 2, address = 36864} at "mm" : !tile.buffer<[128, 8], IN>
          tile.load(%x, %a) {offsets = [<0>, <k*128>], sizes = [<60>, <min(128, 1000 - k*128)>], row = <0>,
            column = <0>} at "mm"
          tile.load(%w, %b) {offsets = [<k*128>, <core*12 + n*8>],
            sizes = [<min(128, 1000 - k*128)>, <min(8, 12 - n*8)>], row = <0>, column = <0>} at "mm"
          tile.mma(%c, %a, %b) {m = <60>, n = <min(8, 12 - n*8)>, k = <min(128, 1000 - k*128)>,
            accumulate = <k>, transpose_b = false} at "mm"
        }
        %o = tile.alloc() {slots = 2, address = 45056} at "mm" : !tile.buffer<[60, 8], OUT>
        tile.vector([%c], [%o], []) {kind = #tile.convert, rows = <60>, columns = <min(8, 12 - n*8)>} at "mm"
        tile.store(%y, %o) {offsets = [<0>, <core*12 + n*8>], sizes = [<60>, <min(8, 12 - n*8)>], row = <0>,
          column = <0>} at "mm"
      }
    }
  }
}
"""
"""[60, 1000] x [1000, 36] on three cores of 12 columns; edge tiles in n (8 + 4) and k (7*128 + 104)."""


def stream(element: str = "f8E4M3FN", out: str = "bf16") -> g5.StreamOp:
    context = Context()
    for dialect in (Builtin, layer.Layer, tile.Tile, g5.G5):
        context.load_dialect(dialect)
    text = TEMPLATE.replace("IN>", f"{element}>").replace("OUT>", f"{out}>")
    module = Parser(context, text).parse_module()
    EmitG5Pass().apply(context, module)
    module.verify()
    (found,) = (op for op in module.ops if isinstance(op, g5.StreamOp))
    return found


def inputs(dtype: npt.DTypeLike = np.float64, ranks: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    shapes = {"x": (ranks, 60, 1000), "w": (ranks, 1000, 36)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def commands(found: g5.StreamOp) -> list[g5.CommandOp]:
    """load a, load b, mma, convert, store."""
    return [op for op in found.walk() if isinstance(op, g5.CommandOp)]


# -- results ----------------------------------------------------------------------------------------------------


def test_a_tiled_matmul_equals_numpy() -> None:
    arrays = inputs(ml_dtypes.float8_e4m3fn)
    result = run_stream(stream(), arrays, LMEM)
    x, w = (arrays[name].astype(np.float64)[0] for name in "xw")
    # FP32 sums rounded to bfloat16, 8 bits of mantissa.
    np.testing.assert_allclose(result.outputs["y"][0], x @ w, rtol=2**-8, atol=1e-3)
    # 3 cores x 2 n-tiles x (8 k-tiles x 3 + convert + store)
    assert result.commands == 3 * 2 * (8 * 3 + 2)


def test_ranks_run_side_by_side() -> None:
    arrays = inputs(np.float32, ranks=4)
    mesh = Mesh(4, (Axis("tp", 4, 1),))
    result = run_stream(stream("f16", "f32"), arrays, LMEM, mesh)
    x, w = (arrays[name].astype(np.float16).astype(np.float64) for name in "xw")
    np.testing.assert_allclose(result.outputs["y"], x @ w, rtol=1e-4, atol=1e-4)
    assert result.commands == 4 * 3 * 2 * (8 * 3 + 2)


def test_inputs_saturate_in_narrow_types() -> None:
    arrays = {name: np.zeros(v.shape) for name, v in inputs().items()}
    arrays["x"][0, 0, 0], arrays["w"][0, 0, 0] = 1000.0, 1.0
    assert run_stream(stream(), arrays, LMEM).outputs["y"][0, 0, 0] == 448.0


# -- faults of inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("w", None, "no array for weight 'w', must be [1, 1000, 36]"),
        ("w", np.ones((1, 999, 36)), "weight 'w' is [1, 999, 36], must be [1, 1000, 36]"),
        ("x", np.full((1, 60, 1000), np.nan), "input 'x': element [0, 0, 0] is nan, must be finite"),
    ],
)
def test_bad_inputs_are_named(name: str, values: Array | None, message: str) -> None:
    arrays = {n: v for n, v in inputs().items() if n != name}
    if values is not None:
        arrays[name] = values
    with pytest.raises(NumericError) as error:
        run_stream(stream(), arrays, LMEM)
    assert message in str(error.value)


# -- faults of commands -----------------------------------------------------------------------------------------


def fault(change: Callable[[list[g5.CommandOp]], object], lmem: int = LMEM) -> str:
    """The error that a change to the commands of the matmul causes; one line."""
    found = stream()
    change(commands(found))
    with pytest.raises(NumericError) as error:
        run_stream(found, inputs(), lmem)
    assert "\n" not in str(error.value)
    return str(error.value)


def without(op: g5.CommandOp, engine: str) -> None:
    """Drop the wait of `op` for one engine."""
    op.properties["after"] = g5.AfterAttr(tuple(d for d in op.dependencies if d[0] != engine))


@pytest.mark.parametrize(
    ("index", "engine", "message"),
    [
        (0, "tiu", "gdma command 5 of core 0 at 'mm': writes LMEM 4096..11775 without waiting for tiu 1"),
        (2, "gdma", "tiu command 1 of core 0 at 'mm': reads LMEM 4096"),
        (3, "tiu", "vec command 1 of core 0 at 'mm': reads LMEM 0..1919 without waiting for tiu 8, which writes it"),
        (4, "vec", "gdma command 17 of core 0 at 'mm': reads LMEM 45056"),
    ],
)
def test_every_wait_is_needed(index: int, engine: str, message: str) -> None:
    assert message in fault(lambda ops: without(ops[index], engine))


def test_a_wait_that_follows_from_another_is_no_race() -> None:
    """Load b waits for the mma two before; so does load a, which GDMA runs first."""
    found = stream()
    without(commands(found)[1], "tiu")
    expected, result = run_stream(stream(), inputs(), LMEM), run_stream(found, inputs(), LMEM)
    assert result.commands == expected.commands
    for path, values in expected.outputs.items():
        np.testing.assert_array_equal(result.outputs[path], values)


def test_a_lag_that_is_one_too_large_is_a_race() -> None:
    def loosen(ops: list[g5.CommandOp]) -> None:
        ops[2].properties["after"] = g5.AfterAttr((("gdma", 1), ("vec", 1)))

    assert "tiu command 1 of core 0 at 'mm': reads LMEM 36864" in fault(loosen)


def test_a_single_slot_is_a_race() -> None:
    """Loads that run ahead into the one slot that is being computed on."""

    def one_slot(ops: list[g5.CommandOp]) -> None:
        load, tiu = ops[0], ops[2]
        assert isinstance(tiu, g5.TiuOp)
        load.properties["lmem"] = ExprAttr.of(4096)
        tiu.properties["a"] = g5.LmemAttr.of(4096, 128, tiu.a.element_type)

    assert "gdma command 3 of core 0 at 'mm': writes LMEM 4096..11775 without waiting for tiu 1" in fault(one_slot)


def test_unwritten_lmem_is_found() -> None:
    """The last k tile has 104 columns: a matmul over 128 reads what nobody wrote, once both slots were."""

    def shorter(ops: list[g5.CommandOp]) -> None:
        ops[1].properties["shape"] = ArrayAttr([ExprAttr.of(127), ExprAttr.of(8)])

    assert "tiu command 1 of core 0 at 'mm': reads LMEM 36864..37887, of which no command wrote all" in fault(shorter)


def test_unwritten_dram_is_found() -> None:
    message = fault(lambda ops: ops[0].properties.update(dram=ExprAttr(expr("k") * 128 + 100000)))
    assert message == (
        "gdma command 1 of core 0 at 'mm': reads element [0, 0] of its block of DRAM, which nobody wrote"
    )


def test_two_cores_that_write_one_place_are_found() -> None:
    message = fault(lambda ops: ops[4].properties.update(dram=ExprAttr(expr("n") * 16 + 384000)))
    assert (
        "core 0 at 'mm': writes element [0, 0] of its block of DRAM, which core 2 wrote in the same program" in message
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (ExprAttr(expr("core") * 300000), "gdma command 1 of core 2 at 'mm': DRAM 600000..659127 is outside 0..388319"),
        (ExprAttr.of(-4), "gdma command 1 of core 0 at 'mm': DRAM -4..59123 is outside 0..388319"),
    ],
)
def test_addresses_outside_dram_are_found(address: ExprAttr, message: str) -> None:
    assert fault(lambda ops: ops[0].properties.update(dram=address)) == message


def test_misaligned_addresses_are_found() -> None:
    message = fault(lambda ops: ops[4].properties.update(dram=ExprAttr(expr("core") * 25 + 384000)))
    assert message == "gdma command 17 of core 1 at 'mm': DRAM address 384025 is no multiple of 2"


def test_misaligned_lmem_is_found() -> None:
    def shift(ops: list[g5.CommandOp]) -> None:
        convert = ops[3]
        assert isinstance(convert, g5.VecOp)
        convert.properties["ins"] = ArrayAttr([g5.LmemAttr.of(2, 8, convert.ins.data[0].element_type)])

    assert "LMEM address 2 is no multiple of 4" in fault(shift)


def test_extents_that_are_not_positive_are_found() -> None:
    def shrink(ops: list[g5.CommandOp]) -> None:
        ops[1].properties["shape"] = ArrayAttr([ExprAttr(expr("core") * -64 + 128), ExprAttr.of(8)])

    assert fault(shrink) == "gdma command 2 of core 2 at 'mm': extents must be positive, found [0, 8]"


def test_lmem_that_the_chip_does_not_have_is_found() -> None:
    assert "is outside 0..40959" in fault(lambda ops: None, lmem=40960)


def test_more_columns_than_a_row_has_are_found() -> None:
    assert "uses 9 columns of rows of 8" in fault(lambda ops: ops[3].properties.update(columns=ExprAttr.of(9)))


def test_rows_that_go_backwards_in_lmem_are_found() -> None:
    def reverse(ops: list[g5.CommandOp]) -> None:
        ops[1].properties["lmem_strides"] = ArrayAttr([ExprAttr.of(-8), ExprAttr.of(1)])

    assert "goes backwards in LMEM, by -8 elements" in fault(reverse)


# -- the check of the waits by itself ---------------------------------------------------------------------------

TIU, GDMA, VEC = (g5.ENGINES.index(e) for e in ("tiu", "gdma", "vec"))


def bytes_(start: int, stop: int, write: bool) -> Access:
    return Access(start, (), (), stop - start, write)


def test_waits_are_transitive_and_engines_in_order() -> None:
    order = CoreOrder([0, 32, 64], 64)
    assert order.command(GDMA, [0] * 5, [bytes_(0, 32, True)]) is None
    assert order.command(GDMA, [0] * 5, [bytes_(32, 64, True)]) is None
    # Waiting for the second load covers the first: one engine.
    assert order.command(TIU, [0, 2, 0, 0, 0], [bytes_(0, 32, False)]) is None
    # VEC waits for TIU, which waited for GDMA.
    assert order.command(VEC, [1, 0, 0, 0, 0], [bytes_(32, 64, False)]) is None


def test_a_write_must_wait_for_every_reader() -> None:
    order = CoreOrder([0, 32], 32)
    assert order.command(GDMA, [0] * 5, [bytes_(0, 32, True)]) is None
    assert order.command(TIU, [0, 1, 0, 0, 0], [bytes_(0, 32, False)]) is None
    assert order.command(VEC, [0, 1, 0, 0, 0], [bytes_(0, 32, False)]) is None
    wrong = order.command(GDMA, [1, 0, 0, 0, 0], [bytes_(0, 32, True)])
    assert wrong == "writes LMEM 0..31 without waiting for vec 1, which reads it"


def test_a_wait_for_what_comes_later_is_a_fault() -> None:
    order = CoreOrder([0], 32)
    assert order.command(TIU, [0, 1, 0, 0, 0], []) == "waits for gdma 1, which comes later"


def test_layers_of_a_repeat_have_their_own_addresses() -> None:
    """A stream with a repeat moves row `layer` of one array to row `layer` of another."""
    text = """builtin.module { tile.program() {sym_name = "s", phase = "decode"} at "" {
      %x = tile.global() {kind = "weight", layers = true, address = 0} at "x" : !tile.memref<[3, 4, 8], f32>
      %y = tile.global() {kind = "state", layers = true, address = 384} at "y" : !tile.memref<[3, 4, 8], f32>
      tile.repeat() {symbol = "layer", count = 2, first = 1} at "b" {
        tile.kernel() {cores = 2, op_name = "copy"} at "k" {
          %a = tile.alloc() {slots = 1, address = 64} at "k" : !tile.buffer<[2, 8], f32>
          tile.load(%x, %a) {offsets = [<layer>, <core*2>, <0>], sizes = [<1>, <2>, <8>], row = <0>, column = <0>}
            at "k"
          tile.store(%y, %a) {offsets = [<layer>, <core*2>, <0>], sizes = [<1>, <2>, <8>], row = <0>, column = <0>}
            at "k"
        }
      } } }"""
    context = Context()
    for dialect in (Builtin, layer.Layer, tile.Tile, g5.G5):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    EmitG5Pass().apply(context, module)
    (found,) = (op for op in module.ops if isinstance(op, g5.StreamOp))
    x = np.arange(96.0).reshape(1, 3, 4, 8)
    result = run_stream(found, {"x": x, "y": -np.ones_like(x)}, LMEM)
    assert (result.states["y"][0, 0] == -1).all()
    np.testing.assert_array_equal(result.states["y"][0, 1:], x[0, 1:])


def test_cores_beyond_their_loops_do_nothing() -> None:
    found = stream()
    (program,) = (op for op in found.walk() if isinstance(op, g5.ProgramOp))
    (outer, _) = (op for op in found.walk() if isinstance(op, g5.LoopOp))
    outer.properties["count"] = ExprAttr(expr("core"))
    program.properties["cores"] = IntegerAttr(3, i64)
    arrays = inputs()
    y = run_stream(found, arrays, LMEM).outputs["y"][0]
    assert np.isnan(y[:, :12]).all()
    assert np.isnan(y[:, 20:24]).all()
    assert np.isfinite(y[:, 12:20]).all()
    assert np.isfinite(y[:, 24:]).all()


def test_every_vector_kind_computes_something() -> None:
    assert COMPUTATIONS.keys() >= set(VECTOR_KINDS)
