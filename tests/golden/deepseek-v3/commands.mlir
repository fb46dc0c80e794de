      g5.program() {cores = 64, op_name = "layer.attention"} at "blocks.moe.mla.attention" {
        g5.gdma {direction = "load", dram = <core*65536 + 47708709120>, lmem = <0>, shape = [<128>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN} at "blocks.moe.mla.attention"
        g5.gdma {direction = "load", dram = <core*8192 + 47708184832>, lmem = <65536>, shape = [<128>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} at "blocks.moe.mla.attention"
        g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<335872, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0xfff0000000000000 : f64}} at "blocks.moe.mla.attention"
        g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<336384, pitch 1, f32>], updates = [], rows = <128>, columns = <1>, params = {value = 0.000000e+00 : f64}} at "blocks.moe.mla.attention"
        g5.vec {kind = "fill", ins = [], outs = [#g5.lmem<73728, pitch 512, f32>], updates = [], rows = <128>, columns = <512>, params = {value = 0.000000e+00 : f64}} at "blocks.moe.mla.attention"
        g5.loop s < <22> at "blocks.moe.mla.attention" {
          g5.gdma {direction = "load", dram = <core*2097152 + layer*134217728 + s*98304 + 7125389568>, lmem = <mod(s.seq, 2)*98304 + 336896>, shape = [<min(-s*192 + 4096, 192)>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN} after [tiu-3] at "blocks.moe.mla.attention"
          g5.gdma {direction = "load", dram = <core*262144 + layer*16777216 + s*12288 + 14910017792>, lmem = <mod(s.seq, 2)*12288 + 533504>, shape = [<min(-s*192 + 4096, 192)>, <64>], dram_strides = [<64>, <1>], lmem_strides = [<64>, <1>], element_type = f8E4M3FN} after [tiu-4] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<655360, pitch 192, f32>, a = #g5.lmem<0, pitch 512, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*98304 + 336896, pitch 512, f8E4M3FN>, m = <128>, n = <min(-s*192 + 4096, 192)>, k = <512>, accumulate = <0>, transpose_b = true} after [gdma-1, vec-0] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<655360, pitch 192, f32>, a = #g5.lmem<65536, pitch 64, f8E4M3FN>, b = #g5.lmem<mod(s.seq, 2)*12288 + 533504, pitch 64, f8E4M3FN>, m = <128>, n = <min(-s*192 + 4096, 192)>, k = <64>, accumulate = <1>, transpose_b = true} after [gdma-0, vec-0] at "blocks.moe.mla.attention"
          g5.vec {kind = "softmax_step", ins = [#g5.lmem<655360, pitch 192, f32>], outs = [#g5.lmem<753664, pitch 192, bf16>], updates = [#g5.lmem<335872, pitch 1, f32>, #g5.lmem<336384, pitch 1, f32>, #g5.lmem<73728, pitch 512, f32>], rows = <128>, columns = <min(-s*192 + 4096, 192)>, params = {scale = 0.13523377886088009 : f64, causal = false, position = #layer.expr<floordiv(row, 128) + 4095>, key = #layer.expr<s*192>}} after [tiu-0] at "blocks.moe.mla.attention"
          g5.tiu {acc = #g5.lmem<73728, pitch 512, f32>, a = #g5.lmem<753664, pitch 192, bf16>, b = #g5.lmem<mod(s.seq, 2)*98304 + 336896, pitch 512, f8E4M3FN>, m = <128>, n = <512>, k = <min(-s*192 + 4096, 192)>, accumulate = <1>, transpose_b = false} after [gdma-1, vec-0] at "blocks.moe.mla.attention"
        }
        g5.vec {kind = "softmax_finish", ins = [#g5.lmem<73728, pitch 512, f32>, #g5.lmem<336384, pitch 1, f32>], outs = [#g5.lmem<802816, pitch 512, bf16>], updates = [], rows = <128>, columns = <512>, params = {}} after [tiu-0] at "blocks.moe.mla.attention"
        g5.gdma {direction = "store", dram = <core*131072 + 47712903424>, lmem = <802816>, shape = [<128>, <512>], dram_strides = [<512>, <1>], lmem_strides = [<512>, <1>], element_type = bf16} after [vec-0] at "blocks.moe.mla.attention"
      }
      g5.cdma {kind = "dispatch", ins = [#g5.dram<47710019840, [64, 7168], strides [7168, 1], f8E4M3FN>, #g5.dram<47709169920, [64, 8], strides [8, 1], i32>], outs = [#g5.dram<47710478592, [8, 64, 7168], strides [458752, 7168, 1], f8E4M3FN>], params = {axis = "ep", capacity = "balanced"}} at "blocks.moe.moe.dispatch"
      g5.program() {cores = 64, op_name = "layer.grouped_matmul"} at "blocks.moe.moe.experts.gate_proj" {
        g5.loop g < <8> at "blocks.moe.moe.experts.gate_proj" {
          g5.gdma {direction = "load", dram = <core*32 + g*14680064 + layer*117440512 + 23775045888>, lmem = <mod(g.seq, 2)*229376>, shape = [<7168>, <32>], dram_strides = [<2048>, <1>], lmem_strides = [<32>, <1>], element_type = f8E4M3FN} after [tiu-2] at "blocks.moe.moe.experts.gate_proj"
          g5.loop m < <2> at "blocks.moe.moe.experts.gate_proj" {
            g5.gdma {direction = "load", dram = <g*458752 + m*229376 + 47710478592>, lmem = <mod(m.seq, 2)*229376 + 466944>, shape = [<32>, <7168>], dram_strides = [<7168>, <1>], lmem_strides = [<7168>, <1>], element_type = f8E4M3FN} after [tiu-1] at "blocks.moe.moe.experts.gate_proj"
            g5.tiu {acc = #g5.lmem<mod(m.seq, 2)*4096 + 458752, pitch 32, f32>, a = #g5.lmem<mod(m.seq, 2)*229376 + 466944, pitch 7168, f8E4M3FN>, b = #g5.lmem<mod(g.seq, 2)*229376, pitch 32, f8E4M3FN>, m = <32>, n = <32>, k = <7168>, accumulate = <0>, transpose_b = false} after [gdma-0, vec-1] at "blocks.moe.moe.experts.gate_proj"
            g5.vec {kind = "convert", ins = [#g5.lmem<mod(m.seq, 2)*4096 + 458752, pitch 32, f32>], outs = [#g5.lmem<mod(m.seq, 2)*2048 + 925696, pitch 32, bf16>], updates = [], rows = <32>, columns = <32>, params = {}} after [tiu-0, gdma-3] at "blocks.moe.moe.experts.gate_proj"
            g5.gdma {direction = "store", dram = <core*64 + g*262144 + m*131072 + 47714148608>, lmem = <mod(m.seq, 2)*2048 + 925696>, shape = [<32>, <32>], dram_strides = [<2048>, <1>], lmem_strides = [<32>, <1>], element_type = bf16} after [vec-0] at "blocks.moe.moe.experts.gate_proj"
          }
        }
      }
