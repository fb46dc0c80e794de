      g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.moe.mla.attention" {
        g5.gdma {direction = "load", dram = <core*65536 + 47707365632>, lmem = <0>, shape = [<128>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN} at "blocks.moe.mla.attention"
        g5.gdma {direction = "load", dram = <core*8192 + 47712477440>, lmem = <65536>, shape = [<128>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} at "blocks.moe.mla.attention"
        g5.vec {kind = #tile.fill<value = 0xfff0000000000000 : f64>, ins = [], outs = [#g5.lmem<335872, pitch 1, f32>], updates = [], rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<336384, pitch 1, f32>], updates = [], rows = <128>, columns = <1>} at "blocks.moe.mla.attention"
        g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<73728, pitch 512, f32>], updates = [], rows = <128>, columns = <512>} at "blocks.moe.mla.attention"
        g5.loop s < <16> at "blocks.moe.mla.attention" {
          g5.gdma {direction = "load", dram = <core*2097152 + layer*134217728 + s*131072 + 7133647104>, lmem = <mod(s.seq, 2)*131072 + 336896>, shape = [<256>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN} after [tiu-3] at "blocks.moe.mla.attention"
          g5.gdma {direction = "load", dram = <core*262144 + layer*16777216 + s*16384 + 14918275328>, lmem = <mod(s.seq, 2)*16384 + 599040>, shape = [<256>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} after [tiu-4] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<631808, pitch 256, f32>, a = #g5.lmem<0, pitch 512, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*131072 + 336896, pitch 512, f8E4M3FN>, m = <128>, n = <256>, k = <512>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<631808, pitch 256, f32>, a = #g5.lmem<65536, pitch 64, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*16384 + 599040, pitch 64, f8E4M3FN>, m = <128>, n = <256>, k = <64>, accumulate = <1>, transpose_b = true} after [gdma-0, vec-0] at "blocks.moe.mla.attention"
          g5.vec {kind = #tile.softmax_step<scale = 0.1352337788608801, causal = false, position = floordiv(row, 128) + 4095, key = s*256>, ins = [#g5.lmem<631808, pitch 256, f32>], outs = [#g5.lmem<762880, pitch 256, f8E4M3FN>], updates = [#g5.lmem<335872, pitch 1, f32>, #g5.lmem<336384, pitch 1, f32>, #g5.lmem<73728, pitch 512, f32>], rows = <128>, columns = <256>} after [tiu-0] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<73728, pitch 512, f32>, a = #g5.lmem<762880, pitch 256, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*131072 + 336896, pitch 512, f8E4M3FN>, m = <128>, n = <512>, k = <256>, accumulate = <1>, transpose_b = false} after [gdma-1, vec-0] at "blocks.moe.mla.attention"
        }
        g5.vec {kind = #tile.softmax_finish, ins = [#g5.lmem<73728, pitch 512, f32>, #g5.lmem<336384, pitch 1, f32>], outs = [#g5.lmem<795648, pitch 512, bf16>], updates = [], rows = <128>, columns = <512>} after [tiu-0] at "blocks.moe.mla.attention"
        g5.gdma {direction = "store", dram = <core*131072 + 47698977024>, lmem = <795648>, shape = [<128>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = bf16} after [vec-0] at "blocks.moe.mla.attention"
        g5.barrier() at "blocks.moe.mla.attention"
      }
      g5.cdma {collective = #dist.dispatch<ep>, ins = [#g5.dram<47707365632, [64, 7168], strides [7168, 1], f8E4M3FN>, #g5.dram<47707826432, [64, 8], strides [8, 1], i32>], outs = [#g5.dram<47698977024, [8, 64, 7168], strides [458752, 7168, 1], f8E4M3FN>]} at "blocks.moe.moe.dispatch"
      g5.program() {cores = 64, op_name = "layer.grouped_matmul"} at "blocks.moe.moe.experts.gate_proj" {
        g5.loop k < <6> at "blocks.moe.moe.experts.gate_proj" {
          g5.gdma {direction = "load", dram = <floordiv(core, 8)*458752 + k*1312 + 47698977024>, lmem = <mod(k.seq, 2)*83968 + 65536>, shape = [<64>, <min(-k*1312 + 7168, 1312)>], dram_strides = [<7168>, <1>], lmem_strides = [<1312>, <1>], element_type = f8E4M3FN, serves = #tile.cores<floordiv(core, 8)*8, 8>} after [tiu-1] at "blocks.moe.moe.experts.gate_proj"
          g5.gdma {direction = "load", dram = <floordiv(core, 8)*14680064 + k*2686976 + layer*117440512 + mod(core, 8)*256 + 23783303424>, lmem = <mod(k.seq, 2)*335872 + 233472>, shape = [<min(-k*1312 + 7168, 1312)>, <256>], dram_strides = [<2048>, <1>], lmem_strides = [<256>, <1>], element_type = f8E4M3FN} after [tiu-1] at "blocks.moe.moe.experts.gate_proj"
          g5.tiu {acc = #g5.lmem<0, pitch 256, f32>, a = #g5.lmem<mod(k.seq, 2)*83968 + 65536, pitch 1312, f8E4M3FN>, b = #g5.lmem<mod(k.seq, 2)*335872 + 233472, pitch 256, f8E4M3FN>, m = <64>, n = <256>, k = <min(-k*1312 + 7168, 1312)>, accumulate = <k>, transpose_b = false} after [gdma-0] at "blocks.moe.moe.experts.gate_proj"
        }
        g5.vec {kind = #tile.convert, ins = [#g5.lmem<0, pitch 256, f32>], outs = [#g5.lmem<905216, pitch 256, bf16>], updates = [], rows = <64>, columns = <256>} after [tiu-0] at "blocks.moe.moe.experts.gate_proj"
        g5.gdma {direction = "store", dram = <floordiv(core, 8)*262144 + mod(core, 8)*512 + 47702647040>, lmem = <905216>, shape = [<64>, <256>], dram_strides = [<2048>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [vec-0] at "blocks.moe.moe.experts.gate_proj"
        g5.barrier() at "blocks.moe.moe.experts.gate_proj"
      }
