"""Loops of which iterations are left out against the same programs written out command by command."""

from __future__ import annotations

from random import Random
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.g5 import kernel
from pmc.backends.g5.program import lower
from pmc.backends.g5.repetition import repetitions
from pmc.backends.g5.run import run
from pmc.backends.g5.times import ProgramTimes
from pmc.compiler.config import load_chip
from pmc.dialects.g5 import LoopOp, ProgramOp

from .test_g5_kernel import FIELDS, compiled, program

CHIP = load_chip("sg2262")
TURN = 512 * 64 * 64
"""Bytes from one address to the next at the same place of a channel: granules x channels, shifted once per stripe."""

BARRIER = 'g5.barrier() at "end"'


def load(address: str, rows: str = "16", lmem: str = "0", after: str = "", extra: str = "", pitch: int = 4096) -> str:
    waits = f" after [{after}]" if after else ""
    return (
        f'g5.gdma {{direction = "load", dram = <{address}>, lmem = <{lmem}>, shape = [<{rows}>, <256>], '
        f'dram_strides = [<{pitch}>, <1>], lmem_strides = [<256>, <1>], element_type = i8{extra}}}{waits} at "load"'
    )


def store(address: str, after: str) -> str:
    return (
        f'g5.gdma {{direction = "store", dram = <{address}>, lmem = <524288>, shape = [<16>, <256>], '
        f"dram_strides = [<256>, <1>], lmem_strides = [<256>, <1>], element_type = i8, late = unit}} after [{after}] "
        'at "store"'
    )


def multiply(rows: str = "16", a: str = "0", after: str = "gdma-0") -> str:
    return (
        f"g5.tiu {{acc = #g5.lmem<524288, pitch 64, f32>, a = #g5.lmem<{a}, pitch 256, f8E4M3FN>, "
        f"b = #g5.lmem<262144, pitch 64, f8E4M3FN>, m = <{rows}>, n = <64>, k = <256>, accumulate = <0>, "
        f'transpose_b = false}} after [{after}] at "mm"'
    )


def loop(name: str, count: int | str, *ops: str) -> str:
    return f'g5.loop {name} < <{count}> at "loop" {{ {" ".join(ops)} }}'


