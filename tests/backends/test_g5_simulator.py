"""The simulator of commands: one command by its published formula, chains by closed forms, shared DRAM, deadlocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.arg_spec import parse_pipeline

from pmc.backends.cost.rates import CoreRates
from pmc.backends.g5 import dram
from pmc.backends.g5.clock import of_bytes
from pmc.backends.g5.critical_path import critical_ps, fill_and_drain_ps
from pmc.backends.g5.events import EventQueue
from pmc.backends.g5.program import lower
from pmc.backends.g5.report import CommandList, StepReport
from pmc.backends.g5.run import run as simulate_program
from pmc.backends.g5.stream import CHIP_FIELDS, StepTimes, simulate
from pmc.backends.g5.timeline import timeline
from pmc.backends.g5.times import LIMITS, REASONS, ProgramTimes
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, load_model, resume
from pmc.compiler.field_readers import covers
from pmc.compiler.main import main
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ENGINES, ProgramOp

from .recording import recording

PS = 1e-6
"""Microseconds of a picosecond."""


def chip_with(name: str = "sg2262-tpuperf", /, **changes: Any) -> Chip:
    """The chip, with fields by dotted path (`__` for the dot) set to other values."""
    data = load_chip(name).model_dump()
    for path, value in changes.items():
        *blocks, last = path.split("__")
        place = data
        for block in blocks:
            place = place[block]
        assert last in place, path
        place[last] = value
    return Chip.model_validate(data)


QUIET: dict[str, Any] = {
    "command_level__issue__cycles_per_command": 0,
    "command_level__issue__barrier_cycles": 0,
    "command_level__lmem__latency_ns": 0.0,
    "dram__command_latency_ns": 50.0,
}
"""No overheads but those of the published formulas: pages are open, commands are given in no time."""


def load(size: int = 4096, address: str = "0", lmem: str = "0", after: str = "", extra: str = "") -> str:
    waits = f" after [{after}]" if after else ""
    return (
        f'g5.gdma {{direction = "load", dram = <{address}>, lmem = <{lmem}>, shape = [<{size}>], '
        f'dram_strides = [<1>], lmem_strides = [<1>], element_type = i8{extra}}}{waits} at "load"'
    )


def multiply(
    m: int = 64, n: int = 64, k: int = 512, after: str = "", result: int = 262144, b: int = 131072, t: str = "false"
) -> str:
    waits = f" after [{after}]" if after else ""
    return (
        f"g5.tiu {{acc = #g5.lmem<{result}, pitch {n}, f32>, a = #g5.lmem<0, pitch {k}, f8E4M3FN>, "
        f"b = #g5.lmem<{b}, pitch {k if t == 'true' else n}, f8E4M3FN>, m = <{m}>, n = <{n}>, k = <{k}>, "
        f'accumulate = <0>, transpose_b = {t}}}{waits} at "mm"'
    )


def loop(name: str, count: int, *ops: str) -> str:
    return f'g5.loop {name} < <{count}> at "loop" {{ {" ".join(ops)} }}'


def fetch(source: str) -> str:
    return (
        f"g5.fetch {{core = <{source}>, source = #g5.lmem<0, pitch 64, bf16>, "
        'target = #g5.lmem<65536, pitch 64, bf16>, rows = <16>, columns = <64>} at "fetch"'
    )


BARRIER = 'g5.barrier() at "end"'

(UNROLL,) = parse_pipeline("unroll-commands")


def program(*ops: str, cores: int = 1) -> ProgramOp:
    text = f"""builtin.module {{ g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
      g5.program() {{cores = {cores}, op_name = "layer.matmul"}} at "k" {{ {" ".join(ops)} }} }} }}"""
    module: ModuleOp = Parser(make_context(), text).parse_module()
    module.verify()
    (found,) = (op for op in module.walk() if isinstance(op, ProgramOp))
    return found


def run(chip: Chip, *ops: str, cores: int = 1) -> ProgramTimes:
    return simulate_program(lower(program(*ops, cores=cores), chip, {}), chip)


def alone_ps(chip: Chip, op: str) -> int:
    times = run(chip, op)
    assert len(times.start_ps) == 1
    return int(times.end_ps[0] - times.start_ps[0])


# -- one command, by the published formulas (facts, section 8) -----------------------------------------------------


@pytest.mark.parametrize(
    ("op", "cycles"),
    [
        # 44 + ceil(64/16) ceil(64/8) ceil(512/32)
        (multiply(64, 64, 512), 44 + 4 * 8 * 16),
        # Edges count whole blocks.
        (multiply(17, 9, 33), 44 + 2 * 2 * 2),
        # A conflict cycle per block where the result is in the bank (128 KiB) of the first operand, ..
        (multiply(64, 64, 512, result=65536), 44 + 4 * 8 * (16 + 1)),
        # .. and another where it is in that of the second.
        (multiply(64, 64, 512, result=65536, b=98304), 44 + 4 * 8 * (16 + 2)),
        (multiply(64, 64, 512, t="true"), 50 + 4 * 8 * 16),
    ],
)
def test_a_matrix_command(op: str, cycles: int) -> None:
    chip = chip_with(**QUIET, clocks__tiu_ghz=1.0, command_level__tiu__startup_cycles_nt=50)
    assert alone_ps(chip, op) == cycles * 1000


def test_a_dma_command() -> None:
    """start-up + bytes / (68 GB/s x 0.9); a closed page takes (150 - 50) ns longer."""
    expected = 100_000 + int(np.ceil(1_000_000 * 1000 / (68 * 0.9)))
    assert alone_ps(chip_with(**QUIET), load(1_000_000)) == expected
    closed = chip_with(**{**QUIET, "dram__command_latency_ns": 150.0})
    assert alone_ps(closed, load(1_000_000)) == expected + 100_000


@pytest.mark.parametrize(("source", "hops"), [("0", 0), ("9", 5), ("63", 14)])
def test_a_fetch_from_another_core(source: str, hops: int) -> None:
    """120 ns + 45 cycles of 1.5 GHz a hop + bytes / (64 GB/s x 0.85).

    Cores come in clusters of 4 x 2: core 9 is the second of the second cluster, at (5, 0); core 63 is at (7, 7).
    """
    chip = chip_with(**QUIET, die_to_die__latency_ns=0.0)
    times = run(chip, fetch(source), cores=64)
    own = int(times.end_ps[0] - times.start_ps[0])
    assert own >= 120_000 + hops * 45 * 1000 / 1.5 + 2048 * 1000 / (64 * 0.85)
    if source == "0":  # nobody but core 0 reads its own LMEM without passing another port
        assert own == 120_000 + int(np.ceil(2048 * 1000 / (64 * 0.85)))


def test_a_vector_command() -> None:
    silu = (
        "g5.vec {kind = #tile.silu_mul, ins = [#g5.lmem<0, pitch 64, bf16>, #g5.lmem<8192, pitch 64, bf16>], "
        'outs = [#g5.lmem<16384, pitch 64, bf16>], updates = [], rows = <16>, columns = <64>} at "silu"'
    )
    chip = chip_with(**QUIET)
    kernel = program(silu)
    steps = program_resources(kernel, chip).vec_steps["bf16"][0]
    # 32 units of 16 bits in each of 16 lanes.
    assert alone_ps(chip, silu) == int(np.ceil(np.ceil(steps / 512) * 1000 / 1.5))
    late = chip_with(**{**QUIET, "command_level__lmem__latency_ns": 29.0})
    assert alone_ps(late, silu) - alone_ps(chip, silu) == 29_000


@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 256, 8), (1, 250, 8), (32, 256, 2), (3, 17, 1)])
def test_a_sort_command(rows: int, columns: int, k: int) -> None:
    """20 + rows x ceil(n/16) x ceil(log2 k) cycles for TOP_K, after the vector steps of the score."""
    topk = (
        f'g5.hau {{kind = #tile.router_topk<top_k = {k}, scoring = "sigmoid", groups = 1, top_groups = 1, '
        "normalize = true, scale = 1.0>, ins = [#g5.lmem<0, pitch 256, f32>, #g5.lmem<32768, pitch 256, f32>], "
        f"outs = [#g5.lmem<66560, pitch 8, f32>, #g5.lmem<68608, pitch 8, i32>], updates = [], rows = <{rows}>, "
        f'columns = <{columns}>}} at "topk"'
    )
    chip = chip_with(**QUIET)
    steps = next(iter(program_resources(program(topk), chip).vec_steps.values()))[0]
    score = int(np.ceil(steps / 256))  # 16 units of 32 bits in each of 16 lanes
    compares = {1: 1, 2: 1, 8: 3}[k]
    cycles = score + 20 + rows * -(-columns // 16) * compares
    assert alone_ps(chip, topk) == int(np.ceil(cycles * 1000 / 1.5))


# -- chains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "size"), [(512, 65536), (8192, 4096)])
def test_double_buffering_hides_the_shorter_of_loads_and_products(k: int, size: int) -> None:
    """n iterations with two slots: L + (n - 1) max(L, T) + T."""
    chip, n = chip_with(**QUIET), 9
    body = (load(size, "i*65536", "mod(i.seq, 2)*65536", after="tiu-1"), multiply(k=k, after="gdma-0"))
    length, product = alone_ps(chip, load(size)), alone_ps(chip, multiply(k=k))
    times = run(chip, loop("i", n, *body), BARRIER)
    assert times.duration_ps == length + (n - 1) * max(length, product) + product


def test_one_buffer_adds_loads_and_products_up() -> None:
    chip, n = chip_with(**QUIET), 5
    times = run(chip, loop("i", n, load(after="tiu-0"), multiply(after="gdma-0")), BARRIER)
    assert times.duration_ps == n * (alone_ps(chip, load()) + alone_ps(chip, multiply()))


def test_every_barrier_and_every_command_given_takes_its_cycles() -> None:
    given = {"command_level__issue__cycles_per_command": 3, "command_level__issue__barrier_cycles": 30}
    times = run(chip_with(**{**QUIET, **given}), load(), BARRIER, load(), BARRIER)
    one = alone_ps(chip_with(**QUIET), load())
    assert times.duration_ps == 2 * (2_000 + one + 20_000)


def test_a_full_queue_holds_back_what_comes_after() -> None:
    """With room for one waiting command the last load and the product are given when the third load has started."""
    ops = (load(), load(), load(), load(), multiply())
    one = alone_ps(chip_with(**QUIET), load())
    for depth, start in ((1, 2 * one), (2, one), (3, 0)):
        times = run(chip_with(**QUIET, command_level__issue__queue_depth=depth), *ops)
        (product,) = np.flatnonzero(times.engine == ENGINES.index("tiu"))
        assert times.start_ps[product] == start


# -- what cores share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 8, 64])
def test_all_cores_together_get_no_more_than_dram_gives(cores: int) -> None:
    size = 1 << 20
    chip = chip_with("sg2262", **QUIET, dram__bandwidth_gb_per_s=1000.0)
    times = run(chip, load(size, f"core*{size}"), BARRIER, cores=cores)
    alone = size / (149.4 * 0.9) * 1e3
    shared = cores * size / 1000 * 1e3
    assert times.duration_ps == pytest.approx(100_000 + max(alone, shared), rel=1e-3)
    assert (LIMITS[int(times.limit[-1])] == "dram") == (shared > alone)


def test_a_shared_load_reads_dram_once_and_waits_for_all_its_cores() -> None:
    size = 1 << 20
    chip = chip_with("sg2262", **QUIET, dram__bandwidth_gb_per_s=100.0)
    serves = ", serves = #tile.cores<0, 8>"
    apart = run(chip, load(size), BARRIER, cores=8)
    together = run(chip, load(size, extra=serves), BARRIER, cores=8)
    assert together.duration_ps < apart.duration_ps / 6
    late = run(chip, loop("i", 3, load(4096, "core*4096", "core*4096")), load(size, extra=serves), BARRIER, cores=8)
    shared = [i for i, row in enumerate(late.row) if late.commands.op[row] == 1]
    assert len({int(late.start_ps[i]) for i in shared}) == 1
    assert {REASONS[int(late.reason[i])] for i in shared} <= {"engine", "shared load"}


def test_bytes_of_channels_are_those_of_a_walk_over_the_bytes() -> None:
    """Random strided blocks against the definition, byte by byte."""
    chip = chip_with(command_level__dram_channels__count=4, command_level__dram_channels__interleave_bytes=8)
    channels, random = chip.commands.dram_channels, np.random.default_rng(0)
    for _ in range(200):
        rows, columns, pitch, start = (int(random.integers(1, top)) for top in (5, 40, 60, 300))
        pitch = max(pitch, columns)
        shape, strides = [np.array([rows]), np.array([columns])], [np.array([pitch]), np.array([1])]
        (found,), _ = dram.shares([dram.Blocks(8, np.array([start]), shape, strides)], channels)
        granules = [(start + r * pitch + c) // 8 for r in range(rows) for c in range(columns)]
        walked = np.bincount([(g + g // 4) % 4 for g in granules], minlength=4)
        np.testing.assert_array_equal(found, walked)


def test_events_come_by_time_then_priority_then_order() -> None:
    queue: EventQueue[str] = EventQueue()
    for time, priority, what in ((5, 0, "e"), (3, 1, "c"), (3, 0, "a"), (3, 0, "b"), (4, 9, "d")):
        queue.add(time, priority, what)
    assert "".join(queue.next()[1] for _ in range(5)) == "abcde"
    assert not queue


# -- whole programs ------------------------------------------------------------------------------------------------


def small_step(**changes: Any) -> tuple[ModuleOp, StepTimes]:
    fields = {"tp": 2, "batch": 8, "kv_len": 128, **changes}
    deployment = load_deployment("llama-8b-decode", fields)
    module = compile_model(
        load_model("llama-3.1-8b"), load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, "commands"
    )
    return module, simulate(module)


STEP = small_step()


def pipelined_prefill() -> tuple[ModuleOp, StepTimes]:
    """Two sequences whose attention is bound by its units, with all passes that are measured by the simulator."""
    passes = {"fuse_rows": True, "fuse_gates": True, "pipeline_loops": True, "prefetch_weights": True}
    return small_step(phase="prefill", batch=2, q_len=1024, kv_len=1024, **passes)


@pytest.mark.parametrize("compiled", [lambda: STEP, pipelined_prefill], ids=["decode", "pipelined prefill"])
def test_no_kernel_is_faster_than_its_resources(compiled: Callable[[], tuple[ModuleOp, StepTimes]]) -> None:
    """Per core the sum of matrix, vector and DMA time at the chip's rates, per chip the DRAM bytes."""
    module, step = compiled()
    chip, physical = load_chip("sg2262"), load_accounting("physical")
    rates = CoreRates(chip, physical)
    kernels = [part for part in step.parts if part.times is not None]
    programs = [op for op in module.walk() if isinstance(op, ProgramOp)]
    for part, op in zip(kernels, programs, strict=True):
        assert part.path == op.path.data
        counted = program_resources(op, chip)
        seconds = part.duration_ps * 1e-12 * (1 + 1e-9)
        assert seconds >= (counted.dram_read + counted.dram_written) / chip.dram_bytes_per_s
        assert seconds >= rates.dma_s(chip.commands.gdma, counted.gdma_bytes, counted.gdma_commands).max()
        assert seconds >= sum(steps.max() * rates.tiu_step_s(t) for t, steps in counted.tiu_steps.items())
        assert seconds >= sum(steps.max() / rates.core_steps_per_s(t) for t, steps in counted.vec_steps.items())


