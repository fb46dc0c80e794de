"""HotSpot as an executable: both modes give the same, and whatever a program does is an answer or one line."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pmc
from pmc.backends.thermal import coarse, hotspot
from pmc.backends.thermal.chip_state import ChipState
from pmc.backends.thermal.coarse import MAX_LINE, MAX_UNITS, coarse_chip
from pmc.backends.thermal.engine import HeatEngine, SolverEngine
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.hotspot import HotspotEngine, HotspotProgram, heat_engine
from pmc.backends.thermal.power import Work
from pmc.backends.thermal.snapshot import Snapshot
from pmc.backends.thermal.stacked import StackedModel, stack_of
from pmc.backends.thermal.traces import POWER_FORM, POWER_WIDTH, read_state, write_state
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import StackedArch

from .stacked_chips import chip, small_chip

FAKE = str(Path(__file__).with_name("fake_hotspot.py"))
CORE_W, BANK_W = np.array([5.0, 4.0, 3.0, 0.0]), np.linspace(0.0, 0.3, 16)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is another process, which must find pmc where this one did."""
    monkeypatch.setenv("PYTHONPATH", str(Path(next(iter(pmc.__path__))).parent))


def program(behaviour: str = "works", timeout_s: float = 120.0) -> HotspotProgram:
    return HotspotProgram((sys.executable, FAKE, behaviour), timeout_s)


def same(found: tuple[Floats, Floats], expected: tuple[Floats, Floats], kelvin: float = 1e-4) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=kelvin)


# -- both modes give the same ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("logic", "convention", "board"), [("far", "hotspot6", False), ("near", "hotspot7", True)])
def test_files_and_solver_agree(tmp_path: Path, logic: str, convention: str, board: bool) -> None:
    plate = {"side_mm": 30.0, "thickness_mm": 1.0}
    path = {"substrate": plate, "solder": plate, "pcb": plate, "r_convec_k_per_w": 5.0, "c_convec_jk": 40.0}
    fields = {"geometry__logic": logic, "geometry__convention": convention}
    arch = small_chip(cooling__board=path if board else None, **fields)
    model = StackedModel.of(arch, split_filling=True)
    files, solver = HotspotEngine(arch, program(), tmp_path), SolverEngine(model)
    same(files.steady(CORE_W, BANK_W), solver.steady(CORE_W, BANK_W))
    # The program goes on from one temperature per unit: so does the solver when it reads the same file.
    for power in (2 * CORE_W, CORE_W / 2):
        solver.state = read_state(tmp_path / "start.init", model.model)
        same(files.advance(power, BANK_W, 0.003), solver.advance(power, BANK_W, 0.003))


def test_a_program_that_keeps_no_state_computes_its_windows_again(tmp_path: Path) -> None:
    """HotSpot's own builds; as no state goes through a file, nothing is forgotten."""
    arch = small_chip()
    files = HotspotEngine(arch, program("keeps no state"), tmp_path)
    solver = SolverEngine(StackedModel.of(arch))
    for power in (2 * CORE_W, CORE_W / 2):
        same(files.advance(power, BANK_W, 0.003), solver.advance(power, BANK_W, 0.003))
    with pytest.raises(PmcError, match=r"a window of 0.002 s after one of 0.003 s: .* windows of one length"):
        files.advance(CORE_W, BANK_W, 0.002)
    same(files.steady(CORE_W, BANK_W), solver.steady(CORE_W, BANK_W))
    solver.state = read_state(tmp_path / "start.init", files.chip.model)
    solver.chip = files.chip
    same(files.advance(2 * CORE_W, BANK_W, 0.002), solver.advance(2 * CORE_W, BANK_W, 0.002))


def test_split_fillings_make_a_file_of_a_state_forget_less(tmp_path: Path) -> None:
    """A file has one temperature per unit, and spreader and sink have the units of the last filling."""
    arch = chip((4, 4), (8, 8, 2), geometry__grid=[16, 16])
    core_w, bank_w, errors = np.linspace(0.0, 3.0, 16), np.full(128, 0.01), list[float]()
    for split in (False, True):
        model = StackedModel.of(arch, split)
        solver = SolverEngine(model)
        before = solver.steady(core_w, bank_w)[0]
        write_state(model.model, solver.state, tmp_path / "s")
        solver.state = read_state(tmp_path / "s", model.model)
        errors.append(float(np.abs(solver.advance(core_w, bank_w, 0.003)[0] - before).max()))
    assert errors[1] < 0.4 and errors[1] < errors[0] / 4


def test_a_chip_without_a_past_is_at_the_ambient(tmp_path: Path) -> None:
    arch = small_chip()
    (tmp_path / "start.init").write_text("of an earlier run\n")
    same(
        HotspotEngine(arch, program(), tmp_path).advance(CORE_W, BANK_W, 0.003),
        SolverEngine(StackedModel.of(arch)).advance(CORE_W, BANK_W, 0.003),
    )


