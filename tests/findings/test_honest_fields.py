"""Nothing in a config.json is ignored silently (N22, item 5 of issue 9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pmc.compiler.config import ConfigError, load_model_config
from pmc.compiler.driver import load_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_model
from pmc.dialects import model
from pmc.dialects.checkpoint import Checkpoint, checkpoint_of
from pmc.dialects.deployment import Deployment

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def preset(name: str = "llama-3.1-8b", **changes: Any) -> dict[str, Any]:
    """A shipped config with fields replaced; `...` leaves one out."""
    config = {**load_model_config(name)[0], **changes}
    return {key: value for key, value in config.items() if value is not ...}


def rope_of(config: dict[str, Any]) -> tuple[float, str]:
    """Base and scaling of the attention of the first layer."""
    module = import_hf(config, "config.json", "tiny")
    block = next(block for block, _ in model.model_blocks(module) if isinstance(block, model.GqaOp | model.MlaOp))
    assert block.rope_theta is not None
    return block.rope_theta.value.data, str(block.rope_scaling)


def checkpoint(config: dict[str, Any]) -> Checkpoint:
    found = checkpoint_of(import_hf(config, "config.json", "tiny"))
    assert found is not None
    return found


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        import_hf(config, "config.json", "tiny")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("config.json: ")


def test_n22_rope_parameters_of_transformers_5_are_read() -> None:
    old = preset()
    new = preset(
        rope_theta=..., rope_scaling=..., rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}
    )
    assert rope_of(new) == rope_of(old)
    assert rope_of(new)[0] == 500000.0 and "llama3" in rope_of(new)[1]
    plain = preset(rope_theta=..., rope_scaling=..., rope_parameters={"rope_type": "default", "rope_theta": 20000})
    assert rope_of(plain) == (20000.0, "None")


def test_n22_both_forms_of_rope_may_be_given_where_they_agree() -> None:
    block = {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}
    assert rope_of(preset(rope_parameters=block)) == rope_of(preset())
    for changed in ({"rope_theta": 10000.0}, {"factor": 4.0}):
        assert refused(preset(rope_parameters={**block, **changed})).startswith("rope_parameters: says something else")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
            "rope_parameters.full_attention: a rotary embedding per type of layer is not supported",
        ),
        (
            {"rope_type": "dynamic", "factor": 2.0},
            "rope_parameters.rope_type: expected one of llama3, yarn, linear, proportional, longrope, default",
        ),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor: 0.5 is not"),
        ({"rope_type": "default", "mrope_section": [1]}, "rope_parameters.mrope_section: unknown field of 'default'"),
    ],
)
def test_n22_rope_parameters_that_no_computation_covers_are_refused(block: dict[str, Any], message: str) -> None:
    assert refused(preset(rope_theta=..., rope_scaling=..., rope_parameters=block)).startswith(message)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama-3.1-8b", {"sliding_window": 4096}, "sliding_window: 4096 is not supported, only None is"),
        (
            "llama-3.1-8b",
            {"layer_types": ["full_attention"] * 31 + ["sliding_attention"]},
            "layer_types: layers of type 'sliding_attention' are not supported, only 'full_attention' is",
        ),
        ("llama-3.1-8b", {"layer_types": ["full_attention"]}, "layer_types: expected a list with a type for each of"),
        ("llama-3.1-8b", {"text_config": {"hidden_size": 1}}, "text_config: not a field that pmc reads of Llama"),
        (
            "llama-3.1-8b",
            {"architectures": ["LlavaModel"], "text_config": {"architectures": ["LlamaForCausalLM"]}},
            "text_config: the language model inside of 'LlavaModel' is not read",
        ),
        ("llama-3.1-8b", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar: not a field that pmc reads of Llama"),
        ("llama-3.1-8b", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: not a field that pmc reads"),
        ("deepseek-v3", {"num_key_value_heads": 8}, "num_key_value_heads: 8 is not supported, only 128 is"),
        ("deepseek-v3", {"index_topk": 2048}, "index_topk: not a field that pmc reads of DeepseekV3ForCausalLM"),
        ("llama-3.1-8b", {"dtype": "float32"}, "dtype: 'float32' is not the torch_dtype 'bfloat16'"),
        (
            "deepseek-v3",
            {"quantization_config": {"quant_method": "quip"}},
            "quantization_config.quant_method: expected one of fp8, ",
        ),
    ],
)
def test_n22_what_would_change_the_computation_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str
) -> None:
    assert refused(preset(name, **changes)).startswith(message)


def test_n22_what_changes_nothing_is_accepted() -> None:
    plain = str(import_hf(preset(), "config.json", "tiny"))
    changes: dict[str, Any] = {
        "layer_types": ["full_attention"] * 32,
        "sliding_window": None,
        "some_new_feature": None,
        "_name_or_path": "here",
        "top_k": 50,
        "dtype": "bfloat16",
    }
    assert str(import_hf(preset(**changes), "config.json", "tiny")) == plain


@pytest.mark.parametrize(
    ("block", "stored"),
    [
        (None, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "f8E4M3FN/128x128:f32"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "f8E5M2"),
        ({"quant_algo": "FP8"}, "f8E4M3FN"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "f4E2M1FN/16:f8E4M3FN"),
        ({"quant_method": "awq", "bits": 4}, "i4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
            },
            "i8",
        ),
    ],
)
def test_n22_the_type_of_the_checkpoint_is_read_from_quantization_config(
    block: dict[str, Any] | None, stored: str | None
) -> None:
    found = checkpoint(preset(quantization_config=block)).stored
    assert (None if found is None else found.weights) == stored


MODELOPT = {"producer": {"name": "modelopt", "version": "0.23.0"}}


def with_modelopt(folder: Path, quantization: object, **changes: Any) -> Path:
    """A checkpoint as ModelOpt leaves it: `hf_quant_config.json` beside `config.json`."""
    (folder / "config.json").write_text(json.dumps(preset(**changes)))
    content = {**MODELOPT, "quantization": quantization}
    (folder / "hf_quant_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("quantization", "stored"),
    [
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, "f8E4M3FN"),
        ({"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}, "f4E2M1FN/16:f8E4M3FN"),
        ({"quant_algo": None, "kv_cache_quant_algo": "FP8"}, None),
        (
            {
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"mlp": {"quant_algo": "W4A16_NVFP4"}, "self_attn": {"quant_algo": "FP8"}},
            },
            None,
        ),
    ],
)
def test_n22_hf_quant_config_beside_the_config_is_read(
    quantization: dict[str, Any], stored: str | None, tmp_path: Path
) -> None:
    folder = with_modelopt(tmp_path, quantization)
    for path in (folder, folder / "config.json"):
        found = checkpoint_of(load_model(str(path)))
        assert found is not None and (None if found.stored is None else found.stored.weights) == stored


def test_n22_hf_quant_config_is_that_of_config_json_only(tmp_path: Path) -> None:
    other = with_modelopt(tmp_path, {"quant_algo": "FP8"}) / "other.json"
    other.write_text(json.dumps(preset()))
    found = checkpoint_of(load_model(str(other)))
    assert found is not None and found.stored is None


@pytest.mark.parametrize(
    ("quantization", "block", "message"),
    [
        (
            {"quant_algo": "W3A3"},
            None,
            "quantization.quant_algo: expected one of FP8, ",
        ),
        (None, None, "hf_quant_config.json.quantization: missing, expected a block with quant_algo"),
        ([1], None, "hf_quant_config.json.quantization: expected a block of fields or null, found [1]"),
        (
            {"quant_algo": "NVFP4"},
            {"quant_method": "modelopt", "quant_algo": "FP8"},
            "hf_quant_config.json.quantization: says weights of f4E2M1FN/16:f8E4M3FN, quantization_config of "
            "config.json of f8E4M3FN",
        ),
    ],
)
def test_n22_hf_quant_config_that_is_not_understood_is_refused(
    quantization: object, block: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        load_model(str(with_modelopt(tmp_path, quantization, quantization_config=block)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_n22_the_module_holds_context_and_mtp_layers_at_every_level() -> None:
    stored = {
        "weights": "fp8-block",
        "activations": "fp8",
        "kv_cache": None,
        "types": ("mtp.eh_proj.*=none", "*.moe.router.weight=none", "lm_head.proj.weight=none"),
    }
    assert checkpoint(preset("deepseek-v3")) == Checkpoint.model_validate(
        {"longest_context": 163840, "mtp_layers": 1, "encoders": (), "stored": stored}
    )
    assert checkpoint(preset()).longest_context == 131072  # with llama3 scaling it is the scaled length
    assert checkpoint(preset(max_position_embeddings=...)).longest_context is None
    # Qwen's files keep 40960 where yarn makes 4 x 32768 of it; DeepSeek's name the product.
    assert checkpoint(preset(max_position_embeddings=40960, rope_scaling=YARN)).longest_context == 131072


def test_n22_infinity_in_a_field_that_nothing_reads_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(preset(initializer_range=float("inf"), attention_dropout=float("nan"))))
    assert "Infinity" in path.read_text() and "NaN" in path.read_text()
    assert str(load_model(path)).count("model.gqa") == 1
    path.write_text(json.dumps(preset(rms_norm_eps=float("inf"))))
    with pytest.raises(ConfigError, match="rms_norm_eps: expected a positive number, found inf"):
        load_model(path)
    # The architecture comes first: what else is in the file of another model is not looked at.
    path.write_text(json.dumps({"architectures": ["Mamba2ForCausalLM"], "time_step_limit": [0.0, float("inf")]}))
    with pytest.raises(ConfigError, match="'Mamba2ForCausalLM' is not one of those"):
        load_model(path)


def test_n22_small_models_keep_what_newer_files_say_once_more(llama_8b_decode: Deployment) -> None:
    for name, changes in (
        ("llama-3.1-8b", {"layer_types": ["full_attention"] * 32}),
        ("deepseek-v3", {"head_dim": 64, "qk_head_dim": 192}),
    ):
        module = import_hf(preset(name, **changes), "config.json", "tiny")
        assert str(shrink_model(module, llama_8b_decode, 3)) == str(
            shrink_model(import_hf(preset(name), "config.json", "tiny"), llama_8b_decode, 3)
        )


@pytest.fixture
def llama_8b_decode() -> Deployment:
    from pmc.compiler.config import load_deployment

    return load_deployment("llama-8b-decode")
