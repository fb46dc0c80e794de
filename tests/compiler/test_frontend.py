"""Hugging Face configs to the model dialect."""

from collections.abc import Mapping
from typing import Any

import pytest
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FileLineColLoc, FloatAttr, IntegerAttr, StringAttr, f32
from xdsl.utils.test_value import create_ssa_value

from pmc.backends.numeric.tensor_ops import scaling_fields
from pmc.compiler.config import ConfigError
from pmc.compiler.frontend import import_hf
from pmc.dialects import layer, model
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType
from pmc.dialects.vector_kinds import RopeAttr
from tests.reference.configs import CONFIGS

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "vocab_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
}
LLAMA: dict[str, Any] = {
    **COMMON,
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}
QWEN3: dict[str, Any] = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}
MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
DEEPSEEK: dict[str, Any] = {
    **COMMON,
    "architectures": ["DeepseekV3ForCausalLM"],
    "intermediate_size": 128,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
}
YARN: dict[str, Any] = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def blocks(config: dict[str, Any]) -> dict[str, model.BlockOp]:
    module = import_hf(config, "config.json", "tiny")
    module.verify()
    return {b.path.data: b for b, _ in model.model_blocks(module)}


def layers(config: dict[str, Any]) -> dict[str, int]:
    module = import_hf(config, "config.json", "tiny")
    return {op.path.data: op.trip_count for op in module.walk() if isinstance(op, model.RepeatOp)}


def test_llama() -> None:
    gqa = blocks(LLAMA)["blocks.dense.gqa"]
    assert isinstance(gqa, model.GqaOp)
    assert (gqa.heads, gqa.kv_heads, gqa.head_dim.value.data, gqa.qk_norm_eps) == (4, 2, 16, None)
    assert gqa.rope_scaling is None
    assert layers(LLAMA) == {"blocks.dense": 4}
    assert list(blocks(LLAMA)) == [
        "embed",
        *(f"blocks.dense.{path}" for path in ("gqa.norm", "gqa", "gqa.residual", "ffn.norm", "ffn", "ffn.residual")),
        "lm_head.norm",
        "lm_head",
    ]


def test_absent_fields_of_llama_mean_what_its_configuration_class_says() -> None:
    config = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "rope_theta")}
    gqa = blocks({**config, "head_dim": None})["blocks.dense.gqa"]
    assert isinstance(gqa, model.GqaOp)
    assert gqa.kv_heads == 4
    assert gqa.head_dim.value.data == 16
    assert gqa.rope_theta is not None
    assert gqa.rope_theta.value.data == 10000.0


def test_qwen3_normalises_heads_of_its_own_width() -> None:
    gqa = blocks(QWEN3)["blocks.dense.gqa"]
    assert isinstance(gqa, model.GqaOp)
    assert gqa.qk_norm_eps is not None
    assert gqa.qk_norm_eps.value.data == 1e-5
    shapes = {w.name: w.dims for w in gqa.weights()}
    assert shapes["q_norm.weight"] == shapes["k_norm.weight"] == (32,)
    assert shapes["q_proj.weight"] == (64, 128)


def test_mixtral() -> None:
    moe = blocks(MIXTRAL)["blocks.moe.moe"]
    assert isinstance(moe, model.MoeOp)
    assert (moe.experts, moe.top_k, moe.shared_intermediate_size.value.data) == (8, 2, 0)
    assert moe.scoring.data == "softmax"
    assert moe.norm_topk_prob
    assert not moe.correction_bias
    assert {w.name for w in moe.weights()} == {
        "router.weight",
        "experts.gate_proj.weight",
        "experts.up_proj.weight",
        "experts.down_proj.weight",
    }


