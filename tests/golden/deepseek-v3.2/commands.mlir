      g5.program() {cores = 64, op_name = "layer.index_scores"} at "blocks.moe.dsa.indexer.scores" {
        g5.gdma {direction = "load", dram = <floordiv(core, 8)*4096 + 84394957344>, lmem = <0>, shape = [<64>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} at "blocks.moe.dsa.indexer.scores"
        g5.gdma {direction = "load", dram = <floordiv(core, 8)*4096 + 84394990112>, lmem = <4096>, shape = [<64>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} at "blocks.moe.dsa.indexer.scores"
        g5.gdma {direction = "load", dram = <floordiv(core, 8)*256 + 84395022880>, lmem = <8192>, shape = [<64>], dram_strides = [<1>], lmem_strides = [<1>], element_type = f32} at "blocks.moe.dsa.indexer.scores"
        g5.loop s < <16> at "blocks.moe.dsa.indexer.scores" {
          g5.gdma {direction = "load", dram = <floordiv(core, 8)*8388608 + layer*67108864 + mod(core, 8)*1048576 + s*65536 + 44798380576>, lmem = <mod(s.seq, 2)*65536 + 8448>, shape = [<1024>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} after [tiu-3] at "blocks.moe.dsa.indexer.scores"
          g5.gdma {direction = "load", dram = <floordiv(core, 8)*8388608 + layer*67108864 + mod(core, 8)*1048576 + s*65536 + 48690694688>, lmem = <mod(s.seq, 2)*65536 + 139520>, shape = [<1024>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} after [tiu-2] at "blocks.moe.dsa.indexer.scores"
          g5.tiu {acc = #g5.lmem<270592, pitch 1024, f32>, a = #g5.lmem<0, pitch 64, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*65536 + 8448, pitch 64, f8E4M3FN>, m = <64>, n = <1024>, k = <64>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.moe.dsa.indexer.scores"
          g5.tiu {acc = #g5.lmem<270592, pitch 1024, f32>, a = #g5.lmem<4096, pitch 64, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*65536 + 139520, pitch 64, f8E4M3FN>, m = <64>, n = <1024>, k = <64>, accumulate = <1>, transpose_b = true} after [gdma-0, vec-0] at "blocks.moe.dsa.indexer.scores"
          g5.vec {kind = #tile.relu_weighted_sum<heads = 64, scale = 0.011048543456039804>, ins = [#g5.lmem<270592, pitch 1024, f32>, #g5.lmem<8192, pitch 64, f32>], outs = [#g5.lmem<mod(s.seq, 2)*4096 + 532736, pitch 1024, f32>], updates = [], rows = <1>, columns = <1024>} after [tiu-0, gdma-2] at "blocks.moe.dsa.indexer.scores"
          g5.gdma {direction = "store", dram = <floordiv(core, 8)*524288 + mod(core, 8)*65536 + s*4096 + 84390631968>, lmem = <mod(s.seq, 2)*4096 + 532736>, shape = [<1024>], dram_strides = [<1>], lmem_strides = [<1>], element_type = f32, late = unit} after [vec-0] at "blocks.moe.dsa.indexer.scores"
        }
        g5.barrier() at "blocks.moe.dsa.indexer.scores"
      }
      g5.program() {cores = 8, op_name = "layer.topk_select"} at "blocks.moe.dsa.indexer.topk" {
        g5.loop s < <2> at "blocks.moe.dsa.indexer.topk" {
          g5.gdma {direction = "load", dram = <core*524288 + s*262144 + 84390631968>, lmem = <mod(s.seq, 2)*262144 + 16384>, shape = [<65536>], dram_strides = [<1>], lmem_strides = [<1>], element_type = f32} after [vec-1] at "blocks.moe.dsa.indexer.topk"
          g5.vec {kind = #tile.topk_select<top_k = 2048, position = 131071, key = s*65536>, ins = [#g5.lmem<mod(s.seq, 2)*262144 + 16384, pitch 65536, f32>], outs = [], updates = [#g5.lmem<0, pitch 2048, f32>, #g5.lmem<8192, pitch 2048, i32>], rows = <1>, columns = <65536>} after [gdma-0] at "blocks.moe.dsa.indexer.topk"
        }
        g5.gdma {direction = "store", dram = <core*8192 + 84399020576>, lmem = <8192>, shape = [<2048>], dram_strides = [<1>], lmem_strides = [<1>], element_type = i32} after [vec-0] at "blocks.moe.dsa.indexer.topk"
        g5.barrier() at "blocks.moe.dsa.indexer.topk"
      }
      g5.program() {cores = 64, op_name = "layer.gather_rows"} at "blocks.moe.dsa.gather_c_kv" {
        g5.gdma {direction = "load", dram = <floordiv(core, 8)*8192 + mod(core, 8)*1024 + 84399020576>, lmem = <0>, shape = [<256>], dram_strides = [<1>], lmem_strides = [<1>], element_type = i32} at "blocks.moe.dsa.gather_c_kv"
        g5.gather_rows {dram = <floordiv(core, 8)*67108864 + layer*536870912 + 8931284512>, rows = 131072, stride = 512, index = #g5.lmem<0, pitch 256, i32>, lmem = #g5.lmem<1024, pitch 512, f8E4M3FN>, count = <256>, columns = 512, bandwidth_domain = "dram"} after [gdma-0] at "blocks.moe.dsa.gather_c_kv"
        g5.gdma {direction = "store", dram = <floordiv(core, 8)*1048576 + mod(core, 8)*131072 + 84390631968>, lmem = <1024>, shape = [<256>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN} after [sdma-0] at "blocks.moe.dsa.gather_c_kv"
        g5.barrier() at "blocks.moe.dsa.gather_c_kv"
      }
