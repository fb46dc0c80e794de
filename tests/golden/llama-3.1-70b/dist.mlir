  layer.program() {sym_name = "llama-3.1-70b", phase = "prefill"} at "llama-3.1-70b" attributes {dist.arguments = [#dist.sharding<[[]]>]} {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    dist.stage() {index = 0} at "" {
      %1 = layer.weight() {axes = ["vocab", ""]} at "embed.weight" attributes {dist.sharding = #dist.sharding<[[tp], []]>} : !layer.tensor<[32064, 8192], bf16>
      %2 = layer.embedding(%0, %1) {vocab_axis = "tp"} at "embed" : !layer.tensor<[batch*q_len, 8192], bf16, #dist.partial<tp>>
      %3 = dist.reduce_scatter(%2) {dim = 0, axis = "tp"} at "embed" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
      %4 = layer.repeat 40 from 0 of 80 (%5 = %3) at "blocks.dense" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16> {
        %6 = layer.weight() {axes = [""]} at "blocks.dense.gqa.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[8192], bf16>
        %7 = layer.rms_norm(%5, %6) {eps = 1.0e-05, group = 8192} at "blocks.dense.gqa.norm" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %8 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.gqa.q_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 2048], bf16>
        %9 = dist.all_gather(%7) {dim = 0, axis = "tp"} at "blocks.dense.gqa.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
        %10 = layer.matmul(%9, %8) at "blocks.dense.gqa.q_proj" : !layer.tensor<[batch*q_len, 2048], bf16>
        %11 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.k_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 256], bf16>
        %12 = layer.matmul(%9, %11) at "blocks.dense.gqa.k_proj" : !layer.tensor<[batch*q_len, 256], bf16>
        %13 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.v_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 256], bf16>
        %14 = layer.matmul(%9, %13) at "blocks.dense.gqa.v_proj" : !layer.tensor<[batch*q_len, 256], bf16>
        %15 = layer.rope(%10) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.q_rope" : !layer.tensor<[batch*q_len, 2048], bf16>
        %16 = layer.rope(%12) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.k_rope" : !layer.tensor<[batch*q_len, 256], bf16>
        %17 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.k_cache" attributes {dist.sharding = #dist.sharding<[[], [], [tp]]>} : !layer.tensor<[batch, kv_len, 256], bf16>
        %18 = layer.kv_append(%17, %16) at "blocks.dense.gqa.k_append" : !layer.tensor<[batch, kv_len, 256], bf16>
        %19 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.v_cache" attributes {dist.sharding = #dist.sharding<[[], [], [tp]]>} : !layer.tensor<[batch, kv_len, 256], bf16>
        %20 = layer.kv_append(%19, %14) at "blocks.dense.gqa.v_append" : !layer.tensor<[batch, kv_len, 256], bf16>
        %21 = layer.attention([%15], [%18], %20) {qk_dims = [128], v_dim = 128, q_len = <q_len>, scale = 0.08838834764831843, causal = true} at "blocks.dense.gqa.attention" : !layer.tensor<[batch*q_len, 2048], bf16>
        %22 = layer.weight() {axes = ["heads", ""]} at "blocks.dense.gqa.o_proj.weight" attributes {dist.sharding = #dist.sharding<[[tp], []]>} : !layer.tensor<[2048, 8192], bf16>
        %23 = layer.matmul(%21, %22) at "blocks.dense.gqa.o_proj" : !layer.tensor<[batch*q_len, 8192], bf16, #dist.partial<tp>>
        %24 = dist.reduce_scatter(%23) {dim = 0, axis = "tp"} at "blocks.dense.gqa.o_proj" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %25 = layer.add(%5, %24) at "blocks.dense.gqa.residual" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %26 = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[8192], bf16>
        %27 = layer.rms_norm(%25, %26) {eps = 1.0e-05, group = 8192} at "blocks.dense.ffn.norm" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %28 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 7168], bf16>
        %29 = dist.all_gather(%27) {dim = 0, axis = "tp"} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
        %30 = layer.matmul(%29, %28) at "blocks.dense.ffn.gate_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
        %31 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 7168], bf16>
        %32 = layer.matmul(%29, %31) at "blocks.dense.ffn.up_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
        %33 = layer.silu_mul(%30, %32) at "blocks.dense.ffn.silu_mul" : !layer.tensor<[batch*q_len, 7168], bf16>
        %34 = layer.weight() {axes = ["ffn", ""]} at "blocks.dense.ffn.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[tp], []]>} : !layer.tensor<[7168, 8192], bf16>
        %35 = layer.matmul(%33, %34) at "blocks.dense.ffn.down_proj" : !layer.tensor<[batch*q_len, 8192], bf16, #dist.partial<tp>>
        %36 = dist.reduce_scatter(%35) {dim = 0, axis = "tp"} at "blocks.dense.ffn.down_proj" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %37 = layer.add(%25, %36) at "blocks.dense.ffn.residual" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        layer.yield([%37]) at "blocks.dense"
      }
      dist.send(%4) {peer = 1, channel = 0} at "blocks.dense"
    }
    dist.stage() {index = 1} at "" {
      %38 = dist.recv() {peer = 0, channel = 0} at "blocks.dense" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
      %39 = layer.repeat 40 from 40 of 80 (%40 = %38) at "blocks.dense" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16> {
        %41 = layer.weight() {axes = [""]} at "blocks.dense.gqa.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[8192], bf16>
        %42 = layer.rms_norm(%40, %41) {eps = 1.0e-05, group = 8192} at "blocks.dense.gqa.norm" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %43 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.gqa.q_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 2048], bf16>
        %44 = dist.all_gather(%42) {dim = 0, axis = "tp"} at "blocks.dense.gqa.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
        %45 = layer.matmul(%44, %43) at "blocks.dense.gqa.q_proj" : !layer.tensor<[batch*q_len, 2048], bf16>
        %46 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.k_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 256], bf16>
        %47 = layer.matmul(%44, %46) at "blocks.dense.gqa.k_proj" : !layer.tensor<[batch*q_len, 256], bf16>
        %48 = layer.weight() {axes = ["", "kv_heads"]} at "blocks.dense.gqa.v_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 256], bf16>
        %49 = layer.matmul(%44, %48) at "blocks.dense.gqa.v_proj" : !layer.tensor<[batch*q_len, 256], bf16>
        %50 = layer.rope(%45) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.q_rope" : !layer.tensor<[batch*q_len, 2048], bf16>
        %51 = layer.rope(%47) {head_dim = 128, theta = 500000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "llama3", factor = 8.000000e+00 : f64, low_freq_factor = 1.000000e+00 : f64, high_freq_factor = 4.000000e+00 : f64, original_max_position_embeddings = 8192 : i64}} at "blocks.dense.gqa.k_rope" : !layer.tensor<[batch*q_len, 256], bf16>
        %52 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.k_cache" attributes {dist.sharding = #dist.sharding<[[], [], [tp]]>} : !layer.tensor<[batch, kv_len, 256], bf16>
        %53 = layer.kv_append(%52, %51) at "blocks.dense.gqa.k_append" : !layer.tensor<[batch, kv_len, 256], bf16>
        %54 = layer.state() {axes = ["batch", "position", "kv_heads"], role = "key_value_heads"} at "blocks.dense.gqa.v_cache" attributes {dist.sharding = #dist.sharding<[[], [], [tp]]>} : !layer.tensor<[batch, kv_len, 256], bf16>
        %55 = layer.kv_append(%54, %49) at "blocks.dense.gqa.v_append" : !layer.tensor<[batch, kv_len, 256], bf16>
        %56 = layer.attention([%50], [%53], %55) {qk_dims = [128], v_dim = 128, q_len = <q_len>, scale = 0.08838834764831843, causal = true} at "blocks.dense.gqa.attention" : !layer.tensor<[batch*q_len, 2048], bf16>
        %57 = layer.weight() {axes = ["heads", ""]} at "blocks.dense.gqa.o_proj.weight" attributes {dist.sharding = #dist.sharding<[[tp], []]>} : !layer.tensor<[2048, 8192], bf16>
        %58 = layer.matmul(%56, %57) at "blocks.dense.gqa.o_proj" : !layer.tensor<[batch*q_len, 8192], bf16, #dist.partial<tp>>
        %59 = dist.reduce_scatter(%58) {dim = 0, axis = "tp"} at "blocks.dense.gqa.o_proj" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %60 = layer.add(%40, %59) at "blocks.dense.gqa.residual" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %61 = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[8192], bf16>
        %62 = layer.rms_norm(%60, %61) {eps = 1.0e-05, group = 8192} at "blocks.dense.ffn.norm" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %63 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 7168], bf16>
        %64 = dist.all_gather(%62) {dim = 0, axis = "tp"} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 8192], bf16>
        %65 = layer.matmul(%64, %63) at "blocks.dense.ffn.gate_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
        %66 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 7168], bf16>
        %67 = layer.matmul(%64, %66) at "blocks.dense.ffn.up_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
        %68 = layer.silu_mul(%65, %67) at "blocks.dense.ffn.silu_mul" : !layer.tensor<[batch*q_len, 7168], bf16>
        %69 = layer.weight() {axes = ["ffn", ""]} at "blocks.dense.ffn.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[tp], []]>} : !layer.tensor<[7168, 8192], bf16>
        %70 = layer.matmul(%68, %69) at "blocks.dense.ffn.down_proj" : !layer.tensor<[batch*q_len, 8192], bf16, #dist.partial<tp>>
        %71 = dist.reduce_scatter(%70) {dim = 0, axis = "tp"} at "blocks.dense.ffn.down_proj" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        %72 = layer.add(%60, %71) at "blocks.dense.ffn.residual" : !layer.tensor<[ceildiv(batch*q_len, 4), 8192], bf16>
        layer.yield([%72]) at "blocks.dense"
      }
      %73 = dist.all_gather(%39) {dim = 0, axis = "tp"} at "blocks.dense" : !layer.tensor<[batch*q_len, 8192], bf16>
      %74 = layer.last_token(%73) {q_len = <q_len>} at "lm_head.last_token" : !layer.tensor<[batch, 8192], bf16>
      %75 = layer.weight() {axes = [""]} at "lm_head.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[8192], bf16>
      %76 = layer.rms_norm(%74, %75) {eps = 1.0e-05, group = 8192} at "lm_head.norm" : !layer.tensor<[batch, 8192], bf16>
      %77 = layer.weight() {axes = ["", "vocab"]} at "lm_head.proj.weight" attributes {dist.sharding = #dist.sharding<[[], [tp]]>} : !layer.tensor<[8192, 32064], bf16>
      %78 = layer.matmul(%76, %77) at "lm_head.proj" : !layer.tensor<[batch, 32064], bf16>
      %79 = dist.all_gather(%78) {dim = 1, axis = "tp"} at "lm_head.proj" : !layer.tensor<[batch, 128256], bf16>
      layer.return([%79]) at "llama-3.1-70b" attributes {dist.results = [!layer.tensor<[batch, 128256], bf16, #dist.sharding<[[], []]>>]}
    }
  }
}
