"""Element types: what issue 9 and `findings/numbers.md` say is wrong with them, by number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute

from pmc.backends.cost.model import MODELLED
from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.backends.evaluate.footprint import MemoryOptions
from pmc.backends.evaluate.memory import memory_footprint
from pmc.backends.evaluate.metrics import EngineResult
from pmc.backends.g5.stream import simulate
from pmc.backends.numeric.scaled import largest_code, round_scaled
from pmc.compiler.api import evaluate
from pmc.compiler.check import Proof, check_model, check_small
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, run_pipeline
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import remaining_pipeline
from pmc.compiler.shrink import shrink_deployment, shrink_model
from pmc.dialects import g5, layer, tile
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.matmul_tiling import MatmulShape, WeightStorage
from pmc.dialects.arch import Chip
from pmc.dialects.element_formats import canonical_format
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.matrix_types import matrix_type
from pmc.dialects.tensor import ScaledType, TypeMismatchError, element_name, tensor, type_of_format
from pmc.dialects.tile_plan import PLAN
from pmc.passes.quantize import QuantizePass

Fields = dict[str, Any]


def model(name: str = "llama-3.1-8b", layers: int = 1, **config: Any) -> ModuleOp:
    """A preset with few layers, which are all alike."""
    fields, source = load_model_config(name)
    return import_hf({**fields, "num_hidden_layers": layers, **config}, source, name)


def compiled(emit: Level, deployment: str, fields: Fields, module: ModuleOp | None = None) -> ModuleOp:
    chip, topology = load_chip("sg2262"), load_topology("p1-r1-b1-c8")
    return compile_model(module or model(), chip, topology, load_deployment(deployment, fields), emit)


def evaluated(
    granularity: str, deployment: str, fields: Fields, module: ModuleOp | None = None, chip: Chip | None = None
) -> EngineResult:
    target, topology = chip or load_chip("sg2262"), load_topology("p1-r1-b1-c8")
    found = evaluate(module or model(), target, topology, load_deployment(deployment, fields), granularity=granularity)
    return found.step.ops


def attention_us(result: EngineResult) -> tuple[float, int]:
    """Compute time and bytes read of the attention."""
    (row,) = [step for step in result.steps if step.op == "layer.attention"]
    return row.compute_us, row.bytes_read


LONG = {"q_len": 2048, "kv_len": 2048}


@pytest.mark.parametrize("granularity", ["chip", "core"])
@pytest.mark.parametrize("cache", ["f8E4M3FN", "f8E5M2", "i8"])
def test_n05_a_short_cache_is_read_as_stored_and_computed_as_the_deployment_says(granularity: str, cache: str) -> None:
    """K and V have 8 heads of 128 in 8 bits instead of 16; the arithmetic stays BF16 and takes the same time."""
    wide = attention_us(evaluated(granularity, "llama-8b-prefill", LONG))
    narrow = attention_us(evaluated(granularity, "llama-8b-prefill", {**LONG, "quantization.kv_cache": cache}))
    assert narrow[0] == wide[0]
    assert wide[1] - narrow[1] == 2 * 2048 * 8 * 128


def attention_busy_ps(cache: str, plan: Attribute | None) -> tuple[Attribute, dict[str, int]]:
    """The plan of the attention, `plan` or that of the search, and how long its engines are busy in commands."""
    module = compiled("dist", "llama-8b-prefill", {**LONG, "quantization.kv_cache": cache})
    (op,) = (op for op in module.walk() if isinstance(op, layer.AttentionOp))
    if plan is not None:
        op.attributes[PLAN] = plan
    specs = remaining_pipeline(module, "commands")
    planned = [spec.name for spec in specs].index("select-tiles") + 1
    run_pipeline(module, specs[:planned])
    (op,) = (op for op in module.walk() if isinstance(op, layer.AttentionOp))
    chosen = op.attributes[PLAN]
    run_pipeline(module, specs[planned:])
    (part,) = (part for part in simulate(module).parts if part.op == "layer.attention")
    return chosen, part.busy_ps


@pytest.mark.parametrize("cache", ["f8E4M3FN", "f8E5M2", "i8"])
def test_n05_commands_of_one_plan_compute_as_long_on_a_short_cache_and_load_less(cache: str) -> None:
    """A short cache leaves room for other tiles, of which fewer scores are masked: only one plan can be compared."""
    plan, wide = attention_busy_ps("bf16", None)
    kept, narrow = attention_busy_ps(cache, plan)
    assert kept == plan
    assert (narrow["tiu"], narrow["vec"]) == (wide["tiu"], wide["vec"])
    assert narrow["gdma"] < wide["gdma"]
    assert attention_busy_ps(cache, None)[0] != plan


def test_n05_the_case_of_the_finding_has_an_mfu_below_one() -> None:
    """32 layers of 32 heads, 4 x 128 FLOPs for every visible pair of a query and a key, at 989.4 TFLOP/s."""
    chip = load_chip("h100-sxm")
    fields: Fields = {"q_len": 32768, "kv_len": 32768, "quantization.kv_cache": "f8E4M3FN"}
    time_us, _ = attention_us(evaluated("chip", "llama-8b-prefill", fields, model(layers=32), chip))
    pairs = 32768 * 32769 // 2
    assert time_us == pytest.approx(32 * 32 * 4 * 128 * pairs / chip.peak_flops_per_s("bf16") * 1e6, rel=1e-12)


def test_n05_prefill_attention_of_mla_can_be_fp8() -> None:
    """Keys and values are expanded in BF16 and converted to FP8, as are the queries: half the time of the products."""
    fields: Fields = {"tp": 1, "dp": 1, "ep": 1, "batch": 1, "q_len": 512, "kv_len": 512}
    narrow = {**fields, "quantization.attention": "f8E4M3FN"}
    times = [
        attention_us(evaluated("chip", "dsv3-prefill-ep32", of, model("deepseek-v3", first_k_dense_replace=1)))[0]
        for of in (fields, narrow)
    ]
    assert times[1] == pytest.approx(times[0] / 2, rel=1e-12)
    program = compiled("layer", "dsv3-prefill-ep32", narrow, model("deepseek-v3", first_k_dense_replace=1))
    (op,) = [op for op in program.walk() if isinstance(op, layer.AttentionOp)]
    assert {element_name(tensor(v).element_type) for v in op.operands} == {"f8E4M3FN"}


def test_n05_tiles_and_commands_multiply_in_the_type_of_the_deployment() -> None:
    """Keys and values are loaded in 8 bits; every product of the attention is one of BF16."""
    fields: Fields = {"batch": 2, "kv_len": 256, "quantization.kv_cache": "f8E4M3FN"}
    levels: tuple[tuple[Level, Any, Any], ...] = (
        ("tile", tile.MmaOp, tile.LoadOp), ("commands", g5.TiuOp, g5.GdmaOp)
    )  # fmt: skip
    for level, mma, load in levels:
        module = compiled(level, "llama-8b-decode", fields)
        ops = [op for op in module.walk() if getattr(getattr(op, "path", None), "data", "").endswith("gqa.attention")]
        types = {op.matrix_type for op in ops if isinstance(op, mma)}
        assert types == {"bf16"}
        loads = [op for op in ops if isinstance(op, load)]
        stored = {
            element_name(op.element_type if isinstance(op, g5.GdmaOp) else tile.memref_type(op.memref).element_type)
            for op in loads
            if isinstance(op, tile.LoadOp) or op.is_load
        }
        assert stored == {"bf16", "f8E4M3FN"}


@pytest.mark.parametrize(
    ("a", "b", "arithmetic"),
    [
        ("bf16", "f8E4M3FN", "bf16"),
        ("i8", "bf16", "bf16"),  # 7 bits and a sign in 8 significant bits
        ("i4", "bf16", "bf16"),
        ("i4", "i8", "i8"),
        ("i4", "f8E4M3FN", "f8E4M3FN"),  # 3 bits and a sign in 4 significant bits
        ("f4E2M1FN", "f8E5M2", "f8E5M2"),
        ("f8E4M3FN", "f8E5M2", "f8E4M3FN"),
        ("f16", "f32", "f32"),
        ("f16", "i8", "f16"),
    ],
)
def test_issue9_4_one_rule_says_in_which_type_mixed_operands_are_multiplied(a: str, b: str, arithmetic: str) -> None:
    assert matrix_type(a, b) == matrix_type(b, a) == arithmetic


@pytest.mark.parametrize(("a", "b"), [("i8", "f8E4M3FN"), ("i8", "f8E5M2"), ("f16", "bf16"), ("i4", "f4E2M1FN")])
def test_n23_operands_that_no_type_holds_are_refused(a: str, b: str) -> None:
    with pytest.raises(TypeMismatchError, match=f"no matrix unit multiplies {a} with {b}"):
        matrix_type(a, b)


def test_n23_i8_weights_with_fp8_activations_are_refused_in_one_line() -> None:
    fields = {"quantization.weights": "i8", "quantization.activations": "f8E4M3FN"}
    with pytest.raises(PmcError, match=r"^quantize: layer.matmul at '.*q_proj': no matrix unit multiplies .* with i8"):
        evaluated("chip", "llama-8b-decode", fields)


def test_issue9_4_a_cache_longer_than_the_arithmetic_of_attention_is_refused() -> None:
    with pytest.raises(PmcError, match=r"^quantize: attention is 'f8E4M3FN' and the KV cache bf16: .*; store it as"):
        evaluated("chip", "llama-8b-decode", {"quantization.attention": "fp8"})


FP32 = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


@pytest.mark.parametrize("granularity", [g.value for g in MODELLED])
def test_n06_f32_without_a_path_is_refused_at_every_granularity(granularity: str) -> None:
    with pytest.raises(PmcError, match="the matrix unit has no rate for element type 'f32'; it has i4, i8, "):
        evaluated(granularity, "llama-8b-decode", FP32, model(torch_dtype="float32"))


def test_n06_f32_without_a_path_becomes_no_command() -> None:
    with pytest.raises(PmcError, match=r"^select-tiles: .*no rate for element type 'f32'"):
        compiled("commands", "llama-8b-decode", FP32, model(torch_dtype="float32"))


def test_n23_float16_models_run_in_float16() -> None:
    """The presets say bf16, which is no shorter: everything stays as it is, down to the commands."""
    module = compiled("commands", "llama-8b-decode", {"batch": 2, "kv_len": 256}, model(torch_dtype="float16"))
    assert {op.matrix_type for op in module.walk() if isinstance(op, g5.TiuOp)} == {"f16"}
    narrow = {"batch": 2, "kv_len": 256, "quantization.kv_cache": "f8E4M3FN", "quantization.weights": "i8"}
    module = compiled("commands", "llama-8b-decode", narrow, model(torch_dtype="float16"))
    assert {op.matrix_type for op in module.walk() if isinstance(op, g5.TiuOp)} == {"f16"}


@pytest.mark.parametrize(
    ("pattern", "close"),
    [
        ("bla", "there are blocks.dense.gqa.q_proj.weight, "),
        ("o_proj", "close are blocks.dense.gqa.o_proj.weight"),
        ("*.lm_hed.*", "close are lm_head.proj.weight"),
    ],
)
def test_n23_keep_that_matches_nothing_is_an_error_that_names_close_paths(pattern: str, close: str) -> None:
    with pytest.raises(PmcError) as error:
        compiled("layer", "llama-8b-decode", {"quantization.keep": [pattern]})
    assert str(error.value).startswith(f"quantize: keep pattern '{pattern}' matches no weight; {close}")


# -- names, 4 bits and scales -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("fp8", "f8E4M3FN"),
        ("FP8_E5M2", "f8E5M2"),
        ("int8", "i8"),
        ("int4", "i4"),
        ("fp4", "f4E2M1FN"),
        ("fp16", "f16"),
        ("bfloat16", "bf16"),
        ("f8e4m3fn", "f8E4M3FN"),
        ("nvfp4", "f4E2M1FN/16:f8E4M3FN"),
        ("mxfp4", "f4E2M1FN/32:f8E8M0FNU"),
        ("int4-g128", "i4/128:bf16"),
        ("int4/64:f16", "i4/64:f16"),
        ("fp8-block", "f8E4M3FN/128x128:f32"),
    ],
)
def test_hands_on_07_names_of_serving_engines_are_taken_and_dumps_have_one_form(typed: str, canonical: str) -> None:
    """In a file as on the command line, which both go through the schema; in the text of a pass too."""
    deployment = load_deployment("llama-8b-decode", {"quantization.weights": typed})
    assert deployment.quantization.weights == canonical == canonical_format(canonical)
    assert QuantizePass(weights=typed).weights == canonical


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("nvfq4", "'nvfq4' is no element type, .*; did you mean 'nvfp4'\\?$"),
        ("bf16/16:f32", "scales bf16; numbers with scales are i4, f4E2M1FN, i8, f8E4M3FN, f8E5M2$"),
        ("i4/16:i8", "has scales of i8; scales are f8E8M0FNU, f8E4M3FN, f16, bf16, f32$"),
        ("i4/0:f32", "is no element type"),
    ],
)
def test_hands_on_07_other_names_are_refused_in_one_line(typed: str, message: str) -> None:
    with pytest.raises(PmcError, match=message):
        load_deployment("llama-8b-decode", {"quantization.weights": typed})


FORMATS = ("nvfp4", "mxfp4", "int4-g128", "fp8-block")
BYTES = {"nvfp4": 4.5 / 8, "mxfp4": 4.25 / 8, "int4-g128": 4.125 / 8, "fp8-block": 1 + 4 / 128**2}
"""Of an element: its code and its part of a scale of 8, 8, 16 and 32 bits."""


@pytest.mark.parametrize("name", FORMATS)
def test_issue9_4_scales_count_in_storage_and_traffic(name: str) -> None:
    """down_proj is [14336, 4096], in whole groups; its activations and results are BF16, 32 rows a step."""
    fields: Fields = {"quantization.weights": name}
    elements, moved = 14336 * 4096, 2 * 32 * (14336 + 4096)
    program = compiled("dist", "llama-8b-decode", fields)
    (weight,) = [
        op for op in program.walk() if isinstance(op, layer.WeightOp) and op.path.data.endswith("down_proj.weight")
    ]
    assert tensor(weight.result).bytes.constant == elements * BYTES[name]
    for granularity in ("chip", "core", "tile"):
        result = evaluated(granularity, "llama-8b-decode", fields)
        (row,) = [step for step in result.steps if step.path.endswith("down_proj")]
        assert row.bytes_read + row.bytes_written >= elements * BYTES[name] + moved
        if granularity != "tile":
            assert row.bytes_read + row.bytes_written == elements * BYTES[name] + moved
        assert any(text.startswith("weights stored as !layer.scaled<") for text in result.assumptions)


def test_issue9_4_the_footprint_of_weights_has_their_scales() -> None:
    """7 products of a layer and the head in NVFP4; the table and three norms of 4096 stay in BF16."""
    module = compiled("dist", "llama-8b-decode", {"quantization.weights": "nvfp4"})
    products = 4096 * (4096 + 1024 + 1024 + 4096 + 3 * 14336 + 128256)
    kept = 2 * (128256 * 4096 + 3 * 4096)
    (stage,) = memory_footprint(module, MemoryOptions(0.0, 0, 1, 1)).stages
    assert stage.weight_bytes == products * 4.5 / 8 + kept


def test_issue9_4_weights_of_4_bits_are_multiplied_in_the_type_of_the_activations() -> None:
    """The H100 has no path for 4 bits and needs none: Marlin kernels make BF16 of them.  In IR, result and rate."""
    fields: Fields = {"quantization.weights": "int4-g128"}
    result = evaluated("chip", "llama-8b-decode", fields, chip=load_chip("h100-sxm"))
    wide = evaluated("chip", "llama-8b-decode", {}, chip=load_chip("h100-sxm"))
    assert [s.compute_us for s in result.steps] == [s.compute_us for s in wide.steps]
    said = next(text for text in result.assumptions if text.startswith("weights"))
    assert said.startswith("weights stored as !layer.scaled<i4, 128 x 1, bf16> are read so and multiplied in bf16")
    narrow: Fields = {**fields, "quantization.weights": "fp4", "quantization.activations": "fp4"}
    with pytest.raises(PmcError, match="no rate for element type 'f4E2M1FN'; it has i8, "):
        evaluated("chip", "llama-8b-decode", narrow, chip=load_chip("h100-sxm"))


def test_issue9_4_the_vector_unit_pays_for_numbers_made_of_codes() -> None:
    """Every element of B takes two steps in FP32, 16 lanes x 16 units a cycle on each of 64 cores, once a step here."""
    shape = MatmulShape(1, 32, 4096, 14336, 16, 4, 16, "bf16", True, WeightStorage(16 / 128, 16, 0))
    search = PlanSearch(CoreRates(load_chip("sg2262"), load_accounting("physical")))
    plain = replace(shape, storage=WeightStorage())
    tiling = matmuls.tiling_of(search.matmul(shape))
    paid, free = (search.matmul_resources(of, tiling) for of in (shape, plain))
    (g, m, n, k), chunk = tiling.plan(0).core_counts, matmuls.chunks(shape, tiling, load_chip("sg2262"))
    assert (g, m) == (1, 1)
    assert int((paid.vec_steps - free.vec_steps)[0]) == 2 * int(chunk.n[0] * chunk.k[0])
    assert int((paid.dram_read - free.dram_read)[0]) == 14336 * 4096 * 2 // 128
    assert search.matmul_time(shape, paid).total_s[0] > search.matmul_time(plain, free).total_s[0]
    del n, k


def test_issue9_4_commands_refuse_what_they_cannot_move() -> None:
    with pytest.raises(
        PmcError, match=r"^lower-to-tiles: '.*q_proj.weight' is stored as !layer.scaled<f4E2M1FN, 16 x 1"
    ):
        compiled("commands", "llama-8b-decode", {"quantization.weights": "nvfp4"})
    with pytest.raises(PmcError, match=r"^lower-to-tiles: '.*q_proj.weight' is stored as i4: GDMA moves whole bytes"):
        compiled("commands", "llama-8b-decode", {"quantization.weights": "int4"})


def test_issue9_4_ranks_share_no_group() -> None:
    """o_proj has 4096 rows, 512 on each of 8 ranks: whole groups of 512 and none of 1024."""
    fields: Fields = {"tp": 8, "quantization.keep": ["*down_proj.weight"]}
    compiled("dist", "llama-8b-decode", {**fields, "quantization.weights": "int4-g512"})
    with pytest.raises(PmcError, match=r"^localize: '.*o_proj.weight' has 512 of its 4096 rows on a rank, .* of 1024"):
        compiled("dist", "llama-8b-decode", {**fields, "quantization.weights": "int4-g1024"})


@pytest.mark.parametrize(
    ("name", "half_gap"),
    [
        # Half the largest distance of two codes: 4 and 6; 256 and 288, 416 and 448; whole numbers.
        ("nvfp4", 1.0),
        ("int4-g16", 0.5),
        ("f8E4M3FN/8x4:f32", 16.0),
    ],
)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 3), (16, 1), (33, 7), (64, 8)]))
@settings(max_examples=30, deadline=None)
def test_issue9_4_quantised_values_are_off_by_half_a_step_of_their_group(
    name: str, half_gap: float, seed: int, dims: tuple[int, int]
) -> None:
    """A scale is off by 2**-4 of itself at most (FP8), or by 2**-10 where it is subnormal.  Then codes reach 16/15 of
    the largest, and what is clamped is less than half a step of FP4: 6/15 of a scale; of wider scales, next to nothing.
    Quantising again changes nothing, unless scales are so small that their steps are coarse."""
    values = np.random.default_rng(seed).standard_normal((2, *dims))
    type_ = type_of_format(name)
    assert isinstance(type_, ScaledType)
    left = round_scaled(values, type_)
    rows, columns = type_.block
    most = largest_code(type_)
    for outer, row, column in np.ndindex(2, -(-dims[0] // rows), -(-dims[1] // columns)):
        at = (outer, slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns))
        largest = np.abs(values[at]).max()
        subnormal = 2.0**-10 if element_name(type_.scale_type) == "f8E4M3FN" else 0.0
        bound = largest / most * (1 + 2.0**-4) * half_gap + subnormal * most
        assert np.abs(values[at] - left[at]).max() <= bound
    if element_name(type_.scale_type) != "f8E4M3FN":
        assert np.array_equal(round_scaled(left, type_), left)


def test_issue9_4_powers_of_two_scale_as_the_mx_standard_says() -> None:
    """floor(log2 7) - 2 = 0: 7 clamps to 6; of 8 it is 1: a code of 4."""
    type_ = type_of_format("mxfp4")
    assert isinstance(type_, ScaledType)
    assert round_scaled(np.array([[7.0], [1.0], [-0.3]]), type_).ravel().tolist() == [6.0, 1.0, -0.5]
    assert round_scaled(np.array([[8.0], [1.0], [-0.3]]), type_).ravel().tolist() == [8.0, 1.0, 0.0]


@pytest.mark.parametrize("name", [*FORMATS, "int4", "fp4"])
def test_issue9_4_the_check_executes_in_the_new_types(name: str) -> None:
    """What `quantize` leaves is the reference, block by block, to the last bit; FP32 goes down to the commands."""
    config, source = load_model_config("deepseek-v3")
    deployment = load_deployment("dsv3-decode-ep32", {"quantization.weights": name, "quantization.activations": "bf16"})
    chip, topology = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
    small = shrink_deployment(deployment)
    module = shrink_model(import_hf(config, source, "small"), small, 2, None)
    result = check_model(module, chip, topology, small, proof=Proof(emit="dist", in_types=True))
    assert result.passed, result.guilty


def test_issue9_4_a_check_of_such_weights_ends_at_dist_in_their_types_and_at_commands_in_fp32() -> None:
    config, source = load_model_config("llama-3.1-8b")
    deployment = load_deployment("llama-8b-decode", {"quantization.weights": "nvfp4"})
    target = load_chip("sg2262"), load_topology("p1-r1-b1-c8")
    results = check_small(config, source, *target, deployment, layers=1, plans="chosen")
    assert all(result.passed for result in results)
    assert {(result.types, result.checks[-1].level) for result in results if result.phase != "sequence"} == {
        ("f4E2M1FN/2:f8E4M3FN", "dist"), ("f32", "commands"),
    }  # fmt: skip
