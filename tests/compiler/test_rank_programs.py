"""Ranks whose experts have unequal rows: who runs which program, how large it is, and that the slowest decides."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.assumptions import MEAN_LOAD, OWN_LOAD
from pmc.backends.g5.stream import StepTimes, simulate
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.frontend import import_hf
from pmc.compiler.rank_programs import RankProgram, rank_programs, simulate_ranks
from pmc.dialects import g5
from pmc.dialects.analyses.program_work import program_work
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level

from .tiny import MIXTRAL

MODEL = {**MIXTRAL, "hidden_size": 512, "intermediate_size": 1024}
EVEN = {"histogram": [1.0] * 8}
SKEWED = {"histogram": [1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0]}
"""On four ranks 10 / (16 / 4) = 2.5 times the mean to rank 1, 0.5 times to all others."""


def compiled(routing: Any, emit: Level = "dist", accounting: str = "physical", **fields: Any) -> ModuleOp:
    own = {"dp": 4, "ep": 4, "batch": 64, "kv_len": 64, "routing": routing, **fields}
    chip, topology, deployment = (
        load_chip("sg2262"),
        load_topology("p1-r1-b1-c8"),
        load_deployment("llama-8b-decode", own),
    )
    model = import_hf(MODEL, "tiny", "tiny")
    return compile_model(model, chip, topology, deployment, emit, accounting=load_accounting(accounting))


def experts(module: ModuleOp) -> dict[str, int]:
    """FLOPs of the products of experts, by path."""
    programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp) and ".experts." in op.path.data]
    return {op.path.data: program_work(op).flops.constant for op in programs if "matmul" in op.op_name.data}


def products(rows: int) -> int:
    """FLOPs of one product of the two experts of a rank."""
    return 2 * 2 * rows * 512 * 1024


def times(step: StepTimes) -> list[tuple[str, str, int]]:
    return [(part.path, part.op, part.duration_ps) for part in step.parts]


@pytest.fixture(scope="module")
def skewed() -> list[RankProgram]:
    return list(rank_programs(compiled(SKEWED)))


def test_ranks_of_equal_rows_share_a_program(skewed: list[RankProgram]) -> None:
    """On average 64 * 2 / 8 = 16 rows per expert, so 8 and 40."""
    assert [(own.ranks, own.load) for own in skewed] == [((0, 2, 3), 0.5), ((1,), 2.5)]
    for own, rows in zip(skewed, (8, 40), strict=True):
        assert set(experts(own.module).values()) == {products(rows)}


def test_rows_are_rounded_up_once() -> None:
    """18 * 2 / 8 = 4.5 rows on average, lowered for 5: 2.25 and 11.25, not 2.5 and 12.5."""
    found = [set(experts(own.module).values()) for own in rank_programs(compiled(SKEWED, batch=18))]
    assert found == [{products(3)}, {products(12)}]


@pytest.fixture(scope="module")
def step() -> StepTimes:
    return simulate_ranks(compiled(SKEWED))


def test_the_step_is_that_of_the_slowest_rank(skewed: list[RankProgram], step: StepTimes) -> None:
    light, heavy = (simulate(own.module) for own in skewed)
    assert times(step) == times(heavy) and step.expert_ranks == (1,) and step.expert_load == 2.5
    assert step.total_ps == heavy.total_ps > light.total_ps
    # All ranks meet in dispatch and combine, which take as long for each of them.
    moved = [[p.duration_ps for p in one.parts if p.op in ("dist.dispatch", "dist.combine")] for one in (light, heavy)]
    assert moved[0] == moved[1]
    # The kernels of 40 rows are those of a batch that has 40 on every rank, but for the addresses.
    even = {part.path: part.duration_ps for part in simulate(compiled("uniform", "commands", batch=160)).parts}
    for part in step.parts:
        if ".experts." in part.path:
            assert part.duration_ps == pytest.approx(even[part.path], rel=0.02)


def test_equal_ranks_run_one_program() -> None:
    (only,) = rank_programs(compiled(EVEN))
    assert only.ranks == () and only.load == 1.0
    assert str(only.module) == str(compiled(EVEN, "commands"))


@pytest.mark.parametrize(("emit", "accounting"), [("tile", "physical"), ("dist", "ds-tpu")])
def test_dumps_with_plans_and_charges_of_the_mean_keep_their_rows(emit: Level, accounting: str) -> None:
    (only,) = rank_programs(compiled(SKEWED, emit, accounting))
    assert only.ranks == () and set(experts(only.module).values()) == {products(16)}


def test_a_histogram_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(PmcError, match=r"routing\.histogram has 6 experts, which 4 ranks cannot share evenly"):
        list(rank_programs(compiled({"histogram": [1.0] * 6})))


def test_evaluate_at_commands_says_whose_rows_they_are(step: StepTimes) -> None:
    found = EvaluationOptions("commands").evaluator(compiled(SKEWED)).step()
    assert found.total_us == pytest.approx(step.total_us)
    assert OWN_LOAD in found.ops.assumptions and MEAN_LOAD not in found.ops.assumptions
