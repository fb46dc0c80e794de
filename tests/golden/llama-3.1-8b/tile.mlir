      tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.gqa.q_proj" {
        %37 = tile.alloc() {slots = 1, address = 0} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 64], f32>
        tile.for k < <3> at "blocks.dense.gqa.q_proj" {
          %38 = tile.alloc() {slots = 2, address = 131072} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 1536], bf16>
          tile.load(%4, %38) {offsets = [<0>, <k*1536>], sizes = [<32>, <min(-k*1536 + 4096, 1536)>]} at "blocks.dense.gqa.q_proj"
          %39 = tile.alloc() {slots = 2, address = 327680} at "blocks.dense.gqa.q_proj" : !tile.buffer<[1536, 64], bf16>
          tile.load(%5, %39) {offsets = [<layer>, <k*1536>, <core*64>], sizes = [<1>, <min(-k*1536 + 4096, 1536)>, <64>]} at "blocks.dense.gqa.q_proj"
          tile.mma(%37, %38, %39) {m = <32>, n = <64>, k = <min(-k*1536 + 4096, 1536)>, accumulate = <k>, transpose_b = false} at "blocks.dense.gqa.q_proj"
        }
        %40 = tile.alloc() {slots = 1, address = 720896} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 64], bf16>
        tile.vector([%37], [%40], []) {kind = #tile.convert, rows = <32>, columns = <64>} at "blocks.dense.gqa.q_proj"
        tile.store(%6, %40) {offsets = [<0>, <core*64>], sizes = [<32>, <64>]} at "blocks.dense.gqa.q_proj"
      }
      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
        tile.for u < <4> at "blocks.dense.gqa.attention" {
          %65 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.load(%61, %65) {offsets = [<floordiv(core*4 + u, 8)>, <0>, <mod(core*4 + u, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
          %66 = tile.alloc() {slots = 1, address = 8192} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], f32>
          %67 = tile.alloc() {slots = 1, address = 16384} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          %68 = tile.alloc() {slots = 1, address = 16448} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          tile.vector([], [%67], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%68], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%66], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.for s < <6> at "blocks.dense.gqa.attention" {
            %69 = tile.alloc() {slots = 2, address = 16512} at "blocks.dense.gqa.attention" : !tile.buffer<[768, 128], bf16>
            tile.load(%62, %69) {offsets = [<layer>, <floordiv(core*4 + u, 8)>, <s*768>, <mod(core*4 + u, 8)>, <0>], sizes = [<1>, <1>, <min(-s*768 + 4096, 768)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            %70 = tile.alloc() {slots = 1, address = 409728} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 768], f32>
            tile.mma(%70, %65, %69) {m = <4>, n = <min(-s*768 + 4096, 768)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
            %71 = tile.alloc() {slots = 1, address = 458880} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 768], bf16>
            tile.vector([%70], [%71], [%67, %68, %66]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = false, position = floordiv(row, 4) + 4095, key = s*768>, rows = <4>, columns = <min(-s*768 + 4096, 768)>} at "blocks.dense.gqa.attention"
            %72 = tile.alloc() {slots = 2, address = 483456} at "blocks.dense.gqa.attention" : !tile.buffer<[768, 128], bf16>
            tile.load(%63, %72) {offsets = [<layer>, <floordiv(core*4 + u, 8)>, <s*768>, <mod(core*4 + u, 8)>, <0>], sizes = [<1>, <1>, <min(-s*768 + 4096, 768)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            tile.mma(%66, %71, %72) {m = <4>, n = <128>, k = <min(-s*768 + 4096, 768)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
          }
          %73 = tile.alloc() {slots = 2, address = 876672} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.vector([%66, %68], [%73], []) {kind = #tile.softmax_finish, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.store(%64, %73) {offsets = [<floordiv(core*4 + u, 8)>, <0>, <mod(core*4 + u, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
        }
      }
      tile.kernel() {cores = 56, op_name = "layer.silu_mul"} at "blocks.dense.ffn.silu_mul" {
        tile.for o < <2> at "blocks.dense.ffn.silu_mul" {
          %98 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          %99 = tile.alloc() {slots = 2, address = 16384} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.load(%95, %98) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          tile.load(%96, %99) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          %100 = tile.alloc() {slots = 2, address = 32768} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.vector([%98, %99], [%100], []) {kind = #tile.silu_mul, rows = <2>, columns = <2048>} at "blocks.dense.ffn.silu_mul"
          tile.store(%97, %100) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
        }
      }