def test_deepseek_v3() -> None:
    assert layers(DEEPSEEK) == {"blocks.dense": 1, "blocks.moe": 3}
    found = blocks(DEEPSEEK)
    mla, moe = found["blocks.moe.mla"], found["blocks.moe.moe"]
    assert isinstance(mla, model.MlaOp)
    assert isinstance(moe, model.MoeOp)
    assert mla.head_dims == (16, 8, 16)
    assert mla.rope_interleave
    assert moe.correction_bias
    assert moe.scoring.data == "sigmoid"
    shapes = {w.name: w.dims for w in moe.weights()}
    assert shapes["shared.up_proj.weight"] == (64, 64)  # two shared experts of 32 side by side


def test_deepseek_v3_without_query_latent_or_dense_layers() -> None:
    config = {**DEEPSEEK, "q_lora_rank": None, "first_k_dense_replace": 0}
    assert layers(config) == {"blocks.moe": 4}
    names = [w.name for w in blocks(config)["blocks.moe.mla"].weights()]
    assert "q_proj.weight" in names
    assert "q_a_proj.weight" not in names
    assert layers({**DEEPSEEK, "first_k_dense_replace": 4}) == {"blocks.dense": 4}


def test_rope_scaling_is_normalised() -> None:
    mla = blocks({**DEEPSEEK, "rope_scaling": YARN})["blocks.moe.mla"]
    assert isinstance(mla, model.MlaOp)
    assert mla.rope_scaling is not None
    fields = mla.rope_scaling.data
    assert fields["rope_type"] == StringAttr("yarn")
    # beta_fast and beta_slow are absent above: transformers takes 32 and 1.
    assert str(fields["beta_fast"]) == "3.200000e+01 : f64"
    assert str(fields["beta_slow"]) == "1.000000e+00 : f64"
    assert str(fields["factor"]) == "4.000000e+01 : f64"
    for none in (None, {"rope_type": "default"}):
        gqa = blocks({**LLAMA, "rope_scaling": none})["blocks.dense.gqa"]
        assert isinstance(gqa, model.GqaOp)
        assert gqa.rope_scaling is None