def test_the_critical_path_adds_up_to_the_time() -> None:
    _, step = STEP
    for part in step.parts:
        assert sum(part.critical_ps.values()) == part.duration_ps
        assert all(0 < ps <= part.duration_ps for ps in part.busy_ps.values())
    report = StepReport("llama", step)
    assert sum(report.critical_us.values()) == pytest.approx(step.total_us)
    assert sum(float(row["time_us"] or 0) for row in report.to_rows()) == pytest.approx(step.total_us)
    assert report.notes()[-1].startswith("relative only, never validated against silicon: gdma_multicast")


def test_commands_start_when_their_causes_have_ended() -> None:
    """In order, one at a time on each engine, after everything that they wait for."""
    for part in STEP[1].parts:
        if part.times is None:
            continue
        times = part.times
        ended: dict[tuple[int, int], list[int]] = {}
        for index in range(len(times.row)):
            core, engine = int(times.core[index]), int(times.engine[index])
            own = ended.setdefault((core, engine), [])
            assert not own or times.start_ps[index] >= own[-1]
            for other, lag in enumerate(times.commands.lags[times.row[index]]):
                given = ended.get((core, other), [])
                if len(given) > lag:
                    assert times.start_ps[index] >= given[len(given) - lag - 1]
            own.append(int(times.end_ps[index]))
            assert times.end_ps[index] > times.start_ps[index]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_loops_keep_to_their_bounds(data: st.DataObject) -> None:
    """Time is at least what each engine and DRAM need, at most what all of them need one after the other."""
    chip = chip_with("sg2262", **QUIET)
    cores, n = data.draw(st.sampled_from([1, 3, 64])), data.draw(st.integers(1, 12))
    size, k = data.draw(st.integers(1, 200_000)), data.draw(st.integers(1, 4096))
    lag = data.draw(st.integers(0, 2))
    body = (load(size, f"core*{size * n} + i*{size}", after=f"tiu-{lag}"), multiply(k=k, after="gdma-0"))
    times = run(chip, loop("i", n, *body), BARRIER, cores=cores)
    one_load, one_product = alone_ps(chip, load(size)), alone_ps(chip, multiply(k=k))
    in_all = cores * n * size / chip.dram_bytes_per_s * 1e12
    assert times.duration_ps >= max(n * one_load, n * one_product, in_all)
    one_channel = int(of_bytes(size, chip.dram_bytes_per_s / 64))
    assert times.duration_ps <= n * (one_load + one_product) + cores * n * one_channel


