  model.llm() {sym_name = "llama-3.1-70b", architecture = "LlamaForCausalLM", hidden_size = 8192, vocab_size = 128256, dtype = bf16} at "llama-3.1-70b" {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    %1 = model.embedding(%0) {vocab_size = 128256} at "embed" : !layer.tensor<[batch*q_len, 8192], bf16>
    %2 = model.repeat([%1]) {count = 80} at "blocks.dense" : !layer.tensor<[batch*q_len, 8192], bf16> {
    ^bb0(%3: !layer.tensor<[batch*q_len, 8192], bf16>):
      %4 = model.norm(%3) {kind = "rms", eps = 1.0e-05} at "blocks.dense.gqa.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
      %5 = model.gqa(%4) {num_key_value_heads = 8, head_dim = 128, num_attention_heads = 64, rope_theta = 500000.0, rope_scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa" : !layer.tensor<[batch*q_len, 8192], bf16>
      %6 = model.add(%3, %5) at "blocks.dense.gqa.residual" : !layer.tensor<[batch*q_len, 8192], bf16>
      %7 = model.norm(%6) {kind = "rms", eps = 1.0e-05} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
      %8 = model.ffn(%7) {intermediate_size = 28672, activation = "silu", gated = true} at "blocks.dense.ffn" : !layer.tensor<[batch*q_len, 8192], bf16>
      %9 = model.add(%6, %8) at "blocks.dense.ffn.residual" : !layer.tensor<[batch*q_len, 8192], bf16>
      model.yield([%9]) at "blocks.dense"
    }
    %10 = model.norm(%2) {kind = "rms", eps = 1.0e-05} at "lm_head.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
    %11 = model.lm_head(%10) at "lm_head" : !layer.tensor<[batch*q_len, 128256], bf16>
    model.yield([%11]) at "llama-3.1-70b"
  }
}
