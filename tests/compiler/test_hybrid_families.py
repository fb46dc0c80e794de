"""Configs of models with recurrences: their layers, their sizes, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pmc.compiler.config import ConfigError
from pmc.compiler.frontend import import_hf
from pmc.dialects import model
from tests.reference.recurrent_configs import KIMI_LINEAR, NEMOTRON_H, NEMOTRON_H_MOE, QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT

QWEN3_5_27B: dict[str, Any] = {
    **QWEN3_5,
    "hidden_size": 5120, "intermediate_size": 17408, "vocab_size": 248320, "num_hidden_layers": 64, "head_dim": 256,
    "num_attention_heads": 24, "num_key_value_heads": 4, "full_attention_interval": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
}  # fmt: skip
NANO_30B: dict[str, Any] = {
    **NEMOTRON_H_MOE,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_hidden_layers": 52,
    "hidden_size": 2688, "vocab_size": 131072, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128,
    "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "n_routed_experts": 128,
    "num_experts_per_tok": 6, "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
}  # fmt: skip


def read(config: dict[str, Any]) -> Any:
    module = import_hf(config, "config.json", "tiny")
    module.verify()
    return module


def blocks(config: dict[str, Any]) -> dict[str, Any]:
    return {block.path.data: block for block, _ in model.model_blocks(read(config))}


def layers(config: dict[str, Any]) -> list[str]:
    """The blocks of all layers in order, without norms and sums."""

    def inside(body: Any, around: int) -> list[str]:
        found: list[str] = []
        for op in body.ops:
            if isinstance(op, model.RepeatOp):
                for index in op.iterations(around):
                    found += inside(op.body.block, index)
            elif isinstance(op, model.BlockOp) and not isinstance(op, model.NormOp | model.AddOp):
                found.append(op.name.removeprefix("model."))
        return found

    (llm,) = read(config).ops
    return inside(llm.body.block, 0)[1:-1]


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        read(config)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("config.json: ")


def test_parameters_are_as_many_as_the_published_ones() -> None:
    assert model.parameter_count(read(QWEN3_5_27B)) == 26_895_998_464
    nano = read(NANO_30B)
    assert model.parameter_count(nano) == pytest.approx(31.58e9, rel=1e-3)
    assert model.active_parameter_count(nano) == pytest.approx(3.23e9, rel=2e-3)


def test_attention_stands_where_the_list_says_or_else_at_the_end_of_every_interval() -> None:
    linear, full = ["gated_delta_net", "ffn"], ["gqa", "ffn"]
    assert layers(QWEN3_5) == (linear * 2 + full) * 2
    without = {name: value for name, value in QWEN3_5.items() if name != "full_attention_interval"}
    assert layers({**without, "num_hidden_layers": 5}) == linear * 3 + full + linear
    types = ["full_attention", "linear_attention", "linear_attention"]
    assert layers({**QWEN3_5, "num_hidden_layers": 3, "layer_types": types}) == full + linear * 2
    assert "layers of type 'mamba' are not supported" in refused({**QWEN3_5, "layer_types": ["mamba"] * 6})


def test_qwen3_next_has_dense_networks_where_it_says_so() -> None:
    config = {**QWEN3_NEXT, "num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2}
    assert layers(config) == ["gated_delta_net", "ffn", "gqa", "ffn", "gated_delta_net", "ffn", "gqa", "moe"]


def test_attention_of_qwen3_5_is_gated_and_rotated_in_part() -> None:
    gqa = blocks(QWEN3_5)["blocks.full.gqa"]
    assert gqa.output_gate and gqa.qk_norm_zero_centered and gqa.rotary_dim.value.data == 4
    assert {w.name: w.dims for w in gqa.weights()}["gate_proj.weight"] == (32, 64)
    assert blocks(QWEN3_5)["lm_head.norm"].zero_centered
    refused_gate = refused({**QWEN3_5, "attn_output_gate": False})
    assert refused_gate == "attn_output_gate: False is not supported, only True is"


def test_a_shared_expert_behind_a_gate() -> None:
    moe = blocks(QWEN3_5_MOE)["blocks.linear.moe"]
    assert moe.shared_gate and moe.norm_topk_prob
    assert {w.name: w.dims for w in moe.weights()}["shared_gate.weight"] == (32, 1)


def test_states_are_as_large_whatever_the_length() -> None:
    states = {s.name: (s.dims, s.role) for s in blocks(QWEN3_5)["blocks.linear.gated_delta_net"].states()}
    assert states == {
        "q_conv_state": ((3, 16), "conv"),
        "k_conv_state": ((3, 16), "conv"),
        "v_conv_state": ((3, 36), "conv"),
        "recurrent_state": ((48, 6), "recurrent"),
    }
    assert blocks(NEMOTRON_H)["blocks.mamba.mamba2"].states()[-1].dims == (48, 5)


def test_layers_of_nemotron_h_are_one_block_each() -> None:
    order = ["mamba2", "ffn", "mamba2", "gqa", "ffn", "mamba2", "ffn"]
    assert layers(NEMOTRON_H) == order
    names = {"mamba2": "mamba", "ffn": "mlp", "gqa": "attention"}
    listed = {**NEMOTRON_H, "hybrid_override_pattern": None, "layers_block_type": [names[kind] for kind in order]}
    assert layers(listed) == order
    newer = {"mamba": "linear_attention", "attention": "full_attention"}
    types = [newer.get(names[kind], names[kind]) for kind in order]
    assert layers({**NEMOTRON_H, "layers_block_type": types}) == order
    gqa = blocks(NEMOTRON_H)["blocks.attention.gqa"]
    assert gqa.rope_theta is None
    mamba = blocks(NEMOTRON_H)["blocks.mamba.mamba2"]
    assert (mamba.time_step_min.value.data, mamba.time_step_max.value.data) == (0.0, math.inf)


def test_experts_of_nemotron_3_are_between_projections() -> None:
    shapes = {w.name: w.dims for w in blocks({**NEMOTRON_H_MOE, "moe_latent_size": 12})["blocks.moe.moe"].weights()}
    assert shapes == {
        "router.weight": (32, 8),
        "router.bias": (8,),
        "latent_down_proj.weight": (32, 12),
        "experts.up_proj.weight": (8, 12, 20),
        "experts.down_proj.weight": (8, 20, 12),
        "latent_up_proj.weight": (12, 32),
        "shared.up_proj.weight": (32, 28),
        "shared.down_proj.weight": (28, 32),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hybrid_override_pattern": "MXM"}, "hybrid_override_pattern: layers of type 'X' are not supported"),
        ({"hybrid_override_pattern": None}, "hybrid_override_pattern: expected one of M, E, -, * for each layer"),
        ({"num_hidden_layers": 6}, "hybrid_override_pattern: has 7 layers, not num_hidden_layers 6"),
        (
            {"layers_block_type": ["mamba", "mlp"]},
            "hybrid_override_pattern: says something else than layers_block_type",
        ),
        ({"layers_block_type": "mamba"}, "layers_block_type: expected one of mamba, "),
        ({"time_step_limit": [0.0]}, "time_step_limit: expected two numbers, found [0.0]"),
        ({"time_step_limit": [2.0, 1.0]}, "model.mamba2 at 'blocks.mamba.mamba2': time_step_min 2.0 is above"),
        ({"n_groups": 3}, "model.mamba2 at 'blocks.mamba.mamba2': num_heads 8 is not a multiple of n_groups 3"),
        ({"conv_kernel": 1}, "model.mamba2 at 'blocks.mamba.mamba2': conv_kernel is 1, must be at least 2"),
        ({"use_bias": True}, "use_bias: True is not supported"),
        ({"mamba_hidden_act": "gelu"}, "mamba_hidden_act: 'gelu' is not supported"),
    ],
)
def test_what_is_no_nemotron_h_is_refused(changes: dict[str, Any], message: str) -> None:
    assert refused({**NEMOTRON_H, **changes}).startswith(message)


def test_a_shared_gate_needs_shared_experts() -> None:
    found = refused({**QWEN3_5_MOE, "shared_expert_intermediate_size": 0})
    assert found == "shared_expert_intermediate_size: expected an integer of at least 1, found 0"
    found = refused({**QWEN3_5, "linear_num_value_heads": 3})
    assert found.endswith("num_value_heads 3 is not a multiple of num_key_heads 2")


# -- Kimi Linear --------------------------------------------------------------------------------------------------

RECURRENCE: dict[str, Any] = KIMI_LINEAR["linear_attn_config"]  # type: ignore[assignment]


def kimi(**recurrence: object) -> dict[str, Any]:
    """The config with other fields of its recurrence; `...` leaves one out."""
    given = {name: value for name, value in {**RECURRENCE, **recurrence}.items() if value is not ...}
    return {**KIMI_LINEAR, "linear_attn_config": given}


def test_layers_of_kimi_linear_count_from_1() -> None:
    """Layer 3 attends; the first layer has no experts."""
    assert layers(KIMI_LINEAR) == ["kda", "ffn", "kda", "moe", "mla", "moe", "kda", "moe"]
    types = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]
    lists = kimi(kda_layers=..., full_attn_layers=...)
    assert layers({**lists, "layer_types": types}) == layers({**KIMI_LINEAR, "layer_types": types})
    networks = {"first_k_dense_replace": None, "mlp_layer_types": ["sparse", "dense", "dense", "sparse"]}
    assert layers({**KIMI_LINEAR, **networks}) == ["kda", "moe", "kda", "ffn", "mla", "ffn", "kda", "moe"]


def test_attention_of_kimi_linear_rotates_nothing() -> None:
    mla = blocks(KIMI_LINEAR)["blocks.full_moe.mla"]
    assert mla.rope_theta is None and mla.rope_interleave is None and mla.q_lora_rank is None
    assert blocks({**KIMI_LINEAR, "q_lora_rank": 12})["blocks.full_moe.mla"].q_lora_rank.value.data == 12
    assert (
        blocks({k: v for k, v in KIMI_LINEAR.items() if k != "q_lora_rank"})["blocks.full_moe.mla"].q_lora_rank is None
    )


def test_parameters_and_states_of_kimi_delta_attention() -> None:
    """2 heads of 6 columns; the ranks of decay and gate are those of a head."""
    kda = blocks(KIMI_LINEAR)["blocks.linear_dense.kda"]
    found = {w.name: (w.dims, w.axes) for w in kda.weights() if w.name[:2] not in ("q_", "k_", "v_")}
    assert found == {
        "b_proj.weight": ((32, 2), ("", "heads")),
        "f_a_proj.weight": ((32, 6), ("", "")),
        "f_b_proj.weight": ((6, 12), ("", "heads")),
        "A_log": ((2,), ("heads",)),
        "dt_bias": ((12,), ("heads",)),
        "g_a_proj.weight": ((32, 6), ("", "")),
        "g_b_proj.weight": ((6, 12), ("", "heads")),
        "gated_norm.weight": ((6,), ("",)),
        "o_proj.weight": ((12, 32), ("heads", "")),
    }
    assert [s.dims for s in kda.states()] == [(3, 12)] * 3 + [(12, 6)]


def test_a_field_of_kimi_linear_has_two_names() -> None:
    assert refused({**KIMI_LINEAR, "num_local_experts": 8}) == (
        "num_experts: 6 is not what num_local_experts says, 8; leave one out"
    )
    assert layers({**KIMI_LINEAR, "num_local_experts": 6}) == layers(KIMI_LINEAR)
    without = {name: value for name, value in KIMI_LINEAR.items() if name != "moe_renormalize"}
    assert refused(without) == "moe_renormalize: missing, expected true or false"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (kimi(kda_layers=[1, 2]), "linear_attn_config.kda_layers: expected with full_attn_layers every number from 1"),
        (kimi(kda_layers=[0, 1, 3]), "linear_attn_config.kda_layers: expected with full_attn_layers every number from"),
        (kimi(kda_layers=[1, 2, 3, 4]), "linear_attn_config.kda_layers: expected with full_attn_layers every number"),
        (
            kimi(kda_layers=[[1], 2, 4]),
            "linear_attn_config.kda_layers: expected with full_attn_layers every number from",
        ),
        (kimi(kda_layers="all"), "linear_attn_config.kda_layers: expected with full_attn_layers every number from 1"),
        (kimi(kda_layers=..., full_attn_layers=...), "linear_attn_config: missing, expected kda_layers and full"),
        (kimi(gate_rank=4), "linear_attn_config.gate_rank: unknown, must be one of kda_layers, full_attn_layers, "),
        ({**kimi(), "linear_head_dim": 8}, "linear_attn_config.head_dim: 6 is not what linear_head_dim says, 8"),
        ({**kimi(), "layer_types": ["linear_attention"] * 4}, "layer_types: says something else than linear_attn_con"),
        ({**kimi(), "mlp_layer_types": ["sparse"] * 4}, "mlp_layer_types: layer 0 is not what first_k_dense_replace 1"),
        ({**kimi(), "mla_use_nope": False}, "mla_use_nope: False is not supported, only True is"),
        ({**kimi(), "moe_router_activation_func": "softmax"}, "moe_router_activation_func: 'softmax' is not supported"),
        ({**kimi(), "tie_word_embeddings": True}, "tie_word_embeddings: True is not supported"),
        ({**kimi(), "hidden_act": "situ"}, "hidden_act: 'situ' is not supported, only 'silu' is"),
        (
            {**kimi(gate_lower_bound=-5.0, use_full_rank_gate=False), "attn_res_block_size": 12},
            "attn_res_block_size, linear_attn_config.gate_lower_bound: not supported, the model dialect has no such "
            "parts: residuals that attend to the results of earlier blocks of layers; a bound on the decay of KDA",
        ),
        (
            {"architectures": ["KimiK3ForConditionalGeneration"], "text_config": {**kimi(), "attn_res_block_size": 12}},
            "text_config.attn_res_block_size: not supported, the model dialect has no such parts",
        ),
        (
            {"architectures": ["KimiK3ForConditionalGeneration"], "text_config": kimi()},
            "text_config: the language model inside of 'KimiK3ForConditionalGeneration' is not read",
        ),
    ],
)
def test_what_is_no_kimi_linear_is_refused(config: dict[str, Any], message: str) -> None:
    assert refused(config).startswith(message)
