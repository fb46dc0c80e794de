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
    rows = effects["dispatch_rows"].ops_us["blocks.moe.moe.dispatch"]
    assert rows == pytest.approx(-64 * 8 * 7168 / 32 / (450e9 * 0.95) * 1e6, rel=1e-6)
    total = found.base.total_us + sum(e.total_us for e in found.effects) + found.together_us
    assert total == pytest.approx(found.other.total_us, rel=1e-12)
    assert abs(found.together_us) < 0.01 * found.other.total_us, "hardly anything hides in interactions"
    assert set(effects["uncharged_ops:layer.add"].ops_us) == {s.path for s in found.base.steps if s.op == "layer.add"}


def test_the_guide_shows_these_numbers(module: ModuleOp, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    benchmark = runpy.run_path(str(root / "benchmarks" / "calibration.py"))
    found = attribute_difference(module, load_accounting("ds-tpu"), load_accounting("physical"))
    benchmark["print_ops"](found.base, found.other)
    benchmark["print_differences"](found)
    printed = capsys.readouterr().out.splitlines()
    shown = set((root / "docs" / "accuracy.md").read_text(encoding="utf-8").splitlines())
    assert [line for line in printed if line not in shown] == []
