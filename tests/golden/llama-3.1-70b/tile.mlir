        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <16> at "blocks.dense.gqa.attention" {
            %61 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], bf16>
            tile.load(%57, %61) {offsets = [<floordiv(core, 64)>, <mod(core, 32)*8 + u*256>, <mod(floordiv(core, 32), 2)*8>, <0>], sizes = [<1>, <8>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %62 = tile.alloc() {slots = 1, address = 32768} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], f32>
            %63 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 1], f32>
            %64 = tile.alloc() {slots = 1, address = 65792} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 1], f32>
            tile.vector([], [%63], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%64], []) {kind = #tile.fill<value = 0.0>, rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%62], []) {kind = #tile.fill<value = 0.0>, rows = <64>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(min(mod(core, 32)*8 + u*256 + 8, 4096), 512)> at "blocks.dense.gqa.attention" {
              %65 = tile.alloc() {slots = 2, address = 66048} at "blocks.dense.gqa.attention" : !tile.buffer<[512, 128], bf16>
              tile.load(%58, %65) {serves = #tile.cores<floordiv(core, 32)*32, 32>, offsets = [<layer>, <floordiv(core, 64)>, <s*512>, <mod(floordiv(core, 32), 2)>, <0>], sizes = [<1>, <1>, <512>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %66 = tile.alloc() {slots = 2, address = 328192} at "blocks.dense.gqa.attention" : !tile.buffer<[512, 128], bf16>
              tile.load(%59, %66) {serves = #tile.cores<floordiv(core, 32)*32, 32>, offsets = [<layer>, <floordiv(core, 64)>, <s*512>, <mod(floordiv(core, 32), 2)>, <0>], sizes = [<1>, <1>, <512>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %67 = tile.alloc() {slots = 1, address = 590336} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 512], f32>
              tile.mma(%67, %61, %65) {m = <64>, n = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %68 = tile.alloc() {slots = 1, address = 721408} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 512], bf16>
              tile.vector([%67], [%68], [%63, %64, %62]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core, 32)*8 + u*256, key = s*512>, rows = <64>, columns = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>} at "blocks.dense.gqa.attention"
              tile.mma(%62, %68, %66) {m = <64>, n = <128>, k = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %69 = tile.alloc() {slots = 2, address = 786944} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], bf16>
            tile.vector([%62, %64], [%69], []) {kind = #tile.softmax_finish, rows = <64>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%60, %69) {late = unit, offsets = [<floordiv(core, 64)>, <mod(core, 32)*8 + u*256>, <mod(floordiv(core, 32), 2)*8>, <0>], sizes = [<1>, <8>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for m < <2> at "blocks.dense.ffn.down_proj" {
            tile.for n < <5> at "blocks.dense.ffn.down_proj" {
              %95 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 208], f32>
              tile.for k < <45> at "blocks.dense.ffn.down_proj" {
                %96 = tile.alloc() {slots = 2, address = 425984} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 160], bf16>
                tile.load(%26, %96) {serves = #tile.cores<floordiv(core, 8)*8, 8>, offsets = [<floordiv(core, 8)*512 + m*256>, <k*160>], sizes = [<256>, <min(-k*160 + 7168, 160)>]} at "blocks.dense.ffn.down_proj"
                %97 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[160, 208], bf16>
                tile.load(%13, %97) {serves = #tile.cores<mod(core, 8), 8 stride 8>, offsets = [<layer>, <k*160>, <mod(core, 8)*1024 + n*208>], sizes = [<1>, <min(-k*160 + 7168, 160)>, <min(-n*208 + 1024, 208)>]} at "blocks.dense.ffn.down_proj"
                tile.mma(%95, %96, %97) {m = <256>, n = <min(-n*208 + 1024, 208)>, k = <min(-k*160 + 7168, 160)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
              }
              %98 = tile.alloc() {slots = 2, address = 722944} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 208], bf16>
              tile.vector([%95], [%98], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*208 + 1024, 208)>} at "blocks.dense.ffn.down_proj"
              tile.store(%28, %98) {late = unit, offsets = [<floordiv(core, 8)*512 + m*256>, <mod(core, 8)*1024 + n*208>], sizes = [<256>, <min(-n*208 + 1024, 208)>]} at "blocks.dense.ffn.down_proj"
            }
          }
        }
        tile.collective([%28], [%29]) {collective = #dist.reduce_scatter<tp, dim = 0>, algorithm = #dist.direct} at "blocks.dense.ffn.down_proj"
        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <16> at "blocks.dense.gqa.attention" {
            %165 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], bf16>
            tile.load(%161, %165) {offsets = [<floordiv(core, 64)>, <mod(core, 32)*8 + u*256>, <mod(floordiv(core, 32), 2)*8>, <0>], sizes = [<1>, <8>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %166 = tile.alloc() {slots = 1, address = 32768} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], f32>
            %167 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 1], f32>
            %168 = tile.alloc() {slots = 1, address = 65792} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 1], f32>
            tile.vector([], [%167], []) {kind = #tile.fill<value = 0xfff0000000000000 : f64>, rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%168], []) {kind = #tile.fill<value = 0.0>, rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            tile.vector([], [%166], []) {kind = #tile.fill<value = 0.0>, rows = <64>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(min(mod(core, 32)*8 + u*256 + 8, 4096), 512)> at "blocks.dense.gqa.attention" {
              %169 = tile.alloc() {slots = 2, address = 66048} at "blocks.dense.gqa.attention" : !tile.buffer<[512, 128], bf16>
              tile.load(%162, %169) {serves = #tile.cores<floordiv(core, 32)*32, 32>, offsets = [<layer - 40>, <floordiv(core, 64)>, <s*512>, <mod(floordiv(core, 32), 2)>, <0>], sizes = [<1>, <1>, <512>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %170 = tile.alloc() {slots = 2, address = 328192} at "blocks.dense.gqa.attention" : !tile.buffer<[512, 128], bf16>
              tile.load(%163, %170) {serves = #tile.cores<floordiv(core, 32)*32, 32>, offsets = [<layer - 40>, <floordiv(core, 64)>, <s*512>, <mod(floordiv(core, 32), 2)>, <0>], sizes = [<1>, <1>, <512>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %171 = tile.alloc() {slots = 1, address = 590336} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 512], f32>
              tile.mma(%171, %165, %169) {m = <64>, n = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %172 = tile.alloc() {slots = 1, address = 721408} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 512], bf16>
              tile.vector([%171], [%172], [%167, %168, %166]) {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core, 32)*8 + u*256, key = s*512>, rows = <64>, columns = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>} at "blocks.dense.gqa.attention"
              tile.mma(%166, %172, %170) {m = <64>, n = <128>, k = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %173 = tile.alloc() {slots = 2, address = 786944} at "blocks.dense.gqa.attention" : !tile.buffer<[64, 128], bf16>
            tile.vector([%166, %168], [%173], []) {kind = #tile.softmax_finish, rows = <64>, columns = <128>} at "blocks.dense.gqa.attention"
            tile.store(%164, %173) {late = unit, offsets = [<floordiv(core, 64)>, <mod(core, 32)*8 + u*256>, <mod(floordiv(core, 32), 2)*8>, <0>], sizes = [<1>, <8>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for m < <2> at "blocks.dense.ffn.down_proj" {
            tile.for n < <5> at "blocks.dense.ffn.down_proj" {
              %199 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 208], f32>
              tile.for k < <45> at "blocks.dense.ffn.down_proj" {
                %200 = tile.alloc() {slots = 2, address = 425984} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 160], bf16>
                tile.load(%128, %200) {serves = #tile.cores<floordiv(core, 8)*8, 8>, offsets = [<floordiv(core, 8)*512 + m*256>, <k*160>], sizes = [<256>, <min(-k*160 + 7168, 160)>]} at "blocks.dense.ffn.down_proj"
                %201 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[160, 208], bf16>
                tile.load(%114, %201) {serves = #tile.cores<mod(core, 8), 8 stride 8>, offsets = [<layer - 40>, <k*160>, <mod(core, 8)*1024 + n*208>], sizes = [<1>, <min(-k*160 + 7168, 160)>, <min(-n*208 + 1024, 208)>]} at "blocks.dense.ffn.down_proj"
                tile.mma(%199, %200, %201) {m = <256>, n = <min(-n*208 + 1024, 208)>, k = <min(-k*160 + 7168, 160)>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
              }
              %202 = tile.alloc() {slots = 2, address = 722944} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 208], bf16>
              tile.vector([%199], [%202], []) {kind = #tile.convert, rows = <256>, columns = <min(-n*208 + 1024, 208)>} at "blocks.dense.ffn.down_proj"
              tile.store(%130, %202) {late = unit, offsets = [<floordiv(core, 8)*512 + m*256>, <mod(core, 8)*1024 + n*208>], sizes = [<256>, <min(-n*208 + 1024, 208)>]} at "blocks.dense.ffn.down_proj"
            }
          }
        }
        tile.collective([%130], [%131]) {collective = #dist.reduce_scatter<tp, dim = 0>, algorithm = #dist.direct} at "blocks.dense.ffn.down_proj"
