  layer.program() {sym_name = "llama-3.1-8b", phase = "decode"} at "llama-3.1-8b" attributes {dist.arguments = [#dist.sharding<[[]]>]} {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    %1 = layer.weight() {axes = ["vocab", ""]} at "embed.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[128256, 4096], bf16>
    %2 = layer.embedding(%0, %1) at "embed" : !layer.tensor<[batch*q_len, 4096], bf16>
    %3 = layer.repeat 32 from 0 of 32 (%4 = %2) at "blocks.dense" : !layer.tensor<[batch*q_len, 4096], bf16> {
      %5 = layer.weight() {axes = [""]} at "blocks.dense.gqa.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[4096], bf16>
      %6 = layer.rms_norm(%4, %5) {eps = 1.0e-05, group = 4096} at "blocks.dense.gqa.norm" : !layer.tensor<[batch*q_len, 4096], bf16>
      %7 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.gqa.q_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 4096], bf16>
      %8 = layer.matmul(%6, %7) at "blocks.dense.gqa.q_proj" : !layer.tensor<[batch*q_len, 4096], bf16>
      %9 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.k_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 1024], bf16>
      %10 = layer.matmul(%6, %9) at "blocks.dense.gqa.k_proj" : !layer.tensor<[batch*q_len, 1024], bf16>
      %11 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.v_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 1024], bf16>
      %12 = layer.matmul(%6, %11) at "blocks.dense.gqa.v_proj" : !layer.tensor<[batch*q_len, 1024], bf16>
      %13 = layer.rope(%8) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.q_rope" : !layer.tensor<[batch*q_len, 4096], bf16>
      %14 = layer.rope(%10) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.k_rope" : !layer.tensor<[batch*q_len, 1024], bf16>
      %15 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.k_cache" attributes {dist.sharding = #dist.sharding<[[], [], []]>} : !layer.tensor<[batch, kv_len, 1024], bf16>
      %16 = layer.kv_append(%15, %14) at "blocks.dense.gqa.k_append" : !layer.tensor<[batch, kv_len, 1024], bf16>
      %17 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.v_cache" attributes {dist.sharding = #dist.sharding<[[], [], []]>} : !layer.tensor<[batch, kv_len, 1024], bf16>
      %18 = layer.kv_append(%17, %12) at "blocks.dense.gqa.v_append" : !layer.tensor<[batch, kv_len, 1024], bf16>
      %19 = layer.attention([%13], [%16], %18) {qk_dims = [128], v_dim = 128, q_len = <q_len>, scale = 0.08838834764831843, causal = true} at "blocks.dense.gqa.attention" : !layer.tensor<[batch*q_len, 4096], bf16>
      %20 = layer.weight() {axes = ["heads", ""]} at "blocks.dense.gqa.o_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 4096], bf16>
      %21 = layer.matmul(%19, %20) at "blocks.dense.gqa.o_proj" : !layer.tensor<[batch*q_len, 4096], bf16>
      %22 = layer.add(%4, %21) at "blocks.dense.gqa.residual" : !layer.tensor<[batch*q_len, 4096], bf16>
      %23 = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[4096], bf16>
      %24 = layer.rms_norm(%22, %23) {eps = 1.0e-05, group = 4096} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 4096], bf16>
      %25 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 14336], bf16>
      %26 = layer.matmul(%24, %25) at "blocks.dense.ffn.gate_proj" : !layer.tensor<[batch*q_len, 14336], bf16>
      %27 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 14336], bf16>
      %28 = layer.matmul(%24, %27) at "blocks.dense.ffn.up_proj" : !layer.tensor<[batch*q_len, 14336], bf16>
      %29 = layer.silu_mul(%26, %28) at "blocks.dense.ffn.silu_mul" : !layer.tensor<[batch*q_len, 14336], bf16>
      %30 = layer.weight() {axes = ["ffn", ""]} at "blocks.dense.ffn.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[14336, 4096], bf16>
      %31 = layer.matmul(%29, %30) at "blocks.dense.ffn.down_proj" : !layer.tensor<[batch*q_len, 4096], bf16>
      %32 = layer.add(%22, %31) at "blocks.dense.ffn.residual" : !layer.tensor<[batch*q_len, 4096], bf16>
      layer.yield([%32]) at "blocks.dense"
    }
    %33 = layer.weight() {axes = [""]} at "lm_head.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[4096], bf16>
    %34 = layer.rms_norm(%3, %33) {eps = 1.0e-05, group = 4096} at "lm_head.norm" : !layer.tensor<[batch*q_len, 4096], bf16>
    %35 = layer.weight() {axes = ["", "vocab"]} at "lm_head.proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[4096, 128256], bf16>
    %36 = layer.matmul(%34, %35) at "lm_head.proj" : !layer.tensor<[batch*q_len, 128256], bf16>
    layer.return([%36]) at "llama-3.1-8b" attributes {dist.results = [!layer.tensor<[batch*q_len, 128256], bf16, #dist.sharding<[[], []]>>]}
  }
}
