"""Tiny configs of the families with recurrences, by name."""

from __future__ import annotations

QWEN3_5: dict[str, object] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 6,
    "full_attention_interval": 3,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
QWEN3_5_MOE: dict[str, object] = {
    **{name: value for name, value in QWEN3_5.items() if name != "intermediate_size"},
    "architectures": ["Qwen3_5MoeForCausalLM"],
    # Fewer layers: with experts the rounding of FP32 grows faster from layer to layer.
    "num_hidden_layers": 3,
    "full_attention_interval": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
}
QWEN3_NEXT: dict[str, object] = {
    **QWEN3_5_MOE,
    "architectures": ["Qwen3NextForCausalLM"],
    "intermediate_size": 48,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
}
NEMOTRON_H: dict[str, object] = {
    "architectures": ["NemotronHForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hybrid_override_pattern": "M-M*-M-",
    "mamba_num_heads": 8,
    "mamba_head_dim": 6,
    "n_groups": 2,
    "ssm_state_size": 5,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "mlp_hidden_act": "relu2",
    "layer_norm_epsilon": 1e-5,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
NEMOTRON_H_MOE: dict[str, object] = {
    **NEMOTRON_H,
    "hybrid_override_pattern": "MEM*EMEM*E",
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "moe_shared_expert_intermediate_size": 28,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
KIMI_LINEAR: dict[str, object] = {
    "architectures": ["KimiLinearForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "q_lora_rank": None,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 3,
    "v_head_dim": 6,
    "mla_use_nope": True,
    "rope_theta": 10000.0,
    "num_hidden_layers": 4,
    "linear_attn_config": {
        "kda_layers": [1, 2, 4],
        "full_attn_layers": [3],
        "head_dim": 6,
        "num_heads": 2,
        "short_conv_kernel_size": 4,
    },
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_experts": 6,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 20,
    "moe_router_activation_func": "sigmoid",
    "moe_renormalize": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "use_grouped_topk": True,
    "routed_scaling_factor": 2.446,
    "num_nextn_predict_layers": 0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "model_max_length": 64,
    # That of the configuration class is a token of the published vocabulary.
    "pad_token_id": None,
}
"""With the names of the published files."""

KIMI_NAMES = {
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "model_max_length": "max_position_embeddings",
}
"""What transformers calls these fields."""

RECURRENT: dict[str, dict[str, object]] = {
    "qwen3.5": QWEN3_5,
    "qwen3.5-listed": {
        **{name: value for name, value in QWEN3_5.items() if name != "full_attention_interval"},
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"],
        "linear_num_value_heads": 2,
    },
    "qwen3.5-moe": QWEN3_5_MOE,
    "qwen3-next": QWEN3_NEXT,
    "qwen3-next-mixed": {**QWEN3_NEXT, "norm_topk_prob": False, "mlp_only_layers": [0]},
    "nemotron-h": NEMOTRON_H,
    "nemotron-h-one-group": {**NEMOTRON_H, "n_groups": 1, "use_conv_bias": False},
    "nemotron-h-moe": NEMOTRON_H_MOE,
    "nemotron-h-latent": {**NEMOTRON_H_MOE, "moe_latent_size": 12, "norm_topk_prob": False},
    "kimi-linear": KIMI_LINEAR,
    # Otherwise in every point: the names of transformers, lists of types, a query latent, groups of experts.
    "kimi-linear-listed": {
        **{
            KIMI_NAMES.get(name, name): value
            for name, value in KIMI_LINEAR.items()
            if name not in ("linear_attn_config", "first_k_dense_replace", "mla_use_nope", "use_grouped_topk")
        },
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "linear_attention", "linear_attention"],
        "mlp_layer_types": ["sparse", "dense", "sparse"],
        "linear_head_dim": 5,
        "linear_num_heads": 4,
        "linear_conv_kernel_dim": 3,
        "q_lora_rank": 12,
        "norm_topk_prob": False,
        "n_group": 2,
        "n_shared_experts": 2,
    },
}
