      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.moe.mla.attention" {
        %301 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f8E4M3FN>
        %302 = tile.alloc() {slots = 1, address = 65536} at "blocks.moe.mla.attention" : !tile.buffer<[128, 64], f8E4M3FN>
        tile.load(%296, %301) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
        tile.load(%297, %302) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <64>]} at "blocks.moe.mla.attention"
        %303 = tile.alloc() {slots = 1, address = 73728} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f32>
        %304 = tile.alloc() {slots = 1, address = 335872} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        %305 = tile.alloc() {slots = 1, address = 336384} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        tile.vector([], [%304], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%305], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%303], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.for s < <22> at "blocks.moe.mla.attention" {
          %306 = tile.alloc() {slots = 2, address = 336896} at "blocks.moe.mla.attention" : !tile.buffer<[192, 512], f8E4M3FN>
          tile.load(%298, %306) {offsets = [<layer>, <core>, <s*192>, <0>, <0>], sizes = [<1>, <1>, <min(-s*192 + 4096, 192)>, <1>, <512>]} at "blocks.moe.mla.attention"
          %307 = tile.alloc() {slots = 2, address = 533504} at "blocks.moe.mla.attention" : !tile.buffer<[192, 64], f8E4M3FN>
          tile.load(%299, %307) {offsets = [<layer>, <core>, <s*192>, <0>, <0>], sizes = [<1>, <1>, <min(-s*192 + 4096, 192)>, <1>, <64>]} at "blocks.moe.mla.attention"
          %308 = tile.alloc() {slots = 1, address = 655360} at "blocks.moe.mla.attention" : !tile.buffer<[128, 192], f32>
          tile.mma(%308, %301, %306) {m = <128>, n = <min(-s*192 + 4096, 192)>, k = <512>, accumulate = <0>, transpose_b = true} at "blocks.moe.mla.attention"
          tile.mma(%308, %302, %307) {m = <128>, n = <min(-s*192 + 4096, 192)>, k = <64>, accumulate = <1>, transpose_b = true} at "blocks.moe.mla.attention"
          %309 = tile.alloc() {slots = 1, address = 753664} at "blocks.moe.mla.attention" : !tile.buffer<[128, 192], bf16>
          tile.vector([%308], [%309], [%304, %305, %303]) {kind = #tile.softmax_step<scale = 0.1352337788608801, causal = false, position = floordiv(row, 128) + 4095, key = s*192>, rows = <128>, columns = <min(-s*192 + 4096, 192)>} at "blocks.moe.mla.attention"
          tile.mma(%303, %309, %306) {m = <128>, n = <512>, k = <min(-s*192 + 4096, 192)>, accumulate = <1>, transpose_b = false} at "blocks.moe.mla.attention"
        }
        %310 = tile.alloc() {slots = 1, address = 802816} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], bf16>
        tile.vector([%303, %305], [%310], []) {kind = #tile.softmax_finish, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.store(%300, %310) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
      }
      tile.collective([%86, %89], [%90]) {collective = #dist.dispatch<ep>} at "blocks.moe.moe.dispatch"
      tile.kernel() {cores = 64, op_name = "layer.grouped_matmul"} at "blocks.moe.moe.experts.gate_proj" {
        %349 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], f32>
        tile.for k < <7> at "blocks.moe.moe.experts.gate_proj" {
          %350 = tile.alloc() {slots = 2, address = 131072} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 1024], f8E4M3FN>
          tile.load(%90, %350) {offsets = [<floordiv(core, 8)>, <0>, <k*1024>], sizes = [<1>, <64>, <1024>]} at "blocks.moe.moe.experts.gate_proj"
          %351 = tile.alloc() {slots = 2, address = 262144} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[1024, 256], f8E4M3FN>
          tile.load(%30, %351) {offsets = [<layer>, <floordiv(core, 8)>, <k*1024>, <mod(core, 8)*256>], sizes = [<1>, <1>, <1024>, <256>]} at "blocks.moe.moe.experts.gate_proj"
          tile.mma(%349, %350, %351) {m = <64>, n = <256>, k = <1024>, accumulate = <k>, transpose_b = false} at "blocks.moe.moe.experts.gate_proj"
        }
        %352 = tile.alloc() {slots = 1, address = 786432} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], bf16>
        tile.vector([%349], [%352], []) {kind = #tile.convert, rows = <64>, columns = <256>} at "blocks.moe.moe.experts.gate_proj"
        tile.store(%91, %352) {offsets = [<floordiv(core, 8)>, <0>, <mod(core, 8)*256>], sizes = [<1>, <64>, <256>]} at "blocks.moe.moe.experts.gate_proj"
      }
