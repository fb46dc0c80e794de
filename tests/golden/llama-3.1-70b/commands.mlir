        g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          g5.loop u < <16> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core, 64)*16777216 + mod(core, 32)*32768 + mod(floordiv(core, 32), 2)*2048 + u*1048576 + 17907859456>, lmem = <mod(u.seq, 2)*16384>, shape = [<8>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0xfff0000000000000 : f64>, ins = [], outs = [#g5.lmem<65536, pitch 1, f32>], updates = [], rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<65792, pitch 1, f32>], updates = [], rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<32768, pitch 128, f32>], updates = [], rows = <64>, columns = <128>} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.loop s < <ceildiv(min(mod(core, 32)*8 + u*256 + 8, 4096), 512)> at "blocks.dense.gqa.attention" {
              g5.gdma {direction = "load", dram = <floordiv(core, 64)*2097152 + layer*2097152 + mod(floordiv(core, 32), 2)*256 + s*262144 + 2287616000>, lmem = <mod(s.seq, 2)*131072 + 66048>, shape = [<512>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 32)*32, 32>} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.gdma {direction = "load", dram = <floordiv(core, 64)*2097152 + layer*2097152 + mod(floordiv(core, 32), 2)*256 + s*262144 + 2371502080>, lmem = <mod(s.seq, 2)*131072 + 328192>, shape = [<512>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 32)*32, 32>} after [tiu-2] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<590336, pitch 512, f32>, a = #g5.lmem<mod(u.seq, 2)*16384, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*131072 + 66048, pitch 128, bf16>, m = <64>, n = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.dense.gqa.attention"
              g5.vec {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core, 32)*8 + u*256, key = s*512>, ins = [#g5.lmem<590336, pitch 512, f32>], outs = [#g5.lmem<721408, pitch 512, bf16>], updates = [#g5.lmem<65536, pitch 1, f32>, #g5.lmem<65792, pitch 1, f32>, #g5.lmem<32768, pitch 128, f32>], rows = <64>, columns = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>} after [tiu-0] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<32768, pitch 128, f32>, a = #g5.lmem<721408, pitch 512, bf16>, b = #g5.lmem<mod(s.seq, 2)*131072 + 328192, pitch 128, bf16>, m = <64>, n = <128>, k = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
            }
            g5.vec {kind = #tile.softmax_finish, ins = [#g5.lmem<32768, pitch 128, f32>, #g5.lmem<65792, pitch 1, f32>], outs = [#g5.lmem<mod(u.seq, 2)*16384 + 786944, pitch 128, bf16>], updates = [], rows = <64>, columns = <128>} after [tiu-0, gdma-1] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "store", dram = <floordiv(core, 64)*16777216 + mod(core, 32)*32768 + mod(floordiv(core, 32), 2)*2048 + u*1048576 + 17924636672>, lmem = <mod(u.seq, 2)*16384 + 786944>, shape = [<8>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.gqa.attention"
          }
          g5.barrier() at "blocks.dense.gqa.attention"
        }
        g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          g5.loop m < <2> at "blocks.dense.ffn.down_proj" {
            g5.loop n < <5> at "blocks.dense.ffn.down_proj" {
              g5.loop k < <45> at "blocks.dense.ffn.down_proj" {
                g5.gdma {direction = "load", dram = <floordiv(core, 8)*7340032 + k*320 + m*3670016 + 17907859456>, lmem = <mod(k.seq, 2)*81920 + 425984>, shape = [<256>, <min(-k*160 + 7168, 160)>], dram_strides = [<7168>, <1>], lmem_strides = [<160>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 8)*8, 8>} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.gdma {direction = "load", dram = <k*2621440 + layer*117440512 + mod(core, 8)*2048 + n*416 + 13193461760>, lmem = <mod(k.seq, 2)*66560 + 589824>, shape = [<min(-k*160 + 7168, 160)>, <min(-n*208 + 1024, 208)>], dram_strides = [<8192>, <1>], lmem_strides = [<208>, <1>], element_type = bf16, serves = #tile.cores<mod(core, 8), 8 stride 8>} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.tiu {acc = #g5.lmem<mod(n.seq, 2)*212992, pitch 208, f32>, a = #g5.lmem<mod(k.seq, 2)*81920 + 425984, pitch 160, bf16>, b = #g5.lmem<mod(k.seq, 2)*66560 + 589824, pitch 208, bf16>, m = <256>, n = <min(-n*208 + 1024, 208)>, k = <min(-k*160 + 7168, 160)>, accumulate = <k>, transpose_b = false} after [gdma-0, vec-1] at "blocks.dense.ffn.down_proj"
              }
              g5.vec {kind = #tile.convert, ins = [#g5.lmem<mod(n.seq, 2)*212992, pitch 208, f32>], outs = [#g5.lmem<mod(n.seq, 2)*106496 + 722944, pitch 208, bf16>], updates = [], rows = <256>, columns = <min(-n*208 + 1024, 208)>} after [tiu-0, gdma-90] at "blocks.dense.ffn.down_proj"
              g5.gdma {direction = "store", dram = <floordiv(core, 8)*8388608 + m*4194304 + mod(core, 8)*2048 + n*416 + 17966579712>, lmem = <mod(n.seq, 2)*106496 + 722944>, shape = [<256>, <min(-n*208 + 1024, 208)>], dram_strides = [<8192>, <1>], lmem_strides = [<208>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.ffn.down_proj"
            }
          }
          g5.barrier() at "blocks.dense.ffn.down_proj"
        }
        g5.cdma {collective = #dist.reduce_scatter<tp, dim = 0>, algorithm = #dist.direct, ins = [#g5.dram<17966579712, [4096, 8192], strides [8192, 1], bf16>], outs = [#g5.dram<17907859456, [1024, 8192], strides [8192, 1], bf16>]} at "blocks.dense.ffn.down_proj"
        g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.dense.gqa.attention" {
          g5.loop u < <16> at "blocks.dense.gqa.attention" {
            g5.gdma {direction = "load", dram = <floordiv(core, 64)*16777216 + mod(core, 32)*32768 + mod(floordiv(core, 32), 2)*2048 + u*1048576 + 17907875840>, lmem = <mod(u.seq, 2)*16384>, shape = [<8>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16} after [tiu-1] at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0xfff0000000000000 : f64>, ins = [], outs = [#g5.lmem<65536, pitch 1, f32>], updates = [], rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<65792, pitch 1, f32>], updates = [], rows = <64>, columns = <1>} at "blocks.dense.gqa.attention"
            g5.vec {kind = #tile.fill<value = 0.0>, ins = [], outs = [#g5.lmem<32768, pitch 128, f32>], updates = [], rows = <64>, columns = <128>} after [tiu-0] at "blocks.dense.gqa.attention"
            g5.loop s < <ceildiv(min(mod(core, 32)*8 + u*256 + 8, 4096), 512)> at "blocks.dense.gqa.attention" {
              g5.gdma {direction = "load", dram = <floordiv(core, 64)*2097152 + layer*2097152 + mod(floordiv(core, 32), 2)*256 + s*262144 + 1678393344>, lmem = <mod(s.seq, 2)*131072 + 66048>, shape = [<512>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 32)*32, 32>} after [tiu-3] at "blocks.dense.gqa.attention"
              g5.gdma {direction = "load", dram = <floordiv(core, 64)*2097152 + layer*2097152 + mod(floordiv(core, 32), 2)*256 + s*262144 + 1762279424>, lmem = <mod(s.seq, 2)*131072 + 328192>, shape = [<512>, <128>], dram_strides = [<256>, <1>], lmem_strides = [<128>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 32)*32, 32>} after [tiu-2] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<590336, pitch 512, f32>, a = #g5.lmem<mod(u.seq, 2)*16384, pitch 128, bf16>, b = #g5.lmem<mod(s.seq, 2)*131072 + 66048, pitch 128, bf16>, m = <64>, n = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, k = <128>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.dense.gqa.attention"
              g5.vec {kind = #tile.softmax_step<scale = 0.08838834764831843, causal = true, position = floordiv(row, 8) + mod(core, 32)*8 + u*256, key = s*512>, ins = [#g5.lmem<590336, pitch 512, f32>], outs = [#g5.lmem<721408, pitch 512, bf16>], updates = [#g5.lmem<65536, pitch 1, f32>, #g5.lmem<65792, pitch 1, f32>, #g5.lmem<32768, pitch 128, f32>], rows = <64>, columns = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>} after [tiu-0] at "blocks.dense.gqa.attention"
              g5.tiu {acc = #g5.lmem<32768, pitch 128, f32>, a = #g5.lmem<721408, pitch 512, bf16>, b = #g5.lmem<mod(s.seq, 2)*131072 + 328192, pitch 128, bf16>, m = <64>, n = <128>, k = <min(min(mod(core, 32)*8 + u*256 + 8, 4096) - s*512, 512)>, accumulate = <1>, transpose_b = false} after [gdma-0, vec-0] at "blocks.dense.gqa.attention"
            }
            g5.vec {kind = #tile.softmax_finish, ins = [#g5.lmem<32768, pitch 128, f32>, #g5.lmem<65792, pitch 1, f32>], outs = [#g5.lmem<mod(u.seq, 2)*16384 + 786944, pitch 128, bf16>], updates = [], rows = <64>, columns = <128>} after [tiu-0, gdma-1] at "blocks.dense.gqa.attention"
            g5.gdma {direction = "store", dram = <floordiv(core, 64)*16777216 + mod(core, 32)*32768 + mod(floordiv(core, 32), 2)*2048 + u*1048576 + 17924653056>, lmem = <mod(u.seq, 2)*16384 + 786944>, shape = [<8>, <8>, <128>], dram_strides = [<2048>, <128>, <1>], lmem_strides = [<1024>, <128>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.gqa.attention"
          }
          g5.barrier() at "blocks.dense.gqa.attention"
        }
        g5.program() {cores = 64, op_name = "layer.matmul"} at "blocks.dense.ffn.down_proj" {
          g5.loop m < <2> at "blocks.dense.ffn.down_proj" {
            g5.loop n < <5> at "blocks.dense.ffn.down_proj" {
              g5.loop k < <45> at "blocks.dense.ffn.down_proj" {
                g5.gdma {direction = "load", dram = <floordiv(core, 8)*7340032 + k*320 + m*3670016 + 17907875840>, lmem = <mod(k.seq, 2)*81920 + 425984>, shape = [<256>, <min(-k*160 + 7168, 160)>], dram_strides = [<7168>, <1>], lmem_strides = [<160>, <1>], element_type = bf16, serves = #tile.cores<floordiv(core, 8)*8, 8>} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.gdma {direction = "load", dram = <k*2621440 + layer*117440512 + mod(core, 8)*2048 + n*416 + 7970504704>, lmem = <mod(k.seq, 2)*66560 + 589824>, shape = [<min(-k*160 + 7168, 160)>, <min(-n*208 + 1024, 208)>], dram_strides = [<8192>, <1>], lmem_strides = [<208>, <1>], element_type = bf16, serves = #tile.cores<mod(core, 8), 8 stride 8>} after [tiu-1] at "blocks.dense.ffn.down_proj"
                g5.tiu {acc = #g5.lmem<mod(n.seq, 2)*212992, pitch 208, f32>, a = #g5.lmem<mod(k.seq, 2)*81920 + 425984, pitch 160, bf16>, b = #g5.lmem<mod(k.seq, 2)*66560 + 589824, pitch 208, bf16>, m = <256>, n = <min(-n*208 + 1024, 208)>, k = <min(-k*160 + 7168, 160)>, accumulate = <k>, transpose_b = false} after [gdma-0, vec-1] at "blocks.dense.ffn.down_proj"
              }
              g5.vec {kind = #tile.convert, ins = [#g5.lmem<mod(n.seq, 2)*212992, pitch 208, f32>], outs = [#g5.lmem<mod(n.seq, 2)*106496 + 722944, pitch 208, bf16>], updates = [], rows = <256>, columns = <min(-n*208 + 1024, 208)>} after [tiu-0, gdma-90] at "blocks.dense.ffn.down_proj"
              g5.gdma {direction = "store", dram = <floordiv(core, 8)*8388608 + m*4194304 + mod(core, 8)*2048 + n*416 + 17966596096>, lmem = <mod(n.seq, 2)*106496 + 722944>, shape = [<256>, <min(-n*208 + 1024, 208)>], dram_strides = [<8192>, <1>], lmem_strides = [<208>, <1>], element_type = bf16, late = unit} after [vec-0] at "blocks.dense.ffn.down_proj"
            }
          }
          g5.barrier() at "blocks.dense.ffn.down_proj"
        }
        g5.cdma {collective = #dist.reduce_scatter<tp, dim = 0>, algorithm = #dist.direct, ins = [#g5.dram<17966596096, [4096, 8192], strides [8192, 1], bf16>], outs = [#g5.dram<17907875840, [1024, 8192], strides [8192, 1], bf16>]} at "blocks.dense.ffn.down_proj"