def test_location_is_the_name_of_the_file_not_its_folder() -> None:
    module = import_hf(LLAMA, "/some/folder/config.json", "tiny")
    places = {op.location for op in module.walk() if op.name.startswith("model.")}
    assert len(places) == 1
    (place,) = places
    assert isinstance(place, FileLineColLoc)
    assert place.filename.data == "config.json"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LLAMA, {"hidden_size": ...}, "hidden_size: missing, expected an integer of at least 1"),
        (LLAMA, {"hidden_size": "64"}, "hidden_size: expected an integer of at least 1, found '64'"),
        (LLAMA, {"hidden_size": True}, "hidden_size: expected an integer of at least 1, found True"),
        (LLAMA, {"num_hidden_layers": 0}, "num_hidden_layers: expected an integer of at least 1, found 0"),
        (LLAMA, {"rms_norm_eps": ...}, "rms_norm_eps: missing, expected a positive number"),
        (LLAMA, {"rms_norm_eps": "1e-5"}, "rms_norm_eps: expected a positive number, found '1e-5'"),
        (LLAMA, {"rms_norm_eps": -1.0}, "rms_norm_eps: expected a positive number, found -1.0"),
        (LLAMA, {"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, found 'no'"),
        (
            LLAMA,
            {"torch_dtype": "int8"},
            "torch_dtype: expected one of bfloat16, float16, float32, found 'int8'",
        ),
        (
            LLAMA,
            {"hidden_act": "xielu"},
            "hidden_act: expected one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, found 'xielu'",
        ),
        (DEEPSEEK, {"attention_bias": True}, "attention_bias: True is not supported, only False is"),
        (LLAMA, {"mlp_bias": 1}, "mlp_bias: expected true or false, found 1"),
        (
            LLAMA,
            {"num_attention_heads": 5},
            "num_attention_heads: 5 does not divide hidden_size 64, and no head_dim is given",
        ),
        (
            LLAMA,
            {"num_key_value_heads": 3},
            "model.gqa at 'blocks.dense.gqa': num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        ),
        (QWEN3, {"head_dim": ...}, "head_dim: missing, expected an integer of at least 1"),
        (QWEN3, {"use_sliding_window": True}, "use_sliding_window: True is not supported, only False is"),
        (LLAMA, {"sliding_window": 4096}, "sliding_window: 4096 is not supported, only None is"),
        (MIXTRAL, {"sliding_window": 0}, "sliding_window: expected an integer of at least 1, found 0"),
        (MIXTRAL, {"rope_theta": ...}, "rope_theta: missing, expected a positive number"),
        (DEEPSEEK, {"q_lora_rank": ...}, "q_lora_rank: missing, expected an integer of at least 1"),
        (
            DEEPSEEK,
            {"first_k_dense_replace": 5},
            "first_k_dense_replace: 5 is more than num_hidden_layers 4",
        ),
        (DEEPSEEK, {"scoring_func": "softmax"}, "scoring_func: 'softmax' is not supported, only 'sigmoid' is"),
        (DEEPSEEK, {"moe_layer_freq": 2}, "moe_layer_freq: 2 is not supported, only 1 is"),
        (
            DEEPSEEK,
            {"n_group": 3},
            "model.moe at 'blocks.moe.moe': n_routed_experts 8 is not a multiple of n_group 3",
        ),
        (LLAMA, {"rope_scaling": 2}, "rope_scaling: expected a block of fields or null, found 2"),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_scaling.rope_type: expected one of llama3, yarn, linear, proportional, longrope, default, "
            "found 'dynamic'",
        ),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling.low_freq_factor: missing, expected a positive number",
        ),
        (
            DEEPSEEK,
            {"rope_scaling": {**YARN, "beta_fats": 32}},
            "rope_scaling.beta_fats: unknown field of 'yarn'; did you mean 'beta_fast'?",
        ),
        (
            LLAMA,
            {"architectures": ["GptNeoXForCausalLM"]},
            "architectures: 'GptNeoXForCausalLM' is not one of those that `pmc list architectures` shows; "
            "did you mean 'GptOssForCausalLM'?",
        ),
        (
            LLAMA,
            {"architectures": ...},
            "architectures: expected a list of one of those that `pmc list architectures` shows, found None",
        ),
    ],
)
def test_bad_fields_are_one_line_with_file_and_field(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    changed = {k: v for k, v in {**config, **changes}.items() if v is not ...}
    with pytest.raises(ConfigError) as error:
        import_hf(changed, "tiny.json", "tiny")
    assert str(error.value) == f"tiny.json: {message}"


def test_a_field_is_read_under_either_name_of_an_attribute_map() -> None:
    gpt2 = CONFIGS["gpt2"]
    plain = import_hf(gpt2, "config.json", "tiny")
    assert str(import_hf({**gpt2, "hidden_size": gpt2["n_embd"]}, "config.json", "tiny")) == str(plain)
    newer = {"hidden_size" if name == "n_embd" else name: value for name, value in gpt2.items()}
    assert str(import_hf(newer, "config.json", "tiny")) == str(plain)
    for changes, message in (
        ({"hidden_size": 7}, "config.json: n_embd: 32 is not what hidden_size says, 7; leave one out"),
        # No name of n_inner for the code of GPT-2.
        ({"intermediate_size": 7}, "config.json: intermediate_size: not a field that pmc reads of GPT2LMHeadModel"),
    ):
        with pytest.raises(ConfigError) as error:
            import_hf({**gpt2, **changes}, "config.json", "tiny")
        assert str(error.value).startswith(message)


PHI4_MINI: dict[str, Any] = {
    **{name: value for name, value in LLAMA.items() if name != "rope_scaling"},
    "architectures": ["Phi3ForCausalLM"],
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "partial_rotary_factor": 0.75,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "rope_scaling": {"type": "longrope", "short_factor": [1, 1.5, 2], "long_factor": [1.0, 4.0, 32.0]},
}


def scaling_of(config: Mapping[str, object]) -> dict[str, Any]:
    gqa = next(op for op in import_hf(config, "phi", "phi").walk() if isinstance(op, model.GqaOp))
    assert gqa.rope_scaling is not None
    return dict(scaling_fields(gqa.rope_scaling))


def test_longrope_keeps_the_factors_of_both_lengths() -> None:
    # sqrt(1 + ln(131072 / 4096) / ln(4096)), with 32 = 2^5 and 4096 = 2^12.
    expected = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 4096,
        "attention_factor": pytest.approx((1 + 5 / 12) ** 0.5),
        "short_factor": [1.0, 1.5, 2.0],
        "long_factor": [1.0, 4.0, 32.0],
    }
    assert scaling_of(PHI4_MINI) == expected
    block = PHI4_MINI["rope_scaling"]
    assert scaling_of({**PHI4_MINI, "rope_scaling": {**block, "type": "su"}}) == expected
    assert scaling_of({**PHI4_MINI, "rope_scaling": {**block, "attention_factor": 1.25}})["attention_factor"] == 1.25
    stretched = scaling_of({**PHI4_MINI, "rope_scaling": {**block, "factor": 64.0}})
    assert stretched["attention_factor"] == pytest.approx((1 + 6 / 12) ** 0.5)
    assert scaling_of({**PHI4_MINI, "max_position_embeddings": 4096})["attention_factor"] == 1.0


