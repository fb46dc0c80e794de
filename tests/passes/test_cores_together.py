"""What commands of several cores do to each other: what a barrier orders, and that the simulator refuses the rest.

Two cores load their row of x, meet, take the row of the other out of its LMEM, and store it to y.
"""

from __future__ import annotations

import numpy as np
import pytest

from pmc.backends.numeric.errors import NumericError
from pmc.backends.numeric.streams import run_stream
from pmc.compiler.driver import parse_module
from pmc.dialects import g5

LOAD = (
    'g5.gdma {direction = "load", dram = <core*32>, lmem = <0>, shape = [<1>, <8>], dram_strides = [<8>, <1>], '
    'lmem_strides = [<8>, <1>], element_type = f32} at "load"'
)
BARRIER = 'g5.barrier() at "meet"'
FETCH = (
    "g5.fetch {core = <-core + 1>, source = #g5.lmem<0, pitch 8, f32>, target = #g5.lmem<64, pitch 8, f32>, "
    'rows = <1>, columns = <8>} at "fetch"'
)
STORE = (
    'g5.gdma {direction = "store", dram = <core*32 + 64>, lmem = <64>, shape = [<1>, <8>], dram_strides = [<8>, <1>], '
    'lmem_strides = [<8>, <1>], element_type = f32} after [sdma-0] at "store"'
)
AGAIN = LOAD.replace('at "load"', 'after [sdma-0] at "again"')
BACK = LOAD.replace("core*32", "-core*32 + 96").replace("lmem = <0>", "lmem = <128>").replace('"load"}', '"back"}')

X = np.arange(16.0).reshape(1, 2, 8)


def run(*ops: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """y after the commands."""
    module = parse_module(
        f"""builtin.module {{ g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
          g5.array() {{kind = "input", layers = false, address = 0, type = !tile.memref<[2, 8], f32>}} at "x"
          g5.array() {{kind = "output", layers = false, address = 64, type = !tile.memref<[2, 8], f32>}} at "y"
          g5.program() {{cores = 2, op_name = "swap"}} at "swap" {{ {" ".join(ops)} }}
        }} }}""",
        "commands",
    )
    (stream,) = (op for op in module.ops if isinstance(op, g5.StreamOp))
    return run_stream(stream, {"x": X}, 1024).outputs["y"][0].astype(np.float64)


def test_what_was_written_before_a_barrier_may_be_taken() -> None:
    np.testing.assert_array_equal(run(LOAD, BARRIER, FETCH, STORE, BARRIER), X[0, ::-1])


def test_what_was_stored_before_a_barrier_may_be_read() -> None:
    """The row that the other core has stored goes out again as this core's own."""
    forth = STORE.replace("lmem = <64>", "lmem = <128>").replace(" after [sdma-0]", "")
    np.testing.assert_array_equal(
        run(LOAD, BARRIER, FETCH, STORE, BARRIER, BACK, BARRIER, forth, BARRIER), X[0]
    )  # fmt: skip


def test_a_read_of_one_block_serves_both_cores() -> None:
    same = LOAD.replace("core*32", "32").replace("f32}", "f32, serves = #tile.cores<0, 2>}")
    np.testing.assert_array_equal(run(same, BARRIER, FETCH, STORE, BARRIER), X[0, [1, 1]])


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (
            (LOAD, FETCH, STORE, BARRIER),
            "sdma command 1 of core 0 at 'fetch': reads LMEM 0..31 of core 1, of which no command wrote all before the "
            "last barrier",
        ),
        (
            (LOAD, BARRIER, FETCH, AGAIN, STORE, BARRIER),
            "sdma command 1 of core 0 at 'fetch': reads LMEM 0..31 of core 1, which core 1 writes without a barrier in "
            "between",
        ),
        (
            (LOAD, BARRIER, FETCH.replace("-core + 1", "core + 1"), STORE, BARRIER),
            "sdma command 1 of core 1 at 'fetch': reads LMEM 0..31 of core 2, of which",
        ),
        (
            (LOAD.replace("f32}", "f32, serves = #tile.cores<0, 2>}"), BARRIER, FETCH, STORE, BARRIER),
            "g5.gdma at 'load': one read is to serve cores 0 and 1, which load different blocks in the same iteration",
        ),
        (
            (LOAD, BARRIER, FETCH, STORE, BACK, BARRIER),
            "gdma command 3 of core 0 at 'load': reads element [0, 0] of its block of DRAM, which core 1 wrote in the "
            "same program",
        ),
        (
            (LOAD, BARRIER, FETCH, STORE.replace("core*32 + 64", "64"), BARRIER),
            "core 0 at 'store': writes element [0, 0] of its block of DRAM, which core 1 wrote in the same program",
        ),
        (
            (LOAD, BARRIER, FETCH, STORE.replace(" after [sdma-0]", ""), BARRIER),
            "gdma command 2 of core 0 at 'store': reads LMEM 64..95 without waiting for sdma 1, which writes it",
        ),
    ],
)
def test_what_depends_on_who_is_faster_is_refused(ops: tuple[str, ...], message: str) -> None:
    with pytest.raises(NumericError) as error:
        run(*ops)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_fetch_of_bytes_that_were_written_in_part_is_refused() -> None:
    with pytest.raises(NumericError, match=r"reads LMEM 0\.\.31 of core 1, of which"):
        run(LOAD.replace("<1>, <8>", "<1>, <4>"), BARRIER, FETCH, STORE, BARRIER)


def test_a_store_to_what_another_core_reads_without_a_barrier_is_refused() -> None:
    """Core 0 reads the row of x that core 1 overwrites: before or after, nobody can say."""
    other = LOAD.replace("core*32", "-core*32 + 32")
    store = STORE.replace("core*32 + 64", "core*32").replace("lmem = <64>", "lmem = <0>").replace(" after [sdma-0]", "")
    with pytest.raises(NumericError, match="reads"):
        run(other, store, BARRIER)
