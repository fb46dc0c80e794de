        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %66 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%62, %66) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %67 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %68 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %69 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%68], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%69], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%67], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %70 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%63, %70) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %71 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%71, %66, %70) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %72 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%71], [%72], [%68, %69, %67]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core*8 + u, 256)*16, key = s*384>, rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>} at "blocks.dense.gqa.attention"
              %73 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%64, %73) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%67, %72, %73) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %74 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%67, %69], [%74], []) {kind = #tile.softmax_finish, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%65, %74) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for n < <11> at "blocks.dense.ffn.down_proj" {
            %102 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], f32>
            tile.for k < <38> at "blocks.dense.ffn.down_proj" {
              %103 = tile.alloc() {slots = 2, address = 393216} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
              tile.load(%29, %103) {offsets = [<floordiv(core, 4)*256>, <k*192>], sizes = [<256>, <min(-k*192 + 7168, 192)>]} at "blocks.dense.ffn.down_proj"
              %104 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[192, 192], bf16>
              tile.load(%30, %104) {offsets = [<layer>, <k*192>, <mod(core, 4)*2048 + n*192>], sizes = [<1>, <min(-k*192 + 7168, 192)>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
              tile.mma(%102, %103, %104) {m = <256>, n = <min(-n*192 + 2048, 192)>, k = <min(-k*192 + 7168, 192)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
            }
            %105 = tile.alloc() {slots = 2, address = 737280} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
            tile.vector([%102], [%105], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*192 + 2048, 192)>} at "blocks.dense.ffn.down_proj"
            tile.store(%31, %105) {offsets = [<floordiv(core, 4)*256>, <mod(core, 4)*2048 + n*192>], sizes = [<256>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
          }
        }
        tile.collective([%31], [%32]) {collective = #dist.reduce_scatter<tp, dim = 0>} at "blocks.dense.ffn.down_proj"
        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %178 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%174, %178) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %179 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %180 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %181 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%180], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%181], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%179], []) {kind = #tile.fill<value = 0.0>, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %182 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%175, %182) {offsets = [<layer - 40>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %183 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%183, %178, %182) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %184 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%183], [%184], [%180, %181, %179]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core*8 + u, 256)*16, key = s*384>, rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>} at "blocks.dense.gqa.attention"
              %185 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%176, %185) {offsets = [<layer - 40>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%179, %184, %185) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %186 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%179, %181], [%186], []) {kind = #tile.softmax_finish, rows = <128>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%177, %186) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for n < <11> at "blocks.dense.ffn.down_proj" {
            %214 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], f32>
            tile.for k < <38> at "blocks.dense.ffn.down_proj" {
              %215 = tile.alloc() {slots = 2, address = 393216} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
              tile.load(%136, %215) {offsets = [<floordiv(core, 4)*256>, <k*192>], sizes = [<256>, <min(-k*192 + 7168, 192)>]} at "blocks.dense.ffn.down_proj"
              %216 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[192, 192], bf16>
              tile.load(%137, %216) {offsets = [<layer - 40>, <k*192>, <mod(core, 4)*2048 + n*192>], sizes = [<1>, <min(-k*192 + 7168, 192)>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
              tile.mma(%214, %215, %216) {m = <256>, n = <min(-n*192 + 2048, 192)>, k = <min(-k*192 + 7168, 192)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
            }
            %217 = tile.alloc() {slots = 2, address = 737280} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 192], bf16>
            tile.vector([%214], [%217], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*192 + 2048, 192)>} at "blocks.dense.ffn.down_proj"
            tile.store(%138, %217) {offsets = [<floordiv(core, 4)*256>, <mod(core, 4)*2048 + n*192>], sizes = [<256>, <min(-n*192 + 2048, 192)>]} at "blocks.dense.ffn.down_proj"
          }
        }
        tile.collective([%138], [%139]) {collective = #dist.reduce_scatter<tp, dim = 0>} at "blocks.dense.ffn.down_proj"