def test_snapshots_of_both_modes_are_the_same(tmp_path: Path) -> None:
    """Where a unit is one cell no file forgets anything."""
    idle = {"power__core_leakage__reference_w": 0.0, "power__bank_leakage__reference_w": 0.0}  # fewer calls
    arch = chip((1, 1), (1, 1, 2), geometry__grid=[1, 1], **idle)
    work = Work(np.array([2e10]), np.array([1e6]), np.array([1e7, 2e6]))
    snapshots: list[list[Snapshot]] = []
    for mode in ("file", "api"):
        engine = heat_engine(StackedModel.of(arch), program(), tmp_path, mode)
        state = ChipState(arch, engine, work, 3_000_000)
        again = Work(4 * work.flops, work.byte_hops, work.dram_bytes)
        snapshots.append([state.snapshot, state.step(again, 3_000_000), state.step(work, 3_000_000)])
    for files, solver in zip(*snapshots, strict=True):
        assert type(files) is type(solver) and files.ts_ns == solver.ts_ns
        same((files.temps_core_c, files.temps_bank_c), (solver.temps_core_c, solver.temps_bank_c), 1e-3)
        same((files.power_core_w, files.power_bank_w), (solver.power_core_w, solver.power_bank_w))
        same((files.clock_ghz, files.refresh_multiplier), (solver.clock_ghz, solver.refresh_multiplier))
    assert snapshots[0][1].temps_core_c[0] > snapshots[0][0].temps_core_c[0] + 1


# -- what programs do ------------------------------------------------------------------------------------------------


def test_a_crash_after_all_is_written_is_no_error(tmp_path: Path) -> None:
    arch = small_chip()
    found = HotspotEngine(arch, program("crashes"), tmp_path).steady(CORE_W, BANK_W)
    same(found, SolverEngine(StackedModel.of(arch)).steady(CORE_W, BANK_W))


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("says nothing", r"wrote no chip.steady, returned 0, and said nothing$"),
        ("refuses", r"wrote no chip.steady, returned 1, and said error: inordinate floorplan size!$"),
        ("forgets a unit", r"chip.steady: 'layer_0_C_1' is missing"),
        ("stops half-way", r"chip.steady"),
    ],
)
def test_what_was_not_written_is_one_line(tmp_path: Path, behaviour: str, message: str) -> None:
    engine = HotspotEngine(small_chip(), program(behaviour), tmp_path)
    (tmp_path / "chip.steady").write_text("layer_0_C_0\t300\n")  # of an earlier call
    with pytest.raises(PmcError, match=message) as error:
        engine.steady(CORE_W, BANK_W)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("says nothing", r"wrote no temperatures.ttrace, returned 0, and said nothing$"),
        ("skips a window", r"temperatures.ttrace: 0 rows of temperatures for 1 of powers"),
        ("forgets a unit", r"temperatures.ttrace: 'C_1' is missing"),
        ("divides by zero", r"temperatures.ttrace:2: 'nan' is no number"),
    ],
)
def test_a_window_that_was_not_written_is_one_line(tmp_path: Path, behaviour: str, message: str) -> None:
    with pytest.raises(PmcError, match=message):
        HotspotEngine(small_chip(), program(behaviour), tmp_path).advance(CORE_W, BANK_W, 0.003)


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "wrapper"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "{FAKE}" hangs "$@" &\necho $! > child.pid\nwait\n')
    script.chmod(0o755)
    engine = HotspotEngine(small_chip(), HotspotProgram((str(script),), 1.0), tmp_path / "work")
    start = time.monotonic()
    with pytest.raises(PmcError, match=r"did not end within 1 s and was stopped"):
        engine.steady(CORE_W, BANK_W)
    assert time.monotonic() - start < 30
    child = int((tmp_path / "work" / "child.pid").read_text())
    for _ in range(100):
        if _state(child) in ("gone", "Z"):
            return
        time.sleep(0.05)
    pytest.fail("the program that the wrapper started is still there")


def _state(process: int) -> str:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return "gone"


# -- which engine ----------------------------------------------------------------------------------------------------


def test_without_an_executable_the_solver_takes_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = StackedModel.of(small_chip())
    with caplog.at_level(logging.INFO, "pmc.backends.thermal.hotspot"):
        assert isinstance(heat_engine(model, None, tmp_path), SolverEngine)
        assert isinstance(heat_engine(model, HotspotProgram(("no-such-hotspot",)), tmp_path), SolverEngine)
    assert caplog.messages == [
        "hotspot: no executable is configured, temperatures come from the solver of pmc",
        "hotspot: there is no executable 'no-such-hotspot', temperatures come from the solver of pmc",
    ]
    assert isinstance(heat_engine(model, program(), tmp_path), HotspotEngine)
    assert isinstance(heat_engine(model, program(), tmp_path, "api"), SolverEngine)


def test_file_mode_needs_an_executable(tmp_path: Path) -> None:
    model = StackedModel.of(small_chip())
    with pytest.raises(PmcError, match=r"^hotspot: no executable is configured, which file mode needs$"):
        heat_engine(model, None, tmp_path, "file")
    with pytest.raises(PmcError, match=r"there is no executable 'no-such-hotspot', which file mode needs"):
        heat_engine(model, HotspotProgram(("no-such-hotspot",)), tmp_path, "file")


