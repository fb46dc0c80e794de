"""The quantize pass: which tensors change type, and where the conversions stand."""

from collections.abc import Sequence
from io import StringIO

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer

from pmc.compiler.config import load_model_config
from pmc.compiler.frontend import import_hf
from pmc.dialects import layer, model
from pmc.dialects.assembly import PmcOp
from pmc.dialects.tensor import element_name, tensor
from pmc.passes.base import PassError
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.quantize import QuantizePass

FP8 = "f8E4M3FN"


def context() -> Context:
    ctx = Context()
    for dialect in (Builtin, model.Model, layer.Layer):
        ctx.load_dialect(dialect)
    return ctx


def quantized(
    name: str,
    phase: str = "decode",
    weights: str = FP8,
    activations: str = FP8,
    kv_cache: str = FP8,
    attention: str = FP8,
    keep: str = "",
    tied: bool = False,
) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf({**config, "tie_word_embeddings": tied}, source, name)
    ExpandBlocksPass(phase).apply(context(), module)
    QuantizePass(weights, activations, kv_cache, attention, keep).apply(context(), module)
    module.verify()
    return module


def at(module: ModuleOp, path: str) -> Operation:
    found = [op for op in module.walk() if isinstance(op, PmcOp) and op.path.data == path]
    assert len(found) == 1, (path, found)
    return found[0]


def dtypes(values: Sequence[SSAValue]) -> list[str]:
    return [element_name(tensor(v).element_type) for v in values]


def operands(module: ModuleOp, path: str) -> list[str]:
    return dtypes(at(module, path).operands)


def results(module: ModuleOp, path: str) -> list[str]:
    return dtypes(at(module, path).results)


def weight_types(module: ModuleOp) -> dict[str, str]:
    return {op.path.data: dtypes([op.result])[0] for op in module.walk() if isinstance(op, layer.WeightOp)}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_round_trip(name: str, phase: str) -> None:
    module = quantized(name, phase)
    for generic in (False, True):
        stream = StringIO()
        Printer(stream, print_generic_format=generic).print_op(module)
        parsed = Parser(context(), stream.getvalue()).parse_module()
        parsed.verify()
        again = StringIO()
        Printer(again, print_generic_format=generic).print_op(parsed)
        assert again.getvalue() == stream.getvalue()


def test_only_matmul_weights_change() -> None:
    for path, dtype in weight_types(quantized("deepseek-v3")).items():
        if path.endswith("router.bias"):
            assert dtype == "f32"
        elif path == "embed.weight" or "norm." in path:
            assert dtype == "bf16", path
        else:
            assert dtype == FP8, path


def test_keep_patterns_leave_weight_and_activation() -> None:
    module = quantized("deepseek-v3", keep="*.router.weight, lm_head.*")
    types = weight_types(module)
    assert {path for path, dtype in types.items() if dtype == "bf16" and "norm" not in path} == {
        "embed.weight",
        "blocks.moe.moe.router.weight",
        "lm_head.proj.weight",
    }
    assert operands(module, "blocks.moe.moe.router") == ["bf16", "bf16"]
    assert operands(module, "lm_head.proj") == ["bf16", "bf16"]
    assert operands(module, "blocks.moe.moe.shared.up_proj") == [FP8, FP8]


def test_a_tied_head_stays_with_the_table() -> None:
    module = quantized("llama-3.1-8b", tied=True)
    assert operands(module, "lm_head.proj") == ["bf16", "bf16"]


def test_results_keep_the_type_of_the_model() -> None:
    module = quantized("deepseek-v3")
    for op in module.walk():
        if isinstance(op, layer.MatrixOp):
            expected = "f32" if op.path.data.endswith(".router") else "bf16"
            assert dtypes(op.results) == [expected], op.path.data


def test_one_value_is_quantised_once() -> None:
    module = quantized("deepseek-v3")
    mla, moe = "blocks.moe.mla", "blocks.moe.moe"
    for paths in (
        [f"{mla}.q_a_proj", f"{mla}.kv_a_proj"],
        [f"{moe}.dispatch", f"{moe}.router", f"{moe}.shared.gate_proj", f"{moe}.shared.up_proj"],
        [f"{moe}.experts.gate_proj", f"{moe}.experts.up_proj"],
    ):
        assert len({at(module, path).operands[0] for path in paths}) == 1
    sources = [op.x for op in module.walk() if isinstance(op, layer.QuantizeOp)]
    assert len(sources) == len(set(sources))


def test_dispatch_moves_one_byte_rows() -> None:
    module = quantized("deepseek-v3")
    assert operands(module, "blocks.moe.moe.dispatch")[0] == FP8
    assert results(module, "blocks.moe.moe.dispatch") == [FP8]
    assert operands(module, "blocks.moe.moe.combine")[0] == "bf16"


