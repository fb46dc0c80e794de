"""Tiny Hugging Face configs of every family, by name: what tests that run a model of each kind run.

Those in `CONFIGS` are compared with `transformers`, those in `WITHOUT_REFERENCE` it does not have.  The first one of an
architecture stands for it where one config of each is enough.
"""

from __future__ import annotations

from tests.reference.recurrent_configs import RECURRENT

COMMON: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
LLAMA: dict[str, object] = {**COMMON, "architectures": ["LlamaForCausalLM"]}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MINIMAX_M3_INDEXER: dict[str, object] = {
    "use_sparse_attention": True,
    "sparse_num_index_heads": 4,
    "sparse_index_dim": 12,
    "sparse_block_size": 3,
    "sparse_topk_blocks": 3,
    "sparse_local_block": 1,
    "sparse_init_block": 0,
    "sparse_score_type": "max",
    "sparse_attention_freq": [0, 1, 1],
    "sparse_disable_index_value": [0, 1, 1],
}
MINIMAX_M3: dict[str, object] = {
    **COMMON,
    "architectures": ["MiniMaxM3ForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_act": "swigluoai",
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 8,
    "intermediate_size": 20,
    "dense_intermediate_size": 48,
    "shared_intermediate_size": 28,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 2.0,
    "swiglu_limit": 1.5,
    "moe_layer_freq": [0, 1, 1],
    "sparse_attention_config": MINIMAX_M3_INDEXER,
}
PHI3_LONGROPE: dict[str, object] = {
    **COMMON,
    "architectures": ["Phi3ForCausalLM"],
    "partial_rotary_factor": 0.75,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "sliding_window": 262144,
    "original_max_position_embeddings": 8,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.5, 3.0, 7.0]},
}
"""As Phi-4-mini; a prefill of the test is longer than the original length."""
DEEPSEEK: dict[str, object] = {
    **COMMON,
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 20,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
DEEPSEEK_V4: dict[str, object] = {
    **{name: value for name, value in COMMON.items() if name != "intermediate_size"},
    "architectures": ["DeepseekV4ForCausalLM"],
    "num_key_value_heads": 1,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "compress_rope_theta": 160000.0,
    "head_dim": 16,
    "qk_rope_head_dim": 4,
    "q_lora_rank": 24,
    "sliding_window": 5,
    "o_groups": 2,
    "o_lora_rank": 6,
    # Many heads: scores of few are often all cut off at 0, and which of equal scores is best is left open.
    "index_n_heads": 24,
    "index_head_dim": 12,
    "index_topk": 3,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "num_hash_layers": 1,
    "swiglu_limit": 0.5,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 3,
    "hc_eps": 1e-6,
}
DEEPSEEK_YARN = {**YARN_SCALING, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0}
DEEPSEEK_V2: dict[str, object] = {
    **DEEPSEEK,
    "architectures": ["DeepseekV2ForCausalLM"],
    "topk_method": "group_limited_greedy",
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "routed_scaling_factor": 4.0,
    # A copy: transformers writes into it.
    "rope_scaling": dict(DEEPSEEK_YARN),
}
QWEN3: dict[str, object] = {**COMMON, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
MIXTRAL: dict[str, object] = {
    **COMMON,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
}

GEMMA: dict[str, object] = {
    **COMMON,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 20,
    "sliding_window": 5,
    "tie_word_embeddings": True,
}
QWEN3_MOE: dict[str, object] = {
    **QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "norm_topk_prob": False,
}
GLM4_MOE: dict[str, object] = {
    **COMMON,
    "architectures": ["Glm4MoeForCausalLM"],
    "head_dim": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
DEEPSEEK_V32: dict[str, object] = {
    **DEEPSEEK,
    "architectures": ["DeepseekV32ForCausalLM"],
    # So many that hardly any key has the score 0 of all heads: of equal ones either side may take another.
    "index_n_heads": 12,
    "index_head_dim": 12,
    "index_topk": 5,
}

LLAMA4_SCALING = {**LLAMA3_SCALING, "high_freq_factor": 1.0}
LLAMA4: dict[str, object] = {
    **COMMON,
    "architectures": ["Llama4ForCausalLM"],
    "head_dim": 16,
    "num_hidden_layers": 4,
    "no_rope_layer_interval": 3,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 4,
    "intermediate_size_mlp": 40,
    "num_local_experts": 6,
    "num_experts_per_tok": 1,
    # So that most of the few positions are warmed.
    "floor_scale": 3,
    "attn_scale": 0.5,
}

GEMMA4: dict[str, object] = {
    **COMMON,
    "architectures": ["Gemma4ForCausalLM"],
    "head_dim": 8,
    "global_head_dim": 16,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
    "sliding_window": 5,
    "rope_theta": None,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 2.0,
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, dict[str, object]] = {
    "llama": LLAMA,
    "llama-mha": {**LLAMA, "num_key_value_heads": 4},
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "llama-llama3": {**LLAMA, "rope_scaling": LLAMA3_SCALING},
    "deepseek": DEEPSEEK,
    "deepseek-v2": DEEPSEEK_V2,
    "deepseek-v2-lite": {
        **DEEPSEEK_V2,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "rope_scaling": None,
    },
    "deepseek-yarn": {**DEEPSEEK, "rope_scaling": DEEPSEEK_YARN},
    "deepseek-half-rope": {**DEEPSEEK, "rope_interleave": False},
    "deepseek-direct-q": {**DEEPSEEK, "q_lora_rank": None},
    "deepseek-unnormalised": {**DEEPSEEK, "norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "qwen3": QWEN3,
    "qwen3-yarn": {**QWEN3, "rope_scaling": YARN_SCALING},
    "mixtral": MIXTRAL,
    "mistral": {**COMMON, "architectures": ["MistralForCausalLM"], "sliding_window": None},
    "mistral-window": {**COMMON, "architectures": ["MistralForCausalLM"], "sliding_window": 4},
    "mixtral-window": {**MIXTRAL, "sliding_window": 6},
    "qwen2": {**COMMON, "architectures": ["Qwen2ForCausalLM"]},
    "llama-biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "qwen3-moe": QWEN3_MOE,
    "qwen3-moe-mixed": {**QWEN3_MOE, "decoder_sparse_step": 2, "norm_topk_prob": True, "num_hidden_layers": 5},
    "seed-oss": {**COMMON, "architectures": ["SeedOssForCausalLM"], "head_dim": 16},
    "olmo2": {**COMMON, "architectures": ["Olmo2ForCausalLM"]},
    "phi3": {**COMMON, "architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.5, "pad_token_id": 0},
    "phi3-longrope": PHI3_LONGROPE,
    "phi3-longrope-short": {**PHI3_LONGROPE, "original_max_position_embeddings": 32},
    "glm4-moe": GLM4_MOE,
    "glm4-moe-qk-norm": {**GLM4_MOE, "use_qk_norm": True, "attention_bias": True},
    "minimax-m2": {
        **COMMON,
        "architectures": ["MiniMaxM2ForCausalLM"],
        "head_dim": 16,
        "rotary_dim": 8,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    },
    "minimax-m3": MINIMAX_M3,
    "minimax-m3-two-local-blocks": {
        **MINIMAX_M3,
        "num_key_value_heads": 1,
        "sparse_attention_config": {**MINIMAX_M3_INDEXER, "sparse_num_index_heads": 1, "sparse_local_block": 2},
    },
    "gpt-oss": {
        **COMMON,
        "architectures": ["GptOssForCausalLM"],
        "head_dim": 16,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 5,
        "attention_bias": True,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "rope_scaling": {**YARN_SCALING, "truncate": False},
    },
    "granite": {
        **COMMON,
        "architectures": ["GraniteForCausalLM"],
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 0.25,
    },
    "gemma2": {
        **GEMMA,
        "architectures": ["Gemma2ForCausalLM"],
        "num_hidden_layers": 4,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3": {
        **GEMMA,
        "architectures": ["Gemma3ForCausalLM"],
        "num_hidden_layers": 7,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": 61,
        "torch_dtype": "float32",
    },
    "bloom": {
        "architectures": ["BloomForCausalLM"],
        "n_embed": 48,
        "n_layer": 3,
        "num_attention_heads": 6,
        "vocab_size": 61,
        "layer_norm_epsilon": 1e-5,
        "torch_dtype": "float32",
        "offset_alibi": 100,
        "seq_length": 64,
    },
    "opt": {
        "architectures": ["OPTForCausalLM"],
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "vocab_size": 61,
        "max_position_embeddings": 64,
        "torch_dtype": "float32",
    },
    "llama4": LLAMA4,
    "llama4-plain": {**LLAMA4, "use_qk_norm": False, "attn_temperature_tuning": False, "rope_scaling": LLAMA4_SCALING},
    "mimo-v2": {
        **COMMON,
        "architectures": ["MiMoV2FlashForCausalLM"],
        "head_dim": 12,
        "v_head_dim": 8,
        "partial_rotary_factor": 0.334,
        "num_hidden_layers": 4,
        "rope_theta": 5e6,
        "swa_rope_theta": 1e4,
        "hybrid_layer_pattern": [0, 1, 1, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "sliding_window_size": 4,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "norm_topk_prob": True,
        "routed_scaling_factor": None,
        "attention_value_scale": 0.5,
    },
    "gemma4-moe": {
        **GEMMA4,
        "enable_moe_block": True,
        "num_experts": 6,
        "top_k_experts": 3,
        "moe_intermediate_size": 20,
    },
    "gemma4": GEMMA4,
    "step3.7": {
        **COMMON,
        "architectures": ["Step3p7FlashForCausalLM"],
        "head_dim": 16,
        "num_hidden_layers": 4,
        "num_sliding_attention_heads": 6,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
        "sliding_window": 4,
        "rope_theta": None,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "share_expert_dim": 24,
        "moe_router_scaling_factor": 1.5,
    },
    "deepseek-v3.2": DEEPSEEK_V32,
    "deepseek-v4": DEEPSEEK_V4,
    # The order of layers of DeepSeek-V4-Pro, as its file has it, with the rates that follow from it.
    "deepseek-v4-ratios": {
        **{name: value for name, value in DEEPSEEK_V4.items() if name not in ("layer_types", "num_hash_layers")},
        "num_hidden_layers": 7,
        "compress_ratios": [128, 128, 4, 128, 4, 128, 4, 0],
    },
    "glm-5.2": {
        **DEEPSEEK_V32,
        "architectures": ["GlmMoeDsaForCausalLM"],
        "num_hidden_layers": 7,
        "indexer_types": ["full", "shared", "shared", "full", "shared", "full", "shared"],
    },
    "glm-5": {**DEEPSEEK_V32, "architectures": ["GlmMoeDsaForCausalLM"], "indexer_types": ["full"] * 3},
    **RECURRENT,
}


def searched(n_heads_in_group: int | None, ffn_mult: float | None) -> dict[str, object]:
    """A layer of a searched model (Nemotron-NAS); without attention, or without a network, where null."""
    return {
        "attention": {"n_heads_in_group": n_heads_in_group, "no_op": n_heads_in_group is None},
        "ffn": {"ffn_mult": ffn_mult, "no_op": ffn_mult is None},
    }


WITHOUT_REFERENCE: dict[str, dict[str, object]] = {
    "nemotron-nas": {
        **COMMON,
        "architectures": ["DeciLMForCausalLM"],
        "num_key_value_heads": None,
        "intermediate_size": None,
        "num_hidden_layers": 4,
        "block_configs": [searched(2, 2.0), searched(None, 1.0), searched(2, None), searched(2, 2.0)],
    },
    "mimo": {**COMMON, "architectures": ["MiMoForCausalLM"], "attention_bias": True, "num_nextn_predict_layers": 1},
}
