"""The compiled event loop against its plain form: the same times, reasons and causes of every command, bit for bit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.parser import Parser

from pmc.backends.g5 import kernel
from pmc.backends.g5.critical_path import critical_ps
from pmc.backends.g5.machine import Machine
from pmc.backends.g5.program import Commands, lower
from pmc.backends.g5.run import run
from pmc.backends.g5.times import ProgramTimes
from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import CommandOp, ProgramOp

from .random_commands import random_commands

compiled = pytest.mark.skipif(not kernel.available(), reason="needs a C compiler")

FIELDS = ("core", "row", "start_ps", "end_ps", "reason", "cause", "limit", "last_ps")

LOAD = (
    'g5.gdma {direction = "load", dram = <0>, lmem = <0>, shape = [<64>], dram_strides = [<1>], lmem_strides = [<1>], '
    'element_type = i8} at "load"'
)


def program(*ops: str, cores: int = 1) -> ProgramOp:
    text = f"""builtin.module {{ g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
      g5.program() {{cores = {cores}, op_name = "layer.matmul"}} at "k" {{ {" ".join(ops)} }} }} }}"""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    (found,) = (op for op in module.walk() if isinstance(op, ProgramOp))
    return found


def any_command() -> CommandOp:
    """What rows of random programs are said to be runs of."""
    (op,) = (op for op in program(LOAD).walk() if isinstance(op, CommandOp))
    return op


def random_program(seed: int) -> tuple[Commands, Chip]:
    random = Random(seed)
    data = load_chip("sg2262").model_dump()
    issue = data["command_level"]["issue"]
    issue |= {"queue_depth": random.choice((1, 2, 16)), "cycles_per_command": random.choice((0, 1, 10))}
    data["command_level"]["dram_channels"]["count"] = random.choice((2, 8))
    chip = Chip.model_validate(data)
    return random_commands(random, chip, any_command()), chip


def assert_equal(seed: int) -> ProgramTimes:
    """Hold both forms equal on a random program, with and without skipping; the times with skipping."""
    commands, chip = random_program(seed)
    oracle = Machine(commands, chip).run()
    for skip in (False, True):
        times = kernel.run(commands, chip, skip=skip)
        assert times is not None
        assert bool(times.jumps) <= skip
        assert times.count == oracle.count == commands.count
        assert times.duration_ps == oracle.duration_ps
        assert times.busy_ps() == oracle.busy_ps()
        assert critical_ps(times) == critical_ps(oracle)
        assert sum(critical_ps(times).values()) == oracle.duration_ps
        unrolled = times.unrolled()
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(unrolled, name), getattr(oracle, name), err_msg=f"{seed} {name}")
    return times


@compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_programs(seed: int) -> None:
    assert_equal(seed)


@compiled
@pytest.mark.long
def test_two_thousand_random_programs() -> None:
    """Skipping is exact, and is done: in a quarter of the programs, for a quarter of the commands."""
    times = [assert_equal(seed) for seed in range(2000)]
    assert sum(bool(t.jumps) for t in times) > 500
    assert sum(len(t.row) for t in times) < 0.75 * sum(t.count for t in times)


@compiled
def test_a_drift_between_cores_is_no_repetition() -> None:
    """Seeds at which states are nearly equal: what a queue still holds, and a load that waits for another core."""
    for seed in (30, 263, 1081, 1312):
        assert_equal(seed)


def test_without_a_compiler_programs_run_in_the_plain_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands, chip = random_program(3)
    expected = Machine(commands, chip).run()
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = kernel._library  # pyright: ignore[reportPrivateUsage]
    library.cache_clear()
    try:
        assert not kernel.available()
        np.testing.assert_array_equal(run(commands, chip).end_ps, expected.end_ps)
    finally:
        library.cache_clear()


@compiled
def test_the_library_is_built_in_the_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = kernel._library  # pyright: ignore[reportPrivateUsage]
    library.cache_clear()
    try:
        assert kernel.available()
        (built,) = (tmp_path / "pmc").iterdir()
        assert built.name.startswith("g5-") and built.suffix == ".so"
    finally:
        library.cache_clear()


def test_a_core_that_does_not_exist_is_named() -> None:
    fetch = (
        "g5.fetch {core = <core + 60>, source = #g5.lmem<0, pitch 64, bf16>, "
        'target = #g5.lmem<65536, pitch 64, bf16>, rows = <16>, columns = <64>} at "fetch"'
    )
    message = r"^g5\.fetch at 'fetch' reads the LMEM of core 64: chip sg2262 has cores 0 to 63$"
    with pytest.raises(PmcError, match=message):
        lower(program(fetch, cores=8), load_chip("sg2262"), {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("core*64>, lmem = <2097152 - 63", "'lmem' of core 0 lies at bytes 2097089 to 2097153, LMEM .* has 2097152"),
        (
            "core*68719476736>, lmem = <0",
            "'dram' of core 2 lies at bytes 137438953472 to 137438953536, DRAM .* has 1374",
        ),
        ("core*64 - 64>, lmem = <0", "'dram' of core 0 lies at bytes -64 to 0, DRAM of chip sg2262 has 137438953472"),
    ],
)
def test_an_address_outside_of_a_memory_is_named(fields: str, message: str) -> None:
    text = LOAD.replace("dram = <0>, lmem = <0>", f"dram = <{fields}>")
    with pytest.raises(PmcError, match=rf"^g5\.gdma at 'load': {message}"):
        lower(program(text, cores=3), load_chip("sg2262"), {})


def test_edges_of_memories_are_inside() -> None:
    text = LOAD.replace("dram = <0>, lmem = <0>", "dram = <137438953408>, lmem = <2097088>")
    assert lower(program(text), load_chip("sg2262"), {}).count == 1


@pytest.mark.parametrize(
    "path", ["dram.bandwidth_gb_per_s", "command_level.gdma.gb_per_s", "command_level.cdma.gb_per_s_per_engine"]
)
def test_a_bandwidth_of_zero_is_refused(path: str) -> None:
    with pytest.raises(PmcError, match=rf"{path}: expected number > 0"):
        load_chip("sg2262", {path: 0.0})


def test_an_unknown_engine_is_refused_where_it_stands() -> None:
    with pytest.raises(Exception, match="unknown engine 'npu', expected one of tiu, gdma, sdma, hau, vec"):
        program(LOAD.replace('at "load"', 'after [npu-0] at "load"'))
