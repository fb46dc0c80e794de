        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %61 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%57, %61) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %62 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %63 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %64 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%63], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%64], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%62], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %65 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%58, %65) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %66 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%66, %61, %65) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %67 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%66], [%67], [%63, %64, %62]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core*8 + u, 256)*16, key = s*384>, rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>} at "blocks.dense.gqa.attention"
              %68 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%59, %68) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%62, %67, %68) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %69 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%62, %64], [%69], []) {kind = #tile.softmax_finish, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%60, %69) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for n < <11> at "blocks.dense.ffn.down_proj" {
            %95 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], f32>
            tile.for k < <38> at "blocks.dense.ffn.down_proj" {
              %96 = tile.alloc() {slots = 2, address = 393216} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
              tile.load(%26, %96) {offsets = [<floordiv(core, 4)*256>, <k*192>], sizes = [<256>, <min(-k*192 + 7168, 192)>]} at "blocks.dense.ffn.down_proj"
              %97 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[192, 192], bf16>
              tile.load(%13, %97) {offsets = [<layer>, <k*192>, <mod(core, 4)*2048 + n*192>], sizes = [<1>, <min(-k*192 + 7168, 192)>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
              tile.mma(%95, %96, %97) {m = <256>, n = <min(-n*192 + 2048, 192)>, k = <min(-k*192 + 7168, 192)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
            }
            %98 = tile.alloc() {slots = 2, address = 737280} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
            tile.vector([%95], [%98], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*192 + 2048, 192)>} at "blocks.dense.ffn.down_proj"
            tile.store(%28, %98) {offsets = [<floordiv(core, 4)*256>, <mod(core, 4)*2048 + n*192>], sizes = [<256>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
          }
        }
        tile.collective([%28], [%29]) {collective = #dist.reduce_scatter<tp, dim = 0>} at "blocks.dense.ffn.down_proj"
        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %165 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%161, %165) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %166 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %167 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %168 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%167], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%168], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%166], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %169 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%162, %169) {offsets = [<layer - 40>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %170 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%170, %165, %169) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %171 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%170], [%171], [%167, %168, %166]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core*8 + u, 256)*16, key = s*384>, rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>} at "blocks.dense.gqa.attention"
              %172 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%163, %172) {offsets = [<layer - 40>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%166, %171, %172) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %173 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%166, %168], [%173], []) {kind = #tile.softmax_finish, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%164, %173) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for n < <11> at "blocks.dense.ffn.down_proj" {
            %199 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], f32>
            tile.for k < <38> at "blocks.dense.ffn.down_proj" {
              %200 = tile.alloc() {slots = 2, address = 393216} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
              tile.load(%128, %200) {offsets = [<floordiv(core, 4)*256>, <k*192>], sizes = [<256>, <min(-k*192 + 7168, 192)>]} at "blocks.dense.ffn.down_proj"
              %201 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[192, 192], bf16>
              tile.load(%114, %201) {offsets = [<layer - 40>, <k*192>, <mod(core, 4)*2048 + n*192>], sizes = [<1>, <min(-k*192 + 7168, 192)>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
              tile.mma(%199, %200, %201) {m = <256>, n = <min(-n*192 + 2048, 192)>, k = <min(-k*192 + 7168, 192)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
            }
            %202 = tile.alloc() {slots = 2, address = 737280} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
            tile.vector([%199], [%202], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*192 + 2048, 192)>} at "blocks.dense.ffn.down_proj"
            tile.store(%130, %202) {offsets = [<floordiv(core, 4)*256>, <mod(core, 4)*2048 + n*192>], sizes = [<256>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
          }
        }
        tile.collective([%130], [%131]) {collective = #dist.reduce_scatter<tp, dim = 0>} at "blocks.dense.ffn.down_proj"
