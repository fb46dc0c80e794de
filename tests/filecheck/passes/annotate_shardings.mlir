// RUN: pmc opt %s -p "annotate-shardings{tp=2 pp=2 dp=4}" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{ep=2}" --verify-diagnostics | filecheck %s --check-prefix=DENSE

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

// DENSE: annotate-shardings: ep = 2, moe_tp = 1, but the model has no experts
