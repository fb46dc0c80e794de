      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.moe.mla.attention" {
        %311 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f8E4M3FN>
        %312 = tile.alloc() {slots = 1, address = 65536} at "blocks.moe.mla.attention" : !tile.buffer<[128, 64], f8E4M3FN>
        tile.load(%306, %311) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
        tile.load(%307, %312) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <64>]} at "blocks.moe.mla.attention"
        %313 = tile.alloc() {slots = 1, address = 73728} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f32>
        %314 = tile.alloc() {slots = 1, address = 335872} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        %315 = tile.alloc() {slots = 1, address = 336384} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        tile.vector([], [%314], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%315], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%313], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.for s < <22> at "blocks.moe.mla.attention" {
          %316 = tile.alloc() {slots = 2, address = 336896} at "blocks.moe.mla.attention" : !tile.buffer<[192, 512], f8E4M3FN>
          tile.load(%308, %316) {offsets = [<layer>, <core>, <s*192>, <0>, <0>], sizes = [<1>, <1>, <min(-s*192 + 4096, 192)>, <1>, <512>]} at "blocks.moe.mla.attention"
          %317 = tile.alloc() {slots = 2, address = 533504} at "blocks.moe.mla.attention" : !tile.buffer<[192, 64], f8E4M3FN>
          tile.load(%309, %317) {offsets = [<layer>, <core>, <s*192>, <0>, <0>], sizes = [<1>, <1>, <min(-s*192 + 4096, 192)>, <1>, <64>]} at "blocks.moe.mla.attention"
          %318 = tile.alloc() {slots = 1, address = 655360} at "blocks.moe.mla.attention" : !tile.buffer<[128, 192], f32>
          tile.mma(%318, %311, %316) {m = <128>, n = <min(-s*192 + 4096, 192)>, k = <512>, accumulate = <0>, transpose_b = true} at "blocks.moe.mla.attention"
          tile.mma(%318, %312, %317) {m = <128>, n = <min(-s*192 + 4096, 192)>, k = <64>, accumulate = <1>, transpose_b = true} at "blocks.moe.mla.attention"
          %319 = tile.alloc() {slots = 1, address = 753664} at "blocks.moe.mla.attention" : !tile.buffer<[128, 192], bf16>
          tile.vector([%318], [%319], [%314, %315, %313]) {kind = #tile.softmax_step<scale = 0.1352337788608801, causal = false, position = floordiv(row, 128) + 4095, key = s*192>, rows = <128>, columns = <min(-s*192 + 4096, 192)>} at "blocks.moe.mla.attention"
          tile.mma(%313, %319, %316) {m = <128>, n = <512>, k = <min(-s*192 + 4096, 192)>, accumulate = <1>, transpose_b = false} at "blocks.moe.mla.attention"
        }
        %320 = tile.alloc() {slots = 1, address = 802816} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], bf16>
        tile.vector([%313, %315], [%320], []) {kind = #tile.softmax_finish, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.store(%310, %320) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
      }
      tile.collective([%80, %85], [%86]) {collective = #dist.dispatch<ep>} at "blocks.moe.moe.dispatch"
      tile.kernel() {cores = 64, op_name = "layer.grouped_matmul"} at "blocks.moe.moe.experts.gate_proj" {
        %360 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], f32>
        tile.for k < <7> at "blocks.moe.moe.experts.gate_proj" {
          %361 = tile.alloc() {slots = 2, address = 131072} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 1024], f8E4M3FN>
          tile.load(%86, %361) {offsets = [<floordiv(core, 8)>, <0>, <k*1024>], sizes = [<1>, <64>, <1024>]} at "blocks.moe.moe.experts.gate_proj"
          %362 = tile.alloc() {slots = 2, address = 262144} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[1024, 256], f8E4M3FN>
          tile.load(%87, %362) {offsets = [<layer>, <floordiv(core, 8)>, <k*1024>, <mod(core, 8)*256>], sizes = [<1>, <1>, <1024>, <256>]} at "blocks.moe.moe.experts.gate_proj"
          tile.mma(%360, %361, %362) {m = <64>, n = <256>, k = <1024>, accumulate = <k>, transpose_b = false} at "blocks.moe.moe.experts.gate_proj"
        }
        %363 = tile.alloc() {slots = 1, address = 786432} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], bf16>
        tile.vector([%360], [%363], []) {kind = #tile.convert, rows = <64>, columns = <256>} at "blocks.moe.moe.experts.gate_proj"
        tile.store(%88, %363) {offsets = [<floordiv(core, 8)>, <0>, <mod(core, 8)*256>], sizes = [<1>, <64>, <256>]} at "blocks.moe.moe.experts.gate_proj"
      }