TIMING = {
    "clocks.chip_ghz": 1.2,
    "clocks.tiu_ghz": 1.2,
    "dram.bandwidth_gb_per_s": 2000.0,
    "dram.command_latency_ns": 250.0,
    "dram.page_hit_latency_ns": 10.0,
    "command_level.lmem.bytes_per_cycle": 32,
    "command_level.lmem.latency_ns": 99.0,
    "command_level.tiu.startup_cycles_nn": 400,
    "command_level.tiu.startup_cycles_nt": 400,
    "command_level.gdma.gb_per_s": 80.0,
    "command_level.gdma.startup_ns": 300.0,
    "command_level.gdma.efficiency": 0.5,
    "command_level.dram_channels.count": 8,
    "command_level.dram_channels.interleave_bytes": 4096,
    "command_level.dram_channels.page_bytes": 65536,
    "command_level.issue.cycles_per_command": 200,
    "command_level.issue.barrier_cycles": 500,
}


@pytest.mark.parametrize("path", TIMING)
def test_every_timing_field_changes_the_time_of_the_same_commands(path: str) -> None:
    module, step = STEP
    other = module.clone()
    changed = chip_with("sg2262", **{path.replace(".", "__"): TIMING[path]})
    other.attributes["arch.chip"] = ChipAttr(changed)
    assert simulate(other).total_ps != step.total_ps


