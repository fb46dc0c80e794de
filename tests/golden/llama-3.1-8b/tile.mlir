      tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.gqa.q_proj" {
        %37 = tile.alloc() {slots = 1, address = 0} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 256], f32>
        tile.for k < <2> at "blocks.dense.gqa.q_proj" {
          %38 = tile.alloc() {slots = 2, address = 32768} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 720], bf16>
          tile.load(%16, %38) {serves = #tile.cores<mod(core, 4), 16 stride 4>, offsets = [<0>, <k*720 + mod(core, 4)*1024>], sizes = [<32>, <min(-k*720 + 1024, 720)>]} at "blocks.dense.gqa.q_proj"
          %39 = tile.alloc() {slots = 2, address = 131072} at "blocks.dense.gqa.q_proj" : !tile.buffer<[720, 256], bf16>
          tile.load(%3, %39) {offsets = [<layer>, <k*720 + mod(core, 4)*1024>, <floordiv(core, 4)*256>], sizes = [<1>, <min(-k*720 + 1024, 720)>, <256>]} at "blocks.dense.gqa.q_proj"
          tile.mma(%37, %38, %39) {m = <32>, n = <256>, k = <min(-k*720 + 1024, 720)>, accumulate = <k>, transpose_b = false} at "blocks.dense.gqa.q_proj"
        }
        tile.store(%27, %37) {offsets = [<mod(core, 4)>, <0>, <0>, <floordiv(core, 4)*256>], sizes = [<1>, <1>, <32>, <256>]} at "blocks.dense.gqa.q_proj"
        tile.barrier() at "blocks.dense.gqa.q_proj"
        tile.for r < <ceildiv(max(min(-mod(core, 4)*8 + 32, 8), 0), 8)> at "blocks.dense.gqa.q_proj" {
          %40 = tile.alloc() {slots = 1, address = 868352} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 256], f32>
          tile.load(%27, %40) {offsets = [<0>, <0>, <mod(core, 4)*8 + r*8>, <floordiv(core, 4)*256>], sizes = [<4>, <1>, <max(min(-mod(core, 4)*8 + 32, 8), 0)>, <256>]} at "blocks.dense.gqa.q_proj"
          %41 = tile.alloc() {slots = 1, address = 901120} at "blocks.dense.gqa.q_proj" : !tile.buffer<[8, 256], bf16>
          tile.vector([%40], [%41], []) {kind = #tile.sum_parts<parts = 4>, rows = <max(min(-mod(core, 4)*8 + 32, 8), 0)>, columns = <256>} at "blocks.dense.gqa.q_proj"
          tile.store(%17, %41) {offsets = [<mod(core, 4)*8 + r*8>, <floordiv(core, 4)*256>], sizes = [<max(min(-mod(core, 4)*8 + 32, 8), 0)>, <256>]} at "blocks.dense.gqa.q_proj"
        }
      }
      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
        tile.for p < <4> at "blocks.dense.gqa.attention" {
          %66 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.load(%62, %66) {offsets = [<floordiv(core*4 + p, 8)>, <0>, <mod(core*4 + p, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
          %67 = tile.alloc() {slots = 1, address = 8192} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], f32>
          %68 = tile.alloc() {slots = 1, address = 16384} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          %69 = tile.alloc() {slots = 1, address = 16448} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          tile.vector([], [%68], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%69], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%67], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.for s < <6> at "blocks.dense.gqa.attention" {
            %70 = tile.alloc() {slots = 2, address = 16512} at "blocks.dense.gqa.attention" : !tile.buffer<[688, 128], bf16>
            tile.load(%63, %70) {offsets = [<layer>, <floordiv(core*4 + p, 8)>, <s*688>, <mod(core*4 + p, 8)>, <0>], sizes = [<1>, <1>, <min(-s*688 + 4096, 688)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            %71 = tile.alloc() {slots = 2, address = 368768} at "blocks.dense.gqa.attention" : !tile.buffer<[688, 128], bf16>
            tile.load(%64, %71) {offsets = [<layer>, <floordiv(core*4 + p, 8)>, <s*688>, <mod(core*4 + p, 8)>, <0>], sizes = [<1>, <1>, <min(-s*688 + 4096, 688)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            %72 = tile.alloc() {slots = 1, address = 721024} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 688], f32>
            tile.mma(%72, %66, %70) {m = <4>, n = <min(-s*688 + 4096, 688)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
            %73 = tile.alloc() {slots = 1, address = 765056} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 688], bf16>
            tile.vector([%72], [%73], [%68, %69, %67]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = false, position = floordiv(row, 4) + 4095, key = s*688>, rows = <4>, columns = <min(-s*688 + 4096, 688)>} at "blocks.dense.gqa.attention"
            tile.mma(%67, %73, %71) {m = <4>, n = <128>, k = <min(-s*688 + 4096, 688)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
          }
          %74 = tile.alloc() {slots = 2, address = 787072} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.vector([%67, %69], [%74], []) {kind = #tile.softmax_finish, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.store(%65, %74) {late = unit, offsets = [<floordiv(core*4 + p, 8)>, <0>, <mod(core*4 + p, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
        }
      }
      tile.kernel() {cores = 56, op_name = "layer.silu_mul"} at "blocks.dense.ffn.silu_mul" {
        tile.for o < <2> at "blocks.dense.ffn.silu_mul" {
          %98 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          %99 = tile.alloc() {slots = 2, address = 16384} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.load(%96, %98) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          tile.load(%97, %99) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          %100 = tile.alloc() {slots = 2, address = 32768} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.vector([%98, %99], [%100], []) {kind = #tile.silu_mul, rows = <2>, columns = <2048>} at "blocks.dense.ffn.silu_mul"
          tile.store(%96, %100) {late = unit, offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
        }
      }
