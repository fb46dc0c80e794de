"""Energy is neither lost nor made, and every part of it is where the events put it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.power import (
    ComputeColumns,
    MemoryColumns,
    PowerState,
    Work,
    dynamic_power,
    leakage_w,
    links_of,
    power_of_events,
    refresh_w,
    total_power,
    work_of,
)
from pmc.dialects.analyses.mesh_traffic import cores_over
from pmc.dialects.errors import PmcError

from .stacked_chips import chip, small_chip

ARCH = chip((3, 4), (6, 4, 2))
CORES, BANKS = 12, 48


def memory(*rows: tuple[int, int, int, bool]) -> MemoryColumns:
    core, bank, size, write = (np.array(column) for column in zip(*rows, strict=True))
    return MemoryColumns(core, bank, size.astype(np.float64), write)


NOBODY = np.zeros(0, np.int64)
NOTHING = MemoryColumns(NOBODY, NOBODY, np.zeros(0), np.zeros(0, np.bool_))
IDLE = ComputeColumns(NOBODY, np.zeros(0))


def test_cores_lie_under_the_banks_that_the_chip_says() -> None:
    for arch in (ARCH, small_chip(), chip((8, 8), (32, 32, 8))):
        assert cores_over(arch).tolist() == [arch.core_at_bank(bank) for bank in range(arch.dram.count)]


def test_what_is_read_comes_along_the_row_first_and_what_is_written_goes_so() -> None:
    """Between core (0, 0) and core (2, 1): a write goes right, right, up; a read comes left, left, down."""
    bank = ARCH.banks_at_core(5)[0]
    written, read = (links_of(ARCH, memory((0, bank, 10, write))).sum(axis=0) for write in (True, False))
    assert written.tolist() == [[10, 10, 10], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert read.tolist() == [[0, 0, 0], [10, 10, 10], [0, 0, 0], [0, 0, 0]]


def test_one_event_is_what_the_formula_says() -> None:
    compute = ComputeColumns(np.array([2, 2, 7]), np.array([1e9, 2e9, 4e9]))
    bank = ARCH.banks_at_core(5)[0]
    work = work_of(ARCH, compute, memory((0, bank, 1000, False), (0, bank, 200, True)))
    assert work.flops[[2, 7]].tolist() == [3e9, 4e9] and work.flops.sum() == 7e9
    assert work.dram_bytes[bank] == 1200 and work.dram_bytes.sum() == 1200
    # What is read leaves cores 5, 4, 3 on its way to 0; what is written leaves 0, 1, 2 on its way to 5.
    assert work.byte_hops[[0, 1, 2, 3, 4, 5]].tolist() == [200, 200, 200, 1000, 1000, 1000]
    factor = np.ones(CORES)
    factor[2] = 0.64
    power = dynamic_power(ARCH, work, factor, 0.003)
    # 1 pJ per FLOP, 8 pJ per byte and hop, 321 pJ per byte of DRAM.
    assert power.core_w[2] == pytest.approx((3e9 * 0.64 + 200 * 8) * 1e-12 / 0.003, rel=1e-12)
    assert power.core_w[3] == pytest.approx(1000 * 8e-12 / 0.003, rel=1e-12)
    assert power.bank_w[bank] == pytest.approx(1200 * 321e-12 / 0.003, rel=1e-12)


computes = st.lists(st.tuples(st.integers(0, CORES - 1), st.floats(0, 1e12)), max_size=10)
accesses = st.lists(
    st.tuples(st.integers(0, CORES - 1), st.integers(0, BANKS - 1), st.integers(0, 2**30), st.booleans()), max_size=10
)


@given(computes, accesses, st.floats(1e-4, 1e-2))
def test_power_times_window_is_the_sum_of_energies(
    flops: list[tuple[int, float]], rows: list[tuple[int, int, int, bool]], seconds: float
) -> None:
    core, amount = (np.array([row[i] for row in flops]) for i in (0, 1))
    events = memory(*rows) if rows else NOTHING
    compute = ComputeColumns(core.astype(np.int64), amount.astype(np.float64))
    state = PowerState(np.full(CORES, 70.0), np.full(BANKS, 95.0), np.full(CORES, 0.81), np.full(BANKS, 8.0))
    power = power_of_events(ARCH, compute, events, seconds, state)
    joules = 0.81e-12 * sum(n for _, n in flops)
    joules += sum(size * 1e-12 * (321 + 8 * ARCH.core_hops(c, ARCH.core_at_bank(b))) for c, b, size, _ in rows)
    joules += seconds * (CORES * 0.1 * 2 + BANKS * 0.0005 * 4)  # 25 K and 50 K above the reference
    joules += BANKS * 8 * seconds / 7.8e-6 * 3.55e-9
    assert (power.core_w.sum() + power.bank_w.sum()) * seconds == pytest.approx(joules, rel=1e-9)


def test_leakage_doubles_and_refresh_is_energy_times_rate() -> None:
    leakage = ARCH.power.core_leakage
    assert leakage_w(leakage, np.array([20.0, 45.0, 70.0, 95.0])).tolist() == [0.05, 0.1, 0.2, 0.4]
    assert refresh_w(ARCH, np.array([1.0, 8.0])) == pytest.approx([3.55e-9 / 7.8e-6, 8 * 3.55e-9 / 7.8e-6])


def test_an_idle_window_leaks_and_refreshes() -> None:
    work = work_of(ARCH, IDLE, NOTHING)
    dynamic = dynamic_power(ARCH, work, np.ones(CORES), 0.003)
    assert not dynamic.core_w.any() and not dynamic.bank_w.any()
    power = total_power(ARCH, dynamic, np.full(CORES, 45.0), np.full(BANKS, 45.0), np.ones(BANKS))
    assert power.core_w == pytest.approx(0.1) and power.bank_w == pytest.approx(0.0005 + 3.55e-9 / 7.8e-6)


@pytest.mark.parametrize(
    ("compute", "events", "message"),
    [
        (ComputeColumns(np.array([0, 12]), np.ones(2)), NOTHING, "event 1 names core 12: .* has 12 cores"),
        (ComputeColumns(np.array([-1]), np.ones(1)), NOTHING, "event 0 names core -1"),
        (ComputeColumns(np.array([0]), np.array([-5.0])), NOTHING, r"event 0 has -5.0 FLOPs, must be 0 or more"),
        (ComputeColumns(np.array([0]), np.array([np.nan])), NOTHING, "event 0 has nan FLOPs"),
        (IDLE, memory((0, 48, 1, False)), "event 0 names bank 48: .* has 48 banks"),
        (IDLE, memory((12, 0, 1, False)), "event 0 names core 12"),
        (IDLE, memory((0, 0, 1, False), (0, 0, -1, True)), r"event 1 has -1.0 bytes"),
    ],
)
def test_wrong_events_are_one_line(compute: ComputeColumns, events: MemoryColumns, message: str) -> None:
    with pytest.raises(PmcError, match=message):
        work_of(ARCH, compute, events)


def test_a_window_has_a_length() -> None:
    zeros: Floats = np.zeros(CORES)
    with pytest.raises(PmcError, match=r"a window of 0.0 s, must be longer than 0"):
        dynamic_power(ARCH, Work(zeros, zeros, np.zeros(BANKS)), np.ones(CORES), 0.0)