def assert_same_times(found: ProgramOp) -> ProgramTimes:
    """Lowered with and without repetition; the times with it."""
    short, long = lower(found, CHIP, {}), lower(found, CHIP, {}, loops=False)
    assert short.count == long.count == len(long.op) - int((long.op < 0).sum())
    times, expected = run(short, CHIP), kernel.run(long, CHIP, skip=False)
    assert expected is not None
    unrolled = times.unrolled()
    for name in set(FIELDS) - {"row"}:
        np.testing.assert_array_equal(getattr(unrolled, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(short.op[unrolled.row], long.op[expected.row])
    return times


def random_body(random: Random, count: int) -> str:
    """A loop with loads, products, an inner loop, stores that come later, edges and shared reads, or some of these."""
    stride = random.choice((0, 512, 768, TURN // 4, TURN // 2, TURN, TURN + 256, 3 * TURN))
    edge = f"min(16, {16 * count - random.choice((0, 0, 5))} - i*16)"
    rows = random.choice(("16", edge))
    shared = random.choice(("", ", serves = #tile.cores<floordiv(core, 4)*4, 4>"))
    slot = random.choice(("0", "mod(i.seq, 2)*131072", "mod(i.seq, 3)*131072"))
    ops = [
        load(f"core*{random.choice((0, 4096))} + i*{stride}", rows, slot, "tiu-1", shared, random.choice((256, 4096)))
    ]
    if random.random() < 0.5:
        inner = load(
            f"i*{random.choice((0, TURN))} + j*{random.choice((4096, TURN))} + 65536", "8", "mod(j.seq, 2)*65536"
        )
        ops.append(loop("j", random.choice((1, 2, 5)), inner, multiply(rows, after="gdma-0")))
    ops.append(multiply(rows, slot))
    if random.random() < 0.5:
        ops.append(store(f"i*{random.choice((4096, TURN))} + core*65536 + 1048576", "tiu-0"))
    if random.random() < 0.3:
        ops.append(store(f"i*{TURN} + 2097152", "tiu-0, gdma-2"))
    return loop("i", count, *ops)


@compiled
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_loops(seed: int) -> None:
    random = Random(seed)
    count = random.choice((1, 5, 12, 30, 61))
    body = random_body(random, count)
    if random.random() < 0.3:
        body = loop("o", 3, load("o*8192"), body, multiply())
    assert_same_times(program(body, BARRIER, load("0"), BARRIER, cores=random.choice((4, 8))))


@compiled
@pytest.mark.long
def test_a_thousand_random_loops() -> None:
    left_out = 0
    for seed in range(1000):
        random = Random(seed)
        found = program(random_body(random, random.choice((12, 30, 61))), BARRIER, cores=4)
        times = assert_same_times(found)
        left_out += len(lower(found, CHIP, {}).op) < times.count
    assert left_out > 200


def periods(*ops: str) -> list[int]:
    return [rule.head - 2 for rule in repetitions(program(*ops, cores=4), CHIP).values()]


@pytest.mark.parametrize(
    ("op", "period"),
    [
        (load("i*2097152"), 1),
        (load("i*524288"), 4),
        (load("core*i*2097152"), 1),
        # 2 MiB / gcd(2 MiB, 768).
        (load("i*768"), None),
        (load("i*1536 + core*3"), 4096),
        (multiply(a="mod(i.seq, 3)*131072"), 3),
        (multiply(a="mod(i*2, 8)*131072"), 4),
        (load("floordiv(i, 6)*2097152"), 6),
        (load("i*i"), None),
        (load("0", rows="i + 1"), None),
        (load("0", rows="min(16, 990 - i*16)"), 1),
        # No argument is the smaller one in all iterations but the last.
        (load("0", rows="min(i + 1, 16 - i)"), None),
        (loop("j", "i + 1", load("0")), None),
        (loop("j", 3, load("j.seq*65536")), 32),
        (loop("j", 3, load("i*j*2097152")), None),
        (loop("j", 3, multiply(a="mod(j.seq, 2)*131072")), 2),
    ],
)
def test_after_how_many_iterations_commands_are_alike(op: str, period: int | None) -> None:
    assert periods(loop("i", 50000, op)) == ([] if period is None else [period])


def test_a_smaller_tile_before_the_last_one_keeps_all_iterations() -> None:
    """min(16, 900 - i*16) is smaller from iteration 56 on, of 61."""
    found = program(loop("i", 61, load("0", rows="max(0, min(16, 900 - i*16))")), BARRIER)
    commands = lower(found, CHIP, {})
    assert len(commands.op) == 62


def test_of_nested_loops_the_longer_one_is_cut() -> None:
    for outer, inner in ((50, 10), (10, 50)):
        rules = repetitions(program(loop("i", outer, loop("j", inner, load("0")))), CHIP)
        assert [op.count.data.constant for op in rules if isinstance(op, LoopOp)] == [50]


@compiled
def test_time_does_not_grow_with_trips() -> None:
    """A hundred million iterations of double buffering take what a hundred do, and their closed form holds."""
    body = (load(f"mod(i, 8)*{TURN}", "64", "mod(i.seq, 2)*131072", "tiu-1"), multiply("64", "mod(i.seq, 2)*131072"))
    few, many = (program(loop("i", count, *body), BARRIER) for count in (1000, 100_000_000))
    short = run(lower(few, CHIP, {}, loops=False), CHIP)
    begin = process_time()
    long = run(lower(many, CHIP, {}), CHIP)
    assert process_time() - begin < 2
    assert long.count == 200_000_000
    assert len(long.row) < 1000
    each = long.jumps[0].period_ps // (long.jumps[0].length[0] // 2)
    assert long.duration_ps == short.duration_ps + (100_000_000 - 1000) * each


@compiled
@pytest.mark.parametrize("trips", ["50", "mod(core, 2)*10 + 40"])
def test_cores_that_share_reads_leave_out_the_same_iterations(trips: str) -> None:
    """Odd cores go on alone for ten iterations, so that their reads serve fewer cores."""
    shared = load("i*2097152", extra=", serves = #tile.cores<0, 4>")
    times = assert_same_times(program(loop("i", trips, shared, multiply()), BARRIER, cores=4))
    assert (len(times.commands.op) < 100) == (trips == "50")
