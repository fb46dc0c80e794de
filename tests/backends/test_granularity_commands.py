"""Granularity `commands`: the simulator behind `evaluate`, `explain` and `sweep`; all granularities side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.breakdown import Part
from pmc.backends.cost.model import Granularity
from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.overlap import Overlap
from pmc.backends.g5.clock import PS_PER_US
from pmc.backends.g5.stream import simulate, simulate_parts
from pmc.compiler.config import load_calibration, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, resume
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.explain import explain_module
from pmc.compiler.levels import evaluate_levels
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError

SMALL = {"tp": 2, "batch": 8, "kv_len": 128}
COMMANDS = EvaluationOptions("commands")
TARGET = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode", "--tp", "2"]
POINT = ["--batch", "8", "--kv-len", "128"]


def compiled(emit: Any = "dist", chip: str = "sg2262", topology: str = "p1-r1-b1-c8", **fields: Any) -> ModuleOp:
    deployment = load_deployment("llama-8b-decode", {**SMALL, **fields})
    return compile_model(load_model("llama-3.1-8b"), load_chip(chip), load_topology(topology), deployment, emit)


STEP = COMMANDS.evaluator(compiled()).step()


def test_a_step_takes_what_its_commands_take() -> None:
    simulated = simulate(compiled("commands"))
    assert STEP.total_us == pytest.approx(simulated.total_us)
    times = [(step.path, step.op, pytest.approx(step.time_us)) for step in STEP.ops.steps]
    assert times == [(p.path, p.op, p.count * p.duration_ps / PS_PER_US) for p in simulated.parts]


def test_counts_are_those_of_tiles() -> None:
    tiles = EvaluationOptions("tile").evaluator(compiled()).step()
    for name in ("path", "op", "count", "flops", "bytes_read", "bytes_written", "link_bytes", "peak_us", "stream"):
        assert [getattr(s, name) for s in STEP.ops.steps] == [getattr(s, name) for s in tiles.ops.steps]


def test_where_the_time_goes_adds_up() -> None:
    evaluator = COMMANDS.evaluator(compiled())
    values = evaluator.values()
    for site, cost in evaluator.costed().costs:
        one = evaluator.model.breakdown(site.op, values)
        assert one is not None
        assert one.time_s == pytest.approx(float(cost.time_s))
        if cost.link_bytes == 0:
            assert one.parts[Part.BARRIER] > 0 and min(one.parts.values()) > 0
            # What moves before a kernel computes anything, and after; kernels that only copy have neither.
            assert Part.FILL in one.parts or float(cost.compute_s) == 0
            assert (Part.FILL in one.parts) is (Part.DRAIN in one.parts)
            assert float(cost.compute_s) + float(cost.memory_s) + one.parts[Part.BARRIER] == pytest.approx(one.time_s)


def test_every_stage_of_a_pipeline_takes_its_time() -> None:
    step = COMMANDS.evaluator(compiled(pp=2)).step()
    parts = simulate_parts(compiled("commands", pp=2))
    for stage in (0, 1):
        own = sum(p.count * p.duration_ps for p in parts if p.stage == stage) / PS_PER_US
        assert step.schedule.stages[stage].total_us == pytest.approx(own)


def test_kernels_that_lowering_adds_belong_to_the_op_before() -> None:
    """Ring attention has two steps of one path, and copies of what its rounds carry, which no op stands for."""
    fields = {"q_len": 1024, "kv_len": 1024}
    deployment = load_deployment("llama-70b-prefill-tp8-cp4", fields)
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment
    module = compile_model(load_model("llama-3.1-70b"), *target, "dist")
    parts = simulate_parts(compile_model(load_model("llama-3.1-70b"), *target, "commands"))
    assert "copy" in {part.op for part in parts}
    step = COMMANDS.evaluator(module).step()
    assert step.total_us == pytest.approx(sum(part.count * part.duration_ps for part in parts) / PS_PER_US)
    steps = [s for s in step.ops.steps if s.op == "layer.attention_step"]
    own = [p for p in parts if p.op == "layer.attention_step"]
    assert len(steps) == len(own) == 2
    for row, part in zip(steps, own, strict=True):
        assert row.time_us > part.count * part.duration_ps / PS_PER_US


def test_two_halves_of_a_batch_are_lowered_apart() -> None:
    both = EvaluationOptions("commands", Overlap.TWO_BATCH).evaluator(compiled()).step()
    half = COMMANDS.evaluator(compiled()).step({"batch": 4})
    assert sum(s.time_us for s in both.ops.steps) == pytest.approx(2 * half.total_us)


def test_a_dump_of_commands_is_run_as_it_stands() -> None:
    evaluator = COMMANDS.evaluator(compiled("commands"))
    assert evaluator.step().total_us == pytest.approx(STEP.total_us)


def test_a_calibration_corrects_simulated_times() -> None:
    module = compiled()
    calibration = load_calibration("assumed-losses")
    slower = 1 / calibration.compute_efficiency.value
    step = EvaluationOptions("commands", calibration=calibration).evaluator(module).step()
    for own, plain in zip(step.ops.steps, STEP.ops.steps, strict=True):
        if plain.comm_us == 0:
            assert own.time_us == pytest.approx(plain.time_us * slower)


def test_without_what_lowers_a_program_there_are_no_commands() -> None:
    with pytest.raises(PmcError, match=r"^granularity commands runs the commands of a program: evaluate it with what "):
        evaluate_module(compiled(), "commands")


def test_a_chip_without_a_command_level_has_none() -> None:
    with pytest.raises(PmcError, match="command_level"):
        COMMANDS.evaluator(compiled(chip="h100-sxm", topology="nvlink-8")).step()


def test_explain_follows_the_critical_path() -> None:
    found = explain_module(compiled(), {}, COMMANDS, "blocks.dense.ffn.down_proj")
    assert sum(found.parts_us.values()) == pytest.approx(sum(op.step.time_us for op in found.ops))
    assert found.levers is not None and found.levers.granularity is Granularity.TILE


def test_levels_stand_side_by_side_and_say_why_they_differ() -> None:
    table = evaluate_levels(compiled(), EvaluationOptions(), {})
    assert list(table.totals_us) == ["chip", "core", "tile", "commands"]
    assert table.totals_us["commands"] == pytest.approx(STEP.total_us)
    for op in table.ops:
        chip, core, tile, commands = op.times_us.values()
        reasons = [reason.partition(" ")[0] for reason in op.reason().split("; ") if reason]
        gaps = [name for name, a, b in (("core", chip, core), ("tile", core, tile), ("commands", tile, commands))
                if abs(b - a) > 0.1 * a]  # fmt: skip
        assert reasons == gaps
        for level, parts in op.parts_us.items():
            assert sum(parts.values()) == pytest.approx(op.times_us[level])


def test_a_lowered_dump_has_the_levels_that_are_left() -> None:
    table = evaluate_levels(resume(compiled(), "tile"), EvaluationOptions(), {})
    assert list(table.totals_us) == ["chip", "commands"]
    assert table.totals_us["commands"] == pytest.approx(STEP.total_us)


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = ["llama-3.1-8b", *TARGET, *POINT]
    assert main(["evaluate", *run, "--granularity", "commands", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"]["total_us"] == pytest.approx(STEP.total_us)
    assert main(["evaluate", *run, "--granularity", "all", "--format", "csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "path,op,count,chip_us,core_us,tile_us,commands_us,reason"
    assert len(rows) == len(STEP.ops.steps)
    sweep = ["sweep", "llama-3.1-8b", *TARGET, *POINT, "--set", "granularity=tile,commands", "--format", "csv"]
    assert main(sweep) == 0
    lines = capsys.readouterr().out.splitlines()
    times = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert float(times[1]["time_us"]) == pytest.approx(STEP.total_us)
    assert main(["explain", *run, "--granularity", "commands"]) == 0
    assert ", at granularity tile, each alone:" in capsys.readouterr().out


def test_all_granularities_are_about_steps(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["evaluate", "llama-3.1-8b", *TARGET, "--batch", "8", "--granularity", "all", "--isl", "16", "--osl", "4"]
    assert main(run) == 2
    expected = "--granularity all is about the ops of a step: leave out --isl, --osl and --plans"
    assert capsys.readouterr().err == f"pmc: error: {expected}\n"