ENERGY = {
    "pj_per_mac": 0.5, "pj_per_vector_step": 1.0, "pj_per_gdma_byte": 2.0, "pj_per_sdma_byte": 3.0,
    "pj_per_dram_byte": 30.0, "pj_per_cdma_byte": 40.0,
}  # fmt: skip


def test_energy_is_that_of_what_commands_do() -> None:
    """Not reported without a chip that says it; every field changes its class, and no time."""
    module, step = STEP
    assert step.energy_uj is None
    assert not any("energy" in note for note in StepReport("llama", step).notes())

    def simulated(**changes: float) -> StepTimes:
        other = module.clone()
        other.attributes["arch.chip"] = ChipAttr(chip_with("sg2262", command_level__energy={**ENERGY, **changes}))
        return simulate(other)

    found = simulated()
    base = found.energy_uj
    assert base is not None and found.total_ps == step.total_ps
    programs = [op for op in module.walk() if isinstance(op, ProgramOp)]
    kernels = [part for part in step.parts if part.times is not None]
    macs = sum(part.count * program_resources(op, step.chip).macs for part, op in zip(kernels, programs, strict=True))
    assert base["tiu"] == pytest.approx(0.5e-6 * macs)
    for name, energy_class in zip(ENERGY, ("tiu", "vec", "gdma", "sdma", "dram", "cdma"), strict=True):
        other = simulated(**{name: 2 * ENERGY[name]}).energy_uj
        assert other == pytest.approx({**base, energy_class: 2 * base[energy_class]})
    report = StepReport("llama", found)
    assert sum(float(row["energy_uj"] or 0) for row in report.to_rows()) == pytest.approx(sum(base.values()))
    assert report.notes()[1].startswith(f"energy of one rank, without idle power: {sum(base.values()):.3f} uJ; tiu ")


