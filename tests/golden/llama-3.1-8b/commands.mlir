      g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.gqa.q_proj" {
        g5.loop k < <3> at "blocks.dense.gqa.q_proj" {
          g5.gdma {direction = "load", dram = <k*3072 + 33240653952>, lmem = <mod(k.seq, 2)*98304 + 131072>, shape = [<32>, <min(-k*1536 + 4096, 1536)>], dram_strides = [<4096>, <1>], lmem_strides = [<1536>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.q_proj"
          g5.gdma {direction = "load", dram = <core*128 + k*12582912 + layer*33554432 + 1050935424>, lmem = <mod(k.seq, 2)*196608 + 327680>, shape = [<min(-k*1536 + 4096, 1536)>, <64>], dram_strides = [<4096>, <1>], lmem_strides = [<64>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.q_proj"
          g5.tiu {acc = #g5.lmem<0, pitch 64, f32>, a = #g5.lmem<mod(k.seq, 2)*98304 + 131072, pitch 1536, bf16>, b = #g5.lmem<mod(k.seq, 2)*196608 + 327680, pitch 64, bf16>, m = <32>, n = <64>, k = <min(-k*1536 + 4096, 1536)>, accumulate = <k>, transpose_b = false} after [gdma-0] at "blocks.dense.gqa.q_proj"
        }
        g5.vec {kind = #tile.convert, ins = [#g5.lmem<0, pitch 64, f32>], outs = [#g5.lmem<720896, pitch 64, bf16>], updates = [], rows = <32>, columns = <64>} after [tiu-0] at "blocks.dense.gqa.q_proj"
        g5.gdma {direction = "store", dram = <core*128 + 33240916096>, lmem = <720896>, shape = [<32>, <64>], dram_strides = [<4096>, <1>], lmem_strides = [<64>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.gqa.q_proj"
      }
      g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
        g5.loop u < <4> at "blocks.dense.gqa.attention" {
          g5.gdma {direction = "load", dram = <floordiv(core*4 + u, 8)*8192 + mod(core*4 + u, 8)*1024 + 33240916096>, lmem = <mod(u.seq, 2)*4096>, shape = [<4>, <128>], dram_strides = [<128>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-13] at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0xfff0000000000000 : f64>, ins = [], outs = [#g5.lmem<16384, pitch 1, f32>], updates = [], rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<16448, pitch 1, f32>], updates = [], rows = <4>, columns = <1>} at "blocks.dense.gqa.attention"
          g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<8192, pitch 128, f32>], updates = [], rows = <4>, columns = <128>} after [tiu-0] at "blocks.dense.gqa.attention"
          g5.loop s < <6> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core*4 + u, 8)*8388608 + layer*268435456 + mod(core*4 + u, 8)*256 + s*1572864 + 2661548160>, lmem = <mod(s.seq, 2)*196608 + 16512>, shape = [<min(-s*768 + 4096, 768)>, <128>], dram_strides = [<1024>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
            g5.tiu {acc = #g5.lmem<409728, pitch 768, f32>, a = #g5.lmem<mod(u.seq, 2)*4096, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*196608 + 16512, pitch 128, bf16>, m = <4>, n = <min(-s*768 + 4096, 768)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = false, position = floordiv(row, 4) + 4095, key = s*768>, ins = [#g5.lmem<409728, pitch 768, f32>], outs = [#g5.lmem<458880, pitch 768, bf16>], updates = [#g5.lmem<16384, pitch 1, f32>, #g5.lmem<16448, pitch 1, f32>, #g5.lmem<8192, pitch 128, f32>], rows = <4>, columns = <min(-s*768 + 4096, 768)>} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "load", dram = <floordiv(core*4 + u, 8)*8388608 + layer*268435456 + mod(core*4 + u, 8)*256 + s*1572864 + 11251482752>, lmem = <mod(s.seq, 2)*196608 + 483456>, shape = [<min(-s*768 + 4096, 768)>, <128>], dram_strides = [<1024>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
            g5.tiu {acc = #g5.lmem<8192, pitch 128, f32>, a = #g5.lmem<458880, pitch 768, bf16>, b = #g5.lmem<mod(s.seq, 2)*196608 + 483456, pitch 128, bf16>, m = <4>, n = <128>, k = <min(-s*768 + 4096, 768)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
          }
          g5.vec {kind = #tile.softmax_finish, ins = [#g5.lmem<8192, pitch 128, f32>, #g5.lmem<16448, pitch 1, f32>], outs = [#g5.lmem<mod(u.seq, 2)*4096 + 876672, pitch 128, bf16>], updates = [], rows = <4>, columns = <128>} after [tiu-0, gdma-27] at "blocks.dense.gqa.attention"
          g5.gdma {direction = "store", dram = <floordiv(core*4 + u, 8)*8192 + mod(core*4 + u, 8)*1024 + 33240653952>, lmem = <mod(u.seq, 2)*4096 + 876672>, shape = [<4>, <128>], dram_strides = [<128>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.gqa.attention"
        }
      }
      g5.program() {cores = 56, op_name = "layer.silu_mul"} at "blocks.dense.ffn.silu_mul" {
        g5.loop o < <2> at "blocks.dense.ffn.silu_mul" {
          g5.gdma {direction = "load", dram = <core*16384 + o*8192 + 33240916096>, lmem = <mod(o.seq, 2)*8192>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16} after [vec-1] at "blocks.dense.ffn.silu_mul"
          g5.gdma {direction = "load", dram = <core*16384 + o*8192 + 33241833600>, lmem = <mod(o.seq, 2)*8192 + 16384>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16} after [vec-1] at "blocks.dense.ffn.silu_mul"
          g5.vec {kind = #tile.silu_mul, ins = [#g5.lmem<mod(o.seq, 2)*8192, pitch 2048, bf16>, #g5.lmem<mod(o.seq, 2)*8192 + 16384, pitch 2048, bf16>], outs = [#g5.lmem<mod(o.seq, 2)*8192 + 32768, pitch 2048, bf16>], updates = [], rows = <2>, columns = <2048>} after [gdma-0] at "blocks.dense.ffn.silu_mul"
          g5.gdma {direction = "store", dram = <core*16384 + o*8192 + 33240916096>, lmem = <mod(o.seq, 2)*8192 + 32768>, shape = [<2>, <2048>], dram_strides = [<2048>, <1>], lmem_strides = [<2048>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.ffn.silu_mul"
        }
      }
