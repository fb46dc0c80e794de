        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %92 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%88, %92) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %93 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %94 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %95 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%94], []) {kind = "fill", rows = <128>, columns = <1>, params = {value = 0xfff0000000000000 : f64}} at "blocks.dense.gqa.attention"
            tile.vector([], [%95], []) {kind = "fill", rows = <128>, columns = <1>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            tile.vector([], [%93], []) {kind = "fill", rows = <128>, columns = <128>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %96 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%89, %96) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %97 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%97, %92, %96) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %98 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%97], [%98], [%94, %95, %93]) {kind = "softmax_step", rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, params = {scale = 0.088388347648318433 : f64, causal = true, position = #layer.expr<floordiv(row, 8) + mod(core*8 + u, 256)*16>, key = #layer.expr<s*384>}} at "blocks.dense.gqa.attention"
              %99 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%90, %99) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%93, %98, %99) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %100 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%93, %95], [%100], []) {kind = "softmax_finish", rows = <128>, columns = <128>, params = {}} at "blocks.dense.gqa.attention"
            tile.store(%91, %100) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for m < <2> at "blocks.dense.ffn.down_proj" {
            tile.for n < <4> at "blocks.dense.ffn.down_proj" {
              %128 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 256], f32>
              tile.for k < <112> at "blocks.dense.ffn.down_proj" {
                %129 = tile.alloc() {slots = 2, address = 524288} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 64], bf16>
                tile.load(%29, %129) {offsets = [<floordiv(core, 8)*512 + m*256>, <k*64>], sizes = [<256>, <64>]} at "blocks.dense.ffn.down_proj"
                %130 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[64, 256], bf16>
                tile.load(%30, %130) {offsets = [<layer>, <k*64>, <mod(core, 8)*1024 + n*256>], sizes = [<1>, <64>, <256>]} at "blocks.dense.ffn.down_proj"
                tile.mma(%128, %129, %130) {m = <256>, n = <256>, k = <64>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
              }
              %131 = tile.alloc() {slots = 2, address = 655360} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 256], bf16>
              tile.vector([%128], [%131], []) {kind = "convert", rows = <256>, columns = <256>, params = {}} at "blocks.dense.ffn.down_proj"
              tile.store(%31, %131) {offsets = [<floordiv(core, 8)*512 + m*256>, <mod(core, 8)*1024 + n*256>], sizes = [<256>, <256>]} at "blocks.dense.ffn.down_proj"
            }
          }
        }
        tile.collective([%31], [%32]) {kind = "reduce_scatter", params = {axis = "tp", dim = 0 : i64}} at "blocks.dense.ffn.down_proj"
        tile.kernel() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          tile.for u < <8> at "blocks.dense.gqa.attention" {
            %167 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.load(%163, %167) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
            %168 = tile.alloc() {slots = 1, address = 65536} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], f32>
            %169 = tile.alloc() {slots = 1, address = 131072} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            %170 = tile.alloc() {slots = 1, address = 131584} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 1], f32>
            tile.vector([], [%169], []) {kind = "fill", rows = <128>, columns = <1>, params = {value = 0xfff0000000000000 : f64}} at "blocks.dense.gqa.attention"
            tile.vector([], [%170], []) {kind = "fill", rows = <128>, columns = <1>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            tile.vector([], [%168], []) {kind = "fill", rows = <128>, columns = <128>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            tile.for s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              %171 = tile.alloc() {slots = 2, address = 132096} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%164, %171) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              %172 = tile.alloc() {slots = 1, address = 328704} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], f32>
              tile.mma(%172, %167, %171) {m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} at "blocks.dense.gqa.attention"
              %173 = tile.alloc() {slots = 1, address = 525312} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 384], bf16>
              tile.vector([%172], [%173], [%169, %170, %168]) {kind = "softmax_step", rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, params = {scale = 0.088388347648318433 : f64, causal = true, position = #layer.expr<floordiv(row, 8) + mod(core*8 + u, 256)*16>, key = #layer.expr<s*384>}} at "blocks.dense.gqa.attention"
              %174 = tile.alloc() {slots = 2, address = 623616} at "blocks.dense.gqa.attention" : !tile.buffer<[384, 128], bf16>
              tile.load(%165, %174) {offsets = [<layer>, <floordiv(core*8 + u, 512)>, <s*384>, <mod(floordiv(core*8 + u, 256), 2)>, <0>], sizes = [<1>, <1>, <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <1>, <128>]} at "blocks.dense.gqa.attention"
              tile.mma(%168, %173, %174) {m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} at "blocks.dense.gqa.attention"
            }
            %175 = tile.alloc() {slots = 2, address = 820224} at "blocks.dense.gqa.attention" : !tile.buffer<[128, 128], bf16>
            tile.vector([%168, %170], [%175], []) {kind = "softmax_finish", rows = <128>, columns = <128>, params = {}} at "blocks.dense.gqa.attention"
            tile.store(%166, %175) {offsets = [<floordiv(core*8 + u, 512)>, <mod(core*8 + u, 256)*16>, <mod(floordiv(core*8 + u, 256), 2)*8>, <0>], sizes = [<1>, <16>, <8>, <128>]} at "blocks.dense.gqa.attention"
          }
        }
        tile.kernel() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          tile.for m < <2> at "blocks.dense.ffn.down_proj" {
            tile.for n < <4> at "blocks.dense.ffn.down_proj" {
              %203 = tile.alloc() {slots = 2, address = 0} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 256], f32>
              tile.for k < <112> at "blocks.dense.ffn.down_proj" {
                %204 = tile.alloc() {slots = 2, address = 524288} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 64], bf16>
                tile.load(%49, %204) {offsets = [<floordiv(core, 8)*512 + m*256>, <k*64>], sizes = [<256>, <64>]} at "blocks.dense.ffn.down_proj"
                %205 = tile.alloc() {slots = 2, address = 589824} at "blocks.dense.ffn.down_proj" : !tile.buffer<[64, 256], bf16>
                tile.load(%30, %205) {offsets = [<layer>, <k*64>, <mod(core, 8)*1024 + n*256>], sizes = [<1>, <64>, <256>]} at "blocks.dense.ffn.down_proj"
                tile.mma(%203, %204, %205) {m = <256>, n = <256>, k = <64>, accumulate = <k>, transpose_b = false} at "blocks.dense.ffn.down_proj"
              }
              %206 = tile.alloc() {slots = 2, address = 655360} at "blocks.dense.ffn.down_proj" : !tile.buffer<[256, 256], bf16>
              tile.vector([%203], [%206], []) {kind = "convert", rows = <256>, columns = <256>, params = {}} at "blocks.dense.ffn.down_proj"
              tile.store(%50, %206) {offsets = [<floordiv(core, 8)*512 + m*256>, <mod(core, 8)*1024 + n*256>], sizes = [<256>, <256>]} at "blocks.dense.ffn.down_proj"
            }
          }
        }
        tile.collective([%50], [%51]) {kind = "reduce_scatter", params = {axis = "tp", dim = 0 : i64}} at "blocks.dense.ffn.down_proj"
