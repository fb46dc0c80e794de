"""Layers in the order of a model as repeats, and what a repeat around repeats means at every level."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

import pmc
from pmc.backends.g5.step_work import step_work
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.model import run_model, seeded_model_environment
from pmc.backends.numeric.rank_programs import run_commands
from pmc.compiler.check import FP32
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, module_text, parse_module
from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.layer_groups import Group, Period, Run, Turns, in_order, layer_groups, recurring
from pmc.compiler.shrink import with_fp32
from pmc.dialects import dist, layer
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from tests.reference.configs import CONFIGS


@pytest.mark.parametrize(
    ("order", "groups"),
    [
        ("aaaa", [Run("a", 4)]),
        ("abbb", [Run("a", 1), Run("b", 3)]),
        ("ababab", [Period((Run("a", 1), Run("b", 1)), 3)]),
        # Gemma 3: five local layers and a global one, and two that are left over.
        ("lllllg" * 3 + "ll", [Period((Run("l", 5), Run("g", 1)), 3), Run("l", 2)]),
        # Dense layers first.
        ("d" + "lg" * 4, [Run("d", 1), Period((Run("l", 1), Run("g", 1)), 4)]),
        # Two groups, one behind the other.
        ("abab" + "cdcdcd", [Period((Run("a", 1), Run("b", 1)), 2), Period((Run("c", 1), Run("d", 1)), 3)]),
        # Two runs say it as well as a group of two does.
        ("aab", [Run("a", 2), Run("b", 1)]),
    ],
)
def test_the_fewest_runs_are_found(order: str, groups: list[Run | Period]) -> None:
    assert recurring(order) == groups


@given(st.text("abc", min_size=1, max_size=24))
def test_groups_say_the_order_and_no_more_runs_than_without_them(order: str) -> None:
    groups = recurring(order)
    assert in_order(groups) == list(order)
    written = sum(len(group.runs) if isinstance(group, Period) else 1 for group in groups)
    assert written <= 1 + sum(a != b for a, b in pairwise(order))


def fewest(order: str, known: dict[str, int]) -> int:
    """The fewest runs that say `order`, by trying every first repeat."""
    if not order:
        return 0
    if order not in known:
        ends = range(1, len(order) + 1)
        known[order] = min(
            written + fewest(order[end:], known) for end in ends for written in ways_to_repeat(order[:end])
        )
    return known[order]


def ways_to_repeat(part: str) -> list[int]:
    """How many runs say `part` as one repeat, in every way."""
    lengths = [n for n in range(1, len(part) + 1) if part == part[:n] * (len(part) // n)]
    return [1 + sum(a != b for a, b in pairwise(part[:n])) for n in lengths if n == 1 or n < len(part)]


@given(st.text("ab", min_size=1, max_size=14))
def test_no_other_groups_have_fewer_runs(order: str) -> None:
    groups = recurring(order)
    written = sum(len(group.runs) if isinstance(group, Period) else 1 for group in groups)
    assert written == fewest(order, {})


@pytest.mark.parametrize(
    ("order", "groups"),
    [
        # As many bodies as kinds: nothing is gained.
        ("d" + "lg" * 4, recurring("d" + "lg" * 4)),
        # Two that are left over of a group.
        ("lllg" * 2 + "ll", [Turns(("l", "g"), ((3, 3, 2), (1, 1, 0)))]),
        # The head of Nemotron-H: mixers, networks, and attention in some places of a mixer.
        (
            "memem*emem*e",
            [Turns(("m", "e", "*"), ((1, 1, 1, 0, 1, 1, 0), (1, 1, 0, 1, 1, 0, 1), (0, 0, 1, 0, 0, 1, 0)))],
        ),
    ],
)
def test_kinds_take_turns_where_that_is_a_body_for_each(order: str, groups: list[Group]) -> None:
    assert layer_groups(order) == groups


@given(st.text("abcd", min_size=1, max_size=24))
def test_there_is_one_body_for_each_kind(order: str) -> None:
    groups = layer_groups(order)
    assert in_order(groups) == list(order)
    bodies = [
        kind
        for group in groups
        for kind in (
            group.kinds
            if isinstance(group, Turns)
            else [run.kind for run in (group.runs if isinstance(group, Period) else (group,))]
        )
    ]
    assert sorted(bodies) == sorted(set(order))


NESTED = {**CONFIGS["gpt-oss"], "torch_dtype": "bfloat16"}
"""Two pairs of a layer with a window and one without."""


def test_a_period_is_two_bodies_whatever_the_depth() -> None:
    def ops(layers: int) -> int:
        kinds = ["sliding_attention", "full_attention"] * (layers // 2)
        module = import_hf({**NESTED, "num_hidden_layers": layers, "layer_types": kinds}, "config.json", "tiny")
        return sum(1 for _ in module.walk())

    assert ops(4) == ops(36)


def compiled(emit: Level, **changes: Any) -> ModuleOp:
    """The tiny gpt-oss with eight layers, at a level."""
    kinds = ["sliding_attention", "full_attention"] * 4
    module = import_hf({**NESTED, "num_hidden_layers": 8, "layer_types": kinds}, "config.json", "tiny")
    deployment = load_deployment("decode", {"batch": 4, "kv_len": 32, "tp": 1, **changes})
    return compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, emit)


def test_stages_cut_a_period_anywhere_and_count_true_layers() -> None:
    module = compiled("dist", pp=3)
    stages = [op for op in module.walk() if isinstance(op, dist.StageOp)]
    layers = [sum(op.trip_count for op in stage.body.block.ops if isinstance(op, layer.RepeatOp)) for stage in stages]
    assert sum(layers) == 8
    assert len(layers) == 3 and min(layers) >= 2
    # Every layer of a path is in one stage: the parts of the stored arrays follow each other.
    for kind in ("blocks.sliding", "blocks.full"):
        parts = [
            (op.first.value.data, op.trip_count)
            for stage in stages
            for op in stage.body.block.ops
            if isinstance(op, layer.RepeatOp) and op.path.data == kind
        ]
        assert [first for first, _ in parts] == list(np.cumsum([0, *(count for _, count in parts)])[:-1])
        assert sum(count for _, count in parts) == 4


EQUAL_LAYERS = {**CONFIGS["llama"], "torch_dtype": "bfloat16", "num_hidden_layers": 6}


def same_layers() -> list[str]:
    """Six equal layers as one repeat, as three times two of them, and in turns of 2, none, 3 and 1."""
    flat = module_text(import_hf(EQUAL_LAYERS, "config.json", "tiny"))
    rows = "!layer.tensor<[batch*q_len, 32], bf16>"
    opening = f'model.repeat([%1]) {{count = 6}} at "blocks.dense" : {rows} {{'
    assert opening in flat
    end = 'at "blocks.dense"\n    }'
    assert flat.count(end) == 1
    closed = flat.replace(end, f'{end}\n model.yield([%91]) at "blocks.group" }}')
    found = [flat]
    for times, inside in ((3, "count = 2"), (4, "count = 6, shares = [2, 0, 3, 1]")):
        around = f'model.repeat([%1]) {{count = {times}}} at "blocks.group" : {rows} {{ ^bb9(%90: {rows}):'
        inner = f'%91 = model.repeat([%90]) {{{inside}}} at "blocks.dense" : {rows} {{'
        found.append(closed.replace(opening, f"{around} {inner}"))
    return found


@pytest.mark.parametrize("granularity", ["chip", "core", "tile", "commands"])
@pytest.mark.parametrize("pp", [1, 3])
def test_nested_layers_take_as_long_as_flat_ones(granularity: str, pp: int, tmp_path: Path) -> None:
    times: list[float] = []
    for name, text in zip(("flat", "nested", "turns"), same_layers(), strict=True):
        path = tmp_path / f"{name}.mlir"
        path.write_text(text)
        overrides = {"deployment.batch": 8, "deployment.kv_len": 64, "deployment.pp": pp}
        found = pmc.evaluate(
            str(path), "sg2262", "p1-r1-b1-c8", "llama-8b-decode", granularity=granularity, overrides=overrides
        )
        times.append(found.total_us)
    assert times == pytest.approx(times[:1] * 3, rel=1e-12)


def test_nested_layers_compute_what_flat_ones_do_down_to_commands() -> None:
    bindings = {"batch": 2, "q_len": 1, "kv_len": 9}
    deployment = load_deployment("decode", {**bindings, **{f"quantization.{k}": t for k, t in FP32.items()}})
    runs: list[Array] = []
    for text in same_layers():
        module = parse_module(text.replace("bf16", "f32"), "tiny.mlir")
        environment = seeded_model_environment(module, bindings, 3)
        expected = run_model(module, environment)
        target = with_fp32(load_chip("sg2262"))
        commands = compile_model(module, target, load_topology("p1-r1-b1-c8"), deployment, "commands")
        found = run_commands(commands, environment)
        np.testing.assert_allclose(found.outputs[0], expected.logits, atol=1e-4)
        runs.append(found.outputs[0])
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


def test_layers_in_turns_hide_transfers_as_in_one_repeat(tmp_path: Path) -> None:
    times: list[float] = []
    for number, text in enumerate(same_layers()):
        path = tmp_path / f"{number}.mlir"
        path.write_text(text)
        overrides = {"deployment.batch": 8, "deployment.kv_len": 64, "deployment.tp": 2}
        one = (str(path), "sg2262", "p1-r1-b1-c8", "llama-8b-decode")
        times.append(pmc.evaluate(*one, granularity="chip", overlap="streams", overrides=overrides).total_us)
    assert times == pytest.approx(times[:1] * 3, rel=1e-12)


def test_a_turn_without_layers_leaves_nothing_over_to_the_next(tmp_path: Path) -> None:
    times: list[float] = []
    turns = same_layers()[2]
    for number, (shares, count) in enumerate((("2, 0, 3, 1", 4), ("2, 3, 1", 3))):
        path = tmp_path / f"{number}.mlir"
        path.write_text(turns.replace("2, 0, 3, 1", shares).replace("{count = 4}", f"{{count = {count}}}"))
        overrides = {"deployment.batch": 8, "deployment.kv_len": 64, "deployment.tp": 2}
        one = (str(path), "sg2262", "p1-r1-b1-c8", "llama-8b-decode")
        times.append(pmc.evaluate(*one, granularity="chip", overlap="two-batch", overrides=overrides).total_us)
    assert times[0] == pytest.approx(times[1], rel=1e-12)


def test_the_parts_of_a_step_run_as_often_in_turns_and_in_the_same_order() -> None:
    deployment = load_deployment("decode", {"batch": 4, "kv_len": 32})
    chip, topology = load_chip("sg2262"), load_topology("p1-r1-b1-c8")
    orders = [
        step_work(compile_model(parse_module(text, "tiny.mlir"), chip, topology, deployment, "commands"), None).order
        for text in same_layers()
    ]
    durations = np.arange(1, len(orders[0].runs) + 1)
    step_ps = int(orders[0].runs @ durations)
    for order in orders[1:]:
        assert np.array_equal(order.runs, orders[0].runs)
        for time_ps in range(0, step_ps, 7):
            found, wanted = (one.place(durations, time_ps).runs for one in (order, orders[0]))
            np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("2, 0, 3", "model.repeat at 'blocks.dense': its 3 shares must be those of a repeat around"),
        ("2, 0, 3, 2", "model.repeat at 'blocks.dense': the shares add up to 7, the count is 6"),
        ("3, -1, 3, 1", "model.repeat at 'blocks.dense': a share is -1, must be at least 0"),
    ],
)
def test_shares_are_those_of_all_iterations_around(shares: str, message: str) -> None:
    with pytest.raises(PmcError) as error:
        parse_module(same_layers()[2].replace("2, 0, 3, 1", shares), "tiny.mlir")
    assert str(error.value) == f"tiny.mlir: {message}"


def test_shares_are_written_and_read_at_every_level() -> None:
    deployment = load_deployment("decode", {"batch": 4, "kv_len": 32})
    for level in ("layer", "dist", "tile", "commands"):
        module = parse_module(same_layers()[2], "tiny.mlir")
        compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, cast(Level, level))
        text = module_text(module)
        assert "shares" in text
        assert module_text(parse_module(text, "tiny.mlir")) == text
