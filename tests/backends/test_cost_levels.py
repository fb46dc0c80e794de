"""The granularities hold each other: a closer look makes no op faster, moves no fewer bytes, counts equal FLOPs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, Float8E4M3FNType, IntegerAttr, ModuleOp, f32, i32, i64
from xdsl.ir import Attribute, Operation

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import OpCost, Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate import evaluate_module, sweep_module
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, replace_accounting
from pmc.dialects import layer
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType

SG2262 = load_chip("sg2262")
TARGET = Target(SG2262, None, None)
MODELS = (
    ChipCostModel(TARGET),
    CoreCostModel(TARGET, load_accounting("physical")),
    TileCostModel(TARGET, load_accounting("physical")),
)
F8, BF16, F32 = Float8E4M3FNType(), BFloat16Type(), f32


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
        assert close.flops == coarse.flops
    chip, core, tile = found
    assert (core.bytes_read, core.bytes_written) == (chip.bytes_read, chip.bytes_written)
    assert tile.bytes_read >= chip.bytes_read and tile.bytes_written >= chip.bytes_written, op
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


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(0, 5000), st.sampled_from([(1, 1), (1, 128), (8, 4), (3, 5)]),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_steps_of_a_ring(
    batch: int, q_len: int, past: int, heads: tuple[int, int], causal: bool, v_is_key: bool, first: bool
) -> None:
    kv_heads, group = heads
    rows, width = batch * q_len, kv_heads * group
    q = value(BF16, rows, width * 96)
    k = value(BF16, batch, past + q_len, kv_heads * 96)
    v = k if v_is_key else value(BF16, batch, past + q_len, kv_heads * 96)
    types = [TensorType.of((rows, columns), F32) for columns in (width * 96, width, width)]
    state = [] if first else [test_dialect.TestOp(result_types=[type_]).results[0] for type_ in types]
    properties: Any = {"v_dim": 96, "q_len": expr(q_len), "scale": 0.1, "causal": causal, "qk_dims": dims(96)}
    ordered(layer.AttentionStepOp.make([[q], [k], v, state], types, "p", properties))


@settings(max_examples=40, deadline=None)
@given(size, st.integers(1, 130), st.sampled_from([16, 96, 128, 512]), st.sampled_from([BF16, F32]))
def test_the_end_of_a_ring(rows: int, heads: int, v_dim: int, element: Attribute) -> None:
    operands = [value(F32, rows, heads * v_dim), value(F32, rows, heads)]
    ordered(layer.AttentionFinishOp.make(operands, [TensorType.of((rows, heads * v_dim), element)], "p"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 5000), st.integers(1, 70), st.sampled_from([F8, BF16]))
def test_index_scores(batch: int, q_len: int, past: int, heads: int, element: Attribute) -> None:
    rows, keys = batch * q_len, past + q_len
    operands = [[value(element, rows, heads * d) for d in (64, 40)], [value(element, batch, keys, d) for d in (64, 40)]]
    properties: Any = {"qk_dims": dims(64, 40), "q_len": expr(q_len), "scale": 0.1}
    result = TensorType.of((rows, keys), F32)
    ordered(layer.IndexScoresOp.make([*operands, value(F32, rows, heads)], [result], "p", properties))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 5000), st.integers(1, 4000), st.sampled_from([64, 512]))
def test_selection_and_gather(batch: int, q_len: int, past: int, top_k: int, width: int) -> None:
    rows, keys = batch * q_len, past + q_len
    kept, q = min(keys, top_k), expr(q_len)
    positions = TensorType.of((rows, kept), i32)
    selection: Any = {"top_k": top_k, "q_len": q}
    ordered(layer.TopkSelectOp.make([value(F32, rows, keys)], [positions], "p", selection))
    operands = [value(F8, batch, keys, width), value(i32, rows, kept)]
    for domain in ("dram", "on_chip"):
        properties: Any = {"q_len": q, "bandwidth_domain": domain}
        ordered(layer.GatherRowsOp.make(operands, [TensorType.of((rows, kept, width), F8)], "p", properties))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 5000), st.integers(1, 8), st.sampled_from([16, 128]))
def test_blocks_of_keys(batch: int, q_len: int, past: int, heads: int, block: int) -> None:
    rows, keys, q, d = batch * q_len, past + q_len, expr(q_len), 128
    blocks = -(-keys // block)
    kept = min(blocks, 4)
    scored, chosen = TensorType.of((rows, heads, blocks), F32), TensorType.of((rows, heads, kept), i32)
    given: Any = {"block": block, "q_len": q}
    ordered(layer.BlockScoresOp.make([value(BF16, rows, heads * d), value(BF16, batch, keys, d)], [scored], "p", given))
    selection: Any = {**given, "top_k": 4, "always": 1, "tokens": expr(keys)}
    ordered(layer.TopkSelectOp.make([value(F32, rows, heads, blocks)], [chosen], "p", selection))
    result = TensorType.of((rows, kept * block, heads * d), BF16)
    operands = [value(BF16, batch, keys, heads * d), value(i32, rows, heads, kept)]
    for domain in ("dram", "on_chip"):
        ordered(layer.GatherRowsOp.make(operands, [result], "p", {**given, "bandwidth_domain": domain}))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 300), st.sampled_from([(1, 8), (8, 1), (8, 16), (3, 5)]),
    st.sampled_from([16, 64, 128]), st.sampled_from([BF16, F32]),
)  # fmt: skip
def test_recurrences(batch: int, q_len: int, heads: tuple[int, int], width: int, element: Attribute) -> None:
    rows, groups, all_heads = batch * q_len, heads[0], heads[0] * heads[1]
    x, keys = value(element, rows, all_heads * width), [value(element, rows, groups * 128) for _ in range(2)]
    types = [TensorType.of((rows, all_heads * width), element), TensorType.of((batch, all_heads * width, 128), F32)]
    numbers, constants = [value(F32, rows, all_heads) for _ in range(2)], [value(F32, all_heads) for _ in range(2)]
    state = value(F32, batch, all_heads * width, 128)
    ordered(layer.SsmScanOp.make([x, *keys, numbers[0], *constants, state], types, "p"))
    types[1] = TensorType.of((batch, all_heads * 128, width), F32)
    state = value(F32, batch, all_heads * 128, width)
    ordered(layer.GatedDeltaOp.make([x, *keys, *numbers, state], types, "p", {"scale": 0.1}))
    of_rows = value(F32, rows, all_heads * 128)
    ordered(layer.GatedDeltaOp.make([x, *keys, of_rows, numbers[1], state], types, "p", {"scale": 0.1}))
    state, weight = value(element, batch, 3, all_heads * width), value(element, all_heads * width, 4)
    types = [TensorType.of((rows, all_heads * width), element), TensorType.of((batch, 3, all_heads * width), element)]
    ordered(layer.CausalConvOp.make([x, weight, state, []], types, "p", {"activation": "silu"}))


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("deepseek-v3", "dsv3-decode-ep32", {}),
    ("deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 8}),
    ("deepseek-v3", "dsv3-decode-ep32", {"tp": 2, "dp": 16, "ep": 16, "moe_tp": 2, "batch": 40, "kv_len": 777}),
    ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 2, "pp": 4, "ep": 8, "sp": True}),
    ("llama-3.1-70b", "llama-70b-decode-tp8", {}),
    ("llama-3.1-70b", "llama-70b-prefill-tp8", {"cp": 4}),
    ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 2, "cp": 8, "pp": 2, "q_len": 8}),
    ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 2, "cp": 4, "dp": 4, "q_len": 512}),
    ("llama-3.1-8b", "llama-8b-prefill", {}),
    ("deepseek-v3.2", "dsv32-decode-ep32", {}),
    ("deepseek-v3.2", "dsv32-decode-ep32", {"tp": 4, "dp": 8}),
    ("deepseek-v3.2", "dsv32-prefill-ep32", {"tp": 2, "cp": 4, "dp": 4, "q_len": 512}),
]


@pytest.mark.parametrize(("model", "deployment", "options"), CASES)
def test_every_op_of_a_model(model: str, deployment: str, options: dict[str, Any]) -> None:
    module = compiled(model, deployment, **options)
    results = [evaluate_module(module, level) for level in ("chip", "core", "tile")]
    for rows in zip(*(result.steps for result in results), strict=True):
        times = [row.time_us for row in rows]
        assert times[0] <= times[1] * (1 + 1e-9) and times[1] <= times[2] * (1 + 1e-9), rows
        assert len({(row.flops, row.link_bytes) for row in rows}) == 1
        chip, core, tile = rows
        assert (core.bytes_read, core.bytes_written) == (chip.bytes_read, chip.bytes_written)
        assert tile.bytes_read >= chip.bytes_read and tile.bytes_written >= chip.bytes_written, rows
    for result in results:
        assert sum(row.time_us for row in result.steps) == result.total_us


@pytest.mark.parametrize("accounting", ["physical", "ds-tpu"])
@pytest.mark.parametrize("level", ["chip", "core"])
def test_a_sweep_of_a_ring_gives_what_its_points_give(level: str, accounting: str) -> None:
    module = compiled("llama-3.1-70b", "llama-70b-prefill-tp8", cp=4)
    replace_accounting(module, load_accounting(accounting))
    batch, q_len, kv_len = np.array([1, 3]), np.array([[4], [1000], [4096]]), np.array([[[4096]], [[65536]]])
    swept = sweep_module(module, {"batch": batch, "q_len": q_len, "kv_len": kv_len}, level)
    assert swept.time_us.shape == (2, 3, 2)
    for i, j, k in np.ndindex(2, 3, 2):
        bindings = {"batch": int(batch[k]), "q_len": int(q_len[j, 0]), "kv_len": int(kv_len[i, 0, 0])}
        point = evaluate_module(module, level, bindings)
        assert swept.time_us[i, j, k] == pytest.approx(point.total_us, rel=1e-9)
        assert swept.flops[i, j, k] == point.total_flops
        assert swept.link_bytes[i, j, k] == point.total_link_bytes
        assert swept.dram_bytes[i, j, k] == point.total_bytes


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
    with pytest.raises(PmcError, match=r"^a sweep needs the granularity chip or core"):
        sweep_module(compiled("llama-3.1-8b", "llama-8b-decode"), {"batch": np.array([1, 2])}, "tile")


@pytest.mark.parametrize(("columns", "efficiency"), [(16, 0.9), (40, 0.7), (64, 0.5)])
def test_the_cores_reach_a_part_of_the_peak_that_the_accounting_says(columns: int, efficiency: float) -> None:
    """X is 32 MiB and W 4 MiB per column, the LMEM of all 64 cores is 128 MiB: 96, 192 and 288 MiB."""
    accounting = load_accounting("ds-tpu")
    free = accounting.model_copy(update={"core_efficiency": None})
    x, w = value(F8, 8, 2**22), value(F8, 2**22, columns)
    op = layer.MatmulOp.make([x, w], [TensorType.of((8, columns), BF16)], "p")
    charged, uncharged = (CoreCostModel(TARGET, options).cost(op, {}) for options in (accounting, free))
    assert charged is not None and uncharged is not None
    assert uncharged.compute_s == pytest.approx(float(charged.compute_s) * efficiency)


def test_vector_time_is_that_of_the_steps_that_the_chip_file_names() -> None:
    """silu(gate) * up takes exp 35, add, div 31 and three more: 70 steps; a dearer exp makes 71."""
    op = layer.SiluMulOp.make([value(F32, 64, 1024), value(F32, 64, 1024)], [TensorType.of((64, 1024), F32)], "p")
    dearer = SG2262.elementary_steps.model_copy(update={"exp": SG2262.elementary_steps.exp + 1})
    chips = (SG2262, SG2262.model_copy(update={"elementary_steps": dearer}))
    models = [CoreCostModel(Target(chip, None, None), load_accounting("physical")) for chip in chips]
    costs = [cost for model in models if (cost := model.cost(op, {})) is not None]
    steps_per_s = 16 * 16 * 64 * 1.5e9  # units of a lane for 32 bits, lanes, cores, clock
    assert [float(c.compute_s) * steps_per_s / (64 * 1024) for c in costs] == pytest.approx([70, 71])
