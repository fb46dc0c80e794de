      tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.gqa.q_proj" {
        %32 = tile.alloc() {slots = 1, address = 0} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 64], f32>
        tile.for k < <3> at "blocks.dense.gqa.q_proj" {
          %33 = tile.alloc() {slots = 2, address = 131072} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 1536], bf16>
          tile.load(%16, %33) {offsets = [<0>, <k*1536>], sizes = [<32>, <min(-k*1536 + 4096, 1536)>]} at "blocks.dense.gqa.q_proj"
          %34 = tile.alloc() {slots = 2, address = 327680} at "blocks.dense.gqa.q_proj" : !tile.buffer<[1536, 64], bf16>
          tile.load(%3, %34) {offsets = [<layer>, <k*1536>, <core*64>], sizes = [<1>, <min(-k*1536 + 4096, 1536)>, <64>]} at "blocks.dense.gqa.q_proj"
          tile.mma(%32, %33, %34) {m = <32>, n = <64>, k = <min(-k*1536 + 4096, 1536)>, accumulate = <k>, transpose_b = false} at "blocks.dense.gqa.q_proj"
        }
        %35 = tile.alloc() {slots = 1, address = 720896} at "blocks.dense.gqa.q_proj" : !tile.buffer<[32, 64], bf16>
        tile.vector([%32], [%35], []) {kind = #tile.convert, rows = <32>, columns = <64>} at "blocks.dense.gqa.q_proj"
        tile.store(%17, %35) {offsets = [<0>, <core*64>], sizes = [<32>, <64>]} at "blocks.dense.gqa.q_proj"
      }
      tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
        tile.for u < <4> at "blocks.dense.gqa.attention" {
          %58 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.load(%54, %58) {offsets = [<floordiv(core*4 + u, 8)>, <0>, <mod(core*4 + u, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
          %59 = tile.alloc() {slots = 1, address = 8192} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], f32>
          %60 = tile.alloc() {slots = 1, address = 16384} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          %61 = tile.alloc() {slots = 1, address = 16448} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 1], f32>
          tile.vector([], [%60], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%61], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          tile.vector([], [%59], []) {kind = #tile.fill<value = 0.0>, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.for s < <6> at "blocks.dense.gqa.attention" {
            %62 = tile.alloc() {slots = 2, address = 16512} at "blocks.dense.gqa.attention" : !tile.buffer<[768, 128], bf16>
            tile.load(%55, %62) {offsets = [<layer>, <floordiv(core*4 + u, 8)>, <s*768>, <mod(core*4 + u, 8)>, <0>], sizes = [<1>, <1>, <min(-s*768 + 4096, 768)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            %63 = tile.alloc() {slots = 1, address = 409728} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 768], f32>
            tile.mma(%63, %58, %62) {m = <4>, n = <min(-s*768 + 4096, 768)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
            %64 = tile.alloc() {slots = 1, address = 458880} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 768], bf16>
            tile.vector([%63], [%64], [%60, %61, %59]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = false, position = floordiv(row, 4) + 4095, key = s*768>, rows = <4>, columns = <min(-s*768 + 4096, 768)>} at "blocks.dense.gqa.attention"
            %65 = tile.alloc() {slots = 2, address = 483456} at "blocks.dense.gqa.attention" : !tile.buffer<[768, 128], bf16>
            tile.load(%56, %65) {offsets = [<layer>, <floordiv(core*4 + u, 8)>, <s*768>, <mod(core*4 + u, 8)>, <0>], sizes = [<1>, <1>, <min(-s*768 + 4096, 768)>, <1>, <128>]} at "blocks.dense.gqa.attention"
            tile.mma(%59, %64, %65) {m = <4>, n = <128>, k = <min(-s*768 + 4096, 768)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
          }
          %66 = tile.alloc() {slots = 2, address = 876672} at "blocks.dense.gqa.attention" : !tile.buffer<[16, 128], bf16>
          tile.vector([%59, %61], [%66], []) {kind = #tile.softmax_finish, rows = <4>, columns = <128>} at "blocks.dense.gqa.attention"
          tile.store(%57, %66) {offsets = [<floordiv(core*4 + u, 8)>, <0>, <mod(core*4 + u, 8)*4>, <0>], sizes = [<1>, <1>, <4>, <128>]} at "blocks.dense.gqa.attention"
        }
      }
      tile.kernel() {cores = 56, op_name = "layer.silu_mul"} at "blocks.dense.ffn.silu_mul" {
        tile.for o < <2> at "blocks.dense.ffn.silu_mul" {
          %89 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          %90 = tile.alloc() {slots = 2, address = 16384} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.load(%87, %89) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          tile.load(%88, %90) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
          %91 = tile.alloc() {slots = 2, address = 32768} at "blocks.dense.ffn.silu_mul" : !tile.buffer<[2, 2048], bf16>
          tile.vector([%89, %90], [%91], []) {kind = #tile.silu_mul, rows = <2>, columns = <2048>} at "blocks.dense.ffn.silu_mul"
          tile.store(%87, %91) {offsets = [<core*4 + o*2>, <0>], sizes = [<2>, <2048>]} at "blocks.dense.ffn.silu_mul"
        }
      }
