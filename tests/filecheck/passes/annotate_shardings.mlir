// RUN: pmc opt %s -p "annotate-shardings{tp=2 pp=2 dp=4}" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{ep=2}" --verify-diagnostics | filecheck %s --check-prefix=DENSE
// RUN: pmc opt %s -p "annotate-shardings{tp=2 cp=4 dp=2}" | filecheck %s --check-prefix=CP

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%t: !layer.tensor<[batch*q_len], i32>):
    %we = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[256, 64], bf16>
    %x = layer.embedding(%t, %we) at "embed" : !layer.tensor<[batch*q_len, 64], bf16>
    %y = layer.repeat 4 from 0 of 4 (%h = %x) at "blocks" : !layer.tensor<[batch*q_len, 64], bf16> {
      %wu = layer.weight() {axes = ["", "ffn"]} at "blocks.up_proj.weight" : !layer.tensor<[64, 128], bf16>
      %u = layer.matmul(%h, %wu) at "blocks.up_proj" : !layer.tensor<[batch*q_len, 128], bf16>
      %wd = layer.weight() {axes = ["ffn", ""]} at "blocks.down_proj.weight" : !layer.tensor<[128, 64], bf16>
      %d = layer.matmul(%u, %wd) at "blocks.down_proj" : !layer.tensor<[batch*q_len, 64], bf16>
      %r = layer.add(%h, %d) at "blocks.residual" : !layer.tensor<[batch*q_len, 64], bf16>
      layer.yield([%r]) at "blocks"
    }
    layer.return([%y]) at "m"
  }
  layer.program() {sym_name = "n", phase = "prefill"} at "n" {
  ^bb0(%k: !layer.tensor<[batch*q_len, 32], bf16>):
    %r = layer.rope(%k) {head_dim = 16, theta = 1.0e4, interleaved = false, q_len = <q_len>, kv_len = <kv_len>}
      at "rope" : !layer.tensor<[batch*q_len, 32], bf16>
    %cache = layer.state() {axes = ["batch", "position", "kv_heads"]} at "cache" : !layer.tensor<[batch, kv_len, 32], bf16>
    %c = layer.kv_append(%cache, %r) at "append" : !layer.tensor<[batch, kv_len, 32], bf16>
    %l = layer.last_token(%r) {q_len = <q_len>} at "last" : !layer.tensor<[batch, 32], bf16>
    layer.return([%l]) at "n"
  }
}

// Megatron: up by columns, down by rows; one pending sum after down, which the residual wants whole.
// CHECK:      dist.mesh = #dist.mesh<16 ranks, tp = 2 stride 1, dp = 4 stride 4, pp = 2 stride 2>
// CHECK:      %x = layer.embedding({{.*}}) {{.*}}, #dist.sharding<{{\[\[}}dp], []], partial [tp]>>
// CHECK:      %wu = layer.weight() {{.*}}, #dist.sharding<{{\[\[}}], [tp]]>>
// CHECK-NEXT: %u = layer.matmul(%h, %wu) {{.*}}, #dist.sharding<{{\[\[}}dp], [tp]]>>
// CHECK-NEXT: %wd = layer.weight() {{.*}}, #dist.sharding<{{\[\[}}tp], []]>>
// CHECK-NEXT: %d = layer.matmul(%u, %wd) {{.*}}, #dist.sharding<{{\[\[}}dp], []], partial [tp]>>
// CHECK-NEXT: [[S:%[0-9a-z]+]] = dist.reshard(%d) at "blocks.down_proj" : {{.*}}, #dist.sharding<{{\[\[}}dp], []]>>
// CHECK-NEXT: layer.add(%h, [[S]])

// DENSE: annotate-shardings: ep = 2, moe_tp = 1, moe_dp = 1, but the model has no experts

// A rank of cp has every fourth position of a sequence: its rows, its part of the cache, and one of four last rows.
// CP:         dist.mesh = #dist.mesh<16 ranks, tp = 2 stride 1, cp = 4 stride 2, dp = 2 stride 8, pp = 1 stride 8>
// CP:         %k: !layer.tensor<[batch*q_len, 32], bf16, #dist.sharding<{{\[\[}}dp, cp], []]>>
// CP-NEXT:    layer.rope(%k) {{.*}}q_len = <ceildiv(q_len, 4)>, kv_len = <ceildiv(kv_len, 4)>, stride = 4, first = <cp.rank>
// CP-NEXT:    layer.state() {{.*}} #dist.sharding<{{\[\[}}dp], [cp], [tp]]>>
// CP:         [[R:%[0-9a-z_]+]] = layer.last_token(%r) {q_len = <ceildiv(q_len, 4)>} at "last.of_rank" : !layer.tensor<[batch*4, 32], bf16, #dist.sharding<{{\[\[}}dp, cp], []]>>
// CP-NEXT:    [[G:%[0-9a-z_]+]] = dist.reshard([[R]]) at "last.of_rank" : !layer.tensor<[batch*4, 32], bf16, #dist.sharding<{{\[\[}}dp], []]>>
// CP-NEXT:    %l = layer.last_token([[G]]) {q_len = <4>} at "last" : !layer.tensor<[batch, 32], bf16, #dist.sharding<{{\[\[}}dp], []]>>
