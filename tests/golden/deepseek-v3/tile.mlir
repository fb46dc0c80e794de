      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.moe.mla.attention" {
        %317 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f8E4M3FN>
        %318 = tile.alloc() {slots = 1, address = 65536} at "blocks.moe.mla.attention" : !tile.buffer<[128, 64], f8E4M3FN>
        tile.load(%312, %317) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
        tile.load(%313, %318) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <64>]} at "blocks.moe.mla.attention"
        %319 = tile.alloc() {slots = 1, address = 73728} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], f32>
        %320 = tile.alloc() {slots = 1, address = 335872} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        %321 = tile.alloc() {slots = 1, address = 336384} at "blocks.moe.mla.attention" : !tile.buffer<[128, 1], f32>
        tile.vector([], [%320], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%321], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        tile.vector([], [%319], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.for s < <16> at "blocks.moe.mla.attention" {
          %322 = tile.alloc() {slots = 2, address = 336896} at "blocks.moe.mla.attention" : !tile.buffer<[256, 512], f8E4M3FN>
          tile.load(%314, %322) {offsets = [<layer>, <core>, <s*256>, <0>, <0>], sizes = [<1>, <1>, <256>, <1>, <512>]} at "blocks.moe.mla.attention"
          %323 = tile.alloc() {slots = 2, address = 599040} at "blocks.moe.mla.attention" : !tile.buffer<[256, 64], f8E4M3FN>
          tile.load(%315, %323) {offsets = [<layer>, <core>, <s*256>, <0>, <0>], sizes = [<1>, <1>, <256>, <1>, <64>]} at "blocks.moe.mla.attention"
          %324 = tile.alloc() {slots = 1, address = 631808} at "blocks.moe.mla.attention" : !tile.buffer<[128, 256], f32>
          tile.mma(%324, %317, %322) {m = <128>, n = <256>, k = <512>, accumulate = <0>, transpose_b = true} at "blocks.moe.mla.attention"
          tile.mma(%324, %318, %323) {m = <128>, n = <256>, k = <64>, accumulate = <1>, transpose_b = true} at "blocks.moe.mla.attention"
          %325 = tile.alloc() {slots = 1, address = 762880} at "blocks.moe.mla.attention" : !tile.buffer<[128, 256], f8E4M3FN>
          tile.vector([%324], [%325], [%320, %321, %319]) {kind = #tile.softmax_step<scale = 0.1352337788608801, causal = false, position = floordiv(row, 128) + 4095, key = s*256>, rows = <128>, columns = <256>} at "blocks.moe.mla.attention"
          tile.mma(%319, %325, %322) {m = <128>, n = <512>, k = <256>, accumulate = <1>, transpose_b = false} at "blocks.moe.mla.attention"
        }
        %326 = tile.alloc() {slots = 1, address = 795648} at "blocks.moe.mla.attention" : !tile.buffer<[128, 512], bf16>
        tile.vector([%319, %321], [%326], []) {kind = #tile.softmax_finish, rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        tile.store(%316, %326) {offsets = [<core>, <0>, <0>, <0>], sizes = [<1>, <1>, <128>, <512>]} at "blocks.moe.mla.attention"
      }
      tile.collective([%86, %89], [%90]) {collective = #dist.dispatch<ep>} at "blocks.moe.moe.dispatch"
      tile.kernel() {cores = 64, op_name = "layer.grouped_matmul"} at "blocks.moe.moe.experts.gate_proj" {
        %368 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], f32>
        tile.for k < <6> at "blocks.moe.moe.experts.gate_proj" {
          %369 = tile.alloc() {slots = 2, address = 65536} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 1312], f8E4M3FN>
          tile.load(%90, %369) {serves = #tile.cores<floordiv(core, 8)*8, 8>, offsets = [<floordiv(core, 8)>, <0>, <k*1312>], sizes = [<1>, <64>, <min(-k*1312 + 7168, 1312)>]} at "blocks.moe.moe.experts.gate_proj"
          %370 = tile.alloc() {slots = 2, address = 233472} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[1312, 256], f8E4M3FN>
          tile.load(%30, %370) {offsets = [<layer>, <floordiv(core, 8)>, <k*1312>, <mod(core, 8)*256>], sizes = [<1>, <1>, <min(-k*1312 + 7168, 1312)>, <256>]} at "blocks.moe.moe.experts.gate_proj"
          tile.mma(%368, %369, %370) {m = <64>, n = <256>, k = <min(-k*1312 + 7168, 1312)>, accumulate = <k>, transpose_b = false} at "blocks.moe.moe.experts.gate_proj"
        }
        %371 = tile.alloc() {slots = 1, address = 905216} at "blocks.moe.moe.experts.gate_proj" : !tile.buffer<[64, 256], bf16>
        tile.vector([%368], [%371], []) {kind = #tile.convert, rows = <64>, columns = <256>} at "blocks.moe.moe.experts.gate_proj"
        tile.store(%91, %371) {offsets = [<floordiv(core, 8)>, <0>, <mod(core, 8)*256>], sizes = [<1>, <64>, <256>]} at "blocks.moe.moe.experts.gate_proj"
      }