def test_the_simulator_reads_the_fields_that_it_declares() -> None:
    """Of a decode step with a router, and of a core that fetches from the other die."""
    seen: set[str] = set()
    chip = recording(chip_with("sg2262", command_level__energy=ENERGY), seen)
    deployment = load_deployment("dsv3-decode-ep32")
    module = compile_model(
        load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment, "commands"
    )
    module.attributes["arch.chip"] = ChipAttr(chip)
    simulate(module)
    run(chip, fetch("63"), cores=64)
    undeclared = sorted(path for path in seen if not any(covers(declared, path) for declared in CHIP_FIELDS))
    assert undeclared == []
    assert [declared for declared in CHIP_FIELDS if not any(covers(declared, path) for path in seen)] == []


# -- bad input -----------------------------------------------------------------------------------------------------


def test_commands_that_wait_for_each_other_are_named() -> None:
    deadlock = (load(after="tiu-0"), multiply(after="gdma-0"))
    commands = lower(program(*deadlock), load_chip("sg2262"), {})
    lags = commands.lags.copy()
    lags[0, ENGINES.index("tiu")] = -1
    with pytest.raises(PmcError) as stuck:
        simulate_program(replace(commands, lags=lags), load_chip("sg2262"))
    assert str(stuck.value) == (
        "the program at 'load' stands still with 2 commands left: core 0: tiu 1 (mm) waits for gdma 1, "
        "gdma 1 (load) waits for tiu 1"
    )


