"""Element types: what issue 9 and `findings/numbers.md` say is wrong with them, by number."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Granularity
from pmc.backends.evaluate.metrics import EngineResult
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, evaluate
from pmc.compiler.frontend import import_hf
from pmc.dialects import g5, layer, tile
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.matrix_types import matrix_type
from pmc.dialects.tensor import TypeMismatchError, element_name, tensor

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
    return evaluate(module or model(), target, topology, load_deployment(deployment, fields), granularity)


def attention_us(result: EngineResult) -> tuple[float, int]:
    """Compute time and bytes read of the attention."""
    (row,) = [step for step in result.steps if step.op == "layer.attention"]
    return row.compute_us, row.bytes_read


LONG = {"q_len": 2048, "kv_len": 2048}


@pytest.mark.parametrize("granularity", [g.value for g in Granularity if g.value != "tile"])
@pytest.mark.parametrize("cache", ["f8E4M3FN", "f8E5M2", "i8"])
def test_n05_a_short_cache_is_read_as_stored_and_computed_as_the_deployment_says(granularity: str, cache: str) -> None:
    """K and V have 8 heads of 128 in 8 bits instead of 16; the arithmetic stays BF16 and takes the same time."""
    wide = attention_us(evaluated(granularity, "llama-8b-prefill", LONG))
    narrow = attention_us(evaluated(granularity, "llama-8b-prefill", {**LONG, "quantization.kv_cache": cache}))
    assert narrow[0] == wide[0]
    assert wide[1] - narrow[1] == 2 * 2048 * 8 * 128


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


FP32 = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


@pytest.mark.parametrize("granularity", [g.value for g in Granularity])
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
