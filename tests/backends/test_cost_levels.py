"""The levels hold each other: no op is faster at a closer look; and arithmetic does not depend on the level."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, Float8E4M3FNType, IntegerAttr, ModuleOp, i64
from xdsl.ir import Attribute, Operation

from pmc.backends.cost.accounting import default_accounting
from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import OpCost, Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate import evaluate_module, sweep_module
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects import layer
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType

SG2262 = load_chip("sg2262")
TARGET = Target(SG2262, None, None)
MODELS = (
    ChipCostModel(TARGET),
    CoreCostModel(TARGET, default_accounting()),
    TileCostModel(TARGET, default_accounting()),
)
F8, BF16 = Float8E4M3FNType(), BFloat16Type()


def compiled(model: str, deployment: str, topology: str = "p1-r1-b4-c32", **options: Any) -> ModuleOp:
    target = (SG2262, load_topology(topology), load_deployment(deployment, options))
    return compile_model(load_model(model), *target, "dist")


def value(element: Attribute, *dims: int) -> Any:
    return test_dialect.TestOp(result_types=[TensorType.of(dims, element)]).results[0]


def ordered(op: Operation) -> list[OpCost]:
    costs = [model.cost(op, {}) for model in MODELS]
    found = [cost for cost in costs if cost is not None]
    assert len(found) == len(MODELS)
    for coarse, close in itertools.pairwise(found):
        assert float(close.time_s) >= float(coarse.time_s) * (1 - 1e-9), op
        assert close.flops == coarse.flops and close.bytes_read == coarse.bytes_read
    return found


size = st.integers(1, 3000)


@settings(max_examples=80, deadline=None)
@given(size, size, size, st.sampled_from([F8, BF16]))
def test_matmuls(m: int, n: int, k: int, element: Attribute) -> None:
    ordered(layer.MatmulOp.make([value(element, m, k), value(element, k, n)], [TensorType.of((m, n), BF16)], "p"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 300), size, size)
def test_grouped_matmuls(groups: int, m: int, n: int, k: int) -> None:
    operands = [value(F8, groups, m, k), value(F8, groups, k, n)]
    ordered(layer.GroupedMatmulOp.make(operands, [TensorType.of((groups, m, n), BF16)], "p"))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(0, 5000), st.sampled_from([(1, 1), (1, 128), (8, 4), (3, 5)]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_attention(batch: int, q_len: int, past: int, heads: tuple[int, int], causal: bool, v_is_key: bool) -> None:
    kv_heads, group = heads
    q = value(F8, batch * q_len, kv_heads * group * 96)
    k = value(F8, batch, past + q_len, kv_heads * 96)
    v = k if v_is_key else value(F8, batch, past + q_len, kv_heads * 96)
    properties: Any = {"v_dim": 96, "q_len": expr(q_len), "scale": 0.1, "causal": causal, "qk_dims": dims(96)}
    result = TensorType.of((batch * q_len, kv_heads * group * 96), BF16)
    ordered(layer.AttentionOp.make([[q], [k], v], [result], "p", properties))


def dims(*sizes: int) -> Attribute:
    return ArrayAttr([IntegerAttr(s, i64) for s in sizes])


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("deepseek-v3", "dsv3-decode-ep32", {}),
    ("deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 8}),
    ("deepseek-v3", "dsv3-decode-ep32", {"tp": 2, "dp": 16, "ep": 16, "moe_tp": 2, "batch": 40, "kv_len": 777}),
    ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 2, "pp": 4, "ep": 8, "sp": True}),
    ("llama-3.1-70b", "llama-70b-decode-tp8", {}),
    ("llama-3.1-8b", "llama-8b-prefill", {}),
]


@pytest.mark.parametrize(("model", "deployment", "options"), CASES)
def test_every_op_of_a_model(model: str, deployment: str, options: dict[str, Any]) -> None:
    module = compiled(model, deployment, **options)
    results = [evaluate_module(module, level) for level in ("chip", "core", "tile")]
    for rows in zip(*(result.steps for result in results), strict=True):
        times = [row.time_us for row in rows]
        assert times[0] <= times[1] * (1 + 1e-9) and times[1] <= times[2] * (1 + 1e-9), rows
        assert len({(row.flops, row.bytes_read, row.bytes_written, row.link_bytes) for row in rows}) == 1
    for result in results:
        assert sum(row.time_us for row in result.steps) == result.total_us


@pytest.mark.parametrize("level", ["chip", "core"])
def test_a_sweep_gives_what_its_points_give(level: str) -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32")
    batch, kv_len = np.array([1, 33, 2048]), np.array([[7], [4096], [65536]])
    swept = sweep_module(module, {"batch": batch, "kv_len": kv_len}, level)
    assert swept.time_us.shape == (3, 3)
    for i, j in ((0, 0), (1, 2), (2, 1)):
        point = evaluate_module(module, level, {"batch": int(batch[j]), "kv_len": int(kv_len[i, 0])})
        assert swept.time_us[i, j] == pytest.approx(point.total_us, rel=1e-9)
        assert swept.flops[i, j] == point.total_flops
        assert swept.link_bytes[i, j] == point.total_link_bytes
        assert swept.dram_bytes[i, j] == point.total_bytes


def test_the_tile_level_takes_no_arrays() -> None:
    with pytest.raises(PmcError, match=r"^a sweep needs the level chip or core"):
        sweep_module(compiled("llama-3.1-8b", "llama-8b-decode"), {"batch": np.array([1, 2])}, "tile")