@pytest.mark.parametrize(
    ("kv_len", "stride", "expected"), [(4, 1, "short"), (5, 1, "long"), (2, 2, "short"), (3, 2, "long")]
)
def test_a_command_rotates_by_the_factors_of_the_length_of_the_whole_sequence(
    kv_len: int, stride: int, expected: str
) -> None:
    """`original_max_position_embeddings` are 4; with a stride a rank of cp has every second token."""
    lists = {f"{name}_factor": ArrayAttr([FloatAttr(n, 64)]) for name, n in (("short", 1.5), ("long", 3.0))}
    own = {"original_max_position_embeddings": IntegerAttr(4, 64), "attention_factor": FloatAttr(1.25, 64)}
    scaling = DictionaryAttr({"rope_type": StringAttr("longrope"), **own, **lists})
    type_ = TensorType.of((2, 2), f32)
    given: dict[str, Any] = {
        "head_dim": 2,
        "theta": 10.0,
        "interleaved": False,
        "q_len": expr(2),
        "kv_len": expr(kv_len),
    }
    properties = {**given, "stride": stride, "scaling": scaling}
    op = layer.RopeOp.make([create_ssa_value(type_)], [type_], "rope", properties)
    kind = op.vector_kind(expr(0))
    assert isinstance(kind, RopeAttr) and isinstance(kind.scaling, DictionaryAttr)
    assert scaling_fields(kind.scaling) == {
        "rope_type": "longrope",
        "attention_factor": 1.25,
        "factor_of_pair": [{"short": 1.5, "long": 3.0}[expected]],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"long_factor": [1.0]},
            "'long_factor' of rope_scaling has 1 numbers, must have 3, one for every pair of the 6",
        ),
        ({"short_factor": 2.0}, "rope_scaling.short_factor: expected a list of positive numbers, found 2.0"),
        (
            {"short_factor": [1, 0, 1]},
            "rope_scaling.short_factor: expected a list of positive numbers, found [1, 0, 1]",
        ),
        ({"short_mscale": 1.0}, "rope_scaling.short_mscale: unknown field of 'longrope'"),
        (
            {"original_max_position_embeddings": 2048},
            "original_max_position_embeddings: says something else in rope_scaling",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_hf({**PHI4_MINI, "rope_scaling": {**PHI4_MINI["rope_scaling"], **changes}}, "mine.json", "mine")
    assert message in str(error.value)
