  model.llm() {sym_name = "deepseek-v3", architecture = "DeepseekV3ForCausalLM", hidden_size = 7168, vocab_size = 129280, dtype = bf16} at "deepseek-v3" {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    %1 = model.embedding(%0) {vocab_size = 129280} at "embed" : !layer.tensor<[batch*q_len, 7168], bf16>
    %2 = model.repeat([%1]) {count = 3} at "blocks.dense" : !layer.tensor<[batch*q_len, 7168], bf16> {
    ^bb0(%3: !layer.tensor<[batch*q_len, 7168], bf16>):
      %4 = model.norm(%3) {kind = "rms", eps = 1.0e-06} at "blocks.dense.mla.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %5 = model.mla(%4) {q_lora_rank = 1536, kv_lora_rank = 512, qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128, rope_interleave = true, num_attention_heads = 128, rope_theta = 10000.0, rope_scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.mla" : !layer.tensor<[batch*q_len, 7168], bf16>
      %6 = model.add(%3, %5) at "blocks.dense.mla.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      %7 = model.norm(%6) {kind = "rms", eps = 1.0e-06} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %8 = model.ffn(%7) {intermediate_size = 18432, activation = "silu", gated = true} at "blocks.dense.ffn" : !layer.tensor<[batch*q_len, 7168], bf16>
      %9 = model.add(%6, %8) at "blocks.dense.ffn.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      model.yield([%9]) at "blocks.dense"
    }
    %10 = model.repeat([%2]) {count = 58} at "blocks.moe" : !layer.tensor<[batch*q_len, 7168], bf16> {
    ^bb0(%11: !layer.tensor<[batch*q_len, 7168], bf16>):
      %12 = model.norm(%11) {kind = "rms", eps = 1.0e-06} at "blocks.moe.mla.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %13 = model.mla(%12) {q_lora_rank = 1536, kv_lora_rank = 512, qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128, rope_interleave = true, num_attention_heads = 128, rope_theta = 10000.0, rope_scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.mla" : !layer.tensor<[batch*q_len, 7168], bf16>
      %14 = model.add(%11, %13) at "blocks.moe.mla.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      %15 = model.norm(%14) {kind = "rms", eps = 1.0e-06} at "blocks.moe.moe.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %16 = model.moe(%15) {n_routed_experts = 256, shared_intermediate_size = 2048, num_experts_per_tok = 8, moe_intermediate_size = 2048, scoring = "sigmoid", n_group = 8, topk_group = 4, norm_topk_prob = true, routed_scaling_factor = 2.5, correction_bias = true, activation = "silu", gated = true} at "blocks.moe.moe" : !layer.tensor<[batch*q_len, 7168], bf16>
      %17 = model.add(%14, %16) at "blocks.moe.moe.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      model.yield([%17]) at "blocks.moe"
    }
    %18 = model.norm(%10) {kind = "rms", eps = 1.0e-06} at "lm_head.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %19 = model.lm_head(%18) at "lm_head" : !layer.tensor<[batch*q_len, 129280], bf16>
    model.yield([%19]) at "deepseek-v3"
  }
  model.draft() at "mtp" {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>, %1: !layer.tensor<[batch*q_len, 7168], bf16>):
    %2 = model.embedding(%0) {vocab_size = 129280, shared = "embed.weight"} at "mtp.embed" : !layer.tensor<[batch*q_len, 7168], bf16>
    %3 = model.norm(%2) {kind = "rms", eps = 1.0e-06} at "mtp.enorm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %4 = model.norm(%1) {kind = "rms", eps = 1.0e-06} at "mtp.hnorm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %5 = model.eh_proj(%3, %4) at "mtp.eh_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
    %6 = model.norm(%5) {kind = "rms", eps = 1.0e-06} at "mtp.mla.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %7 = model.mla(%6) {q_lora_rank = 1536, kv_lora_rank = 512, qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128, rope_interleave = true, num_attention_heads = 128, rope_theta = 10000.0, rope_scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "mtp.mla" : !layer.tensor<[batch*q_len, 7168], bf16>
    %8 = model.add(%5, %7) at "mtp.mla.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
    %9 = model.norm(%8) {kind = "rms", eps = 1.0e-06} at "mtp.moe.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %10 = model.moe(%9) {n_routed_experts = 256, shared_intermediate_size = 2048, num_experts_per_tok = 8, moe_intermediate_size = 2048, scoring = "sigmoid", n_group = 8, topk_group = 4, norm_topk_prob = true, routed_scaling_factor = 2.5, correction_bias = true, activation = "silu", gated = true} at "mtp.moe" : !layer.tensor<[batch*q_len, 7168], bf16>
    %11 = model.add(%8, %10) at "mtp.moe.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
    %12 = model.norm(%11) {kind = "rms", eps = 1.0e-06} at "mtp.head.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %13 = model.lm_head(%12) {shared = "lm_head.proj.weight"} at "mtp.head" : !layer.tensor<[batch*q_len, 129280], bf16>
    model.yield([%13, %12]) at "mtp"
  }
}
