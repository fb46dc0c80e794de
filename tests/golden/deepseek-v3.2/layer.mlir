  layer.program() {sym_name = "deepseek-v3.2", phase = "decode"} at "deepseek-v3.2" {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    %1 = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[129280, 7168], bf16>
    %2 = layer.embedding(%0, %1) at "embed" : !layer.tensor<[batch*q_len, 7168], bf16>
    %3 = layer.repeat 3 from 0 of 3 (%4 = %2) at "blocks.dense" : !layer.tensor<[batch*q_len, 7168], bf16> {
      %5 = layer.weight() {axes = [""]} at "blocks.dense.dsa.norm.weight" : !layer.tensor<[7168], bf16>
      %6 = layer.rms_norm(%4, %5) {eps = 1.0e-06, group = 7168} at "blocks.dense.dsa.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %7 = layer.quantize(%6) at "blocks.dense.dsa.norm.quantize" : !layer.tensor<[batch*q_len, 7168], f8E4M3FN>
      %8 = layer.weight() {axes = ["", ""]} at "blocks.dense.dsa.q_a_proj.weight" : !layer.tensor<[7168, 1536], f8E4M3FN>
      %9 = layer.matmul(%7, %8) at "blocks.dense.dsa.q_a_proj" : !layer.tensor<[batch*q_len, 1536], bf16>
      %10 = layer.weight() {axes = [""]} at "blocks.dense.dsa.q_a_layernorm.weight" : !layer.tensor<[1536], bf16>
      %11 = layer.rms_norm(%9, %10) {eps = 1.0e-06, group = 1536} at "blocks.dense.dsa.q_a_layernorm" : !layer.tensor<[batch*q_len, 1536], bf16>
      %12 = layer.quantize(%11) at "blocks.dense.dsa.q_a_layernorm.quantize" : !layer.tensor<[batch*q_len, 1536], f8E4M3FN>
      %13 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.dsa.q_b_proj.weight" : !layer.tensor<[1536, 24576], f8E4M3FN>
      %14 = layer.matmul(%12, %13) at "blocks.dense.dsa.q_b_proj" : !layer.tensor<[batch*q_len, 24576], bf16>
      %15 = layer.slice(%14) {group = 192, offset = 0, size = 128} at "blocks.dense.dsa.q_nope" : !layer.tensor<[batch*q_len, 16384], bf16>
      %16 = layer.quantize(%15) at "blocks.dense.dsa.q_nope.quantize" : !layer.tensor<[batch*q_len, 16384], f8E4M3FN>
      %17 = layer.slice(%14) {group = 192, offset = 128, size = 64} at "blocks.dense.dsa.q_pe" : !layer.tensor<[batch*q_len, 8192], bf16>
      %18 = layer.rope(%17) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.dsa.q_rope" : !layer.tensor<[batch*q_len, 8192], bf16>
      %19 = layer.quantize(%18) at "blocks.dense.dsa.q_rope.quantize" : !layer.tensor<[batch*q_len, 8192], f8E4M3FN>
      %20 = layer.weight() {axes = ["", ""]} at "blocks.dense.dsa.kv_a_proj.weight" : !layer.tensor<[7168, 576], f8E4M3FN>
      %21 = layer.matmul(%7, %20) at "blocks.dense.dsa.kv_a_proj" : !layer.tensor<[batch*q_len, 576], bf16>
      %22 = layer.slice(%21) {group = 576, offset = 0, size = 512} at "blocks.dense.dsa.kv_latent" : !layer.tensor<[batch*q_len, 512], bf16>
      %23 = layer.weight() {axes = [""]} at "blocks.dense.dsa.kv_a_layernorm.weight" : !layer.tensor<[512], bf16>
      %24 = layer.rms_norm(%22, %23) {eps = 1.0e-06, group = 512} at "blocks.dense.dsa.kv_a_layernorm" : !layer.tensor<[batch*q_len, 512], bf16>
      %25 = layer.quantize(%24) at "blocks.dense.dsa.kv_a_layernorm.quantize" : !layer.tensor<[batch*q_len, 512], f8E4M3FN>
      %26 = layer.slice(%21) {group = 576, offset = 512, size = 64} at "blocks.dense.dsa.k_pe" : !layer.tensor<[batch*q_len, 64], bf16>
      %27 = layer.rope(%26) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.dsa.k_rope" : !layer.tensor<[batch*q_len, 64], bf16>
      %28 = layer.quantize(%27) at "blocks.dense.dsa.k_rope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %29 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.dense.dsa.c_kv_cache" : !layer.tensor<[batch, kv_len, 512], f8E4M3FN>
      %30 = layer.kv_append(%29, %25) at "blocks.dense.dsa.c_kv_append" : !layer.tensor<[batch, kv_len, 512], f8E4M3FN>
      %31 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.dense.dsa.k_rope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %32 = layer.kv_append(%31, %28) at "blocks.dense.dsa.k_rope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %33 = layer.weight() {axes = ["", "index_heads"]} at "blocks.dense.dsa.indexer.wq_b.weight" : !layer.tensor<[1536, 8192], f8E4M3FN>
      %34 = layer.matmul(%12, %33) at "blocks.dense.dsa.indexer.wq_b" : !layer.tensor<[batch*q_len, 8192], bf16>
      %35 = layer.weight() {axes = ["", ""]} at "blocks.dense.dsa.indexer.wk.weight" : !layer.tensor<[7168, 128], f8E4M3FN>
      %36 = layer.matmul(%7, %35) at "blocks.dense.dsa.indexer.wk" : !layer.tensor<[batch*q_len, 128], bf16>
      %37 = layer.weight() {axes = [""]} at "blocks.dense.dsa.indexer.k_norm.weight" : !layer.tensor<[128], bf16>
      %38 = layer.weight() {axes = [""], role = "bias"} at "blocks.dense.dsa.indexer.k_norm.bias" : !layer.tensor<[128], bf16>
      %39 = layer.layer_norm(%36, %37, %38) {eps = 1.0e-06} at "blocks.dense.dsa.indexer.k_norm" : !layer.tensor<[batch*q_len, 128], bf16>
      %40 = layer.weight() {axes = ["", "index_heads"]} at "blocks.dense.dsa.indexer.weights_proj.weight" : !layer.tensor<[7168, 64], bf16>
      %41 = layer.matmul(%6, %40) at "blocks.dense.dsa.indexer.weights_proj" : !layer.tensor<[batch*q_len, 64], f32>
      %42 = layer.slice(%34) {group = 128, offset = 0, size = 64} at "blocks.dense.dsa.indexer.q_pe" : !layer.tensor<[batch*q_len, 4096], bf16>
      %43 = layer.rope(%42) {head_dim = 64, theta = 10000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.dsa.indexer.q_rope" : !layer.tensor<[batch*q_len, 4096], bf16>
      %44 = layer.quantize(%43) at "blocks.dense.dsa.indexer.q_rope.quantize" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN>
      %45 = layer.slice(%39) {group = 128, offset = 0, size = 64} at "blocks.dense.dsa.indexer.k_pe" : !layer.tensor<[batch*q_len, 64], bf16>
      %46 = layer.rope(%45) {head_dim = 64, theta = 10000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.dsa.indexer.k_rope" : !layer.tensor<[batch*q_len, 64], bf16>
      %47 = layer.quantize(%46) at "blocks.dense.dsa.indexer.k_rope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %48 = layer.slice(%34) {group = 128, offset = 64, size = 64} at "blocks.dense.dsa.indexer.q_nope" : !layer.tensor<[batch*q_len, 4096], bf16>
      %49 = layer.quantize(%48) at "blocks.dense.dsa.indexer.q_nope.quantize" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN>
      %50 = layer.slice(%39) {group = 128, offset = 64, size = 64} at "blocks.dense.dsa.indexer.k_nope" : !layer.tensor<[batch*q_len, 64], bf16>
      %51 = layer.quantize(%50) at "blocks.dense.dsa.indexer.k_nope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %52 = layer.state() {axes = ["batch", "position", ""], role = "index_key"} at "blocks.dense.dsa.indexer.k_rope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %53 = layer.kv_append(%52, %47) at "blocks.dense.dsa.indexer.k_rope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %54 = layer.state() {axes = ["batch", "position", ""], role = "index_key"} at "blocks.dense.dsa.indexer.k_nope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %55 = layer.kv_append(%54, %51) at "blocks.dense.dsa.indexer.k_nope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %56 = layer.index_scores([%44, %49], [%53, %55], %41) {qk_dims = [64, 64], q_len = <q_len>, scale = 0.011048543456039804} at "blocks.dense.dsa.indexer.scores" : !layer.tensor<[batch*q_len, kv_len], f32>
      %57 = layer.topk_select(%56) {top_k = 2048, q_len = <q_len>} at "blocks.dense.dsa.indexer.topk" : !layer.tensor<[batch*q_len, min(kv_len, 2048)], i32>
      %58 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.dsa.kv_b_proj.weight" : !layer.tensor<[512, 32768], f8E4M3FN>
      %59 = layer.slice(%58) {group = 256, offset = 0, size = 128} at "blocks.dense.dsa.k_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %60 = layer.slice(%58) {group = 256, offset = 128, size = 128} at "blocks.dense.dsa.v_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %61 = layer.head_matmul(%16, %59) {group = 128, transpose = true} at "blocks.dense.dsa.k_absorb" : !layer.tensor<[batch*q_len, 65536], bf16>
      %62 = layer.quantize(%61) at "blocks.dense.dsa.k_absorb.quantize" : !layer.tensor<[batch*q_len, 65536], f8E4M3FN>
      %63 = layer.gather_rows(%30, %57) {q_len = <q_len>, bandwidth_domain = "dram"} at "blocks.dense.dsa.gather_c_kv" : !layer.tensor<[batch*q_len, min(kv_len, 2048), 512], f8E4M3FN>
      %64 = layer.gather_rows(%32, %57) {q_len = <q_len>, bandwidth_domain = "dram"} at "blocks.dense.dsa.gather_k_rope" : !layer.tensor<[batch*q_len, min(kv_len, 2048), 64], f8E4M3FN>
      %65 = layer.sparse_attention([%62, %19], [%63, %64], %63) {sequence_q_len = <q_len>, sequence_kv_len = <kv_len>, qk_dims = [512, 64], v_dim = 512, q_len = <1>, scale = 0.1352337788608801, causal = false} at "blocks.dense.dsa.attention" : !layer.tensor<[batch*q_len, 65536], bf16>
      %66 = layer.quantize(%65) at "blocks.dense.dsa.attention.quantize" : !layer.tensor<[batch*q_len, 65536], f8E4M3FN>
      %67 = layer.head_matmul(%66, %60) {group = 128, transpose = false} at "blocks.dense.dsa.v_absorb" : !layer.tensor<[batch*q_len, 16384], bf16>
      %68 = layer.quantize(%67) at "blocks.dense.dsa.v_absorb.quantize" : !layer.tensor<[batch*q_len, 16384], f8E4M3FN>
      %69 = layer.weight() {axes = ["heads", ""]} at "blocks.dense.dsa.o_proj.weight" : !layer.tensor<[16384, 7168], f8E4M3FN>
      %70 = layer.matmul(%68, %69) at "blocks.dense.dsa.o_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
      %71 = layer.add(%4, %70) at "blocks.dense.dsa.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      %72 = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" : !layer.tensor<[7168], bf16>
      %73 = layer.rms_norm(%71, %72) {eps = 1.0e-06, group = 7168} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %74 = layer.quantize(%73) at "blocks.dense.ffn.norm.quantize" : !layer.tensor<[batch*q_len, 7168], f8E4M3FN>
      %75 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" : !layer.tensor<[7168, 18432], f8E4M3FN>
      %76 = layer.matmul(%74, %75) at "blocks.dense.ffn.gate_proj" : !layer.tensor<[batch*q_len, 18432], bf16>
      %77 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.up_proj.weight" : !layer.tensor<[7168, 18432], f8E4M3FN>
      %78 = layer.matmul(%74, %77) at "blocks.dense.ffn.up_proj" : !layer.tensor<[batch*q_len, 18432], bf16>
      %79 = layer.silu_mul(%76, %78) at "blocks.dense.ffn.silu_mul" : !layer.tensor<[batch*q_len, 18432], bf16>
      %80 = layer.quantize(%79) at "blocks.dense.ffn.silu_mul.quantize" : !layer.tensor<[batch*q_len, 18432], f8E4M3FN>
      %81 = layer.weight() {axes = ["ffn", ""]} at "blocks.dense.ffn.down_proj.weight" : !layer.tensor<[18432, 7168], f8E4M3FN>
      %82 = layer.matmul(%80, %81) at "blocks.dense.ffn.down_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
      %83 = layer.add(%71, %82) at "blocks.dense.ffn.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      layer.yield([%83]) at "blocks.dense"
    }
    %84 = layer.repeat 58 from 0 of 58 (%85 = %3) at "blocks.moe" : !layer.tensor<[batch*q_len, 7168], bf16> {
      %86 = layer.weight() {axes = [""]} at "blocks.moe.dsa.norm.weight" : !layer.tensor<[7168], bf16>
      %87 = layer.rms_norm(%85, %86) {eps = 1.0e-06, group = 7168} at "blocks.moe.dsa.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %88 = layer.quantize(%87) at "blocks.moe.dsa.norm.quantize" : !layer.tensor<[batch*q_len, 7168], f8E4M3FN>
      %89 = layer.weight() {axes = ["", ""]} at "blocks.moe.dsa.q_a_proj.weight" : !layer.tensor<[7168, 1536], f8E4M3FN>
      %90 = layer.matmul(%88, %89) at "blocks.moe.dsa.q_a_proj" : !layer.tensor<[batch*q_len, 1536], bf16>
      %91 = layer.weight() {axes = [""]} at "blocks.moe.dsa.q_a_layernorm.weight" : !layer.tensor<[1536], bf16>
      %92 = layer.rms_norm(%90, %91) {eps = 1.0e-06, group = 1536} at "blocks.moe.dsa.q_a_layernorm" : !layer.tensor<[batch*q_len, 1536], bf16>
      %93 = layer.quantize(%92) at "blocks.moe.dsa.q_a_layernorm.quantize" : !layer.tensor<[batch*q_len, 1536], f8E4M3FN>
      %94 = layer.weight() {axes = ["", "heads"]} at "blocks.moe.dsa.q_b_proj.weight" : !layer.tensor<[1536, 24576], f8E4M3FN>
      %95 = layer.matmul(%93, %94) at "blocks.moe.dsa.q_b_proj" : !layer.tensor<[batch*q_len, 24576], bf16>
      %96 = layer.slice(%95) {group = 192, offset = 0, size = 128} at "blocks.moe.dsa.q_nope" : !layer.tensor<[batch*q_len, 16384], bf16>
      %97 = layer.quantize(%96) at "blocks.moe.dsa.q_nope.quantize" : !layer.tensor<[batch*q_len, 16384], f8E4M3FN>
      %98 = layer.slice(%95) {group = 192, offset = 128, size = 64} at "blocks.moe.dsa.q_pe" : !layer.tensor<[batch*q_len, 8192], bf16>
      %99 = layer.rope(%98) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.dsa.q_rope" : !layer.tensor<[batch*q_len, 8192], bf16>
      %100 = layer.quantize(%99) at "blocks.moe.dsa.q_rope.quantize" : !layer.tensor<[batch*q_len, 8192], f8E4M3FN>
      %101 = layer.weight() {axes = ["", ""]} at "blocks.moe.dsa.kv_a_proj.weight" : !layer.tensor<[7168, 576], f8E4M3FN>
      %102 = layer.matmul(%88, %101) at "blocks.moe.dsa.kv_a_proj" : !layer.tensor<[batch*q_len, 576], bf16>
      %103 = layer.slice(%102) {group = 576, offset = 0, size = 512} at "blocks.moe.dsa.kv_latent" : !layer.tensor<[batch*q_len, 512], bf16>
      %104 = layer.weight() {axes = [""]} at "blocks.moe.dsa.kv_a_layernorm.weight" : !layer.tensor<[512], bf16>
      %105 = layer.rms_norm(%103, %104) {eps = 1.0e-06, group = 512} at "blocks.moe.dsa.kv_a_layernorm" : !layer.tensor<[batch*q_len, 512], bf16>
      %106 = layer.quantize(%105) at "blocks.moe.dsa.kv_a_layernorm.quantize" : !layer.tensor<[batch*q_len, 512], f8E4M3FN>
      %107 = layer.slice(%102) {group = 576, offset = 512, size = 64} at "blocks.moe.dsa.k_pe" : !layer.tensor<[batch*q_len, 64], bf16>
      %108 = layer.rope(%107) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.dsa.k_rope" : !layer.tensor<[batch*q_len, 64], bf16>
      %109 = layer.quantize(%108) at "blocks.moe.dsa.k_rope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %110 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.moe.dsa.c_kv_cache" : !layer.tensor<[batch, kv_len, 512], f8E4M3FN>
      %111 = layer.kv_append(%110, %106) at "blocks.moe.dsa.c_kv_append" : !layer.tensor<[batch, kv_len, 512], f8E4M3FN>
      %112 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.moe.dsa.k_rope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %113 = layer.kv_append(%112, %109) at "blocks.moe.dsa.k_rope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %114 = layer.weight() {axes = ["", "index_heads"]} at "blocks.moe.dsa.indexer.wq_b.weight" : !layer.tensor<[1536, 8192], f8E4M3FN>
      %115 = layer.matmul(%93, %114) at "blocks.moe.dsa.indexer.wq_b" : !layer.tensor<[batch*q_len, 8192], bf16>
      %116 = layer.weight() {axes = ["", ""]} at "blocks.moe.dsa.indexer.wk.weight" : !layer.tensor<[7168, 128], f8E4M3FN>
      %117 = layer.matmul(%88, %116) at "blocks.moe.dsa.indexer.wk" : !layer.tensor<[batch*q_len, 128], bf16>
      %118 = layer.weight() {axes = [""]} at "blocks.moe.dsa.indexer.k_norm.weight" : !layer.tensor<[128], bf16>
      %119 = layer.weight() {axes = [""], role = "bias"} at "blocks.moe.dsa.indexer.k_norm.bias" : !layer.tensor<[128], bf16>
      %120 = layer.layer_norm(%117, %118, %119) {eps = 1.0e-06} at "blocks.moe.dsa.indexer.k_norm" : !layer.tensor<[batch*q_len, 128], bf16>
      %121 = layer.weight() {axes = ["", "index_heads"]} at "blocks.moe.dsa.indexer.weights_proj.weight" : !layer.tensor<[7168, 64], bf16>
      %122 = layer.matmul(%87, %121) at "blocks.moe.dsa.indexer.weights_proj" : !layer.tensor<[batch*q_len, 64], f32>
      %123 = layer.slice(%115) {group = 128, offset = 0, size = 64} at "blocks.moe.dsa.indexer.q_pe" : !layer.tensor<[batch*q_len, 4096], bf16>
      %124 = layer.rope(%123) {head_dim = 64, theta = 10000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.dsa.indexer.q_rope" : !layer.tensor<[batch*q_len, 4096], bf16>
      %125 = layer.quantize(%124) at "blocks.moe.dsa.indexer.q_rope.quantize" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN>
      %126 = layer.slice(%120) {group = 128, offset = 0, size = 64} at "blocks.moe.dsa.indexer.k_pe" : !layer.tensor<[batch*q_len, 64], bf16>
      %127 = layer.rope(%126) {head_dim = 64, theta = 10000.0, interleaved = false, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.dsa.indexer.k_rope" : !layer.tensor<[batch*q_len, 64], bf16>
      %128 = layer.quantize(%127) at "blocks.moe.dsa.indexer.k_rope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %129 = layer.slice(%115) {group = 128, offset = 64, size = 64} at "blocks.moe.dsa.indexer.q_nope" : !layer.tensor<[batch*q_len, 4096], bf16>
      %130 = layer.quantize(%129) at "blocks.moe.dsa.indexer.q_nope.quantize" : !layer.tensor<[batch*q_len, 4096], f8E4M3FN>
      %131 = layer.slice(%120) {group = 128, offset = 64, size = 64} at "blocks.moe.dsa.indexer.k_nope" : !layer.tensor<[batch*q_len, 64], bf16>
      %132 = layer.quantize(%131) at "blocks.moe.dsa.indexer.k_nope.quantize" : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
      %133 = layer.state() {axes = ["batch", "position", ""], role = "index_key"} at "blocks.moe.dsa.indexer.k_rope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %134 = layer.kv_append(%133, %128) at "blocks.moe.dsa.indexer.k_rope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %135 = layer.state() {axes = ["batch", "position", ""], role = "index_key"} at "blocks.moe.dsa.indexer.k_nope_cache" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %136 = layer.kv_append(%135, %132) at "blocks.moe.dsa.indexer.k_nope_append" : !layer.tensor<[batch, kv_len, 64], f8E4M3FN>
      %137 = layer.index_scores([%125, %130], [%134, %136], %122) {qk_dims = [64, 64], q_len = <q_len>, scale = 0.011048543456039804} at "blocks.moe.dsa.indexer.scores" : !layer.tensor<[batch*q_len, kv_len], f32>
      %138 = layer.topk_select(%137) {top_k = 2048, q_len = <q_len>} at "blocks.moe.dsa.indexer.topk" : !layer.tensor<[batch*q_len, min(kv_len, 2048)], i32>
      %139 = layer.weight() {axes = ["", "heads"]} at "blocks.moe.dsa.kv_b_proj.weight" : !layer.tensor<[512, 32768], f8E4M3FN>
      %140 = layer.slice(%139) {group = 256, offset = 0, size = 128} at "blocks.moe.dsa.k_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %141 = layer.slice(%139) {group = 256, offset = 128, size = 128} at "blocks.moe.dsa.v_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %142 = layer.head_matmul(%97, %140) {group = 128, transpose = true} at "blocks.moe.dsa.k_absorb" : !layer.tensor<[batch*q_len, 65536], bf16>
      %143 = layer.quantize(%142) at "blocks.moe.dsa.k_absorb.quantize" : !layer.tensor<[batch*q_len, 65536], f8E4M3FN>
      %144 = layer.gather_rows(%111, %138) {q_len = <q_len>, bandwidth_domain = "dram"} at "blocks.moe.dsa.gather_c_kv" : !layer.tensor<[batch*q_len, min(kv_len, 2048), 512], f8E4M3FN>
      %145 = layer.gather_rows(%113, %138) {q_len = <q_len>, bandwidth_domain = "dram"} at "blocks.moe.dsa.gather_k_rope" : !layer.tensor<[batch*q_len, min(kv_len, 2048), 64], f8E4M3FN>
      %146 = layer.sparse_attention([%143, %100], [%144, %145], %144) {sequence_q_len = <q_len>, sequence_kv_len = <kv_len>, qk_dims = [512, 64], v_dim = 512, q_len = <1>, scale = 0.1352337788608801, causal = false} at "blocks.moe.dsa.attention" : !layer.tensor<[batch*q_len, 65536], bf16>
      %147 = layer.quantize(%146) at "blocks.moe.dsa.attention.quantize" : !layer.tensor<[batch*q_len, 65536], f8E4M3FN>
      %148 = layer.head_matmul(%147, %141) {group = 128, transpose = false} at "blocks.moe.dsa.v_absorb" : !layer.tensor<[batch*q_len, 16384], bf16>
      %149 = layer.quantize(%148) at "blocks.moe.dsa.v_absorb.quantize" : !layer.tensor<[batch*q_len, 16384], f8E4M3FN>
      %150 = layer.weight() {axes = ["heads", ""]} at "blocks.moe.dsa.o_proj.weight" : !layer.tensor<[16384, 7168], f8E4M3FN>
      %151 = layer.matmul(%149, %150) at "blocks.moe.dsa.o_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
      %152 = layer.add(%85, %151) at "blocks.moe.dsa.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      %153 = layer.weight() {axes = [""]} at "blocks.moe.moe.norm.weight" : !layer.tensor<[7168], bf16>
      %154 = layer.rms_norm(%152, %153) {eps = 1.0e-06, group = 7168} at "blocks.moe.moe.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
      %155 = layer.quantize(%154) at "blocks.moe.moe.norm.quantize" : !layer.tensor<[batch*q_len, 7168], f8E4M3FN>
      %156 = layer.weight() {axes = ["", ""]} at "blocks.moe.moe.router.weight" : !layer.tensor<[7168, 256], f8E4M3FN>
      %157 = layer.matmul(%155, %156) at "blocks.moe.moe.router" : !layer.tensor<[batch*q_len, 256], f32>
      %158 = layer.weight() {axes = [""], role = "bias"} at "blocks.moe.moe.router.bias" : !layer.tensor<[256], f32>
      %159, %160 = layer.router_topk(%157, [%158]) {top_k = 8, scoring = "sigmoid", groups = 8, top_groups = 4, normalize = true, scale = 2.5} at "blocks.moe.moe.topk" : !layer.tensor<[batch*q_len, 8], f32>, !layer.tensor<[batch*q_len, 8], i32>
      %161 = layer.dispatch(%155, %160) {capacity = "balanced"} at "blocks.moe.moe.dispatch" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 7168], f8E4M3FN>
      %162 = layer.weight() {axes = ["expert", "", "expert_ffn"]} at "blocks.moe.moe.experts.gate_proj.weight" : !layer.tensor<[256, 7168, 2048], f8E4M3FN>
      %163 = layer.grouped_matmul(%161, %162) at "blocks.moe.moe.experts.gate_proj" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %164 = layer.weight() {axes = ["expert", "", "expert_ffn"]} at "blocks.moe.moe.experts.up_proj.weight" : !layer.tensor<[256, 7168, 2048], f8E4M3FN>
      %165 = layer.grouped_matmul(%161, %164) at "blocks.moe.moe.experts.up_proj" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %166 = layer.silu_mul(%163, %165) at "blocks.moe.moe.experts.silu_mul" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %167 = layer.quantize(%166) at "blocks.moe.moe.experts.silu_mul.quantize" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 2048], f8E4M3FN>
      %168 = layer.weight() {axes = ["expert", "expert_ffn", ""]} at "blocks.moe.moe.experts.down_proj.weight" : !layer.tensor<[256, 2048, 7168], f8E4M3FN>
      %169 = layer.grouped_matmul(%167, %168) at "blocks.moe.moe.experts.down_proj" : !layer.tensor<[256, ceildiv(batch*q_len*8, 256), 7168], bf16>
      %170 = layer.combine(%169, %160, %159) at "blocks.moe.moe.combine" : !layer.tensor<[batch*q_len, 7168], bf16>
      %171 = layer.weight() {axes = ["", "ffn"]} at "blocks.moe.moe.shared.gate_proj.weight" : !layer.tensor<[7168, 2048], f8E4M3FN>
      %172 = layer.matmul(%155, %171) at "blocks.moe.moe.shared.gate_proj" : !layer.tensor<[batch*q_len, 2048], bf16>
      %173 = layer.weight() {axes = ["", "ffn"]} at "blocks.moe.moe.shared.up_proj.weight" : !layer.tensor<[7168, 2048], f8E4M3FN>
      %174 = layer.matmul(%155, %173) at "blocks.moe.moe.shared.up_proj" : !layer.tensor<[batch*q_len, 2048], bf16>
      %175 = layer.silu_mul(%172, %174) at "blocks.moe.moe.shared.silu_mul" : !layer.tensor<[batch*q_len, 2048], bf16>
      %176 = layer.quantize(%175) at "blocks.moe.moe.shared.silu_mul.quantize" : !layer.tensor<[batch*q_len, 2048], f8E4M3FN>
      %177 = layer.weight() {axes = ["ffn", ""]} at "blocks.moe.moe.shared.down_proj.weight" : !layer.tensor<[2048, 7168], f8E4M3FN>
      %178 = layer.matmul(%176, %177) at "blocks.moe.moe.shared.down_proj" : !layer.tensor<[batch*q_len, 7168], bf16>
      %179 = layer.add(%170, %178) at "blocks.moe.moe.add_shared" : !layer.tensor<[batch*q_len, 7168], bf16>
      %180 = layer.add(%152, %179) at "blocks.moe.moe.residual" : !layer.tensor<[batch*q_len, 7168], bf16>
      layer.yield([%180]) at "blocks.moe"
    }
    %181 = layer.weight() {axes = [""]} at "lm_head.norm.weight" : !layer.tensor<[7168], bf16>
    %182 = layer.rms_norm(%84, %181) {eps = 1.0e-06, group = 7168} at "lm_head.norm" : !layer.tensor<[batch*q_len, 7168], bf16>
    %183 = layer.quantize(%182) at "lm_head.norm.quantize" : !layer.tensor<[batch*q_len, 7168], f8E4M3FN>
    %184 = layer.weight() {axes = ["", "vocab"]} at "lm_head.proj.weight" : !layer.tensor<[7168, 129280], f8E4M3FN>
    %185 = layer.matmul(%183, %184) at "lm_head.proj" : !layer.tensor<[batch*q_len, 129280], bf16>
    layer.return([%185]) at "deepseek-v3.2"
  }
}
