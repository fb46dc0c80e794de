"""Quantized checkpoints: the types that a config describes, and a program that holds them."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.check import check_small
from pmc.compiler.config import ConfigError, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.families import FAMILIES
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.module_names import MODULES, base_of, modules_of
from pmc.compiler.frontend.stored_types import stored_layers
from pmc.dialects import layer, model
from pmc.dialects.checkpoint import StoredTypes, checkpoint_of, stored_types
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import element_name, tensor
from pmc.dialects.type_rules import HeldTypes, TypeRule, held_types, parse_rule
from tests.reference.configs import CONFIGS, DEEPSEEK, LLAMA, QWEN3_MOE, WITHOUT_REFERENCE
from tests.reference.recurrent_configs import KIMI_LINEAR, NEMOTRON_H

TINY = {**CONFIGS, **WITHOUT_REFERENCE}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [2, 4]}


def quantized(config: dict[str, object], block: object, **beside: object) -> dict[str, Any]:
    return {**config, "quantization_config": block, **beside}


def stored(config: dict[str, Any]) -> StoredTypes:
    checkpoint = checkpoint_of(import_hf(config, "config.json", "tiny"))
    assert checkpoint is not None and checkpoint.stored is not None
    return checkpoint.stored


def compressed(**weights: object) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("block", "weights", "activations"),
    [
        (BLOCKS, "f8E4M3FN/4x2:f32", "f8E4M3FN"),  # weight_block_size is of [outputs, inputs], a format of [inputs, ..]
        ({"quant_method": "fp8"}, "f8E4M3FN", "f8E4M3FN"),
        ({"quant_algo": "FP8"}, "f8E4M3FN", "f8E4M3FN"),
        ({"quant_algo": "NVFP4"}, "f4E2M1FN/16:f8E4M3FN", "f4E2M1FN"),
        ({"quant_algo": "W4A16_NVFP4"}, "f4E2M1FN/16:f8E4M3FN", None),
        ({"quant_algo": "MXFP8"}, "f8E4M3FN/32:f8E8M0FNU", "f8E4M3FN"),
        ({"quant_algo": "W4A16_AWQ", "group_size": 64}, "i4/64:f16", None),
        ({"quant_method": "mxfp4"}, "f4E2M1FN/32:f8E8M0FNU", None),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "i4/128:f16", None),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "i8", None),
        (compressed(type="int", num_bits=4, group_size=32), "i4/32:bf16", None),
        (compressed(type="float", num_bits=4, group_size=32), "f4E2M1FN/32:f8E8M0FNU", None),
        (compressed(type="float", num_bits=8), "f8E4M3FN", None),
    ],
)
def test_methods_are_formats_of_weights_and_activations(
    block: dict[str, Any], weights: str, activations: str | None
) -> None:
    found = stored(quantized(LLAMA, block))
    assert (found.weights, found.activations) == (weights, activations)
    # Quantizers leave the head alone unless they are told otherwise.
    assert found.types == ("lm_head.proj.weight=none",)


@pytest.mark.parametrize(
    ("block", "cache"),
    [
        ({"quant_algo": "FP8"}, None),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, "f8E4M3FN"),
        ({"quant_algo": "FP8", "kv_cache_scheme": {"type": "float", "num_bits": 8}}, "f8E4M3FN"),
    ],
)
def test_the_type_of_the_cache_is_read(block: dict[str, Any], cache: str | None) -> None:
    assert stored(quantized(LLAMA, block)).kv_cache == cache


@pytest.mark.parametrize(
    ("kept", "rules"),
    [
        ({"modules_to_not_convert": ["gate"]}, ()),  # the end of a name; routers are kept anyway
        ({"modules_to_not_convert": ["model.layers.*.self_attn"]}, ("*.gqa.*=none",)),
        ({"ignore": ["re:.*self_attn.*"]}, ("*.gqa.*=none",)),
        ({"exclude_modules": [f"model.layers.{n}.self_attn.o_proj" for n in range(3)]}, ("*.gqa.o_proj.weight=none",)),
        ({"ignore": ["re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]}, ()),  # not the experts, which are below `experts`
        ({"ignore": ["model.language_model.layers.*.mlp.experts.*.w2"]}, ("*.moe.experts.down_proj.weight=none",)),
    ],
)
def test_modules_in_the_type_of_the_model_are_rules(kept: dict[str, Any], rules: tuple[str, ...]) -> None:
    found = stored(quantized(QWEN3_MOE, {**BLOCKS, **kept}))
    expected = {*rules, "*.moe.router.weight=none", "lm_head.proj.weight=none"}
    assert set(found.types) == expected and len(found.types) == len(expected)


def test_layers_that_are_named_one_by_one_have_their_own_types() -> None:
    layers = range(3)
    named: dict[str, object] = {f"model.layers.{n}.self_attn": {"quant_algo": "FP8"} for n in layers}
    named |= {f"model.layers.{n}.mlp.down_proj": {"quant_algo": "W4A16_NVFP4"} for n in layers}
    named["lm_head"] = {"quant_algo": "W4A16_NVFP4"}
    found = stored(quantized(LLAMA, {"quant_algo": "MIXED_PRECISION", "quantized_layers": named}))
    assert found.weights is None
    assert found.types == (
        "*.gqa.*=f8E4M3FN+f8E4M3FN",
        "*.ffn.down_proj.weight=f4E2M1FN/16:f8E4M3FN+none",
        "lm_head.proj.weight=f4E2M1FN/16:f8E4M3FN+none",
    )
    assert found.words == "f8E4M3FN and f4E2M1FN/16:f8E4M3FN"


def test_layers_of_a_kind_that_are_stored_otherwise_are_a_kind_of_their_own() -> None:
    pattern = cast(str, NEMOTRON_H["hybrid_override_pattern"])
    mambas = [n for n, letter in enumerate(pattern) if letter == "M"]
    assert len(mambas) > 1
    block = {"quant_algo": "FP8", "exclude_modules": [f"backbone.layers.{mambas[-1]}.mixer.in_proj"]}
    module = import_hf(quantized(NEMOTRON_H, block), "config.json", "tiny")
    plain = import_hf(NEMOTRON_H, "config.json", "tiny")
    kinds = {op.path.data.split(".")[-2] for op in module.walk() if isinstance(op, model.Mamba2Op)}
    assert kinds == {"mamba", "mamba_stored_otherwise"}
    assert model.parameter_count(module) == model.parameter_count(plain)
    layer_types = weight_types(module, weights="checkpoint")
    of_mambas = {path: kind for path, kind in layer_types.items() if path.endswith("mamba2.x_proj.weight")}
    assert {("stored_otherwise" in path, kind) for path, kind in of_mambas.items()} == {
        (True, "f32"),
        (False, "f8E4M3FN"),
    }


@pytest.mark.parametrize(
    ("kept", "rules"),
    [
        ("re:.*self_attn.*", {"*.kda.*=none", "*.mla.*=none"}),
        ("model.layers.*.self_attn.f_b_proj", {"*.kda.f_b_proj.weight=none"}),  # as published
        ("model.layers.*.self_attn.forget_gate", {"*.kda.f_a_proj.weight=none", "*.kda.f_b_proj.weight=none"}),
        ("model.layers.*.block_sparse_moe.experts.*.w2", {"*.moe.experts.down_proj.weight=none"}),
    ],
)
def test_modules_of_kimi_linear(kept: str, rules: set[str]) -> None:
    found = set(stored(quantized(KIMI_LINEAR, {**BLOCKS, "modules_to_not_convert": [kept]})).types)
    always = {"*.moe.router.weight=none", "lm_head.proj.weight=none"}
    assert found - {"*.kda.b_proj.weight=none"} == rules | always
    # The projection of the shares is one number wide per head: no scale of a block fits.
    assert ("*.kda.b_proj.weight=none" in found) == ("*.kda.*=none" not in found)


def test_the_layer_that_drafts_tokens_is_stored_like_the_last_one_or_otherwise() -> None:
    config = {**DEEPSEEK, "num_nextn_predict_layers": 1}
    alike = stored(quantized(config, BLOCKS)).types
    assert [rule for rule in alike if rule.startswith("mtp")] == ["mtp.eh_proj.*=none"]
    kept = stored(quantized(config, {**BLOCKS, "modules_to_not_convert": ["model.layers.3*"]})).types
    assert "mtp.mla.o_proj.weight=none" in kept and "mtp.moe.experts.up_proj.weight=none" in kept
    assert not any("mla" in rule for rule in kept if not rule.startswith("mtp"))


def test_experts_beside_a_network_are_found() -> None:
    kept = [f"model.language_model.layers.{n}.{module}*" for n in range(4) for module in ("mlp", "self_attn")]
    found = stored(quantized(CONFIGS["gemma4-moe"], {"quant_algo": "NVFP4", "exclude_modules": kept}))
    assert found.types[:3] == ("*.gqa.*=none", "*.ffn.*=none", "*.moe.router.weight=none")


def test_experts_of_deepseek_v4_have_a_type_of_their_own() -> None:
    found = stored(quantized(DEEPSEEK, BLOCKS, expert_dtype="fp4"))
    assert [rule for rule in found.types if "experts" in rule] == [
        f"*.moe.experts.{leaf}.weight=f4E2M1FN/32:f8E8M0FNU+f8E4M3FN" for leaf in ("gate_proj", "up_proj", "down_proj")
    ]


@pytest.mark.parametrize(
    "kept",
    [
        ["model.layers.11.mlp.down_proj"],
        ["model.layers.1*"],
        ["model.layers.1*.self_attn.*", "layers.2.mlp"],
        ["re:.*layers\\.(3|7)\\..*"],
        ["model.layers.*.mlp", "model.layers.4.self_attn.q_proj"],
        ["q_proj", "layers.0"],
    ],
)
def test_layers_that_share_an_answer_would_each_have_got_it(kept: list[str]) -> None:
    fields = Fields(quantized(LLAMA, {**BLOCKS, "modules_to_not_convert": kept}, num_hidden_layers=12), "config.json")
    found = stored_layers(fields, FAMILIES["LlamaForCausalLM"])
    assert found.types is not None
    find = found.types.finder()
    for number, kind in enumerate(found.order):
        for weight, names in modules_of(found.kinds[kind], number).items():
            assert found.found[kind, *weight] == find(names, weight[1] != "head_gate"), (number, weight)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({**BLOCKS, "weight_block_size": [128]}, "quantization_config.weight_block_size: expected two numbers"),
        ({**BLOCKS, "weight_block_size": [0, 4]}, "quantization_config.weight_block_size: expected two numbers"),
        (
            {**BLOCKS, "modules_to_not_convert": "lm_head"},
            "quantization_config.modules_to_not_convert: expected a list",
        ),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP3"}, "quantization_config.kv_cache_quant_algo: expected one"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "int", "num_bits": 3}}}},
            "quantization_config.config_groups.a.weights.num_bits: 3-bit int is not supported",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_its_field(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_hf(quantized(LLAMA, block), "config.json", "tiny")
    assert message in str(error.value) and "\n" not in str(error.value)


def weight_types(module: ModuleOp, **types: object) -> dict[str, str]:
    """The types of all weights at the layer level, by path."""
    options = {f"quantization.{name}": value for name, value in {"attention": "f32", **types}.items()}
    deployment = load_deployment("decode", {"kv_len": 41, "longer_context": True, **options})
    compile_model(module, load_chip("h100-sxm"), load_topology("nvlink-8"), deployment, "layer")
    weights = [op for op in module.walk() if isinstance(op, layer.WeightOp)]
    return {op.path.data: element_name(tensor(op.result).element_type) for op in weights}


def test_checkpoint_is_a_type_of_the_deployment() -> None:
    config = quantized(QWEN3_MOE, {**BLOCKS, "modules_to_not_convert": ["self_attn.o_proj"]}, num_hidden_layers=1)
    found = weight_types(import_hf(config, "config.json", "tiny"), weights="checkpoint")
    short = {path for path, kind in found.items() if "f8E4M3FN" in kind}
    expected = {
        "gqa.q_proj",
        "gqa.k_proj",
        "gqa.v_proj",
        *(f"moe.experts.{leaf}_proj" for leaf in ("gate", "up", "down")),
    }
    assert {path.removeprefix("blocks.moe.").removesuffix(".weight") for path in short} == expected


def test_checkpoint_of_a_model_that_is_not_quantized_is_the_type_of_the_model() -> None:
    found = weight_types(
        import_hf(LLAMA, "config.json", "tiny"), weights="checkpoint", activations="checkpoint", kv_cache="checkpoint"
    )
    assert set(found.values()) == {"f32"}


def test_the_rules_of_a_deployment_come_before_those_of_the_checkpoint() -> None:
    own = HeldTypes("nvfp4", "f4E2M1FN", "f8E4M3FN", (TypeRule("*.moe.*", "i8", "i8"),))
    held = held_types("checkpoint", "bf16", "bf16", ["*.up_proj.*"], ["*.gate_proj.*=fp8+none"], own)
    assert held.of("a.moe.up_proj.weight") == ("none", "none")
    assert held.of("a.moe.gate_proj.weight") == ("f8E4M3FN", "none")
    # Weights as the checkpoint has them, activations as the deployment says.
    assert held.of("a.moe.down_proj.weight") == ("i8", "bf16")
    assert held.of("a.gqa.q_proj.weight") == ("nvfp4", "bf16")
    assert held_types("bf16", "checkpoint", "checkpoint", [], [], own) == HeldTypes("bf16", "f4E2M1FN", "f8E4M3FN", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*.moe.*", "is no rule of a type"),
        ("=fp8", "is no rule of a type"),
        ("*.moe.*=fp9", "'fp9' is no element type"),
        ("*.moe.*=none+fp8", "keeps the weights and converts their activations"),
        ("*.moe.*=fp8+nvfp4", "scales of groups are modelled for weights only"),
    ],
)
def test_a_rule_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rule(text)


def test_a_rule_that_matches_no_weight_is_an_error() -> None:
    with pytest.raises(PmcError, match=r"types pattern '\*\.exprts\.\*' matches no weight; close are blocks\.moe"):
        weight_types(import_hf(QWEN3_MOE, "config.json", "tiny"), types=["*.exprts.*=fp8"])


def test_rules_and_types_of_the_checkpoint_keep_the_meaning_of_a_model() -> None:
    kept = {"modules_to_not_convert": ["self_attn.o_proj"]}
    config = quantized({**QWEN3_MOE, "torch_dtype": "bfloat16"}, {"quant_method": "fp8", **kept})
    types = {"weights": "checkpoint", "activations": "checkpoint", "types": ["*.experts.down_proj.*=e5m2+none"]}
    options = {f"quantization.{name}": value for name, value in types.items()}
    deployment = load_deployment("decode", {"kv_len": 41, **options})
    results = check_small(
        config, "config.json", load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, plans="chosen"
    )
    assert all(result.guilty is None for result in results)


@pytest.mark.parametrize("name", TINY)
def test_every_weight_that_is_multiplied_has_a_name_in_checkpoints(name: str) -> None:
    module = import_hf(TINY[name], name, "tiny")
    compile_model(
        module,
        load_chip("h100-sxm"),
        load_topology("nvlink-8"),
        load_deployment("decode", {"kv_len": 41, "absorb_mla": False}),
        "layer",
    )
    assert stored_types(module).weights == "none"
    for op in module.walk():
        if isinstance(op, layer.MatmulOp | layer.GroupedMatmulOp) and isinstance(op.w.owner, layer.WeightOp):
            weight = op.w.owner.path.data
            block, _, leaf = weight.removesuffix(".weight").removeprefix("blocks.").partition(".")[2].partition(".")
            while leaf and base_of(block)[0] not in MODULES:
                block, _, leaf = leaf.partition(".")
            if weight.endswith("streams.weights.fn.weight") or weight.startswith("mtp.eh_proj"):
                continue  # no linear layers: rules of their own
            known = weight == "lm_head.proj.weight" or leaf in MODULES.get(base_of(block)[0], {})
            assert known, f"{weight}: a row in compiler/frontend/module_names.py says what checkpoints call it"