def test_dispatch_stays_wide_when_an_expert_product_does() -> None:
    module = quantized("deepseek-v3", keep="*.experts.up_proj.weight")
    assert results(module, "blocks.moe.moe.dispatch") == ["bf16"]
    assert operands(module, "blocks.moe.moe.experts.up_proj") == ["bf16", "bf16"]
    assert operands(module, "blocks.moe.moe.experts.gate_proj") == [FP8, FP8]


def test_absorbed_slices_have_the_type_of_their_weight() -> None:
    module = quantized("deepseek-v3")
    for half in ("k_absorb", "v_absorb"):
        assert results(module, f"blocks.moe.mla.{half}.weight") == [FP8]
        assert operands(module, f"blocks.moe.mla.{half}") == [FP8, FP8]


def test_decode_attention_is_all_8_bit() -> None:
    attention = at(quantized("deepseek-v3"), "blocks.moe.mla.attention")
    assert isinstance(attention, layer.AttentionOp)
    assert dtypes(attention.operands) == [FP8] * 5
    assert attention.work().dtype == FP8
    # 64 sequences: queries 128 heads * 576 and 4096 latents of 576, one byte each.
    read = attention.work().bytes_read.evaluate({"batch": 64, "q_len": 1, "kv_len": 4096})
    assert read == 64 * 576 * (128 + 4096)


def test_attention_computes_in_the_type_of_the_option() -> None:
    module = quantized("deepseek-v3", "prefill", attention="bf16")
    attention = at(module, "blocks.moe.mla.attention")
    assert isinstance(attention, layer.AttentionOp)
    assert dtypes(attention.q) == ["bf16", "bf16"]
    assert dtypes(attention.k) == ["bf16", FP8]
    assert attention.work().dtype == "bf16"
    # The cached latent is short already: kv_b reads it as it is.
    assert operands(module, "blocks.moe.mla.kv_b_proj") == [FP8, FP8]
    assert isinstance(at(module, "blocks.moe.mla.kv_b_proj").operands[0].owner, layer.KvAppendOp)


def test_cache_alone() -> None:
    module = quantized("llama-3.1-8b", weights="none", activations="none")
    gqa = "blocks.dense.gqa"
    assert results(module, f"{gqa}.k_cache") == results(module, f"{gqa}.k_append") == [FP8]
    assert operands(module, f"{gqa}.attention") == [FP8] * 3
    assert operands(module, f"{gqa}.o_proj") == ["bf16", "bf16"]
    assert set(weight_types(module).values()) == {"bf16"}


def test_cache_of_4_bits_leaves_the_queries() -> None:
    module = quantized("llama-3.1-8b", kv_cache="f4E2M1FN", attention="bf16", weights="none")
    assert operands(module, "blocks.dense.gqa.attention") == ["bf16", "f4E2M1FN", "f4E2M1FN"]


def test_weights_alone() -> None:
    module = quantized("llama-3.1-8b", activations="none", kv_cache="none", attention="none")
    up = at(module, "blocks.dense.ffn.up_proj")
    assert isinstance(up, layer.MatmulOp)
    assert dtypes(up.operands) == ["bf16", FP8]
    assert up.work().dtype == "bf16"
    assert not any(isinstance(op, layer.QuantizeOp) for op in module.walk())


def test_activations_follow_only_quantised_weights() -> None:
    module = quantized("llama-3.1-8b", weights="none", kv_cache="none", attention="none")
    assert not any(isinstance(op, layer.QuantizeOp) for op in module.walk())


def test_flops_do_not_change() -> None:
    def total(module: ModuleOp) -> dict[str, str]:
        return {op.path.data: str(op.flops()) for op in module.walk() if isinstance(op, layer.MatrixOp)}

    assert total(quantized("deepseek-v3")) == total(quantized("deepseek-v3", "decode", "none", "none", "none", "none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": "fp8e4m3fn"},
            "weights: 'fp8e4m3fn' is no element type, must be one of i4, f4E2M1FN, i8, f8E4M3FN, f8E5M2, f16, bf16, "
            "f32, a name such as fp8, int4, nvfp4, mxfp4, fp8-block or int4-g128, or ELEMENT/GROUP:SCALE; did you mean "
            "'f8E4M3FN'?",
        ),
        (
            {"kv_cache": "xyz"},
            "kv-cache: 'xyz' is no element type, must be one of i4, f4E2M1FN, i8, f8E4M3FN, f8E5M2, f16, bf16, f32, "
            "a name such as fp8, int4, nvfp4, mxfp4, fp8-block or int4-g128, or ELEMENT/GROUP:SCALE",
        ),
    ],
)
def test_unknown_element_types(options: dict[str, str], message: str) -> None:
    with pytest.raises(PassError) as error:
        QuantizePass(**options)
    assert str(error.value) == f"quantize: {message}"


def test_level_is_checked() -> None:
    config, source = load_model_config("llama-3.1-8b")
    with pytest.raises(PassError, match="this pass reads the layer level"):
        QuantizePass().apply(context(), import_hf(config, source, "llama"))
