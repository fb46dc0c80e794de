      g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.gqa.q_proj" {
        g5.loop k < <2> at "blocks.dense.gqa.q_proj" {
          g5.gdma {direction = "load", dram = <k*1440 + mod(core, 4)*2048 + 33240653952>, lmem = <mod(k.seq, 2)*46080 + 32768>, shape = [<32>, <min(-k*720 + 1024, 720)>], dram_strides = [<4096>, <1>], lmem_strides = [<720>, <1>], element_type = bf16, serves = #tile.cores<mod(core, 4), 16 stride 4>} after [tiu-1] at "blocks.dense.gqa.q_proj"
          g5.gdma {direction = "load", dram = <floordiv(core, 4)*512 + k*5898240 + layer*33554432 + mod(core, 4)*8388608 + 1050935424>, lmem = <mod(k.seq, 2)*368640 + 131072>, shape = [<min(-k*720 + 1024, 720)>, <256>], dram_strides = [<4096>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.q_proj"
          g5.tiu {acc = #g5.lmem<0, pitch 256, f32>, a = #g5.lmem<mod(k.seq, 2)*46080 + 32768, pitch 720, bf16>, b = #g5.lmem<mod(k.seq, 2)*368640 + 131072, pitch 256, bf16>, m = <32>, n = <256>, k = <min(-k*720 + 1024, 720)>, accumulate = <k>, transpose_b = false} after [gdma-0] at "blocks.dense.gqa.q_proj"
        }
        g5.gdma {direction = "store", dram = <floordiv(core, 4)*1024 + mod(core, 4)*524288 + 33241178240>, lmem = <0>, shape = [<32>, <256>], dram_strides = [<4096>, <1>], lmem_strides = [<256>, <1>], element_type = f32} after [tiu-0] at "blocks.dense.gqa.q_proj"
        g5.barrier() at "blocks.dense.gqa.q_proj"
        g5.loop r < <ceildiv(max(min(-mod(core, 4)*8 + 32, 8), 0), 8)> at "blocks.dense.gqa.q_proj" {
          g5.gdma {direction = "load", dram = <floordiv(core, 4)*1024 + mod(core, 4)*131072 + r*131072 + 33241178240>, lmem = <868352>, shape = [<4>, <max(min(-mod(core, 4)*8 + 32, 8), 0)>, <256>], dram_strides = [<131072>, <4096>, <1>], lmem_strides = [<max(min(-mod(core, 4)*8 + 32, 8), 0)*256>, <256>, <1>], element_type = f32} after [vec-0] at "blocks.dense.gqa.q_proj"
          g5.vec {kind = #tile.sum_parts<parts = 4>, ins = [#g5.lmem<868352, pitch 256, f32>], outs = [#g5.lmem<901120, pitch 256, bf16>], updates = [], rows = <max(min(-mod(core, 4)*8 + 32, 8), 0)>, columns = <256>} after [gdma-0] at "blocks.dense.gqa.q_proj"
          g5.gdma {direction = "store", dram = <floordiv(core, 4)*512 + mod(core, 4)*65536 + r*65536 + 33240916096>, lmem = <901120>, shape = [<max(min(-mod(core, 4)*8 + 32, 8), 0)>, <256>], dram_strides = [<4096>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.gqa.q_proj"
        }
        g5.barrier() at "blocks.dense.gqa.q_proj"
      }
      g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
        g5.loop p < <4> at "blocks.dense.gqa.attention" {
          g5.gdma {direction = "load", dram = <floordiv(core*4 + p, 8)*8192 + mod(core*4 + p, 8)*1024 + 33240916096>, lmem = <mod(p.seq, 2)*4096>, shape = [<4>, <128>], dram_strides = [<128>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-13] at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0xfff0000000000000 : f64>, ins = [], outs = [#g5.lmem<16384, pitch 1, f32>], updates = [], rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<16448, pitch 1, f32>], updates = [], rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<8192, pitch 128, f32>], updates = [], rows = <4>, columns = <128>} after [tiu-0] at "blocks.dense.gqa.attention"
          g5.loop s < <6> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core*4 + p, 8)*8388608 + layer*268435456 + mod(core*4 + p, 8)*256 + s*1409024 + 2661548160>, lmem = <mod(s.seq, 2)*176128 + 16512>, shape = [<min(-s*688 + 4096, 688)>, <128>], dram_strides = [<1024>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "load", dram = <floordiv(core*4 + p, 8)*8388608 + layer*268435456 + mod(core*4 + p, 8)*256 + s*1409024 + 11251482752>, lmem = <mod(s.seq, 2)*176128 + 368768>, shape = [<min(-s*688 + 4096, 688)>, <128>], dram_strides = [<1024>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-2] at "blocks.dense.gqa.attention"
            g5.tiu {acc = #g5.lmem<721024, pitch 688, f32>, a = #g5.lmem<mod(p.seq, 2)*4096, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*176128 + 16512, pitch 128, bf16>, m = <4>, n = <min(-s*688 + 4096, 688)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = false, position = floordiv(row, 4) + 4095, key = s*688>, ins = [#g5.lmem<721024, pitch 688, f32>], outs = [#g5.lmem<765056, pitch 688, bf16>], updates = [#g5.lmem<16384, pitch 1, f32>, #g5.lmem<16448, pitch 1, f32>, #g5.lmem<8192, pitch 128, f32>], rows = <4>, columns = <min(-s*688 + 4096, 688)>} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.tiu {acc = #g5.lmem<8192, pitch 128, f32>, a = #g5.lmem<765056, pitch 688, bf16>, b = #g5.lmem<mod(s.seq, 2)*176128 + 368768, pitch 128, bf16>, m = <4>, n = <128>, k = <min(-s*688 + 4096, 688)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
          }
          g5.vec {kind = #tile.softmax_finish, ins = [#g5.lmem<8192, pitch 128, f32>, #g5.lmem<16448, pitch 1, f32>], outs = [#g5.lmem<mod(p.seq, 2)*4096 + 787072, pitch 128, bf16>], updates = [], rows = <4>, columns = <128>} after [tiu-0, gdma-13] at "blocks.dense.gqa.attention"
          g5.gdma {direction = "store", dram = <floordiv(core*4 + p, 8)*8192 + mod(core*4 + p, 8)*1024 + 33240653952>, lmem = <mod(p.seq, 2)*4096 + 787072>, shape = [<4>, <128>], dram_strides = [<128>, <1>], lmem_strides = [<128>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.gqa.attention"
        }
        g5.barrier() at "blocks.dense.gqa.attention"
      }
      g5.program() {cores = 56, op_name = "layer.silu_mul"} at "blocks.dense.ffn.silu_mul" {
        g5.loop o < <2> at "blocks.dense.ffn.silu_mul" {
          g5.gdma {direction = "load", dram = <core*16384 + o*8192 + 33240916096>, lmem = <mod(o.seq, 2)*8192>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16} after [vec-1] at "blocks.dense.ffn.silu_mul"
          g5.gdma {direction = "load", dram = <core*16384 + o*8192 + 33241833600>, lmem = <mod(o.seq, 2)*8192 + 16384>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16} after [vec-1] at "blocks.dense.ffn.silu_mul"
          g5.vec {kind = #tile.silu_mul, ins = [#g5.lmem<mod(o.seq, 2)*8192, pitch 2048, bf16>, #g5.lmem<mod(o.seq, 2)*8192 + 16384, pitch 2048, bf16>], outs = [#g5.lmem<mod(o.seq, 2)*8192 + 32768, pitch 2048, bf16>], updates = [], rows = <2>, columns = <2048>} after [gdma-0] at "blocks.dense.ffn.silu_mul"
          g5.gdma {direction = "store", dram = <core*16384 + o*8192 + 33240916096>, lmem = <mod(o.seq, 2)*8192 + 32768>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.ffn.silu_mul"
        }
        g5.barrier() at "blocks.dense.ffn.silu_mul"
      }