def test_the_program_needs_a_grid_of_powers_of_two(tmp_path: Path) -> None:
    with pytest.raises(PmcError, match="the grid has 12 columns, the program needs a power of two"):
        HotspotEngine(small_chip(geometry__grid=[8, 12]), program(), tmp_path)


def test_a_program_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is one of the folder that pmc runs in, not of that with the files."""
    script = tmp_path / "hotspot"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PmcError, match="and said here"):
        HotspotEngine(small_chip(), HotspotProgram(("./hotspot",)), tmp_path / "work").steady(CORE_W, BANK_W)


# -- merged banks ----------------------------------------------------------------------------------------------------


def test_the_chip_of_the_study_is_merged_until_the_program_holds_it() -> None:
    arch = chip((8, 8), (32, 32, 8))
    found = coarse_chip(arch)
    assert found.arch.dram.banks == (32, 16, 8)  # of 1.25 x 0.5 mm to 1.25 x 1 mm
    stack = stack_of(found.arch, split_filling=True)
    assert sum(len(layer.floorplan.units) for layer in stack.layers) <= MAX_UNITS
    assert sum(len(name) + 1 for name in stack.powered_units) <= MAX_LINE
    assert len(stack.powered_units) * POWER_WIDTH <= MAX_LINE
    below = {arch.core_at_bank(bank) for bank in np.flatnonzero(found.merged == 300).tolist()}
    assert below == {found.arch.core_at_bank(300)}


def test_no_text_of_watts_is_wider_than_is_counted_with() -> None:
    values = (1.2345678912e-12, 1.2345678912e-5, 0.123456789123, 123456789.123, 0.0, 9.99999999e99)
    assert max(len(POWER_FORM.format(value)) for value in values) + 1 <= POWER_WIDTH


def test_a_small_chip_stays_as_it_is() -> None:
    arch = small_chip()
    found = coarse_chip(arch)
    assert found.arch is arch and found.merged.tolist() == list(range(16))


@pytest.mark.parametrize("limit", [190, 110, 70])
def test_merged_banks_lie_together_over_one_core(limit: int) -> None:
    arch = chip((2, 3), (12, 6, 2))
    found = coarse_chip(arch, max_units=limit)
    assert arch.dram.count >= found.arch.dram.count and found.arch.dram.count + 24 <= limit
    for bank, merged in enumerate(found.merged.tolist()):
        assert found.arch.core_at_bank(merged) == arch.core_at_bank(bank)
    wide, high = (a // b for a, b in zip(arch.dram.banks, found.arch.dram.banks[:2], strict=False))
    for merged in range(found.arch.dram.count):
        names = [arch.bank_name(bank) for bank in np.flatnonzero(found.merged == merged).tolist()]
        places = [tuple(int(part) for part in name[2:-1].split(",")) for name in names]
        spans = [len({place[axis] for place in places}) for axis in range(3)]
        assert spans == [wide, high, 1] and len(places) == wide * high
    watts = np.arange(float(arch.dram.count))
    assert found.merge_w(watts).sum() == watts.sum()


def test_more_cores_than_the_program_holds_are_one_line() -> None:
    with pytest.raises(PmcError, match="has too many cores and dies for 30 units of a program"):
        coarse_chip(chip((2, 3), (12, 6, 2)), max_units=30)


def test_all_parts_of_a_merged_bank_read_its_temperature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = small_chip()
    merged = coarse_chip(arch, max_units=24)

    def limited(arch: StackedArch) -> coarse.CoarseChip:
        return coarse.coarse_chip(arch, max_units=24)

    monkeypatch.setattr(hotspot, "coarse_chip", limited)
    engine = HotspotEngine(arch, program(), tmp_path)
    cores, banks = engine.steady(CORE_W, BANK_W)
    solver = SolverEngine(StackedModel.of(merged.arch))
    expected = solver.steady(CORE_W, np.array([BANK_W[merged.merged == b].sum() for b in range(8)]))
    same((cores, banks), (expected[0], expected[1][merged.merged]))
    with pytest.raises(PmcError, match="8 powers for 16 banks"):
        engine.steady(CORE_W, np.zeros(8))


def test_a_wrong_power_is_one_line(tmp_path: Path) -> None:
    arch = small_chip()
    wrong = np.array([1.0, 1.0, -1.0, 1.0])
    engines: list[HeatEngine] = [HotspotEngine(arch, program(), tmp_path), SolverEngine(StackedModel.of(arch))]
    for engine in engines:
        with pytest.raises(PmcError, match=r"^thermal: the power of core 2 is -1.0 W, must be 0 or more$"):
            engine.steady(wrong, BANK_W)
        with pytest.raises(PmcError, match=r"^thermal: the power of core 2 is -1.0 W, must be 0 or more$"):
            engine.advance(wrong, BANK_W, 0.003)
        with pytest.raises(PmcError, match=r"^thermal: the power of bank B\(1,0,0\) is nan W, must be 0 or more$"):
            engine.advance(CORE_W, np.array([0.0, np.nan] + [0.0] * 14), 0.003)
