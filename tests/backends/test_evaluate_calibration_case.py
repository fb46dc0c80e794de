"""The calibration case: DeepSeek-V3 decode on 32 SG2262 (dp32, ep32), batch 2048, kv_len 4096, FP8.

Targets are the published figures of CHIPMathica / DS_TPU and the run of Tier6-Model on the same case, in us.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import EngineResult, evaluate_module
from pmc.backends.evaluate.attribution import attribute_difference
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, replace_accounting

TOTAL_MS, ATTENTION, DISPATCH, COMBINE = 15.743, 112.4, 11.36, 19.99
ANCESTOR = {
    "mla.q_a_proj": 2.063, "mla.q_b_proj": 7.097, "mla.kv_a_proj": 1.201, "mla.k_absorb": 2.345,
    "mla.v_absorb": 2.345, "mla.attention": 112.52, "mla.o_proj": 22.24, "ffn.gate_proj": 25.74,
    "ffn.up_proj": 25.74, "moe.router": 0.544, "moe.shared.gate_proj": 2.747, "moe.shared.up_proj": 2.747,
    "moe.shared.down_proj": 2.755, "moe.dispatch": 11.325, "moe.experts.gate_proj": 22.87,
    "moe.experts.up_proj": 22.87, "moe.experts.down_proj": 22.92, "moe.combine": 19.91, "lm_head.proj": 174.35,
}  # fmt: skip


@pytest.fixture(scope="module")
def module() -> ModuleOp:
    target = (load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment("dsv3-decode-ep32"))
    return compile_model(load_model("deepseek-v3"), *target, "dist")


@pytest.fixture(scope="module")
def ds_tpu(module: ModuleOp) -> EngineResult:
    charged = module.clone()
    replace_accounting(charged, load_accounting("ds-tpu"))
    return evaluate_module(charged, "tile")


def once(result: EngineResult, end: str) -> float:
    times = {s.time_us / s.count for s in result.steps if s.path.endswith(end)}
    assert max(times) - min(times) < 1e-9, "the op takes as long in every layer"
    return max(times)


def test_the_totals_of_the_target(ds_tpu: EngineResult) -> None:
    assert ds_tpu.total_us / 1e3 == pytest.approx(TOTAL_MS, rel=0.01)
    assert once(ds_tpu, "mla.attention") == pytest.approx(ATTENTION, rel=0.02)
    assert once(ds_tpu, "moe.dispatch") == pytest.approx(DISPATCH, rel=0.01)
    assert once(ds_tpu, "moe.combine") == pytest.approx(COMBINE, rel=0.01)
    assert sum(s.comm_us for s in ds_tpu.steps) == pytest.approx(1818, rel=0.01)


@pytest.mark.parametrize("end", list(ANCESTOR))
def test_no_op_is_slower_than_the_ancestors_by_5_percent(ds_tpu: EngineResult, end: str) -> None:
    assert once(ds_tpu, end) <= ANCESTOR[end] * 1.05


def test_nothing_is_charged_that_the_target_leaves_out(ds_tpu: EngineResult) -> None:
    charged = {s.path.split(".", 1)[-1] for s in ds_tpu.steps if s.time_us}
    named = {*ANCESTOR, "ffn.down_proj"}
    assert all(any(path.endswith(end.removeprefix("lm_head.")) for end in named) for path in charged), charged


def test_the_difference_to_the_physical_accounting_is_explained(module: ModuleOp) -> None:
    found = attribute_difference(module, load_accounting("ds-tpu"), load_accounting("physical"))
    effects = {effect.option: effect for effect in found.effects}
    vector = effects["vector_steps_per_cycle"].ops_us["blocks.moe.mla.attention"]
    # Half the rate of softmax: 37 steps per score and 41 per row and key tile, on 32 x 16 x 64 units at 1.5 GHz.
    assert vector == pytest.approx(64 * 128 * 37 * 4096 / (2 * 32 * 16 * 64 * 1.5e9) * 1e6, rel=0.02)
    shared = effects["v_read"].ops_us["blocks.moe.mla.attention"]
    assert shared == pytest.approx(-0.2 * 64 * 4096 * 512 / 8601.6e9 * 1e6, rel=0.02)
    rows = effects["collectives"].ops_us["blocks.moe.moe.dispatch"]
    # One row of 32 stays on its rank; the latency is that of a link between boards.
    assert rows == pytest.approx(-64 * 8 * 7168 / 32 / (450e9 * 0.95) * 1e6 + 2 * (0.35 - 0.2), rel=1e-6)
    total = found.base.total_us + sum(e.total_us for e in found.effects) + found.together_us
    assert total == pytest.approx(found.other.total_us, rel=1e-12)
    assert set(effects["uncharged_ops:layer.add"].ops_us) == {s.path for s in found.base.steps if s.op == "layer.add"}


def test_what_options_do_together_is_what_the_guide_names(module: ModuleOp) -> None:
    """Start-ups, what a core receives and partial sums act on the same ops, ops that ds-tpu leaves out among them."""
    base, other = load_accounting("ds-tpu"), load_accounting("physical")
    found = attribute_difference(module, base, other)
    options = ("waves", "core_reduction", "core_receive", "command_startup", "uncharged_ops")
    charged = module.clone()
    replace_accounting(charged, base.model_copy(update={option: getattr(other, option) for option in options}))
    at_once = evaluate_module(charged, "tile").total_us - found.base.total_us
    apart = sum(effect.total_us for effect in found.effects if effect.option.partition(":")[0] in options)
    left = found.together_us - (at_once - apart)
    assert abs(left) < 0.01 * found.other.total_us, "hardly anything hides in other interactions"
    text = " ".join((Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8").split())
    assert f"switched at once they add {at_once:.0f} us, {at_once - apart:.0f} us more than apart" in text


RECEIVED_PER_S, STARTUP = 149.4e9 * 0.9, 100e-9
"""GDMA of a core, bytes per second, and of one of its commands, seconds."""


def test_the_physical_time_of_a_projection_is_that_of_its_commands(module: ModuleOp) -> None:
    """q_a, [64, 7168] x [7168, 1536]: 16 cores along n have 96 columns each, 4 along k have 1792 rows of W each."""
    steps = (64 // 16) * (96 // 8) * (1792 // 32)
    compute = steps * 2 * 16 * 8 * 32 / (786.432e12 / 64) + 2 * 44 / 1.5e9
    # A and B in two tiles each, and the partial sums in FP32.
    received = (64 * 1792 + 1792 * 96 + 64 * 96 * 4) / RECEIVED_PER_S + 5 * STARTUP
    # Then each of the 4 cores takes the sums of all of them for 16 rows, adds them up and stores them in BF16.
    merged = (16 * 96 * 4 * 4 + 16 * 96 * 2) / RECEIVED_PER_S + 2 * STARTUP
    added = 16 * 96 * 4 / (1.5e9 * 16 * 16)
    expected = received + 0.2 * compute + merged + added
    assert received > compute
    found = once(evaluate_module(module, "tile"), "mla.q_a_proj")
    assert found == pytest.approx(expected * 1e6, rel=1e-9)


def test_the_physical_time_of_a_row_wise_op_is_mostly_start_up(module: ModuleOp) -> None:
    """The residual: one row of 7168 BF16 per core, two loads and a store in each of two trips; one step an element."""
    received = 3 * 7168 * 2 / RECEIVED_PER_S + 6 * STARTUP
    expected = received + 0.2 * 7168 / (1.5e9 * 16 * 32)
    assert once(evaluate_module(module, "tile"), "mla.residual") == pytest.approx(expected * 1e6, rel=1e-9)


def test_the_physical_time_of_attention_is_that_of_its_commands(module: ModuleOp) -> None:
    """A sequence on each core: 128 heads, 4096 keys of 512 + 64 in 16 tiles of 256, FP8; V is the 512."""
    matrix = 8 * (512 * 18 + 64 * 128) * 2 * 16 * 8 * 32 / (786.432e12 / 64) + 3 * 16 * 44 / 1.5e9
    # Softmax in BF16; the state is filled and divided by its sum in FP32: one step an element, and 31 a reciprocal.
    softmax = 128 * (37 * 4096 + 41 * 16) / (1.5e9 * 16 * 32)
    ends = 128 * ((512 + 2 * 16) + (512 + 31)) / (1.5e9 * 16 * 16)
    received = (4096 * 576 + 128 * 576 + 128 * 512 * 2) / RECEIVED_PER_S + (2 + 2 * 16 + 1) * STARTUP
    expected = matrix + softmax + ends + 0.2 * received
    assert once(evaluate_module(module, "tile"), "mla.attention") == pytest.approx(expected * 1e6, rel=1e-9)


def test_the_guide_shows_these_numbers(module: ModuleOp, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    benchmark = runpy.run_path(str(root / "benchmarks" / "calibration.py"))
    found = attribute_difference(module, load_accounting("ds-tpu"), load_accounting("physical"))
    benchmark["print_ops"](found.base, found.other)
    benchmark["print_differences"](found)
    printed = capsys.readouterr().out.splitlines()
    shown = set((root / "docs" / "accuracy.md").read_text(encoding="utf-8").splitlines())
    assert [line for line in printed if line not in shown] == []