def test_a_module_without_commands_and_unrolled_tables_are_refused() -> None:
    deployment = load_deployment("llama-8b-decode", {"batch": 8, "kv_len": 128})
    target = load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment
    with pytest.raises(PmcError, match=r"the module holds 0 g5\.stream ops, must be one: compile it to commands"):
        simulate(compile_model(load_model("llama-3.1-8b"), *target, "dist"))
    unrolled = resume(compile_model(load_model("llama-3.1-8b"), *target, "commands"), "commands", extra=[UNROLL])
    with pytest.raises(PmcError, match=r"^g5\.program at '.*' was unrolled into tables of one core; simulate the mod"):
        simulate(unrolled)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("core=64", "--commands core=64: chip sg2262 has cores 0 to 63"),
        ("cor=3", "--commands cor=3: 'cor=3' must be core=N or op=PATTERN"),
    ],
)
def test_bad_choices_of_commands(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
    assert main(["simulate", "llama-3.1-8b", *target, "--batch", "8", "--kv-len", "128", "--commands", option]) == 2
    assert capsys.readouterr().err == f"pmc: error: {message}\n"


# -- what is printed -----------------------------------------------------------------------------------------------


def test_listed_commands_and_the_trace_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, step = STEP
    listed = CommandList("llama", step, frozenset({0}), "*.q_proj").to_rows()
    assert listed and {row["path"] for row in listed} == {"blocks.dense.gqa.q_proj"}
    assert [row["id"] for row in listed if row["engine"] == "gdma"] == sorted(
        int(row["id"] or 0) for row in listed if row["engine"] == "gdma"
    )
    slices = [event for event in timeline(step, [0]).events if event.site == "core 0"]
    assert len(slices) == sum(int((p.times.core == 0).sum()) for p in step.parts if p.times is not None)
    assert all(e.start_us >= 0 and e.duration_us > 0 and e.engine in ENGINES for e in slices)
    target = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode", "--tp", "2"]
    path = tmp_path / "trace.json"
    assert main(["simulate", "llama-3.1-8b", *target, "--batch", "8", "--kv-len", "128", "--trace", str(path)]) == 0
    assert json.loads(path.read_text())["traceEvents"]
    assert f"total {step.total_us:.3f} us; critical path: " in capsys.readouterr().out


@pytest.mark.parametrize("trips", [1, 3, 40])
def test_the_pipeline_fills_before_the_first_computation_and_drains_after_the_last(trips: int) -> None:
    """Loads of one speed, each longer than its product: the first fills, the others are waited for in between."""
    body = [load(32768, lmem="mod(i.seq, 2)*32768", after="tiu-1"), multiply(16, 8, 32, after="gdma-0")]
    store = load(8192, lmem="262144", after="tiu-0").replace('"load"', '"store"')
    times = run(chip_with(**QUIET), loop("i", trips, *body), store, BARRIER)
    moved = times.end_ps - times.start_ps
    fill, drain = fill_and_drain_ps(times)
    assert (fill, drain) == (moved[0], moved[-1])
    path = critical_ps(times)
    assert path["gdma"] + path.get("dram", 0) + path.get("lmem port", 0) == fill + drain + (trips - 1) * moved[0]


def test_what_computes_nothing_neither_fills_nor_drains() -> None:
    assert fill_and_drain_ps(run(chip_with(**QUIET), load(4096), BARRIER)) == (0, 0)
    assert fill_and_drain_ps(run(chip_with(**QUIET), BARRIER)) == (0, 0)
