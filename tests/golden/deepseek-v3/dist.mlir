  layer.program() {sym_name = "deepseek-v3", phase = "decode"} at "deepseek-v3" attributes {dist.arguments = [#dist.sharding<[[dp]]>]} {
  ^bb0(%0: !layer.tensor<[ceildiv(batch, 32)*q_len], i32>):
    %1 = layer.weight() {axes = ["vocab", ""]} at "embed.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[129280, 7168], bf16>
    %2 = layer.embedding(%0, %1) at "embed" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
    %3 = layer.repeat 3 from 0 of 3 (%4 = %2) at "blocks.dense" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16> {
      %5 = layer.weight() {axes = [""]} at "blocks.dense.mla.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[7168], bf16>
      %6 = layer.rms_norm(%4, %5) {eps = 1.0e-06, group = 7168} at "blocks.dense.mla.norm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %7 = layer.quantize(%6) at "blocks.dense.mla.norm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], f8E4M3FN>
      %8 = layer.weight() {axes = ["", ""]} at "blocks.dense.mla.q_a_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 1536], f8E4M3FN>
      %9 = layer.matmul(%7, %8) at "blocks.dense.mla.q_a_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], bf16>
      %10 = layer.weight() {axes = [""]} at "blocks.dense.mla.q_a_layernorm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[1536], bf16>
      %11 = layer.rms_norm(%9, %10) {eps = 1.0e-06, group = 1536} at "blocks.dense.mla.q_a_layernorm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], bf16>
      %12 = layer.quantize(%11) at "blocks.dense.mla.q_a_layernorm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], f8E4M3FN>
      %13 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.mla.q_b_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[1536, 24576], f8E4M3FN>
      %14 = layer.matmul(%12, %13) at "blocks.dense.mla.q_b_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 24576], bf16>
      %15 = layer.slice(%14) {group = 192, offset = 0, size = 128} at "blocks.dense.mla.q_nope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], bf16>
      %16 = layer.quantize(%15) at "blocks.dense.mla.q_nope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], f8E4M3FN>
      %17 = layer.slice(%14) {group = 192, offset = 128, size = 64} at "blocks.dense.mla.q_pe" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], bf16>
      %18 = layer.rope(%17) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.mla.q_rope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], bf16>
      %19 = layer.quantize(%18) at "blocks.dense.mla.q_rope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], f8E4M3FN>
      %20 = layer.weight() {axes = ["", ""]} at "blocks.dense.mla.kv_a_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 576], f8E4M3FN>
      %21 = layer.matmul(%7, %20) at "blocks.dense.mla.kv_a_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 576], bf16>
      %22 = layer.slice(%21) {group = 576, offset = 0, size = 512} at "blocks.dense.mla.kv_latent" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], bf16>
      %23 = layer.weight() {axes = [""]} at "blocks.dense.mla.kv_a_layernorm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[512], bf16>
      %24 = layer.rms_norm(%22, %23) {eps = 1.0e-06, group = 512} at "blocks.dense.mla.kv_a_layernorm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], bf16>
      %25 = layer.quantize(%24) at "blocks.dense.mla.kv_a_layernorm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], f8E4M3FN>
      %26 = layer.slice(%21) {group = 576, offset = 512, size = 64} at "blocks.dense.mla.k_pe" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], bf16>
      %27 = layer.rope(%26) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.dense.mla.k_rope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], bf16>
      %28 = layer.quantize(%27) at "blocks.dense.mla.k_rope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], f8E4M3FN>
      %29 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.dense.mla.c_kv_cache" attributes {dist.sharding = #dist.sharding<[[dp], [], []]>} : !layer.tensor<[ceildiv(batch, 32), kv_len, 512], f8E4M3FN>
      %30 = layer.kv_append(%29, %25) at "blocks.dense.mla.c_kv_append" : !layer.tensor<[ceildiv(batch, 32), kv_len, 512], f8E4M3FN>
      %31 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.dense.mla.k_rope_cache" attributes {dist.sharding = #dist.sharding<[[dp], [], []]>} : !layer.tensor<[ceildiv(batch, 32), kv_len, 64], f8E4M3FN>
      %32 = layer.kv_append(%31, %28) at "blocks.dense.mla.k_rope_append" : !layer.tensor<[ceildiv(batch, 32), kv_len, 64], f8E4M3FN>
      %33 = layer.weight() {axes = ["", "heads"]} at "blocks.dense.mla.kv_b_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[512, 32768], f8E4M3FN>
      %34 = layer.slice(%33) {group = 256, offset = 0, size = 128} at "blocks.dense.mla.k_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %35 = layer.slice(%33) {group = 256, offset = 128, size = 128} at "blocks.dense.mla.v_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %36 = layer.head_matmul(%16, %34) {group = 128, transpose = true} at "blocks.dense.mla.k_absorb" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], bf16>
      %37 = layer.quantize(%36) at "blocks.dense.mla.k_absorb.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], f8E4M3FN>
      %38 = layer.attention([%37, %19], [%30, %32], %30) {qk_dims = [512, 64], v_dim = 512, q_len = <q_len>, scale = 0.1352337788608801, causal = true} at "blocks.dense.mla.attention" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], bf16>
      %39 = layer.quantize(%38) at "blocks.dense.mla.attention.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], f8E4M3FN>
      %40 = layer.head_matmul(%39, %35) {group = 128, transpose = false} at "blocks.dense.mla.v_absorb" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], bf16>
      %41 = layer.quantize(%40) at "blocks.dense.mla.v_absorb.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], f8E4M3FN>
      %42 = layer.weight() {axes = ["heads", ""]} at "blocks.dense.mla.o_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[16384, 7168], f8E4M3FN>
      %43 = layer.matmul(%41, %42) at "blocks.dense.mla.o_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %44 = layer.add(%4, %43) at "blocks.dense.mla.residual" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %45 = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[7168], bf16>
      %46 = layer.rms_norm(%44, %45) {eps = 1.0e-06, group = 7168} at "blocks.dense.ffn.norm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %47 = layer.quantize(%46) at "blocks.dense.ffn.norm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], f8E4M3FN>
      %48 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 18432], f8E4M3FN>
      %49 = layer.matmul(%47, %48) at "blocks.dense.ffn.gate_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 18432], bf16>
      %50 = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 18432], f8E4M3FN>
      %51 = layer.matmul(%47, %50) at "blocks.dense.ffn.up_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 18432], bf16>
      %52 = layer.silu_mul(%49, %51) at "blocks.dense.ffn.silu_mul" : !layer.tensor<[ceildiv(batch, 32)*q_len, 18432], bf16>
      %53 = layer.quantize(%52) at "blocks.dense.ffn.silu_mul.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 18432], f8E4M3FN>
      %54 = layer.weight() {axes = ["ffn", ""]} at "blocks.dense.ffn.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[18432, 7168], f8E4M3FN>
      %55 = layer.matmul(%53, %54) at "blocks.dense.ffn.down_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %56 = layer.add(%44, %55) at "blocks.dense.ffn.residual" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      layer.yield([%56]) at "blocks.dense"
    }
    %57 = layer.repeat 58 from 0 of 58 (%58 = %3) at "blocks.moe" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16> {
      %59 = layer.weight() {axes = [""]} at "blocks.moe.mla.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[7168], bf16>
      %60 = layer.rms_norm(%58, %59) {eps = 1.0e-06, group = 7168} at "blocks.moe.mla.norm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %61 = layer.quantize(%60) at "blocks.moe.mla.norm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], f8E4M3FN>
      %62 = layer.weight() {axes = ["", ""]} at "blocks.moe.mla.q_a_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 1536], f8E4M3FN>
      %63 = layer.matmul(%61, %62) at "blocks.moe.mla.q_a_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], bf16>
      %64 = layer.weight() {axes = [""]} at "blocks.moe.mla.q_a_layernorm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[1536], bf16>
      %65 = layer.rms_norm(%63, %64) {eps = 1.0e-06, group = 1536} at "blocks.moe.mla.q_a_layernorm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], bf16>
      %66 = layer.quantize(%65) at "blocks.moe.mla.q_a_layernorm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 1536], f8E4M3FN>
      %67 = layer.weight() {axes = ["", "heads"]} at "blocks.moe.mla.q_b_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[1536, 24576], f8E4M3FN>
      %68 = layer.matmul(%66, %67) at "blocks.moe.mla.q_b_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 24576], bf16>
      %69 = layer.slice(%68) {group = 192, offset = 0, size = 128} at "blocks.moe.mla.q_nope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], bf16>
      %70 = layer.quantize(%69) at "blocks.moe.mla.q_nope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], f8E4M3FN>
      %71 = layer.slice(%68) {group = 192, offset = 128, size = 64} at "blocks.moe.mla.q_pe" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], bf16>
      %72 = layer.rope(%71) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.mla.q_rope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], bf16>
      %73 = layer.quantize(%72) at "blocks.moe.mla.q_rope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8192], f8E4M3FN>
      %74 = layer.weight() {axes = ["", ""]} at "blocks.moe.mla.kv_a_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 576], f8E4M3FN>
      %75 = layer.matmul(%61, %74) at "blocks.moe.mla.kv_a_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 576], bf16>
      %76 = layer.slice(%75) {group = 576, offset = 0, size = 512} at "blocks.moe.mla.kv_latent" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], bf16>
      %77 = layer.weight() {axes = [""]} at "blocks.moe.mla.kv_a_layernorm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[512], bf16>
      %78 = layer.rms_norm(%76, %77) {eps = 1.0e-06, group = 512} at "blocks.moe.mla.kv_a_layernorm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], bf16>
      %79 = layer.quantize(%78) at "blocks.moe.mla.kv_a_layernorm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 512], f8E4M3FN>
      %80 = layer.slice(%75) {group = 576, offset = 512, size = 64} at "blocks.moe.mla.k_pe" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], bf16>
      %81 = layer.rope(%80) {head_dim = 64, theta = 10000.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, scaling = {rope_type = "yarn", factor = 4.000000e+01 : f64, original_max_position_embeddings = 4096 : i64, beta_fast = 3.200000e+01 : f64, beta_slow = 1.000000e+00 : f64, mscale = 1.000000e+00 : f64, mscale_all_dim = 1.000000e+00 : f64}} at "blocks.moe.mla.k_rope" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], bf16>
      %82 = layer.quantize(%81) at "blocks.moe.mla.k_rope.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 64], f8E4M3FN>
      %83 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.moe.mla.c_kv_cache" attributes {dist.sharding = #dist.sharding<[[dp], [], []]>} : !layer.tensor<[ceildiv(batch, 32), kv_len, 512], f8E4M3FN>
      %84 = layer.kv_append(%83, %79) at "blocks.moe.mla.c_kv_append" : !layer.tensor<[ceildiv(batch, 32), kv_len, 512], f8E4M3FN>
      %85 = layer.state() {axes = ["batch", "position", ""], role = "latent"} at "blocks.moe.mla.k_rope_cache" attributes {dist.sharding = #dist.sharding<[[dp], [], []]>} : !layer.tensor<[ceildiv(batch, 32), kv_len, 64], f8E4M3FN>
      %86 = layer.kv_append(%85, %82) at "blocks.moe.mla.k_rope_append" : !layer.tensor<[ceildiv(batch, 32), kv_len, 64], f8E4M3FN>
      %87 = layer.weight() {axes = ["", "heads"]} at "blocks.moe.mla.kv_b_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[512, 32768], f8E4M3FN>
      %88 = layer.slice(%87) {group = 256, offset = 0, size = 128} at "blocks.moe.mla.k_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %89 = layer.slice(%87) {group = 256, offset = 128, size = 128} at "blocks.moe.mla.v_absorb.weight" : !layer.tensor<[512, 16384], f8E4M3FN>
      %90 = layer.head_matmul(%70, %88) {group = 128, transpose = true} at "blocks.moe.mla.k_absorb" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], bf16>
      %91 = layer.quantize(%90) at "blocks.moe.mla.k_absorb.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], f8E4M3FN>
      %92 = layer.attention([%91, %73], [%84, %86], %84) {qk_dims = [512, 64], v_dim = 512, q_len = <q_len>, scale = 0.1352337788608801, causal = true} at "blocks.moe.mla.attention" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], bf16>
      %93 = layer.quantize(%92) at "blocks.moe.mla.attention.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 65536], f8E4M3FN>
      %94 = layer.head_matmul(%93, %89) {group = 128, transpose = false} at "blocks.moe.mla.v_absorb" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], bf16>
      %95 = layer.quantize(%94) at "blocks.moe.mla.v_absorb.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 16384], f8E4M3FN>
      %96 = layer.weight() {axes = ["heads", ""]} at "blocks.moe.mla.o_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[16384, 7168], f8E4M3FN>
      %97 = layer.matmul(%95, %96) at "blocks.moe.mla.o_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %98 = layer.add(%58, %97) at "blocks.moe.mla.residual" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %99 = layer.weight() {axes = [""]} at "blocks.moe.moe.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[7168], bf16>
      %100 = layer.rms_norm(%98, %99) {eps = 1.0e-06, group = 7168} at "blocks.moe.moe.norm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %101 = layer.quantize(%100) at "blocks.moe.moe.norm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], f8E4M3FN>
      %102 = layer.weight() {axes = ["", ""]} at "blocks.moe.moe.router.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 256], f8E4M3FN>
      %103 = layer.matmul(%101, %102) at "blocks.moe.moe.router" : !layer.tensor<[ceildiv(batch, 32)*q_len, 256], f32>
      %104 = layer.weight() {axes = [""], role = "bias"} at "blocks.moe.moe.router.bias" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[256], f32>
      %105, %106 = layer.router_topk(%103, [%104]) {top_k = 8, scoring = "sigmoid", groups = 8, top_groups = 4, normalize = true, scale = 2.5} at "blocks.moe.moe.topk" : !layer.tensor<[ceildiv(batch, 32)*q_len, 8], f32>, !layer.tensor<[ceildiv(batch, 32)*q_len, 8], i32>
      %107 = dist.dispatch(%101, %106) {capacity = "balanced", axis = "ep"} at "blocks.moe.moe.dispatch" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 7168], f8E4M3FN>
      %108 = layer.weight() {axes = ["expert", "", "expert_ffn"]} at "blocks.moe.moe.experts.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[ep], [], []]>} : !layer.tensor<[8, 7168, 2048], f8E4M3FN>
      %109 = layer.grouped_matmul(%107, %108) at "blocks.moe.moe.experts.gate_proj" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %110 = layer.weight() {axes = ["expert", "", "expert_ffn"]} at "blocks.moe.moe.experts.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[ep], [], []]>} : !layer.tensor<[8, 7168, 2048], f8E4M3FN>
      %111 = layer.grouped_matmul(%107, %110) at "blocks.moe.moe.experts.up_proj" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %112 = layer.silu_mul(%109, %111) at "blocks.moe.moe.experts.silu_mul" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 2048], bf16>
      %113 = layer.quantize(%112) at "blocks.moe.moe.experts.silu_mul.quantize" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 2048], f8E4M3FN>
      %114 = layer.weight() {axes = ["expert", "expert_ffn", ""]} at "blocks.moe.moe.experts.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[ep], [], []]>} : !layer.tensor<[8, 2048, 7168], f8E4M3FN>
      %115 = layer.grouped_matmul(%113, %114) at "blocks.moe.moe.experts.down_proj" : !layer.tensor<[8, ceildiv(batch*q_len*8, 256), 7168], bf16>
      %116 = dist.combine(%115, %106, %105) {axis = "ep"} at "blocks.moe.moe.combine" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %117 = layer.weight() {axes = ["", "ffn"]} at "blocks.moe.moe.shared.gate_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 2048], f8E4M3FN>
      %118 = layer.matmul(%101, %117) at "blocks.moe.moe.shared.gate_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 2048], bf16>
      %119 = layer.weight() {axes = ["", "ffn"]} at "blocks.moe.moe.shared.up_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 2048], f8E4M3FN>
      %120 = layer.matmul(%101, %119) at "blocks.moe.moe.shared.up_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 2048], bf16>
      %121 = layer.silu_mul(%118, %120) at "blocks.moe.moe.shared.silu_mul" : !layer.tensor<[ceildiv(batch, 32)*q_len, 2048], bf16>
      %122 = layer.quantize(%121) at "blocks.moe.moe.shared.silu_mul.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 2048], f8E4M3FN>
      %123 = layer.weight() {axes = ["ffn", ""]} at "blocks.moe.moe.shared.down_proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[2048, 7168], f8E4M3FN>
      %124 = layer.matmul(%122, %123) at "blocks.moe.moe.shared.down_proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %125 = layer.add(%116, %124) at "blocks.moe.moe.add_shared" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      %126 = layer.add(%98, %125) at "blocks.moe.moe.residual" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
      layer.yield([%126]) at "blocks.moe"
    }
    %127 = layer.weight() {axes = [""]} at "lm_head.norm.weight" attributes {dist.sharding = #dist.sharding<[[]]>} : !layer.tensor<[7168], bf16>
    %128 = layer.rms_norm(%57, %127) {eps = 1.0e-06, group = 7168} at "lm_head.norm" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], bf16>
    %129 = layer.quantize(%128) at "lm_head.norm.quantize" : !layer.tensor<[ceildiv(batch, 32)*q_len, 7168], f8E4M3FN>
    %130 = layer.weight() {axes = ["", "vocab"]} at "lm_head.proj.weight" attributes {dist.sharding = #dist.sharding<[[], []]>} : !layer.tensor<[7168, 129280], f8E4M3FN>
    %131 = layer.matmul(%129, %130) at "lm_head.proj" : !layer.tensor<[ceildiv(batch, 32)*q_len, 129280], bf16>
    layer.return([%131]) at "deepseek-v3" attributes {dist.results = [!layer.tensor<[batch*q_len, 129280], bf16, #dist.sharding<[[dp], []]>>]}
  }
}
