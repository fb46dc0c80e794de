"""A simulated step on a chip that gets warm: its energy, its speed, and what slows it."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.g5.operating_point import FULL_SPEED, OperatingPoint, StepPoints
from pmc.backends.g5.step_work import PartWork
from pmc.backends.g5.stream import simulate
from pmc.backends.thermal.engine import SolverEngine
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.step_heat import StepHeat, core_places
from pmc.backends.thermal.step_loop import StepRun, StepWindow, bandwidth_left, rounded_multiple
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.tas.configuration import load_stack
from pmc.dialects.arch import Chip, CommandEnergy
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS
from pmc.dialects.stacked_arch import StackedArch
from tests.compiler.tiny import MIXTRAL, write_config

WINDOW_NS = 7_000
"""Some kernels of the tiny step."""

ENERGY = CommandEnergy(
    pj_per_mac=1.0, pj_per_vector_step=3.0, pj_per_gdma_byte=5.0, pj_per_sdma_byte=7.0, pj_per_dram_byte=40.0,
    pj_per_cdma_byte=11.0,
)  # fmt: skip
ALWAYS_COOL = {"dvfs.domains": [{"cores": "all", "steps_ghz": [1.5], "voltage_v": [0.85], "trip_c": [], "hysteresis_c": 3.0}]}  # fmt: skip  # noqa: E501
FLAT = {"refresh.tref_curve": [[400.0, 1.0]]}


def chip_with(energy: CommandEnergy | None) -> Chip:
    chip = load_chip("sg2262")
    return chip.model_copy(update={"command_level": chip.commands.model_copy(update={"energy": energy})})


@cache
def module(energy: CommandEnergy | None = None, ranks: int = 1, stages: int = 1) -> ModuleOp:
    with TemporaryDirectory() as folder:
        model = load_model(write_config(Path(folder), MIXTRAL))
    deployment = load_deployment(
        "llama-8b-decode", {"batch": 8, "kv_len": 256, "tp": ranks, "moe_tp": ranks, "pp": stages}
    )
    return compile_model(model, chip_with(energy), load_topology("p1-r1-b1-c8"), deployment, LEVELS[-1])


@cache
def points(energy: CommandEnergy | None = None, ranks: int = 1) -> StepPoints:
    return StepPoints.of(module(energy, ranks))


def stack(**fields: Any) -> StackedArch:
    """The preset on 8 x 8 cells with one die of 8 x 8 banks."""
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return load_stack("sg2262-stacked", {"geometry.grid": [8, 8], "dram.banks": [8, 8, 1], **given})


def run(arch: StackedArch, energy: CommandEnergy | None = None, window_ns: int = WINDOW_NS) -> StepRun:
    return StepRun(arch, SolverEngine(StackedModel.of(arch)), points(energy), window_ns)


def windows(started: StepRun, count: int) -> list[StepWindow]:
    return [started.step() for _ in range(count)]


HOT = {"power__pj_per_flop": 800.0}
"""Cores that the fastest clock would bring above the first trip."""


# -- work and energy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2])
def test_the_parts_are_those_of_the_simulator_with_their_runs(stages: int) -> None:
    found, step = StepPoints.of(module(None, 1, stages)), simulate(module(None, 1, stages))
    assert (step.stage is None) == (stages == 1)
    assert found.at(OperatingPoint(0.5, 1.0)).step.stage == step.stage
    assert found.at(OperatingPoint(0.5, 1.0)).durations_ps.shape == found.work.order.runs.shape
    assert found.work.paths == tuple(part.path for part in step.parts)
    assert found.work.order.runs.tolist() == [part.count for part in step.parts]
    assert max(found.work.order.runs) > 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_energies_of_the_chip_file_come_to_those_that_the_simulator_reports(ranks: int) -> None:
    step, own = simulate(module(ENERGY, ranks)), points(ENERGY, ranks)
    heat = StepHeat.of(stack(), own.chip, own.work)
    runs = own.work.order.runs.astype(float)
    core_j, bank_j = heat.joules(runs, np.ones(64))
    told = step.energy_uj
    assert told is not None and (told.get("cdma", 0.0) > 0) == (ranks > 1)
    assert bank_j == pytest.approx(told["dram"] * 1e-6)
    assert core_j.sum() == pytest.approx((sum(told.values()) - told["dram"]) * 1e-6)
    assert heat.source == "the chip file sg2262"
    slower, _ = heat.joules(runs, np.full(64, 0.25))
    computed = (told["tiu"] + told["vec"]) * 1e-6
    assert core_j.sum() - slower.sum() == pytest.approx(0.75 * computed)


def test_energies_of_the_stack_count_flops_links_and_bytes() -> None:
    own = points()
    arch = stack(power__pj_per_noc_byte_hop=0.0, power__pj_per_flop=0.25, power__pj_per_dram_byte=31.4)
    heat = StepHeat.of(arch, own.chip, own.work)
    core_j, bank_j = heat.joules(own.work.order.runs.astype(float), np.ones(64))
    counted = list(zip(own.work.order.runs.tolist(), own.work.parts, strict=True))
    assert core_j.sum() == pytest.approx(0.25e-12 * sum(n * part.flops.sum() for n, part in counted))
    assert bank_j == pytest.approx(31.4e-12 * sum(n * part.dram_bytes for n, part in counted))
    assert heat.source == "the stack sg2262-stacked"
    power = heat.power(own.work.order.runs.astype(float), np.ones(64), 2.0)
    assert power.bank_w == pytest.approx(np.full(64, bank_j / 64 / 2.0))


def part_work(**given: Any) -> PartWork:
    zero = np.zeros(64, np.int64)
    nothing: dict[str, Any] = {
        "macs": zero, "vector_steps": zero, "gdma_bytes": zero, "sdma_bytes": zero,
        "fetched_bytes": np.zeros((64, 64), np.int64), "dram_bytes": 0, "sent_bytes": 0,
    }  # fmt: skip
    return PartWork(**{**nothing, **given})


def byte_hops(part: PartWork) -> float:
    """Of all cores, by the energy of a stack that spends on nothing else."""
    own = points()
    arch = stack(power__pj_per_noc_byte_hop=1.0, power__pj_per_flop=0.0)
    work = type(own.work)(own.work.order, (part.__class__.__name__,), (part,))
    core_j, _ = StepHeat.of(arch, own.chip, work).joules(np.ones(1), np.ones(64))
    return float(core_j.sum() / 1e-12)


def test_a_byte_of_dram_comes_from_everywhere_and_goes_on_by_single_links() -> None:
    arch, place = stack(), core_places(load_chip("sg2262"))
    loaded = np.zeros(64, np.int64)
    loaded[5] = 640
    mean = sum(arch.core_hops(core, int(place[5])) for core in range(64)) / 64
    assert byte_hops(part_work(gdma_bytes=loaded, dram_bytes=640)) == pytest.approx(640 * mean)
    # The same bytes to four cores by one read: a quarter takes the whole way, the rest one link.
    loaded[[9, 20, 40]] = 640
    means = sum(arch.core_hops(core, int(place[to])) for core in range(64) for to in (5, 9, 20, 40)) / 64
    shared = byte_hops(part_work(gdma_bytes=loaded, dram_bytes=640))
    assert shared == pytest.approx(640 * means / 4 + 3 * 640)


def test_a_fetch_goes_from_core_to_core() -> None:
    chip, fetched = load_chip("sg2262"), np.zeros((64, 64), np.int64)
    fetched[3, 60] = 1000
    found = byte_hops(part_work(fetched_bytes=fetched, sdma_bytes=fetched.sum(axis=0)))
    assert found == pytest.approx(1000 * chip.commands.noc.hops(3, 60))


def test_cores_stand_where_their_clusters_do() -> None:
    place = core_places(load_chip("sg2262"))
    assert sorted(place) == list(range(64))
    assert place[[0, 3, 4, 7, 8, 16]].tolist() == [0, 3, 8, 11, 4, 16]  # clusters of 4 x 2, two beside each other


# -- a run ------------------------------------------------------------------------------------------------------


def test_a_step_that_nothing_slows_takes_what_pmc_simulate_says() -> None:
    started = run(stack(**ALWAYS_COOL, **FLAT))
    for window in windows(started, 5):
        assert window.point == FULL_SPEED
        assert window.times.step.total_ps == simulate(module()).total_ps
        assert window.steps == WINDOW_NS * 1000 / simulate(module()).total_ps


@pytest.mark.parametrize("fields", [{**ALWAYS_COOL, **FLAT}, HOT])
def test_no_work_is_lost_or_done_twice(fields: dict[str, Any]) -> None:
    started = run(stack(**fields))
    done = windows(started, 40)
    runs = np.sum([window.runs for window in done], axis=0)
    order, heat = started.points.work.order, started.heat
    steps = round(float((runs - started.place.runs)[0]))
    assert steps > 3
    assert runs == pytest.approx(steps * order.runs + started.place.runs, rel=1e-9, abs=1e-9)
    if fields is not HOT:  # then all cores have their fastest clock, and its voltage
        joules = sum(window.core_j.sum() + window.bank_j for window in done)
        ones = np.ones(64)
        step_j, step_bank_j = heat.joules(order.runs.astype(float), ones)
        rest_j, rest_bank_j = heat.joules(started.place.runs, ones)
        whole = steps * (step_j.sum() + step_bank_j) + rest_j.sum() + rest_bank_j
        assert joules == pytest.approx(whole, rel=1e-9)


def test_the_clock_changes_inside_of_a_step_and_the_step_goes_on() -> None:
    warm = {"power__pj_per_flop": 800.0, "cooling__h_wmk2k": 8e4, **FLAT}
    peaks = [window.snapshot.temps_core_c.max() for window in windows(run(stack(**warm, **ALWAYS_COOL)), 30)]
    trip = (min(peaks) + max(peaks)) / 2
    two_clocks = {"cores": "all", "steps_ghz": [1.5, 0.75], "voltage_v": [0.85, 0.6], "trip_c": [trip]}
    started = run(stack(**warm, dvfs__domains=[{**two_clocks, "hysteresis_c": 0.01}]))
    done = windows(started, 60)
    clocks = [window.clock_ghz for window in done]
    assert set(clocks) == {0.75, 1.5}
    assert {(window.clock_ghz, window.times.step.total_ps) for window in done} == {
        (0.75, simulate_at(OperatingPoint(0.5, 1.0))),
        (1.5, simulate(module()).total_ps),
    }
    runs, order = np.sum([window.runs for window in done], axis=0), started.points.work.order
    steps = round(float((runs - started.place.runs)[0]))
    assert runs == pytest.approx(steps * order.runs + started.place.runs, rel=1e-9, abs=1e-9)
    for window, after in pairwise(done):
        assert (after.clock_ghz == 1.5) == bool((window.snapshot.clock_ghz == 1.5).all())


def test_the_watts_of_a_window_follow_what_runs_in_it() -> None:
    done = windows(run(stack(**FLAT), window_ns=1_000), 60)
    watts = np.array([window.core_j.sum() for window in done])
    assert watts.max() > 1.5 * watts.min()


def test_a_hot_chip_is_clocked_down_and_its_step_takes_what_it_takes_at_that_clock() -> None:
    started = run(stack(**HOT))
    first = started.step()
    assert first.clock_ghz < 1.5
    slower = simulate_at(first.point)
    assert first.times.step.total_ps == slower > simulate(module()).total_ps
    assert first.point.clock == pytest.approx(first.clock_ghz / 1.5)


def simulate_at(point: OperatingPoint) -> int:
    """A step compiled for the chip at full speed, on a chip file with other numbers."""
    own = module()
    changed = own.clone()
    kind: Any = type(own.attributes["arch.chip"])
    changed.attributes["arch.chip"] = kind(point.of(chip_with(None)))
    return simulate(changed).total_ps


@pytest.mark.parametrize("point", [OperatingPoint(0.5, 1.0), OperatingPoint(1.0, 0.25)])
def test_a_slower_chip_takes_longer_for_the_same_commands(point: OperatingPoint) -> None:
    own = points()
    full, slow = own.at(FULL_SPEED), own.at(point)
    assert slow.step.total_ps > full.step.total_ps
    assert slow.step.commands == full.step.commands
    assert own.at(point) is slow
    assert point.of(own.chip).clocks.tiu_ghz == own.chip.clocks.tiu_ghz * point.clock
    assert point.of(own.chip).dram.bandwidth_gb_per_s == own.chip.dram.bandwidth_gb_per_s * point.bandwidth


def test_a_better_cooler_is_never_slower() -> None:
    rates: list[float] = []
    for h in (1e4, 2e4, 4e4, 8e4, 1e6):
        done = windows(run(stack(**HOT, cooling__h_wmk2k=h)), 10)
        rates.append(sum(window.steps for window in done))
    assert rates == sorted(rates) and rates[0] < rates[-1]


def test_hot_banks_leave_less_bandwidth() -> None:
    cold = run(stack(**ALWAYS_COOL, refresh__tref_curve=[[50.0, 4.0]], cooling__ambient_c=20.0)).step()
    hot = run(stack(**ALWAYS_COOL, refresh__tref_curve=[[50.0, 4.0]], cooling__ambient_c=60.0)).step()
    assert (cold.refresh, hot.refresh) == (1.0, 4.0)
    assert cold.point.bandwidth == 1.0
    part = 260.0 / 3900.0
    assert hot.point.bandwidth == pytest.approx((1 - 4 * part) / (1 - part))
    assert hot.times.step.total_ps > cold.times.step.total_ps


def test_the_mean_multiple_is_rounded_up_to_few_steps() -> None:
    refresh = stack().refresh  # twice from 85 C on
    assert [rounded_multiple(refresh, m) for m in (1.0, 1.01, 1.25, 1.9, 2.0)] == [1.0, 1.25, 1.25, 2.0, 2.0]
    assert bandwidth_left(refresh, 1.0) == 1.0
    odd = refresh.model_copy(update={"tref_curve": ((85.0, 1.6),)})
    assert rounded_multiple(odd, 1.55) == 1.6


# -- what does not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mesh__cores": [16, 4], "dram__banks": [16, 4, 1]},
         "stack sg2262-stacked has 16 x 4 cores (mesh.cores), chip sg2262 has 8 x 8 (command_level.noc)"),
        ({"dvfs__domains": [{"cores": "all", "steps_ghz": [2.0], "voltage_v": [1.0], "trip_c": [], "hysteresis_c": 3}]},
         "stack sg2262-stacked runs at 2 GHz (the first of dvfs steps_ghz), chip sg2262 at 1.5 GHz (clocks.tiu_ghz)"),
    ],
)  # fmt: skip
def test_a_stack_of_another_chip_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PmcError) as error:
        StepHeat.of(stack(**fields), points().chip, points().work)
    assert str(error.value) == words


def test_every_number_of_the_preset_is_an_assumption() -> None:
    arch = load_stack("sg2262-stacked")
    assert set(arch.unvalidated) == set(type(arch).model_fields) - {"name", "unvalidated"}
    assert json.loads(arch.model_dump_json())["mesh"]["cores"] == [8, 8]
