        g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          g5.loop u < <8> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*16777216 + mod(core*8 + u, 256)*65536 + mod(floordiv(core*8 + u, 256), 2)*2048 + 17828167680>, lmem = <mod(u.seq, 2)*32768>, shape = [<16>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<131072, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0xfff0000000000000 : f64}} at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<131584, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<65536, pitch 128, f32>], updates = [], rows = <128>, columns = <128>, params = {value = 0.000000e+00 : f64}} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.loop s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*2097152 + layer*2097152 + mod(floordiv(core*8 + u, 256), 2)*256 + s*196608 + 2203729920>, lmem = <mod(s.seq, 2)*98304 + 132096>, shape = [<min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<328704, pitch 384, f32>, a = #g5.lmem<mod(u.seq, 2)*32768, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*98304 + 132096, pitch 128, bf16>, m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
              g5.vec {kind = "softmax_step", ins = [#g5.lmem<328704, pitch 384, f32>], outs = [#g5.lmem<525312, pitch 384, bf16>], updates = [#g5.lmem<131072, pitch 1, f32>, #g5.lmem<131584, pitch 1, f32>, #g5.lmem<65536, pitch 128, f32>], rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, params = {scale = 0.088388347648318433 : f64, causal = true, position = #layer.expr<floordiv(row, 8) + mod(core*8 + u, 256)*16>, key = #layer.expr<s*384>}} after [tiu-0] at "blocks.dense.gqa.attention"
              g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*2097152 + layer*2097152 + mod(floordiv(core*8 + u, 256), 2)*256 + s*196608 + 2287616000>, lmem = <mod(s.seq, 2)*98304 + 623616>, shape = [<min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<65536, pitch 128, f32>, a = #g5.lmem<525312, pitch 384, bf16>, b = #g5.lmem<mod(s.seq, 2)*98304 + 623616, pitch 128, bf16>, m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
            }
            g5.vec {kind = "softmax_finish", ins = [#g5.lmem<65536, pitch 128, f32>, #g5.lmem<131584, pitch 1, f32>], outs = [#g5.lmem<mod(u.seq, 2)*32768 + 820224, pitch 128, bf16>], updates = [], rows = <128>, columns = <128>, params = {}} after [tiu-0, gdma-3] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "store", dram = <floordiv(core*8 + u, 512)*16777216 + mod(core*8 + u, 256)*65536 + mod(floordiv(core*8 + u, 256), 2)*2048 + 17807196160>, lmem = <mod(u.seq, 2)*32768 + 820224>, shape = [<16>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.gqa.attention"
          }
        }
        g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          g5.loop m < <2> at "blocks.dense.ffn.down_proj" {
            g5.loop n < <4> at "blocks.dense.ffn.down_proj" {
              g5.loop k < <112> at "blocks.dense.ffn.down_proj" {
                g5.gdma {direction = "load", dram = <floordiv(core, 8)*7340032 + k*128 + m*3670016 + 17891082240>, lmem = <mod(k.seq, 2)*32768 + 524288>, shape = [<256>, <64>], dram_strides = [<7168>, <1>], lmem_strides = [<64>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.gdma {direction = "load", dram = <k*1048576 + layer*117440512 + mod(core, 8)*2048 + n*512 + 13109575680>, lmem = <mod(k.seq, 2)*32768 + 589824>, shape = [<64>, <256>], dram_strides = [<8192>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.tiu {acc = #g5.lmem<mod(n.seq, 2)*262144, pitch 256, f32>, a = #g5.lmem<mod(k.seq, 2)*32768 + 524288, pitch 64, bf16>, b = #g5.lmem<mod(k.seq, 2)*32768 + 589824, pitch 256, bf16>, m = <256>, n = <256>, k = <64>, accumulate = <k>, transpose_b = false} after [gdma-0, vec-1] at "blocks.dense.ffn.down_proj"
              }
              g5.vec {kind = "convert", ins = [#g5.lmem<mod(n.seq, 2)*262144, pitch 256, f32>], outs = [#g5.lmem<mod(n.seq, 2)*131072 + 655360, pitch 256, bf16>], updates = [], rows = <256>, columns = <256>, params = {}} after [tiu-0, gdma-449] at "blocks.dense.ffn.down_proj"
              g5.gdma {direction = "store", dram = <floordiv(core, 8)*8388608 + m*4194304 + mod(core, 8)*2048 + n*512 + 17949802496>, lmem = <mod(n.seq, 2)*131072 + 655360>, shape = [<256>, <256>], dram_strides = [<8192>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.ffn.down_proj"
            }
          }
        }
        g5.cdma {kind = "reduce_scatter", ins = [#g5.dram<17949802496, [4096, 8192], strides [8192, 1], bf16>], outs = [#g5.dram<17807196160, [1024, 8192], strides [8192, 1], bf16>], params = {axis = "tp", dim = 0 : i64}} at "blocks.dense.ffn.down_proj"
        g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          g5.loop u < <8> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*16777216 + mod(core*8 + u, 256)*65536 + mod(floordiv(core*8 + u, 256), 2)*2048 + 17841023488>, lmem = <mod(u.seq, 2)*32768>, shape = [<16>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<131072, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0xfff0000000000000 : f64}} at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<131584, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0.000000e+00 : f64}} at "blocks.dense.gqa.attention"
            g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<65536, pitch 128, f32>], updates = [], rows = <128>, columns = <128>, params = {value = 0.000000e+00 : f64}} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.loop s < <ceildiv(mod(core*8 + u, 256)*16 + 16, 384)> at "blocks.dense.gqa.attention" {
              g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*2097152 + layer*2097152 + mod(floordiv(core*8 + u, 256), 2)*256 + s*196608 + 1594507264>, lmem = <mod(s.seq, 2)*98304 + 132096>, shape = [<min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<328704, pitch 384, f32>, a = #g5.lmem<mod(u.seq, 2)*32768, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*98304 + 132096, pitch 128, bf16>, m = <128>, n = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
              g5.vec {kind = "softmax_step", ins = [#g5.lmem<328704, pitch 384, f32>], outs = [#g5.lmem<525312, pitch 384, bf16>], updates = [#g5.lmem<131072, pitch 1, f32>, #g5.lmem<131584, pitch 1, f32>, #g5.lmem<65536, pitch 128, f32>], rows = <128>, columns = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, params = {scale = 0.088388347648318433 : f64, causal = true, position = #layer.expr<floordiv(row, 8) + mod(core*8 + u, 256)*16>, key = #layer.expr<s*384>}} after [tiu-0] at "blocks.dense.gqa.attention"
              g5.gdma {direction = "load", dram = <floordiv(core*8 + u, 512)*2097152 + layer*2097152 + mod(floordiv(core*8 + u, 256), 2)*256 + s*196608 + 1678393344>, lmem = <mod(s.seq, 2)*98304 + 623616>, shape = [<min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<65536, pitch 128, f32>, a = #g5.lmem<525312, pitch 384, bf16>, b = #g5.lmem<mod(s.seq, 2)*98304 + 623616, pitch 128, bf16>, m = <128>, n = <128>, k = <min(mod(core*8 + u, 256)*16 - s*384 + 16, 384)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
            }
            g5.vec {kind = "softmax_finish", ins = [#g5.lmem<65536, pitch 128, f32>, #g5.lmem<131584, pitch 1, f32>], outs = [#g5.lmem<mod(u.seq, 2)*32768 + 820224, pitch 128, bf16>], updates = [], rows = <128>, columns = <128>, params = {}} after [tiu-0, gdma-3] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "store", dram = <floordiv(core*8 + u, 512)*16777216 + mod(core*8 + u, 256)*65536 + mod(floordiv(core*8 + u, 256), 2)*2048 + 17824246272>, lmem = <mod(u.seq, 2)*32768 + 820224>, shape = [<16>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.gqa.attention"
          }
        }
        g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          g5.loop m < <2> at "blocks.dense.ffn.down_proj" {
            g5.loop n < <4> at "blocks.dense.ffn.down_proj" {
              g5.loop k < <112> at "blocks.dense.ffn.down_proj" {
                g5.gdma {direction = "load", dram = <floordiv(core, 8)*7340032 + k*128 + m*3670016 + 17857800704>, lmem = <mod(k.seq, 2)*32768 + 524288>, shape = [<256>, <64>], dram_strides = [<7168>, <1>], lmem_strides = [<64>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.gdma {direction = "load", dram = <k*1048576 + layer*117440512 + mod(core, 8)*2048 + n*512 + 7886618624>, lmem = <mod(k.seq, 2)*32768 + 589824>, shape = [<64>, <256>], dram_strides = [<8192>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.tiu {acc = #g5.lmem<mod(n.seq, 2)*262144, pitch 256, f32>, a = #g5.lmem<mod(k.seq, 2)*32768 + 524288, pitch 64, bf16>, b = #g5.lmem<mod(k.seq, 2)*32768 + 589824, pitch 256, bf16>, m = <256>, n = <256>, k = <64>, accumulate = <k>, transpose_b = false} after [gdma-0, vec-1] at "blocks.dense.ffn.down_proj"
              }
              g5.vec {kind = "convert", ins = [#g5.lmem<mod(n.seq, 2)*262144, pitch 256, f32>], outs = [#g5.lmem<mod(n.seq, 2)*131072 + 655360, pitch 256, bf16>], updates = [], rows = <256>, columns = <256>, params = {}} after [tiu-0, gdma-449] at "blocks.dense.ffn.down_proj"
              g5.gdma {direction = "store", dram = <floordiv(core, 8)*8388608 + m*4194304 + mod(core, 8)*2048 + n*512 + 17916520960>, lmem = <mod(n.seq, 2)*131072 + 655360>, shape = [<256>, <256>], dram_strides = [<8192>, <1>], lmem_strides = [<256>, <1>], element_type = bf16} after [vec-0] at "blocks.dense.ffn.down_proj"
            }
          }
        }
        g5.cdma {kind = "reduce_scatter", ins = [#g5.dram<17916520960, [4096, 8192], strides [8192, 1], bf16>], outs = [#g5.dram<17824246272, [1024, 8192], strides [8192, 1], bf16>], params = {axis = "tp", dim = 0 : i64}} at "blocks.dense.ffn.down_proj"
