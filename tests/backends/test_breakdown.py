"""The parts of the time of an op: they add up to it, none is negative, and the engines are those of the model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, Float8E4M3FNType, IntegerAttr, i64
from xdsl.ir import Attribute, Operation

from pmc.backends.cost.breakdown import Breakdown, CubeUse, Engine, MatrixTime, Part, busy_parts
from pmc.backends.cost.model import MODELLED, CostModel, Granularity, Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate.calibration import CalibratedCostModel
from pmc.backends.evaluate.engine import cost_model
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.compiler.config import load_accounting, load_calibration, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects import layer
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import FloatArray
from pmc.dialects.tensor import TensorType
from pmc.dialects.tile_plan import PLAN, PlanAttr

SG2262 = load_chip("sg2262")
TARGET = Target(SG2262, None, None)
F8, BF16 = Float8E4M3FNType(), BFloat16Type()


@cache
def models() -> tuple[CostModel, ...]:
    found = [
        cost_model(looked_at, TARGET, load_accounting(name))
        for looked_at in MODELLED
        if looked_at is not Granularity.COMMANDS  # which costs no op alone
        for name in ("physical", "ds-tpu")
    ]
    return (*found, CalibratedCostModel(found[-1], load_calibration("assumed-losses")))


def value(element: Attribute, *dims: int) -> Any:
    return test_dialect.TestOp(result_types=[TensorType.of(dims, element)]).results[0]


def adds_up(op: Operation, model: CostModel) -> Breakdown:
    cost, found = model.cost(op, {}), model.breakdown(op, {})
    assert cost is not None and found is not None
    assert found.time_s == pytest.approx(float(cost.time_s), rel=1e-12), granularity(model)
    assert min(found.parts.values()) >= -1e-12 * found.time_s, (granularity(model), found.parts)
    moved = sum(load.amount for load in found.loads if load.engine == "dram")
    if granularity(model) is not Granularity.CORE:  # where ds-tpu charges attention other bytes than it counts
        assert moved == pytest.approx(float(cost.bytes_read + cost.bytes_written), rel=1e-12)
    return found


def granularity(model: CostModel) -> Granularity:
    return granularity(model.model) if isinstance(model, CalibratedCostModel) else model.granularity


size = st.integers(1, 3000)


@settings(max_examples=20, deadline=None)
@given(size, size, size, st.sampled_from([F8, BF16]))
def test_matmuls(m: int, n: int, k: int, element: Attribute) -> None:
    op = layer.MatmulOp.make([value(element, m, k), value(element, k, n)], [TensorType.of((m, n), BF16)], "p")
    for model in models():
        found = adds_up(op, model)
        useful_s = 2.0 * m * n * k / SG2262.peak_flops_per_s("f8E4M3FN" if element is F8 else "bf16")
        slower = float(found.parts[Part.MATRIX]) / useful_s
        assert slower == pytest.approx(1.0, rel=1e-9) or isinstance(model, CalibratedCostModel)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(0, 5000), st.sampled_from([(1, 1), (1, 128), (8, 4), (3, 5)]),
    st.booleans(), st.booleans(), st.sampled_from([F8, BF16]),
)  # fmt: skip
def test_attention(
    batch: int, q_len: int, past: int, heads: tuple[int, int], causal: bool, v_is_key: bool, q_type: Attribute
) -> None:
    kv_heads, group = heads
    q = value(q_type, batch * q_len, kv_heads * group * 96)
    k = value(F8, batch, past + q_len, kv_heads * 96)
    v = k if v_is_key else value(F8, batch, past + q_len, kv_heads * 96)
    dims = ArrayAttr([IntegerAttr(96, i64)])
    properties: Any = {"v_dim": 96, "q_len": expr(q_len), "scale": 0.1, "causal": causal, "qk_dims": dims}
    result = TensorType.of((batch * q_len, kv_heads * group * 96), BF16)
    op = layer.AttentionOp.make([[q], [k], v], [result], "p", properties)
    for model in models():
        found = adds_up(op, model)
        assert granularity(model) is Granularity.CHIP or found.parts[Part.VECTOR] > 0


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 300), st.integers(1, 3000), st.integers(1, 5000))
def test_any_plan(data: st.DataObject, m: int, n: int, k: int) -> None:
    """A plan that nobody would choose adds up as well, and its loads are the engine times of the model."""
    op = layer.MatmulOp.make([value(F8, m, k), value(F8, k, n)], [TensorType.of((m, n), BF16)], "p")
    cores_k = data.draw(st.sampled_from([1, 2, 4]))
    order = data.draw(st.sampled_from(["gmnk", "gnkm", "gmkn"]))
    merge = "none" if cores_k == 1 else "dram" if order != "gmnk" else data.draw(st.sampled_from(["dram", "sdma"]))
    tile = [data.draw(st.integers(1, 6)) * step for step in (16, 8, 32)]
    cores = [1, data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 3, 8])), cores_k]
    multicast = data.draw(st.sampled_from([(), ("a", "b")]))
    op.attributes[PLAN] = PlanAttr.of(cores, tile, order, data.draw(st.sampled_from([1, 2])), multicast, merge)
    for name in ("physical", "ds-tpu"):
        model = TileCostModel(TARGET, load_accounting(name))
        try:
            planned = model.planned(op, {})
        except PmcError:
            return  # not legal: nothing to price
        assert planned is not None
        found, engines = adds_up(op, model), planned.time.engines
        times: dict[Engine, FloatArray] = {
            "matrix": engines.tiu_s,
            "vector": engines.vec_s,
            "dram": engines.dram_s,
            "gdma": engines.gdma_s,
            "lmem": engines.lmem_s,
            "sdma": engines.sdma_s,
        }
        for engine, column in times.items():
            assert found.engines_s.get(engine, 0.0) == pytest.approx(float(column[0]), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("looked_at", ["chip", "core", "tile"])
@pytest.mark.parametrize("accounting", ["physical", "ds-tpu"])
@pytest.mark.parametrize(
    ("name", "topology", "deployment"),
    [
        ("deepseek-v3", "p1-r1-b4-c32", "dsv3-decode-ep32"),
        ("deepseek-v3.2", "p1-r1-b4-c32", "dsv32-decode-ep32"),
        ("llama-3.1-70b", "p1-r1-b1-c8", "llama-70b-prefill-tp8"),
    ],
)
def test_programs(name: str, topology: str, deployment: str, accounting: str, looked_at: str) -> None:
    """Collectives, experts of the busiest rank, rows, copies: every op of a program."""
    module = compile_model(
        load_model(name), SG2262, load_topology(topology), load_deployment(deployment, {"batch": 35 * 32}), "dist",
        accounting=load_accounting(accounting),
    )  # fmt: skip
    evaluator = StepEvaluator(module, looked_at)
    for site, cost in evaluator.costed().costs:
        found = evaluator.model.breakdown(site.op, evaluator.values())
        assert found is not None, site.op.name
        assert found.time_s == pytest.approx(float(cost.time_s), rel=1e-12), site.op
        assert min(found.parts.values(), default=0.0) >= -1e-12 * found.time_s


def test_four_rows_on_a_cube_of_sixteen() -> None:
    """Four rows of 16: a quarter of the cube, so padding takes three times the useful products."""
    op = layer.MatmulOp.make([value(F8, 4, 4096), value(F8, 4096, 4096)], [TensorType.of((4, 4096), BF16)], "p")
    found = TileCostModel(TARGET, load_accounting("physical")).breakdown(op, {})
    assert found is not None
    assert found.parts[Part.PADDING] == pytest.approx(3 * found.parts[Part.MATRIX], rel=1e-12)
    (shape,) = found.shapes
    assert shape.cubes == (CubeUse(4, 4096, 4096, (16, 8, 32)),)
    assert shape.cubes[0].dims[0] == ("rows", 4, 16) and shape.cubes[0].utilisation == 0.25


def test_parts_by_hand() -> None:
    """c = 3 + 1 + 1 + 1 = 6 against m = 10: max + 0.2 min = 11.2, of which 4 only move data; and m = 2 is hidden."""
    matrix = MatrixTime(3.0, 1.0, 1.0)
    parts = busy_parts(matrix, 1.0, 10.0, 0.8)
    assert parts == {
        Part.MATRIX: 3.0, Part.PADDING: 1.0, Part.IMBALANCE: 1.0, Part.VECTOR: 1.0, Part.DATA: 4.0,
        Part.NO_OVERLAP: pytest.approx(1.2),
    }  # fmt: skip
    assert sum(busy_parts(matrix, 1.0, 2.0, 0.8).values()) == pytest.approx(6.4)
