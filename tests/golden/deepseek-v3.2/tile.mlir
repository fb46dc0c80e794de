      tile.kernel() {cores = 64, op_name = "layer.index_scores"} at "blocks.moe.dsa.indexer.scores" {
        %469 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[64, 64], f8E4M3FN>
        %470 = tile.alloc() {slots = 1, address = 4096} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[64, 64], f8E4M3FN>
        tile.load(%465, %469) {offsets = [<floordiv(core, 8)>, <0>, <0>, <0>], sizes = [<1>, <1>, <64>, <64>]} at "blocks.moe.dsa.indexer.scores"
        tile.load(%466, %470) {offsets = [<floordiv(core, 8)>, <0>, <0>, <0>], sizes = [<1>, <1>, <64>, <64>]} at "blocks.moe.dsa.indexer.scores"
        %471 = tile.alloc() {slots = 1, address = 8192} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[1, 64], f32>
        tile.load(%467, %471) {offsets = [<floordiv(core, 8)>, <0>, <0>], sizes = [<1>, <1>, <64>]} at "blocks.moe.dsa.indexer.scores"
        tile.for s < <16> at "blocks.moe.dsa.indexer.scores" {
          %472 = tile.alloc() {slots = 2, address = 8448} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[1024, 64], f8E4M3FN>
          %473 = tile.alloc() {slots = 2, address = 139520} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[1024, 64], f8E4M3FN>
          tile.load(%37, %472) {offsets = [<layer>, <floordiv(core, 8)>, <mod(core, 8)*16384 + s*1024>, <0>], sizes = [<1>, <1>, <1024>, <64>]} at "blocks.moe.dsa.indexer.scores"
          tile.load(%38, %473) {offsets = [<layer>, <floordiv(core, 8)>, <mod(core, 8)*16384 + s*1024>, <0>], sizes = [<1>, <1>, <1024>, <64>]} at "blocks.moe.dsa.indexer.scores"
          %474 = tile.alloc() {slots = 1, address = 270592} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[64, 1024], f32>
          tile.mma(%474, %469, %472) {m = <64>, n = <1024>, k = <64>, accumulate = <0>, transpose_b = true} at "blocks.moe.dsa.indexer.scores"
          tile.mma(%474, %470, %473) {m = <64>, n = <1024>, k = <64>, accumulate = <1>, transpose_b = true} at "blocks.moe.dsa.indexer.scores"
          %475 = tile.alloc() {slots = 2, address = 532736} at "blocks.moe.dsa.indexer.scores" : !tile.buffer<[1, 1024], f32>
          tile.vector([%474, %471], [%475], []) {kind = #tile.relu_weighted_sum<heads = 64, scale = 0.011048543456039804>, rows = <1>, columns = <1024>} at "blocks.moe.dsa.indexer.scores"
          tile.store(%468, %475) {late = unit, offsets = [<floordiv(core, 8)>, <0>, <mod(core, 8)*16384 + s*1024>], sizes = [<1>, <1>, <1024>]} at "blocks.moe.dsa.indexer.scores"
        }
      }
      tile.kernel() {cores = 8, op_name = "layer.topk_select"} at "blocks.moe.dsa.indexer.topk" {
        %476 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.dsa.indexer.topk" : !tile.buffer<[1, 2048], f32>
        %477 = tile.alloc() {slots = 1, address = 8192} at "blocks.moe.dsa.indexer.topk" : !tile.buffer<[1, 2048], i32>
        tile.for s < <2> at "blocks.moe.dsa.indexer.topk" {
          %478 = tile.alloc() {slots = 2, address = 16384} at "blocks.moe.dsa.indexer.topk" : !tile.buffer<[1, 65536], f32>
          tile.load(%114, %478) {offsets = [<core>, <s*65536>], sizes = [<1>, <65536>]} at "blocks.moe.dsa.indexer.topk"
          tile.vector([%478], [], [%476, %477]) {kind = #tile.topk_select<top_k = 2048, position = 131071, key = s*65536>, rows = <1>, columns = <65536>} at "blocks.moe.dsa.indexer.topk"
        }
        tile.store(%115, %477) {offsets = [<core>, <0>], sizes = [<1>, <2048>]} at "blocks.moe.dsa.indexer.topk"
      }
      tile.kernel() {cores = 64, op_name = "layer.gather_rows"} at "blocks.moe.dsa.gather_c_kv" {
        %489 = tile.alloc() {slots = 1, address = 0} at "blocks.moe.dsa.gather_c_kv" : !tile.buffer<[1, 256], i32>
        tile.load(%115, %489) {offsets = [<floordiv(core, 8)>, <mod(core, 8)*256>], sizes = [<1>, <256>]} at "blocks.moe.dsa.gather_c_kv"
        %490 = tile.alloc() {slots = 1, address = 1024} at "blocks.moe.dsa.gather_c_kv" : !tile.buffer<[256, 512], f8E4M3FN>
        tile.gather_rows(%30, %489, %490) {lead = [<layer>, <floordiv(core, 8)>], count = <256>, bandwidth_domain = "dram"} at "blocks.moe.dsa.gather_c_kv"
        tile.store(%118, %490) {offsets = [<floordiv(core, 8)>, <mod(core, 8)*256>, <0>], sizes = [<1>, <256>, <512>]} at "blocks.moe.dsa.gather_c_kv"
      }
